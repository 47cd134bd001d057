//! A server that goes away under a mount: what waits, what answers, what heals.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgfiles_testkit::postgres::{Options, Postgres};
use rustix::process::{Pid, Signal, kill_process};

use crate::user::{User, block_on, can_mount, eventually};

/// A server of its own, a table in it, a mount.
fn with_mount(vars: &[(&str, &str)]) -> Option<(Postgres, User, PathBuf)> {
    if !can_mount() {
        return None;
    }
    let server = Postgres::start(Options::default());
    let mut user = User::alone();
    let database = block_on(server.database());
    user.set("PGFILES_DSN", &database.dsn());
    user.database = Some(database);
    for (name, value) in vars {
        user.set(name, value);
    }
    user.run(["init"]).ok();
    let dir = user.dir("mnt");
    user.run([Path::new("mount"), &dir]).ok();
    Some((server, user, dir))
}

#[test]
fn commands_answer_while_the_server_is_away_and_the_mount_heals() {
    let Some((server, user, dir)) = with_mount(&[]) else { return };
    fs::write(dir.join("before"), "1").unwrap();
    server.kill_all();
    let target = dir.join("during");
    let writer = std::thread::spawn(move || fs::write(target, "2"));
    eventually("status says that the server is away", || user.status()[0]["state"] == "away");
    let asked = Instant::now();
    assert!(user.run(["status"]).ok().contains("away since"));
    assert!(asked.elapsed() < Duration::from_secs(3));
    // unmount says what it waits for, and Ctrl-C leaves the mount up.
    let said = user.run([Path::new("unmount"), &dir, Path::new("--timeout"), Path::new("2s")]);
    said.fails(1, &["waiting for the server", "the mount is up"]);
    let mut child = user.command([Path::new("unmount"), &dir]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let asked = Instant::now();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    child.wait().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1));
    // A command that goes through the daemon waits, and answers Ctrl-C, too.
    let mut child = user.command([Path::new("version"), &dir.join("before")]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    child.wait().unwrap();
    server.start_again();
    writer.join().unwrap().unwrap();
    eventually("healed", || user.status()[0]["state"] == "ok");
    assert_eq!(fs::read_to_string(dir.join("before")).unwrap(), "1");
    user.run([Path::new("unmount"), &dir]).ok();
    assert_eq!(user.sql("SELECT key FROM pgfiles_live ORDER BY 1"), ["before", "during"]);
}

#[test]
fn beyond_the_bound_programs_get_an_error_and_it_heals_afterwards() {
    let Some((server, user, dir)) = with_mount(&[("PGFILES_RETRY_TIMEOUT", "1s")]) else { return };
    server.kill_all();
    let error = fs::write(dir.join("a"), "1").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    server.start_again();
    eventually("healed", || fs::write(dir.join("b"), "2").is_ok());
    user.run([Path::new("unmount"), &dir]).ok();
    let live = user.sql("SELECT key FROM pgfiles_live WHERE key = 'b'");
    assert_eq!(live, ["b"]);
}

#[test]
fn a_direct_command_gives_up_soon() {
    let server = Postgres::start(Options::default());
    let mut user = User::alone();
    let database = block_on(server.database());
    user.set("PGFILES_DSN", &database.dsn());
    user.run(["init"]).ok();
    server.kill_all();
    let asked = Instant::now();
    user.run(["version", "a"]).fails(5, &[]);
    assert!(asked.elapsed() < Duration::from_secs(10));
    server.start_again();
    drop(database);
}

#[test]
fn unmount_force_keeps_what_is_unsaved() {
    let Some((server, user, dir)) = with_mount(&[("PGFILES_RETRY_TIMEOUT", "20s"), ("PGFILES_PUBLISH_INTERVAL", "10m")]) else {
        return;
    };
    let mut file = fs::File::create(dir.join("log")).unwrap();
    std::io::Write::write_all(&mut file, b"precious").unwrap();
    server.kill_all();
    let ran = user.run([Path::new("unmount"), &dir, Path::new("--force")]);
    drop(file);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("recovery"), "{ran:?}");
    assert_eq!(user.status(), serde_json::json!([]));
    server.start_again();
    let kept = user.home.path().join(".local/state/pgfiles/recovery");
    let kept = fs::read_dir(kept).unwrap().next().unwrap().unwrap().path().join("operations.jsonl");
    user.run([Path::new("batch"), &kept]).ok();
    assert_eq!(user.sql("SELECT convert_from(pgfiles_read('log'), 'UTF8')"), ["precious"]);
}
