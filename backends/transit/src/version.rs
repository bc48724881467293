//! [`Version`]: one version of a key, compiled, doing what keys do.
//!
//! # Invariants
//!
//! * **A nonce is never chosen by a caller.** It is random; or, of convergent keys, the HMAC of the
//!   plaintext under a key derived from the context.
//! * **One answer to all that fails to open.** Which of key, context, associated data and ciphertext
//!   is wrong cannot be told from it.

use aws_lc_rs::aead::{Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
};
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, EcdsaVerificationAlgorithm, Ed25519KeyPair,
    KeyPair as _, RsaEncoding, RsaKeyPair, RsaParameters, RsaPssSaltLength, RsaSignatureEncoding,
    UnparsedPublicKey,
};
use aws_lc_rs::{hkdf, hmac};
use daypass_contract::{BackendError, Entropy, Secret};

use crate::hash::Hash;
use crate::kind::Kind;
use crate::material::{Material, ed25519};
use crate::text::Marshaling;

/// The longest AEAD tag there is here, and the only one.
const TAG_LEN: usize = 16;

/// A version of a key.
pub(crate) struct Version {
    hmac_key: Secret,
    form: Form,
}

enum Form {
    Cipher(Box<LessSafeKey>),
    /// A key per context; `convergent` ones encrypt the same to the same.
    Derived {
        kind: Kind,
        key: Secret,
        convergent: bool,
    },
    Ed25519(Box<Ed25519KeyPair>),
    /// Seed and public key together, from which each context's seed is derived.
    DerivedEd25519(Secret),
    Ecdsa(Box<Ecdsa>),
    Rsa(Box<Rsa>),
    Hmac,
}

struct Ecdsa {
    kind: Kind,
    asn1: EcdsaKeyPair,
    jws: EcdsaKeyPair,
}

struct Rsa {
    pair: RsaKeyPair,
    encrypting: OaepPublicEncryptingKey,
    decrypting: OaepPrivateDecryptingKey,
}

/// How an RSA signature is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    Pkcs1,
    Pss(Salt),
}

/// How long the salt of a PSS signature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Salt {
    /// As long as fits; verifying, also as long as the hash.
    Auto,
    /// As long as the hash.
    Hash,
}

/// How to sign, or how it was signed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method {
    pub(crate) hash: Hash,
    pub(crate) prehashed: bool,
    pub(crate) padding: Padding,
    pub(crate) marshaling: Marshaling,
}

impl Version {
    /// Compiles what is stored.
    pub(crate) fn new(
        material: &Material,
        derived: bool,
        convergent: bool,
    ) -> Result<Self, BackendError> {
        let kind = material.kind;
        let key = &material.key;
        let form = match kind {
            Kind::Aes128 | Kind::Aes256 | Kind::ChaCha20 if derived => Form::Derived {
                kind,
                key: key.duplicate(),
                convergent,
            },
            Kind::Aes128 | Kind::Aes256 | Kind::ChaCha20 => {
                Form::Cipher(Box::new(cipher(kind, key.expose())?))
            }
            Kind::Ed25519 if derived => {
                let pair = ed25519(key)?;
                let both = [key.expose(), pair.public_key().as_ref()].concat();
                Form::DerivedEd25519(Secret::new(both))
            }
            Kind::Ed25519 => Form::Ed25519(Box::new(ed25519(key)?)),
            Kind::P256 | Kind::P384 | Kind::P521 => Form::Ecdsa(Box::new(Ecdsa::new(kind, key)?)),
            Kind::Rsa2048 | Kind::Rsa3072 | Kind::Rsa4096 => Form::Rsa(Box::new(Rsa::new(key)?)),
            Kind::Hmac => Form::Hmac,
        };
        Ok(Self {
            hmac_key: material.hmac_key().duplicate(),
            form,
        })
    }

    /// Encrypts: nonce, ciphertext and tag; or what RSA-OAEP gives.
    pub(crate) fn encrypt(
        &self,
        plaintext: &Secret,
        context: &[u8],
        aad: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, BackendError> {
        let random = || entropy.bytes::<NONCE_LEN>();
        match &self.form {
            Form::Cipher(key) => seal(key, random(), aad, plaintext),
            Form::Derived {
                kind,
                key,
                convergent,
            } => {
                let (key, nonce_key) = derive_cipher(*kind, key, context, *convergent)?;
                let nonce = match nonce_key {
                    Some(nonce_key) => convergent_nonce(&nonce_key, plaintext)?,
                    None => random(),
                };
                seal(&key, nonce, aad, plaintext)
            }
            Form::Rsa(rsa) => rsa.encrypt(plaintext),
            _ => Err(cannot("encrypt")),
        }
    }

    /// Opens what [`Self::encrypt`] gave.
    pub(crate) fn decrypt(
        &self,
        ciphertext: Vec<u8>,
        context: &[u8],
        aad: &[u8],
    ) -> Result<Secret, BackendError> {
        match &self.form {
            Form::Cipher(key) => open(key, aad, ciphertext),
            Form::Derived {
                kind,
                key,
                convergent,
            } => {
                let (key, _) = derive_cipher(*kind, key, context, *convergent)?;
                open(&key, aad, ciphertext)
            }
            Form::Rsa(rsa) => rsa.decrypt(&ciphertext),
            _ => Err(cannot("decrypt")),
        }
    }

    /// Signs `input`, and answers the public key where it depends on the context.
    pub(crate) fn sign(
        &self,
        input: &[u8],
        context: &[u8],
        method: Method,
    ) -> Result<(Vec<u8>, Option<Vec<u8>>), BackendError> {
        match &self.form {
            Form::Ed25519(pair) => Ok((pair.sign(input).as_ref().to_vec(), None)),
            Form::DerivedEd25519(both) => {
                let pair = ed25519(&derive(both, context, 32)?)?;
                let public = pair.public_key().as_ref().to_vec();
                Ok((pair.sign(input).as_ref().to_vec(), Some(public)))
            }
            Form::Ecdsa(pair) => Ok((pair.sign(input, method)?, None)),
            Form::Rsa(rsa) => Ok((rsa.sign(input, method)?, None)),
            _ => Err(cannot("sign")),
        }
    }

    /// Whether `signature` is one of `input`.
    pub(crate) fn verify(
        &self,
        input: &[u8],
        signature: &[u8],
        context: &[u8],
        method: Method,
    ) -> Result<bool, BackendError> {
        let ed25519_verifies = |pair: &Ed25519KeyPair| {
            UnparsedPublicKey::new(&signature::ED25519, pair.public_key().as_ref())
                .verify(input, signature)
                .is_ok()
        };
        match &self.form {
            Form::Ed25519(pair) => Ok(ed25519_verifies(pair)),
            Form::DerivedEd25519(both) => {
                Ok(ed25519_verifies(&ed25519(&derive(both, context, 32)?)?))
            }
            Form::Ecdsa(pair) => pair.verify(input, signature, method),
            Form::Rsa(rsa) => rsa.verify(input, signature, method),
            _ => Err(cannot("verify signatures")),
        }
    }

    /// The HMAC of `input`.
    pub(crate) fn hmac(&self, input: &[u8], hash: Hash) -> Result<hmac::Tag, BackendError> {
        let key = hmac::Key::new(hash.hmac()?, self.hmac_key.expose());
        Ok(hmac::sign(&key, input))
    }

    /// Whether `tag` is the HMAC of `input`, found in constant time.
    pub(crate) fn hmac_verifies(
        &self,
        input: &[u8],
        tag: &[u8],
        hash: Hash,
    ) -> Result<bool, BackendError> {
        let key = hmac::Key::new(hash.hmac()?, self.hmac_key.expose());
        Ok(hmac::verify(&key, input, tag).is_ok())
    }
}

impl Ecdsa {
    fn new(kind: Kind, pkcs8: &Secret) -> Result<Self, BackendError> {
        let pair = |algorithm: Option<&'static EcdsaSigningAlgorithm>| {
            let algorithm = algorithm.ok_or_else(|| internal("not an ECDSA key"))?;
            EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.expose()).map_err(internal)
        };
        Ok(Self {
            kind,
            asn1: pair(asn1_signing(kind))?,
            jws: pair(jws_signing(kind))?,
        })
    }

    /// ECDSA takes the leftmost bits of a digest, as many as its curve has (FIPS 186-5, 6.4.1). So a
    /// longer digest is cut, a shorter one is filled with zeros in front, and signed as if it were
    /// the curve's own.
    fn digest(&self, input: &[u8], method: Method) -> Result<Digest, BackendError> {
        let digest = method.hash.digest(input, method.prehashed)?;
        let native = match self.kind {
            Kind::P256 => &digest::SHA256,
            Kind::P384 => &digest::SHA384,
            _ => &digest::SHA512,
        };
        let length = native.output_len;
        let mut bytes = vec![0; length.saturating_sub(digest.len())];
        bytes.extend(digest.iter().take(length));
        Digest::import_less_safe(&bytes, native).map_err(internal)
    }

    fn sign(&self, input: &[u8], method: Method) -> Result<Vec<u8>, BackendError> {
        let pair = match method.marshaling {
            Marshaling::Asn1 => &self.asn1,
            Marshaling::Jws => &self.jws,
        };
        let signature = pair.sign_digest(&self.digest(input, method)?);
        Ok(signature.map_err(internal)?.as_ref().to_vec())
    }

    fn verify(&self, input: &[u8], signature: &[u8], method: Method) -> Result<bool, BackendError> {
        let algorithm = verification(self.kind, method.marshaling);
        let public = UnparsedPublicKey::new(algorithm, self.asn1.public_key().as_ref());
        let digest = self.digest(input, method)?;
        Ok(public.verify_digest(&digest, signature).is_ok())
    }
}

impl Rsa {
    fn new(pkcs8: &Secret) -> Result<Self, BackendError> {
        let pair = RsaKeyPair::from_pkcs8(pkcs8.expose()).map_err(internal)?;
        let private = PrivateDecryptingKey::from_pkcs8(pkcs8.expose()).map_err(internal)?;
        Ok(Self {
            pair,
            encrypting: OaepPublicEncryptingKey::new(private.public_key()).map_err(internal)?,
            decrypting: OaepPrivateDecryptingKey::new(private).map_err(internal)?,
        })
    }

    fn encrypt(&self, plaintext: &Secret) -> Result<Vec<u8>, BackendError> {
        let longest = self.encrypting.max_plaintext_size(&OAEP_SHA256_MGF1SHA256);
        if plaintext.len() > longest {
            let problem = format!("at most {longest} bytes fit this RSA key");
            return Err(BackendError::field("plaintext", problem));
        }
        let mut out = vec![0; self.encrypting.ciphertext_size()];
        let algorithm = &OAEP_SHA256_MGF1SHA256;
        let encrypted = self
            .encrypting
            .encrypt(algorithm, plaintext.expose(), &mut out, None);
        Ok(encrypted.map_err(internal)?.to_vec())
    }

    fn decrypt(&self, ciphertext: &[u8]) -> Result<Secret, BackendError> {
        let mut out = vec![0; self.decrypting.min_output_size()];
        let algorithm = &OAEP_SHA256_MGF1SHA256;
        let opened = self
            .decrypting
            .decrypt(algorithm, ciphertext, &mut out, None);
        opened
            .map(|plaintext| Secret::new(&*plaintext))
            .map_err(|_| closed())
    }

    fn digest(input: &[u8], method: Method) -> Result<Digest, BackendError> {
        let digest = method.hash.digest(input, method.prehashed)?;
        Digest::import_less_safe(&digest, method.hash.algorithm()).map_err(internal)
    }

    fn sign(&self, input: &[u8], method: Method) -> Result<Vec<u8>, BackendError> {
        let encoding = rsa_encoding(method)?;
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign_digest(encoding, &Self::digest(input, method)?, &mut signature)
            .map_err(internal)?;
        Ok(signature)
    }

    fn verify(&self, input: &[u8], signature: &[u8], method: Method) -> Result<bool, BackendError> {
        let accepted = rsa_parameters(method)?;
        let digest = Self::digest(input, method)?;
        let public = self.pair.public_key().as_ref();
        Ok(accepted.into_iter().any(|algorithm| {
            UnparsedPublicKey::new(algorithm, public)
                .verify_digest(&digest, signature)
                .is_ok()
        }))
    }
}

pub(crate) fn cipher(kind: Kind, key: &[u8]) -> Result<LessSafeKey, BackendError> {
    let algorithm = kind.cipher().ok_or_else(|| internal("not a cipher"))?;
    UnboundKey::new(algorithm, key)
        .map(LessSafeKey::new)
        .map_err(internal)
}

pub(crate) fn seal(
    key: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    aad: &[u8],
    plaintext: &Secret,
) -> Result<Vec<u8>, BackendError> {
    let mut out = Vec::with_capacity(NONCE_LEN + plaintext.len() + TAG_LEN);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plaintext.expose());
    let (_, text) = out.split_at_mut(NONCE_LEN);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), text);
    out.extend_from_slice(tag.map_err(internal)?.as_ref());
    Ok(out)
}

pub(crate) fn open(
    key: &LessSafeKey,
    aad: &[u8],
    mut sealed: Vec<u8>,
) -> Result<Secret, BackendError> {
    let Some((nonce, text)) = sealed.split_first_chunk_mut::<NONCE_LEN>() else {
        return Err(BackendError::field(
            "ciphertext",
            "invalid ciphertext length",
        ));
    };
    let nonce = Nonce::assume_unique_for_key(*nonce);
    match key.open_in_place(nonce, Aad::from(aad), text) {
        Ok(plaintext) => Ok(Secret::new(&*plaintext)),
        Err(_) => Err(closed()),
    }
}

/// The key of a context, and of convergent keys the key of their nonces.
fn derive_cipher(
    kind: Kind,
    key: &Secret,
    context: &[u8],
    convergent: bool,
) -> Result<(LessSafeKey, Option<Secret>), BackendError> {
    let length = kind.cipher().map_or(0, Algorithm::key_len);
    let nonce_length = if convergent { 32 } else { 0 };
    let derived = derive(key, context, length + nonce_length)?;
    let (key, nonce_key) = derived
        .expose()
        .split_at_checked(length)
        .ok_or_else(|| internal("derived key is too short"))?;
    let nonce_key = convergent.then(|| Secret::new(nonce_key));
    Ok((cipher(kind, key)?, nonce_key))
}

fn convergent_nonce(key: &Secret, plaintext: &Secret) -> Result<[u8; NONCE_LEN], BackendError> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
    let tag = hmac::sign(&key, plaintext.expose());
    let nonce = tag.as_ref().first_chunk().copied();
    nonce.ok_or_else(|| internal("tag is too short"))
}

/// HKDF (RFC 5869) with SHA-256, no salt, and the context as its info.
fn derive(key: &Secret, context: &[u8], length: usize) -> Result<Secret, BackendError> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    if context.is_empty() {
        return Err(BackendError::field(
            "context",
            "missing 'context' for key derivation; the key was created using a derived key, which \
             means additional, per-request information must be included in order to perform \
             operations with the key",
        ));
    }
    let info = [context];
    let mut derived = vec![0; length];
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(key.expose())
        .expand(&info, Length(length))
        .and_then(|key| key.fill(&mut derived))
        .map_err(internal)?;
    Ok(Secret::new(derived))
}

/// The curve's algorithm for signatures in ASN.1, or `None` where there is no curve.
pub(crate) fn asn1_signing(kind: Kind) -> Option<&'static EcdsaSigningAlgorithm> {
    match kind {
        Kind::P256 => Some(&signature::ECDSA_P256_SHA256_ASN1_SIGNING),
        Kind::P384 => Some(&signature::ECDSA_P384_SHA384_ASN1_SIGNING),
        Kind::P521 => Some(&signature::ECDSA_P521_SHA512_ASN1_SIGNING),
        _ => None,
    }
}

fn jws_signing(kind: Kind) -> Option<&'static EcdsaSigningAlgorithm> {
    match kind {
        Kind::P256 => Some(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
        Kind::P384 => Some(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        Kind::P521 => Some(&signature::ECDSA_P521_SHA512_FIXED_SIGNING),
        _ => None,
    }
}

fn verification(kind: Kind, marshaling: Marshaling) -> &'static EcdsaVerificationAlgorithm {
    match (kind, marshaling) {
        (Kind::P256, Marshaling::Asn1) => &signature::ECDSA_P256_SHA256_ASN1,
        (Kind::P256, Marshaling::Jws) => &signature::ECDSA_P256_SHA256_FIXED,
        (Kind::P384, Marshaling::Asn1) => &signature::ECDSA_P384_SHA384_ASN1,
        (Kind::P384, Marshaling::Jws) => &signature::ECDSA_P384_SHA384_FIXED,
        (_, Marshaling::Asn1) => &signature::ECDSA_P521_SHA512_ASN1,
        (_, Marshaling::Jws) => &signature::ECDSA_P521_SHA512_FIXED,
    }
}

fn rsa_encoding(method: Method) -> Result<&'static dyn RsaEncoding, BackendError> {
    use signature::{
        RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
        RSA_PSS_SHA512,
    };
    const MAX: RsaPssSaltLength = RsaPssSaltLength::Max;
    static PSS_MAX: [RsaSignatureEncoding; 3] = [
        RSA_PSS_SHA256.with_pss_salt_length(MAX),
        RSA_PSS_SHA384.with_pss_salt_length(MAX),
        RSA_PSS_SHA512.with_pss_salt_length(MAX),
    ];
    let [sha256, sha384, sha512] = &PSS_MAX;
    Ok(match (method.hash, method.padding) {
        (Hash::Sha256, Padding::Pkcs1) => &RSA_PKCS1_SHA256,
        (Hash::Sha384, Padding::Pkcs1) => &RSA_PKCS1_SHA384,
        (Hash::Sha512, Padding::Pkcs1) => &RSA_PKCS1_SHA512,
        (Hash::Sha256, Padding::Pss(Salt::Hash)) => &RSA_PSS_SHA256,
        (Hash::Sha384, Padding::Pss(Salt::Hash)) => &RSA_PSS_SHA384,
        (Hash::Sha512, Padding::Pss(Salt::Hash)) => &RSA_PSS_SHA512,
        (Hash::Sha256, Padding::Pss(Salt::Auto)) => sha256,
        (Hash::Sha384, Padding::Pss(Salt::Auto)) => sha384,
        (Hash::Sha512, Padding::Pss(Salt::Auto)) => sha512,
        _ => return Err(no_rsa_hash()),
    })
}

/// Every way in which a signature of `method` may be padded.
fn rsa_parameters(method: Method) -> Result<Vec<&'static RsaParameters>, BackendError> {
    use signature::{
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
        RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    };
    const MAX: RsaPssSaltLength = RsaPssSaltLength::Max;
    static PSS_MAX: [RsaParameters; 3] = [
        RSA_PSS_2048_8192_SHA256.with_pss_salt_length(MAX),
        RSA_PSS_2048_8192_SHA384.with_pss_salt_length(MAX),
        RSA_PSS_2048_8192_SHA512.with_pss_salt_length(MAX),
    ];
    let [sha256, sha384, sha512] = &PSS_MAX;
    let (pkcs1, pss_hash, pss_max): (&RsaParameters, &RsaParameters, &RsaParameters) =
        match method.hash {
            Hash::Sha256 => (
                &RSA_PKCS1_2048_8192_SHA256,
                &RSA_PSS_2048_8192_SHA256,
                sha256,
            ),
            Hash::Sha384 => (
                &RSA_PKCS1_2048_8192_SHA384,
                &RSA_PSS_2048_8192_SHA384,
                sha384,
            ),
            Hash::Sha512 => (
                &RSA_PKCS1_2048_8192_SHA512,
                &RSA_PSS_2048_8192_SHA512,
                sha512,
            ),
            _ => return Err(no_rsa_hash()),
        };
    Ok(match method.padding {
        Padding::Pkcs1 => vec![pkcs1],
        Padding::Pss(Salt::Hash) => vec![pss_hash],
        Padding::Pss(Salt::Auto) => vec![pss_max, pss_hash],
    })
}

fn no_rsa_hash() -> BackendError {
    let problem = "an RSA key signs with sha2-256, sha2-384 or sha2-512";
    BackendError::field("hash_algorithm", problem)
}

/// The one answer to all that cannot be opened.
fn closed() -> BackendError {
    let problem = "message authentication failed: it was made with another key, context or \
                   associated_data, or was altered";
    BackendError::field("ciphertext", problem)
}

/// Handlers ask the kind first; this is for those who forgot.
fn cannot(what: &str) -> BackendError {
    BackendError::InvalidRequest(format!("this type of key does not {what}"))
}

/// The library failed where it must not.
pub(crate) fn internal(error: impl Into<daypass_contract::Source>) -> BackendError {
    BackendError::Internal(error.into())
}
