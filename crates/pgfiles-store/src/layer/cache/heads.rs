//! Metadata by path, trusted for a time. (First shape: remembers nothing.)

use std::time::Duration;

/// What is known about paths.
pub struct Heads {
    ttl: Duration,
}

impl Heads {
    /// Nothing known; what comes is trusted for `ttl`.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl }
    }

    /// How long an answer is trusted.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}
