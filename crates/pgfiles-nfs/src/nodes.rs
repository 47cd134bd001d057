//! Which inodes of the core clients may know. A client of NFS never says that it forgot a handle, so each is held by one lookup
//! until there are too many; one that was given back is found again by its number.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgfiles_vfs::{Attr, DirEntry, InodeNo, LookupReply, Result, Vfs, VfsError};

use crate::listing;

/// Inodes that are held in the core: about 600 bytes each.
const HELD_MAX: usize = 50_000;
/// Numbers of inodes that were given back, with where they were: about 100 bytes each.
const LEFT_MAX: usize = 400_000;

/// Where an inode was found last: a name of a directory.
type Place = (InodeNo, Box<[u8]>);

#[derive(Debug)]
struct Held {
    place: Place,
    used: bool,
}

#[derive(Debug, Default)]
struct Inner {
    held: HashMap<InodeNo, Held>,
    /// In the order of their coming; who was used since gets another round.
    queue: VecDeque<InodeNo>,
    left: HashMap<InodeNo, Place>,
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
    pub fn hold(&self, ino: InodeNo, parent: InodeNo, name: &[u8]) {
        if ino == InodeNo::ROOT {
            return self.vfs.forget(ino, 1);
        }
        let mut surplus = Vec::new();
        let place = (parent, Box::from(name));
        {
            let mut inner = self.inner();
            inner.left.remove(&ino);
            match inner.held.get_mut(&ino) {
                Some(held) => {
                    *held = Held { place, used: true };
                    surplus.push(ino);
                }
                None => {
                    inner.held.insert(ino, Held { place, used: false });
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
                self.hold(found.attr.ino, parent, name);
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
        if let Some(held) = self.inner().held.get_mut(&ino) {
            held.used = true;
        }
        // The core knows those that are held here, and those that are open.
        match self.vfs.getattr(ino).await {
            Err(VfsError::Stale) if ino != InodeNo::ROOT => self.let_go(ino),
            other => return other.map(|found| found.attr),
        }
        let place = self.inner().left.get(&ino).cloned();
        if let Some((parent, name)) = place
            && let Some(attr) = Box::pin(self.in_directory(parent, &name, ino)).await?
        {
            return Ok(attr);
        }
        let (found, parent, name) = self.vfs.resolve(ino).await?;
        self.hold(ino, parent, &name);
        Ok(found.attr)
    }

    /// Nobody is to know an inode any more.
    pub fn let_go(&self, ino: InodeNo) {
        let held = self.inner().held.remove(&ino);
        if held.is_some() {
            self.vfs.forget(ino, 1);
        }
    }

    /// An inode by its number in the directory where it was last, by the name that it had or by another.
    async fn in_directory(&self, parent: InodeNo, name: &[u8], ino: InodeNo) -> Result<Option<Attr>> {
        match self.attr(parent).await {
            Ok(_) => {}
            Err(VfsError::Stale) => return Ok(None),
            Err(error) => return Err(error),
        }
        if let Some(attr) = self.at(parent, name, ino).await? {
            return Ok(Some(attr));
        }
        let names = match listing::read(&self.vfs, parent).await {
            Ok(names) => names,
            Err(VfsError::Stale | VfsError::NotDirectory) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(DirEntry { name, .. }) = names.into_iter().find(|name| name.ino == ino) else { return Ok(None) };
        self.at(parent, &name, ino).await
    }

    /// An inode, if that is what a name stands for.
    async fn at(&self, parent: InodeNo, name: &[u8], ino: InodeNo) -> Result<Option<Attr>> {
        match self.lookup(parent, name).await {
            Ok(attr) => Ok((attr.ino == ino).then_some(attr)),
            Err(VfsError::NotFound | VfsError::Stale | VfsError::NotDirectory) => Ok(None),
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
                        self.left.insert(ino, held.place);
                    }
                }
                None => {}
            }
        }
        gone
    }
}
