//! `sign` and `issue`: a request and a role make a certificate, by the rules of [`crate::rules`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_contract::{BackendError, Call, Reply, Secret, duration, reveal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssh_key::PublicKey;
use ssh_key::certificate::CertType;
use ssh_key::public::KeyData;

use crate::Ssh;
use crate::certificate::Certificate;
use crate::key::{Kind, RsaHash};
use crate::names::Names;
use crate::role::{self, Role};
use crate::rules::{self, Options};

/// What `sign` is asked.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct SignRequest {
    role: String,
    /// One line in the form of `authorized_keys`.
    #[serde(default)]
    public_key: String,
    /// Users or hosts, separated by commas.
    #[serde(default)]
    valid_principals: Names,
    /// `user` or `host`.
    cert_type: Option<String>,
    /// Where the role allows it.
    key_id: Option<String>,
    #[serde(default, with = "duration::option")]
    #[schemars(with = "Option<u64>")]
    ttl: Option<Duration>,
    #[serde(default)]
    critical_options: BTreeMap<String, String>,
    #[serde(default)]
    extensions: BTreeMap<String, String>,
}

/// What `issue` is asked.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct IssueRequest {
    role: String,
    /// `rsa` (the default), `ec` or `ed25519`.
    key_type: Option<String>,
    /// 0: 2048 for rsa, 256 for ec.
    #[serde(default)]
    key_bits: u32,
    /// Users or hosts, separated by commas.
    #[serde(default)]
    valid_principals: Names,
    /// `user` or `host`.
    cert_type: Option<String>,
    /// Where the role allows it.
    key_id: Option<String>,
    #[serde(default, with = "duration::option")]
    #[schemars(with = "Option<u64>")]
    ttl: Option<Duration>,
    #[serde(default)]
    critical_options: BTreeMap<String, String>,
    #[serde(default)]
    extensions: BTreeMap<String, String>,
}

/// What both are asked.
struct Wish {
    valid_principals: Names,
    cert_type: Option<String>,
    key_id: Option<String>,
    ttl: Option<Duration>,
    options: Options,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct SignedView {
    issuer_id: String,
    /// In base 16.
    serial_number: String,
    /// One line, as `ssh` reads it from `id_…-cert.pub`.
    signed_key: String,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct IssuedView {
    #[serde(flatten)]
    signed: SignedView,
    #[serde(serialize_with = "reveal")]
    private_key: Secret,
    private_key_type: &'static str,
}

impl Ssh {
    /// `POST sign/{role}`.
    pub(crate) async fn sign(
        self: Arc<Self>,
        call: Call,
        request: SignRequest,
    ) -> Result<Reply<SignedView>, BackendError> {
        let role = self.role(&request.role).await?;
        let text = request.public_key.trim();
        if text.is_empty() {
            return Err(BackendError::InvalidRequest("missing public_key".into()));
        }
        let key = PublicKey::from_openssh(text).map_err(|_| {
            BackendError::field("public_key", "must be one line as in authorized_keys")
        })?;
        let wish = Wish {
            valid_principals: request.valid_principals,
            cert_type: request.cert_type,
            key_id: request.key_id,
            ttl: request.ttl,
            options: Options {
                critical: request.critical_options,
                extensions: request.extensions,
            },
        };
        let key = key.key_data().clone();
        Reply::data(&self.certify(&call, &request.role, &role, key, wish).await?)
    }

    /// `POST issue/{role}`: the private key is in this answer and nowhere else.
    pub(crate) async fn issue(
        self: Arc<Self>,
        call: Call,
        request: IssueRequest,
    ) -> Result<Reply<IssuedView>, BackendError> {
        let role = self.role(&request.role).await?;
        let key_type = request.key_type.as_deref().filter(|kind| !kind.is_empty());
        let kind = Kind::named(key_type.unwrap_or("rsa"), request.key_bits, 2048)?;
        let pair = self.keygen.generate(kind).await?;
        let wish = Wish {
            valid_principals: request.valid_principals,
            cert_type: request.cert_type,
            key_id: request.key_id,
            ttl: request.ttl,
            options: Options {
                critical: request.critical_options,
                extensions: request.extensions,
            },
        };
        let key = pair.public().clone();
        Reply::data(&IssuedView {
            signed: self.certify(&call, &request.role, &role, key, wish).await?,
            private_key: pair.to_owner()?,
            private_key_type: pair.key_type(),
        })
    }

    async fn role(&self, name: &str) -> Result<Role, BackendError> {
        role::load(&*self.host.store, name)
            .await?
            .ok_or_else(|| BackendError::InvalidRequest("unknown role".into()))
    }

    async fn certify(
        &self,
        call: &Call,
        role_name: &str,
        role: &Role,
        key: KeyData,
        wish: Wish,
    ) -> Result<SignedView, BackendError> {
        rules::check_key(role, &key)?;
        let kind = rules::cert_type(role, wish.cert_type.as_deref().unwrap_or_default())?;
        let principals = match kind {
            CertType::User => rules::users(role, wish.valid_principals)?,
            CertType::Host => rules::hosts(role, wish.valid_principals)?,
        };
        let options = rules::options(role, kind, wish.options)?;
        let key_id = rules::key_id(
            role,
            role_name,
            &call.caller.display_name,
            &key,
            wish.key_id,
        )?;
        let system = &self.host.system;
        let ttl = rules::lifetime(role, wish.ttl, system.default_ttl(), system.max_ttl())?;

        let (issuer_id, ca) = self.signer(&role.issuer_ref).await?;
        let hash = match role.rsa_hash() {
            Some(_) if !ca.is_rsa() => {
                return Err(BackendError::InvalidRole(
                    "the role's algorithm_signer is for RSA and its CA has another key: set it to default"
                        .into(),
                ));
            }
            hash => hash.unwrap_or(RsaHash::Sha256),
        };
        let now = call.now;
        let after = now.checked_sub(role.not_before_duration);
        let entropy = &*self.host.entropy;
        let certificate = Certificate {
            nonce: entropy.bytes(),
            key,
            serial: u64::from_be_bytes(entropy.bytes()),
            kind,
            key_id,
            principals,
            valid_after: seconds(after.unwrap_or(SystemTime::UNIX_EPOCH)),
            valid_before: seconds(now).saturating_add(ttl.as_secs()),
            critical_options: options.critical,
            extensions: options.extensions,
        };
        Ok(SignedView {
            issuer_id,
            serial_number: format!("{:x}", certificate.serial),
            signed_key: certificate.sign(&ca, hash)?,
        })
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
