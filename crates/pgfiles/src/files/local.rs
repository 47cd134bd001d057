//! A tree of this machine: what is in it, read by a thread of its own.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pgfiles_store::Kind;
use pgfiles_store::key::escape;
use pgfiles_store::layout;
use pgfiles_store::version::Timestamp;

use super::Attributes;

/// How often a file that changes while it is read is read again.
const READS_MAX: u32 = 3;

/// Something of a tree that is to be written.
#[derive(Debug)]
pub struct Found {
    /// Relative to the tree, as text of a key; "" is the tree's directory itself.
    pub path: String,
    pub kind: Kind,
    pub size: u64,
    pub attributes: Attributes,
    pub content: Content,
}

/// Where its bytes are.
#[derive(Debug)]
pub enum Content {
    /// It has none.
    None,
    /// Here.
    Small(Bytes),
    /// In a file, too many to be held.
    File(PathBuf),
    /// The same file as an earlier path of the tree.
    Link(String),
    /// They come one after the other.
    Stream(tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>),
}

/// What a walk says of a path.
pub type Said = Result<Found, (String, String)>;

/// What is known of a file, to see whether it changed.
#[derive(PartialEq)]
struct Stamp(u64, u64, i64, i64, i64, i64);

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self(meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
    }
}

/// Walks a tree in the order of names and tells of each path, directories before what is in them, until `tell` says no. A file that
/// `known` says is there already is not read.
pub(super) fn walk(root: &Path, known: &dyn Fn(&Found) -> bool, tell: &mut dyn FnMut(Said) -> bool) {
    let mut links = HashMap::new();
    let mut left = vec![(root.to_owned(), String::new())];
    while let Some((at, path)) = left.pop() {
        let said =
            std::fs::symlink_metadata(&at).and_then(|meta| describe(&at, &path, &meta, known, &mut links).map(|it| (it, meta)));
        let is_dir = match said {
            Ok((found, meta)) => {
                if !tell(Ok(found)) {
                    return;
                }
                meta.is_dir()
            }
            Err(error) => {
                if !tell(Err((path.clone(), crate::exit::plain(&error)))) {
                    return;
                }
                false
            }
        };
        if !is_dir {
            continue;
        }
        match names(&at) {
            Ok(names) => {
                let below = |name: &OsStr| {
                    let text = escape(name.as_bytes());
                    if path.is_empty() { text.into_owned() } else { format!("{path}/{text}") }
                };
                left.extend(names.iter().rev().map(|name| (at.join(name), below(name))));
            }
            Err(error) => {
                if !tell(Err((path, crate::exit::plain(&error)))) {
                    return;
                }
            }
        }
    }
}

/// How many files there are in a tree, and their bytes; what cannot be read is left out.
pub(super) fn count(root: &Path) -> super::Amount {
    let mut total = super::Amount::default();
    let mut left = vec![root.to_owned()];
    while let Some(at) = left.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&at) else { continue };
        total.add(if meta.is_file() { meta.size() } else { 0 });
        if meta.is_dir() {
            left.extend(names(&at).unwrap_or_default().iter().map(|name| at.join(name)));
        }
    }
    total
}

fn names(dir: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    Ok(names)
}

/// What `lstat` says, as attributes.
pub(super) fn attributes(meta: &Metadata) -> Attributes {
    Attributes {
        mode: Some(meta.mode() & 0o7777),
        uid: Some(meta.uid()),
        gid: Some(meta.gid()),
        mtime: Some(Timestamp { seconds: meta.mtime(), nanos: meta.mtime_nsec() as u32 }),
        ..Attributes::default()
    }
}

fn describe(
    at: &Path,
    path: &str,
    meta: &Metadata,
    known: &dyn Fn(&Found) -> bool,
    links: &mut HashMap<(u64, u64), String>,
) -> std::io::Result<Found> {
    let kind = meta.file_type();
    let mut found =
        Found { path: path.to_owned(), kind: Kind::File, size: 0, attributes: attributes(meta), content: Content::None };
    if kind.is_dir() {
        found.kind = Kind::Dir;
        return Ok(found);
    }
    if meta.nlink() > 1 {
        let first = links.entry((meta.dev(), meta.ino())).or_insert_with(|| path.to_owned());
        if first != path {
            found.content = Content::Link(first.clone());
            found.size = meta.size();
            return Ok(found);
        }
    }
    if kind.is_file() {
        found.size = meta.size();
        if !known(&found) {
            found.content = read(at, &mut found)?;
        }
    } else if kind.is_symlink() {
        found.kind = Kind::Symlink;
        let target = std::fs::read_link(at)?;
        found.attributes.target = Some(escape(target.as_os_str().as_bytes()).into_owned());
        found.attributes.mode = Some(0o777);
        found.size = target.as_os_str().len() as u64;
    } else {
        found.kind = match kind {
            kind if kind.is_fifo() => Kind::Fifo,
            kind if kind.is_socket() => Kind::Socket,
            kind if kind.is_block_device() => Kind::Block,
            _ => Kind::Char,
        };
        found.attributes.rdev = Some(meta.rdev()).filter(|_| matches!(found.kind, Kind::Block | Kind::Char));
    }
    Ok(found)
}

/// A small content, whole and of one moment.
fn read(at: &Path, found: &mut Found) -> std::io::Result<Content> {
    if found.size > layout::INLINE_BYTES_MAX {
        return Ok(Content::File(at.to_owned()));
    }
    for _ in 0..READS_MAX {
        let before = std::fs::symlink_metadata(at)?;
        let data = std::fs::read(at)?;
        let after = std::fs::symlink_metadata(at)?;
        if Stamp::of(&before) == Stamp::of(&after) && data.len() as u64 == after.size() {
            (found.size, found.attributes) = (after.size(), attributes(&after));
            return Ok(Content::Small(data.into()));
        }
    }
    Err(changes())
}

/// Whether a file is still what it was when it was opened.
pub(super) fn is_unchanged(file: &Metadata, at: &Path) -> bool {
    std::fs::symlink_metadata(at).is_ok_and(|now| Stamp::of(&now) == Stamp::of(file))
}

pub(super) fn changes() -> std::io::Error {
    std::io::Error::other("it changes while it is read: run this again when it is left alone")
}
