//! Versions: ids, numbers, and the fields of `meta` (docs/schema.md lists them all).
//!
//! Reading is total: a row that plain SQL wrote with absurd `meta` still parses; what cannot be believed is named in
//! [`Meta::fault`] and makes that one file unreadable, nothing else. Unknown fields are carried along in
//! [`Meta::other`].

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::field::Field;
use crate::key::Key;

/// The `id` of a row: stands for one content for ever. Made by the client, so that a resent write is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VersionId(pub Uuid);

/// Number of a version within its key: 1, 2, 3 … without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VersionNo(pub u64);

/// Names the family of rows that may refer to each other's bytes. Random, so that it cannot be guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lineage(pub Uuid);

impl VersionId {
    /// The id of the row that the same version has under another name of its inode. Derived, so that a version that is
    /// committed again after a crash of the server is the same one under every name; as old as this one by its time.
    pub fn twin(self, key: &Key) -> VersionId {
        let hash = <sha2::Sha256 as sha2::Digest>::digest(format!("{}{key}", self.0).as_bytes());
        let mut bytes = *self.0.as_bytes();
        bytes[6..].copy_from_slice(&hash[..10]);
        Self(
            uuid::Builder::from_bytes(bytes)
                .with_version(uuid::Version::SortRand)
                .with_variant(uuid::Variant::RFC4122)
                .into_uuid(),
        )
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Display for VersionNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A moment in UTC with nanoseconds; written as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    pub seconds: i64,
    /// 0 to 999,999,999, always counted forward from `seconds`.
    pub nanos: u32,
}

impl Timestamp {
    /// From RFC 3339 text; `None` where it is not, or lies outside the years −9999 to 9999.
    pub fn parse(text: &str) -> Option<Self> {
        let at: jiff::Timestamp = text.parse().ok()?;
        let nanos = at.as_nanosecond();
        let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?;
        Some(Self { seconds, nanos: nanos.rem_euclid(1_000_000_000) as u32 })
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with as many digits as needed; a moment outside jiff's range prints as the nearest inside.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos);
        let range = jiff::Timestamp::MIN.as_nanosecond()..=jiff::Timestamp::MAX.as_nanosecond();
        let clamped = nanos.clamp(*range.start(), *range.end());
        jiff::Timestamp::from_nanosecond(clamped).unwrap_or(jiff::Timestamp::UNIX_EPOCH).fmt(f)
    }
}

/// What a row is, as `st_mode` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Kind {
    #[default]
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    Char,
    Block,
}

impl Kind {
    const NAMES: [(Kind, &'static str); 7] = [
        (Kind::File, "file"),
        (Kind::Dir, "dir"),
        (Kind::Symlink, "symlink"),
        (Kind::Fifo, "fifo"),
        (Kind::Socket, "socket"),
        (Kind::Char, "char"),
        (Kind::Block, "block"),
    ];

    /// The word in `meta.kind`.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(kind, _)| *kind == self).map_or("file", |(_, name)| name)
    }

    /// The kind that a word in `meta.kind` names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, name)| *name == word).map(|(kind, _)| *kind)
    }
}

/// How a body that is not inline is kept (`meta.layout`). `data` then holds the manifest: see [`crate::layout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Layout {
    /// Bytes per chunk; a power of two from 4 KiB to 4 MiB.
    pub chunk: u32,
    /// 1: the manifest lists chunks. 2: it lists leaf rows of 256 chunks each.
    pub levels: u8,
}

impl Layout {
    /// The one codec of this release.
    pub const CODEC: &str = "chunks";

    fn parse(value: &Value) -> Option<Self> {
        let chunk = u32::try_from(value.get("chunk")?.as_u64()?).ok()?;
        let levels = u8::try_from(value.get("levels")?.as_u64()?).ok()?;
        let known = value.get("codec")?.as_str()? == Self::CODEC;
        (known && chunk.is_power_of_two() && (4096..=4 << 20).contains(&chunk) && (1..=2).contains(&levels))
            .then_some(Self { chunk, levels })
    }

    fn to_json(self) -> Value {
        serde_json::json!({"codec": Self::CODEC, "chunk": self.chunk, "levels": self.levels, "sum": "sha256"})
    }
}

/// The fields of `meta`, parsed. `None` means that the row does not say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[allow(missing_docs)] // the fields are those of docs/schema.md, one for one
pub struct Meta {
    pub kind: Kind,
    pub size: u64,
    /// Bytes of a chunked body that are not holes, where it has any.
    pub allocated: Option<u64>,
    pub etag: Option<String>,
    pub content_type: Option<String>,
    pub created_at: Option<Timestamp>,
    pub xid: Option<String>,
    pub by: Option<Value>,
    /// Permission bits only, 0 to 0o7777.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Timestamp>,
    pub ctime: Option<Timestamp>,
    pub atime: Option<Timestamp>,
    /// Never 0.
    pub ino: Option<u64>,
    /// Of a directory: where the keys of its names begin instead of at its own ([`crate::alias`]).
    pub alias: Option<String>,
    /// The group of names that share this inode; absent where it has one name.
    pub hard_link: Option<String>,
    /// How many names it has; absent: one.
    pub nlink: Option<u32>,
    /// The row of another name that this one was written with.
    pub twin: Option<VersionId>,
    pub rev: u64,
    pub deleted: bool,
    /// A symlink's target as stored: [`crate::key::escape`]d.
    pub target: Option<String>,
    pub rdev: Option<u64>,
    pub tags: BTreeMap<String, String>,
    /// Names escaped as in keys; values are any bytes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    pub from: Option<Value>,
    pub to: Option<Value>,
    pub restored_from: Option<Value>,
    pub layout: Option<Layout>,
    pub lineage: Option<Lineage>,
    /// The row that holds this version's bytes, where it is not this one.
    pub body: Option<VersionId>,
    /// Fields that this release does not know, kept as they came.
    pub other: Map<String, Value>,
    /// Why the content cannot be served (EIO), where `meta` is absurd.
    pub fault: Option<String>,
}

/// A row's `meta` as it is read: its fields, and the number, which a [`Head`] keeps apart.
#[derive(Debug, Default)]
pub(crate) struct RowMeta {
    /// 0 where the row says none.
    pub version: u64,
    pub meta: Meta,
}

impl RowMeta {
    /// Never fails.
    pub fn parse(value: Value) -> Self {
        Self::deserialize(value).unwrap_or_else(|error| Self::absurd(&error))
    }

    /// The same of JSON text.
    #[cfg(feature = "pg")]
    pub fn read(json: &[u8]) -> Self {
        serde_json::from_slice(json).unwrap_or_else(|error| Self::absurd(&error))
    }

    fn absurd(error: &serde_json::Error) -> Self {
        let meta = Meta { fault: Some(format!("meta is not what it must be: {error}")), ..Meta::default() };
        Self { meta, ..Self::default() }
    }
}

impl<'de> Deserialize<'de> for RowMeta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RowMetaVisitor)
    }
}

struct RowMetaVisitor;

impl<'de> Visitor<'de> for RowMetaVisitor {
    type Value = RowMeta;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<RowMeta, A::Error> {
        let mut row = RowMeta::default();
        while let Some((name, mut value)) = fields.next_entry::<Field<'de>, Field<'de>>()? {
            let name = name.as_str().unwrap_or_default();
            if name == "version" {
                row.version = value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0);
            } else if !row.meta.take(name, &mut value) {
                row.meta.fault.get_or_insert_with(|| format!("meta.{name} is not what it must be: {}", value.take_value()));
            }
        }
        Ok(row)
    }
}

impl Meta {
    /// Reads a row's `meta`. Never fails; `version` is left to [`Head`].
    pub fn parse(value: Value) -> Self {
        RowMeta::parse(value).meta
    }

    /// Stores one field; false where its value is absurd.
    fn take(&mut self, name: &str, value: &mut Field<'_>) -> bool {
        fn put<T>(slot: &mut Option<T>, found: Option<T>) -> bool {
            let believed = found.is_some();
            *slot = found;
            believed
        }
        fn text(value: &Field<'_>) -> Option<String> {
            value.as_str().map(str::to_owned)
        }
        fn time(value: &Field<'_>) -> Option<Timestamp> {
            value.as_str().and_then(Timestamp::parse)
        }
        fn id(value: &Field<'_>) -> Option<u32> {
            value.as_u64().and_then(|n| u32::try_from(n).ok())
        }
        fn uuid(value: &Field<'_>) -> Option<Uuid> {
            value.as_str().and_then(|id| id.parse().ok())
        }
        match name {
            "kind" => value.as_str().and_then(Kind::parse).map(|kind| self.kind = kind).is_some(),
            "size" => value.as_u64().filter(|&n| n <= i64::MAX as u64).map(|n| self.size = n).is_some(),
            "allocated" => put(&mut self.allocated, value.as_u64()),
            "etag" => put(&mut self.etag, text(value)),
            "content_type" => put(&mut self.content_type, text(value)),
            "created_at" => put(&mut self.created_at, time(value)),
            "xid" => put(&mut self.xid, text(value)),
            "by" => put(&mut self.by, Some(value.take_value())),
            "mode" => put(&mut self.mode, value.as_str().and_then(|m| u32::from_str_radix(m, 8).ok()).filter(|&m| m <= 0o7777)),
            "uid" => put(&mut self.uid, id(value)),
            "gid" => put(&mut self.gid, id(value)),
            "mtime" => put(&mut self.mtime, time(value)),
            "ctime" => put(&mut self.ctime, time(value)),
            "atime" => put(&mut self.atime, time(value)),
            "ino" => put(&mut self.ino, value.as_str().and_then(|n| n.parse().ok()).filter(|&n| n != 0)),
            "alias" => put(&mut self.alias, text(value)),
            "hard_link" => put(&mut self.hard_link, text(value)),
            "nlink" => put(&mut self.nlink, id(value).filter(|&n| n != 0)),
            "twin" => put(&mut self.twin, uuid(value).map(VersionId)),
            "rev" => value.as_u64().map(|n| self.rev = n).is_some(),
            "deleted" => value.as_bool().map(|dead| self.deleted = dead).is_some(),
            "target" => put(&mut self.target, text(value)),
            "rdev" => put(&mut self.rdev, value.as_u64()),
            "tags" => value
                .as_object()
                .map(|tags| {
                    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
                    self.tags = tags.iter().map(|(k, v)| (k.clone(), text(v))).collect();
                })
                .is_some(),
            "xattrs" => value
                .as_object()
                .and_then(|all| all.iter().map(|(k, v)| Some((k.clone(), BASE64.decode(v.as_str()?).ok()?))).collect())
                .map(|xattrs| self.xattrs = xattrs)
                .is_some(),
            "from" => put(&mut self.from, Some(value.take_value())),
            "to" => put(&mut self.to, Some(value.take_value())),
            "restored_from" => put(&mut self.restored_from, Some(value.take_value())),
            "layout" => {
                let layout = value.take_value();
                let believed = put(&mut self.layout, Layout::parse(&layout));
                *value = Field::Tree(layout);
                believed
            }
            "lin" => put(&mut self.lineage, uuid(value).map(Lineage)),
            "body" => put(&mut self.body, uuid(value).map(VersionId)),
            _ => {
                self.other.insert(name.to_owned(), value.take_value());
                true
            }
        }
    }

    /// The fields as JSON, those that are unset left out; without `version`.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut out = self.other.clone();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                out.insert(name.to_owned(), value);
            }
        };
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string().into());
        set("kind", Some(self.kind.as_str().into()));
        set("size", Some(self.size.into()));
        set("allocated", self.allocated.map(Value::from));
        set("etag", self.etag.clone().map(Value::from));
        set("content_type", self.content_type.clone().map(Value::from));
        set("created_at", time(self.created_at));
        set("xid", self.xid.clone().map(Value::from));
        set("by", self.by.clone());
        set("mode", self.mode.map(|mode| format!("{mode:04o}").into()));
        set("uid", self.uid.map(Value::from));
        set("gid", self.gid.map(Value::from));
        set("mtime", time(self.mtime));
        set("ctime", time(self.ctime));
        set("atime", time(self.atime));
        set("ino", self.ino.map(|ino| ino.to_string().into()));
        set("alias", self.alias.clone().map(Value::from));
        set("hard_link", self.hard_link.clone().map(Value::from));
        set("nlink", self.nlink.map(Value::from));
        set("twin", self.twin.map(|twin| twin.0.to_string().into()));
        set("rev", (self.rev != 0).then(|| self.rev.into()));
        set("deleted", self.deleted.then(|| true.into()));
        set("target", self.target.clone().map(Value::from));
        set("rdev", self.rdev.map(Value::from));
        set(
            "tags",
            (!self.tags.is_empty()).then(|| self.tags.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect()),
        );
        set("xattrs", (!self.xattrs.is_empty()).then(|| xattrs_json(&self.xattrs)));
        set("from", self.from.clone());
        set("to", self.to.clone());
        set("restored_from", self.restored_from.clone());
        set("layout", self.layout.map(Layout::to_json));
        set("lin", self.lineage.map(|lineage| lineage.0.to_string().into()));
        set("body", self.body.map(|body| body.0.to_string().into()));
        out
    }

    /// The fields that say what the bytes are, not whose they are: a new version takes none of them from its
    /// predecessor; every other field of a live head, unknown ones included, is inherited.
    pub const OF_CONTENT: [&str; 19] = [
        "version",
        "kind",
        "size",
        "allocated",
        "etag",
        "created_at",
        "xid",
        "by",
        "mtime",
        "deleted",
        "target",
        "rdev",
        "from",
        "to",
        "restored_from",
        "layout",
        "lin",
        "body",
        "twin",
    ];
}

fn xattrs_json(xattrs: &BTreeMap<String, Vec<u8>>) -> Value {
    xattrs.iter().map(|(name, value)| (name.clone(), Value::from(BASE64.encode(value)))).collect()
}

/// One version of a key as a row holds it; where it is the newest, the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The whole key.
    pub key: Key,
    /// The row.
    pub id: VersionId,
    /// Its number within the key; 0 for a row that some other tool wrote without one.
    pub version: VersionNo,
    /// Everything else.
    pub meta: Meta,
    /// The row's `data` (the body where it is inline and held here), if it was asked for and small enough.
    pub data: Option<Bytes>,
}

impl Head {
    /// A head that is not a tombstone.
    pub fn is_live(&self) -> bool {
        !self.meta.deleted
    }
}

/// A patch of a head's attributes (merged on the server, makes no new version). `None` leaves a field alone.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct AttrPatch {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Timestamp>,
    pub ctime: Option<Timestamp>,
    pub atime: Option<Timestamp>,
    pub content_type: Option<String>,
    /// Tags to set; `None` as the value removes one.
    pub tags: BTreeMap<String, Option<String>>,
    /// Extended attributes to set; `None` as the value removes one. Names escaped as in keys.
    pub xattrs: BTreeMap<String, Option<Vec<u8>>>,
}

impl AttrPatch {
    /// Whether the patch changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds a later patch: its fields win.
    pub fn merge(&mut self, later: AttrPatch) {
        fn take<T>(slot: &mut Option<T>, later: Option<T>) {
            if later.is_some() {
                *slot = later;
            }
        }
        take(&mut self.mode, later.mode);
        take(&mut self.uid, later.uid);
        take(&mut self.gid, later.gid);
        take(&mut self.mtime, later.mtime);
        take(&mut self.ctime, later.ctime);
        take(&mut self.atime, later.atime);
        take(&mut self.content_type, later.content_type);
        self.tags.extend(later.tags);
        self.xattrs.extend(later.xattrs);
    }

    /// Applies the patch to parsed fields, as the server does to the row; does not touch `rev`.
    pub fn apply(&self, meta: &mut Meta) {
        fn put<T: Clone>(slot: &mut Option<T>, value: &Option<T>) {
            if value.is_some() {
                slot.clone_from(value);
            }
        }
        put(&mut meta.mode, &self.mode);
        put(&mut meta.uid, &self.uid);
        put(&mut meta.gid, &self.gid);
        put(&mut meta.mtime, &self.mtime);
        put(&mut meta.ctime, &self.ctime);
        put(&mut meta.atime, &self.atime);
        put(&mut meta.content_type, &self.content_type);
        for (name, value) in &self.tags {
            match value {
                Some(value) => meta.tags.insert(name.clone(), value.clone()),
                None => meta.tags.remove(name),
            };
        }
        for (name, value) in &self.xattrs {
            match value {
                Some(value) => meta.xattrs.insert(name.clone(), value.clone()),
                None => meta.xattrs.remove(name),
            };
        }
    }

    /// Reads what a user may set: `mode`, `uid`, `gid`, `mtime`, `atime`, `xattrs`, as [`AttrPatch::to_json`] writes them.
    ///
    /// # Errors
    /// Which field is unknown or not what it must be, in words.
    pub fn parse(fields: &Map<String, Value>) -> Result<Self, String> {
        let mut patch = Self::default();
        let mut meta = Meta::default();
        for (name, value) in fields {
            let believed = match name.as_str() {
                "mode" | "uid" | "gid" | "mtime" | "atime" => meta.take(name, &mut Field::from(value)),
                "xattrs" => {
                    let of_one = |(name, value): (&String, &Value)| match value {
                        Value::Null => Some((name.clone(), None)),
                        Value::String(text) => BASE64.decode(text).ok().map(|bytes| (name.clone(), Some(bytes))),
                        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
                    };
                    let all: Option<BTreeMap<_, _>> = value.as_object().and_then(|all| all.iter().map(of_one).collect());
                    patch.xattrs = all.clone().unwrap_or_default();
                    all.is_some()
                }
                _ => return Err(format!("unknown attribute {name:?}: there are mode, uid, gid, mtime, atime, xattrs")),
            };
            if !believed {
                return Err(format!("attribute {name:?} is not what it must be: {value}"));
            }
        }
        Ok(Self { mode: meta.mode, uid: meta.uid, gid: meta.gid, mtime: meta.mtime, atime: meta.atime, ..patch })
    }

    /// As JSON for the server: only the fields that change; in `tags` and `xattrs` null removes.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut out = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                out.insert(name.to_owned(), value);
            }
        };
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string().into());
        set("mode", self.mode.map(|mode| format!("{mode:04o}").into()));
        set("uid", self.uid.map(Value::from));
        set("gid", self.gid.map(Value::from));
        set("mtime", time(self.mtime));
        set("ctime", time(self.ctime));
        set("atime", time(self.atime));
        set("content_type", self.content_type.clone().map(Value::from));
        let tags = || self.tags.iter().map(|(k, v)| (k.clone(), v.clone().map_or(Value::Null, Value::from))).collect();
        set("tags", (!self.tags.is_empty()).then(tags));
        let encode = |v: &Option<Vec<u8>>| v.as_ref().map_or(Value::Null, |v| BASE64.encode(v).into());
        let xattrs = || self.xattrs.iter().map(|(k, v)| (k.clone(), encode(v))).collect();
        set("xattrs", (!self.xattrs.is_empty()).then(xattrs));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_keep_their_nanoseconds() {
        for text in ["2026-11-23T06:15:00.123456789Z", "1969-12-31T23:59:59.9Z", "2026-01-01T00:00:00Z"] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn absurd_meta_is_a_fault_of_that_row_only() {
        for absurd in [
            r#"{"size":-1}"#,
            r#"{"size":{"a":1}}"#,
            r#"{"kind":null}"#,
            r#"{"layout":{"codec":"zip"}}"#,
            r#"{"mode":493}"#,
            r#"{"body":7}"#,
            "[]",
            "3",
        ] {
            assert!(Meta::parse(serde_json::from_str(absurd).unwrap()).fault.is_some(), "{absurd}");
        }
    }

    #[test]
    #[cfg(feature = "pg")]
    fn what_no_number_of_ours_holds_is_a_fault_of_that_row_only() {
        for absurd in [r#"{"size":3,"of mine":1e999}"#, r#"{"size":-1e999}"#, "7", "{"] {
            assert!(RowMeta::read(absurd.as_bytes()).meta.fault.is_some(), "{absurd}");
        }
    }

    #[test]
    fn unknown_fields_survive() {
        let value: Value = serde_json::from_str(r#"{"kind":"file","size":3,"colour":{"r":1}}"#).unwrap();
        assert_eq!(Value::Object(Meta::parse(value.clone()).to_json()), value);
    }

    proptest! {
        #[test]
        fn any_json_parses(text in r#"\{("(size|mode|ino|layout|tags|xattrs|mtime|rev)":(null|-?[0-9]{1,20}|"[a-z0-9]{0,9}"|\[\]|\{\}),?){0,3}\}"#) {
            let Ok(value) = serde_json::from_str::<Value>(&text) else { return Ok(()) };
            let parsed = Meta::parse(value.clone());
            // As jsonb has it: no field twice.
            #[cfg(feature = "pg")]
            prop_assert_eq!(&parsed, &RowMeta::read(value.to_string().as_bytes()).meta);
            drop(parsed);
        }
    }

    proptest! {
        #[test]
        fn what_a_user_may_set_survives_json(
            mode in proptest::option::of(0u32..0o10000), uid in proptest::option::of(any::<u32>()),
            seconds in proptest::option::of(0i64..4_000_000_000), value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
        ) {
            let mtime = seconds.map(|seconds| Timestamp { seconds, nanos: 7 });
            let xattrs = BTreeMap::from([("user.a".to_owned(), value)]);
            let patch = AttrPatch { mode, uid, mtime, xattrs, ..AttrPatch::default() };
            prop_assert_eq!(AttrPatch::parse(&patch.to_json()), Ok(patch));
        }
    }

    #[test]
    fn what_is_no_attribute_is_explained() {
        for (fields, why) in [
            (serde_json::json!({"mode": "99999"}), "\"mode\" is not what it must be"),
            (serde_json::json!({"size": 1}), "unknown attribute \"size\""),
            (serde_json::json!({"xattrs": {"a": "%"}}), "\"xattrs\" is not what it must be"),
        ] {
            let error = AttrPatch::parse(fields.as_object().unwrap()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
