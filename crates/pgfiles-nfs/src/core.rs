//! What all operations work on: the filesystem, and what clients hold of it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgfiles_vfs::{Attr, HandleId, InodeNo, Vfs, VfsError};

use crate::filehandle::Handles;
use crate::grace::Grace;
use crate::listing::Listings;
use crate::nodes::Nodes;
use crate::outage::Outage;
use crate::proto::Status;
use crate::session::{ClientId, Sessions};
use crate::state::{Refused, States};

/// The lease where nothing else is said.
pub const LEASE: Duration = Duration::from_secs(30);
/// Exclusive creations whose verifiers are remembered.
const VERIFIERS_MAX: usize = 1000;

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct NfsConfig {
    /// How long a server that is away is waited for before an operation fails.
    pub retry_timeout: Duration,
    /// Where it is noted which clients have something open; `None`: nowhere, so that they take nothing back after a restart.
    pub clients_file: Option<PathBuf>,
    /// Users who may come, by AUTH_SYS; `None`: all.
    pub only_uid: Option<u32>,
    /// How long a client's state is safe without a word of it (`lease_time`), and how long one of before may take to be back.
    /// Whole seconds, at least one.
    pub lease: Duration,
    /// On a port, who speaks first is the only one for as long as it is connected. For the system's own client of one mount, where the
    /// system does not tell whose a connection is.
    pub one_connection: bool,
}

impl Default for NfsConfig {
    /// All may come, nothing is noted, the lease is [`LEASE`].
    fn default() -> Self {
        let retry_timeout = Duration::from_secs(60);
        Self { retry_timeout, clients_file: None, only_uid: None, lease: LEASE, one_connection: false }
    }
}

pub(crate) struct Core {
    pub vfs: Arc<Vfs>,
    pub config: NfsConfig,
    pub handles: Handles,
    pub nodes: Nodes,
    pub listings: Listings,
    pub sessions: Sessions,
    pub states: States,
    pub grace: Grace,
    pub outage: Outage,
    /// Another one in each life of the server: what was written and not committed before may be lost.
    pub write_verifier: [u8; 8],
    verifiers: Mutex<HashMap<InodeNo, [u8; 8]>>,
}

impl Core {
    pub fn new(vfs: Arc<Vfs>, config: NfsConfig, boot: u32, write_verifier: [u8; 8]) -> Self {
        Self {
            handles: Handles::new(&vfs.config().prefix),
            nodes: Nodes::new(vfs.clone()),
            listings: Listings::new(vfs.clone()),
            sessions: Sessions::new(boot, config.lease),
            states: States::new(boot),
            grace: Grace::new(config.clients_file.clone(), config.lease, Instant::now()),
            outage: Outage::new(config.retry_timeout),
            write_verifier,
            verifiers: Mutex::default(),
            vfs,
            config,
        }
    }

    /// What an error is told as; those that are not the client's are in the log.
    pub fn status(&self, error: &VfsError) -> Status {
        let status = self.outage.status(error, Instant::now());
        match status {
            Status::Io | Status::NoSpc | Status::ServerFault | Status::Delay => {
                tracing::warn!(?status, %error, "answered with an error");
            }
            _ => tracing::debug!(?status, %error, "answered with an error"),
        }
        status
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// [`Status::Stale`]; what the store says.
    pub async fn attr(&self, ino: InodeNo) -> Result<Attr, Status> {
        let attr = self.nodes.attr(ino).await.map_err(|error| self.status(&error))?;
        if attr.nlink == 0 && self.states.any_handle(ino).is_none() {
            // Its last name and its last open are gone.
            self.nodes.let_go(ino);
            return Err(Status::Stale);
        }
        Ok(attr)
    }

    /// Releases what was open.
    pub async fn release(&self, handles: impl IntoIterator<Item = HandleId>) {
        for handle in handles {
            self.vfs.release(handle).await;
        }
    }

    /// Takes everything from clients that are no more.
    pub async fn forget_clients(&self, clients: &[ClientId]) {
        for client in clients {
            self.release(self.states.drop_client(*client)).await;
        }
    }

    /// Tries something again after the client that is in its way has lost all, if its lease has run out.
    ///
    /// # Errors
    /// What is in the way of it, as that says it.
    pub async fn past_expired<T>(&self, attempt: impl Fn() -> Result<T, Refused> + Send) -> Result<T, Refused>
    where
        T: Send,
    {
        loop {
            let refused = match attempt() {
                Ok(done) => return Ok(done),
                Err(refused) => refused,
            };
            let client = match &refused {
                Refused::By(client) => *client,
                Refused::Lock(blocker) => blocker.client,
                Refused::Status(_) => return Err(refused),
            };
            let owner = self.sessions.owner_of(client);
            if !self.sessions.expire(client, Instant::now()) {
                return Err(refused);
            }
            tracing::info!(client, "a client whose lease has run out loses what it has: another wants it");
            self.release(self.states.drop_client(client)).await;
            if let Some((owner, _)) = owner {
                self.grace.forget(&owner);
            }
        }
    }

    /// With which verifier a file was created exclusively.
    pub fn verifier_of(&self, ino: InodeNo) -> Option<[u8; 8]> {
        self.verifiers.lock().unwrap_or_else(PoisonError::into_inner).get(&ino).copied()
    }

    /// Remembers it for as long as a client may send the same again: the session does that, but for one that is made anew.
    pub fn remember_verifier(&self, ino: InodeNo, verifier: [u8; 8]) {
        let mut verifiers = self.verifiers.lock().unwrap_or_else(PoisonError::into_inner);
        if verifiers.len() >= VERIFIERS_MAX {
            verifiers.clear();
        }
        verifiers.insert(ino, verifier);
    }
}
