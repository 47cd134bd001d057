//! The model test of the filesystem on Postgres, through all layers, with a client that speaks SQL.

use pgfiles_testkit::vfs_model::{Kind, Plan, check, number, seed};

#[test]
fn random_operations() {
    let steps = number("PGFILES_TEST_STEPS").map_or(250, |steps| steps as usize);
    // Time passes by itself here: nothing may depend on it.
    let young_seconds = 10_000_000;
    check(&Plan { on: Kind::Postgres, bytes_max: 300_000, whole_every: 50, young_seconds, ..Plan::new(seed(), steps) });
}
