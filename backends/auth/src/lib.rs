//! Auth methods: each finds out who a caller is and what its token may be like; the engine makes the
//! token.
//!
//! A module per method; adding one is a module with an `open`, its line in the engine's registry and
//! its page in `docs/auth/`.
//!
//! # Invariants
//!
//! * **A failed login says nothing** where a proof could be guessed: whatever part of it was wrong, text and
//!   status are the same. (A signature cannot be guessed: `cert`,
//!   `jwt` and `kubernetes` say what does not fit.)
//! * **What logs in is not readable at rest.** Passwords and secret ids are kept as hashes.

use daypass_contract::{BackendError, Host, Revocability};

mod again;
pub mod approle;
pub mod cert;
mod earlier;
mod name;
mod strict;
mod federated;
pub mod jwt;
pub mod kubernetes;
pub mod userpass;

/// What every method says of a lease it never gave.
pub(crate) fn not_leased<T>() -> Result<T, BackendError> {
    Err(BackendError::Unsupported(
        "logins make tokens, which the control plane revokes".into(),
    ))
}

/// What revoking achieves: an auth method has no leases, and its tokens end at once.
pub(crate) fn revocability() -> Revocability {
    Revocability::Immediate
}

/// The names after `after` of the level `prefix`, at most as many as asked for.
pub(crate) async fn names(
    host: &Host,
    prefix: &str,
    after: Option<&str>,
    limit: Option<usize>,
) -> Result<Vec<String>, BackendError> {
    let limit = limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    Ok(host.store.list(prefix, after, limit).await?)
}
