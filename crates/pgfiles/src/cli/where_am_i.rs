//! `pgfiles where`.

use serde_json::json;

use super::Context;
use crate::exit::{Exit, Failure, Result};
use crate::output;
use crate::where_::Standing;

/// Say where the working directory is: which mount, which key, which server. Also from underneath a mount.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles where\n  pgfiles where --json | jq -r .key")]
pub(super) struct Args {
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: Context, args: Args) -> Result<Exit> {
    let standing = Standing::of_me();
    let hint = standing.explain();
    let path = match &standing {
        Standing::Here(path) | Standing::Underneath { path, .. } => Some(path.clone()),
        Standing::Gone(path) => path.clone(),
    };
    let mounts = context.dirs.live();
    let inside = |m: &&crate::registry::Mount| path.as_ref().is_some_and(|path| path.starts_with(&m.mountpoint));
    let mount = mounts.iter().filter(inside).max_by_key(|m| m.mountpoint.as_os_str().len());
    let Some(mount) = mount else {
        let at = path.map_or_else(String::new, |path| format!("{} ", path.display()));
        let text = hint.unwrap_or_else(|| format!("{at}lies in no live mount of yours: `pgfiles status` lists them"));
        return Err(Failure::not_found(text));
    };
    let arg = path.clone().unwrap_or_default();
    let (_, target) = context.locate(arg.as_os_str())?;
    let key = if target.key.is_empty() || target.key.ends_with('/') { target.key } else { format!("{}/", target.key) };
    let underneath = matches!(standing, Standing::Underneath { .. });
    if args.json {
        output::json(&json!({
            "mountpoint": mount.mountpoint.to_string_lossy(), "path": arg.to_string_lossy(), "prefix": mount.prefix,
            "key": key, "server": mount.server, "underneath": underneath, "hint": hint,
        }))?;
    } else {
        output::table(&[
            vec!["mount".into(), mount.mountpoint.display().to_string()],
            vec!["key".into(), if key.is_empty() { "(the whole table)".into() } else { key }],
            vec!["server".into(), mount.server.clone()],
        ])?;
        if let Some(hint) = hint {
            output::say(hint);
        }
    }
    Ok(Exit::Done)
}
