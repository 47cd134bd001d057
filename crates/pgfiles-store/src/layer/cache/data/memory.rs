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
    blocks: HashMap<BlockKey, (u64, Bytes)>,
    by_use: BTreeMap<u64, BlockKey>,
    tick: u64,
    bytes: usize,
    evictions: u64,
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
        let (used, bytes) = held.blocks.get_mut(key)?;
        held.tick += 1;
        held.by_use.remove(used);
        *used = held.tick;
        held.by_use.insert(held.tick, *key);
        Some(bytes.clone())
    }

    /// Keeps a block; those that were not used for longest make room.
    pub fn put(&self, key: BlockKey, bytes: Bytes) {
        let cost = bytes.len() + OVERHEAD_BYTES;
        if cost > self.bytes_max {
            return;
        }
        let mut held = self.lock();
        held.tick += 1;
        let tick = held.tick;
        held.bytes += cost;
        if let Some((used, old)) = held.blocks.insert(key, (tick, bytes)) {
            held.by_use.remove(&used);
            held.bytes -= old.len() + OVERHEAD_BYTES;
        }
        held.by_use.insert(tick, key);
        while held.bytes > self.bytes_max {
            let Some((_, oldest)) = held.by_use.pop_first() else { break };
            if let Some((_, old)) = held.blocks.remove(&oldest) {
                held.bytes -= old.len() + OVERHEAD_BYTES;
                held.evictions += 1;
            }
        }
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
            memory.put(key(n), Bytes::from(vec![0; 100]));
        }
        assert!(memory.get(&key(0)).is_some());
        memory.put(key(3), Bytes::from(vec![0; 100]));
        assert!(memory.get(&key(1)).is_none(), "1 was not used for longest");
        assert!(memory.get(&key(0)).is_some());
        memory.put(key(0), Bytes::from(vec![1; 50]));
        assert_eq!(memory.stats(), (3 * (100 + OVERHEAD_BYTES) as u64 - 50, 1));
        memory.clear();
        assert_eq!(memory.stats().0, 0);
    }
}
