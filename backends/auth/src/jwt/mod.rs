//! The auth method `jwt`: callers that bring a token which an issuer signed, such as a CI system's, a
//! cluster's or a cloud's. Also mounted as `oidc`, for the same logins; the browser flow is not here.
//!
//! # Invariants
//!
//! * **Nothing in a token counts before its signature does**, and only by the keys and algorithms that the
//!   mount trusts (`jws`).
//! * **No role lets in everyone** whom the issuer knows (`role`).
//! * **A refusal names a claim, never its value.** What is wrong with a signature is not told; a caller whose
//!   token holds is told which claim does not fit, because that is all a pipeline's log has to go by.
//!
//! A token can be used again until it ends: nothing here remembers it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use daypass_contract::{
    Access, Alias, Backend, BackendError, BackendRoutes, Batch, Call, Handle, Host, Keys as Names,
    ListRequest, Login, NoFields, Operation, Presence, Reply, Revision, Revocability, Revocation,
    Secret, TokenParameters, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::federated::{RoleRequest, token_text};
use crate::name;
use crate::strict::refuse_unknown;
use config::{BROWSER_ONLY, Config, Keys, Verifier, refuse_browser_flow};
use jws::Unverified;
use role::{Role, RoleFields};

mod claims;
mod config;
mod issuer;
mod jws;
mod role;

#[cfg(test)]
mod tests;

pub(crate) use jws::unverified_claims;

/// Where the configuration is stored, and below what the roles are.
const CONFIG: &str = "config";
const ROLES: &str = "role/";

const NOT_SIGNED: &str = "error validating token: error verifying token signature: no known key \
                          successfully validated the token signature";

/// Opens a mount.
///
/// # Errors
/// None; the signature is that of every method.
pub async fn open(host: Host) -> Result<Arc<dyn Backend>, BackendError> {
    Ok(Arc::new(Jwt {
        host,
        verifier: RwLock::default(),
    }))
}

struct Jwt {
    host: Host,
    /// What follows from the configuration of that revision.
    verifier: RwLock<Option<(Revision, Arc<Verifier>)>>,
}

#[derive(Deserialize, JsonSchema)]
struct NameRequest {
    /// The role.
    name: String,
}

#[derive(Deserialize, JsonSchema)]
struct LoginRequest {
    /// The role to log in with; the mount's default where it is left out.
    #[serde(default)]
    role: String,
    /// The token that proves who the caller is.
    jwt: Option<Secret>,
}

/// What a renewal goes by.
#[derive(Serialize, Deserialize)]
struct Renewal {
    role: String,
}

impl Jwt {
    async fn read_config(
        self: Arc<Self>,
        _: Call,
        _: NoFields,
    ) -> Result<Reply<Config>, BackendError> {
        let entry = self.host.store.get(CONFIG).await?;
        Reply::data(&entry.ok_or(BackendError::NotFound)?.decode::<Config>()?)
    }

    async fn write_config(
        self: Arc<Self>,
        call: Call,
        config: Config,
    ) -> Result<Reply<()>, BackendError> {
        refuse_browser_flow(call.body.fields())?;
        refuse_unknown::<Config>(&call.body, BROWSER_ONLY)?;
        let verifier = Verifier::new(config, Arc::clone(&self.host.clock))?;
        if let Keys::Remote(keys) = &verifier.keys
            && let Err(failed) = keys.check().await
        {
            let what = if verifier.config.jwks_url.is_empty() {
                "error checking oidc discovery URL"
            } else {
                "error checking jwks URL"
            };
            return Err(BackendError::InvalidRequest(format!("{what}: {failed}")));
        }
        let batch = Batch::new().put_json(CONFIG, &verifier.config)?;
        self.host.store.apply(batch).await?;
        Ok(Reply::nothing())
    }

    async fn list_roles(
        self: Arc<Self>,
        _: Call,
        request: ListRequest,
    ) -> Result<Reply<Names>, BackendError> {
        let ListRequest { after, limit, .. } = request;
        Reply::keys(crate::names(&self.host, ROLES, after.as_deref(), limit).await?)
    }

    async fn read_role(
        self: Arc<Self>,
        _: Call,
        request: NameRequest,
    ) -> Result<Reply<Role>, BackendError> {
        let role = self.role(&request.name).await?;
        Reply::data(&role.ok_or(BackendError::NotFound)?)
    }

    async fn write_role(
        self: Arc<Self>,
        call: Call,
        request: RoleRequest<RoleFields>,
    ) -> Result<Reply<()>, BackendError> {
        refuse_unknown::<RoleRequest<RoleFields>>(&call.body, BROWSER_ONLY)?;
        name::check("name", &request.role.name)?;
        let key = format!("{ROLES}{}", request.role.name);
        let before = self.host.store.get(&key).await?;
        let mut role: Role = match &before {
            Some(entry) => entry.decode()?,
            None => Role::default(),
        };
        let config = self.host.store.get(CONFIG).await?;
        let config: Option<Config> = config.map(|entry| entry.decode()).transpose()?;
        role.update(request.role, config.as_ref())?;
        role.token
            .update(request.token)
            .map_err(BackendError::InvalidRole)?;
        let batch = Batch::new()
            .expect(&key, before.map(|entry| entry.revision))
            .put_json(&key, &role)?;
        self.host.store.apply(batch).await?;
        Ok(Reply::nothing())
    }

    async fn delete_role(
        self: Arc<Self>,
        _: Call,
        request: NameRequest,
    ) -> Result<Reply<()>, BackendError> {
        let batch = Batch::new().delete(format!("{ROLES}{}", request.name));
        self.host.store.apply(batch).await?;
        Ok(Reply::nothing())
    }

    async fn login(
        self: Arc<Self>,
        call: Call,
        request: LoginRequest,
    ) -> Result<Login, BackendError> {
        let verifier = self.verifier().await?;
        let name = if request.role.is_empty() {
            verifier.config.default_role.clone()
        } else {
            request.role
        };
        if name.is_empty() {
            return Err(BackendError::LoginFailed("missing role"));
        }
        let role = self.role(&name).await?;
        let role = role.ok_or(BackendError::LoginFailed("role could not be found"))?;
        // The configuration may have changed since the role was written.
        role.check_issuer(&verifier.config)?;
        let token = request.jwt.as_ref().and_then(token_text);
        let token = token.ok_or(BackendError::LoginFailed("missing token"))?;
        let claims = verifier.verify(token).await?;
        claims::check(&claims, &role, verifier.issuer.as_deref(), call.now)?;
        admit(name, role, &claims)
    }

    async fn browser_flow(
        self: Arc<Self>,
        _: Call,
        _: NoFields,
    ) -> Result<Reply<()>, BackendError> {
        Err(BackendError::Unsupported(
            "the browser flow is not here: logins are by machines, which bring a token to \
             auth/<mount>/login"
                .into(),
        ))
    }

    async fn role(&self, name: &str) -> Result<Option<Role>, BackendError> {
        let entry = self.host.store.get(&format!("{ROLES}{name}")).await?;
        entry.map(|entry| entry.decode()).transpose()
    }

    /// What follows from the configuration as it is stored now; another node may have changed it.
    async fn verifier(&self) -> Result<Arc<Verifier>, BackendError> {
        let entry = self.host.store.get(CONFIG).await?;
        let entry = entry.ok_or(BackendError::LoginFailed("could not load configuration"))?;
        let known = self.verifier.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((revision, verifier)) = &*known
            && *revision == entry.revision
        {
            return Ok(Arc::clone(verifier));
        }
        drop(known);
        let mut known = self
            .verifier
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Another request may have been faster, and may be fetching keys with it.
        if let Some((revision, verifier)) = &*known
            && *revision == entry.revision
        {
            return Ok(Arc::clone(verifier));
        }
        let verifier = Verifier::new(entry.decode()?, Arc::clone(&self.host.clock))?;
        let verifier = Arc::new(verifier);
        *known = Some((entry.revision, Arc::clone(&verifier)));
        Ok(verifier)
    }
}

impl Verifier {
    /// The claims of a token that the issuer signed.
    async fn verify(&self, token: &str) -> Result<Value, BackendError> {
        let unsigned = BackendError::LoginFailed(NOT_SIGNED);
        let Some(token) = Unverified::parse(token) else {
            return Err(unsigned);
        };
        let claims = match &self.keys {
            Keys::Fixed(keys) => token.verify(keys),
            Keys::Remote(remote) => match remote.keys(token.kid()).await? {
                None => None,
                Some(keys) => {
                    let claims = token.verify(&keys);
                    if claims.is_none() {
                        let newer = remote.newer(&keys).await;
                        newer.and_then(|keys| token.verify(&keys))
                    } else {
                        claims
                    }
                }
            },
        };
        claims.map(Value::Object).ok_or(unsigned)
    }
}

/// Who the caller is, by claims that fit the role.
fn admit(name: String, role: Role, claims: &Value) -> Result<Login, BackendError> {
    let refuse = |text: String| BackendError::InvalidRequest(text);
    let user = if role.user_claim_json_pointer {
        claims.pointer(&role.user_claim)
    } else {
        claims.get(&role.user_claim)
    };
    let user = match user {
        Some(Value::String(user)) if !user.is_empty() => user.clone(),
        Some(Value::Null) | None => {
            return Err(refuse(format!(
                "claim \"{}\" not found in token",
                role.user_claim
            )));
        }
        Some(_) => {
            return Err(refuse(format!(
                "claim \"{}\" could not be converted to string",
                role.user_claim
            )));
        }
    };
    let mut metadata = BTreeMap::from([("role".to_owned(), name.clone())]);
    for (selector, key) in &role.claim_mappings {
        match claims::find(claims, selector) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => {
                metadata.insert(key.clone(), text.clone());
            }
            Some(_) => {
                return Err(refuse(format!(
                    "error converting claim '{selector}' to string"
                )));
            }
        }
    }
    let groups = groups(&role, claims)?;
    Ok(Login {
        display_name: user.clone(),
        alias: Alias {
            name: user,
            metadata: metadata.clone(),
        },
        metadata,
        groups,
        token: role.token,
        renewal: Handle::encode(&Renewal { role: name })?,
        warnings: Vec::new(),
    })
}

fn groups(role: &Role, claims: &Value) -> Result<Vec<String>, BackendError> {
    if role.groups_claim.is_empty() {
        return Ok(Vec::new());
    }
    let refuse = |problem| {
        let claim = &role.groups_claim;
        BackendError::InvalidRequest(format!("failed to fetch groups: \"{claim}\" {problem}"))
    };
    match claims::find(claims, &role.groups_claim) {
        None | Some(Value::Null) => Err(refuse("claim not found in token")),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(many)) => many
            .iter()
            .map(|one| one.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| refuse("claim could not be converted to a list of strings")),
        Some(_) => Err(refuse("claim could not be converted to a list of strings")),
    }
}

#[async_trait]
impl Backend for Jwt {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        use Operation::{Delete, List, Read, Write};
        let mut routes = BackendRoutes::default();
        routes.answer(
            &self,
            Read,
            "config",
            "Reads whose tokens the mount believes.",
            Self::read_config,
        );
        routes.answer(
            &self,
            Write,
            "config",
            "Sets whose tokens the mount believes.",
            Self::write_config,
        );
        routes.answer(&self, List, "role", "Lists roles.", Self::list_roles);
        routes.answer(&self, Read, "role/{name}", "Reads a role.", Self::read_role);
        routes.answer(
            &self,
            Write,
            "role/{name}",
            "Writes a role.",
            Self::write_role,
        );
        routes.answer(
            &self,
            Delete,
            "role/{name}",
            "Deletes a role.",
            Self::delete_role,
        );
        routes.login(
            &self,
            "login",
            "Logs in with a token of the issuer.",
            |_: &LoginRequest| None,
            Self::login,
        );
        let flow = [(Write, "oidc/auth_url"), (Read, "oidc/callback")];
        for (operation, pattern) in flow {
            let summary = "Refuses the browser flow, and says why.";
            let endpoint = routes.answer(&self, operation, pattern, summary, Self::browser_flow);
            endpoint.access = Access::Anyone;
        }
        routes
    }

    fn revocability(&self) -> Revocability {
        crate::revocability()
    }

    async fn exists(&self, path: &str) -> Result<bool, BackendError> {
        Ok(self.host.store.get(path).await?.is_some())
    }

    async fn revoke(&self, _: &Handle) -> Result<Revocation, BackendError> {
        crate::not_leased()
    }

    async fn verify(&self, _: &Handle) -> Result<Presence, BackendError> {
        crate::not_leased()
    }

    async fn renew_login(&self, renewal: &Handle) -> Result<TokenParameters, BackendError> {
        let Renewal { role } = renewal.decode()?;
        let role = self.role(&role).await?;
        role.map(|role| role.token).ok_or(BackendError::LoginFailed(
            "the role does not exist any more: log in again",
        ))
    }
}
