//! The content of an inode: as a version has it, or changed and not yet published. Small files are whole in memory;
//! larger ones are chunks, of which only the changed ones are.
//!
//! No keys and no inode numbers here: what is written where is decided in `publish`.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use pgfiles_store::batch::{Durability, Grown};
use pgfiles_store::body::Body;
use pgfiles_store::error::{Kind, StoreError};
use pgfiles_store::layout::{self, CHUNK_BYTES, Manifest};
use pgfiles_store::store::{Part, Store};
use pgfiles_store::version::{Lineage, VersionId};
use tokio::task::JoinHandle;

use crate::error::{Result, VfsError};
use crate::handle::HandleId;
use crate::progress;

/// Body rows that are sent in one batch. A chunk less than a power of two: the buffers in which a request is put together double.
pub(crate) const SPILL_BYTES: usize = (2 << 20) - CHUNK_BYTES as usize;
/// Batches of body rows on their way at once, over all files of a mount.
pub(crate) const SPILLS_AT_ONCE: usize = 4;
/// More chunks than that make a manifest too large to hold in memory.
const CHUNKS_MAX: usize = 1 << 23;
/// Bytes asked for at once when a range is read.
const WINDOW_BYTES: usize = 4 << 20;

/// What [`crate::inode::Inode::data`] guards.
#[derive(Default)]
pub(crate) struct Data {
    pub content: Content,
    /// The row that a clean content stands for, and that changes started from.
    pub of: Option<VersionId>,
    /// Nothing but a creation or a truncation is unpublished.
    pub trivial: bool,
    /// The size of that row's content when changes started from it.
    pub base_size: u64,
    /// All that changed since the row in `of` was put after this offset, which was the end.
    pub appended_from: Option<u64>,
    /// The version in progress: what this mount published and may replace.
    pub extends: Option<VersionId>,
    /// A descriptor of `writer` was closed since it published `extends`: what another description changes from now on
    /// is a version of its own. RELEASE may come long after close(2) returned, so it is not waited for.
    pub seal: bool,
    /// The description that changed the content last.
    pub writer: Option<HandleId>,
    /// Handles that may write.
    pub writers: u32,
    pub rows: Rows,
    /// A failure that nobody was told of yet.
    pub error: Option<VfsError>,
    /// What is unpublished lacks bytes that are nowhere any more: to be told when it is published.
    pub lost: Option<VfsError>,
    /// Someone was told that what is unpublished now could not be published.
    pub told: bool,
    /// What this file adds to the mount's dirty bytes.
    pub accounted: u64,
    /// Bytes written since the last publication, however often over each other.
    pub written: u64,
    /// Syncs in a row that each published a few bytes of those.
    pub small_syncs: u32,
}

impl Data {
    /// A description is about to change the content: begins a version of its own where another's was saved.
    pub fn changed_by(&mut self, writer: Option<HandleId>) {
        if self.seal && self.writer != writer {
            self.finish();
        }
        self.writer = writer;
    }

    /// What was written is published; how, says what kind of file it is.
    pub fn published(&mut self, durability: Durability) {
        let small = 1..=u64::from(layout::SMALL_CHUNK_BYTES);
        match durability {
            Durability::Sync if small.contains(&self.written) => self.small_syncs = self.small_syncs.saturating_add(1),
            _ if self.written > *small.end() => self.small_syncs = 0,
            Durability::Sync | Durability::Async => {}
        }
        self.written = 0;
    }

    /// A descriptor of `handle` is closed, and nothing of it is unpublished.
    pub fn saved_by(&mut self, handle: HandleId) {
        if self.writer == Some(handle) {
            self.seal = self.extends.is_some();
        }
    }

    /// The version in progress is history: what comes next is another.
    pub fn finish(&mut self) {
        self.seal = false;
        self.extends = None;
        self.rows.forget();
    }

    /// Keeps a failure for the next who asks, unless it was told already.
    pub fn keep_error(&mut self, error: VfsError) {
        if !self.told {
            self.error.get_or_insert(error);
        }
    }
}

/// Body rows that the version in progress wrote.
#[derive(Default)]
pub(crate) struct Rows {
    /// Those that it refers to, and by how many entries.
    own: HashMap<VersionId, usize>,
    /// Those that it refers to no more.
    pub garbage: Vec<VersionId>,
}

impl Rows {
    /// A row that an entry refers to was written.
    pub fn add(&mut self, id: VersionId) {
        self.own.insert(id, 1);
    }

    /// Whether nothing that was written is referred to.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty()
    }

    /// An entry is gone: its row is not referred to any more unless others name slices of it.
    pub fn drop_row(&mut self, entry: Option<VersionId>) {
        let Some((id, _)) = entry.map(layout::row_of) else { return };
        let Some(entries) = self.own.get_mut(&id) else { return };
        *entries -= 1;
        if *entries == 0 {
            self.own.remove(&id);
            self.garbage.push(id);
        }
    }

    /// The content refers to none of them any more.
    pub fn drop_all(&mut self) {
        self.garbage.extend(self.own.drain().map(|(id, _)| id));
    }

    /// The rows of another content take the place of these.
    pub fn replace(&mut self, by: Self) {
        self.drop_all();
        self.garbage.extend(by.garbage);
        self.own = by.own;
    }

    /// The version in progress is finished: its rows are history's.
    pub fn forget(&mut self) {
        self.own.clear();
        self.garbage.clear();
    }
}

/// See the module.
pub(crate) enum Content {
    /// As the row in [`Data::of`] has it; opened when first read.
    Clean(Option<Body>),
    /// Changed, at most [`layout::INLINE_BYTES_MAX`].
    Whole(Vec<u8>),
    /// Changed, larger.
    Chunked(Box<Chunked>),
}

impl Default for Content {
    fn default() -> Self {
        Self::Clean(None)
    }
}

impl Content {
    /// Bytes held in memory that are nowhere else.
    pub fn dirty_bytes(&self) -> u64 {
        match self {
            Self::Clean(_) => 0,
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Chunked(chunked) => chunked.dirty_bytes(),
        }
    }

    pub fn is_clean(&self) -> bool {
        matches!(self, Self::Clean(_))
    }
}

/// A large file with changes.
pub(crate) struct Chunked {
    pub lineage: Lineage,
    pub size: u64,
    pub manifest: Manifest,
    /// Leaf rows of the base, in order; `None` where one has to be written, or is a hole.
    pub leaves: Vec<Option<VersionId>>,
    /// Changed chunks. May be shorter than a chunk: the rest is zeros.
    pub dirty: BTreeMap<usize, Vec<u8>>,
    /// Changed chunks on their way to the store.
    pub flying: BTreeMap<usize, (VersionId, Bytes)>,
    pub flights: VecDeque<Flight>,
    /// The row that the changes started from and what its manifest names, of two levels the leaves.
    pub base: Option<(VersionId, Vec<Option<VersionId>>)>,
}

/// A batch of body rows on its way.
pub(crate) struct Flight {
    pub task: JoinHandle<std::result::Result<(), StoreError>>,
    pub chunks: Vec<(usize, VersionId)>,
}

impl Chunked {
    /// A body as it is stored.
    pub fn open(lineage: Lineage, manifest: Manifest, leaves: Vec<Option<VersionId>>, size: u64) -> Self {
        let (dirty, flying, flights) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        Self { lineage, size, manifest, leaves, dirty, flying, flights, base: None }
    }

    /// The body of a row, to be changed.
    pub fn of_row(
        id: Option<VersionId>,
        lineage: Lineage,
        manifest: Manifest,
        leaves: Vec<Option<VersionId>>,
        size: u64,
    ) -> Self {
        let named = if leaves.is_empty() { &manifest.entries } else { &leaves };
        let base = id.map(|id| (id, named.clone()));
        Self { base, ..Self::open(lineage, manifest, leaves, size) }
    }

    /// From now on in small chunks, by reference, where that is possible. Nothing has changed yet.
    pub fn cut(&mut self, rows: &mut Rows) {
        let Some(cut) = self.manifest.cut(self.size) else { return };
        for leaf in self.leaves.drain(..) {
            rows.drop_row(leaf);
        }
        for (row, _) in cut.entries.iter().flatten().copied().map(layout::row_of) {
            if let Some(entries) = rows.own.get_mut(&row) {
                *entries += 1;
            }
        }
        for &row in self.manifest.entries.iter().flatten() {
            rows.drop_row(Some(row));
        }
        self.manifest = cut;
    }

    /// What a manifest that names these rows has and that of the base has not.
    pub fn grown(&self, named: &[Option<VersionId>]) -> Option<Grown> {
        let (base, before) = self.base.as_ref()?;
        let is_added = |(index, row): &(usize, &Option<VersionId>)| before.get(*index) != Some(row);
        let rows = named.iter().enumerate().filter(is_added).filter_map(|(_, row)| row.map(layout::row_of));
        let mut added: Vec<VersionId> = rows.map(|(row, _)| row).collect();
        added.dedup();
        Some(Grown { base: *base, added })
    }

    /// A new body that begins with these bytes.
    pub fn new(lineage: Lineage, chunk: u32, bytes: &[u8]) -> Self {
        let size = bytes.len() as u64;
        let mut chunked = Self::open(lineage, Manifest::hole(chunk, size), Vec::new(), size);
        chunked.dirty = bytes.chunks(chunk as usize).map(<[u8]>::to_vec).enumerate().collect();
        chunked
    }

    pub fn dirty_bytes(&self) -> u64 {
        let dirty: usize = self.dirty.values().map(Vec::len).sum();
        let flying: usize = self.flying.values().map(|(_, bytes)| bytes.len()).sum();
        (dirty + flying) as u64
    }

    fn chunk(&self) -> u64 {
        u64::from(self.manifest.chunk)
    }

    /// A leaf has to be written again.
    fn touch_leaf(&mut self, index: usize, rows: &mut Rows) {
        if let Some(leaf) = self.leaves.get_mut(index / layout::LEAF_ENTRIES) {
            rows.drop_row(leaf.take());
        }
    }

    /// Bytes of a range; reads what is not in memory.
    pub async fn read(&self, store: &dyn Store, offset: u64, len: u64) -> Result<Bytes> {
        let end = offset.saturating_add(len).min(self.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let mut out = BytesMut::zeroed((end - offset) as usize);
        let mut parts = Vec::new();
        for index in (offset / self.chunk()) as usize..=((end - 1) / self.chunk()) as usize {
            let start = index as u64 * self.chunk();
            let (from, to) = (offset.max(start), end.min(start + self.chunk()));
            let held = self.dirty.get(&index).map(Vec::as_slice);
            let held = held.or_else(|| self.flying.get(&index).map(|(_, bytes)| &bytes[..]));
            if let Some(held) = held {
                copy(
                    held.get((from - start) as usize..).unwrap_or_default(),
                    &mut out[(from - offset) as usize..(to - offset) as usize],
                );
            } else if let Some(part) = self.manifest.part(index, self.lineage, from - start, (to - from) as u32) {
                parts.push((part, (from - offset) as usize));
            }
        }
        for window in parts.chunks((WINDOW_BYTES / self.manifest.chunk as usize).max(1)) {
            let wanted: Vec<Part> = window.iter().map(|(part, _)| *part).collect();
            for ((part, at), bytes) in window.iter().zip(store.read(&wanted).await?) {
                copy(&bytes, &mut out[*at..*at + part.len as usize]);
            }
        }
        Ok(out.freeze())
    }

    /// The chunk as bytes that may be changed: read first where `keep` says that a part of it stays.
    async fn thaw(&mut self, store: &dyn Store, index: usize, keep: bool, rows: &mut Rows) -> Result<&mut Vec<u8>> {
        if !self.dirty.contains_key(&index) {
            let stored = self.manifest.part(index, self.lineage, 0, self.manifest.chunk);
            let bytes = match (self.flying.get(&index), stored) {
                (Some((_, bytes)), _) => bytes.to_vec(),
                (None, Some(part)) if keep => store.read_once(&[part]).await?.pop().unwrap_or_default().to_vec(),
                (None, Some(_) | None) => Vec::new(),
            };
            // A flight that lands for a chunk that is no longer flying leaves garbage: see `landed`.
            self.flying.remove(&index);
            if let Some(entry) = self.manifest.entries.get_mut(index) {
                rows.drop_row(entry.take());
            }
            self.touch_leaf(index, rows);
            self.dirty.insert(index, bytes);
        }
        Ok(self.dirty.entry(index).or_default())
    }

    /// Writes bytes at an offset, beyond the end too.
    pub async fn write(&mut self, store: &dyn Store, offset: u64, data: &[u8], rows: &mut Rows) -> Result<()> {
        let end = offset + data.len() as u64;
        if end > self.size {
            self.grow(end, rows)?;
        }
        let mut at = offset;
        while at < end {
            let index = (at / self.chunk()) as usize;
            let start = index as u64 * self.chunk();
            let until = end.min(start + self.chunk());
            let whole = at == start && until == self.size.min(start + self.chunk());
            let chunk = self.thaw(store, index, !whole, rows).await?;
            let (from, to) = ((at - start) as usize, (until - start) as usize);
            if chunk.len() < to {
                chunk.resize(to, 0);
            }
            chunk[from..to].copy_from_slice(&data[(at - offset) as usize..(until - offset) as usize]);
            at = until;
        }
        Ok(())
    }

    pub fn grow(&mut self, size: u64, rows: &mut Rows) -> Result<()> {
        check_size(size, self.manifest.chunk)?;
        self.resize_manifest(size, rows);
        Ok(())
    }

    fn resize_manifest(&mut self, size: u64, rows: &mut Rows) {
        let (before, after) = (self.manifest.entries.len(), layout::chunks(size, self.manifest.chunk));
        if after != before {
            for index in after..before {
                rows.drop_row(self.manifest.entries.get(index).copied().flatten());
            }
            // The last leaf has another length from now on.
            self.touch_leaf(before.saturating_sub(1), rows);
            self.touch_leaf(after.saturating_sub(1), rows);
            self.manifest.resize(size);
            if !self.leaves.is_empty() {
                let leaves = after.div_ceil(layout::LEAF_ENTRIES);
                for leaf in self.leaves.get(leaves..).unwrap_or_default() {
                    rows.drop_row(*leaf);
                }
                self.leaves.resize(leaves, None);
            }
        }
        self.size = size;
    }

    /// Cuts the file or lets it grow with a hole.
    pub async fn resize(&mut self, store: &dyn Store, size: u64, rows: &mut Rows) -> Result<()> {
        if size >= self.size {
            return self.grow(size, rows);
        }
        let within = size % self.chunk();
        if within > 0 {
            // What lies behind the end must not come back when the file grows again.
            let chunk = self.thaw(store, (size / self.chunk()) as usize, true, rows).await?;
            chunk.truncate(within as usize);
        }
        let kept = layout::chunks(size, self.manifest.chunk);
        self.dirty.split_off(&kept);
        self.flying.split_off(&kept);
        self.resize_manifest(size, rows);
        Ok(())
    }

    /// Makes a range, which ends within the file, read as zeros; whole chunks become holes.
    pub async fn punch(&mut self, store: &dyn Store, from: u64, to: u64, rows: &mut Rows) -> Result<()> {
        let mut at = from;
        while at < to {
            let index = (at / self.chunk()) as usize;
            let start = index as u64 * self.chunk();
            let until = to.min(start + self.chunk());
            let whole = at == start && until == self.size.min(start + self.chunk());
            if whole {
                self.dirty.remove(&index);
                self.flying.remove(&index);
                let entry = self.manifest.entries.get_mut(index).and_then(Option::take);
                if entry.is_some() {
                    rows.drop_row(entry);
                    self.touch_leaf(index, rows);
                }
            } else if self.is_data(index) {
                let chunk = self.thaw(store, index, true, rows).await?;
                let (from, to) = ((at - start) as usize, ((until - start) as usize).min(chunk.len()));
                if let Some(range) = chunk.get_mut(from..to) {
                    range.fill(0);
                }
            }
            at = until;
        }
        Ok(())
    }

    /// Whether a chunk has bytes of its own; else it is a hole.
    pub fn is_data(&self, index: usize) -> bool {
        self.dirty.contains_key(&index)
            || self.flying.contains_key(&index)
            || self.manifest.entries.get(index).is_some_and(Option::is_some)
    }

    /// Takes over a whole chunk of another body of the same lineage, by reference; `None` is a hole.
    pub fn refer(&mut self, index: usize, to: Option<VersionId>, rows: &mut Rows) {
        self.dirty.remove(&index);
        self.flying.remove(&index);
        let Some(entry) = self.manifest.entries.get_mut(index) else { return };
        let before = std::mem::replace(entry, to);
        if before != to {
            rows.drop_row(before);
            self.touch_leaf(index, rows);
        }
    }

    /// Changed chunks to be sent now, at least one, about [`SPILL_BYTES`]; the last chunk of the file only if `all`,
    /// because more may be appended to it.
    pub fn to_spill(&self, all: bool) -> Vec<usize> {
        let last = self.manifest.entries.len().saturating_sub(1);
        let mut bytes = 0;
        let mut out = Vec::new();
        for (&index, chunk) in &self.dirty {
            if bytes >= SPILL_BYTES || (index == last && !all) {
                break;
            }
            bytes += chunk.len();
            out.push(index);
        }
        out
    }

    /// A flight has ended: its chunks are rows now, or dirty again.
    pub fn landed(&mut self, chunks: &[(usize, VersionId)], arrived: bool, rows: &mut Rows) {
        for &(index, id) in chunks {
            match self.flying.get(&index) {
                Some((flying, _)) if *flying == id => {
                    let Some((_, bytes)) = self.flying.remove(&index) else { continue };
                    if !arrived {
                        self.dirty.insert(index, bytes.into());
                        continue;
                    }
                    rows.add(id);
                    self.touch_leaf(index, rows);
                    if let Some(entry) = self.manifest.entries.get_mut(index) {
                        *entry = Some(id);
                    }
                }
                Some(_) | None if arrived => rows.garbage.push(id),
                Some(_) | None => {}
            }
        }
    }

    /// Waits for flights: all of them, or those that have ended. The first error.
    pub async fn reap(&mut self, all: bool, rows: &mut Rows) -> Result<()> {
        let mut outcome = Ok(());
        while self.flights.front().is_some_and(|flight| all || flight.task.is_finished()) {
            let Some(flight) = self.flights.front_mut() else { break };
            let ended = progress::for_anyone(&mut flight.task).await;
            let Some(flight) = self.flights.pop_front() else { break };
            let ended = ended.unwrap_or_else(|error| Err(StoreError::new(Kind::Other, format!("writing a chunk: {error}"))));
            self.landed(&flight.chunks, ended.is_ok(), rows);
            outcome = outcome.and(ended.map_err(VfsError::from));
        }
        outcome
    }
}

/// Copies as much as there is; the rest of `to` stays as it is (zeros).
fn copy(from: &[u8], to: &mut [u8]) {
    let len = from.len().min(to.len());
    to[..len].copy_from_slice(&from[..len]);
}

/// Whether a file of that size can be kept in chunks of that size.
pub(crate) fn check_size(size: u64, chunk: u32) -> Result<()> {
    if size > layout::FILE_BYTES_MAX || layout::chunks(size, chunk) > CHUNKS_MAX { Err(VfsError::TooLarge) } else { Ok(()) }
}

/// The chunk size of a body that begins with that size: a huge sparse file gets large ones, so that its manifest stays
/// small.
pub(crate) fn chunk_for(component: &str, size: u64) -> u32 {
    if size > 64 << 30 { layout::CHUNK_BYTES_MAX } else { layout::chunk_bytes_for(component) }
}
