//! The private server's data directory and its process: made, configured, started, stopped.
//!
//! Only a keeper (see `keeper.rs`) starts and stops; only the holder of `start.lock` makes the directory. A new data directory is made under
//! another name and renamed, so that one that exists is whole. The server's standard input is `server.lock`, locked: all its processes
//! inherit it, so the lock is held exactly as long as any of them lives, and a left-over `postmaster.pid` means nothing.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::account::Account;
use super::place::{Place, lock_until, try_lock};
use super::programs::Programs;

/// Name of the superuser and of the database.
pub const NAME: &str = "pgfiles";
/// A log longer than this is moved to `server.log.1` when the server starts.
const LOG_BYTES_MAX: u64 = 1 << 20;
/// How long a fast shutdown may take (it writes a checkpoint) before an immediate one, from which the next start recovers.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// How long the processes of a server may outlive their parent.
const ENDING_PATIENCE: Duration = Duration::from_secs(5);
/// How often the state of a starting server is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Included by `postgresql.conf` and written anew at each start; `ALTER SYSTEM` goes over it.
const SETTINGS: &str = "\
# Written by pgfiles at each start of its private server. To change a setting, use ALTER SYSTEM.
max_connections = 200
shared_buffers = 128MB
jit = off
wal_compression = on
fsync = on
full_page_writes = on
synchronous_commit = on
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
# Refused statements are answered to the client; they and their contents stay out of the log.
log_min_messages = log
log_min_error_statement = panic
log_checkpoints = off
cluster_name = 'pgfiles local'
";

/// A private server: its place, its user and the programs that fit its data.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Where it lives.
    pub place: Place,
    /// Who it runs as.
    pub account: Account,
    /// The programs of the same major version as the data.
    pub programs: Programs,
}

impl Cluster {
    /// Finds user and programs for a place. Changes nothing.
    pub fn at(place: Place) -> Result<Cluster> {
        let account = Account::of_server(&place.data())?;
        let major = data_major(&place.data())?;
        let programs = Programs::choose(&Programs::installed(&account), &account, &place.data(), major)?;
        Ok(Cluster { place, account, programs })
    }

    /// Makes the data directory, if there is none. The caller holds `start.lock`.
    pub fn create_data(&self) -> Result<()> {
        let data = self.place.data();
        if data.join("PG_VERSION").exists() {
            return Ok(());
        }
        let new = self.place.base.join("data.new");
        if new.exists() {
            std::fs::remove_dir_all(&new).with_context(|| format!("cannot remove the unfinished {}", new.display()))?;
        }
        tracing::info!(data = %data.display(), postgres = self.programs.major, "setting up a private Postgres");
        self.initdb(&new, "C.UTF-8").or_else(|_| self.initdb(&new, "C"))?;
        self.create_database(&new)?;
        std::fs::rename(&new, &data).with_context(|| format!("cannot rename {} to {}", new.display(), data.display()))?;
        Ok(File::open(&self.place.base)?.sync_all()?)
    }

    fn initdb(&self, dir: &Path, locale: &str) -> Result<()> {
        let _ = std::fs::remove_dir_all(dir);
        DirBuilder::new().mode(0o700).create(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        self.account.own(&File::open(dir)?)?;
        let mut command = self.account.command(self.programs.path("initdb"));
        command.arg("-D").arg(dir).args(["-U", NAME, "-E", "UTF8", "--data-checksums", "-A", "peer"]);
        command.arg(format!("--locale={locale}"));
        succeed("initdb", run(&mut command)?)
    }

    /// `CREATE DATABASE` without a server: nobody can be connected yet.
    fn create_database(&self, dir: &Path) -> Result<()> {
        let mut command = self.account.command(self.programs.path("postgres"));
        command
            .arg("--single")
            .arg("-D")
            .arg(dir)
            .arg("postgres")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
        child.stdin.take().context("no pipe")?.write_all(format!("CREATE DATABASE {NAME}\n").as_bytes())?;
        let out = child.wait_with_output()?;
        let failed = String::from_utf8_lossy(&out.stderr).contains("ERROR:");
        ensure!(!failed, "cannot make the database {NAME}: {}", last_lines(&out.stderr));
        succeed("postgres --single", out)
    }

    /// Starts the server and waits until it takes connections. None: a server of this data runs already. The caller holds `keeper.lock`.
    pub fn start(&self) -> Result<Option<Child>> {
        let lock = self.place.lock_file("server.lock")?;
        if !try_lock(&lock, true)? || self.foreign_server()?.is_some() {
            return Ok(None);
        }
        let sockets = self.place.create_socket_dir(&self.account)?;
        for stale in [self.place.data().join("postmaster.pid"), sockets.join(".s.PGSQL.5432"), sockets.join(".s.PGSQL.5432.lock")]
        {
            remove_if_there(&stale)?;
        }
        self.configure()?;
        let log = open_log(&self.place)?;
        let log_start = log.metadata()?.len();
        let mut command = self.account.command(self.programs.path("postgres"));
        command.arg("-D").arg(self.place.data());
        for setting in [
            "listen_addresses=".to_owned(),
            "port=5432".to_owned(),
            format!("unix_socket_directories={}", quoted_path(&sockets)?),
            "unix_socket_permissions=0700".to_owned(),
            "logging_collector=off".to_owned(),
        ] {
            command.arg("-c").arg(setting);
        }
        command.stdin(Stdio::from(lock)).stdout(Stdio::from(log.try_clone()?)).stderr(Stdio::from(log));
        let child = command.spawn().with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
        drop(command); // and with it our copy of the locked file
        self.await_ready(child, log_start).map(Some)
    }

    fn await_ready(&self, mut child: Child, log_start: u64) -> Result<Child> {
        loop {
            if let Some(status) = child.try_wait()? {
                let said = log_from(&self.place.log(), log_start);
                bail!("the private Postgres did not start ({status}): {said} (its log is {})", self.place.log().display());
            }
            if self.postmaster().is_some_and(|(pid, ready)| ready && pid == child.id()) {
                return Ok(child);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Stops the server, if one runs, and returns when none of its processes is left.
    pub fn stop(&self) -> Result<()> {
        let lock = self.place.lock_file("server.lock")?;
        for mode in ["fast", "immediate"] {
            if try_lock(&lock, true)? && self.foreign_server()?.is_none() {
                return Ok(());
            }
            // Run as the server's user, so that a forged process number in its file cannot make root signal another's process.
            let mut command = self.account.command(self.programs.path("pg_ctl"));
            let out = run(command.arg("stop").arg("-D").arg(self.place.data()).args(["-m", mode, "-t", "60"]))?;
            // Refused: there is no such server any more, or its directory has gone.
            let patience = if out.status.success() { STOP_PATIENCE } else { ENDING_PATIENCE };
            if lock_until(&lock, true, Instant::now() + patience)? {
                return Ok(());
            }
        }
        bail!("the private Postgres in {} does not stop; see {}", self.place.data().display(), self.place.log().display())
    }

    /// Process number and readiness, from the file that the server keeps (`src/include/utils/pidfile.h`).
    fn postmaster(&self) -> Option<(u32, bool)> {
        let text = std::fs::read_to_string(self.place.data().join("postmaster.pid")).ok()?;
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        Some((pid, lines.nth(6).is_some_and(|status| status.trim() == "ready")))
    }

    /// A server that someone else started on this data (an administrator, `pg_upgrade`): a live `postgres` whose number is in
    /// `postmaster.pid`. Another program that has that number by chance, after a crash, is not one.
    fn foreign_server(&self) -> Result<Option<u32>> {
        let Some((pid, _)) = self.postmaster() else { return Ok(None) };
        let Ok(raw) = i32::try_from(pid) else { return Ok(None) };
        let Some(process) = rustix::process::Pid::from_raw(raw) else { return Ok(None) };
        if rustix::process::test_kill_process(process) == Err(rustix::io::Errno::SRCH) {
            return Ok(None);
        }
        let out = Command::new("ps").args(["-o", "stat=,comm=", "-p", &pid.to_string()]).stdin(Stdio::null()).output();
        let said = match out {
            Ok(out) => String::from_utf8_lossy(&out.stdout).into_owned(),
            Err(_) => std::fs::read_to_string(format!("/proc/{pid}/stat")).context("cannot see what runs: install `ps`")?,
        };
        let dead = said.trim_start().starts_with('Z') || said.contains(") Z ");
        let server = said.contains("postgres") || said.contains("postmaster");
        if dead || !server {
            return Ok(None);
        }
        // On Linux its working directory tells whether it serves this data or another.
        let here = self.place.data().canonicalize().ok();
        match std::fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(cwd) if Some(&cwd) != here.as_ref() => Ok(None),
            _ => Ok(Some(pid)),
        }
    }

    /// Writes what the server reads at start: our settings, and who may connect: the user it runs as, the user that we are, and no one else.
    fn configure(&self) -> Result<()> {
        let data = self.place.data();
        self.write(&data.join("pgfiles.conf"), SETTINGS)?;
        self.write(&data.join("pg_hba.conf"), "# Written by pgfiles at each start.\nlocal all all peer map=pgfiles\n")?;
        let me = Account::look_up(&rustix::process::geteuid().as_raw().to_string())?;
        let mut map = "# Written by pgfiles at each start.\n".to_owned();
        for name in [&self.account.name, &me.name] {
            map += &format!("pgfiles \"{}\" {NAME}\n", name.replace('"', "\"\""));
        }
        self.write(&data.join("pg_ident.conf"), &map)?;
        let main = data.join("postgresql.conf");
        let text = std::fs::read_to_string(&main).with_context(|| format!("cannot read {}", main.display()))?;
        if !text.lines().any(|line| line.trim() == "include = 'pgfiles.conf'") {
            self.write(&main, &format!("{text}\ninclude = 'pgfiles.conf'\n"))?;
        }
        Ok(())
    }

    /// Replaces a file of the data directory, as its owner would have it.
    fn write(&self, path: &Path, text: &str) -> Result<()> {
        let what = || format!("cannot write {}", path.display());
        let new = path.with_extension("new");
        remove_if_there(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).with_context(what)?;
        self.account.own(&file)?;
        file.write_all(text.as_bytes()).with_context(what)?;
        file.sync_all().with_context(what)?;
        std::fs::rename(&new, path).with_context(what)
    }
}

/// Major version of a data directory; None when there is none yet.
fn data_major(data: &Path) -> Result<Option<u32>> {
    match std::fs::read_to_string(data.join("PG_VERSION")) {
        Ok(text) => Ok(Some(text.trim().parse().with_context(|| format!("{}/PG_VERSION holds {text:?}", data.display()))?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}/PG_VERSION", data.display())),
    }
}

/// Opens the server's log to add to it; a long one is put aside first.
pub fn open_log(place: &Place) -> Result<File> {
    let path = place.log();
    if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
        std::fs::rename(&path, path.with_extension("log.1"))?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

/// What was added to the log from a position on, in one line.
fn log_from(path: &PathBuf, start: u64) -> String {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(start))?;
        file.read_to_end(&mut text)
    });
    read.map_or_else(|e| e.to_string(), |_| last_lines(&text))
}

fn run(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))
}

fn succeed(what: &str, out: Output) -> Result<()> {
    let status = out.status;
    ensure!(status.success(), "{what} failed ({status}): {}", last_lines(&out.stderr));
    Ok(())
}

/// The last three lines of what a program said, joined.
fn last_lines(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join("; ")
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).with_context(|| format!("cannot remove {}", path.display())),
        _ => Ok(()),
    }
}

/// A path as an element of a list setting.
fn quoted_path(path: &Path) -> Result<String> {
    let path = path.to_str().with_context(|| format!("{}: a path for Postgres has to be UTF-8", path.display()))?;
    Ok(format!("\"{}\"", path.replace('"', "\"\"")))
}
