//! What operations cost and leave: round trips, versions, tombstones; failures and other clients.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgfiles_store::batch::{Batch, Delete, Op, Precondition, Put};
use pgfiles_store::clock::{Clock as _, SystemClock};
use pgfiles_store::error::Kind as StoreKind;
use pgfiles_store::layer::{Stack, StackConfig};
use pgfiles_store::mem::MemStore;
use pgfiles_store::store::{Purge, PurgeScope};
use pgfiles_store::version::{Head, Timestamp};
use pgfiles_store::{Key, Prefix, Store as _};
use pgfiles_testkit::fault::{Call, Fault, FaultStore};
use pgfiles_vfs::{Caller, HandleId, InodeNo, LookupReply, OpenMode, SetAttr, SetTime, Vfs, VfsConfig, VfsError};

const ROOT: Caller = Caller { uid: 0, gid: 0 };
const WRITE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: false, exclusive: false };
const TRUNCATE: OpenMode = OpenMode { truncate: true, ..WRITE };
const APPEND: OpenMode = OpenMode { append: true, ..WRITE };

/// A server, a mount of `p/` over all layers, and a way to break the server.
struct Bench {
    server: Arc<MemStore>,
    faults: Arc<FaultStore>,
    stack: Stack,
    vfs: Arc<Vfs>,
}

impl Bench {
    fn new() -> Self {
        Self::over(Arc::new(MemStore::new()), |_| {})
    }

    fn over(server: Arc<MemStore>, set: impl FnOnce(&mut VfsConfig)) -> Self {
        let faults = Arc::new(FaultStore::new(server.clone()));
        let settings = StackConfig { retry_timeout: Duration::from_millis(1), ..StackConfig::default() };
        let stack = Stack::new(faults.clone(), settings);
        let id = format!("mount-{}", SystemClock.ino());
        let mut config = VfsConfig::new(Prefix::new("p").unwrap(), &id);
        config.publish_after = Duration::from_secs(3600);
        set(&mut config);
        let vfs = Vfs::new(stack.store.clone(), stack.fresh.clone(), config, Arc::new(SystemClock));
        Self { server, faults, stack, vfs }
    }

    async fn lookup(&self, parent: InodeNo, name: &str) -> Option<InodeNo> {
        match self.vfs.lookup(parent, name.as_bytes()).await.unwrap() {
            LookupReply::Found(found) => Some(found.attr.ino),
            LookupReply::Absent(_) => None,
        }
    }

    async fn create(&self, parent: InodeNo, name: &str, mode: OpenMode) -> (HandleId, InodeNo) {
        self.lookup(parent, name).await;
        let (entry, opened) = self.vfs.create(parent, name.as_bytes(), 0o644, mode, ROOT).await.unwrap();
        (opened.handle, entry.attr.ino)
    }

    async fn write(&self, handle: HandleId, offset: u64, bytes: &[u8]) {
        self.vfs.write(handle, offset, Bytes::copy_from_slice(bytes), false).await.unwrap();
    }

    async fn close(&self, handle: HandleId) {
        self.vfs.flush_handle(handle).await.unwrap();
        self.vfs.release(handle).await;
    }

    async fn put(&self, name: &str, bytes: &[u8]) -> InodeNo {
        let (handle, ino) = self.create(InodeNo::ROOT, name, TRUNCATE).await;
        self.write(handle, 0, bytes).await;
        self.close(handle).await;
        ino
    }

    async fn read(&self, name: &str) -> Vec<u8> {
        let ino = self.lookup(InodeNo::ROOT, name).await.unwrap();
        let file = self.vfs.open(ino, OpenMode { read: true, ..OpenMode::default() }, ROOT).await.unwrap();
        let bytes = self.vfs.read(file.handle, 0, u64::MAX >> 1).await.unwrap();
        self.close(file.handle).await;
        bytes.to_vec()
    }

    async fn versions(&self, name: &str) -> Vec<Head> {
        self.server.versions(&Key::new(&format!("p/{name}")).unwrap(), None, 100).await.unwrap()
    }

    async fn list(&self, dir: InodeNo) -> usize {
        let handle = self.vfs.opendir(dir).await.unwrap();
        let (mut at, mut count) = (0, 0);
        loop {
            let names = self.vfs.readdir(handle, at, 100, true).await.unwrap();
            let Some(last) = names.last() else { break };
            at = last.next;
            count += names.len();
        }
        self.vfs.releasedir(handle);
        count - 2
    }

    /// Round trips that an operation makes; those of the log in the background are not counted.
    async fn cost<T>(&self, operation: impl Future<Output = T>) -> u64 {
        let count = || self.faults.all_calls() - self.faults.calls(Call::Position);
        let before = count();
        operation.await;
        count() - before
    }

    /// What another client writes by itself.
    async fn elsewhere(&self, name: &str, bytes: &[u8]) {
        let mut meta = serde_json::Map::new();
        meta.insert("kind".into(), "file".into());
        meta.insert("size".into(), bytes.len().into());
        let key = Key::new(&format!("p/{name}")).unwrap();
        let put = Put {
            id: SystemClock.version_id(),
            key,
            meta,
            defaults: serde_json::Map::new(),
            data: Some(Bytes::copy_from_slice(bytes)),
            expect: Precondition::Any,
            extends: None,
            drops: vec![],
            grown: None,
        };
        self.server.commit(Batch::one(Op::Put(put), &Arc::default())).await.unwrap();
    }

    async fn delete_elsewhere(&self, name: &str) {
        let key = Key::new(&format!("p/{name}")).unwrap();
        let delete = Delete { id: SystemClock.version_id(), key, expect: Precondition::Any };
        self.server.commit(Batch::one(Op::Delete(delete), &Arc::default())).await.unwrap();
    }
}

#[tokio::test]
async fn link_counts_of_directories_that_this_mount_knows_in_full() {
    let bench = Bench::new();
    let nlink = async |ino| bench.vfs.getattr(ino).await.unwrap().attr.nlink;
    let a = bench.vfs.mkdir(InodeNo::ROOT, b"a", 0o755, ROOT).await.unwrap().attr;
    let b = bench.vfs.mkdir(InodeNo::ROOT, b"b", 0o755, ROOT).await.unwrap().attr;
    bench.vfs.mkdir(a.ino, b"one", 0o755, ROOT).await.unwrap();
    bench.vfs.mkdir(a.ino, b"two", 0o755, ROOT).await.unwrap();
    assert_eq!((a.nlink, nlink(a.ino).await, nlink(b.ino).await), (2, 4, 2));
    bench.vfs.rename(a.ino, b"one", b.ino, b"one", false).await.unwrap();
    assert_eq!((nlink(a.ino).await, nlink(b.ino).await), (3, 3));
    let one = bench.lookup(b.ino, "one").await.unwrap();
    assert_eq!(nlink(one).await, 2, "what is empty stays empty under another name");
    bench.vfs.rmdir(b.ino, b"one").await.unwrap();
    assert_eq!(nlink(b.ino).await, 2);
    // The root was not listed: what is in it is not known.
    assert_eq!(nlink(InodeNo::ROOT).await, 1);
    bench.list(InodeNo::ROOT).await;
    assert_eq!(nlink(InodeNo::ROOT).await, 4);
}

#[tokio::test]
async fn round_trips() {
    let bench = Bench::new();
    assert_eq!(bench.cost(bench.vfs.mkdir(InodeNo::ROOT, b"d", 0o755, ROOT)).await, 2, "lookup and mkdir");
    bench.list(InodeNo::ROOT).await;
    assert_eq!(bench.cost(bench.vfs.mkdir(InodeNo::ROOT, b"e", 0o755, ROOT)).await, 1);
    let dir = bench.lookup(InodeNo::ROOT, "d").await.unwrap();
    let small = async {
        let (handle, _) = bench.create(dir, "f", TRUNCATE).await;
        bench.write(handle, 0, b"small").await;
        bench.close(handle).await;
    };
    assert_eq!(bench.cost(small).await, 1, "create, write, close in a directory that this mount made");
    assert_eq!(bench.cost(bench.lookup(dir, "f")).await, 0);
    assert_eq!(bench.cost(bench.lookup(dir, "absent")).await, 0);
    let ino = bench.lookup(dir, "f").await.unwrap();
    assert_eq!(bench.cost(bench.vfs.getattr(ino)).await, 0);
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert_eq!(bench.cost(bench.vfs.setattr(ino, set, None, ROOT)).await, 1);
    assert_eq!(bench.cost(bench.vfs.rename(dir, b"f", dir, b"g", false)).await, 1);
    assert_eq!(bench.cost(bench.vfs.unlink(dir, b"g")).await, 1);
    let unpublished = async {
        let (handle, _) = bench.create(InodeNo::ROOT, "t", TRUNCATE).await;
        bench.vfs.unlink(InodeNo::ROOT, b"t").await.unwrap();
        bench.close(handle).await;
    };
    assert_eq!(bench.cost(unpublished).await, 0, "a file that never was");
    assert_eq!(bench.cost(bench.vfs.rename(InodeNo::ROOT, b"d", InodeNo::ROOT, b"dd", false)).await, 1);
    assert_eq!(bench.cost(bench.vfs.rmdir(InodeNo::ROOT, b"e")).await, 1);
    assert_eq!(bench.cost(bench.vfs.rmdir(InodeNo::ROOT, b"dd")).await, 1);
}

#[tokio::test]
async fn a_cold_listing_is_one_round_trip_per_page() {
    let server = Arc::new(MemStore::new());
    let bench = Bench::over(server.clone(), |_| {});
    for n in 0..1_500 {
        bench.put(&format!("n{n}"), b"x").await;
    }
    let cold = Bench::over(server, |_| {});
    assert_eq!(cold.cost(async { assert_eq!(cold.list(InodeNo::ROOT).await, 1_500) }).await, 2);
    assert_eq!(cold.cost(cold.lookup(InodeNo::ROOT, "n77")).await, 0);
    assert_eq!(cold.cost(cold.lookup(InodeNo::ROOT, "absent")).await, 0);
}

#[tokio::test]
async fn one_description_leaves_one_version() {
    let bench = Bench::new();
    let (handle, ino) = bench.create(InodeNo::ROOT, "f", WRITE).await;
    for n in 0..5 {
        bench.write(handle, n, b"x").await;
        bench.vfs.fsync(handle, false).await.unwrap();
        bench.vfs.flush_handle(handle).await.unwrap();
    }
    bench.close(handle).await;
    assert_eq!(bench.versions("f").await.len(), 1);
    for n in 2..5_usize {
        let file = bench.vfs.open(ino, APPEND, ROOT).await.unwrap();
        bench.write(file.handle, 0, b"y").await;
        bench.vfs.flush_handle(file.handle).await.unwrap();
        bench.write(file.handle, 0, b"z").await;
        bench.close(file.handle).await;
        assert_eq!(bench.versions("f").await.len(), n);
    }
    let file = bench.vfs.open(ino, WRITE, ROOT).await.unwrap();
    bench.close(file.handle).await;
    assert_eq!(bench.versions("f").await.len(), 4, "nothing was written");
    assert_eq!(bench.read("f").await, b"xxxxxyzyzyz");
}

#[tokio::test]
async fn a_large_file_in_progress_keeps_no_rows_of_its_past() {
    let bench = Bench::new();
    let (handle, _) = bench.create(InodeNo::ROOT, "f", WRITE).await;
    bench.write(handle, 0, &vec![1; 1 << 20]).await;
    bench.vfs.fsync(handle, false).await.unwrap();
    let rows = bench.server.row_count();
    for n in 0..6 {
        bench.write(handle, n * 1000, b"changed").await;
        bench.vfs.fsync(handle, false).await.unwrap();
    }
    assert_eq!(bench.server.row_count(), rows, "each publication replaced the one before, and its chunk");
    bench.close(handle).await;
}

#[tokio::test]
async fn a_shells_redirection_leaves_one_version() {
    let bench = Bench::new();
    for n in 1..3_usize {
        // open, dup2, close of the first, write, close: the first close has nothing to publish but the truncation.
        let (handle, _) = bench.create(InodeNo::ROOT, "f", TRUNCATE).await;
        assert_eq!(bench.cost(async { bench.vfs.flush_handle(handle).await.unwrap() }).await, 0);
        bench.write(handle, 0, b"echo").await;
        bench.close(handle).await;
        assert_eq!(bench.versions("f").await.len(), n);
    }
    let (handle, _) = bench.create(InodeNo::ROOT, "f", TRUNCATE).await;
    bench.close(handle).await;
    assert_eq!(bench.versions("f").await[0].meta.size, 0, "`: > f` is published at release");
}

#[tokio::test]
async fn a_creation_that_was_closed_is_published_soon() {
    let bench = Bench::new();
    let (handle, _) = bench.create(InodeNo::ROOT, "f", TRUNCATE).await;
    bench.vfs.flush_handle(handle).await.unwrap();
    wait_for(async || bench.versions("f").await.len() == 1).await;
    bench.write(handle, 0, b"later").await;
    bench.close(handle).await;
    assert_eq!(bench.versions("f").await.len(), 1);
}

#[tokio::test]
async fn written_data_is_published_in_time() {
    let bench = Bench::over(Arc::new(MemStore::new()), |config| config.publish_after = Duration::from_millis(10));
    let (handle, _) = bench.create(InodeNo::ROOT, "log", APPEND).await;
    bench.write(handle, 0, b"line").await;
    wait_for(async || bench.versions("log").await.first().is_some_and(|head| head.meta.size == 4)).await;
    bench.close(handle).await;
}

#[tokio::test]
async fn attributes_ride_in_the_row_of_a_creation() {
    let bench = Bench::new();
    bench.list(InodeNo::ROOT).await;
    let all = async {
        let (handle, ino) = bench.create(InodeNo::ROOT, "f", TRUNCATE).await;
        bench.write(handle, 0, b"x").await;
        let set = SetAttr { mode: Some(0o400), uid: Some(5), gid: Some(6), ..SetAttr::default() };
        bench.vfs.setattr(ino, set, Some(handle), ROOT).await.unwrap();
        bench.vfs.setxattr(ino, b"user.x", b"1", pgfiles_vfs::XattrMode::Set).await.unwrap();
        bench.close(handle).await;
    };
    assert_eq!(bench.cost(all).await, 1);
    let head = bench.versions("f").await.remove(0);
    assert_eq!((head.meta.mode, head.meta.uid, head.meta.gid, head.meta.rev), (Some(0o400), Some(5), Some(6), 0));
    assert_eq!(head.meta.xattrs["user.x"], b"1");
}

#[tokio::test]
async fn appends_of_two_mounts_are_both_kept() {
    for size in [10, 600_000] {
        let bench = Bench::new();
        let base = vec![b'-'; size];
        bench.put("log", &base).await;
        let ino = bench.lookup(InodeNo::ROOT, "log").await.unwrap();
        let file = bench.vfs.open(ino, APPEND, ROOT).await.unwrap();
        bench.write(file.handle, 0, b"mine").await;
        let other = Bench::over(bench.server.clone(), |_| {});
        let ino = other.lookup(InodeNo::ROOT, "log").await.unwrap();
        let theirs = other.vfs.open(ino, APPEND, ROOT).await.unwrap();
        other.write(theirs.handle, 0, b"theirs").await;
        other.close(theirs.handle).await;
        bench.close(file.handle).await;
        let expected = [base.as_slice(), b"theirs", b"mine"].concat();
        assert!(bench.read("log").await == expected, "{size}");
        assert_eq!(bench.versions("log").await.len(), 3);
    }
}

#[tokio::test]
async fn overwrites_of_two_mounts_are_both_versions() {
    let bench = Bench::new();
    bench.put("f", b"base").await;
    let ino = bench.lookup(InodeNo::ROOT, "f").await.unwrap();
    let file = bench.vfs.open(ino, WRITE, ROOT).await.unwrap();
    bench.write(file.handle, 0, b"MINE").await;
    bench.elsewhere("f", b"theirs").await;
    bench.close(file.handle).await;
    let sizes: Vec<u64> = bench.versions("f").await.iter().map(|head| head.meta.size).collect();
    assert_eq!(sizes, [4, 6, 4]);
    assert_eq!(bench.read("f").await, b"MINE");
}

#[tokio::test]
async fn deleted_elsewhere_is_published_after_the_tombstone() {
    let bench = Bench::new();
    let ino = bench.put("f", b"base").await;
    let set = SetAttr { mode: Some(0o751), ..SetAttr::default() };
    bench.vfs.setattr(ino, set, None, ROOT).await.unwrap();
    for mode in [WRITE, APPEND] {
        let file = bench.vfs.open(ino, mode, ROOT).await.unwrap();
        bench.write(file.handle, 0, b"again").await;
        bench.delete_elsewhere("f").await;
        bench.close(file.handle).await;
        let head = bench.versions("f").await.remove(0);
        assert_eq!((head.is_live(), head.meta.mode, head.meta.ino), (true, Some(0o751), Some(ino.0)));
    }
}

#[tokio::test]
async fn deleted_here_is_never_resurrected() {
    let bench = Bench::new();
    let ino = bench.put("f", b"base").await;
    let file = bench.vfs.open(ino, WRITE, ROOT).await.unwrap();
    bench.write(file.handle, 0, b"x").await;
    bench.vfs.unlink(InodeNo::ROOT, b"f").await.unwrap();
    bench.write(file.handle, 1, b"y").await;
    bench.vfs.fsync(file.handle, false).await.unwrap();
    bench.close(file.handle).await;
    bench.vfs.flush(None).await.unwrap();
    assert!(!bench.versions("f").await[0].is_live());
    assert_eq!(bench.vfs.status().dirty_bytes, 0);
}

#[tokio::test]
async fn a_failed_publication_keeps_the_data_and_is_told_once() {
    let bench = Bench::new();
    let (handle, _) = bench.create(InodeNo::ROOT, "f", TRUNCATE).await;
    bench.write(handle, 0, b"precious").await;
    bench.faults.plan(Some(Call::Commit), 0, Fault::Fail(StoreKind::NoSpace), u64::MAX);
    assert!(matches!(bench.vfs.flush_handle(handle).await, Err(VfsError::NoSpace)));
    bench.vfs.release(handle).await;
    assert_eq!(bench.vfs.status().errors.len(), 1);
    assert_eq!(bench.read_unpublished("f").await, b"precious");
    bench.faults.heal();
    // Told when it was closed, so nobody else hears of it; what is written later goes on top.
    bench.vfs.flush(None).await.unwrap();
    assert_eq!(bench.versions("f").await.len(), 1);
    assert!(bench.vfs.status().errors.is_empty());
    assert_eq!(bench.read("f").await, b"precious");
}

impl Bench {
    async fn read_unpublished(&self, name: &str) -> Vec<u8> {
        let ino = self.lookup(InodeNo::ROOT, name).await.unwrap();
        let file = self.vfs.open(ino, OpenMode { read: true, ..OpenMode::default() }, ROOT).await.unwrap();
        let bytes = self.vfs.read(file.handle, 0, 1 << 20).await.unwrap();
        self.vfs.release(file.handle).await;
        bytes.to_vec()
    }
}

#[tokio::test]
async fn dirty_memory_is_bounded() {
    const BOUND: u64 = 16 << 20;
    let bench = Bench::over(Arc::new(MemStore::new()), |config| config.dirty_bytes_max = BOUND);
    let (large, _) = bench.create(InodeNo::ROOT, "large", TRUNCATE).await;
    let piece = vec![3; 1 << 20];
    let mut small = Vec::new();
    for n in 0..100 {
        bench.write(large, n << 20, &piece).await;
        let (handle, _) = bench.create(InodeNo::ROOT, &format!("s{n}"), TRUNCATE).await;
        bench.write(handle, 0, &piece[..200_000]).await;
        small.push(handle);
        assert!(bench.vfs.status().dirty_bytes <= BOUND + (2 << 20), "at {n}: {}", bench.vfs.status().dirty_bytes);
    }
    bench.close(large).await;
    for handle in small {
        bench.close(handle).await;
    }
    assert_eq!(bench.versions("large").await.len(), 1);
    assert_eq!(bench.read("large").await.len(), 100 << 20);
    assert_eq!(bench.vfs.status().dirty_bytes, 0);
}

#[tokio::test]
async fn an_append_to_a_large_file_moves_kilobytes() {
    let bench = Bench::new();
    let (handle, ino) = bench.create(InodeNo::ROOT, "f", TRUNCATE).await;
    let piece = vec![3; 1 << 20];
    for n in 0..160 {
        bench.write(handle, n << 20, &piece).await;
    }
    bench.close(handle).await;
    let before = bench.stack.metrics.snapshot();
    let file = bench.vfs.open(ino, APPEND, ROOT).await.unwrap();
    bench.write(file.handle, 0, &[4; 100]).await;
    bench.close(file.handle).await;
    let after = bench.stack.metrics.snapshot();
    let bytes = |snapshot: &pgfiles_store::layer::metrics::MetricsSnapshot| -> u64 {
        snapshot.methods.iter().map(|method| method.bytes_in + method.bytes_out).sum()
    };
    let moved = bytes(&after) - bytes(&before);
    assert!(moved < 64 << 10, "{moved} bytes");
}

#[tokio::test]
async fn a_closed_file_leaves_nothing_in_the_table() {
    let bench = Bench::new();
    for n in 0..50 {
        let ino = bench.put(&format!("f{n}"), b"x").await;
        bench.read(&format!("f{n}")).await;
        bench.vfs.forget(ino, u64::MAX);
    }
    bench.list(InodeNo::ROOT).await;
    for n in 0..50 {
        let ino = bench.lookup(InodeNo::ROOT, &format!("f{n}")).await.unwrap();
        bench.vfs.unlink(InodeNo::ROOT, format!("f{n}").as_bytes()).await.unwrap();
        bench.vfs.forget(ino, u64::MAX);
    }
    assert_eq!(bench.vfs.status().inodes, 1);
}

#[tokio::test]
async fn a_read_only_mount_refuses() {
    let server = Arc::new(MemStore::new());
    Bench::over(server.clone(), |_| {}).put("f", b"x").await;
    let bench = Bench::over(server, |config| config.read_only = true);
    let ino = bench.lookup(InodeNo::ROOT, "f").await.unwrap();
    assert!(matches!(bench.vfs.open(ino, WRITE, ROOT).await, Err(VfsError::ReadOnly)));
    assert!(matches!(bench.vfs.unlink(InodeNo::ROOT, b"f").await, Err(VfsError::ReadOnly)));
    assert!(matches!(bench.vfs.mkdir(InodeNo::ROOT, b"d", 0o755, ROOT).await, Err(VfsError::ReadOnly)));
    assert_eq!(bench.read("f").await, b"x");
}

#[tokio::test]
async fn two_files_with_one_inode_number_are_two() {
    let server = Arc::new(MemStore::new());
    for name in ["p/a", "p/b"] {
        let meta = serde_json::json!({"version": 1, "kind": "file", "size": 1, "ino": "77"});
        server.insert(&Key::new(name).unwrap(), meta, Some(Bytes::copy_from_slice(&name.as_bytes()[2..])));
    }
    let bench = Bench::over(server, |_| {});
    let (a, b) = (bench.lookup(InodeNo::ROOT, "a").await, bench.lookup(InodeNo::ROOT, "b").await);
    assert_ne!(a, b);
    assert_eq!((bench.read("a").await, bench.read("b").await), (b"a".to_vec(), b"b".to_vec()));
}

#[tokio::test]
async fn a_version_in_progress_is_read_by_another_mount() {
    for size in [100, 900_000] {
        let bench = Bench::new();
        let (handle, _) = bench.create(InodeNo::ROOT, "log", APPEND).await;
        bench.write(handle, 0, &vec![1; size]).await;
        bench.vfs.fsync(handle, false).await.unwrap();
        let other = Bench::over(bench.server.clone(), |_| {});
        // It believes in the first row for the time to live, and that row is gone.
        let ino = other.lookup(InodeNo::ROOT, "log").await.unwrap();
        other.stack.cache.clear().await;
        let ino = other.lookup(InodeNo::ROOT, "log").await.unwrap_or(ino);
        bench.write(handle, 0, b"more").await;
        bench.vfs.fsync(handle, false).await.unwrap();
        let got = other.read("log").await;
        assert!(got.len() == size + 4 || got.len() == size, "{}", got.len());
        let file = other.vfs.open(ino, OpenMode { read: true, ..OpenMode::default() }, ROOT).await.unwrap();
        assert!(other.vfs.read(file.handle, 0, 10).await.is_ok());
        bench.close(handle).await;
    }
}

#[tokio::test]
async fn directory_times_are_persisted() {
    let bench = Bench::new();
    bench.vfs.mkdir(InodeNo::ROOT, b"d", 0o755, ROOT).await.unwrap();
    let dir = bench.lookup(InodeNo::ROOT, "d").await.unwrap();
    bench.vfs.mkdir(dir, b"x", 0o755, ROOT).await.unwrap();
    let shown = bench.vfs.getattr(dir).await.unwrap().attr.mtime;
    bench.vfs.fsyncdir(dir).await.unwrap();
    assert_eq!(bench.vfs.getattr(dir).await.unwrap().attr.mtime, shown);
    assert_eq!(bench.versions("d/").await[0].meta.mtime, Some(shown));
    assert_eq!(bench.versions("d/").await.len(), 1);
}

/// As tar and rsync do: names go into a directory, then its time is set.
#[tokio::test]
async fn a_time_that_is_set_on_a_directory_comes_after_those_on_their_way() {
    let bench = Bench::new();
    bench.vfs.mkdir(InodeNo::ROOT, b"d", 0o755, ROOT).await.unwrap();
    let dir = bench.lookup(InodeNo::ROOT, "d").await.unwrap();
    bench.vfs.mkdir(dir, b"x", 0o755, ROOT).await.unwrap();
    let commits = bench.faults.calls(Call::Commit);
    bench.faults.plan(Some(Call::Commit), 0, Fault::Hold, 1);
    let vfs = bench.vfs.clone();
    let of_names = tokio::spawn(async move { vfs.fsyncdir(dir).await });
    wait_for(async || bench.faults.calls(Call::Commit) > commits).await;
    let old = Timestamp { seconds: 7, nanos: 8 };
    let set = SetAttr { mtime: Some(SetTime::At(old)), ..SetAttr::default() };
    let vfs = bench.vfs.clone();
    let by_hand = tokio::spawn(async move { vfs.setattr(dir, set, None, ROOT).await });
    // All the turns that it can use before the other goes on.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    bench.faults.release();
    of_names.await.unwrap().unwrap();
    assert_eq!(by_hand.await.unwrap().unwrap().attr.mtime, old);
    assert_eq!(bench.vfs.getattr(dir).await.unwrap().attr.mtime, old);
    assert_eq!(bench.versions("d/").await[0].meta.mtime, Some(old));
}

/// Bytes that differ everywhere.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 7 % 251) as u8 + 1).collect()
}

async fn purge(bench: &Bench, name: &str) {
    let scope = PurgeScope::Key(Key::new(&format!("p/{name}")).unwrap());
    let purge = Purge { scope, keep: None, older_than: None, dead: false, dry_run: false };
    assert!(bench.server.purge(&purge).await.unwrap().body_rows > 0);
}

#[tokio::test]
async fn purged_while_it_is_written_it_is_written_whole() {
    for (mode, offset) in [(WRITE, 100), (APPEND, 900_000)] {
        let bench = Bench::new();
        let mut expected = pattern(900_000);
        let ino = bench.put("f", &expected).await;
        let file = bench.vfs.open(ino, mode, ROOT).await.unwrap();
        bench.write(file.handle, offset as u64, b"new").await;
        purge(&bench, "f").await;
        bench.close(file.handle).await;
        expected.truncate(expected.len().max(offset));
        expected.resize(expected.len().max(offset + 3), 0);
        expected[offset..offset + 3].copy_from_slice(b"new");
        let cold = Bench::over(bench.server.clone(), |_| {});
        assert!(cold.read("f").await == expected);
        assert_eq!(bench.versions("f").await.len(), 1);
    }
}

#[tokio::test]
async fn bytes_that_are_gone_are_told_once() {
    let bench = Bench::new();
    let base = pattern(900_000);
    let ino = bench.put("f", &base).await;
    bench.stack.cache.clear().await;
    let file = bench.vfs.open(ino, WRITE, ROOT).await.unwrap();
    bench.write(file.handle, 300_000, b"new").await;
    purge(&bench, "f").await;
    bench.stack.cache.clear().await;
    assert!(matches!(bench.vfs.flush_handle(file.handle).await, Err(VfsError::Corrupt(_))));
    bench.close(file.handle).await;
    bench.vfs.flush(None).await.unwrap();
    assert!(bench.vfs.status().errors.is_empty() && bench.vfs.status().waiting.is_empty());
    let found = bench.read("f").await;
    assert_eq!((found.len(), &found[300_000..300_003], found[0]), (900_000, &b"new"[..], 0));
    let kept = found.iter().zip(&base).filter(|(a, b)| a == b).count();
    assert!(kept >= 1000, "the chunk that was changed is there: {kept}");
}

#[tokio::test]
async fn another_file_of_that_name_is_no_base() {
    let bench = Bench::new();
    let ino = bench.put("f", &pattern(900_000)).await;
    let file = bench.vfs.open(ino, WRITE, ROOT).await.unwrap();
    bench.write(file.handle, 300_000, b"new").await;
    purge(&bench, "f").await;
    let other = Bench::over(bench.server.clone(), |_| {});
    other.put("f", &vec![7; 900_000]).await;
    bench.stack.cache.clear().await;
    assert!(matches!(bench.vfs.fsync(file.handle, false).await, Err(VfsError::Corrupt(_))));
    bench.close(file.handle).await;
    let cold = Bench::over(bench.server.clone(), |_| {});
    let found = cold.read("f").await;
    assert_eq!((&found[300_000..300_003], found[0], bench.versions("f").await.len()), (&b"new"[..], 0, 2));
}

#[tokio::test]
async fn a_base_that_another_mount_extends_is_followed() {
    // Where the other mount writes, and where this one does: another chunk, the same one, beyond the end.
    for (theirs, ours, read_before) in
        [(600_000, 10, true), (10, 50, false), (10, 50, true), (900_000, 10, false), (10, 950_000, false)]
    {
        let other = Bench::new();
        let mut expected = pattern(900_000);
        let (handle, _) = other.create(InodeNo::ROOT, "f", WRITE).await;
        other.write(handle, 0, &expected).await;
        other.vfs.fsync(handle, false).await.unwrap();
        let bench = Bench::over(other.server.clone(), |_| {});
        let ino = bench.lookup(InodeNo::ROOT, "f").await.unwrap();
        let file = bench.vfs.open(ino, WRITE, ROOT).await.unwrap();
        if read_before {
            bench.write(file.handle, ours, b"ours").await;
        } else {
            bench.vfs.read(file.handle, 400_000, 1).await.unwrap();
        }
        other.write(handle, theirs, b"theirs").await;
        other.vfs.fsync(handle, false).await.unwrap();
        bench.write(file.handle, ours, b"ours").await;
        bench.close(file.handle).await;
        other.close(handle).await;
        let mut put = |at: u64, bytes: &[u8]| {
            let (at, end) = (at as usize, at as usize + bytes.len());
            expected.resize(expected.len().max(end), 0);
            expected[at..end].copy_from_slice(bytes);
        };
        if !(read_before && theirs / 1000 == ours / 1000) {
            put(theirs, b"theirs");
        }
        put(ours, b"ours");
        let cold = Bench::over(other.server.clone(), |_| {});
        let found = cold.read("f").await;
        let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!((found.len(), differs), (expected.len(), None), "{theirs} {ours} {read_before}");
        assert_eq!(bench.versions("f").await.len(), 2);
    }
}

/// Waits for a condition, at most ten seconds.
async fn wait_for(mut condition: impl AsyncFnMut() -> bool) {
    let met = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), met).await.expect("within ten seconds");
}

#[tokio::test]
async fn a_listing_shows_what_was_moved_over_a_name_by_its_number() {
    let bench = Bench::new();
    let other = Bench::over(bench.server.clone(), |_| {});
    let moved = bench.put("a", b"moved").await;
    bench.put("b", b"replaced").await;
    other.list(InodeNo::ROOT).await;
    bench.vfs.rename(InodeNo::ROOT, b"a", InodeNo::ROOT, b"b", false).await.unwrap();
    other.stack.cache.invalidate_all();
    assert_eq!(other.list(InodeNo::ROOT).await, 1);
    assert_eq!(other.lookup(InodeNo::ROOT, "b").await, Some(moved));
    // Away, replaced, and back again before anyone looks where it was meanwhile.
    bench.vfs.rename(InodeNo::ROOT, b"b", InodeNo::ROOT, b"c", false).await.unwrap();
    bench.put("b", b"new").await;
    other.stack.cache.invalidate_all();
    assert_ne!(other.lookup(InodeNo::ROOT, "b").await, Some(moved));
    bench.vfs.rename(InodeNo::ROOT, b"c", InodeNo::ROOT, b"b", false).await.unwrap();
    other.stack.cache.invalidate_all();
    other.list(InodeNo::ROOT).await;
    assert_eq!(other.lookup(InodeNo::ROOT, "b").await, Some(moved));
}

#[tokio::test]
async fn a_file_that_is_synced_often_goes_on_in_small_chunks() {
    let t = Bench::new();
    let mut expected: Vec<u8> = (0..700_000_u32).map(|n| (n / 900) as u8).collect();
    t.put("log", &expected).await;
    let ino = t.lookup(InodeNo::ROOT, "log").await.unwrap();
    let chunk = async || t.versions("log").await[0].meta.layout.map(|layout| layout.chunk);
    let handle = t.vfs.open(ino, OpenMode { write: true, ..OpenMode::default() }, ROOT).await.unwrap().handle;
    let overwrite = async |expected: &mut Vec<u8>, n: usize, len: usize| {
        let (at, bytes) = (n * 31_337 % 600_000, vec![n as u8; len]);
        t.write(handle, at as u64, &bytes).await;
        expected[at..at + len].copy_from_slice(&bytes);
        t.vfs.fsync(handle, true).await.unwrap();
    };
    for n in 0..8 {
        overwrite(&mut expected, n, 100).await;
    }
    assert_eq!(chunk().await, Some(128 << 10), "not at once");
    overwrite(&mut expected, 8, 20_000).await;
    for n in 9..17 {
        overwrite(&mut expected, n, 100).await;
    }
    assert_eq!(chunk().await, Some(16 << 10), "eight in a row, and more in one of them counts from the beginning");
    assert!(t.read("log").await == expected);
    // Rows of the version in progress stay while a slice of them is used, and go after the last.
    let rows_of = async || t.server.usage(&Prefix::new("p/").unwrap()).await.unwrap();
    for n in 17..60 {
        overwrite(&mut expected, n, 100).await;
        assert!(t.read("log").await == expected, "after {n}");
    }
    for at in (0..700_000).step_by(4_000) {
        t.write(handle, at as u64, &expected[at..(at + 4_000).min(700_000)]).await;
        t.vfs.fsync(handle, true).await.unwrap();
    }
    assert!(t.read("log").await == expected && t.versions("log").await.len() == 2);
    let kept = rows_of().await;
    assert!((1_400_000..1_400_100).contains(&kept.body_bytes), "every row that nothing names is gone: {kept:?}");
    t.close(handle).await;
}

#[tokio::test]
async fn who_makes_empty_files_faster_than_they_are_taken_waits() {
    let t = Bench::new();
    for n in 0..300 {
        // Their last descriptors are closed and the kernel has not said so yet.
        let (handle, _) = t.create(InodeNo::ROOT, &format!("{n}"), TRUNCATE).await;
        t.vfs.flush_handle(handle).await.unwrap();
    }
    let there = t.server.tree(&Prefix::new("p/").unwrap(), None, 1_000).await.unwrap().len();
    assert!((230..300).contains(&there), "{there} of 300: most are, and the last ones wait for their data");
}
