//! Postgres alone (P): the same payloads into a table of the same columns, without anything of pgfiles.

use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use futures_util::SinkExt as _;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::measure::{Measure, each};
use crate::place::drop_caches;

// EXTERNAL as in the table of pgfiles: what is repeated would be compressed to nothing.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS alone (id uuid PRIMARY KEY, key text COLLATE \"C\" NOT NULL, meta jsonb NOT NULL, data bytea); \
    ALTER TABLE alone ALTER COLUMN data SET STORAGE EXTERNAL; \
    CREATE INDEX IF NOT EXISTS alone_key ON alone (key, ((meta->>'version')::bigint) DESC)";
const INSERT: &str = "INSERT INTO alone VALUES ($1, $2, $3, $4)";
const MIB: usize = 1 << 20;

pub async fn connect(dsn: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("the connection to Postgres ended: {error}");
        }
    });
    Ok(client)
}

fn meta() -> serde_json::Value {
    serde_json::json!({"version": 1, "kind": "file", "size": 4096, "etag": "0".repeat(64), "mode": "0644", "uid": 0, "gid": 0,
        "mtime": "2026-01-01T00:00:00.123456789Z", "ctime": "2026-01-01T00:00:00.123456789Z", "ino": "1234567890123456789",
        "created_at": "2026-01-01T00:00:00.123456Z", "xid": "1234", "by": {"mount": "bench"}})
}

/// Rows of that many bytes, one transaction each.
async fn inserts(client: &Client, name: &str, count: usize, bytes: usize) -> Result<Vec<f64>> {
    let statement = client.prepare(INSERT).await?;
    let (meta, data) = (meta(), vec![b'x'; bytes]);
    let mut taken = Vec::with_capacity(count);
    for n in 0..count {
        let key = format!("bench/{name}/{n:08}");
        let began = Instant::now();
        client.execute(&statement, &[&Uuid::now_v7(), &key, &meta, &data]).await?;
        taken.push(began.elapsed().as_secs_f64());
    }
    Ok(taken)
}

/// What Postgres alone needs, by name.
pub async fn measure(dsn: &str, count: usize, bulk: usize) -> Result<Vec<(&'static str, Measure)>> {
    let client = connect(dsn).await?;
    client.batch_execute(TABLE).await?;
    client.batch_execute("TRUNCATE alone").await?;
    let mut found = Vec::new();
    for (mode, names) in [("off", ["insert4k async", "insert0 async"]), ("on", ["insert4k sync", "insert0 sync"])] {
        client.batch_execute(&format!("SET synchronous_commit = {mode}")).await?;
        for (name, bytes) in names.into_iter().zip([4096, 0]) {
            found.push((name, each(inserts(&client, name, count, bytes).await?)));
        }
    }
    client.batch_execute("SET synchronous_commit = off").await?;
    let began = Instant::now();
    let mut tasks = Vec::new();
    for worker in 0..8 {
        let client = connect(dsn).await?;
        tasks.push(tokio::spawn(async move {
            client.batch_execute("SET synchronous_commit = off").await?;
            inserts(&client, &format!("eight-{worker}"), count / 8, 4096).await
        }));
    }
    for task in tasks {
        task.await??;
    }
    found.push(("insert4k async, 8 connections", Measure::one(began.elapsed().as_secs_f64() / (count / 8 * 8) as f64)));

    let statement = client.prepare("SELECT 1").await?;
    let mut taken = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        client.query_one(&statement, &[]).await?;
        taken.push(began.elapsed().as_secs_f64());
    }
    found.push(("empty round trip", each(taken)));
    // What pgfiles is measured beside has to read its table from the disk as well.
    for (name, columns) in [("select attributes, cold", "id, meta"), ("select 4k, cold", "id, meta, data")] {
        drop_caches()?;
        let by_key = format!("SELECT {columns} FROM alone WHERE key = $1 ORDER BY (meta->>'version')::bigint DESC LIMIT 1");
        let statement = client.prepare(&by_key).await?;
        let mut taken = Vec::new();
        for n in 0..count {
            let key = format!("bench/insert4k async/{n:08}");
            let began = Instant::now();
            client.query_one(&statement, &[&key]).await?;
            taken.push(began.elapsed().as_secs_f64());
        }
        found.push((name, each(taken)));
    }
    // 10,000 keys of one prefix, as attributes.
    let fill =
        "INSERT INTO alone SELECT gen_random_uuid(), 'scan/' || lpad(n::text, 8, '0'), $1, NULL FROM generate_series(1, 10000) n";
    client.execute(fill, &[&meta()]).await?;
    client.batch_execute("VACUUM ANALYZE alone").await?;
    drop_caches()?;
    let began = Instant::now();
    let rows = client.query("SELECT key, id, meta FROM alone WHERE key >= 'scan/' AND key < 'scan0' ORDER BY key", &[]).await?;
    found.push(("scan 10k, cold", Measure::one(began.elapsed().as_secs_f64() * 10_000.0 / rows.len() as f64)));

    let block = vec![b'x'; MIB];
    let blocks = bulk / MIB;
    client.batch_execute("SET synchronous_commit = on").await?;
    let began = Instant::now();
    inserts(&client, "bulk", blocks, MIB).await?;
    found.push(("insert 1 MiB", Measure::one(blocks as f64 / began.elapsed().as_secs_f64())));
    drop_caches()?;
    let began = Instant::now();
    for n in 0..blocks {
        let key = format!("bench/bulk/{n:08}");
        client.query_one("SELECT data FROM alone WHERE key = $1", &[&key]).await?;
    }
    found.push(("select 1 MiB, cold", Measure::one(blocks as f64 / began.elapsed().as_secs_f64())));
    client.execute("DELETE FROM alone WHERE key >= 'bench/bulk/' AND key < 'bench/bulk0'", &[]).await?;
    let began = Instant::now();
    let mut sink = std::pin::pin!(client.copy_in::<_, Bytes>("COPY alone FROM STDIN (FORMAT binary)").await?);
    sink.send(Bytes::from_static(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0")).await?;
    let text = meta().to_string();
    for n in 0..blocks {
        let mut row = Vec::with_capacity(MIB + 1024);
        let mut field = |bytes: &[&[u8]]| {
            row.extend((bytes.iter().map(|part| part.len()).sum::<usize>() as i32).to_be_bytes());
            bytes.iter().for_each(|part| row.extend_from_slice(part));
        };
        field(&[Uuid::now_v7().as_bytes()]);
        field(&[format!("copy/{n:08}").as_bytes()]);
        field(&[&[1], text.as_bytes()]);
        field(&[&block]);
        let mut whole = 4_i16.to_be_bytes().to_vec();
        whole.append(&mut row);
        sink.send(whole.into()).await?;
    }
    sink.send((-1_i16).to_be_bytes().to_vec().into()).await?;
    sink.finish().await?;
    found.push(("copy", Measure::one(blocks as f64 / began.elapsed().as_secs_f64())));
    client.batch_execute("DROP TABLE alone").await?;
    Ok(found)
}

/// The table before `init`, with that many files in 1,000 prefixes, in directories of 100.
pub async fn others(client: &Client, rows: u64) -> Result<()> {
    const TABLE: &str = "CREATE TABLE pgfiles (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), key text NOT NULL, \
        meta jsonb NOT NULL DEFAULT '{}', data bytea)";
    const FILL: &str = "INSERT INTO pgfiles(key, meta, data) SELECT format('others/%s/d%s/f%s', n % 1000, n / 100000, n), $1, '\\x61' \
        FROM generate_series($2::bigint, $3::bigint) n";
    const AT_ONCE: u64 = 500_000;
    client.batch_execute(TABLE).await?;
    for first in (0..rows).step_by(AT_ONCE as usize) {
        let last = (first + AT_ONCE).min(rows) - 1;
        client.execute(FILL, &[&meta(), &(first as i64), &(last as i64)]).await?;
    }
    Ok(())
}

/// Rows of a prefix and the bytes that they hold.
pub async fn rows(client: &Client, prefix: &str) -> Result<(i64, i64)> {
    let sql = "SELECT count(*), coalesce(sum(octet_length(data)), 0)::bigint FROM pgfiles \
               WHERE starts_with(key, $1) OR starts_with(key, '/' || $1)";
    let row = client.query_one(sql, &[&prefix]).await?;
    Ok((row.get(0), row.get(1)))
}
