//! The server by bytes on a socket: what a kernel sends, in its order, and what only an attacker does. Each test names its section of
//! RFC 8881.

mod attributes;
mod corpus;
mod files;
mod fuzz;
mod hostile;
mod listing;
mod locks;
mod recovery;
mod served;
mod sessions;
mod suite;

/// A file of tests that is not a module here would never run.
#[test]
fn every_file_is_a_module() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = std::fs::read_to_string(here.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(here).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let stem = name.strip_suffix(".rs").unwrap_or(&name);
        assert!(stem == "main" || main.contains(&format!("mod {stem};")), "{name} is not a module of main.rs");
    }
}
