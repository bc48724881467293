//! Sealed rows in memory, and known absences.
//!
//! **Invariant: no stale row.** A reader that misses takes a *vacancy* for the key before it asks the
//! database. The writer, after its commit and before it acknowledges, removes and replaces the entries of
//! the keys it wrote, and that voids every vacancy taken before: filling it then changes nothing. So a
//! row read before a commit cannot be installed after it.

use quick_cache::DefaultHashBuilder;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle, PlaceholderGuard};

use crate::storage::Row;

type Rows = Cache<String, Option<Row>, Weight>;
type Guard<'a> = PlaceholderGuard<
    'a,
    String,
    Option<Row>,
    Weight,
    DefaultHashBuilder,
    DefaultLifecycle<String, Option<Row>>,
>;

/// A bounded cache of what the database holds, and of what it does not.
pub(super) struct RowCache {
    rows: Rows,
}

/// The right to install what the database says of one key, until someone writes it.
pub(super) struct Vacancy<'a>(Guard<'a>);

#[derive(Clone)]
struct Weight;

impl Weighter<String, Option<Row>> for Weight {
    fn weight(&self, key: &String, row: &Option<Row>) -> u64 {
        // The map entry, the key's and the value's headers.
        const OVERHEAD: usize = 128;
        let value = row.as_ref().map_or(0, |row| row.value.len());
        (key.len() + value + OVERHEAD) as u64
    }
}

impl RowCache {
    pub(super) fn new(bytes: u64) -> Self {
        const TYPICAL_ROW_BYTES: u64 = 512;
        let items = usize::try_from(bytes / TYPICAL_ROW_BYTES).unwrap_or(usize::MAX);
        Self {
            rows: Cache::with_weighter(items, bytes, Weight),
        }
    }

    /// What is known of `key`, or the vacancy to fill. Others who miss the same key wait for that.
    pub(super) async fn look_up(&self, key: &str) -> Result<Option<Row>, Vacancy<'_>> {
        self.rows
            .get_value_or_guard_async(key)
            .await
            .map_err(Vacancy)
    }

    /// Makes a committed write visible and voids vacancies taken before it.
    pub(super) fn publish(&self, key: String, row: Option<Row>) {
        // `insert` alone would leave a vacancy alive where the row is too large to keep.
        self.rows.remove(&key);
        // Deleted keys are rarely asked for again: their absence is cached when someone does.
        if row.is_some() {
            self.rows.insert(key, row);
        }
    }

    pub(super) fn clear(&self) {
        self.rows.clear();
    }
}

impl Vacancy<'_> {
    pub(super) fn fill(self, row: Option<Row>) {
        // Refused where the key was written meanwhile; that row is the newer one.
        let _ = self.0.insert(row);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use daypass_contract::Revision;

    use super::*;

    fn row(revision: u64, length: usize) -> Row {
        Row {
            value: Bytes::from(vec![0; length]),
            revision: Revision(revision),
        }
    }

    #[tokio::test]
    async fn a_row_read_before_a_write_is_never_installed_after_it() {
        let cases = [
            ("written", Some(row(2, 10)), true),
            ("deleted", None, false),
            ("written, too large to cache", Some(row(2, 1 << 20)), false),
        ];
        for (name, new, cached) in cases {
            let cache = RowCache::new(64 * 1024);
            let Err(vacancy) = cache.look_up("k").await else {
                panic!("{name}: an empty cache has a row")
            };
            cache.publish("k".to_owned(), new.clone());
            vacancy.fill(Some(row(1, 10)));
            match cache.look_up("k").await {
                Ok(found) => assert!(cached && found == new, "{name}"),
                Err(_) => assert!(!cached, "{name}"),
            }
        }
    }

    #[tokio::test]
    async fn an_evicted_write_still_voids_older_vacancies() {
        let cache = RowCache::new(64 * 1024);
        let Err(vacancy) = cache.look_up("k").await else {
            panic!("an empty cache has a row")
        };
        cache.publish("k".to_owned(), Some(row(2, 10)));
        for number in 0..10_000 {
            cache.publish(format!("other-{number}"), Some(row(3, 100)));
        }
        vacancy.fill(Some(row(1, 10)));
        if let Ok(found) = cache.look_up("k").await {
            assert_eq!(found, Some(row(2, 10)));
        }
    }

    #[tokio::test]
    async fn absence_is_remembered() {
        let cache = RowCache::new(64 * 1024);
        let Err(vacancy) = cache.look_up("k").await else {
            panic!("an empty cache has a row")
        };
        vacancy.fill(None);
        assert!(matches!(cache.look_up("k").await, Ok(None)));
    }
}
