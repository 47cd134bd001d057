//! Locks in memory: see [`crate::lock`].

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;

use super::{MemStore, State};
use crate::error::Result;
use crate::lock::{Change, LEASE_SECONDS, Lease, LeaseCall, LeaseReply, Lock, LockReply, Locks, RANGES_MAX, apply};
use crate::version::Timestamp;

/// A mount of a prefix.
type Place = (String, String);

#[derive(Default)]
pub(super) struct LockBook {
    leases: HashMap<Place, LeaseRow>,
    /// By prefix and inode number; then by mount and number of its lease.
    files: HashMap<(String, u64), Held>,
}

type Held = BTreeMap<(String, u64), Vec<Lock>>;

struct LeaseRow {
    number: u64,
    /// `None`: revoked.
    beat: Option<Timestamp>,
    kept: bool,
}

fn place(lease: &Lease) -> Place {
    (lease.prefix.to_string(), lease.mount.to_string())
}

impl LeaseRow {
    /// Whether it is that lease, or the one after it whose mount has not taken all locks anew yet.
    fn carries(&self, number: u64) -> bool {
        self.number == number || self.number == number + 1 && self.kept
    }

    fn has_expired(&self, now: Timestamp) -> bool {
        self.beat.is_none_or(|beat| now.seconds - beat.seconds >= LEASE_SECONDS as i64)
    }
}

impl LockBook {
    fn call(&mut self, lease: &Lease, call: LeaseCall, now: Timestamp) -> bool {
        let row = self.leases.get_mut(&place(lease)).filter(|row| row.beat.is_some());
        match call {
            LeaseCall::Renew => row.filter(|row| row.number == lease.number).is_some_and(|row| {
                row.beat = Some(now);
                true
            }),
            LeaseCall::Next => {
                let kept = row.is_some_and(|row| row.number == lease.number || row.number == lease.number + 1 && row.kept);
                self.leases.insert(place(lease), LeaseRow { number: lease.number + 1, beat: Some(now), kept });
                kept
            }
            LeaseCall::Settle => row.filter(|row| row.number == lease.number).is_some_and(|row| {
                row.kept = false;
                true
            }),
            LeaseCall::End => row.filter(|row| row.number == lease.number).is_some_and(|row| row.beat.take().is_some()),
        }
    }

    fn is_current(&self, lease: &Lease) -> bool {
        self.leases.get(&place(lease)).is_some_and(|row| row.number == lease.number && row.beat.is_some())
    }

    /// Whether locks of a lease count; one that has expired is revoked.
    fn is_alive(leases: &mut HashMap<Place, LeaseRow>, prefix: &str, (mount, number): &(String, u64), now: Timestamp) -> bool {
        let Some(row) = leases.get_mut(&(prefix.to_owned(), mount.clone())) else { return false };
        if !row.carries(*number) {
            return false;
        }
        if row.has_expired(now) {
            row.beat = None;
        }
        row.beat.is_some()
    }

    fn lock(&mut self, lease: &Lease, ino: u64, changes: &[Change], now: Timestamp) -> LockReply {
        if !self.is_current(lease) {
            return LockReply::LeaseLost;
        }
        let (prefix, mount) = place(lease);
        let me = (mount, lease.number);
        let held = self.files.entry((prefix.clone(), ino)).or_default();
        held.retain(
            |whose, _| if whose.0 == me.0 { *whose == me } else { Self::is_alive(&mut self.leases, &prefix, whose, now) },
        );
        let mut after = held.clone();
        for change in changes {
            if let Some(lock) = in_the_way(&after, &me.0, change) {
                return LockReply::Held(lock);
            }
            let before: usize = after.values().map(Vec::len).sum();
            apply(after.entry(me.clone()).or_default(), change);
            let count: usize = after.values().map(Vec::len).sum();
            if count > RANGES_MAX && count > before {
                return LockReply::Full;
            }
        }
        *held = after;
        LockReply::Granted
    }

    fn test(&self, lease: &Lease, ino: u64, change: &Change, now: Timestamp) -> Option<Lock> {
        let (prefix, mount) = place(lease);
        let mut held = self.files.get(&(prefix.clone(), ino))?.clone();
        held.retain(|whose, _| {
            let row = self.leases.get(&(prefix.clone(), whose.0.clone()));
            row.is_some_and(|row| row.carries(whose.1) && !row.has_expired(now))
        });
        in_the_way(&held, &mount, change)
    }
}

/// The first lock by start that is in the way of a change by `mount`.
fn in_the_way(held: &Held, mount: &str, change: &Change) -> Option<Lock> {
    let all = held.iter().flat_map(|(whose, locks)| locks.iter().map(move |lock| (whose, lock)));
    let others = all.filter(|(whose, lock)| !(whose.0 == mount && lock.owner == change.owner) && change.conflicts(lock));
    others.map(|(_, lock)| *lock).min_by_key(|lock| lock.start)
}

impl MemStore {
    fn book<T>(&self, act: impl FnOnce(&mut LockBook, Timestamp) -> T) -> T {
        let now = self.clock.now();
        let State { locks, .. } = &mut *self.state();
        act(locks, now)
    }
}

#[async_trait]
impl Locks for MemStore {
    async fn lease(&self, lease: &Lease, call: LeaseCall) -> Result<LeaseReply> {
        let kept = self.book(|book, now| book.call(lease, call, now));
        Ok(LeaseReply { kept, life: self.state().life() })
    }

    async fn lock(&self, lease: &Lease, ino: u64, changes: &[Change]) -> Result<LockReply> {
        Ok(self.book(|book, now| book.lock(lease, ino, changes, now)))
    }

    async fn lock_test(&self, lease: &Lease, ino: u64, change: &Change) -> Result<Option<Lock>> {
        Ok(self.book(|book, now| book.test(lease, ino, change, now)))
    }
}
