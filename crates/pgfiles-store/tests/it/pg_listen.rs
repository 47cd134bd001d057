//! Change notices.

use std::sync::Arc;
use std::time::Duration;

use pgfiles_store::batch::Durability;
use pgfiles_store::error::Kind;
use pgfiles_store::pg::listen::{Listener, Notice};
use pgfiles_store::pg::{PgOptions, PgStore};
use pgfiles_store::{Prefix, Store as _};
use pgfiles_testkit::postgres::bouncer::Bouncer;
use pgfiles_testkit::postgres::{Options, Postgres};

use crate::pg_store::{batch, initialise, put};

fn dir(text: &str) -> Prefix {
    Prefix::new(text).unwrap()
}

async fn next(listener: &mut Listener) -> Notice {
    tokio::time::timeout(Duration::from_secs(20), listener.next()).await.expect("a notice")
}

#[tokio::test]
async fn changes_below_the_prefix_are_heard() {
    let database = Postgres::shared().database().await;
    initialise(&database.dsn()).await;
    let store = Arc::new(PgStore::connect(&database.dsn(), PgOptions::default()).await.unwrap());
    let mut listener = store.listen(&dir("agents/7"), "m1").await.unwrap();
    store.commit(batch(vec![put("agents/8/x", b""), put("agents/7/d/a", b"1")], Durability::Async)).await.unwrap();
    assert_eq!(next(&mut listener).await, Notice::Changed(dir("agents/7/d")));
    let client = database.connect().await;
    client.batch_execute("SELECT pgfiles_write('agents/7/b', 'hi')").await.unwrap();
    assert_eq!(next(&mut listener).await, Notice::Changed(dir("agents/7")));
    let rows = "SELECT count(*) FROM pgfiles WHERE key = '/agents/7//listen/m1'";
    assert_eq!(client.query_one(rows, &[]).await.unwrap().get::<_, i64>(0), 1);
    listener.close().await.unwrap();
    assert_eq!(client.query_one(rows, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_lost_connection_is_a_gap() {
    let server = Postgres::start(Options::default());
    let database = server.database().await;
    initialise(&database.dsn()).await;
    let store = Arc::new(PgStore::connect(&database.dsn(), PgOptions::default()).await.unwrap());
    let mut listener = store.listen(&Prefix::default(), "m1").await.unwrap();
    server.stop_fast();
    server.start_again();
    assert_eq!(next(&mut listener).await, Notice::Gap);
    store.commit(batch(vec![put("a", b"1")], Durability::Async)).await.unwrap();
    assert_eq!(next(&mut listener).await, Notice::Changed(Prefix::default()));
}

#[tokio::test]
async fn a_pooler_that_delivers_nothing_is_found_out() {
    let server = Postgres::start(Options::default());
    let Some(bouncer) = Bouncer::start(&server) else { return };
    let database = server.database().await;
    initialise(&database.dsn()).await;
    let store = Arc::new(PgStore::connect(&bouncer.dsn(&database), PgOptions::default()).await.unwrap());
    let error = store.listen(&Prefix::default(), "m1").await.unwrap_err();
    assert!(error.kind() == Kind::Unsupported && error.to_string().contains("pooler"), "{error}");
}
