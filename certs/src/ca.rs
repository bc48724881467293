//! Signing certificates: a root signs itself, an [`Issuer`] signs others.
//!
//! **Invariant:** nothing outlives its issuer, and no CA comes to stand below an issuer whose path length
//! forbids it.

use crate::certificate::Certificate;
use crate::der::{Der, context_constructed};
use crate::error::CertError;
use crate::key::{KeyPair, PublicKey};
use crate::name::Name;
use crate::profile::{BasicConstraints, KeyUsage, Profile, key_identifiers};
use crate::serial::Serial;

/// A root: a certificate for `key`, signed by `key`.
///
/// # Errors
/// [`CertError::Unacceptable`] where `profile` cannot stand in a certificate.
pub fn self_signed(
    key: &KeyPair,
    profile: &Profile,
    serial: &Serial,
) -> Result<Certificate, CertError> {
    let key_id = key.public().key_id();
    encode(
        profile,
        serial,
        key.public(),
        (&profile.subject, key_id),
        key,
    )
}

/// A CA that can sign: its certificate and the key that belongs to it.
pub struct Issuer {
    certificate: Certificate,
    key: KeyPair,
}

impl Issuer {
    /// Puts a CA certificate and its key together.
    ///
    /// # Errors
    /// [`CertError::KeyMismatch`], or [`CertError::Unacceptable`] where the certificate is not a CA's.
    pub fn new(certificate: Certificate, key: KeyPair) -> Result<Self, CertError> {
        if certificate.public_key() != key.public() {
            return Err(CertError::KeyMismatch);
        }
        let usage = certificate.key_usage();
        let may_sign = usage.is_empty() || usage.contains(KeyUsage::KEY_CERT_SIGN);
        if !certificate.is_ca() || !may_sign || certificate.subject().is_empty() {
            return Err(CertError::unacceptable(
                "the certificate is not a CA's: it needs a subject, cA=true and keyCertSign",
            ));
        }
        Ok(Self { certificate, key })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its key.
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// The key identifier that what it signs refers to.
    pub fn key_id(&self) -> &[u8] {
        let own = self.certificate.key_id();
        own.unwrap_or_else(|| self.key.public().key_id())
    }

    /// Signs a certificate for `public_key`.
    ///
    /// # Errors
    /// [`CertError::BeyondIssuer`] where it would end after the issuer; [`CertError::Unacceptable`] where
    /// `profile` cannot stand in a certificate or the issuer may not sign a CA.
    pub fn sign(
        &self,
        profile: &Profile,
        public_key: &PublicKey,
        serial: &Serial,
    ) -> Result<Certificate, CertError> {
        let issuer_not_after = self.certificate.validity().not_after();
        if profile.validity.not_after() > issuer_not_after {
            return Err(CertError::BeyondIssuer { issuer_not_after });
        }
        if let BasicConstraints::Ca { path_len } = profile.basic_constraints {
            let allowed = self.certificate.path_len();
            let asked = path_len.map_or(u32::MAX, u32::from);
            if allowed.is_some_and(|allowed| asked >= allowed) {
                return Err(CertError::unacceptable(
                    "the issuer's path length does not allow such a CA below it: ask for a smaller \
                     max_path_length",
                ));
            }
        }
        public_key.check_strength()?;
        let issuer = (self.certificate.subject(), self.key_id());
        encode(profile, serial, public_key, issuer, &self.key)
    }
}

/// Encodes, signs and reads back (RFC 5280, section 4.1).
fn encode(
    profile: &Profile,
    serial: &Serial,
    public_key: &PublicKey,
    (issuer, issuer_key_id): (&Name, &[u8]),
    key: &KeyPair,
) -> Result<Certificate, CertError> {
    profile.check()?;
    let mut validity = Ok(());
    let tbs = Der::build(|der| {
        der.sequence(|der| {
            der.nested(context_constructed(0), |der| der.unsigned(&[2]));
            der.unsigned(serial.as_be_bytes());
            key.encode_signature_algorithm(der);
            der.raw(issuer.der());
            der.sequence(|der| {
                validity = der
                    .time(profile.validity.not_before())
                    .and_then(|()| der.time(profile.validity.not_after()));
            });
            der.raw(profile.subject.der());
            der.raw(public_key.spki());
            der.nested(context_constructed(3), |der| {
                der.sequence(|der| {
                    profile.encode_extensions(public_key.kind(), der);
                    key_identifiers(der, Some(public_key.key_id()), Some(issuer_key_id));
                });
            });
        });
    });
    validity?;
    Certificate::from_der(&signed(key, &tbs)?)
}

/// `SEQUENCE { content, algorithm, signature }`, the outer form of certificates, CSRs and CRLs.
pub(crate) fn signed(key: &KeyPair, content: &[u8]) -> Result<Vec<u8>, CertError> {
    let signature = key.sign(content)?;
    Ok(Der::build(|der| {
        der.sequence(|der| {
            der.raw(content);
            key.encode_signature_algorithm(der);
            der.bits(|der| der.raw(&signature));
        });
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::{Duration, SystemTime};

    use x509_parser::prelude::FromDer as _;

    use super::*;
    use crate::key::KeyAlgorithm;
    use crate::name::Subject;
    use crate::profile::{ExtKeyUsage, Urls, Validity};
    use crate::san::San;
    use crate::spiffe::{SpiffeId, SvidError, TrustDomain};
    use crate::testing::{File, openssl};
    use crate::{Csr, chain_of};

    const HOUR: Duration = Duration::from_secs(3600);

    /// The machine's own time: OpenSSL checks validity against it.
    #[expect(
        clippy::disallowed_methods,
        reason = "OpenSSL checks against this clock"
    )]
    pub(crate) fn now() -> SystemTime {
        SystemTime::now()
    }

    fn named(common_name: &str) -> Name {
        let subject = Subject {
            organizations: vec!["Example".into()],
            organizational_units: vec!["one".into(), "two".into()],
            common_name: Some(common_name.into()),
            ..Subject::default()
        };
        subject.to_name().unwrap()
    }

    pub(crate) fn root(algorithm: KeyAlgorithm, path_len: Option<u8>) -> Issuer {
        let key = KeyPair::generate(algorithm).unwrap();
        let validity = Validity::until(now(), now() + 100 * HOUR);
        let profile = Profile::ca(named("root"), validity, path_len);
        let certificate = self_signed(&key, &profile, &Serial::new(now(), [1; 14])).unwrap();
        Issuer::new(certificate, key).unwrap()
    }

    fn leaf_profile() -> Profile {
        Profile {
            subject: named("a.example.com"),
            sans: vec![
                San::Dns("a.example.com".into()),
                San::Ip("::1".parse().unwrap()),
            ],
            key_usage: KeyUsage::DIGITAL_SIGNATURE
                .and(KeyUsage::KEY_AGREEMENT)
                .and(KeyUsage::KEY_ENCIPHERMENT),
            ext_key_usages: vec![ExtKeyUsage::server_auth(), ExtKeyUsage::client_auth()],
            policies: vec!["1.3.6.1.4.1.99999.1".parse().unwrap()],
            urls: Urls {
                issuing_certificates: vec!["http://ca.example.com/ca".into()],
                crl_distribution_points: vec!["http://ca.example.com/crl".into()],
                ocsp_servers: vec!["http://ca.example.com/ocsp".into()],
            },
            ..Profile::leaf(Validity::until(now(), now() + HOUR))
        }
    }

    #[test]
    fn openssl_verifies_root_intermediate_and_leaf_of_every_algorithm() {
        for algorithm in crate::key::tests::ALL {
            let root = root(algorithm, Some(1));
            let key = KeyPair::generate(algorithm).unwrap();
            let validity = Validity::until(now(), now() + 10 * HOUR);
            let wanted = Profile::ca(named("intermediate"), validity, Some(0));
            let csr = Csr::build(&key, &wanted).unwrap();
            let serial = Serial::new(now(), [2; 14]);
            let certificate = root.sign(&wanted, &csr.public_key, &serial).unwrap();
            let intermediate = Issuer::new(certificate, key).unwrap();

            let leaf_key = KeyPair::generate(algorithm).unwrap();
            let serial = Serial::new(now(), [3; 14]);
            let leaf = intermediate
                .sign(&leaf_profile(), leaf_key.public(), &serial)
                .unwrap();

            let pool = [
                root.certificate().clone(),
                intermediate.certificate().clone(),
            ];
            let chain = chain_of(&leaf, &pool);
            assert!(chain == [pool[1].clone(), pool[0].clone()]);
            assert_eq!(*leaf.serial(), serial);
            assert_eq!(leaf.authority_key_id(), intermediate.certificate().key_id());

            let anchor = File::holding(root.certificate().pem().as_bytes());
            let between = File::holding(intermediate.certificate().pem().as_bytes());
            let leaf = File::holding(leaf.pem().as_bytes());
            openssl(&[
                "verify",
                "-x509_strict",
                "-purpose",
                "sslserver",
                "-verify_hostname",
                "a.example.com",
                "-CAfile",
                &anchor.0,
                "-untrusted",
                &between.0,
                &leaf.0,
            ]);
        }
    }

    #[test]
    fn a_leaf_has_exactly_the_extensions_that_a_linter_wants() {
        let cases = [
            (KeyAlgorithm::EcP256, "Digital Signature, Key Agreement"),
            (KeyAlgorithm::Rsa2048, "Digital Signature, Key Encipherment"),
            (KeyAlgorithm::Ed25519, "Digital Signature"),
        ];
        let root = root(KeyAlgorithm::EcP256, None);
        for (algorithm, usage) in cases {
            let key = KeyPair::generate(algorithm).unwrap();
            let serial = Serial::new(now(), [3; 14]);
            let leaf = root.sign(&leaf_profile(), key.public(), &serial).unwrap();
            let (_, parsed) =
                x509_parser::certificate::X509Certificate::from_der(leaf.der()).unwrap();
            assert_eq!(parsed.version().0, 2);
            let extensions: Vec<(String, bool)> = parsed
                .extensions()
                .iter()
                .map(|extension| (extension.oid.to_id_string(), extension.critical))
                .collect();
            let want = [
                ("2.5.29.15", true),
                ("2.5.29.37", false),
                ("2.5.29.17", false),
                ("2.5.29.32", false),
                ("2.5.29.31", false),
                ("1.3.6.1.5.5.7.1.1", false),
                ("2.5.29.14", false),
                ("2.5.29.35", false),
            ];
            assert_eq!(
                extensions,
                want.map(|(oid, critical)| (oid.to_owned(), critical))
            );
            let got = parsed.key_usage().unwrap().unwrap().value.to_string();
            assert_eq!(got, usage, "{algorithm:?}");
            let backdated = now().duration_since(leaf.validity().not_before()).unwrap();
            assert!((30..40).contains(&backdated.as_secs()));
        }
    }

    #[test]
    fn nothing_outlives_its_issuer_and_no_ca_stands_where_it_may_not() {
        let root = root(KeyAlgorithm::EcP256, Some(1));
        let key = KeyPair::generate(KeyAlgorithm::EcP256).unwrap();
        let serial = Serial::new(now(), [3; 14]);
        let end = root.certificate().validity().not_after();
        let until = |not_after| Profile {
            validity: Validity::until(now(), not_after),
            ..leaf_profile()
        };
        assert!(root.sign(&until(end), key.public(), &serial).is_ok());
        let late = until(end + Duration::from_secs(1));
        assert_eq!(
            root.sign(&late, key.public(), &serial),
            Err(CertError::BeyondIssuer {
                issuer_not_after: end
            })
        );
        assert!(matches!(
            root.sign(&until(now() - HOUR), key.public(), &serial),
            Err(CertError::Unacceptable(_))
        ));
        for (path_len, want) in [(Some(0), true), (Some(1), false), (None, false)] {
            let profile = Profile::ca(named("x"), Validity::until(now(), end), path_len);
            let signed = root.sign(&profile, key.public(), &serial);
            assert_eq!(signed.is_ok(), want, "{path_len:?}");
        }
    }

    #[test]
    fn a_certificate_signs_only_with_its_key_and_only_as_a_ca() {
        let root = root(KeyAlgorithm::EcP256, None);
        let key = KeyPair::generate(KeyAlgorithm::EcP256).unwrap();
        let stranger = Issuer::new(root.certificate().clone(), key);
        assert_eq!(stranger.err(), Some(CertError::KeyMismatch));
        let key = KeyPair::generate(KeyAlgorithm::EcP256).unwrap();
        let serial = Serial::new(now(), [3; 14]);
        let leaf = root.sign(&leaf_profile(), key.public(), &serial).unwrap();
        assert!(matches!(
            Issuer::new(leaf, key),
            Err(CertError::Unacceptable(_))
        ));
    }

    #[test]
    fn an_issuer_made_by_others_keeps_its_name_to_the_byte() {
        let key = File::holding(&openssl(&[
            "ecparam",
            "-name",
            "prime256v1",
            "-genkey",
            "-noout",
        ]));
        let theirs = openssl(&[
            "req",
            "-x509",
            "-new",
            "-key",
            &key.0,
            "-days",
            "10",
            "-multivalue-rdn",
            "-subj",
            "/DC=org+UID=7/OU=a/OU=b/OU=c/CN=theirs",
            "-addext",
            "subjectKeyIdentifier=hash",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]);
        let key_text = std::fs::read(&key.0).unwrap();
        let issuer = Issuer::new(
            Certificate::from_pem_or_der(&theirs).unwrap(),
            KeyPair::from_pem_or_der(&key_text).unwrap(),
        )
        .unwrap();
        let key = KeyPair::generate(KeyAlgorithm::EcP256).unwrap();
        let serial = Serial::new(now(), [3; 14]);
        let leaf = issuer.sign(&leaf_profile(), key.public(), &serial).unwrap();
        assert_eq!(leaf.issuer(), issuer.certificate().subject());
        assert_eq!(leaf.authority_key_id(), issuer.certificate().key_id());
        let (anchor, leaf) = (File::holding(&theirs), File::holding(leaf.pem().as_bytes()));
        openssl(&["verify", "-CAfile", &anchor.0, &leaf.0]);
    }

    #[test]
    fn an_svid_is_one_and_what_breaks_a_rule_is_none() {
        let domain = TrustDomain::new("example.org").unwrap();
        let root_key = KeyPair::generate(KeyAlgorithm::EcP256).unwrap();
        let validity = Validity::until(now(), now() + HOUR);
        let profile = Profile::svid_ca(&domain, named("root"), validity, None);
        let root = self_signed(&root_key, &profile, &Serial::new(now(), [1; 14])).unwrap();
        assert_eq!(root.sans(), [San::Uri("spiffe://example.org".into())]);
        assert_eq!(SpiffeId::of_svid(&root), Err(SvidError::IsCa));
        let root = Issuer::new(root, root_key).unwrap();

        let id: SpiffeId = "spiffe://example.org/web".parse().unwrap();
        let key = KeyPair::generate(KeyAlgorithm::EcP256).unwrap();
        let serial = Serial::new(now(), [2; 14]);
        let sign = |profile: &Profile| root.sign(profile, key.public(), &serial).unwrap();
        let good = Profile::x509_svid(&id, validity);
        let svid = sign(&good);
        assert_eq!(SpiffeId::of_svid(&svid), Ok(id));
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(svid.der()).unwrap();
        let san = parsed.subject_alternative_name().unwrap().unwrap();
        assert!(san.critical, "the subject is empty");

        let uri = |uri: &str| San::Uri(uri.into());
        let cases = [
            (vec![], KeyUsage::DIGITAL_SIGNATURE, SvidError::UriSans),
            (
                vec![uri("spiffe://example.org/a"), uri("spiffe://example.org/b")],
                KeyUsage::DIGITAL_SIGNATURE,
                SvidError::UriSans,
            ),
            (
                vec![uri("spiffe://example.org")],
                KeyUsage::DIGITAL_SIGNATURE,
                SvidError::NoPath,
            ),
            (
                vec![uri("spiffe://example.org/a")],
                KeyUsage::KEY_AGREEMENT,
                SvidError::KeyUsage,
            ),
            (
                vec![uri("spiffe://example.org/a")],
                KeyUsage::DIGITAL_SIGNATURE.and(KeyUsage::CRL_SIGN),
                SvidError::KeyUsage,
            ),
        ];
        for (sans, key_usage, want) in cases {
            let bad = Profile {
                subject: named("x"),
                sans,
                key_usage,
                ..good.clone()
            };
            assert_eq!(SpiffeId::of_svid(&sign(&bad)), Err(want));
        }
    }

    #[test]
    fn a_profile_that_no_relying_party_would_accept_is_refused() {
        let root = root(KeyAlgorithm::EcP256, None);
        let key = KeyPair::generate(KeyAlgorithm::EcP256).unwrap();
        let serial = Serial::new(now(), [3; 14]);
        let good = leaf_profile();
        let cases = [
            (
                "nobody",
                Profile {
                    subject: Name::default(),
                    sans: vec![],
                    ..good.clone()
                },
            ),
            (
                "a leaf that signs",
                Profile {
                    key_usage: KeyUsage::KEY_CERT_SIGN,
                    ..good.clone()
                },
            ),
            (
                "a CA without a name",
                Profile::ca(Name::default(), good.validity, None),
            ),
            (
                "a bad host",
                Profile {
                    sans: vec![San::Dns("a b".into())],
                    ..good.clone()
                },
            ),
            (
                "a bad URL",
                Profile {
                    urls: Urls {
                        crl_distribution_points: vec!["crl".into()],
                        ..Urls::default()
                    },
                    ..good.clone()
                },
            ),
        ];
        for (name, profile) in cases {
            let signed = root.sign(&profile, key.public(), &serial);
            assert!(matches!(signed, Err(CertError::Unacceptable(_))), "{name}");
        }
    }

    #[test]
    fn a_chain_ends_where_the_pool_does_and_does_not_loop() {
        let one = root(KeyAlgorithm::EcP256, None);
        let two = root(KeyAlgorithm::EcP256, None);
        let wanted = |name| Profile::ca(named(name), Validity::until(now(), now() + HOUR), None);
        // Two CAs that certify each other.
        let serial = Serial::new(now(), [3; 14]);
        let cross = |by: &Issuer, of: &Issuer, name| {
            by.sign(&wanted(name), of.key().public(), &serial).unwrap()
        };
        let a_by_root = cross(&one, &two, "a");
        let a = Issuer::new(
            a_by_root.clone(),
            KeyPair::from_pem_or_der(&two.key().to_pkcs8_der().unwrap()).unwrap(),
        )
        .unwrap();
        let b_by_a = cross(&a, &one, "b");
        assert_eq!(chain_of(&b_by_a, &[]), []);
        let one_link = std::slice::from_ref(&a_by_root);
        assert_eq!(chain_of(&b_by_a, one_link), one_link);
        let pool = [a_by_root.clone(), b_by_a.clone(), one.certificate().clone()];
        assert_eq!(
            chain_of(&b_by_a, &pool),
            [a_by_root, one.certificate().clone()]
        );
    }

    proptest::proptest! {
        #[test]
        fn damage_to_a_certificate_never_panics(at in 0_usize..1000, byte: u8) {
            use std::sync::LazyLock;
            static GOOD: LazyLock<Vec<u8>> =
                LazyLock::new(|| root(KeyAlgorithm::EcP256, None).certificate().der().to_vec());
            let mut der = GOOD.clone();
            let at = at % der.len();
            der[at] = byte;
            if let Ok(read) = Certificate::from_der(&der) {
                proptest::prop_assert_eq!(read.is_self_signed(), der == *GOOD);
            }
        }
    }
}
