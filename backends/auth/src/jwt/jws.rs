//! Signed tokens (RFC 7515, compact form) and the keys that verify them (RFC 7517).
//!
//! Verification is aws-lc-rs itself: a key is parsed once, for each algorithm it may be used with, and the
//! algorithm is part of the parsed key. A JOSE crate would parse the key for each token, ask a clock of its
//! own, and leave ES512 out.
//!
//! # Invariants
//!
//! * **The key says the algorithm.** A token's `alg` only selects among what the keys offer, and no key
//!   offers `none` or a MAC: a public key can never serve as an HMAC secret.
//! * **Nothing is read before it is verified** but the header's `alg`, `kid` and `crit`.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use x509_parser::pem::Pem;

/// The smallest RSA modulus that is trusted, in bytes.
const SMALLEST_RSA: usize = 256;

/// Keys of a set that are read; further ones are not.
const MOST_KEYS: usize = 100;

/// A signature algorithm (RFC 7518 §3.1, RFC 8037). There is no variant for `none` or a MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    ES512,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    const ALL: [Self; 10] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::ES512,
        Self::EdDsa,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::ES512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Self::RS256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::RS384 => &RSA_PKCS1_2048_8192_SHA384,
            Self::RS512 => &RSA_PKCS1_2048_8192_SHA512,
            Self::PS256 => &RSA_PSS_2048_8192_SHA256,
            Self::PS384 => &RSA_PSS_2048_8192_SHA384,
            Self::PS512 => &RSA_PSS_2048_8192_SHA512,
            Self::ES256 | Self::ES384 | Self::ES512 | Self::EdDsa => return None,
        })
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::RS256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::RS384 => &RSA_PKCS1_2048_8192_SHA384,
            Self::RS512 => &RSA_PKCS1_2048_8192_SHA512,
            Self::PS256 => &RSA_PSS_2048_8192_SHA256,
            Self::PS384 => &RSA_PSS_2048_8192_SHA384,
            Self::PS512 => &RSA_PSS_2048_8192_SHA512,
            Self::ES256 => &ECDSA_P256_SHA256_FIXED,
            Self::ES384 => &ECDSA_P384_SHA384_FIXED,
            Self::ES512 => &ECDSA_P521_SHA512_FIXED,
            Self::EdDsa => &ED25519,
        }
    }
}

/// A token that was taken apart and not yet verified.
pub(crate) struct Unverified<'a> {
    signed: &'a str,
    payload: &'a str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 §4.1.11); none is.
    #[serde(default)]
    crit: Option<Value>,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart; none where it is not a signed token in compact form with an algorithm of ours.
    pub(crate) fn parse(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        if payload.contains('.') {
            return None;
        }
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header.crit.is_some() {
            return None;
        }
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str() == header.alg)?;
        Some(Self {
            signed,
            payload,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
            algorithm,
            kid: header.kid,
        })
    }

    /// The id of the key that the token says it was signed with.
    pub(crate) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The claims, where one of the keys made the signature.
    pub(crate) fn verify(&self, keys: &KeySet) -> Option<Map<String, Value>> {
        let kid = self.kid().filter(|_| keys.named);
        let verified = keys
            .keys
            .iter()
            .filter(|key| kid.is_none() || key.kid.as_deref() == kid)
            .flat_map(|key| &key.usable)
            .filter(|(algorithm, _)| *algorithm == self.algorithm)
            .any(|(_, key)| {
                key.verify_sig(self.signed.as_bytes(), &self.signature)
                    .is_ok()
            });
        if !verified {
            return None;
        }
        let payload = URL_SAFE_NO_PAD.decode(self.payload).ok()?;
        serde_json::from_slice(&payload).ok()
    }
}

/// The claims of a token that nobody vouched for, to look at before asking someone who can.
pub(crate) fn unverified_claims(token: &str) -> Option<Map<String, Value>> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// Public keys to verify with.
pub(crate) struct KeySet {
    keys: Vec<Key>,
    /// Whether the keys have ids; those given in PEM have none.
    named: bool,
}

struct Key {
    kid: Option<String>,
    /// The key once for each algorithm that it may be used with.
    usable: Vec<(Algorithm, ParsedPublicKey)>,
}

impl KeySet {
    /// Reads public keys or certificates in PEM, each of which is to verify by the `allowed` algorithms.
    ///
    /// # Errors
    /// Which of them, counted from one, cannot be used.
    pub(crate) fn from_pem(texts: &[String], allowed: &[Algorithm]) -> Result<Self, usize> {
        let mut keys = Vec::new();
        for (at, text) in texts.iter().enumerate() {
            let before = keys.len();
            for pem in Pem::iter_from_buffer(text.as_bytes()) {
                let der = pem.ok().and_then(|pem| public_der(&pem)).ok_or(at + 1)?;
                let key = Key::new(None, allowed, |algorithm| {
                    let key = ParsedPublicKey::new(algorithm.verification(), &der).ok()?;
                    // aws-lc checks the size when it verifies; an operator is better told now. An
                    // encoded key is a little longer than its modulus.
                    (algorithm.rsa().is_none() || der.len() > SMALLEST_RSA).then_some(key)
                });
                keys.push(key.ok_or(at + 1)?);
            }
            if keys.len() == before {
                return Err(at + 1);
            }
        }
        Ok(Self { keys, named: false })
    }

    /// Reads a JSON Web Key Set. Keys that cannot verify signatures by the `allowed` algorithms (those for
    /// encryption, MACs, curves not known here) are left out, as RFC 7517 §5 has it. None where it is not a
    /// key set.
    pub(crate) fn from_jwks(document: &[u8], allowed: &[Algorithm]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(document).ok()?;
        let keys = document.keys.into_iter().take(MOST_KEYS);
        let read = |key| Key::from_jwk(serde_json::from_value(key).ok()?, allowed);
        Some(Self {
            keys: keys.filter_map(read).collect(),
            named: true,
        })
    }

    /// Whether a token with this key id may have been signed by one of the keys.
    pub(crate) fn may_verify(&self, kid: Option<&str>) -> bool {
        kid.is_none() || self.keys.iter().any(|key| key.kid.as_deref() == kid)
    }

    /// Whether there is no key in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Key {
    fn new(
        kid: Option<String>,
        allowed: &[Algorithm],
        parse: impl Fn(Algorithm) -> Option<ParsedPublicKey>,
    ) -> Option<Self> {
        let usable: Vec<_> = Algorithm::ALL
            .into_iter()
            .filter(|algorithm| allowed.is_empty() || allowed.contains(algorithm))
            .filter_map(|algorithm| Some((algorithm, parse(algorithm)?)))
            .collect();
        (!usable.is_empty()).then_some(Self { kid, usable })
    }

    fn from_jwk(jwk: Jwk, allowed: &[Algorithm]) -> Option<Self> {
        if jwk.r#use.is_some_and(|usage| usage != "sig") {
            return None;
        }
        if jwk
            .key_ops
            .is_some_and(|operations| !operations.iter().any(|operation| operation == "verify"))
        {
            return None;
        }
        let decode = |part: &Option<String>| URL_SAFE_NO_PAD.decode(part.as_deref()?).ok();
        let own = |algorithm: Algorithm| {
            jwk.alg
                .as_deref()
                .is_none_or(|name| name == algorithm.as_str())
        };
        match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (decode(&jwk.n)?, decode(&jwk.e)?);
                if n.len() < SMALLEST_RSA {
                    return None;
                }
                let components = RsaPublicKeyComponents { n, e };
                Self::new(jwk.kid.clone(), allowed, |algorithm| {
                    let parameters = algorithm.rsa().filter(|_| own(algorithm))?;
                    components.to_parsed_public_key(parameters).ok()
                })
            }
            ("EC", Some(curve)) => {
                let (ours, size) = match curve {
                    "P-256" => (Algorithm::ES256, 32),
                    "P-384" => (Algorithm::ES384, 48),
                    "P-521" => (Algorithm::ES512, 66),
                    _ => return None,
                };
                let (x, y) = (decode(&jwk.x)?, decode(&jwk.y)?);
                if x.len() != size || y.len() != size {
                    return None;
                }
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                Self::single(jwk.kid.clone(), allowed, ours, own(ours), &point)
            }
            ("OKP", Some("Ed25519")) => {
                let (ours, x) = (Algorithm::EdDsa, decode(&jwk.x)?);
                Self::single(jwk.kid.clone(), allowed, ours, own(ours), &x)
            }
            _ => None,
        }
    }

    fn single(
        kid: Option<String>,
        allowed: &[Algorithm],
        only: Algorithm,
        own: bool,
        key: &[u8],
    ) -> Option<Self> {
        Self::new(kid, allowed, |algorithm| {
            if algorithm != only || !own {
                return None;
            }
            ParsedPublicKey::new(only.verification(), key).ok()
        })
    }
}

/// The public key in a PEM block, in a form that aws-lc parses.
fn public_der(pem: &Pem) -> Option<Vec<u8>> {
    match pem.label.as_str() {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => Some(pem.contents.clone()),
        "CERTIFICATE" => {
            let certificate = pem.parse_x509().ok()?;
            Some(certificate.public_key().raw.to_vec())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use daypass_conformance::{Signer, jwks};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NAMES: [&str; 10] = [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    ];

    fn set(signer: &Signer, allowed: &[Algorithm]) -> KeySet {
        KeySet::from_jwks(jwks(&[signer]).to_string().as_bytes(), allowed).unwrap()
    }

    fn verifies(token: &str, keys: &KeySet) -> bool {
        Unverified::parse(token).is_some_and(|token| token.verify(keys).is_some())
    }

    #[test]
    fn every_algorithm_verifies_its_own_signatures_and_no_others() {
        let claims = json!({"sub": "me"});
        let signers = NAMES.map(|name| Signer::new("k", name));
        let sets: Vec<_> = signers.iter().map(|signer| set(signer, &[])).collect();
        let pems: Vec<_> = signers
            .iter()
            .map(|signer| KeySet::from_pem(&[signer.pem()], &[]).unwrap())
            .collect();
        for (at, signer) in signers.iter().enumerate() {
            let token = signer.sign(&claims);
            for (of, (jwk, pem)) in sets.iter().zip(&pems).enumerate() {
                assert_eq!(verifies(&token, jwk), at == of, "{at} by jwk {of}");
                assert_eq!(verifies(&token, pem), at == of, "{at} by pem {of}");
            }
        }
    }

    #[test]
    fn a_key_serves_only_the_algorithms_that_it_and_the_mount_allow() {
        let signer = Signer::new("k", "RS256");
        let token = signer.sign(&json!({}));
        assert!(verifies(&token, &set(&signer, &[Algorithm::RS256])));
        assert!(set(&signer, &[Algorithm::ES256]).is_empty());
        // The set says RS256; the same key signs by RS512.
        let other = signer.sign_with(&json!({"alg": "RS512", "kid": "k"}), &json!({}));
        assert!(!verifies(&other, &set(&signer, &[])));
        let pem = KeySet::from_pem(&[signer.pem()], &[Algorithm::RS512]).unwrap();
        assert!(!verifies(&token, &pem));
    }

    /// The classic: a verifier that takes the algorithm from the token uses the public key, which everyone
    /// has, as the secret of a MAC.
    #[test]
    fn a_public_key_is_never_the_secret_of_a_mac() {
        for name in ["RS256", "ES256", "EdDSA"] {
            let signer = Signer::new("k", name);
            let keys = [
                set(&signer, &[]),
                KeySet::from_pem(&[signer.pem()], &[]).unwrap(),
            ];
            let secrets = [
                signer.pem().into_bytes(),
                signer.pem().trim().as_bytes().to_vec(),
                signer.jwk().to_string().into_bytes(),
            ];
            for secret in secrets {
                for alg in ["HS256", "HS384", "HS512"] {
                    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
                    let signed = format!(
                        "{}.{}",
                        part(json!({"alg": alg, "kid": "k"})),
                        part(json!({"sub": "me"}))
                    );
                    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
                    let mac = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()).as_ref());
                    let token = format!("{signed}.{mac}");
                    assert!(Unverified::parse(&token).is_none(), "{alg} {name}");
                    for keys in &keys {
                        assert!(!verifies(&token, keys));
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_signed_token_is_refused() {
        let signer = Signer::new("k", "ES256");
        let keys = set(&signer, &[]);
        let good = signer.sign(&json!({"sub": "me"}));
        assert!(verifies(&good, &keys));
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let (header, payload) = signed.split_once('.').unwrap();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let twice = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","alg":"none"}"#);
        let other = URL_SAFE_NO_PAD.encode(r#"{"sub":"root"}"#);
        let cases = [
            String::new(),
            ".".into(),
            "..".into(),
            "...".into(),
            signed.to_owned(),
            format!("{signed}."),
            format!("{none}.{payload}."),
            format!("{none}.{payload}.{signature}"),
            format!("{twice}.{payload}.{signature}"),
            format!("{header}.{other}.{signature}"),
            format!("{good}.{signature}"),
            format!("{header}.{payload}=.{signature}"),
            format!("{good} "),
            format!("{header}.{payload}.{}", signature.replace(|_| true, "A")),
            signer.sign_with(
                &json!({"alg": "ES256", "kid": "k", "crit": ["b64"]}),
                &json!({}),
            ),
            signer.sign_with(&json!({"alg": "es256", "kid": "k"}), &json!({})),
            signer.sign_with(&json!({"alg": "ES256", "kid": "other"}), &json!({})),
            signer.sign_with(&json!({"alg": ["ES256"], "kid": "k"}), &json!({})),
            signer.sign_with(&json!({"alg": "ES256", "kid": "k"}), &json!(["no object"])),
        ];
        for token in cases {
            assert!(!verifies(&token, &keys), "{token}");
        }
    }

    #[test]
    fn a_token_that_names_no_key_is_tried_with_all_of_them() {
        let (one, two) = (Signer::new("1", "ES256"), Signer::new("2", "RS256"));
        let keys = KeySet::from_jwks(jwks(&[&one, &two]).to_string().as_bytes(), &[]).unwrap();
        assert!(verifies(
            &two.sign_with(&json!({"alg": "RS256"}), &json!({})),
            &keys
        ));
        assert!(keys.may_verify(None) && keys.may_verify(Some("1")) && !keys.may_verify(Some("3")));
        // Keys given in PEM have no ids: the token's is no reason to refuse it.
        let pem = KeySet::from_pem(&[one.pem(), two.pem()], &[]).unwrap();
        let token = two.sign(&json!({}));
        assert!(Unverified::parse(&token).unwrap().verify(&pem).is_some());
    }

    #[test]
    fn a_key_set_is_read_leniently_and_its_keys_strictly() {
        let signer = Signer::new("k", "ES256");
        let mut encryption = signer.jwk();
        encryption["use"] = json!("enc");
        let mut wrong_point = signer.jwk();
        wrong_point["x"] = json!(URL_SAFE_NO_PAD.encode([1; 32]));
        let mut other_curve = signer.jwk();
        other_curve["crv"] = json!("P-384");
        let mut derive = signer.jwk();
        derive["key_ops"] = json!(["deriveKey"]);
        let short = json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([255; 128]), "e": "AQAB"});
        let mac = json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"});
        let read = |keys: Value| {
            KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes(), &[]).unwrap()
        };
        for key in [
            encryption,
            wrong_point,
            other_curve,
            derive,
            short,
            mac,
            json!({}),
            json!("x"),
            json!({"kty": "EC"}),
        ] {
            assert!(read(json!([key])).is_empty(), "{key}");
            assert!(!read(json!([key, signer.jwk()])).is_empty());
        }
        for document in ["", "[]", "{}", "{\"keys\":1}", "<html>"] {
            assert!(KeySet::from_jwks(document.as_bytes(), &[]).is_none());
        }
        for text in [
            "",
            "garbage",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        ] {
            assert!(KeySet::from_pem(&[text.to_owned()], &[]).is_err(), "{text}");
        }
        assert!(matches!(
            KeySet::from_pem(&[signer.pem(), "x".into()], &[]),
            Err(2)
        ));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "[ -~]{0,200}", parts in "[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}") {
            let keys = KeySet::from_pem(&[], &[]).unwrap();
            prop_assert!(!verifies(&text, &keys) && !verifies(&parts, &keys));
            let _ = unverified_claims(&text);
            let _ = unverified_claims(&parts);
        }
    }
}
