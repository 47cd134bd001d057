//! Integration tests of the store crate: one binary.

#[cfg(feature = "pg")]
mod schema_init;
