//! fallocate: a range is made part of the file, or zeros. Space is not reserved: a hole costs nothing until it is written.

use std::sync::Arc;

use pgfiles_store::layout;

use crate::Vfs;
use crate::error::{Result, VfsError};
use crate::handle::HandleId;
use crate::ops::write::Edit;

/// What `fallocate` is asked for (`man 2 fallocate`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// The range exists: the file grows up to its end (mode 0), or nothing happens (FALLOC_FL_KEEP_SIZE).
    Reserve {
        /// The size stays.
        keep_size: bool,
    },
    /// The range reads as zeros (FALLOC_FL_ZERO_RANGE).
    Zero {
        /// The size stays.
        keep_size: bool,
    },
    /// The same, and whole chunks are given back (FALLOC_FL_PUNCH_HOLE, which keeps the size).
    Punch,
}

impl Vfs {
    /// Carries out an allocation. `kill`: the caller loses the file its set-user-id and set-group-id.
    ///
    /// # Errors
    /// [`VfsError::BadHandle`]; [`VfsError::InvalidArgument`] for a range of no length; [`VfsError::TooLarge`].
    pub async fn fallocate(self: &Arc<Self>, handle: HandleId, what: Allocate, offset: u64, len: u64, kill: bool) -> Result<()> {
        let file = self.handles().file(handle)?;
        if !file.mode.write {
            return Err(VfsError::BadHandle);
        }
        let end = offset.checked_add(len).filter(|end| *end <= layout::FILE_BYTES_MAX).ok_or(VfsError::TooLarge)?;
        if len == 0 {
            return Err(VfsError::InvalidArgument("a range has a length"));
        }
        self.make_room().await?;
        let inode = &file.inode;
        let mut data = inode.data.lock().await;
        let data = &mut *data;
        data.changed_by(Some(handle));
        self.settle(inode, data);
        let (mut size, key) = self.size_and_key(inode)?;
        let (zeroed, keep_size) = match what {
            Allocate::Reserve { keep_size } => (false, keep_size),
            Allocate::Zero { keep_size } => (true, keep_size),
            Allocate::Punch => (true, true),
        };
        let mut changed = false;
        if zeroed && offset < size {
            size = self.change(inode, data, &key, Edit::Zero { from: offset, to: end.min(size) }).await?;
            changed = true;
        }
        if !keep_size && end > size {
            size = self.change(inode, data, &key, Edit::Size(end)).await?;
            changed = true;
        }
        if changed {
            data.trivial = false;
            data.appended_from = None;
            self.changed_content(inode, data, size, kill);
            self.account(data);
        }
        Ok(())
    }
}
