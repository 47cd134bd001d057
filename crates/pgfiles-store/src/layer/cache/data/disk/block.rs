//! A block as it lies in a pack: a header, then its bytes. Pure.
//!
//! The header has 56 bytes: magic, format, CRC-32C of all that follows it, length, block number, row, lineage (zeros
//! for none). Numbers are little endian.

use bytes::Bytes;
use uuid::Uuid;

use crate::layer::cache::data::{BLOCK_BYTES, BlockKey};

const MAGIC: &[u8; 8] = b"pgfblock";
const FORMAT: u32 = 2;
/// Bytes in front of those of the block.
pub const HEADER: usize = 56;
/// The most bytes of a block with its header.
pub const RECORD_BYTES_MAX: usize = HEADER + BLOCK_BYTES as usize;

/// What stands in front of a block's bytes.
pub fn header(key: &BlockKey, block: &[u8]) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    out[16..20].copy_from_slice(&(block.len() as u32).to_le_bytes());
    out[20..24].copy_from_slice(&key.block.to_le_bytes());
    out[24..40].copy_from_slice(key.id.0.as_bytes());
    out[40..56].copy_from_slice(key.lineage.map_or(Uuid::nil(), |lineage| lineage.0).as_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&out[16..]), block);
    out[12..16].copy_from_slice(&sum.to_le_bytes());
    out
}

/// The block of a header and the bytes after it; `None` where anything about them is not as [`header`] says.
pub fn decode(key: &BlockKey, record: Vec<u8>) -> Option<Bytes> {
    if record.len() < HEADER || record.len() > RECORD_BYTES_MAX {
        return None;
    }
    let whole = record[..HEADER] == header(key, &record[HEADER..]);
    whole.then(|| Bytes::from(record).slice(HEADER..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Lineage, VersionId};
    use proptest::prelude::*;

    fn key(id: u128, lineage: Option<u128>, block: u32) -> BlockKey {
        let lineage = lineage.map(|lineage| Lineage(Uuid::from_u128(lineage)));
        BlockKey { id: VersionId(Uuid::from_u128(id)), lineage, block }
    }

    fn encode(key: &BlockKey, block: &[u8]) -> Vec<u8> {
        [&header(key, block), block].concat()
    }

    proptest! {
        #[test]
        fn a_block_survives(id: u128, lineage in proptest::option::of(1u128..), block: u32, bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let key = key(id, lineage, block);
            prop_assert_eq!(decode(&key, encode(&key, &bytes)), Some(Bytes::from(bytes)));
        }

        #[test]
        fn a_damaged_record_is_no_block(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut: u16, flip: u8, at: u16) {
            let key = key(7, Some(8), 9);
            let whole = encode(&key, &bytes);
            let at = usize::from(at) % whole.len();
            let mut flipped = whole.clone();
            flipped[at] ^= flip.max(1);
            prop_assert_eq!(decode(&key, flipped), None);
            prop_assert_eq!(decode(&key, whole[..usize::from(cut) % whole.len()].to_vec()), None);
        }

        #[test]
        fn the_block_of_another_key_is_none(other in 0u8..3) {
            let whole = encode(&key(7, Some(8), 9), b"bytes");
            let wrong = match other { 0 => key(6, Some(8), 9), 1 => key(7, None, 9), _ => key(7, Some(8), 8) };
            prop_assert_eq!(decode(&wrong, whole), None);
        }
    }
}
