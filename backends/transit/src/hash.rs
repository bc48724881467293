//! [`Hash`]: the digests that hashing, HMAC and signing name.

use aws_lc_rs::{digest, hmac};
use daypass_contract::BackendError;
use schemars::JsonSchema;
use serde::Deserialize;

/// A hash algorithm by its name in the Vault API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum Hash {
    /// For ECDSA and HMAC only, where old clients need it.
    #[serde(rename = "sha1")]
    Sha1,
    #[serde(rename = "sha2-224")]
    Sha224,
    #[default]
    #[serde(rename = "sha2-256", alias = "")]
    Sha256,
    #[serde(rename = "sha2-384")]
    Sha384,
    #[serde(rename = "sha2-512")]
    Sha512,
    #[serde(rename = "sha3-256")]
    Sha3x256,
    #[serde(rename = "sha3-384")]
    Sha3x384,
    #[serde(rename = "sha3-512")]
    Sha3x512,
}

impl Hash {
    pub(crate) fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha224 => &digest::SHA224,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
            Self::Sha3x256 => &digest::SHA3_256,
            Self::Sha3x384 => &digest::SHA3_384,
            Self::Sha3x512 => &digest::SHA3_512,
        }
    }

    /// The HMAC with it. SHA-3 has none in the cryptographic library.
    pub(crate) fn hmac(self) -> Result<hmac::Algorithm, BackendError> {
        match self {
            Self::Sha224 => Ok(hmac::HMAC_SHA224),
            Self::Sha256 => Ok(hmac::HMAC_SHA256),
            Self::Sha384 => Ok(hmac::HMAC_SHA384),
            Self::Sha512 => Ok(hmac::HMAC_SHA512),
            Self::Sha1 | Self::Sha3x256 | Self::Sha3x384 | Self::Sha3x512 => {
                Err(BackendError::field(
                    "algorithm",
                    "HMAC takes sha2-224, sha2-256, sha2-384 or sha2-512",
                ))
            }
        }
    }

    /// The digest of `input`; or, where the caller has hashed already, `input` as that digest.
    pub(crate) fn digest(self, input: &[u8], prehashed: bool) -> Result<Vec<u8>, BackendError> {
        let algorithm = self.algorithm();
        if !prehashed {
            return Ok(digest::digest(algorithm, input).as_ref().to_vec());
        }
        if input.len() != algorithm.output_len {
            let problem = format!(
                "a prehashed input has the {} bytes of its hash algorithm",
                algorithm.output_len
            );
            return Err(BackendError::field("input", problem));
        }
        Ok(input.to_vec())
    }
}
