//! `pgfiles rm`.

use std::ffi::OsString;

use super::Context;
use super::put::below;
use super::reach::{Reach, Spot};
use crate::exit::{Exit, Failure, Result};
use crate::files::{Amount, is_pattern, shown};
use crate::output;
use crate::service::Target;

/// Delete files, with -r directories with all below. The history stays: `restore` brings each back, `purge` removes it for good.
///
/// A path with *, ?, [ or { that names nothing is a pattern; ** passes over directories. -r, more than one file of a pattern, asks
/// on a terminal.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles rm notes.md\n  pgfiles rm -r --yes build\n  pgfiles rm --dry-run 'logs/**/*.gz'")]
pub(super) struct Args {
    /// Local paths in a mount, paths under the prefix, patterns of these, or `key:` and whole keys.
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// Directories with all below.
    #[arg(short, long)]
    recursive: bool,
    /// What is not there is no error.
    #[arg(short, long)]
    force: bool,
    /// Say what would be deleted; delete nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let mut reach = Reach::new(&context);
    let mut wanted: Vec<(Spot, Target)> = Vec::new();
    let mut asks = args.recursive;
    for path in &args.paths {
        let spot = reach.at(path).await?;
        if spot.files.look(&spot.target).await?.is_some() {
            let target = spot.target.clone();
            wanted.push((spot, target));
            continue;
        }
        let found = if is_pattern(&spot.target.key) { matching(&spot).await? } else { Vec::new() };
        if found.is_empty() && !args.force {
            // Says what became of it.
            spot.files.find(&spot.target).await?;
        }
        asks |= found.len() > 1;
        wanted.extend(found);
    }
    if args.dry_run {
        for (_, target) in &wanted {
            output::line(format!("would delete {}", target.shown))?;
        }
        return Ok(Exit::Done);
    }
    if asks && !wanted.is_empty() {
        let names: Vec<&str> = wanted.iter().take(3).map(|(_, target)| target.shown.as_str()).collect();
        let more = wanted.len().saturating_sub(names.len());
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        output::confirm(&format!("Delete {}{more}?", names.join(", ")), args.yes)?;
    }
    let mut total = Amount::default();
    for (spot, target) in &wanted {
        let removed = spot.files.remove(target, args.recursive).await?;
        total.files += removed.files;
        reach.changed(spot, &target.key);
        reach.changed(spot, &format!("{}/", target.key.trim_end_matches('/')));
    }
    reach.end().await;
    if args.json {
        output::json(&serde_json::json!({"files": total.files}))?;
    }
    Ok(Exit::Done)
}

/// What a pattern names, below the directory that its first components name without one.
async fn matching(spot: &Spot) -> Result<Vec<(Spot, Target)>> {
    let key = spot.target.key.trim_end_matches('/');
    let fixed = key.split('/').take_while(|component| !is_pattern(component)).map(|component| component.len() + 1).sum::<usize>();
    let (dir, pattern) = (&key[..fixed], &key[fixed..]);
    let above = Target { key: dir.to_owned(), shown: dir.strip_prefix(spot.files.fence.as_str()).unwrap_or(dir).to_owned() };
    let within = if dir.is_empty() { pgfiles_store::Prefix::default() } else { spot.files.key(&above).await?.as_dir() };
    if !within.as_str().starts_with(spot.files.fence.as_str()) {
        return Err(Failure::usage(format!("{}: the prefix itself is no pattern", shown(&spot.target.key))));
    }
    let mut found = Vec::new();
    for node in spot.files.matching(&within, pattern).await? {
        found.push((spot.clone(), below(&above, &node.path)));
    }
    Ok(found)
}
