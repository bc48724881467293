//! SCRAM-SHA-256 verifiers (RFC 5803), as PostgreSQL stores them: with one in a statement in place of a
//! password, no log, statistics view or statement history of the server ever holds the password.

use std::num::NonZeroU32;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA256};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use daypass_contract::{BackendError, Entropy, Secret};

/// What PostgreSQL uses by default. Our passwords are random: more rounds would protect nothing.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();

/// The verifier of `password`, with a new salt.
///
/// # Errors
/// [`BackendError::InvalidRole`] for a password with other than printable ASCII characters, which clients
/// would first have to normalize (SASLprep).
pub(super) fn verifier(password: &Secret, entropy: &dyn Entropy) -> Result<String, BackendError> {
    if !password.expose().iter().all(|b| (b' '..=b'~').contains(b)) {
        return Err(BackendError::InvalidRole(
            "the password policy makes other than printable ASCII characters; change it, or set \
             password_authentication=password"
                .into(),
        ));
    }
    Ok(verifier_with(password.expose(), &entropy.bytes::<16>()))
}

fn verifier_with(password: &[u8], salt: &[u8]) -> String {
    let mut salted = [0; SHA256_OUTPUT_LEN];
    pbkdf2::derive(PBKDF2_HMAC_SHA256, ITERATIONS, salt, password, &mut salted);
    let key = hmac::Key::new(HMAC_SHA256, &salted);
    let stored_key = digest(&SHA256, hmac::sign(&key, b"Client Key").as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    let [salt, stored_key, server_key] =
        [salt, stored_key.as_ref(), server_key.as_ref()].map(|bytes| BASE64_STANDARD.encode(bytes));
    format!("SCRAM-SHA-256${ITERATIONS}:{salt}${stored_key}:{server_key}")
}
