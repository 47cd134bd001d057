//! How commands about files get at them: by the store of the live mount that shows them, or by a connection of their own.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use pgfiles_store::clock::SystemClock;
use pgfiles_store::{Key, Prefix, Store};

use super::Context;
use super::locate::Route;
use crate::connect;
use crate::control::client;
use crate::control::protocol::Call;
use crate::control::store::Remote;
use crate::exit::{Exit, Failure, Result};
use crate::files::{Amount, Files, Keep, Watch};
use crate::output::{self, Terminal};
use crate::registry::Mount;
use crate::service::Target;

/// The places that a command was led to, each reached once.
pub(super) struct Reach<'c> {
    context: &'c Context,
    /// By the control socket; the key of the server's own is empty.
    reached: HashMap<PathBuf, Arc<Files>>,
    direct: Option<connect::Direct>,
    /// Keys that were changed on a connection of our own.
    changed: Vec<Key>,
}

/// Where a path argument leads.
#[derive(Clone)]
pub(super) struct Spot {
    pub files: Arc<Files>,
    pub target: Target,
    is_direct: bool,
}

impl<'c> Reach<'c> {
    pub fn new(context: &'c Context) -> Self {
        Self { context, reached: HashMap::new(), direct: None, changed: Vec::new() }
    }

    /// Reaches what a path argument names; what programs have not saved yet in a mount that shows it is saved first.
    ///
    /// # Errors
    /// It leads nowhere; the server or the daemon is not reached.
    pub async fn at(&mut self, arg: &OsStr) -> Result<Spot> {
        let (route, target) = self.context.locate(arg)?;
        match route {
            Route::Direct => Ok(Spot { files: self.directly().await?, target, is_direct: true }),
            Route::Daemon(mount) => Ok(Spot { files: self.through(&mount, &target).await?, target, is_direct: false }),
        }
    }

    /// The directory of the prefix, where nothing is named.
    ///
    /// # Errors
    /// As [`Reach::at`].
    pub async fn at_or_prefix(&mut self, arg: Option<&OsStr>) -> Result<Spot> {
        self.at(arg.unwrap_or(OsStr::new("."))).await
    }

    async fn directly(&mut self) -> Result<Arc<Files>> {
        if let Some(files) = self.reached.get(&PathBuf::new()) {
            return Ok(files.clone());
        }
        let direct = connect::open(self.context).await?;
        let service = &direct.service;
        let files = Arc::new(Files {
            store: service.store.clone(),
            fence: service.fence.clone(),
            by: service.by.clone(),
            mount: service.mount.clone(),
            keep: Arc::new(service.server.clone()),
            clock: service.clock.clone(),
        });
        self.direct = Some(direct);
        self.reached.insert(PathBuf::new(), files.clone());
        Ok(files)
    }

    async fn through(&mut self, mount: &Mount, target: &Target) -> Result<Arc<Files>> {
        let own = env!("CARGO_PKG_VERSION");
        if mount.release != own {
            let at = mount.mountpoint.display();
            return Err(Failure::failed(format!(
                "the daemon of {at} is of release {}, and this is {own}: unmount and mount again",
                mount.release
            )));
        }
        // Two names of one directory are flushed once each at most: what is saved costs nothing.
        let path = Some(target.key.clone()).filter(|key| !key.is_empty());
        let flushed = client::call(mount, &Call::Flush { path, discard: false }, &Terminal::default()).await;
        if let Err(failure) = flushed {
            output::say(format!("what is not saved yet in {} cannot be seen: {failure}", mount.mountpoint.display()));
        }
        if let Some(files) = self.reached.get(&mount.socket) {
            return Ok(files.clone());
        }
        let remote = Remote::new(&mount.socket);
        let (store, keep): (Arc<dyn Store>, Arc<dyn Keep>) = (remote.clone(), remote);
        let fence = if mount.prefix.is_empty() {
            Prefix::default()
        } else {
            Key::new(&mount.prefix).map_err(|error| Failure::failed(error.to_string()))?.as_dir()
        };
        let by = connect::by(Some(&mount.id), &self.context.settings.tags);
        // The rows of what this command does not end are its own, not the mount's.
        let id = connect::new_id();
        let files = Arc::new(Files { store, fence, by: Arc::new(by), mount: id.into(), keep, clock: Arc::new(SystemClock) });
        self.reached.insert(mount.socket.clone(), files.clone());
        Ok(files)
    }

    /// Something was changed there: a file's key, or with a `/` at its end all below.
    pub fn changed(&mut self, spot: &Spot, key: &str) {
        if spot.is_direct {
            self.changed.extend(Key::new(key));
        }
    }

    /// Tells mounts that show what was changed.
    pub async fn end(self) {
        self.context.tell(&self.changed).await;
    }
}

/// Shows on a terminal how far long work is, names what fails, and stops at Ctrl-C and SIGTERM.
pub(super) struct Progress {
    terminal: Terminal,
    is_over: Arc<AtomicBool>,
    failed: Mutex<Vec<String>>,
    began: Instant,
    verb: &'static str,
}

impl Progress {
    /// `verb`: imported, exported.
    pub fn new(verb: &'static str) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        tokio::spawn(async move {
            let mut term = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                Ok(term) => term,
                Err(error) => return tracing::warn!(%error, "SIGTERM ends this at once"),
            };
            loop {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = term.recv() => {}
                }
                // The second time it ends at once: what was committed is whole.
                if told.swap(true, Ordering::Relaxed) {
                    std::process::exit(INTERRUPTED);
                }
            }
        });
        Self { terminal: Terminal::default(), is_over, failed: Mutex::default(), began: Instant::now(), verb }
    }

    /// How it ended: a failure where something was not done, or it was stopped.
    ///
    /// # Errors
    /// What was not done.
    pub fn end(self, done: Amount, failed: u64) -> Result<Exit> {
        self.terminal.clear();
        if self.is_over.load(Ordering::Relaxed) {
            output::say(format!(
                "stopped: {} files were {} before, each whole; run the same again to go on",
                done.files, self.verb
            ));
            std::process::exit(INTERRUPTED);
        }
        match failed {
            0 => Ok(Exit::Done),
            1 => Err(Failure::failed(format!("1 file was not {}: it is named above", self.verb))),
            more => Err(Failure::failed(format!("{more} files were not {}: they are named above", self.verb))),
        }
    }

    /// Seconds since it began.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

/// As the shell has it: 128 and SIGINT.
const INTERRUPTED: i32 = 130;

impl Watch for Progress {
    fn progress(&self, done: Amount, total: Option<Amount>) {
        let what = match total {
            Some(total) => format!("{}/{} files", done.files, total.files),
            None => format!("{} files", done.files),
        };
        self.terminal.bytes(done.bytes, total.map(|total| total.bytes), &what);
    }

    fn failed(&self, path: &str, why: &str) {
        let said = if path.is_empty() { why.to_owned() } else { format!("{path}: {why}") };
        crate::service::Talk::say(&self.terminal, &said);
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(said);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}
