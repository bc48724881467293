//! Why a request failed, sorted by what the caller does next.

use std::error::Error as _;

use serde_json::Value;

use super::{Answer, Content};

/// Why a request failed, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing was sent: correct the settings or the arguments.
    #[error("{0}")]
    Settings(String),
    /// No answer came; whether the request arrived is not known. Check the address; try again.
    #[error("{address} does not answer: {reason}")]
    Unreachable {
        /// Where the request went.
        address: String,
        /// What the network or TLS said.
        reason: String,
    },
    /// The server must be unsealed first.
    #[error("{address} is sealed")]
    Sealed {
        /// Which server.
        address: String,
    },
    /// The server has no capacity now: try again later.
    #[error("the server cannot answer now ({status}){}", told(errors))]
    Unavailable {
        /// 429 or 503.
        status: u16,
        /// The server's words.
        errors: Vec<String>,
    },
    /// The token is missing, has ended, or its policies do not allow this.
    #[error("permission denied{}{}", told(errors), if *anonymous { ": no token was sent" } else { "" })]
    Denied {
        /// The server's words.
        errors: Vec<String>,
        /// Whether the request went without a token.
        anonymous: bool,
    },
    /// There is nothing at that path.
    #[error("not found{}", told(errors))]
    NotFound {
        /// The server's words.
        errors: Vec<String>,
    },
    /// The server understood and will not do it as asked: change the request.
    #[error("the server refused ({status}){}", told(errors))]
    Invalid {
        /// 400, 405, 412, …
        status: u16,
        /// The server's words.
        errors: Vec<String>,
    },
    /// The server failed; its log says more.
    #[error("the server failed ({status}){}", told(errors))]
    ServerFault {
        /// 500 and above, or an answer that makes no sense.
        status: u16,
        /// The server's words.
        errors: Vec<String>,
    },
}

impl ClientError {
    pub(super) fn settings(problem: impl Into<String>) -> Self {
        Self::Settings(problem.into())
    }

    /// No answer. The outermost error only says that sending failed; the innermost says why.
    pub(super) fn lost(address: &str, error: &reqwest::Error) -> Self {
        let mut cause = error.source();
        let mut reason = match cause {
            Some(_) => String::new(),
            None => error.to_string(),
        };
        while let Some(inner) = cause {
            reason = inner.to_string();
            cause = inner.source();
        }
        if error.is_timeout() {
            reason = "it took too long".into();
        }
        Self::Unreachable {
            address: address.to_owned(),
            reason,
        }
    }

    /// The server said no.
    pub(super) fn refused(address: &str, status: u16, answer: &Answer) -> Self {
        let errors = errors(answer);
        match status {
            403 | 401 => Self::Denied {
                errors,
                anonymous: false,
            },
            404 => Self::NotFound { errors },
            429 | 503 => Self::Unavailable { status, errors },
            300..400 => Self::Invalid {
                status,
                errors: vec![format!(
                    "{address} redirects; use the address it stands for"
                )],
            },
            400..500 => Self::Invalid { status, errors },
            _ => Self::ServerFault { status, errors },
        }
    }
}

/// The `errors` of the answer. Of anything else nothing is shown: it need not be from a Daypass server.
fn errors(answer: &Answer) -> Vec<String> {
    let Content::Json(body) = &answer.content else {
        return Vec::new();
    };
    let list = body.get("errors").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|text| text.trim().to_owned())
        .collect()
}

fn told(errors: &[String]) -> String {
    // "permission denied: permission denied" helps nobody.
    let errors: Vec<&str> = errors
        .iter()
        .map(String::as_str)
        .filter(|text| !text.is_empty() && *text != "permission denied")
        .collect();
    if errors.is_empty() {
        String::new()
    } else {
        format!(": {}", errors.join("; "))
    }
}
