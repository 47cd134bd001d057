//! What is committed and may not be on the server's disk yet. Pure: no I/O, no clock but its own ticks.
//!
//! A tick is a moment of this process: each commit takes one when it begins and one when it is answered. What was
//! answered before another began came before it on the server too; whatever survived a crash, so did all before it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::batch::{Batch, Op, Outcome, Put};
use crate::key::Key;
use crate::version::{Head, Meta, VersionId};

use crate::layer::cache::heads::touched;

/// The most bytes retained; a commit that would go over it is made durable instead, which empties the journal.
pub const RETAINED_BYTES_MAX: usize = 48 << 20;
/// The most operations retained, likewise.
pub const RETAINED_OPS_MAX: usize = 20_000;
/// Body rows that a version in progress remembers to drop; what is over leaks until it is swept.
const DROPS_MAX: usize = 4_096;

/// The commits, in the order in which the server made them as far as anyone can tell.
#[derive(Default)]
pub struct Journal {
    entries: VecDeque<Retained>,
    ids: HashSet<VersionId>,
    ops: usize,
    bytes: usize,
    tick: u64,
    /// Of a retained version in progress: the rows that it replaced one after the other. After a crash any of them may be
    /// the one that is on the server again.
    chains: HashMap<VersionId, Vec<Replaced>>,
    /// Rows that are being replaced by commits that are not answered.
    replacing: HashMap<VersionId, VersionId>,
    /// Polls: all that was answered before that tick lies below that point of the server's log.
    polls: VecDeque<(u64, u64)>,
}

/// A commit.
#[derive(Debug)]
struct Retained {
    /// Tick before it was sent.
    began: u64,
    /// Tick when it was answered.
    acked: u64,
    /// What was committed, without what a later version in progress replaced.
    batch: Arc<Batch>,
    /// Keys and version numbers that it left.
    heads: Vec<(Key, u64)>,
    /// Of versions of files with several names: the other names.
    also: Vec<(VersionId, Key)>,
}

/// A row that the next one of its version in progress replaced; ticks as in [`Retained`], 0: on the disk.
#[derive(Debug, Clone, Copy)]
struct Replaced {
    began: u64,
    acked: u64,
    id: VersionId,
}

impl Journal {
    /// A commit begins, or a look at the server's position.
    pub fn begin(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// The same for a commit that may be on the server before it is answered.
    pub fn begin_commit(&mut self, batch: &Batch) -> u64 {
        for put in puts(batch) {
            if let Some(replaced) = put.extends.filter(|id| self.ids.contains(id)) {
                self.replacing.insert(replaced, put.id);
            }
        }
        self.begin()
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
        let mut also = Vec::new();
        for (index, op) in batch.ops.iter_mut().enumerate() {
            if let Op::Put(put) = op {
                let outcome = outcomes.get(index);
                self.extend(put, outcome);
                also.extend(outcome.iter().flat_map(|outcome| &outcome.also).map(|key| (put.id, key.clone())));
            }
        }
        batch.life = None;
        self.ops += batch.ops.len();
        self.bytes += batch.payload();
        self.ids.extend(batch.ops.iter().filter_map(Op::witness));
        let heads = outcomes.iter().filter_map(|outcome| outcome.head.as_ref());
        let heads = heads.map(|head| (head.key.clone(), head.version.0)).collect();
        let entry = Retained { began, acked, batch: Arc::new(batch), heads, also };
        let place = self.place_of(&entry);
        self.entries.insert(place, entry);
    }

    /// A version in progress goes on: takes over what its predecessor knew, and its place if nothing came between.
    fn extend(&mut self, put: &mut Put, outcome: Option<&Outcome>) {
        let Some(replaced) = put.extends else { return };
        self.replacing.remove(&replaced);
        let mut link = Replaced { began: 0, acked: 0, id: replaced };
        if let Some((place, before)) = self.retained_put(replaced) {
            let entry = &self.entries[place];
            (link.began, link.acked) = (entry.began, entry.acked);
            let is_built_on = self.is_built_on(place, &before, put, outcome);
            let is_another = |head: &Head| {
                let numbers: Vec<_> = entry.heads.iter().filter(|(key, _)| *key == head.key).map(|(_, number)| *number).collect();
                !numbers.is_empty() && !numbers.contains(&head.version.0)
            };
            if !is_built_on && outcome.and_then(|outcome| outcome.head.as_ref()).is_some_and(is_another) {
                // Another client came between: both are versions.
                put.extends = None;
                return;
            }
            let drops = before.drops.iter().filter(|id| !put.drops.contains(id));
            let drops: Vec<_> = drops.take(DROPS_MAX.saturating_sub(put.drops.len())).copied().collect();
            if !is_built_on {
                self.supersede(place, replaced, &put.drops);
                inherit(put, before);
            }
            put.drops.extend(drops);
        }
        // Copied only where the predecessor stays and may have to be committed again itself.
        let stays = self.ids.contains(&replaced);
        let chain = if stays { self.chains.get(&replaced).cloned() } else { self.chains.remove(&replaced) };
        let mut chain = chain.unwrap_or_default();
        chain.push(link);
        self.chains.insert(put.id, chain);
    }

    /// Where a version is retained.
    fn retained_put(&self, id: VersionId) -> Option<(usize, Put)> {
        if !self.ids.contains(&id) {
            return None;
        }
        let mut entries = self.entries.iter().enumerate().rev();
        entries.find_map(|(place, entry)| Some((place, puts(&entry.batch).find(|put| put.id == id)?.clone())))
    }

    /// Whether something after a version needs it: a name, attributes or a copy that the next row of it does not bring.
    fn is_built_on(&self, place: usize, before: &Put, next: &Put, outcome: Option<&Outcome>) -> bool {
        let others = self.entries[place].also.iter().filter(|(of, _)| *of == before.id).map(|(_, key)| key);
        let others = outcome.into_iter().flat_map(|outcome| &outcome.also).chain(others);
        let names: Vec<&Key> = others.chain([&before.key, &next.key]).collect();
        let is_name =
            |key: &Key| names.iter().any(|name| *name == key || (key.is_marker() && name.as_str().starts_with(key.as_str())));
        let later = self.entries.range(place..).flat_map(|entry| &entry.batch.ops);
        later.skip_while(|op| op.witness() != Some(before.id)).skip(1).any(|op| match op {
            Op::Copy(copy) => is_name(&copy.from) || is_name(&copy.to),
            op => touched(op).iter().any(is_name),
        })
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
    fn supersede(&mut self, place: usize, id: VersionId, drops: &[VersionId]) {
        let gone = |op: &Op| op.witness().is_some_and(|witness| witness == id || drops.contains(&witness));
        let entry = &mut self.entries[place];
        let batch = Arc::make_mut(&mut entry.batch);
        let (before_ops, before_bytes) = (batch.ops.len(), batch.payload());
        for witness in batch.ops.iter().filter(|op| gone(op)).filter_map(Op::witness) {
            self.ids.remove(&witness);
        }
        batch.ops.retain(|op| !gone(op));
        self.ops -= before_ops - batch.ops.len();
        self.bytes -= before_bytes - batch.payload();
        if batch.ops.is_empty() {
            self.entries.remove(place);
        }
    }

    /// All that was answered before a tick is on the server's disk.
    pub fn durable(&mut self, began: u64) {
        let Self { entries, ids, ops, bytes, chains, replacing, .. } = self;
        entries.retain(|entry| {
            let stays = entry.acked > began;
            if !stays {
                *ops -= entry.batch.ops.len();
                *bytes -= entry.batch.payload();
                for id in entry.batch.ops.iter().filter_map(Op::witness) {
                    ids.remove(&id);
                    chains.remove(&id);
                    replacing.remove(&id);
                }
            }
            stays
        });
        for chain in chains.values_mut() {
            // The last of them that is on the disk, and what came after it.
            let durable = chain.iter().rposition(|replaced| replaced.acked <= began).unwrap_or(0);
            chain.drain(..durable);
        }
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

    /// The rows that tell which of all retained commits are on the server.
    pub fn witnesses(&self) -> Vec<VersionId> {
        let chains = self.chains.values().flatten().map(|replaced| replaced.id);
        self.ids.iter().copied().chain(chains).chain(self.replacing.values().copied()).collect()
    }

    /// The commits that the server does not have, in order, given which witnesses it has: all without a row there, but
    /// not those that were answered before one began whose row is there.
    pub fn missing(&self, present: &HashSet<VersionId>) -> Vec<Batch> {
        let is_there =
            |id: VersionId| present.contains(&id) || self.replacing.get(&id).is_some_and(|replacing| present.contains(replacing));
        let is_there = |entry: &&Retained| entry.batch.ops.iter().filter_map(Op::witness).any(is_there);
        let survived = self.entries.iter().filter(is_there).map(|entry| entry.began);
        let replaced =
            self.chains.values().flatten().filter(|replaced| present.contains(&replaced.id)).map(|replaced| replaced.began);
        let survived = survived.chain(replaced).max().unwrap_or(0);
        let missing = self.entries.iter().filter(|entry| !is_there(entry) && entry.acked >= survived);
        missing.map(|entry| self.as_extension(&entry.batch, present)).collect()
    }

    /// A version in progress extends whichever of the rows that it replaced is there again, or will be.
    fn as_extension(&self, batch: &Batch, present: &HashSet<VersionId>) -> Batch {
        let mut batch = batch.clone();
        for op in &mut batch.ops {
            let Op::Put(put) = op else { continue };
            let chain = self.chains.get(&put.id).into_iter().flatten().rev();
            let there = |id: &VersionId| present.contains(id) || self.ids.contains(id);
            if let Some(id) = chain.map(|replaced| replaced.id).find(there) {
                put.extends = Some(id);
            }
        }
        batch
    }

    /// All that is retained, in order.
    pub fn batches(&self) -> Vec<Arc<Batch>> {
        self.entries.iter().map(|entry| entry.batch.clone()).collect()
    }

    /// Gives everything up; says how many operations that were.
    pub fn clear(&mut self) -> usize {
        let ops = self.ops;
        *self = Self { tick: self.tick, ..Self::default() };
        ops
    }
}

/// Gives a version what it would have had from its predecessor, which it takes the place of.
fn inherit(put: &mut Put, before: Put) {
    let passed_on = |(name, _): &(String, _)| !Meta::OF_CONTENT.contains(&name.as_str());
    for (name, value) in before.meta.into_iter().filter(passed_on) {
        put.meta.entry(name).or_insert(value);
    }
    for (name, value) in before.defaults {
        put.defaults.entry(name).or_insert(value);
    }
}

fn puts(batch: &Batch) -> impl Iterator<Item = &Put> {
    batch.ops.iter().filter_map(|op| match op {
        Op::Put(put) => Some(put),
        _ => None,
    })
}

/// For messages: the first keys of a batch.
pub fn describe(batch: &Batch) -> String {
    let keys: Vec<_> = batch.ops.iter().flat_map(touched).take(3).map(|key| format!("{key:?}")).collect();
    format!("{} operations on {}", batch.ops.len(), keys.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Delete, Link, Precondition};
    use crate::key::Key;
    use crate::version::VersionNo;
    use bytes::Bytes;
    use serde_json::{Map, Value, json};
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
            grown: None,
        };
        Batch::one(Op::Put(put), &Arc::new(Value::Null))
    }

    fn head(n: u128, key: &str, version: u64) -> Outcome {
        let (key, version) = (Key::new(key).unwrap(), VersionNo(version));
        Outcome { head: Some(Head { key, id: id(n), version, meta: Meta::default(), data: None }), ..Outcome::default() }
    }

    fn ids(batches: impl IntoIterator<Item = Batch>) -> Vec<VersionId> {
        batches.into_iter().flat_map(|batch| batch.ops.iter().filter_map(Op::witness).collect::<Vec<_>>()).collect()
    }

    fn all(journal: &Journal) -> Vec<VersionId> {
        ids(journal.entries.iter().map(|entry| Batch::clone(&entry.batch)))
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
        assert_eq!(all(&journal), [id(2)]);
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
        assert_eq!(all(&journal), [id(5)]);
        assert_eq!(journal.size(), (1, 4));
    }

    #[test]
    fn what_others_need_is_kept_though_it_was_replaced() {
        let link = |n, from: &str, to: &str| {
            let (from, to) = (Key::new(from).unwrap(), Key::new(to).unwrap());
            Batch::one(Op::Link(Link { id: id(n), from, to, ctime: None }), &Arc::new(Value::Null))
        };
        let mut journal = Journal::default();
        let mut retain = |batch: Batch, outcome: Outcome| {
            let began = journal.begin_commit(&batch);
            journal.retain(began, batch, &[outcome]);
        };
        retain(put(1, "a", None), head(1, "a", 1));
        retain(put(2, "a", Some(1)), head(2, "a", 1));
        retain(link(3, "a", "b"), head(3, "b", 1));
        retain(put(4, "a", Some(2)), head(4, "a", 1));
        retain(put(5, "a", Some(4)), head(5, "a", 1));
        assert_eq!(all(&journal), [id(2), id(3), id(5)]);
        let missing = journal.missing(&HashSet::new());
        assert_eq!(ids(missing.clone()), [id(2), id(3), id(5)]);
        assert_eq!(missing.iter().flat_map(puts).map(|put| put.extends).collect::<Vec<_>>(), [Some(id(1)), Some(id(2))]);
        // The server was as it is after 1, or after 4: what 4 replaced is not to come back.
        let missing = journal.missing(&HashSet::from([id(1)]));
        assert_eq!(ids(missing.clone()), [id(2), id(3), id(5)]);
        assert_eq!(extended(&missing), Some(id(1)));
        assert_eq!(ids(journal.missing(&HashSet::from([id(3), id(4)]))), [id(5)]);
    }

    #[test]
    fn what_takes_the_place_of_a_version_has_its_attributes() {
        let with = |n, extends, meta: Value| {
            let mut batch = put(n, "a", extends);
            let Op::Put(put) = &mut batch.ops[0] else { unreachable!() };
            put.meta = meta.as_object().cloned().unwrap();
            batch
        };
        let mut journal = Journal::default();
        for batch in [
            with(1, None, json!({"mode": "0600", "size": 4, "content_type": "a/b", "layout": {}})),
            with(2, Some(1), json!({"size": 5, "mode": "0400"})),
            with(3, Some(2), json!({"size": 6})),
        ] {
            let began = journal.begin_commit(&batch);
            journal.retain(began, batch, &[]);
        }
        let missing = journal.missing(&HashSet::new());
        let meta = &puts(&missing[0]).next().unwrap().meta;
        assert_eq!(
            (ids(missing.clone()), meta.get("mode"), meta.get("size")),
            (vec![id(3)], Some(&json!("0400")), Some(&json!(6)))
        );
        assert_eq!(meta.get("layout"), None, "of the content that was replaced");
    }

    #[test]
    fn a_version_that_another_client_ended_stays_one() {
        let mut journal = Journal::default();
        let first = journal.begin_commit(&put(1, "a", None));
        journal.retain(first, put(1, "a", None), &[head(1, "a", 1)]);
        let second = journal.begin_commit(&put(2, "a", Some(1)));
        journal.retain(second, put(2, "a", Some(1)), &[head(2, "a", 3)]);
        let missing = journal.missing(&HashSet::new());
        assert_eq!(ids(missing.clone()), [id(1), id(2)]);
        assert_eq!(missing.iter().flat_map(puts).map(|put| put.extends).collect::<Vec<_>>(), [None, None]);
    }

    #[test]
    fn versions_order_what_ran_at_the_same_time() {
        let mut journal = Journal::default();
        let (a, b) = (journal.begin(), journal.begin());
        journal.retain(b, put(2, "k", None), &[head(2, "k", 2)]);
        journal.retain(a, put(1, "k", None), &[head(1, "k", 1)]);
        assert_eq!(all(&journal), [id(1), id(2)]);
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
        // 3 is there: 1 was answered before it began; 2 ran at the same time, so nothing is known of it.
        assert_eq!(ids(journal.missing(&HashSet::from([id(3)]))), [id(2)]);
        assert_eq!(ids(journal.missing(&HashSet::new())), [id(1), id(3), id(2)]);
    }

    fn extended(batches: &[Batch]) -> Option<VersionId> {
        batches.iter().flat_map(puts).next()?.extends
    }

    #[test]
    fn a_version_in_progress_extends_what_the_crash_brought_back() {
        let mut journal = Journal::default();
        for n in 1..=5 {
            let began = journal.begin_commit(&put(n, "log", (n > 1).then(|| n - 1)));
            journal.retain(began, put(n, "log", (n > 1).then(|| n - 1)), &[]);
        }
        assert_eq!(extended(&journal.missing(&HashSet::from([id(2)]))), Some(id(2)));
        assert_eq!(extended(&journal.missing(&HashSet::new())), Some(id(4)));
        assert!(journal.missing(&HashSet::from([id(5)])).is_empty());
    }

    #[test]
    fn what_an_unanswered_commit_replaced_is_not_missing() {
        let mut journal = Journal::default();
        let began = journal.begin_commit(&put(1, "log", None));
        journal.retain(began, put(1, "log", None), &[]);
        journal.begin_commit(&put(2, "log", Some(1)));
        assert!(journal.witnesses().contains(&id(2)));
        assert!(journal.missing(&HashSet::from([id(2)])).is_empty());
        assert_eq!(ids(journal.missing(&HashSet::new())), [id(1)]);
    }

    #[test]
    fn a_chain_is_as_long_as_what_is_not_on_the_disk() {
        let mut journal = Journal::default();
        for n in 1..=9 {
            let poll = journal.begin();
            let began = journal.begin();
            journal.retain(began, put(n, "log", (n > 1).then(|| n - 1)), &[]);
            journal.durable(poll);
            assert!(journal.chains.values().flatten().count() <= 2);
        }
    }
}
