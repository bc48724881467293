//! Requests and answers, field by field as the Vault API has them.

use std::collections::BTreeMap;
use std::time::Duration;

use daypass_contract::{BackendError, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::hash::Hash;
use crate::kind::Kind;
use crate::record::{Record, Settings, VersionInfo};
use crate::text::Marshaling;
use crate::version::{Method, Padding, Salt};

#[derive(Deserialize, JsonSchema)]
pub(crate) struct NameRequest {
    pub(crate) name: String,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct ListRequest {
    pub(crate) after: Option<String>,
    pub(crate) limit: Option<i64>,
    #[serde(default, rename = "list")]
    _list: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateRequest {
    pub(crate) name: String,
    #[serde(default, rename = "type")]
    pub(crate) kind: Kind,
    #[serde(default)]
    pub(crate) derived: bool,
    #[serde(default)]
    pub(crate) convergent_encryption: bool,
    #[serde(default)]
    pub(crate) exportable: bool,
    #[serde(default)]
    pub(crate) allow_plaintext_backup: bool,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    pub(crate) auto_rotate_period: Option<Duration>,
    /// Bytes of an HMAC key.
    #[serde(default)]
    pub(crate) key_size: usize,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigRequest {
    pub(crate) name: String,
    min_decryption_version: Option<i64>,
    min_encryption_version: Option<i64>,
    deletion_allowed: Option<bool>,
    exportable: Option<bool>,
    allow_plaintext_backup: Option<bool>,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    auto_rotate_period: Option<Duration>,
}

impl ConfigRequest {
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            min_decryption_version: self.min_decryption_version,
            min_encryption_version: self.min_encryption_version,
            deletion_allowed: self.deletion_allowed,
            exportable: self.exportable,
            allow_plaintext_backup: self.allow_plaintext_backup,
            auto_rotate_period: self.auto_rotate_period,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct TrimRequest {
    pub(crate) name: String,
    pub(crate) min_available_version: i64,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct ExportRequest {
    #[serde(rename = "type")]
    pub(crate) what: String,
    pub(crate) name: String,
    /// A number or `latest`; all where it is left out.
    pub(crate) version: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct RestoreRequest {
    /// The name of the key that is restored; the one it had where it is left out.
    pub(crate) name: Option<String>,
    pub(crate) backup: Secret,
    #[serde(default)]
    pub(crate) force: bool,
}

/// One text to encrypt.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Plain {
    pub(crate) plaintext: Secret,
    pub(crate) context: Option<Secret>,
    pub(crate) associated_data: Option<Secret>,
    #[serde(default)]
    pub(crate) key_version: i64,
    #[serde(default)]
    pub(crate) reference: String,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct EncryptRequest {
    pub(crate) name: String,
    pub(crate) plaintext: Option<Secret>,
    pub(crate) context: Option<Secret>,
    pub(crate) associated_data: Option<Secret>,
    #[serde(default)]
    pub(crate) key_version: i64,
    /// The type of the key, where this makes it.
    #[serde(default, rename = "type")]
    pub(crate) kind: Kind,
    /// The same for how it encrypts.
    #[serde(default)]
    pub(crate) convergent_encryption: bool,
    pub(crate) batch_input: Option<Vec<Plain>>,
    pub(crate) partial_failure_response_code: Option<u16>,
}

/// One text to decrypt or to encrypt anew.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Cipher {
    pub(crate) ciphertext: Secret,
    pub(crate) context: Option<Secret>,
    pub(crate) associated_data: Option<Secret>,
    /// To rewrap with.
    #[serde(default)]
    pub(crate) key_version: i64,
    #[serde(default)]
    pub(crate) reference: String,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct DecryptRequest {
    pub(crate) name: String,
    pub(crate) ciphertext: Option<Secret>,
    pub(crate) context: Option<Secret>,
    pub(crate) associated_data: Option<Secret>,
    pub(crate) batch_input: Option<Vec<Cipher>>,
    pub(crate) partial_failure_response_code: Option<u16>,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct RewrapRequest {
    pub(crate) name: String,
    pub(crate) ciphertext: Option<Secret>,
    pub(crate) context: Option<Secret>,
    pub(crate) associated_data: Option<Secret>,
    #[serde(default)]
    pub(crate) key_version: i64,
    pub(crate) batch_input: Option<Vec<Cipher>>,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct DataKeyRequest {
    /// `plaintext` or `wrapped`.
    pub(crate) plaintext: String,
    pub(crate) name: String,
    pub(crate) context: Option<Secret>,
    pub(crate) associated_data: Option<Secret>,
    /// 128, 256 or 512.
    pub(crate) bits: Option<u16>,
}

/// How bytes are answered.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Hex,
    Base64,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct RandomRequest {
    /// `platform`, `seal` or `all`; they are the same here.
    pub(crate) source: Option<String>,
    /// Of the path: a number of bytes, or a source.
    pub(crate) urlbytes: Option<String>,
    pub(crate) bytes: Option<i64>,
    pub(crate) format: Option<Format>,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct HashRequest {
    pub(crate) urlalgorithm: Option<Hash>,
    pub(crate) algorithm: Option<Hash>,
    pub(crate) input: Secret,
    pub(crate) format: Option<Format>,
}

/// One text to sign or to authenticate.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Input {
    pub(crate) input: Option<Secret>,
    pub(crate) context: Option<Secret>,
    #[serde(default)]
    pub(crate) reference: String,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct HmacRequest {
    pub(crate) name: String,
    pub(crate) urlalgorithm: Option<Hash>,
    pub(crate) algorithm: Option<Hash>,
    #[serde(default)]
    pub(crate) key_version: i64,
    pub(crate) input: Option<Secret>,
    pub(crate) batch_input: Option<Vec<Input>>,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SignatureAlgorithm {
    #[default]
    #[serde(alias = "")]
    Pss,
    Pkcs1v15,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct SignRequest {
    pub(crate) name: String,
    pub(crate) urlalgorithm: Option<Hash>,
    pub(crate) hash_algorithm: Option<Hash>,
    pub(crate) algorithm: Option<Hash>,
    #[serde(default)]
    pub(crate) key_version: i64,
    #[serde(default)]
    pub(crate) prehashed: bool,
    #[serde(default)]
    pub(crate) signature_algorithm: SignatureAlgorithm,
    #[serde(default)]
    pub(crate) marshaling_algorithm: Marshaling,
    /// `auto`, `hash`, or the length of the hash in bytes.
    pub(crate) salt_length: Option<String>,
    pub(crate) input: Option<Secret>,
    pub(crate) context: Option<Secret>,
    pub(crate) batch_input: Option<Vec<Input>>,
}

impl SignRequest {
    pub(crate) fn method(&self) -> Result<Method, BackendError> {
        let hash = self.urlalgorithm.or(self.hash_algorithm).or(self.algorithm);
        method(
            hash,
            self.prehashed,
            self.signature_algorithm,
            self.marshaling_algorithm,
            self.salt_length.as_deref(),
        )
    }
}

/// One signature or HMAC to verify.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Claim {
    pub(crate) input: Option<Secret>,
    pub(crate) context: Option<Secret>,
    pub(crate) signature: Option<Secret>,
    pub(crate) hmac: Option<Secret>,
    #[serde(default)]
    pub(crate) reference: String,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct VerifyRequest {
    pub(crate) name: String,
    pub(crate) urlalgorithm: Option<Hash>,
    pub(crate) hash_algorithm: Option<Hash>,
    pub(crate) algorithm: Option<Hash>,
    #[serde(default)]
    pub(crate) prehashed: bool,
    #[serde(default)]
    pub(crate) signature_algorithm: SignatureAlgorithm,
    #[serde(default)]
    pub(crate) marshaling_algorithm: Marshaling,
    /// As when signing.
    pub(crate) salt_length: Option<String>,
    pub(crate) input: Option<Secret>,
    pub(crate) context: Option<Secret>,
    pub(crate) signature: Option<Secret>,
    pub(crate) hmac: Option<Secret>,
    pub(crate) batch_input: Option<Vec<Claim>>,
}

impl VerifyRequest {
    pub(crate) fn method(&self) -> Result<Method, BackendError> {
        let hash = self.urlalgorithm.or(self.hash_algorithm).or(self.algorithm);
        method(
            hash,
            self.prehashed,
            self.signature_algorithm,
            self.marshaling_algorithm,
            self.salt_length.as_deref(),
        )
    }
}

fn method(
    hash: Option<Hash>,
    prehashed: bool,
    algorithm: SignatureAlgorithm,
    marshaling: Marshaling,
    salt_length: Option<&str>,
) -> Result<Method, BackendError> {
    let hash = hash.unwrap_or_default();
    let hash_length = hash.algorithm().output_len;
    let salt = match salt_length.unwrap_or_default() {
        "" | "auto" | "0" => Salt::Auto,
        "hash" | "-1" => Salt::Hash,
        length if length.parse() == Ok(hash_length) => Salt::Hash,
        _ => {
            let problem = format!("must be auto, hash, or {hash_length}, the length of the hash");
            return Err(BackendError::field("salt_length", problem));
        }
    };
    let padding = match algorithm {
        SignatureAlgorithm::Pss => Padding::Pss(salt),
        SignatureAlgorithm::Pkcs1v15 => Padding::Pkcs1,
    };
    Ok(Method {
        hash,
        prehashed,
        padding,
        marshaling,
    })
}

/// The answer to one text, or to each of a batch.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Answer<T> {
    One(T),
    Batch { batch_results: Vec<BatchResult<T>> },
}

/// What came of one element of a batch.
#[derive(Serialize, JsonSchema)]
pub(crate) struct BatchResult<T> {
    #[serde(flatten)]
    pub(crate) result: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    pub(crate) reference: String,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct CipherView {
    pub(crate) ciphertext: String,
    pub(crate) key_version: u64,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct PlainView {
    #[serde(serialize_with = "daypass_contract::reveal")]
    pub(crate) plaintext: Secret,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct DataKeyView {
    pub(crate) ciphertext: String,
    pub(crate) key_version: u64,
    #[serde(flatten)]
    pub(crate) plaintext: Option<PlainView>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct RandomView {
    #[serde(serialize_with = "daypass_contract::reveal")]
    pub(crate) random_bytes: Secret,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct SumView {
    #[serde(serialize_with = "daypass_contract::reveal")]
    pub(crate) sum: Secret,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct HmacView {
    pub(crate) hmac: String,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct SignatureView {
    pub(crate) signature: String,
    pub(crate) key_version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) public_key: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct ValidView {
    pub(crate) valid: bool,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct ExportView {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    pub(crate) keys: BTreeMap<u64, Revealed>,
}

/// A secret that is answered, or sealed in a backup.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Revealed(#[serde(serialize_with = "daypass_contract::reveal")] pub(crate) Secret);

#[derive(Serialize, JsonSchema)]
pub(crate) struct BackupView {
    pub(crate) backup: String,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct KeyView {
    name: String,
    #[serde(rename = "type")]
    kind: Kind,
    /// Seconds since 1970, or for public keys more than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<BTreeMap<u64, VersionView>>,
    latest_version: u64,
    min_available_version: u64,
    min_decryption_version: u64,
    min_encryption_version: u64,
    allow_plaintext_backup: bool,
    auto_rotate_period: u64,
    deletion_allowed: bool,
    derived: bool,
    exportable: bool,
    imported_key: bool,
    soft_deleted: bool,
    supports_decryption: bool,
    supports_derivation: bool,
    supports_encryption: bool,
    supports_signing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    kdf: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    convergent_encryption: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    convergent_encryption_version: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_size: Option<usize>,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum VersionView {
    Symmetric(u64),
    Public {
        name: &'static str,
        creation_time: String,
        public_key: String,
        certificate_chain: &'static str,
    },
}

impl KeyView {
    pub(crate) fn of(name: &str, record: &Record) -> Self {
        let kind = record.kind;
        let shown = record.versions.range(record.min_decryption_version..);
        let view = |(number, info): (&u64, &VersionInfo)| (*number, VersionView::of(kind, info));
        Self {
            name: name.to_owned(),
            kind,
            keys: (kind != Kind::Hmac).then(|| shown.map(view).collect()),
            latest_version: record.latest_version,
            min_available_version: record.min_available_version,
            min_decryption_version: record.min_decryption_version,
            min_encryption_version: record.min_encryption_version,
            allow_plaintext_backup: record.allow_plaintext_backup,
            auto_rotate_period: record.auto_rotate_period.as_secs(),
            deletion_allowed: record.deletion_allowed,
            derived: record.derived,
            exportable: record.exportable,
            imported_key: false,
            soft_deleted: false,
            supports_decryption: kind.encrypts(),
            supports_derivation: kind.derives(),
            supports_encryption: kind.encrypts(),
            supports_signing: kind.signs(),
            kdf: record.derived.then_some("hkdf_sha256"),
            convergent_encryption: record.derived.then_some(record.convergent),
            convergent_encryption_version: record.convergent.then_some(-1),
            key_size: (kind == Kind::Hmac).then_some(record.key_size),
        }
    }
}

impl VersionView {
    fn of(kind: Kind, info: &VersionInfo) -> Self {
        let at = OffsetDateTime::from(info.created_at);
        if kind.cipher().is_some() {
            return Self::Symmetric(u64::try_from(at.unix_timestamp()).unwrap_or_default());
        }
        Self::Public {
            name: kind.public_name(),
            creation_time: at.format(&Rfc3339).unwrap_or_default(),
            public_key: info.public_key.clone().unwrap_or_default(),
            certificate_chain: "",
        }
    }
}
