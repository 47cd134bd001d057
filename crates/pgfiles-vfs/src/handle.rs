//! Open files and directories.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::attr::InodeNo;
use crate::dir::Listing;
use crate::error::{Result, VfsError};
use crate::inode::Inode;
use crate::progress;
use crate::read_ahead::ReadAhead;

/// An open file description or directory stream; never 0, not reused within a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandleId(pub u64);

/// What `open` was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct OpenMode {
    pub read: bool,
    pub write: bool,
    /// Every write goes to the end.
    pub append: bool,
    pub truncate: bool,
    /// With create: refuse a name that exists.
    pub exclusive: bool,
}

/// What `open` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// For all further calls.
    pub handle: HandleId,
    /// Cached pages are those of this very content.
    pub keep_cache: bool,
}

pub(crate) struct OpenFile {
    pub inode: Arc<Inode>,
    pub mode: OpenMode,
    pub ahead: Mutex<ReadAhead>,
}

pub(crate) struct OpenDir {
    pub no: InodeNo,
    pub listing: progress::Mutex<Listing>,
}

#[derive(Default)]
pub(crate) struct Handles {
    last: u64,
    files: HashMap<HandleId, Arc<OpenFile>>,
    dirs: HashMap<HandleId, Arc<OpenDir>>,
}

impl Handles {
    fn next(&mut self) -> HandleId {
        self.last += 1;
        HandleId(self.last)
    }

    pub fn open_files(&self) -> u64 {
        self.files.len() as u64
    }

    pub fn add_file(&mut self, inode: Arc<Inode>, mode: OpenMode) -> HandleId {
        let id = self.next();
        self.files.insert(id, Arc::new(OpenFile { inode, mode, ahead: Mutex::default() }));
        id
    }

    pub fn add_dir(&mut self, no: InodeNo) -> HandleId {
        let id = self.next();
        self.dirs.insert(id, Arc::new(OpenDir { no, listing: progress::Mutex::default() }));
        id
    }

    pub fn file(&self, id: HandleId) -> Result<Arc<OpenFile>> {
        self.files.get(&id).cloned().ok_or(VfsError::BadHandle)
    }

    pub fn dir(&self, id: HandleId) -> Result<Arc<OpenDir>> {
        self.dirs.get(&id).cloned().ok_or(VfsError::BadHandle)
    }

    pub fn remove_file(&mut self, id: HandleId) -> Option<Arc<OpenFile>> {
        self.files.remove(&id)
    }

    pub fn remove_dir(&mut self, id: HandleId) -> Option<Arc<OpenDir>> {
        self.dirs.remove(&id)
    }
}
