//! The daemon's end of the control socket.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use pgfiles_store::{Key, Prefix, Store};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::protocol::{Call, LINE_BYTES_MAX, Reply};
use super::store;
use crate::exit::{Failure, Result};
use crate::files::Keep;
use crate::service::Talk;

/// At most that many requests are served at a time; further ones wait to be accepted.
const REQUESTS_MAX: usize = 32;
/// Replies that wait for a slow reader; beyond it progress is dropped.
const REPLIES_MAX: usize = 256;

/// What a daemon does with a request.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Carries out a request. `lines` are those that follow the call. Dropped when the client goes away.
    async fn handle(&self, call: Call, lines: Lines<'_>, talk: &dyn Talk) -> Result<Value>;

    /// The store that [`Call::Store`] is about, who keeps rows there, and the prefix that nobody leaves.
    fn store(&self) -> (&dyn Store, &dyn Keep, &Prefix);

    /// Keys were changed through that store.
    fn changed(&self, keys: &[Key]);
}

/// The lines that follow a call.
pub struct Lines<'a>(&'a mut (dyn AsyncBufRead + Unpin + Send));

impl std::fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lines")
    }
}

/// Listens on a new socket that only the user may open.
///
/// # Errors
/// It cannot be made.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    let made = UnixListener::bind(path)
        .and_then(|listener| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map(|()| listener));
    made.map_err(|error| Failure::io(format!("cannot listen on {}", path.display()), &error))
}

/// Serves requests until dropped; requests in progress are dropped with it.
pub async fn serve(listener: UnixListener, handler: Arc<dyn Handler>) {
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        while tasks.len() >= REQUESTS_MAX {
            tasks.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) if is_same_user(&stream) => {
                tasks.spawn(converse(stream, handler.clone()));
            }
            Ok(_) => tracing::warn!("control: a connection of another user was refused"),
            Err(error) => {
                // Out of descriptors: wait for one of ours to be given back, rather than spin.
                tracing::warn!(%error, "control: accept");
                if tasks.join_next().await.is_none() {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

fn is_same_user(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

/// Sends what is said on the way; never waits for the reader.
struct Sender(mpsc::Sender<Reply>);

impl Talk for Sender {
    fn say(&self, text: &str) {
        let _ = self.0.try_send(Reply::Say(text.to_owned()));
    }

    fn progress(&self, done: u64, total: Option<u64>, what: &str) {
        let _ = self.0.try_send(Reply::Progress { done, total, what: what.to_owned() });
    }
}

async fn converse(stream: UnixStream, handler: Arc<dyn Handler>) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let call = read_call(&mut read).await;
    if matches!(call, Ok(Call::Store)) {
        let served = store::serve((&mut read, &mut write), handler.store(), |keys| handler.changed(keys)).await;
        return served.unwrap_or_else(|error| tracing::debug!(%error, "control: a store's connection ended"));
    }
    let (send, mut replies) = mpsc::channel(REPLIES_MAX);
    let work = async move {
        let done = match call {
            Ok(call) => {
                let wants_lines = matches!(&call, Call::Serve(request) if request.has_lines());
                let talk = Sender(send.clone());
                if wants_lines {
                    handler.handle(call, Lines(&mut read), &talk).await
                } else {
                    // Nothing more is to come: what ends the connection ends the request.
                    let mut nothing = tokio::io::empty();
                    tokio::select! {
                        done = handler.handle(call, Lines(&mut nothing), &talk) => done,
                        () = closed(&mut read) => return,
                    }
                }
            }
            Err(failure) => Err(failure),
        };
        let last = match done {
            Ok(value) => Reply::Done(value),
            Err(failure) => Reply::Failed(failure),
        };
        let _ = send.send(last).await;
    };
    let answer = async {
        while let Some(reply) = replies.recv().await {
            let mut line = serde_json::to_vec(&reply).unwrap_or_default();
            line.push(b'\n');
            if write.write_all(&line).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = answer => {}
        () = async { work.await; std::future::pending::<()>().await } => {}
    }
}

async fn closed(read: &mut (dyn AsyncBufRead + Unpin + Send)) {
    let mut byte = [0];
    while matches!(read.read(&mut byte).await, Ok(1)) {}
}

async fn read_call(read: &mut (impl AsyncBufRead + Unpin + Send)) -> Result<Call> {
    let line = Lines(read).next().await?.ok_or_else(|| Failure::failed("the request is empty"))?;
    serde_json::from_str(&line).map_err(|error| Failure::usage(format!("request not understood (another release?): {error}")))
}

impl Lines<'_> {
    /// The next line; `None` at an empty one, which says that there are no more.
    ///
    /// # Errors
    /// Too long, not UTF-8, or the connection ended or broke: whoever asked has changed their mind.
    pub async fn next(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        let mut bounded = (&mut *self.0).take(LINE_BYTES_MAX as u64);
        bounded.read_until(b'\n', &mut line).await.map_err(|error| Failure::io("control socket", &error))?;
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() >= LINE_BYTES_MAX {
            return Err(Failure::usage("a line is over 1 GiB long"));
        } else {
            return Err(Failure::failed("the connection ended before the request was complete"));
        }
        if line.is_empty() {
            return Ok(None);
        }
        String::from_utf8(line).map(Some).map_err(|_| Failure::usage("a line is not UTF-8"))
    }
}
