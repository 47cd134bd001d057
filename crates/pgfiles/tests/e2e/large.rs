//! Files that are larger than memory may be.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use pgfiles_testkit::postgres::Postgres;

use crate::harness::{Sandbox, memory, pattern};

const MIB: usize = 1 << 20;
/// What the daemon may use: less than the 256 MiB that are promised, so that a small run shows what a large one would.
const MEMORY_MAX: u64 = 224 << 20;

fn write_pattern(path: &Path, mebibytes: usize) {
    let mut file = File::create(path).unwrap();
    for block in 0..mebibytes {
        file.write_all(&pattern(block as u64, MIB)).unwrap();
    }
    file.sync_all().unwrap();
}

fn check_pattern(path: &Path, mebibytes: usize) {
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; MIB];
    for block in 0..mebibytes {
        file.read_exact(&mut buffer).unwrap();
        assert!(buffer == pattern(block as u64, MIB), "MiB {block} differs");
    }
    assert_eq!(file.read(&mut buffer).unwrap(), 0);
}

/// PGFILES_TEST_LARGE_MIB=5120 is the 5 GiB; CI takes less.
#[test]
fn a_file_larger_than_the_daemons_memory() {
    let mebibytes = std::env::var("PGFILES_TEST_LARGE_MIB").map_or(640, |n| n.parse().unwrap());
    let user = Sandbox::on(Postgres::shared()).with("PGFILES_CACHE_MAX_SIZE", "64MB");
    let mount = user.mount("a/", "work");
    let daemon = user.daemon(&mount);
    let start = std::time::Instant::now();
    write_pattern(&mount.join("big"), mebibytes);
    let written = start.elapsed();
    user.unmount(&mount);
    let mount = user.mount("a/", "work");
    let reader = user.daemon(&mount);
    assert_ne!(daemon, reader);
    let start = std::time::Instant::now();
    check_pattern(&mount.join("big"), mebibytes);
    let read = start.elapsed();
    let peak = memory(reader).0;
    println!(
        "{mebibytes} MiB: written at {:.0} MiB/s, read at {:.0} MiB/s, reader's peak {} MiB",
        mebibytes as f64 / written.as_secs_f64(),
        mebibytes as f64 / read.as_secs_f64(),
        peak >> 20
    );
    assert!(peak < MEMORY_MAX, "the reading daemon used {} MiB", peak >> 20);
    write_pattern(&mount.join("big2"), mebibytes);
    let peak = memory(reader).0;
    println!("{mebibytes} MiB written by the same daemon: peak {} MiB", peak >> 20);
    assert!(peak < MEMORY_MAX, "the writing daemon used {} MiB", peak >> 20);
}

/// An append and a small overwrite cost what changed, not the size of the file.
#[test]
fn a_small_change_of_a_large_file_moves_kilobytes() {
    let mebibytes = std::env::var("PGFILES_TEST_LARGE_MIB").map_or(256, |n| n.parse::<usize>().unwrap().min(1024));
    let user = Sandbox::on(Postgres::shared());
    let mount = user.mount("a/", "work");
    write_pattern(&mount.join("big"), mebibytes);
    user.unmount(&mount);
    let mount = user.mount("a/", "work");
    let sql = user.sql();
    let stored = || sql.one("SELECT sum(octet_length(data)) FROM pgfiles").parse::<u64>().unwrap();
    let before = stored();
    OpenOptions::new().append(true).open(mount.join("big")).unwrap().write_all(&[7; 100]).unwrap();
    let appended = stored() - before;
    OpenOptions::new().write(true).open(mount.join("big")).unwrap().write_all_at(&[9; 10], 12_345_678).unwrap();
    let overwritten = stored() - before - appended;
    println!("{mebibytes} MiB: 100 B appended: {appended} B stored; 10 B overwritten: {overwritten} B stored");
    assert!(appended < 64 << 10, "{appended} B");
    assert!(overwritten < 256 << 10, "{overwritten} B");
    let file = File::open(mount.join("big")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (mebibytes * MIB + 100) as u64);
    let mut tail = [0; 101];
    file.read_exact_at(&mut tail, (mebibytes * MIB - 1) as u64).unwrap();
    assert_eq!(tail[1..], [7; 100]);
    let versions = sql.one("SELECT count(*) FROM pgfiles WHERE key = 'a/big'");
    assert_eq!(versions, "3");
    if mebibytes < 1024 {
        assert_eq!(sql.one("SELECT octet_length(pgfiles_read('a/big', 1))"), (mebibytes * MIB).to_string());
    } else {
        let why = sql.try_rows("SELECT pgfiles_read('a/big', 1)").unwrap_err();
        let message = why.as_db_error().map_or("", |error| error.message());
        assert!(message.contains("too large for one value of SQL"), "{why:?}");
    }
}

/// Sparse ranges cost nothing.
#[test]
fn holes_cost_nothing() {
    let user = Sandbox::on(Postgres::shared());
    let mount = user.mount("a/", "work");
    let file = File::create(mount.join("sparse")).unwrap();
    file.write_all_at(b"end", 3 << 30).unwrap();
    drop(file);
    let stored: u64 = user.sql().one("SELECT sum(octet_length(data)) FROM pgfiles").parse().unwrap();
    assert!(stored < 1 << 20, "{stored} B");
    user.unmount(&mount);
    let mount = user.mount("a/", "work");
    let file = File::open(mount.join("sparse")).unwrap();
    let mut end = [1; 7];
    file.read_exact_at(&mut end, (3 << 30) - 4).unwrap();
    assert_eq!(&end, b"\0\0\0\0end");
}
