//! link: one more name for a file, and what becomes of a file that loses the name it was published at.

use std::sync::Arc;

use pgfiles_store::batch::{Durability, Link, Op};
use pgfiles_store::error::Kind as StoreKind;
use pgfiles_store::key::{Key, Name};
use pgfiles_store::version::Kind;

use crate::Vfs;
use crate::attr::{Facts, InodeNo};
use crate::buffer::Data;
use crate::error::{Result, VfsError};
use crate::inode::Inode;
use crate::ops::lookup::EntryReply;

impl Vfs {
    /// Gives a file one more name (`man 2 link`). Counts a lookup. One round trip, one more where the file was not published
    /// yet.
    ///
    /// # Errors
    /// [`VfsError::Exists`]; [`VfsError::NotPermitted`] for a directory; [`VfsError::NotFound`] for a file whose last name is
    /// gone; [`VfsError::TooManyLinks`] at 1,000 names; [`VfsError::CrossDevice`] across the edge of a grant.
    pub async fn link(self: &Arc<Self>, ino: InodeNo, parent: InodeNo, name: &[u8]) -> Result<EntryReply> {
        self.writable()?;
        let name = Name::new(name)?;
        // The name that it is known by first may have been removed by another client.
        self.refresh(ino).await?;
        let (dir, inode) = {
            let mut table = self.table();
            table.dir(parent)?;
            (table.inode(parent)?, table.inode(ino)?)
        };
        let _moves = self.moves.read().await;
        let _names = dir.names.lock().await;
        if self.find(parent, &name).await?.is_some() {
            return Err(VfsError::Exists);
        }
        let mut data = inode.data.lock().await;
        if self.table().node(ino)?.facts.kind == Kind::Dir {
            return Err(VfsError::NotPermitted("a directory has one name"));
        }
        if self.table().node(ino)?.is_ahead() {
            // There must be a row to share, and it must have what is to be shared.
            self.publish_locked(&inode, &mut data, Durability::Async).await?;
        }
        let (from, to) = {
            let table = self.table();
            (table.key_of(ino)?, table.key_in(parent, &name)?)
        };
        let now = self.clock.now();
        let op = Op::Link(Link { id: self.clock.version_id(), from, to, ctime: Some(now) });
        let outcome = self.commit(vec![op], Durability::Async).await.map_err(|error| match error.kind() {
            StoreKind::Conflict => VfsError::Exists,
            _ => error.into(),
        })?;
        {
            let mut table = self.table();
            table.touch(ino);
            table.add_place(ino, parent, &name)?;
            let node = table.node_mut(ino)?;
            if let Some(head) = outcome.into_iter().next().and_then(|outcome| outcome.head) {
                node.facts = Facts { ino: node.facts.ino, kind: node.facts.kind, ..Facts::of_head(&head) };
            }
            table.touch(ino);
        }
        self.stamp_dir(parent);
        self.entry(ino)
    }

    /// What is unpublished of a file with several names is published before it loses one: it is the content of the others too.
    /// With [`Vfs::moves`] and the data held.
    pub(crate) async fn publish_for_other_names(self: &Arc<Self>, inode: &Inode, data: &mut Data) -> Result<()> {
        if self.table().node(inode.no)?.facts.nlink() > 1 {
            self.publish_locked(inode, data, Durability::Async).await?;
        }
        Ok(())
    }

    /// An open file that lost the last name that is known here is looked for under those that it still has, so that what is
    /// written to it from now on is published there.
    pub(crate) async fn rehome(&self, no: InodeNo, others: &[Key]) {
        for key in others {
            let wanted = {
                let table = self.table();
                table.is_homeless(no) && table.node(no).is_ok_and(|node| node.opens > 0)
            };
            if !wanted {
                return;
            }
            if let Err(error) = self.walk(key).await {
                tracing::warn!(%key, %error, "another name of an open file was not found");
            }
        }
        let mut table = self.table();
        if table.is_homeless(no) && table.node(no).is_ok_and(|node| node.opens > 0) {
            // Its other names lie outside this mount.
            table.orphan(no);
        }
    }

    /// Looks up a key name by name.
    async fn walk(&self, key: &Key) -> Result<Option<InodeNo>> {
        let mut at = InodeNo::ROOT;
        for component in self.config.prefix.strip(key).ok_or(VfsError::NotFound)?.split('/') {
            let name = Name::from_component(component).ok_or(VfsError::NotFound)?;
            at = match self.find(at, &name).await? {
                Some(no) => no,
                None => return Ok(None),
            };
        }
        Ok(Some(at))
    }
}
