//! What is committed and may not be on the server's disk yet. Pure: no I/O, no clock but its own ticks.
//!
//! A tick is a moment of this process: each commit takes one when it begins and one when it is answered. What was
//! answered before another began came before it on the server too; whatever survived a crash, so did all before it.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use crate::batch::{Batch, Op, Outcome};
use crate::version::VersionId;

use crate::layer::cache::heads::touched;

/// The most bytes retained; a commit that would go over it is made durable instead, which empties the journal.
pub const RETAINED_BYTES_MAX: usize = 64 << 20;
/// The most operations retained, likewise.
pub const RETAINED_OPS_MAX: usize = 20_000;

/// The commits, in the order in which the server made them as far as anyone can tell.
#[derive(Default)]
pub struct Journal {
    entries: VecDeque<Retained>,
    ids: HashSet<VersionId>,
    ops: usize,
    bytes: usize,
    tick: u64,
    /// Polls: all that was answered before that tick lies below that point of the server's log.
    polls: VecDeque<(u64, u64)>,
}

/// A commit.
#[derive(Debug, Clone)]
pub struct Retained {
    /// Tick before it was sent.
    pub began: u64,
    /// Tick when it was answered.
    pub acked: u64,
    /// What was committed, without what a later version in progress replaced.
    pub batch: Arc<Batch>,
    /// Keys and version numbers that it left.
    heads: Vec<(crate::key::Key, u64)>,
}

impl Journal {
    /// A commit begins, or a look at the server's position.
    pub fn begin(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// Whether a batch would go over the bound.
    pub fn is_full_for(&self, batch: &Batch) -> bool {
        self.ops + batch.ops.len() > RETAINED_OPS_MAX || self.bytes + batch.payload() > RETAINED_BYTES_MAX
    }

    /// Operations and bytes retained.
    pub fn size(&self) -> (usize, usize) {
        (self.ops, self.bytes)
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A commit that began at a tick was answered.
    pub fn retain(&mut self, began: u64, mut batch: Batch, outcomes: &[Outcome]) {
        self.tick += 1;
        let acked = self.tick;
        for op in &batch.ops {
            if let Op::Put(put) = op {
                if let Some(replaced) = put.extends.filter(|id| self.ids.contains(id)) {
                    self.supersede(replaced, &put.drops);
                }
            }
        }
        batch.life = None;
        self.ops += batch.ops.len();
        self.bytes += batch.payload();
        self.ids.extend(batch.ops.iter().filter_map(Op::witness));
        let heads = outcomes.iter().filter_map(|outcome| outcome.head.as_ref());
        let heads = heads.map(|head| (head.key.clone(), head.version.0)).collect();
        let entry = Retained { began, acked, batch: Arc::new(batch), heads };
        let place = self.place_of(&entry);
        self.entries.insert(place, entry);
    }

    /// After all that came before it: of commits that ran at the same time, the numbers of their versions tell.
    fn place_of(&self, entry: &Retained) -> usize {
        let mut place = self.entries.len();
        for (index, other) in self.entries.iter().enumerate().rev() {
            if other.acked < entry.began {
                break;
            }
            let later = |(key, version): &(_, u64)| other.heads.iter().any(|(k, v)| k == key && v > version);
            if entry.heads.iter().any(later) {
                place = index;
            }
        }
        place
    }

    /// A row was replaced by the next one of its version in progress.
    fn supersede(&mut self, id: VersionId, drops: &[VersionId]) {
        let gone = |op: &Op| op.witness().is_some_and(|witness| witness == id || drops.contains(&witness));
        for entry in self.entries.iter_mut().rev() {
            if !entry.batch.ops.iter().any(|op| op.witness() == Some(id)) {
                continue;
            }
            let batch = Arc::make_mut(&mut entry.batch);
            let (before_ops, before_bytes) = (batch.ops.len(), batch.payload());
            for op in batch.ops.iter().filter(|op| gone(op)) {
                if let Some(witness) = op.witness() {
                    self.ids.remove(&witness);
                }
            }
            batch.ops.retain(|op| !gone(op));
            self.ops -= before_ops - batch.ops.len();
            self.bytes -= before_bytes - batch.payload();
            break;
        }
        self.entries.retain(|entry| !entry.batch.ops.is_empty());
    }

    /// All that was answered before a tick is on the server's disk.
    pub fn durable(&mut self, began: u64) {
        let Self { entries, ids, ops, bytes, .. } = self;
        entries.retain(|entry| {
            let stays = entry.acked > began;
            if !stays {
                *ops -= entry.batch.ops.len();
                *bytes -= entry.batch.payload();
                for id in entry.batch.ops.iter().filter_map(Op::witness) {
                    ids.remove(&id);
                }
            }
            stays
        });
        self.polls.retain(|(tick, _)| *tick > began);
    }

    /// The server's position, asked for at a tick.
    pub fn polled(&mut self, began: u64, written: u64, flushed: u64) {
        self.polls.push_back((began, written));
        let reached = self.polls.iter().filter(|(_, written)| *written <= flushed).map(|(tick, _)| *tick).max();
        if let Some(tick) = reached {
            self.durable(tick);
        }
    }

    /// The points of another life of the server mean nothing.
    pub fn forget_polls(&mut self) {
        self.polls.clear();
    }

    /// Everything retained, in order.
    pub fn all(&self) -> Vec<Retained> {
        self.entries.iter().cloned().collect()
    }

    /// Gives everything up; says how many operations that were.
    pub fn clear(&mut self) -> usize {
        let ops = self.ops;
        *self = Self { tick: self.tick, ..Self::default() };
        ops
    }
}

/// Of these commits, those that the server does not have, given the rows that it has: all without a row there, but not
/// those that were answered before one began whose row is there.
pub fn missing<'r>(all: &'r [Retained], present: &HashSet<VersionId>) -> Vec<&'r Retained> {
    let is_there = |entry: &&Retained| entry.batch.ops.iter().filter_map(Op::witness).any(|id| present.contains(&id));
    let survived = all.iter().filter(is_there).map(|entry| entry.began).max().unwrap_or(0);
    all.iter().filter(|entry| !is_there(entry) && entry.acked >= survived).collect()
}

/// For messages: the first keys of a batch.
pub fn describe(batch: &Batch) -> String {
    let keys: Vec<_> = batch.ops.iter().flat_map(touched).take(3).map(|key| format!("{key:?}")).collect();
    format!("{} operations on {}", batch.ops.len(), keys.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Delete, Precondition, Put};
    use crate::key::Key;
    use crate::version::{Head, Meta, VersionNo};
    use bytes::Bytes;
    use serde_json::{Map, Value};
    use uuid::Uuid;

    fn id(n: u128) -> VersionId {
        VersionId(Uuid::from_u128(n))
    }

    fn put(n: u128, key: &str, extends: Option<u128>) -> Batch {
        let put = Put {
            id: id(n),
            key: Key::new(key).unwrap(),
            meta: Map::new(),
            defaults: Map::new(),
            data: Some(Bytes::from_static(b"four")),
            expect: Precondition::Any,
            extends: extends.map(id),
            drops: vec![],
        };
        Batch::one(Op::Put(put), &Arc::new(Value::Null))
    }

    fn head(n: u128, key: &str, version: u64) -> Outcome {
        let (key, version) = (Key::new(key).unwrap(), VersionNo(version));
        Outcome { head: Some(Head { key, id: id(n), version, meta: Meta::default(), data: None }), ..Outcome::default() }
    }

    fn ids(entries: &[&Retained]) -> Vec<VersionId> {
        entries.iter().flat_map(|entry| entry.batch.ops.iter().filter_map(Op::witness)).collect()
    }

    #[test]
    fn what_a_poll_passed_is_dropped_and_nothing_else() {
        let mut journal = Journal::default();
        let first = journal.begin();
        journal.retain(first, put(1, "a", None), &[]);
        let poll = journal.begin();
        let second = journal.begin();
        journal.retain(second, put(2, "b", None), &[]);
        journal.polled(poll, 100, 90);
        assert_eq!(journal.size(), (2, 8), "not flushed so far");
        let later = journal.begin();
        journal.polled(later, 200, 100);
        assert_eq!(ids(&journal.all().iter().collect::<Vec<_>>()), [id(2)]);
        journal.durable(journal.tick);
        assert!(journal.is_empty() && journal.size() == (0, 0) && journal.ids.is_empty());
    }

    #[test]
    fn a_version_in_progress_is_kept_once() {
        let mut journal = Journal::default();
        for n in 1..=5 {
            let began = journal.begin();
            journal.retain(began, put(n, "log", (n > 1).then(|| n - 1)), &[]);
        }
        assert_eq!(ids(&journal.all().iter().collect::<Vec<_>>()), [id(5)]);
        assert_eq!(journal.size(), (1, 4));
    }

    #[test]
    fn versions_order_what_ran_at_the_same_time() {
        let mut journal = Journal::default();
        let (a, b) = (journal.begin(), journal.begin());
        journal.retain(b, put(2, "k", None), &[head(2, "k", 2)]);
        journal.retain(a, put(1, "k", None), &[head(1, "k", 1)]);
        assert_eq!(ids(&journal.all().iter().collect::<Vec<_>>()), [id(1), id(2)]);
    }

    #[test]
    fn what_came_before_a_survivor_survived() {
        let mut journal = Journal::default();
        let delete = |n, key: &str| {
            let op = Delete { id: id(n), key: Key::new(key).unwrap(), expect: Precondition::Any };
            Batch::one(Op::Delete(op), &Arc::new(Value::Null))
        };
        let first = journal.begin();
        journal.retain(first, delete(1, "a"), &[]);
        let (second, third) = (journal.begin(), journal.begin());
        journal.retain(third, put(3, "c", None), &[]);
        journal.retain(second, put(2, "b", None), &[]);
        let all = journal.all();
        // 3 is there: 1 was answered before it began; 2 ran at the same time, so nothing is known of it.
        assert_eq!(ids(&missing(&all, &HashSet::from([id(3)]))), [id(2)]);
        assert_eq!(ids(&missing(&all, &HashSet::new())), [id(1), id(3), id(2)]);
    }
}
