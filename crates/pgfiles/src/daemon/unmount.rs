//! How a mount ends: what is waited for, what is said meanwhile, and what is kept where waiting is of no use.
//!
//! While it waits the mount stays as it is, so that whoever asked may change their mind. Past [`Daemon::end`] there is
//! no way back.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::front::Door;
use super::housekeeping;
use super::serve::Daemon;
use crate::config::units;
use crate::exit::{Exit, Failure, Result};
use crate::mount_table;
use crate::service::Talk;

/// How often it is said what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// How often open files are looked at: a file that was closed is released by the kernel a moment later.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long `--force` waits for the server before it gives up.
pub(super) const FORCE_WAIT: Duration = Duration::from_secs(3);
/// How long what was under way in the mount may take once it is unmounted.
const SESSION_WAIT: Duration = Duration::from_millis(300);
/// Paths named at a time.
const PATHS_SHOWN: usize = 3;

/// Why a daemon ends, and who wants to know.
pub(super) struct Ending {
    /// For the log.
    pub(super) why: &'static str,
    /// Do not wait for the server.
    pub(super) force: bool,
    /// What could not be committed is kept there already.
    pub(super) recovered: Option<String>,
    /// Who is told.
    pub(super) asker: Option<oneshot::Sender<Result<Value>>>,
}

impl Ending {
    /// SIGTERM, SIGINT, or a `mount` that went away.
    pub(super) fn signal() -> Self {
        Self { why: "signal", force: false, recovered: None, asker: None }
    }

    /// The process that it was started for is gone.
    pub(super) fn left() -> Self {
        Self { why: "its command is gone", ..Self::signal() }
    }

    /// Somebody else unmounted.
    pub(super) fn outside() -> Self {
        Self { why: "unmounted from outside", force: false, recovered: None, asker: None }
    }
}

impl Daemon {
    /// Commits everything and waits until no file is open, the mount still up. Cancelled when the asker goes away. With
    /// `force` what cannot be committed in time is kept in a directory, which is returned.
    ///
    /// # Errors
    /// The deadline; a refusal that waiting does not change.
    pub(super) async fn prepare_unmount(&self, timeout: Option<f64>, force: bool, talk: &dyn Talk) -> Result<Option<String>> {
        let asked = timeout.map(Duration::from_secs_f64);
        let limit = if force { Some(asked.unwrap_or(FORCE_WAIT)) } else { asked };
        let until = limit.map(|limit| Instant::now() + limit);
        let work = async {
            tokio::select! {
                done = self.drain() => done,
                () = self.say_what_is_waited_for(talk) => Ok(()),
            }
        };
        match until {
            None => work.await.map(|()| None),
            Some(until) => match timeout_at(until, work).await {
                Ok(Err(_)) | Err(_) if force => {
                    let kept = self.recover(false).await?;
                    if let Some(dir) = &kept {
                        let how = format!("`pgfiles batch {dir}/operations.jsonl` commits it, under the same prefix");
                        talk.say(&format!("what was not committed is kept in the recovery directory {dir}: {how}"));
                    }
                    Ok(kept)
                }
                Ok(done) => done.map(|()| None),
                Err(_) => Err(Failure::failed(format!(
                    "not unmounted within {}: {}; the mount is up. Wait longer, or use --force",
                    units::show_span(limit.unwrap_or_default()),
                    self.waiting().unwrap_or_else(|| "still committing".into())
                ))),
            },
        }
    }

    /// Commits, again and again while the server is away, until nothing is open and nothing unsaved.
    async fn drain(&self) -> Result<()> {
        loop {
            let flushed = self.vfs.flush(None).await.map_err(|error| error.to_string());
            let drained = match flushed {
                Ok(()) => self.stack.log.drain(None).await.map_err(|error| error.to_string()),
                Err(error) => Err(error),
            };
            let away = self.stack.status().server.away_since.is_some();
            match drained {
                Ok(()) if self.vfs.status().open_files == 0 => return Ok(()),
                Ok(()) => tokio::time::sleep(LOOK_EVERY).await,
                // Whoever asked waits for the server, not for the bound of a single operation.
                Err(_) if away => tokio::time::sleep(SAY_EVERY).await,
                Err(error) => {
                    let remedy = "`pgfiles flush --discard` gives it up, `pgfiles unmount --force` keeps it in a local directory";
                    return Err(Failure::new(Exit::Failed, format!("what was written cannot be committed: {error}; {remedy}")));
                }
            }
        }
    }

    /// Never returns.
    async fn say_what_is_waited_for(&self, talk: &dyn Talk) {
        let mut said = String::new();
        loop {
            tokio::time::sleep(SAY_EVERY).await;
            if let Some(text) = self.waiting().filter(|text| *text != said) {
                talk.say(&format!("waiting for {text}"));
                said = text;
            }
        }
    }

    /// What stands between us and the end, in words.
    pub(super) fn waiting(&self) -> Option<String> {
        let (vfs, stack) = (self.vfs.status(), self.stack.status());
        let mut parts = Vec::new();
        if let Some(since) = &stack.server.away_since {
            let why = stack.server.error.as_deref().unwrap_or("it does not answer");
            parts.push(format!("the server, away since {since} ({why})"));
        }
        let unsaved = vfs.dirty_bytes + stack.log.queued_bytes;
        if unsaved > 0 || stack.log.queued_ops > 0 {
            parts.push(format!("{} to be committed", units::show_bytes(unsaved)));
        }
        if vfs.open_files > 0 {
            let names: Vec<&str> = vfs.waiting.iter().take(PATHS_SHOWN).map(String::as_str).collect();
            let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
            let count = vfs.open_files;
            let which = if count == 1 { "1 open file".to_owned() } else { format!("{count} open files") };
            parts
                .push(format!("{which}{names} to be closed by the programs that use {}", if count == 1 { "it" } else { "them" }));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// Ends the mount: what is unsaved is committed, or kept in a directory that is returned.
    ///
    /// # Errors
    /// Something could be neither committed nor kept.
    pub(super) async fn end(&self, ending: &Ending, session: impl Future<Output: Send>) -> Result<Option<String>> {
        let limit = if ending.force { FORCE_WAIT } else { self.settings.retry_timeout };
        let until = Instant::now() + limit;
        // While the mount still answers, so that what programs wrote last is seen by all.
        let before = timeout_at(until, self.save()).await;
        if self.is_mounted() {
            self.unmount(until).await?;
        }
        // Ends with the last open file; who merely stands in the mount is not waited for.
        let _ = tokio::time::timeout(SESSION_WAIT, session).await;
        if let Some(server) = &self.nfs {
            // What clients have open is released, and so published.
            server.end().await;
        }
        let after = timeout_at(until.max(Instant::now() + Duration::from_secs(1)), self.save()).await;
        tracing::debug!(before = before.is_ok(), after = after.is_ok(), "saved");
        let saved = matches!(after, Ok(Ok(())));
        let recovered = match &ending.recovered {
            Some(dir) => Some(dir.clone()),
            None if saved => None,
            None => self.recover(true).await?,
        };
        if saved {
            housekeeping::leave(self).await;
            self.stack.shutdown(Some(limit)).await?;
        }
        Ok(recovered)
    }

    /// Takes the mount away. A client of NFS first writes back what it holds, as long as that may take.
    async fn unmount(&self, until: Instant) -> Result<()> {
        if self.order.door == Door::Fuse {
            return mount_table::detach(&self.order.mountpoint);
        }
        let command = pgfiles_nfs::mount::unmount_command(&self.order.mountpoint, false);
        let mut command = tokio::process::Command::from(command);
        command.stderr(std::process::Stdio::null()).kill_on_drop(true);
        let done = timeout_at(until, command.status()).await;
        if !self.is_mounted() {
            return Ok(());
        }
        // Somebody stands in it, or the server is away.
        tracing::debug!(?done, "unmounted without waiting");
        mount_table::force_nfs(&self.order.mountpoint)
    }

    async fn save(&self) -> Result<()> {
        self.vfs.flush(None).await.map_err(|error| Failure::failed(error.to_string()))?;
        Ok(self.stack.log.drain(None).await?)
    }
}
