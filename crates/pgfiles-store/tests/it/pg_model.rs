//! The reference model of the filesystem over [`PgStore`], through all layers.

use std::sync::Arc;
use std::time::Duration;

use pgfiles_store::layer::{Stack, StackConfig};
use pgfiles_store::pg::{PgOptions, PgStore};
use pgfiles_testkit::postgres::Postgres;
use pgfiles_testkit::vfs_model::{Plan, run};

use crate::pg_store::initialise;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations() {
    let database = Postgres::shared().database().await;
    initialise(&database.dsn()).await;
    let server = PgStore::connect(&database.dsn(), PgOptions::default()).await.unwrap();
    let config = StackConfig { metadata_ttl: Duration::from_secs(3600), ..StackConfig::default() };
    let stack = Stack::new(Arc::new(server), config);
    let seed = uuid::Uuid::new_v4().as_u128() as u64;
    run(stack.store.clone(), Plan::new(seed, 300)).await;
}
