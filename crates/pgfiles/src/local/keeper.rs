//! The keeper: one process per private server, its parent. It starts the server, starts it again if it dies while in use, and stops it some
//! time after the last use. It is the hidden command `pgfiles local-keeper BASE SECONDS`, in a session of its own, so that neither Ctrl-C
//! nor the end of the mount that started it ends it. If it is killed itself the server runs on, and the next user starts another keeper.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use super::account::plain_environment;
use super::cluster::{Cluster, open_log};
use super::place::{Place, try_lock};

/// First argument that makes the program a keeper.
pub const COMMAND: &str = "local-keeper";
/// After a server that lived shorter than this, the next start waits as long.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// After so many short lives in a row the keeper gives up.
const SHORT_LIVES_MAX: u32 = 5;

/// Starts a keeper and waits until its server answers. The caller holds `use.lock` and `start.lock`, and no keeper lives.
pub fn spawn(program: &Path, place: &Place) -> Result<()> {
    let mut command = Command::new(program);
    plain_environment(&mut command);
    command.arg0("pgfiles").arg(COMMAND).arg(&place.base).arg(place.stop_after.as_secs_f64().to_string());
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(open_log(place)?);
    let mut child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
    let mut said = String::new();
    BufReader::new(child.stdout.take().context("no pipe")?).read_line(&mut said)?;
    match said.trim_end().split_once(' ') {
        Some(("error:", reason)) => {
            let _ = child.wait();
            bail!("{}", reason.replace("\\n", "\n"))
        }
        _ if said == "ready\n" => Ok(()),
        _ => bail!("the keeper of the private Postgres ended at once; see {}", place.log().display()),
    }
}

/// Is this program called as a keeper? Then does that job and returns the exit code. To be called before anything else in `main`.
pub fn run_if_asked(mut args: impl Iterator<Item = OsString>) -> Option<i32> {
    if args.nth(1)? != COMMAND {
        return None;
    }
    let (base, seconds) = (args.next()?, args.next()?);
    let seconds: f64 = seconds.to_str()?.parse().ok()?;
    let place = Place { base: PathBuf::from(base), stop_after: Duration::try_from_secs_f64(seconds).ok()? };
    // A lock or a pipe of the program that used the server first must not live as long as the server.
    crate::daemon::close_inherited();
    // In a session of our own; fails only when we lead one already.
    let _ = rustix::process::setsid();
    let done = keep(place);
    if let Err(error) = &done {
        let mut out = std::io::stdout();
        let _ = writeln!(out, "error: {}", format!("{error:#}").replace('\n', "\\n"));
    }
    Some(i32::from(done.is_err()))
}

fn keep(place: Place) -> Result<()> {
    let keeper = place.lock_file("keeper.lock")?;
    if !try_lock(&keeper, true)? {
        bail!("another keeper lives");
    }
    let server =
        Arc::new(Server { cluster: Cluster::at(place.clone())?, child: Mutex::new(None), stopping: AtomicBool::new(false) });
    server.start()?;
    answer_ready()?;
    let watched = server.clone();
    std::thread::Builder::new().name("watch-server".into()).spawn(move || watched.watch())?;
    let in_use = await_idle(&place)?;
    server.stopping.store(true, Ordering::SeqCst);
    if let Err(error) = server.cluster.stop() {
        // Such as a directory that was removed while the server ran.
        server.quit();
        return Err(error);
    }
    server.reap();
    // In this order: whoever gets `use.lock` next must find no keeper.
    drop(keeper);
    drop(in_use);
    Ok(())
}

/// Tells who started us, and lets go of the pipe.
fn answer_ready() -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(b"ready\n").and_then(|()| out.flush()).context("nobody listens")?;
    let null = File::options().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdout(&null)?)
}

/// Returns with `use.lock` held exclusively once nobody has used the server for the set time.
fn await_idle(place: &Place) -> Result<File> {
    let file = place.lock_file("use.lock")?;
    loop {
        file.lock()?; // until the last user ends
        let used = last_use(&file)?;
        file.unlock()?;
        let until = Instant::now() + place.stop_after;
        while let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
            std::thread::sleep(rest);
        }
        // A use in between, whether it lasts or not, starts the time anew.
        if try_lock(&file, true)? {
            if last_use(&file)? == used {
                return Ok(file);
            }
            file.unlock()?;
        }
    }
}

/// Every use sets the time of the lock file (see `mark_use`).
fn last_use(file: &File) -> Result<SystemTime> {
    Ok(file.metadata()?.modified()?)
}

/// Notes in the lock file that someone begins to use the server.
pub fn mark_use(file: &File) -> Result<()> {
    Ok(file.set_modified(SystemTime::now())?)
}

struct Server {
    cluster: Cluster,
    /// The server process, if we are its parent.
    child: Mutex<Option<Child>>,
    stopping: AtomicBool,
}

impl Server {
    fn start(&self) -> Result<()> {
        let child = self.cluster.start()?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = child;
        Ok(())
    }

    /// Collects the exit status, so that no zombie holds the process number that `postmaster.pid` names.
    fn reap(&self) {
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.wait();
        }
    }

    /// Ends the server without its files: only one that is our child, whose number cannot be another's.
    fn quit(&self) {
        if let Some(child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::QUIT));
        }
        self.reap();
    }

    /// Waits for the end of the server, and starts it again unless it is being stopped. Ends the keeper when that does not work.
    fn watch(&self) {
        let mut short_lives = 0;
        while !self.stopping.load(Ordering::SeqCst) {
            let started = Instant::now();
            let gone = self.cluster.place.lock_file("server.lock").and_then(|file| Ok(file.lock()?));
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            self.reap();
            short_lives = if started.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
            if short_lives > 0 {
                std::thread::sleep(SHORT_LIFE);
            }
            if gone.is_err() || short_lives > SHORT_LIVES_MAX {
                std::process::exit(1);
            }
            if let Err(error) = self.start() {
                self.cluster.note(&format!("{error:#}"));
            }
        }
    }
}

impl Cluster {
    /// Adds a line to the server's log.
    fn note(&self, line: &str) {
        if let Ok(mut log) = open_log(&self.place) {
            let _ = writeln!(log, "pgfiles keeper: {line}");
        }
    }
}
