//! What a daemon does without being asked, one task each, ended with the daemon: it says that it lives while it has rows
//! of bodies that no version refers to yet, and while programs hold locks across mounts, sweeps those of mounts that died, listens for changes where that is set, and
//! forgets everything when another server is found behind the address.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use pgfiles_store::pg::PgStore;
use pgfiles_store::pg::listen::{Listener, Notice};
use pgfiles_store::store::{HEARTBEAT_SECONDS, Maintenance};

use super::serve::Daemon;

/// How often it is looked whether there is unpublished data.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after the start, and how often, rows of dead mounts are swept.
const SWEEP_AFTER: Duration = Duration::from_secs(30);
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// How long giving the locks back may take.
const LEAVE_WAIT: Duration = Duration::from_secs(3);
/// How long to wait before it is tried again to listen.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// Starts the tasks. They hold the daemon weakly: the last of its owners ends them.
pub(super) fn start(daemon: &Arc<Daemon>, pg: Arc<PgStore>) {
    if !daemon.settings.read_only {
        tokio::spawn(beat(Arc::downgrade(daemon)));
        tokio::spawn(sweep(Arc::downgrade(daemon)));
    }
    if daemon.vfs.is_shared() {
        tokio::spawn(renew_locks(Arc::downgrade(daemon)));
    }
    if daemon.settings.notify {
        tokio::spawn(listen(Arc::downgrade(daemon), pg));
    }
    tokio::spawn(watch_server(Arc::downgrade(daemon)));
}

/// A heartbeat a minute while there is unpublished data, the first as soon as there is; none from an idle mount.
async fn beat(daemon: Weak<Daemon>) {
    let mut last: Option<Instant> = None;
    let mut tick = tokio::time::interval(LOOK_EVERY);
    loop {
        tick.tick().await;
        let Some(daemon) = daemon.upgrade() else { return };
        let due = last.is_none_or(|at| at.elapsed() >= Duration::from_secs(HEARTBEAT_SECONDS));
        if !due || daemon.vfs.status().dirty_bytes == 0 {
            continue;
        }
        match daemon.maintain(Maintenance::Beat).await {
            Ok(_) => {
                last = Some(Instant::now());
                daemon.has_beaten.store(true, Ordering::Relaxed);
            }
            Err(error) => tracing::debug!(%error, "heartbeat"),
        }
    }
}

/// Keeps the lease of this mount's locks, every few seconds while there are any.
async fn renew_locks(daemon: Weak<Daemon>) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(daemon) = daemon.upgrade() else { return };
        if let Err(error) = daemon.vfs.renew_locks().await {
            tracing::warn!(%error, "the lease of the locks was not renewed");
        }
    }
}

/// At the end: nothing is locked through this mount, and no rows of ours are unpublished any more. Not worth waiting for long:
/// the lease and the beat expire by themselves.
pub(super) async fn leave(daemon: &Daemon) {
    match tokio::time::timeout(LEAVE_WAIT, daemon.vfs.end_locks()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "locks are free when the lease runs out only"),
        Err(_) => tracing::warn!("locks are free when the lease runs out only: the server did not answer in time"),
    }
    if daemon.has_beaten.load(Ordering::Relaxed) {
        let _ = tokio::time::timeout(LOOK_EVERY, daemon.maintain(Maintenance::Leave)).await;
    }
}

async fn sweep(daemon: Weak<Daemon>) {
    let mut pause = SWEEP_AFTER;
    loop {
        tokio::time::sleep(pause).await;
        pause = SWEEP_EVERY;
        let Some(daemon) = daemon.upgrade() else { return };
        match daemon.maintain(Maintenance::Sweep).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, "swept rows of mounts that died"),
            Err(error) => tracing::debug!(%error, "sweep"),
        }
    }
}

/// Hears of changes by others; one's own come back as well, and cost a lookup.
async fn listen(daemon: Weak<Daemon>, pg: Arc<PgStore>) {
    loop {
        let Some(strong) = daemon.upgrade() else { return };
        let listener = pg.listen(&strong.settings.prefix, &strong.order.id).await;
        drop(strong);
        match listener {
            Ok(listener) => hear(&daemon, listener).await,
            Err(error) if error.is_retryable() => tracing::debug!(%error, "not listening yet"),
            Err(error) => {
                tracing::warn!(%error, "changes by others are seen after the time to live only");
                return;
            }
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

async fn hear(daemon: &Weak<Daemon>, mut listener: Listener) {
    loop {
        let notice = listener.next().await;
        let Some(daemon) = daemon.upgrade() else { return };
        match notice {
            Notice::Changed(dir) => match dir.marker() {
                Some(marker) => daemon.changed(&[marker]),
                None => daemon.changed_everywhere(),
            },
            Notice::Gap => daemon.changed_everywhere(),
        }
    }
}

/// Another server, an older state of it, or commits made again: ids that were seen may stand for nothing now.
async fn watch_server(daemon: Weak<Daemon>) {
    let Some(mut epoch) = daemon.upgrade().map(|daemon| daemon.stack.log.epoch()) else { return };
    while epoch.changed().await.is_ok() {
        let Some(daemon) = daemon.upgrade() else { return };
        tracing::warn!("the server is not as it was: everything is asked for again");
        daemon.changed_everywhere();
    }
}
