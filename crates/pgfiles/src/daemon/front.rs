//! Through which door programs come in: the kernel's FUSE, or NFS v4.1.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgfiles_fuse::{FuseError, MountOptions, Session};
use pgfiles_nfs::{Listener, NfsConfig, Server};
use pgfiles_vfs::Vfs;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Order;
use crate::config::{Owner, Settings};
use crate::exit::{Failure, Result};
use crate::mount_table;
use crate::registry::Dirs;

/// How long a request may wait for a server that is away before an NFS client is told to ask again.
pub(super) const NFS_RETRY: Duration = Duration::from_secs(5);

/// Which door.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// `/dev/fuse`, on the mount point.
    #[default]
    Fuse,
    /// A port that NFS v4.1 is served on; nothing is mounted.
    NfsPort(SocketAddr),
    /// A Unix socket, the same.
    NfsSocket(#[serde(with = "crate::registry::path_text")] PathBuf),
}

impl Door {
    /// As the registry and `status` name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fuse => "fuse",
            Self::NfsPort(_) | Self::NfsSocket(_) => "nfs",
        }
    }
}

/// An open door.
pub(super) enum Front {
    Fuse(Session),
    Nfs,
}

/// Opens it. With the server, where it is one of NFS.
///
/// # Errors
/// What the system says, with the remedy.
pub(super) async fn open(
    order: &Order,
    settings: &Settings,
    dirs: &Dirs,
    vfs: &Arc<Vfs>,
) -> Result<(Front, Option<Arc<Server>>)> {
    let listener = match &order.door {
        Door::Fuse => {
            let options = MountOptions {
                allow_other: order.allow_other || (settings.owner == Owner::Stored && rustix::process::geteuid().is_root()),
                fsname: mount_table::SOURCE.into(),
                read_only: settings.read_only,
                ..MountOptions::new(&order.mountpoint)
            };
            let session = pgfiles_fuse::mount(vfs.clone(), &options, tokio::runtime::Handle::current());
            return Ok((Front::Fuse(session.map_err(|error| mount_failed(&error))?), None));
        }
        Door::NfsPort(address) => {
            let bound = Listener::tcp(*address).await;
            bound.map_err(|error| Failure::io(format!("cannot listen on {address}: choose another with --listen"), &error))?
        }
        Door::NfsSocket(path) => {
            let bound = Listener::unix(path.clone());
            bound.map_err(|error| Failure::io(format!("cannot listen on {}", path.display()), &error))?
        }
    };
    let mine = settings.owner == Owner::Mounter && !order.allow_other;
    let config = NfsConfig {
        retry_timeout: settings.retry_timeout,
        clients_file: Some(clients_file(order, settings, dirs)?),
        only_uid: mine.then(|| rustix::process::getuid().as_raw()),
    };
    let server = Server::new(vfs.clone(), config);
    if let Some(address) = listener.address() {
        let port = address.port();
        let host = address.ip();
        crate::output::say(format!(
            "serving NFS v4.1 on {address}: mount -t nfs4 -o vers=4.1,proto=tcp,port={port} {host}:/ DIRECTORY"
        ));
        if !host.is_loopback() {
            crate::output::say("whoever can reach that address can read and write as any user: NFS believes what a client says");
        }
    }
    tokio::spawn(server.clone().serve(listener));
    Ok((Front::Nfs, Some(server)))
}

/// Where it is noted who has files open: the same for the same files, so that a restarted server finds it.
fn clients_file(order: &Order, settings: &Settings, dirs: &Dirs) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let dir = dirs.state.join("nfs");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map_err(|error| Failure::io(format!("cannot make {}", dir.display()), &error))?;
    let what = Sha256::digest(format!("{}\0{}", order.place, settings.prefix.as_str()));
    let name: String = what.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(dir.join(name + ".clients"))
}

impl Front {
    /// Returns when programs cannot come in any more: it was unmounted from outside.
    pub(super) async fn closed(self) {
        match self {
            Self::Fuse(session) => {
                let waited = tokio::task::spawn_blocking(move || session.wait()).await;
                if let Ok(Err(error)) = waited {
                    tracing::error!(%error, "serving ended");
                }
            }
            Self::Nfs => std::future::pending().await,
        }
    }
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
