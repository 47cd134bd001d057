//! The benchmark: pgfiles in its default mode and in `writeback`, a plain directory (E), a filesystem in memory on the same
//! FUSE library (F), and Postgres alone (P), in one sitting on one machine. Prints a table and keeps a JSON.

mod measure;
mod nfs;
mod place;
mod postgres;
mod rows;
mod work;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use pgfiles_testkit::postgres::{Options, Postgres};
use pgfiles_testkit::slow_link::{self, Pace};

use measure::Measure;
use place::{Ground, Kind, Place, run};
use rows::Results;
use work::{Found, Sizes, Work};

/// Measures pgfiles beside what it stands on. Takes root, for the kernel's caches.
#[derive(Debug, Parser)]
struct Args {
    /// Small sizes and one repetition: about two minutes.
    #[arg(long)]
    quick: bool,
    /// Only these workloads, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these places: E, F, pgfiles, writeback, and with --delay-ms near, which is writeback without it.
    #[arg(long, value_delimiter = ',')]
    places: Vec<String>,
    /// How often each is done; the one in the middle counts. By default 3, with --quick 1.
    #[arg(long)]
    repeat: Option<usize>,
    /// Network delay between pgfiles and the server, in milliseconds there and back.
    #[arg(long, default_value_t = 0.0)]
    delay_ms: f64,
    /// Rows of 1,000 other prefixes that the table holds before anything is measured.
    #[arg(long, default_value_t = 0)]
    rows: u64,
    /// All on one CPU: without it the scheduler decides whether a request of FUSE costs 10 µs or 50, minute by minute, so
    /// ratios of single warm operations to F mean little.
    #[arg(long)]
    one_cpu: bool,
    /// Where mount points, the plain directory and caches are made: a directory of this machine's disk.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// Where the JSON goes.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

/// Round trips of a mount so far; rows and bytes that its prefix holds.
type Counts = (u64, i64, i64);

/// One workload on one place, as often as it is repeated; the rows that it gave.
fn repeated(
    ground: &Ground,
    kind: Kind,
    work: Work,
    sizes: &Sizes,
    repeat: usize,
    counted: &mut dyn FnMut(&Place<'_>) -> Result<Counts>,
) -> Result<Vec<(&'static str, Measure)>> {
    let mut all: Vec<(&'static str, Vec<Measure>)> = Vec::new();
    for _ in 0..repeat {
        static NTH: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let nth = NTH.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut place = Place::new(ground, kind, nth)?;
        let before = counted(&place)?;
        let found: Found = work(&mut place, sizes, &ground.dir.join("given"))?;
        let after = counted(&place)?;
        // Where a workload is one row on one mount, what it cost the server is that row's.
        let single = found.len() == 1 && kind.is_pgfiles();
        for (name, mut measure, operations) in found {
            if single {
                let per = |difference: f64| Some(difference / operations as f64);
                measure.round_trips = measure.round_trips.or_else(|| per(after.0.saturating_sub(before.0) as f64));
                (measure.rows, measure.bytes) = (per((after.1 - before.1) as f64), per((after.2 - before.2) as f64));
            }
            match all.iter_mut().find(|(row, _)| *row == name) {
                Some((_, measures)) => measures.push(measure),
                None => all.push((name, vec![measure])),
            }
        }
    }
    Ok(all.into_iter().filter_map(|(name, measures)| Some((name, measure::median(measures)?))).collect())
}

/// Ctrl-C, or a polite end.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        },
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("signals are not heard: {error}");
            std::future::pending().await
        }
    }
}

/// What ran where.
fn machine(server: &Postgres) -> String {
    let text = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).trim().to_owned()
    };
    // All of the machine, also where --one-cpu leaves one.
    let cores = text("nproc", &["--all"]);
    format!("{cores} processors, {}, Postgres {}", text("uname", &["-sr"]), server.major())
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(rustix::process::geteuid().is_root(), "the kernel's caches are emptied by root only: run it as root");
    let unknown = |name: &&String| !work::ALL.iter().any(|(known, _)| known == name);
    if let Some(name) = args.only.iter().find(unknown) {
        let known: Vec<_> = work::ALL.iter().map(|(name, _)| *name).collect();
        anyhow::bail!("no workload {name}: there are {}", known.join(", "));
    }
    if let Some(name) = args.places.iter().find(|name| !Kind::ALL.iter().any(|kind| kind.name() == *name)) {
        anyhow::bail!("no place {name}: there are E, F, pgfiles, writeback, near");
    }
    let delay = Duration::from_secs_f64(args.delay_ms / 1e3);
    let sizes = Sizes { delay, ..if args.quick { Sizes::QUICK } else { Sizes::FULL } };
    if args.one_cpu {
        // Before any thread or program is started: all inherit it.
        let mut first = rustix::thread::CpuSet::new();
        first.set(0);
        rustix::thread::sched_setaffinity(None, &first).context("--one-cpu")?;
    }
    let repeat = args.repeat.unwrap_or(if args.quick { 1 } else { 3 }).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // The testkit's server is a small one; this is what Postgres comes with.
    let conf = vec![("shared_buffers".to_owned(), "128MB".to_owned())];
    let server = Postgres::start(Options { fsync: true, max_connections: 100, conf, ..Options::default() });
    let database = runtime.block_on(server.database());
    let dsn = database.dsn_tcp();
    let through = match args.delay_ms > 0.0 {
        true => {
            let port = slow_link::start(server.port(), Pace::Late(delay))?;
            dsn.replace(&format!(":{}", server.port()), &format!(":{port}"))
        }
        false => dsn.clone(),
    };
    std::fs::create_dir_all(&args.dir)?;
    let dir = tempfile::Builder::new().prefix("run-").tempdir_in(&args.dir)?;
    let own = std::env::current_exe()?;
    let bin = own.parent().context("a program has a directory")?.to_owned();
    ensure!(bin.join("pgfiles").exists(), "no pgfiles beside {}: cargo build --release", own.display());
    let ground = Ground { dir: dir.path().canonicalize()?, bin, dsn: through, near: dsn.clone() };
    let abandoned = ground.dir.clone();
    runtime.spawn(async move {
        stopped().await;
        eprintln!("stopped: taking away the mounts");
        if let Err(error) = place::abandon(&abandoned) {
            eprintln!("{error:#}");
        }
        // The server ends with this process.
        std::process::exit(130);
    });
    std::fs::create_dir_all(ground.dir.join("given"))?;
    work::prepare(&ground.dir.join("given"), &sizes)?;
    eprintln!("{}", machine(&server));
    let client = runtime.block_on(postgres::connect(&dsn))?;
    if args.rows > 0 {
        eprintln!("{} rows of others", args.rows);
        runtime.block_on(postgres::others(&client, args.rows))?;
    }
    run(Command::new(ground.bin.join("pgfiles")).args(["init", &dsn]))?;
    if args.rows > 0 {
        runtime.block_on(client.batch_execute("VACUUM ANALYZE pgfiles"))?;
    }

    let mut results = Results::default();
    eprintln!("Postgres alone");
    let alone = runtime.block_on(postgres::measure(&ground.dsn, sizes.ops, sizes.large))?;
    results.found.extend(alone.into_iter().map(|(name, measure)| ((name.to_owned(), "P".to_owned()), measure)));
    let mut failed = Vec::new();
    for (name, work) in work::ALL.iter().filter(|(name, _)| args.only.is_empty() || args.only.iter().any(|only| only == name)) {
        for kind in Kind::ALL {
            let is_left_out = !args.places.is_empty() && !args.places.iter().any(|place| place == kind.name());
            if is_left_out || kind == Kind::Near && (delay.is_zero() || !work::BEHIND.contains(name)) {
                continue;
            }
            eprintln!("{name} on {}", kind.name());
            let mut counted = |place: &Place<'_>| {
                if !kind.is_pgfiles() {
                    return Ok((0, 0, 0));
                }
                place.settle()?;
                let (rows, bytes) = runtime.block_on(postgres::rows(&client, place.prefix()))?;
                Ok((place.round_trips()?, rows, bytes))
            };
            match repeated(&ground, kind, *work, &sizes, repeat, &mut counted) {
                Ok(found) => {
                    let found = found.into_iter().map(|(row, measure)| ((row.to_owned(), kind.name().to_owned()), measure));
                    results.found.extend(found);
                }
                Err(error) => {
                    eprintln!("{name} on {} failed: {error:#}", kind.name());
                    failed.push(format!("{name} on {}: {error:#}", kind.name()));
                }
            }
        }
    }
    let cpus = if args.one_cpu { ", all on one CPU" } else { "" };
    println!(
        "{}{cpus}, {repeat} repetitions, network delay {} ms, {} rows of others\n",
        machine(&server),
        args.delay_ms,
        args.rows
    );
    println!("{}", rows::table(&results, &sizes));
    let json: Vec<_> = results
        .found
        .iter()
        .map(|((row, whose), measure)| serde_json::json!({"row": row, "whose": whose, "result": measure}))
        .collect();
    let json = serde_json::json!({"machine": machine(&server), "quick": args.quick, "one_cpu": args.one_cpu, "delay_ms": args.delay_ms, "rows": args.rows,
        "repeat": repeat, "results": json, "failed": failed});
    std::fs::write(&args.json, serde_json::to_vec_pretty(&json)?)?;
    ensure!(failed.is_empty(), "{} workloads failed:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}
