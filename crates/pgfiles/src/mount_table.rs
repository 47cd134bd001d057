//! What is mounted where, as the kernel says, and how to take away what a killed daemon left.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::exit::{Failure, Result};

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
#[cfg(not(target_os = "linux"))]
pub fn all() -> Vec<Mounted> {
    let output = Command::new("mount").stdin(Stdio::null()).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(parse_listed).collect()
}

/// `<socket>:/ on /Users/me/work (nfs, nodev, nosuid)`, as mount(8) of the BSDs lists it.
#[cfg_attr(target_os = "linux", allow(dead_code))]
fn parse_listed(line: &str) -> Option<Mounted> {
    let (rest, options) = line.rsplit_once(" (")?;
    let (source, at) = rest.split_once(" on ")?;
    let kind = options.split([',', ')']).next()?;
    Some(Mounted { at: at.into(), kind: kind.into(), source: source.into() })
}

/// Everything that is mounted, in the order of mounting. Empty where the system does not say.
#[cfg(target_os = "linux")]
pub fn all() -> Vec<Mounted> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|&b| b == b'\n').filter_map(parse).collect()
}

/// What is mounted exactly there: the topmost.
pub fn at(path: &Path) -> Option<Mounted> {
    all().into_iter().rev().find(|mounted| mounted.at == path)
}

/// Whether a mount of NFS from this machine is there.
pub fn is_local_nfs(path: &Path) -> bool {
    at(path).is_some_and(|mounted| mounted.is_local_nfs())
}

/// `36 35 98:0 /root /mount/point rw,noatime shared:1 - fuse.pgfiles source options`.
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|&b| b == b' ');
    let at = unescape(fields.nth(4)?);
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let mut text = || Some(String::from_utf8_lossy(after.next()?).into_owned());
    Some(Mounted { at, kind: text()?, source: text()? })
}

/// Spaces and the like come as `\040`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| byte == b'\\');
        let code =
            octal.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
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
    fn lines_of_the_table() {
        let line = br"36 35 98:0 / /mnt/a\040b rw,noatime shared:1 master:2 - fuse.pgfiles pgfiles rw";
        assert_eq!(parse(line), Some(Mounted { at: "/mnt/a b".into(), kind: "fuse.pgfiles".into(), source: "pgfiles".into() }));
        assert_eq!(parse(b""), None);
        let listed = parse_listed("</tmp/x/s>:/ on /Users/me/my work (nfs, nodev, nosuid, mounted by me)");
        assert_eq!(listed, Some(Mounted { at: "/Users/me/my work".into(), kind: "nfs".into(), source: "</tmp/x/s>:/".into() }));
        assert!(listed.is_some_and(|mounted| mounted.is_local_nfs()));
        assert!(!all().is_empty());
    }
}
