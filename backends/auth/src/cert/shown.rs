//! The certificate that a caller shows, read once: what constraints, names and metadata are made of.

use std::collections::BTreeMap;

use daypass_certs::{Certificate, San, SpiffeId};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Any, Class, Tag};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::AttributeTypeAndValue;

use super::refusal::Refusal;

/// A chain as a client showed it. Nothing in it is believed before [`super::trust`] has verified it.
pub(super) struct Shown {
    /// The client's own.
    pub(super) leaf: Certificate,
    /// What came with it.
    pub(super) others: Vec<CertificateDer<'static>>,
    /// The subject's common name; empty where it has none.
    pub(super) common_name: String,
    /// The subject's organizational units.
    pub(super) units: Vec<String>,
    /// The SPIFFE ID of an X.509-SVID.
    pub(super) id: Option<SpiffeId>,
    /// The extensions that are text, by OID.
    pub(super) extensions: BTreeMap<String, String>,
    /// Whether its extended key usage, where it has one, is for clients.
    pub(super) for_clients: bool,
    serial: String,
}

impl Shown {
    /// Reads a chain, the client's own certificate first.
    ///
    /// # Errors
    /// [`Refusal::Unreadable`], and [`Refusal::Svid`] for what is half an SVID.
    pub(super) fn read(chain: &[Vec<u8>]) -> Result<Self, Refusal> {
        let (own, others) = chain.split_first().ok_or(Refusal::NoCertificate)?;
        let leaf = Certificate::from_der(own).map_err(|_| Refusal::Unreadable)?;
        let (_, parsed) = X509Certificate::from_der(own).map_err(|_| Refusal::Unreadable)?;
        let mut names = parsed.subject().iter_common_name();
        let common_name = names.next().map(AttributeTypeAndValue::as_str);
        // Of two, one could be what a rule looks at and the other what the entity is named by.
        if names.next().is_some() {
            return Err(Refusal::Unreadable);
        }
        let common_name = common_name
            .transpose()
            .map_err(|_| Refusal::Unreadable)?
            .unwrap_or_default()
            .to_owned();
        let units = parsed.subject().iter_organizational_unit();
        let units = units.filter_map(|unit| unit.as_str().ok().map(str::to_owned));
        let extensions = parsed.extensions().iter();
        let extensions = extensions.filter_map(|extension| {
            Some((
                extension.oid.to_id_string(),
                text(extension.value)?.to_owned(),
            ))
        });
        let usage = parsed.extended_key_usage();
        let usage = usage.map_err(|_| Refusal::Unreadable)?;
        let for_clients = usage.is_none_or(|usage| usage.value.client_auth);
        let id = if uris(&leaf).any(is_spiffe) {
            Some(SpiffeId::of_svid(&leaf).map_err(|_| Refusal::Svid)?)
        } else {
            None
        };
        Ok(Self {
            units: units.collect(),
            extensions: extensions.collect(),
            serial: parsed.tbs_certificate.serial.to_string(),
            others: others.iter().cloned().map(CertificateDer::from).collect(),
            leaf,
            common_name,
            id,
            for_clients,
        })
    }

    /// The URIs that it names, the SPIFFE ID among them.
    pub(super) fn uris(&self) -> impl Iterator<Item = &str> {
        uris(&self.leaf)
    }

    /// What is kept with the token, as Vault has it.
    pub(super) fn metadata(&self, role: &str, extensions: &[String]) -> BTreeMap<String, String> {
        let key_id = |id: Option<&[u8]>| {
            let octets = id.unwrap_or_default().iter();
            let octets: Vec<String> = octets.map(|octet| format!("{octet:02x}")).collect();
            octets.join(":")
        };
        let own = [
            ("cert_name", role.to_owned()),
            ("common_name", self.common_name.clone()),
            ("serial_number", self.serial.clone()),
            ("subject_key_id", key_id(self.leaf.key_id())),
            ("authority_key_id", key_id(self.leaf.authority_key_id())),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value));
        let more = extensions.iter().filter_map(|oid| {
            // Templates of policies cannot have a dot in a key.
            Some((oid.replace('.', "-"), self.extensions.get(oid)?.clone()))
        });
        let id = self.id.as_ref();
        let id = id.map(|id| ("spiffe_id".to_owned(), id.to_string()));
        own.into_iter().chain(more).chain(id).collect()
    }
}

/// The text in an ASN.1 string of a kind whose octets are UTF-8.
fn text(der: &[u8]) -> Option<&str> {
    const KINDS: [Tag; 5] = [
        Tag::Utf8String,
        Tag::PrintableString,
        Tag::Ia5String,
        Tag::VisibleString,
        Tag::NumericString,
    ];
    let (rest, value) = Any::from_der(der).ok()?;
    if !rest.is_empty() || value.class() != Class::Universal || !KINDS.contains(&value.tag()) {
        return None;
    }
    std::str::from_utf8(value.data).ok()
}

fn uris(certificate: &Certificate) -> impl Iterator<Item = &str> {
    certificate.sans().iter().filter_map(|san| match san {
        San::Uri(uri) => Some(uri.as_str()),
        San::Dns(_) | San::Email(_) | San::Ip(_) => None,
    })
}

/// Whether text claims to be a SPIFFE ID, in any spelling.
pub(super) fn is_spiffe(text: &str) -> bool {
    let scheme = text.get(..7);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
}
