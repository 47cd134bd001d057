//! A server that answers slowly, in bursts, or a few bytes at a time.

use std::time::Duration;

use pgfiles_testkit::postgres::Postgres;
use pgfiles_testkit::slow_link::{self, Pace};

use super::work::{self, Work};
use crate::harness::{Sandbox, database};

/// Mixed work through such a link, in both modes at once; then what is there, seen by a direct connection and a fresh mount.
fn work_through(pace: Pace, pool_size: &str, work: Work) {
    let server = Postgres::shared();
    let database = database(server);
    let direct = Sandbox::new(&database.dsn());
    let port = slow_link::start(server.port(), pace).unwrap();
    let dsn = database.dsn_tcp().replace(&format!(":{}/", server.port()), &format!(":{port}/"));
    std::thread::scope(|scope| {
        for mode in ["close", "writeback"] {
            let (dsn, direct) = (&dsn, &direct);
            scope.spawn(move || {
                let prefix = format!("{mode}/");
                Work::prepare(&direct.sql(), &prefix);
                let slow = Sandbox::fenced(dsn).with("PGFILES_DURABILITY", mode).with("PGFILES_POOL_SIZE", pool_size);
                let mount = slow.mount(&prefix, "work");
                let expected = work.run(&mount);
                let status = slow.status(&mount);
                assert_eq!(status["state"], "ok", "{status}");
                assert_eq!(status["queue"]["lost_ops"], 0, "{status}");
                println!("{pace:?}, {mode}: {} requests sent again", status["retries"]);
                slow.unmount(&mount);
                work::check_rows(&direct.sql(), &prefix, &expected);
                let fresh = direct.mount(&prefix, mode);
                work::check_mount(&fresh, &expected);
                direct.unmount(&fresh);
            });
        }
    });
}

#[test]
fn answers_that_come_late() {
    work_through(Pace::Late(Duration::from_millis(120)), "10", Work { threads: 8, rounds: 3, large: 1024 });
}

#[test]
fn answers_that_come_in_bursts() {
    work_through(Pace::Bursts(Duration::from_millis(1000)), "10", Work { threads: 6, rounds: 1, large: 512 });
}

#[test]
fn answers_that_dribble() {
    work_through(Pace::Dribbles, "10", Work { threads: 8, rounds: 2, large: 256 });
}

/// And all of that over one connection, for which everybody waits longer than for an answer.
#[test]
fn late_answers_over_one_connection() {
    work_through(Pace::Late(Duration::from_millis(60)), "1", Work { threads: 16, rounds: 1, large: 0 });
}
