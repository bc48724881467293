//! Making CAs: roots, CSRs for intermediates, and intermediates that an issuer of this mount signs.
//!
//! **Invariant:** an issuer, its key, its record and the settings that name it are written in one batch.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_certs::{
    BasicConstraints, Csr, KeyAlgorithm, KeyPair, Name, Profile, Serial, Subject, Validity,
    self_signed,
};
use daypass_contract::{BackendError, Batch, Call, Reply, Secret, TtlWish, duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Pki;
use crate::answer::{Form, Format, Issued, KeyFormat, reveal_some};
use crate::error::{in_field, in_request};
use crate::records::{StoredCertificate, record_key};
use crate::state::{ca_of, key_record, stored_key};
use crate::subject;
use crate::validity;

/// What a CA is to be: of a root, of a CSR, or of an intermediate to sign.
///
/// An unknown field is refused: it might be a constraint that the CA would go without.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
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
        Ok(Profile {
            sans: subject::sans(&self.alt_names, &self.ip_sans, &self.uri_sans)?,
            ..self.profile_of(self.subject()?, now, end)?
        })
    }

    /// The same for another subject, without alternative names.
    fn profile_of(
        &self,
        subject: Name,
        now: SystemTime,
        end: SystemTime,
    ) -> Result<Profile, BackendError> {
        let not_before = now.checked_sub(self.not_before_duration).unwrap_or(now);
        let validity = Validity::between(not_before, end);
        Ok(Profile {
            permitted_dns_domains: self.permitted_dns_domains.clone(),
            ..Profile::ca(subject, validity, self.path_len()?)
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
            let stored = StoredCertificate::of(&certificate, &id, &ca_of(&certificate));
            Ok(((key_id, id), batch.put_json(record_key(&serial), &stored)?))
        })
        .await?;
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

/// Adds the key that was given, which is none where the mount has it already.
pub(crate) fn put_key(batch: Batch, id: &str, key: Option<Secret>) -> Batch {
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
            Format::Der => STANDARD.encode(csr.der()),
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
    if csr.has_other_sans && request.use_csr_values {
        let problem = "asks for names other than DNS, mail, address and URI, which are not issued";
        return Err(BackendError::field("csr", problem));
    }
    if request.common_name.is_empty() {
        request.common_name = csr.subject.common_name().unwrap_or_default();
    }
    let (now, host) = (call.now, &pki.mount.host);
    let snapshot = pki.mount.snapshot().await?;
    let issuer = snapshot.issuer(&request.issuer_ref)?;
    let wish = request.wish(now)?;
    let (end, advice) = validity::end(now, wish, &*host.system, Some(issuer))?;
    let mut profile = if request.use_csr_values {
        let sans = csr.sans.clone();
        Profile {
            sans,
            ..request.profile_of(csr.subject.clone(), now, end)?
        }
    } else {
        request.profile(now, end)?
    };
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
    let stored = StoredCertificate::of(&certificate, &issuer.id, &issuer.ca);
    let batch = Batch::new().put_json(record_key(&serial), &stored)?;
    host.store.apply(batch).await?;
    let issued = request.form().issued(&certificate, issuer, None)?;
    let reply = Reply::data(&issued.of_ca(request.form(), &certificate))?;
    Ok(advice.into_iter().fold(reply, Reply::warn))
}
