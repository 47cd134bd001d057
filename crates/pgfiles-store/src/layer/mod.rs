//! The decorators that stand between a caller and a server, and how they are stacked.
//!
//! From the top: [`read_only`] (only where the mount is), [`cache`], [`log`], [`retry`], [`metrics`], then the server.
//! The cache is above the log, so that what is pending is asked for below it; the log is above the retries, so that it
//! sees final outcomes only; the metrics are lowest, so that they count what goes over the wire.

pub mod cache;
pub mod log;
pub mod metrics;
pub mod read_only;
pub mod retry;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::error::Result;
use crate::store::{Freshness, Server, Store};
use cache::heads::{ENTRIES_MAX, Heads};
use cache::{Cache, CacheStats};
use log::{Log, LogStatus, Mode};
use metrics::{Metrics, MetricsSnapshot};
use read_only::ReadOnly;
use retry::{Retry, RetryStatus};

/// How the layers behave; the defaults are those of docs/configuration.md.
#[derive(Debug, Clone)]
pub struct StackConfig {
    /// What `close(2)` promises.
    pub durability: Mode,
    /// How long an operation waits for a server that is away.
    pub retry_timeout: Duration,
    /// How long metadata is trusted without asking; zero: never.
    pub metadata_ttl: Duration,
    /// The most names and directories that are known at a time.
    pub metadata_entries_max: usize,
    /// Where the disk cache lies (made with mode 0700 if it is not there); `None`: memory only.
    pub cache_dir: Option<PathBuf>,
    /// The most bytes that the disk cache takes, all mounts of the user together; 0: memory only.
    pub cache_max_bytes: u64,
    /// Refuse every change.
    pub read_only: bool,
}

impl Default for StackConfig {
    fn default() -> Self {
        Self {
            durability: Mode::Close,
            retry_timeout: Duration::from_secs(60),
            metadata_ttl: Duration::from_secs(30),
            metadata_entries_max: ENTRIES_MAX,
            cache_dir: None,
            cache_max_bytes: 1 << 30,
            read_only: false,
        }
    }
}

/// The layers over one server, and a handle on each.
#[derive(Clone)]
pub struct Stack {
    /// The top: what everything above storage uses.
    pub store: Arc<dyn Store>,
    /// How long an answer of `store` may be kept by whoever asks (the kernel).
    pub fresh: Arc<dyn Freshness>,
    /// The cache: statistics, clearing, invalidation.
    pub cache: Arc<Cache>,
    /// The log of commits: status, draining, giving up.
    pub log: Arc<Log>,
    /// The retries: whether the server is away.
    pub retry: Arc<Retry>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The server with retries, for housekeeping ([`Server::maintain`]); changes must go through `store`.
    pub server: Arc<dyn Server>,
}

/// All that `status --json` says of a stack.
#[derive(Debug, Clone, Serialize)]
pub struct StackStatus {
    /// Pending and retained commits.
    pub log: LogStatus,
    /// Whether the server answers.
    pub server: RetryStatus,
    /// Cached metadata and bytes.
    pub cache: CacheStats,
    /// Per method of the server.
    pub operations: MetricsSnapshot,
}

impl Stack {
    /// Stacks the layers. Must be called inside a Tokio runtime: the log starts its task there. Opens the cache
    /// directory, so call it before anything is mounted over that. Never fails: a cache that cannot be used is done
    /// without and named in the statistics.
    pub fn new(server: Arc<dyn Server>, config: StackConfig) -> Self {
        let metrics = Arc::new(Metrics::new(server));
        let retry = Arc::new(Retry::new(metrics.clone(), config.retry_timeout));
        let heads = Arc::new(Heads::new(config.metadata_ttl, config.metadata_entries_max));
        let log = Log::start(retry.clone(), heads.clone(), config.durability, config.retry_timeout);
        let cache = Arc::new(Cache::new(log.clone(), heads, config.cache_dir.as_deref(), config.cache_max_bytes));
        let store: Arc<dyn Store> = if config.read_only { Arc::new(ReadOnly::new(cache.clone())) } else { cache.clone() };
        Self { store, fresh: cache.clone(), cache, log, server: retry.clone(), retry, metrics }
    }

    /// The state of all layers.
    pub fn status(&self) -> StackStatus {
        StackStatus {
            log: self.log.status(),
            server: self.retry.status(),
            cache: self.cache.stats(),
            operations: self.metrics.snapshot(),
        }
    }

    /// Commits what is pending, makes it durable, then ends the background tasks. Nothing is ended where that fails:
    /// call again, or [`Log::discard`] first.
    ///
    /// # Errors
    /// What [`Log::drain`] says.
    pub async fn shutdown(&self, deadline: Option<Duration>) -> Result<()> {
        self.log.drain(deadline).await?;
        self.log.stop().await;
        self.cache.flush_disk().await;
        Ok(())
    }
}
