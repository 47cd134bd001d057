//! Counts what goes to the server: calls, errors, latencies, bytes, calls in flight. Lowest of the layers, so a retry
//! counts again and a cache hit does not count.
//!
//! Lock-free: one row of atomics per method.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use crate::batch::{Batch, Outcome};
use crate::error::Result;
use crate::key::{Key, Prefix};
use crate::lock::{Change, Lease, LeaseCall, LeaseReply, Lock, LockReply, Locks};
use crate::store::{Cursor, Entry, Maintenance, Moment, Page, Part, Position, Purge, PurgeReport, Server, Store, Usage};
use crate::version::{Head, VersionId, VersionNo};

/// Latencies are counted in powers of two of a microsecond; the last bucket holds everything from 2^31 µs (36 min) on.
const BUCKETS: usize = 32;

/// The methods of [`Server`], in the order in which they are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Method {
    Lookup,
    List,
    Tree,
    Read,
    Commit,
    Sync,
    Versions,
    History,
    Purge,
    Usage,
    Position,
    Present,
    Maintain,
    Lease,
    Lock,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 15] = [
        Method::Lookup,
        Method::List,
        Method::Tree,
        Method::Read,
        Method::Commit,
        Method::Sync,
        Method::Versions,
        Method::History,
        Method::Purge,
        Method::Usage,
        Method::Position,
        Method::Present,
        Method::Maintain,
        Method::Lease,
        Method::Lock,
    ];

    /// As it is called in `status --json`.
    pub fn name(self) -> &'static str {
        match self {
            Method::Lookup => "lookup",
            Method::List => "list",
            Method::Tree => "tree",
            Method::Read => "read",
            Method::Commit => "commit",
            Method::Sync => "sync",
            Method::Versions => "versions",
            Method::History => "history",
            Method::Purge => "purge",
            Method::Usage => "usage",
            Method::Position => "position",
            Method::Present => "present",
            Method::Maintain => "maintain",
            Method::Lease => "lease",
            Method::Lock => "lock",
        }
    }
}

#[derive(Default)]
struct Counters {
    calls: AtomicU64,
    errors: AtomicU64,
    cancelled: AtomicU64,
    in_flight: AtomicU64,
    micros: AtomicU64,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
    ops: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// What was counted for one method.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct MethodSnapshot {
    /// The method, as [`Method::name`] has it.
    pub method: &'static str,
    /// Calls that were answered; each is one round trip.
    pub calls: u64,
    /// Of these, how many with an error.
    pub errors: u64,
    /// Calls whose caller did not wait for the answer.
    pub cancelled: u64,
    /// Calls not answered yet.
    pub in_flight: u64,
    /// Time spent in answered calls, added up, in microseconds.
    pub total_us: u64,
    /// At least half of the answered calls took no longer (upper end of a power of two), in microseconds.
    pub p50_us: u64,
    /// The same for 99 in 100.
    pub p99_us: u64,
    /// Bytes of bodies sent.
    pub bytes_out: u64,
    /// Bytes of bodies received.
    pub bytes_in: u64,
    /// Paths asked for, entries listed, operations committed.
    pub items: u64,
}

/// What was counted since the start.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct MetricsSnapshot {
    /// Calls that were answered, all methods together.
    pub round_trips: u64,
    /// Methods that were called at all.
    pub methods: Vec<MethodSnapshot>,
}

impl MetricsSnapshot {
    /// Answered calls of one method.
    pub fn calls(&self, method: Method) -> u64 {
        self.methods.iter().find(|row| row.method == method.name()).map_or(0, |row| row.calls)
    }
}

/// A [`Server`] that counts.
pub struct Metrics {
    inner: Arc<dyn Server>,
    counters: [Counters; Method::ALL.len()],
}

/// One call; counts it as cancelled if it is dropped before [`Call::done`].
struct Call<'m> {
    counters: &'m Counters,
    started: Instant,
    answered: bool,
}

impl Call<'_> {
    fn done<T>(mut self, result: &Result<T>) {
        self.answered = true;
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.calls.fetch_add(1, Relaxed);
        self.counters.micros.fetch_add(micros, Relaxed);
        self.counters.buckets[bucket(micros)].fetch_add(1, Relaxed);
        if result.is_err() {
            self.counters.errors.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.counters.in_flight.fetch_sub(1, Relaxed);
        if !self.answered {
            self.counters.cancelled.fetch_add(1, Relaxed);
        }
    }
}

/// Bucket b holds latencies below 2^b µs that no smaller bucket holds.
fn bucket(micros: u64) -> usize {
    ((u64::BITS - micros.leading_zeros()) as usize).min(BUCKETS - 1)
}

/// The upper end of the bucket that the `share`-th part of the calls falls in.
fn quantile(buckets: &[u64; BUCKETS], share: f64) -> u64 {
    let total: u64 = buckets.iter().sum();
    let wanted = ((total as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    for (bucket, count) in buckets.iter().enumerate() {
        seen += count;
        if seen >= wanted {
            return 1 << bucket;
        }
    }
    0
}

impl Metrics {
    /// Wraps a server.
    pub fn new(inner: Arc<dyn Server>) -> Self {
        Self { inner, counters: Default::default() }
    }

    /// The counts so far.
    pub fn snapshot(&self) -> MetricsSnapshot {
        let methods: Vec<_> = Method::ALL.iter().map(|&method| self.row(method)).filter(used).collect();
        MetricsSnapshot { round_trips: methods.iter().map(|row| row.calls).sum(), methods }
    }

    /// Calls answered so far, all methods together.
    pub fn round_trips(&self) -> u64 {
        self.counters.iter().map(|row| row.calls.load(Relaxed)).sum()
    }

    fn row(&self, method: Method) -> MethodSnapshot {
        let row = &self.counters[method as usize];
        let buckets: [u64; BUCKETS] = std::array::from_fn(|bucket| row.buckets[bucket].load(Relaxed));
        MethodSnapshot {
            method: method.name(),
            calls: row.calls.load(Relaxed),
            errors: row.errors.load(Relaxed),
            cancelled: row.cancelled.load(Relaxed),
            in_flight: row.in_flight.load(Relaxed),
            total_us: row.micros.load(Relaxed),
            p50_us: quantile(&buckets, 0.5),
            p99_us: quantile(&buckets, 0.99),
            bytes_out: row.bytes_out.load(Relaxed),
            bytes_in: row.bytes_in.load(Relaxed),
            items: row.ops.load(Relaxed),
        }
    }

    fn begin(&self, method: Method, items: usize, bytes_out: usize) -> Call<'_> {
        let counters = &self.counters[method as usize];
        counters.in_flight.fetch_add(1, Relaxed);
        counters.ops.fetch_add(items as u64, Relaxed);
        counters.bytes_out.fetch_add(bytes_out as u64, Relaxed);
        Call { counters, started: Instant::now(), answered: false }
    }

    /// What is asked for a tree of heads.
    async fn heads(&self, asked: impl Future<Output = Result<Vec<Head>>> + Send) -> Result<Vec<Head>> {
        let call = self.begin(Method::Tree, 0, 0);
        let result = asked.await;
        call.done(&result);
        if let Ok(heads) = &result {
            self.counters[Method::Tree as usize].ops.fetch_add(heads.len() as u64, Relaxed);
        }
        result
    }

    fn received(&self, method: Method, bytes: usize) {
        self.counters[method as usize].bytes_in.fetch_add(bytes as u64, Relaxed);
    }
}

fn used(row: &MethodSnapshot) -> bool {
    row.calls + row.in_flight + row.cancelled > 0
}

fn carried(entry: &Entry) -> usize {
    match entry {
        Entry::File(head) => head.data.as_ref().map_or(0, Bytes::len),
        Entry::Dir(_) => 0,
    }
}

#[async_trait]
impl Store for Metrics {
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        let call = self.begin(Method::Lookup, paths.len(), 0);
        let result = self.inner.lookup(paths, inline_max).await;
        call.done(&result);
        if let Ok(found) = &result {
            self.received(Method::Lookup, found.iter().flatten().map(carried).sum());
        }
        result
    }

    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        let call = self.begin(Method::List, 0, 0);
        let result = self.inner.list(dir, from, limit, inline_max).await;
        call.done(&result);
        if let Ok(page) = &result {
            self.received(Method::List, page.entries.iter().map(|(_, entry)| carried(entry)).sum());
            self.counters[Method::List as usize].ops.fetch_add(page.entries.len() as u64, Relaxed);
        }
        result
    }

    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.heads(self.inner.tree(under, after, limit)).await
    }

    async fn deleted(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.heads(self.inner.deleted(under, after, limit)).await
    }

    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        let call = self.begin(Method::Read, parts.len(), 0);
        let result = self.inner.read(parts).await;
        call.done(&result);
        if let Ok(bytes) = &result {
            self.received(Method::Read, bytes.iter().map(Bytes::len).sum());
        }
        result
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<Outcome>> {
        let call = self.begin(Method::Commit, batch.ops.len(), batch.payload());
        let result = self.inner.commit(batch).await;
        call.done(&result);
        result
    }

    async fn sync(&self) -> Result<()> {
        let call = self.begin(Method::Sync, 0, 0);
        let result = self.inner.sync().await;
        call.done(&result);
        result
    }

    async fn versions(&self, key: &Key, before: Option<VersionNo>, limit: u32) -> Result<Vec<Head>> {
        let call = self.begin(Method::Versions, 1, 0);
        let result = self.inner.versions(key, before, limit).await;
        call.done(&result);
        result
    }

    async fn history(&self, dir: &Prefix, limit: u32) -> Result<Vec<Moment>> {
        let call = self.begin(Method::History, 1, 0);
        let result = self.inner.history(dir, limit).await;
        call.done(&result);
        result
    }

    async fn purge(&self, purge: &Purge) -> Result<PurgeReport> {
        let call = self.begin(Method::Purge, 1, 0);
        let result = self.inner.purge(purge).await;
        call.done(&result);
        result
    }

    async fn usage(&self, prefix: &Prefix) -> Result<Usage> {
        let call = self.begin(Method::Usage, 1, 0);
        let result = self.inner.usage(prefix).await;
        call.done(&result);
        result
    }
}

#[async_trait]
impl Locks for Metrics {
    async fn lease(&self, lease: &Lease, what: LeaseCall) -> Result<LeaseReply> {
        let call = self.begin(Method::Lease, 1, 0);
        let result = self.inner.lease(lease, what).await;
        call.done(&result);
        result
    }

    async fn lock(&self, lease: &Lease, ino: u64, changes: &[Change]) -> Result<LockReply> {
        let call = self.begin(Method::Lock, changes.len(), 0);
        let result = self.inner.lock(lease, ino, changes).await;
        call.done(&result);
        result
    }

    async fn lock_test(&self, lease: &Lease, ino: u64, change: &Change) -> Result<Option<Lock>> {
        let call = self.begin(Method::Lock, 1, 0);
        let result = self.inner.lock_test(lease, ino, change).await;
        call.done(&result);
        result
    }
}

#[async_trait]
impl Server for Metrics {
    async fn position(&self) -> Result<Position> {
        let call = self.begin(Method::Position, 0, 0);
        let result = self.inner.position().await;
        call.done(&result);
        result
    }

    async fn sync_in(&self, life: &str) -> Result<bool> {
        let call = self.begin(Method::Sync, 0, 0);
        let result = self.inner.sync_in(life).await;
        call.done(&result);
        result
    }

    async fn present(&self, ids: &[VersionId]) -> Result<Vec<bool>> {
        let call = self.begin(Method::Present, ids.len(), 0);
        let result = self.inner.present(ids).await;
        call.done(&result);
        result
    }

    async fn maintain(&self, prefix: &Prefix, mount: &str, what: Maintenance) -> Result<u64> {
        let call = self.begin(Method::Maintain, 1, 0);
        let result = self.inner.maintain(prefix, mount, what).await;
        call.done(&result);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        assert_eq!([0, 1, 2, 3, 4, 1023, 1024].map(bucket), [0, 1, 2, 2, 3, 10, 11]);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_name_the_upper_end() {
        let mut buckets = [0; BUCKETS];
        assert_eq!(quantile(&buckets, 0.5), 0);
        buckets[3] = 99;
        buckets[10] = 1;
        assert_eq!(quantile(&buckets, 0.5), 8);
        assert_eq!(quantile(&buckets, 0.99), 8);
        assert_eq!(quantile(&buckets, 1.0), 1024);
    }
}
