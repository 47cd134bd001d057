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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_run_it_at_once_even_on_a_filled_table() {
    let database = Postgres::shared().database().await;
    let client = database.connect().await;
    let table = "CREATE TABLE pgfiles (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), key text NOT NULL, meta jsonb NOT NULL DEFAULT '{}', data bytea); \
        INSERT INTO pgfiles(key, data) SELECT 'old/f' || i % 2000, 'x' FROM generate_series(1, 3000) i; \
        INSERT INTO pgfiles(key, meta) VALUES ('odd', '[]'), ('nulls', '{\"mode\": null}')";
    client.batch_execute(table).await.unwrap();
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let mut client = database.connect().await;
        tasks.push(tokio::spawn(async move { schema::init(&mut client).await.map(|report| report.created) }));
    }
    for task in tasks {
        assert!(!task.await.unwrap().unwrap(), "the table was there");
    }
    let sql = "SELECT count(*) FILTER (WHERE meta->>'version' = '1'), count(*) FILTER (WHERE meta->>'version' = '2'), \
        count(*) FILTER (WHERE meta->>'version' IS NULL OR meta->>'etag' IS NULL) FROM pgfiles";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (2002, 1000, 0));
    let invalid = "SELECT count(*) FROM pg_index WHERE indrelid = 'pgfiles'::regclass AND NOT indisvalid";
    assert_eq!(client.query_one(invalid, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_broken_index_is_built_again() {
    let database = Postgres::shared().database().await;
    let mut client = database.connect().await;
    schema::init(&mut client).await.unwrap();
    client.execute("INSERT INTO pgfiles(key) VALUES ('a')", &[]).await.unwrap();
    let broken = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'pgfiles_key_version'::regclass";
    client.batch_execute(broken).await.unwrap();
    schema::init(&mut client).await.unwrap();
    let sql = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'pgfiles_key_version'::regclass";
    assert!(client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn what_it_refuses() {
    let database = Postgres::shared().database().await;
    let mut client = database.connect().await;
    schema::init(&mut client).await.unwrap();
    let newer = "CREATE OR REPLACE FUNCTION pgfiles_schema() RETURNS jsonb LANGUAGE sql IMMUTABLE AS \
        $$ SELECT '{\"version\":9,\"min_reader\":1,\"min_writer\":9}'::jsonb $$";
    client.batch_execute(newer).await.unwrap();
    assert_eq!(schema::init(&mut client).await.unwrap_err().kind(), Kind::Unsupported);
    schema::check(&client, Access::Read).await.unwrap();
    assert_eq!(schema::check(&client, Access::Write).await.unwrap_err().kind(), Kind::Unsupported);

    let latin = format!("latin_{}", uuid::Uuid::new_v4().simple());
    client.batch_execute(&format!("CREATE DATABASE {latin} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")).await.unwrap();
    let mut other = connect(&database.dsn().replace(&format!("dbname={}", database.name()), &format!("dbname={latin}"))).await;
    let error = schema::init(&mut other).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("LATIN1"), "{error}");
    drop(other);
}

#[tokio::test]
async fn it_keeps_to_the_schema_of_the_search_path() {
    let database = Postgres::shared().database().await;
    let mut client = database.connect().await;
    client.batch_execute("CREATE SCHEMA \"own one\"; SET search_path = \"own one\"").await.unwrap();
    assert_eq!(schema::init(&mut client).await.unwrap().schema, "own one");
    client.batch_execute("SET search_path = public").await.unwrap();
    let sql = "SELECT \"own one\".pgfiles_write('a/b', 'hi'), \"own one\".pgfiles_read('a/b')";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 1);
}
