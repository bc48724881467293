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
pub(super) async fn verifier(
    password: &Secret,
    entropy: &dyn Entropy,
) -> Result<String, BackendError> {
    if !password.expose().iter().all(|b| (b' '..=b'~').contains(b)) {
        return Err(BackendError::InvalidRole(
            "the password policy makes other than printable ASCII characters; change it, or set \
             password_authentication=password"
                .into(),
        ));
    }
    let (password, salt) = (password.duplicate(), entropy.bytes::<16>());
    // About a millisecond of one core: too long to hold up the requests that share this thread.
    tokio::task::spawn_blocking(move || verifier_with(password.expose(), &salt))
        .await
        .map_err(|error| BackendError::Internal(error.into()))
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

#[cfg(test)]
mod tests {
    use daypass_conformance::SeededEntropy;

    use super::*;

    /// The exchange of RFC 7677, section 3: the server's signature follows from the verifier.
    #[test]
    fn the_verifier_signs_as_in_the_rfc() {
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = verifier_with(b"pencil", &salt);
        let (head, keys) = verifier.rsplit_once('$').unwrap();
        assert_eq!(head, "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==");
        let server_key = BASE64_STANDARD
            .decode(keys.split_once(':').unwrap().1)
            .unwrap();
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let messages = format!(
            "n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"
        );
        let signature = hmac::sign(
            &hmac::Key::new(HMAC_SHA256, &server_key),
            messages.as_bytes(),
        );
        assert_eq!(
            BASE64_STANDARD.encode(signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[tokio::test]
    async fn every_verifier_has_its_own_salt_and_only_ascii_has_one() {
        let entropy = SeededEntropy::new(1);
        let secret = Secret::new("a-password");
        let one = verifier(&secret, &entropy).await.unwrap();
        assert_ne!(one, verifier(&secret, &entropy).await.unwrap());
        let error = verifier(&Secret::new("passwörd"), &entropy)
            .await
            .unwrap_err();
        assert!(!error.to_string().contains("passw\u{f6}rd"), "{error}");
    }
}
