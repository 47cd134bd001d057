//! Checks of long paths: up to what a system call takes (`PATH_MAX`, 4,096 bytes).

use super::Fs;
use super::checks::{Check, at};

pub(super) fn all<F: Fs>() -> Vec<(&'static str, Check<F>)> {
    vec![
        ("a_long_path_works_at_every_depth", a_long_path_works_at_every_depth::<F>),
        ("a_tree_of_long_paths_moves", a_tree_of_long_paths_moves::<F>),
        ("what_would_grow_too_long_is_refused", what_would_grow_too_long_is_refused::<F>),
        ("link_counts_of_directories_tell_the_truth_or_nothing", link_counts_of_directories::<F>),
    ]
}

/// Long names below one another: 15 of 230 bytes, a path of 3,465 bytes.
fn deep<F: Fs>(fs: &F, top: &str) -> Vec<String> {
    let mut dirs = Vec::new();
    let mut path = top.to_owned();
    for level in 0..15 {
        path = at(&path, &format!("{level:02}-{}", "n".repeat(227)));
        fs.mkdir(&path, 0o755).unwrap();
        fs.write_file(&at(&path, "file"), format!("at {level}").as_bytes()).unwrap();
        dirs.push(path.clone());
    }
    dirs
}

fn look<F: Fs>(fs: &F, dirs: &[String], moved: impl Fn(&str) -> String) {
    for (level, dir) in dirs.iter().enumerate() {
        let dir = moved(dir);
        assert_eq!(fs.read_file(&at(&dir, "file")).unwrap(), format!("at {level}").as_bytes(), "level {level}");
        let names = fs.readdir(&dir).unwrap();
        assert_eq!(names.len(), if level + 1 < dirs.len() { 2 } else { 1 }, "level {level}: {names:?}");
        assert_eq!(names.last().unwrap(), b"file");
    }
}

fn a_long_path_works_at_every_depth<F: Fs>(fs: &F, dir: &str) {
    let dirs = deep(fs, dir);
    look(fs, &dirs, str::to_owned);
    let last = dirs.last().unwrap();
    let long = at(last, &"f".repeat(255));
    fs.write_file(&long, b"deep").unwrap();
    fs.rename(&long, &at(dir, "up"), false).unwrap();
    fs.rename(&at(dir, "up"), &long, false).unwrap();
    fs.link(&long, &at(last, "linked")).unwrap();
    fs.chmod(last, 0o711).unwrap();
    assert_eq!(fs.lstat(last).unwrap().mode & 0o777, 0o711);
    assert_eq!((fs.lstat(&long).unwrap().nlink, fs.read_file(&at(last, "linked")).unwrap()), (2, b"deep".to_vec()));
    assert_eq!(fs.rmdir(last).unwrap_err(), libc::ENOTEMPTY);
    for name in [long, at(last, "linked")] {
        fs.unlink(&name).unwrap();
    }
    for dir in dirs.iter().rev() {
        fs.unlink(&at(dir, "file")).unwrap();
        fs.rmdir(dir).unwrap();
        assert_eq!(fs.lstat(dir).unwrap_err(), libc::ENOENT);
    }
    assert_eq!(fs.readdir(dir).unwrap(), Vec::<Vec<u8>>::new());
    // The same names are free again.
    let dirs = deep(fs, dir);
    look(fs, &dirs, str::to_owned);
}

fn a_tree_of_long_paths_moves<F: Fs>(fs: &F, dir: &str) {
    let top = at(dir, "top");
    fs.mkdir(&top, 0o755).unwrap();
    let dirs = deep(fs, &top);
    let ino = fs.lstat(dirs.last().unwrap()).unwrap().ino;
    // All of it, by another name of the first directory; then a part that is deep, out of the deep, and back.
    fs.rename(&top, &at(dir, "other"), false).unwrap();
    let moved = |path: &str| path.replacen("/top/", "/other/", 1);
    look(fs, &dirs, moved);
    assert_eq!(fs.lstat(&moved(dirs.last().unwrap())).unwrap().ino, ino);
    let part = moved(&dirs[11]);
    fs.rename(&part, &at(dir, "part"), false).unwrap();
    for (level, path) in dirs.iter().enumerate().skip(11) {
        let path = moved(path).replacen(&part, &at(dir, "part"), 1);
        assert_eq!(fs.read_file(&at(&path, "file")).unwrap(), format!("at {level}").as_bytes());
    }
    fs.rename(&at(dir, "part"), &part, false).unwrap();
    look(fs, &dirs, moved);
    fs.mkdir(&at(dir, "x"), 0o755).unwrap();
    fs.exchange(&at(dir, "other"), &at(dir, "x")).unwrap();
    look(fs, &dirs, |path| path.replacen("/top/", "/x/", 1));
}

fn what_would_grow_too_long_is_refused<F: Fs>(fs: &F, dir: &str) {
    let dirs = deep(fs, dir);
    let last = dirs.last().unwrap();
    assert_eq!(fs.write_file(&at(last, &"f".repeat(256)), b"").unwrap_err(), libc::ENAMETOOLONG);
    assert_eq!(fs.mkdir(&at(last, &"f".repeat(256)), 0o755).unwrap_err(), libc::ENAMETOOLONG);
    look(fs, &dirs, str::to_owned);
}

/// 1, which promises nothing, or 2 and one for each directory in it.
fn link_counts_of_directories<F: Fs>(fs: &F, dir: &str) {
    let count = |path: &str, subdirs: u64| {
        let nlink = fs.lstat(path).unwrap().nlink;
        assert!(nlink == 1 || nlink == 2 + subdirs, "{path} has {nlink} links and {subdirs} directories");
    };
    let (a, b) = (at(dir, "a"), at(dir, "b"));
    fs.mkdir(&a, 0o755).unwrap();
    fs.mkdir(&b, 0o755).unwrap();
    count(&a, 0);
    fs.mkdir(&at(&a, "one"), 0o755).unwrap();
    fs.mkdir(&at(&a, "two"), 0o755).unwrap();
    fs.write_file(&at(&a, "file"), b"").unwrap();
    count(&a, 2);
    fs.rename(&at(&a, "one"), &at(&b, "one"), false).unwrap();
    count(&a, 1);
    count(&b, 1);
    fs.rmdir(&at(&b, "one")).unwrap();
    count(&b, 0);
}
