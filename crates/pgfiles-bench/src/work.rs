//! The workloads. Each takes an empty place, prepares what it needs, and measures one thing or a few.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::measure::{Measure, each};
use crate::place::{Place, run};

const MIB: usize = 1 << 20;
/// Files of each package that npm installs.
const NPM_FILES: usize = 20;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Single operations.
    pub ops: usize,
    /// Files of the tree, in directories of 100.
    pub tree: usize,
    /// Files of the archive that is unpacked, and of the repository that is cloned.
    pub untar: usize,
    pub clone: usize,
    /// Files that npm installs.
    pub npm: usize,
    /// Bytes of the large file, and of the one that is written at random places.
    pub large: usize,
    pub random: usize,
    /// Names of the large directory.
    pub names: usize,
    /// Versions of a key that has many.
    pub versions: usize,
    /// Transactions of SQLite.
    pub transactions: usize,
    /// How long a mount is left alone before its connections are counted; `None`: they are not.
    pub idle: Option<Duration>,
    /// Network delay there and back.
    pub delay: Duration,
}

impl Sizes {
    pub const FULL: Sizes = Sizes {
        ops: 2_000,
        tree: 10_000,
        untar: 5_000,
        clone: 3_000,
        npm: 2_000,
        large: 1 << 30,
        random: 256 << 20,
        names: 100_000,
        versions: 1_000,
        transactions: 300,
        idle: Some(Duration::from_secs(60)),
        delay: Duration::ZERO,
    };
    pub const QUICK: Sizes = Sizes {
        ops: 300,
        tree: 1_000,
        untar: 500,
        clone: 300,
        npm: 200,
        large: 64 << 20,
        random: 16 << 20,
        names: 3_000,
        versions: 100,
        transactions: 40,
        idle: None,
        delay: Duration::ZERO,
    };
}

/// What a workload found: names of rows and their results, with how many operations that were.
pub type Found = Vec<(&'static str, Measure, usize)>;

/// A workload.
pub type Work = fn(&mut Place<'_>, &Sizes, &Path) -> Result<Found>;

/// All, by name. The path is a directory of the machine with what they read: see [`prepare`].
pub const ALL: [(&str, Work); 16] = [
    ("small", small),
    ("threads", threads),
    ("mounts", mounts),
    ("names", names),
    ("replace", replace),
    ("tree", tree),
    ("large", large),
    ("random", random),
    ("untar", untar),
    ("git", git),
    ("npm", npm),
    ("sqlite", sqlite),
    ("directory", directory),
    ("versions", versions),
    ("idle", idle),
    ("nfs", crate::nfs::nfs),
];

/// Those that show what `writeback` makes of a network delay.
pub const BEHIND: [&str; 3] = ["untar", "git", "npm"];

fn timed(mut operation: impl FnMut() -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    operation()?;
    Ok(began.elapsed().as_secs_f64())
}

fn times(count: usize, mut operation: impl FnMut(usize) -> Result<()>) -> Result<Measure> {
    let taken: Result<Vec<f64>> = (0..count).map(|n| timed(|| operation(n))).collect();
    Ok(each(taken?))
}

/// A row of one thing, with the round trips that it took on average. What goes on behind is not waited for here.
fn counted(
    place: &Place<'_>,
    name: &'static str,
    count: usize,
    measure: impl FnOnce() -> Result<Measure>,
) -> Result<(&'static str, Measure, usize)> {
    let before = place.round_trips()?;
    let mut found = measure()?;
    if place.kind.is_pgfiles() {
        found.round_trips = Some(place.round_trips()?.saturating_sub(before) as f64 / count as f64);
    }
    Ok((name, found, count))
}

fn create(path: &Path, bytes: &[u8], sync: bool) -> Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    if sync {
        file.sync_all()?;
    }
    Ok(())
}

/// What the workloads read: an archive, and a repository.
pub fn prepare(dir: &Path, sizes: &Sizes) -> Result<()> {
    let files = dir.join("files");
    for n in 0..sizes.untar {
        let sub = files.join(format!("d{:03}", n / 50));
        fs::create_dir_all(&sub)?;
        fs::write(sub.join(format!("f{n:05}")), vec![b'a' + (n % 26) as u8; 200 + n * 37 % 8_000])?;
    }
    run(Command::new("tar").arg("-C").arg(&files).arg("-cf").arg(dir.join("files.tar")).arg("."))?;
    fs::remove_dir_all(&files)?;
    let repository = dir.join("repository");
    for n in 0..sizes.clone {
        let sub = repository.join(format!("src/m{:02}", n % 60));
        fs::create_dir_all(&sub)?;
        fs::write(sub.join(format!("file{n:04}.rs")), format!("// {n}\n").repeat(20 + n % 200))?;
    }
    let git = |args: &[&str]| run(quiet_git().arg("-C").arg(&repository).args(args));
    git(&["init", "-q", "-b", "main"])?;
    git(&["add", "."])?;
    git(&["commit", "-q", "-m", "all"])?;
    // Packages that are there already: nothing is fetched.
    let packages = dir.join("npm");
    let mut wanted = serde_json::Map::new();
    for nth in 0..sizes.npm / NPM_FILES {
        let name = format!("package{nth:03}");
        let lib = packages.join(&name).join("package/lib");
        fs::create_dir_all(&lib)?;
        let about = serde_json::json!({"name": name, "version": "1.0.0", "main": "lib/f00.js"});
        fs::write(lib.with_file_name("package.json"), about.to_string())?;
        for n in 1..NPM_FILES {
            fs::write(lib.join(format!("f{n:02}.js")), format!("exports.f{n} = {nth};\n").repeat(20 + n * 7 % 100))?;
        }
        let archive = packages.join(format!("{name}.tgz"));
        run(Command::new("tar").arg("-C").arg(packages.join(&name)).arg("-czf").arg(&archive).arg("package"))?;
        wanted.insert(name, format!("file:{}", archive.display()).into());
    }
    fs::write(
        packages.join("package.json"),
        serde_json::json!({"name": "bench", "version": "1.0.0", "dependencies": wanted}).to_string(),
    )?;
    Ok(())
}

fn quiet_git() -> Command {
    let mut command = Command::new("git");
    for (name, value) in [("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_TERMINAL_PROMPT", "0")] {
        command.env(name, value);
    }
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "bench").env(format!("GIT_{who}_EMAIL"), "bench@example.org");
    }
    command.args(["-c", "gc.auto=0", "-c", "safe.directory=*"]);
    command
}

fn small(place: &mut Place<'_>, sizes: &Sizes, _given: &Path) -> Result<Found> {
    let (count, block) = (sizes.ops, vec![b'x'; 4096]);
    let dir = place.root();
    let path = |n: usize| dir.join(format!("f{n:06}"));
    let mut found = vec![counted(place, "create 4 KiB", count, || times(count, |n| create(&path(n), &block, false)))?];
    place.settle()?;
    let synced = |n: usize| create(&dir.join(format!("s{n:06}")), &block, true);
    found.push(counted(place, "create 4 KiB + fsync", count, || times(count, synced))?);
    let stat = |n: usize| {
        ensure!(path(n).symlink_metadata()?.len() == 4096, "another size");
        Ok(())
    };
    let read = |n: usize| {
        let mut bytes = Vec::with_capacity(4096);
        File::open(path(n))?.read_to_end(&mut bytes)?;
        ensure!(bytes.len() == 4096, "{} bytes", bytes.len());
        Ok(())
    };
    place.cold()?;
    found.push(counted(place, "lstat cold", count, || times(count, stat))?);
    found.push(counted(place, "lstat warm", count, || times(count, stat))?);
    place.cold()?;
    found.push(counted(place, "open, read, close 4 KiB cold", count, || times(count, read))?);
    found.push(counted(place, "open, read, close 4 KiB warm", count, || times(count, read))?);
    fs::read_dir(&dir)?.count();
    let absent = |n: usize| {
        ensure!(dir.join(format!("absent{n:06}")).symlink_metadata().is_err(), "it is there");
        Ok(())
    };
    found.push(counted(place, "stat of an absent name", count, || times(count, absent))?);
    Ok(found)
}

/// A thread for each directory, which may be the same one, creates that many files of 4 KiB. In seconds.
fn side_by_side(dirs: &[PathBuf], each: usize) -> Result<f64> {
    let block = vec![b'x'; 4096];
    timed(|| {
        std::thread::scope(|scope| {
            let workers: Vec<_> = dirs
                .iter()
                .enumerate()
                .map(|(worker, dir)| {
                    let block = &block;
                    scope.spawn(move || (0..each).try_for_each(|n| create(&dir.join(format!("t{worker}-{n}")), block, false)))
                })
                .collect();
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
        })
    })
}

fn threads(place: &mut Place<'_>, sizes: &Sizes, _given: &Path) -> Result<Found> {
    let each = sizes.ops / 8;
    let taken = side_by_side(&vec![place.root(); 8], each)?;
    Ok(vec![("create 4 KiB, 8 threads, per file", Measure::one(taken / (each * 8) as f64), each * 8)])
}

/// Eight mounts of as many prefixes, with a thread on each.
fn mounts(place: &mut Place<'_>, sizes: &Sizes, _given: &Path) -> Result<Found> {
    let each = sizes.ops / 8;
    let others = (0..8).map(|nth| place.beside(nth)).collect::<Result<Vec<_>>>()?;
    let taken = side_by_side(&others.iter().map(Place::root).collect::<Vec<_>>(), each)?;
    // As a list of two, for what is counted of a single row is counted on the place itself, which did nothing.
    Ok(vec![
        ("create 4 KiB on 8 mounts, per file", Measure::one(taken / (each * 8) as f64), each * 8),
        ("create 4 KiB on 8 mounts, all", Measure::one(taken), 1),
    ])
}

fn names(place: &mut Place<'_>, sizes: &Sizes, _given: &Path) -> Result<Found> {
    let (count, dir) = (sizes.ops, place.root());
    let path = |n: usize| dir.join(format!("f{n:06}"));
    let moved = |n: usize| dir.join(format!("g{n:06}"));
    for n in 0..count {
        create(&path(n), b"some bytes", false)?;
    }
    place.settle()?;
    place.cold()?;
    fs::read_dir(&dir)?.count();
    let chmod = |n: usize| Ok(fs::set_permissions(path(n), fs::Permissions::from_mode(0o600))?);
    Ok(vec![
        counted(place, "chmod", count, || times(count, chmod))?,
        counted(place, "rename a file", count, || times(count, |n| Ok(fs::rename(path(n), moved(n))?)))?,
        counted(place, "unlink", count, || times(count, |n| Ok(fs::remove_file(moved(n))?)))?,
        counted(place, "mkdir", count, || times(count, |n| Ok(fs::create_dir(dir.join(format!("d{n:06}")))?)))?,
    ])
}

fn replace(place: &mut Place<'_>, sizes: &Sizes, _given: &Path) -> Result<Found> {
    let (dir, block) = (place.root(), vec![b'x'; 4096]);
    create(&dir.join("file"), &block, false)?;
    place.settle()?;
    let save = |n: usize| {
        let temporary = dir.join(format!(".file.{n}"));
        create(&temporary, &block, false)?;
        Ok(fs::rename(temporary, dir.join("file"))?)
    };
    Ok(vec![("write a temporary file, rename it over", times(sizes.ops, save)?, sizes.ops)])
}

fn shell(dir: &Path, text: &str) -> Result<()> {
    run(Command::new("sh").current_dir(dir).args(["-c", text]))
}

fn tree(place: &mut Place<'_>, sizes: &Sizes, _given: &Path) -> Result<Found> {
    let (dir, count) = (place.root(), sizes.tree);
    for n in 0..count {
        let sub = dir.join(format!("tree/d{:03}", n / 100));
        if n % 100 == 0 {
            fs::create_dir_all(&sub)?;
        }
        create(&sub.join(format!("f{n:06}")), format!("{n} of many lines\n").repeat(60).as_bytes(), false)?;
    }
    place.settle()?;
    let mut found = Vec::new();
    for (name, command) in [
        ("find, cold", "find tree >/dev/null"),
        ("ls -lR, cold", "ls -lR tree >/dev/null"),
        ("tar c, cold", "tar -cf - tree | wc -c >/dev/null"),
        ("grep -r, cold", "! grep -rq 'no such line' tree"),
    ] {
        place.cold()?;
        found.push(counted(place, name, count, || Ok(Measure::one(timed(|| shell(&dir, command))?)))?);
    }
    let rename = || timed(|| Ok(fs::rename(dir.join("tree"), dir.join("moved"))?)).map(Measure::one);
    found.push(counted(place, "rename a directory of the tree", 1, rename)?);
    let remove = || timed(|| shell(&dir, "rm -rf moved")).map(Measure::one);
    found.push(counted(place, "rm -rf of the tree", count, remove)?);
    Ok(found)
}

fn large(place: &mut Place<'_>, sizes: &Sizes, _given: &Path) -> Result<Found> {
    let (path, mib) = (place.root().join("large"), sizes.large / MIB);
    let mut block = vec![0_u8; MIB];
    let write = timed(|| {
        let mut file = File::create_new(&path)?;
        for n in 0..mib {
            block.fill(n as u8 | 1);
            file.write_all(&block)?;
        }
        Ok(file.sync_all()?)
    })?;
    let mut found = vec![("write a large file + fsync", Measure::one(mib as f64 / write), mib)];
    if place.kind.is_pgfiles() {
        found.push(("memory of the daemon", Measure::one(place.memory_kib("VmHWM")? as f64 / 1024.0), 1));
    }
    place.cold()?;
    for name in ["read a large file cold", "read a large file warm"] {
        let read = timed(|| {
            let mut file = File::open(&path)?;
            let mut bytes = 0;
            loop {
                match file.read(&mut block)? {
                    0 => break,
                    more => bytes += more,
                }
            }
            ensure!(bytes == sizes.large, "{bytes} bytes");
            Ok(())
        })?;
        found.push((name, Measure::one(mib as f64 / read), mib));
    }
    Ok(found)
}

fn random(place: &mut Place<'_>, sizes: &Sizes, _given: &Path) -> Result<Found> {
    let (path, count) = (place.root().join("random"), sizes.ops.min(500));
    let block = vec![b'x'; MIB];
    let mut file = File::create_new(&path)?;
    for _ in 0..sizes.random / MIB {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    drop(file);
    let mut file = OpenOptions::new().write(true).open(&path)?;
    let blocks = (sizes.random / 4096) as u64;
    let overwrite = |n: usize| {
        file.seek(SeekFrom::Start((n as u64).wrapping_mul(2_654_435_761) % blocks * 4096))?;
        file.write_all(&block[..4096])?;
        Ok(file.sync_data()?)
    };
    let overwritten = counted(place, "overwrite 4 KiB at random + fdatasync", count, || times(count, overwrite))?;
    let mut file = OpenOptions::new().append(true).open(&path)?;
    let append = |_| {
        file.write_all(&block[..100])?;
        Ok(file.sync_data()?)
    };
    Ok(vec![overwritten, counted(place, "append 100 B + fdatasync", count, || times(count, append))?])
}

fn untar(place: &mut Place<'_>, sizes: &Sizes, given: &Path) -> Result<Found> {
    let archive = given.join("files.tar");
    let taken = timed(|| run(Command::new("tar").arg("-C").arg(place.root()).arg("-xf").arg(&archive)))?;
    Ok(vec![("untar", Measure::one(taken), sizes.untar)])
}

fn git(place: &mut Place<'_>, sizes: &Sizes, given: &Path) -> Result<Found> {
    let (from, to) = (given.join("repository"), place.root().join("clone"));
    let clone = timed(|| run(quiet_git().args(["clone", "-q", "--no-hardlinks"]).arg(&from).arg(&to)))?;
    let status = || timed(|| run(quiet_git().arg("-C").arg(&to).args(["status", "--porcelain"])));
    place.settle()?;
    status()?;
    let warm = status()?;
    place.cold()?;
    let cold = status()?;
    place.cold()?;
    let listed = timed(|| shell(&to, "ls -lR . >/dev/null"))?;
    Ok(vec![
        ("git clone", Measure::one(clone), sizes.clone),
        ("git status warm", Measure::one(warm), 1),
        ("git status after a remount", Measure::one(cold), 1),
        ("ls -lR of the clone, cold", Measure::one(listed), 1),
    ])
}

fn npm(place: &mut Place<'_>, sizes: &Sizes, given: &Path) -> Result<Found> {
    let project = place.root().join("project");
    fs::create_dir(&project)?;
    fs::copy(given.join("npm/package.json"), project.join("package.json"))?;
    let mut install = Command::new("npm");
    install.current_dir(&project).args(["install", "--offline", "--no-audit", "--no-fund", "--no-update-notifier", "--cache"]);
    install.arg(given.join("npm/cache"));
    let taken = timed(|| run(&mut install))?;
    ensure!(project.join("node_modules/package000/lib/f01.js").exists(), "npm installed nothing");
    Ok(vec![("npm install", Measure::one(taken), sizes.npm)])
}

/// What is done with files of one version, and with those of many.
fn versions(place: &mut Place<'_>, sizes: &Sizes, _given: &Path) -> Result<Found> {
    const FILES: usize = 100;
    if !place.kind.is_pgfiles() {
        return Ok(vec![]);
    }
    let mut found = Vec::new();
    let rows = [
        ["ls -l, per name, 1 version a key, cold", "read, 1 version a key, cold", "save, 1 version a key"],
        ["ls -l, per name, many versions a key, cold", "read, many versions a key, cold", "save, many versions a key"],
    ];
    for (count, [listed, read, saved]) in [1, sizes.versions].into_iter().zip(rows) {
        let (dir, at) = (place.root().join(format!("of-{count}")), format!("work/of-{count}"));
        fs::create_dir(&dir)?;
        let path = |n: usize| dir.join(format!("f{n:03}"));
        for first in (0..count).step_by(100) {
            let mut lines = String::new();
            for version in first..count.min(first + 100) {
                for n in 0..FILES {
                    let put = serde_json::json!({"op": "put", "path": format!("{at}/f{n:03}"), "data": format!("{version} ").repeat(50)});
                    lines.push_str(&format!("{put}\n"));
                }
            }
            place.batch(&lines)?;
        }
        place.cold()?;
        let taken = timed(|| {
            let sizes: Result<u64, std::io::Error> = fs::read_dir(&dir)?.map(|entry| Ok(entry?.metadata()?.len())).sum();
            ensure!(sizes? > 0, "the files are empty");
            Ok(())
        })?;
        found.push((listed, Measure::one(taken / FILES as f64), FILES));
        place.cold()?;
        let taken = timed(|| (0..FILES).try_for_each(|n| fs::read(path(n)).map(drop).context("reading")))?;
        found.push((read, Measure::one(taken / FILES as f64), FILES));
        found.push((saved, times(FILES, |n| Ok(fs::write(path(n), b"saved once more")?))?, FILES));
    }
    Ok(found)
}

fn sqlite(place: &mut Place<'_>, sizes: &Sizes, _given: &Path) -> Result<Found> {
    let program = r#"
import sqlite3, sys, time
path, mode, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
db = sqlite3.connect(path, isolation_level=None)
db.execute("PRAGMA journal_mode=" + mode).fetchall()
db.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)")
for n in range(count):
    began = time.perf_counter()
    db.execute("INSERT INTO t(b) VALUES (?)", ("x" * 100,))
    print(time.perf_counter() - began)
"#;
    let mut found = Vec::new();
    for (name, mode) in [("SQLite transaction, DELETE", "DELETE"), ("SQLite transaction, WAL", "WAL")] {
        let path = place.root().join(format!("{mode}.db"));
        let count = sizes.transactions.to_string();
        let output = Command::new("python3").args(["-c", program]).arg(path).args([mode, &count]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let taken: Result<Vec<f64>, _> = String::from_utf8_lossy(&output.stdout).lines().map(str::parse).collect();
        found.push((name, each(taken.context("what python printed")?), sizes.transactions));
    }
    Ok(found)
}

fn directory(place: &mut Place<'_>, sizes: &Sizes, _given: &Path) -> Result<Found> {
    let mut found = Vec::new();
    let rows = [
        ["create in a directory of 1,000", "ls of 1,000, per name, cold", "ls -l of 1,000, per name, cold"],
        ["create in a large directory", "ls of a large one, per name, cold", "ls -l of a large one, per name, cold"],
    ];
    for (count, [created, listed, attributes]) in [1_000, sizes.names].into_iter().zip(rows) {
        let dir = place.root().join(format!("of-{count}"));
        fs::create_dir(&dir)?;
        let taken = timed(|| (0..count).try_for_each(|n| create(&dir.join(format!("{n:06}")), b"", false)))?;
        found.push((created, Measure::one(taken / count as f64), count));
        place.settle()?;
        place.cold()?;
        let taken = timed(|| {
            ensure!(fs::read_dir(&dir)?.count() == count, "names are missing");
            Ok(())
        })?;
        found.push((listed, Measure::one(taken / count as f64), count));
        place.cold()?;
        // Not the program: it would look up the user and group names too.
        let taken = timed(|| {
            let sizes: Result<u64, std::io::Error> = fs::read_dir(&dir)?.map(|entry| Ok(entry?.metadata()?.len())).sum();
            ensure!(sizes? == 0, "the files are not empty");
            Ok(())
        })?;
        found.push((attributes, Measure::one(taken / count as f64), count));
    }
    Ok(found)
}

fn idle(place: &mut Place<'_>, sizes: &Sizes, _given: &Path) -> Result<Found> {
    if !place.kind.is_pgfiles() {
        return Ok(vec![]);
    }
    let mounted = place.mount_to_ls()?.as_secs_f64();
    let memory = place.memory_kib("VmRSS")? as f64 / 1024.0;
    let mut found = vec![("mount to first ls", Measure::one(mounted), 1), ("memory of an idle mount", Measure::one(memory), 1)];
    if let Some(idle) = sizes.idle {
        let pid = place.pid()?;
        std::thread::sleep(idle);
        found.push(("connections of an idle mount", Measure::one(Place::connections(pid)? as f64), 1));
    }
    Ok(found)
}
