//! `auth/token/create`: tokens below the caller's own, without a parent, and by a role.

use std::collections::BTreeMap;
use std::time::Duration;

use daypass_contract::{Access, Operation, Secret, TokenType, TtlWish};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::engine::{Answer, Engine, Failure, Serve, SystemCall, SystemRoutes};
use crate::identity::{NewToken, Principal, TokenKind, TokenRecord, TokenRole, Validity};
use crate::lease::{LONGEST, clamp};
use crate::policy::{Ask, Capability, builtin, decide};

#[derive(Deserialize, JsonSchema)]
struct CreateRequest {
    /// The token role, from the path.
    role_name: Option<String>,
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

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::Write;
    routes.serve::<CreateRequest, (), _, _>(
        Write,
        "auth/token/create",
        "Creates a token below the caller's.",
        |call, request| async move { create(call, without_role(request)?, false).await },
    );
    routes
        .serve::<CreateRequest, (), _, _>(
            Write,
            "auth/token/create-orphan",
            "Creates a token without a parent.",
            |call, request| async move { create(call, without_role(request)?, true).await },
        )
        .access = Access::Sudo;
    routes.serve::<CreateRequest, (), _, _>(
        Write,
        "auth/token/create/{role_name}",
        "Creates a token by a token role.",
        |call, request| create(call, request, false),
    );
}

/// A role counts only in the path, where policy sees it.
fn without_role(request: CreateRequest) -> Result<CreateRequest, Failure> {
    match request.role_name {
        None => Ok(request),
        Some(_) => Err(Failure::Invalid(
            "field \"role_name\": ask for the role at auth/token/create/<role>".into(),
        )),
    }
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
    let role_name = request.role_name.take().filter(|name| !name.is_empty());
    let role = match &role_name {
        None => None,
        Some(name) => Some(engine.tokens.role(name).await?.ok_or_else(|| {
            Failure::Invalid("unknown role: write it at auth/token/roles first".into())
        })?),
    };
    let path = match (&role_name, orphan) {
        (Some(name), _) => format!("auth/token/create/{name}"),
        (None, true) => "auth/token/create-orphan".to_owned(),
        (None, false) => "auth/token/create".to_owned(),
    };
    let sudo = orphan || has_sudo(&engine, principal, &path);
    let root = principal.is_root();
    check_rights(&request, &path, root, sudo)?;
    let policies = policies(&request, principal, role.as_ref(), root, sudo)?;
    let kind = kind(&request, role.as_ref())?;
    let some = |ttl: Option<Duration>| ttl.filter(|ttl| !ttl.is_zero());
    let of_role = |field: fn(&TokenRole) -> Duration| some(role.as_ref().map(field));
    let explicit_max = match (
        some(request.explicit_max_ttl),
        of_role(|role| role.token.token_explicit_max_ttl),
    ) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    };
    let period = of_role(|role| role.token.token_period).or(some(request.period));
    let uses = match (
        request.num_uses.filter(|uses| *uses > 0),
        role.as_ref()
            .map(|role| role.token.token_num_uses)
            .filter(|uses| *uses > 0),
    ) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    };
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
            let may_renew = role.as_ref().is_none_or(|role| role.renewable);
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
                renewable: request.renewable && may_renew && kind == TokenKind::Service,
            }
        };
    let without_parent =
        orphan || request.no_parent || role.as_ref().is_some_and(|role| role.orphan);
    let path = match role.as_ref().map(|role| role.path_suffix.as_str()) {
        None | Some("") => path,
        Some(suffix) => format!("{path}/{suffix}"),
    };
    let entity_id = match alias(&request, role.as_ref())? {
        Some(name) => Some(engine.entity_of_token_alias(&name).await?),
        // Whom the caller stands for, its token does; one without a parent stands for nobody.
        None if without_parent => None,
        None => parent.entity_id.clone(),
    };
    let new = NewToken {
        kind,
        text: request.id,
        parent: if without_parent {
            None
        } else {
            principal.token.clone()
        },
        policies,
        path,
        display_name: display_name(request.display_name.as_deref()),
        meta: request.meta.unwrap_or_default(),
        validity,
        uses,
        entity_id,
        origin: None,
        role: role_name,
        bound_cidrs: role.map_or_else(Vec::new, |role| role.token.token_bound_cidrs),
    };
    let (text, made) = engine.tokens.create(new).await?;
    if let Some(end) = made.record.ends_at {
        engine.expect_token_end(end);
    }
    let made = engine.complete(made).await?.ok_or(Failure::Denied)?;
    let mut answer = engine.auth_answer(text, &made);
    answer.warnings = answer_warnings;
    Ok(answer)
}

/// Refuses what only some callers may ask for.
fn check_rights(
    request: &CreateRequest,
    path: &str,
    root: bool,
    sudo: bool,
) -> Result<(), Failure> {
    let needs =
        |what: &str| Failure::Invalid(format!("{what} needs a root token or \"sudo\" on {path}"));
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
    Ok(())
}

/// The alias that the token is asked to stand for. Only a role can allow that.
fn alias(request: &CreateRequest, role: Option<&TokenRole>) -> Result<Option<String>, Failure> {
    let Some(name) = request
        .entity_alias
        .as_ref()
        .filter(|name| !name.is_empty())
    else {
        return Ok(None);
    };
    let Some(role) = role else {
        return Err(Failure::Invalid(
            "field \"entity_alias\": 'entity_alias' is only allowed in combination with token role"
                .into(),
        ));
    };
    let name = name.to_lowercase();
    if role.allows_alias(&name) {
        return Ok(Some(name));
    }
    Err(Failure::Invalid(
        "field \"entity_alias\": the role does not allow it: see its allowed_entity_aliases".into(),
    ))
}

/// Service or batch: the role decides where it has an opinion.
fn kind(request: &CreateRequest, role: Option<&TokenRole>) -> Result<TokenKind, Failure> {
    let asked = match request.kind.as_deref() {
        None | Some("" | "default") => None,
        Some("service") => Some(TokenKind::Service),
        Some("batch") => Some(TokenKind::Batch),
        Some(_) => {
            return Err(Failure::Invalid(
                "field \"type\": must be service or batch".into(),
            ));
        }
    };
    Ok(
        match role.map_or(TokenType::Default, |role| role.token.token_type) {
            TokenType::Service => TokenKind::Service,
            TokenType::Batch => TokenKind::Batch,
            TokenType::Default | TokenType::DefaultService => asked.unwrap_or(TokenKind::Service),
            TokenType::DefaultBatch => asked.unwrap_or(TokenKind::Batch),
        },
    )
}

fn display_name(asked: Option<&str>) -> String {
    match asked.map(str::trim) {
        None | Some("") => "token".to_owned(),
        Some(name) => format!(
            "token-{}",
            name.replace(
                |c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c),
                "-"
            )
        ),
    }
}

/// The policies of a new token: what is asked for; else what the role gives, else the caller's own. Never
/// more than the role allows or, without a role that says so, than the caller has.
fn policies(
    request: &CreateRequest,
    principal: &Principal,
    role: Option<&TokenRole>,
    root: bool,
    sudo: bool,
) -> Result<Vec<String>, Failure> {
    let parent: &TokenRecord = &principal.record;
    let limiting = role.filter(|role| role.limits_policies());
    let asked = request.policies.as_ref().filter(|asked| !asked.is_empty());
    let mut policies: Vec<String> = match (asked, limiting) {
        (Some(asked), _) => {
            let names: Result<Vec<String>, _> = asked
                .iter()
                .filter(|name| !name.trim().is_empty())
                .map(|name| builtin::attachable_name(name))
                .collect();
            names.map_err(|error| Failure::Invalid(format!("field \"policies\": {error}")))?
        }
        (None, Some(role)) if !role.allowed_policies.is_empty() => role.allowed_policies.clone(),
        (None, Some(_)) => Vec::new(),
        (None, None) => parent.policies.clone(),
    };
    if policies.iter().any(|name| name == builtin::ROOT) && !root {
        return Err(Failure::Invalid(
            "policy \"root\": only a root token may create a root token".into(),
        ));
    }
    let foreign = policies.iter().position(|name| match limiting {
        Some(role) => name != builtin::DEFAULT && !role.allows(name),
        None => !sudo && name != builtin::DEFAULT && !parent.policies.contains(name),
    });
    if let Some(foreign) = foreign {
        let rule = match limiting {
            Some(_) => "the role does not allow",
            None => "child policies must be subset of parent: the caller does not have",
        };
        return Err(Failure::Invalid(format!(
            "field \"policies\": {rule} number {}",
            foreign + 1
        )));
    }
    let is_root = policies.iter().any(|name| name == builtin::ROOT);
    let without_default = request.no_default_policy
        || role.is_some_and(|role| {
            role.token.token_no_default_policy || role.forbids(builtin::DEFAULT)
        });
    if without_default {
        policies.retain(|name| name != builtin::DEFAULT);
    } else if !is_root {
        policies.push(builtin::DEFAULT.to_owned());
    }
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
