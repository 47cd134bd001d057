//! The cache: metadata by path for a time, bytes by row for ever (SPEC §7).
//!
//! (First shape: everything goes through.)

pub mod heads;
mod stats;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::batch::{Batch, Outcome};
use crate::error::Result;
use crate::key::{Key, Prefix};
use crate::layer::log::Log;
use crate::store::{Cursor, Entry, Freshness, Moment, Page, Part, Purge, PurgeReport, Store, Usage};
use crate::version::{Head, VersionNo};
use heads::Heads;
pub use stats::{CacheStats, DataStats, DiskStats, MetadataStats};

/// A [`Store`] that remembers.
pub struct Cache {
    inner: Arc<Log>,
    heads: Arc<Heads>,
}

impl Cache {
    /// Wraps the log. `dir` is opened at once and made if it is not there.
    pub fn new(inner: Arc<Log>, heads: Arc<Heads>, _dir: Option<&Path>, _disk_bytes_max: u64) -> Self {
        Self { inner, heads }
    }

    /// Counts and sizes.
    pub fn stats(&self) -> CacheStats {
        CacheStats::default()
    }

    /// Forgets everything, on disk too (for all mounts that share it).
    pub async fn clear(&self) {}

    /// Forgets what is known about these paths and, for a key that ends in `/`, about everything below.
    pub fn invalidate(&self, _keys: &[Key]) {}

    /// Forgets all metadata.
    pub fn invalidate_all(&self) {}

    /// Waits until what is on its way to the disk is there.
    pub async fn flush_disk(&self) {}
}

impl Freshness for Cache {
    fn trusted_for(&self, _path: &Key) -> Duration {
        self.heads.ttl()
    }
}

#[async_trait]
impl Store for Cache {
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        self.inner.lookup(paths, inline_max).await
    }

    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        self.inner.list(dir, from, limit, inline_max).await
    }

    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.inner.tree(under, after, limit).await
    }

    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        self.inner.read(parts).await
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<Outcome>> {
        self.inner.commit(batch).await
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
        self.inner.purge(purge).await
    }

    async fn usage(&self, prefix: &Prefix) -> Result<Usage> {
        self.inner.usage(prefix).await
    }
}
