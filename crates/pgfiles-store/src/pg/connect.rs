//! One connection: which server, with or without TLS, which password, and what answers there.
//!
//! No session state is ever set and no statement named, so that any connection is as good as another and a pooler in
//! transaction mode may stand in between. A first connection is not retried here: the retry layer tells
//! [`Kind::Unavailable`] from what no repetition will heal.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_postgres::config::{ChannelBinding as PgChannelBinding, SslMode as PgSslMode};
use tokio_postgres::tls::TlsStream;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Row, Socket};

use super::dsn::{ChannelBinding, Dsn, Endpoint, Host, Password, SslMode, Target};
use super::passfile::{self, Found};
use super::schema::{self, SERVER_VERSION_MIN};
use super::sqlstate::{self, Place};
use super::{sql, tls};
use crate::error::{Kind, Result, StoreError};

/// What this release can read: a schema with a greater `min_reader` is refused.
pub const READER: i64 = schema::VERSION as i64;
/// What this release can write: under a greater `min_writer` it only reads.
pub const WRITER: i64 = schema::VERSION as i64;

/// How long a session that is closed may take to say goodbye.
const GOODBYE_WAIT: Duration = Duration::from_secs(5);
/// After how long without an answer the kernel gives a TCP connection up.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// What must be there for a connection to be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A server that can carry pgfiles: for `init` and `doctor`.
    Server,
    /// The table and functions of a schema that this release understands as well.
    Schema,
}

/// What answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// As `server_version_num`: 170004.
    pub version: i32,
    /// A standby.
    pub in_recovery: bool,
    /// Transactions start read-only.
    pub read_only: bool,
    /// The schema's version; 0 where it was not asked for.
    pub schema: i64,
    /// The least [`WRITER`] that may write.
    pub min_writer: i64,
}

/// An open connection. Dropping it closes the socket, whatever is under way.
#[derive(Debug)]
pub struct Connection {
    /// The session.
    pub client: Client,
    /// What answered.
    pub hello: Hello,
    pub(super) place: Place,
    /// Cancels what is running there.
    pub(super) canceller: Canceller,
    pub(super) wire: Wire,
}

/// Who moves the bytes of a connection.
pub(super) enum Wire {
    /// A task of its own, for a client that is used as it is.
    Task(AbortHandle),
    /// Whoever asks, while he waits: an answer wakes nobody else on its way. `None`: it has ended.
    Caller(Option<BoxStream<'static, std::result::Result<AsyncMessage, tokio_postgres::Error>>>),
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Wire::Task(_) => "Task",
            Wire::Caller(_) => "Caller",
        })
    }
}

impl Connection {
    /// Whether the session is over.
    pub(super) fn is_closed(&mut self) -> bool {
        // What came since the last request tells.
        self.wire.turn(&mut Context::from_waker(Waker::noop()));
        self.client.is_closed() || matches!(self.wire, Wire::Caller(None))
    }
}

impl Wire {
    /// Waits for an answer, and moves the bytes meanwhile where no task does.
    pub(super) async fn wait<T>(&mut self, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            self.turn(cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Moves what can be moved now.
    fn turn(&mut self, cx: &mut Context<'_>) {
        let Wire::Caller(wire) = self else { return };
        while let Some(driver) = wire {
            match driver.poll_next_unpin(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(AsyncMessage::Notice(notice)))) => tracing::debug!(%notice, "the server remarks"),
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "a connection ended");
                    *wire = None;
                }
                Poll::Ready(None) => *wire = None,
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        match &mut self.wire {
            // An idle session says goodbye by itself; one in mid-request must not keep its socket.
            Wire::Task(task) if self.canceller.armed => task.abort(),
            Wire::Task(_) => {}
            Wire::Caller(wire) => {
                let (Some(mut driver), false, Ok(runtime)) = (wire.take(), self.canceller.armed, Handle::try_current()) else {
                    return;
                };
                // When the client is gone, which is next, the driver takes leave of the server and ends.
                runtime.spawn(tokio::time::timeout(GOODBYE_WAIT, async move { while driver.next().await.is_some() {} }));
            }
        }
    }
}

/// Asks the server to stop what a connection is doing, over a connection of its own.
pub(super) struct Canceller {
    token: tokio_postgres::CancelToken,
    dsn: Arc<Dsn>,
    encrypted: bool,
    /// A request is under way.
    pub(super) armed: bool,
}

impl std::fmt::Debug for Canceller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canceller").field("armed", &self.armed).finish_non_exhaustive()
    }
}

impl Canceller {
    /// Sends the request in the background, within 5 s or not at all.
    pub(super) fn fire(&self) {
        let (token, dsn, encrypted) = (self.token.clone(), self.dsn.clone(), self.encrypted);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let cancel = async {
                match encrypted.then(|| tls::connector(&dsn)) {
                    Some(Ok(tls)) => token.cancel_query(tls).await.is_ok(),
                    Some(Err(_)) => false,
                    None => token.cancel_query(NoTls).await.is_ok(),
                }
            };
            let sent = tokio::time::timeout(Duration::from_secs(5), cancel).await;
            tracing::debug!(sent = matches!(sent, Ok(true)), "cancelled a request that nobody waits for");
        });
    }
}

/// The half of a connection that does the work.
type Driver<T> = tokio_postgres::Connection<Socket, T>;

/// Makes connections from a DSN.
#[derive(Debug, Clone)]
pub struct Connector {
    dsn: Arc<Dsn>,
    application_name: String,
    ears: Option<Ears>,
    /// Whether whoever asks moves the bytes: see [`Wire::wait`].
    by_caller: bool,
}

/// Where notifications go that arrive on a connection.
#[derive(Debug, Clone)]
pub(super) struct Ears {
    /// Channel and payload.
    pub(super) heard: tokio::sync::mpsc::Sender<(String, String)>,
    /// Set where one had to be left out because nobody took them fast enough.
    pub(super) overflowed: Arc<std::sync::atomic::AtomicBool>,
}

impl Connector {
    /// `application_name` is used where the DSN names none.
    pub fn new(dsn: Dsn, application_name: &str) -> Self {
        let application_name = dsn.application_name.clone().unwrap_or_else(|| application_name.to_owned());
        Self { dsn: Arc::new(dsn), application_name, ears: None, by_caller: false }
    }

    /// The same, with notifications going there, asked or not.
    pub(super) fn with_ears(&self, ears: Ears) -> Self {
        Self { ears: Some(ears), by_caller: false, ..self.clone() }
    }

    /// The same, for connections on which nothing is asked but through [`Wire::wait`].
    pub(super) fn by_caller(self) -> Self {
        Self { by_caller: true, ..self }
    }

    /// What it connects to.
    pub fn dsn(&self) -> &Dsn {
        &self.dsn
    }

    /// Connects to the first server that will do, each within the DSN's `connect_timeout`.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] where another try may succeed; [`Kind::Unauthorized`], [`Kind::NotInitialised`],
    /// [`Kind::Unsupported`], [`Kind::Invalid`] where not. Of several servers' errors, the last that may pass, else the last.
    pub async fn open(&self, need: Need) -> Result<Connection> {
        let mut errors: Vec<StoreError> = Vec::new();
        // For prefer-standby a second round takes whatever there is.
        let rounds: &[Target] = match self.dsn.target {
            Target::PreferStandby => &[Target::Standby, Target::Any],
            Target::Any => &[Target::Any],
            Target::ReadWrite => &[Target::ReadWrite],
            Target::ReadOnly => &[Target::ReadOnly],
            Target::Primary => &[Target::Primary],
            Target::Standby => &[Target::Standby],
        };
        for &target in rounds {
            for end in &self.dsn.hosts {
                match self.one_in_time(end, need, target).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => errors.push(error),
                }
            }
        }
        let may_pass = errors.iter().rposition(StoreError::is_retryable);
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let chosen = may_pass.unwrap_or(errors.len().saturating_sub(1));
        let Some(chosen) = errors.into_iter().nth(chosen) else {
            return Err(StoreError::new(Kind::Invalid, "the DSN names no server"));
        };
        if all.len() == 1 { Err(chosen) } else { Err(StoreError::new(chosen.kind(), all.join("; ")).with_source(chosen)) }
    }

    async fn one_in_time(&self, end: &Endpoint, need: Need, target: Target) -> Result<Connection> {
        let Some(limit) = self.dsn.connect_timeout else { return self.one(end, need, target).await };
        match tokio::time::timeout(limit, self.one(end, need, target)).await {
            Ok(result) => result,
            Err(_) => {
                let message = format!("cannot reach Postgres at {end}: no answer within {} s", limit.as_secs());
                Err(StoreError::new(Kind::Unavailable, message))
            }
        }
    }

    async fn one(&self, end: &Endpoint, need: Need, target: Target) -> Result<Connection> {
        let (password, exposed) = self.password(end);
        let explain = |error| sqlstate::connect(error, &self.dsn, end, password.is_some(), exposed);
        let addresses = addresses(end).await?;
        let config = |mode| self.config(end, &addresses, mode, password.as_ref());
        let socket = matches!(end.host, Host::Unix(_));
        let opened = match self.dsn.sslmode {
            _ if socket => self.plain(&config(PgSslMode::Disable), end).await,
            SslMode::Disable => self.plain(&config(PgSslMode::Disable), end).await,
            SslMode::Allow => match self.plain(&config(PgSslMode::Disable), end).await {
                Err(error) if refused(&error) => self.encrypted(&config(PgSslMode::Require), end).await?,
                result => result,
            },
            SslMode::Prefer => match self.encrypted(&config(PgSslMode::Prefer), end).await? {
                Err(error) if refused(&error) || sqlstate::is_tls(&error) => {
                    self.plain(&config(PgSslMode::Disable), end).await.map_err(|_| error)
                }
                result => result,
            },
            _ => self.encrypted(&config(PgSslMode::Require), end).await?,
        };
        let mut connection = opened.map_err(explain)?;
        // Whatever became of the greeting, no request of the caller's was sent.
        let greeting = greet(&mut connection, need).await;
        connection.hello = greeting.map_err(|e| StoreError::new(e.kind(), e.to_string()).with_source(e))?;
        suits(&connection, target)?;
        Ok(connection)
    }

    async fn plain(&self, config: &Config, end: &Endpoint) -> std::result::Result<Connection, tokio_postgres::Error> {
        let (client, driver) = config.connect(NoTls).await?;
        Ok(self.keep(client, driver, end, false))
    }

    /// The outer error: the files of the DSN cannot be used.
    async fn encrypted(&self, config: &Config, end: &Endpoint) -> Result<std::result::Result<Connection, tokio_postgres::Error>> {
        let dsn = self.dsn.clone();
        let read = tokio::task::spawn_blocking(move || tls::connector(&dsn)).await;
        let tls =
            read.map_err(|e| StoreError::new(Kind::Unavailable, "reading the certificates was stopped").with_source(e))??;
        Ok(config.connect(tls).await.map(|(client, driver)| self.keep(client, driver, end, true)))
    }

    /// Lets the connection run, in a task of its own or by whoever asks.
    fn keep<T>(&self, client: Client, mut driver: Driver<T>, end: &Endpoint, encrypted: bool) -> Connection
    where
        T: TlsStream + Unpin + Send + 'static,
    {
        let canceller = Canceller { token: client.cancel_token(), dsn: self.dsn.clone(), encrypted, armed: false };
        let (hello, place) = (Hello::default(), Place::of(&self.dsn, end));
        if self.by_caller {
            let wire = Wire::Caller(Some(stream::poll_fn(move |cx| driver.poll_message(cx)).boxed()));
            return Connection { client, hello, place, canceller, wire };
        }
        let ears = self.ears.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = std::future::poll_fn(|cx| driver.poll_message(cx)).await {
                match message {
                    Ok(AsyncMessage::Notification(note)) => {
                        let Some(ears) = &ears else { continue };
                        if ears.heard.try_send((note.channel().to_owned(), note.payload().to_owned())).is_err() {
                            ears.overflowed.store(true, std::sync::atomic::Ordering::Release);
                        }
                    }
                    Ok(AsyncMessage::Notice(notice)) => tracing::debug!(%notice, "the server remarks"),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "a connection ended");
                        break;
                    }
                }
            }
        });
        Connection { client, hello, place, canceller, wire: Wire::Task(task.abort_handle()) }
    }

    fn config(&self, end: &Endpoint, addresses: &[IpAddr], mode: PgSslMode, password: Option<&Password>) -> Config {
        let mut config = Config::new();
        config.user(&self.dsn.user).dbname(&self.dsn.dbname).port(end.port).ssl_mode(mode);
        config.application_name(&self.application_name);
        match &end.host {
            Host::Tcp(name) => addresses.iter().fold(&mut config, |config, address| config.host(name).hostaddr(*address)),
            Host::Unix(dir) => config.host_path(dir),
        };
        if let Some(password) = password {
            config.password(password.reveal());
        }
        if let Some(options) = &self.dsn.options {
            config.options(options);
        }
        if let Some(limit) = self.dsn.connect_timeout {
            // One address that swallows packets must leave time for the others.
            config.connect_timeout(limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX));
        }
        config.channel_binding(match self.dsn.channel_binding {
            ChannelBinding::Disable => PgChannelBinding::Disable,
            ChannelBinding::Prefer => PgChannelBinding::Prefer,
            ChannelBinding::Require => PgChannelBinding::Require,
        });
        config.keepalives_idle(self.dsn.keepalives_idle).keepalives_interval(Duration::from_secs(10)).keepalives_retries(3);
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
        config
    }

    /// The password for one server, and whether the password file was passed over.
    fn password(&self, end: &Endpoint) -> (Option<Password>, bool) {
        if let Some(password) = &self.dsn.password {
            return (Some(password.clone()), false);
        }
        let Some(file) = &self.dsn.passfile else { return (None, false) };
        match passfile::look_up(file, end, &self.dsn.dbname, &self.dsn.user) {
            Found::Password(password) => (Some(password), false),
            Found::Nothing => (None, false),
            Found::Exposed => {
                tracing::warn!("password file {} is passed over because others may read it: chmod 600", file.display());
                (None, true)
            }
        }
    }
}

/// The addresses behind a name; none for a socket.
async fn addresses(end: &Endpoint) -> Result<Vec<IpAddr>> {
    let Host::Tcp(name) = &end.host else { return Ok(Vec::new()) };
    let unknown = |why: &str| StoreError::new(Kind::Unavailable, format!("cannot reach Postgres at {end}: {why}"));
    let found = tokio::net::lookup_host((name.as_str(), end.port)).await;
    let found: Vec<IpAddr> = found.map_err(|e| unknown(&e.to_string()).with_source(e))?.map(|address| address.ip()).collect();
    if found.is_empty() { Err(unknown("the name has no address")) } else { Ok(found) }
}

/// Whether the server's access rules refused this kind of connection, so that the other kind may do. A wrong password
/// (28P01) is not sent twice.
fn refused(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code() == "28000")
}

/// Asks who is there. One round trip where all is well.
async fn greet(connection: &mut Connection, need: Need) -> Result<Hello> {
    let Connection { client, wire, place, .. } = connection;
    let mut ask = async |text: &str| wire.wait(client.query_typed(text, &[])).await;
    let text = if need == Need::Schema { sql::HELLO_SCHEMA } else { sql::HELLO };
    let error = match ask(text).await {
        Ok(rows) => return rows.first().map_or_else(|| Err(strange(place)), |row| judge(row, need, place)),
        Err(error) => error,
    };
    // Something is missing there: find out what, for the sentence.
    if let Ok(rows) = ask("SELECT version()").await
        && let Some(version) = rows.first().and_then(|row| row.try_get::<_, String>(0).ok())
        && let Some(name) = foreign(&version)
    {
        return Err(unsupported(place, name));
    }
    if let Ok(rows) = ask(sql::HELLO).await
        && let Some(row) = rows.first()
    {
        judge(row, Need::Server, place)?;
    }
    let error = sqlstate::request(error, place, "connecting");
    if error.kind() != Kind::NotInitialised {
        return Err(error);
    }
    let Place { server, dbname, .. } = &*place;
    let there = ask("SELECT to_regclass('pgfiles') IS NOT NULL, current_schemas(false)::text").await;
    let facts = there.ok().and_then(|rows| Some((rows.first()?.try_get(0).ok()?, rows.first()?.try_get(1).ok()?)));
    let message = match facts {
        Some((true, _)) => format!("the table pgfiles in database {dbname} on {server} lacks its functions: run `pgfiles init`"),
        facts => {
            let path = facts.map_or_else(String::new, |(_, path): (bool, String)| format!(" (search_path {path})"));
            format!("the database {dbname} on {server} has no pgfiles table{path}: run `pgfiles init`")
        }
    };
    Err(StoreError::new(Kind::NotInitialised, message).with_source(error))
}

/// Reads the answer to [`sql::HELLO`] or [`sql::HELLO_SCHEMA`].
fn judge(row: &Row, need: Need, place: &Place) -> Result<Hello> {
    let broken = |error: tokio_postgres::Error| sqlstate::request(error, place, "connecting");
    let product: String = row.try_get("product").map_err(broken)?;
    if let Some(name) = foreign(&product) {
        return Err(unsupported(place, name));
    }
    let encoding: String = row.try_get("encoding").map_err(broken)?;
    if encoding != "UTF8" {
        let message = format!(
            "the database {} on {} has encoding {encoding}, but names of files need UTF8: create one with ENCODING 'UTF8'",
            place.dbname, place.server
        );
        return Err(StoreError::new(Kind::Unsupported, message));
    }
    let mut hello = Hello {
        version: row.try_get("version").map_err(broken)?,
        in_recovery: row.try_get("in_recovery").map_err(broken)?,
        read_only: row.try_get("read_only").map_err(broken)?,
        ..Hello::default()
    };
    if hello.version < SERVER_VERSION_MIN {
        let (server, major) = (&place.server, hello.version / 10_000);
        return Err(StoreError::new(Kind::Unsupported, format!("{server} is Postgres {major}: pgfiles needs 14 or newer")));
    }
    if need == Need::Schema {
        let schema: serde_json::Value = row.try_get("schema").map_err(broken)?;
        let field = |name: &str| schema.get(name).and_then(serde_json::Value::as_i64).unwrap_or(i64::MAX);
        let min_reader = field("min_reader");
        if min_reader > READER {
            let message = format!(
                "the pgfiles schema in database {} on {} asks for a newer pgfiles (reader {min_reader}, this one is {READER}): upgrade it",
                place.dbname, place.server
            );
            return Err(StoreError::new(Kind::Unsupported, message));
        }
        (hello.schema, hello.min_writer) = (field("version"), field("min_writer"));
    }
    Ok(hello)
}

/// The engine's name, where it speaks the protocol of Postgres but cannot carry pgfiles.
pub(super) fn foreign(product: &str) -> Option<&'static str> {
    const ENGINES: [(&str, &str); 6] = [
        ("CockroachDB", "CockroachDB"),
        ("-YB-", "YugabyteDB"),
        ("Redshift", "Amazon Redshift"),
        ("Greenplum", "Greenplum"),
        ("Materialize", "Materialize"),
        ("QuestDB", "QuestDB"),
    ];
    ENGINES.iter().find(|(mark, _)| product.contains(mark)).map(|(_, name)| *name)
}

fn unsupported(place: &Place, engine: &str) -> StoreError {
    let message = format!(
        "{} is {engine}, which lacks what pgfiles relies on (PL/pgSQL, advisory locks, text_pattern_ops): use Postgres 14 or newer",
        place.server
    );
    StoreError::new(Kind::Unsupported, message)
}

fn strange(place: &Place) -> StoreError {
    StoreError::new(Kind::Unsupported, format!("{} does not answer as Postgres does", place.server))
}

/// Whether the server is of the kind that `target_session_attrs` asks for.
fn suits(connection: &Connection, target: Target) -> Result<()> {
    let Hello { in_recovery, read_only, .. } = connection.hello;
    let fits = match target {
        Target::Any | Target::PreferStandby => true,
        Target::ReadWrite => !in_recovery && !read_only,
        Target::ReadOnly => in_recovery || read_only,
        Target::Primary => !in_recovery,
        Target::Standby => in_recovery,
    };
    if fits {
        return Ok(());
    }
    let message = format!("{} will not do for target_session_attrs={}", connection.place.server, target.as_str());
    Err(StoreError::new(Kind::Unavailable, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_that_cannot_carry_pgfiles() {
        assert_eq!(foreign("CockroachDB CCL v24.1.0 (x86_64-pc-linux-gnu)"), Some("CockroachDB"));
        assert_eq!(foreign("PostgreSQL 15.12-YB-2025.2.0.0-b0 on x86_64-pc-linux-gnu"), Some("YugabyteDB"));
        assert_eq!(foreign("PostgreSQL 17.4 on x86_64-pc-linux-gnu"), None);
    }
}
