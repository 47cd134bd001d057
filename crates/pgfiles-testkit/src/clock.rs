//! Clocks of tests: one that stands still until a test moves it, and whose random numbers are the same in every run; and the
//! system's, which a test can move on.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgfiles_store::clock::{Clock, SystemClock};
use pgfiles_store::version::Timestamp;
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};

/// Stands still.
#[derive(Debug)]
pub struct TestClock {
    start: Instant,
    state: Mutex<(Duration, StdRng)>,
}

impl TestClock {
    /// Stands at 2026-01-01T00:00:00Z.
    pub fn new(seed: u64) -> Self {
        Self { start: Instant::now(), state: Mutex::new((Duration::ZERO, StdRng::seed_from_u64(seed))) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 += by;
    }

    fn passed(&self) -> Duration {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let passed = self.passed();
        Timestamp { seconds: 1_767_225_600 + passed.as_secs() as i64, nanos: passed.subsec_nanos() }
    }

    fn monotonic(&self) -> Instant {
        self.start + self.passed()
    }

    fn random(&self) -> u128 {
        let rng = &mut self.state.lock().unwrap_or_else(PoisonError::into_inner).1;
        u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
    }
}

/// The system's clock, as far ahead as a test has moved it.
#[derive(Debug, Default)]
pub struct LaterClock(AtomicU32);

impl LaterClock {
    /// Moves both clocks forward.
    pub fn advance(&self, seconds: u32) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for LaterClock {
    fn now(&self) -> Timestamp {
        let now = SystemClock.now();
        Timestamp { seconds: now.seconds + i64::from(self.0.load(Ordering::Relaxed)), ..now }
    }

    fn monotonic(&self) -> Instant {
        SystemClock.monotonic() + Duration::from_secs(self.0.load(Ordering::Relaxed).into())
    }

    fn random(&self) -> u128 {
        SystemClock.random()
    }
}

/// The clock of the runtime that it is used in: it stands still while that is busy where its time is paused
/// (`tokio::time::pause`), and goes on with its timers. The wall clock starts at 2026-01-01T00:00:00Z.
#[derive(Debug)]
pub struct RuntimeClock {
    start: tokio::time::Instant,
    rng: Mutex<StdRng>,
}

impl RuntimeClock {
    /// To be made inside the runtime.
    pub fn new(seed: u64) -> Self {
        Self { start: tokio::time::Instant::now(), rng: Mutex::new(StdRng::seed_from_u64(seed)) }
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        let passed = self.start.elapsed();
        Timestamp { seconds: 1_767_225_600 + passed.as_secs() as i64, nanos: passed.subsec_nanos() }
    }

    fn monotonic(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn random(&self) -> u128 {
        let rng = &mut self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
    }
}
