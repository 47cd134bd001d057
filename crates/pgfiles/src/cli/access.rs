//! `pgfiles grant`, `revoke` and `grants`: isolation that does not trust the client, by row security.

use pgfiles_store::pg::connect::Need;
use serde_json::{Value, json};

use super::Context;
use super::locate::prefix_arg;
use crate::connect;
use crate::exit::{Exit, Failure, Result};
use crate::output;

/// Let a database role see and write only what lies under a prefix.
///
/// Row security on the server holds whatever the client does. Needs the owner of the table. A role may have several.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles grant agent_7 agents/7/")]
pub(super) struct GrantArgs {
    /// The database role.
    role: String,
    /// A whole prefix, such as agents/7/.
    #[arg(value_name = "PREFIX")]
    under: String,
}

/// Take back what `grant` gave.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles revoke agent_7 agents/7/")]
pub(super) struct RevokeArgs {
    /// The database role.
    role: String,
    /// A whole prefix, such as agents/7/.
    #[arg(value_name = "PREFIX")]
    under: String,
}

/// List which roles are confined to which prefixes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  pgfiles grants")]
pub(super) struct GrantsArgs {
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn grant(context: Context, args: GrantArgs) -> Result<Exit> {
    change(&context, "SELECT pgfiles_grant($1::text, $2::text)::text", &args.role, &args.under).await
}

pub(super) async fn revoke(context: Context, args: RevokeArgs) -> Result<Exit> {
    change(&context, "SELECT pgfiles_revoke($1::text, $2::text)::text", &args.role, &args.under).await
}

async fn change(context: &Context, statement: &str, role: &str, under: &str) -> Result<Exit> {
    let prefix = prefix_arg(under)?;
    if !prefix.as_str().starts_with(context.settings.prefix.as_str()) {
        let set = &context.settings.prefix;
        return Err(Failure::usage(format!(
            "prefix {prefix:?} lies outside the prefix {set:?}: unset PGFILES_PREFIX to reach it"
        )));
    }
    let (connection, _lease) = connect::session(context, Need::Schema).await?;
    connection.client.query(statement, &[&role, &prefix.as_str()]).await.map_err(|error| said(&error))?;
    Ok(Exit::Done)
}

pub(super) async fn grants(context: Context, args: GrantsArgs) -> Result<Exit> {
    let (connection, _lease) = connect::session(&context, Need::Schema).await?;
    let rows = connection.client.query("SELECT row_to_json(g)::text FROM pgfiles_grants() g", &[]).await;
    let rows = rows.map_err(|error| said(&error))?;
    let parse = |row: &tokio_postgres::Row| row.try_get::<_, String>(0).ok().and_then(|text| serde_json::from_str(&text).ok());
    let all: Vec<Value> = rows.iter().filter_map(parse).collect();
    if args.json {
        output::json(&json!(all))?;
    } else {
        let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        output::table(&all.iter().map(|grant| vec![text(grant, "role"), text(grant, "prefix")]).collect::<Vec<_>>())?;
    }
    Ok(Exit::Done)
}

/// What the server said, in its words.
fn said(error: &tokio_postgres::Error) -> Failure {
    match error.as_db_error() {
        Some(error) => {
            let hint = error.hint().map_or_else(String::new, |hint| format!(": {hint}"));
            Failure::failed(format!("{}{hint}", error.message()))
        }
        None => Failure::new(Exit::NoConnection, error.to_string()),
    }
}
