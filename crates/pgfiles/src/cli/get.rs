//! `pgfiles get`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use pgfiles_store::VersionNo;
use pgfiles_store::key::unescape;
use serde_json::json;

use super::Context;
use super::reach::{Progress, Reach};
use crate::exit::{Exit, Failure, Result};
use crate::files::{Amount, There, Watch as _};
use crate::output;

/// Copy files to this machine, or to stdout. Each is there whole, or what was there before still is.
///
/// The last argument is where to: a local directory that is there, for one file its new path, or `-`.
#[derive(Debug, clap::Args)]
#[command(
    disable_version_flag = true,
    after_help = "Examples:\n  pgfiles get reports/report.pdf .\n  pgfiles get --version 3 config.yaml config.old.yaml\n  pgfiles get -r results ./results"
)]
pub(super) struct Args {
    /// Local paths in a mount, paths under the prefix, or `key:` and whole keys; then where to.
    #[arg(required = true, num_args = 2.., value_name = "PATH… LOCAL")]
    paths: Vec<OsString>,
    /// Directories with all below, as `export` does.
    #[arg(short, long)]
    recursive: bool,
    /// That version, as `pgfiles version` numbers it; the newest if missing.
    #[arg(long, value_name = "N", conflicts_with = "recursive")]
    version: Option<u64>,
    /// Leave local files alone that are there already: an error (4).
    #[arg(short, long)]
    no_clobber: bool,
    /// A JSON object per file.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let Some((to, from)) = args.paths.split_last() else { return Err(Failure::usage("nothing to copy")) };
    let to = Path::new(to);
    let to_stdout = to.as_os_str() == "-";
    let is_dir = to.is_dir();
    if from.len() > 1 && !is_dir && !to_stdout {
        return Err(Failure::not_found(format!("{} is not a directory", to.display())));
    }
    let mut reach = Reach::new(&context);
    let progress = Progress::new("copied");
    let (mut total, mut failed) = (Amount::default(), 0);
    for path in from {
        let spot = reach.at(path).await?;
        let there = spot.files.find(&spot.target).await;
        let name = spot.target.key.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let at = if is_dir { to.join(OsString::from_vec(unescape(name))) } else { to.to_owned() };
        if let (Ok(There::Dir(dir, _)), None) = (&there, args.version) {
            if !args.recursive || to_stdout {
                return Err(Failure::usage(format!(
                    "{} is a directory: `pgfiles get -r` copies it to a directory, `pgfiles export {0} -` as an archive",
                    spot.target.shown
                )));
            }
            let done = spot.files.export(dir, &at, None, &progress).await?;
            total.files += done.written.files;
            total.bytes += done.written.bytes;
            failed += done.failed;
            if args.json {
                output::line(super::import::said(&done, progress.seconds()))?;
            }
            continue;
        }
        let head = spot.files.version(&spot.target, args.version.map(VersionNo)).await?;
        if to_stdout {
            super::cat::content(&spot.files, &head, (0, u64::MAX)).await?;
            continue;
        }
        if args.no_clobber && std::fs::symlink_metadata(&at).is_ok() {
            return Err(Failure::conflict(format!("{} is there already", at.display())));
        }
        let got = spot.files.get(&head, &at, &progress).await;
        if progress.is_over() {
            return progress.end(total, failed);
        }
        got?;
        total.files += 1;
        total.bytes += head.meta.size;
        if args.json {
            let local = at.to_string_lossy();
            output::line(json!({"key": head.key.as_str(), "version": head.version.0, "size": head.meta.size, "local": local}))?;
        }
    }
    progress.end(total, failed)
}
