//! [`Keys`]: the keys of one mount: stored, cached compiled, and changed atomically.
//!
//! One record `keys/NAME` for each key, and one `material/ID/N` for each of its versions.
//!
//! # Invariants
//!
//! * **No version is lost.** A change is written on condition that the record is what it was decided
//!   upon; where it is not, it is decided again.
//! * **The cache never outlives a change.** Whoever changes a key drops it from the cache before the
//!   answer, whatever came of the write; and what was read before that is not put there after it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use daypass_contract::{BackendError, Batch, Revision, Store, StoreError};

use crate::material::Material;
use crate::record::Record;
use crate::version::Version;

/// How often a request decides again because another was faster, before it says so.
const ATTEMPTS: usize = 64;

/// How many keys stay compiled. Beyond, the cache starts anew.
const CACHED: usize = 4096;

const KEYS: &str = "keys/";

/// The keys of one mount.
pub(crate) struct Keys {
    store: Arc<dyn Store>,
    cache: RwLock<Cache>,
}

#[derive(Default)]
struct Cache {
    keys: HashMap<String, Arc<Key>>,
    /// Counts what was dropped.
    changes: u64,
}

/// A key as it was read, with its versions compiled as they are needed.
pub(crate) struct Key {
    pub(crate) record: Record,
    versions: Mutex<HashMap<u64, Arc<Version>>>,
}

impl Keys {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            cache: RwLock::default(),
        }
    }

    /// The key called `name`, from the cache where it is there.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Arc<Key>>, BackendError> {
        let changes = {
            let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(key) = cache.keys.get(name) {
                return Ok(Some(Arc::clone(key)));
            }
            cache.changes
        };
        let Some((record, _)) = self.load(name).await? else {
            return Ok(None);
        };
        let key = Arc::new(Key {
            record,
            versions: Mutex::default(),
        });
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        if cache.changes == changes {
            if cache.keys.len() >= CACHED {
                cache.keys.clear();
            }
            cache.keys.insert(name.to_owned(), Arc::clone(&key));
        }
        Ok(Some(key))
    }

    /// A version of `key`, compiled when it is first asked for.
    pub(crate) async fn version(
        &self,
        key: &Key,
        number: u64,
    ) -> Result<Arc<Version>, BackendError> {
        let lock = || key.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let found = lock().get(&number).cloned();
        if let Some(version) = found {
            return Ok(version);
        }
        let material = self.material(&key.record, number).await?;
        let (derived, convergent) = (key.record.derived, key.record.convergent);
        let version = Arc::new(Version::new(&material, derived, convergent)?);
        lock().insert(number, Arc::clone(&version));
        Ok(version)
    }

    /// The secrets of a version that the record says to be there. Where they are not, another request
    /// removed them meanwhile.
    pub(crate) async fn material(
        &self,
        record: &Record,
        number: u64,
    ) -> Result<Material, BackendError> {
        let entry = self.store.get(&material_key(&record.id, number)).await?;
        Material::from_stored(record.kind, &entry.ok_or(StoreError::Conflict)?.value)
    }

    /// Stores a new key with its versions; `false` where there is one of that name.
    pub(crate) async fn create(
        &self,
        name: &str,
        record: &Record,
        versions: &[(u64, Material)],
    ) -> Result<bool, BackendError> {
        let batch = Batch::new().expect(record_key(name), None);
        match self.write(name, batch, record, versions).await {
            Err(BackendError::Store(StoreError::Conflict)) => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Stores a key in the place of any of that name.
    pub(crate) async fn replace(
        &self,
        name: &str,
        record: &Record,
        versions: &[(u64, Material)],
    ) -> Result<(), BackendError> {
        deciding(|| async {
            let found = self.load(name).await?;
            let mut batch = Batch::new().expect(
                record_key(name),
                found.as_ref().map(|(_, revision)| *revision),
            );
            if let Some((old, _)) = &found {
                batch = without(batch, old, old.versions.keys().copied());
            }
            self.write(name, batch, record, versions).await
        })
        .await
    }

    /// Changes the record of a key by `act`, which says what it adds and what it removes.
    pub(crate) async fn change<'m, T: Send>(
        &self,
        name: &str,
        act: impl Fn(&mut Record) -> Result<Change<'m, T>, BackendError> + Send + Sync,
    ) -> Result<Option<(Record, T)>, BackendError> {
        deciding(|| async {
            let Some((mut record, revision)) = self.load(name).await? else {
                return Ok(None);
            };
            let before = record.clone();
            let Change { added, gone, value } = act(&mut record)?;
            let added = added.map(Material::to_stored);
            if record == before {
                return Ok(Some((record, value)));
            }
            let batch = Batch::new().expect(record_key(name), Some(revision));
            let mut batch = without(batch, &record, gone).put_json(record_key(name), &record)?;
            if let Some(added) = added {
                batch = batch.put(material_key(&record.id, record.latest_version), added);
            }
            self.apply(name, batch).await?;
            Ok(Some((record, value)))
        })
        .await
    }

    /// Removes a key with all of its versions where `allowed` says so; `false` where there is none.
    pub(crate) async fn delete(
        &self,
        name: &str,
        allowed: impl Fn(&Record) -> Result<(), BackendError> + Send + Sync,
    ) -> Result<bool, BackendError> {
        deciding(|| async {
            let Some((record, revision)) = self.load(name).await? else {
                return Ok(false);
            };
            allowed(&record)?;
            let batch = Batch::new().expect(record_key(name), Some(revision));
            let batch = without(batch, &record, record.versions.keys().copied());
            self.apply(name, batch.delete(record_key(name))).await?;
            Ok(true)
        })
        .await
    }

    /// The names of keys.
    pub(crate) async fn list(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, BackendError> {
        Ok(self.store.list(KEYS, after, limit).await?)
    }

    /// The record of a key and which write of it this is.
    pub(crate) async fn load(
        &self,
        name: &str,
    ) -> Result<Option<(Record, Revision)>, BackendError> {
        match self.store.get(&record_key(name)).await? {
            Some(entry) => Ok(Some((entry.decode()?, entry.revision))),
            None => Ok(None),
        }
    }

    async fn write(
        &self,
        name: &str,
        batch: Batch,
        record: &Record,
        versions: &[(u64, Material)],
    ) -> Result<(), BackendError> {
        let mut batch = batch.put_json(record_key(name), record)?;
        for (number, material) in versions {
            batch = batch.put(material_key(&record.id, *number), material.to_stored());
        }
        self.apply(name, batch).await
    }

    async fn apply(&self, name: &str, batch: Batch) -> Result<(), BackendError> {
        // Dropped also where the write fails or is abandoned: it may have been done.
        let _outdated = Outdated(self, name);
        Ok(self.store.apply(batch).await?)
    }
}

/// What a change does besides changing the record.
pub(crate) struct Change<'a, T> {
    /// The material of the latest version, where that is new.
    pub(crate) added: Option<&'a Material>,
    /// The versions whose material goes.
    pub(crate) gone: Vec<u64>,
    /// For whoever asked for the change.
    pub(crate) value: T,
}

/// Takes a key out of the cache when it goes out of scope.
struct Outdated<'a>(&'a Keys, &'a str);

impl Drop for Outdated<'_> {
    fn drop(&mut self) {
        let cache = self.0.cache.write();
        let mut cache = cache.unwrap_or_else(PoisonError::into_inner);
        cache.changes += 1;
        cache.keys.remove(self.1);
    }
}

/// Reads, decides and writes again as long as others were faster; each time at least one of them got
/// done.
async fn deciding<T, Fut>(attempt: impl Fn() -> Fut) -> Result<T, BackendError>
where
    Fut: Future<Output = Result<T, BackendError>>,
{
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(BackendError::Store(StoreError::Conflict)) => {}
            outcome => return outcome,
        }
    }
    attempt().await
}

fn without(batch: Batch, record: &Record, gone: impl IntoIterator<Item = u64>) -> Batch {
    gone.into_iter().fold(batch, |batch, number| {
        batch.delete(material_key(&record.id, number))
    })
}

fn record_key(name: &str) -> String {
    format!("{KEYS}{name}")
}

fn material_key(id: &str, number: u64) -> String {
    format!("material/{id}/{number}")
}
