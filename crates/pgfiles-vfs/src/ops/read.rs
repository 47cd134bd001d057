//! read: from the buffer where there are changes, else from the version, ahead of a sequential reader.

use std::sync::Arc;

use bytes::Bytes;
use pgfiles_store::body::Body;
use pgfiles_store::layout;
use pgfiles_store::store::Part;
use pgfiles_store::version::Head;

use crate::Vfs;
use crate::attr::Facts;
use crate::buffer::{Content, Data};
use crate::error::{Result, VfsError};
use crate::handle::HandleId;
use crate::inode::Inode;
use crate::read_ahead;

/// How often a reader goes on with the next version when the one that it reads is replaced by its writer.
pub(crate) const REPLACED_MAX: u32 = 20;

impl Vfs {
    /// At most `len` bytes from `offset`; fewer only at the end.
    ///
    /// # Errors
    /// [`VfsError::Corrupt`] where the body is damaged; [`VfsError::BadHandle`].
    pub async fn read(self: &Arc<Self>, handle: HandleId, offset: u64, len: u64) -> Result<Bytes> {
        // `man 2 lseek`: there is nothing beyond, and no file gets there.
        let len = len.min((i64::MAX as u64).saturating_sub(offset));
        let file = self.handles().file(handle)?;
        self.still_locked(handle)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let mut tries = 0;
        loop {
            let mut data = file.inode.data.lock().await;
            self.settle(&file.inode, &mut data);
            match &data.content {
                Content::Whole(bytes) => {
                    let end = offset.saturating_add(len).min(bytes.len() as u64) as usize;
                    return Ok(Bytes::copy_from_slice(bytes.get(offset as usize..end).unwrap_or_default()));
                }
                Content::Chunked(chunked) => return chunked.read(&*self.store, offset, len).await,
                Content::Clean(_) => {}
            }
            let body = self.body(&file.inode, &mut data).await?;
            let of = data.of;
            drop(data);
            let read = read_ahead::read(&file.ahead, &self.store, (of, &body), offset, len, &self.runtime).await;
            tries += 1;
            if let Err(VfsError::Corrupt(_)) = &read
                && tries < REPLACED_MAX
            {
                let mut data = file.inode.data.lock().await;
                // Published again meanwhile by this mount, or by another one.
                if data.of != of || self.was_replaced(&file.inode, &mut data).await? {
                    continue;
                }
            }
            return read;
        }
    }

    /// Whether the version that a clean content stands for was in progress and is replaced by now, by the mount that
    /// writes it; then the newer one is taken over.
    pub(crate) async fn was_replaced(&self, inode: &Inode, data: &mut Data) -> Result<bool> {
        let key = {
            let table = self.table();
            let node = table.node(inode.no)?;
            if node.is_ahead() {
                return Ok(false);
            }
            table.key_of(inode.no)?
        };
        // Not through the cache, which still believes in the row that is gone.
        let newest = self.store.versions(&key, None, 1).await?.into_iter().next();
        let other = |head: &Head| head.is_live() && Facts::of_head(head).content() != data.of;
        let Some(head) = newest.filter(other) else { return Ok(false) };
        let content = {
            let mut table = self.table();
            let node = table.node_mut(inode.no)?;
            let ino = node.facts.ino;
            node.refresh(Facts { ino, ..Facts::of_head(&head) });
            node.facts.content()
        };
        data.content = Content::default();
        data.of = content;
        if let Some(kernel) = self.kernel.get() {
            kernel.inode(inode.no);
        }
        Ok(true)
    }

    /// Where nothing is unpublished, the content is that of the newest row that is known.
    pub(crate) fn settle(&self, inode: &Inode, data: &mut Data) {
        let row = {
            let table = self.table();
            let Ok(node) = table.node(inode.no) else { return };
            if node.is_ahead() && !(node.unlinked && data.of.is_none()) {
                return;
            }
            node.facts.content()
        };
        if data.of != row && data.content.is_clean() {
            data.content = Content::default();
            data.of = row;
            // What this mount published is history now.
            data.extends = None;
            data.rows.forget();
        }
    }

    /// The body of a clean content, opened. A small one is read whole.
    pub(crate) async fn body(&self, inode: &Inode, data: &mut Data) -> Result<Body> {
        let mut tries = 0;
        loop {
            let opened = self.open_body(inode, data).await;
            tries += 1;
            match &opened {
                Err(VfsError::Corrupt(_)) if tries < REPLACED_MAX && self.was_replaced(inode, data).await? => {}
                _ => return opened,
            }
        }
    }

    async fn open_body(&self, inode: &Inode, data: &mut Data) -> Result<Body> {
        if let Content::Clean(Some(body)) = &data.content {
            return Ok(body.clone());
        }
        let (head, of, path) = {
            let table = self.table();
            let node = table.node(inode.no)?;
            // An unlinked file has no path; its row is read by id all the same.
            let path = table.key_of(inode.no).ok();
            let key = path.clone().map_or_else(|| pgfiles_store::Key::new("unlinked"), Ok)?;
            (node.facts.head(&key).ok_or(VfsError::Stale)?, node.facts.content(), path)
        };
        data.of = of;
        let mut body = Body::open(&*self.store, &head).await?;
        if let Body::Inline { size, data: None, part } = body
            && size <= layout::INLINE_BYTES_MAX
        {
            if let Some(path) = &path {
                self.fresh.bring(path, &Part { len: size as u32, ..part }).await;
            }
            let bytes = body.read(&*self.store, 0, size).await?;
            body = Body::Inline { part, size, data: Some(bytes) };
        }
        data.content = Content::Clean(Some(body.clone()));
        Ok(body)
    }
}
