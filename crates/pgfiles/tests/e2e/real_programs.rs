//! Programs that agents run, on a mount; afterwards everything is found again from everywhere.

use std::path::Path;

use pgfiles_testkit::postgres::Postgres;

use crate::harness::{Sandbox, same_tree, snapshot};

/// A repository of 3,000 files, made outside the mount.
const MAKE_REPOSITORY: &str = r#"
git init -q -b main "$HOME/origin" && cd "$HOME/origin"
git config user.email a@example.org && git config user.name a
for d in $(seq 1 60); do mkdir -p "src/d$d"; for f in $(seq 1 50); do echo "file $d/$f" > "src/d$d/f$f.txt"; done; done
ln -s src/d1/f1.txt link; printf '#!/bin/sh\n' > run.sh; chmod +x run.sh
git add -A && git commit -qm first
"#;

const GIT: &str = r#"
git config --global user.email a@example.org; git config --global user.name a
git clone -q "$HOME/origin" repo && cd repo
git checkout -q -b topic
for d in $(seq 1 20); do echo changed >> "src/d$d/f1.txt"; done
git mv src/d2 src/moved; git rm -q -r -f src/d3
git add -A && git commit -qm topic
git checkout -q main && git merge -q --no-edit topic && git log --oneline | wc -l
git gc -q && git fsck --full --strict
test -z "$(git status --porcelain)"
"#;

const NPM: &str = r#"
mkdir web && cd web && printf '{"name":"web","version":"1.0.0","private":true}' > package.json
npm install --no-audit --no-fund --silent express@4
node -e 'require("express")(); console.log("ok")'
"#;

const PYTHON: &str = r#"
python3 -m venv venv && ./venv/bin/pip install -q six && ./venv/bin/python -c 'import six; print(six.__version__)'
"#;

const CARGO: &str = r#"
export CARGO_NET_OFFLINE=true
export RUSTUP_HOME="${REAL_RUSTUP_HOME}" CARGO_HOME="$HOME/cargo"
cargo new -q --vcs none hello && cd hello && cargo build -q && ./target/debug/hello && touch src/main.rs && cargo build -q
"#;

const SQLITE: &str = r#"
cat > "$HOME/writer.py" <<'PY'
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
db.execute("PRAGMA journal_mode=" + sys.argv[2])
db.execute("CREATE TABLE IF NOT EXISTS t(who, n)")
for n in range(int(sys.argv[4])):
    db.execute("BEGIN IMMEDIATE"); db.execute("INSERT INTO t VALUES(?,?)", (sys.argv[3], n)); db.execute("COMMIT")
PY
for mode in DELETE WAL; do
  python3 "$HOME/writer.py" $mode.db $mode zero 1
  for w in 1 2 3 4; do python3 "$HOME/writer.py" $mode.db $mode w$w 25 & done
  for job in $(jobs -p); do wait $job; done
  python3 - $mode.db <<'PY'
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
assert db.execute("SELECT count(*) FROM t").fetchone() == (101,)
PY
done
"#;

const EDITORS: &str = r#"
mkdir notes && cd notes
printf 'one\n' > a.txt; printf 'two\n' > .a.txt.swp; mv a.txt a.txt~; printf 'one\ntwo\n' > a.txt; rm a.txt~ .a.txt.swp
sed -i s/one/1/ a.txt; test "$(cat a.txt)" = "$(printf '1\ntwo')"
mkdir tree && (cd tree && touch x y && mkdir -p deep/er && echo z > deep/er/z)
tar cf - tree | (mkdir copy && cd copy && tar xf -) && diff -r tree copy/tree
cp -a tree again && diff -r tree again && rm -rf again
dd if=/dev/urandom of=blob bs=1M count=3 status=none && cp blob blob2 && cmp blob blob2
find . -name '*.txt' | wc -l
"#;

/// The program in the sandbox cannot tell, and every byte, mode, time, link and inode number is found again.
#[test]
fn everything_that_programs_wrote_is_found_again() {
    let user = Sandbox::on(Postgres::shared()).with("REAL_RUSTUP_HOME", &rustup_home());
    user.shell(user.home.path(), MAKE_REPOSITORY);
    let mount = user.mount("agents/7/", "work");
    for (what, script) in
        [("git", GIT), ("editors", EDITORS), ("sqlite", SQLITE), ("python", PYTHON), ("npm", NPM), ("cargo", CARGO)]
    {
        let start = std::time::Instant::now();
        user.shell(&mount, script);
        println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    }
    let before = snapshot(&mount);
    assert!(before.len() > 4_000, "{} entries", before.len());
    user.unmount(&mount);
    assert_eq!(std::fs::read_dir(&mount).unwrap().count(), 0, "nothing stays underneath");

    user.ok(["cache", "clear"]);
    let again = user.mount("agents/7", "work");
    same_tree("mounted again", &again, &before);
    let elsewhere = user.another();
    let second = elsewhere.mount("agents/7/", "second");
    same_tree("on a second mount", &second, &before);
    same_by_sql(&user, &before);
    let status = user.shell(&again.join("repo"), "git status --porcelain");
    assert!(status.stdout.is_empty(), "{}", String::from_utf8_lossy(&status.stdout));
}

/// SQL sees what `ls` sees, byte for byte.
fn same_by_sql(user: &Sandbox, before: &std::collections::BTreeMap<std::path::PathBuf, String>) {
    let sql = user.sql();
    let rows = sql.rows(
        "SELECT substr(key, length('agents/7/') + 1), encode(sha256(pgfiles_read(key)), 'hex') FROM pgfiles_live
         WHERE key ^@ 'agents/7/' AND meta->>'kind' = 'file'",
    );
    let files = before.values().filter(|line| line.starts_with("100")).count();
    assert_eq!(rows.len(), files, "SQL lists every file and no other");
    for row in rows {
        let [Some(path), Some(sum)] = row.as_slice() else { panic!("{row:?}") };
        let line = before.get(Path::new(path)).unwrap_or_else(|| panic!("SQL shows {path}, ls does not"));
        assert!(line.ends_with(sum), "{path}: SQL reads {sum}, the mount {line}");
    }
}

fn rustup_home() -> String {
    let home = std::env::var("HOME").unwrap_or_default();
    std::env::var("RUSTUP_HOME").unwrap_or_else(|_| format!("{home}/.rustup"))
}
