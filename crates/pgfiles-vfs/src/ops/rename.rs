//! rename of files and directories.

use std::sync::Arc;

use pgfiles_store::alias::DIR_BYTES_MAX;
use pgfiles_store::batch::{Durability, Exchange, Op, Precondition, Rename, RenameDir, Young};
use pgfiles_store::key::{Name, Prefix};
use pgfiles_store::version::Kind;

use crate::Vfs;
use crate::attr::InodeNo;
use crate::buffer::Data;
use crate::error::{Result, VfsError};
use crate::inode::Inode;
use crate::progress::MutexGuard;
use crate::publish::is_conflict;

/// Takes the names of two directories, in the order of their numbers; once if they are one.
pub(crate) async fn lock_names<'a>(a: &'a Inode, b: &'a Inode) -> (MutexGuard<'a, ()>, Option<MutexGuard<'a, ()>>) {
    if a.no == b.no {
        return (a.names.lock().await, None);
    }
    let (first, second) = if a.no < b.no { (a, b) } else { (b, a) };
    let first = first.names.lock().await;
    (first, Some(second.names.lock().await))
}

/// Takes the data of one or two files, in the order of their numbers; the first one's guard comes first.
async fn lock_data<'a>(a: &'a Inode, b: Option<&'a Arc<Inode>>) -> (MutexGuard<'a, Data>, Option<MutexGuard<'a, Data>>) {
    match b {
        Some(b) if b.no < a.no => {
            let b = b.data.lock().await;
            (a.data.lock().await, Some(b))
        }
        Some(b) => {
            let a = a.data.lock().await;
            (a, Some(b.data.lock().await))
        }
        None => (a.data.lock().await, None),
    }
}

impl Vfs {
    /// Moves a name. What stood at the new one becomes history; who has it open keeps it. One round trip.
    ///
    /// # Errors
    /// [`VfsError::NotFound`]; [`VfsError::Exists`] with `noreplace`; [`VfsError::NotEmpty`], [`VfsError::IsDirectory`],
    /// [`VfsError::NotDirectory`] as `man 2 rename`; [`VfsError::InvalidArgument`] for a directory into itself.
    pub async fn rename(
        self: &Arc<Self>,
        parent: InodeNo,
        name: &[u8],
        new_parent: InodeNo,
        new_name: &[u8],
        noreplace: bool,
    ) -> Result<()> {
        self.writable()?;
        let (name, new_name) = (Name::new(name)?, Name::new(new_name)?);
        let no = self.find(parent, &name).await?.ok_or(VfsError::NotFound)?;
        let (from, to) = {
            let mut table = self.table();
            (table.inode(parent)?, table.inode(new_parent)?)
        };
        if self.table().node(no)?.facts.kind == Kind::Dir {
            let _moves = self.moves.write().await;
            let _names = lock_names(&from, &to).await;
            let renamed = self.rename_dir(parent, &name, new_parent, &new_name, noreplace).await;
            // Also where it failed half-way: nobody waits for ever.
            self.table().set_moving(false);
            return renamed;
        }
        let _moves = self.moves.read().await;
        let _names = lock_names(&from, &to).await;
        self.rename_file(parent, &name, new_parent, &new_name, noreplace).await
    }

    /// Both ends of a rename with the names held; `None` where they are one file.
    async fn ends(
        &self,
        (parent, name): (InodeNo, &Name),
        (new_parent, new_name): (InodeNo, &Name),
        noreplace: bool,
    ) -> Result<Option<(InodeNo, Option<InodeNo>)>> {
        let no = self.find(parent, name).await?.ok_or(VfsError::NotFound)?;
        let target = self.find(new_parent, new_name).await?;
        if noreplace && target.is_some() {
            return Err(VfsError::Exists);
        }
        if target == Some(no) {
            return Ok(None);
        }
        let table = self.table();
        let is_dir = |no: InodeNo| table.node(no).map(|node| node.facts.kind == Kind::Dir);
        if let Some(target) = target {
            match (is_dir(no)?, is_dir(target)?) {
                (true, false) => return Err(VfsError::NotDirectory),
                (false, true) => return Err(VfsError::IsDirectory),
                (true, true) | (false, false) => {}
            }
        }
        Ok(Some((no, target)))
    }

    async fn rename_file(
        self: &Arc<Self>,
        parent: InodeNo,
        name: &Name,
        new_parent: InodeNo,
        new_name: &Name,
        noreplace: bool,
    ) -> Result<()> {
        let Some((no, target)) = self.ends((parent, name), (new_parent, new_name), noreplace).await? else { return Ok(()) };
        let (inode, replaced) = {
            let mut table = self.table();
            (table.inode(no)?, target.map(|target| table.inode(target)).transpose()?)
        };
        let (mut data, mut replaced_data) = lock_data(&inode, replaced.as_ref()).await;
        if self.table().node(no)?.pending {
            // The source must have a row to be moved.
            self.publish_locked(&inode, &mut data, Durability::Async).await?;
        }
        if let (Some(replaced), Some(data)) = (&replaced, &mut replaced_data) {
            self.publish_for_other_names(replaced, data).await?;
        }
        let now = self.clock.now();
        let (from, to) = {
            let table = self.table();
            (table.key_in(parent, name)?, table.key_in(new_parent, new_name)?)
        };
        let rename = Rename {
            id: self.clock.version_id(),
            history: self.clock.version_id(),
            from,
            to,
            expect_from: Precondition::Any,
            expect_to: if noreplace { Precondition::Absent } else { Precondition::Any },
            young: self.young(),
            ctime: Some(now),
        };
        let outcome = self.commit(vec![Op::Rename(rename)], Durability::Async).await;
        let exists = |error| if noreplace && is_conflict(&error) { VfsError::Exists } else { error.into() };
        let outcome = outcome.map_err(exists)?.pop().unwrap_or_default();
        {
            let mut table = self.table();
            table.touch(no);
            table.place(no, (parent, name), new_parent, new_name)?;
            let node = table.node_mut(no)?;
            node.facts.ctime = now;
            let before = node.facts.content();
            if let Some(head) = &outcome.head {
                node.facts.row = Some((head.id, head.version));
                node.facts.body = head.meta.body;
                if node.facts.extra.is_some() || head.meta.twin.is_some() {
                    // The row of one name of several: it stands for what it was written with.
                    node.facts.extra.get_or_insert_default().twin = head.meta.twin;
                }
                let after = node.facts.content();
                let follow = |id: &mut Option<_>| {
                    if *id == before {
                        *id = after;
                    }
                };
                follow(&mut node.kept);
                follow(&mut data.of);
                follow(&mut data.extends);
            }
            if let Some(target) = target.and_then(|target| table.node_mut(target).ok()) {
                target.facts.ctime = now;
            }
        }
        self.stamp_dir(parent);
        self.stamp_dir(new_parent);
        if let Some(target) = target {
            self.rehome(target, &outcome.also).await;
        }
        drop((data, replaced_data));
        drop((inode, replaced));
        if let Some(target) = target {
            self.table().tidy(target);
        }
        Ok(())
    }

    async fn rename_dir(
        self: &Arc<Self>,
        parent: InodeNo,
        name: &Name,
        new_parent: InodeNo,
        new_name: &Name,
        noreplace: bool,
    ) -> Result<()> {
        let Some((no, target)) = self.ends((parent, name), (new_parent, new_name), noreplace).await? else { return Ok(()) };
        let (from, to) = {
            let table = self.table();
            if table.node(no)?.facts.kind != Kind::Dir {
                return Err(VfsError::NotDirectory);
            }
            if table.is_below(new_parent, no) {
                return Err(VfsError::InvalidArgument("a directory cannot be moved below itself"));
            }
            if target.is_some_and(|target| !table.pending_in(target).is_empty()) {
                return Err(VfsError::NotEmpty);
            }
            let from = table.key_of(no)?.as_dir();
            let to = table.prefix_of(new_parent)?.dir(new_name)?;
            if to.as_str().len() > DIR_BYTES_MAX && table.prefix_of(no)? == from {
                // What is in it would have keys that are too long.
                return Err(VfsError::NameTooLong);
            }
            (from, to)
        };
        let id = self.clock.version_id();
        let rename = RenameDir { id, from: from.clone(), to: to.clone(), young: self.young(), to_absent: noreplace };
        self.table().set_moving(true);
        let outcome = self.commit(vec![Op::RenameDir(rename)], Durability::Async).await;
        outcome.map_err(|error| if noreplace && is_conflict(&error) { VfsError::Exists } else { error.into() })?;
        {
            let mut table = self.table();
            table.touch(no);
            table.place(no, (parent, name), new_parent, new_name)?;
            table.move_aliases(&from, &to);
        }
        self.stamp_moved_dir(no);
        self.stamp_dir(parent);
        self.stamp_dir(new_parent);
        if let Some(target) = target {
            self.table().tidy(target);
        }
        Ok(())
    }

    /// Two names change places, whatever they stand for (`man 2 renameat2`, RENAME_EXCHANGE). One round trip.
    ///
    /// # Errors
    /// [`VfsError::NotFound`]; [`VfsError::InvalidArgument`] where one lies below the other.
    pub async fn exchange(self: &Arc<Self>, parent: InodeNo, name: &[u8], new_parent: InodeNo, new_name: &[u8]) -> Result<()> {
        self.writable()?;
        let (name, new_name) = (Name::new(name)?, Name::new(new_name)?);
        let (from, to) = {
            let mut table = self.table();
            (table.inode(parent)?, table.inode(new_parent)?)
        };
        let _moves = self.moves.write().await;
        let _names = lock_names(&from, &to).await;
        let exchanged = self.exchange_names((parent, &name), (new_parent, &new_name)).await;
        self.table().set_moving(false);
        exchanged
    }

    async fn exchange_names(self: &Arc<Self>, a: (InodeNo, &Name), b: (InodeNo, &Name)) -> Result<()> {
        let one = self.find(a.0, a.1).await?.ok_or(VfsError::NotFound)?;
        let other = self.find(b.0, b.1).await?.ok_or(VfsError::NotFound)?;
        if one == other {
            return Ok(());
        }
        let nested = {
            let table = self.table();
            table.is_below(a.0, other) || table.is_below(b.0, one)
        };
        if nested {
            return Err(VfsError::InvalidArgument("a directory cannot change places with what lies in it"));
        }
        let (first, second) = {
            let mut table = self.table();
            (table.inode(one)?, table.inode(other)?)
        };
        let (mut data, mut other_data) = lock_data(&first, Some(&second)).await;
        for (inode, data) in [(&first, Some(&mut data)), (&second, other_data.as_mut())] {
            let pending = self.table().node(inode.no)?.pending;
            if let Some(data) = data.filter(|_| pending) {
                self.publish_locked(inode, data, Durability::Async).await?;
            }
        }
        let now = self.clock.now();
        let (from, to) = {
            let table = self.table();
            (table.key_in(a.0, a.1)?, table.key_in(b.0, b.1)?)
        };
        let op = Op::Exchange(Exchange { id: self.clock.version_id(), from: from.clone(), to: to.clone(), ctime: Some(now) });
        self.table().set_moving(true);
        self.commit(vec![op], Durability::Async).await?;
        {
            let mut table = self.table();
            table.exchange((one, a.0, a.1), (other, b.0, b.1))?;
            let via = Prefix::new("exchanged-by-this-mount")?;
            table.move_aliases(&from.as_dir(), &via);
            table.move_aliases(&to.as_dir(), &from.as_dir());
            table.move_aliases(&via, &to.as_dir());
            for no in [one, other] {
                table.node_mut(no)?.facts.ctime = now;
                table.touch(no);
            }
        }
        self.stamp_dir(a.0);
        self.stamp_dir(b.0);
        Ok(())
    }

    fn young(&self) -> Option<Young> {
        let seconds = self.config.young_seconds;
        (seconds > 0).then(|| Young { mount: self.config.mount_id.clone(), seconds })
    }
}
