//! The seal: who can open the barrier.
//!
//! The root key opens the keyring, and nobody stores it. Either it is split among people by Shamir's
//! scheme, or it is stored sealed by a key that this machine can reach (auto-unseal).
//!
//! # Invariants
//!
//! * The seal's record and the first keyring are stored in one batch: a store is initialized or is not.
//! * A root key is checked before it is used, so a wrong share and a damaged record are told apart.
//! * Offered shares are held until the key is made or refused, and then wiped.

mod key_file;
mod quorum;
mod record;
mod rekey;
mod root_token;
mod shamir;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_contract::{Entropy, Revision, Secret};
use tokio::sync::Mutex;
use uuid::Uuid;

use self::record::{Kind, SealRecord};
pub use self::rekey::{RekeyStatus, RekeyStep, Verification, VerifyStep};
pub use self::root_token::{RootTokenStatus, RootTokenStep};
use super::{Barrier, StorageError};
use crate::memory::LockedKey;

/// How the root key is protected, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seal {
    /// Split among people; the numbers are given at initialization.
    Shamir,
    /// Sealed by the key in a file, which is read at start.
    KeyFile {
        /// 64 hex digits, mode 0600.
        path: PathBuf,
        /// Whether initialization may make the file where it is absent.
        generate: bool,
    },
}

impl Seal {
    /// Its name in `sys/seal-status` and in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Shamir => "shamir",
            Self::KeyFile { .. } => "key_file",
        }
    }
}

/// Why the seal did not do what was asked, by what the caller must do next.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The request cannot be honoured as it stands. Answered 400; the text is shown.
    #[error("{0}")]
    Invalid(String),
    /// Somebody initialized this store already. Answered 400.
    #[error("Daypass is already initialized")]
    AlreadyInitialized,
    /// Nobody initialized this store yet. Answered 400.
    #[error("Daypass is not initialized")]
    NotInitialized,
    /// At least one share is wrong; all were forgotten. Answered 400: offer them again.
    #[error(
        "at least one of the shares is wrong, or belongs to another store; all were forgotten, start again"
    )]
    WrongShares,
    /// This kind of seal does not do that. Answered 501 with the reason.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The key file cannot be used. Shown to the operator.
    #[error("key file {}: {reason}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// Storage failed, or a record in it is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The state of the seal, as `sys/seal-status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealStatus {
    /// See [`Seal::name`].
    pub kind: &'static str,
    /// Whether the store has a root key.
    pub initialized: bool,
    /// Whether the barrier is closed.
    pub sealed: bool,
    /// How many shares open it; 0 before initialization and for auto-unseal.
    pub threshold: u8,
    /// How many shares there are; 0 likewise.
    pub shares: u8,
    /// How many shares have been offered.
    pub progress: usize,
    /// Names this attempt, so that share holders can tell they work on the same one; empty where none
    /// has begun.
    pub nonce: String,
    /// Which store this is; absent before initialization.
    pub cluster_id: Option<Uuid>,
    /// Its name for people; absent before initialization.
    pub cluster_name: Option<String>,
    /// Of this program.
    pub version: &'static str,
}

/// What initialization hands out, once.
pub struct InitResult {
    /// The shares of the root key; none for auto-unseal.
    pub shares: Vec<Secret>,
}

/// Keeps the barrier closed until the seal is satisfied.
pub struct Keeper {
    barrier: Arc<Barrier>,
    seal: Seal,
    attempt: Mutex<Attempt>,
    /// What share holders are about to do with the open store.
    ceremonies: Mutex<Ceremonies>,
}

/// What needs a quorum while the store is open. Sealing forgets it.
#[derive(Default)]
struct Ceremonies {
    root_token: Option<root_token::Attempt>,
    rekey: Option<rekey::Rekey>,
}

/// The record of a store whose root key people hold.
struct Held {
    record: SealRecord,
    revision: Revision,
    threshold: u8,
    check: Vec<u8>,
}

impl Held {
    /// Refuses a key that is not the root key.
    fn check_root(&self, root: &LockedKey<32>) -> Result<(), SealError> {
        if record::is_root(root, self.record.cluster_id, &self.check) {
            Ok(())
        } else {
            Err(SealError::WrongShares)
        }
    }
}

/// Shares offered so far.
#[derive(Default)]
struct Attempt {
    nonce: Option<Uuid>,
    shares: Vec<Secret>,
}

impl Keeper {
    /// The keeper of `barrier`.
    pub fn new(barrier: Arc<Barrier>, seal: Seal) -> Self {
        Self {
            barrier,
            seal,
            attempt: Mutex::default(),
            ceremonies: Mutex::default(),
        }
    }

    /// Whether the seal opens without anybody's help, so that it has no shares.
    pub fn opens_by_itself(&self) -> bool {
        match self.seal {
            Seal::Shamir => false,
            Seal::KeyFile { .. } => true,
        }
    }

    /// The state of the seal.
    pub async fn status(&self) -> Result<SealStatus, SealError> {
        let attempt = self.attempt.lock().await;
        let record = self.record().await?;
        Ok(self.status_of(record.as_ref(), &attempt))
    }

    /// Makes the root key and the first data key and stores them sealed; gives the shares to hand out.
    ///
    /// The barrier is open afterwards, so that the caller can store the first token before anyone else
    /// acts; it then calls [`Keeper::seal`], except where the seal opens by itself.
    pub async fn init(&self, shares: usize, threshold: usize) -> Result<InitResult, SealError> {
        let _attempt = self.attempt.lock().await;
        if self.record().await?.is_some() {
            return Err(SealError::AlreadyInitialized);
        }
        let entropy = self.barrier.entropy();
        let root = LockedKey::fill(|bytes| entropy.fill(bytes));
        let cluster_id = random_uuid(entropy);
        let (kind, pieces) = match &self.seal {
            Seal::Shamir => {
                let (shares, threshold) = check_numbers(shares, threshold)?;
                let pieces = shamir::split(&root, shares, threshold, entropy);
                let pieces = pieces.ok_or_else(|| invalid("the root key cannot be split so"))?;
                let check = record::root_check(&root, cluster_id);
                let kind = Kind::Shamir {
                    shares,
                    threshold,
                    check,
                };
                (kind, pieces)
            }
            Seal::KeyFile { path, generate } => {
                if (shares, threshold) != (0, 0) {
                    return Err(invalid(
                        "parameters secret_shares,secret_threshold not applicable to seal type key_file",
                    ));
                }
                let key = if *generate {
                    key_file::read_or_generate(path, entropy)?
                } else {
                    key_file::read(path)?
                };
                let wrapped = key_file::wrap(&key, &root, cluster_id, entropy)?;
                (Kind::KeyFile { wrapped }, Vec::new())
            }
        };
        let record = SealRecord::new(kind, cluster_id).encode()?;
        let stored = self
            .barrier
            .initialize(root.duplicate(), cluster_id, record)
            .await;
        stored.map_err(|error| match error {
            // Another node was faster.
            StorageError::Conflict => SealError::AlreadyInitialized,
            error => error.into(),
        })?;
        self.barrier.unseal(root, cluster_id).await?;
        Ok(InitResult { shares: pieces })
    }

    /// Takes a share (see [`parse_share`]). The one that completes the threshold opens the barrier.
    pub async fn offer(&self, share: &Secret) -> Result<SealStatus, SealError> {
        let mut attempt = self.attempt.lock().await;
        let record = self.record().await?.ok_or(SealError::NotInitialized)?;
        let Kind::Shamir {
            threshold, check, ..
        } = &record.kind
        else {
            return Err(invalid(
                "this store has no shares: it opens by itself at start",
            ));
        };
        if !self.barrier.is_sealed() {
            return Ok(self.status_of(Some(&record), &attempt));
        }
        shamir::check_length(share, *threshold)?;
        if !attempt
            .shares
            .iter()
            .any(|offered| offered.ct_eq(share.expose()))
        {
            attempt.shares.push(share.duplicate());
        }
        if attempt.nonce.is_none() {
            attempt.nonce = Some(random_uuid(self.barrier.entropy()));
        }
        if attempt.shares.len() >= usize::from(*threshold) {
            let shares = std::mem::take(&mut *attempt).shares;
            let root = shamir::combine(&shares).ok_or(SealError::WrongShares)?;
            if !record::is_root(&root, record.cluster_id, check) {
                return Err(SealError::WrongShares);
            }
            self.barrier.unseal(root, record.cluster_id).await?;
        }
        Ok(self.status_of(Some(&record), &attempt))
    }

    /// Forgets the shares offered so far.
    pub async fn reset(&self) -> Result<SealStatus, SealError> {
        *self.attempt.lock().await = Attempt::default();
        self.status().await
    }

    /// Opens the barrier where the seal needs nobody; for [`Seal::Shamir`], and before initialization,
    /// it does nothing.
    pub async fn auto_unseal(&self) -> Result<SealStatus, SealError> {
        let attempt = self.attempt.lock().await;
        let record = self.record().await?;
        if let (
            Seal::KeyFile { path, .. },
            Some(SealRecord {
                kind, cluster_id, ..
            }),
        ) = (&self.seal, &record)
            && let Kind::KeyFile { wrapped } = kind
            && self.barrier.is_sealed()
        {
            let key = key_file::read(path)?;
            let root = key_file::unwrap(&key, wrapped, *cluster_id)?;
            let root = root.ok_or_else(|| key_file::wrong_key(path))?;
            self.barrier.unseal(root, *cluster_id).await?;
        }
        Ok(self.status_of(record.as_ref(), &attempt))
    }

    /// Closes the barrier: every key leaves memory, and so does what share holders were about to do.
    pub async fn seal(&self) {
        self.barrier.seal();
        *self.ceremonies.lock().await = Ceremonies::default();
    }

    /// What the ceremonies of share holders need: an open store that has shares.
    async fn held(&self) -> Result<Held, SealError> {
        let (record, revision) = self.stored().await?.ok_or(SealError::NotInitialized)?;
        if self.barrier.is_sealed() {
            return Err(StorageError::Sealed.into());
        }
        let Kind::Shamir {
            threshold, check, ..
        } = &record.kind
        else {
            return Err(SealError::Unsupported(
                "this store has no shares, and so no quorum: it opens by its key file",
            ));
        };
        Ok(Held {
            threshold: *threshold,
            check: check.clone(),
            record,
            revision,
        })
    }

    async fn record(&self) -> Result<Option<SealRecord>, SealError> {
        Ok(self.stored().await?.map(|(record, _)| record))
    }

    /// The stored record, where it is of the configured kind.
    async fn stored(&self) -> Result<Option<(SealRecord, Revision)>, SealError> {
        let Some(row) = self.barrier.seal_record().await? else {
            return Ok(None);
        };
        let record = SealRecord::decode(&row.value)?;
        let stored = record.kind.name();
        if stored != self.seal.name() {
            return Err(invalid(&format!(
                "the configuration says seal type {}, but this store was initialized with {stored}",
                self.seal.name()
            )));
        }
        Ok(Some((record, row.revision)))
    }

    fn status_of(&self, record: Option<&SealRecord>, attempt: &Attempt) -> SealStatus {
        let (shares, threshold) = match record.map(|record| &record.kind) {
            Some(Kind::Shamir {
                shares, threshold, ..
            }) => (*shares, *threshold),
            _ => (0, 0),
        };
        SealStatus {
            kind: self.seal.name(),
            initialized: record.is_some(),
            sealed: self.barrier.is_sealed(),
            threshold,
            shares,
            progress: attempt.shares.len(),
            nonce: attempt
                .nonce
                .map(|nonce| nonce.to_string())
                .unwrap_or_default(),
            cluster_id: record.map(|record| record.cluster_id),
            cluster_name: record.map(|record| record.cluster_name.clone()),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Reads a share as people paste it: hex or base64.
pub fn parse_share(text: &str) -> Result<Secret, SealError> {
    let lengths = [shamir::share_bytes(1), shamir::share_bytes(2)];
    let decoded = match hex::decode(text).map(Secret::new) {
        // A base64 share may look like hex of another length.
        Ok(share) if lengths.contains(&share.len()) => Some(share),
        _ => STANDARD.decode(text).map(Secret::new).ok(),
    };
    decoded.ok_or_else(|| invalid("'key' must be a valid hex or base64 string"))
}

fn random_uuid(entropy: &dyn Entropy) -> Uuid {
    uuid::Builder::from_random_bytes(entropy.bytes()).into_uuid()
}

/// Vault's limits, in its words.
fn check_numbers(shares: usize, threshold: usize) -> Result<(u8, u8), SealError> {
    let problem = match (shares, threshold) {
        (0, _) => "shares must be at least one",
        (_, 0) => "threshold must be at least one",
        (2.., 1) => "threshold must be greater than one for multiple shares",
        (256.., _) => "shares must be less than 256",
        (_, 256..) => "threshold must be less than 256",
        _ if threshold > shares => "threshold cannot be larger than shares",
        _ => match (u8::try_from(shares), u8::try_from(threshold)) {
            (Ok(shares), Ok(threshold)) => return Ok((shares, threshold)),
            _ => "shares must be less than 256",
        },
    };
    Err(invalid(&format!("invalid seal configuration: {problem}")))
}

fn invalid(problem: &str) -> SealError {
    SealError::Invalid(problem.to_owned())
}
