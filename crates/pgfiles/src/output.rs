//! What people and scripts read: answers on stdout, talk on stderr.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::exit::{Failure, Result};
use crate::service::Talk;

/// Prints a line of the answer.
///
/// # Errors
/// Stdout cannot be written to. A reader that went away (`| head`) ends the process quietly instead, as SIGPIPE would.
pub fn line(text: impl std::fmt::Display) -> Result<()> {
    finish(writeln!(io::stdout().lock(), "{text}"))
}

/// Prints the answer as JSON, indented.
///
/// # Errors
/// As [`line()`].
pub fn json(value: &Value) -> Result<()> {
    line(serde_json::to_string_pretty(value).unwrap_or_default())
}

/// Prints a path: escaped for people, or as it is with a NUL after it.
///
/// # Errors
/// As [`line()`].
pub fn path(text: &str, raw_with_nul: bool) -> Result<()> {
    if raw_with_nul {
        let mut bytes = pgfiles_store::key::unescape(text);
        bytes.push(0);
        return raw(&bytes);
    }
    line(crate::files::shown(text))
}

/// Whether stdout wants colours: it is a terminal, and nobody says no (<https://no-color.org>).
pub fn has_colours() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

/// Prints bytes as they are.
///
/// # Errors
/// As [`line()`].
pub fn raw(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    finish(out.write_all(bytes).and_then(|()| out.flush()))
}

fn finish(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|error| Failure::io("cannot write to stdout", &error)),
    }
}

/// Says something on stderr. What cannot be said is not worth failing for.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "pgfiles: {text}");
}

/// Talk on stderr, with a progress bar where that is a terminal.
#[derive(Debug, Default)]
pub struct Terminal {
    bar: Mutex<Option<ProgressBar>>,
}

impl Terminal {
    fn bar(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How far long work is, in bytes: with the rate, and how long it will take where the whole is known.
    pub fn bytes(&self, done: u64, total: Option<u64>, what: &str) {
        let style = match total {
            Some(_) if is_narrow() => "{bytes} {eta} {wide_msg}",
            None if is_narrow() => "{bytes} {wide_msg}",
            Some(_) => "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
            None => "{spinner} {bytes} {bytes_per_sec} {msg}",
        };
        self.show(done, total, what, style);
    }

    fn show(&self, done: u64, total: Option<u64>, what: &str, style: &str) {
        if !io::stderr().is_terminal() {
            return;
        }
        let mut slot = self.bar();
        let bar = slot.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar
        });
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
        bar.set_message(what.to_owned());
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }
}

/// Whether a bar with all its numbers does not fit on the terminal.
fn is_narrow() -> bool {
    const COLUMNS: u16 = 72;
    rustix::termios::tcgetwinsize(io::stderr()).is_ok_and(|size| size.ws_col < COLUMNS)
}

impl Talk for Terminal {
    fn say(&self, text: &str) {
        match &*self.bar() {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    fn progress(&self, done: u64, total: Option<u64>, what: &str) {
        let style =
            if total.is_some() { "{wide_bar} {pos}/{len} {per_sec} {eta} {msg}" } else { "{spinner} {pos} {per_sec} {msg}" };
        self.show(done, total, what, style);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Asks on the terminal; without one, `--yes` is needed.
///
/// # Errors
/// [`crate::exit::Exit::Usage`] without a terminal; [`crate::exit::Exit::Failed`] where the answer is no.
pub fn confirm(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage(format!("{question} There is no terminal to ask on: pass --yes, or --dry-run to look first")));
    }
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|error| Failure::io("cannot read the answer", &error))?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Failure::failed("nothing was changed"))
}

/// A table with columns as wide as needed; the last is not padded.
pub fn table(rows: &[Vec<String>]) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut text = String::new();
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == row.len() {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{cell:<width$}  ", width = widths.get(column).copied().unwrap_or(0)));
            }
        }
        line(text.trim_end())?;
    }
    Ok(())
}
