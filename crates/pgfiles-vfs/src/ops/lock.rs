//! getlk, setlk, and what close and release do to locks; for mounts that share their prefix (`PGFILES_SHARED`).
//!
//! What was written under a lock is published before the lock is given back, and what is known of a file is asked for again
//! when a lock is gained: so a program that reads and writes under a lock sees what every other mount wrote under it.

use std::sync::Arc;
use std::time::Duration;

use pgfiles_store::batch::Durability;
use pgfiles_store::lock::{Change, Lock, LockKind, LockReply};

use crate::Vfs;
use crate::attr::InodeNo;
use crate::error::{Result, VfsError};
use crate::handle::{HandleId, OpenFile};
use crate::inode::Inode;
use crate::locking::{Locking, clamp};

/// The first pause of who waits for a lock that another mount holds; each further one is half as long again.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The longest, and so how late a waiter notices that it is interrupted.
const PAUSE_MAX: Duration = Duration::from_millis(250);

impl Vfs {
    /// Whether locks hold across mounts. Otherwise the kernel keeps them by itself, and none of the following is called.
    pub fn is_shared(&self) -> bool {
        self.locking.is_some()
    }

    fn locking(&self) -> Result<&Locking> {
        self.locking.as_ref().ok_or(VfsError::NotSupported)
    }

    /// The first lock that is in the way of locking a range; `None` where there is none. Its process is one of the machine
    /// of its mount.
    ///
    /// # Errors
    /// [`VfsError::BadHandle`]; the server is away.
    pub async fn getlk(&self, handle: HandleId, range: Change) -> Result<Option<Lock>> {
        let file = self.handles().file(handle)?;
        self.locking()?.test(self.stored_ino(file.inode.no)?, &Change { end: clamp(range.end), ..range }).await
    }

    /// Locks or unlocks a range (`man 2 fcntl`, `man 2 flock`). With `wait`, returns when the lock is to be had, however long
    /// that takes, or when `interrupted` says that the caller has a signal to see to, which is asked several times a second.
    ///
    /// # Errors
    /// [`VfsError::WouldBlock`] without `wait`; [`VfsError::Interrupted`]; [`VfsError::NoLocks`] for too many ranges;
    /// [`VfsError::LockLost`] where an earlier lock of this description is lost; what publishing meets, and then a lock that
    /// was to be given back stays.
    pub async fn setlk(
        self: &Arc<Self>,
        handle: HandleId,
        range: Change,
        wait: bool,
        interrupted: impl Fn() -> bool + Send + Sync,
    ) -> Result<()> {
        let file = self.handles().file(handle)?;
        let (locking, ino) = (self.locking()?, self.stored_ino(file.inode.no)?);
        let change = Change { end: clamp(range.end), ..range };
        let gives_up = change.kind != Some(LockKind::Exclusive);
        if gives_up && locking.holds(ino, change.owner) {
            self.publish(&file.inode, Durability::Async).await?;
        }
        if change.kind.is_none() {
            if locking.holds(ino, change.owner) && locking.change(ino, handle, change).await? == LockReply::Full {
                return Err(VfsError::NoLocks);
            }
            return Ok(());
        }
        self.still_locked(handle)?;
        let mut pause = PAUSE_MIN;
        loop {
            let mut freed = locking.freed();
            let reply = match locking.in_the_way(ino, &change) {
                Some(lock) => LockReply::Held(lock),
                None => locking.change(ino, handle, change).await?,
            };
            match reply {
                LockReply::Granted => break,
                LockReply::Full => return Err(VfsError::NoLocks),
                LockReply::Held(_) | LockReply::LeaseLost if !wait => return Err(VfsError::WouldBlock),
                LockReply::Held(_) | LockReply::LeaseLost => {}
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 3 / 2).min(PAUSE_MAX),
                _ = freed.changed() => {}
            }
            self.handles().file(handle)?;
            if interrupted() || self.is_closing() {
                return Err(VfsError::Interrupted);
            }
        }
        let gained = self.gained(&file).await;
        if gained.is_err() {
            locking.unlock_all(ino, change.owner).await;
        }
        gained
    }

    /// The number by which all mounts know a file.
    fn stored_ino(&self, no: InodeNo) -> Result<u64> {
        Ok(self.table().node(no)?.facts.ino)
    }

    /// A lock was gained: what is known of the file is what the server says now, in the kernel too.
    async fn gained(&self, file: &OpenFile) -> Result<()> {
        let no = file.inode.no;
        let key = self.table().key_of(no);
        if let Ok(key) = key {
            self.fresh.distrust(&key);
            self.refresh(no).await?;
        }
        let other = {
            let mut table = self.table();
            let node = table.node_mut(no)?;
            let row = node.facts.row.map(|(id, _)| id);
            let other = node.kept != row && !node.is_ahead();
            if other {
                node.kept = row;
            }
            other
        };
        if other && let Some(kernel) = self.kernel.get() {
            kernel.inode_now(no).await;
        }
        Ok(())
    }

    /// A descriptor is closed by a process: its `fcntl` locks of the file are given back (`man 2 fcntl`), after what was
    /// written is published.
    ///
    /// # Errors
    /// What publishing met; the locks are given back all the same.
    pub async fn unlock_owner(self: &Arc<Self>, handle: HandleId, owner: u64) -> Result<()> {
        let Some(locking) = &self.locking else { return Ok(()) };
        let file = self.handles().file(handle)?;
        let ino = self.stored_ino(file.inode.no)?;
        if !locking.holds(ino, owner) {
            return self.still_locked(handle);
        }
        let published = self.publish(&file.inode, Durability::Async).await;
        locking.unlock_all(ino, owner).await;
        self.still_locked(handle)?;
        published.map(drop)
    }

    /// An open file description is closed: the locks that hang on it (`flock`, OFD) are given back.
    pub(crate) async fn unlock_handle(&self, file: &OpenFile, handle: HandleId) {
        let Some(locking) = &self.locking else { return };
        if let Ok(ino) = self.stored_ino(file.inode.no) {
            for owner in locking.owners_through(ino, handle) {
                locking.unlock_all(ino, owner).await;
            }
        }
        locking.forget(handle);
    }

    /// Refuses what goes through a description whose lock is lost.
    pub(crate) fn still_locked(&self, handle: HandleId) -> Result<()> {
        match &self.locking {
            Some(locking) if locking.is_lost(handle) => Err(VfsError::LockLost),
            _ => Ok(()),
        }
    }

    /// Before content is published: that the locks under which it was written are still held. Otherwise it is dropped, since
    /// others may have read and written under the same locks. With the file's data held.
    pub(crate) async fn confirm_locks(&self, inode: &Inode, data: &mut crate::buffer::Data) -> Result<()> {
        let Some(locking) = &self.locking else { return Ok(()) };
        let ino = self.stored_ino(inode.no)?;
        if !locking.concerns(ino) {
            return Ok(());
        }
        match locking.confirm().await {
            Ok(()) | Err(VfsError::LockLost) => {}
            Err(error) => return Err(error),
        }
        if !locking.take_stale(ino) {
            return Ok(());
        }
        let bytes = data.content.dirty_bytes();
        let ahead = {
            let mut table = self.table();
            let node = table.node_mut(inode.no)?;
            let ahead = node.dirty && !node.pending;
            if ahead {
                node.dirty = false;
                node.patch = pgfiles_store::version::AttrPatch::default();
                node.kept = None;
                table.touch(inode.no);
            }
            ahead
        };
        if !ahead {
            return Ok(());
        }
        tracing::error!(ino, bytes, "what was written under a lock that is lost is not published");
        data.content = crate::buffer::Content::default();
        data.of = None;
        data.appended_from = None;
        data.finish();
        if let Some(kernel) = self.kernel.get() {
            kernel.inode(inode.no);
        }
        Err(VfsError::LockLost)
    }

    /// Renews the lease of this mount's locks if it is time. To be called every second; asks nothing while nothing is locked.
    ///
    /// # Errors
    /// The server is away.
    pub async fn renew_locks(&self) -> Result<()> {
        match &self.locking {
            Some(locking) => locking.tick().await,
            None => Ok(()),
        }
    }

    /// Gives all locks back, at the end of the mount; after [`Vfs::recover`] too. For as long as the server takes.
    ///
    /// # Errors
    /// The server is away; then they are free when the lease runs out.
    pub async fn end_locks(&self) -> Result<()> {
        match &self.locking {
            Some(locking) => locking.end().await,
            None => Ok(()),
        }
    }
}
