//! A server that fails when told to: the nth call from now, before it is carried out or after (its reply is lost), or
//! late. Counts calls, so that tests can assert round trips.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pgfiles_store::batch::{Batch, Outcome};
use pgfiles_store::error::{Kind, Result, StoreError};
use pgfiles_store::key::{Key, Prefix};
use pgfiles_store::lock::{Change, Lease, LeaseCall, LeaseReply, Lock, LockReply, Locks};
use pgfiles_store::store::{Cursor, Entry, Maintenance, Moment, Page, Part, Position, Purge, PurgeReport, Server, Store, Usage};
use pgfiles_store::version::{Head, VersionId, VersionNo};

/// The calls of [`Store`] and [`Server`], named as where they are counted.
pub use pgfiles_store::layer::metrics::Method as Call;

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// An error of that kind; nothing is carried out.
    Fail(Kind),
    /// The call is carried out, then its reply is lost: [`Kind::Unavailable`] with an unknown outcome.
    LoseReply,
    /// The call starts that late.
    Delay(Duration),
    /// The call waits until [`FaultStore::release`], then goes on.
    Hold,
}

/// Decorates a server with faults.
pub struct FaultStore {
    inner: Arc<dyn Server>,
    state: Mutex<State>,
    gate: tokio::sync::watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    calls: HashMap<Call, u64>,
    /// Calls to let pass, then the fault, and how many calls it then hits.
    planned: Vec<(Option<Call>, u64, Fault, u64)>,
    /// Every so many calls of a sort.
    periodic: Vec<(Call, u64, Fault)>,
    /// How often the server went away: calls that were under way then fail.
    outages: u64,
}

impl FaultStore {
    /// Without faults yet.
    pub fn new(inner: Arc<dyn Server>) -> Self {
        Self { inner, state: Mutex::default(), gate: tokio::sync::watch::Sender::new(0) }
    }

    /// Lets `pass` calls of that sort (`None`: of any) go by and hits the next `times` with the fault.
    pub fn plan(&self, call: Option<Call>, pass: u64, fault: Fault, times: u64) {
        self.state().planned.push((call, pass, fault, times));
    }

    /// Hits every `period`th call of a sort with the fault.
    pub fn every(&self, call: Call, period: u64, fault: Fault) {
        self.state().periodic.push((call, period.max(1), fault));
    }

    /// Does something to the server that breaks all connections: calls under way fail, whatever they did, and so does the
    /// next one.
    pub fn outage(&self, what: impl FnOnce()) {
        let mut state = self.state();
        what();
        state.outages += 1;
        state.planned.push((None, 0, Fault::Fail(Kind::Unavailable), 1));
    }

    /// Forgets all planned faults.
    pub fn heal(&self) {
        let mut state = self.state();
        state.planned.clear();
        state.periodic.clear();
    }

    /// Lets all calls go on that [`Fault::Hold`] holds.
    pub fn release(&self) {
        self.gate.send_modify(|count| *count += 1);
    }

    /// How many calls of a sort there were since the start or [`FaultStore::reset_counts`].
    pub fn calls(&self, call: Call) -> u64 {
        self.state().calls.get(&call).copied().unwrap_or(0)
    }

    /// How many calls there were in all.
    pub fn all_calls(&self) -> u64 {
        self.state().calls.values().sum()
    }

    /// Counts from zero again.
    pub fn reset_counts(&self) {
        self.state().calls.clear();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and does what is planned before it; whether its reply is to be lost, and how many outages there
    /// were.
    async fn before(&self, call: Call) -> Result<(bool, u64)> {
        let mut lose_reply = false;
        let outages = self.state().outages;
        // Before the call is counted: whoever sees the count may release it.
        let mut gate = self.gate.subscribe();
        for fault in self.due(call) {
            match fault {
                Fault::Fail(kind) => return Err(StoreError::new(kind, format!("{call:?} fails: {kind:?} was asked for"))),
                Fault::LoseReply => lose_reply = true,
                Fault::Delay(time) => tokio::time::sleep(time).await,
                Fault::Hold => drop(gate.changed().await),
            }
        }
        Ok((lose_reply, outages))
    }

    fn due(&self, call: Call) -> Vec<Fault> {
        let mut state = self.state();
        let count = state.calls.entry(call).or_default();
        *count += 1;
        let count = *count;
        let periodic = state.periodic.iter().filter(|(which, period, _)| *which == call && count.is_multiple_of(*period));
        let mut due: Vec<Fault> = periodic.map(|(.., fault)| fault.clone()).collect();
        for (which, pass, fault, times) in &mut state.planned {
            if which.is_some_and(|which| which != call) {
                continue;
            }
            if *pass > 0 {
                *pass -= 1;
            } else if *times > 0 {
                *times -= 1;
                due.push(fault.clone());
            }
        }
        state.planned.retain(|(.., times)| *times > 0);
        due
    }

    fn answer<T>(&self, (lose_reply, outages): (bool, u64), result: Result<T>) -> Result<T> {
        if lose_reply || self.state().outages != outages {
            return Err(StoreError::new(Kind::Unavailable, "the connection was lost before the reply").unknown_outcome());
        }
        result
    }
}

macro_rules! forward {
    ($self:ident, $call:ident, $inner:expr) => {{
        let before = $self.before(Call::$call).await?;
        let result = $inner.await;
        $self.answer(before, result)
    }};
}

#[async_trait]
impl Store for FaultStore {
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        forward!(self, Lookup, self.inner.lookup(paths, inline_max))
    }
    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        forward!(self, List, self.inner.list(dir, from, limit, inline_max))
    }
    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        forward!(self, Tree, self.inner.tree(under, after, limit))
    }
    async fn deleted(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        forward!(self, Tree, self.inner.deleted(under, after, limit))
    }
    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        forward!(self, Read, self.inner.read(parts))
    }
    async fn commit(&self, batch: Batch) -> Result<Vec<Outcome>> {
        forward!(self, Commit, self.inner.commit(batch))
    }
    async fn sync(&self) -> Result<()> {
        forward!(self, Sync, self.inner.sync())
    }
    async fn versions(&self, key: &Key, before: Option<VersionNo>, limit: u32) -> Result<Vec<Head>> {
        forward!(self, Versions, self.inner.versions(key, before, limit))
    }
    async fn history(&self, dir: &Prefix, limit: u32) -> Result<Vec<Moment>> {
        forward!(self, History, self.inner.history(dir, limit))
    }
    async fn purge(&self, purge: &Purge) -> Result<PurgeReport> {
        forward!(self, Purge, self.inner.purge(purge))
    }
    async fn usage(&self, prefix: &Prefix) -> Result<Usage> {
        forward!(self, Usage, self.inner.usage(prefix))
    }
}

#[async_trait]
impl Locks for FaultStore {
    async fn lease(&self, lease: &Lease, call: LeaseCall) -> Result<LeaseReply> {
        forward!(self, Lease, self.inner.lease(lease, call))
    }
    async fn lock(&self, lease: &Lease, ino: u64, changes: &[Change]) -> Result<LockReply> {
        forward!(self, Lock, self.inner.lock(lease, ino, changes))
    }
    async fn lock_test(&self, lease: &Lease, ino: u64, change: &Change) -> Result<Option<Lock>> {
        forward!(self, Lock, self.inner.lock_test(lease, ino, change))
    }
}

#[async_trait]
impl Server for FaultStore {
    async fn position(&self) -> Result<Position> {
        forward!(self, Position, self.inner.position())
    }
    async fn present(&self, ids: &[VersionId]) -> Result<Vec<bool>> {
        forward!(self, Present, self.inner.present(ids))
    }
    async fn maintain(&self, prefix: &Prefix, mount: &str, what: Maintenance) -> Result<u64> {
        forward!(self, Maintain, self.inner.maintain(prefix, mount, what))
    }
}
