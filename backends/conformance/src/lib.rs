//! What a backend is tested with: a host made of memory, a driver that calls it as the engine would,
//! and the suite that every backend must pass.
//!
//! This crate is a dev-dependency only, and fails the way a test does: by panicking with a message.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed expectation here is a failed test"
)]

mod host;
mod https;
mod leak;
mod mounted;
mod postgres;
mod requests;
mod signer;
mod store;
mod suite;

pub use crate::host::{ManualClock, SeededEntropy, TestHost, TestSystem};
pub use crate::https::{Https, HttpsReply, HttpsRequest};
pub use crate::mounted::{Answer, Issued, Kind, Mounted};
pub use crate::postgres::{Postgres, PostgresOptions};
pub use crate::signer::{Signer, jwks};
pub use crate::store::MemoryStore;
pub use crate::suite::{Case, Subject, run, run_unleased};

#[cfg(test)]
mod self_test;
