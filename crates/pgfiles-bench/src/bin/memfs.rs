//! A filesystem in memory: what the same requests cost with no store behind them (F). One lock, no more than the
//! benchmark's programs need; it asks the kernel for what pgfiles asks for (`pgfiles_fuse::ask_kernel`).
//!
//!     memfs MOUNTPOINT

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use pgfiles_fuse::{MountOptions, session_config};

/// As long as pgfiles trusts what it knows where nothing else is set.
const TTL: Duration = Duration::from_secs(30);
const GENERATION: Generation = Generation(0);

struct Node {
    attr: FileAttr,
    data: Vec<u8>,
    target: Option<OsString>,
    names: BTreeMap<OsString, u64>,
    parent: u64,
}

/// What a directory held when it was opened, so that each call goes on where the one before ended.
type Listing = Arc<[(OsString, u64)]>;

struct Nodes {
    by_ino: HashMap<u64, Node>,
    next: u64,
    listings: HashMap<u64, Listing>,
    next_listing: u64,
}

struct Memfs(Mutex<Nodes>);

fn attr(ino: u64, kind: FileType, perm: u32, request: Option<&Request>) -> FileAttr {
    let now = SystemTime::now();
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        kind,
        perm: (perm & 0o7777) as u16,
        nlink: if kind == FileType::Directory { 2 } else { 1 },
        uid: request.map_or(0, Request::uid),
        gid: request.map_or(0, Request::gid),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Nodes {
    fn node(&mut self, ino: INodeNo) -> Result<&mut Node, Errno> {
        self.by_ino.get_mut(&ino.0).ok_or(Errno::ENOENT)
    }

    fn child(&mut self, parent: INodeNo, name: &OsStr) -> Result<u64, Errno> {
        self.node(parent)?.names.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn make(&mut self, request: &Request, parent: INodeNo, name: &OsStr, kind: FileType, perm: u32) -> Result<&mut Node, Errno> {
        if self.child(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.next += 1;
        let ino = self.next;
        let dir = self.node(parent)?;
        dir.names.insert(name.to_owned(), ino);
        let now = SystemTime::now();
        (dir.attr.mtime, dir.attr.ctime) = (now, now);
        let node = Node {
            attr: attr(ino, kind, perm, Some(request)),
            data: Vec::new(),
            target: None,
            names: BTreeMap::new(),
            parent: parent.0,
        };
        Ok(self.by_ino.entry(ino).or_insert(node))
    }

    /// Takes a name away; the node goes with its last one.
    fn leave(&mut self, parent: INodeNo, name: &OsStr) -> Result<u64, Errno> {
        let ino = self.node(parent)?.names.remove(name).ok_or(Errno::ENOENT)?;
        let now = SystemTime::now();
        let dir = self.node(parent)?;
        (dir.attr.mtime, dir.attr.ctime) = (now, now);
        Ok(ino)
    }

    fn unlink(&mut self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let ino = self.leave(parent, name)?;
        let node = self.node(INodeNo(ino))?;
        node.attr.nlink = node.attr.nlink.saturating_sub(1);
        // Kept while it may be open: the process ends with the run.
        Ok(())
    }

    fn open_dir(&mut self, ino: INodeNo) -> Result<u64, Errno> {
        let dir = self.node(ino)?;
        let own = [(OsString::from("."), ino.0), (OsString::from(".."), dir.parent)];
        let listing = own.into_iter().chain(dir.names.iter().map(|(name, ino)| (name.clone(), *ino))).collect();
        self.next_listing += 1;
        self.listings.insert(self.next_listing, listing);
        Ok(self.next_listing)
    }

    /// Shows what is left of a listing until `add` says that the reply is full.
    fn list(&self, fh: FileHandle, offset: u64, mut add: impl FnMut(u64, &OsStr, &FileAttr) -> bool) -> Result<(), Errno> {
        let listing = self.listings.get(&fh.0).ok_or(Errno::EBADF)?;
        for (at, (name, ino)) in listing.iter().enumerate().skip(offset as usize) {
            // What was removed meanwhile is left out.
            let Some(node) = self.by_ino.get(ino) else { continue };
            if add(at as u64 + 1, name, &node.attr) {
                break;
            }
        }
        Ok(())
    }
}

impl Memfs {
    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

macro_rules! answer {
    ($reply:ident, $result:expr, $ok:pat => $done:expr) => {
        match $result {
            Ok($ok) => $done,
            Err(error) => $reply.error(error),
        }
    };
}

impl Filesystem for Memfs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        pgfiles_fuse::ask_kernel(config);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut nodes = self.nodes();
        match nodes.child(parent, name).and_then(|ino| nodes.node(INodeNo(ino)).map(|node| node.attr)) {
            Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
            // Absence is remembered, as pgfiles lets it be.
            Err(_) => reply.entry(&TTL, &FileAttr { ino: INodeNo(0), ..attr(0, FileType::RegularFile, 0, None) }, GENERATION),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, self.nodes().node(ino).map(|node| node.attr), attr => reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let time = |time: TimeOrNow| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => SystemTime::now(),
        };
        let mut nodes = self.nodes();
        answer!(reply, nodes.node(ino), node => {
            let attr = &mut node.attr;
            attr.perm = mode.map_or(attr.perm, |mode| (mode & 0o7777) as u16);
            (attr.uid, attr.gid) = (uid.unwrap_or(attr.uid), gid.unwrap_or(attr.gid));
            (attr.atime, attr.mtime) = (atime.map_or(attr.atime, time), mtime.map_or(attr.mtime, time));
            attr.ctime = SystemTime::now();
            if let Some(size) = size {
                node.data.resize(size as usize, 0);
                (attr.size, attr.blocks, attr.mtime) = (size, size.div_ceil(512), attr.ctime);
            }
            let attr = *attr;
            reply.attr(&TTL, &attr);
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self.nodes().node(ino).map(|node| node.target.clone().unwrap_or_default());
        answer!(reply, target, target => reply.data(target.as_encoded_bytes()));
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, _rdev: u32, reply: ReplyEntry) {
        let made = self.nodes().make(request, parent, name, FileType::RegularFile, mode).map(|node| node.attr);
        answer!(reply, made, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let made = self.nodes().make(request, parent, name, FileType::Directory, mode).map(|node| node.attr);
        answer!(reply, made, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let made = self.nodes().make(request, parent, name, FileType::Symlink, 0o777).map(|node| {
            node.target = Some(target.as_os_str().to_owned());
            node.attr
        });
        answer!(reply, made, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self.nodes().unlink(parent, name), () => reply.ok());
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut nodes = self.nodes();
        let empty = nodes.child(parent, name).and_then(|ino| match nodes.node(INodeNo(ino))?.names.is_empty() {
            true => nodes.unlink(parent, name),
            false => Err(Errno::ENOTEMPTY),
        });
        answer!(reply, empty, () => reply.ok());
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut nodes = self.nodes();
        let moved = nodes.leave(parent, name).and_then(|ino| {
            let _ = nodes.unlink(new_parent, new_name);
            nodes.node(new_parent)?.names.insert(new_name.to_owned(), ino);
            nodes.node(INodeNo(ino))?.parent = new_parent.0;
            Ok(())
        });
        answer!(reply, moved, () => reply.ok());
    }

    fn link(&self, _request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut nodes = self.nodes();
        let linked = nodes.node(parent).map(|dir| dir.names.insert(name.to_owned(), ino.0)).and_then(|_| {
            let node = nodes.node(ino)?;
            node.attr.nlink += 1;
            Ok(node.attr)
        });
        answer!(reply, linked, attr => reply.entry(&TTL, &attr, GENERATION));
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mut nodes = self.nodes();
        answer!(reply, nodes.node(ino), node => {
            if flags.0 & libc::O_TRUNC != 0 {
                node.data.clear();
                node.attr.size = 0;
            }
            reply.opened(FileHandle(ino.0), FopenFlags::FOPEN_KEEP_CACHE);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        permissions: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.nodes().make(request, parent, name, FileType::RegularFile, permissions).map(|node| node.attr);
        answer!(reply, made, attr => reply.created(&TTL, &attr, GENERATION, FileHandle(attr.ino.0), FopenFlags::FOPEN_KEEP_CACHE));
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut nodes = self.nodes();
        answer!(reply, nodes.node(ino), node => {
            let start = (offset as usize).min(node.data.len());
            let end = (start + size as usize).min(node.data.len());
            reply.data(&node.data[start..end]);
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut nodes = self.nodes();
        answer!(reply, nodes.node(ino), node => {
            let end = offset as usize + data.len();
            if node.data.len() < end {
                node.data.resize(end, 0);
            }
            node.data[offset as usize..end].copy_from_slice(data);
            let size = node.data.len() as u64;
            (node.attr.size, node.attr.blocks, node.attr.mtime) = (size, size.div_ceil(512), SystemTime::now());
            reply.written(data.len() as u32);
        });
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.nodes().open_dir(ino), fh => reply.opened(FileHandle(fh), FopenFlags::empty()));
    }

    fn readdir(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.nodes().list(fh, offset, |next, name, attr| reply.add(attr.ino, next, attr.kind, name));
        answer!(reply, listed, () => reply.ok());
    }

    fn readdirplus(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let listed = self.nodes().list(fh, offset, |next, name, attr| reply.add(attr.ino, next, name, &TTL, attr, GENERATION));
        answer!(reply, listed, () => reply.ok());
    }

    fn releasedir(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.nodes().listings.remove(&fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 28, 1 << 27, 1 << 27, 1 << 20, 1 << 19, 4096, 255, 4096);
    }

    fn getxattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }
}

fn main() -> std::io::Result<()> {
    let Some(at) = std::env::args_os().nth(1) else {
        return Err(std::io::Error::other("memfs MOUNTPOINT"));
    };
    let root = Node {
        attr: attr(1, FileType::Directory, 0o755, None),
        data: Vec::new(),
        target: None,
        names: BTreeMap::new(),
        parent: 1,
    };
    let nodes = Nodes { by_ino: HashMap::from([(1, root)]), next: 1, listings: HashMap::new(), next_listing: 0 };
    let options = MountOptions { allow_other: false, fsname: "memfs".into(), ..MountOptions::new(&at) };
    fuser::Session::new(Memfs(Mutex::new(nodes)), Path::new(&at), &session_config(&options))?.run()
}
