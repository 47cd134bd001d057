//! Listings: pages of directories that are known in full, and the bookkeeping that tells when one is.
//!
//! A cursor of this layer is a name's place after a NUL, which no cursor from below begins with (keys hold no NUL).

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

use crate::key::Prefix;
use crate::store::{Cursor, Entry, Page};

use super::heads::{Heads, Mark};

/// Listings that may be followed to their end at a time; of more, the oldest is not.
const FOLLOWED_MAX: usize = 64;
const OURS: char = '\0';

/// Listings in progress.
#[derive(Default)]
pub struct Listings {
    followed: Mutex<Vec<Followed>>,
}

/// A listing whose pages so far were all seen.
struct Followed {
    dir: Prefix,
    next: Cursor,
    mark: Mark,
    names: HashSet<Box<str>>,
}

/// A cursor that this layer made: the place after which to go on.
pub fn place(cursor: &Cursor) -> Option<&str> {
    cursor.0.strip_prefix(OURS)
}

/// A cursor of this layer.
pub fn cursor(place: &str) -> Cursor {
    Cursor(format!("{OURS}{place}"))
}

/// Whether an entry stands after a place.
pub fn is_after(name: &str, entry: &Entry, place: &str) -> bool {
    match entry {
        Entry::File(_) => name > place,
        Entry::Dir(_) => name.bytes().chain([b'/']).gt(place.bytes()),
    }
}

impl Listings {
    /// A page came that was asked for at `mark`, from a cursor of the store below or from the start: keeps its names,
    /// and at the last page says that the directory is known in full.
    pub fn learn(&self, heads: &Heads, mark: Mark, dir: &Prefix, from: Option<&Cursor>, page: Page) -> Page {
        let mut followed = match from {
            None => Some((mark, HashSet::new())),
            Some(from) => self.take(dir, from),
        };
        if let Some((_, names)) = &mut followed {
            // A file and a directory of one name are two entries, and what is known holds one: not known in full.
            if !page.entries.iter().all(|(name, _)| names.insert(Box::from(name.as_str()))) {
                followed = None;
            }
        }
        let entries = heads.learn_page(mark, dir, page.entries);
        match (followed, &page.next) {
            (Some((began, names)), None) => heads.learn_complete(began, dir, &names),
            (Some((mark, names)), Some(next)) => {
                let mut all = self.lock();
                if all.len() == FOLLOWED_MAX {
                    all.remove(0);
                }
                all.push(Followed { dir: dir.clone(), next: next.clone(), mark, names });
            }
            (None, _) => {}
        }
        Page { entries, next: page.next }
    }

    fn take(&self, dir: &Prefix, from: &Cursor) -> Option<(Mark, HashSet<Box<str>>)> {
        let mut all = self.lock();
        let index = all.iter().position(|listing| listing.dir == *dir && listing.next == *from)?;
        let listing = all.remove(index);
        Some((listing.mark, listing.names))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Followed>> {
        self.followed.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
