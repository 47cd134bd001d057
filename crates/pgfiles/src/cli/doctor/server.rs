//! What `doctor` asks of the server, each question bounded in time.

use std::time::{Duration, Instant};

use pgfiles_store::clock::{Clock as _, SystemClock};
use pgfiles_store::pg::connect::{Connection, Need};
use pgfiles_store::pg::dsn::Host;
use pgfiles_store::version::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Finding;
use crate::cli::Context;
use crate::connect::{self, Login};
use crate::exit::Failure;

/// How long a question may take; rows of a large table take the longest.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// A round trip above that is worth a word.
const FAR_AWAY: Duration = Duration::from_millis(20);
/// Clocks further apart than that are worth a word.
const SKEW_SECONDS_MAX: i64 = 2;
/// Keys named per finding.
const SHOWN: usize = 5;

pub(super) async fn check(context: &Context) -> Vec<Finding> {
    if context.settings.dsn.is_none() {
        return vec![Finding::fail("server", "no DSN", "set PGFILES_DSN, pass --dsn, or use `local:`")];
    }
    let (connection, _lease) = match connect::session(context, Need::Server).await {
        Ok(session) => session,
        Err(failure) => {
            return vec![Finding::fail("server", failure.message, "check PGFILES_DSN, the server, and the way to it")];
        }
    };
    let mut found = Vec::new();
    let asked = Instant::now();
    match one(&connection, SERVER, &[]).await {
        Ok(row) => found.extend(server(&row, asked.elapsed())),
        Err(failure) => found.push(Finding::fail("server", failure.message, "try again; see the server's log")),
    }
    found.extend(pooler(context, &connection).await);
    match one(&connection, "SELECT pgfiles_schema()->>'version'", &[]).await {
        Ok(row) => found.push(Finding::ok("schema", format!("version {}", text(&row, 0)))),
        Err(_) => {
            found.push(Finding::fail(
                "schema",
                "the table pgfiles or its functions are not there",
                "run `pgfiles init` as the owner",
            ));
            return found;
        }
    }
    found.push(rights(&connection).await);
    let prefix = context.settings.prefix.as_str();
    for question in &ROWS {
        found.push(rows(&connection, prefix, question).await);
    }
    found
}

const SERVER: &str = "SELECT current_setting('server_version'), current_setting('synchronous_commit'), \
    to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), pg_is_in_recovery()::text, \
    current_setting('server_encoding')";

fn server(row: &Row, took: Duration) -> Vec<Finding> {
    let mut found = Vec::new();
    let what = format!("PostgreSQL {}, {}, a round trip takes {:.1} ms", text(row, 0), text(row, 4), took.as_secs_f64() * 1000.0);
    found.push(if took > FAR_AWAY {
        Finding::warn(
            "server",
            what,
            "every new file waits for one: run pgfiles nearer to the server, or set PGFILES_DURABILITY=writeback",
        )
    } else {
        Finding::ok("server", what)
    });
    if text(row, 1) == "off" {
        let message = "synchronous_commit is off on the server: fsync(2) in a mount uses `local` instead";
        found.push(Finding::warn("server", message, "nothing to do, unless other writers should be durable, too"));
    }
    if text(row, 3) == "true" {
        found.push(Finding::warn("server", "it is a standby", "mount with PGFILES_READ_ONLY=true, or connect to the primary"));
    }
    if let Some(theirs) = Timestamp::parse(&text(row, 2)) {
        let apart = (theirs.seconds - SystemClock.now().seconds).abs();
        if apart > SKEW_SECONDS_MAX {
            found.push(Finding::warn(
                "clock",
                format!("the server's clock is {apart} s away from this machine's"),
                "set both by NTP: times of files differ",
            ));
        }
    }
    found
}

/// Whether something stands between us and the server: it listens on another port than the one we reached.
async fn pooler(context: &Context, connection: &Connection) -> Option<Finding> {
    let dsn = context.settings.dsn().ok()?;
    let ready = connect::ready(dsn, &Login::of_process()).await.ok()?;
    let tcp: Vec<u16> = ready.dsn.hosts.iter().filter(|end| matches!(end.host, Host::Tcp(_))).map(|end| end.port).collect();
    let row = one(connection, "SELECT coalesce(inet_server_port()::text, '')", &[]).await.ok()?;
    let theirs: Option<u16> = text(&row, 0).parse().ok();
    let between = !tcp.is_empty() && theirs.is_none_or(|port| !tcp.contains(&port));
    between.then(|| {
        let message = "a pooler or proxy stands between here and the server";
        let remedy = "pgfiles works through it; PGFILES_NOTIFY needs session mode or a direct connection";
        Finding::warn("pooler", message, remedy)
    })
}

async fn rights(connection: &Connection) -> Finding {
    // A role with a grant may change `meta` alone, and delete nothing.
    const QUERY: &str = "SELECT current_user::text, concat_ws(', ', \
        CASE WHEN NOT has_table_privilege('pgfiles', 'SELECT') THEN 'SELECT' END, \
        CASE WHEN NOT has_table_privilege('pgfiles', 'INSERT') THEN 'INSERT' END, \
        CASE WHEN NOT has_any_column_privilege('pgfiles', 'UPDATE') THEN 'UPDATE' END, \
        CASE WHEN NOT (has_table_privilege('pgfiles', 'DELETE') OR row_security_active('pgfiles')) THEN 'DELETE' END), \
        row_security_active('pgfiles')::text";
    match one(connection, QUERY, &[]).await {
        Ok(row) => {
            let (role, missing, fenced) = (text(&row, 0), text(&row, 1), text(&row, 2) == "true");
            if !missing.is_empty() {
                let remedy = format!("as the owner: GRANT SELECT, INSERT, UPDATE, DELETE ON pgfiles TO {role}");
                return Finding::fail("rights", format!("role {role} lacks {missing} on the table"), remedy);
            }
            let how = if fenced { ", confined by row security (`pgfiles grants`)" } else { "" };
            Finding::ok("rights", format!("role {role} may read and write{how}"))
        }
        Err(failure) => Finding::fail("rights", failure.message, "as the owner: GRANT SELECT, INSERT, UPDATE, DELETE ON pgfiles"),
    }
}

/// A question about the rows under the prefix: at most a few keys come back.
struct Question {
    check: &'static str,
    good: &'static str,
    bad: &'static str,
    remedy: &'static str,
    query: &'static str,
}

const ROWS: [Question; 5] = [
    Question {
        check: "keys",
        good: "every key can be a path",
        bad: "keys that no path can have, so that no mount shows them",
        remedy: "read them with SELECT pgfiles_read(key); give them another key with UPDATE",
        query: "SELECT key FROM pgfiles WHERE key ^@ $1 AND left(key, 1) <> '/' AND key !~ '^[^/].*[^/]//[0-9]+/' AND (key ~ '//|(^|/)[.][.]?(/|$)' \
                OR octet_length(key) > 255 AND EXISTS (SELECT FROM unnest(string_to_array(key, '/')) part WHERE octet_length(part) > 255)) \
                GROUP BY key LIMIT 6",
    },
    Question {
        check: "keys",
        good: "no file is a directory as well",
        bad: "files that are prefixes of other keys as well: a mount shows the directory",
        remedy: "read them with SELECT pgfiles_read(key); give them another key with UPDATE",
        query: "SELECT f.key FROM pgfiles_live f WHERE f.key ^@ $1 AND right(f.key, 1) <> '/' \
                AND EXISTS (SELECT FROM pgfiles_live d WHERE d.key ~>=~ (f.key || '/') AND d.key ~<~ (f.key || '0')) LIMIT 6",
    },
    Question {
        check: "rows",
        good: "every row has its fields",
        bad: "rows without a version, as before `init` or with triggers disabled: they are not shown",
        remedy: "run `pgfiles init`, which gives them one",
        query: "SELECT key FROM pgfiles WHERE key ^@ $1 AND (jsonb_typeof(meta) <> 'object' \
                OR coalesce(jsonb_typeof(meta->'version'), '') <> 'number') LIMIT 6",
    },
    Question {
        check: "rows",
        good: "every layout is known",
        bad: "files whose layout this release does not know: reading them gives EIO",
        remedy: "upgrade pgfiles, or restore an older version",
        query: "SELECT key FROM pgfiles WHERE key ^@ $1 AND meta ? 'layout' AND meta->'layout'->>'codec' IS DISTINCT FROM 'chunks' LIMIT 6",
    },
    Question {
        check: "rows",
        good: "every reference leads somewhere",
        bad: "versions whose bytes are gone, removed by something other than pgfiles: reading them gives EIO",
        remedy: "restore an older version, or purge these",
        query: "SELECT key FROM pgfiles v WHERE key ^@ $1 AND meta ? 'body' AND NOT EXISTS (SELECT FROM pgfiles b \
                WHERE b.id::text = v.meta->>'body') LIMIT 6",
    },
];

async fn rows(connection: &Connection, prefix: &str, question: &Question) -> Finding {
    let asked = all(connection, question.query, &[&prefix]).await;
    let rows = match asked {
        Ok(rows) => rows,
        Err(failure) => {
            return Finding::warn(
                question.check,
                format!("not looked at: {}", failure.message),
                "try again, with a PGFILES_PREFIX",
            );
        }
    };
    if rows.is_empty() {
        return Finding::ok(question.check, question.good);
    }
    let keys: Vec<String> = rows.iter().take(SHOWN).map(|row| format!("{:?}", text(row, 0))).collect();
    let more = if rows.len() > SHOWN { " and more" } else { "" };
    Finding::warn(question.check, format!("{}: {}{more}", question.bad, keys.join(", ")), question.remedy)
}

async fn one(connection: &Connection, query: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, Failure> {
    let mut rows = all(connection, query, params).await?;
    rows.pop().ok_or_else(|| Failure::failed("the server answered nothing"))
}

/// The rows of an answer.
pub(super) async fn all(connection: &Connection, query: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Failure> {
    match tokio::time::timeout(ANSWER_WAIT, connection.client.query(query, params)).await {
        Ok(Ok(rows)) => Ok(rows),
        Ok(Err(error)) => {
            Err(Failure::failed(error.as_db_error().map_or_else(|| error.to_string(), |said| said.message().to_owned())))
        }
        Err(_) => Err(Failure::failed(format!("no answer within {} s", ANSWER_WAIT.as_secs()))),
    }
}

fn text(row: &Row, column: usize) -> String {
    row.try_get::<_, Option<String>>(column).ok().flatten().unwrap_or_default()
}
