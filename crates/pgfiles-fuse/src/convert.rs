//! Between the core's types and fuser's: attributes, times, and which errno each error is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo};
use pgfiles_store::lock::LockKind;
use pgfiles_store::version::{Kind, Timestamp};
use pgfiles_vfs::{Allocate, Attr, InodeNo, Seek, SetTime, VfsError};

pub(crate) fn errno(error: &VfsError) -> Errno {
    match error {
        VfsError::NotFound => Errno::ENOENT,
        // The kernel looks the path up once more and tries again.
        VfsError::Stale => Errno::ESTALE,
        VfsError::Exists => Errno::EEXIST,
        VfsError::NotDirectory => Errno::ENOTDIR,
        VfsError::IsDirectory => Errno::EISDIR,
        VfsError::NotEmpty => Errno::ENOTEMPTY,
        VfsError::NameTooLong => Errno::ENAMETOOLONG,
        VfsError::InvalidArgument(_) => Errno::EINVAL,
        VfsError::NotPermitted(_) => Errno::EPERM,
        VfsError::AccessDenied(_) => Errno::EACCES,
        VfsError::ReadOnly => Errno::EROFS,
        VfsError::TooLarge => Errno::EFBIG,
        VfsError::NoSpace => Errno::ENOSPC,
        VfsError::BadHandle => Errno::EBADF,
        VfsError::NoAttribute => Errno::NO_XATTR,
        VfsError::TooManyLinks => Errno::EMLINK,
        VfsError::CrossDevice => Errno::EXDEV,
        VfsError::BeyondEnd => Errno::ENXIO,
        VfsError::AttributeTooLarge => Errno::E2BIG,
        VfsError::NotSupported => Errno::EOPNOTSUPP,
        // Two clients met; the caller may try again.
        VfsError::Conflict(_) => Errno::EBUSY,
        VfsError::WouldBlock => Errno::EAGAIN,
        // The kernel runs the signal's handler, then asks again or not, as `man 7 signal` says of locks.
        VfsError::Interrupted => Errno::EINTR,
        VfsError::NoLocks => Errno::ENOLCK,
        // As NFS says it.
        VfsError::LockLost => Errno::EIO,
        VfsError::Unavailable(_) | VfsError::Corrupt(_) | VfsError::Io(_) => Errno::EIO,
    }
}

pub(crate) fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::Char => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
    }
}

/// The kind that the type bits of a mode name; 0 is a regular file (`man 2 mknod`).
pub(crate) fn kind_of_mode(mode: u32) -> Option<Kind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(Kind::File),
        libc::S_IFDIR => Some(Kind::Dir),
        libc::S_IFLNK => Some(Kind::Symlink),
        libc::S_IFIFO => Some(Kind::Fifo),
        libc::S_IFSOCK => Some(Kind::Socket),
        libc::S_IFCHR => Some(Kind::Char),
        libc::S_IFBLK => Some(Kind::Block),
        _ => None,
    }
}

pub(crate) fn attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.allocated.div_ceil(512),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // The kernel's own encoding, which is what mknod was given.
        rdev: attr.rdev as u32,
        blksize: 4096,
        flags: 0,
    }
}

pub(crate) fn ino(ino: INodeNo) -> InodeNo {
    InodeNo(ino.0)
}

/// A moment outside what the system's type holds is shown as the epoch.
fn system_time(at: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(at.nanos));
    let whole = Duration::from_secs(at.seconds.unsigned_abs());
    let seconds = if at.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    seconds.and_then(|seconds| seconds.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// A time that fuser 0.18 decoded: before the epoch it takes the nanoseconds off where the kernel means them added
/// (its `system_time_from_time`), so both parts are taken as they came.
fn timestamp(at: SystemTime) -> Timestamp {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Timestamp { seconds: -i64::try_from(before.as_secs()).unwrap_or(i64::MAX), nanos: before.subsec_nanos() }
        }
    }
}

/// What `fallocate`'s mode asks for; `None` for what is not carried (collapse, insert, unshare).
pub(crate) fn allocate(mode: i32) -> Option<Allocate> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    Some(match mode {
        0 => Allocate::Reserve { keep_size: false },
        libc::FALLOC_FL_KEEP_SIZE => Allocate::Reserve { keep_size: true },
        PUNCH => Allocate::Punch,
        libc::FALLOC_FL_ZERO_RANGE => Allocate::Zero { keep_size: false },
        ZERO_KEEP => Allocate::Zero { keep_size: true },
        _ => return None,
    })
}

/// What `lseek` looks for; the kernel does the other kinds itself.
pub(crate) fn seek(whence: i32) -> Option<Seek> {
    match whence {
        libc::SEEK_DATA => Some(Seek::Data),
        libc::SEEK_HOLE => Some(Seek::Hole),
        _ => None,
    }
}

/// `l_type` of `man 2 fcntl`; `None` for F_UNLCK.
pub(crate) fn lock_kind(kind: i32) -> Option<LockKind> {
    match kind {
        libc::F_RDLCK => Some(LockKind::Shared),
        libc::F_WRLCK => Some(LockKind::Exclusive),
        _ => None,
    }
}

/// And back.
pub(crate) fn lock_type(kind: LockKind) -> i32 {
    match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    }
}

pub(crate) fn set_time(time: fuser::TimeOrNow) -> SetTime {
    match time {
        fuser::TimeOrNow::Now => SetTime::Now,
        fuser::TimeOrNow::SpecificTime(at) => SetTime::At(timestamp(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch() {
        let shown = system_time(Timestamp { seconds: -1, nanos: 999_999_999 });
        assert_eq!(shown, UNIX_EPOCH - Duration::from_nanos(1));
        // As fuser hands on what the kernel sent as -1 s + 999,999,999 ns.
        let decoded = UNIX_EPOCH - Duration::new(1, 999_999_999);
        assert_eq!(timestamp(decoded), Timestamp { seconds: -1, nanos: 999_999_999 });
        assert_eq!(timestamp(UNIX_EPOCH + Duration::new(5, 7)), Timestamp { seconds: 5, nanos: 7 });
    }
}
