//! Commits that carry the server's life, the following of its disk, and the committing again of what it forgot.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::batch::{Batch, Durability, Outcome};
use crate::error::{Kind, Result, StoreError};
use crate::store::{Position, Purge, PurgeReport, Server, Store};

use super::journal::describe;
use super::relax::{Relaxed as Relaxing, is_overtaken};
use super::{Log, lock};

/// How often the server's disk is asked about while anything is retained.
const POLL: Duration = Duration::from_millis(200);
/// How often in a row the server may change under a commit before that gives up.
const CHANGES_MAX: usize = 16;
/// Ids looked up in one call.
const PRESENT_IDS_MAX: usize = 5_000;

impl Log {
    /// Commits on the server. Commits of many callers run side by side; a recovery waits for them and they for it.
    ///
    /// A batch that is sent again may have been carried out as early as it was first sent, before much that was answered
    /// since: it proves nothing of that, neither that it survived (its tick is the first one) nor that it is on the disk.
    pub(super) async fn commit_now(&self, mut batch: Batch) -> Result<Vec<Outcome>> {
        let mut first = batch.again.then_some(0);
        for _ in 0..CHANGES_MAX {
            let server = self.server().await?;
            let shared = self.order.read().await;
            let life: Arc<str> = lock(&self.server).as_ref().unwrap_or(&server).life.as_str().into();
            let began = lock(&self.journal).begin_commit(&batch);
            let durable = self.is_durable_at_once(&batch);
            batch.durability = if durable { Durability::Sync } else { Durability::Async };
            batch.life = Some(life.clone());
            match self.inner.commit(batch.clone()).await {
                Ok(outcomes) if durable && !batch.again => {
                    lock(&self.journal).durable(began);
                    return Ok(outcomes);
                }
                Ok(outcomes) => {
                    let began = first.filter(|_| batch.again).unwrap_or(began);
                    lock(&self.journal).retain(began, batch, &outcomes);
                    self.retained.notify_one();
                    drop(shared);
                    if durable {
                        self.sync_now().await.map_err(StoreError::unknown_outcome)?;
                    }
                    return Ok(outcomes);
                }
                Err(error) if error.kind() == Kind::ServerChanged => {
                    first.get_or_insert(began);
                    batch.again |= error.is_outcome_unknown();
                    drop(shared);
                    self.recover(&life).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(restless())
    }

    /// Commits what was answered already, giving way where other clients came first. An outcome per operation; `None`:
    /// it had to be given up.
    pub(super) async fn commit_answered(&self, batch: &Batch) -> Result<Vec<Option<Outcome>>> {
        let mut relaxing = Relaxing::new(&batch.ops);
        let result = loop {
            let ops = relaxing.ops();
            if ops.is_empty() {
                break Ok(relaxing.outcomes(vec![]));
            }
            match self.commit_now(Batch { ops, ..batch.clone() }).await {
                Ok(outcomes) => break Ok(relaxing.outcomes(outcomes)),
                Err(error) => relaxing.refused(error)?,
            }
        };
        lock(&self.trouble).lost += relaxing.lost;
        result
    }

    /// Waits until everything committed so far is on the server's disk. Nothing to do where nothing is retained.
    pub(super) async fn sync_now(&self) -> Result<()> {
        for _ in 0..CHANGES_MAX {
            if lock(&self.journal).is_empty() {
                return Ok(());
            }
            let server = self.server().await?;
            let began = lock(&self.journal).begin();
            if self.inner.sync_in(&server.life).await? {
                lock(&self.journal).durable(began);
                return Ok(());
            }
            self.recover(&server.life).await?;
        }
        Err(restless())
    }

    /// Removes versions, and waits until that is on the server's disk.
    pub(super) async fn purge_now(&self, purge: &Purge) -> Result<PurgeReport> {
        let mut removed = PurgeReport::default();
        for _ in 0..CHANGES_MAX {
            let server = self.server().await?;
            let report = self.inner.purge(purge).await?;
            let is_same = self.inner.sync_in(&server.life).await?;
            // What a crash forgot is removed, and counted, again.
            removed = if removed.rows > report.rows { PurgeReport { next: report.next, ..removed } } else { report };
            if is_same {
                return Ok(removed);
            }
            self.recover(&server.life).await?;
        }
        Err(restless())
    }

    /// The server as it is known; asks at the first time.
    async fn server(&self) -> Result<Position> {
        if let Some(known) = lock(&self.server).clone() {
            return Ok(known);
        }
        let _alone = self.order.write().await;
        if let Some(known) = lock(&self.server).clone() {
            return Ok(known);
        }
        let position = self.inner.position().await?;
        *lock(&self.server) = Some(position.clone());
        Ok(position)
    }

    /// Makes sure that the server has all that is retained.
    pub(super) async fn verify(&self) -> Result<()> {
        let disturbances = *self.disturbances.borrow();
        let Some(known) = lock(&self.server).clone() else { return Ok(()) };
        if self.inner.position().await?.life != known.life {
            self.recover(&known.life).await?;
        }
        self.verified.store(disturbances, Relaxed);
        Ok(())
    }

    /// The life that commits were made in is over: commits again what is not there, in order. Whoever comes second
    /// finds it done.
    async fn recover(&self, over: &str) -> Result<()> {
        let _alone = self.order.write().await;
        for _ in 0..CHANGES_MAX {
            let before = lock(&self.server).clone().unwrap_or_default();
            if before.life != over {
                return Ok(());
            }
            let position = self.inner.position().await?;
            match self.commit_missing(&position).await {
                Ok(count) => {
                    self.recovered(&before, position, count);
                    return Ok(());
                }
                Err(error) if error.kind() == Kind::ServerChanged => {}
                Err(error) => return Err(error),
            }
        }
        Err(restless())
    }

    fn recovered(&self, before: &Position, position: Position, count: usize) {
        tracing::warn!(commits = count, "the server is in another life: what it had forgotten is committed again");
        self.heads.invalidate_all();
        if before.cluster != position.cluster {
            tracing::warn!("the server is another one, or an older state of it: all cached metadata is dropped");
        }
        if before.cluster != position.cluster || count > 0 {
            // Rows that the server itself names (of whole directories, of copied bodies) have other ids now.
            self.epoch.send_modify(|epoch| *epoch += 1);
        }
        *lock(&self.server) = Some(position);
        lock(&self.journal).forget_polls();
        let mut trouble = lock(&self.trouble);
        trouble.recoveries += 1;
        trouble.recommitted += count as u64;
        trouble.read_only = None;
    }

    async fn commit_missing(&self, position: &Position) -> Result<usize> {
        let ids = lock(&self.journal).witnesses();
        let mut present = HashSet::new();
        for ids in ids.chunks(PRESENT_IDS_MAX) {
            let found = self.inner.present(ids).await?;
            present.extend(ids.iter().zip(found).filter(|(_, there)| *there).map(|(id, _)| *id));
        }
        let missing = lock(&self.journal).missing(&present);
        for batch in &missing {
            self.commit_again(batch, position).await?;
        }
        Ok(missing.len())
    }

    /// One retained commit, on a server in its next life; stays retained.
    async fn commit_again(&self, batch: &Batch, position: &Position) -> Result<()> {
        let mut relaxing = Relaxing::new(&batch.ops);
        let life: Arc<str> = position.life.as_str().into();
        loop {
            let ops = relaxing.ops();
            if ops.is_empty() {
                break;
            }
            let (life, by) = (Some(life.clone()), batch.by.clone());
            let again = Batch { ops, durability: Durability::Async, by, life, again: true };
            match self.inner.commit(again).await {
                Ok(_) => break,
                Err(error) if is_overtaken(error.kind()) => relaxing.refused(error)?,
                Err(error) => {
                    if !error.is_retryable() && !matches!(error.kind(), Kind::ServerChanged | Kind::NoSpace) {
                        self.refuse_changes(&error, &describe(batch));
                    }
                    return Err(error);
                }
            }
        }
        lock(&self.trouble).lost += relaxing.lost;
        Ok(())
    }

    /// The task that asks about the server's disk while anything is retained, and looks at the server whenever it
    /// comes back.
    pub(super) async fn follow_disk(&self) {
        let mut returns = self.inner.returns();
        loop {
            let back = tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.retained.notified() => false,
                _ = returns.changed() => true,
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.follow_until_flushed(back) => {}
            }
        }
    }

    async fn follow_until_flushed(&self, back: bool) {
        let mut due = back;
        while due || !lock(&self.journal).is_empty() {
            let result = self.poll().await;
            if let Err(error) = result {
                self.failed(&error);
            }
            if lock(&self.journal).is_empty() {
                break;
            }
            due = false;
            tokio::time::sleep(POLL).await;
        }
    }

    async fn poll(&self) -> Result<()> {
        let Some(known) = lock(&self.server).clone() else {
            // It was away and nothing tells whether it is the same: believe nothing of before.
            self.heads.invalidate_all();
            self.epoch.send_modify(|epoch| *epoch += 1);
            return Ok(());
        };
        let disturbances = *self.disturbances.borrow();
        let began = lock(&self.journal).begin();
        let position = self.inner.position().await?;
        if position.life != known.life {
            return self.recover(&known.life).await;
        }
        self.verified.store(disturbances, Relaxed);
        // A recovery meanwhile committed again what is retained: this position says nothing about that.
        let server = lock(&self.server);
        if server.as_ref().is_some_and(|server| server.life == position.life) {
            lock(&self.journal).polled(began, position.written, position.flushed);
        }
        Ok(())
    }
}

fn restless() -> StoreError {
    StoreError::new(Kind::Unavailable, "the server changed again and again while a commit was tried")
}
