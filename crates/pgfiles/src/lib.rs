//! The binary as a library: parse, log, run, exit code; callable from tests.
//!
//! The only crate that sees all of pgfiles and wires it: configuration ([`config`]), commands ([`cli`]), daemons
//! ([`daemon`], [`registry`], [`control`]), what commands and daemons both carry out ([`service`]), and what commands do to files
//! ([`files`]).

pub mod cli;
pub mod config;
pub mod connect;
pub mod control;
pub mod daemon;
pub mod exit;
pub mod files;
pub mod local;
pub mod mount_table;
pub mod output;
pub mod registry;
pub mod service;
pub mod shell_hook;
pub mod where_;
