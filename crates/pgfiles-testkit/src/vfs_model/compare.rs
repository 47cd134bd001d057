//! What a mount shows and what the store keeps, against the model.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use pgfiles_store::body::Body;
use pgfiles_store::store::{Maintenance, Purge, PurgeScope};
use pgfiles_store::version::{self, Head};
use pgfiles_vfs::{Attr, HandleId, InodeNo, LookupReply, OpenMode};

use super::history::Was;
use super::run::{ROOT, Run, regions};
use crate::model::{Id, Kind};

/// Versions of one key that are asked for.
const VERSIONS_MAX: u32 = 10_000;

fn kind_of(kind: &Kind) -> version::Kind {
    match kind {
        Kind::File(_) => version::Kind::File,
        Kind::Dir(_) => version::Kind::Dir,
        Kind::Symlink(_) => version::Kind::Symlink,
        Kind::Fifo => version::Kind::Fifo,
    }
}

impl Run {
    pub async fn check_read(&self, at: usize, handle: HandleId, id: Id, offset: usize, len: usize) -> Result<()> {
        let bytes = self.world.tree.node(id).bytes();
        let from = offset.min(bytes.len());
        let expected = &bytes[from..(offset + len).min(bytes.len()).max(from)];
        let read = self.vfs(at).read(handle, offset as u64, len as u64).await?;
        if read != expected {
            let differs = read.iter().zip(expected).position(|(a, b)| a != b);
            bail!("read {offset} {len}: {} bytes for {}, first other byte {differs:?}", read.len(), expected.len());
        }
        Ok(())
    }

    /// Every byte that is not zero lies in data.
    pub async fn check_holes(&self, at: usize, handle: HandleId, id: Id) -> Result<()> {
        let bytes = self.world.tree.node(id).bytes();
        let mut from = 0;
        for (start, end) in regions(&self.vfs(at), handle, bytes.len() as u64).await? {
            ensure!(bytes[from..start as usize].iter().all(|byte| *byte == 0), "data in the hole from {from} to {start}");
            from = end as usize;
        }
        ensure!(bytes[from..].iter().all(|byte| *byte == 0), "data in the hole from {from} to the end");
        Ok(())
    }

    pub async fn expect_absent(&mut self, at: usize, dir: Id, name: &[u8]) -> Result<()> {
        if self.world.tree.find(dir, name).is_none() {
            let parent = self.no_of(at, dir).await?;
            let found = self.vfs(at).lookup(parent, name).await;
            ensure!(matches!(found, Ok(LookupReply::Absent(_))), "{} is {found:?}", name.escape_ascii());
        }
        Ok(())
    }

    /// A node as a mount shows it, under all its names.
    pub async fn compare(&mut self, at: usize, id: Id) -> Result<()> {
        let places = self.world.tree.node(id).places.clone();
        let what =
            || format!("node {id}, {:?}, on mount {at}", places.iter().map(|place| self.world.key(place)).collect::<Vec<_>>());
        let what = what();
        self.compare_node(at, id).await.context(what)
    }

    async fn compare_node(&mut self, at: usize, id: Id) -> Result<()> {
        let vfs = self.vfs(at);
        let slots = self.world.open[at].iter().zip(&self.mounts[at].handles);
        let handle =
            slots.filter(|(open, _)| open.is_some_and(|open| open.id == id && open.read)).find_map(|(_, handle)| *handle);
        let size = self.world.tree.node(id).bytes().len();
        if let Some(handle) = handle {
            self.check_read(at, handle, id, 0, size + 1).await?;
        }
        let places = self.world.tree.node(id).places.clone();
        if id != 0 && places.is_empty() {
            if let (Some(_), Some(ino)) = (handle, self.world.tree.node(id).ino) {
                let attr = vfs.getattr(InodeNo(ino)).await?.attr;
                ensure!((attr.size, attr.nlink) == (size as u64, 0), "size and links of a nameless file: {attr:?}");
            }
            return Ok(());
        }
        for (nth, place) in places.iter().enumerate() {
            let no = self.walk(at, place).await?;
            let attr = vfs.getattr(no).await?.attr;
            self.compare_attr(id, &attr).with_context(|| format!("under {}", self.world.key(place)))?;
            if nth > 0 {
                continue;
            }
            self.compare_xattrs(at, id, no).await?;
            match &self.world.tree.node(id).kind {
                Kind::Symlink(target) => {
                    let read = vfs.readlink(no).await?;
                    ensure!(read == *target, "its target is {}", read.escape_ascii());
                }
                Kind::File(_) if handle.is_none() => {
                    let opened = vfs.open(no, OpenMode { read: true, ..OpenMode::default() }, ROOT).await?;
                    let read = self.check_read(at, opened.handle, id, 0, size + 1).await;
                    vfs.release(opened.handle).await;
                    // That published what was unpublished, as every close does.
                    self.world.publish(id);
                    read?;
                }
                Kind::File(_) | Kind::Dir(_) | Kind::Fifo => {}
            }
        }
        Ok(())
    }

    fn compare_attr(&mut self, id: Id, attr: &Attr) -> Result<()> {
        let node = self.world.tree.node_mut(id);
        ensure!(attr.kind == kind_of(&node.kind), "it is a {:?}", attr.kind);
        if node.is_file() {
            let size = node.bytes().len() as u64;
            ensure!(attr.size == size, "{} bytes, not {size}", attr.size);
        }
        if !node.is_dir() {
            ensure!(attr.nlink as usize == node.places.len(), "{} links, not {}", attr.nlink, node.places.len());
        }
        for attrs in [&mut node.saving.attrs, &mut node.attrs] {
            attrs.mode.get_or_insert(attr.mode);
            attrs.uid.get_or_insert(attr.uid);
            attrs.gid.get_or_insert(attr.gid);
        }
        let known = &node.attrs;
        let shown = (Some(attr.mode), Some(attr.uid), Some(attr.gid));
        ensure!(
            shown == (known.mode, known.uid, known.gid),
            "mode {:o} uid {} gid {}, not {known:?}",
            attr.mode,
            attr.uid,
            attr.gid
        );
        ensure!(known.mtime.is_none_or(|time| time == attr.mtime), "mtime {:?}, not {known:?}", attr.mtime);
        ensure!(known.atime.is_none_or(|time| time == attr.atime), "atime {:?}, not {known:?}", attr.atime);
        let ino = *node.ino.get_or_insert(attr.ino.0);
        ensure!(attr.ino.0 == ino, "inode number {}, not {ino}", attr.ino.0);
        Ok(())
    }

    async fn compare_xattrs(&mut self, at: usize, id: Id, no: InodeNo) -> Result<()> {
        let vfs = self.vfs(at);
        let listed = vfs.listxattr(no, ROOT).await?;
        let mut shown = std::collections::BTreeMap::new();
        for name in
            listed.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.") && !name.starts_with(b"user.pgfiles."))
        {
            shown.insert(name.to_vec(), vfs.getxattr(no, name).await?);
        }
        let node = self.world.tree.node_mut(id);
        node.saving.attrs.xattrs.get_or_insert_with(|| shown.clone());
        let known = node.attrs.xattrs.get_or_insert_with(|| shown.clone());
        ensure!(shown == *known, "attributes {shown:?}, not {known:?}");
        Ok(())
    }

    /// The names of a directory, in pages.
    pub async fn compare_dir(&mut self, at: usize, dir: Id, page: usize, plus: bool) -> Result<()> {
        let no = self.no_of(at, dir).await?;
        let vfs = self.vfs(at);
        let handle = vfs.opendir(no).await?;
        let (mut offset, mut seen) = (0, Vec::new());
        loop {
            let entries = vfs.readdir(handle, offset, page, plus).await?;
            let Some(last) = entries.last() else { break };
            offset = last.next;
            for entry in entries {
                if entry.plus.is_some() {
                    self.mounts[at].lookups.push(entry.ino);
                }
                seen.push((entry.name, entry.kind));
            }
        }
        vfs.releasedir(handle);
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        // What another mount has created and not published yet is not there, but may be soon.
        let hidden = |name: &[u8]| {
            let saving = self.world.tree.find(dir, name).map(|id| &self.world.tree.node(id).saving);
            saving.is_some_and(|saving| saving.mount != at && saving.pending)
        };
        let exact = self.plan.is_exact();
        let names = self.world.tree.names(dir).iter();
        let mut expected: Vec<_> = names.map(|(name, id)| (name.clone(), kind_of(&self.world.tree.node(*id).kind))).collect();
        expected.extend([(b".".to_vec(), version::Kind::Dir), (b"..".to_vec(), version::Kind::Dir)]);
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        expected.retain(|(name, _)| !hidden(name));
        seen.retain(|(name, _)| exact || !hidden(name));
        ensure!(seen == expected, "names on mount {at} of directory {dir}: {seen:?}, not {expected:?}");
        Ok(())
    }

    /// All that has a name, on all mounts, and the versions of all keys that changed since.
    pub async fn compare_all(&mut self) -> Result<()> {
        for at in 0..self.mounts.len() {
            self.turn(Some(at)).await?;
            for id in self.world.tree.all() {
                if self.world.tree.node(id).is_dir() {
                    self.compare_dir(at, id, 7, id % 2 == 0).await?;
                } else if self.world.is_busy(at, id) {
                    continue;
                }
                self.compare(at, id).await?;
            }
            self.mounts[at].on.settle().await?;
        }
        for below in std::mem::take(&mut self.world.touched) {
            if self.plan.is_exact() {
                self.compare_versions(&below).await.with_context(|| format!("versions of {below:?}"))?;
            }
        }
        if let Some(memory) = &self.ground.memory {
            memory.flush();
        }
        Ok(())
    }

    async fn compare_versions(&self, below: &str) -> Result<()> {
        let key = self.key(below)?;
        let mut kept = self.ground.store().versions(&key, None, VERSIONS_MAX).await?;
        kept.reverse();
        let none = Vec::new();
        let expected = self.world.versions.get(below).unwrap_or(&none);
        let short = |head: &Head| {
            let what = if head.is_live() { format!("{:?} of {}", head.meta.kind, head.meta.size) } else { "gone".into() };
            format!("{}: {what}", head.version)
        };
        let said = || {
            let expected = expected.iter().map(|version| match &version.was {
                Was::File(bytes) => format!("{}: File of {}", version.no, bytes.len()),
                other => format!("{}: {other:?}", version.no),
            });
            format!("{:?}, not {:?}", kept.iter().map(short).collect::<Vec<_>>(), expected.collect::<Vec<_>>())
        };
        ensure!(kept.len() == expected.len(), "{}", said());
        for (head, version) in kept.iter().zip(expected) {
            let agree = head.version.0 == version.no
                && match &version.was {
                    Was::Gone => !head.is_live(),
                    Was::Fifo => head.is_live() && head.meta.kind == version::Kind::Fifo,
                    Was::Symlink(_) => head.is_live() && head.meta.kind == version::Kind::Symlink,
                    Was::File(bytes) => {
                        head.is_live() && head.meta.kind == version::Kind::File && head.meta.size == bytes.len() as u64
                    }
                };
            ensure!(agree, "{}", said());
            if let Was::File(bytes) = &version.was {
                let body = Body::open(self.ground.store(), head).await.with_context(|| short(head))?;
                let read = body.read(self.ground.store(), 0, body.size()).await.with_context(|| short(head))?;
                ensure!(read == **bytes, "{} has other bytes", short(head));
            }
        }
        Ok(())
    }

    /// After a purge of everything, and of what mounts that are gone had not published, there is no row.
    pub async fn nothing_is_left(&self) -> Result<()> {
        let prefix = &self.ground.prefix;
        let mut after = None;
        loop {
            let scope = PurgeScope::Prefix(prefix.clone(), after);
            let purge = Purge { scope, keep: None, older_than: None, dead: false, dry_run: false };
            after = self.ground.store().purge(&purge).await?.next;
            if after.is_none() {
                break;
            }
        }
        self.ground.let_bodies_age().await?;
        self.ground.server.maintain(prefix, "nobody", Maintenance::Sweep).await?;
        let left = self.ground.store().usage(prefix).await?;
        let rows = [left.files, left.dirs, left.history_rows, left.body_rows];
        ensure!(rows.iter().all(|rows| *rows == 0), "after a purge of everything: {left:?}");
        let keys: BTreeSet<&String> = self.world.versions.keys().collect();
        for below in keys {
            let kept = self.ground.store().versions(&self.key(below)?, None, 1).await?;
            ensure!(kept.is_empty(), "{below:?} has versions after a purge of everything");
        }
        Ok(())
    }
}
