//! The filesystem suite, over the protocol.

use pgfiles_testkit::fs_suite::{self, OverNfs};

use crate::served::served;

#[test]
fn over_nfs() {
    let served = served();
    fs_suite::run(&OverNfs::new(served.client()));
}
