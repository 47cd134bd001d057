//! A tree out of the table: small files by the megabyte in one request, large ones window by window, several at a time. A file is there
//! whole or not at all; one that is there already, with the same size and time, is left alone.

use std::fs::{self, File, Permissions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, FuturesUnordered};
use pgfiles_store::body::Body;
use pgfiles_store::key::{Name, unescape};
use pgfiles_store::store::Part;
use pgfiles_store::version::Timestamp;
use pgfiles_store::{Entry, Head, Kind, Prefix};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

use super::{AT_ONCE, Amount, Files, Node, STOPPED, Transfer, Watch, shown, stopped};
use crate::exit::{Failure, Result, plain};

/// Contents of one request.
const READ_BYTES: u64 = 2 << 20;
const READ_FILES: usize = 256;
/// What is written of a large file at a time.
const WINDOW_BYTES: u64 = 2 << 20;
/// The most bytes of a body that comes with others.
const SMALL_BYTES: u64 = 256 << 10;

impl Files {
    /// Everything below a directory, now or as of a moment, in the order of paths, and its bytes.
    ///
    /// # Errors
    /// What the store says.
    pub async fn nodes(&self, dir: &Prefix, at: Option<Timestamp>) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        self.tree(dir, |node| {
            nodes.push(node);
            Ok(())
        })
        .await?;
        let Some(at) = at else { return Ok(nodes) };
        // What is there now, and what was deleted since; each as it was then.
        let mut keys: Vec<_> = nodes.iter().filter_map(|node| node.head().map(|head| head.key.clone())).collect();
        keys.extend(self.deleted(dir).await?.into_iter().map(|head| head.key));
        keys.sort();
        let mut then = stream::iter(keys).map(|key| async move { self.version_at(&key, at).await }).buffered(AT_ONCE * 2);
        let mut old = Vec::new();
        while let Some(head) = then.next().await {
            let Some(head) = head? else { continue };
            let path = dir.strip(&head.key).unwrap_or_default().trim_end_matches('/').to_owned();
            if path.is_empty() || path.contains("//") {
                continue;
            }
            let entry = match head.key.is_marker() {
                true => Entry::Dir(pgfiles_store::store::Dir { marker: Some(head), mtime: None }),
                false => Entry::File(head),
            };
            old.push(Node { path, entry });
        }
        Ok(old)
    }

    /// Writes a file to one of this machine, which is there whole or not at all, or still is what it was.
    ///
    /// # Errors
    /// It cannot be written; the store's.
    pub async fn get(&self, head: &Head, to: &Path, watch: &dyn Watch) -> Result<()> {
        let wanted = Wanted { path: String::new(), at: to.to_owned(), head: head.clone() };
        if head.meta.kind != Kind::File {
            return make_node(to, head).map_err(|error| Failure::io(to.display(), &error));
        }
        for (_, _, done) in write_group(self, vec![wanted], watch).await? {
            done.map_err(|error| Failure::io(format!("cannot write {}", to.display()), &error))?;
        }
        Ok(())
    }

    /// Writes a directory of the table, now or as of a moment, to one of this machine, which is made if it is not there.
    ///
    /// # Errors
    /// The target cannot be made; the store's. What is wrong with single files is told, and they are counted.
    pub async fn export(&self, dir: &Prefix, to: &Path, at: Option<Timestamp>, watch: &dyn Watch) -> Result<Transfer> {
        fs::create_dir_all(to).map_err(|error| Failure::io(format!("cannot make {}", to.display()), &error))?;
        let nodes = self.nodes(dir, at).await?;
        let total = nodes.iter().fold(Amount::default(), |mut total, node| {
            total.add(size_of(node));
            total
        });
        let mut export = Export { files: self, to, watch, total, done: Transfer::default(), links: Vec::new(), dirs: Vec::new() };
        let marker = match at {
            None => self.marker(dir).await?,
            Some(_) => None,
        };
        export.dirs.extend(marker.map(|marker| (to.to_owned(), marker)));
        export.run(nodes).await?;
        Ok(export.done)
    }
}

fn size_of(node: &Node) -> u64 {
    match &node.entry {
        Entry::File(head) if head.meta.kind == Kind::File => head.meta.size,
        _ => 0,
    }
}

struct Export<'f> {
    files: &'f Files,
    to: &'f Path,
    watch: &'f dyn Watch,
    total: Amount,
    done: Transfer,
    /// The first path of each group of names, and the others.
    links: Vec<(String, PathBuf)>,
    /// Directories, whose times are set when all is in them.
    dirs: Vec<(PathBuf, Head)>,
}

/// A file that is to be written.
struct Wanted {
    path: String,
    at: PathBuf,
    head: Head,
}

impl Export<'_> {
    fn show(&self) {
        let Transfer { written, unchanged, failed } = self.done;
        let done = Amount { files: written.files + unchanged.files + failed, bytes: written.bytes + unchanged.bytes };
        self.watch.progress(done, Some(self.total));
    }

    fn end(&mut self, path: &str, size: u64, done: io::Result<()>) -> Result<()> {
        match done {
            Ok(()) => self.done.written.add(size),
            // The others would not fit either.
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                return Err(Failure::failed(format!(
                    "{}: {}; {} files were written before: make room and run this again to go on",
                    self.to.join(shown(path)).display(),
                    plain(&error),
                    self.done.written.files
                )));
            }
            Err(error) => {
                self.done.failed += 1;
                self.watch.failed(&shown(path), &plain(&error));
            }
        }
        self.show();
        Ok(())
    }

    async fn run(&mut self, nodes: Vec<Node>) -> Result<()> {
        let mut wanted = Vec::new();
        let mut groups = std::collections::HashMap::new();
        for node in nodes {
            let Some(at) = self.place(&node.path) else {
                self.end(&node.path, 0, Err(io::Error::other("no file of this machine can have that name")))?;
                continue;
            };
            match node.entry {
                Entry::Dir(dir) => {
                    let made = make_dir(&at);
                    if let (Ok(()), Some(marker)) = (&made, dir.marker) {
                        self.dirs.push((at, marker));
                    }
                    self.end(&node.path, 0, made)?;
                }
                Entry::File(head) => {
                    if let Some(group) = &head.meta.hard_link {
                        if let Some(first) = groups.get(group) {
                            self.links.push((node.path, PathBuf::clone(first)));
                            continue;
                        }
                        groups.insert(group.clone(), at.clone());
                    }
                    if head.meta.kind != Kind::File {
                        let made = make_node(&at, &head);
                        self.end(&node.path, 0, made)?;
                    } else if is_there(&at, &head) {
                        self.done.unchanged.add(head.meta.size);
                    } else {
                        wanted.push(Wanted { path: node.path, at, head });
                    }
                }
            }
        }
        self.write(wanted).await?;
        for (path, first) in std::mem::take(&mut self.links) {
            if let Some(at) = self.place(&path) {
                let linked = link(&first, &at);
                self.end(&path, 0, linked)?;
            }
        }
        for (at, marker) in std::mem::take(&mut self.dirs).into_iter().rev() {
            if let Err(error) = dress(&at, &marker) {
                self.watch.failed(&at.display().to_string(), &plain(&error));
            }
        }
        Ok(())
    }

    /// Where a path goes; `None`: a component is no name.
    fn place(&self, path: &str) -> Option<PathBuf> {
        let mut at = self.to.to_owned();
        for component in path.split('/') {
            Name::from_component(component)?;
            at.push(std::ffi::OsString::from_vec(unescape(component)));
        }
        Some(at)
    }

    async fn write(&mut self, wanted: Vec<Wanted>) -> Result<()> {
        let mut under_way = FuturesUnordered::new();
        let (files, watch) = (self.files, self.watch);
        let mut left = groups(wanted).into_iter();
        loop {
            while under_way.len() < AT_ONCE && !self.watch.is_over() {
                let Some(group) = left.next() else { break };
                under_way.push(async move { write_group(files, group, watch).await });
            }
            let Some(done) = under_way.next().await else { return Ok(()) };
            for (path, size, done) in done? {
                self.end(&path, size, done)?;
            }
        }
    }
}

/// Small ones together, as many as one request brings; large ones alone.
fn groups(wanted: Vec<Wanted>) -> Vec<Vec<Wanted>> {
    let mut groups: Vec<Vec<Wanted>> = Vec::new();
    let mut bytes = u64::MAX;
    for one in wanted {
        let size = one.head.meta.size;
        let fits = is_small(&one.head) && bytes.saturating_add(size) <= READ_BYTES;
        match groups.last_mut().filter(|group| fits && group.len() < READ_FILES) {
            Some(group) => {
                bytes += size;
                group.push(one);
            }
            None => {
                bytes = if is_small(&one.head) { size } else { u64::MAX };
                groups.push(vec![one]);
            }
        }
    }
    groups
}

fn is_small(head: &Head) -> bool {
    head.meta.layout.is_none() && head.meta.size <= SMALL_BYTES && head.meta.fault.is_none()
}

type Written = (String, u64, io::Result<()>);

async fn write_group(files: &Files, group: Vec<Wanted>, watch: &dyn Watch) -> Result<Vec<Written>> {
    if let [one] = group.as_slice()
        && !is_small(&one.head)
    {
        let done = write_large(files, one, watch).await?;
        return Ok(vec![(one.path.clone(), one.head.meta.size, done)]);
    }
    let contents = small_contents(files, group.iter().map(|one| &one.head)).await?;
    let written = tokio::task::spawn_blocking(move || {
        let each = group.into_iter().zip(contents).map(|(one, bytes)| {
            let done = bytes.and_then(|bytes| write_whole(&one.at, &one.head, &mut |file| file.write_all(&bytes)));
            (one.path, one.head.meta.size, done)
        });
        each.collect()
    });
    written.await.map_err(|error| Failure::failed(error.to_string()))
}

/// The bytes of small files, in one request; each by itself where one of them is damaged.
pub(super) async fn small_contents<'h>(files: &Files, heads: impl Iterator<Item = &'h Head>) -> Result<Vec<io::Result<Bytes>>> {
    let wanted: Vec<(Option<Part>, u64)> = heads
        .map(|head| match head.meta.body {
            _ if head.meta.size == 0 => (None, 0),
            Some(id) => (Some(Part { id, lineage: head.meta.lineage, offset: 0, len: head.meta.size as u32 }), head.meta.size),
            None => (Some(Part { id: head.id, lineage: None, offset: 0, len: head.meta.size as u32 }), head.meta.size),
        })
        .collect();
    let parts: Vec<Part> = wanted.iter().filter_map(|(part, _)| *part).collect();
    let whole = |bytes: Bytes, size: u64| match bytes.len() as u64 == size {
        true => Ok(bytes),
        false => Err(io::Error::other("its row is shorter than its size says: `pgfiles doctor --verify` names such files")),
    };
    match files.store.read_once(&parts).await {
        Ok(all) => {
            let mut all = all.into_iter();
            Ok(wanted
                .iter()
                .map(|(part, size)| match part {
                    Some(_) => whole(all.next().unwrap_or_default(), *size),
                    None => Ok(Bytes::new()),
                })
                .collect())
        }
        Err(error) if error.kind() == pgfiles_store::error::Kind::Corrupt => {
            let mut out = Vec::new();
            for (part, size) in wanted {
                out.push(match part {
                    Some(part) => match files.store.read_once(&[part]).await {
                        Ok(mut one) => whole(one.pop().unwrap_or_default(), size),
                        Err(error) => Err(io::Error::other(error.to_string())),
                    },
                    None => Ok(Bytes::new()),
                });
            }
            Ok(out)
        }
        Err(error) => Err(error.into()),
    }
}

async fn write_large(files: &Files, one: &Wanted, watch: &dyn Watch) -> Result<io::Result<()>> {
    let body = match Body::open(&*files.store, &one.head).await {
        Ok(body) => body,
        Err(error) if error.kind() == pgfiles_store::error::Kind::Corrupt => return Ok(Err(io::Error::other(error.to_string()))),
        Err(error) => return Err(error.into()),
    };
    let (send, mut windows) = tokio::sync::mpsc::channel::<(u64, Bytes)>(2);
    let (at, head) = (one.at.clone(), one.head.clone());
    let writing = tokio::task::spawn_blocking(move || {
        let size = head.meta.size;
        write_whole(&at, &head, &mut |file| {
            loop {
                match windows.blocking_recv() {
                    None => return Err(io::Error::other("it was read in part only")),
                    Some((_, bytes)) if bytes.is_empty() => return file.set_len(size),
                    Some((start, bytes)) => {
                        file.seek(SeekFrom::Start(start))?;
                        file.write_all(&bytes)?;
                    }
                }
            }
        })
    });
    let sent = tokio::select! {
        sent = send_windows(files, &body, &send) => sent.map(|()| true),
        () = stopped(watch) => Ok(false),
    };
    if matches!(sent, Ok(true)) {
        // An empty window at the end says that all came.
        let _ = send.send((body.size(), Bytes::new())).await;
    }
    drop(send);
    let written = writing.await.map_err(|error| Failure::failed(error.to_string()))?;
    match sent {
        Err(failure) => Err(failure),
        Ok(true) => Ok(written),
        Ok(false) => Ok(Err(io::Error::other(STOPPED))),
    }
}

/// The parts of a body that are no holes.
async fn send_windows(files: &Files, body: &Body, send: &tokio::sync::mpsc::Sender<(u64, Bytes)>) -> Result<()> {
    let mut at = 0;
    while at < body.size() {
        let end = (at + WINDOW_BYTES).min(body.size());
        if !is_hole(body, at, end) {
            let bytes = body.read(&*files.store, at, end - at).await?;
            if send.send((at, bytes)).await.is_err() {
                return Ok(());
            }
        }
        at = end;
    }
    Ok(())
}

/// Whether a range of a body is a hole, by its chunks.
fn is_hole(body: &Body, start: u64, end: u64) -> bool {
    let Body::Chunked { manifest, .. } = body else { return false };
    let chunk = u64::from(manifest.chunk);
    (start / chunk..end.div_ceil(chunk)).all(|index| manifest.entries.get(index as usize).is_none_or(Option::is_none))
}

/// When a file was changed last.
pub(super) fn mtime(head: &Head) -> Timestamp {
    head.meta.mtime.or(head.meta.created_at).unwrap_or_default()
}

fn is_there(at: &Path, head: &Head) -> bool {
    let time = mtime(head);
    fs::symlink_metadata(at).is_ok_and(|meta| {
        meta.is_file()
            && meta.len() == head.meta.size
            && (meta.mtime(), meta.mtime_nsec()) == (time.seconds, i64::from(time.nanos))
    })
}

/// A directory that is there is left as it is; a symlink to one is none, for what is written through it lies elsewhere.
fn make_dir(at: &Path) -> io::Result<()> {
    match fs::create_dir(at) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(at)?.is_dir() => Ok(()),
        other => other,
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Owner and times, and the mode of what is no symlink.
fn dress(at: &Path, head: &Head) -> io::Result<()> {
    if is_root() {
        std::os::unix::fs::lchown(at, head.meta.uid, head.meta.gid)?;
    }
    if head.meta.kind != Kind::Symlink
        && let Some(mode) = head.meta.mode
    {
        fs::set_permissions(at, Permissions::from_mode(mode))?;
    }
    let time = mtime(head);
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() },
    };
    Ok(utimensat(CWD, at, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A new name beside a path, for what takes its place when it is whole.
fn beside(at: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(format!(".pgfiles-{}-", crate::connect::new_id()));
    name.push(std::ffi::OsString::from(std::process::id().to_string()));
    at.with_file_name(name)
}

/// Puts something made beside a path in its place, or takes it away.
fn put_in_place(at: &Path, made: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let new = beside(at);
    let done = made(&new).and_then(|()| fs::rename(&new, at));
    if done.is_err() {
        let _ = fs::remove_file(&new);
    }
    done
}

/// Writes a file that takes its place when it is whole.
pub(super) fn write_whole(at: &Path, head: &Head, fill: &mut dyn FnMut(&mut File) -> io::Result<()>) -> io::Result<()> {
    put_in_place(at, |new| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(new)?;
        fill(&mut file)?;
        drop(file);
        dress(new, head)
    })
}

fn make_node(at: &Path, head: &Head) -> io::Result<()> {
    let meta = &head.meta;
    if meta.kind == Kind::Symlink {
        let target = PathBuf::from(std::ffi::OsString::from_vec(unescape(meta.target.as_deref().unwrap_or_default())));
        if fs::read_link(at).is_ok_and(|there| there == target) {
            return Ok(());
        }
        return put_in_place(at, |new| symlink(&target, new).and_then(|()| dress(new, head)));
    }
    let kind = match meta.kind {
        Kind::Fifo => rustix::fs::FileType::Fifo,
        Kind::Char => rustix::fs::FileType::CharacterDevice,
        Kind::Block => rustix::fs::FileType::BlockDevice,
        // Whoever listens makes it.
        Kind::Socket => return Ok(()),
        Kind::File | Kind::Dir | Kind::Symlink => return Err(io::Error::other("not a special file")),
    };
    put_in_place(at, |new| make_special(new, kind, meta.rdev.unwrap_or(0)).and_then(|()| dress(new, head)))
}

#[cfg(target_os = "linux")]
fn make_special(at: &Path, kind: rustix::fs::FileType, device: u64) -> io::Result<()> {
    Ok(rustix::fs::mknodat(CWD, at, kind, rustix::fs::Mode::from_raw_mode(0o600), device)?)
}

#[cfg(not(target_os = "linux"))]
fn make_special(_at: &Path, _kind: rustix::fs::FileType, _device: u64) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "special files are exported on Linux only"))
}

fn link(first: &Path, at: &Path) -> io::Result<()> {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    if let (Ok(one), Ok(other)) = (fs::symlink_metadata(first), fs::symlink_metadata(at))
        && same(&one, &other)
    {
        return Ok(());
    }
    put_in_place(at, |new| fs::hard_link(first, new))
}
