//! Reading blocks that are asked for together: those that came together lie in one pack, which is opened once.

use std::fs::File;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{self, OFlags, Timespec, Timestamps};

use super::block::{self, RECORD_BYTES_MAX};
use super::index::{Index, Place};
use super::shelf::{Shelf, pack_name};
use crate::layer::cache::data::BlockKey;

/// A use is recorded when the last recorded one is older than this.
const USE_SECONDS: i64 = 5;

/// What was found.
pub enum Found {
    /// The block.
    Block(Bytes),
    /// Nothing.
    Nothing,
    /// Something that is not the block, as it should be. It is not found again.
    Damaged,
}

/// Reads for one question. Not kept longer: it holds no file open that others removed.
pub struct Reader<'s> {
    shelf: &'s Shelf,
    index: Option<Index>,
    pack: Option<(u32, File)>,
}

impl<'s> Reader<'s> {
    /// Opens the index.
    pub fn new(shelf: &'s Shelf) -> io::Result<Self> {
        Ok(Self { shelf, index: Index::open(shelf, OFlags::RDONLY)?, pack: None })
    }

    /// A block. Records that its pack was used.
    pub fn read(&mut self, key: &BlockKey) -> io::Result<Found> {
        let Some(place) = self.index.as_ref().map(|index| index.find(key)).transpose()?.flatten() else {
            return Ok(Found::Nothing);
        };
        let Some(pack) = self.pack(place.pack)? else { return Ok(Found::Nothing) };
        if let Some(block) = block::decode(key, read_at(pack, place)?) {
            return Ok(Found::Block(block));
        }
        if fs::fstat(pack)?.st_nlink == 0 {
            // It was cut while it was removed.
            return Ok(Found::Nothing);
        }
        if let Some(index) = Index::open(self.shelf, OFlags::RDWR)? {
            index.forget(key, place)?;
        }
        Ok(Found::Damaged)
    }

    /// `None`: it was removed.
    fn pack(&mut self, number: u32) -> io::Result<Option<&File>> {
        if self.pack.as_ref().is_none_or(|(open, _)| *open != number) {
            let Some(file) = self.shelf.file(&pack_name(number), OFlags::RDONLY)? else { return Ok(None) };
            record_use(&file)?;
            self.pack = Some((number, file));
        }
        Ok(self.pack.as_ref().map(|(_, file)| file))
    }
}

/// As many of the bytes as are there.
fn read_at(pack: &File, place: Place) -> io::Result<Vec<u8>> {
    let len = (place.len as usize).min(RECORD_BYTES_MAX);
    let mut record = Vec::with_capacity(len);
    while record.len() < len {
        let at = u64::from(place.offset) + record.len() as u64;
        let read = rustix::io::pread(pack, spare_capacity(&mut record), at)?;
        if read == 0 {
            break;
        }
    }
    record.truncate(len);
    Ok(record)
}

#[allow(clippy::unnecessary_cast)] // the field's type differs between systems
fn record_use(pack: &File) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = Timespec { tv_sec: now.as_secs() as i64, tv_nsec: now.subsec_nanos().into() };
    if at.tv_sec - fs::fstat(pack)?.st_mtime as i64 > USE_SECONDS {
        // Not where the file system is read-only.
        let _ = fs::futimens(pack, &Timestamps { last_access: at, last_modification: at });
    }
    Ok(())
}
