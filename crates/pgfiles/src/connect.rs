//! From a DSN to a store: `local:` is started, everything else understood and reached.
//!
//! A command's first connection is not retried: a server that does not answer within `connect_timeout` (10 s) ends the
//! command. After that the layers of the store retry as they do for a mount.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use pgfiles_store::clock::{Clock as _, SystemClock};
use pgfiles_store::layer::metrics::Metrics;
use pgfiles_store::layer::read_only::ReadOnly;
use pgfiles_store::layer::retry::Retry;
use pgfiles_store::pg::connect::{Connection, Connector, Need};
use pgfiles_store::pg::dsn::{Dsn, Environment};
use pgfiles_store::pg::{PgOptions, PgStore, schema};
use pgfiles_store::{Server, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli::Context;
use crate::config::Settings;
use crate::exit::{Failure, Result};
use crate::local::{self, Lease};
use crate::service::Service;

/// What libpq would take from the process of the user: handed to a daemon, which has another environment.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Login {
    password: Option<String>,
    passfile: Option<PathBuf>,
    home: Option<PathBuf>,
    user: Option<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Login {
    /// From this process.
    pub fn of_process() -> Self {
        let Environment { password, passfile, home, user, .. } = Environment::of_process();
        Self { password, passfile, home, user }
    }

    fn environment(&self) -> Environment {
        let Self { password, passfile, home, user } = self.clone();
        Environment { password, passfile, home, user }
    }
}

/// A server that is ready to be connected to, and what keeps it so.
#[derive(Debug)]
pub struct Ready {
    /// Understood.
    pub dsn: Dsn,
    /// A use of the private server, for `local:`.
    pub lease: Option<Lease>,
}

/// Understands a DSN; starts the private server of `local:`.
///
/// # Errors
/// What is wrong with it, and what would be right; the private server cannot be started.
pub async fn ready(dsn: &str, login: &Login) -> Result<Ready> {
    if !local::is_local(dsn) {
        return Ok(Ready { dsn: parse(dsn, login)?, lease: None });
    }
    let text = dsn.to_owned();
    let lease = tokio::task::spawn_blocking(move || local::acquire(&text)).await;
    let lease =
        lease.map_err(|error| Failure::failed(error.to_string()))?.map_err(|error| Failure::failed(format!("{error:#}")))?;
    let parsed = parse(&lease.dsn(), login)?;
    Ok(Ready { dsn: parsed, lease: Some(lease) })
}

fn parse(dsn: &str, login: &Login) -> Result<Dsn> {
    Dsn::parse(dsn, &login.environment()).map_err(|error| Failure::usage(error.to_string()))
}

/// Which servers and database a DSN means: equal for two spellings that differ in user, password or options only.
///
/// # Errors
/// What is wrong with it.
pub fn place(dsn: &str) -> Result<String> {
    if local::is_local(dsn) {
        let path = dsn.split('?').next().unwrap_or(dsn);
        return Ok(path.trim_end_matches('/').to_owned());
    }
    let dsn = parse(dsn, &Login::of_process())?;
    let hosts: Vec<String> = dsn.hosts.iter().map(ToString::to_string).collect();
    Ok(format!("{}/{}", hosts.join(","), dsn.dbname))
}

/// How sessions of a process call themselves and how many there may be.
pub fn options(settings: &Settings, id: &str) -> PgOptions {
    PgOptions { pool_size: settings.pool_size, application_name: format!("pgfiles/{id}"), ..PgOptions::default() }
}

/// A short random name: of a mount, or of a command that writes.
pub fn new_id() -> String {
    format!("{:012x}", SystemClock.random() & 0xffff_ffff_ffff)
}

/// `meta.by` of what this process writes.
pub fn by(mount: Option<&str>, tags: &BTreeMap<String, String>) -> Value {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut by = json!({"host": host});
    if let Some(mount) = mount {
        by["mount"] = mount.into();
    }
    if !tags.is_empty() {
        by["tags"] = json!(tags);
    }
    by
}

/// A connection of a command's own.
#[derive(Debug)]
pub struct Direct {
    /// What carries out requests.
    pub service: Service,
    /// For questions about the server itself.
    pub server: Arc<dyn ServerHandle>,
    _lease: Option<Lease>,
}

/// A server that can be printed in `Debug`.
pub trait ServerHandle: Server + std::fmt::Debug {}
impl<T: Server + std::fmt::Debug> ServerHandle for T {}

/// Connects to the server of the settings.
///
/// # Errors
/// No DSN; a bad one; the server is not reached, refuses, or has no table.
pub async fn open(context: &Context) -> Result<Direct> {
    let settings = &context.settings;
    let ready = ready(settings.dsn()?, &Login::of_process()).await?;
    let id = new_id();
    let pg = PgStore::lazy(ready.dsn, options(settings, &id));
    pg.hello().await?;
    let pg = Arc::new(pg);
    let retry = Arc::new(Retry::new(Arc::new(Metrics::new(pg.clone())), settings.retry_timeout));
    let store: Arc<dyn Store> = if settings.read_only { Arc::new(ReadOnly::new(retry.clone())) } else { retry.clone() };
    let service = Service {
        store,
        server: retry,
        fence: settings.prefix.clone(),
        by: Arc::new(by(None, &settings.tags)),
        mount: id.into(),
        clock: Arc::new(SystemClock),
    };
    Ok(Direct { service, server: pg, _lease: ready.lease })
}

/// One connection for questions in plain SQL.
///
/// # Errors
/// As [`open`], but that the table need not be there where `need` says so.
pub async fn session(context: &Context, need: Need) -> Result<(Connection, Option<Lease>)> {
    let ready = ready(context.settings.dsn()?, &Login::of_process()).await?;
    let connection = Connector::new(ready.dsn, "pgfiles").open(need).await?;
    Ok((connection, ready.lease))
}

/// Creates or upgrades the schema.
///
/// # Errors
/// What [`schema::init`] says.
pub async fn init(ready: &Ready) -> Result<schema::Report> {
    let mut connection = Connector::new(ready.dsn.clone(), "pgfiles/init").open(Need::Server).await?;
    Ok(schema::init(&mut connection.client).await?)
}
