//! Requests that are stuck are given up: a program must not hang for ever, whatever goes wrong in here.
//!
//! A request to the store ends by itself, in the worst case after a limit of the filesystem's. What is left is a task
//! that waits for another task that will never wake it. It is told by this: since a whole limit ago it was not woken,
//! and nothing was asked of the store by it or by those whom it waits for, whatever others do meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pgfiles_vfs::{Activity, Pulse, Vfs};
use tokio::time::{Instant, Sleep};

/// A task that is not woken for so long is given up, even while others go on.
const PATIENCE_MAX: Duration = Duration::from_secs(2 * 3600);

/// An operation that ends when it is done or stuck. The one that is stuck is dropped, which answers EIO.
pub(crate) struct Watched<F> {
    operation: Pin<Box<F>>,
    /// The operation's.
    activity: Arc<Activity>,
    vfs: Arc<Vfs>,
    what: &'static str,
    look: Pin<Box<Sleep>>,
    /// When it was last woken.
    woken: Instant,
    /// When it was last looked at, and how far it had got by then.
    looked: (Instant, Option<Pulse>),
}

impl<F: Future<Output = ()>> Watched<F> {
    /// Must be called inside a Tokio runtime; the operation runs as that activity.
    pub fn new(vfs: Arc<Vfs>, what: &'static str, activity: Arc<Activity>, operation: Pin<Box<F>>) -> Self {
        let now = Instant::now();
        let look = Box::pin(tokio::time::sleep(vfs.config().stalled_after));
        let looked = (now, vfs.pulse(&activity));
        Self { operation, activity, vfs, what, look, woken: now, looked }
    }

    fn is_stuck(&self, now: Instant) -> bool {
        let pulse = self.vfs.pulse(&self.activity);
        let nothing_happens = pulse.is_some() && pulse == self.looked.1 && self.woken <= self.looked.0;
        nothing_happens || now.duration_since(self.woken) > PATIENCE_MAX
    }
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.operation.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let mut by_timer = false;
        while self.look.as_mut().poll(context).is_ready() {
            by_timer = true;
            let now = Instant::now();
            if self.is_stuck(now) {
                let seconds = now.duration_since(self.woken).as_secs();
                tracing::error!(operation = self.what, seconds, "makes no progress; answered with EIO");
                return Poll::Ready(());
            }
            self.looked = (now, self.vfs.pulse(&self.activity));
            let next = now + self.vfs.config().stalled_after;
            self.look.as_mut().reset(next);
        }
        if !by_timer {
            self.woken = Instant::now();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgfiles_store::clock::SystemClock;
    use pgfiles_store::mem::MemStore;
    use pgfiles_testkit::fault::{Call, Fault, FaultStore};
    use pgfiles_vfs::{Caller, HandleId, InodeNo, OpenMode, VfsConfig};

    const LIMIT: Duration = Duration::from_millis(200);

    fn vfs() -> (Arc<FaultStore>, Arc<Vfs>) {
        let store = Arc::new(FaultStore::new(Arc::new(MemStore::new())));
        let config = VfsConfig {
            stalled_after: LIMIT,
            publish_after: LIMIT / 10,
            ..VfsConfig::new(pgfiles_store::Prefix::default(), "test")
        };
        (store.clone(), Vfs::new(store, Arc::new(Duration::ZERO), config, Arc::new(SystemClock)))
    }

    /// Watches an operation of its own.
    fn watch<F: Future<Output = ()>>(vfs: Arc<Vfs>, operation: F) -> impl Future<Output = ()> {
        let activity = Activity::new();
        let operation = Box::pin(activity.run(operation));
        Watched::new(vfs, "test", activity, operation)
    }

    #[tokio::test]
    async fn who_is_never_woken_is_given_up() {
        let began = Instant::now();
        watch(vfs().1, std::future::pending()).await;
        assert!(began.elapsed() >= LIMIT);
    }

    #[tokio::test]
    async fn who_is_woken_goes_on() {
        let (done, told) = tokio::sync::oneshot::channel();
        let slow = async {
            for _ in 0..20 {
                tokio::time::sleep(LIMIT / 4).await;
            }
            let _ = done.send(());
        };
        watch(vfs().1, slow).await;
        told.await.unwrap();
    }

    /// However long the lock is held.
    #[tokio::test]
    async fn who_waits_for_a_lock_goes_on() {
        use pgfiles_store::lock::{Change, LockKind};
        let server = Arc::new(MemStore::new());
        let config = VfsConfig { stalled_after: LIMIT, ..VfsConfig::new(pgfiles_store::Prefix::default(), "test") };
        let vfs = Vfs::shared(server.clone(), Arc::new(Duration::ZERO), server, config, Arc::new(SystemClock));
        let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
        let (_, file) = vfs.create(InodeNo::ROOT, b"f", 0o644, mode, Caller { uid: 0, gid: 0 }).await.unwrap();
        let lock = |owner, kind| Change { owner, kind, ..Change::unlock_all(owner) };
        vfs.setlk(file.handle, lock(1, Some(LockKind::Exclusive)), false, || false).await.unwrap();
        let (done, told) = tokio::sync::oneshot::channel();
        let (waiting, began) = (vfs.clone(), Instant::now());
        let wait = async move {
            let locked = waiting.setlk(file.handle, lock(2, Some(LockKind::Exclusive)), true, || false).await;
            drop(done.send(locked));
        };
        let holder = async {
            while began.elapsed() < LIMIT * 10 {
                tokio::task::yield_now().await;
            }
            vfs.setlk(file.handle, lock(1, None), false, || false).await.unwrap();
        };
        tokio::join!(watch(vfs.clone(), wait), holder);
        told.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_store_that_never_answers_is_not_waited_for_for_ever() {
        let (store, vfs) = vfs();
        store.plan(Some(Call::Lookup), 0, Fault::Hold, 1);
        let (done, told) = tokio::sync::oneshot::channel();
        let asking = vfs.clone();
        let lookup = async move { drop(done.send(asking.lookup(InodeNo(1), b"a").await.map(drop))) };
        watch(vfs, lookup).await;
        assert!(told.await.unwrap().is_err());
    }

    /// A file whose publication in the background is held in the store, with the file's content locked.
    async fn publishing(store: &FaultStore, vfs: &Arc<Vfs>) -> HandleId {
        store.plan(Some(Call::Commit), 0, Fault::Hold, 1);
        let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
        let (_, opened) = vfs.create(InodeNo::ROOT, b"a", 0o644, mode, Caller { uid: 0, gid: 0 }).await.unwrap();
        vfs.write(opened.handle, 0, "data".into(), false).await.unwrap();
        while store.calls(Call::Commit) == 0 {
            tokio::time::sleep(LIMIT / 20).await;
        }
        opened.handle
    }

    #[tokio::test]
    async fn who_is_stuck_is_given_up_while_others_wait_for_the_store() {
        let (store, vfs) = vfs();
        publishing(&store, &vfs).await;
        tokio::time::timeout(LIMIT * 50, watch(vfs, std::future::pending())).await.expect("given up");
        store.release();
    }

    #[tokio::test]
    async fn who_waits_for_a_publication_that_waits_for_the_store_goes_on() {
        let (store, vfs) = vfs();
        let handle = publishing(&store, &vfs).await;
        let (done, told) = tokio::sync::oneshot::channel();
        let writing = vfs.clone();
        let write = async move { drop(done.send(writing.write(handle, 4, " and more".into(), false).await)) };
        let watched = tokio::spawn(watch(vfs, write));
        tokio::time::sleep(LIMIT * 5).await;
        store.release();
        watched.await.unwrap();
        assert_eq!(told.await.expect("not given up").unwrap(), 9);
    }
}
