//! The way in through the kernel: a directory, of a mount or of any filesystem to compare with.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, SeekFrom, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::{Fs, Outcome, Stat};

/// A directory.
pub struct OnDisk {
    /// The directory that paths are relative to.
    pub root: PathBuf,
}

impl OnDisk {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

fn errno(error: Errno) -> i32 {
    error.raw_os_error()
}

// The widths of these fields differ between machines.
#[allow(clippy::unnecessary_cast)]
fn stat(stat: rustix::fs::Stat) -> Stat {
    Stat {
        ino: stat.st_ino,
        mode: stat.st_mode,
        nlink: stat.st_nlink as u64,
        size: stat.st_size as u64,
        stored: stat.st_blocks as u64 * 512,
        uid: stat.st_uid,
        mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
        ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as u32),
    }
}

impl Fs for OnDisk {
    type File = OwnedFd;

    fn open(&self, path: &str, flags: i32, mode: u32) -> Outcome<OwnedFd> {
        let flags = OFlags::from_bits_retain(flags as u32) | OFlags::CLOEXEC;
        rustix::fs::open(self.at(path), flags, Mode::from_raw_mode(mode)).map_err(errno)
    }

    fn close(&self, file: OwnedFd) -> Outcome<()> {
        drop(file);
        Ok(())
    }

    fn pread(&self, file: &OwnedFd, offset: u64, len: usize) -> Outcome<Vec<u8>> {
        let mut out = vec![0; len];
        let got = rustix::io::pread(file, &mut out, offset).map_err(errno)?;
        out.truncate(got);
        Ok(out)
    }

    fn pwrite(&self, file: &OwnedFd, offset: u64, bytes: &[u8]) -> Outcome<()> {
        let mut at = 0;
        while at < bytes.len() {
            at += rustix::io::pwrite(file, &bytes[at..], offset + at as u64).map_err(errno)?;
        }
        Ok(())
    }

    fn fsync(&self, file: &OwnedFd) -> Outcome<()> {
        rustix::fs::fsync(file).map_err(errno)
    }

    fn ftruncate(&self, file: &OwnedFd, size: u64) -> Outcome<()> {
        rustix::fs::ftruncate(file, size).map_err(errno)
    }

    fn fstat(&self, file: &OwnedFd) -> Outcome<Stat> {
        rustix::fs::fstat(file).map(stat).map_err(errno)
    }

    fn lstat(&self, path: &str) -> Outcome<Stat> {
        rustix::fs::lstat(self.at(path)).map(stat).map_err(errno)
    }

    fn mkdir(&self, path: &str, mode: u32) -> Outcome<()> {
        rustix::fs::mkdir(self.at(path), Mode::from_raw_mode(mode)).map_err(errno)
    }

    fn rmdir(&self, path: &str) -> Outcome<()> {
        rustix::fs::rmdir(self.at(path)).map_err(errno)
    }

    fn unlink(&self, path: &str) -> Outcome<()> {
        rustix::fs::unlink(self.at(path)).map_err(errno)
    }

    fn rename(&self, from: &str, to: &str, noreplace: bool) -> Outcome<()> {
        let flags = if noreplace { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        rustix::fs::renameat_with(CWD, self.at(from), CWD, self.at(to), flags).map_err(errno)
    }

    fn exchange(&self, a: &str, b: &str) -> Outcome<()> {
        rustix::fs::renameat_with(CWD, self.at(a), CWD, self.at(b), RenameFlags::EXCHANGE).map_err(errno)
    }

    fn link(&self, from: &str, to: &str) -> Outcome<()> {
        rustix::fs::linkat(CWD, self.at(from), CWD, self.at(to), AtFlags::empty()).map_err(errno)
    }

    fn fallocate(&self, file: &OwnedFd, mode: i32, offset: u64, len: u64) -> Outcome<()> {
        let mode = rustix::fs::FallocateFlags::from_bits_retain(mode as u32);
        rustix::fs::fallocate(file, mode, offset, len).map_err(errno)
    }

    fn lseek(&self, file: &OwnedFd, offset: u64, whence: i32) -> Outcome<u64> {
        let to = if whence == libc::SEEK_DATA { SeekFrom::Data(offset) } else { SeekFrom::Hole(offset) };
        rustix::fs::seek(file, to).map_err(errno)
    }

    fn copy_range(&self, from: &OwnedFd, mut offset: u64, to: &OwnedFd, mut to_offset: u64, len: u64) -> Outcome<u64> {
        rustix::fs::copy_file_range(from, Some(&mut offset), to, Some(&mut to_offset), len as usize)
            .map(|n| n as u64)
            .map_err(errno)
    }

    fn symlink(&self, target: &[u8], path: &str) -> Outcome<()> {
        rustix::fs::symlink(target, self.at(path)).map_err(errno)
    }

    fn readlink(&self, path: &str) -> Outcome<Vec<u8>> {
        rustix::fs::readlink(self.at(path), Vec::new()).map(|target| target.into_bytes()).map_err(errno)
    }

    fn readdir(&self, path: &str) -> Outcome<Vec<Vec<u8>>> {
        let mut names = self.readdir_slowly(path, &mut || {})?;
        names.sort();
        Ok(names)
    }

    fn readdir_slowly(&self, path: &str, between: &mut dyn FnMut()) -> Outcome<Vec<Vec<u8>>> {
        let dir = rustix::fs::open(self.at(path), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).map_err(errno)?;
        let mut names = Vec::new();
        for (index, entry) in Dir::new(dir).map_err(errno)?.enumerate() {
            let name = entry.map_err(errno)?.file_name().to_bytes().to_vec();
            if index == 3 {
                between();
            }
            names.push(name);
        }
        names.retain(|name| name != b"." && name != b"..");
        Ok(names)
    }

    fn mkfifo(&self, path: &str, mode: u32) -> Outcome<()> {
        rustix::fs::mknodat(CWD, self.at(path), FileType::Fifo, Mode::from_raw_mode(mode), 0).map_err(errno)
    }

    fn chmod(&self, path: &str, mode: u32) -> Outcome<()> {
        rustix::fs::chmod(self.at(path), Mode::from_raw_mode(mode)).map_err(errno)
    }

    fn chown(&self, path: &str, uid: u32, gid: u32) -> Outcome<()> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chown(self.at(path), Some(uid), Some(gid)).map_err(errno)
    }

    fn set_mtime(&self, path: &str, at: (i64, u32)) -> Outcome<()> {
        let time = Timespec { tv_sec: at.0, tv_nsec: at.1.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, self.at(path), &times, AtFlags::SYMLINK_NOFOLLOW).map_err(errno)
    }

    fn truncate(&self, path: &str, size: u64) -> Outcome<()> {
        // std and rustix have no truncate(2); this one opens the file for writing, as `truncate -s` does.
        let file = self.open(path, libc::O_WRONLY, 0)?;
        self.ftruncate(&file, size)
    }

    fn setxattr(&self, path: &str, name: &str, value: &[u8], flags: i32) -> Outcome<()> {
        let flags = XattrFlags::from_bits_retain(flags as u32);
        rustix::fs::setxattr(self.at(path), name, value, flags).map_err(errno)
    }

    fn getxattr(&self, path: &str, name: &str) -> Outcome<Vec<u8>> {
        let mut out = vec![0; 70_000];
        let len = rustix::fs::getxattr(self.at(path), name, &mut out).map_err(errno)?;
        out.truncate(len);
        Ok(out)
    }

    fn listxattr(&self, path: &str) -> Outcome<Vec<u8>> {
        let mut out = vec![0_u8; 70_000];
        let len = rustix::fs::listxattr(self.at(path), &mut out).map_err(errno)?;
        out.truncate(len);
        Ok(out)
    }

    fn removexattr(&self, path: &str, name: &str) -> Outcome<()> {
        rustix::fs::removexattr(self.root.join(std::ffi::OsStr::from_bytes(path.as_bytes())), name).map_err(errno)
    }
}
