//! PgBouncer in transaction mode, with fewer server connections than clients have.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::{Database, Postgres};

/// A pooler in front of a server; ends when dropped.
pub struct Bouncer {
    process: Child,
    dir: PathBuf,
    port: u16,
}

impl Bouncer {
    /// `None`, with the reason printed, where it is not installed.
    pub fn start(server: &Postgres) -> Option<Self> {
        Self::start_for(server, &[])
    }

    /// The same, for these roles besides the superuser.
    pub fn start_for(server: &Postgres, roles: &[&str]) -> Option<Self> {
        Self::start_with(server, roles, 2)
    }

    /// The same with another number of server connections for each role and database.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_with(server: &Postgres, roles: &[&str], pool_size: u32) -> Option<Self> {
        let places = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer", "/opt/homebrew/bin/pgbouncer"];
        let Some(program) = places.into_iter().find(|place| std::path::Path::new(place).exists()) else {
            println!("skipped, because pgbouncer is not installed");
            return None;
        };
        let run_as = server.programs().run_as;
        let dir = run_as.make_dir("pgfiles-bouncer-", 0o755);
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ini = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {dir}/users\npool_mode = transaction\ndefault_pool_size = {pool_size}\nlogfile = {dir}/log\n",
            server.socket_dir().display(),
            server.port(),
            dir = dir.display(),
        );
        let users = roles.iter().chain(&["postgres"]).map(|role| format!("\"{role}\" \"\"\n")).collect::<String>();
        std::fs::write(dir.join("users"), users).unwrap();
        std::fs::write(dir.join("ini"), ini).unwrap();
        let mut command = run_as.command(program);
        command.arg(dir.join("ini")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let bouncer = Self { process: command.spawn().unwrap(), dir, port };
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || std::fs::read_to_string(bouncer.dir.join("log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(20), "pgbouncer does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(bouncer)
    }

    /// The way to a database through the pooler.
    pub fn dsn(&self, database: &Database) -> String {
        self.dsn_as("postgres", database)
    }

    /// The same as another role.
    pub fn dsn_as(&self, role: &str, database: &Database) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{}", self.port, database.name())
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
