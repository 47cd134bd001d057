//! ONC RPC (RFC 5531): the header of a call, who makes it, and the header of the reply. Record marking is the connection's.

use bytes::Bytes;

use crate::xdr::{Decoder, Encoder, Malformed};

/// The program that is served, and its version.
pub const PROGRAM: u32 = 100_003;
/// Version 4; which minor one is said in each COMPOUND.
pub const VERSION: u32 = 4;
/// Procedures.
pub const PROC_NULL: u32 = 0;
/// The one that does it all.
pub const PROC_COMPOUND: u32 = 1;

const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
/// `opaque body<400>` of RFC 5531 §8.2.
const AUTH_BYTES_MAX: usize = 400;
const GROUPS_MAX: usize = 16;

/// AUTH_NONE.
pub const AUTH_NONE: u32 = 0;
/// AUTH_SYS.
pub const AUTH_SYS: u32 = 1;

/// Who makes a call, as it says itself: AUTH_SYS is believed of whoever may connect (docs/nfs.md).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// Nobody.
    None,
    /// A process of the peer.
    Sys(Sys),
}

/// See [`Credential`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Sys {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary ones, at most 16.
    pub groups: Vec<u32>,
}

/// The header of a call; what follows are the arguments.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Call {
    pub xid: u32,
    pub procedure: u32,
    pub credential: Credential,
}

/// Why a call is not for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not RPC version 2.
    RpcMismatch,
    /// A flavour of authentication that is not known.
    BadCredential,
    /// Another program.
    ProgramUnavailable,
    /// Another version of it.
    ProgramMismatch,
    /// A procedure that does not exist.
    ProcedureUnavailable,
    /// Arguments that cannot be read.
    GarbageArguments,
    /// A fault of ours.
    SystemError,
}

/// Reads the header of a call. `Err(None)`: it is no call at all, and cannot be answered.
///
/// # Errors
/// The transaction's id and why it is refused.
pub fn decode_call(input: &mut Decoder) -> Result<Call, Option<(u32, Refusal)>> {
    let start = |input: &mut Decoder| -> Result<(u32, u32), Malformed> { Ok((input.u32()?, input.u32()?)) };
    let (xid, kind) = start(input).map_err(|_| None)?;
    if kind != CALL {
        return Err(None);
    }
    let refuse = |why| Some((xid, why));
    let garbage = |_| refuse(Refusal::GarbageArguments);
    let rpc_version = input.u32().map_err(garbage)?;
    if rpc_version != RPC_VERSION {
        return Err(refuse(Refusal::RpcMismatch));
    }
    let (program, version, procedure) =
        (input.u32().map_err(garbage)?, input.u32().map_err(garbage)?, input.u32().map_err(garbage)?);
    let flavor = input.u32().map_err(garbage)?;
    let body = input.opaque(AUTH_BYTES_MAX).map_err(garbage)?;
    input.u32().and_then(|_| input.opaque(AUTH_BYTES_MAX)).map_err(garbage)?;
    if program != PROGRAM {
        return Err(refuse(Refusal::ProgramUnavailable));
    }
    if version != VERSION {
        return Err(refuse(Refusal::ProgramMismatch));
    }
    if procedure != PROC_NULL && procedure != PROC_COMPOUND {
        return Err(refuse(Refusal::ProcedureUnavailable));
    }
    let credential = match flavor {
        AUTH_NONE => Credential::None,
        AUTH_SYS => Credential::Sys(decode_sys(body).map_err(|_| refuse(Refusal::BadCredential))?),
        _ => return Err(refuse(Refusal::BadCredential)),
    };
    Ok(Call { xid, procedure, credential })
}

fn decode_sys(body: Bytes) -> Result<Sys, Malformed> {
    let mut input = Decoder::new(body);
    let _stamp = input.u32()?;
    let _machine = input.opaque(255)?;
    Ok(Sys { uid: input.u32()?, gid: input.u32()?, groups: input.u32s(GROUPS_MAX)? })
}

/// The header of a reply to a call that is carried out; the results follow.
pub fn encode_accepted(xid: u32) -> Encoder {
    let mut out = Encoder::default();
    for word in [xid, REPLY, 0, AUTH_NONE, 0, 0] {
        out.u32(word);
    }
    out
}

/// The reply to one that is not.
pub fn encode_refused(xid: u32, why: Refusal) -> Encoder {
    let mut out = Encoder::default();
    let words: &[u32] = match why {
        // MSG_DENIED, RPC_MISMATCH, lowest and highest version.
        Refusal::RpcMismatch => &[1, 0, RPC_VERSION, RPC_VERSION],
        // MSG_DENIED, AUTH_ERROR, AUTH_BADCRED.
        Refusal::BadCredential => &[1, 1, 1],
        // MSG_ACCEPTED, a verifier of AUTH_NONE, and which of the accept_stats.
        Refusal::ProgramUnavailable => &[0, AUTH_NONE, 0, 1],
        Refusal::ProgramMismatch => &[0, AUTH_NONE, 0, 2, VERSION, VERSION],
        Refusal::ProcedureUnavailable => &[0, AUTH_NONE, 0, 3],
        Refusal::GarbageArguments => &[0, AUTH_NONE, 0, 4],
        Refusal::SystemError => &[0, AUTH_NONE, 0, 5],
    };
    for word in [xid, REPLY].iter().chain(words) {
        out.u32(*word);
    }
    out
}
