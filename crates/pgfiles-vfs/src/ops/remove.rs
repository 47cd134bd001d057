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
        let data = inode.data.lock().await;
        let (kind, stored, key) = {
            let table = self.table();
            let node = table.node(no)?;
            (node.facts.kind, !node.pending, table.key_in(parent, &name)?)
        };
        if kind == Kind::Dir {
            return Err(VfsError::IsDirectory);
        }
        if stored {
            let id = self.clock.version_id();
            let delete = Op::Delete(Delete { id, key, expect: Precondition::Any });
            self.commit(vec![delete], Durability::Async).await?;
        }
        let now = self.clock.now();
        {
            let mut table = self.table();
            table.node_mut(no)?.facts.ctime = now;
            table.unlink(parent, &name);
        }
        self.stamp_dir(parent);
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
        let prefix = {
            let table = self.table();
            if table.child(parent, &name) != Some(no) {
                return Err(VfsError::NotFound);
            }
            if !table.pending_in(no).is_empty() {
                return Err(VfsError::NotEmpty);
            }
            table.prefix_of(no)?
        };
        let remove = Op::RemoveDir(RemoveDir { id: self.clock.version_id(), dir: prefix, recursive: false });
        self.commit(vec![remove], Durability::Async).await?;
        {
            let mut table = self.table();
            table.node_mut(no)?.facts.ctime = self.clock.now();
            table.unlink(parent, &name);
        }
        self.stamp_dir(parent);
        drop(locks);
        drop(inner);
        self.table().tidy(no);
        Ok(())
    }
}
