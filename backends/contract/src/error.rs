//! Why a backend call failed, sorted by what the engine does next.

use std::time::Duration;

use crate::body::BodyError;
use crate::store::StoreError;

/// The cause beneath an error, for the operator's log. It must not quote a credential.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a backend call failed, by what the engine must do next.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The caller's request cannot be honoured as it stands. Answered 400; the text is shown.
    #[error("{0}")]
    InvalidRequest(String),
    /// The operator's role or configuration cannot be honoured. Answered 400; the text is shown.
    #[error("{0}")]
    InvalidRole(String),
    /// The caller did not prove who it claims to be. Counted against guessing; answered 400. The text is
    /// the same whatever part of the proof was wrong.
    #[error("{0}")]
    LoginFailed(&'static str),
    /// What the path names does not exist. Answered 404.
    #[error("not found")]
    NotFound,
    /// The upstream understood and said no: nothing was made. Answered 502; the text is shown.
    #[error("upstream refused: {reason}")]
    Refused {
        /// The upstream's own reason, free of secrets.
        reason: String,
    },
    /// Nothing was sent. Retried with back-off; answered 503.
    #[error("upstream is unavailable: {source}")]
    Unavailable {
        /// The upstream's own advice, where it gave any.
        retry_after: Option<Duration>,
        /// What failed.
        #[source]
        source: Source,
    },
    /// Sent, but the answer was lost. The lease stays and is revoked, never forgotten; answered 502.
    #[error("outcome is unknown: {0}")]
    Indeterminate(#[source] Source),
    /// This backend does not do that. Answered 501 with the reason.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The mount's own storage failed; see [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bug or a damaged record. Answered 500; the text is logged and not shown.
    #[error("internal error: {0}")]
    Internal(#[source] Source),
}

impl BackendError {
    /// A refusal of one field of the request: names the field and the fix.
    pub fn field(name: &str, problem: impl Into<String>) -> Self {
        BodyError::new(name, problem).into()
    }
}

impl From<BodyError> for BackendError {
    fn from(error: BodyError) -> Self {
        Self::InvalidRequest(error.to_string())
    }
}
