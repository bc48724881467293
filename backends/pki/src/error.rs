//! [`CertError`] as the contract's errors: whose fault it is depends on what was being done.

use daypass_certs::CertError;
use daypass_contract::BackendError;

/// Of something that the caller sent, in this field.
pub(crate) fn in_field(field: &'static str) -> impl Fn(CertError) -> BackendError {
    move |error| match error {
        CertError::Crypto(_) => internal(error),
        _ => BackendError::field(field, error.to_string()),
    }
}

/// Of a certificate that a request and a role describe together.
pub(crate) fn in_request(error: CertError) -> BackendError {
    match error {
        CertError::Crypto(_) => internal(error),
        _ => BackendError::InvalidRequest(error.to_string()),
    }
}

/// Of something that is stored, or that cannot fail.
pub(crate) fn internal(error: CertError) -> BackendError {
    BackendError::Internal(error.into())
}
