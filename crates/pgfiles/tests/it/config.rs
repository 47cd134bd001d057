//! Settings as a user meets them.

use crate::user::User;

#[test]
fn config_show_names_each_value_and_its_source() {
    let mut user = User::alone();
    std::fs::create_dir_all(user.home.path().join(".config/pgfiles")).unwrap();
    std::fs::write(user.home.path().join(".config/pgfiles/config.yaml"), "pool_size: 3\n").unwrap();
    user.set("PGFILES_DSN", "postgres://me:secret@db/app");
    user.set("PGFILES_PREFIX", "agents/7");
    let shown = user.run(["config", "show", "--json", "--log-level", "debug"]).json();
    assert_eq!(shown["dsn"], serde_json::json!({"value": "postgres://me:***@db/app", "source": "env"}));
    assert_eq!(shown["pool_size"], serde_json::json!({"value": "3", "source": "file"}));
    assert_eq!(shown["log_level"], serde_json::json!({"value": "debug", "source": "flag"}));
    assert_eq!(shown["cache_max_size"], serde_json::json!({"value": "1GB", "source": "default"}));
    let text = user.run(["config", "show"]).ok();
    assert!(text.contains("agents/7") && !text.contains("secret"), "{text}");
}

#[test]
fn bad_settings_are_refused_by_name() {
    let mut user = User::alone();
    user.set("PGFILES_CACHE_MAX_SIZE", "lots");
    user.run(["config", "show"]).fails(2, &["PGFILES_CACHE_MAX_SIZE", "\"lots\"", "bytes"]);
    user.set("PGFILES_CACHE_MAX_SIZE", "1GB");
    std::fs::create_dir_all(user.home.path().join(".config/pgfiles")).unwrap();
    std::fs::write(user.home.path().join(".config/pgfiles/config.yaml"), "pool_sise: 3\n").unwrap();
    user.run(["config", "show"]).fails(2, &["config.yaml", "\"pool_sise\"", "pool_size"]);
    user.run(["status"]).fails(2, &["pool_sise"]);
    user.run(["config", "show", "--no-such-flag"]).fails(2, &["--no-such-flag"]);
    user.run(["nonsense"]).fails(2, &["nonsense"]);
}

#[test]
fn mistyped_settings_are_met_with_what_was_meant() {
    let mut user = User::alone();
    std::fs::create_dir_all(user.home.path().join(".config/pgfiles")).unwrap();
    let file = user.home.path().join(".config/pgfiles/config.yaml");
    std::fs::write(&file, "pool_sise: 4\n").unwrap();
    user.run(["config", "show"]).fails(2, &["config.yaml", "pool_sise", "is `pool_size` meant?"]);
    std::fs::remove_file(&file).unwrap();
    user.set("PGFILES_PREFXI", "a");
    let said = user.run(["doctor"]).stdout;
    assert!(said.contains("PGFILES_PREFXI (is PGFILES_PREFIX meant?)"), "{said}");
}
