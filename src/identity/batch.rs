//! Batch tokens: everything a request needs to know, sealed into the token itself. Nothing is stored,
//! so nothing can be renewed or revoked but through the parent.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use daypass_contract::{Entropy, Secret};

use super::token::BATCH;
use super::tokens::{TokenError, TokenRecord};

const NONCE: usize = 12;

pub(super) struct BatchKey(LessSafeKey);

impl BatchKey {
    pub(super) fn new(key: &[u8; 32]) -> Result<Self, TokenError> {
        let key =
            UnboundKey::new(&AES_256_GCM, key).map_err(|_| TokenError::Broken("batch key"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    pub(super) fn seal(
        &self,
        record: &TokenRecord,
        entropy: &dyn Entropy,
    ) -> Result<Secret, TokenError> {
        let mut bytes =
            serde_json::to_vec(record).map_err(|_| TokenError::Broken("batch token"))?;
        let nonce = entropy.bytes::<NONCE>();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(BATCH.as_bytes()),
                &mut bytes,
            )
            .map_err(|_| TokenError::Broken("batch token"))?;
        let mut sealed = nonce.to_vec();
        sealed.append(&mut bytes);
        Ok(Secret::new(format!(
            "{BATCH}{}",
            URL_SAFE_NO_PAD.encode(sealed)
        )))
    }

    /// `None` for anything this key did not seal.
    pub(super) fn open(&self, sealed: &str) -> Option<TokenRecord> {
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, body) = bytes.split_at_mut_checked(NONCE)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self
            .0
            .open_in_place(nonce, Aad::from(BATCH.as_bytes()), body)
            .ok()?;
        serde_json::from_slice(plain).ok()
    }
}
