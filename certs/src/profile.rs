//! [`Profile`]: what goes into a certificate besides the key, the serial number and the issuer.
//!
//! **Invariant:** whatever a profile says, the key usage that is encoded is one that the key can serve
//! (RFC 3279, RFC 8410, RFC 8813), and a CA certificate says that it is one.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::der_parser::asn1_rs;

use crate::der::{
    BIT_STRING, BOOLEAN, Der, OBJECT_IDENTIFIER, OCTET_STRING, context, context_constructed,
};
use crate::error::CertError;
use crate::key::KeyKind;
use crate::name::Name;
use crate::san::San;
use crate::spiffe::{SpiffeId, TrustDomain};

/// How far certificates are dated back, for clocks that run behind.
pub const BACKDATE: Duration = Duration::from_secs(30);

/// From when to when a certificate is valid; whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Validity {
    /// From [`BACKDATE`] before `now` until `not_after`.
    pub fn until(now: SystemTime, not_after: SystemTime) -> Self {
        Self::between(now.checked_sub(BACKDATE).unwrap_or(now), not_after)
    }

    /// The first second.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last second.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// From one instant until another, fractions of seconds cut off as certificates do.
    pub fn between(not_before: SystemTime, not_after: SystemTime) -> Self {
        Self {
            not_before: whole_seconds(not_before),
            not_after: whole_seconds(not_after),
        }
    }
}

fn whole_seconds(at: SystemTime) -> SystemTime {
    at.duration_since(UNIX_EPOCH).map_or(at, |since| {
        UNIX_EPOCH + Duration::from_secs(since.as_secs())
    })
}

/// A set of key usages (RFC 5280, section 4.2.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyUsage(u16);

impl KeyUsage {
    /// Verifying signatures other than on certificates and CRLs; what TLS needs.
    pub const DIGITAL_SIGNATURE: Self = Self(1 << 15);
    /// Non-repudiation.
    pub const CONTENT_COMMITMENT: Self = Self(1 << 14);
    /// Enciphering keys (RSA only).
    pub const KEY_ENCIPHERMENT: Self = Self(1 << 13);
    /// Enciphering data directly (RSA only).
    pub const DATA_ENCIPHERMENT: Self = Self(1 << 12);
    /// Diffie-Hellman (EC only).
    pub const KEY_AGREEMENT: Self = Self(1 << 11);
    /// Signing certificates.
    pub const KEY_CERT_SIGN: Self = Self(1 << 10);
    /// Signing CRLs.
    pub const CRL_SIGN: Self = Self(1 << 9);
    /// With key agreement: enciphering only.
    pub const ENCIPHER_ONLY: Self = Self(1 << 8);
    /// With key agreement: deciphering only.
    pub const DECIPHER_ONLY: Self = Self(1 << 7);

    const NAMES: [(&str, Self); 9] = [
        ("DigitalSignature", Self::DIGITAL_SIGNATURE),
        ("ContentCommitment", Self::CONTENT_COMMITMENT),
        ("KeyEncipherment", Self::KEY_ENCIPHERMENT),
        ("DataEncipherment", Self::DATA_ENCIPHERMENT),
        ("KeyAgreement", Self::KEY_AGREEMENT),
        ("CertSign", Self::KEY_CERT_SIGN),
        ("CRLSign", Self::CRL_SIGN),
        ("EncipherOnly", Self::ENCIPHER_ONLY),
        ("DecipherOnly", Self::DECIPHER_ONLY),
    ];

    /// The usage with a name of Go's `crypto/x509`, which the Vault API uses, with or without `KeyUsage`
    /// before it and in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("keyusage").unwrap_or(&name);
        Self::NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, usage)| *usage)
    }

    /// The same names, for an error text.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().map(|(name, _)| *name)
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All but `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it names nothing.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As x509-parser holds them: bit 0 is `digitalSignature`.
    pub(crate) fn from_parsed(flags: u16) -> Self {
        Self(flags.reverse_bits())
    }

    /// What a key of this kind can serve.
    fn served_by(self, kind: KeyKind) -> Self {
        let agreement = Self::KEY_AGREEMENT
            .and(Self::ENCIPHER_ONLY)
            .and(Self::DECIPHER_ONLY);
        let encipherment = Self::KEY_ENCIPHERMENT.and(Self::DATA_ENCIPHERMENT);
        match kind {
            KeyKind::Rsa { .. } => self.without(agreement),
            KeyKind::Ec { .. } => self.without(encipherment),
            KeyKind::Ed25519 => self.without(agreement.and(encipherment)),
        }
    }

    fn encode(self, der: &mut Der) {
        let [first, second] = self.0.to_be_bytes();
        // DER: trailing zero bits of a named bit list are left out (X.690, 11.2.2).
        let unused = u8::try_from(self.0.trailing_zeros() % 8).unwrap_or(0);
        if second == 0 {
            der.value(BIT_STRING, &[unused, first]);
        } else {
            der.value(BIT_STRING, &[unused, first, second]);
        }
    }
}

/// An object identifier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Oid(Vec<u8>);

impl Oid {
    pub(crate) fn from_parsed(oid: &asn1_rs::Oid<'_>) -> Self {
        Self(oid.as_bytes().to_vec())
    }

    pub(crate) fn encode(&self, der: &mut Der) {
        der.value(OBJECT_IDENTIFIER, &self.0);
    }
}

impl FromStr for Oid {
    type Err = CertError;

    /// Reads dotted decimal (`1.3.6.1.4.1.99999.1`).
    fn from_str(text: &str) -> Result<Self, CertError> {
        const ERROR: CertError = CertError::Malformed("an OID is written as 1.3.6.1.4.1.99999.1");
        let arcs: Vec<u64> = text
            .split('.')
            .map(|arc| arc.parse().ok().filter(|arc| *arc <= 1 << 48))
            .collect::<Option<_>>()
            .ok_or(ERROR)?;
        let (first, rest) = match *arcs.as_slice() {
            [root @ (0 | 1), second, ref rest @ ..] if second < 40 => (root * 40 + second, rest),
            [2, second, ref rest @ ..] => (80 + second, rest),
            _ => return Err(ERROR),
        };
        let mut content = Vec::new();
        for arc in std::iter::once(first).chain(rest.iter().copied()) {
            // Seven bits an octet, most significant first, all but the last marked.
            let octets = (0..9).rev().map(|index| arc >> (7 * index));
            let octets = octets
                .skip_while(|octet| *octet == 0)
                .map(|octet| octet | 0x80);
            content.extend(octets.map(|octet| octet.to_le_bytes()[0]));
            match content.last_mut() {
                Some(last) if arc > 0 => *last &= 0x7f,
                _ => content.push(0),
            }
        }
        Ok(Self(content))
    }
}

/// An extended key usage (RFC 5280, section 4.2.1.12).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExtKeyUsage(pub Oid);

impl ExtKeyUsage {
    const NAMES: [(&str, &str); 14] = [
        ("Any", "2.5.29.37.0"),
        ("ServerAuth", "1.3.6.1.5.5.7.3.1"),
        ("ClientAuth", "1.3.6.1.5.5.7.3.2"),
        ("CodeSigning", "1.3.6.1.5.5.7.3.3"),
        ("EmailProtection", "1.3.6.1.5.5.7.3.4"),
        ("IPSECEndSystem", "1.3.6.1.5.5.7.3.5"),
        ("IPSECTunnel", "1.3.6.1.5.5.7.3.6"),
        ("IPSECUser", "1.3.6.1.5.5.7.3.7"),
        ("TimeStamping", "1.3.6.1.5.5.7.3.8"),
        ("OCSPSigning", "1.3.6.1.5.5.7.3.9"),
        ("MicrosoftServerGatedCrypto", "1.3.6.1.4.1.311.10.3.3"),
        ("NetscapeServerGatedCrypto", "2.16.840.1.113730.4.1"),
        ("MicrosoftCommercialCodeSigning", "1.3.6.1.4.1.311.2.1.22"),
        ("MicrosoftKernelCodeSigning", "1.3.6.1.4.1.311.61.1.1"),
    ];

    /// `id-kp-serverAuth`.
    pub fn server_auth() -> Self {
        Self(Oid(vec![0x2b, 6, 1, 5, 5, 7, 3, 1]))
    }

    /// `id-kp-clientAuth`.
    pub fn client_auth() -> Self {
        Self(Oid(vec![0x2b, 6, 1, 5, 5, 7, 3, 2]))
    }

    /// `id-kp-codeSigning`.
    pub fn code_signing() -> Self {
        Self(Oid(vec![0x2b, 6, 1, 5, 5, 7, 3, 3]))
    }

    /// `id-kp-emailProtection`.
    pub fn email_protection() -> Self {
        Self(Oid(vec![0x2b, 6, 1, 5, 5, 7, 3, 4]))
    }

    /// The usage with a name of Go's `crypto/x509`, with or without `ExtKeyUsage` before it and in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("extkeyusage").unwrap_or(&name);
        let (_, oid) = Self::NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        oid.parse().ok().map(Self)
    }

    /// The same names, for an error text.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().map(|(name, _)| *name)
    }
}

/// Whether the subject is a CA (RFC 5280, section 4.2.1.9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BasicConstraints {
    /// A leaf, without the extension.
    #[default]
    Absent,
    /// A leaf that says so.
    EndEntity,
    /// A CA, with at most this many CAs below it.
    Ca {
        /// `None`: any number.
        path_len: Option<u8>,
    },
}

/// Where those who check a certificate find what they need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Urls {
    /// The issuer's own certificate (AIA `caIssuers`).
    pub issuing_certificates: Vec<String>,
    /// The CRL.
    pub crl_distribution_points: Vec<String>,
    /// OCSP responders (AIA `ocsp`).
    pub ocsp_servers: Vec<String>,
}

/// What goes into a certificate besides the key, the serial number and the issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// May be empty where there are SANs; those are then critical.
    pub subject: Name,
    /// Each once.
    pub sans: Vec<San>,
    /// See [`Validity`].
    pub validity: Validity,
    /// Always critical. What the key cannot serve is left out.
    pub key_usage: KeyUsage,
    /// Never critical.
    pub ext_key_usages: Vec<ExtKeyUsage>,
    /// Always critical.
    pub basic_constraints: BasicConstraints,
    /// Certificate policies.
    pub policies: Vec<Oid>,
    /// For a CA: the only DNS domains below it (name constraints, critical).
    pub permitted_dns_domains: Vec<String>,
    /// See [`Urls`].
    pub urls: Urls,
}

impl Profile {
    /// A leaf for TLS: digital signature, no names yet.
    pub fn leaf(validity: Validity) -> Self {
        Self {
            subject: Name::default(),
            sans: Vec::new(),
            validity,
            key_usage: KeyUsage::DIGITAL_SIGNATURE,
            ext_key_usages: Vec::new(),
            basic_constraints: BasicConstraints::Absent,
            policies: Vec::new(),
            permitted_dns_domains: Vec::new(),
            urls: Urls::default(),
        }
    }

    /// A CA: signs certificates and CRLs.
    pub fn ca(subject: Name, validity: Validity, path_len: Option<u8>) -> Self {
        Self {
            subject,
            key_usage: KeyUsage::KEY_CERT_SIGN.and(KeyUsage::CRL_SIGN),
            basic_constraints: BasicConstraints::Ca { path_len },
            ..Self::leaf(validity)
        }
    }

    /// A leaf that is an X.509-SVID: one URI SAN, digital signature, both sides of TLS.
    pub fn x509_svid(id: &SpiffeId, validity: Validity) -> Self {
        Self {
            sans: vec![San::Uri(id.to_string())],
            ext_key_usages: vec![ExtKeyUsage::server_auth(), ExtKeyUsage::client_auth()],
            ..Self::leaf(validity)
        }
    }

    /// The CA of a trust domain: its SPIFFE ID, without a path, is its URI SAN.
    pub fn svid_ca(
        domain: &TrustDomain,
        subject: Name,
        validity: Validity,
        path_len: Option<u8>,
    ) -> Self {
        Self {
            sans: vec![San::Uri(domain.id().to_string())],
            ..Self::ca(subject, validity, path_len)
        }
    }

    /// Refuses what no relying party would accept.
    pub(crate) fn check(&self) -> Result<(), CertError> {
        for san in &self.sans {
            san.check()?;
        }
        for uri in self.urls.all() {
            San::Uri(uri.clone()).check()?;
        }
        for domain in &self.permitted_dns_domains {
            San::Dns(domain.trim_start_matches('.').to_owned()).check()?;
        }
        let is_ca = matches!(self.basic_constraints, BasicConstraints::Ca { .. });
        if is_ca && self.subject.is_empty() {
            return Err(CertError::unacceptable(
                "a CA needs a subject, such as a common_name",
            ));
        }
        if self.subject.is_empty() && self.sans.is_empty() {
            return Err(CertError::unacceptable(
                "a certificate needs a subject or a subject alternative name",
            ));
        }
        if !is_ca && self.key_usage.contains(KeyUsage::KEY_CERT_SIGN) {
            return Err(CertError::unacceptable(
                "CertSign is for CA certificates only",
            ));
        }
        if !is_ca && !self.permitted_dns_domains.is_empty() {
            return Err(CertError::unacceptable(
                "permitted_dns_domains is for CA certificates only",
            ));
        }
        if self.validity.not_after <= self.validity.not_before {
            return Err(CertError::unacceptable(
                "not_after must be later than not_before",
            ));
        }
        Ok(())
    }

    /// Writes the extensions that depend on the profile and the key; those that name keys, see
    /// [`key_identifiers`].
    pub(crate) fn encode_extensions(&self, kind: KeyKind, der: &mut Der) {
        let usage = self.key_usage.served_by(kind);
        if !usage.is_empty() {
            extension(der, 15, true, |der| usage.encode(der));
        }
        match self.basic_constraints {
            BasicConstraints::Absent => {}
            BasicConstraints::EndEntity => extension(der, 19, true, |der| der.sequence(|_| {})),
            BasicConstraints::Ca { path_len } => extension(der, 19, true, |der| {
                der.sequence(|der| {
                    der.value(BOOLEAN, &[0xff]);
                    if let Some(path_len) = path_len {
                        der.unsigned(&[path_len]);
                    }
                });
            }),
        }
        if !self.ext_key_usages.is_empty() {
            extension(der, 37, false, |der| {
                der.sequence(|der| {
                    self.ext_key_usages
                        .iter()
                        .for_each(|usage| usage.0.encode(der));
                });
            });
        }
        if !self.sans.is_empty() {
            // RFC 5280, section 4.2.1.6: critical where the subject is empty.
            extension(der, 17, self.subject.is_empty(), |der| {
                der.sequence(|der| self.sans.iter().for_each(|san| san.encode(der)));
            });
        }
        if !self.permitted_dns_domains.is_empty() {
            extension(der, 30, true, |der| self.encode_name_constraints(der));
        }
        if !self.policies.is_empty() {
            extension(der, 32, false, |der| {
                der.sequence(|der| {
                    for policy in &self.policies {
                        der.sequence(|der| policy.encode(der));
                    }
                });
            });
        }
        self.urls.encode(der);
    }

    fn encode_name_constraints(&self, der: &mut Der) {
        der.sequence(|der| {
            der.nested(context_constructed(0), |der| {
                for domain in &self.permitted_dns_domains {
                    der.sequence(|der| der.value(context(2), domain.as_bytes()));
                }
            });
        });
    }
}

impl Urls {
    fn all(&self) -> impl Iterator<Item = &String> {
        let Self {
            issuing_certificates,
            crl_distribution_points,
            ocsp_servers,
        } = self;
        issuing_certificates
            .iter()
            .chain(crl_distribution_points)
            .chain(ocsp_servers)
    }

    fn encode(&self, der: &mut Der) {
        if !self.crl_distribution_points.is_empty() {
            extension(der, 31, false, |der| {
                der.sequence(|der| {
                    for url in &self.crl_distribution_points {
                        // DistributionPoint { distributionPoint [0] { fullName [0] GeneralNames } }
                        der.sequence(|der| {
                            der.nested(context_constructed(0), |der| {
                                der.nested(context_constructed(0), |der| {
                                    der.value(context(6), url.as_bytes());
                                });
                            });
                        });
                    }
                });
            });
        }
        let access = self.ocsp_servers.iter().map(|url| (1, url));
        let access = access.chain(self.issuing_certificates.iter().map(|url| (2, url)));
        if access.clone().next().is_some() {
            const AUTHORITY_INFO_ACCESS: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 1, 1];
            extension_with_oid(der, &AUTHORITY_INFO_ACCESS, false, |der| {
                der.sequence(|der| {
                    for (method, url) in access {
                        der.sequence(|der| {
                            der.value(OBJECT_IDENTIFIER, &[0x2b, 6, 1, 5, 5, 7, 48, method]);
                            der.value(context(6), url.as_bytes());
                        });
                    }
                });
            });
        }
    }
}

/// Writes the extensions that name keys: the subject's own, and that of its issuer.
pub(crate) fn key_identifiers(der: &mut Der, subject: Option<&[u8]>, authority: Option<&[u8]>) {
    if let Some(id) = subject {
        extension(der, 14, false, |der| der.value(OCTET_STRING, id));
    }
    if let Some(id) = authority {
        extension(der, 35, false, |der| {
            der.sequence(|der| der.value(context(0), id));
        });
    }
}

/// An extension of the arc 2.5.29.
pub(crate) fn extension(der: &mut Der, arc: u8, critical: bool, write: impl FnOnce(&mut Der)) {
    extension_with_oid(der, &[0x55, 0x1d, arc], critical, write);
}

fn extension_with_oid(der: &mut Der, oid: &[u8], critical: bool, write: impl FnOnce(&mut Der)) {
    der.sequence(|der| {
        der.value(OBJECT_IDENTIFIER, oid);
        if critical {
            der.value(BOOLEAN, &[0xff]);
        }
        der.nested(OCTET_STRING, write);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_usage_is_a_named_bit_list_without_trailing_zeros() {
        let cases = [
            (KeyUsage::DIGITAL_SIGNATURE, vec![3, 2, 7, 0x80]),
            (
                KeyUsage::KEY_CERT_SIGN.and(KeyUsage::CRL_SIGN),
                vec![3, 2, 1, 0x06],
            ),
            (KeyUsage::DECIPHER_ONLY, vec![3, 3, 7, 0, 0x80]),
            (
                KeyUsage::KEY_AGREEMENT.and(KeyUsage::DECIPHER_ONLY),
                vec![3, 3, 7, 0x08, 0x80],
            ),
            (KeyUsage::ENCIPHER_ONLY, vec![3, 2, 0, 0x01]),
        ];
        for (usage, want) in cases {
            assert_eq!(Der::build(|der| usage.encode(der)), want, "{usage:?}");
        }
    }

    #[test]
    fn usages_have_the_names_of_the_vault_api() {
        assert_eq!(
            KeyUsage::from_name("keyusagedigitalsignature"),
            Some(KeyUsage::DIGITAL_SIGNATURE)
        );
        assert_eq!(KeyUsage::from_name("CRLSign"), Some(KeyUsage::CRL_SIGN));
        assert_eq!(KeyUsage::from_name("nonsense"), None);
        assert_eq!(
            ExtKeyUsage::from_name("ExtKeyUsageClientAuth"),
            Some(ExtKeyUsage::client_auth())
        );
        assert_eq!(
            ExtKeyUsage::from_name("serverauth"),
            Some(ExtKeyUsage::server_auth())
        );
        for name in ExtKeyUsage::names() {
            assert!(ExtKeyUsage::from_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn an_oid_is_dotted_decimal() {
        for good in [
            "1.3.6.1.4.1.99999.1",
            "1.39.16384.0.127.128",
            "0.9",
            "2.5.29.32.0",
        ] {
            let oid = good.parse::<Oid>().unwrap();
            let read = asn1_rs::Oid::new(oid.0.clone().into());
            assert_eq!(read.to_id_string(), good);
        }
        assert_eq!("2.999.3".parse::<Oid>().unwrap().0, [0x88, 0x37, 3]);
        for bad in [
            "",
            "1",
            "3.1",
            "1.40",
            "1.a",
            "1..2",
            "-1.2",
            "1.2.99999999999999999999",
        ] {
            assert!(bad.parse::<Oid>().is_err(), "{bad}");
        }
        assert_eq!(
            "1.3.6.1.5.5.7.3.2".parse(),
            Ok(ExtKeyUsage::client_auth().0)
        );
    }
}
