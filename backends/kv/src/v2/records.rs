//! [`Records`]: what kv v2 stores, and how it changes atomically.
//!
//! Three kinds of record: `config`, one `metadata/PATH` for each key, and one `value/PATH/N` for each
//! version's value, which is the JSON text of `data`. Values are never listed, so that a version may
//! lie "below" its path.

use std::sync::Arc;

use daypass_contract::{BackendError, Batch, Revision, Secret, Store, StoreError};

use crate::metadata::Metadata;
use crate::settings::Settings;

/// How often a request decides again because another was faster, before it says so.
const ATTEMPTS: usize = 64;

const CONFIG: &str = "config";
const METADATA: &str = "metadata/";

/// The records of one mount.
pub(super) struct Records(Arc<dyn Store>);

/// A key as it was read, which must not have changed when it is written.
pub(super) struct Key<'a> {
    path: &'a str,
    revision: Option<Revision>,
    /// `None` where it does not exist.
    pub(super) metadata: Option<Metadata>,
}

impl Records {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// The mount's settings.
    pub(super) async fn config(&self) -> Result<Settings, BackendError> {
        Ok(self.load_config().await?.0)
    }

    /// Changes the mount's settings.
    pub(super) async fn change_config(
        &self,
        act: impl Fn(&mut Settings) + Send + Sync,
    ) -> Result<(), BackendError> {
        deciding(|| async {
            let (mut settings, revision) = self.load_config().await?;
            act(&mut settings);
            let batch = Batch::new().expect(CONFIG, revision);
            self.apply(batch.put_json(CONFIG, &settings)?).await
        })
        .await
    }

    async fn load_config(&self) -> Result<(Settings, Option<Revision>), BackendError> {
        match self.0.get(CONFIG).await? {
            Some(entry) => Ok((entry.decode()?, Some(entry.revision))),
            None => Ok((Settings::default(), None)),
        }
    }

    /// Reads a key.
    pub(super) async fn load<'a>(&self, path: &'a str) -> Result<Key<'a>, BackendError> {
        let entry = self.0.get(&metadata_key(path)).await?;
        let (metadata, revision) = match entry {
            Some(entry) => (Some(entry.decode()?), Some(entry.revision)),
            None => (None, None),
        };
        Ok(Key {
            path,
            revision,
            metadata,
        })
    }

    /// Reads the value of a version that the key's metadata said to be there. Where it is not, another
    /// request destroyed it meanwhile.
    pub(super) async fn value(&self, path: &str, number: u64) -> Result<Secret, BackendError> {
        let entry = self.0.get(&value_key(path, number)).await?;
        Ok(entry.ok_or(StoreError::Conflict)?.value)
    }

    /// Whether there is such a key.
    pub(super) async fn exists(&self, path: &str) -> Result<bool, BackendError> {
        Ok(self.0.get(&metadata_key(path)).await?.is_some())
    }

    /// One level of keys.
    pub(super) async fn list(
        &self,
        path: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, BackendError> {
        let prefix = crate::request::prefix(METADATA, path);
        Ok(self.0.list(&prefix, after, limit).await?)
    }

    /// Writes a key's metadata, with the value of its latest version where that is new, and removes
    /// the values of versions.
    pub(super) async fn save(
        &self,
        key: &Key<'_>,
        metadata: &Metadata,
        latest: Option<Secret>,
        gone: Vec<u64>,
    ) -> Result<(), BackendError> {
        let batch = key.without(gone);
        let mut batch = batch.put_json(metadata_key(key.path), metadata)?;
        if let Some(value) = latest {
            batch = batch.put(value_key(key.path, metadata.current_version), value);
        }
        self.apply(batch).await
    }

    /// Removes a key with all of its values.
    pub(super) async fn remove(&self, key: &Key<'_>) -> Result<(), BackendError> {
        let Some(metadata) = &key.metadata else {
            return Ok(());
        };
        let batch = key.without(metadata.versions.keys().copied());
        self.apply(batch.delete(metadata_key(key.path))).await
    }

    async fn apply(&self, batch: Batch) -> Result<(), BackendError> {
        Ok(self.0.apply(batch).await?)
    }
}

impl Key<'_> {
    /// A batch on condition that the key has not changed, without these versions' values.
    fn without(&self, gone: impl IntoIterator<Item = u64>) -> Batch {
        let batch = Batch::new().expect(metadata_key(self.path), self.revision);
        gone.into_iter().fold(batch, |batch, number| {
            batch.delete(value_key(self.path, number))
        })
    }
}

/// Reads, decides and writes again as long as others were faster; each time at least one of them got
/// done.
pub(super) async fn deciding<T, Fut>(attempt: impl Fn() -> Fut) -> Result<T, BackendError>
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

fn metadata_key(path: &str) -> String {
    format!("{METADATA}{path}")
}

fn value_key(path: &str, number: u64) -> String {
    format!("value/{path}/{number}")
}
