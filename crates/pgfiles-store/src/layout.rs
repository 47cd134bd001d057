//! How a large body is cut into rows: the manifest, its two levels, its arithmetic. Pure.
//!
//! A chunked body of `size` bytes has ⌈size / chunk⌉ entries of 16 bytes, in order: the id of the row that holds the
//! chunk, or zeros for a hole. A row may be shorter than the chunk: the rest reads as zeros. With one level the entries
//! are the `data` of the version's row; with two, that holds the ids of leaf rows with 256 entries each (a leaf of
//! zeros is a hole of 256 chunks).
//!
//! A file that turns out to be written a little at a time goes on in small chunks without being written again: the rows
//! that it has are cut into eighths by name. The entry of such a slice is the row's id with a digit from 8 to f, for the
//! first to the last eighth, where the id of a row has its version, 7.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::Part;
use crate::version::{Layout, Lineage, VersionId};

/// Bodies up to this size are inline in `data`.
pub const INLINE_BYTES_MAX: u64 = 256 << 10;
/// The same for a database.
const SMALL_INLINE_BYTES_MAX: u64 = 32 << 10;
/// Bytes per chunk of an ordinary file.
pub const CHUNK_BYTES: u32 = 128 << 10;
/// Bytes per chunk of a file that is written at random and synced often (a database).
pub const SMALL_CHUNK_BYTES: u32 = 16 << 10;
/// The largest chunk that a reader accepts.
pub const CHUNK_BYTES_MAX: u32 = 4 << 20;
/// Entries of a leaf.
pub const LEAF_ENTRIES: usize = 256;
/// Above that many chunks a manifest has two levels.
pub const ONE_LEVEL_ENTRIES_MAX: usize = 1_024;
/// Slices of a row: that many small chunks are an ordinary one.
const SLICES: u8 = (CHUNK_BYTES / SMALL_CHUNK_BYTES) as u8;
/// The largest file that is cut into small chunks: its leaves, which are all written then, hold 4 MiB.
const CUT_FILE_BYTES_MAX: u64 = 4 << 30;
/// The largest file: entries stay below 2^31 with the smallest chunk.
pub const FILE_BYTES_MAX: u64 = 8 << 40;

/// Bytes of one entry.
const ENTRY: usize = 16;

/// Whether a file of that name is likely to be written at random and synced often: a database, or a journal of one.
fn is_database(component: &str) -> bool {
    const ENDS: [&str; 8] = [".db", ".sqlite", ".sqlite3", ".db3", "-wal", "-journal", "-shm", ".mdb"];
    ENDS.iter().any(|end| component.ends_with(end))
}

/// The chunk size for a new body, from the file's name: databases and their journals get small ones.
pub fn chunk_bytes_for(component: &str) -> u32 {
    if is_database(component) { SMALL_CHUNK_BYTES } else { CHUNK_BYTES }
}

/// The largest body that a writer keeps inline, from the file's name: what is synced often is not sent whole each time.
pub fn inline_bytes_for(component: &str) -> u64 {
    if is_database(component) { SMALL_INLINE_BYTES_MAX } else { INLINE_BYTES_MAX }
}

/// The entries of a chunked body: `None` is a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Bytes per chunk.
    pub chunk: u32,
    /// One per chunk, in order.
    pub entries: Vec<Option<VersionId>>,
}

impl Manifest {
    /// A body of holes.
    pub fn hole(chunk: u32, size: u64) -> Self {
        Self { chunk, entries: vec![None; chunks(size, chunk)] }
    }

    /// How many levels the manifest is written with.
    pub fn levels(&self) -> u8 {
        if self.entries.len() > ONE_LEVEL_ENTRIES_MAX { 2 } else { 1 }
    }

    /// What `meta.layout` says of it.
    pub fn layout(&self) -> Layout {
        Layout { chunk: self.chunk, levels: self.levels() }
    }

    /// Bytes of a body of that size that are not holes, counted in whole chunks; at most `size`.
    pub fn allocated(&self, size: u64) -> u64 {
        let chunks = self.entries.iter().flatten().count() as u64;
        (chunks * u64::from(self.chunk)).min(size)
    }

    /// Grows with holes or shrinks to hold `size` bytes.
    pub fn resize(&mut self, size: u64) {
        self.entries.resize(chunks(size, self.chunk), None);
    }

    /// Where the bytes of a chunk are, or some of them; `None`: it is a hole, or behind the end.
    pub fn part(&self, index: usize, lineage: Lineage, offset: u64, len: u32) -> Option<Part> {
        let (id, skip) = row_of((*self.entries.get(index)?)?);
        Some(Part { id, lineage: Some(lineage), offset: offset + skip, len })
    }

    /// The same `size` bytes in small chunks, each a slice of a row that is there; `None` where they are that already, are
    /// too many, or a row has an id that has no room for the number of a slice.
    pub fn cut(&self, size: u64) -> Option<Self> {
        if self.chunk != CHUNK_BYTES || size > CUT_FILE_BYTES_MAX {
            return None;
        }
        let mut cut = Self::hole(SMALL_CHUNK_BYTES, size);
        for (slices, entry) in cut.entries.chunks_mut(usize::from(SLICES)).zip(&self.entries) {
            let Some(VersionId(row)) = entry else { continue };
            if row.as_bytes()[VERSION_BYTE] >> 4 != ROW {
                return None;
            }
            for (slice, number) in slices.iter_mut().zip(ROW + 1..) {
                *slice = Some(VersionId(with_digit(*row, number)));
            }
        }
        Some(cut)
    }
}

/// The byte of an id whose upper half is its version.
const VERSION_BYTE: usize = 6;
/// The version of the ids of rows.
const ROW: u8 = 7;

fn with_digit(id: Uuid, digit: u8) -> Uuid {
    let mut bytes = *id.as_bytes();
    bytes[VERSION_BYTE] = bytes[VERSION_BYTE] & 15 | digit << 4;
    Uuid::from_bytes(bytes)
}

/// The row that an entry names, and where in it the chunk begins.
pub fn row_of(entry: VersionId) -> (VersionId, u64) {
    match (entry.0.as_bytes()[VERSION_BYTE] >> 4).checked_sub(ROW + 1) {
        Some(slice) => (VersionId(with_digit(entry.0, ROW)), u64::from(slice) * u64::from(SMALL_CHUNK_BYTES)),
        None => (entry, 0),
    }
}

/// How many chunks hold `size` bytes.
pub fn chunks(size: u64, chunk: u32) -> usize {
    usize::try_from(size.div_ceil(u64::from(chunk))).unwrap_or(usize::MAX)
}

/// Entries as bytes.
pub fn encode(entries: &[Option<VersionId>]) -> Bytes {
    let mut out = Vec::with_capacity(entries.len() * ENTRY);
    for entry in entries {
        out.extend_from_slice(entry.map_or(Uuid::nil(), |id| id.0).as_bytes());
    }
    out.into()
}

/// Entries from bytes; `None` where the length is not a multiple of an entry's.
pub fn decode(bytes: &[u8]) -> Option<Vec<Option<VersionId>>> {
    let (entries, rest) = bytes.as_chunks::<ENTRY>();
    let entry = |raw: &[u8; ENTRY]| Some(Uuid::from_bytes(*raw)).filter(|id| !id.is_nil()).map(VersionId);
    rest.is_empty().then(|| entries.iter().map(entry).collect())
}

/// The etag of inline bytes: SHA-256 in hex.
pub fn etag(data: &[u8]) -> String {
    hex(&Sha256::digest(data))
}

/// The etag of a chunked body: SHA-256 of its size and the `data` of the version's row, then `-` and the number of entries. Chunks
/// and leaves never change, so equal etags mean equal bytes; equal bytes written twice may have two etags.
pub fn manifest_etag(manifest: &Manifest, size: u64, data: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(size.to_be_bytes());
    hash.update(data);
    format!("{}-{}", hex(&hash.finalize()), manifest.entries.len())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_chunks() {
        assert_eq!(chunks(0, CHUNK_BYTES), 0);
        assert_eq!(chunks(1, CHUNK_BYTES), 1);
        assert_eq!(chunks(u64::from(CHUNK_BYTES), CHUNK_BYTES), 1);
        assert_eq!(chunks(u64::from(CHUNK_BYTES) + 1, CHUNK_BYTES), 2);
        assert_eq!(Manifest::hole(CHUNK_BYTES, 1 << 30).levels(), 2);
    }

    #[test]
    fn etag_is_sha256() {
        assert_eq!(etag(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn a_body_is_cut_into_eighths_by_name() {
        let row = |n: u128| VersionId(Uuid::from_u128(7 << 76 | n));
        let size = 2 * u64::from(CHUNK_BYTES) + 20_000;
        let whole = Manifest { chunk: CHUNK_BYTES, entries: vec![Some(row(1)), None, Some(row(2))] };
        let cut = whole.cut(size).unwrap();
        assert_eq!((cut.chunk, cut.entries.len()), (SMALL_CHUNK_BYTES, 18));
        assert!(cut.entries[8..16].iter().all(Option::is_none), "a hole stays one");
        for (index, row, first) in [(0, row(1), 0), (7, row(1), 7), (16, row(2), 0), (17, row(2), 1)] {
            let lineage = Lineage(Uuid::from_u128(5));
            let offset = first * u64::from(SMALL_CHUNK_BYTES) + 3;
            assert_eq!(cut.part(index, lineage, 3, 9), Some(Part { id: row, lineage: Some(lineage), offset, len: 9 }));
        }
        assert_eq!(cut.cut(size), None, "only once");
        let foreign = Manifest { entries: vec![Some(VersionId(Uuid::from_u128(4 << 76)))], ..whole };
        assert_eq!(foreign.cut(1), None);
    }

    proptest! {
        #[test]
        fn entries_survive(ids in proptest::collection::vec(proptest::option::of(1u128..), 0..40)) {
            let entries: Vec<_> = ids.iter().map(|id| id.map(|id| VersionId(Uuid::from_u128(id)))).collect();
            prop_assert_eq!(decode(&encode(&entries)), Some(entries));
        }
    }
}
