//! `docs/json.md` against what the commands print: every field that is printed stands there, and what it says is always
//! there is.

use std::path::Path;

use serde_json::Value;

use crate::user::{User, can_mount};

/// A line of a table of the page.
struct Field {
    path: String,
    /// Not in every answer.
    optional: bool,
}

/// The fields that the page lists under a heading.
fn documented(section: &str) -> Vec<Field> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json.md");
    let page = std::fs::read_to_string(page).unwrap();
    let text = page.split("\n## ").find(|part| part.lines().next() == Some(section));
    let text = text.unwrap_or_else(|| panic!("docs/json.md has no section {section:?}"));
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.splitn(3, '|');
        let path = cells.next()?.trim().trim_end_matches('`').to_owned();
        let what = cells.nth(1)?.trim().to_owned();
        Some(Field { path, optional: what.starts_with("only ") })
    };
    text.lines().filter_map(row).collect()
}

/// Paths of the leaves: `a.b`, `a[].b`. Empty arrays and null end a path, marked as open.
fn leaves(at: &str, value: &Value, out: &mut Vec<(String, bool)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let below = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                leaves(&below, value, out);
            }
        }
        Value::Array(all) if all.is_empty() => out.push((at.to_owned(), true)),
        Value::Array(all) => all.iter().for_each(|value| leaves(&format!("{at}[]"), value, out)),
        other => out.push((at.to_owned(), other.is_null())),
    }
}

/// Whether a documented path is that path, or an object of any fields that holds it; `*` stands for any name, and by itself for all.
fn covers(field: &str, path: &str) -> bool {
    let field = match (field.strip_prefix("*."), path.split_once('.')) {
        (Some(rest), Some((name, _))) => format!("{name}.{rest}"),
        _ => field.to_owned(),
    };
    field == "*" || path == field || path.strip_prefix(&field).is_some_and(|rest| rest.starts_with('.') || rest.starts_with('['))
}

#[track_caller]
fn compare(section: &str, answer: &Value) {
    let fields = documented(section);
    let all: Vec<&Value> = answer.as_array().map_or_else(|| vec![answer], |all| all.iter().collect());
    assert!(!all.is_empty(), "{section}: nothing to compare");
    for one in all {
        let mut found = Vec::new();
        leaves("", one, &mut found);
        for (path, open) in &found {
            let below = |field: &Field| *open && field.path.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '[']));
            let known = fields.iter().any(|field| covers(&field.path, path) || below(field));
            assert!(known, "{section}: {path} is not in docs/json.md");
        }
        for field in fields.iter().filter(|field| !field.optional) {
            let above = |path: &str| field.path.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '[']));
            let there = found.iter().any(|(path, open)| covers(&field.path, path) || (*open && above(path)));
            assert!(there, "{section}: docs/json.md has {}, the answer has not: {one}", field.path);
        }
    }
}

/// An answer in JSON Lines.
fn lines(text: &str) -> Value {
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect()
}

#[test]
fn what_is_printed_without_a_mount_is_documented() {
    let user = User::with_database();
    compare("init", &user.run(["init", "--json"]).json());
    compare("config show", &user.run(["config", "show", "--json"]).json());
    compare("doctor", &user.run(["doctor", "--json"]).json_of_any_code());
    compare("cache stats", &user.run(["cache", "stats", "--json"]).json());
    compare("cache clear", &user.run(["cache", "clear", "--json"]).json());
    let steps = r#"{"op":"put","path":"d/a.txt","data":"1"}
        {"op":"mkdir","path":"e"}
        {"op":"copy","path":"d/a.txt","to":"d/b"}
        {"op":"move","path":"d/b","to":"d/c"}
        {"op":"tag","path":"d/c","tags":{"k":"v"}}
        {"op":"delete","path":"d/c"}
        {"op":"move","path":"e/","to":"f/"}
        {"op":"restore","path":"d/a.txt","version":1}"#;
    compare("batch", &lines(&user.feed(["batch", "--json"], steps.as_bytes()).ok()));
    let refused = user.feed(["batch", "--json"], br#"{"op":"put","path":"d/a.txt","data":"","if_absent":true}"#);
    assert_eq!(refused.code, 4);
    compare("batch, failed", &lines(&refused.stdout));
    for path in ["d/a.txt", "d/b", "d/c"] {
        compare("version, of a file", &user.run(["version", "--json", path]).json());
    }
    compare("version, of a directory", &user.run(["version", "--json", "d/"]).json());
    compare("restore, of a file", &user.run(["restore", "--json", "d/a.txt", "1"]).json());
    compare("restore, of a directory", &user.run(["restore", "--json", "d/", "1"]).json());
    compare("purge", &user.run(["purge", "--json", "--dry-run", "d/"]).json());
    compare("purge", &user.run(["purge-prefix", "--json", "--yes", "d/"]).json());
    std::fs::create_dir_all(user.home.path().join("t/e")).unwrap();
    std::fs::write(user.home.path().join("t/f"), "1").unwrap();
    compare("import, export", &user.run(["import", "--json", "t", "t"]).json());
    compare("import, export", &user.run(["export", "--json", "t", "u"]).json());
    compare("put", &user.feed(["put", "--json", "-", "t/g"], b"1").json());
    compare("get", &lines(&user.run(["get", "--json", "t/g", "g"]).ok()));
    compare("cp, mv", &user.run(["cp", "--json", "t/g", "t/h"]).json());
    compare("cp, mv", &user.run(["mv", "--json", "t/h", "t/i"]).json());
    compare("cp, mv", &user.run(["cp", "-r", "--json", "t", "v"]).json());
    compare("rm", &user.run(["rm", "--json", "t/i"]).json());
    compare("ls, find, stat", &lines(&user.run(["ls", "-R", "--json"]).ok()));
    compare("ls, find, stat", &lines(&user.run(["find", "t", "--json"]).ok()));
    compare("ls, find, stat", &lines(&user.run(["stat", "--json", "t", "t/f"]).ok()));
    compare("ls --versions, ls --deleted", &lines(&user.run(["ls", "--versions", "--json", "t"]).ok()));
    compare("ls --versions, ls --deleted", &lines(&user.run(["ls", "--deleted", "-R", "--json"]).ok()));
    compare("du", &lines(&user.run(["du", "--history", "--json"]).ok()));
    let role = format!("json_{}", uuid::Uuid::new_v4().simple());
    user.sql(&format!("CREATE ROLE {role}"));
    user.run(["grant", &role, "agents/7/"]).ok();
    compare("grants", &user.run(["grants", "--json"]).json());
    user.run(["revoke", &role, "agents/7/"]).ok();
    user.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn what_is_printed_of_a_mount_is_documented() {
    if !can_mount() {
        return;
    }
    let mut user = User::with_table();
    // A rename leaves its tombstone, however young the file.
    user.set("PGFILES_YOUNG_SECONDS", "0");
    let at = user.dir("mnt");
    user.run(["mount", at.to_str().unwrap()]).ok();
    std::fs::create_dir(at.join("d")).unwrap();
    std::fs::write(at.join("d/a"), "one").unwrap();
    std::fs::write(at.join("d/large"), vec![7; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("a", at.join("d/link")).unwrap();
    std::fs::rename(at.join("d/a"), at.join("d/b")).unwrap();
    for path in ["d/a", "d/b", "d/large", "d/link"] {
        compare("version, of a file", &user.run(["version", "--json", path]).json());
    }
    compare("where", &user.run_in(&at.join("d"), ["where", "--json"]).json());
    compare("flush", &user.run(["flush", "--json"]).json());
    compare("status", &user.status());
    compare("warmup", &lines(&user.run(["warmup", "--json", at.to_str().unwrap()]).ok()));
    let mut watching = user.command(["status", "--watch=200ms", "--json"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut looks = std::io::BufRead::lines(std::io::BufReader::new(watching.stdout.take().unwrap()));
    for n in 0..3 {
        std::fs::write(at.join(format!("w{n}")), "x").unwrap();
        let look: Value = serde_json::from_str(&looks.next().unwrap().unwrap()).unwrap();
        compare("status --watch", &look);
    }
    watching.kill().unwrap();
    watching.wait().unwrap();
    user.run(["status", "--watch=1ms"]).fails(2, &["100ms or more"]);
    compare("cache stats", &user.run(["cache", "stats", "--json"]).json());
    compare("cache clear", &user.run(["cache", "clear", "--json"]).json());
    user.run(["unmount", at.to_str().unwrap()]).ok();
}

#[test]
fn an_emptied_cache_fills_again() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    let at = user.dir("mnt");
    user.run(["mount", at.to_str().unwrap()]).ok();
    let other = user.home.path().join(".cache/pgfiles/not-ours");
    std::fs::write(&other, "kept").unwrap();
    for name in ["a", "b"] {
        std::fs::write(at.join(name), name.repeat(100_000)).unwrap();
        let on_disk = || user.run(["cache", "stats", "--json"]).json()["mounts"][0]["cache"]["disk"].clone();
        crate::user::eventually("the block is on disk", || on_disk()["blocks"].as_u64() > Some(0));
        assert_eq!(on_disk()["error"], Value::Null);
        let freed = user.run(["cache", "clear", "--json"]).json();
        assert!(freed["bytes"].as_u64() > Some(0), "{freed}");
    }
    assert!(other.exists(), "only blocks are removed");
    user.run(["unmount", at.to_str().unwrap()]).ok();
}
