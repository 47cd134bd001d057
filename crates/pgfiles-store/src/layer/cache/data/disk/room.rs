//! Counting, making room, clearing. Packs are removed whole, those that were not used for longest first; who reads from
//! one misses. One daemon at a time; the others go on.

use std::io;

use super::index::{self, Index};
use super::shelf::{Found, Shelf, pack_name};
use super::{old, pack};

/// What is there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What all takes on disk.
    pub bytes: u64,
    /// The blocks.
    pub blocks: u64,
    /// How many blocks were removed.
    pub removed: u64,
}

/// Counts.
pub fn count(shelf: &Shelf) -> io::Result<Room> {
    let left = old::remains(shelf.root())?;
    let room = room(shelf, &shelf.packs()?)?;
    Ok(Room { bytes: room.bytes + left.bytes, blocks: room.blocks + left.files, removed: 0 })
}

fn room(shelf: &Shelf, packs: &[Found]) -> io::Result<Room> {
    let mut room = Room { bytes: shelf.size(index::NAME)?, ..Room::default() };
    for found in packs {
        room.bytes += found.bytes;
        room.blocks += pack::blocks_in(shelf, found.number)?;
    }
    Ok(room)
}

/// Counts, and if that is more than `bytes_max`, removes what was not used for longest until it is `down_to`. What
/// formats before left is removed in any case. `None`: another daemon is at it.
pub fn make(shelf: &Shelf, bytes_max: u64, down_to: u64) -> io::Result<Option<Room>> {
    let Some(_lock) = shelf.try_lock()? else { return Ok(None) };
    old::remove(shelf.root())?;
    let mut packs = shelf.packs()?;
    let mut room = room(shelf, &packs)?;
    if room.bytes > bytes_max {
        packs.sort_unstable_by_key(|found| std::cmp::Reverse((found.used, found.number)));
        while room.bytes > down_to
            && let Some(oldest) = packs.pop()
        {
            let blocks = pack::blocks_in(shelf, oldest.number)?;
            shelf.remove(&pack_name(oldest.number))?;
            room.bytes = room.bytes.saturating_sub(oldest.bytes);
            room.blocks = room.blocks.saturating_sub(blocks);
            room.removed += blocks;
        }
    }
    let buckets = index::buckets_for(bytes_max);
    if !packs.is_empty() {
        Index::grow(shelf, buckets)?;
    } else if !Index::has_size(shelf, buckets)? {
        // The next one has the size that is right for who makes it. One that has it may have been made since there was no pack.
        shelf.remove(index::NAME)?;
        room.bytes = 0;
    }
    Ok(Some(room))
}

/// Removes all blocks; says what there was. Waits for a daemon that makes room.
pub fn clear(shelf: &Shelf) -> io::Result<Room> {
    let _lock = shelf.lock()?;
    let before = count(shelf)?;
    old::remove(shelf.root())?;
    for found in shelf.packs()? {
        shelf.remove(&pack_name(found.number))?;
    }
    shelf.remove(index::NAME)?;
    Ok(before)
}
