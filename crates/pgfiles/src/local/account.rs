//! The operating system's user that the private server runs as, and how programs are run as that user.
//!
//! A user runs the server as itself. Root cannot (Postgres refuses), so there it is the owner of the data directory, else `postgres`, else
//! an ordinary user that every system has. Names and numbers are asked of `id`, which knows directory services as well as `/etc/passwd`.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Users tried by root, in this order, when there is no data yet: Debian's and most others', macOS's, and the one that owns nothing.
const SERVER_USERS: [&str; 3] = ["postgres", "_postgres", "nobody"];

/// What the programs of the server see of our environment: no setting of `libpq`, no secret.
const ENVIRONMENT_KEPT: [&str; 6] =
    ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"];

/// A user by number and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Login name, as the `peer` method of Postgres sees it.
    pub name: String,
}

impl Account {
    /// The user that the server of the data directory `data` has to run as, whether or not that directory exists yet.
    pub fn of_server(data: &Path) -> Result<Account> {
        let me = rustix::process::geteuid().as_raw();
        let owner = std::fs::metadata(data).ok().map(|m| m.uid());
        match (me, owner) {
            (0, Some(0)) => {
                bail!("{} belongs to root, and Postgres does not run as root: chown -R it to an ordinary user", data.display())
            }
            (0, Some(uid)) => Account::look_up(&uid.to_string()),
            (0, None) => SERVER_USERS.iter().find_map(|name| Account::look_up(name).ok()).with_context(|| {
                format!("root needs an ordinary user to run Postgres as, and none of {} exists", SERVER_USERS.join(", "))
            }),
            (_, Some(uid)) if uid != me => {
                bail!("{} belongs to user {uid}, not to you (user {me}): use `local:/another/path`", data.display())
            }
            _ => Account::look_up(&me.to_string()),
        }
    }

    /// Asks the system for a user by name or number.
    pub fn look_up(user: &str) -> Result<Account> {
        Ok(Account { uid: id("-u", user)?.parse()?, gid: id("-g", user)?.parse()?, name: id("-un", user)? })
    }

    /// Is this the user that we run as?
    pub fn is_me(&self) -> bool {
        rustix::process::geteuid().as_raw() == self.uid
    }

    /// A command that runs as this user, with no input, in a directory that everyone may stand in, and with a plain environment.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).current_dir("/");
        plain_environment(&mut command);
        if !self.is_me() {
            // With `uid` set and root running, std also drops the supplementary groups.
            command.uid(self.uid).gid(self.gid).env("HOME", "/").env_remove("TMPDIR");
        }
        command
    }

    /// Gives an open file or a directory to this user, if it is not us.
    pub fn own(&self, file: &std::fs::File) -> Result<()> {
        if !self.is_me() {
            std::os::unix::fs::fchown(file, Some(self.uid), Some(self.gid))?;
        }
        Ok(())
    }
}

/// Leaves a command only what the server and its keeper need of our environment.
pub fn plain_environment(command: &mut Command) {
    command.env_clear().env("LC_ALL", "C");
    for name in ENVIRONMENT_KEPT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

fn id(what: &str, user: &str) -> Result<String> {
    let out = Command::new("id").args([what, user]).stdin(Stdio::null()).output().context("cannot run `id`")?;
    let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    if !out.status.success() || text.is_empty() {
        bail!("user {user} is not in this system's list of users, which Postgres needs: add it to /etc/passwd");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_up_by_name_and_by_number() {
        let by_number = Account::look_up("0").expect("root exists");
        assert_eq!(by_number, Account::look_up("root").expect("root exists"));
        assert_eq!((by_number.uid, by_number.name.as_str()), (0, "root"));
        let error = Account::look_up("no-such-user-here").expect_err("does not exist").to_string();
        assert!(error.contains("no-such-user-here"), "{error}");
    }

    #[test]
    fn the_server_of_root_is_not_root() {
        let account = Account::of_server(Path::new("/nonexistent/data"));
        if rustix::process::geteuid().is_root() {
            assert_ne!(account.expect("some ordinary user exists").uid, 0);
        } else {
            assert!(account.expect("we exist").is_me());
        }
    }
}
