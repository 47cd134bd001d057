//! Connections that die at random while many write: whatever was acknowledged is there, once, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgfiles_store::batch::{Batch, Durability, Op, Outcome, Precondition, Rename, RenameDir};
use pgfiles_store::layer::retry::Retry;
use pgfiles_store::pg::{PgOptions, PgStore};
use pgfiles_store::{Prefix, Store as _, VersionId};
use pgfiles_testkit::postgres::{Database, Postgres};
use uuid::Uuid;

use crate::pg_store::{batch, initialise, key, put};

/// How many writers, and how many changes each makes.
const WRITERS: usize = 6;
const CHANGES: usize = 40;

fn id() -> VersionId {
    VersionId(Uuid::now_v7())
}

fn rename(from: &str, to: &str) -> Op {
    Op::Rename(Rename {
        id: id(),
        history: id(),
        from: key(from),
        to: key(to),
        expect_from: Precondition::Any,
        expect_to: Precondition::Absent,
        young: None,
        ctime: None,
    })
}

fn rename_dir(from: &str, to: &str) -> Op {
    let dir = |text: &str| Prefix::new(text).unwrap();
    Op::RenameDir(RenameDir { id: id(), from: dir(from), to: dir(to), young: None, to_absent: true })
}

/// Ends sessions at random until it is told to stop; how many.
async fn killer(database: &Database, stop: &AtomicBool) -> u64 {
    let client = database.connect().await;
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
                AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND state = 'active' ORDER BY random() LIMIT 1) AS busy";
    let mut killed = 0;
    while !stop.load(Ordering::Acquire) {
        killed += client.query_one(kill, &[]).await.unwrap().get::<_, i64>(0) as u64;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    killed
}

/// One writer: shared files, a file of its own that is renamed, a directory of its own that is renamed.
async fn write(store: &Retry, writer: usize) -> BTreeMap<String, u64> {
    let mut acknowledged = BTreeMap::new();
    let commit = async |ops: Vec<Op>| -> Vec<Outcome> { store.commit(batch(ops, Durability::Async)).await.unwrap() };
    commit(vec![put(&format!("w{writer}/file0"), b"own"), put(&format!("d{writer}x0/sub/a"), b"own")]).await;
    for n in 0..CHANGES {
        let shared = format!("shared{}", (writer + n) % 3);
        let made = commit(vec![put(&shared, format!("{writer} {n}").as_bytes())]).await;
        assert!(made[0].head.is_some());
        *acknowledged.entry(shared).or_default() += 1;
        let (from, to) = (format!("w{writer}/file{n}"), format!("w{writer}/file{}", n + 1));
        let made = commit(vec![rename(&from, &to)]).await;
        assert_eq!(made[0].head.as_ref().map(|head| head.key.as_str()), Some(to.as_str()));
        if n % 8 == 0 {
            let step = n / 8;
            commit(vec![rename_dir(&format!("d{writer}x{step}"), &format!("d{writer}x{}", step + 1))]).await;
        }
    }
    acknowledged
}

async fn chaos(options: PgOptions, kill: bool) {
    let database = Postgres::shared().database().await;
    initialise(&database.dsn()).await;
    let server = Arc::new(PgStore::connect(&database.dsn(), options).await.unwrap());
    let store = Retry::new(server.clone(), Duration::from_secs(60));
    let stop = AtomicBool::new(!kill);
    let work = async {
        let all = futures_util::future::join_all((0..WRITERS).map(|writer| write(&store, writer))).await;
        stop.store(true, Ordering::Release);
        all
    };
    let (all, killed) = tokio::join!(work, killer(&database, &stop));
    println!("{killed} sessions ended, {} connections made", server.connections_made());
    // What is looked at now has all the time it takes.
    let server = PgStore::connect(&database.dsn(), PgOptions::default()).await.unwrap();

    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (path, count) in all.into_iter().flatten() {
        *expected.entry(path).or_default() += count;
    }
    for (path, count) in expected {
        let versions = server.versions(&key(&path), None, 10_000).await.unwrap();
        let numbers: Vec<u64> = versions.iter().map(|head| head.version.0).collect();
        assert_eq!(numbers, (1..=count).rev().collect::<Vec<_>>(), "{path}");
    }
    let last = CHANGES.div_ceil(8);
    let live: Vec<String> =
        server.tree(&Prefix::default(), None, 1000).await.unwrap().iter().map(|head| head.key.to_string()).collect();
    for writer in 0..WRITERS {
        let own: Vec<&String> =
            live.iter().filter(|path| path.starts_with(&format!("w{writer}/")) && !path.ends_with('/')).collect();
        assert_eq!(own, [&format!("w{writer}/file{CHANGES}")]);
        let own: Vec<&String> =
            live.iter().filter(|path| path.starts_with(&format!("d{writer}x")) && !path.ends_with('/')).collect();
        assert_eq!(own, [&format!("d{writer}x{last}/sub/a")]);
        for n in 0..CHANGES {
            let versions = server.versions(&key(&format!("w{writer}/file{n}")), None, 10).await.unwrap();
            assert_eq!(versions.len(), 2, "a version and a tombstone at the source, once: {versions:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_die() {
    chaos(PgOptions::default(), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_run_out_of_time() {
    // Some requests are given up while they run and sent again while the first attempt may still be under way.
    chaos(PgOptions { request_timeout: Duration::from_millis(15), pool_size: 4, ..PgOptions::default() }, false).await;
}

#[tokio::test]
async fn a_batch_sent_twice_at_once_is_applied_once() {
    let database = Postgres::shared().database().await;
    initialise(&database.dsn()).await;
    let store = PgStore::connect(&database.dsn(), PgOptions::default()).await.unwrap();
    store.commit(batch(vec![put("a", b"0"), put("d/x", b"0")], Durability::Async)).await.unwrap();
    for round in 0..20 {
        let ops = vec![
            put("a", b"1"),
            put(&format!("n{round}"), b"1"),
            rename(&format!("n{round}"), &format!("m{round}")),
            rename_dir(&if round == 0 { "d".into() } else { format!("d{round}") }, &format!("d{}", round + 1)),
        ];
        let one = batch(ops, Durability::Async);
        let again = Batch { again: true, ..one.clone() };
        let send = async |batch: Batch| loop {
            match store.commit(batch.clone()).await {
                Err(error) if error.is_retryable() => {}
                result => return result,
            }
        };
        let (first, second) = tokio::join!(send(one), send(again));
        // The second operation's row has moved on by the time that the batch is recognised.
        let heads =
            |all: Vec<Outcome>| [0, 2].map(|op| all[op].head.as_ref().map(|head| (head.key.clone(), head.id, head.version)));
        // The one that comes second is recognised; which one that is, is open.
        let (first, second) = (first.map(heads), second.map(heads));
        assert!(second.is_ok(), "{second:?}");
        if let Ok(first) = first {
            assert_eq!(first, second.unwrap());
        }
        assert_eq!(store.versions(&key("a"), None, 100).await.unwrap().len(), round + 2);
    }
}
