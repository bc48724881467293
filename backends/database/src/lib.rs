//! The backend of the Vault API's `database` engine: an account of its own for everyone who asks.
//!
//! # Invariants
//!
//! * **Planning touches nothing.** Names and passwords are chosen there; one transaction makes the account.
//! * **The database has its own end for every account**, so that access ends even where Daypass does not
//!   come back.
//! * **A password is in no handle, error or log.** Text from a database is shown only where it quotes
//!   nothing of what was sent.

mod backend;
mod config;
mod connection;
mod engine;
mod password;
mod postgres;
mod role;
mod statements;
mod template;

pub use crate::backend::open;
