//! Locks of files across mounts: ranges, owners, leases.
#![allow(missing_docs)] // the names say it

use super::*;

use pgfiles_store::lock::{Change, Lease, LeaseCall, Lock, LockKind, LockReply, OFFSET_MAX, RANGES_MAX};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const INO: u64 = u64::MAX - 7;
/// What no i64 and no JavaScript number holds.
const OWNER: u64 = 0xF00D_F00D_F00D_F00D;

async fn lease(t: &Tester, mount: &str) -> Lease {
    let before = Lease { prefix: dir(""), mount: mount.into(), number: 0 };
    assert!(!t.server.lease(&before, LeaseCall::Next).await.unwrap().kept, "there was none before");
    Lease { number: 1, ..before }
}

fn change(owner: u64, start: u64, end: u64, kind: Option<LockKind>) -> Change {
    Change { owner, start, end, kind, pid: 42 }
}

fn write(owner: u64, start: u64, end: u64) -> Change {
    change(owner, start, end, Some(LockKind::Exclusive))
}

fn read(owner: u64, start: u64, end: u64) -> Change {
    change(owner, start, end, Some(LockKind::Shared))
}

async fn lock(t: &Tester, lease: &Lease, change: Change) -> LockReply {
    t.server.lock(lease, INO, &[change]).await.unwrap()
}

async fn is_free(t: &Tester, lease: &Lease, change: Change) -> bool {
    t.server.lock_test(lease, INO, &change).await.unwrap().is_none()
}

pub async fn a_lock_keeps_others_out(t: Tester) {
    let (one, two) = (lease(&t, "one").await, lease(&t, "two").await);
    assert_eq!(lock(&t, &one, write(OWNER, 10, 19)).await, LockReply::Granted);
    let held = Lock { owner: OWNER, start: 10, end: 19, kind: LockKind::Exclusive, pid: 42 };
    assert_eq!(lock(&t, &two, read(OWNER, 19, 30)).await, LockReply::Held(held), "the same owner of another mount is another");
    assert_eq!(lock(&t, &one, read(1, 0, OFFSET_MAX)).await, LockReply::Held(held), "another owner of the same mount");
    assert_eq!(t.server.lock_test(&two, INO, &read(1, 0, 10)).await.unwrap(), Some(held));
    assert_eq!(t.server.lock_test(&one, INO, &write(OWNER, 0, 10)).await.unwrap(), None, "nobody is in their own way");
    assert_eq!(lock(&t, &two, write(1, 0, 9)).await, LockReply::Granted);
    assert_eq!(lock(&t, &two, write(1, 20, OFFSET_MAX)).await, LockReply::Granted);
    assert_eq!(t.server.lock(&two, INO - 1, &[write(1, 0, OFFSET_MAX)]).await.unwrap(), LockReply::Granted, "another file");
    assert_eq!(lock(&t, &one, Change::unlock_all(OWNER)).await, LockReply::Granted);
    assert_eq!(lock(&t, &two, read(1, 10, 19)).await, LockReply::Granted);
}

pub async fn readers_share_and_upgrade(t: Tester) {
    let (one, two) = (lease(&t, "one").await, lease(&t, "two").await);
    assert_eq!(lock(&t, &one, read(1, 0, 9)).await, LockReply::Granted);
    assert_eq!(lock(&t, &two, read(2, 5, 14)).await, LockReply::Granted);
    assert!(matches!(lock(&t, &one, write(1, 5, 5)).await, LockReply::Held(_)));
    assert_eq!(lock(&t, &one, write(1, 0, 4)).await, LockReply::Granted, "where nobody else reads");
    assert_eq!(lock(&t, &one, read(1, 0, 4)).await, LockReply::Granted, "and back");
    assert_eq!(lock(&t, &two, read(2, 0, 4)).await, LockReply::Granted);
    assert_eq!(lock(&t, &two, Change::unlock_all(2)).await, LockReply::Granted);
    assert_eq!(lock(&t, &one, write(1, 0, OFFSET_MAX)).await, LockReply::Granted);
}

pub async fn changes_are_all_or_none(t: Tester) {
    let (one, two) = (lease(&t, "one").await, lease(&t, "two").await);
    assert_eq!(lock(&t, &two, write(2, 50, 59)).await, LockReply::Granted);
    let reply = t.server.lock(&one, INO, &[write(1, 0, 9), write(1, 50, 50)]).await.unwrap();
    assert!(matches!(reply, LockReply::Held(_)));
    assert!(is_free(&t, &two, write(2, 0, 9)).await, "the first was not carried out either");
    assert_eq!(t.server.lock(&one, INO, &[write(1, 0, 9), write(3, 20, 29)]).await.unwrap(), LockReply::Granted);
    assert!(!is_free(&t, &two, write(2, 9, 9)).await && !is_free(&t, &two, write(2, 20, 20)).await);
}

pub async fn a_lease_that_ended_holds_nothing(t: Tester) {
    let (one, two) = (lease(&t, "one").await, lease(&t, "two").await);
    assert_eq!(lock(&t, &one, write(1, 0, 9)).await, LockReply::Granted);
    assert!(t.server.lease(&one, LeaseCall::Renew).await.unwrap().kept);
    assert!(t.server.lease(&one, LeaseCall::End).await.unwrap().kept);
    assert!(is_free(&t, &two, write(2, 0, 9)).await);
    assert_eq!(lock(&t, &two, write(2, 0, 9)).await, LockReply::Granted);
    assert_eq!(lock(&t, &one, read(1, 90, 99)).await, LockReply::LeaseLost);
    assert!(!t.server.lease(&one, LeaseCall::Renew).await.unwrap().kept, "it does not come back");
    assert!(!t.server.lease(&one, LeaseCall::Next).await.unwrap().kept);
    let next = Lease { number: 2, ..one.clone() };
    assert!(matches!(lock(&t, &next, write(1, 0, 9)).await, LockReply::Held(_)));
    assert_eq!(lock(&t, &one, read(1, 90, 99)).await, LockReply::LeaseLost);
    assert_eq!(lock(&t, &next, write(1, 10, 19)).await, LockReply::Granted);
}

/// A mount that is not sure what the server has of its locks begins the next lease and takes them again.
pub async fn the_next_lease_leaves_the_locks_of_the_last_behind(t: Tester) {
    let (one, two) = (lease(&t, "one").await, lease(&t, "two").await);
    t.server.lock(&one, INO, &[write(1, 0, 9), write(2, 20, 29)]).await.unwrap();
    for _ in 0..2 {
        assert!(t.server.lease(&one, LeaseCall::Next).await.unwrap().kept, "also where it is sent twice");
    }
    let next = Lease { number: 2, ..one.clone() };
    assert!(!is_free(&t, &two, write(3, 0, 9)).await && !is_free(&t, &two, write(3, 20, 29)).await, "nobody slips in between");
    assert_eq!(lock(&t, &next, write(1, 0, 9)).await, LockReply::Granted);
    assert_eq!(t.server.lock(&next, INO - 1, &[write(4, 0, 9)]).await.unwrap(), LockReply::Granted);
    assert!(!t.server.lease(&one, LeaseCall::Settle).await.unwrap().kept, "that is over");
    assert!(t.server.lease(&next, LeaseCall::Settle).await.unwrap().kept);
    assert!(!is_free(&t, &two, write(3, 0, 9)).await);
    assert!(is_free(&t, &two, write(3, 20, 29)).await, "what was not taken again is free");
}

pub async fn there_is_an_end_to_ranges(t: Tester) {
    let one = lease(&t, "one").await;
    let many: Vec<Change> = (0..RANGES_MAX as u64).map(|at| write(1, at * 2, at * 2)).collect();
    assert_eq!(t.server.lock(&one, INO, &many).await.unwrap(), LockReply::Granted);
    assert_eq!(lock(&t, &one, write(1, 5000, 5000)).await, LockReply::Full);
    assert_eq!(lock(&t, &one, write(1, 0, OFFSET_MAX)).await, LockReply::Granted, "fewer always fit");
    assert_eq!(lock(&t, &one, Change::unlock_all(1)).await, LockReply::Granted);
}

/// Against a model that keeps what is locked byte by byte.
pub async fn random_ranges_match_single_bytes(t: Tester) {
    const BYTES: u64 = 12;
    const STEPS: usize = 150;
    let seed = std::env::var("PGFILES_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("PGFILES_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mounts = [lease(&t, "one").await, lease(&t, "two").await];
    let probe = lease(&t, "probe").await;
    // By mount and owner, then byte.
    let mut model = [[[None::<LockKind>; BYTES as usize]; 2]; 2];
    for step in 0..STEPS {
        let (mount, owner) = (rng.random_range(0..2_usize), rng.random_range(0..2_usize));
        let (a, b) = (rng.random_range(0..BYTES), rng.random_range(0..BYTES));
        let kind = [None, Some(LockKind::Shared), Some(LockKind::Exclusive)][rng.random_range(0..3_usize)];
        let wanted = change(owner as u64, a.min(b), a.max(b), kind);
        let range = wanted.start as usize..=wanted.end as usize;
        let others = (0..4).map(|who| (who / 2, who % 2)).filter(|who| *who != (mount, owner));
        let in_the_way = |held: &Option<LockKind>| {
            held.is_some() && kind.is_some() && (*held == Some(LockKind::Exclusive) || kind == Some(LockKind::Exclusive))
        };
        let refused = others.clone().any(|(m, o)| model[m][o][range.clone()].iter().any(in_the_way));
        let reply = lock(&t, &mounts[mount], wanted).await;
        assert_eq!(matches!(reply, LockReply::Held(_)), refused, "step {step}: {wanted:?} answered {reply:?}");
        if !refused {
            model[mount][owner][range].fill(kind);
        }
        for byte in 0..BYTES {
            let at = |kind: LockKind| model.iter().flatten().any(|bytes| bytes[byte as usize] == Some(kind));
            let (shared, exclusive) = (at(LockKind::Shared), at(LockKind::Exclusive));
            assert_eq!(is_free(&t, &probe, write(9, byte, byte)).await, !shared && !exclusive, "step {step}, byte {byte}");
            assert_eq!(is_free(&t, &probe, read(9, byte, byte)).await, !exclusive, "step {step}, byte {byte}");
        }
    }
}

/// Of many who want the same at once, one gets it.
pub async fn one_of_many_gets_the_lock(t: Tester) {
    let mut leases = Vec::new();
    for mount in 0..8 {
        leases.push(lease(&t, &format!("m{mount}")).await);
    }
    for round in 0..10 {
        let ask = |lease: &Lease| {
            let (server, lease) = (t.server.clone(), lease.clone());
            tokio::spawn(async move { server.lock(&lease, round, &[write(1, 0, OFFSET_MAX)]).await.unwrap() })
        };
        let asked: Vec<_> = leases.iter().map(ask).collect();
        let mut granted = 0;
        for task in asked {
            granted += u32::from(task.await.unwrap() == LockReply::Granted);
        }
        assert_eq!(granted, 1, "round {round}");
    }
}
