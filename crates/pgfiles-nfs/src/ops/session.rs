//! Clients and sessions: RFC 8881 §18.34 to §18.37, §18.50, §18.51.

use std::time::Instant;

use rand::Rng as _;

use crate::attrs::Bitmap;
use crate::compound::Context;
use crate::proto::{OPAQUE_MAX, Status};
use crate::session::{Channel, Introduction};
use crate::xdr::{Decoder, Encoder, Malformed};

/// SP4_NONE: nothing but the connection protects state.
const SP4_NONE: u32 = 0;
const SP4_MACH_CRED: u32 = 1;
const IMPLEMENTATION: &str = "pgfiles";
/// The fore channel; there is no back channel.
const FORE: u32 = 1;

pub(super) async fn exchange_id(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let verifier = input.array()?;
    let owner = input.opaque(OPAQUE_MAX)?;
    let flags = input.u32()?;
    match input.u32()? {
        SP4_NONE => {}
        SP4_MACH_CRED => {
            // Asked for with Kerberos only, which there is none of.
            Bitmap::decode(input)?;
            Bitmap::decode(input)?;
            return Err(Status::Inval);
        }
        _ => return Err(Status::Inval),
    }
    for _ in 0..input.len(1)? {
        input.opaque(OPAQUE_MAX)?;
        input.opaque(OPAQUE_MAX)?;
        input.i64()?;
        input.u32()?;
    }
    let introduction = Introduction { owner, verifier, flags };
    let (introduced, gone) = context.core.sessions.introduce(introduction, context.principal, Instant::now())?;
    context.core.forget_clients(&gone).await;
    out.u64(introduced.client);
    out.u32(introduced.sequence);
    out.u32(introduced.flags);
    out.u32(SP4_NONE);
    // server_owner and server_scope: the same for as long as handles mean the same, so that a client knows us again.
    let (instance, minor) = context.core.handles.fsid();
    out.u64(minor);
    let name = format!("{IMPLEMENTATION}-{instance:016x}");
    out.opaque(name.as_bytes());
    out.opaque(name.as_bytes());
    // server_impl_id: one, without a date.
    out.u32(1);
    out.opaque(b"pgfiles.dev");
    out.opaque(concat!("pgfiles ", env!("CARGO_PKG_VERSION")).as_bytes());
    out.i64(0);
    out.u32(0);
    Ok(())
}

pub(super) async fn create_session(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let (client, sequence, _flags) = (input.u64()?, input.u32()?, input.u32()?);
    let (fore, back) = (channel(input)?, channel(input)?);
    let _program = input.u32()?;
    for _ in 0..input.len(16)? {
        callback_security(input)?;
    }
    let id = rand::rng().random();
    let made = context.core.sessions.create(client, sequence, (fore, id), context.principal, Instant::now())?;
    let (created, before) = made;
    context.core.forget_clients(&before).await;
    out.fixed(&created.session);
    out.u32(created.sequence);
    // Neither a persistent session nor a back channel on this connection.
    out.u32(0);
    for channel in [created.fore, back] {
        out.u32(0);
        for word in [channel.request_bytes, channel.reply_bytes, channel.cached_bytes, channel.operations, channel.slots] {
            out.u32(word);
        }
        out.u32(0);
    }
    Ok(())
}

fn channel(input: &mut Decoder) -> Result<Channel, Malformed> {
    let _header_padding = input.u32()?;
    let channel = Channel {
        request_bytes: input.u32()?,
        reply_bytes: input.u32()?,
        cached_bytes: input.u32()?,
        operations: input.u32()?,
        slots: input.u32()?,
    };
    input.u32s(1)?;
    Ok(channel)
}

/// callback_sec_parms4, of which nothing is used.
fn callback_security(input: &mut Decoder) -> Result<(), Malformed> {
    match input.u32()? {
        0 => Ok(()),
        1 => {
            input.u32()?;
            input.opaque(255)?;
            input.u32()?;
            input.u32()?;
            input.u32s(16).map(drop)
        }
        6 => {
            input.u32()?;
            input.opaque(OPAQUE_MAX)?;
            input.opaque(OPAQUE_MAX).map(drop)
        }
        _ => Err(Malformed),
    }
}

pub(super) fn destroy_session(context: &mut Context, input: &mut Decoder) -> Result<(), Status> {
    let id = input.array()?;
    context.core.sessions.destroy(id)
}

pub(super) fn destroy_client(context: &mut Context, input: &mut Decoder) -> Result<(), Status> {
    let client = input.u64()?;
    let owner = context.core.sessions.owner_of(client);
    context.core.sessions.destroy_client(client, context.core.states.holds(client))?;
    if let Some((owner, _)) = owner {
        context.core.grace.forget(&owner);
    }
    Ok(())
}

/// Any connection may carry any session, so there is nothing to bind.
pub(super) fn bind_connection(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    if !context.alone {
        return Err(Status::NotOnlyOp);
    }
    let id = input.array()?;
    let direction = input.u32()?;
    input.bool()?;
    context.core.sessions.exists(id)?;
    // CDFC4_BACK alone is what cannot be had.
    if direction == 2 {
        return Err(Status::Inval);
    }
    out.fixed(&id);
    out.u32(FORE);
    out.bool(false);
    Ok(())
}

pub(super) fn reclaim_complete(context: &mut Context, input: &mut Decoder) -> Result<(), Status> {
    let one_fs = input.bool()?;
    if one_fs {
        // There is one file system, which did not move.
        context.object()?;
        return Ok(());
    }
    let owner = context.core.sessions.reclaim_complete(context.client()?)?;
    context.core.grace.complete(&owner);
    Ok(())
}
