//! The operations: each is decoded whole, handed to the core, and encoded.

mod attributes;
mod attrs;
mod filehandle;
mod io;
mod lock;
mod names;
mod open;
mod session;

pub(crate) use open::{Made, settle};

use crate::compound::Context;
use crate::proto::{Status, op};
use crate::xdr::{Decoder, Encoder};

/// Operations that NFS v4.1 knows.
pub(crate) fn is_known(number: u32) -> bool {
    (op::ACCESS..=op::RECLAIM_COMPLETE).contains(&number)
}

/// Operations that make sessions, and so need none (RFC 8881 §2.10.2.1 and the sections of each).
pub(crate) fn is_outside_sessions(number: u32) -> bool {
    matches!(number, op::EXCHANGE_ID | op::CREATE_SESSION | op::DESTROY_SESSION | op::BIND_CONN_TO_SESSION | op::DESTROY_CLIENTID)
}

/// Carries out one operation; `out` gets what follows its status.
pub(crate) async fn carry_out(number: u32, context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Status {
    let start = out.mark();
    let status = match dispatch(number, context, input, out).await {
        Ok(()) => Status::Ok,
        Err(status) => status,
    };
    // A lock that is in the way is told with the refusal.
    if status != Status::Ok && status != Status::Denied {
        out.back_to(start);
        if number == op::SETATTR {
            // attrsset, which follows a failure too.
            out.u32(0);
        }
    }
    status
}

async fn dispatch(number: u32, context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    match number {
        op::EXCHANGE_ID => session::exchange_id(context, input, out).await,
        op::CREATE_SESSION => session::create_session(context, input, out).await,
        op::DESTROY_SESSION => session::destroy_session(context, input),
        op::DESTROY_CLIENTID => session::destroy_client(context, input),
        op::BIND_CONN_TO_SESSION => session::bind_connection(context, input, out),
        op::RECLAIM_COMPLETE => session::reclaim_complete(context, input),
        op::SEQUENCE => Err(Status::SequencePos),

        op::PUTFH => filehandle::put(context, input),
        op::PUTROOTFH | op::PUTPUBFH => filehandle::put_root(context),
        op::GETFH => filehandle::get(context, out),
        op::SAVEFH => filehandle::save(context),
        op::RESTOREFH => filehandle::restore(context),
        op::LOOKUP => filehandle::lookup(context, input).await,
        op::LOOKUPP => filehandle::lookup_parent(context).await,
        op::SECINFO => filehandle::secinfo(context, input, out).await,
        op::SECINFO_NO_NAME => filehandle::secinfo_no_name(context, input, out).await,

        op::GETATTR => attrs::getattr(context, input, out).await,
        op::SETATTR => attrs::setattr(context, input, out).await,
        op::VERIFY => attrs::verify(context, input, true).await,
        op::NVERIFY => attrs::verify(context, input, false).await,
        op::ACCESS => attrs::access(context, input, out).await,

        op::CREATE => names::create(context, input, out).await,
        op::LINK => names::link(context, input, out).await,
        op::REMOVE => names::remove(context, input, out).await,
        op::RENAME => names::rename(context, input, out).await,
        op::READLINK => names::readlink(context, out).await,
        op::READDIR => names::readdir(context, input, out).await,
        op::OPENATTR => attributes::open_directory(context, input).await,

        op::OPEN => open::open(context, input, out).await,
        op::CLOSE => open::close(context, input, out).await,
        op::OPEN_DOWNGRADE => open::downgrade(context, input, out).await,

        op::READ => io::read(context, input, out).await,
        op::WRITE => io::write(context, input, out).await,
        op::COMMIT => io::commit(context, input, out).await,

        op::LOCK => lock::lock(context, input, out).await,
        op::LOCKT => lock::test(context, input, out).await,
        op::LOCKU => lock::unlock(context, input, out).await,
        op::FREE_STATEID => lock::free(context, input),
        op::TEST_STATEID => lock::test_stateids(context, input, out),

        // No delegation was ever given out, so that no stateid is one's.
        op::DELEGRETURN => Err(Status::BadStateId),

        // Of version 4.0, which 4.1 has no use for (§18.55 and the like); and delegations, layouts, and what protects state by
        // Kerberos, of which there is none here.
        op::OPEN_CONFIRM
        | op::RENEW
        | op::SETCLIENTID
        | op::SETCLIENTID_CONFIRM
        | op::RELEASE_LOCKOWNER
        | op::DELEGPURGE
        | op::BACKCHANNEL_CTL
        | op::GET_DIR_DELEGATION
        | op::GETDEVICEINFO
        | op::GETDEVICELIST
        | op::LAYOUTCOMMIT
        | op::LAYOUTGET
        | op::LAYOUTRETURN
        | op::SET_SSV
        | op::WANT_DELEGATION => Err(Status::NotSupp),
        _ => Err(Status::OpIllegal),
    }
}
