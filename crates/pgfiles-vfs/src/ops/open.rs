//! open and release.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pgfiles_store::batch::Durability;
use pgfiles_store::version::Kind;

use crate::Vfs;
use crate::attr::{Caller, InodeNo};
use crate::error::{Result, VfsError};
use crate::handle::{HandleId, OpenMode, Opened};

impl Vfs {
    /// Opens a file. What another client published before is seen.
    ///
    /// # Errors
    /// [`VfsError::IsDirectory`]; [`VfsError::ReadOnly`]; [`VfsError::Stale`].
    pub async fn open(self: &Arc<Self>, ino: InodeNo, mode: OpenMode, caller: Caller) -> Result<Opened> {
        if mode.write || mode.truncate {
            self.writable()?;
        }
        self.refresh(ino).await?;
        let _moves = self.moves.read().await;
        self.open_found(ino, mode, caller).await
    }

    /// The same with [`Vfs::moves`] held and the inode's facts fresh.
    pub(crate) async fn open_found(self: &Arc<Self>, no: InodeNo, mode: OpenMode, caller: Caller) -> Result<Opened> {
        let inode = {
            let mut table = self.table();
            let node = table.node_mut(no)?;
            match node.facts.kind {
                Kind::Dir => return Err(VfsError::IsDirectory),
                // Its last name and its last handle are gone, and with them what was never published.
                Kind::File if node.unlinked && node.opens == 0 => return Err(VfsError::Stale),
                Kind::File => {}
                Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => {
                    return Err(VfsError::InvalidArgument("not a regular file"));
                }
            }
            node.opens += 1;
            table.inode(no)?
        };
        let mut data = inode.data.lock().await;
        if mode.write {
            data.writers += 1;
        }
        let truncated = if mode.truncate {
            data.changed_by(None);
            self.truncate(&inode, &mut data, 0, caller).await
        } else {
            Ok(())
        };
        drop(data);
        let handle = self.handles().add_file(inode, mode);
        if let Err(error) = truncated {
            self.close(handle).await;
            return Err(error);
        }
        let mut table = self.table();
        let node = table.node_mut(no)?;
        let row = node.facts.content();
        let keep_cache = !mode.truncate && node.kept.is_some() && node.kept == row;
        node.kept = row;
        Ok(Opened { handle, keep_cache })
    }

    /// The last descriptor of an open file description is closed: what it left unpublished is published. Nobody waits
    /// for the answer, so a failure is kept for the next who asks.
    pub async fn release(self: &Arc<Self>, handle: HandleId) {
        let Ok(file) = self.handles().file(handle) else { return };
        if let Err(error) = self.publish(&file.inode, Durability::Async).await {
            tracing::warn!(ino = file.inode.no.0, %error, "publishing at release failed; the data is kept");
            file.inode.data.lock().await.keep_error(error);
        }
        self.unlock_handle(&file, handle).await;
        drop(file);
        self.close(handle).await;
    }

    async fn close(self: &Arc<Self>, handle: HandleId) {
        let Some(file) = self.handles().remove_file(handle) else { return };
        let no = file.inode.no;
        let mut data = file.inode.data.lock().await;
        if file.mode.write {
            data.writers = data.writers.saturating_sub(1);
            data.saved_by(handle);
            if data.writers == 0 {
                data.finish();
            }
        }
        let last = {
            let mut table = self.table();
            table.node_mut(no).is_ok_and(|node| {
                node.opens = node.opens.saturating_sub(1);
                node.opens == 0
            })
        };
        if last && (data.content.is_clean() || self.table().node(no).is_ok_and(|node| node.unlinked)) {
            data.content = crate::buffer::Content::default();
            data.of = None;
            self.account(&mut data);
        }
        drop(data);
        file.ahead.lock().unwrap_or_else(PoisonError::into_inner).clear();
        drop(file);
        self.table().tidy(no);
    }

    /// A descriptor is closed: what was written is published before the answer. A mere creation or truncation waits for
    /// its data (docs/semantics.md, 5), but not where many do already: who makes files faster than the server takes them waits for
    /// it. A descriptor that only reads has nothing to publish and is told of no one's failure.
    ///
    /// # Errors
    /// What publishing met, now or since it was last asked for.
    pub async fn flush_handle(self: &Arc<Self>, handle: HandleId) -> Result<()> {
        let file = self.handles().file(handle)?;
        if !file.mode.write {
            return Ok(());
        }
        if self.is_unpublished(file.inode.no) {
            let trivial = file.inode.data.lock().await.trivial;
            if trivial && self.due().count() <= crate::publish::TRIVIAL_MAX {
                self.arm(
                    file.inode.no,
                    crate::publish::TRIVIAL_AFTER.min(self.config.publish_after.max(Duration::from_millis(1))),
                );
            } else {
                self.publish_told(&file.inode, Durability::Async).await?;
            }
        }
        file.inode.data.lock().await.saved_by(handle);
        self.take_error(&file.inode).await
    }

    /// Commits what a description has made or written so far, be it only a creation: for a client that goes on with the file after
    /// this daemon's death. What is written later goes into the same version.
    ///
    /// # Errors
    /// As [`Vfs::flush_handle`].
    pub async fn publish_handle(self: &Arc<Self>, handle: HandleId) -> Result<()> {
        let file = self.handles().file(handle)?;
        if self.is_unpublished(file.inode.no) {
            self.publish_told(&file.inode, Durability::Async).await?;
        }
        self.take_error(&file.inode).await
    }

    /// Makes a file durable: its data and attributes are on the server's disk.
    ///
    /// # Errors
    /// As [`Vfs::flush_handle`].
    pub async fn fsync(self: &Arc<Self>, handle: HandleId, _datasync: bool) -> Result<()> {
        let file = self.handles().file(handle)?;
        self.still_locked(handle)?;
        if !self.publish_told(&file.inode, Durability::Sync).await? && !self.config.read_only {
            self.store.sync().await?;
        }
        self.take_error(&file.inode).await
    }

    /// Publishes for someone who is told of a failure.
    async fn publish_told(self: &Arc<Self>, inode: &crate::inode::Inode, durability: Durability) -> Result<bool> {
        let result = self.publish(inode, durability).await;
        if result.is_err() {
            let mut data = inode.data.lock().await;
            data.error = None;
            data.told = true;
        }
        result
    }

    fn is_unpublished(&self, no: InodeNo) -> bool {
        self.table().node(no).is_ok_and(|node| node.pending || node.dirty)
    }

    /// A failure that nobody was told of: once.
    async fn take_error(&self, inode: &crate::inode::Inode) -> Result<()> {
        let mut data = inode.data.lock().await;
        match data.error.take() {
            Some(error) => {
                data.told = true;
                Err(error)
            }
            None => Ok(()),
        }
    }
}
