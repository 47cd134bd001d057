//! fattr4: the attributes that are told, and those that may be set (RFC 8881 §5).

use bytes::Bytes;
use pgfiles_store::version::Timestamp;
use pgfiles_vfs::{Attr, SetAttr, SetTime, StatFs};

use crate::convert;
use crate::filehandle::{Handles, Object};
use crate::proto::{BITMAP_WORDS_MAX, IO_BYTES_MAX, NAME_MAX, Status, attr};
use crate::xdr::{Decoder, Encoder, Malformed};

/// Words of a bitmap that hold anything.
const WORDS: usize = 3;
const BLOCK_BYTES: u64 = 4096;
/// The largest file (docs/limits.md).
const FILE_BYTES_MAX: u64 = 8 << 40;
const LINKS_MAX: u32 = 1000;
const OWNER_BYTES_MAX: usize = 255;

/// A set of attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bitmap([u32; WORDS]);

impl Bitmap {
    pub const fn of(numbers: &[u32]) -> Self {
        let mut words = [0; WORDS];
        let mut at = 0;
        while at < numbers.len() {
            words[(numbers[at] / 32) as usize] |= 1 << (numbers[at] % 32);
            at += 1;
        }
        Self(words)
    }

    /// Numbers beyond those of 4.1 are dropped; `true` where there were any.
    pub fn decode(input: &mut Decoder) -> Result<(Self, bool), Malformed> {
        let words = input.u32s(BITMAP_WORDS_MAX)?;
        let mut bits = Self::default();
        for (word, value) in bits.0.iter_mut().zip(&words) {
            *word = *value;
        }
        Ok((bits, words.iter().skip(WORDS).any(|word| *word != 0)))
    }

    pub fn encode(self, out: &mut Encoder) {
        let used = self.0.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        out.u32s(self.0.get(..used).unwrap_or_default());
    }

    pub fn has(self, number: u32) -> bool {
        self.0.get((number / 32) as usize).is_some_and(|word| word & (1 << (number % 32)) != 0)
    }

    pub fn any(self, numbers: &[u32]) -> bool {
        numbers.iter().any(|number| self.has(*number))
    }

    pub fn and(self, other: Self) -> Self {
        let mut out = self;
        for (word, other) in out.0.iter_mut().zip(other.0) {
            *word &= other;
        }
        out
    }

    pub fn without(self, other: Self) -> Self {
        let mut out = self;
        for (word, other) in out.0.iter_mut().zip(other.0) {
            *word &= !other;
        }
        out
    }

    fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn numbers(self) -> impl Iterator<Item = u32> {
        (0..WORDS as u32 * 32).filter(move |number| self.has(*number))
    }
}

/// What can be set and not asked for.
const WRITE_ONLY: Bitmap = Bitmap::of(&[attr::TIME_ACCESS_SET, attr::TIME_MODIFY_SET]);

const SETTABLE: Bitmap =
    Bitmap::of(&[attr::SIZE, attr::MODE, attr::OWNER, attr::OWNER_GROUP, attr::TIME_ACCESS_SET, attr::TIME_MODIFY_SET]);

pub(crate) const SUPPORTED: Bitmap = Bitmap::of(&[
    attr::SUPPORTED_ATTRS,
    attr::TYPE,
    attr::FH_EXPIRE_TYPE,
    attr::CHANGE,
    attr::SIZE,
    attr::LINK_SUPPORT,
    attr::SYMLINK_SUPPORT,
    attr::NAMED_ATTR,
    attr::FSID,
    attr::UNIQUE_HANDLES,
    attr::LEASE_TIME,
    attr::RDATTR_ERROR,
    attr::CANSETTIME,
    attr::CASE_INSENSITIVE,
    attr::CASE_PRESERVING,
    attr::CHOWN_RESTRICTED,
    attr::FILEHANDLE,
    attr::FILEID,
    attr::FILES_AVAIL,
    attr::FILES_FREE,
    attr::FILES_TOTAL,
    attr::HOMOGENEOUS,
    attr::MAXFILESIZE,
    attr::MAXLINK,
    attr::MAXNAME,
    attr::MAXREAD,
    attr::MAXWRITE,
    attr::MODE,
    attr::NO_TRUNC,
    attr::NUMLINKS,
    attr::OWNER,
    attr::OWNER_GROUP,
    attr::RAWDEV,
    attr::SPACE_AVAIL,
    attr::SPACE_FREE,
    attr::SPACE_TOTAL,
    attr::SPACE_USED,
    attr::TIME_ACCESS,
    attr::TIME_ACCESS_SET,
    attr::TIME_DELTA,
    attr::TIME_METADATA,
    attr::TIME_MODIFY,
    attr::TIME_MODIFY_SET,
    attr::MOUNTED_ON_FILEID,
    attr::SUPPATTR_EXCLCREAT,
]);

/// Those that need the figures of the whole file system.
pub(crate) const OF_SPACE: &[u32] =
    &[attr::FILES_AVAIL, attr::FILES_FREE, attr::FILES_TOTAL, attr::SPACE_AVAIL, attr::SPACE_FREE, attr::SPACE_TOTAL];

/// Those that a listing tells by itself.
pub(crate) const OF_LISTING: Bitmap =
    Bitmap::of(&[attr::TYPE, attr::FILEID, attr::MOUNTED_ON_FILEID, attr::RDATTR_ERROR, attr::FSID, attr::FILEHANDLE]);

/// What the attributes of an object are made of.
pub(crate) struct Facts<'h> {
    pub handles: &'h Handles,
    pub object: Object,
    /// One of [`crate::proto::file_type`].
    pub file_type: u32,
    pub attr: Attr,
    /// Where one of [`OF_SPACE`] is wanted.
    pub space: Option<StatFs>,
    pub lease_seconds: u32,
}

impl Facts<'_> {
    /// What changes whenever content, attributes or names do. Times are in nanoseconds here, and each change sets ctime.
    pub fn change(&self) -> u64 {
        change(&self.attr)
    }

    /// Encodes a fattr4: of what is wanted what there is.
    pub fn encode(&self, wanted: Bitmap, out: &mut Encoder) {
        let told = wanted.and(SUPPORTED).without(WRITE_ONLY);
        told.encode(out);
        let mut values = Encoder::default();
        self.values(told, &mut values);
        out.opaque(&values.into_bytes());
    }

    fn values(&self, told: Bitmap, out: &mut Encoder) {
        for number in told.numbers() {
            self.value(number, out);
        }
    }

    fn value(&self, number: u32, out: &mut Encoder) {
        let space = self.space.unwrap_or(StatFs { blocks: 0, blocks_free: 0, files: 0, files_free: 0 });
        let file = &self.attr;
        match number {
            attr::SUPPORTED_ATTRS => SUPPORTED.encode(out),
            attr::TYPE => out.u32(self.file_type),
            // FH4_PERSISTENT: a handle outlives the daemon.
            attr::FH_EXPIRE_TYPE => out.u32(0),
            attr::CHANGE => out.u64(self.change()),
            attr::SIZE => out.u64(file.size),
            attr::LINK_SUPPORT
            | attr::SYMLINK_SUPPORT
            | attr::NAMED_ATTR
            | attr::UNIQUE_HANDLES
            | attr::CANSETTIME
            | attr::CASE_PRESERVING
            | attr::CHOWN_RESTRICTED
            | attr::HOMOGENEOUS
            | attr::NO_TRUNC => out.bool(true),
            attr::CASE_INSENSITIVE => out.bool(false),
            attr::FSID => {
                let (major, minor) = self.handles.fsid();
                out.u64(major);
                out.u64(minor);
            }
            attr::LEASE_TIME => out.u32(self.lease_seconds),
            attr::RDATTR_ERROR => out.u32(Status::Ok as u32),
            attr::FILEHANDLE => out.opaque(&self.handles.encode(self.object)),
            attr::FILEID | attr::MOUNTED_ON_FILEID => out.u64(self.fileid()),
            attr::FILES_AVAIL | attr::FILES_FREE => out.u64(space.files_free),
            attr::FILES_TOTAL => out.u64(space.files),
            attr::MAXFILESIZE => out.u64(FILE_BYTES_MAX),
            attr::MAXLINK => out.u32(LINKS_MAX),
            attr::MAXNAME => out.u32(NAME_MAX as u32),
            attr::MAXREAD | attr::MAXWRITE => out.u64(u64::from(IO_BYTES_MAX)),
            attr::MODE => out.u32(file.mode & 0o7777),
            attr::NUMLINKS => out.u32(file.nlink),
            attr::OWNER => out.opaque(file.uid.to_string().as_bytes()),
            attr::OWNER_GROUP => out.opaque(file.gid.to_string().as_bytes()),
            attr::RAWDEV => {
                let (major, minor) = convert::spec_data(file.rdev);
                out.u32(major);
                out.u32(minor);
            }
            attr::SPACE_AVAIL | attr::SPACE_FREE => out.u64(space.blocks_free.saturating_mul(BLOCK_BYTES)),
            attr::SPACE_TOTAL => out.u64(space.blocks.saturating_mul(BLOCK_BYTES)),
            attr::SPACE_USED => out.u64(file.allocated),
            attr::TIME_ACCESS => time(file.atime, out),
            attr::TIME_DELTA => time(Timestamp { seconds: 0, nanos: 1 }, out),
            attr::TIME_METADATA => time(file.ctime, out),
            attr::TIME_MODIFY => time(file.mtime, out),
            // An exclusive create keeps its verifier apart from the attributes, so all may come with it.
            attr::SUPPATTR_EXCLCREAT => SETTABLE.encode(out),
            // Not in `SUPPORTED`, or write-only.
            _ => {}
        }
    }

    /// A number that is never 0: what the file has, and for the directory of its attributes and each of these another.
    fn fileid(&self) -> u64 {
        let ino = self.object.ino().0;
        match self.object {
            Object::Node(_) => ino,
            Object::Attributes(_) => ino.rotate_left(17) ^ 0x5bd1_e995_0000_0000,
            Object::Attribute(_, name) => ino.rotate_left(31) ^ name,
        }
        .max(2 - u64::from(matches!(self.object, Object::Node(_))))
    }
}

/// See [`Facts::change`].
pub(crate) fn change(attr: &Attr) -> u64 {
    convert::nanos(attr.ctime)
}

fn time(at: Timestamp, out: &mut Encoder) {
    out.i64(at.seconds);
    out.u32(at.nanos);
}

/// What a client wants to be set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub set: SetAttr,
    /// What `set` says, as the client numbered it.
    pub named: Bitmap,
}

impl Wishes {
    /// Reads a fattr4 whole, whatever is wrong with it.
    ///
    /// # Errors
    /// Outside what does not follow XDR; inside the status: of attributes that do not exist here or cannot be set, of values
    /// that make no sense.
    pub fn decode(input: &mut Decoder) -> Result<Result<Self, Status>, Malformed> {
        let (named, beyond) = Bitmap::decode(input)?;
        let values = input.opaque(input.remaining())?;
        if beyond || !named.without(SUPPORTED).is_empty() {
            return Ok(Err(Status::AttrNotSupp));
        }
        if !named.without(SETTABLE).is_empty() {
            return Ok(Err(Status::Inval));
        }
        Ok(Self::values(named, values))
    }

    fn values(named: Bitmap, values: Bytes) -> Result<Self, Status> {
        let mut input = Decoder::new(values);
        let mut set = SetAttr::default();
        let bad = |_| Status::BadXdr;
        for number in named.numbers() {
            match number {
                attr::SIZE => set.size = Some(input.u64().map_err(bad)?),
                attr::MODE => {
                    let mode = input.u32().map_err(bad)?;
                    if mode & !0o7777 != 0 {
                        return Err(Status::Inval);
                    }
                    set.mode = Some(mode);
                }
                attr::OWNER => set.uid = Some(owner(&mut input)?),
                attr::OWNER_GROUP => set.gid = Some(owner(&mut input)?),
                attr::TIME_ACCESS_SET => set.atime = Some(set_time(&mut input)?),
                attr::TIME_MODIFY_SET => set.mtime = Some(set_time(&mut input)?),
                _ => return Err(Status::Inval),
            }
        }
        if input.remaining() > 0 {
            return Err(Status::BadXdr);
        }
        Ok(Self { set, named })
    }

    /// The mode is not to be set: a create took it.
    pub fn without_mode(self) -> Self {
        let named = self.named.without(Bitmap::of(&[attr::MODE]));
        Self { set: SetAttr { mode: None, ..self.set }, named }
    }
}

/// A number in decimal, as clients send it without a mapping of names (RFC 8881 §5.9).
fn owner(input: &mut Decoder) -> Result<u32, Status> {
    let text = input.opaque(OWNER_BYTES_MAX).map_err(|_| Status::BadXdr)?;
    std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).ok_or(Status::BadOwner)
}

fn set_time(input: &mut Decoder) -> Result<SetTime, Status> {
    let bad = |_| Status::BadXdr;
    match input.u32().map_err(bad)? {
        0 => Ok(SetTime::Now),
        1 => {
            let (seconds, nanos) = (input.i64().map_err(bad)?, input.u32().map_err(bad)?);
            if nanos >= 1_000_000_000 { Err(Status::Inval) } else { Ok(SetTime::At(Timestamp { seconds, nanos })) }
        }
        _ => Err(Status::BadXdr),
    }
}

/// Reads a fattr4 that is to be compared (VERIFY, NVERIFY).
///
/// # Errors
/// As [`Wishes::decode`].
pub(crate) fn decode_compared(input: &mut Decoder) -> Result<Result<(Bitmap, Bytes), Status>, Malformed> {
    let (named, beyond) = Bitmap::decode(input)?;
    let values = input.opaque(input.remaining())?;
    if beyond || !named.without(SUPPORTED).is_empty() {
        return Ok(Err(Status::AttrNotSupp));
    }
    if named.any(&[attr::RDATTR_ERROR]) || !named.and(WRITE_ONLY).is_empty() {
        return Ok(Err(Status::Inval));
    }
    Ok(Ok((named, values)))
}

/// Whether an object's attributes are these.
pub(crate) fn is_same(facts: &Facts<'_>, (named, values): &(Bitmap, Bytes)) -> bool {
    let mut ours = Encoder::default();
    facts.values(*named, &mut ours);
    ours.into_bytes() == *values
}
