//! Bytes by row, which never change: memory in front of the disk, in blocks of 1 MiB.
//!
//! A block is kept under the lineage that it was asked for with, so that a reference is checked by the server once and
//! believed from here only for that same lineage.

pub mod disk;
mod memory;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;

use crate::store::Part;
use crate::version::{Lineage, VersionId};

use super::stats::{DataStats, DiskStats, rate};
use disk::Disk;
use memory::Memory;

/// Bytes of a block; the last one of a row is shorter.
pub const BLOCK_BYTES: u32 = 1 << 20;
/// Smaller blocks go to the disk when they leave the memory, or at the end: many are replaced before.
const SMALL_BYTES: usize = 64 << 10;
/// The most bytes kept in memory.
pub const MEMORY_BYTES_MAX: usize = 32 << 20;

/// Names a block of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// The row.
    pub id: VersionId,
    /// What the row was asked for with.
    pub lineage: Option<Lineage>,
    /// Counted from 0.
    pub block: u32,
}

impl BlockKey {
    /// What to ask the server for.
    pub fn part(self) -> Part {
        let offset = u64::from(self.block) * u64::from(BLOCK_BYTES);
        Part { id: self.id, lineage: self.lineage, offset, len: BLOCK_BYTES }
    }

    /// The blocks that a part touches; `None` where it lies beyond what a row can hold.
    pub fn of(part: &Part) -> Option<std::ops::RangeInclusive<u32>> {
        let last = part.offset.checked_add(u64::from(part.len.max(1)) - 1)?;
        let block = |at: u64| u32::try_from(at / u64::from(BLOCK_BYTES)).ok();
        Some(block(part.offset)?..=block(last)?)
    }
}

/// The cached bytes.
pub struct Data {
    memory: Memory,
    disk: Option<Arc<Disk>>,
    memory_hits: AtomicU64,
    disk_hits: AtomicU64,
    misses: AtomicU64,
}

impl Data {
    /// Opens the disk cache, if there is to be one; what goes wrong is logged and shown in the statistics.
    pub fn new(dir: Option<&Path>, disk_bytes_max: u64) -> Self {
        let disk = dir.filter(|_| disk_bytes_max > 0).map(|dir| Disk::open(dir, disk_bytes_max));
        let (memory_hits, disk_hits, misses) = Default::default();
        Self { memory: Memory::new(MEMORY_BYTES_MAX), disk, memory_hits, disk_hits, misses }
    }

    /// A block that is in memory.
    pub fn in_memory(&self, key: &BlockKey) -> Option<Bytes> {
        let found = self.memory.get(key);
        self.memory_hits.fetch_add(found.is_some().into(), Relaxed);
        found
    }

    /// Whether a block is in memory, or is now because it is on disk.
    pub async fn has(&self, key: &BlockKey) -> bool {
        self.memory.get(key).is_some() || self.on_disk(vec![*key]).await.iter().any(Option::is_some)
    }

    /// The blocks that are on disk, in the order asked for. Reads off the runtime's threads.
    pub async fn on_disk(&self, keys: Vec<BlockKey>) -> Vec<Option<Bytes>> {
        let Some(disk) = self.disk.clone().filter(|disk| disk.is_readable()) else { return vec![None; keys.len()] };
        let asked = keys.clone();
        let reading = tokio::task::spawn_blocking(move || disk.get(&asked));
        let found = reading.await.unwrap_or_else(|_| vec![None; keys.len()]);
        for (key, bytes) in keys.iter().zip(&found) {
            if let Some(bytes) = bytes {
                self.disk_hits.fetch_add(1, Relaxed);
                self.remember(*key, bytes.clone(), false);
            }
        }
        found
    }

    /// Keeps a block that the server gave, or that was written to it.
    pub fn put(&self, key: BlockKey, bytes: &Bytes) {
        // A copy of its own: `bytes` may be a small part of a large buffer, which would stay whole.
        let bytes = Bytes::copy_from_slice(bytes);
        let later = self.disk.is_some() && bytes.len() < SMALL_BYTES;
        self.remember(key, bytes.clone(), later);
        if let Some(disk) = self.disk.as_ref().filter(|_| !later) {
            disk.put(vec![(key, bytes)]);
        }
    }

    /// Keeps a block in memory; those that make room go to the disk if they are not there.
    fn remember(&self, key: BlockKey, bytes: Bytes, unsaved: bool) {
        let leaving = self.memory.put(key, bytes, unsaved);
        if let Some(disk) = self.disk.as_ref().filter(|_| !leaving.is_empty()) {
            disk.put(leaving);
        }
    }

    /// Keeps all of a row's bytes.
    pub fn put_row(&self, id: VersionId, lineage: Option<Lineage>, bytes: &Bytes) {
        for (block, start) in (0..=bytes.len()).step_by(BLOCK_BYTES as usize).enumerate() {
            let end = bytes.len().min(start + BLOCK_BYTES as usize);
            let Ok(block) = u32::try_from(block) else { return };
            self.put(BlockKey { id, lineage, block }, &bytes.slice(start..end));
        }
    }

    /// Counts blocks that the server had to be asked for.
    pub fn missed(&self, blocks: usize) {
        self.misses.fetch_add(blocks as u64, Relaxed);
    }

    /// Forgets everything, on disk too.
    pub async fn clear(&self) {
        self.memory.clear();
        if let Some(disk) = self.disk.clone() {
            disk.flush().await;
            let cleared = tokio::task::spawn_blocking(move || disk.clear()).await;
            debug_assert!(cleared.is_ok(), "clearing does not panic");
        }
    }

    /// Waits until all that is in memory is on the disk.
    pub async fn flush(&self) {
        if let Some(disk) = &self.disk {
            disk.put_all(self.memory.take_unsaved());
            disk.flush().await;
        }
    }

    /// Counts and sizes.
    pub fn stats(&self) -> (DataStats, Option<DiskStats>) {
        let (memory_hits, disk_hits) = (self.memory_hits.load(Relaxed), self.disk_hits.load(Relaxed));
        let misses = self.misses.load(Relaxed);
        let (memory_bytes, memory_evictions) = self.memory.stats();
        let data = DataStats {
            memory_hits,
            disk_hits,
            misses,
            hit_rate: rate(memory_hits + disk_hits, misses),
            memory_bytes,
            memory_bytes_max: MEMORY_BYTES_MAX as u64,
            memory_evictions,
        };
        (data, self.disk.as_ref().map(|disk| disk.stats()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_part_touches_its_blocks() {
        let part = |offset, len| Part { id: VersionId(Uuid::nil()), lineage: None, offset, len };
        let mib = u64::from(BLOCK_BYTES);
        assert_eq!(BlockKey::of(&part(0, BLOCK_BYTES)), Some(0..=0));
        assert_eq!(BlockKey::of(&part(mib - 1, 2)), Some(0..=1));
        assert_eq!(BlockKey::of(&part(mib, 0)), Some(1..=1));
        assert_eq!(BlockKey::of(&part(u64::MAX, 2)), None);
    }

    #[test]
    fn a_row_that_ends_at_a_block_has_an_empty_one_after() {
        let data = Data::new(None, 0);
        let id = VersionId(Uuid::from_u128(1));
        data.put_row(id, None, &Bytes::from(vec![1; BLOCK_BYTES as usize]));
        assert_eq!(data.in_memory(&BlockKey { id, lineage: None, block: 1 }), Some(Bytes::new()));
    }
}
