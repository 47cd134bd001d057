//! lseek to data and to holes: what the chunks of a large file say. A file that is kept whole is data up to its end.

use std::sync::Arc;

use pgfiles_store::body::Body;

use crate::Vfs;
use crate::buffer::Content;
use crate::error::{Result, VfsError};
use crate::handle::HandleId;

/// What is looked for (`man 2 lseek`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The first byte that is stored.
    Data,
    /// The first that is not, or the end of the file.
    Hole,
}

impl Vfs {
    /// The offset of the next data or hole at or after `offset`.
    ///
    /// # Errors
    /// [`VfsError::BeyondEnd`] at or behind the end, or where only a hole follows and data is looked for.
    pub async fn lseek(self: &Arc<Self>, handle: HandleId, offset: u64, what: Seek) -> Result<u64> {
        let file = self.handles().file(handle)?;
        let mut data = file.inode.data.lock().await;
        self.settle(&file.inode, &mut data);
        if data.content.is_clean() {
            self.body(&file.inode, &mut data).await?;
        }
        let whole = |size: u64| match what {
            _ if offset >= size => Err(VfsError::BeyondEnd),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(size),
        };
        match &data.content {
            Content::Clean(Some(Body::Chunked { manifest, size, .. })) => {
                seek(offset, what, *size, manifest.chunk, |index| manifest.entries.get(index).is_some_and(Option::is_some))
            }
            Content::Chunked(chunked) => seek(offset, what, chunked.size, chunked.manifest.chunk, |index| chunked.is_data(index)),
            Content::Clean(Some(body)) => whole(body.size()),
            Content::Clean(None) => whole(0),
            Content::Whole(bytes) => whole(bytes.len() as u64),
        }
    }
}

fn seek(offset: u64, what: Seek, size: u64, chunk: u32, is_data: impl Fn(usize) -> bool) -> Result<u64> {
    if offset >= size {
        return Err(VfsError::BeyondEnd);
    }
    let chunk = u64::from(chunk);
    let found = (offset / chunk..size.div_ceil(chunk)).find(|index| is_data(*index as usize) == (what == Seek::Data));
    match (found, what) {
        (Some(index), _) => Ok(offset.max(index * chunk)),
        (None, Seek::Hole) => Ok(size),
        (None, Seek::Data) => Err(VfsError::BeyondEnd),
    }
}
