//! Keys: made, read, written, and used to sign.
//!
//! **Invariant:** private keys have no `Debug` and leave as [`Zeroizing`] memory only.

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use aws_lc_rs::{digest, error::Unspecified};
use rustls_pki_types::pem::SectionKind;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
    OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey as ParsedKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use crate::der::{Der, NULL, OBJECT_IDENTIFIER};
use crate::error::CertError;
use crate::pem::{blocks, is_pem, pem};

/// A kind of key that can be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256; the default.
    EcP256,
    /// ECDSA on P-384.
    EcP384,
    /// Ed25519.
    Ed25519,
    /// RSA with 2048 bits.
    Rsa2048,
    /// RSA with 3072 bits.
    Rsa3072,
    /// RSA with 4096 bits.
    Rsa4096,
}

impl KeyAlgorithm {
    /// The algorithm that the Vault API calls by `key_type` and `key_bits`, where 0 bits is the type's default.
    ///
    /// # Errors
    /// [`CertError::Unacceptable`] where there is none, naming those that there are.
    pub fn from_type_and_bits(key_type: &str, bits: u32) -> Result<Self, CertError> {
        match (key_type, bits) {
            ("ec", 0 | 256) => Ok(Self::EcP256),
            ("ec", 384) => Ok(Self::EcP384),
            ("ed25519", _) => Ok(Self::Ed25519),
            ("rsa", 0 | 2048) => Ok(Self::Rsa2048),
            ("rsa", 3072) => Ok(Self::Rsa3072),
            ("rsa", 4096) => Ok(Self::Rsa4096),
            ("ec", _) => Err(CertError::unacceptable(
                "key_bits of an EC key must be 256 or 384",
            )),
            ("rsa", _) => Err(CertError::unacceptable(
                "key_bits of an RSA key must be 2048, 3072 or 4096",
            )),
            _ => Err(CertError::unacceptable(
                "key_type must be ec, rsa or ed25519",
            )),
        }
    }

    /// What the Vault API calls its `key_type`.
    pub const fn key_type(self) -> &'static str {
        match self {
            Self::EcP256 | Self::EcP384 => "ec",
            Self::Ed25519 => "ed25519",
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => "rsa",
        }
    }

    /// Whether generating takes long enough (0.1 to 0.8 s of a core) to need a thread of its own.
    pub const fn is_slow_to_generate(self) -> bool {
        matches!(self, Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096)
    }
}

/// What a public key is, also where this library could not make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// RSA.
    Rsa {
        /// Length of the modulus.
        bits: u32,
    },
    /// ECDSA on a NIST curve.
    Ec {
        /// Size of the field: 256, 384 or 521.
        bits: u32,
    },
    /// Ed25519.
    Ed25519,
}

impl KeyKind {
    /// What the Vault API calls its `key_type`.
    pub const fn key_type(self) -> &'static str {
        match self {
            Self::Rsa { .. } => "rsa",
            Self::Ec { .. } => "ec",
            Self::Ed25519 => "ed25519",
        }
    }

    /// What the Vault API calls its `key_bits`; 0 for Ed25519.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Rsa { bits } | Self::Ec { bits } => bits,
            Self::Ed25519 => 0,
        }
    }
}

/// A public key, as `SubjectPublicKeyInfo`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublicKey {
    spki: Vec<u8>,
    /// First 20 octets of the SHA-256 of the key's bits.
    key_id: [u8; 20],
    kind: KeyKind,
}

impl PublicKey {
    /// Reads a `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`CertError::Malformed`] where it is none, or of an algorithm that is not supported.
    pub fn from_spki(spki: &[u8]) -> Result<Self, CertError> {
        const ERROR: CertError =
            CertError::Malformed("a public key must be RSA, EC (P-256, P-384, P-521) or Ed25519");
        let (rest, parsed) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| ERROR)?;
        if !rest.is_empty() {
            return Err(ERROR);
        }
        let algorithm = &parsed.algorithm.algorithm;
        let kind = if *algorithm == OID_PKCS1_RSAENCRYPTION {
            let Ok(ParsedKey::RSA(key)) = parsed.parsed() else {
                return Err(ERROR);
            };
            KeyKind::Rsa {
                bits: rsa_bits(key.modulus),
            }
        } else if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = parsed.algorithm.parameters.as_ref();
            let curve = curve.and_then(|any| any.as_oid().ok()).ok_or(ERROR)?;
            let curves = [
                (OID_EC_P256, 256),
                (OID_NIST_EC_P384, 384),
                (OID_NIST_EC_P521, 521),
            ];
            let known = curves.iter().find(|(oid, _)| *oid == curve);
            known
                .map(|(_, bits)| KeyKind::Ec { bits: *bits })
                .ok_or(ERROR)?
        } else if *algorithm == OID_SIG_ED25519 {
            KeyKind::Ed25519
        } else {
            return Err(ERROR);
        };
        let hash = digest::digest(&digest::SHA256, &parsed.subject_public_key.data);
        let (key_id, _) = hash.as_ref().split_first_chunk().ok_or(ERROR)?;
        Ok(Self {
            spki: spki.to_vec(),
            key_id: *key_id,
            kind,
        })
    }

    /// The `SubjectPublicKeyInfo` in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The key identifier: the leftmost 160 bits of the SHA-256 of the key (RFC 7093, method 1).
    pub fn key_id(&self) -> &[u8] {
        &self.key_id
    }

    /// What it is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Refuses keys too weak to certify.
    ///
    /// # Errors
    /// [`CertError::Unacceptable`] for RSA below 2048 or above 8192 bits.
    pub fn check_strength(&self) -> Result<(), CertError> {
        match self.kind {
            KeyKind::Rsa { bits } if !(2048..=8192).contains(&bits) => Err(
                CertError::unacceptable("an RSA key must have 2048 to 8192 bits"),
            ),
            _ => Ok(()),
        }
    }
}

fn rsa_bits(modulus: &[u8]) -> u32 {
    let mut digits = modulus.iter().skip_while(|byte| **byte == 0);
    let leading = digits
        .clone()
        .next()
        .map_or(0, |first| first.leading_zeros());
    let octets = u32::try_from(digits.by_ref().count()).unwrap_or(u32::MAX / 8);
    octets * 8 - leading.min(octets * 8)
}

/// A private key with its public one.
pub struct KeyPair {
    private: Private,
    public: PublicKey,
}

enum Private {
    Ec(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl KeyPair {
    /// A new key pair. See [`KeyAlgorithm::is_slow_to_generate`].
    ///
    /// # Errors
    /// [`CertError::Crypto`] where the library fails.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, CertError> {
        let rsa = |size| RsaKeyPair::generate(size).map(|key| Private::Rsa(Box::new(key)));
        let private = match algorithm {
            KeyAlgorithm::EcP256 => {
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map(Private::Ec)
            }
            KeyAlgorithm::EcP384 => {
                EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).map(Private::Ec)
            }
            KeyAlgorithm::Ed25519 => {
                Ed25519KeyPair::generate().map(|key| Private::Ed25519(Box::new(key)))
            }
            KeyAlgorithm::Rsa2048 => rsa(KeySize::Rsa2048),
            KeyAlgorithm::Rsa3072 => rsa(KeySize::Rsa3072),
            KeyAlgorithm::Rsa4096 => rsa(KeySize::Rsa4096),
        };
        Self::of(private.map_err(|_| CertError::Crypto("key generation"))?)
    }

    /// Reads an unencrypted private key: PKCS#8, SEC 1 or PKCS#1, in PEM or DER.
    ///
    /// # Errors
    /// [`CertError::Malformed`] where it is none that can sign here.
    pub fn from_pem_or_der(key: &[u8]) -> Result<Self, CertError> {
        if !is_pem(key) {
            return Self::from_der(key);
        }
        blocks(key)?
            .iter()
            .find(|(kind, _)| is_private_key(*kind))
            .map_or(Err(NO_KEY), |(_, der)| Self::from_der(der))
    }

    /// Every private key in a PEM text.
    ///
    /// # Errors
    /// As [`KeyPair::from_pem_or_der`], for any of them.
    pub fn all_from_pem(text: &[u8]) -> Result<Vec<Self>, CertError> {
        blocks(text)?
            .iter()
            .filter(|(kind, _)| is_private_key(*kind))
            .map(|(_, der)| Self::from_der(der))
            .collect()
    }

    fn from_der(der: &[u8]) -> Result<Self, CertError> {
        let curves = [
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            &ECDSA_P384_SHA384_ASN1_SIGNING,
        ];
        for curve in curves {
            if let Ok(key) = EcdsaKeyPair::from_private_key_der(curve, der) {
                return Self::of(Private::Ec(key));
            }
        }
        if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Self::of(Private::Ed25519(Box::new(key)));
        }
        RsaKeyPair::from_pkcs8(der)
            .or_else(|_| RsaKeyPair::from_der(der))
            .map_err(|_| NO_KEY)
            .and_then(|key| Self::of(Private::Rsa(Box::new(key))))
    }

    fn of(private: Private) -> Result<Self, CertError> {
        let spki: Result<PublicKeyX509Der<'_>, Unspecified> = match &private {
            Private::Ec(key) => key.public_key().as_der(),
            Private::Rsa(key) => key.public_key().as_der(),
            Private::Ed25519(key) => key.public_key().as_der(),
        };
        let spki = spki.map_err(|_| CertError::Crypto("public key encoding"))?;
        let public = PublicKey::from_spki(spki.as_ref())?;
        public.check_strength()?;
        Ok(Self { private, public })
    }

    /// The public key.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The private key in PKCS#8 DER.
    ///
    /// # Errors
    /// [`CertError::Crypto`] where the library fails.
    pub fn to_pkcs8_der(&self) -> Result<Zeroizing<Vec<u8>>, CertError> {
        const ERROR: CertError = CertError::Crypto("private key encoding");
        let encoded = match &self.private {
            Private::Ec(key) => key.to_pkcs8v1().map(|der| der.as_ref().to_vec()),
            Private::Ed25519(key) => key.to_pkcs8v1().map(|der| der.as_ref().to_vec()),
            Private::Rsa(key) => {
                AsDer::<Pkcs8V1Der<'_>>::as_der(&**key).map(|der| der.as_ref().to_vec())
            }
        };
        encoded.map(Zeroizing::new).map_err(|_| ERROR)
    }

    /// The private key in the older form of its algorithm (SEC 1, PKCS#1), with the label of its PEM. Ed25519
    /// has only PKCS#8.
    ///
    /// # Errors
    /// [`CertError::Crypto`] where the library fails.
    pub fn to_traditional_der(&self) -> Result<(&'static str, Zeroizing<Vec<u8>>), CertError> {
        match &self.private {
            Private::Ec(key) => {
                let der: EcPrivateKeyRfc5915Der<'_> = (key.private_key().as_der())
                    .map_err(|_| CertError::Crypto("private key encoding"))?;
                Ok(("EC PRIVATE KEY", Zeroizing::new(der.as_ref().to_vec())))
            }
            Private::Rsa(_) => {
                let pkcs8 = self.to_pkcs8_der()?;
                let inner = private_key_of_pkcs8(&pkcs8)
                    .ok_or(CertError::Crypto("private key encoding"))?;
                Ok(("RSA PRIVATE KEY", Zeroizing::new(inner.to_vec())))
            }
            Private::Ed25519(_) => Ok(("PRIVATE KEY", self.to_pkcs8_der()?)),
        }
    }

    /// The private key as PKCS#8 in PEM.
    ///
    /// # Errors
    /// As [`KeyPair::to_pkcs8_der`].
    pub fn to_pkcs8_pem(&self) -> Result<Zeroizing<String>, CertError> {
        Ok(pem("PRIVATE KEY", &self.to_pkcs8_der()?))
    }

    /// Signs, with the hash that suits the key: SHA-256, or SHA-384 for P-384.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CertError> {
        const ERROR: CertError = CertError::Crypto("signing");
        let random = SystemRandom::new();
        match &self.private {
            Private::Ec(key) => {
                let signature = key.sign(&random, message).map_err(|_| ERROR)?;
                Ok(signature.as_ref().to_vec())
            }
            Private::Ed25519(key) => {
                let signature = key.try_sign(message).map_err(|_| ERROR)?;
                Ok(signature.as_ref().to_vec())
            }
            Private::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(|_| ERROR)?;
                Ok(signature)
            }
        }
    }

    /// Writes the `AlgorithmIdentifier` of [`KeyPair::sign`].
    pub(crate) fn encode_signature_algorithm(&self, der: &mut Der) {
        let oid: &[u8] = match self.public.kind() {
            KeyKind::Rsa { .. } => &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11],
            KeyKind::Ec { bits: 256 } => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
            KeyKind::Ec { .. } => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
            KeyKind::Ed25519 => &[0x2b, 0x65, 0x70],
        };
        der.sequence(|der| {
            der.value(OBJECT_IDENTIFIER, oid);
            if matches!(self.private, Private::Rsa(_)) {
                der.value(NULL, &[]);
            }
        });
    }
}

const NO_KEY: CertError = CertError::Malformed(
    "holds no unencrypted private key that can be used: EC (P-256, P-384), Ed25519 or RSA (2048 to 8192 bits)",
);

fn is_private_key(kind: SectionKind) -> bool {
    matches!(
        kind,
        SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey
    )
}

/// The `privateKey` octets of a `PrivateKeyInfo` (RFC 5208).
fn private_key_of_pkcs8(pkcs8: &[u8]) -> Option<&[u8]> {
    use x509_parser::der_parser::asn1_rs::{Any, FromDer as _, OctetString, Sequence};
    let (_, info) = Sequence::from_der(pkcs8).ok()?;
    // `Sequence` borrows its content from the input or owns it; only the former happens when parsing.
    let std::borrow::Cow::Borrowed(content) = info.content else {
        return None;
    };
    let (content, _version) = Any::from_der(content).ok()?;
    let (content, _algorithm) = Any::from_der(content).ok()?;
    let (_, key) = OctetString::from_der(content).ok()?;
    match key.into_cow() {
        std::borrow::Cow::Borrowed(key) => Some(key),
        std::borrow::Cow::Owned(_) => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::error::CertError;
    use crate::testing::{openssl, openssl_with};

    pub(crate) const ALL: [KeyAlgorithm; 4] = [
        KeyAlgorithm::EcP256,
        KeyAlgorithm::EcP384,
        KeyAlgorithm::Ed25519,
        KeyAlgorithm::Rsa2048,
    ];

    #[test]
    fn every_form_of_every_key_reads_back_as_the_same_key() {
        for algorithm in ALL {
            let key = KeyPair::generate(algorithm).unwrap();
            let (label, traditional) = key.to_traditional_der().unwrap();
            let forms: [Zeroizing<Vec<u8>>; 4] = [
                key.to_pkcs8_der().unwrap(),
                Zeroizing::new(key.to_pkcs8_pem().unwrap().as_bytes().to_vec()),
                Zeroizing::new(pem(label, &traditional).as_bytes().to_vec()),
                traditional,
            ];
            for form in forms {
                let read = KeyPair::from_pem_or_der(&form).unwrap();
                assert!(read.public() == key.public(), "{algorithm:?}");
            }
            assert_eq!(key.public().kind().key_type(), algorithm.key_type());
        }
    }

    #[test]
    fn openssl_reads_what_is_written_and_writes_what_is_read() {
        for algorithm in ALL {
            let key = KeyPair::generate(algorithm).unwrap();
            let (label, traditional) = key.to_traditional_der().unwrap();
            for text in [key.to_pkcs8_pem().unwrap(), pem(label, &traditional)] {
                let public = openssl_with(&["pkey", "-pubout", "-outform", "DER"], text.as_bytes());
                assert_eq!(public, key.public().spki(), "{algorithm:?} {label}");
            }
        }
        for arguments in [
            vec![
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ],
            vec!["ecparam", "-name", "secp384r1", "-genkey"],
            vec!["genpkey", "-algorithm", "ED25519"],
            vec!["genrsa", "-traditional", "2048"],
            vec!["genrsa", "3072"],
        ] {
            let text = openssl(&arguments);
            assert!(KeyPair::from_pem_or_der(&text).is_ok(), "{arguments:?}");
        }
    }

    #[test]
    fn what_cannot_sign_here_is_refused_and_not_quoted() {
        let weak = openssl(&["genrsa", "1024"]);
        let encrypted = openssl(&["genrsa", "-aes256", "-passout", "pass:hunter2", "2048"]);
        let curve = openssl(&["ecparam", "-name", "secp256k1", "-genkey"]);
        for bad in [weak, encrypted, curve, b"hunter2".to_vec(), Vec::new()] {
            let error = KeyPair::from_pem_or_der(&bad).err().unwrap();
            assert!(
                matches!(error, CertError::Malformed(_) | CertError::Unacceptable(_)),
                "{error:?}"
            );
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn key_types_and_bits_are_those_of_the_vault_api() {
        let cases = [
            ("ec", 0, Some(KeyAlgorithm::EcP256)),
            ("ec", 384, Some(KeyAlgorithm::EcP384)),
            ("ec", 521, None),
            ("rsa", 0, Some(KeyAlgorithm::Rsa2048)),
            ("rsa", 4096, Some(KeyAlgorithm::Rsa4096)),
            ("rsa", 1024, None),
            ("ed25519", 0, Some(KeyAlgorithm::Ed25519)),
            ("any", 0, None),
        ];
        for (key_type, bits, want) in cases {
            let got = KeyAlgorithm::from_type_and_bits(key_type, bits).ok();
            assert_eq!(got, want, "{key_type} {bits}");
        }
    }
}
