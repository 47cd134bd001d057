//! Which file is meant: RFC 8881 §18.8, §18.13, §18.14, §18.19 to §18.21, §18.27 to §18.29, §18.45.

use pgfiles_vfs::InodeNo;

use super::attributes;
use crate::access::EXECUTE;
use crate::compound::{Context, name};
use crate::filehandle::Object;
use crate::proto::{FILEHANDLE_MAX, Status};
use crate::rpc::{AUTH_NONE, AUTH_SYS};
use crate::xdr::{Decoder, Encoder};

pub(super) fn put(context: &mut Context, input: &mut Decoder) -> Result<(), Status> {
    let handle = input.opaque(FILEHANDLE_MAX)?;
    let object = context.core.handles.decode(&handle)?;
    context.go_to(object);
    Ok(())
}

pub(super) fn put_root(context: &mut Context) -> Result<(), Status> {
    context.go_to(Object::Node(InodeNo::ROOT));
    Ok(())
}

pub(super) fn get(context: &mut Context, out: &mut Encoder) -> Result<(), Status> {
    let handle = context.core.handles.encode(context.object()?);
    out.opaque(&handle);
    Ok(())
}

pub(super) fn save(context: &mut Context) -> Result<(), Status> {
    context.saved = Some(context.object()?);
    context.saved_state = context.state;
    Ok(())
}

pub(super) fn restore(context: &mut Context) -> Result<(), Status> {
    // §18.27: NFS4ERR_NOFILEHANDLE in 4.1.
    context.current = Some(context.saved.ok_or(Status::NoFileHandle)?);
    context.state = context.saved_state;
    Ok(())
}

pub(super) async fn lookup(context: &mut Context, input: &mut Decoder) -> Result<(), Status> {
    let name = name(input)?;
    let found = find(context, name).await?;
    context.go_to(found);
    Ok(())
}

async fn find(context: &Context, name: Result<bytes::Bytes, Status>) -> Result<Object, Status> {
    let object = context.object()?;
    if let Object::Attributes(ino) = object {
        return attributes::lookup(context, ino, &name?).await;
    }
    let (dir, attr) = context.directory(object).await?;
    let name = name?;
    context.who.check(&attr, EXECUTE)?;
    let found = context.core.nodes.lookup(dir, &name).await.map_err(|error| context.failed(&error))?;
    Ok(Object::Node(found.ino))
}

pub(super) async fn lookup_parent(context: &mut Context) -> Result<(), Status> {
    let parent = parent(context).await?;
    context.go_to(parent);
    Ok(())
}

async fn parent(context: &Context) -> Result<Object, Status> {
    let object = context.object()?;
    if let Object::Attributes(ino) = object {
        return Ok(Object::Node(ino));
    }
    let (dir, attr) = context.directory(object).await?;
    if dir == InodeNo::ROOT {
        return Err(Status::NoEnt);
    }
    context.who.check(&attr, EXECUTE)?;
    Ok(Object::Node(context.core.nodes.parent(dir).await.map_err(|error| context.failed(&error))?))
}

/// Consumes the filehandle (§2.6.3.1.1.8).
pub(super) async fn secinfo(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let name = name(input)?;
    find(context, name).await?;
    flavors(context, out);
    Ok(())
}

pub(super) async fn secinfo_no_name(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    match input.u32()? {
        0 => drop(context.object()?),
        1 => drop(parent(context).await?),
        _ => return Err(Status::BadXdr),
    }
    flavors(context, out);
    Ok(())
}

fn flavors(context: &mut Context, out: &mut Encoder) {
    context.current = None;
    context.state = None;
    out.u32s(&[AUTH_SYS, AUTH_NONE]);
}
