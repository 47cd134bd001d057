//! The reference model against the filesystem: over a [`MemStore`], through all layers, and with a server that loses
//! replies and crashes.

use std::sync::Arc;
use std::time::Duration;

use pgfiles_store::clock::{Clock as _, SystemClock};
use pgfiles_store::error::Kind;
use pgfiles_store::layer::log::Mode;
use pgfiles_store::layer::{Stack, StackConfig};
use pgfiles_store::mem::MemStore;
use pgfiles_store::store::Server;
use pgfiles_testkit::fault::{Call, Fault, FaultStore};
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

fn stack(server: Arc<dyn Server>, durability: Mode) -> Stack {
    Stack::new(server, StackConfig { durability, metadata_ttl: Duration::from_secs(3600), ..StackConfig::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_through_all_layers() {
    let stack = stack(Arc::new(MemStore::new()), Mode::Close);
    run(stack.store.clone(), Plan::new(rand_seed(), 1_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_in_writeback() {
    let stack = stack(Arc::new(MemStore::new()), Mode::Writeback);
    run(stack.store.clone(), Plan::new(rand_seed(), 1_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_on_a_server_that_loses_replies() {
    let server = Arc::new(FaultStore::new(Arc::new(MemStore::new())));
    let stack = stack(server.clone(), Mode::Close);
    server.every(Call::Commit, 7, Fault::LoseReply);
    server.every(Call::Commit, 11, Fault::Fail(Kind::Unavailable));
    server.every(Call::Lookup, 50, Fault::Fail(Kind::Unavailable));
    run(stack.store.clone(), Plan::new(rand_seed(), 400)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_on_a_server_that_crashes() {
    let memory = Arc::new(MemStore::new());
    let server = Arc::new(FaultStore::new(memory.clone()));
    let stack = stack(server.clone(), Mode::Close);
    // After some work, not after some time: on a slow machine nothing would be done between two crashes.
    let chaos = tokio::spawn(async move {
        let mut last = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let written = memory.position().await.map_or(last, |position| position.written);
            if written >= last + COMMITS_BETWEEN_CRASHES {
                last = written;
                server.outage(|| memory.crash());
            }
        }
    });
    run(stack.store.clone(), Plan::new(rand_seed(), 500)).await;
    chaos.abort();
}

/// How much is done between two crashes.
const COMMITS_BETWEEN_CRASHES: u64 = 25;

/// Another one in every run; a failure prints it.
fn rand_seed() -> u64 {
    SystemClock.random() as u64
}
