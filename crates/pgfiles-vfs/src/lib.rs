//! The filesystem: inodes, open files, write buffers, attributes, over any [`Store`]. Adapters (FUSE, NFS) translate
//! their protocol into calls of [`Vfs`], which are named as the kernel's operations.
//!
//! A create costs no row, and a write none either: content is *published* — one [`Put`](pgfiles_store::Op::Put) — at
//! flush, fsync, release or after `publish_after`; every publication of one open file description after the first
//! replaces its predecessor, so that it leaves one version.
//!
//! # Lock order
//! From the outside in; none is taken while a later one is held:
//! 1. `Vfs::moves`: an async read-write lock. Held for reading by everything that commits to a key, for writing by the
//!    rename of a directory, because that changes the keys of all below.
//! 2. `Inode::names` of directories, async, ascending by inode number: creates, removals and renames in it.
//! 3. `Inode::data` of files, async, ascending by inode number: content, and publishing it.
//! 4. The turns and then the lease of `locking::Locking`, async: requests about locks to the store.
//! 5. `Vfs::walk`, async, alone: reading all keys.
//! 6. `Vfs::table`, `Vfs::handles` and the other std mutexes: for moments, never across an await, never two at once
//!    but `table` inside none and nothing inside `table`.

pub mod attr;
mod buffer;
mod dir;
pub mod error;
mod handle;
mod inode;
mod locking;
pub mod notify;
mod ops;
mod patience;
mod progress;
mod publish;
mod read_ahead;
mod recover;
mod rewrite;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pgfiles_store::clock::Clock;
use pgfiles_store::key::{Key, Prefix};
use pgfiles_store::lock::Locks;
use pgfiles_store::store::{Freshness, Store, Usage};
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};

pub use attr::{Attr, Caller, InodeNo, Owner, SetAttr, SetTime};
pub use dir::DirEntry;
pub use error::{Result, VfsError};
pub use handle::{HandleId, OpenMode, Opened};
pub use notify::KernelCache;
pub use ops::allocate::Allocate;
pub use ops::lookup::{EntryReply, LookupReply};
pub use ops::seek::Seek;
pub use ops::statfs::StatFs;
pub use ops::xattr::XattrMode;
pub use progress::{Activity, Pulse};
pub use recover::{Kept, KeptFile};

use patience::Patience;
use progress::RwLock;

/// What a mount is.
#[derive(Debug, Clone)]
pub struct VfsConfig {
    /// What is shown as the root.
    pub prefix: Prefix,
    /// Recorded in every version.
    pub by: Arc<Value>,
    /// Marks unpublished rows of bodies; the same as in `by.mount`.
    pub mount_id: Arc<str>,
    /// Refuses every change.
    pub read_only: bool,
    /// Whose the files are.
    pub owner: Owner,
    /// Who mounted.
    pub uid: u32,
    /// Who mounted.
    pub gid: u32,
    /// After how long written data is published without anyone asking.
    pub publish_after: Duration,
    /// A temporary name younger than that leaves nothing behind when renamed; 0: never.
    pub young_seconds: u32,
    /// After how many syncs in a row of at most 16 KiB a large file goes on in small chunks.
    pub cut_after: u32,
    /// How much unpublished data is held in memory over all files.
    pub dirty_bytes_max: u64,
    /// What `statfs` shows as free.
    pub free_bytes: u64,
    /// After how long a request is given up that makes no progress; longer than the store tries again.
    pub stalled_after: Duration,
}

impl VfsConfig {
    /// The defaults, for a mount of that prefix with that id.
    pub fn new(prefix: Prefix, mount_id: &str) -> Self {
        Self {
            prefix,
            by: Arc::new(serde_json::json!({ "mount": mount_id })),
            mount_id: mount_id.into(),
            read_only: false,
            owner: Owner::Stored,
            uid: 0,
            gid: 0,
            publish_after: Duration::from_secs(5),
            young_seconds: 60,
            cut_after: 8,
            dirty_bytes_max: 48 << 20,
            free_bytes: 1 << 50,
            stalled_after: Duration::from_secs(90),
        }
    }
}

/// What a mount is doing.
#[derive(Debug, Clone, Default)]
pub struct VfsStatus {
    /// Bytes written and not yet published.
    pub dirty_bytes: u64,
    /// Open file descriptions.
    pub open_files: u64,
    /// Inodes that the kernel knows.
    pub inodes: u64,
    /// Ranges locked across mounts; `None` where the kernel keeps locks by itself.
    pub locks: Option<u64>,
    /// Paths with unpublished changes, at most 100.
    pub waiting: Vec<String>,
    /// Paths whose last publication failed, and why; at most 100.
    pub errors: Vec<(String, String)>,
}

/// A mounted filesystem. Must be made inside a tokio runtime.
pub struct Vfs {
    store: Arc<dyn Store>,
    /// The same as `store`, to end the waiting for it.
    patience: Arc<Patience>,
    fresh: Arc<dyn Freshness>,
    clock: Arc<dyn Clock>,
    config: VfsConfig,
    view: attr::View,
    moves: RwLock,
    table: Mutex<inode::Table>,
    handles: Mutex<handle::Handles>,
    kernel: OnceLock<Arc<dyn KernelCache>>,
    /// Which files have unpublished changes, and until when they may.
    due: Mutex<publish::Due>,
    due_changed: Arc<Notify>,
    dirty_bytes: AtomicU64,
    /// Batches of body rows on their way, over all files.
    spills: Arc<Semaphore>,
    /// Files that are published without anyone waiting for it.
    background: Semaphore,
    usage: Mutex<Option<(Instant, Usage)>>,
    /// Where files are by their numbers, of the last time that somebody asked.
    walk: tokio::sync::Mutex<Option<ops::resolve::Walk>>,
    /// For a mount that shares its prefix with others.
    locking: Option<locking::Locking>,
    closing: AtomicBool,
    runtime: tokio::runtime::Handle,
}

impl Vfs {
    /// A filesystem over a store. Starts the task that publishes in time, which ends with [`Vfs::shutdown`] or the last
    /// reference.
    pub fn new(store: Arc<dyn Store>, fresh: Arc<dyn Freshness>, config: VfsConfig, clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::build(store, fresh, None, config, clock)
    }

    /// The same for a mount that shares its prefix with others: names are taken, and files locked, for all of them
    /// (`PGFILES_SHARED`). `fresh` and `store` should trust nothing without asking. [`Vfs::renew_locks`] has to be called.
    pub fn shared(
        store: Arc<dyn Store>,
        fresh: Arc<dyn Freshness>,
        locks: Arc<dyn Locks>,
        config: VfsConfig,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Self::build(store, fresh, Some(locks), config, clock)
    }

    fn build(
        store: Arc<dyn Store>,
        fresh: Arc<dyn Freshness>,
        locks: Option<Arc<dyn Locks>>,
        config: VfsConfig,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let patience = Arc::new(Patience::new(store, config.stalled_after));
        let (prefix, mount) = (config.prefix.clone(), config.mount_id.clone());
        let locking = locks.map(|locks| locking::Locking::new(locks, patience.clone(), clock.clone(), prefix, mount));
        let vfs = Arc::new(Self {
            store: patience.clone(),
            locking,
            patience,
            fresh,
            view: attr::View { owner: config.owner, uid: config.uid, gid: config.gid },
            moves: RwLock::default(),
            table: Mutex::new(inode::Table::new(&config.prefix)),
            handles: Mutex::default(),
            kernel: OnceLock::new(),
            due: Mutex::default(),
            due_changed: Arc::new(Notify::new()),
            dirty_bytes: AtomicU64::new(0),
            spills: Arc::new(Semaphore::new(buffer::SPILLS_AT_ONCE)),
            background: Semaphore::new(publish::BACKGROUND_MAX),
            usage: Mutex::new(None),
            walk: tokio::sync::Mutex::new(None),
            closing: AtomicBool::new(false),
            runtime: tokio::runtime::Handle::current(),
            clock,
            config,
        });
        publish::start(&vfs);
        vfs
    }

    /// Who is told of changes that the kernel did not make. Once.
    pub fn set_kernel_cache(&self, kernel: Arc<dyn KernelCache>) {
        let _ = self.kernel.set(kernel);
    }

    /// The store that the mount works on.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// How far an operation and all whom it waits for have got; `None` while a request to the store is under way that it
    /// waits for, which ends by itself. An operation that waits while this stays the same waits for nothing.
    pub fn pulse(&self, of: &Arc<Activity>) -> Option<Pulse> {
        of.pulse(|| self.patience.at_rest())
    }

    /// What the mount was made with.
    pub fn config(&self) -> &VfsConfig {
        &self.config
    }

    /// The path below the mount point that shows a key; `None` for a key outside the prefix or that no path can have.
    pub fn path_of(&self, key: &Key) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStringExt as _;
        let path = self.config.prefix.strip(key)?;
        let mut out = PathBuf::new();
        for component in path.strip_suffix('/').unwrap_or(path).split('/').filter(|_| !path.is_empty()) {
            let name = pgfiles_store::Name::from_component(component)?;
            out.push(std::ffi::OsString::from_vec(name.as_bytes().to_vec()));
        }
        Some(out)
    }

    /// What the mount is doing.
    pub fn status(&self) -> VfsStatus {
        let mut status = VfsStatus { dirty_bytes: self.dirty_bytes.load(Ordering::Relaxed), ..VfsStatus::default() };
        status.open_files = self.handles().open_files();
        status.locks = self.locking.as_ref().map(locking::Locking::count);
        let due = self.due().clone();
        let table = self.table();
        status.inodes = table.len();
        for (ino, error) in due.files() {
            let path = table.key_of(ino).map_or_else(|_| format!("(removed inode {})", ino.0), |key| key.to_string());
            if let Some(error) = error.filter(|_| status.errors.len() < 100) {
                status.errors.push((path.clone(), error.to_string()));
            }
            if status.waiting.len() < 100 {
                status.waiting.push(path);
            }
        }
        status
    }

    /// Changes that this mount did not make through its own operations: the keys (a marker's key means that directory
    /// and all below it). The store's cache must have been told before.
    pub fn changed(&self, keys: &[Key]) {
        let found: Vec<inode::Known> = {
            let mut table = self.table();
            keys.iter().flat_map(|key| table.changed(key)).collect()
        };
        self.tell_kernel(found);
    }

    /// The same where anything may have changed: another server, or notices that were missed.
    pub fn changed_everywhere(&self) {
        let found = self.table().changed_everywhere();
        self.tell_kernel(found);
    }

    fn tell_kernel(&self, found: Vec<inode::Known>) {
        let Some(kernel) = self.kernel.get() else { return };
        for known in found {
            if let Some((parent, name)) = &known.place {
                kernel.entry(*parent, name);
            }
            if let Some(ino) = known.ino {
                kernel.inode(ino);
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, inode::Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handles(&self) -> MutexGuard<'_, handle::Handles> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self) -> MutexGuard<'_, publish::Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn writable(&self) -> Result<()> {
        if self.config.read_only { Err(VfsError::ReadOnly) } else { Ok(()) }
    }
}

impl std::fmt::Debug for Vfs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vfs").field("prefix", &self.config.prefix).finish_non_exhaustive()
    }
}
