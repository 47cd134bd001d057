//! The way in without a kernel: [`Vfs`] called as an adapter calls it, paths walked here.

use std::sync::Arc;

use bytes::Bytes;
use pgfiles_store::version::{Kind, Timestamp};
use pgfiles_vfs::{
    Allocate, Attr, Caller, HandleId, InodeNo, LookupReply, OpenMode, Seek, SetAttr, SetTime, Vfs, VfsError, XattrMode,
};
use tokio::runtime::Runtime;

use super::{Fs, Outcome, Stat};

const ROOT: Caller = Caller { uid: 0, gid: 0 };

/// A filesystem and the runtime that it lives in.
pub struct Direct {
    /// The filesystem.
    pub vfs: Arc<Vfs>,
    /// Where its tasks run.
    pub runtime: Runtime,
}

/// The errno that FUSE would answer.
fn errno(error: VfsError) -> i32 {
    match error {
        VfsError::NotFound => libc::ENOENT,
        VfsError::Stale => libc::ESTALE,
        VfsError::Exists => libc::EEXIST,
        VfsError::NotDirectory => libc::ENOTDIR,
        VfsError::IsDirectory => libc::EISDIR,
        VfsError::NotEmpty => libc::ENOTEMPTY,
        VfsError::NameTooLong => libc::ENAMETOOLONG,
        VfsError::InvalidArgument(_) => libc::EINVAL,
        VfsError::NotPermitted(_) => libc::EPERM,
        VfsError::AccessDenied(_) => libc::EACCES,
        VfsError::ReadOnly => libc::EROFS,
        VfsError::TooLarge => libc::EFBIG,
        VfsError::NoSpace => libc::ENOSPC,
        VfsError::TooManyLinks => libc::EMLINK,
        VfsError::CrossDevice => libc::EXDEV,
        VfsError::BeyondEnd => libc::ENXIO,
        VfsError::BadHandle => libc::EBADF,
        VfsError::NoAttribute => libc::ENODATA,
        VfsError::AttributeTooLarge => libc::E2BIG,
        VfsError::NotSupported => libc::EOPNOTSUPP,
        VfsError::Conflict(_) => libc::EBUSY,
        VfsError::WouldBlock => libc::EAGAIN,
        VfsError::Interrupted => libc::EINTR,
        VfsError::NoLocks => libc::ENOLCK,
        VfsError::Unavailable(_) | VfsError::Corrupt(_) | VfsError::Io(_) | VfsError::LockLost => libc::EIO,
    }
}

fn stat(attr: Attr) -> Stat {
    let kind = match attr.kind {
        Kind::File => libc::S_IFREG,
        Kind::Dir => libc::S_IFDIR,
        Kind::Symlink => libc::S_IFLNK,
        Kind::Fifo => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
        Kind::Char => libc::S_IFCHR,
        Kind::Block => libc::S_IFBLK,
    };
    Stat {
        ino: attr.ino.0,
        mode: kind | attr.mode,
        nlink: attr.nlink.into(),
        size: attr.size,
        stored: attr.allocated.div_ceil(512) * 512,
        uid: attr.uid,
        mtime: (attr.mtime.seconds, attr.mtime.nanos),
        ctime: (attr.ctime.seconds, attr.ctime.nanos),
    }
}

impl Direct {
    fn wait<T>(&self, operation: impl Future<Output = pgfiles_vfs::Result<T>>) -> Outcome<T> {
        self.runtime.block_on(operation).map_err(errno)
    }

    async fn walk(&self, path: &str) -> pgfiles_vfs::Result<InodeNo> {
        let mut at = InodeNo::ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = match self.vfs.lookup(at, name.as_bytes()).await? {
                LookupReply::Found(found) => found.attr.ino,
                LookupReply::Absent(_) => return Err(VfsError::NotFound),
            };
        }
        Ok(at)
    }

    async fn parent<'p>(&self, path: &'p str) -> pgfiles_vfs::Result<(InodeNo, &'p [u8])> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.walk(dir).await?, name.as_bytes()))
    }

    fn set(&self, path: &str, set: SetAttr) -> Outcome<()> {
        self.wait(async { self.vfs.setattr(self.walk(path).await?, set, None, ROOT).await.map(drop) })
    }
}

impl Fs for Direct {
    type File = (HandleId, InodeNo);

    fn open(&self, path: &str, flags: i32, mode: u32) -> Outcome<(HandleId, InodeNo)> {
        let access = flags & libc::O_ACCMODE;
        let open = OpenMode {
            read: access != libc::O_WRONLY,
            write: access != libc::O_RDONLY,
            append: flags & libc::O_APPEND != 0,
            truncate: flags & libc::O_TRUNC != 0,
            exclusive: flags & libc::O_EXCL != 0,
        };
        self.wait(async {
            if flags & libc::O_CREAT != 0 {
                let (parent, name) = self.parent(path).await?;
                let (entry, opened) = self.vfs.create(parent, name, mode, open, ROOT).await?;
                return Ok((opened.handle, entry.attr.ino));
            }
            let ino = self.walk(path).await?;
            Ok((self.vfs.open(ino, open, ROOT).await?.handle, ino))
        })
    }

    fn close(&self, file: (HandleId, InodeNo)) -> Outcome<()> {
        let flushed = self.wait(self.vfs.flush_handle(file.0));
        self.runtime.block_on(self.vfs.release(file.0));
        flushed
    }

    fn pread(&self, file: &(HandleId, InodeNo), offset: u64, len: usize) -> Outcome<Vec<u8>> {
        self.wait(self.vfs.read(file.0, offset, len as u64)).map(|bytes| bytes.to_vec())
    }

    fn pwrite(&self, file: &(HandleId, InodeNo), offset: u64, bytes: &[u8]) -> Outcome<()> {
        self.wait(async {
            let mut at = offset;
            for piece in bytes.chunks(1 << 20) {
                at += self.vfs.write(file.0, at, Bytes::copy_from_slice(piece), false).await?;
            }
            Ok(())
        })
    }

    fn fsync(&self, file: &(HandleId, InodeNo)) -> Outcome<()> {
        self.wait(self.vfs.fsync(file.0, false))
    }

    fn ftruncate(&self, file: &(HandleId, InodeNo), size: u64) -> Outcome<()> {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.wait(self.vfs.setattr(file.1, set, Some(file.0), ROOT)).map(drop)
    }

    fn fstat(&self, file: &(HandleId, InodeNo)) -> Outcome<Stat> {
        self.wait(self.vfs.getattr(file.1)).map(|found| stat(found.attr))
    }

    fn lstat(&self, path: &str) -> Outcome<Stat> {
        self.wait(async { Ok(stat(self.vfs.getattr(self.walk(path).await?).await?.attr)) })
    }

    fn mkdir(&self, path: &str, mode: u32) -> Outcome<()> {
        self.wait(async {
            let (parent, name) = self.parent(path).await?;
            self.vfs.mkdir(parent, name, mode, ROOT).await.map(drop)
        })
    }

    fn rmdir(&self, path: &str) -> Outcome<()> {
        self.wait(async {
            let (parent, name) = self.parent(path).await?;
            self.vfs.rmdir(parent, name).await
        })
    }

    fn unlink(&self, path: &str) -> Outcome<()> {
        self.wait(async {
            let (parent, name) = self.parent(path).await?;
            self.vfs.unlink(parent, name).await
        })
    }

    fn rename(&self, from: &str, to: &str, noreplace: bool) -> Outcome<()> {
        self.wait(async {
            let ((parent, name), (new_parent, new_name)) = (self.parent(from).await?, self.parent(to).await?);
            self.vfs.rename(parent, name, new_parent, new_name, noreplace).await
        })
    }

    fn exchange(&self, a: &str, b: &str) -> Outcome<()> {
        self.wait(async {
            let ((parent, name), (new_parent, new_name)) = (self.parent(a).await?, self.parent(b).await?);
            self.vfs.exchange(parent, name, new_parent, new_name).await
        })
    }

    fn link(&self, from: &str, to: &str) -> Outcome<()> {
        self.wait(async {
            let (ino, (parent, name)) = (self.walk(from).await?, self.parent(to).await?);
            self.vfs.link(ino, parent, name).await.map(drop)
        })
    }

    fn fallocate(&self, file: &(HandleId, InodeNo), mode: i32, offset: u64, len: u64) -> Outcome<()> {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let what = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Allocate::Reserve { keep_size },
            libc::FALLOC_FL_ZERO_RANGE => Allocate::Zero { keep_size },
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => Allocate::Punch,
            _ => return Err(libc::EOPNOTSUPP),
        };
        self.wait(self.vfs.fallocate(file.0, what, offset, len, false))
    }

    fn lseek(&self, file: &(HandleId, InodeNo), offset: u64, whence: i32) -> Outcome<u64> {
        let what = if whence == libc::SEEK_DATA { Seek::Data } else { Seek::Hole };
        self.wait(self.vfs.lseek(file.0, offset, what))
    }

    fn copy_range(
        &self,
        from: &(HandleId, InodeNo),
        offset: u64,
        to: &(HandleId, InodeNo),
        to_offset: u64,
        len: u64,
    ) -> Outcome<u64> {
        self.wait(self.vfs.copy_file_range((from.0, offset), (to.0, to_offset), len, false))
    }

    fn symlink(&self, target: &[u8], path: &str) -> Outcome<()> {
        self.wait(async {
            let (parent, name) = self.parent(path).await?;
            self.vfs.symlink(parent, name, target, ROOT).await.map(drop)
        })
    }

    fn readlink(&self, path: &str) -> Outcome<Vec<u8>> {
        self.wait(async { self.vfs.readlink(self.walk(path).await?).await })
    }

    fn readdir(&self, path: &str) -> Outcome<Vec<Vec<u8>>> {
        let mut names = self.readdir_slowly(path, &mut || {})?;
        names.sort();
        Ok(names)
    }

    fn readdir_slowly(&self, path: &str, between: &mut dyn FnMut()) -> Outcome<Vec<Vec<u8>>> {
        let dir = self.wait(async { self.vfs.opendir(self.walk(path).await?).await })?;
        let (mut names, mut at) = (Vec::new(), 0);
        loop {
            let page = self.wait(self.vfs.readdir(dir, at, 40, at % 80 == 0))?;
            let Some(last) = page.last() else { break };
            if at == 0 {
                between();
            }
            at = last.next;
            names.extend(page.into_iter().map(|entry| entry.name));
        }
        self.vfs.releasedir(dir);
        names.retain(|name| name != b"." && name != b"..");
        Ok(names)
    }

    fn mkfifo(&self, path: &str, mode: u32) -> Outcome<()> {
        self.wait(async {
            let (parent, name) = self.parent(path).await?;
            self.vfs.mknod(parent, name, Kind::Fifo, mode, 0, ROOT).await.map(drop)
        })
    }

    fn chmod(&self, path: &str, mode: u32) -> Outcome<()> {
        self.set(path, SetAttr { mode: Some(mode), ..SetAttr::default() })
    }

    fn chown(&self, path: &str, uid: u32, gid: u32) -> Outcome<()> {
        self.set(path, SetAttr { uid: Some(uid), gid: Some(gid), ..SetAttr::default() })
    }

    fn set_mtime(&self, path: &str, at: (i64, u32)) -> Outcome<()> {
        let at = SetTime::At(Timestamp { seconds: at.0, nanos: at.1 });
        self.set(path, SetAttr { mtime: Some(at), ..SetAttr::default() })
    }

    fn truncate(&self, path: &str, size: u64) -> Outcome<()> {
        self.set(path, SetAttr { size: Some(size), ..SetAttr::default() })
    }

    fn setxattr(&self, path: &str, name: &str, value: &[u8], flags: i32) -> Outcome<()> {
        let mode = match flags {
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => XattrMode::Set,
        };
        self.wait(async { self.vfs.setxattr(self.walk(path).await?, name.as_bytes(), value, mode).await })
    }

    fn getxattr(&self, path: &str, name: &str) -> Outcome<Vec<u8>> {
        self.wait(async { self.vfs.getxattr(self.walk(path).await?, name.as_bytes()).await })
    }

    fn listxattr(&self, path: &str) -> Outcome<Vec<u8>> {
        self.wait(async { self.vfs.listxattr(self.walk(path).await?, ROOT).await })
    }

    fn removexattr(&self, path: &str, name: &str) -> Outcome<()> {
        self.wait(async { self.vfs.removexattr(self.walk(path).await?, name.as_bytes()).await })
    }
}
