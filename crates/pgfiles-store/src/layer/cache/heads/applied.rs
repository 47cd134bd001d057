//! What an own commit does to what is known: it is visible at once, and nothing that it made untrue stays.

use tokio::time::Instant;

use crate::batch::{Op, Outcome, Precondition};
use crate::key::Key;
use crate::store::{Dir, Entry};
use crate::version::Head;

use super::{Heads, Known, Listing, Name, bare, split};

impl Heads {
    /// The operations were committed with these outcomes; the answer is as old as `begun`, the moment before the commit
    /// was sent.
    pub fn applied(&self, begun: Instant, ops: &[Op], outcomes: &[Outcome]) {
        // Which other names changed with these is not known for sure.
        let loses_names = |(op, outcome): (&Op, &Outcome)| {
            outcome.resent && matches!(op, Op::Delete(_) | Op::RemoveDir(_) | Op::Rename(_) | Op::RenameDir(_) | Op::Exchange(_))
        };
        if ops.iter().zip(outcomes).any(loses_names) {
            self.invalidate_all();
        }
        let mut known = self.lock();
        for (index, op) in ops.iter().enumerate() {
            known.stamp += 1;
            known.tick += 1;
            let outcome = outcomes.get(index);
            known.apply(begun, op, outcome.and_then(|outcome| outcome.head.as_ref()));
            for key in outcome.into_iter().flat_map(|outcome| &outcome.also) {
                known.forget(key);
            }
        }
        self.bound(&mut known);
    }

    /// The operations may or may not have been carried out: forgets all that they touch.
    pub fn doubt(&self, ops: &[Op]) {
        let mut known = self.lock();
        known.stamp += 1;
        for key in ops.iter().flat_map(touched) {
            known.forget(&key.as_file());
            if key.is_marker() {
                known.forget_tree(key.as_str());
            }
            known.forget_absent_parents(&key);
        }
    }

    /// Replaces a predicted head by what the server made of it, if nothing newer is known.
    pub fn correct(&self, head: &Head) {
        let mut known = self.lock();
        let path = head.key.as_file();
        let (dir, name) = split(&path);
        let Some(slot) = known.dirs.get_mut(dir).and_then(|listing| listing.names.get_mut(name)) else { return };
        let (Some(Entry::File(row)) | Some(Entry::Dir(Dir { marker: Some(row), .. }))) = &mut slot.entry else { return };
        // An attribute change that is still predicted is on the same row, with a higher `rev`.
        if row.id == head.id && row.meta.rev <= head.meta.rev {
            *row = Head { data: None, ..head.clone() };
        }
    }
}

/// The keys that an operation may change; one that ends in `/` stands for all below.
pub(crate) fn touched(op: &Op) -> Vec<Key> {
    match op {
        Op::Put(op) => vec![op.key.as_file()],
        Op::Body(_) => vec![],
        Op::SetAttr(op) => vec![op.key.as_file()],
        Op::Delete(op) => vec![op.key.clone()],
        Op::RemoveDir(op) => op.dir.marker().into_iter().collect(),
        Op::Rename(op) => vec![op.from.clone(), op.to.clone()],
        Op::RenameDir(op) => op.from.marker().into_iter().chain(op.to.marker()).collect(),
        Op::Exchange(op) => {
            [&op.from, &op.to].into_iter().flat_map(|key| [Some(key.clone()), key.as_dir().marker()]).flatten().collect()
        }
        Op::Link(op) => vec![op.from.clone(), op.to.clone()],
        Op::Copy(op) => vec![op.to.clone()],
        Op::Restore(op) => vec![op.key.clone()],
        Op::RestoreDir(op) => op.dir.marker().into_iter().collect(),
    }
}

impl Known {
    fn apply(&mut self, begun: Instant, op: &Op, head: Option<&Head>) {
        // The row that an extended version replaces is gone; who referred to its bytes refers to another row now.
        if matches!(op, Op::Put(put) if put.extends.is_some_and(|id| self.referred.contains(&id))) {
            self.invalidate_all();
        }
        match op {
            Op::Body(_) => {}
            Op::Put(put) if put.key.is_marker() => self.made_dir(begun, &put.key, head, put.expect == Precondition::Absent),
            Op::Put(put) => self.stands(begun, &put.key, head),
            Op::SetAttr(set) if set.key.is_marker() => self.made_dir(begun, &set.key, head, false),
            Op::SetAttr(set) => self.stands(begun, &set.key, head),
            Op::Delete(op) => self.gone(begun, &op.key),
            Op::Rename(op) => {
                self.gone(begun, &op.from);
                self.stands(begun, &op.to, head);
            }
            Op::Exchange(op) => {
                for key in [&op.from, &op.to] {
                    self.forget(key);
                    self.forget_tree(key.as_dir().as_str());
                }
            }
            Op::Link(op) => {
                self.forget(&op.from);
                self.stands(begun, &op.to, head);
            }
            Op::Copy(op) => self.stands(begun, &op.to, head),
            Op::Restore(op) => self.stands(begun, &op.key, head),
            Op::RemoveDir(op) => {
                let Some(marker) = op.dir.marker() else { return };
                if op.recursive {
                    self.forget_tree(marker.as_str());
                }
                self.removed_dir(begun, &marker);
            }
            Op::RenameDir(op) => {
                let (Some(from), Some(to)) = (op.from.marker(), op.to.marker()) else { return };
                // Of what is in it the rows are other ones now; that nothing is stays as true as it was, and no newer.
                let empty =
                    self.dirs.get(from.as_str()).filter(|listing| listing.names.values().all(|name| name.entry.is_none()));
                let empty_as_of = empty.and_then(|listing| listing.complete);
                self.forget_tree(from.as_str());
                self.forget_tree(to.as_str());
                self.made_dir(begun, &to, head, false);
                if let Some(at) = empty_as_of {
                    self.empty(at, &to);
                }
                self.removed_dir(begun, &from);
            }
            Op::RestoreDir(op) => {
                let Some(marker) = op.dir.marker() else { return };
                self.forget_tree(marker.as_str());
                self.forget(&marker.as_file());
                self.forget_absent_parents(&marker);
            }
        }
    }

    /// A file's head is this one now.
    fn stands(&mut self, begun: Instant, key: &Key, head: Option<&Head>) {
        let Some(head) = head.filter(|head| head.is_live()) else { return self.forget(key) };
        match self.stale(key) {
            // A directory of that name would win.
            Some(Some(Entry::Dir(_))) => return self.forget(key),
            // Two commits ran at the same time and are told in the other order, or the key was purged elsewhere: ask.
            Some(Some(Entry::File(known))) if known.version > head.version => return self.forget(key),
            _ => {}
        }
        self.set(begun, key, Some(Entry::File(head.clone())));
        self.forget_absent_parents(key);
    }

    /// A directory's marker is this one now; `new`: nothing was there before, so nothing is in it.
    fn made_dir(&mut self, begun: Instant, key: &Key, head: Option<&Head>, new: bool) {
        let path = key.as_file();
        let Some(head) = head.filter(|head| head.is_live()) else { return self.forget(&path) };
        if matches!(self.stale(&path), Some(Some(Entry::File(_)))) {
            self.forget(&path); // a listing shows both
        }
        self.set(begun, &path, Some(Entry::Dir(Dir { marker: Some(head.clone()), mtime: None })));
        self.forget_absent_parents(&path);
        if new {
            self.empty(begun, key);
        }
    }

    fn removed_dir(&mut self, begun: Instant, marker: &Key) {
        let path = marker.as_file();
        // A file of the same name would appear now, unless the whole directory is known and showed none.
        let (dir, _) = split(&path);
        match self.dirs.get(dir).and_then(|listing| listing.complete) {
            Some(_) => self.set(begun, &path, None),
            None => self.forget(&path),
        }
        self.empty(begun, marker);
    }

    /// Nothing is in a directory.
    fn empty(&mut self, begun: Instant, marker: &Key) {
        self.drop_listing(marker.as_str());
        let (stamp, used) = (self.stamp, self.tick);
        let listing = Listing { complete: Some(begun), void: stamp, used, ..Listing::default() };
        self.dirs.insert(marker.as_str().into(), listing);
        self.size += 1;
    }

    fn gone(&mut self, begun: Instant, key: &Key) {
        match self.stale(key) {
            Some(Some(Entry::Dir(_))) => self.forget(key),
            _ => self.set(begun, key, None),
        }
    }

    fn set(&mut self, begun: Instant, path: &Key, entry: Option<Entry>) {
        let (dir, name) = split(path);
        let stamp = self.stamp;
        self.put(dir, name, Name { entry: entry.map(bare), at: begun, stamp });
    }

    /// A live key makes all directories above it live: whatever says otherwise is forgotten.
    fn forget_absent_parents(&mut self, key: &Key) {
        let mut dir = key.parent();
        while let Some(marker) = dir.marker() {
            let path = marker.as_file();
            match self.stale(&path) {
                Some(Some(Entry::Dir(_))) => return,
                _ => self.forget(&path),
            }
            dir = marker.parent();
        }
    }
}
