//! Publishing: when unpublished content becomes a version, and how.
//!
//! One publication is one [`Put`], with the body rows that it refers to in the same batch or in earlier ones. While the
//! description that began a version is open, later publications replace it (`extends`). A failure leaves the content
//! as it was, to be tried again, and is kept for the next who asks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pgfiles_store::batch::{Batch, BodyRow, Durability, Grown, Op, Outcome, Precondition, Put, SetAttr};
use pgfiles_store::body::Body;
use pgfiles_store::error::{Kind as StoreKind, StoreError};
use pgfiles_store::key::{Key, Prefix};
use pgfiles_store::layout;
use pgfiles_store::version::{AttrPatch, Kind, Layout, Lineage, Meta, Timestamp, VersionId};

use crate::Vfs;
use crate::attr::{Facts, InodeNo};
use crate::buffer::{Chunked, Content, Data, Flight, SPILL_BYTES, chunk_for};
use crate::error::{Result, VfsError};
use crate::inode::Inode;
use crate::progress::{self, Activity};

/// How long a creation or truncation without data may wait for its data after a close.
pub(crate) const TRIVIAL_AFTER: Duration = Duration::from_millis(50);
/// More unpublished files than that, and a creation without data waits no longer.
pub(crate) const TRIVIAL_MAX: usize = 64;
/// Files that are published in the background at once.
pub(crate) const BACKGROUND_MAX: usize = 16;
/// How long the times of a directory may be ahead of its marker.
const DIR_TIMES_AFTER: Duration = Duration::from_secs(1);
/// Directories whose times are written in one batch.
const DIR_TIMES_AT_ONCE: usize = 500;
/// How often an append is put behind another client's before it gives up.
pub(crate) const REBASES_MAX: usize = 20;
/// How often content whose base is gone is written anew before a publication gives up.
const MENDS_MAX: usize = 3;

/// What has to be published, and by when.
#[derive(Default, Clone)]
pub(crate) struct Due {
    files: HashMap<InodeNo, (Instant, Option<VfsError>)>,
    dirs: Option<Instant>,
}

impl Due {
    pub fn files(&self) -> impl Iterator<Item = (InodeNo, Option<&VfsError>)> {
        self.files.iter().map(|(no, (_, error))| (*no, error.as_ref()))
    }

    /// How many files are unpublished.
    pub fn count(&self) -> usize {
        self.files.len()
    }

    fn next(&self) -> Option<Instant> {
        self.files.values().map(|(at, _)| *at).chain(self.dirs).min()
    }
}

/// What a [`Put`] says about the body it carries.
struct Written {
    data: Bytes,
    etag: String,
    /// Where there are holes.
    allocated: Option<u64>,
    layout: Option<Layout>,
    lineage: Option<Lineage>,
    /// Leaves and the last chunks, in the same batch.
    rows: Vec<Op>,
    /// Chunks among `rows`.
    chunks: Vec<(usize, VersionId)>,
    /// Leaves among `rows`.
    leaves: Vec<(usize, VersionId)>,
    /// Of chunks: what is new in the manifest.
    grown: Option<Grown>,
}

/// Starts the task that publishes in time.
pub(crate) fn start(vfs: &Arc<Vfs>) {
    let weak = Arc::downgrade(vfs);
    let changed = vfs.due_changed.clone();
    tokio::spawn(async move {
        loop {
            let Some(vfs) = weak.upgrade().filter(|vfs| !vfs.closing.load(Ordering::Relaxed)) else { return };
            let next = vfs.due().next();
            // A forgotten mount has to be noticed, so the task looks up now and then without being woken.
            let until = next.unwrap_or_else(|| vfs.clock.monotonic() + Duration::from_secs(60));
            drop(vfs);
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                () = changed.notified() => continue,
            }
            let Some(vfs) = weak.upgrade() else { return };
            vfs.publish_due();
        }
    });
}

impl Vfs {
    /// Publishes the file at that time at the latest.
    pub(crate) fn arm(&self, no: InodeNo, after: Duration) {
        let at = self.clock.monotonic() + after;
        let sooner = {
            let mut due = self.due();
            let sooner = due.next().is_none_or(|next| at < next);
            let entry = due.files.entry(no).or_insert((at, None));
            entry.0 = entry.0.min(at);
            sooner
        };
        if sooner {
            self.due_changed.notify_one();
        }
    }

    fn disarm(&self, no: InodeNo) {
        self.due().files.remove(&no);
    }

    /// A directory's names changed: its times.
    pub(crate) fn stamp_dir(&self, dir: InodeNo) {
        let now = self.clock.now();
        let ahead = self.table().stamp(dir, now);
        self.arm_dirs(ahead);
    }

    /// A directory was renamed: its ctime.
    pub(crate) fn stamp_moved_dir(&self, dir: InodeNo) {
        let now = self.clock.now();
        let ahead = self.table().stamp_moved(dir, now);
        self.arm_dirs(ahead);
    }

    /// The first directory whose times are ahead says when those of all are written: more of them do not put it off.
    fn arm_dirs(&self, ahead: bool) {
        if !ahead {
            return;
        }
        let at = self.clock.monotonic() + DIR_TIMES_AFTER;
        let armed = {
            let mut due = self.due();
            due.dirs.is_some() || due.dirs.replace(at).is_some()
        };
        if !armed {
            self.due_changed.notify_one();
        }
    }

    /// Starts the publication of all that is due.
    fn publish_due(self: &Arc<Self>) {
        let now = self.clock.monotonic();
        let (files, dirs) = {
            let mut due = self.due();
            let again = now + self.config.publish_after.max(Duration::from_millis(200));
            let late = due.files.iter_mut().filter(|(_, (at, _))| *at <= now);
            let files: Vec<InodeNo> = late
                .map(|(no, entry)| {
                    entry.0 = again;
                    *no
                })
                .collect();
            (files, due.dirs.take_if(|at| *at <= now).is_some())
        };
        // A task for each file would take more memory than what most of them hold.
        let tasks = files.len().min(BACKGROUND_MAX);
        let files = Arc::new(Mutex::new(files.into_iter()));
        for _ in 0..tasks {
            let (vfs, files) = (self.clone(), files.clone());
            self.runtime.spawn(async move {
                let next = || files.lock().unwrap_or_else(PoisonError::into_inner).next();
                while let Some(no) = next() {
                    Activity::new().run(vfs.publish_in_background(no)).await;
                }
            });
        }
        if dirs {
            let vfs = self.clone();
            self.runtime.spawn(Activity::new().run(async move { vfs.persist_dirs(None, Durability::Async).await }));
        }
    }

    async fn publish_in_background(self: &Arc<Self>, no: InodeNo) {
        let Ok(inode) = self.table().inode(no) else { return self.disarm(no) };
        let Ok(_turn) = progress::for_anyone(self.background.acquire()).await else { return };
        if let Err(error) = self.publish(&inode, Durability::Async).await {
            tracing::warn!(ino = no.0, %error, "publishing in the background failed; the data is kept");
            inode.data.lock().await.keep_error(error);
        }
        drop(inode);
        self.table().tidy(no);
    }

    /// Writes the times of directories to their markers. Their data is held meanwhile, as by whoever sets attributes: a time
    /// that is set while older ones are on their way comes after them.
    pub(crate) async fn persist_dirs(&self, only: Option<InodeNo>, durability: Durability) {
        let _moves = self.moves.read().await;
        let mut waiting = self.table().dirs_ahead(only);
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(DIR_TIMES_AT_ONCE));
            let dirs = std::mem::replace(&mut waiting, rest);
            let mut held = Vec::with_capacity(dirs.len());
            for dir in &dirs {
                held.push(dir.data.lock().await);
            }
            self.persist_held(&dirs, durability).await;
            drop(held);
            let numbers: Vec<InodeNo> = dirs.iter().map(|dir| dir.no).collect();
            drop(dirs);
            let mut table = self.table();
            for no in numbers {
                table.tidy(no);
            }
        }
    }

    async fn persist_held(&self, dirs: &[Arc<Inode>], durability: Durability) {
        let ahead = self.table().take_ahead(dirs);
        if ahead.is_empty() {
            return;
        }
        let set = |(_, key, mtime, ctime): &(InodeNo, Key, Timestamp, Timestamp)| {
            let patch = AttrPatch { mtime: Some(*mtime), ctime: Some(*ctime), ..AttrPatch::default() };
            Op::SetAttr(SetAttr { key: key.clone(), patch, expect: Precondition::Any, explicit: None })
        };
        let ops: Vec<Op> = ahead.iter().map(set).collect();
        if self.commit(ops.clone(), durability).await.is_err() {
            // One of them was removed elsewhere: the others one by one. Times that are lost are nobody's data.
            for op in ops {
                if let Err(error) = self.commit(vec![op], Durability::Async).await {
                    tracing::debug!(%error, "a directory's times were not persisted");
                }
            }
        }
        let mut table = self.table();
        for (dir, ..) in ahead {
            table.persisted(dir);
        }
    }

    /// Commits operations as this mount.
    pub(crate) async fn commit(&self, ops: Vec<Op>, durability: Durability) -> std::result::Result<Vec<Outcome>, StoreError> {
        let batch = Batch { ops, durability, by: self.config.by.clone(), life: None, again: false };
        self.store.commit(batch).await
    }

    /// Publishes what is unpublished of a file; whether there was anything.
    pub(crate) async fn publish(self: &Arc<Self>, inode: &Inode, durability: Durability) -> Result<bool> {
        let _moves = self.moves.read().await;
        let mut data = inode.data.lock().await;
        self.publish_locked(inode, &mut data, durability).await
    }

    /// The same with [`Vfs::moves`] and the file's data held.
    pub(crate) async fn publish_locked(self: &Arc<Self>, inode: &Inode, data: &mut Data, durability: Durability) -> Result<bool> {
        let (mut tries, mut mends) = (0, 0);
        let result = loop {
            if let Err(error) = self.confirm_locks(inode, data).await {
                break Err(error);
            }
            let (facts, key, pending, patch) = {
                let table = self.table();
                let Ok(node) = table.node(inode.no) else { break Ok(false) };
                if node.unlinked || !(node.pending || node.dirty) {
                    break Ok(false);
                }
                match table.key_of(inode.no) {
                    Ok(key) => (node.facts.clone(), key, node.pending, node.patch.clone()),
                    Err(VfsError::NotFound) => break Ok(false),
                    Err(error) => break Err(error),
                }
            };
            match self.put(inode, data, &facts, &key, pending, &patch, durability).await {
                Ok(()) => break Ok(true),
                Err(VfsError::Conflict(_)) if data.appended_from.is_some() && tries < REBASES_MAX => {
                    tries += 1;
                    if let Err(error) = self.rebase(inode, data, &facts, &key).await {
                        break Err(error);
                    }
                }
                // What it builds on is gone. What was only appended goes behind what is there now.
                Err(error @ VfsError::Corrupt(_)) if !data.content.is_clean() && mends < MENDS_MAX => {
                    mends += 1;
                    let mended = match data.appended_from {
                        Some(_) if mends == 1 => self.rebase(inode, data, &facts, &key).await,
                        Some(_) | None => self.rewrite(inode, data, &key, error).await,
                    };
                    match mended {
                        Err(VfsError::Corrupt(_)) if mends == 1 => {}
                        Err(error) => break Err(error),
                        Ok(()) => {}
                    }
                }
                Err(error) => break Err(error),
            }
        };
        self.account(data);
        match &result {
            Ok(_) => self.disarm(inode.no),
            Err(error) => {
                let at = self.clock.monotonic() + self.config.publish_after;
                self.due().files.insert(inode.no, (at, Some(error.clone())));
            }
        }
        match result.is_ok().then(|| data.lost.take()).flatten() {
            Some(error) => Err(error),
            None => result,
        }
    }

    /// One publication.
    #[allow(clippy::too_many_arguments)]
    async fn put(
        self: &Arc<Self>,
        inode: &Inode,
        data: &mut Data,
        facts: &Facts,
        key: &Key,
        pending: bool,
        patch: &AttrPatch,
        durability: Durability,
    ) -> Result<()> {
        self.fit(data, key).await?;
        let written = self.write_body(inode, data, key).await?;
        let id = self.clock.version_id();
        let put = Put {
            id,
            key: key.clone(),
            meta: self.fields(facts, &written, pending, patch),
            defaults: facts.defaults(),
            data: (facts.kind == Kind::File).then(|| written.data.clone()),
            expect: match (data.appended_from, data.of) {
                (Some(_), Some(base)) => Precondition::Head(base),
                (Some(_), None) if pending => Precondition::Absent,
                (Some(_) | None, _) => Precondition::Any,
            },
            extends: data.extends,
            drops: if data.extends.is_some() { data.rows.garbage.clone() } else { Vec::new() },
            grown: written.grown,
        };
        let mut ops = written.rows;
        ops.push(Op::Put(put));
        let outcome = match self.commit(ops, durability).await {
            Ok(mut outcomes) => outcomes.pop().unwrap_or_default(),
            Err(error) => {
                if error.is_outcome_unknown() {
                    data.extends = Some(id);
                }
                return Err(error.into());
            }
        };
        data.published(durability);
        self.published(
            inode,
            data,
            id,
            &outcome,
            facts,
            patch,
            (written.layout, written.lineage),
            &written.chunks,
            &written.leaves,
        );
        Ok(())
    }

    /// Small content whole, large content in chunks.
    async fn fit(&self, data: &mut Data, key: &Key) -> Result<()> {
        let store = &*self.store;
        let inline_max = layout::inline_bytes_for(key.component());
        match &mut data.content {
            Content::Chunked(chunked) if chunked.size <= inline_max => {
                // Errors of flights do not matter: what they carried is dirty again, and read from memory.
                let _ = chunked.reap(true, &mut data.rows).await;
                let whole = chunked.read(store, 0, chunked.size).await?;
                data.rows.drop_all();
                data.content = Content::Whole(whole.into());
            }
            Content::Whole(bytes) if bytes.len() as u64 > inline_max => {
                let chunk = chunk_for(key.component(), bytes.len() as u64);
                data.content = Content::Chunked(Box::new(Chunked::new(self.clock.lineage(), chunk, bytes)));
            }
            Content::Clean(_) | Content::Whole(_) | Content::Chunked(_) => {}
        }
        Ok(())
    }

    /// Brings the body to the store but for what goes with the [`Put`].
    async fn write_body(self: &Arc<Self>, inode: &Inode, data: &mut Data, key: &Key) -> Result<Written> {
        let dir = key.parent();
        if let Content::Clean(_) = data.content {
            // Only attributes changed since a failure, or a creation without data.
            self.body(inode, data).await?;
            self.thaw(key, data).await?;
        }
        match &mut data.content {
            Content::Clean(_) => Err(VfsError::Stale),
            Content::Whole(bytes) => {
                let shared = Bytes::copy_from_slice(bytes);
                let etag = layout::etag(&shared);
                Ok(Written {
                    data: shared,
                    etag,
                    allocated: None,
                    layout: None,
                    lineage: None,
                    rows: vec![],
                    chunks: vec![],
                    leaves: vec![],
                    grown: None,
                })
            }
            Content::Chunked(chunked) => {
                chunked.reap(true, &mut data.rows).await?;
                while chunked.dirty.values().map(Vec::len).sum::<usize>() > SPILL_BYTES {
                    self.launch(chunked, &dir, true).await;
                    chunked.reap(false, &mut data.rows).await?;
                }
                chunked.reap(true, &mut data.rows).await?;
                Ok(self.last_rows(chunked, &dir))
            }
        }
    }

    /// The rows that go with the [`Put`]: what is still dirty, and the leaves that it touches.
    fn last_rows(&self, chunked: &Chunked, dir: &Prefix) -> Written {
        let manifest = &chunked.manifest;
        let (mut rows, mut chunks, mut leaves) = (Vec::new(), BTreeMap::new(), Vec::new());
        for (&index, bytes) in &chunked.dirty {
            let id = self.clock.version_id();
            rows.push(self.body_row(id, chunked.lineage, dir, Bytes::copy_from_slice(bytes)));
            chunks.insert(index, id);
        }
        let entries = |range: Range<usize>| -> Vec<Option<VersionId>> {
            let mut entries = manifest.entries.get(range.clone()).unwrap_or_default().to_vec();
            for (index, id) in chunks.range(range.clone()) {
                if let Some(entry) = entries.get_mut(index - range.start) {
                    *entry = Some(*id);
                }
            }
            entries
        };
        let count = manifest.entries.len();
        let top: Vec<Option<VersionId>> = if manifest.levels() == 1 {
            entries(0..count)
        } else {
            (0..count.div_ceil(layout::LEAF_ENTRIES))
                .map(|index| {
                    let first = index * layout::LEAF_ENTRIES;
                    let range = first..count.min(first + layout::LEAF_ENTRIES);
                    let touched = chunks.range(range.clone()).next().is_some();
                    let kept = chunked.leaves.get(index).copied().flatten().filter(|_| !touched);
                    if kept.is_some() {
                        return kept;
                    }
                    let entries = entries(range);
                    if entries.iter().all(Option::is_none) {
                        return None;
                    }
                    let id = self.clock.version_id();
                    rows.push(self.body_row(id, chunked.lineage, dir, layout::encode(&entries)));
                    leaves.push((index, id));
                    Some(id)
                })
                .collect()
        };
        let (data, mut grown) = (layout::encode(&top), chunked.grown(&top));
        if let Some(grown) = &mut grown {
            let sent: HashSet<VersionId> = chunks.values().copied().chain(leaves.iter().map(|(_, id)| *id)).collect();
            grown.added.retain(|id| !sent.contains(id));
        }
        let etag = layout::manifest_etag(manifest, chunked.size, &data);
        let added = chunks.keys().filter(|&&index| !manifest.entries.get(index).is_some_and(Option::is_some)).count() as u64;
        let allocated = manifest.allocated(chunked.size) + added * u64::from(manifest.chunk);
        let allocated = Some(allocated).filter(|allocated| *allocated < chunked.size);
        let (layout, lineage) = (Some(manifest.layout()), Some(chunked.lineage));
        Written { data, etag, allocated, layout, lineage, rows, chunks: chunks.into_iter().collect(), leaves, grown }
    }

    fn body_row(&self, id: VersionId, lineage: Lineage, dir: &Prefix, data: Bytes) -> Op {
        Op::Body(BodyRow { id, lineage, dir: dir.clone(), data, mount: self.config.mount_id.clone() })
    }

    /// The fields that a version sets whatever the head says.
    fn fields(
        &self,
        facts: &Facts,
        written: &Written,
        pending: bool,
        patch: &AttrPatch,
    ) -> serde_json::Map<String, serde_json::Value> {
        let meta = Meta {
            kind: facts.kind,
            size: facts.size,
            etag: Some(written.etag.clone()),
            allocated: written.allocated,
            mtime: Some(facts.mtime),
            ctime: Some(facts.ctime),
            layout: written.layout,
            lineage: written.lineage,
            mode: patch.mode,
            uid: patch.uid,
            gid: patch.gid,
            atime: patch.atime,
            ino: pending.then_some(facts.ino),
            ..Meta::default()
        };
        let mut fields = meta.to_json();
        if !patch.xattrs.is_empty() {
            let all = facts.defaults().remove("xattrs");
            fields.insert("xattrs".into(), all.unwrap_or_else(|| serde_json::json!({})));
        }
        fields
    }

    /// After a publication: the content is that of the new row.
    #[allow(clippy::too_many_arguments)]
    fn published(
        &self,
        inode: &Inode,
        data: &mut Data,
        id: VersionId,
        outcome: &Outcome,
        facts: &Facts,
        patch: &AttrPatch,
        (layout, lineage): (Option<Layout>, Option<Lineage>),
        chunks: &[(usize, VersionId)],
        leaves: &[(usize, VersionId)],
    ) {
        data.content = match std::mem::take(&mut data.content) {
            Content::Clean(body) => Content::Clean(body),
            Content::Whole(bytes) => {
                let part = pgfiles_store::store::Part { id, lineage: None, offset: 0, len: 0 };
                Content::Clean(Some(Body::Inline { part, size: bytes.len() as u64, data: Some(bytes.into()) }))
            }
            Content::Chunked(mut chunked) => {
                // A leaf that was touched only now, by the last chunks, is replaced as well.
                for &(index, _) in leaves {
                    data.rows.drop_row(chunked.leaves.get_mut(index).and_then(Option::take));
                }
                for &(index, id) in chunks {
                    data.rows.add(id);
                    if let Some(entry) = chunked.manifest.entries.get_mut(index) {
                        *entry = Some(id);
                    }
                }
                if chunked.manifest.levels() == 2 {
                    chunked.leaves.resize(chunked.manifest.entries.len().div_ceil(layout::LEAF_ENTRIES), None);
                    for &(index, id) in leaves {
                        data.rows.add(id);
                        if let Some(leaf) = chunked.leaves.get_mut(index) {
                            *leaf = Some(id);
                        }
                    }
                } else {
                    chunked.leaves.clear();
                }
                Content::Clean(Some(Body::Chunked {
                    lineage: chunked.lineage,
                    manifest: Arc::new(chunked.manifest),
                    leaves: chunked.leaves.into(),
                    size: chunked.size,
                }))
            }
        };
        let mut table = self.table();
        let Ok(node) = table.node_mut(inode.no) else { return };
        let fresh = match &outcome.head {
            Some(head) => Facts { ino: facts.ino, ..Facts::of_head(head) },
            None => Facts { row: Some((id, pgfiles_store::VersionNo(0))), layout, lineage, body: None, ..facts.clone() },
        };
        if node.kept == data.of {
            node.kept = Some(id);
        }
        node.facts = fresh;
        node.pending = false;
        node.dirty = false;
        debug_assert!(node.patch == *patch, "attributes are set with the data held");
        node.patch = AttrPatch::default();
        table.touch(inode.no);
        drop(table);
        data.of = Some(id);
        data.trivial = false;
        data.told = false;
        data.appended_from = None;
        data.rows.garbage.clear();
        data.extends = (data.writers > 0).then_some(id);
        if data.extends.is_none() {
            data.rows.forget();
        }
    }

    /// Another client wrote meanwhile: what was appended here goes behind what is there now.
    async fn rebase(&self, inode: &Inode, data: &mut Data, facts: &Facts, key: &Key) -> Result<()> {
        let Some(from) = data.appended_from else { return Ok(()) };
        // Not through the cache, which may still believe in the head that was.
        let head = self.store.versions(key, None, 1).await?.into_iter().next();
        let head = head.filter(|head| head.is_live() && head.meta.kind == Kind::File);
        data.extends = None;
        data.rows.forget();
        let Some(head) = head else {
            // Deleted: what is here is all there is.
            data.appended_from = None;
            return Ok(());
        };
        let body = Body::open(&*self.store, &head).await?;
        let old = std::mem::take(&mut data.content);
        data.of = Facts::of_head(&head).content();
        let (base, mut at, mut moved) = (body.size(), from, Ok(()));
        data.content = Content::Clean(Some(body));
        while at < facts.size && moved.is_ok() {
            let piece = read_dirty(&old, &*self.store, at, 1 << 20).await;
            moved = match piece {
                Ok(piece) if piece.is_empty() => break,
                Ok(piece) => {
                    let to = base + (at - from);
                    at += piece.len() as u64;
                    self.modify(key, data, to, &piece).await
                }
                Err(error) => Err(error),
            };
        }
        if let Err(error) = moved {
            data.content = old;
            data.of = facts.content();
            return Err(error);
        }
        data.appended_from = Some(base);
        let size = base + (facts.size - from);
        let mut table = self.table();
        if let Ok(node) = table.node_mut(inode.no) {
            // Not a creation any more: the file is theirs, with their attributes.
            node.dirty |= std::mem::take(&mut node.pending);
            node.facts = Facts {
                size,
                mtime: facts.mtime.max(head.meta.mtime.unwrap_or_default()),
                ctime: facts.ctime,
                ..Facts::of_head(&head)
            };
            node.facts.ino = facts.ino;
            let patch = node.patch.clone();
            node.facts.apply(&patch);
            node.kept = None;
        }
        drop(table);
        if let Some(kernel) = self.kernel.get() {
            kernel.inode(inode.no);
        }
        Ok(())
    }

    /// Sends changed chunks ahead of the publication.
    pub(crate) async fn launch(&self, chunked: &mut Chunked, dir: &Prefix, all: bool) {
        let wanted = chunked.to_spill(all);
        if wanted.is_empty() {
            return;
        }
        let Ok(permit) = progress::for_anyone(self.spills.clone().acquire_owned()).await else { return };
        let (mut ops, mut chunks) = (Vec::new(), Vec::new());
        for index in wanted {
            let Some(bytes) = chunked.dirty.remove(&index) else { continue };
            let (id, bytes) = (self.clock.version_id(), Bytes::from(bytes));
            ops.push(self.body_row(id, chunked.lineage, dir, bytes.clone()));
            chunked.flying.insert(index, (id, bytes));
            chunks.push((index, id));
        }
        let batch = Batch { ops, durability: Durability::Async, by: self.config.by.clone(), life: None, again: false };
        let store = self.store.clone();
        let task = self.runtime.spawn(async move {
            let sent = store.commit(batch).await.map(drop);
            drop(permit);
            sent
        });
        chunked.flights.push_back(Flight { task, chunks });
    }

    /// Counts the bytes that a file holds.
    pub(crate) fn account(&self, data: &mut Data) {
        let now = data.content.dirty_bytes();
        let before = std::mem::replace(&mut data.accounted, now);
        self.dirty_bytes.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Makes room for more unpublished bytes where there is none: the files that have waited longest are sent, each at most
    /// once, because what stays may be the content of files that have no name any more.
    pub(crate) async fn make_room(self: &Arc<Self>) -> Result<()> {
        if self.dirty_bytes.load(Ordering::Relaxed) <= self.config.dirty_bytes_max {
            return Ok(());
        }
        let mut waiting: Vec<(Instant, InodeNo)> = self.due().files.iter().map(|(no, (at, _))| (*at, *no)).collect();
        waiting.sort_unstable();
        for (_, no) in waiting {
            if self.dirty_bytes.load(Ordering::Relaxed) <= self.config.dirty_bytes_max {
                break;
            }
            let Ok(inode) = self.table().inode(no) else {
                self.disarm(no);
                continue;
            };
            self.relieve(&inode).await?;
        }
        Ok(())
    }

    /// Gets a file's bytes out of memory: chunks are sent, small content is published.
    async fn relieve(self: &Arc<Self>, inode: &Inode) -> Result<()> {
        let _moves = self.moves.read().await;
        let mut data = inode.data.lock().await;
        let data = &mut *data;
        if let Content::Chunked(chunked) = &mut data.content {
            let dir = self.table().key_of(inode.no).map_or_else(|_| self.config.prefix.clone(), |key| key.parent());
            while !chunked.to_spill(true).is_empty() {
                self.launch(chunked, &dir, true).await;
            }
            chunked.reap(true, &mut data.rows).await?;
            self.account(data);
            let at = self.clock.monotonic() + self.config.publish_after;
            self.due().files.insert(inode.no, (at, None));
            return Ok(());
        }
        self.publish_locked(inode, data, Durability::Async).await?;
        Ok(())
    }

    /// Publishes everything, or what lies at or below a key, and returns when it is on the server's disk.
    ///
    /// # Errors
    /// The first failure; everything else is published nevertheless.
    pub async fn flush(self: &Arc<Self>, under: Option<&Key>) -> Result<()> {
        let files: Vec<InodeNo> = self.due().files.keys().copied().collect();
        let mut outcome = Ok(());
        for no in files {
            let (inode, key) = {
                let mut table = self.table();
                (table.inode(no), table.key_of(no))
            };
            let (Ok(inode), Ok(key)) = (inode, key) else {
                self.disarm(no);
                continue;
            };
            let within = under.is_none_or(|under| key == under.as_file() || under.as_dir().contains(&key));
            if within && let Err(error) = self.publish(&inode, Durability::Async).await {
                outcome = outcome.and(Err(error));
            }
        }
        self.persist_dirs(None, Durability::Sync).await;
        self.store.sync().await?;
        outcome
    }

    /// Publishes everything and stops. Operations that come later still work; only nothing publishes by itself.
    ///
    /// # Errors
    /// As [`Vfs::flush`].
    pub async fn shutdown(self: &Arc<Self>) -> Result<()> {
        let outcome = self.flush(None).await;
        if outcome.is_ok() {
            self.closing.store(true, Ordering::Relaxed);
            self.due_changed.notify_one();
        }
        outcome
    }
}

/// Bytes of changed content.
pub(crate) async fn read_dirty(content: &Content, store: &dyn pgfiles_store::Store, offset: u64, len: u64) -> Result<Bytes> {
    match content {
        Content::Clean(Some(body)) => Ok(body.read(store, offset, len).await?),
        Content::Clean(None) => Ok(Bytes::new()),
        Content::Whole(bytes) => {
            let end = (offset + len).min(bytes.len() as u64) as usize;
            Ok(Bytes::copy_from_slice(bytes.get(offset as usize..end).unwrap_or_default()))
        }
        Content::Chunked(chunked) => chunked.read(store, offset, len).await,
    }
}

/// Whether an error says that a name is taken.
pub(crate) fn is_conflict(error: &StoreError) -> bool {
    error.kind() == StoreKind::Conflict
}
