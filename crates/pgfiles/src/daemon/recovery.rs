//! What is unsaved and cannot be committed, kept in a directory of the user's as a batch that can be committed later: first
//! what was committed and may be forgotten by a server that crashed, then the operations that were queued, then the files
//! that were not published. Lines of the first two name the rows that they make, so that what has been committed after all
//! is not committed twice.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use pgfiles_store::batch::{Batch, Op, Put, SetAttr};
use pgfiles_store::version::AttrPatch;
use pgfiles_store::{Kind, Meta, Prefix, VersionId, layout};
use pgfiles_vfs::KeptFile;
use serde_json::{Map, Value, json};

use super::serve::Daemon;
use super::unmount::FORCE_WAIT;
use crate::exit::{Failure, Result};

/// The batch, beside the contents.
const LIST: &str = "operations.jsonl";

impl Daemon {
    /// Keeps what is unsaved; `None` where there was nothing. Unless it is the `last` chance, the mount goes on where
    /// not everything can be kept.
    ///
    /// # Errors
    /// What could not be kept; the directory cannot be written to.
    pub(super) async fn recover(&self, last: bool) -> Result<Option<String>> {
        let dir = self.recovery_dir()?;
        let kept = self.vfs.recover(&dir, FORCE_WAIT).await;
        let mut steps = Steps::new(&self.settings.prefix, &dir);
        for batch in self.stack.log.retained() {
            steps.add_batch(&batch);
        }
        for what in std::mem::take(&mut steps.lost) {
            // It is on the server, unless that crashed.
            tracing::warn!(%what, "was committed a moment ago and is not kept");
        }
        for batch in self.stack.log.pending() {
            steps.add_batch(&batch);
        }
        for file in &kept.files {
            steps.add_file(file);
        }
        let mut lost = std::mem::take(&mut steps.lost);
        lost.extend(kept.lost);
        if !lost.is_empty() && !last {
            self.vfs.take_heart();
            let _ = std::fs::remove_dir_all(&dir);
            return Err(Failure::failed(format!("not everything can be kept ({}); the mount is up", lost.join("; "))));
        }
        for lost in &lost {
            tracing::error!(what = %lost, "could be neither committed nor kept");
        }
        let steps = steps.lines;
        if steps.is_empty() {
            // The directory of all recoveries as well, unless it holds others.
            let _ = std::fs::remove_dir(&dir).and_then(|()| dir.parent().map_or(Ok(()), std::fs::remove_dir));
        } else {
            let list = dir.join(LIST);
            let text: String = steps.iter().map(|step| format!("{step}\n")).collect();
            std::fs::write(&list, text).map_err(|error| Failure::io(format!("cannot write {}", list.display()), &error))?;
            tracing::error!(dir = %dir.display(), operations = steps.len(), "what could not be committed is kept there");
            // What is kept must not be committed as well.
            self.stack.log.discard();
        }
        if !lost.is_empty() {
            let (lost, kept) = (lost.len(), steps.len());
            let why = format!("{lost} changes could be neither committed nor kept, {kept} are in {}", dir.display());
            return Err(Failure::failed(why));
        }
        Ok((!steps.is_empty()).then(|| dir.to_string_lossy().into_owned()))
    }
}

/// What a batch may set of a change of attributes.
fn settable(patch: &AttrPatch) -> Map<String, Value> {
    AttrPatch { ctime: None, content_type: None, tags: BTreeMap::new(), ..patch.clone() }.to_json()
}

/// Operations as lines of a batch.
struct Steps<'a> {
    prefix: &'a Prefix,
    dir: &'a Path,
    /// Body rows on their way, by id.
    bodies: HashMap<VersionId, bytes::Bytes>,
    lines: Vec<Value>,
    /// Contents written.
    contents: usize,
    lost: Vec<String>,
}

impl<'a> Steps<'a> {
    fn new(prefix: &'a Prefix, dir: &'a Path) -> Self {
        Self { prefix, dir, bodies: HashMap::new(), lines: Vec::new(), contents: 0, lost: Vec::new() }
    }

    fn path<'k>(&self, key: &'k str) -> &'k str {
        key.strip_prefix(self.prefix.as_str()).unwrap_or(key)
    }

    fn add_file(&mut self, kept: &KeptFile) {
        let (path, attrs) = (self.path(kept.key.as_str()), settable(&kept.attributes));
        let line = match &kept.content {
            Some(file) => json!({"op": "put", "path": path, "file": file.to_string_lossy(), "attrs": attrs}),
            None => json!({"op": "attr", "path": path, "attrs": attrs}),
        };
        self.lines.push(line);
    }

    fn add_batch(&mut self, batch: &Batch) {
        for op in &batch.ops {
            self.add(op);
        }
    }

    fn add(&mut self, op: &Op) {
        let mut line = match op {
            Op::Body(body) => {
                self.bodies.insert(body.id, body.data.clone());
                return;
            }
            Op::SetAttr(op) => return self.add_attributes(op),
            Op::Put(put) => match self.put(put) {
                Ok(line) => line,
                Err(why) => return self.lost.push(format!("{}: {why}", put.key)),
            },
            Op::Delete(op) => json!({"op": "delete", "path": self.path(op.key.as_str())}),
            Op::RemoveDir(op) => json!({"op": "delete", "path": self.path(op.dir.as_str()), "recursive": op.recursive}),
            Op::Rename(op) => json!({"op": "move", "path": self.path(op.from.as_str()), "to": self.path(op.to.as_str())}),
            Op::RenameDir(op) => json!({"op": "move", "path": self.path(op.from.as_str()), "to": self.path(op.to.as_str())}),
            Op::Exchange(op) => {
                let (from, to) = (self.path(op.from.as_str()).to_owned(), self.path(op.to.as_str()).to_owned());
                let via = format!("{from}.{}", op.id.0.simple());
                let steps = [(&from, &via), (&to, &from), (&via, &to)];
                self.lines.extend(steps.map(|(path, to)| json!({"op": "move", "path": path, "to": to})));
                return;
            }
            // `batch` knows no links: the content is what matters.
            Op::Link(op) => json!({"op": "copy", "path": self.path(op.from.as_str()), "to": self.path(op.to.as_str())}),
            Op::Copy(op) => match op.version {
                Some(version) => {
                    json!({"op": "copy", "path": self.path(op.from.as_str()), "to": self.path(op.to.as_str()), "version": version.0})
                }
                None => json!({"op": "copy", "path": self.path(op.from.as_str()), "to": self.path(op.to.as_str())}),
            },
            Op::Restore(op) => json!({"op": "restore", "path": self.path(op.key.as_str()), "version": op.version.0}),
            Op::RestoreDir(op) => return self.lost.push(format!("{}: a restore of a directory", op.dir)),
        };
        if let Some(id) = op.witness() {
            line["id"] = id.to_string().into();
        }
        self.lines.push(line);
    }

    fn add_attributes(&mut self, op: &SetAttr) {
        let path = self.path(op.key.as_str());
        let attrs = settable(&op.patch);
        let tags = op.patch.to_json().remove("tags");
        let lines = [
            (!attrs.is_empty()).then(|| json!({"op": "attr", "path": path, "attrs": attrs})),
            tags.map(|tags| json!({"op": "tag", "path": path, "tags": tags})),
        ];
        self.lines.extend(lines.into_iter().flatten());
    }

    fn put(&mut self, put: &Put) -> std::result::Result<Value, String> {
        let mut fields = put.defaults.clone();
        fields.extend(put.meta.clone());
        let meta = Meta::parse(Value::Object(fields));
        let xattrs = meta.xattrs.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
        let set = AttrPatch {
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime,
            atime: meta.atime,
            xattrs,
            ..AttrPatch::default()
        };
        let (path, attrs) = (self.path(put.key.as_str()), settable(&set));
        match meta.kind {
            Kind::Dir => Ok(json!({"op": "mkdir", "path": path.trim_end_matches('/'), "attrs": attrs})),
            Kind::File => {
                let bytes = self.content(put, &meta)?;
                let file = self.keep(&bytes)?;
                Ok(json!({"op": "put", "path": path, "file": file.to_string_lossy(), "attrs": attrs}))
            }
            Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => Err("neither a file nor a directory".into()),
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> std::result::Result<PathBuf, String> {
        self.contents += 1;
        let file = self.dir.join(format!("queued-{:06}", self.contents));
        std::fs::write(&file, bytes).map_err(|error| crate::exit::plain(&error))?;
        Ok(file)
    }

    /// The whole content, where all of it is on its way.
    fn content(&self, put: &Put, meta: &Meta) -> std::result::Result<BytesMut, String> {
        let data = put.data.clone().unwrap_or_default();
        let Some(found) = meta.layout else { return Ok(BytesMut::from(&data[..])) };
        let elsewhere = || "parts of it are only on the server".to_owned();
        let ids = |bytes: &[u8]| layout::decode(bytes).ok_or_else(|| "a manifest that cannot be read".to_owned());
        let mut chunks = ids(&data)?;
        if found.levels > 1 {
            let leaves = std::mem::take(&mut chunks);
            for leaf in leaves {
                match leaf {
                    Some(leaf) => chunks.extend(ids(self.bodies.get(&leaf).ok_or_else(elsewhere)?)?),
                    None => chunks.extend([None; layout::LEAF_ENTRIES]),
                }
            }
        }
        let mut out = BytesMut::new();
        for (index, chunk) in chunks.iter().enumerate() {
            if let Some((row, skip)) = chunk.map(layout::row_of) {
                let bytes = self.bodies.get(&row).ok_or_else(elsewhere)?;
                let bytes = bytes.get(skip as usize..).unwrap_or_default();
                out.extend_from_slice(&bytes[..bytes.len().min(found.chunk as usize)]);
            }
            let end = (index as u64 + 1) * u64::from(found.chunk);
            out.resize(usize::try_from(end.min(meta.size)).map_err(|_| elsewhere())?, 0);
        }
        out.resize(usize::try_from(meta.size).map_err(|_| elsewhere())?, 0);
        Ok(out)
    }
}
