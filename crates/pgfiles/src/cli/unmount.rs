//! `pgfiles unmount`.

use std::path::PathBuf;

use super::Context;
use super::locate::absolute;
use super::mount::clean;
use crate::config::units;
use crate::control::client;
use crate::control::protocol::Call;
use crate::exit::{Exit, Failure, Result};
use crate::output::{self, Terminal};
use crate::{mount_table, where_};

/// Commit everything, then end the mount. Says what it waits for; Ctrl-C leaves the mount up.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  pgfiles unmount /workspace\n  pgfiles unmount --timeout 30s /workspace\n  pgfiles unmount --force /workspace"
)]
pub(super) struct Args {
    /// The directory that is mounted on.
    path: PathBuf,
    /// Give up after that long, such as 30s, and leave the mount up.
    #[arg(long, value_name = "SPAN")]
    timeout: Option<String>,
    /// Do not wait: write what cannot be committed now into a directory that is named, then unmount.
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let at = absolute(&args.path)?;
    let shown = at.display();
    let span = |text: &String| {
        let why = || Failure::usage(format!("--timeout: {text:?} is not allowed: a number with ms, s, m or h after it"));
        units::span(text).map(|span| span.as_secs_f64()).ok_or_else(why)
    };
    let timeout = args.timeout.as_ref().map(span).transpose()?;
    if let Some(mount) = context.dirs.live().into_iter().find(|mount| mount.mountpoint == at) {
        let terminal = Terminal::default();
        let answer = client::call(&mount, &Call::Unmount { timeout, force: args.force }, &terminal).await?;
        let before: Vec<String> = serde_json::from_value(answer["before"].clone()).unwrap_or_default();
        if let Some(warning) = where_::unmount_warning(&at, &before) {
            output::say(warning);
        }
        return Ok(Exit::Done);
    }
    if clean(&context, &at)? {
        output::say(format!("{shown}: the daemon had been killed; its mount is cleaned away"));
        return Ok(Exit::Done);
    }
    if let Some(mount) = context.dirs.live().into_iter().find(|mount| at.starts_with(&mount.mountpoint)) {
        let inside = mount.mountpoint.display();
        return Err(Failure::usage(format!("{shown} lies inside the mount on {inside}: run `pgfiles unmount {inside}`")));
    }
    if mount_table::at(&at).is_some_and(|mounted| mounted.is_ours()) {
        return Err(Failure::failed(format!("{shown} is mounted by a daemon of another user or container: unmount it there")));
    }
    Err(Failure::not_found(format!("{shown} is not mounted: `pgfiles status` lists the mounts")))
}
