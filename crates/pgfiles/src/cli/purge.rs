//! `pgfiles purge` and `pgfiles purge-prefix`.

use std::ffi::OsString;

use serde_json::Value;

use super::Context;
use super::locate::{Route, prefix_arg};
use crate::config::units;
use crate::exit::{Exit, Failure, Result};
use crate::output;
use crate::service::{Request, Target, What};

/// Remove a file with all its versions for good; or with --keep, --older-than, --dead a part of its history.
///
/// Of a directory: everything below. Bytes that other files still refer to are handed over to them. Asks first on a
/// terminal.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles purge --keep 10 notes.md\n  pgfiles purge --older-than 30d --dry-run results/")]
pub(super) struct Args {
    /// A local path in a mount, a path under the prefix, or `key:` and a whole key. Need not exist any more.
    path: OsString,
    #[command(flatten)]
    how: How,
}

/// Remove everything below a prefix for good, as `purge` does.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  pgfiles purge-prefix agents/7/ --dry-run\n  pgfiles purge-prefix agents/7/ --dead --older-than 30d --yes"
)]
pub(super) struct PrefixArgs {
    /// A whole prefix, such as agents/7/; never relative. Refused outside a PGFILES_PREFIX that is set.
    #[arg(value_name = "PREFIX")]
    under: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Keep that many newest versions of each file.
    #[arg(long, value_name = "N")]
    keep: Option<u32>,
    /// Remove only versions that were replaced or deleted at least that long ago, such as 30d.
    #[arg(long, value_name = "SPAN")]
    older_than: Option<String>,
    /// Remove only what was deleted (and not made again).
    #[arg(long)]
    dead: bool,
    /// Count what would be removed; remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

impl How {
    fn what(&self, dry_run: bool) -> Result<What> {
        let span = |text: &String| {
            let why = || Failure::usage(format!("--older-than: {text:?} is not allowed: a number with s, m, h or d after it"));
            units::span(text).map(|span| span.as_secs()).ok_or_else(why)
        };
        let older_than = self.older_than.as_ref().map(span).transpose()?;
        if self.keep == Some(0) {
            return Err(Failure::usage("--keep 0 would remove the files themselves: leave --keep out to do that"));
        }
        Ok(What { keep: self.keep, older_than, dead: self.dead, dry_run })
    }
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let (route, target) = context.locate(&args.path)?;
    purge(&context, &route, target, &args.how).await
}

pub(super) async fn run_prefix(context: Context, args: PrefixArgs) -> Result<Exit> {
    let prefix = prefix_arg(&args.under)?;
    let (route, target) = context.locate_key(prefix.as_str())?;
    purge(&context, &route, target, &args.how).await
}

async fn purge(context: &Context, route: &Route, target: Target, how: &How) -> Result<Exit> {
    let shown = if target.shown.is_empty() { "the whole table".to_owned() } else { target.shown.clone() };
    let what = how.what(how.dry_run)?;
    if !how.dry_run && !how.yes {
        let counted = context.execute(route, Request::Purge { target: target.clone(), what: how.what(true)? }).await?;
        output::confirm(&format!("Remove {} of {shown} for good?", counted_text(&counted)), false)?;
    }
    let answer = context.execute(route, Request::Purge { target, what }).await?;
    if how.json {
        output::json(&answer)?;
    } else {
        let done = if how.dry_run { "would remove" } else { "removed" };
        output::line(format!("{shown}: {done} {}", counted_text(&answer)))?;
    }
    Ok(Exit::Done)
}

fn counted_text(answer: &Value) -> String {
    let number = |field: &str| answer[field].as_u64().unwrap_or(0);
    let (rows, bodies) = (number("rows"), number("body_rows"));
    let bodies = if bodies == 0 { String::new() } else { format!(" and {bodies} rows of contents") };
    format!("{rows} version{}{bodies} ({})", if rows == 1 { "" } else { "s" }, units::show_bytes(number("bytes")))
}
