//! The table of translations: each request is decoded, handed to one operation of [`Vfs`], and answered.
//!
//! The operation is polled once on the session thread, because most are answered from memory; one that has to wait goes
//! on as a task, and is given up if it is stuck. A request that is dropped without an answer, as by a panic, is answered EIO by fuser.

use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use pgfiles_store::lock::Change;
use pgfiles_vfs::{Activity, Caller, EntryReply, HandleId, LookupReply, OpenMode, Opened, Result, SetAttr, Vfs, XattrMode};
use tokio::runtime::Handle;

use crate::convert;
use crate::signals;
use crate::watched::Watched;

/// Inode numbers are random and not reused.
const GENERATION: Generation = Generation(0);
/// Names that are asked for at a time until the kernel's buffer is full, and those that do not fit given back: 25 of 32 bytes
/// fit into the 4 KiB of older kernels, eight times as many where it takes what getdents(2) has.
const NAMES_PER_CALL: usize = 16;

pub(crate) struct Adapter {
    vfs: Arc<Vfs>,
    runtime: Handle,
}

impl Adapter {
    pub fn new(vfs: Arc<Vfs>, runtime: Handle) -> Self {
        Self { vfs, runtime }
    }

    /// Runs an operation to its end: here, if it does not have to wait.
    fn run(&self, what: &'static str, operation: impl Future<Output = ()> + Send + 'static) {
        let activity = Activity::new();
        let mut operation = Box::pin(activity.run(operation));
        let _inside = self.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| operation.as_mut().poll(&mut context).is_pending())) {
            Ok(true) => drop(self.runtime.spawn(Watched::new(self.vfs.clone(), what, activity, operation))),
            Ok(false) => {}
            Err(_) => tracing::error!("an operation panicked; it was answered EIO"),
        }
    }
}

/// Any reply that can say an errno.
macro_rules! answer {
    ($reply:ident, $what:literal, $result:expr, $value:pat => $ok:expr) => {
        match $result {
            Ok($value) => $ok,
            Err(error) => {
                log($what, &error);
                $reply.error(convert::errno(&error));
            }
        }
    };
}

fn log(what: &str, error: &pgfiles_vfs::VfsError) {
    match convert::errno(error) {
        Errno::EIO | Errno::ENOSPC => tracing::warn!(operation = what, %error, "answered with an error"),
        _ => tracing::debug!(operation = what, %error, "answered with an error"),
    }
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

fn mode(flags: i32) -> OpenMode {
    let access = flags & libc::O_ACCMODE;
    OpenMode {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        append: flags & libc::O_APPEND != 0,
        truncate: flags & libc::O_TRUNC != 0,
        exclusive: flags & libc::O_EXCL != 0,
    }
}

fn opened(opened: Opened) -> (FileHandle, FopenFlags) {
    let flags = if opened.keep_cache { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
    (FileHandle(opened.handle.0), flags)
}

fn handle(fh: FileHandle) -> HandleId {
    HandleId(fh.0)
}

fn entry(reply: ReplyEntry, what: &str, result: Result<EntryReply>) {
    match result {
        Ok(found) => reply.entry(&found.ttl, &convert::attr(&found.attr), GENERATION),
        Err(error) => {
            log(what, &error);
            reply.error(convert::errno(&error));
        }
    }
}

fn empty(reply: ReplyEmpty, what: &str, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => {
            log(what, &error);
            reply.error(convert::errno(&error));
        }
    }
}

/// An attribute's value or list, or how long it is.
fn xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>>) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => {
            log("xattr", &error);
            reply.error(convert::errno(&error));
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        crate::ask_kernel(config);
        if self.vfs.is_shared() {
            // Otherwise the kernel keeps locks by itself.
            let _ = config.add_capabilities(InitFlags::FUSE_POSIX_LOCKS | InitFlags::FUSE_FLOCK_LOCKS);
        }
        Ok(())
    }

    fn destroy(&mut self) {
        if let Err(error) = self.runtime.block_on(self.vfs.shutdown()) {
            tracing::error!(%error, "not everything was published at unmount");
        }
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (vfs, parent, name) = (self.vfs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        self.run("lookup", async move {
            match vfs.lookup(parent, &name).await {
                Ok(LookupReply::Found(found)) => entry(reply, "lookup", Ok(found)),
                // Inode 0 is an absence that the kernel may remember.
                Ok(LookupReply::Absent(ttl)) if !ttl.is_zero() => reply.entry(&ttl, &absent(), GENERATION),
                Ok(LookupReply::Absent(_)) => reply.error(Errno::ENOENT),
                Err(error) => entry(reply, "lookup", Err(error)),
            }
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        self.vfs.forget(convert::ino(ino), lookups);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let (vfs, ino) = (self.vfs.clone(), convert::ino(ino));
        self.run("getattr", async move {
            answer!(reply, "getattr", vfs.getattr(ino).await, found => reply.attr(&found.ttl, &convert::attr(&found.attr)));
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (vfs, ino, caller) = (self.vfs.clone(), convert::ino(ino), caller(request));
        let (atime, mtime) = (atime.map(convert::set_time), mtime.map(convert::set_time));
        let set = SetAttr { mode, uid, gid, size, atime, mtime };
        self.run("setattr", async move {
            let result = vfs.setattr(ino, set, fh.map(handle), caller).await;
            answer!(reply, "setattr", result, found => reply.attr(&found.ttl, &convert::attr(&found.attr)));
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let (vfs, ino) = (self.vfs.clone(), convert::ino(ino));
        self.run("readlink", async move { answer!(reply, "readlink", vfs.readlink(ino).await, target => reply.data(&target)) });
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, rdev: u32, reply: ReplyEntry) {
        let (vfs, parent, name) = (self.vfs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        let caller = caller(request);
        let Some(kind) = convert::kind_of_mode(mode) else { return reply.error(Errno::EINVAL) };
        self.run("mknod", async move {
            entry(reply, "mknod", vfs.mknod(parent, &name, kind, mode & 0o7777, u64::from(rdev), caller).await);
        });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let (vfs, parent, name) = (self.vfs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        let caller = caller(request);
        self.run("mkdir", async move { entry(reply, "mkdir", vfs.mkdir(parent, &name, mode & 0o7777, caller).await) });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, parent, name) = (self.vfs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        self.run("unlink", async move { empty(reply, "unlink", vfs.unlink(parent, &name).await) });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, parent, name) = (self.vfs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        self.run("rmdir", async move { empty(reply, "rmdir", vfs.rmdir(parent, &name).await) });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (vfs, parent, name) = (self.vfs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        let (target, caller) = (target.as_os_str().as_bytes().to_vec(), caller(request));
        self.run("symlink", async move { entry(reply, "symlink", vfs.symlink(parent, &name, &target, caller).await) });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (vfs, parent, name) = (self.vfs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        let (new_parent, new_name) = (convert::ino(new_parent), new_name.as_bytes().to_vec());
        let noreplace = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
        if flags.intersects(!(RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE)) || noreplace && exchange {
            return reply.error(Errno::EINVAL);
        }
        self.run("rename", async move {
            let result = if exchange {
                vfs.exchange(parent, &name, new_parent, &new_name).await
            } else {
                vfs.rename(parent, &name, new_parent, &new_name, noreplace).await
            };
            empty(reply, "rename", result);
        });
    }

    fn link(&self, _request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (vfs, ino, parent) = (self.vfs.clone(), convert::ino(ino), convert::ino(parent));
        let name = name.as_bytes().to_vec();
        self.run("link", async move { entry(reply, "link", vfs.link(ino, parent, &name).await) });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, ino, caller) = (self.vfs.clone(), convert::ino(ino), caller(request));
        self.run("open", async move {
            answer!(reply, "open", vfs.open(ino, mode(flags.0), caller).await, file => {
                let (fh, flags) = opened(file);
                reply.opened(fh, flags);
            });
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        permissions: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (vfs, parent, name) = (self.vfs.clone(), convert::ino(parent), name.as_bytes().to_vec());
        let caller = caller(request);
        self.run("create", async move {
            let result = vfs.create(parent, &name, permissions & 0o7777, mode(flags), caller).await;
            answer!(reply, "create", result, (found, file) => {
                let (fh, flags) = opened(file);
                reply.created(&found.ttl, &convert::attr(&found.attr), GENERATION, fh, flags);
            });
        });
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let vfs = self.vfs.clone();
        self.run("read", async move {
            answer!(reply, "read", vfs.read(handle(fh), offset, u64::from(size)).await, bytes => reply.data(&bytes));
        });
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (vfs, bytes) = (self.vfs.clone(), Bytes::copy_from_slice(data));
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.run("write", async move {
            answer!(reply, "write", vfs.write(handle(fh), offset, bytes, kill).await, len => reply.written(len as u32));
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (vfs, kill) = (self.vfs.clone(), request.uid() != 0);
        let Some(what) = convert::allocate(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        self.run("fallocate", async move {
            empty(reply, "fallocate", vfs.fallocate(handle(fh), what, offset, length, kill).await);
        });
    }

    fn lseek(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let vfs = self.vfs.clone();
        let Some(what) = convert::seek(whence) else { return reply.error(Errno::EINVAL) };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        self.run("lseek", async move {
            answer!(reply, "lseek", vfs.lseek(handle(fh), offset, what).await, found => reply.offset(found as i64));
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        /// What the answer can count.
        const COPIED_MAX: u64 = 1 << 31;
        let (vfs, kill) = (self.vfs.clone(), request.uid() != 0);
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        self.run("copy_file_range", async move {
            let (from, to) = ((handle(fh_in), offset_in), (handle(fh_out), offset_out));
            let result = vfs.copy_file_range(from, to, len.min(COPIED_MAX), kill).await;
            answer!(reply, "copy_file_range", result, copied => reply.written(copied as u32));
        });
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let (vfs, fh) = (self.vfs.clone(), handle(fh));
        self.run("flush", async move {
            let flushed = vfs.flush_handle(fh).await;
            empty(reply, "flush", flushed.and(vfs.unlock_owner(fh, owner.0).await));
        });
    }

    fn getlk(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let (vfs, range) = (self.vfs.clone(), Change { owner: owner.0, start, end, kind: convert::lock_kind(kind), pid });
        self.run("getlk", async move {
            answer!(reply, "getlk", vfs.getlk(handle(fh), range).await, found => match found {
                Some(lock) => reply.locked(lock.start, lock.end, convert::lock_type(lock.kind), lock.pid),
                None => reply.locked(start, end, libc::F_UNLCK, 0),
            });
        });
    }

    fn setlk(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let (vfs, range) = (self.vfs.clone(), Change { owner: owner.0, start, end, kind: convert::lock_kind(kind), pid });
        let thread = request.pid();
        self.run("setlk", async move {
            empty(reply, "setlk", vfs.setlk(handle(fh), range, sleep, || signals::is_pending(thread)).await);
        });
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs.clone();
        self.run("release", async move {
            vfs.release(handle(fh)).await;
            reply.ok();
        });
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let vfs = self.vfs.clone();
        self.run("fsync", async move { empty(reply, "fsync", vfs.fsync(handle(fh), datasync).await) });
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, ino) = (self.vfs.clone(), convert::ino(ino));
        self.run("opendir", async move {
            answer!(reply, "opendir", vfs.opendir(ino).await, dir => reply.opened(FileHandle(dir.0), FopenFlags::empty()));
        });
    }

    fn readdir(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let vfs = self.vfs.clone();
        self.run("readdir", async move {
            let mut at = offset;
            loop {
                let names = match vfs.readdir(handle(fh), at, NAMES_PER_CALL, false).await {
                    Ok(names) => names,
                    Err(error) => {
                        log("readdir", &error);
                        return reply.error(convert::errno(&error));
                    }
                };
                let Some(last) = names.last() else { return reply.ok() };
                at = last.next;
                for name in &names {
                    let kind = convert::kind(name.kind);
                    if reply.add(INodeNo(name.ino.0), name.next, kind, OsStr::from_bytes(&name.name)) {
                        return reply.ok();
                    }
                }
            }
        });
    }

    fn readdirplus(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let vfs = self.vfs.clone();
        self.run("readdirplus", async move {
            let mut at = offset;
            loop {
                let names = match vfs.readdir(handle(fh), at, NAMES_PER_CALL, true).await {
                    Ok(names) => names,
                    Err(error) => {
                        log("readdirplus", &error);
                        return reply.error(convert::errno(&error));
                    }
                };
                let Some(last) = names.last() else { return reply.ok() };
                at = last.next;
                for (index, name) in names.iter().enumerate() {
                    let (attr, ttl) = match &name.plus {
                        Some((attr, ttl)) => (convert::attr(attr), *ttl),
                        // For `.` and `..` the kernel wants nothing but the number.
                        None => (
                            fuser::FileAttr { ino: INodeNo(name.ino.0), kind: convert::kind(name.kind), ..absent() },
                            Duration::ZERO,
                        ),
                    };
                    let ino = INodeNo(name.ino.0);
                    if reply.add(ino, name.next, OsStr::from_bytes(&name.name), &ttl, &attr, GENERATION) {
                        for name in names.iter().skip(index).filter(|name| name.plus.is_some()) {
                            vfs.forget(name.ino, 1);
                        }
                        return reply.ok();
                    }
                }
            }
        });
    }

    fn releasedir(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.vfs.releasedir(handle(fh));
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let (vfs, ino) = (self.vfs.clone(), convert::ino(ino));
        self.run("fsyncdir", async move { empty(reply, "fsyncdir", vfs.fsyncdir(ino).await) });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        const BLOCK_BYTES: u32 = 4096;
        const NAME_BYTES_MAX: u32 = 255;
        let vfs = self.vfs.clone();
        self.run("statfs", async move {
            answer!(reply, "statfs", vfs.statfs().await, stat => reply.statfs(
                stat.blocks, stat.blocks_free, stat.blocks_free, stat.files, stat.files_free, BLOCK_BYTES, NAME_BYTES_MAX, BLOCK_BYTES,
            ));
        });
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (vfs, ino) = (self.vfs.clone(), convert::ino(ino));
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let mode = match flags {
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => XattrMode::Set,
        };
        self.run("setxattr", async move { empty(reply, "setxattr", vfs.setxattr(ino, &name, &value, mode).await) });
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (vfs, ino, name) = (self.vfs.clone(), convert::ino(ino), name.as_bytes().to_vec());
        self.run("getxattr", async move { xattr(reply, size, vfs.getxattr(ino, &name).await) });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (vfs, ino, caller) = (self.vfs.clone(), convert::ino(ino), caller(request));
        self.run("listxattr", async move { xattr(reply, size, vfs.listxattr(ino, caller).await) });
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, ino, name) = (self.vfs.clone(), convert::ino(ino), name.as_bytes().to_vec());
        self.run("removexattr", async move { empty(reply, "removexattr", vfs.removexattr(ino, &name).await) });
    }
}

/// An entry that says nothing.
fn absent() -> fuser::FileAttr {
    fuser::FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}
