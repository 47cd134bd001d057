//! One small JSON file per live mount of the user: what commands find daemons by.
//!
//! Beside `<id>.json` lies `<id>.lock`, on which the daemon holds an exclusive lock for as long as it lives, so that the
//! file of a killed daemon is recognised whatever became of its process number. The directory is the user's alone (0700).

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use pgfiles_store::key::{escape, unescape};
use serde::{Deserialize, Serialize};

use crate::exit::{Failure, Result};

/// The longest path of a Unix socket that both Linux (108) and macOS (104) take, with its NUL.
pub(crate) const SOCKET_PATH_MAX: usize = 100;

/// A live mount, as commands see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// As in `meta.by.mount` of the versions that it writes.
    pub id: String,
    /// The daemon's process.
    pub pid: u32,
    /// Absolute, without symlinks.
    #[serde(with = "path_text")]
    pub mountpoint: PathBuf,
    /// "" or ending in `/`.
    pub prefix: String,
    /// The DSN without its password.
    pub server: String,
    /// Which server and database: equal for two spellings of one DSN. See [`crate::config::secret`].
    pub place: String,
    /// The control socket.
    #[serde(with = "path_text")]
    pub socket: PathBuf,
    /// The log file; empty where the log goes to stderr.
    #[serde(with = "path_text")]
    pub log: PathBuf,
    /// `fuse` or `nfs`.
    pub backend: String,
    /// Whether it refuses changes.
    pub read_only: bool,
    /// RFC 3339.
    pub started: String,
    /// The release of the daemon.
    pub release: String,
}

/// A path as JSON text, whatever its bytes: escaped as names are in keys.
pub(crate) mod path_text {
    use super::{Path, PathBuf, escape, unescape};
    use serde::{Deserialize as _, Deserializer, Serializer};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&escape(path.as_os_str().as_bytes()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(PathBuf::from(OsString::from_vec(unescape(&String::deserialize(from)?))))
    }
}

/// The directories that belong to this user.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// Where mounts are registered: the first is written to, all are read (a variable may be set in one shell only).
    run: Vec<PathBuf>,
    /// Logs and recovered data.
    pub state: PathBuf,
}

impl Dirs {
    /// From `$XDG_RUNTIME_DIR`, `$XDG_STATE_HOME` and `$HOME`; without a home, under the temporary directory.
    pub fn new(var: impl Fn(&str) -> Option<String>) -> Self {
        let absolute = |name: &str| var(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
        let uid = rustix::process::geteuid().as_raw();
        let home = || absolute("HOME").map(|home| home.join(".local/state"));
        let state = absolute("XDG_STATE_HOME").or_else(home).map(|dir| dir.join("pgfiles"));
        let state = state.unwrap_or_else(|| std::env::temp_dir().join(format!("pgfiles-{uid}")));
        let runtime = absolute("XDG_RUNTIME_DIR").filter(|dir| dir.is_dir()).map(|dir| dir.join("pgfiles"));
        let login = Some(PathBuf::from(format!("/run/user/{uid}/pgfiles"))).filter(|dir| dir.is_dir());
        let mut run: Vec<PathBuf> = runtime.into_iter().chain([state.join("run")]).chain(login).collect();
        run.dedup();
        Self { run, state }
    }

    /// From the environment of this process.
    pub fn of_process() -> Self {
        Self::new(|name| std::env::var(name).ok())
    }

    /// Registers a live mount, until the result is dropped. `socket` and `log` of the mount are set by
    /// [`Dirs::socket_path`] and [`Dirs::log_path`].
    ///
    /// # Errors
    /// The directory or the files cannot be made.
    pub fn register(&self, mount: &Mount) -> Result<Registered> {
        let dir = self.run_dir()?;
        let (file, lock) = (dir.join(format!("{}.json", mount.id)), dir.join(format!("{}.lock", mount.id)));
        let write = || -> io::Result<File> {
            let held = create(&lock)?;
            held.lock()?;
            let temporary = dir.join(format!("{}.new", mount.id));
            let text = serde_json::to_vec(mount).map_err(io::Error::other)?;
            create(&temporary)?.write_all(&text)?;
            std::fs::rename(&temporary, &file)?;
            Ok(held)
        };
        let held = write().map_err(|error| Failure::io(format!("cannot register the mount in {}", dir.display()), &error))?;
        Ok(Registered { file, lock, socket: mount.socket.clone(), _held: held })
    }

    /// All registered mounts, those of killed daemons included, by mount point. What is no registration is passed over.
    pub fn list(&self) -> Vec<Listed> {
        let mut out: Vec<Listed> = Vec::new();
        for dir in self.run.iter().filter(|dir| is_private(dir)) {
            let Ok(files) = std::fs::read_dir(dir) else { continue };
            for file in files.flatten().map(|entry| entry.path()) {
                if file.extension().is_none_or(|end| end != "json") {
                    continue;
                }
                let text = std::fs::read(&file).unwrap_or_default();
                let Ok(mount) = serde_json::from_slice::<Mount>(&text) else { continue };
                let lock = file.with_extension("lock");
                if out.iter().all(|seen| seen.mount.id != mount.id) {
                    out.push(Listed { alive: is_held(&lock), mount, file });
                }
            }
        }
        out.sort_by(|a, b| a.mount.mountpoint.cmp(&b.mount.mountpoint));
        out
    }

    /// The mounts whose daemons live.
    pub fn live(&self) -> Vec<Mount> {
        self.list().into_iter().filter(|listed| listed.alive).map(|listed| listed.mount).collect()
    }

    /// Where the control socket of a mount goes: beside its registration, or where that path is too long for a socket,
    /// in a directory of the user's under `/tmp`.
    ///
    /// # Errors
    /// The directory cannot be made, or is not the user's.
    pub fn socket_path(&self, id: &str) -> Result<PathBuf> {
        let path = self.run_dir()?.join(format!("{id}.sock"));
        if path.as_os_str().len() < SOCKET_PATH_MAX {
            return Ok(path);
        }
        let dir = PathBuf::from(format!("/tmp/pgfiles-{}", rustix::process::geteuid().as_raw()));
        make_private(&dir)?;
        Ok(dir.join(format!("{id}.sock")))
    }

    /// The log file of a mount.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn log_path(&self, id: &str) -> Result<PathBuf> {
        let dir = self.state.join("log");
        make_private(&self.state)?;
        make_private(&dir)?;
        Ok(dir.join(format!("{id}.log")))
    }

    /// Where an NFS server of that name notes which clients have files open.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn nfs_clients_path(&self, name: &str) -> Result<PathBuf> {
        let dir = self.state.join("nfs");
        make_private(&self.state)?;
        make_private(&dir)?;
        Ok(dir.join(format!("{name}.clients")))
    }

    /// A new directory for data that could not be committed.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn recovery_path(&self, id: &str, stamp: &str) -> Result<PathBuf> {
        let dir = self.state.join("recovery");
        make_private(&self.state)?;
        make_private(&dir)?;
        let own = dir.join(format!("{id}-{stamp}"));
        make_private(&own)?;
        Ok(own)
    }

    fn run_dir(&self) -> Result<&Path> {
        let dir = self.run.first().ok_or_else(|| Failure::failed("no directory for live mounts: set HOME"))?;
        make_private(dir)?;
        Ok(dir)
    }
}

/// A registration that was found.
#[derive(Debug, Clone)]
pub struct Listed {
    /// What it says.
    pub mount: Mount,
    /// Whether the daemon lives.
    pub alive: bool,
    file: PathBuf,
}

impl Listed {
    /// Removes what a killed daemon left: its registration and its socket. Nothing where it lives.
    pub fn forget(&self) {
        if !is_held(&self.file.with_extension("lock")) {
            remove(&self.file, &self.file.with_extension("lock"), &self.mount.socket);
        }
    }
}

/// A registration that is held; dropping it removes it.
#[derive(Debug)]
pub struct Registered {
    file: PathBuf,
    lock: PathBuf,
    socket: PathBuf,
    _held: File,
}

impl Drop for Registered {
    fn drop(&mut self) {
        remove(&self.file, &self.lock, &self.socket);
    }
}

/// What cannot be removed stays and is recognised as stale by its free lock.
fn remove(file: &Path, lock: &Path, socket: &Path) {
    for path in [socket, file, lock] {
        let _ = std::fs::remove_file(path);
    }
}

fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Listers take a shared lock, so that they do not take each other for a daemon.
fn is_held(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|file| matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)))
}

fn is_private(dir: &Path) -> bool {
    let owner = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == owner && meta.mode() & 0o077 == 0)
}

/// Makes a directory that nobody else may enter.
///
/// # Errors
/// It cannot be made, or somebody else's or an open one stands there.
pub fn make_private(dir: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Failure::io(format!("cannot make {}", dir.display()), &error))?;
    if is_private(dir) {
        return Ok(());
    }
    Err(Failure::failed(format!("{} must belong to you alone: `chmod 700` it, or remove it", dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: &str) -> Mount {
        Mount {
            id: id.into(),
            pid: 1,
            mountpoint: PathBuf::from(std::ffi::OsStr::new("/mnt/ü")),
            prefix: "a/".into(),
            server: "postgres://h/db".into(),
            place: "h:5432/db".into(),
            socket: "/nowhere".into(),
            log: "/nowhere.log".into(),
            backend: "fuse".into(),
            read_only: false,
            started: "2026-01-01T00:00:00Z".into(),
            release: "0".into(),
        }
    }

    fn dirs(at: &Path) -> Dirs {
        let home = at.to_str().unwrap().to_owned();
        Dirs::new(move |name| (name == "HOME").then(|| home.clone()))
    }

    #[test]
    fn a_registration_lives_as_long_as_its_holder() {
        let home = tempfile::tempdir().unwrap();
        let dirs = dirs(home.path());
        assert!(dirs.list().is_empty());
        let held = dirs.register(&mount("m1")).unwrap();
        assert_eq!(dirs.live(), [mount("m1")]);
        drop(held);
        assert!(dirs.list().is_empty());
    }

    #[test]
    fn a_killed_daemon_is_recognised_and_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let dirs = dirs(home.path());
        let held = dirs.register(&mount("m1")).unwrap();
        let (file, lock) = (held.file.clone(), held.lock.clone());
        let (text, _) = (std::fs::read(&file).unwrap(), drop(held));
        std::fs::write(&file, text).unwrap();
        std::fs::write(&lock, "").unwrap();
        let found = dirs.list();
        assert!(!found[0].alive && dirs.live().is_empty());
        found[0].forget();
        assert!(dirs.list().is_empty());
    }

    #[test]
    fn a_directory_open_to_others_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = tempfile::tempdir().unwrap();
        let dirs = dirs(home.path());
        drop(dirs.register(&mount("m1")).unwrap());
        let run = home.path().join(".local/state/pgfiles/run");
        std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(dirs.register(&mount("m2")).unwrap_err().to_string().contains("chmod 700"));
    }

    #[test]
    fn a_long_directory_still_has_a_short_socket() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        assert!(dirs(&deep).socket_path("m1").unwrap().as_os_str().len() < SOCKET_PATH_MAX);
    }
}
