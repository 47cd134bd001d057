//! Trees as tar archives, read from and written to streams.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use bytes::Bytes;
use pgfiles_store::body::Body;
use pgfiles_store::key::{escape, unescape};
use pgfiles_store::layout;
use pgfiles_store::version::Timestamp;
use pgfiles_store::{Entry, Head, Kind, Prefix, VersionId};
use tar::{EntryType, Header};
use tokio::sync::mpsc;

use super::export::{mtime, small_contents};
use super::local::{Content, Found, Said};
use super::{Amount, Attributes, Files, Node, Transfer, Watch, shown};
use crate::exit::{Failure, Result};

/// Bytes of a large file that are handed on at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Nodes whose small contents are asked for at a time, and what is small: together at most 8 MiB.
const WINDOW_NODES: usize = 256;
const WINDOW_FILE_BYTES_MAX: u64 = 32 << 10;
/// Pieces on their way.
const PIECES: usize = 2;

/// Writes what a tar archive holds to a directory, in its order. What is there already is written again, as `tar x` does.
///
/// # Errors
/// The archive ends early or is none; the store's. What is wrong with single files is told, and they are counted.
pub async fn read_archive(
    files: &Files,
    from: impl Read + Send + 'static,
    to: &Prefix,
    tags: &std::collections::BTreeMap<String, String>,
    watch: &dyn Watch,
) -> Result<Transfer> {
    let (send, receive) = mpsc::channel(super::import::READ_AHEAD);
    let reading = tokio::task::spawn_blocking(move || take_apart(from, &send));
    let done = files.write_all(to, tags, std::sync::Arc::new(HashMap::new()), receive, (watch, None)).await?;
    if watch.is_over() {
        return Ok(done);
    }
    let read = reading.await.map_err(|error| Failure::failed(error.to_string()))?;
    read.map_err(|error| Failure::io("the archive cannot be read to its end", &error))?;
    Ok(done)
}

fn take_apart(from: impl Read, send: &mpsc::Sender<Said>) -> io::Result<()> {
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path_bytes().into_owned();
        let Some(path) = path_of(&name) else {
            let said = Err((escape(&name).into_owned(), "it leads out of the archive, and is left out".to_owned()));
            if send.blocking_send(said).is_err() {
                return Ok(());
            }
            continue;
        };
        let header = entry.header();
        let mut found = Found {
            path,
            kind: Kind::File,
            size: 0,
            attributes: Attributes {
                mode: Some(header.mode()? & 0o7777),
                uid: u32::try_from(header.uid()?).ok(),
                gid: u32::try_from(header.gid()?).ok(),
                mtime: Some(Timestamp { seconds: i64::try_from(header.mtime()?).unwrap_or(0), nanos: 0 }),
                ..Attributes::default()
            },
            content: Content::None,
        };
        let link = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
        match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                found.size = entry.size();
                if found.size > layout::INLINE_BYTES_MAX {
                    let (pieces, content) = mpsc::channel(PIECES);
                    found.content = Content::Stream(content);
                    if send.blocking_send(Ok(found)).is_err() {
                        return Ok(());
                    }
                    hand_on(&mut entry, &pieces)?;
                    continue;
                }
                let mut bytes = Vec::with_capacity(found.size as usize);
                entry.read_to_end(&mut bytes)?;
                found.content = Content::Small(bytes.into());
            }
            EntryType::Directory => found.kind = Kind::Dir,
            EntryType::Symlink => {
                found.kind = Kind::Symlink;
                found.attributes.mode = Some(0o777);
                found.attributes.target = Some(escape(&link.unwrap_or_default()).into_owned());
            }
            EntryType::Link => match link.as_deref().and_then(path_of) {
                Some(first) => found.content = Content::Link(first),
                None => continue,
            },
            EntryType::Fifo => found.kind = Kind::Fifo,
            kind @ (EntryType::Char | EntryType::Block) => {
                found.kind = if kind == EntryType::Char { Kind::Char } else { Kind::Block };
                let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
                found.attributes.rdev = Some(device(major, minor));
            }
            other => {
                let why = format!("an entry of the kind {:?} is left out", other.as_byte() as char);
                if send.blocking_send(Err((found.path, why))).is_err() {
                    return Ok(());
                }
                continue;
            }
        }
        if send.blocking_send(Ok(found)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// As `makedev(3)` has it on Linux.
fn device(major: u32, minor: u32) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (major & 0xfff) << 8 | (minor & 0xff) | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

fn hand_on(entry: &mut impl Read, pieces: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    loop {
        let mut piece = Vec::new();
        match entry.take(PIECE_BYTES as u64).read_to_end(&mut piece) {
            Ok(0) => return Ok(()),
            // Who takes them in has told why it stopped.
            Ok(_) => drop(pieces.blocking_send(Ok(piece.into()))),
            Err(error) => {
                let _ = pieces.blocking_send(Err(io::Error::new(error.kind(), error.to_string())));
                return Err(error);
            }
        }
    }
}

/// The path of an entry, relative and without `.`; `None`: it has `..`.
fn path_of(name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            part => parts.push(escape(part).into_owned()),
        }
    }
    Some(parts.join("/"))
}

/// Writes a directory, now or as of a moment, as a tar archive (GNU format).
///
/// # Errors
/// The stream's; the store's. What is wrong with single files is told, and they are counted.
pub async fn write_archive(
    files: &Files,
    dir: &Prefix,
    at: Option<Timestamp>,
    to: impl Write + Send + 'static,
    watch: &dyn Watch,
) -> Result<Transfer> {
    let nodes = files.nodes(dir, at).await?;
    let (send, receive) = mpsc::channel(PIECES * 2);
    let writing = tokio::task::spawn_blocking(move || put_together(to, receive));
    let mut done = Transfer::default();
    let mut groups = HashMap::new();
    let mut small = HashMap::new();
    for (n, node) in nodes.iter().enumerate() {
        if watch.is_over() {
            break;
        }
        if n % WINDOW_NODES == 0 {
            small = contents_of(files, nodes[n..].iter().take(WINDOW_NODES)).await?;
        }
        let head = node.head();
        let meta = head.map(|head| &head.meta);
        let mut header = header_of(head, node.is_dir());
        let path = unescape(&node.path);
        let mut link = meta.and_then(|meta| meta.target.as_deref()).map(unescape);
        if let (Entry::File(head), Some(group)) = (&node.entry, meta.and_then(|meta| meta.hard_link.as_ref())) {
            match groups.get(group) {
                Some(first) => {
                    link = Some(Vec::clone(first));
                    header.set_entry_type(EntryType::Link);
                }
                None => drop(groups.insert(group.clone(), path.clone())),
            }
            if link.is_some() && head.meta.kind == Kind::File {
                header.set_size(0);
            }
        }
        if meta.is_some_and(|meta| meta.kind == Kind::Socket) {
            continue;
        }
        let content = head.filter(|head| header.entry_type() == EntryType::Regular && head.meta.size > 0);
        let size = content.map_or(0, |head| head.meta.size);
        let bytes = match content {
            None => Some(Ok(Bytes::new())),
            Some(head) => small.remove(&head.id),
        };
        match bytes {
            Some(Err(error)) => {
                done.failed += 1;
                watch.failed(&shown(&node.path), &crate::exit::plain(&error));
                continue;
            }
            Some(Ok(bytes)) => {
                if send.send(Piece::Entry { path, header: Box::new(header), link, whole: Some(bytes) }).await.is_err() {
                    break;
                }
            }
            None => {
                let Some(head) = content else { continue };
                let body = Body::open(&*files.store, head).await?;
                if send.send(Piece::Entry { path, header: Box::new(header), link, whole: None }).await.is_err() {
                    break;
                }
                let mut at = 0;
                while at < size {
                    // An entry that is begun has to be ended: what cannot be read now ends the archive.
                    let bytes = body.read(&*files.store, at, PIECE_BYTES as u64).await?;
                    at += bytes.len() as u64;
                    if send.send(Piece::More(bytes)).await.is_err() {
                        break;
                    }
                    let so_far = Amount { files: done.written.files, bytes: done.written.bytes + at };
                    watch.progress(so_far, None);
                }
            }
        }
        done.written.add(size);
        watch.progress(done.written, None);
    }
    let whole = !watch.is_over();
    if whole {
        let _ = send.send(Piece::End).await;
    }
    drop(send);
    let written = writing.await.map_err(|error| Failure::failed(error.to_string()))?;
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) if whole => Err(Failure::io("cannot write the archive", &error)),
        _ => Ok(done),
    }
}

/// The contents of the small files among some nodes.
async fn contents_of(files: &Files, nodes: impl Iterator<Item = &Node>) -> Result<HashMap<VersionId, io::Result<Bytes>>> {
    let is_small = |head: &&Head| {
        let meta = &head.meta;
        meta.kind == Kind::File && meta.layout.is_none() && meta.fault.is_none() && meta.size <= WINDOW_FILE_BYTES_MAX
    };
    let heads: Vec<&Head> = nodes.filter_map(Node::head).filter(is_small).collect();
    let contents = small_contents(files, heads.iter().copied()).await?;
    Ok(heads.iter().map(|head| head.id).zip(contents).collect())
}

fn header_of(head: Option<&Head>, is_dir: bool) -> Header {
    let (implied, none) = (pgfiles_store::Meta::default(), Timestamp::default());
    let meta = head.map_or(&implied, |head| &head.meta);
    let mut header = Header::new_gnu();
    let kind = if is_dir { Kind::Dir } else { meta.kind };
    let (entry, mode) = match kind {
        Kind::File => (EntryType::Regular, 0o644),
        Kind::Dir => (EntryType::Directory, 0o755),
        Kind::Symlink => (EntryType::Symlink, 0o777),
        Kind::Fifo => (EntryType::Fifo, 0o644),
        Kind::Char => (EntryType::Char, 0o600),
        Kind::Block => (EntryType::Block, 0o600),
        Kind::Socket => (EntryType::Fifo, 0o600),
    };
    header.set_entry_type(entry);
    header.set_mode(meta.mode.unwrap_or(mode));
    header.set_uid(meta.uid.unwrap_or(0).into());
    header.set_gid(meta.gid.unwrap_or(0).into());
    header.set_mtime(u64::try_from(head.map_or(none, mtime).seconds).unwrap_or(0));
    header.set_size(if kind == Kind::File { meta.size } else { 0 });
    if let (Kind::Char | Kind::Block, Some(device)) = (kind, meta.rdev) {
        let major = (device >> 8 & 0xfff) | (device >> 32 & !0xfff);
        let minor = (device & 0xff) | (device >> 12 & !0xff);
        // Both fit: a GNU header has room for them.
        let _ = header.set_device_major(major as u32);
        let _ = header.set_device_minor(minor as u32);
    }
    header
}

/// What is on its way to the thread that writes.
enum Piece {
    Entry { path: Vec<u8>, header: Box<Header>, link: Option<Vec<u8>>, whole: Option<Bytes> },
    More(Bytes),
    End,
}

/// The bytes of one entry as they come.
struct Pieces<'r> {
    from: &'r mut mpsc::Receiver<Piece>,
    left: Bytes,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.from.blocking_recv() {
                Some(Piece::More(bytes)) => self.left = bytes,
                _ => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the content could not be read to its end")),
            }
        }
        let len = into.len().min(self.left.len());
        into[..len].copy_from_slice(&self.left.split_to(len));
        Ok(len)
    }
}

fn put_together(to: impl Write, mut from: mpsc::Receiver<Piece>) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    loop {
        match from.blocking_recv() {
            None => return Err(io::Error::other("it is not whole")),
            Some(Piece::End) => return archive.into_inner()?.flush(),
            Some(Piece::More(_)) => return Err(io::Error::other("bytes without an entry")),
            Some(Piece::Entry { path, mut header, link, whole }) => {
                let mut path = PathBuf::from(std::ffi::OsStr::from_bytes(&path));
                if header.entry_type() == EntryType::Directory {
                    path.push("");
                }
                match (link, whole) {
                    (Some(link), _) => archive.append_link(&mut header, path, std::ffi::OsStr::from_bytes(&link))?,
                    (None, Some(bytes)) => archive.append_data(&mut header, path, &bytes[..])?,
                    (None, None) => {
                        let size = header.size()?;
                        let pieces = Pieces { from: &mut from, left: Bytes::new() };
                        archive.append_data(&mut header, path, pieces.take(size))?;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_archives_stay_inside() {
        assert_eq!(path_of(b"./a//b/").as_deref(), Some("a/b"));
        assert_eq!(path_of(b"/etc/x").as_deref(), Some("etc/x"));
        assert_eq!(path_of(b"a/../../b"), None);
        assert_eq!(path_of(b"./").as_deref(), Some(""));
    }

    #[test]
    fn devices_are_numbered_as_on_linux() {
        assert_eq!(device(8, 1), 0x801);
        assert_eq!(device(259, 0x1234), 0x0121_0334);
    }
}
