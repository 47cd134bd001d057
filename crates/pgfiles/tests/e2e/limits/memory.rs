//! The bound on memory: a crowd of open files that nobody closes, and one file that is larger than all of it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use pgfiles_testkit::postgres::Postgres;

use super::{NOT_STUCK, size};
use crate::harness::{Sandbox, finish_within, memory, save};

/// docs/limits.md: memory of a daemon.
const MEMORY_MAX: u64 = 256 << 20;
/// What is written to the open files together: more than the 48 MiB that may be dirty.
const CROWD_BYTES: u64 = 72 << 20;

/// Opens files, writes a little to each, and holds them all; a second line of orders has them closed.
const CROWD: &str = r#"
import os, resource, sys
from concurrent.futures import ThreadPoolExecutor
root, count, size = sys.argv[1], *map(int, sys.argv[2:4])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
want = count + 100
resource.setrlimit(resource.RLIMIT_NOFILE, (want, hard if hard == resource.RLIM_INFINITY else max(hard, want)))
held = []
for n in range(count):
    fd = os.open(f'{root}/{n}', os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    line = b'%d\n' % n
    body = (line * (size // len(line) + 1))[:size]
    assert os.write(fd, body) == size
    held.append((fd, body))
print('held', flush=True)
sys.stdin.readline()
def close(file):
    fd, body = file
    assert os.pread(fd, size, 0) == body
    os.close(fd)
with ThreadPoolExecutor(8) as all: list(all.map(close, held))
print('closed', flush=True)
"#;

/// Writes a larger file, asks fsync(2) and close(2) how it went, and prints its digest.
const HUGE: &str = r#"
import hashlib, os, sys
path, mebibytes = sys.argv[1], int(sys.argv[2])
digest = hashlib.sha256()
fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
for n in range(mebibytes):
    body = (b'%d\n' % n * 200000)[:1 << 20]
    digest.update(body)
    while body: body = body[os.write(fd, body):]
os.fsync(fd)
os.close(fd)
print(digest.hexdigest())
"#;

struct Crowd {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Crowd {
    fn start(dir: &Path, count: u64, size: u64) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", CROWD]).arg(dir).args([count, size].map(|n| n.to_string()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, orders, answers }
    }

    fn hears(&mut self, word: &str) {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), word, "the process with the open files failed");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// PGFILES_TEST_OPEN_FILES=10000 and PGFILES_TEST_HUGE_MIB=1024 are the issue's sizes; CI takes less.
fn crowd_and_huge(durability: &str) {
    let (count, mebibytes) = (size("PGFILES_TEST_OPEN_FILES", 1000), size("PGFILES_TEST_HUGE_MIB", 64));
    let each = CROWD_BYTES / count;
    let user = Sandbox::on(Postgres::shared())
        .with("PGFILES_DURABILITY", durability)
        .with("PGFILES_CACHE_MAX_SIZE", "16MB")
        .with("PGFILES_PUBLISH_INTERVAL", "1h");
    let mount = user.mount("a/", "work");
    let daemon = user.daemon(&mount);
    std::fs::create_dir(mount.join("crowd")).unwrap();
    let mut crowd = Crowd::start(&mount.join("crowd"), count, each);
    crowd.hears("held");
    let unsaved = user.status(&mount)["unsaved"].clone();
    assert_eq!(unsaved["open_files"], count, "{unsaved}");
    println!(
        "{durability}: held: {} MiB, at most {} MiB; {} unsaved",
        memory(daemon).1 >> 20,
        memory(daemon).0 >> 20,
        unsaved["bytes"]
    );
    let digest = std::thread::scope(|scope| {
        let huge = scope.spawn(|| {
            let mut command = Command::new("python3");
            command.args(["-c", HUGE]).arg(mount.join("huge")).arg(mebibytes.to_string());
            finish_within(NOT_STUCK * 2, command, "a huge file")
        });
        // Others get on meanwhile.
        let mut others = 0;
        while !huge.is_finished() {
            let name = mount.join(format!("other{}", others % 5));
            save(&name, format!("{others}").as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&name).unwrap(), others.to_string());
            others += 1;
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let output = huge.join().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(others > 0);
        String::from_utf8(output.stdout).unwrap()
    });
    println!("{durability}: with the huge one: at most {} MiB; {}", memory(daemon).0 >> 20, user.status(&mount)["queue"]);
    writeln!(crowd.orders).unwrap();
    crowd.hears("closed");
    let peak = memory(daemon).0;
    println!("{durability}: {count} open files of {each} B, {mebibytes} MiB in one: peak {} MiB", peak >> 20);
    let bound = if durability == "writeback" { MEMORY_MAX + (128 << 20) } else { MEMORY_MAX };
    assert!(peak < bound, "the daemon used {} MiB", peak >> 20);
    user.unmount(&mount);
    let sql = user.sql();
    let right = format!(
        "SELECT count(*) FROM generate_series(0, {count} - 1) n, pgfiles_read('a/crowd/' || n) bytes
         WHERE bytes = convert_to(left(repeat(n || E'\\n', {each}), {each}), 'UTF8')"
    );
    assert_eq!(sql.one(&right), count.to_string(), "files with what was written to them");
    let rows = "SELECT count(*) || ' ' || count(DISTINCT key) FROM pgfiles WHERE key ^@ 'a/crowd/' AND key <> 'a/crowd/'";
    assert_eq!(sql.one(rows), format!("{count} {count}"), "one version of each");
    let fresh = user.mount("a/", "work");
    let mut command = Command::new("sha256sum");
    command.arg(fresh.join("huge"));
    let seen = String::from_utf8(finish_within(NOT_STUCK, command, "sha256sum").stdout).unwrap();
    assert_eq!(seen.split_whitespace().next(), Some(digest.trim_end()));
    user.unmount(&fresh);
}

#[test]
fn open_files_and_a_huge_one_stay_in_the_memory_bound() {
    crowd_and_huge("close");
}

#[test]
fn so_they_do_with_writeback() {
    crowd_and_huge("writeback");
}
