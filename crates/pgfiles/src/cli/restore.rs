//! `pgfiles restore`.

use std::ffi::OsString;

use super::Context;
use crate::exit::{Exit, Result};
use crate::output;
use crate::service::Request;

/// Make an older version of a file, or an older state of a directory, the newest. Nothing is lost: it becomes a new version.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles restore notes.md 3\n  pgfiles restore results/ 2026-01-31T12:00:00Z")]
pub(super) struct Args {
    /// A local path in a mount, a path under the prefix, or `key:` and a whole key. Need not exist any more.
    path: OsString,
    /// The number that `pgfiles version` prints, or a time such as 2026-01-31T12:00:00Z.
    #[arg(value_name = "VERSION")]
    to: String,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let (route, target) = context.locate(&args.path)?;
    let answer = context.execute(&route, Request::Restore { target, to: args.to }).await?;
    if args.json {
        output::json(&answer)?;
        return Ok(Exit::Done);
    }
    let path = answer["path"].as_str().unwrap_or_default();
    output::line(match answer["files"].as_u64() {
        Some(files) => format!("{path}: {files} files restored to {}", answer["at"].as_str().unwrap_or_default()),
        None => format!("{path}: version {} restored as version {}", answer["restored_from"], answer["version"]),
    })?;
    Ok(Exit::Done)
}
