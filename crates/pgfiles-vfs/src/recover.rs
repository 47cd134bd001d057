//! What is written and cannot be committed, saved to local files: the last resort of an unmount that does not wait.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pgfiles_store::Key;
use pgfiles_store::version::AttrPatch;

use crate::Vfs;
use crate::attr::InodeNo;
use crate::inode::Inode;
use crate::publish::read_dirty;

/// Bytes read at a time.
const WINDOW: u64 = 4 << 20;

/// What [`Vfs::recover`] saved.
#[derive(Debug, Default)]
pub struct Kept {
    /// The files.
    pub files: Vec<KeptFile>,
    /// What could not be saved, and why, in words.
    pub lost: Vec<String>,
}

/// A file with unpublished changes.
#[derive(Debug)]
pub struct KeptFile {
    /// Its key.
    pub key: Key,
    /// What holds its content; `None` where that is published.
    pub content: Option<PathBuf>,
    /// Attributes that were set and not published: of a new file all, of another those that changed.
    pub attributes: AttrPatch,
}

impl Vfs {
    /// Writes every file with unpublished changes into `dir`, whole. Nothing of this mount waits for the server any
    /// more, until [`Vfs::take_heart`]. Waits `wait` per file at most. Files that have no name any more are left out.
    pub async fn recover(self: &Arc<Self>, dir: &Path, wait: Duration) -> Kept {
        self.patience.give_up(true);
        let files: Vec<InodeNo> = self.due().files().map(|(no, _)| no).collect();
        let mut kept = Kept::default();
        for (index, no) in files.into_iter().enumerate() {
            let (inode, key) = {
                let mut table = self.table();
                (table.inode(no), table.key_of(no))
            };
            let (Ok(inode), Ok(key)) = (inode, key) else { continue };
            let path = dir.join(format!("{:06}", index + 1));
            match tokio::time::timeout(wait, self.save(&inode, &path)).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some((saved, attributes)))) => {
                    kept.files.push(KeptFile { key, content: saved.then_some(path), attributes });
                }
                Ok(Err(error)) => kept.lost.push(format!("{key}: {error}")),
                Err(_) => kept.lost.push(format!("{key}: parts of it are only on the server, or it is in use")),
            }
        }
        kept
    }

    /// Waits for the server again, after a [`Vfs::recover`] that did not end the mount.
    pub fn take_heart(&self) {
        self.patience.give_up(false);
    }

    /// Writes a file's unpublished content, and says which attributes are unpublished and whether any content was; `None`
    /// where everything is published.
    async fn save(&self, inode: &Inode, path: &Path) -> Result<Option<(bool, AttrPatch)>, String> {
        let data = inode.data.lock().await;
        let (attributes, is_new) = {
            let table = self.table();
            let Ok(node) = table.node(inode.no) else { return Ok(None) };
            let facts = &node.facts;
            let mtime = Some(facts.mtime);
            let set = AttrPatch { mtime, ctime: None, ..node.patch.clone() };
            let xattrs =
                || facts.extra.iter().flat_map(|extra| &extra.xattrs).map(|(name, value)| (name.clone(), Some(value.clone())));
            let all = || AttrPatch {
                mode: facts.mode,
                uid: facts.uid,
                gid: facts.gid,
                atime: facts.atime,
                xattrs: xattrs().collect(),
                ..set.clone()
            };
            (if node.pending { all() } else { set }, node.pending)
        };
        if data.content.is_clean() && !is_new {
            let nothing = AttrPatch { mtime: None, ..attributes.clone() }.is_empty();
            return Ok((!nothing).then_some((false, attributes)));
        }
        let mut file = std::fs::File::create_new(path).map_err(|error| error.to_string())?;
        let mut at = 0;
        loop {
            let bytes = read_dirty(&data.content, &**self.patience.inner(), at, WINDOW).await;
            let bytes = bytes.map_err(|error| error.to_string())?;
            if bytes.is_empty() {
                break;
            }
            at += bytes.len() as u64;
            file.write_all(&bytes).map_err(|error| error.to_string())?;
        }
        file.sync_all().map_err(|error| error.to_string())?;
        Ok(Some((true, attributes)))
    }
}
