//! Named attributes (RFC 8881 §5.3): extended attributes of the `user` namespace, each a small file in a directory that hangs on its
//! file. A write is there when it is answered, as `setxattr` is.

use bytes::Bytes;
use pgfiles_vfs::{Attr, InodeNo, VfsError, XattrMode};

use crate::access::{READ, WRITE};
use crate::compound::Context;
use crate::filehandle::{self, Object};
use crate::proto::{Status, file_type};
use crate::xdr::{Decoder, Encoder};

/// What Linux shows of them.
const NAMESPACE: &[u8] = b"user.";
/// The largest value (docs/limits.md).
const VALUE_BYTES_MAX: u64 = 64 << 10;

/// By which number a handle names it.
pub(super) fn number(name: &[u8]) -> u64 {
    filehandle::hash(name)
}

fn stored(name: &[u8]) -> Vec<u8> {
    [NAMESPACE, name].concat()
}

/// OPENATTR.
pub(super) async fn open_directory(context: &mut Context, input: &mut Decoder) -> Result<(), Status> {
    let _create = input.bool()?;
    let ino = context.node()?;
    let attr = context.core.attr(ino).await?;
    context.who.check(&attr, READ)?;
    context.go_to(Object::Attributes(ino));
    Ok(())
}

/// All names, each with its cookie, in the order of cookies.
pub(super) async fn names(context: &Context, ino: InodeNo) -> Result<Vec<(u64, Vec<u8>)>, Status> {
    context.core.attr(ino).await?;
    let listed = context.core.vfs.listxattr(ino, context.who.caller()).await.map_err(|error| context.failed(&error))?;
    let names = listed.split(|byte| *byte == 0).filter_map(|name| name.strip_prefix(NAMESPACE));
    let mut names: Vec<(u64, Vec<u8>)> = names.map(|name| ((number(name) >> 2).max(3), name.to_vec())).collect();
    names.sort_unstable();
    Ok(names)
}

/// The name that a handle's number stands for.
async fn name_of(context: &Context, ino: InodeNo, hash: u64) -> Result<Vec<u8>, Status> {
    let names = names(context, ino).await?;
    names.into_iter().map(|(_, name)| name).find(|name| number(name) == hash).ok_or(Status::Stale)
}

async fn value(context: &Context, ino: InodeNo, name: &[u8]) -> Result<Vec<u8>, Status> {
    context.core.vfs.getxattr(ino, &stored(name)).await.map_err(|error| context.failed(&error))
}

/// LOOKUP in the directory of attributes.
pub(super) async fn lookup(context: &Context, ino: InodeNo, name: &[u8]) -> Result<Object, Status> {
    let attr = context.core.attr(ino).await?;
    context.who.check(&attr, READ)?;
    value(context, ino, name).await?;
    Ok(Object::Attribute(ino, number(name)))
}

/// The attributes of the directory of attributes: those of its file, as a directory.
pub(super) async fn directory_attr(context: &Context, ino: InodeNo) -> Result<(Attr, u32), Status> {
    let attr = context.core.attr(ino).await?;
    let readable = (attr.mode & 0o444) >> 2;
    Ok((Attr { mode: (attr.mode & 0o666) | readable, size: 4096, allocated: 4096, nlink: 2, ..attr }, file_type::ATTRDIR))
}

/// The attributes of one.
pub(super) async fn attr(context: &Context, ino: InodeNo, hash: u64) -> Result<(Attr, u32), Status> {
    let attr = context.core.attr(ino).await?;
    let name = name_of(context, ino, hash).await?;
    let size = value(context, ino, &name).await?.len() as u64;
    // Times of the file: each change of an attribute sets its ctime.
    Ok((Attr { mode: attr.mode & 0o666, size, allocated: size, nlink: 1, ..attr }, file_type::NAMEDATTR))
}

async fn may(context: &Context, ino: InodeNo, want: u32) -> Result<(), Status> {
    let attr = context.core.attr(ino).await?;
    context.who.check(&attr, want)
}

/// Makes or replaces one.
pub(super) async fn set(context: &Context, ino: InodeNo, name: &[u8], value: &[u8]) -> Result<(), Status> {
    may(context, ino, WRITE).await?;
    let done = context.core.vfs.setxattr(ino, &stored(name), value, XattrMode::Set).await;
    done.map_err(|error| match error {
        VfsError::InvalidArgument(_) => Status::NameTooLong,
        other => context.failed(&other),
    })
}

pub(super) async fn remove(context: &Context, ino: InodeNo, name: &[u8]) -> Result<(), Status> {
    may(context, ino, WRITE).await?;
    context.core.vfs.removexattr(ino, &stored(name)).await.map_err(|error| context.failed(&error))
}

pub(super) async fn rename(context: &Context, (from, old): (InodeNo, &[u8]), (to, new): (InodeNo, &[u8])) -> Result<(), Status> {
    if from != to {
        return Err(Status::XDev);
    }
    let bytes = value(context, from, old).await?;
    if old == new {
        return Ok(());
    }
    set(context, to, new, &bytes).await?;
    remove(context, from, old).await
}

pub(super) async fn read(
    context: &Context,
    (ino, hash): (InodeNo, u64),
    offset: u64,
    count: u32,
    out: &mut Encoder,
) -> Result<(), Status> {
    may(context, ino, READ).await?;
    let name = name_of(context, ino, hash).await?;
    let value = Bytes::from(value(context, ino, &name).await?);
    let start = offset.min(value.len() as u64) as usize;
    let end = (start + count as usize).min(value.len());
    out.bool(end == value.len());
    out.shared(value.slice(start..end));
    Ok(())
}

pub(super) async fn write(context: &Context, (ino, hash): (InodeNo, u64), offset: u64, bytes: &[u8]) -> Result<(), Status> {
    let name = name_of(context, ino, hash).await?;
    let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= VALUE_BYTES_MAX).ok_or(Status::FBig)? as usize;
    let mut whole = value(context, ino, &name).await?;
    if whole.len() < end {
        whole.resize(end, 0);
    }
    if let Some(part) = whole.get_mut(offset as usize..end) {
        part.copy_from_slice(bytes);
    }
    set(context, ino, &name, &whole).await
}

/// Another size.
pub(super) async fn resize(context: &Context, ino: InodeNo, hash: u64, size: u64) -> Result<(), Status> {
    let name = name_of(context, ino, hash).await?;
    if size > VALUE_BYTES_MAX {
        return Err(Status::FBig);
    }
    let mut whole = value(context, ino, &name).await?;
    whole.resize(size as usize, 0);
    set(context, ino, &name, &whole).await
}
