//! What the core may ask an adapter to forget, because it changed behind the kernel's back.

use async_trait::async_trait;
use pgfiles_store::Name;

use crate::attr::InodeNo;

/// Implemented by an adapter. Called from any thread, with no lock held; must not wait for the kernel, because the
/// kernel may be waiting for an answer of the calling thread.
#[async_trait]
pub trait KernelCache: Send + Sync + 'static {
    /// Forget what the name stands for, absence included.
    fn entry(&self, parent: InodeNo, name: &Name);
    /// Forget attributes and cached pages of an inode.
    fn inode(&self, ino: InodeNo);
    /// The same, and returns when the kernel has forgotten. Called with no lock held, by a task that the kernel does not wait
    /// for with the inode's own lock.
    async fn inode_now(&self, ino: InodeNo);
}
