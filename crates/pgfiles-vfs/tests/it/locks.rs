//! Locks across mounts: two filesystems over one store, what each is told, and what happens when one of them is cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pgfiles_store::error::Kind;
use pgfiles_store::layer::{Stack, StackConfig};
use pgfiles_store::lock::{Change, LEASE_SECONDS, LockKind, RANGES_MAX};
use pgfiles_store::mem::MemStore;
use pgfiles_store::{Key, Prefix, Store as _};
use pgfiles_testkit::clock::TestClock;
use pgfiles_testkit::fault::{Call, Fault, FaultStore};
use pgfiles_vfs::{Caller, HandleId, InodeNo, LookupReply, OpenMode, Vfs, VfsConfig, VfsError};

const ROOT: Caller = Caller { uid: 0, gid: 0 };
const WRITE: OpenMode = OpenMode { read: true, write: true, append: false, truncate: false, exclusive: false };

struct Mount {
    faults: Arc<FaultStore>,
    vfs: Arc<Vfs>,
}

/// Two mounts of `p/` on one server, which has the same clock as they.
fn two() -> (Arc<TestClock>, Arc<MemStore>, Mount, Mount) {
    let clock = Arc::new(TestClock::new(1));
    let server = Arc::new(MemStore::with_clock(clock.clone()));
    let mount = |id: &str| {
        let faults = Arc::new(FaultStore::new(server.clone()));
        let ttl = StackConfig { retry_timeout: Duration::from_millis(1), metadata_ttl: Duration::ZERO, ..StackConfig::default() };
        let stack = Stack::new(faults.clone(), ttl);
        let mut config = VfsConfig::new(Prefix::new("p").unwrap(), id);
        config.publish_after = Duration::from_secs(3600);
        let vfs = Vfs::shared(stack.store.clone(), stack.fresh.clone(), stack.server.clone(), config, clock.clone());
        Mount { faults, vfs }
    };
    let (one, two) = (mount("one"), mount("two"));
    (clock, server, one, two)
}

impl Mount {
    async fn create(&self, name: &str, mode: OpenMode) -> Result<HandleId, VfsError> {
        Ok(self.vfs.create(InodeNo::ROOT, name.as_bytes(), 0o644, mode, ROOT).await?.1.handle)
    }

    async fn open(&self, name: &str) -> HandleId {
        let LookupReply::Found(found) = self.vfs.lookup(InodeNo::ROOT, name.as_bytes()).await.unwrap() else { panic!("{name}") };
        self.vfs.open(found.attr.ino, WRITE, ROOT).await.unwrap().handle
    }

    async fn lock(&self, handle: HandleId, change: Change) -> Result<(), VfsError> {
        self.vfs.setlk(handle, change, false, || false).await
    }

    async fn write(&self, handle: HandleId, bytes: &'static [u8]) -> Result<u64, VfsError> {
        self.vfs.write(handle, 0, Bytes::from_static(bytes), false).await
    }

    async fn read(&self, handle: HandleId) -> Result<Bytes, VfsError> {
        self.vfs.read(handle, 0, 100).await
    }

    /// As a process that closes its only descriptor.
    async fn close(&self, handle: HandleId, owner: u64) -> Result<(), VfsError> {
        let flushed = self.vfs.flush_handle(handle).await;
        let unlocked = self.vfs.unlock_owner(handle, owner).await;
        self.vfs.release(handle).await;
        flushed.and(unlocked)
    }

    fn locks(&self) -> u64 {
        self.vfs.status().locks.unwrap()
    }
}

fn exclusive(owner: u64) -> Change {
    Change { kind: Some(LockKind::Exclusive), ..Change::unlock_all(owner) }
}

/// What stands in the newest version of a file.
async fn stored(server: &MemStore, name: &str) -> (u64, Vec<u8>) {
    let key = Key::new(&format!("p/{name}")).unwrap();
    let head = server.versions(&key, None, 1).await.unwrap().remove(0);
    let body = pgfiles_store::body::Body::open(server, &head).await.unwrap();
    (head.version.0, body.read(server, 0, 100).await.unwrap().to_vec())
}

#[tokio::test]
async fn what_is_written_under_a_lock_is_seen_by_the_next_holder() {
    let (_, server, one, two) = two();
    let (a, b) = (one.create("f", WRITE).await.unwrap(), two.create("f", WRITE).await.unwrap());
    one.lock(a, exclusive(1)).await.unwrap();
    assert!(matches!(two.lock(b, exclusive(1)).await, Err(VfsError::WouldBlock)));
    one.write(a, b"one").await.unwrap();
    assert_eq!(stored(&server, "f").await.1, b"", "not published yet");
    one.lock(a, Change::unlock_all(1)).await.unwrap();
    assert_eq!(stored(&server, "f").await.1, b"one");
    two.lock(b, exclusive(1)).await.unwrap();
    assert_eq!(&two.read(b).await.unwrap()[..], b"one", "through a description that was open before");
    two.write(b, b"two").await.unwrap();
    two.close(b, 1).await.unwrap();
    one.lock(a, exclusive(1)).await.unwrap();
    assert_eq!(&one.read(a).await.unwrap()[..], b"two");
    assert_eq!((one.locks(), two.locks()), (1, 0));
}

#[tokio::test]
async fn of_many_who_create_one_wins() {
    let (_, server, one, two) = two();
    let only = OpenMode { exclusive: true, ..WRITE };
    let a = one.create("f", only).await.unwrap();
    assert!(matches!(two.create("f", only).await, Err(VfsError::Exists)));
    let b = two.create("f", WRITE).await.unwrap();
    one.write(a, b"x").await.unwrap();
    one.close(a, 1).await.unwrap();
    assert_eq!(stored(&server, "f").await, (1, b"x".to_vec()), "one description, one version");
    let again = two.open("f").await;
    assert_eq!(&two.read(b).await.unwrap()[..], b"x", "the same file");
    assert_eq!(&two.read(again).await.unwrap()[..], b"x");
    // Both find nothing, and one of them is first.
    one.faults.plan(Some(Call::Commit), 0, Fault::Hold, 1);
    let (late, early) = tokio::join!(one.create("g", only), async {
        let made = two.create("g", only).await;
        one.faults.release();
        made
    });
    assert!(early.is_ok() && matches!(late, Err(VfsError::Exists)), "{late:?}");
}

#[tokio::test]
async fn closing_frees_what_it_should() {
    let (_, _, one, two) = two();
    let (a, again, b) = (one.create("f", WRITE).await.unwrap(), one.open("f").await, two.open("f").await);
    one.lock(a, exclusive(1)).await.unwrap();
    // Another process closes its descriptor of the same file.
    one.vfs.unlock_owner(again, 2).await.unwrap();
    assert!(matches!(two.lock(b, exclusive(1)).await, Err(VfsError::WouldBlock)));
    // The process itself closes another descriptor.
    one.vfs.unlock_owner(again, 1).await.unwrap();
    two.lock(b, exclusive(1)).await.unwrap();
    two.lock(b, Change::unlock_all(1)).await.unwrap();
    // A lock of the description goes with it, whoever asked for it.
    one.lock(again, exclusive(77)).await.unwrap();
    one.vfs.unlock_owner(again, 1).await.unwrap();
    assert!(matches!(two.lock(b, exclusive(1)).await, Err(VfsError::WouldBlock)));
    one.vfs.release(again).await;
    two.lock(b, exclusive(1)).await.unwrap();
    assert_eq!(one.locks(), 0);
}

#[tokio::test]
async fn locks_cost_what_they_must() {
    let (_, _, one, _) = two();
    let a = one.create("f", WRITE).await.unwrap();
    one.lock(a, exclusive(1)).await.unwrap();
    one.lock(a, Change::unlock_all(1)).await.unwrap();
    one.faults.reset_counts();
    one.lock(a, exclusive(1)).await.unwrap();
    assert_eq!((one.faults.calls(Call::Lock), one.faults.calls(Call::Lease)), (1, 0));
    assert!(matches!(one.lock(a, exclusive(2)).await, Err(VfsError::WouldBlock)));
    assert_eq!(one.faults.calls(Call::Lock), 1, "what this mount holds needs no question");
    one.vfs.renew_locks().await.unwrap();
    assert_eq!(one.faults.calls(Call::Lease), 0, "not yet");
    one.lock(a, Change::unlock_all(1)).await.unwrap();
    one.faults.reset_counts();
    one.close(a, 1).await.unwrap();
    assert_eq!((one.faults.calls(Call::Lock), one.faults.calls(Call::Lease)), (0, 0));
}

#[tokio::test]
async fn a_lock_that_others_took_is_lost() {
    let (clock, server, one, two) = two();
    let (a, b) = (one.create("f", WRITE).await.unwrap(), two.create("f", WRITE).await.unwrap());
    let bystander = one.open("f").await;
    one.lock(a, exclusive(1)).await.unwrap();
    one.write(a, b"late").await.unwrap();
    clock.advance(Duration::from_secs(LEASE_SECONDS + 1));
    two.lock(b, exclusive(1)).await.unwrap();
    two.write(b, b"in time").await.unwrap();
    two.close(b, 1).await.unwrap();
    let versions = stored(&server, "f").await.0;
    one.vfs.renew_locks().await.unwrap();
    assert!(matches!(one.write(a, b"more").await, Err(VfsError::LockLost)));
    assert!(matches!(one.read(a).await, Err(VfsError::LockLost)));
    assert!(matches!(one.lock(a, exclusive(1)).await, Err(VfsError::LockLost)));
    assert!(one.vfs.flush(None).await.is_err());
    assert!(matches!(one.close(a, 1).await, Err(VfsError::LockLost)));
    assert_eq!(stored(&server, "f").await, (versions, b"in time".to_vec()), "nothing was put over it");
    assert_eq!(&one.read(bystander).await.unwrap()[..], b"in time");
    let again = one.open("f").await;
    one.lock(again, exclusive(1)).await.unwrap();
    assert_eq!(&one.read(again).await.unwrap()[..], b"in time");
    one.write(again, b"fine").await.unwrap();
    one.close(again, 1).await.unwrap();
    assert_eq!(stored(&server, "f").await.1, b"fineime");
    assert_eq!(one.vfs.status().dirty_bytes, 0);
}

/// A mount that does not know yet asks before it publishes.
#[tokio::test]
async fn a_late_writer_asks_before_it_publishes() {
    let (clock, server, one, two) = two();
    let (a, b) = (one.create("f", WRITE).await.unwrap(), two.create("f", WRITE).await.unwrap());
    one.lock(a, exclusive(1)).await.unwrap();
    one.write(a, b"late").await.unwrap();
    clock.advance(Duration::from_secs(LEASE_SECONDS + 1));
    two.lock(b, exclusive(1)).await.unwrap();
    assert!(matches!(one.close(a, 1).await, Err(VfsError::LockLost)));
    assert_eq!(stored(&server, "f").await.1, b"");
}

#[tokio::test]
async fn who_was_away_keeps_what_nobody_took() {
    let (clock, server, one, two) = two();
    let (a, b) = (one.create("f", WRITE).await.unwrap(), two.create("f", WRITE).await.unwrap());
    one.lock(a, exclusive(1)).await.unwrap();
    one.write(a, b"mine").await.unwrap();
    clock.advance(Duration::from_secs(3600));
    one.vfs.renew_locks().await.unwrap();
    assert!(matches!(two.lock(b, exclusive(1)).await, Err(VfsError::WouldBlock)));
    one.close(a, 1).await.unwrap();
    assert_eq!(stored(&server, "f").await.1, b"mine");
    two.lock(b, exclusive(1)).await.unwrap();
}

/// After a restart of the server the locks are taken anew, and nobody slips in between.
#[tokio::test]
async fn a_server_that_starts_again_is_told() {
    let (clock, server, one, two) = two();
    let (a, b) = (one.create("f", WRITE).await.unwrap(), two.create("f", WRITE).await.unwrap());
    one.lock(a, exclusive(1)).await.unwrap();
    server.fail_over();
    clock.advance(Duration::from_secs(4));
    one.faults.reset_counts();
    one.vfs.renew_locks().await.unwrap();
    assert_eq!((one.faults.calls(Call::Lock), one.faults.calls(Call::Lease)), (1, 3), "renew, next, settle");
    assert!(matches!(two.lock(b, exclusive(1)).await, Err(VfsError::WouldBlock)));
    one.write(a, b"x").await.unwrap();
    one.close(a, 1).await.unwrap();
    two.lock(b, exclusive(1)).await.unwrap();
}

/// A lock whose answer was lost is not believed in, and not left behind either.
#[tokio::test]
async fn a_lock_that_may_have_been_granted_is_given_back() {
    let (_, _, one, two) = two();
    let (a, b) = (one.create("f", WRITE).await.unwrap(), two.create("f", WRITE).await.unwrap());
    let other = one.create("g", WRITE).await.unwrap();
    one.lock(other, exclusive(5)).await.unwrap();
    one.faults.plan(Some(Call::Lock), 0, Fault::LoseReply, 50);
    assert!(matches!(one.lock(a, exclusive(1)).await, Err(VfsError::Unavailable(_))));
    one.faults.heal();
    assert!(matches!(two.lock(b, exclusive(1)).await, Err(VfsError::WouldBlock)), "the server has it");
    one.vfs.renew_locks().await.unwrap();
    two.lock(b, exclusive(1)).await.unwrap();
    let g = two.open("g").await;
    assert!(matches!(two.lock(g, exclusive(1)).await, Err(VfsError::WouldBlock)), "what was held is held");
    // An unlock that did not arrive is made up for.
    one.faults.plan(Some(Call::Lock), 0, Fault::Fail(Kind::Unavailable), 50);
    one.close(other, 5).await.unwrap();
    one.faults.heal();
    assert!(matches!(two.lock(g, exclusive(1)).await, Err(VfsError::WouldBlock)));
    one.vfs.renew_locks().await.unwrap();
    two.lock(g, exclusive(1)).await.unwrap();
}

#[tokio::test]
async fn waiting_ends_as_it_should() {
    let (_, _, one, two) = two();
    let (a, b) = (one.create("f", WRITE).await.unwrap(), two.create("f", WRITE).await.unwrap());
    one.lock(a, exclusive(1)).await.unwrap();
    // By a signal.
    let asked = AtomicUsize::new(0);
    let interrupted = || asked.fetch_add(1, Ordering::Relaxed) == 2;
    assert!(matches!(two.vfs.setlk(b, exclusive(1), true, interrupted).await, Err(VfsError::Interrupted)));
    // By the release of the description.
    let (waited, ()) = tokio::join!(two.vfs.setlk(b, exclusive(1), true, || false), async {
        two.faults.plan(Some(Call::Lock), 2, Fault::Delay(Duration::ZERO), 1);
        two.vfs.release(b).await;
    });
    assert!(matches!(waited, Err(VfsError::BadHandle)), "{waited:?}");
    // By an outage.
    let b = two.open("f").await;
    two.faults.plan(Some(Call::Lock), 3, Fault::Fail(Kind::Unavailable), 50);
    assert!(matches!(two.vfs.setlk(b, exclusive(1), true, || false).await, Err(VfsError::Unavailable(_))));
    two.faults.heal();
    // By success.
    let (waited, ()) = tokio::join!(two.vfs.setlk(b, exclusive(1), true, || false), async {
        one.vfs.setlk(a, Change::unlock_all(1), false, || false).await.unwrap();
    });
    waited.unwrap();
    // By the end of the other mount.
    let c = one.open("f").await;
    let (waited, ()) = tokio::join!(one.vfs.setlk(c, exclusive(9), true, || false), async {
        two.vfs.end_locks().await.unwrap();
    });
    waited.unwrap();
}

/// `unmount --force` of a mount in which files are open: what is unsaved is kept, nothing waits for the server any more, and
/// yet its locks are free at once.
#[tokio::test]
async fn a_mount_that_was_given_up_gives_its_locks_back() {
    let (_, _, one, two) = two();
    let a = one.create("f", WRITE).await.unwrap();
    one.lock(a, exclusive(1)).await.unwrap();
    let b = two.open("f").await;
    assert!(matches!(two.lock(b, exclusive(1)).await, Err(VfsError::WouldBlock)));
    let kept = one.vfs.recover(std::path::Path::new("/nonexistent"), Duration::from_secs(1)).await;
    assert!(kept.files.is_empty() && kept.lost.is_empty(), "{kept:?}");
    one.faults.plan(Some(Call::Lease), 0, Fault::Delay(Duration::from_millis(20)), 1);
    one.vfs.end_locks().await.unwrap();
    two.lock(b, exclusive(1)).await.unwrap();
}

#[tokio::test]
async fn too_many_ranges_are_refused() {
    let (_, _, one, _) = two();
    let a = one.create("f", WRITE).await.unwrap();
    for at in 0..RANGES_MAX as u64 {
        one.lock(a, Change { start: at * 2, end: at * 2, ..exclusive(1) }).await.unwrap();
    }
    assert!(matches!(one.lock(a, Change { start: 9999, end: 9999, ..exclusive(1) }).await, Err(VfsError::NoLocks)));
    assert_eq!(one.locks(), RANGES_MAX as u64);
    one.close(a, 1).await.unwrap();
    assert_eq!(one.locks(), 0);
}

#[tokio::test]
async fn without_it_nothing_changes() {
    let server = Arc::new(MemStore::new());
    let config = VfsConfig::new(Prefix::new("p").unwrap(), "alone");
    let vfs = Vfs::new(server.clone(), Arc::new(Duration::ZERO), config, Arc::new(TestClock::new(1)));
    assert!(!vfs.is_shared());
    let (_, file) = vfs.create(InodeNo::ROOT, b"f", 0o644, WRITE, ROOT).await.unwrap();
    assert_eq!(server.row_count(), 0, "a creation costs no row");
    assert!(matches!(vfs.setlk(file.handle, exclusive(1), false, || false).await, Err(VfsError::NotSupported)));
    vfs.unlock_owner(file.handle, 1).await.unwrap();
    vfs.renew_locks().await.unwrap();
    vfs.end_locks().await.unwrap();
    assert_eq!(vfs.status().locks, None);
}
