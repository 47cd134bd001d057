//! The shortest correct [`Store`] and [`Server`]: rows in memory, one lock, every rule in its plainest form. The reference
//! for the other implementation, and what tests of everything above storage run on.
//!
//! For tests of the log of commits it can also lose what was not synced ([`MemStore::crash`]).

mod commit;
mod links;
mod lock;
mod purge;
mod rows;

use std::collections::HashMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::batch::{Batch, Durability, Outcome};
use crate::clock::{Clock, SystemClock};
use crate::error::{Kind, Result, StoreError};
use crate::key::{Key, Prefix};
use crate::layout;
use crate::list;
use crate::store::{Cursor, Dir, Entry, Maintenance, Moment, Page, Part, Position, Purge, PurgeReport, Server, Store, Usage};
use crate::version::{Head, Timestamp, VersionId, VersionNo};
use commit::{Transaction, fields};
use rows::{Row, Rows};

/// Keys that one slice of a purge looks at; small, so that tests meet a second slice.
const PURGE_KEYS_MAX: usize = 100;

/// The whole table in memory. Cheap to share: wrap it in an [`Arc`].
pub struct MemStore {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rows: Rows,
    /// Commits so far; also the xid of the last one and the position in the log.
    written: u64,
    flushed: u64,
    life: u64,
    cluster: u64,
    /// When each mount of a prefix last said that it lives.
    beats: HashMap<(String, String), Timestamp>,
    locks: lock::LockBook,
}

impl MemStore {
    /// An empty table.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty table whose server has that clock.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    /// Kills the server: commits since the last sync are forgotten, and it starts a new life.
    pub fn crash(&self) {
        let mut state = self.state();
        state.rows.roll_back(0);
        state.life += 1;
        state.flushed = state.written;
    }

    /// Replaces the server by another one that has all its rows: what a failover without loss looks like.
    pub fn fail_over(&self) {
        let mut state = self.state();
        state.life += 1;
        state.cluster += 1;
    }

    /// Writes the log to disk, as a server does on its own from time to time.
    pub fn flush(&self) {
        self.state().flush();
    }

    /// Inserts a row as plain SQL does: `meta` may be anything, the number and what is missing are filled in.
    pub fn insert(&self, key: &Key, meta: Value, data: Option<Bytes>) -> VersionId {
        let id = self.clock.version_id();
        let mut state = self.state();
        state.written += 1;
        let live = state.rows.live(key.as_str()).map(|row| row.meta.clone());
        let mut row =
            Row { id, key: key.as_str().into(), meta: live.map(|meta| commit::passed_on(&meta)).unwrap_or_default(), data };
        let size = row.data.as_ref().map_or(0, Bytes::len);
        let kind = if key.is_marker() { "dir" } else { "file" };
        let etag = row.data.as_deref().map(layout::etag);
        let now = self.clock.now().to_string();
        row.meta.extend(fields(json!({"kind": kind, "size": size, "etag": etag, "created_at": now, "mtime": now})));
        row.meta.entry("ino").or_insert_with(|| self.clock.ino().to_string().into());
        row.meta.extend(fields(meta));
        row.meta.insert("xid".into(), state.written.to_string().into());
        row.meta.insert("version".into(), state.rows.next_number(key.as_str()).into());
        state.rows.set(id, Some(row));
        id
    }

    /// How many rows there are, pgfiles' own included.
    pub fn row_count(&self) -> usize {
        self.state().rows.all().count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemStore").field("rows", &self.row_count()).finish()
    }
}

impl State {
    fn flush(&mut self) {
        self.rows.forget_undo();
        self.flushed = self.written;
    }

    fn life(&self) -> String {
        format!("{}.{}", self.cluster, self.life)
    }

    /// What stands at a path.
    fn entry(&self, path: &str, inline_max: u32) -> Option<Entry> {
        let dir = self.dir(&format!("{path}/")).map(Entry::Dir);
        dir.or_else(|| self.rows.live(path).map(|row| Entry::File(row.head(Some(inline_max)))))
    }

    fn dir(&self, dir: &str) -> Option<Dir> {
        if let Some(marker) = self.rows.live(dir) {
            return Some(Dir { marker: Some(marker.head(None)), mtime: None });
        }
        let first = self.rows.live_below(dir).next()?;
        Some(Dir { marker: None, mtime: first.head(None).meta.mtime })
    }

    fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: usize, inline_max: u32) -> Page {
        // A position is the last name shown, a directory's with its `/`.
        let mut position = match from {
            None => Bound::Excluded(dir.to_string()),
            Some(Cursor(name)) if name.ends_with('/') => Bound::Included(rows::past(&format!("{dir}{name}"))),
            Some(Cursor(name)) => Bound::Excluded(format!("{dir}{name}")),
        };
        let mut page = Page::default();
        let mut shown = None;
        loop {
            let Some(key) = self.rows.keys(dir.as_str(), position.as_ref().map(String::as_str)).next() else { return page };
            let Some(child) = list::child(dir, key) else {
                position = Bound::Excluded(key.to_string());
                continue;
            };
            let (entry, name) = if child.is_dir {
                let below = format!("{dir}{}/", child.component);
                position = Bound::Included(rows::past(&below));
                (self.dir(&below).map(Entry::Dir), format!("{}/", child.component))
            } else {
                position = Bound::Excluded(key.to_string());
                (self.rows.live(key).map(|row| Entry::File(row.head(Some(inline_max)))), child.component.to_owned())
            };
            let Some(entry) = entry.filter(|_| list::is_shown(child.component)) else { continue };
            if page.entries.len() == limit {
                page.next = shown.map(Cursor);
                return page;
            }
            page.entries.push((child.component.to_owned(), entry));
            shown = Some(name);
        }
    }

    fn read(&self, part: &Part) -> Result<Bytes> {
        let row = self.rows.get(part.id);
        let row = row.filter(|row| part.lineage.is_none_or(|lineage| row.uuid("lin") == Some(lineage.0)));
        let row = row.ok_or_else(|| StoreError::new(Kind::Corrupt, format!("row {} of a body is missing", part.id)))?;
        let data = row.data.clone().unwrap_or_default();
        let start = usize::try_from(part.offset).unwrap_or(usize::MAX).min(data.len());
        let end = start.saturating_add(part.len as usize).min(data.len());
        Ok(data.slice(start..end))
    }

    fn commit(&mut self, clock: &dyn Clock, batch: &Batch) -> Result<Vec<Outcome>> {
        if batch.life.as_ref().is_some_and(|life| **life != self.life()) {
            return Err(StoreError::new(Kind::ServerChanged, "the server was restarted or is another one"));
        }
        let mark = self.rows.mark();
        let before = batch.again && batch.ops.iter().find_map(|op| op.witness()).is_some_and(|id| self.rows.was_applied(id));
        let (now, xid) = (clock.now(), self.written + 1);
        let mut transaction = Transaction { rows: &mut self.rows, clock, now, xid, by: &batch.by, again: batch.again };
        let mut outcomes = Vec::with_capacity(batch.ops.len());
        for (index, op) in batch.ops.iter().enumerate() {
            let outcome = if before { Ok(transaction.outcome_again(op)) } else { transaction.apply(op) };
            match outcome {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => {
                    self.rows.roll_back(mark);
                    return Err(error.at_op(index));
                }
            }
        }
        self.written += 1;
        // As on Postgres, where a transaction that wrote nothing waits for no disk.
        if batch.durability == Durability::Sync && self.rows.mark() != mark {
            self.flush();
        }
        Ok(outcomes)
    }

    fn history(&self, dir: &Prefix, limit: usize) -> Vec<Moment> {
        let mut by_xid: HashMap<&str, Moment> = HashMap::new();
        let mut first: HashMap<&str, VersionId> = HashMap::new();
        for row in self.rows.all().filter(|row| !row.key.starts_with('/') && row.key.starts_with(dir.as_str())) {
            let meta = row.head(None).meta;
            let xid = row.text("xid").unwrap_or_default();
            let at = meta.created_at.unwrap_or_default();
            let moment = by_xid.entry(xid).or_insert(Moment { number: 0, at, versions: 0, by: meta.by.clone() });
            moment.versions += 1;
            moment.at = moment.at.max(at);
            let earliest = first.entry(xid).or_insert(row.id);
            if row.id < *earliest {
                *earliest = row.id;
                moment.by = meta.by;
            }
        }
        let mut moments: Vec<_> =
            by_xid.into_iter().map(|(xid, moment)| (moment.at, xid.parse().unwrap_or(0_u64), moment)).collect();
        moments.sort_by_key(|(at, xid, _)| (*at, *xid));
        let numbered = moments.into_iter().enumerate();
        let numbered = numbered.map(|(index, (_, _, moment))| Moment { number: index as u64 + 1, ..moment });
        numbered.rev().take(limit).collect()
    }

    fn usage(&self, prefix: &Prefix) -> Usage {
        let mut usage = Usage::default();
        let bodies = format!("/{prefix}");
        for row in self.rows.all() {
            let bytes = row.data.as_ref().map_or(0, Bytes::len) as u64;
            if row.key.starts_with(&bodies) {
                usage.body_rows += 1;
                usage.body_bytes += bytes;
            } else if row.key.starts_with('/') || !row.key.starts_with(prefix.as_str()) {
            } else if self.rows.live(&row.key).is_none_or(|head| head.id != row.id) {
                usage.history_rows += 1;
                usage.history_bytes += row.size();
            } else if row.key.ends_with('/') {
                usage.dirs += 1;
            } else {
                usage.files += 1;
                usage.bytes += row.size();
            }
        }
        usage
    }
}

#[async_trait]
impl Store for MemStore {
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        let state = self.state();
        Ok(paths.iter().map(|path| state.entry(path.as_file().as_str(), inline_max)).collect())
    }

    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        Ok(self.state().list(dir, from, limit.max(1) as usize, inline_max))
    }

    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        let state = self.state();
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_str()));
        let own = |key: &&Arc<str>| under.as_str().is_empty() && key.starts_with('/');
        let keys = state.rows.keys(under.as_str(), from).filter(|key| !own(key));
        Ok(keys.filter_map(|key| state.rows.live(key)).take(limit as usize).map(|row| row.head(None)).collect())
    }

    async fn deleted(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        let state = self.state();
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_str()));
        let own = |key: &&Arc<str>| under.as_str().is_empty() && key.starts_with('/');
        let keys = state.rows.keys(under.as_str(), from).filter(|key| !own(key));
        let newest = keys.filter_map(|key| state.rows.newest(key)).filter(|row| !row.is_live());
        Ok(newest.take(limit as usize).map(|row| row.head(None)).collect())
    }

    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        let state = self.state();
        parts.iter().map(|part| state.read(part)).collect()
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<Outcome>> {
        self.state().commit(&*self.clock, &batch)
    }

    async fn sync(&self) -> Result<()> {
        self.flush();
        Ok(())
    }

    async fn versions(&self, key: &Key, before: Option<VersionNo>, limit: u32) -> Result<Vec<Head>> {
        let state = self.state();
        let older = |row: &&Arc<Row>| before.is_none_or(|before| row.number() < before.0);
        Ok(state.rows.versions(key.as_str()).filter(older).take(limit as usize).map(|row| row.head(None)).collect())
    }

    async fn history(&self, dir: &Prefix, limit: u32) -> Result<Vec<Moment>> {
        Ok(self.state().history(dir, limit as usize))
    }

    async fn purge(&self, purge: &Purge) -> Result<PurgeReport> {
        let mut state = self.state();
        state.written += 1;
        Ok(purge::purge(&mut state.rows, self.clock.now(), purge, PURGE_KEYS_MAX))
    }

    async fn usage(&self, prefix: &Prefix) -> Result<Usage> {
        Ok(self.state().usage(prefix))
    }
}

#[async_trait]
impl Server for MemStore {
    async fn position(&self) -> Result<Position> {
        let state = self.state();
        let (life, cluster) = (state.life(), state.cluster.to_string());
        Ok(Position { life, cluster, written: state.written, flushed: state.flushed })
    }

    async fn present(&self, ids: &[VersionId]) -> Result<Vec<bool>> {
        let state = self.state();
        Ok(ids.iter().map(|id| state.rows.was_applied(*id)).collect())
    }

    async fn maintain(&self, prefix: &Prefix, mount: &str, what: Maintenance) -> Result<u64> {
        let mut state = self.state();
        let (place, now) = ((prefix.to_string(), mount.to_owned()), self.clock.now());
        match what {
            Maintenance::Beat => {
                state.beats.insert(place, now);
                Ok(0)
            }
            Maintenance::Leave => Ok(u64::from(state.beats.remove(&place).is_some())),
            Maintenance::Sweep => {
                let State { rows, beats, .. } = &mut *state;
                Ok(purge::sweep(rows, beats, now, prefix))
            }
        }
    }
}
