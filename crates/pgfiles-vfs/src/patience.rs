//! The end of waiting. Every request to the store fails in the end, whatever hangs below; and while a mount is given up
//! all fail at once, also those under way, so that whoever holds a file's data lets go of it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pgfiles_store::batch::{Batch, Durability, Op, Outcome};
use pgfiles_store::error::{Kind, Result, StoreError};
use pgfiles_store::key::{Key, Prefix};
use pgfiles_store::store::{Cursor, Entry, Moment, Page, Part, Purge, PurgeReport, Store, Usage};
use pgfiles_store::version::{Head, VersionNo};
use tokio::sync::watch;

use crate::progress::Request;

/// The longest that what takes as long as a directory or a queue is large may take.
pub(crate) const LONG: Duration = Duration::from_secs(3600);
/// Added for what is sent, and for commits before it that a server forgot and that go first.
const PER_MIB: Duration = Duration::from_secs(1);
/// How much may have to be sent before a commit.
const BEFORE_MIB: u32 = 64;

/// A [`Store`] that one can stop waiting for.
pub(crate) struct Patience {
    inner: Arc<dyn Store>,
    /// The longest that an ordinary request may take, longer than the layers below try again.
    limit: Duration,
    given_up: watch::Sender<bool>,
    under_way: AtomicU64,
    done: AtomicU64,
}

/// A request under way.
struct UnderWay<'a>(&'a Patience);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.done.fetch_add(1, Ordering::Relaxed);
    }
}

impl Patience {
    pub fn new(inner: Arc<dyn Store>, limit: Duration) -> Self {
        let given_up = watch::Sender::new(false);
        Self { inner, limit, given_up, under_way: AtomicU64::new(0), done: AtomicU64::new(0) }
    }

    /// The store itself, which still waits.
    pub fn inner(&self) -> &Arc<dyn Store> {
        &self.inner
    }

    /// Fails everything from now on, or no more.
    pub fn give_up(&self, yes: bool) {
        self.given_up.send_replace(yes);
    }

    /// Requests answered so far; `None` while one is under way, which ends by itself.
    pub fn at_rest(&self) -> Option<u64> {
        (self.under_way.load(Ordering::Relaxed) == 0).then(|| self.done.load(Ordering::Relaxed))
    }

    async fn within<T>(&self, limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
        let mut given_up = self.given_up.subscribe();
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let _under_way = (UnderWay(self), Request::begin());
        tokio::select! {
            biased;
            result = call => result,
            _ = given_up.wait_for(|yes| *yes) => Err(ended("the mount ends without waiting for the server")),
            () = tokio::time::sleep(limit) => {
                tracing::error!(seconds = limit.as_secs(), "a request to the store was not answered; it is given up");
                Err(ended("no answer, not even that there is none"))
            }
        }
    }

    /// Waits for an ordinary request, also one to another trait of the same server.
    pub async fn wait<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.within(self.limit, call).await
    }

    async fn wait_long<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.within(LONG + self.limit, call).await
    }
}

/// What was asked for may be carried out nevertheless.
fn ended(why: &str) -> StoreError {
    StoreError::new(Kind::Unavailable, why).unknown_outcome()
}

/// Whether it takes as long as a directory or a queue is large.
fn is_long(batch: &Batch) -> bool {
    let long = |op: &Op| matches!(op, Op::RenameDir(_) | Op::RestoreDir(_) | Op::RemoveDir(_));
    batch.durability == Durability::Sync || batch.ops.iter().any(long)
}

#[async_trait]
impl Store for Patience {
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        self.wait(self.inner.lookup(paths, inline_max)).await
    }

    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        self.wait(self.inner.list(dir, from, limit, inline_max)).await
    }

    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.wait(self.inner.tree(under, after, limit)).await
    }

    async fn deleted(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.wait(self.inner.deleted(under, after, limit)).await
    }

    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        self.wait(self.inner.read(parts)).await
    }

    async fn read_once(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        self.wait(self.inner.read_once(parts)).await
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<Outcome>> {
        let mib = u32::try_from(batch.payload() >> 20).unwrap_or(u32::MAX).saturating_add(BEFORE_MIB);
        let limit = if is_long(&batch) { LONG } else { PER_MIB * mib } + self.limit;
        self.within(limit, self.inner.commit(batch)).await
    }

    async fn sync(&self) -> Result<()> {
        self.wait_long(self.inner.sync()).await
    }

    async fn versions(&self, key: &Key, before: Option<VersionNo>, limit: u32) -> Result<Vec<Head>> {
        self.wait(self.inner.versions(key, before, limit)).await
    }

    async fn history(&self, dir: &Prefix, limit: u32) -> Result<Vec<Moment>> {
        self.wait_long(self.inner.history(dir, limit)).await
    }

    async fn purge(&self, purge: &Purge) -> Result<PurgeReport> {
        self.wait_long(self.inner.purge(purge)).await
    }

    async fn usage(&self, prefix: &Prefix) -> Result<Usage> {
        self.wait_long(self.inner.usage(prefix)).await
    }
}
