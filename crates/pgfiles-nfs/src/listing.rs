//! READDIR's cookies: a name's own hash, so that a cookie means the same for as long as there are directories, on every server
//! and after every restart, and the verifier never changes. Names are shown in the order of their hashes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgfiles_store::version::Kind;
use pgfiles_vfs::{DirEntry, InodeNo, Result, Vfs};

/// Names that are kept of directories that are being read, over all of them: about 100 bytes each.
const NAMES_MAX: usize = 400_000;
const NAMES_PER_CALL: usize = 1000;
/// 0 to 2 are no cookies of names (RFC 8881 §18.23.3).
const COOKIE_MIN: u64 = 3;

/// A name of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub cookie: u64,
    pub name: Vec<u8>,
    pub ino: InodeNo,
    pub kind: Kind,
}

/// A directory as it was, in the order of cookies.
pub(crate) type Snapshot = Arc<Vec<Name>>;

#[derive(Default)]
struct Inner {
    of: HashMap<InodeNo, Snapshot>,
    /// The oldest first.
    order: VecDeque<InodeNo>,
    names: usize,
}

/// Directories that are being read.
pub(crate) struct Listings {
    vfs: Arc<Vfs>,
    inner: Mutex<Inner>,
}

impl Listings {
    pub fn new(vfs: Arc<Vfs>) -> Self {
        Self { vfs, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A directory as it is now, or for who goes on reading as it was when somebody began.
    ///
    /// # Errors
    /// As [`Vfs::readdir`].
    pub async fn of(&self, dir: InodeNo, begins: bool) -> Result<Snapshot> {
        let known = if begins { None } else { self.inner().of.get(&dir).cloned() };
        if let Some(known) = known {
            return Ok(known);
        }
        let names = read(&self.vfs, dir).await?.into_iter().map(|name| Name {
            cookie: cookie(&name.name),
            name: name.name,
            ino: name.ino,
            kind: name.kind,
        });
        let snapshot = Arc::new(in_order(names.collect()));
        self.inner().put(dir, snapshot.clone());
        Ok(snapshot)
    }
}

/// All names of a directory as it is now, but `.` and `..`.
///
/// # Errors
/// As [`Vfs::opendir`] and [`Vfs::readdir`].
pub(crate) async fn read(vfs: &Arc<Vfs>, dir: InodeNo) -> Result<Vec<DirEntry>> {
    let stream = vfs.opendir(dir).await?;
    let (mut all, mut at) = (Vec::new(), 0);
    let result = loop {
        match vfs.readdir(stream, at, NAMES_PER_CALL, false).await {
            Ok(names) => {
                let Some(last) = names.last() else { break Ok(all) };
                at = last.next;
                // `.` and `..` have offsets 1 and 2 behind them.
                all.extend(names.into_iter().filter(|name| name.next > 2));
            }
            Err(error) => break Err(error),
        }
    };
    vfs.releasedir(stream);
    result
}

impl Inner {
    fn put(&mut self, dir: InodeNo, snapshot: Snapshot) {
        self.names += snapshot.len();
        self.order.push_back(dir);
        if let Some(before) = self.of.insert(dir, snapshot) {
            self.names -= before.len();
            self.order.retain(|other| *other != dir);
            self.order.push_back(dir);
        }
        while (self.names > NAMES_MAX || self.order.len() > 1000) && self.order.len() > 1 {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(gone) = self.of.remove(&oldest) {
                self.names -= gone.len();
            }
        }
    }
}

/// Sorted by cookie, each of which is there once: of two names with one hash, the second takes the next number.
fn in_order(mut names: Vec<Name>) -> Vec<Name> {
    names.sort_unstable_by(|a, b| (a.cookie, &a.name).cmp(&(b.cookie, &b.name)));
    let mut last = 0;
    for name in &mut names {
        if name.cookie <= last {
            name.cookie = last + 1;
        }
        last = name.cookie;
    }
    names
}

/// 63 bits of a hash: programs keep it in a signed `off_t`. FNV-1a, its bits mixed, because names differ in their last bytes.
fn cookie(name: &[u8]) -> u64 {
    let mut hash =
        name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((hash ^ (hash >> 33)) >> 2).max(COOKIE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_grow_and_names_of_one_hash_both_come() {
        let name = |cookie, name: &str| Name { cookie, name: name.into(), ino: InodeNo(9), kind: Kind::File };
        let sorted = in_order(vec![name(9, "c"), name(7, "b"), name(7, "a"), name(8, "d")]);
        let seen: Vec<(u64, &[u8])> = sorted.iter().map(|name| (name.cookie, &name.name[..])).collect();
        assert_eq!(seen, [(7, &b"a"[..]), (8, b"b"), (9, b"d"), (10, b"c")]);
    }

    #[test]
    fn a_cookie_is_that_of_the_name_and_fits_everywhere() {
        // Clients keep cookies: they are the same in every release.
        assert_eq!(cookie(b"file-000001"), cookie(b"file-000001"));
        let many: std::collections::HashSet<u64> = (0..100_000).map(|n| cookie(format!("file-{n:06}").as_bytes())).collect();
        assert_eq!(many.len(), 100_000);
        assert!(many.iter().all(|cookie| (COOKIE_MIN..1 << 62).contains(cookie)));
    }
}
