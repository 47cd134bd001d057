//! The cache: what it costs, what it may believe and for how long, and a disk that lies.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgfiles_store::batch::{Batch, Op, Precondition, Put};
use pgfiles_store::key::Key;
use pgfiles_store::layer::cache::data::disk;
use pgfiles_store::layer::{Stack, StackConfig};
use pgfiles_store::mem::MemStore;
use pgfiles_store::store::{Entry, Part, Store};
use pgfiles_store::version::VersionId;
use pgfiles_testkit::fault::{Call, Fault, FaultStore};
use pgfiles_testkit::store_suite::{by, delete, dir, key, mkdir, put, rename_dir, rmdir};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

const MIB: usize = 1 << 20;

struct Bench {
    server: Arc<MemStore>,
    faults: Arc<FaultStore>,
    stack: Stack,
}

fn bench(config: StackConfig) -> Bench {
    over(Arc::new(MemStore::new()), config)
}

fn over(server: Arc<MemStore>, config: StackConfig) -> Bench {
    let faults = Arc::new(FaultStore::new(server.clone()));
    let stack = Stack::new(faults.clone(), config);
    Bench { server, faults, stack }
}

impl Bench {
    async fn commit(&self, op: Op) {
        self.stack.store.commit(Batch::one(op, &by())).await.unwrap();
    }

    async fn elsewhere(&self, op: Op) {
        self.server.commit(Batch::one(op, &by())).await.unwrap();
    }

    async fn is_there(&self, path: &str) -> bool {
        self.stack.store.lookup(&[key(path)], 0).await.unwrap()[0].is_some()
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let page = self.stack.store.list(&dir(path), None, 10_000, 0).await.unwrap();
        page.entries.into_iter().map(|(name, _)| name).collect()
    }

    /// Calls to the server since the last time.
    fn cost(&self) -> u64 {
        let calls = self.faults.all_calls() - self.faults.calls(Call::Position);
        self.faults.reset_counts();
        calls
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never came: {what}"));
}

/// A directory of small files that the cache knows nothing of.
async fn with_files(count: usize) -> Bench {
    let bench = bench(StackConfig::default());
    bench.elsewhere(Op::Put(mkdir("d"))).await;
    for n in 0..count {
        bench.elsewhere(Op::Put(put(&format!("d/f{n:03}"), format!("content {n}").as_bytes()))).await;
    }
    bench.cost();
    bench
}

#[tokio::test]
async fn who_asks_for_some_names_gets_the_directory() {
    let bench = with_files(200).await;
    for n in 0..200 {
        assert!(bench.is_there(&format!("d/f{n:03}")).await);
    }
    assert!(!bench.is_there("d/absent").await);
    assert_eq!((bench.faults.calls(Call::Lookup), bench.faults.calls(Call::List)), (2, 1));
}

#[tokio::test]
async fn who_asks_for_names_of_a_large_directory_gets_pages_of_it() {
    let bench = with_files(3_000).await;
    for n in (0..3_000).step_by(7) {
        assert!(bench.is_there(&format!("d/f{n:03}")).await, "{n}");
    }
    let (lookups, pages) = (bench.faults.calls(Call::Lookup), bench.faults.calls(Call::List));
    assert!(lookups <= 70 && pages <= 3, "{lookups} lookups and {pages} pages for 429 names");
}

#[tokio::test]
async fn who_reads_some_files_gets_those_beside_them() {
    let bench = with_files(200).await;
    bench.names("d/").await;
    bench.cost();
    for n in 0..200 {
        let path = key(&format!("d/f{n:03}"));
        let Some(Entry::File(head)) = bench.stack.store.lookup(std::slice::from_ref(&path), 0).await.unwrap().remove(0) else {
            panic!("no file {n}")
        };
        let part = Part { id: head.id, lineage: None, offset: 0, len: head.meta.size as u32 };
        bench.stack.fresh.bring(&path, &part).await;
        let bytes = bench.stack.store.read(&[part]).await.unwrap().remove(0);
        assert_eq!(bytes, format!("content {n}").as_bytes());
    }
    assert_eq!(bench.cost(), 4, "one file, 32 more, 128 more, the rest");
}

#[tokio::test]
async fn a_file_beside_that_was_replaced_elsewhere_hides_nothing() {
    let bench = with_files(10).await;
    bench.names("d/").await;
    let head = |n: usize| {
        let (store, path) = (bench.stack.store.clone(), key(&format!("d/f{n:03}")));
        async move {
            match store.lookup(std::slice::from_ref(&path), 0).await.unwrap().remove(0) {
                Some(Entry::File(head)) => (path, Part { id: head.id, lineage: None, offset: 0, len: head.meta.size as u32 }),
                other => panic!("{other:?}"),
            }
        }
    };
    let (path, part) = head(5).await;
    // In progress there: the row that is known here goes.
    bench.elsewhere(Op::Put(Put { extends: Some(part.id), ..put("d/f005", b"another") })).await;
    for n in [0, 1, 2] {
        let (path, part) = head(n).await;
        bench.stack.fresh.bring(&path, &part).await;
        assert_eq!(bench.stack.store.read(&[part]).await.unwrap()[0], format!("content {n}").as_bytes());
    }
    bench.stack.fresh.bring(&path, &part).await;
    assert!(bench.stack.store.read(&[part]).await.is_err(), "that row is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_costs_nothing() {
    let bench = bench(StackConfig::default());
    bench.elsewhere(Op::Put(put("d/a", b"1"))).await;
    assert!(bench.is_there("d/a").await);
    assert_eq!(bench.cost(), 1);
    assert!(bench.is_there("d/a").await && !bench.is_there("d/b").await);
    assert_eq!(bench.cost(), 1, "a stat that is known: none; an unknown name: one");
    assert!(!bench.is_there("d/b").await);
    assert_eq!(bench.cost(), 0, "absence is known too");
    assert_eq!(bench.names("d").await, ["a"]);
    assert_eq!(bench.cost(), 1);
    assert!(!bench.is_there("d/c").await && bench.names("d").await == ["a"]);
    assert_eq!(bench.cost(), 0, "the directory is known in full");
    bench.commit(Op::Put(put("d/c", b"3"))).await;
    bench.commit(delete("d/a")).await;
    assert_eq!(bench.cost(), 2, "a commit is one call");
    assert_eq!(bench.names("d").await, ["c"]);
    assert!(bench.is_there("d/c").await && !bench.is_there("d/a").await);
    assert_eq!(bench.cost(), 0, "own commits are known at once");
    let stats = bench.stack.cache.stats();
    assert!(stats.metadata.hits > stats.metadata.misses && stats.metadata.listings == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lists_two_directories_gets_those_after_them() {
    let bench = bench(StackConfig::default());
    for n in 0..20 {
        bench.elsewhere(Op::Put(put(&format!("d/{n:02}/file"), b"1"))).await;
        bench.elsewhere(Op::Put(put(&format!("d/{n:02}.txt"), b"2"))).await;
    }
    assert_eq!(bench.names("d").await.len(), 40);
    assert_eq!(bench.names("d/00").await, ["file"]);
    bench.cost();
    assert_eq!(bench.names("d/01").await, ["file"]);
    assert_eq!(bench.cost(), 3, "the second, and the next two");
    bench.elsewhere(Op::Put(put("d/05/late", b"3"))).await;
    for n in 2..8 {
        assert_eq!(bench.names(&format!("d/{n:02}")).await.len(), if n == 5 { 2 } else { 1 });
    }
    assert_eq!(bench.cost(), 5, "the fourth, and the next four");
    for n in 8..20 {
        assert_eq!(bench.names(&format!("d/{n:02}")).await, ["file"]);
    }
    assert_eq!(bench.cost(), 11, "one each and no other");
    assert!(bench.is_there("d/19/file").await && bench.cost() == 0, "known in full");
    // What is large is not brought in full, and goes on where it ended.
    for n in 0..700 {
        bench.elsewhere(Op::Put(put(&format!("e/b/{n:03}"), b""))).await;
    }
    for name in ["a", "b", "c"] {
        bench.elsewhere(Op::Put(put(&format!("e/{name}/file"), b""))).await;
    }
    assert_eq!(bench.names("e").await, ["a", "b", "c"]);
    assert_eq!(bench.names("e/a").await, ["file"]);
    let page = bench.stack.store.list(&dir("e/b"), None, 1_000, 0).await.unwrap();
    let rest = bench.stack.store.list(&dir("e/b"), page.next.as_ref(), 1_000, 0).await.unwrap();
    assert_eq!((page.entries.len(), rest.entries.len(), rest.next), (500, 201, None));
    bench.cost();
    assert_eq!((bench.names("e/c").await.len(), bench.cost()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_made_here_is_known_to_be_empty() {
    let bench = bench(StackConfig::default());
    bench.commit(Op::Put(Put { expect: Precondition::Absent, ..mkdir("new") })).await;
    bench.cost();
    assert!(!bench.is_there("new/a").await && bench.names("new").await.is_empty());
    for n in 0..50 {
        assert!(!bench.is_there(&format!("new/{n:02}")).await);
        bench.commit(Op::Put(put(&format!("new/{n:02}"), b""))).await;
    }
    assert_eq!(bench.cost(), 50, "one commit each and nothing else");
    assert_eq!(bench.names("new").await.len(), 50);
    let mut pages = Vec::new();
    let mut from = None;
    loop {
        let page = bench.stack.store.list(&dir("new"), from.as_ref(), 7, 0).await.unwrap();
        pages.extend(page.entries.into_iter().map(|(name, _)| name));
        match page.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    assert_eq!((pages.len(), pages.is_sorted(), bench.cost()), (50, true, 0));
    // A cursor of the cache goes on at the server when the cache has forgotten.
    let page = bench.stack.store.list(&dir("new"), None, 7, 0).await.unwrap();
    bench.stack.cache.invalidate_all();
    let rest = bench.stack.store.list(&dir("new"), page.next.as_ref(), 100, 0).await.unwrap();
    assert_eq!(rest.entries.first().map(|(name, _)| name.as_str()), Some("07"));
}

/// Names come, go and become directories between the pages of listings that the cache answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_changes_between_pages_is_listed_in_order() {
    let bench = bench(StackConfig::default());
    let mut random = StdRng::seed_from_u64(5);
    let name = |n: u32| format!("{:02}{}", n / 2, if n.is_multiple_of(2) { "" } else { "-" });
    // 0: absent, 1: a file, 2: a directory.
    let mut kinds = [0_u32; 60];
    bench.commit(Op::Put(Put { expect: Precondition::Absent, ..mkdir("d") })).await;
    for _ in 0..300 {
        let stable = kinds;
        let mut touched = [false; 60];
        let (mut seen, mut from) = (Vec::new(), None);
        loop {
            let page = bench.stack.store.list(&dir("d"), from.as_ref(), 9, 0).await.unwrap();
            seen.extend(page.entries.into_iter().map(|(name, entry)| (name, 1 + u32::from(matches!(entry, Entry::Dir(_))))));
            let Some(next) = page.next else { break };
            from = Some(next);
            let n = random.random_range(0..60_u32);
            let (path, kind) = (format!("d/{}", name(n)), &mut kinds[n as usize]);
            let op = match (*kind, random.random()) {
                (0, true) => Op::Put(put(&path, b"")),
                (0, false) => Op::Put(mkdir(&path)),
                (1, _) => delete(&path),
                _ => rmdir(&path, true),
            };
            *kind = match &op {
                Op::Put(op) if op.key.is_marker() => 2,
                Op::Put(_) => 1,
                _ => 0,
            };
            touched[n as usize] = true;
            bench.commit(op).await;
        }
        let place = |(name, kind): &(String, u32)| if *kind == 2 { format!("{name}/") } else { name.clone() };
        assert!(seen.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])), "{seen:?}");
        for n in (0..60_u32).filter(|n| !touched[*n as usize]) {
            let shown = seen.iter().find(|(shown, _)| *shown == name(n)).map_or(0, |(_, kind)| *kind);
            assert_eq!(shown, stable[n as usize], "{}", name(n));
        }
        // A listing of one page leaves no moment for a change: more names for the next one.
        for _ in 0..(if seen.len() < 20 { 5 } else { 0 }) {
            let n = random.random_range(0..60_u32);
            if kinds[n as usize] == 0 {
                kinds[n as usize] = 1;
                bench.commit(Op::Put(put(&format!("d/{}", name(n)), b""))).await;
            }
        }
    }
    assert_eq!(bench.faults.calls(Call::List), 0, "the directory was made here and is known in full");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_that_move_or_go_take_their_names_along() {
    let bench = bench(StackConfig::default());
    bench.commit(Op::Put(put("a/sub/f", b"1"))).await;
    assert!(bench.is_there("a/sub/f").await && !bench.is_there("b").await && !bench.is_there("b/sub").await);
    bench.commit(Op::RenameDir(rename_dir("a", "b"))).await;
    assert!(!bench.is_there("a/sub/f").await && !bench.is_there("a").await);
    assert!(bench.is_there("b/sub/f").await && bench.is_there("b/sub").await && bench.is_there("b").await);
    bench.commit(rmdir("b", true)).await;
    assert!(!bench.is_there("b/sub/f").await && !bench.is_there("b").await);
    bench.commit(Op::Put(put("b/sub/f", b"2"))).await;
    assert!(bench.is_there("b/sub").await && bench.is_there("b").await, "implied again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trust_ends_with_the_ttl_and_is_counted_once() {
    let metadata_ttl = Duration::from_millis(400);
    let bench = bench(StackConfig { metadata_ttl, ..StackConfig::default() });
    bench.elsewhere(Op::Put(put("a", b"1"))).await;
    assert!(bench.is_there("a").await);
    let left = bench.stack.fresh.trusted_for(&key("a"));
    assert!(!left.is_zero() && left <= metadata_ttl);
    bench.elsewhere(delete("a")).await;
    assert!(bench.is_there("a").await || bench.stack.fresh.trusted_for(&key("a")).is_zero(), "believed so far");
    until("the end of the trust", || bench.stack.fresh.trusted_for(&key("a")).is_zero()).await;
    assert!(!bench.is_there("a").await, "using it did not prolong it");
    assert!(bench.stack.fresh.trusted_for(&key("never asked")).is_zero());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_ttl_every_question_is_asked() {
    let bench = bench(StackConfig { metadata_ttl: Duration::ZERO, ..StackConfig::default() });
    bench.commit(Op::Put(put("a", b"1"))).await;
    bench.cost();
    for _ in 0..3 {
        assert!(bench.is_there("a").await);
    }
    assert_eq!(bench.cost(), 3);
    bench.elsewhere(delete("a")).await;
    assert!(!bench.is_there("a").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_ask_the_same_share_one_fetch() {
    let bench = bench(StackConfig::default());
    let row = put("a", &vec![7; 3 * MIB]);
    let part = Part { id: row.id, lineage: None, offset: 5, len: 2 * MIB as u32 };
    bench.elsewhere(Op::Put(row)).await;
    bench.faults.plan(None, 0, Fault::Hold, 2);
    let callers: Vec<_> = (0..16)
        .map(|n| {
            let store = bench.stack.store.clone();
            tokio::spawn(async move {
                if n % 2 == 0 {
                    assert!(store.lookup(&[key("a")], 0).await.unwrap()[0].is_some());
                } else {
                    assert_eq!(store.read(&[part]).await.unwrap()[0].len(), 2 * MIB);
                }
            })
        })
        .collect();
    until("both fetches", || bench.faults.all_calls() == 2).await;
    // All have asked by now or will find what came; a second fetch would show in the count.
    bench.faults.release();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!((bench.faults.calls(Call::Lookup), bench.faults.calls(Call::Read)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_from_before_an_own_commit_is_not_believed() {
    let bench = bench(StackConfig::default());
    bench.faults.plan(Some(Call::Lookup), 0, Fault::Hold, 1);
    let store = bench.stack.store.clone();
    let asking = tokio::spawn(async move { store.lookup(&[key("a")], 0).await.unwrap() });
    until("the question is on its way", || bench.faults.calls(Call::Lookup) == 1).await;
    bench.commit(Op::Put(put("a", b"1"))).await;
    bench.faults.release();
    asking.await.unwrap();
    assert!(bench.is_there("a").await);
    // The same where the caller of the commit did not wait for it.
    bench.faults.plan(Some(Call::Commit), 0, Fault::Hold, 1);
    let store = bench.stack.store.clone();
    let impatient = tokio::spawn(async move { store.commit(Batch::one(delete("a"), &by())).await });
    until("the commit is on its way", || bench.faults.calls(Call::Commit) == 2).await;
    impatient.abort();
    assert!(impatient.await.is_err());
    bench.cost();
    bench.is_there("a").await;
    assert_eq!(bench.cost(), 1, "nobody knows, so it is asked");
}

/// What is over the bound is forgotten, a directory at a time, and asked for again; nothing wrong is answered meanwhile, and what
/// is in use stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_is_bounded() {
    const MOST: usize = 100;
    let bench = bench(StackConfig { metadata_entries_max: MOST, ..StackConfig::default() });
    for number in 0..40 {
        bench.commit(Op::Put(mkdir(&format!("d{number:02}")))).await;
        for name in 0..9 {
            bench.commit(Op::Put(put(&format!("d{number:02}/f{name}"), b"x"))).await;
        }
    }
    let forgotten = || bench.stack.cache.stats().metadata.evictions;
    assert!(forgotten() > 0, "own names count, too");
    bench.names("d00").await;
    for number in 1..40 {
        let dir = format!("d{number:02}");
        assert_eq!(bench.names(&dir).await.len(), 9);
        bench.cost();
        assert!(bench.is_there("d00/f3").await && !bench.is_there("d00/absent").await);
        assert_eq!(bench.cost(), 0, "what is in use is known");
        assert!(bench.is_there(&format!("{dir}/f8")).await && !bench.is_there(&format!("{dir}/f9")).await);
        let known = bench.stack.cache.stats().metadata;
        assert!(known.entries <= MOST as u64, "{known:?}");
    }
    // What was forgotten is asked for again, and others' changes to it are seen with that.
    bench.elsewhere(delete("d05/f1")).await;
    assert!(!bench.is_there("d05/f1").await && bench.is_there("d05/f2").await);
    assert!(bench.cost() > 0);
    // A directory that is larger than the bound is shown in full.
    for name in 0..2 * MOST {
        bench.elsewhere(Op::Put(put(&format!("large/f{name}"), b"x"))).await;
    }
    let before = forgotten();
    assert_eq!(bench.names("large").await.len(), 2 * MOST);
    assert!(forgotten() > before && bench.stack.cache.stats().metadata.entries <= MOST as u64);
    assert!(bench.is_there("large/f7").await && !bench.is_there("large/g").await);
}

fn with_disk(dir: &Path, cache_max_bytes: u64) -> StackConfig {
    StackConfig { cache_dir: Some(dir.to_owned()), cache_max_bytes, ..StackConfig::default() }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir.join("v2")).unwrap().map(|file| file.unwrap().path()).collect()
}

/// Rows of random bytes on the server: small ones, one of several blocks, one that ends at a block.
async fn rows(server: &MemStore, random: &mut StdRng) -> Vec<(VersionId, Bytes)> {
    let mut rows = Vec::new();
    for (n, len) in [0, 1, 4096, 100_000, MIB, MIB + 1, 3 * MIB - 5].into_iter().enumerate() {
        let mut data = vec![0; len];
        random.fill_bytes(&mut data);
        let row = put(&format!("row{n}"), &data);
        rows.push((row.id, Bytes::from(data)));
        server.commit(Batch::one(Op::Put(row), &by())).await.unwrap();
    }
    rows
}

async fn check(store: &dyn Store, rows: &[(VersionId, Bytes)], random: &mut StdRng) {
    for (id, data) in rows {
        let offset = random.random_range(0..=data.len());
        let len = random.random_range(0..=2 * MIB);
        for (offset, len) in [(0, 4 * MIB), (offset, len)] {
            let part = Part { id: *id, lineage: None, offset: offset as u64, len: len as u32 };
            let found = store.read(&[part]).await.unwrap();
            assert!(found[0] == data[offset..data.len().min(offset + len)], "wrong bytes of {id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_disk_never_gives_wrong_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Arc::new(MemStore::new());
    let mut random = StdRng::seed_from_u64(7);
    let rows = rows(&server, &mut random).await;
    for round in 0..15 {
        // A new mount on the same directory: nothing in memory.
        let bench = over(server.clone(), with_disk(dir.path(), 1 << 30));
        check(&*bench.stack.store, &rows, &mut random).await;
        bench.stack.cache.flush_disk().await;
        let found = files(dir.path());
        assert!(!found.is_empty());
        if round == 0 {
            let bench = over(server.clone(), with_disk(dir.path(), 1 << 30));
            check(&*bench.stack.store, &rows, &mut random).await;
            assert_eq!(bench.faults.calls(Call::Read), 0, "everything is on disk");
            assert!(bench.stack.cache.stats().data.disk_hits > 0);
        }
        for file in &found {
            damage(file, &found, &mut random);
        }
    }
}

fn damage(file: &Path, others: &[PathBuf], random: &mut StdRng) {
    let Ok(mut bytes) = std::fs::read(file) else { return };
    match random.random_range(0..6) {
        0 if !bytes.is_empty() => {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        1 => bytes.truncate(random.random_range(0..=bytes.len())),
        2 => bytes.extend_from_slice(b"more"),
        3 => bytes = std::fs::read(&others[random.random_range(0..others.len())]).unwrap_or_default(),
        4 => bytes.fill(0),
        _ => return,
    }
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_share_a_directory_and_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let bound = 24 * MIB as u64;
    let server = Arc::new(MemStore::new());
    let mut random = StdRng::seed_from_u64(8);
    let daemons = [0, 1].map(|_| over(server.clone(), with_disk(dir.path(), bound)));
    for _ in 0..12 {
        let rows = rows(&server, &mut random).await;
        for daemon in &daemons {
            check(&*daemon.stack.store, &rows, &mut random).await;
            daemon.stack.cache.flush_disk().await;
        }
    }
    let (bytes, blocks) = disk::usage(dir.path()).unwrap();
    assert!(bytes <= bound + 2 * bound / 16 + MIB as u64, "{bytes} bytes in {blocks} blocks");
    let evictions: u64 = daemons.iter().map(|daemon| daemon.stack.cache.stats().disk.unwrap().evictions).sum();
    assert!(evictions > 0);
    daemons[0].stack.cache.clear().await;
    assert_eq!(disk::usage(dir.path()).unwrap(), (0, 0));
    let rows = rows(&server, &mut random).await;
    check(&*daemons[1].stack.store, &rows, &mut random).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_cannot_be_used_is_done_without() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"not a directory").unwrap();
    let bench = bench(with_disk(&file, 1 << 30));
    let mut random = StdRng::seed_from_u64(9);
    let rows = rows(&bench.server, &mut random).await;
    check(&*bench.stack.store, &rows, &mut random).await;
    assert!(bench.stack.cache.stats().disk.unwrap().error.is_some());
    // One that goes away under a live mount.
    let gone = dir.path().join("gone");
    let bench = over(bench.server.clone(), with_disk(&gone, 1 << 30));
    // Its writer may be making a file at this moment.
    while std::fs::remove_dir_all(&gone).is_err() && gone.exists() {}
    check(&*bench.stack.store, &rows, &mut random).await;
    bench.stack.cache.flush_disk().await;
    assert!(bench.stack.cache.stats().disk.unwrap().error.is_some());
    check(&*bench.stack.store, &rows, &mut random).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_is_private() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let bench = bench(with_disk(&open, 1 << 30));
    bench.commit(Op::Put(put("a", b"secret"))).await;
    bench.stack.cache.flush_disk().await;
    assert_eq!(std::fs::metadata(&open).unwrap().mode() & 0o777, 0o700);
    assert!(files(&open).iter().all(|file| std::fs::metadata(file).unwrap().mode() & 0o777 == 0o600));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_is_read_without_the_server() {
    let bench = bench(StackConfig::default());
    bench.commit(Op::Put(put("a", b"hello"))).await;
    bench.cost();
    let found = bench.stack.store.lookup(&[key("a")], 4096).await.unwrap();
    let Some(Entry::File(head)) = &found[0] else { panic!("{found:?}") };
    assert_eq!(head.data.as_deref(), Some(&b"hello"[..]));
    assert_eq!(bench.cost(), 0);
}

/// A directory that was absent is there with the first file in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_by_others_has_directories_above_it() {
    let bench = bench(StackConfig::default());
    assert!(!bench.is_there("d").await && !bench.is_there("d/e/f").await);
    bench.elsewhere(Op::Put(put("d/e/f", b"1"))).await;
    assert!(!bench.is_there("d").await, "it is believed to be absent");
    bench.stack.cache.invalidate(&[key("d/e/f")]);
    assert!(bench.is_there("d").await && bench.is_there("d/e").await && bench.is_there("d/e/f").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_can_make_it_forget() {
    let bench = bench(StackConfig::default());
    bench.commit(Op::Put(put("d/a", b"1"))).await;
    bench.commit(Op::Put(put("e/a", b"1"))).await;
    bench.elsewhere(delete("d/a")).await;
    bench.elsewhere(delete("e/a")).await;
    bench.stack.cache.invalidate(&[key("d/a")]);
    assert!(!bench.is_there("d/a").await && bench.is_there("e/a").await);
    bench.stack.cache.invalidate(&[Key::new("suite/e/").unwrap()]);
    assert!(!bench.is_there("e/a").await);
}
