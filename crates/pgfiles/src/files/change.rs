//! cp, mv, rm: each a batch of operations that the server carries out; no content passes through here.

use pgfiles_store::batch::{Copy, Delete, Durability, Op, RemoveDir, Rename, RenameDir};
use pgfiles_store::{Head, Key, Kind, Meta, Precondition, Prefix, VersionNo};

use super::upload::Attributes;
use super::{Amount, Files, There};
use crate::exit::{Failure, Result};
use crate::service::Target;

/// The most operations of one transaction: what is copied or removed by more comes in several.
const OPS_MAX: usize = 5_000;

/// Where something went.
#[derive(Debug, serde::Serialize)]
pub struct Moved {
    /// The key that it has now; a directory's ends in `/`.
    pub key: String,
    /// Of a file: its version there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// How many files that were.
    pub files: u64,
}

/// Where something is to go.
struct Place {
    key: Key,
    /// There is a file already.
    taken: bool,
}

impl Files {
    /// The key of what `from` becomes at a target: in it, where that is a directory.
    async fn place(&self, from: &Key, to: &Target) -> Result<Place> {
        match self.look(to).await? {
            Some(There::Dir(dir, _)) => {
                let key = Key::new(&format!("{dir}{}", from.component())).map_err(|error| Failure::usage(error.to_string()))?;
                let target = Target {
                    key: key.as_str().to_owned(),
                    shown: format!("{}/{}", to.shown.trim_end_matches('/'), super::shown(from.component())),
                };
                match self.look(&target).await? {
                    Some(There::Dir(..)) => Err(Failure::conflict(format!("{} is there, and a directory", target.shown))),
                    found => Ok(Place { key, taken: found.is_some() }),
                }
            }
            found => {
                let key = self.key(to).await?;
                self.room(&key).await?;
                if key.is_marker() && !matches!(found, Some(There::File(_))) {
                    return Err(Failure::not_found(format!("{}: no such directory", to.shown)));
                }
                Ok(Place { key: key.as_file(), taken: found.is_some() })
            }
        }
    }

    fn expect(place: &Place, no_clobber: bool, shown: &str) -> Result<Precondition> {
        if no_clobber && place.taken {
            return Err(Failure::conflict(format!("{shown} is there already")));
        }
        Ok(if no_clobber { Precondition::Absent } else { Precondition::Any })
    }

    /// Copies a file, or with `recursive` a directory, by reference: its bytes are there once. A directory's copy is one transaction
    /// per 5,000 files.
    ///
    /// # Errors
    /// Nothing is there, or a directory without `recursive`; something is at the target that `no_clobber` keeps.
    pub async fn copy(
        &self,
        from: &Target,
        version: Option<VersionNo>,
        to: &Target,
        (recursive, no_clobber): (bool, bool),
    ) -> Result<Moved> {
        if let (There::Dir(dir, marker), None) = (self.find(from).await?, version) {
            if !recursive {
                return Err(Failure::usage(format!("{} is a directory: `pgfiles cp -r` copies it", from.shown)));
            }
            return self.copy_tree(&dir, marker.as_deref(), (from, to), no_clobber).await;
        }
        let key = self.version(from, version).await?.key;
        let place = self.place(&key, to).await?;
        let expect = Self::expect(&place, no_clobber, &to.shown)?;
        if place.key == key && version.is_none() {
            return Err(Failure::usage(format!("{} and {} are the same file", from.shown, to.shown)));
        }
        let outcome = self.commit(vec![self.copy_of(key, version, place.key.clone(), expect)], Durability::Sync).await?.pop();
        let version = outcome.and_then(|outcome| outcome.head).map(|head| head.version.0);
        Ok(Moved { key: place.key.as_str().to_owned(), version, files: 1 })
    }

    fn copy_of(&self, from: Key, version: Option<VersionNo>, to: Key, expect: Precondition) -> Op {
        let own = Meta { ino: Some(self.clock.ino()), ..Meta::default() };
        let meta = pgfiles_store::batch::fields(&own, &["ino"]);
        Op::Copy(Copy { id: self.clock.version_id(), from, version, to, expect, meta })
    }

    async fn copy_tree(
        &self,
        dir: &Prefix,
        marker: Option<&Head>,
        (from, to): (&Target, &Target),
        no_clobber: bool,
    ) -> Result<Moved> {
        let name = dir.marker().ok_or_else(|| Failure::usage("the whole table cannot be copied into itself"))?;
        // A directory that is there is copied into, as `cp -r` has it.
        let place = self.place(&name, to).await?;
        let expect = Self::expect(&place, no_clobber, &to.shown)?;
        let target = place.key.as_dir();
        if target.as_str().starts_with(dir.as_str()) {
            return Err(Failure::usage(format!("{} cannot be copied into itself", from.shown)));
        }
        if place.taken {
            return Err(Failure::conflict(format!("{} is a file", to.shown)));
        }
        let mut nodes = Vec::new();
        self.tree(dir, |node| {
            nodes.push(node);
            Ok(())
        })
        .await?;
        let kept = |head: &Head| Attributes {
            mode: head.meta.mode,
            uid: head.meta.uid,
            gid: head.meta.gid,
            mtime: head.meta.mtime,
            ..Attributes::default()
        };
        let mut ops = Vec::new();
        if let Some(key) = target.marker() {
            ops.push(self.node(&key, Kind::Dir, &marker.map(kept).unwrap_or_default()));
        }
        let mut files = 0;
        for node in nodes {
            let slash = if node.is_dir() { "/" } else { "" };
            let key = Key::new(&format!("{target}{}{slash}", node.path));
            let key = key.map_err(|error| Failure::usage(format!("{}: {error}", super::shown(&node.path))))?;
            match (node.head(), node.is_dir()) {
                (Some(head), false) => {
                    files += 1;
                    ops.push(self.copy_of(head.key.clone(), None, key, expect.clone()));
                }
                (Some(marker), true) => ops.push(self.node(&key, Kind::Dir, &kept(marker))),
                (None, _) => {}
            }
            if ops.len() >= OPS_MAX {
                self.commit(std::mem::take(&mut ops), Durability::Async).await?;
            }
        }
        self.commit(ops, Durability::Sync).await?;
        Ok(Moved { key: target.as_str().to_owned(), version: None, files })
    }

    /// Moves a file or a directory, in one transaction.
    ///
    /// # Errors
    /// Nothing is there; something is at the target that is in the way.
    pub async fn rename(&self, from: &Target, to: &Target, no_clobber: bool) -> Result<Moved> {
        let there = self.find(from).await?;
        let own = match &there {
            There::File(head) => head.key.clone(),
            There::Dir(..) => self.key(from).await?.as_file(),
        };
        let place = self.place(&own, to).await?;
        let expect = Self::expect(&place, no_clobber, &to.shown)?;
        let same = Failure::usage(format!("{} and {} are the same", from.shown, to.shown));
        let (id, ctime) = (self.clock.version_id(), Some(self.clock.now()));
        let op = match there {
            There::File(_) if place.key == own => return Err(same),
            There::File(_) => Op::Rename(Rename {
                id,
                history: self.clock.version_id(),
                from: own,
                to: place.key.clone(),
                expect_from: Precondition::Any,
                expect_to: expect,
                young: None,
                ctime,
            }),
            There::Dir(..) => {
                let (from, to) = (own.as_dir(), place.key.as_dir());
                if from == to {
                    return Err(same);
                }
                Op::RenameDir(RenameDir { id, from, to, young: None, to_absent: no_clobber })
            }
        };
        let is_dir = matches!(op, Op::RenameDir(_));
        let outcome = self.commit(vec![op], Durability::Sync).await?.pop().unwrap_or_default();
        let version = outcome.head.filter(|_| !is_dir).map(|head| head.version.0);
        let key = if is_dir { place.key.as_dir().as_str().to_owned() } else { place.key.as_str().to_owned() };
        Ok(Moved { key, version, files: outcome.files.max(1) })
    }

    /// Deletes a file, or with `recursive` a directory with all below. The history stays.
    ///
    /// # Errors
    /// Nothing is there; a directory without `recursive`.
    pub async fn remove(&self, target: &Target, recursive: bool) -> Result<Amount> {
        let id = self.clock.version_id();
        let (op, bytes) = match self.find(target).await? {
            There::File(head) => (Op::Delete(Delete { id, key: head.key, expect: Precondition::Any }), head.meta.size),
            There::Dir(..) if !recursive => {
                return Err(Failure::usage(format!("{} is a directory: `pgfiles rm -r` removes it", target.shown)));
            }
            There::Dir(..) => {
                let dir = match target.key.is_empty() {
                    true => Prefix::default(),
                    false => self.key(target).await?.as_dir(),
                };
                if dir == self.fence {
                    return self.empty(&dir).await;
                }
                (Op::RemoveDir(RemoveDir { id, dir, recursive: true }), 0)
            }
        };
        let is_file = matches!(op, Op::Delete(_));
        let outcome = self.commit(vec![op], Durability::Sync).await?.pop().unwrap_or_default();
        Ok(Amount { files: if is_file { 1 } else { outcome.files }, bytes })
    }

    /// Deletes what is in the directory of the prefix, which stays itself.
    async fn empty(&self, dir: &Prefix) -> Result<Amount> {
        let mut ops = Vec::new();
        self.names(dir, |node| {
            let key = Key::new(&format!("{dir}{}", node.path)).map_err(|error| Failure::failed(error.to_string()))?;
            let id = self.clock.version_id();
            ops.push(match node.is_dir() {
                true => Op::RemoveDir(RemoveDir { id, dir: key.as_dir(), recursive: true }),
                false => Op::Delete(Delete { id, key, expect: Precondition::Any }),
            });
            Ok(())
        })
        .await?;
        let mut total = Amount::default();
        while !ops.is_empty() {
            let rest = ops.split_off(ops.len().min(OPS_MAX));
            let singles = ops.iter().filter(|op| matches!(op, Op::Delete(_))).count() as u64;
            let outcomes = self.commit(std::mem::replace(&mut ops, rest), Durability::Sync).await?;
            total.files += singles + outcomes.iter().map(|outcome| outcome.files).sum::<u64>();
        }
        Ok(total)
    }

    /// The paths below a directory that a pattern matches, deepest directories first.
    ///
    /// # Errors
    /// What is wrong with the pattern; what the store says.
    pub async fn matching(&self, dir: &Prefix, pattern: &str) -> Result<Vec<super::Node>> {
        let glob = super::select::pattern(pattern)?;
        let mut found: Vec<super::Node> = Vec::new();
        self.tree(dir, |node| {
            use std::os::unix::ffi::OsStringExt as _;
            let path = std::ffi::OsString::from_vec(pgfiles_store::key::unescape(&node.path));
            // What lies in a directory that is meant is meant with it.
            let within = |outer: &super::Node| node.path.strip_prefix(&outer.path).is_some_and(|rest| rest.starts_with('/'));
            if glob.is_match(std::path::Path::new(&path)) && !found.last().is_some_and(|last| last.is_dir() && within(last)) {
                found.push(node);
            }
            Ok(())
        })
        .await?;
        Ok(found)
    }
}
