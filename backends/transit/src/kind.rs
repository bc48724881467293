//! [`Kind`]: what a key is, and what it can do.

use aws_lc_rs::aead;
use aws_lc_rs::rsa::KeySize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The type of a key, chosen once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum Kind {
    #[serde(rename = "aes128-gcm96")]
    Aes128,
    #[default]
    #[serde(rename = "aes256-gcm96")]
    Aes256,
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20,
    #[serde(rename = "ed25519")]
    Ed25519,
    #[serde(rename = "ecdsa-p256")]
    P256,
    #[serde(rename = "ecdsa-p384")]
    P384,
    #[serde(rename = "ecdsa-p521")]
    P521,
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    #[serde(rename = "rsa-3072")]
    Rsa3072,
    #[serde(rename = "rsa-4096")]
    Rsa4096,
    #[serde(rename = "hmac")]
    Hmac,
}

impl Kind {
    /// Its name in the Vault API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Aes128 => "aes128-gcm96",
            Self::Aes256 => "aes256-gcm96",
            Self::ChaCha20 => "chacha20-poly1305",
            Self::Ed25519 => "ed25519",
            Self::P256 => "ecdsa-p256",
            Self::P384 => "ecdsa-p384",
            Self::P521 => "ecdsa-p521",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
            Self::Hmac => "hmac",
        }
    }

    /// What a read of the key calls one of its public keys.
    pub(crate) fn public_name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
            other => other.name(),
        }
    }

    /// The cipher of a symmetric key.
    pub(crate) fn cipher(self) -> Option<&'static aead::Algorithm> {
        match self {
            Self::Aes128 => Some(&aead::AES_128_GCM),
            Self::Aes256 => Some(&aead::AES_256_GCM),
            Self::ChaCha20 => Some(&aead::CHACHA20_POLY1305),
            _ => None,
        }
    }

    /// The size of an RSA key.
    pub(crate) fn rsa(self) -> Option<KeySize> {
        match self {
            Self::Rsa2048 => Some(KeySize::Rsa2048),
            Self::Rsa3072 => Some(KeySize::Rsa3072),
            Self::Rsa4096 => Some(KeySize::Rsa4096),
            _ => None,
        }
    }

    pub(crate) fn encrypts(self) -> bool {
        self.cipher().is_some() || self.rsa().is_some()
    }

    pub(crate) fn derives(self) -> bool {
        self.cipher().is_some() || self == Self::Ed25519
    }

    pub(crate) fn signs(self) -> bool {
        self.cipher().is_none() && self != Self::Hmac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_is_written() {
        for kind in ALL {
            let written = serde_json::to_value(kind).unwrap();
            assert_eq!(written, kind.name());
            assert_eq!(serde_json::from_value::<Kind>(written).unwrap(), kind);
        }
    }

    pub(crate) const ALL: [Kind; 11] = [
        Kind::Aes128,
        Kind::Aes256,
        Kind::ChaCha20,
        Kind::Ed25519,
        Kind::P256,
        Kind::P384,
        Kind::P521,
        Kind::Rsa2048,
        Kind::Rsa3072,
        Kind::Rsa4096,
        Kind::Hmac,
    ];
}
