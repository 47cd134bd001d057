//! setattr: size, mode, owner, times. One round trip, or none where the attributes ride in a row that is to come.

use std::sync::Arc;

use pgfiles_store::batch::{Durability, Op, Precondition, SetAttr as SetAttrOp};
use pgfiles_store::version::{AttrPatch, Kind, Timestamp};

use crate::Vfs;
use crate::attr::{Caller, Facts, InodeNo, Owner, SetAttr, SetTime, without_privileges};
use crate::buffer::Data;
use crate::error::{Result, VfsError};
use crate::handle::HandleId;
use crate::ops::lookup::EntryReply;

impl Vfs {
    /// Changes attributes; nothing to be set is a `chown(2)` that leaves both owners alone, which takes set-user-id and
    /// set-group-id away as any other. A new size without a handle (`truncate(2)`) is published before the answer,
    /// but for none at all while the file is open for writing.
    ///
    /// # Errors
    /// [`VfsError::NotPermitted`] for another owner where all files are the mounter's; [`VfsError::IsDirectory`] for the
    /// size of a directory.
    pub async fn setattr(
        self: &Arc<Self>,
        ino: InodeNo,
        set: SetAttr,
        handle: Option<HandleId>,
        caller: Caller,
    ) -> Result<EntryReply> {
        self.writable()?;
        self.refresh(ino).await?;
        let inode = self.table().inode(ino)?;
        let _moves = self.moves.read().await;
        let mut data = inode.data.lock().await;
        if let Some(size) = set.size {
            match self.table().node(ino)?.facts.kind {
                Kind::File => {}
                Kind::Dir => return Err(VfsError::IsDirectory),
                Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => {
                    return Err(VfsError::InvalidArgument("only files have a size to be set"));
                }
            }
            data.changed_by(handle);
            self.truncate(&inode, &mut data, size, caller).await?;
        }
        let patch = self.patch_for(&self.table().node(ino)?.facts, set, caller)?;
        if !patch.is_empty() {
            self.patch_locked(ino, &mut data, patch).await?;
        }
        // Emptied by a handle that was just opened (the kernel does not say so), what is to be in it comes now
        // (docs/semantics.md, 5).
        let opening = set.size == Some(0) && data.writers > 0;
        if set.size.is_some() && handle.is_none() && !opening {
            self.publish_locked(&inode, &mut data, Durability::Async).await?;
        }
        self.known(ino)
    }

    fn patch_for(&self, facts: &Facts, set: SetAttr, caller: Caller) -> Result<AttrPatch> {
        let now = self.clock.now();
        let is_chown = set.uid.is_some() || set.gid.is_some() || set == SetAttr::default();
        let time = |time: Option<SetTime>| {
            time.map(|time| match time {
                SetTime::Now => now,
                SetTime::At(at) => at,
            })
        };
        let (mut uid, mut gid) = (set.uid, set.gid);
        if self.config.owner == Owner::Mounter {
            if uid.is_some_and(|uid| uid != self.config.uid) || gid.is_some_and(|gid| gid != self.config.gid) {
                return Err(VfsError::NotPermitted("all files of this mount belong to who mounted it"));
            }
            (uid, gid) = (None, None);
        }
        let mut mode = set.mode.map(|mode| mode & 0o7777);
        if is_chown && facts.kind != Kind::Dir {
            let current = mode.or(facts.mode).unwrap_or(0o644);
            if without_privileges(current) != current {
                // Nobody asks the permission of a request that sets nothing; the write of another user, which comes with
                // one, says itself that they go.
                let owner = facts.attr(InodeNo::ROOT, false, &self.view).uid;
                if set != SetAttr::default() || caller.uid == 0 || caller.uid == owner {
                    mode = Some(without_privileges(current));
                }
            }
        }
        let mut patch = AttrPatch { mode, uid, gid, atime: time(set.atime), mtime: time(set.mtime), ..AttrPatch::default() };
        if !patch.is_empty() || set.uid.is_some() || set.gid.is_some() {
            patch.ctime = Some(now);
        }
        Ok(patch)
    }

    /// Merges attributes into the head, or into the row that is going to be published. With the data and
    /// [`Vfs::moves`] held.
    pub(crate) async fn patch_locked(self: &Arc<Self>, no: InodeNo, _data: &mut Data, patch: AttrPatch) -> Result<()> {
        let (key, facts) = {
            let mut table = self.table();
            let node = table.node_mut(no)?;
            if node.is_ahead() {
                node.facts.apply(&patch);
                node.patch.merge(patch);
                table.touch(no);
                return Ok(());
            }
            let facts = node.facts.clone();
            let key = match facts.kind {
                Kind::Dir => table.marker_of(no)?,
                Kind::File | Kind::Symlink | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => Some(table.key_of(no)?),
            };
            (key, facts)
        };
        // The root of a mount of the whole table has no marker: its attributes last as long as the mount.
        let Some(key) = key else {
            self.table().node_mut(no)?.facts.apply(&patch);
            return Ok(());
        };
        let explicit = (facts.kind == Kind::Dir).then(|| {
            let never = Timestamp::default();
            let mut fields = facts.defaults();
            if facts.mtime == never {
                fields.remove("mtime");
            }
            (self.clock.version_id(), fields)
        });
        let op = Op::SetAttr(SetAttrOp { key, patch: patch.clone(), expect: Precondition::Any, explicit });
        let head = self.commit(vec![op], Durability::Async).await?.pop().and_then(|outcome| outcome.head);
        let mut table = self.table();
        let node = table.node_mut(no)?;
        node.facts.apply(&patch);
        if let Some(head) = head {
            let (kind, ino) = (node.facts.kind, node.facts.ino);
            let times = (kind == Kind::Dir).then_some((node.facts.mtime, node.facts.ctime));
            node.facts = Facts { kind, ino, ..Facts::of_head(&head) };
            if let Some((mtime, ctime)) = times {
                (node.facts.mtime, node.facts.ctime) = (mtime, ctime);
            }
        }
        table.touch(no);
        Ok(())
    }
}
