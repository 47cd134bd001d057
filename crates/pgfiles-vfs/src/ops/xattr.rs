//! Extended attributes: kept in the head's `meta.xattrs`.

use std::sync::Arc;

use pgfiles_store::key;
use pgfiles_store::version::AttrPatch;

use crate::Vfs;
use crate::attr::{Caller, InodeNo};
use crate::error::{Result, VfsError};

/// `XATTR_NAME_MAX` and `XATTR_SIZE_MAX` of Linux.
const NAME_BYTES_MAX: usize = 255;
const VALUE_BYTES_MAX: usize = 64 << 10;
/// All attributes of one file together, because every head carries them.
const TOTAL_BYTES_MAX: usize = 256 << 10;

/// Whether `setxattr` may create or replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Either.
    Set,
    /// `XATTR_CREATE`.
    Create,
    /// `XATTR_REPLACE`.
    Replace,
}

/// What only a privileged process may see (`man 7 xattr`).
const TRUSTED: &[u8] = b"trusted.";

/// Names are in one of the namespaces that Linux knows; `system.*` is what a filesystem gives a meaning of its own, which
/// there is none of here.
fn supported(name: &[u8]) -> Result<()> {
    let spaces: [&[u8]; 3] = [b"user.", TRUSTED, b"security."];
    let Some(space) = spaces.into_iter().find(|space| name.starts_with(space)) else { return Err(VfsError::NotSupported) };
    if name.len() == space.len() || name.len() > NAME_BYTES_MAX {
        return Err(VfsError::InvalidArgument("name of an attribute"));
    }
    Ok(())
}

impl Vfs {
    /// The value of an attribute.
    ///
    /// # Errors
    /// [`VfsError::NoAttribute`]; [`VfsError::NotSupported`] for any name but `user.*`, `trusted.*`, `security.*`.
    pub async fn getxattr(&self, ino: InodeNo, name: &[u8]) -> Result<Vec<u8>> {
        supported(name)?;
        self.refresh(ino).await?;
        let table = self.table();
        let extra = table.node(ino)?.facts.extra.as_ref();
        extra.and_then(|extra| extra.xattrs.get(&*key::escape(name))).cloned().ok_or(VfsError::NoAttribute)
    }

    /// The names of all attributes that the caller may see, each followed by a NUL byte.
    ///
    /// # Errors
    /// As [`Vfs::getattr`].
    pub async fn listxattr(&self, ino: InodeNo, caller: Caller) -> Result<Vec<u8>> {
        self.refresh(ino).await?;
        let table = self.table();
        let mut out = Vec::new();
        for name in table.node(ino)?.facts.extra.iter().flat_map(|extra| extra.xattrs.keys()) {
            let name = key::unescape(name);
            if caller.uid == 0 || !name.starts_with(TRUSTED) {
                out.extend(name);
                out.push(0);
            }
        }
        Ok(out)
    }

    /// Sets an attribute. No new version.
    ///
    /// # Errors
    /// [`VfsError::Exists`], [`VfsError::NoAttribute`] as the mode says; [`VfsError::AttributeTooLarge`];
    /// [`VfsError::NoSpace`] where all together would be over the bound.
    pub async fn setxattr(self: &Arc<Self>, ino: InodeNo, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(VfsError::AttributeTooLarge);
        }
        self.change_xattr(ino, name, Some(value), mode).await
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// [`VfsError::NoAttribute`].
    pub async fn removexattr(self: &Arc<Self>, ino: InodeNo, name: &[u8]) -> Result<()> {
        self.change_xattr(ino, name, None, XattrMode::Replace).await
    }

    async fn change_xattr(self: &Arc<Self>, ino: InodeNo, name: &[u8], value: Option<&[u8]>, mode: XattrMode) -> Result<()> {
        self.writable()?;
        supported(name)?;
        self.refresh(ino).await?;
        let inode = self.table().inode(ino)?;
        let _moves = self.moves.read().await;
        let mut data = inode.data.lock().await;
        let name = key::escape(name).into_owned();
        {
            let table = self.table();
            let extra = table.node(ino)?.facts.extra.as_ref();
            let exists = extra.is_some_and(|extra| extra.xattrs.contains_key(&name));
            match mode {
                XattrMode::Create if exists => return Err(VfsError::Exists),
                XattrMode::Replace if !exists => return Err(VfsError::NoAttribute),
                XattrMode::Set | XattrMode::Create | XattrMode::Replace => {}
            }
            let others = extra.iter().flat_map(|extra| &extra.xattrs).filter(|(other, _)| **other != name);
            let total: usize = others.map(|(name, value)| name.len() + value.len()).sum();
            if value.is_some_and(|value| total + name.len() + value.len() > TOTAL_BYTES_MAX) {
                return Err(VfsError::NoSpace);
            }
        }
        let xattrs = [(name, value.map(<[u8]>::to_vec))].into();
        let patch = AttrPatch { xattrs, ctime: Some(self.clock.now()), ..AttrPatch::default() };
        self.patch_locked(ino, &mut data, patch).await
    }
}
