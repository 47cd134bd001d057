//! The directory of blocks: reading, writing aside and renaming, counting, removing. Everything is relative to one open
//! directory; nothing else of the file system is touched after [`Shelf::open`].

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps};

use super::super::BLOCK_BYTES;

/// The blocks, in 256 directories.
const BLOCKS: &str = "blocks";
/// Where files are written before they get their name.
const ASIDE: &str = "tmp";
/// Held by the daemon that makes room.
const LOCK: &str = "lock";
/// A file aside that is older was left by a crash.
const ASIDE_SECONDS_MAX: i64 = 3_600;
/// A use is recorded when the last recorded one is older than this.
const USE_SECONDS: i64 = 60;
/// What a file takes on disk at least, its inode included.
const FILE_BYTES_MIN: u64 = 4_096;

/// The directory.
pub struct Shelf {
    blocks: OwnedFd,
    aside: OwnedFd,
    lock: OwnedFd,
    written: AtomicU64,
}

/// A block's file.
pub struct Found {
    /// Directory and name.
    pub name: String,
    /// What it takes on disk.
    pub bytes: u64,
    /// When it was last used, about: seconds since 1970.
    pub used: i64,
}

/// What a count found after making room.
pub struct Room {
    /// What the blocks take on disk.
    pub bytes: u64,
    /// How many there are.
    pub blocks: u64,
    /// How many were removed.
    pub removed: u64,
}

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
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
        let open_dir = |name: &str| -> io::Result<OwnedFd> {
            make_dir(&root, name)?;
            Ok(fs::openat(&root, name, DIR | OFlags::NOFOLLOW, Mode::empty())?)
        };
        let (blocks, aside) = (open_dir(BLOCKS)?, open_dir(ASIDE)?);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = fs::openat(&root, LOCK, flags, Mode::from_raw_mode(0o600))?;
        Ok(Self { blocks, aside, lock, written: AtomicU64::new(0) })
    }

    /// The same for a directory that must be there already.
    pub fn existing(dir: &Path) -> io::Result<Option<Self>> {
        if dir.join(BLOCKS).try_exists()? { Self::open(dir).map(Some) } else { Ok(None) }
    }

    /// A file's bytes; `None`: not there. Records that it was used.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match fs::openat(&self.blocks, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let about = fs::fstat(&file)?;
        let now = now();
        if now - modified(&about) > USE_SECONDS {
            let at = Timespec { tv_sec: now, tv_nsec: 0 };
            let _ = fs::futimens(&file, &Timestamps { last_access: at, last_modification: at });
        }
        let most = u64::from(BLOCK_BYTES) + 4_096;
        let mut bytes = Vec::with_capacity((about.st_size as u64).min(most) as usize);
        File::from(file).take(most).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Writes a file aside and gives it its name; says what it takes on disk.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<u64> {
        let number = self.written.fetch_add(1, Relaxed);
        let aside = format!("{}-{number}-{:x}", std::process::id(), rand::random::<u64>());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = fs::openat(&self.aside, aside.as_str(), flags, Mode::from_raw_mode(0o600))?;
        let placed = File::from(file).write_all(bytes).and_then(|()| self.place(&aside, name));
        if placed.is_err() {
            let _ = fs::unlinkat(&self.aside, aside.as_str(), AtFlags::empty());
        }
        placed.map(|()| (bytes.len() as u64).next_multiple_of(FILE_BYTES_MIN))
    }

    fn place(&self, aside: &str, name: &str) -> io::Result<()> {
        match fs::renameat(&self.aside, aside, &self.blocks, name) {
            Err(rustix::io::Errno::NOENT) => {
                make_dir(&self.blocks, name.split('/').next().unwrap_or_default())?;
                Ok(fs::renameat(&self.aside, aside, &self.blocks, name)?)
            }
            result => Ok(result?),
        }
    }

    /// Removes a file; one that is not there is fine.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::unlinkat(&self.blocks, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// All blocks, those of other daemons too.
    pub fn scan(&self) -> io::Result<Vec<Found>> {
        let mut all = Vec::new();
        for fan in names(&self.blocks)? {
            let Ok(dir) = fs::openat(&self.blocks, fan.as_str(), DIR | OFlags::NOFOLLOW, Mode::empty()) else { continue };
            for name in names(&dir)? {
                // Another daemon may have removed it meanwhile.
                let Ok(about) = fs::statat(&dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
                let bytes = (about.st_blocks as u64 * 512).max(FILE_BYTES_MIN);
                all.push(Found { name: format!("{fan}/{name}"), bytes, used: modified(&about) });
            }
        }
        Ok(all)
    }

    /// Counts, and if that is more than `bytes_max`, removes what was not used for longest until it is `down_to`.
    /// `None`: another daemon is at it.
    pub fn make_room(&self, bytes_max: u64, down_to: u64) -> io::Result<Option<Room>> {
        match fs::flock(&self.lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            result => result?,
        }
        let result = self.make_room_locked(bytes_max, down_to);
        fs::flock(&self.lock, FlockOperation::Unlock)?;
        result.map(Some)
    }

    fn make_room_locked(&self, bytes_max: u64, down_to: u64) -> io::Result<Room> {
        self.sweep_aside(now() - ASIDE_SECONDS_MAX)?;
        let mut files = self.scan()?;
        let mut room = Room { bytes: files.iter().map(|file| file.bytes).sum(), blocks: files.len() as u64, removed: 0 };
        if room.bytes <= bytes_max {
            return Ok(room);
        }
        files.sort_unstable_by_key(|file| file.used);
        for file in files {
            if room.bytes <= down_to {
                break;
            }
            self.remove(&file.name)?;
            room.bytes -= file.bytes;
            room.blocks -= 1;
            room.removed += 1;
        }
        Ok(room)
    }

    /// Removes all blocks; gives back their bytes and number. Waits for a daemon that makes room.
    pub fn clear(&self) -> io::Result<(u64, u64)> {
        fs::flock(&self.lock, FlockOperation::LockExclusive)?;
        let result = self.clear_locked();
        fs::flock(&self.lock, FlockOperation::Unlock)?;
        result
    }

    fn clear_locked(&self) -> io::Result<(u64, u64)> {
        let files = self.scan()?;
        for file in &files {
            self.remove(&file.name)?;
        }
        Ok((files.iter().map(|file| file.bytes).sum(), files.len() as u64))
    }

    fn sweep_aside(&self, before: i64) -> io::Result<()> {
        for name in names(&self.aside)? {
            let Ok(about) = fs::statat(&self.aside, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if modified(&about) < before {
                let _ = fs::unlinkat(&self.aside, name.as_str(), AtFlags::empty());
            }
        }
        Ok(())
    }
}

/// Seconds since 1970.
#[allow(clippy::unnecessary_cast)] // the field's type differs between systems
fn modified(about: &fs::Stat) -> i64 {
    about.st_mtime as i64
}

fn make_dir(at: &impl std::os::fd::AsFd, name: &str) -> io::Result<()> {
    match fs::mkdirat(at, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The names in a directory that are text, which all of ours are; without `.` and `..`.
fn names(dir: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        names.extend(entry.file_name().to_str().ok().filter(|name| *name != "." && *name != "..").map(str::to_owned));
    }
    Ok(names)
}
