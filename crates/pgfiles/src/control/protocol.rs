//! What is said over the control socket: a [`Call`], for `batch` its lines and an empty one, then any number of
//! [`Reply::Say`] and [`Reply::Progress`], and one last [`Reply::Done`] or [`Reply::Failed`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exit::Failure;
use crate::service::Request;

/// The longest line that either end reads, in bytes: a file in a batch, in base64.
pub const LINE_BYTES_MAX: usize = 1 << 30;

/// What a command asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "call", content = "with")]
pub enum Call {
    /// What the mount is, what it waits for, what it counts.
    Status {
        /// Whether to count rows and bytes on the server as well.
        usage: bool,
    },
    /// Commit and sync everything, or give up what cannot be committed.
    Flush {
        /// A path under the prefix; everything where `None`.
        path: Option<String>,
        /// Give up what the server refuses.
        discard: bool,
    },
    /// Commit everything, then end the mount.
    Unmount {
        /// After how many seconds to leave the mount up; waits for ever where `None`.
        timeout: Option<f64>,
        /// Give up waiting: write what is unsaved into a recovery directory.
        force: bool,
    },
    /// Numbers of the cache.
    CacheStats,
    /// Empty the cache.
    CacheClear,
    /// Calls of the mount's store follow, as [`super::store`] has them.
    Store,
    /// Something that could be done without the mount as well.
    Serve(Request),
    /// Keys that a command changed without the daemon.
    Changed {
        /// Whole keys; one that ends in `/` stands for all below.
        keys: Vec<String>,
    },
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reply", content = "with")]
pub enum Reply {
    /// For the person at the terminal.
    Say(String),
    /// How far long work is.
    Progress {
        /// Steps done.
        done: u64,
        /// Of how many, where that is known.
        total: Option<u64>,
        /// Of what.
        what: String,
    },
    /// The answer.
    Done(Value),
    /// Why not.
    Failed(Failure),
}
