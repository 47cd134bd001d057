//! What is deleted.

use pgfiles_store::{Head, Key, Prefix};

use super::Files;
use crate::exit::Result;

/// Keys asked for at a time.
const PAGE_KEYS: u32 = 5_000;

impl Files {
    /// The tombstones below a directory, of files whose newest version is one, in the order of their keys.
    ///
    /// # Errors
    /// What the store says.
    pub async fn deleted(&self, dir: &Prefix) -> Result<Vec<Head>> {
        let mut all: Vec<Head> = Vec::new();
        loop {
            let after: Option<Key> = all.last().map(|head| head.key.clone());
            let page = self.store.deleted(dir, after.as_ref(), PAGE_KEYS).await?;
            let is_last = page.len() < PAGE_KEYS as usize;
            all.extend(page);
            if is_last {
                all.retain(|head| !head.key.is_marker());
                return Ok(all);
            }
        }
    }
}
