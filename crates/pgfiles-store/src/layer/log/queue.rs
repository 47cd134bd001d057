//! The queue of `writeback`: operations that were answered, or whose callers wait, in the one order in which they are
//! committed.
//!
//! The database holds a prefix of the queue at every moment. Batches that follow one another are committed as one
//! transaction, up to [`GROUP_OPS_MAX`] and [`GROUP_BYTES_MAX`], at the latest [`GROUP_WAIT`] after the first was
//! queued. What a caller waits for is committed alone, so that its refusal is its own.
//!
//! Foretelling and queueing happen under the queue's lock, and the cache learns of it there too, so that two callers
//! never build on the same head.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::batch::{Batch, Durability, Op, Outcome};
use crate::clock::{Clock as _, SystemClock};
use crate::error::{Kind, Result, StoreError};
use crate::key::{Key, Prefix};
use crate::layer::cache::heads::Heads;
use crate::store::{Entry, Part, Store};
use crate::version::Timestamp;

use super::journal::describe;
use super::overlay::{Overlay, effects};
use super::predict::{self, Known};
use super::relax::is_overtaken;
use super::{Log, lock};

/// Operations committed in one transaction.
pub const GROUP_OPS_MAX: usize = 1_000;
/// Bytes committed in one transaction (one batch may have more).
pub const GROUP_BYTES_MAX: usize = 4 << 20;
/// How long an operation waits for others to be committed with.
pub const GROUP_WAIT: Duration = Duration::from_millis(50);
/// Operations in the queue; beyond it callers wait.
pub const QUEUED_OPS_MAX: usize = 100_000;
/// Bytes in the queue, likewise.
pub const QUEUED_BYTES_MAX: usize = 48 << 20;
/// Deleted names whose number is remembered; when there are more, all are forgotten.
const NUMBERS_MAX: usize = 50_000;
/// The pause before a commit that failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// What is pending.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    /// Something was queued, or is wanted at once.
    wanted: Notify,
    /// Every batch before that number is committed or given up.
    done: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    pending: VecDeque<Pending>,
    overlay: Overlay,
    /// Numbers of the newest versions of names that were deleted here, at most [`NUMBERS_MAX`].
    numbers: HashMap<Key, u64>,
    next: u64,
    ops: usize,
    bytes: usize,
    /// Batches at the front that are being committed.
    in_flight: usize,
    /// Batches at the front that were sent together and whose outcome is unknown; 0: none. They are sent together
    /// again and with no other: the server takes the transaction for applied when it finds the first of its rows.
    unknown: usize,
    /// Somebody waits for everything up to this number.
    urgent: u64,
}

struct Pending {
    seq: u64,
    batch: Batch,
    bytes: usize,
    queued: Instant,
    caller: Caller,
}

enum Caller {
    /// Was answered with this.
    Answered(Vec<Outcome>),
    /// Waits.
    Waits(Option<oneshot::Sender<Result<Vec<Outcome>>>>),
}

/// A group on its way: a batch of the front's operations, and how many batches they are.
struct Group {
    batch: Batch,
    count: usize,
    first: u64,
    /// Its caller waits, so it is one batch.
    waited_for: bool,
}

/// What is known with the operations before in the same batch.
struct Before<'k> {
    staged: HashMap<Key, Option<Entry>>,
    overlay: &'k Overlay,
    heads: &'k Heads,
    asked: &'k HashMap<Key, Option<Entry>>,
    /// Numbers of the newest versions of names that were deleted here.
    numbers: HashMap<Key, u64>,
    known_numbers: &'k HashMap<Key, u64>,
}

impl Known for Before<'_> {
    fn entry(&self, path: &Key) -> Option<Option<Entry>> {
        let staged = self.staged.get(path).cloned();
        let known = staged.or_else(|| self.overlay.path(path)).or_else(|| self.heads.peek(path));
        known.or_else(|| self.asked.get(path).cloned())
    }

    fn is_empty(&self, dir: &Prefix) -> Option<bool> {
        let staged = self.staged.iter().any(|(path, entry)| entry.is_some() && dir.contains(path));
        if staged { Some(false) } else { self.heads.is_empty_dir(dir) }
    }

    fn last_number(&self, key: &Key) -> u64 {
        self.numbers.get(key).or_else(|| self.known_numbers.get(key)).copied().unwrap_or(0)
    }

    fn now(&self) -> Timestamp {
        SystemClock.now()
    }
}

/// The number at which a name left off that the server says was taken away.
fn number_left(op: &Op, outcome: &Outcome) -> Option<(Key, u64)> {
    let head = outcome.head.as_ref()?;
    match op {
        Op::Delete(op) => Some((op.key.clone(), head.version.0)),
        Op::Rename(op) if outcome.moved => Some((op.from.clone(), 0)),
        Op::Rename(op) => Some((op.from.clone(), head.meta.from.as_ref()?.get("version")?.as_u64()? + 1)),
        _ => None,
    }
}

/// The number at which a name will leave off that the operation takes away.
fn left_off(op: &Op, outcome: &Outcome, before: &Before<'_>) -> Option<(Key, u64)> {
    match op {
        Op::Delete(op) => Some((op.key.clone(), outcome.head.as_ref()?.version.0)),
        // Its history stays, with a tombstone on top, or nothing does.
        Op::Rename(op) => match before.entry(&op.from)?? {
            Entry::File(head) => Some((op.from.clone(), if outcome.moved { 0 } else { head.version.0 + 1 })),
            Entry::Dir(_) => None,
        },
        Op::RemoveDir(op) => match before.entry(&op.dir.marker()?.as_file())?? {
            Entry::Dir(dir) => Some((op.dir.marker()?, dir.marker.map_or(0, |head| head.version.0) + 1)),
            Entry::File(_) => None,
        },
        _ => None,
    }
}

impl Queue {
    /// Operations and bytes.
    pub fn size(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.ops, state.bytes)
    }

    /// What is pending at paths; `None`: ask the server.
    pub fn lookup(&self, paths: &[Key]) -> Vec<Option<Option<Entry>>> {
        let state = lock(&self.state);
        paths.iter().map(|path| state.overlay.path(path)).collect()
    }

    /// The directory that pending files below a path imply.
    pub fn implied(&self, path: &Key) -> Option<Entry> {
        lock(&self.state).overlay.implied(path)
    }

    /// The bytes of pending rows; `None`: ask the server.
    pub fn read(&self, parts: &[Part]) -> Vec<Option<Bytes>> {
        let state = lock(&self.state);
        parts.iter().map(|part| state.overlay.read(part)).collect()
    }

    /// Everything pending, in order.
    pub fn pending(&self) -> Vec<Batch> {
        lock(&self.state).pending.iter().map(|pending| pending.batch.clone()).collect()
    }

    /// Gives up everything pending; says how many operations that were.
    pub fn discard(&self) -> usize {
        let mut state = lock(&self.state);
        let ops = state.ops;
        for pending in state.pending.drain(..) {
            if let Caller::Waits(Some(caller)) = pending.caller {
                let given_up = StoreError::new(Kind::Other, "given up by `pgfiles flush --discard`");
                let _ = caller.send(Err(given_up));
            }
        }
        (state.overlay, state.ops, state.bytes) = (Overlay::default(), 0, 0);
        (state.in_flight, state.unknown) = (0, 0);
        self.done.send_replace(state.next);
        ops
    }

    fn push(&self, state: &mut State, batch: Batch, caller: Caller) -> u64 {
        let seq = state.next;
        state.next += 1;
        let bytes = batch.payload();
        state.ops += batch.ops.len();
        state.bytes += bytes;
        let waits = matches!(caller, Caller::Waits(_));
        state.pending.push_back(Pending { seq, batch, bytes, queued: Instant::now(), caller });
        if state.pending.len() == 1 || waits || state.is_group_full() {
            self.wanted.notify_one();
        }
        seq
    }

    /// The first batches are committed or given up; gives back what they were.
    fn finish(&self, group: &Group) -> Vec<Pending> {
        let mut state = lock(&self.state);
        let mut finished = Vec::with_capacity(group.count);
        for seq in group.first..group.first + group.count as u64 {
            // After a discard they are no longer there.
            if state.pending.front().is_none_or(|pending| pending.seq != seq) {
                break;
            }
            let Some(pending) = state.pending.pop_front() else { break };
            state.ops -= pending.batch.ops.len();
            state.bytes -= pending.bytes;
            if let Caller::Answered(outcomes) = &pending.caller {
                state.overlay.remove(seq, &pending.batch, outcomes);
            }
            finished.push(pending);
        }
        (state.in_flight, state.unknown) = (0, 0);
        self.done.send_replace(state.pending.front().map_or(state.next, |pending| pending.seq));
        finished
    }

    /// A caller no longer waits: his batch is taken out, unless it is being committed.
    fn withdraw(&self, seq: u64) -> bool {
        let mut state = lock(&self.state);
        let Some(index) = state.pending.iter().position(|pending| pending.seq == seq) else { return false };
        if index < state.in_flight {
            return false;
        }
        if let Some(pending) = state.pending.remove(index) {
            state.ops -= pending.batch.ops.len();
            state.bytes -= pending.bytes;
        }
        self.done.send_replace(state.pending.front().map_or(state.next, |pending| pending.seq));
        true
    }

    /// The next group, if it is time for one; else when to look again.
    fn group(&self) -> std::result::Result<Group, Option<Instant>> {
        let mut state = lock(&self.state);
        let Some(front) = state.pending.front() else { return Err(None) };
        let due = front.queued + GROUP_WAIT;
        let at_once = state.urgent > front.seq || state.pending.iter().any(|pending| pending.waits());
        if !at_once && !state.is_group_full() && Instant::now() < due {
            return Err(Some(due));
        }
        let group = state.take_group().ok_or(None)?;
        state.in_flight = group.count;
        Ok(group)
    }
}

impl Pending {
    fn waits(&self) -> bool {
        matches!(self.caller, Caller::Waits(_))
    }
}

impl State {
    fn is_group_full(&self) -> bool {
        self.ops >= GROUP_OPS_MAX || self.bytes >= GROUP_BYTES_MAX
    }

    fn remember(&mut self, numbers: HashMap<Key, u64>) {
        if self.numbers.len() + numbers.len() > NUMBERS_MAX {
            self.numbers.clear();
        }
        self.numbers.extend(numbers);
    }

    fn take_group(&self) -> Option<Group> {
        let mut pending = self.pending.iter();
        let front = pending.next()?;
        let mut group = Group { batch: front.batch.clone(), count: 1, first: front.seq, waited_for: front.waits() };
        if group.waited_for {
            return Some(group);
        }
        let (mut bytes, ids) = (front.bytes, |batch: &Batch| batch.ops.iter().filter_map(Op::witness).collect::<Vec<_>>());
        let mut written: std::collections::HashSet<_> = ids(&front.batch).into_iter().collect();
        for next in pending {
            let extends = |op: &Op| matches!(op, Op::Put(put) if put.extends.is_some_and(|id| written.contains(&id)));
            let full = group.batch.ops.len() + next.batch.ops.len() > GROUP_OPS_MAX || bytes + next.bytes > GROUP_BYTES_MAX;
            // A row that is replaced within the transaction that wrote it would be missing when the transaction is
            // looked for after a lost reply.
            let alone = self.unknown != 0 && group.count == self.unknown;
            if full || alone || next.waits() || next.batch.by != group.batch.by || next.batch.ops.iter().any(extends) {
                break;
            }
            written.extend(ids(&next.batch));
            group.batch.ops.extend(next.batch.ops.iter().cloned());
            group.batch.again |= next.batch.again;
            bytes += next.bytes;
            group.count += 1;
        }
        Some(group)
    }
}

impl Log {
    /// Queues a batch, and answers at once if its outcomes can be foretold.
    pub(super) async fn enqueue(&self, batch: Batch) -> Result<(Vec<Outcome>, bool)> {
        self.wait_for_room().await?;
        if batch.durability == Durability::Async && batch.ops.iter().all(predict::may_be) {
            let (asked, asked_at) = self.ask_before(&batch).await?;
            if let Some(outcomes) = self.foretell(&batch, &asked, asked_at) {
                return Ok((outcomes, true));
            }
        }
        self.wait_for_turn(batch).await.map(|outcomes| (outcomes, false))
    }

    /// Looks up what the batch touches and nothing is known about.
    async fn ask_before(&self, batch: &Batch) -> Result<(HashMap<Key, Option<Entry>>, u64)> {
        let asked_at = lock(&self.queue.state).next;
        let mut paths: Vec<Key> = batch.ops.iter().flat_map(predict::depends_on).collect();
        paths.retain(|path| self.heads.peek(path).is_none());
        if paths.is_empty() {
            return Ok((HashMap::new(), asked_at));
        }
        paths.sort_unstable();
        paths.dedup();
        let mark = self.heads.mark(&paths);
        let found = self.lookup(&paths, 0).await?;
        let learn = |(path, entry): (Key, _)| {
            let entry = self.heads.learn(mark, &path, entry);
            (path, entry)
        };
        Ok((paths.into_iter().zip(found).map(learn).collect(), asked_at))
    }

    fn foretell(&self, batch: &Batch, asked: &HashMap<Key, Option<Entry>>, asked_at: u64) -> Option<Vec<Outcome>> {
        let begun = Instant::now();
        let mut state = lock(&self.queue.state);
        // What was queued since may be committed and forgotten by the cache again: then only what that still holds counts.
        let nothing = HashMap::new();
        let asked = if state.next == asked_at { asked } else { &nothing };
        let heads = &*self.heads;
        let (overlay, known_numbers) = (&state.overlay, &state.numbers);
        let (staged, numbers) = (HashMap::new(), HashMap::new());
        let mut before = Before { staged, overlay, heads, asked, numbers, known_numbers };
        let mut outcomes = Vec::with_capacity(batch.ops.len());
        for op in &batch.ops {
            let outcome = predict::outcome(op, &batch.by, &before)?;
            before.numbers.extend(left_off(op, &outcome, &before));
            before.staged.extend(effects(op, &outcome));
            outcomes.push(outcome);
        }
        let numbers = before.numbers;
        state.remember(numbers);
        let seq = state.next;
        state.overlay.add(seq, batch, &outcomes);
        self.queue.push(&mut state, batch.clone(), Caller::Answered(outcomes.clone()));
        self.heads.applied(begun, &batch.ops, &outcomes);
        Some(outcomes)
    }

    async fn wait_for_turn(&self, batch: Batch) -> Result<Vec<Outcome>> {
        let (answer, mut answered) = oneshot::channel();
        let seq = self.queue.push(&mut lock(&self.queue.state), batch, Caller::Waits(Some(answer)));
        let lost = || StoreError::new(Kind::Unavailable, "the log of commits ended").unknown_outcome();
        tokio::select! {
            outcome = &mut answered => return outcome.unwrap_or_else(|_| Err(lost())),
            () = tokio::time::sleep(self.wait_max) => {}
        }
        if self.queue.withdraw(seq) {
            return Err(self.outage());
        }
        answered.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn wait_for_room(&self) -> Result<()> {
        let is_full = |(ops, bytes): (usize, usize)| ops >= QUEUED_OPS_MAX || bytes >= QUEUED_BYTES_MAX;
        if !is_full(self.queue.size()) {
            return Ok(());
        }
        let mut done = self.queue.done.subscribe();
        let room = done.wait_for(|_| !is_full(self.queue.size()) || self.is_refused());
        if tokio::time::timeout(self.wait_max, room).await.is_err() {
            return Err(self.outage());
        }
        self.refusal()
    }

    /// Waits until everything queued so far is committed.
    pub(super) async fn committed(&self) -> Result<()> {
        let target = {
            let mut state = lock(&self.queue.state);
            if state.pending.is_empty() {
                return Ok(());
            }
            state.urgent = state.next;
            state.next
        };
        self.queue.wanted.notify_one();
        let mut done = self.queue.done.subscribe();
        let committed = done.wait_for(|done| *done >= target || self.is_refused());
        if tokio::time::timeout(self.wait_max, committed).await.is_err() {
            return Err(self.outage());
        }
        self.refusal()
    }

    fn is_refused(&self) -> bool {
        lock(&self.trouble).read_only.is_some()
    }

    fn refusal(&self) -> Result<()> {
        match &lock(&self.trouble).read_only {
            Some(why) => Err(StoreError::new(Kind::ReadOnly, why.clone())),
            None => Ok(()),
        }
    }

    /// Why what is pending cannot be committed now.
    fn outage(&self) -> StoreError {
        match &lock(&self.trouble).last_error {
            Some((Kind::NoSpace, why)) => StoreError::new(Kind::NoSpace, format!("pending commits wait for space: {why}")),
            Some((_, why)) => StoreError::new(Kind::Unavailable, format!("pending commits wait for the server: {why}")),
            None => StoreError::new(Kind::Unavailable, "pending commits wait for the server"),
        }
    }

    /// The task that commits the queue.
    pub(super) async fn flush_queue(&self) {
        loop {
            let group = match self.queue.group() {
                Ok(group) => group,
                Err(due) => {
                    let time = async {
                        match due {
                            Some(due) => tokio::time::sleep_until(due).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        () = self.queue.wanted.notified() => {}
                        () = time => {}
                    }
                    continue;
                }
            };
            let committed = tokio::select! {
                () = self.stop.cancelled() => return,
                committed = self.commit_group(group) => committed,
            };
            if !committed {
                lock(&self.queue.state).in_flight = 0;
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }

    /// Commits a group; false: to be tried again.
    async fn commit_group(&self, group: Group) -> bool {
        let result = self.commit_now(group.batch.clone()).await;
        let error = match result {
            Ok(outcomes) => {
                self.succeeded(&group, outcomes.into_iter().map(Some).collect());
                return true;
            }
            Err(error) => error,
        };
        if group.waited_for {
            self.answer(&group, Err(error));
            return true;
        }
        // The reply may have been lost: the same transaction must come first again, and be recognised.
        if error.is_outcome_unknown() {
            self.queue.mark_again(&group);
        }
        if is_overtaken(error.kind()) {
            // A refusal: nothing of it was applied, so the batches may go their own ways.
            return self.commit_singly(&group).await;
        }
        self.not_committed(&group.batch, &error);
        false
    }

    /// A group was refused because of what another client did: its batches one by one, each made to fit.
    async fn commit_singly(&self, group: &Group) -> bool {
        for seq in group.first..group.first + group.count as u64 {
            let Some(batch) = self.queue.batch(seq) else { return true };
            match self.commit_answered(&batch).await {
                Ok(outcomes) => self.succeeded(&Group { batch, count: 1, first: seq, waited_for: false }, outcomes),
                Err(error) => {
                    self.not_committed(&batch, &error);
                    return false;
                }
            }
        }
        true
    }

    fn not_committed(&self, batch: &Batch, error: &StoreError) {
        if error.is_retryable() || matches!(error.kind(), Kind::NoSpace | Kind::ServerChanged) {
            self.failed(error);
        } else {
            self.refuse_changes(error, &describe(batch));
            self.queue.done.send_modify(|_| {});
        }
    }

    /// The server has them: the heads get the numbers that it gave.
    fn succeeded(&self, group: &Group, outcomes: Vec<Option<Outcome>>) {
        {
            let mut trouble = lock(&self.trouble);
            (trouble.last_error, trouble.read_only) = (None, None);
        }
        if outcomes.iter().any(Option::is_none) {
            self.heads.doubt(&group.batch.ops);
        }
        let known = group.batch.ops.iter().zip(&outcomes).filter_map(|(op, outcome)| number_left(op, outcome.as_ref()?));
        lock(&self.queue.state).remember(known.collect());
        for outcome in outcomes.iter().flatten() {
            if let Some(head) = outcome.head.as_ref().filter(|head| head.is_live()) {
                self.heads.correct(head);
            }
        }
        self.answer(group, Ok(outcomes.into_iter().map(Option::unwrap_or_default).collect()));
    }

    fn answer(&self, group: &Group, result: Result<Vec<Outcome>>) {
        let mut result = Some(result);
        for pending in self.queue.finish(group) {
            if let (Caller::Waits(Some(caller)), Some(result)) = (pending.caller, result.take()) {
                let _ = caller.send(result);
            }
        }
    }
}

impl Queue {
    fn batch(&self, seq: u64) -> Option<Batch> {
        let mut state = lock(&self.state);
        let front = state.pending.front().filter(|pending| pending.seq == seq)?.batch.clone();
        state.in_flight = 1;
        Some(front)
    }

    /// The group's transaction may be on the server already.
    fn mark_again(&self, group: &Group) {
        let mut state = lock(&self.state);
        state.unknown = group.count;
        for pending in state.pending.iter_mut().take(group.count) {
            pending.batch.again = true;
        }
    }
}
