//! What goes wrong: the daemon killed, the server killed, the server away.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgfiles_testkit::postgres::{Options, Postgres};

use crate::harness::{Sandbox, close, eventually, eventually_value, kill_9, pattern, save};

/// Rounds of a fault: a few in CI, the issue's number with PGFILES_TEST_ROUNDS.
fn rounds(few: u64) -> u64 {
    std::env::var("PGFILES_TEST_ROUNDS").map_or(few, |n| n.parse().unwrap())
}

/// A small, varying length of time without asking a clock: what the fault waits before it strikes.
fn some_time(seed: u64, at_most_ms: u64) -> Duration {
    let byte = pattern(seed + 77, 8);
    Duration::from_millis(u64::from_le_bytes(byte.try_into().unwrap()) % at_most_ms)
}

/// What a writer did to each file: the content of the last close, and of one that had begun after it.
#[derive(Default)]
struct Ledger {
    closed: HashMap<String, u64>,
    begun: HashMap<String, u64>,
    closes: HashMap<String, Vec<u64>>,
}

impl Ledger {
    fn saves(&self) -> usize {
        self.closes.values().map(Vec::len).sum()
    }
}

/// Content that tells its own version: most files inline, some chunked. [`WRITER`] makes the same.
fn content(seed: u64) -> Vec<u8> {
    let len = match seed % 16 {
        0 => 600_000,
        1 => 1, // not 0: a mere truncation may be answered before its commit (docs/semantics.md, 5)
        n => 700 * n as usize,
    };
    format!("{seed}\n").into_bytes().into_iter().cycle().take(len).collect()
}

/// Saves files over and over, and tells of each. A process of its own: a child that the test starts meanwhile (a server)
/// would inherit its open files and, closing them, wait for the server that it is.
const WRITER: &str = r#"
import os, sys, threading
dir, seed = sys.argv[1], int(sys.argv[2])
lock = threading.Lock()
def tell(*words):
    with lock: print(*words, flush=True)
def save(who):
    step = 0
    while True:
        version = seed * 1000000 + who * 100000 + step
        name = "w%d-%d" % (who, step % 7)
        tell("begun", name, version)
        n = version % 16
        size = 600000 if n == 0 else 1 if n == 1 else 700 * n
        line = b"%d\n" % version
        try:
            fd = os.open(os.path.join(dir, name), os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
            data = (line * (size // len(line) + 1))[:size]
            while data: data = data[os.write(fd, data):]
            os.close(fd)
        except OSError as why:
            tell("error", name, why.errno); return
        tell("closed", name, version)
        if stop.is_set(): return
        step += 1
stop = threading.Event()
threads = [threading.Thread(target=save, args=(who,)) for who in range(4)]
for t in threads: t.start()
sys.stdin.read()
stop.set()
for t in threads: t.join()
"#;

/// A writer, until told to stop or until a save fails.
struct Load {
    writer: std::process::Child,
    ledger: Arc<Mutex<Ledger>>,
    errors: Arc<Mutex<Vec<String>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Load {
    fn start(dir: &Path, seed: u64) -> Self {
        let mut writer = std::process::Command::new("python3")
            .args(["-c", WRITER])
            .arg(dir)
            .arg(seed.to_string())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (ledger, errors) = (Arc::<Mutex<Ledger>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let told = std::io::BufReader::new(writer.stdout.take().unwrap());
        let (entries, failures) = (ledger.clone(), errors.clone());
        let reader = std::thread::spawn(move || {
            for line in std::io::BufRead::lines(told) {
                let line = line.unwrap();
                let words: Vec<&str> = line.split(' ').collect();
                let mut entries = entries.lock().unwrap();
                match words.as_slice() {
                    ["begun", name, version] => {
                        entries.begun.insert((*name).to_owned(), version.parse().unwrap());
                    }
                    ["closed", name, version] => {
                        let version = version.parse().unwrap();
                        entries.closed.insert((*name).to_owned(), version);
                        entries.closes.entry((*name).to_owned()).or_default().push(version);
                    }
                    _ => failures.lock().unwrap().push(line),
                }
            }
        });
        Self { writer, ledger, errors, reader }
    }

    fn saves(&self) -> usize {
        self.ledger.lock().unwrap().saves()
    }

    fn finish(mut self) -> (Ledger, Vec<String>) {
        drop(self.writer.stdin.take());
        self.writer.wait().unwrap();
        self.reader.join().unwrap();
        let ledger = std::mem::take(&mut *self.ledger.lock().unwrap());
        let errors = std::mem::take(&mut *self.errors.lock().unwrap());
        (ledger, errors)
    }
}

/// Every closed file is there, whole, in its last closed version or the one that was being saved.
fn check(ledger: &Ledger, dir: &Path) {
    for (name, &closed) in &ledger.closed {
        let found = fs::read(dir.join(name)).unwrap_or_else(|why| panic!("{name} was closed and is gone: {why}"));
        let begun = ledger.begun[name];
        assert!(
            found == content(closed) || found == content(begun),
            "{name}: {} bytes are neither version {closed} nor {begun}",
            found.len()
        );
    }
}

/// `kill -9` of the daemon at random moments under load.
#[test]
fn a_killed_daemon_loses_nothing_that_was_closed() {
    let user = Sandbox::on(Postgres::shared());
    let mut ledgers: Vec<(PathBuf, Ledger)> = Vec::new();
    for round in 0..rounds(12) {
        let mount = user.mount("a/", "work");
        for (dir, ledger) in ledgers.iter().rev().take(2) {
            check(ledger, dir);
        }
        let dir = mount.join(format!("r{round}"));
        fs::create_dir(&dir).unwrap();
        let daemon = user.daemon(&mount);
        let load = Load::start(&dir, round + 1);
        eventually("some saves", || load.saves() > 3);
        std::thread::park_timeout(some_time(round, 400));
        kill_9(daemon);
        let (ledger, errors) = load.finish();
        assert!(!errors.is_empty() || !ledger.closed.is_empty());
        ledgers.push((dir, ledger));
    }
    let mount = user.mount("a/", "work");
    println!("{} kills of the daemon, {} saves", ledgers.len(), ledgers.iter().map(|(_, ledger)| ledger.saves()).sum::<usize>());
    for (dir, ledger) in &ledgers {
        check(ledger, dir);
        let expected: std::collections::BTreeSet<_> = ledger.begun.keys().cloned().collect();
        let found: std::collections::BTreeSet<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(found.is_subset(&expected), "{found:?}");
    }
    user.unmount(&mount);
}

/// No version that was acknowledged is missing, none is there twice, and the numbers are dense.
fn check_versions(user: &Sandbox, prefix: &str, ledger: &Ledger) {
    use sha2::Digest as _;
    let sql = user.sql();
    for (name, closes) in &ledger.closes {
        let query = format!(
            "SELECT meta->>'version', encode(sha256(pgfiles_read(key, (meta->>'version')::bigint)), 'hex'), meta - 'etag' FROM pgfiles
             WHERE key = '{prefix}{name}' ORDER BY (meta->>'version')::bigint"
        );
        let found: Vec<Vec<String>> =
            sql.rows(&query).into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect();
        let expected = closes.iter().map(|&seed| format!("{:x}", sha2::Sha256::digest(content(seed))));
        for (index, expected) in expected.enumerate() {
            let around = found.iter().skip(index.saturating_sub(2)).take(4).collect::<Vec<_>>();
            let row = found.get(index).unwrap_or_else(|| panic!("{name}: close {} has no version: {around:#?}", index + 1));
            assert_eq!(row[0], (index + 1).to_string(), "{name}: numbers are dense");
            assert_eq!(row[1], expected, "{name}: version {} is the save of that number: {around:#?}", index + 1);
        }
        assert_eq!(found.len(), closes.len(), "{name}: no version is doubled");
    }
}

/// All processes of the server killed at once under load, and started again: nobody notices.
#[test]
fn a_killed_server_loses_nothing_and_doubles_nothing() {
    let server = Postgres::start(Options { fsync: true, ..Options::default() });
    let user = Sandbox::on(&server);
    let mount = user.mount("a/", "work");
    let load = Load::start(&mount, 1);
    for round in 0..rounds(6) {
        let before = load.saves();
        eventually("saves go on", || load.saves() > before + 10 || !load.errors.lock().unwrap().is_empty());
        std::thread::park_timeout(some_time(round, 300));
        server.kill_all();
        server.start_again();
    }
    let before = load.saves();
    eventually("saves go on", || load.saves() > before + 10 || !load.errors.lock().unwrap().is_empty());
    let (ledger, errors) = load.finish();
    assert_eq!(errors, Vec::<String>::new(), "no error to the program");
    println!("{} kills of the server, {} saves", rounds(6), ledger.saves());
    check(&ledger, &mount);
    user.unmount(&mount);
    check_versions(&user, "a/", &ledger);
    let mount = user.mount("a/", "work");
    check(&ledger, &mount);
}

/// Killed right after close and right after fsync.
#[test]
fn what_was_just_closed_survives_the_server() {
    let server = Postgres::start(Options { fsync: true, ..Options::default() });
    let user = Sandbox::on(&server);
    let mount = user.mount("a/", "work");
    for round in 0..rounds(4) {
        let name = mount.join(format!("f{round}"));
        save(&name, &content(round * 16 + 2)).unwrap();
        if round % 2 == 1 {
            fs::File::open(&name).unwrap().sync_all().unwrap();
        }
        server.kill_all();
        server.start_again();
        fs::write(mount.join(format!("g{round}")), "after").unwrap();
        let seen = user.sql().one(&format!("SELECT octet_length(pgfiles_read('a/f{round}'))"));
        assert_eq!(seen, content(round * 16 + 2).len().to_string(), "re-applied before anything later");
    }
}

/// The server away for a while: programs wait and never see it.
#[test]
fn a_stopped_server_is_waited_for() {
    let server = Postgres::start(Options::default());
    let user = Sandbox::on(&server);
    let mount = user.mount("a/", "work");
    let load = Load::start(&mount, 1);
    eventually("some saves", || load.saves() > 20);
    server.stop_fast();
    let frozen = eventually_value(Duration::from_secs(20), || {
        let before = load.saves();
        std::thread::park_timeout(Duration::from_secs(1));
        (load.saves() == before).then_some(before)
    });
    assert!(frozen.is_some(), "writers wait");
    let status = user.status(&mount);
    assert_eq!(status["pid"].as_i64().map(|pid| pid > 0), Some(true), "status answers meanwhile: {status}");
    std::thread::park_timeout(Duration::from_secs(if rounds(0) > 0 { 10 } else { 2 }));
    server.start_again();
    let before = load.saves();
    eventually("saves go on by themselves", || load.saves() > before + 20 || !load.errors.lock().unwrap().is_empty());
    let (ledger, errors) = load.finish();
    assert_eq!(errors, Vec::<String>::new(), "no error to the program");
    check(&ledger, &mount);
    user.unmount(&mount);
    check_versions(&user, "a/", &ledger);
}

/// Away for longer than the bound: EIO, the data is kept, and it heals by itself.
#[test]
fn an_outage_beyond_the_bound_is_an_error_that_heals() {
    let server = Postgres::start(Options::default());
    let user = Sandbox::on(&server).with("PGFILES_RETRY_TIMEOUT", "2s");
    let mount = user.mount("a/", "work");
    fs::write(mount.join("before"), "x").unwrap();
    let mut file = fs::File::create(mount.join("during")).unwrap();
    server.stop_fast();
    std::io::Write::write_all(&mut file, b"kept").unwrap();
    let why = close(file).unwrap_err();
    assert_eq!(why.raw_os_error(), Some(libc::EIO), "{why}");
    let unmount = user.run(["unmount", "--timeout", "1s", mount.to_str().unwrap()]);
    assert_eq!(unmount.status.code(), Some(1), "unmount says that it can't: {}", String::from_utf8_lossy(&unmount.stderr));
    assert!(mount.join("before").metadata().is_ok() || user.daemon(&mount) > 0, "the mount stays");
    server.start_again();
    eventually("the kept data arrives", || {
        user.sql().rows("SELECT 1 FROM pgfiles WHERE key = 'a/during' AND data = 'kept'").len() == 1
    });
    fs::write(mount.join("after"), "y").unwrap();
    assert_eq!(fs::read_to_string(mount.join("during")).unwrap(), "kept");
}
