//! A directory stream: names are fetched page by page and then keep their places, so that an offset means the same
//! name for as long as the directory is open, whatever comes and goes meanwhile.

use std::collections::HashSet;
use std::time::Duration;

use pgfiles_store::key::Name;
use pgfiles_store::store::Cursor;
use pgfiles_store::version::Kind;

use crate::attr::{Attr, InodeNo};

/// Names asked for in one page.
pub(crate) const PAGE_NAMES: u32 = 1_000;

/// A name as `readdir` shows it.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// Where the stream goes on after this name.
    pub next: u64,
    /// The name, `.` and `..` included.
    pub name: Vec<u8>,
    /// What it stands for.
    pub ino: InodeNo,
    /// What that is.
    pub kind: Kind,
    /// For readdirplus: its attributes and how long they may be trusted; counts as a lookup. Not for `.` and `..`.
    pub plus: Option<(Attr, Duration)>,
}

/// What a stream has fetched so far. Offsets 0 and 1 are `.` and `..`; `names[i]` is offset i + 2.
#[derive(Default)]
pub(crate) struct Listing {
    pub names: Vec<(Name, InodeNo, Kind)>,
    pub seen: HashSet<Name>,
    /// Names that had no row when a page was asked for: published since, they may be on none.
    pub pending: Vec<(Name, InodeNo)>,
    pub next: Option<Cursor>,
    pub started: bool,
    pub complete: bool,
}
