//! `pgfiles warmup`.

use std::ffi::OsString;

use serde_json::{Value, json};

use super::Context;
use super::locate::Route;
use crate::config::units;
use crate::control::client;
use crate::control::protocol::Call;
use crate::exit::{Exit, Failure, Result};
use crate::output::{self, Terminal};
use crate::service::Request;

/// Bring files of a mount into its cache before programs ask for them: names, and contents as far as the cache has room.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles warmup /workspace/data\n  pgfiles warmup --names /workspace")]
pub(super) struct Args {
    /// Directories, with all below, and files of a live mount.
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// Names and attributes only.
    #[arg(long)]
    names: bool,
    /// A JSON object per path.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    for path in &args.paths {
        let (route, target) = context.locate(path)?;
        let Route::Daemon(mount) = route else {
            let why = "is in no live mount, and only a mount has a cache that programs read from";
            return Err(Failure::not_found(format!("{} {why}", target.shown)));
        };
        let began = std::time::Instant::now();
        let terminal = Terminal::default();
        let room = room(&client::call(&mount, &Call::CacheStats, &terminal).await?);
        let shown = target.shown.clone();
        let request = Request::Warmup { target, contents: !args.names, room };
        let answer = client::call(&mount, &Call::Serve(request), &terminal).await?;
        terminal.clear();
        let number = |field: &str| answer[field].as_u64().unwrap_or(0);
        let (files, dirs, bytes, full) = (number("files"), number("dirs"), number("bytes"), answer["full"] == true);
        let seconds = began.elapsed().as_secs_f64();
        if args.json {
            let seconds = (seconds * 1e3).round() / 1e3;
            output::line(json!({"path": shown, "files": files, "dirs": dirs, "bytes": bytes, "full": full, "seconds": seconds}))?;
        } else {
            output::say(format!(
                "{shown}: {files} files ({}) in {dirs} directories, in {seconds:.1} s",
                units::show_bytes(bytes)
            ));
        }
        if full {
            output::say(format!("{shown}: the cache has room for no more: raise PGFILES_CACHE_MAX_SIZE and mount again"));
        }
    }
    Ok(Exit::Done)
}

/// What the cache takes before it makes room: on disk, or without one in memory.
fn room(stats: &Value) -> u64 {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    match &stats["disk"] {
        Value::Null => number(&stats["data"]["memory_bytes_max"]).saturating_sub(number(&stats["data"]["memory_bytes"])),
        disk => number(&disk["bytes_max"]).saturating_sub(number(&disk["bytes"])),
    }
}
