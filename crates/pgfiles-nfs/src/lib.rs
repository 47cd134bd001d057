//! The NFS v4.1 adapter (RFC 8881): serves a [`Vfs`](pgfiles_vfs::Vfs) over ONC RPC, translates requests and answers. Nothing of how
//! anything is stored is known here, and nothing of NFS in the core.
//!
//! Data flows one way: `server` (connections, records) → `rpc` → `compound` → `ops` → the core. `session` says whether a request is
//! carried out, `state` what clients hold, `nodes` and `listing` what they were told.
//!
//! # Lock order
//! The std mutexes of `session`, `state`, `nodes`, `listing`, `grace` and `outage` are held for moments, never across an await, and
//! never two at once but a slot's inside none.

mod access;
mod attrs;
mod compound;
mod convert;
mod core;
mod filehandle;
mod grace;
mod listing;
pub mod mount;
mod nodes;
mod ops;
mod outage;
mod peer;
pub mod proto;
mod ranges;
pub mod rpc;
mod server;
mod session;
mod stand_in;
mod state;
pub mod xdr;

pub use core::{LEASE, NfsConfig};
pub use server::{Listener, NfsStatus, Server};
pub use stand_in::refuse_all;
