//! The checks themselves.

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use super::Fs;

const READ_WRITE: i32 = libc::O_RDWR | libc::O_CREAT;

pub(super) type Check<F> = fn(&F, &str);

/// All checks with their names.
pub(super) fn all<F: Fs>() -> Vec<(&'static str, Check<F>)> {
    macro_rules! checks {
        ($($name:ident),* $(,)?) => { vec![$((stringify!($name), $name::<F> as Check<F>)),*] };
    }
    checks![
        a_file_is_read_back,
        names_are_bytes_up_to_255,
        exclusive_create_refuses_a_name,
        append_goes_to_the_end,
        unlinked_open_file_stays_readable,
        replaced_open_file_stays_readable,
        rename_replaces_and_keeps_the_inode,
        rename_noreplace_refuses,
        rename_kinds_must_match,
        directory_rename_moves_all_below,
        directory_is_not_moved_into_itself,
        rmdir_needs_an_empty_directory,
        emptied_directory_stays,
        symlinks_keep_their_bytes,
        fifo_has_its_kind,
        modes_and_owners,
        times_are_kept_to_the_nanosecond,
        directory_times_follow_its_names,
        truncate_and_holes,
        large_files_change_in_place,
        random_operations_match_a_model,
        extended_attributes,
        listing_neither_skips_nor_repeats,
        unpublished_names_are_seen,
        open_with_truncate_empties,
        two_handles_see_each_other,
        missing_names_and_wrong_kinds,
    ]
}

pub(super) fn at(dir: &str, name: &str) -> String {
    format!("{dir}/{name}")
}

fn a_file_is_read_back<F: Fs>(fs: &F, dir: &str) {
    let path = at(dir, "f");
    fs.write_file(&path, b"hello").unwrap();
    assert_eq!(fs.read_file(&path).unwrap(), b"hello");
    let stat = fs.lstat(&path).unwrap();
    assert_eq!((stat.size, stat.nlink, stat.mode), (5, 1, libc::S_IFREG | 0o644));
    fs.write_file(&path, b"bye").unwrap();
    assert_eq!(fs.read_file(&path).unwrap(), b"bye");
    assert_eq!(fs.lstat(&path).unwrap().ino, stat.ino);
}

fn names_are_bytes_up_to_255<F: Fs>(fs: &F, dir: &str) {
    let names = ["ü", "a b", "-", "...", "new\nline", "%_\\", &"x".repeat(255)];
    for name in names {
        fs.write_file(&at(dir, name), name.as_bytes()).unwrap();
    }
    let mut expected: Vec<Vec<u8>> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
    expected.sort();
    assert_eq!(fs.readdir(dir).unwrap(), expected);
    for name in names {
        assert_eq!(fs.read_file(&at(dir, name)).unwrap(), name.as_bytes());
    }
    let long = at(dir, &"x".repeat(256));
    assert_eq!(fs.write_file(&long, b"").unwrap_err(), libc::ENAMETOOLONG);
    assert_eq!(fs.mkdir(&long, 0o755).unwrap_err(), libc::ENAMETOOLONG);
}

fn exclusive_create_refuses_a_name<F: Fs>(fs: &F, dir: &str) {
    let path = at(dir, "f");
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    let file = fs.open(&path, flags, 0o600).unwrap();
    assert_eq!(fs.open(&path, flags, 0o600).err(), Some(libc::EEXIST));
    fs.close(file).unwrap();
    assert_eq!(fs.open(&path, flags, 0o600).err(), Some(libc::EEXIST));
    assert_eq!(fs.mkdir(&path, 0o755).unwrap_err(), libc::EEXIST);
    assert_eq!(fs.symlink(b"x", &path).unwrap_err(), libc::EEXIST);
}

fn append_goes_to_the_end<F: Fs>(fs: &F, dir: &str) {
    let path = at(dir, "log");
    fs.write_file(&path, b"one,").unwrap();
    for word in ["two,", "three,"] {
        let file = fs.open(&path, libc::O_WRONLY | libc::O_APPEND, 0).unwrap();
        fs.pwrite(&file, 0, word.as_bytes()).unwrap();
        fs.close(file).unwrap();
    }
    assert_eq!(fs.read_file(&path).unwrap(), b"one,two,three,");
}

fn unlinked_open_file_stays_readable<F: Fs>(fs: &F, dir: &str) {
    for (name, size) in [("small", 3_000), ("large", 700_000)] {
        let path = at(dir, name);
        let bytes = vec![7; size];
        fs.write_file(&path, &bytes).unwrap();
        let file = fs.open(&path, libc::O_RDWR, 0).unwrap();
        fs.unlink(&path).unwrap();
        assert_eq!(fs.lstat(&path).unwrap_err(), libc::ENOENT);
        assert_eq!(fs.fstat(&file).unwrap().nlink, 0);
        assert_eq!(fs.pread(&file, 100, 10).unwrap(), [7; 10]);
        fs.pwrite(&file, 0, b"new").unwrap();
        assert_eq!(fs.pread(&file, 0, 4).unwrap(), b"new\x07");
        fs.fsync(&file).unwrap();
        fs.close(file).unwrap();
        assert_eq!(fs.lstat(&path).unwrap_err(), libc::ENOENT);
    }
    let path = at(dir, "temporary");
    let file = fs.open(&path, READ_WRITE, 0o600).unwrap();
    fs.unlink(&path).unwrap();
    fs.pwrite(&file, 0, b"x").unwrap();
    assert_eq!(fs.pread(&file, 0, 9).unwrap(), b"x");
    fs.close(file).unwrap();
    assert_eq!(fs.readdir(dir).unwrap(), Vec::<Vec<u8>>::new());
}

fn replaced_open_file_stays_readable<F: Fs>(fs: &F, dir: &str) {
    let (old, new) = (at(dir, "old"), at(dir, "new"));
    fs.write_file(&old, b"old content").unwrap();
    fs.write_file(&new, b"new content").unwrap();
    let file = fs.open(&old, libc::O_RDWR, 0).unwrap();
    fs.rename(&new, &old, false).unwrap();
    assert_eq!(fs.pread(&file, 0, 99).unwrap(), b"old content");
    fs.pwrite(&file, 0, b"OLD").unwrap();
    assert_eq!(fs.fstat(&file).unwrap().nlink, 0);
    fs.close(file).unwrap();
    assert_eq!(fs.read_file(&old).unwrap(), b"new content");
}

fn rename_replaces_and_keeps_the_inode<F: Fs>(fs: &F, dir: &str) {
    let (a, b) = (at(dir, "a"), at(dir, "b"));
    fs.write_file(&a, b"aaa").unwrap();
    fs.write_file(&b, b"b").unwrap();
    let ino = fs.lstat(&a).unwrap().ino;
    fs.rename(&a, &b, false).unwrap();
    assert_eq!(fs.lstat(&a).unwrap_err(), libc::ENOENT);
    assert_eq!(fs.lstat(&b).unwrap().ino, ino);
    assert_eq!(fs.read_file(&b).unwrap(), b"aaa");
    fs.rename(&b, &b, false).unwrap();
    // While it is open and unpublished as well.
    let c = at(dir, "c");
    let file = fs.open(&c, READ_WRITE, 0o644).unwrap();
    fs.pwrite(&file, 0, b"12").unwrap();
    fs.rename(&c, &b, false).unwrap();
    fs.pwrite(&file, 2, b"34").unwrap();
    fs.close(file).unwrap();
    assert_eq!(fs.read_file(&b).unwrap(), b"1234");
    assert_eq!(fs.readdir(dir).unwrap(), [b"b"]);
}

fn rename_noreplace_refuses<F: Fs>(fs: &F, dir: &str) {
    let (a, b) = (at(dir, "a"), at(dir, "b"));
    fs.write_file(&a, b"a").unwrap();
    fs.write_file(&b, b"b").unwrap();
    assert_eq!(fs.rename(&a, &b, true).unwrap_err(), libc::EEXIST);
    fs.rename(&a, &at(dir, "c"), true).unwrap();
    fs.mkdir(&at(dir, "d"), 0o755).unwrap();
    fs.mkdir(&at(dir, "e"), 0o755).unwrap();
    assert_eq!(fs.rename(&at(dir, "d"), &at(dir, "e"), true).unwrap_err(), libc::EEXIST);
}

fn rename_kinds_must_match<F: Fs>(fs: &F, dir: &str) {
    let (file, empty, full) = (at(dir, "file"), at(dir, "empty"), at(dir, "full"));
    fs.write_file(&file, b"").unwrap();
    fs.mkdir(&empty, 0o755).unwrap();
    fs.mkdir(&full, 0o755).unwrap();
    fs.write_file(&at(&full, "x"), b"").unwrap();
    assert_eq!(fs.rename(&file, &empty, false).unwrap_err(), libc::EISDIR);
    assert_eq!(fs.rename(&empty, &file, false).unwrap_err(), libc::ENOTDIR);
    assert_eq!(fs.rename(&empty, &full, false).unwrap_err(), libc::ENOTEMPTY);
    fs.rename(&full, &empty, false).unwrap();
    assert_eq!(fs.readdir(&empty).unwrap(), [b"x"]);
    assert_eq!(fs.rename(&at(dir, "none"), &file, false).unwrap_err(), libc::ENOENT);
}

fn directory_rename_moves_all_below<F: Fs>(fs: &F, dir: &str) {
    let (a, b) = (at(dir, "a"), at(dir, "b"));
    fs.mkdir(&a, 0o755).unwrap();
    fs.mkdir(&at(&a, "sub"), 0o700).unwrap();
    fs.write_file(&at(&a, "sub/deep"), b"deep").unwrap();
    fs.write_file(&at(&a, "top"), &vec![9; 400_000]).unwrap();
    let open = fs.open(&at(&a, "sub/open"), READ_WRITE, 0o644).unwrap();
    fs.pwrite(&open, 0, b"before ").unwrap();
    let ino = fs.lstat(&at(&a, "sub/deep")).unwrap().ino;
    fs.rename(&a, &b, false).unwrap();
    fs.pwrite(&open, 7, b"after").unwrap();
    fs.close(open).unwrap();
    assert_eq!(fs.lstat(&a).unwrap_err(), libc::ENOENT);
    assert_eq!(fs.read_file(&at(&b, "sub/deep")).unwrap(), b"deep");
    assert_eq!(fs.lstat(&at(&b, "sub/deep")).unwrap().ino, ino);
    assert_eq!(fs.lstat(&at(&b, "sub")).unwrap().mode & 0o7777, 0o700);
    assert_eq!(fs.read_file(&at(&b, "top")).unwrap().len(), 400_000);
    assert_eq!(fs.read_file(&at(&b, "sub/open")).unwrap(), b"before after");
    fs.mkdir(&a, 0o755).unwrap();
    assert_eq!(fs.readdir(&a).unwrap(), Vec::<Vec<u8>>::new());
}

fn directory_is_not_moved_into_itself<F: Fs>(fs: &F, dir: &str) {
    let a = at(dir, "a");
    fs.mkdir(&a, 0o755).unwrap();
    assert_eq!(fs.rename(&a, &at(&a, "b"), false).unwrap_err(), libc::EINVAL);
}

fn rmdir_needs_an_empty_directory<F: Fs>(fs: &F, dir: &str) {
    let sub = at(dir, "sub");
    fs.mkdir(&sub, 0o755).unwrap();
    // Not even published yet.
    let file = fs.open(&at(&sub, "f"), READ_WRITE, 0o644).unwrap();
    assert_eq!(fs.rmdir(&sub).unwrap_err(), libc::ENOTEMPTY);
    fs.close(file).unwrap();
    assert_eq!(fs.rmdir(&sub).unwrap_err(), libc::ENOTEMPTY);
    assert_eq!(fs.unlink(&sub).map_err(|errno| errno == libc::EISDIR || errno == libc::EPERM), Err(true));
    assert_eq!(fs.rmdir(&at(&sub, "f")).unwrap_err(), libc::ENOTDIR);
    fs.unlink(&at(&sub, "f")).unwrap();
    fs.rmdir(&sub).unwrap();
    assert_eq!(fs.lstat(&sub).unwrap_err(), libc::ENOENT);
    assert_eq!(fs.rmdir(&sub).unwrap_err(), libc::ENOENT);
    fs.mkdir(&sub, 0o755).unwrap();
    assert_eq!(fs.readdir(&sub).unwrap(), Vec::<Vec<u8>>::new());
}

fn emptied_directory_stays<F: Fs>(fs: &F, dir: &str) {
    let sub = at(dir, "sub");
    fs.mkdir(&sub, 0o755).unwrap();
    let ino = fs.lstat(&sub).unwrap().ino;
    fs.write_file(&at(&sub, "f"), b"x").unwrap();
    fs.unlink(&at(&sub, "f")).unwrap();
    assert_eq!(fs.lstat(&sub).unwrap().ino, ino);
    assert_eq!(fs.readdir(dir).unwrap(), [b"sub"]);
}

fn symlinks_keep_their_bytes<F: Fs>(fs: &F, dir: &str) {
    for (name, target) in [("a", b"../x/y".as_slice()), ("b", b"\xff\xfe bad utf8"), ("c", &[b't'; 4_095])] {
        fs.symlink(target, &at(dir, name)).unwrap();
        assert_eq!(fs.readlink(&at(dir, name)).unwrap(), target);
        let stat = fs.lstat(&at(dir, name)).unwrap();
        assert_eq!((stat.size, stat.mode), (target.len() as u64, libc::S_IFLNK | 0o777));
    }
    fs.rename(&at(dir, "a"), &at(dir, "z"), false).unwrap();
    assert_eq!(fs.readlink(&at(dir, "z")).unwrap(), b"../x/y");
    fs.write_file(&at(dir, "f"), b"").unwrap();
    assert_eq!(fs.readlink(&at(dir, "f")).unwrap_err(), libc::EINVAL);
}

fn fifo_has_its_kind<F: Fs>(fs: &F, dir: &str) {
    fs.mkfifo(&at(dir, "p"), 0o640).unwrap();
    assert_eq!(fs.lstat(&at(dir, "p")).unwrap().mode, libc::S_IFIFO | 0o640);
    assert_eq!(fs.mkfifo(&at(dir, "p"), 0o640).unwrap_err(), libc::EEXIST);
}

fn modes_and_owners<F: Fs>(fs: &F, dir: &str) {
    let path = at(dir, "f");
    fs.write_file(&path, b"x").unwrap();
    fs.chmod(&path, 0o4751).unwrap();
    assert_eq!(fs.lstat(&path).unwrap().mode & 0o7777, 0o4751);
    fs.chown(&path, 12, 34).unwrap();
    let stat = fs.lstat(&path).unwrap();
    assert_eq!((stat.uid, stat.mode & 0o7777), (12, 0o751));
    fs.chmod(dir, 0o1777).unwrap();
    assert_eq!(fs.lstat(dir).unwrap().mode & 0o7777, 0o1777);
    // They survive new content, and ride along with a creation.
    fs.write_file(&path, b"y").unwrap();
    assert_eq!(fs.lstat(&path).unwrap().mode & 0o7777, 0o751);
    let file = fs.open(&at(dir, "g"), READ_WRITE, 0o600).unwrap();
    fs.chmod(&at(dir, "g"), 0o640).unwrap();
    fs.pwrite(&file, 0, b"x").unwrap();
    fs.close(file).unwrap();
    assert_eq!(fs.lstat(&at(dir, "g")).unwrap().mode & 0o7777, 0o640);
}

fn times_are_kept_to_the_nanosecond<F: Fs>(fs: &F, dir: &str) {
    let path = at(dir, "f");
    for at in [(1_000_000_000, 123_456_789), (-1, 999_999_999), (4_102_444_800, 1)] {
        let file = fs.open(&path, READ_WRITE, 0o644).unwrap();
        fs.pwrite(&file, 0, b"xy").unwrap();
        fs.set_mtime(&path, at).unwrap();
        fs.close(file).unwrap();
        assert_eq!(fs.lstat(&path).unwrap().mtime, at, "set while it is written");
        fs.set_mtime(&path, (5, 6)).unwrap();
        assert_eq!(fs.lstat(&path).unwrap().mtime, (5, 6));
    }
    fs.set_mtime(dir, (7, 8)).unwrap();
    assert_eq!(fs.lstat(dir).unwrap().mtime, (7, 8));
    let before = fs.lstat(&path).unwrap();
    fs.write_file(&path, b"z").unwrap();
    let after = fs.lstat(&path).unwrap();
    assert!(after.mtime > (1_000_000_000, 0) && after.ctime >= before.ctime);
}

fn directory_times_follow_its_names<F: Fs>(fs: &F, dir: &str) {
    let changes: [&dyn Fn(); 6] = [
        &|| fs.write_file(&at(dir, "f"), b"x").unwrap(),
        &|| fs.rename(&at(dir, "f"), &at(dir, "g"), false).unwrap(),
        &|| fs.unlink(&at(dir, "g")).unwrap(),
        &|| fs.mkdir(&at(dir, "d"), 0o755).unwrap(),
        &|| fs.rmdir(&at(dir, "d")).unwrap(),
        &|| fs.symlink(b"x", &at(dir, "l")).unwrap(),
    ];
    for (index, change) in changes.iter().enumerate() {
        fs.set_mtime(dir, (1, 0)).unwrap();
        change();
        assert!(fs.lstat(dir).unwrap().mtime.0 > 1, "change {index}");
    }
    fs.set_mtime(dir, (1, 0)).unwrap();
    fs.chmod(&at(dir, "l"), 0o777).ok();
    assert_eq!(fs.lstat(dir).unwrap().mtime.0, 1);
    // A directory that is renamed has a new ctime and keeps its mtime.
    let moved = at(dir, "moved");
    fs.mkdir(&moved, 0o755).unwrap();
    fs.set_mtime(&moved, (2, 3)).unwrap();
    let before = fs.lstat(&moved).unwrap();
    fs.rename(&moved, &at(dir, "again"), false).unwrap();
    let after = fs.lstat(&at(dir, "again")).unwrap();
    assert!(after.ctime > before.ctime && after.mtime == (2, 3), "{before:?} {after:?}");
}

fn truncate_and_holes<F: Fs>(fs: &F, dir: &str) {
    let path = at(dir, "f");
    fs.write_file(&path, b"0123456789").unwrap();
    fs.truncate(&path, 4).unwrap();
    assert_eq!(fs.read_file(&path).unwrap(), b"0123");
    fs.truncate(&path, 6).unwrap();
    assert_eq!(fs.read_file(&path).unwrap(), b"0123\0\0");
    let file = fs.open(&path, libc::O_RDWR, 0).unwrap();
    fs.pwrite(&file, 3 << 20, b"end").unwrap();
    assert_eq!(fs.fstat(&file).unwrap().size, (3 << 20) + 3);
    assert_eq!(fs.pread(&file, (3 << 20) - 2, 9).unwrap(), b"\0\0end");
    fs.ftruncate(&file, (3 << 20) + 1).unwrap();
    fs.ftruncate(&file, (3 << 20) + 3).unwrap();
    assert_eq!(fs.pread(&file, 3 << 20, 9).unwrap(), b"e\0\0");
    fs.ftruncate(&file, 2).unwrap();
    fs.close(file).unwrap();
    assert_eq!(fs.read_file(&path).unwrap(), b"01");
    fs.truncate(&path, 1 << 40).unwrap();
    assert_eq!(fs.lstat(&path).unwrap().size, 1 << 40);
    let file = fs.open(&path, libc::O_RDWR, 0).unwrap();
    assert_eq!(fs.pread(&file, 1 << 39, 4).unwrap(), [0; 4]);
    fs.close(file).unwrap();
}

fn large_files_change_in_place<F: Fs>(fs: &F, dir: &str) {
    let path = at(dir, "f");
    let mut model: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    fs.write_file(&path, &model).unwrap();
    for offset in [0, 131_071, 131_072, 1_500_000, 2_999_990] {
        let file = fs.open(&path, libc::O_RDWR, 0).unwrap();
        fs.pwrite(&file, offset, b"changed").unwrap();
        model[offset as usize..offset as usize + 7].copy_from_slice(b"changed");
        fs.close(file).unwrap();
        assert!(fs.read_file(&path).unwrap() == model, "after a change at {offset}");
    }
    let file = fs.open(&path, libc::O_WRONLY | libc::O_APPEND, 0).unwrap();
    fs.pwrite(&file, 0, b"tail").unwrap();
    model.extend(b"tail");
    fs.fsync(&file).unwrap();
    fs.pwrite(&file, 0, b"tail").unwrap();
    model.extend(b"tail");
    fs.close(file).unwrap();
    assert!(fs.read_file(&path).unwrap() == model);
}

fn random_operations_match_a_model<F: Fs>(fs: &F, dir: &str) {
    for seed in 0..3 {
        let mut random = StdRng::seed_from_u64(seed);
        let path = at(dir, &format!("f{seed}"));
        let mut model: Vec<u8> = Vec::new();
        let mut file = fs.open(&path, READ_WRITE, 0o644).unwrap();
        for step in 0..150 {
            match random.random_range(0..100) {
                0..55 => {
                    let offset = random.random_range(0..1_500_000);
                    let mut bytes = vec![0; random.random_range(1..200_000)];
                    random.fill_bytes(&mut bytes);
                    model.resize(model.len().max(offset + bytes.len()), 0);
                    model[offset..offset + bytes.len()].copy_from_slice(&bytes);
                    // One system call writes at most what the kernel sends at once.
                    fs.pwrite(&file, offset as u64, &bytes).unwrap();
                }
                55..70 => {
                    let size = random.random_range(0..1_600_000);
                    model.resize(size, 0);
                    fs.ftruncate(&file, size as u64).unwrap();
                }
                70..78 => fs.fsync(&file).unwrap(),
                78..90 => {
                    fs.close(file).unwrap();
                    file = fs.open(&path, libc::O_RDWR, 0).unwrap();
                }
                _ => {
                    let offset = random.random_range(0..=model.len());
                    let len = random.random_range(0..300_000);
                    let expected = &model[offset..model.len().min(offset + len)];
                    let mut got = Vec::new();
                    while got.len() < expected.len() {
                        let piece = fs.pread(&file, (offset + got.len()) as u64, len - got.len()).unwrap();
                        assert!(!piece.is_empty(), "seed {seed} step {step}: short");
                        got.extend(piece);
                    }
                    assert!(got == expected, "seed {seed} step {step}");
                }
            }
            assert_eq!(fs.fstat(&file).unwrap().size, model.len() as u64, "seed {seed} step {step}");
        }
        fs.close(file).unwrap();
        assert!(fs.read_file(&path).unwrap() == model, "seed {seed}");
    }
}

fn extended_attributes<F: Fs>(fs: &F, dir: &str) {
    let path = at(dir, "f");
    fs.write_file(&path, b"x").unwrap();
    assert_eq!(fs.getxattr(&path, "user.a").unwrap_err(), libc::ENODATA);
    fs.setxattr(&path, "user.a", b"\0\xff", 0).unwrap();
    fs.setxattr(&path, "user.b", b"", libc::XATTR_CREATE).unwrap();
    assert_eq!(fs.setxattr(&path, "user.a", b"y", libc::XATTR_CREATE).unwrap_err(), libc::EEXIST);
    assert_eq!(fs.setxattr(&path, "user.c", b"y", libc::XATTR_REPLACE).unwrap_err(), libc::ENODATA);
    assert_eq!(fs.getxattr(&path, "user.a").unwrap(), b"\0\xff");
    assert_eq!(fs.listxattr(&path).unwrap(), b"user.a\0user.b\0");
    fs.write_file(&path, b"new content").unwrap();
    fs.rename(&path, &at(dir, "g"), false).unwrap();
    let path = at(dir, "g");
    assert_eq!(fs.getxattr(&path, "user.a").unwrap(), b"\0\xff");
    fs.removexattr(&path, "user.a").unwrap();
    assert_eq!(fs.removexattr(&path, "user.a").unwrap_err(), libc::ENODATA);
    assert_eq!(fs.listxattr(&path).unwrap(), b"user.b\0");
    fs.setxattr(dir, "user.dir", b"1", 0).unwrap();
    assert_eq!(fs.getxattr(dir, "user.dir").unwrap(), b"1");
    for name in ["none", "bogus.a", "users.a", "system.a"] {
        assert_eq!(fs.setxattr(&path, name, b"1", 0).unwrap_err(), libc::EOPNOTSUPP, "{name}");
        assert_eq!(fs.getxattr(&path, name).unwrap_err(), libc::EOPNOTSUPP, "{name}");
    }
    assert_eq!(fs.setxattr(&path, "user.", b"1", 0).unwrap_err(), libc::EINVAL);
    let long = format!("user.{}", "n".repeat(250));
    fs.setxattr(&path, &long, &vec![b'v'; 64 << 10], 0).unwrap();
    assert_eq!(fs.getxattr(&path, &long).unwrap().len(), 64 << 10);
    fs.removexattr(&path, &long).unwrap();
    assert_eq!(fs.setxattr(&path, "user.large", &vec![b'v'; (64 << 10) + 1], 0).unwrap_err(), libc::E2BIG);
}

fn listing_neither_skips_nor_repeats<F: Fs>(fs: &F, dir: &str) {
    let name = |n: u32| format!("n{n:05}");
    for n in 0..2_500 {
        fs.write_file(&at(dir, &name(n)), b"").unwrap();
    }
    let found = fs
        .readdir_slowly(dir, &mut || {
            for n in (1..2_500).step_by(2) {
                fs.unlink(&at(dir, &name(n))).unwrap();
                fs.write_file(&at(dir, &format!("m{n}")), b"").unwrap();
            }
        })
        .unwrap();
    let mut sorted = found.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), found.len(), "a name came twice");
    for n in (0..2_500).step_by(2) {
        assert!(sorted.binary_search(&name(n).into_bytes()).is_ok(), "{} was there throughout", name(n));
    }
    assert_eq!(fs.readdir(dir).unwrap().len(), 2_500);
}

fn unpublished_names_are_seen<F: Fs>(fs: &F, dir: &str) {
    let path = at(dir, "f");
    let file = fs.open(&path, READ_WRITE, 0o640).unwrap();
    let stat = fs.lstat(&path).unwrap();
    assert_eq!((stat.size, stat.mode & 0o7777), (0, 0o640));
    assert_eq!(fs.readdir(dir).unwrap(), [b"f"]);
    fs.pwrite(&file, 0, b"123").unwrap();
    assert_eq!(fs.lstat(&path).unwrap().size, 3);
    assert_eq!(fs.read_file(&path).unwrap(), b"123");
    fs.close(file).unwrap();
    assert_eq!(fs.readdir(dir).unwrap(), [b"f"]);
    assert_eq!(fs.lstat(&path).unwrap().ino, stat.ino);
}

fn open_with_truncate_empties<F: Fs>(fs: &F, dir: &str) {
    let path = at(dir, "f");
    fs.write_file(&path, &vec![1; 500_000]).unwrap();
    let reader = fs.open(&path, libc::O_RDONLY, 0).unwrap();
    let file = fs.open(&path, libc::O_WRONLY | libc::O_TRUNC, 0).unwrap();
    assert_eq!(fs.fstat(&reader).unwrap().size, 0);
    assert_eq!(fs.pread(&reader, 0, 9).unwrap(), b"");
    fs.close(file).unwrap();
    fs.close(reader).unwrap();
    assert_eq!(fs.read_file(&path).unwrap(), b"");
}

fn two_handles_see_each_other<F: Fs>(fs: &F, dir: &str) {
    let path = at(dir, "f");
    let a = fs.open(&path, READ_WRITE, 0o644).unwrap();
    let b = fs.open(&path, libc::O_RDWR, 0).unwrap();
    fs.pwrite(&a, 0, b"aaaa").unwrap();
    fs.pwrite(&b, 2, b"bbbb").unwrap();
    assert_eq!(fs.pread(&a, 0, 9).unwrap(), b"aabbbb");
    fs.close(a).unwrap();
    fs.pwrite(&b, 6, b"!").unwrap();
    fs.close(b).unwrap();
    assert_eq!(fs.read_file(&path).unwrap(), b"aabbbb!");
}

fn missing_names_and_wrong_kinds<F: Fs>(fs: &F, dir: &str) {
    let (none, file) = (at(dir, "none"), at(dir, "file"));
    fs.write_file(&file, b"").unwrap();
    assert_eq!(fs.lstat(&none).unwrap_err(), libc::ENOENT);
    assert_eq!(fs.open(&none, libc::O_RDONLY, 0).err(), Some(libc::ENOENT));
    assert_eq!(fs.unlink(&none).unwrap_err(), libc::ENOENT);
    assert_eq!(fs.lstat(&at(&file, "x")).unwrap_err(), libc::ENOTDIR);
    assert_eq!(fs.mkdir(&at(&none, "x"), 0o755).unwrap_err(), libc::ENOENT);
    assert_eq!(fs.open(dir, libc::O_WRONLY, 0).err(), Some(libc::EISDIR));
    assert_eq!(fs.readdir(&file).unwrap_err(), libc::ENOTDIR);
}
