//! The product as its users meet it: the real binary, real mounts, a real Postgres, real programs, and what goes wrong.
//!
//! Rounds of the fault tests are few here and many in `make faults` (PGFILES_TEST_ROUNDS sets them).

#![cfg(target_os = "linux")]

mod conformance;
mod faults;
mod harness;
mod large;
mod limits;
mod many_mounts;
mod packages;
mod real_programs;
mod shared;
mod versions;
