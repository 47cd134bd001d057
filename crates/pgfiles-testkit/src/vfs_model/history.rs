//! What is saved of the tree, and as which versions: the plainest form of what docs/semantics.md says under *Saving* and
//! *Names*. Predicts every version of every file, with its number and content.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pgfiles_store::key::Name;

use crate::model::{Attrs, Id, Kind, Model, Place};

/// What a version says.
#[derive(Debug, Clone, PartialEq)]
pub enum Was {
    /// A file of these bytes.
    File(Arc<Vec<u8>>),
    /// A symlink to that.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A deletion.
    Gone,
}

/// One version.
#[derive(Debug, Clone)]
pub struct Version {
    /// Its number.
    pub no: u64,
    /// Its content.
    pub was: Was,
    /// The same for the names of one file that it was written for, and where a rename moves it.
    serial: u64,
    /// Which mount wrote it, and when (seconds); a rename does so too.
    mount: usize,
    at: i64,
}

/// An open file description.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Open {
    pub id: Id,
    pub read: bool,
    pub write: bool,
    pub append: bool,
    /// Which one.
    pub serial: u64,
}

/// The tree, what is open, and all versions by key below the prefix.
#[derive(Default)]
#[allow(missing_docs)]
pub struct World {
    pub tree: Model,
    /// By mount and slot.
    pub open: Vec<Vec<Option<Open>>>,
    pub versions: BTreeMap<String, Vec<Version>>,
    /// Keys whose versions changed since they were compared last.
    pub touched: BTreeSet<String>,
    /// The wall clock, in milliseconds.
    pub now: i64,
    /// As in [`pgfiles_vfs::VfsConfig`].
    pub young_seconds: i64,
    /// Which mounts there have been: each remount is another one.
    pub lives: Vec<usize>,
    pub last_serial: u64,
}

/// As [`pgfiles_vfs::VfsConfig::publish_after`].
pub const PUBLISH_AFTER_MS: i64 = 5_000;

/// The mount number of who is none.
pub const NOBODY: usize = usize::MAX;

fn was(kind: &Kind) -> Was {
    match kind {
        Kind::File(bytes) => Was::File(bytes.clone()),
        Kind::Symlink(target) => Was::Symlink(target.clone()),
        Kind::Fifo => Was::Fifo,
        Kind::Dir(_) => panic!("directories' versions are not kept"),
    }
}

impl World {
    /// A number that was not given before.
    pub fn serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    /// The key of a name, below the prefix.
    pub fn key(&self, place: &Place) -> String {
        let path = self.tree.path_to(place);
        let components = path.iter().map(|name| Name::new(name).expect("a name").component().into_owned());
        components.collect::<Vec<_>>().join("/")
    }

    fn keys(&self, id: Id) -> Vec<String> {
        self.tree.node(id).places.iter().map(|place| self.key(place)).collect()
    }

    /// The newest version of a key.
    pub fn head(&self, key: &str) -> Option<&Version> {
        self.versions.get(key)?.last()
    }

    fn push(&mut self, key: &str, was: Was, serial: u64, life: usize) {
        let at = self.now / 1000;
        let versions = self.versions.entry(key.to_owned()).or_default();
        let no = versions.last().map_or(1, |version| version.no + 1);
        versions.push(Version { no, was, serial, mount: life, at });
        self.touched.insert(key.to_owned());
    }

    fn life(&self, mount: usize) -> usize {
        self.lives.get(mount).copied().unwrap_or(NOBODY)
    }

    /// All names of anything but directories at or below a node, with their keys.
    fn below(&self, dir: Id) -> Vec<(String, Place, Id)> {
        let (mut found, mut dirs) = (Vec::new(), vec![dir]);
        while let Some(dir) = dirs.pop() {
            for (name, id) in self.tree.names(dir) {
                let place = (dir, name.clone());
                if self.tree.node(*id).is_dir() { dirs.push(*id) } else { found.push((self.key(&place), place, *id)) }
            }
        }
        found
    }

    /// Descriptions of a node that may write.
    pub fn writers(&self, id: Id) -> usize {
        self.open.iter().flatten().flatten().filter(|open| open.id == id && open.write).count()
    }

    /// Whether anybody has it open.
    pub fn is_open(&self, id: Id) -> bool {
        self.open.iter().flatten().flatten().any(|open| open.id == id)
    }

    /// Whether another mount than `at` has something open that is a node or lies below it.
    pub fn is_busy(&self, at: usize, id: Id) -> bool {
        let others = self.open.iter().enumerate().filter(|(mount, _)| *mount != at);
        others.flat_map(|(_, open)| open.iter().flatten()).any(|open| self.tree.is_within(open.id, id))
    }

    /// Whether there is anything unpublished in a node.
    pub fn is_ahead(&self, id: Id) -> bool {
        let saving = &self.tree.node(id).saving;
        saving.pending || saving.dirty
    }

    /// A description is about to change the content.
    pub fn changed_by(&mut self, id: Id, writer: Option<u64>) {
        let saving = &mut self.tree.node_mut(id).saving;
        if saving.seal && saving.writer != writer {
            (saving.seal, saving.extends) = (false, None);
        }
        saving.writer = writer;
    }

    /// The content is another one.
    pub fn changed(&mut self, id: Id, mount: usize, trivial: bool) {
        let node = self.tree.node_mut(id);
        node.saving.trivial = trivial && (node.saving.trivial || !(node.saving.pending || node.saving.dirty));
        let first = !node.saving.dirty && !node.places.is_empty();
        node.saving.dirty = !node.places.is_empty();
        node.saving.mount = mount;
        node.attrs.mtime = None;
        if first {
            self.arm(id, PUBLISH_AFTER_MS);
        }
    }

    /// It is published so many milliseconds from now at the latest.
    pub fn arm(&mut self, id: Id, after: i64) {
        let at = self.now + after;
        let due = &mut self.tree.node_mut(id).saving.due;
        *due = Some(due.map_or(at, |due| due.min(at)));
    }

    /// Time passes, and with it what is due is published.
    pub fn pass(&mut self, millis: i64) {
        let end = self.now + millis;
        loop {
            let all = self.tree.all();
            let due = all.into_iter().filter(|id| self.is_ahead(*id)).filter_map(|id| Some((self.tree.node(id).saving.due?, id)));
            let Some((at, id)) = due.min().filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            self.publish(id);
        }
        self.now = end;
    }

    /// A descriptor is closed, with nothing unpublished.
    pub fn saved_by(&mut self, id: Id, writer: u64) {
        let saving = &mut self.tree.node_mut(id).saving;
        if saving.writer == Some(writer) {
            saving.seal = saving.extends.is_some();
        }
    }

    /// What is unpublished becomes a version, or goes into the one in progress.
    pub fn publish(&mut self, id: Id) {
        if self.tree.node(id).places.is_empty() || !self.is_ahead(id) {
            return;
        }
        let (serial, open) = (self.serial(), self.writers(id) > 0);
        let node = self.tree.node(id);
        let (extends, life, was) = (node.saving.extends, self.life(node.saving.mount), was(&node.kind));
        for key in self.keys(id) {
            let now = self.now / 1000;
            match self.versions.get_mut(&key).and_then(|versions| versions.last_mut()) {
                Some(head) if extends == Some(head.serial) => {
                    *head = Version { no: head.no, was: was.clone(), serial, mount: life, at: now };
                    self.touched.insert(key);
                }
                _ => self.push(&key, was.clone(), serial, life),
            }
        }
        let node = self.tree.node_mut(id);
        let attrs = node.attrs.clone();
        let saving = &mut node.saving;
        (saving.pending, saving.dirty, saving.trivial, saving.due) = (false, false, false, None);
        saving.extends = open.then_some(serial);
        saving.attrs = attrs;
    }

    /// A node of that kind is made and committed.
    pub fn made(&mut self, id: Id, mount: usize) {
        if !self.tree.node(id).is_dir() {
            let (serial, life, was) = (self.serial(), self.life(mount), was(&self.tree.node(id).kind));
            for key in self.keys(id) {
                self.push(&key, was.clone(), serial, life);
            }
        }
    }

    /// Attributes were set: with what is unpublished, or at once.
    pub fn attrs_set(&mut self, id: Id) {
        if !self.is_ahead(id) && !self.tree.node(id).places.is_empty() {
            let node = self.tree.node_mut(id);
            node.saving.attrs = node.attrs.clone();
        }
    }

    /// Before a name is removed: what is unpublished is the content of the other names too.
    pub fn about_to_unlink(&mut self, id: Id) {
        if self.tree.node(id).places.len() > 1 {
            self.publish(id);
        }
    }

    /// A name was removed that had this key.
    pub fn unlinked(&mut self, id: Id, key: &str, mount: usize) {
        let pending = self.tree.node(id).saving.pending;
        if !pending {
            let (serial, life) = (self.serial(), self.life(mount));
            self.push(key, Was::Gone, serial, life);
        }
        self.lost_name(id);
    }

    /// A file whose last name is gone leaves nothing more behind.
    pub fn lost_name(&mut self, id: Id) {
        let node = self.tree.node_mut(id);
        if node.places.is_empty() {
            (node.saving.pending, node.saving.dirty, node.saving.extends) = (false, false, None);
        }
    }

    /// A file gets one more name, with this key.
    pub fn linked(&mut self, from: &str, to: &str, mount: usize) {
        let Some(head) = self.head(from).cloned() else { return };
        let life = self.life(mount);
        self.push(to, head.was, head.serial, life);
    }

    /// A version moves to another key: its old one keeps its history, with a tombstone, unless it is young.
    fn moved(&mut self, from: &str, to: &str, mount: usize, young: bool) {
        let (life, now) = (self.life(mount), self.now / 1000);
        let Some(versions) = self.versions.get_mut(from) else { return };
        let [.., head] = versions.as_slice() else { return };
        let head = head.clone();
        let is_young = young && versions.len() == 1 && head.mount == life && now - head.at < self.young_seconds;
        if is_young {
            self.versions.remove(from);
            self.touched.insert(from.to_owned());
        } else {
            let (kept, gone) = (self.serial(), self.serial());
            if let Some(old) = self.versions.get_mut(from).and_then(|versions| versions.last_mut()) {
                old.serial = kept;
            }
            self.push(from, Was::Gone, gone, life);
        }
        self.push(to, head.was, head.serial, life);
    }

    /// Whether it is a matter of a moment whether a rename of a node leaves something behind.
    pub fn is_young_unclear(&self, id: Id) -> bool {
        let keys: Vec<String> = match self.tree.node(id).is_dir() {
            true => self.below(id).into_iter().map(|(key, ..)| key).collect(),
            false => self.keys(id),
        };
        let unclear = |version: &Version| (self.now / 1000 - version.at - self.young_seconds).abs() <= 1;
        keys.iter().filter_map(|key| self.head(key)).any(unclear)
    }

    /// Carries out a rename in the tree and among the versions.
    pub fn rename(&mut self, mount: usize, id: Id, from: (Id, &[u8]), to: (Id, &[u8]), target: Option<Id>) {
        let place = |(dir, name): (Id, &[u8])| (dir, name.to_vec());
        if self.tree.node(id).is_dir() {
            let files = self.below(id);
            self.tree.rename(id, from, to);
            for (old, at, file) in files {
                if !self.tree.node(file).saving.pending {
                    let new = self.key(&at);
                    self.moved(&old, &new, mount, true);
                }
            }
            return;
        }
        if self.tree.node(id).saving.pending {
            self.publish(id);
        }
        if let Some(target) = target {
            self.about_to_unlink(target);
        }
        let (old, new) = (self.key(&place(from)), self.key(&place(to)));
        self.tree.rename(id, from, to);
        self.moved(&old, &new, mount, true);
        if let Some(target) = target {
            self.lost_name(target);
        }
    }

    /// The same for an exchange.
    pub fn exchange(&mut self, mount: usize, (id, dir, name): (Id, Id, &[u8]), (other, to, to_name): (Id, Id, &[u8])) {
        for id in [id, other] {
            if self.tree.node(id).saving.pending {
                self.publish(id);
            }
        }
        let ends = [(id, (dir, name.to_vec())), (other, (to, to_name.to_vec()))];
        let sets = ends.map(|(id, place)| match self.tree.node(id).is_dir() {
            true => self.below(id).into_iter().map(|(key, at, file)| (key, at, file, false)).collect::<Vec<_>>(),
            false => vec![(self.key(&place), place.clone(), id, true)],
        });
        self.tree.exchange((id, dir, name), (other, to, to_name));
        let ends = [(to, to_name.to_vec()), (dir, name.to_vec())];
        let mut heads = Vec::new();
        for (set, end) in sets.iter().zip(ends) {
            for (old, at, file, is_end) in set {
                if self.tree.node(*file).saving.pending {
                    continue;
                }
                let Some(head) = self.head(old).cloned() else { continue };
                heads.push((self.key(if *is_end { &end } else { at }), head));
                let (kept, gone, life) = (self.serial(), self.serial(), self.life(mount));
                if let Some(old) = self.versions.get_mut(old).and_then(|versions| versions.last_mut()) {
                    old.serial = kept;
                }
                self.push(old, Was::Gone, gone, life);
            }
        }
        let life = self.life(mount);
        for (key, head) in heads {
            self.push(&key, head.was, head.serial, life);
        }
    }

    /// A description is closed.
    pub fn close(&mut self, mount: usize, slot: usize) -> Option<Open> {
        let open = self.open.get_mut(mount)?.get_mut(slot)?.take()?;
        if open.write {
            self.saved_by(open.id, open.serial);
            if self.writers(open.id) == 0 {
                let saving = &mut self.tree.node_mut(open.id).saving;
                (saving.seal, saving.extends) = (false, None);
            }
        }
        Some(open)
    }

    /// Everything unpublished of a mount becomes a version.
    pub fn publish_all(&mut self, mount: usize) {
        for id in self.tree.all() {
            if self.is_ahead(id) && self.tree.node(id).saving.mount == mount {
                self.publish(id);
            }
        }
    }

    /// A mount dies: what it had not published is lost.
    pub fn die(&mut self, mount: usize) {
        self.open[mount].iter_mut().for_each(|open| *open = None);
        for id in self.tree.all() {
            let node = self.tree.node(id);
            if node.saving.mount == mount && node.saving.pending {
                for (dir, name) in node.places.clone() {
                    self.tree.detach(dir, &name);
                }
            } else if node.saving.mount == mount && node.saving.dirty {
                let key = self.key(&node.places[0]);
                let saved = match self.head(&key).map(|head| head.was.clone()) {
                    Some(Was::File(bytes)) => Kind::File(bytes),
                    other => panic!("{key:?} is dirty, and its head is {other:?}"),
                };
                let node = self.tree.node_mut(id);
                node.kind = saved;
                node.attrs = node.saving.attrs.clone();
                node.saving.dirty = false;
            }
            let node = self.tree.node_mut(id);
            if node.saving.mount == mount {
                node.saving.due = None;
                (node.saving.extends, node.saving.seal, node.saving.writer) = (None, false, None);
            }
        }
    }

    /// Another client gives a file of a directory a new version, or creates it.
    pub fn written(&mut self, dir: Id, name: &[u8], data: Vec<u8>) -> Option<Id> {
        let kind = Kind::File(Arc::new(data));
        let id = match self.tree.find(dir, name) {
            Some(id) => id,
            None => self.tree.make(dir, name, kind.clone(), Attrs::default()).ok()?,
        };
        let node = self.tree.node_mut(id);
        node.kind = kind;
        node.attrs.mtime = None;
        node.saving.attrs.mtime = None;
        self.made(id, NOBODY);
        Some(id)
    }

    /// The head's content is replaced in place.
    pub fn updated(&mut self, id: Id, data: Vec<u8>) {
        let data = Arc::new(data);
        let serial = self.serial();
        for key in self.keys(id) {
            if let Some(head) = self.versions.get_mut(&key).and_then(|versions| versions.last_mut()) {
                (head.was, head.serial) = (Was::File(data.clone()), serial);
            }
            self.touched.insert(key);
        }
        self.tree.node_mut(id).kind = Kind::File(data);
        self.tree.node_mut(id).attrs.mtime = None;
        self.tree.node_mut(id).saving.attrs.mtime = None;
    }

    /// All but the newest versions of a key go.
    pub fn purge(&mut self, key: &str, keep: usize) {
        if let Some(versions) = self.versions.get_mut(key) {
            versions.drain(..versions.len().saturating_sub(keep));
            if versions.is_empty() {
                self.versions.remove(key);
            }
            self.touched.insert(key.to_owned());
        }
    }

    /// The newest version goes; whether a file is left.
    pub fn pop(&mut self, key: &str) -> Option<Was> {
        let versions = self.versions.get_mut(key)?;
        versions.pop();
        let left = versions.last().map(|head| head.was.clone());
        if versions.is_empty() {
            self.versions.remove(key);
        }
        self.touched.insert(key.to_owned());
        left
    }
}
