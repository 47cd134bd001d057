//! Where a bound is reached or what it stands on is bad: slower, or the error that is stated (docs/limits.md), never wrong and never stuck.

mod cache_dir;
mod connections;
mod memory;
mod slow_server;
mod work;

use std::time::Duration;

/// How long anything here may take before it counts as stuck. No test is near it.
const NOT_STUCK: Duration = Duration::from_secs(180);

/// A size: small in CI, the by a variable.
fn size(name: &str, small: u64) -> u64 {
    std::env::var(name).map_or(small, |n| n.parse().unwrap_or_else(|why| panic!("{name}: {why}")))
}
