//! A user's machine in a temporary directory: a home of its own, a database of its own, the real binary.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long any command of a test may take before the test fails.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// One user with one database. Everything it mounted is unmounted when it goes.
pub struct Sandbox {
    pub home: TempDir,
    pub dsn: String,
    settings: Vec<(String, String)>,
    mounts: std::sync::Mutex<Vec<PathBuf>>,
    _database: Option<pgfiles_testkit::postgres::Database>,
}

impl Sandbox {
    /// A user of an initialised database.
    pub fn new(dsn: &str) -> Self {
        let sandbox = Self::fenced(dsn);
        sandbox.ok(["init"]);
        sandbox
    }

    /// A user who has no right to initialise.
    pub fn fenced(dsn: &str) -> Self {
        Self {
            home: tempfile::Builder::new().prefix("pgf").tempdir().unwrap(),
            dsn: dsn.to_owned(),
            settings: Vec::new(),
            mounts: std::sync::Mutex::default(),
            _database: None,
        }
    }

    /// A user with a fresh database of a server.
    pub fn on(server: &pgfiles_testkit::postgres::Postgres) -> Self {
        let database = database(server);
        let mut user = Self::new(&database.dsn());
        user._database = Some(database);
        user
    }

    /// Another machine of the same agent: own home, own cache, same database.
    pub fn another(&self) -> Self {
        let mut other = Self::new(&self.dsn);
        other.settings.clone_from(&self.settings);
        other
    }

    /// With one more setting in the environment of every command.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A command of the binary under test.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgfiles"));
        command.args(args).stdin(Stdio::null());
        self.environment(&mut command);
        command
    }

    /// A shell script with the binary on its path, in `dir`.
    pub fn shell(&self, dir: &Path, script: &str) -> Output {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(dir).stdin(Stdio::null());
        self.environment(&mut command);
        let output = finish(command, script);
        assert!(output.status.success(), "{script}\n{}", talk(&output));
        output
    }

    fn environment(&self, command: &mut Command) {
        let home = self.home.path();
        let bin = Path::new(env!("CARGO_BIN_EXE_pgfiles")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PGFILES_") || name.starts_with("PG")) {
            command.env_remove(name);
        }
        command
            .env("HOME", home)
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("XDG_CONFIG_HOME", home.join(".config"))
            .env("XDG_STATE_HOME", home.join(".local/state"))
            .env("XDG_DATA_HOME", home.join(".local/share"))
            .env("XDG_CACHE_HOME", home.join(".cache"))
            .env("XDG_RUNTIME_DIR", home)
            .env("PGFILES_DSN", &self.dsn)
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
    }

    /// Runs a command that must succeed; its stdout.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let command = self.command(args);
        let what = format!("{command:?}");
        let output = finish(command, &what);
        assert!(output.status.success(), "{what}\n{}", talk(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that may fail.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let command = self.command(args);
        let what = format!("{command:?}");
        finish(command, &what)
    }

    /// Mounts a prefix on a new directory of that name.
    pub fn mount(&self, prefix: &str, name: &str) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(&path).ok();
        let mut command = self.command([OsStr::new("mount"), path.as_os_str()]);
        command.env("PGFILES_PREFIX", prefix);
        let output = finish(command, "mount");
        assert!(output.status.success(), "mount {}\n{}", path.display(), talk(&output));
        assert!(output.stdout.is_empty(), "mount prints nothing on stdout");
        self.mounts.lock().unwrap().push(path.clone());
        path
    }

    /// Unmounts, waiting for the last byte.
    pub fn unmount(&self, path: &Path) {
        self.ok([OsStr::new("unmount"), path.as_os_str()]);
        self.mounts.lock().unwrap().retain(|mounted| mounted != path);
    }

    /// The state of one mount, from `status --json`.
    pub fn status(&self, path: &Path) -> serde_json::Value {
        let text = self.ok([OsStr::new("status"), OsStr::new("--json"), path.as_os_str()]);
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mine = |mount: &serde_json::Value| mount["mountpoint"].as_str().map(Path::new) == Some(path);
        all.as_array().unwrap_or_else(|| panic!("{text}")).iter().find(|m| mine(m)).unwrap_or_else(|| panic!("{text}")).clone()
    }

    /// The daemon's process id.
    pub fn daemon(&self, path: &Path) -> i32 {
        self.status(path)["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("status names the pid")
    }

    /// A connection of a backend.
    pub fn sql(&self) -> Sql {
        Sql::connect(&self.dsn)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for path in self.mounts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..) {
            let mut command = self.command([OsStr::new("unmount"), OsStr::new("--timeout"), OsStr::new("20s"), path.as_os_str()]);
            let unmounted = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            if !unmounted.is_ok_and(|status| status.success()) {
                Command::new("umount").arg("-l").arg(&path).stderr(Stdio::null()).status().ok();
            }
        }
    }
}

/// Saves a file as a careful program does: close(2) is asked how it went, which `std::fs::write` does not.
pub fn save(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path)?;
    file.write_all(content)?;
    close(file)
}

/// close(2) with its answer.
#[allow(unsafe_code)]
pub fn close(file: std::fs::File) -> std::io::Result<()> {
    use std::os::fd::IntoRawFd as _;
    // SAFETY: the descriptor was owned by `file` and is closed exactly once.
    let closed = unsafe { libc::close(file.into_raw_fd()) };
    if closed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Kills a process outright.
pub fn kill_9(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Peak and present resident memory of a process in bytes.
pub fn memory(pid: i32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    (field("VmHWM:"), field("VmRSS:"))
}

fn talk(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs to the end, or fails the test after [`COMMAND_LIMIT`].
pub fn finish(command: Command, what: &str) -> Output {
    finish_within(COMMAND_LIMIT, command, what)
}

/// The same with another limit.
pub fn finish_within(limit: Duration, mut command: Command, what: &str) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|why| panic!("{what}: {why}"));
    fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut out = Vec::new();
            if let Some(mut pipe) = pipe {
                pipe.read_to_end(&mut out).ok();
            }
            out
        })
    }
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = wait(&mut child, limit).unwrap_or_else(|| {
        child.kill().ok();
        panic!("{what}: still running after {limit:?}")
    });
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    eventually_value(limit, || child.try_wait().unwrap())
}

/// Polls until something is there.
pub fn eventually_value<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Polls until a condition holds; fails the test after a minute.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    eventually_value(Duration::from_secs(60), || holds().then_some(())).unwrap_or_else(|| panic!("never: {what}"));
}

/// A backend's view: plain SQL.
pub struct Sql {
    runtime: tokio::runtime::Runtime,
    client: tokio_postgres::Client,
}

impl Sql {
    fn connect(dsn: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (client, connection) = runtime.block_on(tokio_postgres::connect(dsn, tokio_postgres::NoTls)).unwrap();
        runtime.spawn(async move {
            connection.await.ok();
        });
        Self { runtime, client }
    }

    /// Rows of a query without parameters, each column as text.
    pub fn rows(&self, query: &str) -> Vec<Vec<Option<String>>> {
        self.try_rows(query).unwrap_or_else(|why| panic!("{query}: {why:?}"))
    }

    /// The same, or what the server says.
    pub fn try_rows(&self, query: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
        let messages = self.runtime.block_on(self.client.simple_query(query))?;
        let row = |message: &tokio_postgres::SimpleQueryMessage| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        };
        Ok(messages.iter().filter_map(row).collect())
    }

    /// The one value of a query.
    pub fn one(&self, query: &str) -> String {
        let rows = self.rows(query);
        rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_else(|| panic!("{query}: {rows:?}"))
    }
}

/// Bytes that depend on a seed only, for files whose content is checked without keeping it.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// What a tree looks like to its user: path → kind, mode, times, target, inode number, content.
pub fn snapshot(root: &Path) -> std::collections::BTreeMap<PathBuf, String> {
    use sha2::Digest as _;
    use std::os::unix::fs::MetadataExt as _;
    let mut out = std::collections::BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let content = if meta.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else if meta.is_file() {
                format!("{:x}", sha2::Sha256::digest(std::fs::read(&path).unwrap()))
            } else {
                String::new()
            };
            let time = (!meta.is_dir()).then(|| (meta.mtime(), meta.mtime_nsec()));
            let size = if meta.is_dir() { 0 } else { meta.len() };
            let line = format!("{:o} {}:{} {size} {time:?} ino {} {content}", meta.mode(), meta.uid(), meta.gid(), meta.ino());
            if meta.is_dir() {
                open.push(path.clone());
            }
            out.insert(path.strip_prefix(root).unwrap().to_path_buf(), line);
        }
    }
    out
}

/// Fails with the first few differences.
pub fn same_tree(what: &str, left: &Path, right: &std::collections::BTreeMap<PathBuf, String>) {
    let now = snapshot(left);
    let gone =
        right.iter().filter(|(path, _)| !now.contains_key(*path)).map(|(path, line)| format!("- {} {line}", path.display()));
    let other = now.iter().filter(|(path, line)| right.get(*path) != Some(line)).map(|(path, line)| {
        format!("+ {} {line}\n  was {}", path.display(), right.get(path).map_or("not there", String::as_str))
    });
    let differences: Vec<String> = gone.chain(other).take(8).collect();
    assert!(differences.is_empty(), "{what}: {} entries now, {} before\n{}", now.len(), right.len(), differences.join("\n"));
}

/// A fresh database of a server.
pub fn database(server: &pgfiles_testkit::postgres::Postgres) -> pgfiles_testkit::postgres::Database {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(server.database())
}
