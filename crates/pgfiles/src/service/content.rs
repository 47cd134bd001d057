//! Whole contents as operations: inline where they are small, else in chunks. Pure but for ids.

use std::sync::Arc;

use bytes::Bytes;
use pgfiles_store::batch::{BodyRow, Op, Precondition, Put};
use pgfiles_store::clock::Clock;
use pgfiles_store::layout::{self, Manifest};
use pgfiles_store::version::{Lineage, VersionId};
use pgfiles_store::{Key, Kind, Meta};

/// What is written, and where.
#[derive(Debug)]
pub struct Content {
    /// A file's key.
    pub key: Key,
    /// All of it.
    pub data: Bytes,
    /// As given; guessed from the name where `None`.
    pub content_type: Option<String>,
    /// Checked against the head.
    pub expect: Precondition,
}

/// The operations that make `content` the head of its key; the last is the [`Op::Put`].
pub fn put(content: Content, mount: &Arc<str>, clock: &dyn Clock) -> Vec<Op> {
    let Content { key, data, content_type, expect } = content;
    let now = clock.now();
    let size = data.len() as u64;
    let guess = || content_type_of(key.component()).map(str::to_owned);
    let mut meta = Meta { kind: Kind::File, size, mtime: Some(now), ctime: Some(now), ..Meta::default() };
    meta.content_type = content_type.or_else(guess);
    let mut ops = Vec::new();
    let body = if size <= layout::INLINE_BYTES_MAX {
        meta.etag = Some(layout::etag(&data));
        data
    } else {
        let lineage = clock.lineage();
        let mut rows = Rows { ops: &mut ops, lineage, key: &key, mount, clock };
        let manifest = rows.chunks(&data);
        let root = rows.root(&manifest);
        meta.etag = Some(layout::manifest_etag(&manifest, size, &root));
        meta.layout = Some(manifest.layout());
        meta.lineage = Some(lineage);
        root
    };
    let defaults = Meta { ino: Some(clock.ino()), ..Meta::default() };
    ops.push(Op::Put(Put {
        id: clock.version_id(),
        meta: pgfiles_store::batch::fields(&meta, &["kind", "size", "etag", "content_type", "mtime", "ctime", "layout", "lin"]),
        defaults: pgfiles_store::batch::fields(&defaults, &["ino"]),
        key,
        data: Some(body),
        expect,
        extends: None,
        drops: Vec::new(),
        grown: None,
    }));
    ops
}

/// The body rows of one content.
struct Rows<'a> {
    ops: &'a mut Vec<Op>,
    lineage: Lineage,
    key: &'a Key,
    mount: &'a Arc<str>,
    clock: &'a dyn Clock,
}

impl Rows<'_> {
    fn row(&mut self, data: Bytes) -> VersionId {
        let id = self.clock.version_id();
        let (lineage, dir, mount) = (self.lineage, self.key.parent(), self.mount.clone());
        self.ops.push(Op::Body(BodyRow { id, lineage, dir, data, mount }));
        id
    }

    /// A row per chunk that is not all zeros.
    fn chunks(&mut self, data: &Bytes) -> Manifest {
        let chunk = layout::chunk_bytes_for(self.key.component());
        let mut manifest = Manifest::hole(chunk, data.len() as u64);
        for (index, entry) in manifest.entries.iter_mut().enumerate() {
            let start = index * chunk as usize;
            let part = data.slice(start..data.len().min(start + chunk as usize));
            if part.iter().any(|&byte| byte != 0) {
                *entry = Some(self.row(part));
            }
        }
        manifest
    }

    /// The `data` of the version's row: the manifest, or the ids of the leaves that hold it.
    fn root(&mut self, manifest: &Manifest) -> Bytes {
        if manifest.levels() == 1 {
            return layout::encode(&manifest.entries);
        }
        let leaf = |rows: &mut Self, part: &[Option<VersionId>]| {
            part.iter().any(Option::is_some).then(|| rows.row(layout::encode(part)))
        };
        let leaves: Vec<_> = manifest.entries.chunks(layout::LEAF_ENTRIES).map(|part| leaf(self, part)).collect();
        layout::encode(&leaves)
    }
}

/// The MIME type that a name suggests; the list is that of the trigger in SQL.
pub fn content_type_of(component: &str) -> Option<&'static str> {
    const TYPES: [(&str, &str); 20] = [
        ("txt", "text/plain"),
        ("log", "text/plain"),
        ("md", "text/markdown"),
        ("html", "text/html"),
        ("htm", "text/html"),
        ("css", "text/css"),
        ("csv", "text/csv"),
        ("js", "text/javascript"),
        ("json", "application/json"),
        ("xml", "application/xml"),
        ("yaml", "application/yaml"),
        ("yml", "application/yaml"),
        ("pdf", "application/pdf"),
        ("zip", "application/zip"),
        ("gz", "application/gzip"),
        ("png", "image/png"),
        ("jpg", "image/jpeg"),
        ("jpeg", "image/jpeg"),
        ("gif", "image/gif"),
        ("svg", "image/svg+xml"),
    ];
    let (stem, end) = component.rsplit_once('.')?;
    let end = end.to_ascii_lowercase();
    TYPES.iter().find(|(name, _)| !stem.is_empty() && *name == end).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgfiles_store::clock::SystemClock;

    fn ops(len: usize) -> Vec<Op> {
        let key = Key::new("a/b.json").unwrap();
        let content = Content { key, data: vec![7; len].into(), content_type: None, expect: Precondition::Any };
        put(content, &"m".into(), &SystemClock)
    }

    #[test]
    fn small_contents_are_one_row() {
        let all = ops(100);
        let [Op::Put(put)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(put.meta["content_type"], "application/json");
        assert_eq!(put.meta["size"], 100);
    }

    #[test]
    fn large_contents_are_chunks_and_a_manifest() {
        let all = ops(1 << 20);
        assert_eq!(all.len(), 8 + 1);
        let Some(Op::Put(put)) = all.last() else { panic!() };
        assert_eq!(put.data.as_ref().unwrap().len(), 8 * 16);
        assert_eq!(put.meta["layout"]["levels"], 1);
    }

    #[test]
    fn zeros_take_no_row() {
        let key = Key::new("z").unwrap();
        let content = Content { key, data: vec![0; 1 << 20].into(), content_type: None, expect: Precondition::Any };
        assert_eq!(put(content, &"m".into(), &SystemClock).len(), 1);
    }
}
