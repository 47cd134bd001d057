//! The way in over NFS v4.1 without a kernel: compounds as a client sends them, paths walked by the server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::{Fs, Outcome, Stat};
use crate::nfs_client::{Attrs, CURRENT, Claim, Client, Compound, Got, How, Reply, STAT, StateId, Xdr, attr, op};

/// What the protocol has no operation for, so that nobody asks the server: version 4.2 has, or none.
const NOT_CARRIED: i32 = libc::EOPNOTSUPP;
const PIECE_BYTES: u32 = 1 << 20;

/// A filesystem that is served, and a client of it.
pub struct OverNfs {
    client: Mutex<Client>,
    owners: AtomicU64,
}

/// An open file: its handle and stateid.
pub struct OpenFile {
    handle: Vec<u8>,
    id: Mutex<StateId>,
    append: bool,
}

/// What Linux's client makes of a status.
fn errno(status: u32) -> i32 {
    match status {
        10_009 | 10_027 => panic!("a comparison that nobody asked for"),
        63 => libc::ENAMETOOLONG,
        66 => libc::ENOTEMPTY,
        70 => libc::ESTALE,
        10_004 => libc::EOPNOTSUPP,
        10_010 => libc::EAGAIN,
        10_029 => libc::ELOOP,
        10_032 => libc::EINVAL,
        10_039 | 10_041 => libc::EINVAL,
        10_083 => libc::EINVAL,
        // Those below are numbered as errno.
        status if status < 10_000 => status as i32,
        status => panic!("status {status}"),
    }
}

fn outcome(reply: Reply) -> Outcome<Reply> {
    if reply.status == 0 { Ok(reply) } else { Err(errno(reply.status)) }
}

fn stat(attrs: &Attrs) -> Stat {
    let kind = match attrs.number(attr::TYPE) {
        1 | 9 => libc::S_IFREG,
        2 | 8 => libc::S_IFDIR,
        3 => libc::S_IFBLK,
        4 => libc::S_IFCHR,
        5 => libc::S_IFLNK,
        6 => libc::S_IFSOCK,
        7 => libc::S_IFIFO,
        other => panic!("type {other}"),
    };
    Stat {
        ino: attrs.number(attr::FILEID),
        mode: kind | attrs.number(attr::MODE) as u32,
        nlink: attrs.number(attr::NUMLINKS),
        size: attrs.number(attr::SIZE),
        stored: attrs.number(attr::SPACE_USED).div_ceil(512) * 512,
        uid: attrs.owner(attr::OWNER),
        mtime: attrs.time(attr::TIME_MODIFY),
        ctime: attrs.time(attr::TIME_METADATA),
    }
}

fn parent(path: &str) -> (&str, &[u8]) {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    (dir, name.as_bytes())
}

/// A component longer than the protocol's server takes is refused by a client itself.
fn checked(path: &str) -> Outcome<()> {
    if path.split('/').any(|name| name.len() > 255) { Err(libc::ENAMETOOLONG) } else { Ok(()) }
}

impl OverNfs {
    /// By a client that has its session.
    pub fn new(client: Client) -> Self {
        Self { client: Mutex::new(client), owners: AtomicU64::new(0) }
    }

    fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap()
    }

    fn run(&self, rest: impl FnOnce(Compound) -> Compound) -> Outcome<Reply> {
        outcome(self.client().run(rest))
    }

    /// The same where the reply may be larger than what a slot keeps.
    fn ask(&self, rest: impl FnOnce(Compound) -> Compound) -> Outcome<Reply> {
        outcome(self.client().ask(rest))
    }

    /// Deeper paths take several compounds, as for a kernel.
    fn walk(&self, path: &str) -> Outcome<Vec<u8>> {
        checked(path)?;
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let mut at = self.run(|all| all.root().getfh())?.handle();
        for some in names.chunks(10) {
            at = self.run(|all| some.iter().fold(all.handle(&at), |all, name| all.lookup(name.as_bytes())).getfh())?.handle();
        }
        Ok(at)
    }

    fn set(&self, path: &str, values: &[(u32, Xdr)]) -> Outcome<()> {
        let at = self.walk(path)?;
        self.run(|all| all.handle(&at).setattr([0; 16], values)).map(drop)
    }

    fn attribute_dir(&self, path: &str) -> Outcome<Vec<u8>> {
        let at = self.walk(path)?;
        Ok(self.run(|all| all.handle(&at).openattr().getfh())?.handle())
    }
}

/// A named attribute is one of `user`; the others the protocol does not carry.
fn attribute(name: &str) -> Outcome<&[u8]> {
    name.strip_prefix("user.").map(str::as_bytes).ok_or(libc::EOPNOTSUPP)
}

fn no_attribute(error: i32) -> i32 {
    if error == libc::ENOENT { libc::ENODATA } else { error }
}

impl Fs for OverNfs {
    type File = OpenFile;

    fn cannot(&self) -> &'static [(&'static str, &'static str)] {
        super::NOT_OVER_NFS
    }

    fn open(&self, path: &str, flags: i32, mode: u32) -> Outcome<OpenFile> {
        checked(path)?;
        let access = match flags & libc::O_ACCMODE {
            libc::O_RDONLY => 1,
            libc::O_WRONLY => 2,
            _ => 3,
        };
        let owner = self.owners.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let truncate = flags & libc::O_TRUNC != 0;
        let (dir, name) = parent(path);
        let dir = self.walk(dir)?;
        let how = if flags & libc::O_CREAT == 0 {
            How::Existing
        } else if flags & libc::O_EXCL != 0 {
            How::Exclusive(owner, vec![(attr::MODE, Xdr::default().u32(mode))])
        } else {
            let size = truncate.then(|| (attr::SIZE, Xdr::default().u64(0)));
            How::Create(size.into_iter().chain([(attr::MODE, Xdr::default().u32(mode))]).collect())
        };
        let reply = self.run(|all| all.handle(&dir).open(&owner, (access, 0), &how, Claim::Name(name)).getfh())?;
        let file = OpenFile { handle: reply.handle(), id: Mutex::new(reply.state()), append: flags & libc::O_APPEND != 0 };
        if truncate && flags & libc::O_CREAT == 0 {
            self.ftruncate(&file, 0)?;
        }
        Ok(file)
    }

    fn close(&self, file: OpenFile) -> Outcome<()> {
        let id = *file.id.lock().unwrap();
        // close(2) of a kernel: COMMIT, then CLOSE.
        self.run(|all| all.handle(&file.handle).commit())?;
        self.run(|all| all.handle(&file.handle).close(id)).map(drop)
    }

    fn pread(&self, file: &OpenFile, offset: u64, len: usize) -> Outcome<Vec<u8>> {
        let id = *file.id.lock().unwrap();
        let mut out = Vec::new();
        while out.len() < len {
            let (at, count) = (offset + out.len() as u64, ((len - out.len()) as u32).min(PIECE_BYTES));
            let reply = self.ask(|all| all.handle(&file.handle).read(id, at, count))?;
            let Got::Read { eof, data } = reply.of(op::READ) else { panic!("{reply:?}") };
            out.extend(data);
            if *eof {
                break;
            }
        }
        Ok(out)
    }

    fn pwrite(&self, file: &OpenFile, offset: u64, bytes: &[u8]) -> Outcome<()> {
        let id = *file.id.lock().unwrap();
        let mut at = if file.append { self.fstat(file)?.size } else { offset };
        for piece in bytes.chunks(PIECE_BYTES as usize) {
            let reply = self.run(|all| all.handle(&file.handle).write(id, at, 0, piece))?;
            let Got::Written { count, .. } = *reply.of(op::WRITE) else { panic!("{reply:?}") };
            assert_eq!(count as usize, piece.len());
            at += u64::from(count);
        }
        Ok(())
    }

    fn fsync(&self, file: &OpenFile) -> Outcome<()> {
        self.run(|all| all.handle(&file.handle).commit()).map(drop)
    }

    fn ftruncate(&self, file: &OpenFile, size: u64) -> Outcome<()> {
        let id = *file.id.lock().unwrap();
        self.run(|all| all.handle(&file.handle).setattr(id, &[(attr::SIZE, Xdr::default().u64(size))])).map(drop)
    }

    fn fstat(&self, file: &OpenFile) -> Outcome<Stat> {
        self.run(|all| all.handle(&file.handle).getattr(STAT)).map(|reply| stat(reply.attrs()))
    }

    fn lstat(&self, path: &str) -> Outcome<Stat> {
        let at = self.walk(path)?;
        self.run(|all| all.handle(&at).getattr(STAT)).map(|reply| stat(reply.attrs()))
    }

    fn mkdir(&self, path: &str, mode: u32) -> Outcome<()> {
        checked(path)?;
        let (dir, name) = parent(path);
        let dir = self.walk(dir)?;
        self.run(|all| all.handle(&dir).mkdir(name, mode)).map(drop)
    }

    fn rmdir(&self, path: &str) -> Outcome<()> {
        // REMOVE takes either; a kernel knows which it is.
        if self.lstat(path)?.mode & libc::S_IFMT != libc::S_IFDIR {
            return Err(libc::ENOTDIR);
        }
        let (dir, name) = parent(path);
        let dir = self.walk(dir)?;
        self.run(|all| all.handle(&dir).remove(name)).map(drop)
    }

    fn unlink(&self, path: &str) -> Outcome<()> {
        if self.lstat(path)?.mode & libc::S_IFMT == libc::S_IFDIR {
            return Err(libc::EISDIR);
        }
        let (dir, name) = parent(path);
        let dir = self.walk(dir)?;
        self.run(|all| all.handle(&dir).remove(name)).map(drop)
    }

    fn rename(&self, from: &str, to: &str, noreplace: bool) -> Outcome<()> {
        if noreplace {
            return Err(NOT_CARRIED);
        }
        checked(to)?;
        // A kernel knows what is at both names, and which errno is due where a directory meets something else.
        let is_dir = |stat: Stat| stat.mode & libc::S_IFMT == libc::S_IFDIR;
        let moved = self.lstat(from)?;
        match self.lstat(to) {
            Ok(there) if is_dir(there) && !is_dir(moved) => return Err(libc::EISDIR),
            Ok(there) if !is_dir(there) && is_dir(moved) => return Err(libc::ENOTDIR),
            _ => {}
        }
        let ((from_dir, from), (to_dir, to)) = (parent(from), parent(to));
        let (from_dir, to_dir) = (self.walk(from_dir)?, self.walk(to_dir)?);
        self.run(|all| all.handle(&from_dir).save().handle(&to_dir).rename(from, to)).map(drop)
    }

    fn exchange(&self, _a: &str, _b: &str) -> Outcome<()> {
        Err(NOT_CARRIED)
    }

    fn link(&self, from: &str, to: &str) -> Outcome<()> {
        let file = self.walk(from)?;
        let (dir, name) = parent(to);
        let dir = self.walk(dir)?;
        // `man 2 link`: a directory is refused before anybody asks the server.
        if self.lstat(from)?.mode & libc::S_IFMT == libc::S_IFDIR {
            return Err(libc::EPERM);
        }
        self.run(|all| all.handle(&file).save().handle(&dir).link(name)).map(drop)
    }

    fn fallocate(&self, _file: &OpenFile, _mode: i32, _offset: u64, _len: u64) -> Outcome<()> {
        Err(NOT_CARRIED)
    }

    fn lseek(&self, _file: &OpenFile, _offset: u64, _whence: i32) -> Outcome<u64> {
        Err(NOT_CARRIED)
    }

    fn copy_range(&self, _from: &OpenFile, _offset: u64, _to: &OpenFile, _to_offset: u64, _len: u64) -> Outcome<u64> {
        Err(NOT_CARRIED)
    }

    fn symlink(&self, target: &[u8], path: &str) -> Outcome<()> {
        let (dir, name) = parent(path);
        let dir = self.walk(dir)?;
        self.run(|all| all.handle(&dir).symlink(name, target)).map(drop)
    }

    fn readlink(&self, path: &str) -> Outcome<Vec<u8>> {
        let at = self.walk(path)?;
        let reply = self.run(|all| all.handle(&at).readlink())?;
        let Got::Target(target) = reply.of(op::READLINK) else { panic!("{reply:?}") };
        Ok(target.clone())
    }

    fn readdir(&self, path: &str) -> Outcome<Vec<Vec<u8>>> {
        let mut names = self.readdir_slowly(path, &mut || {})?;
        names.sort();
        Ok(names)
    }

    fn readdir_slowly(&self, path: &str, between: &mut dyn FnMut()) -> Outcome<Vec<Vec<u8>>> {
        let dir = self.walk(path)?;
        let (mut out, mut cookie, mut seen) = (Vec::new(), 0, [0; 8]);
        loop {
            // About forty names, with their attributes every second time.
            let wanted = if out.len() % 2 == 0 { STAT } else { &[attr::FILEID] };
            let reply = self.ask(|all| all.handle(&dir).readdir(cookie, seen, 4096, wanted))?;
            let Got::Names { verifier, names, eof } = reply.of(op::READDIR).clone() else { panic!("{reply:?}") };
            seen = verifier;
            if cookie == 0 {
                between();
            }
            let last = names.last().map(|name| name.cookie);
            out.extend(names.into_iter().map(|name| name.name));
            match last {
                Some(last) if !eof => cookie = last,
                _ => return Ok(out),
            }
        }
    }

    fn mkfifo(&self, path: &str, mode: u32) -> Outcome<()> {
        let (dir, name) = parent(path);
        let dir = self.walk(dir)?;
        self.run(|all| all.handle(&dir).node(7, None, name, mode)).map(drop)
    }

    fn chmod(&self, path: &str, mode: u32) -> Outcome<()> {
        self.set(path, &[(attr::MODE, Xdr::default().u32(mode))])
    }

    fn chown(&self, path: &str, uid: u32, gid: u32) -> Outcome<()> {
        let text = |number: u32| Xdr::default().opaque(number.to_string().as_bytes());
        self.set(path, &[(attr::OWNER, text(uid)), (attr::OWNER_GROUP, text(gid))])
    }

    fn set_mtime(&self, path: &str, at: (i64, u32)) -> Outcome<()> {
        self.set(path, &[(attr::TIME_MODIFY_SET, Xdr::default().u32(1).u64(at.0 as u64).u32(at.1))])
    }

    fn truncate(&self, path: &str, size: u64) -> Outcome<()> {
        self.set(path, &[(attr::SIZE, Xdr::default().u64(size))])
    }

    fn setxattr(&self, path: &str, name: &str, value: &[u8], flags: i32) -> Outcome<()> {
        let dir = self.attribute_dir(path)?;
        let name = attribute(name)?;
        let owner = self.owners.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let empty = vec![(attr::SIZE, Xdr::default().u64(0))];
        let how = match flags {
            libc::XATTR_CREATE => How::Guarded(Vec::new()),
            libc::XATTR_REPLACE => How::Existing,
            _ => How::Create(empty),
        };
        let opened = self.run(|all| all.handle(&dir).open(&owner, (3, 0), &how, Claim::Name(name)).getfh());
        let opened = opened.map_err(no_attribute)?;
        let (file, id) = (opened.handle(), opened.state());
        let written = self.run(|all| {
            let all = all.handle(&file).setattr(id, &[(attr::SIZE, Xdr::default().u64(0))]);
            if value.is_empty() { all } else { all.write(id, 0, 0, value) }
        });
        self.run(|all| all.handle(&file).close(id))?;
        // A file that is too large is an attribute that is.
        written.map(drop).map_err(|error| if error == libc::EFBIG { libc::E2BIG } else { error })
    }

    fn getxattr(&self, path: &str, name: &str) -> Outcome<Vec<u8>> {
        let dir = self.attribute_dir(path)?;
        let name = attribute(name)?;
        let owner = self.owners.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let reply = self.ask(|all| {
            all.handle(&dir).open(&owner, (1, 0), &How::Existing, Claim::Name(name)).read(CURRENT, 0, 65_536).close(CURRENT)
        });
        let reply = reply.map_err(no_attribute)?;
        let Got::Read { data, eof: true } = reply.of(op::READ) else { panic!("{reply:?}") };
        Ok(data.clone())
    }

    fn listxattr(&self, path: &str) -> Outcome<Vec<u8>> {
        let dir = self.attribute_dir(path)?;
        let reply = self.ask(|all| all.handle(&dir).readdir(0, [0; 8], 65_536, &[attr::FILEID]))?;
        let Got::Names { names, eof: true, .. } = reply.of(op::READDIR) else { panic!("{reply:?}") };
        let mut names: Vec<&[u8]> = names.iter().map(|name| &name.name[..]).collect();
        names.sort_unstable();
        Ok(names.iter().flat_map(|name| [b"user.", *name, b"\0"].concat()).collect())
    }

    fn removexattr(&self, path: &str, name: &str) -> Outcome<()> {
        let dir = self.attribute_dir(path)?;
        let name = attribute(name)?;
        self.run(|all| all.handle(&dir).remove(name)).map(drop).map_err(no_attribute)
    }
}
