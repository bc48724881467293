//! A store in memory: for tests, and for a server that is meant to forget.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use daypass_contract::{Clock, Entropy, Revision, async_trait};
use uuid::Uuid;

use super::{Barrier, Range, Row, RowWrite, Storage, StorageError, WriteBatch, level_of};
use crate::memory::LockedKey;

/// An open barrier over `storage`, which must be new, with a root key that nobody keeps: sealed once, it
/// stays sealed.
pub async fn open_barrier(
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Result<Arc<Barrier>, StorageError> {
    let root = LockedKey::fill(|bytes| entropy.fill(bytes));
    let cluster = Uuid::from_bytes(entropy.bytes());
    let barrier = Barrier::new(storage, clock, entropy);
    barrier
        .initialize(root.duplicate(), cluster, Bytes::new())
        .await?;
    barrier.unseal(root, cluster).await?;
    Ok(Arc::new(barrier))
}

/// A [`Storage`] that lives as long as its value does.
#[derive(Default)]
pub struct InMemory {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<String, Row>,
    revision: u64,
    // `None`: never fails.
    applies_left: Option<u64>,
}

impl InMemory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the next `applies` batches succeed and then fails every later one with
    /// [`StorageError::Unavailable`], writing nothing: for tests of what a crash leaves behind.
    pub fn fail_after(&self, applies: u64) {
        self.state().applies_left = Some(applies);
    }

    /// Undoes [`InMemory::fail_after`].
    pub fn heal(&self) {
        self.state().applies_left = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code between lock and unlock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn select<T>(&self, range: &Range, give: impl Fn(&String, &Row) -> T) -> Vec<T> {
        let end = match &range.end {
            Some(end) if *end <= range.start => return Vec::new(),
            Some(end) => Bound::Excluded(end.as_str()),
            None => Bound::Unbounded,
        };
        self.state()
            .rows
            .range::<str, _>((Bound::Included(range.start.as_str()), end))
            .take(range.limit)
            .map(|(key, row)| give(key, row))
            .collect()
    }
}

#[async_trait]
impl Storage for InMemory {
    async fn get(&self, key: &str) -> Result<Option<Row>, StorageError> {
        Ok(self.state().rows.get(key).cloned())
    }

    async fn rows(&self, range: Range) -> Result<Vec<(String, Row)>, StorageError> {
        Ok(self.select(&range, |key, row| (key.clone(), row.clone())))
    }

    async fn keys(&self, range: Range) -> Result<Vec<String>, StorageError> {
        Ok(self.select(&range, |key, _| key.clone()))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        let state = self.state();
        level_of(prefix, after, limit, |from| {
            let from = (Bound::Included(from), Bound::Unbounded);
            Ok(state
                .rows
                .range::<str, _>(from)
                .next()
                .map(|(key, _)| key.clone()))
        })
    }

    async fn apply(&self, batch: WriteBatch) -> Result<Revision, StorageError> {
        let mut state = self.state();
        match &mut state.applies_left {
            None => {}
            Some(0) => return Err(StorageError::unavailable("told to fail")),
            Some(left) => *left -= 1,
        }
        for (key, expected) in &batch.expected {
            if state.rows.get(key).map(|row| row.revision) != *expected {
                return Err(StorageError::Conflict);
            }
        }
        state.revision += 1;
        let revision = Revision(state.revision);
        for write in batch.writes {
            match write {
                RowWrite::Put(key, value) => {
                    state.rows.insert(key, Row { value, revision });
                }
                RowWrite::Delete(key) => {
                    state.rows.remove(&key);
                }
            }
        }
        Ok(revision)
    }

    async fn close(&self) -> Result<(), StorageError> {
        Ok(())
    }
}
