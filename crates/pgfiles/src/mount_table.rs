//! What is mounted where, as the kernel says, and how to take away what a killed daemon left.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::exit::{Failure, Result};

#[cfg(any(not(target_os = "linux"), test))]
mod bsd;
#[cfg(target_os = "linux")]
mod linux;

/// What our mounts have as their source.
pub const SOURCE: &str = "pgfiles";
/// How long a mount may take to answer before it is taken for one that lives but is slow.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub at: PathBuf,
    /// `ext4`, `fuse`, …
    pub kind: String,
    /// The device, or what stands for it.
    pub source: String,
}

impl Mounted {
    /// Whether pgfiles mounted it, whoever runs that.
    pub fn is_ours(&self) -> bool {
        self.kind.starts_with("fuse") && self.source == SOURCE
    }

    /// Whether it is a mount of NFS from this machine, whoever serves that.
    fn is_local_nfs(&self) -> bool {
        self.kind.starts_with("nfs") && (self.source.starts_with("127.0.0.1:") || self.source.starts_with('<'))
    }
}

/// Everything that is mounted, in the order of mounting. Empty where the system does not say.
pub fn all() -> Vec<Mounted> {
    #[cfg(target_os = "linux")]
    return linux::all();
    #[cfg(not(target_os = "linux"))]
    bsd::all()
}

/// What is mounted exactly there: the topmost.
pub fn at(path: &Path) -> Option<Mounted> {
    all().into_iter().rev().find(|mounted| mounted.at == path)
}

/// The mount point that a path is in. `None` where the system does not say.
pub fn over(path: &Path) -> Option<PathBuf> {
    innermost(all(), path)
}

fn innermost(table: Vec<Mounted>, path: &Path) -> Option<PathBuf> {
    let points = table.into_iter().map(|mounted| mounted.at).filter(|point| path.starts_with(point));
    points.max_by_key(|point| point.as_os_str().len())
}

/// Whether a mount of NFS from this machine is there.
pub fn is_local_nfs(path: &Path) -> bool {
    at(path).is_some_and(|mounted| mounted.is_local_nfs())
}

/// Takes a mount of NFS away without waiting for anybody.
///
/// # Errors
/// The system refuses.
pub fn force_nfs(path: &Path) -> Result<()> {
    let output = pgfiles_nfs::mount::unmount_command(path, true).output();
    let output = output.map_err(|error| Failure::io("cannot run umount", &error))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::failed(format!("cannot unmount {}: {why}", path.display())))
}

/// Whether the kernel still has to do with a server of NFS on that port, mounted or not. `false` where the system does not say.
pub fn has_nfs_of(port: u16) -> bool {
    #[cfg(target_os = "linux")]
    return linux::has_nfs_of(port);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = port;
        false
    }
}

/// Whether the process that served a mount is gone ("Transport endpoint is not connected").
pub fn is_dead(path: &Path) -> bool {
    let (send, receive) = std::sync::mpsc::channel();
    let path = path.to_owned();
    // statfs, since the kernel answers a stat of the root from what it remembers.
    std::thread::spawn(move || send.send(rustix::fs::statvfs(&path).err().map(rustix::io::Errno::raw_os_error)));
    matches!(receive.recv_timeout(ANSWER_WAIT), Ok(Some(libc::ENOTCONN | libc::ECONNABORTED)))
}

/// Takes a mount away at once, whoever still uses it.
///
/// # Errors
/// The system refuses.
pub fn detach(path: &Path) -> Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::INVAL) => return Ok(()), // not mounted any more
        Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(Failure::io(format!("cannot unmount {}", path.display()), &error.into())),
    }
    let helper = |name: &str| {
        let mut command = Command::new(name);
        command.args(["-u", "-z", "--"]).arg(path).stdin(Stdio::null()).stdout(Stdio::null());
        command.output()
    };
    let done = helper("fusermount3").or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => helper("fusermount"),
        _ => Err(error),
    });
    match done {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Failure::failed(format!("cannot unmount {}: {why}", path.display())))
        }
        Err(error) => Err(Failure::io("cannot run fusermount3 (package fuse3)", &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_point_counts() {
        let mounted = |at: &str| Mounted { at: at.into(), kind: String::new(), source: String::new() };
        let of = |path: &str| innermost(["/", "/mnt/a b", "/mnt/a b/c"].map(mounted).into(), Path::new(path));
        assert_eq!(of("/mnt/a b/x"), Some(PathBuf::from("/mnt/a b")));
        assert_eq!(of("/mnt/a b/c"), Some(PathBuf::from("/mnt/a b/c")));
        assert_eq!(of("/mnt/a b2"), Some(PathBuf::from("/")));
    }

    #[test]
    fn something_is_mounted_at_the_root() {
        assert!(at(Path::new("/")).is_some_and(|root| !root.is_ours()));
    }
}
