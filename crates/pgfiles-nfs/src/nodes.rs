//! Which inodes of the core clients may know. A client of NFS never says that it forgot a handle, so each is held by one lookup
//! until there are too many; one that was given back is found again by its number.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgfiles_vfs::{Attr, DirEntry, InodeNo, LookupReply, Result, Vfs, VfsError};

use crate::listing;

/// Inodes that are held in the core: about 600 bytes each.
const HELD_MAX: usize = 50_000;
/// Numbers of inodes that were given back, with their directories: about 40 bytes each.
const LEFT_MAX: usize = 1_000_000;

#[derive(Debug)]
struct Held {
    /// Where it was found last.
    parent: InodeNo,
    used: bool,
}

#[derive(Debug, Default)]
struct Inner {
    held: HashMap<InodeNo, Held>,
    /// In the order of their coming; who was used since gets another round.
    queue: VecDeque<InodeNo>,
    left: HashMap<InodeNo, InodeNo>,
}

/// See the module.
pub(crate) struct Nodes {
    vfs: Arc<Vfs>,
    inner: Mutex<Inner>,
}

impl Nodes {
    pub fn new(vfs: Arc<Vfs>) -> Self {
        Self { vfs, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An inode was handed out by the core, with one lookup counted, as a name of a directory.
    pub fn hold(&self, ino: InodeNo, parent: InodeNo) {
        if ino == InodeNo::ROOT {
            return self.vfs.forget(ino, 1);
        }
        let mut surplus = Vec::new();
        {
            let mut inner = self.inner();
            inner.left.remove(&ino);
            match inner.held.get_mut(&ino) {
                Some(held) => {
                    *held = Held { parent, used: true };
                    surplus.push(ino);
                }
                None => {
                    inner.held.insert(ino, Held { parent, used: false });
                    inner.queue.push_back(ino);
                    surplus.extend(inner.make_room());
                }
            }
        }
        for ino in surplus {
            self.vfs.forget(ino, 1);
        }
    }

    /// What a name of a directory stands for; held from now on.
    ///
    /// # Errors
    /// [`VfsError::NotFound`]; as [`Vfs::lookup`].
    pub async fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<Attr> {
        match self.vfs.lookup(parent, name).await? {
            LookupReply::Found(found) => {
                self.hold(found.attr.ino, parent);
                Ok(found.attr)
            }
            LookupReply::Absent(_) => Err(VfsError::NotFound),
        }
    }

    /// The attributes of an inode that a client has a handle of, found again where the core does not know it any more.
    ///
    /// # Errors
    /// [`VfsError::Stale`] where it is gone; what the store says.
    pub async fn attr(&self, ino: InodeNo) -> Result<Attr> {
        let known = ino == InodeNo::ROOT || self.inner().held.get_mut(&ino).map(|held| held.used = true).is_some();
        if known {
            match self.vfs.getattr(ino).await {
                Err(VfsError::Stale) if ino != InodeNo::ROOT => self.let_go(ino),
                other => return other.map(|found| found.attr),
            }
        }
        let parent = self.inner().left.get(&ino).copied();
        if let Some(parent) = parent
            && let Some(attr) = Box::pin(self.in_directory(parent, ino)).await?
        {
            return Ok(attr);
        }
        let found = self.vfs.resolve(ino).await?;
        self.hold(ino, found.1);
        Ok(found.0.attr)
    }

    /// Nobody is to know an inode any more.
    pub fn let_go(&self, ino: InodeNo) {
        let held = self.inner().held.remove(&ino);
        if held.is_some() {
            self.vfs.forget(ino, 1);
        }
    }

    /// An inode by its number where it was last.
    async fn in_directory(&self, parent: InodeNo, ino: InodeNo) -> Result<Option<Attr>> {
        match self.attr(parent).await {
            Ok(_) => {}
            Err(VfsError::Stale) => return Ok(None),
            Err(error) => return Err(error),
        }
        let names = match listing::read(&self.vfs, parent).await {
            Ok(names) => names,
            Err(VfsError::Stale | VfsError::NotDirectory) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(DirEntry { name, .. }) = names.into_iter().find(|name| name.ino == ino) else { return Ok(None) };
        match self.lookup(parent, &name).await {
            Ok(attr) if attr.ino == ino => Ok(Some(attr)),
            Ok(_) | Err(VfsError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The directory that a directory is in; the root's is the root.
    ///
    /// # Errors
    /// As [`Vfs::opendir`].
    pub async fn parent(&self, dir: InodeNo) -> Result<InodeNo> {
        let stream = self.vfs.opendir(dir).await?;
        let dots = self.vfs.readdir(stream, 0, 2, false).await;
        self.vfs.releasedir(stream);
        Ok(dots?.get(1).map_or(InodeNo::ROOT, |dot| dot.ino))
    }
}

impl Inner {
    /// Who is to be given back to the core.
    fn make_room(&mut self) -> Vec<InodeNo> {
        let mut gone = Vec::new();
        while self.held.len() > HELD_MAX {
            let Some(ino) = self.queue.pop_front() else { break };
            match self.held.get_mut(&ino) {
                Some(held) if held.used => {
                    held.used = false;
                    self.queue.push_back(ino);
                }
                Some(_) => {
                    if let Some(held) = self.held.remove(&ino) {
                        gone.push(ino);
                        if self.left.len() >= LEFT_MAX {
                            // Found by a walk of all, from then on.
                            self.left.clear();
                        }
                        self.left.insert(ino, held.parent);
                    }
                }
                None => {}
            }
        }
        gone
    }
}
