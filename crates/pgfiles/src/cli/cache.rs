//! `pgfiles cache`.

use std::ffi::OsString;
use std::path::Path;

use pgfiles_store::layer::cache::data::disk;
use serde_json::{Value, json};

use super::Context;
use crate::config::units;
use crate::control::client;
use crate::control::protocol::Call;
use crate::exit::{Exit, Failure, Result};
use crate::output::{self, Terminal};
use crate::registry::Mount;

/// How long a daemon that does not answer any more may take to end.
const ENDING_WAIT: std::time::Duration = std::time::Duration::from_secs(2);

/// Look at the cache of contents, or empty it.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:\n  pgfiles cache stats")]
pub(super) enum Command {
    /// Empty the cache, under live mounts too. Nothing is lost by it.
    #[command(after_help = "Examples:\n  pgfiles cache clear")]
    Clear(Args),
    /// Print size, hit rate and evictions of each mount.
    #[command(after_help = "Examples:\n  pgfiles cache stats\n  pgfiles cache stats --json /workspace")]
    Stats(Args),
}

/// Of which mount.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A path in a mount; all mounts of the user if missing.
    path: Option<OsString>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, command: Command) -> Result<Exit> {
    let (args, call) = match &command {
        Command::Clear(args) => (args, Call::CacheClear),
        Command::Stats(args) => (args, Call::CacheStats),
    };
    let mounts = context.mounts(args.path.as_deref())?;
    // Daemons empty the same directory, which is counted before. Where that cannot be, the daemons know more than its error says.
    let before = match command {
        Command::Clear(_) => size_of(&context.settings.cache_dir)?,
        Command::Stats(_) => 0,
    };
    let mut answers = Vec::new();
    for mount in &mounts {
        let answer = match client::call(mount, &call, &Terminal::default()).await {
            // Of all mounts, one that ends meanwhile is none.
            Err(_) if args.path.is_none() && context.is_ending(mount).await => continue,
            answer => answer?,
        };
        answers.push(json!({"mountpoint": mount.mountpoint.to_string_lossy(), "cache": answer}));
    }
    if matches!(command, Command::Clear(_)) {
        // Blocks only, whatever else lies there: a daemon goes on with the same directories.
        let dir = &context.settings.cache_dir;
        disk::clear(dir).map_err(|error| Failure::io(format!("cannot empty {}", dir.display()), &error))?;
        let freed = before.saturating_sub(size_of(dir)?);
        if args.json {
            output::json(&json!({"mounts": mounts.len(), "bytes": freed}))?;
        } else {
            output::line(format!("cache emptied: {} freed, {} mounts told", units::show_bytes(freed), mounts.len()))?;
        }
        return Ok(Exit::Done);
    }
    if args.json {
        let dir = context.settings.cache_dir.to_string_lossy();
        output::json(&json!({"dir": dir, "max_bytes": context.settings.cache_max_size, "mounts": answers}))?;
    } else if answers.is_empty() {
        let size = size_of(&context.settings.cache_dir)?;
        output::line(format!("no live mount; {} on disk in {}", units::show_bytes(size), context.settings.cache_dir.display()))?;
    } else {
        for answer in &answers {
            output::line(answer["mountpoint"].as_str().unwrap_or_default())?;
            print("  ", &answer["cache"])?;
        }
    }
    Ok(Exit::Done)
}

/// Numbers by name, nested ones indented.
pub(super) fn print(indent: &str, value: &Value) -> Result<()> {
    for (name, value) in value.as_object().into_iter().flatten() {
        let words = name.replace('_', " ");
        match value {
            Value::Object(_) => {
                output::line(format!("{indent}{words}"))?;
                print(&format!("{indent}  "), value)?;
            }
            Value::Null => {}
            Value::Number(number) if name.contains("bytes") => {
                output::line(format!("{indent}{words}: {}", units::show_bytes(number.as_u64().unwrap_or(0))))?;
            }
            Value::String(text) => output::line(format!("{indent}{words}: {text}"))?,
            other => output::line(format!("{indent}{words}: {other}"))?,
        }
    }
    Ok(())
}

impl Context {
    /// Whether a mount whose daemon does not answer ends at this moment.
    async fn is_ending(&self, mount: &Mount) -> bool {
        let began = std::time::Instant::now();
        while began.elapsed() < ENDING_WAIT {
            if !self.dirs.live().iter().any(|live| live.mountpoint == mount.mountpoint) {
                return true;
            }
            tokio::time::sleep(ENDING_WAIT / 40).await;
        }
        false
    }

    /// The live mount that holds a path, or all of the user's.
    ///
    /// # Errors
    /// The path lies in none.
    pub(super) fn mounts(&self, path: Option<&std::ffi::OsStr>) -> Result<Vec<Mount>> {
        let all = self.dirs.live();
        let Some(arg) = path else { return Ok(all) };
        let path = super::locate::absolute(Path::new(arg))?;
        let found = all.into_iter().filter(|mount| path.starts_with(&mount.mountpoint));
        let nearest = found.max_by_key(|mount| mount.mountpoint.as_os_str().len());
        let why =
            || Failure::not_found(format!("{} lies in no live mount of yours: `pgfiles status` lists them", path.display()));
        Ok(vec![nearest.ok_or_else(why)?])
    }
}

/// Bytes on disk.
fn size_of(dir: &Path) -> Result<u64> {
    let counted = disk::usage(dir).map_err(|error| Failure::io(format!("cannot look at {}", dir.display()), &error));
    counted.map(|(bytes, _)| bytes)
}
