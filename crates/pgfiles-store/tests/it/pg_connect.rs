//! How a server is reached, what is refused and in which words, and how the pool behaves. With a schema of stubs where
//! one is needed at all.

use std::time::Duration;

use pgfiles_store::batch::{Batch, Delete, Op, Precondition};
use pgfiles_store::error::Kind;
use pgfiles_store::pg::connect::{Connector, Need};
use pgfiles_store::pg::dsn::{Dsn, Environment};
use pgfiles_store::pg::{PgOptions, PgStore, schema};
use pgfiles_store::{Key, Server as _, Store as _, StoreError, VersionId};
use pgfiles_testkit::postgres::{Database, Options, Postgres};

/// Enough for a connection; `pgfiles_stat` sleeps as many seconds as its second parameter says.
const STUB: &str = "CREATE TABLE pgfiles (id uuid PRIMARY KEY, key text, meta jsonb, data bytea); \
    CREATE FUNCTION pgfiles_schema() RETURNS jsonb LANGUAGE sql AS $$ SELECT '{\"version\":1,\"min_reader\":1,\"min_writer\":1}'::jsonb $$; \
    CREATE FUNCTION pgfiles_stat(text[], int) RETURNS TABLE(ord int, is_dir bool, id uuid, key text, meta jsonb, data bytea, mtime text) \
    LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep($2); END $$";

async fn stubbed() -> Database {
    let database = Postgres::shared().database().await;
    database.connect().await.batch_execute(STUB).await.unwrap();
    database
}

fn parse(text: &str) -> Dsn {
    Dsn::parse(text, &Environment::default()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

async fn refusal(text: &str) -> StoreError {
    Connector::new(parse(text), "test").open(Need::Schema).await.unwrap_err()
}

async fn refused(text: &str, kind: Kind, words: &[&str]) {
    let error = refusal(text).await;
    let said = error.to_string();
    assert_eq!(error.kind(), kind, "{said}");
    for word in words {
        assert!(said.contains(word), "{said:?} lacks {word:?}");
    }
}

/// Waits until a condition holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let database = Postgres::shared().database().await;
    refused(&database.dsn(), Kind::NotInitialised, &["no pgfiles table", database.name(), "pgfiles init"]).await;
    database.connect().await.batch_execute("CREATE TABLE pgfiles ()").await.unwrap();
    refused(&database.dsn(), Kind::NotInitialised, &["lacks its functions", "pgfiles init"]).await;
    let other = database.dsn().replace(database.name(), "nowhere");
    refused(&other, Kind::NotInitialised, &["no database nowhere", "CREATE DATABASE"]).await;
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    refused("postgres://me@127.0.0.1:1/app", Kind::Unavailable, &["cannot reach Postgres at 127.0.0.1:1", "is it running?"])
        .await;
    refused("host=/nonexistent user=me", Kind::Unavailable, &["/nonexistent/.s.PGSQL.5432", "is it running?"]).await;
    refused("postgres://me@no-such-host.invalid/app", Kind::Unavailable, &["no-such-host.invalid:5432"]).await;
    let mixed = format!("host=127.0.0.1,127.0.0.1 port=1,{} user=postgres dbname=nowhere", Postgres::shared().port());
    refused(&mixed, Kind::Unavailable, &["is it running?", "no database nowhere"]).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let text = format!("host=127.0.0.1 port={port} user=me connect_timeout=1");
    refused(&text, Kind::Unavailable, &["no answer within 1 s"]).await;
}

#[tokio::test]
async fn several_servers_are_tried_in_order() {
    let database = stubbed().await;
    let port = Postgres::shared().port();
    let text = |more: &str| format!("host=127.0.0.1,127.0.0.1 port=1,{port} user=postgres dbname={} {more}", database.name());
    for target in ["any", "read-write", "primary", "prefer-standby"] {
        let dsn = parse(&text(&format!("target_session_attrs={target}")));
        Connector::new(dsn, "test").open(Need::Schema).await.unwrap_or_else(|e| panic!("{target}: {e}"));
    }
    for target in ["read-only", "standby"] {
        let text = text(&format!("target_session_attrs={target}"));
        refused(&text, Kind::Unavailable, &["127.0.0.1:1", &port.to_string(), target]).await;
    }
    let read_only = text("target_session_attrs=read-only options='-c default_transaction_read_only=on'");
    Connector::new(parse(&read_only), "test").open(Need::Schema).await.unwrap();
}

#[tokio::test]
async fn passwords() {
    let hba = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    let server = Postgres::start(Options { hba: Some(hba.into()), ..Options::default() });
    server.connect("postgres").await.batch_execute("CREATE ROLE app LOGIN PASSWORD 'pa:ss word'").await.unwrap();
    let text = format!("host=127.0.0.1 port={} user=app dbname=postgres", server.port());
    let open = async |text: &str, env: &Environment| {
        Connector::new(Dsn::parse(text, env).unwrap(), "test").open(Need::Server).await.map(drop)
    };
    let none = Environment::default();
    refused(&text, Kind::Unauthorized, &["password needed for user app", "PGPASSWORD", "~/.pgpass"]).await;
    refused(&format!("{text} password=wrong"), Kind::Unauthorized, &["refused the password of role app"]).await;
    open(&format!("{text} password='pa:ss word'"), &none).await.unwrap();
    let set = Environment { password: Some("pa:ss word".into()), ..Environment::default() };
    open(&text, &set).await.unwrap();

    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    std::fs::write(&file, format!("127.0.0.1:{}:*:app:pa\\:ss word\n", server.port())).unwrap();
    let env = Environment { home: Some(home.path().into()), ..Environment::default() };
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let error = open(&text, &env).await.unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    open(&text, &env).await.unwrap();
    let error = refusal(&format!("{text} password=geheimnis")).await;
    assert!(!format!("{error} {error:?}").contains("geheimnis"));
}

#[tokio::test]
async fn servers_that_cannot_carry_pgfiles() {
    let database = stubbed().await;
    let client = database.connect().await;
    client.batch_execute("CREATE SCHEMA fake").await.unwrap();
    let text = format!("{} options='-c search_path=fake,pg_catalog,public'", database.dsn());
    for (banner, name) in [
        ("CockroachDB CCL v24.1.0 (x86_64-pc-linux-gnu)", "CockroachDB"),
        ("PostgreSQL 15.12-YB-2025.2.0.0-b0 on x86_64-pc-linux-gnu", "YugabyteDB"),
    ] {
        let fake = format!("CREATE OR REPLACE FUNCTION fake.version() RETURNS text LANGUAGE sql AS $$ SELECT '{banner}' $$");
        client.batch_execute(&fake).await.unwrap();
        refused(&text, Kind::Unsupported, &[name, "Postgres 14"]).await;
        let (mut alone, connection) = tokio_postgres::connect(&text, tokio_postgres::NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        let error = pgfiles_store::pg::schema::init(&mut alone).await.unwrap_err();
        assert!(error.kind() == Kind::Unsupported && error.to_string().contains(name), "{error}");
        driver.abort();
    }
    client.batch_execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'").await.unwrap();
    let text = database.dsn().replace(database.name(), "latin");
    refused(&text, Kind::Unsupported, &["LATIN1", "UTF8"]).await;
}

fn deletion() -> Batch {
    let delete = Delete { id: VersionId(uuid::Uuid::nil()), key: Key::new("a").unwrap(), expect: Precondition::Any };
    Batch::one(Op::Delete(delete), &std::sync::Arc::new(serde_json::json!({})))
}

#[tokio::test]
async fn schemas_of_the_future() {
    let database = stubbed().await;
    let client = database.connect().await;
    let next = schema::VERSION + 1;
    let future = |reader: u64, writer: u64| {
        format!(
            "CREATE OR REPLACE FUNCTION pgfiles_schema() RETURNS jsonb LANGUAGE sql AS \
             $$ SELECT '{{\"version\":9,\"min_reader\":{reader},\"min_writer\":{writer}}}'::jsonb $$"
        )
    };
    client.batch_execute(&future(next, next)).await.unwrap();
    refused(&database.dsn(), Kind::Unsupported, &["newer pgfiles", "upgrade"]).await;
    client.batch_execute(&future(1, next)).await.unwrap();
    let store = PgStore::connect(&database.dsn(), PgOptions::default()).await.unwrap();
    store.lookup(&[Key::new("a").unwrap()], 0).await.unwrap();
    let error = store.commit(deletion()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let database = stubbed().await;
    let options =
        PgOptions { idle_timeout: Duration::from_millis(100), application_name: "pgfiles/7".into(), ..PgOptions::default() };
    let store = PgStore::connect(&database.dsn(), options).await.unwrap();
    let client = database.connect().await;
    let mine = async || {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgfiles/7' AND datname = current_database()";
        client.query_one(count, &[]).await.unwrap().get::<_, i64>(0)
    };
    assert_eq!(mine().await, 1);
    until("an idle connection is closed", async || mine().await == 0).await;
    assert_eq!(store.connections_idle(), 0);
    store.lookup(&[Key::new("a").unwrap()], 0).await.unwrap();
    assert_eq!(store.connections_made(), 2);
}

#[tokio::test]
async fn requests_share_no_more_than_pool_size_connections() {
    let database = stubbed().await;
    let store = PgStore::lazy(parse(&database.dsn()), PgOptions { pool_size: 3, ..PgOptions::default() });
    assert_eq!(store.connections_made(), 0, "lazy");
    let path = [Key::new("a").unwrap()];
    let all = (0..40).map(|_| store.lookup(&path, 0));
    for result in futures_util::future::join_all(all).await {
        assert_eq!(result.unwrap(), [None]);
    }
    assert_eq!((store.connections_made(), store.round_trips()), (3, 40));
}

/// A turn that comes late is no outage as long as others are served: whoever waits is next after those before him.
#[tokio::test]
async fn a_busy_pool_is_waited_for_while_it_answers() {
    let database = stubbed().await;
    let slow = "CREATE OR REPLACE FUNCTION pgfiles_stat(text[], int) \
        RETURNS TABLE(ord int, is_dir bool, id uuid, key text, meta jsonb, data bytea, mtime text) \
        LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); END $$";
    database.connect().await.batch_execute(slow).await.unwrap();
    let options = PgOptions { pool_size: 1, request_timeout: Duration::from_millis(600), ..PgOptions::default() };
    let store = PgStore::connect(&database.dsn(), options).await.unwrap();
    let path = [Key::new("a").unwrap()];
    for result in futures_util::future::join_all((0..20).map(|_| store.lookup(&path, 0))).await {
        assert_eq!(result.unwrap(), [None]);
    }
    assert_eq!(store.connections_made(), 1);
}

/// How many backends of this database sleep.
async fn sleepers(client: &tokio_postgres::Client) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    client.query_one(count, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_request_has_a_bound() {
    let database = stubbed().await;
    let options = PgOptions { request_timeout: Duration::from_millis(300), ..PgOptions::default() };
    let store = PgStore::connect(&database.dsn(), options).await.unwrap();
    let error = store.lookup(&[Key::new("a").unwrap()], 1000).await.unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.is_outcome_unknown(), "{error}");
    assert!(error.to_string().contains("no answer"), "{error}");
    assert_eq!(store.connections_idle(), 0, "the connection is thrown away");
    let client = database.connect().await;
    until("the server is told", async || sleepers(&client).await == 0).await;
    store.lookup(&[Key::new("a").unwrap()], 0).await.unwrap();
}

#[tokio::test]
async fn a_dropped_request_takes_its_connection_along() {
    let database = stubbed().await;
    let store = PgStore::connect(&database.dsn(), PgOptions { pool_size: 1, ..PgOptions::default() }).await.unwrap();
    let client = database.connect().await;
    let path = [Key::new("a").unwrap()];
    tokio::select! {
        _ = store.lookup(&path, 1000) => panic!("it sleeps"),
        () = until("it runs", async || sleepers(&client).await == 1) => {}
    }
    store.lookup(&path, 0).await.unwrap();
    assert_eq!(store.connections_made(), 2);
    until("the server is told", async || sleepers(&client).await == 0).await;
}

#[tokio::test]
async fn too_many_connections_are_worth_another_try() {
    let server = Postgres::start(Options { max_connections: 5, ..Options::default() });
    let database = server.database().await;
    let client = database.connect().await;
    client.batch_execute(STUB).await.unwrap();
    client.batch_execute("CREATE ROLE app LOGIN CONNECTION LIMIT 1; GRANT ALL ON pgfiles TO app").await.unwrap();
    let text = database.dsn().replace("user=postgres", "user=app");
    let first = PgStore::connect(&text, PgOptions::default()).await.unwrap();
    let error = PgStore::connect(&text, PgOptions::default()).await.unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.is_retryable() && !error.is_outcome_unknown(), "{error}");
    assert!(error.to_string().contains("no connection left for role app"), "{error}");
    drop(first);
    until("the place is free", async || PgStore::connect(&text, PgOptions::default()).await.is_ok()).await;
}

#[tokio::test]
async fn positions() {
    let server = Postgres::start(Options::default());
    let database = server.database().await;
    let client = database.connect().await;
    client.batch_execute(STUB).await.unwrap();
    client.batch_execute("CREATE ROLE app LOGIN; GRANT ALL ON pgfiles TO app").await.unwrap();
    let store = PgStore::connect(&database.dsn().replace("user=postgres", "user=app"), PgOptions::default()).await.unwrap();
    let first = store.position().await.unwrap();
    assert!(first.written >= first.flushed && first.flushed > 0, "{first:?}");
    assert!(first.cluster.len() > 10 && first.life.contains('/'), "{first:?}");
    client.batch_execute("SET synchronous_commit = off; INSERT INTO pgfiles SELECT gen_random_uuid(), 'x'").await.unwrap();
    let between = store.position().await.unwrap();
    assert_eq!((&between.life, &between.cluster), (&first.life, &first.cluster));
    assert!(between.written > first.written);
    store.sync().await.unwrap();
    assert!(store.position().await.unwrap().flushed >= between.written, "sync flushes what was committed before");
    server.kill_all();
    let error = store.position().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    server.start_again();
    let after = store.position().await.unwrap();
    assert_eq!(after.cluster, first.cluster);
    assert_ne!(after.life, first.life, "another life");
}

#[tokio::test]
async fn a_crash_of_one_backend_is_another_life() {
    let server = Postgres::start(Options::default());
    let database = server.database().await;
    let client = database.connect().await;
    client.batch_execute(STUB).await.unwrap();
    let store = PgStore::connect(&database.dsn(), PgOptions::default()).await.unwrap();
    let first = store.position().await.unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let mut after = first.clone();
    until("the server restarts itself", async || match store.position().await {
        Ok(position) => {
            after = position;
            after.life != first.life
        }
        Err(_) => false,
    })
    .await;
    assert_eq!(after.cluster, first.cluster);
}
