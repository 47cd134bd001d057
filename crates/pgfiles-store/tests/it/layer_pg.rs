//! The stack over a real server: the store suite, and a server whose processes are all killed at once.

use std::sync::Arc;
use std::time::Duration;

use pgfiles_store::batch::{Batch, Op};
use pgfiles_store::layer::log::Mode;
use pgfiles_store::layer::metrics::Method;
use pgfiles_store::layer::{Stack, StackConfig};
use pgfiles_store::pg::{PgOptions, PgStore};
use pgfiles_store::store::{Purge, PurgeScope};
use pgfiles_testkit::postgres::{Options, Postgres};
use pgfiles_testkit::store_suite::{Subject, by, key, put};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::layer_log::{history, program};
use crate::pg_store::initialise;

async fn subject() -> Subject {
    let database = Postgres::shared().database().await;
    initialise(&database.dsn()).await;
    let server = Arc::new(PgStore::connect(&database.dsn(), PgOptions::default()).await.unwrap());
    let stack = Stack::new(server.clone(), StackConfig::default());
    Subject { store: stack.store.clone(), server, time: Arc::new(database), keep: Box::new(stack) }
}

pgfiles_testkit::store_suite!(subject);

async fn killed(durability: Mode) {
    // Its disk is far behind, so that a kill makes it forget.
    let conf = vec![("wal_writer_delay".to_owned(), "10s".to_owned())];
    let postgres = Postgres::start(Options { conf, ..Options::default() });
    let database = postgres.database().await;
    initialise(&database.dsn()).await;
    let server = Arc::new(PgStore::connect(&database.dsn(), PgOptions::default()).await.unwrap());
    let stack = Stack::new(server.clone(), StackConfig { durability, ..StackConfig::default() });
    let programs: Vec<_> = (0..4_u64).map(|n| tokio::spawn(program(stack.store.clone(), format!("p{n}"), n, 400))).collect();
    let commits = || stack.metrics.snapshot().calls(Method::Commit);
    let mut random = StdRng::seed_from_u64(7);
    let mut kills = 0;
    while kills < 4 && !programs.iter().all(|program| program.is_finished()) {
        let (before, more) = (commits(), random.random_range(20..120));
        let goes_on = async || {
            while commits() < before + more && !programs.iter().all(|program| program.is_finished()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), goes_on()).await.expect("the programs go on");
        postgres.kill_all();
        postgres.start_again();
        kills += 1;
    }
    let mut known = Vec::new();
    for program in programs {
        known.extend(program.await.unwrap());
    }
    // Killed right after the last close: what was answered is there all the same.
    let last = key("last");
    stack.store.commit(Batch::one(Op::Put(put("last", b"bytes")), &by())).await.unwrap();
    postgres.kill_all();
    postgres.start_again();
    stack.store.sync().await.unwrap();
    postgres.kill_all();
    postgres.start_again();
    assert_eq!(history(&*server, &last).await, [Some(b"bytes".to_vec())], "{durability:?}");
    // A purge that was answered stays done, and nothing brings back what it removed.
    let scope = PurgeScope::Key(last.clone());
    let purge = Purge { scope, keep: None, older_than: None, dead: false, dry_run: false };
    assert_eq!(stack.store.purge(&purge).await.unwrap().rows, 1);
    postgres.kill_all();
    postgres.start_again();
    stack.store.sync().await.unwrap();
    assert!(stack.store.lookup(std::slice::from_ref(&last), 0).await.unwrap()[0].is_none(), "{durability:?}");
    let check = Stack::new(server, StackConfig::default());
    for (key, expected) in &known {
        assert_eq!(history(&*check.server, key).await, *expected, "{key:?}, {durability:?}");
    }
    let status = stack.log.status();
    eprintln!("{kills} kills, {} recoveries, {} commits made again", status.recoveries, status.recommitted);
    assert_eq!((status.lost_ops, status.queued_ops), (0, 0));
    // What is queued may not have been committed when the server was killed; what is answered was.
    assert!(durability == Mode::Writeback || status.recommitted > 0, "the server forgot nothing");
    stack.shutdown(None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answered_commits_survive_a_server_that_is_killed() {
    killed(Mode::Close).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_commits_survive_a_server_that_is_killed() {
    killed(Mode::Writeback).await;
}
