//! The store suite on [`pgfiles_store::mem::MemStore`].

use pgfiles_testkit::store_suite::Subject;

async fn subject() -> Subject {
    Subject::in_memory().0
}

pgfiles_testkit::store_suite!(subject);

#[tokio::test]
async fn an_inode_has_a_thousand_names_at_most() {
    use pgfiles_testkit::store_suite::{Tester, links};
    links::an_inode_has_a_thousand_names_at_most(Tester::new(subject().await)).await;
}
