//! `pgfiles status`.

mod watch;

use std::ffi::OsString;
use std::time::Duration;

use serde_json::{Value, json};

use super::Context;
use crate::config::units;
use crate::control::client;
use crate::control::protocol::Call;
use crate::exit::{Exit, Result};
use crate::output::{self, Terminal};
use crate::registry::Listed;

/// How long a daemon may take: it answers without the server.
const PATIENCE: Duration = Duration::from_secs(10);

/// Show the mounts: what each is, whether its server answers, what is not committed yet, live and history bytes.
///
/// --json adds counts, latencies, round trips and queue depths per operation.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  pgfiles status\n  pgfiles status --watch=5s /workspace\n  pgfiles status --json | jq -r '.[].state'"
)]
pub(super) struct Args {
    /// A path in a mount; all mounts of the user if missing.
    path: Option<OsString>,
    /// Look again after each SPAN (1s) and show what happened since: operations, how long they took, hits, what is not saved.
    #[arg(long, value_name = "SPAN", num_args = 0..=1, require_equals = true, default_missing_value = "1s")]
    watch: Option<String>,
    /// Print the answer as JSON; with --watch an object per mount and look, each on a line.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let wanted = match &args.path {
        Some(path) => Some(context.mounts(Some(path))?),
        None => None,
    };
    if let Some(interval) = &args.watch {
        let ids = wanted.map(|all| all.into_iter().map(|mount| mount.id).collect::<Vec<_>>());
        return watch::watch(&context, ids.as_deref(), interval, args.json).await;
    }
    let listed: Vec<Listed> = context.dirs.list();
    let shown = listed.iter().filter(|l| wanted.as_ref().is_none_or(|all| all.iter().any(|m| m.id == l.mount.id)));
    let mut answers = Vec::new();
    for listed in shown {
        answers.push(one(listed, true).await);
    }
    if args.json {
        output::json(&Value::Array(answers))?;
    } else if answers.is_empty() {
        output::line("no live mount")?;
    } else {
        answers.iter().try_for_each(print)?;
    }
    Ok(Exit::Done)
}

async fn one(listed: &Listed, usage: bool) -> Value {
    let mount = &listed.mount;
    let mut answer = json!({
        "mountpoint": mount.mountpoint.to_string_lossy(), "prefix": mount.prefix, "server": mount.server, "id": mount.id,
        "pid": mount.pid, "backend": mount.backend, "read_only": mount.read_only, "started": mount.started,
        "log": mount.log.to_string_lossy(), "release": mount.release,
    });
    if !listed.alive {
        answer["state"] = "killed".into();
        return answer;
    }
    let terminal = Terminal::default();
    let asked = tokio::time::timeout(PATIENCE, client::call(mount, &Call::Status { usage }, &terminal)).await;
    match asked {
        Ok(Ok(Value::Object(fields))) => {
            for (name, value) in fields {
                answer[name] = value;
            }
        }
        Ok(Ok(_)) => {}
        Ok(Err(failure)) => {
            answer["state"] = "silent".into();
            answer["error"] = failure.message.into();
        }
        Err(_) => answer["state"] = "silent".into(),
    }
    answer
}

fn print(answer: &Value) -> Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let at = text(&answer["mountpoint"]);
    output::line(&at)?;
    let mut rows = vec![vec!["  server".into(), text(&answer["server"])]];
    let prefix = text(&answer["prefix"]);
    rows.push(vec!["  prefix".into(), if prefix.is_empty() { "(the whole table)".into() } else { prefix }]);
    rows.push(vec!["  state".into(), state(answer, &at)]);
    if let Some(unsaved) = answer["unsaved"].as_object() {
        let number = |field: &str| unsaved.get(field).and_then(Value::as_u64).unwrap_or(0);
        rows.push(vec![
            "  unsaved".into(),
            format!(
                "{} in {} open files, {} queued",
                units::show_bytes(number("bytes")),
                number("open_files"),
                number("queued_ops")
            ),
        ]);
    }
    if let Some(locks) = answer["locks"].as_u64() {
        rows.push(vec!["  locks".into(), format!("{locks} ranges held for all mounts of the prefix")]);
    }
    if let Some(usage) = answer["usage"].as_object() {
        let number = |field: &str| usage.get(field).and_then(Value::as_u64).unwrap_or(0);
        rows.push(vec!["  files".into(), format!("{} ({})", number("files"), units::show_bytes(number("bytes")))]);
        rows.push(vec![
            "  history".into(),
            format!("{} versions ({})", number("history_rows"), units::show_bytes(number("history_bytes"))),
        ]);
    }
    rows.push(vec!["  daemon".into(), format!("process {}, since {}", answer["pid"], text(&answer["started"]))]);
    rows.push(vec!["  log".into(), text(&answer["log"])]);
    output::table(&rows)?;
    for error in answer["errors"].as_array().into_iter().flatten() {
        output::line(format!("  error: {}: {}", text(&error["path"]), text(&error["error"])))?;
    }
    Ok(())
}

fn state(answer: &Value, at: &str) -> String {
    match answer["state"].as_str().unwrap_or_default() {
        "killed" => format!("its daemon was killed: run `pgfiles unmount {at}`"),
        "silent" => format!("its daemon does not answer: {}", answer["error"].as_str().unwrap_or("busy")),
        "away" => format!(
            "the server is away since {}: {}",
            answer["away_since"].as_str().unwrap_or_default(),
            answer["server_error"].as_str().unwrap_or_default()
        ),
        "read-only" => format!("read-only: {}", answer["read_only_because"].as_str().unwrap_or("as it was mounted")),
        other => other.to_owned(),
    }
}
