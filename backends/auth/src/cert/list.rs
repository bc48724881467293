//! Certificate revocation lists (RFC 5280, section 5) that operators upload.
//!
//! # Invariants
//!
//! * **A list counts for whom it is of.** Its issuer signed it, by name and key; a serial number that another
//!   authority revoked says nothing.
//! * **Not knowing refuses.** Where there is a list of an issuer, logins need one that it signed and that has
//!   not ended.

use std::collections::{BTreeMap, HashSet};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_certs::{Certificate, KeyUsage};
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::refusal::Refusal;

/// A list, indexed.
pub(super) struct List {
    der: Vec<u8>,
    issuer: Vec<u8>,
    /// Which of the issuer's keys signed it, where it says so.
    key_id: Option<Vec<u8>>,
    ends_at: SystemTime,
    serials: HashSet<Vec<u8>>,
    /// The key that verified it before, so that it is verified once and not at each login.
    verified_by: OnceLock<Vec<u8>>,
}

/// The DER of a list that was sent as PEM, or as base64 of DER.
///
/// # Errors
/// What is wrong with it.
pub(super) fn der_of(text: &str) -> Result<Vec<u8>, &'static str> {
    if text.contains("-----BEGIN") {
        return CertificateRevocationListDer::from_pem_slice(text.as_bytes())
            .map(|der| der.to_vec())
            .map_err(|_| "failed to parse CRL: it is not a PEM block \"X509 CRL\"");
    }
    STANDARD
        .decode(text.trim())
        .map_err(|_| "failed to parse CRL: it is neither PEM nor base64 of DER")
}

impl List {
    /// Reads a list.
    ///
    /// # Errors
    /// What is wrong with it, or why it would not be understood in full.
    pub(super) fn read(der: Vec<u8>) -> Result<Self, &'static str> {
        let parsed = parse(&der)?;
        let mut key_id = None;
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::IssuingDistributionPoint(point)
                    if point.indirect_crl
                        || point.only_some_reasons.is_some()
                        || point.only_contains_attribute_certs =>
                {
                    return Err("indirect lists and lists of some reasons are not taken");
                }
                ParsedExtension::IssuingDistributionPoint(_) => {}
                ParsedExtension::ParseError { .. } => return Err(MALFORMED),
                _ if extension.critical => {
                    return Err("it has a critical extension that is not known (a delta list?)");
                }
                _ => {}
            }
        }
        let ends = parsed.next_update().ok_or("it does not say when it ends")?;
        let mut serials = HashSet::new();
        for entry in parsed.iter_revoked_certificates() {
            if entry.extensions().iter().any(is_odd) {
                return Err("an entry has a critical extension that is not known");
            }
            serials.insert(without_zeros(entry.raw_serial()).to_vec());
        }
        let (issuer, ends_at) = (parsed.issuer().as_raw().to_vec(), instant(ends));
        Ok(Self {
            issuer,
            key_id,
            ends_at,
            serials,
            verified_by: OnceLock::new(),
            der,
        })
    }

    /// When the next one is due.
    pub(super) fn ends_at(&self) -> SystemTime {
        self.ends_at
    }

    /// Whether it is a list of whoever issued `certificate`. (`issuer` is its certificate, where it is known.)
    fn concerns(&self, certificate: &Certificate, issuer: Option<&Certificate>) -> bool {
        let key = issuer
            .and_then(Certificate::key_id)
            .or(certificate.authority_key_id());
        let same_key = match (&self.key_id, key) {
            (Some(own), Some(key)) => own == key,
            _ => true,
        };
        same_key && self.issuer == certificate.issuer().der()
    }

    fn is_signed_by(&self, issuer: &Certificate) -> bool {
        let usage = issuer.key_usage();
        if usage != KeyUsage::default() && !usage.contains(KeyUsage::CRL_SIGN) {
            return false;
        }
        let spki = issuer.public_key().spki();
        if self.verified_by.get().is_some_and(|known| known == spki) {
            return true;
        }
        let verified = match (parse(&self.der), SubjectPublicKeyInfo::from_der(spki)) {
            (Ok(list), Ok((_, key))) => list.verify_signature(&key).is_ok(),
            _ => false,
        };
        if verified {
            let _ = self.verified_by.set(spki.to_vec());
        }
        verified
    }
}

/// The serial numbers of a list in decimal, as they are shown.
///
/// # Errors
/// As [`List::read`].
pub(super) fn serials(
    der: &[u8],
) -> Result<BTreeMap<String, serde_json::Map<String, serde_json::Value>>, &'static str> {
    let parsed = parse(der)?;
    let entries = parsed.iter_revoked_certificates();
    Ok(entries
        .map(|entry| (entry.serial().to_string(), serde_json::Map::new()))
        .collect())
}

/// Whether `certificate`, which `issuer` signed where that is known, is on none of the lists of its issuer.
///
/// Where the issuer is not known (a role trusts the certificate itself), the lists of that name count on the
/// word of the operator who uploaded them.
///
/// # Errors
/// [`Refusal::Revoked`], [`Refusal::StaleList`], [`Refusal::UnprovenList`].
pub(super) fn check(
    lists: &[List],
    certificate: &Certificate,
    issuer: Option<&Certificate>,
    now: SystemTime,
) -> Result<(), Refusal> {
    let (mut any, mut proven, mut fresh) = (false, false, false);
    let concerned = lists
        .iter()
        .filter(|list| list.concerns(certificate, issuer));
    for list in concerned {
        any = true;
        if !issuer.is_none_or(|issuer| list.is_signed_by(issuer)) {
            continue;
        }
        if list.serials.contains(certificate.serial().as_be_bytes()) {
            return Err(Refusal::Revoked);
        }
        proven = true;
        fresh |= now < list.ends_at;
    }
    match (any, proven, fresh) {
        (false, ..) | (_, _, true) => Ok(()),
        (true, true, false) => Err(Refusal::StaleList),
        (true, false, false) => Err(Refusal::UnprovenList),
    }
}

const MALFORMED: &str = "failed to parse CRL: it is not a certificate revocation list";

fn parse(der: &[u8]) -> Result<CertificateRevocationList<'_>, &'static str> {
    match CertificateRevocationList::from_der(der) {
        Ok(([], list)) => Ok(list),
        _ => Err(MALFORMED),
    }
}

fn is_odd(extension: &X509Extension<'_>) -> bool {
    let known = matches!(
        extension.parsed_extension(),
        ParsedExtension::ReasonCode(_) | ParsedExtension::InvalidityDate(_)
    );
    extension.critical && !known
}

fn without_zeros(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|octet| **octet == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

fn instant(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}
