//! The functions for an operation that is alone in its batch: what each of them must not skip. That they do what
//! `pgfiles_commit` does is for the model and the races, which commit through them.

use pgfiles_store::pg::schema;
use pgfiles_testkit::postgres::{Database, Postgres};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::schema_model::commit;

/// A database with a live directory `d/`, in it files `a` and `b`.
async fn fresh() -> (Database, Client) {
    let database = Postgres::shared().database().await;
    let mut client = database.connect().await;
    schema::init(&mut client).await.unwrap();
    client.batch_execute("SELECT pgfiles_write(key, 'x') FROM unnest('{d/,d/a,d/b}'::text[]) key").await.unwrap();
    (database, client)
}

/// One of each kind, none in the way of another.
fn each() -> [Value; 4] {
    let meta = json!({"kind": "file", "ino": "5", "size": 1});
    [
        json!({"op": "put", "id": Uuid::now_v7(), "key": "d/new", "meta": meta, "defaults": {}, "body": 1, "expect": {"absent": true},
            "extends": null, "drops": []}),
        json!({"op": "setattr", "key": "d/a", "patch": {"mode": "0600"}, "expect": null, "explicit": null}),
        json!({"op": "rename", "id": Uuid::now_v7(), "history": Uuid::now_v7(), "from": "d/a", "to": "d/c", "expect_from": null,
            "expect_to": null, "young": null, "ctime": null}),
        json!({"op": "delete", "id": Uuid::now_v7(), "key": "d/b", "expect": null}),
    ]
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn each_is_as_durable_as_asked_and_locks_its_directory() {
    let (_database, client) = fresh().await;
    for sync in [false, true] {
        for op in each() {
            client.batch_execute("BEGIN; SET LOCAL synchronous_commit = on").await.unwrap();
            let opts = json!({"by": {}, "sync": sync});
            commit(&client, &json!([op]), &[b"x".to_vec()], &opts).await.unwrap_or_else(|error| panic!("{error:?} of {op}"));
            let durable: String = client.query_one("SHOW synchronous_commit", &[]).await.unwrap().get(0);
            assert_eq!(durable, if sync { "on" } else { "off" }, "{op}");
            let locks = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND mode = 'ShareLock' \
                         AND classid = 7101 AND objid = (hashtext('d/') & 1023)::oid";
            assert_eq!(number(&client, locks).await, 1, "{op}");
            client.batch_execute("ROLLBACK").await.unwrap();
        }
    }
}

#[tokio::test]
async fn none_goes_to_a_server_that_was_restarted() {
    let (_database, client) = fresh().await;
    let before = number(&client, "SELECT count(*) FROM pgfiles").await;
    for op in each() {
        let opts = json!({"by": {}, "life": "1"});
        let error = commit(&client, &json!([op]), &[b"x".to_vec()], &opts).await.expect_err("another life");
        assert_eq!(error.code().unwrap().code(), "PF005", "{op}");
    }
    assert_eq!(number(&client, "SELECT count(*) FROM pgfiles").await, before);
}

#[tokio::test]
async fn each_minds_what_is_expected() {
    let (_database, client) = fresh().await;
    for mut op in each() {
        let field = if op["op"] == "rename" { "expect_from" } else { "expect" };
        op[field] = json!({"version": 7});
        let error = commit(&client, &json!([op]), &[b"x".to_vec()], &json!({"by": {}})).await.expect_err("another version");
        assert_eq!(error.code().unwrap().code(), "PF002", "{op}");
    }
}

#[tokio::test]
async fn each_makes_the_rows_that_pgfiles_commit_makes() {
    const ROWS: &str = "SELECT coalesce(jsonb_agg(jsonb_build_array(p.id, p.key, p.meta - '{xid,created_at}'::text[], p.data) \
                        ORDER BY p.key, p.meta->'version'), '[]') FROM pgfiles p WHERE p.key <> 'd/'";
    let (_database, client) = fresh().await;
    let opts = json!({"by": {"mount": "m"}});
    for op in each() {
        let mut made = Vec::new();
        for again in [json!(false), json!(true)] {
            // What is sent again and was not applied goes to pgfiles_commit.
            let mut opts = opts.clone();
            opts["again"] = again;
            client.batch_execute("BEGIN").await.unwrap();
            commit(&client, &json!([op]), &[b"x".to_vec()], &opts).await.unwrap();
            made.push(client.query_one(ROWS, &[]).await.unwrap().get::<_, Value>(0));
            client.batch_execute("ROLLBACK").await.unwrap();
        }
        assert_eq!(made[0], made[1], "{op}");
    }
}
