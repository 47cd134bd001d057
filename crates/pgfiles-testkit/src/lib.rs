//! What the tests of all crates share: a private Postgres, the store suite, the reference model, faults. Not published.

pub mod clock;
pub mod fault;
pub mod fs_suite;
pub mod model;
pub mod nfs_client;
pub mod postgres;
pub mod slow_link;
pub mod store_suite;
pub mod vfs_model;
