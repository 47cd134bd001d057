//! What is written and cannot be committed, saved to local files: the last resort of an unmount that does not wait.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pgfiles_store::Key;

use crate::Vfs;
use crate::attr::InodeNo;
use crate::publish::read_dirty;

/// Bytes read at a time.
const WINDOW: u64 = 4 << 20;

impl Vfs {
    /// Writes every file with unpublished changes into `dir`, whole, and says which key each is of. Waits `wait` per
    /// file at most for what else is being done with it. Files that have no name any more are left out.
    ///
    /// # Errors
    /// In words: a file is held up or needs bytes that only the server has, or `dir` cannot be written to.
    pub async fn recover(self: &Arc<Self>, dir: &Path, wait: Duration) -> Result<Vec<(Key, PathBuf)>, String> {
        let files: Vec<InodeNo> = self.due().files().map(|(no, _)| no).collect();
        let mut kept = Vec::new();
        for (index, no) in files.into_iter().enumerate() {
            let (inode, key) = {
                let mut table = self.table();
                (table.inode(no), table.key_of(no))
            };
            let (Ok(inode), Ok(key)) = (inode, key) else { continue };
            let path = dir.join(format!("{:06}", index + 1));
            let save = async {
                let data = inode.data.lock().await;
                if data.content.is_clean() {
                    return Ok::<bool, String>(false);
                }
                let mut file = std::fs::File::create_new(&path).map_err(|error| error.to_string())?;
                let mut at = 0;
                loop {
                    let bytes = read_dirty(&data.content, &*self.store, at, WINDOW).await.map_err(|error| error.to_string())?;
                    if bytes.is_empty() {
                        break;
                    }
                    at += bytes.len() as u64;
                    file.write_all(&bytes).map_err(|error| error.to_string())?;
                }
                file.sync_all().map_err(|error| error.to_string())?;
                Ok(true)
            };
            match tokio::time::timeout(wait, save).await {
                Ok(Ok(true)) => kept.push((key, path)),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => return Err(format!("{key}: {error}")),
                Err(_) => return Err(format!("{key}: parts of it are only on the server, or it is in use")),
            }
        }
        Ok(kept)
    }
}
