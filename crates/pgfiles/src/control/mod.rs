//! The control socket: how commands speak to the daemon of a mount.
//!
//! [`protocol`] is what is said, one JSON value per line; [`server`] is the daemon's end, which serves the user who
//! mounted and nobody else; [`client`] is the command's. One request per connection; closing it cancels the request. [`store`] is the store of the mount.

pub mod client;
pub mod protocol;
pub mod server;
pub mod store;
