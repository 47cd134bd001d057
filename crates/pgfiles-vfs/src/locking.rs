//! The locks that this mount holds for its programs across all mounts of its prefix, and the lease that they hang on.
//!
//! The server decides; the book here says what it granted, so that a close asks nothing where nothing is locked, and so that
//! all is taken anew where the server may have forgotten. Where the lease ran out and was revoked meanwhile, others may have
//! held the locks since: then they are lost, whoever used them is told, and what they wrote under them is not published.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pgfiles_store::clock::Clock;
use pgfiles_store::key::Prefix;
use pgfiles_store::lock::{
    self, Change, LEASE_RENEW_SECONDS, LEASE_SECONDS, Lease, LeaseCall, Lock, LockReply, Locks, OFFSET_MAX,
};
use tokio::sync::{RwLock, watch};

use crate::error::{Result, VfsError};
use crate::handle::HandleId;
use crate::patience::Patience;

/// Files that share a turn: of one file, one change at a time is on its way.
const TURNS: usize = 64;
/// How often a lease is lost under a request before the request gives up.
const LOSSES_MAX: u32 = 5;

/// See the module.
pub(crate) struct Locking {
    server: Arc<dyn Locks>,
    patience: Arc<Patience>,
    clock: Arc<dyn Clock>,
    turns: [tokio::sync::Mutex<()>; TURNS],
    /// Held by requests about locks, exclusively by who begins a lease. Innermost of the async locks.
    lease: RwLock<Tenure>,
    book: Mutex<Book>,
    /// Counts what became free here.
    freed: watch::Sender<u64>,
}

/// The lease, and how far it has begun.
struct Tenure {
    lease: Lease,
    life: String,
    /// When what began it was sent.
    begun: Option<Moment>,
    /// Files whose locks are to be taken anew under it; `None`: it is settled.
    retake: Option<Vec<u64>>,
}

/// By both clocks: one stands still while the machine sleeps, the other is set now and then.
#[derive(Clone, Copy)]
struct Moment {
    monotonic: Instant,
    wall_seconds: i64,
}

#[derive(Default)]
struct Book {
    /// By the inode number that the store knows.
    files: HashMap<u64, File>,
    /// When the last renewal that succeeded was sent.
    renewed: Option<Moment>,
    /// What the server has may be something else.
    doubt: bool,
    /// Descriptions through which a lock was held that is lost.
    lost: HashSet<HandleId>,
    /// Files whose unpublished data was written under a lock that is lost.
    stale: HashSet<u64>,
}

#[derive(Default)]
struct File {
    held: Vec<Lock>,
    /// Through which descriptions each owner locked since it last had no lock.
    through: HashSet<(u64, HandleId)>,
}

impl Locking {
    pub fn new(server: Arc<dyn Locks>, patience: Arc<Patience>, clock: Arc<dyn Clock>, prefix: Prefix, mount: Arc<str>) -> Self {
        let lease = Lease { prefix, mount, number: 0 };
        Self {
            server,
            patience,
            clock,
            turns: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            lease: RwLock::new(Tenure { lease, life: String::new(), begun: None, retake: None }),
            book: Mutex::default(),
            freed: watch::Sender::new(0),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moment(&self) -> Moment {
        Moment { monotonic: self.clock.monotonic(), wall_seconds: self.clock.now().seconds }
    }

    /// Whether fewer seconds than that have passed since, whichever clock is asked.
    fn is_within(&self, since: Moment, seconds: u64) -> bool {
        let now = self.moment();
        let wall = now.wall_seconds - since.wall_seconds;
        now.monotonic < since.monotonic + Duration::from_secs(seconds) && (0..seconds as i64).contains(&wall)
    }

    async fn ask<T>(&self, call: impl Future<Output = pgfiles_store::Result<T>>) -> Result<T> {
        Ok(self.patience.wait(call).await?)
    }

    /// Ranges locked through this mount.
    pub fn count(&self) -> u64 {
        self.book().files.values().map(|file| file.held.len() as u64).sum()
    }

    /// Changes whenever something that was locked through this mount is free.
    pub fn freed(&self) -> watch::Receiver<u64> {
        self.freed.subscribe()
    }

    /// Whether anything of a file is locked through this mount, or was when the lease was lost.
    pub fn concerns(&self, ino: u64) -> bool {
        let book = self.book();
        book.files.contains_key(&ino) || book.stale.contains(&ino)
    }

    /// Whether an owner has locked anything of a file.
    pub fn holds(&self, ino: u64, owner: u64) -> bool {
        self.book().files.get(&ino).is_some_and(|file| file.held.iter().any(|lock| lock.owner == owner))
    }

    /// Who has locked something of a file through a description.
    pub fn owners_through(&self, ino: u64, handle: HandleId) -> Vec<u64> {
        let book = self.book();
        let through = book.files.get(&ino).map(|file| &file.through);
        through.into_iter().flatten().filter(|(_, through)| *through == handle).map(|(owner, _)| *owner).collect()
    }

    /// Whether a lock that was held through a description is lost.
    pub fn is_lost(&self, handle: HandleId) -> bool {
        self.book().lost.contains(&handle)
    }

    /// The description is closed.
    pub fn forget(&self, handle: HandleId) {
        self.book().lost.remove(&handle);
    }

    /// Whether what is unpublished of a file was written under a lock that is lost; said once.
    pub fn take_stale(&self, ino: u64) -> bool {
        self.book().stale.remove(&ino)
    }

    /// A lock held through this mount that is in the way; no question to the server is needed while there is one.
    pub fn in_the_way(&self, ino: u64, change: &Change) -> Option<Lock> {
        let book = self.book();
        let held = book.files.get(&ino).map(|file| &file.held);
        let others = held.into_iter().flatten().filter(|lock| lock.owner != change.owner && change.conflicts(lock));
        others.min_by_key(|lock| lock.start).copied()
    }

    /// One try to lock or to unlock ranges. [`LockReply::LeaseLost`] is never said.
    ///
    /// # Errors
    /// The server is away: then nothing counts as locked, and what may have been is given back. [`VfsError::LockLost`] where
    /// the lease ran out under it.
    pub async fn change(&self, ino: u64, handle: HandleId, change: Change) -> Result<LockReply> {
        let _turn = self.turns[ino as usize % TURNS].lock().await;
        for _ in 0..LOSSES_MAX {
            self.confirm().await?;
            let tenure = self.lease.read().await;
            if tenure.retake.is_some() || self.book().doubt {
                continue;
            }
            let reply = self.ask(self.server.lock(&tenure.lease, ino, &[change])).await;
            let reply = reply.inspect_err(|_| self.book().doubt = true)?;
            match reply {
                LockReply::LeaseLost => {
                    self.book().doubt = true;
                    continue;
                }
                LockReply::Granted => self.write_down(ino, handle, &change),
                LockReply::Held(_) | LockReply::Full => return Ok(reply),
            }
            drop(tenure);
            if change.kind.is_some() {
                // The answer may have taken longer than the lease.
                self.confirm().await?;
                if self.is_lost(handle) {
                    return Err(VfsError::LockLost);
                }
            }
            return Ok(reply);
        }
        Err(VfsError::LockLost)
    }

    /// Unlocks all that an owner has locked of a file. Where the server is away it learns of it when it is back.
    pub async fn unlock_all(&self, ino: u64, owner: u64) {
        let _turn = self.turns[ino as usize % TURNS].lock().await;
        let tenure = self.lease.read().await;
        let change = Change::unlock_all(owner);
        if !self.holds(ino, owner) {
            return;
        }
        // While locks are being taken anew, this one is just not among them.
        if tenure.retake.is_none() {
            let reply = self.ask(self.server.lock(&tenure.lease, ino, &[change])).await;
            if !matches!(reply, Ok(LockReply::Granted)) {
                tracing::debug!(ino, ?reply, "a lock is given back later");
                self.book().doubt = true;
            }
        }
        self.write_down(ino, HandleId(0), &change);
    }

    fn write_down(&self, ino: u64, handle: HandleId, change: &Change) {
        let mut book = self.book();
        let file = book.files.entry(ino).or_default();
        lock::apply(&mut file.held, change);
        if change.kind.is_some() {
            file.through.insert((change.owner, handle));
        }
        let File { held, through } = file;
        through.retain(|(owner, _)| held.iter().any(|lock| lock.owner == *owner));
        if held.is_empty() {
            book.files.remove(&ino);
        }
        drop(book);
        self.freed.send_modify(|count| *count += 1);
    }

    /// The first lock anywhere that is in the way.
    pub async fn test(&self, ino: u64, change: &Change) -> Result<Option<Lock>> {
        if let Some(lock) = self.in_the_way(ino, change) {
            return Ok(Some(lock));
        }
        self.confirm().await?;
        let tenure = self.lease.read().await;
        self.ask(self.server.lock_test(&tenure.lease, ino, change)).await
    }

    /// Makes sure that what the book says is so: by our clock where that suffices, else by the server's word.
    ///
    /// # Errors
    /// The server is away.
    pub async fn confirm(&self) -> Result<()> {
        let sure = {
            let book = self.book();
            !book.doubt && book.renewed.is_some_and(|sent| self.is_within(sent, LEASE_SECONDS))
        };
        if sure { Ok(()) } else { self.renew().await }
    }

    /// Renews the lease if it is time: to be called every second.
    ///
    /// # Errors
    /// The server is away.
    pub async fn tick(&self) -> Result<()> {
        let due = {
            let book = self.book();
            let fresh = book.renewed.is_some_and(|sent| self.is_within(sent, LEASE_RENEW_SECONDS));
            book.doubt || !book.files.is_empty() && !fresh
        };
        if due { self.renew().await } else { Ok(()) }
    }

    async fn renew(&self) -> Result<()> {
        {
            let tenure = self.lease.read().await;
            if tenure.lease.number > 0 && tenure.retake.is_none() && !self.book().doubt {
                let sent = self.moment();
                let reply = self.ask(self.server.lease(&tenure.lease, LeaseCall::Renew)).await?;
                let mut book = self.book();
                if reply.kept && reply.life == tenure.life {
                    let newer = book.renewed.is_none_or(|renewed| renewed.monotonic < sent.monotonic);
                    book.renewed = if newer { Some(sent) } else { book.renewed };
                    return Ok(());
                }
                book.doubt = true;
            }
        }
        self.begin().await
    }

    /// Begins the next lease, and takes all locks anew under it if the last one was still there.
    async fn begin(&self) -> Result<()> {
        let mut tenure = self.lease.write().await;
        let tenure = &mut *tenure;
        if tenure.retake.is_none() {
            if tenure.lease.number > 0 && !self.book().doubt {
                return Ok(());
            }
            self.book().renewed = None;
            tenure.begun = Some(self.moment());
            let reply = self.ask(self.server.lease(&tenure.lease, LeaseCall::Next)).await?;
            tenure.lease.number += 1;
            tenure.life = reply.life;
            let mut book = self.book();
            book.doubt = false;
            let files: Vec<u64> = book.files.keys().copied().collect();
            if !reply.kept {
                files.iter().for_each(|ino| book.lose(*ino));
            }
            tenure.retake = reply.kept.then_some(files);
        }
        while let Some(&ino) = tenure.retake.as_ref().and_then(|files| files.last()) {
            let held: Vec<Change> =
                self.book().files.get(&ino).map(|file| file.held.iter().copied().map(Change::from).collect()).unwrap_or_default();
            let reply = self.ask(self.server.lock(&tenure.lease, ino, &held)).await?;
            match reply {
                LockReply::Granted => {}
                LockReply::Held(_) | LockReply::Full => self.book().lose(ino),
                LockReply::LeaseLost => return self.interrupted(tenure),
            }
            tenure.retake.as_mut().and_then(Vec::pop);
        }
        if tenure.retake.is_some() && !self.ask(self.server.lease(&tenure.lease, LeaseCall::Settle)).await?.kept {
            return self.interrupted(tenure);
        }
        tenure.retake = None;
        self.book().renewed = tenure.begun;
        self.freed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// The lease was revoked before it was settled: everything is lost, and the next try begins another.
    fn interrupted(&self, tenure: &mut Tenure) -> Result<()> {
        tenure.retake = None;
        let mut book = self.book();
        book.doubt = true;
        let files: Vec<u64> = book.files.keys().copied().collect();
        files.iter().for_each(|ino| book.lose(*ino));
        Err(VfsError::LockLost)
    }

    /// Gives all locks back at the end of the mount, also of one that waits for the server no more.
    ///
    /// # Errors
    /// The server is away; then they are free when the lease runs out.
    pub async fn end(&self) -> Result<()> {
        let mut tenure = self.lease.write().await;
        if tenure.lease.number > 0 {
            self.server.lease(&tenure.lease, LeaseCall::End).await?;
            tenure.retake = None;
            let mut book = self.book();
            book.files.clear();
            book.renewed = None;
            book.doubt = true;
        }
        Ok(())
    }
}

impl Book {
    fn lose(&mut self, ino: u64) {
        let Some(file) = self.files.remove(&ino) else { return };
        tracing::error!(
            ino,
            ranges = file.held.len(),
            "locks are lost: this mount was cut off from the server and others took them"
        );
        self.lost.extend(file.through.iter().map(|(_, handle)| *handle));
        self.stale.insert(ino);
    }
}

/// The end of a range, included, where it lies beyond the last byte that can be locked.
pub(crate) fn clamp(end: u64) -> u64 {
    end.min(OFFSET_MAX)
}
