//! Ten mounts on one prefix.

use std::fs;

use pgfiles_testkit::postgres::Postgres;

use crate::harness::{Sandbox, database};

const MOUNTS: usize = 10;
const SAVES: usize = 30;

/// Version numbers are dense and no version is lost, whoever writes what.
#[test]
fn ten_mounts_of_one_prefix_lose_no_version() {
    let database = database(Postgres::shared());
    let users: Vec<Sandbox> = (0..MOUNTS).map(|_| Sandbox::new(&database.dsn())).collect();
    let mounts: Vec<_> = users.iter().map(|user| user.mount("shared/", "work")).collect();
    std::thread::scope(|scope| {
        for (who, mount) in mounts.iter().enumerate() {
            scope.spawn(move || {
                for save in 0..SAVES {
                    fs::write(mount.join("same"), format!("{who} {save}")).unwrap();
                    fs::write(mount.join(format!("own{who}")), format!("{save}")).unwrap();
                }
            });
        }
    });
    let sql = users[0].sql();
    let keys = sql.rows(
        "SELECT key, count(*), min((meta->>'version')::bigint), max((meta->>'version')::bigint), count(DISTINCT data)
         FROM pgfiles WHERE key ^@ 'shared/' AND key NOT LIKE '%/' GROUP BY key ORDER BY key",
    );
    assert_eq!(keys.len(), MOUNTS + 1);
    for row in keys {
        let number = |column: usize| row[column].as_ref().unwrap().parse::<usize>().unwrap();
        let saves = if row[0].as_deref() == Some("shared/same") { MOUNTS * SAVES } else { SAVES };
        assert_eq!((number(1), number(2), number(3), number(4)), (saves, 1, saves, saves), "{row:?}");
    }
}

/// No append of a handle that only appended is lost.
#[test]
fn appends_of_several_mounts_all_arrive() {
    use std::io::Write as _;
    let database = database(Postgres::shared());
    let users: Vec<Sandbox> = (0..3).map(|_| Sandbox::new(&database.dsn())).collect();
    let mounts: Vec<_> = users.iter().map(|user| user.mount("shared/", "work")).collect();
    std::thread::scope(|scope| {
        for (who, mount) in mounts.iter().enumerate() {
            scope.spawn(move || {
                for line in 0..20 {
                    let mut file = fs::OpenOptions::new().append(true).create(true).open(mount.join("log")).unwrap();
                    writeln!(file, "{who} {line}").unwrap();
                }
            });
        }
    });
    let log = users[0].sql().one("SELECT encode(pgfiles_read('shared/log'), 'escape')");
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 60, "{log}");
}
