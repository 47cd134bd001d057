//! What a run stands on: the server, the layers of each mount, and the client that is no mount.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use pgfiles_store::batch::{Batch, Delete, Op, Precondition, Put};
use pgfiles_store::clock::{Clock, SystemClock};
use pgfiles_store::error::Kind as StoreKind;
use pgfiles_store::key::{Key, Prefix};
use pgfiles_store::layer::log::Mode;
use pgfiles_store::layer::{Stack, StackConfig};
use pgfiles_store::layout;
use pgfiles_store::mem::MemStore;
use pgfiles_store::pg::connect::{Connector, Need};
use pgfiles_store::pg::dsn::{Dsn, Environment};
use pgfiles_store::pg::{PgOptions, PgStore, schema};
use pgfiles_store::store::{HEARTBEAT_EXPIRY_SECONDS, Server, Store};
use pgfiles_store::version;
use pgfiles_vfs::{Vfs, VfsConfig};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use super::Plan;
use super::history::PUBLISH_AFTER_MS;
use crate::clock::RuntimeClock;
use crate::fault::{Call, Fault, FaultStore};
use crate::postgres::{Database, Postgres};

/// Time to live of metadata where nobody but the mount itself says that anything changed.
const LONG: Duration = Duration::from_secs(100 * 24 * 3600);

/// What a run stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A [`MemStore`], without layers.
    Memory,
    /// All layers, of each mount its own. Told: metadata is trusted until somebody says that it changed; else never.
    Layers {
        /// What `close(2)` promises.
        mode: Mode,
        /// See above.
        told: bool,
    },
    /// The same, on a server that loses every seventh reply of a commit, refuses connections now and then, and, so asked,
    /// dies and forgets what was not on its disk.
    Faults {
        /// Every so many commits; 0: never.
        crash_every: u64,
    },
    /// Fails every so manieth commit, which no layer makes good: what the test of the shrinker is tried with.
    Broken {
        /// Which ones.
        every: u64,
    },
    /// All layers, on Postgres, with a client that speaks SQL.
    Postgres,
}

impl Kind {
    /// Whether time passes only when a step says so.
    pub fn is_timed(self) -> bool {
        matches!(self, Kind::Memory | Kind::Layers { .. } | Kind::Broken { .. })
    }
}

/// The runtime that a run lives in. Time stands still in it but where nothing is to be done, except with a real server.
pub fn runtime(on: Kind) -> Runtime {
    let mut builder = Builder::new_current_thread();
    match on {
        Kind::Postgres => builder.enable_all(),
        Kind::Memory | Kind::Layers { .. } | Kind::Faults { .. } | Kind::Broken { .. } => {
            builder.enable_time().start_paused(true)
        }
    };
    builder.build().expect("a runtime")
}

/// A server, and who writes to it besides the mounts.
pub struct Ground {
    on: Kind,
    /// The server itself.
    pub server: Arc<dyn Server>,
    /// The same, where it is one.
    pub memory: Option<Arc<MemStore>>,
    faults: Option<Arc<FaultStore>>,
    sql: Option<tokio_postgres::Client>,
    /// Kept while it is used.
    _database: Option<Database>,
    /// Whose time it is.
    pub clock: Arc<dyn Clock>,
    /// What all mounts show.
    pub prefix: Prefix,
}

/// One mount, and its own layers.
pub struct Mounted {
    /// The filesystem.
    pub vfs: Arc<Vfs>,
    stack: Option<Stack>,
}

impl Ground {
    /// An empty server.
    pub async fn new(plan: &Plan) -> Result<Self> {
        let prefix = Prefix::new("model")?;
        let bare = |server, memory, clock| Self {
            on: plan.on,
            server,
            memory,
            faults: None,
            sql: None,
            _database: None,
            clock,
            prefix: prefix.clone(),
        };
        if plan.on == Kind::Postgres {
            let database = Postgres::shared().database().await;
            let dsn = Dsn::parse(&database.dsn(), &Environment::default())?;
            let mut connection = Connector::new(dsn, "test").open(Need::Server).await?;
            schema::init(&mut connection.client).await?;
            let store = PgStore::connect(&database.dsn_tcp(), PgOptions::default()).await?;
            let sql = Some(database.connect().await);
            return Ok(Self { sql, _database: Some(database), ..bare(Arc::new(store), None, Arc::new(SystemClock)) });
        }
        let clock = Arc::new(RuntimeClock::new(plan.seed));
        let memory = Arc::new(MemStore::with_clock(clock.clone()));
        let faults = Arc::new(FaultStore::new(memory.clone()));
        match plan.on {
            Kind::Faults { .. } => {
                faults.every(Call::Commit, 7, Fault::LoseReply);
                faults.every(Call::Commit, 11, Fault::Fail(StoreKind::Unavailable));
                faults.every(Call::Lookup, 50, Fault::Fail(StoreKind::Unavailable));
            }
            Kind::Broken { every } => faults.every(Call::Commit, every, Fault::Fail(StoreKind::Invalid)),
            Kind::Memory | Kind::Layers { .. } | Kind::Postgres => {
                return Ok(bare(memory.clone(), Some(memory), clock));
            }
        }
        Ok(Self { faults: Some(faults.clone()), ..bare(faults, Some(memory), clock) })
    }

    /// A mount, with an id of its own.
    pub fn mount(&self, plan: &Plan, life: usize) -> Mounted {
        let mut config = VfsConfig::new(self.prefix.clone(), &format!("mount-{life}"));
        let after = if self.on.is_timed() { Duration::from_millis(PUBLISH_AFTER_MS as u64) } else { LONG };
        config.publish_after = after;
        config.young_seconds = plan.young_seconds;
        config.cut_after = 1;
        config.dirty_bytes_max = plan.dirty_bytes_max;
        let layers = |mode, ttl| {
            let settings = StackConfig { durability: mode, metadata_ttl: ttl, ..StackConfig::default() };
            Stack::new(self.server.clone(), settings)
        };
        let stack = match self.on {
            Kind::Memory | Kind::Broken { .. } => None,
            Kind::Layers { mode, told } => Some(layers(mode, if told { LONG } else { Duration::ZERO })),
            Kind::Faults { .. } | Kind::Postgres => Some(layers(Mode::Close, LONG)),
        };
        let vfs = match &stack {
            Some(stack) => Vfs::new(stack.store.clone(), stack.fresh.clone(), config, self.clock.clone()),
            None => Vfs::new(self.server.clone(), Arc::new(Duration::ZERO), config, self.clock.clone()),
        };
        Mounted { vfs, stack }
    }

    /// The server dies now and then.
    pub fn crash(&self, nth: u64) {
        if let (Kind::Faults { crash_every }, Some(faults), Some(memory)) = (self.on, &self.faults, &self.memory)
            && crash_every > 0
            && nth.is_multiple_of(crash_every)
        {
            faults.outage(|| memory.crash());
        }
    }

    /// Ends the faults.
    pub fn heal(&self) {
        if let Some(faults) = &self.faults {
            faults.heal();
        }
    }

    /// The store, past all layers and faults.
    pub fn store(&self) -> &dyn Store {
        match &self.memory {
            Some(memory) => &**memory,
            None => &*self.server,
        }
    }

    /// Rows of bodies become as old as those have to be that are swept.
    pub async fn let_bodies_age(&self) -> Result<()> {
        if let Some(sql) = &self.sql {
            let older = "UPDATE pgfiles SET meta = meta || '{\"created_at\":\"2000-01-01T00:00:00Z\"}' WHERE left(key, 1) = '/' AND meta ? 'lin'";
            sql.execute(older, &[]).await?;
        } else {
            tokio::time::advance(Duration::from_secs(HEARTBEAT_EXPIRY_SECONDS + 1)).await;
        }
        Ok(())
    }

    /// Whether rows can be changed one by one.
    pub fn has_sql(&self) -> bool {
        self.sql.is_some()
    }

    /// Another client saves a file, as `pgfiles batch` or `pgfiles_write()` does.
    pub async fn put(&self, key: &Key, data: Vec<u8>, by_sql: bool) -> Result<()> {
        if let Some(sql) = self.sql.as_ref().filter(|_| by_sql) {
            sql.execute("SELECT pgfiles_write($1, $2)", &[&key.as_str(), &data]).await?;
            return Ok(());
        }
        let data = Bytes::from(data);
        if data.len() as u64 > layout::INLINE_BYTES_MAX {
            bail!("{} bytes are a body of chunks", data.len());
        }
        let now = Some(self.clock.now());
        let size = data.len() as u64;
        let meta = version::Meta { size, etag: Some(layout::etag(&data)), mtime: now, ctime: now, ..version::Meta::default() };
        let fields = |names: &[&str]| pgfiles_store::batch::fields(&meta, names);
        let defaults = version::Meta { ino: Some(self.clock.ino()), ..version::Meta::default() };
        let put = Put {
            id: self.clock.version_id(),
            key: key.clone(),
            meta: fields(&["kind", "size", "etag", "mtime", "ctime"]),
            defaults: pgfiles_store::batch::fields(&defaults, &["ino"]),
            data: Some(data),
            expect: Precondition::Any,
            extends: None,
            drops: Vec::new(),
            grown: None,
        };
        self.commit(Op::Put(put)).await
    }

    /// Another client deletes a file, as `pgfiles batch` or `pgfiles_delete()` does.
    pub async fn delete(&self, key: &Key, by_sql: bool) -> Result<()> {
        if let Some(sql) = self.sql.as_ref().filter(|_| by_sql) {
            sql.execute("SELECT pgfiles_delete($1)", &[&key.as_str()]).await?;
            return Ok(());
        }
        self.commit(Op::Delete(Delete { id: self.clock.version_id(), key: key.clone(), expect: Precondition::Any })).await
    }

    /// One operation of a client that is no mount.
    pub async fn commit(&self, op: Op) -> Result<()> {
        self.store().commit(Batch::one(op, &Arc::new(json!({"mount": "nobody"})))).await.map(drop).context("commit")
    }

    /// A plain INSERT.
    pub async fn insert(&self, key: &Key, data: Vec<u8>) -> Result<()> {
        match (&self.sql, &self.memory) {
            (Some(sql), _) => {
                sql.execute("INSERT INTO pgfiles(key, data) VALUES ($1, $2)", &[&key.as_str(), &data]).await?;
            }
            (None, Some(memory)) => drop(memory.insert(key, json!({}), Some(data.into()))),
            (None, None) => bail!("neither SQL nor memory"),
        }
        Ok(())
    }

    /// A plain UPDATE of the head's data; how many rows.
    pub async fn update(&self, key: &Key, data: Vec<u8>) -> Result<u64> {
        self.sql("UPDATE pgfiles SET data = $2 WHERE key = $1 AND ", key, &[&key.as_str(), &data]).await
    }

    /// A plain DELETE of the head; how many rows.
    pub async fn delete_row(&self, key: &Key) -> Result<u64> {
        self.sql("DELETE FROM pgfiles WHERE key = $1 AND ", key, &[&key.as_str()]).await
    }

    async fn sql(&self, text: &str, key: &Key, values: &[&(dyn tokio_postgres::types::ToSql + Sync)]) -> Result<u64> {
        let Some(sql) = &self.sql else { bail!("{key}: there is no SQL here") };
        let head = "(meta->>'version')::bigint = (SELECT max((meta->>'version')::bigint) FROM pgfiles WHERE key = $1)";
        Ok(sql.execute(&format!("{text}{head}"), values).await?)
    }
}

impl Mounted {
    /// What this mount committed is on the server.
    pub async fn settle(&self) -> Result<()> {
        Ok(self.vfs.store().sync().await?)
    }

    /// Others changed anything.
    pub fn changed(&self, keys: Option<&[Key]>) {
        match (keys, &self.stack) {
            (Some(keys), Some(stack)) => stack.cache.invalidate(keys),
            (None, Some(stack)) => stack.cache.invalidate_all(),
            (_, None) => {}
        }
        match keys {
            Some(keys) => self.vfs.changed(keys),
            None => self.vfs.changed_everywhere(),
        }
    }

    /// An orderly end.
    pub async fn end(&self) -> Result<()> {
        self.vfs.clone().shutdown().await?;
        match &self.stack {
            Some(stack) => Ok(stack.shutdown(None).await?),
            None => Ok(()),
        }
    }

    /// The end of the process.
    pub async fn die(self) {
        let Self { vfs, stack } = self;
        drop(vfs);
        if let Some(stack) = stack {
            stack.log.stop().await;
        }
    }
}
