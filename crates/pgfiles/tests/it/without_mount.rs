//! `ls`, `cat`, `put`, `get`, `cp`, `mv`, `rm`, `stat`, `find`, `du`, `import`, `export`: on a connection of their own, and through a mount.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::user::{User, can_mount};

fn put(user: &User, path: &str, data: &[u8]) {
    user.feed(["put", "-", path], data).ok();
}

fn cat(user: &User, path: &str) -> String {
    user.run(["cat", path]).ok()
}

fn names(user: &User, args: &[&str]) -> Vec<String> {
    user.run(args).ok().lines().map(str::to_owned).collect()
}

/// Bytes that are not alike.
fn bytes(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// A tree with all that a tree may have.
fn tree(user: &User) -> std::path::PathBuf {
    let at = user.dir("tree");
    for n in 0..40 {
        let dir = at.join(format!("d{}", n % 4));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("f{n}")), format!("file {n}")).unwrap();
    }
    std::fs::write(at.join("large"), bytes(3 << 20)).unwrap();
    let sparse = std::fs::File::create(at.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    drop(sparse);
    std::fs::OpenOptions::new().append(true).open(at.join("sparse")).unwrap().write_all(b"end").unwrap();
    std::fs::create_dir(at.join("empty")).unwrap();
    symlink("../d1/f1", at.join("d2/link")).unwrap();
    std::fs::hard_link(at.join("d1/f1"), at.join("d3/hard")).unwrap();
    std::fs::write(at.join("new\nline"), "n").unwrap();
    std::fs::write(at.join(OsStr::from_bytes(b"bad\xff")), "b").unwrap();
    std::fs::set_permissions(at.join("d1/f5"), std::fs::Permissions::from_mode(0o751)).unwrap();
    std::fs::set_permissions(at.join("empty"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let time = std::time::UNIX_EPOCH + Duration::new(1_577_934_245, 678_901_000);
    std::fs::File::open(at.join("d1/f9")).unwrap().set_modified(time).unwrap();
    at
}

/// What a tree looks like: path, mode, size, time and content of each.
fn look(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(at) = left.pop() {
        let meta = std::fs::symlink_metadata(&at).unwrap();
        let content = match meta.file_type() {
            kind if kind.is_file() => format!("{:?} names {}", pgfiles_sum(&std::fs::read(&at).unwrap()), meta.nlink()),
            kind if kind.is_symlink() => format!("{:?}", std::fs::read_link(&at).unwrap()),
            _ => String::new(),
        };
        let path = at.strip_prefix(root).unwrap();
        all.push(format!("{path:?} {:o} {}.{} {content}", meta.mode(), meta.mtime(), meta.mtime_nsec()));
        if meta.is_dir() {
            left.extend(std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    all.sort();
    all
}

fn pgfiles_sum(bytes: &[u8]) -> (usize, u64) {
    (bytes.len(), bytes.iter().fold(7, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte))))
}

#[test]
fn files_are_written_read_and_kept_in_versions() {
    let user = User::with_table();
    std::fs::write(user.home.path().join("a.txt"), "one").unwrap();
    std::fs::set_permissions(user.home.path().join("a.txt"), std::fs::Permissions::from_mode(0o755)).unwrap();
    user.run(["put", "a.txt", "docs/"]).ok();
    let said = user.feed(["put", "-", "docs/a.txt", "--tag", "run=7", "--json"], b"two!").json();
    assert_eq!((&said["key"], &said["version"], &said["size"]), (&"docs/a.txt".into(), &2.into(), &4.into()));
    assert_eq!(cat(&user, "docs/a.txt"), "two!");
    assert_eq!(user.run(["cat", "--version", "1", "docs/a.txt"]).ok(), "one");
    assert_eq!(user.run(["cat", "--range", "1..3", "docs/a.txt"]).ok(), "wo");
    let stat = user.run(["stat", "--json", "docs/a.txt"]).json();
    assert_eq!((&stat["tags"]["run"], &stat["mode"], &stat["content_type"]), (&"7".into(), &"0755".into(), &"text/plain".into()));
    // Without a tag it keeps those that it has.
    put(&user, "docs/a.txt", b"three");
    assert_eq!(user.run(["stat", "--json", "docs/a.txt"]).json()["tags"]["run"], "7");
    let large = bytes(5 << 20);
    put(&user, "large.bin", &large);
    user.run(["get", "large.bin", "copy.bin"]).ok();
    assert_eq!(std::fs::read(user.home.path().join("copy.bin")).unwrap(), large);
    user.run(["get", "--version", "1", "docs/a.txt", "."]).ok();
    assert_eq!(std::fs::read_to_string(user.home.path().join("a.txt")).unwrap(), "one");
    assert_eq!(user.run(["get", "docs/a.txt", "-"]).ok(), "three");
    user.run(["get", "-n", "docs/a.txt", "."]).fails(4, &["a.txt is there already"]);
    assert_eq!(names(&user, &["ls"]), ["docs/", "large.bin"]);
    assert_eq!(names(&user, &["ls", "-R"]), ["docs/", "docs/a.txt", "large.bin"]);
    assert!(user.run(["ls", "-l", "docs"]).ok().starts_with("-rwxr-xr-x        3         5 B  "));
    assert_eq!(names(&user, &["ls", "--versions", "docs"]).len(), 3);
}

#[test]
fn conditions_are_checked_by_the_server() {
    let user = User::with_table();
    put(&user, "a", b"1");
    user.feed(["put", "-", "a", "--if-absent"], b"2").fails(4, &["a", "exists"]);
    user.feed(["put", "-", "a", "--if-version", "2"], b"2").fails(4, &["version 2"]);
    user.feed(["put", "-", "a", "--if-version", "1"], b"2").ok();
    let etag = user.run(["stat", "--json", "a"]).json()["etag"].as_str().unwrap().to_owned();
    user.feed(["put", "-", "a", "--if-etag", "none"], b"3").fails(4, &["a"]);
    user.feed(["put", "-", "a", "--if-etag", &etag], b"3").ok();
    assert_eq!(cat(&user, "a"), "3");
    user.feed(["put", "-", "a", "--if-absent", "--if-version", "3"], b"").fails(2, &["cannot be used with"]);
}

#[test]
fn what_is_copied_moved_and_deleted_keeps_its_history() {
    let user = User::with_table();
    put(&user, "a.txt", b"one");
    put(&user, "a.txt", b"two");
    user.run(["cp", "--version", "1", "a.txt", "old.txt"]).ok();
    assert_eq!(cat(&user, "old.txt"), "one");
    user.run(["cp", "-n", "a.txt", "old.txt"]).fails(4, &["old.txt"]);
    put(&user, "d/x", b"x");
    put(&user, "d/deep/y", b"y");
    user.run(["cp", "d", "e"]).fails(2, &["pgfiles cp -r"]);
    assert_eq!(user.run(["cp", "-r", "d", "e", "--json"]).json()["files"], 2);
    assert_eq!(names(&user, &["ls", "-R", "e"]), ["deep/", "deep/y", "x"]);
    user.run(["cp", "-r", "d", "d/deep"]).fails(2, &["into itself"]);
    user.run(["mv", "e", "f"]).ok();
    user.run(["mv", "a.txt", "f"]).ok();
    assert_eq!(names(&user, &["ls", "f"]), ["a.txt", "deep/", "x"]);
    user.run(["cat", "a.txt"]).fails(3, &["a.txt", "moved to f/a.txt"]);
    user.run(["rm", "f"]).fails(2, &["pgfiles rm -r"]);
    user.run(["rm", "-r", "f"]).fails(2, &["--yes"]);
    user.run(["rm", "-r", "-y", "f"]).ok();
    user.run(["rm", "f"]).fails(3, &["f"]);
    user.run(["rm", "--force", "f"]).ok();
    assert_eq!(names(&user, &["ls", "--deleted", "-R", "-0", "f"])[0].split('\0').filter(|path| !path.is_empty()).count(), 3);
    user.run(["restore", "f/x", "1"]).ok();
    assert_eq!(cat(&user, "f/x"), "x");
}

#[test]
fn patterns_name_files() {
    let user = User::with_table();
    for path in ["logs/a.gz", "logs/b.txt", "logs/old/c.gz", "logs/old/d.txt", "x*y"] {
        put(&user, path, b"1");
    }
    assert_eq!(user.run(["rm", "--dry-run", "logs/**/*.gz"]).ok(), "would delete logs/a.gz\nwould delete logs/old/c.gz\n");
    user.run(["rm", "logs/*.gz"]).ok();
    user.run(["rm", "logs/**/*.txt"]).fails(2, &["logs/b.txt, logs/old/d.txt", "--yes"]);
    user.run(["rm", "-y", "logs/**/*.txt"]).ok();
    user.run(["rm", "none/*"]).fails(3, &["none/*"]);
    // What is there by that name is that.
    user.run(["rm", "x*y"]).ok();
    assert_eq!(names(&user, &["find", "--type", "f"]), ["logs/old/c.gz"]);
}

#[test]
fn trees_come_back_as_they_went() {
    let user = User::with_table();
    let at = tree(&user);
    let done = user.run(["import", "tree", "t", "--json"]).json();
    assert_eq!((&done["failed"], &done["unchanged"]), (&0.into(), &0.into()));
    let written = done["files"].as_u64().unwrap();
    let again = user.run(["import", "tree", "t", "--json"]).json();
    assert_eq!((&again["files"], &again["unchanged"]), (&0.into(), &written.into()), "{again}");
    user.run(["export", "t", "out"]).ok();
    assert_eq!(look(&user.home.path().join("out")), look(&at));
    let sparse = std::fs::metadata(user.home.path().join("out/sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20, "holes are holes: {} blocks", sparse.blocks());
    let again = user.run(["export", "t", "out", "--json"]).json();
    assert_eq!(again["failed"], 0);
    // One file changed on each side.
    std::fs::write(at.join("d1/f5"), "changed").unwrap();
    assert_eq!(user.run(["import", "tree", "t", "--json"]).json()["files"], 1);
    assert_eq!(cat(&user, "t/d1/f5"), "changed");
    std::fs::write(user.home.path().join("out/d1/f9"), "spoiled").unwrap();
    user.run(["export", "t", "out"]).ok();
    assert_eq!(std::fs::read_to_string(user.home.path().join("out/d1/f9")).unwrap(), "file 9");
    // Odd names, in all three forms.
    assert!(
        names(&user, &["ls", "t"]).contains(&"new\\nline".to_owned())
            && names(&user, &["ls", "t"]).contains(&"bad\\xff".to_owned())
    );
    let mut command = user.command(["find", "t", "-0", "--name", "bad*"]);
    assert_eq!(command.output().unwrap().stdout, b"t/bad\xff\0");
}

#[test]
fn archives_are_read_and_written() {
    let user = User::with_table();
    let at = tree(&user);
    user.run(["import", "tree", "t"]).ok();
    let archive = user.command(["export", "t", "-"]).output().unwrap();
    assert!(archive.status.success(), "{archive:?}");
    std::fs::write(user.home.path().join("t.tar"), &archive.stdout).unwrap();
    let out = user.dir("untarred");
    let tar =
        std::process::Command::new("tar").arg("xpf").arg(user.home.path().join("t.tar")).current_dir(&out).status().unwrap();
    assert!(tar.success());
    let seconds = |tree: &Path| -> Vec<String> {
        // An archive has whole seconds, and not the directory itself.
        look(tree)
            .into_iter()
            .skip(1)
            .map(|line| {
                line.split_once('.').map_or(line.clone(), |(head, tail)| format!("{head} {}", tail.split_once(' ').unwrap().1))
            })
            .collect()
    };
    assert_eq!(seconds(&out), seconds(&at));
    user.feed(["import", "-", "u"], &archive.stdout).ok();
    user.run(["export", "u", "again"]).ok();
    assert_eq!(seconds(&user.home.path().join("again")), seconds(&at));
    let cut = user
        .feed(["import", "-", "v"], &archive.stdout[..archive.stdout.len() / 2])
        .fails(1, &["the archive cannot be read to its end"]);
    assert_eq!(cut.stdout, "");
    let mut evil = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.as_gnu_mut().unwrap().name[..9].copy_from_slice(b"../escape");
    header.set_cksum();
    evil.append(&header, &b"x"[..]).unwrap();
    user.feed(["import", "-", "w"], &evil.into_inner().unwrap()).fails(1, &["../escape", "out of the archive"]);
    user.run(["ls", "w"]).fails(3, &["w"]);
}

#[test]
fn a_tree_is_exported_as_it_was() {
    let user = User::with_table();
    put(&user, "d/a", b"one");
    put(&user, "d/gone", b"gone");
    let then = user.sql("SELECT pgfiles_now()")[0].clone();
    std::thread::sleep(Duration::from_millis(5));
    put(&user, "d/a", b"two");
    put(&user, "d/later", b"later");
    user.run(["rm", "d/gone"]).ok();
    user.run(["export", "--at", &then, "d", "then"]).ok();
    let read = |path: &str| std::fs::read_to_string(user.home.path().join("then").join(path)).ok();
    assert_eq!((read("a"), read("gone"), read("later")), (Some("one".into()), Some("gone".into()), None));
    user.run(["export", "--at", "whenever", "d", "x"]).fails(2, &["whenever", "2026-01-31"]);
}

#[test]
fn trees_are_searched_and_added_up() {
    let user = User::with_table();
    put(&user, "a/small.csv", b"12345");
    put(&user, "a/b/large.csv", &bytes(10_000));
    user.feed(["put", "-", "c.txt", "--tag", "run=7"], b"x").ok();
    assert_eq!(names(&user, &["find", "--name", "*.csv"]), ["a/b/large.csv", "a/small.csv"]);
    assert_eq!(names(&user, &["find", "a", "--size", "+1kB"]), ["a/b/large.csv"]);
    assert_eq!(names(&user, &["find", "--tag", "run=7"]), ["c.txt"]);
    assert_eq!(names(&user, &["find", "--content-type", "text/*", "--size", "-10"]), ["a/small.csv", "c.txt"]);
    assert_eq!(names(&user, &["find", "--type", "d"]), ["a/", "a/b/"]);
    assert!(names(&user, &["find", "--older", "1h"]).is_empty());
    user.run(["find", "--size", "huge"]).fails(2, &["huge"]);
    let sums: Vec<Value> =
        user.run(["du", "--json", "--depth", "2"]).ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |path: &str| sums.iter().find(|sum| sum["path"] == path).map(|sum| (sum["files"].as_u64(), sum["bytes"].as_u64()));
    assert_eq!(of("a"), Some((Some(2), Some(10_005))));
    assert_eq!(of("a/b"), Some((Some(1), Some(10_000))));
    assert_eq!(of("."), Some((Some(3), Some(10_006))));
}

#[test]
fn paths_that_lead_nowhere_are_explained() {
    let mut user = User::with_table();
    put(&user, "p/f", b"1");
    put(&user, "q/g", b"1");
    user.set("PGFILES_PREFIX", "p");
    for command in ["ls", "cat", "stat", "rm"] {
        user.run([command, "nothing"]).fails(3, &["nothing", "no such file or directory under the prefix"]);
        user.run([command, "key:q/g"]).fails(2, &["outside the prefix"]);
        user.run([command, "../q/g"]).fails(2, &["has no `..`"]);
    }
    user.run(["cat", "."]).fails(2, &["is a directory"]);
    user.run(["put", "nothing.txt", "x"]).fails(3, &["nothing.txt"]);
    user.feed(["put", "-", "f/g"], b"").fails(4, &["f"]);
    user.run(["put", "-", "dir/"]).fails(2, &["name the file"]);
    user.run(["import", "nothing"]).fails(3, &["nothing"]);
    std::fs::write(user.home.path().join("file"), "").unwrap();
    user.run(["import", "file"]).fails(2, &["pgfiles put"]);
    user.run(["export", "f", "x"]).fails(2, &["pgfiles get"]);
    user.run(["export", "nothing", "x"]).fails(3, &["nothing"]);
    user.run(["cat", "--version", "9", "f"]).fails(3, &["version 9", "pgfiles version f"]);
    user.run(["rm", "f"]).ok();
    user.run(["cat", "f"]).fails(3, &["it is deleted", "pgfiles restore"]);
}

#[test]
fn a_disk_that_fills_leaves_no_half_files() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped, because a small disk takes root");
        return;
    }
    let user = User::with_table();
    put(&user, "d/large", &bytes(6 << 20));
    put(&user, "d/small", b"s");
    let at = user.dir("small-disk");
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(&at).status().unwrap();
    assert!(mounted.success());
    let got = user.run(["get", "d/large", "small-disk/large"]);
    let exported = user.run(["export", "d", "small-disk/d"]);
    let left: Vec<_> = std::fs::read_dir(&at)
        .unwrap()
        .chain(std::fs::read_dir(at.join("d")).unwrap())
        .map(|entry| entry.unwrap().file_name())
        .collect();
    let unmounted = std::process::Command::new("umount").arg(&at).status().unwrap();
    assert!(unmounted.success());
    got.fails(1, &["small-disk/large", "no space left"]);
    exported.fails(1, &["no space left", "make room and run this again"]);
    assert!(left.iter().all(|name| name == "d" || name == "small"), "{left:?}");
}

#[test]
fn what_is_interrupted_goes_on_where_it_stopped() {
    let user = User::with_table();
    let at = user.dir("many");
    for n in 0..6_000 {
        std::fs::write(at.join(format!("f{n}")), format!("{n}")).unwrap();
    }
    let mut command = user.command(["import", "many", "m"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while user.sql("SELECT count(*) FROM pgfiles")[0] == "0" {
        assert!(Instant::now() < until);
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    let count = || user.run(["ls", "m"]).ok().lines().count();
    if ended.status.code() == Some(130) {
        assert!(said.contains("run the same again to go on"), "{said}");
        let there = count();
        assert!(
            there < 6_000 && said.contains(&format!("stopped: {there} files"))
                || said.contains(&format!("stopped: {} files", there + 1)),
            "{there}: {said}"
        );
    } else {
        // It was done before the signal came.
        assert_eq!(ended.status.code(), Some(0), "{said}");
    }
    user.run(["import", "many", "m"]).ok();
    assert_eq!(count(), 6_000);
    assert_eq!(user.sql("SELECT max((meta->>'version')::int) FROM pgfiles WHERE key LIKE 'm/f%'"), ["1"], "nothing twice");
}

#[test]
fn a_file_that_changes_is_named() {
    let user = User::with_table();
    let at = user.dir("busy");
    std::fs::write(at.join("quiet"), "q").unwrap();
    std::fs::write(at.join("busy"), bytes(8 << 20)).unwrap();
    let (stop, path) = (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)), at.join("busy"));
    let writer = std::thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
            }
        }
    });
    let ran = user.run(["import", "busy", "b"]);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    ran.fails(1, &["busy: cannot be read: it changes while it is read", "1 file was not imported"]);
    assert_eq!(cat(&user, "b/quiet"), "q");
    user.run(["import", "busy", "b"]).ok();
    let size = std::fs::metadata(at.join("busy")).unwrap().len();
    assert_eq!(user.run(["stat", "--json", "b/busy"]).json()["size"], size);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let user = User::with_table();
    put(&user, "large", &bytes(8 << 20));
    for args in [&["cat", "large"][..], &["export", "-"]] {
        let mut child = user.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut some = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        let ended = child.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]), "{args:?}");
    }
}

#[test]
fn what_a_mount_shows_goes_through_its_daemon() {
    if !can_mount() {
        return;
    }
    let mut user = User::with_table();
    let at = user.dir("mnt");
    user.set("PGFILES_PREFIX", "p");
    user.run(["mount", "mnt"]).ok();
    let dsn = user.vars.iter().find(|(name, _)| name == "PGFILES_DSN").unwrap().1.clone();
    // The mount decides server and prefix, whatever the settings say.
    user.set("PGFILES_DSN", "");
    user.set("PGFILES_PREFIX", "");
    let open = std::fs::File::create(at.join("open")).unwrap();
    (&open).write_all(b"unsaved").unwrap();
    assert_eq!(cat(&user, "mnt/open"), "unsaved");
    assert!(!at.join("d").exists(), "the kernel remembers that");
    user.feed(["put", "-", "mnt/d/new"], b"seen").ok();
    assert_eq!(std::fs::read_to_string(at.join("d/new")).unwrap(), "seen");
    let names: Vec<_> = std::fs::read_dir(at.join("d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["new"]);
    put(&user, "mnt/d/new", b"seen again");
    assert_eq!(std::fs::read_to_string(at.join("d/new")).unwrap(), "seen again");
    user.run(["mv", "mnt/d", "mnt/e"]).ok();
    assert!(at.join("e/new").exists() && !at.join("d").exists());
    let tree = tree(&user);
    user.run(["import", "tree", "mnt/t"]).ok();
    assert_eq!(look(&at.join("t")).len(), look(&tree).len());
    user.run(["export", "mnt/t", "out"]).ok();
    assert_eq!(look(&user.home.path().join("out")), look(&tree));
    user.run(["rm", "-r", "-y", "mnt/t"]).ok();
    assert!(!at.join("t").exists());
    // In the mount, a path is where it seems to be.
    assert_eq!(user.run_in(&at, ["ls"]).ok(), "e/\nopen\n");
    drop(open);
    // The daemon is told of what another command does beside it.
    user.set("PGFILES_DSN", &dsn);
    let said = user.feed(["put", "-", "p/e/beside", "--json"], b"b").json();
    assert_eq!(said["key"], "p/e/beside");
    assert_eq!(std::fs::read_to_string(at.join("e/beside")).unwrap(), "b");
}

#[test]
fn a_copy_that_is_interrupted_leaves_what_was_there() {
    let user = User::with_table();
    put(&user, "large", &bytes(96 << 20));
    let at = user.dir("to");
    std::fs::write(at.join("large"), "before").unwrap();
    let mut command = user.command(["get", "large", "to"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let names =
        || std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>();
    let until = Instant::now() + Duration::from_secs(60);
    while names().len() < 2 && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until);
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(names(), ["large"]);
    if ended.status.code() == Some(130) {
        assert_eq!(std::fs::read(at.join("large")).unwrap(), b"before");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("stopped: 0 files were copied"), "{ended:?}");
    } else {
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    }
}
