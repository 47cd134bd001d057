//! The schema: what `pgfiles init` makes of a database, and what a connection checks before it uses one.
//!
//! The SQL stands in `schema/*.sql`, one file per topic; `@schema@` in it is the schema that the table lives in, so that
//! every function finds the table whatever the caller's `search_path` is, at no cost per call. Init is idempotent, may be
//! run by many at once, and on a filled table builds indexes without blocking writers. [`VERSION`] is raised with any
//! change; `min_reader` and `min_writer` in `version.sql` only where an older pgfiles would misread or damage rows.

use std::time::Duration;

use serde_json::Value;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::connect::foreign;
use crate::error::{Kind, Result, StoreError};

/// The version of the schema that this pgfiles makes, and the newest that it understands.
pub const VERSION: u64 = 2;
/// The first with functions for an operation that is alone in its batch (`schema/single.sql`).
pub(super) const WITH_SINGLE: u64 = 2;
/// The oldest server: `server_version_num`.
pub const SERVER_VERSION_MIN: i32 = 140_000;

/// Everything but indexes, triggers and the version, in the order of their dependence.
const FUNCTIONS: [&str; 20] = [
    include_str!("schema/table.sql"),
    include_str!("schema/names.sql"),
    include_str!("schema/read.sql"),
    include_str!("schema/trigger.sql"),
    include_str!("schema/notify.sql"),
    include_str!("schema/grant.sql"),
    include_str!("schema/put.sql"),
    include_str!("schema/link.sql"),
    include_str!("schema/remove.sql"),
    include_str!("schema/rename.sql"),
    include_str!("schema/copy.sql"),
    include_str!("schema/rename_dir.sql"),
    include_str!("schema/exchange.sql"),
    include_str!("schema/commit.sql"),
    include_str!("schema/single.sql"),
    include_str!("schema/delete.sql"),
    include_str!("schema/lock.sql"),
    include_str!("schema/purge.sql"),
    include_str!("schema/report.sql"),
    include_str!("schema/public.sql"),
];
const INDEXES: &str = include_str!("schema/indexes.sql");
const TRIGGERS: &str = include_str!("schema/triggers_on.sql");
const SCHEMA_VERSION: &str = include_str!("schema/version.sql");

/// Serialises inits among themselves (a transaction's lock).
const INIT_LOCK: &str = "SELECT pg_advisory_xact_lock(7100)";
/// How often somebody else's index build is looked at.
const INDEX_POLL: Duration = Duration::from_millis(200);
/// How often an init that met another is tried.
const RACES_MAX: u32 = 10;
/// Rows given a version per transaction.
const BACKFILL_ROWS: i32 = 1_000;

/// What [`init`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The schema that the table lives in.
    pub schema: String,
    /// Whether the table was not there before.
    pub created: bool,
    /// Rows of other tools that were given a version.
    pub backfilled: u64,
}

/// What a connection is going to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write.
    Write,
}

/// Creates or upgrades the table, its indexes, functions, triggers and views in the schema where a table `pgfiles` is found
/// by the connection's `search_path`, else in the first schema of that path.
///
/// # Errors
/// [`Kind::Unsupported`] for a server that cannot carry pgfiles and for a schema newer than this pgfiles, [`Kind::ReadOnly`]
/// on a standby, [`Kind::Invalid`] where rows that are there already contradict the schema, and what the server says.
pub async fn init(client: &mut Client) -> Result<Report> {
    // Others may change the same catalog rows at this moment (an index build cannot be under our lock): then once more.
    for attempt in 1..RACES_MAX {
        match init_once(client).await {
            Err(error) if error.kind() == Kind::Retry => tokio::time::sleep(INDEX_POLL * attempt).await,
            outcome => return outcome,
        }
    }
    init_once(client).await
}

async fn init_once(client: &mut Client) -> Result<Report> {
    supported(client).await?;
    let (schema, created) = place(client).await?;
    let sql = |text: &str| text.replace("@schema@", &quoted(&schema));
    if let Some(found) = version(client).await? {
        let newest = number(&found, "version");
        if newest > VERSION {
            let message = format!(
                "the schema in this database has version {newest}, made by a newer pgfiles; this one makes version {VERSION}: \
                 upgrade pgfiles"
            );
            return Err(StoreError::new(Kind::Unsupported, message));
        }
    }
    let empty = functions(client, &sql).await?;
    if !empty {
        for (name, ddl) in indexes() {
            build_index(client, &schema, name, &sql(&ddl)).await?;
        }
    }
    transaction(client, &[&sql(TRIGGERS)]).await?;
    let backfilled = backfill(client, &quoted(&schema)).await?;
    transaction(client, &[&sql(SCHEMA_VERSION)]).await?;
    Ok(Report { schema, created, backfilled })
}

/// Whether a connection may use what is there. One round trip.
///
/// # Errors
/// [`Kind::NotInitialised`] with what to run, [`Kind::Unsupported`] where the schema asks for a newer pgfiles.
pub async fn check(client: &Client, access: Access) -> Result<()> {
    let found = version(client).await?.ok_or_else(|| {
        StoreError::new(Kind::NotInitialised, "there is no pgfiles in this database: run `pgfiles init` once, as its owner")
    })?;
    let field = if access == Access::Read { "min_reader" } else { "min_writer" };
    let wanted = number(&found, field);
    if wanted > VERSION {
        let what = if access == Access::Read { "reads" } else { "writes" };
        let message =
            format!("this pgfiles {what} schemas up to version {VERSION}, the database asks for {wanted}: upgrade pgfiles");
        return Err(StoreError::new(Kind::Unsupported, message));
    }
    Ok(())
}

/// Refuses servers that cannot carry pgfiles.
async fn supported(client: &Client) -> Result<()> {
    const QUERY: &str = "SELECT current_setting('server_version_num')::int, version(), current_setting('server_encoding'), \
                         pg_is_in_recovery(), current_setting('server_version')";
    let row = client.query_one(QUERY, &[]).await.map_err(said)?;
    let (number, banner, encoding): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
    let (standby, release): (bool, String) = (row.get(3), row.get(4));
    if let Some(name) = foreign(&banner) {
        return Err(StoreError::new(Kind::Unsupported, format!("pgfiles does not run on {name}: it needs PostgreSQL 14 to 18")));
    }
    if number < SERVER_VERSION_MIN {
        return Err(StoreError::new(Kind::Unsupported, format!("PostgreSQL {release} is too old: pgfiles needs 14 or later")));
    }
    if encoding != "UTF8" {
        let message = format!(
            "the database's encoding is {encoding}: pgfiles needs UTF8 (CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)"
        );
        return Err(StoreError::new(Kind::Unsupported, message));
    }
    if standby {
        return Err(StoreError::new(Kind::ReadOnly, "this server is a standby: run `pgfiles init` on its primary"));
    }
    Ok(())
}

/// The schema that the table is in, or will be, and whether it has to be created.
async fn place(client: &Client) -> Result<(String, bool)> {
    const QUERY: &str = "SELECT (SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                         WHERE c.oid = to_regclass('pgfiles')), current_schema()::text";
    let row = client.query_one(QUERY, &[]).await.map_err(said)?;
    let (found, current): (Option<String>, Option<String>) = (row.get(0), row.get(1));
    let created = found.is_none();
    let schema = found.or(current).ok_or_else(|| {
        StoreError::new(Kind::Invalid, "no schema of the connection's search_path exists: set one with options=-csearch_path=…")
    })?;
    Ok((schema, created))
}

/// What `pgfiles_schema()` says; `None` where there is no such function.
async fn version(client: &Client) -> Result<Option<Value>> {
    match client.query_one("SELECT pgfiles_schema()", &[]).await {
        Ok(row) => Ok(Some(row.get(0))),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => Ok(None),
        Err(error) => Err(said(error)),
    }
}

fn number(found: &Value, field: &str) -> u64 {
    found.get(field).and_then(Value::as_u64).unwrap_or(u64::MAX)
}

/// Table and functions in one transaction; on an empty table the indexes as well. Says whether it was empty.
async fn functions(client: &mut Client, sql: &impl Fn(&str) -> String) -> Result<bool> {
    let transaction = client.transaction().await.map_err(said)?;
    transaction.batch_execute(INIT_LOCK).await.map_err(said)?;
    for text in FUNCTIONS {
        transaction.batch_execute(&sql(text)).await.map_err(said)?;
    }
    let filled = transaction.query_one(&sql("SELECT EXISTS (SELECT FROM @schema@.pgfiles)"), &[]).await.map_err(said)?;
    let empty = !filled.get::<_, bool>(0);
    if empty {
        for (_, ddl) in indexes() {
            transaction.batch_execute(&sql(&ddl.replacen("INDEX", "INDEX IF NOT EXISTS", 1))).await.map_err(said)?;
        }
    }
    transaction.commit().await.map_err(said)?;
    Ok(empty)
}

async fn transaction(client: &mut Client, texts: &[&str]) -> Result<()> {
    let transaction = client.transaction().await.map_err(said)?;
    transaction.batch_execute(INIT_LOCK).await.map_err(said)?;
    for text in texts {
        transaction.batch_execute(text).await.map_err(said)?;
    }
    transaction.commit().await.map_err(said)
}

/// Name and statement of each index.
fn indexes() -> Vec<(&'static str, String)> {
    let code: String = INDEXES.lines().filter(|line| !line.starts_with("--")).flat_map(|line| [line, "\n"]).collect();
    let mut found = Vec::new();
    for statement in code.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        let name = INDEX_NAMES.into_iter().find(|name| statement.contains(&format!("INDEX {name} ")));
        debug_assert!(name.is_some(), "an index without a name in INDEX_NAMES: {statement}");
        found.extend(name.map(|name| (name, statement.to_owned())));
    }
    found
}

const INDEX_NAMES: [&str; 8] = [
    "pgfiles_key_version",
    "pgfiles_body",
    "pgfiles_lineage",
    "pgfiles_family",
    "pgfiles_revive",
    "pgfiles_listen",
    "pgfiles_beat",
    "pgfiles_hard_link",
];

/// Builds an index of a filled table while others write to it, and again where a build before was broken off. Others may do
/// the same at this moment: whoever loses waits until the index is valid.
async fn build_index(client: &Client, schema: &str, name: &str, ddl: &str) -> Result<()> {
    const STATE: &str = "SELECT i.indisvalid, EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.relid = i.indrelid) \
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = $1 AND c.relname = $2";
    let concurrently = ddl.replacen("INDEX", "INDEX CONCURRENTLY", 1);
    let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {}.{name}", quoted(schema));
    loop {
        let state = client.query_opt(STATE, &[&schema, &name]).await.map_err(said)?;
        let statement = match state.map(|row| (row.get::<_, bool>(0), row.get::<_, bool>(1))) {
            Some((true, _)) => return Ok(()),
            Some((false, true)) => {
                tokio::time::sleep(INDEX_POLL).await;
                continue;
            }
            Some((false, false)) => &drop,
            None => &concurrently,
        };
        if let Err(error) = client.batch_execute(statement).await {
            if !is_race(&error, name) {
                return Err(said(error));
            }
            tokio::time::sleep(INDEX_POLL).await;
        }
    }
}

/// Whether an index build failed only because somebody else builds it too.
fn is_race(error: &Error, index: &str) -> bool {
    let Some(db) = error.as_db_error() else { return false };
    match *db.code() {
        SqlState::T_R_DEADLOCK_DETECTED | SqlState::DUPLICATE_TABLE | SqlState::DUPLICATE_OBJECT => true,
        SqlState::UNDEFINED_OBJECT | SqlState::UNDEFINED_TABLE => true,
        // Two builds that name the index at once collide in pg_class; duplicates in the table are named by the index itself.
        SqlState::UNIQUE_VIOLATION => db.constraint() != Some(index),
        _ => false,
    }
}

/// Gives a version to rows that another tool wrote before the trigger was there.
async fn backfill(client: &Client, schema: &str) -> Result<u64> {
    let query = format!("SELECT done, next FROM {schema}.pgfiles_backfill($1, $2)");
    let (mut after, mut total) = (String::new(), 0);
    loop {
        let row = client.query_one(&query, &[&after, &BACKFILL_ROWS]).await.map_err(said)?;
        total += row.get::<_, i64>(0) as u64;
        match row.get::<_, Option<String>>(1) {
            Some(next) => after = next,
            None => return Ok(total),
        }
    }
}

/// An SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What the server said, as an error of the store.
fn said(error: Error) -> StoreError {
    let (kind, message) = match error.as_db_error() {
        Some(db) => {
            let kind = match *db.code() {
                SqlState::INSUFFICIENT_PRIVILEGE => Kind::Forbidden,
                SqlState::READ_ONLY_SQL_TRANSACTION => Kind::ReadOnly,
                SqlState::DISK_FULL => Kind::NoSpace,
                SqlState::UNIQUE_VIOLATION | SqlState::INVALID_TEXT_REPRESENTATION => Kind::Invalid,
                // "tuple concurrently updated" has no code of its own.
                SqlState::T_R_DEADLOCK_DETECTED | SqlState::T_R_SERIALIZATION_FAILURE | SqlState::INTERNAL_ERROR => Kind::Retry,
                _ => Kind::Other,
            };
            let detail = db.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
            let remedy = match kind {
                Kind::Forbidden => "; GRANT CREATE ON that schema to this role, or let its owner run `pgfiles init`",
                _ => "",
            };
            (kind, format!("the server refused the schema: {}{detail}{remedy}", db.message()))
        }
        None if error.is_closed() => (Kind::Unavailable, "the connection was lost while the schema was made".to_owned()),
        None => (Kind::Unavailable, format!("the schema could not be made: {error}")),
    };
    StoreError::new(kind, message).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_has_its_name() {
        let names: Vec<_> = indexes().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, INDEX_NAMES);
    }

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
