//! The mount's own CAs: generating, signing, importing, reading and deleting issuers and their keys.
//!
//! **Invariant:** an issuer, its key, its record and the settings that name it are written in one batch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_certs::{
    BasicConstraints, Certificate, Csr, KeyAlgorithm, KeyPair, Name, Profile, Serial, Subject,
    Validity, certificates_of, self_signed,
};
use daypass_contract::{
    BackendError, Batch, Call, Content, NoFields, Reply, Secret, TtlWish, duration,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Pki;
use crate::answer::{Form, Format, Issued, KeyFormat, reveal_some};
use crate::error::{in_field, in_request};
use crate::merge::merged;
use crate::records::{CertificateView, StoredCertificate};
use crate::revocation;
use crate::state::{
    LeafNotAfter, LoadedIssuer, State, UrlsConfig, check_name, key_record, stored_key,
};
use crate::subject;
use crate::validity;

/// What a CA is to be: of a root, of a CSR, or of an intermediate to sign.
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct CaRequest {
    /// `internal`, `exported` or `existing`, from the path.
    kind: String,
    /// The CSR in PEM, for `sign-intermediate`.
    csr: String,
    /// For `sign-intermediate`: whether subject and alternative names are those of the CSR.
    use_csr_values: bool,
    /// The issuer that signs, for `sign-intermediate`.
    issuer_ref: String,
    /// A name for the new issuer.
    issuer_name: String,
    /// A name for the new key.
    key_name: String,
    /// The key to use, for `existing`.
    key_ref: String,
    /// The common name.
    common_name: String,
    /// Further DNS names and mail addresses.
    alt_names: Vec<String>,
    /// IP addresses.
    ip_sans: Vec<String>,
    /// URIs, such as the SPIFFE ID of a trust domain.
    uri_sans: Vec<String>,
    /// Not supported: must be empty.
    other_sans: Vec<String>,
    /// The subject's own serial number.
    serial_number: String,
    /// OU of the subject.
    ou: Vec<String>,
    /// O of the subject.
    organization: Vec<String>,
    /// C of the subject.
    country: Vec<String>,
    /// L of the subject.
    locality: Vec<String>,
    /// ST of the subject.
    province: Vec<String>,
    /// Street of the subject.
    street_address: Vec<String>,
    /// Postal code of the subject.
    postal_code: Vec<String>,
    /// How long the certificate is to last.
    #[serde(with = "duration::option")]
    #[schemars(with = "Option<u64>")]
    ttl: Option<Duration>,
    /// When it is to end (RFC 3339), instead of a `ttl`.
    not_after: String,
    /// How far it is dated back.
    #[serde(with = "duration")]
    #[schemars(with = "u64")]
    not_before_duration: Duration,
    /// How many CAs may stand below it; -1: as many as its issuer allows.
    max_path_length: i32,
    /// The only DNS domains that it may certify.
    permitted_dns_domains: Vec<String>,
    /// `rsa`, `ec` or `ed25519`.
    key_type: String,
    /// 0: the key type's default.
    key_bits: u32,
    /// The issuer's key decides: must be 0 or 256.
    signature_bits: u32,
    /// Not supported: must be false.
    use_pss: bool,
    /// Whether a CSR says that it is for a CA.
    add_basic_constraints: bool,
    /// Has no effect: a CA's common name is no alternative name unless it is given as one.
    exclude_cn_from_sans: bool,
    /// The form of the answer.
    format: Format,
    /// The form of the private key.
    private_key_format: KeyFormat,
}

impl Default for CaRequest {
    fn default() -> Self {
        Self {
            kind: String::new(),
            csr: String::new(),
            use_csr_values: false,
            issuer_ref: "default".into(),
            issuer_name: String::new(),
            key_name: String::new(),
            key_ref: "default".into(),
            common_name: String::new(),
            alt_names: Vec::new(),
            ip_sans: Vec::new(),
            uri_sans: Vec::new(),
            other_sans: Vec::new(),
            serial_number: String::new(),
            ou: Vec::new(),
            organization: Vec::new(),
            country: Vec::new(),
            locality: Vec::new(),
            province: Vec::new(),
            street_address: Vec::new(),
            postal_code: Vec::new(),
            ttl: None,
            not_after: String::new(),
            not_before_duration: daypass_certs::BACKDATE,
            max_path_length: -1,
            permitted_dns_domains: Vec::new(),
            key_type: "rsa".into(),
            key_bits: 0,
            signature_bits: 0,
            use_pss: false,
            add_basic_constraints: false,
            exclude_cn_from_sans: false,
            format: Format::default(),
            private_key_format: KeyFormat::default(),
        }
    }
}

/// Where the key of a new CA comes from, and whether its caller gets it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeySource {
    Internal,
    Exported,
    Existing,
}

impl CaRequest {
    fn source(&self) -> Result<KeySource, BackendError> {
        match self.kind.as_str() {
            "internal" => Ok(KeySource::Internal),
            "exported" => Ok(KeySource::Exported),
            "existing" => Ok(KeySource::Existing),
            "kms" => Err(BackendError::Unsupported("keys in an external KMS".into())),
            _ => Err(BackendError::InvalidRequest(
                "the path must end in internal, exported or existing".into(),
            )),
        }
    }

    fn form(&self) -> Form {
        Form {
            format: self.format,
            key_format: self.private_key_format,
            remove_roots_from_chain: false,
        }
    }

    fn refuse_unsupported(&self) -> Result<(), BackendError> {
        let fields = [
            ("other_sans", self.other_sans.is_empty()),
            ("use_pss", !self.use_pss),
            ("signature_bits", matches!(self.signature_bits, 0 | 256)),
        ];
        match fields.iter().find(|(_, honoured)| !honoured) {
            Some((field, _)) => Err(BackendError::field(field, "is not supported: leave it out")),
            None => Ok(()),
        }
    }

    fn subject(&self) -> Result<Name, BackendError> {
        if self.common_name.is_empty() {
            return Err(BackendError::field("common_name", "is required"));
        }
        let subject = Subject {
            countries: self.country.clone(),
            organizations: self.organization.clone(),
            organizational_units: self.ou.clone(),
            localities: self.locality.clone(),
            provinces: self.province.clone(),
            street_addresses: self.street_address.clone(),
            postal_codes: self.postal_code.clone(),
            common_name: Some(self.common_name.clone()),
            serial_number: Some(self.serial_number.clone()).filter(|text| !text.is_empty()),
        };
        subject.to_name().map_err(in_request)
    }

    fn path_len(&self) -> Result<Option<u8>, BackendError> {
        match self.max_path_length {
            -1 => Ok(None),
            given => u8::try_from(given)
                .map(Some)
                .map_err(|_| BackendError::field("max_path_length", "must be between -1 and 255")),
        }
    }

    /// The profile of the CA, from what the request says.
    fn profile(&self, now: SystemTime, end: SystemTime) -> Result<Profile, BackendError> {
        let not_before = now.checked_sub(self.not_before_duration).unwrap_or(now);
        let validity = Validity::between(not_before, end);
        Ok(Profile {
            sans: subject::sans(&self.alt_names, &self.ip_sans, &self.uri_sans)?,
            permitted_dns_domains: self.permitted_dns_domains.clone(),
            ..Profile::ca(self.subject()?, validity, self.path_len()?)
        })
    }

    fn wish(&self, now: SystemTime) -> Result<TtlWish, BackendError> {
        Ok(TtlWish {
            asked: validity::asked(now, self.ttl, &self.not_after)?,
            ..TtlWish::default()
        })
    }

    async fn key(&self, pki: &Pki, source: KeySource) -> Result<KeyPair, BackendError> {
        if source != KeySource::Existing {
            let algorithm = KeyAlgorithm::from_type_and_bits(&self.key_type, self.key_bits);
            return pki
                .keygen
                .generate(algorithm.map_err(in_field("key_type"))?)
                .await;
        }
        let snapshot = pki.mount.snapshot().await?;
        let id = snapshot.state.key_id(&self.key_ref);
        let id = id.ok_or_else(|| {
            BackendError::field("key_ref", "there is no key with this id or name")
        })?;
        pki.mount.key(id).await
    }
}

/// The data of an answer with a new issuer.
#[derive(Serialize, JsonSchema)]
pub(crate) struct NewRoot {
    certificate: String,
    issuing_ca: String,
    serial_number: String,
    /// The certificate's last second, in Unix time.
    expiration: u64,
    issuer_id: String,
    issuer_name: String,
    key_id: String,
    key_name: String,
    #[serde(
        serialize_with = "reveal_some",
        skip_serializing_if = "Option::is_none"
    )]
    private_key: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key_type: Option<&'static str>,
}

/// `POST root/generate/{kind}`: a key and a root for it.
pub(crate) async fn generate_root(
    pki: Arc<Pki>,
    call: Call,
    request: CaRequest,
) -> Result<Reply<NewRoot>, BackendError> {
    request.refuse_unsupported()?;
    let source = request.source()?;
    let (now, host) = (call.now, &pki.mount.host);
    let (end, advice) = validity::end(now, request.wish(now)?, &*host.system, None)?;
    let profile = request.profile(now, end)?;
    let key = request.key(&pki, source).await?;
    let serial = Serial::new(now, host.entropy.bytes());
    let certificate = self_signed(&key, &profile, &serial).map_err(in_request)?;
    let private = stored_key(&key)?;
    let (key_id, issuer_id) = pki
        .mount
        .update(|state, batch| {
            let (key_id, is_new) = state.add_key(&key, &request.key_name, &*host.entropy)?;
            let batch = put_key(batch, &key_id, is_new.then(|| private.duplicate()));
            let (id, _) = state.add_issuer(&certificate, &request.issuer_name, &*host.entropy)?;
            let (record, stored) = StoredCertificate::of(&certificate, &id);
            Ok(((key_id, id), batch.put_json(record, &stored)?))
        })
        .await?;
    revocation::rebuild(&pki, now, |issuer| issuer.id == issuer_id).await?;
    let form = request.form();
    let exported = (source == KeySource::Exported).then_some(&key);
    let reply = Reply::data(&NewRoot {
        certificate: form.certificate(&certificate),
        issuing_ca: form.certificate(&certificate),
        serial_number: serial.to_string(),
        expiration: validity::unix(certificate.validity().not_after()),
        issuer_id,
        issuer_name: request.issuer_name.clone(),
        key_id,
        key_name: request.key_name.clone(),
        private_key: exported.map(|key| form.key(key)).transpose()?,
        private_key_type: exported.map(|key| key.public().kind().key_type()),
    })?;
    Ok(advice.into_iter().fold(reply, Reply::warn))
}

fn put_key(batch: Batch, id: &str, key: Option<Secret>) -> Batch {
    match key {
        Some(key) => batch.put(key_record(id), key),
        None => batch,
    }
}

/// The data of an answer with a CSR.
#[derive(Serialize, JsonSchema)]
pub(crate) struct NewCsr {
    csr: String,
    key_id: String,
    #[serde(
        serialize_with = "reveal_some",
        skip_serializing_if = "Option::is_none"
    )]
    private_key: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key_type: Option<&'static str>,
}

/// `POST intermediate/generate/{kind}`: a key, and a CSR to have it certified elsewhere.
pub(crate) async fn generate_intermediate(
    pki: Arc<Pki>,
    call: Call,
    request: CaRequest,
) -> Result<Reply<NewCsr>, BackendError> {
    request.refuse_unsupported()?;
    let source = request.source()?;
    // The validity is the signer's to choose, and not in a CSR.
    let mut wanted = request.profile(call.now, call.now)?;
    if !request.add_basic_constraints {
        wanted.basic_constraints = BasicConstraints::Absent;
        wanted.key_usage = daypass_certs::KeyUsage::default();
    }
    let key = request.key(&pki, source).await?;
    let csr = Csr::build(&key, &wanted).map_err(in_request)?;
    let private = stored_key(&key)?;
    let entropy = &*pki.mount.host.entropy;
    let key_id = pki
        .mount
        .update(|state, batch| {
            let (id, is_new) = state.add_key(&key, &request.key_name, entropy)?;
            let batch = put_key(batch, &id, is_new.then(|| private.duplicate()));
            Ok((id, batch))
        })
        .await?;
    let form = request.form();
    let exported = (source == KeySource::Exported).then_some(&key);
    Reply::data(&NewCsr {
        csr: match request.format {
            Format::Der => form.base64(csr.der()),
            Format::Pem | Format::PemBundle => csr.pem(),
        },
        key_id,
        private_key: exported.map(|key| form.key(key)).transpose()?,
        private_key_type: exported.map(|key| key.public().kind().key_type()),
    })
}

/// `POST root/sign-intermediate`: a CA certificate for a CSR.
pub(crate) async fn sign_intermediate(
    pki: Arc<Pki>,
    call: Call,
    mut request: CaRequest,
) -> Result<Reply<Issued>, BackendError> {
    request.refuse_unsupported()?;
    if request.csr.is_empty() {
        return Err(BackendError::field("csr", "is required"));
    }
    let csr = Csr::from_pem_or_der(request.csr.as_bytes()).map_err(in_field("csr"))?;
    let from_csr = csr.subject.common_name();
    if request.common_name.is_empty()
        && let Some(name) = from_csr
    {
        request.common_name = name;
    }
    let (now, host) = (call.now, &pki.mount.host);
    let snapshot = pki.mount.snapshot().await?;
    let issuer = snapshot.issuer(&request.issuer_ref)?;
    let wish = request.wish(now)?;
    let (end, advice) = validity::end(now, wish, &*host.system, Some(issuer))?;
    let mut profile = request.profile(now, end)?;
    if request.use_csr_values {
        profile.subject = csr.subject.clone();
        profile.sans.clone_from(&csr.sans);
    }
    profile.urls = snapshot.urls.clone();
    if let (-1, Some(above)) = (request.max_path_length, issuer.certificate.path_len()) {
        let below = above.checked_sub(1).ok_or_else(|| {
            BackendError::InvalidRequest("the issuer's path length allows no CA below it".into())
        })?;
        profile.basic_constraints = BasicConstraints::Ca {
            path_len: Some(u8::try_from(below).unwrap_or(u8::MAX)),
        };
    }
    let serial = Serial::new(now, host.entropy.bytes());
    let certificate = issuer
        .signer()?
        .sign(&profile, &csr.public_key, &serial)
        .map_err(in_request)?;
    let (record, stored) = StoredCertificate::of(&certificate, &issuer.id);
    host.store
        .apply(Batch::new().put_json(record, &stored)?)
        .await?;
    let reply = Reply::data(&request.form().issued(&certificate, issuer, None)?)?;
    Ok(advice.into_iter().fold(reply, Reply::warn))
}

/// What to import.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct ImportRequest {
    /// Certificates and, where they are allowed, private keys in PEM.
    #[schemars(with = "String")]
    pem_bundle: Option<Secret>,
    /// The same, as `intermediate/set-signed` calls it.
    certificate: String,
}

/// What an import found.
#[derive(Default, Serialize, JsonSchema)]
pub(crate) struct Imported {
    imported_issuers: Vec<String>,
    imported_keys: Vec<String>,
    existing_issuers: Vec<String>,
    existing_keys: Vec<String>,
    /// The key of each issuer; empty where it is not here.
    mapping: BTreeMap<String, String>,
}

/// `POST config/ca` and `POST issuers/import/bundle`: certificates and keys.
pub(crate) async fn import_bundle(
    pki: Arc<Pki>,
    call: Call,
    request: ImportRequest,
) -> Result<Reply<Imported>, BackendError> {
    let bundle = request.pem_bundle.unwrap_or_else(|| Secret::new(""));
    let keys = KeyPair::all_from_pem(bundle.expose()).map_err(in_field("pem_bundle"))?;
    let imported = import(&pki, call.now, "pem_bundle", bundle.expose(), keys).await?;
    Reply::data(&imported)
}

/// `POST issuers/import/cert`: certificates only.
pub(crate) async fn import_certificates(
    pki: Arc<Pki>,
    call: Call,
    request: ImportRequest,
) -> Result<Reply<Imported>, BackendError> {
    let bundle = request.pem_bundle.unwrap_or_else(|| Secret::new(""));
    let keys = KeyPair::all_from_pem(bundle.expose()).map_err(in_field("pem_bundle"))?;
    if !keys.is_empty() {
        let problem = "holds a private key: import it by issuers/import/bundle";
        return Err(BackendError::field("pem_bundle", problem));
    }
    Reply::data(&import(&pki, call.now, "pem_bundle", bundle.expose(), keys).await?)
}

/// `POST intermediate/set-signed`: the certificate for a key that was generated here, and its chain.
pub(crate) async fn set_signed(
    pki: Arc<Pki>,
    call: Call,
    request: ImportRequest,
) -> Result<Reply<Imported>, BackendError> {
    let text = request.certificate.as_bytes();
    let snapshot = pki.mount.snapshot().await?;
    let belongs = |certificate: &Certificate| {
        let id = hex::encode(certificate.public_key().key_id());
        snapshot
            .state
            .keys
            .values()
            .any(|key| key.key_identifier == id)
    };
    let certificates = certificates_of(text).map_err(in_field("certificate"))?;
    if !certificates.is_empty() && !certificates.iter().any(belongs) {
        let problem =
            "belongs to no key of this mount: generate the CSR here, or import the key as well";
        return Err(BackendError::field("certificate", problem));
    }
    Reply::data(&import(&pki, call.now, "certificate", text, Vec::new()).await?)
}

async fn import(
    pki: &Pki,
    now: SystemTime,
    field: &'static str,
    text: &[u8],
    keys: Vec<KeyPair>,
) -> Result<Imported, BackendError> {
    let certificates = certificates_of(text).map_err(in_field(field))?;
    if certificates.is_empty() && keys.is_empty() {
        return Err(BackendError::field(field, "holds no certificate in PEM"));
    }
    if certificates.iter().any(|certificate| !certificate.is_ca()) {
        return Err(BackendError::field(
            field,
            "holds a certificate that is not a CA's",
        ));
    }
    for certificate in &certificates {
        certificate
            .public_key()
            .check_strength()
            .map_err(in_field(field))?;
    }
    let entropy = &*pki.mount.host.entropy;
    let keys: Vec<(KeyPair, Secret)> = keys
        .into_iter()
        .map(|key| stored_key(&key).map(|stored| (key, stored)))
        .collect::<Result<_, _>>()?;
    let imported = pki
        .mount
        .update(|state, mut batch| {
            let mut imported = Imported::default();
            for (key, stored) in &keys {
                let (id, is_new) = state.add_key(key, "", entropy)?;
                batch = put_key(batch, &id, is_new.then(|| stored.duplicate()));
                let list = if is_new {
                    &mut imported.imported_keys
                } else {
                    &mut imported.existing_keys
                };
                list.push(id);
            }
            for certificate in &certificates {
                let (id, is_new) = state.add_issuer(certificate, "", entropy)?;
                let list = if is_new {
                    &mut imported.imported_issuers
                } else {
                    &mut imported.existing_issuers
                };
                let key = state
                    .issuers
                    .get(&id)
                    .and_then(|issuer| issuer.key_id.clone());
                imported.mapping.insert(id.clone(), key.unwrap_or_default());
                list.push(id);
            }
            Ok((imported, batch))
        })
        .await?;
    revocation::rebuild(pki, now, |issuer| {
        imported.imported_issuers.contains(&issuer.id)
    })
    .await?;
    Ok(imported)
}

/// `DELETE root`: every issuer and every key.
pub(crate) async fn delete_root(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<NoFields>, BackendError> {
    pki.mount
        .update(|state, mut batch| {
            for id in state.issuers.keys() {
                batch = revocation::forget(batch, id);
            }
            for id in state.keys.keys() {
                batch = batch.delete(key_record(id));
            }
            state.issuers.clear();
            state.keys.clear();
            state.default_issuer = None;
            Ok(((), batch))
        })
        .await?;
    Ok(Reply::nothing().warn("every issuer and every key of this mount was deleted"))
}

/// Names of issuers or keys, and what is known of each.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Listed<T> {
    keys: Vec<String>,
    key_info: BTreeMap<String, T>,
}

impl<T: Serialize> Listed<T> {
    fn reply(key_info: BTreeMap<String, T>) -> Result<Reply<Self>, BackendError> {
        if key_info.is_empty() {
            return Err(BackendError::NotFound);
        }
        Reply::data(&Self {
            keys: key_info.keys().cloned().collect(),
            key_info,
        })
    }
}

/// An issuer in a list.
#[derive(Serialize, JsonSchema)]
pub(crate) struct IssuerInfo {
    is_default: bool,
    issuer_name: String,
    key_id: String,
    serial_number: String,
}

/// `LIST issuers`.
pub(crate) async fn list_issuers(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<Listed<IssuerInfo>>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let default = snapshot.state.default_issuer.as_ref();
    let info = |issuer: &Arc<LoadedIssuer>| IssuerInfo {
        is_default: default == Some(&issuer.id),
        issuer_name: issuer.record.name.clone(),
        key_id: issuer.record.key_id.clone().unwrap_or_default(),
        serial_number: issuer.certificate.serial().to_string(),
    };
    Listed::reply(
        snapshot
            .issuers()
            .map(|issuer| (issuer.id.clone(), info(issuer)))
            .collect(),
    )
}

/// A key in a list.
#[derive(Serialize, JsonSchema)]
pub(crate) struct KeyInfo {
    is_default: bool,
    key_name: String,
    key_type: String,
}

/// `LIST keys`.
pub(crate) async fn list_keys(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<Listed<KeyInfo>>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let default = snapshot.state.key_id("default");
    let keys = snapshot.state.keys.iter();
    let infos = keys.map(|(id, key)| {
        let info = KeyInfo {
            is_default: default == Some(id),
            key_name: key.name.clone(),
            key_type: key.key_type.clone(),
        };
        (id.clone(), info)
    });
    Listed::reply(infos.collect())
}

/// An issuer by its reference.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ByIssuer {
    /// An id, a name or `default`.
    pub(crate) issuer_ref: String,
}

/// An issuer.
#[derive(Serialize, JsonSchema)]
pub(crate) struct IssuerView {
    issuer_id: String,
    issuer_name: String,
    key_id: String,
    certificate: String,
    ca_chain: Vec<String>,
    leaf_not_after_behavior: LeafNotAfter,
    usage: &'static str,
}

/// Public parts of an issuer.
#[derive(Serialize, JsonSchema)]
pub(crate) struct IssuerCertificate {
    issuer_id: String,
    issuer_name: String,
    certificate: String,
    ca_chain: Vec<String>,
}

fn chain(issuer: &LoadedIssuer) -> Vec<String> {
    issuer
        .chain
        .iter()
        .map(|link| format!("{}\n", link.pem()))
        .collect()
}

fn found<'a>(
    snapshot: &'a crate::state::Snapshot,
    reference: &str,
) -> Result<&'a Arc<LoadedIssuer>, BackendError> {
    snapshot.issuer(reference).map_err(|error| match error {
        BackendError::InvalidRequest(_) => BackendError::NotFound,
        other => other,
    })
}

/// `GET issuer/{issuer_ref}`.
pub(crate) async fn read_issuer(
    pki: Arc<Pki>,
    _: Call,
    request: ByIssuer,
) -> Result<Reply<IssuerView>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    view(found(&snapshot, &request.issuer_ref)?)
}

fn view(issuer: &LoadedIssuer) -> Result<Reply<IssuerView>, BackendError> {
    Reply::data(&IssuerView {
        issuer_id: issuer.id.clone(),
        issuer_name: issuer.record.name.clone(),
        key_id: issuer.record.key_id.clone().unwrap_or_default(),
        certificate: format!("{}\n", issuer.certificate.pem()),
        ca_chain: chain(issuer),
        leaf_not_after_behavior: issuer.record.leaf_not_after_behavior,
        usage: if issuer.can_sign() {
            "crl-signing,issuing-certificates,read-only"
        } else {
            "read-only"
        },
    })
}

/// `GET issuer/{issuer_ref}/json`.
pub(crate) async fn read_issuer_json(
    pki: Arc<Pki>,
    _: Call,
    request: ByIssuer,
) -> Result<Reply<IssuerCertificate>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let issuer = found(&snapshot, &request.issuer_ref)?;
    Reply::data(&IssuerCertificate {
        issuer_id: issuer.id.clone(),
        issuer_name: issuer.record.name.clone(),
        certificate: format!("{}\n", issuer.certificate.pem()),
        ca_chain: chain(issuer),
    })
}

/// What may be changed of an issuer.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IssuerUpdate {
    /// An id, a name or `default`, from the path.
    issuer_ref: String,
    /// Its new name.
    #[serde(default)]
    issuer_name: Option<String>,
    /// `err` or `truncate`.
    #[serde(default)]
    leaf_not_after_behavior: Option<LeafNotAfter>,
}

/// `POST issuer/{issuer_ref}` and `PATCH`: fields that are not given stay.
pub(crate) async fn update_issuer(
    pki: Arc<Pki>,
    _: Call,
    request: IssuerUpdate,
) -> Result<Reply<IssuerView>, BackendError> {
    let id = pki
        .mount
        .update(|state, batch| {
            let id = issuer_id(state, &request.issuer_ref)?;
            if let Some(name) = &request.issuer_name {
                let others = state.issuers.iter().filter(|(other, _)| **other != id);
                check_name("issuer_name", name, others.map(|(_, issuer)| &issuer.name))?;
            }
            if let Some(issuer) = state.issuers.get_mut(&id) {
                if let Some(name) = &request.issuer_name {
                    issuer.name.clone_from(name);
                }
                if let Some(behavior) = request.leaf_not_after_behavior {
                    issuer.leaf_not_after_behavior = behavior;
                }
            }
            Ok((id, batch))
        })
        .await?;
    let snapshot = pki.mount.snapshot().await?;
    view(found(&snapshot, &id)?)
}

fn issuer_id(state: &State, reference: &str) -> Result<String, BackendError> {
    state
        .issuer_id(reference)
        .map(str::to_owned)
        .ok_or(BackendError::NotFound)
}

/// `DELETE issuer/{issuer_ref}`: its key stays.
pub(crate) async fn delete_issuer(
    pki: Arc<Pki>,
    _: Call,
    request: ByIssuer,
) -> Result<Reply<NoFields>, BackendError> {
    let was_default = pki
        .mount
        .update(|state, batch| {
            let Some(id) = state.issuer_id(&request.issuer_ref).map(str::to_owned) else {
                return Ok((false, batch));
            };
            state.issuers.remove(&id);
            let was_default = state.default_issuer.as_ref() == Some(&id);
            if was_default {
                state.default_issuer = None;
            }
            Ok((was_default, revocation::forget(batch, &id)))
        })
        .await?;
    let reply = Reply::nothing();
    Ok(if was_default {
        reply.warn("this was the default issuer: set another by config/issuers")
    } else {
        reply
    })
}

/// A key by its reference.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ByKey {
    /// An id or a name.
    key_ref: String,
}

/// `DELETE key/{key_ref}`.
pub(crate) async fn delete_key(
    pki: Arc<Pki>,
    _: Call,
    request: ByKey,
) -> Result<Reply<NoFields>, BackendError> {
    pki.mount
        .update(|state, batch| {
            let Some(id) = state.key_id(&request.key_ref).map(str::to_owned) else {
                return Ok(((), batch));
            };
            if state
                .issuers
                .values()
                .any(|issuer| issuer.key_id.as_ref() == Some(&id))
            {
                return Err(BackendError::InvalidRequest(
                    "an issuer of this mount uses the key: delete the issuer first".into(),
                ));
            }
            state.keys.remove(&id);
            Ok(((), batch.delete(key_record(&id))))
        })
        .await?;
    Ok(Reply::nothing())
}

/// The mount's default issuer: `config/issuers`.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct IssuersConfig {
    /// An id, or a name where it is written.
    default: String,
    /// Whether each new issuer that can sign becomes the default.
    default_follows_latest_issuer: bool,
}

impl IssuersConfig {
    fn of(state: &State) -> Self {
        Self {
            default: state.default_issuer.clone().unwrap_or_default(),
            default_follows_latest_issuer: state.default_follows_latest_issuer,
        }
    }
}

/// `GET config/issuers`.
pub(crate) async fn read_issuers_config(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<IssuersConfig>, BackendError> {
    Reply::data(&IssuersConfig::of(&pki.mount.snapshot().await?.state))
}

/// `POST config/issuers`: fields that are not given stay.
pub(crate) async fn write_issuers_config(
    pki: Arc<Pki>,
    call: Call,
    _: IssuersConfig,
) -> Result<Reply<IssuersConfig>, BackendError> {
    let config = pki
        .mount
        .update(|state, batch| {
            let config = merged(&IssuersConfig::of(state), &call.body)?;
            if !config.default.is_empty() {
                let id = state.issuer_id(&config.default).ok_or_else(|| {
                    BackendError::field("default", "there is no issuer with this id or name")
                })?;
                state.default_issuer = Some(id.to_owned());
            }
            state.default_follows_latest_issuer = config.default_follows_latest_issuer;
            Ok((IssuersConfig::of(state), batch))
        })
        .await?;
    Reply::data(&config)
}

/// `GET config/urls`.
pub(crate) async fn read_urls(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<UrlsConfig>, BackendError> {
    Reply::data(&pki.mount.snapshot().await?.state.urls)
}

/// `POST config/urls`: fields that are not given stay.
pub(crate) async fn write_urls(
    pki: Arc<Pki>,
    call: Call,
    _: UrlsConfig,
) -> Result<Reply<UrlsConfig>, BackendError> {
    let urls = pki
        .mount
        .update(|state, batch| {
            state.urls = merged(&state.urls, &call.body)?;
            state.urls.check()?;
            Ok((state.urls.clone(), batch))
        })
        .await?;
    Reply::data(&urls)
}

/// `GET cert/ca`.
pub(crate) async fn read_ca(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<CertificateView>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    Reply::data(&CertificateView::of(
        snapshot.issuer("default")?.certificate.pem(),
    ))
}

/// `GET cert/ca_chain`.
pub(crate) async fn read_ca_chain(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<CertificateView>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let issuer = snapshot.issuer("default")?;
    let chain: Vec<String> = issuer.chain.iter().map(Certificate::pem).collect();
    let chain = chain.join("\n");
    Reply::data(&CertificateView {
        ca_chain: Some(chain.clone()),
        ..CertificateView::of(chain)
    })
}

/// What a public endpoint serves.
#[derive(Clone, Copy)]
pub(crate) enum Public {
    /// The issuer's certificate in DER.
    Certificate,
    /// The same in PEM.
    CertificatePem,
    /// The issuer's chain in PEM.
    ChainPem,
    /// The last CRL in DER.
    Crl,
    /// The same in PEM.
    CrlPem,
}

/// Serves something public of an issuer, outside the envelope; nothing where there is none yet.
pub(crate) async fn public(
    pki: &Pki,
    reference: &str,
    what: Public,
) -> Result<Reply<NoFields>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let Some(id) = snapshot.state.issuer_id(reference) else {
        return Ok(Reply::nothing());
    };
    let issuer = found(&snapshot, id)?;
    let line = |text: String| format!("{text}\n").into_bytes();
    Ok(match what {
        Public::Certificate => {
            Reply::raw("application/pkix-cert", issuer.certificate.der().to_vec())
        }
        Public::CertificatePem => Reply::raw(
            "application/pem-certificate-chain",
            line(issuer.certificate.pem()),
        ),
        Public::ChainPem => {
            let chain: String = chain(issuer).concat();
            Reply::raw("application/pem-certificate-chain", chain.into_bytes())
        }
        Public::Crl | Public::CrlPem => match revocation::stored_crl(pki.store(), id).await? {
            None => Reply::nothing(),
            Some(der) if matches!(what, Public::Crl) => Reply::raw("application/pkix-crl", der),
            Some(der) => {
                let text = daypass_certs::pem("X509 CRL", &der).to_string();
                Reply::raw("application/x-pem-file", line(text))
            }
        },
    })
}

/// The CRL of an issuer.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CrlView {
    crl: String,
}

/// `GET issuer/{issuer_ref}/crl`.
pub(crate) async fn read_issuer_crl(
    pki: Arc<Pki>,
    _: Call,
    request: ByIssuer,
) -> Result<Reply<CrlView>, BackendError> {
    let crl = crl_pem(&pki, &request.issuer_ref).await?;
    Reply::data(&CrlView {
        crl: format!("{crl}\n"),
    })
}

/// `GET cert/crl`.
pub(crate) async fn read_crl(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<CertificateView>, BackendError> {
    Reply::data(&CertificateView::of(crl_pem(&pki, "default").await?))
}

async fn crl_pem(pki: &Pki, reference: &str) -> Result<String, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let issuer = found(&snapshot, reference)?;
    let der = revocation::stored_crl(pki.store(), &issuer.id).await?;
    let der = der.ok_or(BackendError::NotFound)?;
    Ok(daypass_certs::pem("X509 CRL", &der).to_string())
}
