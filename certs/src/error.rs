//! [`CertError`]: why something is not a certificate, or may not become one.

use std::time::SystemTime;

/// Why a certificate, key, CSR or CRL was refused, by whose fault it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertError {
    /// What was given cannot be read; the text says what it should have been.
    #[error("{0}")]
    Malformed(&'static str),
    /// A value cannot stand in a certificate; the text names it and the rule.
    #[error("{0}")]
    Unacceptable(String),
    /// The CSR or certificate is not signed by the key it names.
    #[error("signature does not verify")]
    BadSignature,
    /// The private key does not belong to the certificate.
    #[error("private key does not belong to the certificate")]
    KeyMismatch,
    /// The certificate would outlive its issuer.
    #[error("not_after would be beyond the end of the issuer's own certificate")]
    BeyondIssuer {
        /// When the issuer ends.
        issuer_not_after: SystemTime,
    },
    /// The cryptographic library failed at something that should not fail: not the caller's fault.
    #[error("cryptographic operation failed: {0}")]
    Crypto(&'static str),
}

impl CertError {
    pub(crate) fn unacceptable(text: impl Into<String>) -> Self {
        Self::Unacceptable(text.into())
    }
}
