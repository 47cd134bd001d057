//! What the core may ask an adapter to forget, because it changed behind the kernel's back.

use pgfiles_store::Name;

use crate::attr::InodeNo;

/// Implemented by an adapter. Called from any thread, with no lock held; must not wait for the kernel, because the
/// kernel may be waiting for an answer of the calling thread.
pub trait KernelCache: Send + Sync + 'static {
    /// Forget what the name stands for, absence included.
    fn entry(&self, parent: InodeNo, name: &Name);
    /// Forget attributes and cached pages of an inode.
    fn inode(&self, ino: InodeNo);
}
