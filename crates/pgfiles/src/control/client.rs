//! The command's end of the control socket.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::protocol::{Call, Reply};
use crate::exit::{Failure, Result};
use crate::registry::Mount;
use crate::service::Talk;

/// How long a daemon may take to accept a connection: it does so whatever the server does.
const CONNECT_SECONDS: u64 = 5;

/// Asks the daemon of a mount; what it says on the way goes to `talk`.
///
/// # Errors
/// What the daemon answers, or that it does not.
pub async fn call(mount: &Mount, call: &Call, talk: &dyn Talk) -> Result<Value> {
    call_with(mount, call, futures_util::stream::empty(), talk).await
}

/// The same, with the lines of a batch. An error in `lines` ends the call; the daemon then changes nothing.
///
/// # Errors
/// What the daemon answers, that it does not, or the error in `lines`.
pub async fn call_with(
    mount: &Mount,
    call: &Call,
    lines: impl futures_util::Stream<Item = Result<String>> + Send,
    talk: &dyn Talk,
) -> Result<Value> {
    let silent = |why: &dyn std::fmt::Display| {
        let at = mount.mountpoint.display();
        Failure::failed(format!("the daemon of {at} (process {}) does not answer: {why}; see {}", mount.pid, mount.log.display()))
    };
    let connect = tokio::time::timeout(Duration::from_secs(CONNECT_SECONDS), UnixStream::connect(&mount.socket));
    let stream = connect.await.map_err(|_| silent(&"timeout"))?.map_err(|error| silent(&crate::exit::plain(&error)))?;
    let (read, mut write) = stream.into_split();
    let has_lines = matches!(call, Call::Serve(request) if request.has_lines());
    let mut first = serde_json::to_vec(call).map_err(|error| Failure::failed(error.to_string()))?;
    first.push(b'\n');
    let send = async move {
        write.write_all(&first).await.map_err(Sent::Broken)?;
        if has_lines {
            let mut lines = std::pin::pin!(lines);
            while let Some(line) = futures_util::StreamExt::next(&mut lines).await {
                let mut line = line.map_err(Sent::Bad)?.into_bytes();
                line.push(b'\n');
                write.write_all(&line).await.map_err(Sent::Broken)?;
            }
            write.write_all(b"\n").await.map_err(Sent::Broken)?;
        }
        Ok(write)
    };
    let receive = receive(BufReader::new(read), talk);
    tokio::pin!(send, receive);
    let mut held = None;
    loop {
        tokio::select! {
            sent = &mut send, if held.is_none() => match sent {
                // Kept open: closing it would cancel the request.
                Ok(write) => held = Some(Some(write)),
                Err(Sent::Bad(failure)) => return Err(failure),
                // The daemon has stopped reading: its reply says why.
                Err(Sent::Broken(_)) => held = Some(None),
            },
            last = &mut receive => return last.map_err(|error| silent(&crate::exit::plain(&error)))?,
        }
    }
}

/// Why not all could be sent.
enum Sent {
    Broken(#[allow(dead_code)] io::Error),
    Bad(Failure),
}

async fn receive(mut read: BufReader<tokio::net::unix::OwnedReadHalf>, talk: &dyn Talk) -> io::Result<Result<Value>> {
    let mut line = String::new();
    loop {
        line.clear();
        if read.read_line(&mut line).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection"));
        }
        match serde_json::from_str(&line)? {
            Reply::Say(text) => talk.say(&text),
            Reply::Progress { done, total, what } => talk.progress(done, total, &what),
            Reply::Done(value) => return Ok(Ok(value)),
            Reply::Failed(failure) => return Ok(Err(failure)),
        }
    }
}
