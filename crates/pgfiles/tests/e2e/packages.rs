//! What users install: made of the program under test by `scripts/package`, tried by `scripts/package-test`. The static program, whose build
//! takes longer than all of this, is tried by `make packages`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::conformance::{has, is_built, is_root, target};
use crate::harness::finish_within;

/// How long making or trying a package may take: ten times what it takes.
const LIMIT: Duration = Duration::from_secs(600);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs one of the scripts and returns what it printed.
fn script(name: &str, args: &[&str]) -> String {
    let mut command = Command::new(repository().join("scripts").join(name));
    command.args(args).env("CARGO_TARGET_DIR", target()).env("PACKAGE_FAST", "1");
    let output = finish_within(LIMIT, command, name);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}");
    assert!(output.status.success(), "{name} {args:?}\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn the_debian_package_installs_works_and_goes_without_a_trace() {
    if is_root() && is_built("cargo-deb") && has("dpkg-shlibdeps") && has("mmdebstrap") && has("openssl") && has("python3") {
        let package = script("package", &["deb", env!("CARGO_BIN_EXE_pgfiles")]);
        script("package-test", &["deb", package.trim()]);
    }
}

/// The formula of a release has the address and the checksum of the archive that it is given.
#[test]
fn the_formula_names_the_archive_of_its_release() {
    let archive = tempfile::Builder::new().suffix(".tar.gz").tempfile().expect("a file");
    let formula = script("package", &["formula", archive.path().to_str().expect("UTF-8")]);
    let name = archive.path().file_name().expect("a name").to_str().expect("UTF-8");
    let version = env!("CARGO_PKG_VERSION");
    assert!(formula.contains(&format!("/releases/download/v{version}/{name}\"\n")), "{formula}");
    // SHA-256 of nothing.
    assert!(formula.contains("  sha256 \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"\n"), "{formula}");
    assert_eq!(script("package", &["version"]).trim(), version);
}
