//! Blocks in memory: those used last, up to a bound.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;

use super::BlockKey;

/// What a block costs besides its bytes, about.
const OVERHEAD_BYTES: usize = 160;

/// The blocks.
pub struct Memory {
    bytes_max: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    blocks: HashMap<BlockKey, Block>,
    by_use: BTreeMap<u64, BlockKey>,
    tick: u64,
    bytes: usize,
    evictions: u64,
}

struct Block {
    used: u64,
    bytes: Bytes,
    /// It is not on the disk.
    unsaved: bool,
}

impl Memory {
    /// None yet; at most that many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, held: Mutex::default() }
    }

    /// A block, which now counts as used.
    pub fn get(&self, key: &BlockKey) -> Option<Bytes> {
        let mut held = self.lock();
        let held = &mut *held;
        let block = held.blocks.get_mut(key)?;
        held.tick += 1;
        held.by_use.remove(&block.used);
        block.used = held.tick;
        held.by_use.insert(held.tick, *key);
        Some(block.bytes.clone())
    }

    /// Keeps a block; those that were not used for longest make room. Gives back what leaves and is not on the disk.
    pub fn put(&self, key: BlockKey, bytes: Bytes, unsaved: bool) -> Vec<(BlockKey, Bytes)> {
        let mut leaving = Vec::new();
        let cost = bytes.len() + OVERHEAD_BYTES;
        if cost > self.bytes_max {
            return leaving;
        }
        let mut held = self.lock();
        held.tick += 1;
        let used = held.tick;
        held.bytes += cost;
        if let Some(old) = held.blocks.insert(key, Block { used, bytes, unsaved }) {
            held.by_use.remove(&old.used);
            held.bytes -= old.bytes.len() + OVERHEAD_BYTES;
        }
        held.by_use.insert(used, key);
        while held.bytes > self.bytes_max {
            let Some((_, oldest)) = held.by_use.pop_first() else { break };
            if let Some(old) = held.blocks.remove(&oldest) {
                held.bytes -= old.bytes.len() + OVERHEAD_BYTES;
                held.evictions += 1;
                if old.unsaved {
                    leaving.push((oldest, old.bytes));
                }
            }
        }
        leaving
    }

    /// The blocks that are not on the disk, which are taken for saved from now on.
    pub fn take_unsaved(&self) -> Vec<(BlockKey, Bytes)> {
        let mut held = self.lock();
        let blocks = held.blocks.iter_mut();
        blocks.filter_map(|(key, block)| std::mem::take(&mut block.unsaved).then(|| (*key, block.bytes.clone()))).collect()
    }

    /// Forgets all.
    pub fn clear(&self) {
        let mut held = self.lock();
        held.blocks.clear();
        held.by_use.clear();
        held.bytes = 0;
    }

    /// Bytes held, and blocks that made room so far.
    pub fn stats(&self) -> (u64, u64) {
        let held = self.lock();
        (held.bytes as u64, held.evictions)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::VersionId;

    fn key(n: u128) -> BlockKey {
        BlockKey { id: VersionId(uuid::Uuid::from_u128(n)), lineage: None, block: 0 }
    }

    #[test]
    fn the_bound_holds_and_the_oldest_leaves() {
        let memory = Memory::new(3 * (100 + OVERHEAD_BYTES));
        for n in 0..3 {
            memory.put(key(n), Bytes::from(vec![0; 100]), n == 1);
        }
        assert!(memory.get(&key(0)).is_some());
        let leaving = memory.put(key(3), Bytes::from(vec![0; 100]), true);
        assert_eq!(leaving.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [key(1)], "it was not on the disk");
        assert!(memory.get(&key(1)).is_none(), "1 was not used for longest");
        assert!(memory.get(&key(0)).is_some());
        memory.put(key(0), Bytes::from(vec![1; 50]), false);
        assert_eq!(memory.take_unsaved(), [(key(3), Bytes::from(vec![0; 100]))]);
        assert!(memory.take_unsaved().is_empty());
        assert_eq!(memory.stats(), (3 * (100 + OVERHEAD_BYTES) as u64 - 50, 1));
        memory.clear();
        assert_eq!(memory.stats().0, 0);
    }
}
