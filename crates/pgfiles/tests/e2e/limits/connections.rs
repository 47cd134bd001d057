//! One connection for everything, none left on the server, and a server that ends what takes long or lies idle.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgfiles_testkit::postgres::bouncer::Bouncer;
use pgfiles_testkit::postgres::{Options, Postgres};

use super::work::{self, Work};
use crate::harness::{Sandbox, database, eventually, save};
use crate::shared::Locker;

const WORK: Work = Work { threads: 16, rounds: 3, large: 6 << 10 };

/// What commands do meanwhile, in their own directory; no more than a few of each.
fn commands(user: &Sandbox, mount: &Path) {
    let file = mount.join("commands/f");
    let arg = |path: &Path| path.to_str().unwrap().to_owned();
    fs::create_dir(mount.join("commands")).unwrap();
    let batch = user.home.path().join("batch.jsonl");
    for n in 0..3 {
        save(&file, format!("{n}").as_bytes()).unwrap();
        fs::write(&batch, format!("{{\"op\":\"put\",\"path\":\"commands/b{n}\",\"data\":\"{n}\"}}\n")).unwrap();
        user.ok(["batch", &arg(&batch)]);
        assert_eq!(fs::read_to_string(mount.join(format!("commands/b{n}"))).unwrap(), n.to_string());
        assert_eq!(user.status(mount)["state"], "ok");
        user.ok(["flush", &arg(mount)]);
        let versions: serde_json::Value = serde_json::from_str(&user.ok(["version", "--json", &arg(&file)])).unwrap();
        let newest = versions[0]["version"].as_u64().unwrap();
        user.ok(["restore", &arg(&file), "1"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "0");
        assert!(newest > n);
        user.ok(["purge", "--yes", &arg(&mount.join(format!("commands/b{n}")))]);
        assert!(!mount.join(format!("commands/b{n}")).exists());
    }
    user.ok(["purge", "--yes", &arg(&mount.join("commands"))]);
    fs::remove_dir(mount.join("commands")).ok();
}

/// The work, the commands and a change by SQL at once, while somebody waits for a lock.
fn on_one_connection(user: Sandbox, mode: &str) {
    let sql = user.sql();
    Work::prepare(&sql, "a/");
    sql.rows("SELECT pgfiles_write('a/cold/news', 'old')");
    let shared = mode == "shared";
    let (name, value) = if shared { ("PGFILES_SHARED", "true") } else { ("PGFILES_DURABILITY", mode) };
    let user = user.with(name, value).with("PGFILES_NOTIFY", "true");
    let narrow =
        user.another().with("PGFILES_PREFIX", "a/").with("PGFILES_POOL_SIZE", "1").with("PGFILES_CACHE_METADATA_TTL", "1h");
    let (wide, mount) = (user.mount("a/", "work"), narrow.mount("a/", "work"));
    assert_eq!(fs::read_to_string(mount.join("cold/news")).unwrap(), "old");
    // Across mounts where that holds, else within this one.
    let mut holder = Locker::with(&if shared { &wide } else { &mount }.join("cold/c0"));
    let mut waiter = Locker::with(&mount.join("cold/c0"));
    assert_eq!(holder.ask("flock f ex"), "ok");
    waiter.send("flock f ex wait");
    let id = narrow.status(&mount)["id"].as_str().unwrap().to_owned();
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgfiles/{id}'");
    let done = AtomicBool::new(false);
    let (expected, most) = std::thread::scope(|scope| {
        let counter = scope.spawn(|| {
            let (sql, mut most) = (user.sql(), 0);
            while !done.load(Ordering::Relaxed) {
                most = most.max(sql.one(&sessions).parse::<u32>().unwrap());
                std::thread::park_timeout(Duration::from_millis(20));
            }
            most
        });
        let by_command = scope.spawn(|| commands(&narrow, &mount));
        let by_sql = scope.spawn(|| {
            user.sql().rows("SELECT pgfiles_write('a/cold/news', 'new')");
            eventually("the news arrive", || fs::read_to_string(mount.join("cold/news")).unwrap() == "new");
        });
        let worked = scope.spawn(|| WORK.run(&mount)).join();
        let others = [by_command.join(), by_sql.join()];
        done.store(true, Ordering::Relaxed);
        others.into_iter().for_each(|ended| ended.unwrap());
        (worked.unwrap(), counter.join().unwrap())
    });
    assert!((1..=2).contains(&most), "one, and one that listens: {most}");
    assert_eq!(holder.ask("flock f un"), "ok");
    assert_eq!(waiter.answer(), "ok");
    drop((holder, waiter));
    narrow.unmount(&mount);
    user.unmount(&wide);
    work::check(&user, "a/", &expected);
}

#[test]
fn everything_at_once_on_one_connection_shared() {
    on_one_connection(Sandbox::on(Postgres::shared()), "shared");
}

#[test]
fn everything_at_once_on_one_connection_close() {
    on_one_connection(Sandbox::on(Postgres::shared()), "close");
}

#[test]
fn everything_at_once_on_one_connection_writeback() {
    on_one_connection(Sandbox::on(Postgres::shared()), "writeback");
}

/// A mount with ten connections to a pooler that has one to the server.
#[test]
fn a_pooler_with_one_connection() {
    let server = Postgres::shared();
    let database = database(server);
    let Some(bouncer) = Bouncer::start_with(server, &[], 1) else { return };
    let direct = Sandbox::new(&database.dsn());
    Work::prepare(&direct.sql(), "a/");
    let pooled = Sandbox::fenced(&bouncer.dsn(&database)).with("PGFILES_SHARED", "true");
    let mount = pooled.mount("a/", "work");
    let expected = WORK.run(&mount);
    pooled.unmount(&mount);
    work::check(&direct, "a/", &expected);
}

/// Others take all connections that the server has left and keep them: the mount goes on with what it has. Then it has none at
/// all for a while, and waits.
#[test]
fn a_server_without_a_free_connection() {
    let server = Postgres::start(Options { max_connections: 12, ..Options::default() });
    let owner = Sandbox::on(&server);
    let sql = owner.sql();
    Work::prepare(&sql, "a/");
    sql.rows("CREATE ROLE app LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON pgfiles TO app");
    let dsn = owner.dsn.replace("user=postgres", "user=app");
    let app = Sandbox::fenced(&dsn);
    let mount = app.mount("a/", "work");
    let crowd = || {
        let mut crowd = Vec::new();
        while let Ok(one) = Others::connect(&dsn) {
            crowd.push(one);
        }
        crowd
    };
    let held = crowd();
    assert!(!held.is_empty());
    let expected = Work { threads: 8, rounds: 3, large: 2 << 10 }.run(&mount);
    assert_eq!(app.status(&mount)["state"], "ok");
    // Its last one is ended, and taken by another before it is back.
    let saved = std::thread::scope(|scope| {
        let id = app.status(&mount)["id"].as_str().unwrap().to_owned();
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgfiles/{id}' AND pid <> pg_backend_pid()"
        );
        sql.rows(&end);
        let more = crowd();
        let saving = scope.spawn(|| save(&mount.join("late"), b"late"));
        eventually("it was refused", || server.log().contains("remaining connection slots"));
        std::thread::park_timeout(Duration::from_secs(1));
        drop((more, held));
        saving.join().unwrap()
    });
    saved.unwrap();
    app.unmount(&mount);
    assert_eq!(sql.one("SELECT convert_from(pgfiles_read('a/late'), 'UTF8')"), "late");
    sql.rows("SELECT pgfiles_delete('a/late')");
    work::check(&owner, "a/", &expected);
}

/// A connection of somebody else, who does nothing with it.
struct Others {
    _runtime: tokio::runtime::Runtime,
    _client: tokio_postgres::Client,
}

impl Others {
    fn connect(dsn: &str) -> Result<Self, tokio_postgres::Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (client, connection) = runtime.block_on(tokio_postgres::connect(dsn, tokio_postgres::NoTls))?;
        runtime.spawn(connection);
        Ok(Self { _runtime: runtime, _client: client })
    }
}

/// Sessions that lie idle are ended, statements and waits for locks are cut off: what was cut off is done again.
#[test]
fn a_server_that_ends_what_takes_long() {
    let owner = Sandbox::on(Postgres::shared());
    let sql = owner.sql();
    let name = sql.one("SELECT current_database()");
    for (what, limit) in [
        ("statement_timeout", 1500),
        ("lock_timeout", 150),
        ("idle_in_transaction_session_timeout", 100),
        ("idle_session_timeout", 100),
    ] {
        sql.rows(&format!("ALTER DATABASE {name} SET {what} = {limit}"));
    }
    let limited = owner.another().with("PGFILES_NOTIFY", "true");
    let strict =
        Sandbox::fenced(&format!("{} options='-c statement_timeout=700'", owner.dsn)).with("PGFILES_DURABILITY", "writeback");
    let mounts = [(&limited, "l/"), (&strict, "s/")].map(|(user, prefix)| {
        Work::prepare(&sql, prefix);
        (user, prefix, user.mount(prefix, "work"))
    });
    std::thread::scope(|scope| {
        let works = mounts
            .each_ref()
            .map(|(_, prefix, mount)| (prefix, scope.spawn(|| Work { threads: 6, rounds: 3, large: 2 << 10 }.run(mount))));
        // This session was there before, and may do as it likes.
        for _ in 0..3 {
            sql.rows("LOCK TABLE pgfiles IN EXCLUSIVE MODE; SELECT pg_sleep(1)");
            std::thread::park_timeout(Duration::from_millis(300));
        }
        for (prefix, worked) in works {
            let expected = worked.join().unwrap();
            let (user, _, mount) = mounts.iter().find(|(_, other, _)| other == prefix).unwrap();
            user.ok(["flush"]);
            let status = user.status(mount);
            println!("{prefix}: {} requests sent again", status["retries"]);
            // Idle long enough for its sessions to be ended.
            std::thread::park_timeout(Duration::from_millis(300));
            work::check_mount(mount, &expected);
            user.unmount(mount);
            work::check_rows(&sql, prefix, &expected);
        }
    });
}
