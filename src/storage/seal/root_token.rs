//! A quorum of share holders allows one root token, where every other one is lost or was revoked.
//!
//! This module only counts the quorum; who asks then makes the token and hides it under the one-time
//! password, which whoever began the attempt holds.

use daypass_contract::Secret;
use uuid::Uuid;

use super::quorum::Quorum;
use super::{Keeper, SealError, invalid};

/// Where the making of a root token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootTokenStatus {
    /// Names the attempt; `None` where there is none.
    pub nonce: Option<Uuid>,
    /// Shares given.
    pub progress: usize,
    /// Shares needed.
    pub required: u8,
}

/// What a share brought.
pub enum RootTokenStep {
    /// More shares are needed.
    More(RootTokenStatus),
    /// The quorum allows it: this attempt is over, and its token may be made.
    Allowed {
        /// Of the attempt, all shares given.
        status: RootTokenStatus,
        /// What to hide the token under.
        otp: Secret,
    },
}

/// An attempt.
pub(super) struct Attempt {
    quorum: Quorum,
    otp: Secret,
}

impl Keeper {
    /// Where it stands.
    pub async fn root_token_status(&self) -> Result<RootTokenStatus, SealError> {
        let ceremonies = self.ceremonies.lock().await;
        let held = self.held().await?;
        Ok(status(ceremonies.root_token.as_ref(), held.threshold))
    }

    /// Begins an attempt whose token will be hidden under `otp`.
    pub async fn begin_root_token(&self, otp: Secret) -> Result<RootTokenStatus, SealError> {
        let mut ceremonies = self.ceremonies.lock().await;
        let held = self.held().await?;
        if ceremonies.root_token.is_some() {
            return Err(invalid("root generation already in progress"));
        }
        let attempt = ceremonies.root_token.insert(Attempt {
            quorum: Quorum::begin("root generation", self.barrier.entropy()),
            otp,
        });
        Ok(status(Some(attempt), held.threshold))
    }

    /// Forgets the attempt, where there is one.
    pub async fn cancel_root_token(&self) -> Result<(), SealError> {
        let mut ceremonies = self.ceremonies.lock().await;
        self.held().await?;
        ceremonies.root_token = None;
        Ok(())
    }

    /// Takes a share for the attempt that `nonce` names. Wrong shares are all forgotten; the attempt goes on.
    pub async fn offer_for_root_token(
        &self,
        nonce: &str,
        share: &Secret,
    ) -> Result<RootTokenStep, SealError> {
        let mut ceremonies = self.ceremonies.lock().await;
        let held = self.held().await?;
        let Some(attempt) = &mut ceremonies.root_token else {
            return Err(invalid("no root generation in progress"));
        };
        let Some(root) = attempt.quorum.offer(nonce, share, held.threshold)? else {
            return Ok(RootTokenStep::More(status(Some(attempt), held.threshold)));
        };
        held.check_root(&root)?;
        let status = RootTokenStatus {
            progress: held.threshold.into(),
            ..status(Some(attempt), held.threshold)
        };
        let otp = attempt.otp.duplicate();
        ceremonies.root_token = None;
        Ok(RootTokenStep::Allowed { status, otp })
    }
}

fn status(attempt: Option<&Attempt>, required: u8) -> RootTokenStatus {
    RootTokenStatus {
        nonce: attempt.map(|attempt| attempt.quorum.nonce),
        progress: attempt.map_or(0, |attempt| attempt.quorum.progress()),
        required,
    }
}
