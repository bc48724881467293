//! [`KeyPair`]: the keys of CAs, and those made for callers. ssh-key gives the formats; the cryptography is
//! aws-lc-rs's.
//!
//! **Invariant:** a private key has no `Debug` and leaves as a [`Secret`] only.

use aws_lc_rs::encoding::{
    AsBigEndian as _, AsDer as _, Curve25519SeedBin, EcPrivateKeyRfc5915Der, Pkcs8V1Der,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};
use daypass_contract::{BackendError, Entropy, Secret};
use ssh_key::encoding::Encode as _;
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData};
use ssh_key::public::{EcdsaPublicKey, Ed25519PublicKey, KeyData, RsaPublicKey};
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, LineEnding, Mpint, PrivateKey};

use crate::internal;
use crate::text;

/// A kind of key that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ed25519,
    Ecdsa(EcdsaCurve),
    Rsa(KeySize),
}

impl Kind {
    /// What the Vault API calls by `key_type` and `key_bits`, with these bits where an RSA key's are 0.
    pub(crate) fn named(key_type: &str, bits: u32, rsa_bits: u32) -> Result<Self, BackendError> {
        let rsa = if bits == 0 { rsa_bits } else { bits };
        match (key_type, bits) {
            ("ed25519" | "ssh-ed25519", _) => Ok(Self::Ed25519),
            ("ec", 0 | 256) | ("ecdsa-sha2-nistp256", _) => Ok(Self::Ecdsa(EcdsaCurve::NistP256)),
            ("ec", 384) | ("ecdsa-sha2-nistp384", _) => Ok(Self::Ecdsa(EcdsaCurve::NistP384)),
            ("ec", 521) | ("ecdsa-sha2-nistp521", _) => Ok(Self::Ecdsa(EcdsaCurve::NistP521)),
            ("ec", _) => Err(BackendError::field(
                "key_bits",
                "of ec must be 256, 384 or 521",
            )),
            ("rsa" | "ssh-rsa", _) => match rsa {
                2048 => Ok(Self::Rsa(KeySize::Rsa2048)),
                3072 => Ok(Self::Rsa(KeySize::Rsa3072)),
                4096 => Ok(Self::Rsa(KeySize::Rsa4096)),
                _ => Err(BackendError::field(
                    "key_bits",
                    "of rsa must be 2048, 3072 or 4096",
                )),
            },
            _ => Err(BackendError::field(
                "key_type",
                "must be ed25519, ec or rsa",
            )),
        }
    }
}

/// Which hash an RSA key signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RsaHash {
    Sha256,
    Sha512,
}

/// A private key with its public one.
pub(crate) struct KeyPair {
    private: Private,
    public: KeyData,
}

enum Private {
    Ed25519(Box<Ed25519KeyPair>),
    Ecdsa(EcdsaCurve, Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

const CURVES: [EcdsaCurve; 3] = [
    EcdsaCurve::NistP256,
    EcdsaCurve::NistP384,
    EcdsaCurve::NistP521,
];

fn signing(curve: EcdsaCurve) -> &'static EcdsaSigningAlgorithm {
    match curve {
        EcdsaCurve::NistP256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
        EcdsaCurve::NistP384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        EcdsaCurve::NistP521 => &ECDSA_P521_SHA512_FIXED_SIGNING,
    }
}

impl KeyPair {
    /// A new key pair. One of RSA takes a core for up to a second.
    pub(crate) fn generate(kind: Kind, entropy: &dyn Entropy) -> Result<Self, BackendError> {
        let private = match kind {
            Kind::Ed25519 => {
                let seed = Secret::new(entropy.bytes::<32>());
                Ed25519KeyPair::from_seed_unchecked(seed.expose())
                    .map(|pair| Private::Ed25519(Box::new(pair)))
                    .map_err(internal)?
            }
            Kind::Ecdsa(curve) => EcdsaKeyPair::generate(signing(curve))
                .map(|pair| Private::Ecdsa(curve, Box::new(pair)))
                .map_err(internal)?,
            Kind::Rsa(size) => RsaKeyPair::generate(size)
                .map(|pair| Private::Rsa(Box::new(pair)))
                .map_err(internal)?,
        };
        Self::of(private).map_err(internal)
    }

    /// Reads an unencrypted private key in DER: PKCS#8, SEC 1 or PKCS#1. `None` where it is none.
    pub(crate) fn from_der(der: &[u8]) -> Option<Self> {
        for curve in CURVES {
            if let Ok(pair) = EcdsaKeyPair::from_private_key_der(signing(curve), der) {
                return Self::of(Private::Ecdsa(curve, Box::new(pair))).ok();
            }
        }
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Self::of(Private::Ed25519(Box::new(pair))).ok();
        }
        let pair = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der));
        Self::of(Private::Rsa(Box::new(pair.ok()?))).ok()
    }

    /// The Ed25519 key of a seed, where its public key is this one.
    pub(crate) fn from_ed25519(seed: &[u8], public: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).ok()?;
        Self::of(Private::Ed25519(Box::new(pair))).ok()
    }

    /// The ECDSA key of a scalar, where its public key is this one.
    pub(crate) fn from_ecdsa(curve: EcdsaCurve, scalar: &[u8], public: &[u8]) -> Option<Self> {
        let algorithm = signing(curve);
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, scalar, public).ok()?;
        Self::of(Private::Ecdsa(curve, Box::new(pair))).ok()
    }

    fn of(private: Private) -> Result<Self, ssh_key::Error> {
        let public = match &private {
            Private::Ed25519(pair) => {
                KeyData::Ed25519(Ed25519PublicKey::try_from(pair.public_key().as_ref())?)
            }
            Private::Ecdsa(_, pair) => {
                KeyData::Ecdsa(EcdsaPublicKey::from_sec1_bytes(pair.public_key().as_ref())?)
            }
            Private::Rsa(pair) => {
                let key = pair.public_key();
                let number = |digits: &[u8]| Mpint::from_positive_bytes(digits);
                KeyData::Rsa(RsaPublicKey::new(
                    number(key.exponent().big_endian_without_leading_zero()),
                    number(key.modulus().big_endian_without_leading_zero()),
                )?)
            }
        };
        Ok(Self { private, public })
    }

    /// The public key.
    pub(crate) fn public(&self) -> &KeyData {
        &self.public
    }

    /// What the Vault API calls its type.
    pub(crate) fn key_type(&self) -> &'static str {
        match &self.private {
            Private::Ed25519(_) => "ed25519",
            Private::Ecdsa(..) => "ec",
            Private::Rsa(_) => "rsa",
        }
    }

    /// The private key in PKCS#8, the form in which it is stored.
    pub(crate) fn to_pkcs8(&self) -> Result<Secret, BackendError> {
        match &self.private {
            Private::Ed25519(pair) => pair.to_pkcs8v1().map(|der| Secret::new(der.as_ref())),
            Private::Ecdsa(_, pair) => pair.to_pkcs8v1().map(|der| Secret::new(der.as_ref())),
            Private::Rsa(pair) => {
                let der: Result<Pkcs8V1Der<'_>, Unspecified> = pair.as_der();
                der.map(|der| Secret::new(der.as_ref()))
            }
        }
        .map_err(internal)
    }

    /// The private key as its owner keeps it, in the form that OpenBao gives it: OpenSSH's own for Ed25519,
    /// SEC 1 and PKCS#1 for the others. `ssh` reads them all.
    pub(crate) fn to_owner(&self) -> Result<Secret, BackendError> {
        match &self.private {
            Private::Ed25519(pair) => {
                let seed = pair.seed().map_err(internal)?;
                let seed: Curve25519SeedBin<'_> = seed.as_be_bytes().map_err(internal)?;
                let (Some(seed), KeyData::Ed25519(public)) =
                    (seed.as_ref().first_chunk(), &self.public)
                else {
                    return Err(internal(Unspecified));
                };
                let pair = Ed25519Keypair {
                    public: *public,
                    private: Ed25519PrivateKey::from_bytes(seed),
                };
                let text = PrivateKey::new(KeypairData::Ed25519(pair), "")
                    .and_then(|key| key.to_openssh(LineEnding::LF))
                    .map_err(internal)?;
                Ok(Secret::new(text.as_bytes()))
            }
            Private::Ecdsa(_, pair) => {
                let der: EcPrivateKeyRfc5915Der<'_> =
                    pair.private_key().as_der().map_err(internal)?;
                Ok(text::pem("EC PRIVATE KEY", der.as_ref()))
            }
            Private::Rsa(_) => {
                let pkcs8 = self.to_pkcs8()?;
                let der = pkcs1(pkcs8.expose()).ok_or_else(|| internal(Unspecified))?;
                Ok(text::pem("RSA PRIVATE KEY", der))
            }
        }
    }

    /// Whether [`RsaHash`] has a say.
    pub(crate) fn is_rsa(&self) -> bool {
        matches!(self.private, Private::Rsa(_))
    }

    /// Signs, in the form of a signature within a certificate (RFC 4253, section 6.6; RFC 5656, section
    /// 3.1.2; RFC 8332, section 3; RFC 8709, section 6).
    pub(crate) fn sign(&self, message: &[u8], hash: RsaHash) -> Result<Vec<u8>, BackendError> {
        let (algorithm, signature) = match &self.private {
            Private::Ed25519(pair) => (Algorithm::Ed25519, pair.sign(message).as_ref().to_vec()),
            Private::Ecdsa(curve, pair) => {
                let pair = pair.sign(&SystemRandom::new(), message).map_err(internal)?;
                let (r, s) = pair.as_ref().split_at(pair.as_ref().len() / 2);
                let mut both = Vec::new();
                for number in [r, s] {
                    let number = Mpint::from_positive_bytes(number);
                    number.encode(&mut both).map_err(internal)?;
                }
                (Algorithm::Ecdsa { curve: *curve }, both)
            }
            Private::Rsa(pair) => {
                let (padding, hash) = match hash {
                    RsaHash::Sha256 => (&RSA_PKCS1_SHA256, HashAlg::Sha256),
                    RsaHash::Sha512 => (&RSA_PKCS1_SHA512, HashAlg::Sha512),
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &SystemRandom::new(), message, &mut signature)
                    .map_err(internal)?;
                (Algorithm::Rsa { hash: Some(hash) }, signature)
            }
        };
        let mut encoded = Vec::new();
        algorithm.as_str().encode(&mut encoded).map_err(internal)?;
        signature.encode(&mut encoded).map_err(internal)?;
        Ok(encoded)
    }
}

/// The `RSAPrivateKey` (RFC 8017) within a `PrivateKeyInfo` (RFC 5208).
fn pkcs1(pkcs8: &[u8]) -> Option<&[u8]> {
    let (info, _) = text::read_der(pkcs8, 0x30)?;
    let (_version, rest) = text::read_der(info, 0x02)?;
    let (_algorithm, rest) = text::read_der(rest, 0x30)?;
    text::read_der(rest, 0x04).map(|(key, _)| key)
}
