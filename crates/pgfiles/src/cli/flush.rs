//! `pgfiles flush`.

use std::ffi::OsString;

use serde_json::json;

use super::Context;
use crate::control::client;
use crate::control::protocol::Call;
use crate::exit::{Exit, Result};
use crate::output::{self, Terminal};
use crate::service::Target;

/// Commit everything that was written and wait until it is on the server's disk.
///
/// With --discard, give up what the server refuses for good, so that the mount can be written to again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles flush\n  pgfiles flush /workspace/results")]
pub(super) struct Args {
    /// A file or directory in a mount; all mounts of the user if missing.
    path: Option<OsString>,
    /// Give up what cannot be committed.
    #[arg(long)]
    discard: bool,
    /// Do not ask (with --discard).
    #[arg(long, short)]
    yes: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    if args.discard {
        output::confirm("Give up what was written and cannot be committed?", args.yes)?;
    }
    let terminal = Terminal::default();
    let mut answers = Vec::new();
    for mount in context.mounts(args.path.as_deref())? {
        let path = match &args.path {
            Some(arg) => {
                let (_, Target { key, .. }) = context.locate(arg)?;
                Some(key)
            }
            None => None,
        };
        let answer = client::call(&mount, &Call::Flush { path, discard: args.discard }, &terminal).await?;
        answers.push(json!({"mountpoint": mount.mountpoint.to_string_lossy(), "flushed": answer}));
    }
    terminal.clear();
    if args.json {
        output::json(&answers.into())?;
    } else if answers.is_empty() {
        output::say("no live mount");
    }
    Ok(Exit::Done)
}
