//! Reading a body whatever its layout: inline, by reference, chunked with holes. Sits on [`Store::read`], so that every
//! piece may come from the cache.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::error::{Kind, Result, StoreError};
use crate::layout::{self, Manifest};
use crate::store::{Part, Store};
use crate::version::{Head, Layout, VersionId};

/// The most bytes asked for in one [`Store::read`].
const WINDOW_BYTES: u64 = 4 << 20;

/// The bytes of one version, ready to be read at any offset. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Body {
    /// In one row: the version's own, or the one that it refers to.
    Inline {
        /// Where the bytes are.
        part: Part,
        /// Length of the file.
        size: u64,
        /// The bytes, if they came along.
        data: Option<Bytes>,
    },
    /// In chunk rows.
    Chunked {
        /// The family of the chunk rows.
        lineage: crate::version::Lineage,
        /// All entries.
        manifest: Arc<Manifest>,
        /// The leaf rows of a manifest of two levels, in order; empty with one.
        leaves: Arc<[Option<VersionId>]>,
        /// Length of the file.
        size: u64,
    },
}

impl Body {
    /// Opens the body of a version. No round trip for an inline one; for a chunked one the manifest is read (one, or two
    /// with leaves).
    ///
    /// # Errors
    /// [`Kind::Corrupt`] where `meta` is absurd or a row of the body is missing; what [`Store::read`] says.
    pub async fn open(store: &dyn Store, head: &Head) -> Result<Self> {
        let meta = &head.meta;
        if let Some(fault) = &meta.fault {
            return Err(corrupt(head, fault));
        }
        let own = head.data.clone();
        let Some(layout) = meta.layout else {
            let (id, lineage) = match meta.body {
                Some(body) if meta.lineage.is_none() => {
                    return Err(corrupt(head, &format!("refers to {body} without a lineage")));
                }
                Some(body) => (body, meta.lineage),
                None => (head.id, None),
            };
            let part = Part { id, lineage, offset: 0, len: 0 };
            let data = own.filter(|data| meta.body.is_none() && data.len() as u64 == meta.size);
            return Ok(Self::Inline { part, size: meta.size, data });
        };
        let lineage = meta.lineage.ok_or_else(|| corrupt(head, "chunked without a lineage"))?;
        if meta.size > layout::FILE_BYTES_MAX {
            return Err(corrupt(head, "size over the limit"));
        }
        let (manifest, leaves) = Self::manifest(store, head, layout, lineage, own).await?;
        Ok(Self::Chunked { lineage, manifest: Arc::new(manifest), leaves: leaves.into(), size: meta.size })
    }

    async fn manifest(
        store: &dyn Store,
        head: &Head,
        layout: Layout,
        lineage: crate::version::Lineage,
        own: Option<Bytes>,
    ) -> Result<(Manifest, Vec<Option<VersionId>>)> {
        let count = layout::chunks(head.meta.size, layout.chunk);
        let top_entries = if layout.levels == 2 { count.div_ceil(layout::LEAF_ENTRIES) } else { count };
        let root = match own {
            Some(data) => data,
            None => {
                let len = u32::try_from(top_entries * 16 + 1).map_err(|_| corrupt(head, "manifest too long"))?;
                one(store.read(&[Part { id: head.id, lineage: None, offset: 0, len }]).await?)
            }
        };
        let top = layout::decode(&root).filter(|top| top.len() == top_entries);
        let top = top.ok_or_else(|| corrupt(head, "its manifest does not fit its size"))?;
        if layout.levels == 1 {
            return Ok((Manifest { chunk: layout.chunk, entries: top }, Vec::new()));
        }
        let len = (layout::LEAF_ENTRIES * 16) as u32;
        let parts: Vec<Part> = top.iter().flatten().map(|&id| Part { id, lineage: Some(lineage), offset: 0, len }).collect();
        let mut leaves = store.read(&parts).await?.into_iter();
        let mut entries = Vec::with_capacity(count);
        for (index, leaf) in top.iter().enumerate() {
            let expected = layout::LEAF_ENTRIES.min(count - index * layout::LEAF_ENTRIES);
            match leaf {
                None => entries.resize(entries.len() + expected, None),
                Some(id) => {
                    let leaf = leaves.next().and_then(|bytes| layout::decode(&bytes)).filter(|leaf| leaf.len() == expected);
                    entries.extend(leaf.ok_or_else(|| corrupt(head, &format!("its leaf {id} has another length")))?);
                }
            }
        }
        Ok((Manifest { chunk: layout.chunk, entries }, top))
    }

    /// Length of the file in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline { size, .. } | Self::Chunked { size, .. } => *size,
        }
    }

    /// Bytes from `offset`, at most `len`, fewer only at the end. One round trip per 4 MiB that no cache holds.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] where rows are missing; what [`Store::read`] says.
    pub async fn read(&self, store: &dyn Store, offset: u64, len: u64) -> Result<Bytes> {
        let end = offset.saturating_add(len).min(self.size());
        if offset >= end {
            return Ok(Bytes::new());
        }
        match self {
            Self::Inline { data: Some(data), .. } => Ok(data.slice(offset as usize..end as usize)),
            Self::Inline { part, .. } => {
                let mut out = BytesMut::with_capacity((end - offset) as usize);
                let mut at = offset;
                while at < end {
                    let len = (end - at).min(WINDOW_BYTES) as u32;
                    let bytes = one(store.read(&[Part { offset: at, len, ..*part }]).await?);
                    if bytes.len() != len as usize {
                        return Err(StoreError::new(Kind::Corrupt, format!("row {} is shorter than its size says", part.id)));
                    }
                    at += u64::from(len);
                    if at == end && out.is_empty() {
                        return Ok(bytes);
                    }
                    out.extend_from_slice(&bytes);
                }
                Ok(out.freeze())
            }
            Self::Chunked { lineage, manifest, .. } => {
                let chunk = u64::from(manifest.chunk);
                let mut out = BytesMut::zeroed((end - offset) as usize);
                let (first, last) = ((offset / chunk) as usize, ((end - 1) / chunk) as usize);
                let per_window = (WINDOW_BYTES / chunk).max(1) as usize;
                let present: Vec<(usize, Part)> = (first..=last)
                    .filter_map(|index| {
                        let start = index as u64 * chunk;
                        let (from, to) = (offset.max(start), end.min(start + chunk));
                        let part = manifest.part(index, *lineage, from - start, (to - from) as u32)?;
                        Some(((from - offset) as usize, part))
                    })
                    .collect();
                for window in present.chunks(per_window) {
                    let parts: Vec<Part> = window.iter().map(|(_, part)| *part).collect();
                    for (&(at, part), bytes) in window.iter().zip(store.read(&parts).await?) {
                        let fits = bytes.len().min(part.len as usize);
                        out[at..at + fits].copy_from_slice(&bytes[..fits]);
                    }
                }
                Ok(out.freeze())
            }
        }
    }
}

fn one(mut parts: Vec<Bytes>) -> Bytes {
    parts.pop().unwrap_or_default()
}

fn corrupt(head: &Head, why: &str) -> StoreError {
    StoreError::new(Kind::Corrupt, format!("{:?} version {}: {why}", head.key, head.version))
}
