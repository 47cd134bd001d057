//! The process that serves a mount: how it is started, what it answers, how it ends.
//!
//! `mount` runs this program again with a hidden subcommand and hands it an [`Order`] over a pipe, so that the DSN stands
//! neither in its arguments nor in its environment. The daemon's stdout is the readiness pipe: one line, [`Started`].
//! Until that line, the end of its stdin means that `mount` was interrupted, and it gives up.
//!
//! Shutdown order: publish and drain while the mount still answers, then unmount, then publish what came last, then
//! end the layers, then the registration, then answer who asked. The daemon never touches a path under its mount.

mod front;
mod housekeeping;
mod recovery;
mod serve;
mod unmount;
mod watch;

pub use front::Door;
pub use watch::{WATCH, watch};

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::config::LogLevel;
use crate::config::resolve::Given;
use crate::connect::Login;
use crate::exit::{Exit, Failure, Result};

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "daemon";
/// What must not be inherited: the order carries it.
const SECRETS: [&str; 2] = ["PGFILES_DSN", "PGPASSWORD"];
/// How the daemon's memory is managed, where the C library is glibc, which reads this once at the start of a process. Chunks and
/// the requests that carry them come and go on all threads, and an arena per thread keeps the holes between them; a
/// threshold that grows with what is freed keeps the largest. Measured, 768 MiB written, read and written again: a peak of 233
/// to 267 MiB, so of 194, at the same speed. A threshold of 128 KiB makes it 150 and reads 2.4 times slower.
const ALLOCATOR: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "4194304")];
/// The longest order, in bytes.
const ORDER_BYTES_MAX: u64 = 1 << 20;

/// What a daemon is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// Of the mount.
    pub id: String,
    /// Absolute.
    #[serde(with = "crate::registry::path_text")]
    pub mountpoint: PathBuf,
    /// The control socket.
    #[serde(with = "crate::registry::path_text")]
    pub socket: PathBuf,
    /// The log file; empty for stderr.
    #[serde(with = "crate::registry::path_text")]
    pub log: PathBuf,
    /// Names in the directory that is mounted on.
    pub before: Vec<String>,
    /// Which server and database: [`crate::connect::place`].
    pub place: String,
    /// The settings.
    pub given: BTreeMap<String, Given>,
    /// What libpq would take from the user's process.
    pub login: Login,
    /// Let other users in.
    pub allow_other: bool,
    /// Stay where it was started.
    pub foreground: bool,
    /// End when whoever started it is gone, as at SIGTERM.
    #[serde(default)]
    pub bound: bool,
    /// How programs come in.
    #[serde(default)]
    pub door: Door,
}

/// What a daemon says of its start.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Started {
    /// The mount answers.
    Ready,
    /// It does not, and the daemon has ended.
    Failed(Failure),
}

/// Starts a daemon and returns when its mount answers; a daemon that is [`Order::bound`] lives as long as what is returned.
///
/// # Errors
/// Why the daemon could not start, in its own words and with its exit code.
pub fn launch(order: &Order) -> Result<ChildStdin> {
    let log = std::fs::File::options().append(true).create(true).mode(0o600).open(&order.log);
    let log = log.map_err(|error| Failure::io(format!("cannot write {}", order.log.display()), &error))?;
    let mut command = program(order);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().map_err(|error| Failure::io("cannot start the daemon", &error))?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Failure::failed("the daemon has no pipes"));
    };
    let mut text = serde_json::to_vec(order).map_err(|error| Failure::failed(error.to_string()))?;
    text.push(b'\n');
    // A daemon that has ended already is explained below.
    let _ = stdin.write_all(&text);
    let mut line = String::new();
    let read = BufReader::new(stdout).read_line(&mut line);
    // Its end would tell the daemon that nobody waits any more.
    match read.ok().and_then(|_| serde_json::from_str(&line).ok()) {
        Some(Started::Ready) => Ok(stdin),
        Some(Started::Failed(failure)) => {
            drop(stdin);
            let _ = child.wait();
            remove_if_empty(&order.log);
            Err(failure)
        }
        None => {
            drop(stdin);
            let how = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(Failure::failed(format!("the daemon ended ({how}) before the mount answered: see {}", order.log.display())))
        }
    }
}

/// Turns this process into the daemon, in the foreground. Returns only where that fails.
pub fn become_daemon(order: &Order) -> Failure {
    let text = serde_json::to_vec(order).map_err(io::Error::other);
    let piped = text.and_then(|mut text| {
        text.push(b'\n');
        let (read, write) = rustix::pipe::pipe()?;
        // Larger than a pipe holds only with absurd settings: then a thread would be needed, which exec does not keep.
        rustix::io::ioctl_fionbio(&write, true)?;
        let mut write = std::fs::File::from(write);
        write.write_all(&text)?;
        Ok(read)
    });
    match piped {
        Ok(read) => {
            let mut command = program(order);
            command.stdin(Stdio::from(read));
            Failure::io("cannot become the daemon", &command.exec())
        }
        Err(error) => Failure::io("cannot hand over the settings", &error),
    }
}

/// The file that this process runs, also where it was replaced meanwhile.
fn this_program() -> PathBuf {
    if cfg!(target_os = "linux") { PathBuf::from("/proc/self/exe") } else { std::env::current_exe().unwrap_or_default() }
}

fn program(order: &Order) -> Command {
    let mut command = Command::new(this_program());
    // The mount point is there for `ps` only.
    command.arg0("pgfiles").arg(SUBCOMMAND).arg(&order.mountpoint);
    for name in SECRETS {
        command.env_remove(name);
    }
    for (name, value) in ALLOCATOR {
        // What the user set stays.
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    command
}

fn remove_if_empty(log: &Path) {
    if std::fs::metadata(log).is_ok_and(|meta| meta.len() == 0) {
        let _ = std::fs::remove_file(log);
    }
}

/// The daemon itself: the hidden subcommand.
///
/// # Errors
/// In the foreground, why it could not start; in the background that goes to `mount`.
pub fn main() -> Result<Exit> {
    close_inherited();
    let mut stdin = BufReader::new(io::stdin());
    let mut line = String::new();
    let read = (&mut stdin).take(ORDER_BYTES_MAX).read_line(&mut line);
    read.map_err(|error| Failure::io("cannot read the order", &error))?;
    let why = "this is run by `pgfiles mount`, not by hand";
    let order: Order = serde_json::from_str(&line).map_err(|_| Failure::usage(why))?;
    let foreground = order.foreground;
    if !foreground {
        // Fails only for a leader of a process group, which a spawned process is not.
        let _ = rustix::process::setsid();
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // Nothing must be kept busy by where the daemon stands.
    let _ = std::env::set_current_dir("/");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::io("cannot start", &error))?;
    let done = runtime.block_on(serve::run(order));
    runtime.shutdown_background();
    match done {
        Ok(()) => Ok(Exit::Done),
        Err(failure) if foreground => Err(failure),
        Err(failure) => {
            let exit = failure.exit;
            report(&Started::Failed(failure));
            Ok(exit)
        }
    }
}

/// Tells `mount` how the start went; false where nobody waits any more.
fn report(started: &Started) -> bool {
    let mut text = serde_json::to_vec(started).unwrap_or_default();
    text.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&text).and_then(|()| out.flush()).is_ok()
}

/// Lets go of the pipes to `mount`, so that nobody who waits for their end waits for the daemon; of the one that it reads only where
/// it does not end with that.
fn let_go(bound: bool) {
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        if !bound {
            let _ = rustix::stdio::dup2_stdin(&null);
        }
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

/// Closes descriptors that whoever ran `mount` left open: a daemon must not keep somebody's pipe or lock.
#[allow(unsafe_code)]
pub(crate) fn close_inherited() {
    let dir = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let open: Vec<i32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // SAFETY: called first thing in `main`, before any thread runs or anything of ours is open; the descriptor of
        // the listing above is closed already, and closing a number that is not open does nothing.
        unsafe { libc::close(fd) };
    }
}

/// Logs to a writer what the setting asks for, pgfiles' own events only.
pub fn log_to<W>(level: LogLevel, writer: impl Fn() -> W + Send + Sync + 'static)
where
    W: io::Write,
{
    let filter = tracing_subscriber::EnvFilter::new(format!(
        "off,pgfiles={0},pgfiles_store={0},pgfiles_vfs={0},pgfiles_fuse={0},pgfiles_nfs={0}",
        level.as_str()
    ));
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(writer).with_target(false);
    // A second call, in tests, keeps the first.
    let _ = logger.try_init();
}
