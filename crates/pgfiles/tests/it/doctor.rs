//! `doctor` and the grants.

use serde_json::Value;

use crate::user::User;

fn findings(user: &User) -> Vec<Value> {
    let ran = user.run(["doctor", "--json"]);
    serde_json::from_str::<Value>(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}")).as_array().unwrap().clone()
}

fn about<'f>(all: &'f [Value], check: &str) -> Vec<&'f Value> {
    all.iter().filter(|finding| finding["check"] == check).collect()
}

#[test]
fn a_sound_database_has_nothing_to_say() {
    let user = User::with_table();
    let all = findings(&user);
    for check in ["server", "schema", "rights", "keys", "rows", "cache"] {
        assert!(about(&all, check).iter().any(|f| f["verdict"] == "ok"), "{check}: {all:#?}");
    }
    assert!(all.iter().all(|f| f["verdict"] != "fail" || f["check"] == "fuse"), "{all:#?}");
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let user = User::with_database();
    let schema = findings(&user);
    assert!(about(&schema, "schema")[0]["remedy"].as_str().unwrap().contains("pgfiles init"));
    assert_eq!(user.run(["doctor"]).code, 1);
    let alone = User::alone();
    assert!(about(&findings(&alone), "server")[0]["remedy"].as_str().unwrap().contains("PGFILES_DSN"));
}

#[test]
fn keys_that_no_path_can_have_are_listed_and_hide_nothing() {
    let user = User::with_table();
    for key in ["a//b", "x/../y", ".", "both", "both/below", "good"] {
        user.sql(&format!("INSERT INTO pgfiles(key, data) VALUES ('{key}', 'x')"));
    }
    let all = findings(&user);
    let keys: String = about(&all, "keys").iter().map(|f| f["message"].as_str().unwrap()).collect();
    for key in ["\"a//b\"", "\"x/../y\"", "\".\"", "\"both\""] {
        assert!(keys.contains(key), "{key}: {keys}");
    }
    assert!(!keys.contains("\"good\""), "{keys}");
    user.run(["version", "good"]).ok();
}

/// A role that has no rights but those of a grant sees what it may see, and is told of nothing that is not its business.
#[test]
fn a_role_with_a_grant_only_is_sound() {
    let mut user = User::with_table();
    let role = format!("doctored_{}", std::process::id());
    user.sql(&format!("CREATE ROLE {role} LOGIN"));
    user.run(["grant", &role, "agents/7"]).ok();
    for key in ["agents/7/a//b", "agents/7/good", "agents/8/c//d"] {
        user.sql(&format!("INSERT INTO pgfiles(key, data) VALUES ('{key}', 'x')"));
    }
    let owner = user.database.as_ref().unwrap().dsn();
    user.set("PGFILES_DSN", &owner.replace("user=postgres", &format!("user={role}")));
    user.set("PGFILES_PREFIX", "agents/7/");
    let all = findings(&user);
    for check in ["server", "schema", "rights", "rows", "cache"] {
        assert!(about(&all, check).iter().any(|f| f["verdict"] == "ok"), "{check}: {all:#?}");
    }
    assert!(all.iter().all(|f| f["verdict"] != "fail" || f["check"] == "fuse"), "{all:#?}");
    let rights = about(&all, "rights")[0]["message"].as_str().unwrap().to_owned();
    assert!(rights.contains(&role) && rights.contains("confined by row security"), "{rights}");
    let keys = about(&all, "keys")[0]["message"].as_str().unwrap().to_owned();
    assert!(keys.contains("a//b") && !keys.contains("c//d"), "{keys}");
    // Without the prefix it sees no more than that.
    user.set("PGFILES_PREFIX", "");
    let all = findings(&user);
    assert!(!format!("{all:?}").contains("c//d"), "{all:#?}");
    // A role without any grant lacks the rights, and is told how to get them.
    user.sql(&format!("DROP OWNED BY {role}"));
    let all = findings(&user);
    let rights = about(&all, "rights");
    assert!(rights.is_empty() || rights[0]["verdict"] == "fail", "{all:#?}");
    assert_eq!(user.run(["doctor"]).code, 1);
    user.sql(&format!("DROP ROLE {role}"));
}

#[test]
fn grants_confine_a_role() {
    let user = User::with_table();
    let role = format!("agent_{}", std::process::id());
    user.sql(&format!("CREATE ROLE {role} LOGIN"));
    user.run(["grant", &role, "agents/7"]).ok();
    let all = user.run(["grants", "--json"]).json();
    assert!(all.as_array().unwrap().iter().any(|g| g["prefix"] == "agents/7/"), "{all}");
    assert!(user.run(["grants"]).ok().contains("agents/7/"));
    user.run(["revoke", &role, "agents/7"]).ok();
    assert_eq!(user.run(["grants", "--json"]).json(), serde_json::json!([]));
    user.run(["grant", "no_such_role", "agents/7"]).fails(1, &["no_such_role"]);
    user.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn damaged_contents_are_named() {
    let user = User::with_table();
    let large: Vec<u8> = (0..2_u32 << 20).map(|n| (n >> 8) as u8 | 1).collect();
    for (path, data) in [("d/small", &b"small"[..]), ("d/large", &large), ("d/fine", b"fine"), ("e/other", b"other")] {
        user.feed(["put", "-", path], data).ok();
    }
    user.run(["cp", "d/large", "d/copy"]).ok();
    user.feed(["put", "-", "d/small"], b"newer").ok();
    let contents = |args: &[&str]| {
        let ran = user.run(args.iter().chain(&["--json"]));
        let code = ran.code;
        let all = ran.json_of_any_code();
        let found = all.as_array().unwrap().iter().find(|finding| finding["check"] == "contents").unwrap().clone();
        (code, found["verdict"].as_str().unwrap().to_owned(), found["message"].as_str().unwrap().to_owned())
    };
    let (_, verdict, message) = contents(&["doctor", "--verify"]);
    assert_eq!(verdict, "ok", "{message}");
    assert!(message.starts_with("6 versions"), "{message}");
    // As a disk or a tool would: past the triggers.
    user.sql("SET session_replication_role = replica; UPDATE pgfiles SET data = 'smell' WHERE key = 'd/small' AND meta->>'version' = '1'");
    let (code, verdict, message) = contents(&["doctor", "--verify"]);
    assert_eq!((code, verdict.as_str()), (1, "fail"), "{message}");
    assert!(message.ends_with("1 of 6 versions are damaged: d/small version 1"), "{message}");
    user.sql("SET session_replication_role = replica; UPDATE pgfiles SET data = overlay(data placing 'x' from 100) WHERE id = (SELECT id FROM pgfiles WHERE meta ? 'sum' LIMIT 1)");
    let (_, _, message) = contents(&["doctor", "--verify", "d"]);
    assert!(
        message.contains("3 of 5 versions") && message.contains("d/large version 1") && message.contains("d/copy version 1"),
        "{message}"
    );
    assert_eq!(contents(&["doctor", "--verify", "e"]).1, "ok");
    user.sql("SET session_replication_role = replica; DELETE FROM pgfiles WHERE meta ? 'sum'");
    assert!(contents(&["doctor", "--verify", "d/large"]).2.ends_with("1 of 1 versions are damaged: d/large version 1"));
}
