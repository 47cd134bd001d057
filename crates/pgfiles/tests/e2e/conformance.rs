//! What a local disk can do, through the whole product. The suites of others in `scripts/conformance` run here with small
//! numbers; `make conformance` runs them at full size.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgfiles_testkit::fs_suite::{self, OnDisk};
use pgfiles_testkit::postgres::Postgres;

use crate::harness::{Sandbox, finish, finish_within};

/// How long a suite may take: ten times what it takes.
const SUITE_LIMIT: Duration = Duration::from_secs(900);

/// Whether something that a test needs is there. Elsewhere than in CI the test says that it is skipped.
fn there(found: bool, what: &str) -> bool {
    assert!(found || std::env::var_os("CI").is_none(), "{what} is missing, and nothing is skipped in CI");
    if !found {
        eprintln!("skipped, because {what} is missing");
    }
    found
}

pub(crate) fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    there(found.is_ok_and(|output| output.status.success()), program)
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_pgfiles")).ancestors().nth(2).unwrap().to_path_buf()
}

/// Whether a program that scripts/setup builds is there.
pub(crate) fn is_built(tool: &str) -> bool {
    there(target().join("tools/bin").join(tool).exists(), &format!("{tool}, which `scripts/setup test` builds,"))
}

pub(crate) fn is_root() -> bool {
    there(rustix::process::getuid().is_root(), "the right to change users")
}

/// Runs a suite on the program under test, with a server of its own.
fn suite(name: &str, args: &[&str], numbers: &[(&str, &str)]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/conformance").join(name);
    let mut command = Command::new(script);
    command.args(args).envs(numbers.iter().copied());
    command.env("CONFORMANCE_PGFILES", env!("CARGO_BIN_EXE_pgfiles")).env("SKIP_SETUP", "1").env("CARGO_TARGET_DIR", target());
    let output = finish_within(SUITE_LIMIT, command, name);
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{name}\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn pjdfstest() {
    if is_root() && is_built("pjdfstest") {
        suite("pjdfstest", &[], &[]);
    }
}

/// The kernel's own client of NFS, in a virtual machine; `make nfs` runs all steps at full size.
#[test]
fn the_kernels_client_of_nfs() {
    if is_root() && is_built("pjdfstest") && is_built("fsx") && has("qemu-system-x86_64") && has("mmdebstrap") {
        suite("nfs", &["programs", "backend", "pjdfstest", "server_killed"], &[("CONFORMANCE_SECONDS", "20")]);
    }
}

#[test]
fn fsx_in_seven_mixes() {
    if is_built("fsx") {
        suite("fsx", &[], &[("CONFORMANCE_OPS", "2000"), ("CONFORMANCE_REMOUNTS", "4")]);
    }
}

#[test]
fn sqlite_in_every_journal_mode() {
    if has("python3") {
        suite("sqlite", &[], &[("CONFORMANCE_TRANSACTIONS", "20")]);
    }
}

#[test]
fn a_large_directory() {
    if has("python3") {
        suite("directory", &[], &[("CONFORMANCE_NAMES", "3000")]);
    }
}

#[test]
fn trees_come_back_out_of_tar_rsync_and_cp() {
    if is_root() && has("rsync") && has("setfattr") && has("python3") {
        suite("archives", &[], &[("CONFORMANCE_FILES", "200")]);
    }
}

#[test]
fn stress_with_verification() {
    let brief = [
        "access",
        "chmod",
        "copy-file",
        "dentry",
        "dnotify",
        "dup",
        "fallocate",
        "fcntl",
        "flock",
        "fpunch",
        "fstat",
        "getdent",
        "hdd",
        "inotify",
        "io",
        "iomix",
        "lockf",
        "locka",
        "lockofd",
        "mknod",
        "open",
        "rename",
        "touch",
        "utime",
    ];
    if has("stress-ng") {
        suite("stress", &brief, &[("CONFORMANCE_SECONDS", "1")]);
    }
}

#[test]
fn system_calls_on_postgres() {
    let user = Sandbox::on(Postgres::shared());
    let mount = user.mount("agents/7/", "work");
    fs_suite::run_system_calls(&mount);
}

#[test]
fn the_suite_on_postgres() {
    let user = Sandbox::on(Postgres::shared());
    let mount = user.mount("agents/7/", "work");
    fs_suite::run(&OnDisk { root: mount.clone() });
}

/// git asks for times, size and inode number, and where they are what its index says it opens nothing.
#[test]
fn git_believes_its_index_after_a_remount() {
    if !has("git") || !has("strace") {
        return;
    }
    let user = Sandbox::on(Postgres::shared());
    let mount = user.mount("agents/7/", "work");
    user.shell(
        &mount,
        "git init -q -b main repo && cd repo
        git config user.email a@example.org && git config user.name a
        mkdir -p src/deep; for n in $(seq 200); do echo $n > src/f$n; echo $n > src/deep/f$n; done
        git add -A && git commit -qm first
        # What was written in the same tick of the clock as the index is read again (git: racy), so the index is written
        # once more in a later one.
        touch -d '1 minute ago' src/* src/deep/* && git update-index -q --refresh && git status --porcelain",
    );
    let before = ino(&mount.join("repo/src/deep/f7"));
    user.unmount(&mount);
    user.ok(["cache", "clear"]);
    let mount = user.mount("agents/7/", "work");
    assert_eq!(ino(&mount.join("repo/src/deep/f7")), before);
    let opened = user.home.path().join("opened");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=open,openat", "-o"]).arg(&opened);
    command.args(["git", "status", "--porcelain"]).current_dir(mount.join("repo"));
    command.env("HOME", user.home.path()).env("GIT_CONFIG_NOSYSTEM", "1");
    let output = finish(command, "git status");
    assert!(output.status.success() && output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    let calls = std::fs::read_to_string(&opened).unwrap();
    assert!(calls.contains("\"src/deep/\"") || calls.contains("\"src/\""), "the trace shows the work tree\n{calls}");
    let of_a_file = |line: &&str| line.contains("\"src/") && !line.contains("O_DIRECTORY") && !line.contains("ENOENT");
    let read: Vec<&str> = calls.lines().filter(of_a_file).collect();
    assert!(read.is_empty(), "{}", read.join("\n"));
}

fn ino(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    path.metadata().unwrap().ino()
}
