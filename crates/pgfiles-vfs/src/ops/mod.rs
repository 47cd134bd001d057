//! The kernel's operations, one file per family. Each is a method of [`crate::Vfs`] of the same name.

pub mod allocate;
mod copy;
mod create;
mod link;
mod lock;
pub mod lookup;
mod open;
mod read;
mod readdir;
mod remove;
mod rename;
pub(crate) mod resolve;
pub mod seek;
mod setattr;
pub mod statfs;
mod write;
pub mod xattr;
