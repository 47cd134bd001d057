//! The log of commits: keeps the promise of `PGFILES_DURABILITY`.
//!
//! - `close`: a commit is asynchronous, and kept in the [`journal`] until the server's disk has it. Each carries the
//!   server's life; when that is another one, what the server forgot is committed again, in order, before anything
//!   else is answered ([`recovery`]).
//! - `sync`: every commit is on the server's disk when it is answered.
//! - `writeback`: commits are answered at once from what is known ([`predict`]) and committed in order by one task
//!   ([`queue`]); what is pending is laid over the answers of the server ([`overlay`]). What cannot be foretold waits
//!   for its turn in the same queue.
//!
//! Locks: `order` (async; commits share it, recovery has it alone) is the only one held while the server is asked. The
//! others are short: `queue`, then the heads of the cache; `server`, then `journal`; `trouble`. None is taken inside another
//! but as said here.

pub mod journal;
mod overlay;
mod predict;
mod queue;
mod recovery;
mod relax;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Notify, RwLock, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, Durability, Outcome};
use crate::error::{Kind, Result, StoreError};
use crate::key::{Key, Prefix};
use crate::layer::cache::heads::Heads;
use crate::layer::retry::Retry;
use crate::store::{Cursor, Entry, Moment, Page, Part, Position, Purge, PurgeReport, Store, Usage};
use crate::version::{Head, VersionNo};
use journal::Journal;
use queue::Queue;

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
    /// Commits that were made again.
    pub recommitted: u64,
    /// Operations that were answered and that cannot be carried out any more; each is in the log file.
    pub lost_ops: u64,
    /// The last error of a commit in the background; gone with the next that succeeds.
    pub last_error: Option<String>,
    /// Why nothing more is accepted: a pending operation is refused for good. See [`Log::discard`].
    pub read_only: Option<String>,
}

/// A [`Store`] whose answered commits stay.
pub struct Log {
    inner: Arc<Retry>,
    heads: Arc<Heads>,
    mode: Mode,
    /// How long a caller waits, for room in the queue or for his turn.
    wait_max: Duration,
    order: RwLock<()>,
    journal: Mutex<Journal>,
    /// Something is retained.
    retained: Notify,
    /// The server as of the last commit or recovery.
    server: Mutex<Option<Position>>,
    /// [`Retry::disturbances`] as of when the server was last known to have all that is retained.
    verified: AtomicU64,
    disturbances: watch::Receiver<u64>,
    queue: Queue,
    trouble: Mutex<Trouble>,
    epoch: watch::Sender<u64>,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Trouble {
    recoveries: u64,
    recommitted: u64,
    lost: u64,
    last_error: Option<(Kind, String)>,
    read_only: Option<String>,
}

impl Log {
    /// Wraps a server and starts the tasks that follow its disk and, for `writeback`, commit. Needs a Tokio runtime.
    /// `wait_max`: how long a caller waits for room in the queue or for his turn.
    pub fn start(inner: Arc<Retry>, heads: Arc<Heads>, mode: Mode, wait_max: Duration) -> Arc<Self> {
        let disturbances = inner.disturbances();
        let log = Arc::new(Self {
            inner,
            heads,
            mode,
            wait_max,
            order: RwLock::default(),
            journal: Mutex::default(),
            retained: Notify::new(),
            server: Mutex::default(),
            verified: AtomicU64::new(0),
            disturbances,
            queue: Queue::default(),
            trouble: Mutex::default(),
            epoch: watch::Sender::new(0),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        });
        let follower = log.clone();
        let mut tasks = vec![tokio::spawn(async move { follower.follow_disk().await })];
        if mode == Mode::Writeback {
            let flusher = log.clone();
            tasks.push(tokio::spawn(async move { flusher.flush_queue().await }));
        }
        *lock(&log.tasks) = tasks;
        log
    }

    /// The state.
    pub fn status(&self) -> LogStatus {
        let (retained_ops, retained_bytes) = lock(&self.journal).size();
        let (queued_ops, queued_bytes) = self.queue.size();
        let trouble = lock(&self.trouble);
        LogStatus {
            mode: self.mode,
            retained_ops: retained_ops as u64,
            retained_bytes: retained_bytes as u64,
            queued_ops: queued_ops as u64,
            queued_bytes: queued_bytes as u64,
            recoveries: trouble.recoveries,
            recommitted: trouble.recommitted,
            lost_ops: trouble.lost,
            last_error: trouble.last_error.as_ref().map(|(_, text)| text.clone()),
            read_only: trouble.read_only.clone(),
        }
    }

    /// Whether nothing is queued: no question waits for a commit.
    pub fn is_quiet(&self) -> bool {
        self.queue.size().0 == 0
    }

    /// Commits what is pending and waits until everything is on the server's disk; `None` waits as long as an operation
    /// does.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] at the deadline, [`Kind::ReadOnly`] if what is pending is refused for good. What is pending
    /// stays.
    pub async fn drain(&self, deadline: Option<Duration>) -> Result<()> {
        match deadline {
            None => self.sync().await,
            Some(deadline) => match tokio::time::timeout(deadline, self.sync()).await {
                Ok(result) => result,
                Err(_) => Err(StoreError::new(Kind::Unavailable, "not everything could be committed in the time given")),
            },
        }
    }

    /// What was answered and is not committed, in order, for whoever saves it elsewhere.
    pub fn pending(&self) -> Vec<Batch> {
        self.queue.pending()
    }

    /// What was committed and may be forgotten by a server that crashed since, in order, for whoever saves it elsewhere. A
    /// version in progress stands there as its last publication.
    pub fn retained(&self) -> Vec<Arc<Batch>> {
        lock(&self.journal).batches()
    }

    /// Gives up what is pending and not committed, and accepts changes again; says how many operations that were. All
    /// metadata is asked for anew.
    pub fn discard(&self) -> u64 {
        let mut given_up = self.queue.discard() as u64;
        let refused = lock(&self.trouble).read_only.take().is_some();
        if refused && self.mode != Mode::Writeback {
            given_up += lock(&self.journal).clear() as u64;
        }
        if given_up > 0 || refused {
            tracing::warn!(operations = given_up, "what was pending is given up");
            self.heads.invalidate_all();
            self.epoch.send_modify(|epoch| *epoch += 1);
        }
        given_up
    }

    /// Counts the times that everything known about the server became void: another one, or an older state of it, is
    /// behind the address, commits were made again, or what was pending was given up.
    pub fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// Ends the tasks. Nothing may be committed afterwards.
    pub async fn stop(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the log of commits ended badly");
            }
        }
    }

    /// As [`Store::commit`]; also says whether the heads of the cache know of it already.
    pub(in crate::layer) async fn commit_known(&self, batch: Batch) -> Result<(Vec<Outcome>, bool)> {
        if let Some(why) = &lock(&self.trouble).read_only {
            return Err(StoreError::new(Kind::ReadOnly, why.clone()));
        }
        if self.mode == Mode::Writeback {
            return self.enqueue(batch).await;
        }
        Ok((self.commit_now(batch).await?, false))
    }

    fn failed(&self, error: &StoreError) {
        let mut trouble = lock(&self.trouble);
        let text = error.to_string();
        if trouble.last_error.as_ref().is_none_or(|(_, before)| *before != text) {
            tracing::warn!(%error, "a commit in the background failed");
        }
        trouble.last_error = Some((error.kind(), text));
    }

    /// A pending operation is refused for good.
    fn refuse_changes(&self, error: &StoreError, what: &str) {
        let why = format!("read-only: a pending commit ({what}) is refused: {error}; `pgfiles flush --discard` gives it up");
        let mut trouble = lock(&self.trouble);
        if trouble.read_only.as_ref() != Some(&why) {
            tracing::error!("{why}");
        }
        trouble.last_error = Some((error.kind(), error.to_string()));
        trouble.read_only = Some(why);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Asks the server, with all that is retained known to be there before and after.
macro_rules! settled {
    ($self:ident, $call:expr) => {{
        loop {
            let before = $self.settle().await?;
            let result = $call.await;
            if $self.is_settled(before) {
                break result;
            }
        }
    }};
}

#[async_trait]
impl Store for Log {
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        let pending = self.queue.lookup(paths);
        let asked: Vec<Key> = paths.iter().zip(&pending).filter(|(_, p)| p.is_none()).map(|(path, _)| path.clone()).collect();
        let mut found = match asked.is_empty() {
            true => vec![],
            false => settled!(self, self.inner.lookup(&asked, inline_max))?,
        }
        .into_iter();
        let answer = |(path, pending): (&Key, Option<Option<Entry>>)| match pending {
            Some(entry) => entry,
            None => found.next().flatten().or_else(|| self.queue.implied(path)),
        };
        Ok(paths.iter().zip(pending).map(answer).collect())
    }

    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        self.committed().await?;
        settled!(self, self.inner.list(dir, from, limit, inline_max))
    }

    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.committed().await?;
        settled!(self, self.inner.tree(under, after, limit))
    }

    async fn deleted(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.committed().await?;
        settled!(self, self.inner.deleted(under, after, limit))
    }

    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        let pending = self.queue.read(parts);
        let asked: Vec<Part> = parts.iter().zip(&pending).filter(|(_, p)| p.is_none()).map(|(part, _)| *part).collect();
        let mut found = match asked.is_empty() {
            true => vec![],
            false => settled!(self, self.inner.read(&asked))?,
        }
        .into_iter();
        Ok(pending.into_iter().map(|pending| pending.or_else(|| found.next()).unwrap_or_default()).collect())
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<Outcome>> {
        self.commit_known(batch).await.map(|(outcomes, _)| outcomes)
    }

    async fn sync(&self) -> Result<()> {
        self.committed().await?;
        self.sync_now().await
    }

    async fn versions(&self, key: &Key, before: Option<VersionNo>, limit: u32) -> Result<Vec<Head>> {
        self.committed().await?;
        settled!(self, self.inner.versions(key, before, limit))
    }

    async fn history(&self, dir: &Prefix, limit: u32) -> Result<Vec<Moment>> {
        self.committed().await?;
        settled!(self, self.inner.history(dir, limit))
    }

    /// Durable when it is answered: what is retained of the same keys must not bring them back.
    async fn purge(&self, purge: &Purge) -> Result<PurgeReport> {
        if let Some(why) = &lock(&self.trouble).read_only {
            return Err(StoreError::new(Kind::ReadOnly, why.clone()));
        }
        self.committed().await?;
        if purge.dry_run {
            return settled!(self, self.inner.purge(purge));
        }
        self.sync_now().await?;
        self.purge_now(purge).await
    }

    async fn usage(&self, prefix: &Prefix) -> Result<Usage> {
        self.committed().await?;
        settled!(self, self.inner.usage(prefix))
    }
}

impl Log {
    /// Whether the server was disturbed since a moment that [`Log::settle`] named, with something retained.
    fn is_settled(&self, before: u64) -> bool {
        *self.disturbances.borrow() == before || lock(&self.journal).is_empty()
    }

    /// Makes sure that the server has all that is retained, if there was any trouble since that was last known.
    async fn settle(&self) -> Result<u64> {
        let now = *self.disturbances.borrow();
        if self.verified.load(Relaxed) != now && !lock(&self.journal).is_empty() {
            match self.verify().await {
                // What is refused for good stops changes, not reading.
                Err(error) if !error.is_retryable() => self.failed(&error),
                result => result?,
            }
        }
        Ok(now)
    }

    /// How a commit is to be made.
    fn is_durable_at_once(&self, batch: &Batch) -> bool {
        self.mode == Mode::Sync || batch.durability == Durability::Sync || lock(&self.journal).is_full_for(batch)
    }
}
