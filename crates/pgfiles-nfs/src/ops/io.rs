//! READ, WRITE, COMMIT: RFC 8881 §18.3, §18.22, §18.32.

use pgfiles_store::version::Kind;
use pgfiles_vfs::{Attr, HandleId, InodeNo, OpenMode};

use super::attributes;
use crate::access::{EXECUTE, READ, WRITE};
use crate::compound::Context;
use crate::filehandle::Object;
use crate::proto::{IO_BYTES_MAX, Status, share, stable};
use crate::state::StateId;
use crate::xdr::{Decoder, Encoder};

fn is_file(attr: &Attr) -> Result<(), Status> {
    match attr.kind {
        Kind::File => Ok(()),
        Kind::Dir => Err(Status::IsDir),
        Kind::Symlink => Err(Status::Symlink),
        Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => Err(Status::WrongType),
    }
}

/// A handle of the core for an operation, to be released after it where it was opened for it alone.
struct Borrowed {
    handle: HandleId,
    own: bool,
}

/// By a stateid, or for who has the file not open as long as that may be.
async fn borrow(context: &Context, id: StateId, ino: InodeNo, access: u32) -> Result<Borrowed, Status> {
    let object = Object::Node(ino);
    let id = context.resolve(id)?;
    if !id.is_special() {
        let used = context.core.states.find(id, context.client()?, object)?;
        // §9.1.2: who has it open for writing may read, because a client's cache has whole pages.
        if access == share::WRITE && used.access & share::WRITE == 0 {
            return Err(Status::OpenMode);
        }
        let handle = if access == share::WRITE { used.writer } else { used.handle() };
        return Ok(Borrowed { handle: handle.ok_or(Status::OpenMode)?, own: false });
    }
    let attr = context.core.attr(ino).await?;
    is_file(&attr)?;
    // Who is past its lease keeps nobody out, but is not worth looking for here: the next OPEN does.
    context.core.states.check_anonymous(object, access)?;
    let owns = attr.uid == context.who.uid();
    let allowed = match access {
        share::WRITE => context.who.may(&attr, WRITE),
        _ => context.who.may(&attr, READ) || context.who.may(&attr, EXECUTE),
    };
    if !allowed && !owns {
        return Err(Status::Access);
    }
    let mode = OpenMode { read: true, write: access == share::WRITE, ..OpenMode::default() };
    let opened = context.core.vfs.open(ino, mode, context.who.caller()).await.map_err(|error| context.failed(&error))?;
    Ok(Borrowed { handle: opened.handle, own: true })
}

impl Borrowed {
    async fn give_back(self, context: &Context) {
        if self.own {
            context.core.vfs.release(self.handle).await;
        }
    }
}

pub(super) async fn read(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let id = StateId::decode(input)?;
    let (offset, count) = (input.u64()?, input.u32()?.min(IO_BYTES_MAX));
    let ino = match context.object()? {
        Object::Node(ino) => ino,
        Object::Attribute(ino, name) => return attributes::read(context, (ino, name), offset, count, out).await,
        Object::Attributes(_) => return Err(Status::IsDir),
    };
    let borrowed = borrow(context, id, ino, share::READ).await?;
    let read = context.core.vfs.read(borrowed.handle, offset, u64::from(count)).await;
    borrowed.give_back(context).await;
    let bytes = read.map_err(|error| context.failed(&error))?;
    let end = offset.saturating_add(bytes.len() as u64);
    let eof = bytes.len() < count as usize || end >= context.core.attr(ino).await?.size;
    out.bool(eof);
    out.shared(bytes);
    Ok(())
}

pub(super) async fn write(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let id = StateId::decode(input)?;
    let (offset, how) = (input.u64()?, input.u32()?);
    let bytes = input.opaque(input.remaining())?;
    if how > stable::FILE_SYNC {
        return Err(Status::BadXdr);
    }
    let len = bytes.len() as u32;
    if len > IO_BYTES_MAX {
        return Err(Status::Inval);
    }
    let ino = match context.object()? {
        Object::Node(ino) => ino,
        Object::Attribute(ino, name) => {
            attributes::write(context, (ino, name), offset, &bytes).await?;
            return written(context, len, stable::FILE_SYNC, out);
        }
        Object::Attributes(_) => return Err(Status::IsDir),
    };
    let borrowed = borrow(context, id, ino, share::WRITE).await?;
    let vfs = &context.core.vfs;
    let mut done = vfs.write(borrowed.handle, offset, bytes, !context.who.is_root()).await;
    if done.is_ok() && (how != stable::UNSTABLE || borrowed.own) {
        done = vfs.fsync(borrowed.handle, false).await.map(|()| u64::from(len));
    }
    borrowed.give_back(context).await;
    let count = done.map_err(|error| context.failed(&error))?;
    written(context, count as u32, if how == stable::UNSTABLE { stable::UNSTABLE } else { stable::FILE_SYNC }, out)
}

fn written(context: &Context, count: u32, how: u32, out: &mut Encoder) -> Result<(), Status> {
    out.u32(count);
    out.u32(how);
    out.fixed(&context.core.write_verifier);
    Ok(())
}

/// Publishes what was written, with fsync's strength.
pub(super) async fn commit(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let (_offset, _count) = (input.u64()?, input.u32()?);
    let object = context.object()?;
    if let Object::Node(ino) = object {
        let attr = context.core.attr(ino).await?;
        is_file(&attr)?;
        let vfs = &context.core.vfs;
        let done = match context.core.states.writer_of(ino) {
            Some(handle) => vfs.fsync(handle, false).await,
            // What was written is published, when its last open was closed at the latest.
            None if vfs.config().read_only => Ok(()),
            None => vfs.store().sync().await.map_err(Into::into),
        };
        done.map_err(|error| context.failed(&error))?;
    }
    out.fixed(&context.core.write_verifier);
    Ok(())
}
