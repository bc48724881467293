//! `auth/token/roles/*`: the templates that `auth/token/create/:role` creates tokens by.

use daypass_contract::{Keys, NoFields, Operation, TokenType, WithToken};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};
use crate::identity::TokenRole;
use crate::policy::builtin;

#[derive(Deserialize, JsonSchema)]
struct NameRequest {
    role_name: String,
}

#[derive(Deserialize, JsonSchema)]
struct RoleRequest {
    role_name: String,
    /// Policies that may be asked for; given where none are asked for.
    allowed_policies: Option<Vec<String>>,
    /// Policies that may not be asked for.
    disallowed_policies: Option<Vec<String>>,
    /// Patterns with `*` of policies that may be asked for.
    allowed_policies_glob: Option<Vec<String>>,
    /// Patterns with `*` of policies that may not.
    disallowed_policies_glob: Option<Vec<String>>,
    /// Whether its tokens have no parent.
    orphan: Option<bool>,
    /// Whether its tokens can be renewed.
    renewable: Option<bool>,
    /// Put after the path of its tokens.
    path_suffix: Option<String>,
    /// Aliases that a token may be asked to stand for.
    allowed_entity_aliases: Option<Vec<String>>,
    /// The old name of `token_period`.
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    period: Option<std::time::Duration>,
    /// The old name of `token_explicit_max_ttl`.
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    explicit_max_ttl: Option<std::time::Duration>,
}

/// A role as the API shows it; `period` and `explicit_max_ttl` are old names that clients still read.
#[derive(Serialize, JsonSchema)]
struct RoleView {
    name: String,
    period: u64,
    explicit_max_ttl: u64,
    #[serde(flatten)]
    #[schemars(skip)]
    role: TokenRole,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, List, Read, Write};
    routes.serve::<NoFields, Keys, _, _>(
        List,
        "auth/token/roles",
        "Lists the token roles.",
        |call, _| async move { Answer::keys(&call.engine()?.tokens.roles().await?) },
    );
    routes.serve::<NameRequest, RoleView, _, _>(
        Read,
        "auth/token/roles/{role_name}",
        "Reads a token role.",
        read,
    );
    routes.serve::<WithToken<RoleRequest>, (), _, _>(
        Write,
        "auth/token/roles/{role_name}",
        "Writes a token role; what is left out stays.",
        write,
    );
    routes.serve::<NameRequest, (), _, _>(
        Delete,
        "auth/token/roles/{role_name}",
        "Deletes a token role; its tokens live on but cannot be renewed.",
        |call, request| async move {
            call.engine()?
                .tokens
                .delete_role(&request.role_name)
                .await?;
            Ok(Answer::nothing())
        },
    );
}

async fn read(call: SystemCall, request: NameRequest) -> Result<Answer, Failure> {
    let role = call.engine()?.tokens.role(&request.role_name).await?;
    let mut role = role.ok_or(Failure::NotFound)?;
    // Without a mount of its own, a token role has nobody to leave the choice to.
    if role.token.token_type == TokenType::Default {
        role.token.token_type = TokenType::DefaultService;
    }
    Answer::data(&RoleView {
        name: request.role_name,
        period: role.token.token_period.as_secs(),
        explicit_max_ttl: role.token.token_explicit_max_ttl.as_secs(),
        role,
    })
}

async fn write(call: SystemCall, request: WithToken<RoleRequest>) -> Result<Answer, Failure> {
    let WithToken { role: given, token } = request;
    let engine = call.engine()?;
    let mut role = engine
        .tokens
        .role(&given.role_name)
        .await?
        .unwrap_or_else(|| TokenRole {
            renewable: true,
            ..TokenRole::default()
        });
    let names = |field: &str, names: Vec<String>| {
        let names: Result<Vec<String>, _> = names
            .iter()
            .map(|name| builtin::attachable_name(name))
            .collect();
        names.map_err(|error| Failure::Invalid(format!("field \"{field}\": {error}")))
    };
    let lists = [
        (
            "allowed_policies",
            given.allowed_policies,
            &mut role.allowed_policies,
        ),
        (
            "disallowed_policies",
            given.disallowed_policies,
            &mut role.disallowed_policies,
        ),
        (
            "allowed_policies_glob",
            given.allowed_policies_glob,
            &mut role.allowed_policies_glob,
        ),
        (
            "disallowed_policies_glob",
            given.disallowed_policies_glob,
            &mut role.disallowed_policies_glob,
        ),
    ];
    for (field, given, kept) in lists {
        if let Some(given) = given {
            *kept = names(field, given)?;
        }
    }
    if let Some(orphan) = given.orphan {
        role.orphan = orphan;
    }
    if let Some(renewable) = given.renewable {
        role.renewable = renewable;
    }
    if let Some(suffix) = given.path_suffix {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !suffix.chars().all(plain) || suffix.contains("..") {
            return Err(Failure::Invalid(
                "field \"path_suffix\": must be letters, digits, \"-\", \"_\" and \".\"".into(),
            ));
        }
        role.path_suffix = suffix;
    }
    if let Some(aliases) = given.allowed_entity_aliases {
        role.allowed_entity_aliases = aliases.iter().map(|name| name.to_lowercase()).collect();
    }
    role.token.update(token).map_err(Failure::Invalid)?;
    if let Some(period) = given.period {
        role.token.token_period = period;
    }
    if let Some(explicit) = given.explicit_max_ttl {
        role.token.token_explicit_max_ttl = explicit;
    }
    engine.tokens.put_role(&given.role_name, &role).await?;
    Ok(Answer::nothing())
}
