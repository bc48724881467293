//! Roles: the operator's templates of what may be signed, with the fields and defaults of the Vault API.
//!
//! **Invariant:** a role that is stored has been validated: what it says is honoured, and what cannot be
//! honoured was refused when it was written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use daypass_contract::{BackendError, Batch, Call, ListRequest, NoFields, Reply, Store, duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Ssh;
use crate::key::RsaHash;
use crate::names::{Names, flag};

/// How many roles a list describes at most where the caller sets no limit.
const MOST: usize = 10_000;

/// What may be signed, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Role {
    /// The role's name, from the path.
    #[serde(skip_serializing)]
    pub(crate) name: String,
    /// Must be `ca`.
    pub(crate) key_type: String,
    /// An issuer's id or name, or `default`.
    pub(crate) issuer_ref: String,
    /// Whether it signs certificates of users.
    #[serde(deserialize_with = "flag")]
    pub(crate) allow_user_certificates: bool,
    /// Whether it signs certificates of hosts.
    #[serde(deserialize_with = "flag")]
    pub(crate) allow_host_certificates: bool,
    /// The users it signs for; `*` for all, empty for none.
    pub(crate) allowed_users: Names,
    /// The users of a certificate whose request names none; must be allowed too.
    pub(crate) default_user: Names,
    /// The domains that the flags below speak of; `*` for all, empty for none.
    pub(crate) allowed_domains: Names,
    /// Whether the domains themselves are allowed.
    #[serde(deserialize_with = "flag")]
    pub(crate) allow_bare_domains: bool,
    /// Whether names below the domains are allowed.
    #[serde(deserialize_with = "flag")]
    pub(crate) allow_subdomains: bool,
    /// Whether a certificate may name nobody, which makes it good for every user or host.
    #[serde(deserialize_with = "flag")]
    pub(crate) allow_empty_principals: bool,
    /// The critical options a request may set; empty for all. Defaults change only where they are named.
    pub(crate) allowed_critical_options: Names,
    /// The extensions a request may set; `*` for all, empty for none.
    pub(crate) allowed_extensions: Names,
    /// The critical options of every certificate of a user.
    pub(crate) default_critical_options: BTreeMap<String, String>,
    /// The extensions of a certificate whose request asks for none.
    pub(crate) default_extensions: BTreeMap<String, String>,
    /// Whether a request may set the key id.
    #[serde(deserialize_with = "flag")]
    pub(crate) allow_user_key_ids: bool,
    /// The key id, with `{{token_display_name}}`, `{{role_name}}` and `{{public_key_hash}}`.
    pub(crate) key_id_format: String,
    /// The kinds of keys it signs, with their sizes in bits; empty for all.
    pub(crate) allowed_user_key_lengths: BTreeMap<String, Vec<u32>>,
    /// How a CA with an RSA key signs: `rsa-sha2-256`, `rsa-sha2-512` or `default`, which is the first.
    pub(crate) algorithm_signer: String,
    /// How long a certificate lasts where the request does not say; 0: the mount's default.
    #[serde(with = "duration::option")]
    #[schemars(with = "Option<u64>")]
    pub(crate) ttl: Option<Duration>,
    /// How long a certificate lasts at most; 0: the mount's maximum.
    #[serde(with = "duration::option")]
    #[schemars(with = "Option<u64>")]
    pub(crate) max_ttl: Option<Duration>,
    /// How far certificates are dated back, for slow clocks.
    #[serde(with = "duration")]
    #[schemars(with = "u64")]
    pub(crate) not_before_duration: Duration,

    /// Not supported: must be false.
    #[serde(deserialize_with = "flag")]
    pub(crate) allowed_users_template: bool,
    /// Not supported: must be false.
    #[serde(deserialize_with = "flag")]
    pub(crate) allowed_domains_template: bool,
    /// Not supported: must be false.
    #[serde(deserialize_with = "flag")]
    pub(crate) default_user_template: bool,
    /// Not supported: must be false.
    #[serde(deserialize_with = "flag")]
    pub(crate) default_extensions_template: bool,
    /// Not supported: must be false.
    #[serde(deserialize_with = "flag")]
    pub(crate) allow_commas_in_identity_templates: bool,
    /// Not supported: must be false.
    #[serde(deserialize_with = "flag")]
    pub(crate) allow_wildcards_in_identity_templates: bool,

    /// Of one-time passwords: must be empty.
    #[serde(skip_serializing)]
    pub(crate) cidr_list: String,
    /// Of one-time passwords: must be empty.
    #[serde(skip_serializing)]
    pub(crate) exclude_cidr_list: String,
    /// Of one-time passwords: no effect.
    #[serde(skip_serializing)]
    pub(crate) port: Option<u32>,
    /// Of dynamic keys, which Vault removed: must be empty.
    #[serde(skip_serializing)]
    pub(crate) key: String,
    /// Of dynamic keys: must be empty.
    #[serde(skip_serializing)]
    pub(crate) admin_user: String,
    /// Of dynamic keys: must be empty.
    #[serde(skip_serializing)]
    pub(crate) install_script: String,
    /// Of dynamic keys: must be empty.
    #[serde(skip_serializing)]
    pub(crate) key_option_specs: String,
    /// Of dynamic keys: no effect.
    #[serde(skip_serializing)]
    pub(crate) key_bits: Option<u32>,
}

impl Default for Role {
    fn default() -> Self {
        Self {
            name: String::new(),
            key_type: String::new(),
            issuer_ref: "default".into(),
            allow_user_certificates: false,
            allow_host_certificates: false,
            allowed_users: Names::default(),
            default_user: Names::default(),
            allowed_domains: Names::default(),
            allow_bare_domains: false,
            allow_subdomains: false,
            allow_empty_principals: false,
            allowed_critical_options: Names::default(),
            allowed_extensions: Names::default(),
            default_critical_options: BTreeMap::new(),
            default_extensions: BTreeMap::new(),
            allow_user_key_ids: false,
            key_id_format: String::new(),
            allowed_user_key_lengths: BTreeMap::new(),
            algorithm_signer: "default".into(),
            ttl: None,
            max_ttl: None,
            not_before_duration: Duration::from_secs(30),
            allowed_users_template: false,
            allowed_domains_template: false,
            default_user_template: false,
            default_extensions_template: false,
            allow_commas_in_identity_templates: false,
            allow_wildcards_in_identity_templates: false,
            cidr_list: String::new(),
            exclude_cidr_list: String::new(),
            port: None,
            key: String::new(),
            admin_user: String::new(),
            install_script: String::new(),
            key_option_specs: String::new(),
            key_bits: None,
        }
    }
}

/// The names of kinds of keys in `allowed_user_key_lengths`, and whether their sizes differ.
pub(crate) const KINDS: [(&str, bool); 11] = [
    ("rsa", true),
    ("ssh-rsa", true),
    ("ec", true),
    ("ecdsa-sha2-nistp256", false),
    ("ecdsa-sha2-nistp384", false),
    ("ecdsa-sha2-nistp521", false),
    ("ed25519", false),
    ("ssh-ed25519", false),
    ("ecdsa-sk", false),
    ("ed25519-sk", false),
    // Named for the sake of roles that came from elsewhere; such keys are refused by every role.
    ("dsa", true),
];

/// The placeholders of `key_id_format`.
pub(crate) const DISPLAY_NAME: &str = "{{token_display_name}}";
pub(crate) const ROLE_NAME: &str = "{{role_name}}";
pub(crate) const KEY_HASH: &str = "{{public_key_hash}}";

impl Role {
    /// How a CA with an RSA key signs, or `None` where the role leaves that open.
    pub(crate) fn rsa_hash(&self) -> Option<RsaHash> {
        match self.algorithm_signer.as_str() {
            "rsa-sha2-256" => Some(RsaHash::Sha256),
            "rsa-sha2-512" => Some(RsaHash::Sha512),
            _ => None,
        }
    }

    /// Refuses what cannot be honoured.
    fn validated(mut self) -> Result<Self, BackendError> {
        let refused = |problem: &str| Err(BackendError::InvalidRole(problem.into()));
        match self.key_type.as_str() {
            "ca" => {}
            "" => return refused("missing key type"),
            "otp" => {
                return Err(BackendError::Unsupported(
                    "key_type \"otp\": one-time passwords need a helper on every host that asks back; \
                     use signed certificates (key_type \"ca\")"
                        .into(),
                ));
            }
            "dynamic" => return refused("dynamic key type roles are no longer supported"),
            _ => return refused("invalid key type"),
        }
        self.check_supported()?;
        if !self.allow_user_certificates && !self.allow_host_certificates {
            return refused(
                "Either 'allow_user_certificates' or 'allow_host_certificates' must be set to 'true'",
            );
        }
        self.ttl = self.ttl.filter(|ttl| !ttl.is_zero());
        self.max_ttl = self.max_ttl.filter(|ttl| !ttl.is_zero());
        if let (Some(ttl), Some(max)) = (self.ttl, self.max_ttl)
            && ttl > max
        {
            return refused("\"ttl\" value must be less than \"max_ttl\" when both are specified");
        }
        match self.algorithm_signer.as_str() {
            "" => self.algorithm_signer = "default".into(),
            "default" | "rsa-sha2-256" | "rsa-sha2-512" => {}
            _ => {
                return Err(BackendError::field(
                    "algorithm_signer",
                    "must be default, rsa-sha2-256 or rsa-sha2-512 (ssh-rsa signs with SHA-1, which no \
                     current server accepts)",
                ));
            }
        }
        if self.issuer_ref.is_empty() {
            self.issuer_ref = "default".into();
        }
        let rest = [DISPLAY_NAME, ROLE_NAME, KEY_HASH]
            .iter()
            .fold(self.key_id_format.clone(), |text, known| {
                text.replace(known, "")
            });
        if rest.contains("{{") || rest.contains("}}") {
            return Err(BackendError::field(
                "key_id_format",
                format!("knows {DISPLAY_NAME}, {ROLE_NAME} and {KEY_HASH} only"),
            ));
        }
        let known = |kind: &String| KINDS.iter().any(|(name, _)| name == kind);
        if !self.allowed_user_key_lengths.keys().all(known) {
            let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
            return Err(BackendError::field(
                "allowed_user_key_lengths",
                format!("known are {}", names.join(", ")),
            ));
        }
        Ok(self)
    }

    fn check_supported(&self) -> Result<(), BackendError> {
        let templates = [
            ("allowed_users_template", self.allowed_users_template),
            ("allowed_domains_template", self.allowed_domains_template),
            ("default_user_template", self.default_user_template),
            (
                "default_extensions_template",
                self.default_extensions_template,
            ),
            (
                "allow_commas_in_identity_templates",
                self.allow_commas_in_identity_templates,
            ),
            (
                "allow_wildcards_in_identity_templates",
                self.allow_wildcards_in_identity_templates,
            ),
        ];
        if let Some((field, _)) = templates.iter().find(|(_, set)| *set) {
            return Err(BackendError::field(
                field,
                "must be false: templates turn what a caller is called into what it may do; write a role for \
                 each, and let policies say who may use it",
            ));
        }
        let others = [
            ("cidr_list", &self.cidr_list),
            ("exclude_cidr_list", &self.exclude_cidr_list),
            ("key", &self.key),
            ("admin_user", &self.admin_user),
            ("install_script", &self.install_script),
            ("key_option_specs", &self.key_option_specs),
        ];
        match others.iter().find(|(_, text)| !text.is_empty()) {
            Some((field, _)) => {
                let problem = "is not for roles of key_type \"ca\": leave it out";
                Err(BackendError::field(field, problem))
            }
            None => Ok(()),
        }
    }
}

/// A role by its name.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ByName {
    name: String,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct RolesView {
    keys: Vec<String>,
    key_info: BTreeMap<String, RoleInfo>,
}

#[derive(Serialize, JsonSchema)]
struct RoleInfo {
    key_type: String,
    issuer_ref: String,
}

fn record(name: &str) -> Result<String, BackendError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(allowed) {
        let problem = "must have 1 to 128 letters, digits, '_', '-' and '.'";
        return Err(BackendError::field("name", problem));
    }
    Ok(format!("roles/{name}"))
}

/// The stored role of that name.
pub(crate) async fn load(store: &dyn Store, name: &str) -> Result<Option<Role>, BackendError> {
    let Some(entry) = store.get(&record(name)?).await? else {
        return Ok(None);
    };
    let mut role: Role = entry.decode()?;
    // Stored as 0, as the API shows them.
    role.ttl = role.ttl.filter(|ttl| !ttl.is_zero());
    role.max_ttl = role.max_ttl.filter(|ttl| !ttl.is_zero());
    Ok(Some(role))
}

impl Ssh {
    pub(crate) async fn read_role(
        self: Arc<Self>,
        _: Call,
        request: ByName,
    ) -> Result<Reply<Role>, BackendError> {
        let role = load(&*self.host.store, &request.name).await?;
        Reply::data(&role.ok_or(BackendError::NotFound)?)
    }

    /// `POST roles/{name}`: every field that is not given gets its default.
    pub(crate) async fn write_role(
        self: Arc<Self>,
        _: Call,
        request: Role,
    ) -> Result<Reply<NoFields>, BackendError> {
        let key = record(&request.name)?;
        let batch = Batch::new().put_json(key, &request.validated()?)?;
        self.host.store.apply(batch).await?;
        Ok(Reply::nothing())
    }

    pub(crate) async fn delete_role(
        self: Arc<Self>,
        _: Call,
        request: ByName,
    ) -> Result<Reply<NoFields>, BackendError> {
        let batch = Batch::new().delete(record(&request.name)?);
        self.host.store.apply(batch).await?;
        Ok(Reply::nothing())
    }

    pub(crate) async fn list_roles(
        self: Arc<Self>,
        _: Call,
        request: ListRequest,
    ) -> Result<Reply<RolesView>, BackendError> {
        let store = &*self.host.store;
        let limit = request.limit.unwrap_or(MOST).min(MOST);
        let keys = store
            .list("roles/", request.after.as_deref(), limit)
            .await?;
        if keys.is_empty() {
            return Err(BackendError::NotFound);
        }
        let mut key_info = BTreeMap::new();
        for name in &keys {
            // One that was deleted meanwhile is only named.
            if let Some(role) = load(store, name).await? {
                let info = RoleInfo {
                    key_type: role.key_type,
                    issuer_ref: role.issuer_ref,
                };
                key_info.insert(name.clone(), info);
            }
        }
        let cut_off = keys.len() >= MOST;
        let reply = Reply::data(&RolesView { keys, key_info })?;
        Ok(if cut_off {
            reply.warn("there may be more: ask again with \"after\" set to the last name")
        } else {
            reply
        })
    }
}
