//! The store behind PgBouncer in transaction mode, with fewer server connections than clients.

use pgfiles_store::batch::Durability;
use pgfiles_store::pg::{PgOptions, PgStore};
use pgfiles_store::{Server as _, Store as _};
use pgfiles_testkit::postgres::Postgres;
use pgfiles_testkit::postgres::bouncer::Bouncer;

use crate::pg_store::{batch, initialise, key, put};

#[tokio::test]
async fn ten_clients_on_two_connections() {
    let server = Postgres::start(pgfiles_testkit::postgres::Options::default());
    let Some(bouncer) = Bouncer::start(&server) else { return };
    let database = server.database().await;
    initialise(&database.dsn()).await;
    let store = PgStore::connect(&bouncer.dsn(&database), PgOptions::default()).await.unwrap();
    let work = (0..200).map(|n| {
        let store = &store;
        async move {
            let (path, durability) = (format!("d{}/f{n}", n % 7), if n % 3 == 0 { Durability::Sync } else { Durability::Async });
            store.commit(batch(vec![put(&path, b"x")], durability)).await?;
            store.lookup(&[key(&path)], 10).await
        }
    });
    for result in futures_util::future::join_all(work).await {
        assert!(result.unwrap()[0].is_some());
    }
    assert_eq!(store.tree(&pgfiles_store::Prefix::default(), None, 1000).await.unwrap().len(), 200);
    assert!(store.connections_made() > 2);
    store.sync().await.unwrap();
    store.position().await.unwrap();
    // What a commit sets for itself must not stay behind for the next user of the connection.
    let left = "SELECT setting, source FROM pg_settings WHERE name = 'synchronous_commit'";
    let (client, connection) = tokio_postgres::connect(&bouncer.dsn(&database), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let rows = client.query_typed(left, &[]).await.unwrap();
    assert_eq!((rows[0].get::<_, &str>(0), rows[0].get::<_, &str>(1)), ("on", "default"));
}
