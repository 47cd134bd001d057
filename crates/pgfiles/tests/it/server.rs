//! Servers that are not what they should be: each one sentence, with the remedy and the right code.

use std::io::Write as _;
use std::path::Path;

use pgfiles_testkit::postgres::{Database, Options, Postgres};

use crate::user::{User, block_on, can_mount};

/// A user of a database on a server of their own.
fn user_of(server: &Postgres) -> User {
    let mut user = User::alone();
    let database = block_on(server.database());
    user.set("PGFILES_DSN", &database.dsn());
    user.database = Some(database);
    user
}

/// The user's database over TCP, as another role.
fn dsn_as(user: &User, role: &str) -> String {
    user.database.as_ref().map(Database::dsn_tcp).unwrap().replace("postgres@", &format!("{role}@"))
}

#[test]
fn no_dsn() {
    let user = User::alone();
    for args in [&["init"][..], &["mount", "x"], &["version", "a"], &["batch"]] {
        user.run(args).fails(2, &["no DSN: set PGFILES_DSN, pass one, or use `local:`"]);
    }
}

#[test]
fn a_dsn_that_does_not_parse() {
    let user = User::alone();
    user.run(["init", "nonsense"]).fails(2, &["postgres://"]);
    let said = user.run(["init", "postgres://u:topsecret@h/db?colour=red"]).fails(2, &["\"colour\""]);
    assert!(!said.stderr.contains("topsecret"));
    user.run(["init", "postgres://h/db?sslmode=maybe"]).fails(2, &["sslmode", "verify-full"]);
}

#[test]
fn a_server_that_is_not_there() {
    let user = User::alone();
    user.run(["init", "postgres://u:topsecret@no-such-host.invalid/db"]).fails(5, &["no-such-host.invalid"]);
    let said = user.run(["init", "postgres://u:topsecret@127.0.0.1:1/db"]).fails(5, &["127.0.0.1:1"]);
    assert!(!said.stderr.contains("topsecret"));
}

#[test]
fn a_database_without_the_table() {
    let user = User::with_database();
    user.run(["version", "a.txt"]).fails(1, &["pgfiles init"]);
    let dir = user.dir("mnt");
    let said = user.run([std::ffi::OsStr::new("mount"), dir.as_os_str()]);
    if crate::user::can_mount() {
        said.fails(1, &["pgfiles init"]);
    }
}

#[test]
fn init_is_idempotent() {
    let user = User::with_database();
    assert_eq!(user.run(["init", "--json"]).json()["created"], true);
    assert_eq!(user.run(["init", "--json"]).json()["created"], false);
    assert!(user.run(["init"]).ok().contains("up to date"));
}

#[test]
fn a_server_that_asks_for_a_password() {
    let hba = "local all all trust\nhost all all all scram-sha-256\n";
    let server = Postgres::start(Options { hba: Some(hba.into()), ..Options::default() });
    let mut user = user_of(&server);
    user.sql("CREATE ROLE app LOGIN SUPERUSER PASSWORD 'right-one'");
    user.set("PGFILES_DSN", &dsn_as(&user, "app"));
    let dir = user.dir("mnt");
    user.run(["init"]).fails(5, &["password", "PGPASSWORD"]);
    if can_mount() {
        user.run([Path::new("mount"), &dir]).fails(5, &["password", "PGPASSWORD"]);
    }
    user.set("PGPASSWORD", "wrong-one");
    let said = user.run(["init"]).fails(5, &["password", "role app"]);
    assert!(!said.stderr.contains("wrong-one"));
    user.set("PGFILES_DSN", &dsn_as(&user, "app:wrong-two"));
    let said = user.run(["init"]).fails(5, &["password"]);
    assert!(!said.stderr.contains("wrong-two"));
    assert_eq!(user.sql("SELECT count(*) FROM pg_tables WHERE tablename = 'pgfiles'"), ["0"]);
    user.set("PGFILES_DSN", &dsn_as(&user, "app"));
    user.set("PGPASSWORD", "right-one");
    user.run(["init"]).ok();
    if can_mount() {
        user.run([Path::new("mount"), &dir]).ok();
        std::fs::write(dir.join("a"), "x").unwrap();
        assert_eq!(user.run(["version", "a", "--json"]).json().as_array().unwrap().len(), 1);
        user.run([Path::new("unmount"), &dir]).ok();
    }
}

#[test]
fn a_role_that_may_not_log_in() {
    let hba = "local all postgres trust\nlocal all all reject\nhost all all all reject\n";
    let server = Postgres::start(Options { hba: Some(hba.into()), ..Options::default() });
    let mut user = user_of(&server);
    user.set("PGFILES_DSN", &dsn_as(&user, "postgres"));
    user.run(["init"]).fails(5, &["pg_hba.conf"]);
}

#[test]
fn a_role_or_database_that_is_not_there() {
    let mut user = User::with_table();
    let good = dsn_as(&user, "postgres");
    user.set("PGFILES_DSN", &dsn_as(&user, "nobody_here"));
    user.run(["version", "a"]).fails(5, &["nobody_here"]);
    user.set("PGFILES_DSN", &format!("{good}_missing"));
    user.run(["version", "a"]).fails(1, &["_missing", "CREATE DATABASE"]);
    user.run(["init"]).fails(1, &["_missing", "CREATE DATABASE"]);
}

#[test]
fn a_role_without_rights() {
    let mut user = User::with_table();
    user.feed(["batch"], br#"{"op":"put","path":"a","data":"x"}"#).ok();
    user.sql("CREATE ROLE guest LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    let owner = user.vars.clone();
    user.set("PGFILES_DSN", &dsn_as(&user, "guest"));
    let put = br#"{"op":"put","path":"b","data":"x"}"#;
    let dir = user.dir("mnt");
    user.run(["version", "a"]).fails(1, &["role guest", "GRANT"]);
    user.feed(["batch"], put).fails(1, &["role guest", "nothing was changed"]);
    user.run(["purge", "a", "--yes"]).fails(1, &["role guest"]);
    if can_mount() {
        user.run([Path::new("mount"), &dir]).ok();
        let error = std::fs::write(dir.join("b"), "x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
        user.run([Path::new("unmount"), &dir]).ok();
    }
    // Who may read only is refused to write.
    user.sql("GRANT SELECT ON pgfiles TO guest");
    user.run(["version", "a"]).ok();
    user.feed(["batch"], put).fails(1, &["role guest", "nothing was changed"]);
    user.run(["restore", "a", "1"]).fails(1, &["role guest"]);
    if can_mount() {
        user.run([Path::new("mount"), &dir]).ok();
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "x");
        let file = std::fs::File::options().append(true).open(dir.join("a")).unwrap();
        (&file).write_all(b"y").unwrap();
        let error = file.sync_all().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
        drop(file);
        user.run([Path::new("unmount"), &dir]).fails(1, &["role guest", "--discard", "--force"]);
        let said = user.run([Path::new("unmount"), &dir, Path::new("--force")]);
        assert!(said.code == 0 && said.stderr.contains("recovery"), "{said:?}");
    }
    user.vars = owner;
    assert_eq!(user.sql("SELECT count(*) FROM pgfiles"), ["1"]);
    user.sql("DROP OWNED BY guest; DROP ROLE guest");
}

#[test]
fn a_role_that_may_not_create_the_table() {
    let mut user = User::with_database();
    user.sql("CREATE ROLE visitor LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    user.set("PGFILES_DSN", &dsn_as(&user, "visitor"));
    user.run(["init"]).fails(1, &["permission denied", "GRANT CREATE"]);
    user.sql("DROP ROLE visitor");
}

#[test]
fn a_database_that_is_not_utf8() {
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let server = Postgres::start(Options { encoding: encoding.into(), locale: "C".into(), ..Options::default() });
        let user = user_of(&server);
        user.run(["init"]).fails(1, &[encoding, "ENCODING 'UTF8'"]);
        user.run(["version", "a"]).fails(1, &[encoding, "ENCODING 'UTF8'"]);
        if can_mount() {
            let dir = user.dir("mnt");
            user.run([Path::new("mount"), &dir]).fails(1, &[encoding, "ENCODING 'UTF8'"]);
        }
        assert_eq!(user.sql("SELECT count(*) FROM pg_tables WHERE tablename = 'pgfiles'"), ["0"]);
    }
}
