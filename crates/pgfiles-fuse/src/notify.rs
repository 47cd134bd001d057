//! Telling the kernel to forget. From a thread of its own: a session thread that notifies about an inode whose request
//! it is answering would wait for itself.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use async_trait::async_trait;
use fuser::{INodeNo, Notifier};
use pgfiles_store::Name;
use pgfiles_vfs::{InodeNo, KernelCache};
use tokio::sync::oneshot;

/// Invalidations that wait. When there are more, the kernel learns of the rest when its time to live is over.
const QUEUE_MAX: usize = 65_536;

enum Forget {
    Entry(InodeNo, Name),
    /// And who waits for it.
    Inode(InodeNo, Option<oneshot::Sender<()>>),
}

/// The kernel's caches of one mount.
pub(crate) struct FuseCache {
    queue: SyncSender<Forget>,
}

impl FuseCache {
    /// Starts the thread; it ends with the last reference.
    pub fn start(notifier: Notifier) -> std::io::Result<Self> {
        let (queue, receiver) = sync_channel(QUEUE_MAX);
        std::thread::Builder::new().name("pgfiles-notify".into()).spawn(move || notify(&notifier, &receiver))?;
        Ok(Self { queue })
    }

    fn send(&self, forget: Forget) {
        if self.queue.try_send(forget).is_err() {
            tracing::debug!("too many invalidations wait; the kernel learns of this one later");
        }
    }
}

#[async_trait]
impl KernelCache for FuseCache {
    fn entry(&self, parent: InodeNo, name: &Name) {
        self.send(Forget::Entry(parent, name.clone()));
    }

    fn inode(&self, ino: InodeNo) {
        self.send(Forget::Inode(ino, None));
    }

    async fn inode_now(&self, ino: InodeNo) {
        let (done, told) = oneshot::channel();
        self.send(Forget::Inode(ino, Some(done)));
        // Ends as well where the queue is full or the mount has ended.
        let _ = told.await;
    }
}

fn notify(notifier: &Notifier, receiver: &Receiver<Forget>) {
    while let Ok(forget) = receiver.recv() {
        // ENOENT: the kernel does not know it, which is what was wanted. Anything else ends with the mount.
        let _ = match forget {
            Forget::Entry(parent, name) => notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name.as_bytes())),
            Forget::Inode(ino, who_waits) => {
                let done = notifier.inval_inode(INodeNo(ino.0), 0, 0);
                // Nobody may wait any more.
                let _ = who_waits.map(|told| told.send(()));
                done
            }
        };
    }
}
