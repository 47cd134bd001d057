//! `pgfiles du`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use pgfiles_store::Entry;
use serde_json::json;

use super::Context;
use super::reach::Reach;
use crate::config::units;
use crate::exit::{Exit, Result};
use crate::files::{Amount, There, shown};
use crate::output;

/// Add up files and bytes below directories; with --history, what older versions and deleted files hold as well.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles du\n  pgfiles du --depth 2 results\n  pgfiles du --history --json")]
pub(super) struct Args {
    /// Local paths in a mount, paths under the prefix, or `key:` and whole keys. The prefix itself if missing.
    paths: Vec<OsString>,
    /// Directories down to that depth; 0 is the sum alone.
    #[arg(short, long, default_value_t = 1)]
    depth: usize,
    /// What the table holds besides: versions that are not the newest, and shared rows of large files. Reads all of it.
    #[arg(long)]
    history: bool,
    /// A JSON object per line.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let mut reach = Reach::new(&context);
    let paths = if args.paths.is_empty() { vec![OsString::from(".")] } else { args.paths.clone() };
    for path in &paths {
        let spot = reach.at(path).await?;
        let dir = match spot.files.find(&spot.target).await? {
            There::Dir(dir, _) => dir,
            There::File(head) => {
                print(&args, &spot.target.shown, Amount { files: 1, bytes: head.meta.size })?;
                continue;
            }
        };
        let mut sums: BTreeMap<String, Amount> = BTreeMap::new();
        let mut total = Amount::default();
        spot.files
            .tree(&dir, |node| {
                if let Entry::File(head) = &node.entry {
                    let amount = |sum: &mut Amount| {
                        sum.files += 1;
                        sum.bytes += head.meta.size;
                    };
                    amount(&mut total);
                    for (at, _) in node.path.match_indices('/').take(args.depth) {
                        amount(sums.entry(node.path[..at].to_owned()).or_default());
                    }
                }
                Ok(())
            })
            .await?;
        for (path, sum) in &sums {
            print(&args, path, *sum)?;
        }
        let name = if spot.target.shown.is_empty() { "." } else { &spot.target.shown };
        print(&args, name, total)?;
        if args.history {
            let usage = spot.files.store.usage(&dir).await?;
            let (rows, bytes) = (usage.history_rows, usage.history_bytes);
            if args.json {
                output::line(json!({
                    "path": name, "history_rows": rows, "history_bytes": bytes, "body_rows": usage.body_rows, "body_bytes": usage.body_bytes,
                }))?;
            } else {
                output::line(format!(
                    "{:>10}  {rows:>9}  older versions and deleted files of {}",
                    units::show_bytes(bytes),
                    shown(name)
                ))?;
                let (rows, bytes) = (usage.body_rows, units::show_bytes(usage.body_bytes));
                output::line(format!("{bytes:>10}  {rows:>9}  rows that hold the bytes of large files, of all versions"))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn print(args: &Args, path: &str, sum: Amount) -> Result<()> {
    if args.json {
        return output::line(json!({"path": path, "files": sum.files, "bytes": sum.bytes}));
    }
    output::line(format!("{:>10}  {:>9}  {}", units::show_bytes(sum.bytes), sum.files, shown(path)))
}
