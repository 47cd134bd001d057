//! Blocks on disk: bounded, shared by all mounts of the user, kept across remounts.
//!
//! The cache may fail in any way but one: it never gives bytes that are not the block's. A file holds one block behind
//! a checksum that covers its key as well, and appears under its name whole (written aside, then renamed). A file that
//! does not check is removed and counted. Everything goes through one open directory, so that mounting over its path
//! does not matter.
//!
//! One thread writes and makes room, behind a bounded queue; what does not fit in the queue is not cached. After an
//! error nothing is written for a while ([`REST`]), so a full disk heals by itself.

mod block;
mod shelf;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::BlockKey;
use crate::layer::cache::stats::DiskStats;
use shelf::Shelf;

/// Puts on their way to the disk.
const QUEUE_PUTS_MAX: usize = 32;
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
    queue: SyncSender<Message>,
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

enum Message {
    Put(Vec<(BlockKey, Bytes)>),
    Flush(oneshot::Sender<()>),
}

/// Bytes and blocks in a cache directory, counted now; for commands without a daemon.
///
/// # Errors
/// What the system says. A directory that is not there holds nothing.
pub fn usage(dir: &Path) -> io::Result<(u64, u64)> {
    let Some(shelf) = Shelf::existing(dir)? else { return Ok((0, 0)) };
    let files = shelf.scan()?;
    Ok((files.iter().map(|file| file.bytes).sum(), files.len() as u64))
}

/// Removes all blocks from a cache directory, also under live mounts; gives back bytes and blocks.
///
/// # Errors
/// What the system says.
pub fn clear(dir: &Path) -> io::Result<(u64, u64)> {
    let Some(shelf) = Shelf::existing(dir)? else { return Ok((0, 0)) };
    shelf.clear()
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
        let (queue, messages) = sync_channel(QUEUE_PUTS_MAX);
        let writer = shared.clone();
        let spawned = std::thread::Builder::new().name("pgfiles-cache".into()).spawn(move || writer.write_all(&messages));
        if let Err(error) = spawned {
            shared.fail("start its thread", &error);
        }
        Arc::new(Self { shared, queue })
    }

    /// Whether there is anything to read from.
    pub fn is_readable(&self) -> bool {
        self.shared.shelf.is_some()
    }

    /// A block, if its file is there and checks. Blocks the thread.
    pub fn get(&self, key: &BlockKey) -> Option<Bytes> {
        let shelf = self.shared.shelf.as_ref()?;
        let name = block::file_name(key);
        let file = shelf.read(&name).ok()??;
        let found = block::decode(key, file);
        if found.is_none() {
            self.shared.damaged.fetch_add(1, Relaxed);
            tracing::warn!(%name, "a damaged block of the disk cache is removed");
            let _ = shelf.remove(&name);
        }
        found
    }

    /// Puts blocks on their way to the disk; drops them if too many are.
    pub fn put(&self, blocks: Vec<(BlockKey, Bytes)>) {
        if self.shared.rests() {
            return;
        }
        let count = blocks.len() as u64;
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Put(blocks)) {
            self.shared.dropped.fetch_add(count, Relaxed);
        }
    }

    /// The same, and waits for room.
    pub async fn put_all(self: &Arc<Self>, blocks: Vec<(BlockKey, Bytes)>) {
        if blocks.is_empty() || self.shared.rests() {
            return;
        }
        let disk = self.clone();
        let sent = tokio::task::spawn_blocking(move || disk.queue.send(Message::Put(blocks)).is_ok()).await;
        debug_assert!(sent.is_ok(), "sending does not panic");
    }

    /// Waits until what is on its way is there.
    pub async fn flush(self: &Arc<Self>) {
        let (done, waiting) = oneshot::channel();
        let disk = self.clone();
        // The queue may be full: the thread that waits for room must not be one of the runtime's.
        let sent = tokio::task::spawn_blocking(move || disk.queue.send(Message::Flush(done)).is_ok()).await;
        if sent.unwrap_or(false) {
            let _ = waiting.await;
        }
    }

    /// Removes all blocks, and tries to write again at once where it had rested. Blocks the thread.
    pub fn clear(&self) {
        let Some(shelf) = &self.shared.shelf else { return };
        match shelf.clear() {
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
    fn write_all(&self, messages: &Receiver<Message>) {
        self.make_room();
        while let Ok(message) = messages.recv() {
            match message {
                Message::Put(blocks) => blocks.iter().for_each(|(key, bytes)| self.write(key, bytes)),
                Message::Flush(done) => drop(done.send(())),
            }
        }
    }

    fn write(&self, key: &BlockKey, bytes: &Bytes) {
        let Some(shelf) = self.shelf.as_ref().filter(|_| !self.rests()) else { return };
        match shelf.write(&block::file_name(key), &block::encode(key, bytes)) {
            Ok(taken) => {
                self.bytes.fetch_add(taken, Relaxed);
                self.blocks.fetch_add(1, Relaxed);
                self.recovered();
                let added = self.added.fetch_add(taken, Relaxed) + taken;
                if added > self.bytes_max / COUNT_EVERY || self.bytes.load(Relaxed) > self.bytes_max {
                    self.make_room();
                }
            }
            Err(error) => {
                self.fail("be written", &error);
                // On a full disk the best thing to do is to give room back.
                self.make_room();
            }
        }
    }

    /// Counts all blocks, those of other daemons too, and removes those that were not used for longest while they are
    /// over the bound. One daemon at a time; the others go on.
    fn make_room(&self) {
        let Some(shelf) = &self.shelf else { return };
        match shelf.make_room(self.bytes_max, self.bytes_max / 100 * ROOM_PERCENT) {
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
