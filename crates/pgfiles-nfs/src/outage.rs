//! What a client is told while the server is away: to ask again (NFS4ERR_DELAY), until `PGFILES_RETRY_TIMEOUT` has passed; from
//! then on that it failed, as everywhere (SPEC §6).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgfiles_vfs::VfsError;

use crate::convert;
use crate::proto::Status;

/// Failures that are further apart are two outages.
const APART: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(crate) struct Outage {
    patience: Duration,
    /// The first and the last failure.
    seen: Mutex<Option<(Instant, Instant)>>,
}

impl Outage {
    pub fn new(patience: Duration) -> Self {
        Self { patience, seen: Mutex::default() }
    }

    /// What an error is told as.
    pub fn status(&self, error: &VfsError, now: Instant) -> Status {
        let VfsError::Unavailable(_) = error else { return convert::status(error) };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let first = match *seen {
            Some((first, last)) if now.saturating_duration_since(last) < APART => first,
            _ => now,
        };
        *seen = Some((first, now));
        if now.saturating_duration_since(first) < self.patience { Status::Delay } else { Status::Io }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pgfiles_store::StoreError;
    use pgfiles_store::error::Kind;

    use super::*;

    #[test]
    fn it_is_waited_for_so_long() {
        let outage = Outage::new(Duration::from_secs(60));
        let error = VfsError::Unavailable(Arc::new(StoreError::new(Kind::Unavailable, "away")));
        let start = Instant::now();
        let at = |seconds| outage.status(&error, start + Duration::from_secs(seconds));
        assert_eq!(
            [0, 20, 40, 59, 61, 80].map(at),
            [Status::Delay, Status::Delay, Status::Delay, Status::Delay, Status::Io, Status::Io]
        );
        assert_eq!(at(200), Status::Delay, "another one");
        assert_eq!(outage.status(&VfsError::NotFound, start), Status::NoEnt);
    }
}
