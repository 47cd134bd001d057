//! Carries out steps, on the filesystem and on the model.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use pgfiles_store::batch::{Op, Precondition, Restore};
use pgfiles_store::key::Key;
use pgfiles_store::layer::log::Mode;
use pgfiles_store::store::{Purge, PurgeScope};
use pgfiles_store::version::{self, Timestamp, VersionNo};
use pgfiles_vfs::{Allocate, Caller, HandleId, InodeNo, LookupReply, OpenMode, Seek, SetAttr, SetTime, Vfs, VfsError, XattrMode};

use super::ground::{Ground, Mounted};
use super::history::{Open, PUBLISH_AFTER_MS, Was, World};
use super::step::{Step, What, bytes, name};
use super::{Kind as On, OPEN_MAX, Plan};
use crate::model::{Attrs, Id, Kind, Place, Refusal};

pub(super) const ROOT: Caller = Caller { uid: 0, gid: 0 };
/// As long as a symlink's target, and as the mode that all files are made with.
const MODE: u32 = 0o640;
/// Writes beyond that are left out.
const FILE_BYTES_MAX: u64 = 900_000;
/// After how many milliseconds a mere creation or truncation is published that was closed (docs/semantics.md, 5).
const TRIVIAL_AFTER_MS: i64 = 50;

/// A mount of a run.
pub(super) struct Mount {
    pub on: Mounted,
    /// By slot, as in [`World::open`].
    pub handles: Vec<Option<HandleId>>,
    /// Lookups that were counted and not given back.
    pub lookups: Vec<InodeNo>,
    /// What changed behind its back since it was used last.
    behind: bool,
}

/// A run under way.
pub(super) struct Run {
    pub plan: Plan,
    pub ground: Ground,
    pub world: World,
    pub mounts: Vec<Mount>,
    lives: usize,
    /// Who did the step before.
    last: Option<usize>,
    nth: u64,
}

fn tag(error: &VfsError) -> Option<Refusal> {
    Some(match error {
        VfsError::NotFound => Refusal::NotFound,
        VfsError::Exists => Refusal::Exists,
        VfsError::NotDirectory => Refusal::NotDirectory,
        VfsError::IsDirectory => Refusal::IsDirectory,
        VfsError::NotEmpty => Refusal::NotEmpty,
        VfsError::InvalidArgument(_) => Refusal::Invalid,
        VfsError::NotPermitted(_) => Refusal::NotPermitted,
        _ => return None,
    })
}

/// Whether both agree that it is done; an error where they do not agree.
fn same<T, U>(real: &Result<T, VfsError>, model: &Result<U, Refusal>) -> Result<bool> {
    match (real, model) {
        (Ok(_), Ok(_)) => Ok(true),
        (Err(error), Err(refusal)) if tag(error) == Some(*refusal) => Ok(false),
        (Ok(_), Err(refusal)) => bail!("done, and the model says {refusal:?}"),
        (Err(error), Ok(_)) => bail!("{error:?}, and the model does it"),
        (Err(error), Err(refusal)) => bail!("{error:?}, and the model says {refusal:?}"),
    }
}

impl Run {
    pub async fn new(plan: &Plan) -> Result<Self> {
        let ground = Ground::new(plan).await?;
        let world = World { young_seconds: i64::from(plan.young_seconds), ..World::default() };
        let mut run = Self { plan: plan.clone(), ground, world, mounts: Vec::new(), lives: 0, last: None, nth: 0 };
        for at in 0..plan.mounts {
            run.world.open.push(vec![None; OPEN_MAX]);
            run.world.lives.push(0);
            let fresh = run.fresh(at);
            run.mounts.push(fresh);
        }
        Ok(run)
    }

    fn fresh(&mut self, at: usize) -> Mount {
        self.lives += 1;
        self.world.lives[at] = self.lives;
        let on = self.ground.mount(&self.plan, self.lives);
        Mount { on, handles: vec![None; OPEN_MAX], lookups: Vec::new(), behind: false }
    }

    pub fn vfs(&self, at: usize) -> Arc<Vfs> {
        self.mounts[at].on.vfs.clone()
    }

    fn is_timed(&self) -> bool {
        self.plan.on.is_timed()
    }

    /// A key of the store.
    pub fn key(&self, below: &str) -> Result<Key> {
        Ok(Key::new(&format!("{}{below}", self.ground.prefix))?)
    }

    /// Directory and last name of a path, where the directory is there.
    fn place(&self, path: &str) -> Option<(Id, &'static [u8])> {
        let (last, dirs) = path.as_bytes().split_last()?;
        let mut dir = 0;
        for letter in dirs {
            dir = self.world.tree.find(dir, name(*letter)?)?;
        }
        self.world.tree.node(dir).is_dir().then_some((dir, name(*last)?))
    }

    fn dir(&self, path: &str) -> Option<Id> {
        match self.place(path) {
            None => path.is_empty().then_some(0),
            Some((dir, name)) => self.world.tree.find(dir, name).filter(|id| self.world.tree.node(*id).is_dir()),
        }
    }

    fn open(&self, at: usize, slot: usize) -> Option<(HandleId, Open)> {
        Some(((*self.mounts[at].handles.get(slot)?)?, (*self.world.open[at].get(slot)?)?))
    }

    /// One step; whether it applied to anything.
    pub async fn step(&mut self, step: &Step) -> Result<bool> {
        let at = step.at;
        if at >= self.mounts.len() {
            return Ok(false);
        }
        self.nth += 1;
        self.ground.crash(self.nth);
        let now = self.ground.clock.now();
        self.world.now = now.seconds * 1000 + i64::from(now.nanos / 1_000_000);
        let client = matches!(
            step.what,
            What::Purge
                | What::PurgeDir
                | What::Restore
                | What::Put
                | What::Delete
                | What::Insert
                | What::Update
                | What::DeleteRow
        );
        if client && matches!(self.plan.on, On::Faults { crash_every } if crash_every > 0) {
            // Nobody sends again what a client committed that is no mount.
            return Ok(false);
        }
        self.turn((!client).then_some(at)).await?;
        for path in [&step.path, &step.to] {
            let there = self.place(path).and_then(|(dir, name)| self.world.tree.find(dir, name));
            let taken = client && there.is_some_and(|id| self.world.is_open(id) || self.world.is_ahead(id));
            if there.is_some_and(|id| self.world.is_busy(at, id)) || (taken && step.what != What::Purge) {
                return Ok(false);
            }
        }
        self.carry_out(step).await
    }

    async fn carry_out(&mut self, step: &Step) -> Result<bool> {
        let at = step.at;
        match step.what {
            What::Create | What::Open => self.create(step).await,
            What::Write | What::Ftruncate | What::Allocate | What::Copy => self.change(step).await,
            What::Read | What::Seek | What::Fsync | What::Dup | What::Close => self.use_open(step).await,
            What::Truncate | What::SetAttr | What::Xattr => self.set(step).await,
            What::Mkdir | What::Symlink | What::Fifo => self.make(step).await,
            What::Unlink | What::Rmdir => self.remove(step).await,
            What::Rename | What::Exchange => self.rename(step).await,
            What::Link | What::LinkOpen => self.link(step).await,
            What::ReadDir => match self.dir(&step.path) {
                Some(dir) => self.compare_dir(at, dir, step.n[0].clamp(1, 1_000) as usize, step.n[1] == 1).await.map(|()| true),
                None => Ok(false),
            },
            What::Flush | What::Forget | What::Remount | What::Kill | What::Wait => self.whole_mount(step).await,
            What::Purge | What::PurgeDir | What::Restore => self.past(step).await,
            What::Put | What::Delete | What::Insert | What::Update | What::DeleteRow => self.client(step).await,
        }
    }

    /// Whose turn it is: what others did is on the server, and known.
    pub async fn turn(&mut self, at: Option<usize>) -> Result<()> {
        if self.last != at {
            if let Some(last) = self.last {
                self.mounts[last].on.settle().await?;
            }
            self.mounts.iter_mut().enumerate().filter(|(mount, _)| self.last != Some(*mount)).for_each(|(_, m)| m.behind = true);
            self.last = at;
        }
        if let Some(at) = at.filter(|at| std::mem::take(&mut self.mounts[*at].behind)) {
            self.mounts[at].on.changed(None);
        }
        Ok(())
    }

    /// The inode at a place, walked to from the root.
    pub async fn walk(&mut self, at: usize, place: &Place) -> Result<InodeNo> {
        let mut no = InodeNo::ROOT;
        for name in self.world.tree.path_to(place) {
            match self.vfs(at).lookup(no, &name).await {
                Ok(LookupReply::Found(entry)) => no = entry.attr.ino,
                other => bail!("{} of {} is {other:?}", name.escape_ascii(), self.world.key(place)),
            }
            self.mounts[at].lookups.push(no);
        }
        Ok(no)
    }

    /// The inode of a node by its first name, or as it was seen.
    pub async fn no_of(&mut self, at: usize, id: Id) -> Result<InodeNo> {
        if id == 0 {
            return Ok(InodeNo::ROOT);
        }
        match self.world.tree.node(id).places.first().cloned() {
            Some(place) => self.walk(at, &place).await,
            None => Ok(self.world.tree.node(id).ino.map_or(InodeNo::ROOT, InodeNo)),
        }
    }

    async fn create(&mut self, step: &Step) -> Result<bool> {
        let (at, flags) = (step.at, step.n[0]);
        let Some((dir, name)) = self.place(&step.path) else { return Ok(false) };
        let there = self.world.tree.find(dir, name);
        let other = there.is_some_and(|id| !self.world.tree.node(id).is_file() && !self.world.tree.node(id).is_dir());
        if self.mounts[at].handles.get(step.slot).is_none_or(Option::is_some) || other {
            return Ok(false);
        }
        let write = flags & 1 != 0;
        let mode = OpenMode {
            read: true,
            write,
            append: write && flags & 2 != 0,
            truncate: write && flags & 4 != 0,
            exclusive: flags & 8 != 0,
        };
        let vfs = self.vfs(at);
        let (opened, id) = if step.what == What::Open {
            let Some(id) = there else { return Ok(false) };
            let no = self.walk(at, &(dir, name.to_vec())).await?;
            let opened = vfs.open(no, mode, ROOT).await;
            let model = if self.world.tree.node(id).is_dir() { Err(Refusal::IsDirectory) } else { Ok(()) };
            if !same(&opened, &model)? {
                return Ok(true);
            }
            (opened?, id)
        } else {
            let parent = self.no_of(at, dir).await?;
            let created = vfs.create(parent, name, MODE, mode, ROOT).await;
            let model = match there {
                Some(_) if mode.exclusive => Err(Refusal::Exists),
                Some(id) if self.world.tree.node(id).is_dir() => Err(Refusal::IsDirectory),
                Some(id) => Ok(id),
                None => self.world.tree.make(dir, name, Kind::File(Arc::default()), attrs(MODE)),
            };
            if !same(&created, &model)? {
                return Ok(true);
            }
            let (Ok((entry, opened)), Ok(id)) = (created, model) else { return Ok(true) };
            self.mounts[at].lookups.push(entry.attr.ino);
            if there.is_none() {
                let saving = &mut self.world.tree.node_mut(id).saving;
                (saving.pending, saving.trivial, saving.mount) = (true, true, at);
                self.world.arm(id, PUBLISH_AFTER_MS);
            }
            (opened, id)
        };
        let serial = self.world.serial();
        self.mounts[at].handles[step.slot] = Some(opened.handle);
        self.world.open[at][step.slot] = Some(Open { id, read: mode.read, write, append: mode.append, serial });
        if mode.truncate && there.is_some() {
            self.world.changed_by(id, None);
            self.truncated(at, id, 0);
        }
        self.compare(at, id).await?;
        Ok(true)
    }

    /// What a truncation does: one to the size that the file has changes its times only.
    fn truncated(&mut self, at: usize, id: Id, size: usize) {
        if self.world.tree.node(id).bytes().len() == size {
            self.world.tree.node_mut(id).attrs.mtime = None;
            self.world.attrs_set(id);
        } else {
            self.world.tree.truncate(id, size);
            self.world.changed(id, at, size == 0);
        }
    }

    async fn change(&mut self, step: &Step) -> Result<bool> {
        let (at, n) = (step.at, step.n);
        let Some((handle, open)) = self.open(at, step.slot) else { return Ok(false) };
        let (vfs, id) = (self.vfs(at), open.id);
        let size = self.world.tree.node(id).bytes().len() as u64;
        match step.what {
            What::Write => {
                if !open.write || n[0].max(size) + n[1] > FILE_BYTES_MAX {
                    return Ok(false);
                }
                let data = bytes(n[2], n[1]);
                let wrote = vfs.write(handle, n[0], Bytes::copy_from_slice(&data), false).await?;
                ensure!(wrote == n[1], "{wrote} bytes");
                if !data.is_empty() {
                    self.world.changed_by(id, Some(open.serial));
                    self.world.tree.write(id, (!open.append).then_some(n[0] as usize), &data);
                    self.world.changed(id, at, false);
                }
            }
            What::Ftruncate => {
                if !open.write || n[0] > FILE_BYTES_MAX {
                    return Ok(false);
                }
                let no = self.no_of(at, id).await?;
                let set = SetAttr { size: Some(n[0]), ..SetAttr::default() };
                vfs.setattr(no, set, Some(handle), ROOT).await?;
                let writer = self.writer_of(at, step.slot);
                self.world.changed_by(id, writer);
                self.truncated(at, id, n[0] as usize);
            }
            What::Allocate => {
                let (from, to) = (n[1], n[1] + n[2]);
                if !open.write || n[2] == 0 || to > FILE_BYTES_MAX {
                    return Ok(false);
                }
                let (what, zero, keep) = match n[0] {
                    0 => (Allocate::Reserve { keep_size: false }, false, false),
                    1 => (Allocate::Reserve { keep_size: true }, false, true),
                    2 => (Allocate::Zero { keep_size: false }, true, false),
                    3 => (Allocate::Zero { keep_size: true }, true, true),
                    _ => (Allocate::Punch, true, true),
                };
                vfs.fallocate(handle, what, from, n[2], false).await?;
                self.world.changed_by(id, Some(open.serial));
                let zeroed = zero && from < size;
                let grown = !keep && to > size;
                if zeroed {
                    self.world.tree.bytes_mut(id)[from as usize..to.min(size) as usize].fill(0);
                }
                if grown {
                    self.world.tree.truncate(id, to as usize);
                }
                if zeroed || grown {
                    self.world.changed(id, at, false);
                }
            }
            What::Copy => {
                let Some((target, into)) = self.open(at, n[0] as usize) else { return Ok(false) };
                let overlaps = id == into.id && n[1] < n[3] + n[2] && n[3] < n[1] + n[2];
                if !open.read || !into.write || into.append || n[3] + n[2] > FILE_BYTES_MAX || overlaps {
                    return Ok(false);
                }
                let copied = vfs.copy_file_range((handle, n[1]), (target, n[3]), n[2], false).await?;
                let source = self.world.tree.node(id).bytes();
                let piece = source[n[1].min(size) as usize..(n[1] + n[2]).min(size) as usize].to_vec();
                ensure!(copied == piece.len() as u64, "{copied} bytes, not {}", piece.len());
                if !piece.is_empty() {
                    self.world.changed_by(into.id, Some(into.serial));
                    self.world.tree.write(into.id, Some(n[3] as usize), &piece);
                    self.world.changed(into.id, at, false);
                }
                self.compare(at, into.id).await?;
            }
            _ => {}
        }
        self.compare(at, id).await?;
        Ok(true)
    }

    fn writer_of(&self, at: usize, slot: usize) -> Option<u64> {
        self.world.open[at][slot].map(|open| open.serial)
    }

    async fn use_open(&mut self, step: &Step) -> Result<bool> {
        let (at, n) = (step.at, step.n);
        let Some((handle, open)) = self.open(at, step.slot) else { return Ok(false) };
        let (vfs, id) = (self.vfs(at), open.id);
        match step.what {
            What::Read => self.check_read(at, handle, id, n[0] as usize, n[1] as usize).await?,
            What::Seek => self.check_holes(at, handle, id).await?,
            What::Fsync => {
                vfs.fsync(handle, false).await?;
                self.world.publish(id);
            }
            What::Dup if !self.is_timed() => return Ok(false),
            What::Dup => {
                vfs.flush_handle(handle).await?;
                self.flushed(&open);
            }
            _ => {
                for _ in 0..n[0].min(2) {
                    vfs.flush_handle(handle).await?;
                    self.flushed(&open);
                }
                vfs.release(handle).await;
                self.world.publish(id);
                self.world.close(at, step.slot);
                self.mounts[at].handles[step.slot] = None;
                if !self.world.tree.node(id).places.is_empty() {
                    self.compare(at, id).await?;
                }
            }
        }
        Ok(true)
    }

    /// A descriptor of a description was closed.
    fn flushed(&mut self, open: &Open) {
        if !open.write {
            return;
        }
        if self.world.is_ahead(open.id) && self.world.tree.node(open.id).saving.trivial {
            self.world.arm(open.id, TRIVIAL_AFTER_MS);
        } else {
            self.world.publish(open.id);
        }
        self.world.saved_by(open.id, open.serial);
    }

    async fn set(&mut self, step: &Step) -> Result<bool> {
        let (at, n) = (step.at, step.n);
        let Some((dir, name)) = self.place(&step.path) else { return Ok(false) };
        let Some(id) = self.world.tree.find(dir, name) else { return Ok(false) };
        let vfs = self.vfs(at);
        let no = self.walk(at, &(dir, name.to_vec())).await?;
        match step.what {
            What::Truncate => {
                if !self.world.tree.node(id).is_file() || n[0] > FILE_BYTES_MAX {
                    return Ok(false);
                }
                let set = SetAttr { size: Some(n[0]), ..SetAttr::default() };
                vfs.setattr(no, set, None, ROOT).await?;
                self.world.changed_by(id, None);
                self.truncated(at, id, n[0] as usize);
                if n[0] != 0 || self.world.writers(id) == 0 {
                    self.world.publish(id);
                }
            }
            What::SetAttr => {
                let node = self.world.tree.node_mut(id);
                if matches!(node.kind, Kind::Symlink(_)) {
                    return Ok(false);
                }
                let mut set = SetAttr::default();
                let time = Timestamp { seconds: n[3] as i64, nanos: (n[3] % 1_000) as u32 * 1_000_001 };
                if n[0] & 1 != 0 {
                    set.mode = Some(n[1] as u32 & 0o777);
                    node.attrs.mode = set.mode;
                }
                if n[0] & 2 != 0 {
                    set.uid = Some(n[2] as u32);
                    node.attrs.uid = set.uid;
                }
                if n[0] & 16 != 0 {
                    set.gid = Some(n[2] as u32);
                    node.attrs.gid = set.gid;
                }
                if n[0] & 4 != 0 {
                    set.mtime = Some(SetTime::At(time));
                    node.attrs.mtime = (!node.is_dir()).then_some(time);
                }
                if n[0] & 8 != 0 {
                    set.atime = Some(SetTime::At(time));
                    node.attrs.atime = (!node.is_dir()).then_some(time);
                }
                if set == SetAttr::default() {
                    return Ok(false);
                }
                vfs.setattr(no, set, None, ROOT).await?;
                self.world.attrs_set(id);
            }
            _ => {
                let attr: &[u8] = if n[0] == 0 { b"user.one" } else { b"user.\xfftwo" };
                // Of what came back from the past it is not known before it was seen.
                let Some(known) = self.world.tree.node_mut(id).attrs.xattrs.as_mut() else { return Ok(false) };
                if n[1] == 0 {
                    let value = bytes(n[3], n[2]);
                    vfs.setxattr(no, attr, &value, XattrMode::Set).await?;
                    known.insert(attr.to_vec(), value);
                } else {
                    let removed = vfs.removexattr(no, attr).await;
                    ensure!(removed.is_ok() == known.remove(attr).is_some(), "removexattr: {removed:?}");
                }
                self.world.attrs_set(id);
            }
        }
        self.compare(at, id).await?;
        Ok(true)
    }

    async fn make(&mut self, step: &Step) -> Result<bool> {
        let at = step.at;
        let Some((dir, name)) = self.place(&step.path) else { return Ok(false) };
        let parent = self.no_of(at, dir).await?;
        let vfs = self.vfs(at);
        let (real, kind, mode) = match step.what {
            What::Mkdir => (vfs.mkdir(parent, name, 0o750, ROOT).await, Kind::Dir(Default::default()), 0o750),
            What::Symlink => {
                let target = b"some/\xfftarget";
                (vfs.symlink(parent, name, target, ROOT).await, Kind::Symlink(target.to_vec()), 0o777)
            }
            _ => (vfs.mknod(parent, name, version::Kind::Fifo, MODE, 0, ROOT).await, Kind::Fifo, MODE),
        };
        let model = self.world.tree.make(dir, name, kind, attrs(mode));
        same(&real, &model)?;
        if let (Ok(entry), Ok(id)) = (real, model) {
            self.mounts[at].lookups.push(entry.attr.ino);
            self.world.made(id, at);
            self.compare(at, id).await?;
        }
        Ok(true)
    }

    async fn remove(&mut self, step: &Step) -> Result<bool> {
        let at = step.at;
        let Some((dir, name)) = self.place(&step.path) else { return Ok(false) };
        let parent = self.no_of(at, dir).await?;
        let there = self.world.tree.find(dir, name);
        if step.what == What::Rmdir {
            let real = self.vfs(at).rmdir(parent, name).await;
            same(&real, &self.world.tree.rmdir(dir, name))?;
        } else {
            let real = self.vfs(at).unlink(parent, name).await;
            if let Some(id) = there.filter(|id| !self.world.tree.node(*id).is_dir()) {
                self.world.about_to_unlink(id);
            }
            let key = self.world.key(&(dir, name.to_vec()));
            let model = self.world.tree.unlink(dir, name);
            if same(&real, &model)?
                && let Ok(id) = model
            {
                self.world.unlinked(id, &key, at);
                self.compare(at, id).await?;
            }
        }
        self.expect_absent(at, dir, name).await?;
        Ok(true)
    }

    async fn rename(&mut self, step: &Step) -> Result<bool> {
        let at = step.at;
        let (Some(from), Some(to)) = (self.place(&step.path), self.place(&step.to)) else { return Ok(false) };
        let exchange = step.what == What::Exchange;
        let moves = self.world.tree.find(from.0, from.1);
        if !exchange && moves.is_some_and(|id| self.world.is_young_unclear(id)) {
            return Ok(false);
        }
        let (parent, new_parent) = (self.no_of(at, from.0).await?, self.no_of(at, to.0).await?);
        if exchange {
            let real = self.vfs(at).exchange(parent, from.1, new_parent, to.1).await;
            let model = self.world.tree.may_exchange(from, to);
            if same(&real, &model)?
                && let Ok(Some((id, other))) = model
            {
                self.world.exchange(at, (id, from.0, from.1), (other, to.0, to.1));
                self.compare(at, id).await?;
                self.compare(at, other).await?;
            }
            return Ok(true);
        }
        let noreplace = step.n[0] == 1;
        let real = self.vfs(at).rename(parent, from.1, new_parent, to.1, noreplace).await;
        let model = self.world.tree.may_rename(from, to, noreplace);
        // Which of several reasons is named first is not the point.
        if matches!(model, Err(Refusal::Invalid)) {
            ensure!(real.is_err(), "a directory went below itself");
        } else if same(&real, &model)?
            && let Ok(Some((id, target))) = model
        {
            self.world.rename(at, id, from, to, target);
            self.compare(at, id).await?;
            if let Some(target) = target {
                self.compare(at, target).await?;
            }
            self.expect_absent(at, from.0, from.1).await?;
        }
        Ok(true)
    }

    async fn link(&mut self, step: &Step) -> Result<bool> {
        let at = step.at;
        let Some((dir, name)) = self.place(&step.to) else { return Ok(false) };
        let id = match step.what {
            What::LinkOpen => self.world.open[at].get(step.slot).copied().flatten().map(|open| open.id),
            _ => self.place(&step.path).and_then(|(dir, name)| self.world.tree.find(dir, name)),
        };
        let Some(id) = id else { return Ok(false) };
        let (no, parent) = (self.no_of(at, id).await?, self.no_of(at, dir).await?);
        let real = self.vfs(at).link(no, parent, name).await;
        let first = self.world.tree.node(id).places.first().cloned();
        let model = self.world.tree.link(id, dir, name);
        if same(&real, &model)?
            && let (Ok(entry), Some(first)) = (real, first)
        {
            self.mounts[at].lookups.push(entry.attr.ino);
            let to = (dir, name.to_vec());
            // What is shared is saved first, under the names that there were.
            self.world.tree.node_mut(id).places.retain(|place| *place != to);
            self.world.publish(id);
            self.world.tree.node_mut(id).places.push(to.clone());
            let (from, to) = (self.world.key(&first), self.world.key(&to));
            self.world.linked(&from, &to, at);
            self.compare(at, id).await?;
        }
        Ok(true)
    }

    async fn whole_mount(&mut self, step: &Step) -> Result<bool> {
        let at = step.at;
        match step.what {
            What::Flush => {
                self.vfs(at).flush(None).await?;
                self.world.publish_all(at);
            }
            What::Forget => {
                let vfs = self.vfs(at);
                self.mounts[at].lookups.drain(..).for_each(|no| vfs.forget(no, 1));
            }
            What::Remount => {
                self.mounts[at].on.end().await?;
                self.world.publish_all(at);
                self.world.die(at);
                self.mounts[at] = self.fresh(at);
            }
            What::Kill => {
                if !self.plan.is_exact() {
                    return Ok(false);
                }
                let keeps = !matches!(self.plan.on, On::Faults { .. } | On::Layers { mode: Mode::Writeback, .. });
                if !keeps {
                    self.mounts[at].on.settle().await?;
                }
                let fresh = self.fresh(at);
                std::mem::replace(&mut self.mounts[at], fresh).on.die().await;
                self.world.die(at);
            }
            _ => {
                if !self.is_timed() {
                    return Ok(false);
                }
                let millis = step.n[0].min(1_000_000);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                self.world.pass(millis as i64);
                // All mounts published what was due.
                for mount in &mut self.mounts {
                    mount.on.settle().await?;
                    mount.behind = true;
                }
                self.last = None;
            }
        }
        Ok(true)
    }

    async fn past(&mut self, step: &Step) -> Result<bool> {
        let all = What::PurgeDir == step.what;
        let nameless = |id: Id| self.world.tree.node(id).places.is_empty();
        let open = self.world.open.iter().flatten().flatten();
        // Its rows may go; and its inode number is taken on its mount, if it comes back as another file.
        if open.clone().any(|open| nameless(open.id)) {
            return Ok(false);
        }
        let purge = |scope, keep: u64| Purge {
            scope,
            keep: Some(keep as u32).filter(|keep| *keep > 0),
            older_than: None,
            dead: false,
            dry_run: false,
        };
        if all {
            let Some(dir) = self.dir(&step.path).filter(|_| step.n[0] > 0) else { return Ok(false) };
            let path = self.world.tree.path(dir).unwrap_or_default();
            let below: String = if path.is_empty() { String::new() } else { format!("{}/", self.below(&path)) };
            let prefix = pgfiles_store::key::Prefix::new(format!("{}{below}", self.ground.prefix).trim_end_matches('/'))?;
            let mut after = None;
            loop {
                let report = self.ground.store().purge(&purge(PurgeScope::Prefix(prefix.clone(), after), step.n[0])).await?;
                after = report.next;
                if after.is_none() {
                    break;
                }
            }
            let keys: Vec<String> = self.world.versions.keys().filter(|key| key.starts_with(&below)).cloned().collect();
            keys.iter().for_each(|key| self.world.purge(key, step.n[0] as usize));
            return Ok(true);
        }
        let Some((dir, name)) = self.place(&step.path) else { return Ok(false) };
        let (below, there) = (self.world.key(&(dir, name.to_vec())), self.world.tree.find(dir, name));
        let key = self.key(&below)?;
        if step.what == What::Purge {
            let whole = step.n[0] == 0;
            let last = there.is_some() && self.world.tree.names(dir).len() == 1;
            let open = there.is_some_and(|id| self.world.is_open(id) || self.world.is_ahead(id));
            if there.is_some_and(|id| self.world.tree.node(id).is_dir()) || (whole && (last || open)) {
                return Ok(false);
            }
            self.ground.store().purge(&purge(PurgeScope::Key(key), step.n[0])).await?;
            self.world.purge(&below, step.n[0] as usize);
            if let Some(id) = there.filter(|_| whole) {
                self.world.tree.detach(dir, name);
                self.world.lost_name(id);
            }
            return Ok(true);
        }
        if !self.plan.is_exact() {
            // What lack of memory published meanwhile has numbers too.
            return Ok(false);
        }
        let is_other = |id: Id| !self.world.tree.node(id).is_file();
        let version = self.world.versions.get(&below).and_then(|all| all.iter().find(|version| version.no == step.n[0]));
        let Some(Was::File(data)) = version.map(|version| version.was.clone()).filter(|_| !there.is_some_and(is_other)) else {
            return Ok(false);
        };
        let id = self.ground.clock.version_id();
        let op = Restore { id, key, version: VersionNo(step.n[0]), expect: Precondition::Any };
        self.ground.commit(Op::Restore(op)).await?;
        self.world.written(dir, name, Arc::unwrap_or_clone(data));
        Ok(true)
    }

    fn below(&self, path: &[Vec<u8>]) -> String {
        let name = |name: &Vec<u8>| pgfiles_store::key::Name::new(name).expect("a name").component().into_owned();
        path.iter().map(name).collect::<Vec<_>>().join("/")
    }

    async fn client(&mut self, step: &Step) -> Result<bool> {
        let Some((dir, name)) = self.place(&step.path) else { return Ok(false) };
        let there = self.world.tree.find(dir, name);
        let below = self.world.key(&(dir, name.to_vec()));
        let key = self.key(&below)?;
        let (by_sql, data) = (step.n[2].is_multiple_of(2), bytes(step.n[2], step.n[1].min(200_000)));
        let nameless = self.world.open.iter().flatten().flatten().any(|open| self.world.tree.node(open.id).places.is_empty());
        let links = there.map_or(0, |id| self.world.tree.node(id).places.len());
        if there.is_some_and(|id| !self.world.tree.node(id).is_file()) {
            return Ok(false);
        }
        match (step.what, there) {
            (What::Put, _) => {
                self.ground.put(&key, data.clone(), by_sql).await?;
                self.world.written(dir, name, data);
            }
            (What::Delete, Some(id)) => {
                self.ground.delete(&key, by_sql).await?;
                self.world.tree.detach(dir, name);
                self.world.unlinked(id, &below, super::history::NOBODY);
            }
            // A row by itself leaves the other names of a file alone, so that it is not one of them any more.
            (What::Insert, _) if links <= 1 => {
                self.ground.insert(&key, data.clone()).await?;
                self.world.written(dir, name, data);
            }
            (What::Update, Some(id)) if links <= 1 && self.ground.has_sql() => {
                let rows = self.ground.update(&key, data.clone()).await?;
                ensure!(rows == 1, "{rows} rows");
                self.world.updated(id, data);
            }
            (What::DeleteRow, Some(id))
                if links <= 1 && !nameless && self.ground.has_sql() && self.world.tree.names(dir).len() > 1 =>
            {
                let rows = self.ground.delete_row(&key).await?;
                ensure!(rows == 1, "{rows} rows");
                let left = self.world.pop(&below);
                self.world.tree.detach(dir, name);
                self.world.lost_name(id);
                let kind = match left {
                    Some(Was::File(bytes)) => Kind::File(bytes),
                    Some(Was::Symlink(target)) => Kind::Symlink(target),
                    Some(Was::Fifo) => Kind::Fifo,
                    Some(Was::Gone) | None => return Ok(true),
                };
                if self.world.tree.make(dir, name, kind, Attrs::default()).is_err() {
                    bail!("the name is taken");
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Compares everything, ends all mounts, compares everything as a new mount shows it, and sees to it that nothing is left
    /// when everything is removed.
    pub async fn finish(&mut self) -> Result<()> {
        self.compare_all().await?;
        self.ground.heal();
        for at in 0..self.mounts.len() {
            self.turn(Some(at)).await?;
            self.mounts[at].on.end().await?;
            self.world.publish_all(at);
            self.world.die(at);
            self.mounts[at] = self.fresh(at);
        }
        self.world.touched = self.world.versions.keys().cloned().collect();
        self.compare_all().await?;
        for mount in &self.mounts {
            mount.on.end().await?;
        }
        self.nothing_is_left().await
    }
}

/// The attributes of something new.
fn attrs(mode: u32) -> Attrs {
    Attrs { mode: Some(mode), uid: Some(0), gid: Some(0), mtime: None, atime: None, xattrs: Some(Default::default()) }
}

/// The offsets from which data and holes go on.
pub(super) async fn regions(vfs: &Arc<Vfs>, handle: HandleId, size: u64) -> Result<Vec<(u64, u64)>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < size {
        let from = match vfs.lseek(handle, at, Seek::Data).await {
            Ok(from) => from,
            Err(VfsError::BeyondEnd) => break,
            Err(error) => return Err(error.into()),
        };
        let to = vfs.lseek(handle, from, Seek::Hole).await?;
        ensure!(from >= at && to > from && to <= size, "data at {at} of {size} bytes: {from} to {to}");
        found.push((from, to));
        at = to;
    }
    Ok(found)
}
