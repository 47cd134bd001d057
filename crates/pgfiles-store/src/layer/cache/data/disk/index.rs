//! Where each block lies: a hash table in a file that all daemons read and write.
//!
//! It is believed in nothing: a block checks by itself, so that a slot that is lost, torn, overwritten or out of date
//! costs a miss. Hence no lock, no order of writes, and no repair: what does not look like an index is none.
//!
//! The file is 2ⁿ buckets of eight slots of 16 bytes: some bits of the key's hash, the number of the pack, offset and
//! length in it, little endian. A slot without a length is free. A full bucket gives up what lies in its oldest pack.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::unix::fs::FileExt as _;

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use super::shelf::Shelf;
use crate::layer::cache::data::BlockKey;

/// Its name.
pub const NAME: &str = "index";
/// The name of a larger one that is being made.
const NEXT: &str = "index.next";
const SLOT: usize = 16;
const SLOTS: usize = 8;
const BUCKET: usize = SLOT * SLOTS;
/// What the blocks of a full cache have at least on average, for all of them to be found.
const BLOCK_BYTES_ABOUT: u64 = 4_096;

/// The index, open.
pub struct Index {
    file: File,
    buckets: u64,
}

/// Where a block lies, header included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The pack.
    pub pack: u32,
    /// Bytes from its start.
    pub offset: u32,
    /// Bytes; not 0.
    pub len: u32,
}

/// How many buckets the blocks of that many bytes need.
pub fn buckets_for(bytes_max: u64) -> u64 {
    (bytes_max / BLOCK_BYTES_ABOUT / SLOTS as u64).clamp(1, 1 << 40).next_power_of_two()
}

impl Index {
    /// The one that is there.
    pub fn open(shelf: &Shelf, flags: OFlags) -> io::Result<Option<Self>> {
        let Some(file) = shelf.file(NAME, flags)? else { return Ok(None) };
        let buckets = buckets_in(file.metadata()?.len());
        Ok(buckets.map(|buckets| Self { file, buckets }))
    }

    /// The one that is there, or a new one of that size.
    pub fn open_or_make(shelf: &Shelf, buckets: u64) -> io::Result<Self> {
        let file = shelf.make(NAME, OFlags::empty())?;
        let len = file.metadata()?.len();
        if let Some(buckets) = buckets_in(len) {
            return Ok(Self { file, buckets });
        }
        // An empty one may be somebody else's who is making it as well, and has entered something by now.
        if len > 0 {
            file.set_len(0)?;
        }
        file.set_len(buckets * BUCKET as u64)?;
        Ok(Self { file, buckets })
    }

    /// Whether there is one of that size.
    pub fn has_size(shelf: &Shelf, buckets: u64) -> io::Result<bool> {
        Ok(Self::open(shelf, OFlags::RDONLY)?.is_some_and(|index| index.buckets == buckets))
    }

    /// Makes it larger, if it is smaller than that, with all that is in it: who looks at one more bit of the hash finds
    /// a copy of the bucket there. What others enter meanwhile may be lost. For who holds the lock of the directory.
    pub fn grow(shelf: &Shelf, buckets: u64) -> io::Result<()> {
        let Some(mut old) = Self::open(shelf, OFlags::RDONLY)?.filter(|old| old.buckets < buckets) else { return Ok(()) };
        let mut new = shelf.make(NEXT, OFlags::TRUNC)?;
        for _ in 0..buckets / old.buckets {
            old.file.rewind()?;
            io::copy(&mut old.file, &mut new)?;
        }
        shelf.rename(NEXT, NAME)
    }

    /// Where a block should be.
    pub fn find(&self, key: &BlockKey) -> io::Result<Option<Place>> {
        let (tag, at) = self.hash(key);
        Ok(self.bucket(at)?.into_iter().find(|slot| slot.is_of(tag)).map(|slot| slot.place))
    }

    /// Notes where a block is.
    pub fn set(&self, key: &BlockKey, place: Place) -> io::Result<()> {
        let (tag, at) = self.hash(key);
        let slots = self.bucket(at)?;
        let same = slots.iter().position(|slot| slot.is_of(tag));
        let free = || slots.iter().position(|slot| slot.place.len == 0);
        let oldest = || (0..SLOTS).min_by_key(|slot| slots[*slot].place.pack);
        let slot = same.or_else(free).or_else(oldest).unwrap_or_default();
        self.file.write_all_at(&Slot { tag, place }.to_bytes(), at + (slot * SLOT) as u64)
    }

    /// Forgets that a block is there.
    pub fn forget(&self, key: &BlockKey, place: Place) -> io::Result<()> {
        let (tag, at) = self.hash(key);
        match self.bucket(at)?.iter().position(|slot| *slot == Slot { tag, place }) {
            Some(slot) => self.file.write_all_at(&[0; SLOT], at + (slot * SLOT) as u64),
            None => Ok(()),
        }
    }

    /// What is compared, and where the bucket lies.
    fn hash(&self, key: &BlockKey) -> (u32, u64) {
        let lineage = key.lineage.map_or([0; 16], |lineage| lineage.0.into_bytes());
        let hash = Sha256::new().chain_update(key.id.0).chain_update(lineage).chain_update(key.block.to_le_bytes()).finalize();
        let number = |from| u32::from_le_bytes([hash[from], hash[from + 1], hash[from + 2], hash[from + 3]]);
        let bucket = (u64::from(number(8)) << 32 | u64::from(number(4))) & (self.buckets - 1);
        (number(0), bucket * BUCKET as u64)
    }

    fn bucket(&self, at: u64) -> io::Result<[Slot; SLOTS]> {
        let mut bytes = [0; BUCKET];
        match self.file.read_exact_at(&mut bytes, at) {
            // Somebody has cut it off.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => bytes = [0; BUCKET],
            result => result?,
        }
        Ok(std::array::from_fn(|slot| Slot::from_bytes(&bytes[slot * SLOT..])))
    }
}

/// Of a file of that many bytes; `None`: it is not an index.
fn buckets_in(len: u64) -> Option<u64> {
    let buckets = len / BUCKET as u64;
    (len.is_multiple_of(BUCKET as u64) && buckets.is_power_of_two()).then_some(buckets)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    tag: u32,
    place: Place,
}

impl Slot {
    fn is_of(&self, tag: u32) -> bool {
        self.tag == tag && self.place.len > 0
    }

    fn to_bytes(self) -> [u8; SLOT] {
        let Place { pack, offset, len } = self.place;
        let mut out = [0; SLOT];
        for (at, number) in [self.tag, pack, offset, len].into_iter().enumerate() {
            out[at * 4..at * 4 + 4].copy_from_slice(&number.to_le_bytes());
        }
        out
    }

    /// Of the first 16 bytes.
    fn from_bytes(bytes: &[u8]) -> Self {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { tag: number(0), place: Place { pack: number(4), offset: number(8), len: number(12) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::VersionId;

    fn key(n: u128) -> BlockKey {
        BlockKey { id: VersionId(uuid::Uuid::from_u128(n)), lineage: None, block: 0 }
    }

    fn place(pack: u32) -> Place {
        Place { pack, offset: 16, len: 56 }
    }

    fn known(index: &Index, keys: u32) -> Vec<u32> {
        (1..=keys).filter(|n| index.find(&key(u128::from(*n))).unwrap() == Some(place(*n))).collect()
    }

    #[test]
    fn a_block_is_found_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path()).unwrap();
        assert!(Index::open(&shelf, OFlags::RDONLY).unwrap().is_none());
        let index = Index::open_or_make(&shelf, 16).unwrap();
        index.set(&key(1), place(1)).unwrap();
        index.set(&key(1), place(2)).unwrap();
        let other = Index::open(&shelf, OFlags::RDWR).unwrap().unwrap();
        assert_eq!(other.find(&key(1)).unwrap(), Some(place(2)), "for who else has it open, too");
        other.forget(&key(1), place(1)).unwrap();
        assert_eq!(index.find(&key(1)).unwrap(), Some(place(2)), "it is elsewhere meanwhile");
        other.forget(&key(1), place(2)).unwrap();
        assert_eq!(index.find(&key(1)).unwrap(), None);
        for other in [
            BlockKey { block: 1, ..key(1) },
            BlockKey { lineage: Some(crate::version::Lineage(uuid::Uuid::from_u128(1))), ..key(1) },
        ] {
            index.set(&other, place(3)).unwrap();
        }
        assert_eq!(index.find(&key(1)).unwrap(), None);
    }

    #[test]
    fn a_full_bucket_gives_up_what_is_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path()).unwrap();
        let index = Index::open_or_make(&shelf, 1).unwrap();
        for n in 1..=20 {
            index.set(&key(n.into()), place(n)).unwrap();
        }
        assert_eq!(known(&index, 20), (13..=20).collect::<Vec<_>>());
    }

    #[test]
    fn it_grows_with_all_that_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path()).unwrap();
        let index = Index::open_or_make(&shelf, 64).unwrap();
        (1..=200).for_each(|n| index.set(&key(n.into()), place(n)).unwrap());
        let before = known(&index, 200);
        for buckets in [512, 64, 1024] {
            Index::grow(&shelf, buckets).unwrap();
        }
        let grown = Index::open_or_make(&shelf, 1).unwrap();
        assert_eq!(grown.buckets, 1024);
        assert_eq!(known(&grown, 200), before);
        (1..=2_000).for_each(|n| grown.set(&key(n.into()), place(n)).unwrap());
        assert!(known(&grown, 2_000).len() > 1_950);
    }

    #[test]
    fn many_make_it_at_once() {
        for _ in 0..50 {
            let dir = tempfile::tempdir().unwrap();
            let shelf = Shelf::open(dir.path()).unwrap();
            std::thread::scope(|scope| {
                for n in 1..=8 {
                    let shelf = &shelf;
                    scope.spawn(move || Index::open_or_make(shelf, 64).unwrap().set(&key(n.into()), place(n)).unwrap());
                }
            });
            let index = Index::open(&shelf, OFlags::RDONLY).unwrap().unwrap();
            assert_eq!(known(&index, 8), (1..=8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_no_index_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path()).unwrap();
        let index = Index::open_or_make(&shelf, 16).unwrap();
        index.set(&key(1), place(1)).unwrap();
        index.file.set_len(100).unwrap();
        assert_eq!(index.find(&key(1)).unwrap(), None);
        assert!(Index::open(&shelf, OFlags::RDONLY).unwrap().is_none());
        let made = Index::open_or_make(&shelf, 16).unwrap();
        assert_eq!((made.buckets, made.find(&key(1)).unwrap()), (16, None));
        assert_eq!([buckets_for(0), buckets_for(24 << 20), buckets_for(1 << 30)], [1, 1024, 32_768]);
    }
}
