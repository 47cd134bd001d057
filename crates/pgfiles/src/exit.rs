//! Every exit code, and [`Failure`]: the one error type of the commands, a sentence with its exit code.
//!
//! Docs: `docs/commands.md` lists the codes. A failure crosses the control socket as JSON, so that a command run by a
//! daemon ends as if the command had run it itself.

use std::fmt;

use pgfiles_store::error::{Kind, StoreError};
use serde::{Deserialize, Serialize};

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// 0: what was asked for is done.
    Done,
    /// 1: it failed, for a reason that has no code of its own.
    Failed,
    /// 2: the command line, a setting or the input is wrong.
    Usage,
    /// 3: no such file, directory, version, prefix or mount.
    NotFound,
    /// 4: something else is there, or it changed: a precondition failed, not empty, already mounted.
    Conflict,
    /// 5: the server cannot be reached, or refuses the login.
    NoConnection,
}

impl Exit {
    /// All codes with what they mean, as the help prints them.
    pub const ALL: [(Exit, &'static str); 6] = [
        (Exit::Done, "done"),
        (Exit::Failed, "failed"),
        (Exit::Usage, "wrong usage, setting or input"),
        (Exit::NotFound, "not found"),
        (Exit::Conflict, "conflict: already there, not empty, or changed meanwhile"),
        (Exit::NoConnection, "no connection to the server"),
    ];

    /// The number that the process exits with.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Conflict => 4,
            Exit::NoConnection => 5,
        }
    }
}

/// Why a command failed: one sentence with the remedy, and the exit code. Holds no password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// How the process exits.
    pub exit: Exit,
    /// What failed, on what, why, and what to do.
    pub message: String,
    /// For `batch`: the line (from 1) that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
}

/// What commands return.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure with that code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), line: None }
    }

    /// [`Exit::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// [`Exit::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// [`Exit::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, message)
    }

    /// [`Exit::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Exit::Conflict, message)
    }

    /// An operation of the system on something named, with the system's reason.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        Self::new(exit, format!("{what}: {}", plain(error)))
    }

    /// The same failure, introduced by what was being done.
    #[must_use]
    pub fn while_(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

/// The system's words without Rust's "(os error 2)".
pub fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_lowercase(),
        None => text,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        let with = |hint: &str| if message.contains(hint) { message.clone() } else { format!("{message}: {hint}") };
        match error.kind() {
            Kind::NotFound => Self::new(Exit::NotFound, message),
            Kind::Conflict | Kind::NotEmpty => Self::new(Exit::Conflict, message),
            Kind::Unavailable | Kind::Unauthorized => Self::new(Exit::NoConnection, message),
            Kind::NotInitialised => Self::failed(with("run `pgfiles init`")),
            _ => Self::failed(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_docs() {
        for (code, (exit, _)) in Exit::ALL.iter().enumerate() {
            assert_eq!(usize::from(exit.code()), code);
        }
    }

    #[test]
    fn the_system_speaks_without_numbers() {
        assert_eq!(plain(&std::io::Error::from_raw_os_error(2)), "no such file or directory");
    }
}
