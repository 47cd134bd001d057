//! The store suite on [`MemStore`].

use std::sync::Arc;

use pgfiles_store::mem::MemStore;
use pgfiles_testkit::store_suite::Subject;

async fn subject() -> Subject {
    Subject::of(Arc::new(MemStore::new()))
}

pgfiles_testkit::store_suite!(subject);
