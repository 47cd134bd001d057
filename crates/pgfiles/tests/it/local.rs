//! `local:` against real Postgres programs: set up, shared, stopped, killed in every part, recovered.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pgfiles::local::{Lease, acquire_with};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pgfiles");

/// A file that the test has open while it starts a server.
const INHERITED: &str = "/etc/passwd";

/// A place for one test, directly below /tmp so that the server's user may enter it; emptied when the server has stopped.
struct Ground {
    base: PathBuf,
}

impl Ground {
    /// None, with a reason printed, where no server programs are installed.
    fn new() -> Option<Ground> {
        let base = PathBuf::from(format!("/tmp/pgfiles-it-{}", uuid::Uuid::new_v4().simple()));
        let ground = Ground { base };
        match acquire_with(&ground.dsn(), Path::new(PROGRAM)) {
            Err(e) if e.to_string().contains("none are installed") => {
                eprintln!("skipped, because {e}");
                None
            }
            first => {
                drop(first.expect("the server starts"));
                Some(ground)
            }
        }
    }

    fn dsn(&self) -> String {
        format!("local:{}?stop_after=0.2", self.base.display())
    }

    fn acquire(&self) -> Lease {
        acquire_with(&self.dsn(), Path::new(PROGRAM)).expect("the server starts")
    }

    fn answers(&self) -> bool {
        UnixStream::connect(self.base.join("sock/.s.PGSQL.5432")).is_ok()
    }

    fn postmaster(&self) -> Option<u32> {
        std::fs::read_to_string(self.base.join("data/postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
    }

    fn keepers(&self) -> Vec<u32> {
        let mine = |pid: &u32| {
            let said = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let said = String::from_utf8_lossy(&said).into_owned();
            said.contains("local-keeper") && said.contains(self.base.to_string_lossy().as_ref())
        };
        let all = std::fs::read_dir("/proc").expect("/proc").flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(mine).collect()
    }

    fn stopped(&self) {
        wait_for("the server to stop", || !self.answers() && self.postmaster().is_none() && self.keepers().is_empty());
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stopped();
        }
        let _ = std::fs::remove_dir_all(&self.base);
    }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

fn sql(lease: &Lease, query: &str) -> Result<String, String> {
    let out = Command::new("psql").args(["-XAtqc", query]).arg(lease.dsn()).output().expect("psql runs");
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process number");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
}

#[test]
fn set_up_used_stopped_and_used_again() {
    // As a shell's `exec 9<file` has it: open in every program that it starts.
    let file = std::fs::File::open(INHERITED).expect("opened");
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).expect("inherited from now on");
    let Some(ground) = Ground::new() else { return };
    let lease = ground.acquire();
    assert_eq!(sql(&lease, "SELECT current_database() || ' ' || getdatabaseencoding()").as_deref(), Ok("pgfiles UTF8"));
    assert_eq!(sql(&lease, "SHOW listen_addresses").as_deref(), Ok(""));
    assert_eq!(sql(&lease, "SHOW fsync").as_deref(), Ok("on"));
    assert_eq!(sql(&lease, "SHOW jit").as_deref(), Ok("off"), "pgfiles.conf is read");
    sql(&lease, "CREATE TABLE kept AS SELECT 42 AS n").expect("created");
    for pid in [ground.keepers()[0], ground.postmaster().expect("runs")] {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("read").flatten();
        let open: Vec<PathBuf> = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
        assert!(!open.iter().any(|path| path == Path::new(INHERITED)), "{pid}: {open:?}");
    }
    let keeper = std::fs::read(format!("/proc/{}/environ", ground.keepers()[0])).expect("read");
    assert!(!String::from_utf8_lossy(&keeper).contains("CARGO"), "the keeper's environment holds nothing of ours");
    // A use longer than the time to stop keeps it running.
    let started = sql(&lease, "SELECT pg_postmaster_start_time()");
    sql(&lease, "SELECT pg_sleep(0.6)").expect("slept");
    assert_eq!(sql(&lease, "SELECT pg_postmaster_start_time()"), started);
    drop(lease);
    ground.stopped();
    assert_eq!(sql(&ground.acquire(), "SELECT n FROM kept").as_deref(), Ok("42"));
}

#[test]
fn nobody_else_may_connect() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped, because only root can become another user");
        return;
    }
    use std::os::unix::process::CommandExt;
    let Some(ground) = Ground::new() else { return };
    let lease = ground.acquire();
    let out =
        Command::new("psql").args(["-XAtqc", "SELECT 1"]).arg(lease.dsn()).uid(65534).gid(65534).output().expect("psql runs");
    assert!(!out.status.success());
    // Even with the directory open, the server asks the kernel who it is.
    use std::os::unix::fs::PermissionsExt;
    for (path, mode) in [("sock", 0o777), ("sock/.s.PGSQL.5432", 0o777)] {
        std::fs::set_permissions(ground.base.join(path), std::fs::Permissions::from_mode(mode)).expect("opened");
    }
    let out =
        Command::new("psql").args(["-XAtqc", "SELECT 1"]).arg(lease.dsn()).uid(65534).gid(65534).output().expect("psql runs");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.to_lowercase().contains("peer authentication failed"), "{said}");
    std::fs::set_permissions(ground.base.join("sock"), std::fs::Permissions::from_mode(0o700)).expect("closed");
}

#[test]
fn many_start_it_at_once() {
    let Some(ground) = Ground::new() else { return };
    ground.stopped();
    std::fs::remove_dir_all(&ground.base).expect("as new");
    let starts: Vec<String> = std::thread::scope(|scope| {
        let one = || scope.spawn(|| sql(&ground.acquire(), "SELECT pg_postmaster_start_time()").expect("answers"));
        let all: Vec<_> = (0..8).map(|_| one()).collect();
        all.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(starts.windows(2).all(|pair| pair[0] == pair[1]), "{starts:?}");
}

#[test]
fn starting_and_stopping_at_once_agree() {
    let Some(ground) = Ground::new() else { return };
    let dsn = format!("local:{}?stop_after=0", ground.base.display());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..8 {
                    let lease = acquire_with(&dsn, Path::new(PROGRAM)).expect("the server starts");
                    assert_eq!(sql(&lease, "SELECT 1").as_deref(), Ok("1"));
                }
            });
        }
    });
}

#[test]
fn a_killed_server_comes_back_while_in_use() {
    let Some(ground) = Ground::new() else { return };
    let lease = ground.acquire();
    sql(&lease, "CREATE TABLE kept AS SELECT 42 AS n").expect("created");
    for _ in 0..2 {
        let pid = ground.postmaster().expect("runs");
        kill(pid);
        wait_for("another server", || ground.postmaster().is_some_and(|new| new != pid) && sql(&lease, "SELECT 1").is_ok());
    }
    assert_eq!(sql(&lease, "SELECT n FROM kept").as_deref(), Ok("42"));
}

#[test]
fn a_killed_keeper_is_replaced_at_the_next_use() {
    let Some(ground) = Ground::new() else { return };
    let lease = ground.acquire();
    let before = sql(&lease, "SELECT pg_postmaster_start_time()");
    ground.keepers().into_iter().for_each(kill);
    let second = ground.acquire();
    assert_eq!(sql(&second, "SELECT pg_postmaster_start_time()"), before, "the server went on");
    wait_for("one new keeper", || ground.keepers().len() == 1);
    drop((lease, second));
    // The new keeper is not the server's parent, and stops it all the same.
    wait_for("the server to stop", || !ground.answers());
}

#[test]
fn what_a_crash_leaves_behind_is_cleaned() {
    let Some(ground) = Ground::new() else { return };
    let lease = ground.acquire();
    sql(&lease, "CREATE TABLE kept AS SELECT 42 AS n").expect("created");
    let postmaster = ground.postmaster().expect("runs");
    ground.keepers().into_iter().for_each(kill);
    kill(postmaster);
    drop(lease);
    // After a reboot the number in postmaster.pid may be that of any program, as here of this test.
    let file = ground.base.join("data/postmaster.pid");
    let text = std::fs::read_to_string(&file).expect("left behind");
    std::fs::write(&file, text.replacen(&postmaster.to_string(), &std::process::id().to_string(), 1)).expect("written");
    std::fs::write(ground.base.join("sock/.s.PGSQL.5432.lock"), format!("{}\n", std::process::id())).expect("written");
    assert_eq!(sql(&ground.acquire(), "SELECT n FROM kept").as_deref(), Ok("42"));
}

#[test]
fn data_of_another_version_is_met_with_the_steps() {
    let Some(ground) = Ground::new() else { return };
    ground.stopped();
    let file = ground.base.join("data/PG_VERSION");
    let real = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, "13\n").expect("written");
    let error = acquire_with(&ground.dsn(), Path::new(PROGRAM)).expect_err("another version").to_string();
    for part in ["made by Postgres 13", "pg_upgrade", "install"] {
        assert!(error.contains(part), "{part} is missing in: {error}");
    }
    std::fs::write(&file, real).expect("written");
    drop(ground.acquire());
}

#[test]
fn a_server_that_does_not_start_is_explained() {
    let Some(ground) = Ground::new() else { return };
    ground.stopped();
    let file = ground.base.join("data/postgresql.conf");
    let real = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, format!("{real}\nno_such_setting = 1\n")).expect("written");
    let error = acquire_with(&ground.dsn(), Path::new(PROGRAM)).expect_err("does not start").to_string();
    assert!(error.contains("no_such_setting") && error.contains("server.log") && !error.contains('\n'), "{error}");
    std::fs::write(&file, real).expect("written");
    drop(ground.acquire());
}

#[test]
fn a_server_whose_directory_is_removed_ends() {
    let Some(ground) = Ground::new() else { return };
    let lease = ground.acquire();
    let (server, keepers) = (ground.postmaster().expect("runs"), ground.keepers());
    std::fs::remove_dir_all(&ground.base).expect("removed");
    drop(lease);
    let ended = |pid: u32| !std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    wait_for("both to end", || ended(server) && keepers.iter().all(|keeper| ended(*keeper)));
}
