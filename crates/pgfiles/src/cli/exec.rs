//! `pgfiles exec`.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use super::mount::{DoorArgs, order};
use crate::control::client;
use crate::control::protocol::Call;
use crate::daemon::{self, Order};
use crate::exit::{Exit, Failure, Result};
use crate::output::{self, Terminal};
use crate::registry::Mount;

/// How long files that the command's own children hold open are waited for, in seconds, before they are cut off.
const OPEN_WAIT: f64 = 5.0;
/// How long the server may take after that.
const FORCED_WAIT: f64 = 30.0;
/// What it ends with where the command ran and its changes are not all committed.
const NOT_COMMITTED: i32 = 125;

/// Run a command in a directory that shows what lies under the prefix; ends when all that it wrote is committed.
///
/// The directory is mounted for it, in a place of its own unless --at names one, is its working directory and stands in PGFILES_MOUNT.
/// Ends with the command's exit code: 128 and the number of the signal that killed it, 127 for a command that is not there, 126 for one
/// that cannot be run. 125: it ran, and what it wrote could not all be committed.
#[derive(Debug, clap::Args)]
#[command(
    trailing_var_arg = true,
    after_help = "Examples:\n  pgfiles exec -- make test\n  PGFILES_PREFIX=agents/7 pgfiles exec --at /workspace -- agent --task 17\n  pgfiles exec sh -c 'git clone --depth 1 \"$REPOSITORY\" src'"
)]
pub(super) struct Args {
    /// Mount there: an empty directory of your own, which stays.
    #[arg(long, value_name = "DIR")]
    at: Option<PathBuf>,
    #[command(flatten)]
    door: DoorArgs,
    /// What to run.
    #[arg(required = true, value_name = "COMMAND", allow_hyphen_values = true)]
    command: Vec<OsString>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit> {
    let mut own = None;
    let at = match &args.at {
        Some(at) => at.clone(),
        None => {
            let socket = context.dirs.socket_path("exec")?;
            let run = socket.parent().ok_or_else(|| Failure::failed("there is no directory for a mount"))?;
            let made = tempfile::Builder::new().prefix("exec-").tempdir_in(run);
            let made = made.map_err(|error| Failure::io(format!("cannot make a directory in {}", run.display()), &error))?;
            own.insert(made).path().to_owned()
        }
    };
    let order = Order { bound: true, ..order(context, &at, false, &args.door)? };
    // The mount lives as long as this: a pgfiles that is killed takes it along.
    let alive = daemon::launch(&order)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::io("cannot start", &error))?;
    let (ended, committed) = runtime.block_on(async {
        let ended = command(args, &order).await;
        (ended, end(context, &order).await)
    });
    drop(alive);
    if let Some(own) = own {
        // Not what is in it: that would be a mount that is still there.
        let path = own.keep();
        if let Err(error) = std::fs::remove_dir(&path) {
            output::say(Failure::io(path.display(), &error));
        }
    }
    let code = match ended {
        Ok(status) => status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        Err(error) => {
            let name = args.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            output::say(Failure::io(name, &error));
            if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }
        }
    };
    if let Err(failure) = committed {
        output::say(failure);
        std::process::exit(NOT_COMMITTED);
    }
    if code == 0 { Ok(Exit::Done) } else { std::process::exit(code) }
}

/// Runs the command to its end. What the terminal sends goes to it by itself, SIGTERM and SIGHUP by us.
async fn command(args: &Args, order: &Order) -> std::io::Result<ExitStatus> {
    let [name, rest @ ..] = args.command.as_slice() else { return Err(std::io::ErrorKind::InvalidInput.into()) };
    let (mut int, mut quit) = (signal(SignalKind::interrupt())?, signal(SignalKind::quit())?);
    let (mut term, mut hup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let mut command = tokio::process::Command::new(name);
    let mut child = command.args(rest).current_dir(&order.mountpoint).env("PGFILES_MOUNT", &order.mountpoint).spawn()?;
    let pass_on = |pid: Option<u32>, sent: Signal| {
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            // It may have ended just now.
            let _ = kill_process(pid, sent);
        }
    };
    loop {
        let pid = child.id();
        tokio::select! {
            status = child.wait() => return status,
            _ = int.recv() => {}
            _ = quit.recv() => {}
            _ = term.recv() => pass_on(pid, Signal::TERM),
            _ = hup.recv() => pass_on(pid, Signal::HUP),
        }
    }
}

/// Commits everything and unmounts. Files that are still open are waited for a little, then cut off.
async fn end(context: &Context, order: &Order) -> Result<()> {
    let find = |mount: &Mount| mount.id == order.id;
    let Some(mount) = context.dirs.live().into_iter().find(find) else {
        return Err(Failure::failed("the mount ended before the command: what it wrote last may not be committed"));
    };
    let terminal = Terminal::default();
    let unmount = |timeout, force| Call::Unmount { timeout: Some(timeout), force };
    let Err(failure) = client::call(&mount, &unmount(OPEN_WAIT, false), &terminal).await else { return Ok(()) };
    output::say(format!("{failure}: what holds files open is cut off"));
    let answer = client::call(&mount, &unmount(FORCED_WAIT, true), &terminal).await?;
    match answer["recovered"].as_str() {
        Some(kept) => Err(Failure::failed(format!("not all is committed: what is not is kept in {kept}"))),
        None => Ok(()),
    }
}
