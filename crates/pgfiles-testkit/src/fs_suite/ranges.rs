//! Checks of what programs do to ranges of files: allocate, punch, look for holes, copy.

use super::Fs;
use super::checks::{Check, at};

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const CREATE: i32 = libc::O_RDWR | libc::O_CREAT;
const MIB: usize = 1 << 20;

pub(super) fn all<F: Fs>() -> Vec<(&'static str, Check<F>)> {
    vec![
        ("an_allocation_grows_the_file", an_allocation_grows_the_file::<F>),
        ("a_punched_range_is_zeros", a_punched_range_is_zeros::<F>),
        ("a_zeroed_range_is_zeros", a_zeroed_range_is_zeros::<F>),
        ("holes_are_found_and_take_no_room", holes_are_found_and_take_no_room::<F>),
        ("ranges_are_copied", ranges_are_copied::<F>),
        ("a_copy_is_a_file_of_its_own", a_copy_is_a_file_of_its_own::<F>),
    ]
}

fn bytes(seed: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8 | 1).collect()
}

fn an_allocation_grows_the_file<F: Fs>(fs: &F, dir: &str) {
    let file = fs.open(&at(dir, "f"), CREATE, 0o644).unwrap();
    fs.pwrite(&file, 0, b"abc").unwrap();
    fs.fallocate(&file, 0, 1, 9).unwrap();
    assert_eq!(fs.pread(&file, 0, 100).unwrap(), b"abc\0\0\0\0\0\0\0");
    fs.fallocate(&file, libc::FALLOC_FL_KEEP_SIZE, 0, 5_000_000).unwrap();
    assert_eq!(fs.fstat(&file).unwrap().size, 10);
    fs.fallocate(&file, 0, 3_000_000, 5).unwrap();
    assert_eq!(fs.fstat(&file).unwrap().size, 3_000_005);
    assert_eq!(fs.pread(&file, 2_999_999, 100).unwrap(), [0; 6]);
    assert_eq!(fs.fallocate(&file, 0, 0, 0).unwrap_err(), libc::EINVAL);
    fs.close(file).unwrap();
    let file = fs.open(&at(dir, "f"), libc::O_RDONLY, 0).unwrap();
    assert_eq!(fs.fallocate(&file, 0, 0, 10).unwrap_err(), libc::EBADF);
    fs.close(file).unwrap();
}

fn a_punched_range_is_zeros<F: Fs>(fs: &F, dir: &str) {
    for (name, len) in [("small", 10_000), ("large", 3 * MIB + 777)] {
        let path = at(dir, name);
        let mut expected = bytes(1, len);
        fs.write_file(&path, &expected).unwrap();
        let file = fs.open(&path, libc::O_RDWR, 0).unwrap();
        for (from, count) in [(100, 50), (len / 3, len / 2), (len - 10, 1000), (len + 5, 20)] {
            fs.fallocate(&file, PUNCH, from as u64, count as u64).unwrap();
            let (from, to) = (from.min(len), (from + count).min(len));
            expected[from..to].fill(0);
            assert_eq!(fs.fstat(&file).unwrap().size, len as u64, "{name}");
        }
        fs.close(file).unwrap();
        assert!(fs.read_file(&path).unwrap() == expected, "{name}");
    }
}

fn a_zeroed_range_is_zeros<F: Fs>(fs: &F, dir: &str) {
    let path = at(dir, "f");
    let mut expected = bytes(2, MIB);
    fs.write_file(&path, &expected).unwrap();
    let file = fs.open(&path, libc::O_RDWR, 0).unwrap();
    fs.fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, 1000, 300_000).unwrap();
    expected[1000..301_000].fill(0);
    fs.fallocate(&file, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, MIB as u64 - 5, 100).unwrap();
    expected[MIB - 5..].fill(0);
    fs.fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, MIB as u64 - 7, 100).unwrap();
    expected[MIB - 7..].fill(0);
    expected.resize(MIB + 93, 0);
    fs.close(file).unwrap();
    assert!(fs.read_file(&path).unwrap() == expected);
}

fn holes_are_found_and_take_no_room<F: Fs>(fs: &F, dir: &str) {
    let path = at(dir, "f");
    let (data, hole, size) = (2 * MIB as u64, 4 * MIB as u64, 8 * MIB as u64);
    let look = |file: &F::File| {
        assert_eq!(fs.lseek(file, 0, libc::SEEK_DATA).unwrap(), data);
        assert_eq!(fs.lseek(file, 0, libc::SEEK_HOLE).unwrap(), 0);
        assert_eq!(fs.lseek(file, data + 5, libc::SEEK_DATA).unwrap(), data + 5);
        assert_eq!(fs.lseek(file, data + 5, libc::SEEK_HOLE).unwrap(), hole);
        assert_eq!(fs.lseek(file, hole, libc::SEEK_DATA).unwrap_err(), libc::ENXIO);
        assert_eq!(fs.lseek(file, size - 1, libc::SEEK_HOLE).unwrap(), size - 1);
        assert_eq!(fs.lseek(file, size, libc::SEEK_HOLE).unwrap_err(), libc::ENXIO);
        let stored = fs.fstat(file).unwrap().stored;
        assert!(stored >= hole - data && stored < size / 2, "{stored} bytes take room");
    };
    let file = fs.open(&path, CREATE, 0o644).unwrap();
    fs.ftruncate(&file, size).unwrap();
    fs.pwrite(&file, data, &bytes(3, 2 * MIB)).unwrap();
    fs.fsync(&file).unwrap();
    look(&file);
    fs.close(file).unwrap();
    let file = fs.open(&path, libc::O_RDONLY, 0).unwrap();
    look(&file);
    fs.close(file).unwrap();
    let small = fs.open(&at(dir, "small"), CREATE, 0o644).unwrap();
    assert_eq!(fs.lseek(&small, 0, libc::SEEK_DATA).unwrap_err(), libc::ENXIO);
    fs.pwrite(&small, 0, b"abc").unwrap();
    assert_eq!((fs.lseek(&small, 1, libc::SEEK_DATA).unwrap(), fs.lseek(&small, 1, libc::SEEK_HOLE).unwrap()), (1, 3));
    fs.close(small).unwrap();
}

/// Copies all of a range, as often as it takes.
fn copy_all<F: Fs>(fs: &F, from: &F::File, offset: u64, to: &F::File, to_offset: u64, len: u64) -> u64 {
    let mut done = 0;
    while done < len {
        match fs.copy_range(from, offset + done, to, to_offset + done, len - done).unwrap() {
            0 => break,
            copied => done += copied,
        }
    }
    done
}

fn ranges_are_copied<F: Fs>(fs: &F, dir: &str) {
    let content = bytes(4, 3 * MIB + 12_345);
    let source = at(dir, "source");
    fs.write_file(&source, &content).unwrap();
    let from = fs.open(&source, libc::O_RDONLY, 0).unwrap();
    for (nth, (offset, to_offset, len)) in
        [(0, 0, content.len()), (0, 0, 2 * MIB + 1), (MIB, MIB, MIB), (5, 0, 700_000), (MIB, 10, 2 * MIB), (3 * MIB, 0, MIB)]
            .into_iter()
            .enumerate()
    {
        let path = at(dir, &format!("target{nth}"));
        let mut expected = if nth % 2 == 0 { Vec::new() } else { bytes(5, MIB + 99) };
        fs.write_file(&path, &expected).unwrap();
        let to = fs.open(&path, libc::O_RDWR, 0).unwrap();
        let copied = copy_all(fs, &from, offset as u64, &to, to_offset as u64, len as u64) as usize;
        assert_eq!(copied, len.min(content.len() - offset), "{nth}");
        expected.resize(expected.len().max(to_offset + copied), 0);
        expected[to_offset..to_offset + copied].copy_from_slice(&content[offset..offset + copied]);
        fs.close(to).unwrap();
        assert!(fs.read_file(&path).unwrap() == expected, "{nth}: {offset} to {to_offset}, {len} bytes");
    }
    assert_eq!(fs.copy_range(&from, content.len() as u64, &from, 0, 10).unwrap_err(), libc::EBADF);
    fs.close(from).unwrap();
    let both = fs.open(&source, libc::O_RDWR, 0).unwrap();
    assert_eq!(fs.copy_range(&both, 0, &both, 100, 200).unwrap_err(), libc::EINVAL);
    assert_eq!(copy_all(fs, &both, 0, &both, 2 * MIB as u64, 500_000), 500_000);
    assert_eq!(fs.pread(&both, 2 * MIB as u64, 500_000).unwrap(), content[..500_000]);
    fs.close(both).unwrap();
}

fn a_copy_is_a_file_of_its_own<F: Fs>(fs: &F, dir: &str) {
    let content = bytes(6, 2 * MIB + 5);
    let (source, target) = (at(dir, "source"), at(dir, "target"));
    fs.write_file(&source, &content).unwrap();
    let (from, to) = (fs.open(&source, libc::O_RDWR, 0).unwrap(), fs.open(&target, CREATE, 0o644).unwrap());
    assert_eq!(copy_all(fs, &from, 0, &to, 0, content.len() as u64), content.len() as u64);
    // Before the copy is published, and after.
    fs.pwrite(&from, MIB as u64, b"source only").unwrap();
    fs.close(to).unwrap();
    let to = fs.open(&target, libc::O_RDWR, 0).unwrap();
    fs.pwrite(&to, 10, b"target only").unwrap();
    fs.close(to).unwrap();
    fs.close(from).unwrap();
    let (mut one, mut other) = (content.clone(), content);
    one[MIB..MIB + 11].copy_from_slice(b"source only");
    other[10..21].copy_from_slice(b"target only");
    assert!(fs.read_file(&source).unwrap() == one);
    assert!(fs.read_file(&target).unwrap() == other);
    fs.unlink(&source).unwrap();
    assert!(fs.read_file(&target).unwrap() == other);
}
