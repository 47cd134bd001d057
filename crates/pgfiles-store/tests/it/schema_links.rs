//! Hard links as SQL meets them: their limit, the edge of a grant, rows written past our functions, and their cost.

use pgfiles_store::pg::schema;
use pgfiles_testkit::postgres::{Database, Postgres};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

async fn fresh() -> (Database, Client) {
    let database = Postgres::shared().database().await;
    let mut client = database.connect().await;
    schema::init(&mut client).await.unwrap();
    (database, client)
}

async fn commit(client: &Client, op: Value) -> Result<Value, String> {
    let opts = json!({"by": {"mount": "m"}});
    crate::schema_model::commit(client, &json!([op]), &[], &opts)
        .await
        .map_err(|error| error.code().map_or(error.to_string(), |code| code.code().to_owned()))
}

fn link(from: &str, to: &str) -> Value {
    json!({"op": "link", "id": Uuid::now_v7(), "from": from, "to": to})
}

async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get::<_, Option<String>>(0).unwrap_or_default()
}

#[tokio::test]
async fn the_thousand_and_first_name_is_refused() {
    let (_database, client) = fresh().await;
    client.batch_execute("SELECT pgfiles_write('a', 'x')").await.unwrap();
    commit(&client, link("a", "b")).await.unwrap();
    // The other names as links would have left them, without the cost of counting after each.
    let fill = "INSERT INTO pgfiles(key, meta, data) SELECT 'n/' || i, p.meta || '{\"version\":1}', p.data \
                FROM pgfiles p, generate_series(3, 1000) i WHERE p.key = 'b'";
    client.batch_execute(fill).await.unwrap();
    assert_eq!(commit(&client, link("b", "c")).await.unwrap_err(), "PF008");
    let gone = json!({"op": "delete", "id": Uuid::now_v7(), "key": "n/500"});
    assert_eq!(commit(&client, gone).await.unwrap()[0]["also"].as_array().unwrap().len(), 999);
    commit(&client, link("b", "c")).await.unwrap();
    assert_eq!(text(&client, "SELECT string_agg(DISTINCT meta->>'nlink', ',') FROM pgfiles_live").await, "1000");
    client.batch_execute("SELECT pgfiles_write('n/7', 'y')").await.unwrap();
    let same = "SELECT count(DISTINCT etag)::text || ' ' || count(*) FROM pgfiles_live WHERE data = 'y'";
    assert_eq!(text(&client, same).await, "1 1000");
}

#[tokio::test]
async fn no_link_crosses_the_edge_of_a_grant() {
    let (_database, client) = fresh().await;
    let role = format!("agent_{}", Uuid::new_v4().simple());
    let grant = format!(
        "CREATE ROLE {role}; SELECT pgfiles_grant('{role}', 'agents/7'); SELECT pgfiles_write('agents/7/a', 'x'), pgfiles_write('b', 'x')"
    );
    client.batch_execute(&grant).await.unwrap();
    assert_eq!(commit(&client, link("agents/7/a", "c")).await.unwrap_err(), "PF009");
    assert_eq!(commit(&client, link("b", "agents/7/c")).await.unwrap_err(), "PF009");
    commit(&client, link("agents/7/a", "agents/7/c")).await.unwrap();
    // A name that is moved out is another file from then on.
    let out = json!({"op": "rename", "id": Uuid::now_v7(), "history": Uuid::now_v7(), "from": "agents/7/c", "to": "c"});
    commit(&client, out).await.unwrap();
    client.batch_execute("SELECT pgfiles_write('c', 'mine')").await.unwrap();
    assert_eq!(text(&client, "SELECT convert_from(pgfiles_read('agents/7/a'), 'UTF8')").await, "x");
    assert_eq!(text(&client, "SELECT coalesce(meta->>'nlink', '1') FROM pgfiles_live WHERE key = 'agents/7/a'").await, "1");
    let numbers = "SELECT count(DISTINCT meta->>'ino')::text FROM pgfiles_live WHERE key IN ('c', 'agents/7/a')";
    assert_eq!(text(&client, numbers).await, "2");
    client.batch_execute(&format!("SELECT pgfiles_revoke('{role}', 'agents/7')")).await.unwrap();
}

#[tokio::test]
async fn no_body_is_shared_across_the_edge_of_a_grant() {
    let (_database, client) = fresh().await;
    let role = format!("agent_{}", Uuid::new_v4().simple());
    client.batch_execute(&format!("CREATE ROLE {role}; SELECT pgfiles_grant('{role}', 'agents/7')")).await.unwrap();
    let (lineage, chunk) = (Uuid::new_v4(), Uuid::now_v7());
    let body = json!({"op": "body", "id": chunk, "key": format!("/agents/7/{}/{}", lineage.simple(), chunk.simple()), "lin": lineage,
        "mount": "m", "sum": "s", "body": 1});
    let put = |key: &str| {
        let meta = json!({"kind": "file", "size": 5000, "etag": "e", "lin": lineage,
            "layout": {"codec": "chunks", "chunk": 8192, "levels": 1, "sum": "sha256"}});
        json!({"op": "put", "id": Uuid::now_v7(), "key": key, "meta": meta, "defaults": {}, "body": 2, "expect": null, "extends": null, "drops": []})
    };
    let bodies: Vec<&[u8]> = vec![&[7; 5000], chunk.as_bytes()];
    let commit = async |ops: Value| {
        let row = client.query_one("SELECT pgfiles_commit($1, $2, '{}')", &[&ops, &bodies]).await;
        row.map(drop).map_err(|error| error.code().map_or(error.to_string(), |code| code.code().to_owned()))
    };
    commit(json!([body, put("agents/7/a")])).await.unwrap();
    commit(json!([put("agents/7/b")])).await.unwrap();
    assert_eq!(commit(json!([put("agents/8/c")])).await.unwrap_err(), "PF007");
    assert_eq!(commit(json!([put("d")])).await.unwrap_err(), "PF007");
}

#[tokio::test]
async fn a_fenced_role_links_in_its_prefix() {
    let (database, client) = fresh().await;
    let role = format!("agent_{}", Uuid::new_v4().simple());
    let grant = format!("CREATE ROLE {role} LOGIN; SELECT pgfiles_grant('{role}', 'agents/7')");
    client.batch_execute(&grant).await.unwrap();
    let dsn = database.dsn().replace("user=postgres", &format!("user={role}"));
    let (agent, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    agent.batch_execute("SELECT pgfiles_write('agents/7/a', 'x')").await.unwrap();
    commit(&agent, link("agents/7/a", "agents/7/b")).await.unwrap();
    agent.batch_execute("SELECT pgfiles_write('agents/7/b', 'y')").await.unwrap();
    assert_eq!(text(&client, "SELECT string_agg(convert_from(data, 'UTF8'), ',') FROM pgfiles_live").await, "y,y");
    commit(&agent, json!({"op": "delete", "id": Uuid::now_v7(), "key": "agents/7/a"})).await.unwrap();
    assert_eq!(text(&client, "SELECT coalesce(meta->>'nlink', '1') FROM pgfiles_live").await, "1");
    let exchange = |from: &str, to: &str| json!({"op": "exchange", "id": Uuid::now_v7(), "from": from, "to": to});
    agent.batch_execute("SELECT pgfiles_write('agents/7/d/x', 'z')").await.unwrap();
    commit(&agent, exchange("agents/7/b", "agents/7/d")).await.unwrap();
    assert_eq!(text(&client, "SELECT convert_from(pgfiles_read('agents/7/b/x'), 'UTF8')").await, "z");
    assert_eq!(text(&client, "SELECT convert_from(pgfiles_read('agents/7/d'), 'UTF8')").await, "y");
}

#[tokio::test]
async fn a_row_that_sql_writes_for_one_name_is_another_file() {
    let (_database, client) = fresh().await;
    client.batch_execute("SELECT pgfiles_write('a', 'x')").await.unwrap();
    commit(&client, link("a", "b")).await.unwrap();
    client.batch_execute("INSERT INTO pgfiles(key, data) VALUES ('a', 'alone')").await.unwrap();
    assert_eq!(text(&client, "SELECT convert_from(pgfiles_read('b'), 'UTF8')").await, "x");
    let row = "SELECT (SELECT meta->>'ino' FROM pgfiles_live WHERE key = 'a') = (SELECT meta->>'ino' FROM pgfiles_live WHERE key = 'b') \
               OR (SELECT meta ? 'hard_link' FROM pgfiles_live WHERE key = 'a')";
    assert!(!client.query_one(row, &[]).await.unwrap().get::<_, bool>(0));
    // Marks of ours in what SQL brings mean nothing.
    let forged = "INSERT INTO pgfiles(key, data, meta) SELECT 'forged', 'f', jsonb_build_object('hard_link', meta->'hard_link', 'nlink', 9) \
                  FROM pgfiles_live WHERE key = 'b'";
    client.batch_execute(forged).await.unwrap();
    client.batch_execute("SELECT pgfiles_write('b', 'new')").await.unwrap();
    assert_eq!(text(&client, "SELECT convert_from(pgfiles_read('forged'), 'UTF8')").await, "f");
    // A deletion of the row brings back what the name was when it left, as a file of its own: its inode went on without it.
    client.batch_execute("DELETE FROM pgfiles WHERE key = 'a' AND data = 'alone'").await.unwrap();
    assert_eq!(text(&client, "SELECT convert_from(pgfiles_read('a'), 'UTF8')").await, "x");
    client.batch_execute("SELECT pgfiles_write('a', 'own')").await.unwrap();
    assert_eq!(text(&client, "SELECT convert_from(pgfiles_read('b'), 'UTF8')").await, "new");
}

#[tokio::test]
async fn a_version_that_is_the_head_again_is_a_file_of_its_own() {
    let (_database, client) = fresh().await;
    client.batch_execute("SELECT pgfiles_write('a', 'x')").await.unwrap();
    commit(&client, link("a", "b")).await.unwrap();
    commit(&client, link("a", "c")).await.unwrap();
    client.batch_execute("SELECT pgfiles_write('a', 'y'), pgfiles_delete('b')").await.unwrap();
    let heads = "SELECT string_agg(key || coalesce(meta->>'nlink', '-') || convert_from(data, 'UTF8'), ' ' ORDER BY key) FROM pgfiles_live";
    assert_eq!(text(&client, heads).await, "a2y c2y");
    client.batch_execute("DELETE FROM pgfiles WHERE key = 'a' AND data = 'y'").await.unwrap();
    assert_eq!(text(&client, heads).await, "a-x c-y");
    client.batch_execute("DELETE FROM pgfiles WHERE key = 'b' AND meta ? 'deleted'").await.unwrap();
    assert_eq!(text(&client, heads).await, "a-x b-y c-y");
    assert_eq!(text(&client, "SELECT count(DISTINCT meta->>'ino')::text FROM pgfiles_live").await, "3");
    // Where no other name lives, it is the inode that it was.
    let ino = text(&client, "SELECT meta->>'ino' FROM pgfiles_live WHERE key = 'c'").await;
    client.batch_execute("SELECT pgfiles_delete('c')").await.unwrap();
    client.batch_execute("DELETE FROM pgfiles WHERE key = 'c' AND meta ? 'deleted'").await.unwrap();
    assert_eq!(text(&client, "SELECT meta->>'ino' FROM pgfiles_live WHERE key = 'c'").await, ino);
}
