//! Writing blocks: which pack they go to, and the index.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::block::HEADER;
use super::index::{self, Index};
use super::pack::{self, Pack};
use super::shelf::Shelf;
use crate::layer::cache::data::BlockKey;

/// A pack that has that many bytes takes no more.
const PACK_BYTES_MAX: u64 = 8 << 20;
/// Nor one that has that part of the bound: packs are removed whole.
const PACK_PART: u64 = 32;
/// Bytes that are written at once, and the last block may exceed.
const WRITE_BYTES: usize = 256 << 10;

/// Writes for one daemon.
pub struct Writer {
    bytes_max: u64,
    pack: Option<Pack>,
    /// The number of the last new pack.
    last: u32,
    /// Whether a pack that others left was looked for.
    looked: bool,
}

impl Writer {
    /// For a cache of at most that many bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, pack: None, last: 0, looked: false }
    }

    /// Writes blocks, from the front as many as go at once; says how many and their bytes on disk.
    pub fn write(&mut self, shelf: &Shelf, blocks: &[(BlockKey, Bytes)]) -> io::Result<(usize, u64)> {
        let (mut count, mut bytes) = (0, 0);
        for (_, block) in blocks.iter().take(pack::BLOCKS_MAX) {
            if bytes >= WRITE_BYTES {
                break;
            }
            count += 1;
            bytes += HEADER + block.len();
        }
        let blocks = &blocks[..count];
        let index = Index::open_or_make(shelf, index::buckets_for(self.bytes_max))?;
        let places = self.pack(shelf)?.append(blocks)?;
        for ((key, _), place) in blocks.iter().zip(places) {
            index.set(key, place)?;
        }
        Ok((count, bytes as u64))
    }

    /// The pack in use, or the next.
    fn pack(&mut self, shelf: &Shelf) -> io::Result<&mut Pack> {
        let bytes_max = PACK_BYTES_MAX.min(self.bytes_max / PACK_PART);
        let pack = match self.pack.take() {
            Some(pack) if pack.takes_more(bytes_max)? => pack,
            _ => match self.left_by_others(shelf, bytes_max)? {
                Some(pack) => pack,
                None => self.new_pack(shelf)?,
            },
        };
        Ok(self.pack.insert(pack))
    }

    /// The newest pack that is not full and nobody appends to; looked for once, so that many short mounts share one.
    fn left_by_others(&mut self, shelf: &Shelf, bytes_max: u64) -> io::Result<Option<Pack>> {
        if std::mem::replace(&mut self.looked, true) {
            return Ok(None);
        }
        let mut packs = shelf.packs()?;
        packs.sort_unstable_by_key(|pack| std::cmp::Reverse(pack.number));
        for found in packs.iter().filter(|found| found.len < bytes_max) {
            if let Some(pack) = Pack::adopt(shelf, found.number)?
                && pack.takes_more(bytes_max)?
            {
                return Ok(Some(pack));
            }
        }
        Ok(None)
    }

    /// Numbers are seconds since 1970 or, where that one is taken, the next: they grow with time and do not come again.
    fn new_pack(&mut self, shelf: &Shelf) -> io::Result<Pack> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32);
        let mut number = now.max(self.last.wrapping_add(1));
        loop {
            self.last = number;
            if let Some(pack) = Pack::make(shelf, number)? {
                return Ok(pack);
            }
            number = number.wrapping_add(1);
        }
    }
}
