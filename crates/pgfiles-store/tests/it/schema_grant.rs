//! Grants: a fenced role sees and writes its prefix, changes attributes of heads there, and nothing else; others are not
//! disturbed; nothing that it can forge leads out.

use pgfiles_store::pg::schema;
use pgfiles_testkit::postgres::{Database, Postgres};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

/// A database with a fenced role of its own name (roles are shared by all databases of a server), and an open one.
struct Fenced {
    database: Database,
    owner: Client,
    agent: Client,
    role: String,
}

async fn fenced() -> Fenced {
    let database = Postgres::shared().database().await;
    let mut owner = database.connect().await;
    schema::init(&mut owner).await.unwrap();
    let role = format!("agent_{}", Uuid::new_v4().simple());
    let sql = format!("CREATE ROLE {role} LOGIN; SELECT pgfiles_grant('{role}', 'agents/7')");
    owner.batch_execute(&sql).await.unwrap();
    let dsn = database.dsn().replace("user=postgres", &format!("user={role}"));
    let (agent, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    Fenced { database, owner, agent, role }
}

async fn commit(client: &Client, op: Value, body: &[u8]) -> Result<Value, String> {
    let opts = json!({"by": {"mount": "m"}});
    crate::schema_model::commit(client, &json!([op]), &[body.to_vec()], &opts)
        .await
        .map_err(|error| error.code().map_or(error.to_string(), |code| code.code().to_owned()))
}

fn put(key: &str, size: usize, meta: Value) -> Value {
    let mut all = json!({"kind": "file", "size": size, "etag": "e"});
    all.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
    json!({"op": "put", "id": Uuid::now_v7(), "key": key, "meta": all, "defaults": {}, "body": 1, "expect": null, "extends": null, "drops": []})
}

async fn text(client: &Client, sql: &str) -> Option<String> {
    let row = client.query_one(sql, &[]).await.unwrap();
    row.get(0)
}

async fn code(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    error.code().map_or(error.to_string(), |code| code.code().to_owned())
}

#[tokio::test]
async fn it_works_in_its_prefix_and_sees_no_other() {
    let Fenced { database: _database, owner, agent, .. } = fenced().await;
    owner.batch_execute("INSERT INTO pgfiles(key, data) VALUES ('agents/8/secret', 's'), ('agents/7/given', 'g')").await.unwrap();
    commit(&agent, put("agents/7/d/x", 3, json!({})), b"abc").await.unwrap();
    agent.batch_execute("INSERT INTO pgfiles(key, data) VALUES ('agents/7/sql', 'q')").await.unwrap();
    assert_eq!(
        text(&agent, "SELECT string_agg(key, ',' ORDER BY key) FROM pgfiles_tree('', NULL, 10)").await.unwrap(),
        "agents/7/d/x,agents/7/given,agents/7/sql"
    );
    assert_eq!(text(&agent, "SELECT convert_from(pgfiles_read('agents/8/secret'), 'UTF8')").await, None);
    assert_eq!(text(&agent, "SELECT convert_from(pgfiles_read('agents/7/given'), 'UTF8')").await.unwrap(), "g");
    assert_eq!(text(&agent, "SELECT count(*)::text FROM pgfiles").await.unwrap(), "3");
    if Postgres::shared().major() >= 15 {
        assert_eq!(text(&agent, "SELECT count(*)::text FROM pgfiles_live").await.unwrap(), "3");
    }
    for key in ["agents/8/mine", "agents/70", "agents/7", "other"] {
        assert_eq!(commit(&agent, put(key, 0, json!({})), b"").await.unwrap_err(), "42501", "{key}");
        assert_eq!(code(&agent, &format!("INSERT INTO pgfiles(key) VALUES ('{key}')")).await, "42501", "{key}");
    }
}

#[tokio::test]
async fn every_operation_works_for_it() {
    let Fenced { database: _database, owner, agent, .. } = fenced().await;
    let big = vec![b'x'; 5000];
    let made = commit(&agent, put("agents/7/d/x", 5000, json!({})), &big).await.unwrap();
    let mut more = put("agents/7/d/x", 2, json!({}));
    more["extends"] = made[0]["id"].clone();
    let made = commit(&agent, more, b"yy").await.unwrap();
    assert_eq!(made[0]["meta"]["version"], json!(2), "a version in progress is followed by another, not replaced");
    let patch = json!({"op": "setattr", "key": "agents/7/d/x", "patch": {"mode": "0600", "tags": {"a": "b"}}, "expect": null, "explicit": null});
    assert_eq!(commit(&agent, patch, b"").await.unwrap()[0]["meta"]["mode"], json!("0600"));
    let rename = json!({"op": "rename", "id": Uuid::now_v7(), "history": Uuid::now_v7(), "from": "agents/7/d/x", "to": "agents/7/d/y",
        "expect_from": null, "expect_to": null, "young": {"mount": "m", "seconds": 60}, "ctime": null});
    for _ in 0..2 {
        assert_eq!(commit(&agent, rename.clone(), b"").await.unwrap()[0]["key"], json!("agents/7/d/y"));
    }
    let rename_dir = json!({"op": "renamedir", "id": Uuid::now_v7(), "from": "agents/7/d/", "to": "agents/7/e/", "to_absent": true, "young": null});
    assert_eq!(commit(&agent, rename_dir, b"").await.unwrap()[0]["files"], json!(1));
    let restore = json!({"op": "restore", "id": Uuid::now_v7(), "key": "agents/7/d/x", "version": 1, "expect": null});
    commit(&agent, restore, b"").await.unwrap();
    let copy = json!({"op": "copy", "id": Uuid::now_v7(), "from": "agents/7/e/y", "version": null, "to": "agents/7/z", "expect": null, "meta": {}});
    commit(&agent, copy, b"").await.unwrap();
    commit(&agent, json!({"op": "delete", "id": Uuid::now_v7(), "key": "agents/7/z", "expect": null}), b"").await.unwrap();
    commit(&agent, json!({"op": "rmdir", "id": Uuid::now_v7(), "dir": "agents/7/e/", "recursive": true}), b"").await.unwrap();
    assert_eq!(text(&agent, "SELECT length(pgfiles_read('agents/7/d/x'))::text").await.unwrap(), "5000");
    assert_eq!(text(&owner, "SELECT length(pgfiles_read('agents/7/e/y', 1))::text").await.unwrap(), "2");
    for what in ["beat", "listen", "sweep", "leave", "deaf"] {
        agent.query_one("SELECT pgfiles_maintain('agents/7/', 'm', $1)", &[&what]).await.unwrap();
    }
}

#[tokio::test]
async fn it_changes_nothing_but_attributes_of_heads() {
    let Fenced { database: _database, agent, .. } = fenced().await;
    agent.batch_execute("INSERT INTO pgfiles(key, data) VALUES ('agents/7/x', 'one')").await.unwrap();
    agent.batch_execute("INSERT INTO pgfiles(key, data) VALUES ('agents/7/x', 'two')").await.unwrap();
    for sql in [
        "UPDATE pgfiles SET data = 'forged' WHERE key = 'agents/7/x'",
        "UPDATE pgfiles SET key = 'agents/7/y' WHERE key = 'agents/7/x'",
        "UPDATE pgfiles SET meta = meta || '{\"by\":{\"role\":\"other\"}}' WHERE key = 'agents/7/x'",
        "UPDATE pgfiles SET meta = meta || '{\"size\":1}' WHERE key = 'agents/7/x'",
        "UPDATE pgfiles SET meta = meta || '{\"deleted\":true}' WHERE key = 'agents/7/x'",
        "UPDATE pgfiles SET meta = meta || '{\"mode\":\"0600\"}' WHERE key = 'agents/7/x' AND meta->>'version' = '1'",
        "DELETE FROM pgfiles WHERE key = 'agents/7/x'",
        "TRUNCATE pgfiles",
        "SELECT pgfiles_purge('{\"key\":\"agents/7/x\"}', NULL, NULL, false, false)",
        "SELECT pgfiles_hand_over(gen_random_uuid(), '', '')",
        "SELECT pgfiles_release('{}', '{}', '{}')",
        "SELECT pgfiles_grant('postgres', 'x')",
        "DROP POLICY pgfiles_open ON pgfiles",
        "ALTER TABLE pgfiles DISABLE ROW LEVEL SECURITY",
    ] {
        let code = code(&agent, sql).await;
        assert!(matches!(code.as_str(), "42501" | "PF004"), "{code} for {sql}");
    }
    agent
        .batch_execute(
            "UPDATE pgfiles SET meta = meta || '{\"mode\":\"0600\"}' WHERE key = 'agents/7/x' AND meta->>'version' = '2'",
        )
        .await
        .unwrap();
    assert_eq!(text(&agent, "SELECT convert_from(pgfiles_read('agents/7/x', 1), 'UTF8')").await.unwrap(), "one");
}

#[tokio::test]
async fn a_forged_reference_leads_nowhere() {
    let Fenced { database: _database, owner, agent, .. } = fenced().await;
    // A secret with references and a lineage, outside.
    let big = vec![b's'; 9000];
    commit(&owner, put("agents/8/secret", 9000, json!({})), &big).await.unwrap();
    let rename = json!({"op": "rename", "id": Uuid::now_v7(), "history": Uuid::now_v7(), "from": "agents/8/secret", "to": "agents/8/moved",
        "expect_from": null, "expect_to": null, "young": null, "ctime": null});
    commit(&owner, rename, b"").await.unwrap();
    let row = owner.query_one("SELECT id, meta->>'lin' FROM pgfiles_stat(ARRAY['agents/8/moved'], 0)", &[]).await.unwrap();
    let (id, lin): (Uuid, String) = (row.get(0), row.get(1));
    // Even one who knows the id and the lineage reads nothing through row security.
    let forged = json!({"version": 1, "kind": "file", "size": 9000, "lin": lin, "body": id});
    agent.execute("INSERT INTO pgfiles(key, meta) VALUES ('agents/7/forged', $1)", &[&forged]).await.unwrap();
    assert!(agent.query_one("SELECT pgfiles_read('agents/7/forged')", &[]).await.is_err());
    let copy = json!({"op": "copy", "id": Uuid::now_v7(), "from": "agents/7/forged", "version": null, "to": "agents/7/z", "expect": null, "meta": {}});
    assert_eq!(commit(&agent, copy, b"").await.unwrap_err(), "PF004");
    // One without the lineage is no referrer for the owner either: nothing is handed over to it.
    let forged = json!({"version": 1, "kind": "file", "size": 9000, "lin": Uuid::new_v4(), "body": id});
    agent.execute("INSERT INTO pgfiles(key, meta) VALUES ('agents/7/blind', $1)", &[&forged]).await.unwrap();
    assert!(owner.query_one("SELECT pgfiles_read('agents/7/blind')", &[]).await.is_err());
    owner.execute("DELETE FROM pgfiles WHERE key = 'agents/8/moved'", &[]).await.unwrap();
    assert_eq!(text(&owner, "SELECT length(pgfiles_read('agents/8/secret', 1))::text").await.unwrap(), "9000");
    assert!(owner.query_one("SELECT pgfiles_read('agents/7/blind')", &[]).await.is_err());
}

#[tokio::test]
async fn bodies_are_copied_across_the_edge_of_a_grant() {
    let Fenced { database: _database, owner, agent, .. } = fenced().await;
    let (lin, chunk) = (Uuid::new_v4(), Uuid::now_v7());
    let key = format!("/agents/8/{}/{}", lin.simple(), chunk.simple());
    let body = json!({"op": "body", "id": chunk, "key": key, "lin": lin, "mount": "m", "sum": "", "body": 1});
    commit(&owner, body, b"chunk").await.unwrap();
    let layout = json!({"lin": lin, "layout": {"codec": "chunks", "chunk": 4096, "levels": 1, "sum": "sha256"}});
    commit(&owner, put("agents/8/f", 5, layout), chunk.as_bytes()).await.unwrap();
    for (from, to) in [("agents/8/f", "agents/7/f"), ("agents/7/f", "agents/9/f")] {
        let rename = json!({"op": "rename", "id": Uuid::now_v7(), "history": Uuid::now_v7(), "from": from, "to": to,
            "expect_from": null, "expect_to": null, "young": null, "ctime": null});
        commit(&owner, rename, b"").await.unwrap();
    }
    assert_eq!(text(&agent, "SELECT convert_from(pgfiles_read('agents/7/f', 1), 'UTF8')").await.unwrap(), "chunk");
    owner.query("SELECT pgfiles_purge('{\"prefix\":\"agents/8/\"}', NULL, NULL, false, false)", &[]).await.unwrap();
    owner.query("SELECT pgfiles_purge('{\"key\":\"agents/9/f\"}', NULL, NULL, false, false)", &[]).await.unwrap();
    assert_eq!(text(&agent, "SELECT convert_from(pgfiles_read('agents/7/f', 1), 'UTF8')").await.unwrap(), "chunk");
    assert_eq!(text(&owner, "SELECT count(*)::text FROM pgfiles WHERE left(key, 1) = '/'").await.unwrap(), "1");
}

#[tokio::test]
async fn other_roles_are_not_bound_and_revoke_takes_all() {
    let Fenced { database, owner, agent, role } = fenced().await;
    let backend = format!("backend_{}", Uuid::new_v4().simple());
    owner.batch_execute(&format!("CREATE ROLE {backend} LOGIN; GRANT ALL ON pgfiles TO {backend}")).await.unwrap();
    let dsn = database.dsn().replace("user=postgres", &format!("user={backend}"));
    let (open, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    commit(&open, put("any/where", 1, json!({})), b"x").await.unwrap();
    let rename = json!({"op": "rename", "id": Uuid::now_v7(), "history": Uuid::now_v7(), "from": "any/where", "to": "agents/8/x",
        "expect_from": null, "expect_to": null, "young": null, "ctime": null});
    let made = commit(&open, rename, b"").await.unwrap();
    let id = made[0]["id"].clone();
    open.batch_execute("UPDATE pgfiles SET data = 'new' WHERE key = 'agents/8/x'").await.unwrap();
    assert_ne!(text(&open, "SELECT id::text FROM pgfiles WHERE key = 'agents/8/x'").await.unwrap(), id.as_str().unwrap());
    open.query("SELECT pgfiles_purge('{\"prefix\":\"\"}', NULL, NULL, false, false)", &[]).await.unwrap();
    assert_eq!(text(&owner, "SELECT string_agg(g.prefix, ',') FROM pgfiles_grants() g").await.unwrap(), "agents/7/");
    owner.query("SELECT pgfiles_revoke($1, 'agents/7/')", &[&role]).await.unwrap();
    assert_eq!(code(&agent, "SELECT count(*) FROM pgfiles").await, "42501");
    assert!(owner.query("SELECT pgfiles_grant('postgres', 'x')", &[]).await.is_err(), "a superuser cannot be fenced");
}
