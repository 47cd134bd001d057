//! A server that goes away under a mount: what waits, what answers, what heals.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
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

/// A process that has written to a file and holds it open. Not this one: whatever it starts meanwhile would hold the
/// file as well, until it has closed what it inherits, which waits for the server. And not a shell, which closes a copy
/// after each redirection.
struct Holder(Child);

impl Holder {
    fn start(user: &User, file: &Path, text: &str) -> Self {
        let mut command = Command::new("tee");
        let mut child = command.arg(file).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        eventually("it is written", || user.status()[0]["unsaved"]["bytes"] == text.len());
        Self(child)
    }

    /// Lets it close the file, and does not wait for that.
    fn let_close(&mut self) {
        drop(self.0.stdin.take());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.let_close();
        let _ = self.0.wait();
    }
}

fn recoveries(user: &User) -> Vec<PathBuf> {
    let all = fs::read_dir(user.home.path().join(".local/state/pgfiles/recovery"));
    all.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

/// Commits what was kept and asserts that the file has that content.
fn commit_recovered(user: &User, file: &str, content: &str) {
    let kept = recoveries(user);
    assert_eq!(kept.len(), 1, "{kept:?}");
    user.run([Path::new("batch"), &kept[0].join("operations.jsonl")]).ok();
    assert_eq!(user.sql(&format!("SELECT convert_from(pgfiles_read('{file}'), 'UTF8')")), [content]);
}

fn pid(user: &User) -> Pid {
    Pid::from_raw(user.status()[0]["pid"].as_i64().unwrap() as i32).unwrap()
}

#[test]
fn commands_answer_while_the_server_is_away_and_the_mount_heals() {
    let Some((server, user, dir)) = with_mount(&[]) else { return };
    fs::write(dir.join("before"), "1").unwrap();
    let holder = Holder::start(&user, &dir.join("held"), "3");
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
    drop(holder);
    user.run([Path::new("unmount"), &dir]).ok();
    assert_eq!(user.sql("SELECT key FROM pgfiles_live ORDER BY 1"), ["before", "during", "held"]);
}

#[test]
fn beyond_the_bound_programs_get_an_error_and_it_heals_afterwards() {
    let Some((server, user, dir)) = with_mount(&[("PGFILES_RETRY_TIMEOUT", "1s")]) else { return };
    let mut held = fs::File::create(dir.join("a")).unwrap();
    held.write_all(b"1").unwrap();
    server.kill_all();
    let error = held.sync_all().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    drop(held);
    let error = fs::write(dir.join("c"), "3").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    server.start_again();
    eventually("healed", || fs::write(dir.join("b"), "2").is_ok());
    user.run([Path::new("unmount"), &dir]).ok();
    // What its program was told could not be written was kept, and went with the rest.
    assert_eq!(user.sql("SELECT convert_from(pgfiles_read(key), 'UTF8') FROM pgfiles_live ORDER BY key"), ["1", "2"]);
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
    let Some((server, user, dir)) = with_mount(&[("PGFILES_PUBLISH_INTERVAL", "10m")]) else { return };
    let holder = Holder::start(&user, &dir.join("log"), "precious");
    server.kill_all();
    let asked = Instant::now();
    let ran = user.run([Path::new("unmount"), &dir, Path::new("--force")]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("recovery"), "{ran:?}");
    assert!(asked.elapsed() < Duration::from_secs(15));
    assert_eq!(user.status(), serde_json::json!([]));
    drop(holder);
    server.start_again();
    commit_recovered(&user, "log", "precious");
}

#[test]
fn unmount_force_does_not_wait_for_programs_that_wait() {
    let Some((server, user, dir)) = with_mount(&[]) else { return };
    let mut holder = Holder::start(&user, &dir.join("b"), "two");
    server.kill_all();
    // Its close waits for the server, for a minute if nobody ends it.
    holder.let_close();
    eventually("the server is missed", || user.status()[0]["state"] == "away");
    let asked = Instant::now();
    user.run([Path::new("unmount"), &dir, Path::new("--force")]).ok();
    drop(holder);
    assert!(asked.elapsed() < Duration::from_secs(15));
    server.start_again();
    commit_recovered(&user, "b", "two");
}

#[test]
fn unmount_force_with_nothing_unsaved_leaves_no_directory() {
    let Some((server, user, dir)) = with_mount(&[]) else { return };
    fs::write(dir.join("a"), "1").unwrap();
    user.run(["flush"]).ok();
    server.kill_all();
    let ran = user.run([Path::new("unmount"), &dir, Path::new("--force")]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!ran.stderr.contains("recovery"), "{ran:?}");
    assert!(!user.home.path().join(".local/state/pgfiles/recovery").exists());
    assert_eq!(user.status(), serde_json::json!([]));
    server.start_again();
    assert_eq!(user.sql("SELECT key FROM pgfiles_live"), ["a"]);
}

#[test]
fn sigterm_keeps_what_cannot_be_committed() {
    let Some((server, user, dir)) = with_mount(&[("PGFILES_RETRY_TIMEOUT", "1s")]) else { return };
    let holder = Holder::start(&user, &dir.join("log"), "precious");
    server.kill_all();
    kill_process(pid(&user), Signal::TERM).unwrap();
    eventually("the daemon has ended", || user.status() == serde_json::json!([]));
    drop(holder);
    server.start_again();
    commit_recovered(&user, "log", "precious");
}

#[test]
fn unmounted_by_others_what_cannot_be_committed_is_kept() {
    let Some((server, user, dir)) = with_mount(&[("PGFILES_RETRY_TIMEOUT", "1s"), ("PGFILES_PUBLISH_INTERVAL", "10m")]) else {
        return;
    };
    let holder = Holder::start(&user, &dir.join("log"), "precious");
    server.kill_all();
    rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::DETACH).unwrap();
    drop(holder);
    eventually("the daemon has ended", || user.status() == serde_json::json!([]));
    server.start_again();
    commit_recovered(&user, "log", "precious");
}

/// Attributes that were set while nothing could be committed: of a file that is not published, of a new one without content,
/// and of one whose change was queued.
#[test]
fn unmount_force_keeps_attributes() {
    for durability in ["close", "writeback"] {
        let vars = [("PGFILES_DURABILITY", durability), ("PGFILES_PUBLISH_INTERVAL", "10m")];
        let Some((server, user, dir)) = with_mount(&vars) else { return };
        fs::write(dir.join("old"), "0").unwrap();
        user.run(["flush"]).ok();
        let holder = Holder::start(&user, &dir.join("log"), "precious");
        server.kill_all();
        set_attributes(&dir.join("log"));
        if durability == "writeback" {
            set_attributes(&dir.join("old"));
        }
        user.run([Path::new("unmount"), &dir, Path::new("--force")]).ok();
        drop(holder);
        server.start_again();
        commit_recovered(&user, "log", "precious");
        let expected = ["0640 2001-09-09T01:46:40Z"];
        let shown = |key: &str| {
            user.sql(&format!("SELECT meta->>'mode' || ' ' || (meta->>'mtime') FROM pgfiles_live WHERE key = '{key}'"))
        };
        assert_eq!(shown("log"), expected, "{durability}");
        if durability == "writeback" {
            assert_eq!(shown("old"), expected);
        }
    }
}

fn set_attributes(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(file, fs::Permissions::from_mode(0o640)).unwrap();
    let at = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
    rustix::fs::utimensat(rustix::fs::CWD, file, &times, rustix::fs::AtFlags::empty()).unwrap();
}

/// What was committed and that a crashed server forgot is kept, too; what it did not forget is not committed twice.
#[test]
fn unmount_force_keeps_what_the_server_may_have_forgotten() {
    if !can_mount() {
        return;
    }
    // Its disk is far behind, so that a kill makes it forget.
    let conf = vec![("wal_writer_delay".to_owned(), "10s".to_owned())];
    let server = Postgres::start(Options { conf, ..Options::default() });
    let mut user = User::alone();
    let database = block_on(server.database());
    user.set("PGFILES_DSN", &database.dsn());
    user.database = Some(database);
    user.run(["init"]).ok();
    for forgets in [true, false] {
        let dir = user.dir(if forgets { "forgets" } else { "remembers" });
        let name = |name: &str| format!("{name}-{forgets}");
        user.run([Path::new("mount"), &dir]).ok();
        fs::write(dir.join(name("stays")), "0").unwrap();
        user.run(["flush"]).ok();
        fs::write(dir.join(name("a")), "1").unwrap();
        fs::rename(dir.join(name("a")), dir.join(name("b"))).unwrap();
        fs::create_dir(dir.join(name("sub"))).unwrap();
        fs::write(dir.join(name("sub")).join("c"), vec![b'c'; 600_000]).unwrap();
        fs::remove_file(dir.join(name("stays"))).unwrap();
        assert!(user.status()[0]["queue"]["retained_ops"].as_u64() > Some(4), "{}", user.status());
        if forgets {
            server.kill_all()
        } else {
            server.stop_fast()
        }
        user.run([Path::new("unmount"), &dir, Path::new("--force")]).ok();
        server.start_again();
        let keys = || user.sql(&format!("SELECT key FROM pgfiles_live WHERE key LIKE '%{forgets}%' ORDER BY 1"));
        let expected = [name("b"), format!("{}/c", name("sub"))];
        assert_eq!(keys() == expected, !forgets, "what was written last is forgotten");
        let kept = recoveries(&user);
        assert_eq!(kept.len(), 1, "{kept:?}");
        for _ in 0..2 {
            user.run([Path::new("batch"), &kept[0].join("operations.jsonl")]).ok();
            assert_eq!(keys(), expected);
            let versions = format!("SELECT count(*) FROM pgfiles WHERE key = '{}/c'", name("sub"));
            assert_eq!(user.sql(&versions), ["1"]);
        }
        fs::remove_dir_all(&kept[0]).unwrap();
    }
}

/// What was answered before it was committed is kept as well, in its order.
#[test]
fn unmount_force_keeps_what_is_queued() {
    let Some((server, user, dir)) = with_mount(&[("PGFILES_DURABILITY", "writeback")]) else { return };
    let work = dir.join("work");
    fs::create_dir(&work).unwrap();
    fs::write(work.join("old"), "0").unwrap();
    user.run(["flush"]).ok();
    server.kill_all();
    let large: Vec<u8> = (0..1u32 << 20).map(|at| (at >> 9) as u8).collect();
    fs::write(work.join("a"), "1").unwrap();
    fs::write(work.join("a"), "2").unwrap();
    fs::rename(work.join("a"), work.join("b")).unwrap();
    fs::remove_file(work.join("old")).unwrap();
    fs::create_dir(work.join("sub")).unwrap();
    fs::write(work.join("sub/large"), &large).unwrap();
    fs::write(work.join("sub/empty"), "").unwrap();
    eventually("it is queued", || user.status()[0]["unsaved"]["queued_ops"].as_u64() > Some(5));
    let ran = user.run([Path::new("unmount"), &dir, Path::new("--force")]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("recovery"), "{ran:?}");
    server.start_again();
    commit_recovered(&user, "work/b", "2");
    assert_eq!(user.sql("SELECT key FROM pgfiles_live ORDER BY 1"), ["work/b", "work/sub/empty", "work/sub/large"]);
    let etag = "SELECT encode(sha256(pgfiles_read('work/sub/large')), 'hex')";
    assert_eq!(user.sql(etag), [pgfiles_store::layout::etag(&large)]);
}
