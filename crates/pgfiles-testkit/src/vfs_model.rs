//! Random operations on [`Vfs`] and on the [`Model`], compared after each step: two mounts of one store, files that are
//! unlinked, renamed and replaced while open, restarts, and the version log of every file that was seen closed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgfiles_store::body::Body;
use pgfiles_store::clock::SystemClock;
use pgfiles_store::key::{Key, Name, Prefix};
use pgfiles_store::store::{Entry, Store};
use pgfiles_store::version::{self, Timestamp, VersionId};
use pgfiles_vfs::{
    Attr, Caller, HandleId, InodeNo, LookupReply, OpenMode, SetAttr, SetTime, Vfs, VfsConfig, VfsError, XattrMode,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::model::{Id, Kind, Model, Refusal};

const ROOT_CALLER: Caller = Caller { uid: 0, gid: 0 };
const NAMES: [&[u8]; 8] = [b"a", b"b", b"c.db", b"a-b", b"a.txt", "\u{fc}".as_bytes(), b"\xff\xfe", "\u{F780}x".as_bytes()];
const OPEN_MAX: usize = 6;
const FILE_BYTES_MAX: usize = 700_000;
/// Steps between comparisons of the whole tree.
const WHOLE_EVERY: usize = 20;

/// How a run is made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Same seed, same operations.
    pub seed: u64,
    /// How many.
    pub steps: usize,
    /// As in [`VfsConfig`].
    pub publish_after: Duration,
    /// As in [`VfsConfig`].
    pub young_seconds: u32,
    /// As in [`VfsConfig`].
    pub dirty_bytes_max: u64,
}

impl Plan {
    /// A plan with the seed in `PGFILES_TEST_SEED`, else that one; as many steps as `PGFILES_TEST_STEPS`, else these.
    pub fn new(seed: u64, steps: usize) -> Self {
        let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
        let seed = number("PGFILES_TEST_SEED").unwrap_or(seed);
        let steps = number("PGFILES_TEST_STEPS").map_or(steps, |steps| steps as usize);
        Self { seed, steps, publish_after: Duration::from_secs(5), young_seconds: 60, dirty_bytes_max: 64 << 20 }
    }
}

struct OpenFile {
    handle: HandleId,
    id: Id,
    mode: OpenMode,
}

/// One of the two mounts.
struct Mount {
    vfs: Arc<Vfs>,
    open: Vec<OpenFile>,
    /// Lookups that were counted and not given back.
    lookups: Vec<InodeNo>,
}

struct Run {
    store: Arc<dyn Store>,
    plan: Plan,
    rng: StdRng,
    model: Model,
    mounts: Vec<Mount>,
    /// The bytes of every version that was seen when its file was closed everywhere.
    log: HashMap<VersionId, (Key, Vec<u8>)>,
    restarts: u32,
}

/// Runs a plan over an empty store.
///
/// # Panics
/// Where the filesystem and the model differ; the message has the seed and the step.
pub async fn run(store: Arc<dyn Store>, plan: Plan) {
    let rng = StdRng::seed_from_u64(plan.seed);
    let steps = plan.steps;
    let mut run = Run { store, plan, rng, model: Model::default(), mounts: Vec::new(), log: HashMap::new(), restarts: 0 };
    run.mounts = vec![run.mount(), run.mount()];
    for step in 0..steps {
        let at = if run.rng.random_bool(0.8) { 0 } else { 1 };
        let what = run.step(at).await;
        if std::env::var_os("PGFILES_TEST_TRACE").is_some() {
            eprintln!("{step} mount {at}: {what}");
        }
        if step % WHOLE_EVERY == WHOLE_EVERY - 1 {
            let seed = run.plan.seed;
            run.compare_all(&format!("seed {seed} step {step} mount {at}: {what}")).await;
        }
    }
    for at in 0..2 {
        run.restart(at, true).await;
    }
    run.compare_all("the end").await;
    run.compare_log().await;
}

fn tag(error: &VfsError) -> Option<Refusal> {
    Some(match error {
        VfsError::NotFound => Refusal::NotFound,
        VfsError::Exists => Refusal::Exists,
        VfsError::NotDirectory => Refusal::NotDirectory,
        VfsError::IsDirectory => Refusal::IsDirectory,
        VfsError::NotEmpty => Refusal::NotEmpty,
        VfsError::InvalidArgument(_) => Refusal::Invalid,
        _ => return None,
    })
}

impl Run {
    fn mount(&mut self) -> Mount {
        let mut config = VfsConfig::new(Prefix::new("model").expect("a prefix"), &format!("mount-{}", self.restarts));
        self.restarts += 1;
        config.publish_after = self.plan.publish_after;
        config.young_seconds = self.plan.young_seconds;
        config.dirty_bytes_max = self.plan.dirty_bytes_max;
        let vfs = Vfs::new(self.store.clone(), Arc::new(Duration::ZERO), config, Arc::new(SystemClock));
        Mount { vfs, open: Vec::new(), lookups: Vec::new() }
    }

    fn same<T: std::fmt::Debug, U: std::fmt::Debug>(&self, what: &str, real: &Result<T, VfsError>, model: &Result<U, Refusal>) {
        let agree = match (real, model) {
            (Ok(_), Ok(_)) => true,
            (Err(real), Err(model)) => tag(real) == Some(*model),
            _ => false,
        };
        assert!(agree, "seed {}: {what}: the filesystem says {real:?}, the model {model:?}", self.plan.seed);
    }

    /// The inode of a node, walked to from the root.
    async fn walk(&mut self, at: usize, id: Id) -> InodeNo {
        let path = self.model.path(id).expect("only nodes with a name are walked to");
        let mut no = InodeNo::ROOT;
        for name in &path {
            let found = self.mounts[at].vfs.lookup(no, name).await;
            match found {
                Ok(LookupReply::Found(entry)) => no = entry.attr.ino,
                other => panic!("seed {}: {} is {other:?} on mount {at}", self.plan.seed, show(&path)),
            }
            self.mounts[at].lookups.push(no);
        }
        no
    }

    /// Whether the other mount has a file open that lies there: what it has not published is not seen here.
    fn is_busy(&self, at: usize, id: Id) -> bool {
        self.mounts[1 - at].open.iter().any(|file| self.model.is_within(file.id, id))
    }

    fn some_dir(&mut self) -> Id {
        *self.model.dirs().choose(&mut self.rng).expect("the root is there")
    }

    fn some_name(&mut self) -> &'static [u8] {
        NAMES.choose(&mut self.rng).expect("there are names")
    }

    async fn step(&mut self, at: usize) -> String {
        let (dir, name) = (self.some_dir(), self.some_name());
        let there = self.model.find(dir, name);
        if there.is_some_and(|id| self.is_busy(at, id)) {
            return "skipped: open elsewhere".into();
        }
        let path = format!("{}/{}", show(&self.model.path(dir).unwrap_or_default()), name.escape_ascii());
        let choice = self.rng.random_range(0..100);
        if std::env::var_os("PGFILES_TEST_TRACE").is_some() {
            eprintln!("choice {choice} {path}");
        }
        let done = match choice {
            0..16 => self.create(at, dir, name).await,
            16..36 => self.write(at).await,
            36..44 => self.read(at).await,
            44..56 => self.close(at).await,
            56..60 => self.fsync(at).await,
            60..66 => self.truncate(at, dir, name).await,
            66..70 => self.make(at, dir, name, Kind::Dir(Default::default())).await,
            70..72 => self.make(at, dir, name, Kind::Symlink(b"some/\xfftarget".to_vec())).await,
            72..77 => self.unlink(at, dir, name).await,
            77..79 => self.rmdir(at, dir, name).await,
            79..89 => self.rename(at, dir, name).await,
            89..93 => self.set_attr(at, dir, name).await,
            93..95 => self.xattr(at, dir, name).await,
            95..97 => self.compare_dir(at, dir, "readdir").await,
            97 => self.flush(at).await,
            98 => self.forget(at),
            _ => {
                let orderly = self.rng.random_bool(0.5);
                self.restart(at, orderly).await
            }
        };
        format!("{path}: {done}")
    }

    async fn create(&mut self, at: usize, dir: Id, name: &'static [u8]) -> String {
        if self.mounts[at].open.len() >= OPEN_MAX {
            return self.close(at).await;
        }
        let mode = OpenMode {
            read: true,
            write: self.rng.random_bool(0.85),
            append: self.rng.random_bool(0.25),
            truncate: self.rng.random_bool(0.2),
            exclusive: self.rng.random_bool(0.1),
        };
        let mode = OpenMode { truncate: mode.truncate && mode.write, append: mode.append && mode.write, ..mode };
        let there = self.model.find(dir, name);
        let what = format!("create {mode:?}");
        if there.is_some_and(|id| matches!(self.model.node(id).kind, Kind::Symlink(_))) {
            return "skipped: the kernel follows symlinks".into();
        }
        let parent = self.walk(at, dir).await;
        let vfs = self.mounts[at].vfs.clone();
        let result = vfs.create(parent, name, 0o640, mode, ROOT_CALLER).await;
        let expected = match there {
            Some(_) if mode.exclusive => Err(Refusal::Exists),
            Some(id) if self.model.node(id).is_dir() => Err(Refusal::IsDirectory),
            Some(id) => Ok(id),
            None => self.model.make(dir, name, Kind::File(Vec::new()), 0o640),
        };
        self.same(&what, &result, &expected);
        if let (Ok((entry, opened)), Ok(id)) = (result, expected) {
            self.mounts[at].lookups.push(entry.attr.ino);
            if mode.truncate && there.is_some() {
                self.model.truncate(id, 0);
            }
            self.mounts[at].open.push(OpenFile { handle: opened.handle, id, mode });
            self.compare(at, id, &what).await;
        }
        what
    }

    /// One of the mount's open files.
    fn some_open(&mut self, at: usize, write: bool) -> Option<(HandleId, Id, OpenMode)> {
        let open: Vec<_> = self.mounts[at].open.iter().filter(|file| file.mode.write || !write).collect();
        open.choose(&mut self.rng).map(|file| (file.handle, file.id, file.mode))
    }

    fn some_bytes(&mut self) -> Vec<u8> {
        let max = *[0, 100, 100, 100, 10_000, 10_000, 400_000].choose(&mut self.rng).unwrap_or(&1);
        let mut bytes = vec![0; self.rng.random_range(0..=max)];
        self.rng.fill(&mut bytes[..]);
        bytes
    }

    async fn write(&mut self, at: usize) -> String {
        let Some((handle, id, mode)) = self.some_open(at, true) else { return "nothing open".into() };
        let bytes = self.some_bytes();
        let size = self.model.node(id).bytes().len();
        let offset = match self.rng.random_range(0..4) {
            0 => size,
            1 => 0,
            2 => self.rng.random_range(0..=size),
            _ => self.rng.random_range(0..=size + 300_000),
        };
        let what = format!("write {} at {offset} of node {id} {mode:?}", bytes.len());
        if offset.max(size) + bytes.len() > FILE_BYTES_MAX {
            return "skipped: large enough".into();
        }
        let vfs = self.mounts[at].vfs.clone();
        let wrote = vfs.write(handle, offset as u64, Bytes::copy_from_slice(&bytes), false).await;
        assert_eq!(wrote.as_ref().ok(), Some(&(bytes.len() as u64)), "{what}: {wrote:?}");
        self.model.write(id, (!mode.append).then_some(offset), &bytes);
        self.compare(at, id, &what).await;
        what
    }

    async fn read(&mut self, at: usize) -> String {
        let Some((handle, id, _)) = self.some_open(at, false) else { return "nothing open".into() };
        let size = self.model.node(id).bytes().len();
        let offset = self.rng.random_range(0..=size + 10);
        let len = self.rng.random_range(0..=size + 10);
        let what = format!("read {len} at {offset} of node {id}");
        self.check_read(at, handle, id, offset, len, &what).await;
        what
    }

    async fn check_read(&self, at: usize, handle: HandleId, id: Id, offset: usize, len: usize, what: &str) {
        let bytes = self.model.node(id).bytes();
        let expected = &bytes[offset.min(bytes.len())..(offset + len).min(bytes.len()).max(offset.min(bytes.len()))];
        let read = self.mounts[at].vfs.read(handle, offset as u64, len as u64).await;
        let read = read.unwrap_or_else(|error| panic!("seed {}: {what}: {error:?}", self.plan.seed));
        if read != expected {
            let differs = read.iter().zip(expected).position(|(a, b)| a != b);
            let (seed, is, was) = (self.plan.seed, read.len(), expected.len());
            panic!("seed {seed}: {what}: {is} bytes for {was}, first other byte {differs:?}");
        }
    }

    async fn close(&mut self, at: usize) -> String {
        let count = self.mounts[at].open.len();
        if count == 0 {
            return "nothing open".into();
        }
        let index = self.rng.random_range(0..count);
        let file = self.mounts[at].open.remove(index);
        let vfs = self.mounts[at].vfs.clone();
        for _ in 0..self.rng.random_range(1..3) {
            let flushed = vfs.flush_handle(file.handle).await;
            assert!(flushed.is_ok(), "seed {}: flush of node {}: {flushed:?}", self.plan.seed, file.id);
        }
        vfs.release(file.handle).await;
        let what = format!("close node {}", file.id);
        self.compare(at, file.id, &what).await;
        self.note_version(file.id).await;
        what
    }

    async fn fsync(&mut self, at: usize) -> String {
        let Some((handle, id, _)) = self.some_open(at, false) else { return "nothing open".into() };
        let synced = self.mounts[at].vfs.fsync(handle, false).await;
        assert!(synced.is_ok(), "seed {}: fsync of node {id}: {synced:?}", self.plan.seed);
        format!("fsync node {id}")
    }

    async fn truncate(&mut self, at: usize, dir: Id, name: &[u8]) -> String {
        let through = if self.rng.random_bool(0.5) { self.some_open(at, true) } else { None };
        let there = self.model.find(dir, name).filter(|id| matches!(self.model.node(*id).kind, Kind::File(_)));
        let Some(id) = through.map(|(_, id, _)| id).or(there) else { return "no file".into() };
        let before = self.model.node(id).bytes().len();
        let size = match self.rng.random_range(0..4) {
            0 => 0,
            1 => self.rng.random_range(0..=before),
            2 => before,
            _ => self.rng.random_range(0..600_000),
        };
        let what = format!("truncate node {id} from {before} to {size}");
        let no = match through {
            Some(_) if self.model.path(id).is_none() => self.model.node(id).ino.map_or(InodeNo::ROOT, InodeNo),
            _ => self.walk(at, id).await,
        };
        let set = SetAttr { size: Some(size as u64), ..SetAttr::default() };
        let vfs = self.mounts[at].vfs.clone();
        let result = vfs.setattr(no, set, through.map(|(handle, ..)| handle), ROOT_CALLER).await;
        assert!(result.is_ok(), "seed {}: {what}: {result:?}", self.plan.seed);
        self.model.truncate(id, size);
        self.compare(at, id, &what).await;
        what
    }

    async fn make(&mut self, at: usize, dir: Id, name: &[u8], kind: Kind) -> String {
        let parent = self.walk(at, dir).await;
        let vfs = self.mounts[at].vfs.clone();
        let result = match &kind {
            Kind::Symlink(target) => vfs.symlink(parent, name, target, ROOT_CALLER).await,
            Kind::Dir(_) | Kind::File(_) => vfs.mkdir(parent, name, 0o750, ROOT_CALLER).await,
        };
        let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { 0o750 };
        let what = format!("make {kind:?}");
        let made = self.model.make(dir, name, kind, mode);
        self.same(&what, &result, &made);
        if let (Ok(entry), Ok(id)) = (result, made) {
            self.mounts[at].lookups.push(entry.attr.ino);
            self.compare(at, id, &what).await;
        }
        what
    }

    async fn unlink(&mut self, at: usize, dir: Id, name: &[u8]) -> String {
        let parent = self.walk(at, dir).await;
        let result = self.mounts[at].vfs.clone().unlink(parent, name).await;
        let expected = self.model.unlink(dir, name);
        self.same("unlink", &result, &expected);
        self.expect_absent(at, dir, name).await;
        format!("unlink: {result:?}")
    }

    async fn rmdir(&mut self, at: usize, dir: Id, name: &[u8]) -> String {
        let parent = self.walk(at, dir).await;
        let result = self.mounts[at].vfs.clone().rmdir(parent, name).await;
        let expected = self.model.rmdir(dir, name);
        self.same("rmdir", &result, &expected);
        self.expect_absent(at, dir, name).await;
        format!("rmdir: {result:?}")
    }

    async fn expect_absent(&mut self, at: usize, dir: Id, name: &[u8]) {
        if self.model.find(dir, name).is_none() {
            let parent = self.walk(at, dir).await;
            let found = self.mounts[at].vfs.lookup(parent, name).await;
            assert!(matches!(found, Ok(LookupReply::Absent(_))), "seed {}: {found:?}", self.plan.seed);
        }
    }

    async fn rename(&mut self, at: usize, dir: Id, name: &[u8]) -> String {
        let (to, to_name) = (self.some_dir(), self.some_name());
        let noreplace = self.rng.random_bool(0.2);
        let what = format!(
            "rename to {}/{} noreplace {noreplace}",
            show(&self.model.path(to).unwrap_or_default()),
            to_name.escape_ascii()
        );
        if self.model.find(to, to_name).is_some_and(|id| self.is_busy(at, id)) {
            return "skipped: open elsewhere".into();
        }
        let moved = self.model.find(dir, name);
        let (parent, to_parent) = (self.walk(at, dir).await, self.walk(at, to).await);
        let result = self.mounts[at].vfs.clone().rename(parent, name, to_parent, to_name, noreplace).await;
        let expected = self.model.rename(dir, name, to, to_name, noreplace);
        if expected == Err(Refusal::Invalid) {
            assert!(result.is_err(), "seed {}: {what}", self.plan.seed);
        } else {
            self.same(&what, &result, &expected);
        }
        if let (Ok(()), Some(id)) = (&result, moved) {
            self.compare(at, id, &what).await;
            if (dir, name) != (to, to_name) {
                self.expect_absent(at, dir, name).await;
            }
        }
        format!("{what}: {result:?}")
    }

    async fn set_attr(&mut self, at: usize, dir: Id, name: &[u8]) -> String {
        let Some(id) = self.model.find(dir, name).filter(|id| !matches!(self.model.node(*id).kind, Kind::Symlink(_))) else {
            return "nothing there".into();
        };
        let no = self.walk(at, id).await;
        let mut set = SetAttr::default();
        if self.rng.random_bool(0.6) {
            set.mode = Some(self.rng.random_range(0..0o1000));
        }
        if self.rng.random_bool(0.3) {
            set.uid = Some(self.rng.random_range(0..5000));
        }
        if self.rng.random_bool(0.5) {
            let at =
                Timestamp { seconds: self.rng.random_range(0..2_000_000_000), nanos: self.rng.random_range(0..1_000_000_000) };
            set.mtime = Some(SetTime::At(at));
            if !self.model.node(id).is_dir() {
                self.model.node_mut(id).mtime = Some(at);
            }
        }
        let result = self.mounts[at].vfs.clone().setattr(no, set, None, ROOT_CALLER).await;
        let what = format!("setattr {set:?}");
        assert!(result.is_ok(), "seed {}: {what}: {result:?}", self.plan.seed);
        let node = self.model.node_mut(id);
        node.mode = set.mode.unwrap_or(node.mode);
        node.uid = set.uid.unwrap_or(node.uid);
        self.compare(at, id, &what).await;
        what
    }

    async fn xattr(&mut self, at: usize, dir: Id, name: &[u8]) -> String {
        let Some(id) = self.model.find(dir, name) else { return "nothing there".into() };
        let no = self.walk(at, id).await;
        let vfs = self.mounts[at].vfs.clone();
        let attr: &[u8] = if self.rng.random_bool(0.5) { b"user.one" } else { b"user.\xfftwo" };
        if self.rng.random_bool(0.7) {
            let value = vec![self.rng.random(); self.rng.random_range(0..20)];
            let set = vfs.setxattr(no, attr, &value, XattrMode::Set).await;
            assert!(set.is_ok(), "setxattr: {set:?}");
            self.model.node_mut(id).xattrs.insert(attr.to_vec(), value);
        } else {
            let removed = vfs.removexattr(no, attr).await;
            let expected = self.model.node_mut(id).xattrs.remove(attr);
            assert_eq!(removed.is_ok(), expected.is_some(), "removexattr: {removed:?}");
        }
        self.compare(at, id, "xattr").await;
        "xattr".into()
    }

    async fn flush(&mut self, at: usize) -> String {
        let flushed = self.mounts[at].vfs.clone().flush(None).await;
        assert!(flushed.is_ok(), "seed {}: flush: {flushed:?}", self.plan.seed);
        "flush".into()
    }

    /// Gives back all lookups, as a kernel short of memory does.
    fn forget(&mut self, at: usize) -> String {
        let mount = &mut self.mounts[at];
        for no in mount.lookups.drain(..) {
            mount.vfs.forget(no, 1);
        }
        "forget".into()
    }

    /// Ends a mount and starts another. Orderly: what is open is published. Else only with nothing open: then nothing may
    /// be lost.
    async fn restart(&mut self, at: usize, orderly: bool) -> String {
        if orderly {
            let ended = self.mounts[at].vfs.clone().shutdown().await;
            assert!(ended.is_ok(), "seed {}: shutdown: {ended:?}", self.plan.seed);
        } else if !self.mounts[at].open.is_empty() {
            return self.close(at).await;
        }
        let fresh = self.mount();
        self.mounts[at] = fresh;
        format!("restart, orderly {orderly}")
    }

    /// Compares a node as this mount shows it.
    async fn compare(&mut self, at: usize, id: Id, what: &str) {
        let path = self.model.path(id).map_or_else(|| "nameless".to_owned(), |path| show(&path));
        let what = format!("after {what}: node {id} at {path} on mount {at}");
        let handle = self.mounts[at].open.iter().find(|file| file.id == id).map(|file| file.handle);
        let size = self.model.node(id).bytes().len();
        if let Some(handle) = handle {
            self.check_read(at, handle, id, 0, size + 1, &what).await;
        }
        if self.model.path(id).is_none() {
            if let (Some(_), Some(ino)) = (handle, self.model.node(id).ino) {
                let attr = self.mounts[at].vfs.getattr(InodeNo(ino)).await;
                let attr = attr.unwrap_or_else(|error| panic!("seed {}: {what}: {error:?}", self.plan.seed)).attr;
                assert_eq!((attr.size, attr.nlink), (size as u64, 0), "seed {}: {what}", self.plan.seed);
            }
            return;
        }
        let no = self.walk(at, id).await;
        let attr = self.mounts[at].vfs.getattr(no).await;
        let attr = attr.unwrap_or_else(|error| panic!("seed {}: {what}: {error:?}", self.plan.seed)).attr;
        self.compare_attr(id, &attr, &what);
        self.compare_xattrs(at, id, no, &what).await;
        match &self.model.node(id).kind {
            Kind::Symlink(target) => {
                let read = self.mounts[at].vfs.readlink(no).await;
                assert_eq!(read.ok().as_ref(), Some(target), "seed {}: {what}", self.plan.seed);
            }
            Kind::File(_) if handle.is_none() => {
                let mode = OpenMode { read: true, ..OpenMode::default() };
                let vfs = self.mounts[at].vfs.clone();
                let opened = vfs.open(no, mode, ROOT_CALLER).await;
                let opened = opened.unwrap_or_else(|error| panic!("seed {}: {what}: {error:?}", self.plan.seed));
                self.check_read(at, opened.handle, id, 0, size + 1, &what).await;
                vfs.release(opened.handle).await;
            }
            Kind::File(_) | Kind::Dir(_) => {}
        }
    }

    fn compare_attr(&mut self, id: Id, attr: &Attr, what: &str) {
        let seed = self.plan.seed;
        let node = self.model.node_mut(id);
        let kind = match node.kind {
            Kind::File(_) => version::Kind::File,
            Kind::Dir(_) => version::Kind::Dir,
            Kind::Symlink(_) => version::Kind::Symlink,
        };
        assert_eq!(attr.kind, kind, "seed {seed}: {what}");
        if kind == version::Kind::File {
            assert_eq!(attr.size, node.bytes().len() as u64, "seed {seed}: {what}");
        }
        if id == 0 {
            return;
        }
        assert_eq!((format!("{:o}", attr.mode), attr.uid), (format!("{:o}", node.mode), node.uid), "seed {seed}: {what}");
        let ino = *node.ino.get_or_insert(attr.ino.0);
        assert_eq!(attr.ino.0, ino, "seed {seed}: {what}: another inode number");
        if let Some(mtime) = node.mtime {
            assert_eq!(attr.mtime, mtime, "seed {seed}: {what}: another mtime");
        }
    }

    async fn compare_xattrs(&self, at: usize, id: Id, no: InodeNo, what: &str) {
        let vfs = &self.mounts[at].vfs;
        let expected = &self.model.node(id).xattrs;
        let listed =
            vfs.listxattr(no, ROOT_CALLER).await.unwrap_or_else(|error| panic!("seed {}: {what}: {error:?}", self.plan.seed));
        let mut names: Vec<&[u8]> = listed.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")).collect();
        names.retain(|name| !name.starts_with(b"user.pgfiles."));
        names.sort_unstable();
        assert_eq!(names, expected.keys().map(Vec::as_slice).collect::<Vec<_>>(), "seed {}: {what}", self.plan.seed);
        for (name, value) in expected {
            assert_eq!(vfs.getxattr(no, name).await.ok().as_ref(), Some(value), "seed {}: {what}", self.plan.seed);
        }
    }

    /// Compares the names of a directory; those that the other mount has open may be missing.
    async fn compare_dir(&mut self, at: usize, dir: Id, what: &str) -> String {
        let no = self.walk(at, dir).await;
        let vfs = self.mounts[at].vfs.clone();
        let handle = vfs.opendir(no).await.unwrap_or_else(|error| panic!("seed {}: opendir: {error:?}", self.plan.seed));
        let plus = self.rng.random_bool(0.5);
        let max = self.rng.random_range(1..12);
        let (mut offset, mut seen) = (0, Vec::new());
        loop {
            let entries = vfs.readdir(handle, offset, max, plus).await;
            let entries = entries.unwrap_or_else(|error| panic!("seed {}: readdir: {error:?}", self.plan.seed));
            let Some(last) = entries.last() else { break };
            offset = last.next;
            for entry in entries {
                if entry.plus.is_some() {
                    self.mounts[at].lookups.push(entry.ino);
                }
                seen.push((entry.name, entry.kind));
            }
        }
        vfs.releasedir(handle);
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        let kind = |id: Id| match self.model.node(id).kind {
            Kind::File(_) => version::Kind::File,
            Kind::Dir(_) => version::Kind::Dir,
            Kind::Symlink(_) => version::Kind::Symlink,
        };
        let elsewhere =
            |name: &[u8]| self.model.find(dir, name).is_some_and(|id| self.is_busy(at, id) && !self.model.node(id).is_dir());
        let mut expected: Vec<_> = self.model.names(dir).iter().map(|(name, id)| (name.clone(), kind(*id))).collect();
        expected.extend([(b".".to_vec(), version::Kind::Dir), (b"..".to_vec(), version::Kind::Dir)]);
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        expected.retain(|(name, _)| !elsewhere(name));
        seen.retain(|(name, _)| !elsewhere(name));
        assert_eq!(
            seen,
            expected,
            "seed {}: {what}: directory {} on mount {at}",
            self.plan.seed,
            show(&self.model.path(dir).unwrap_or_default())
        );
        "readdir".into()
    }

    /// Compares all that has a name, on both mounts.
    async fn compare_all(&mut self, what: &str) {
        for at in 0..2 {
            for id in self.model.all() {
                if self.model.node(id).is_dir() {
                    self.compare_dir(at, id, what).await;
                } else if self.is_busy(at, id) {
                    continue;
                }
                self.compare(at, id, what).await;
            }
        }
    }

    fn key(&self, id: Id) -> Option<Key> {
        let mut text = "model".to_owned();
        for name in self.model.path(id)? {
            text.push('/');
            text.push_str(&Name::new(&name).ok()?.component());
        }
        Key::new(&text).ok()
    }

    /// The version of a file that nobody has open, as the store holds it: a live key with the model's bytes.
    async fn note_version(&mut self, id: Id) {
        let open = self.mounts.iter().any(|mount| mount.open.iter().any(|file| file.id == id));
        let Some(key) = self.key(id).filter(|_| !open) else { return };
        let entry = self.store.lookup(std::slice::from_ref(&key), 0).await.expect("lookup").remove(0);
        let Some(Entry::File(head)) = entry else {
            panic!("seed {}: {key:?} is closed and not stored: {entry:?}", self.plan.seed)
        };
        let bytes = self.stored(&head).await;
        assert!(bytes == self.model.node(id).bytes(), "seed {}: {key:?} is closed and its row has other bytes", self.plan.seed);
        self.log.insert(head.id, (key, bytes));
    }

    async fn stored(&self, head: &version::Head) -> Vec<u8> {
        let body = Body::open(&*self.store, head).await.unwrap_or_else(|error| panic!("seed {}: {error}", self.plan.seed));
        let bytes = body.read(&*self.store, 0, body.size()).await;
        bytes.unwrap_or_else(|error| panic!("seed {}: {:?} {}: {error}", self.plan.seed, head.key, head.version)).to_vec()
    }

    /// Every version that is still kept reads back as it was when it was closed, and every live version reads back.
    async fn compare_log(&self) {
        let keys: std::collections::BTreeSet<&Key> = self.log.values().map(|(key, _)| key).collect();
        for key in keys {
            let versions = self.store.versions(key, None, 10_000).await.expect("versions");
            let numbers: Vec<_> = versions.iter().map(|head| head.version.0).collect();
            assert_eq!(numbers, (1..=versions.len() as u64).rev().collect::<Vec<_>>(), "{key:?} has gaps");
            for head in versions.iter().filter(|head| head.is_live() && head.meta.kind == version::Kind::File) {
                let bytes = self.stored(head).await;
                if let Some((_, noted)) = self.log.get(&head.id) {
                    assert!(bytes == *noted, "seed {}: {key:?} version {} has changed", self.plan.seed, head.version);
                }
            }
        }
    }
}

fn show(path: &[Vec<u8>]) -> String {
    path.iter().map(|name| format!("/{}", name.escape_ascii())).collect()
}
