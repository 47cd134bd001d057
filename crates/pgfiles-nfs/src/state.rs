//! What clients hold: opens with their share modes, and locked ranges, by stateid (RFC 8881 §8.2, §9). No I/O: whoever takes
//! something away gets the handles of the core that are to be released.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pgfiles_vfs::{HandleId, InodeNo};

use crate::filehandle::Object;
use crate::proto::{Status, share};
use crate::ranges::{Range, Ranges};
use crate::session::ClientId;
use crate::xdr::{Decoder, Encoder, Malformed};

/// Open files and lock owners, over all clients; one more waits.
const STATES_MAX: usize = 200_000;
/// Locked ranges of one file.
const RANGES_MAX: usize = 10_000;

type Other = [u8; 12];

/// stateid4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StateId {
    pub seq: u32,
    pub other: Other,
}

impl StateId {
    /// No open at all; share modes hold against it.
    pub const ANONYMOUS: Self = Self { seq: 0, other: [0; 12] };
    /// The same, meant to pass by locks, which are advisory here.
    pub const BYPASS: Self = Self { seq: u32::MAX, other: [0xff; 12] };
    /// The one that the operation before left in this COMPOUND (§16.2.3.1.2).
    pub const CURRENT: Self = Self { seq: 1, other: [0; 12] };
    /// What a CLOSE answers: stands for nothing.
    pub const INVALID: Self = Self { seq: u32::MAX, other: [0; 12] };

    pub fn decode(input: &mut Decoder) -> Result<Self, Malformed> {
        Ok(Self { seq: input.u32()?, other: input.array()? })
    }

    pub fn encode(self, out: &mut Encoder) {
        out.u32(self.seq);
        out.fixed(&self.other);
    }

    /// Whether nothing was done with it since it was given out.
    pub fn is_new(self) -> bool {
        self.seq == 1
    }

    pub fn is_special(self) -> bool {
        self == Self::ANONYMOUS || self == Self::BYPASS
    }
}

/// A handle of the core, and whether it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub handle: HandleId,
    pub writes: bool,
}

/// Who wants to open what, how.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub client: ClientId,
    pub owner: Bytes,
    pub object: Object,
    /// Of [`share`].
    pub access: u32,
    pub deny: u32,
}

#[derive(Debug)]
struct Open {
    of: Opening,
    seq: u32,
    reader: Option<HandleId>,
    writer: Option<HandleId>,
    locks: Vec<Other>,
}

#[derive(Debug)]
struct LockOwner {
    client: ClientId,
    owner: Bytes,
    open: Other,
    ino: InodeNo,
    seq: u32,
    number: u64,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    opens: HashMap<Other, Open>,
    files: HashMap<InodeNo, File>,
    /// The open of an owner and file.
    owners: HashMap<(ClientId, Bytes, Object), Other>,
    locks: HashMap<Other, LockOwner>,
    lockers: HashMap<(ClientId, Bytes, InodeNo), Other>,
}

#[derive(Debug, Default)]
struct File {
    opens: Vec<Other>,
    ranges: Ranges<Other>,
}

/// An open as an operation uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    pub id: StateId,
    pub client: ClientId,
    pub access: u32,
    /// For reading, for writing, for anything.
    pub reader: Option<HandleId>,
    pub writer: Option<HandleId>,
}

impl Used {
    /// Any handle of the core; none for a named attribute.
    pub fn handle(&self) -> Option<HandleId> {
        self.writer.or(self.reader)
    }
}

/// A lock that is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocker {
    pub client: ClientId,
    pub owner: Bytes,
    pub start: u64,
    /// Included.
    pub end: u64,
    pub exclusive: bool,
}

/// Why something is not had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// For good.
    Status(Status),
    /// By what another client holds, whose lease may have run out.
    By(ClientId),
    /// By a lock.
    Lock(Blocker),
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// A range that is to be locked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub start: u64,
    /// Included.
    pub end: u64,
    pub exclusive: bool,
}

/// By whom: the first lock of an owner names the open that it belongs to.
#[derive(Debug, Clone)]
pub(crate) enum Locker {
    New { open: StateId, owner: Bytes },
    Known(StateId),
}

/// What is needed to lock in the core as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Locking {
    pub handle: HandleId,
    /// The owner, by a number that no other has.
    pub number: u64,
}

/// All opens and locks of a server.
#[derive(Debug)]
pub(crate) struct States {
    boot: u32,
    inner: Mutex<Inner>,
}

impl States {
    pub fn new(boot: u32) -> Self {
        Self { boot, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up an open, by a handle of the core (none for a named attribute). The stateid, and the handle where it was not
    /// needed: the owner has the file open already in that way (§9.11, upgrade).
    ///
    /// # Errors
    /// Another one denies it, or its access is to be denied; nothing is changed then.
    pub fn open(&self, opening: Opening, held: Option<Held>) -> Result<(StateId, Option<HandleId>), Refused> {
        let mut inner = self.inner();
        inner.check_share(&opening, opening.access, opening.deny)?;
        let key = (opening.client, opening.owner.clone(), opening.object);
        let other = match inner.owners.get(&key) {
            Some(other) => *other,
            None => {
                let other = inner.next(self.boot)?;
                inner.owners.insert(key, other);
                inner.files.entry(opening.object.ino()).or_default().opens.push(other);
                let of = Opening { access: 0, deny: 0, ..opening.clone() };
                inner.opens.insert(other, Open { of, seq: 0, reader: None, writer: None, locks: Vec::new() });
                other
            }
        };
        let open = inner.opens.get_mut(&other).ok_or(Status::ServerFault)?;
        open.of.access |= opening.access;
        open.of.deny |= opening.deny;
        open.seq = next_seq(open.seq);
        let surplus = match held {
            None => None,
            Some(Held { handle, writes: true }) if open.writer.is_none() => {
                open.writer = Some(handle);
                open.reader.take()
            }
            Some(Held { handle, writes: false }) if open.writer.is_none() && open.reader.is_none() => {
                open.reader = Some(handle);
                None
            }
            Some(Held { handle, .. }) => Some(handle),
        };
        Ok((StateId { seq: open.seq, other }, surplus))
    }

    /// Whether share modes let the holder of no open read or write.
    ///
    /// # Errors
    /// [`Status::Locked`].
    pub fn check_anonymous(&self, object: Object, access: u32) -> Result<(), Status> {
        let inner = self.inner();
        let opens = inner.files.get(&object.ino()).into_iter().flat_map(|file| &file.opens);
        let denies =
            |other: &Other| inner.opens.get(other).is_some_and(|open| open.of.object == object && open.of.deny & access != 0);
        if opens.into_iter().any(denies) { Err(Status::Locked) } else { Ok(()) }
    }

    /// The open that a stateid stands for, of a lock too.
    ///
    /// # Errors
    /// [`Status::BadStateId`], [`Status::OldStateId`].
    pub fn find(&self, id: StateId, client: ClientId, object: Object) -> Result<Used, Status> {
        let inner = self.inner();
        let (open, seq) = match (inner.opens.get(&id.other), inner.locks.get(&id.other)) {
            (Some(open), _) => (open, open.seq),
            (None, Some(lock)) => (inner.opens.get(&lock.open).ok_or(Status::BadStateId)?, lock.seq),
            (None, None) => return Err(Status::BadStateId),
        };
        if open.of.client != client || open.of.object != object {
            return Err(Status::BadStateId);
        }
        check_seq(id.seq, seq)?;
        Ok(Used {
            id: StateId { seq, other: id.other },
            client,
            access: open.of.access,
            reader: open.reader,
            writer: open.writer,
        })
    }

    /// The same where only the open's own stateid will do.
    ///
    /// # Errors
    /// As [`States::find`].
    pub fn find_open(&self, id: StateId, client: ClientId, object: Object) -> Result<Used, Status> {
        if !self.inner().opens.contains_key(&id.other) {
            return Err(Status::BadStateId);
        }
        self.find(id, client, object)
    }

    /// A handle that writes a file, of whoever has it open.
    pub fn writer_of(&self, ino: InodeNo) -> Option<HandleId> {
        let inner = self.inner();
        inner.files.get(&ino)?.opens.iter().find_map(|other| inner.opens.get(other)?.writer)
    }

    /// A handle of a file, of whoever has it open.
    pub fn any_handle(&self, ino: InodeNo) -> Option<HandleId> {
        let inner = self.inner();
        inner.files.get(&ino)?.opens.iter().find_map(|other| inner.opens.get(other).and_then(|open| open.writer.or(open.reader)))
    }

    /// Whether a lock owner of that number is known here.
    pub fn is_ours(&self, number: u64) -> bool {
        self.inner().locks.values().any(|lock| lock.number == number)
    }

    /// Takes an open away with all locks that belong to it, and the handle to be released.
    pub fn close(&self, id: StateId) -> Option<HandleId> {
        self.inner().close(id.other)
    }

    /// Less access. The new stateid, and the handle that is not needed any more. `reader`: one that only reads, where that is
    /// what is left.
    ///
    /// # Errors
    /// [`Status::Inval`] for more than there is.
    pub fn downgrade(
        &self,
        id: StateId,
        (access, deny): (u32, u32),
        reader: Option<HandleId>,
    ) -> Result<(StateId, Option<HandleId>), Status> {
        let mut inner = self.inner();
        let open = inner.opens.get_mut(&id.other).ok_or(Status::BadStateId)?;
        if access & !open.of.access != 0 || deny & !open.of.deny != 0 {
            return Err(Status::Inval);
        }
        (open.of.access, open.of.deny) = (access, deny);
        open.seq = next_seq(open.seq);
        let released = match reader {
            Some(reader) if access & share::WRITE == 0 && open.writer.is_some() => {
                open.reader = Some(reader);
                open.writer.take()
            }
            surplus => surplus,
        };
        Ok((StateId { seq: open.seq, other: id.other }, released))
    }

    /// Whether a range may be locked, and what to lock it with in the core. Nothing is changed.
    ///
    /// # Errors
    /// What is in the way; stateids that are none.
    pub fn check_lock(&self, client: ClientId, object: Object, locker: &Locker, wanted: Wanted) -> Result<Locking, Refused> {
        let mut inner = self.inner();
        let (open_other, lock_other) = inner.locker(client, object, locker)?;
        let open = inner.opens.get(&open_other).ok_or(Status::BadStateId)?;
        let needed = if wanted.exclusive { share::WRITE } else { share::READ };
        if open.of.access & needed == 0 {
            return Err(Status::OpenMode.into());
        }
        let handle = open.writer.or(open.reader).ok_or(Status::Inval)?;
        // Who has no lock yet gets a number that nobody has: the next one, which `lock` gives out.
        let (owner, number) = match lock_other.and_then(|other| inner.locks.get(&other).map(|lock| (other, lock.number))) {
            Some(known) => known,
            None => {
                inner.last += 1;
                (other(self.boot, inner.last), inner.last)
            }
        };
        let file = inner.files.get(&object.ino()).ok_or(Status::BadStateId)?;
        let range = Range { owner, start: wanted.start, end: wanted.end, exclusive: wanted.exclusive };
        if let Some(held) = file.ranges.conflict(&range) {
            return Err(inner.blocker(held));
        }
        if file.ranges.len() >= RANGES_MAX {
            return Err(Status::Delay.into());
        }
        Ok(Locking { handle, number })
    }

    /// Locks a range that [`States::check_lock`] found free. The lock's stateid.
    ///
    /// # Errors
    /// As there: somebody may have come between.
    pub fn lock(
        &self,
        client: ClientId,
        object: Object,
        locker: &Locker,
        (wanted, locking): (Wanted, Locking),
    ) -> Result<StateId, Refused> {
        let mut inner = self.inner();
        let (open_other, lock_other) = inner.locker(client, object, locker)?;
        let other = lock_other.unwrap_or_else(|| other(self.boot, locking.number));
        let range = Range { owner: other, start: wanted.start, end: wanted.end, exclusive: wanted.exclusive };
        let ranges = &mut inner.files.get_mut(&object.ino()).ok_or(Status::BadStateId)?.ranges;
        if let Some(held) = ranges.conflict(&range) {
            return Err(inner.blocker(held));
        }
        ranges.lock(range);
        if lock_other.is_none()
            && let Locker::New { owner, .. } = locker
        {
            let ino = object.ino();
            inner.lockers.insert((client, owner.clone(), ino), other);
            let lock = LockOwner { client, owner: owner.clone(), open: open_other, ino, seq: 0, number: locking.number };
            inner.locks.insert(other, lock);
            if let Some(open) = inner.opens.get_mut(&open_other) {
                open.locks.push(other);
            }
        }
        let lock = inner.locks.get_mut(&other).ok_or(Status::BadStateId)?;
        lock.seq = next_seq(lock.seq);
        Ok(StateId { seq: lock.seq, other })
    }

    /// What is in the way of an owner that has no open, maybe.
    ///
    /// # Errors
    /// What is in the way.
    pub fn test_lock(&self, client: ClientId, object: Object, owner: &Bytes, wanted: Wanted) -> Result<(), Refused> {
        let inner = self.inner();
        let Some(file) = inner.files.get(&object.ino()) else { return Ok(()) };
        let known = inner.lockers.get(&(client, owner.clone(), object.ino())).copied();
        // An owner without locks is nobody's: a number that is not given out.
        let owner = known.unwrap_or([0; 12]);
        let range = Range { owner, start: wanted.start, end: wanted.end, exclusive: wanted.exclusive };
        file.ranges.conflict(&range).map_or(Ok(()), |held| Err(inner.blocker(held)))
    }

    /// What to unlock with in the core.
    ///
    /// # Errors
    /// [`Status::BadStateId`], [`Status::OldStateId`].
    pub fn locking_of(&self, id: StateId, client: ClientId, object: Object) -> Result<Locking, Status> {
        let inner = self.inner();
        let lock = inner.locks.get(&id.other).ok_or(Status::BadStateId)?;
        if lock.client != client || Object::Node(lock.ino) != object {
            return Err(Status::BadStateId);
        }
        check_seq(id.seq, lock.seq)?;
        let open = inner.opens.get(&lock.open).ok_or(Status::BadStateId)?;
        Ok(Locking { handle: open.writer.or(open.reader).ok_or(Status::BadStateId)?, number: lock.number })
    }

    /// Gives back a range.
    ///
    /// # Errors
    /// [`Status::BadStateId`].
    pub fn unlock(&self, id: StateId, start: u64, end: u64) -> Result<StateId, Status> {
        let mut inner = self.inner();
        let lock = inner.locks.get_mut(&id.other).ok_or(Status::BadStateId)?;
        lock.seq = next_seq(lock.seq);
        let (seq, ino) = (lock.seq, lock.ino);
        if let Some(file) = inner.files.get_mut(&ino) {
            file.ranges.unlock(id.other, start, end);
        }
        Ok(StateId { seq, other: id.other })
    }

    /// FREE_STATEID (§18.38): of a lock owner that holds nothing.
    ///
    /// # Errors
    /// [`Status::LocksHeld`], also for an open; [`Status::BadStateId`], [`Status::OldStateId`].
    pub fn free(&self, id: StateId, client: ClientId) -> Result<(), Status> {
        let mut inner = self.inner();
        if inner.opens.get(&id.other).is_some_and(|open| open.of.client == client) {
            return Err(Status::LocksHeld);
        }
        let lock = inner.locks.get(&id.other).filter(|lock| lock.client == client).ok_or(Status::BadStateId)?;
        check_seq(id.seq, lock.seq)?;
        if inner.files.get(&lock.ino).is_some_and(|file| file.ranges.holds(id.other)) {
            return Err(Status::LocksHeld);
        }
        inner.forget_locker(id.other);
        Ok(())
    }

    /// TEST_STATEID (§18.48).
    pub fn test(&self, id: StateId, client: ClientId) -> Status {
        let inner = self.inner();
        let open = inner.opens.get(&id.other).map(|open| (open.of.client, open.seq));
        let lock = inner.locks.get(&id.other).map(|lock| (lock.client, lock.seq));
        match open.or(lock) {
            Some((of, seq)) if of == client => check_seq(id.seq, seq).err().unwrap_or(Status::Ok),
            _ => Status::BadStateId,
        }
    }

    /// Whether a client has anything open.
    pub fn holds(&self, client: ClientId) -> bool {
        self.inner().opens.values().any(|open| open.of.client == client)
    }

    /// Takes away all that a client has: the handles to be released.
    pub fn drop_client(&self, client: ClientId) -> Vec<HandleId> {
        let mut inner = self.inner();
        let opens: Vec<Other> = inner.opens.iter().filter(|(_, open)| open.of.client == client).map(|(id, _)| *id).collect();
        opens.into_iter().filter_map(|other| inner.close(other)).collect()
    }

    /// Takes away all.
    pub fn drop_all(&self) -> Vec<HandleId> {
        let mut inner = self.inner();
        let opens: Vec<Other> = inner.opens.keys().copied().collect();
        opens.into_iter().filter_map(|other| inner.close(other)).collect()
    }

    /// Open files.
    pub fn count(&self) -> usize {
        self.inner().opens.len()
    }
}

impl Inner {
    fn next(&mut self, boot: u32) -> Result<Other, Status> {
        if self.opens.len() + self.locks.len() >= STATES_MAX {
            tracing::warn!("more than {STATES_MAX} files are open over NFS: the next has to wait");
            return Err(Status::Delay);
        }
        self.last += 1;
        Ok(other(boot, self.last))
    }

    fn check_share(&self, opening: &Opening, access: u32, deny: u32) -> Result<(), Refused> {
        let opens = self.files.get(&opening.object.ino()).into_iter().flat_map(|file| &file.opens);
        for open in opens.filter_map(|other| self.opens.get(other)) {
            let same = open.of.client == opening.client && open.of.owner == opening.owner;
            if !same && open.of.object == opening.object && (open.of.deny & access != 0 || open.of.access & deny != 0) {
                return Err(if open.of.client == opening.client {
                    Status::ShareDenied.into()
                } else {
                    Refused::By(open.of.client)
                });
            }
        }
        Ok(())
    }

    fn close(&mut self, other: Other) -> Option<HandleId> {
        let open = self.opens.remove(&other)?;
        for lock in open.locks {
            self.forget_locker(lock);
        }
        let Opening { client, owner, object, .. } = open.of;
        self.owners.remove(&(client, owner, object));
        let ino = object.ino();
        if let Some(file) = self.files.get_mut(&ino) {
            file.opens.retain(|open| *open != other);
            if file.opens.is_empty() {
                self.files.remove(&ino);
            }
        }
        open.writer.or(open.reader)
    }

    fn forget_locker(&mut self, other: Other) {
        let Some(lock) = self.locks.remove(&other) else { return };
        if let Some(file) = self.files.get_mut(&lock.ino) {
            file.ranges.unlock(other, 0, u64::MAX);
        }
        if let Some(open) = self.opens.get_mut(&lock.open) {
            open.locks.retain(|held| *held != other);
        }
        self.lockers.remove(&(lock.client, lock.owner, lock.ino));
    }

    /// The open that a lock belongs to, and the lock owner where it has one already.
    fn locker(&self, client: ClientId, object: Object, locker: &Locker) -> Result<(Other, Option<Other>), Status> {
        match locker {
            Locker::New { open: id, owner } => {
                let open = self.opens.get(&id.other).ok_or(Status::BadStateId)?;
                if open.of.client != client || open.of.object != object {
                    return Err(Status::BadStateId);
                }
                check_seq(id.seq, open.seq)?;
                Ok((id.other, self.lockers.get(&(client, owner.clone(), object.ino())).copied()))
            }
            Locker::Known(id) => {
                let lock = self.locks.get(&id.other).ok_or(Status::BadStateId)?;
                if lock.client != client || Object::Node(lock.ino) != object {
                    return Err(Status::BadStateId);
                }
                check_seq(id.seq, lock.seq)?;
                Ok((lock.open, Some(id.other)))
            }
        }
    }

    fn blocker(&self, held: Range<Other>) -> Refused {
        let Some(lock) = self.locks.get(&held.owner) else { return Status::ServerFault.into() };
        Refused::Lock(Blocker {
            client: lock.client,
            owner: lock.owner.clone(),
            start: held.start,
            end: held.end,
            exclusive: held.exclusive,
        })
    }
}

/// Of a life of the server, and a number that is given out once in it.
fn other(boot: u32, number: u64) -> Other {
    let mut other = [0; 12];
    other[..4].copy_from_slice(&boot.to_be_bytes());
    other[4..].copy_from_slice(&number.to_be_bytes());
    other
}

/// Sequence numbers of a stateid skip 0 (§8.2.2).
fn next_seq(seq: u32) -> u32 {
    seq.checked_add(1).unwrap_or(1)
}

/// 0 stands for whatever it is now.
fn check_seq(given: u32, now: u32) -> Result<(), Status> {
    if given == 0 || given == now {
        return Ok(());
    }
    // Numbers wrap: the half before is old, the half behind was never given out.
    Err(if now.wrapping_sub(given) < u32::MAX / 2 { Status::OldStateId } else { Status::BadStateId })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(client: ClientId, owner: &'static str, access: u32, deny: u32) -> Opening {
        Opening { client, owner: Bytes::from(owner), object: Object::Node(InodeNo(5)), access, deny }
    }

    fn held(handle: u64, writes: bool) -> Option<Held> {
        Some(Held { handle: HandleId(handle), writes })
    }

    const FILE: Object = Object::Node(InodeNo(5));

    /// RFC 8881 §9.11, §18.16.3: the same owner's second OPEN adds to the first, under one stateid.
    #[test]
    fn an_owner_has_one_open_of_a_file() {
        let states = States::new(1);
        let (first, none) = states.open(opening(1, "o", share::READ, 0), held(10, false)).unwrap();
        assert_eq!((first.seq, none), (1, None));
        let (second, surplus) = states.open(opening(1, "o", share::WRITE, 0), held(11, true)).unwrap();
        assert_eq!((second.other, second.seq, surplus), (first.other, 2, Some(HandleId(10))));
        let (third, surplus) = states.open(opening(1, "o", share::BOTH, 0), held(12, true)).unwrap();
        assert_eq!((third.seq, surplus), (3, Some(HandleId(12))));
        assert_eq!(states.find(second, 1, FILE), Err(Status::OldStateId));
        assert_eq!(states.find(StateId { seq: 4, ..third }, 1, FILE), Err(Status::BadStateId));
        assert_eq!(states.find(third, 2, FILE), Err(Status::BadStateId), "another client's");
        assert_eq!(states.find(third, 1, Object::Node(InodeNo(6))), Err(Status::BadStateId), "another file");
        let used = states.find(StateId { seq: 0, ..third }, 1, FILE).unwrap();
        assert_eq!((used.access, used.handle()), (share::BOTH, Some(HandleId(11))));
        let (less, released) = states.downgrade(third, (share::READ, 0), Some(HandleId(13))).unwrap();
        assert_eq!(released, Some(HandleId(11)));
        assert_eq!(states.downgrade(less, (share::BOTH, 0), None), Err(Status::Inval));
        assert_eq!(states.close(less), Some(HandleId(13)));
        assert_eq!(states.find(less, 1, FILE), Err(Status::BadStateId));
        assert_eq!(states.count(), 0);
    }

    /// RFC 8881 §9.7.
    #[test]
    fn share_modes_keep_others_out() {
        let states = States::new(1);
        states.open(opening(1, "o", share::READ, share::WRITE), held(1, false)).unwrap();
        assert_eq!(states.open(opening(1, "p", share::WRITE, 0), held(2, true)), Err(Status::ShareDenied.into()));
        assert_eq!(states.open(opening(2, "o", share::READ, share::READ), held(3, false)), Err(Refused::By(1)));
        assert!(states.open(opening(2, "o", share::READ, 0), held(4, false)).is_ok());
        assert_eq!(states.check_anonymous(FILE, share::WRITE), Err(Status::Locked));
        assert_eq!(states.check_anonymous(FILE, share::READ), Ok(()));
        assert_eq!(states.drop_client(1), [HandleId(1)]);
        assert!(states.open(opening(1, "p", share::WRITE, 0), held(5, true)).is_ok());
    }

    /// RFC 8881 §9.1 to §9.5, §18.10 to §18.12.
    #[test]
    fn locks_belong_to_owners_and_end_with_their_open() {
        let states = States::new(1);
        let (a, _) = states.open(opening(1, "a", share::BOTH, 0), held(1, true)).unwrap();
        let (b, _) = states.open(opening(2, "b", share::READ, 0), held(2, false)).unwrap();
        let wanted = |start, end, exclusive| Wanted { start, end, exclusive };
        let new = |open, owner: &'static str| Locker::New { open, owner: Bytes::from(owner) };
        let lock = |client, locker: &Locker, range| -> Result<StateId, Refused> {
            let locking = states.check_lock(client, FILE, locker, range)?;
            states.lock(client, FILE, locker, (range, locking))
        };
        let first = lock(1, &new(a, "p"), wanted(0, 9, true)).unwrap();
        assert_eq!(lock(2, &new(b, "q"), wanted(20, 29, true)), Err(Status::OpenMode.into()));
        let blocker = Blocker { client: 1, owner: "p".into(), start: 0, end: 9, exclusive: true };
        assert_eq!(lock(2, &new(b, "q"), wanted(9, 9, false)), Err(Refused::Lock(blocker.clone())));
        assert_eq!(states.test_lock(2, FILE, &"x".into(), wanted(0, 0, false)), Err(Refused::Lock(blocker)));
        assert_eq!(states.test_lock(1, FILE, &"p".into(), wanted(0, 0, true)), Ok(()));
        let second = lock(1, &Locker::Known(first), wanted(10, 19, true)).unwrap();
        assert_eq!((second.other, second.seq), (first.other, 2));
        assert_eq!(lock(1, &Locker::Known(first), wanted(10, 19, true)), Err(Status::OldStateId.into()));
        assert_eq!(states.free(second, 1), Err(Status::LocksHeld));
        assert_eq!(states.free(a, 1), Err(Status::LocksHeld));
        let third = states.unlock(second, 0, u64::MAX).unwrap();
        assert!(lock(2, &new(b, "q"), wanted(9, 9, false)).is_ok());
        assert_eq!((states.test(third, 1), states.test(third, 2)), (Status::Ok, Status::BadStateId));
        assert_eq!(states.free(third, 1), Ok(()));
        assert_eq!(states.test(third, 1), Status::BadStateId);
        states.close(b);
        assert!(lock(1, &new(a, "p"), wanted(0, u64::MAX, true)).is_ok(), "the other's went with its open");
    }
}
