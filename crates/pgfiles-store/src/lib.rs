//! Keys, versions and the one table: the storage of pgfiles, usable without a mount.
//!
//! What this crate knows: keys, versions, batches, SQL. What it has never heard of: inodes, mounts, file descriptors.
//!
//! The pieces from the outside in: [`store`] (the traits), [`batch`] (the one write path), `layer` (decorators: cache,
//! log of commits, retry, metrics, read-only), then the two implementations `pg` and `mem`.

pub mod alias;
pub mod batch;
pub mod body;
pub mod clock;
pub mod error;
mod field;
pub mod key;
pub mod layer;
pub mod layout;
pub mod list;
pub mod lock;
pub mod mem;
#[cfg(feature = "pg")]
pub mod pg;
pub mod store;
pub mod version;

pub use batch::{Batch, Durability, Op, Outcome, Precondition};
pub use error::{Result, StoreError};
pub use key::{Key, Name, Prefix};
pub use lock::Locks;
pub use store::{Entry, Server, Store};
pub use version::{Head, Kind, Meta, VersionId, VersionNo};
