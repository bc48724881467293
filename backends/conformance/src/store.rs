//! [`MemoryStore`]: the storage contract in memory, with failures on demand.

use std::collections::BTreeMap;
use std::sync::Mutex;

use daypass_contract::{Batch, Entry, Revision, Secret, Store, StoreError, Write, async_trait};

/// A [`Store`] in memory. It counts what it is asked for, so that a test can hold a backend to a cost,
/// and lets other tasks run after each read, so that requests at once do get in each other's way.
#[derive(Default)]
pub struct MemoryStore(Mutex<State>);

#[derive(Default)]
struct State {
    entries: BTreeMap<String, (Vec<u8>, Revision)>,
    revisions: u64,
    gets: usize,
    batches: usize,
    batches_left: Option<usize>,
    conflicts: usize,
}

impl MemoryStore {
    /// Lets `batches` more batches succeed; every later one fails and changes nothing, as if the disk
    /// were gone, until [`MemoryStore::heal`].
    pub fn fail_after(&self, batches: usize) {
        self.state(|state| state.batches_left = Some(batches));
    }

    /// Ends what [`MemoryStore::fail_after`] and [`MemoryStore::conflict`] began.
    pub fn heal(&self) {
        self.state(|state| {
            state.batches_left = None;
            state.conflicts = 0;
        });
    }

    /// Answers the next `times` batches with [`StoreError::Conflict`], as if another request had been
    /// faster.
    pub fn conflict(&self, times: usize) {
        self.state(|state| state.conflicts = times);
    }

    /// How many values were asked for so far.
    pub fn gets(&self) -> usize {
        self.state(|state| state.gets)
    }

    /// How many batches were applied so far, failed ones not counted.
    pub fn batches(&self) -> usize {
        self.state(|state| state.batches)
    }

    /// Every key, in order.
    pub fn keys(&self) -> Vec<String> {
        self.state(|state| state.entries.keys().cloned().collect())
    }

    /// Whether any key or value holds `needle`.
    pub fn holds(&self, needle: &[u8]) -> bool {
        let within = |hay: &[u8]| hay.windows(needle.len()).any(|window| window == needle);
        self.state(|state| {
            let mut entries = state.entries.iter();
            entries.any(|(key, (value, _))| within(key.as_bytes()) || within(value))
        })
    }

    fn state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let entry = self.state(|state| {
            state.gets += 1;
            state.entries.get(key).map(|(value, revision)| Entry {
                value: Secret::new(value.clone()),
                revision: *revision,
            })
        });
        // Others get their turn between what is read and what is written because of it.
        tokio::task::yield_now().await;
        Ok(entry)
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        assert!(
            prefix.is_empty() || prefix.ends_with('/'),
            "a prefix is empty or ends in '/': {prefix}"
        );
        let mut names: Vec<String> = self.state(|state| {
            state
                .entries
                .range(prefix.to_owned()..)
                .map_while(|(key, _)| key.strip_prefix(prefix))
                .map(|rest| match rest.split_once('/') {
                    Some((folder, _)) => format!("{folder}/"),
                    None => rest.to_owned(),
                })
                .filter(|name| after.is_none_or(|after| name.as_str() > after))
                .collect()
        });
        // The order of keys keeps a folder's keys together.
        names.dedup();
        names.truncate(limit);
        Ok(names)
    }

    async fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.state(|state| {
            if state.batches_left == Some(0) {
                return Err(StoreError::Failed("the test's disk is gone".into()));
            }
            if state.conflicts > 0 {
                state.conflicts -= 1;
                return Err(StoreError::Conflict);
            }
            for (key, expected) in &batch.expected {
                let found = state.entries.get(key).map(|(_, revision)| *revision);
                if found != *expected {
                    return Err(StoreError::Conflict);
                }
            }
            state.batches_left = state.batches_left.map(|left| left - 1);
            state.batches += 1;
            for write in batch.writes {
                match write {
                    Write::Put(key, value) => {
                        state.revisions += 1;
                        let revision = Revision(state.revisions);
                        let value = value.expose().to_vec();
                        state.entries.insert(key, (value, revision));
                    }
                    Write::Delete(key) => {
                        state.entries.remove(&key);
                    }
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type ListCase = (
        &'static str,
        Option<&'static str>,
        usize,
        &'static [&'static str],
    );

    fn put(key: &str) -> Batch {
        Batch::new().put(key, Secret::new("v"))
    }

    async fn revision(store: &MemoryStore, key: &str) -> Option<Revision> {
        store.get(key).await.unwrap().map(|entry| entry.revision)
    }

    #[tokio::test]
    async fn a_list_is_one_level_in_order_after_a_name() {
        let store = MemoryStore::default();
        for key in ["a", "a.b", "a/b", "a/c/d", "a0", "b/x", "c"] {
            store.apply(put(key)).await.unwrap();
        }
        let cases: &[ListCase] = &[
            ("", None, 9, &["a", "a.b", "a/", "a0", "b/", "c"]),
            ("", None, 2, &["a", "a.b"]),
            ("", Some("a"), 9, &["a.b", "a/", "a0", "b/", "c"]),
            ("", Some("a/"), 9, &["a0", "b/", "c"]),
            ("", Some("bb"), 9, &["c"]),
            ("a/", None, 9, &["b", "c/"]),
            ("a/c/", None, 9, &["d"]),
            ("x/", None, 9, &[]),
            ("", None, 0, &[]),
        ];
        for (prefix, after, limit, want) in cases {
            let got = store.list(prefix, *after, *limit).await.unwrap();
            assert_eq!(&got, want, "{prefix:?} after {after:?}");
        }
    }

    #[tokio::test]
    async fn a_batch_is_applied_whole_or_not_at_all() {
        let store = MemoryStore::default();
        store.apply(put("a").expect("a", None)).await.unwrap();
        let first = revision(&store, "a").await;
        assert!(first.is_some());

        let stale = put("a").put("b", Secret::new("v")).expect("a", None);
        assert!(matches!(
            store.apply(stale).await,
            Err(StoreError::Conflict)
        ));
        assert_eq!(store.keys(), ["a"]);

        store.apply(put("a").expect("a", first)).await.unwrap();
        assert_ne!(revision(&store, "a").await, first);
        store.apply(Batch::new().delete("a")).await.unwrap();
        store.apply(put("a")).await.unwrap();
        assert_ne!(revision(&store, "a").await, first, "never used twice");
    }

    #[tokio::test]
    async fn failures_come_when_they_were_ordered() {
        let store = MemoryStore::default();
        store.fail_after(1);
        store.apply(put("a")).await.unwrap();
        assert!(matches!(
            store.apply(put("b")).await,
            Err(StoreError::Failed(_))
        ));
        store.heal();
        store.conflict(1);
        assert!(matches!(
            store.apply(put("b")).await,
            Err(StoreError::Conflict)
        ));
        store.apply(put("b")).await.unwrap();
        assert_eq!((store.keys().len(), store.batches()), (2, 2));
        assert!(store.holds(b"v") && !store.holds(b"w"));
    }
}
