//! `pgfiles cat`.

use std::ffi::OsString;

use pgfiles_store::{Head, VersionNo};

use super::Context;
use super::reach::Reach;
use crate::config::units;
use crate::exit::{Exit, Failure, Result};
use crate::files::Files;
use crate::output;

/// Bytes that are read and written at a time.
const WINDOW_BYTES: u64 = 4 << 20;

/// Print the content of files, of any version, or a range of it.
#[derive(Debug, clap::Args)]
#[command(
    disable_version_flag = true,
    after_help = "Examples:\n  pgfiles cat notes.md\n  pgfiles cat --version 3 notes.md\n  pgfiles cat --range 1MiB..2MiB log.bin | xxd | head"
)]
pub(super) struct Args {
    /// A local path in a mount, a path under the prefix, or `key:` and a whole key.
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// That version, as `pgfiles version` numbers it; the newest if missing.
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    /// Only bytes from the first up to the second, which is not included; either may be missing: `100..`, `..1kB`.
    #[arg(long, value_name = "FROM..TO")]
    range: Option<String>,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let (from, to) = args.range.as_deref().map_or(Ok((0, u64::MAX)), range)?;
    let mut reach = Reach::new(&context);
    for path in &args.paths {
        let spot = reach.at(path).await?;
        let head = spot.files.version(&spot.target, args.version.map(VersionNo)).await?;
        content(&spot.files, &head, (from, to)).await?;
    }
    Ok(Exit::Done)
}

/// Prints a range of a version.
///
/// # Errors
/// It is no file; stdout's; the store's.
pub(super) async fn content(files: &Files, head: &Head, (from, to): (u64, u64)) -> Result<()> {
    let body = files.body(head).await?;
    let (mut at, end) = (from, to.min(body.size()));
    while at < end {
        let bytes = body.read(&*files.store, at, (end - at).min(WINDOW_BYTES)).await?;
        at += bytes.len() as u64;
        output::raw(&bytes)?;
    }
    Ok(())
}

fn range(text: &str) -> Result<(u64, u64)> {
    let wrong = || Failure::usage(format!("--range {text:?}: two sizes with `..` between, such as 100..200 or 1MiB.."));
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let side = |text: &str, missing| if text.is_empty() { Some(missing) } else { units::bytes(text) };
    match (side(from, 0), side(to, u64::MAX)) {
        (Some(from), Some(to)) if from <= to => Ok((from, to)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_two_ends() {
        assert_eq!(range("100..200").unwrap(), (100, 200));
        assert_eq!(range("1kB..").unwrap(), (1000, u64::MAX));
        assert_eq!(range("..7").unwrap(), (0, 7));
        for bad in ["5", "7..3", "a..b", ""] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
