//! Integration tests of the program, in one binary.

mod cache;
mod config;
mod doctor;
mod exec;
mod files;
mod json;
mod local;
mod mount;
mod nfs;
mod outage;
mod readme;
mod server;
mod shell_hook;
mod user;
mod where_;
mod without_mount;
