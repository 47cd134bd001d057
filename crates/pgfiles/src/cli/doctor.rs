//! `pgfiles doctor`.

use super::Context;
use crate::exit::{Exit, Result};

/// Check what pgfiles needs and what it finds, and say what to do about each thing that is not right.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(_context: Context, args: Args) -> Result<Exit> {
    let _ = args.json;
    Ok(Exit::Done)
}
