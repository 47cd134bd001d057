//! Metadata by path: what stands there or that nothing does, trusted for the TTL; directories that are known in full.
//!
//! Rules that hold:
//! - An answer is dated to the moment before it was asked for, and is trusted until that moment plus the TTL. Nothing
//!   prolongs it but another answer or an own commit.
//! - An own commit is known at once. An answer that was asked for before the commit was known does not replace it: each
//!   change takes a stamp, a fetch remembers the stamp that it began at, and a name with a later stamp stays.
//! - A directory known in full answers for the names that it does not hold: they are absent.
//!
//! One short lock, never held across anything that waits.

mod applied;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::key::{Key, Prefix};
use crate::store::{Dir, Entry, Part};
use crate::version::{Head, Kind, VersionId};

use super::stats::MetadataStats;
pub(crate) use applied::touched;

/// The most names and directories that a mount knows at a time; beyond it the directories that were not used for longest
/// are forgotten.
pub const ENTRIES_MAX: usize = 200_000;

/// What is known about paths.
pub struct Heads {
    ttl: Duration,
    entries_max: usize,
    known: Mutex<Known>,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
}

/// The moment before a question goes to the server.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// When.
    pub at: Instant,
    /// The last change known then.
    pub stamp: u64,
}

#[derive(Default)]
struct Known {
    /// By the text of the directory: "" or ending in `/`.
    dirs: BTreeMap<Box<str>, Listing>,
    /// Names and directories, for the bound.
    size: usize,
    /// Grows with each own change and each invalidation.
    stamp: u64,
    /// Answers that were asked for before this stamp are not kept at all.
    void: u64,
    /// Grows with each use, for the choice of what to forget.
    tick: u64,
    /// Rows that known heads refer to for their bytes; some may be of heads that are forgotten by now.
    referred: HashSet<VersionId>,
}

#[derive(Default)]
struct Listing {
    names: HashMap<Box<str>, Name>,
    /// How many of them are directories.
    subdirs: u32,
    /// Known in full as of then.
    complete: Option<Instant>,
    /// Answers about names that are not known here are not kept if they were asked for before this stamp.
    void: u64,
    used: u64,
    /// The live names by [`sort_key`]; made when a page is first asked for, and kept up with each change from then on: who
    /// lists a directory that is being emptied asks for a page after each removal.
    order: Option<BTreeSet<Box<str>>>,
}

struct Name {
    entry: Option<Entry>,
    at: Instant,
    stamp: u64,
}

/// The directory and the last component of a path.
fn split(path: &Key) -> (&str, &str) {
    let text = path.as_str();
    let text = text.strip_suffix('/').unwrap_or(text);
    text.rfind('/').map_or(("", text), |at| text.split_at(at + 1))
}

/// Where a name stands in a listing: a directory sorts as if it ended in `/`.
fn sort_key(name: &str, entry: &Entry) -> String {
    match entry {
        Entry::File(_) => name.to_owned(),
        Entry::Dir(_) => format!("{name}/"),
    }
}

/// Without the bytes, which the data cache keeps.
fn bare(mut entry: Entry) -> Entry {
    if let Entry::File(head) | Entry::Dir(Dir { marker: Some(head), .. }) = &mut entry {
        head.data = None;
    }
    entry
}

impl Heads {
    /// Nothing known; what comes is trusted for `ttl`, and of more than `entries_max` names and directories the oldest are
    /// forgotten ([`ENTRIES_MAX`]).
    pub fn new(ttl: Duration, entries_max: usize) -> Self {
        let (hits, misses, evictions) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { ttl, entries_max, known: Mutex::default(), hits, misses, evictions }
    }

    /// How long an answer is trusted.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// What is known about a path and trusted; `None`: ask. Counts a hit or a miss.
    pub fn get(&self, path: &Key) -> Option<Option<Entry>> {
        let found = self.peek(path);
        if found.is_some() { &self.hits } else { &self.misses }.fetch_add(1, Relaxed);
        found
    }

    /// As [`Heads::get`], not counted.
    pub fn peek(&self, path: &Key) -> Option<Option<Entry>> {
        let now = Instant::now();
        let mut known = self.lock();
        known.tick += 1;
        let tick = known.tick;
        let (dir, name) = split(path);
        let listing = known.dirs.get_mut(dir)?;
        listing.used = tick;
        listing.answer(name, now, self.ttl).map(|(entry, _)| entry.cloned())
    }

    /// What remains of the TTL of what is known about a path; zero: nothing is known.
    pub fn trusted_for(&self, path: &Key) -> Duration {
        let now = Instant::now();
        let known = self.lock();
        let (dir, name) = split(path);
        let answer = known.dirs.get(dir).and_then(|listing| listing.answer(name, now, self.ttl));
        answer.map_or(Duration::ZERO, |(_, at)| self.ttl.saturating_sub(now.saturating_duration_since(at)))
    }

    /// To be taken before asking the server about paths. From here on their directories remember what voids the answer.
    pub fn mark(&self, paths: &[Key]) -> Mark {
        let mut known = self.lock();
        for path in paths {
            known.listing(split(path).0);
        }
        Mark { at: Instant::now(), stamp: known.stamp }
    }

    /// The same before listing a directory.
    pub fn mark_dir(&self, dir: &Prefix) -> Mark {
        let mut known = self.lock();
        known.listing(dir.as_str());
        Mark { at: Instant::now(), stamp: known.stamp }
    }

    /// The last change known.
    pub fn stamp(&self) -> u64 {
        self.lock().stamp
    }

    /// Keeps an answer of the server. Gives back what is to be believed: the answer, or what an own commit made of it
    /// since it was asked for.
    pub fn learn(&self, mark: Mark, path: &Key, entry: Option<Entry>) -> Option<Entry> {
        let mut known = self.lock();
        let (dir, name) = split(path);
        let believed = known.learn(mark, dir, name, entry);
        self.bound(&mut known);
        believed
    }

    /// Keeps the names of a page of a listing; gives back the page as it is to be believed.
    pub fn learn_page(&self, mark: Mark, dir: &Prefix, entries: Vec<(String, Entry)>) -> Vec<(String, Entry)> {
        let mut known = self.lock();
        let believed = entries
            .into_iter()
            .filter_map(|(name, entry)| {
                // The bytes stay with the page; what is kept goes without them.
                let believed = known.learn(mark, dir.as_str(), &name, Some(entry))?;
                Some((name, believed))
            })
            .collect();
        self.bound(&mut known);
        believed
    }

    /// All pages of a listing that began at `mark` are learnt and held these names: the directory is known in full.
    pub fn learn_complete(&self, mark: Mark, dir: &Prefix, listed: &HashSet<Box<str>>) {
        let mut known = self.lock();
        let void = known.void;
        let known = &mut *known;
        let Some(listing) = known.dirs.get_mut(dir.as_str()) else { return };
        if mark.stamp < void || mark.stamp < listing.void {
            return;
        }
        let before = listing.names.len();
        listing.names.retain(|name, known| known.stamp > mark.stamp || listed.contains(name));
        known.size -= before - listing.names.len();
        listing.subdirs = listing.names.values().map(Name::is_dir).map(u32::from).sum();
        listing.order = None;
        listing.complete = Some(mark.at);
    }

    /// A page of a directory that is known in full: at most `limit` entries that sort after `after`, and where the next
    /// one starts. `None`: ask the server.
    #[allow(clippy::type_complexity)]
    pub fn page(&self, dir: &Prefix, after: Option<&str>, limit: usize) -> Option<(Vec<(String, Entry)>, Option<String>)> {
        let now = Instant::now();
        let mut known = self.lock();
        known.tick += 1;
        let tick = known.tick;
        let page = known.dirs.get_mut(dir.as_str()).and_then(|listing| {
            listing.used = tick;
            let at = listing.complete?;
            (now.saturating_duration_since(at) < self.ttl).then(|| listing.page(after, limit))
        });
        if page.is_some() { &self.hits } else { &self.misses }.fetch_add(1, Relaxed);
        page
    }

    /// The bodies of small files that come after a path in its directory, in the order of a listing: at most `count`, none
    /// larger than `each`, together at most `total` bytes.
    pub fn small_files_after(&self, path: &Key, count: usize, each: u64, total: u64) -> Vec<Part> {
        let now = Instant::now();
        let mut known = self.lock();
        let (dir, name) = split(path);
        let Some(listing) = known.dirs.get_mut(dir) else { return Vec::new() };
        let (names, order) = listing.ordered();
        let mut left = total;
        let mut out = Vec::new();
        for place in order.range::<str, _>((Bound::Excluded(name), Bound::Unbounded)).take(count) {
            let Some(Name { entry: Some(Entry::File(head)), at, .. }) = names.get(place) else { continue };
            let meta = &head.meta;
            let is_inline = meta.kind == Kind::File && meta.layout.is_none() && meta.fault.is_none();
            if !is_inline || meta.size == 0 || meta.size > each || now.saturating_duration_since(*at) >= self.ttl {
                continue;
            }
            let Some(rest) = left.checked_sub(meta.size) else { break };
            left = rest;
            let (id, lineage) = meta.body.map_or((head.id, None), |body| (body, meta.lineage));
            out.push(Part { id, lineage, offset: 0, len: meta.size as u32 });
        }
        out
    }

    /// The directories that come after one in the directory that holds it, and are not known in full: at most `count`.
    pub fn dirs_after(&self, dir: &Key, count: usize) -> Vec<Prefix> {
        let now = Instant::now();
        let mut known = self.lock();
        let trusted = |at: Instant| now.saturating_duration_since(at) < self.ttl;
        let (parent, name) = split(dir);
        let Some(listing) = known.dirs.get_mut(parent) else { return Vec::new() };
        let (names, order) = listing.ordered();
        let after = order.range::<str, _>((Bound::Excluded(&*format!("{name}/")), Bound::Unbounded)).map(|place| &**place);
        let is_dir = |place: &&str| {
            let known = place.strip_suffix('/').and_then(|name| names.get(name));
            known.is_some_and(|known| matches!(known.entry, Some(Entry::Dir(_))) && trusted(known.at))
        };
        let dirs: Vec<String> = after.filter(is_dir).take(count).map(|place| format!("{parent}{place}")).collect();
        let is_open = |dir: &String| !known.dirs.get(dir.as_str()).is_some_and(|listing| listing.complete.is_some_and(trusted));
        dirs.iter().filter(|dir| is_open(dir)).filter_map(|dir| Prefix::new(dir).ok()).collect()
    }

    /// How many directories a directory holds; `None`: it is not known in full.
    pub fn subdirs(&self, dir: &Prefix) -> Option<u32> {
        let now = Instant::now();
        let known = self.lock();
        let listing = known.dirs.get(dir.as_str())?;
        let trusted = listing.complete.is_some_and(|at| now.saturating_duration_since(at) < self.ttl);
        trusted.then_some(listing.subdirs)
    }

    /// Whether a directory is known to hold nothing; `None`: ask.
    pub fn is_empty_dir(&self, dir: &Prefix) -> Option<bool> {
        let now = Instant::now();
        let known = self.lock();
        let listing = known.dirs.get(dir.as_str())?;
        let trusted = listing.complete.is_some_and(|at| now.saturating_duration_since(at) < self.ttl);
        trusted.then(|| listing.names.values().all(|name| name.entry.is_none()))
    }

    /// Forgets a path; for a key that ends in `/` everything below as well.
    pub fn invalidate(&self, key: &Key) {
        let mut known = self.lock();
        known.stamp += 1;
        known.forget(key);
        // Directories on the way to it may be there since.
        let mut above = key.parent().marker();
        while let Some(dir) = above.filter(|dir| !known.has_dir(dir)) {
            known.forget(&dir);
            above = dir.parent().marker();
        }
        if key.is_marker() {
            known.forget_tree(key.as_str());
        }
    }

    /// Forgets the names of one directory, not what lies deeper.
    pub fn invalidate_dir(&self, dir: &Prefix) {
        let mut known = self.lock();
        known.stamp += 1;
        known.drop_listing(dir.as_str());
        known.void = known.stamp;
    }

    /// Forgets everything.
    pub fn invalidate_all(&self) {
        self.lock().invalidate_all();
    }

    /// Counts and sizes.
    pub fn stats(&self) -> MetadataStats {
        let (hits, misses) = (self.hits.load(Relaxed), self.misses.load(Relaxed));
        let known = self.lock();
        MetadataStats {
            entries: known.dirs.values().map(|listing| listing.names.len() as u64).sum(),
            listings: known.dirs.values().filter(|listing| listing.complete.is_some()).count() as u64,
            hits,
            misses,
            hit_rate: super::stats::rate(hits, misses),
            evictions: self.evictions.load(Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn bound(&self, known: &mut Known) {
        if known.size > self.entries_max {
            self.evictions.fetch_add(known.evict(self.entries_max / 10 * 9), Relaxed);
        }
    }
}

impl Name {
    fn is_dir(&self) -> bool {
        matches!(self.entry, Some(Entry::Dir(_)))
    }

    /// Where it stands in a listing, if it is live.
    fn place(&self, name: &str) -> Option<Box<str>> {
        self.entry.as_ref().map(|entry| sort_key(name, entry).into_boxed_str())
    }
}

impl Listing {
    /// What is known about a name, and since when.
    fn answer(&self, name: &str, now: Instant, ttl: Duration) -> Option<(Option<&Entry>, Instant)> {
        let (entry, at) = match (self.names.get(name), self.complete) {
            (Some(name), _) => (name.entry.as_ref(), name.at),
            (None, Some(at)) => (None, at),
            (None, None) => return None,
        };
        (now.saturating_duration_since(at) < ttl).then_some((entry, at))
    }

    /// Keeps the order up with what is about to be known of a name.
    fn reorder(&mut self, name: &str, known: &Name) {
        let Some(order) = &mut self.order else { return };
        let (old, new) = (self.names.get(name).and_then(|known| known.place(name)), known.place(name));
        if old != new {
            old.map(|place| order.remove(&place));
            order.extend(new);
        }
    }

    /// The names, and the live ones in order.
    fn ordered(&mut self) -> (&HashMap<Box<str>, Name>, &BTreeSet<Box<str>>) {
        let names = &self.names;
        let order = self.order.get_or_insert_with(|| names.iter().filter_map(|(name, known)| known.place(name)).collect());
        (names, order)
    }

    fn page(&mut self, after: Option<&str>, limit: usize) -> (Vec<(String, Entry)>, Option<String>) {
        let (names, order) = self.ordered();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut places = order.range::<str, _>((from, Bound::Unbounded));
        let entry = |place: &str| {
            let name = place.strip_suffix('/').unwrap_or(place);
            Some((name.to_owned(), names.get(name)?.entry.clone()?))
        };
        let entries: Vec<_> = places.by_ref().take(limit).filter_map(|place| entry(place)).collect();
        let last = entries.last().map(|(name, entry)| sort_key(name, entry));
        let next = places.next().and(last);
        (entries, next)
    }
}

impl Known {
    fn learn(&mut self, mark: Mark, dir: &str, name: &str, entry: Option<Entry>) -> Option<Entry> {
        self.tick += 1;
        if let Some(listing) = self.dirs.get(dir) {
            match listing.names.get(name) {
                Some(known) if known.stamp > mark.stamp => return known.entry.clone(),
                Some(_) => {}
                None if mark.stamp < listing.void => return entry,
                None => {}
            }
        }
        if mark.stamp < self.void {
            return entry;
        }
        let kept = entry.clone().map(bare);
        self.put(dir, name, Name { entry: kept, at: mark.at, stamp: mark.stamp });
        entry
    }

    fn invalidate_all(&mut self) {
        self.stamp += 1;
        self.void = self.stamp;
        self.dirs.clear();
        self.referred.clear();
        self.size = 0;
    }

    /// The names of a directory, made if there are none.
    fn listing(&mut self, dir: &str) -> &mut Listing {
        if !self.dirs.contains_key(dir) {
            self.size += 1;
        }
        let listing = self.dirs.entry(dir.into()).or_default();
        listing.used = self.tick;
        listing
    }

    fn put(&mut self, dir: &str, name: &str, known: Name) {
        if let Some(body) = known.entry.as_ref().and_then(head_of).and_then(|head| head.meta.body) {
            if self.referred.len() >= ENTRIES_MAX {
                self.invalidate_all();
            }
            self.referred.insert(body);
        }
        let listing = self.listing(dir);
        listing.reorder(name, &known);
        listing.subdirs += u32::from(known.is_dir());
        let mut grown = 0;
        match listing.names.get_mut(name) {
            Some(old) => {
                listing.subdirs -= u32::from(old.is_dir());
                *old = known;
            }
            None => {
                listing.names.insert(name.into(), known);
                grown = 1;
            }
        }
        self.size += grown;
    }

    /// What stands at a path, however old.
    fn stale(&self, path: &Key) -> Option<Option<&Entry>> {
        let (dir, name) = split(path);
        let listing = self.dirs.get(dir)?;
        match listing.names.get(name) {
            Some(known) => Some(known.entry.as_ref()),
            None => listing.complete.map(|_| None),
        }
    }

    fn forget(&mut self, path: &Key) {
        let (dir, name) = split(path);
        let stamp = self.stamp;
        // Where there is no listing nothing is being asked either: see `mark`.
        if let Some(listing) = self.dirs.get_mut(dir) {
            if let Some(gone) = listing.names.remove(name) {
                listing.subdirs -= u32::from(gone.is_dir());
                self.size -= 1;
            }
            (listing.complete, listing.order, listing.void) = (None, None, stamp);
        }
    }

    /// Whether a directory is known to be there.
    fn has_dir(&self, dir: &Key) -> bool {
        let (above, name) = split(dir);
        let known = self.dirs.get(above).and_then(|listing| listing.names.get(name));
        known.is_some_and(|known| matches!(known.entry, Some(Entry::Dir(_))))
    }

    /// Forgets a directory and all below, and void what is being asked about them.
    fn forget_tree(&mut self, dir: &str) {
        let below: Vec<Box<str>> = self
            .dirs
            .range::<str, _>((Bound::Included(dir), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(dir))
            .map(|(key, _)| key.clone())
            .collect();
        for key in below {
            self.drop_listing(&key);
        }
        self.void = self.stamp;
    }

    fn drop_listing(&mut self, dir: &str) {
        if let Some(listing) = self.dirs.remove(dir) {
            self.size -= listing.names.len() + 1;
        }
    }

    /// Forgets the directories that were not used for longest; says how many names that were.
    fn evict(&mut self, down_to: usize) -> u64 {
        let mut by_use: Vec<(u64, Box<str>)> = self.dirs.iter().map(|(dir, listing)| (listing.used, dir.clone())).collect();
        by_use.sort_unstable();
        let before = self.size;
        for (_, dir) in by_use {
            if self.size <= down_to {
                break;
            }
            self.drop_listing(&dir);
        }
        // An answer that is on its way may be older than an own commit that was just forgotten.
        self.stamp += 1;
        self.void = self.stamp;
        (before - self.size) as u64
    }
}

/// The head of an entry, where it has a row.
pub fn head_of(entry: &Entry) -> Option<&Head> {
    match entry {
        Entry::File(head) => Some(head),
        Entry::Dir(dir) => dir.marker.as_ref(),
    }
}
