//! What the tests of all crates share: a private Postgres, the store suite, the reference model, faults. Not published.

pub mod postgres;
