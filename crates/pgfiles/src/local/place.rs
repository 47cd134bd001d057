//! Where a private server lives: what a `local:` DSN says, the directories and files below it, and the locks on them.
//!
//! | name | what |
//! |---|---|
//! | `data/` | Postgres's data directory, owned by the user the server runs as, 0700 |
//! | `sock/` | the directory of the Unix socket, same owner, 0700 (in `/tmp` when the path is too long for a socket) |
//! | `server.log` | what the server and its keeper say |
//! | `use.lock` | shared by everyone who uses the server; exclusive while it is stopped |
//! | `start.lock` | exclusive while someone sets up or starts |
//! | `keeper.lock` | exclusive while a keeper lives |
//! | `server.lock` | exclusive while a process of the server lives: it is the server's standard input |
//!
//! All locks are `flock`s: the kernel releases them however their holder ends, so nothing is stale after a crash. Order: use, start, keeper, server.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::account::Account;

/// Path of the socket that the kernels take, less a margin: 104 bytes on macOS, 108 on Linux, with the NUL.
const SOCKET_PATH_MAX: usize = 100;
/// Name of the socket of port 5432, which every private server uses: each has its own directory.
const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// How often a lock that someone else holds is tried again.
const POLL: Duration = Duration::from_millis(20);
/// How long the server runs on after its last use, unless the DSN says otherwise.
const STOP_AFTER: Duration = Duration::from_secs(60);

/// A parsed `local:` DSN: the directory, and when the server stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Absolute path of the directory that holds everything.
    pub base: PathBuf,
    /// The server stops this long after its last use.
    pub stop_after: Duration,
}

impl Place {
    /// Parses `local:`, `local:/path`, each with an optional `?stop_after=SECONDS`. The environment is asked only without a path.
    pub fn parse(dsn: &str) -> Result<Place> {
        let rest = dsn.strip_prefix("local:").context("not a `local:` DSN")?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let base = match path {
            "" => default_base()?,
            _ if path.starts_with('/') => PathBuf::from(OsStr::from_bytes(path.trim_end_matches('/').as_bytes())),
            _ => bail!("{dsn:?}: after `local:` comes an absolute path, or nothing"),
        };
        ensure!(base != Path::new(""), "{dsn:?}: the root directory cannot hold a private Postgres; name a directory below it");
        let mut stop_after = STOP_AFTER;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("stop_after", seconds)) => {
                    let seconds: f64 = seconds
                        .trim_end_matches('s')
                        .parse()
                        .ok()
                        .filter(|s| (0.0..=1e9).contains(s))
                        .with_context(|| format!("{dsn:?}: stop_after={seconds} is not a number of seconds"))?;
                    stop_after = Duration::from_secs_f64(seconds);
                }
                _ => bail!("{dsn:?}: {pair:?} is not known; `local:` takes only stop_after=SECONDS"),
            }
        }
        Ok(Place { base, stop_after })
    }

    /// Postgres's own data directory.
    pub fn data(&self) -> PathBuf {
        self.base.join("data")
    }

    /// The log of the server.
    pub fn log(&self) -> PathBuf {
        self.base.join("server.log")
    }

    /// Directory of the socket: below `base` if the path is short enough, else a directory in `/tmp` named after user and place.
    pub fn socket_dir(&self, account: &Account) -> PathBuf {
        let dir = self.base.join("sock");
        if dir.as_os_str().len() + 1 + SOCKET_NAME.len() <= SOCKET_PATH_MAX {
            return dir;
        }
        PathBuf::from(format!("/tmp/pgfiles-{}-{:016x}", account.uid, fnv(self.base.as_os_str().as_bytes())))
    }

    /// Path of the socket itself.
    pub fn socket(&self, account: &Account) -> PathBuf {
        self.socket_dir(account).join(SOCKET_NAME)
    }

    /// Makes the directory, or checks that the one that is there is ours: a directory with other things in it is refused.
    pub fn create(&self, account: &Account) -> Result<()> {
        // Root's own directory, so that the server's user cannot put links where root opens files; others only pass through.
        let mode = if account.is_me() { 0o700 } else { 0o711 };
        if !self.base.join("use.lock").exists() {
            let what = || format!("cannot make the directory {} for the private Postgres", self.base.display());
            let made = DirBuilder::new().recursive(true).mode(if account.is_me() { 0o700 } else { 0o755 }).create(&self.base);
            made.with_context(what)?;
            let strange = std::fs::read_dir(&self.base)
                .with_context(what)?
                .flatten()
                .map(|entry| entry.file_name())
                .find(|name| !["data", "sock", "lost+found"].contains(&name.to_string_lossy().as_ref()) && !is_ours(name));
            if let Some(name) = strange {
                bail!(
                    "{} holds {:?}, which is not pgfiles's: give `local:` an empty directory or a new one",
                    self.base.display(),
                    name.to_string_lossy()
                );
            }
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&self.base, std::fs::Permissions::from_mode(mode)).with_context(what)?;
        }
        let owner = std::fs::metadata(&self.base)?.uid();
        let me = rustix::process::geteuid().as_raw();
        ensure!(
            owner == me,
            "{} belongs to user {owner}, not to you (user {me}): use `local:/another/path`",
            self.base.display()
        );
        if !account.is_me() {
            let inside = account.command("/bin/sh").args(["-c", "cd \"$1\"", "sh"]).arg(&self.base).output();
            let inside = inside.context("cannot run /bin/sh")?.status.success();
            ensure!(
                inside,
                "the user {} of the private Postgres cannot enter {}: use a place outside",
                account.name,
                self.base.display()
            );
        }
        Ok(())
    }

    /// Makes the socket's directory, private to the server's user, or checks that the one there is.
    pub fn create_socket_dir(&self, account: &Account) -> Result<PathBuf> {
        let dir = self.socket_dir(account);
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => account.own(&File::open(&dir)?)?,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).with_context(|| format!("cannot make the socket's directory {}", dir.display())),
        }
        let meta = std::fs::symlink_metadata(&dir)?;
        let private = meta.is_dir() && meta.uid() == account.uid && meta.mode() & 0o077 == 0;
        ensure!(private, "{} is not a private directory of {}: remove it", dir.display(), account.name);
        Ok(dir)
    }

    /// Opens one of the lock files, making it if need be.
    pub fn lock_file(&self, name: &str) -> Result<File> {
        let path = self.base.join(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        file.with_context(|| format!("cannot open {}", path.display()))
    }

    /// Is that lock free at this moment? (Someone may take it in the next.)
    pub fn is_free(&self, name: &str) -> Result<bool> {
        Ok(try_lock(&self.lock_file(name)?, true)?)
    }
}

/// Tries a lock once; false when someone else holds it.
pub fn try_lock(file: &File, exclusive: bool) -> std::io::Result<bool> {
    match if exclusive { file.try_lock() } else { file.try_lock_shared() } {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Waits for a lock up to a moment; false when it was not to be had by then.
pub fn lock_until(file: &File, exclusive: bool, until: Instant) -> std::io::Result<bool> {
    loop {
        if try_lock(file, exclusive)? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(POLL);
    }
}

fn is_ours(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.ends_with(".lock") || name.starts_with("server.log") || name.starts_with("data.")
}

fn default_base() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/pgfiles"));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let share = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    Ok(share
        .context("`local:` keeps its data in your home, and HOME is not set: set it or use `local:/path`")?
        .join("pgfiles/postgres"))
}

/// FNV-1a: names a directory after a path; two paths that meet would fail on the owner's lock, not share data.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dsns() {
        let place = Place::parse("local:/var/x/").expect("a path");
        assert_eq!((place.base.as_path(), place.stop_after), (Path::new("/var/x"), STOP_AFTER));
        assert_eq!(Place::parse("local:/x?stop_after=1.5").expect("a time").stop_after, Duration::from_millis(1500));
        assert_eq!(Place::parse("local:/x?stop_after=2s").expect("a time").stop_after, Duration::from_secs(2));
        for (bad, part) in [
            ("local:x", "absolute"),
            ("local:/", "below it"),
            ("local:/x?stop_after=soon", "soon"),
            ("local:/x?stop_after=-1", "-1"),
            ("local:/x?sslmode=off", "sslmode"),
            ("postgres://x", "not a `local:`"),
        ] {
            let error = format!("{:#}", Place::parse(bad).expect_err(bad));
            assert!(error.contains(part), "{bad}: {error}");
        }
    }

    #[test]
    fn a_long_path_gets_a_short_socket() {
        let account = Account { uid: 7, gid: 7, name: "x".into() };
        let of = |base: String| Place { base: base.into(), stop_after: STOP_AFTER }.socket(&account);
        assert_eq!(
            of("/home/x/.local/share/pgfiles/postgres".into()).parent(),
            Some(Path::new("/home/x/.local/share/pgfiles/postgres/sock"))
        );
        let long = of(format!("/{}", "d".repeat(90)));
        assert!(long.starts_with("/tmp") && long.as_os_str().len() < SOCKET_PATH_MAX, "{}", long.display());
        assert_ne!(long, of(format!("/{}", "e".repeat(90))));
    }

    #[test]
    fn a_directory_with_other_things_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let me = Account::look_up(&rustix::process::geteuid().as_raw().to_string()).expect("we exist");
        std::fs::write(dir.path().join("thesis.txt"), "x").expect("written");
        let place = Place { base: dir.path().to_owned(), stop_after: STOP_AFTER };
        let error = place.create(&me).expect_err("not ours").to_string();
        assert!(error.contains("thesis.txt"), "{error}");
    }
}
