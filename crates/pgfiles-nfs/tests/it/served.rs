//! A server over the reference store, on a port of this machine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pgfiles_nfs::{Listener, NfsConfig, Server};
use pgfiles_store::Prefix;
use pgfiles_store::clock::SystemClock;
use pgfiles_store::layer::{Stack, StackConfig};
use pgfiles_store::mem::MemStore;
use pgfiles_store::store::Store as _;
use pgfiles_testkit::fault::FaultStore;
use pgfiles_testkit::nfs_client::{Client, Connection, User};
use pgfiles_vfs::{Vfs, VfsConfig};
use tokio::runtime::Runtime;

pub struct Served {
    pub runtime: Runtime,
    pub vfs: Arc<Vfs>,
    pub server: Arc<Server>,
    pub store: Arc<MemStore>,
    pub faults: Arc<FaultStore>,
    pub address: SocketAddr,
    config: NfsConfig,
}

pub fn served() -> Served {
    served_with(NfsConfig::default())
}

/// A server whose clients take back what they had from the next.
pub fn served_again_later(dir: &std::path::Path) -> Served {
    served_with(NfsConfig { clients_file: Some(dir.join("clients")), ..NfsConfig::default() })
}

/// A server that is set up in some other way.
pub fn served_with(config: NfsConfig) -> Served {
    over(Arc::new(MemStore::new()), config)
}

fn over(store: Arc<MemStore>, config: NfsConfig) -> Served {
    let runtime = Runtime::new().unwrap();
    let faults = Arc::new(FaultStore::new(store.clone()));
    let (vfs, server, listener) = runtime.block_on(async {
        let settings = StackConfig { retry_timeout: Duration::from_millis(200), ..StackConfig::default() };
        let stack = Stack::new(faults.clone(), settings);
        let place = VfsConfig::new(Prefix::new("agents/7").unwrap(), "test");
        let vfs = Vfs::new(stack.store, stack.fresh, place, Arc::new(SystemClock));
        let server = Server::new(vfs.clone(), config.clone());
        (vfs, server, Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap())
    });
    let address = listener.address().unwrap();
    runtime.spawn(server.clone().serve(listener));
    Served { runtime, vfs, server, store, faults, address, config }
}

impl Served {
    pub fn connect(&self) -> Connection {
        Connection::tcp(self.address)
    }

    pub fn client(&self) -> Client {
        self.client_of("a client")
    }

    pub fn client_of(&self, owner: &str) -> Client {
        Client::new(self.connect(), owner.as_bytes(), 1)
    }

    pub fn client_as(&self, owner: &str, uid: u32, gid: u32, groups: &[u32]) -> Client {
        let mut connection = self.connect();
        connection.user = Some(User { uid, gid, groups: groups.to_vec() });
        Client::new(connection, owner.as_bytes(), 1)
    }

    /// The daemon ends as it should, and another one serves the same store.
    pub fn restart(self) -> Self {
        self.runtime.block_on(async {
            self.server.end().await;
            self.vfs.shutdown().await.unwrap();
        });
        let (store, config) = (self.store.clone(), self.config.clone());
        drop(self);
        over(store, config)
    }

    /// The daemon is gone without a word, and another one serves the same store.
    pub fn killed(self) -> Self {
        let (store, config) = (self.store.clone(), self.config.clone());
        // Nothing of it runs any more.
        self.runtime.shutdown_timeout(Duration::ZERO);
        over(store, config)
    }

    /// Versions of a path's key, the newest first.
    pub fn versions(&self, path: &str) -> usize {
        let key = pgfiles_store::Key::new(&format!("agents/7/{path}")).unwrap();
        self.runtime.block_on(self.store.versions(&key, None, 1000)).unwrap().len()
    }
}
