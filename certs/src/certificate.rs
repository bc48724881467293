//! [`Certificate`]: one that has been read, and [`chain_of`], which finds its issuers.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Any, FromDer as _, Sequence};
use x509_parser::extensions::ParsedExtension;
use x509_parser::time::ASN1Time;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::der::{Der, context_constructed};
use crate::error::CertError;
use crate::key::PublicKey;
use crate::name::Name;
use crate::pem::{certificates_of, is_pem, public_pem};
use crate::profile::{KeyUsage, Validity};
use crate::san::San;
use crate::serial::Serial;

/// A certificate, and what was read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    serial: Serial,
    issuer: Name,
    subject: Name,
    validity: Validity,
    public_key: PublicKey,
    key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
    sans: Vec<San>,
    key_usage: KeyUsage,
    is_ca: bool,
    path_len: Option<u32>,
}

impl Certificate {
    /// Reads the first certificate of a PEM text, or a certificate in DER.
    ///
    /// # Errors
    /// [`CertError::Malformed`].
    pub fn from_pem_or_der(input: &[u8]) -> Result<Self, CertError> {
        if is_pem(input) {
            let first = certificates_of(input)?.into_iter().next();
            first.ok_or(CertError::Malformed("holds no certificate"))
        } else {
            Self::from_der(input)
        }
    }

    /// Reads a certificate.
    ///
    /// # Errors
    /// [`CertError::Malformed`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertError> {
        const ERROR: CertError = CertError::Malformed("is not a valid X.509 certificate");
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| ERROR)?;
        if !rest.is_empty() || frame(&parsed).is_none_or(|frame| frame != der) {
            return Err(ERROR);
        }
        let mut certificate = Self {
            der: der.to_vec(),
            serial: Serial::from_be_bytes(parsed.tbs_certificate.raw_serial())?,
            issuer: Name::from_parsed(parsed.issuer()),
            subject: Name::from_parsed(parsed.subject()),
            validity: Validity::between(
                instant(parsed.validity().not_before),
                instant(parsed.validity().not_after),
            ),
            public_key: PublicKey::from_spki(parsed.public_key().raw)?,
            key_id: None,
            authority_key_id: None,
            sans: Vec::new(),
            key_usage: KeyUsage::default(),
            is_ca: false,
            path_len: None,
        };
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => {
                    certificate.key_id = Some(id.0.to_vec());
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    certificate.authority_key_id =
                        id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    certificate.sans = names
                        .general_names
                        .iter()
                        .filter_map(San::from_parsed)
                        .collect();
                }
                ParsedExtension::KeyUsage(usage) => {
                    certificate.key_usage = KeyUsage::from_parsed(usage.flags);
                }
                ParsedExtension::BasicConstraints(constraints) => {
                    certificate.is_ca = constraints.ca;
                    certificate.path_len = constraints.path_len_constraint;
                }
                ParsedExtension::ParseError { .. } => return Err(ERROR),
                _ => {}
            }
        }
        Ok(certificate)
    }

    /// The certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate in PEM, without a line break at the end.
    pub fn pem(&self) -> String {
        public_pem("CERTIFICATE", &self.der)
    }

    /// Its serial number.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// Who signed it, by name.
    pub fn issuer(&self) -> &Name {
        &self.issuer
    }

    /// Whom it names.
    pub fn subject(&self) -> &Name {
        &self.subject
    }

    /// From when to when it is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// The key that it certifies.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The subject key identifier, where it has one.
    pub fn key_id(&self) -> Option<&[u8]> {
        self.key_id.as_deref()
    }

    /// The key identifier of its issuer, where it has one.
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        self.authority_key_id.as_deref()
    }

    /// Its DNS, mail, address and URI names.
    pub fn sans(&self) -> &[San] {
        &self.sans
    }

    /// Its key usage; nothing where it has none.
    pub fn key_usage(&self) -> KeyUsage {
        self.key_usage
    }

    /// Whether it may sign certificates.
    pub fn is_ca(&self) -> bool {
        self.is_ca
    }

    /// How many CAs may stand below it; `None`: any number.
    pub fn path_len(&self) -> Option<u32> {
        self.path_len
    }

    /// Whether it is its own issuer, by name and key.
    pub fn is_self_signed(&self) -> bool {
        self.issuer == self.subject && self.is_signed_by(self)
    }

    /// Whether `issuer` signed it: names, key identifiers and signature agree.
    pub fn is_signed_by(&self, issuer: &Self) -> bool {
        let same_key = match (&self.authority_key_id, &issuer.key_id) {
            (Some(wanted), Some(id)) => wanted == id,
            _ => true,
        };
        self.issuer == issuer.subject && same_key && self.verifies_with(issuer.public_key.spki())
    }

    fn verifies_with(&self, spki: &[u8]) -> bool {
        let (Ok((_, certificate)), Ok((_, key))) = (
            X509Certificate::from_der(&self.der),
            SubjectPublicKeyInfo::from_der(spki),
        ) else {
            return false;
        };
        certificate.verify_signature(Some(&key)).is_ok()
    }
}

/// The issuers of `certificate` among `pool`, nearest first, as far as they are there. A self-signed one ends
/// the chain.
pub fn chain_of(certificate: &Certificate, pool: &[Certificate]) -> Vec<Certificate> {
    let mut chain: Vec<Certificate> = Vec::new();
    let mut last = certificate;
    while chain.len() < pool.len() && last.issuer != last.subject {
        let next = pool.iter().find(|candidate| {
            candidate.is_ca && !chain.contains(candidate) && last.is_signed_by(candidate)
        });
        let Some(next) = next else { break };
        chain.push(next.clone());
        last = next;
    }
    chain
}

/// The certificate as DER has it, around the part that is signed: that part, its own name of the algorithm once
/// more (RFC 5280, section 4.1.1.2), and the signature. Whatever differs was changed by someone else.
fn frame(parsed: &X509Certificate<'_>) -> Option<Vec<u8>> {
    let signed = parsed.tbs_certificate.as_ref();
    let mut fields = content(signed)?;
    // The version is left out of the oldest certificates.
    if fields.first() == Some(&context_constructed(0)) {
        fields = split(fields)?.1;
    }
    let (_serial, fields) = split(fields)?;
    let (algorithm, _) = split(fields)?;
    Some(Der::build(|der| {
        der.sequence(|der| {
            der.raw(signed);
            der.raw(algorithm);
            der.bits(|der| der.raw(&parsed.signature_value.data));
        });
    }))
}

/// The first element, with its header, and what follows it.
fn split(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, _) = Any::from_der(der).ok()?;
    der.split_at_checked(der.len() - rest.len())
}

/// What is in a sequence.
fn content(der: &[u8]) -> Option<&[u8]> {
    let (_, sequence) = Sequence::from_der(der).ok()?;
    match sequence.content {
        Cow::Borrowed(content) => Some(content),
        Cow::Owned(_) => None,
    }
}

fn instant(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}
