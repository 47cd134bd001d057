//! `local:`, the private Postgres of a user: found, set up, started on first use, stopped a minute after the last.
//!
//! `acquire` gives a `Lease`; while any process holds one the server runs. A lease is a shared `flock`, so a process that is killed gives
//! it back. The server is started, watched and stopped by a keeper process (`keeper.rs`); directories and locks are in `place.rs`.
//! Nothing here makes the schema: `mount` and `init` do that over the DSN of the lease, as for any server.

mod account;
mod cluster;
mod keeper;
mod place;
mod programs;

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::cluster::{Cluster, NAME};
pub use self::keeper::run_if_asked as keeper_if_asked;
use self::place::{Place, lock_until};

/// How long one may wait for others that start or stop the server, and for its recovery after a crash.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// How often a starting server is asked.
const POLL: Duration = Duration::from_millis(20);

/// Is this DSN `local:` or `local:/path`?
pub fn is_local(dsn: &str) -> bool {
    dsn.starts_with("local:")
}

/// Makes sure that the private server named by a `local:` DSN runs, setting it up on first use, and holds it until the lease is dropped.
/// Blocks, at most about two minutes, normally 50 ms, and 2 s the first time. To be called in the process that uses the server, after it has detached.
pub fn acquire(dsn: &str) -> Result<Lease> {
    acquire_with(dsn, &this_program()?)
}

/// As `acquire`, with the path of the `pgfiles` program to run as the keeper (a test is another program).
pub fn acquire_with(dsn: &str, program: &Path) -> Result<Lease> {
    let mut place = Place::parse(dsn)?;
    let account = account::Account::of_server(&place.data())?;
    let cluster = Cluster::at(place.clone())?; // says what is missing before anything is made
    place.create(&account)?;
    place.base = place.base.canonicalize()?;
    let until = Instant::now() + START_PATIENCE;

    let in_use = place.lock_file("use.lock")?;
    ensure!(lock_until(&in_use, false, until)?, "the private Postgres in {} does not stop", place.base.display());
    keeper::mark_use(&in_use)?;
    let start = place.lock_file("start.lock")?;
    ensure!(lock_until(&start, true, until)?, "the private Postgres in {} does not start", place.base.display());
    let cluster = Cluster { place: place.clone(), ..cluster };
    cluster.create_data()?;
    if place.is_free("keeper.lock")? {
        keeper::spawn(program, &place)?;
    }
    await_answer(&cluster, until)?;
    Ok(Lease { _in_use: in_use, socket_dir: place.socket_dir(&account), log: place.log(), place })
}

fn await_answer(cluster: &Cluster, until: Instant) -> Result<()> {
    let socket = cluster.place.socket(&cluster.account);
    loop {
        match UnixStream::connect(&socket) {
            Ok(_) => return Ok(()),
            Err(e) if Instant::now() >= until => {
                let log = cluster.place.log();
                bail!("the private Postgres does not answer at {} ({e}); see {}", socket.display(), log.display())
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// The program itself, also when its file was replaced or removed meanwhile.
fn this_program() -> Result<PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok(PathBuf::from("/proc/self/exe"));
    }
    std::env::current_exe().context("cannot find the pgfiles program")
}

/// A use of the private server: it runs at least until this is dropped, or its process ends.
#[derive(Debug)]
pub struct Lease {
    _in_use: File,
    socket_dir: PathBuf,
    log: PathBuf,
    place: Place,
}

impl Lease {
    /// The libpq key-value string to connect with.
    pub fn dsn(&self) -> String {
        let host = self.socket_dir.to_string_lossy().replace('\\', "\\\\").replace('\'', "\\'");
        format!("host='{host}' port=5432 user={NAME} dbname={NAME}")
    }

    /// The server's log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The directory that holds data, socket and log.
    pub fn base(&self) -> &Path {
        &self.place.base
    }
}
