//! Locks on the server: leases that run out, roles with a grant, what the sweep leaves.

use std::sync::Arc;

use pgfiles_store::Prefix;
use pgfiles_store::lock::{Change, LEASE_SECONDS, Lease, LeaseCall, LockKind, LockReply, Locks, OFFSET_MAX, RANGES_MAX};
use pgfiles_store::mem::MemStore;
use pgfiles_store::pg::{PgOptions, PgStore};
use pgfiles_store::store::{Maintenance, Server as _};
use pgfiles_testkit::clock::TestClock;
use pgfiles_testkit::postgres::{Database, Postgres};
use uuid::Uuid;

use crate::pg_store::initialise;

const ALL: Change = Change { owner: 1, start: 0, end: OFFSET_MAX, kind: Some(LockKind::Exclusive), pid: 1 };

fn first(mount: &str) -> Lease {
    Lease { prefix: Prefix::new("agents/7").unwrap(), mount: mount.into(), number: 1 }
}

async fn begin(server: &impl Locks, mount: &str) -> Lease {
    let lease = first(mount);
    server.lease(&Lease { number: 0, ..lease.clone() }, LeaseCall::Next).await.unwrap();
    lease
}

async fn store() -> (Database, PgStore) {
    let database = Postgres::shared().database().await;
    initialise(&database.dsn()).await;
    let store = PgStore::connect(&database.dsn(), PgOptions::default()).await.unwrap();
    (database, store)
}

/// As if a mount had been silent for so long.
async fn silent_for(database: &Database, mount: &str, seconds: u64) {
    let sql = format!(
        "UPDATE pgfiles SET meta = meta || jsonb_build_object('beat', to_char((clock_timestamp() - interval '{seconds} s')
           AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')) WHERE key = '/agents/7//lease/{mount}'"
    );
    database.connect().await.batch_execute(&sql).await.unwrap();
}

#[tokio::test]
async fn a_silent_mount_loses_its_locks_to_who_asks() {
    let (database, store) = store().await;
    let (one, two) = (begin(&store, "one").await, begin(&store, "two").await);
    assert_eq!(store.lock(&one, 5, &[ALL]).await.unwrap(), LockReply::Granted);
    silent_for(&database, "one", LEASE_SECONDS - 3).await;
    assert!(matches!(store.lock(&two, 5, &[ALL]).await.unwrap(), LockReply::Held(_)), "not yet");
    silent_for(&database, "one", LEASE_SECONDS + 1).await;
    assert_eq!(store.lock_test(&two, 5, &ALL).await.unwrap(), None);
    assert!(store.lease(&one, LeaseCall::Renew).await.unwrap().kept, "nobody took anything: late is not too late");
    assert!(matches!(store.lock(&two, 5, &[ALL]).await.unwrap(), LockReply::Held(_)));
    silent_for(&database, "one", LEASE_SECONDS + 1).await;
    assert_eq!(store.lock(&two, 5, &[ALL]).await.unwrap(), LockReply::Granted);
    assert!(!store.lease(&one, LeaseCall::Renew).await.unwrap().kept, "now it is");
    assert_eq!(store.lock(&one, 6, &[ALL]).await.unwrap(), LockReply::LeaseLost);
    assert!(!store.lease(&one, LeaseCall::Next).await.unwrap().kept);
}

/// The same on the reference.
#[tokio::test]
async fn a_silent_mount_loses_its_locks_in_memory_too() {
    let clock = Arc::new(TestClock::new(1));
    let store = MemStore::with_clock(clock.clone());
    let (one, two) = (begin(&store, "one").await, begin(&store, "two").await);
    assert_eq!(store.lock(&one, 5, &[ALL]).await.unwrap(), LockReply::Granted);
    clock.advance(std::time::Duration::from_secs(LEASE_SECONDS + 1));
    assert_eq!(store.lock_test(&two, 5, &ALL).await.unwrap(), None);
    assert!(store.lease(&one, LeaseCall::Renew).await.unwrap().kept);
    assert!(matches!(store.lock(&two, 5, &[ALL]).await.unwrap(), LockReply::Held(_)));
    clock.advance(std::time::Duration::from_secs(LEASE_SECONDS + 1));
    assert_eq!(store.lock(&two, 5, &[ALL]).await.unwrap(), LockReply::Granted);
    assert!(!store.lease(&one, LeaseCall::Renew).await.unwrap().kept);
}

/// A renewal under way and somebody who finds the lease expired: one of them waits, and then knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_revokes_waits_for_a_renewal() {
    let (database, store) = store().await;
    let (one, two) = (begin(&store, "one").await, begin(&store, "two").await);
    assert_eq!(store.lock(&one, 5, &[ALL]).await.unwrap(), LockReply::Granted);
    silent_for(&database, "one", LEASE_SECONDS + 1).await;
    let client = database.connect().await;
    client.batch_execute("BEGIN; SELECT pgfiles_lease('agents/7/', 'one', 1, 'renew')").await.unwrap();
    let store = Arc::new(store);
    let asking = tokio::spawn({
        let store = store.clone();
        async move { store.lock(&two, 5, &[ALL]).await.unwrap() }
    });
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while !client.query_one(waits, &[]).await.unwrap().get::<_, bool>(0) {
        tokio::task::yield_now().await;
    }
    client.batch_execute("COMMIT").await.unwrap();
    assert!(matches!(asking.await.unwrap(), LockReply::Held(_)), "it was alive after all");
}

#[tokio::test]
async fn a_role_with_a_grant_locks() {
    let (database, store) = store().await;
    let role = format!("agent_{}", Uuid::new_v4().simple());
    let owner = database.connect().await;
    owner.batch_execute(&format!("CREATE ROLE {role} LOGIN; SELECT pgfiles_grant('{role}', 'agents/7')")).await.unwrap();
    let dsn = database.dsn().replace("user=postgres", &format!("user={role}"));
    let fenced = PgStore::connect(&dsn, PgOptions::default()).await.unwrap();
    let (one, two) = (begin(&store, "one").await, begin(&fenced, "two").await);
    assert_eq!(fenced.lock(&two, 5, &[ALL]).await.unwrap(), LockReply::Granted);
    assert!(matches!(store.lock(&one, 5, &[ALL]).await.unwrap(), LockReply::Held(_)));
    assert_eq!(fenced.lock(&two, 5, &[Change::unlock_all(1)]).await.unwrap(), LockReply::Granted);
    assert_eq!(store.lock(&one, 5, &[ALL]).await.unwrap(), LockReply::Granted);
    assert!(matches!(fenced.lock(&two, 5, &[ALL]).await.unwrap(), LockReply::Held(_)));
    silent_for(&database, "one", LEASE_SECONDS + 1).await;
    assert_eq!(fenced.lock(&two, 5, &[ALL]).await.unwrap(), LockReply::Granted, "it may revoke what has run out");
    assert!(fenced.lease(&two, LeaseCall::Renew).await.unwrap().kept);
    assert!(fenced.lease(&two, LeaseCall::Next).await.unwrap().kept);
    assert!(fenced.lease(&Lease { number: 2, ..two }, LeaseCall::End).await.unwrap().kept);
    let other = Lease { prefix: Prefix::new("agents/8").unwrap(), ..first("two") };
    let refused = fenced.lease(&other, LeaseCall::Next).await.unwrap_err();
    assert_eq!(refused.kind(), pgfiles_store::error::Kind::Forbidden, "{refused}");
}

#[tokio::test]
async fn rows_of_files_that_nobody_locks_are_swept() {
    let (database, store) = store().await;
    let (one, two) = (begin(&store, "one").await, begin(&store, "two").await);
    for (lease, ino) in [(&one, 1), (&one, 2), (&two, 3)] {
        assert_eq!(store.lock(lease, ino, &[ALL]).await.unwrap(), LockReply::Granted);
    }
    store.lock(&one, 2, &[Change::unlock_all(1)]).await.unwrap();
    silent_for(&database, "two", 2 * 86_400).await;
    store.maintain(&one.prefix, "one", Maintenance::Sweep).await.unwrap();
    let rows = database.connect().await.query("SELECT key FROM pgfiles ORDER BY key", &[]).await.unwrap();
    let keys: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(keys, ["/agents/7//lease/one", "/agents/7//lock/1"]);
}

/// Constants stand in SQL as well.
#[test]
fn sql_and_code_agree() {
    let sql = include_str!("../../src/pg/schema/lock.sql");
    assert_eq!(sql.matches(&format!("interval '{LEASE_SECONDS} seconds'")).count(), 2);
    assert!(sql.contains(&format!("jsonb_array_length(locks) > {RANGES_MAX} ")));
}
