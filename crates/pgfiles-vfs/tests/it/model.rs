//! The reference model against the filesystem over a [`MemStore`].

use std::sync::Arc;
use std::time::Duration;

use pgfiles_store::mem::MemStore;
use pgfiles_testkit::vfs_model::{Plan, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations() {
    run(Arc::new(MemStore::new()), Plan::new(rand_seed(), 2_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_published_in_the_background() {
    let plan = Plan { publish_after: Duration::from_millis(1), ..Plan::new(rand_seed(), 2_000) };
    run(Arc::new(MemStore::new()), plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_that_keep_all_history() {
    let plan = Plan { young_seconds: 0, dirty_bytes_max: 100_000, ..Plan::new(rand_seed(), 2_000) };
    run(Arc::new(MemStore::new()), plan).await;
}

/// Another one in every run; a failure prints it.
fn rand_seed() -> u64 {
    uuid::Uuid::new_v4().as_u128() as u64
}
