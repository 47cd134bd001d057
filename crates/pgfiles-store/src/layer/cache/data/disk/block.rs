//! A block as a file: its name and its bytes. Pure.
//!
//! 56 bytes of header, then the block: magic, format, CRC-32C of all that follows it, length, block number, row,
//! lineage (zeros for none). Numbers are little endian.

use bytes::Bytes;
use uuid::Uuid;

use crate::layer::cache::data::{BLOCK_BYTES, BlockKey};

const MAGIC: &[u8; 8] = b"pgfcache";
const FORMAT: u32 = 1;
const HEADER: usize = 56;

/// Where the block lies: one of 256 directories, by the last byte of the row's id (the most random one of every kind of
/// uuid), then a name that says it all.
pub fn file_name(key: &BlockKey) -> String {
    let id = key.id.0.simple();
    let fan = key.id.0.as_bytes()[15];
    match key.lineage {
        Some(lineage) => format!("{fan:02x}/{id}-{}-{:x}", lineage.0.simple(), key.block),
        None => format!("{fan:02x}/{id}-{:x}", key.block),
    }
}

/// The file's bytes.
pub fn encode(key: &BlockKey, block: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + block.len());
    out.extend_from_slice(&header(key, block));
    out.extend_from_slice(block);
    let sum = crc32c::crc32c(&out[16..]);
    out[12..16].copy_from_slice(&sum.to_le_bytes());
    out
}

/// The block in a file; `None` where anything about it is not as [`encode`] writes it.
pub fn decode(key: &BlockKey, file: Vec<u8>) -> Option<Bytes> {
    if file.len() < HEADER || file.len() > HEADER + BLOCK_BYTES as usize {
        return None;
    }
    let expected = header(key, &file[HEADER..]);
    let sum = crc32c::crc32c(&file[16..]).to_le_bytes();
    let whole = file[..12] == expected[..12] && file[12..16] == sum && file[16..HEADER] == expected[16..];
    whole.then(|| Bytes::from(file).slice(HEADER..))
}

/// The header of a block, the sum apart.
fn header(key: &BlockKey, block: &[u8]) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    out[16..20].copy_from_slice(&(block.len() as u32).to_le_bytes());
    out[20..24].copy_from_slice(&key.block.to_le_bytes());
    out[24..40].copy_from_slice(key.id.0.as_bytes());
    out[40..56].copy_from_slice(key.lineage.map_or(Uuid::nil(), |lineage| lineage.0).as_bytes());
    out
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

    proptest! {
        #[test]
        fn a_block_survives(id: u128, lineage in proptest::option::of(1u128..), block: u32, bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let key = key(id, lineage, block);
            prop_assert_eq!(decode(&key, encode(&key, &bytes)), Some(Bytes::from(bytes)));
        }

        #[test]
        fn a_damaged_file_is_no_block(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut: u16, flip: u8, at: u16) {
            let key = key(7, Some(8), 9);
            let whole = encode(&key, &bytes);
            let at = usize::from(at) % whole.len();
            let mut flipped = whole.clone();
            flipped[at] ^= flip.max(1);
            prop_assert_eq!(decode(&key, flipped), None);
            prop_assert_eq!(decode(&key, whole[..usize::from(cut) % whole.len()].to_vec()), None);
        }

        #[test]
        fn a_block_under_another_name_is_none(other in 0u8..3) {
            let whole = encode(&key(7, Some(8), 9), b"bytes");
            let wrong = match other { 0 => key(6, Some(8), 9), 1 => key(7, None, 9), _ => key(7, Some(8), 8) };
            prop_assert_eq!(decode(&wrong, whole), None);
        }
    }
}
