//! Mounts a filesystem that lives in memory: `mount_mem MOUNTPOINT`, until it is unmounted. For trying the filesystem
//! without a server.

use std::sync::Arc;

use pgfiles_fuse::MountOptions;
use pgfiles_store::Prefix;
use pgfiles_store::clock::SystemClock;
use pgfiles_store::layer::{Stack, StackConfig};
use pgfiles_store::mem::MemStore;
use pgfiles_vfs::{Vfs, VfsConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mountpoint = std::env::args_os().nth(1).ok_or("usage: mount_mem MOUNTPOINT")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let stack = Stack::new(Arc::new(MemStore::default()), StackConfig::default());
    let config = VfsConfig::new(Prefix::new("work")?, "example");
    let vfs = Vfs::new(stack.store, stack.fresh, config, Arc::new(SystemClock));
    let session = pgfiles_fuse::mount(vfs, &MountOptions::new(mountpoint), runtime.handle().clone())?;
    eprintln!("mounted on {}", session.mountpoint().display());
    Ok(session.wait()?)
}
