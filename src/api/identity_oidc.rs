//! `identity/oidc/*`: identity tokens, and what others need to verify them.

use std::time::Duration;

use daypass_contract::route::Form;
use daypass_contract::{Access, Effect, Keys, NoFields, Operation, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::identity_entity::NameRequest;
use crate::engine::{Answer, Body, Failure, Serve, SystemCall, SystemRoutes};
use crate::identity::{Algorithm, KeyPatch, RolePatch};

#[derive(Deserialize, JsonSchema)]
struct ConfigRequest {
    /// Scheme, host and port of this server, as those who verify tokens reach it.
    issuer: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct ConfigView {
    issuer: String,
}

#[derive(Deserialize, JsonSchema)]
struct KeyRequest {
    name: String,
    /// `ES256`, `ES384`, `ES512`, `RS256` (the default), `RS384`, `RS512` or `EdDSA`.
    algorithm: Option<String>,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    rotation_period: Option<Duration>,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    verification_ttl: Option<Duration>,
    /// Client ids of roles that may use the key; `*` for all.
    allowed_client_ids: Option<Vec<String>>,
}

#[derive(Serialize, JsonSchema)]
struct KeyView {
    algorithm: &'static str,
    allowed_client_ids: Vec<String>,
    rotation_period: u64,
    verification_ttl: u64,
}

#[derive(Deserialize, JsonSchema)]
struct RotateRequest {
    name: String,
    /// For how long the key before stays published, instead of what its key says.
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    verification_ttl: Option<Duration>,
}

#[derive(Deserialize, JsonSchema)]
struct RoleRequest {
    name: String,
    key: Option<String>,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    ttl: Option<Duration>,
    /// Claims as JSON with `{{…}}` for values; as it is or in base64.
    template: Option<String>,
    client_id: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct RoleView {
    client_id: String,
    key: String,
    template: String,
    ttl: u64,
}

#[derive(Serialize, JsonSchema)]
struct TokenView {
    client_id: String,
    #[serde(serialize_with = "daypass_contract::reveal")]
    token: Secret,
    ttl: u64,
}

#[derive(Deserialize, JsonSchema)]
struct IntrospectRequest {
    token: Option<Secret>,
    client_id: Option<String>,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, List, Read, Write};
    let pattern = "identity/oidc/config";
    routes.serve::<NoFields, ConfigView, _, _>(
        Read,
        pattern,
        "Reads the issuer's address.",
        read_config,
    );
    routes.serve::<ConfigRequest, (), _, _>(
        Write,
        pattern,
        "Sets the issuer's address.",
        write_config,
    );
    routes.serve::<NoFields, Keys, _, _>(
        List,
        "identity/oidc/key",
        "Lists the signing keys.",
        |call, _| async move { Answer::keys(&call.engine()?.oidc.key_names().await?) },
    );
    let pattern = "identity/oidc/key/{name}";
    routes.serve::<NameRequest, KeyView, _, _>(Read, pattern, "Reads a signing key.", read_key);
    routes.serve::<KeyRequest, (), _, _>(
        Write,
        pattern,
        "Makes or changes a signing key.",
        write_key,
    );
    routes.serve::<NameRequest, (), _, _>(
        Delete,
        pattern,
        "Deletes a signing key that no role uses.",
        |call, request| async move {
            call.engine()?.oidc.delete_key(&request.name).await?;
            Ok(Answer::nothing())
        },
    );
    routes.serve::<RotateRequest, (), _, _>(
        Write,
        "identity/oidc/key/{name}/rotate",
        "Signs with the next key pair from now on.",
        |call, request| async move {
            let ttl = request.verification_ttl;
            call.engine()?.oidc.rotate(&request.name, ttl).await?;
            Ok(Answer::nothing())
        },
    );
    routes.serve::<NoFields, Keys, _, _>(
        List,
        "identity/oidc/role",
        "Lists the roles of identity tokens.",
        |call, _| async move { Answer::keys(&call.engine()?.oidc.role_names().await?) },
    );
    let pattern = "identity/oidc/role/{name}";
    routes.serve::<NameRequest, RoleView, _, _>(Read, pattern, "Reads a role.", read_role);
    routes.serve::<RoleRequest, (), _, _>(Write, pattern, "Makes or changes a role.", write_role);
    routes.serve::<NameRequest, (), _, _>(
        Delete,
        pattern,
        "Deletes a role.",
        |call, request| async move {
            call.engine()?.oidc.delete_role(&request.name).await?;
            Ok(Answer::nothing())
        },
    );
    // A credential: its record is durable before the caller has it.
    routes
        .serve::<NameRequest, TokenView, _, _>(
            Read,
            "identity/oidc/token/{name}",
            "Signs an identity token for the caller's entity.",
            token,
        )
        .effect = Effect::Change;
    routes
        .serve::<IntrospectRequest, (), _, _>(
            Write,
            "identity/oidc/introspect",
            "Tells whether an identity token is valid and its entity may act.",
            introspect,
        )
        .written(Form::Bare)
        .effect = Effect::Observe;
    routes
        .serve::<NoFields, (), _, _>(
            Read,
            "identity/oidc/.well-known/openid-configuration",
            "Describes the issuer (OpenID Connect Discovery).",
            discovery,
        )
        .written(Form::Bare)
        .access = Access::Anyone;
    routes
        .serve::<NoFields, (), _, _>(
            Read,
            "identity/oidc/.well-known/keys",
            "Gives the keys that verify identity tokens (RFC 7517).",
            |call, _| async move { public(&call.engine()?.oidc.key_set().await?) },
        )
        .written(Form::Bare)
        .access = Access::Anyone;
}

async fn read_config(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let issuer = call.engine()?.oidc.base().await?;
    Answer::data(&ConfigView { issuer })
}

async fn write_config(call: SystemCall, request: ConfigRequest) -> Result<Answer, Failure> {
    let Some(issuer) = request.issuer else {
        return Ok(Answer::nothing());
    };
    call.engine()?.oidc.set_base(&issuer).await?;
    Ok(Answer::nothing())
}

async fn read_key(call: SystemCall, request: NameRequest) -> Result<Answer, Failure> {
    let key = call.engine()?.oidc.key(&request.name).await?;
    let key = key.ok_or(Failure::NotFound)?;
    Answer::data(&KeyView {
        algorithm: key.algorithm.as_str(),
        allowed_client_ids: key.allowed_client_ids,
        rotation_period: key.rotation_period.as_secs(),
        verification_ttl: key.verification_ttl.as_secs(),
    })
}

async fn write_key(call: SystemCall, request: KeyRequest) -> Result<Answer, Failure> {
    let patch = KeyPatch {
        algorithm: request.algorithm,
        rotation_period: request.rotation_period,
        verification_ttl: request.verification_ttl,
        allowed_client_ids: request.allowed_client_ids,
    };
    call.engine()?.oidc.put_key(&request.name, patch).await?;
    Ok(Answer::nothing())
}

async fn read_role(call: SystemCall, request: NameRequest) -> Result<Answer, Failure> {
    let role = call.engine()?.oidc.role(&request.name).await?;
    let role = role.ok_or(Failure::NotFound)?;
    Answer::data(&RoleView {
        client_id: role.client_id,
        key: role.key,
        template: role.template,
        ttl: role.ttl.as_secs(),
    })
}

async fn write_role(call: SystemCall, request: RoleRequest) -> Result<Answer, Failure> {
    let patch = RolePatch {
        key: request.key,
        ttl: request.ttl,
        template: request.template,
        client_id: request.client_id,
    };
    call.engine()?.oidc.put_role(&request.name, patch).await?;
    Ok(Answer::nothing())
}

async fn token(call: SystemCall, request: NameRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let nobody = || Failure::Invalid("no entity associated with the request's token".into());
    let entity = call.principal()?.record.entity_id.clone();
    let entity = entity.filter(|id| !id.is_empty()).ok_or_else(nobody)?;
    let standing = engine.identity.standing(&entity).await?;
    let standing = standing
        .filter(|standing| !standing.disabled)
        .ok_or(Failure::Denied)?;
    let signed = engine.oidc.token(&request.name, &standing).await?;
    Answer::data(&TokenView {
        client_id: signed.client_id,
        token: Secret::new(signed.token),
        ttl: signed.ttl.as_secs(),
    })
}

async fn introspect(call: SystemCall, request: IntrospectRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let token = request.token.as_ref().and_then(Secret::expose_str);
    let client_id = request.client_id.as_deref().filter(|id| !id.is_empty());
    let found = engine
        .oidc
        .introspect(token.unwrap_or_default(), client_id, &engine.identity)
        .await?;
    match found {
        Ok(()) => Answer::plain(200, &json!({"active": true})),
        Err(error) => Answer::plain(200, &json!({"active": false, "error": error})),
    }
}

async fn discovery(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let issuer = call.engine()?.oidc.issuer().await?;
    public(&json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/.well-known/keys"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": Algorithm::ALL.map(Algorithm::as_str),
    }))
}

/// JSON for everyone, which may be kept for a while.
fn public(json: &serde_json::Value) -> Result<Answer, Failure> {
    let bytes = serde_json::to_vec(json)
        .map_err(|_| Failure::Internal("answer cannot be encoded".into()))?;
    Ok(Answer::of(Body::Raw {
        content_type: "application/json",
        bytes,
    }))
}
