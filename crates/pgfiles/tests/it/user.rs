//! A user with a home of their own who runs the program as a process.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgfiles_testkit::postgres::{Database, Postgres};

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_pgfiles");

/// What a command left.
#[derive(Debug)]
pub struct Ran {
    /// The exit code.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Asserts success and gives stdout.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// Asserts that it failed with that code and one sentence that holds all of `parts`.
    #[track_caller]
    pub fn fails(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in {self:?}");
        }
        for noise in ["panicked", "RUST_BACKTRACE", "Error {", "os error"] {
            assert!(!self.stderr.contains(noise), "{noise:?} in {self:?}");
        }
        self
    }

    pub fn json(self) -> serde_json::Value {
        let text = self.ok();
        Self { code: 0, stdout: text, stderr: String::new() }.json_of_any_code()
    }

    /// The answer, whatever the exit code.
    pub fn json_of_any_code(self) -> serde_json::Value {
        let text = self.stdout;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// A home, and a database in the shared server. Mounts that are left are taken away at the end.
pub struct User {
    pub home: tempfile::TempDir,
    pub database: Option<Database>,
    pub vars: Vec<(String, String)>,
}

impl User {
    /// With a fresh database that was initialised.
    pub fn with_table() -> Self {
        let user = Self::with_database();
        user.run(["init"]).ok();
        user
    }

    /// With a fresh database.
    pub fn with_database() -> Self {
        let mut user = Self::alone();
        let database = block_on(Postgres::shared().database());
        user.set("PGFILES_DSN", &database.dsn());
        user.database = Some(database);
        user
    }

    /// Without any server.
    pub fn alone() -> Self {
        let home = tempfile::Builder::new().prefix("pgfiles-user-").tempdir_in("/tmp").unwrap();
        Self { home, database: None, vars: Vec::new() }
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.vars.retain(|(had, _)| had != name);
        self.vars.push((name.to_owned(), value.to_owned()));
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.home.path().join(name);
        // Under a dead mount it cannot be made, and is there.
        let made = std::fs::create_dir_all(&dir);
        assert!(made.is_ok() || made.is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists));
        dir
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args).env_clear().env("HOME", self.home.path()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.current_dir(self.home.path()).envs(self.vars.iter().cloned()).stdin(Stdio::null());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        finish(self.command(args))
    }

    pub fn run_in<S: AsRef<OsStr>>(&self, dir: &Path, args: impl IntoIterator<Item = S>) -> Ran {
        let mut command = self.command(args);
        command.current_dir(dir);
        finish(command)
    }

    pub fn feed<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        ran(output)
    }

    /// A statement as the superuser, by `psql`-like simple query; the first column of each row as text.
    pub fn sql(&self, statement: &str) -> Vec<String> {
        let database = self.database.as_ref().expect("a database");
        block_on(async {
            let client = database.connect().await;
            let messages = client.simple_query(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
            let text = |message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            };
            messages.into_iter().filter_map(text).collect()
        })
    }

    pub fn status(&self) -> serde_json::Value {
        self.run(["status", "--json"]).json()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let home = self.home.path().to_string_lossy().into_owned();
        for mountpoint in table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| at.starts_with(&home)) {
            let _ = rustix::mount::unmount(mountpoint, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Whether mounting works here; prints why a test is skipped where not.
pub fn can_mount() -> bool {
    let can = std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !can {
        eprintln!("skipped, because /dev/fuse cannot be opened");
    }
    can
}

/// Waits until something holds, at most 30 s.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub fn finish(mut command: Command) -> Ran {
    ran(command.output().unwrap())
}

pub fn ran(output: std::process::Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
