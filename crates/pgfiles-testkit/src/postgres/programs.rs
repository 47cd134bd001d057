//! The server programs, the user that they run as, and the initialised data directory that servers start from.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Server programs of one version and who runs them.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The directory of `postgres` and `initdb`.
    pub bin: PathBuf,
    /// The major version.
    pub major: u32,
    /// The user.
    pub run_as: RunAs,
}

/// The user that a server runs as.
#[derive(Debug, Clone, Copy)]
pub struct RunAs {
    /// `Some((uid, gid))` where this process is root and has to step down.
    pub other: Option<(u32, u32)>,
}

impl Programs {
    /// Looks in `bin`, `PGFILES_TEST_PG_BIN`, `/usr/lib/postgresql/*/bin` (the newest), `PATH`.
    ///
    /// # Panics
    /// With the package to install where there are none.
    pub fn find(bin: Option<&Path>) -> Self {
        let named = bin.map(Path::to_owned).or_else(|| std::env::var_os("PGFILES_TEST_PG_BIN").map(PathBuf::from));
        let bin = named.or_else(newest_packaged).or_else(on_path).filter(|bin| bin.join("initdb").exists());
        let bin = bin.expect(
            "these tests need the Postgres server programs: install postgresql (Debian), postgresql-server \
             (Fedora) or postgresql@17 (Homebrew), or set PGFILES_TEST_PG_BIN",
        );
        let version = Command::new(bin.join("postgres")).arg("--version").output().expect("postgres --version").stdout;
        let version = String::from_utf8_lossy(&version).into_owned();
        let number = version.split_ascii_whitespace().find_map(|word| word.split('.').next()?.parse().ok());
        Self { bin, major: number.expect("a version number"), run_as: RunAs::find() }
    }

    /// A program of this version, run as the server's user.
    pub fn command(&self, program: &str) -> Command {
        self.run_as.command(self.bin.join(program))
    }

    /// A data directory fresh from initdb, made once per version, encoding and locale, and kept in the temporary
    /// directory for the next test process.
    pub fn template(&self, encoding: &str, locale: &str) -> PathBuf {
        let cache = std::env::temp_dir().join(format!("pgfiles-testkit-{}", self.run_as.uid()));
        if !self.run_as.owns(&cache) {
            let made = self.run_as.make_dir("pgfiles-testkit-new-", 0o700);
            if std::fs::rename(&made, &cache).is_err() {
                let _ = std::fs::remove_dir(&made);
            }
            assert!(self.run_as.owns(&cache), "{} belongs to somebody else: remove it", cache.display());
        }
        let template = cache.join(format!("{}-{encoding}-{locale}", self.major));
        if !template.exists() {
            let fresh = self.run_as.make_dir_in(&cache, "new-", 0o700);
            let mut initdb = self.command("initdb");
            initdb.args(["--username=postgres", "--auth=trust", "--no-sync", "--no-instructions"]);
            initdb.arg(format!("--encoding={encoding}")).arg(format!("--locale={locale}")).arg("--pgdata").arg(&fresh);
            let output = initdb.output().expect("initdb starts");
            assert!(output.status.success(), "initdb failed:\n{}", String::from_utf8_lossy(&output.stderr));
            if std::fs::rename(&fresh, &template).is_err() {
                let _ = std::fs::remove_dir_all(&fresh);
            }
        }
        template
    }
}

impl RunAs {
    /// This user, or for root `postgres`, else `nobody`.
    fn find() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self { other: None };
        }
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let ids = |user: &str| {
            let mut fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == user)?.into_iter();
            Some((fields.nth(2)?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        Self { other: Some(ids("postgres").or_else(|| ids("nobody")).unwrap_or((65_534, 65_534))) }
    }

    /// The user's number.
    pub fn uid(self) -> u32 {
        self.other.map_or_else(|| rustix::process::geteuid().as_raw(), |(uid, _)| uid)
    }

    /// A program run as this user.
    pub fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env("LC_ALL", "C");
        if let Some((uid, gid)) = self.other {
            command.uid(uid).gid(gid).env("HOME", "/");
        }
        command
    }

    /// A new directory of this user in the temporary directory.
    pub fn make_dir(self, prefix: &str, mode: u32) -> PathBuf {
        self.make_dir_in(&std::env::temp_dir(), prefix, mode)
    }

    fn make_dir_in(self, parent: &Path, prefix: &str, mode: u32) -> PathBuf {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir_in(parent).expect("a temporary directory").keep();
        self.give(&dir, mode);
        dir
    }

    /// Makes a file or directory this user's.
    pub fn give(self, path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        if let Some((uid, gid)) = self.other {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("chown");
        }
    }

    fn owns(self, dir: &Path) -> bool {
        dir.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == self.uid())
    }
}

fn newest_packaged() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let number = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest =
        versions.map(|entry| entry.path()).filter(|path| path.join("bin/postgres").exists()).max_by_key(|path| number(path));
    newest.map(|path| path.join("bin"))
}

fn on_path() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).find(|dir| dir.join("postgres").exists() && dir.join("initdb").exists())
}
