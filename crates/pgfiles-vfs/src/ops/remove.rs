//! unlink and rmdir.

use std::sync::Arc;

use pgfiles_store::batch::{Delete, Durability, Op, Precondition, RemoveDir};
use pgfiles_store::key::Name;
use pgfiles_store::version::Kind;

use crate::Vfs;
use crate::attr::InodeNo;
use crate::error::{Result, VfsError};

impl Vfs {
    /// Removes a name. Who has the file open keeps it. A file that was not published yet leaves nothing behind.
    ///
    /// # Errors
    /// [`VfsError::NotFound`]; [`VfsError::IsDirectory`].
    pub async fn unlink(self: &Arc<Self>, parent: InodeNo, name: &[u8]) -> Result<()> {
        self.writable()?;
        let name = Name::new(name)?;
        let dir = self.table().inode(parent)?;
        let _moves = self.moves.read().await;
        let _names = dir.names.lock().await;
        let no = self.find(parent, &name).await?.ok_or(VfsError::NotFound)?;
        let inode = self.table().inode(no)?;
        // A publication under way ends first; later ones find the file unlinked.
        let mut data = inode.data.lock().await;
        if self.table().node(no)?.facts.kind == Kind::Dir {
            return Err(VfsError::IsDirectory);
        }
        self.publish_for_other_names(&inode, &mut data).await?;
        let (stored, key) = {
            let table = self.table();
            (!table.node(no)?.pending, table.key_in(parent, &name)?)
        };
        let mut others = Vec::new();
        if stored {
            let id = self.clock.version_id();
            let delete = Op::Delete(Delete { id, key, expect: Precondition::Any });
            others = self.commit(vec![delete], Durability::Async).await?.pop().unwrap_or_default().also;
        }
        let now = self.clock.now();
        {
            let mut table = self.table();
            let node = table.node_mut(no)?;
            node.facts.ctime = now;
            // Where the reply was lost and one name is left, the server cannot say any more which it is.
            let left = if stored && others.is_empty() { node.facts.nlink() - 1 } else { others.len() as u32 };
            node.facts.set_nlink(left + 1);
            table.unlink(parent, &name);
        }
        self.stamp_dir(parent);
        self.rehome(no, &others).await;
        drop(data);
        drop(inode);
        self.table().tidy(no);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`VfsError::NotFound`]; [`VfsError::NotDirectory`]; [`VfsError::NotEmpty`].
    pub async fn rmdir(self: &Arc<Self>, parent: InodeNo, name: &[u8]) -> Result<()> {
        self.writable()?;
        let name = Name::new(name)?;
        let no = self.find(parent, &name).await?.ok_or(VfsError::NotFound)?;
        let (dir, inner) = {
            let mut table = self.table();
            if table.node(no)?.facts.kind != Kind::Dir {
                return Err(VfsError::NotDirectory);
            }
            (table.inode(parent)?, table.inode(no)?)
        };
        let _moves = self.moves.read().await;
        let locks = super::rename::lock_names(&dir, &inner).await;
        // Its times may be on their way to its marker: an answer that came after the removal would bring it back to the cache.
        let data = inner.data.lock().await;
        let (prefix, marker) = {
            let table = self.table();
            if table.child(parent, &name) != Some(no) {
                return Err(VfsError::NotFound);
            }
            if !table.pending_in(no).is_empty() {
                return Err(VfsError::NotEmpty);
            }
            (table.prefix_of(no)?, table.key_of(no)?.as_dir())
        };
        // A directory with a long path keeps its names elsewhere: both have to be empty, and both go.
        let elsewhere = (prefix != marker).then_some(prefix);
        let removed = elsewhere.into_iter().chain([marker]);
        let remove = removed.map(|dir| Op::RemoveDir(RemoveDir { id: self.clock.version_id(), dir, recursive: false }));
        self.commit(remove.collect(), Durability::Async).await?;
        {
            let mut table = self.table();
            table.node_mut(no)?.facts.ctime = self.clock.now();
            table.unlink(parent, &name);
        }
        self.stamp_dir(parent);
        drop(data);
        drop(locks);
        drop(inner);
        self.table().tidy(no);
        Ok(())
    }
}
