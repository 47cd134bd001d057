//! What reads may cost, in pages of the index and the table: counted, not timed, so that a plan that sorts or scans shows.

use pgfiles_store::pg::schema;
use pgfiles_testkit::postgres::{Database, Postgres};
use tokio_postgres::Client;

async fn fresh() -> (Database, Client) {
    let database = Postgres::shared().database().await;
    let mut client = database.connect().await;
    schema::init(&mut client).await.unwrap();
    (database, client)
}

/// Pages touched by a query, warm.
async fn pages(client: &Client, query: &str) -> i64 {
    client.query(query, &[]).await.unwrap();
    let plan = client.query(&format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}"), &[]).await.unwrap();
    let plan: serde_json::Value = plan[0].get(0);
    let top = &plan[0]["Plan"];
    let count = |field: &str| top[field].as_i64().unwrap_or(0);
    count("Shared Hit Blocks") + count("Shared Read Blocks")
}

/// Rows as a mount would have left them, without the cost of making them one by one.
const ROWS: &str = "INSERT INTO pgfiles(key, meta) SELECT k, jsonb_build_object('version', v, 'kind', 'file', 'size', 0, 'created_at', \
    '2026-01-01T00:00:00Z', 'xid', '1') || CASE WHEN dead THEN '{\"deleted\":true}'::jsonb ELSE '{}' END FROM ";

#[tokio::test]
async fn listings_cost_what_they_show() {
    let (_database, client) = fresh().await;
    let fill = [
        "(SELECT 'flat/f' || i AS k, 1 AS v, false AS dead FROM generate_series(1, 100000) i) r",
        // A project whose node_modules was removed: 30,000 tombstones below one, and one live neighbour.
        "(SELECT 'p/node_modules/' || i % 300 || '/f' || i AS k, v, v = 2 AS dead FROM generate_series(1, 30000) i, generate_series(1, 2) v) r",
        "(SELECT 'p/node_modules/' || i || '/' AS k, v, v = 2 AS dead FROM generate_series(0, 299) i, generate_series(1, 2) v) r",
        "(SELECT 'p/node_modules/' AS k, v, v = 2 AS dead FROM generate_series(1, 2) v) r",
        "(SELECT 'p/src/main.rs' AS k, 1 AS v, false AS dead) r",
        "(SELECT 'p/src/' AS k, 1 AS v, false AS dead) r",
        "(SELECT 'hot/f' || i AS k, v, false AS dead FROM generate_series(1, 100) i, generate_series(1, 1000) v) r",
        // 3,000 names that are dead, flat ones and directories.
        "(SELECT 'gone/f' || i AS k, v, v = 2 AS dead FROM generate_series(1, 3000) i, generate_series(1, 2) v) r",
        "(SELECT k, 1 AS v, false AS dead FROM unnest('{gone/,dead/}'::text[]) k) r",
        "(SELECT 'dead/d' || i || '/' AS k, v, v = 2 AS dead FROM generate_series(1, 3000) i, generate_series(1, 2) v) r",
        "(SELECT 'dead/d' || i || '/f' || j AS k, v, v = 2 AS dead FROM generate_series(1, 3000) i, generate_series(1, 10) j, \
         generate_series(1, 2) v) r",
        "(SELECT 'wide/' || d || '/f' || i AS k, 1 AS v, false AS dead FROM generate_series(1, 300) d, generate_series(1, 100) i) r",
    ];
    for rows in fill {
        client.batch_execute(&format!("{ROWS}{rows}")).await.unwrap();
    }
    // Deliberately before ANALYZE as well as after: a plan must not depend on statistics.
    for round in ["without statistics", "with statistics"] {
        for (query, most) in [
            ("SELECT * FROM pgfiles_stat(ARRAY['flat/f500'], 0)", 24),
            ("SELECT * FROM pgfiles_stat(ARRAY['p/node_modules'], 0)", 30),
            ("SELECT * FROM pgfiles_stat(ARRAY['hot/f7'], 0)", 24),
            ("SELECT * FROM pgfiles_dir('flat/', NULL, 1000, 0)", 400),
            ("SELECT * FROM pgfiles_dir('flat/', NULL, 1000000, 0)", 25_000),
            ("SELECT * FROM pgfiles_dir('p/', NULL, 1000, 0)", 60),
            ("SELECT * FROM pgfiles_dir('p/node_modules/', NULL, 1000, 0)", 300 * 8),
            ("SELECT * FROM pgfiles_dir('', NULL, 1000, 0)", 120),
            ("SELECT * FROM pgfiles_dir('hot/', NULL, 1000, 0)", 100 * 8),
            ("SELECT * FROM pgfiles_dir('wide/', NULL, 1000, 0)", 300 * 8),
            // The walk over the names, and no more than one descent of the index for each directory.
            ("SELECT * FROM pgfiles_dir('gone/', NULL, 1000, 0)", 3000 * 2 + 100),
            ("SELECT * FROM pgfiles_dir('dead/', NULL, 1000, 0)", 3000 * 8),
            // The past: what lies below subdirectories is not walked either.
            ("SELECT * FROM pgfiles_list_as_of('p/', 'infinity'::timestamptz)", 100),
            ("SELECT * FROM pgfiles_list_as_of('wide/', 'infinity'::timestamptz)", 300 * 45),
            ("SELECT * FROM pgfiles_list_as_of('hot/', 'infinity'::timestamptz)", 100 * 8),
            ("SELECT * FROM pgfiles_tree('hot/', NULL, 1000)", 100 * 20),
            ("SELECT pgfiles_read('hot/f7')", 24),
            // All versions of a key are read; with statistics its newest one is looked up once, not for each of them.
            ("SELECT * FROM pgfiles_live WHERE key = 'hot/f7'", if round == "with statistics" { 100 } else { 5_000 }),
            ("SELECT * FROM pgfiles_live WHERE key LIKE 'hot/f7%'", if round == "with statistics" { 1_000 } else { 50_000 }),
            ("SELECT * FROM (VALUES ('hot/f7')) t(k) JOIN pgfiles_live l ON l.key = t.k", 5_000),
        ] {
            let touched = pages(&client, query).await;
            assert!(touched <= most, "{query} touches {touched} pages {round}, at most {most} are due");
            eprintln!("{touched:>7} pages {round}: {query}");
        }
        client.batch_execute("ANALYZE pgfiles").await.unwrap();
    }
}
