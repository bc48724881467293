//! Keys of identity tokens: made, signed with, published and verified against. JWS (RFC 7515), JWK (RFC
//! 7517), EdDSA (RFC 8037).
//!
//! **Invariant:** a private key has no `Debug` and is stored only behind the barrier.

use std::str::FromStr;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use daypass_contract::Secret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::identity::IdentityError;

/// How tokens are signed, by its JOSE name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// RSA with 2048 bits, PKCS #1 v1.5, SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// The same with SHA-384.
    #[serde(rename = "RS384")]
    Rs384,
    /// The same with SHA-512.
    #[serde(rename = "RS512")]
    Rs512,
    /// ECDSA on P-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on P-384.
    #[serde(rename = "ES384")]
    Es384,
    /// ECDSA on P-521.
    #[serde(rename = "ES512")]
    Es512,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    /// All that there are.
    pub const ALL: [Self; 7] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// Its JOSE name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    fn ecdsa(self) -> Option<&'static signature::EcdsaSigningAlgorithm> {
        match self {
            Self::Es256 => Some(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            Self::Es384 => Some(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            Self::Es512 => Some(&signature::ECDSA_P521_SHA512_FIXED_SIGNING),
            _ => None,
        }
    }

    fn rsa(self) -> Option<&'static dyn signature::RsaEncoding> {
        match self {
            Self::Rs256 => Some(&signature::RSA_PKCS1_SHA256),
            Self::Rs384 => Some(&signature::RSA_PKCS1_SHA384),
            Self::Rs512 => Some(&signature::RSA_PKCS1_SHA512),
            _ => None,
        }
    }

    fn verification(self) -> &'static dyn signature::VerificationAlgorithm {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
            Self::EdDsa => &signature::ED25519,
        }
    }
}

impl FromStr for Algorithm {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str() == text)
            .ok_or(())
    }
}

/// What verifies a signature, and its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Public {
    pub(super) kid: String,
    pub(super) algorithm: Algorithm,
    /// As aws-lc reads it, in base64.
    key: String,
    /// As the world reads it.
    pub(super) jwk: Value,
}

/// A key pair as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct Pair {
    pub(super) public: Public,
    /// PKCS #8 in base64.
    #[serde(serialize_with = "daypass_contract::reveal")]
    private: Secret,
}

/// A private key, ready to sign.
pub(super) struct Signer {
    algorithm: Algorithm,
    key: Private,
}

enum Private {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

fn broken<E>(_: E) -> IdentityError {
    IdentityError::Broken("signing key")
}

impl Pair {
    /// A new key pair. With RSA this takes up to a second of one core.
    pub(super) fn generate(algorithm: Algorithm, kid: String) -> Result<Self, IdentityError> {
        let rng = SystemRandom::new();
        let pkcs8 = if let Some(ecdsa) = algorithm.ecdsa() {
            let document = EcdsaKeyPair::generate_pkcs8(ecdsa, &rng).map_err(broken)?;
            Secret::new(document.as_ref())
        } else if algorithm.rsa().is_some() {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(broken)?;
            let der: Pkcs8V1Der<'_> = pair.as_der().map_err(broken)?;
            Secret::new(der.as_ref())
        } else {
            let document = Ed25519KeyPair::generate_pkcs8(&rng).map_err(broken)?;
            Secret::new(document.as_ref())
        };
        let signer = Signer::open(algorithm, pkcs8.expose())?;
        let (key, mut jwk) = signer.public();
        if let Value::Object(fields) = &mut jwk {
            fields.insert("use".into(), "sig".into());
            fields.insert("kid".into(), kid.clone().into());
            fields.insert("alg".into(), algorithm.as_str().into());
        }
        Ok(Self {
            public: Public {
                kid,
                algorithm,
                key,
                jwk,
            },
            private: Secret::new(URL_SAFE_NO_PAD.encode(pkcs8.expose())),
        })
    }

    pub(super) fn signer(&self) -> Result<Signer, IdentityError> {
        let pkcs8 = URL_SAFE_NO_PAD
            .decode(self.private.expose())
            .map_err(broken)?;
        Signer::open(self.public.algorithm, &pkcs8)
    }
}

impl Signer {
    fn open(algorithm: Algorithm, pkcs8: &[u8]) -> Result<Self, IdentityError> {
        let key = if let Some(ecdsa) = algorithm.ecdsa() {
            Private::Ec(EcdsaKeyPair::from_pkcs8(ecdsa, pkcs8).map_err(broken)?)
        } else if algorithm.rsa().is_some() {
            Private::Rsa(RsaKeyPair::from_pkcs8(pkcs8).map_err(broken)?)
        } else {
            Private::Ed(Ed25519KeyPair::from_pkcs8(pkcs8).map_err(broken)?)
        };
        Ok(Self { algorithm, key })
    }

    /// The public key in both forms.
    fn public(&self) -> (String, Value) {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.key {
            Private::Rsa(pair) => {
                let key = pair.public_key();
                let jwk = json!({
                    "kty": "RSA",
                    "n": text(key.modulus().big_endian_without_leading_zero()),
                    "e": text(key.exponent().big_endian_without_leading_zero()),
                });
                (text(key.as_ref()), jwk)
            }
            Private::Ec(pair) => {
                let key = pair.public_key().as_ref();
                // 0x04, x, y: both as long as the field.
                let point = key.get(1..).unwrap_or_default();
                let (x, y) = point.split_at(point.len() / 2);
                let curve = match self.algorithm {
                    Algorithm::Es384 => "P-384",
                    Algorithm::Es512 => "P-521",
                    _ => "P-256",
                };
                let jwk = json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)});
                (text(key), jwk)
            }
            Private::Ed(pair) => {
                let key = pair.public_key().as_ref();
                let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": text(key)});
                (text(key), jwk)
            }
        }
    }

    /// A compact JWS over `claims`.
    pub(super) fn sign(&self, kid: &str, claims: &Value) -> Result<String, IdentityError> {
        let header = json!({"alg": self.algorithm.as_str(), "kid": kid});
        let mut token = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let (rng, message) = (SystemRandom::new(), token.as_bytes());
        let signature = match &self.key {
            Private::Rsa(pair) => {
                let encoding = self.algorithm.rsa().ok_or(()).map_err(broken)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &rng, message, &mut signature)
                    .map_err(broken)?;
                signature
            }
            Private::Ec(pair) => pair.sign(&rng, message).map_err(broken)?.as_ref().to_vec(),
            Private::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        };
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }
}

/// A compact JWS, taken apart and not yet verified.
pub(super) struct Parsed<'a> {
    message: &'a str,
    signature: Vec<u8>,
    pub(super) kid: String,
    algorithm: String,
    pub(super) claims: Value,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

impl<'a> Parsed<'a> {
    pub(super) fn parse(token: &'a str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
        Some(Self {
            message,
            signature: decode(signature)?,
            kid: header.kid,
            algorithm: header.alg,
            claims: serde_json::from_slice(&decode(claims)?).ok()?,
        })
    }

    /// Whether `public` signed it. The key says by which algorithm; the token can only agree.
    pub(super) fn is_signed_by(&self, public: &Public) -> bool {
        let Ok(key) = URL_SAFE_NO_PAD.decode(&public.key) else {
            return false;
        };
        self.kid == public.kid
            && self.algorithm == public.algorithm.as_str()
            && signature::UnparsedPublicKey::new(public.algorithm.verification(), key)
                .verify(self.message.as_bytes(), &self.signature)
                .is_ok()
    }
}
