//! write and truncate: changes go to the inode's buffer.

use std::sync::Arc;

use bytes::Bytes;
use pgfiles_store::body::Body;
use pgfiles_store::key::Key;
use pgfiles_store::layout;

use crate::Vfs;
use crate::attr::{Caller, without_privileges};
use crate::buffer::{Chunked, Content, Data, SPILL_BYTES, check_size, chunk_for};
use crate::error::{Result, VfsError};
use crate::handle::HandleId;
use crate::inode::Inode;
use crate::ops::read::REPLACED_MAX;

/// A change of the content.
pub(super) enum Edit<'b> {
    /// Bytes at an offset, or at the end.
    Write { at: Option<u64>, bytes: &'b [u8] },
    /// Another size.
    Size(u64),
    /// Zeros from an offset up to another one, which is not behind the end.
    Zero { from: u64, to: u64 },
}

/// A large body that lies in one row is taken over in pieces of this size.
const PIECE_BYTES: u64 = 4 << 20;

impl Vfs {
    /// Writes all of `bytes` at `offset`, or at the end for a handle that appends. `kill`: the writer loses the file its
    /// set-user-id and set-group-id. Waits while too much is unpublished.
    ///
    /// # Errors
    /// [`VfsError::BadHandle`], [`VfsError::TooLarge`]; what publishing meets at the bound of unpublished bytes.
    pub async fn write(self: &Arc<Self>, handle: HandleId, offset: u64, bytes: Bytes, kill: bool) -> Result<u64> {
        let file = self.handles().file(handle)?;
        if !file.mode.write {
            return Err(VfsError::BadHandle);
        }
        self.still_locked(handle)?;
        if bytes.is_empty() {
            // `man 2 write`: no effect on a file, not even on its size.
            return Ok(0);
        }
        self.make_room().await?;
        let inode = &file.inode;
        let mut data = inode.data.lock().await;
        let data = &mut *data;
        data.changed_by(Some(handle));
        self.settle(inode, data);
        let (before, key) = self.size_and_key(inode)?;
        let at = (!file.mode.append).then_some(offset);
        let size = self.change(inode, data, &key, Edit::Write { at, bytes: &bytes }).await?;
        if file.mode.append && before == 0 && data.of.is_none() && self.table().node(inode.no)?.pending {
            // Another mount may create the same log: what is appended here goes behind it.
            data.appended_from = Some(0);
        }
        data.trivial = false;
        data.written += bytes.len() as u64;
        self.changed_content(inode, data, size, kill);
        if let Content::Chunked(chunked) = &mut data.content
            && chunked.dirty.len() as u64 * u64::from(chunked.manifest.chunk) >= 2 * SPILL_BYTES as u64
        {
            self.launch(chunked, &key.parent(), false).await;
            if let Err(error) = chunked.reap(false, &mut data.rows).await {
                tracing::warn!(ino = inode.no.0, %error, "sending chunks failed; they are kept");
                data.keep_error(error);
            }
        }
        self.account(data);
        Ok(bytes.len() as u64)
    }

    pub(super) fn size_and_key(&self, inode: &Inode) -> Result<(u64, Key)> {
        let table = self.table();
        let node = table.node(inode.no)?;
        // The body rows of a file without a name lie under the root.
        let nameless = || Key::new(&format!("{}unlinked", self.config.prefix));
        Ok((node.facts.size, table.key_of(inode.no).or_else(|_| nameless())?))
    }

    /// Carries out a change of the content and says which size it has then. Where what the content builds on is gone, the
    /// change is made to what is there now.
    pub(super) async fn change(&self, inode: &Inode, data: &mut Data, key: &Key, edit: Edit<'_>) -> Result<u64> {
        let mut tries = 0;
        loop {
            let changed = self.try_change(inode, data, key, &edit).await;
            tries += 1;
            match changed {
                Err(error @ VfsError::Corrupt(_)) if tries < REPLACED_MAX => self.mend(inode, data, key, error).await?,
                changed => {
                    if let Ok(size) = changed {
                        self.estimate(inode, key, &edit, size);
                    }
                    return changed;
                }
            }
        }
    }

    /// How much of the file is stored, until the next publication counts.
    fn estimate(&self, inode: &Inode, key: &Key, edit: &Edit<'_>, size: u64) {
        let mut table = self.table();
        let Ok(node) = table.node_mut(inode.no) else { return };
        let before = node.facts.allocated.unwrap_or(node.facts.size);
        let stored = match edit {
            Edit::Write { bytes, .. } => before + bytes.len() as u64,
            Edit::Size(_) => before,
            Edit::Zero { from, to } => before.saturating_sub(to - from),
        };
        let inline_max = layout::inline_bytes_for(key.component());
        node.facts.allocated = (size > inline_max && stored < size).then_some(stored);
    }

    async fn try_change(&self, inode: &Inode, data: &mut Data, key: &Key, edit: &Edit<'_>) -> Result<u64> {
        let (size, _) = self.size_and_key(inode)?;
        match *edit {
            Edit::Write { at, bytes } => {
                let offset = at.unwrap_or(size);
                self.begin(inode, data, key, (offset >= size).then_some(size)).await?;
                self.modify(key, data, offset, bytes).await?;
                Ok(size.max(offset + bytes.len() as u64))
            }
            Edit::Size(size) => {
                self.begin(inode, data, key, None).await?;
                self.make_chunked(key, data, size)?;
                match &mut data.content {
                    Content::Clean(_) => return Err(VfsError::Stale),
                    Content::Whole(whole) => whole.resize(size as usize, 0),
                    Content::Chunked(chunked) => chunked.resize(&*self.store, size, &mut data.rows).await?,
                }
                Ok(size)
            }
            Edit::Zero { from, to } => {
                self.begin(inode, data, key, None).await?;
                match &mut data.content {
                    Content::Clean(_) => return Err(VfsError::Stale),
                    Content::Whole(whole) => {
                        if let Some(range) = whole.get_mut(from as usize..to as usize) {
                            range.fill(0);
                        }
                    }
                    Content::Chunked(chunked) => chunked.punch(&*self.store, from, to, &mut data.rows).await?,
                }
                Ok(size)
            }
        }
    }

    /// Before a change: the content is loaded, and what kind of change it is noted. `appends`: the end that it is put
    /// behind.
    pub(super) async fn begin(&self, inode: &Inode, data: &mut Data, key: &Key, appends: Option<u64>) -> Result<()> {
        if data.content.is_clean() {
            self.body(inode, data).await?;
            self.thaw(key, data).await?;
        }
        // Only now: the content may have been found replaced.
        let (ahead, row, size) = {
            let table = self.table();
            let node = table.node(inode.no)?;
            (node.pending || node.dirty, node.facts.content(), node.facts.size)
        };
        if !ahead {
            data.of = row;
            data.base_size = size;
            data.appended_from = appends;
        } else if appends.is_none() {
            data.appended_from = None;
        }
        Ok(())
    }

    /// Makes a clean, opened content changeable.
    pub(crate) async fn thaw(&self, key: &Key, data: &mut Data) -> Result<()> {
        let Content::Clean(body) = &mut data.content else { return Ok(()) };
        let body = body.take().ok_or(VfsError::Stale)?;
        data.content = match body {
            Body::Inline { size, .. } if size <= layout::INLINE_BYTES_MAX => {
                Content::Whole(body.read(&*self.store, 0, size).await?.into())
            }
            Body::Inline { size, .. } => {
                let chunk = chunk_for(key.component(), size);
                let mut chunked = Chunked::new(self.clock.lineage(), chunk, &[]);
                let mut at = 0;
                while at < size {
                    let piece = body.read(&*self.store, at, PIECE_BYTES).await?;
                    chunked.write(&*self.store, at, &piece, &mut data.rows).await?;
                    at += piece.len() as u64;
                    self.launch(&mut chunked, &key.parent(), false).await;
                }
                Content::Chunked(Box::new(chunked))
            }
            Body::Chunked { lineage, manifest, leaves, size } => {
                let manifest = Arc::unwrap_or_clone(manifest);
                let mut chunked = Chunked::of_row(data.of, lineage, manifest, leaves.to_vec(), size);
                if data.small_syncs >= self.config.cut_after {
                    chunked.cut(&mut data.rows);
                }
                Content::Chunked(Box::new(chunked))
            }
        };
        Ok(())
    }

    /// Writes into the content.
    pub(crate) async fn modify(&self, key: &Key, data: &mut Data, offset: u64, bytes: &[u8]) -> Result<()> {
        self.thaw(key, data).await?;
        let end = offset.checked_add(bytes.len() as u64).ok_or(VfsError::TooLarge)?;
        self.make_chunked(key, data, end)?;
        match &mut data.content {
            Content::Clean(_) => Err(VfsError::Stale),
            Content::Whole(whole) => {
                let (from, to) = (offset as usize, end as usize);
                if bytes.is_empty() {
                    return Ok(());
                }
                if whole.len() < to {
                    whole.resize(to, 0);
                }
                whole[from..to].copy_from_slice(bytes);
                Ok(())
            }
            Content::Chunked(chunked) => chunked.write(&*self.store, offset, bytes, &mut data.rows).await,
        }
    }

    /// Content that is going to be larger than what is kept in one row goes into chunks.
    fn make_chunked(&self, key: &Key, data: &mut Data, end: u64) -> Result<()> {
        if let Content::Whole(whole) = &data.content
            && end > layout::inline_bytes_for(key.component())
        {
            let chunk = chunk_for(key.component(), end);
            check_size(end, chunk)?;
            data.content = Content::Chunked(Box::new(Chunked::new(self.clock.lineage(), chunk, whole)));
        }
        Ok(())
    }

    /// Sets the size. With the data and [`Vfs::moves`] held.
    pub(crate) async fn truncate(self: &Arc<Self>, inode: &Inode, data: &mut Data, size: u64, caller: Caller) -> Result<()> {
        if size > layout::FILE_BYTES_MAX {
            return Err(VfsError::TooLarge);
        }
        self.settle(inode, data);
        let (before, key) = self.size_and_key(inode)?;
        let kill = caller.uid != 0;
        if size == before {
            return self.touch_times(inode, data, kill).await;
        }
        let was_ahead = !data.content.is_clean();
        if size == 0 {
            if !was_ahead {
                data.of = self.table().node(inode.no)?.facts.content();
                data.trivial = true;
            }
            data.rows.drop_all();
            data.content = Content::Whole(Vec::new());
        } else {
            self.change(inode, data, &key, Edit::Size(size)).await?;
            data.trivial = false;
        }
        data.appended_from = None;
        self.changed_content(inode, data, size, kill);
        self.account(data);
        Ok(())
    }

    /// A truncation to the size that the file has: its times change, its content does not.
    async fn touch_times(self: &Arc<Self>, inode: &Inode, data: &mut Data, kill: bool) -> Result<()> {
        let now = self.clock.now();
        let mut patch = pgfiles_store::version::AttrPatch { mtime: Some(now), ctime: Some(now), ..Default::default() };
        let mode = self.table().node(inode.no)?.facts.mode;
        if let Some(mode) = mode.filter(|&mode| kill && without_privileges(mode) != mode) {
            patch.mode = Some(without_privileges(mode));
        }
        self.patch_locked(inode.no, data, patch).await
    }

    /// After a change of the content.
    pub(super) fn changed_content(&self, inode: &Inode, data: &mut Data, size: u64, kill: bool) {
        data.told = false;
        let now = self.clock.now();
        let mut table = self.table();
        let Ok(node) = table.node_mut(inode.no) else { return };
        node.facts.size = size;
        node.facts.mtime = now;
        node.facts.ctime = now;
        node.patch.mtime = None;
        if let Some(mode) = node.facts.mode.filter(|&mode| kill && without_privileges(mode) != mode) {
            node.facts.mode = Some(without_privileges(mode));
            node.patch.mode = node.facts.mode;
        }
        let first = !node.dirty;
        if !node.unlinked {
            node.dirty = true;
        }
        let unlinked = node.unlinked;
        table.touch(inode.no);
        drop(table);
        if first && !unlinked {
            self.arm(inode.no, self.config.publish_after);
        }
    }
}
