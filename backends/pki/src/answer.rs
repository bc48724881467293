//! What the endpoints that make certificates answer, in the formats of the Vault API.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_certs::{Certificate, KeyPair, pem};
use daypass_contract::{BackendError, Secret, reveal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::error::internal;
use crate::state::LoadedIssuer;
use crate::validity::unix;

/// The form of what is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// PEM.
    #[default]
    Pem,
    /// DER in base64.
    Der,
    /// PEM, and `certificate` holds the key and the chain as well.
    PemBundle,
}

/// The form of a private key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KeyFormat {
    /// SEC 1 or PKCS#1 in the form of the rest; Ed25519 has only PKCS#8.
    #[default]
    #[serde(alias = "", alias = "pem")]
    Der,
    /// PKCS#8.
    Pkcs8,
}

/// The data of an answer with a new certificate.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Issued {
    /// The certificate; as a bundle, the private key and the chain as well.
    #[serde(serialize_with = "reveal")]
    certificate: Secret,
    /// The certificate of the issuer.
    issuing_ca: String,
    /// The issuer's certificate and those above it, as far as they are known here.
    ca_chain: Vec<String>,
    /// The private key, where it was generated here.
    #[serde(
        serialize_with = "reveal_some",
        skip_serializing_if = "Option::is_none"
    )]
    private_key: Option<Secret>,
    /// `ec`, `rsa` or `ed25519`.
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key_type: Option<&'static str>,
    /// Hexadecimal octets with colons.
    serial_number: String,
    /// The certificate's last second, in Unix time.
    expiration: u64,
    /// The certificate's first second, in Unix time.
    not_before: u64,
}

impl Issued {
    /// The chain of a new CA begins with itself: it is what its holder serves.
    pub(crate) fn of_ca(mut self, form: Form, certificate: &Certificate) -> Self {
        self.ca_chain.insert(0, form.certificate(certificate));
        self
    }
}

/// How to answer.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    pub(crate) format: Format,
    pub(crate) key_format: KeyFormat,
    pub(crate) remove_roots_from_chain: bool,
}

impl Form {
    /// The answer for a certificate signed by `issuer`.
    pub(crate) fn issued(
        self,
        certificate: &Certificate,
        issuer: &LoadedIssuer,
        key: Option<&KeyPair>,
    ) -> Result<Issued, BackendError> {
        let chain: Vec<&Certificate> = issuer
            .chain
            .iter()
            .filter(|link| !(self.remove_roots_from_chain && link.subject() == link.issuer()))
            .collect();
        let bundle = match self.format {
            Format::PemBundle => Some(bundle(certificate, &chain, key)?),
            Format::Pem | Format::Der => None,
        };
        Ok(Issued {
            certificate: bundle.unwrap_or_else(|| Secret::new(self.certificate(certificate))),
            issuing_ca: self.certificate(&issuer.certificate),
            ca_chain: chain
                .into_iter()
                .map(|link| self.certificate(link))
                .collect(),
            private_key: key.map(|key| self.key(key)).transpose()?,
            private_key_type: key.map(|key| key.public().kind().key_type()),
            serial_number: certificate.serial().to_string(),
            expiration: unix(certificate.validity().not_after()),
            not_before: unix(certificate.validity().not_before()),
        })
    }

    /// A certificate in this form.
    pub(crate) fn certificate(self, certificate: &Certificate) -> String {
        match self.format {
            Format::Der => STANDARD.encode(certificate.der()),
            Format::Pem | Format::PemBundle => certificate.pem(),
        }
    }

    /// A private key in this form.
    pub(crate) fn key(self, key: &KeyPair) -> Result<Secret, BackendError> {
        let (label, der) = match self.key_format {
            KeyFormat::Der => key.to_traditional_der().map_err(internal)?,
            KeyFormat::Pkcs8 => ("PRIVATE KEY", key.to_pkcs8_der().map_err(internal)?),
        };
        Ok(match self.format {
            Format::Der => Secret::new(STANDARD.encode(&der)),
            Format::Pem | Format::PemBundle => Secret::new(pem(label, &der).as_bytes()),
        })
    }
}

fn bundle(
    certificate: &Certificate,
    chain: &[&Certificate],
    key: Option<&KeyPair>,
) -> Result<Secret, BackendError> {
    let mut parts = Vec::new();
    if let Some(key) = key {
        let (label, der) = key.to_traditional_der().map_err(internal)?;
        parts.push(pem(label, &der));
    }
    parts.push(certificate.pem().into());
    parts.extend(chain.iter().map(|link| link.pem().into()));
    let size = parts.iter().map(|part| part.len() + 1).sum();
    let mut text = String::with_capacity(size);
    for part in &parts {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(part);
    }
    Ok(Secret::new(text))
}

/// [`reveal`] for a secret that may be absent.
#[expect(clippy::ref_option, reason = "serde calls it with the field as it is")]
pub(crate) fn reveal_some<S: Serializer>(
    secret: &Option<Secret>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => reveal(secret, serializer),
        None => serializer.serialize_none(),
    }
}
