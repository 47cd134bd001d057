//! XDR (RFC 4506): what is read from a peer never panics and never allocates more than what was received; what is sent may
//! carry large bodies without copying them.

use bytes::{BufMut as _, Bytes, BytesMut};

/// What a peer sent is not what it claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed XDR")]
pub struct Malformed;

/// Reads values one after the other.
#[derive(Debug, Clone)]
pub struct Decoder(Bytes);

impl Decoder {
    /// From the start of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        self.0.len()
    }

    /// All that is left.
    pub fn rest(self) -> Bytes {
        self.0
    }

    /// Bytes as they are, without a length and without padding.
    ///
    /// # Errors
    /// [`Malformed`] where fewer are left; so do all that follow.
    pub fn raw(&mut self, len: usize) -> Result<Bytes, Malformed> {
        if len > self.0.len() {
            return Err(Malformed);
        }
        Ok(self.0.split_to(len))
    }

    /// A fixed number of bytes.
    #[allow(missing_docs)]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.raw(N.next_multiple_of(4))?;
        bytes.get(..N).and_then(|bytes| bytes.try_into().ok()).ok_or(Malformed)
    }

    /// An unsigned integer.
    #[allow(missing_docs)]
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// An unsigned hyper integer.
    #[allow(missing_docs)]
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A hyper integer.
    #[allow(missing_docs)]
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    /// A boolean: 0 or 1, nothing else.
    #[allow(missing_docs)]
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// Variable-length opaque data of at most `max` bytes, not copied. The padding must be there and may hold anything.
    #[allow(missing_docs)]
    pub fn opaque(&mut self, max: usize) -> Result<Bytes, Malformed> {
        let len = self.u32()? as usize;
        if len > max {
            return Err(Malformed);
        }
        let bytes = self.raw(len)?;
        self.raw(len.next_multiple_of(4) - len)?;
        Ok(bytes)
    }

    /// The length of an array of at most `max` elements, each of which takes at least four bytes.
    #[allow(missing_docs)]
    pub fn len(&mut self, max: usize) -> Result<usize, Malformed> {
        let len = self.u32()? as usize;
        if len > max || len > self.remaining() / 4 { Err(Malformed) } else { Ok(len) }
    }

    /// An array of unsigned integers.
    #[allow(missing_docs)]
    pub fn u32s(&mut self, max: usize) -> Result<Vec<u32>, Malformed> {
        (0..self.len(max)?).map(|_| self.u32()).collect()
    }
}

/// Bodies of at least that many bytes are sent as they are, not copied.
const SHARED_BYTES_MIN: usize = 4096;

/// Writes values one after the other.
#[derive(Debug, Clone, Default)]
pub struct Encoder {
    done: Vec<Bytes>,
    done_bytes: usize,
    tail: BytesMut,
}

/// A place in an [`Encoder`], to go back to.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    pieces: usize,
    done_bytes: usize,
    tail: usize,
}

impl Encoder {
    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.done_bytes + self.tail.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An unsigned integer.
    pub fn u32(&mut self, value: u32) {
        self.tail.put_u32(value);
    }

    /// An unsigned hyper integer.
    pub fn u64(&mut self, value: u64) {
        self.tail.put_u64(value);
    }

    /// A hyper integer.
    pub fn i64(&mut self, value: i64) {
        self.tail.put_i64(value);
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    /// A fixed number of bytes, padded.
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.pad(bytes.len());
    }

    /// Variable-length opaque data.
    pub fn opaque(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.fixed(bytes);
    }

    /// The same, without a copy where it is large.
    pub fn shared(&mut self, bytes: Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            return self.opaque(&bytes);
        }
        self.u32(bytes.len() as u32);
        let len = bytes.len();
        let tail = self.tail.split().freeze();
        self.done_bytes += tail.len() + len;
        self.done.extend([tail, bytes]);
        self.pad(len);
    }

    /// Bytes that are XDR already.
    pub fn shared_raw(&mut self, bytes: Bytes) {
        let tail = self.tail.split().freeze();
        self.done_bytes += tail.len() + bytes.len();
        self.done.extend([tail, bytes]);
    }

    /// An array of unsigned integers.
    pub fn u32s(&mut self, values: &[u32]) {
        self.u32(values.len() as u32);
        for value in values {
            self.u32(*value);
        }
    }

    /// What another encoder wrote; little is copied, so that a reply of many operations is not as many pieces.
    pub fn append(&mut self, other: Self) {
        if other.len() < SHARED_BYTES_MIN && other.done.is_empty() {
            return self.tail.extend_from_slice(&other.tail);
        }
        let tail = self.tail.split().freeze();
        self.done_bytes += tail.len() + other.done_bytes;
        self.done.push(tail);
        self.done.extend(other.done);
        self.tail = other.tail;
    }

    fn pad(&mut self, len: usize) {
        self.tail.put_bytes(0, len.next_multiple_of(4) - len);
    }

    /// Here.
    pub fn mark(&self) -> Mark {
        Mark { pieces: self.done.len(), done_bytes: self.done_bytes, tail: self.tail.len() }
    }

    /// Forgets what was written after a mark.
    pub fn back_to(&mut self, mark: Mark) {
        if self.done.len() > mark.pieces {
            // What was in the tail then is the start of the piece that was made of it.
            let piece = self.done.get(mark.pieces).cloned().unwrap_or_default();
            self.done.truncate(mark.pieces);
            self.tail = BytesMut::from(piece.get(..mark.tail).unwrap_or_default());
            self.done_bytes = mark.done_bytes;
        } else {
            self.tail.truncate(mark.tail);
        }
    }

    /// What was written, in pieces.
    pub fn into_pieces(self) -> Vec<Bytes> {
        let mut pieces = self.done;
        if !self.tail.is_empty() {
            pieces.push(self.tail.freeze());
        }
        pieces
    }

    /// What was written, in one piece.
    pub fn into_bytes(self) -> Bytes {
        if self.done.is_empty() {
            return self.tail.freeze();
        }
        let mut all = BytesMut::with_capacity(self.len());
        for piece in self.into_pieces() {
            all.extend_from_slice(&piece);
        }
        all.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn going_back_forgets_large_bodies_too() {
        let mut out = Encoder::default();
        out.u32(7);
        let mark = out.mark();
        out.u32(8);
        out.shared(Bytes::from(vec![1; SHARED_BYTES_MIN + 1]));
        out.u32(9);
        assert_eq!(out.len(), 4 + 4 + 4 + SHARED_BYTES_MIN + 4 + 4);
        out.back_to(mark);
        out.u32(10);
        assert_eq!(out.len(), 8);
        assert_eq!(&out.into_bytes()[..], [0, 0, 0, 7, 0, 0, 0, 10]);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(small: Vec<u8>, large in 0_usize..20_000, number: u64, list: Vec<u32>) {
            let mut out = Encoder::default();
            out.opaque(&small);
            out.shared(Bytes::from(vec![3; large]));
            out.u64(number);
            out.u32s(&list);
            let len = out.len();
            let bytes = out.into_bytes();
            prop_assert_eq!(bytes.len(), len);
            let mut input = Decoder::new(bytes);
            prop_assert_eq!(&input.opaque(small.len()).unwrap()[..], &small[..]);
            prop_assert_eq!(input.opaque(large).unwrap().len(), large);
            prop_assert_eq!(input.u64().unwrap(), number);
            prop_assert_eq!(input.u32s(list.len()).unwrap(), list);
            prop_assert_eq!(input.remaining(), 0);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let all = Decoder::new(Bytes::from(bytes));
            let _ = all.clone().opaque(100);
            let _ = all.clone().u32s(100);
            let _ = all.clone().array::<7>();
            let _ = all.clone().bool();
        }
    }
}
