//! A DSN: libpq's URL or `key=value` text, taken apart and checked. Pure, apart from [`Environment::of_process`].
//!
//! Parameters that pgfiles does not carry out are refused by name, so that nobody believes in a setting without
//! effect. A password is never part of what is printed: not in `Display`, not in `Debug`, not in an error.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Kind, Result, StoreError};

/// The port where a DSN names none.
pub const DEFAULT_PORT: u16 = 5432;
/// How long one server may take to accept a connection, where the DSN does not say.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The parameters that a DSN may have.
const KNOWN: [&str; 16] = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "connect_timeout",
    "target_session_attrs",
    "options",
    "application_name",
    "channel_binding",
    "passfile",
    "keepalives_idle",
];

/// What libpq would take from the process where the DSN is silent. Read once, in the binary.
#[derive(Clone, Default)]
pub struct Environment {
    /// `PGPASSWORD`.
    pub password: Option<String>,
    /// `PGPASSFILE`.
    pub passfile: Option<PathBuf>,
    /// The user's home, for `~/.pgpass` and `~/.postgresql/`.
    pub home: Option<PathBuf>,
    /// The name of the user of the operating system.
    pub user: Option<String>,
}

impl Environment {
    /// Reads the environment of this process.
    pub fn of_process() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            password: set("PGPASSWORD").and_then(|value| value.into_string().ok()),
            passfile: set("PGPASSFILE").map(PathBuf::from),
            home: set("HOME").map(PathBuf::from),
            user: whoami::username().ok(),
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("home", &self.home).field("user", &self.user).finish_non_exhaustive()
    }
}

/// A secret text. Prints as stars.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, to be handed to the server only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name or an address, for TCP.
    Tcp(String),
    /// The directory of a Unix socket.
    Unix(PathBuf),
}

/// One server of the DSN.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where.
    pub host: Host,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
            Host::Unix(dir) => write!(f, "{}/.s.PGSQL.{}", dir.display(), self.port),
        }
    }
}

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// Plain, and TLS if the server refuses that.
    Allow,
    /// TLS, and plain if the server refuses that.
    #[default]
    Prefer,
    /// TLS; certificates are checked only if `sslrootcert` is given (then as [`SslMode::VerifyCa`]).
    Require,
    /// TLS with a certificate that leads to `sslrootcert`, whatever its name.
    VerifyCa,
    /// The same, and the certificate names the host.
    VerifyFull,
}

impl SslMode {
    const WORDS: [(&str, SslMode); 6] = [
        ("disable", SslMode::Disable),
        ("allow", SslMode::Allow),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ];

    /// The word for it in a DSN.
    pub fn as_str(self) -> &'static str {
        word_of(&Self::WORDS, self)
    }
}

/// `sslrootcert`: whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// The certificates in a PEM file.
    File(PathBuf),
    /// Those of the operating system.
    System,
}

/// `target_session_attrs`: which of several servers will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// The first that answers.
    #[default]
    Any,
    /// One where a session may write.
    ReadWrite,
    /// One where it may not.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is.
    Standby,
    /// One in recovery if there is one, else any.
    PreferStandby,
}

impl Target {
    const WORDS: [(&str, Target); 6] = [
        ("any", Target::Any),
        ("read-write", Target::ReadWrite),
        ("read-only", Target::ReadOnly),
        ("primary", Target::Primary),
        ("standby", Target::Standby),
        ("prefer-standby", Target::PreferStandby),
    ];

    /// The word for it in a DSN.
    pub fn as_str(self) -> &'static str {
        word_of(&Self::WORDS, self)
    }
}

/// `channel_binding`: whether a password exchange must be tied to the TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server offers it.
    #[default]
    Prefer,
    /// Or no connection.
    Require,
}

impl ChannelBinding {
    const WORDS: [(&str, ChannelBinding); 3] =
        [("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];
}

/// A DSN that has been understood. Everything that libpq takes from the environment has been filled in.
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn {
    /// The servers, in the order to be tried; at least one.
    pub hosts: Vec<Endpoint>,
    /// The role.
    pub user: String,
    /// From the DSN or `PGPASSWORD`; where `None`, the password file is asked for each server.
    pub password: Option<Password>,
    /// The database.
    pub dbname: String,
    /// Whether and how strictly TLS is used. No TLS over a Unix socket.
    pub sslmode: SslMode,
    /// Whom to trust, `~/.postgresql/root.crt` included where that is what libpq does.
    pub sslrootcert: Option<RootCert>,
    /// A client certificate (PEM).
    pub sslcert: Option<PathBuf>,
    /// Its key (PEM).
    pub sslkey: Option<PathBuf>,
    /// For each server; `None` waits for ever (`connect_timeout=0`).
    pub connect_timeout: Option<Duration>,
    /// Which servers will do.
    pub target: Target,
    /// Command-line options for the backend.
    pub options: Option<String>,
    /// As it shows in `pg_stat_activity`; `None` leaves it to the caller.
    pub application_name: Option<String>,
    /// See [`ChannelBinding`].
    pub channel_binding: ChannelBinding,
    /// The password file.
    pub passfile: Option<PathBuf>,
    /// Seconds of silence before the kernel asks whether the server is still there.
    pub keepalives_idle: Duration,
}

impl Dsn {
    /// Understands a URL (`postgres://…`, `postgresql://…`) or `key=value` text.
    ///
    /// # Errors
    /// [`Kind::Invalid`], naming the parameter and what is allowed.
    pub fn parse(text: &str, env: &Environment) -> Result<Self> {
        let text = text.trim();
        let url = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let pairs = match url {
            Some(rest) => super::dsn_text::url(rest)?,
            None if text.contains('=') => super::dsn_text::key_values(text)?,
            None => return Err(invalid("a DSN looks like postgres://user@host:5432/dbname or host=… dbname=…")),
        };
        Self::from_pairs(pairs, env)
    }

    fn from_pairs(pairs: Vec<(String, String)>, env: &Environment) -> Result<Self> {
        for (name, _) in &pairs {
            if !KNOWN.contains(&name.as_str()) {
                let name: String = name.chars().take(40).collect();
                return Err(invalid(format!(
                    "the DSN has the parameter {name:?}, which pgfiles does not know; it knows {}",
                    KNOWN.join(", ")
                )));
            }
        }
        // As in libpq the last one counts, and an empty one is as if it were not there.
        let get = |name: &str| {
            let found = pairs.iter().rev().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
        };
        let user = get("user").map(str::to_owned).or_else(|| env.user.clone());
        let user = user.ok_or_else(|| invalid("the DSN names no user, and this process has no user name"))?;
        let in_home = |name: &str| env.home.as_ref().map(|home| home.join(name));
        let certs = Certs::resolve(&get, &in_home)?;
        let seconds = |name: &str, default: Duration| match get(name) {
            None => Ok(default),
            Some(value) => match value.parse::<u32>() {
                Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
                Err(_) => Err(bad(name, value, "a whole number of seconds")),
            },
        };
        let connect_timeout = seconds("connect_timeout", CONNECT_TIMEOUT)?;
        Ok(Self {
            hosts: hosts(get("host"), get("port"))?,
            password: get("password").or(env.password.as_deref()).map(Password::new),
            dbname: get("dbname").unwrap_or(&user).to_owned(),
            user,
            sslmode: certs.mode,
            sslrootcert: certs.root,
            sslcert: certs.cert,
            sslkey: certs.key,
            connect_timeout: (!connect_timeout.is_zero()).then_some(connect_timeout),
            target: word("target_session_attrs", get("target_session_attrs"), &Target::WORDS)?,
            options: get("options").map(str::to_owned),
            application_name: get("application_name").map(str::to_owned),
            channel_binding: word("channel_binding", get("channel_binding"), &ChannelBinding::WORDS)?,
            passfile: get("passfile").map(PathBuf::from).or_else(|| env.passfile.clone()).or_else(|| in_home(".pgpass")),
            keepalives_idle: seconds("keepalives_idle", Duration::from_secs(30))?,
        })
    }
}

/// The four TLS parameters, with libpq's defaults under `~/.postgresql/`.
struct Certs {
    mode: SslMode,
    root: Option<RootCert>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Certs {
    fn resolve<'a>(get: &dyn Fn(&str) -> Option<&'a str>, in_home: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Self> {
        let there = |name: &str| in_home(name).filter(|path| path.exists());
        let root = match get("sslrootcert") {
            Some("system") => Some(RootCert::System),
            Some(path) => Some(RootCert::File(path.into())),
            None => there(".postgresql/root.crt").map(RootCert::File),
        };
        let system = root == Some(RootCert::System);
        let mode = match get("sslmode") {
            None if system => SslMode::VerifyFull,
            mode => word("sslmode", mode, &SslMode::WORDS)?,
        };
        if system && mode != SslMode::VerifyFull {
            return Err(invalid(format!(
                "sslmode={} is too weak for sslrootcert=system (anybody can get such a certificate): use verify-full",
                mode.as_str()
            )));
        }
        if mode >= SslMode::VerifyCa && root.is_none() {
            return Err(invalid(format!(
                "sslmode={} needs to know whom to trust: set sslrootcert to a file of certificates, or to `system`",
                mode.as_str()
            )));
        }
        let cert = get("sslcert").map(PathBuf::from).or_else(|| there(".postgresql/postgresql.crt"));
        let key = get("sslkey").map(PathBuf::from).or_else(|| there(".postgresql/postgresql.key"));
        if get("sslcert").is_some() && key.is_none() {
            return Err(invalid("the DSN has sslcert but no sslkey"));
        }
        if get("sslkey").is_some() && cert.is_none() {
            return Err(invalid("the DSN has sslkey but no sslcert"));
        }
        let (cert, key) = if cert.is_some() && key.is_some() { (cert, key) } else { (None, None) };
        Ok(Self { mode, root, cert, key })
    }
}

fn hosts(host: Option<&str>, port: Option<&str>) -> Result<Vec<Endpoint>> {
    let names: Vec<&str> = host.map_or_else(|| vec![""], |list| list.split(',').collect());
    let ports: Vec<&str> = port.map_or_else(|| vec![""], |list| list.split(',').collect());
    if ports.len() != 1 && ports.len() != names.len() {
        return Err(invalid(format!("the DSN has {} hosts but {} ports", names.len(), ports.len())));
    }
    let mut out = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let text = ports.get(index).or(ports.first()).copied().unwrap_or_default();
        let port = match text {
            "" => DEFAULT_PORT,
            text => match text.parse() {
                Ok(port) if port != 0 => port,
                _ => return Err(bad("port", text, "1 to 65535")),
            },
        };
        let host = match *name {
            "" => default_host(port),
            dir if dir.starts_with('/') => Host::Unix(dir.into()),
            name => Host::Tcp(name.to_owned()),
        };
        out.push(Endpoint { host, port });
    }
    Ok(out)
}

/// As libpq has it: the socket of this machine, wherever its packages put it, else localhost.
fn default_host(port: u16) -> Host {
    let dirs = ["/var/run/postgresql", "/run/postgresql", "/tmp"];
    let socket = dirs.iter().find(|dir| Path::new(dir).join(format!(".s.PGSQL.{port}")).exists());
    socket.map_or_else(|| Host::Tcp("localhost".into()), |dir| Host::Unix(dir.into()))
}

fn word<T: Copy + Default>(name: &str, value: Option<&str>, words: &[(&str, T)]) -> Result<T> {
    let Some(value) = value else { return Ok(T::default()) };
    let found = words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| bad(name, value, &words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")))
}

fn word_of<T: PartialEq>(words: &[(&'static str, T)], meaning: T) -> &'static str {
    words.iter().find(|(_, other)| *other == meaning).map_or("", |(word, _)| word)
}

fn bad(name: &str, value: &str, allowed: &str) -> StoreError {
    let value: String = value.chars().take(60).collect();
    invalid(format!("the DSN has {name}={value:?}; allowed: {allowed}"))
}

fn invalid(message: impl Into<String>) -> StoreError {
    StoreError::new(Kind::Invalid, message)
}

/// The DSN as a URL, without the password: `postgres://user@host:5432/dbname?sslmode=require`.
impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = super::dsn_text::percent_encode;
        write!(f, "postgres://{}@", encode(&self.user))?;
        for (index, end) in self.hosts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match &end.host {
                Host::Tcp(name) if name.contains(':') => write!(f, "{comma}[{name}]:{}", end.port)?,
                Host::Tcp(name) => write!(f, "{comma}{}:{}", encode(name), end.port)?,
                Host::Unix(dir) => write!(f, "{comma}{}:{}", encode(&dir.to_string_lossy()), end.port)?,
            }
        }
        write!(f, "/{}", encode(&self.dbname))?;
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let root = self.sslrootcert.as_ref().map(|root| match root {
            RootCert::System => "system".to_owned(),
            RootCert::File(file) => file.to_string_lossy().into_owned(),
        });
        let shown = [
            ("sslmode", (self.sslmode != SslMode::default()).then(|| self.sslmode.as_str().to_owned())),
            ("sslrootcert", root),
            ("sslcert", path(&self.sslcert)),
            ("sslkey", path(&self.sslkey)),
            ("target_session_attrs", (self.target != Target::Any).then(|| self.target.as_str().to_owned())),
            ("options", self.options.clone()),
            ("application_name", self.application_name.clone()),
        ];
        let mut mark = '?';
        for (name, value) in shown {
            if let Some(value) = value {
                write!(f, "{mark}{name}={}", encode(&value))?;
                mark = '&';
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dsn({self})")
    }
}
