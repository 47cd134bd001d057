//! The log of commits against a server that crashes, loses replies and goes away: what was answered is there exactly
//! once, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pgfiles_store::batch::{Batch, Delete, Durability, Op, Precondition, Put, Rename};
use pgfiles_store::error::Kind;
use pgfiles_store::key::{Key, Prefix};
use pgfiles_store::layer::log::Mode;
use pgfiles_store::layer::{Stack, StackConfig};
use pgfiles_store::mem::MemStore;
use pgfiles_store::store::{Entry, Part, Server, Store};
use pgfiles_store::version::VersionId;
use pgfiles_testkit::fault::{Call, Fault, FaultStore};
use pgfiles_testkit::store_suite::{by, dir, id, key, put};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

struct Bench {
    server: Arc<MemStore>,
    faults: Arc<FaultStore>,
    stack: Stack,
}

fn bench(durability: Mode) -> Bench {
    bench_with(StackConfig { durability, ..StackConfig::default() })
}

fn bench_with(config: StackConfig) -> Bench {
    let server = Arc::new(MemStore::new());
    let faults = Arc::new(FaultStore::new(server.clone()));
    let stack = Stack::new(faults.clone(), config);
    Bench { server, faults, stack }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never came: {what}"));
}

fn one(op: Op) -> Batch {
    Batch::one(op, &by())
}

fn create(path: &str, data: &[u8]) -> Op {
    Op::Put(Put { expect: Precondition::Absent, ..put(path, data) })
}

/// The contents that a key had, oldest first; `None` is a deletion. Numbers must be dense.
pub async fn history(server: &dyn Server, key: &Key) -> Vec<Option<Vec<u8>>> {
    let mut versions = server.versions(key, None, 10_000).await.unwrap();
    versions.reverse();
    let mut contents = Vec::new();
    for (index, head) in versions.iter().enumerate() {
        assert_eq!(head.version.0, index as u64 + 1, "{key:?} has a gap");
        if head.meta.deleted {
            contents.push(None);
            continue;
        }
        let part = Part { id: head.meta.body.unwrap_or(head.id), lineage: None, offset: 0, len: 1 << 20 };
        contents.push(Some(server.read(&[part]).await.unwrap()[0].to_vec()));
    }
    contents
}

/// One program: writes, extends, deletes and creates again a few files of its own; knows what must be there.
pub async fn program(store: Arc<dyn Store>, name: String, seed: u64, steps: usize) -> Vec<(Key, Vec<Option<Vec<u8>>>)> {
    let mut random = StdRng::seed_from_u64(seed);
    let keys: Vec<Key> = (0..3).map(|n| key(&format!("{name}-{n}"))).collect();
    let mut known: Vec<(Key, Vec<Option<Vec<u8>>>)> = keys.into_iter().map(|key| (key, vec![])).collect();
    let mut open: Vec<Option<VersionId>> = vec![None; known.len()];
    for step in 0..steps {
        let file = random.random_range(0..known.len());
        let (key, history) = &mut known[file];
        let is_live = history.last().is_some_and(Option::is_some);
        let data = format!("{name} {step}").into_bytes();
        if is_live && random.random_bool(0.2) {
            let op = Op::Delete(Delete { id: id(), key: key.clone(), expect: Precondition::Any });
            store.commit(one(op)).await.unwrap();
            history.push(None);
            open[file] = None;
            continue;
        }
        let extends = open[file].filter(|_| random.random_bool(0.4));
        let new = Put { key: key.clone(), extends, ..put("x", &data) };
        let expect = if is_live { Precondition::Any } else { Precondition::Absent };
        open[file] = Some(new.id);
        let durability = if random.random_bool(0.05) { Durability::Sync } else { Durability::Async };
        store.commit(Batch { durability, ..one(Op::Put(Put { expect, ..new })) }).await.unwrap();
        if extends.is_some() {
            history.pop();
        }
        history.push(Some(data));
    }
    known
}

async fn crashes(mode: Mode, seed: u64) {
    let bench = bench(mode);
    let over = Arc::new(AtomicBool::new(false));
    let programs: Vec<_> =
        (0..4).map(|n| tokio::spawn(program(bench.stack.store.clone(), format!("p{n}"), seed * 10 + n, 150))).collect();
    let (server, faults, ends) = (bench.server.clone(), bench.faults.clone(), over.clone());
    let trouble = tokio::spawn(async move {
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..80 {
            if ends.load(Ordering::Relaxed) {
                break;
            }
            match random.random_range(0..10) {
                0..4 => server.crash(),
                4..6 => server.flush(),
                6 => faults.plan(Some(Call::Commit), random.random_range(0..5), Fault::Fail(Kind::Unavailable), 2),
                7 => faults.plan(None, random.random_range(0..5), Fault::Fail(Kind::Retry), 3),
                _ => faults.plan(Some(Call::Commit), random.random_range(0..5), Fault::LoseReply, 1),
            }
            let (calls, more) = (faults.all_calls(), random.random_range(0..40));
            while faults.all_calls() < calls + more && !ends.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        }
    });
    let mut known = Vec::new();
    for program in programs {
        known.extend(program.await.unwrap());
    }
    over.store(true, Ordering::Relaxed);
    trouble.await.unwrap();
    bench.faults.heal();
    bench.stack.store.sync().await.unwrap();
    bench.server.crash();
    for (key, expected) in &known {
        let found = history(&*bench.server, key).await;
        let text = |all: &[Option<Vec<u8>>]| -> Vec<String> {
            all.iter().map(|data| data.as_ref().map_or("-".into(), |data| String::from_utf8_lossy(data).into())).collect()
        };
        assert_eq!(text(&found), text(expected), "{key:?}, seed {seed}, {mode:?}");
    }
    let status = bench.stack.log.status();
    assert_eq!((status.lost_ops, status.retained_ops, status.queued_ops), (0, 0, 0), "seed {seed}, {mode:?}");
    bench.stack.shutdown(None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answered_commits_survive_crashes_once_and_in_order() {
    for seed in 1..=4 {
        crashes(Mode::Close, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_commits_survive_crashes_once_and_in_order() {
    for seed in 1..=2 {
        crashes(Mode::Writeback, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synchronous_commits_survive_crashes_by_themselves() {
    crashes(Mode::Sync, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_is_seen_after_a_crash_before_anything_else() {
    let bench = bench(Mode::Close);
    bench.stack.store.commit(one(create("a", b"1"))).await.unwrap();
    bench.server.crash();
    bench.stack.cache.invalidate_all();
    // The connection broke, as it does when a server dies.
    bench.faults.plan(Some(Call::Lookup), 0, Fault::Fail(Kind::Unavailable), 1);
    let found = bench.stack.store.lookup(&[key("a")], 0).await.unwrap();
    assert!(matches!(&found[0], Some(Entry::File(_))), "the lookup came before the recovery");
    assert_eq!(bench.stack.log.status().recoveries, 1);
}

/// A commit whose reply was lost is on the disk and is sent again after a crash: others, answered after it was first
/// sent, are not on the disk for that.
async fn sent_again_after_a_crash(durability: Durability) -> Bench {
    let bench = bench(Mode::Close);
    let store = &bench.stack.store;
    store.commit(one(create("first", b"1"))).await.unwrap();
    bench.faults.reset_counts();
    bench.faults.plan(Some(Call::Commit), 0, Fault::LoseReply, 1);
    bench.faults.plan(Some(Call::Commit), 1, Fault::Hold, 1);
    let lost = tokio::spawn({
        let (store, batch) = (store.clone(), Batch { durability, ..one(create("lost", b"1")) });
        async move { store.commit(batch).await }
    });
    until("the second sending", || bench.faults.calls(Call::Commit) == 2).await;
    bench.server.flush();
    store.commit(one(create("later", b"1"))).await.unwrap();
    bench.server.crash();
    bench.faults.release();
    lost.await.unwrap().unwrap();
    assert_eq!(bench.stack.log.status().recommitted, 1, "the later one");
    bench.server.crash();
    bench
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_proves_nothing_of_what_was_answered_meanwhile() {
    let bench = sent_again_after_a_crash(Durability::Async).await;
    bench.stack.store.commit(one(create("more", b"1"))).await.unwrap();
    for name in ["first", "lost", "later", "more"] {
        assert_eq!(history(&*bench.server, &key(name)).await, [Some(b"1".to_vec())], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_is_on_the_disk_with_all_before_it() {
    let bench = sent_again_after_a_crash(Durability::Sync).await;
    for name in ["first", "lost", "later"] {
        assert_eq!(history(&*bench.server, &key(name)).await, [Some(b"1".to_vec())], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_found_without_another_commit() {
    let bench = bench(Mode::Close);
    bench.stack.store.commit(one(create("a", b"1"))).await.unwrap();
    bench.server.crash();
    until("the recovery", || bench.stack.log.status().recommitted == 1).await;
    assert_eq!(history(&*bench.server, &key("a")).await, [Some(b"1".to_vec())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_disk_has_is_no_longer_retained() {
    let bench = bench(Mode::Close);
    bench.stack.store.commit(one(create("a", b"12345"))).await.unwrap();
    let status = bench.stack.log.status();
    assert_eq!((status.retained_ops, status.retained_bytes), (1, 5));
    bench.server.flush();
    until("an empty journal", || bench.stack.log.status().retained_ops == 0).await;
    let positions = bench.faults.calls(Call::Position);
    bench.stack.store.sync().await.unwrap();
    assert_eq!((bench.faults.calls(Call::Sync), bench.faults.calls(Call::Position)), (0, positions), "nothing to sync");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_bound_commits_are_synchronous() {
    let bench = bench(Mode::Close);
    for n in 0..5 {
        let data = vec![0; 15 << 20];
        bench.stack.store.commit(one(create(&format!("f{n}"), &data))).await.unwrap();
        assert!(bench.stack.log.status().retained_bytes <= 48 << 20);
    }
    bench.server.crash();
    assert!(history(&*bench.server, &key("f3")).await.len() == 1, "the fourth went over the bound");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_of_many_callers_run_side_by_side() {
    let bench = bench(Mode::Close);
    bench.stack.store.commit(one(create("first", b""))).await.unwrap();
    bench.faults.reset_counts();
    bench.faults.plan(Some(Call::Commit), 0, Fault::Hold, 8);
    let callers: Vec<_> = (0..8)
        .map(|n| {
            let store = bench.stack.store.clone();
            tokio::spawn(async move { store.commit(one(create(&format!("f{n}"), b"x"))).await.map(drop) })
        })
        .collect();
    until("eight commits at a time", || bench.faults.calls(Call::Commit) == 8).await;
    bench.faults.release();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(bench.faults.calls(Call::Commit), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_voids_what_is_known() {
    let bench = bench(Mode::Close);
    let mut epoch = bench.stack.log.epoch();
    bench.stack.store.commit(one(create("a", b"1"))).await.unwrap();
    assert!(!bench.stack.fresh.trusted_for(&key("a")).is_zero());
    bench.server.fail_over();
    until("the epoch", || epoch.has_changed().unwrap()).await;
    epoch.mark_unchanged();
    assert!(bench.stack.fresh.trusted_for(&key("a")).is_zero());
    assert_eq!(history(&*bench.server, &key("a")).await, [Some(b"1".to_vec())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_waited_out_and_then_is_an_error() {
    let retry_timeout = Duration::from_millis(300);
    let bench = bench_with(StackConfig { retry_timeout, ..StackConfig::default() });
    bench.stack.store.commit(one(create("a", b"1"))).await.unwrap();
    bench.faults.plan(Some(Call::Commit), 0, Fault::Fail(Kind::Unavailable), 3);
    bench.stack.store.commit(one(create("b", b"1"))).await.unwrap();
    bench.faults.plan(None, 0, Fault::Fail(Kind::Unavailable), u64::MAX);
    let error = bench.stack.store.commit(one(create("c", b"1"))).await.unwrap_err();
    assert_eq!((error.kind(), error.is_outcome_unknown()), (Kind::Unavailable, false));
    assert!(bench.stack.retry.status().away_since.is_some());
    bench.faults.heal();
    bench.stack.store.commit(one(create("d", b"1"))).await.unwrap();
    assert_eq!(bench.stack.retry.status().away_since, None);
    assert!(history(&*bench.server, &key("c")).await.is_empty(), "it was answered with an error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_is_said_to_be_unknown_and_forgotten_by_the_cache() {
    let retry_timeout = Duration::from_millis(50);
    let bench = bench_with(StackConfig { retry_timeout, ..StackConfig::default() });
    bench.stack.store.commit(one(create("a", b"1"))).await.unwrap();
    bench.stack.store.lookup(&[key("b")], 0).await.unwrap();
    bench.faults.plan(Some(Call::Commit), 0, Fault::LoseReply, 1);
    bench.faults.plan(Some(Call::Commit), 1, Fault::Fail(Kind::Unavailable), u64::MAX);
    let error = bench.stack.store.commit(one(create("b", b"1"))).await.unwrap_err();
    assert!(error.is_outcome_unknown());
    bench.faults.heal();
    let found = bench.stack.store.lookup(&[key("b")], 0).await.unwrap();
    assert!(found[0].is_some(), "it was carried out, and the next who asks sees it");
}

mod writeback {
    use super::*;

    async fn with_root(config: StackConfig) -> Bench {
        let bench = bench_with(StackConfig { durability: Mode::Writeback, ..config });
        let marker = Key::new("suite/").unwrap();
        let meta = serde_json::json!({"kind": "dir"}).as_object().cloned().unwrap();
        let root = Put { key: marker, meta, data: None, ..put("x", b"") };
        bench.stack.store.commit(Batch { durability: Durability::Sync, ..one(Op::Put(root)) }).await.unwrap();
        bench
    }

    /// docs/limits.md: 48 MiB are queued; who comes then waits for room, and gets an error where none comes in time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn at_the_bound_writers_wait_and_then_get_an_error() {
        const MOST: u64 = 48 << 20;
        let retry_timeout = Duration::from_millis(500);
        let bench = with_root(StackConfig { retry_timeout, ..StackConfig::default() }).await;
        let store = bench.stack.store.clone();
        // All names are known, absent ones too: nobody has to ask.
        store.list(&dir(""), None, 100, 0).await.unwrap();
        bench.faults.plan(None, 0, Fault::Fail(Kind::Unavailable), u64::MAX);
        let large = put("large", &vec![7; 4 << 20]);
        let write = |name: &str| one(Op::Put(Put { id: id(), key: key(name), ..large.clone() }));
        let mut queued = Vec::new();
        while bench.stack.log.status().queued_bytes < MOST {
            let name = format!("f{}", queued.len());
            store.commit(write(&name)).await.unwrap();
            queued.push(name);
        }
        assert_eq!(queued.len(), 12);
        let began = Instant::now();
        let error = store.commit(write("refused")).await.unwrap_err();
        assert_eq!((error.kind(), error.is_outcome_unknown()), (Kind::Unavailable, false), "{error}");
        assert!(began.elapsed() >= retry_timeout, "it waited for room");
        assert!(bench.stack.log.status().queued_bytes <= MOST, "nothing is queued beyond the bound");
        let waiting = tokio::spawn({
            let (store, batch) = (store.clone(), write("waited"));
            async move { store.commit(batch).await }
        });
        bench.faults.heal();
        waiting.await.unwrap().unwrap();
        store.sync().await.unwrap();
        queued.push("waited".into());
        for name in &queued {
            assert_eq!(history(&*bench.server, &key(name)).await.len(), 1, "{name} is there once");
        }
        assert!(history(&*bench.server, &key("refused")).await.is_empty());
        store.commit(write("refused")).await.unwrap();
        store.sync().await.unwrap();
        assert_eq!(history(&*bench.server, &key("refused")).await.len(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn answers_come_before_the_commit_and_are_right() {
        let bench = with_root(StackConfig::default()).await;
        let store = &bench.stack.store;
        store.lookup(&[key("a"), key("b"), key("tmp")], 0).await.unwrap();
        bench.faults.reset_counts();
        bench.faults.plan(Some(Call::Commit), 0, Fault::Hold, 1);
        let made = store.commit(one(create("a", b"1"))).await.unwrap();
        let made = made[0].head.clone().unwrap();
        until("the commit is on its way", || bench.faults.calls(Call::Commit) == 1).await;
        store.commit(one(create("tmp", b"2"))).await.unwrap();
        let rename = Rename {
            id: id(),
            history: id(),
            from: key("tmp"),
            to: key("a"),
            expect_from: Precondition::Any,
            expect_to: Precondition::Head(made.id),
            young: None,
            ctime: None,
        };
        let moved = store.commit(one(Op::Rename(rename))).await.unwrap()[0].head.clone().unwrap();
        assert_eq!((moved.key.clone(), moved.version.0), (key("a"), 2));
        bench.stack.cache.invalidate_all();
        let found = store.lookup(&[key("a"), key("tmp")], 0).await.unwrap();
        assert!(matches!(&found[..], [Some(Entry::File(head)), None] if head.id == moved.id), "{found:?}");
        let part = Part { id: moved.id, lineage: None, offset: 0, len: 9 };
        assert_eq!(bench.stack.log.read(&[part]).await.unwrap(), [Bytes::from_static(b"2")], "pending bytes");
        assert_eq!(bench.faults.calls(Call::Lookup), 0, "what is pending is known");
        bench.faults.release();
        store.sync().await.unwrap();
        assert_eq!(history(&*bench.server, &key("a")).await.len(), 2);
        assert_eq!(bench.faults.calls(Call::Commit), 2, "one and then a group");
        let found = store.lookup(&[key("a")], 0).await.unwrap();
        assert!(matches!(&found[..], [Some(Entry::File(head))] if head.version.0 == 2));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_server_holds_a_prefix_at_every_moment() {
        let bench = with_root(StackConfig::default()).await;
        let (server, over) = (bench.server.clone(), Arc::new(AtomicBool::new(false)));
        let ends = over.clone();
        let watcher = tokio::spawn(async move {
            let mut seen = 0;
            while !ends.load(Ordering::Relaxed) {
                let heads = server.tree(&Prefix::new("suite").unwrap(), None, 10_000).await.unwrap();
                let files = heads.iter().filter(|head| !head.key.is_marker()).count();
                let expected: Vec<Key> = (0..files).map(|n| key(&format!("f{n:05}"))).collect();
                let found: Vec<Key> = heads.into_iter().map(|head| head.key).filter(|key| !key.is_marker()).collect();
                assert_eq!(found, expected, "not a prefix");
                assert!(files >= seen);
                seen = files;
                tokio::task::yield_now().await;
            }
        });
        for n in 0..3_000 {
            bench.stack.store.commit(one(create(&format!("f{n:05}"), b"x"))).await.unwrap();
            if n % 300 == 0 {
                bench.faults.plan(Some(Call::Commit), 0, Fault::LoseReply, 1);
            }
        }
        bench.stack.store.sync().await.unwrap();
        over.store(true, Ordering::Relaxed);
        watcher.await.unwrap();
        assert_eq!(bench.server.usage(&Prefix::new("suite").unwrap()).await.unwrap().files, 3_000);
        assert!(bench.faults.calls(Call::Commit) < 1_000, "{} commits", bench.faults.calls(Call::Commit));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_refusal_turns_it_read_only_until_given_up() {
        let bench = with_root(StackConfig::default()).await;
        let store = &bench.stack.store;
        bench.faults.plan(Some(Call::Commit), 0, Fault::Fail(Kind::Forbidden), u64::MAX);
        store.commit(one(create("a", b"1"))).await.unwrap();
        assert_eq!(store.sync().await.unwrap_err().kind(), Kind::ReadOnly);
        assert_eq!(store.commit(one(create("b", b"1"))).await.unwrap_err().kind(), Kind::ReadOnly);
        let status = bench.stack.log.status();
        assert!(status.read_only.is_some_and(|why| why.contains("suite/a")), "names what is refused");
        assert_eq!(status.queued_ops, 1);
        bench.faults.heal();
        assert_eq!(bench.stack.log.discard(), 1);
        let found = store.lookup(&[key("a")], 0).await.unwrap();
        assert_eq!(found, [None], "given up");
        store.commit(one(create("b", b"1"))).await.unwrap();
        store.sync().await.unwrap();
        assert_eq!(history(&*bench.server, &key("b")).await.len(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn another_writer_loses_nothing_and_neither_do_we() {
        let bench = with_root(StackConfig::default()).await;
        let store = &bench.stack.store;
        store.lookup(&[key("a")], 0).await.unwrap();
        bench.server.commit(one(create("a", b"theirs"))).await.unwrap();
        let ours = store.commit(one(create("a", b"ours"))).await.unwrap()[0].head.clone().unwrap();
        assert_eq!(ours.version.0, 1, "foretold from what is known");
        store.sync().await.unwrap();
        assert_eq!(history(&*bench.server, &key("a")).await, [Some(b"theirs".to_vec()), Some(b"ours".to_vec())]);
        let found = store.lookup(&[key("a")], 0).await.unwrap();
        assert!(matches!(&found[..], [Some(Entry::File(head))] if head.version.0 == 2 && head.id == ours.id), "corrected");
        assert_eq!(bench.stack.log.status().lost_ops, 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_creators_one_wins() {
        for round in 0..200 {
            let bench = with_root(StackConfig::default()).await;
            let callers: Vec<_> = (0..8)
                .map(|_| {
                    let store = bench.stack.store.clone();
                    tokio::spawn(async move { store.commit(one(create("a", b"x"))).await.is_ok() })
                })
                .collect();
            let mut winners = 0;
            for caller in callers {
                winners += usize::from(caller.await.unwrap());
            }
            assert_eq!(winners, 1, "round {round}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_outage_keeps_what_is_pending() {
        let retry_timeout = Duration::from_millis(200);
        let bench = with_root(StackConfig { retry_timeout, ..StackConfig::default() }).await;
        let store = &bench.stack.store;
        store.commit(one(create("warm", b"1"))).await.unwrap();
        store.sync().await.unwrap();
        // In a directory that is known in full nothing has to be asked.
        store.list(&Prefix::new("suite").unwrap(), None, 100, 0).await.unwrap();
        store.lookup(&[Key::new("suite").unwrap()], 0).await.unwrap();
        bench.faults.plan(None, 0, Fault::Fail(Kind::Unavailable), u64::MAX);
        for n in 0..10 {
            store.commit(one(create(&format!("f{n}"), b"x"))).await.unwrap();
        }
        assert_eq!(store.sync().await.unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(bench.stack.log.status().queued_ops, 10);
        bench.faults.heal();
        until("the queue is empty", || bench.stack.log.status().queued_ops == 0).await;
        store.sync().await.unwrap();
        assert_eq!(bench.server.usage(&Prefix::new("suite").unwrap()).await.unwrap().files, 11);
        assert_eq!(bench.stack.log.status().last_error, None);
    }
}
