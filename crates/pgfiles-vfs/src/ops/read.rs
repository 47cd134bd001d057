//! read: from the buffer where there are changes, else from the version, ahead of a sequential reader.

use std::sync::Arc;

use bytes::Bytes;
use pgfiles_store::body::Body;
use pgfiles_store::layout;

use crate::Vfs;
use crate::buffer::{Content, Data};
use crate::error::{Result, VfsError};
use crate::handle::HandleId;
use crate::inode::Inode;
use crate::read_ahead;

impl Vfs {
    /// At most `len` bytes from `offset`; fewer only at the end.
    ///
    /// # Errors
    /// [`VfsError::Corrupt`] where the body is damaged; [`VfsError::BadHandle`].
    pub async fn read(self: &Arc<Self>, handle: HandleId, offset: u64, len: u64) -> Result<Bytes> {
        let file = self.handles().file(handle)?;
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
        read_ahead::read(&file.ahead, &self.store, (of, &body), offset, len, &self.runtime).await
    }

    /// Where nothing is unpublished, the content is that of the newest row that is known.
    pub(crate) fn settle(&self, inode: &Inode, data: &mut Data) {
        let row = {
            let table = self.table();
            let Ok(node) = table.node(inode.no) else { return };
            if node.is_ahead() && !(node.unlinked && data.of.is_none()) {
                return;
            }
            node.facts.row.map(|(id, _)| id)
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
        if let Content::Clean(Some(body)) = &data.content {
            return Ok(body.clone());
        }
        let head = {
            let table = self.table();
            let node = table.node(inode.no)?;
            // An unlinked file has no path; its row is read by id all the same.
            let key = table.key_of(inode.no).or_else(|_| pgfiles_store::Key::new("unlinked"))?;
            node.facts.head(&key).ok_or(VfsError::Stale)?
        };
        let mut body = Body::open(&*self.store, &head).await?;
        if let Body::Inline { size, data: bytes @ None, part } = &body
            && *size <= layout::INLINE_BYTES_MAX
        {
            let _ = bytes;
            let (size, part) = (*size, *part);
            let bytes = body.read(&*self.store, 0, size).await?;
            body = Body::Inline { part, size, data: Some(bytes) };
        }
        data.content = Content::Clean(Some(body.clone()));
        data.of = Some(head.id);
        Ok(body)
    }
}
