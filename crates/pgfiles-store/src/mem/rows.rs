//! The rows of a [`super::MemStore`]: a table with an undo log, and the rules of what refers to what.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::key::{Key, Prefix};
use crate::layout;
use crate::list;
use crate::version::{Head, Meta, VersionId, VersionNo};

/// Fields of `meta` as the row holds them.
pub(super) type Fields = Map<String, Value>;

/// One row of the table; never changed, only replaced.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub id: VersionId,
    pub key: Arc<str>,
    pub meta: Fields,
    pub data: Option<Bytes>,
}

impl Row {
    pub fn number(&self) -> u64 {
        self.meta.get("version").and_then(Value::as_u64).unwrap_or(0)
    }

    pub fn is_live(&self) -> bool {
        self.meta.get("deleted").and_then(Value::as_bool) != Some(true)
    }

    /// A uuid in a field.
    pub fn uuid(&self, field: &str) -> Option<Uuid> {
        self.meta.get(field)?.as_str()?.parse().ok()
    }

    pub fn text(&self, field: &str) -> Option<&str> {
        self.meta.get(field)?.as_str()
    }

    pub fn size(&self) -> u64 {
        self.meta.get("size").and_then(Value::as_u64).unwrap_or(0)
    }

    /// Whether this is the row of that id, or was written with it for another name of the same inode.
    pub fn is_of(&self, id: VersionId) -> bool {
        self.id == id || self.uuid("twin") == Some(id.0)
    }

    pub fn is_inline(&self) -> bool {
        !self.meta.contains_key("layout") && !self.meta.contains_key("body")
    }

    /// The row as callers see it; with `data` only where the body is inline, held here and that small.
    pub fn head(&self, inline_max: Option<u32>) -> Head {
        let fits = |data: &&Bytes| self.is_inline() && inline_max.is_some_and(|max| data.len() <= max as usize);
        Head {
            key: Key::new(&self.key).expect("keys of rows were checked when they were written"),
            id: self.id,
            version: VersionNo(self.number()),
            meta: Meta::parse(Value::Object(self.meta.clone())),
            data: self.data.as_ref().filter(fits).cloned(),
        }
    }
}

/// The table, its two indexes, and what is needed to take changes back.
#[derive(Debug, Default)]
pub(super) struct Rows {
    by_id: HashMap<VersionId, Arc<Row>>,
    by_key: BTreeMap<Arc<str>, BTreeMap<u64, VersionId>>,
    by_lineage: HashMap<Uuid, BTreeSet<VersionId>>,
    /// What each changed row was before, since the last sync, oldest first.
    undo: Vec<(VersionId, Option<Arc<Row>>)>,
}

impl Rows {
    /// Puts, replaces (`Some`) or removes (`None`) a row.
    pub fn set(&mut self, id: VersionId, row: Option<Row>) {
        let before = self.replace(id, row.map(Arc::new));
        self.undo.push((id, before));
    }

    fn replace(&mut self, id: VersionId, row: Option<Arc<Row>>) -> Option<Arc<Row>> {
        let before = match &row {
            Some(row) => self.by_id.insert(id, row.clone()),
            None => self.by_id.remove(&id),
        };
        if let Some(old) = &before {
            if let Some(versions) = self.by_key.get_mut(&old.key) {
                if versions.get(&old.number()) == Some(&id) {
                    versions.remove(&old.number());
                }
                if versions.is_empty() {
                    self.by_key.remove(&old.key);
                }
            }
            if let Some(lineage) = old.uuid("lin") {
                self.by_lineage.entry(lineage).or_default().remove(&id);
            }
        }
        if let Some(new) = row {
            self.by_key.entry(new.key.clone()).or_default().insert(new.number(), id);
            if let Some(lineage) = new.uuid("lin") {
                self.by_lineage.entry(lineage).or_default().insert(id);
            }
        }
        before
    }

    /// How many changes there were since the last sync: a place to roll back to.
    pub fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Takes back every change after a mark.
    pub fn roll_back(&mut self, mark: usize) {
        while self.undo.len() > mark {
            if let Some((id, before)) = self.undo.pop() {
                self.replace(id, before);
            }
        }
    }

    /// From here on nothing can be taken back.
    pub fn forget_undo(&mut self) {
        self.undo.clear();
    }

    pub fn get(&self, id: VersionId) -> Option<&Arc<Row>> {
        self.by_id.get(&id)
    }

    /// Whether an operation with that witness was applied: a row has that id, or a rename of that id moved one.
    pub fn was_applied(&self, witness: VersionId) -> bool {
        let moved = |row: &Arc<Row>| row.uuid("op") == Some(witness.0);
        self.by_id.contains_key(&witness) || self.by_id.values().any(moved)
    }

    /// The newest row of a key, a tombstone included.
    pub fn newest(&self, key: &str) -> Option<&Arc<Row>> {
        self.by_id.get(self.by_key.get(key)?.values().next_back()?)
    }

    /// The newest row of a key if it is live.
    pub fn live(&self, key: &str) -> Option<&Arc<Row>> {
        self.newest(key).filter(|row| row.is_live())
    }

    /// The rows of a key, newest first.
    pub fn versions(&self, key: &str) -> impl Iterator<Item = &Arc<Row>> {
        self.by_key.get(key).into_iter().flat_map(|versions| versions.values().rev()).filter_map(|id| self.by_id.get(id))
    }

    pub fn version(&self, key: &str, number: u64) -> Option<&Arc<Row>> {
        self.by_id.get(self.by_key.get(key)?.get(&number)?)
    }

    /// The number that the next version of a key gets.
    pub fn next_number(&self, key: &str) -> u64 {
        self.newest(key).map_or(1, |row| row.number() + 1)
    }

    /// The keys that begin with `under`, from `from` on, in byte order.
    pub fn keys<'r>(&'r self, under: &'r str, from: Bound<&str>) -> impl Iterator<Item = &'r Arc<str>> {
        let start = match from {
            Bound::Unbounded => Bound::Included(under),
            Bound::Included(text) | Bound::Excluded(text) if text < under => Bound::Included(under),
            other => other,
        };
        self.by_key.range::<str, _>((start, Bound::Unbounded)).map(|(key, _)| key).take_while(move |key| key.starts_with(under))
    }

    /// The live rows of all keys that begin with `under`, but pgfiles' own.
    pub fn live_below<'r>(&'r self, under: &'r str) -> impl Iterator<Item = &'r Arc<Row>> {
        let own = !under.starts_with('/');
        self.keys(under, Bound::Unbounded).filter(move |key| !(own && key.starts_with('/'))).filter_map(|key| self.live(key))
    }

    /// Whether a directory is there: it has a live marker, or something below it is live.
    pub fn is_dir(&self, dir: &str) -> bool {
        dir.is_empty() || self.live_below(dir).next().is_some()
    }

    /// All rows of all keys, pgfiles' own included.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Row>> {
        self.by_key.values().flat_map(|versions| versions.values()).filter_map(|id| self.by_id.get(id))
    }

    /// Rows by whose id the version's bytes are found, other than itself.
    fn references(&self, row: &Row) -> Vec<VersionId> {
        if let Some(body) = row.uuid("body") {
            return vec![VersionId(body)];
        }
        let Some(layout) = row.meta.get("layout") else { return Vec::new() };
        let rows = |data: &Option<Bytes>| {
            let entries = data.as_deref().and_then(layout::decode).unwrap_or_default();
            entries.into_iter().flatten().map(|entry| layout::row_of(entry).0).collect::<Vec<_>>()
        };
        let top = rows(&row.data);
        let mut all = top.clone();
        if layout.get("levels").and_then(Value::as_u64) == Some(2) {
            all.extend(top.iter().filter_map(|id| self.get(*id)).flat_map(|leaf| rows(&leaf.data)));
        }
        all
    }

    /// Whether every row that a version refers to is there and of its lineage.
    pub fn is_whole(&self, row: &Row) -> bool {
        let lineage = row.uuid("lin");
        self.references(row).iter().all(|id| self.get(*id).is_some_and(|body| lineage.is_some() && body.uuid("lin") == lineage))
    }

    /// Removes version rows for good: their bytes go to those that refer to them, and body rows that only they used go
    /// as well. Reports the body rows removed and the bytes of `data` freed.
    pub fn remove_versions(&mut self, ids: &[VersionId]) -> Removed {
        let gone: Vec<Arc<Row>> = ids.iter().filter_map(|id| self.get(*id).cloned()).collect();
        let candidates: BTreeSet<VersionId> = gone.iter().flat_map(|row| self.references(row)).collect();
        for row in &gone {
            self.set(row.id, None);
        }
        let mut removed = Removed { rows: gone.len() as u64, ..Removed::default() };
        for row in &gone {
            if !self.hand_over(row) {
                removed.bytes += row.data.as_ref().map_or(0, Bytes::len) as u64;
            }
        }
        let lineages: BTreeSet<Uuid> = gone.iter().filter_map(|row| row.uuid("lin")).collect();
        let used: BTreeSet<VersionId> = lineages.iter().flat_map(|lineage| self.referred(*lineage)).collect();
        for id in candidates.difference(&used) {
            let body =
                self.get(*id).filter(|body| body.key.starts_with('/') && body.uuid("lin").is_some_and(|l| lineages.contains(&l)));
            if let Some(body) = body.cloned() {
                removed.body_rows += 1;
                removed.bytes += body.data.as_ref().map_or(0, Bytes::len) as u64;
                self.set(*id, None);
            }
        }
        removed
    }

    /// All rows that versions of a lineage refer to.
    pub fn referred(&self, lineage: Uuid) -> BTreeSet<VersionId> {
        let family = self.by_lineage.get(&lineage).into_iter().flatten().filter_map(|id| self.get(*id));
        family.flat_map(|row| self.references(row)).collect()
    }

    /// Gives the bytes of a removed row to the first row that refers to it and points the others there; false where
    /// nobody does.
    fn hand_over(&mut self, row: &Row) -> bool {
        let family = row.uuid("lin").and_then(|lineage| self.by_lineage.get(&lineage)).into_iter().flatten();
        let referrers: Vec<_> =
            family.filter_map(|id| self.get(*id)).filter(|other| other.uuid("body") == Some(row.id.0)).cloned().collect();
        let Some((first, others)) = referrers.split_first() else { return false };
        let mut heir = Row::clone(first);
        heir.meta.remove("body");
        heir.data.clone_from(&row.data);
        self.set(heir.id, Some(heir));
        for other in others {
            let mut other = Row::clone(other);
            other.meta.insert("body".into(), first.id.to_string().into());
            self.set(other.id, Some(other));
        }
        true
    }

    /// Moves body rows from under a purged prefix to the directory of a version elsewhere that still uses them.
    pub fn rehome_bodies(&mut self, prefix: &Prefix) {
        let own = format!("/{prefix}");
        let bodies: Vec<Arc<Row>> = self.keys(&own, Bound::Unbounded).filter_map(|key| self.newest(key).cloned()).collect();
        for body in bodies.iter().filter(|body| body.uuid("lin").is_some()) {
            let lineage = body.uuid("lin").and_then(|lineage| self.by_lineage.get(&lineage)).into_iter().flatten();
            let users = lineage.filter_map(|id| self.get(*id)).filter(|row| self.references(row).contains(&body.id));
            let users: Vec<&Arc<Row>> = users.collect();
            let elsewhere = users.iter().find(|row| !row.key.starts_with(prefix.as_str())).map(|row| row.key.clone());
            if let Some(user) = elsewhere.filter(|_| users.iter().all(|row| !row.key.starts_with(prefix.as_str()))) {
                let dir = user.rfind('/').map_or("", |at| &user[..=at]);
                let tail = body.key.rsplitn(3, '/').take(2).collect::<Vec<_>>();
                let key = format!("/{dir}{}/{}", tail[1], tail[0]);
                self.set(body.id, Some(Row { key: key.into(), ..Row::clone(body) }));
            }
        }
    }
}

/// What [`Rows::remove_versions`] took away.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Removed {
    pub rows: u64,
    pub body_rows: u64,
    pub bytes: u64,
}

/// The first text after everything below a directory.
pub(super) fn past(dir: &str) -> String {
    list::after(dir).unwrap_or_default()
}
