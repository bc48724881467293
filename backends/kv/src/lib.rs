//! Stored secrets: kv v1, which keeps the last value, and kv v2, which keeps versions of it.
//!
//! Both answer as the Vault API does, shapes and names included; where they are stricter,
//! `docs/backends/kv.md` says so.
//!
//! # Invariants
//!
//! * **One write, one batch.** Whatever a request changes is applied together or not at all, on
//!   condition that what it was decided upon has not changed meanwhile.
//! * **Destroyed is gone.** Destroying or pruning a version, or deleting a key's metadata, removes the
//!   values from storage in the same batch that says so.
//! * **Nothing is leased.** A stored secret is not issued; there is nothing to revoke.

use std::sync::Arc;

use daypass_contract::{Backend, BackendError, Host, Revocability};

mod instant;
mod json;
mod metadata;
mod request;
mod settings;
mod v1;
mod v2;

#[cfg(test)]
mod tests;

/// Opens a mount of the version that the option `version` names: `1`, which is also what a mount
/// without that option has, or `2`.
///
/// # Errors
/// [`BackendError::InvalidRole`] where there is no such version.
#[expect(
    clippy::unused_async,
    reason = "every backend opens this way; others read storage or connect"
)]
pub async fn open(host: Host) -> Result<Arc<dyn Backend>, BackendError> {
    match host.options.get("version").map(String::as_str) {
        None | Some("" | "1") => Ok(Arc::new(v1::V1::new(host))),
        Some("2") => Ok(Arc::new(v2::V2::new(host))),
        Some(_) => Err(BackendError::InvalidRole(
            "mount option \"version\": kv has versions \"1\" and \"2\"".into(),
        )),
    }
}

/// What both say of a lease they never gave.
fn not_leased<T>() -> Result<T, BackendError> {
    Err(BackendError::Unsupported(
        "stored secrets are not leased".into(),
    ))
}

fn revocability() -> Revocability {
    Revocability::BestEffort {
        reason:
            "a stored secret is not leased: it grants access until it is changed where it is used"
                .into(),
    }
}
