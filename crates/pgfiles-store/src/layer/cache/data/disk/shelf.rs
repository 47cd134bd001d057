//! The directory: its files by name. Everything is relative to one open directory; nothing else of the file system is
//! touched after [`Shelf::open`].
//!
//! `v2/` is named after the format: another one lies elsewhere. In it are the packs and the index. `lock` is held by
//! whoever makes room.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// Where all but the lock lies.
const DIR: &str = "v2";
/// Held by who makes room; formats before had the same.
const LOCK: &str = "lock";
/// What a file takes on disk at least, its inode included.
const FILE_BYTES_MIN: u64 = 4_096;

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// The directory.
pub struct Shelf {
    root: OwnedFd,
}

/// A pack.
pub struct Found {
    /// Its name.
    pub number: u32,
    /// What it takes on disk.
    pub bytes: u64,
    /// Its length.
    pub len: u64,
    /// When it was last written or used, about: seconds since 1970, and nanoseconds.
    pub used: (i64, i64),
}

/// Excludes all others who make room, until it is dropped.
pub struct Lock {
    _file: File,
}

impl Shelf {
    /// Opens the directory, made with mode 0700 if it is not there. Refuses one that belongs to somebody else.
    pub fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let root = File::open(dir)?;
        let about = root.metadata()?;
        if about.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the directory belongs to another user"));
        }
        if about.mode() & 0o077 != 0 {
            fs::fchmod(&root, Mode::from_raw_mode(0o700))?;
        }
        let shelf = Self { root: root.into() };
        shelf.make_dir()?;
        shelf.lock_file()?;
        Ok(shelf)
    }

    /// The same for a directory in which there is a cache already.
    pub fn existing(dir: &Path) -> io::Result<Option<Self>> {
        let is_there = dir.join(DIR).try_exists()? || super::old::is_in(dir)?;
        if is_there { Self::open(dir).map(Some) } else { Ok(None) }
    }

    /// The directory that was opened.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// A file; `None`: not there.
    pub fn file(&self, name: &str, flags: OFlags) -> io::Result<Option<File>> {
        match self.open_at(name, flags) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A file to read and write, made with mode 0600 if it is not there; so is the directory, if somebody removed it.
    pub fn make(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | flags;
        match self.open_at(name, flags) {
            Err(Errno::NOENT) => {
                self.make_dir()?;
                Ok(self.open_at(name, flags)?)
            }
            result => Ok(result?),
        }
    }

    fn open_at(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        fs::openat(&self.root, format!("{DIR}/{name}"), flags, Mode::from_raw_mode(0o600)).map(File::from)
    }

    fn make_dir(&self) -> io::Result<()> {
        match fs::mkdirat(&self.root, DIR, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file another name, in place of the one that has it.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(fs::renameat(&self.root, format!("{DIR}/{from}"), &self.root, format!("{DIR}/{to}"))?)
    }

    /// Removes a file; one that is not there is fine. Its room is free at once, whoever has it open: they find that it
    /// has no name any more, or bytes that do not check.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let file = self.file(name, OFlags::WRONLY);
        match fs::unlinkat(&self.root, format!("{DIR}/{name}"), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        if let Ok(Some(file)) = file {
            file.set_len(0)?;
        }
        Ok(())
    }

    /// What a file takes on disk; 0 where there is none.
    pub fn size(&self, name: &str) -> io::Result<u64> {
        match fs::statat(&self.root, format!("{DIR}/{name}"), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(about) => Ok(on_disk(&about)),
            Err(Errno::NOENT) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// All packs, those of other daemons too.
    #[allow(clippy::unnecessary_cast)] // the fields' types differ between systems
    pub fn packs(&self) -> io::Result<Vec<Found>> {
        let Some(dir) = open_dir(&self.root, DIR)? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for name in names(&dir)? {
            let Some(number) = pack_number(&name) else { continue };
            // Another daemon may have removed it meanwhile.
            let Ok(about) = fs::statat(&dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let used = (about.st_mtime as i64, about.st_mtime_nsec as i64);
            all.push(Found { number, bytes: on_disk(&about), len: about.st_size as u64, used });
        }
        Ok(all)
    }

    /// Waits for who else makes room.
    pub fn lock(&self) -> io::Result<Lock> {
        let file = self.lock_file()?;
        fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(Lock { _file: file })
    }

    /// `None`: somebody else makes room.
    pub fn try_lock(&self) -> io::Result<Option<Lock>> {
        let file = self.lock_file()?;
        match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(None),
            result => Ok(result.map(|()| Some(Lock { _file: file }))?),
        }
    }

    fn lock_file(&self) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(fs::openat(&self.root, LOCK, flags, Mode::from_raw_mode(0o600))?.into())
    }
}

/// The name of a pack.
pub fn pack_name(number: u32) -> String {
    format!("{number:08x}.pack")
}

fn pack_number(name: &str) -> Option<u32> {
    let number = u32::from_str_radix(name.strip_suffix(".pack")?, 16).ok()?;
    (pack_name(number) == name).then_some(number)
}

/// What a file takes on disk.
#[allow(clippy::unnecessary_cast)] // the field's type differs between systems
pub fn on_disk(about: &fs::Stat) -> u64 {
    (about.st_blocks as u64 * 512).max(FILE_BYTES_MIN)
}

/// A directory; `None`: not there, or something else is.
pub fn open_dir(at: &OwnedFd, name: &str) -> io::Result<Option<OwnedFd>> {
    match fs::openat(at, name, DIR_FLAGS, Mode::empty()) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The names in a directory that are text, which all of ours are; without `.` and `..`.
pub fn names(dir: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        names.extend(entry.file_name().to_str().ok().filter(|name| *name != "." && *name != "..").map(str::to_owned));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_pack_is_its_number() {
        assert_eq!(pack_name(0x1f), "0000001f.pack");
        assert_eq!(pack_number("0000001f.pack"), Some(0x1f));
        assert_eq!(pack_number("ffffffff.pack"), Some(u32::MAX));
        for other in ["index", "1f.pack", "0000001F.pack", "+000001f.pack", "0000001f.pac", "0000001ff.pack"] {
            assert_eq!(pack_number(other), None, "{other}");
        }
    }
}
