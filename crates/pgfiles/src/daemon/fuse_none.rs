//! A system whose kernel has no FUSE.

use std::convert::Infallible;
use std::sync::Arc;

use pgfiles_vfs::Vfs;

use crate::config::Settings;
use crate::daemon::Order;
use crate::exit::{Failure, Result};

/// There is none.
pub(in crate::daemon) struct Session(Infallible);

impl Session {
    /// Never called.
    pub(super) fn wait(self) -> std::result::Result<(), Infallible> {
        Err(self.0)
    }
}

/// # Errors
/// Always.
pub(super) fn open(_: &Order, _: &Settings, _: &Arc<Vfs>) -> Result<Session> {
    Err(Failure::failed("there is no FUSE here: use `--backend nfs`"))
}
