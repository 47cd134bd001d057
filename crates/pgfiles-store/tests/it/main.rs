//! Integration tests of the store, in one binary.

mod layer_cache;
mod layer_log;
mod layer_pg;
mod layer_suite;
mod mem_suite;
mod pg_bouncer;
mod pg_bouncer_suite;
mod pg_chaos;
mod pg_connect;
mod pg_listen;
mod pg_model;
mod pg_store;
mod pg_suite;
mod pg_tls;
mod schema_cost;
mod schema_grant;
mod schema_init;
mod schema_links;
mod schema_lock;
mod schema_model;
mod schema_past;
mod schema_race;
mod schema_single;

#[test]
fn no_file_is_forgotten() {
    let main = include_str!("main.rs");
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(module == "main" || main.contains(&format!("mod {module};")), "{name} is in no test binary");
    }
}
