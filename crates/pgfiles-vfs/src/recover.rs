//! What is written and cannot be committed, saved to local files: the last resort of an unmount that does not wait.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pgfiles_store::Key;

use crate::Vfs;
use crate::attr::InodeNo;
use crate::inode::Inode;
use crate::publish::read_dirty;

/// Bytes read at a time.
const WINDOW: u64 = 4 << 20;

/// What [`Vfs::recover`] saved.
#[derive(Debug, Default)]
pub struct Kept {
    /// Each key with the file that holds its content.
    pub files: Vec<(Key, PathBuf)>,
    /// What could not be saved, and why, in words.
    pub lost: Vec<String>,
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
                Ok(Ok(true)) => kept.files.push((key, path)),
                Ok(Ok(false)) => {}
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

    /// Writes a file's unpublished content; false where there is none.
    async fn save(&self, inode: &Inode, path: &Path) -> Result<bool, String> {
        let data = inode.data.lock().await;
        if data.content.is_clean() {
            return Ok(false);
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
        Ok(true)
    }
}
