//! Blocks on their way to the thread that writes. Nobody waits: what does not fit is not taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::layer::cache::data::BlockKey;

/// The most bytes on their way.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;
/// What a block costs besides its bytes, about.
const OVERHEAD_BYTES: usize = 80;
/// As many bytes are taken from the queue together.
const TAKE_BYTES: usize = 256 << 10;

/// Where blocks are put in. The channel has no bound of its own: the bytes in it have.
pub struct Queue {
    messages: Sender<Message>,
    bytes: Arc<AtomicUsize>,
}

/// Where they come out.
pub struct Waiting {
    messages: Receiver<Message>,
    bytes: Arc<AtomicUsize>,
}

enum Message {
    Put(Vec<(BlockKey, Bytes)>),
    Flush(oneshot::Sender<()>),
}

/// What is to be done next.
#[derive(Default)]
pub struct Work {
    /// Blocks to write; they count as being on their way until [`Waiting::done`].
    pub blocks: Vec<(BlockKey, Bytes)>,
    /// Who waits for them and for all before.
    pub waits: Option<oneshot::Sender<()>>,
}

/// Both ends.
pub fn queue() -> (Queue, Waiting) {
    let (sender, receiver) = channel();
    let bytes = Arc::new(AtomicUsize::new(0));
    (Queue { messages: sender, bytes: bytes.clone() }, Waiting { messages: receiver, bytes })
}

impl Queue {
    /// Takes the blocks, or none of them if too many bytes are on their way.
    pub fn put(&self, blocks: Vec<(BlockKey, Bytes)>) -> bool {
        let cost = cost(&blocks);
        let has_room = |bytes: usize| Some(bytes + cost).filter(|bytes| *bytes <= QUEUE_BYTES_MAX);
        self.bytes.fetch_update(Relaxed, Relaxed, has_room).is_ok() && self.messages.send(Message::Put(blocks)).is_ok()
    }

    /// Takes the blocks in any case: for those that are in memory anyhow.
    pub fn put_all(&self, blocks: Vec<(BlockKey, Bytes)>) {
        self.bytes.fetch_add(cost(&blocks), Relaxed);
        // Without the thread there is nobody to write them.
        let _ = self.messages.send(Message::Put(blocks));
    }

    /// Is answered, or dropped, when all that was put in before is written.
    pub fn flush(&self) -> oneshot::Receiver<()> {
        let (done, waiting) = oneshot::channel();
        let _ = self.messages.send(Message::Flush(done));
        waiting
    }
}

impl Waiting {
    /// Waits for something, and takes what is there with it up to [`TAKE_BYTES`] and about one put. `None`: there is no
    /// [`Queue`] any more.
    pub fn take(&self) -> Option<Work> {
        let mut work = Work::default();
        let mut next = Some(self.messages.recv().ok()?);
        let mut bytes = 0;
        while let Some(message) = next.take() {
            match message {
                Message::Put(blocks) => {
                    bytes += cost(&blocks);
                    work.blocks.extend(blocks);
                }
                Message::Flush(done) => {
                    work.waits = Some(done);
                    break;
                }
            }
            if bytes < TAKE_BYTES {
                next = self.messages.try_recv().ok();
            }
        }
        Some(work)
    }

    /// The blocks are written; their room in the queue is free.
    pub fn done(&self, work: Work) {
        self.bytes.fetch_sub(cost(&work.blocks), Relaxed);
        if let Some(done) = work.waits {
            let _ = done.send(());
        }
    }
}

fn cost(blocks: &[(BlockKey, Bytes)]) -> usize {
    blocks.iter().map(|(_, bytes)| bytes.len() + OVERHEAD_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::VersionId;

    fn block(n: u128, len: usize) -> (BlockKey, Bytes) {
        (BlockKey { id: VersionId(uuid::Uuid::from_u128(n)), lineage: None, block: 0 }, Bytes::from(vec![0; len]))
    }

    #[test]
    fn what_does_not_fit_is_not_taken_until_there_is_room() {
        let (queue, waiting) = queue();
        let taken = (0..100).take_while(|n| queue.put(vec![block(*n, 1 << 20)])).count();
        assert_eq!(taken, (QUEUE_BYTES_MAX >> 20) - 1, "each costs a little more than its bytes");
        assert!(!queue.put(vec![block(100, 1 << 20)]) && queue.put(vec![block(101, 4096)]));
        let work = waiting.take().unwrap();
        assert_eq!(work.blocks, [block(0, 1 << 20)]);
        assert!(!queue.put(vec![block(102, 1 << 20)]), "it is not written yet");
        waiting.done(work);
        assert!(queue.put(vec![block(102, 1 << 20)]));
        queue.put_all(vec![block(103, 4 << 20)]);
        drop(queue);
        let rest = std::iter::from_fn(|| waiting.take().map(|work| (work.blocks.len(), waiting.done(work)).0));
        assert_eq!(rest.sum::<usize>(), taken - 1 + 3);
    }

    #[test]
    fn small_blocks_are_taken_together_and_a_flush_ends_them() {
        let (queue, waiting) = queue();
        (0..10).for_each(|n| assert!(queue.put(vec![block(n, 100)])));
        let mut flushed = queue.flush();
        queue.put(vec![block(10, 100)]);
        let work = waiting.take().unwrap();
        assert_eq!(work.blocks.len(), 10);
        assert!(flushed.try_recv().is_err());
        waiting.done(work);
        assert!(flushed.try_recv().is_ok());
        assert_eq!(waiting.take().unwrap().blocks.len(), 1);
    }
}
