//! Issuing to others: `issue/{role}`, `sign/{role}` and `sign-verbatim`.
//!
//! # Invariants
//!
//! * A certificate is answered only after its record is durable (unless the role says `no_store`), so that
//!   whatever a caller holds can be revoked.
//! * The private key of a caller is in the answer and nowhere else.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_certs::{
    BasicConstraints, Certificate, Csr, KeyPair, KeyUsage, Name, Profile, PublicKey, San, Serial,
    Validity,
};
use daypass_contract::{
    BackendError, Batch, Call, Credential, Handle, Json, Plan, Planned, Reply, duration,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Pki;
use crate::answer::{Form, Format, Issued, KeyFormat};
use crate::error::{in_field, in_request};
use crate::records::{StoredCertificate, record_key};
use crate::role::{self, Role};
use crate::state::LoadedIssuer;
use crate::subject::{self, Asked};
use crate::validity;

/// What a caller asks of a role.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct LeafRequest {
    /// The role's name, from the path.
    pub(crate) role: String,
    /// The CSR in PEM, for the sign endpoints.
    pub(crate) csr: String,
    /// The common name.
    pub(crate) common_name: String,
    /// Further DNS names and mail addresses.
    pub(crate) alt_names: Vec<String>,
    /// IP addresses.
    pub(crate) ip_sans: Vec<String>,
    /// URIs.
    pub(crate) uri_sans: Vec<String>,
    /// Not supported: must be empty.
    pub(crate) other_sans: Vec<String>,
    /// Not supported: must be empty.
    pub(crate) user_ids: Vec<String>,
    /// The subject's own serial number, where the role allows one.
    pub(crate) serial_number: String,
    /// How long the certificate is to last.
    #[serde(with = "duration::option")]
    #[schemars(with = "Option<u64>")]
    pub(crate) ttl: Option<Duration>,
    /// When it is to end (RFC 3339), instead of a `ttl`.
    pub(crate) not_after: String,
    /// The form of the answer.
    pub(crate) format: Format,
    /// The form of the private key.
    pub(crate) private_key_format: KeyFormat,
    /// Whether the common name is left out of the alternative names.
    pub(crate) exclude_cn_from_sans: bool,
    /// Whether roots are left out of `ca_chain`.
    pub(crate) remove_roots_from_chain: bool,
    /// For `sign-verbatim` without a role: the issuer.
    pub(crate) issuer_ref: String,
    /// For `sign-verbatim`: the key usage, where the CSR does not say.
    pub(crate) key_usage: Option<Vec<String>>,
    /// For `sign-verbatim`: extended key usages besides those of the CSR.
    pub(crate) ext_key_usage: Vec<String>,
    /// For `sign-verbatim`: further extended key usages.
    pub(crate) ext_key_usage_oids: Vec<String>,
}

/// Enough to revoke a certificate: whose it is and which.
#[derive(Serialize, Deserialize)]
pub(crate) struct LeasedCertificate {
    /// See [`crate::state::ca_of`].
    pub(crate) ca: String,
    /// Hexadecimal octets with colons.
    pub(crate) serial: String,
}

/// What is left to do once it is certain that a certificate may be issued.
struct Order {
    issuer: Arc<LoadedIssuer>,
    /// Everything but the validity, which the lease may shorten.
    profile: Profile,
    public_key: PublicKey,
    key: Option<KeyPair>,
    serial: Serial,
    not_before: SystemTime,
    form: Form,
    store: bool,
}

/// `issue/{role}`: a new key and its certificate.
pub(crate) async fn issue(
    pki: Arc<Pki>,
    call: Call,
    request: LeafRequest,
) -> Result<Planned<Issued>, BackendError> {
    let role = required_role(&pki, &request).await?;
    request.refuse_unsupported()?;
    request.refuse_issuer()?;
    let algorithm = role.algorithm()?;
    let profile = profile(&role, &request, None)?;
    if algorithm.is_slow_to_generate() {
        // Before a core works for a second in vain; `plan` looks again at what has changed since.
        let snapshot = pki.mount.snapshot().await?;
        snapshot.issuer(&role.issuer_ref)?.signer()?;
    }
    let key = pki.keygen.generate(algorithm).await?;
    let public_key = key.public().clone();
    plan(pki, call, request, &role, (profile, public_key, Some(key))).await
}

/// `sign/{role}`: a certificate for the key of a CSR, with the names that the role allows.
pub(crate) async fn sign(
    pki: Arc<Pki>,
    call: Call,
    request: LeafRequest,
) -> Result<Planned<Issued>, BackendError> {
    let role = required_role(&pki, &request).await?;
    request.refuse_unsupported()?;
    request.refuse_issuer()?;
    let csr = request.csr()?;
    check_key(&role, &csr.public_key)?;
    let profile = profile(&role, &request, Some(&csr))?;
    let public_key = csr.public_key;
    plan(pki, call, request, &role, (profile, public_key, None)).await
}

/// `sign-verbatim` and `sign-verbatim/{role}`: a certificate for a CSR as it stands, as a leaf. A role
/// contributes issuer, lifetime, lease and storage.
pub(crate) async fn sign_verbatim(
    pki: Arc<Pki>,
    call: Call,
    request: LeafRequest,
) -> Result<Planned<Issued>, BackendError> {
    let mut role = if request.role.is_empty() {
        Role::default()
    } else {
        required_role(&pki, &request).await?
    };
    if role.spiffe()?.is_some() {
        return Err(BackendError::InvalidRole(
            "the role issues X.509-SVIDs only, which are not signed verbatim: use the sign endpoint".into(),
        ));
    }
    request.refuse_unsupported()?;
    if !request.role.is_empty() {
        request.refuse_issuer()?;
    } else if !request.issuer_ref.is_empty() {
        role.issuer_ref.clone_from(&request.issuer_ref);
    }
    let csr = request.csr()?;
    if csr.has_other_sans {
        let problem = "asks for names other than DNS, mail, address and URI, which are not issued";
        return Err(BackendError::field("csr", problem));
    }
    let asked_usage = match &request.key_usage {
        Some(names) => role::key_usages(names)?,
        None => role.key_usages()?,
    };
    let key_usage = if csr.key_usage.is_empty() {
        asked_usage
    } else {
        csr.key_usage
    };
    let mut ext_key_usages = csr.ext_key_usages;
    let asked = role::ext_key_usages(&request.ext_key_usage, &request.ext_key_usage_oids)?;
    for usage in asked {
        if !ext_key_usages.contains(&usage) {
            ext_key_usages.push(usage);
        }
    }
    let profile = Profile {
        ext_key_usages,
        policies: role.policies()?,
        ..leaf(&role, csr.subject, csr.sans, key_usage)
    };
    plan(pki, call, request, &role, (profile, csr.public_key, None)).await
}

impl LeafRequest {
    fn csr(&self) -> Result<Csr, BackendError> {
        if self.csr.is_empty() {
            return Err(BackendError::field("csr", "is required"));
        }
        Csr::from_pem_or_der(self.csr.as_bytes()).map_err(in_field("csr"))
    }

    fn refuse_issuer(&self) -> Result<(), BackendError> {
        if self.issuer_ref.is_empty() {
            return Ok(());
        }
        Err(BackendError::field("issuer_ref", "is decided by the role"))
    }

    fn refuse_unsupported(&self) -> Result<(), BackendError> {
        for (field, values) in [
            ("other_sans", &self.other_sans),
            ("user_ids", &self.user_ids),
        ] {
            if !values.is_empty() {
                return Err(BackendError::field(field, "is not supported: leave it out"));
            }
        }
        Ok(())
    }
}

async fn required_role(pki: &Pki, request: &LeafRequest) -> Result<Role, BackendError> {
    role::load(pki.store(), &request.role)
        .await?
        .ok_or_else(|| {
            BackendError::InvalidRole(
                "there is no role of this name: write it to roles/ first".into(),
            )
        })
}

fn check_key(role: &Role, key: &PublicKey) -> Result<(), BackendError> {
    let kind = key.kind();
    let fits = kind.key_type() == role.key_type && kind.bits() >= role.key_bits;
    if role.key_type == "any" || fits {
        return Ok(());
    }
    let problem = format!(
        "the role wants a key of type {} with at least {} bits",
        role.key_type, role.key_bits
    );
    Err(BackendError::field("csr", problem))
}

/// What the role makes of the names, without the validity and the URLs.
fn profile(role: &Role, request: &LeafRequest, csr: Option<&Csr>) -> Result<Profile, BackendError> {
    let asked = Asked {
        common_name: &request.common_name,
        alt_names: &request.alt_names,
        ip_sans: &request.ip_sans,
        uri_sans: &request.uri_sans,
        serial_number: &request.serial_number,
        exclude_cn_from_sans: request.exclude_cn_from_sans,
    };
    let names = subject::names(role, &asked, csr)?;
    let subject = names.subject.to_name().map_err(in_request)?;
    Ok(Profile {
        ext_key_usages: role.ext_key_usages()?,
        policies: role.policies()?,
        ..leaf(role, subject, names.sans, role.key_usages()?)
    })
}

fn leaf(role: &Role, subject: Name, sans: Vec<San>, key_usage: KeyUsage) -> Profile {
    let unset = Validity::between(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
    Profile {
        subject,
        sans,
        key_usage,
        basic_constraints: if role.basic_constraints_valid_for_non_ca {
            BasicConstraints::EndEntity
        } else {
            BasicConstraints::Absent
        },
        ..Profile::leaf(unset)
    }
}

/// Issues at once, or plans to where the role wants a lease.
async fn plan(
    pki: Arc<Pki>,
    call: Call,
    request: LeafRequest,
    role: &Role,
    (mut profile, public_key, key): (Profile, PublicKey, Option<KeyPair>),
) -> Result<Planned<Issued>, BackendError> {
    let now = call.now;
    let asked = validity::asked(now, request.ttl, &request.not_after)?;
    let wish = validity::wish(now, asked, role)?;
    let snapshot = pki.mount.snapshot().await?;
    let issuer = Arc::clone(snapshot.issuer(&role.issuer_ref)?);
    issuer.signer()?;
    profile.urls = snapshot.urls.clone();
    let system = Arc::clone(&pki.mount.host.system);
    let order = Order {
        profile,
        public_key,
        key,
        serial: Serial::new(now, pki.mount.host.entropy.bytes()),
        not_before: now.checked_sub(role.not_before_duration).unwrap_or(now),
        form: Form {
            format: request.format,
            key_format: request.private_key_format,
            remove_roots_from_chain: request.remove_roots_from_chain,
        },
        store: !role.no_store,
        issuer,
    };
    if role.generate_lease {
        let wish = validity::leased(now, wish, &*system, &order.issuer)?;
        let handle = Handle::encode(&LeasedCertificate {
            ca: order.issuer.ca.clone(),
            serial: order.serial.to_string(),
        })?;
        let issue = move |terms: daypass_contract::Terms| async move {
            // The lease is reckoned from a later moment than the plan was.
            let last = order.issuer.certificate.validity().not_after();
            let issued = order.carry_out(&pki, terms.ends_at.min(last)).await?;
            Ok(Credential {
                data: Json::of(&issued)?,
                warnings: Vec::new(),
            })
        };
        return Ok(Planned::Leased(
            Plan::new(handle, wish, issue).not_renewable(),
        ));
    }
    let (end, advice) = validity::end(now, wish, &*system, Some(&order.issuer))?;
    let issued = order.carry_out(&pki, end).await?;
    let reply = Reply::data(&issued)?;
    Ok(Planned::Unleased(
        advice.into_iter().fold(reply, Reply::warn),
    ))
}

impl Order {
    /// Signs, makes the record durable, and answers.
    async fn carry_out(mut self, pki: &Pki, end: SystemTime) -> Result<Issued, BackendError> {
        self.profile.validity = Validity::between(self.not_before, end);
        let signer = self.issuer.signer()?;
        let certificate: Certificate = signer
            .sign(&self.profile, &self.public_key, &self.serial)
            .map_err(in_request)?;
        if self.store {
            let issuer = &self.issuer;
            let stored = StoredCertificate::of(&certificate, &issuer.id, &issuer.ca);
            let batch = Batch::new().put_json(record_key(&self.serial), &stored)?;
            pki.store().apply(batch).await?;
        }
        self.form
            .issued(&certificate, &self.issuer, self.key.as_ref())
    }
}
