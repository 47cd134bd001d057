//! `pgfiles config`.

use serde_json::{Map, json};

use super::Context;
use crate::config::env::SETTINGS;
use crate::exit::{Exit, Result};
use crate::output;

/// Look at the settings.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:\n  pgfiles config show")]
pub(super) enum Command {
    /// Print each setting and where its value came from: flag, env, file or default. Passwords are masked.
    #[command(after_help = "Examples:\n  pgfiles config show\n  pgfiles config show --json")]
    Show {
        /// Print the answer as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit> {
    let Command::Show { json } = command;
    let shown = SETTINGS.iter().map(|s| (s, context.settings.shown(s)));
    if *json {
        let all: Map<_, _> =
            shown.map(|(s, (value, source))| (s.key.into(), json!({"value": value, "source": source.as_str()}))).collect();
        output::json(&all.into())?;
    } else {
        let rows: Vec<Vec<String>> =
            shown.map(|(s, (value, source))| vec![s.key.into(), source.as_str().into(), value]).collect();
        output::table(&rows)?;
    }
    Ok(Exit::Done)
}
