//! What the cache counts, as `cache stats` and `status --json` print it.

use serde::Serialize;

/// The state of the cache.
#[derive(Debug, Clone, Default, Serialize, PartialEq)]
pub struct CacheStats {
    /// Metadata.
    pub metadata: MetadataStats,
    /// Bytes of files.
    pub data: DataStats,
    /// The directory on disk, all mounts of the user together; `None`: memory only.
    pub disk: Option<DiskStats>,
}

/// Metadata by path.
#[derive(Debug, Clone, Default, Serialize, PartialEq)]
pub struct MetadataStats {
    /// Paths, absent ones included.
    pub entries: u64,
    /// Directories that are known in full.
    pub listings: u64,
    /// Questions answered without the server, since the start.
    pub hits: u64,
    /// Questions that went to the server.
    pub misses: u64,
    /// `hits` of all, 0 to 1.
    pub hit_rate: f64,
    /// Paths that made room for others.
    pub evictions: u64,
}

/// Bytes of files.
#[derive(Debug, Clone, Default, Serialize, PartialEq)]
pub struct DataStats {
    /// Blocks found in memory, since the start.
    pub memory_hits: u64,
    /// Blocks found on disk.
    pub disk_hits: u64,
    /// Blocks fetched from the server.
    pub misses: u64,
    /// Hits of all, 0 to 1.
    pub hit_rate: f64,
    /// Bytes in memory now.
    pub memory_bytes: u64,
    /// The most bytes in memory.
    pub memory_bytes_max: u64,
    /// Blocks that left memory for others.
    pub memory_evictions: u64,
}

/// The cache on disk.
#[derive(Debug, Clone, Default, Serialize, PartialEq)]
pub struct DiskStats {
    /// Where.
    pub path: String,
    /// Bytes taken, as of the last count.
    pub bytes: u64,
    /// Blocks, as of the last count.
    pub blocks: u64,
    /// The most bytes.
    pub bytes_max: u64,
    /// Blocks that this process removed to make room.
    pub evictions: u64,
    /// Blocks that were found damaged, removed and fetched again.
    pub damaged: u64,
    /// Blocks that were not written because the disk was too slow or failed.
    pub dropped: u64,
    /// Why nothing is written at the moment.
    pub error: Option<String>,
}

/// Hits of all; 0 where nothing was asked.
pub(super) fn rate(hits: u64, misses: u64) -> f64 {
    if hits == 0 { 0.0 } else { hits as f64 / (hits + misses) as f64 }
}
