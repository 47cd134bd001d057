//! The store suite behind PgBouncer in transaction mode, ten connections sharing two.

use std::sync::Arc;

use pgfiles_store::pg::{PgOptions, PgStore};
use pgfiles_testkit::postgres::Postgres;
use pgfiles_testkit::postgres::bouncer::Bouncer;
use pgfiles_testkit::store_suite::Subject;

use crate::pg_store::initialise;

async fn subject() -> Subject {
    let server = Postgres::shared();
    let (database, bouncer) = (server.database().await, Bouncer::start(server));
    initialise(&database.dsn()).await;
    let dsn = bouncer.as_ref().map_or_else(|| database.dsn(), |bouncer| bouncer.dsn(&database));
    let store = PgStore::connect(&dsn, PgOptions::default()).await.unwrap();
    Subject { keep: Box::new(bouncer), ..Subject::of(Arc::new(store), Arc::new(database)) }
}

pgfiles_testkit::store_suite!(subject);
