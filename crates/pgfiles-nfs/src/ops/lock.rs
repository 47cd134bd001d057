//! Byte-range locks, and stateids as such: RFC 8881 §18.10 to §18.12, §18.38, §18.48.

use std::time::Instant;

use bytes::Bytes;
use pgfiles_store::lock::{Change, LockKind};
use pgfiles_vfs::VfsError;

use crate::compound::Context;
use crate::filehandle::Object;
use crate::proto::{OPAQUE_MAX, Status};
use crate::state::{Blocker, Locker, Locking, Refused, StateId, Wanted};
use crate::xdr::{Decoder, Encoder};

const READ_LOCK: u32 = 1;
const WRITE_LOCK: u32 = 2;
/// Those of who waits: the client asks again.
const READ_LOCK_WAITING: u32 = 3;
const WRITE_LOCK_WAITING: u32 = 4;
const STATEIDS_MAX: usize = 1024;

/// nfs_lock_type4.
fn is_exclusive(kind: u32) -> Result<bool, Status> {
    match kind {
        READ_LOCK | READ_LOCK_WAITING => Ok(false),
        WRITE_LOCK | WRITE_LOCK_WAITING => Ok(true),
        _ => Err(Status::BadXdr),
    }
}

/// offset4 and length4: all ones is up to the end, whatever that is.
fn range(offset: u64, length: u64) -> Result<(u64, u64), Status> {
    match length {
        0 => Err(Status::Inval),
        u64::MAX => Ok((offset, u64::MAX)),
        _ => offset.checked_add(length - 1).map(|end| (offset, end)).ok_or(Status::Inval),
    }
}

/// Tells who is in the way, and refuses.
fn denied(refused: Refused, out: &mut Encoder) -> Status {
    let Blocker { client, owner, start, end, exclusive } = match refused {
        Refused::Lock(blocker) => blocker,
        Refused::Status(status) => return status,
        Refused::By(_) => return Status::ShareDenied,
    };
    out.u64(start);
    out.u64(if end == u64::MAX { u64::MAX } else { end - start + 1 });
    out.u32(if exclusive { WRITE_LOCK } else { READ_LOCK });
    out.u64(client);
    out.opaque(&owner);
    Status::Denied
}

/// Another mount's lock: its owner is not one of ours.
fn elsewhere(wanted: Wanted) -> Blocker {
    Blocker { client: 0, owner: Bytes::from_static(b"another mount"), start: wanted.start, end: wanted.end, exclusive: true }
}

fn change(locking: Locking, wanted: Wanted, kind: Option<LockKind>) -> Change {
    Change { owner: locking.number, start: wanted.start, end: wanted.end, kind, pid: 0 }
}

/// Only regular files are locked.
fn lockable(context: &Context) -> Result<Object, Status> {
    Ok(Object::Node(context.node()?))
}

pub(super) async fn lock(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let (kind, reclaim) = (input.u32()?, input.bool()?);
    let (offset, length) = (input.u64()?, input.u64()?);
    let locker = if input.bool()? {
        let (_open_seq, open, _lock_seq, _client) = (input.u32()?, StateId::decode(input)?, input.u32()?, input.u64()?);
        Locker::New { open, owner: input.opaque(OPAQUE_MAX)? }
    } else {
        let id = StateId::decode(input)?;
        input.u32()?;
        Locker::Known(id)
    };
    let object = lockable(context)?;
    let exclusive = is_exclusive(kind)?;
    let (start, end) = range(offset, length)?;
    let wanted = Wanted { start, end, exclusive };
    let locker = match locker {
        Locker::New { open, owner } => Locker::New { open: context.resolve(open)?, owner },
        Locker::Known(id) => Locker::Known(context.resolve(id)?),
    };
    let client = context.client()?;
    let core = context.core.clone();
    let (owner, reclaimed) = core.sessions.owner_of(client).ok_or(Status::BadSession)?;
    let now = Instant::now();
    if reclaim && (reclaimed || !core.grace.may_reclaim(&owner, now)) {
        return Err(Status::NoGrace);
    }
    if !reclaim && !core.grace.is_over(now) {
        return Err(Status::Grace);
    }
    let checked = core.past_expired(|| core.states.check_lock(client, object, &locker, wanted)).await;
    let locking = checked.map_err(|refused| denied(refused, out))?;
    let across = core.vfs.is_shared();
    if across {
        let kind = if exclusive { LockKind::Exclusive } else { LockKind::Shared };
        match core.vfs.setlk(locking.handle, change(locking, wanted, Some(kind)), false, || false).await {
            Ok(()) => {}
            Err(VfsError::WouldBlock) => return Err(denied(Refused::Lock(elsewhere(wanted)), out)),
            Err(error) => return Err(context.failed(&error)),
        }
    }
    match core.states.lock(client, object, &locker, (wanted, locking)) {
        Ok(id) => {
            context.state = Some(id);
            id.encode(out);
            Ok(())
        }
        Err(refused) => {
            if across && let Err(error) = core.vfs.setlk(locking.handle, change(locking, wanted, None), false, || false).await {
                tracing::warn!(%error, "a lock that nobody got could not be given back; it ends with its file");
            }
            Err(denied(refused, out))
        }
    }
}

pub(super) async fn test(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let (kind, offset, length, _client) = (input.u32()?, input.u64()?, input.u64()?, input.u64()?);
    let owner = input.opaque(OPAQUE_MAX)?;
    let object = lockable(context)?;
    let exclusive = is_exclusive(kind)?;
    let (start, end) = range(offset, length)?;
    let wanted = Wanted { start, end, exclusive };
    let client = context.client()?;
    let core = context.core.clone();
    if !core.grace.is_over(Instant::now()) {
        return Err(Status::Grace);
    }
    let tested = core.past_expired(|| core.states.test_lock(client, object, &owner, wanted)).await;
    tested.map_err(|refused| denied(refused, out))?;
    if core.vfs.is_shared()
        && let Some(handle) = core.states.any_handle(object.ino())
    {
        let kind = if exclusive { LockKind::Exclusive } else { LockKind::Shared };
        // An owner whose number nobody has: what this mount itself holds was looked at above.
        let asked = Change { owner: u64::MAX, start, end, kind: Some(kind), pid: 0 };
        let found = core.vfs.getlk(handle, asked).await.map_err(|error| context.failed(&error))?;
        if let Some(held) = found.filter(|held| !core.states.is_ours(held.owner)) {
            let end = if held.end >= pgfiles_store::lock::OFFSET_MAX { u64::MAX } else { held.end };
            let exclusive = held.kind == LockKind::Exclusive;
            let blocker = Blocker { start: held.start, end, exclusive, ..elsewhere(wanted) };
            return Err(denied(Refused::Lock(blocker), out));
        }
    }
    Ok(())
}

pub(super) async fn unlock(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let (kind, _seq) = (input.u32()?, input.u32()?);
    let id = StateId::decode(input)?;
    let (offset, length) = (input.u64()?, input.u64()?);
    let object = lockable(context)?;
    is_exclusive(kind)?;
    let (start, end) = range(offset, length)?;
    let id = context.resolve(id)?;
    let core = context.core.clone();
    let locking = core.states.locking_of(id, context.client()?, object)?;
    if core.vfs.is_shared() {
        let wanted = Wanted { start, end, exclusive: false };
        let done = core.vfs.setlk(locking.handle, change(locking, wanted, None), false, || false).await;
        done.map_err(|error| context.failed(&error))?;
    }
    let id = core.states.unlock(id, start, end)?;
    context.state = Some(id);
    id.encode(out);
    Ok(())
}

pub(super) fn free(context: &mut Context, input: &mut Decoder) -> Result<(), Status> {
    let id = StateId::decode(input)?;
    let id = context.resolve(id)?;
    context.core.states.free(id, context.client()?)
}

pub(super) fn test_stateids(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let client = context.client()?;
    let count = input.len(STATEIDS_MAX)?;
    let mut results = Vec::with_capacity(count);
    for _ in 0..count {
        let id = StateId::decode(input)?;
        results.push(context.core.states.test(id, client) as u32);
    }
    out.u32s(&results);
    Ok(())
}
