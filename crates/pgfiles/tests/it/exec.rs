//! `exec`, `completions`, `man`.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::user::{User, can_mount};

const WAIT: Duration = Duration::from_secs(60);

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn mounts(user: &User) -> usize {
    user.run(["status", "--json"]).json().as_array().unwrap().len()
}

/// Starts a shell command by exec, and returns when it has made the file `running` in the home.
fn start(user: &User, script: &str) -> Child {
    let mut command = user.command(["exec", "--", "sh", "-c", script]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the command runs", || user.home.path().join("running").exists());
    child
}

#[test]
fn a_command_runs_in_a_mount_and_its_files_stay() {
    if !can_mount() {
        return;
    }
    let mut user = User::with_table();
    user.set("PGFILES_PREFIX", "p");
    let script = "test \"$PWD\" = \"$PGFILES_MOUNT\" && mkdir d && echo saved >d/f && cat && echo said >&2";
    let ran = user.feed(["exec", "--", "sh", "-c", script], b"given");
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "given", "said\n"), "{ran:?}");
    assert_eq!(user.run(["cat", "d/f"]).ok(), "saved\n");
    assert_eq!(mounts(&user), 0);
    let left: Vec<_> = std::fs::read_dir(user.home.path().join(".local/state/pgfiles/run"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // On a path of one's own, which stays.
    let at = user.dir("at");
    let said = user.run(["exec", "--at", "at", "sh", "-c", "pwd; cat d/f"]).ok();
    assert_eq!(said, format!("{}\nsaved\n", at.display()));
    assert!(at.read_dir().unwrap().next().is_none());
}

#[test]
fn it_ends_as_the_command_does() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    assert_eq!(user.run(["exec", "sh", "-c", "echo x >f; exit 7"]).code, 7);
    assert_eq!(user.run(["cat", "f"]).ok(), "x\n");
    assert_eq!(user.run(["exec", "sh", "-c", "kill -KILL $$"]).code, 137);
    user.run(["exec", "no-such-program"]).fails(127, &["no-such-program", "no such file"]);
    std::fs::write(user.home.path().join("plain"), "").unwrap();
    let plain = user.home.path().join("plain");
    user.run([Path::new("exec"), &plain]).fails(126, &["plain", "permission denied"]);
    assert_eq!(mounts(&user), 0);
}

#[test]
fn what_cannot_be_mounted_runs_nothing() {
    let mut user = User::alone();
    user.run(["exec", "touch", "ran"]).fails(2, &["no DSN"]);
    user.set("PGFILES_DSN", "postgres://u:topsecret@127.0.0.1:1/db");
    user.run(["exec"]).fails(2, &["COMMAND"]);
    if can_mount() {
        let said = user.run(["exec", "touch", "ran"]).fails(5, &["127.0.0.1:1"]);
        assert!(!said.stderr.contains("topsecret"));
        std::fs::write(user.dir("full").join("f"), "").unwrap();
        user.run(["exec", "--at", "full", "touch", "ran"]).fails(4, &["holds 1 file"]);
        user.run(["exec", "--at", "nowhere", "touch", "ran"]).fails(3, &["nowhere"]);
    }
    assert!(!user.home.path().join("ran").exists());
}

#[test]
fn sigterm_goes_to_the_command() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    let script = "trap 'echo told >f; exit 9' TERM; touch ~/running; while :; do sleep 0.1; done";
    let child = start(&user, script);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(9), "{ended:?}");
    assert_eq!(user.run(["cat", "f"]).ok(), "told\n");
    assert_eq!(mounts(&user), 0);
}

#[test]
fn a_killed_exec_leaves_no_mount() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    let mut child = start(&user, "echo saved >f; touch ~/running; exec sleep 1000");
    let pid = user.run(["status", "--json"]).json()[0]["mountpoint"].as_str().unwrap().to_owned();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    until("the mount is gone", || mounts(&user) == 0);
    assert_eq!(user.run(["cat", "f"]).ok(), "saved\n");
    assert!(!std::fs::read_to_string("/proc/mounts").unwrap().contains(&pid));
    let killed = std::process::Command::new("pkill").args(["-f", "^sleep 1000$"]).status().unwrap();
    assert!(killed.success());
}

#[test]
fn what_the_command_leaves_behind_is_cut_off() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    let began = Instant::now();
    let ran = user.run([
        "exec",
        "sh",
        "-c",
        "echo saved >f; (exec sleep 999 >open 2>&1 </dev/null) & while [ ! -e open ]; do sleep 0.1; done",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("cut off") && began.elapsed() < WAIT, "{ran:?}");
    assert_eq!(user.run(["cat", "f"]).ok(), "saved\n");
    assert_eq!(mounts(&user), 0);
    let killed = std::process::Command::new("pkill").args(["-f", "^sleep 999$"]).status().unwrap();
    assert!(killed.success());
}

#[test]
fn shells_are_given_completions() {
    let user = User::alone();
    for shell in ["bash", "zsh", "fish"] {
        let script = user.run(["completions", shell]).ok();
        assert!(script.contains("import") && script.contains("doctor"), "{shell}");
    }
    std::fs::write(user.home.path().join("bash"), user.run(["completions", "bash"]).ok()).unwrap();
    let sound = std::process::Command::new("bash").arg("-n").arg(user.home.path().join("bash")).status().unwrap();
    assert!(sound.success());
    user.run(["completions", "tcsh"]).fails(2, &["tcsh", "bash, zsh, fish"]);
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let user = User::alone();
    let page = user.run(["man"]).ok();
    assert!(page.starts_with(".") && page.contains("Exit codes"), "{page}");
    let dir = user.dir("man1");
    user.run(["man", "--dir", "man1"]).ok();
    for name in ["pgfiles", "pgfiles-import", "pgfiles-cache-clear", "pgfiles-config-show", "pgfiles-exec"] {
        let text = std::fs::read_to_string(dir.join(format!("{name}.1"))).unwrap();
        assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{name}");
    }
    assert!(!dir.join("pgfiles-daemon.1").exists());
    user.run(["man", "--dir", "none"]).fails(3, &["none/pgfiles.1"]);
}

#[test]
fn mistyped_commands_and_flags_are_met_with_what_was_meant() {
    let user = User::alone();
    user.run(["exprot", "x"]).fails(2, &["exprot", "export"]);
    user.run(["ls", "--recursiv"]).fails(2, &["--recursive"]);
    user.run(["ls", "--prefx", "a"]).fails(2, &["--prefix"]);
}
