//! What can happen to the directory: crashes, damage, other daemons, full and read-only disks, older formats.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::version::{Lineage, VersionId};

const MIB: u64 = 1 << 20;
const KIB: usize = 1 << 10;

fn key(n: u32) -> BlockKey {
    let lineage = n.is_multiple_of(2).then(|| Lineage(uuid::Uuid::from_u128(77)));
    BlockKey { id: VersionId(uuid::Uuid::from_u128(u128::from(n) << 64 | 5)), lineage, block: n % 3 }
}

/// The bytes of [`key`], which differ from those of all others.
fn content(n: u32, len: usize) -> Bytes {
    n.to_le_bytes().into_iter().chain((0..len).map(|at| (at / 7) as u8 ^ n as u8)).take(len).collect()
}

async fn put(disk: &Disk, numbers: impl IntoIterator<Item = u32>, len: usize) {
    disk.put_all(numbers.into_iter().map(|n| (key(n), content(n, len))).collect());
    disk.flush().await;
}

/// Which of the blocks are there; the others are missed, none has wrong bytes.
fn there(disk: &Disk, numbers: impl IntoIterator<Item = u32>, len: usize) -> Vec<u32> {
    let numbers: Vec<u32> = numbers.into_iter().collect();
    let keys: Vec<BlockKey> = numbers.iter().map(|n| key(*n)).collect();
    let found = disk.get(&keys);
    assert_eq!(found.len(), keys.len());
    let right = |(n, block): (u32, Option<Bytes>)| {
        block.map(|block| {
            assert!(block == content(n, len), "wrong bytes of {n}");
            n
        })
    };
    numbers.into_iter().zip(found).filter_map(right).collect()
}

fn packs(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("v2")).into_iter().flatten().map(|file| file.unwrap().path());
    let mut packs: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|kind| kind == "pack")).collect();
    packs.sort();
    packs
}

/// What the files take, as `du` says.
fn du(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::read_dir(dir.join("v2")).unwrap().map(|file| file.unwrap().metadata().map_or(0, |about| about.blocks() * 512)).sum()
}

#[tokio::test]
async fn blocks_share_files_and_survive_a_remount() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path(), 1 << 30);
    put(&disk, 0..10_000, 4 * KIB).await;
    assert_eq!(there(&disk, 0..10_000, 4 * KIB).len(), 10_000);
    assert!(packs(dir.path()).len() <= 6, "{:?}", packs(dir.path()));
    put(&disk, [10_000], 0).await;
    put(&disk, [10_001], MIB as usize).await;
    let stats = disk.stats();
    assert_eq!((stats.blocks, stats.dropped, stats.error), (10_002, 0, None));
    drop(disk);
    let disk = Disk::open(dir.path(), 1 << 30);
    disk.flush().await;
    assert_eq!(there(&disk, 0..10_000, 4 * KIB).len(), 10_000);
    assert_eq!(there(&disk, [10_000], 0), [10_000]);
    assert_eq!(there(&disk, [10_001], MIB as usize), [10_001]);
    assert_eq!(disk.stats().blocks, 10_002);
    assert!(disk.stats().bytes.abs_diff(du(dir.path())) < 64 * KIB as u64);
}

/// Ends a daemon's part, as the end of its process does.
fn end(disk: Arc<Disk>) {
    let shared = disk.shared.clone();
    drop(disk);
    while Arc::strong_count(&shared) > 1 {
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn many_short_mounts_share_a_pack() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..20 {
        let [disk, other] = [0, 1].map(|_| Disk::open(dir.path(), 1 << 30));
        put(&disk, [n], 100).await;
        put(&other, [100 + n], 100).await;
        [disk, other].into_iter().for_each(end);
    }
    assert_eq!(packs(dir.path()).len(), 2, "one for each of those that live at a time");
    let disk = Disk::open(dir.path(), 1 << 30);
    assert_eq!(there(&disk, (0..20).chain(100..120), 100).len(), 40);
}

#[tokio::test]
async fn a_torn_write_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path(), 1 << 30);
    put(&disk, 0..10, 10_000).await;
    drop(disk);
    let [pack] = &packs(dir.path())[..] else { panic!("one pack") };
    // As after the crash of a machine: the index was on disk, the last blocks were not, or only zeros.
    let file = fs::OpenOptions::new().write(true).open(pack).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len - 15_000).unwrap();
    file.set_len(len - 5_000).unwrap();
    let disk = Disk::open(dir.path(), 1 << 30);
    assert_eq!(there(&disk, 0..10, 10_000), (0..8).collect::<Vec<_>>());
    assert_eq!(disk.stats().damaged, 2);
    assert_eq!(there(&disk, 0..10, 10_000).len(), 8);
    assert_eq!(disk.stats().damaged, 2, "they are forgotten");
    put(&disk, 8..20, 10_000).await;
    assert_eq!(there(&disk, 0..20, 10_000).len(), 20);
}

#[tokio::test]
async fn a_corrupted_byte_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path(), 1 << 30);
    put(&disk, 0..3, 1_000).await;
    let pack = fs::OpenOptions::new().read(true).write(true).open(&packs(dir.path())[0]).unwrap();
    let index = fs::read(dir.path().join("v2/index")).unwrap();
    let mut damaged = 0;
    for at in (16..16 + 1_056).step_by(31) {
        let mut byte = [0];
        pack.read_exact_at(&mut byte, at).unwrap();
        pack.write_all_at(&[byte[0] ^ 4], at).unwrap();
        assert_eq!(there(&disk, 0..3, 1_000), [1, 2], "byte {at}");
        pack.write_all_at(&byte, at).unwrap();
        assert_eq!(there(&disk, 0..3, 1_000), [1, 2], "it is not looked at again");
        damaged += 1;
        assert_eq!(disk.stats().damaged, damaged);
        fs::write(dir.path().join("v2/index"), &index).unwrap();
        assert_eq!(there(&disk, 0..3, 1_000), [0, 1, 2]);
    }
    put(&disk, [0], 1_000).await;
    assert_eq!(there(&disk, 0..3, 1_000), [0, 1, 2]);
}

#[tokio::test]
async fn what_one_daemon_writes_another_reads_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = [0, 1].map(|_| Disk::open(dir.path(), 1 << 30));
    put(&one, 0..50, 5_000).await;
    put(&two, 50..100, 5_000).await;
    assert_eq!(there(&two, 0..100, 5_000).len(), 100);
    assert_eq!(there(&one, 0..100, 5_000).len(), 100);
    // Both have the same block, and one of them goes.
    put(&two, 0..50, 5_000).await;
    fs::remove_file(&packs(dir.path())[0]).unwrap();
    assert_eq!(there(&one, 0..50, 5_000).len(), 50, "the later one is found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_that_make_room_at_once_hold_the_bound_and_never_give_wrong_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let bound = 8 * MIB;
    let daemons: Vec<Arc<Disk>> = (0..3).map(|_| Disk::open(dir.path(), bound)).collect();
    let tasks = daemons.iter().enumerate().map(|(number, disk)| {
        let (disk, dir) = (disk.clone(), dir.path().to_owned());
        tokio::spawn(async move {
            let mut found = 0;
            for round in 0..25 {
                let first = round * 40 + number as u32 * 20;
                put(&disk, first..first + 40, 20_000).await;
                found += there(&disk, first.saturating_sub(60)..first + 40, 20_000).len();
                let bytes = du(&dir);
                assert!(bytes <= bound + 3 * (bound / COUNT_EVERY + 256 * 1024), "{bytes} bytes");
            }
            found
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        assert!(task.await.unwrap() > 25 * 20);
    }
    let stats: Vec<DiskStats> = daemons.iter().map(|disk| disk.stats()).collect();
    assert!(stats.iter().map(|stats| stats.evictions).sum::<u64>() > 1_500, "{stats:?}");
    assert!(stats.iter().all(|stats| stats.error.is_none()), "{stats:?}");
}

#[tokio::test]
async fn what_was_used_stays_longer() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path(), 8 * MIB);
    put(&disk, 0..60, 100_000).await;
    let old = std::time::SystemTime::now() - Duration::from_secs(3_600);
    for pack in packs(dir.path()) {
        fs::File::open(pack).unwrap().set_modified(old).unwrap();
    }
    // The first blocks are the oldest, and in use.
    assert_eq!(there(&disk, 0..5, 100_000).len(), 5);
    for n in 60..100 {
        put(&disk, [n], 100_000).await;
    }
    assert_eq!(there(&disk, 0..5, 100_000).len(), 5);
    assert!(there(&disk, 5..60, 100_000).len() < 45);
    assert!(disk.stats().evictions > 10 && disk.stats().bytes <= 8 * MIB);
}

#[tokio::test]
async fn it_is_emptied_under_live_daemons() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = [0, 1].map(|_| Disk::open(dir.path(), 1 << 30));
    put(&one, 0..50, 5_000).await;
    put(&two, 50..100, 5_000).await;
    let held: Vec<fs::File> = packs(dir.path()).iter().map(|pack| fs::File::open(pack).unwrap()).collect();
    let (bytes, blocks) = usage(dir.path()).unwrap();
    assert_eq!(blocks, 100);
    assert_eq!(clear(dir.path()).unwrap(), (bytes, 100));
    assert_eq!(usage(dir.path()).unwrap(), (0, 0));
    assert!(held.iter().all(|pack| pack.metadata().unwrap().len() == 0), "their room is free, though they are open");
    assert!(there(&one, 0..100, 5_000).is_empty());
    put(&one, 0..50, 5_000).await;
    put(&two, 50..100, 5_000).await;
    assert_eq!(there(&one, 0..100, 5_000).len(), 100);
    two.clear();
    assert_eq!((there(&one, 0..100, 5_000), two.stats().blocks, two.stats().bytes), (vec![], 0, 0));
    assert_eq!((one.stats().damaged, one.stats().error), (0, None));
}

#[tokio::test]
async fn a_directory_that_is_removed_is_done_without() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let disk = Disk::open(&path, 1 << 30);
    put(&disk, 0..10, 5_000).await;
    // All in it: it is made anew.
    fs::remove_dir_all(path.join("v2")).unwrap();
    fs::remove_file(path.join("lock")).unwrap();
    assert!(there(&disk, 0..10, 5_000).is_empty());
    put(&disk, 0..10, 5_000).await;
    assert_eq!((there(&disk, 0..10, 5_000).len(), disk.stats().error), (10, None));
    // The directory itself: it is not looked for again, because its path may be anything now.
    fs::remove_dir_all(&path).unwrap();
    put(&disk, 0..10, 5_000).await;
    assert!(there(&disk, 0..10, 5_000).is_empty());
    assert!(disk.stats().error.is_some_and(|why| why.contains("No such file")) && !path.exists());
    assert_eq!((usage(&path).unwrap(), clear(&path).unwrap()), ((0, 0), (0, 0)));
}

/// A small file system of its own.
struct Small(tempfile::TempDir);

impl Small {
    /// `None`: it takes root.
    fn new(options: &std::ffi::CStr) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        if rustix::mount::mount("tmpfs", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), options).is_err() {
            eprintln!("skipped, because a small disk takes root");
            return None;
        }
        Some(Self(dir))
    }

    fn set_read_only(&self, read_only: bool) {
        let flags = if read_only { rustix::mount::MountFlags::RDONLY } else { rustix::mount::MountFlags::empty() };
        rustix::mount::mount_remount(self.0.path(), flags, "").unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_done_without_until_there_is_room() {
    let Some(small) = Small::new(c"size=2m,mode=0700") else { return };
    let dir = small.0.path();
    let ballast = dir.join("ballast");
    let disk = Disk::open(dir, 1 << 30);
    put(&disk, 0..10, 10_000).await;
    fs::write(&ballast, vec![0; 1_500_000]).unwrap();
    let blocks: Vec<u32> = (10..100).collect();
    put(&disk, blocks.iter().copied(), 10_000).await;
    let stats = disk.stats();
    assert!(stats.error.as_ref().is_some_and(|why| why.contains("No space left")), "{stats:?}");
    assert!(stats.dropped > 0);
    let before = there(&disk, 0..100, 10_000);
    assert!(before.starts_with(&(0..10).collect::<Vec<_>>()) && before.len() < 100);
    assert_eq!(disk.stats().damaged, 0, "nothing torn is left");
    // Not even the start of a pack fits.
    while fs::OpenOptions::new().append(true).open(&ballast).unwrap().write_all(&[0; 4_096]).is_ok() {}
    let late = Disk::open(dir, 1 << 30);
    put(&late, 100..103, 10_000).await;
    assert!(packs(dir).len() == 1, "no empty packs are left: {:?}", packs(dir));
    fs::remove_file(ballast).unwrap();
    disk.clear();
    assert_eq!(disk.stats().error, None);
    put(&disk, 0..100, 10_000).await;
    assert_eq!(there(&disk, 0..100, 10_000).len(), 100);
}

#[tokio::test]
async fn a_read_only_disk_is_read_and_not_written() {
    let Some(small) = Small::new(c"size=2m,mode=0700") else { return };
    let dir = small.0.path();
    let disk = Disk::open(dir, 1 << 30);
    put(&disk, 0..10, 10_000).await;
    // No file may be open for writing while a file system becomes read-only.
    end(disk);
    let disk = Disk::open(dir, 1 << 30);
    disk.flush().await;
    small.set_read_only(true);
    put(&disk, 10..20, 10_000).await;
    assert!(disk.stats().error.is_some_and(|why| why.contains("Read-only")));
    assert_eq!(there(&disk, 0..20, 10_000), (0..10).collect::<Vec<_>>());
    // One that begins so does without.
    let late = Disk::open(dir, 1 << 30);
    put(&late, 10..20, 10_000).await;
    assert!(late.stats().error.is_some() && there(&late, 0..20, 10_000).is_empty());
    small.set_read_only(false);
    disk.clear();
    put(&disk, 10..20, 10_000).await;
    assert_eq!((there(&disk, 0..20, 10_000).len(), disk.stats().error), (10, None));
}

#[tokio::test]
async fn what_an_older_format_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let id = uuid::Uuid::from_u128(0xab).simple();
    let leave = || {
        fs::create_dir_all(path.join("blocks/ab")).unwrap();
        fs::create_dir_all(path.join("tmp")).unwrap();
        fs::write(path.join(format!("blocks/ab/{id}-0")), [1; 10_000]).unwrap();
        fs::write(path.join(format!("blocks/ab/{id}-{id}-1f")), [1; 10_000]).unwrap();
        fs::write(path.join("tmp/123-4-56789abcdef"), [1; 10_000]).unwrap();
    };
    leave();
    assert_eq!(usage(path).unwrap(), (3 * 12_288, 3));
    let disk = Disk::open(path, 8 * MIB);
    put(&disk, 0..10, 10_000).await;
    assert!(!path.join("blocks").exists() && !path.join("tmp").exists());
    assert_eq!(there(&disk, 0..10, 10_000).len(), 10);
    // A daemon of then goes on writing: within the bound of ours.
    leave();
    put(&disk, 10..100, 10_000).await;
    assert!(!path.join("blocks").exists());
    // Who clears without a mount counts and removes it, too, and nothing else.
    leave();
    fs::write(path.join("blocks/notes"), "mine").unwrap();
    fs::write(path.join("tmp/notes-mine"), "mine").unwrap();
    let (bytes, blocks) = clear(path).unwrap();
    assert!(bytes > 1_000_000 && blocks == 103, "{bytes} bytes, {blocks} blocks");
    let left = |dir: &str| fs::read_dir(path.join(dir)).unwrap().map(|file| file.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!((left("blocks"), left("tmp")), (vec!["notes".into()], vec!["notes-mine".into()]));
    assert_eq!(usage(path).unwrap(), (0, 0));
}

#[tokio::test]
async fn a_larger_bound_finds_what_a_smaller_one_kept() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path(), MIB);
    put(&disk, 0..50, 1_000).await;
    let index = || fs::metadata(dir.path().join("v2/index")).unwrap().len();
    let before = index();
    let disk = Disk::open(dir.path(), 64 * MIB);
    put(&disk, 50..2_000, 1_000).await;
    assert!(index() > 16 * before);
    assert_eq!(there(&disk, 0..2_000, 1_000).len(), 2_000);
}
