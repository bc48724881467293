//! Roles: the operator's templates of what may be issued, with the fields and defaults of the Vault API, and
//! ours for SPIFFE.
//!
//! **Invariant:** a role that is stored has been validated: what it says is honoured, and what cannot be
//! honoured was refused when it was written.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use daypass_certs::{ExtKeyUsage, KeyAlgorithm, KeyUsage, Oid, PathPattern, TrustDomain};
use daypass_contract::{
    BackendError, Batch, Call, Keys, ListRequest, NoFields, Reply, Store, duration,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::Pki;
use crate::error::in_field;
use crate::list;
use crate::merge::merged;

/// What may be issued, and how.
#[expect(clippy::struct_excessive_bools, reason = "the fields of the Vault API")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Role {
    /// The role's name, from the path.
    #[serde(skip_serializing)]
    pub(crate) name: String,
    /// An issuer's id or name, or `default`.
    pub(crate) issuer_ref: String,
    /// How long a certificate lasts where the request does not say; 0: the mount's default.
    #[serde(with = "duration::option")]
    #[schemars(with = "Option<u64>")]
    pub(crate) ttl: Option<Duration>,
    /// How long a certificate lasts at most; 0: the mount's maximum.
    #[serde(with = "duration::option")]
    #[schemars(with = "Option<u64>")]
    pub(crate) max_ttl: Option<Duration>,
    /// A fixed end for every certificate (RFC 3339), instead of a `ttl`.
    pub(crate) not_after: String,
    /// How far certificates are dated back.
    #[serde(with = "duration")]
    #[schemars(with = "u64")]
    pub(crate) not_before_duration: Duration,

    /// Whether `localhost` and `localdomain` are allowed.
    pub(crate) allow_localhost: bool,
    /// The domains that the flags below speak of.
    pub(crate) allowed_domains: Vec<String>,
    /// Whether the domains themselves are allowed.
    pub(crate) allow_bare_domains: bool,
    /// Whether names below the domains are allowed.
    pub(crate) allow_subdomains: bool,
    /// Whether a `*` in a domain stands for anything.
    pub(crate) allow_glob_domains: bool,
    /// Whether names with a wildcard label are allowed.
    pub(crate) allow_wildcard_certificates: bool,
    /// Whether every name is allowed.
    pub(crate) allow_any_name: bool,
    /// Whether names must be host names.
    pub(crate) enforce_hostnames: bool,
    /// Whether IP addresses are allowed.
    pub(crate) allow_ip_sans: bool,
    /// Which ones (CIDR); empty: all.
    pub(crate) allowed_ip_sans_cidr: Vec<String>,
    /// Patterns of allowed URIs.
    pub(crate) allowed_uri_sans: Vec<String>,
    /// Patterns of allowed serial numbers in the subject.
    pub(crate) allowed_serial_numbers: Vec<String>,
    /// Whether a request must give a common name.
    pub(crate) require_cn: bool,
    /// What a common name may be: `email`, `hostname`, or only `disabled`, which allows anything.
    pub(crate) cn_validations: Vec<String>,
    /// Whether `sign` takes the common name from the CSR.
    pub(crate) use_csr_common_name: bool,
    /// Whether `sign` takes the alternative names from the CSR.
    pub(crate) use_csr_sans: bool,

    /// Issue only X.509-SVIDs of this trust domain.
    pub(crate) trust_domain: String,
    /// Patterns of the paths of allowed SPIFFE IDs: `*` within a segment, `**` for all the rest.
    pub(crate) allowed_spiffe_paths: Vec<String>,

    /// Whether certificates are for TLS servers.
    pub(crate) server_flag: bool,
    /// Whether certificates are for TLS clients.
    pub(crate) client_flag: bool,
    /// Whether certificates are for signing code.
    pub(crate) code_signing_flag: bool,
    /// Whether certificates are for mail.
    pub(crate) email_protection_flag: bool,
    /// `rsa`, `ec`, `ed25519`; for signing CSRs also `any`.
    pub(crate) key_type: String,
    /// 0: the key type's default.
    pub(crate) key_bits: u32,
    /// Key usages by their names in Go's `crypto/x509`.
    pub(crate) key_usage: Vec<String>,
    /// Extended key usages by their names in Go's `crypto/x509`.
    pub(crate) ext_key_usage: Vec<String>,
    /// Further extended key usages.
    pub(crate) ext_key_usage_oids: Vec<String>,
    /// Whether leaves say that they are not CAs.
    pub(crate) basic_constraints_valid_for_non_ca: bool,
    /// OIDs of certificate policies.
    pub(crate) policy_identifiers: Vec<String>,

    /// OU of the subject.
    pub(crate) ou: Vec<String>,
    /// O of the subject.
    pub(crate) organization: Vec<String>,
    /// C of the subject.
    pub(crate) country: Vec<String>,
    /// L of the subject.
    pub(crate) locality: Vec<String>,
    /// ST of the subject.
    pub(crate) province: Vec<String>,
    /// Street of the subject.
    pub(crate) street_address: Vec<String>,
    /// Postal code of the subject.
    pub(crate) postal_code: Vec<String>,

    /// Whether each certificate gets a lease, whose end revokes it.
    pub(crate) generate_lease: bool,
    /// Whether certificates are not stored; they can then be revoked only by presenting them.
    pub(crate) no_store: bool,

    /// Not supported: must be false.
    pub(crate) allowed_domains_template: bool,
    /// Not supported: must be false.
    pub(crate) allowed_uri_sans_template: bool,
    /// Not supported: must be false.
    pub(crate) allow_token_displayname: bool,
    /// Not supported: must be false.
    pub(crate) allow_globs_in_identity_templates: bool,
    /// Not supported: must be empty.
    pub(crate) allowed_other_sans: Vec<String>,
    /// Not supported: must be empty.
    pub(crate) allowed_user_ids: Vec<String>,
    /// Not supported: must be false.
    pub(crate) use_pss: bool,
    /// The issuer's key decides: must be 0 or 256.
    pub(crate) signature_bits: u32,
    /// Not supported: must be empty.
    pub(crate) not_before: String,
    /// Not supported: must be `permit`.
    pub(crate) not_before_bound: String,
    /// Not supported: must be `permit`.
    pub(crate) not_after_bound: String,
    /// Not supported: must be false.
    pub(crate) no_store_metadata: bool,
    /// Where the subject's serial number comes from: must be `json-csr` or empty.
    pub(crate) serial_number_source: String,
}

impl Default for Role {
    fn default() -> Self {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Self {
            name: String::new(),
            issuer_ref: "default".into(),
            ttl: None,
            max_ttl: None,
            not_after: String::new(),
            not_before_duration: daypass_certs::BACKDATE,
            allow_localhost: true,
            allowed_domains: Vec::new(),
            allow_bare_domains: false,
            allow_subdomains: false,
            allow_glob_domains: false,
            allow_wildcard_certificates: true,
            allow_any_name: false,
            enforce_hostnames: true,
            allow_ip_sans: true,
            allowed_ip_sans_cidr: Vec::new(),
            allowed_uri_sans: Vec::new(),
            allowed_serial_numbers: Vec::new(),
            require_cn: true,
            cn_validations: texts(&["email", "hostname"]),
            use_csr_common_name: true,
            use_csr_sans: true,
            trust_domain: String::new(),
            allowed_spiffe_paths: Vec::new(),
            server_flag: true,
            client_flag: true,
            code_signing_flag: false,
            email_protection_flag: false,
            key_type: "rsa".into(),
            key_bits: 0,
            key_usage: texts(&["DigitalSignature", "KeyAgreement", "KeyEncipherment"]),
            ext_key_usage: Vec::new(),
            ext_key_usage_oids: Vec::new(),
            basic_constraints_valid_for_non_ca: false,
            policy_identifiers: Vec::new(),
            ou: Vec::new(),
            organization: Vec::new(),
            country: Vec::new(),
            locality: Vec::new(),
            province: Vec::new(),
            street_address: Vec::new(),
            postal_code: Vec::new(),
            generate_lease: false,
            no_store: false,
            allowed_domains_template: false,
            allowed_uri_sans_template: false,
            allow_token_displayname: false,
            allow_globs_in_identity_templates: false,
            allowed_other_sans: Vec::new(),
            allowed_user_ids: Vec::new(),
            use_pss: false,
            signature_bits: 0,
            not_before: String::new(),
            not_before_bound: "permit".into(),
            not_after_bound: "permit".into(),
            no_store_metadata: false,
            serial_number_source: String::new(),
        }
    }
}

/// The SPIFFE rules of a role.
pub(crate) struct SpiffeRule {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) paths: Vec<PathPattern>,
}

impl Role {
    /// What keys it generates.
    ///
    /// # Errors
    /// Where it is for signing CSRs only (`key_type` is `any`).
    pub(crate) fn algorithm(&self) -> Result<KeyAlgorithm, BackendError> {
        if self.key_type == "any" {
            return Err(BackendError::InvalidRole(
                "the role has key_type \"any\", which is for signing CSRs: use the sign endpoint"
                    .into(),
            ));
        }
        KeyAlgorithm::from_type_and_bits(&self.key_type, self.key_bits)
            .map_err(in_field("key_type"))
    }

    /// Its SPIFFE rules, where it issues X.509-SVIDs.
    pub(crate) fn spiffe(&self) -> Result<Option<SpiffeRule>, BackendError> {
        if self.trust_domain.is_empty() {
            return Ok(None);
        }
        let trust_domain = TrustDomain::new(&self.trust_domain)
            .map_err(|error| BackendError::field("trust_domain", error.to_string()))?;
        let paths = self.allowed_spiffe_paths.iter().map(|path| path.parse());
        let paths = paths
            .collect::<Result<_, daypass_certs::spiffe::SpiffeError>>()
            .map_err(|error| BackendError::field("allowed_spiffe_paths", error.to_string()))?;
        Ok(Some(SpiffeRule {
            trust_domain,
            paths,
        }))
    }

    /// The key usage of its certificates.
    pub(crate) fn key_usages(&self) -> Result<KeyUsage, BackendError> {
        key_usages(&self.key_usage)
    }

    /// The extended key usages of its certificates, each once.
    pub(crate) fn ext_key_usages(&self) -> Result<Vec<ExtKeyUsage>, BackendError> {
        let flags = [
            (self.server_flag, ExtKeyUsage::server_auth()),
            (self.client_flag, ExtKeyUsage::client_auth()),
            (self.code_signing_flag, ExtKeyUsage::code_signing()),
            (self.email_protection_flag, ExtKeyUsage::email_protection()),
        ];
        let mut usages: Vec<ExtKeyUsage> = flags
            .into_iter()
            .filter(|(is_set, _)| *is_set)
            .map(|(_, usage)| usage)
            .collect();
        for usage in ext_key_usages(&self.ext_key_usage, &self.ext_key_usage_oids)? {
            if !usages.contains(&usage) {
                usages.push(usage);
            }
        }
        Ok(usages)
    }

    /// Its certificate policies.
    pub(crate) fn policies(&self) -> Result<Vec<Oid>, BackendError> {
        oids("policy_identifiers", &self.policy_identifiers)
    }

    /// The networks that addresses must lie in; none: any.
    pub(crate) fn networks(&self) -> Result<Vec<Network>, BackendError> {
        let networks = self
            .allowed_ip_sans_cidr
            .iter()
            .map(|text| Network::parse(text));
        networks.collect::<Option<_>>().ok_or_else(|| {
            BackendError::field(
                "allowed_ip_sans_cidr",
                "expected networks such as 10.0.0.0/8",
            )
        })
    }

    /// Zero is how the Vault API writes a duration that is not set.
    fn settled(mut self) -> Self {
        self.ttl = self.ttl.filter(|ttl| !ttl.is_zero());
        self.max_ttl = self.max_ttl.filter(|ttl| !ttl.is_zero());
        self
    }

    /// Refuses what cannot be honoured; settles what follows from other fields.
    fn validated(mut self) -> Result<(Self, Vec<String>), BackendError> {
        let mut warnings = Vec::new();
        self.refuse_unsupported()?;
        self = self.settled();
        if let (Some(ttl), Some(max_ttl)) = (self.ttl, self.max_ttl)
            && ttl > max_ttl
        {
            return Err(BackendError::field("ttl", "must not be more than max_ttl"));
        }
        if self.not_before_duration > Duration::from_secs(7 * 86_400) {
            return Err(BackendError::field(
                "not_before_duration",
                "must be at most 7 days",
            ));
        }
        if !self.not_after.is_empty() {
            crate::validity::parse_instant("not_after", &self.not_after)?;
            if self.ttl.is_some() {
                let problem = "cannot be set together with ttl";
                return Err(BackendError::field("not_after", problem));
            }
        }
        if self.key_type == "any" {
            self.key_bits = 0;
        } else {
            let algorithm = self.algorithm()?;
            self.key_bits = match (algorithm.key_type(), self.key_bits) {
                ("rsa", 0) => 2048,
                ("ec", 0) => 256,
                ("ed25519", _) => 0,
                (_, bits) => bits,
            };
        }
        self.key_usages()?;
        self.ext_key_usages()?;
        self.policies()?;
        self.networks()?;
        self.check_cn_validations()?;
        self.check_spiffe()?;
        crate::subject::of_role(&self)
            .to_name()
            .map_err(crate::error::in_request)?;
        if self.no_store && self.generate_lease {
            self.generate_lease = false;
            warnings.push(
                "no_store and generate_lease exclude each other: generate_lease was set to false"
                    .into(),
            );
        }
        if self.generate_lease {
            warnings.push(
                "every certificate of this role gets a lease, and an entry in the CRL where the lease is revoked \
                 before its end; with a short ttl neither is needed"
                    .into(),
            );
        }
        Ok((self, warnings))
    }

    fn check_cn_validations(&self) -> Result<(), BackendError> {
        let known = |text: &String| matches!(text.as_str(), "email" | "hostname");
        let disabled = matches!(self.cn_validations.as_slice(), [only] if only == "disabled");
        if disabled || self.cn_validations.iter().all(known) {
            return Ok(());
        }
        let problem = "expected \"email\" and \"hostname\", or only \"disabled\"";
        Err(BackendError::field("cn_validations", problem))
    }

    fn check_spiffe(&self) -> Result<(), BackendError> {
        let Some(_) = self.spiffe()? else {
            if self.allowed_spiffe_paths.is_empty() {
                return Ok(());
            }
            let problem = "needs trust_domain to be set";
            return Err(BackendError::field("allowed_spiffe_paths", problem));
        };
        if self.allowed_spiffe_paths.is_empty() {
            let problem = "a role with a trust_domain needs at least one, such as \"/ci/**\"";
            return Err(BackendError::field("allowed_spiffe_paths", problem));
        }
        let problem = if !self.server_flag || !self.client_flag {
            "an X.509-SVID is for both sides of TLS: server_flag and client_flag must be true"
        } else if !self.key_usages()?.contains(KeyUsage::DIGITAL_SIGNATURE) {
            "an X.509-SVID needs DigitalSignature in key_usage"
        } else {
            return Ok(());
        };
        Err(BackendError::field("trust_domain", problem))
    }

    fn refuse_unsupported(&self) -> Result<(), BackendError> {
        let permits = |text: &str| matches!(text, "" | "permit");
        let fields = [
            ("allowed_domains_template", !self.allowed_domains_template),
            ("allowed_uri_sans_template", !self.allowed_uri_sans_template),
            ("allow_token_displayname", !self.allow_token_displayname),
            (
                "allow_globs_in_identity_templates",
                !self.allow_globs_in_identity_templates,
            ),
            ("allowed_other_sans", self.allowed_other_sans.is_empty()),
            ("allowed_user_ids", self.allowed_user_ids.is_empty()),
            ("use_pss", !self.use_pss),
            ("signature_bits", matches!(self.signature_bits, 0 | 256)),
            ("not_before", self.not_before.is_empty()),
            ("not_before_bound", permits(&self.not_before_bound)),
            ("not_after_bound", permits(&self.not_after_bound)),
            ("no_store_metadata", !self.no_store_metadata),
            (
                "serial_number_source",
                matches!(self.serial_number_source.as_str(), "" | "json-csr"),
            ),
        ];
        match fields.iter().find(|(_, honoured)| !honoured) {
            Some((field, _)) => {
                let problem = "is not supported with another value than its default: leave it out";
                Err(BackendError::field(field, problem))
            }
            None => Ok(()),
        }
    }
}

/// Key usages by name.
pub(crate) fn key_usages(names: &[String]) -> Result<KeyUsage, BackendError> {
    names.iter().try_fold(KeyUsage::default(), |all, name| {
        KeyUsage::from_name(name)
            .map(|usage| all.and(usage))
            .ok_or_else(|| {
                let known: Vec<&str> = KeyUsage::names().collect();
                BackendError::field("key_usage", format!("known are {}", known.join(", ")))
            })
    })
}

/// Extended key usages by name and by OID.
pub(crate) fn ext_key_usages(
    names: &[String],
    by_oid: &[String],
) -> Result<Vec<ExtKeyUsage>, BackendError> {
    let named = names.iter().map(|name| {
        ExtKeyUsage::from_name(name).ok_or_else(|| {
            let known: Vec<&str> = ExtKeyUsage::names().collect();
            BackendError::field("ext_key_usage", format!("known are {}", known.join(", ")))
        })
    });
    let mut usages = named.collect::<Result<Vec<_>, _>>()?;
    usages.extend(
        oids("ext_key_usage_oids", by_oid)?
            .into_iter()
            .map(ExtKeyUsage),
    );
    Ok(usages)
}

fn oids(field: &'static str, texts: &[String]) -> Result<Vec<Oid>, BackendError> {
    let oids = texts
        .iter()
        .map(|text| text.parse().map_err(in_field(field)));
    oids.collect()
}

/// An IP network.
pub(crate) struct Network {
    bits: u128,
    mask: u128,
    is_v4: bool,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let (address, length): (IpAddr, u32) = (address.parse().ok()?, length.parse().ok()?);
        let (bits, width) = number(address);
        let host_bits = width.checked_sub(length)?;
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Self {
            bits: bits & mask,
            mask,
            is_v4: address.is_ipv4(),
        })
    }

    /// Whether the address lies in it.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_v4 && number(address).0 & self.mask == self.bits
    }
}

fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (address.to_bits().into(), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

/// A role by its name.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ByName {
    /// The role's name.
    pub(crate) name: String,
}

/// A merge patch: its other fields are read from the call, because `null` fits no type.
#[derive(Deserialize)]
pub(crate) struct RolePatch {
    name: String,
}

impl JsonSchema for RolePatch {
    fn schema_name() -> Cow<'static, str> {
        "RolePatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Role::json_schema(generator)
    }
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
    match store.get(&record(name)?).await? {
        Some(entry) => Ok(Some(entry.decode::<Role>()?.settled())),
        None => Ok(None),
    }
}

/// `GET roles/{name}`.
pub(crate) async fn read(
    pki: Arc<Pki>,
    _: Call,
    request: ByName,
) -> Result<Reply<Role>, BackendError> {
    let role = load(pki.store(), &request.name).await?;
    Reply::data(&role.ok_or(BackendError::NotFound)?)
}

/// `POST roles/{name}`: every field that is not given gets its default.
pub(crate) async fn write(
    pki: Arc<Pki>,
    _: Call,
    request: Role,
) -> Result<Reply<Role>, BackendError> {
    store(&pki, request, |batch, _| batch).await
}

/// `PATCH roles/{name}` (RFC 7396): fields that are not given stay; `null` restores a default.
pub(crate) async fn patch(
    pki: Arc<Pki>,
    call: Call,
    request: RolePatch,
) -> Result<Reply<Role>, BackendError> {
    let key = record(&request.name)?;
    let entry = pki.store().get(&key).await?.ok_or(BackendError::NotFound)?;
    let revision = entry.revision;
    let stored: Role = entry.decode()?;
    let role = merged(&stored, &call.body)?;
    store(&pki, role, |batch, key| batch.expect(key, Some(revision))).await
}

async fn store(
    pki: &Pki,
    role: Role,
    condition: impl FnOnce(Batch, String) -> Batch,
) -> Result<Reply<Role>, BackendError> {
    let key = record(&role.name)?;
    let (role, warnings) = role.validated()?;
    let batch = condition(Batch::new(), key.clone()).put_json(key, &role)?;
    pki.store().apply(batch).await?;
    Ok(warnings.into_iter().fold(Reply::data(&role)?, Reply::warn))
}

/// `DELETE roles/{name}`.
pub(crate) async fn delete(
    pki: Arc<Pki>,
    _: Call,
    request: ByName,
) -> Result<Reply<NoFields>, BackendError> {
    let key = record(&request.name)?;
    pki.store().apply(Batch::new().delete(key)).await?;
    Ok(Reply::nothing())
}

/// `LIST roles`.
pub(crate) async fn list_names(
    pki: Arc<Pki>,
    _: Call,
    request: ListRequest,
) -> Result<Reply<Keys>, BackendError> {
    let (after, limit) = (request.after.as_deref(), request.limit);
    let names = pki
        .store()
        .list("roles/", after, limit.unwrap_or(list::MOST))
        .await?;
    list::reply(names, limit)
}
