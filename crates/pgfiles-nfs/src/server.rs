//! Connections: records in, replies out (RFC 5531 §11), and the bounds that keep one client from being in the way of the others.
//!
//! A reader for each connection, a task for each request, one writer. Replies are in whatever order they are ready; slots give
//! requests theirs. A request that was begun is carried out to its end even where its connection is gone: its slot keeps the answer.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use pgfiles_vfs::Vfs;
use rand::Rng as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;

use crate::compound;
use crate::core::{Core, NfsConfig};
use crate::peer::{self, Peer};
use crate::proto::RECORD_BYTES_MAX;
use crate::rpc::{self, Credential, Refusal};
use crate::xdr::{Decoder, Encoder};

/// Connections at a time; one more is closed at once.
const CONNECTIONS_MAX: usize = 256;
/// Requests of one connection that are being carried out; the next is read when one of them is done.
const REQUESTS_MAX: usize = 256;
/// Bytes of large requests that are being received or carried out, over all connections; the next waits.
const LARGE_BYTES_MAX: usize = 64 << 20;
/// Requests up to this size do not count.
const SMALL_BYTES: usize = 16 << 10;
/// A record that was begun has to be there by then; so has the first one of a connection.
const RECORD_WAIT: Duration = Duration::from_secs(30);
/// A reply that the client does not take for so long closes its connection.
const WRITE_WAIT: Duration = Duration::from_secs(60);
/// How long requests that are being carried out may take at the end.
const END_WAIT: Duration = Duration::from_secs(30);
/// After accept(2) failed, as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Replies that are sent in one system call.
const REPLIES_AT_ONCE: usize = 32;
/// Of the word before a fragment; the rest is its length.
pub(crate) const LAST_FRAGMENT: u32 = 1 << 31;

/// Where a server listens.
#[derive(Debug)]
pub enum Listener {
    /// On a port; of this machine only processes of the same user and of root are let in.
    Tcp(TcpListener),
    /// On a socket in a directory that nobody else may enter.
    Unix(UnixListener, PathBuf),
}

/// What a server is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NfsStatus {
    pub connections: usize,
    pub clients: usize,
    pub sessions: usize,
    pub open_files: usize,
    /// Requests answered since the start.
    pub requests: u64,
}

/// Serves a filesystem over NFS v4.1.
pub struct Server {
    core: Arc<Core>,
    ending: watch::Sender<bool>,
    connections: AtomicUsize,
    connections_ever: AtomicU64,
    requests: AtomicU64,
    running: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// The connection that alone may speak, where one alone may; 0: none yet.
    speaker: AtomicU64,
}

/// All requests that may run at a time, over all connections.
const RUNNING_MAX: usize = 4096;

impl Server {
    /// A server of a filesystem, in a new life: clients of an earlier one take back what they had.
    pub fn new(vfs: Arc<Vfs>, config: NfsConfig) -> Arc<Self> {
        let mut rng = rand::rng();
        let core = Arc::new(Core::new(vfs, config, rng.random(), rng.random()));
        Arc::new(Self {
            core,
            ending: watch::Sender::new(false),
            connections: AtomicUsize::new(0),
            connections_ever: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            running: Arc::new(Semaphore::new(RUNNING_MAX)),
            large: Arc::new(Semaphore::new(LARGE_BYTES_MAX)),
            speaker: AtomicU64::new(0),
        })
    }

    /// Accepts connections until [`Server::end`].
    pub async fn serve(self: Arc<Self>, listener: Listener) {
        let mut ending = self.ending.subscribe();
        while !*ending.borrow_and_update() {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = ending.changed() => continue,
            };
            match accepted {
                Ok(stream) => self.clone().welcome(stream),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Listener::Unix(_, path) = &listener {
            let _ = std::fs::remove_file(path);
        }
    }

    fn welcome(self: Arc<Self>, stream: Stream) {
        // First: who it is costs more than to send it away.
        if self.connections.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            tracing::warn!("a connection is refused: there are {CONNECTIONS_MAX} already");
            return;
        }
        let peer = stream.peer();
        if let Err(why) = peer.may_come() {
            tracing::warn!(%peer, why, "a connection is refused");
            return;
        }
        let nth = self.connections_ever.fetch_add(1, Ordering::Relaxed) + 1;
        self.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let ended = match stream {
                Stream::Tcp(stream, _) if self.core.config.one_connection => {
                    let ended = self.clone().converse(stream, Some(nth)).await;
                    let _ = self.speaker.compare_exchange(nth, 0, Ordering::AcqRel, Ordering::Relaxed);
                    ended
                }
                Stream::Tcp(stream, _) => self.clone().converse(stream, None).await,
                Stream::Unix(stream) => self.clone().converse(stream, None).await,
            };
            self.connections.fetch_sub(1, Ordering::Relaxed);
            match ended {
                Ok(()) => tracing::debug!(%peer, "a connection ended"),
                Err(error) => tracing::info!(%peer, %error, "a connection is closed"),
            }
        });
    }

    /// Serves one connection to its end. `alone`: its number, where no other may speak beside it.
    ///
    /// # Errors
    /// What the peer did wrong, or the network.
    async fn converse<S>(self: Arc<Self>, stream: S, alone: Option<u64>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (mut input, output) = tokio::io::split(stream);
        let (replies, queue) = mpsc::channel(REQUESTS_MAX);
        let mut writer = tokio::spawn(write_replies(output, queue));
        let mut ending = self.ending.subscribe();
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        let mut greeted = false;
        let ended = loop {
            let record = tokio::select! {
                record = self.record(&mut input, greeted) => record,
                written = &mut writer => break written.unwrap_or_else(|_| Err(io::Error::other("the writer panicked"))),
                _ = ending.wait_for(|ending| *ending) => break Ok(()),
            };
            let (record, permit) = match record {
                Ok(Some(record)) => record,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            greeted = true;
            let (Ok(here), Ok(all)) = (requests.clone().acquire_owned().await, self.running.clone().acquire_owned().await) else {
                break Ok(());
            };
            match self.request(record) {
                Request::Not => break Err(io::Error::new(io::ErrorKind::InvalidData, "what was sent is no call")),
                Request::Answered(reply) => {
                    if replies.send(reply).await.is_err() {
                        continue;
                    }
                }
                Request::Compound { .. } if !alone.is_none_or(|nth| self.may_speak(nth)) => {
                    break Err(io::Error::new(
                        io::ErrorKind::PermissionDenied,
                        "another connection is served here, and no second one",
                    ));
                }
                Request::Compound { xid, credential, arguments } => {
                    let (server, replies) = (self.clone(), replies.clone());
                    tokio::spawn(async move {
                        let reply = server.compound(xid, credential, arguments).await;
                        drop((permit, all));
                        // A client that is gone asks again, over another connection.
                        let _ = replies.send(reply).await;
                        drop(here);
                    });
                }
            }
        };
        drop(replies);
        ended
    }

    /// Whether a connection is the one that alone may speak. The first that does is.
    fn may_speak(&self, nth: u64) -> bool {
        match self.speaker.compare_exchange(0, nth, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(speaker) => speaker == nth,
        }
    }

    async fn compound(&self, xid: u32, credential: Credential, arguments: Bytes) -> Vec<Bytes> {
        let executing = AssertUnwindSafe(compound::execute(self.core.clone(), credential, arguments));
        let result = executing.catch_unwind().await;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let Ok(result) = result else {
            tracing::error!("an operation panicked; its request is answered with an error");
            return framed(rpc::encode_refused(xid, Refusal::SystemError));
        };
        let out = match result {
            Ok(results) => {
                let mut out = rpc::encode_accepted(xid);
                out.append(results);
                out
            }
            Err(_) => {
                tracing::debug!("arguments that cannot be read");
                rpc::encode_refused(xid, Refusal::GarbageArguments)
            }
        };
        framed(out)
    }

    fn request(&self, record: Bytes) -> Request {
        let mut input = Decoder::new(record);
        let call = match rpc::decode_call(&mut input) {
            Ok(call) => call,
            Err(None) => return Request::Not,
            Err(Some((xid, why))) => {
                tracing::debug!(?why, "a call is refused");
                return Request::Answered(framed(rpc::encode_refused(xid, why)));
            }
        };
        if call.procedure == rpc::PROC_NULL {
            return Request::Answered(framed(rpc::encode_accepted(call.xid)));
        }
        if let (Some(only), Credential::Sys(sys)) = (self.core.config.only_uid, &call.credential)
            && sys.uid != only
            && sys.uid != 0
        {
            tracing::debug!(uid = sys.uid, "a call of another user is refused");
            return Request::Answered(framed(rpc::encode_refused(call.xid, Refusal::BadCredential)));
        }
        let arguments = input.rest();
        Request::Compound { xid: call.xid, credential: call.credential, arguments }
    }

    /// The next record, whole; `None` at the end. With what a large one takes of the memory for them.
    async fn record<R>(&self, input: &mut R, greeted: bool) -> io::Result<Option<(Bytes, Option<OwnedSemaphorePermit>)>>
    where
        R: AsyncRead + Unpin,
    {
        let mut header = [0; 4];
        let first = input.read(&mut header);
        // An idle client may be silent for as long as it likes; who just came has something to say.
        let len = if greeted { first.await? } else { in_time(first).await? };
        if len == 0 {
            return Ok(None);
        }
        if let Some(rest) = header.get_mut(len..) {
            in_time(input.read_exact(rest)).await?;
        }
        let mut record = BytesMut::new();
        let mut permit: Option<OwnedSemaphorePermit> = None;
        loop {
            let word = u32::from_be_bytes(header);
            let (last, len) = (word & LAST_FRAGMENT != 0, (word & !LAST_FRAGMENT) as usize);
            let whole = record.len() + len;
            if whole > RECORD_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a record of {whole} bytes or more")));
            }
            let held = permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            if whole > SMALL_BYTES && whole > held {
                // Waited for without memory: nothing of the fragment is read yet.
                let more = self.large.clone().acquire_many_owned((whole - held) as u32).await;
                let more = more.map_err(|_| io::Error::other("ending"))?;
                match &mut permit {
                    Some(permit) => permit.merge(more),
                    None => permit = Some(more),
                }
            }
            let start = record.len();
            record.resize(whole, 0);
            if let Some(room) = record.get_mut(start..) {
                in_time(input.read_exact(room)).await?;
            }
            if last {
                return Ok(Some((record.freeze(), permit)));
            }
            in_time(input.read_exact(&mut header)).await?;
        }
    }

    /// Ends: no connection is accepted, those that there are end, what is being carried out is waited for, and what clients had
    /// open is released, which publishes it. They take it back from the next life.
    pub async fn end(&self) {
        self.ending.send_replace(true);
        let all = self.running.acquire_many(RUNNING_MAX as u32);
        if timeout(END_WAIT, all).await.is_err() {
            tracing::warn!("requests are still being carried out at the end");
        }
        self.core.release(self.core.states.drop_all()).await;
    }

    /// What the server is doing.
    pub fn status(&self) -> NfsStatus {
        let (clients, sessions) = self.core.sessions.count();
        NfsStatus {
            connections: self.connections.load(Ordering::Relaxed),
            clients,
            sessions,
            open_files: self.core.states.count(),
            requests: self.requests.load(Ordering::Relaxed),
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("status", &self.status()).finish_non_exhaustive()
    }
}

enum Request {
    /// Nothing that can be answered.
    Not,
    Answered(Vec<Bytes>),
    Compound {
        xid: u32,
        credential: Credential,
        arguments: Bytes,
    },
}

enum Stream {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

impl Stream {
    fn peer(&self) -> Peer {
        match self {
            Self::Tcp(stream, from) => stream.local_addr().map_or(Peer::Port(*from, None), |to| peer::of_tcp(*from, to)),
            Self::Unix(stream) => Peer::Local(stream.peer_cred().ok().map(|cred| cred.uid())),
        }
    }
}

impl Listener {
    /// On a socket in a directory of its own; what a killed server left there is replaced.
    ///
    /// # Errors
    /// What the system says.
    pub fn unix(path: PathBuf) -> io::Result<Self> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self::Unix(UnixListener::bind(&path)?, path))
    }

    /// On an address.
    ///
    /// # Errors
    /// What the system says.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::Tcp(TcpListener::bind(address).await?))
    }

    /// The port, of one that has one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream, from))
            }
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

async fn in_time<T>(reading: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(RECORD_WAIT, reading).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A reply as a record of one fragment.
pub(crate) fn framed(out: Encoder) -> Vec<Bytes> {
    let header = Bytes::copy_from_slice(&(out.len() as u32 | LAST_FRAGMENT).to_be_bytes());
    std::iter::once(header).chain(out.into_pieces()).collect()
}

/// Writes replies as they come, several at once where they are there.
async fn write_replies<W: AsyncWrite + Unpin>(mut output: W, mut queue: mpsc::Receiver<Vec<Bytes>>) -> io::Result<()> {
    let mut ready = Vec::new();
    while queue.recv_many(&mut ready, REPLIES_AT_ONCE).await > 0 {
        let mut pieces: VecDeque<Bytes> = ready.drain(..).flatten().filter(|piece| !piece.is_empty()).collect();
        while !pieces.is_empty() {
            let written = {
                let slices: Vec<IoSlice<'_>> = pieces.iter().take(64).map(|piece| IoSlice::new(piece)).collect();
                timeout(WRITE_WAIT, output.write_vectored(&slices)).await.map_err(|_| io::ErrorKind::TimedOut)??
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let mut left = written;
            while let Some(piece) = pieces.front_mut().filter(|_| left > 0) {
                let part = left.min(piece.len());
                piece.advance(part);
                left -= part;
                if piece.is_empty() {
                    pieces.pop_front();
                }
            }
        }
    }
    let _ = output.shutdown().await;
    Ok(())
}
