//! Through which door programs come in: the kernel's FUSE, or NFS v4.1.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgfiles_nfs::mount::{self, Endpoint, MountError, Wanted};
use pgfiles_nfs::{Listener, NfsConfig, Server};
use pgfiles_vfs::Vfs;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use self::fuse::Session;
use super::Order;
use super::watch::Watch;
use crate::config::{Owner, Settings};
use crate::exit::{Failure, Result};
use crate::mount_table;
use crate::registry::Dirs;

#[cfg_attr(target_os = "linux", path = "fuse_linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "fuse_none.rs")]
mod fuse;

/// How long a request may wait for a server that is away before an NFS client is told to ask again.
pub(super) const NFS_RETRY: Duration = Duration::from_secs(5);

/// How often it is looked whether the mount is still there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Which door.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// `/dev/fuse`, on the mount point.
    #[default]
    Fuse,
    /// NFS v4.1, which the system's client mounts on the mount point, with these options of its own.
    NfsMount {
        /// With commas between.
        options: Option<String>,
    },
    /// A port that NFS v4.1 is served on; nothing is mounted.
    NfsPort(SocketAddr),
    /// A Unix socket, the same.
    NfsSocket(#[serde(with = "crate::registry::path_text")] PathBuf),
}

impl Door {
    fn options(&self) -> Option<&str> {
        match self {
            Self::NfsMount { options } => options.as_deref(),
            Self::Fuse | Self::NfsPort(_) | Self::NfsSocket(_) => None,
        }
    }

    /// As the registry and `status` name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fuse => "fuse",
            Self::NfsMount { .. } | Self::NfsPort(_) | Self::NfsSocket(_) => "nfs",
        }
    }
}

/// An open door.
pub(super) enum Front {
    Fuse(Session),
    /// Until it is unmounted there.
    NfsMount(PathBuf, Watch),
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
    if order.door == Door::Fuse {
        return Ok((Front::Fuse(fuse::open(order, settings, vfs)?), None));
    }
    let mine = settings.owner == Owner::Mounter && !order.allow_other;
    let config = NfsConfig {
        retry_timeout: settings.retry_timeout,
        clients_file: Some(clients_file(order, settings, dirs)?),
        only_uid: mine.then(|| rustix::process::getuid().as_raw()),
        one_connection: matches!(order.door, Door::NfsMount { .. }) && cfg!(not(target_os = "linux")),
        ..NfsConfig::default()
    };
    let server = Server::new(vfs.clone(), config);
    let listener = match &order.door {
        Door::Fuse | Door::NfsMount { .. } => {
            let port = mount_nfs(order, settings, &server).await?;
            let watch = Watch::start(&order.mountpoint, port)?;
            return Ok((Front::NfsMount(order.mountpoint.clone(), watch), Some(server)));
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
    if let Some(address) = listener.address() {
        let (host, port) = (address.ip(), address.port());
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

/// Serves, and has the system mount what is served: on macOS over a socket, or where that is refused, and elsewhere, over a port,
/// which is returned.
async fn mount_nfs(order: &Order, settings: &Settings, server: &Arc<Server>) -> Result<Option<SocketAddr>> {
    let attempt = |endpoint: Endpoint, listener: Listener| {
        tokio::spawn(server.clone().serve(listener));
        let wanted = Wanted {
            mountpoint: order.mountpoint.clone(),
            read_only: settings.read_only,
            options: order.door.options().map(str::to_owned),
        };
        async move {
            let mounting = tokio::task::spawn_blocking(move || mount::mount(&endpoint, &wanted)).await;
            mounting.unwrap_or_else(|error| Err(MountError::Refused(error.to_string())))
        }
    };
    if cfg!(target_os = "macos") {
        let path = order.socket.with_extension("nfs");
        let listener = Listener::unix(path.clone()).map_err(|error| Failure::io("cannot listen on a socket", &error))?;
        match attempt(Endpoint::Socket(path), listener).await {
            Ok(()) => return Ok(None),
            Err(error) => tracing::warn!(%error, "not mounted over a socket: a port is tried"),
        }
    }
    let listener = Listener::tcp((Ipv4Addr::LOCALHOST, 0).into()).await;
    let listener = listener.map_err(|error| Failure::io("cannot listen on a port of this machine", &error))?;
    let address = listener.address().ok_or_else(|| Failure::failed("a port without an address"))?;
    attempt(Endpoint::Port(address), listener).await.map(|()| Some(address)).map_err(|error| {
        let at = order.mountpoint.display();
        let remedy = match &error {
            MountError::NoProgram(_) => "install it, or use `--backend fuse`",
            _ if !cfg!(target_os = "macos") => "mounting NFS takes root and a kernel with NFS 4.1 (`modprobe nfsv4`)",
            _ => "the directory must be your own",
        };
        Failure::failed(format!("cannot mount on {at}: {error}; {remedy}"))
    })
}

/// Where it is noted who has files open: the same for the same files, so that a restarted server finds it.
fn clients_file(order: &Order, settings: &Settings, dirs: &Dirs) -> Result<PathBuf> {
    let what = Sha256::digest(format!("{}\0{}", order.place, settings.prefix.as_str()));
    let name: String = what.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    dirs.nfs_clients_path(&name)
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
            Self::NfsMount(mountpoint, _watch) => {
                while mount_table::is_local_nfs(&mountpoint) {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
            Self::Nfs => std::future::pending().await,
        }
    }
}
