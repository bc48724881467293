//! Why a certificate does not log in.

use daypass_contract::BackendError;

/// Why a certificate does not log in; of several reasons the last one listed here says most.
///
/// The holder of the key is told: a certificate cannot be guessed. Nothing of the roles is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    /// The connection shows none.
    NoCertificate,
    /// It is not a certificate, or one that nobody should have signed.
    Unreadable,
    /// No role trusts it or whoever signed it.
    Untrusted,
    /// It, or one above it, has not begun or has ended.
    NotNow,
    /// It is for something else.
    NotForClients,
    /// It says that it is a workload's and breaks the rules for that.
    Svid,
    /// The role wants something that it does not have.
    Constraints,
    /// It has no name that the caller's entity could have.
    Nameless,
    /// A list of what its issuer revoked is there, and nobody knows what was revoked since.
    StaleList,
    /// A list of what its issuer revoked is there, and the issuer did not sign it.
    UnprovenList,
    /// It, or one above it, was revoked.
    Revoked,
}

impl Refusal {
    fn text(self) -> &'static str {
        match self {
            Self::NoCertificate => "no client certificate found",
            Self::Unreadable => "the client certificate cannot be read",
            Self::Untrusted => "invalid certificate or no client certificate supplied",
            Self::NotNow => "the certificate, or one above it, has ended or not yet begun",
            Self::NotForClients => "the certificate is not for client authentication",
            Self::Svid => {
                "the certificate has a SPIFFE ID and is not an X.509-SVID: exactly one URI, key \
                 usage digitalSignature, not a CA"
            }
            Self::Constraints => {
                "no chain matching all constraints could be found for this login certificate"
            }
            Self::Nameless => {
                "the certificate has no common name to be known by; for a SPIFFE ID, the role \
                 says which it admits in allowed_uri_sans"
            }
            Self::StaleList => {
                "the certificate revocation list of an issuer has ended: an operator has to upload \
                 the present one"
            }
            Self::UnprovenList => {
                "the certificate revocation list of an issuer was not signed by it: an operator has \
                 to upload the right one"
            }
            Self::Revoked => "the certificate, or one above it, is revoked",
        }
    }
}

impl From<Refusal> for BackendError {
    fn from(refusal: Refusal) -> Self {
        Self::LoginFailed(refusal.text())
    }
}
