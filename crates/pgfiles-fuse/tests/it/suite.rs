//! The filesystem suite through a mount of the reference store, and what only a kernel can show.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgfiles_fuse::{MountOptions, Session};
use pgfiles_store::batch::{Batch, Delete, Op, Precondition, Put};
use pgfiles_store::clock::{Clock as _, SystemClock};
use pgfiles_store::mem::MemStore;
use pgfiles_store::{Key, Prefix, Store as _};
use pgfiles_testkit::fs_suite::{self, OnDisk};
use pgfiles_vfs::{Vfs, VfsConfig};
use tokio::runtime::Runtime;

struct Mounted {
    dir: tempfile::TempDir,
    session: Option<Session>,
    store: Arc<MemStore>,
    vfs: Arc<Vfs>,
    runtime: Runtime,
}

impl Mounted {
    /// `None`, with a word why, where this machine cannot mount.
    fn new(ttl: Duration) -> Option<Self> {
        Self::with(|store, config| Vfs::new(store, Arc::new(ttl), config, Arc::new(SystemClock)))
    }

    fn with(make: impl FnOnce(Arc<MemStore>, VfsConfig) -> Arc<Vfs>) -> Option<Self> {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(MemStore::new());
        let vfs = {
            let _inside = runtime.enter();
            let config = VfsConfig::new(Prefix::new("agents/7").unwrap(), "test");
            make(store.clone(), config)
        };
        match pgfiles_fuse::mount(vfs.clone(), &MountOptions::new(dir.path()), runtime.handle().clone()) {
            Ok(session) => Some(Self { dir, session: Some(session), store, vfs, runtime }),
            Err(error) => {
                eprintln!("skipped, because {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What another client puts at a path, or takes away, and the mount is told.
    fn elsewhere(&self, name: &str, bytes: Option<&[u8]>) {
        let key = Key::new(&format!("agents/7/{name}")).unwrap();
        let id = SystemClock.version_id();
        let op = match bytes {
            Some(bytes) => {
                let mut meta = serde_json::Map::new();
                meta.insert("kind".into(), "file".into());
                meta.insert("size".into(), bytes.len().into());
                let (defaults, data) = (serde_json::Map::new(), Some(Bytes::copy_from_slice(bytes)));
                let expect = Precondition::Any;
                Op::Put(Put { id, key: key.clone(), meta, defaults, data, expect, extends: None, drops: vec![], grown: None })
            }
            None => Op::Delete(Delete { id, key: key.clone(), expect: Precondition::Any }),
        };
        self.runtime.block_on(self.store.commit(Batch::one(op, &Arc::default()))).unwrap();
        self.vfs.changed(&[key]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.unmounter().unmount(true).unwrap();
            session.wait().unwrap();
        }
    }
}

#[test]
fn through_a_mount() {
    let Some(mounted) = Mounted::new(Duration::from_secs(30)) else { return };
    fs_suite::run(&OnDisk { root: mounted.path().to_owned() });
}

#[test]
fn through_a_mount_that_trusts_nothing() {
    let Some(mounted) = Mounted::new(Duration::ZERO) else { return };
    fs_suite::run(&OnDisk { root: mounted.path().to_owned() });
}

/// With requests for locks, and names that are taken in the store at once.
#[test]
fn through_a_mount_that_shares() {
    let make =
        |store: Arc<MemStore>, config| Vfs::shared(store.clone(), Arc::new(Duration::ZERO), store, config, Arc::new(SystemClock));
    let Some(mounted) = Mounted::with(make) else { return };
    fs_suite::run(&OnDisk { root: mounted.path().to_owned() });
}

#[test]
fn changes_elsewhere_are_seen_when_told() {
    let Some(mounted) = Mounted::new(Duration::from_secs(3600)) else { return };
    let path = mounted.path().join("f");
    assert!(!path.exists(), "the kernel remembers the absence");
    mounted.elsewhere("f", Some(b"one"));
    wait_for(|| std::fs::read(&path).is_ok_and(|bytes| bytes == b"one"));
    mounted.elsewhere("f", Some(b"two"));
    wait_for(|| std::fs::read(&path).unwrap() == b"two");
    mounted.elsewhere("f", None);
    wait_for(|| !path.exists());
}

#[test]
fn what_is_open_at_unmount_is_published() {
    use std::io::Write as _;
    let Some(mut mounted) = Mounted::new(Duration::from_secs(1)) else { return };
    let mut file = std::fs::File::create(mounted.path().join("f")).unwrap();
    file.write_all(b"unfinished").unwrap();
    let session = mounted.session.take().unwrap();
    assert!(session.unmounter().unmount(false).is_err(), "busy");
    session.unmounter().unmount(true).unwrap();
    file.write_all(b" business").unwrap();
    drop(file);
    session.wait().unwrap();
    let key = Key::new("agents/7/f").unwrap();
    let versions = mounted.runtime.block_on(mounted.store.versions(&key, None, 10)).unwrap();
    assert_eq!(versions.iter().map(|head| head.meta.size).collect::<Vec<_>>(), [19]);
}

#[test]
fn system_calls_through_a_mount() {
    let Some(mounted) = Mounted::new(Duration::from_secs(30)) else { return };
    fs_suite::run_system_calls(mounted.path());
}

/// Waits for a condition, at most ten seconds.
fn wait_for(mut condition: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < until, "not within ten seconds");
        std::thread::yield_now();
    }
}

/// docs/semantics.md, *What FUSE does not carry*, statement by statement.
#[test]
fn what_fuse_does_not_carry_is_refused_as_documented() {
    use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, RenameFlags, XattrFlags};
    use rustix::io::Errno;
    let Some(mounted) = Mounted::new(Duration::ZERO) else { return };
    let at = |name: &str| mounted.path().join(name);
    std::fs::write(at("a"), b"content").unwrap();
    // 43
    let whiteout = rustix::fs::renameat_with(CWD, at("a"), CWD, at("b"), RenameFlags::WHITEOUT);
    assert_eq!(whiteout, Err(Errno::INVAL));
    // 44
    let file = std::fs::OpenOptions::new().write(true).open(at("a")).unwrap();
    for flags in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE, FallocateFlags::UNSHARE_RANGE] {
        assert_eq!(rustix::fs::fallocate(&file, flags, 0, 4096), Err(Errno::OPNOTSUPP), "{flags:?}");
    }
    // 45
    let nameless = rustix::fs::open(mounted.path(), OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR);
    assert_eq!(nameless.err(), Some(Errno::OPNOTSUPP));
    // 46
    // Version 2, then tag, permissions and id of owner, group and others, as `setfacl` sends them.
    let acl: Vec<u8> =
        [2, 0, 0, 0].into_iter().chain([1, 4, 0x20].into_iter().flat_map(|tag| [tag, 0, 6, 0, 255, 255, 255, 255])).collect();
    for name in ["system.posix_acl_access", "system.other", "nonsense"] {
        let set = rustix::fs::setxattr(at("a"), name, &acl, XattrFlags::empty());
        assert_eq!(set, Err(Errno::OPNOTSUPP), "{name}");
    }
    // 47
    let stat = rustix::fs::statx(CWD, at("a"), rustix::fs::AtFlags::empty(), rustix::fs::StatxFlags::ALL).unwrap();
    assert_eq!(stat.stx_mask & rustix::fs::StatxFlags::BTIME.bits(), 0);
    // 48
    assert_eq!(rustix::fs::ioctl_getflags(&file).err(), Some(Errno::NOTTY));
    // 49
    if rustix::process::geteuid().is_root() {
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, at("null"), rustix::fs::FileType::CharacterDevice, Mode::RWXU, null).unwrap();
        let opened = rustix::fs::open(at("null"), OFlags::RDONLY, Mode::empty());
        assert_eq!(opened.err(), Some(Errno::ACCESS));
    }
    assert_eq!(std::fs::read(at("a")).unwrap(), b"content");
}
