//! The store suite on [`MemStore`].

use std::sync::Arc;

use pgfiles_store::mem::MemStore;
use pgfiles_testkit::store_suite::Subject;

async fn subject() -> Subject {
    Subject::of(Arc::new(MemStore::new()))
}

pgfiles_testkit::store_suite!(subject);

#[tokio::test]
async fn an_inode_has_a_thousand_names_at_most() {
    use pgfiles_testkit::store_suite::{Tester, links};
    links::an_inode_has_a_thousand_names_at_most(Tester::new(subject().await)).await;
}
