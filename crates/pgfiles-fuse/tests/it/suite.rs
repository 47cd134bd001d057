//! The filesystem suite through a mount of the reference store, and what only a kernel can show.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgfiles_fuse::{MountOptions, Session};
use pgfiles_store::Prefix;
use pgfiles_store::clock::SystemClock;
use pgfiles_store::mem::MemStore;
use pgfiles_testkit::fs_suite::{self, OnDisk};
use pgfiles_vfs::{Vfs, VfsConfig};
use tokio::runtime::Runtime;

struct Mounted {
    dir: tempfile::TempDir,
    session: Option<Session>,
    _runtime: Runtime,
}

impl Mounted {
    /// `None`, with a word why, where this machine cannot mount.
    fn new(ttl: Duration) -> Option<Self> {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let vfs = {
            let _inside = runtime.enter();
            let config = VfsConfig::new(Prefix::new("agents/7").unwrap(), "test");
            Vfs::new(Arc::new(MemStore::new()), Arc::new(ttl), config, Arc::new(SystemClock))
        };
        match pgfiles_fuse::mount(vfs, &MountOptions::new(dir.path()), runtime.handle().clone()) {
            Ok(session) => Some(Self { dir, session: Some(session), _runtime: runtime }),
            Err(error) => {
                eprintln!("skipped, because {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.unmounter().unmount(true).unwrap();
            session.wait().unwrap();
        }
    }
}

#[test]
fn through_a_mount() {
    let Some(mounted) = Mounted::new(Duration::from_secs(30)) else { return };
    fs_suite::run(&OnDisk { root: mounted.path().to_owned() });
}

#[test]
fn through_a_mount_that_trusts_nothing() {
    let Some(mounted) = Mounted::new(Duration::ZERO) else { return };
    fs_suite::run(&OnDisk { root: mounted.path().to_owned() });
}
