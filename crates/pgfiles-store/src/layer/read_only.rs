//! Refuses every change, for mounts with `PGFILES_READ_ONLY`. Stands at the top, so that nothing below sees one.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::batch::{Batch, Outcome};
use crate::error::{Kind, Result, StoreError};
use crate::key::{Key, Prefix};
use crate::store::{Cursor, Entry, Moment, Page, Part, Purge, PurgeReport, Store, Usage};
use crate::version::{Head, VersionNo};

/// A [`Store`] that only reads.
pub struct ReadOnly {
    inner: Arc<dyn Store>,
}

impl ReadOnly {
    /// Wraps a store.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner }
    }
}

fn refused() -> StoreError {
    StoreError::new(Kind::ReadOnly, "this mount is read-only (PGFILES_READ_ONLY)")
}

#[async_trait]
impl Store for ReadOnly {
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        self.inner.lookup(paths, inline_max).await
    }

    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        self.inner.list(dir, from, limit, inline_max).await
    }

    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.inner.tree(under, after, limit).await
    }

    async fn deleted(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.inner.deleted(under, after, limit).await
    }

    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        self.inner.read(parts).await
    }

    async fn commit(&self, _batch: Batch) -> Result<Vec<Outcome>> {
        Err(refused())
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

    /// A dry run only counts, so it may.
    async fn purge(&self, purge: &Purge) -> Result<PurgeReport> {
        if purge.dry_run { self.inner.purge(purge).await } else { Err(refused()) }
    }

    async fn usage(&self, prefix: &Prefix) -> Result<Usage> {
        self.inner.usage(prefix).await
    }
}
