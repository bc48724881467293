//! `auth/token/*`: the token auth method.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use daypass_contract::{Access, Cidr, NoFields, Operation, Secret, TtlWish};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rfc3339;
use crate::engine::{Answer, Engine, Failure, Serve, SystemCall, SystemRoutes};
use crate::identity::{
    Accessor, NewToken, Principal, Removal, TokenId, TokenKind, TokenRecord, Validity,
};
use crate::lease::{LONGEST, clamp};
use crate::policy::{Ask, Capability, builtin, decide};

/// Accessors that a list gives at most.
const MOST_ACCESSORS: usize = 100_000;

#[derive(Deserialize, JsonSchema)]
struct CreateRequest {
    /// The token's own text; root only.
    id: Option<Secret>,
    /// Names of policies; the caller's own if not given.
    policies: Option<Vec<String>>,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
    #[serde(default)]
    no_parent: bool,
    #[serde(default)]
    no_default_policy: bool,
    #[serde(default = "yes")]
    renewable: bool,
    #[serde(default, with = "daypass_contract::duration::option", alias = "lease")]
    #[schemars(with = "Option<String>")]
    ttl: Option<Duration>,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    explicit_max_ttl: Option<Duration>,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    period: Option<Duration>,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    num_uses: Option<u64>,
    /// `service` or `batch`.
    #[serde(default, rename = "type")]
    kind: Option<String>,
    entity_alias: Option<String>,
}

fn yes() -> bool {
    true
}

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
    routes.serve::<CreateRequest, (), _, _>(
        Write,
        "auth/token/create",
        "Creates a token below the caller's.",
        |call, request| create(call, request, false),
    );
    routes
        .serve::<CreateRequest, (), _, _>(
            Write,
            "auth/token/create-orphan",
            "Creates a token without a parent.",
            |call, request| create(call, request, true),
        )
        .access = Access::Sudo;
    routes.serve::<NoFields, TokenView, _, _>(
        Read,
        "auth/token/lookup-self",
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
                Ok(Answer::nothing())
            },
        )
        .access = Access::Sudo;
}

async fn create(
    call: SystemCall,
    mut request: CreateRequest,
    orphan: bool,
) -> Result<Answer, Failure> {
    request.id = request.id.filter(|id| !id.is_empty());
    let engine = call.engine()?;
    let principal = call.principal()?;
    let parent = &principal.record;
    if principal.kind() == TokenKind::Batch {
        return Err(Failure::Invalid(
            "batch tokens cannot create more tokens".into(),
        ));
    }
    if parent.uses_left.is_some() {
        return Err(Failure::Invalid(
            "a token with a limited number of uses cannot create tokens".into(),
        ));
    }
    let path = if orphan {
        "auth/token/create-orphan"
    } else {
        "auth/token/create"
    };
    let sudo = orphan || has_sudo(&engine, principal, path);
    let root = principal.is_root();
    let needs =
        |what: &str| Failure::Invalid(format!("{what} needs a root token or \"sudo\" on {path}"));
    if request
        .entity_alias
        .as_ref()
        .is_some_and(|alias| !alias.is_empty())
    {
        return Err(Failure::Unsupported(
            "entity aliases are not available yet: leave entity_alias out".into(),
        ));
    }
    if request.id.is_some() && !root {
        return Err(Failure::Invalid(
            "field \"id\": only a root token may choose the text of a token".into(),
        ));
    }
    if request.id.as_ref().is_some_and(|id| {
        id.expose_str()
            .is_none_or(|id| id.contains('.') || id.starts_with("dp"))
    }) {
        return Err(Failure::Invalid(
            "field \"id\": must not contain \".\" nor begin with \"dp\"".into(),
        ));
    }
    if request.no_parent && !sudo {
        return Err(needs("field \"no_parent\":"));
    }
    if request.period.is_some_and(|period| !period.is_zero()) && !sudo {
        return Err(needs("field \"period\":"));
    }
    let policies = policies(&request, parent, root, sudo)?;
    let kind = match request.kind.as_deref() {
        None | Some("" | "service" | "default") => TokenKind::Service,
        Some("batch") => TokenKind::Batch,
        Some(_) => {
            return Err(Failure::Invalid(
                "field \"type\": must be service or batch".into(),
            ));
        }
    };
    let some = |ttl: Option<Duration>| ttl.filter(|ttl| !ttl.is_zero());
    let (explicit_max, period, uses) = (
        some(request.explicit_max_ttl),
        some(request.period),
        request.num_uses.filter(|uses| *uses > 0),
    );
    if kind == TokenKind::Batch
        && (explicit_max.is_some() || period.is_some() || uses.is_some() || request.id.is_some())
    {
        return Err(Failure::Invalid(
            "batch tokens have no id, explicit_max_ttl, period or num_uses: leave them out".into(),
        ));
    }
    let is_root = policies.iter().any(|policy| policy == builtin::ROOT);
    if is_root && kind == TokenKind::Batch {
        return Err(Failure::Invalid(
            "batch tokens cannot be root tokens".into(),
        ));
    }
    let mut answer_warnings = Vec::new();
    let validity =
        if is_root && some(request.ttl).is_none() && explicit_max.is_none() && period.is_none() {
            if parent.ends_at.is_some() {
                return Err(Failure::Invalid(
                    "expiring root tokens cannot create non-expiring root tokens".into(),
                ));
            }
            Validity::default()
        } else {
            let limits = call.plane.settings.ttl;
            let wish = TtlWish {
                asked: period.or(some(request.ttl)),
                default: None,
                max: explicit_max,
            };
            // A period outlasts the system's maximum by being renewed; only its creator's cap ends it.
            let (ttl, max) = clamp(wish, limits);
            if period
                .or(some(request.ttl))
                .is_some_and(|asked| asked > ttl)
            {
                answer_warnings.push(format!(
                    "TTL is longer than what is allowed and was set to {} s",
                    ttl.as_secs()
                ));
            }
            Validity {
                ttl: Some(ttl),
                max_ttl: if period.is_some() {
                    explicit_max.map(|max| max.min(LONGEST))
                } else {
                    Some(max)
                },
                explicit_max_ttl: explicit_max,
                // Each renewal gives as much as the first.
                period: period.map(|period| period.min(limits.max)),
                renewable: request.renewable && kind == TokenKind::Service,
            }
        };
    let display_name = match request.display_name.as_deref().map(str::trim) {
        None | Some("") => "token".to_owned(),
        Some(name) => format!(
            "token-{}",
            name.replace(
                |c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c),
                "-"
            )
        ),
    };
    let new = NewToken {
        kind,
        text: request.id,
        parent: if orphan || request.no_parent {
            None
        } else {
            principal.token.clone()
        },
        policies,
        path: path.to_owned(),
        display_name,
        meta: request.meta.unwrap_or_default(),
        validity,
        uses,
        entity_id: None,
        origin: None,
        role: None,
        bound_cidrs: Vec::new(),
    };
    let (text, made) = engine.tokens.create(new).await?;
    if let Some(end) = made.record.ends_at {
        engine.expect_token_end(end);
    }
    let mut answer = engine.auth_answer(text, &made);
    answer.warnings = answer_warnings;
    Ok(answer)
}

/// The policies of a new token: what is asked for, the caller's own if nothing is, never more than the
/// caller has unless it may do that.
fn policies(
    request: &CreateRequest,
    parent: &TokenRecord,
    root: bool,
    sudo: bool,
) -> Result<Vec<String>, Failure> {
    let mut policies: Vec<String> = match &request.policies {
        Some(asked) if !asked.is_empty() => asked
            .iter()
            .map(|name| name.trim().to_lowercase())
            .collect(),
        _ => parent.policies.clone(),
    };
    if let Some(name) = policies.iter().find(|name| name.as_str() == builtin::ROOT)
        && !root
    {
        return Err(Failure::Invalid(format!(
            "policy \"{name}\": only a root token may create a root token"
        )));
    }
    if !sudo
        && let Some(foreign) = policies
            .iter()
            .position(|name| name != builtin::DEFAULT && !parent.policies.contains(name))
    {
        return Err(Failure::Invalid(format!(
            "field \"policies\": child policies must be subset of parent: the caller does not have number {}",
            foreign + 1
        )));
    }
    let is_root = policies.iter().any(|name| name == builtin::ROOT);
    if request.no_default_policy {
        policies.retain(|name| name != builtin::DEFAULT);
    } else if !is_root {
        policies.push(builtin::DEFAULT.to_owned());
    }
    policies.retain(|name| !name.is_empty());
    policies.sort_unstable();
    policies.dedup();
    Ok(policies)
}

fn has_sudo(engine: &Engine, principal: &Principal, path: &str) -> bool {
    let acl = engine.policies.acl(principal.policies());
    decide(
        &acl,
        &Ask {
            path,
            capability: Capability::Update,
            sudo: true,
            fields: None,
            wrap_ttl: None,
        },
    )
    .is_ok()
}

fn token_view(
    text: Option<Secret>,
    id: Option<&TokenId>,
    record: &TokenRecord,
    kind: TokenKind,
    now: SystemTime,
) -> TokenView {
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
    Answer::data(&token_view(
        text,
        principal.token.as_ref(),
        &principal.record,
        principal.kind(),
        call.now,
    ))
}

async fn lookup(call: SystemCall, request: TokenRequest) -> Result<Answer, Failure> {
    let Some(token) = request.token else {
        return lookup_self(call, NoFields {}).await;
    };
    let principal = call.engine()?.authenticate(&token).await?;
    // As the peer: 403, so that the answer does not tell a wrong token from a path one may not use.
    let principal = principal.ok_or(Failure::Denied)?;
    Answer::data(&token_view(
        Some(token),
        principal.token.as_ref(),
        &principal.record,
        principal.kind(),
        call.now,
    ))
}

async fn lookup_accessor(call: SystemCall, request: AccessorRequest) -> Result<Answer, Failure> {
    let (id, record) = by_accessor(&*call.engine()?, &request).await?;
    Answer::data(&token_view(
        None,
        Some(&id),
        &record,
        TokenKind::Service,
        call.now,
    ))
}

async fn by_accessor(
    engine: &Engine,
    request: &AccessorRequest,
) -> Result<(TokenId, TokenRecord), Failure> {
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
    Ok((id, record.ok_or_else(invalid)?))
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
    let (id, record) = by_accessor(&*call.engine()?, &request).await?;
    let principal = Principal::new(Some(id), std::sync::Arc::new(record));
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
    let (id, _) = by_accessor(&engine, &request).await?;
    engine.revoke_token(&id, Removal::WithChildren).await?;
    Ok(Answer::nothing())
}

async fn accessors(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let ids = call.engine()?.tokens.ids(None, MOST_ACCESSORS).await?;
    let names: Vec<String> = ids.iter().map(|id| id.accessor().to_string()).collect();
    Answer::keys(&names)
}
