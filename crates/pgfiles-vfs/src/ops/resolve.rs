//! An inode by its number alone, for protocols whose handles outlive the daemon.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgfiles_store::key::{self, Key, Name};

use crate::Vfs;
use crate::attr::InodeNo;
use crate::error::{Result, VfsError};
use crate::ops::lookup::EntryReply;

/// Keys asked for at a time.
const PAGE_KEYS: u32 = 5_000;
/// How long a walk answers for the numbers that it met and for those that it did not.
const WALK_TTL: Duration = Duration::from_secs(5);
/// Numbers that are remembered of a walk: about 100 bytes each.
const NUMBERS_MAX: usize = 500_000;

/// What a walk of all keys met: the number of each file and directory, and its path as a key without a trailing `/`.
pub(crate) struct Walk {
    at: Instant,
    numbers: HashMap<u64, String>,
    /// There were more.
    partial: bool,
}

impl Vfs {
    /// The inode of that number, wherever it is now, and the directory and the name that it was found at. Counts a lookup of it. Known
    /// inodes cost nothing; for others all keys of the mount are read, at most once in five seconds where there are under half
    /// a million. What lies so deep that its key is not its path (`pgfiles_store::alias`) is not found.
    ///
    /// # Errors
    /// [`VfsError::Stale`] where no file has it; what the store says.
    pub async fn resolve(&self, ino: InodeNo) -> Result<(EntryReply, InodeNo, Vec<u8>)> {
        let mut walk = self.walk.lock().await;
        let now = self.clock.monotonic();
        let fresh = walk.as_ref().is_some_and(|walk| now.saturating_duration_since(walk.at) < WALK_TTL);
        if fresh
            && let Some(known) = &*walk
            && (!known.partial || known.numbers.contains_key(&ino.0))
        {
            let path = known.numbers.get(&ino.0).cloned();
            drop(walk);
            return self.walk_to(ino, path).await;
        }
        let mut numbers = HashMap::new();
        let mut partial = false;
        let mut found = None;
        let mut after: Option<Key> = None;
        loop {
            let page = self.store.tree(&self.config.prefix, after.as_ref(), PAGE_KEYS).await?;
            for head in &page {
                let own = head.key.as_file();
                for (number, path) in implied(&self.config.prefix, &own).chain([(head.meta.ino, own.as_str())]) {
                    let Some(number) = number else { continue };
                    if number == ino.0 {
                        found = Some(path.to_owned());
                    }
                    if numbers.len() < NUMBERS_MAX {
                        numbers.entry(number).or_insert_with(|| path.to_owned());
                    } else {
                        partial = true;
                    }
                }
            }
            let full = page.len() == PAGE_KEYS as usize;
            after = page.into_iter().next_back().map(|head| head.key);
            if !full || (partial && found.is_some()) {
                break;
            }
        }
        *walk = Some(Walk { at: now, numbers, partial });
        drop(walk);
        self.walk_to(ino, found).await
    }

    /// Looks up name by name until the inode is there.
    async fn walk_to(&self, ino: InodeNo, path: Option<String>) -> Result<(EntryReply, InodeNo, Vec<u8>)> {
        let path = path.ok_or(VfsError::Stale)?;
        let rest = path.strip_prefix(self.config.prefix.as_str()).ok_or(VfsError::Stale)?;
        let (mut at, mut parent) = (InodeNo::ROOT, InodeNo::ROOT);
        let mut last = Vec::new();
        for component in rest.split('/') {
            let name = Name::from_component(component).ok_or(VfsError::Stale)?;
            parent = at;
            at = self.find(at, &name).await?.ok_or(VfsError::Stale)?;
            last = name.as_bytes().to_vec();
        }
        if at != ino {
            return Err(VfsError::Stale);
        }
        Ok((self.entry(at)?, parent, last))
    }
}

/// The directories that a key implies, with the numbers that they have as long as nothing makes them explicit.
fn implied<'k>(prefix: &'k key::Prefix, key: &'k Key) -> impl Iterator<Item = (Option<u64>, &'k str)> {
    let start = prefix.as_str().len();
    key.as_str().match_indices('/').filter(move |(at, _)| *at >= start).map(|(at, _)| {
        let dir = &key.as_str()[..at];
        let number = Key::new(dir).ok().map(|dir| key::implied_ino(&dir.as_dir()));
        (number, dir)
    })
}
