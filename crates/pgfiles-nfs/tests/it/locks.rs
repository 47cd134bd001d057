//! Byte-range locks (§18.10 to §18.12), leases and courtesy (§8.4.2.4).

use std::time::{Duration, Instant};

use pgfiles_nfs::NfsConfig;
use pgfiles_testkit::nfs_client::{Claim, Client, Got, How, StateId, Xdr, op};

use crate::served::{served, served_with};

const DENIED: u32 = 10_010;
const ALL: (u64, u64) = (0, u64::MAX);

fn open(client: &mut Client, owner: &[u8]) -> StateId {
    client.run(|all| all.root().open(owner, (3, 0), &How::Create(vec![]), Claim::Name(b"f"))).ok().state()
}

#[test]
fn a_lock_keeps_others_out_until_it_is_given_back() {
    let served = served();
    let (mut a, mut b) = (served.client_of("a"), served.client_of("b"));
    let (open_a, open_b) = (open(&mut a, b"oa"), open(&mut b, b"ob"));
    let lock = a.run(|all| all.path("f").lock_new(2, false, (10, 10), open_a, b"pa")).ok().state();
    let denied = b.run(|all| all.path("f").lock_new(4, false, ALL, open_b, b"pb"));
    assert_eq!(denied.status, DENIED);
    let holder = Got::Denied { offset: 10, length: 10, kind: 2, client: a.id, owner: b"pa".to_vec() };
    assert_eq!(denied.last().got, holder);
    assert_eq!(b.run(|all| all.path("f").lockt(1, (19, 1), b"pb")).last().got, holder);
    b.run(|all| all.path("f").lockt(1, (20, 1), b"pb")).ok();
    let other = b.run(|all| all.path("f").lock_new(1, false, (20, 5), open_b, b"pb")).ok().state();
    // The middle of it: two ranges are left.
    let lock = a.run(|all| all.path("f").locku((12, 3), lock)).ok().state();
    b.run(|all| all.path("f").lock(2, (12, 3), other)).ok();
    a.run(|all| all.path("f").locku(ALL, lock)).ok();
    let lock = b.run(|all| all.path("f").lockt(2, ALL, b"pc"));
    assert_eq!(lock.status, DENIED, "another owner of the same client");
    // With the open go its locks.
    b.run(|all| all.path("f").close(open_b)).ok();
    a.run(|all| all.path("f").lockt(2, ALL, b"pc")).ok();
}

#[test]
fn ranges_that_make_no_sense() {
    let served = served();
    let mut a = served.client();
    let id = open(&mut a, b"o");
    for (range, status) in [((0, 0), 22), ((10, u64::MAX - 5), 22)] {
        assert_eq!(a.run(|all| all.path("f").lock_new(2, false, range, id, b"p")).status, status, "{range:?}");
    }
    a.run(|all| all.path("f").lock_new(2, false, (u64::MAX, u64::MAX), id, b"p")).ok();
    let status = a.run(|all| all.path("f").lock_new(9, false, (0, 1), id, b"p")).status;
    assert_eq!(status, 10_036, "NFS4ERR_BADXDR");
}

/// §18.38, §18.48.
#[test]
fn stateids_are_tested_and_freed() {
    let served = served();
    let mut a = served.client();
    let id = open(&mut a, b"o");
    let lock = a.run(|all| all.path("f").lock_new(2, false, (0, 1), id, b"p")).ok().state();
    let test = |ids: &[StateId]| ids.iter().fold(Xdr::default().u32(ids.len() as u32), |out, id| out.raw(id));
    let reply = a.run(|all| all.op(op::TEST_STATEID, test(&[id, lock, [7; 16]]))).ok();
    assert_eq!(*reply.of(op::TEST_STATEID), Got::Words(vec![0, 0, 10_025]));
    let free = |id: &StateId| Xdr::default().raw(id);
    assert_eq!(a.run(|all| all.op(op::FREE_STATEID, free(&lock))).status, 10_037, "NFS4ERR_LOCKS_HELD");
    let lock = a.run(|all| all.path("f").locku(ALL, lock)).ok().state();
    a.run(|all| all.op(op::FREE_STATEID, free(&lock))).ok();
    assert_eq!(a.run(|all| all.path("f").lock(2, (0, 1), lock)).status, 10_025, "NFS4ERR_BAD_STATEID");
}

/// §8.4.2.4, §8.4.3: a client that was silent for longer than its lease keeps what it has until another one wants it, and then
/// loses all; it is told so and begins anew (§18.46, NFS4ERR_BADSESSION).
#[test]
fn a_lease_that_ran_out_is_kept_until_another_wants_the_same() {
    const BADSESSION: u32 = 10_052;
    let served = served_with(NfsConfig { lease: Duration::from_secs(1), ..NfsConfig::default() });
    let (mut a, mut b, mut c) = (served.client_of("a"), served.client_of("b"), served.client_of("c"));
    let open_a = open(&mut a, b"oa");
    a.run(|all| all.path("f").lock_new(2, false, (0, 10), open_a, b"pa")).ok();
    a.run(|all| all.path("f").write(open_a, 0, 0, b"unpublished")).ok();
    let kept = c.run(|all| all.root().open(b"oc", (3, 0), &How::Create(vec![]), Claim::Name(b"g"))).ok().state();
    let open_b = open(&mut b, b"ob");
    let lock = |b: &mut Client| b.run(|all| all.path("f").lock_new(2, false, (5, 1), open_b, b"pb")).status;
    let begun = Instant::now();
    assert_eq!(lock(&mut b), DENIED, "within the lease");
    while lock(&mut b) == DENIED {
        assert!(begun.elapsed() < Duration::from_secs(20), "the lock is never free");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
    assert_eq!(a.run(|all| all.path("f")).status, BADSESSION);
    assert_eq!(served.versions("f"), 1, "what it had written is published");
    let text = b.run(|all| all.path("f").read(open_b, 0, 20)).ok();
    assert!(matches!(text.last().got, Got::Read { ref data, .. } if data == b"unpublished"), "{text:?}");
    // Nobody wants what the third has.
    c.run(|all| all.path("g").write(kept, 0, 2, b"still mine")).ok();
    let mut again = Client::new(served.connect(), b"a", 1);
    open(&mut again, b"oa");
}
