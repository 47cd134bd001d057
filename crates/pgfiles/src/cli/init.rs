//! `pgfiles init`.

use serde_json::json;

use super::Context;
use crate::connect::{self, Login};
use crate::exit::{Exit, Result};
use crate::{config::secret, output};

/// Create or upgrade the table, its indexes, functions and views. Harmless when repeated.
///
/// Needs a role that may create in the schema of the connection's search_path. Run it once per database, and again after
/// an upgrade of pgfiles; running mounts go on meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles init\n  pgfiles init postgres://app@db.example.com/files")]
pub(super) struct Args {
    /// The server; the setting `dsn` if missing.
    #[arg(value_name = "DSN")]
    server: Option<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(mut context: Context, args: Args) -> Result<Exit> {
    if let Some(dsn) = &args.server {
        context.settings.set_dsn(dsn);
    }
    let dsn = context.settings.dsn()?.to_owned();
    let ready = connect::ready(&dsn, &Login::of_process()).await?;
    let report = connect::init(&ready).await.map_err(|failure| failure.while_("init"))?;
    if args.json {
        output::json(&json!({
            "server": secret::mask_dsn(&dsn), "schema": report.schema,
            "created": report.created, "backfilled": report.backfilled,
        }))?;
    } else {
        let what = if report.created { "created" } else { "is up to date" };
        output::line(format!("table pgfiles {what} in schema {} of {}", report.schema, secret::mask_dsn(&dsn)))?;
        if report.backfilled > 0 {
            output::line(format!("{} rows that were there before became versions", report.backfilled))?;
        }
    }
    Ok(Exit::Done)
}
