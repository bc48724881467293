//! `auth/token/*`: the token auth method.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use daypass_contract::{Access, Cidr, NoFields, Operation, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rfc3339;
use crate::engine::{Answer, Body, Engine, Failure, Serve, SystemCall, SystemRoutes};
use crate::identity::{Accessor, Principal, Removal};

/// Accessors that a list gives at most.
const MOST_ACCESSORS: usize = 100_000;

#[derive(Deserialize, JsonSchema)]
struct TokenRequest {
    token: Option<Secret>,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    increment: Option<Duration>,
}

#[derive(Deserialize, JsonSchema)]
struct AccessorRequest {
    accessor: Option<String>,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    increment: Option<Duration>,
}

/// What a look-up tells of a token.
#[derive(Serialize, JsonSchema)]
struct TokenView {
    accessor: String,
    creation_time: u64,
    creation_ttl: u64,
    display_name: String,
    entity_id: String,
    expire_time: Option<String>,
    explicit_max_ttl: u64,
    #[serde(serialize_with = "reveal_option")]
    #[schemars(with = "String")]
    id: Option<Secret>,
    issue_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_renewal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_renewal_time: Option<u64>,
    meta: Option<BTreeMap<String, String>>,
    num_uses: u64,
    orphan: bool,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    period: Option<u64>,
    policies: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    identity_policies: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bound_cidrs: Vec<Cidr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    renewable: bool,
    ttl: u64,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[expect(clippy::ref_option, reason = "serde fixes the signature")]
fn reveal_option<S: serde::Serializer>(
    secret: &Option<Secret>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => daypass_contract::reveal(secret, serializer),
        None => serializer.serialize_str(""),
    }
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{List, Read, Write};
    for operation in [Read, Write] {
        let endpoint = routes.serve::<NoFields, TokenView, _, _>(
            operation,
            "auth/token/lookup-self",
            "Describes the caller's token.",
            lookup_self,
        );
        endpoint.effect = daypass_contract::Effect::Observe;
    }
    routes.serve::<NoFields, TokenView, _, _>(
        Read,
        "auth/token/lookup",
        "Describes the caller's token.",
        lookup_self,
    );
    routes
        .serve::<TokenRequest, TokenView, _, _>(
            Write,
            "auth/token/lookup",
            "Describes a token.",
            lookup,
        )
        .effect = daypass_contract::Effect::Observe;
    routes
        .serve::<AccessorRequest, TokenView, _, _>(
            Write,
            "auth/token/lookup-accessor",
            "Describes the token of an accessor.",
            lookup_accessor,
        )
        .effect = daypass_contract::Effect::Observe;
    routes.serve::<TokenRequest, (), _, _>(
        Write,
        "auth/token/renew-self",
        "Renews the caller's token.",
        renew_self,
    );
    routes.serve::<TokenRequest, (), _, _>(Write, "auth/token/renew", "Renews a token.", renew);
    routes.serve::<AccessorRequest, (), _, _>(
        Write,
        "auth/token/renew-accessor",
        "Renews the token of an accessor.",
        renew_accessor,
    );
    routes.serve::<NoFields, (), _, _>(
        Write,
        "auth/token/revoke-self",
        "Revokes the caller's token and all below it.",
        revoke_self,
    );
    routes.serve::<TokenRequest, (), _, _>(
        Write,
        "auth/token/revoke",
        "Revokes a token and all below it.",
        revoke,
    );
    routes.serve::<AccessorRequest, (), _, _>(
        Write,
        "auth/token/revoke-accessor",
        "Revokes the token of an accessor and all below it.",
        revoke_accessor,
    );
    routes
        .serve::<TokenRequest, (), _, _>(
            Write,
            "auth/token/revoke-orphan",
            "Revokes a token; those below it become orphans.",
            revoke_orphan,
        )
        .access = Access::Sudo;
    routes
        .serve::<NoFields, daypass_contract::Keys, _, _>(
            List,
            "auth/token/accessors",
            "Lists the accessors of all tokens.",
            accessors,
        )
        .access = Access::Sudo;
    routes
        .serve::<NoFields, (), _, _>(
            Write,
            "auth/token/tidy",
            "Makes the worker look at what is due; nothing else is needed.",
            |call, _| async move {
                call.engine()?.wake_queues();
                // Typed clients want an answer to read.
                Ok(Answer::of(Body::Accepted)
                    .warn("the worker looks at what is due; the log tells what it finds"))
            },
        )
        .access = Access::Sudo;
}

fn token_view(text: Option<Secret>, principal: &Principal, now: SystemTime) -> TokenView {
    let (id, record, kind) = (
        principal.token.as_ref(),
        &principal.record,
        principal.kind(),
    );
    let unix = |at: SystemTime| daypass_contract::millis::of(at) / 1000;
    TokenView {
        accessor: id.map_or_else(String::new, |id| id.accessor().to_string()),
        creation_time: unix(record.created_at),
        creation_ttl: record.creation_ttl.as_secs(),
        display_name: record.display_name.clone(),
        entity_id: record.entity_id.clone().unwrap_or_default(),
        expire_time: record.ends_at.map(rfc3339),
        explicit_max_ttl: record.explicit_max_ttl.map_or(0, |ttl| ttl.as_secs()),
        id: text,
        issue_time: rfc3339(record.created_at),
        last_renewal: record.renewed_at.map(rfc3339),
        last_renewal_time: record.renewed_at.map(unix),
        meta: (!record.meta.is_empty()).then(|| record.meta.clone()),
        num_uses: record.uses_left.unwrap_or_default(),
        orphan: record.parent.is_none(),
        path: record.path.clone(),
        period: record.period.map(|period| period.as_secs()),
        policies: record.policies.clone(),
        identity_policies: principal.identity_policies().to_vec(),
        bound_cidrs: record.bound_cidrs.clone(),
        role: record.role.clone(),
        renewable: record.renewable,
        ttl: record.seconds_left(now),
        kind: kind.as_str(),
    }
}

async fn lookup_self(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let principal = call.principal()?;
    let text = call.token.as_ref().map(Secret::duplicate);
    Answer::data(&token_view(text, principal, call.now))
}

async fn lookup(call: SystemCall, request: TokenRequest) -> Result<Answer, Failure> {
    let Some(token) = request.token else {
        return lookup_self(call, NoFields {}).await;
    };
    let principal = call.engine()?.authenticate(&token).await?;
    // As the peer: 403, so that the answer does not tell a wrong token from a path one may not use.
    let principal = principal.ok_or(Failure::Denied)?;
    Answer::data(&token_view(Some(token), &principal, call.now))
}

async fn lookup_accessor(call: SystemCall, request: AccessorRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let principal = by_accessor(&engine, &request).await?;
    // One whose entity is disabled opens nothing, and can be looked at all the same.
    let complete = engine.complete(principal.clone()).await?;
    let principal = complete.unwrap_or(principal);
    Answer::data(&token_view(None, &principal, call.now))
}

async fn by_accessor(engine: &Engine, request: &AccessorRequest) -> Result<Principal, Failure> {
    let accessor = request
        .accessor
        .as_deref()
        .filter(|accessor| !accessor.is_empty());
    let accessor =
        accessor.ok_or_else(|| Failure::Invalid("field \"accessor\": is required".into()))?;
    let invalid = || Failure::Denied;
    let id = accessor.parse::<Accessor>().map_err(|()| invalid())?.id();
    let record = engine
        .tokens
        .get(&id)
        .await?
        .filter(|record| !record.revoked);
    let record = record.ok_or_else(invalid)?;
    Ok(Principal::new(Some(id), std::sync::Arc::new(record)))
}

async fn renew_self(call: SystemCall, request: TokenRequest) -> Result<Answer, Failure> {
    let principal = call.principal()?.clone();
    let text = call.token.as_ref().map(Secret::duplicate);
    renew_token(&call, text, &principal, request.increment).await
}

async fn renew(call: SystemCall, request: TokenRequest) -> Result<Answer, Failure> {
    let Some(token) = request.token else {
        return renew_self(call, request).await;
    };
    let principal = call
        .engine()?
        .authenticate(&token)
        .await?
        .ok_or(Failure::Denied)?;
    renew_token(&call, Some(token), &principal, request.increment).await
}

async fn renew_accessor(call: SystemCall, request: AccessorRequest) -> Result<Answer, Failure> {
    let principal = by_accessor(&*call.engine()?, &request).await?;
    renew_token(&call, None, &principal, request.increment).await
}

async fn renew_token(
    call: &SystemCall,
    text: Option<Secret>,
    principal: &Principal,
    increment: Option<Duration>,
) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let renewed = engine.renew_token(principal, increment).await?;
    Ok(engine.auth_answer(text.unwrap_or_else(|| Secret::new([])), &renewed))
}

async fn revoke_self(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let principal = call.principal()?;
    let Some(id) = &principal.token else {
        return Err(Failure::Invalid(
            "batch tokens cannot be revoked; they end by themselves".into(),
        ));
    };
    call.engine()?
        .revoke_token(id, Removal::WithChildren)
        .await?;
    Ok(Answer::nothing())
}

async fn revoke(call: SystemCall, request: TokenRequest) -> Result<Answer, Failure> {
    remove(&call, request, Removal::WithChildren).await
}

async fn revoke_orphan(call: SystemCall, request: TokenRequest) -> Result<Answer, Failure> {
    remove(&call, request, Removal::OrphanChildren).await
}

async fn remove(
    call: &SystemCall,
    request: TokenRequest,
    removal: Removal,
) -> Result<Answer, Failure> {
    let token = request
        .token
        .ok_or_else(|| Failure::Invalid("field \"token\": is required".into()))?;
    let engine = call.engine()?;
    match engine
        .tokens
        .authenticate(&token)
        .await?
        .map(|principal| principal.token)
    {
        Some(Some(id)) => engine.revoke_token(&id, removal).await?,
        Some(None) => {
            return Err(Failure::Invalid(
                "batch tokens cannot be revoked; they end by themselves".into(),
            ));
        }
        // Unknown or gone already: the caller has what it wants.
        None => {}
    }
    Ok(Answer::nothing())
}

async fn revoke_accessor(call: SystemCall, request: AccessorRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    if let Some(id) = by_accessor(&engine, &request).await?.token {
        engine.revoke_token(&id, Removal::WithChildren).await?;
    }
    Ok(Answer::nothing())
}

async fn accessors(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let ids = call.engine()?.tokens.ids(None, MOST_ACCESSORS).await?;
    let names: Vec<String> = ids.iter().map(|id| id.accessor().to_string()).collect();
    Answer::keys(&names)
}
