//! A tree into the table: small files and what has no bytes in batches, large ones in chunks, several at a time. What is there already,
//! with the same size and time, is left alone, so that a second run goes on where the first one stopped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use pgfiles_store::batch::{Durability, Link, Op};
use pgfiles_store::version::Timestamp;
use pgfiles_store::{Entry, Head, Key, Kind, Precondition, Prefix};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use super::local::{self, Content, Found, Said};
use super::upload::tagged;
use super::{AT_ONCE, Amount, Files, STOPPED, Transfer, Watch, shown, stopped};
use crate::exit::{Failure, Result};

/// Operations and bytes of one commit.
const BATCH_OPS: usize = 500;
const BATCH_BYTES: usize = 1 << 20;
/// What is read ahead of the commits, at most 256 KiB each.
pub(super) const READ_AHEAD: usize = 64;

/// What is there already.
pub(super) struct Known {
    kind: Kind,
    size: u64,
    mtime: Option<Timestamp>,
    mode: Option<u32>,
    target: Option<String>,
}

impl Known {
    fn is(&self, found: &Found) -> bool {
        let same = self.kind == found.kind && self.mode == found.attributes.mode;
        match found.kind {
            Kind::File => same && self.size == found.size && self.mtime == found.attributes.mtime,
            Kind::Symlink => self.kind == found.kind && self.target == found.attributes.target,
            _ => same && self.mtime == found.attributes.mtime,
        }
    }
}

/// Path and size of what was sent, and why it is not there.
type Sent = (String, u64, std::result::Result<(), String>);

/// One import.
struct Import<'f> {
    files: &'f Files,
    to: &'f Prefix,
    tags: &'f std::collections::BTreeMap<String, String>,
    known: Arc<HashMap<String, Known>>,
    watch: &'f dyn Watch,
    total: Option<Amount>,
    done: Transfer,
    sent: Arc<AtomicU64>,
    batch: Vec<(String, u64, Vec<Op>)>,
    batch_bytes: usize,
    commits: FuturesUnordered<BoxFuture<'f, Vec<Sent>>>,
}

impl Files {
    /// Writes a tree of this machine to a directory.
    ///
    /// # Errors
    /// The tree is no directory; the store's. What is wrong with single files is told, and they are counted.
    pub async fn import(
        &self,
        from: &Path,
        to: &Prefix,
        tags: &std::collections::BTreeMap<String, String>,
        watch: &dyn Watch,
    ) -> Result<Transfer> {
        let meta = std::fs::metadata(from).map_err(|error| Failure::io(from.display(), &error))?;
        if !meta.is_dir() {
            return Err(Failure::usage(format!("{} is not a directory: `pgfiles put` writes a file", from.display())));
        }
        let known = Arc::new(self.known(to).await?);
        let root: PathBuf = from.canonicalize().map_err(|error| Failure::io(from.display(), &error))?;
        let counted = {
            let root = root.clone();
            tokio::task::spawn_blocking(move || local::count(&root)).await.ok()
        };
        let (send, receive) = mpsc::channel(READ_AHEAD);
        let there = known.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let known = |found: &Found| there.get(&found.path).is_some_and(|known| known.is(found));
            local::walk(&root, &known, &mut |said| send.blocking_send(said).is_ok());
        });
        let done = self.write_all(to, tags, known, receive, (watch, counted)).await;
        drop(reading);
        done
    }

    /// What lies below a directory, and what it is itself, as "".
    async fn known(&self, dir: &Prefix) -> Result<HashMap<String, Known>> {
        let of = |head: &Head, is_dir: bool| Known {
            kind: if is_dir { Kind::Dir } else { head.meta.kind },
            size: head.meta.size,
            mtime: head.meta.mtime,
            mode: head.meta.mode,
            target: head.meta.target.clone(),
        };
        let mut known = HashMap::new();
        if let Some(marker) = self.marker(dir).await? {
            known.insert(String::new(), of(&marker, true));
        }
        self.tree(dir, |node| {
            let is_dir = node.is_dir();
            // A directory that is only implied is none that could be left as it is.
            let implied = Known { kind: Kind::Dir, size: 0, mtime: None, mode: None, target: None };
            let as_it_is = node.head().map_or(implied, |head| of(head, is_dir));
            known.insert(node.path, as_it_is);
            Ok(())
        })
        .await?;
        Ok(known)
    }

    /// Writes what comes, in any order but that directories come before what is in them and files before links to them.
    pub(super) async fn write_all(
        &self,
        to: &Prefix,
        tags: &std::collections::BTreeMap<String, String>,
        known: Arc<HashMap<String, Known>>,
        mut found: mpsc::Receiver<Said>,
        (watch, total): (&dyn Watch, Option<Amount>),
    ) -> Result<Transfer> {
        let mut import = Import {
            files: self,
            to,
            tags,
            known,
            watch,
            total,
            done: Transfer::default(),
            sent: Arc::default(),
            batch: Vec::new(),
            batch_bytes: 0,
            commits: FuturesUnordered::new(),
        };
        while !watch.is_over() {
            let Some(said) = found.recv().await else { break };
            match said {
                Ok(found) => import.take(found).await?,
                Err((path, why)) => import.fail(&path, &why),
            }
            import.show();
        }
        // What was begun is ended either way.
        import.flush().await;
        import.wait(0).await;
        import.show();
        let done = import.done;
        self.store.sync().await?;
        Ok(done)
    }
}

impl Import<'_> {
    fn show(&self) {
        let done = Amount {
            files: self.done.written.files + self.done.unchanged.files + self.done.failed,
            bytes: self.done.written.bytes + self.done.unchanged.bytes + self.sent.load(Ordering::Relaxed),
        };
        self.watch.progress(done, self.total);
    }

    fn fail(&mut self, path: &str, why: &str) {
        self.done.failed += 1;
        self.watch.failed(&shown(path), why);
    }

    async fn take(&mut self, mut found: Found) -> Result<()> {
        let is_known = self.known.get(&found.path).is_some_and(|known| known.is(&found));
        if is_known && !matches!(found.content, Content::Link(_)) {
            self.done.unchanged.add(found.size);
            return Ok(());
        }
        if let Some(known) = self.known.get(&found.path)
            && (known.kind == Kind::Dir) != (found.kind == Kind::Dir)
        {
            let why = if known.kind == Kind::Dir { "a directory is there" } else { "a file is there" };
            self.fail(&found.path, why);
            return Ok(());
        }
        if found.path.is_empty() && self.to.as_str() == self.files.fence.as_str() {
            // The directory that is mounted keeps its own attributes.
            return Ok(());
        }
        let slash = if found.kind == Kind::Dir { "/" } else { "" };
        let text = match found.path.as_str() {
            "" => self.to.as_str().to_owned(),
            path => format!("{}{path}{slash}", self.to),
        };
        let key = match Key::new(&text) {
            Ok(key) if key.parent().as_str().len() <= pgfiles_store::alias::DIR_BYTES_MAX => key,
            Ok(_) => {
                self.fail(&found.path, "its directory lies too deep for a key: only a mount can write it");
                return Ok(());
            }
            Err(error) => {
                self.fail(&found.path, &error.to_string());
                return Ok(());
            }
        };
        found.attributes.tags.clone_from(self.tags);
        let files = self.files;
        let mut ops = match std::mem::replace(&mut found.content, Content::None) {
            Content::Small(data) => vec![files.small(&key, data, &found.attributes, Precondition::Any)],
            Content::None => vec![files.node(&key, found.kind, &found.attributes)],
            Content::Link(first) => return self.link(found, &first, key).await,
            Content::File(at) => return self.large(found, key, at).await,
            Content::Stream(bytes) => return self.stream(found, key, bytes).await,
        };
        if found.kind == Kind::File {
            ops.extend(tagged(&key, &found.attributes));
        }
        self.batch_bytes += ops.iter().map(Op::payload).sum::<usize>();
        self.batch.push((found.path, found.size, ops));
        if self.batch.len() >= BATCH_OPS || self.batch_bytes >= BATCH_BYTES {
            self.flush().await;
        }
        Ok(())
    }

    /// Commits what was collected, beside others.
    async fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if batch.is_empty() {
            return;
        }
        self.wait(AT_ONCE - 1).await;
        let files = self.files;
        self.commits.push(Box::pin(async move { commit_all(files, batch).await }));
    }

    /// Until no more than so many commits are under way.
    async fn wait(&mut self, most: usize) {
        while self.commits.len() > most {
            for (path, size, done) in self.commits.next().await.unwrap_or_default() {
                match done {
                    Ok(()) => self.done.written.add(size),
                    Err(why) => self.fail(&path, &why),
                }
            }
        }
    }

    /// One more name of a file that an earlier path named: after that is there.
    async fn link(&mut self, found: Found, first: &str, key: Key) -> Result<()> {
        self.flush().await;
        self.wait(0).await;
        let from = Key::new(&format!("{}{first}", self.to)).map_err(|error| Failure::failed(error.to_string()))?;
        let entries = self.files.store.lookup(&[from.clone(), key.clone()], 0).await?;
        let group = |entry: Option<&Option<Entry>>| match entry {
            Some(Some(Entry::File(head))) => head.meta.hard_link.clone(),
            _ => None,
        };
        let (one, other) = (group(entries.first()), group(entries.get(1)));
        if one.is_some() && one == other {
            self.done.unchanged.add(0);
            return Ok(());
        }
        let mut ops = Vec::new();
        if matches!(entries.get(1), Some(Some(Entry::File(_)))) {
            let id = self.files.clock.version_id();
            ops.push(Op::Delete(pgfiles_store::batch::Delete { id, key: key.clone(), expect: Precondition::Any }));
        }
        ops.push(Op::Link(Link { id: self.files.clock.version_id(), from, to: key, ctime: Some(self.files.clock.now()) }));
        match self.files.commit(ops, Durability::Async).await {
            Ok(_) => self.done.written.add(0),
            Err(error) => self.fail(&found.path, &error.to_string()),
        }
        Ok(())
    }

    async fn large(&mut self, found: Found, key: Key, at: PathBuf) -> Result<()> {
        self.wait(AT_ONCE - 1).await;
        let (files, sent, watch) = (self.files, self.sent.clone(), self.watch);
        self.commits.push(Box::pin(async move {
            let counted = AtomicU64::new(0);
            let count = |bytes| {
                counted.fetch_add(bytes, Ordering::Relaxed);
                sent.fetch_add(bytes, Ordering::Relaxed);
            };
            let done = tokio::select! {
                done = send(files, &key, &at, found.attributes.tags.clone(), &count) => done.map_err(|failure| failure.message),
                () = stopped(watch) => Err(STOPPED.to_owned()),
            };
            sent.fetch_sub(counted.load(Ordering::Relaxed), Ordering::Relaxed);
            vec![(found.path, found.size, done)]
        }));
        Ok(())
    }

    /// What comes in order cannot be read beside anything else.
    async fn stream(&mut self, found: Found, key: Key, bytes: mpsc::Receiver<std::io::Result<Bytes>>) -> Result<()> {
        let stream = futures_util::stream::unfold(bytes, |mut bytes| async move { Some((bytes.recv().await?, bytes)) });
        let mut reader = StreamReader::new(Box::pin(stream));
        let (sent, watch, total, before) = (self.sent.clone(), self.watch, self.total, self.done);
        let show = |bytes: u64| {
            let so_far = sent.fetch_add(bytes, Ordering::Relaxed) + bytes;
            let done = before.written.bytes + before.unchanged.bytes + so_far;
            watch.progress(Amount { files: before.written.files + before.unchanged.files, bytes: done }, total);
        };
        let done = tokio::select! {
            done = self.files.put(&key, &mut reader, &found.attributes, Precondition::Any, &show) => done,
            () = stopped(watch) => Err(Failure::failed(STOPPED)),
        };
        self.sent.store(0, Ordering::Relaxed);
        match done {
            Ok(_) => self.done.written.add(found.size),
            Err(failure) => self.fail(&found.path, &failure.message),
        }
        Ok(())
    }
}

/// A file that may change meanwhile.
async fn send(
    files: &Files,
    key: &Key,
    at: &Path,
    tags: std::collections::BTreeMap<String, String>,
    sent: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let unreadable = |error: std::io::Error| Failure::io("cannot be read", &error);
    let mut file = tokio::fs::File::open(at).await.map_err(unreadable)?;
    let meta = file.metadata().await.map_err(unreadable)?;
    let attributes = super::Attributes { tags, ..local::attributes(&meta) };
    let head = files.put(key, &mut file, &attributes, Precondition::Any, sent).await?;
    if head.meta.size == meta.len() && local::is_unchanged(&meta, at) {
        return Ok(());
    }
    // What was written is a mixture: it stays in the history, and the next run takes the file for another one.
    let patch = pgfiles_store::version::AttrPatch { mtime: Some(Timestamp::default()), ..Default::default() };
    let op = pgfiles_store::batch::SetAttr { key: key.clone(), patch, expect: Precondition::Any, explicit: None };
    files.commit(vec![Op::SetAttr(op)], Durability::Async).await?;
    Err(unreadable(local::changes()))
}

/// All together; where that fails, each by itself, so that one that is refused keeps none of the others.
async fn commit_all(files: &Files, batch: Vec<(String, u64, Vec<Op>)>) -> Vec<Sent> {
    let all: Vec<Op> = batch.iter().flat_map(|(_, _, ops)| ops.iter().cloned()).collect();
    match files.commit(all, Durability::Async).await {
        Ok(_) => batch.into_iter().map(|(path, size, _)| (path, size, Ok(()))).collect(),
        // Nobody is asked 500 times whether a server is there.
        Err(error) if batch.len() == 1 || error.is_retryable() || error.op().is_none() => {
            batch.into_iter().map(|(path, size, _)| (path, size, Err(error.to_string()))).collect()
        }
        Err(_) => {
            let mut said = Vec::new();
            for (path, size, ops) in batch {
                let done = files.commit(ops, Durability::Async).await;
                said.push((path, size, done.map(|_| ()).map_err(|error| error.to_string())));
            }
            said
        }
    }
}
