//! Has the system's own client mount what is served: the only part that differs between systems.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where a server is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A port of this machine.
    Port(SocketAddr),
    /// A Unix socket: on macOS only.
    Socket(PathBuf),
}

/// What is to be mounted, and how.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where.
    pub mountpoint: PathBuf,
    /// Without changes.
    pub read_only: bool,
    /// More options of the system's client, with commas between: the last of two that contradict one another counts.
    pub options: Option<String>,
}

/// Why it was not mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The program that mounts is not there.
    #[error("{0} is not installed")]
    NoProgram(&'static str),
    /// It refused, in its own words.
    #[error("{0}")]
    Refused(String),
    /// It could not be run.
    #[error("cannot run the mount command: {0}")]
    Io(#[from] io::Error),
}

/// Options that every client gets: attributes are asked for again after a second, because others may change them.
const ATTRIBUTES: &str = "actimeo=1";

#[cfg(target_os = "linux")]
const PROGRAM: &str = "mount.nfs4 (package nfs-common)";
#[cfg(not(target_os = "linux"))]
const PROGRAM: &str = "mount_nfs";

/// The command, its options and what it mounts. `hard`, because a `soft` client turns an outage into lost writes.
#[cfg(target_os = "linux")]
fn command(endpoint: &Endpoint, wanted: &Wanted) -> Option<Command> {
    let Endpoint::Port(address) = endpoint else { return None };
    let (host, port) = (address.ip(), address.port());
    let mode = if wanted.read_only { "ro" } else { "rw" };
    let mut command = Command::new("mount");
    let options = format!("{mode},vers=4.1,proto=tcp,port={port},sec=sys,hard,{ATTRIBUTES}{}", more(wanted));
    command.args(["-t", "nfs4", "-o", &options, &format!("{host}:/")]).arg(&wanted.mountpoint);
    Some(command)
}

/// As above; `intr` and `deadtimeout` let programs be killed, and a mount whose daemon is gone end by itself. Nobody has to be root: the
/// mount point belongs to the user.
#[cfg(not(target_os = "linux"))]
fn command(endpoint: &Endpoint, wanted: &Wanted) -> Option<Command> {
    let common = format!(
        "vers=4.1,nocallback,nobrowse,nosuid,nodev,rwsize=1048576,readahead=16,{ATTRIBUTES},intr,deadtimeout=60,mutejukebox{}{}",
        if wanted.read_only { ",rdonly" } else { "" },
        more(wanted)
    );
    let mut command = Command::new("mount_nfs");
    match endpoint {
        Endpoint::Socket(path) => {
            let from = format!("<{}>:/", path.display());
            command.args(["-o", &format!("{common},proto=ticotsord"), &from]).arg(&wanted.mountpoint);
        }
        Endpoint::Port(address) => {
            let (host, port) = (address.ip(), address.port());
            command.args(["-o", &format!("{common},proto=tcp,port={port}"), &format!("{host}:/")]).arg(&wanted.mountpoint);
        }
    }
    Some(command)
}

fn more(wanted: &Wanted) -> String {
    wanted.options.as_ref().map(|options| format!(",{options}")).unwrap_or_default()
}

/// Mounts. Blocks until the client has greeted the server, which has to be serving by then.
///
/// # Errors
/// [`MountError`].
pub fn mount(endpoint: &Endpoint, wanted: &Wanted) -> Result<(), MountError> {
    let mut command = command(endpoint, wanted)
        .ok_or_else(|| MountError::Refused("this system's client does not mount over a socket".into()))?;
    let output = match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(MountError::NoProgram(PROGRAM)),
        output => output?,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // What mount(8) says where there is no helper for the type.
    if said.contains("bad option") && said.contains("helper program") {
        return Err(MountError::NoProgram(PROGRAM));
    }
    Err(MountError::Refused(said))
}

/// The command that unmounts, writing back what the client has not written yet; with `force` without waiting for anything.
pub fn unmount_command(mountpoint: &Path, force: bool) -> Command {
    let mut command = Command::new("umount");
    if force {
        command.args(if cfg!(target_os = "linux") { ["-f", "-l"].as_slice() } else { ["-f"].as_slice() });
    }
    command.arg(mountpoint).stdin(Stdio::null()).stdout(Stdio::null());
    command
}
