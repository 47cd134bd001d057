//! Integration tests of the program, in one binary.

mod config;
mod files;
mod local;
mod mount;
mod readme;
mod server;
mod shell_hook;
mod user;
mod where_;
