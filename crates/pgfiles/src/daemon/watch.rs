//! The process that watches over a mount of NFS: when the daemon is gone, however it went, it takes the mount away, and sees to it
//! that whoever still has files of it open gets an error and waits for nobody.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::this_program;
use crate::exit::{Failure, Result};
use crate::mount_table;

/// The hidden subcommand.
pub const WATCH: &str = "nfs-watch";

/// How often the port is tried while the daemon still has it.
const BIND_EVERY: Duration = Duration::from_millis(50);
/// How long at most: of a process that has ended, the port is free at once. Where another took it meanwhile, nobody answers in place of
/// the server.
const BIND_WAIT: Duration = Duration::from_secs(3);
/// How long nobody has asked anything when all is over: of the end of a session no list tells.
const SILENCE: Duration = Duration::from_secs(30);

/// The process. What it waits for is the end of its stdin: that of the daemon, or of this.
pub(super) struct Watch {
    _child: Child,
}

impl Watch {
    /// Over a mount, which a server on that port is behind; `None`: one on a socket.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(mountpoint: &Path, port: Option<SocketAddr>) -> Result<Self> {
        let mut command = Command::new(this_program());
        command.arg(WATCH).arg(mountpoint).args(port.map(|port| port.to_string()));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let child = child.map_err(|error| Failure::io("cannot start the process that watches over the mount", &error))?;
        Ok(Self { _child: child })
    }
}

/// What the process does.
///
/// # Errors
/// The mount could not be taken away.
pub fn watch(mountpoint: &Path, port: Option<SocketAddr>) -> Result<()> {
    let _ = rustix::process::setsid();
    let mut byte = [0];
    while matches!(std::io::Read::read(&mut std::io::stdin(), &mut byte), Ok(1..)) {}
    let mounted = mount_table::is_local_nfs(mountpoint);
    let listener = port.and_then(listen);
    // Before the mount is taken away: whoever does that says goodbye to the server, and waits for its answer.
    let refusing = listener.map(|(listener, port)| {
        let is_over = move |silent| silent > SILENCE && !mount_table::has_nfs_of(port);
        std::thread::spawn(move || pgfiles_nfs::refuse_all(&listener, is_over))
    });
    let unmounted = if mounted { mount_table::force_nfs(mountpoint) } else { Ok(()) };
    if let Some(Ok(Err(error))) = refusing.map(std::thread::JoinHandle::join) {
        return Err(Failure::io("cannot answer in place of the server that is gone", &error));
    }
    unmounted
}

/// On the port of the server, once it is gone. `None` where the kernel has nothing to do with it any more: no file was open when it
/// was unmounted.
fn listen(port: SocketAddr) -> Option<(TcpListener, u16)> {
    let until = Instant::now() + BIND_WAIT;
    while mount_table::has_nfs_of(port.port()) && Instant::now() < until {
        if let Ok(listener) = TcpListener::bind(port) {
            return Some((listener, port.port()));
        }
        std::thread::sleep(BIND_EVERY);
    }
    if mount_table::has_nfs_of(port.port()) {
        tracing::warn!(%port, "another process has the port of the server that is gone: programs with open files wait for the client's timeouts");
    }
    None
}
