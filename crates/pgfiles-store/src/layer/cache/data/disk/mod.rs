//! Blocks on disk: bounded, shared by all mounts of the user, kept across remounts.
//!
//! The cache may fail in any way but one: it never gives bytes that are not the block's. Blocks that come together are
//! appended to one file, a pack, each behind a checksum that covers its key as well; an index says where they lie, and
//! is believed in nothing. So daemons need not agree on anything, and nothing is synchronised with the disk. A block that
//! does not check is forgotten and counted. Everything goes through one open directory, so that mounting over its path
//! does not matter.
//!
//! One thread writes and makes room, behind a bounded queue; what does not fit in the queue is not cached. After an
//! error nothing is written for a while ([`REST`]), so a full disk heals by itself.

mod block;
mod index;
mod old;
mod pack;
mod queue;
mod reader;
mod room;
mod shelf;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::BlockKey;
use crate::layer::cache::stats::DiskStats;
use queue::{Queue, Waiting};
use reader::{Found, Reader};
use shelf::Shelf;
use writer::Writer;

/// How long nothing is written after an error.
const REST: Duration = Duration::from_secs(60);
/// Room is made when this process wrote that part of the bound since the last count; as many daemons as share the
/// cache may together exceed it by that much each.
const COUNT_EVERY: u64 = 16;
/// Down to how many hundredths of the bound room is made.
const ROOM_PERCENT: u64 = 90;

/// The cache on disk.
pub struct Disk {
    shared: Arc<Shared>,
    queue: Queue,
}

struct Shared {
    path: PathBuf,
    bytes_max: u64,
    /// `None`: the directory cannot be used; `trouble` says why.
    shelf: Option<Shelf>,
    trouble: Mutex<Option<Trouble>>,
    /// As of the last count, and what this process added since.
    bytes: AtomicU64,
    blocks: AtomicU64,
    added: AtomicU64,
    evictions: AtomicU64,
    damaged: AtomicU64,
    dropped: AtomicU64,
}

struct Trouble {
    since: Instant,
    text: String,
}

/// Bytes and blocks in a cache directory, counted now; for commands without a daemon.
///
/// # Errors
/// What the system says. A directory that is not there holds nothing.
pub fn usage(dir: &Path) -> io::Result<(u64, u64)> {
    let Some(shelf) = Shelf::existing(dir)? else { return Ok((0, 0)) };
    room::count(&shelf).map(|room| (room.bytes, room.blocks))
}

/// Removes all blocks from a cache directory, also under live mounts; gives back bytes and blocks.
///
/// # Errors
/// What the system says.
pub fn clear(dir: &Path) -> io::Result<(u64, u64)> {
    let Some(shelf) = Shelf::existing(dir)? else { return Ok((0, 0)) };
    room::clear(&shelf).map(|room| (room.bytes, room.blocks))
}

impl Disk {
    /// Opens or makes the directory. Trouble is logged and shown in [`Disk::stats`].
    pub fn open(dir: &Path, bytes_max: u64) -> Arc<Self> {
        let (shelf, trouble) = match Shelf::open(dir) {
            Ok(shelf) => (Some(shelf), None),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "no disk cache: its directory cannot be used");
                (None, Some(Trouble { since: Instant::now(), text: error.to_string() }))
            }
        };
        let [bytes, blocks, added, evictions, damaged, dropped] = Default::default();
        let trouble = Mutex::new(trouble);
        let path = dir.to_owned();
        let shared = Arc::new(Shared { path, bytes_max, shelf, trouble, bytes, blocks, added, evictions, damaged, dropped });
        let (queue, waiting) = queue::queue();
        let writer = shared.clone();
        let spawned = std::thread::Builder::new().name("pgfiles-cache".into()).spawn(move || writer.write_all(&waiting));
        if let Err(error) = spawned {
            shared.fail("start its thread", &error);
        }
        Arc::new(Self { shared, queue })
    }

    /// Whether there is anything to read from.
    pub fn is_readable(&self) -> bool {
        self.shared.shelf.is_some()
    }

    /// Those of the blocks that are there and check, in the order asked for. Blocks the thread.
    pub fn get(&self, keys: &[BlockKey]) -> Vec<Option<Bytes>> {
        let reader = self.shared.shelf.as_ref().map(Reader::new);
        let Some(Ok(mut reader)) = reader else { return vec![None; keys.len()] };
        keys.iter().map(|key| self.get_one(&mut reader, key)).collect()
    }

    fn get_one(&self, reader: &mut Reader<'_>, key: &BlockKey) -> Option<Bytes> {
        match reader.read(key).ok()? {
            Found::Block(block) => Some(block),
            Found::Nothing => None,
            Found::Damaged => {
                self.shared.damaged.fetch_add(1, Relaxed);
                tracing::warn!(row = %key.id.0, block = key.block, "a damaged block of the disk cache is forgotten");
                None
            }
        }
    }

    /// Puts blocks on their way to the disk; drops them if too many are. Never waits.
    pub fn put(&self, blocks: Vec<(BlockKey, Bytes)>) {
        if self.shared.rests() {
            return;
        }
        let count = blocks.len() as u64;
        if !self.queue.put(blocks) {
            self.shared.dropped.fetch_add(count, Relaxed);
        }
    }

    /// The same for blocks that stay in memory meanwhile, all of which are taken.
    pub fn put_all(&self, blocks: Vec<(BlockKey, Bytes)>) {
        if !blocks.is_empty() && !self.shared.rests() {
            self.queue.put_all(blocks);
        }
    }

    /// Waits until what is on its way is there.
    pub async fn flush(&self) {
        // An error: there is no thread that would write.
        let _ = self.queue.flush().await;
    }

    /// Removes all blocks, and tries to write again at once where it had rested. Blocks the thread.
    pub fn clear(&self) {
        let Some(shelf) = &self.shared.shelf else { return };
        match room::clear(shelf) {
            Ok(_) => {
                self.shared.bytes.store(0, Relaxed);
                self.shared.blocks.store(0, Relaxed);
                self.shared.added.store(0, Relaxed);
                self.shared.recovered();
            }
            Err(error) => self.shared.fail("be cleared", &error),
        }
    }

    /// Counts and sizes.
    pub fn stats(&self) -> DiskStats {
        let shared = &self.shared;
        let trouble = shared.trouble.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        DiskStats {
            path: shared.path.display().to_string(),
            bytes: shared.bytes.load(Relaxed),
            blocks: shared.blocks.load(Relaxed),
            bytes_max: shared.bytes_max,
            evictions: shared.evictions.load(Relaxed),
            damaged: shared.damaged.load(Relaxed),
            dropped: shared.dropped.load(Relaxed),
            error: trouble.as_ref().map(|trouble| trouble.text.clone()),
        }
    }
}

impl Shared {
    /// The writing thread: ends with the last [`Disk`].
    fn write_all(&self, waiting: &Waiting) {
        self.make_room();
        let mut writer = Writer::new(self.bytes_max);
        while let Some(work) = waiting.take() {
            let mut blocks = &work.blocks[..];
            while let Some(shelf) = self.shelf.as_ref().filter(|_| !blocks.is_empty() && !self.rests()) {
                match writer.write(shelf, blocks) {
                    Ok((count, bytes)) => {
                        blocks = &blocks[count..];
                        self.written(count as u64, bytes);
                    }
                    Err(error) => {
                        self.fail("be written", &error);
                        // On a full disk the best thing to do is to give room back.
                        self.make_room();
                    }
                }
            }
            self.dropped.fetch_add(blocks.len() as u64, Relaxed);
            waiting.done(work);
        }
    }

    fn written(&self, blocks: u64, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.blocks.fetch_add(blocks, Relaxed);
        self.recovered();
        let added = self.added.fetch_add(bytes, Relaxed) + bytes;
        if added > self.bytes_max / COUNT_EVERY || self.bytes.load(Relaxed) > self.bytes_max {
            self.make_room();
        }
    }

    /// Counts all blocks, those of other daemons too, and removes those that were not used for longest if they are over
    /// the bound. One daemon at a time; the others go on.
    fn make_room(&self) {
        let Some(shelf) = &self.shelf else { return };
        match room::make(shelf, self.bytes_max, self.bytes_max / 100 * ROOM_PERCENT) {
            Ok(None) => {}
            Ok(Some(room)) => {
                self.bytes.store(room.bytes, Relaxed);
                self.blocks.store(room.blocks, Relaxed);
                self.evictions.fetch_add(room.removed, Relaxed);
            }
            Err(error) => self.fail("be counted", &error),
        }
        self.added.store(0, Relaxed);
    }

    fn rests(&self) -> bool {
        let trouble = self.trouble.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.shelf.is_none() || trouble.as_ref().is_some_and(|trouble| trouble.since.elapsed() < REST)
    }

    fn recovered(&self) {
        let before = self.trouble.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if before.is_some() {
            tracing::info!(dir = %self.path.display(), "the disk cache can be written again");
        }
    }

    fn fail(&self, what: &str, error: &io::Error) {
        let text = format!("the disk cache cannot {what}: {error}");
        let mut trouble = self.trouble.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if trouble.as_ref().is_none_or(|before| before.text != text) {
            tracing::warn!(dir = %self.path.display(), "{text}; going on without it");
        }
        *trouble = Some(Trouble { since: Instant::now(), text });
    }
}
