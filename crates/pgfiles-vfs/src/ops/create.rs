//! create, mkdir, mknod, symlink. A file costs no row until it is published; everything else is committed at once.

use std::sync::Arc;

use bytes::Bytes;
use pgfiles_store::alias;
use pgfiles_store::batch::{Durability, Op, Precondition, Put};
use pgfiles_store::key::{self, Key, Name};
use pgfiles_store::layout;
use pgfiles_store::version::Kind;

use crate::Vfs;
use crate::attr::{Caller, Extra, Facts, InodeNo};
use crate::buffer::Content;
use crate::error::{Result, VfsError};
use crate::handle::{OpenMode, Opened};
use crate::ops::lookup::EntryReply;
use crate::publish::is_conflict;

const SET_GROUP_ID: u32 = 0o2000;
/// How often a name that came and went is tried to be opened or made.
const RACES_MAX: u32 = 20;

impl Vfs {
    /// Opens a name, creating it where it does not exist. Counts a lookup.
    ///
    /// # Errors
    /// [`VfsError::Exists`] with `exclusive`; [`VfsError::IsDirectory`]; what [`Vfs::open`] says.
    pub async fn create(
        self: &Arc<Self>,
        parent: InodeNo,
        name: &[u8],
        mode: u32,
        open: OpenMode,
        caller: Caller,
    ) -> Result<(EntryReply, Opened)> {
        self.writable()?;
        let name = Name::new(name)?;
        let dir = self.table().inode(parent)?;
        let _moves = self.moves.read().await;
        let _names = dir.names.lock().await;
        let mut tries = 0;
        let (key, facts, row) = loop {
            if let Some(no) = self.find(parent, &name).await? {
                if open.exclusive {
                    return Err(VfsError::Exists);
                }
                if self.table().node(no)?.facts.kind == Kind::Dir {
                    return Err(VfsError::IsDirectory);
                }
                let opened = self.open_found(no, open, caller).await?;
                return Ok((self.entry(no)?, opened));
            }
            let (key, facts) = {
                let table = self.table();
                (table.key_in(parent, &name)?, self.new_facts(&table.dir(parent)?.facts, Kind::File, mode, caller))
            };
            if !self.is_shared() {
                break (key, facts, None);
            }
            // The name is taken for all mounts before anyone is told that it is.
            match self.take_name(&key, &facts).await {
                Ok(facts) => break (key, facts.clone(), facts.row.map(|(id, _)| id)),
                // Somebody else took it just now: then theirs is opened.
                Err(VfsError::Exists) if !open.exclusive && tries < RACES_MAX => {
                    tries += 1;
                    self.fresh.distrust(&key);
                }
                Err(error) => return Err(error),
            }
        };
        let (no, inode) = {
            let mut table = self.table();
            let no = table.insert(parent, &name, &key, facts)?;
            let node = table.node_mut(no)?;
            node.pending = row.is_none();
            node.kept = row;
            node.opens += 1;
            (no, table.inode(no)?)
        };
        {
            let mut data = inode.data.lock().await;
            data.writers += u32::from(open.write);
            if row.is_some() {
                // What is written through this description goes into the version that the name was taken with.
                data.of = row;
                data.extends = row.filter(|_| open.write);
            } else {
                data.content = Content::Whole(Vec::new());
                data.trivial = true;
            }
        }
        let handle = self.handles().add_file(inode.clone(), open);
        if row.is_some() {
            self.stamp_dir(parent);
            inode.data.lock().await.writer = Some(handle);
            return Ok((self.entry(no)?, Opened { handle, keep_cache: true }));
        }
        self.stamp_dir(parent);
        self.arm(no, self.config.publish_after);
        Ok((self.entry(no)?, Opened { handle, keep_cache: true }))
    }

    /// Makes a directory. Counts a lookup. One round trip.
    ///
    /// # Errors
    /// [`VfsError::Exists`].
    pub async fn mkdir(self: &Arc<Self>, parent: InodeNo, name: &[u8], mode: u32, caller: Caller) -> Result<EntryReply> {
        self.make(parent, name, caller, Kind::Dir, mode, |_| {}).await
    }

    /// Makes a symlink. Counts a lookup. One round trip.
    ///
    /// # Errors
    /// [`VfsError::Exists`]; [`VfsError::NameTooLong`] for a target over 4,095 bytes.
    pub async fn symlink(self: &Arc<Self>, parent: InodeNo, name: &[u8], target: &[u8], caller: Caller) -> Result<EntryReply> {
        const TARGET_BYTES_MAX: usize = 4_095;
        if target.len() > TARGET_BYTES_MAX {
            return Err(VfsError::NameTooLong);
        }
        if target.is_empty() || target.contains(&0) {
            return Err(VfsError::InvalidArgument("target of a symlink"));
        }
        let stored = key::escape(target).into_owned();
        let size = target.len() as u64;
        self.make(parent, name, caller, Kind::Symlink, 0o777, |facts| {
            facts.extra = Some(Box::new(Extra { target: Some(stored), ..Extra::default() }));
            facts.size = size;
        })
        .await
    }

    /// Makes a file, FIFO, socket or device. Counts a lookup. One round trip.
    ///
    /// # Errors
    /// [`VfsError::Exists`]; [`VfsError::InvalidArgument`] for directories and symlinks.
    pub async fn mknod(
        self: &Arc<Self>,
        parent: InodeNo,
        name: &[u8],
        kind: Kind,
        mode: u32,
        rdev: u64,
        caller: Caller,
    ) -> Result<EntryReply> {
        if matches!(kind, Kind::Dir | Kind::Symlink) {
            return Err(VfsError::InvalidArgument("mknod makes neither directories nor symlinks"));
        }
        let device = matches!(kind, Kind::Char | Kind::Block);
        self.make(parent, name, caller, kind, mode, |facts| facts.rdev = if device { rdev } else { 0 }).await
    }

    /// Commits a row for a name that must not exist.
    async fn make(
        self: &Arc<Self>,
        parent: InodeNo,
        name: &[u8],
        caller: Caller,
        kind: Kind,
        mode: u32,
        finish: impl FnOnce(&mut Facts),
    ) -> Result<EntryReply> {
        self.writable()?;
        let name = Name::new(name)?;
        let dir = self.table().inode(parent)?;
        let _moves = self.moves.read().await;
        let _names = dir.names.lock().await;
        if self.find(parent, &name).await?.is_some() {
            return Err(VfsError::Exists);
        }
        let (key, mut facts) = {
            let table = self.table();
            (table.key_in(parent, &name)?, self.new_facts(&table.dir(parent)?.facts, kind, mode, caller))
        };
        finish(&mut facts);
        let mut ops = Vec::new();
        if kind == Kind::Dir
            && let Some(alias) = alias::alias_of(&key.as_dir(), facts.ino)
        {
            // A marker there too: the place where its names are is a directory as well.
            facts.extra.get_or_insert_default().alias = Some(alias.to_string());
            ops.push(Op::Put(
                self.first_row(
                    &alias.marker().ok_or(VfsError::NotSupported)?.as_file(),
                    &Facts { extra: None, ..facts.clone() },
                )?,
            ));
        }
        ops.push(Op::Put(self.first_row(&key, &facts)?));
        let outcome = self.commit(ops, Durability::Async).await;
        let mut outcome = outcome.map_err(|error| if is_conflict(&error) { VfsError::Exists } else { error.into() })?;
        if let Some(head) = outcome.pop().and_then(|outcome| outcome.head) {
            facts = Facts { ino: facts.ino, kind, ..Facts::of_head(&head) };
        }
        let no = self.table().insert(parent, &name, &key, facts)?;
        self.stamp_dir(parent);
        self.entry(no)
    }

    /// Commits the row of an empty file; its facts as they stand there.
    async fn take_name(&self, key: &Key, facts: &Facts) -> Result<Facts> {
        let outcome = self.commit(vec![Op::Put(self.first_row(key, facts)?)], Durability::Async).await;
        let mut outcome = outcome.map_err(|error| if is_conflict(&error) { VfsError::Exists } else { error.into() })?;
        let head = outcome.pop().and_then(|outcome| outcome.head).ok_or(VfsError::Stale)?;
        Ok(Facts { ino: facts.ino, ..Facts::of_head(&head) })
    }

    fn first_row(&self, path: &Key, facts: &Facts) -> Result<Put> {
        let mut meta = facts.defaults();
        let is_file = facts.kind == Kind::File;
        if matches!(facts.kind, Kind::File | Kind::Symlink) {
            meta.insert("size".into(), facts.size.into());
        }
        if is_file {
            meta.insert("etag".into(), layout::etag(b"").into());
        }
        let key = if facts.kind == Kind::Dir { path.as_dir().marker().ok_or(VfsError::NotSupported)? } else { path.clone() };
        Ok(Put {
            id: self.clock.version_id(),
            key,
            meta,
            defaults: serde_json::Map::new(),
            data: is_file.then(Bytes::new),
            expect: Precondition::Absent,
            extends: None,
            drops: Vec::new(),
            grown: None,
        })
    }

    /// The attributes of something new in a directory: its group, if the directory hands that down (`man 7 inode`).
    fn new_facts(&self, parent: &Facts, kind: Kind, mode: u32, caller: Caller) -> Facts {
        let hands_down = parent.mode.is_some_and(|mode| mode & SET_GROUP_ID != 0);
        let gid = if hands_down { parent.gid.unwrap_or(caller.gid) } else { caller.gid };
        let mode = if hands_down && kind == Kind::Dir { mode | SET_GROUP_ID } else { mode };
        Facts::new(kind, self.clock.ino(), mode, Caller { gid, ..caller }, self.clock.now())
    }
}
