//! Change notices (`PGFILES_NOTIFY`): which directories others wrote to, within a second.
//!
//! The only connection with session state (`LISTEN`). A row of the listener makes writers send notices at all, and has
//! to be renewed; where nobody listens, nobody pays. Notices only hasten what the TTL of the cache brings anyway: one
//! that is lost is made up for by [`Notice::Gap`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::connect::{Connection, Ears, Need};
use super::{PgStore, sql, sqlstate};
use crate::error::{Kind, Result, StoreError};
use crate::key::{Key, Prefix};
use crate::store::HEARTBEAT_SECONDS;

/// How many notices wait to be taken; beyond, they become one [`Notice::Gap`].
const WAITING_MAX: usize = 1_024;
/// How long the server may take to send back a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest pause between two attempts to connect again.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A name in that directory was written, moved or deleted; or, for a directory moved as a whole, anything below.
    Changed(Prefix),
    /// Notices may have been missed: anything may have changed.
    Gap,
}

/// Hears until it is closed or dropped; reconnects by itself.
#[derive(Debug)]
pub struct Listener {
    notices: Receiver<Notice>,
    store: Arc<PgStore>,
    prefix: Prefix,
    mount: String,
    task: JoinHandle<()>,
}

impl Listener {
    pub(super) async fn start(store: Arc<PgStore>, prefix: Prefix, mount: String) -> Result<Self> {
        let (tell, notices) = channel(WAITING_MAX);
        let session = Session::open(&store).await?;
        store.housekeeping(&prefix, &mount, "listen").await?;
        let task = tokio::spawn(run(store.clone(), prefix.clone(), mount.clone(), session, tell));
        Ok(Self { notices, store, prefix, mount, task })
    }

    /// The next notice; waits for it.
    pub async fn next(&mut self) -> Notice {
        // The sender lives as long as the task, which ends with this value.
        self.notices.recv().await.unwrap_or(Notice::Gap)
    }

    /// Stops, and lets writers know that nobody listens any more.
    ///
    /// # Errors
    /// What the server says; the listener's row then expires by itself.
    pub async fn close(self) -> Result<()> {
        self.task.abort();
        self.store.housekeeping(&self.prefix, &self.mount, "deaf").await.map(drop)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection that listens.
struct Session {
    connection: Connection,
    heard: Receiver<(String, String)>,
    overflowed: Arc<AtomicBool>,
}

impl Session {
    /// Connects, listens, and makes sure that what is sent arrives.
    async fn open(store: &PgStore) -> Result<Self> {
        let (tell, heard) = channel(WAITING_MAX);
        let overflowed = Arc::new(AtomicBool::new(false));
        let ears = Ears { heard: tell, overflowed: overflowed.clone() };
        let connection = store.pool.connector().with_ears(ears).open(Need::Schema).await?;
        let mut session = Self { connection, heard, overflowed };
        let listened = session.connection.client.batch_execute(sql::LISTEN).await;
        listened.map_err(|e| sqlstate::request(e, &session.connection.place, "listening"))?;
        session.probe(store).await?;
        Ok(session)
    }

    /// Has a notice sent from another connection and waits for it: a pooler delivers to a session what that session
    /// itself sends, and nothing else. Other notices that come meanwhile count as missed.
    async fn probe(&mut self, store: &PgStore) -> Result<()> {
        let token = Uuid::new_v4().to_string();
        let server = &self.connection.place.server;
        let deaf = || {
            let message = format!("{server} sends no notifications on this connection: is there a pooler in transaction mode?");
            StoreError::new(Kind::Unsupported, message)
        };
        let back = async {
            store.ask("listening", sql::PROBE, &[(&token, Type::TEXT)]).await?;
            loop {
                match self.heard.recv().await {
                    Some((channel, payload)) if channel == "pgfiles_probe" && payload == token => return Ok(()),
                    Some((channel, _)) if channel == "pgfiles" => self.overflowed.store(true, Ordering::Release),
                    Some(_) => {}
                    None => return Err(StoreError::new(Kind::Unavailable, format!("the connection to {server} was lost"))),
                }
            }
        };
        tokio::time::timeout(PROBE_TIMEOUT, back).await.unwrap_or_else(|_| Err(deaf()))
    }

    /// The next directory; `None`: the connection is lost.
    async fn next(&mut self) -> Option<String> {
        loop {
            let (channel, payload) = self.heard.recv().await?;
            if channel == "pgfiles" {
                return Some(payload);
            }
        }
    }
}

/// Passes notices on, renews the listener's row, and connects again whenever that is needed.
async fn run(store: Arc<PgStore>, prefix: Prefix, mount: String, mut session: Session, tell: Sender<Notice>) {
    let mut beat = tokio::time::interval(Duration::from_secs(HEARTBEAT_SECONDS));
    beat.tick().await;
    let mut gap = false;
    loop {
        let alive = tokio::select! {
            heard = session.next() => match heard {
                Some(dir) => {
                    gap |= !pass_on(&prefix, &dir, &tell);
                    true
                }
                None => false,
            },
            _ = beat.tick() => {
                if let Err(error) = store.housekeeping(&prefix, &mount, "listen").await {
                    tracing::debug!(%error, "the listener's row was not renewed");
                }
                // A connection that died without a word is found out here.
                session.probe(&store).await.is_ok()
            }
        };
        gap |= session.overflowed.swap(false, Ordering::AcqRel);
        if !alive {
            session = again(&store, &prefix, &mount).await;
            gap = true;
        }
        if gap {
            gap = tell.try_send(Notice::Gap).is_err();
        }
    }
}

/// Whether there was room for it.
fn pass_on(prefix: &Prefix, dir: &str, tell: &Sender<Notice>) -> bool {
    let place = if dir.is_empty() { Some(Prefix::default()) } else { Key::new(dir).ok().map(|key| key.as_dir()) };
    let Some(place) = place else { return true };
    let ours = place.as_str().starts_with(prefix.as_str()) || prefix.as_str().starts_with(place.as_str());
    !ours || tell.try_send(Notice::Changed(place)).is_ok()
}

/// Connects until it succeeds.
async fn again(store: &PgStore, prefix: &Prefix, mount: &str) -> Session {
    let mut pause = Duration::from_millis(100);
    loop {
        let opened = async {
            let session = Session::open(store).await?;
            store.housekeeping(prefix, mount, "listen").await?;
            Ok::<_, StoreError>(session)
        };
        match opened.await {
            Ok(session) => return session,
            Err(error) => tracing::debug!(%error, "not listening yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
