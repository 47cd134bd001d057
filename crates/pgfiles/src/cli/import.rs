//! `pgfiles import`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Context;
use super::put::tags;
use super::reach::{Progress, Reach};
use crate::config::units;
use crate::exit::{Exit, Failure, Result};
use crate::files::{There, Transfer, read_archive};
use crate::output;

/// Write a tree of this machine, or a tar archive from stdin, to a directory: links, modes, times and holes included.
///
/// Files that are there already with the same size and time are left alone, so that the same command goes on where it stopped.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  pgfiles import ./project\n  pgfiles import ./inputs task-7/inputs --tag run=17\n  curl -s https://example.com/data.tar | pgfiles import - data"
)]
pub(super) struct Args {
    /// A local directory, or `-` for a tar archive on stdin.
    from: PathBuf,
    /// Where to: a local path in a mount, a path under the prefix, or `key:` and a whole key. The prefix itself if missing.
    to: Option<OsString>,
    /// Tags of each file, besides those that it has.
    #[arg(id = "tag", long = "tag", value_name = "NAME=VALUE")]
    tags: Vec<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let tags = tags(&args.tags)?;
    if args.from.as_os_str() != "-" && !args.from.is_dir() {
        return Err(match args.from.exists() {
            true => Failure::usage(format!("{} is not a directory: `pgfiles put` writes a file", args.from.display())),
            false => Failure::not_found(format!("{}: no such directory", args.from.display())),
        });
    }
    let mut reach = Reach::new(&context);
    let spot = reach.at_or_prefix(args.to.as_deref()).await?;
    let dir = match spot.files.look(&spot.target).await? {
        Some(There::Dir(dir, _)) => dir,
        Some(There::File(_)) => return Err(Failure::conflict(format!("{} is a file", spot.target.shown))),
        None => spot.files.key(&spot.target).await?.as_dir(),
    };
    if let Some(key) = dir.marker() {
        spot.files.room(&key).await?;
    }
    let progress = Progress::new("imported");
    let done = match args.from.as_os_str() == "-" {
        true => read_archive(&spot.files, std::io::stdin(), &dir, &tags, &progress).await,
        false => spot.files.import(Path::new(&args.from), &dir, &tags, &progress).await,
    };
    reach.changed(&spot, dir.as_str());
    reach.end().await;
    let done = done?;
    if args.json {
        output::json(&said(&done, progress.seconds()))?;
    } else {
        output::say(told(&done, progress.seconds()));
    }
    progress.end(done.written, done.failed)
}

pub(super) fn said(done: &Transfer, seconds: f64) -> Value {
    json!({
        "files": done.written.files, "bytes": done.written.bytes, "unchanged": done.unchanged.files, "failed": done.failed,
        "seconds": (seconds * 1e3).round() / 1e3,
    })
}

/// The same for a person.
pub(super) fn told(done: &Transfer, seconds: f64) -> String {
    let (files, bytes) = (done.written.files, units::show_bytes(done.written.bytes));
    format!("{files} written ({bytes}), {} unchanged, in {seconds:.1} s", done.unchanged.files)
}
