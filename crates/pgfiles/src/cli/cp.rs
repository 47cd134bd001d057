//! `pgfiles cp` and `pgfiles mv`.

use std::ffi::OsString;

use pgfiles_store::VersionNo;

use super::Context;
use super::reach::{Reach, Spot};
use crate::exit::{Exit, Failure, Result};
use crate::files::Moved;
use crate::output;

/// Copy a file, of any version, or with -r a directory, under the prefix. Bytes are shared, not copied.
#[derive(Debug, clap::Args)]
#[command(
    disable_version_flag = true,
    after_help = "Examples:\n  pgfiles cp report.md report.bak.md\n  pgfiles cp --version 3 config.yaml config.old.yaml\n  pgfiles cp -r run-1 run-2"
)]
pub(super) struct CopyArgs {
    /// What: a local path in a mount, a path under the prefix, or `key:` and a whole key.
    from: OsString,
    /// Where to: a directory that is there, or the new path.
    to: OsString,
    /// A directory with all below.
    #[arg(short, long)]
    recursive: bool,
    /// That version, as `pgfiles version` numbers it; the newest if missing.
    #[arg(long, value_name = "N", conflicts_with = "recursive")]
    version: Option<u64>,
    #[command(flatten)]
    how: How,
}

/// Move a file or a directory under the prefix, in one transaction; versions go on under the new name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles mv draft.md final.md\n  pgfiles mv inbox/task-7 done/")]
pub(super) struct MoveArgs {
    /// What: a local path in a mount, a path under the prefix, or `key:` and a whole key.
    from: OsString,
    /// Where to: a directory that is there, or the new path.
    to: OsString,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Leave what is there already alone: an error (4).
    #[arg(short, long)]
    no_clobber: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

async fn both(reach: &mut Reach<'_>, from: &OsString, to: &OsString) -> Result<(Spot, Spot)> {
    let (from, to) = (reach.at(from).await?, reach.at(to).await?);
    if !std::sync::Arc::ptr_eq(&from.files, &to.files) {
        return Err(Failure::usage(format!(
            "{} and {} are in two mounts, or one of them in none: `pgfiles get` and `pgfiles put` copy between them",
            from.target.shown, to.target.shown
        )));
    }
    Ok((from, to))
}

async fn end(mut reach: Reach<'_>, (from, to): (&Spot, &Spot), moved: &Moved, json: bool) -> Result<Exit> {
    reach.changed(from, &from.target.key);
    reach.changed(from, &format!("{}/", from.target.key.trim_end_matches('/')));
    reach.changed(to, &moved.key);
    reach.end().await;
    if json {
        output::json(&serde_json::to_value(moved).unwrap_or_default())?;
    }
    Ok(Exit::Done)
}

pub(super) async fn copy(context: Context, args: CopyArgs) -> Result<Exit> {
    let mut reach = Reach::new(&context);
    let (from, to) = both(&mut reach, &args.from, &args.to).await?;
    let how = (args.recursive, args.how.no_clobber);
    let copied = from.files.copy(&from.target, args.version.map(VersionNo), &to.target, how).await?;
    end(reach, (&from, &to), &copied, args.how.json).await
}

pub(super) async fn rename(context: Context, args: MoveArgs) -> Result<Exit> {
    let mut reach = Reach::new(&context);
    let (from, to) = both(&mut reach, &args.from, &args.to).await?;
    let moved = from.files.rename(&from.target, &to.target, args.how.no_clobber).await?;
    end(reach, (&from, &to), &moved, args.how.json).await
}
