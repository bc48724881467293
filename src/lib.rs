//! Daypass: headless identity infrastructure. One binary that decides, issues, rotates and revokes
//! short-lived credentials for software.
//!
//! The order of the modules is the layering: a module uses only those above it.

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub mod memory;
pub mod config;
pub mod storage;
pub mod audit;
pub mod identity;
pub mod policy;
pub mod lease;
pub mod engine;
pub mod api;
pub mod server;
pub mod client;
pub mod cli;
