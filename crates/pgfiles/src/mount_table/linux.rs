//! The table of Linux: `/proc/self/mountinfo` (`man 5 proc_pid_mountinfo`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::Mounted;

pub(super) fn all() -> Vec<Mounted> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|&b| b == b'\n').filter_map(parse).collect()
}

/// By the kernel's list of the filesystems that it has of NFS servers, mounted or only open.
pub(super) fn has_nfs_of(port: u16) -> bool {
    std::fs::read_to_string("/proc/fs/nfsfs/volumes").is_ok_and(|text| lists_port(&text, port))
}

/// `v4 7f000001 d431 0:45 0:0 no`: version, address, port in hexadecimal digits, device.
fn lists_port(text: &str, port: u16) -> bool {
    let ports = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2));
    ports.filter_map(|digits| u16::from_str_radix(digits, 16).ok()).any(|listed| listed == port)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_of_a_port() {
        let text = "NV SERVER   PORT DEV          FSID                              FSC\nv4 7f000001  801 0:45         0:0                               no \n";
        assert!(lists_port(text, 0x801) && !lists_port(text, 0x802) && !lists_port("", 0));
    }

    #[test]
    fn lines_of_the_table() {
        let line = br"36 35 98:0 / /mnt/a\040b rw,noatime shared:1 master:2 - fuse.pgfiles pgfiles rw";
        assert_eq!(parse(line), Some(Mounted { at: "/mnt/a b".into(), kind: "fuse.pgfiles".into(), source: "pgfiles".into() }));
        assert_eq!(parse(b""), None);
        assert!(!all().is_empty());
    }
}
