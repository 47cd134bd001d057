//! What a save is: one version per close, none per write, and the promise of `close(2)`.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use pgfiles_testkit::postgres::Postgres;

use crate::harness::{Sandbox, eventually};

fn user() -> (Sandbox, std::path::PathBuf) {
    let user = Sandbox::on(Postgres::shared());
    let mount = user.mount("a/", "work");
    (user, mount)
}

/// `version, deleted?, body` of every row of a key, oldest first.
fn rows(user: &Sandbox, key: &str) -> Vec<(String, bool, String)> {
    let query = format!(
        "SELECT meta->>'version', meta ? 'deleted', coalesce(encode(pgfiles_read(key, (meta->>'version')::bigint), 'escape'), '')
         FROM pgfiles WHERE key = '{key}' ORDER BY (meta->>'version')::bigint"
    );
    let row = |row: Vec<Option<String>>| {
        let [Some(number), Some(dead), Some(body)] = <[_; 3]>::try_from(row).unwrap() else { panic!("a NULL") };
        (number, dead == "t", body)
    };
    user.sql().rows(&query).into_iter().map(row).collect()
}

fn live(number: &str, body: &str) -> (String, bool, String) {
    (number.into(), false, body.into())
}

#[test]
fn a_shells_redirection_leaves_one_version() {
    let (user, mount) = user();
    user.shell(&mount, "echo hello > f");
    assert_eq!(rows(&user, "a/f"), [live("1", "hello\n")]);
    user.shell(&mount, "echo again > f; echo more >> f");
    assert_eq!(rows(&user, "a/f"), [live("1", "hello\n"), live("2", "again\n"), live("3", "again\nmore\n")]);
    user.shell(&mount, ": > empty; (echo 1; echo 2; echo 3) > many");
    eventually("an empty file is published", || rows(&user, "a/empty") == [live("1", "")]);
    assert_eq!(rows(&user, "a/many"), [live("1", "1\n2\n3\n")]);
}

#[test]
fn close_is_committed_before_it_returns() {
    let (user, mount) = user();
    let sql = user.sql();
    for round in 0..50 {
        fs::write(mount.join("f"), format!("round {round}")).unwrap();
        let seen = sql
            .one("SELECT encode(data, 'escape') FROM pgfiles WHERE key = 'a/f' ORDER BY (meta->>'version')::bigint DESC LIMIT 1");
        assert_eq!(seen, format!("round {round}"));
    }
    assert_eq!(rows(&user, "a/f").len(), 50);
}

#[test]
fn many_writes_and_fsyncs_of_one_open_file_are_one_version() {
    let (user, mount) = user();
    let mut file = File::create(mount.join("log")).unwrap();
    for line in 0..40 {
        writeln!(file, "{line}").unwrap();
        file.sync_all().unwrap();
        let now = rows(&user, "a/log");
        assert_eq!(now.len(), 1, "an fsync extends the version in progress");
        assert!(now[0].2.ends_with(&format!("{line}\n")), "fsync returned: SQL sees it");
    }
    drop(file);
    assert_eq!(rows(&user, "a/log").len(), 1);
    let mut file = OpenOptions::new().append(true).open(mount.join("log")).unwrap();
    file.write_all(b"end\n").unwrap();
    drop(file);
    assert_eq!(rows(&user, "a/log").len(), 2, "another open, another version");
}

#[test]
fn data_of_a_file_held_open_is_published_in_time() {
    let (user, mount) = user();
    let mut file = File::create(mount.join("held")).unwrap();
    file.write_all(b"not closed").unwrap();
    eventually("published by the timer", || rows(&user, "a/held") == [live("1", "not closed")]);
    drop(file);
    assert_eq!(rows(&user, "a/held").len(), 1, "close had nothing to add");
}

#[test]
fn deleting_and_renaming_lose_nothing() {
    let user = Sandbox::on(Postgres::shared()).with("PGFILES_YOUNG_SECONDS", "0");
    let mount = user.mount("a/", "work");
    fs::write(mount.join("f"), "one").unwrap();
    fs::write(mount.join("f"), "two").unwrap();
    fs::rename(mount.join("f"), mount.join("g")).unwrap();
    assert_eq!(rows(&user, "a/f"), [live("1", "one"), live("2", "two"), ("3".into(), true, String::new())]);
    assert_eq!(rows(&user, "a/g"), [live("1", "two")]);
    let sql = user.sql();
    assert_eq!(sql.one("SELECT data FROM pgfiles WHERE key = 'a/g'"), "\\x74776f", "a live inline file has its bytes in data");
    assert_eq!(sql.one("SELECT meta->'to'->>'key' FROM pgfiles WHERE key = 'a/f' AND meta ? 'deleted'"), "a/g");
    assert_eq!(sql.one("SELECT meta->'from'->>'key' FROM pgfiles WHERE key = 'a/g'"), "a/f");
    fs::remove_file(mount.join("g")).unwrap();
    assert!(!mount.join("g").exists());
    user.ok(["restore", mount.join("f").to_str().unwrap(), "1"]);
    assert_eq!(fs::read_to_string(mount.join("f")).unwrap(), "one", "seen in the mount at once");
    user.ok(["purge", "--yes", mount.join("f").to_str().unwrap()]);
    assert!(!mount.join("f").exists());
    assert_eq!(rows(&user, "a/f"), []);
    assert_eq!(rows(&user, "a/g")[0], live("1", "two"), "what another key needs was handed over");
}

#[test]
fn a_temporary_name_leaves_one_row() {
    let (user, mount) = user();
    for round in 1..=3 {
        fs::write(mount.join("x.tmp"), format!("{round}")).unwrap();
        fs::rename(mount.join("x.tmp"), mount.join("x")).unwrap();
    }
    assert_eq!(rows(&user, "a/x.tmp"), []);
    assert_eq!(rows(&user, "a/x"), [live("1", "1"), live("2", "2"), live("3", "3")]);
}

#[test]
fn attributes_make_no_version() {
    use std::os::unix::fs::PermissionsExt as _;
    let (user, mount) = user();
    fs::write(mount.join("f"), "x").unwrap();
    fs::set_permissions(mount.join("f"), fs::Permissions::from_mode(0o755)).unwrap();
    let when = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    File::options().write(true).open(mount.join("f")).unwrap().set_modified(when).unwrap();
    assert_eq!(rows(&user, "a/f").len(), 1);
    let sql = user.sql();
    eventually("mode and mtime are in the row", || {
        sql.one("SELECT meta->>'mode' || ' ' || (meta->>'mtime') FROM pgfiles WHERE key = 'a/f'")
            == "0755 2001-09-09T01:46:40.123456789Z"
    });
    fs::write(mount.join("f"), "y").unwrap();
    assert_eq!(fs::metadata(mount.join("f")).unwrap().permissions().mode() & 0o7777, 0o755, "a new version keeps them");
}

#[test]
fn rows_that_a_backend_writes_are_files() {
    let user = Sandbox::on(Postgres::shared()).with("PGFILES_CACHE_METADATA_TTL", "0s");
    let mount = user.mount("a/", "work");
    let sql = user.sql();
    sql.rows("INSERT INTO pgfiles(key, data) VALUES ('a/in/deep/notes.md', 'hi')");
    assert_eq!(fs::read_to_string(mount.join("in/deep/notes.md")).unwrap(), "hi");
    sql.rows("SELECT pgfiles_write('a/in/deep/notes.md', 'second')");
    assert_eq!(fs::read_to_string(mount.join("in/deep/notes.md")).unwrap(), "second");
    sql.rows("UPDATE pgfiles SET data = 'edited' WHERE key = 'a/in/deep/notes.md' AND meta->>'version' = '2'");
    assert_eq!(fs::read_to_string(mount.join("in/deep/notes.md")).unwrap(), "edited");
    sql.rows("SELECT pgfiles_delete('a/in/deep/notes.md')");
    assert!(!mount.join("in/deep/notes.md").exists());
    assert!(mount.join("in/deep").is_dir(), "an implied directory stays when its last name leaves");
}

#[test]
fn names_that_are_not_text_survive() {
    use std::os::unix::ffi::OsStrExt as _;
    let (user, mount) = user();
    let odd = Path::new(std::ffi::OsStr::from_bytes(b"caf\xe9 \xff\x01"));
    fs::write(mount.join(odd), "x").unwrap();
    user.unmount(&mount);
    let mount = user.mount("a/", "work");
    let names: Vec<_> = fs::read_dir(&mount).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [odd.as_os_str()]);
    assert_eq!(fs::read_to_string(mount.join(odd)).unwrap(), "x");
}
