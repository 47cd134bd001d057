//! Servers that are not what they should be: each one sentence, with the remedy and the right code.

use crate::user::User;

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
