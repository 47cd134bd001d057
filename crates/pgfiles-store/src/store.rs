//! The two traits: [`Store`], what everything above storage sees, and [`Server`], what the layers that keep the
//! promise of durability need besides. Values in, values out; every implementation and every layer is one of them.
//!
//! All methods are cancel-safe: a dropped future leaves either nothing or the whole batch.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Outcome};
use crate::error::Result;
use crate::key::{Key, Prefix};
use crate::lock::Locks;
use crate::version::{Head, Lineage, Timestamp, VersionId, VersionNo};

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// A live row with that key, and no directory of the same name (the directory would win).
    File(Head),
    /// A directory.
    Dir(Dir),
}

/// A directory: explicit where it has a live marker, else implied by a live key below.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Dir {
    /// The live marker row.
    pub marker: Option<Head>,
    /// For an implied directory: the mtime of the first live key below it.
    pub mtime: Option<Timestamp>,
}

/// A page of a directory, in byte order of key (a directory's name sorts as if it ended in `/`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Page {
    /// Component as stored (see [`crate::key::Name::from_component`]) and what it is. A name that is both a file and a
    /// directory comes twice, apart; the directory wins. Components that no path can have are left out.
    pub entries: Vec<(String, Entry)>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<Cursor>,
}

/// A place in a listing; opaque, and valid for as long as one likes: names that come and go do not move it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cursor(pub String);

/// A range of one row's `data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Part {
    /// The row.
    pub id: VersionId,
    /// `Some`: only if the row belongs to that lineage (a reference); `None`: the row itself was looked up.
    pub lineage: Option<Lineage>,
    /// First byte.
    pub offset: u64,
    /// At most that many bytes; fewer come back at the end of the row.
    pub len: u32,
}

/// A moment in a directory's life: the versions that one transaction wrote below it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// 1 for the oldest that is still kept.
    pub number: u64,
    /// The latest `created_at` among them.
    pub at: Timestamp,
    /// How many versions.
    pub versions: u64,
    /// Who, as in the first of them.
    pub by: Option<serde_json::Value>,
}

/// What to remove for good.
#[derive(Debug, Clone)]
pub struct Purge {
    /// Where.
    pub scope: PurgeScope,
    /// Keep that many newest versions of each key; `None` with the two below unset: the whole history and the head.
    pub keep: Option<u32>,
    /// Only versions that stopped being the head that many seconds ago or longer, by the server's clock.
    pub older_than: Option<u64>,
    /// Only keys whose head is a tombstone.
    pub dead: bool,
    /// Count, remove nothing.
    pub dry_run: bool,
}

/// See [`Purge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PurgeScope {
    /// One key (a file's or a marker's), in one transaction.
    Key(Key),
    /// A slice of the keys under a prefix, each key whole; start with `None`, go on with [`PurgeReport::next`].
    Prefix(Prefix, Option<Key>),
}

/// What a purge removed, body rows included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PurgeReport {
    /// Versions and markers.
    pub rows: u64,
    /// Rows of bodies.
    pub body_rows: u64,
    /// Bytes of `data` in all of them.
    pub bytes: u64,
    /// The key to go on after.
    pub next: Option<Key>,
}

/// Rows and bytes under a prefix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Usage {
    /// Live files, symlinks and special files; their sizes added up.
    pub files: u64,
    pub bytes: u64,
    pub dirs: u64,
    /// Versions that are not the head, tombstones included; their sizes added up.
    pub history_rows: u64,
    pub history_bytes: u64,
    /// Shared rows of bodies, and what they hold.
    pub body_rows: u64,
    pub body_bytes: u64,
}

/// Keys, versions and batches: all that the filesystem, the commands and a library user need.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What stands at each path (a key without trailing `/`); `None`: nothing live. One round trip. Bodies that are
    /// inline, held in the row and at most `inline_max` bytes long come along.
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>>;

    /// A page of at most `limit` entries (1 to 10,000) of a directory, from a cursor on. One round trip. A directory that
    /// is not there lists as empty. `inline_max` as in [`Store::lookup`].
    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page>;

    /// Live heads of all keys below a prefix, markers included, in byte order, strictly after `after`, at most `limit`.
    /// One round trip.
    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>>;

    /// Tombstones below a prefix that are the newest version of their keys, markers included, in byte order, strictly after `after`,
    /// at most `limit`. One round trip, whose cost grows with all versions of the keys that it passes.
    async fn deleted(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>>;

    /// Ranges of rows, in the order asked for. One round trip for what fits in 8 MiB.
    /// [`crate::error::Kind::Corrupt`] where a row is missing or of another lineage.
    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>>;

    /// The same of bytes that are not likely to be read again: nothing is fetched along with them, nor kept.
    async fn read_once(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        self.read(parts).await
    }

    /// Carries out all of a batch or nothing; an outcome per operation. One round trip for what fits in 8 MiB.
    async fn commit(&self, batch: Batch) -> Result<Vec<Outcome>>;

    /// Returns when everything committed through this store so far is on the server's disk.
    async fn sync(&self) -> Result<()>;

    /// The versions of a key, newest first, tombstones included, those below `before`, at most `limit`.
    async fn versions(&self, key: &Key, before: Option<VersionNo>, limit: u32) -> Result<Vec<Head>>;

    /// The moments of a directory, newest first, at most `limit`.
    async fn history(&self, dir: &Prefix, limit: u32) -> Result<Vec<Moment>>;

    /// Removes versions for good. What a survivor still refers to is handed over to it first.
    async fn purge(&self, purge: &Purge) -> Result<PurgeReport>;

    /// Counts what is under a prefix.
    async fn usage(&self, prefix: &Prefix) -> Result<Usage>;
}

/// How long what is known of a path may still be trusted; the cache answers this. What a kernel may keep.
#[async_trait]
pub trait Freshness: Send + Sync + 'static {
    /// What remains of the time to live of the path (a key without trailing `/`), absence included; zero: ask again.
    fn trusted_for(&self, path: &Key) -> std::time::Duration;

    /// How many directories a directory holds, where it is known in full and that is trusted; `None`: not known.
    fn subdirs(&self, dir: &Prefix) -> Option<u32>;

    /// What is known of the path is not to be trusted any more: the next who asks gets the server's answer.
    fn distrust(&self, path: &Key);

    /// The small body of the file at a path is about to be read: may bring it near, with those that are likely to be read
    /// next. What goes wrong is left to the reading.
    async fn bring(&self, path: &Key, part: &Part) {
        let _ = (path, part);
    }
}

/// The same trust in every path, for a store without a cache.
impl Freshness for std::time::Duration {
    fn trusted_for(&self, _path: &Key) -> std::time::Duration {
        *self
    }

    fn subdirs(&self, _dir: &Prefix) -> Option<u32> {
        None
    }

    fn distrust(&self, _path: &Key) {}
}

/// Which server, which of its lives, and how much of its log is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// Changes with a failover, a restore, and whenever the server's memory was lost. Never the same for two of these.
    pub life: String,
    /// System identifier and timeline: a change means that even durable rows may be others.
    pub cluster: String,
    /// Everything that was acknowledged before this call began lies below this point of the log (bytes).
    pub written: u64,
    /// The log is on disk up to here (bytes).
    pub flushed: u64,
}

/// Housekeeping of a mount's own rows.
#[derive(Debug, Clone)]
pub enum Maintenance {
    /// This mount has body rows that no version refers to yet: keep them. Repeat every [`HEARTBEAT_SECONDS`].
    Beat,
    /// It has none any more.
    Leave,
    /// Remove the body rows that no version refers to, that were written longer than [`HEARTBEAT_EXPIRY_SECONDS`] ago by the
    /// server's clock, and whose mount has not beaten for as long.
    Sweep,
}

/// How often a mount with unpublished body rows says that it lives.
pub const HEARTBEAT_SECONDS: u64 = 60;
/// After how many seconds of silence its unpublished body rows are swept.
pub const HEARTBEAT_EXPIRY_SECONDS: u64 = 600;

/// What the layers below the log of commits offer it.
#[async_trait]
pub trait Server: Store + Locks {
    /// Where the server stands. One round trip.
    async fn position(&self) -> Result<Position>;

    /// [`Store::sync`]; whether all that this life of the server was told before is on its disk, or it is in another life
    /// now. One round trip where the store has a request for it.
    async fn sync_in(&self, life: &str) -> Result<bool> {
        self.sync().await?;
        // The server that synced is the one that made the commits only if its life is still the same afterwards.
        Ok(self.position().await?.life == life)
    }

    /// Which of these rows exist, by id. One round trip.
    async fn present(&self, ids: &[VersionId]) -> Result<Vec<bool>>;

    /// Housekeeping for a mount of `prefix`; the number of rows removed.
    async fn maintain(&self, prefix: &Prefix, mount: &str, what: Maintenance) -> Result<u64>;
}
