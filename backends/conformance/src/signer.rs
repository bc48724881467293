//! [`Signer`]: a key that signs tokens as an issuer does, and its public half in the forms that issuers
//! publish it.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A signing key with its key id and algorithm.
pub struct Signer {
    kid: String,
    algorithm: &'static str,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
}

impl Signer {
    /// A new key. `algorithm` is one of JOSE's: `RS256` … `PS512`, `ES256`, `ES384`, `ES512`, `EdDSA`.
    pub fn new(kid: &str, algorithm: &'static str) -> Self {
        let rsa = |encoding: &'static dyn RsaEncoding| {
            Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap(), encoding)
        };
        let ec = |curve: &'static EcdsaSigningAlgorithm, name| {
            Key::Ec(EcdsaKeyPair::generate(curve).unwrap(), name)
        };
        let key = match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            "ES384" => ec(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            "ES512" => ec(&ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            "EdDSA" => Key::Ed(Ed25519KeyPair::generate().unwrap()),
            other => panic!("no such algorithm: {other}"),
        };
        Self {
            kid: kid.to_owned(),
            algorithm,
            key,
        }
    }

    /// A token with these claims, its header as issuers write it.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm, "typ": "JWT", "kid": self.kid});
        self.sign_with(&header, claims)
    }

    /// A token with this header, whatever it says.
    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.signature(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature)
                    .unwrap();
                signature
            }
            Key::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The public key as a JSON Web Key.
    pub fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.key {
            Key::Rsa(pair, _) => {
                let public = pair.public_key();
                let e = public.exponent().big_endian_without_leading_zero();
                let n = public.modulus().big_endian_without_leading_zero();
                json!({"kty": "RSA", "n": encode(n), "e": encode(e)})
            }
            Key::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
            }
            Key::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())})
            }
        };
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.algorithm);
        jwk["use"] = json!("sig");
        jwk
    }

    /// The public key in PEM (SubjectPublicKeyInfo).
    pub fn pem(&self) -> String {
        let der = match &self.key {
            Key::Rsa(pair, _) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Key::Ec(pair, _) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Key::Ed(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
        };
        let text = STANDARD.encode(der);
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            lines.join("\n")
        )
    }
}

/// A JSON Web Key Set of these keys.
pub fn jwks(keys: &[&Signer]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() })
}
