//! The auth method `cert`: callers that show a certificate in TLS, such as a machine's, or a workload's
//! X.509-SVID.
//!
//! The listener proves that the caller holds the key and vouches for nothing else: whose certificates count is
//! said by the roles here.
//!
//! # Invariants
//!
//! * **A certificate in a request is no certificate.** What counts is [`Call::peer`] alone.
//! * **No role, no trust**: neither the system's authorities nor what the caller sends along are trusted
//!   unless a role names them (`trust`).
//! * **Revocation fails closed** (`list`).
//! * **A renewal asks everything again** but for the key: the role, what it says now, the time and the lists.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_contract::{
    Alias, Backend, BackendError, BackendRoutes, Batch, Call, Handle, Host, Keys as Names,
    ListRequest, Login, NoFields, Operation, Presence, Reply, Revocability, Revocation,
    TokenParameters, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::federated::RoleRequest;
use crate::name;
use crate::strict::refuse_unknown;
use list::List;
use role::{NOT_HERE, Role, RoleFields, Trusting, refuse_what_is_not_here};
use shown::Shown;
use table::{Cache, StoredList, Table, changed};

mod list;
mod refusal;
mod role;
mod shown;
mod table;
mod trust;
mod uri;

#[cfg(test)]
mod tests;

/// Where the configuration is stored, and below what the roles and the lists are.
const CONFIG: &str = "config";
const ROLES: &str = "certs/";
const LISTS: &str = "crls/";

/// Revocation lists of one mount; all of them are kept in memory.
const MOST_LISTS: usize = 128;

/// Opens a mount.
///
/// # Errors
/// None; the signature is that of every method.
pub async fn open(host: Host) -> Result<Arc<dyn Backend>, BackendError> {
    let cache = Cache::default();
    Ok(Arc::new(Cert { host, cache }))
}

struct Cert {
    host: Host,
    cache: Cache,
}

/// What holds for all roles.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
struct Config {
    /// Whether the entity's alias gets the metadata too.
    enable_identity_alias_metadata: bool,
}

#[derive(Deserialize, JsonSchema)]
struct ConfigFields {
    /// Whether the entity's alias gets the metadata too.
    enable_identity_alias_metadata: Option<bool>,
    /// Always true: a renewal does not ask for the certificate.
    disable_binding: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
struct ConfigView {
    #[serde(flatten)]
    config: Config,
    /// Always true: a renewal does not ask for the certificate.
    disable_binding: bool,
}

#[derive(Deserialize, JsonSchema)]
struct NameRequest {
    /// The role, or the list.
    #[serde(deserialize_with = "name::lower")]
    name: String,
}

#[derive(Deserialize, JsonSchema)]
struct ListUpload {
    /// The list.
    #[serde(deserialize_with = "name::lower")]
    name: String,
    /// In PEM, or in base64 of DER.
    crl: Option<String>,
    /// Refused: lists are uploaded.
    url: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct ListView {
    /// The serial numbers on it, in decimal.
    serials: BTreeMap<String, Map<String, Value>>,
    /// When the next one is due, in seconds since 1970. From then on certificates of its issuer do not log in.
    next_update: u64,
}

#[derive(Deserialize, JsonSchema)]
struct LoginRequest {
    /// The role to log in with; the first that fits where it is left out.
    name: Option<String>,
}

/// What a renewal goes by.
#[derive(Serialize, Deserialize)]
struct Renewal {
    role: String,
    /// The certificate and those between it and the trusted one: DER in base64.
    chain: Vec<String>,
}

impl Cert {
    async fn read_config(
        self: Arc<Self>,
        _: Call,
        _: NoFields,
    ) -> Result<Reply<ConfigView>, BackendError> {
        let table = self.cache.table(&self.host).await?;
        Reply::data(&ConfigView {
            config: table.config.clone(),
            disable_binding: true,
        })
    }

    async fn write_config(
        self: Arc<Self>,
        call: Call,
        fields: ConfigFields,
    ) -> Result<Reply<()>, BackendError> {
        refuse_what_is_not_here(&call.body)?;
        refuse_unknown::<ConfigFields>(&call.body, NOT_HERE)?;
        let mut config = self.cache.table(&self.host).await?.config.clone();
        if let Some(enable) = fields.enable_identity_alias_metadata {
            config.enable_identity_alias_metadata = enable;
        }
        let batch = Batch::new().put_json(CONFIG, &config)?;
        self.host.store.apply(changed(batch)?).await?;
        let reply = Reply::nothing();
        Ok(if fields.disable_binding == Some(false) {
            reply.warn(
                "disable_binding stays true: a renewal checks the role, the certificate's time and \
                 the revocation lists again, and does not ask for the certificate; bind tokens with \
                 token_bound_cidrs",
            )
        } else {
            reply
        })
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
        let key = format!("{ROLES}{}", request.name);
        let entry = self.host.store.get(&key).await?;
        let entry = entry.ok_or(BackendError::NotFound)?;
        Reply::data(&entry.decode::<Role>()?)
    }

    async fn write_role(
        self: Arc<Self>,
        call: Call,
        request: RoleRequest<RoleFields>,
    ) -> Result<Reply<()>, BackendError> {
        refuse_what_is_not_here(&call.body)?;
        refuse_unknown::<RoleRequest<RoleFields>>(&call.body, NOT_HERE)?;
        name::check("name", &request.role.name)?;
        let key = format!("{ROLES}{}", request.role.name);
        let before = self.host.store.get(&key).await?;
        let mut role: Role = match &before {
            Some(entry) => entry.decode()?,
            None => Role::default(),
        };
        role.update(request.role);
        role.token
            .update(request.token)
            .map_err(BackendError::InvalidRole)?;
        let trusting = Trusting::read(role)?;
        let batch = Batch::new()
            .expect(&key, before.map(|entry| entry.revision))
            .put_json(&key, &trusting.role)?;
        self.host.store.apply(changed(batch)?).await?;
        let reply = Reply::nothing();
        Ok(if trusting.is_open() {
            reply.warn(
                "this role lets in every certificate that the CA ever signed: say which in \
                 allowed_common_names, allowed_dns_sans, allowed_uri_sans or their like, unless the \
                 CA exists for this role alone",
            )
        } else {
            reply
        })
    }

    async fn delete_role(
        self: Arc<Self>,
        _: Call,
        request: NameRequest,
    ) -> Result<Reply<()>, BackendError> {
        let batch = Batch::new().delete(format!("{ROLES}{}", request.name));
        self.host.store.apply(changed(batch)?).await?;
        Ok(Reply::nothing())
    }

    async fn list_lists(
        self: Arc<Self>,
        _: Call,
        request: ListRequest,
    ) -> Result<Reply<Names>, BackendError> {
        let ListRequest { after, limit, .. } = request;
        Reply::keys(crate::names(&self.host, LISTS, after.as_deref(), limit).await?)
    }

    async fn read_list(
        self: Arc<Self>,
        _: Call,
        request: NameRequest,
    ) -> Result<Reply<ListView>, BackendError> {
        let key = format!("{LISTS}{}", request.name);
        let entry = self.host.store.get(&key).await?;
        let entry = entry.ok_or(BackendError::NotFound)?;
        let der = entry.decode::<StoredList>()?.der()?;
        let damaged = |problem: &'static str| BackendError::Internal(problem.into());
        let serials = list::serials(&der).map_err(damaged)?;
        let ends_at = List::read(der).map_err(damaged)?.ends_at();
        let next_update = ends_at.duration_since(UNIX_EPOCH);
        Reply::data(&ListView {
            serials,
            next_update: next_update.map_or(0, |since| since.as_secs()),
        })
    }

    async fn write_list(
        self: Arc<Self>,
        call: Call,
        request: ListUpload,
    ) -> Result<Reply<()>, BackendError> {
        refuse_unknown::<ListUpload>(&call.body, &[])?;
        name::check("name", &request.name)?;
        if request.url.is_some_and(|url| !url.is_empty()) {
            return Err(BackendError::Unsupported(
                "url: lists are not fetched by a login: upload them as crl, from a job that runs \
                 more often than they end"
                    .into(),
            ));
        }
        let crl = request.crl.filter(|crl| !crl.trim().is_empty());
        let crl = crl.ok_or_else(|| BackendError::field("crl", "is required"))?;
        let fault = |problem: &str| BackendError::field("crl", problem);
        let der = list::der_of(&crl).map_err(fault)?;
        let stored = StoredList {
            der: STANDARD.encode(&der),
        };
        let list = List::read(der).map_err(fault)?;
        if list.ends_at() <= call.now {
            return Err(fault(
                "has ended already: with it, no certificate of its issuer could log in",
            ));
        }
        let key = format!("{LISTS}{}", request.name);
        let others = crate::names(&self.host, LISTS, None, None).await?;
        if others.len() >= MOST_LISTS && !others.contains(&request.name) {
            return Err(fault("there are 128 lists already: delete one"));
        }
        let batch = Batch::new().put_json(key, &stored)?;
        self.host.store.apply(changed(batch)?).await?;
        Ok(Reply::nothing())
    }

    async fn delete_list(
        self: Arc<Self>,
        _: Call,
        request: NameRequest,
    ) -> Result<Reply<()>, BackendError> {
        let batch = Batch::new().delete(format!("{LISTS}{}", request.name));
        self.host.store.apply(changed(batch)?).await?;
        Ok(Reply::nothing())
    }

    async fn login(
        self: Arc<Self>,
        call: Call,
        request: LoginRequest,
    ) -> Result<Login, BackendError> {
        let shown = Shown::read(&call.peer.certificates)?;
        let table = self.cache.table(&self.host).await?;
        let name = request.name.map(|name| name.to_ascii_lowercase());
        admit(
            &table,
            &shown,
            name.filter(|name| !name.is_empty()),
            call.now,
        )
    }
}

/// Who the caller is, by a certificate that fits a role.
fn admit(
    table: &Table,
    shown: &Shown,
    role: Option<String>,
    now: SystemTime,
) -> Result<Login, BackendError> {
    let fit = table.find(shown, role.as_deref(), now)?;
    let role = &fit.trusting.role;
    let metadata = shown.metadata(fit.name, &role.allowed_metadata_extensions);
    let chain = [shown.leaf.der()]
        .into_iter()
        .chain(fit.between.iter().map(Vec::as_slice));
    let renewal = Renewal {
        role: fit.name.to_owned(),
        chain: chain.map(|der| STANDARD.encode(der)).collect(),
    };
    Ok(Login {
        display_name: role.display_name.clone(),
        alias: Alias {
            name: fit.alias,
            metadata: if table.config.enable_identity_alias_metadata {
                metadata.clone()
            } else {
                BTreeMap::new()
            },
        },
        metadata,
        groups: Vec::new(),
        token: role.token.clone(),
        renewal: Handle::encode(&renewal)?,
        warnings: Vec::new(),
    })
}

#[async_trait]
impl Backend for Cert {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        use Operation::{Delete, List, Read, Write};
        let mut routes = BackendRoutes::default();
        routes.answer(
            &self,
            Read,
            "config",
            "Reads what holds for all roles.",
            Self::read_config,
        );
        routes.answer(
            &self,
            Write,
            "config",
            "Sets what holds for all roles.",
            Self::write_config,
        );
        routes.answer(&self, List, "certs", "Lists roles.", Self::list_roles);
        routes.answer(
            &self,
            Read,
            "certs/{name}",
            "Reads a role.",
            Self::read_role,
        );
        routes.answer(
            &self,
            Write,
            "certs/{name}",
            "Writes a role: which certificates log in.",
            Self::write_role,
        );
        routes.answer(
            &self,
            Delete,
            "certs/{name}",
            "Deletes a role.",
            Self::delete_role,
        );
        routes.answer(
            &self,
            List,
            "crls",
            "Lists revocation lists.",
            Self::list_lists,
        );
        routes.answer(
            &self,
            Read,
            "crls/{name}",
            "Reads what a revocation list revokes.",
            Self::read_list,
        );
        routes.answer(
            &self,
            Write,
            "crls/{name}",
            "Uploads a revocation list.",
            Self::write_list,
        );
        routes.answer(
            &self,
            Delete,
            "crls/{name}",
            "Deletes a revocation list.",
            Self::delete_list,
        );
        routes.login(
            &self,
            "login",
            "Logs in with the certificate that the connection shows.",
            |_: &LoginRequest| None,
            Self::login,
        );
        routes
    }

    fn revocability(&self) -> Revocability {
        crate::revocability()
    }

    async fn exists(&self, path: &str) -> Result<bool, BackendError> {
        let key = path.to_ascii_lowercase();
        Ok(self.host.store.get(&key).await?.is_some())
    }

    async fn revoke(&self, _: &Handle) -> Result<Revocation, BackendError> {
        crate::not_leased()
    }

    async fn verify(&self, _: &Handle) -> Result<Presence, BackendError> {
        crate::not_leased()
    }

    async fn renew_login(&self, renewal: &Handle) -> Result<TokenParameters, BackendError> {
        let Renewal { role, chain } = renewal.decode()?;
        let table = self.cache.table(&self.host).await?;
        if !table.has(&role) {
            return Err(BackendError::LoginFailed(
                "the role does not exist any more: log in again",
            ));
        }
        let chain = chain.iter().map(|der| STANDARD.decode(der));
        let chain = chain
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| BackendError::Internal("renewal holds no chain".into()))?;
        let shown = Shown::read(&chain)?;
        let fit = table.find(&shown, Some(&role), self.host.clock.now())?;
        Ok(fit.trusting.role.token.clone())
    }
}
