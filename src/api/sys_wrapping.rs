//! `sys/wrapping/*`: wrap, look up, rewrap and unwrap answers.

use daypass_contract::{Access, Effect, Operation, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rfc3339;
use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};

/// Any fields: what is to be wrapped.
type AnyFields = serde_json::Map<String, serde_json::Value>;

#[derive(Deserialize, JsonSchema)]
struct TokenRequest {
    /// The wrapping token; the caller's own token if not given.
    token: Option<Secret>,
}

#[derive(Serialize, JsonSchema)]
struct WrappingView {
    creation_path: String,
    creation_time: String,
    creation_ttl: u64,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Read, Write};
    let wrap = routes.serve::<AnyFields, AnyFields, _, _>(
        Write,
        "sys/wrapping/wrap",
        "Wraps the fields of the request; X-Vault-Wrap-TTL says for how long.",
        wrap,
    );
    wrap.effect = Effect::Change;
    for operation in [Read, Write] {
        let endpoint = routes.serve::<TokenRequest, WrappingView, _, _>(
            operation,
            "sys/wrapping/lookup",
            "Tells of a wrapping token without opening it.",
            lookup,
        );
        (endpoint.access, endpoint.effect) = (Access::Anyone, Effect::Observe);
    }
    // The wrapping token is the authority, in the header or in the body.
    let unwrap = routes.serve::<TokenRequest, AnyFields, _, _>(
        Write,
        "sys/wrapping/unwrap",
        "Gives what a wrapping token stands for, once.",
        |call, request| async move {
            let token = presented(&call, request)?;
            call.engine()?.unwrap(&token).await
        },
    );
    unwrap.access = Access::Anyone;
    let rewrap = routes.serve::<TokenRequest, (), _, _>(
        Write,
        "sys/wrapping/rewrap",
        "Moves what a wrapping token stands for to a new one.",
        |call, request| async move {
            let token = presented(&call, request)?;
            call.engine()?.rewrap(&token).await
        },
    );
    rewrap.access = Access::Anyone;
}

fn presented(call: &SystemCall, request: TokenRequest) -> Result<Secret, Failure> {
    request
        .token
        .filter(|token| !token.is_empty())
        .or_else(|| call.token.as_ref().map(Secret::duplicate))
        .ok_or_else(|| Failure::Invalid("field \"token\": is required".into()))
}

async fn wrap(call: SystemCall, fields: AnyFields) -> Result<Answer, Failure> {
    if call.wrap_ttl.is_none() {
        return Err(Failure::Invalid(
            "endpoint requires response wrapping to be used: send X-Vault-Wrap-TTL".into(),
        ));
    }
    Answer::data(&fields)
}

async fn lookup(call: SystemCall, request: TokenRequest) -> Result<Answer, Failure> {
    let token = presented(&call, request)?;
    let wrapping = call.engine()?.wrapping(&token).await?;
    Answer::data(&WrappingView {
        creation_path: wrapping.creation_path,
        creation_time: rfc3339(wrapping.created_at),
        creation_ttl: wrapping.ttl.as_secs(),
    })
}
