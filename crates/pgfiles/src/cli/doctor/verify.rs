//! `doctor --verify`: every content against its checksum, computed on the server; bytes do not travel.

use std::collections::HashSet;
use std::ffi::OsStr;

use pgfiles_store::body::Body;
use pgfiles_store::pg::connect::{Connection, Need};
use pgfiles_store::{Key, VersionNo};
use tokio_postgres::Row;
use uuid::Uuid;

use super::Finding;
use super::server::all;
use crate::cli::Context;
use crate::config::units;
use crate::connect;
use crate::exit::{Failure, Result};
use crate::files::shown;
use crate::output::Terminal;
use crate::service::Talk as _;

/// Rows of one request.
const PAGE_ROWS: i64 = 500;
/// Rows of a body that are asked for at a time.
const IDS: usize = 64;
/// Damaged versions that are named.
const SHOWN: usize = 20;

/// Versions whose bytes are in one row, their own or another's: whether they are what the etag says. Etags of other tools are passed over.
const SINGLE: &str = "SELECT v.id, v.key, v.meta->>'version', octet_length(b.data)::bigint, \
    b.data IS NOT NULL AND encode(sha256(b.data), 'hex') = v.meta->>'etag' \
    FROM pgfiles v LEFT JOIN pgfiles b ON b.id = CASE WHEN v.meta ? 'body' THEN (v.meta->>'body')::uuid ELSE v.id END \
    WHERE v.id > $1 AND (v.key ^@ $2 OR v.key = $3) AND left(v.key, 1) <> '/' AND NOT v.meta ? 'layout' \
    AND v.meta->>'etag' ~ '^[0-9a-f]{64}$' ORDER BY v.id LIMIT $4";

/// Versions in chunks.
const CHUNKED: &str = "SELECT id, key, meta->>'version', (meta->>'size')::bigint FROM pgfiles \
    WHERE id > $1 AND (key ^@ $2 OR key = $3) AND left(key, 1) <> '/' AND meta ? 'layout' ORDER BY id LIMIT $4";

/// Rows of bodies that are not what their sum says, or not there.
const PIECES: &str = "SELECT w.id FROM unnest($1::uuid[]) w(id) LEFT JOIN pgfiles b ON b.id = w.id \
    WHERE b.id IS NULL OR b.meta ? 'sum' AND encode(sha256(b.data), 'hex') IS DISTINCT FROM b.meta->>'sum'";

/// What was looked at, and what is damaged.
#[derive(Default)]
struct Looked {
    versions: u64,
    bytes: u64,
    damaged: Vec<String>,
}

/// Of what lies at a path, or under the prefix; all versions.
///
/// # Errors
/// The path leads nowhere; what the server says.
pub(super) async fn verify(context: &Context, path: Option<&OsStr>) -> Result<Finding> {
    let key = match path {
        Some(path) => context.locate(path)?.1.key,
        None => context.settings.prefix.as_str().to_owned(),
    };
    let below = if key.is_empty() || key.ends_with('/') { key.clone() } else { format!("{key}/") };
    let scope = (below, key.trim_end_matches('/').to_owned());
    let direct = connect::open(context).await?;
    let (connection, _lease) = connect::session(context, Need::Server).await?;
    let terminal = Terminal::default();
    let mut looked = Looked::default();
    pages(&connection, SINGLE, &scope, async |row| {
        looked.versions += 1;
        looked.bytes += u64::try_from(row.try_get::<_, Option<i64>>(3).ok().flatten().unwrap_or(0)).unwrap_or(0);
        if !row.try_get::<_, bool>(4).unwrap_or(false) {
            looked.damaged.push(name(row));
        }
        terminal.progress(looked.versions, None, "versions");
        Ok(())
    })
    .await?;
    let mut good: HashSet<Uuid> = HashSet::new();
    let mut bad: HashSet<Uuid> = HashSet::new();
    pages(&connection, CHUNKED, &scope, async |row| {
        looked.versions += 1;
        looked.bytes += u64::try_from(row.try_get::<_, Option<i64>>(3).ok().flatten().unwrap_or(0)).unwrap_or(0);
        match pieces(&direct, row).await? {
            None => looked.damaged.push(name(row)),
            Some(ids) => {
                let new: Vec<Uuid> = ids.iter().copied().filter(|id| !good.contains(id) && !bad.contains(id)).collect();
                for part in new.chunks(IDS) {
                    let found = all(&connection, PIECES, &[&part]).await?;
                    bad.extend(found.iter().filter_map(|row| row.try_get::<_, Uuid>(0).ok()));
                }
                good.extend(new.iter().filter(|id| !bad.contains(*id)));
                if ids.iter().any(|id| bad.contains(id)) {
                    looked.damaged.push(name(row));
                }
            }
        }
        terminal.progress(looked.versions, None, "versions");
        Ok(())
    })
    .await?;
    terminal.clear();
    Ok(finding(&looked))
}

fn finding(looked: &Looked) -> Finding {
    let (versions, bytes) = (looked.versions, units::show_bytes(looked.bytes));
    if looked.damaged.is_empty() {
        return Finding::ok("contents", format!("{versions} versions ({bytes}) are what their checksums say"));
    }
    let named: Vec<&str> = looked.damaged.iter().take(SHOWN).map(String::as_str).collect();
    let more = looked.damaged.len() - named.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let message = format!("{} of {versions} versions are damaged: {}{more}", looked.damaged.len(), named.join(", "));
    Finding::fail(
        "contents",
        message,
        "restore an older version of these (`pgfiles restore`), or the table from a backup; then look for what wrote to it",
    )
}

/// Key and number.
fn name(row: &Row) -> String {
    let text = |column: usize| row.try_get::<_, Option<String>>(column).ok().flatten().unwrap_or_default();
    format!("{} version {}", shown(&text(1)), text(2))
}

/// All rows of a question, page by page.
async fn pages(
    connection: &Connection,
    question: &str,
    (below, exact): &(String, String),
    mut each: impl AsyncFnMut(&Row) -> Result<()>,
) -> Result<()> {
    let mut after = Uuid::nil();
    loop {
        let rows = all(connection, question, &[&after, below, exact, &PAGE_ROWS]).await?;
        for row in &rows {
            each(row).await?;
            after = row.try_get(0).map_err(|error| Failure::failed(error.to_string()))?;
        }
        if rows.len() < PAGE_ROWS as usize {
            return Ok(());
        }
    }
}

/// The rows that hold a version's bytes; `None`: its manifest leads nowhere.
async fn pieces(direct: &connect::Direct, row: &Row) -> Result<Option<HashSet<Uuid>>> {
    let text = |column: usize| row.try_get::<_, Option<String>>(column).ok().flatten().unwrap_or_default();
    let Ok(key) = Key::new(&text(1)) else { return Ok(None) };
    let store = &*direct.service.store;
    let version = VersionNo(text(2).parse().unwrap_or(0));
    let found = store.versions(&key, Some(VersionNo(version.0 + 1)), 1).await?;
    // Purged since, or replaced by whoever writes it.
    let Some(head) = found.into_iter().find(|head| head.version == version) else { return Ok(Some(HashSet::new())) };
    match Body::open(store, &head).await {
        Ok(Body::Chunked { lineage, manifest, leaves, .. }) => {
            let mut ids: HashSet<Uuid> = leaves.iter().flatten().map(|leaf| leaf.0).collect();
            ids.extend((0..manifest.entries.len()).filter_map(|index| Some(manifest.part(index, lineage, 0, 1)?.id.0)));
            Ok(Some(ids))
        }
        Ok(Body::Inline { .. }) => Ok(Some(HashSet::new())),
        Err(error) if error.kind() == pgfiles_store::error::Kind::Corrupt => Ok(None),
        Err(error) => Err(error.into()),
    }
}
