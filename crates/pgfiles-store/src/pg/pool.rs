//! The connections of one store: opened when needed, at most as many as set, closed when idle.
//!
//! A connection goes back only after its request has been answered in full. One whose request ran out of time, or
//! whose caller went away, is cancelled on the server and closed: nobody ever meets a session in mid-request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::connect::{Connection, Connector, Need};
use super::sqlstate;
use crate::error::{Kind, Result, StoreError};

/// The least time between two looks for idle connections.
const REAP_MIN: Duration = Duration::from_millis(10);

/// A statement's parameters with their types.
pub(super) type Params<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// Bounds of a pool.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) size: usize,
    /// How long a connection may lie idle.
    pub(super) idle: Duration,
    /// How long a request waits for a free connection while no other request is answered.
    pub(super) wait: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    limits: Limits,
    slots: Arc<Semaphore>,
    idle: Mutex<Vec<(Connection, Instant)>>,
    reaping: std::sync::Once,
    /// Requests that the server answered.
    answered: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) requests: AtomicU64,
}

impl Pool {
    pub(super) fn new(connector: Connector, limits: Limits) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(limits.size.max(1)));
        let (idle, reaping) = (Mutex::default(), std::sync::Once::new());
        let (answered, opened, requests) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let connector = connector.by_caller();
        Arc::new(Self { connector, limits, slots, idle, reaping, answered, opened, requests })
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// How many connections are open and unused.
    pub(super) fn idle_count(&self) -> usize {
        self.idle().len()
    }

    /// A connection for one request. The one used last is taken first, so that those that are not needed grow idle.
    pub(super) async fn get(self: &Arc<Self>) -> Result<Lease> {
        let slot = self.turn().await?;
        while let Some((mut connection, _)) = self.take() {
            if !connection.is_closed() {
                return Ok(Lease { connection: Some(connection), in_transaction: false, pool: self.clone(), _slot: slot });
            }
        }
        let connection = self.connector.open(Need::Schema).await?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.reaping.call_once(|| {
            tokio::spawn(reap(Arc::downgrade(self), self.limits.idle));
        });
        Ok(Lease { connection: Some(connection), in_transaction: false, pool: self.clone(), _slot: slot })
    }

    /// Waits for a free connection, first come, first served. As long as those before are answered, however slowly, that is
    /// no outage: whoever gave up his place then and came again might never be served.
    async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let mut turn = std::pin::pin!(self.slots.clone().acquire_owned());
        loop {
            let answered = self.answered.load(Ordering::Relaxed);
            match tokio::time::timeout(self.limits.wait, &mut turn).await {
                Ok(Ok(slot)) => return Ok(slot),
                Err(_) if self.answered.load(Ordering::Relaxed) != answered => {}
                _ => {
                    let Limits { size, wait, .. } = &self.limits;
                    let message = format!("all {size} connections are busy and none got an answer within {} s", wait.as_secs());
                    return Err(StoreError::new(Kind::Unavailable, message));
                }
            }
        }
    }

    fn take(&self) -> Option<(Connection, Instant)> {
        self.idle().pop()
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what has been idle for too long, until the pool is gone.
async fn reap(pool: Weak<Pool>, idle: Duration) {
    loop {
        tokio::time::sleep((idle / 4).max(REAP_MIN)).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.idle().retain_mut(|(connection, since)| since.elapsed() < idle && !connection.is_closed());
    }
}

/// A connection that is ours until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    connection: Option<Connection>,
    /// A transaction was begun and has not ended.
    in_transaction: bool,
    pool: Arc<Pool>,
    _slot: OwnedSemaphorePermit,
}

impl Lease {
    /// What answered when the connection was made.
    pub(super) fn hello(&self) -> Option<&super::connect::Hello> {
        self.connection.as_ref().map(|connection| &connection.hello)
    }

    /// Whether the schema there has this version or a later one.
    pub(super) fn knows(&self, version: u64) -> bool {
        self.hello().is_some_and(|hello| u64::try_from(hello.schema).is_ok_and(|schema| schema >= version))
    }

    /// Sends one statement, unnamed, and waits for all of its answer: at most `limit`. `what` is for the error's sentence.
    pub(super) async fn query(&mut self, what: &str, text: &str, params: Params<'_>, limit: Duration) -> Result<Vec<Row>> {
        let mut all = self.pipeline(what, &[(text, params)], limit).await?;
        Ok(all.pop().unwrap_or_default())
    }

    /// Begins a transaction of several requests. Ends it without effect, and the connection, unless [`Lease::commit`] is
    /// called.
    pub(super) async fn begin(&mut self, limit: Duration) -> Result<()> {
        self.in_transaction = true;
        self.query("beginning", "BEGIN", &[], limit).await.map(drop)
    }

    /// Commits it.
    pub(super) async fn commit(&mut self, limit: Duration) -> Result<()> {
        self.query("committing", "COMMIT", &[], limit).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Sends several statements at once, each a transaction of its own; the first error ends it.
    pub(super) async fn pipeline(&mut self, what: &str, all: &[(&str, Params<'_>)], limit: Duration) -> Result<Vec<Vec<Row>>> {
        let Some(connection) = &mut self.connection else {
            return Err(StoreError::new(Kind::Unavailable, "the connection is closed"));
        };
        self.pool.requests.fetch_add(all.len() as u64, Ordering::Relaxed);
        connection.canceller.armed = true;
        let Connection { client, wire, .. } = connection;
        let answers = all.iter().map(|(text, params)| client.query_typed(text, params));
        let answer = tokio::time::timeout(limit, wire.wait(futures_util::future::try_join_all(answers))).await;
        match answer {
            Ok(Ok(rows)) => {
                self.pool.answered.fetch_add(1, Ordering::Relaxed);
                connection.canceller.armed = false;
                Ok(rows)
            }
            Ok(Err(error)) => {
                let error = sqlstate::request(error, &connection.place, what);
                // An error of one statement leaves the session in order, unless others are still on their way or the
                // session itself is ending.
                connection.canceller.armed = all.len() > 1;
                if error.kind() == Kind::Unavailable {
                    self.connection = None;
                } else {
                    self.pool.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(error)
            }
            Err(_) => {
                let message = format!("{what}: no answer from {} within {} s", connection.place.server, limit.as_secs());
                Err(StoreError::new(Kind::Unavailable, message).unknown_outcome())
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if connection.canceller.armed {
            connection.canceller.fire();
        } else if !self.in_transaction && !connection.is_closed() {
            self.pool.idle().push((connection, Instant::now()));
        }
    }
}
