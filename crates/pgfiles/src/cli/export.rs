//! `pgfiles export`.

use std::ffi::OsString;
use std::path::PathBuf;

use pgfiles_store::clock::{Clock as _, SystemClock};

use super::Context;
use super::import::{said, told};
use super::reach::{Progress, Reach};
use crate::exit::{Exit, Failure, Result};
use crate::files::{There, moment, write_archive};
use crate::output;

/// Copy a directory, now or as of a moment, to one of this machine, or to stdout as a tar archive.
///
/// Local files that are there already with the same size and time are left alone, so that the same command goes on where it stopped;
/// others that are there are replaced. Nothing is removed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  pgfiles export ./copy\n  pgfiles export results ./results --at 2026-01-31T12:00:00Z\n  pgfiles export results - | gzip > results.tar.gz"
)]
pub(super) struct Args {
    /// What (the prefix itself if missing), then the local directory or `-`.
    #[arg(required = true, num_args = 1..=2, value_name = "[PATH] LOCAL")]
    paths: Vec<OsString>,
    /// As it was then: a time such as 2026-01-31T12:00:00Z, or a span before now such as 2h. Asks for the versions of each file.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Print the answer as JSON, on stderr for an archive.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let Some((to, from)) = args.paths.split_last() else { return Err(Failure::usage("where to?")) };
    let at = args.at.as_deref().map(|text| moment(text, SystemClock.now())).transpose()?;
    let mut reach = Reach::new(&context);
    let spot = reach.at_or_prefix(from.first().map(OsString::as_os_str)).await?;
    let dir = match spot.files.look(&spot.target).await? {
        Some(There::Dir(dir, _)) => dir,
        Some(There::File(_)) => return Err(Failure::usage(format!("{} is a file: `pgfiles get` copies it", spot.target.shown))),
        // It may have been there then.
        None if at.is_some() => spot.files.key(&spot.target).await?.as_dir(),
        None => return spot.files.find(&spot.target).await.map(|_| Exit::Done),
    };
    let progress = Progress::new("exported");
    let archive = to == "-";
    let done = if archive {
        use std::io::IsTerminal as _;
        if std::io::stdout().is_terminal() {
            return Err(Failure::usage("an archive is not for a terminal: send it to a file or a pipe"));
        }
        write_archive(&spot.files, &dir, at, std::io::BufWriter::new(std::io::stdout()), &progress).await?
    } else {
        spot.files.export(&dir, &PathBuf::from(to), at, &progress).await?
    };
    let said = said(&done, progress.seconds());
    if args.json && !archive {
        output::json(&said)?;
    } else if args.json {
        eprintln!("{said}");
    } else {
        output::say(told(&done, progress.seconds()));
    }
    progress.end(done.written, done.failed)
}
