//! What commands do to files, versions and keys: the same code in a daemon, on the store of its mount, and in a command
//! without a mount, on a connection of its own.
//!
//! Knows nothing of sockets, terminals and inodes. An [`Answer`] names the keys that changed; whoever holds something
//! in memory about them is told by the caller.

pub mod batch;
pub mod content;
mod purge;
mod restore;
mod target;
pub(crate) mod versions;
mod warmup;

use std::sync::Arc;

use pgfiles_store::clock::Clock;
use pgfiles_store::{Key, Prefix, Server, Store};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exit::{Failure, Result};
pub use target::Target;

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Request {
    /// The versions of a file, or the moments of a directory, newest first.
    Versions {
        /// Of what.
        target: Target,
        /// At most that many; all where `None`.
        limit: Option<u64>,
    },
    /// A new version with the content of an older one.
    Restore {
        /// Of what.
        target: Target,
        /// A number as `Versions` gives it, or a moment in RFC 3339.
        to: String,
    },
    /// Removes versions for good.
    Purge {
        /// Of what; a directory with all below.
        target: Target,
        /// Which of them.
        what: What,
    },
    /// Names, and contents, are brought into the cache of the store.
    Warmup {
        /// Of what; a directory with all below.
        target: Target,
        /// Contents as well.
        contents: bool,
        /// How many bytes of these at most.
        room: u64,
    },
    /// The operations that follow, in one transaction.
    Batch,
}

/// Which versions a purge removes: see [`pgfiles_store::store::Purge`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct What {
    /// Keep that many newest versions of each key.
    pub keep: Option<u32>,
    /// Only those that stopped being the head that many seconds ago.
    pub older_than: Option<u64>,
    /// Only keys whose head is a tombstone.
    pub dead: bool,
    /// Count, remove nothing.
    pub dry_run: bool,
}

impl Request {
    /// Whether lines follow the request.
    pub fn has_lines(&self) -> bool {
        matches!(self, Request::Batch)
    }
}

/// What an executed request says.
#[derive(Debug, Default)]
pub struct Answer {
    /// For the one who asked.
    pub value: Value,
    /// Keys that are other now; one that ends in `/` stands for all below, too.
    pub changed: Vec<Key>,
}

/// Where talk goes on the way: a terminal, or a control socket.
pub trait Talk: Send + Sync {
    /// A sentence for a person.
    fn say(&self, text: &str);
    /// How far long work is.
    fn progress(&self, done: u64, total: Option<u64>, what: &str);
}

/// Carries out requests on a store, within a prefix.
pub struct Service {
    /// All reads and writes.
    pub store: Arc<dyn Store>,
    /// The server below it, to ask which rows there are.
    pub server: Arc<dyn Server>,
    /// No request leaves it.
    pub fence: Prefix,
    /// `meta.by` of what is written.
    pub by: Arc<Value>,
    /// The mount's id, or one made for this command: names the rows of unfinished bodies.
    pub mount: Arc<str>,
    /// Times, ids, inode numbers.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("fence", &self.fence).finish_non_exhaustive()
    }
}

impl Service {
    /// Carries out a request other than [`Request::Batch`], for which see [`Service::batch`].
    ///
    /// # Errors
    /// What the store says; a target outside the prefix; a request that makes no sense, with the remedy.
    pub async fn run(&self, request: Request, talk: &dyn Talk) -> Result<Answer> {
        match request {
            Request::Versions { target, limit } => {
                self.check(&target)?;
                Ok(Answer { value: versions::run(self, &target, limit).await?, changed: Vec::new() })
            }
            Request::Restore { target, to } => {
                self.check(&target)?;
                restore::run(self, &target, &to).await
            }
            Request::Purge { target, what } => {
                self.check(&target)?;
                purge::run(self, &target, &what, talk).await
            }
            Request::Warmup { target, contents, room } => {
                self.check(&target)?;
                Ok(Answer { value: warmup::run(self, &target, contents, room, talk).await?, changed: Vec::new() })
            }
            Request::Batch => Err(Failure::failed("a batch comes with lines")),
        }
    }

    fn check(&self, target: &Target) -> Result<()> {
        if target.key.starts_with(self.fence.as_str()) {
            return Ok(());
        }
        let (shown, fence) = (&target.shown, &self.fence);
        Err(Failure::usage(format!("{shown} lies outside the prefix {fence:?}: unset PGFILES_PREFIX or use another mount")))
    }
}
