//! What a file is like, and who may use it how: RFC 8881 §18.1, §18.7, §18.15, §18.30, §18.31.

use pgfiles_vfs::SetAttr;

use super::attributes;
use crate::access::Who;
use crate::attrs::{self, Bitmap, Facts, OF_SPACE, Wishes};
use crate::compound::Context;
use crate::convert;
use crate::filehandle::Object;
use crate::proto::{Status, attr, share};
use crate::state::StateId;
use crate::xdr::{Decoder, Encoder};

/// What the attributes of an object are made of; the figures of the file system only where they are wanted.
pub(super) async fn facts<'c>(context: &'c Context, object: Object, wanted: Bitmap) -> Result<Facts<'c>, Status> {
    let core = &*context.core;
    let (attr, file_type) = match object {
        Object::Node(ino) => {
            let attr = core.attr(ino).await?;
            (attr, convert::file_type(attr.kind))
        }
        Object::Attributes(ino) => attributes::directory_attr(context, ino).await?,
        Object::Attribute(ino, name) => attributes::attr(context, ino, name).await?,
    };
    let space = if wanted.any(OF_SPACE) { Some(core.vfs.statfs().await.map_err(|error| context.failed(&error))?) } else { None };
    Ok(Facts { handles: &core.handles, object, file_type, attr, space, lease_seconds: core.sessions.lease_seconds() })
}

pub(super) async fn getattr(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let (wanted, _) = Bitmap::decode(input)?;
    let object = context.object()?;
    if wanted.any(&[attr::TIME_ACCESS_SET, attr::TIME_MODIFY_SET]) {
        return Err(Status::Inval);
    }
    facts(context, object, wanted).await?.encode(wanted, out);
    Ok(())
}

pub(super) async fn setattr(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let id = StateId::decode(input)?;
    let wishes = Wishes::decode(input)?;
    let object = context.object()?;
    let wishes = wishes?;
    let ino = match object {
        Object::Node(ino) => ino,
        Object::Attribute(ino, name) => {
            let size = wishes.set.size.filter(|_| wishes.set == SetAttr { size: wishes.set.size, ..SetAttr::default() });
            attributes::resize(context, ino, name, size.ok_or(Status::Inval)?).await?;
            wishes.named.encode(out);
            return Ok(());
        }
        Object::Attributes(_) => return Err(Status::Inval),
    };
    let before = context.core.attr(ino).await?;
    let id = context.resolve(id)?;
    let mut handle = None;
    if wishes.set.size.is_some() && !id.is_special() {
        let used = context.core.states.find(id, context.client()?, object)?;
        if used.access & share::WRITE == 0 {
            return Err(Status::OpenMode);
        }
        handle = used.writer;
    } else if wishes.set.size.is_some() {
        context.core.states.check_anonymous(object, share::WRITE)?;
    }
    let set = context.who.check_set(&before, wishes.set, handle.is_some())?;
    set_checked(context, ino, set, handle).await?;
    wishes.named.encode(out);
    Ok(())
}

/// Sets what may be set. Nothing at all is not a `chown` here, as it is for the core.
pub(super) async fn set_checked(
    context: &Context,
    ino: pgfiles_vfs::InodeNo,
    set: SetAttr,
    handle: Option<pgfiles_vfs::HandleId>,
) -> Result<(), Status> {
    if set == SetAttr::default() {
        return Ok(());
    }
    let done = context.core.vfs.setattr(ino, set, handle, context.who.caller()).await;
    done.map(drop).map_err(|error| context.failed(&error))
}

pub(super) async fn verify(context: &mut Context, input: &mut Decoder, wanted: bool) -> Result<(), Status> {
    let compared = attrs::decode_compared(input)?;
    let object = context.object()?;
    let compared = compared?;
    let facts = facts(context, object, compared.0).await?;
    match (attrs::is_same(&facts, &compared), wanted) {
        (true, false) => Err(Status::Same),
        (false, true) => Err(Status::NotSame),
        (true, true) | (false, false) => Ok(()),
    }
}

pub(super) async fn access(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let asked = input.u32()?;
    let object = context.object()?;
    let facts = facts(context, object, Bitmap::default()).await?;
    let supported = Who::supported_access(facts.attr.kind) & asked;
    out.u32(supported);
    out.u32(context.who.access(&facts.attr, supported));
    Ok(())
}
