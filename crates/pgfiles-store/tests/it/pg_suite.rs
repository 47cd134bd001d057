//! The store suite on [`PgStore`].

use std::sync::Arc;

use pgfiles_store::pg::{PgOptions, PgStore};
use pgfiles_testkit::postgres::Postgres;
use pgfiles_testkit::store_suite::Subject;

use crate::pg_store::initialise;

async fn subject() -> Subject {
    let database = Postgres::shared().database().await;
    initialise(&database.dsn()).await;
    let store = PgStore::connect(&database.dsn(), PgOptions::default()).await.unwrap();
    Subject::of(Arc::new(store), Arc::new(database))
}

pgfiles_testkit::store_suite!(subject);
