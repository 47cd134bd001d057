//! Attributes: what `stat` shows, what `setattr` changes, and how both relate to the fields of a row.

use std::collections::BTreeMap;

use pgfiles_store::alias;
use pgfiles_store::key::{self, Key, Prefix};
use pgfiles_store::store::Entry;
use pgfiles_store::version::{AttrPatch, Head, Kind, Layout, Lineage, Meta, Timestamp, VersionId, VersionNo};
use serde_json::{Map, Value};

/// An inode as the kernel knows it. The root is [`InodeNo::ROOT`], whatever number its row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeNo(pub u64);

impl InodeNo {
    /// The mount's own directory.
    pub const ROOT: Self = Self(1);
}

/// What `stat` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Attr {
    pub ino: InodeNo,
    pub kind: Kind,
    pub size: u64,
    /// Bytes that are stored: less than `size` where there are holes.
    pub allocated: u64,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Names of the inode: 0 for a file whose last one is gone. Of a directory 2 and one for each directory in it, or 1 where
    /// that is not known (it was not listed yet).
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The clock of the mount.
    Now,
    /// That moment.
    At(Timestamp),
}

/// What `setattr` changes; `None` leaves a field alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// Whose the files are (`PGFILES_OWNER`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As stored; rows without an owner belong to who mounted.
    Stored,
    /// All belong to who mounted.
    Mounter,
}

/// The part of a row that the inode table remembers: small, because there may be a million of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Facts {
    pub kind: Kind,
    /// The row's number, or the one that is implied: not always the [`InodeNo`] (root, collisions).
    pub ino: u64,
    /// Whether a row names `ino`.
    pub ino_stored: bool,
    /// The newest row; `None` for an implied directory and for what has no row yet.
    pub row: Option<(VersionId, VersionNo)>,
    pub size: u64,
    /// `None`: all of it.
    pub allocated: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<Timestamp>,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub rdev: u64,
    pub layout: Option<Layout>,
    pub lineage: Option<Lineage>,
    pub body: Option<VersionId>,
    pub extra: Option<Box<Extra>>,
}

/// What few files have.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Extra {
    pub target: Option<String>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    pub fault: Option<String>,
    /// Where the keys of a directory's names begin, as the row has it.
    pub alias: Option<String>,
    /// The group of names that share the inode, and how many they are; `None` and 0 where it has one.
    pub hard_link: Option<String>,
    pub nlink: u32,
    /// The row of another name that the row was written with.
    pub twin: Option<VersionId>,
}

impl Facts {
    /// A file, directory or node that is being created.
    pub fn new(kind: Kind, ino: u64, mode: u32, caller: Caller, now: Timestamp) -> Self {
        Self {
            kind,
            ino,
            ino_stored: true,
            row: None,
            size: 0,
            allocated: None,
            mode: Some(mode & 0o7777),
            uid: Some(caller.uid),
            gid: Some(caller.gid),
            atime: None,
            mtime: now,
            ctime: now,
            rdev: 0,
            layout: None,
            lineage: None,
            body: None,
            extra: None,
        }
    }

    /// A directory that only keys below it make.
    pub fn implied(dir: &Prefix, mtime: Option<Timestamp>) -> Self {
        let mtime = mtime.unwrap_or_default();
        let nobody = Caller { uid: 0, gid: 0 };
        Self {
            ino_stored: false,
            mode: None,
            uid: None,
            gid: None,
            ..Self::new(Kind::Dir, key::implied_ino(dir), 0, nobody, mtime)
        }
    }

    /// What stands at a path.
    pub fn of_entry(entry: &Entry, path: &Key) -> Self {
        match entry {
            Entry::File(head) => Self::of_head(head),
            Entry::Dir(dir) => match &dir.marker {
                Some(head) => Self { kind: Kind::Dir, ..Self::of_head(head) },
                None => Self::implied(&path.as_dir(), dir.mtime),
            },
        }
    }

    /// A row.
    pub fn of_head(head: &Head) -> Self {
        let meta = &head.meta;
        let mtime = meta.mtime.or(meta.created_at).unwrap_or_default();
        let has_extra = meta.target.is_some()
            || meta.alias.is_some()
            || !meta.xattrs.is_empty()
            || meta.fault.is_some()
            || meta.hard_link.is_some()
            || meta.twin.is_some();
        let size = match (meta.kind, &meta.target) {
            (Kind::Symlink, Some(target)) => key::unescape(target).len() as u64,
            (Kind::File | Kind::Symlink, _) => meta.size,
            (Kind::Dir | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block, _) => 0,
        };
        Self {
            // A file's row whose kind says "dir" would be a directory that cannot be listed: it is shown as a file.
            kind: if meta.kind == Kind::Dir && !head.key.is_marker() { Kind::File } else { meta.kind },
            ino: meta.ino.unwrap_or_else(|| key::implied_ino(&head.key.as_dir())),
            ino_stored: meta.ino.is_some(),
            row: Some((head.id, head.version)),
            size,
            allocated: meta.allocated,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            atime: meta.atime,
            mtime,
            ctime: meta.ctime.unwrap_or(mtime),
            rdev: meta.rdev.unwrap_or(0),
            layout: meta.layout,
            lineage: meta.lineage,
            body: meta.body,
            extra: has_extra.then(|| {
                Box::new(Extra {
                    target: meta.target.clone(),
                    xattrs: meta.xattrs.clone(),
                    fault: meta.fault.clone(),
                    alias: meta.alias.clone(),
                    hard_link: meta.hard_link.clone(),
                    nlink: if meta.hard_link.is_some() { meta.nlink.unwrap_or(0) } else { 0 },
                    twin: meta.twin,
                })
            }),
        }
    }

    /// Stands for the content: one id under all names of the inode, though each has a row of its own.
    pub fn content(&self) -> Option<VersionId> {
        let (id, _) = self.row?;
        Some(self.extra.as_ref().and_then(|extra| extra.twin).unwrap_or(id))
    }

    /// The group of names that share the inode.
    pub fn hard_link(&self) -> Option<&str> {
        self.extra.as_ref()?.hard_link.as_deref()
    }

    /// Where a directory below `root` with a long path keeps its names.
    pub fn alias(&self, root: &Prefix) -> Option<Prefix> {
        alias::parse(self.extra.as_ref()?.alias.as_deref()?, root)
    }

    /// How many names the inode has.
    pub fn nlink(&self) -> u32 {
        self.extra.as_ref().map_or(1, |extra| extra.nlink.max(1))
    }

    /// Takes over how many names the inode has.
    pub fn set_nlink(&mut self, nlink: u32) {
        if nlink != self.nlink() {
            self.extra.get_or_insert_default().nlink = nlink;
        }
    }

    /// One name less. How many are left.
    pub fn lose_name(&mut self) -> u32 {
        let left = self.nlink() - 1;
        if let Some(extra) = &mut self.extra {
            extra.nlink = left;
            if left <= 1 {
                extra.hard_link = None;
            }
        }
        left
    }

    /// The row again, as far as reading its body needs it; `None` where there is none.
    pub fn head(&self, key: &Key) -> Option<Head> {
        let (id, version) = self.row?;
        let meta = Meta {
            kind: self.kind,
            size: self.size,
            layout: self.layout,
            lineage: self.lineage,
            body: self.body,
            fault: self.extra.as_ref().and_then(|extra| extra.fault.clone()),
            ..Meta::default()
        };
        Some(Head { key: key.clone(), id, version, meta, data: None })
    }

    /// What `stat` shows.
    pub fn attr(&self, ino: InodeNo, unlinked: bool, view: &View) -> Attr {
        let stored = |stored: Option<u32>, mounter: u32| match view.owner {
            Owner::Stored => stored.unwrap_or(mounter),
            Owner::Mounter => mounter,
        };
        let default_mode = match self.kind {
            Kind::Dir => 0o755,
            Kind::Symlink => 0o777,
            Kind::File | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => 0o644,
        };
        Attr {
            ino,
            kind: self.kind,
            size: if self.kind == Kind::Dir { 4096 } else { self.size },
            allocated: if self.kind == Kind::Dir { 4096 } else { self.allocated.unwrap_or(self.size).min(self.size) },
            mode: if self.kind == Kind::Symlink { 0o777 } else { self.mode.unwrap_or(default_mode) },
            nlink: if unlinked { 0 } else { self.nlink() },
            uid: stored(self.uid, view.uid),
            gid: stored(self.gid, view.gid),
            rdev: self.rdev,
            atime: self.atime.unwrap_or(self.mtime),
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }

    /// Applies what `setattr` changed.
    pub fn apply(&mut self, patch: &AttrPatch) {
        self.mode = patch.mode.or(self.mode);
        self.uid = patch.uid.or(self.uid);
        self.gid = patch.gid.or(self.gid);
        self.atime = patch.atime.or(self.atime);
        self.mtime = patch.mtime.unwrap_or(self.mtime);
        self.ctime = patch.ctime.unwrap_or(self.ctime);
        if !patch.xattrs.is_empty() {
            let extra = self.extra.get_or_insert_default();
            for (name, value) in &patch.xattrs {
                match value {
                    Some(value) => extra.xattrs.insert(name.clone(), value.clone()),
                    None => extra.xattrs.remove(name),
                };
            }
        }
    }

    /// All attributes as fields of a row: for a key that has no live head to inherit them from.
    pub fn defaults(&self) -> Map<String, Value> {
        let meta = Meta {
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            ino: Some(self.ino),
            atime: self.atime,
            mtime: Some(self.mtime),
            ctime: Some(self.ctime),
            rdev: (self.rdev != 0).then_some(self.rdev),
            target: self.extra.as_ref().and_then(|extra| extra.target.clone()),
            alias: self.extra.as_ref().and_then(|extra| extra.alias.clone()),
            xattrs: self.extra.as_ref().map(|extra| extra.xattrs.clone()).unwrap_or_default(),
            ..Meta::default()
        };
        let mut fields = meta.to_json();
        fields.remove("size");
        fields
    }
}

/// Whose files a mount shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub owner: Owner,
    pub uid: u32,
    pub gid: u32,
}

/// The mode after set-user-id and set-group-id are lost (`man 2 write`, `man 2 chown`): the group bit only where it
/// means execution as that group.
pub(crate) fn without_privileges(mode: u32) -> u32 {
    let group_executes = mode & 0o010 != 0;
    mode & !0o4000 & if group_executes { !0o2000 } else { !0 }
}
