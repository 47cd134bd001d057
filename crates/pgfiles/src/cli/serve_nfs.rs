//! `pgfiles serve-nfs`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Context;
use super::locate::absolute;
use crate::connect::{self, Login};
use crate::daemon::{self, Door, Order};
use crate::exit::{Exit, Failure, Result};
use crate::registry::SOCKET_PATH_MAX;

/// Serve what lies under the prefix over NFS v4.1, without mounting it: for virtual machines, containers without /dev/fuse, macOS.
///
/// Stays in the foreground and ends, after everything is committed, with SIGTERM or Ctrl-C. A client mounts it with
/// `mount -t nfs4 -o vers=4.1,proto=tcp,port=2049 HOST:/ DIRECTORY`. On this machine only processes of the same user and of root
/// are let in; NFS believes what a client says of its users.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles serve-nfs\n  pgfiles serve-nfs --listen 127.0.0.1:2050")]
pub(super) struct Args {
    /// The address and port to listen on.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:2049", conflicts_with = "socket")]
    listen: SocketAddr,
    /// A Unix socket instead, in a directory that nobody else may enter.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Believe clients that speak for other users than you (always so for root with stored owners).
    #[arg(long)]
    allow_other: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit> {
    let dsn = context.settings.dsn()?.to_owned();
    let place = connect::place(&dsn)?;
    let door = match &args.socket {
        Some(path) => Door::NfsSocket(check_socket(&absolute_new(path)?)?),
        None => Door::NfsPort(args.listen),
    };
    let shown = match &door {
        Door::NfsSocket(path) => format!("nfs:{}", path.display()),
        _ => format!("nfs:{}", args.listen),
    };
    let id = connect::new_id();
    let order = Order {
        socket: context.dirs.socket_path(&id)?,
        log: PathBuf::new(),
        before: Vec::new(),
        mountpoint: PathBuf::from(shown),
        id,
        place,
        given: context.settings.given.clone(),
        login: Login::of_process(),
        allow_other: args.allow_other,
        foreground: true,
        bound: false,
        door,
    };
    Err(daemon::become_daemon(&order))
}

/// The path of something that need not be there yet.
fn absolute_new(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Failure::usage(format!("{} names no socket", path.display())))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    Ok(absolute(dir)?.join(name))
}

fn check_socket(path: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let shown = path.display();
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(Failure::usage(format!("{shown}: the path of a socket may have {SOCKET_PATH_MAX} bytes")));
    }
    let dir = path.parent().unwrap_or(path);
    let meta = std::fs::metadata(dir).map_err(|error| Failure::io(format!("cannot listen in {}", dir.display()), &error))?;
    if meta.mode() & 0o077 != 0 || meta.uid() != rustix::process::geteuid().as_raw() {
        let why = format!(
            "others may enter {0}, and NFS believes whom it lets in: `chmod 700 {0}`, or choose a directory of your own",
            dir.display()
        );
        return Err(Failure::failed(why));
    }
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            Err(Failure::conflict(format!("{shown} exists and is no socket: choose another path")))
        }
        _ => Ok(path.to_owned()),
    }
}
