//! Whether an operation gets anywhere. An operation that waits does so for a request to the store of its own, which ends by
//! itself; for a lock, so for what those who hold it wait for; or for something of which it is not known who brings it
//! ([`for_anyone`]): then any request of the mount may be what it waits for.
//!
//! The locks of the filesystem that are held across requests are those of this module; they know who holds them.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

tokio::task_local! {
    /// Whose work the current task does.
    static WHO: Arc<Activity>;
}

/// One operation, or one task of the mount's own: what it asked of the store, and what it waits for.
#[derive(Debug)]
pub struct Activity {
    /// Never used twice.
    id: u64,
    under_way: AtomicU64,
    done: AtomicU64,
    waits: std::sync::Mutex<Vec<Wait>>,
}

#[derive(Debug, Clone)]
enum Wait {
    /// Whoever is in there.
    Holders(Holders),
    Anyone,
}

impl Wait {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Holders(a), Self::Holders(b)) => Arc::ptr_eq(a, b),
            (Self::Anyone, Self::Anyone) => true,
            (Self::Holders(_), Self::Anyone) | (Self::Anyone, Self::Holders(_)) => false,
        }
    }
}

/// Who holds a lock; `None` for somebody who is not followed.
type Holders = Arc<std::sync::Mutex<Vec<Option<Arc<Activity>>>>>;

/// How far an operation, and all whom it waits for, had got: activities and what each had answered. Two that are equal
/// mean that nothing happened between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulse(Vec<(u64, u64)>);

impl Activity {
    /// Of somebody who has not begun.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> Arc<Self> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(Self { id, under_way: AtomicU64::new(0), done: AtomicU64::new(0), waits: std::sync::Mutex::default() })
    }

    /// Does something as this activity.
    pub fn run<F: Future>(self: &Arc<Self>, work: F) -> impl Future<Output = F::Output> + use<F> {
        WHO.scope(self.clone(), work)
    }

    /// `anyone`: what the mount as a whole has got done, `None` while a request of anybody is under way. `None` where a
    /// request is under way that the activity waits for.
    pub(crate) fn pulse(self: &Arc<Self>, anyone: impl FnOnce() -> Option<u64>) -> Option<Pulse> {
        let mut follow = vec![self.clone()];
        let (mut seen, mut not_known) = (Vec::new(), false);
        while let Some(next) = follow.pop() {
            if seen.iter().any(|(id, _)| *id == next.id) {
                continue;
            }
            if next.under_way.load(Ordering::Relaxed) > 0 {
                return None;
            }
            seen.push((next.id, next.done.load(Ordering::Relaxed)));
            let waits = next.waits.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for wait in waits {
                let Wait::Holders(holders) = wait else {
                    not_known = true;
                    continue;
                };
                for holder in holders.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    match holder {
                        Some(holder) => follow.push(holder.clone()),
                        None => not_known = true,
                    }
                }
            }
        }
        if not_known {
            seen.push((0, anyone()?));
        }
        seen.sort_unstable();
        Some(Pulse(seen))
    }
}

fn who() -> Option<Arc<Activity>> {
    WHO.try_with(Arc::clone).ok()
}

/// A request to the store, while it is under way.
pub(crate) struct Request(Option<Arc<Activity>>);

impl Request {
    pub fn begin() -> Self {
        let who = who();
        if let Some(activity) = &who {
            activity.under_way.fetch_add(1, Ordering::Relaxed);
        }
        Self(who)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(activity) = &self.0 {
            activity.done.fetch_add(1, Ordering::Relaxed);
            activity.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Waits for what some task of the mount brings.
pub(crate) async fn for_anyone<T>(brought: impl Future<Output = T>) -> T {
    let _waiting = Waiting::begin(Wait::Anyone);
    brought.await
}

struct Waiting(Option<Arc<Activity>>, Wait);

impl Waiting {
    fn begin(wait: Wait) -> Self {
        let who = who();
        if let Some(activity) = &who {
            activity.waits.lock().unwrap_or_else(PoisonError::into_inner).push(wait.clone());
        }
        Self(who, wait)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(activity) = &self.0 else { return };
        let mut waits = activity.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = waits.iter().position(|wait| wait.is(&self.1)) {
            waits.swap_remove(at);
        }
    }
}

/// An entry in the list of those who hold a lock.
struct Holding {
    holders: Holders,
    who: Option<Arc<Activity>>,
}

impl Holding {
    fn begin(holders: &Holders) -> Self {
        let who = who();
        holders.lock().unwrap_or_else(PoisonError::into_inner).push(who.clone());
        Self { holders: holders.clone(), who }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = |holder: &Option<Arc<Activity>>| match (holder, &self.who) {
            (Some(holder), Some(me)) => Arc::ptr_eq(holder, me),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if let Some(at) = holders.iter().position(mine) {
            holders.swap_remove(at);
        }
    }
}

/// [`tokio::sync::Mutex`].
#[derive(Debug, Default)]
pub(crate) struct Mutex<T> {
    lock: tokio::sync::Mutex<T>,
    holders: Holders,
}

/// Holds a [`Mutex`].
pub(crate) struct MutexGuard<'a, T> {
    _holding: Holding,
    guard: tokio::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Self { lock: tokio::sync::Mutex::new(value), holders: Holders::default() }
    }

    pub async fn lock(&self) -> MutexGuard<'_, T> {
        if let Some(guard) = self.try_lock() {
            return guard;
        }
        let waiting = Waiting::begin(Wait::Holders(self.holders.clone()));
        let guard = self.lock.lock().await;
        drop(waiting);
        MutexGuard { _holding: Holding::begin(&self.holders), guard }
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = self.lock.try_lock().ok()?;
        Some(MutexGuard { _holding: Holding::begin(&self.holders), guard })
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// [`tokio::sync::RwLock`], of nothing.
#[derive(Debug, Default)]
pub(crate) struct RwLock {
    lock: tokio::sync::RwLock<()>,
    holders: Holders,
}

/// Holds an [`RwLock`] one way or the other.
pub(crate) struct RwLockGuard<G> {
    _holding: Holding,
    _guard: G,
}

impl RwLock {
    pub async fn read(&self) -> RwLockGuard<tokio::sync::RwLockReadGuard<'_, ()>> {
        let guard = match self.lock.try_read() {
            Ok(guard) => guard,
            Err(_) => self.wait(self.lock.read()).await,
        };
        RwLockGuard { _holding: Holding::begin(&self.holders), _guard: guard }
    }

    pub async fn write(&self) -> RwLockGuard<tokio::sync::RwLockWriteGuard<'_, ()>> {
        let guard = self.wait(self.lock.write()).await;
        RwLockGuard { _holding: Holding::begin(&self.holders), _guard: guard }
    }

    async fn wait<G>(&self, guard: impl Future<Output = G>) -> G {
        let _waiting = Waiting::begin(Wait::Holders(self.holders.clone()));
        guard.await
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Poll;

    use super::*;

    /// Polls once, as an activity; whether it waits.
    async fn waits<F: Future>(who: &Arc<Activity>, mut work: Pin<&mut F>) -> bool {
        who.run(poll_fn(|context| Poll::Ready(work.as_mut().poll(context).is_pending()))).await
    }

    #[tokio::test]
    async fn who_waits_for_a_lock_waits_for_what_its_holder_waits_for() {
        let (a, b, c) = (Activity::new(), Activity::new(), Activity::new());
        let (first, second) = (Mutex::new(()), RwLock::default());
        let held = a.run(first.lock()).await;
        let held_too = b.run(second.read()).await;
        let (mut b_waits, mut c_waits) = (Box::pin(first.lock()), Box::pin(second.write()));
        assert!(waits(&b, b_waits.as_mut()).await && waits(&c, c_waits.as_mut()).await);
        let nobody = || panic!("it is known who is waited for");
        let before = c.pulse(nobody).unwrap();
        assert_eq!(before, c.pulse(nobody).unwrap());
        // What the last of the chain asks is progress of the first; what others ask is not.
        let request = a.run(async { Request::begin() }).await;
        assert_eq!((b.pulse(nobody), c.pulse(nobody)), (None, None));
        drop(request);
        assert_ne!(before, c.pulse(nobody).unwrap());
        let before = c.pulse(nobody).unwrap();
        let other = Activity::new().run(async { Request::begin() }).await;
        assert_eq!(before, c.pulse(nobody).unwrap());
        drop((other, held));
        assert_ne!(before, c.pulse(nobody).unwrap(), "another holds the lock, or nobody");
        assert!(!waits(&b, b_waits.as_mut()).await);
        drop((b_waits, held_too));
        assert!(!waits(&c, c_waits.as_mut()).await);
        assert_eq!(c.pulse(nobody).unwrap().0.len(), 1);
    }

    #[tokio::test]
    async fn a_circle_is_no_progress() {
        let (a, b) = (Activity::new(), Activity::new());
        let (first, second) = (Mutex::new(()), Mutex::new(()));
        let _held = (a.run(first.lock()).await, b.run(second.lock()).await);
        let (mut a_waits, mut b_waits) = (Box::pin(second.lock()), Box::pin(first.lock()));
        assert!(waits(&a, a_waits.as_mut()).await && waits(&b, b_waits.as_mut()).await);
        assert_eq!(a.pulse(|| None), a.pulse(|| None));
        assert!(a.pulse(|| None).is_some());
    }

    #[tokio::test]
    async fn who_is_not_followed_may_be_anyone() {
        let a = Activity::new();
        let lock = Mutex::new(());
        let _held = lock.lock().await;
        let mut a_waits = Box::pin(lock.lock());
        assert!(waits(&a, a_waits.as_mut()).await);
        assert_eq!(a.pulse(|| None), None);
        assert_ne!(a.pulse(|| Some(1)), a.pulse(|| Some(2)));
        drop(a_waits);
        let mut brought = Box::pin(for_anyone(std::future::pending::<()>()));
        assert!(waits(&a, brought.as_mut()).await);
        assert_eq!(a.pulse(|| None), None);
        drop(brought);
        assert!(a.pulse(|| None).is_some());
    }
}
