//! Hard links in a [`super::MemStore`], and the exchange of two names.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::commit::{Transaction, conflict, invalid, merge, not_found};
use super::rows::{Fields, Row, Rows};
use crate::batch::{Exchange, LINKS_MAX, Link, Outcome, Precondition, Rename, RenameDir};
use crate::error::{Kind, Result, StoreError};
use crate::key::{Key, implied_ino};
use crate::version::{Timestamp, VersionId};

/// What says where one name's version came from: not true of another name's.
const OF_NAME: [&str; 6] = ["from", "to", "restored_from", "revive", "op", "twin"];

impl Rows {
    /// The live heads of the names of a group.
    fn links(&self, group: &str) -> Vec<Arc<Row>> {
        let named: BTreeSet<&Arc<str>> =
            self.all().filter(|row| row.text("hard_link") == Some(group)).map(|row| &row.key).collect();
        let heads = named.into_iter().filter_map(|key| self.live(key));
        heads.filter(|row| row.text("hard_link") == Some(group)).cloned().collect()
    }

    /// The live names of a group.
    pub fn names_of(&self, group: &str) -> Vec<Key> {
        self.links(group).iter().map(|row| row.head(None).key).collect()
    }

    /// Counts the names of the groups of rows that are names no more, and says so in the heads of the others. Those names.
    pub fn relink(&mut self, gone: &[&Arc<Row>], now: Timestamp) -> Vec<Key> {
        let groups: BTreeSet<String> = gone.iter().filter_map(|row| row.text("hard_link").map(str::to_owned)).collect();
        groups.iter().flat_map(|group| self.recount(group, now)).collect()
    }

    fn recount(&mut self, group: &str, now: Timestamp) -> Vec<Key> {
        let links = self.links(group);
        for row in links.iter().filter(|row| row.meta.get("nlink").and_then(Value::as_u64) != Some(links.len() as u64)) {
            let mut row = Row::clone(row);
            if links.len() == 1 {
                row.meta.remove("hard_link");
                row.meta.remove("nlink");
            } else {
                row.meta.insert("nlink".into(), links.len().into());
            }
            patch(&mut row.meta, &[("ctime".to_owned(), now.to_string().into())].into_iter().collect());
            self.set(row.id, Some(row));
        }
        links.iter().map(|row| row.head(None).key).collect()
    }
}

impl Transaction<'_> {
    /// Writes the version that was just written for one name for the others; where their head is the version that it
    /// extends, in its place. The other names.
    pub fn put_twins(&mut self, group: &str, id: VersionId, extends: Option<VersionId>) -> Vec<Key> {
        let Some(written) = self.rows.get(id).cloned() else { return Vec::new() };
        let mut keys = Vec::new();
        for other in self.rows.links(group).into_iter().filter(|row| row.key != written.key) {
            let mut meta = written.meta.clone();
            meta.retain(|field, _| !OF_NAME.contains(&field.as_str()));
            meta.insert("twin".into(), id.to_string().into());
            let extended = extends.is_some_and(|extends| other.is_of(extends));
            let number = if extended { other.number() } else { self.rows.next_number(&other.key) };
            let key = other.head(None).key;
            self.insert(id.twin(&key), &other.key, number, meta, written.data.clone());
            if extended {
                self.rows.remove_versions(&[other.id]);
            }
            keys.push(key);
        }
        keys
    }

    /// The same attributes for the other names of an inode. Those names.
    pub fn patch_twins(&mut self, group: &str, key: &str, changes: &Fields) -> Vec<Key> {
        let others: Vec<_> = self.rows.links(group).into_iter().filter(|row| *row.key != *key).collect();
        for other in others.iter().filter(|_| !changes.is_empty()) {
            let mut row = Row::clone(other);
            patch(&mut row.meta, changes);
            self.rows.set(row.id, Some(row));
        }
        others.iter().map(|row| row.head(None).key).collect()
    }

    pub fn link(&mut self, op: &Link) -> Result<Outcome> {
        for key in [&op.from, &op.to] {
            if key.is_marker() || key.is_reserved() || op.from == op.to {
                return Err(invalid(key, "it cannot be one of two names of a file"));
            }
        }
        let source = self.rows.live(op.from.as_str()).cloned().ok_or_else(|| not_found(&op.from))?;
        let group = source.text("hard_link").map_or_else(|| self.clock.lineage().0.to_string(), str::to_owned);
        if self.rows.links(&group).len() >= LINKS_MAX as usize {
            return Err(StoreError::new(Kind::TooManyLinks, format!("{:?} has {LINKS_MAX} names", op.from)));
        }
        self.expect(&op.to, &Precondition::Absent)?;
        let mut meta = source.meta.clone();
        meta.insert("hard_link".into(), group.clone().into());
        let ino = implied_ino(&op.from.as_dir()).to_string();
        meta.entry("ino").or_insert_with(|| ino.into());
        patch(&mut meta, &op.ctime.map(|at| ("ctime".to_owned(), at.to_string().into())).into_iter().collect());
        self.rows.set(source.id, Some(Row { meta: meta.clone(), ..Row::clone(&source) }));
        let twin = meta.get("twin").cloned().unwrap_or_else(|| source.id.to_string().into());
        meta.retain(|field, _| !OF_NAME.contains(&field.as_str()));
        meta.insert("twin".into(), twin);
        self.insert(op.id, op.to.as_str(), self.rows.next_number(op.to.as_str()), meta, source.data.clone());
        let also = self.rows.recount(&group, self.now);
        Ok(Outcome { also, ..self.head_of(op.id) })
    }

    pub fn exchange(&mut self, op: &Exchange) -> Result<Outcome> {
        let below = |a: &Key, b: &Key| a.as_dir().contains(b);
        if below(&op.from, &op.to) || below(&op.to, &op.from) || op.from == op.to {
            return Err(invalid(&op.to, "it cannot be exchanged with what it lies in"));
        }
        let is_dir = |rows: &Rows, key: &Key| rows.is_dir(key.as_dir().as_str());
        let (from_dir, to_dir) = (is_dir(self.rows, &op.from), is_dir(self.rows, &op.to));
        for (key, is_dir) in [(&op.from, from_dir), (&op.to, to_dir)] {
            if !is_dir && self.rows.live(key.as_str()).is_none() {
                return Err(not_found(key));
            }
        }
        // A component that no path has.
        let via = Key::new(&format!("./{}", op.id.0.simple())).map_err(|_| conflict(&op.from, "its key is too long"))?;
        let mut outcome = Outcome::default();
        let steps = [(&op.from, &via, from_dir, op.id), (&op.to, &op.from, to_dir, self.clock.version_id())];
        for (from, to, is_dir, id) in steps.into_iter().chain([(&via, &op.to, from_dir, self.clock.version_id())]) {
            let step = if is_dir {
                self.rename_dir(&RenameDir { id, from: from.as_dir(), to: to.as_dir(), young: None, to_absent: false })?
            } else {
                let (from, to, history) = (from.clone(), to.clone(), self.clock.version_id());
                let any = Precondition::Any;
                let rename =
                    Rename { id, history, from, to, expect_from: any.clone(), expect_to: any, young: None, ctime: op.ctime };
                self.rename(&rename)?
            };
            outcome.files += step.files;
            outcome.also.extend(step.also);
        }
        self.forget_way(&via, op);
        outcome.head = None;
        Ok(outcome)
    }

    /// Nothing stays of the way that an exchange took: what came from one end says so at the other.
    fn forget_way(&mut self, via: &Key, op: &Exchange) {
        let on_the_way = |row: &Row, link: &str| {
            let key = row.meta.get(link).and_then(|link| link.get("key")).and_then(Value::as_str);
            key.and_then(|key| key.strip_prefix(via.as_str())).map(str::to_owned)
        };
        let all: Vec<Arc<Row>> = self.rows.all().cloned().collect();
        let numbers = |key: &str, link: &str, on: &dyn Fn(&Row, &str) -> Option<String>| {
            let found = all.iter().find(|row| *row.key == *key && on(row, link).is_some());
            found.map_or(1, |row| row.number())
        };
        for row in &all {
            let mut changed = Row::clone(row);
            if let Some(rest) = on_the_way(row, "from") {
                let was = format!("{}{rest}", op.from);
                let version = numbers(&was, "to", &on_the_way).saturating_sub(1);
                changed.meta.insert("from".into(), json!({"key": was, "version": version}));
            } else if let Some(rest) = on_the_way(row, "to") {
                let now = format!("{}{rest}", op.to);
                let version = numbers(&now, "from", &on_the_way);
                changed.meta.insert("to".into(), json!({"key": now, "version": version}));
            } else {
                continue;
            }
            self.rows.set(row.id, Some(changed));
        }
        let under = |row: &&Arc<Row>| *row.key == *via.as_str() || row.key.starts_with(via.as_dir().as_str());
        let doomed: Vec<VersionId> = all.iter().filter(under).map(|row| row.id).collect();
        self.rows.remove_versions(&doomed);
        let marker: Vec<VersionId> = self.rows.versions("./").map(|row| row.id).collect();
        self.rows.remove_versions(&marker);
    }
}

/// Merges changes of attributes and counts them.
fn patch(meta: &mut Fields, changes: &Fields) {
    merge(meta, changes);
    let rev = meta.get("rev").and_then(Value::as_u64).unwrap_or(0);
    meta.insert("rev".into(), (rev + 1).into());
}
