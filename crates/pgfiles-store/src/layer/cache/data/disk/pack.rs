//! A pack: a file of blocks, one after another in the order in which they came, behind a header of 16 bytes: magic, how
//! many blocks were appended (for statistics), zeros.
//!
//! Who appends holds the file's lock (flock), so nobody else does; anybody may remove or cut the file, which is noticed
//! before the next blocks. Nothing is synchronised with the disk: after a crash, what is torn does not check.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use rustix::fs::{self, FlockOperation, OFlags};

use super::block::{self, HEADER};
use super::index::Place;
use super::shelf::{Shelf, pack_name};
use crate::layer::cache::data::BlockKey;

const MAGIC: &[u8; 8] = b"pgfpack2";
const START: usize = 16;
/// Blocks that are appended at once: the system takes 1,024 pieces.
pub const BLOCKS_MAX: usize = 500;

/// A pack to append to.
pub struct Pack {
    file: File,
    number: u32,
    blocks: u32,
}

impl Pack {
    /// A new one; `None`: there is one of that number.
    pub fn make(shelf: &Shelf, number: u32) -> io::Result<Option<Self>> {
        let file = match shelf.make(&pack_name(number), OFlags::EXCL) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            result => result?,
        };
        fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let mut start = [0; START];
        start[..MAGIC.len()].copy_from_slice(MAGIC);
        if let Err(error) = file.write_all_at(&start, 0) {
            // A full disk would collect empty ones.
            let _ = shelf.remove(&pack_name(number));
            return Err(error);
        }
        Ok(Some(Self { file, number, blocks: 0 }))
    }

    /// One that is there; `None`: it is not, is not a pack, or somebody else appends to it.
    pub fn adopt(shelf: &Shelf, number: u32) -> io::Result<Option<Self>> {
        let Some(file) = shelf.file(&pack_name(number), OFlags::RDWR)? else { return Ok(None) };
        let Some(blocks) = count(&file)? else { return Ok(None) };
        let ours = fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        Ok(ours.then_some(Self { file, number, blocks }))
    }

    /// Whether it is still there and has less than that many bytes.
    pub fn takes_more(&self, bytes_max: u64) -> io::Result<bool> {
        let about = fs::fstat(&self.file)?;
        Ok(about.st_nlink > 0 && (START as u64..bytes_max).contains(&(about.st_size as u64)))
    }

    /// Appends at most [`BLOCKS_MAX`] blocks and says where they lie; all, or none where that fails.
    pub fn append(&mut self, blocks: &[(BlockKey, Bytes)]) -> io::Result<Vec<Place>> {
        let end = self.file.metadata()?.len();
        let headers: Vec<[u8; HEADER]> = blocks.iter().map(|(key, bytes)| block::header(key, bytes)).collect();
        let pieces = headers.iter().zip(blocks).flat_map(|(header, (_, bytes))| [IoSlice::new(header), IoSlice::new(bytes)]);
        if let Err(error) = write_all(&self.file, pieces.filter(|piece| !piece.is_empty()).collect(), end) {
            let _ = self.file.set_len(end);
            return Err(error);
        }
        self.blocks = self.blocks.saturating_add(blocks.len() as u32);
        self.file.write_all_at(&self.blocks.to_le_bytes(), MAGIC.len() as u64)?;
        let mut offset = end;
        let place = |(_, bytes): &(BlockKey, Bytes)| {
            let len = (HEADER + bytes.len()) as u32;
            offset += u64::from(len);
            Place { pack: self.number, offset: (offset - u64::from(len)) as u32, len }
        };
        Ok(blocks.iter().map(place).collect())
    }
}

fn write_all(file: &File, mut pieces: Vec<IoSlice<'_>>, mut at: u64) -> io::Result<()> {
    let mut pieces = &mut pieces[..];
    while !pieces.is_empty() {
        let written = rustix::io::pwritev(file, pieces, at)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        at += written as u64;
        IoSlice::advance_slices(&mut pieces, written);
    }
    Ok(())
}

/// How many blocks were appended to a pack, as far as can be told.
pub fn blocks_in(shelf: &Shelf, number: u32) -> io::Result<u64> {
    let Some(file) = shelf.file(&pack_name(number), OFlags::RDONLY)? else { return Ok(0) };
    Ok(count(&file)?.unwrap_or(0).into())
}

/// `None`: it is not a pack.
fn count(file: &File) -> io::Result<Option<u32>> {
    let mut start = [0; START];
    match file.read_exact_at(&mut start, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let most = file.metadata()?.len() / HEADER as u64;
    let said = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
    Ok((start[..8] == MAGIC[..]).then(|| said.min(u32::try_from(most).unwrap_or(u32::MAX))))
}
