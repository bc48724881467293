//! [`Csr`]: certificate signing requests (PKCS#10, RFC 2986), read and made.
//!
//! **Invariant:** a [`Csr`] that exists was signed by the key that it names.

use aws_lc_rs::signature::{
    ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, UnparsedPublicKey,
};
use rustls_pki_types::pem::SectionKind;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::extensions::{ExtendedKeyUsage, ParsedExtension};
use x509_parser::oid_registry::{
    OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ECDSA_WITH_SHA512,
};
use x509_parser::prelude::FromDer as _;

use crate::ca::signed;
use crate::der::{Der, OBJECT_IDENTIFIER, SET, context_constructed};
use crate::error::CertError;
use crate::key::{KeyKind, KeyPair, PublicKey};
use crate::name::Name;
use crate::pem::{blocks, is_pem, pem};
use crate::profile::{ExtKeyUsage, KeyUsage, Oid, Profile};
use crate::san::San;

/// A request to certify a key, whose signature verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Csr {
    der: Vec<u8>,
    /// The name that is asked for.
    pub subject: Name,
    /// The key to certify.
    pub public_key: PublicKey,
    /// The alternative names that are asked for.
    pub sans: Vec<San>,
    /// Whether it asks for alternative names of other kinds as well.
    pub has_other_sans: bool,
    /// The key usage that is asked for; nothing where it does not say.
    pub key_usage: KeyUsage,
    /// The extended key usages that are asked for.
    pub ext_key_usages: Vec<ExtKeyUsage>,
}

impl Csr {
    /// Reads a CSR in PEM or DER and verifies its signature.
    ///
    /// # Errors
    /// [`CertError::Malformed`], [`CertError::BadSignature`], and [`CertError::Unacceptable`] for a weak key.
    pub fn from_pem_or_der(input: &[u8]) -> Result<Self, CertError> {
        if !is_pem(input) {
            return Self::from_der(input);
        }
        blocks(input)?
            .iter()
            .find(|(kind, _)| *kind == SectionKind::Csr)
            .map_or(Err(NO_CSR), |(_, der)| Self::from_der(der))
    }

    fn from_der(der: &[u8]) -> Result<Self, CertError> {
        let (rest, parsed) = X509CertificationRequest::from_der(der).map_err(|_| NO_CSR)?;
        if !rest.is_empty() {
            return Err(NO_CSR);
        }
        let info = &parsed.certification_request_info;
        let public_key = PublicKey::from_spki(info.subject_pki.raw)?;
        public_key.check_strength()?;
        verify(&parsed, &public_key)?;
        let mut csr = Self {
            der: der.to_vec(),
            subject: Name::from_parsed(&info.subject),
            public_key,
            sans: Vec::new(),
            has_other_sans: false,
            key_usage: KeyUsage::default(),
            ext_key_usages: Vec::new(),
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            match extension {
                ParsedExtension::SubjectAlternativeName(names) => {
                    let sans = names.general_names.iter().map(San::from_parsed);
                    for san in sans {
                        csr.has_other_sans |= san.is_none();
                        csr.sans.extend(san);
                    }
                }
                ParsedExtension::KeyUsage(usage) => {
                    csr.key_usage = KeyUsage::from_parsed(usage.flags);
                }
                ParsedExtension::ExtendedKeyUsage(usages) => {
                    csr.ext_key_usages = ext_key_usages(usages);
                }
                ParsedExtension::ParseError { .. } => return Err(NO_CSR),
                _ => {}
            }
        }
        Ok(csr)
    }

    /// Makes a CSR for what `wanted` describes: its subject, and as extensions its names, usages and basic
    /// constraints. Validity, policies and URLs are the issuer's to choose.
    ///
    /// # Errors
    /// [`CertError::Crypto`], or as [`Csr::from_pem_or_der`] where the names are not acceptable.
    pub fn build(key: &KeyPair, wanted: &Profile) -> Result<Self, CertError> {
        for san in &wanted.sans {
            san.check()?;
        }
        let kind = key.public().kind();
        let extensions = Der::build(|der| wanted.encode_extensions(kind, der));
        let info = Der::build(|der| {
            der.sequence(|der| {
                der.unsigned(&[0]);
                der.raw(wanted.subject.der());
                der.raw(key.public().spki());
                der.nested(context_constructed(0), |der| {
                    if extensions.is_empty() {
                        return;
                    }
                    der.sequence(|der| {
                        // extensionRequest (RFC 2985, section 5.4.2)
                        let oid = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
                        der.value(OBJECT_IDENTIFIER, &oid);
                        der.nested(SET, |der| der.sequence(|der| der.raw(&extensions)));
                    });
                });
            });
        });
        Self::from_der(&signed(key, &info)?)
    }

    /// The CSR in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The CSR in PEM, without a line break at the end.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE REQUEST", &self.der).to_string()
    }
}

const UNKNOWN_SIGNATURE: CertError = CertError::Malformed(
    "is signed in a way that is not supported: use SHA-256, SHA-384 or SHA-512",
);

const NO_CSR: CertError = CertError::Malformed("is not a valid PKCS#10 certificate request");

/// Verifies a CSR with the key that it names. x509-parser knows neither P-521 nor what is too weak.
fn verify(parsed: &X509CertificationRequest<'_>, key: &PublicKey) -> Result<(), CertError> {
    let algorithm = &parsed.signature_algorithm.algorithm;
    if [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(algorithm) {
        return Err(CertError::unacceptable(
            "is signed with SHA-1: sign it with SHA-256 or better",
        ));
    }
    if key.kind() != (KeyKind::Ec { bits: 521 }) {
        return parsed.verify_signature().map_err(|error| match error {
            X509Error::SignatureUnsupportedAlgorithm => UNKNOWN_SIGNATURE,
            _ => CertError::BadSignature,
        });
    }
    let hashes = [
        (OID_SIG_ECDSA_WITH_SHA256, &ECDSA_P521_SHA256_ASN1),
        (OID_SIG_ECDSA_WITH_SHA384, &ECDSA_P521_SHA384_ASN1),
        (OID_SIG_ECDSA_WITH_SHA512, &ECDSA_P521_SHA512_ASN1),
    ];
    let known = hashes.iter().find(|(oid, _)| oid == algorithm);
    let (_, algorithm) = known.ok_or(UNKNOWN_SIGNATURE)?;
    let info = &parsed.certification_request_info;
    UnparsedPublicKey::new(*algorithm, &info.subject_pki.subject_public_key.data)
        .verify(info.raw, &parsed.signature_value.data)
        .map_err(|_| CertError::BadSignature)
}

fn ext_key_usages(parsed: &ExtendedKeyUsage<'_>) -> Vec<ExtKeyUsage> {
    let flags = [
        (parsed.any, "Any"),
        (parsed.server_auth, "ServerAuth"),
        (parsed.client_auth, "ClientAuth"),
        (parsed.code_signing, "CodeSigning"),
        (parsed.email_protection, "EmailProtection"),
        (parsed.time_stamping, "TimeStamping"),
        (parsed.ocsp_signing, "OCSPSigning"),
    ];
    flags
        .iter()
        .filter(|(is_set, _)| *is_set)
        .filter_map(|(_, name)| ExtKeyUsage::from_name(name))
        .chain(
            parsed
                .other
                .iter()
                .map(|oid| ExtKeyUsage(Oid::from_parsed(oid))),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::name::Subject;
    use crate::profile::Validity;
    use crate::testing::{File, openssl, openssl_with};

    fn wanted() -> Profile {
        let now = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let subject = Subject {
            common_name: Some("a.example.com".into()),
            ..Subject::default()
        };
        Profile {
            subject: subject.to_name().unwrap(),
            sans: vec![
                San::Dns("a.example.com".into()),
                San::Ip("10.0.0.1".parse().unwrap()),
                San::Uri("spiffe://td/a".into()),
            ],
            ..Profile::leaf(Validity::until(now, now + Duration::from_secs(60)))
        }
    }

    #[test]
    fn openssl_verifies_what_is_made_and_its_own_is_read() {
        for algorithm in crate::key::tests::ALL {
            let key = KeyPair::generate(algorithm).unwrap();
            let csr = Csr::build(&key, &wanted()).unwrap();
            let text = openssl_with(&["req", "-verify", "-noout", "-text"], csr.pem().as_bytes());
            let text = String::from_utf8(text).unwrap();
            assert!(
                text.contains("DNS:a.example.com, IP Address:10.0.0.1"),
                "{text}"
            );
            let read = Csr::from_pem_or_der(csr.pem().as_bytes()).unwrap();
            assert_eq!(read, csr);
            assert_eq!(read.sans, wanted().sans);
            assert_eq!(read.key_usage, KeyUsage::DIGITAL_SIGNATURE);
            assert!(&read.public_key == key.public());
        }
        let key = File::holding(&openssl(&["genrsa", "2048"]));
        let theirs = openssl(&[
            "req",
            "-new",
            "-key",
            &key.0,
            "-subj",
            "/O=Ex/CN=b",
            "-addext",
            "subjectAltName=DNS:b,email:a@b,otherName:1.2.3;UTF8:x",
            "-addext",
            "extendedKeyUsage=serverAuth,1.2.3.4",
        ]);
        let csr = Csr::from_pem_or_der(&theirs).unwrap();
        assert_eq!(csr.subject.common_name().as_deref(), Some("b"));
        assert_eq!(csr.sans, [San::Dns("b".into()), San::Email("a@b".into())]);
        assert!(csr.has_other_sans);
        assert_eq!(
            csr.ext_key_usages,
            [
                ExtKeyUsage::server_auth(),
                ExtKeyUsage("1.2.3.4".parse().unwrap())
            ]
        );
    }

    #[test]
    fn a_csr_signed_by_another_key_or_with_a_weak_one_is_refused() {
        let key = KeyPair::generate(crate::KeyAlgorithm::EcP256).unwrap();
        let mut der = Csr::build(&key, &wanted()).unwrap().der().to_vec();
        let at = der.windows(4).position(|bytes| bytes == b"a.ex").unwrap();
        der[at] = b'b';
        assert_eq!(Csr::from_pem_or_der(&der), Err(CertError::BadSignature));

        let key = File::holding(&openssl(&["genrsa", "1024"]));
        let weak = openssl(&["req", "-new", "-key", &key.0, "-subj", "/CN=b"]);
        assert!(matches!(
            Csr::from_pem_or_der(&weak),
            Err(CertError::Unacceptable(_))
        ));
        assert_eq!(Csr::from_pem_or_der(b"junk"), Err(NO_CSR));
    }

    #[test]
    fn what_openssl_signs_verifies_with_every_key_and_hash_but_the_weak() {
        let keys = [
            vec!["ecparam", "-name", "prime256v1", "-genkey", "-noout"],
            vec!["ecparam", "-name", "secp384r1", "-genkey", "-noout"],
            vec!["ecparam", "-name", "secp521r1", "-genkey", "-noout"],
            vec!["genrsa", "2048"],
        ];
        for arguments in keys {
            let key = File::holding(&openssl(&arguments));
            for hash in ["-sha256", "-sha384", "-sha512", "-sha1"] {
                let request = openssl(&["req", "-new", "-key", &key.0, "-subj", "/CN=b", hash]);
                let read = Csr::from_pem_or_der(&request);
                // x509-parser has no P-256 or P-384 with SHA-512.
                let small = matches!(arguments[2..], ["prime256v1" | "secp384r1", ..]);
                let want = hash != "-sha1" && !(small && hash == "-sha512");
                assert_eq!(read.is_ok(), want, "{arguments:?} {hash}: {read:?}");
                assert_ne!(read, Err(CertError::BadSignature), "{arguments:?} {hash}");
            }
        }
        let key = File::holding(&openssl(&[
            "ecparam",
            "-name",
            "secp521r1",
            "-genkey",
            "-noout",
        ]));
        let arguments = [
            "req",
            "-new",
            "-key",
            &key.0,
            "-subj",
            "/CN=b.org",
            "-outform",
            "DER",
        ];
        let mut request = openssl(&arguments);
        let at = request
            .windows(5)
            .position(|bytes| bytes == b"b.org")
            .unwrap();
        request[at] = b'c';
        assert_eq!(Csr::from_pem_or_der(&request), Err(CertError::BadSignature));
    }

    proptest::proptest! {
        #[test]
        fn damage_never_panics_and_never_changes_what_is_asked_for(at in 0_usize..300, byte: u8) {
            use std::sync::LazyLock;
            static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
                let key = KeyPair::generate(crate::KeyAlgorithm::Ed25519).unwrap();
                Csr::build(&key, &wanted()).unwrap().der().to_vec()
            });
            let mut der = GOOD.clone();
            let at = at % der.len();
            der[at] = byte;
            if let Ok(read) = Csr::from_pem_or_der(&der) {
                let good = Csr::from_pem_or_der(&GOOD).unwrap();
                proptest::prop_assert_eq!(Csr { der: good.der.clone(), ..read }, good);
            }
        }
    }
}
