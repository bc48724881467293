//! Asking an API server who a token belongs to: `TokenReview` of `authentication.k8s.io/v1`.
//!
//! **Invariant:** a caller is who the API server says, for the audience that was asked about, or nobody.
//! Whatever else it answers, and whatever the token itself says, lets nobody in.

use daypass_contract::{BackendError, Secret};
use reqwest::Url;
use serde::Deserialize;
use serde_json::json;

use super::NOBODY;
use crate::federated::{Failed, Upstream};

/// How a service account's user name begins.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// A service account, as the API server names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl ServiceAccount {
    /// Takes the user name of one apart: `system:serviceaccount:NAMESPACE:NAME`.
    pub(crate) fn parse(username: &str) -> Option<(&str, &str)> {
        let (namespace, name) = username.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
        let good = |part: &str| !part.is_empty() && !part.contains([':', '/']);
        (good(namespace) && good(name)).then_some((namespace, name))
    }
}

#[derive(Deserialize)]
struct TokenReview {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    user: User,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    error: String,
}

#[derive(Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    uid: String,
}

/// Asks whose `token` is, for `audience` or, where that is empty, for the API server itself.
///
/// # Errors
/// [`BackendError::LoginFailed`] where the token is nobody's; [`BackendError::Unavailable`] where the API
/// server gives no answer that could be used; [`BackendError::Refused`] where it does not let us ask.
pub(crate) async fn review(
    upstream: &Upstream,
    url: Url,
    reviewer: &Secret,
    token: &str,
    audience: &str,
) -> Result<ServiceAccount, BackendError> {
    let spec = if audience.is_empty() {
        json!({ "token": token })
    } else {
        json!({ "token": token, "audiences": [audience] })
    };
    let question = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec,
    });
    let reviewer = reviewer.expose_str().unwrap_or_default();
    let own = reviewer == token;
    let request = upstream.post(url).bearer_auth(reviewer).json(&question);
    let server = "the API server";
    let answered = upstream.send(request).await;
    let (status, body) = answered.map_err(|failed| failed.unavailable(server))?;
    match status {
        200 | 201 => {}
        // The caller's own token was shown, and it is no good.
        401 if own => return Err(NOBODY),
        401 => {
            return Err(BackendError::Refused {
                reason: "the API server does not know token_reviewer_jwt (401)".into(),
            });
        }
        403 => {
            return Err(BackendError::Refused {
                reason: "token_reviewer_jwt may not create token reviews (403): bind it to the \
                         cluster role system:auth-delegator"
                    .into(),
            });
        }
        other => return Err(Failed::Status(other).unavailable(server)),
    }
    let review: TokenReview = serde_json::from_slice(&body)
        .map_err(|_| Failed::Unexpected("a token review").unavailable(server))?;
    let Status {
        authenticated,
        user,
        audiences,
        error,
    } = review.status;
    // An answer that says both is not one to rely on.
    if !authenticated || !error.is_empty() {
        return Err(NOBODY);
    }
    // An authenticator that knows nothing of audiences leaves them out: the token may be for anyone.
    if !audience.is_empty() && !audiences.iter().any(|named| named == audience) {
        return Err(NOBODY);
    }
    let Some((namespace, name)) = ServiceAccount::parse(&user.username) else {
        return Err(NOBODY);
    };
    if user.uid.is_empty() {
        return Err(NOBODY);
    }
    Ok(ServiceAccount {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: user.uid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_service_accounts_have_such_names() {
        let cases = [
            ("system:serviceaccount:prod:app", Some(("prod", "app"))),
            ("system:serviceaccount:prod:", None),
            ("system:serviceaccount::app", None),
            ("system:serviceaccount:prod", None),
            ("system:serviceaccount:prod:app:x", None),
            ("system:serviceaccount:prod:a/b", None),
            ("system:node:prod:app", None),
            ("alice", None),
            ("", None),
        ];
        for (username, want) in cases {
            assert_eq!(ServiceAccount::parse(username), want, "{username}");
        }
    }
}
