//! Reading ahead of a sequential reader: pieces of growing size are fetched while earlier ones are being read.
//!
//! Bounded: at most two pieces of [`PIECE_BYTES_MAX`] ahead of the reader, per open file.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use pgfiles_store::body::Body;
use pgfiles_store::store::Store;
use pgfiles_store::version::VersionId;

use crate::error::{Result, VfsError};
use crate::progress;

/// The first piece that is fetched ahead.
const PIECE_BYTES_MIN: u64 = 256 << 10;
/// The largest; two of them are on their way at once.
const PIECE_BYTES_MAX: u64 = 4 << 20;
/// Readers of one file arrive a little out of order, because the kernel sends several requests at once.
const SLACK_BYTES: u64 = 1 << 20;

type Fetch = Shared<BoxFuture<'static, Result<Bytes>>>;

#[derive(Default)]
pub(crate) struct ReadAhead {
    /// Where a sequential reader goes on.
    expected: u64,
    piece_bytes: u64,
    pieces: VecDeque<Piece>,
    /// The row whose content the pieces are.
    of: Option<VersionId>,
}

struct Piece {
    start: u64,
    end: u64,
    fetch: Fetch,
}

impl ReadAhead {
    /// Forgets what was fetched: the content is another one.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Notes a read and starts what is worth fetching; the pieces that hold the range, if all of it is on its way.
    fn plan(
        &mut self,
        store: &Arc<dyn Store>,
        body: &Body,
        start: u64,
        end: u64,
        runtime: &tokio::runtime::Handle,
    ) -> Vec<(u64, u64, Fetch)> {
        let sequential = start <= self.expected && start + SLACK_BYTES >= self.expected && self.expected > 0;
        if !sequential && start != 0 {
            *self = Self { expected: end, of: self.of, ..Self::default() };
            return Vec::new();
        }
        self.expected = self.expected.max(end);
        self.pieces.retain(|piece| piece.end + SLACK_BYTES > start);
        let mut next = self.pieces.back().map_or(start, |piece| piece.end);
        if next < start {
            self.pieces.clear();
            next = start;
        }
        while next < body.size() && next < end + self.piece_bytes.max(1) {
            self.piece_bytes = (self.piece_bytes * 2).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
            let until = (next + self.piece_bytes).min(body.size());
            self.pieces.push_back(Piece { start: next, end: until, fetch: fetch(store, body, next, until, runtime) });
            next = until;
        }
        let covering = self.pieces.iter().filter(|piece| piece.start < end && piece.end > start);
        let covering: Vec<_> = covering.map(|piece| (piece.start, piece.end, piece.fetch.clone())).collect();
        let whole = covering.first().is_some_and(|first| first.0 <= start) && covering.last().is_some_and(|last| last.1 >= end);
        if whole { covering } else { Vec::new() }
    }
}

/// Begins to read a piece; it goes on by itself.
fn fetch(store: &Arc<dyn Store>, body: &Body, start: u64, end: u64, runtime: &tokio::runtime::Handle) -> Fetch {
    let (store, body) = (store.clone(), body.clone());
    let read = async move { body.read(&*store, start, end - start).await.map_err(VfsError::from) };
    let fetch = read.boxed().shared();
    drop(runtime.spawn(fetch.clone()));
    fetch
}

/// Reads a range of a body that nobody is writing, ahead of a sequential reader. `of` is the row that the body stands for:
/// what was fetched for another one is forgotten.
pub(crate) async fn read(
    ahead: &Mutex<ReadAhead>,
    store: &Arc<dyn Store>,
    (of, body): (Option<VersionId>, &Body),
    offset: u64,
    len: u64,
    runtime: &tokio::runtime::Handle,
) -> Result<Bytes> {
    let end = (offset + len).min(body.size());
    if offset >= end || matches!(body, Body::Inline { data: Some(_), .. }) {
        return Ok(body.read(&**store, offset, len).await?);
    }
    let pieces = {
        let mut ahead = ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if ahead.of != of {
            ahead.clear();
            ahead.of = of;
        }
        ahead.plan(store, body, offset, end, runtime)
    };
    if pieces.is_empty() {
        return Ok(body.read(&**store, offset, len).await?);
    }
    let single = pieces.len() == 1;
    let mut out = BytesMut::new();
    for (start, piece_end, fetch) in pieces {
        let bytes = match progress::for_anyone(fetch).await {
            Ok(bytes) => bytes,
            Err(error) => {
                ahead.lock().unwrap_or_else(PoisonError::into_inner).clear();
                return Err(error);
            }
        };
        let from = (offset.max(start) - start) as usize;
        let to = (end.min(piece_end) - start) as usize;
        let slice = bytes.slice(from.min(bytes.len())..to.min(bytes.len()));
        if single {
            return Ok(slice);
        }
        out.extend_from_slice(&slice);
    }
    Ok(out.freeze())
}
