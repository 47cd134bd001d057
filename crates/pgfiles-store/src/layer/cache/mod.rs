//! The cache: metadata by path for a time, bytes by row for ever.
//!
//! A stat of what is known costs no call, nor does a name that is absent from a directory known in full. Own commits
//! are visible at once. Many who ask for the same thing share one fetch. No lock is held while the store below is
//! asked.

mod ahead;
pub mod data;
mod flight;
pub mod heads;
mod listing;
mod stats;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use crate::batch::{Batch, Op, Outcome};
use crate::error::{Kind, Result, StoreError};
use crate::key::{Key, Prefix};
use crate::layer::log::Log;
use crate::layout::CHUNK_BYTES;
use crate::store::{Cursor, Entry, Freshness, Moment, Page, Part, Purge, PurgeReport, Store, Usage};
use crate::version::{Head, VersionNo};
use ahead::Ahead;
use data::{BLOCK_BYTES, BlockKey, Data};
use flight::{Flights, Seat, follow};
use heads::{Heads, head_of};
use listing::Listings;
pub use stats::{CacheStats, DataStats, DiskStats, MetadataStats};

/// Bytes asked for in one call: what fits in one round trip.
const FETCH_BYTES_MAX: usize = 8 << 20;
/// The largest file that is fetched along with another.
const BESIDE_FILE_BYTES_MAX: u64 = 64 << 10;
/// Chunks of that size, sent without a version, are not kept.
const STREAMED_BYTES_MIN: usize = 64 << 10;
/// Names of a page that is fetched along with another, and of that one.
const NAMES_ALONG_MAX: u32 = 500;
/// The bytes that are fetched along with a file.
const BESIDE_BYTES_MAX: u64 = 2 << 20;

/// A [`Store`] that remembers.
pub struct Cache {
    inner: Arc<Log>,
    heads: Arc<Heads>,
    listings: Listings,
    data: Data,
    ahead: Ahead,
    paths_in_air: Flights<Key, Option<Entry>>,
    blocks_in_air: Flights<BlockKey, Bytes>,
}

impl Cache {
    /// Wraps the log. `dir` is opened at once and made if it is not there.
    pub fn new(inner: Arc<Log>, heads: Arc<Heads>, dir: Option<&Path>, disk_bytes_max: u64) -> Self {
        let data = Data::new(dir, disk_bytes_max);
        let (paths_in_air, blocks_in_air) = (Flights::new(), Flights::new());
        let (listings, ahead) = (Listings::default(), Ahead::default());
        Self { inner, heads, listings, data, ahead, paths_in_air, blocks_in_air }
    }

    /// Counts and sizes.
    pub fn stats(&self) -> CacheStats {
        let (data, disk) = self.data.stats();
        CacheStats { metadata: self.heads.stats(), data, disk }
    }

    /// Forgets everything, on disk too (for all mounts that share it).
    pub async fn clear(&self) {
        self.heads.invalidate_all();
        self.data.clear().await;
    }

    /// Forgets what is known about these paths and, for a key that ends in `/`, about everything below.
    pub fn invalidate(&self, keys: &[Key]) {
        keys.iter().for_each(|key| self.heads.invalidate(key));
    }

    /// Forgets the names of one directory, not what lies deeper.
    pub fn invalidate_dir(&self, dir: &Prefix) {
        self.heads.invalidate_dir(dir);
    }

    /// Forgets all metadata.
    pub fn invalidate_all(&self) {
        self.heads.invalidate_all();
    }

    /// Waits until what is on its way to the disk is there.
    pub async fn flush_disk(&self) {
        self.data.flush().await;
    }

    /// Asks for paths that nothing is known about.
    async fn fetch_paths(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        let mark = self.heads.mark(paths);
        let found = self.inner.lookup(paths, inline_max).await?;
        let learnt = paths.iter().zip(found).map(|(path, entry)| {
            if let Some(Head { id, data: Some(data), .. }) = entry.as_ref().and_then(head_of) {
                self.data.put_row(*id, None, data);
            }
            self.heads.learn(mark, path, entry)
        });
        Ok(learnt.collect())
    }

    /// Lists the directory of a path that nothing is known about, where it is likely that more of its names will be asked
    /// for; what is known of the path then. Not while commits are queued, which a listing would wait for.
    async fn list_instead(&self, path: &Key) -> Option<Option<Entry>> {
        if !self.inner.is_quiet() {
            return None;
        }
        let dir = path.parent();
        let (from, names) = self.ahead.name_missed(&dir)?;
        let page = self.list_below(&dir, from.as_ref(), names, 0).await.ok()?;
        self.ahead.listed(&dir, page.next);
        self.heads.peek(path)
    }

    /// Adds the bytes of a small inline body, if they are in memory.
    fn with_data(&self, mut entry: Option<Entry>, inline_max: u32) -> Option<Entry> {
        if let Some(Entry::File(head)) = &mut entry {
            let inline = head.meta.body.is_none() && head.meta.layout.is_none();
            if inline && inline_max > 0 && head.meta.size <= u64::from(inline_max.min(BLOCK_BYTES - 1)) {
                let whole = |data: &Bytes| data.len() as u64 == head.meta.size;
                head.data = self.data.in_memory(&BlockKey { id: head.id, lineage: None, block: 0 }).filter(whole);
            }
        }
        entry
    }

    /// The rest of a listing after a place, from a store that does not know our cursors.
    async fn list_after(&self, dir: &Prefix, place: &str, limit: u32, inline_max: u32) -> Result<Page> {
        let mut from = None;
        loop {
            let mut page = self.list_below(dir, from.as_ref(), limit, inline_max).await?;
            page.entries.retain(|(name, entry)| listing::is_after(name, entry, place));
            if !page.entries.is_empty() || page.next.is_none() {
                return Ok(page);
            }
            from = page.next;
        }
    }

    /// The first page of a directory. Who walks a tree gets those of the directories after it with it, so that the server makes
    /// one while another is taken in.
    async fn list_along(&self, dir: &Prefix, limit: u32, inline_max: u32) -> Result<Page> {
        let along = match dir.marker().filter(|_| self.inner.is_quiet()) {
            Some(marker) => self.heads.dirs_after(&marker, self.ahead.dir_missed(&marker.parent())),
            None => Vec::new(),
        };
        if along.is_empty() {
            return self.list_below(dir, None, limit, inline_max).await;
        }
        let dirs = std::iter::once(dir.clone()).chain(along);
        let lists = dirs.map(|dir| async move { self.list_below(&dir, None, limit.min(NAMES_ALONG_MAX), inline_max).await });
        let mut pages = stream::iter(lists).buffered(2);
        // Where one fails the others are not tried: each would be asked for as long as the first.
        let page = pages.next().await.transpose()?.unwrap_or_default();
        while let Some(along) = pages.next().await {
            if let Err(error) = along {
                tracing::debug!(%error, "listing a directory along with another failed");
                break;
            }
        }
        Ok(page)
    }

    async fn list_below(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        let mark = self.heads.mark_dir(dir);
        let page = self.inner.list(dir, from, limit, inline_max).await?;
        for head in page.entries.iter().filter_map(|(_, entry)| head_of(entry)) {
            if let Some(data) = &head.data {
                self.data.put_row(head.id, None, data);
            }
        }
        Ok(self.listings.learn(&self.heads, mark, dir, from, page))
    }

    /// A row is missing: what led to it may be out of date (its bytes were handed over to another row), so that the next
    /// lookup must be answered by the server.
    fn misled(&self, error: &StoreError) {
        if error.kind() == Kind::Corrupt {
            self.heads.invalidate_all();
        }
    }

    /// Blocks from memory, the disk or the server, each fetched once however many ask.
    async fn blocks(&self, wanted: impl Iterator<Item = Wanted>) -> Result<HashMap<BlockKey, Bytes>> {
        let mut have = HashMap::new();
        let mut missing: HashMap<BlockKey, Wanted> = HashMap::new();
        for wanted in wanted {
            let key = wanted.key;
            if have.contains_key(&key) || missing.contains_key(&key) {
                continue;
            }
            match self.data.in_memory(&key) {
                Some(bytes) => drop(have.insert(key, bytes)),
                None => drop(missing.insert(key, wanted)),
            }
        }
        while !missing.is_empty() {
            let (mut leads, mut follows) = (Vec::new(), Vec::new());
            for &key in missing.keys() {
                match self.blocks_in_air.board(key, 0) {
                    Seat::Lead(lead) => leads.push(lead),
                    Seat::Follow(flight) => follows.push((key, flight)),
                }
            }
            let on_disk = match leads.is_empty() {
                true => vec![],
                false => self.data.on_disk(leads.iter().map(|lead| *lead.key()).collect()).await,
            };
            let mut asked = Vec::new();
            for (lead, bytes) in leads.into_iter().zip(on_disk) {
                match bytes {
                    Some(bytes) => {
                        have.insert(*lead.key(), bytes.clone());
                        lead.land(bytes);
                    }
                    None => asked.push(lead),
                }
            }
            self.data.missed(asked.len());
            while !asked.is_empty() {
                let mut parts: Vec<Part> = Vec::new();
                let mut bytes = 0;
                for lead in &asked {
                    let wanted = missing.get(lead.key()).copied().unwrap_or(Wanted::whole(*lead.key(), BLOCK_BYTES));
                    bytes += wanted.about as usize;
                    if bytes > FETCH_BYTES_MAX && !parts.is_empty() {
                        break;
                    }
                    parts.push(Part { len: wanted.most, ..lead.key().part() });
                }
                let rest = asked.split_off(parts.len());
                let found = self.inner.read(&parts).await?;
                if found.len() != parts.len() {
                    return Err(StoreError::new(Kind::Corrupt, "the store answered with another number of parts"));
                }
                for (lead, bytes) in asked.into_iter().zip(found) {
                    self.data.put(*lead.key(), &bytes);
                    have.insert(*lead.key(), bytes.clone());
                    lead.land(bytes);
                }
                asked = rest;
            }
            missing.clear();
            for (key, flight) in follows {
                match follow(flight).await {
                    Some(bytes) => drop(have.insert(key, bytes)),
                    None => drop(missing.insert(key, Wanted::whole(key, BLOCK_BYTES))),
                }
            }
        }
        Ok(have)
    }
}

/// A block to be had.
#[derive(Clone, Copy)]
struct Wanted {
    key: BlockKey,
    /// The most bytes that it has.
    most: u32,
    /// The bytes that it is likely to have.
    about: u32,
}

impl Wanted {
    /// A block of a row of unknown length.
    fn whole(key: BlockKey, about: u32) -> Self {
        Self { key, most: BLOCK_BYTES, about: about.min(BLOCK_BYTES) }
    }
}

/// The bytes of a part out of its blocks; ends where the row ends.
fn assemble(part: &Part, blocks: &HashMap<BlockKey, Bytes>) -> Bytes {
    let Some(touched) = BlockKey::of(part) else { return Bytes::new() };
    let single = touched.start() == touched.end();
    let end = part.offset + u64::from(part.len);
    let mut out = BytesMut::new();
    for block in touched {
        let key = BlockKey { id: part.id, lineage: part.lineage, block };
        let Some(bytes) = blocks.get(&key) else { break };
        let start = key.part().offset;
        let from = (part.offset.max(start) - start).min(bytes.len() as u64) as usize;
        let to = ((end - start).min(bytes.len() as u64) as usize).max(from);
        if single {
            return bytes.slice(from..to);
        }
        out.extend_from_slice(&bytes[from..to]);
        if bytes.len() < BLOCK_BYTES as usize {
            break;
        }
    }
    out.freeze()
}

/// Forgets what a commit touches unless it is told the outcome: covers errors and callers that do not wait.
struct Doubt<'c> {
    heads: &'c Heads,
    ops: Vec<Op>,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.ops.is_empty() {
            self.heads.doubt(&self.ops);
        }
    }
}

#[async_trait]
impl Freshness for Cache {
    fn trusted_for(&self, path: &Key) -> Duration {
        self.heads.trusted_for(path)
    }

    fn subdirs(&self, dir: &Prefix) -> Option<u32> {
        self.heads.subdirs(dir)
    }

    fn distrust(&self, path: &Key) {
        self.heads.invalidate(path);
    }

    async fn bring(&self, path: &Key, part: &Part) {
        let file = |part: &Part| {
            let key = BlockKey { id: part.id, lineage: part.lineage, block: 0 };
            Wanted { key, most: part.len, about: part.len }
        };
        let own = file(part);
        if u64::from(part.len) > BESIDE_FILE_BYTES_MAX || self.data.has(&own.key).await {
            return;
        }
        let dir = path.parent();
        let count = self.ahead.file_missed(&dir);
        if count == 0 {
            return;
        }
        let beside = self.heads.small_files_after(path, count, BESIDE_FILE_BYTES_MAX, BESIDE_BYTES_MAX);
        if let Err(error) = self.blocks(std::iter::once(own).chain(beside.iter().map(file))).await {
            tracing::debug!(%error, "fetching files along with another failed");
            self.ahead.misled(&dir);
        }
    }
}

#[async_trait]
impl Store for Cache {
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        if self.heads.ttl().is_zero() {
            // Nothing may be trusted, so nothing that another began to fetch earlier may be shared.
            return self.fetch_paths(paths, inline_max).await;
        }
        let mut answers: Vec<Option<Option<Entry>>> = paths.iter().map(|path| self.heads.get(path)).collect();
        let missing = |answers: &[Option<_>]| answers.iter().enumerate().filter(|(_, a)| a.is_none()).map(|(i, _)| i).collect();
        let mut open: Vec<usize> = missing(&answers);
        while !open.is_empty() {
            let stamp = self.heads.stamp();
            let (mut leads, mut follows) = (Vec::new(), Vec::new());
            for &index in &open {
                match self.paths_in_air.board(paths[index].clone(), stamp) {
                    Seat::Lead(lead) => leads.push((index, lead)),
                    Seat::Follow(flight) => follows.push((index, flight)),
                }
            }
            if let [(index, lead)] = &leads[..]
                && let Some(entry) = self.list_instead(lead.key()).await
            {
                answers[*index] = Some(entry.clone());
                leads.drain(..).for_each(|(_, lead)| lead.land(entry.clone()));
            }
            if !leads.is_empty() {
                let asked: Vec<Key> = leads.iter().map(|(_, lead)| lead.key().clone()).collect();
                let found = self.fetch_paths(&asked, inline_max).await?;
                for (path, entry) in asked.iter().zip(&found) {
                    match entry {
                        Some(_) => self.ahead.name_found(&path.parent()),
                        None => self.ahead.name_absent(&path.parent()),
                    }
                }
                for ((index, lead), entry) in leads.into_iter().zip(found) {
                    answers[index] = Some(entry.clone());
                    lead.land(entry);
                }
            }
            for (index, flight) in follows {
                answers[index] = follow(flight).await;
            }
            open = missing(&answers);
        }
        let attach = |entry: Option<Entry>| match entry.as_ref().and_then(head_of) {
            Some(Head { data: None, .. }) => self.with_data(entry, inline_max),
            _ => entry,
        };
        Ok(answers.into_iter().flatten().map(attach).collect())
    }

    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        let place = from.and_then(listing::place);
        let is_ours = from.is_none() || place.is_some();
        if let Some((entries, next)) = is_ours.then(|| self.heads.page(dir, place, limit as usize)).flatten() {
            return Ok(Page { entries, next: next.map(|place| listing::cursor(&place)) });
        }
        match place {
            Some(place) => self.list_after(dir, place, limit, inline_max).await,
            None if from.is_none() => self.list_along(dir, limit, inline_max).await,
            None => self.list_below(dir, from, limit, inline_max).await,
        }
    }

    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.inner.tree(under, after, limit).await
    }

    async fn deleted(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.inner.deleted(under, after, limit).await
    }

    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        let mut keys = Vec::new();
        for part in parts {
            let Some(touched) = BlockKey::of(part) else { return self.inner.read(parts).await };
            let key = |block| BlockKey { id: part.id, lineage: part.lineage, block };
            keys.extend(touched.map(|block| Wanted::whole(key(block), part.len.max(CHUNK_BYTES))));
        }
        let blocks = self.blocks(keys.into_iter()).await.inspect_err(|error| self.misled(error))?;
        Ok(parts.iter().map(|part| assemble(part, &blocks)).collect())
    }

    async fn read_once(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        let mut blocks = HashMap::new();
        for part in parts {
            let Some(touched) = BlockKey::of(part) else { return self.inner.read(parts).await };
            for block in touched {
                let key = BlockKey { id: part.id, lineage: part.lineage, block };
                let found = match self.data.in_memory(&key) {
                    Some(bytes) => Some(bytes),
                    None => self.data.on_disk(vec![key]).await.pop().flatten(),
                };
                let Some(bytes) = found else {
                    self.data.missed(1);
                    return self.inner.read(parts).await.inspect_err(|error| self.misled(error));
                };
                blocks.insert(key, bytes);
            }
        }
        Ok(parts.iter().map(|part| assemble(part, &blocks)).collect())
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<Outcome>> {
        let begun = Instant::now();
        let mut doubt = Doubt { heads: &self.heads, ops: batch.ops.clone() };
        let (outcomes, is_known) = self.inner.commit_known(batch).await?;
        let ops = std::mem::take(&mut doubt.ops);
        if !is_known {
            self.heads.applied(begun, &ops, &outcomes);
        }
        // Large chunks that are sent ahead of their version are of a file that is being written from end to end: who reads it
        // soon has it from the kernel, and the cache has better use for its room and time.
        let streamed = |op: &Op| matches!(op, Op::Body(body) if body.data.len() >= STREAMED_BYTES_MIN);
        if ops.iter().all(streamed) {
            return Ok(outcomes);
        }
        for op in &ops {
            match op {
                Op::Put(put) => {
                    if let Some(data) = &put.data {
                        self.data.put_row(put.id, None, data);
                    }
                }
                Op::Body(body) => self.data.put_row(body.id, Some(body.lineage), &body.data),
                _ => {}
            }
        }
        Ok(outcomes)
    }

    async fn sync(&self) -> Result<()> {
        self.inner.sync().await
    }

    async fn versions(&self, key: &Key, before: Option<VersionNo>, limit: u32) -> Result<Vec<Head>> {
        self.inner.versions(key, before, limit).await
    }

    async fn history(&self, dir: &Prefix, limit: u32) -> Result<Vec<Moment>> {
        self.inner.history(dir, limit).await
    }

    async fn purge(&self, purge: &Purge) -> Result<PurgeReport> {
        let result = self.inner.purge(purge).await;
        if !purge.dry_run {
            // Bytes may have been handed over to heads anywhere.
            self.heads.invalidate_all();
        }
        result
    }

    async fn usage(&self, prefix: &Prefix) -> Result<Usage> {
        self.inner.usage(prefix).await
    }
}
