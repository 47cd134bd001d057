//! The directory of the cache when it is not what it should be. Looked at from outside only: whatever regular files lie below it.
//! That its disk is full is tested in `it/cache.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgfiles_testkit::postgres::Postgres;

use crate::harness::{Sandbox, database, eventually, finish, pattern, save};

/// Small and large files, 11 MB together.
const SIZES: [usize; 4] = [900, 60_000, 300_000, 1 << 20];
const FILES: usize = 32;

fn content(prefix: &str, n: usize) -> Vec<u8> {
    pattern(n as u64 * 31 + prefix.len() as u64 + u64::from(prefix.as_bytes()[0]), SIZES[n % SIZES.len()])
}

/// Writes the files through a mount of another user, who has another cache.
fn prepare(dsn: &str, prefix: &str) {
    let writer = Sandbox::new(dsn);
    let mount = writer.mount(prefix, "writer");
    for n in 0..FILES {
        save(&mount.join(format!("f{n}")), &content(prefix, n)).unwrap();
    }
    writer.unmount(&mount);
}

fn read_all(mount: &Path, prefix: &str) {
    for n in 0..FILES {
        let found = fs::read(mount.join(format!("f{n}"))).unwrap();
        assert!(found == content(prefix, n), "f{n} of {prefix} is not what was written");
    }
}

/// All regular files below a directory, whatever they are. What goes meanwhile is left out.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut out, mut open) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() => out.push(entry.path()),
                _ => {}
            }
        }
    }
    out
}

fn bytes_in(dir: &Path) -> u64 {
    files(dir).iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum()
}

/// A user whose cache is in `cache`, with files of a prefix to read.
fn reader(prefix: &str) -> (Sandbox, PathBuf) {
    let user = Sandbox::on(Postgres::shared());
    prepare(&user.dsn, prefix);
    let cache = user.home.path().join("cache");
    fs::create_dir(&cache).unwrap();
    let user = user.with("PGFILES_CACHE_DIR", cache.to_str().unwrap());
    (user, cache)
}

/// Read by a daemon that ends, so that blocks are on the disk and nowhere else.
fn fill(user: &Sandbox, cache: &Path, prefix: &str) {
    let mount = user.mount(prefix, "work");
    eventually("the cache is on the disk", || {
        read_all(&mount, prefix);
        bytes_in(cache) > 1 << 20
    });
    user.unmount(&mount);
}

/// Spoils each file in one of several ways; how many.
fn spoil(cache: &Path, seed: usize) -> usize {
    let all = files(cache);
    for (index, path) in all.iter().enumerate() {
        let Ok(mut bytes) = fs::read(path) else { continue };
        match (index + seed) % 5 {
            0 => bytes.iter_mut().for_each(|byte| *byte ^= 0x5a),
            1 => bytes.truncate(bytes.len() / 2),
            2 => bytes.clear(),
            3 => bytes.iter_mut().skip(3).step_by(97).for_each(|byte| *byte = byte.wrapping_add(1)),
            _ => bytes.extend_from_slice(&pattern(seed as u64, 5000)),
        }
        // In place: whoever has it open sees it.
        fs::write(path, bytes).unwrap();
    }
    all.len()
}

/// Spoiled bytes are never served: between mounts, under a daemon that has not read them yet, and under one that has.
#[test]
fn a_corrupted_cache_is_never_believed() {
    let (user, cache) = reader("a/");
    fill(&user, &cache, "a/");
    for seed in 0..3 {
        assert!(spoil(&cache, seed) > 0);
        let mount = user.mount("a/", "work");
        if seed % 2 == 1 {
            assert!(spoil(&cache, seed + 1) > 0);
        }
        read_all(&mount, "a/");
        spoil(&cache, seed + 2);
        save(&mount.join("new"), &pattern(seed as u64, 70_000)).unwrap();
        read_all(&mount, "a/");
        assert_eq!(fs::read(mount.join("new")).unwrap(), pattern(seed as u64, 70_000));
        let status = user.status(&mount);
        assert_eq!(status["state"], "ok", "{status}");
        user.unmount(&mount);
    }
    // Names that nobody expects there.
    fs::write(cache.join("stray"), "x").unwrap();
    fs::create_dir_all(cache.join("a dir/below")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", cache.join("link")).unwrap();
    let mount = user.mount("a/", "work");
    read_all(&mount, "a/");
    user.ok(["cache", "clear"]);
    read_all(&mount, "a/");
    user.unmount(&mount);
    assert!(Path::new("/etc/passwd").metadata().unwrap().len() > 0);
}

/// Removed, and replaced by a file, under a live daemon.
#[test]
fn a_removed_cache_is_done_without() {
    let (user, cache) = reader("a/");
    fill(&user, &cache, "a/");
    let mount = user.mount("a/", "work");
    fs::read(mount.join("f1")).unwrap();
    fs::remove_dir_all(&cache).unwrap();
    read_all(&mount, "a/");
    save(&mount.join("new"), b"1").unwrap();
    fs::remove_dir_all(&cache).ok();
    fs::write(&cache, "not a directory").unwrap();
    save(&mount.join("new"), b"22").unwrap();
    read_all(&mount, "a/");
    eventually("it is said", || user.ok(["cache", "stats"]).contains("error: "));
    user.unmount(&mount);
    // A mount that finds it so.
    let mount = user.mount("a/", "work");
    read_all(&mount, "a/");
    assert_eq!(fs::read(mount.join("new")).unwrap(), b"22");
    fs::remove_file(&cache).unwrap();
    fs::create_dir(&cache).unwrap();
    user.ok(["cache", "clear"]);
    read_all(&mount, "a/");
    user.unmount(&mount);
    fill(&user, &cache, "a/");
}

/// A directory that becomes read-only however much its modes allow; writable again and gone with the value.
struct ReadOnly(PathBuf);

impl ReadOnly {
    /// `None`, with the reason printed, where that cannot be had.
    fn on(dir: &Path) -> Option<Self> {
        let mount = |args: &[&str]| {
            finish(
                {
                    let mut command = Command::new("mount");
                    command.args(args).arg(dir);
                    command
                },
                "mount",
            )
        };
        if !mount(&["--bind", dir.to_str().unwrap()]).status.success() {
            println!("skipped, because a bind mount takes root");
            return None;
        }
        let bound = Self(dir.to_path_buf());
        bound.remount("ro");
        Some(bound)
    }

    /// Waits for a daemon that has let go of the mount and not yet of the cache.
    fn remount(&self, how: &str) {
        eventually("the cache is remounted", || {
            let mut command = Command::new("mount");
            command.args(["-o", &format!("remount,bind,{how}")]).arg(&self.0);
            finish(command, "mount").status.success()
        });
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn a_read_only_cache_is_done_without() {
    let (user, cache) = reader("a/");
    let Some(bound) = ReadOnly::on(&cache) else { return };
    let on_disk = |user: &Sandbox, mount: &Path| user.status(mount)["cache"]["disk"].clone();
    // Empty from the start.
    let mount = user.mount("a/", "work");
    read_all(&mount, "a/");
    save(&mount.join("new"), b"1").unwrap();
    eventually("it is said", || on_disk(&user, &mount)["error"].is_string());
    assert_eq!(bytes_in(&cache), 0);
    user.unmount(&mount);
    // With something in it that may be read and not be changed.
    bound.remount("rw");
    fill(&user, &cache, "a/");
    bound.remount("ro");
    let mount = user.mount("a/", "work");
    read_all(&mount, "a/");
    assert_eq!(fs::read(mount.join("new")).unwrap(), b"1");
    save(&mount.join("new"), b"22").unwrap();
    eventually("it is said", || user.ok(["cache", "stats"]).contains("error: "));
    user.unmount(&mount);
    // Spoiled, and it cannot be mended.
    bound.remount("rw");
    assert!(spoil(&cache, 0) > 0);
    bound.remount("ro");
    let mount = user.mount("a/", "work");
    read_all(&mount, "a/");
    user.unmount(&mount);
    // And it is used again by the next mount that may.
    bound.remount("rw");
    user.ok(["cache", "clear"]);
    fill(&user, &cache, "a/");
    let mount = user.mount("a/", "work");
    read_all(&mount, "a/");
    assert_eq!(on_disk(&user, &mount)["error"], serde_json::Value::Null);
    user.unmount(&mount);
}

/// Two daemons of one user, in a directory that is too small for either: both evict what the other wrote.
#[test]
fn two_daemons_share_a_small_cache() {
    const MAX: u64 = 4_000_000;
    let database = database(Postgres::shared());
    let prefixes = ["a/", "bb/"];
    prefixes.iter().for_each(|prefix| prepare(&database.dsn(), prefix));
    let user = Sandbox::new(&database.dsn()).with("PGFILES_CACHE_MAX_SIZE", "4MB");
    let cache = user.home.path().join(".cache");
    let mut most = 0;
    for _ in 0..2 {
        let mounts = prefixes.map(|prefix| (prefix, user.mount(prefix, &format!("work-{}", prefix.len()))));
        std::thread::scope(|scope| {
            for (prefix, mount) in &mounts {
                for _ in 0..2 {
                    scope.spawn(move || (0..4).for_each(|_| read_all(mount, prefix)));
                }
            }
            scope.spawn(|| {
                for n in 0..20 {
                    if n % 5 == 4 {
                        user.ok(["cache", "clear"]);
                    }
                    most = most.max(bytes_in(&cache));
                    std::thread::park_timeout(std::time::Duration::from_millis(50));
                }
            });
        });
        eventually("they come down to the bound", || bytes_in(&cache) <= MAX + MAX / 4);
        for (prefix, mount) in &mounts {
            read_all(mount, prefix);
            let status = user.status(mount);
            assert_eq!(status["cache"]["disk"]["error"], serde_json::Value::Null, "{status}");
            user.unmount(mount);
        }
    }
    println!("at most {most} B in a cache of {MAX} B");
    assert!(most > 0, "it was used");
    assert!(most < MAX * 2, "{most} B in a cache of {MAX} B");
}
