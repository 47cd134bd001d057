//! Unpublished content whose base is gone: chunks that it shares with the version it started from were purged, or were
//! replaced by another mount that has the version in progress.
//!
//! What can still be read goes into a lineage of its own: the changed chunks, and those of the base that a cache has.
//! Where the base cannot be read any more, the changes go onto the version that is head now. Where there is none, the
//! bytes are lost: they read as zeros, and whoever asks next is told once.

use pgfiles_store::body::Body;
use pgfiles_store::key::{Key, Prefix};
use pgfiles_store::layout::{self, Manifest};
use pgfiles_store::version::{Head, Kind};

use crate::Vfs;
use crate::attr::Facts;
use crate::buffer::{Chunked, Content, Data, Rows, SPILL_BYTES, check_size};
use crate::error::{Result, VfsError};
use crate::inode::Inode;
use crate::publish::REBASES_MAX;

/// Where the chunks come from that did not change.
enum Base<'b> {
    /// From the rows that the content refers to.
    Own,
    /// From there as well, but for those that are gone.
    Left,
    /// From another version; `beyond`: also what it has behind the end of a changed chunk.
    Other { body: &'b Body, beyond: bool },
}

impl Vfs {
    /// A change or a read of the content met rows that are gone: afterwards it can be tried again. With the data held.
    ///
    /// # Errors
    /// `error` itself where nothing can be done.
    pub(crate) async fn mend(&self, inode: &Inode, data: &mut Data, key: &Key, error: VfsError) -> Result<()> {
        let is_ahead = self.table().node(inode.no)?.is_ahead();
        if is_ahead && !data.content.is_clean() {
            return self.rewrite(inode, data, key, error).await;
        }
        // Nothing of it is changed: the next who asks opens it anew.
        data.content = Content::default();
        if self.was_replaced(inode, data).await? { Ok(()) } else { Err(error) }
    }

    /// See the module. With the data held.
    ///
    /// # Errors
    /// `error` itself where the content refers to no rows; what the store says. The content is then as it was.
    pub(crate) async fn rewrite(&self, inode: &Inode, data: &mut Data, key: &Key, error: VfsError) -> Result<()> {
        let Content::Chunked(old) = &mut data.content else { return Err(error) };
        // Errors of flights do not matter: what they carried is dirty again.
        let _ = old.reap(true, &mut data.rows).await;
        let (size, ino, nameless) = {
            let table = self.table();
            let node = table.node(inode.no)?;
            (node.facts.size, node.facts.ino, node.unlinked)
        };
        let dir = key.parent();
        match self.copied(old, &Base::Own, size, &dir).await {
            Ok((copy, rows, _)) => {
                tracing::info!(ino = inode.no.0, "what the file builds on is gone from the server: it is written whole");
                take_over(data, copy, rows);
                return Ok(());
            }
            Err(VfsError::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
        let truncated = size < data.base_size;
        for _ in 0..REBASES_MAX {
            if nameless {
                return Err(error);
            }
            // Another file that has the name by now is no base.
            let is_base = |head: &Head| {
                let facts = Facts::of_head(head);
                facts.content() != data.of && facts.ino == ino
            };
            let Some(head) = self.newest(key).await?.filter(is_base) else { break };
            let size = if truncated { size } else { size.max(head.meta.size) };
            let copied = match Body::open(&*self.store, &head).await.map_err(VfsError::from) {
                Ok(body) => self.copied(old, &Base::Other { body: &body, beyond: !truncated }, size, &dir).await,
                Err(error) => Err(error),
            };
            match copied {
                Ok((copy, rows, _)) => {
                    tracing::warn!(
                        ino = inode.no.0,
                        "what the file builds on was replaced: its changes go onto the newest version"
                    );
                    take_over(data, copy, rows);
                    self.rebased(inode, data, &head, size);
                    return Ok(());
                }
                // Replaced once more.
                Err(VfsError::Corrupt(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let (copy, rows, lost) = self.copied(old, &Base::Left, size, &dir).await?;
        take_over(data, copy, rows);
        if lost > 0 {
            tracing::error!(ino = inode.no.0, %key, bytes = lost, %error, "bytes of the file are gone from the server and read as zeros");
            data.lost = Some(error);
        }
        Ok(())
    }

    /// The head of a file's key, not through the cache.
    async fn newest(&self, key: &Key) -> Result<Option<Head>> {
        let head = self.store.versions(key, None, 1).await?.into_iter().next();
        Ok(head.filter(|head| head.is_live() && head.meta.kind == Kind::File))
    }

    /// The content in a lineage of its own; the rows that are written for it already; the bytes that are missing.
    async fn copied(&self, old: &Chunked, base: &Base<'_>, size: u64, dir: &Prefix) -> Result<(Chunked, Rows, u64)> {
        let chunk = old.manifest.chunk;
        check_size(size, chunk)?;
        let manifest = Manifest::hole(chunk, size);
        let mut copy = Chunked::open(self.clock.lineage(), manifest, Vec::new(), size);
        let (mut rows, mut lost) = (Rows::default(), 0);
        for index in 0..layout::chunks(size, chunk) {
            let len = (size - index as u64 * u64::from(chunk)).min(u64::from(chunk));
            let mut bytes = match self.base_chunk(old, base, index, len).await {
                Err(VfsError::Corrupt(_)) if matches!(base, Base::Left) => {
                    lost += len;
                    Vec::new()
                }
                bytes => bytes?,
            };
            if let Some(changed) = old.dirty.get(&index) {
                if bytes.len() < changed.len() {
                    bytes.resize(changed.len(), 0);
                }
                bytes[..changed.len()].copy_from_slice(changed);
                bytes.truncate(len as usize);
            } else if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            copy.dirty.insert(index, bytes);
            if copy.dirty.len() * chunk as usize >= 2 * SPILL_BYTES {
                self.launch(&mut copy, dir, false).await;
                copy.reap(false, &mut rows).await?;
            }
        }
        Ok((copy, rows, lost))
    }

    /// What lies below the changes of a chunk; empty for a hole.
    async fn base_chunk(&self, old: &Chunked, base: &Base<'_>, index: usize, len: u64) -> Result<Vec<u8>> {
        let changed = old.dirty.contains_key(&index);
        match base {
            Base::Own | Base::Left => {
                let part = old.manifest.part(index, old.lineage, 0, len as u32);
                let Some(part) = part.filter(|_| !changed) else { return Ok(Vec::new()) };
                Ok(self.store.read(&[part]).await?.pop().unwrap_or_default().to_vec())
            }
            Base::Other { beyond: false, .. } if changed => Ok(Vec::new()),
            Base::Other { body, .. } => {
                if let Body::Chunked { manifest, .. } = body
                    && manifest.chunk == old.manifest.chunk
                    && manifest.entries.get(index).copied().flatten().is_none()
                {
                    return Ok(Vec::new());
                }
                let start = index as u64 * u64::from(old.manifest.chunk);
                Ok(body.read(&*self.store, start, len).await?.to_vec())
            }
        }
    }

    /// The changes are on another version now.
    fn rebased(&self, inode: &Inode, data: &mut Data, head: &Head, size: u64) {
        data.of = Facts::of_head(head).content();
        data.base_size = head.meta.size;
        data.appended_from = None;
        if let Ok(node) = self.table().node_mut(inode.no) {
            node.facts.size = size;
            node.kept = None;
        }
        if let Some(kernel) = self.kernel.get() {
            kernel.inode(inode.no);
        }
    }
}

/// The copy is the content from now on; the rows of the version in progress are garbage.
fn take_over(data: &mut Data, copy: Chunked, rows: Rows) {
    data.rows.replace(rows);
    data.content = Content::Chunked(Box::new(copy));
}
