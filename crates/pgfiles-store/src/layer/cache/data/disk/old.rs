//! What format 1 left: a file for each block in 256 directories in `blocks`, and `tmp` for files without a name yet.
//!
//! It is removed, so that the bound holds; a daemon of then that still lives goes on without what is gone. Nothing is
//! touched whose name does not look like one of those: the directory is the user's choice.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, AtFlags};

use super::shelf::{names, on_disk, open_dir};

const BLOCKS: &str = "blocks";
const ASIDE: &str = "tmp";

/// Files and what they take on disk.
#[derive(Default)]
pub struct Remains {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

/// Whether there may be any.
pub fn is_in(dir: &Path) -> io::Result<bool> {
    dir.join(BLOCKS).try_exists()
}

/// Counts.
pub fn remains(root: &OwnedFd) -> io::Result<Remains> {
    let mut all = Remains::default();
    each(root, &mut |dir, name| {
        if let Ok(about) = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            all.bytes += on_disk(&about);
            all.files += 1;
        }
    })?;
    Ok(all)
}

/// Removes.
pub fn remove(root: &OwnedFd) -> io::Result<()> {
    let Some(blocks) = open_dir(root, BLOCKS)? else { return Ok(()) };
    each(root, &mut |dir, name| {
        let _ = fs::unlinkat(dir, name, AtFlags::empty());
    })?;
    // Those that are empty now.
    for fan in names(&blocks)?.iter().filter(|name| is_fan(name)) {
        let _ = fs::unlinkat(&blocks, fan.as_str(), AtFlags::REMOVEDIR);
    }
    for dir in [BLOCKS, ASIDE] {
        let _ = fs::unlinkat(root, dir, AtFlags::REMOVEDIR);
    }
    Ok(())
}

fn each(root: &OwnedFd, file: &mut dyn FnMut(&OwnedFd, &str)) -> io::Result<()> {
    let Some(blocks) = open_dir(root, BLOCKS)? else { return Ok(()) };
    let mut dirs: Vec<OwnedFd> = open_dir(root, ASIDE)?.into_iter().collect();
    for fan in names(&blocks)?.iter().filter(|name| is_fan(name)) {
        dirs.extend(open_dir(&blocks, fan)?);
    }
    for dir in dirs {
        names(&dir)?.iter().filter(|name| is_block(name)).for_each(|name| file(&dir, name));
    }
    Ok(())
}

fn is_fan(name: &str) -> bool {
    name.len() == 2 && is_hex(name)
}

/// Row, perhaps lineage, block; or process, number, random number: two or three hexadecimal numbers.
fn is_block(name: &str) -> bool {
    matches!(name.split('-').count(), 2..=3) && name.split('-').all(is_hex)
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}
