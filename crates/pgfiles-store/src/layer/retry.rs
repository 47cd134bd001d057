//! Waits out a server that is away and resends what may be resent.
//!
//! [`Kind::Unavailable`] is tried again with growing pauses until the timeout, [`Kind::Retry`] at once a few times.
//! A commit whose reply was lost is resent with [`Batch::again`], so that the server recognises it; every other method
//! may be repeated as it is. An answer to anyone ends the pauses of all.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use rand::Rng as _;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::batch::{Batch, Outcome};
use crate::error::{Kind, Result, StoreError};
use crate::key::{Key, Prefix};
use crate::lock::{Change, Lease, LeaseCall, LeaseReply, Lock, LockReply, Locks};
use crate::store::{Cursor, Entry, Maintenance, Moment, Page, Part, Position, Purge, PurgeReport, Server, Store, Usage};
use crate::version::{Head, VersionId, VersionNo};

/// The first pause; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often a serialization failure or deadlock is tried again before it counts as an outage.
const CONFLICT_TRIES_MAX: u32 = 10;
/// The most characters of an error message that `status` repeats.
const MESSAGE_CHARS_MAX: usize = 500;

/// A [`Server`] that waits and tries again.
pub struct Retry {
    inner: Arc<dyn Server>,
    timeout: Duration,
    away: Mutex<Option<Away>>,
    retries: AtomicU64,
    /// Counts the times that the server did not answer: whoever remembers the number knows whether it was away since.
    disturbances: watch::Sender<u64>,
    /// Counts the times that it answered again.
    returns: watch::Sender<u64>,
}

#[derive(Clone)]
struct Away {
    since: SystemTime,
    error: String,
}

/// Whether the server answers.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct RetryStatus {
    /// Since when it has not answered, RFC 3339 in UTC; `None`: it does.
    pub away_since: Option<String>,
    /// The error of the last attempt, while it is away.
    pub error: Option<String>,
    /// Requests that were sent again, since the start.
    pub retries: u64,
}

/// The progress of one call: decides after each failed attempt.
struct Attempts<'r> {
    retry: &'r Retry,
    failed_first: Option<Instant>,
    pause: Duration,
    conflicts: u32,
    returns: watch::Receiver<u64>,
}

impl Retry {
    /// Wraps a server; a call gives up when it has failed for `timeout`.
    pub fn new(inner: Arc<dyn Server>, timeout: Duration) -> Self {
        let (disturbances, returns) = (watch::Sender::new(0), watch::Sender::new(0));
        Self { inner, timeout, away: Mutex::default(), retries: AtomicU64::new(0), disturbances, returns }
    }

    /// Whether the server answers, and since when not.
    pub fn status(&self) -> RetryStatus {
        let away = self.away.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let text = |at: SystemTime| jiff::Timestamp::try_from(at).map_or_else(|_| String::new(), |at| at.to_string());
        RetryStatus {
            away_since: away.as_ref().map(|away| text(away.since)),
            error: away.map(|away| away.error),
            retries: self.retries.load(Ordering::Relaxed),
        }
    }

    /// Since when the server has not answered.
    pub fn away_since(&self) -> Option<SystemTime> {
        self.away.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).as_ref().map(|away| away.since)
    }

    /// Changes whenever the server failed to answer a request.
    pub fn disturbances(&self) -> watch::Receiver<u64> {
        self.disturbances.subscribe()
    }

    /// Changes whenever the server answers after it was away.
    pub fn returns(&self) -> watch::Receiver<u64> {
        self.returns.subscribe()
    }

    fn attempts(&self) -> Attempts<'_> {
        let returns = self.returns.subscribe();
        Attempts { retry: self, failed_first: None, pause: PAUSE_MIN, conflicts: 0, returns }
    }

    fn answered(&self) {
        let was_away = self.away.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take().is_some();
        if was_away {
            self.returns.send_modify(|count| *count += 1);
            tracing::info!("the server answers again");
        }
    }

    fn unanswered(&self, error: &StoreError) {
        self.disturbances.send_modify(|count| *count += 1);
        let mut away = self.away.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let text: String = error.to_string().chars().take(MESSAGE_CHARS_MAX).collect();
        match away.as_mut() {
            Some(away) => away.error = text,
            None => {
                tracing::warn!(%error, "the server does not answer; waiting for it");
                *away = Some(Away { since: SystemTime::now(), error: text });
            }
        }
    }
}

impl Attempts<'_> {
    /// Takes the result of an attempt: `Some` is the answer to the caller, `None` means to try again (after a pause).
    async fn judge<T>(&mut self, result: Result<T>) -> Option<Result<T>> {
        let error = match result {
            Ok(value) => {
                self.retry.answered();
                return Some(Ok(value));
            }
            Err(error) => error,
        };
        match error.kind() {
            Kind::Unavailable => self.retry.unanswered(&error),
            Kind::Retry => {
                self.retry.answered();
                self.conflicts += 1;
                if self.conflicts <= CONFLICT_TRIES_MAX {
                    self.retry.retries.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    return None;
                }
            }
            _ => {
                self.retry.answered();
                return Some(Err(error));
            }
        }
        let first = *self.failed_first.get_or_insert_with(Instant::now);
        let left = self.retry.timeout.saturating_sub(first.elapsed());
        if left.is_zero() {
            return Some(Err(error));
        }
        let pause = self.pause.mul_f64(rand::rng().random_range(0.5..1.0)).min(left);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.returns.mark_unchanged();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = self.returns.changed() => {}
        }
        self.retry.retries.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Repeats one call until it is answered.
macro_rules! until_answered {
    ($self:ident, $call:expr) => {{
        let mut attempts = $self.attempts();
        loop {
            let result = $call.await;
            if let Some(answer) = attempts.judge(result).await {
                return answer;
            }
        }
    }};
}

#[async_trait]
impl Store for Retry {
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        until_answered!(self, self.inner.lookup(paths, inline_max))
    }

    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        until_answered!(self, self.inner.list(dir, from, limit, inline_max))
    }

    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        until_answered!(self, self.inner.tree(under, after, limit))
    }

    async fn deleted(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        until_answered!(self, self.inner.deleted(under, after, limit))
    }

    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        until_answered!(self, self.inner.read(parts))
    }

    /// An error says [`StoreError::is_outcome_unknown`] if any of the attempts may have been carried out.
    async fn commit(&self, mut batch: Batch) -> Result<Vec<Outcome>> {
        let mut attempts = self.attempts();
        let mut unknown = false;
        loop {
            let result = self.inner.commit(batch.clone()).await;
            match &result {
                Err(error) if error.is_outcome_unknown() => (unknown, batch.again) = (true, true),
                // The server looked for the batch's rows and then refused it: it was not carried out. A server that
                // changed did not look.
                Err(error) if !error.is_retryable() && error.kind() != Kind::ServerChanged => unknown = false,
                _ => {}
            }
            if let Some(mut answer) = attempts.judge(result).await {
                answer.iter_mut().flatten().for_each(|outcome| outcome.resent = batch.again);
                return answer.map_err(|error| if unknown { error.unknown_outcome() } else { error });
            }
        }
    }

    async fn sync(&self) -> Result<()> {
        until_answered!(self, self.inner.sync())
    }

    async fn versions(&self, key: &Key, before: Option<VersionNo>, limit: u32) -> Result<Vec<Head>> {
        until_answered!(self, self.inner.versions(key, before, limit))
    }

    async fn history(&self, dir: &Prefix, limit: u32) -> Result<Vec<Moment>> {
        until_answered!(self, self.inner.history(dir, limit))
    }

    /// A purge that is repeated after a lost reply reports only what the last attempt removed.
    async fn purge(&self, purge: &Purge) -> Result<PurgeReport> {
        until_answered!(self, self.inner.purge(purge))
    }

    async fn usage(&self, prefix: &Prefix) -> Result<Usage> {
        until_answered!(self, self.inner.usage(prefix))
    }
}

#[async_trait]
impl Locks for Retry {
    async fn lease(&self, lease: &Lease, call: LeaseCall) -> Result<LeaseReply> {
        until_answered!(self, self.inner.lease(lease, call))
    }

    async fn lock(&self, lease: &Lease, ino: u64, changes: &[Change]) -> Result<LockReply> {
        until_answered!(self, self.inner.lock(lease, ino, changes))
    }

    async fn lock_test(&self, lease: &Lease, ino: u64, change: &Change) -> Result<Option<Lock>> {
        until_answered!(self, self.inner.lock_test(lease, ino, change))
    }
}

#[async_trait]
impl Server for Retry {
    async fn position(&self) -> Result<Position> {
        until_answered!(self, self.inner.position())
    }

    async fn sync_in(&self, life: &str) -> Result<bool> {
        until_answered!(self, self.inner.sync_in(life))
    }

    async fn present(&self, ids: &[VersionId]) -> Result<Vec<bool>> {
        until_answered!(self, self.inner.present(ids))
    }

    async fn maintain(&self, prefix: &Prefix, mount: &str, what: Maintenance) -> Result<u64> {
        until_answered!(self, self.inner.maintain(prefix, mount, what.clone()))
    }
}
