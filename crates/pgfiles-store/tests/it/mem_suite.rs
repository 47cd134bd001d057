//! The store suite on [`pgfiles_store::mem::MemStore`].

use pgfiles_testkit::store_suite::Subject;

async fn subject() -> Subject {
    Subject::in_memory().0
}

pgfiles_testkit::store_suite!(subject);
