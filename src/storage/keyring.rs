//! The keyring: the data keys that seal values, by term, and the secret that other keys derive from.
//!
//! It is stored as one record, sealed by the root key. Old terms stay, so that what they sealed stays
//! readable; only the active term seals.
//!
//! **Invariant:** the stored record counts at least as many encryptions as were made. Encryptions are
//! reserved in blocks before they are used, so a crash wastes numbers and never forgets one, and a key is
//! replaced long before random nonces could repeat, also where automatic rotation is switched off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use bytes::Bytes;
use daypass_contract::{Entropy, Revision, Secret, duration, reveal};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Row, StorageError};
use crate::memory::LockedKey;

/// Where the keyring is stored.
pub(super) const KEYRING: &str = "core/keyring";

/// Names the layout of a sealed value: this byte, term (u32, big endian), nonce, ciphertext and tag.
const VALUE_FORMAT: u8 = 1;
/// Names the layout of the keyring record: this byte, cluster id, nonce, ciphertext and tag.
const RECORD_FORMAT: u8 = 1;
const TAG_LEN: usize = 16;

/// How many encryptions are reserved at a time.
const RESERVE: u64 = 1 << 20;
/// A key is replaced after this many where nobody says otherwise. With random 96-bit nonces a repeat is
/// then less likely than 2^-36.
const ROTATE_AFTER: u64 = 1 << 30;
/// No key is used more often, whatever was configured: nine tenths of the 2^32 encryptions that NIST SP
/// 800-38D (8.3) allows; Vault's limit.
pub(super) const MOST_ENCRYPTIONS: u64 = 3_865_470_566;

/// When the data key is replaced without being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoRotation {
    /// Where not, a key is used as often as is safe ([`MOST_ENCRYPTIONS`]), and for any time.
    pub enabled: bool,
    /// A key is replaced after this many encryptions.
    pub max_operations: u64,
    /// And when it is this old, at the first write after that; `None` for any age.
    #[serde(
        rename = "interval_seconds",
        with = "duration::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub interval: Option<Duration>,
}

impl Default for AutoRotation {
    fn default() -> Self {
        Self {
            enabled: true,
            max_operations: ROTATE_AFTER,
            interval: None,
        }
    }
}

impl AutoRotation {
    /// How often one key may be used.
    fn limit(&self) -> u64 {
        if self.enabled {
            self.max_operations.min(MOST_ENCRYPTIONS)
        } else {
            MOST_ENCRYPTIONS
        }
    }
}

pub(super) struct Keyring {
    root: Arc<LockedKey<32>>,
    cluster: Uuid,
    derivation: Arc<LockedKey<32>>,
    keys: BTreeMap<u32, Arc<DataKey>>,
    active: Arc<DataKey>,
    /// The active key may be used this often before the record must be written again.
    reserved: u64,
    rotation: AutoRotation,
    /// Of the record that this was read from or written to.
    pub(super) revision: Option<Revision>,
}

struct DataKey {
    term: u32,
    bytes: LockedKey<32>,
    // aws-lc wipes its key schedule when it is freed.
    cipher: LessSafeKey,
    installed_at: SystemTime,
    used: AtomicU64,
}

/// What the record holds, in JSON, before it is sealed. Keys are hex.
#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(serialize_with = "reveal")]
    derivation: Secret,
    keys: Vec<KeyRecord>,
    #[serde(default)]
    rotation: AutoRotation,
}

#[derive(Serialize, Deserialize)]
struct KeyRecord {
    term: u32,
    #[serde(serialize_with = "reveal")]
    key: Secret,
    installed_at_unix_seconds: u64,
    encryptions: u64,
}

/// Why a sealed value could not be opened.
pub(super) enum OpenError {
    /// Sealed by a key that this keyring lacks; another node may have rotated.
    UnknownTerm(u32),
    /// Not what was written under this key of storage.
    Altered(&'static str),
}

impl Keyring {
    /// A keyring with one fresh key, not stored yet.
    pub(super) fn generate(
        root: LockedKey<32>,
        cluster: Uuid,
        now: SystemTime,
        entropy: &dyn Entropy,
    ) -> Result<Self, StorageError> {
        let derivation = LockedKey::fill(|bytes| entropy.fill(bytes));
        let first = Arc::new(DataKey::generate(1, now, entropy)?);
        Ok(Self {
            root: Arc::new(root),
            cluster,
            derivation: Arc::new(derivation),
            keys: BTreeMap::from([(first.term, Arc::clone(&first))]),
            active: first,
            reserved: 0,
            rotation: AutoRotation::default(),
            revision: None,
        })
    }

    /// The same with one key more, which is now the active one.
    pub(super) fn rotated(
        &self,
        now: SystemTime,
        entropy: &dyn Entropy,
    ) -> Result<Self, StorageError> {
        let term = self.active.term.checked_add(1);
        let term = term.ok_or_else(|| StorageError::unavailable("no key term is left"))?;
        let key = Arc::new(DataKey::generate(term, now, entropy)?);
        let mut next = self.copy();
        next.keys.insert(term, Arc::clone(&key));
        next.active = key;
        next.reserved = RESERVE.min(next.rotation.limit());
        Ok(next)
    }

    /// The same, allowed to encrypt more: with the active key, or with a fresh one where that is spent.
    pub(super) fn replenished(
        &self,
        now: SystemTime,
        entropy: &dyn Entropy,
    ) -> Result<Self, StorageError> {
        let used = self.active.used.load(Ordering::Relaxed).max(self.reserved);
        let limit = self.rotation.limit();
        if used >= limit {
            return self.rotated(now, entropy);
        }
        let mut next = self.copy();
        next.reserved = (used + RESERVE).min(limit);
        Ok(next)
    }

    /// The same under another root key.
    pub(super) fn rekeyed(&self, root: Arc<LockedKey<32>>) -> Self {
        Self {
            root,
            ..self.copy()
        }
    }

    /// The same, rotating by itself as told.
    pub(super) fn rotating(&self, rotation: AutoRotation) -> Self {
        Self {
            rotation,
            ..self.copy()
        }
    }

    /// When it rotates by itself.
    pub(super) fn rotation(&self) -> AutoRotation {
        self.rotation
    }

    /// Whether the active key is too old.
    pub(super) fn is_due(&self, now: impl FnOnce() -> SystemTime) -> bool {
        let Some(interval) = self.rotation.interval.filter(|_| self.rotation.enabled) else {
            return false;
        };
        let due_at = self.active.installed_at.checked_add(interval);
        due_at.is_some_and(|due_at| now() >= due_at)
    }

    /// How often the active key may be used before the record must be written again.
    fn allowed(&self) -> u64 {
        self.reserved.min(self.rotation.limit())
    }

    fn copy(&self) -> Self {
        Self {
            root: Arc::clone(&self.root),
            cluster: self.cluster,
            derivation: Arc::clone(&self.derivation),
            keys: self.keys.clone(),
            active: Arc::clone(&self.active),
            reserved: self.reserved,
            rotation: self.rotation,
            revision: self.revision,
        }
    }

    /// Counts `encryptions` about to be made; `false` where more must be reserved first.
    pub(super) fn take(&self, encryptions: u64) -> bool {
        let before = self.active.used.fetch_add(encryptions, Ordering::Relaxed);
        before.saturating_add(encryptions) <= self.allowed()
    }

    /// Whether `encryptions` more are reserved.
    pub(super) fn has(&self, encryptions: u64) -> bool {
        let used = self.active.used.load(Ordering::Relaxed);
        used.saturating_add(encryptions) <= self.allowed()
    }

    pub(super) fn active_term(&self) -> u32 {
        self.active.term
    }

    pub(super) fn installed_at(&self) -> SystemTime {
        self.active.installed_at
    }

    pub(super) fn encryptions(&self) -> u64 {
        self.active.used.load(Ordering::Relaxed)
    }

    /// Seals `value` for the storage key `key`.
    pub(super) fn seal(
        &self,
        key: &str,
        value: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Bytes, StorageError> {
        let mut header = Vec::with_capacity(5 + NONCE_LEN + value.len() + TAG_LEN);
        header.push(VALUE_FORMAT);
        header.extend_from_slice(&self.active.term.to_be_bytes());
        seal(&self.active.cipher, header, key.as_bytes(), value, entropy).map(Bytes::from)
    }

    /// Opens what [`Keyring::seal`] made for the same storage key.
    pub(super) fn open(&self, key: &str, sealed: &[u8]) -> Result<Secret, OpenError> {
        let Some((&[format, t0, t1, t2, t3], body)) = sealed.split_first_chunk() else {
            return Err(OpenError::Altered("it is cut off"));
        };
        if format != VALUE_FORMAT {
            return Err(OpenError::Altered("its format is unknown"));
        }
        let term = u32::from_be_bytes([t0, t1, t2, t3]);
        let data_key = self.keys.get(&term).ok_or(OpenError::UnknownTerm(term))?;
        open(&data_key.cipher, key.as_bytes(), body)
            .map(Secret::new)
            .ok_or(OpenError::Altered(
                "it is not what was stored under this key",
            ))
    }

    /// A key for another purpose, the same for the life of the store.
    pub(super) fn derive(&self, purpose: &str) -> Result<LockedKey<32>, StorageError> {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"daypass");
        let secret = salt.extract(self.derivation.expose());
        let mut filled = Ok(());
        let key = LockedKey::fill(|bytes| {
            filled = secret
                .expand(&[purpose.as_bytes()], hkdf::HKDF_SHA256)
                .and_then(|output| output.fill(bytes));
        });
        filled.map_err(|_| StorageError::unavailable("a key could not be derived"))?;
        Ok(key)
    }

    /// The record to store under [`KEYRING`].
    pub(super) fn to_record(&self, entropy: &dyn Entropy) -> Result<Bytes, StorageError> {
        let keys = self.keys.values().map(|key| KeyRecord {
            term: key.term,
            key: to_hex(&key.bytes),
            installed_at_unix_seconds: unix_seconds(key.installed_at),
            encryptions: if key.term == self.active.term {
                self.reserved
            } else {
                key.used.load(Ordering::Relaxed)
            },
        });
        let record = Record {
            derivation: to_hex(&self.derivation),
            keys: keys.collect(),
            rotation: self.rotation,
        };
        let json = serde_json::to_vec(&record).map(Secret::new);
        let json = json.map_err(|_| StorageError::unavailable("the keyring has no JSON form"))?;
        let mut header = vec![RECORD_FORMAT];
        header.extend_from_slice(self.cluster.as_bytes());
        let aad = record_aad(self.cluster);
        seal(&cipher(&self.root)?, header, &aad, json.expose(), entropy).map(Bytes::from)
    }

    /// Opens the stored record with the root key, which is known to be the right one.
    pub(super) fn from_record(
        row: &Row,
        root: Arc<LockedKey<32>>,
        cluster: Uuid,
    ) -> Result<Self, StorageError> {
        let damaged = |reason| StorageError::damaged(KEYRING, reason);
        let Some((&format, rest)) = row.value.split_first() else {
            return Err(damaged("it is empty; restore the store from a backup"));
        };
        if format != RECORD_FORMAT {
            return Err(damaged(
                "its format is unknown; run the release that wrote it",
            ));
        }
        let Some((owner, body)) = rest.split_first_chunk::<16>() else {
            return Err(damaged("it is cut off; restore the store from a backup"));
        };
        if owner != cluster.as_bytes() {
            return Err(damaged(
                "it belongs to another store; restore the one of this store",
            ));
        }
        let json = open(&cipher(&root)?, &record_aad(cluster), body).map(Secret::new);
        let json =
            json.ok_or_else(|| damaged("it was altered; restore the store from a backup"))?;
        // Sealed by us, so what does not fit was written by another release.
        let shape = || damaged("its shape is unknown; run the release that wrote it");
        let record: Record = serde_json::from_slice(json.expose()).map_err(|_| shape())?;
        let derivation = from_hex(&record.derivation).ok_or_else(shape)?;
        let mut keys = BTreeMap::new();
        for key in record.keys {
            let bytes = from_hex(&key.key).ok_or_else(shape)?;
            let installed_at = Duration::from_secs(key.installed_at_unix_seconds);
            let key = DataKey {
                term: key.term,
                cipher: cipher(&bytes)?,
                bytes,
                installed_at: UNIX_EPOCH.checked_add(installed_at).ok_or_else(shape)?,
                used: AtomicU64::new(key.encryptions),
            };
            keys.insert(key.term, Arc::new(key));
        }
        let active = keys
            .values()
            .next_back()
            .map(Arc::clone)
            .ok_or_else(shape)?;
        Ok(Self {
            root,
            cluster,
            derivation: Arc::new(derivation),
            reserved: active.used.load(Ordering::Relaxed),
            active,
            keys,
            rotation: record.rotation,
            revision: Some(row.revision),
        })
    }

    /// What is needed to read the record again.
    pub(super) fn owner(&self) -> (Arc<LockedKey<32>>, Uuid) {
        (Arc::clone(&self.root), self.cluster)
    }
}

impl DataKey {
    fn generate(
        term: u32,
        installed_at: SystemTime,
        entropy: &dyn Entropy,
    ) -> Result<Self, StorageError> {
        let bytes = LockedKey::fill(|bytes| entropy.fill(bytes));
        Ok(Self {
            term,
            cipher: cipher(&bytes)?,
            bytes,
            installed_at,
            used: AtomicU64::new(0),
        })
    }
}

/// AES-256-GCM under `key`.
pub(super) fn cipher(key: &LockedKey<32>) -> Result<LessSafeKey, StorageError> {
    UnboundKey::new(&AES_256_GCM, key.expose())
        .map(LessSafeKey::new)
        .map_err(|_| StorageError::unavailable("AES-256-GCM is not available"))
}

/// `header`, then a random nonce, then `value` encrypted, then the tag.
pub(super) fn seal(
    cipher: &LessSafeKey,
    header: Vec<u8>,
    aad: &[u8],
    value: &[u8],
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, StorageError> {
    let nonce: [u8; NONCE_LEN] = entropy.bytes();
    let mut sealed = header;
    sealed.reserve(NONCE_LEN + value.len() + TAG_LEN);
    sealed.extend_from_slice(&nonce);
    let start = sealed.len();
    sealed.extend_from_slice(value);
    let body = sealed.get_mut(start..).unwrap_or_default();
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = cipher
        .seal_in_place_separate_tag(nonce, Aad::from(aad), body)
        .map_err(|_| StorageError::unavailable("a value could not be encrypted"))?;
    sealed.extend_from_slice(tag.as_ref());
    Ok(sealed)
}

/// Opens what follows the header of [`seal`]; `None` where a bit of it, the key or `aad` differs.
pub(super) fn open(cipher: &LessSafeKey, aad: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    let (nonce, body) = body.split_first_chunk::<NONCE_LEN>()?;
    let (ciphertext, tag) = body.split_last_chunk::<TAG_LEN>()?;
    let mut value = vec![0; ciphertext.len()];
    let nonce = Nonce::assume_unique_for_key(*nonce);
    cipher
        .open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, &mut value)
        .ok()?;
    Some(value)
}

/// The record is bound to its place and to its store.
fn record_aad(cluster: Uuid) -> Vec<u8> {
    [KEYRING.as_bytes(), cluster.as_bytes()].concat()
}

fn to_hex(key: &LockedKey<32>) -> Secret {
    Secret::new(hex::encode(key.expose()))
}

fn from_hex(text: &Secret) -> Option<LockedKey<32>> {
    let mut decoded = true;
    let key = LockedKey::fill(|bytes| {
        decoded = hex::decode_to_slice(text.expose(), bytes).is_ok();
    });
    decoded.then_some(key)
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_secs())
}
