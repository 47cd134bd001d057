//! What a caller of the filesystem may be told: one variant per distinct meaning. Adapters turn these into errno or
//! `nfsstat4`; the core names neither.

use std::sync::Arc;

use pgfiles_store::StoreError;
use pgfiles_store::error::Kind;
use pgfiles_store::key::KeyError;

/// A result of the filesystem.
pub type Result<T> = std::result::Result<T, VfsError>;

/// Why an operation was not carried out. Cheap to clone, because an error may have to be reported later once more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VfsError {
    /// No such name.
    #[error("no such file or directory")]
    NotFound,
    /// The inode is known no more, or its name now belongs to another file.
    #[error("the file was removed or replaced elsewhere")]
    Stale,
    /// The name is taken.
    #[error("the name exists already")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// Anything but a directory was needed.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has names in it.
    #[error("directory not empty")]
    NotEmpty,
    /// A name over 255 bytes, or a key over 2,600.
    #[error("name too long")]
    NameTooLong,
    /// Arguments that make no sense together, or a kind of file that the operation is not for.
    #[error("invalid argument: {0}")]
    InvalidArgument(&'static str),
    /// Not allowed to anyone here.
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    /// The database role lacks the right.
    #[error("the database refuses: {0}")]
    AccessDenied(Arc<StoreError>),
    /// The mount or the server is read-only.
    #[error("read-only")]
    ReadOnly,
    /// Over the largest file.
    #[error("file too large")]
    TooLarge,
    /// The server's disk, or a bound of the mount, is full.
    #[error("no space left")]
    NoSpace,
    /// The handle is closed or was opened for something else.
    #[error("bad file handle")]
    BadHandle,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// An extended attribute over its bound.
    #[error("attribute too large")]
    AttributeTooLarge,
    /// This filesystem has no such thing.
    #[error("not supported")]
    NotSupported,
    /// There is no data, or no hole, from there on (`man 2 lseek`).
    #[error("beyond the end")]
    BeyondEnd,
    /// An inode has as many names as it may have.
    #[error("too many links")]
    TooManyLinks,
    /// Two names lie where they cannot share an inode.
    #[error("the names lie on two sides of the edge of a grant")]
    CrossDevice,
    /// Somebody else's lock is in the way.
    #[error("locked by another")]
    WouldBlock,
    /// The caller has a signal to see to.
    #[error("interrupted")]
    Interrupted,
    /// Too many ranges of one file are locked.
    #[error("too many locks")]
    NoLocks,
    /// This mount was cut off from the server for so long that others took a lock that was held through this handle.
    #[error("the lock on the file is lost: the mount was cut off from the server for too long")]
    LockLost,
    /// Someone else changed the same thing at the same time.
    #[error("changed meanwhile: {0}")]
    Conflict(Arc<StoreError>),
    /// The server could not be reached for longer than the retry timeout.
    #[error("server away: {0}")]
    Unavailable(Arc<StoreError>),
    /// What is stored contradicts itself: this file only.
    #[error("stored data is damaged: {0}")]
    Corrupt(Arc<StoreError>),
    /// Anything else that the server said.
    #[error("{0}")]
    Io(Arc<StoreError>),
}

impl From<StoreError> for VfsError {
    fn from(error: StoreError) -> Self {
        let kind = error.kind();
        let error = Arc::new(error);
        match kind {
            Kind::NotFound => Self::NotFound,
            Kind::Conflict => Self::Conflict(error),
            Kind::NotEmpty => Self::NotEmpty,
            Kind::Invalid => Self::InvalidArgument("the server refuses the request"),
            Kind::NoSpace => Self::NoSpace,
            Kind::TooManyLinks => Self::TooManyLinks,
            Kind::CrossesGrant => Self::CrossDevice,
            Kind::ReadOnly => Self::ReadOnly,
            Kind::Forbidden => Self::AccessDenied(error),
            Kind::Corrupt | Kind::BodyGone => Self::Corrupt(error),
            Kind::Unavailable | Kind::Retry | Kind::ServerChanged => Self::Unavailable(error),
            // Unauthorized, NotInitialised, Unsupported, Other, and what a later release adds.
            _ => Self::Io(error),
        }
    }
}

impl From<KeyError> for VfsError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::NameTooLong(_) | KeyError::KeyTooLong(_) => Self::NameTooLong,
            KeyError::Empty | KeyError::Dot(_) | KeyError::Forbidden | KeyError::Reserved(_) => {
                Self::InvalidArgument("not a name")
            }
        }
    }
}
