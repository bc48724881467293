//! What was issued, until it is proved gone.
//!
//! **Invariant:** a lease is durable before its credential exists, and is removed only after its
//! revocation was proved. In between it is always on the agenda, so expiry finds it.

mod expiry;
mod store;
mod ttl;
mod turns;

pub use expiry::{Queue, QueueHealth, Reaped, Reaper};
pub use store::{LeaseError, LeaseId, LeaseRecord, Leases, NewLease, Trouble};
pub use ttl::{LONGEST, Limits, clamp, renewed_end};
pub use turns::Turn;
