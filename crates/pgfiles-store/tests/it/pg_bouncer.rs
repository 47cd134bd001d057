//! The store behind PgBouncer in transaction mode, with fewer server connections than clients.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use pgfiles_store::batch::Durability;
use pgfiles_store::pg::{PgOptions, PgStore};
use pgfiles_store::{Server as _, Store as _};
use pgfiles_testkit::postgres::{Database, Postgres};

use crate::pg_store::{batch, initialise, key, put};

/// A pooler in front of the shared server; ends when dropped.
pub struct Bouncer {
    process: Child,
    dir: PathBuf,
    port: u16,
}

impl Bouncer {
    /// `None`, with the reason printed, where it is not installed.
    pub fn start(server: &Postgres) -> Option<Self> {
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
             auth_type = trust\nauth_file = {dir}/users\npool_mode = transaction\ndefault_pool_size = 2\nlogfile = {dir}/log\n",
            server.socket_dir().display(),
            server.port(),
            dir = dir.display(),
        );
        std::fs::write(dir.join("users"), "\"postgres\" \"\"\n").unwrap();
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
        format!("postgres://postgres@127.0.0.1:{}/{}", self.port, database.name())
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[tokio::test]
async fn ten_clients_on_two_connections() {
    let server = Postgres::start(pgfiles_testkit::postgres::Options::default());
    let Some(bouncer) = Bouncer::start(&server) else { return };
    let database = server.database().await;
    initialise(&database.dsn()).await;
    let store = PgStore::connect(&bouncer.dsn(&database), PgOptions::default()).await.unwrap();
    let work = (0..200).map(|n| {
        let store = &store;
        async move {
            let (path, durability) = (format!("d{}/f{n}", n % 7), if n % 3 == 0 { Durability::Sync } else { Durability::Async });
            store.commit(batch(vec![put(&path, b"x")], durability)).await?;
            store.lookup(&[key(&path)], 10).await
        }
    });
    for result in futures_util::future::join_all(work).await {
        assert!(result.unwrap()[0].is_some());
    }
    assert_eq!(store.tree(&pgfiles_store::Prefix::default(), None, 1000).await.unwrap().len(), 200);
    assert!(store.connections_made() > 2);
    store.sync().await.unwrap();
    store.position().await.unwrap();
    // What a commit sets for itself must not stay behind for the next user of the connection.
    let left = "SELECT setting, source FROM pg_settings WHERE name = 'synchronous_commit'";
    let (client, connection) = tokio_postgres::connect(&bouncer.dsn(&database), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let rows = client.query_typed(left, &[]).await.unwrap();
    assert_eq!((rows[0].get::<_, &str>(0), rows[0].get::<_, &str>(1)), ("on", "default"));
}
