//! [`Material`]: the secret half of a key version: made, stored, and exported.
//!
//! Symmetric keys and seeds come from the host's entropy; the cryptographic library makes RSA and
//! ECDSA keys from its own generator, which takes no other.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::Algorithm;
use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use daypass_contract::{BackendError, Entropy, Secret};
use tokio::sync::{Semaphore, TryAcquireError};

use crate::kind::Kind;
use crate::text;
use crate::version::{asn1_signing, internal};

/// Every version has a key of this length for HMAC, whatever else it is.
const HMAC_KEY_LEN: usize = 32;

/// The form of a stored version; its first byte.
const FORMAT: u8 = 1;

/// The secrets of one version of a key.
pub(crate) struct Material {
    pub(crate) kind: Kind,
    /// The cipher's key, the Ed25519 seed, the HMAC key, or PKCS#8 in DER.
    pub(crate) key: Secret,
    /// Authenticates in the name of keys that are not for that; of [`Kind::Hmac`], unused.
    hmac_key: Secret,
}

/// What of a key is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Export {
    Encryption,
    Signing,
    Hmac,
    Public,
}

impl Material {
    #[cfg(test)]
    pub(crate) fn of(kind: Kind, key: Secret, hmac_key: Secret) -> Self {
        Self {
            kind,
            key,
            hmac_key,
        }
    }

    /// New secrets, but those of RSA; see [`Generator`].
    fn generate(kind: Kind, size: usize, entropy: &dyn Entropy) -> Result<Self, BackendError> {
        let random = |length| {
            let mut bytes = vec![0; length];
            entropy.fill(&mut bytes);
            Secret::new(bytes)
        };
        let key = match kind {
            Kind::Aes128 | Kind::Aes256 | Kind::ChaCha20 => {
                random(kind.cipher().map_or(0, Algorithm::key_len))
            }
            Kind::Ed25519 => random(32),
            Kind::Hmac => random(size),
            Kind::P256 | Kind::P384 | Kind::P521 => {
                let algorithm = asn1_signing(kind).ok_or(Unspecified).map_err(internal)?;
                let pair = EcdsaKeyPair::generate(algorithm).map_err(internal)?;
                Secret::new(pair.to_pkcs8v1().map_err(internal)?.as_ref())
            }
            Kind::Rsa2048 | Kind::Rsa3072 | Kind::Rsa4096 => {
                let size = kind.rsa().ok_or(Unspecified).map_err(internal)?;
                let pair = RsaKeyPair::generate(size).map_err(internal)?;
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(internal)?;
                Secret::new(der.as_ref())
            }
        };
        Ok(Self {
            kind,
            key,
            hmac_key: random(HMAC_KEY_LEN),
        })
    }

    /// The bytes that are stored.
    pub(crate) fn to_stored(&self) -> Secret {
        Secret::new([&[FORMAT], self.hmac_key.expose(), self.key.expose()].concat())
    }

    /// Reads what [`Self::to_stored`] gave.
    pub(crate) fn from_stored(kind: Kind, stored: &Secret) -> Result<Self, BackendError> {
        let damaged = || BackendError::Internal("stored key is damaged".into());
        let (format, rest) = stored.expose().split_first().ok_or_else(damaged)?;
        let (hmac_key, key) = rest.split_at_checked(HMAC_KEY_LEN).ok_or_else(damaged)?;
        if *format != FORMAT {
            return Err(damaged());
        }
        Ok(Self {
            kind,
            key: Secret::new(key),
            hmac_key: Secret::new(hmac_key),
        })
    }

    /// The key for HMAC.
    pub(crate) fn hmac_key(&self) -> &Secret {
        match self.kind {
            Kind::Hmac => &self.key,
            _ => &self.hmac_key,
        }
    }

    /// The public key as the Vault API shows it, or `None` where there is none.
    pub(crate) fn public_key(&self) -> Result<Option<String>, BackendError> {
        let der: PublicKeyX509Der<'_> = match self.kind {
            Kind::Ed25519 => return ed25519_public(&self.key).map(Some),
            Kind::P256 | Kind::P384 | Kind::P521 => {
                self.ecdsa()?.public_key().as_der().map_err(internal)?
            }
            Kind::Rsa2048 | Kind::Rsa3072 | Kind::Rsa4096 => {
                let pair = RsaKeyPair::from_pkcs8(self.key.expose()).map_err(internal)?;
                pair.public_key().as_der().map_err(internal)?
            }
            Kind::Aes128 | Kind::Aes256 | Kind::ChaCha20 | Kind::Hmac => return Ok(None),
        };
        Ok(Some(text::pem("PUBLIC KEY", der.as_ref()) + "\n"))
    }

    /// What leaves by an export, in the form the Vault API gives it.
    pub(crate) fn export(&self, what: Export) -> Result<Secret, BackendError> {
        let kind = self.kind;
        match what {
            Export::Hmac => Ok(text::encode(self.hmac_key().expose())),
            Export::Public => match self.public_key()? {
                Some(public) => Ok(Secret::new(public.trim_end())),
                None => Err(no_export(kind, "has no public key")),
            },
            Export::Encryption if !kind.encrypts() => {
                Err(no_export(kind, "encryption not supported for the key"))
            }
            Export::Signing if !kind.signs() => {
                Err(no_export(kind, "signing not supported for the key"))
            }
            Export::Encryption | Export::Signing => match kind {
                Kind::Ed25519 => {
                    let pair = ed25519(&self.key)?;
                    let both = [self.key.expose(), pair.public_key().as_ref()].concat();
                    Ok(text::encode(Secret::new(both).expose()))
                }
                Kind::P256 | Kind::P384 | Kind::P521 => {
                    let pair = self.ecdsa()?;
                    let der: EcPrivateKeyRfc5915Der<'_> =
                        pair.private_key().as_der().map_err(internal)?;
                    Ok(Secret::new(text::pem("EC PRIVATE KEY", der.as_ref())))
                }
                Kind::Rsa2048 | Kind::Rsa3072 | Kind::Rsa4096 => {
                    let der = pkcs1(self.key.expose())
                        .ok_or_else(|| BackendError::Internal("stored key is damaged".into()))?;
                    // With a line break at its end, which an EC key has not: as OpenBao does.
                    Ok(Secret::new(text::pem("RSA PRIVATE KEY", der) + "\n"))
                }
                Kind::Aes128 | Kind::Aes256 | Kind::ChaCha20 | Kind::Hmac => {
                    Ok(text::encode(self.key.expose()))
                }
            },
        }
    }

    fn ecdsa(&self) -> Result<EcdsaKeyPair, BackendError> {
        let algorithm = asn1_signing(self.kind)
            .ok_or(Unspecified)
            .map_err(internal)?;
        EcdsaKeyPair::from_pkcs8(algorithm, self.key.expose()).map_err(internal)
    }
}

fn no_export(kind: Kind, problem: &str) -> BackendError {
    BackendError::InvalidRequest(format!("{problem}: its type is {}", kind.name()))
}

/// The pair of an Ed25519 seed.
pub(crate) fn ed25519(seed: &Secret) -> Result<Ed25519KeyPair, BackendError> {
    Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(internal)
}

/// The public key of an Ed25519 seed, in base64.
pub(crate) fn ed25519_public(seed: &Secret) -> Result<String, BackendError> {
    let encoded = text::encode(ed25519(seed)?.public_key().as_ref());
    Ok(encoded.expose_str().unwrap_or_default().to_owned())
}

/// The `RSAPrivateKey` (RFC 8017) within a `PrivateKeyInfo` (RFC 5208).
fn pkcs1(pkcs8: &[u8]) -> Option<&[u8]> {
    let (info, _) = text::der(pkcs8, 0x30)?;
    let (_version, rest) = text::der(info, 0x02)?;
    let (_algorithm, rest) = text::der(rest, 0x30)?;
    text::der(rest, 0x04).map(|(key, _)| key)
}

/// How many requests may wait for an RSA key. More are turned away: they would time out in the queue.
const SEATS: usize = 64;

/// Makes material. An RSA key takes a core for up to a second, so those are made on threads of their
/// own, on half of the cores at most.
pub(crate) struct Generator {
    entropy: Arc<dyn Entropy>,
    seats: Semaphore,
    running: Arc<Semaphore>,
}

impl Generator {
    pub(crate) fn new(entropy: Arc<dyn Entropy>) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            entropy,
            seats: Semaphore::new(SEATS),
            running: Arc::new(Semaphore::new((cores / 2).max(1))),
        }
    }

    /// New material of `kind`; `size` counts for HMAC keys.
    pub(crate) async fn generate(&self, kind: Kind, size: usize) -> Result<Material, BackendError> {
        if kind.rsa().is_none() {
            return Material::generate(kind, size, &*self.entropy);
        }
        let _seat = self.seats.try_acquire().map_err(|error| match error {
            TryAcquireError::NoPermits => BackendError::Unavailable {
                retry_after: Some(Duration::from_secs(5)),
                source: "too many RSA keys are being generated; try again".into(),
            },
            TryAcquireError::Closed => internal(error),
        })?;
        let permit = Arc::clone(&self.running).acquire_owned().await;
        let permit = permit.map_err(internal)?;
        let entropy = Arc::clone(&self.entropy);
        let generated = tokio::task::spawn_blocking(move || {
            // Held by the thread: a caller who goes away does not free the core.
            let _permit = permit;
            Material::generate(kind, size, &*entropy)
        });
        generated.await.map_err(internal)?
    }
}

#[cfg(test)]
mod tests {
    use daypass_conformance::SeededEntropy;

    use super::*;

    #[test]
    fn material_is_stored_and_read_back_and_damage_is_told() {
        let entropy = SeededEntropy::new(7);
        for kind in [
            Kind::Aes128,
            Kind::ChaCha20,
            Kind::Ed25519,
            Kind::P384,
            Kind::Hmac,
        ] {
            let made = Material::generate(kind, 64, &entropy).unwrap();
            let read = Material::from_stored(kind, &made.to_stored()).unwrap();
            assert!(read.key.ct_eq(made.key.expose()), "{kind:?}");
            assert!(read.hmac_key.ct_eq(made.hmac_key.expose()), "{kind:?}");
        }
        for stored in [&b""[..], &[1], &[1; 32], &[2; 65]] {
            assert!(Material::from_stored(Kind::Aes256, &Secret::new(stored)).is_err());
        }
    }

    #[tokio::test]
    async fn rsa_keys_wait_in_a_queue_with_an_end_and_others_do_not() {
        let generator = Generator::new(Arc::new(SeededEntropy::new(1)));
        let _taken = generator
            .seats
            .try_acquire_many(u32::try_from(SEATS).unwrap());
        let refused = generator.generate(Kind::Rsa2048, 0).await.err().unwrap();
        assert!(
            matches!(refused, BackendError::Unavailable { .. }),
            "{refused}"
        );
        assert!(generator.generate(Kind::P256, 0).await.is_ok());
    }
}
