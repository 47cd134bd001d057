//! Several mounts of one prefix with `PGFILES_SHARED`: locks, O_EXCL, close-to-open.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use pgfiles_testkit::postgres::Postgres;
use pgfiles_testkit::postgres::bouncer::Bouncer;

use crate::harness::{Sandbox, database, eventually, kill_9};

/// Two machines of one agent.
fn two_mounts() -> (Sandbox, Sandbox, PathBuf, PathBuf) {
    let one = Sandbox::on(Postgres::shared()).with("PGFILES_SHARED", "true");
    let two = one.another();
    let (a, b) = (one.mount("agents/7/", "work"), two.mount("agents/7/", "work"));
    (one, two, a, b)
}

/// A process that opens files and locks them as it is told, a line each.
pub struct Locker {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// Orders: `open NAME PATH`, `close NAME`, `flock NAME sh|ex|un [wait]`, `fcntl NAME sh|ex|un START LEN [wait]`, `ofd` likewise,
/// `get NAME sh|ex START LEN`, `add NAME` (adds 1 to the number in the file).
const LOCKER: &str = r#"
import fcntl, os, struct, sys
files, OFD_GETLK, OFD_SETLK, OFD_SETLKW = {}, 36, 37, 38
KIND = {'sh': fcntl.F_RDLCK, 'ex': fcntl.F_WRLCK, 'un': fcntl.F_UNLCK}
def flock_of(kind, start, length): return struct.pack('hhqqi4x', KIND[kind], 0, start, length, 0)
def act(what, name, *args):
    if what == 'open':
        files[name] = os.open(args[0], os.O_RDWR | os.O_CREAT, 0o644)
    elif what == 'close':
        os.close(files.pop(name))
    elif what == 'flock':
        how = {'sh': fcntl.LOCK_SH, 'ex': fcntl.LOCK_EX, 'un': fcntl.LOCK_UN}[args[0]]
        fcntl.flock(files[name], how | (0 if 'wait' in args else fcntl.LOCK_NB))
    elif what in ('fcntl', 'ofd'):
        wait = 'wait' in args
        call = {'fcntl': (fcntl.F_SETLK, fcntl.F_SETLKW), 'ofd': (OFD_SETLK, OFD_SETLKW)}[what][wait]
        fcntl.fcntl(files[name], call, flock_of(args[0], int(args[1]), int(args[2])))
    elif what == 'get':
        found = struct.unpack('hhqqi4x', fcntl.fcntl(files[name], fcntl.F_GETLK, flock_of(args[0], int(args[1]), int(args[2]))))
        return 'free' if found[0] == fcntl.F_UNLCK else f'{found[0]} {found[2]} {found[3]} {found[4]}'
    elif what == 'add':
        fd = files[name]
        os.pwrite(fd, str(int(os.pread(fd, 20, 0) or b'0') + 1).encode(), 0)
    return 'ok'
for line in sys.stdin:
    try: answer = act(*line.split())
    except OSError as error: answer = os.strerror(error.errno)
    print(answer, flush=True)
"#;

impl Locker {
    pub fn new() -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", LOCKER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3");
        let (orders, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, orders, answers }
    }

    pub fn with(path: &Path) -> Self {
        let mut locker = Self::new();
        assert_eq!(locker.ask(&format!("open f {}", path.display())), "ok");
        locker
    }

    pub fn send(&mut self, order: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
    }

    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn ask(&mut self, order: &str) -> String {
        self.send(order);
        self.answer()
    }

    /// Ends as any program does, and its files with it.
    fn end(mut self) {
        self.orders.take();
        self.child.wait().unwrap();
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        self.orders.take();
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const BUSY: &str = "Resource temporarily unavailable";

#[test]
fn locks_hold_across_mounts() {
    let (user, _other, a, b) = two_mounts();
    let (mut one, mut two) = (Locker::with(&a.join("f")), Locker::with(&b.join("f")));
    for (lock, share, free, probe) in [
        ("flock f ex", "flock f sh", "flock f un", "flock f sh"),
        ("fcntl f ex 0 0", "fcntl f sh 0 0", "fcntl f un 0 0", "fcntl f sh 5 1"),
        ("fcntl f ex 100 50", "fcntl f sh 100 50", "fcntl f un 0 0", "fcntl f sh 149 9"),
        ("ofd f ex 0 0", "ofd f sh 0 0", "ofd f un 0 0", "fcntl f sh 7 1"),
    ] {
        assert_eq!(one.ask(lock), "ok", "{lock}");
        assert_eq!(two.ask(probe), BUSY, "{probe} while {lock}");
        assert_eq!(one.ask(share), "ok", "{share} after {lock}");
        assert_eq!(two.ask(probe), "ok", "{probe} while {share}");
        assert_eq!(one.ask(lock), BUSY, "{lock} while another reads");
        assert_eq!(two.ask(free), "ok");
        // A process's locks and those of a description keep each other out, but are not freed by each other.
        assert_eq!(two.ask("fcntl f un 0 0"), "ok");
        assert_eq!(one.ask(lock), "ok");
        assert_eq!(one.ask(free), "ok");
        assert_eq!(two.ask(lock), "ok");
        assert_eq!(two.ask(free), "ok");
    }
    assert_eq!(one.ask("fcntl f ex 10 10"), "ok");
    assert_eq!(two.ask("fcntl f ex 20 10"), "ok", "other bytes");
    assert_eq!(two.ask("get f ex 0 0"), format!("1 10 10 {}", one.child.id()));
    assert_eq!(two.ask("get f ex 20 5"), "free");
    assert_eq!(user.status(&a)["locks"], 1);
}

/// The library does not tell one from the other: as on NFS.
#[test]
fn flock_and_fcntl_exclude_one_another() {
    let (_one, _two, a, b) = two_mounts();
    let (mut one, mut two) = (Locker::with(&a.join("f")), Locker::with(&b.join("f")));
    assert_eq!(one.ask("flock f ex"), "ok");
    assert_eq!(two.ask("fcntl f ex 5 1"), BUSY);
    assert_eq!(one.ask("fcntl f ex 5 1"), BUSY, "even by who holds the other");
    assert_eq!(one.ask("flock f un"), "ok");
    assert_eq!(one.ask("fcntl f ex 5 1"), "ok");
    assert_eq!(two.ask("flock f sh"), BUSY);
}

/// `man 2 fcntl`: closing any descriptor of the file frees the process's locks; `man 2 flock`: the last of a description does.
#[test]
fn closing_frees_and_wakes_who_waits() {
    let (_one, _two, a, b) = two_mounts();
    for (lock, wait) in
        [("fcntl f ex 0 0", "fcntl f ex 3 1 wait"), ("flock f ex", "flock f ex wait"), ("ofd f ex 0 9", "ofd f sh 2 2 wait")]
    {
        let (mut one, mut two) = (Locker::with(&a.join("f")), Locker::with(&b.join("f")));
        assert_eq!(one.ask(lock), "ok");
        two.send(wait);
        if lock.starts_with("fcntl") {
            assert_eq!(one.ask(&format!("open again {}", a.join("f").display())), "ok");
            assert_eq!(one.ask("close again"), "ok");
        } else {
            one.end();
        }
        assert_eq!(two.answer(), "ok", "{wait}");
    }
    // Within one mount nobody asks the server while they wait.
    let (mut one, mut two) = (Locker::with(&a.join("f")), Locker::with(&a.join("f")));
    assert_eq!(one.ask("flock f ex"), "ok");
    two.send("flock f ex wait");
    assert_eq!(one.ask("flock f un"), "ok");
    assert_eq!(two.answer(), "ok");
}

/// Ctrl-C ends the waiting although the kernel is not told of it by the library.
#[test]
fn a_waiter_can_be_interrupted() {
    let (_one, _two, a, b) = two_mounts();
    let mut one = Locker::with(&a.join("f"));
    assert_eq!(one.ask("flock f ex"), "ok");
    // After the first signal the kernel does not even ask any more.
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL, rustix::process::Signal::INT] {
        let mut two = Locker::with(&b.join("f"));
        two.send("flock f ex wait");
        let (pid, flock) = (i32::try_from(two.child.id()).unwrap(), format!("{} ", libc::SYS_flock));
        eventually("it waits", || fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|call| call.starts_with(&flock)));
        let begun = Instant::now();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
        assert!(!two.child.wait().unwrap().success());
        assert!(begun.elapsed() < Duration::from_secs(5), "{signal:?}: {:?}", begun.elapsed());
    }
    assert_eq!(one.ask("flock f un"), "ok");
    assert_eq!(Locker::with(&b.join("f")).ask("flock f ex"), "ok", "nobody who gave up left anything");
}

#[test]
fn a_killed_mount_frees_its_locks() {
    let (user, _other, a, b) = two_mounts();
    let (mut one, mut two) = (Locker::with(&a.join("f")), Locker::with(&b.join("f")));
    assert_eq!(one.ask("fcntl f ex 0 0"), "ok");
    assert_eq!(two.ask("fcntl f ex 0 0"), BUSY);
    let begun = Instant::now();
    kill_9(user.daemon(&a));
    assert_eq!(two.ask("fcntl f ex 0 0 wait"), "ok");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

/// A mount that stands still for longer than its lease, while another takes the lock.
#[test]
fn a_mount_that_was_cut_off_says_so() {
    let (user, _other, a, b) = two_mounts();
    let (mut one, mut two) = (Locker::with(&a.join("f")), Locker::with(&b.join("f")));
    assert_eq!(one.ask("fcntl f ex 0 0"), "ok");
    assert_eq!(one.ask("add f"), "ok");
    let daemon = rustix::process::Pid::from_raw(user.daemon(&a)).unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::STOP).unwrap();
    let taken = two.ask("fcntl f ex 0 0 wait");
    rustix::process::kill_process(daemon, rustix::process::Signal::CONT).unwrap();
    assert_eq!(taken, "ok");
    assert_eq!(two.ask("add f"), "ok");
    eventually("it is told", || one.ask("add f") == "Input/output error");
    assert_eq!(one.ask("close f"), "Input/output error");
    assert_eq!(two.ask("fcntl f un 0 0"), "ok");
    assert_eq!(fs::read_to_string(b.join("f")).unwrap(), "1", "what the one wrote was never published");
    assert_eq!(one.ask(&format!("open f {}", a.join("f").display())), "ok");
    assert_eq!(one.ask("fcntl f ex 0 0"), "ok");
    assert_eq!(one.ask("add f"), "ok");
    assert_eq!(one.ask("close f"), "ok");
    assert_eq!(fs::read_to_string(b.join("f")).unwrap(), "2");
}

#[test]
fn an_unmounted_mount_frees_its_locks_at_once() {
    let (user, _other, a, b) = two_mounts();
    let (mut one, mut two) = (Locker::with(&a.join("f")), Locker::with(&b.join("f")));
    assert_eq!(one.ask("flock f ex"), "ok");
    let begun = Instant::now();
    user.ok([std::ffi::OsStr::new("unmount"), std::ffi::OsStr::new("--force"), a.as_os_str()]);
    assert_eq!(two.ask("flock f ex wait"), "ok");
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}

/// Processes of a script, each with its number as the last argument; all must succeed.
fn run_all(script: &str, args: &[Vec<String>]) {
    let children: Vec<Child> = args
        .iter()
        .map(|args| Command::new("python3").args(["-c", script]).args(args).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
}

#[test]
fn o_excl_has_one_winner() {
    const NAMES: usize = 500;
    const SCRIPT: &str = "
import os, sys
for n in range(int(sys.argv[2])):
    try: fd = os.open(f'{sys.argv[1]}/race{n}', os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError: continue
    os.write(fd, (sys.argv[3] + '\\n').encode())
    os.close(fd)
    with open(sys.argv[4], 'a') as won: won.write(f'{n} {sys.argv[3]}\\n')
";
    let (user, _other, a, b) = two_mounts();
    let wins = |who: usize| user.home.path().join(format!("won{who}"));
    let args: Vec<Vec<String>> = (0..8)
        .map(|who| {
            let mount = if who < 4 { &a } else { &b };
            vec![mount.display().to_string(), NAMES.to_string(), who.to_string(), wins(who).display().to_string()]
        })
        .collect();
    run_all(SCRIPT, &args);
    let mut winners = vec![Vec::new(); NAMES];
    for who in 0..8 {
        for line in fs::read_to_string(wins(who)).unwrap_or_default().lines() {
            let (name, who) = line.split_once(' ').unwrap();
            winners[name.parse::<usize>().unwrap()].push(who.to_owned());
        }
    }
    for (name, winners) in winners.iter().enumerate() {
        assert_eq!(winners.len(), 1, "race{name}: {winners:?}");
        let there = fs::read_to_string(b.join(format!("race{name}"))).unwrap();
        assert_eq!(there.trim(), winners[0], "race{name}");
    }
    let more = user.sql().one("SELECT count(*) FROM pgfiles WHERE key LIKE 'agents/7/race%' AND (meta->>'version')::int > 1");
    assert_eq!(more, "0", "one open file description leaves one version");
}

#[test]
fn a_counter_under_a_lock_loses_nothing() {
    let (_one, _two, a, b) = two_mounts();
    count(&a, &b, 50);
}

/// As a role with a grant, with the mounts' connections pooled in transaction mode.
#[test]
fn a_fenced_role_locks_through_a_pooler() {
    let server = Postgres::shared();
    let database = database(server);
    let role = format!("agent_{}", database.name());
    let Some(bouncer) = Bouncer::start_for(server, &[&role]) else { return };
    let owner = Sandbox::new(&database.dsn());
    owner.sql().rows(&format!("CREATE ROLE {role} LOGIN; SELECT pgfiles_grant('{role}', 'agents/7')"));
    let dsn = bouncer.dsn_as(&role, &database);
    let users = [(); 2].map(|()| Sandbox::fenced(&dsn).with("PGFILES_SHARED", "true"));
    let (a, b) = (users[0].mount("agents/7/", "work"), users[1].mount("agents/7/", "work"));
    count(&a, &b, 15);
    let begun = Instant::now();
    let (mut one, mut two) = (Locker::with(&a.join("f")), Locker::with(&b.join("f")));
    assert_eq!(one.ask("flock f ex"), "ok");
    kill_9(users[0].daemon(&a));
    assert_eq!(two.ask("flock f ex wait"), "ok");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

/// A number in a file, incremented by two processes on each of two mounts.
fn count(a: &Path, b: &Path, rounds: usize) {
    const SCRIPT: &str = "
import fcntl, os, sys
how = sys.argv[3]
if how == 'held':
    fd = os.open(sys.argv[1], os.O_RDWR)
for n in range(int(sys.argv[2])):
    if how != 'held':
        fd = os.open(sys.argv[1], os.O_RDWR)
    (fcntl.flock if how == 'flock' else fcntl.lockf)(fd, fcntl.LOCK_EX)
    value = int(os.pread(fd, 20, 0))
    os.pwrite(fd, str(value + 1).encode(), 0)
    if how == 'held':
        fcntl.lockf(fd, fcntl.LOCK_UN)
    else:
        os.close(fd)
";
    for how in ["flock", "fcntl", "held"] {
        fs::write(a.join(how), "0").unwrap();
        let args: Vec<Vec<String>> =
            [a, a, b, b].map(|mount| vec![mount.join(how).display().to_string(), rounds.to_string(), how.to_owned()]).into();
        run_all(SCRIPT, &args);
        for mount in [a, b] {
            assert_eq!(fs::read_to_string(mount.join(how)).unwrap(), (4 * rounds).to_string(), "{how}");
        }
    }
}

#[test]
fn what_is_closed_is_seen_by_who_opens() {
    let (_one, _two, a, b) = two_mounts();
    let mut kept = fs::File::open(&{
        fs::write(a.join("f"), "0").unwrap();
        b.join("f")
    })
    .unwrap();
    for round in 1..30 {
        let (from, to) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        assert!(!to.join(format!("new{round}")).exists());
        fs::write(from.join("f"), "x".repeat(round)).unwrap();
        fs::write(from.join(format!("new{round}")), "").unwrap();
        assert_eq!(fs::metadata(to.join("f")).unwrap().len(), round as u64);
        assert_eq!(fs::read_to_string(to.join("f")).unwrap(), "x".repeat(round));
        assert!(to.join(format!("new{round}")).exists());
        fs::remove_file(from.join(format!("new{round}"))).unwrap();
        assert!(!to.join(format!("new{round}")).exists());
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut kept, &mut text).unwrap();
    assert_eq!(text, "x".repeat(29), "a reader that stayed open as well");
}

/// One database, written through both mounts at once.
#[test]
fn sqlite_on_two_mounts() {
    const ROWS: usize = 25;
    const SCRIPT: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=240, isolation_level=None)
for n in range(int(sys.argv[2])):
    db.execute('BEGIN IMMEDIATE')
    (value,) = db.execute('SELECT value FROM counter').fetchone()
    db.execute('UPDATE counter SET value = ?', (value + 1,))
    db.execute('INSERT INTO log VALUES (?, ?)', (sys.argv[3], n))
    db.execute('COMMIT')
db.close()
";
    let (user, _other, a, b) = two_mounts();
    let python = |script: &str, mount: &Path| {
        let output = user.shell(mount, &format!("python3 -c \"{script}\""));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    python(
        "import sqlite3; db = sqlite3.connect('db'); db.executescript('CREATE TABLE counter(value); INSERT INTO counter VALUES (0); CREATE TABLE log(who, n)')",
        &a,
    );
    let args: Vec<Vec<String>> = [&a, &a, &b, &b]
        .iter()
        .enumerate()
        .map(|(who, mount)| vec![mount.join("db").display().to_string(), ROWS.to_string(), who.to_string()])
        .collect();
    run_all(SCRIPT, &args);
    for mount in [&a, &b] {
        let ask = "import sqlite3; db = sqlite3.connect('db'); print(*db.execute('PRAGMA integrity_check').fetchone(), *db.execute('SELECT value, (SELECT count(*) FROM log) FROM counter').fetchone())";
        assert_eq!(python(ask, mount), format!("ok {0} {0}", 4 * ROWS));
    }
}
