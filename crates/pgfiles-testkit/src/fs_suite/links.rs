//! Checks of hard links and of the exchange of names.

use super::Fs;
use super::checks::{Check, at};

pub(super) fn all<F: Fs>() -> Vec<(&'static str, Check<F>)> {
    vec![
        ("names_share_content_and_attributes", names_share_content_and_attributes::<F>),
        ("a_linked_file_outlives_its_first_name", a_linked_file_outlives_its_first_name::<F>),
        ("an_open_file_is_written_under_the_names_left", an_open_file_is_written_under_the_names_left::<F>),
        ("renames_of_links", renames_of_links::<F>),
        ("what_cannot_be_linked", what_cannot_be_linked::<F>),
        ("special_files_have_links", special_files_have_links::<F>),
        ("files_and_directories_change_places", files_and_directories_change_places::<F>),
    ]
}

fn names_share_content_and_attributes<F: Fs>(fs: &F, dir: &str) {
    let (a, b) = (at(dir, "a"), at(dir, "b"));
    fs.mkdir(&at(dir, "d"), 0o755).unwrap();
    let c = at(dir, "d/c");
    fs.write_file(&a, b"one").unwrap();
    let before = fs.lstat(&a).unwrap();
    fs.link(&a, &b).unwrap();
    fs.link(&b, &c).unwrap();
    for name in [&a, &b, &c] {
        let stat = fs.lstat(name).unwrap();
        assert_eq!((stat.ino, stat.nlink, stat.mtime), (before.ino, 3, before.mtime), "{name}");
        assert!(stat.ctime >= before.ctime);
    }
    fs.write_file(&b, b"two and more").unwrap();
    fs.chmod(&c, 0o600).unwrap();
    fs.setxattr(&a, "user.k", b"v", 0).unwrap();
    for name in [&a, &b, &c] {
        assert_eq!(fs.read_file(name).unwrap(), b"two and more", "{name}");
        assert_eq!(fs.lstat(name).unwrap().mode & 0o777, 0o600, "{name}");
        assert_eq!(fs.getxattr(name, "user.k").unwrap(), b"v", "{name}");
    }
    // What is not closed yet is seen under the other name, too.
    let file = fs.open(&a, libc::O_RDWR, 0).unwrap();
    fs.pwrite(&file, 0, b"TWO").unwrap();
    assert_eq!(fs.read_file(&c).unwrap(), b"TWO and more");
    fs.close(file).unwrap();
    assert_eq!(fs.read_file(&b).unwrap(), b"TWO and more");
}

fn a_linked_file_outlives_its_first_name<F: Fs>(fs: &F, dir: &str) {
    let (a, b) = (at(dir, "a"), at(dir, "b"));
    let large: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
    fs.write_file(&a, &large).unwrap();
    let ino = fs.lstat(&a).unwrap().ino;
    fs.link(&a, &b).unwrap();
    fs.unlink(&a).unwrap();
    assert_eq!(fs.lstat(&a).unwrap_err(), libc::ENOENT);
    let stat = fs.lstat(&b).unwrap();
    assert_eq!((stat.ino, stat.nlink), (ino, 1));
    assert_eq!(fs.read_file(&b).unwrap(), large);
    // The name that was given up is free for another file.
    fs.write_file(&a, b"another").unwrap();
    assert_ne!(fs.lstat(&a).unwrap().ino, ino);
    assert_eq!(fs.read_file(&b).unwrap(), large);
}

fn an_open_file_is_written_under_the_names_left<F: Fs>(fs: &F, dir: &str) {
    let (a, b) = (at(dir, "a"), at(dir, "b"));
    let file = fs.open(&a, libc::O_RDWR | libc::O_CREAT, 0o644).unwrap();
    fs.pwrite(&file, 0, b"before").unwrap();
    fs.link(&a, &b).unwrap();
    fs.pwrite(&file, 6, b" and").unwrap();
    fs.unlink(&a).unwrap();
    fs.pwrite(&file, 10, b" after").unwrap();
    assert_eq!(fs.fstat(&file).unwrap().nlink, 1);
    fs.fsync(&file).unwrap();
    assert_eq!(fs.read_file(&b).unwrap(), b"before and after");
    fs.unlink(&b).unwrap();
    assert_eq!(fs.fstat(&file).unwrap().nlink, 0);
    assert_eq!(fs.pread(&file, 0, 100).unwrap(), b"before and after");
    fs.close(file).unwrap();
    assert_eq!(fs.readdir(dir).unwrap(), Vec::<Vec<u8>>::new());
}

fn renames_of_links<F: Fs>(fs: &F, dir: &str) {
    let (a, b, c) = (at(dir, "a"), at(dir, "b"), at(dir, "c"));
    fs.write_file(&a, b"x").unwrap();
    fs.link(&a, &b).unwrap();
    // Two names of one file: nothing happens (`man 2 rename`).
    fs.rename(&a, &b, false).unwrap();
    assert_eq!(fs.readdir(dir).unwrap(), [b"a", b"b"]);
    fs.rename(&a, &c, false).unwrap();
    assert_eq!((fs.lstat(&c).unwrap().nlink, fs.lstat(&b).unwrap().nlink), (2, 2));
    fs.write_file(&a, b"over").unwrap();
    fs.rename(&a, &b, false).unwrap();
    assert_eq!((fs.read_file(&b).unwrap(), fs.read_file(&c).unwrap()), (b"over".to_vec(), b"x".to_vec()));
    assert_eq!((fs.lstat(&b).unwrap().nlink, fs.lstat(&c).unwrap().nlink), (1, 1));
}

fn what_cannot_be_linked<F: Fs>(fs: &F, dir: &str) {
    let (a, d) = (at(dir, "a"), at(dir, "d"));
    fs.write_file(&a, b"x").unwrap();
    fs.mkdir(&d, 0o755).unwrap();
    assert_eq!(fs.link(&a, &a).unwrap_err(), libc::EEXIST);
    assert_eq!(fs.link(&a, &d).unwrap_err(), libc::EEXIST);
    assert_eq!(fs.link(&d, &at(dir, "e")).unwrap_err(), libc::EPERM);
    assert_eq!(fs.link(&at(dir, "missing"), &at(dir, "e")).unwrap_err(), libc::ENOENT);
    assert_eq!(fs.link(&a, &at(dir, "missing/e")).unwrap_err(), libc::ENOENT);
    assert_eq!(fs.lstat(&a).unwrap().nlink, 1);
}

fn special_files_have_links<F: Fs>(fs: &F, dir: &str) {
    let (fifo, link) = (at(dir, "fifo"), at(dir, "link"));
    fs.mkfifo(&fifo, 0o600).unwrap();
    fs.link(&fifo, &at(dir, "fifo2")).unwrap();
    fs.symlink(b"target", &link).unwrap();
    fs.link(&link, &at(dir, "link2")).unwrap();
    assert_eq!(fs.lstat(&at(dir, "fifo2")).unwrap().ino, fs.lstat(&fifo).unwrap().ino);
    assert_eq!(fs.readlink(&at(dir, "link2")).unwrap(), b"target");
    assert_eq!((fs.lstat(&fifo).unwrap().nlink, fs.lstat(&link).unwrap().nlink), (2, 2));
}

fn files_and_directories_change_places<F: Fs>(fs: &F, dir: &str) {
    let (a, b, d) = (at(dir, "a"), at(dir, "b"), at(dir, "d"));
    fs.write_file(&a, b"of a").unwrap();
    fs.write_file(&b, b"of b").unwrap();
    fs.mkdir(&d, 0o755).unwrap();
    fs.write_file(&at(dir, "d/in"), b"inside").unwrap();
    let (ino_a, ino_d) = (fs.lstat(&a).unwrap().ino, fs.lstat(&d).unwrap().ino);
    fs.exchange(&a, &b).unwrap();
    assert_eq!((fs.read_file(&a).unwrap(), fs.read_file(&b).unwrap()), (b"of b".to_vec(), b"of a".to_vec()));
    assert_eq!(fs.lstat(&b).unwrap().ino, ino_a);
    let open = fs.open(&b, libc::O_RDWR, 0).unwrap();
    fs.exchange(&b, &d).unwrap();
    assert_eq!(fs.lstat(&b).unwrap().ino, ino_d);
    assert_eq!((fs.read_file(&d).unwrap(), fs.read_file(&at(dir, "b/in")).unwrap()), (b"of a".to_vec(), b"inside".to_vec()));
    fs.pwrite(&open, 0, b"OF").unwrap();
    fs.close(open).unwrap();
    assert_eq!(fs.read_file(&d).unwrap(), b"OF a");
    assert_eq!(fs.exchange(&a, &at(dir, "missing")).unwrap_err(), libc::ENOENT);
    assert_eq!(fs.exchange(&b, &at(dir, "b/in")).unwrap_err(), libc::EINVAL);
    assert_eq!(fs.readdir(dir).unwrap(), [b"a", b"b", b"d"]);
}
