//! `pgfiles version`.

use std::ffi::OsString;

use serde_json::Value;

use super::Context;
use crate::config::units;
use crate::exit::{Exit, Result};
use crate::output;
use crate::service::Request;

/// List the versions of a file, newest first: number, time, size, what it is, who wrote it.
///
/// Of a directory, list its moments: each is a transaction that wrote something below it, and can be given to `restore`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  pgfiles version notes.md\n  pgfiles version --limit 5 --json notes.md\n  pgfiles version results/"
)]
pub(super) struct Args {
    /// A local path in a mount, a path under the prefix, or `key:` and a whole key. Need not exist any more.
    path: OsString,
    /// At most that many.
    #[arg(long)]
    limit: Option<u64>,
    /// Print an array, newest first, of the fields of docs/schema.md.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let (route, target) = context.locate(&args.path)?;
    let answer = context.execute(&route, Request::Versions { target, limit: args.limit }).await?;
    let versions = answer["versions"].as_array().cloned().unwrap_or_default();
    if args.json {
        output::json(&Value::Array(versions))?;
    } else {
        let row = if answer["kind"] == "dir" { moment } else { version };
        output::table(&versions.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(Exit::Done)
}

fn version(version: &Value) -> Vec<String> {
    let text = |field: &str| version[field].as_str().unwrap_or_default().to_owned();
    let what = if version["deleted"] == true {
        match version["to"]["key"].as_str() {
            Some(to) => format!("moved to {to}"),
            None => "deleted".into(),
        }
    } else if let Some(from) = version["restored_from"].as_u64() {
        format!("restored from {from}")
    } else if let Some(from) = version["from"]["key"].as_str() {
        format!("moved from {from}")
    } else {
        text("kind")
    };
    let size = if version["deleted"] == true { "-".into() } else { units::show_bytes(version["size"].as_u64().unwrap_or(0)) };
    vec![version["version"].to_string(), text("created_at"), size, what, who(&version["by"])]
}

fn moment(moment: &Value) -> Vec<String> {
    let count = moment["versions"].as_u64().unwrap_or(0);
    let count = format!("{count} version{}", if count == 1 { "" } else { "s" });
    vec![moment["number"].to_string(), moment["at"].as_str().unwrap_or_default().to_owned(), count, who(&moment["by"])]
}

/// Host and tags, or whatever the writer was.
fn who(by: &Value) -> String {
    let mut parts: Vec<String> = ["host", "role"].iter().filter_map(|field| by[*field].as_str().map(str::to_owned)).collect();
    if let Some(tags) = by["tags"].as_object() {
        parts.extend(tags.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())));
    }
    parts.join(" ")
}
