//! `schema::init`: from nothing, again, by many at once, on a table that other tools filled, with a broken index.

use pgfiles_store::error::Kind;
use pgfiles_store::pg::schema::{self, Access};
use pgfiles_testkit::postgres::Postgres;
use tokio_postgres::{Client, NoTls};

/// A connection to a database, served by a task of its own.
pub async fn connect(dsn: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.expect("the test server accepts connections");
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn init_makes_a_database_usable_and_may_be_repeated() {
    let database = Postgres::shared().database().await;
    let mut client = connect(&database.dsn()).await;
    assert_eq!(schema::check(&client, Access::Read).await.unwrap_err().kind(), Kind::NotInitialised);
    let first = schema::init(&mut client).await.unwrap();
    assert!(first.created);
    let second = schema::init(&mut client).await.unwrap();
    assert!(!second.created);
    schema::check(&client, Access::Write).await.unwrap();
    client.execute("INSERT INTO pgfiles(key, data) VALUES ('a/b.txt', 'hi')", &[]).await.unwrap();
    let row = client.query_one("SELECT meta->>'version', meta->>'size' FROM pgfiles", &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), ("1", "2"));
}
