//! A mount's storage: the barrier, confined to one prefix.

use std::sync::Arc;

use daypass_contract::{Batch, Entry, Store, StoreError, Write, async_trait};

use super::{Barrier, StorageError};

/// Everything below `prefix`, with keys relative to it.
///
/// **Invariant:** no key or name a mount gives can reach outside its prefix: the barrier refuses `..` and
/// empty segments in the joined key, and the prefix ends in `/`.
pub(super) struct MountStore {
    barrier: Arc<Barrier>,
    prefix: String,
}

impl MountStore {
    pub(super) fn new(barrier: Arc<Barrier>, mut prefix: String) -> Self {
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        Self { barrier, prefix }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

#[async_trait]
impl Store for MountStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.barrier.get(&self.full(key)).await?)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let full = self.full(prefix);
        let Some(folder) = full.strip_suffix('/') else {
            return Err(StorageError::InvalidKey("a prefix must end in `/`").into());
        };
        super::barrier::check_key(folder)?;
        Ok(self.barrier.list(&full, after, limit).await?)
    }

    async fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let expected = batch.expected.into_iter();
        let writes = batch.writes.into_iter();
        let batch = Batch {
            expected: expected
                .map(|(key, revision)| (self.full(&key), revision))
                .collect(),
            writes: writes
                .map(|write| match write {
                    Write::Put(key, value) => Write::Put(self.full(&key), value),
                    Write::Delete(key) => Write::Delete(self.full(&key)),
                })
                .collect(),
        };
        self.barrier.apply(batch).await?;
        Ok(())
    }
}
