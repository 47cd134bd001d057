//! Which clients had something open when the daemon ended, so that they may take it back and nobody else takes it before
//! (RFC 8881 §8.4.2). One small file beside the daemon's; without one, nobody had.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

/// A longer file is none of ours.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug)]
struct Inner {
    until: Instant,
    /// Who had something and is not done with taking it back.
    waiting: BTreeSet<Vec<u8>>,
    /// Who has something.
    recorded: BTreeSet<Vec<u8>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Grace {
    file: Option<PathBuf>,
    inner: Mutex<Inner>,
}

impl Grace {
    /// Begins the grace, which is over at once where nobody had anything.
    pub fn new(file: Option<PathBuf>, lease: Duration, now: Instant) -> Self {
        let waiting = file.as_deref().map(read).unwrap_or_default();
        if !waiting.is_empty() {
            tracing::info!(clients = waiting.len(), "clients of before may take back what they had open");
        }
        Self { file, inner: Mutex::new(Inner { until: now + lease, recorded: waiting.clone(), waiting }) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody may open anything.
    pub fn is_over(&self, now: Instant) -> bool {
        let inner = self.inner();
        inner.waiting.is_empty() || now >= inner.until
    }

    /// Whether a client may take something back.
    pub fn may_reclaim(&self, owner: &[u8], now: Instant) -> bool {
        let inner = self.inner();
        now < inner.until && inner.waiting.contains(owner)
    }

    /// A client has taken back all that it wants.
    pub fn complete(&self, owner: &[u8]) {
        self.inner().waiting.remove(owner);
    }

    /// A client is about to have something open. What is not written down cannot be taken back: it goes on, and the log says so.
    pub fn record(&self, owner: &Bytes) {
        let mut inner = self.inner();
        if inner.recorded.insert(owner.to_vec()) {
            self.write(&inner);
        }
    }

    /// A client is no more.
    pub fn forget(&self, owner: &[u8]) {
        let mut inner = self.inner();
        inner.waiting.remove(owner);
        if inner.recorded.remove(owner) {
            self.write(&inner);
        }
    }

    fn write(&self, inner: &Inner) {
        let Some(file) = &self.file else { return };
        if let Err(error) = write(file, &inner.recorded) {
            tracing::warn!(file = %file.display(), %error, "cannot note which clients have files open: after a restart they open them anew");
        }
    }
}

fn read(file: &Path) -> BTreeSet<Vec<u8>> {
    let len = std::fs::metadata(file).map_or(0, |meta| meta.len());
    if len == 0 || len > FILE_BYTES_MAX {
        return BTreeSet::new();
    }
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(from_hex).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2) && !digits.is_empty())?;
    Some(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit) as u8).collect())
}

/// Whole or not at all.
fn write(file: &Path, owners: &BTreeSet<Vec<u8>>) -> std::io::Result<()> {
    let new = file.with_extension("new");
    let mut out = std::fs::File::create(&new)?;
    for owner in owners {
        let line: String = owner.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{line}")?;
    }
    out.sync_data()?;
    std::fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_something_may_take_it_back_until_the_lease_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = Some(dir.path().join("clients"));
        let (now, lease) = (Instant::now(), Duration::from_secs(30));
        let first = Grace::new(file.clone(), lease, now);
        assert!(first.is_over(now));
        for owner in ["a\n", "b", "c"] {
            first.record(&Bytes::from(owner));
        }
        first.forget(b"c");
        let second = Grace::new(file.clone(), lease, now);
        assert!(!second.is_over(now) && second.is_over(now + lease));
        assert!(second.may_reclaim(b"a\n", now) && !second.may_reclaim(b"c", now));
        second.complete(b"a\n");
        assert!(!second.may_reclaim(b"a\n", now) && !second.is_over(now));
        second.complete(b"b");
        assert!(second.is_over(now));
        assert!(Grace::new(file, lease, now).may_reclaim(b"b", now), "it has it still");
    }

    #[test]
    fn a_spoiled_file_is_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("clients");
        std::fs::write(&file, b"xyz\n0\n\n\xff").unwrap();
        assert!(Grace::new(Some(file), Duration::from_secs(30), Instant::now()).is_over(Instant::now()));
    }
}
