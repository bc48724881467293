//! Gathering a quorum of shares: what an open store is asked to do with its root key, enough holders of
//! shares must agree to.

use daypass_contract::{Entropy, Secret};
use uuid::Uuid;

use super::{SealError, invalid, random_uuid, shamir};
use crate::memory::LockedKey;

/// Shares offered towards one thing.
pub(super) struct Quorum {
    /// Names the attempt, so that nobody gives a share to one they do not know of.
    pub(super) nonce: Uuid,
    /// What the attempt is called in errors.
    what: &'static str,
    shares: Vec<Secret>,
}

impl Quorum {
    /// An attempt under a new nonce.
    pub(super) fn begin(what: &'static str, entropy: &dyn Entropy) -> Self {
        Self {
            nonce: random_uuid(entropy),
            what,
            shares: Vec::new(),
        }
    }

    /// How many shares are there.
    pub(super) fn progress(&self) -> usize {
        self.shares.len()
    }

    /// Takes a share. The one that completes `threshold` gives the key that they make, right or wrong
    /// (the caller checks), and all are forgotten.
    pub(super) fn offer(
        &mut self,
        nonce: &str,
        share: &Secret,
        threshold: u8,
    ) -> Result<Option<LockedKey<32>>, SealError> {
        if !nonce.eq_ignore_ascii_case(&self.nonce.to_string()) {
            return Err(invalid(&format!(
                "incorrect nonce supplied; nonce for this {} operation is \"{}\"",
                self.what, self.nonce
            )));
        }
        shamir::check_length(share, threshold)?;
        if self
            .shares
            .iter()
            .any(|offered| offered.ct_eq(share.expose()))
        {
            return Err(invalid(&format!(
                "given key has already been provided during this {} operation",
                self.what
            )));
        }
        self.shares.push(share.duplicate());
        if self.shares.len() < usize::from(threshold) {
            return Ok(None);
        }
        let shares = std::mem::take(&mut self.shares);
        shamir::combine(&shares)
            .map(Some)
            .ok_or(SealError::WrongShares)
    }
}
