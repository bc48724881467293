//! One test body, run against every implementation of [`Storage`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use daypass_contract::Revision;
use proptest::prelude::*;
use tempfile::TempDir;

use super::memory::InMemory;
use super::{Embedded, Options, Range, RowWrite, Storage, StorageError, WriteBatch};

fn put(key: &str, value: &str) -> RowWrite {
    RowWrite::Put(key.to_owned(), Bytes::copy_from_slice(value.as_bytes()))
}

fn delete(key: &str) -> RowWrite {
    RowWrite::Delete(key.to_owned())
}

fn writes(writes: impl Into<Vec<RowWrite>>) -> WriteBatch {
    WriteBatch {
        expected: Vec::new(),
        writes: writes.into(),
    }
}

fn expecting(expected: &[(&str, Option<Revision>)]) -> WriteBatch {
    let expected = expected
        .iter()
        .map(|(key, revision)| ((*key).to_owned(), *revision));
    WriteBatch {
        expected: expected.collect(),
        writes: Vec::new(),
    }
}

fn embedded() -> (TempDir, Arc<dyn Storage>) {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(&directory.path().join("store"), Options::default()).unwrap();
    (directory, Arc::new(store))
}

async fn every_store<F: Future<Output = ()>>(body: impl Fn(Arc<dyn Storage>) -> F) {
    body(Arc::new(InMemory::new())).await;
    let (_directory, store) = embedded();
    body(store).await;
}

async fn value(store: &dyn Storage, key: &str) -> Option<String> {
    let row = store.get(key).await.unwrap()?;
    Some(String::from_utf8(row.value.to_vec()).unwrap())
}

#[tokio::test]
async fn what_is_put_is_read_until_it_is_deleted() {
    every_store(|store| async move {
        assert_eq!(value(&*store, "a").await, None);
        let first = store
            .apply(writes([put("a", "1"), put("b", "2")]))
            .await
            .unwrap();
        assert_eq!(value(&*store, "a").await.as_deref(), Some("1"));
        assert_eq!(store.get("b").await.unwrap().unwrap().revision, first);
        let second = store.apply(writes([put("a", "3")])).await.unwrap();
        assert!(second.0 > first.0);
        assert_eq!(store.get("a").await.unwrap().unwrap().revision, second);
        assert_eq!(store.get("b").await.unwrap().unwrap().revision, first);
        store
            .apply(writes([delete("a"), delete("never")]))
            .await
            .unwrap();
        assert_eq!(value(&*store, "a").await, None);
        // The last write of a batch wins.
        store
            .apply(writes([put("c", "1"), delete("c"), put("c", "2")]))
            .await
            .unwrap();
        assert_eq!(value(&*store, "c").await.as_deref(), Some("2"));
    })
    .await;
}

#[tokio::test]
async fn a_batch_whose_conditions_fail_writes_nothing() {
    every_store(|store| async move {
        let at = store.apply(writes([put("a", "1")])).await.unwrap();
        let other = Revision(at.0 + 7);
        let cases = [
            ("at its revision", expecting(&[("a", Some(at))]), true),
            ("absent as expected", expecting(&[("x", None)]), true),
            (
                "expected absent, is there",
                expecting(&[("a", None)]),
                false,
            ),
            (
                "expected there, is absent",
                expecting(&[("x", Some(at))]),
                false,
            ),
            ("another revision", expecting(&[("a", Some(other))]), false),
            (
                "one of two",
                expecting(&[("a", Some(at)), ("x", Some(at))]),
                false,
            ),
        ];
        for (name, mut batch, holds) in cases {
            batch.writes.push(put("probe", name));
            match store.apply(batch).await {
                Ok(_) => assert!(holds, "{name}"),
                Err(StorageError::Conflict) => {
                    assert!(!holds, "{name}");
                    assert_ne!(value(&*store, "probe").await.as_deref(), Some(name));
                }
                Err(error) => panic!("{name}: {error}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn ranges_are_ordered_bounded_and_resumable() {
    every_store(|store| async move {
        let keys = ["a", "a/", "a/b", "a/b/c", "a/ü", "a/\u{10ffff}", "a0", "b"];
        store
            .apply(writes(keys.map(|key| put(key, key))))
            .await
            .unwrap();
        let cases: [(&str, Option<&str>, usize, &[&str]); 7] = [
            ("", None, 100, &keys),
            ("a/", None, 100, &keys[1..6]),
            ("a/", Some("a/b"), 100, &keys[3..6]),
            ("a/", Some("a/b"), 1, &keys[3..4]),
            ("a/", Some("b"), 100, &[]),
            ("a/b", None, 100, &keys[2..4]),
            ("c", None, 100, &[]),
        ];
        for (prefix, after, limit, want) in cases {
            let range = Range::prefix(prefix, after, limit);
            assert_eq!(
                store.keys(range.clone()).await.unwrap(),
                want,
                "{prefix} {after:?}"
            );
            let rows = store.rows(range).await.unwrap();
            let found: Vec<_> = rows
                .iter()
                .map(|(key, row)| (key.as_bytes(), &row.value[..]))
                .collect();
            let want: Vec<_> = want
                .iter()
                .map(|key| (key.as_bytes(), key.as_bytes()))
                .collect();
            assert_eq!(found, want, "{prefix} {after:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_list_gives_each_name_of_one_level_once() {
    every_store(|store| async move {
        let keys = ["m/a", "m/a-b", "m/a/x", "m/a/y/z", "m/b/c", "m/d", "n/e"];
        store
            .apply(writes(keys.map(|key| put(key, ""))))
            .await
            .unwrap();
        let cases: [(&str, Option<&str>, usize, &[&str]); 9] = [
            ("m/", None, 100, &["a", "a-b", "a/", "b/", "d"]),
            ("m/", Some("a"), 100, &["a-b", "a/", "b/", "d"]),
            ("m/", Some("a/"), 100, &["b/", "d"]),
            ("m/", Some("a/"), 1, &["b/"]),
            ("m/", Some("aa"), 100, &["b/", "d"]),
            ("m/a/", None, 100, &["x", "y/"]),
            ("", None, 100, &["m/", "n/"]),
            ("m/d/", None, 100, &[]),
            ("m/", None, 0, &[]),
        ];
        for (prefix, after, limit, want) in cases {
            let names = store.list(prefix, after, limit).await.unwrap();
            assert_eq!(names, want, "{prefix} {after:?} {limit}");
        }
    })
    .await;
}

#[test]
fn listing_a_level_does_not_walk_what_lies_below() {
    let keys: BTreeSet<String> = (0..10_000)
        .map(|number| format!("m/big/{number}"))
        .chain(["m/a", "m/c/1"].map(str::to_owned))
        .collect();
    let mut seeks = 0;
    let names = super::level_of("m/", None, 100, |from| {
        seeks += 1;
        Ok(keys.range(from.to_owned()..).next().cloned())
    });
    assert_eq!(names.unwrap(), ["a", "big/", "c/"]);
    assert_eq!(seeks, 4);
}

#[test]
fn the_end_of_a_prefix_is_past_all_of_it_and_nothing_else() {
    let cases = [
        ("", None),
        ("a/", Some("a0")),
        ("a\u{7f}", Some("a\u{80}")),
        ("a\u{d7ff}", Some("a\u{e000}")),
        ("a\u{10ffff}", Some("b")),
        ("\u{10ffff}", None),
    ];
    for (prefix, want) in cases {
        assert_eq!(super::end_of_prefix(prefix).as_deref(), want, "{prefix:?}");
    }
}

/// A step of the model test; keys are few, so that steps meet.
#[derive(Clone, Debug)]
struct Step {
    expected: Vec<(u8, Guess)>,
    writes: Vec<(u8, Option<u8>)>,
}

#[derive(Clone, Debug)]
enum Guess {
    Right,
    Absent,
    Stale,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let guess =
        prop_oneof![4 => Just(Guess::Right), 1 => Just(Guess::Absent), 1 => Just(Guess::Stale)];
    let expected = prop::collection::vec((0..12_u8, guess), 0..3);
    let writes = prop::collection::vec((0..12_u8, any::<Option<u8>>()), 0..5);
    let step = (expected, writes).prop_map(|(expected, writes)| Step { expected, writes });
    prop::collection::vec(step, 1..40)
}

/// Applies the steps to the store and to a map; after each, every way of reading must agree with the map.
async fn agrees_with_a_map(store: &dyn Storage, steps: &[Step]) {
    let key = |number: &u8| format!("k{}/{}", number / 4, number % 4);
    let mut model: BTreeMap<String, (Bytes, Revision)> = BTreeMap::new();
    let mut newest = Revision(0);
    for step in steps {
        let revision = |key: &String| model.get(key).map(|(_, revision)| *revision);
        let expected: Vec<_> = step
            .expected
            .iter()
            .map(|(number, guess)| {
                let key = key(number);
                let revision = match guess {
                    Guess::Right => revision(&key),
                    Guess::Absent => None,
                    Guess::Stale => Some(Revision(newest.0 + 1000)),
                };
                (key, revision)
            })
            .collect();
        let holds = expected.iter().all(|(key, at)| revision(key) == *at);
        let write = |(number, value): &(u8, Option<u8>)| match value {
            Some(value) => RowWrite::Put(key(number), Bytes::from(vec![*value; 3])),
            None => RowWrite::Delete(key(number)),
        };
        let writes: Vec<_> = step.writes.iter().map(write).collect();
        let result = store
            .apply(WriteBatch {
                expected,
                writes: writes.clone(),
            })
            .await;
        match result {
            Ok(revision) => {
                assert!(holds && revision.0 > newest.0);
                newest = revision;
                for write in writes {
                    match write {
                        RowWrite::Put(key, value) => model.insert(key, (value, revision)),
                        RowWrite::Delete(key) => model.remove(&key),
                    };
                }
            }
            Err(StorageError::Conflict) => assert!(!holds),
            Err(error) => panic!("{error}"),
        }
        for number in 0..12 {
            let found = store.get(&key(&number)).await.unwrap();
            let found = found.map(|row| (row.value, row.revision));
            assert_eq!(found, model.get(&key(&number)).cloned());
        }
    }
    let rows = store.rows(Range::prefix("", None, 100)).await.unwrap();
    let rows: BTreeMap<_, _> = rows
        .into_iter()
        .map(|(key, row)| (key, (row.value, row.revision)))
        .collect();
    assert_eq!(rows, model);
    let folders: BTreeSet<_> = model
        .keys()
        .map(|key| format!("{}/", key.split_once('/').unwrap().0))
        .collect();
    let names = store.list("", None, 100).await.unwrap();
    assert_eq!(names, folders.into_iter().collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_batches_agrees_with_a_map(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(every_store(|store| {
            let steps = &steps;
            async move { agrees_with_a_map(&*store, steps).await }
        }));
    }
}
