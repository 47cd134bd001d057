//! What can go wrong in storage.
//!
//! The kind decides what a caller does; the message is for people. A kind is set from an SQLSTATE or from our own
//! checks, never from message text.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What happened, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// No live row there, or no such version.
    NotFound,
    /// A precondition failed: something is there already, or the head is another one.
    Conflict,
    /// A directory that must be empty is not.
    NotEmpty,
    /// The request itself is wrong (a bad key, a version that is a tombstone, a directory under itself).
    Invalid,
    /// An inode has as many names as it may have.
    TooManyLinks,
    /// Two keys lie on two sides of the edge of a grant, and what they would share must not cross it.
    CrossesGrant,
    /// The version would refer to rows of a body that are not there any more: they were purged, or replaced by whoever
    /// writes the version that has them.
    BodyGone,
    /// The server cannot be reached, is starting, stopping, or out of connections: worth another try.
    Unavailable,
    /// Serialization failure or deadlock: worth another try at once.
    Retry,
    /// The server is not the one, or not the run, that earlier commits went to: see [`crate::store::Server`].
    ServerChanged,
    /// The server's disk is full (53100), or a limit on size was met.
    NoSpace,
    /// The server or the transaction is read-only (25006), or the mount is.
    ReadOnly,
    /// The role lacks a right (42501), or row security refused.
    Forbidden,
    /// Password, role or `pg_hba` refused the connection.
    Unauthorized,
    /// The table or its functions are not there: run `pgfiles init`.
    NotInitialised,
    /// The schema asks for a newer pgfiles, or the server cannot carry pgfiles at all.
    Unsupported,
    /// Stored data contradicts itself: a missing body, a checksum, an unknown layout.
    Corrupt,
    /// Anything else the server said.
    Other,
}

/// An error of the store. Prints as one sentence without a password.
#[derive(Debug)]
pub struct StoreError {
    kind: Kind,
    message: String,
    op: Option<usize>,
    outcome_unknown: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A result of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

impl StoreError {
    /// An error of that kind that reads as `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), op: None, outcome_unknown: false, source: None }
    }

    /// Keeps what caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says which operation of the batch it was, counted from 0.
    #[must_use]
    pub fn at_op(mut self, index: usize) -> Self {
        self.op = Some(index);
        self
    }

    /// Says that the request may have been carried out: its reply was lost.
    #[must_use]
    pub fn unknown_outcome(mut self) -> Self {
        self.outcome_unknown = true;
        self
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The operation of the batch that failed, counted from 0, where that is known.
    pub fn op(&self) -> Option<usize> {
        self.op
    }

    /// Whether the request may have been carried out nevertheless.
    pub fn is_outcome_unknown(&self) -> bool {
        self.outcome_unknown
    }

    /// Whether the same request may succeed later without anyone doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::Retry)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
