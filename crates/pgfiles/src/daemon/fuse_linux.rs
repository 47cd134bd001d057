//! The kernel's FUSE.

use std::sync::Arc;

pub(super) use pgfiles_fuse::Session;
use pgfiles_fuse::{FuseError, MountOptions};
use pgfiles_vfs::Vfs;

use crate::config::{Owner, Settings};
use crate::daemon::Order;
use crate::exit::{Failure, Result};
use crate::mount_table;

/// Mounts, and serves from then on.
///
/// # Errors
/// What the kernel says, with the remedy.
pub(super) fn open(order: &Order, settings: &Settings, vfs: &Arc<Vfs>) -> Result<Session> {
    let options = MountOptions {
        allow_other: order.allow_other || (settings.owner == Owner::Stored && rustix::process::geteuid().is_root()),
        fsname: mount_table::SOURCE.into(),
        read_only: settings.read_only,
        ..MountOptions::new(&order.mountpoint)
    };
    let session = pgfiles_fuse::mount(vfs.clone(), &options, tokio::runtime::Handle::current());
    session.map_err(|error| mount_failed(&error))
}

fn mount_failed(error: &FuseError) -> Failure {
    let hint = match error {
        FuseError::Mount(_, cause) if cause.kind() == std::io::ErrorKind::PermissionDenied => {
            "; in a container mounting needs --cap-add SYS_ADMIN"
        }
        _ => "",
    };
    Failure::failed(format!("{error}{hint}"))
}
