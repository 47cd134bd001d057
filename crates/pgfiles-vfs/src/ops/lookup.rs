//! lookup, getattr, readlink, forget: what a name stands for and what is known of it.

use std::time::Duration;

use pgfiles_store::key::{self, Key, Name};
use pgfiles_store::version::{Head, Kind};

use crate::Vfs;
use crate::attr::{Attr, Facts, InodeNo};
use crate::error::{Result, VfsError};

/// Bodies up to this size come along with a lookup, so that reading a small file costs no second round trip.
pub(crate) const LOOKUP_INLINE_BYTES: u32 = 32 << 10;
/// How often an answer is asked for again because this mount changed the directory meanwhile.
const RETRIES: u32 = 8;

/// An inode and how long what is said of it may be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct EntryReply {
    pub attr: Attr,
    pub ttl: Duration,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupReply {
    /// An inode; counted as one lookup.
    Found(EntryReply),
    /// Nothing, and that may be trusted for so long.
    Absent(Duration),
}

/// A known node whose number an entry claims.
enum Elsewhere {
    /// There is none, or it is another file.
    No,
    /// Another client moved it.
    Moved(InodeNo),
    /// The entry is another name of it.
    Linked(InodeNo),
}

impl Vfs {
    /// What a name of a directory stands for. Counts a lookup of the inode, to be given back by [`Vfs::forget`].
    ///
    /// # Errors
    /// [`VfsError::NameTooLong`], [`VfsError::NotDirectory`], [`VfsError::Stale`] for an unknown parent.
    pub async fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<LookupReply> {
        let name = Name::new(name)?;
        match self.find(parent, &name).await? {
            Some(no) => self.entry(no).map(LookupReply::Found),
            None => {
                let key = self.table().key_in(parent, &name)?;
                Ok(LookupReply::Absent(self.fresh.trusted_for(&key)))
            }
        }
    }

    /// The reply for an inode that is handed to the kernel: counts a lookup.
    pub(crate) fn entry(&self, no: InodeNo) -> Result<EntryReply> {
        self.table().node_mut(no)?.lookups += 1;
        self.known(no)
    }

    /// What the table knows of an inode.
    pub(crate) fn known(&self, no: InodeNo) -> Result<EntryReply> {
        let (mut attr, key, dir) = {
            let table = self.table();
            let node = table.node(no)?;
            let is_dir = node.facts.kind == Kind::Dir && !node.unlinked;
            let dir = if is_dir { table.prefix_of(no).ok() } else { None };
            (node.facts.attr(no, node.unlinked, &self.view), table.key_of(no).ok(), dir)
        };
        if let Some(subdirs) = dir.and_then(|dir| self.fresh.subdirs(&dir)) {
            attr.nlink = subdirs.saturating_add(2);
        }
        let ttl = key.map_or(Duration::ZERO, |key| self.fresh.trusted_for(&key));
        Ok(EntryReply { attr, ttl })
    }

    /// Gives lookups back. An inode without any, and not open, is known no more.
    pub fn forget(&self, ino: InodeNo, lookups: u64) {
        self.table().forget(ino, lookups);
    }

    /// The node that a name stands for; no lookup is counted.
    pub(crate) async fn find(&self, parent: InodeNo, name: &Name) -> Result<Option<InodeNo>> {
        let mut tries = 0;
        loop {
            let (key, stamp) = {
                let table = self.table();
                table.dir(parent)?;
                if let Some(no) = table.child_ahead(parent, name) {
                    return Ok(Some(no));
                }
                (table.key_in(parent, name)?, table.stamp_of(parent)?)
            };
            let entry = self.store.lookup(std::slice::from_ref(&key), LOOKUP_INLINE_BYTES).await?.pop().flatten();
            let facts = entry.as_ref().map(|entry| Facts::of_entry(entry, &key));
            let known = match &facts {
                Some(facts) => self.known_elsewhere(parent, name, facts).await?,
                None => Elsewhere::No,
            };
            if self.table().moving {
                self.after_the_move().await;
                continue;
            }
            let mut table = self.table();
            tries += 1;
            if table.stamp_of(parent)? != stamp && tries < RETRIES {
                continue;
            }
            return match (facts, known) {
                (None, _) => {
                    let ahead = table.child_ahead(parent, name);
                    if ahead.is_none() {
                        table.detach(parent, name);
                    }
                    Ok(ahead)
                }
                (Some(facts), Elsewhere::Moved(no)) => {
                    table.relocate(no, parent, name)?;
                    table.node_mut(no)?.refresh(facts);
                    Ok(Some(no))
                }
                (Some(facts), Elsewhere::Linked(no)) => {
                    table.add_place(no, parent, name)?;
                    let node = table.node_mut(no)?;
                    if !node.is_ahead() {
                        node.refresh(facts);
                    }
                    Ok(Some(no))
                }
                (Some(facts), Elsewhere::No) => table.admit(parent, name, &key, facts).map(Some),
            };
        }
    }

    /// Waits until no directory is being renamed. Who holds [`Vfs::moves`] never has to.
    async fn after_the_move(&self) {
        drop(self.moves.read().await);
    }

    /// What an entry is to a known node whose number it claims. Where that is known at another name only, the store is asked
    /// whether that name still has it.
    async fn known_elsewhere(&self, parent: InodeNo, name: &Name, facts: &Facts) -> Result<Elsewhere> {
        let (no, key) = {
            let table = self.table();
            if let Some(no) = table.linked(facts) {
                return Ok(Elsewhere::Linked(no));
            }
            let Some(no) = table.elsewhere(parent, name, facts) else { return Ok(Elsewhere::No) };
            match table.key_of(no) {
                // It was replaced at this very name, and is back.
                Ok(key) if table.key_in(parent, name)? == key => return Ok(Elsewhere::Moved(no)),
                Ok(key) => (no, key),
                // Nameless here: nothing contradicts the entry.
                Err(VfsError::NotFound) => return Ok(Elsewhere::Moved(no)),
                Err(_) => return Ok(Elsewhere::No),
            }
        };
        // Not through the cache, which may hold what it was before another client linked it.
        let there = if facts.hard_link().is_some() {
            self.store.versions(&key, None, 1).await?.pop().filter(Head::is_live).map(|head| Facts::of_head(&head))
        } else {
            let entry = self.store.lookup(std::slice::from_ref(&key), 0).await?.pop().flatten();
            entry.map(|entry| Facts::of_entry(&entry, &key))
        };
        Ok(match there.filter(|there| there.ino == facts.ino) {
            None => Elsewhere::Moved(no),
            Some(there) if facts.hard_link().is_some() && there.hard_link() == facts.hard_link() => Elsewhere::Linked(no),
            Some(_) => Elsewhere::No,
        })
    }

    /// What `stat` shows, asked for again where the store may know better.
    ///
    /// # Errors
    /// [`VfsError::Stale`] where the file was removed or replaced by another client and nobody has it open.
    pub async fn getattr(&self, ino: InodeNo) -> Result<EntryReply> {
        self.refresh(ino).await?;
        self.known(ino)
    }

    /// Takes over what the store knows of an inode.
    pub(crate) async fn refresh(&self, no: InodeNo) -> Result<()> {
        let (mut tries, mut waited) = (0, false);
        loop {
            let (key, stamp) = {
                let table = self.table();
                if table.node(no)?.is_ahead() {
                    return Ok(());
                }
                match table.key_of(no) {
                    Ok(key) => (key, table.stamp_of(no)?),
                    Err(VfsError::NotSupported | VfsError::NotFound) => return Ok(()),
                    Err(error) => return Err(error),
                }
            };
            let entry = self.store.lookup(std::slice::from_ref(&key), LOOKUP_INLINE_BYTES).await?.pop().flatten();
            if self.table().moving {
                self.after_the_move().await;
                continue;
            }
            if entry.is_none() && !waited {
                // It may be just being renamed, which is done with its data held.
                waited = true;
                let inode = self.table().inode(no)?;
                drop(inode.data.lock().await);
                continue;
            }
            let mut table = self.table();
            tries += 1;
            if table.stamp_of(no)? != stamp && tries < RETRIES {
                continue;
            }
            if table.node(no)?.is_ahead() {
                return Ok(());
            }
            match self.believe(&mut table, no, &key, entry.as_ref()) {
                // It has another name.
                Err(VfsError::Stale) if table.key_of(no).is_ok_and(|other| other != key) => {}
                believed => return believed,
            }
        }
    }

    fn believe(
        &self,
        table: &mut crate::inode::Table,
        no: InodeNo,
        key: &Key,
        entry: Option<&pgfiles_store::Entry>,
    ) -> Result<()> {
        let facts = match entry {
            Some(entry) => Facts::of_entry(entry, key),
            // A prefix that holds nothing yet is an empty directory.
            None if no == InodeNo::ROOT => Facts::implied(&key.as_dir(), None),
            None => return self.gone(table, no),
        };
        let node = table.node_mut(no)?;
        let same = node.facts.kind == facts.kind && (node.facts.ino == facts.ino || no == InodeNo::ROOT);
        // An implied directory that was made explicit by another client may have got a number of its own.
        let explicit = node.facts.kind == Kind::Dir && facts.kind == Kind::Dir && !node.facts.ino_stored;
        if !same && !explicit {
            return self.gone(table, no);
        }
        node.refresh(facts);
        Ok(())
    }

    /// Another client removed or replaced the file. Who has it open keeps what it was.
    fn gone(&self, table: &mut crate::inode::Table, no: InodeNo) -> Result<()> {
        let node = table.node(no)?;
        let open = node.opens > 0;
        if let Some((parent, name)) = node.place().cloned()
            && table.child(parent, &name) == Some(no)
        {
            table.detach(parent, &name);
        }
        if table.key_of(no).is_ok() && table.node(no)?.place().is_some_and(|place| table.child(place.0, &place.1) == Some(no)) {
            return Err(VfsError::Stale);
        }
        if open { Ok(()) } else { Err(VfsError::Stale) }
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// [`VfsError::InvalidArgument`] for anything else.
    pub async fn readlink(&self, ino: InodeNo) -> Result<Vec<u8>> {
        self.refresh(ino).await?;
        let table = self.table();
        let facts = &table.node(ino)?.facts;
        match (facts.kind, facts.extra.as_ref().and_then(|extra| extra.target.as_deref())) {
            (Kind::Symlink, Some(target)) => Ok(key::unescape(target)),
            _ => Err(VfsError::InvalidArgument("not a symlink")),
        }
    }
}
