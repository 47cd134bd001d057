//! The log of commits: keeps the promise of SPEC §6.
//!
//! (First shape: commits go through; the journal and the queue follow.)

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;

use crate::batch::{Batch, Durability, Outcome};
use crate::error::Result;
use crate::key::{Key, Prefix};
use crate::layer::cache::heads::Heads;
use crate::layer::retry::Retry;
use crate::store::{Cursor, Entry, Moment, Page, Part, Purge, PurgeReport, Store, Usage};
use crate::version::{Head, VersionNo};

/// What `close(2)` promises (`PGFILES_DURABILITY`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Committed, and kept here until it is on the server's disk.
    #[default]
    Close,
    /// On the server's disk.
    Sync,
    /// Queued here, committed in order within a bounded time.
    Writeback,
}

/// The state of the log, for `status`.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct LogStatus {
    /// The mode.
    pub mode: Mode,
    /// Operations that are committed and that the server may not have on its disk yet.
    pub retained_ops: u64,
    /// The bytes that they carry.
    pub retained_bytes: u64,
    /// Operations that were answered and are not committed yet (writeback).
    pub queued_ops: u64,
    /// The bytes that they carry.
    pub queued_bytes: u64,
    /// How often the server was found to have lost its memory, and what was missing was committed again.
    pub recoveries: u64,
    /// Operations that were committed again.
    pub recommitted_ops: u64,
    /// Operations that were answered and that the server refuses for good; each is in the log file.
    pub lost_ops: u64,
    /// The last error of a commit in the background.
    pub last_error: Option<String>,
    /// Why nothing more is accepted: a pending operation is refused for good. See [`Log::discard`].
    pub read_only: Option<String>,
}

/// A [`Store`] whose answered commits stay.
pub struct Log {
    inner: Arc<Retry>,
    mode: Mode,
    epoch: watch::Sender<u64>,
}

impl Log {
    /// Wraps a server and starts the task that follows its disk. Needs a Tokio runtime.
    pub fn start(inner: Arc<Retry>, _heads: Arc<Heads>, mode: Mode, _wait_max: Duration) -> Arc<Self> {
        Arc::new(Self { inner, mode, epoch: watch::Sender::new(0) })
    }

    /// The state.
    pub fn status(&self) -> LogStatus {
        LogStatus {
            mode: self.mode,
            retained_ops: 0,
            retained_bytes: 0,
            queued_ops: 0,
            queued_bytes: 0,
            recoveries: 0,
            recommitted_ops: 0,
            lost_ops: 0,
            last_error: None,
            read_only: None,
        }
    }

    /// Commits what is pending and waits until everything is on the server's disk; `None` waits as long as an operation
    /// does.
    ///
    /// # Errors
    /// [`crate::error::Kind::Unavailable`] at the deadline, [`crate::error::Kind::ReadOnly`] if what is pending is refused for good. What is pending stays.
    pub async fn drain(&self, _deadline: Option<Duration>) -> Result<()> {
        self.inner.sync().await
    }

    /// Gives up what is pending and not committed, and accepts changes again; says how many operations that were.
    pub fn discard(&self) -> u64 {
        0
    }

    /// Counts the times that another server, or an older state of it, was found behind the address: everything known
    /// about it is void then.
    pub fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// Ends the task. Nothing may be committed afterwards.
    pub async fn stop(&self) {}
}

#[async_trait]
impl Store for Log {
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        self.inner.lookup(paths, inline_max).await
    }

    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        self.inner.list(dir, from, limit, inline_max).await
    }

    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.inner.tree(under, after, limit).await
    }

    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        self.inner.read(parts).await
    }

    async fn commit(&self, mut batch: Batch) -> Result<Vec<Outcome>> {
        if self.mode == Mode::Sync {
            batch.durability = Durability::Sync;
        }
        self.inner.commit(batch).await
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await
    }

    async fn versions(&self, key: &Key, before: Option<VersionNo>, limit: u32) -> Result<Vec<Head>> {
        self.inner.versions(key, before, limit).await
    }

    async fn history(&self, dir: &Prefix, limit: u32) -> Result<Vec<Moment>> {
        self.inner.history(dir, limit).await
    }

    async fn purge(&self, purge: &Purge) -> Result<PurgeReport> {
        self.inner.purge(purge).await
    }

    async fn usage(&self, prefix: &Prefix) -> Result<Usage> {
        self.inner.usage(prefix).await
    }
}
