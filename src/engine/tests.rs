//! Tests of the control plane as a whole, in memory: requests go in through [`ControlPlane::serve`], and
//! what they leave behind is looked for in the store, in the audit log and upstream.
//!
//! [`ControlPlane::serve`]: super::ControlPlane::serve

mod bulk;
mod doubt;
mod identity;
mod leases;
mod login_records;
mod logins;
mod model;
mod pipeline;
mod quotas;
mod token_roles;
mod tokens;
mod wrapping;
mod mounts;
mod renewal;
