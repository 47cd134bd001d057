//! A mount from `mount` to `unmount`, and what can go wrong with it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::user::{User, can_mount, eventually, finish};

fn mount(user: &User, name: &str) -> std::path::PathBuf {
    let dir = user.dir(name);
    let ran = user.run([Path::new("mount"), &dir]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
    dir
}

fn pid(user: &User) -> Pid {
    Pid::from_raw(user.status()[0]["pid"].as_i64().unwrap() as i32).unwrap()
}

fn is_mounted(dir: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&format!(" {} ", dir.display()))
}

#[test]
fn the_main_job() {
    if !can_mount() {
        return;
    }
    let mut user = User::with_table();
    user.set("PGFILES_PREFIX", "agents/7");
    let dir = mount(&user, "mnt");
    fs::create_dir(dir.join("output")).unwrap();
    fs::write(dir.join("output/result.json"), "{\"status\":\"done\"}\n").unwrap();
    let key = "agents/7/output/result.json";
    assert_eq!(user.sql(&format!("SELECT convert_from(pgfiles_read('{key}'), 'UTF8')")), ["{\"status\":\"done\"}\n"]);
    fs::write(dir.join("output/result.json"), "two").unwrap();
    // By a local path, without a DSN or a prefix in the environment.
    let mut bare = User::alone();
    bare.home = tempfile::tempdir().unwrap();
    let file = dir.join("output/result.json");
    let all = user.run([Path::new("version"), &file, Path::new("--json")]).json();
    assert_eq!(all.as_array().unwrap().len(), 2, "{all}");
    let relative = user.run_in(&dir.join("output"), ["version", "result.json", "--json"]).json();
    assert_eq!(relative, all);
    user.run([Path::new("restore"), &file, Path::new("1")]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\"status\":\"done\"}\n");
    // The same by its path under the prefix: through the daemon as well, seen at once.
    user.run(["restore", "output/result.json", "2"]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), "two");
    user.feed(["batch"], br#"{"op":"put","path":"output/new","data":"x"}"#).ok();
    assert_eq!(fs::read_to_string(dir.join("output/new")).unwrap(), "x");
    let ran = user.run([Path::new("unmount"), &dir]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
    assert!(!is_mounted(&dir));
    assert_eq!(user.status(), serde_json::json!([]));
    let dir = mount(&user, "mnt");
    assert_eq!(fs::read_to_string(dir.join("output/result.json")).unwrap(), "two");
    user.run([Path::new("unmount"), &dir]).ok();
}

#[test]
fn status_names_what_a_mount_is() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    assert!(user.run(["status"]).ok().contains("no live mount"));
    let dir = mount(&user, "mnt");
    fs::write(dir.join("a"), "x").unwrap();
    let status = user.status();
    let mount = &status[0];
    assert_eq!(mount["state"], "ok");
    assert_eq!(mount["mountpoint"], dir.to_str().unwrap());
    assert!(Path::new(mount["log"].as_str().unwrap()).exists());
    assert!(mount["operations"].is_object() && mount["usage"].is_object(), "{status}");
    let args = fs::read(format!("/proc/{}/cmdline", mount["pid"])).unwrap();
    let vars = fs::read(format!("/proc/{}/environ", mount["pid"])).unwrap();
    for text in [args, vars] {
        assert!(!String::from_utf8_lossy(&text).contains("host="), "the DSN stands in the process table");
    }
    assert!(user.run(["status"]).ok().contains(dir.to_str().unwrap()));
    user.run(["cache", "stats"]).ok();
    user.run(["cache", "clear"]).ok();
    user.run(["flush"]).ok();
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "x");
    user.run([Path::new("unmount"), &dir]).ok();
}

#[test]
fn bad_mount_points_are_refused_with_a_remedy() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    user.run(["mount", "missing"]).fails(3, &["missing", "mkdir"]);
    fs::write(user.home.path().join("file"), "").unwrap();
    user.run(["mount", "file"]).fails(1, &["not a directory"]);
    fs::write(user.dir("full").join("x"), "").unwrap();
    user.run(["mount", "full"]).fails(4, &["--allow-nonempty", "import"]);
    let dir = mount(&user, "mnt");
    user.run(["mount", "mnt"]).fails(4, &["already mounted", "unmount"]);
    user.run(["unmount", "full"]).fails(3, &["not mounted"]);
    user.run(["mount", "--allow-nonempty", "full"]).ok();
    user.run(["unmount", "full"]).ok();
    user.run([Path::new("unmount"), &dir]).ok();
    assert_eq!(user.status(), serde_json::json!([]));
}

#[test]
fn options_of_another_backend_are_refused() {
    let user = User::with_table();
    let dir = user.dir("mnt");
    let ran = user.run([Path::new("mount"), Path::new("--nfs-options"), Path::new("namedattr"), &dir]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("add `--backend nfs`"), "{ran:?}");
}

#[test]
fn a_killed_daemon_is_cleaned_up() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    let dir = mount(&user, "mnt");
    fs::write(dir.join("a"), "x").unwrap();
    kill_process(pid(&user), Signal::KILL).unwrap();
    eventually("the mount is dead", || fs::metadata(&dir).is_err());
    // The kernel takes a moment until it has let go of all that the process had.
    eventually("it is known to be killed", || user.status()[0]["state"] == "killed");
    user.run([Path::new("version"), &dir.join("a")]).fails(1, &["killed", "unmount"]);
    // The next mount cleans up by itself …
    mount(&user, "mnt");
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "x");
    assert_eq!(user.status().as_array().unwrap().len(), 1);
    // … and so does unmount.
    kill_process(pid(&user), Signal::KILL).unwrap();
    eventually("it is known to be killed", || user.status()[0]["state"] == "killed");
    user.run([Path::new("unmount"), &dir]).ok();
    assert!(!is_mounted(&dir));
    assert_eq!(user.status(), serde_json::json!([]));
}

#[test]
fn sigterm_commits_and_unmounts() {
    if !can_mount() {
        return;
    }
    let mut user = User::with_table();
    user.set("PGFILES_DURABILITY", "writeback");
    let dir = mount(&user, "mnt");
    for n in 0..50 {
        fs::write(dir.join(n.to_string()), "x").unwrap();
    }
    kill_process(pid(&user), Signal::TERM).unwrap();
    eventually("unmounted", || !is_mounted(&dir) && user.status() == serde_json::json!([]));
    assert_eq!(user.sql("SELECT count(*) FROM pgfiles_live"), ["50"]);
}

#[test]
fn unmount_waits_for_open_files_and_says_so() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    let dir = mount(&user, "mnt");
    let file = fs::File::create(dir.join("held")).unwrap();
    let said = user.run([Path::new("unmount"), &dir, Path::new("--timeout"), Path::new("1.5s")]);
    said.fails(1, &["waiting for", "open file", "--force"]);
    assert!(is_mounted(&dir) && fs::write(dir.join("other"), "y").is_ok());
    // Ctrl-C leaves the mount up.
    let mut child = user.command([Path::new("unmount"), &dir]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    child.wait().unwrap();
    drop(file);
    assert!(is_mounted(&dir));
    assert_eq!(fs::read_to_string(dir.join("other")).unwrap(), "y");
    user.run([Path::new("unmount"), &dir]).ok();
    assert_eq!(user.sql("SELECT count(*) FROM pgfiles_live"), ["2"]);
}

#[test]
fn one_may_stand_in_what_is_unmounted() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    let dir = mount(&user, "mnt");
    let ran = user.run_in(&dir, ["unmount", "."]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!is_mounted(&dir));
}

#[test]
fn a_mount_that_fails_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let mut user = User::with_table();
    user.set("PGFILES_DSN", "postgres://u:secret@127.0.0.1:1/db");
    let dir = user.dir("mnt");
    let said = user.run([Path::new("mount"), &dir]).fails(5, &["127.0.0.1:1"]);
    assert!(!said.stderr.contains("secret"));
    assert!(!is_mounted(&dir));
    assert_eq!(user.status(), serde_json::json!([]));
}

#[test]
fn a_read_only_mount_refuses_writes() {
    if !can_mount() {
        return;
    }
    let mut user = User::with_table();
    user.feed(["batch"], br#"{"op":"put","path":"a","data":"x"}"#).ok();
    user.set("PGFILES_READ_ONLY", "true");
    let dir = mount(&user, "mnt");
    let error = fs::write(dir.join("b"), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(30), "{error}");
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "x");
    assert_eq!(user.status()[0]["state"], "read-only");
    user.run([Path::new("unmount"), &dir]).ok();
}

#[test]
fn the_foreground_ends_with_its_signal() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    let dir = user.dir("mnt");
    let child = user.command([Path::new("mount"), Path::new("--foreground"), &dir]).spawn().unwrap();
    eventually("mounted", || is_mounted(&dir) && user.status()[0]["state"] == "ok");
    fs::write(dir.join("a"), "x").unwrap();
    let vars = fs::read(format!("/proc/{}/environ", child.id())).unwrap();
    assert!(!String::from_utf8_lossy(&vars).contains("PGFILES_DSN"));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(!is_mounted(&dir));
    assert_eq!(user.sql("SELECT count(*) FROM pgfiles_live"), ["1"]);
}

/// The kernel takes a killed daemon apart piece by piece: who mounts meanwhile waits for the rest.
#[test]
fn a_daemon_that_is_still_dying_is_waited_for() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    let dir = mount(&user, "mnt");
    let run = user.home.path().join(".local/state/pgfiles/run");
    let lock = fs::read_dir(&run)
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|file| file.extension().is_some_and(|end| end == "lock"));
    let lock = fs::File::open(lock.unwrap()).unwrap();
    kill_process(pid(&user), Signal::KILL).unwrap();
    // As if the daemon had not let go of it yet.
    lock.lock().unwrap();
    let mut child = user.command([Path::new("mount"), &dir]).spawn().unwrap();
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        assert_eq!(child.try_wait().unwrap().map(|status| status.code()), None, "it waits");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(lock);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    fs::write(dir.join("a"), "x").unwrap();
    user.run([Path::new("unmount"), &dir]).ok();
}

#[test]
fn an_interrupted_mount_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let mut user = User::with_table();
    // A server that accepts and never says anything.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    user.set("PGFILES_DSN", &format!("postgres://u@127.0.0.1:{}/db", silent.local_addr().unwrap().port()));
    let dir = user.dir("mnt");
    let mut child = user.command([Path::new("mount"), &dir]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let asked = Instant::now();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    child.wait().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1));
    let daemon = || {
        let ran = std::process::Command::new("pgrep").args(["-f", &format!("daemon {}", dir.display())]).output();
        ran.is_ok_and(|output| !output.stdout.is_empty())
    };
    eventually("the daemon is gone", || !daemon());
    assert!(!is_mounted(&dir));
}

#[test]
fn no_dev_fuse() {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped, because hiding /dev/fuse takes root");
        return;
    }
    let user = User::with_table();
    let dir = user.dir("mnt");
    let hide = |how: &str| {
        let mut command = std::process::Command::new("unshare");
        let program = crate::user::PROGRAM;
        command.args(["-m", "sh", "-c", &format!("{how} && exec {program} mount {}", dir.display())]);
        let like = user.command([""; 0]);
        command.env_clear().envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        finish(command)
    };
    hide("mkdir -p /tmp/pgfiles-nodev && mount --bind /tmp/pgfiles-nodev /dev").fails(1, &["no /dev/fuse", "--device /dev/fuse"]);
    hide("mount --bind /dev/null /dev/fuse && mount -o remount,bind,nodev /dev/fuse")
        .fails(1, &["/dev/fuse", "--device /dev/fuse"]);
}

/// A user who is not root, in a home of their own; `None` where this is not root to begin with. `allowed`: with a
/// /dev/fuse that they may open, in a mount namespace of its own.
fn as_nobody(user: &User, allowed: bool, script: &str) -> crate::user::Ran {
    let home = user.home.path();
    let device = home.with_extension("fuse");
    let prepare = format!("mknod {0} c 10 229 && chmod 666 {0} && mount --bind {0} /dev/fuse && rm {0}", device.display());
    let ordinary = "exec setpriv --reuid=65534 --regid=65534 --clear-groups";
    let prepare = if allowed { prepare } else { "true".to_owned() };
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("{prepare} && {ordinary} sh -ec '{script}'")]);
    let like = user.command([""; 0]);
    command.env_clear().envs(like.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(home);
    command.env("P", crate::user::PROGRAM);
    finish(command)
}

/// Whether the tests as another user can run; prints why they are skipped where not.
fn can_be_nobody() -> bool {
    let can = rustix::process::geteuid().is_root() && can_mount();
    if !can {
        eprintln!("skipped, because becoming another user takes root");
    }
    can
}

fn own_by_nobody(path: &Path) {
    std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
}

#[test]
fn a_mount_point_of_somebody_else_is_refused() {
    if !can_be_nobody() {
        return;
    }
    let user = User::with_table();
    own_by_nobody(user.home.path());
    user.dir("theirs");
    let said = as_nobody(&user, true, "$P mount theirs");
    said.fails(1, &["theirs", "belongs to another user", "of your own"]);
    user.dir("theirs/locked");
    fs::set_permissions(user.dir("theirs"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    as_nobody(&user, true, "$P mount theirs/locked").fails(1, &["theirs/locked", "permission denied"]);
}

#[test]
fn an_ordinary_user_without_the_device_is_told_what_to_ask_for() {
    use std::os::unix::fs::PermissionsExt as _;
    if !can_be_nobody() {
        return;
    }
    if fs::metadata("/dev/fuse").unwrap().permissions().mode() & 0o006 != 0 {
        eprintln!("skipped, because everybody may open /dev/fuse here");
        return;
    }
    let user = User::with_table();
    own_by_nobody(user.home.path());
    own_by_nobody(&user.dir("mnt"));
    as_nobody(&user, false, "$P mount mnt").fails(1, &["/dev/fuse", "chmod 666 /dev/fuse"]);
}

#[test]
fn an_ordinary_user_mounts_and_unmounts() {
    let helper = std::process::Command::new("fusermount3").arg("--version").output();
    if !can_be_nobody() || helper.is_err() {
        return;
    }
    let user = User::with_table();
    own_by_nobody(user.home.path());
    own_by_nobody(&user.dir("mnt"));
    let script = "$P mount mnt && echo hello >mnt/a && mkdir mnt/d && mv mnt/a mnt/d/a && cat mnt/d/a && stat -c %u mnt/d/a \
        && $P version d/a --json >/dev/null && $P status >/dev/null && $P unmount mnt && ls mnt && echo unmounted";
    let said = as_nobody(&user, true, script).ok();
    assert_eq!(said, "hello\n65534\nunmounted\n");
    assert_eq!(user.sql("SELECT convert_from(pgfiles_read('d/a'), 'UTF8')"), ["hello\n"]);
    // A daemon that was killed leaves a mount that its owner can take away.
    let script = "$P mount mnt && kill -9 $($P status --json | sed -n \"s/.*\\\"pid\\\": *\\([0-9]*\\).*/\\1/p\" | head -n 1) \
        && while stat mnt/d 2>/dev/null >&2; do sleep 0.05; done; $P mount mnt && cat mnt/d/a && $P unmount mnt";
    assert_eq!(as_nobody(&user, true, script).ok(), "hello\n");
}
