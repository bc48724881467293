//! New shares: a quorum of the old ones makes a new root key and splits it anew.
//!
//! # Invariants
//!
//! * The seal's record and the keyring under the new root key are stored in one batch: at every instant
//!   either the old shares open the store or the new ones do.
//! * Where verification is asked for, that batch is written only after a quorum of the *new* shares was
//!   shown. Until then the new root key exists in memory alone, and sealing forgets it.
//! * Shares that were made are always handed out. Where it is not certain that they are valid yet,
//!   verification is asked for, which tries again.

use bytes::Bytes;
use daypass_contract::{Revision, Secret};
use uuid::Uuid;

use super::quorum::Quorum;
use super::record::{self, Kind, SealRecord};
use super::{Keeper, Seal, SealError, check_numbers, invalid, key_file, shamir};
use crate::memory::LockedKey;
use crate::storage::StorageError;

/// Where a change of shares stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RekeyStatus {
    /// Names the attempt; `None` where there is none.
    pub nonce: Option<Uuid>,
    /// How many shares there will be.
    pub shares: u8,
    /// How many of them will open the store.
    pub threshold: u8,
    /// Old shares given.
    pub progress: usize,
    /// Old shares needed.
    pub required: u8,
    /// Whether the new shares must be shown before they are valid.
    pub verify: bool,
    /// Where that stands, once there are new shares.
    pub verification: Option<Verification>,
}

/// Where the verification of new shares stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Names it.
    pub nonce: Uuid,
    /// New shares shown.
    pub progress: usize,
}

/// What an old share brought.
pub enum RekeyStep {
    /// More shares are needed.
    More(RekeyStatus),
    /// There are new shares.
    Made {
        /// The attempt.
        nonce: Uuid,
        /// To hand out, once.
        shares: Vec<Secret>,
        /// They are not valid before they are verified under this nonce; `None` where they are valid now.
        verification: Option<Uuid>,
    },
}

/// What a new share brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyStep {
    /// More shares are needed.
    More(RekeyStatus),
    /// The new shares are valid, and the old ones no longer.
    Valid {
        /// Of the verification.
        nonce: Uuid,
    },
}

/// A change of shares under way.
pub(super) struct Rekey {
    quorum: Quorum,
    shares: u8,
    threshold: u8,
    verify: bool,
    made: Option<Made>,
}

/// New shares that are handed out and not valid yet.
struct Made {
    root: LockedKey<32>,
    /// For the new root key; the same bytes at each try, so that one that was kept is recognized.
    record: Bytes,
    replaces: Revision,
    quorum: Quorum,
}

impl Keeper {
    /// Where a change of shares stands.
    pub async fn rekey_status(&self) -> Result<RekeyStatus, SealError> {
        let ceremonies = self.ceremonies.lock().await;
        let held = self.held().await?;
        Ok(status(ceremonies.rekey.as_ref(), held.threshold))
    }

    /// Begins a change to so many shares, `threshold` of which will open the store.
    pub async fn begin_rekey(
        &self,
        shares: usize,
        threshold: usize,
        verify: bool,
    ) -> Result<RekeyStatus, SealError> {
        let mut ceremonies = self.ceremonies.lock().await;
        let held = self.held().await?;
        if ceremonies.rekey.is_some() {
            return Err(invalid("rekey already in progress"));
        }
        let (shares, threshold) = check_numbers(shares, threshold)?;
        let rekey = ceremonies.rekey.insert(Rekey {
            quorum: Quorum::begin("rekey", self.barrier.entropy()),
            shares,
            threshold,
            verify,
            made: None,
        });
        Ok(status(Some(rekey), held.threshold))
    }

    /// Forgets the attempt and the new shares it made, where they are not valid yet.
    pub async fn cancel_rekey(&self) -> Result<(), SealError> {
        let mut ceremonies = self.ceremonies.lock().await;
        self.held().await?;
        ceremonies.rekey = None;
        Ok(())
    }

    /// Takes an old share for the attempt that `nonce` names. Wrong shares are all forgotten; the attempt
    /// goes on.
    pub async fn offer_for_rekey(
        &self,
        nonce: &str,
        share: &Secret,
    ) -> Result<RekeyStep, SealError> {
        let mut ceremonies = self.ceremonies.lock().await;
        let held = self.held().await?;
        let Some(rekey) = &mut ceremonies.rekey else {
            return Err(invalid("no barrier rekey in progress"));
        };
        if let Some(made) = &rekey.made {
            return Err(invalid(&format!(
                "rekey operation already finished; verification must be performed; nonce for the \
                 verification operation is \"{}\"",
                made.quorum.nonce
            )));
        }
        let Some(root) = rekey.quorum.offer(nonce, share, held.threshold)? else {
            return Ok(RekeyStep::More(status(Some(rekey), held.threshold)));
        };
        held.check_root(&root)?;
        drop(root);
        let (made, shares) = self.make(rekey.shares, rekey.threshold, &held)?;
        let nonce = rekey.quorum.nonce;
        let verification = Some(made.quorum.nonce);
        let made = rekey.made.insert(made);
        if !rekey.verify {
            match self.commit(made, held.record.cluster_id).await {
                Ok(()) => {
                    ceremonies.rekey = None;
                    return Ok(RekeyStep::Made {
                        nonce,
                        shares,
                        verification: None,
                    });
                }
                Err(error) => {
                    tracing::error!(
                        %error,
                        "new shares are handed out, but may not be valid: they must be verified"
                    );
                    rekey.verify = true;
                }
            }
        }
        Ok(RekeyStep::Made {
            nonce,
            shares,
            verification,
        })
    }

    /// Where the verification stands: [`RekeyStatus::verification`] is `None` before there are new shares.
    pub async fn verification_status(&self) -> Result<RekeyStatus, SealError> {
        let ceremonies = self.ceremonies.lock().await;
        let held = self.held().await?;
        let rekey = ceremonies.rekey.as_ref().ok_or_else(no_rekey)?;
        Ok(status(Some(rekey), held.threshold))
    }

    /// Forgets the new shares shown so far, and gives the verification another nonce. The new shares stay
    /// as they are.
    pub async fn restart_verification(&self) -> Result<RekeyStatus, SealError> {
        let mut ceremonies = self.ceremonies.lock().await;
        let held = self.held().await?;
        let rekey = ceremonies.rekey.as_mut().ok_or_else(no_rekey)?;
        if let Some(made) = &mut rekey.made {
            made.quorum = self.verification();
        }
        Ok(status(Some(rekey), held.threshold))
    }

    /// Takes a new share for the verification that `nonce` names. The one that completes the new
    /// threshold makes the new shares valid, and the old ones worthless.
    pub async fn offer_for_verification(
        &self,
        nonce: &str,
        share: &Secret,
    ) -> Result<VerifyStep, SealError> {
        let mut ceremonies = self.ceremonies.lock().await;
        let held = self.held().await?;
        let Some(rekey) = &mut ceremonies.rekey else {
            return Err(invalid("no rekey verification in progress"));
        };
        let Some(made) = &mut rekey.made else {
            return Err(invalid("no rekey verification in progress"));
        };
        let root = made.quorum.offer(nonce, share, rekey.threshold);
        let right = match root {
            Ok(None) => return Ok(VerifyStep::More(status(Some(rekey), held.threshold))),
            Ok(Some(root)) => same(&root, &made.root),
            Err(SealError::WrongShares) => false,
            Err(error) => return Err(error),
        };
        let nonce = made.quorum.nonce;
        // Whatever comes of it, this attempt to verify is over.
        made.quorum = self.verification();
        if !right {
            return Err(invalid(
                "rekey verification failed; incorrect key shares supplied",
            ));
        }
        self.commit(made, held.record.cluster_id).await?;
        ceremonies.rekey = None;
        Ok(VerifyStep::Valid { nonce })
    }

    /// Makes a new root key where the seal needs no shares. There are none to hand out, so nothing is lost
    /// where it fails.
    pub async fn rotate_root(&self) -> Result<(), SealError> {
        let _ceremonies = self.ceremonies.lock().await;
        if self.barrier.is_sealed() {
            return Err(StorageError::Sealed.into());
        }
        let (record, replaces) = self.stored().await?.ok_or(SealError::NotInitialized)?;
        let Seal::KeyFile { path, .. } = &self.seal else {
            return Err(SealError::Unsupported(
                "the shares are pieces of the root key itself, so a new one needs new shares: \
                 begin with sys/rotate/root/init",
            ));
        };
        let entropy = self.barrier.entropy();
        let root = LockedKey::fill(|bytes| entropy.fill(bytes));
        let key = key_file::read(path)?;
        // The file must hold the key of this store, or nothing would open it again.
        if let Kind::KeyFile { wrapped } = &record.kind
            && key_file::unwrap(&key, wrapped, record.cluster_id)?.is_none()
        {
            return Err(key_file::wrong_key(path));
        }
        let wrapped = key_file::wrap(&key, &root, record.cluster_id, entropy)?;
        let new = record.with(Kind::KeyFile { wrapped }).encode()?;
        self.barrier
            .rekey(root, record.cluster_id, &new, replaces)
            .await?;
        Ok(())
    }

    /// A new root key and its shares; nothing is stored.
    fn make(
        &self,
        shares: u8,
        threshold: u8,
        held: &super::Held,
    ) -> Result<(Made, Vec<Secret>), SealError> {
        let entropy = self.barrier.entropy();
        let root = LockedKey::fill(|bytes| entropy.fill(bytes));
        let pieces = shamir::split(&root, shares, threshold, entropy)
            .ok_or_else(|| invalid("the root key cannot be split so"))?;
        let check = record::root_check(&root, held.record.cluster_id);
        let record: SealRecord = held.record.with(Kind::Shamir {
            shares,
            threshold,
            check,
        });
        let made = Made {
            root,
            record: record.encode()?,
            replaces: held.revision,
            quorum: self.verification(),
        };
        Ok((made, pieces))
    }

    /// Makes the new shares valid.
    async fn commit(&self, made: &Made, cluster: Uuid) -> Result<(), StorageError> {
        self.barrier
            .rekey(made.root.duplicate(), cluster, &made.record, made.replaces)
            .await
    }

    fn verification(&self) -> Quorum {
        Quorum::begin("verify", self.barrier.entropy())
    }
}

fn same(one: &LockedKey<32>, other: &LockedKey<32>) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.expose(), other.expose()).is_ok()
}

fn no_rekey() -> SealError {
    invalid("no rekey configuration found")
}

fn status(rekey: Option<&Rekey>, required: u8) -> RekeyStatus {
    RekeyStatus {
        nonce: rekey.map(|rekey| rekey.quorum.nonce),
        shares: rekey.map_or(0, |rekey| rekey.shares),
        threshold: rekey.map_or(0, |rekey| rekey.threshold),
        progress: rekey.map_or(0, |rekey| rekey.quorum.progress()),
        required,
        verify: rekey.is_some_and(|rekey| rekey.verify),
        verification: rekey
            .and_then(|rekey| rekey.made.as_ref())
            .map(|made| Verification {
                nonce: made.quorum.nonce,
                progress: made.quorum.progress(),
            }),
    }
}
