//! The store of a live mount over its control socket: what a command does to files and versions is done by the daemon, as if the
//! command had its connection. After [`super::protocol::Call::Store`] both ends speak frames: four bytes of length, big endian, and a
//! [`Question`] or an [`Answer`] in MessagePack, one answer per question, in turn. The form is that of one release.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use pgfiles_store::batch::{Batch, Op, Outcome};
use pgfiles_store::error::{Kind, StoreError};
use pgfiles_store::store::{Cursor, Moment, Page, Part, Purge, PurgeReport, Usage};
use pgfiles_store::{Entry, Head, Key, Prefix, Result, Store, VersionNo};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::protocol::Call;
use crate::files::Keep;

/// The largest frame: what fits in one round trip to the server, with room to spare.
const FRAME_BYTES_MAX: u32 = 64 << 20;

/// A call of [`Store`]; purges go by [`super::protocol::Call::Serve`].
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // the arguments of the methods of the same names
pub enum Question {
    Lookup {
        paths: Vec<Key>,
        inline_max: u32,
    },
    List {
        dir: Prefix,
        from: Option<Cursor>,
        limit: u32,
        inline_max: u32,
    },
    Tree {
        under: Prefix,
        after: Option<Key>,
        limit: u32,
    },
    Deleted {
        under: Prefix,
        after: Option<Key>,
        limit: u32,
    },
    Read {
        parts: Vec<Part>,
        once: bool,
    },
    Commit(Batch),
    Sync,
    Versions {
        key: Key,
        before: Option<VersionNo>,
        limit: u32,
    },
    History {
        dir: Prefix,
        limit: u32,
    },
    Usage(Prefix),
    /// [`Keep::keep`], of that name.
    Keep(String),
}

/// What [`Store`] says.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Entries(Vec<Option<Entry>>),
    Page(Page),
    Heads(Vec<Head>),
    Bytes(Vec<Bytes>),
    Outcomes(Vec<Outcome>),
    Moments(Vec<Moment>),
    Usage(Usage),
    Done,
    Failed { kind: Kind, message: String, op: Option<usize> },
}

/// The keys that an operation writes to; one that ends in `/` stands for all below, too.
pub fn touched(op: &Op) -> Vec<Key> {
    let dirs = |dirs: &[&Prefix]| dirs.iter().filter_map(|dir| dir.marker()).collect();
    match op {
        Op::Put(op) => vec![op.key.clone()],
        // Nobody sees it before the version that refers to it.
        Op::Body(_) => Vec::new(),
        Op::SetAttr(op) => vec![op.key.clone()],
        Op::Delete(op) => vec![op.key.clone()],
        Op::RemoveDir(op) => dirs(&[&op.dir]),
        Op::Rename(op) => vec![op.from.clone(), op.to.clone()],
        Op::RenameDir(op) => dirs(&[&op.from, &op.to]),
        Op::Exchange(op) => {
            [&op.from, &op.to].into_iter().flat_map(|key| [key.clone()].into_iter().chain(key.as_dir().marker())).collect()
        }
        Op::Link(op) => vec![op.from.clone(), op.to.clone()],
        Op::Copy(op) => vec![op.to.clone()],
        Op::Restore(op) => vec![op.key.clone()],
        Op::RestoreDir(op) => dirs(&[&op.dir]),
    }
}

/// The daemon's end: answers one question from its store. Names what has changed.
///
/// # Errors
/// The question leaves the prefix of the mount.
async fn answer(
    (store, keep, fence): (&dyn Store, &dyn Keep, &Prefix),
    question: Question,
    changed: &mut Vec<Key>,
) -> Result<Answer> {
    let key_inside = |key: &Key| fence.contains(key) || key.as_dir() == *fence;
    let inside = match &question {
        Question::Lookup { paths, .. } => paths.iter().all(key_inside),
        Question::List { dir, .. } | Question::History { dir, .. } => dir.as_str().starts_with(fence.as_str()),
        Question::Tree { under, .. } | Question::Deleted { under, .. } | Question::Usage(under) => {
            under.as_str().starts_with(fence.as_str())
        }
        Question::Commit(batch) => batch.ops.iter().flat_map(touched).all(|key| key_inside(&key)),
        Question::Versions { key, .. } => key_inside(key),
        // Rows are known by ids that nobody guesses.
        Question::Read { .. } | Question::Sync | Question::Keep(_) => true,
    };
    if !inside {
        return Err(StoreError::new(Kind::Forbidden, format!("it lies outside the prefix {fence:?} of the mount")));
    }
    Ok(match question {
        Question::Lookup { paths, inline_max } => Answer::Entries(store.lookup(&paths, inline_max).await?),
        Question::List { dir, from, limit, inline_max } => {
            Answer::Page(store.list(&dir, from.as_ref(), limit, inline_max).await?)
        }
        Question::Tree { under, after, limit } => Answer::Heads(store.tree(&under, after.as_ref(), limit).await?),
        Question::Deleted { under, after, limit } => Answer::Heads(store.deleted(&under, after.as_ref(), limit).await?),
        Question::Read { parts, once: false } => Answer::Bytes(store.read(&parts).await?),
        Question::Read { parts, once: true } => Answer::Bytes(store.read_once(&parts).await?),
        Question::Commit(batch) => {
            changed.extend(batch.ops.iter().flat_map(touched));
            let outcomes = store.commit(batch).await?;
            changed.extend(outcomes.iter().flat_map(|outcome| outcome.also.iter().cloned()));
            Answer::Outcomes(outcomes)
        }
        Question::Sync => {
            store.sync().await?;
            Answer::Done
        }
        Question::Versions { key, before, limit } => Answer::Heads(store.versions(&key, before, limit).await?),
        Question::History { dir, limit } => Answer::Moments(store.history(&dir, limit).await?),
        Question::Keep(mount) => {
            keep.keep(fence, &mount).await?;
            Answer::Done
        }
        Question::Usage(prefix) => Answer::Usage(store.usage(&prefix).await?),
    })
}

/// The daemon's end of a connection: until the other hangs up. `changed` is told what each commit touched, before its answer.
///
/// # Errors
/// The connection's, or a frame that is none.
pub async fn serve(
    (read, write): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
    of: (&dyn Store, &dyn Keep, &Prefix),
    changed: impl Fn(&[Key]),
) -> std::io::Result<()> {
    loop {
        let question: Question = match receive(read).await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        let mut keys = Vec::new();
        let said = answer(of, question, &mut keys).await;
        if !keys.is_empty() {
            changed(&keys);
        }
        let said = said.unwrap_or_else(|error| Answer::Failed { kind: error.kind(), message: error.to_string(), op: error.op() });
        send(write, &said).await?;
    }
}

async fn send(write: &mut (impl AsyncWrite + Unpin), what: &impl Serialize) -> std::io::Result<()> {
    let bytes = rmp_serde::to_vec(what).map_err(std::io::Error::other)?;
    let len = u32::try_from(bytes.len()).ok().filter(|len| *len <= FRAME_BYTES_MAX);
    write.write_u32(len.ok_or_else(|| std::io::Error::other("a frame is too long"))?).await?;
    write.write_all(&bytes).await
}

async fn receive<T: DeserializeOwned>(read: &mut (impl AsyncRead + Unpin)) -> std::io::Result<T> {
    let len = read.read_u32().await?;
    if len > FRAME_BYTES_MAX {
        return Err(std::io::Error::other("a frame is too long"));
    }
    let mut bytes = vec![0; len as usize];
    read.read_exact(&mut bytes).await?;
    rmp_serde::from_slice(&bytes).map_err(std::io::Error::other)
}

/// The command's end.
#[derive(Debug)]
pub struct Remote {
    socket: PathBuf,
    /// Connections that nobody uses.
    idle: Mutex<Vec<UnixStream>>,
}

impl Remote {
    /// The store of the daemon that listens there. Connects when it is asked for something.
    pub fn new(socket: &Path) -> Arc<Self> {
        Arc::new(Self { socket: socket.to_owned(), idle: Mutex::default() })
    }

    async fn connect(&self) -> std::io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let mut line = serde_json::to_vec(&Call::Store)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        Ok(stream)
    }

    async fn ask(&self, question: Question) -> Result<Answer> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let spoken = async {
            let mut stream = match idle {
                Some(stream) => stream,
                None => self.connect().await?,
            };
            send(&mut stream, &question).await?;
            let said: Answer = receive(&mut stream).await?;
            Ok::<_, std::io::Error>((stream, said))
        };
        let (stream, said) = spoken.await.map_err(|error| {
            let unknown = matches!(question, Question::Commit(_));
            let why = format!("the daemon of the mount does not answer: {}", crate::exit::plain(&error));
            let error = StoreError::new(Kind::Other, why).with_source(error);
            if unknown { error.unknown_outcome() } else { error }
        })?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        match said {
            Answer::Failed { kind, message, op } => {
                let error = StoreError::new(kind, message);
                Err(match op {
                    Some(op) => error.at_op(op),
                    None => error,
                })
            }
            other => Ok(other),
        }
    }
}

#[async_trait]
impl Keep for Remote {
    async fn keep(&self, _prefix: &Prefix, mount: &str) -> Result<()> {
        match self.ask(Question::Keep(mount.to_owned())).await? {
            Answer::Done => Ok(()),
            other => confused(&other),
        }
    }
}

fn confused<T>(said: &Answer) -> Result<T> {
    Err(StoreError::new(Kind::Other, format!("the daemon of the mount answered something else: {said:?}")))
}

macro_rules! asks {
    ($self:ident, $question:expr, $answer:path) => {
        match $self.ask($question).await? {
            $answer(found) => Ok(found),
            other => confused(&other),
        }
    };
}

#[async_trait]
impl Store for Remote {
    async fn lookup(&self, paths: &[Key], inline_max: u32) -> Result<Vec<Option<Entry>>> {
        asks!(self, Question::Lookup { paths: paths.to_vec(), inline_max }, Answer::Entries)
    }

    async fn list(&self, dir: &Prefix, from: Option<&Cursor>, limit: u32, inline_max: u32) -> Result<Page> {
        asks!(self, Question::List { dir: dir.clone(), from: from.cloned(), limit, inline_max }, Answer::Page)
    }

    async fn tree(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        asks!(self, Question::Tree { under: under.clone(), after: after.cloned(), limit }, Answer::Heads)
    }

    async fn deleted(&self, under: &Prefix, after: Option<&Key>, limit: u32) -> Result<Vec<Head>> {
        asks!(self, Question::Deleted { under: under.clone(), after: after.cloned(), limit }, Answer::Heads)
    }

    async fn read(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        asks!(self, Question::Read { parts: parts.to_vec(), once: false }, Answer::Bytes)
    }

    async fn read_once(&self, parts: &[Part]) -> Result<Vec<Bytes>> {
        asks!(self, Question::Read { parts: parts.to_vec(), once: true }, Answer::Bytes)
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<Outcome>> {
        asks!(self, Question::Commit(batch), Answer::Outcomes)
    }

    async fn sync(&self) -> Result<()> {
        match self.ask(Question::Sync).await? {
            Answer::Done => Ok(()),
            other => confused(&other),
        }
    }

    async fn versions(&self, key: &Key, before: Option<VersionNo>, limit: u32) -> Result<Vec<Head>> {
        asks!(self, Question::Versions { key: key.clone(), before, limit }, Answer::Heads)
    }

    async fn history(&self, dir: &Prefix, limit: u32) -> Result<Vec<Moment>> {
        asks!(self, Question::History { dir: dir.clone(), limit }, Answer::Moments)
    }

    async fn purge(&self, _purge: &Purge) -> Result<PurgeReport> {
        Err(StoreError::new(Kind::Unsupported, "a purge is asked for as a request of its own"))
    }

    async fn usage(&self, prefix: &Prefix) -> Result<Usage> {
        asks!(self, Question::Usage(prefix.clone()), Answer::Usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgfiles_store::clock::{Clock as _, SystemClock};
    use pgfiles_store::mem::MemStore;

    struct Kept;

    #[async_trait]
    impl Keep for Kept {
        async fn keep(&self, prefix: &Prefix, mount: &str) -> Result<()> {
            assert_eq!((prefix.as_str(), mount), ("a/", "m"));
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_store_over_a_socket_says_what_the_store_says() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let (told, mut keys) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let store = MemStore::default();
            let (mut stream, _) = listener.accept().await.unwrap();
            while stream.read_u8().await.unwrap() != b'\n' {}
            let (mut read, mut write) = stream.split();
            let fence = Prefix::new("a").unwrap();
            serve((&mut read, &mut write), (&store, &Kept, &fence), |keys| told.send(keys.to_vec()).unwrap()).await.unwrap();
        });
        let remote = Remote::new(&socket);
        let content = |key: &str| crate::service::content::Content {
            key: Key::new(key).unwrap(),
            data: vec![7; 1 << 20].into(),
            content_type: None,
            expect: pgfiles_store::Precondition::Absent,
        };
        let ops = |key: &str| crate::service::content::put(content(key), &"m".into(), &SystemClock);
        let batch = |key: &str| Batch {
            ops: ops(key),
            ..Batch::one(ops(key).remove(0), &Arc::new(serde_json::json!({"tags": {"a": "b"}})))
        };
        let outcomes = remote.commit(batch("a/large")).await.unwrap();
        assert_eq!(outcomes.last().unwrap().head.as_ref().unwrap().version, VersionNo(1));
        assert_eq!(keys.recv().await.unwrap(), [Key::new("a/large").unwrap()]);
        let found = remote.lookup(&[Key::new("a/large").unwrap(), Key::new("a/none").unwrap()], 0).await.unwrap();
        let [Some(Entry::File(head)), None] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((head.meta.size, head.meta.by.as_ref().unwrap()["tags"]["a"].as_str()), (1 << 20, Some("b")));
        let body = pgfiles_store::body::Body::open(&*remote, head).await.unwrap();
        assert_eq!(body.read(&*remote, (1 << 20) - 5, 10).await.unwrap(), vec![7; 5]);
        let refused = remote.commit(batch("a/large")).await.unwrap_err();
        assert_eq!((refused.kind(), refused.op()), (Kind::Conflict, Some(8)), "{refused}");
        assert_eq!(remote.commit(batch("b/x")).await.unwrap_err().kind(), Kind::Forbidden);
        remote.keep(&Prefix::default(), "m").await.unwrap();
        let mut other = batch("a/y");
        other.ops.truncate(0);
        other.ops.push(Op::Delete(pgfiles_store::batch::Delete {
            id: SystemClock.version_id(),
            key: Key::new("a/large").unwrap(),
            expect: pgfiles_store::Precondition::Any,
        }));
        remote.commit(other).await.unwrap();
        let all = remote.versions(&Key::new("a/large").unwrap(), None, 10).await.unwrap();
        assert_eq!(all.iter().map(Head::is_live).collect::<Vec<_>>(), [false, true]);
    }
}
