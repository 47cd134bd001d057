//! The cache: metadata by path for a time, bytes by row for ever.
//!
//! A stat of what is known costs no call, nor does a name that is absent from a directory known in full. Own commits
//! are visible at once. Many who ask for the same thing share one fetch. No lock is held while the store below is
//! asked.

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
use tokio::time::Instant;

use crate::batch::{Batch, Op, Outcome};
use crate::error::{Kind, Result, StoreError};
use crate::key::{Key, Prefix};
use crate::layer::log::Log;
use crate::store::{Cursor, Entry, Freshness, Moment, Page, Part, Purge, PurgeReport, Store, Usage};
use crate::version::{Head, VersionNo};
use data::{BLOCK_BYTES, BlockKey, Data};
use flight::{Flights, Seat, follow};
use heads::{Heads, head_of};
use listing::Listings;
pub use stats::{CacheStats, DataStats, DiskStats, MetadataStats};

/// Blocks asked for in one call: what fits in one round trip.
const FETCH_BLOCKS_MAX: usize = 8;

/// A [`Store`] that remembers.
pub struct Cache {
    inner: Arc<Log>,
    heads: Arc<Heads>,
    listings: Listings,
    data: Data,
    paths_in_air: Flights<Key, Option<Entry>>,
    blocks_in_air: Flights<BlockKey, Bytes>,
}

impl Cache {
    /// Wraps the log. `dir` is opened at once and made if it is not there.
    pub fn new(inner: Arc<Log>, heads: Arc<Heads>, dir: Option<&Path>, disk_bytes_max: u64) -> Self {
        let data = Data::new(dir, disk_bytes_max);
        let (paths_in_air, blocks_in_air) = (Flights::new(), Flights::new());
        Self { inner, heads, listings: Listings::default(), data, paths_in_air, blocks_in_air }
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
    async fn blocks(&self, keys: impl Iterator<Item = BlockKey>) -> Result<HashMap<BlockKey, Bytes>> {
        let mut have = HashMap::new();
        let mut missing = Vec::new();
        for key in keys {
            if have.contains_key(&key) || missing.contains(&key) {
                continue;
            }
            match self.data.in_memory(&key) {
                Some(bytes) => drop(have.insert(key, bytes)),
                None => missing.push(key),
            }
        }
        while !missing.is_empty() {
            let (mut leads, mut follows) = (Vec::new(), Vec::new());
            for key in missing.drain(..) {
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
                let rest = asked.split_off(asked.len().min(FETCH_BLOCKS_MAX));
                let parts: Vec<Part> = asked.iter().map(|lead| lead.key().part()).collect();
                let found = self.inner.read(&parts).await.inspect_err(|error| self.misled(error))?;
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
            for (key, flight) in follows {
                match follow(flight).await {
                    Some(bytes) => drop(have.insert(key, bytes)),
                    None => missing.push(key),
                }
            }
        }
        Ok(have)
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
            if !leads.is_empty() {
                let asked: Vec<Key> = leads.iter().map(|(_, lead)| lead.key().clone()).collect();
                let found = self.fetch_paths(&asked, inline_max).await?;
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
            None => self.list_below(dir, from, limit, inline_max).await,
        }
    }

    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.inner.tree(under, after, limit).await
    }

    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        let mut keys = Vec::new();
        for part in parts {
            let Some(touched) = BlockKey::of(part) else { return self.inner.read(parts).await };
            keys.extend(touched.map(|block| BlockKey { id: part.id, lineage: part.lineage, block }));
        }
        let blocks = self.blocks(keys.into_iter()).await?;
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
