//! The local, chained, fail-closed audit log.
//!
//! [`AuditLog`] is an append-only log of JSON lines in a directory of its own. It is the authority:
//! other sinks read from it ([`Follower`], [`devices`]) and never stand between a request and its answer.
//!
//! # Invariants
//!
//! * **No answer without a record.** [`AuditLog::append`] has given the line to the operating system
//!   when it returns, and [`AuditLog::durable`] has it on the disk; otherwise they fail, and so does
//!   the request.
//! * **Every line names the one before.** It holds a number and the hash of the previous line, across
//!   files and restarts, so [`verify`] finds what was changed, removed or put elsewhere; checkpoints
//!   sign the chain while the server is unsealed.
//! * **Secrets are here only as keyed hashes.** The fields that could hold one take [`Hashed`] and
//!   [`HashedJson`], which only a [`Hasher`] makes.
//! * **A disk that lied once is not believed again.** After a failed fsync, or a failed write that
//!   cannot be undone, every append fails until the server is restarted.

mod checkpoint;
pub mod devices;
mod error;
mod files;
mod hash;
mod line;
mod log;
mod record;
mod tail;
#[cfg(test)]
pub(crate) mod testing;
mod verify;
mod writer;

pub use self::checkpoint::{AuditKeys, PublicKey};
pub use self::error::AuditError;
pub use self::hash::{Hashed, HashedJson, Hasher};
pub use self::line::{Hash, Head};
pub use self::log::{AuditLog, Kind, Options, Position};
pub use self::record::{
    Decision, Event, Leased, Names, Principal, Request, RequestRecord, Response, ResponseRecord,
    WrapInfo,
};
pub use self::tail::{Follower, summary};
pub use self::verify::{Expect, Finding, Problem, Report, VerifyError, verify, verify_files};
