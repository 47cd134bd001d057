//! The past by SQL: a directory as it was at a moment shows what `pgfiles_list` showed then.

use pgfiles_store::pg::schema;
use pgfiles_testkit::postgres::{Database, Postgres};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio_postgres::Client;

const DIRS: [&str; 6] = ["", "a/", "a/b/", "a/b/c/", "d/", "d/e/"];
const NAMES: [&str; 4] = ["x", "y", "z!", "b0"];

async fn fresh() -> (Database, Client) {
    let database = Postgres::shared().database().await;
    let mut client = database.connect().await;
    schema::init(&mut client).await.unwrap();
    (database, client)
}

/// One random change, as mounts and SQL make them. What is refused (nothing there, not empty) changes nothing.
async fn change(client: &Client, rng: &mut StdRng) {
    let dir = *DIRS.choose(rng).unwrap();
    let other = *DIRS.choose(rng).unwrap();
    let key = format!("{dir}{}", NAMES.choose(rng).unwrap());
    let commit = |op: String| format!("SELECT pgfiles_commit('[{op}]', '{{}}', '{{}}')");
    let id = uuid::Uuid::new_v4();
    let statement = match rng.random_range(0..20) {
        0..=8 => format!("SELECT pgfiles_write('{key}', '{}')", rng.random_range(0..1000)),
        9..=12 => format!("SELECT pgfiles_delete('{key}')"),
        13 if !dir.is_empty() => format!("SELECT pgfiles_write('{dir}', NULL)"),
        14 | 15 if !dir.is_empty() => commit(format!(r#"{{"op":"rmdir","id":"{id}","dir":"{dir}","recursive":true}}"#)),
        16 if !dir.is_empty() => format!("SELECT pgfiles_delete('{dir}')"),
        17 => {
            let (history, to) = (uuid::Uuid::new_v4(), format!("{other}{}", NAMES.choose(rng).unwrap()));
            commit(format!(r#"{{"op":"rename","id":"{id}","history":"{history}","from":"{key}","to":"{to}"}}"#))
        }
        18 if !dir.is_empty() && !other.is_empty() && !other.starts_with(dir) => {
            commit(format!(r#"{{"op":"renamedir","id":"{id}","from":"{dir}","to":"{other}"}}"#))
        }
        _ => format!("INSERT INTO pgfiles(key, data) VALUES ('{key}', 'raw')"),
    };
    let _refused = client.batch_execute(&statement).await;
}

/// Names of a directory, directories with a '/', in order, and versions of files.
async fn listing(client: &Client, function: &str, arguments: &str) -> Vec<String> {
    let query = format!(
        "SELECT name || CASE WHEN is_dir THEN '/' ELSE ' ' || version END FROM {function}({arguments}) ORDER BY name COLLATE \"C\", is_dir"
    );
    client.query(&query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_listing_of_the_past_is_the_listing_of_then() {
    for seed in 0..2 {
        let (_database, client) = fresh().await;
        let mut rng = StdRng::seed_from_u64(seed);
        let mut moments = Vec::new();
        for _ in 0..40 {
            for _ in 0..rng.random_range(1..4) {
                change(&client, &mut rng).await;
            }
            let row = client.query_one("SELECT pg_current_snapshot()::text, clock_timestamp()::text", &[]).await.unwrap();
            let (snapshot, time): (String, String) = (row.get(0), row.get(1));
            for dir in DIRS {
                let then = listing(&client, "pgfiles_list", &format!("'{dir}'")).await;
                moments.push((dir, snapshot.clone(), time.clone(), then));
            }
        }
        let shown: usize = moments.iter().map(|(.., then)| then.len()).sum();
        assert!(shown > 300, "the program makes something: {shown}");
        for (dir, snapshot, time, then) in &moments {
            for moment in [format!("'{snapshot}'::pg_snapshot"), format!("'{time}'::timestamptz")] {
                let found = listing(&client, "pgfiles_list_as_of", &format!("'{dir}', {moment}")).await;
                assert_eq!(found, *then, "seed {seed}, {dir:?} at {moment}");
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_no_value_holds_is_refused() {
    let (_database, client) = fresh().await;
    let layout = r#"{"codec":"chunks","chunk":131072,"levels":2,"sum":"sha256"}"#;
    let row = format!(
        r#"INSERT INTO pgfiles(key, meta, data) VALUES ('big',
           '{{"version":1,"kind":"file","size":1073741824,"lin":"{}","layout":{layout}}}', '\x')"#,
        uuid::Uuid::new_v4()
    );
    client.batch_execute(&row).await.unwrap();
    let error = client.query("SELECT pgfiles_read('big')", &[]).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.message().contains("1 GiB")), ("54000", true), "{error}");
}

#[tokio::test]
async fn every_day_of_the_calendar_is_a_time_and_nothing_else_is() {
    let (_database, client) = fresh().await;
    let wrong = "SELECT count(*) FROM generate_series('1896-01-01'::timestamp, '2104-12-31', '1 day') d, \
        LATERAL (SELECT to_char(d, 'YYYY-MM-DD') || 'T23:59:59.123456Z' AS said) t \
        WHERE pgfiles_time(said) IS DISTINCT FROM said::timestamptz";
    assert_eq!(client.query_one(wrong, &[]).await.unwrap().get::<_, i64>(0), 0);
    for absurd in [
        "2026-02-29",
        "1900-02-29",
        "2024-02-30",
        "2026-04-31",
        "2026-11-31",
        "2026-01-32",
        "2026-01-00",
        "2026-13-01",
        "0000-01-01",
    ] {
        let said = format!("{absurd}T00:00:00Z");
        let time = client.query_one("SELECT pgfiles_time($1)::text", &[&said]).await.unwrap();
        assert_eq!(time.get::<_, Option<String>>(0), None, "{said}");
    }
}
