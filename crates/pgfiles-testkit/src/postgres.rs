//! A private Postgres for tests: its own data directory, Unix socket and port, gone with the test process.
//!
//! The server programs are those in `PGFILES_TEST_PG_BIN`, else the newest of `/usr/lib/postgresql/*/bin`, else those
//! on `PATH`; where there are none a test panics with the package to install. Run by root, the server runs as
//! `postgres` or `nobody`. A small watchdog process stops the server and removes its directory when the test process
//! ends, however it ends.
//!
//! The functions that start and stop a server block; they are called from tests only.

pub mod bouncer;
mod programs;
mod tls;

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub use programs::{Programs, RunAs};
pub use tls::TlsFiles;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the server programs are; `None`: as the module says.
    pub bin: Option<PathBuf>,
    /// Whether the server waits for its disk. Off by default: it makes tests fast and survives a kill of its processes.
    pub fsync: bool,
    /// Connections that it accepts.
    pub max_connections: u32,
    /// Whether it has a certificate (see [`Postgres::tls_files`]) and offers TLS.
    pub tls: bool,
    /// Replaces `pg_hba.conf`; `None` trusts everybody.
    pub hba: Option<String>,
    /// Further lines of `postgresql.conf`.
    pub conf: Vec<(String, String)>,
    /// Encoding given to initdb.
    pub encoding: String,
    /// Locale given to initdb.
    pub locale: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bin: None,
            fsync: false,
            max_connections: 200,
            tls: false,
            hba: None,
            conf: Vec::new(),
            encoding: "UTF8".into(),
            locale: "C.UTF-8".into(),
        }
    }
}

/// A running (or stopped) private server.
pub struct Postgres {
    programs: Programs,
    /// Holds `data/`, the socket, the log and the certificates.
    dir: PathBuf,
    port: u16,
    state: Mutex<State>,
    databases: AtomicU64,
    abandoned: Arc<Mutex<Vec<String>>>,
    tls: Option<TlsFiles>,
}

struct State {
    server: Option<Child>,
    watchdog: Option<Child>,
}

impl Postgres {
    /// The server that all tests of this process share; started at the first call.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Options::default()))
    }

    /// Starts a server of its own; it ends when the value is dropped.
    ///
    /// # Panics
    /// Where no server programs are installed or the server does not start; the message has the server's log.
    pub fn start(options: Options) -> Self {
        let programs = Programs::find(options.bin.as_deref());
        let template = programs.template(&options.encoding, &options.locale);
        let dir = programs.run_as.make_dir("pgfiles-test-", 0o755);
        let watchdog = watchdog(&dir);
        let copied = programs.run_as.command("cp").arg("-a").arg(&template).arg(dir.join("data")).status();
        assert!(copied.is_ok_and(|status| status.success()), "cannot copy {} to {}", template.display(), dir.display());
        let tls = options.tls.then(|| TlsFiles::create(&dir, programs.run_as));
        let port = free_port();
        write_conf(&dir, port, &options, tls.as_ref());
        let state = Mutex::new(State { server: None, watchdog: Some(watchdog) });
        let server = Self { programs, dir, port, state, databases: AtomicU64::new(0), abandoned: Arc::default(), tls };
        server.start_again();
        server
    }

    /// Starts the server after [`Postgres::stop_fast`] or [`Postgres::kill_all`]; returns when it accepts connections.
    ///
    /// # Panics
    /// If it does not start within a minute.
    pub fn start_again(&self) {
        let mut state = self.state();
        assert!(state.server.is_none(), "the server runs already");
        let _ = std::fs::remove_file(self.data().join("postmaster.pid"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("server.log")).expect("server.log");
        let mut command = self.programs.command("postgres");
        command.arg("-D").arg(self.data()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let mut child = command.spawn().expect("postgres starts");
        let ready = wait_for(|| {
            let ended = child.try_wait().expect("postgres can be waited for").is_some();
            let pid_file = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            ended || pid_file.lines().nth(7).is_some_and(|status| status.trim() == "ready")
        });
        let runs = child.try_wait().expect("postgres can be waited for").is_none();
        assert!(ready && runs, "postgres did not start:\n{}", self.log());
        state.server = Some(child);
    }

    /// Stops the server as `pg_ctl stop -m fast` does: sessions end, nothing is lost.
    pub fn stop_fast(&self) {
        self.stop(Signal::INT);
    }

    /// Kills the postmaster and all its backends at once with SIGKILL: what a crash of the server leaves.
    pub fn kill_all(&self) {
        let mut state = self.state();
        let Some(mut child) = state.server.take() else { return };
        for process in family(child.id()) {
            let _ = kill_process(process, Signal::STOP);
        }
        let all = family(child.id());
        for &process in &all {
            let _ = kill_process(process, Signal::KILL);
        }
        let _ = child.wait();
        assert!(wait_for(|| all.iter().all(|&process| !is_running(process))), "a killed backend is still there");
    }

    /// Freezes all processes of the server: connections stay open, nothing answers.
    pub fn pause(&self) {
        self.signal_family(Signal::STOP);
    }

    /// Lets a frozen server go on.
    pub fn resume(&self) {
        self.signal_family(Signal::CONT);
    }

    /// An empty database of its own; dropped some time after the handle is.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn database(&self) -> Database {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let abandoned = std::mem::take(&mut *self.abandoned.lock().unwrap_or_else(PoisonError::into_inner));
        let client = self.connect("postgres").await;
        for old in abandoned {
            client.batch_execute(&format!("DROP DATABASE IF EXISTS {old} WITH (FORCE)")).await.expect("drop database");
        }
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("create database");
        Database { name, socket_dir: self.dir.clone(), port: self.port, abandoned: self.abandoned.clone() }
    }

    /// A plain connection as the superuser `postgres` over the socket.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn connect(&self, database: &str) -> tokio_postgres::Client {
        connect(&dsn(&self.dir, self.port, database)).await
    }

    /// The directory of the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// The TCP port on 127.0.0.1, also the number in the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The server's major version.
    pub fn major(&self) -> u32 {
        self.programs.major
    }

    /// The server programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The certificates, where [`Options::tls`] was set.
    pub fn tls_files(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }

    /// What the server logged.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = std::fs::File::open(self.dir.join("server.log")) {
            let _ = file.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Replaces a setting in `postgresql.conf` (the last line wins) and makes the server read it again.
    pub fn set_conf(&self, name: &str, value: &str) {
        let path = self.data().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&path).expect("postgresql.conf");
        text.push_str(&format!("{name} = '{value}'\n"));
        std::fs::write(path, text).expect("postgresql.conf");
        if let Some(child) = &self.state().server {
            let _ = kill_process(pid(child.id()), Signal::HUP);
        }
    }

    fn stop(&self, signal: Signal) {
        if let Some(mut child) = self.state().server.take() {
            let _ = kill_process(pid(child.id()), signal);
            let ended = wait_for(|| child.try_wait().is_ok_and(|status| status.is_some()));
            if !ended {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    fn signal_family(&self, signal: Signal) {
        if let Some(child) = &self.state().server {
            for process in family(child.id()) {
                let _ = kill_process(process, signal);
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.resume();
        self.stop(Signal::QUIT);
        let _ = std::fs::remove_dir_all(&self.dir);
        if let Some(mut watchdog) = self.state().watchdog.take() {
            drop(watchdog.stdin.take());
            let _ = watchdog.wait();
        }
    }
}

/// A database on a [`Postgres`].
#[derive(Debug)]
pub struct Database {
    name: String,
    socket_dir: PathBuf,
    port: u16,
    abandoned: Arc<Mutex<Vec<String>>>,
}

impl Database {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A DSN over the Unix socket, in key-value form, as the superuser.
    pub fn dsn(&self) -> String {
        dsn(&self.socket_dir, self.port, &self.name)
    }

    /// A DSN over TCP, as a URL, as the superuser.
    pub fn dsn_tcp(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}", self.port, self.name)
    }

    /// A plain connection as the superuser.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn connect(&self) -> tokio_postgres::Client {
        connect(&self.dsn()).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.name));
    }
}

fn dsn(socket_dir: &Path, port: u16, database: &str) -> String {
    format!("host={} port={port} user=postgres dbname={database}", socket_dir.display())
}

async fn connect(dsn: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await.expect("the test server answers");
    tokio::spawn(connection);
    client
}

fn write_conf(dir: &Path, port: u16, options: &Options, tls: Option<&TlsFiles>) {
    let data = dir.join("data");
    let on = |yes: bool| if yes { "on" } else { "off" };
    let mut lines = vec![
        ("listen_addresses".to_owned(), "127.0.0.1".to_owned()),
        ("port".into(), port.to_string()),
        ("unix_socket_directories".into(), dir.display().to_string()),
        ("unix_socket_permissions".into(), "0777".into()),
        ("max_connections".into(), options.max_connections.to_string()),
        ("shared_buffers".into(), "32MB".into()),
        ("fsync".into(), on(options.fsync).into()),
        ("full_page_writes".into(), on(options.fsync).into()),
        ("ssl".into(), on(tls.is_some()).into()),
    ];
    if let Some(tls) = tls {
        lines.push(("ssl_ca_file".into(), tls.ca.display().to_string()));
        lines.push(("ssl_cert_file".into(), tls.server_cert.display().to_string()));
        lines.push(("ssl_key_file".into(), tls.server_key.display().to_string()));
    }
    let conf: String = lines.iter().chain(&options.conf).map(|(name, value)| format!("{name} = '{value}'\n")).collect();
    std::fs::write(data.join("postgresql.conf"), conf).expect("postgresql.conf");
    if let Some(hba) = &options.hba {
        std::fs::write(data.join("pg_hba.conf"), hba).expect("pg_hba.conf");
    }
}

/// A shell that waits for the end of its stdin, which is the end of this process, then stops the server in `dir` and
/// removes it. Its own process group keeps it from a Ctrl-C meant for the tests.
fn watchdog(dir: &Path) -> Child {
    const SCRIPT: &str = r#"read -r line
        pid=$(head -n 1 "$0/data/postmaster.pid" 2>/dev/null)
        if [ -n "$pid" ]; then kill -CONT "-$pid"; kill -QUIT "$pid"; fi 2>/dev/null
        tries=0
        while [ -e "$0/data/postmaster.pid" ] && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries+1)); done
        [ -n "$pid" ] && kill -KILL "$pid" 2>/dev/null
        rm -rf "$0""#;
    let mut command = Command::new("sh");
    command.arg("-c").arg(SCRIPT).arg(dir).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.process_group(0).current_dir("/").spawn().expect("sh starts")
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its number").port()
}

/// The postmaster and its children. Only processes of its user are looked at: reading about one that waits for a page of
/// a mount under test would wait as well.
fn family(postmaster: u32) -> Vec<Pid> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = |path: &Path| std::fs::metadata(path).ok().map(|meta| meta.uid());
    let user = owner(Path::new(&format!("/proc/{postmaster}")));
    let is_child = |stat: &str| {
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_ascii_whitespace().nth(1).is_some_and(|parent| parent == postmaster.to_string())
    };
    let children = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        if owner(&entry.path()) != user {
            return None;
        }
        is_child(&std::fs::read_to_string(entry.path().join("stat")).ok()?).then(|| pid(number))
    });
    std::iter::once(pid(postmaster)).chain(children).collect()
}

/// Whether a process is there and not a zombie.
fn is_running(process: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn pid(number: u32) -> Pid {
    i32::try_from(number).ok().and_then(Pid::from_raw).expect("a process id")
}

/// Looks at a condition until it holds or a minute has passed.
fn wait_for(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn databases_are_empty_and_reached_both_ways() {
        let database = Postgres::shared().database().await;
        for dsn in [database.dsn(), database.dsn_tcp()] {
            let row = connect(&dsn).await.query_one("SELECT current_database()", &[]).await.unwrap();
            assert_eq!(row.get::<_, String>(0), database.name());
        }
    }

    #[tokio::test]
    async fn a_killed_server_starts_again() {
        let server = Postgres::start(Options { tls: true, ..Options::default() });
        let client = server.connect("postgres").await;
        client.batch_execute("CREATE TABLE t(); CHECKPOINT").await.unwrap();
        server.kill_all();
        assert!(client.batch_execute("SELECT 1").await.is_err());
        server.start_again();
        server.connect("postgres").await.batch_execute("TABLE t").await.unwrap();
        server.stop_fast();
        server.start_again();
        let dir = server.dir.clone();
        drop(server);
        assert!(!dir.exists());
    }
}
