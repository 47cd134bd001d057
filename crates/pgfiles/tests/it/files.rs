//! `batch`, `version`, `restore`, `purge` without a mount.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::json;

use crate::user::{User, can_mount};

fn put(user: &User, path: &str, data: &str) {
    let line = json!({"op": "put", "path": path, "data": data}).to_string();
    user.feed(["batch"], line.as_bytes()).ok();
}

#[test]
fn versions_are_listed_newest_first_and_restored() {
    let user = User::with_table();
    put(&user, "a/b.txt", "one");
    put(&user, "a/b.txt", "two");
    let all = user.run(["version", "a/b.txt", "--json"]).json();
    let numbers: Vec<_> = all.as_array().unwrap().iter().map(|v| v["version"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [2, 1]);
    assert_eq!(all[0]["size"], 3);
    assert!(user.run(["version", "a/b.txt"]).ok().starts_with("2  "));
    let done = user.run(["restore", "a/b.txt", "1", "--json"]).json();
    assert_eq!((&done["version"], &done["restored_from"]), (&json!(3), &json!(1)));
    assert_eq!(user.sql("SELECT convert_from(pgfiles_read('a/b.txt'), 'UTF8')"), ["one"]);
}

#[test]
fn what_cannot_be_restored_is_said() {
    let user = User::with_table();
    put(&user, "a.txt", "one");
    user.feed(["batch"], br#"{"op":"delete","path":"a.txt"}"#).ok();
    user.run(["restore", "a.txt", "7"]).fails(3, &["a.txt", "version 7", "pgfiles version a.txt"]);
    user.run(["restore", "a.txt", "2"]).fails(1, &["a.txt", "version 2"]);
    user.run(["restore", "never.txt", "1"]).fails(3, &["never.txt"]);
    user.run(["restore", "a.txt", "soon"]).fails(2, &["soon"]);
    assert_eq!(user.run(["version", "a.txt", "--json"]).json().as_array().unwrap().len(), 2);
    user.run(["restore", "a.txt", "1"]).ok();
    assert_eq!(user.sql("SELECT convert_from(pgfiles_read('a.txt'), 'UTF8')"), ["one"]);
}

#[test]
fn a_directory_has_moments_and_is_restored_to_one() {
    let user = User::with_table();
    put(&user, "d/a", "1");
    put(&user, "d/b", "1");
    put(&user, "d/a", "2");
    let moments = user.run(["version", "d/", "--json"]).json();
    assert_eq!(moments[0]["number"], 3, "{moments}");
    assert_eq!(user.run(["restore", "d/", "1", "--json"]).json()["files"], 1);
    assert_eq!(user.sql("SELECT convert_from(pgfiles_read('d/a'), 'UTF8')"), ["1"]);
    user.run(["restore", "d/", "99"]).fails(3, &["99", "pgfiles version"]);
}

#[test]
fn a_batch_does_all_its_operations_in_order() {
    let user = User::with_table();
    std::fs::write(user.home.path().join("local.bin"), [0, 159, 146, 150]).unwrap();
    let lines = [
        json!({"op": "put", "path": "a.txt", "data": "one"}),
        json!({"op": "put", "path": "a.txt", "data": "two", "if_version": 1}),
        json!({"op": "put", "path": "raw", "data_base64": "AAEC"}),
        json!({"op": "put", "path": "local", "file": "local.bin"}),
        json!({"op": "copy", "path": "a.txt", "to": "b.txt"}),
        json!({"op": "move", "path": "b.txt", "to": "c/d.txt", "if_absent": true}),
        json!({"op": "mkdir", "path": "empty"}),
        json!({"op": "restore", "path": "a.txt", "version": 1}),
        json!({"op": "tag", "path": "a.txt", "tags": {"run": "7"}}),
        json!({"op": "delete", "path": "raw"}),
    ];
    let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
    let said = user.feed(["batch", "--json"], text.join("\n").as_bytes()).ok();
    let answers: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), lines.len());
    assert_eq!(answers[1]["version"], 2);
    assert_eq!(answers[7]["version"], 3);
    let live = user.sql("SELECT key FROM pgfiles_live ORDER BY key");
    assert_eq!(live, ["a.txt", "c/d.txt", "local"]);
    assert_eq!(user.sql("SELECT encode(pgfiles_read('local'), 'hex')"), ["009f9296"]);
    assert_eq!(user.run(["version", "a.txt", "--json"]).json()[0]["tags"]["run"], "7");
}

#[test]
fn a_batch_whose_lines_have_ids_can_be_sent_again() {
    let user = User::with_table();
    let id = |n: u8| format!("00000000-0000-7000-8000-0000000000{n:02}");
    let attrs = json!({"mode": "0640", "uid": 7, "mtime": "2001-09-09T01:46:40Z", "xattrs": {"user.a": "AQI="}});
    let lines = [
        json!({"op": "put", "path": "a", "data": "one", "id": id(1), "attrs": attrs}),
        json!({"op": "put", "path": "d/b", "data": "two", "id": id(2)}),
        json!({"op": "move", "path": "d/b", "to": "c", "id": id(3)}),
        json!({"op": "delete", "path": "a", "id": id(4)}),
        json!({"op": "put", "path": "a", "data": "three", "id": id(5), "attrs": {"mode": "0600"}}),
        json!({"op": "mkdir", "path": "e", "id": id(6), "attrs": {"mode": "0700"}}),
        json!({"op": "attr", "path": "d/", "attrs": {"mode": "0711"}}),
    ];
    let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
    let send = || -> Vec<serde_json::Value> {
        let said = user.feed(["batch", "--json"], text.join("\n").as_bytes()).ok();
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let first = send();
    assert_eq!((&first[0]["id"], &first[4]["version"]), (&json!(id(1)), &json!(3)));
    let rows = || user.sql("SELECT id || key || (meta - 'rev' - 'ctime')::text FROM pgfiles ORDER BY 1");
    let before = rows();
    let again = send();
    assert_eq!(rows(), before);
    assert_eq!(again[0], json!({"line": 1, "op": "put", "path": "a", "id": id(1), "before": true}));
    let modes = "SELECT key || ' ' || (meta->>'mode') FROM pgfiles WHERE key IN ('a', 'd/', 'e/') AND meta ? 'mode' ORDER BY 1";
    assert_eq!(user.sql(modes), ["a 0600", "a 0640", "d/ 0711", "e/ 0700"]);
    let set = "SELECT concat_ws(' ', meta->>'uid', meta->>'mtime', meta->>'xattrs') FROM pgfiles WHERE meta->>'mode' = '0640'";
    assert_eq!(user.sql(set), [r#"7 2001-09-09T01:46:40Z {"user.a": "AQI="}"#]);
    for (attrs, why) in [(json!({"size": 1}), "size"), (json!({"mode": "9"}), "mode")] {
        let line = json!({"op": "attr", "path": "a", "attrs": attrs});
        user.feed(["batch"], line.to_string().as_bytes()).fails(2, &["line 1", why]);
    }
}

#[test]
fn a_batch_that_fails_changes_nothing_and_names_the_line() {
    failing_batches(&User::with_table());
}

#[test]
fn a_batch_that_fails_does_so_through_a_mount_too() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    let dir = user.dir("mnt");
    user.run([Path::new("mount"), &dir]).ok();
    failing_batches(&user);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    user.run([Path::new("unmount"), &dir]).ok();
}

fn failing_batches(user: &User) {
    put(user, "there", "x");
    let good = r#"{"op":"put","path":"new","data":"x"}"#;
    for (bad, code, why) in [
        (r#"{"op":"put","path":"#, 2, "line 2"),
        (r#"{"op":"frobnicate","path":"a"}"#, 2, "unknown op \"frobnicate\""),
        (r#"{"op":"put","path":"../x","data":""}"#, 2, "../x"),
        (r#"{"op":"put","path":"a//b","data":""}"#, 2, "a//b"),
        (r#"{"op":"put","path":"p","file":"no-such-file"}"#, 2, "no-such-file"),
        (r#"{"op":"put","path":"there","data":"y","if_absent":true}"#, 4, "there"),
        (r#"{"op":"put","path":"there","data":"y","if_version":9}"#, 4, "there"),
        (r#"{"op":"delete","path":"missing"}"#, 3, "missing"),
        (r#"{"op":"restore","path":"there","version":9}"#, 3, "there"),
        // The same key twice: the second meets what the first left.
        (r#"{"op":"put","path":"new","data":"y","if_absent":true}"#, 4, "new"),
        ("\u{1}", 2, "expected value"),
    ] {
        let said = user.feed(["batch"], format!("{good}\n{bad}\n").as_bytes());
        said.fails(code, &["line 2", why, "nothing was changed"]);
    }
    assert_eq!(user.sql("SELECT key FROM pgfiles_live"), ["there"]);
    assert_eq!(user.sql("SELECT count(*) FROM pgfiles"), ["1"]);
}

#[test]
fn a_batch_may_have_a_hundred_thousand_lines() {
    hundred_thousand_lines(&User::with_table());
}

#[test]
fn so_may_one_through_a_mount() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    let dir = user.dir("mnt");
    user.run([Path::new("mount"), &dir]).ok();
    hundred_thousand_lines(&user);
    assert_eq!(std::fs::read_to_string(dir.join("d7/f99907")).unwrap(), "99907");
    user.run([Path::new("unmount"), &dir]).ok();
}

fn hundred_thousand_lines(user: &User) {
    let mut text = String::new();
    for n in 0..100_000 {
        text.push_str(&format!("{{\"op\":\"put\",\"path\":\"d{}/f{n}\",\"data\":\"{n}\"}}\n", n % 100));
    }
    let said = user.feed(["batch"], text.as_bytes()).ok();
    assert_eq!(said.lines().count(), 100_000);
    assert_eq!(user.sql("SELECT count(*) FROM pgfiles_live"), ["100000"]);
}

/// More than the store sends in one request; all or nothing nevertheless.
#[test]
fn a_batch_may_carry_large_files() {
    let user = User::with_table();
    let large: Vec<u8> = (0..40u32 << 20).map(|at| (at >> 7) as u8).collect();
    std::fs::write(user.home.path().join("large"), &large).unwrap();
    let puts = "{\"op\":\"put\",\"path\":\"a\",\"file\":\"large\"}\n{\"op\":\"put\",\"path\":\"b\",\"file\":\"large\"}\n";
    let refused = format!("{puts}{{\"op\":\"delete\",\"path\":\"missing\"}}\n");
    user.feed(["batch"], refused.as_bytes()).fails(3, &["line 3", "nothing was changed"]);
    assert_eq!(user.sql("SELECT count(*) FROM pgfiles"), ["0"]);
    user.feed(["batch"], puts.as_bytes()).ok();
    let right = "SELECT count(*) FROM pgfiles_live WHERE sha256(pgfiles_read(key)) = sha256(pg_read_binary_file($1))";
    let right = right.replace("$1", &format!("'{}'", user.home.path().join("large").display()));
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(user.home.path(), all).unwrap();
    assert_eq!(user.sql(&right), ["2"]);
}

#[test]
fn a_batch_that_is_too_large_is_refused() {
    let user = User::with_table();
    let hole = std::fs::File::create(user.home.path().join("hole")).unwrap();
    hole.set_len(3 << 30).unwrap();
    let line = br#"{"op":"put","path":"a","file":"hole"}"#;
    user.feed(["batch"], line).fails(2, &["line 1", "1 GiB", "nothing was changed"]);
}

#[test]
fn commands_stay_inside_the_prefix() {
    let mut user = User::with_table();
    put(&user, "agents/7/a", "x");
    put(&user, "agents/8/a", "x");
    user.set("PGFILES_PREFIX", "agents/7");
    user.run(["version", "a"]).ok();
    user.run(["version", "../8/a"]).fails(2, &[".."]);
    user.run(["version", "key:agents/8/a"]).fails(2, &["outside the prefix"]);
    user.run(["version", "key:agents/7/a"]).ok();
    user.run(["purge-prefix", "agents/8", "--yes"]).fails(2, &["outside the prefix"]);
    user.run(["version", "/etc/passwd"]).fails(3, &["/etc/passwd"]);
}

#[test]
fn purge_asks_counts_and_removes() {
    let user = User::with_table();
    for n in 0..5 {
        put(&user, "d/a", &n.to_string());
        put(&user, "d/b", &n.to_string());
    }
    user.run(["purge", "d/a"]).fails(2, &["--yes", "--dry-run"]);
    let counted = user.run(["purge", "d/a", "--keep", "2", "--dry-run", "--json"]).json();
    assert_eq!(counted["rows"], 3, "{counted}");
    assert_eq!(user.sql("SELECT count(*) FROM pgfiles WHERE key = 'd/a'"), ["5"]);
    assert_eq!(user.run(["purge", "d/a", "--keep", "2", "--yes", "--json"]).json()["rows"], 3);
    assert_eq!(user.sql("SELECT count(*) FROM pgfiles WHERE key = 'd/a'"), ["2"]);
    user.run(["purge", "d/a", "--yes"]).ok();
    assert_eq!(user.sql("SELECT count(*) FROM pgfiles WHERE key = 'd/a'"), ["0"]);
    user.run(["purge", "never", "--yes"]).fails(3, &["never"]);
    user.run(["purge-prefix", "d", "--yes"]).ok();
    assert_eq!(user.sql("SELECT count(*) FROM pgfiles WHERE key LIKE 'd/%'"), ["0"]);
}

#[test]
fn read_only_refuses_changes() {
    let mut user = User::with_table();
    put(&user, "a", "x");
    user.set("PGFILES_READ_ONLY", "true");
    user.feed(["batch"], br#"{"op":"put","path":"b","data":"x"}"#).fails(1, &["read-only"]);
    user.run(["version", "a"]).ok();
}

#[test]
fn a_batch_carries_files_larger_than_one_request() {
    let user = User::with_table();
    let bytes: Vec<u8> = (0..70_000_000_u32).map(|n| (n / 7) as u8).collect();
    let file = user.home.path().join("large");
    std::fs::write(&file, &bytes).unwrap();
    let put = |name: &str| format!(r#"{{"op":"put","path":"{name}","file":{:?}}}"#, file.to_str().unwrap());
    let steps = format!("{}\n{}\n", put("a"), r#"{"op":"put","path":"b","data":"small"}"#);
    let said = user.feed(["batch", "--json"], steps.as_bytes()).ok();
    assert_eq!(said.lines().count(), 2, "{said}");
    let stored = user.sql("SELECT encode(sha256(pgfiles_read('a')), 'hex')");
    let sum = <sha2::Sha256 as sha2::Digest>::digest(&bytes);
    assert_eq!(stored, [sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>()]);
    assert_eq!(user.sql("SELECT count(*) FROM pgfiles WHERE meta ? 'beat'"), ["0"], "its heartbeat is taken back");
    let steps = format!("{}\n{}\n", put("c"), r#"{"op":"delete","path":"not-there"}"#);
    user.feed(["batch"], steps.as_bytes()).fails(3, &["nothing was changed", "line 2"]);
    assert_eq!(user.sql("SELECT count(*) FROM pgfiles WHERE key = 'c'"), ["0"]);
}

#[test]
fn a_path_that_is_longer_than_a_key_is_found() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    let mount = user.dir("m");
    user.run([OsStr::new("mount"), mount.as_os_str()]).ok();
    let deep = (0..15).fold(mount.clone(), |dir, level| dir.join(format!("{level:02}{}", "x".repeat(200))));
    std::fs::create_dir_all(&deep).unwrap();
    let file = deep.join("file");
    std::fs::write(&file, "one").unwrap();
    std::fs::write(&file, "two").unwrap();
    assert_eq!(user.run([OsStr::new("version"), file.as_os_str(), OsStr::new("--json")]).json().as_array().unwrap().len(), 2);
    user.run([OsStr::new("restore"), file.as_os_str(), OsStr::new("1")]).ok();
    assert_eq!(std::fs::read(&file).unwrap(), b"one");
    user.run([OsStr::new("flush"), file.as_os_str()]).ok();
    user.run([OsStr::new("unmount"), mount.as_os_str()]).ok();
    let path = file.strip_prefix(&mount).unwrap();
    assert_eq!(user.run([OsStr::new("version"), path.as_os_str(), OsStr::new("--json")]).json().as_array().unwrap().len(), 3);
    let line = json!({"op": "put", "path": path, "data": "x"}).to_string();
    user.feed(["batch"], line.as_bytes()).fails(2, &["1800 bytes deep"]);
    user.run([OsStr::new("purge"), path.as_os_str(), OsStr::new("--yes")]).ok();
    user.run([OsStr::new("version"), path.as_os_str()]).fails(3, &["no such file"]);
}
