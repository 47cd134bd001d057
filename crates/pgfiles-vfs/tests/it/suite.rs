//! The filesystem suite, straight on the core: over the bare reference store, and over all layers.

use std::sync::Arc;
use std::time::Duration;

use pgfiles_store::Prefix;
use pgfiles_store::clock::SystemClock;
use pgfiles_store::layer::{Stack, StackConfig};
use pgfiles_store::mem::MemStore;
use pgfiles_testkit::fs_suite::{self, Direct};
use pgfiles_vfs::{Vfs, VfsConfig};
use tokio::runtime::Runtime;

#[test]
fn over_the_reference_store() {
    let runtime = Runtime::new().unwrap();
    let vfs = {
        let _inside = runtime.enter();
        let config = VfsConfig::new(Prefix::new("agents/7").unwrap(), "test");
        Vfs::new(Arc::new(MemStore::new()), Arc::new(Duration::ZERO), config, Arc::new(SystemClock))
    };
    fs_suite::run(&Direct { vfs, runtime });
}

#[test]
fn over_all_layers() {
    let runtime = Runtime::new().unwrap();
    let vfs = {
        let _inside = runtime.enter();
        let stack = Stack::new(Arc::new(MemStore::new()), StackConfig::default());
        let config = VfsConfig::new(Prefix::default(), "test");
        Vfs::new(stack.store, stack.fresh, config, Arc::new(SystemClock))
    };
    fs_suite::run(&Direct { vfs, runtime });
}

#[test]
fn over_all_layers_for_a_mount_that_shares() {
    let runtime = Runtime::new().unwrap();
    let vfs = {
        let _inside = runtime.enter();
        let settings = StackConfig { metadata_ttl: Duration::ZERO, ..StackConfig::default() };
        let stack = Stack::new(Arc::new(MemStore::new()), settings);
        let config = VfsConfig::new(Prefix::new("agents/7").unwrap(), "test");
        Vfs::shared(stack.store, stack.fresh, stack.server, config, Arc::new(SystemClock))
    };
    fs_suite::run(&Direct { vfs, runtime });
}
