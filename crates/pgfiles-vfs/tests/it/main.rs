//! Integration tests of the filesystem, without a kernel and without a server, in one binary.

mod locks;
mod model;
mod model_found;
mod rows;
mod suite;

#[test]
fn no_file_is_forgotten() {
    let main = include_str!("main.rs");
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(module == "main" || main.contains(&format!("mod {module};")), "{name} is in no test binary");
    }
}
