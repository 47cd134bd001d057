//! The cache of contents where its disk is full.

use std::fs;
use std::path::Path;

use crate::user::{User, can_mount, eventually};

const FILES: usize = 12;

fn content(number: usize) -> Vec<u8> {
    (0..1u32 << 20).map(|at| (at >> 7) as u8 ^ number as u8).collect()
}

fn read_all(dir: &Path) {
    for number in 0..FILES {
        assert!(fs::read(dir.join(format!("f{number}"))).unwrap() == content(number), "f{number}");
    }
}

#[test]
fn a_full_cache_disk_is_done_without_until_there_is_room() {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped, because a small disk takes root");
        return;
    }
    let mut user = User::with_table();
    let disk = user.dir("small");
    let options = c"size=4m,mode=0700";
    rustix::mount::mount("tmpfs", &disk, "tmpfs", rustix::mount::MountFlags::empty(), options).unwrap();
    user.set("PGFILES_CACHE_DIR", disk.join("cache").to_str().unwrap());
    let dir = user.dir("mnt");
    user.run([Path::new("mount"), &dir]).ok();
    // Something else fills the disk but for what a few blocks take.
    fs::write(disk.join("ballast"), vec![0; 3 << 20]).unwrap();
    for number in 0..FILES {
        fs::write(dir.join(format!("f{number}")), content(number)).unwrap();
    }
    // Nothing of it in memory.
    user.run([Path::new("unmount"), &dir]).ok();
    user.run([Path::new("mount"), &dir]).ok();
    read_all(&dir);
    let on_disk = || user.run(["cache", "stats", "--json"]).json()["mounts"][0]["cache"]["disk"].clone();
    eventually("it is said that the disk is full", || {
        on_disk()["error"].as_str().is_some_and(|why| why.contains("No space left"))
    });
    assert!(user.run(["cache", "stats"]).ok().contains("No space left"));
    fs::write(dir.join("more"), "x").unwrap();
    read_all(&dir);
    assert_eq!(fs::read(dir.join("more")).unwrap(), b"x");
    assert_eq!(user.run(["status"]).code, 0);
    // There is room again; it would be found within a minute, and is at once by who says so.
    fs::remove_file(disk.join("ballast")).unwrap();
    user.run(["cache", "clear"]).ok();
    assert_eq!(on_disk()["error"], serde_json::Value::Null);
    // One that the kernel does not hold.
    user.sql("SELECT pgfiles_write('new', decode(repeat('ab', 1 << 20), 'hex'))");
    assert!(fs::read(dir.join("new")).unwrap() == vec![0xab; 1 << 20]);
    eventually("blocks are on the disk", || on_disk()["blocks"].as_u64() > Some(0));
    user.run([Path::new("unmount"), &dir]).ok();
}

#[test]
fn what_is_warm_costs_no_request() {
    if !can_mount() {
        return;
    }
    let user = User::with_table();
    let tree = user.dir("tree");
    for n in 0..30 {
        std::fs::create_dir_all(tree.join(format!("d{}", n % 3))).unwrap();
        std::fs::write(tree.join(format!("d{}/f{n}", n % 3)), vec![n; 1000]).unwrap();
    }
    std::fs::write(tree.join("large"), vec![7; 3 << 20]).unwrap();
    user.run(["import", "tree", "t"]).ok();
    let at = user.dir("mnt");
    user.run(["mount", "mnt"]).ok();
    let said = user.run(["warmup", "--json", "mnt/t"]).json();
    assert_eq!((&said["files"], &said["dirs"], &said["full"]), (&31.into(), &4.into(), &false.into()), "{said}");
    let reads = || {
        user.status()[0]["operations"]["methods"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|method| method["method"] == "read" || method["method"] == "list")
            .map(|method| method["calls"].as_u64().unwrap())
            .sum::<u64>()
    };
    let before = reads();
    for n in 0..30_u8 {
        assert_eq!(std::fs::read(at.join(format!("t/d{}/f{n}", n % 3))).unwrap(), vec![n; 1000]);
    }
    assert_eq!(std::fs::read(at.join("t/large")).unwrap().len(), 3 << 20);
    assert_eq!(std::fs::read_dir(at.join("t/d1")).unwrap().count(), 10);
    assert_eq!(reads(), before, "nothing is asked for again");
    user.run(["warmup", "t"]).ok();
    user.run(["unmount", "mnt"]).ok();
    user.run(["warmup", "t"]).fails(3, &["in no live mount"]);
}
