//! Locks of files that hold across the mounts of one prefix: what is asked, what is answered, and which ranges are held
//! after a change. Pure but for the trait; both stores use it or are tested against it.
//!
//! A lock belongs to an owner of a mount, and counts as long as the mount's *lease* does. A lease is renewed by its mount;
//! one that was not for [`LEASE_SECONDS`] is revoked by whoever meets a lock of it, and can then never be renewed: its mount
//! begins the next one and knows that its locks are lost. One that nobody met is renewed however late.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;
use crate::key::Prefix;

/// After how many seconds without renewal, by the server's clock, locks of a mount count no more.
pub const LEASE_SECONDS: u64 = 15;
/// How often a mount that holds locks renews its lease.
pub const LEASE_RENEW_SECONDS: u64 = 3;
/// Ranges locked in one file, over all mounts and owners. One more is refused: [`LockReply::Full`].
pub const RANGES_MAX: usize = 250;
/// The last byte that can be locked: `OFFSET_MAX` of Linux. A lock up to here is one without end.
pub const OFFSET_MAX: u64 = i64::MAX as u64;

/// What the locks of a mount hang on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Mounts of this very prefix see each other's locks.
    pub prefix: Prefix,
    /// The mount.
    pub mount: Arc<str>,
    /// Which of its leases, from 1. Locks of an earlier one do not count.
    pub number: u64,
}

/// What becomes of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseCall {
    /// Goes on.
    Renew,
    /// Becomes the one with the next number: where the mount is not sure which of its locks the server has, it takes them
    /// anew. Until [`LeaseCall::Settle`] those of this one count as well, but not against the mount.
    Next,
    /// The locks of the one before count no more.
    Settle,
    /// Ends, and all locks with it.
    End,
}

/// What the server says of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseReply {
    /// Whether the lease that was named, and so each of its locks, was still there. After [`LeaseCall::Next`] the next one
    /// is there in any case.
    pub kept: bool,
    /// Changes when the server may have forgotten what was committed last.
    pub life: String,
}

/// How a range is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// For reading: others may lock it for reading too.
    Shared,
    /// For writing.
    Exclusive,
}

/// A locked range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Whose, within a mount: a process or an open file description.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte, included; [`OFFSET_MAX`] for no end.
    pub end: u64,
    /// How.
    pub kind: LockKind,
    /// The process that asked for it, on the machine of its mount.
    pub pid: u32,
}

/// A range to be locked, or unlocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// See [`Lock::owner`].
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte, included, at most [`OFFSET_MAX`].
    pub end: u64,
    /// `None`: unlocked. Else what was locked by this owner in the range before is replaced, in one step.
    pub kind: Option<LockKind>,
    /// See [`Lock::pid`].
    pub pid: u32,
}

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockReply {
    /// Carried out.
    Granted,
    /// Somebody else's lock is in the way; nothing was changed.
    Held(Lock),
    /// More than [`RANGES_MAX`]; nothing was changed.
    Full,
    /// The lease was revoked, or is not the newest of its mount; nothing was changed.
    LeaseLost,
}

/// Locks across the mounts of a prefix. All methods may be repeated: the second time changes nothing.
#[async_trait]
pub trait Locks: Send + Sync + 'static {
    /// Renews, replaces or ends a lease. One round trip.
    async fn lease(&self, lease: &Lease, call: LeaseCall) -> Result<LeaseReply>;

    /// Locks and unlocks ranges of the file with that inode number: all of the changes or none. One round trip; a lock that
    /// is granted is on the server's disk.
    async fn lock(&self, lease: &Lease, ino: u64, changes: &[Change]) -> Result<LockReply>;

    /// The first lock by start that is in the way of a change; `None` where there is none. One round trip.
    async fn lock_test(&self, lease: &Lease, ino: u64, change: &Change) -> Result<Option<Lock>>;
}

impl Change {
    /// Everything that an owner has locked in a file is unlocked.
    pub fn unlock_all(owner: u64) -> Self {
        Self { owner, start: 0, end: OFFSET_MAX, kind: None, pid: 0 }
    }

    /// Whether a lock of another owner is in the way.
    pub fn conflicts(&self, held: &Lock) -> bool {
        let either_writes = held.kind == LockKind::Exclusive || self.kind == Some(LockKind::Exclusive);
        self.kind.is_some() && either_writes && held.start <= self.end && held.end >= self.start
    }
}

impl From<Lock> for Change {
    fn from(lock: Lock) -> Self {
        let Lock { owner, start, end, kind, pid } = lock;
        Self { owner, start, end, kind: Some(kind), pid }
    }
}

/// Carries out a change in the locks of one mount in one file, in order of owner and start: ranges are cut, replaced, and
/// joined with what is locked in the same way beside them (`man 2 fcntl`).
pub fn apply(held: &mut Vec<Lock>, change: &Change) {
    let (mut start, mut end) = (change.start, change.end);
    if let Some(kind) = change.kind {
        for lock in held.iter().filter(|lock| lock.owner == change.owner && lock.kind == kind) {
            if lock.start <= change.end.saturating_add(1) && lock.end.saturating_add(1) >= change.start {
                (start, end) = (start.min(lock.start), end.max(lock.end));
            }
        }
    }
    let mut after = Vec::with_capacity(held.len() + 2);
    for lock in held.drain(..) {
        if lock.owner != change.owner || lock.end < start || lock.start > end {
            after.push(lock);
            continue;
        }
        if lock.start < start {
            after.push(Lock { end: start - 1, ..lock });
        }
        if lock.end > end {
            after.push(Lock { start: end + 1, ..lock });
        }
    }
    if let Some(kind) = change.kind {
        after.push(Lock { owner: change.owner, start, end, kind, pid: change.pid });
    }
    after.sort_by_key(|lock| (lock.owner, lock.start));
    *held = after;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES: u64 = 24;

    fn change() -> impl Strategy<Value = Change> {
        let kind = prop_oneof![Just(None), Just(Some(LockKind::Shared)), Just(Some(LockKind::Exclusive))];
        (0..3_u64, 0..BYTES, 0..BYTES, kind).prop_map(|(owner, a, b, kind)| Change {
            owner,
            start: a.min(b),
            end: a.max(b),
            kind,
            pid: 1,
        })
    }

    proptest! {
        /// Against a model that keeps what is locked byte by byte.
        #[test]
        fn ranges_are_what_single_bytes_would_be(changes in proptest::collection::vec(change(), 1..40)) {
            let mut model = [[None; BYTES as usize]; 3];
            let mut held = Vec::new();
            for change in changes {
                apply(&mut held, &change);
                model[change.owner as usize][change.start as usize..=change.end as usize].fill(change.kind);
                for owner in 0..3 {
                    for byte in 0..BYTES {
                        let over: Vec<_> = held.iter().filter(|l| l.owner == owner && l.start <= byte && byte <= l.end).collect();
                        prop_assert!(over.len() <= 1);
                        prop_assert_eq!(over.first().map(|lock| lock.kind), model[owner as usize][byte as usize]);
                    }
                }
                let joined = |pair: &[Lock]| pair[0].owner == pair[1].owner && pair[0].kind == pair[1].kind
                    && pair[0].end + 1 == pair[1].start;
                prop_assert!(!held.windows(2).any(joined), "neighbours are one: {:?}", held);
            }
        }
    }

    #[test]
    fn the_last_byte_is_a_byte() {
        let mut held = Vec::new();
        let all = Change { kind: Some(LockKind::Exclusive), ..Change::unlock_all(1) };
        apply(&mut held, &all);
        apply(&mut held, &Change { start: 5, end: 9, kind: None, ..all });
        assert_eq!(held.iter().map(|lock| (lock.start, lock.end)).collect::<Vec<_>>(), [(0, 4), (10, OFFSET_MAX)]);
        apply(&mut held, &Change::unlock_all(1));
        assert!(held.is_empty());
    }
}
