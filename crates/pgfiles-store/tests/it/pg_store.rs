//! [`PgStore`] on a real server: round trips, large reads and batches, durability, and what becomes of a commit when the
//! server goes away under it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgfiles_store::batch::{Batch, BodyRow, Delete, Durability, Op, Precondition, Put};
use pgfiles_store::error::Kind;
use pgfiles_store::pg::connect::{Connector, Need};
use pgfiles_store::pg::dsn::{Dsn, Environment};
use pgfiles_store::pg::{PgOptions, PgStore, schema};
use pgfiles_store::store::{Entry, Part};
use pgfiles_store::version::Lineage;
use pgfiles_store::{Key, Prefix, Server as _, Store as _, VersionId};
use pgfiles_testkit::postgres::{Database, Options, Postgres};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Makes the schema in a database.
pub async fn initialise(dsn: &str) {
    let dsn = Dsn::parse(dsn, &Environment::default()).unwrap();
    let mut connection = Connector::new(dsn, "test").open(Need::Server).await.unwrap();
    schema::init(&mut connection.client).await.unwrap();
}

/// A store in a database of its own.
async fn store_on(server: &Postgres, options: PgOptions) -> (Database, PgStore) {
    let database = server.database().await;
    initialise(&database.dsn()).await;
    let store = PgStore::connect(&database.dsn_tcp(), options).await.unwrap();
    (database, store)
}

pub fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn id() -> VersionId {
    VersionId(Uuid::now_v7())
}

pub fn put(path: &str, data: &[u8]) -> Op {
    let mut meta = Map::new();
    meta.insert("kind".into(), "file".into());
    meta.insert("size".into(), data.len().into());
    let data = Some(Bytes::copy_from_slice(data));
    Op::Put(Put {
        id: id(),
        key: key(path),
        meta,
        defaults: Map::new(),
        data,
        expect: Precondition::Any,
        extends: None,
        drops: Vec::new(),
        grown: None,
    })
}

pub fn batch(ops: Vec<Op>, durability: Durability) -> Batch {
    let by: Arc<Value> = Arc::new(json!({"mount": "m1"}));
    Batch { ops, durability, by, life: None, again: false }
}

#[tokio::test]
async fn each_method_is_one_round_trip() {
    let (_database, store) = store_on(Postgres::shared(), PgOptions::default()).await;
    let mut before = store.round_trips();
    let mut one = |what: &str| {
        let now = store.round_trips();
        assert_eq!(std::mem::replace(&mut before, now) + 1, now, "{what}");
    };
    let made = store.commit(batch(vec![put("d/a", b"one"), put("d/b", b"two")], Durability::Async)).await.unwrap();
    one("commit");
    let head = made[0].head.clone().unwrap();
    assert_eq!((head.key.as_str(), head.version.0, head.meta.size), ("d/a", 1, 3));
    let found = store.lookup(&[key("d/a"), key("d"), key("x")], 100).await.unwrap();
    one("lookup");
    assert!(matches!(&found[0], Some(Entry::File(head)) if head.data.as_deref() == Some(b"one")));
    assert!(matches!(&found[1], Some(Entry::Dir(_))) && found[2].is_none());
    let page = store.list(&Prefix::new("d").unwrap(), None, 1, 0).await.unwrap();
    one("list");
    assert_eq!(page.entries[0].0, "a");
    let rest = store.list(&Prefix::new("d").unwrap(), page.next.as_ref(), 10, 0).await.unwrap();
    one("list");
    assert_eq!((rest.entries.len(), rest.next), (1, None));
    assert_eq!(store.tree(&Prefix::default(), None, 10).await.unwrap().len(), 2);
    one("tree");
    let part = Part { id: head.id, lineage: None, offset: 1, len: 10 };
    assert_eq!(store.read(&[part, Part { offset: 0, len: 2, ..part }]).await.unwrap(), [Bytes::from("ne"), Bytes::from("on")]);
    one("read");
    assert_eq!(store.versions(&key("d/a"), None, 10).await.unwrap().len(), 1);
    one("versions");
    assert_eq!(store.present(&[head.id, id()]).await.unwrap(), [true, false]);
    one("present");
    store.sync().await.unwrap();
    one("sync");
    store.position().await.unwrap();
    one("position");
    assert_eq!(store.connections_made(), 1);
}

#[tokio::test]
async fn rows_of_another_lineage_are_not_there() {
    let (_database, store) = store_on(Postgres::shared(), PgOptions::default()).await;
    let lineage = Lineage(Uuid::new_v4());
    let body = BodyRow { id: id(), lineage, dir: Prefix::new("d").unwrap(), data: Bytes::from("chunk"), mount: "m1".into() };
    let row = body.id;
    store.commit(batch(vec![Op::Body(body)], Durability::Async)).await.unwrap();
    let part = Part { id: row, lineage: Some(lineage), offset: 0, len: 9 };
    assert_eq!(store.read(&[part]).await.unwrap(), [Bytes::from("chunk")]);
    for other in [Part { lineage: Some(Lineage(Uuid::new_v4())), ..part }, Part { id: id(), ..part }] {
        assert_eq!(store.read(&[part, other]).await.unwrap_err().kind(), Kind::Corrupt);
    }
    let beyond = Part { offset: u64::MAX, ..part };
    assert_eq!(store.read(&[beyond]).await.unwrap(), [Bytes::new()]);
}

#[tokio::test]
async fn long_reads_go_in_pieces() {
    let (_database, store) = store_on(Postgres::shared(), PgOptions::default()).await;
    let data: Vec<u8> = (0..20 << 20).map(|n: u32| (n % 251) as u8).collect();
    store.commit(batch(vec![put("big", &data)], Durability::Async)).await.unwrap();
    let Some(Entry::File(head)) = store.lookup(&[key("big")], 100).await.unwrap().remove(0) else { panic!("no file") };
    assert_eq!(head.data, None, "too long to come along");
    let before = store.round_trips();
    let part = Part { id: head.id, lineage: None, offset: 3, len: 20 << 20 };
    let read = store.read(&[part, Part { offset: 5, len: 7, ..part }]).await.unwrap();
    assert!(read[0] == data[3..] && read[1] == data[5..12]);
    assert_eq!(store.round_trips() - before, 3);
}

#[tokio::test]
async fn an_error_names_its_operation() {
    let (_database, store) = store_on(Postgres::shared(), PgOptions::default()).await;
    let gone = Op::Delete(Delete { id: id(), key: key("gone"), expect: Precondition::Any });
    let error = store.commit(batch(vec![put("a", b"1"), gone], Durability::Async)).await.unwrap_err();
    assert_eq!((error.kind(), error.op(), error.is_outcome_unknown()), (Kind::NotFound, Some(1), false), "{error}");
    assert!(error.to_string().contains("gone"), "{error}");
    assert_eq!(store.lookup(&[key("a")], 0).await.unwrap(), [None], "all or nothing");
    assert_eq!(store.connections_idle(), 1, "the connection is as good as before");
}

#[tokio::test]
async fn asynchronous_commits_do_not_wait_and_synchronous_ones_do() {
    // A log writer that sleeps leaves what nobody waits for unflushed.
    for (off, name) in [(false, "on"), (true, "off")] {
        let conf = vec![("wal_writer_delay".into(), "10s".into()), ("synchronous_commit".into(), name.into())];
        let server = Postgres::start(Options { conf, ..Options::default() });
        let (_database, store) = store_on(&server, PgOptions::default()).await;
        store.sync().await.unwrap();
        store.commit(batch(vec![put("a", b"1")], Durability::Async)).await.unwrap();
        let position = store.position().await.unwrap();
        assert!(position.flushed < position.written, "{position:?}, synchronous_commit={name}");
        store.commit(batch(vec![put("b", b"2")], Durability::Sync)).await.unwrap();
        assert!(store.position().await.unwrap().flushed >= position.written, "off: {off}");
        store.commit(batch(vec![put("c", b"3")], Durability::Async)).await.unwrap();
        let position = store.position().await.unwrap();
        store.sync().await.unwrap();
        assert!(store.position().await.unwrap().flushed >= position.written, "off: {off}");
    }
}

#[tokio::test]
async fn another_life_refuses_the_commit() {
    let server = Postgres::start(Options::default());
    let (_database, store) = store_on(&server, PgOptions::default()).await;
    let life: Arc<str> = store.position().await.unwrap().life.into();
    let with_life = |op| Batch { life: Some(life.clone()), ..batch(vec![op], Durability::Async) };
    store.commit(with_life(put("a", b"1"))).await.unwrap();
    server.stop_fast();
    server.start_again();
    let error = loop {
        match store.commit(with_life(put("b", b"2"))).await {
            Err(error) if error.kind() == Kind::Unavailable => {}
            other => break other.unwrap_err(),
        }
    };
    assert_eq!(error.kind(), Kind::ServerChanged, "{error}");
    assert_eq!(store.lookup(&[key("b")], 0).await.unwrap(), [None]);
}

/// Holds the table so that a commit waits, until the returned session is closed.
async fn hold(database: &Database) -> tokio_postgres::Client {
    let client = database.connect().await;
    client.batch_execute("BEGIN; LOCK TABLE pgfiles IN ACCESS EXCLUSIVE MODE").await.unwrap();
    client
}

async fn waiting(client: &tokio_postgres::Client) -> Vec<i32> {
    let waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let start = std::time::Instant::now();
    loop {
        let pids: Vec<i32> = client.query(waiting, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        if !pids.is_empty() {
            return pids;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "the commit waits");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_connection_lost_in_mid_commit_leaves_the_outcome_unknown() {
    let (database, store) = store_on(Postgres::shared(), PgOptions::default()).await;
    let store = Arc::new(store);
    let holder = hold(&database).await;
    let commit = tokio::spawn({
        let store = store.clone();
        async move { store.commit(batch(vec![put("a", b"1")], Durability::Async)).await }
    });
    for pid in waiting(&holder).await {
        holder.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
    }
    let error = commit.await.unwrap().unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.is_outcome_unknown(), "{error}");
    drop(holder);
    store.commit(batch(vec![put("a", b"1")], Durability::Async)).await.unwrap();
}

#[tokio::test]
async fn a_server_killed_in_mid_commit_leaves_the_outcome_unknown() {
    let server = Postgres::start(Options::default());
    for stop in [Postgres::kill_all, Postgres::stop_fast] {
        let (database, store) = store_on(&server, PgOptions::default()).await;
        let store = Arc::new(store);
        let holder = hold(&database).await;
        let commit = tokio::spawn({
            let store = store.clone();
            async move { store.commit(batch(vec![put("a", b"1")], Durability::Async)).await }
        });
        waiting(&holder).await;
        stop(&server);
        let error = commit.await.unwrap().unwrap_err();
        assert!(error.kind() == Kind::Unavailable && error.is_outcome_unknown(), "{error}");
        let error = store.commit(batch(vec![put("a", b"1")], Durability::Async)).await.unwrap_err();
        assert!(error.kind() == Kind::Unavailable && error.to_string().contains("is it running?"), "{error}");
        assert!(!error.is_outcome_unknown(), "nothing was sent: {error}");
        server.start_again();
        store.commit(batch(vec![put("a", b"1")], Durability::Async)).await.unwrap();
    }
}

#[tokio::test]
async fn a_frozen_server_does_not_hold_the_caller() {
    let server = Postgres::start(Options::default());
    let options = PgOptions { request_timeout: Duration::from_millis(400), ..PgOptions::default() };
    let (_database, store) = store_on(&server, options).await;
    server.pause();
    let error = store.commit(batch(vec![put("a", b"1")], Durability::Async)).await.unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.is_outcome_unknown(), "{error}");
    server.resume();
    let found = loop {
        match store.lookup(&[key("a")], 0).await {
            Ok(found) => break found,
            Err(error) => assert_eq!(error.kind(), Kind::Unavailable, "{error}"),
        }
    };
    assert!(found.len() == 1, "applied or not, but whole");
}

#[tokio::test]
async fn what_a_role_may_not_do() {
    let (database, _store) = store_on(Postgres::shared(), PgOptions::default()).await;
    let role = format!("reader_{}", database.name());
    let client = database.connect().await;
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON pgfiles TO {role}")).await.unwrap();
    let store = PgStore::connect(&database.dsn().replace("user=postgres", &format!("user={role}")), PgOptions::default()).await;
    let store = store.unwrap();
    store.lookup(&[key("a")], 0).await.unwrap();
    let error = store.commit(batch(vec![put("a", b"1")], Durability::Async)).await.unwrap_err();
    assert!(
        error.kind() == Kind::Forbidden && error.to_string().contains(&role) && error.to_string().contains("GRANT"),
        "{error}"
    );
    let read_only = format!("{} options='-c default_transaction_read_only=on'", database.dsn());
    let store = PgStore::connect(&read_only, PgOptions::default()).await.unwrap();
    let error = store.commit(batch(vec![put("a", b"1")], Durability::Async)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ReadOnly, "{error}");
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn a_standby_reads_and_its_promotion_is_another_cluster() {
    let server = Arc::new(Postgres::start(Options::default()));
    let (database, store) = store_on(&server, PgOptions::default()).await;
    store.commit(batch(vec![put("a", b"1")], Durability::Sync)).await.unwrap();
    let before = store.position().await.unwrap();
    server.stop_fast();
    std::fs::write(server.data().join("standby.signal"), "").unwrap();
    // Returns when the server is a primary again.
    let starting = tokio::task::spawn_blocking({
        let server = server.clone();
        move || server.start_again()
    });
    let start = std::time::Instant::now();
    let standby = loop {
        match PgStore::connect(&format!("{} target_session_attrs=standby", database.dsn()), PgOptions::default()).await {
            Ok(store) => break store,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(20), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(standby.hello().await.unwrap().in_recovery);
    assert!(standby.lookup(&[key("a")], 10).await.unwrap()[0].is_some());
    assert!(standby.position().await.unwrap().cluster.len() > 10);
    for error in
        [standby.commit(batch(vec![put("b", b"1")], Durability::Async)).await.unwrap_err(), standby.sync().await.unwrap_err()]
    {
        assert!(error.kind() == Kind::ReadOnly && error.to_string().contains("standby"), "{error}");
    }
    let client = database.connect().await;
    client.batch_execute("SELECT pg_promote()").await.unwrap();
    starting.await.unwrap();
    let after = loop {
        match store.position().await {
            Ok(position) => break position,
            Err(error) => assert_eq!(error.kind(), Kind::Unavailable, "{error}"),
        }
    };
    assert_ne!(after.cluster, before.cluster, "another timeline");
    store.commit(batch(vec![put("b", b"1")], Durability::Async)).await.unwrap();
}

/// More than one request carries: three files of 30 MiB.
#[tokio::test]
async fn a_batch_of_several_requests_is_one_transaction() {
    let (database, store) = store_on(Postgres::shared(), PgOptions::default()).await;
    let body = vec![7; 30 << 20];
    let ops = || ["a", "b", "c"].map(|path| put(path, &body)).to_vec();
    let mut refused = ops();
    let Some(Op::Put(last)) = refused.last_mut() else { panic!() };
    last.expect = Precondition::Version(pgfiles_store::VersionNo(9));
    let error = store.commit(batch(refused, Durability::Async)).await.unwrap_err();
    assert_eq!((error.kind(), error.op()), (Kind::Conflict, Some(2)));
    let client = database.connect().await;
    let count = async || client.query_one("SELECT count(*) FROM pgfiles", &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(count().await, 0);
    let all = batch(ops(), Durability::Sync);
    assert_eq!(store.commit(all.clone()).await.unwrap().len(), 3);
    assert_eq!(count().await, 3);
    // Sent again, it is recognised.
    let again = store.commit(Batch { again: true, ..all }).await.unwrap();
    assert_eq!(again[2].head.as_ref().unwrap().version.0, 1);
    assert_eq!(count().await, 3);
    let locks = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()";
    assert_eq!(client.query_one(locks, &[]).await.unwrap().get::<_, i64>(0), 0);
}
