//! The auth method `kubernetes`: pods that bring the token of their service account, which the cluster's
//! API server verifies.
//!
//! # Invariants
//!
//! * **The API server decides.** It is asked about each login; what the token says of itself only saves
//!   questions whose answer would not matter (`review`).
//! * **No role lets in every pod** of the cluster (`role`).
//! * **The reviewer's token leaves only towards the API server**, over TLS with the authority that was given.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use daypass_contract::{
    Alias, Backend, BackendError, BackendRoutes, Batch, Call, Handle, Host, Keys, ListRequest,
    Login, NoFields, Operation, Presence, Reply, Revocability, Revocation, Secret, TokenParameters,
    async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::federated::{RoleRequest, Upstream, token_text};
use crate::jwt::unverified_claims;
use crate::name;
use crate::strict::refuse_unknown;
use config::{Config, ConfigRequest, ConfigView, Pod};
use review::{ServiceAccount, review};
use role::{AliasNameSource, Role, RoleFields};

mod config;
mod review;
mod role;

#[cfg(test)]
mod tests;

/// Where the configuration is stored, and below what the roles are.
const CONFIG: &str = "config";
const ROLES: &str = "role/";

/// Reviews that are under way at a time: anyone may try to log in, and must not be able to flood the API
/// server through us.
const MOST_REVIEWS: usize = 64;

/// How long a login waits for its turn.
const TURN: Duration = Duration::from_secs(5);

const NOBODY: BackendError = BackendError::LoginFailed("permission denied");

/// Opens a mount.
///
/// # Errors
/// None; the signature is that of every method.
pub async fn open(host: Host) -> Result<Arc<dyn Backend>, BackendError> {
    Ok(Arc::new(Kubernetes::new(host, Pod::default())))
}

struct Kubernetes {
    host: Host,
    pod: Pod,
    reviews: Semaphore,
    /// The client that trusts these certificates.
    upstream: RwLock<Option<(String, Upstream)>>,
}

#[derive(Deserialize, JsonSchema)]
struct NameRequest {
    /// The role.
    name: String,
}

#[derive(Deserialize, JsonSchema)]
struct LoginRequest {
    /// The role to log in with.
    #[serde(default)]
    role: String,
    /// The token of the pod's service account.
    jwt: Option<Secret>,
}

/// What a renewal goes by.
#[derive(Serialize, Deserialize)]
struct Renewal {
    role: String,
}

impl Kubernetes {
    fn new(host: Host, pod: Pod) -> Self {
        Self {
            host,
            pod,
            reviews: Semaphore::new(MOST_REVIEWS),
            upstream: RwLock::default(),
        }
    }

    async fn read_config(
        self: Arc<Self>,
        _: Call,
        _: NoFields,
    ) -> Result<Reply<ConfigView>, BackendError> {
        let config = self.config().await?;
        Reply::data(&config.ok_or(BackendError::NotFound)?.view())
    }

    async fn write_config(
        self: Arc<Self>,
        call: Call,
        request: ConfigRequest,
    ) -> Result<Reply<()>, BackendError> {
        refuse_unknown::<ConfigRequest>(&call.body, &[])?;
        let config = Config::new(request)?;
        let batch = Batch::new().put_json(CONFIG, &config)?;
        self.host.store.apply(batch).await?;
        Ok(Reply::nothing())
    }

    async fn list_roles(
        self: Arc<Self>,
        _: Call,
        request: ListRequest,
    ) -> Result<Reply<Keys>, BackendError> {
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
        refuse_unknown::<RoleRequest<RoleFields>>(&call.body, &[])?;
        name::check("name", &request.role.name)?;
        let key = format!("{ROLES}{}", request.role.name);
        let before = self.host.store.get(&key).await?;
        let mut role: Role = match &before {
            Some(entry) => entry.decode()?,
            None => Role::default(),
        };
        role.update(request.role)?;
        role.token
            .update(request.token)
            .map_err(BackendError::InvalidRole)?;
        let batch = Batch::new()
            .expect(&key, before.map(|entry| entry.revision))
            .put_json(&key, &role)?;
        self.host.store.apply(batch).await?;
        let reply = Reply::nothing();
        if role.audience.is_empty() {
            return Ok(reply.warn(
                "the role has no audience: tokens made for the API server itself log in, and whoever \
                 sees one can use it at both; set audience and project a token for it",
            ));
        }
        Ok(reply)
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

    async fn login(self: Arc<Self>, _: Call, request: LoginRequest) -> Result<Login, BackendError> {
        let name = request.role;
        if name.is_empty() {
            return Err(BackendError::LoginFailed("missing role"));
        }
        let token = request.jwt.as_ref().and_then(token_text);
        let token = token.ok_or(BackendError::LoginFailed("missing jwt"))?;
        let role = self.role(&name).await?;
        let role = role.ok_or(BackendError::LoginFailed("invalid role name"))?;
        let config = self.config().await?;
        let config = config.ok_or(BackendError::LoginFailed("could not load configuration"))?;

        // What the token says of itself is no proof, but where it would not do anyway, nobody is asked.
        let claims = Value::Object(unverified_claims(token).ok_or(NOBODY)?);
        let said = claims.get("sub").and_then(Value::as_str);
        let (namespace, account) = said.and_then(ServiceAccount::parse).ok_or(NOBODY)?;
        role.admit(namespace, account)?;
        if !config.disable_iss_validation
            && claims.get("iss").and_then(Value::as_str) != Some(config.issuer.as_str())
        {
            return Err(BackendError::LoginFailed("invalid issuer (iss) claim"));
        }

        let proved = self.review(&config, token, &role.audience).await?;
        if (proved.namespace.as_str(), proved.name.as_str()) != (namespace, account) {
            return Err(NOBODY);
        }
        admit(name, role, proved, &claims)
    }

    async fn review(
        &self,
        config: &Config,
        token: &str,
        audience: &str,
    ) -> Result<ServiceAccount, BackendError> {
        let turn = tokio::time::timeout(TURN, self.reviews.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(BackendError::Unavailable {
                retry_after: None,
                source: "too many logins are under way".into(),
            });
        };
        let upstream = self.upstream(config).await?;
        let own = if config.disable_local_ca_jwt {
            None
        } else {
            self.pod.token().await
        };
        // As with Vault: the configured one, the pod's own, or the caller's, which may review itself.
        let reviewer = match (&config.token_reviewer_jwt, own) {
            (given, _) if !given.is_empty() => given.duplicate(),
            (_, Some(own)) => own,
            (_, None) => Secret::new(token),
        };
        review(&upstream, config.reviews()?, &reviewer, token, audience).await
    }

    /// A client that trusts the cluster's authority. Made once, as long as that does not change.
    async fn upstream(&self, config: &Config) -> Result<Upstream, BackendError> {
        let ca = if config.kubernetes_ca_cert.is_empty() && !config.disable_local_ca_jwt {
            self.pod.ca().await.unwrap_or_default()
        } else {
            config.kubernetes_ca_cert.clone()
        };
        {
            let known = self.upstream.read().unwrap_or_else(PoisonError::into_inner);
            if let Some((trusted, upstream)) = &*known
                && *trusted == ca
            {
                return Ok(upstream.clone());
            }
        }
        let upstream = Upstream::new(&ca)
            .map_err(|problem| BackendError::InvalidRole(format!("the cluster's CA {problem}")))?;
        let mut known = self
            .upstream
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *known = Some((ca, upstream.clone()));
        Ok(upstream)
    }

    async fn config(&self) -> Result<Option<Config>, BackendError> {
        let entry = self.host.store.get(CONFIG).await?;
        entry.map(|entry| entry.decode()).transpose()
    }

    async fn role(&self, name: &str) -> Result<Option<Role>, BackendError> {
        let entry = self.host.store.get(&format!("{ROLES}{name}")).await?;
        entry.map(|entry| entry.decode()).transpose()
    }
}

/// Who the caller is, by the account that was proved.
fn admit(
    role_name: String,
    role: Role,
    account: ServiceAccount,
    claims: &Value,
) -> Result<Login, BackendError> {
    let ServiceAccount {
        namespace,
        name,
        uid,
    } = account;
    // Only the tokens of old that lie in a secret have it.
    let secret = claims
        .get("kubernetes.io/serviceaccount/secret.name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let facts = [
        ("service_account_name", name.as_str()),
        ("service_account_namespace", namespace.as_str()),
        ("service_account_secret_name", secret),
        ("service_account_uid", uid.as_str()),
    ];
    let alias_metadata: BTreeMap<String, String> = facts
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let mut metadata = alias_metadata.clone();
    metadata.insert("role".to_owned(), role_name.clone());
    Ok(Login {
        display_name: format!("{namespace}-{name}"),
        alias: Alias {
            name: match role.alias_name_source {
                AliasNameSource::ServiceaccountUid => uid,
                AliasNameSource::ServiceaccountName => format!("{namespace}/{name}"),
            },
            metadata: alias_metadata,
        },
        metadata,
        groups: Vec::new(),
        token: role.token,
        renewal: Handle::encode(&Renewal { role: role_name })?,
        warnings: Vec::new(),
    })
}

#[async_trait]
impl Backend for Kubernetes {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        use Operation::{Delete, List, Read, Write};
        let mut routes = BackendRoutes::default();
        routes.answer(
            &self,
            Read,
            "config",
            "Reads which cluster is asked.",
            Self::read_config,
        );
        routes.answer(
            &self,
            Write,
            "config",
            "Sets which cluster is asked.",
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
            "Logs in with the token of a pod's service account.",
            |_: &LoginRequest| None,
            Self::login,
        );
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
