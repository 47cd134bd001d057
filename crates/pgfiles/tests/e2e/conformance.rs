//! What a local disk can do, through the whole product: the parts of the suites in `scripts/conformance` that are quick.

use std::path::Path;
use std::process::Command;

use pgfiles_testkit::fs_suite::{self, OnDisk};
use pgfiles_testkit::postgres::Postgres;

use crate::harness::{Sandbox, finish};

fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped, because there is no {program}");
    }
    found
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
