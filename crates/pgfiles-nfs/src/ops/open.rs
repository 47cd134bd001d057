//! OPEN, CLOSE, OPEN_DOWNGRADE: RFC 8881 §18.2, §18.16, §18.18.

use std::time::Instant;

use bytes::Bytes;
use pgfiles_store::version::Kind;
use pgfiles_vfs::{Attr, HandleId, InodeNo, LookupReply, OpenMode, SetAttr, VfsError};

use super::attributes;
use super::attrs::set_checked;
use crate::access::{EXECUTE, READ, WRITE};
use crate::attrs::{Bitmap, Wishes, change};
use crate::compound::{Context, name};
use crate::filehandle::Object;
use crate::proto::{OPAQUE_MAX, Status, attr, open_result, share};
use crate::state::{Held, Opening, Refused, StateId};
use crate::xdr::{Decoder, Encoder, Malformed};

/// What a file is created with where the client says nothing.
const MODE: u32 = 0o644;
/// How often a name that came and went is tried.
const RACES_MAX: u32 = 20;
/// OPEN_DELEGATE_NONE.
const DELEGATE_NONE: u32 = 0;

/// openflag4.
#[derive(Debug, Clone, Copy)]
enum Make {
    No,
    Unchecked(Wishes),
    Guarded(Wishes),
    Exclusive([u8; 8], Wishes),
}

/// open_claim4.
#[derive(Debug)]
enum Claim {
    Name(Bytes),
    Previous,
    Handle,
}

struct Arguments {
    access: u32,
    deny: u32,
    owner: Bytes,
    make: Make,
    claim: Claim,
}

fn arguments(input: &mut Decoder) -> Result<Result<Arguments, Status>, Malformed> {
    let (_seq, access, deny, _client) = (input.u32()?, input.u32()?, input.u32()?, input.u64()?);
    let owner = input.opaque(OPAQUE_MAX)?;
    let make = match input.u32()? {
        0 => Ok(Make::No),
        1 => match input.u32()? {
            0 => Wishes::decode(input)?.map(Make::Unchecked),
            1 => Wishes::decode(input)?.map(Make::Guarded),
            2 => Ok(Make::Exclusive(input.array()?, Wishes::default())),
            3 => {
                let verifier = input.array()?;
                Wishes::decode(input)?.map(|wishes| Make::Exclusive(verifier, wishes))
            }
            _ => return Err(Malformed),
        },
        _ => return Err(Malformed),
    };
    let claim = match input.u32()? {
        0 => name(input)?.map(Claim::Name),
        1 => {
            input.u32()?;
            Ok(Claim::Previous)
        }
        4 => Ok(Claim::Handle),
        // Those of delegations, of which there are none.
        2 => {
            StateId::decode(input)?;
            name(input)?.and(Err(Status::BadStateId))
        }
        3 => name(input)?.and(Err(Status::ReclaimBad)),
        5 => {
            StateId::decode(input)?;
            Err(Status::BadStateId)
        }
        6 => Err(Status::ReclaimBad),
        _ => return Err(Malformed),
    };
    // Above the lowest bits stands what the client wants of delegations.
    let access = access & share::BOTH;
    if access == 0 || deny > share::BOTH {
        return Ok(Err(Status::Inval));
    }
    Ok(make.and_then(|make| claim.map(|claim| Arguments { access, deny, owner, make, claim })))
}

/// A file that an OPEN of a COMPOUND has made and that is not published yet.
pub(crate) struct Made {
    handle: HandleId,
    id: StateId,
    dir: InodeNo,
    name: Bytes,
}

/// A file that is found or made, and opened in the core where it was made.
struct Found {
    ino: InodeNo,
    made: Option<HandleId>,
    /// Attributes that the creation took.
    set: Bitmap,
    /// The directory's change attribute before and after.
    change: (u64, u64),
}

pub(super) async fn open(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let given = arguments(input)?;
    let object = context.object()?;
    let given = given?;
    let client = context.client()?;
    let (client_owner, reclaimed) = context.core.sessions.owner_of(client).ok_or(Status::BadSession)?;
    let now = Instant::now();
    match given.claim {
        Claim::Previous if reclaimed || !context.core.grace.may_reclaim(&client_owner, now) => return Err(Status::NoGrace),
        Claim::Name(_) | Claim::Handle if !context.core.grace.is_over(now) => return Err(Status::Grace),
        _ => {}
    }
    if let Object::Attributes(ino) = object {
        let Claim::Name(name) = &given.claim else { return Err(Status::Inval) };
        return open_attribute(context, ino, name, &given, out).await;
    }
    if let Object::Attribute(ino, hash) = object {
        return match given.claim {
            Claim::Name(_) => Err(Status::NotDir),
            Claim::Previous | Claim::Handle => {
                attributes::attr(context, ino, hash).await?;
                let id = take_up(context, object, &given, None).await?;
                answer(context, (object, id), (0, 0), Bitmap::default(), out);
                Ok(())
            }
        };
    }
    let found = match &given.claim {
        Claim::Name(name) => find_or_make(context, object, name, &given).await?,
        Claim::Previous | Claim::Handle => {
            let ino = context.node()?;
            Found { ino, made: None, set: Bitmap::default(), change: (0, 0) }
        }
    };
    let parent = object;
    let by_name = matches!(given.claim, Claim::Name(_));
    let held = match found.made {
        Some(handle) => Held { handle, writes: given.access & share::WRITE != 0 },
        None => open_existing(context, found.ino, &given, by_name).await?,
    };
    context.core.grace.record(&client_owner);
    let object = Object::Node(found.ino);
    let id = take_up(context, object, &given, Some(held)).await?;
    if let (Some(handle), Object::Node(dir), Claim::Name(name)) = (found.made, parent, &given.claim) {
        context.made = Some(Made { handle, id, dir, name: name.clone() });
    }
    let mut set = found.set;
    if found.made.is_none()
        && let Make::Unchecked(wishes) = given.make
        && wishes.set.size == Some(0)
    {
        let size = SetAttr { size: Some(0), ..SetAttr::default() };
        // Of all that it was to be created with, an existing file takes its emptiness.
        let used = context.core.states.find(id, client, object)?;
        if let Err(status) = set_checked(context, found.ino, size, used.writer).await {
            if id.is_new() {
                context.core.release(context.core.states.close(id)).await;
            }
            return Err(status);
        }
        set = Bitmap::of(&[attr::SIZE]);
    }
    answer(context, (object, id), found.change, set, out);
    Ok(())
}

/// Keeps the open; a handle that is not needed, or that was for nothing, is released.
async fn take_up(context: &Context, object: Object, given: &Arguments, held: Option<Held>) -> Result<StateId, Status> {
    let opening =
        Opening { client: context.client()?, owner: given.owner.clone(), object, access: given.access, deny: given.deny };
    let core = &context.core;
    match core.past_expired(|| core.states.open(opening.clone(), held)).await {
        Ok((id, surplus)) => {
            core.release(surplus).await;
            Ok(id)
        }
        Err(refused) => {
            core.release(held.map(|held| held.handle)).await;
            Err(match refused {
                Refused::Status(status) => status,
                Refused::By(_) | Refused::Lock(_) => Status::ShareDenied,
            })
        }
    }
}

fn answer(context: &mut Context, (object, id): (Object, StateId), change: (u64, u64), set: Bitmap, out: &mut Encoder) {
    context.go_to(object);
    context.state = Some(id);
    id.encode(out);
    change_info(change, out);
    out.u32(open_result::LOCKTYPE_POSIX | open_result::PRESERVE_UNLINKED);
    set.encode(out);
    out.u32(DELEGATE_NONE);
}

/// change_info4. Not atomic: others change the directory, too.
pub(super) fn change_info((before, after): (u64, u64), out: &mut Encoder) {
    out.bool(false);
    out.u64(before);
    out.u64(after);
}

async fn find_or_make(context: &Context, object: Object, name: &Bytes, given: &Arguments) -> Result<Found, Status> {
    let (dir, dir_attr) = context.directory(object).await?;
    context.who.check(&dir_attr, EXECUTE)?;
    let core = &context.core;
    let before = change(&dir_attr);
    let mut tries = 0;
    loop {
        match core.vfs.lookup(dir, name).await.map_err(|error| context.failed(&error))? {
            LookupReply::Found(found) => {
                core.nodes.hold(found.attr.ino, dir, name);
                let there = Found { ino: found.attr.ino, made: None, set: Bitmap::default(), change: (before, before) };
                return match given.make {
                    Make::No | Make::Unchecked(_) => Ok(there),
                    Make::Guarded(_) => Err(Status::Exist),
                    // Sent again over another session: it is the one that this very request made.
                    Make::Exclusive(verifier, _) if core.verifier_of(there.ino) == Some(verifier) => Ok(there),
                    Make::Exclusive(..) => Err(Status::Exist),
                };
            }
            LookupReply::Absent(_) => {}
        }
        let wishes = match given.make {
            Make::No => return Err(Status::NoEnt),
            Make::Unchecked(wishes) | Make::Guarded(wishes) | Make::Exclusive(_, wishes) => wishes,
        };
        context.who.check_names(&dir_attr)?;
        let mode = OpenMode { read: true, write: given.access & share::WRITE != 0, exclusive: true, ..OpenMode::default() };
        let made = core.vfs.create(dir, name, wishes.set.mode.unwrap_or(MODE), mode, context.who.caller()).await;
        let (entry, opened) = match made {
            Ok(made) => made,
            Err(VfsError::Exists) if matches!(given.make, Make::Unchecked(_)) && tries < RACES_MAX => {
                tries += 1;
                continue;
            }
            Err(error) => return Err(context.failed(&error)),
        };
        let ino = entry.attr.ino;
        core.nodes.hold(ino, dir, name);
        if let Make::Exclusive(verifier, _) = given.make {
            core.remember_verifier(ino, verifier);
        }
        if let Err(failed) = set_rest(context, ino, &entry.attr, wishes, opened.handle).await {
            unmake(context, dir, name).await;
            core.vfs.release(opened.handle).await;
            return Err(failed);
        }
        let after = change(&core.attr(dir).await?);
        return Ok(Found { ino, made: Some(opened.handle), set: wishes.named, change: (before, after) });
    }
}

/// What was refused is not done later.
async fn unmake(context: &Context, dir: InodeNo, name: &Bytes) {
    if let Err(error) = context.core.vfs.unlink(dir, name).await {
        tracing::debug!(%error, "what could not be created could not be removed");
    }
}

/// Publishes a file that this COMPOUND has made, before anybody is told of it: an open file is there for good, and its client goes
/// on with it after a restart of this daemon. Later operations of the same COMPOUND may have published it with their data.
///
/// # Errors
/// What publishing met, as the status of the OPEN: the file is unmade.
pub(crate) async fn settle(context: &mut Context) -> Result<(), Status> {
    let Some(made) = context.made.take() else { return Ok(()) };
    let core = context.core.clone();
    let error = match core.vfs.publish_handle(made.handle).await {
        // Closed since, and published by that.
        Ok(()) | Err(VfsError::BadHandle) => return Ok(()),
        Err(error) => error,
    };
    let failed = context.failed(&error);
    unmake(context, made.dir, &made.name).await;
    core.release(core.states.close(made.id)).await;
    context.state = None;
    Err(failed)
}

/// What a new file is to have besides its mode.
async fn set_rest(context: &Context, ino: InodeNo, made: &Attr, wishes: Wishes, handle: HandleId) -> Result<(), Status> {
    let mut set = wishes.without_mode().set;
    // An empty file is that already.
    set.size = set.size.filter(|size| *size > 0);
    let set = context.who.check_set(made, set, true)?;
    set_checked(context, ino, set, Some(handle)).await
}

async fn open_existing(context: &Context, ino: InodeNo, given: &Arguments, by_name: bool) -> Result<Held, Status> {
    let core = &context.core;
    let attr = core.attr(ino).await?;
    match attr.kind {
        Kind::File => {}
        Kind::Dir => return Err(Status::IsDir),
        Kind::Symlink => return Err(Status::Symlink),
        Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => return Err(Status::WrongType),
    }
    let truncates = matches!(given.make, Make::Unchecked(wishes) if wishes.set.size == Some(0));
    let writes = given.access & share::WRITE != 0;
    // Who takes back or goes on with what it had open was let in by the mode of then, and an owner can change it anyway.
    let had = !by_name && attr.uid == context.who.uid();
    let reads = given.access & share::READ == 0 || context.who.may(&attr, READ) || context.who.may(&attr, EXECUTE);
    let allowed = reads && (!(writes || truncates) || context.who.may(&attr, WRITE));
    if !allowed && !had {
        return Err(Status::Access);
    }
    let mode = OpenMode { read: true, write: writes, ..OpenMode::default() };
    let opened = core.vfs.open(ino, mode, context.who.caller()).await.map_err(|error| context.failed(&error))?;
    Ok(Held { handle: opened.handle, writes })
}

/// A named attribute is opened as a file in the directory of its file's.
async fn open_attribute(
    context: &mut Context,
    ino: InodeNo,
    name: &Bytes,
    given: &Arguments,
    out: &mut Encoder,
) -> Result<(), Status> {
    let exists = match attributes::lookup(context, ino, name).await {
        Ok(_) => true,
        Err(Status::NoEnt) => false,
        Err(status) => return Err(status),
    };
    let (set, empty) = match given.make {
        Make::No if !exists => return Err(Status::NoEnt),
        Make::Guarded(_) | Make::Exclusive(..) if exists => return Err(Status::Exist),
        Make::No => (Bitmap::default(), false),
        Make::Unchecked(wishes) if exists => (Bitmap::of(&[attr::SIZE]), wishes.set.size == Some(0)),
        Make::Unchecked(_) | Make::Guarded(_) | Make::Exclusive(..) => (Bitmap::default(), true),
    };
    if empty {
        attributes::set(context, ino, name, &[]).await?;
    }
    let set = if exists && empty { set } else { Bitmap::default() };
    let object = Object::Attribute(ino, attributes::number(name));
    let id = take_up(context, object, given, None).await?;
    answer(context, (object, id), (0, 0), set, out);
    Ok(())
}

/// Publishes what is left unpublished. An outage is waited for by the client, who sends it again; any other failure is told, and the
/// core keeps the data.
pub(super) async fn close(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let _seq = input.u32()?;
    let id = StateId::decode(input)?;
    let object = context.object()?;
    let id = context.resolve(id)?;
    let core = context.core.clone();
    let used = core.states.find_open(id, context.client()?, object)?;
    let mut failed = None;
    let flushed = match (context.made.as_ref().filter(|made| made.id.other == used.id.other), used.writer) {
        // Made by this COMPOUND: published even if nothing was written.
        (Some(made), _) => core.vfs.publish_handle(made.handle).await,
        (None, Some(writer)) => core.vfs.flush_handle(writer).await,
        (None, None) => Ok(()),
    };
    if let Err(error) = flushed {
        let status = context.failed(&error);
        if status == Status::Delay {
            return Err(status);
        }
        failed = Some(status);
    }
    core.release(core.states.close(used.id)).await;
    context.state = None;
    if let Some(status) = failed {
        return Err(status);
    }
    StateId::INVALID.encode(out);
    Ok(())
}

pub(super) async fn downgrade(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let id = StateId::decode(input)?;
    let (_seq, access, deny) = (input.u32()?, input.u32()? & share::BOTH, input.u32()?);
    let object = context.object()?;
    if access == 0 || deny > share::BOTH {
        return Err(Status::Inval);
    }
    let id = context.resolve(id)?;
    let core = context.core.clone();
    let used = core.states.find_open(id, context.client()?, object)?;
    let mut reader = None;
    if let (Object::Node(ino), Some(writer)) = (object, used.writer)
        && access & share::WRITE == 0
    {
        // Who may not write any more has written what it wanted.
        core.vfs.flush_handle(writer).await.map_err(|error| context.failed(&error))?;
        let mode = OpenMode { read: true, ..OpenMode::default() };
        let opened = core.vfs.open(ino, mode, context.who.caller()).await.map_err(|error| context.failed(&error))?;
        reader = Some(opened.handle);
    }
    let done = core.states.downgrade(used.id, (access, deny), reader);
    let (id, released) = match done {
        Ok(done) => done,
        Err(status) => {
            core.release(reader).await;
            return Err(status);
        }
    };
    core.release(released).await;
    context.state = Some(id);
    id.encode(out);
    Ok(())
}
