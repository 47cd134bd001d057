//! What commands do to files and trees without a mount, over any store: the server's, or a mount's through its daemon.
//!
//! Knows nothing of sockets, terminals and command lines. Paths are text as in keys ([`pgfiles_store::key::escape`]), relative to a
//! directory, without a trailing `/`.

mod archive;
mod change;
mod dead;
mod export;
mod import;
mod local;
mod select;
mod tree;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pgfiles_store::body::Body;
use pgfiles_store::clock::Clock;
use pgfiles_store::store::Maintenance;
use pgfiles_store::version::Timestamp;
use pgfiles_store::{Entry, Head, Key, Kind, Prefix, Server, Store, VersionNo, alias};
use serde_json::Value;

use crate::exit::{Failure, Result};
use crate::service::Target;
pub use archive::{read_archive, write_archive};
pub use change::Moved;
pub use select::{Filter, is_pattern, moment};
pub use tree::Node;
pub use upload::Attributes;

/// Requests to the server that one command has under way at a time.
const AT_ONCE: usize = 4;

/// Files of one prefix.
pub struct Files {
    /// All reads and writes.
    pub store: Arc<dyn Store>,
    /// Nothing leaves it.
    pub fence: Prefix,
    /// `meta.by` of what is written.
    pub by: Arc<Value>,
    /// Names the rows of unfinished bodies: they are swept if this command does not end well.
    pub mount: Arc<str>,
    /// Keeps them meanwhile.
    pub keep: Arc<dyn Keep>,
    /// Times, ids, inode numbers.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("fence", &self.fence).finish_non_exhaustive()
    }
}

/// Rows of a body that no version refers to yet are swept after ten minutes, unless whoever writes them says that it lives.
#[async_trait]
pub trait Keep: Send + Sync {
    /// Says so for rows that name `mount`.
    ///
    /// # Errors
    /// What the store says.
    async fn keep(&self, prefix: &Prefix, mount: &str) -> pgfiles_store::Result<()>;
}

#[async_trait]
impl Keep for Arc<dyn Server> {
    async fn keep(&self, prefix: &Prefix, mount: &str) -> pgfiles_store::Result<()> {
        self.maintain(prefix, mount, Maintenance::Beat).await.map(|_| ())
    }
}

/// How far long work is, for whoever shows it.
pub trait Watch: Send + Sync {
    /// Files and bytes done, of how many where that is known.
    fn progress(&self, done: Amount, total: Option<Amount>);
    /// Something was not done: a path and why.
    fn failed(&self, path: &str, why: &str);
    /// Whether to stop: what is under way is ended, nothing new is begun.
    fn is_over(&self) -> bool;
}

/// Until the work is to stop.
pub async fn stopped(watch: &dyn Watch) {
    const LOOK_EVERY: Duration = Duration::from_millis(50);
    while !watch.is_over() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Why something was not done.
const STOPPED: &str = "it was stopped";

/// Files and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs)]
pub struct Amount {
    pub files: u64,
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// How an import or an export went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Written.
    pub written: Amount,
    /// There already, left alone.
    pub unchanged: Amount,
    /// Not written; each was named.
    pub failed: u64,
}

/// What is at a path.
#[derive(Debug)]
pub enum There {
    /// A file, or another thing that is no directory.
    File(Box<Head>),
    /// A directory; the marker where it has one.
    Dir(Prefix, Option<Box<Head>>),
}

/// The bytes of a path as text of a key, for people: control characters and what is not UTF-8 escaped, as C has it.
pub fn shown(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let bytes = pgfiles_store::key::unescape(path);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                c if c.is_control() && (c as u32) < 0x100 => out.push_str(&format!("\\x{:02x}", c as u32)),
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out
}

impl Files {
    /// The key that a target names; one round trip where it is long (`pgfiles_store::alias`).
    ///
    /// # Errors
    /// It is no key, or lies outside the prefix.
    pub async fn key(&self, target: &Target) -> Result<Key> {
        let bad = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", target.shown));
        if !target.key.starts_with(self.fence.as_str()) && format!("{}/", target.key) != self.fence.as_str() {
            let why = "lies outside the prefix: unset PGFILES_PREFIX or use another mount";
            return Err(Failure::usage(format!("{} {why}", target.shown)));
        }
        if target.key.len() > alias::DIR_BYTES_MAX && !target.key.contains("//") {
            return Ok(alias::resolve(&*self.store, &target.key).await?);
        }
        Key::new(&target.key).map_err(|error| bad(&error))
    }

    /// Whether something may be written at a key: no file is where it needs a directory. One round trip.
    ///
    /// # Errors
    /// One is.
    pub async fn room(&self, key: &Key) -> Result<()> {
        let text = key.as_str().trim_end_matches('/');
        let above = text.match_indices('/').map(|(at, _)| &text[..at]).filter(|above| above.len() >= self.fence.as_str().len());
        // Of an alias, what comes before it was looked up.
        let above: Vec<Key> = above.filter(|above| !above.ends_with('/')).filter_map(|above| Key::new(above).ok()).collect();
        let found = self.store.lookup(&above, 0).await?;
        match above.iter().zip(&found).find(|(_, entry)| matches!(entry, Some(Entry::File(_)))) {
            Some((file, _)) => Err(Failure::conflict(format!("{} is a file, not a directory", shown(file.as_str())))),
            None => Ok(()),
        }
    }

    /// What is at a target, live; `None`: nothing.
    ///
    /// # Errors
    /// It lies outside the prefix; what the store says.
    pub async fn look(&self, target: &Target) -> Result<Option<There>> {
        if target.key.is_empty() {
            return Ok(Some(There::Dir(Prefix::default(), None)));
        }
        let key = self.key(target).await?;
        let file = key.as_file();
        let entry = self.store.lookup(std::slice::from_ref(&file), 0).await?.into_iter().next().flatten();
        Ok(match entry {
            Some(Entry::Dir(dir)) => {
                let alias = dir.marker.as_ref().and_then(|marker| marker.meta.alias.as_deref());
                let names = alias.and_then(|alias| alias::parse(alias, &Prefix::default())).unwrap_or_else(|| key.as_dir());
                Some(There::Dir(names, dir.marker.map(Box::new)))
            }
            Some(Entry::File(_)) if key.is_marker() => {
                return Err(Failure::conflict(format!("{} is not a directory", target.shown)));
            }
            Some(Entry::File(head)) => Some(There::File(Box::new(head))),
            None if key.as_dir() == self.fence => Some(There::Dir(key.as_dir(), None)),
            None => None,
        })
    }

    /// The same, where something must be there.
    ///
    /// # Errors
    /// Nothing is: the sentence says whether there was.
    pub async fn find(&self, target: &Target) -> Result<There> {
        if let Some(there) = self.look(target).await? {
            return Ok(there);
        }
        let shown = &target.shown;
        let key = self.key(target).await?;
        let last = self.store.versions(&key.as_file(), None, 1).await?;
        Err(Failure::not_found(match last.first() {
            Some(head) => match head.meta.to.as_ref().and_then(|to| to["key"].as_str()) {
                Some(to) => format!("{shown}: it was moved to {to}"),
                None => format!(
                    "{shown}: it is deleted; `pgfiles version {shown}` lists what it was, `pgfiles restore` brings it back"
                ),
            },
            None => format!("{shown}: no such file or directory under the prefix {:?}", self.fence),
        }))
    }

    /// A file that must be there, in the version that is asked for; the head where none is.
    ///
    /// # Errors
    /// It is a directory, or has no such version.
    pub async fn version(&self, target: &Target, version: Option<VersionNo>) -> Result<Head> {
        let Some(version) = version else {
            return match self.find(target).await? {
                There::File(head) => Ok(*head),
                There::Dir(..) => Err(Failure::usage(format!("{} is a directory", target.shown))),
            };
        };
        let key = self.key(target).await?.as_file();
        let before = VersionNo(version.0.saturating_add(1));
        let found = self.store.versions(&key, Some(before), 1).await?.pop().filter(|head| head.version == version);
        let shown = &target.shown;
        match found {
            Some(head) if head.is_live() => Ok(head),
            Some(_) => Err(Failure::not_found(format!("{shown}: version {version} says that it was deleted: it has no content"))),
            None => Err(Failure::not_found(format!(
                "{shown} has no version {version}: `pgfiles version {shown}` lists those there are"
            ))),
        }
    }

    /// The row of a directory, where it has one.
    ///
    /// # Errors
    /// What the store says.
    pub async fn marker(&self, dir: &Prefix) -> Result<Option<Head>> {
        let Some(key) = dir.marker() else { return Ok(None) };
        match self.store.lookup(&[key.as_file()], 0).await?.pop().flatten() {
            Some(Entry::Dir(dir)) => Ok(dir.marker),
            _ => Ok(None),
        }
    }

    /// The newest version of a key that was there at a moment; `None`: there was nothing.
    ///
    /// # Errors
    /// What the store says.
    pub async fn version_at(&self, key: &Key, at: Timestamp) -> Result<Option<Head>> {
        const PAGE: u32 = 50;
        let mut before = None;
        loop {
            let page = self.store.versions(key, before, PAGE).await?;
            let then = page.iter().find(|head| head.meta.created_at.is_none_or(|created| created <= at));
            if let Some(head) = then {
                return Ok(Some(head.clone()).filter(Head::is_live));
            }
            match page.last() {
                Some(last) if page.len() == PAGE as usize && before != Some(last.version) => before = Some(last.version),
                _ => return Ok(None),
            }
        }
    }

    /// The body of a version, ready to be read.
    ///
    /// # Errors
    /// It is no file; what [`Body::open`] says.
    pub async fn body(&self, head: &Head) -> Result<Body> {
        match head.meta.kind {
            Kind::File => Ok(Body::open(&*self.store, head).await?),
            other => Err(Failure::usage(format!("{} is a {}, which has no content", shown(head.key.as_str()), other.as_str()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_escaped() {
        let text = pgfiles_store::key::escape(b"a\nb\\\xff\x1b\xc3\xbc").into_owned();
        assert_eq!(shown(&text), "a\\nb\\\\\\xff\\x1b\u{fc}");
    }
}
