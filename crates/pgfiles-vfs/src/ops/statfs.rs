//! statfs: what is used, at most a minute old, and the free space that the mount is set to show.

use std::sync::PoisonError;
use std::time::Duration;

use crate::Vfs;
use crate::error::Result;

/// How old the figures may be: counting all that is stored takes the server a while.
const USAGE_TTL: Duration = Duration::from_secs(60);
/// How long the server may take to count.
const USAGE_WAIT: Duration = Duration::from_secs(1);
/// The unit of the figures.
pub const BLOCK_BYTES: u64 = 4096;

/// What `statfs` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Blocks of [`BLOCK_BYTES`] in all.
    pub blocks: u64,
    /// Free ones.
    pub blocks_free: u64,
    /// Files, directories included, and what is free.
    pub files: u64,
    /// How many more there may be.
    pub files_free: u64,
}

impl Vfs {
    /// Used and free space. Waits for the server a second at the most.
    ///
    /// # Errors
    /// None today.
    pub async fn statfs(&self) -> Result<StatFs> {
        let known = *self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        let usage = match known {
            Some((at, usage)) if now.saturating_duration_since(at) < USAGE_TTL => usage,
            _ => {
                // A server that is away, or slow to count, keeps nobody waiting: `df` and those who ask whether a mount
                // answers get the figures of before.
                match tokio::time::timeout(USAGE_WAIT, self.store.usage(&self.config.prefix)).await {
                    Ok(Ok(usage)) => {
                        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, usage));
                        usage
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "counting what is used failed");
                        known.map_or_else(Default::default, |(_, usage)| usage)
                    }
                    Err(_) => known.map_or_else(Default::default, |(_, usage)| usage),
                }
            }
        };
        let blocks_free = self.config.free_bytes / BLOCK_BYTES;
        let files_free = 1 << 40;
        Ok(StatFs {
            blocks: blocks_free + usage.bytes.div_ceil(BLOCK_BYTES),
            blocks_free,
            files: files_free + usage.files + usage.dirs,
            files_free,
        })
    }
}
