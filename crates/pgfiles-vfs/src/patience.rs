//! The end of waiting: while a mount is given up, every request to the store fails at once, also those under way, so
//! that whoever holds a file's data lets go of it.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pgfiles_store::batch::{Batch, Outcome};
use pgfiles_store::error::{Kind, Result, StoreError};
use pgfiles_store::key::{Key, Prefix};
use pgfiles_store::store::{Cursor, Entry, Moment, Page, Part, Purge, PurgeReport, Store, Usage};
use pgfiles_store::version::{Head, VersionNo};
use tokio::sync::watch;

/// A [`Store`] that one can stop waiting for.
pub(crate) struct Patience {
    inner: Arc<dyn Store>,
    given_up: watch::Sender<bool>,
}

impl Patience {
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, given_up: watch::Sender::new(false) }
    }

    /// The store itself, which still waits.
    pub fn inner(&self) -> &Arc<dyn Store> {
        &self.inner
    }

    /// Fails everything from now on, or no more.
    pub fn give_up(&self, yes: bool) {
        self.given_up.send_replace(yes);
    }

    async fn wait<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let mut given_up = self.given_up.subscribe();
        tokio::select! {
            biased;
            result = call => result,
            _ = given_up.wait_for(|yes| *yes) => {
                Err(StoreError::new(Kind::Unavailable, "the mount ends without waiting for the server"))
            }
        }
    }
}

#[async_trait]
impl Store for Patience {
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        self.wait(self.inner.lookup(paths, inline_max)).await
    }

    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        self.wait(self.inner.list(dir, from, limit, inline_max)).await
    }

    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        self.wait(self.inner.tree(under, after, limit)).await
    }

    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        self.wait(self.inner.read(parts)).await
    }

    /// A commit that is not waited for any more may be carried out nevertheless.
    async fn commit(&self, batch: Batch) -> Result<Vec<Outcome>> {
        let commit = self.inner.commit(batch);
        self.wait(commit).await.map_err(|error| if *self.given_up.borrow() { error.unknown_outcome() } else { error })
    }

    async fn sync(&self) -> Result<()> {
        self.wait(self.inner.sync()).await
    }

    async fn versions(&self, key: &Key, before: Option<VersionNo>, limit: u32) -> Result<Vec<Head>> {
        self.wait(self.inner.versions(key, before, limit)).await
    }

    async fn history(&self, dir: &Prefix, limit: u32) -> Result<Vec<Moment>> {
        self.wait(self.inner.history(dir, limit)).await
    }

    async fn purge(&self, purge: &Purge) -> Result<PurgeReport> {
        self.wait(self.inner.purge(purge)).await
    }

    async fn usage(&self, prefix: &Prefix) -> Result<Usage> {
        self.wait(self.inner.usage(prefix)).await
    }
}
