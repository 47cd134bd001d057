//! Contents of any size, read once and sent on the way: small ones as one row, others in chunks that are committed ahead of the
//! version that refers to them, as a mount does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use pgfiles_store::batch::{Batch, BodyRow, Durability, Op, Outcome, Put, SetAttr};
use pgfiles_store::layout::{self, Manifest};
use pgfiles_store::store::HEARTBEAT_SECONDS;
use pgfiles_store::version::{AttrPatch, Lineage, Timestamp, VersionId};
use pgfiles_store::{Head, Key, Kind, Meta, Precondition};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{AT_ONCE, Files};
use crate::exit::{Failure, Result};
use crate::service::content::content_type_of;

/// Bytes of chunks in one commit: buffers of a request cost twice the next power of two.
const COMMIT_BYTES: usize = (1 << 20) - (128 << 10);

/// What a new version says of its file besides the content; what is not given is passed on by the version before.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Attributes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Now, where nothing is said.
    pub mtime: Option<Timestamp>,
    /// Guessed from the name, where nothing is said.
    pub content_type: Option<String>,
    /// Besides those that the file has.
    pub tags: BTreeMap<String, String>,
    pub rdev: Option<u64>,
    /// Of a symlink, as stored.
    pub target: Option<String>,
}

/// What a file's content is.
struct Content {
    data: Bytes,
    size: u64,
    etag: String,
    chunks: Option<(Manifest, Lineage)>,
}

impl Files {
    /// The operation that makes a small content the head of its key.
    ///
    /// # Errors
    /// The key's directory cannot be written to.
    pub(super) fn small(&self, key: &Key, data: Bytes, attributes: &Attributes, expect: Precondition) -> Op {
        let (size, etag) = (data.len() as u64, layout::etag(&data));
        self.operation(key, Kind::File, Some(Content { data, size, etag, chunks: None }), attributes, expect)
    }

    /// The operation that makes a directory, symlink or special file.
    pub(super) fn node(&self, key: &Key, kind: Kind, attributes: &Attributes) -> Op {
        self.operation(key, kind, None, attributes, Precondition::Any)
    }

    fn operation(&self, key: &Key, kind: Kind, content: Option<Content>, attributes: &Attributes, expect: Precondition) -> Op {
        let now = self.clock.now();
        let mut meta = Meta { kind, mtime: Some(attributes.mtime.unwrap_or(now)), ctime: Some(now), ..Meta::default() };
        let mut names = vec!["kind", "mtime", "ctime"];
        let mut named = |name, given: bool| {
            if given {
                names.push(name)
            }
        };
        (meta.mode, meta.uid, meta.gid) = (attributes.mode, attributes.uid, attributes.gid);
        named("mode", meta.mode.is_some());
        named("uid", meta.uid.is_some());
        named("gid", meta.gid.is_some());
        (meta.rdev, meta.target) = (attributes.rdev, attributes.target.clone());
        named("rdev", meta.rdev.is_some());
        named("target", meta.target.is_some());
        let mut data = None;
        if let Some(content) = content {
            meta.size = content.size;
            meta.etag = Some(content.etag);
            meta.content_type = attributes.content_type.clone().or_else(|| content_type_of(key.component()).map(str::to_owned));
            ["size", "etag", "content_type"].into_iter().for_each(|name| named(name, true));
            if let Some((manifest, lineage)) = content.chunks {
                (meta.layout, meta.lineage) = (Some(manifest.layout()), Some(lineage));
                meta.allocated = Some(manifest.allocated(content.size)).filter(|allocated| *allocated < content.size);
                ["layout", "lin", "allocated"].into_iter().for_each(|name| named(name, true));
            }
            data = Some(content.data);
        } else if let Some(target) = &meta.target {
            meta.size = pgfiles_store::key::unescape(target).len() as u64;
            named("size", true);
        }
        let defaults = Meta { ino: Some(self.clock.ino()), ..Meta::default() };
        Op::Put(Put {
            id: self.clock.version_id(),
            meta: pgfiles_store::batch::fields(&meta, &names),
            defaults: pgfiles_store::batch::fields(&defaults, &["ino"]),
            key: key.clone(),
            data,
            expect,
            extends: None,
            drops: Vec::new(),
            grown: None,
        })
    }

    /// Commits operations together.
    ///
    /// # Errors
    /// What the store says.
    pub(super) async fn commit(&self, ops: Vec<Op>, durability: Durability) -> pgfiles_store::Result<Vec<Outcome>> {
        let batch = Batch { ops, durability, by: self.by.clone(), life: None, again: false };
        self.store.commit(batch).await
    }

    /// Reads a content to its end and makes it the head of its key; on the server's disk when it returns. `sent` is told of bytes
    /// on the way. What fails, or is dropped, changes nothing: rows that were sent are swept.
    ///
    /// # Errors
    /// The source's, the precondition's, the store's.
    pub async fn put(
        &self,
        key: &Key,
        source: &mut (dyn AsyncRead + Unpin + Send),
        attributes: &Attributes,
        expect: Precondition,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<Head> {
        let unreadable = |error: std::io::Error| Failure::io("cannot read the content", &error);
        let chunk = layout::chunk_bytes_for(key.component());
        let mut first = BytesMut::new();
        fill(source, &mut first, layout::INLINE_BYTES_MAX as usize + 1).await.map_err(unreadable)?;
        let content = if first.len() as u64 <= layout::INLINE_BYTES_MAX {
            sent(first.len() as u64);
            let data = first.freeze();
            let (size, etag) = (data.len() as u64, layout::etag(&data));
            Content { data, size, etag, chunks: None }
        } else {
            let mut upload = Upload::new(self, key, chunk);
            let mut buffer = first;
            loop {
                fill(source, &mut buffer, COMMIT_BYTES).await.map_err(unreadable)?;
                let is_last = buffer.len() < COMMIT_BYTES;
                let whole = if is_last { buffer.len() } else { buffer.len() / chunk as usize * chunk as usize };
                let part = buffer.split_to(whole).freeze();
                sent(part.len() as u64);
                upload.add(part).await?;
                if is_last {
                    break;
                }
            }
            upload.end().await?
        };
        let op = self.operation(key, Kind::File, Some(content), attributes, expect);
        let ops = [op].into_iter().chain(tagged(key, attributes)).collect();
        let outcome = self.commit(ops, Durability::Sync).await?.into_iter().next();
        outcome.and_then(|outcome| outcome.head).ok_or_else(|| Failure::failed("the server says nothing of the new version"))
    }
}

/// The operation that adds the tags, where there are any.
pub(super) fn tagged(key: &Key, attributes: &Attributes) -> Option<Op> {
    let tags = attributes.tags.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
    let patch = AttrPatch { tags, ..AttrPatch::default() };
    let op = SetAttr { key: key.clone(), patch, expect: Precondition::Any, explicit: None };
    (!attributes.tags.is_empty()).then_some(Op::SetAttr(op))
}

/// Reads until the buffer has so many bytes, or the end.
async fn fill(source: &mut (dyn AsyncRead + Unpin + Send), buffer: &mut BytesMut, len: usize) -> std::io::Result<()> {
    buffer.reserve(len.saturating_sub(buffer.len()));
    while buffer.len() < len {
        let room = (len - buffer.len()) as u64;
        if (&mut *source).take(room).read_buf(buffer).await? == 0 {
            return Ok(());
        }
    }
    Ok(())
}

/// Chunks on their way.
struct Upload<'f> {
    files: &'f Files,
    key: &'f Key,
    lineage: Lineage,
    manifest: Manifest,
    size: u64,
    kept: Instant,
    under_way: FuturesUnordered<futures_util::future::BoxFuture<'f, pgfiles_store::Result<Vec<Outcome>>>>,
}

impl<'f> Upload<'f> {
    fn new(files: &'f Files, key: &'f Key, chunk: u32) -> Self {
        let (lineage, manifest) = (files.clock.lineage(), Manifest { chunk, entries: Vec::new() });
        Self { files, key, lineage, manifest, size: 0, kept: files.clock.monotonic(), under_way: FuturesUnordered::new() }
    }

    fn row(&self, data: Bytes) -> (VersionId, Op) {
        let id = self.files.clock.version_id();
        let (dir, mount) = (self.key.parent(), self.files.mount.clone());
        (id, Op::Body(BodyRow { id, lineage: self.lineage, dir, data, mount }))
    }

    /// Whole chunks, or the last bytes. Chunks of zeros are holes.
    async fn add(&mut self, part: Bytes) -> Result<()> {
        self.size += part.len() as u64;
        if self.size > layout::FILE_BYTES_MAX {
            return Err(Failure::usage("a file has at most 8 TiB"));
        }
        let chunk = self.manifest.chunk as usize;
        let mut ops = Vec::new();
        for start in (0..part.len()).step_by(chunk) {
            let piece = part.slice(start..part.len().min(start + chunk));
            let entry = piece.iter().any(|byte| *byte != 0).then(|| self.row(piece));
            self.manifest.entries.push(entry.as_ref().map(|(id, _)| *id));
            ops.extend(entry.map(|(_, op)| op));
        }
        self.send(ops).await
    }

    async fn send(&mut self, ops: Vec<Op>) -> Result<()> {
        let now = self.files.clock.monotonic();
        if now.saturating_duration_since(self.kept) >= Duration::from_secs(HEARTBEAT_SECONDS) {
            self.files.keep.keep(&self.files.fence, &self.files.mount).await?;
            self.kept = now;
        }
        if !ops.is_empty() {
            let files = self.files;
            self.under_way.push(Box::pin(async move { files.commit(ops, Durability::Async).await }));
        }
        while self.under_way.len() >= AT_ONCE {
            self.under_way.next().await.transpose()?;
        }
        Ok(())
    }

    async fn end(mut self) -> Result<Content> {
        let mut root = layout::encode(&self.manifest.entries);
        if self.manifest.levels() == 2 {
            let mut leaves = Vec::new();
            let entries = std::mem::take(&mut self.manifest.entries);
            for part in entries.chunks(layout::LEAF_ENTRIES) {
                let leaf = part.iter().any(Option::is_some).then(|| self.row(layout::encode(part)));
                leaves.push(leaf.as_ref().map(|(id, _)| *id));
                self.send(leaf.into_iter().map(|(_, op)| op).collect()).await?;
            }
            self.manifest.entries = entries;
            root = layout::encode(&leaves);
        }
        while let Some(sent) = self.under_way.next().await {
            sent?;
        }
        let etag = layout::manifest_etag(&self.manifest, self.size, &root);
        Ok(Content { data: root, size: self.size, etag, chunks: Some((self.manifest, self.lineage)) })
    }
}
