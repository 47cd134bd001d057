//! COMPOUND: operations one after the other until one fails (RFC 8881 §16.2), each in its slot once.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pgfiles_store::version::Kind;
use pgfiles_vfs::{Attr, InodeNo, VfsError};

use crate::access::Who;
use crate::core::Core;
use crate::filehandle::Object;
use crate::ops;
use crate::proto::{NAME_MAX, NAME_READ_MAX, OPAQUE_MAX, OPERATIONS_MAX, Status, op};
use crate::rpc::Credential;
use crate::session::{ClientId, Principal, Running, Turn};
use crate::state::StateId;
use crate::xdr::{Decoder, Encoder, Malformed};

/// Bytes of a request that its fingerprint is made of, besides its length.
const PRINT_BYTES: usize = 2048;
const MINOR_VERSION: u32 = 1;

/// Where a COMPOUND has got to.
pub(crate) struct Context {
    pub core: Arc<Core>,
    pub who: Who,
    pub principal: Principal,
    /// The client and the session's bounds; none before SEQUENCE.
    pub running: Option<Running>,
    pub current: Option<Object>,
    pub saved: Option<Object>,
    /// The stateid that stands for the last one (§16.2.3.1.2).
    pub state: Option<StateId>,
    pub saved_state: Option<StateId>,
    /// The file that the last OPEN has made, until it is published.
    pub made: Option<ops::Made>,
    /// Whether it is the only operation.
    pub alone: bool,
}

impl From<Malformed> for Status {
    fn from(_: Malformed) -> Self {
        Self::BadXdr
    }
}

impl Context {
    /// The client that asks.
    ///
    /// # Errors
    /// [`Status::OpNotInSession`].
    pub fn client(&self) -> Result<ClientId, Status> {
        self.running.as_ref().map(|running| running.session.client).ok_or(Status::OpNotInSession)
    }

    /// The current filehandle.
    ///
    /// # Errors
    /// [`Status::NoFileHandle`].
    pub fn object(&self) -> Result<Object, Status> {
        self.current.ok_or(Status::NoFileHandle)
    }

    /// The same where named attributes will not do.
    ///
    /// # Errors
    /// [`Status::WrongType`] for these.
    pub fn node(&self) -> Result<InodeNo, Status> {
        match self.object()? {
            Object::Node(ino) => Ok(ino),
            Object::Attributes(_) | Object::Attribute(..) => Err(Status::WrongType),
        }
    }

    /// A directory, with its attributes.
    ///
    /// # Errors
    /// [`Status::NotDir`], [`Status::Symlink`].
    pub async fn directory(&self, object: Object) -> Result<(InodeNo, Attr), Status> {
        let Object::Node(ino) = object else { return Err(Status::NotDir) };
        let attr = self.core.attr(ino).await?;
        match attr.kind {
            Kind::Dir => Ok((ino, attr)),
            Kind::Symlink => Err(Status::Symlink),
            Kind::File | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => Err(Status::NotDir),
        }
    }

    /// Another current filehandle; a stateid that was current is not any more.
    pub fn go_to(&mut self, object: Object) {
        self.current = Some(object);
        self.state = None;
    }

    /// A stateid as it is meant: the current one by its number.
    ///
    /// # Errors
    /// [`Status::BadStateId`].
    pub fn resolve(&self, id: StateId) -> Result<StateId, Status> {
        if id == StateId::CURRENT { self.state.ok_or(Status::BadStateId) } else { Ok(id) }
    }

    /// An error of the core.
    pub fn failed(&self, error: &VfsError) -> Status {
        self.core.status(error)
    }
}

/// component4: a name.
///
/// # Errors
/// [`Status::Inval`] for none, [`Status::BadName`] for what is no name, [`Status::NameTooLong`].
pub(crate) fn name(input: &mut Decoder) -> Result<Result<Bytes, Status>, Malformed> {
    let name = input.opaque(NAME_READ_MAX)?;
    Ok(if name.is_empty() {
        Err(Status::Inval)
    } else if name.len() > NAME_MAX {
        Err(Status::NameTooLong)
    } else if &name[..] == b"." || &name[..] == b".." || name.contains(&b'/') || name.contains(&0) {
        Err(Status::BadName)
    } else {
        Ok(name)
    })
}

/// Carries out a COMPOUND: its results, without the header of RPC.
///
/// # Errors
/// Where it cannot be read at all.
pub(crate) async fn execute(core: Arc<Core>, credential: Credential, arguments: Bytes) -> Result<Encoder, Malformed> {
    let mut input = Decoder::new(arguments.clone());
    let tag = input.opaque(OPAQUE_MAX)?;
    let minor = input.u32()?;
    let count = input.u32()?;
    let answer = |status: Status, count: u32, results: Encoder| {
        let mut out = Encoder::default();
        out.u32(status as u32);
        out.opaque(&tag);
        out.u32(count);
        out.append(results);
        out
    };
    // The first operation is refused, and nothing follows.
    let refuse = |number: u32, status: Status| {
        let mut results = Encoder::default();
        results.u32(number);
        results.u32(status as u32);
        answer(status, 1, results)
    };
    if minor != MINOR_VERSION {
        return Ok(answer(Status::MinorVersMismatch, 0, Encoder::default()));
    }
    if count == 0 {
        return Ok(answer(Status::Ok, 0, Encoder::default()));
    }
    let principal = match &credential {
        Credential::Sys(sys) => Some(sys.uid),
        Credential::None => None,
    };
    let mut context = Context {
        who: Who::of(&credential),
        principal,
        running: None,
        current: None,
        saved: None,
        state: None,
        saved_state: None,
        made: None,
        alone: count == 1,
        core,
    };
    let mut results = Encoder::default();
    let first = input.clone().u32()?;
    let mut done = 0;
    let mut status = Status::Ok;
    if first == op::SEQUENCE {
        input.u32()?;
        results.u32(op::SEQUENCE);
        done = 1;
        match begin(&mut context, &mut input, &mut results, count, &arguments) {
            Ok(None) => {}
            Ok(Some(Again::Reply(reply))) => {
                let mut out = Encoder::default();
                out.shared_raw(reply);
                return Ok(out);
            }
            Ok(Some(Again::Forgotten)) => {
                // SEQUENCE is answered anew, and the next operation that its answer was not kept (§2.10.6.1.3).
                if count == 1 {
                    return Ok(answer(Status::Ok, 1, results));
                }
                results.u32(input.u32()?);
                results.u32(Status::RetryUncachedRep as u32);
                return Ok(answer(Status::RetryUncachedRep, 2, results));
            }
            Err(failed) => return Ok(refuse(op::SEQUENCE, failed)),
        }
    } else if !ops::is_known(first) {
        return Ok(refuse(op::ILLEGAL, Status::OpIllegal));
    } else if !ops::is_outside_sessions(first) {
        return Ok(refuse(first, Status::OpNotInSession));
    } else if count > 1 {
        return Ok(refuse(first, Status::NotOnlyOp));
    }
    let bounds = context.running.as_ref().map(|running| (running.session.fore, running.keep));
    // The result of the OPEN that made a file which is not published yet: how many operations were done with it, and where it stands.
    let mut open = (done, results.mark());
    loop {
        let ended = done == count || status != Status::Ok;
        if (ended || input.clone().u32() == Ok(op::OPEN))
            && let Err(failed) = ops::settle(&mut context).await
        {
            // Nothing was made, so nothing was done with it.
            let (upto, start) = open;
            results.back_to(start);
            results.u32(op::OPEN);
            results.u32(failed as u32);
            (done, status) = (upto, failed);
            break;
        }
        if ended {
            break;
        }
        done += 1;
        let Ok(number) = input.u32() else {
            // What it would have been is not known.
            status = Status::BadXdr;
            results.u32(op::ILLEGAL);
            results.u32(status as u32);
            continue;
        };
        let start = results.mark();
        results.u32(if ops::is_known(number) { number } else { op::ILLEGAL });
        let mut body = Encoder::default();
        status = ops::carry_out(number, &mut context, &mut input, &mut body).await;
        if number == op::OPEN && context.made.is_some() {
            open = (done, start);
        }
        results.u32(status as u32);
        results.append(body);
        if let Some((fore, keep)) = bounds {
            let len = results.len() + tag.len() + 64;
            let too_big = match (len > fore.reply_bytes as usize, keep && len > fore.cached_bytes as usize) {
                (true, _) => Some(Status::RepTooBig),
                (_, true) => Some(Status::RepTooBigToCache),
                _ => None,
            };
            if let Some(failed) = too_big {
                results.back_to(start);
                results.u32(number);
                results.u32(failed as u32);
                status = failed;
            }
        }
    }
    let mut out = answer(status, done, results);
    if let Some(running) = context.running.take() {
        let kept = if running.keep {
            let whole = std::mem::take(&mut out).into_bytes();
            out.shared_raw(whole.clone());
            Some(whole)
        } else {
            None
        };
        running.finish(kept);
    }
    Ok(out)
}

/// A request that was carried out before.
enum Again {
    Reply(Bytes),
    Forgotten,
}

/// SEQUENCE: takes the slot, and writes the result behind the operation's number.
fn begin(
    context: &mut Context,
    input: &mut Decoder,
    results: &mut Encoder,
    count: u32,
    arguments: &Bytes,
) -> Result<Option<Again>, Status> {
    let (id, sequence, slot, highest) = (input.array()?, input.u32()?, input.u32()?, input.u32()?);
    let keep = input.bool()?;
    let print = fingerprint(arguments);
    let turn = context.core.sessions.turn((id, slot, sequence), keep, print, Instant::now())?;
    let slots = match &turn {
        Turn::Run(running) => {
            let fore = running.session.fore;
            // What is refused here was not carried out: the slot is free again, and its number used.
            if arguments.len() > fore.request_bytes as usize {
                return Err(Status::ReqTooBig);
            }
            if count > fore.operations.min(OPERATIONS_MAX) {
                return Err(Status::TooManyOps);
            }
            fore.slots
        }
        Turn::Again(reply) => return Ok(Some(Again::Reply(reply.clone()))),
        Turn::Forgotten => crate::proto::SLOTS_MAX,
    };
    results.u32(Status::Ok as u32);
    results.fixed(&id);
    for word in [sequence, slot, highest.min(slots - 1), slots - 1, 0] {
        results.u32(word);
    }
    match turn {
        Turn::Run(running) => {
            context.running = Some(running);
            Ok(None)
        }
        _ => Ok(Some(Again::Forgotten)),
    }
}

fn fingerprint(arguments: &Bytes) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(arguments.get(..PRINT_BYTES.min(arguments.len())).unwrap_or_default());
    hasher.write_usize(arguments.len());
    hasher.finish()
}
