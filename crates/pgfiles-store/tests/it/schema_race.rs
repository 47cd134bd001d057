//! Many writers at once on the schema's functions: numbers stay dense, attributes are not lost, and nothing live becomes
//! unreachable when directories are removed and moved under those who write into them.

use std::collections::BTreeSet;

use pgfiles_store::pg::schema;
use pgfiles_testkit::postgres::{Database, Postgres};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

const WRITERS: u64 = 10;

async fn fresh() -> (Database, Client) {
    let database = Postgres::shared().database().await;
    let mut client = database.connect().await;
    schema::init(&mut client).await.unwrap();
    // Deadlocks are part of the plan (one side is sent again); the second that finding one takes is not.
    let sql = format!("ALTER DATABASE {} SET deadlock_timeout = '20ms'", database.name());
    client.batch_execute(&sql).await.unwrap();
    (database, client)
}

/// Commits one operation; deadlocks and lost races are sent again, as the retry layer does.
async fn commit(client: &Client, op: Value, body: &[u8]) -> Result<Value, String> {
    loop {
        let opts = json!({"by": {"mount": "m"}});
        match crate::schema_model::commit(client, &json!([op]), &[body.to_vec()], &opts).await {
            Ok(answer) => return Ok(answer),
            Err(error) => match error.code().map(|code| code.code()) {
                Some("40P01" | "40001" | "23505") => continue,
                Some(code) if code.starts_with("PF") => return Err(code.to_owned()),
                _ => panic!("{error:?} of {op}"),
            },
        }
    }
}

fn put(key: &str, size: usize) -> Value {
    json!({"op": "put", "id": Uuid::now_v7(), "key": key, "meta": {"kind": "file", "size": size, "etag": "e"}, "defaults": {"mode": "0644"},
        "body": 1, "expect": null, "extends": null, "drops": []})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_writers_of_one_key_number_it_densely() {
    let (database, client) = fresh().await;
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let client = database.connect().await;
        tasks.push(tokio::spawn(async move {
            for round in 0..20 {
                if writer == 0 {
                    // Plain SQL may meet 23505 and is sent again.
                    while client.execute("INSERT INTO pgfiles(key, data) VALUES ('a/hot', 'sql')", &[]).await.is_err() {}
                } else {
                    commit(&client, put("a/hot", 1), &[round]).await.unwrap();
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let sql =
        "SELECT count(*), max((meta->>'version')::bigint), count(DISTINCT meta->>'version') FROM pgfiles WHERE key = 'a/hot'";
    let row = client.query_one(sql, &[]).await.unwrap();
    let found: (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(found, (200, 200, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attribute_set_while_others_write_is_on_the_head() {
    let (database, client) = fresh().await;
    commit(&client, put("f", 1), b"0").await.unwrap();
    let mut tasks = Vec::new();
    for writer in 0..4_u64 {
        let client = database.connect().await;
        tasks.push(tokio::spawn(async move {
            for round in 0..30 {
                let patch = json!({"xattrs": {format!("user.{writer}.{round}"): "eA=="}});
                let op = match writer {
                    0 => put("f", 1),
                    _ => json!({"op": "setattr", "key": "f", "patch": patch, "expect": null, "explicit": null}),
                };
                commit(&client, op, b"1").await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let sql = "SELECT meta FROM pgfiles_stat(ARRAY['f'], 0)";
    let meta: Value = client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(meta["xattrs"].as_object().unwrap().len(), 90, "every attribute reached the head");
    assert_eq!(meta["rev"], json!(90));
}

/// Writers create and delete files in directories that others remove, create and move at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_live_becomes_unreachable_while_directories_come_and_go() {
    let (database, client) = fresh().await;
    let dirs = ["a/", "a/b/", "a/b/c/", "d/", "d/e/"];
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let client = database.connect().await;
        tasks.push(tokio::spawn(async move {
            let mut rng = StdRng::seed_from_u64(writer);
            for round in 0..60 {
                let dir = dirs[rng.random_range(0..dirs.len())];
                let other = dirs[rng.random_range(0..dirs.len())];
                let key = format!("{dir}f{}", rng.random_range(0..3));
                let op = match (writer % 5, rng.random_range(0..4)) {
                    (0, 0) => json!({"op": "renamedir", "id": Uuid::now_v7(), "from": dir, "to": other, "to_absent": false, "young": null}),
                    (0 | 1, _) => json!({"op": "rmdir", "id": Uuid::now_v7(), "dir": dir, "recursive": rng.random_bool(0.5)}),
                    (2, 0) => json!({"op": "put", "id": Uuid::now_v7(), "key": dir, "meta": {"kind": "dir"}, "defaults": {}, "body": null,
                        "expect": {"absent": true}, "extends": null, "drops": []}),
                    (3, 0) => {
                        let insert = "INSERT INTO pgfiles(key, data) VALUES ($1, 'x')";
                        while client.execute(insert, &[&key]).await.is_err() {}
                        continue;
                    }
                    (3, 1) => json!({"op": "rename", "id": Uuid::now_v7(), "history": Uuid::now_v7(), "from": key, "to": format!("{other}g{round}"),
                        "expect_from": null, "expect_to": null, "young": null, "ctime": null}),
                    (_, 1) => json!({"op": "delete", "id": Uuid::now_v7(), "key": key, "expect": null}),
                    _ => put(&key, 1),
                };
                let _ = commit(&client, op, b"1").await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    reachable(&client).await;
    let gaps = "SELECT key FROM pgfiles GROUP BY key HAVING count(*) <> max((meta->>'version')::bigint)";
    assert!(client.query(gaps, &[]).await.unwrap().is_empty(), "numbers are dense");
}

/// Every live key is found by walking from the root.
async fn reachable(client: &Client) {
    let (mut found, mut todo) = (BTreeSet::new(), vec![String::new()]);
    while let Some(dir) = todo.pop() {
        for row in client.query("SELECT name, is_dir FROM pgfiles_dir($1, NULL, 10000, 0)", &[&dir]).await.unwrap() {
            let name: String = row.get(0);
            let inside = format!("{dir}{name}");
            if row.get(1) {
                todo.push(inside + "/");
            } else {
                found.insert(inside);
            }
        }
    }
    let live = "SELECT DISTINCT ON (key) key, meta->>'deleted' IS NULL FROM pgfiles WHERE right(key, 1) <> '/' AND left(key, 1) <> '/' \
                ORDER BY key, (meta->>'version')::bigint DESC";
    let rows = client.query(live, &[]).await.unwrap();
    let live: BTreeSet<String> = rows.iter().filter(|row| row.get(1)).map(|row| row.get(0)).collect();
    assert_eq!(found, live);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_is_published_while_its_lineage_is_purged_is_refused_or_whole() {
    let (database, client) = fresh().await;
    for _ in 0..20 {
        let (lin, chunk) = (Uuid::new_v4(), Uuid::now_v7());
        let key = format!("/a/{}/{}", lin.simple(), chunk.simple());
        let body = json!({"op": "body", "id": chunk, "key": key, "lin": lin, "mount": "m", "sum": "", "body": 1});
        commit(&client, body, b"bytes").await.unwrap();
        let chunked = |key: &str| {
            json!({"op": "put", "id": Uuid::now_v7(), "key": key, "meta": {"kind": "file", "size": 5, "etag": "e", "lin": lin,
                "layout": {"codec": "chunks", "chunk": 4096, "levels": 1, "sum": "sha256"}}, "defaults": {}, "body": 1, "expect": null,
                "extends": null, "drops": []})
        };
        commit(&client, chunked("a/one"), chunk.as_bytes()).await.unwrap();
        let (one, two) = (database.connect().await, database.connect().await);
        let again = chunked("a/two");
        let publish = tokio::spawn(async move { commit(&one, again, chunk.as_bytes()).await });
        let purge = tokio::spawn(async move {
            two.query("SELECT pgfiles_purge('{\"key\":\"a/one\"}', NULL, NULL, false, false)", &[]).await.unwrap();
        });
        purge.await.unwrap();
        match publish.await.unwrap() {
            Err(code) => assert_eq!(code, "PF007"),
            Ok(_) => {
                let read = client.query_one("SELECT pgfiles_read('a/two')", &[]).await.unwrap();
                assert_eq!(read.get::<_, Vec<u8>>(0), b"bytes");
            }
        }
        client.execute("DELETE FROM pgfiles", &[]).await.unwrap();
    }
}
