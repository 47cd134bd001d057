//! How a [`super::MemStore`] carries out a batch: what each operation does to rows, in the plainest form.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::rows::{Fields, Row, Rows};
use crate::batch::{BodyRow, Copy, Delete, Op, Outcome, Precondition, Put, RemoveDir, Rename, RenameDir, Restore};
use crate::batch::{RestoreDir, SetAttr, Young};
use crate::clock::Clock;
use crate::error::{Kind, Result, StoreError};
use crate::key::{Key, Prefix, implied_ino};
use crate::layout;
use crate::version::{Meta, Timestamp, VersionId};

/// What marks a row for the server alone: not passed on to the next version.
const OF_ROW: [&str; 2] = ["revive", "op"];

/// One batch being carried out.
pub(super) struct Transaction<'t> {
    pub rows: &'t mut Rows,
    pub clock: &'t dyn Clock,
    pub now: Timestamp,
    pub xid: u64,
    pub by: &'t Value,
    pub again: bool,
}

impl Transaction<'_> {
    pub fn apply(&mut self, op: &Op) -> Result<Outcome> {
        if op.witness().is_some_and(|id| self.rows.get(id).is_some()) {
            return Ok(self.outcome_again(op));
        }
        match op {
            Op::Put(op) => self.put(op),
            Op::Body(op) => self.body(op),
            Op::SetAttr(op) => self.set_attr(op),
            Op::Delete(op) => self.delete(op),
            Op::RemoveDir(op) => self.remove_dir(op),
            Op::Rename(op) => self.rename(op),
            Op::RenameDir(op) => self.rename_dir(op),
            Op::Exchange(op) => self.exchange(op),
            Op::Link(op) => self.link(op),
            Op::Copy(op) => self.copy(op),
            Op::Restore(op) => self.restore(op),
            Op::RestoreDir(op) => self.restore_dir(op),
        }
    }

    /// What an operation that was applied before is answered with.
    pub fn outcome_again(&self, op: &Op) -> Outcome {
        let key = match op {
            Op::Put(op) => &op.key,
            Op::SetAttr(op) => &op.key,
            Op::Delete(op) => &op.key,
            Op::Rename(op) => &op.to,
            Op::Link(op) => &op.to,
            Op::Copy(op) => &op.to,
            Op::Restore(op) => &op.key,
            Op::RenameDir(op) => {
                let head = self.rows.newest(op.to.as_str()).map(|row| row.head(None));
                return Outcome { head, ..Outcome::default() };
            }
            Op::Body(_) | Op::RemoveDir(_) | Op::Exchange(_) | Op::RestoreDir(_) => {
                return Outcome::default();
            }
        };
        let mine = op.witness().and_then(|id| self.rows.get(id)).filter(|row| *row.key == *key.as_str());
        let head = mine.or_else(|| self.rows.newest(key.as_str())).map(|row| row.head(None));
        let moved = matches!(op, Op::Rename(op) if self.rows.get(op.id).is_none());
        let also = head
            .as_ref()
            .and_then(|head| head.meta.hard_link.as_deref())
            .map_or_else(Vec::new, |group| self.rows.names_of(group));
        Outcome { head, moved, also, ..Outcome::default() }
    }

    fn put(&mut self, op: &Put) -> Result<Outcome> {
        if op.key.is_reserved() {
            return Err(invalid(&op.key, "it begins with '/', which is reserved for pgfiles"));
        }
        self.expect(&op.key, &op.expect)?;
        let key = op.key.as_str();
        let extended = op.extends.and_then(|id| self.rows.live(key).filter(|row| row.is_of(id))).cloned();
        let number = extended.as_ref().map_or_else(|| self.rows.next_number(key), |row| row.number());
        let mut meta = op.defaults.clone();
        if let Some(head) = self.rows.live(key) {
            meta.extend(passed_on(&head.meta));
        }
        meta.extend(op.meta.clone());
        let group = self.rows.live(key).and_then(|row| row.text("hard_link").map(str::to_owned));
        self.insert(op.id, key, number, meta, op.data.clone());
        if let Some(old) = &extended {
            self.rows.remove_versions(&[old.id]);
        }
        let also = group.map_or_else(Vec::new, |group| self.put_twins(&group, op.id, op.extends));
        if let Some(row) = self.rows.get(op.id).filter(|row| !self.rows.is_whole(row)) {
            return Err(StoreError::new(Kind::BodyGone, format!("{:?}: body rows that it refers to are gone", row.key)));
        }
        if let Some(lineage) = extended.and_then(|old| old.uuid("lin")) {
            let used = self.rows.referred(lineage);
            for id in op.drops.iter().filter(|id| !used.contains(id)) {
                let of_lineage =
                    self.rows.get(*id).is_some_and(|row| row.key.starts_with('/') && row.uuid("lin") == Some(lineage));
                if of_lineage {
                    self.rows.set(*id, None);
                }
            }
        }
        Ok(Outcome { also, ..self.head_of(op.id) })
    }

    fn body(&mut self, op: &BodyRow) -> Result<Outcome> {
        if op.data.len() > layout::CHUNK_BYTES_MAX as usize {
            return Err(StoreError::new(Kind::Invalid, format!("body row of {} bytes: at most 4 MiB fit", op.data.len())));
        }
        if self.rows.get(op.id).is_none() {
            let key = format!("/{}{}/{}", op.dir, op.lineage.0.simple(), op.id.0.simple());
            let sum = layout::etag(&op.data);
            let (lineage, now) = (op.lineage.0.to_string(), self.now.to_string());
            let meta = json!({"version": 1, "lin": lineage, "mount": &*op.mount, "sum": sum, "created_at": now});
            let row = Row { id: op.id, key: key.into(), meta: fields(meta), data: Some(op.data.clone()) };
            self.rows.set(op.id, Some(row));
        }
        Ok(Outcome::default())
    }

    fn set_attr(&mut self, op: &SetAttr) -> Result<Outcome> {
        let key = op.key.as_str();
        let patch = op.patch.to_json();
        if let Some(head) = self.rows.live(key).cloned() {
            self.expect(&op.key, &op.expect)?;
            let mut meta = head.meta.clone();
            merge(&mut meta, &patch);
            if !(self.again && meta == head.meta) {
                let rev = meta.get("rev").and_then(Value::as_u64).unwrap_or(0);
                meta.insert("rev".into(), (rev + 1).into());
                self.rows.set(head.id, Some(Row { meta, ..Row::clone(&head) }));
            }
            let also = head.text("hard_link").map_or_else(Vec::new, |group| self.patch_twins(group, key, &patch));
            return Ok(Outcome { also, ..self.head_of(head.id) });
        }
        match &op.explicit {
            Some((id, explicit)) if op.key.is_marker() && self.rows.is_dir(key) => {
                self.expect(&op.key, &op.expect)?;
                let mut meta = explicit.clone();
                merge(&mut meta, &patch);
                self.insert(*id, key, self.rows.next_number(key), meta, None);
                Ok(self.head_of(*id))
            }
            _ => Err(not_found(&op.key)),
        }
    }

    fn delete(&mut self, op: &Delete) -> Result<Outcome> {
        if op.key.is_marker() {
            return Err(invalid(&op.key, "it is a directory's"));
        }
        let head = self.rows.live(op.key.as_str()).cloned().ok_or_else(|| not_found(&op.key))?;
        self.expect(&op.key, &op.expect)?;
        self.keep_parent(&op.key);
        self.bury(op.key.as_str(), op.id, None);
        Ok(Outcome { also: self.rows.relink(&[&head], self.now), ..self.head_of(op.id) })
    }

    fn remove_dir(&mut self, op: &RemoveDir) -> Result<Outcome> {
        let Some(marker) = op.dir.marker() else {
            return Err(StoreError::new(Kind::Invalid, "the top directory cannot be removed"));
        };
        let below: Vec<Arc<Row>> = self.rows.live_below(op.dir.as_str()).cloned().collect();
        if below.is_empty() {
            return Err(not_found(&marker));
        }
        if !op.recursive && below.iter().any(|row| *row.key != *op.dir.as_str()) {
            return Err(not_empty(&op.dir));
        }
        self.keep_parent(&marker);
        for row in below.iter().filter(|row| *row.key != *op.dir.as_str()) {
            self.bury(&row.key, self.clock.version_id(), None);
        }
        // Directories with long paths keep their names elsewhere.
        let aliases = below.iter().filter_map(|row| row.text("alias")).filter(|alias| !alias.starts_with(op.dir.as_str()));
        let aliases: Vec<Prefix> = aliases.filter_map(|alias| Some(Key::new(alias).ok()?.as_dir())).collect();
        for dir in aliases.into_iter().filter(|_| op.recursive) {
            if !self.rows.is_dir(dir.as_str()) {
                continue;
            }
            self.remove_dir(&RemoveDir { id: self.clock.version_id(), dir, recursive: true })?;
        }
        self.bury(op.dir.as_str(), op.id, None);
        let also = self.rows.relink(&below.iter().collect::<Vec<_>>(), self.now);
        Ok(Outcome { files: files(&below), also, ..Outcome::default() })
    }

    pub(super) fn rename(&mut self, op: &Rename) -> Result<Outcome> {
        for key in [&op.from, &op.to] {
            if key.is_marker() || key.is_reserved() {
                return Err(invalid(key, "it is not a file's"));
            }
        }
        let source = self.rows.live(op.from.as_str()).cloned().ok_or_else(|| not_found(&op.from))?;
        self.expect(&op.from, &op.expect_from)?;
        self.expect(&op.to, &op.expect_to)?;
        if op.from == op.to {
            return Ok(self.head_of(source.id));
        }
        let replaced = self.rows.live(op.to.as_str()).cloned();
        if let Some(same) =
            replaced.as_ref().filter(|row| row.text("hard_link").is_some_and(|group| source.text("hard_link") == Some(group)))
        {
            // `man 2 rename`: two names of one inode stay as they are.
            let also = vec![op.from.clone(), op.to.clone()];
            return Ok(Outcome { also, ..self.head_of(same.id) });
        }
        self.keep_parent(&op.from);
        let moved = self.move_row(&source, op.to.as_str(), op.history, op.id, op.young.as_ref(), op.id, None);
        if let (Some(ctime), Some(row)) = (op.ctime, self.rows.get(source.id).cloned()) {
            let mut row = Row::clone(&row);
            row.meta.insert("ctime".into(), ctime.to_string().into());
            self.rows.set(row.id, Some(row));
        }
        let mut also = replaced.map_or_else(Vec::new, |replaced| self.rows.relink(&[&replaced], self.now));
        if let Some(group) = source.text("hard_link") {
            let ctime = op.ctime.map(|at| ("ctime".to_owned(), Value::from(at.to_string())));
            also.extend(self.patch_twins(group, op.to.as_str(), &ctime.into_iter().collect()));
        }
        Ok(Outcome { moved, also, ..self.head_of(source.id) })
    }

    pub(super) fn rename_dir(&mut self, op: &RenameDir) -> Result<Outcome> {
        let (Some(from), Some(to)) = (op.from.marker(), op.to.marker()) else {
            return Err(StoreError::new(Kind::Invalid, "the top directory cannot be renamed"));
        };
        if op.from.contains(&to) {
            return Err(invalid(&to, "it lies in the directory that is to be moved"));
        }
        let below: Vec<Arc<Row>> = self.rows.live_below(op.from.as_str()).cloned().collect();
        if below.is_empty() {
            return Err(not_found(&from));
        }
        if self.rows.live(to.as_file().as_str()).is_some() {
            return Err(conflict(&to, "a file is there"));
        }
        let there: Vec<&Arc<Row>> = self.rows.live_below(op.to.as_str()).take(2).collect();
        if !there.is_empty() && op.to_absent {
            return Err(conflict(&to, "a directory is there"));
        }
        if there.iter().any(|row| *row.key != *op.to.as_str()) {
            return Err(not_empty(&op.to));
        }
        self.keep_parent(&from);
        for row in below.iter().filter(|row| *row.key != *op.from.as_str()) {
            let target = format!("{}{}", op.to, row.key.strip_prefix(op.from.as_str()).unwrap_or_default());
            let (history, tombstone) = (self.clock.version_id(), self.clock.version_id());
            self.move_row(row, &target, history, tombstone, op.young.as_ref(), op.id, Some((&op.from, &op.to)));
        }
        match self.rows.live(op.from.as_str()).cloned() {
            Some(marker) => {
                let dirs = Some((&op.from, &op.to));
                self.move_row(&marker, op.to.as_str(), self.clock.version_id(), op.id, None, op.id, dirs);
            }
            None => {
                let number = self.rows.next_number(op.to.as_str());
                let ino = implied_ino(&op.from).to_string();
                self.insert(self.clock.version_id(), op.to.as_str(), number, fields(json!({"kind": "dir", "ino": ino})), None);
                self.bury(op.from.as_str(), op.id, Some(json!({"key": op.to.as_str(), "version": number})));
            }
        }
        let head = self.rows.live(op.to.as_str()).map(|row| row.head(None));
        Ok(Outcome { head, files: files(&below), ..Outcome::default() })
    }

    fn copy(&mut self, op: &Copy) -> Result<Outcome> {
        if op.to.is_marker() || op.to.is_reserved() {
            return Err(invalid(&op.to, "it is not a file's"));
        }
        let source = match op.version {
            Some(version) => self.kept(&op.from, version.0)?,
            None => self.rows.live(op.from.as_str()).cloned().ok_or_else(|| not_found(&op.from))?,
        };
        self.expect(&op.to, &op.expect)?;
        let (content, data) = self.refer_to(&source);
        let mut meta = passed_on(&source.meta);
        for own in ["ino", "rev", "hard_link", "nlink"] {
            meta.remove(own);
        }
        if let Some(head) = self.rows.live(op.to.as_str()) {
            meta.extend(passed_on(&head.meta));
        }
        meta.extend(content);
        meta.extend(op.meta.clone());
        let group = meta.get("hard_link").and_then(Value::as_str).map(str::to_owned);
        self.insert(op.id, op.to.as_str(), self.rows.next_number(op.to.as_str()), meta, data);
        let also = group.map_or_else(Vec::new, |group| self.put_twins(&group, op.id, None));
        Ok(Outcome { also, ..self.head_of(op.id) })
    }

    fn restore(&mut self, op: &Restore) -> Result<Outcome> {
        let version = self.kept(&op.key, op.version.0)?;
        self.expect(&op.key, &op.expect)?;
        let also = self.bring_back(&version, op.id);
        Ok(Outcome { also, ..self.head_of(op.id) })
    }

    fn restore_dir(&mut self, op: &RestoreDir) -> Result<Outcome> {
        let keys: Vec<Arc<str>> = self.rows.keys(op.dir.as_str(), std::ops::Bound::Unbounded).cloned().collect();
        let (mut files, mut also) = (0, Vec::new());
        for key in keys.iter().filter(|key| !key.starts_with('/') && ***key != *op.dir.as_str()) {
            let at = |row: &&Arc<Row>| row.text("created_at").and_then(Timestamp::parse).is_some_and(|at| at <= op.at);
            let Some(then) = self.rows.versions(key).find(at).filter(|row| row.is_live()).cloned() else { continue };
            let same = |head: &Arc<Row>| {
                let content = ["kind", "size", "etag", "target", "rdev"];
                head.id == then.id
                    || key.ends_with('/')
                    || content.iter().all(|field| head.meta.get(*field) == then.meta.get(*field))
            };
            if !self.rows.live(key).is_some_and(same) {
                also.extend(self.bring_back(&then, self.clock.version_id()));
                files += u64::from(!key.ends_with('/'));
            }
        }
        if let Some(marker) = op.dir.marker() {
            let head = self.rows.newest(marker.as_str()).map(|row| passed_on(&row.meta));
            let mut meta = head.unwrap_or_default();
            meta.insert("kind".into(), "dir".into());
            self.insert(op.id, marker.as_str(), self.rows.next_number(marker.as_str()), meta, None);
        }
        Ok(Outcome { files, also, ..Outcome::default() })
    }

    /// Checks what must hold about the head of a key.
    pub(super) fn expect(&self, key: &Key, expect: &Precondition) -> Result<()> {
        let text = key.as_str();
        let live = self.rows.live(text);
        match expect {
            Precondition::Any => Ok(()),
            Precondition::Absent => {
                let there = self.rows.live(key.as_file().as_str()).is_some() || self.rows.is_dir(key.as_dir().as_str());
                if there { Err(conflict(key, "it exists already")) } else { Ok(()) }
            }
            Precondition::Version(version) if live.is_some_and(|row| row.number() == version.0) => Ok(()),
            Precondition::Version(version) => Err(conflict(key, &format!("its version is not {version} any more"))),
            Precondition::Etag(etag) if live.is_some_and(|row| row.text("etag") == Some(etag)) => Ok(()),
            Precondition::Etag(_) => Err(conflict(key, "its etag is another")),
            Precondition::Head(id) if self.rows.newest(text).is_some_and(|row| row.is_of(*id)) => Ok(()),
            Precondition::Head(id) => Err(conflict(key, &format!("its head is not {id} any more"))),
        }
    }

    /// Moves the row that holds the bytes to another key. Where the source is young nothing stays behind and the answer is
    /// true; else its old place keeps a version that refers to it, and a tombstone.
    #[allow(clippy::too_many_arguments)]
    fn move_row(
        &mut self,
        source: &Arc<Row>,
        to: &str,
        history: VersionId,
        tombstone: VersionId,
        young: Option<&Young>,
        op: VersionId,
        dirs: Option<(&Prefix, &Prefix)>,
    ) -> bool {
        let moves = young.is_some_and(|young| self.is_young(source, young));
        let number = self.rows.next_number(to);
        let mut target = Row { key: to.into(), ..Row::clone(source) };
        target.meta.remove("from");
        target.meta.remove("restored_from");
        if let (Some((src, dst)), Some(alias)) = (dirs, source.text("alias"))
            && let Some(rest) = alias.strip_prefix(src.as_str())
        {
            target.meta.insert("alias".into(), format!("{dst}{rest}").into());
        }
        let from = (source.key.clone(), source.number());
        if !moves {
            let (content, data) = self.refer_to(source);
            // `refer_to` may have given the source a lineage.
            if let Some(lineage) = content.get("lin") {
                target.meta.insert("lin".into(), lineage.clone());
            }
            let mut kept = Row { id: history, data, ..Row::clone(source) };
            kept.meta.extend(content);
            self.rows.set(source.id, None);
            self.rows.set(history, Some(kept));
            self.bury(&from.0, tombstone, Some(json!({"key": to, "version": number})));
            target.meta.insert("from".into(), json!({"key": &*from.0, "version": from.1}));
        }
        target.meta.insert("op".into(), op.to_string().into());
        self.rows.set(source.id, Some(Row { meta: self.stamped(target.meta, number), ..target }));
        moves
    }

    /// Whether a row is the only version of its key, written by that mount that short a time ago.
    fn is_young(&self, row: &Row, young: &Young) -> bool {
        let created = row.text("created_at").and_then(Timestamp::parse).unwrap_or_default();
        let mount = row.meta.get("by").and_then(|by| by.get("mount")).and_then(Value::as_str);
        self.rows.versions(&row.key).count() == 1
            && mount == Some(&*young.mount)
            && self.now.seconds.saturating_sub(created.seconds) < i64::from(young.seconds)
    }

    /// The fields of content and the `data` of a row that has the same bytes as `row`: a reference to the row that holds
    /// them, which gets a lineage if it has none.
    fn refer_to(&mut self, row: &Arc<Row>) -> (Fields, Option<Bytes>) {
        let content = ["kind", "size", "allocated", "etag", "mtime", "target", "rdev", "layout", "lin", "body"];
        let mut meta = row.meta.clone();
        meta.retain(|field, _| content.contains(&field.as_str()));
        let holds_bytes = row.is_inline() && row.data.as_ref().is_some_and(|data| !data.is_empty());
        if !holds_bytes {
            return (meta, row.data.clone());
        }
        if !meta.contains_key("lin") {
            let lineage = Value::from(self.clock.lineage().0.to_string());
            meta.insert("lin".into(), lineage.clone());
            let mut owner = Row::clone(row);
            owner.meta.insert("lin".into(), lineage);
            self.rows.set(row.id, Some(owner));
        }
        meta.insert("body".into(), row.id.to_string().into());
        (meta, None)
    }

    /// A new version of a key with the content of an older one.
    fn bring_back(&mut self, version: &Arc<Row>, id: VersionId) -> Vec<Key> {
        let (content, data) = self.refer_to(version);
        let mut meta = passed_on(&version.meta);
        for own in ["rev", "hard_link", "nlink"] {
            meta.remove(own);
        }
        let head = self.rows.newest(&version.key).cloned();
        let elsewhere = head.as_ref().is_some_and(|head| ["to", "hard_link"].iter().any(|field| head.meta.contains_key(*field)));
        match head {
            Some(head) if head.is_live() => meta = passed_on(&head.meta),
            // The inode lives on where it was moved to, or under its other names; or another one was deleted here since, and
            // where that of the version is by now is not known.
            Some(head) if elsewhere || head.meta.get("ino") != meta.get("ino") => {
                meta.insert("ino".into(), self.clock.ino().to_string().into());
            }
            Some(_) | None => {}
        }
        let group = meta.get("hard_link").and_then(Value::as_str).map(str::to_owned);
        meta.extend(content);
        meta.insert("restored_from".into(), version.number().into());
        self.insert(id, &version.key, self.rows.next_number(&version.key), meta, data);
        group.map_or_else(Vec::new, |group| self.put_twins(&group, id, None))
    }

    /// A version that is kept and has content.
    fn kept(&self, key: &Key, number: u64) -> Result<Arc<Row>> {
        let row = self.rows.version(key.as_str(), number);
        let row = row.ok_or_else(|| StoreError::new(Kind::NotFound, format!("{key:?} has no version {number}")))?;
        if row.is_live() { Ok(row.clone()) } else { Err(invalid(key, &format!("its version {number} is a deletion"))) }
    }

    /// A directory that loses a name stays: an implied one gets a marker.
    fn keep_parent(&mut self, key: &Key) {
        let parent: Prefix = key.parent();
        // No path leads to these: the way of an exchange, and where names of directories with long paths are.
        if parent.as_str().ends_with("//") || parent.as_str() == "./" {
            return;
        }
        if let Some(marker) = parent.marker().filter(|marker| self.rows.live(marker.as_str()).is_none()) {
            let number = self.rows.next_number(marker.as_str());
            self.insert(self.clock.version_id(), marker.as_str(), number, fields(json!({"kind": "dir"})), None);
        }
    }

    /// Writes a tombstone.
    fn bury(&mut self, key: &str, id: VersionId, to: Option<Value>) {
        let mut meta = Fields::new();
        if let Some(head) = self.rows.newest(key) {
            meta.extend(
                ["kind", "ino", "hard_link"]
                    .iter()
                    .filter_map(|field| Some(((*field).to_owned(), head.meta.get(*field)?.clone()))),
            );
        }
        meta.entry("kind").or_insert_with(|| if key.ends_with('/') { "dir" } else { "file" }.into());
        meta.insert("deleted".into(), true.into());
        meta.extend(to.map(|to| ("to".to_owned(), to)));
        self.insert(id, key, self.rows.next_number(key), meta, None);
    }

    pub(super) fn insert(&mut self, id: VersionId, key: &str, number: u64, meta: Fields, data: Option<Bytes>) {
        let row = Row { id, key: key.into(), meta: self.stamped(meta, number), data };
        self.rows.set(id, Some(row));
    }

    /// Adds what the server gives to every version.
    fn stamped(&self, mut meta: Fields, number: u64) -> Fields {
        let at = Timestamp { nanos: self.now.nanos / 1000 * 1000, ..self.now };
        meta.insert("version".into(), number.into());
        meta.insert("created_at".into(), at.to_string().into());
        meta.insert("xid".into(), self.xid.to_string().into());
        meta.insert("by".into(), self.by.clone());
        meta
    }

    pub(super) fn head_of(&self, id: VersionId) -> Outcome {
        Outcome { head: self.rows.get(id).map(|row| row.head(None)), ..Outcome::default() }
    }
}

/// What a new version takes from a live head.
pub(super) fn passed_on(meta: &Fields) -> Fields {
    let stays = |field: &str| !Meta::OF_CONTENT.contains(&field) && !OF_ROW.contains(&field);
    meta.iter().filter(|(field, _)| stays(field)).map(|(field, value)| (field.clone(), value.clone())).collect()
}

/// Merges a patch: fields replace, but in `tags` and `xattrs` entry by entry, where null removes.
pub(super) fn merge(meta: &mut Fields, patch: &Fields) {
    for (field, value) in patch {
        let Some(entries) = value.as_object().filter(|_| field == "tags" || field == "xattrs") else {
            meta.insert(field.clone(), value.clone());
            continue;
        };
        let mut merged = meta.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
        for (name, value) in entries {
            match value {
                Value::Null => merged.remove(name),
                value => merged.insert(name.clone(), value.clone()),
            };
        }
        meta.insert(field.clone(), Value::Object(merged));
    }
}

fn files(rows: &[Arc<Row>]) -> u64 {
    rows.iter().filter(|row| !row.key.ends_with('/')).count() as u64
}

pub(super) fn fields(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        _ => Fields::new(),
    }
}

pub(super) fn not_found(key: &Key) -> StoreError {
    StoreError::new(Kind::NotFound, format!("{key:?} does not exist"))
}

pub(super) fn conflict(key: &Key, why: &str) -> StoreError {
    StoreError::new(Kind::Conflict, format!("{key:?}: {why}"))
}

pub(super) fn invalid(key: &Key, why: &str) -> StoreError {
    StoreError::new(Kind::Invalid, format!("{key:?}: {why}"))
}

fn not_empty(dir: &Prefix) -> StoreError {
    StoreError::new(Kind::NotEmpty, format!("{dir:?} is not empty"))
}
