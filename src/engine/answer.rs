//! What comes in and what goes out, free of HTTP.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use daypass_contract::{BackendError, Content, Json, Operation, Peer, Secret, StoreError};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::audit::AuditError;
use crate::identity::TokenError;
use crate::lease::LeaseError;
use crate::storage::StorageError;

/// One request, parsed and not yet authenticated.
pub struct Request {
    /// Names the request in the answer and the audit log.
    pub id: String,
    /// What is asked.
    pub operation: Operation,
    /// The caller wants the status alone (`HEAD`): nothing is issued for that.
    pub status_only: bool,
    /// Below `/v1/`, without a leading slash.
    pub path: String,
    /// The token presented.
    pub token: Option<Secret>,
    /// Query and body.
    pub fields: Map<String, Value>,
    /// Over which connection it came.
    pub peer: Peer,
    /// For how long the caller wants the answer wrapped, where at all.
    pub wrap_ttl: Option<Duration>,
    /// The server makes it for itself: no quota counts it.
    pub own: bool,
}

/// What a request is answered with.
pub struct Answer {
    /// The content.
    pub body: Body,
    /// Advice for whoever reads it.
    pub warnings: Vec<String>,
}

/// The content of an answer.
pub enum Body {
    /// 204.
    Nothing,
    /// 202: it will happen, but has not yet.
    Accepted,
    /// The `data` of the envelope.
    Data(Json),
    /// The `data` of the envelope, its fields also beside the envelope's own: how the oldest part of
    /// the Vault API answers.
    Flat(Json),
    /// The `data` of the envelope, with 404.
    Absent(Json),
    /// A leased credential.
    Lease(Json, LeaseView),
    /// A login or a new token.
    Auth(Box<AuthView>),
    /// The token that opens an answer, in its stead.
    Wrapped(Box<WrapView>),
    /// An answer that was kept: the parts of the envelope but for the request's id.
    Kept(Json),
    /// JSON outside the envelope, with a status of its own (health, seal status).
    Plain {
        /// The HTTP status.
        status: u16,
        /// The JSON.
        json: Json,
    },
    /// Bytes outside the envelope.
    Raw {
        /// Its media type.
        content_type: &'static str,
        /// Public bytes.
        bytes: Vec<u8>,
    },
}

/// The lease part of the envelope.
pub struct LeaseView {
    /// Names the lease.
    pub id: String,
    /// How long it lasts from now.
    pub ttl: Duration,
    /// Whether it can be renewed.
    pub renewable: bool,
}

/// The `wrap_info` part of the envelope.
pub struct WrapView {
    /// The wrapping token.
    pub token: Secret,
    /// Names it.
    pub accessor: String,
    /// How long it opens the answer.
    pub ttl: Duration,
    /// When it was made.
    pub created_at: SystemTime,
    /// The path whose answer is wrapped.
    pub creation_path: String,
    /// Names the token in the answer, where one is.
    pub wrapped_accessor: Option<String>,
}

/// The `auth` part of the envelope.
#[derive(Serialize)]
pub struct AuthView {
    /// The token.
    #[serde(serialize_with = "daypass_contract::reveal")]
    pub client_token: Secret,
    /// Names it.
    pub accessor: String,
    /// All of its policies.
    pub policies: Vec<String>,
    /// Those on the token itself.
    pub token_policies: Vec<String>,
    /// Those of its entity and of the groups that is in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identity_policies: Vec<String>,
    /// Free key-value pairs.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Seconds; 0 for a token without end.
    pub lease_duration: u64,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// The entity it stands for; empty if none.
    pub entity_id: String,
    /// `service` or `batch`.
    pub token_type: &'static str,
    /// Whether it has no parent.
    pub orphan: bool,
    /// Part of the Vault API; always null.
    pub mfa_requirement: Option<()>,
    /// Requests left; 0 for any number.
    pub num_uses: u64,
}

impl Answer {
    /// An answer of `body` without warnings.
    pub fn of(body: Body) -> Self {
        Self {
            body,
            warnings: Vec::new(),
        }
    }

    /// 204.
    pub fn nothing() -> Self {
        Self::of(Body::Nothing)
    }

    /// The `data` of the envelope.
    pub fn data<T: Serialize + ?Sized>(value: &T) -> Result<Self, Failure> {
        Ok(Self::of(Body::Data(Json::of(value)?)))
    }

    /// See [`Body::Flat`].
    pub fn flat<T: Serialize + ?Sized>(value: &T) -> Result<Self, Failure> {
        Ok(Self::of(Body::Flat(Json::of(value)?)))
    }

    /// See [`Body::Plain`].
    pub fn plain<T: Serialize + ?Sized>(status: u16, value: &T) -> Result<Self, Failure> {
        Ok(Self::of(Body::Plain {
            status,
            json: Json::of(value)?,
        }))
    }

    /// The names of a list; none is [`Failure::NotFound`].
    pub fn keys(keys: &[String]) -> Result<Self, Failure> {
        if keys.is_empty() {
            return Err(Failure::NotFound);
        }
        Self::data(&serde_json::json!({ "keys": keys }))
    }

    /// The same answer with one more warning.
    #[must_use]
    pub fn warn(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }

    /// Its HTTP status, which the audit log records too.
    pub fn status(&self) -> u16 {
        match &self.body {
            Body::Nothing if self.warnings.is_empty() => 204,
            Body::Accepted => 202,
            Body::Absent(_) => 404,
            Body::Plain { status, .. } => *status,
            Body::Nothing
            | Body::Data(_)
            | Body::Flat(_)
            | Body::Lease(..)
            | Body::Auth(_)
            | Body::Wrapped(_)
            | Body::Kept(_)
            | Body::Raw { .. } => 200,
        }
    }

    /// The JSON in it, for the audit log.
    pub(super) fn json(&self) -> Option<&Json> {
        match &self.body {
            Body::Data(json)
            | Body::Flat(json)
            | Body::Absent(json)
            | Body::Lease(json, _)
            | Body::Kept(json)
            | Body::Plain { json, .. } => Some(json),
            Body::Nothing
            | Body::Accepted
            | Body::Auth(_)
            | Body::Wrapped(_)
            | Body::Raw { .. } => None,
        }
    }
}

impl From<daypass_contract::Reply> for Answer {
    fn from(reply: daypass_contract::Reply) -> Self {
        let body = match reply.content {
            Content::Nothing => Body::Nothing,
            Content::Data(json) => Body::Data(json),
            Content::Absent(json) => Body::Absent(json),
            Content::Raw {
                content_type,
                bytes,
            } => Body::Raw {
                content_type,
                bytes,
            },
        };
        Self {
            body,
            warnings: reply.warnings,
        }
    }
}

/// Why a request failed, by what its caller does next.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Correct the request.
    #[error("{0}")]
    Invalid(String),
    /// Get another token or another policy. What is missing is not told.
    #[error("permission denied")]
    Denied,
    /// Nothing is there.
    #[error("not found")]
    NotFound,
    /// No mount or endpoint is there.
    #[error("no handler for route \"{0}\"")]
    NoRoute(String),
    /// The path exists for other operations.
    #[error("unsupported operation: this path has {0}")]
    WrongOperation(String),
    /// Daypass does not do that.
    #[error("{0}")]
    Unsupported(String),
    /// Unseal first.
    #[error("Vault is sealed")]
    Sealed,
    /// Initialize first.
    #[error("server is not yet initialized")]
    NotInitialized,
    /// Send less.
    #[error("request body is larger than {0} bytes")]
    TooLarge(usize),
    /// Come back later: a rate limit.
    #[error("rate limit \"{quota}\" exceeded; try again in {} s", retry_after.as_secs().max(1))]
    TooMany {
        /// The quota's name.
        quota: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// The upstream said no or its answer was lost.
    #[error("{0}")]
    Upstream(String),
    /// Try again later.
    #[error("{0}")]
    Unavailable(String),
    /// The server is at fault; the cause is in its log under the request's id.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Failure {
    /// Its HTTP status: the one place where a failure becomes one.
    pub fn status(&self) -> u16 {
        match self {
            Self::Invalid(_) => 400,
            Self::Denied => 403,
            Self::NotFound | Self::NoRoute(_) => 404,
            Self::WrongOperation(_) => 405,
            Self::TooLarge(_) => 413,
            Self::TooMany { .. } => 429,
            Self::Unsupported(_) => 501,
            Self::Upstream(_) => 502,
            Self::Sealed | Self::NotInitialized | Self::Unavailable(_) => 503,
            Self::Internal(_) => 500,
        }
    }
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::InvalidRequest(text) | BackendError::InvalidRole(text) => {
                Self::Invalid(text)
            }
            BackendError::LoginFailed(text) => Self::Invalid(text.to_owned()),
            BackendError::NotFound => Self::NotFound,
            BackendError::Refused { .. } | BackendError::Indeterminate(_) => {
                Self::Upstream(error.to_string())
            }
            BackendError::Unavailable { .. } | BackendError::Store(StoreError::Conflict) => {
                Self::Unavailable(error.to_string())
            }
            BackendError::Unsupported(text) => Self::Unsupported(text),
            BackendError::Store(StoreError::Failed(source)) => {
                match source.downcast::<StorageError>() {
                    Ok(error) => (*error).into(),
                    Err(source) => Self::Internal(StoreError::Failed(source).to_string()),
                }
            }
            BackendError::Internal(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Sealed => Self::Sealed,
            StorageError::Conflict => Self::Unavailable(error.to_string()),
            // Keys are made of what callers name.
            StorageError::InvalidKey(reason) => {
                Self::Invalid(format!("a name in the request cannot be stored: {reason}"))
            }
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Storage(error) => error.into(),
            TokenError::NotFound | TokenError::Exists => Self::Invalid(error.to_string()),
            TokenError::Broken(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<LeaseError> for Failure {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Storage(error) => error.into(),
            LeaseError::NotFound | LeaseError::NotRenewable => Self::Invalid(error.to_string()),
            LeaseError::Broken => Self::Internal(error.to_string()),
        }
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        Self::Internal(format!(
            "the audit log cannot be written, so nothing was done: {error}"
        ))
    }
}
