//! Between the core's types and NFS's: which status each error is, kinds, times, device numbers.

use pgfiles_store::version::{Kind, Timestamp};
use pgfiles_vfs::VfsError;

use crate::proto::{Status, file_type};

/// The status that tells a client of an error. That the server is away is the outage's to say: [`crate::outage`].
pub(crate) fn status(error: &VfsError) -> Status {
    match error {
        VfsError::NotFound => Status::NoEnt,
        VfsError::Stale => Status::Stale,
        VfsError::Exists => Status::Exist,
        VfsError::NotDirectory => Status::NotDir,
        VfsError::IsDirectory => Status::IsDir,
        VfsError::NotEmpty => Status::NotEmpty,
        VfsError::NameTooLong => Status::NameTooLong,
        VfsError::InvalidArgument(_) => Status::Inval,
        VfsError::NotPermitted(_) => Status::Perm,
        VfsError::AccessDenied(_) => Status::Access,
        VfsError::ReadOnly => Status::RoFs,
        VfsError::TooLarge | VfsError::AttributeTooLarge => Status::FBig,
        VfsError::NoSpace => Status::NoSpc,
        // The state that a handle of ours hangs on is checked before: it was closed between.
        VfsError::BadHandle => Status::BadStateId,
        // A named attribute is a file.
        VfsError::NoAttribute => Status::NoEnt,
        VfsError::TooManyLinks => Status::MLink,
        VfsError::CrossDevice => Status::XDev,
        VfsError::BeyondEnd => Status::Nxio,
        VfsError::NotSupported => Status::NotSupp,
        // Two clients met, or a signal did that no client of NFS sends: to be tried again.
        VfsError::Conflict(_) | VfsError::Interrupted => Status::Delay,
        VfsError::WouldBlock => Status::Denied,
        // There is no status for it; the client says ENOLCK for none at all.
        VfsError::NoLocks => Status::ServerFault,
        VfsError::LockLost => Status::Expired,
        VfsError::Unavailable(_) => Status::Delay,
        VfsError::Corrupt(_) | VfsError::Io(_) => Status::Io,
    }
}

pub(crate) fn file_type(kind: Kind) -> u32 {
    match kind {
        Kind::File => file_type::REG,
        Kind::Dir => file_type::DIR,
        Kind::Symlink => file_type::LNK,
        Kind::Fifo => file_type::FIFO,
        Kind::Socket => file_type::SOCK,
        Kind::Char => file_type::CHR,
        Kind::Block => file_type::BLK,
    }
}

/// Nanoseconds since the epoch, as a number that grows with time.
pub(crate) fn nanos(at: Timestamp) -> u64 {
    (at.seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(u64::from(at.nanos))
}

/// specdata4 of a device number in the encoding of Linux's kernel (`new_encode_dev`), which is what is stored.
pub(crate) fn spec_data(rdev: u64) -> (u32, u32) {
    let rdev = rdev as u32;
    ((rdev & 0xfff00) >> 8, (rdev & 0xff) | ((rdev >> 12) & 0xfff00))
}

/// And back.
pub(crate) fn rdev((major, minor): (u32, u32)) -> u64 {
    u64::from((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_come_back() {
        for numbers in [(0, 0), (1, 3), (8, 17), (0xfff, 0xf_ffff), (259, 1_000)] {
            assert_eq!(spec_data(rdev(numbers)), numbers);
        }
    }
}
