//! The store on a Postgres server.
