//! Many threads that do a bit of everything at once, and what must be there afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::Digest as _;

use super::NOT_STUCK;
use crate::harness::{Sandbox, Sql, finish_within};

/// Files that are there before and are read cold.
const COLD: usize = 24;

/// Each thread in its own directory: creates, reads back, renames, appends, removes, lists, looks at what others do, counts in a
/// shared file under a lock; the first also writes and reads a larger file. A process of its own: others that the test starts
/// would inherit its files. Ends with the digest of each file that must be there; what went wrong is its exit code.
const WORK: &str = r#"
import fcntl, hashlib, json, os, sys, threading, traceback
root, threads, rounds, large, cold = sys.argv[1], *map(int, sys.argv[2:6])
O = os.O_CREAT | os.O_TRUNC | os.O_WRONLY
files, failed, guard = {}, [], threading.Lock()
def data(seed, size):
    line = b'%d\n' % seed
    return (line * (size // len(line) + 1))[:size]
def write(fd, body):
    while body: body = body[os.write(fd, body[:65536]):]
def save(path, body, flags=O, sync=False):
    fd = os.open(path, flags, 0o644)
    try:
        write(fd, body)
        if sync: os.fsync(fd)
    finally: os.close(fd)
def read(path):
    with open(path, 'rb', buffering=0) as file: return file.read()
def same(path, body):
    found = read(path)
    assert found == body, f'{path}: {len(found)} bytes, {found[:40]!r}, for {len(body)}, {body[:40]!r}'
def count():
    fd = os.open(f'{root}/count', os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.pwrite(fd, b'%d' % (int(os.pread(fd, 20, 0)) + 1), 0)
    finally: os.close(fd)
def work(who):
    dir, have = f'{root}/t{who}', {}
    os.mkdir(dir)
    for n in range(rounds):
        seed = who * 1000 + n
        name, body = f'f{n}', data(seed, [10, 3000, 70000, 400000][(who + n) % 4])
        save(f'{dir}/{name}', body, sync=n % 3 == 0)
        same(f'{dir}/{name}', body)
        have[name] = body
        if n % 3 == 1:
            os.rename(f'{dir}/{name}', f'{dir}/g{n}')
            have[f'g{n}'] = have.pop(name)
        elif n % 3 == 2:
            save(f'{dir}/{name}', b'more', os.O_APPEND | os.O_WRONLY)
            have[name] += b'more'
        if n % 4 == 3:
            gone = sorted(have)[0]
            os.unlink(f'{dir}/{gone}')
            del have[gone]
        found = sorted(os.listdir(dir))
        assert found == sorted(have), f'{dir}: {found}, not {sorted(have)}'
        os.listdir(f'{root}/t{(who + 1) % threads}') if os.path.isdir(f'{root}/t{(who + 1) % threads}') else None
        seed = (who * rounds + n) % cold
        same(f'{root}/cold/c{seed}', data(seed, 500 + seed * 2000))
        count()
    if who == 0 and large:
        body = data(7, large * 1024)
        save(f'{dir}/large', body, sync=True)
        same(f'{dir}/large', body)
        fd = os.open(f'{dir}/large', os.O_WRONLY)
        os.pwrite(fd, b'changed', large * 512)
        os.close(fd)
        have['large'] = body[:large * 512] + b'changed' + body[large * 512 + 7:]
    with guard:
        for name, body in have.items(): files[f't{who}/{name}'] = hashlib.sha256(body).hexdigest()
def guarded(who):
    try: work(who)
    except BaseException: failed.append(traceback.format_exc())
all = [threading.Thread(target=guarded, args=(who,)) for who in range(threads)]
for t in all: t.start()
for t in all: t.join()
files['count'] = hashlib.sha256(b'%d' % (threads * rounds)).hexdigest()
if failed: sys.exit(f'{len(failed)} of {threads} threads failed, the first so:\n{failed[0]}')
json.dump(files, sys.stdout)
"#;

/// How much is done.
#[derive(Clone, Copy)]
pub struct Work {
    pub threads: usize,
    pub rounds: usize,
    /// KiB of the larger file; 0: none.
    pub large: usize,
}

/// Path below the directory of the work → digest of what must be there.
pub type Expected = BTreeMap<String, String>;

impl Work {
    /// Writes what the work finds, by SQL: no mount has it in a cache.
    pub fn prepare(sql: &Sql, prefix: &str) {
        for n in 0..COLD {
            let bytes = format!("substr(repeat(E'{n}\\n', {size}), 1, {size})", size = 500 + n * 2000);
            sql.rows(&format!("SELECT pgfiles_write('{prefix}cold/c{n}', convert_to({bytes}, 'UTF8'))"));
        }
        sql.rows(&format!("SELECT pgfiles_write('{prefix}count', '0')"));
    }

    /// Does it in a directory, with no error at all.
    pub fn run(self, dir: &Path) -> Expected {
        let mut command = Command::new("python3");
        command.args(["-c", WORK]).arg(dir);
        command.args([self.threads, self.rounds, self.large, COLD].map(|n| n.to_string()));
        let output = finish_within(NOT_STUCK, command, "mixed work");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", output.status);
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// What a backend sees is what was done, no more and no less.
pub fn check_rows(sql: &Sql, prefix: &str, expected: &Expected) {
    let query = format!(
        "SELECT substr(key, {}), encode(sha256(pgfiles_read(key)), 'hex') FROM pgfiles_live
         WHERE key ^@ '{prefix}' AND NOT key ^@ '{prefix}cold/' AND key NOT LIKE '%/'",
        prefix.len() + 1
    );
    let found = sql.rows(&query).into_iter().map(|row| {
        let [Some(key), Some(digest)] = <[_; 2]>::try_from(row).unwrap() else { panic!("a NULL") };
        (key, digest)
    });
    same("rows", &found.collect(), expected);
}

/// The same of a mount.
pub fn check_mount(dir: &Path, expected: &Expected) {
    let mut found = Expected::new();
    let mut open: Vec<PathBuf> = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            if !name.starts_with("cold/") {
                found.insert(name, format!("{:x}", sha2::Sha256::digest(std::fs::read(&path).unwrap())));
            }
        }
    }
    same("files", &found, expected);
}

/// Both, by a connection and a mount that had no part in it.
pub fn check(user: &Sandbox, prefix: &str, expected: &Expected) {
    check_rows(&user.sql(), prefix, expected);
    let fresh = user.mount(prefix, "fresh");
    check_mount(&fresh, expected);
    user.unmount(&fresh);
}

fn same(what: &str, found: &Expected, expected: &Expected) {
    let missing = expected.keys().filter(|name| !found.contains_key(*name));
    let other = found.iter().filter(|(name, digest)| expected.get(*name) != Some(digest)).map(|(name, _)| name);
    let names: Vec<&String> = missing.chain(other).take(8).collect();
    assert!(names.is_empty(), "{what}: {} found, {} expected; among those that differ: {names:?}", found.len(), expected.len());
}
