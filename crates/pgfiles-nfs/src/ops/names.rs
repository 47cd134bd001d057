//! What changes and shows the names in a directory: RFC 8881 §18.4, §18.9, §18.23 to §18.26.

use bytes::Bytes;
use pgfiles_store::version::Kind;
use pgfiles_vfs::{Attr, InodeNo, SetAttr, VfsError};

use super::attributes;
use super::attrs::{facts, set_checked};
use super::open::change_info;
use crate::access::{READ, WRITE};
use crate::attrs::{Bitmap, Facts, OF_LISTING, OF_SPACE, Wishes, change};
use crate::compound::{Context, name};
use crate::convert;
use crate::filehandle::Object;
use crate::proto::{IO_BYTES_MAX, Status, file_type};
use crate::xdr::{Decoder, Encoder};

/// Target of a symlink; longer ones are refused by the core.
const TARGET_READ_MAX: usize = 8192;
/// The same for every directory and for ever: cookies do not depend on when one began to read.
const COOKIE_VERIFIER: [u8; 8] = *b"pgfiles1";
/// What a mkdir and a mknod get where the client says nothing.
const DIR_MODE: u32 = 0o755;
const NODE_MODE: u32 = 0o644;

enum Node {
    Dir,
    Symlink(Bytes),
    Special(Kind, u64),
}

pub(super) async fn create(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let node = match input.u32()? {
        file_type::DIR => Ok(Node::Dir),
        file_type::LNK => Ok(Node::Symlink(input.opaque(TARGET_READ_MAX)?)),
        file_type::BLK => Ok(Node::Special(Kind::Block, convert::rdev((input.u32()?, input.u32()?)))),
        file_type::CHR => Ok(Node::Special(Kind::Char, convert::rdev((input.u32()?, input.u32()?)))),
        file_type::SOCK => Ok(Node::Special(Kind::Socket, 0)),
        file_type::FIFO => Ok(Node::Special(Kind::Fifo, 0)),
        // A regular file is made by OPEN.
        file_type::REG | file_type::ATTRDIR | file_type::NAMEDATTR => Err(Status::BadType),
        _ => return Err(Status::BadType),
    };
    let name = name(input)?;
    let wishes = Wishes::decode(input)?;
    let (dir, dir_attr) = context.directory(context.object()?).await?;
    let (node, name, wishes) = (node?, name?, wishes?);
    context.who.check_names(&dir_attr)?;
    if matches!(node, Node::Special(Kind::Block | Kind::Char, _)) && !context.who.is_root() {
        return Err(Status::Perm);
    }
    let (vfs, caller) = (&context.core.vfs, context.who.caller());
    let made = match node {
        Node::Dir => vfs.mkdir(dir, &name, wishes.set.mode.unwrap_or(DIR_MODE), caller).await,
        Node::Symlink(target) => vfs.symlink(dir, &name, &target, caller).await,
        Node::Special(kind, rdev) => vfs.mknod(dir, &name, kind, wishes.set.mode.unwrap_or(NODE_MODE), rdev, caller).await,
    };
    let entry = made.map_err(|error| context.failed(&error))?;
    let ino = entry.attr.ino;
    context.core.nodes.hold(ino, dir, &name);
    // A symlink has no mode of its own, and nothing but a file a size.
    let rest = SetAttr { size: None, ..wishes.without_mode().set };
    let rest = context.who.check_set(&entry.attr, rest, true)?;
    set_checked(context, ino, rest, None).await?;
    let after = change(&context.core.attr(dir).await?);
    change_info((change(&dir_attr), after), out);
    wishes.named.encode(out);
    context.go_to(Object::Node(ino));
    Ok(())
}

/// The saved filehandle is the file, the current one the directory of the new name.
pub(super) async fn link(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let name = name(input)?;
    let (Some(Object::Node(file)), current) = (context.saved, context.object()?) else { return Err(Status::NoFileHandle) };
    let attr = context.core.attr(file).await?;
    if attr.kind == Kind::Dir {
        return Err(Status::IsDir);
    }
    let (dir, dir_attr) = context.directory(current).await?;
    let name = name?;
    context.who.check_names(&dir_attr)?;
    let made = context.core.vfs.link(file, dir, &name).await.map_err(|error| context.failed(&error))?;
    context.core.nodes.hold(made.attr.ino, dir, &name);
    let after = change(&context.core.attr(dir).await?);
    change_info((change(&dir_attr), after), out);
    Ok(())
}

pub(super) async fn remove(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let name = name(input)?;
    let object = context.object()?;
    if let Object::Attributes(ino) = object {
        attributes::remove(context, ino, &name?).await?;
        change_info((0, 0), out);
        return Ok(());
    }
    let (dir, dir_attr) = context.directory(object).await?;
    let name = name?;
    let file = found(context, dir, &dir_attr, &name).await?;
    context.who.check_removal(&dir_attr, &file)?;
    let vfs = &context.core.vfs;
    let done = if file.kind == Kind::Dir { vfs.rmdir(dir, &name).await } else { vfs.unlink(dir, &name).await };
    done.map_err(|error| context.failed(&error))?;
    let after = change(&context.core.attr(dir).await?);
    change_info((change(&dir_attr), after), out);
    Ok(())
}

/// What a name stands for, for who may look it up.
async fn found(context: &Context, dir: InodeNo, dir_attr: &Attr, name: &Bytes) -> Result<Attr, Status> {
    context.who.check(dir_attr, crate::access::EXECUTE)?;
    context.core.nodes.lookup(dir, name).await.map_err(|error| context.failed(&error))
}

/// The saved filehandle is the directory of the old name, the current one that of the new.
pub(super) async fn rename(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    let (old, new) = (name(input)?, name(input)?);
    let (saved, current) = (context.saved.ok_or(Status::NoFileHandle)?, context.object()?);
    if let (Object::Attributes(from), Object::Attributes(to)) = (saved, current) {
        attributes::rename(context, (from, &old?), (to, &new?)).await?;
        change_info((0, 0), out);
        change_info((0, 0), out);
        return Ok(());
    }
    let (from, from_attr) = context.directory(saved).await?;
    let (to, to_attr) = context.directory(current).await?;
    let (old, new) = (old?, new?);
    let moved = found(context, from, &from_attr, &old).await?;
    context.who.check_removal(&from_attr, &moved)?;
    match context.core.nodes.lookup(to, &new).await {
        Ok(replaced) => {
            context.who.check_removal(&to_attr, &replaced)?;
            // §18.26.3: a directory over another kind, and the other way round, is refused as an existing name.
            if (replaced.kind == Kind::Dir) != (moved.kind == Kind::Dir) {
                return Err(Status::Exist);
            }
        }
        Err(VfsError::NotFound) => context.who.check_names(&to_attr)?,
        Err(error) => return Err(context.failed(&error)),
    }
    // Its `..` changes.
    if moved.kind == Kind::Dir && from != to {
        context.who.check(&moved, WRITE)?;
    }
    let done = context.core.vfs.rename(from, &old, to, &new, false).await;
    done.map_err(|error| match error {
        VfsError::NotEmpty => Status::NotEmpty,
        other => context.failed(&other),
    })?;
    // Where it is found from now on; counted once more, and so given back.
    let _ = context.core.nodes.lookup(to, &new).await;
    change_info((change(&from_attr), change(&context.core.attr(from).await?)), out);
    change_info((change(&to_attr), change(&context.core.attr(to).await?)), out);
    Ok(())
}

pub(super) async fn readlink(context: &mut Context, out: &mut Encoder) -> Result<(), Status> {
    let ino = context.node()?;
    let attr = context.core.attr(ino).await?;
    if attr.kind != Kind::Symlink {
        return Err(Status::WrongType);
    }
    let target = context.core.vfs.readlink(ino).await.map_err(|error| context.failed(&error))?;
    out.opaque(&target);
    Ok(())
}

/// One entry of a reply, if it still fits.
struct Page {
    entries: Encoder,
    /// What the client takes, beside what stands around the entries.
    room: usize,
    any: bool,
}

impl Page {
    fn add(&mut self, cookie: u64, name: &[u8], attrs: impl FnOnce(&mut Encoder)) -> bool {
        let start = self.entries.mark();
        self.entries.bool(true);
        self.entries.u64(cookie);
        self.entries.opaque(name);
        attrs(&mut self.entries);
        let fits = self.entries.len() <= self.room;
        if fits {
            self.any = true;
        } else {
            self.entries.back_to(start);
        }
        fits
    }

    fn answer(self, eof: bool, out: &mut Encoder) -> Result<(), Status> {
        if !self.any && !eof {
            return Err(Status::TooSmall);
        }
        out.fixed(&COOKIE_VERIFIER);
        out.append(self.entries);
        out.bool(false);
        out.bool(eof);
        Ok(())
    }
}

pub(super) async fn readdir(context: &mut Context, input: &mut Decoder, out: &mut Encoder) -> Result<(), Status> {
    /// The verifier, the end of the list, and eof.
    const AROUND_BYTES: usize = 16;
    let (cookie, verifier) = (input.u64()?, input.array::<8>()?);
    let (_names_bytes, bytes_max) = (input.u32()?, input.u32()?.min(IO_BYTES_MAX) as usize);
    let (wanted, _) = Bitmap::decode(input)?;
    let object = context.object()?;
    if cookie == 1 || cookie == 2 {
        return Err(Status::BadCookie);
    }
    if cookie != 0 && verifier != COOKIE_VERIFIER {
        return Err(Status::NotSame);
    }
    let room = bytes_max.checked_sub(AROUND_BYTES).ok_or(Status::TooSmall)?;
    let mut page = Page { entries: Encoder::default(), room, any: false };
    if let Object::Attributes(ino) = object {
        for (number, name) in attributes::names(context, ino).await? {
            if number <= cookie {
                continue;
            }
            let facts = facts(context, Object::Attribute(ino, attributes::number(&name)), wanted).await?;
            if !page.add(number, &name, |out| facts.encode(wanted, out)) {
                return page.answer(false, out);
            }
        }
        return page.answer(true, out);
    }
    let (dir, dir_attr) = context.directory(object).await?;
    context.who.check(&dir_attr, READ)?;
    let core = context.core.clone();
    let names = core.listings.of(dir, cookie == 0).await.map_err(|error| context.failed(&error))?;
    let space = if wanted.any(OF_SPACE) { Some(core.vfs.statfs().await.map_err(|error| context.failed(&error))?) } else { None };
    let start = names.partition_point(|name| name.cookie <= cookie);
    let asks = wanted.without(OF_LISTING) != Bitmap::default();
    for name in names.get(start..).unwrap_or_default() {
        let attr = if asks {
            match core.nodes.lookup(dir, &name.name).await {
                Ok(attr) => attr,
                // Removed meanwhile.
                Err(VfsError::NotFound) => continue,
                Err(error) => return Err(context.failed(&error)),
            }
        } else {
            Attr { ino: name.ino, kind: name.kind, ..dir_attr }
        };
        let facts = Facts {
            handles: &core.handles,
            object: Object::Node(attr.ino),
            file_type: convert::file_type(attr.kind),
            attr,
            space,
            lease_seconds: core.sessions.lease_seconds(),
        };
        if !page.add(name.cookie, &name.name, |out| facts.encode(wanted, out)) {
            return page.answer(false, out);
        }
    }
    page.answer(true, out)
}
