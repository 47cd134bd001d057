//! Guesses from what was missed in a directory what will be asked for next: who stats two of its names will stat more, who
//! reads two of its small files, or lists two of its directories, will go on with those that come after.
//!
//! Pure bookkeeping of the directories in use; what is fetched is decided with it in [`super::Cache`].

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use crate::key::Prefix;
use crate::store::Cursor;

/// Directories whose misses are counted; of more, the one that was not used for longest is forgotten.
const DIRS_MAX: usize = 64;
/// After so many names that had to be asked for and were there, the directory is listed: before, a lookup is cheaper and
/// brings the bytes along.
const LIST_AFTER: u32 = 2;
/// After so many names that had to be asked for and were absent, the directory is listed if it may fit into one page: who creates
/// files asks for nothing else, and is told without a call by a directory that is known in full.
const LIST_AFTER_ABSENT: u32 = 8;
/// The same after a page, for the next one.
const LIST_AGAIN_AFTER: u32 = 32;
/// Names of the first page.
const NAMES_MIN: u32 = 512;
/// Names of the further ones.
const NAMES_MAX: u32 = 2_000;
/// Files that are fetched along with the second that is read.
const FILES_MIN: usize = 32;
/// Files that are fetched along at most.
const FILES_MAX: usize = 256;
/// Directories that are listed along with the second.
const DIRS_ALONG_MIN: usize = 2;
/// Directories that are listed along at most.
const DIRS_ALONG_MAX: usize = 16;

/// See the module.
#[derive(Default)]
pub struct Ahead {
    /// Those used last at the end.
    dirs: Mutex<VecDeque<Dir>>,
}

struct Dir {
    dir: Prefix,
    /// Names that were asked for and there since the last page.
    names: u32,
    /// Names that were asked for and absent since the last page.
    absent: u32,
    /// It has more names than a page.
    is_large: bool,
    /// Pages that were asked for.
    pages: u32,
    /// Where the next page starts; `None`: at the beginning.
    next: Option<Cursor>,
    /// Files that were fetched along the last time.
    files: Option<usize>,
    /// Directories in it that were listed along with another the last time.
    dirs: Option<usize>,
}

impl Ahead {
    /// A name that had to be asked for is there.
    pub fn name_found(&self, dir: &Prefix) {
        used(&mut self.lock(), dir).names += 1;
    }

    /// A name that had to be asked for is absent.
    pub fn name_absent(&self, dir: &Prefix) {
        used(&mut self.lock(), dir).absent += 1;
    }

    /// A name has to be asked for: whether to list the directory instead, from where, and how many names.
    pub fn name_missed(&self, dir: &Prefix) -> Option<(Option<Cursor>, u32)> {
        let mut dirs = self.lock();
        let found = used(&mut dirs, dir);
        let (after, names) = if found.pages == 0 { (LIST_AFTER, NAMES_MIN) } else { (LIST_AGAIN_AFTER, NAMES_MAX) };
        let creates = found.absent >= LIST_AFTER_ABSENT && !found.is_large;
        if found.names < after && !creates {
            return None;
        }
        (found.names, found.absent) = (0, 0);
        found.pages += 1;
        Some((found.next.take(), names))
    }

    /// Where the listing goes on.
    pub fn listed(&self, dir: &Prefix, next: Option<Cursor>) {
        let mut dirs = self.lock();
        let found = used(&mut dirs, dir);
        found.is_large = next.is_some();
        found.next = next;
    }

    /// A file had to be read from the server: how many others to fetch along.
    pub fn file_missed(&self, dir: &Prefix) -> usize {
        grow(&mut used(&mut self.lock(), dir).files, FILES_MIN, 4, FILES_MAX)
    }

    /// A directory in `parent` had to be listed by the server: how many of those after it to list along.
    pub fn dir_missed(&self, parent: &Prefix) -> usize {
        grow(&mut used(&mut self.lock(), parent).dirs, DIRS_ALONG_MIN, 2, DIRS_ALONG_MAX)
    }

    /// What was fetched along was of no use.
    pub fn misled(&self, dir: &Prefix) {
        used(&mut self.lock(), dir).files = None;
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Dir>> {
        self.dirs.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// How many come along with this one: none with the first, `min` with the second, then `by` times as many, up to `max`.
fn grow(along: &mut Option<usize>, min: usize, by: usize, max: usize) -> usize {
    *along.insert(match *along {
        None => 0,
        Some(0) => min,
        Some(before) => (before * by).min(max),
    })
}

fn used<'d>(dirs: &'d mut VecDeque<Dir>, dir: &Prefix) -> &'d mut Dir {
    let found = match dirs.iter().rposition(|known| known.dir == *dir) {
        Some(at) => dirs.remove(at),
        None => None,
    };
    if found.is_none() && dirs.len() == DIRS_MAX {
        dirs.pop_front();
    }
    dirs.push_back(found.unwrap_or_else(|| Dir {
        dir: dir.clone(),
        names: 0,
        absent: 0,
        is_large: false,
        pages: 0,
        next: None,
        files: None,
        dirs: None,
    }));
    let last = dirs.len() - 1;
    &mut dirs[last]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_name_lists_and_later_ones_go_on() {
        let (ahead, dir) = (Ahead::default(), Prefix::new("d/").unwrap());
        let miss = || {
            let list = ahead.name_missed(&dir);
            ahead.name_found(&dir);
            list
        };
        assert_eq!((miss(), miss(), miss()), (None, None, Some((None, NAMES_MIN))));
        ahead.listed(&dir, Some(Cursor("after".into())));
        assert!((2..LIST_AGAIN_AFTER + 1).all(|_| miss().is_none()));
        assert_eq!(miss(), Some((Some(Cursor("after".into())), NAMES_MAX)));
    }

    #[test]
    fn names_that_are_absent_list_a_directory_of_one_page() {
        let (ahead, dir) = (Ahead::default(), Prefix::new("d/").unwrap());
        let miss = || {
            let list = ahead.name_missed(&dir);
            ahead.name_absent(&dir);
            list
        };
        assert!((0..LIST_AFTER_ABSENT).all(|_| miss().is_none()));
        assert_eq!(miss(), Some((None, NAMES_MIN)));
        ahead.listed(&dir, None);
        assert!((1..LIST_AFTER_ABSENT).all(|_| miss().is_none()));
        assert_eq!(miss(), Some((None, NAMES_MAX)), "it was trusted no more");
        ahead.listed(&dir, Some(Cursor("after".into())));
        assert!((0..1_000).all(|_| miss().is_none()), "a page of a large directory says nothing of what it lacks");
    }

    #[test]
    fn more_files_come_along_the_more_are_read() {
        let (ahead, dir) = (Ahead::default(), Prefix::new("d/").unwrap());
        let counts: Vec<usize> = (0..4).map(|_| ahead.file_missed(&dir)).collect();
        assert_eq!(counts, [0, FILES_MIN, FILES_MIN * 4, FILES_MAX]);
        ahead.misled(&dir);
        assert_eq!(ahead.file_missed(&dir), 0);
        let counts: Vec<usize> = (0..6).map(|_| ahead.dir_missed(&dir)).collect();
        assert_eq!(counts, [0, DIRS_ALONG_MIN, 4, 8, DIRS_ALONG_MAX, DIRS_ALONG_MAX]);
    }

    #[test]
    fn directories_that_are_not_used_are_forgotten() {
        let ahead = Ahead::default();
        let dir = |n: usize| Prefix::new(&format!("{n}/")).unwrap();
        ahead.file_missed(&dir(0));
        assert!((1..DIRS_MAX + 1).all(|n| ahead.file_missed(&dir(n)) == 0));
        assert_eq!(ahead.file_missed(&dir(0)), 0, "as if never read");
        assert_eq!(ahead.file_missed(&dir(DIRS_MAX)), FILES_MIN);
    }
}
