//! The one write path: every change, from `write(2)` to `pgfiles batch`, is a [`Batch`] committed in one transaction.
//!
//! Each operation carries the ids of the rows that it will write, made by the client. A batch whose reply was lost is
//! sent again with the same ids, and the server recognises it; so nothing is applied twice.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::key::{Key, Prefix};
use crate::version::{AttrPatch, Head, Lineage, Meta, Timestamp, VersionId, VersionNo};

/// Operations that are committed together or not at all, in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Batch {
    /// The operations. An error names the first that failed by its index.
    pub ops: Vec<Op>,
    /// When the commit may be answered.
    pub durability: Durability,
    /// Who writes: recorded as `meta.by` of every version the batch makes.
    pub by: Arc<Value>,
    /// `Some`: refuse with [`crate::error::Kind::ServerChanged`], applying nothing, if the server's
    /// [`crate::store::Position::life`] is another by now. Set by the log of commits.
    pub life: Option<Arc<str>>,
    /// The batch may have been applied already (its reply was lost): look for its rows first. Set by the retry layer.
    pub again: bool,
}

/// When a commit is answered. Either way it is visible to everybody by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Durability {
    /// `synchronous_commit=off`: the server may forget it if all its processes die within the next second.
    #[default]
    Async,
    /// On the server's disk, as its own `synchronous_commit` has it, or `local` where that is `off`.
    Sync,
}

/// What must hold about the head of the key, in the same transaction, for an operation to be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Precondition {
    /// Nothing.
    #[default]
    Any,
    /// Nothing live at that path: neither a file nor a directory, implied ones included.
    Absent,
    /// The live head has this number.
    Version(VersionNo),
    /// The live head has this etag.
    Etag(String),
    /// The head is this row.
    Head(VersionId),
}

/// One change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Op {
    /// A new version of a file, symlink, special file, or of a directory's marker.
    Put(Put),
    /// Rows of a body that a later [`Put`] will refer to.
    Body(BodyRow),
    /// Attributes of a head, merged into it; no new version, `rev` + 1.
    SetAttr(SetAttr),
    /// A tombstone. [`crate::error::Kind::NotFound`] where nothing is live. A directory that loses its last name stays:
    /// an implied parent becomes an explicit marker in the same transaction.
    Delete(Delete),
    /// Removes a directory; `recursive` removes everything below as well, else [`crate::error::Kind::NotEmpty`].
    RemoveDir(RemoveDir),
    /// Moves the head of a file.
    Rename(Rename),
    /// Moves a directory with all that lives below.
    RenameDir(RenameDir),
    /// Two names change places, whatever kinds they are.
    Exchange(Exchange),
    /// One more name for a file (`man 2 link`).
    Link(Link),
    /// A new version of `to` with the content of a version of `from`, by reference where that is larger than a row.
    Copy(Copy),
    /// A new version of a key with the content of an older one.
    Restore(Restore),
    /// New versions of all files below a directory that then had other content than now; files that came later stay.
    RestoreDir(RestoreDir),
}

/// See [`Op::Put`]. The row's `meta` is `defaults`, then what a live head passes on (all but [`Meta::OF_CONTENT`]),
/// then `meta`, then what the server gives: version, created_at, xid, by.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Put {
    /// The row to be written.
    pub id: VersionId,
    /// Where. A marker's key ends in `/`.
    pub key: Key,
    /// Fields that win over the head's, as JSON (from [`Meta::to_json`], reduced to what is meant).
    pub meta: serde_json::Map<String, Value>,
    /// Fields for a key that has no live head: mode, owner, ino, times.
    pub defaults: serde_json::Map<String, Value>,
    /// The row's `data`: the body, or the manifest where `meta.layout` says so. `None` for markers and special files.
    pub data: Option<Bytes>,
    /// Checked against the head.
    pub expect: Precondition,
    /// The version in progress that this one extends: if that row is still the head, it is replaced and its number
    /// kept; else this is a new version and the other stays in history.
    pub extends: Option<VersionId>,
    /// Body rows that only the extended version used: removed if it is replaced.
    pub drops: Vec<VersionId>,
    /// Of a chunked body, which of its rows need not be looked for.
    pub grown: Option<Grown>,
}

/// A manifest that grew out of another one: saves the server from looking for every row that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grown {
    /// The row that it started from. If that is the head still, its rows are there.
    pub base: VersionId,
    /// The entries of `data` that the base has not and that come in no earlier operation of the batch.
    pub added: Vec<VersionId>,
}

/// A chunk, or a leaf of a two-level manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BodyRow {
    /// The row to be written.
    pub id: VersionId,
    /// The family it belongs to; read only through rows of the same.
    pub lineage: Lineage,
    /// The directory of the file that it is written for: the row lies under `/` + that, so that a grant and a purge
    /// of a prefix reach it.
    pub dir: Prefix,
    /// At most [`crate::layout::CHUNK_BYTES_MAX`].
    pub data: Bytes,
    /// Which mount writes it: swept with that mount if no version ever refers to it.
    pub mount: Arc<str>,
}

/// See [`Op::SetAttr`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetAttr {
    /// The key; for a directory the marker's.
    pub key: Key,
    /// What changes.
    pub patch: AttrPatch,
    /// Checked against the head.
    pub expect: Precondition,
    /// For a directory that is only implied: the marker row to be written with these fields and the patch.
    pub explicit: Option<(VersionId, serde_json::Map<String, Value>)>,
}

/// See [`Op::Delete`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delete {
    /// The tombstone to be written.
    pub id: VersionId,
    /// A file's key.
    pub key: Key,
    /// Checked against the head.
    pub expect: Precondition,
}

/// See [`Op::RemoveDir`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoveDir {
    /// The marker's tombstone (written for an implied directory too).
    pub id: VersionId,
    /// The directory.
    pub dir: Prefix,
    /// Whether what is below goes as well.
    pub recursive: bool,
}

/// See [`Op::Rename`]. The row that holds the bytes moves to the new name with its id; its old place keeps a version
/// that refers to it and gets a tombstone; both are linked by `meta.from` and `meta.to`. No link and nothing left at
/// the source where [`Rename::young`] applies.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rename {
    /// The tombstone at the source (not written where the source simply moves).
    pub id: VersionId,
    /// The history row at the source (likewise).
    pub history: VersionId,
    /// A file's key, live.
    pub from: Key,
    /// A file's key; what is live there becomes history.
    pub to: Key,
    /// Checked against the head of `from`.
    pub expect_from: Precondition,
    /// Checked against the head of `to`.
    pub expect_to: Precondition,
    /// A source whose only version this mount wrote at most that many seconds ago simply moves.
    pub young: Option<Young>,
    /// The new `ctime` of the inode.
    pub ctime: Option<Timestamp>,
}

/// When a temporary name leaves nothing behind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Young {
    /// As in `meta.by.mount`.
    pub mount: Arc<str>,
    /// Seconds of the server's clock since `created_at`.
    pub seconds: u32,
}

/// See [`Op::RenameDir`]. `to` must be absent or an empty directory, and not lie under `from`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenameDir {
    /// The tombstone of the source's marker (written for an implied directory too).
    pub id: VersionId,
    /// A live directory.
    pub from: Prefix,
    /// Where it goes.
    pub to: Prefix,
    /// As in [`Rename::young`], per file.
    pub young: Option<Young>,
    /// Whether an empty directory at `to` is in the way (`false`: it is replaced).
    pub to_absent: bool,
}

/// See [`Op::Exchange`]. Neither may lie below the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exchange {
    /// The tombstone that `from` has on the way, and by which a resent request is recognised.
    pub id: VersionId,
    /// A live key; a directory's as well, without its `/`.
    pub from: Key,
    /// The same.
    pub to: Key,
    /// The new `ctime` of files.
    pub ctime: Option<Timestamp>,
}

/// See [`Op::Link`]. From now on the two names share content and attributes: an operation on one is carried out on all, in
/// one transaction. [`crate::error::Kind::TooManyLinks`] at [`LINKS_MAX`] names, [`crate::error::Kind::CrossesGrant`] where
/// the names lie on two sides of the edge of a grant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Link {
    /// The row to be written at `to`.
    pub id: VersionId,
    /// A file's key, live.
    pub from: Key,
    /// A file's key where nothing is live: else [`crate::error::Kind::Conflict`].
    pub to: Key,
    /// The new `ctime` of the inode.
    pub ctime: Option<Timestamp>,
}

/// The most names of one inode: a write commits a row for each.
pub const LINKS_MAX: u32 = 1_000;

/// See [`Op::Copy`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Copy {
    /// The row to be written.
    pub id: VersionId,
    /// A file's key.
    pub from: Key,
    /// `None` is the live head.
    pub version: Option<VersionNo>,
    /// A file's key.
    pub to: Key,
    /// Checked against the head of `to`.
    pub expect: Precondition,
    /// Fields that the copy has of its own (a new ino).
    pub meta: serde_json::Map<String, Value>,
}

/// See [`Op::Restore`]. A tombstone or a version that never was is [`crate::error::Kind::Invalid`] or `NotFound`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restore {
    /// The row to be written.
    pub id: VersionId,
    /// A file's key, live or not.
    pub key: Key,
    /// Which version's content.
    pub version: VersionNo,
    /// Checked against the head.
    pub expect: Precondition,
}

/// See [`Op::RestoreDir`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoreDir {
    /// The directory, live or not.
    pub dir: Prefix,
    /// The moment: `created_at` up to and including this.
    pub at: Timestamp,
    /// Recognises a resent request: the id of the marker row that is written.
    pub id: VersionId,
}

/// What an operation left behind.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The head at the operation's target after the batch (at `to` for moves and copies; a tombstone for deletes);
    /// the marker at `to` of a renamed
    /// directory. `None` for body rows and other operations on whole directories. Without `data`.
    pub head: Option<Head>,
    /// How many files an operation on a directory touched.
    pub files: u64,
    /// Whether a rename left nothing behind.
    pub moved: bool,
    /// Other keys whose heads changed with it: names of the same inode, or of one that lost a name.
    pub also: Vec<Key>,
    /// The batch was sent again after its reply was lost: where one name of an inode is left, `also` may lack it. Set by the
    /// retry layer.
    pub resent: bool,
}

impl Op {
    /// The row by which a resent operation is recognised; `None` for [`SetAttr`] on an existing row, which is
    /// recognised by its effect.
    pub fn witness(&self) -> Option<VersionId> {
        match self {
            Op::Put(op) => Some(op.id),
            Op::Body(op) => Some(op.id),
            Op::SetAttr(_) => None,
            Op::Delete(op) => Some(op.id),
            Op::RemoveDir(op) => Some(op.id),
            Op::Rename(op) => Some(op.id),
            Op::RenameDir(op) => Some(op.id),
            Op::Exchange(op) => Some(op.id),
            Op::Link(op) => Some(op.id),
            Op::Copy(op) => Some(op.id),
            Op::Restore(op) => Some(op.id),
            Op::RestoreDir(op) => Some(op.id),
        }
    }

    /// Bytes that the operation carries.
    pub fn payload(&self) -> usize {
        match self {
            Op::Put(op) => op.data.as_ref().map_or(0, Bytes::len),
            Op::Body(op) => op.data.len(),
            _ => 0,
        }
    }
}

impl Batch {
    /// One operation, asynchronous.
    pub fn one(op: Op, by: &Arc<Value>) -> Self {
        Self { ops: vec![op], durability: Durability::Async, by: by.clone(), life: None, again: false }
    }

    /// Bytes that the batch carries.
    pub fn payload(&self) -> usize {
        self.ops.iter().map(Op::payload).sum()
    }
}

/// Keeps the fields of a [`Meta`] that a [`Put`] means to set.
pub fn fields(meta: &Meta, names: &[&str]) -> serde_json::Map<String, Value> {
    let mut all = meta.to_json();
    all.retain(|name, _| names.contains(&name.as_str()));
    all
}
