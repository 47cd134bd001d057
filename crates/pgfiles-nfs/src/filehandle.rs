//! nfs_fh4 ↔ what it stands for. A handle is made of a number that a file keeps for its life, so it means the same after a
//! restart of the daemon and on any other daemon of the same prefix; it is never that of another file.

use bytes::Bytes;
use pgfiles_store::key::Prefix;
use pgfiles_vfs::InodeNo;
use sha2::{Digest as _, Sha256};

use crate::proto::Status;

const VERSION: u8 = 1;
const BYTES: usize = 32;

/// What a handle stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Object {
    /// A file, a directory, anything that has an inode.
    Node(InodeNo),
    /// The directory of a file's named attributes.
    Attributes(InodeNo),
    /// One of them, by the hash of its name.
    Attribute(InodeNo, u64),
}

impl Object {
    /// The file that it is, or belongs to.
    pub fn ino(self) -> InodeNo {
        match self {
            Self::Node(ino) | Self::Attributes(ino) | Self::Attribute(ino, _) => ino,
        }
    }
}

/// Makes and reads the handles of one prefix.
#[derive(Debug, Clone, Copy)]
pub struct Handles {
    instance: u64,
}

impl Handles {
    /// For a prefix, of whatever server: two servers' handles do not meet in one daemon.
    pub fn new(prefix: &Prefix) -> Self {
        Self { instance: hash(prefix.as_str().as_bytes()) }
    }

    /// The handle.
    pub fn encode(&self, object: Object) -> [u8; BYTES] {
        let (kind, ino, name) = match object {
            Object::Node(ino) => (0, ino, 0),
            Object::Attributes(ino) => (1, ino, 0),
            Object::Attribute(ino, name) => (2, ino, name),
        };
        let mut out = [0; BYTES];
        out[..4].copy_from_slice(&[VERSION, kind, 0, 0]);
        out[8..16].copy_from_slice(&self.instance.to_be_bytes());
        out[16..24].copy_from_slice(&ino.0.to_be_bytes());
        out[24..].copy_from_slice(&name.to_be_bytes());
        out
    }

    /// What it stands for; whether that exists is for others to find out.
    ///
    /// # Errors
    /// [`Status::BadHandle`] for what no server of ours made, [`Status::Stale`] for that of another prefix.
    pub fn decode(&self, handle: &Bytes) -> Result<Object, Status> {
        let handle: &[u8; BYTES] = handle.as_ref().try_into().map_err(|_| Status::BadHandle)?;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&handle[at..at + 8]);
            u64::from_be_bytes(bytes)
        };
        let (instance, ino, name) = (number(8), InodeNo(number(16)), number(24));
        let [version, kind, ..] = *handle;
        if version != VERSION || handle[2..8] != [0; 6] || ino.0 == 0 || (kind != 2 && name != 0) {
            return Err(Status::BadHandle);
        }
        if instance != self.instance {
            return Err(Status::Stale);
        }
        match kind {
            0 => Ok(Object::Node(ino)),
            1 => Ok(Object::Attributes(ino)),
            2 => Ok(Object::Attribute(ino, name)),
            _ => Err(Status::BadHandle),
        }
    }

    /// The file system's id, two numbers of which neither is 0.
    pub fn fsid(&self) -> (u64, u64) {
        (self.instance | 1, 1)
    }
}

/// A hash that is the same everywhere and always.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_comes_back_and_a_forged_one_is_refused() {
        let (ours, theirs) = (Handles::new(&Prefix::new("a/").unwrap()), Handles::new(&Prefix::new("b/").unwrap()));
        for object in [Object::Node(InodeNo(1)), Object::Attributes(InodeNo(u64::MAX)), Object::Attribute(InodeNo(7), 9)] {
            let handle = ours.encode(object);
            assert_eq!(ours.decode(&Bytes::copy_from_slice(&handle)), Ok(object));
            assert_eq!(theirs.decode(&Bytes::copy_from_slice(&handle)), Err(Status::Stale));
            for at in (0..8).filter(|at| *at != 1) {
                let mut forged = handle;
                forged[at] ^= 4;
                assert_eq!(ours.decode(&Bytes::copy_from_slice(&forged)), Err(Status::BadHandle));
            }
            assert_eq!(ours.decode(&Bytes::copy_from_slice(&handle[1..])), Err(Status::BadHandle));
        }
        let nobody = ours.encode(Object::Node(InodeNo(0)));
        assert_eq!(ours.decode(&Bytes::copy_from_slice(&nobody)), Err(Status::BadHandle));
    }
}
