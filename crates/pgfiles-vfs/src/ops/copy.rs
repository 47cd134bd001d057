//! copy_file_range: large files share their chunks, by reference; what cannot be shared is copied.
//!
//! A reference counts only within a lineage, so an empty file that is copied to takes over the lineage of its source. Chunks that
//! the source's version in progress may still replace are not referred to. Whether the two files may share rows at all (the edge
//! of a grant) is checked by the server when the copy is published; refused, it is written whole.

use std::sync::Arc;

use pgfiles_store::body::Body;
use pgfiles_store::layout::{self, Manifest};
use pgfiles_store::version::{Lineage, VersionId};

use crate::Vfs;
use crate::buffer::{Chunked, Content};
use crate::error::{Result, VfsError};
use crate::handle::HandleId;
use crate::inode::Inode;

/// Bytes copied at a time where nothing can be referred to.
const PIECE_BYTES: u64 = 1 << 20;
/// The most that one call copies byte by byte: a request must end. The caller asks again for the rest.
const COPIED_BYTES_MAX: u64 = 64 << 20;

/// Chunks of the source, to be referred to.
struct Shared {
    lineage: Lineage,
    chunk: u32,
    /// From the one at which the range begins.
    entries: Vec<Option<VersionId>>,
}

impl Vfs {
    /// Copies a range of one file into another, or elsewhere in the same one. How many bytes were copied: fewer than `len` at the
    /// end of the source, and where a long range is copied byte by byte. `kill` as for a write.
    ///
    /// # Errors
    /// [`VfsError::BadHandle`]; [`VfsError::InvalidArgument`] for ranges of one file that overlap; [`VfsError::TooLarge`].
    pub async fn copy_file_range(
        self: &Arc<Self>,
        (source, from): (HandleId, u64),
        (target, to): (HandleId, u64),
        len: u64,
        kill: bool,
    ) -> Result<u64> {
        let (file, target_file) = {
            let handles = self.handles();
            (handles.file(source)?, handles.file(target)?)
        };
        if !file.mode.read || !target_file.mode.write || target_file.mode.append {
            return Err(VfsError::BadHandle);
        }
        if file.inode.no == target_file.inode.no && from < to.saturating_add(len) && to < from.saturating_add(len) {
            return Err(VfsError::InvalidArgument("the ranges overlap"));
        }
        if to.checked_add(len).is_none_or(|end| end > layout::FILE_BYTES_MAX) {
            return Err(VfsError::TooLarge);
        }
        let (size, shared) = self.source(&file.inode, from).await?;
        let len = len.min(size.saturating_sub(from));
        if len == 0 {
            return Ok(0);
        }
        self.make_room().await?;
        let referred = match shared {
            Some(shared) if file.inode.no != target_file.inode.no => {
                // Whole chunks, and the last one where it ends both files.
                let ends = from + len == size;
                self.refer(&target_file.inode, target, &shared, to, len, ends, kill).await?
            }
            _ => 0,
        };
        let mut done = referred;
        while done < len && done - referred < COPIED_BYTES_MAX {
            let piece = self.read(source, from + done, PIECE_BYTES.min(len - done)).await?;
            if piece.is_empty() {
                break;
            }
            done += piece.len() as u64;
            self.write(target, to + done - piece.len() as u64, piece, kill).await?;
        }
        Ok(done)
    }

    /// The size of the source, and its chunks from an offset on, where they may be referred to.
    async fn source(self: &Arc<Self>, inode: &Inode, from: u64) -> Result<(u64, Option<Shared>)> {
        let mut data = inode.data.lock().await;
        self.settle(inode, &mut data);
        if data.content.is_clean() {
            self.body(inode, &mut data).await?;
        }
        let Content::Clean(Some(Body::Chunked { lineage, manifest, size, .. })) = &data.content else {
            return Ok((self.table().node(inode.no)?.facts.size, None));
        };
        let chunk = u64::from(manifest.chunk);
        if !from.is_multiple_of(chunk) || !data.rows.is_empty() {
            return Ok((*size, None));
        }
        let entries = manifest.entries.get((from / chunk) as usize..).unwrap_or_default().to_vec();
        Ok((*size, Some(Shared { lineage: *lineage, chunk: manifest.chunk, entries })))
    }

    /// Refers to as many chunks as possible; how many bytes that are.
    #[allow(clippy::too_many_arguments)]
    async fn refer(
        self: &Arc<Self>,
        inode: &Inode,
        handle: HandleId,
        shared: &Shared,
        to: u64,
        len: u64,
        ends: bool,
        kill: bool,
    ) -> Result<u64> {
        let mut data = inode.data.lock().await;
        let data = &mut *data;
        self.settle(inode, data);
        let (size, key) = self.size_and_key(inode)?;
        let chunk = u64::from(shared.chunk);
        if !to.is_multiple_of(chunk) || len < chunk {
            return Ok(0);
        }
        if size > 0 && data.content.is_clean() {
            self.body(inode, data).await?;
        }
        let fits = match &data.content {
            _ if size == 0 => true,
            Content::Clean(Some(Body::Chunked { lineage, manifest, .. })) => {
                (*lineage, manifest.chunk) == (shared.lineage, shared.chunk)
            }
            Content::Chunked(chunked) => (chunked.lineage, chunked.manifest.chunk) == (shared.lineage, shared.chunk),
            Content::Clean(_) | Content::Whole(_) => false,
        };
        if !fits {
            return Ok(0);
        }
        data.changed_by(Some(handle));
        self.begin(inode, data, &key, None).await?;
        if size == 0 {
            let empty = Chunked::open(shared.lineage, Manifest::hole(shared.chunk, 0), Vec::new(), 0);
            data.content = Content::Chunked(Box::new(empty));
        }
        let Content::Chunked(chunked) = &mut data.content else { return Err(VfsError::Stale) };
        let whole = len / chunk * chunk;
        let len = if ends && to + len >= size { len } else { whole };
        if to + len > chunked.size {
            chunked.grow(to + len, &mut data.rows)?;
        }
        for (nth, entry) in shared.entries.iter().take(len.div_ceil(chunk) as usize).enumerate() {
            chunked.refer((to / chunk) as usize + nth, *entry, &mut data.rows);
        }
        let size = chunked.size;
        data.trivial = false;
        self.changed_content(inode, data, size, kill);
        self.account(data);
        Ok(len)
    }
}
