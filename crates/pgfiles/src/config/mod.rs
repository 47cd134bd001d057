//! Settings: where they come from and what they become.
//!
//! [`mod@env`] lists every setting once; [`mod@file`] reads the YAML; [`units`] reads "1GB" and "30s"; [`resolve`] picks flag,
//! environment, file or default and keeps which it was; [`secret`] prints a DSN without its password. Commands receive a
//! [`Settings`] and read no environment themselves.

pub mod env;
pub mod file;
pub mod resolve;
pub mod secret;
pub mod units;

pub use resolve::{Durability, LogLevel, Owner, Settings, Source};
