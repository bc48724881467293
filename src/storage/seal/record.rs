//! What the seal stores in the clear, at `core/seal`: who this store is and how its root key is protected.

use aws_lc_rs::hmac;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::memory::LockedKey;
use crate::storage::StorageError;
use crate::storage::barrier::SEAL;

/// The seal's record, decoded.
pub(super) struct SealRecord {
    pub(super) kind: Kind,
    pub(super) cluster_id: Uuid,
    pub(super) cluster_name: String,
}

pub(super) enum Kind {
    Shamir {
        shares: u8,
        threshold: u8,
        /// See [`root_check`].
        check: Vec<u8>,
    },
    KeyFile {
        /// The root key, sealed.
        wrapped: Vec<u8>,
    },
}

impl Kind {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Shamir { .. } => "shamir",
            Self::KeyFile { .. } => "key_file",
        }
    }
}

/// The same as stored, in JSON; bytes are hex.
#[derive(Serialize, Deserialize)]
struct Stored {
    cluster_id: String,
    cluster_name: String,
    #[serde(flatten)]
    kind: StoredKind,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum StoredKind {
    Shamir {
        shares: u8,
        threshold: u8,
        root_check: String,
    },
    KeyFile {
        wrapped_root: String,
    },
}

impl SealRecord {
    pub(super) fn new(kind: Kind, cluster_id: Uuid) -> Self {
        let id = cluster_id.simple().to_string();
        let short = id.get(..8).unwrap_or_default();
        Self {
            kind,
            cluster_name: format!("daypass-cluster-{short}"),
            cluster_id,
        }
    }

    /// The record of the same store, whose root key is now protected by `kind`.
    pub(super) fn with(&self, kind: Kind) -> Self {
        Self {
            kind,
            cluster_id: self.cluster_id,
            cluster_name: self.cluster_name.clone(),
        }
    }

    pub(super) fn encode(&self) -> Result<Bytes, StorageError> {
        let stored = Stored {
            cluster_id: self.cluster_id.to_string(),
            cluster_name: self.cluster_name.clone(),
            kind: match &self.kind {
                Kind::Shamir {
                    shares,
                    threshold,
                    check,
                } => StoredKind::Shamir {
                    shares: *shares,
                    threshold: *threshold,
                    root_check: hex::encode(check),
                },
                Kind::KeyFile { wrapped } => StoredKind::KeyFile {
                    wrapped_root: hex::encode(wrapped),
                },
            },
        };
        let json = serde_json::to_vec(&stored).map(Bytes::from);
        json.map_err(|_| StorageError::unavailable("the seal's record has no JSON form"))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        let damaged =
            || StorageError::damaged(SEAL, "it cannot be read; restore the store from a backup");
        let stored: Stored = serde_json::from_slice(bytes).map_err(|_| damaged())?;
        let kind = match stored.kind {
            StoredKind::Shamir {
                shares,
                threshold,
                root_check,
            } => Kind::Shamir {
                shares,
                threshold,
                check: hex::decode(root_check).map_err(|_| damaged())?,
            },
            StoredKind::KeyFile { wrapped_root } => Kind::KeyFile {
                wrapped: hex::decode(wrapped_root).map_err(|_| damaged())?,
            },
        };
        Ok(Self {
            kind,
            cluster_id: Uuid::parse_str(&stored.cluster_id).map_err(|_| damaged())?,
            cluster_name: stored.cluster_name,
        })
    }
}

/// Tells the right root key from a wrong one without saying anything about it: the root key is 256
/// random bits, so this cannot be guessed backwards.
pub(super) fn root_check(root: &LockedKey<32>, cluster_id: Uuid) -> Vec<u8> {
    hmac::sign(&check_key(root), &checked(cluster_id))
        .as_ref()
        .to_vec()
}

/// Whether `root` is the key that `check` was made from.
pub(super) fn is_root(root: &LockedKey<32>, cluster_id: Uuid, check: &[u8]) -> bool {
    // In constant time.
    hmac::verify(&check_key(root), &checked(cluster_id), check).is_ok()
}

fn checked(cluster_id: Uuid) -> Vec<u8> {
    [b"daypass root key check ", cluster_id.as_bytes().as_slice()].concat()
}

fn check_key(root: &LockedKey<32>) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, root.expose())
}
