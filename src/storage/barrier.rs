//! The barrier: what passes it downwards is sealed, what passes it upwards is opened.
//!
//! Every part of Daypass stores through it. Each value is encrypted with AES-256-GCM under the active
//! data key, with its storage key as associated data, so a value moved to another key does not open.
//! An empty value is stored empty: index entries carry everything in their key, which is clear text.
//!
//! # Invariants
//!
//! * Sealed, it holds no key and answers nothing but [`StorageError::Sealed`].
//! * A data key is stored before the first value that it seals.
//! * The records that open the barrier itself cannot be read or written through it.
//! * A write waits for what its task says must be durable first (see [`super::writing_after`]).

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use daypass_contract::{Batch, Clock, Entropy, Entry, Revision, Secret, Store, Write};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::keyring::{AutoRotation, KEYRING, Keyring, MOST_ENCRYPTIONS, OpenError};
use super::view::MountStore;
use super::{Range, Row, RowWrite, Storage, StorageError, WriteBatch, first};
use crate::memory::LockedKey;

/// Where the seal keeps what it needs to open the barrier.
pub(super) const SEAL: &str = "core/seal";
const RESERVED: [&str; 2] = [KEYRING, SEAL];

/// Above what any path needs; keys must fit into an index of any store.
const MAX_KEY_BYTES: usize = 2048;

/// Seals what goes into storage and opens what comes out. See the module for what it promises.
pub struct Barrier {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    keyring: ArcSwapOption<Keyring>,
    // Held while the stored keyring changes.
    changing: Mutex<()>,
}

/// The active data key, for `sys/key-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyStatus {
    /// Counts the data keys, from 1.
    pub term: u32,
    /// When it was made.
    pub installed_at: SystemTime,
    /// How often it was used. After a restart a little too high, never too low.
    pub encryptions: u64,
}

impl Barrier {
    /// No data key is used more often.
    pub const MOST_ENCRYPTIONS: u64 = MOST_ENCRYPTIONS;

    /// A sealed barrier over `storage`.
    pub fn new(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self {
            storage,
            clock,
            entropy,
            keyring: ArcSwapOption::empty(),
            changing: Mutex::new(()),
        }
    }

    /// Whether keys are absent, so that nothing can be read or written.
    pub fn is_sealed(&self) -> bool {
        self.keyring.load().is_none()
    }

    /// Forgets the keys. Requests that already hold them finish; the memory is wiped after the last.
    pub fn seal(&self) {
        self.keyring.store(None);
    }

    /// The value at `key`.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StorageError> {
        let keyring = self.keyring()?;
        check_key(key)?;
        match self.storage.get(key).await? {
            Some(row) => self.open(keyring, key, row).await.map(Some),
            None => Ok(None),
        }
    }

    /// Full keys that begin with `prefix`, in order, after the key `after`.
    pub async fn keys(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        self.keyring()?;
        let range = Range::prefix(prefix, after, limit.saturating_add(RESERVED.len()));
        let mut keys = self.storage.keys(range).await?;
        keys.retain(|key| !is_reserved(key));
        keys.truncate(limit);
        Ok(keys)
    }

    /// Like [`Barrier::keys`], with the values.
    pub async fn entries(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Entry)>, StorageError> {
        let keyring = self.keyring()?;
        let range = Range::prefix(prefix, after, limit.saturating_add(RESERVED.len()));
        let rows = self.storage.rows(range).await?;
        let mut entries = Vec::with_capacity(rows.len().min(limit));
        let rows = rows.into_iter().filter(|(key, _)| !is_reserved(key));
        for (key, row) in rows.take(limit) {
            let entry = self.open(Arc::clone(&keyring), &key, row).await?;
            entries.push((key, entry));
        }
        Ok(entries)
    }

    /// One level of names below `prefix` (empty, or ending in `/`); see [`Storage::list`].
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        self.keyring()?;
        let more = limit.saturating_add(RESERVED.len());
        let mut names = self.storage.list(prefix, after, more).await?;
        names.retain(|name| {
            RESERVED
                .iter()
                .all(|key| key.strip_prefix(prefix) != Some(name.as_str()))
        });
        names.truncate(limit);
        Ok(names)
    }

    /// Applies a batch: all of it, or none of it and an error. Gives the revision of what it put.
    pub async fn apply(&self, batch: Batch) -> Result<Revision, StorageError> {
        first::wait().await?;
        for (key, _) in &batch.expected {
            check_key(key)?;
        }
        let mut values = 0;
        for write in &batch.writes {
            match write {
                Write::Put(key, value) => {
                    check_key(key)?;
                    values += u64::from(!value.is_empty());
                }
                Write::Delete(key) => check_key(key)?,
            }
        }
        let keyring = self.keyring_for(values).await?;
        let entropy = &*self.entropy;
        let sealed = |write| match write {
            Write::Put(key, value) if value.is_empty() => Ok(RowWrite::Put(key, Bytes::new())),
            Write::Put(key, value) => {
                let value = keyring.seal(&key, value.expose(), entropy)?;
                Ok(RowWrite::Put(key, value))
            }
            Write::Delete(key) => Ok(RowWrite::Delete(key)),
        };
        let writes = batch.writes.into_iter().map(sealed);
        let batch = WriteBatch {
            writes: writes.collect::<Result<_, StorageError>>()?,
            expected: batch.expected,
        };
        self.storage.apply(batch).await
    }

    /// A mount's own storage: everything below `prefix`, and nothing else.
    pub fn view(self: &Arc<Self>, prefix: impl Into<String>) -> Arc<dyn Store> {
        Arc::new(MountStore::new(Arc::clone(self), prefix.into()))
    }

    /// Makes a new data key and seals with it from now on. What older keys sealed stays readable.
    pub async fn rotate(&self) -> Result<KeyStatus, StorageError> {
        let _changing = self.changing.lock().await;
        self.change(Keyring::rotated).await?;
        self.key_status()
    }

    /// The active data key.
    pub fn key_status(&self) -> Result<KeyStatus, StorageError> {
        let keyring = self.keyring()?;
        Ok(KeyStatus {
            term: keyring.active_term(),
            installed_at: keyring.installed_at(),
            encryptions: keyring.encryptions(),
        })
    }

    /// When the data key is replaced without being told.
    pub fn auto_rotation(&self) -> Result<AutoRotation, StorageError> {
        Ok(self.keyring()?.rotation())
    }

    /// Changes that, from the next write on. The caller has checked the numbers; more encryptions than
    /// [`Barrier::MOST_ENCRYPTIONS`] never happen.
    pub async fn rotate_by_itself(&self, rotation: AutoRotation) -> Result<(), StorageError> {
        let _changing = self.changing.lock().await;
        self.change(|keyring, _, _| Ok(keyring.rotating(rotation)))
            .await
    }

    /// A key for `purpose` (HKDF-SHA256): always the same for this store, through restarts and rotations,
    /// and independent of the keys for other purposes.
    pub fn derive(&self, purpose: &str) -> Result<LockedKey<32>, StorageError> {
        self.keyring()?.derive(purpose)
    }

    /// Stores the first keyring together with the seal's record, where neither exists yet.
    pub(super) async fn initialize(
        &self,
        root: LockedKey<32>,
        cluster: Uuid,
        seal_record: Bytes,
    ) -> Result<(), StorageError> {
        let keyring = Keyring::generate(root, cluster, self.clock.now(), &*self.entropy)?;
        let record = keyring.to_record(&*self.entropy)?;
        let batch = WriteBatch {
            expected: RESERVED.map(|key| (key.to_owned(), None)).into(),
            writes: vec![
                RowWrite::Put(SEAL.to_owned(), seal_record),
                RowWrite::Put(KEYRING.to_owned(), record),
            ],
        };
        self.storage.apply(batch).await.map(drop)
    }

    /// The seal's record, which is readable while sealed.
    pub(super) async fn seal_record(&self) -> Result<Option<Row>, StorageError> {
        self.storage.get(SEAL).await
    }

    /// Opens the barrier with the root key, which the caller has checked.
    pub(super) async fn unseal(
        &self,
        root: LockedKey<32>,
        cluster: Uuid,
    ) -> Result<(), StorageError> {
        let _changing = self.changing.lock().await;
        let keyring = self.stored_keyring(Arc::new(root), cluster).await?;
        self.keyring.store(Some(Arc::new(keyring)));
        Ok(())
    }

    /// Seals the keyring with another root key and stores that together with the seal's record for it.
    ///
    /// Where the store fails, what it holds decides: a batch that was kept although its answer was lost
    /// counts as done. `replaces` is the revision of the seal's record that the caller has read.
    pub(super) async fn rekey(
        &self,
        root: LockedKey<32>,
        cluster: Uuid,
        seal_record: &Bytes,
        replaces: Revision,
    ) -> Result<(), StorageError> {
        let _changing = self.changing.lock().await;
        let root = Arc::new(root);
        loop {
            let current = self.keyring()?;
            let mut next = current.rekeyed(Arc::clone(&root));
            let batch = WriteBatch {
                expected: vec![
                    (SEAL.to_owned(), Some(replaces)),
                    (KEYRING.to_owned(), current.revision),
                ],
                writes: vec![
                    RowWrite::Put(SEAL.to_owned(), seal_record.clone()),
                    RowWrite::Put(KEYRING.to_owned(), next.to_record(&*self.entropy)?),
                ],
            };
            let error = match self.storage.apply(batch).await {
                Ok(revision) => {
                    next.revision = Some(revision);
                    // Sealed meanwhile, there is nothing to exchange; it is stored all the same.
                    let _ = self.replace(&current, next);
                    return Ok(());
                }
                Err(error) => error,
            };
            let Ok(Some(stored)) = self.storage.get(SEAL).await else {
                return Err(error);
            };
            if stored.value == *seal_record {
                let stored = self.stored_keyring(Arc::clone(&root), cluster).await?;
                let _ = self.replace(&current, stored);
                return Ok(());
            }
            if !matches!(error, StorageError::Conflict) || stored.revision != replaces {
                return Err(error);
            }
            // Another node changed the keyring: start from what it stored.
            self.reload(&current).await?;
        }
    }

    pub(super) fn entropy(&self) -> &dyn Entropy {
        &*self.entropy
    }

    #[cfg(test)]
    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    fn keyring(&self) -> Result<Arc<Keyring>, StorageError> {
        self.keyring.load_full().ok_or(StorageError::Sealed)
    }

    /// The keyring, with that many encryptions reserved and counted.
    async fn keyring_for(&self, encryptions: u64) -> Result<Arc<Keyring>, StorageError> {
        loop {
            let keyring = self.keyring()?;
            let due = |keyring: &Keyring| keyring.is_due(|| self.clock.now());
            if encryptions == 0 || (!due(&keyring) && keyring.take(encryptions)) {
                return Ok(keyring);
            }
            let _changing = self.changing.lock().await;
            // Another request may have changed it while this one waited.
            let keyring = self.keyring()?;
            if due(&keyring) {
                self.change(Keyring::rotated).await?;
            } else if !keyring.has(encryptions) {
                self.change(Keyring::replenished).await?;
            }
        }
    }

    /// Stores a changed keyring and then uses it. The caller holds `changing`.
    async fn change(
        &self,
        make: impl Fn(&Keyring, SystemTime, &dyn Entropy) -> Result<Keyring, StorageError>,
    ) -> Result<(), StorageError> {
        loop {
            let current = self.keyring()?;
            let mut next = make(&current, self.clock.now(), &*self.entropy)?;
            let batch = WriteBatch {
                expected: vec![(KEYRING.to_owned(), current.revision)],
                writes: vec![RowWrite::Put(
                    KEYRING.to_owned(),
                    next.to_record(&*self.entropy)?,
                )],
            };
            match self.storage.apply(batch).await {
                Ok(revision) => {
                    next.revision = Some(revision);
                    return self.replace(&current, next);
                }
                // Another node changed it first: start from what it stored.
                Err(StorageError::Conflict) => self.reload(&current).await?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn reload(&self, current: &Arc<Keyring>) -> Result<(), StorageError> {
        let (root, cluster) = current.owner();
        let stored = self.stored_keyring(root, cluster).await?;
        self.replace(current, stored)
    }

    /// Exchanges keyrings, unless the barrier was sealed meanwhile.
    fn replace(&self, current: &Arc<Keyring>, next: Keyring) -> Result<(), StorageError> {
        let previous = self.keyring.compare_and_swap(current, Some(Arc::new(next)));
        match &*previous {
            Some(_) => Ok(()),
            None => Err(StorageError::Sealed),
        }
    }

    async fn stored_keyring(
        &self,
        root: Arc<LockedKey<32>>,
        cluster: Uuid,
    ) -> Result<Keyring, StorageError> {
        let row = self.storage.get(KEYRING).await?;
        let missing =
            || StorageError::damaged(KEYRING, "it is missing; restore the store from a backup");
        Keyring::from_record(&row.ok_or_else(missing)?, root, cluster)
    }

    async fn open(
        &self,
        mut keyring: Arc<Keyring>,
        key: &str,
        row: Row,
    ) -> Result<Entry, StorageError> {
        let revision = row.revision;
        if row.value.is_empty() {
            let value = Secret::new(Vec::new());
            return Ok(Entry { value, revision });
        }
        let mut opened = keyring.open(key, &row.value);
        if let Err(OpenError::UnknownTerm(_)) = opened {
            // Another node rotated: its key is in storage.
            let _changing = self.changing.lock().await;
            self.reload(&self.keyring()?).await?;
            keyring = self.keyring()?;
            opened = keyring.open(key, &row.value);
        }
        match opened {
            Ok(value) => Ok(Entry { value, revision }),
            Err(OpenError::UnknownTerm(term)) => Err(StorageError::damaged(
                key,
                format!("it was sealed by key {term}, which this store never had"),
            )),
            Err(OpenError::Altered(reason)) => Err(StorageError::damaged(key, reason)),
        }
    }
}

fn is_reserved(key: &str) -> bool {
    RESERVED.contains(&key)
}

/// Whether `key` may be stored: a path of segments, none of them empty or `..`.
pub(super) fn check_key(key: &str) -> Result<(), StorageError> {
    let refuse = |reason| Err(StorageError::InvalidKey(reason));
    if key.len() > MAX_KEY_BYTES {
        return refuse("it is longer than 2048 bytes");
    }
    if key.contains('\0') {
        return refuse("it contains NUL");
    }
    if is_reserved(key) {
        return refuse("it is reserved for the seal");
    }
    for segment in key.split('/') {
        match segment {
            "" => return refuse("it has an empty segment"),
            ".." => return refuse("it has a `..` segment"),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
