//! A daemon at work: it builds the layers, mounts, answers the control socket, and ends in order.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use pgfiles_nfs::Server;
use pgfiles_store::clock::{Clock as _, SystemClock};
use pgfiles_store::layer::log::Mode;
use pgfiles_store::layer::{Stack, StackConfig};
use pgfiles_store::pg::PgStore;
use pgfiles_store::store::Maintenance;
use pgfiles_store::{Key, Prefix, Store};
use pgfiles_vfs::{Vfs, VfsConfig};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::front::{self, Door, Front, NFS_RETRY};
use super::unmount::Ending;
use super::{Order, Started, housekeeping, let_go, log_to, report};
use crate::config::{Durability, Owner, Settings, secret};
use crate::connect;
use crate::control::protocol::Call;
use crate::control::server::{Handler, Lines, listen, serve};
use crate::exit::{Failure, Result};
use crate::files::Keep;
use crate::local::{self, Lease};
use crate::mount_table;
use crate::registry::{Dirs, Mount, Registered};
use crate::service::batch::{Step, Steps, at_line};
use crate::service::{Answer, Request, Service, Talk};

/// How much longer than the store tries again a request may wait.
const STALL_MARGIN: Duration = Duration::from_secs(30);
/// How long `status` waits for the server to count rows.
const USAGE_WAIT: Duration = Duration::from_secs(2);

/// A mount that answers.
pub(super) struct Daemon {
    pub(super) order: Order,
    pub(super) settings: Settings,
    pub(super) dirs: Dirs,
    pub(super) vfs: Arc<Vfs>,
    pub(super) stack: Stack,
    /// Whether the server was told that we live.
    pub(super) has_beaten: AtomicBool,
    service: Service,
    ending: mpsc::Sender<Ending>,
    /// Where programs come in over NFS.
    pub(super) nfs: Option<Arc<Server>>,
    mount: Mount,
    _lease: Option<Lease>,
}

/// Serves a mount from the order to the end.
///
/// # Errors
/// Why it could not start; what could not be committed at the end.
pub(super) async fn run(order: Order) -> Result<()> {
    let settings = Settings::from_given(order.given.clone(), None)?;
    log_to(settings.log_level, std::io::stderr);
    let foreground = order.foreground;
    let mut signals = Signals::new()?;
    let (ending, endings) = mpsc::channel(1);
    let bound = order.bound;
    let gone = mounter_gone();
    tokio::pin!(gone);
    let started = tokio::select! {
        started = start(order, settings, ending) => started?,
        () = &mut gone, if !foreground => return Err(Failure::failed("interrupted")),
        () = signals.next() => return Err(Failure::failed("interrupted")),
    };
    let (daemon, front, registered) = started;
    let heard = foreground || report(&Started::Ready);
    if !foreground {
        let_go(bound);
    }
    let gone = async { if bound { gone.await } else { std::future::pending().await } };
    tracing::info!(at = %daemon.order.mountpoint.display(), "serving");
    serve_until_the_end(daemon, front, registered, (signals, gone), endings, heard).await
}

type Parts = (Arc<Daemon>, Front, Registered);

async fn start(order: Order, settings: Settings, ending: mpsc::Sender<Ending>) -> Result<Parts> {
    let dsn = settings.dsn()?.to_owned();
    let ready = connect::ready(&dsn, &order.login).await?;
    if local::is_local(&dsn) {
        // A private server is set up as a whole; any other is the operator's to initialise.
        connect::init(&ready).await?;
    }
    let pg = Arc::new(PgStore::lazy(ready.dsn, connect::options(&settings, &order.id)));
    pg.hello().await?;
    let stack = Stack::new(pg.clone(), stack_config(&settings, &order.door));
    let by = Arc::new(connect::by(Some(&order.id), &settings.tags));
    let config = vfs_config(&order, &settings, by.clone());
    let clock = Arc::new(SystemClock);
    let (store, fresh) = (stack.store.clone(), stack.fresh.clone());
    // A mount that changes nothing has no row to write its locks to: the kernel keeps them.
    let vfs = if settings.shared && !settings.read_only {
        Vfs::shared(store, fresh, stack.server.clone(), config, clock.clone())
    } else {
        Vfs::new(store, fresh, config, clock.clone())
    };
    let service = Service {
        store: stack.store.clone(),
        server: stack.server.clone(),
        fence: settings.prefix.clone(),
        by,
        mount: order.id.as_str().into(),
        clock,
    };
    let mount = mount_of(&order, &settings, &dsn);
    let dirs = Dirs::of_process();
    // The socket first: whoever finds the registration may ask.
    let listener = listen(&order.socket)?;
    let registered = dirs.register(&mount)?;
    let (front, nfs) = front::open(&order, &settings, &dirs, &vfs).await?;
    let daemon = Arc::new(Daemon {
        order,
        settings,
        dirs,
        vfs,
        stack,
        has_beaten: AtomicBool::new(false),
        service,
        ending,
        nfs,
        mount,
        _lease: ready.lease,
    });
    tokio::spawn(serve(listener, daemon.clone()));
    housekeeping::start(&daemon, pg);
    Ok((daemon, front, registered))
}

fn stack_config(settings: &Settings, door: &Door) -> StackConfig {
    StackConfig {
        durability: match settings.durability {
            Durability::Close => Mode::Close,
            Durability::Sync => Mode::Sync,
            Durability::Writeback => Mode::Writeback,
        },
        // A client of NFS is told to ask again, for as long as the setting says.
        retry_timeout: if *door == Door::Fuse { settings.retry_timeout } else { settings.retry_timeout.min(NFS_RETRY) },
        metadata_ttl: settings.cache_metadata_ttl,
        cache_dir: Some(settings.cache_dir.clone()),
        cache_max_bytes: settings.cache_max_size,
        read_only: settings.read_only,
        ..StackConfig::default()
    }
}

fn vfs_config(order: &Order, settings: &Settings, by: Arc<Value>) -> VfsConfig {
    VfsConfig {
        by,
        read_only: settings.read_only,
        owner: match settings.owner {
            Owner::Stored => pgfiles_vfs::Owner::Stored,
            Owner::Mounter => pgfiles_vfs::Owner::Mounter,
        },
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        publish_after: settings.publish_interval,
        young_seconds: settings.young_seconds,
        free_bytes: settings.free_space,
        stalled_after: settings.retry_timeout + STALL_MARGIN,
        ..VfsConfig::new(settings.prefix.clone(), &order.id)
    }
}

fn mount_of(order: &Order, settings: &Settings, dsn: &str) -> Mount {
    Mount {
        id: order.id.clone(),
        pid: std::process::id(),
        mountpoint: order.mountpoint.clone(),
        prefix: settings.prefix.as_str().to_owned(),
        server: secret::mask_dsn(dsn),
        place: order.place.clone(),
        socket: order.socket.clone(),
        log: order.log.clone(),
        backend: order.door.name().into(),
        read_only: settings.read_only,
        started: SystemClock.now().to_string(),
        release: env!("CARGO_PKG_VERSION").into(),
    }
}

/// SIGTERM and SIGINT; SIGHUP would come from a terminal that a daemon has left.
struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|error| Failure::io("cannot listen for signals", &error));
        Ok(Self { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Returns when `mount` has gone away before it was answered: the end of our stdin.
async fn mounter_gone() {
    let (gone, told) = oneshot::channel();
    // A thread of its own, not the runtime's: it blocks until stdin ends and must not hold up the end of the process.
    std::thread::spawn(move || {
        let mut byte = [0];
        while matches!(std::io::Read::read(&mut std::io::stdin(), &mut byte), Ok(1)) {}
        let _ = gone.send(());
    });
    let _ = told.await;
}

async fn serve_until_the_end(
    daemon: Arc<Daemon>,
    front: Front,
    registered: Registered,
    (mut signals, gone): (Signals, impl Future<Output = ()>),
    mut endings: mpsc::Receiver<Ending>,
    heard: bool,
) -> Result<()> {
    let mut ended = tokio::spawn(front.closed()).fuse();
    let ending = if heard {
        tokio::select! {
            Some(ending) = endings.recv() => ending,
            () = signals.next() => Ending::signal(),
            () = gone => Ending::left(),
            _ = &mut ended => Ending::outside(),
        }
    } else {
        Ending::signal()
    };
    tracing::info!(why = ending.why, "ending");
    let outcome = daemon.end(&ending, ended).await;
    drop(registered);
    if let Err(failure) = &outcome {
        tracing::error!(%failure, "ended with a failure");
    }
    if let Some(asker) = ending.asker {
        let _ = asker.send(outcome.clone().map(|recovered| json!({"before": daemon.order.before, "recovered": recovered})));
        // The answer is on its way when the asker has closed its end.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    outcome.map(|_| ())
}

#[async_trait]
impl Handler for Daemon {
    async fn handle(&self, call: Call, lines: Lines<'_>, talk: &dyn Talk) -> Result<Value> {
        match call {
            Call::Status { usage } => Ok(self.status(usage).await),
            Call::Flush { path, discard } => self.flush(path, discard).await,
            Call::Unmount { timeout, force } => {
                let recovered = self.prepare_unmount(timeout, force, talk).await?;
                let (asker, answer) = oneshot::channel();
                let ending = Ending { why: "unmount", force, recovered, asker: Some(asker) };
                let busy = || Failure::failed("the mount is ending already");
                self.ending.try_send(ending).map_err(|_| busy())?;
                answer.await.unwrap_or_else(|_| Err(busy()))
            }
            Call::CacheStats => Ok(serde_json::to_value(self.stack.cache.stats()).unwrap_or_default()),
            Call::CacheClear => {
                self.stack.cache.clear().await;
                Ok(json!({}))
            }
            Call::Changed { keys } => {
                let keys: Vec<Key> = keys.iter().filter_map(|key| Key::new(key).ok()).collect();
                self.changed(&keys);
                Ok(json!({}))
            }
            Call::Serve(Request::Batch) => {
                let answer = self.batch(lines).await?;
                Ok(self.tell(answer))
            }
            Call::Serve(request) => {
                let answer = self.service.run(request, talk).await?;
                Ok(self.tell(answer))
            }
            Call::Store => Err(Failure::failed("a store's connection is served apart")),
        }
    }

    fn store(&self) -> (&dyn Store, &dyn Keep, &Prefix) {
        (&*self.service.store, &self.service.server, &self.service.fence)
    }

    fn changed(&self, keys: &[Key]) {
        Daemon::changed(self, keys);
    }
}

impl Daemon {
    fn tell(&self, answer: Answer) -> Value {
        self.changed(&answer.changed);
        answer.value
    }

    /// Says something of this mount to the server.
    pub(super) async fn maintain(&self, what: Maintenance) -> pgfiles_store::Result<u64> {
        self.stack.server.maintain(&self.settings.prefix, &self.order.id, what).await
    }

    /// Forgets everything, here and in the kernel.
    pub(super) fn changed_everywhere(&self) {
        self.stack.cache.invalidate_all();
        self.vfs.changed_everywhere();
    }

    /// Forgets what is known of keys that changed, here and in the kernel.
    pub(super) fn changed(&self, keys: &[Key]) {
        self.stack.cache.invalidate(keys);
        self.vfs.changed(keys);
    }

    async fn batch(&self, mut lines: Lines<'_>) -> Result<Answer> {
        let mut all = Steps::default();
        while let Some(line) = lines.next().await? {
            let line: Value = serde_json::from_str(&line).map_err(|error| Failure::usage(format!("not understood: {error}")))?;
            let number = line["line"].as_u64().unwrap_or(0);
            let step = Step::parse(&line["step"].to_string()).map_err(|why| at_line(number, Failure::usage(why)))?;
            all.add(number, &step, &self.service)?;
        }
        self.service.batch(all).await
    }

    /// Publishes and commits everything (or a path), and waits for the server's disk.
    async fn flush(&self, path: Option<String>, discard: bool) -> Result<Value> {
        let discarded = if discard { self.stack.log.discard() } else { 0 };
        // What lies that deep has other keys (`pgfiles_store::alias`): everything is flushed, it too.
        let path = path.filter(|path| !path.is_empty() && path.len() <= pgfiles_store::alias::DIR_BYTES_MAX);
        let key = path.as_deref().map(Key::new).transpose();
        let key = key.map_err(|error| Failure::usage(error.to_string()))?;
        self.vfs.flush(key.as_ref()).await.map_err(|error| Failure::failed(error.to_string()))?;
        self.stack.log.drain(None).await?;
        Ok(json!({"discarded": discarded}))
    }

    async fn status(&self, usage: bool) -> Value {
        let (vfs, stack) = (self.vfs.status(), self.stack.status());
        let log = &stack.log;
        let state = match (&stack.server.away_since, &log.read_only) {
            (Some(_), _) => "away",
            (None, Some(_)) => "read-only",
            (None, None) if self.settings.read_only => "read-only",
            (None, None) => "ok",
        };
        let usage = if usage && state != "away" {
            let counted = tokio::time::timeout(USAGE_WAIT, self.stack.server.usage(&self.settings.prefix)).await;
            counted.ok().and_then(std::result::Result::ok)
        } else {
            None
        };
        let usage = usage.map(|u| {
            json!({
                "files": u.files, "bytes": u.bytes, "dirs": u.dirs, "history_rows": u.history_rows,
                "history_bytes": u.history_bytes, "body_rows": u.body_rows, "body_bytes": u.body_bytes,
            })
        });
        let errors: Vec<Value> = vfs.errors.iter().map(|(path, error)| json!({"path": path, "error": error})).collect();
        json!({
            "state": state, "away_since": stack.server.away_since, "server_error": stack.server.error,
            "read_only_because": log.read_only,
            "unsaved": {
                "bytes": vfs.dirty_bytes + log.queued_bytes, "open_files": vfs.open_files,
                "queued_ops": log.queued_ops, "waiting": vfs.waiting,
            },
            "errors": errors, "usage": usage, "inodes": vfs.inodes, "locks": vfs.locks, "mount": self.mount.id,
            "queue": log, "cache": stack.cache, "operations": stack.operations, "retries": stack.server.retries,
        })
    }

    /// A directory for what cannot be committed.
    pub(super) fn recovery_dir(&self) -> Result<PathBuf> {
        let stamp = SystemClock.now().to_string().replace([':', '.'], "-");
        self.dirs.recovery_path(&self.order.id, &stamp)
    }

    /// Whether our mount is (still) in the kernel's table.
    pub(super) fn is_mounted(&self) -> bool {
        match self.order.door {
            Door::NfsMount { .. } => mount_table::is_local_nfs(&self.order.mountpoint),
            Door::Fuse | Door::NfsPort(_) | Door::NfsSocket(_) => {
                mount_table::at(&self.order.mountpoint).is_some_and(|mounted| mounted.is_ours())
            }
        }
    }
}
