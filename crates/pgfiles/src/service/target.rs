//! What a command is about: a whole key, and what is found there.

use pgfiles_store::{Entry, Key, Prefix, alias};
use serde::{Deserialize, Serialize};

use super::Service;
use crate::exit::{Failure, Result};

/// A place in the table as a user named it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The whole key: "" or ending in `/` where only a directory is meant.
    pub key: String,
    /// As the user wrote it.
    pub shown: String,
}

/// What is at a target.
#[derive(Debug)]
pub(super) enum Found {
    /// A file, or another thing that is no directory.
    File(Key),
    /// A key whose newest version is a tombstone.
    DeadFile(Key),
    /// A directory, live or not.
    Dir(Prefix),
}

impl Target {
    fn whole(&self) -> Result<Key> {
        Key::new(&self.key).map_err(|error| Failure::usage(format!("{}: {error}", self.shown)))
    }
}

impl Service {
    /// Looks what is at a target, live things first. At most three round trips.
    pub(super) async fn find(&self, target: &Target) -> Result<Found> {
        if target.key.is_empty() {
            return Ok(Found::Dir(Prefix::default()));
        }
        let key = if target.key.len() > alias::DIR_BYTES_MAX && !target.key.contains("//") {
            alias::resolve(&*self.store, &target.key).await?
        } else {
            target.whole()?
        };
        let file = key.as_file();
        match self.store.lookup(std::slice::from_ref(&file), 0).await?.into_iter().next().flatten() {
            Some(Entry::Dir(_)) => return Ok(Found::Dir(key.as_dir())),
            Some(Entry::File(_)) if key.is_marker() => {
                return Err(Failure::not_found(format!("{} is not a directory", target.shown)));
            }
            Some(Entry::File(_)) => return Ok(Found::File(file)),
            None => {}
        }
        if !key.is_marker() && !self.store.versions(&file, None, 1).await?.is_empty() {
            return Ok(Found::DeadFile(file));
        }
        if key.as_dir() == self.fence || !self.store.history(&key.as_dir(), 1).await?.is_empty() {
            return Ok(Found::Dir(key.as_dir()));
        }
        let under = if self.fence.as_str().is_empty() { String::new() } else { format!(" under the prefix {:?}", self.fence) };
        Err(Failure::not_found(format!("{}: no such file or directory{under}, and there never was one", target.shown)))
    }
}
