use daypass_contract::StoreError;

use super::*;
use crate::storage::memory::InMemory;
use crate::storage::testing::{Counting, StillClock};

const CLUSTER: Uuid = Uuid::from_u128(7);

fn root() -> LockedKey<32> {
    LockedKey::copy_of(&[42; 32]).unwrap()
}

/// A further node over the same storage.
async fn node(storage: &Arc<InMemory>) -> Arc<Barrier> {
    let storage: Arc<dyn Storage> = Arc::clone(storage) as _;
    let barrier = Barrier::new(storage, Arc::new(StillClock), Arc::new(Counting));
    if barrier.seal_record().await.unwrap().is_none() {
        barrier
            .initialize(root(), CLUSTER, Bytes::from_static(b"seal"))
            .await
            .unwrap();
    }
    barrier.unseal(root(), CLUSTER).await.unwrap();
    Arc::new(barrier)
}

async fn barrier() -> (Arc<InMemory>, Arc<Barrier>) {
    let storage = Arc::new(InMemory::new());
    let barrier = node(&storage).await;
    (storage, barrier)
}

fn put(key: &str, value: &str) -> Batch {
    Batch::new().put(key, Secret::new(value))
}

async fn text(barrier: &Barrier, key: &str) -> Result<Option<String>, StorageError> {
    let entry = barrier.get(key).await?;
    Ok(entry.map(|entry| entry.value.expose_str().unwrap().to_owned()))
}

async fn raw(storage: &InMemory, key: &str) -> Bytes {
    storage.get(key).await.unwrap().unwrap().value
}

async fn overwrite(storage: &InMemory, key: &str, value: impl Into<Bytes>) {
    let batch = WriteBatch {
        expected: Vec::new(),
        writes: vec![RowWrite::Put(key.to_owned(), value.into())],
    };
    storage.apply(batch).await.unwrap();
}

fn damaged(result: Result<impl Sized, StorageError>) -> String {
    match result {
        Err(error @ StorageError::Damaged { .. }) => error.to_string(),
        Err(error) => panic!("not damaged: {error}"),
        Ok(_) => panic!("not damaged: it was answered"),
    }
}

#[tokio::test]
async fn values_are_sealed_below_and_open_above() {
    let (storage, barrier) = barrier().await;
    let revision = barrier.apply(put("m/a", "hunter2")).await.unwrap();
    let entry = barrier.get("m/a").await.unwrap().unwrap();
    assert_eq!(entry.value.expose(), b"hunter2");
    assert_eq!(entry.revision, revision);
    let stored = raw(&storage, "m/a").await;
    assert!(!stored.windows(7).any(|window| window == b"hunter2"));
    assert_eq!(stored.len(), 1 + 4 + 12 + 7 + 16);
    assert_eq!(stored[..5], [1, 0, 0, 0, 1]);
    // The same value again: another nonce, another ciphertext.
    barrier.apply(put("m/a", "hunter2")).await.unwrap();
    assert_ne!(raw(&storage, "m/a").await, stored);
    // An index entry.
    barrier.apply(put("index/1/a", "")).await.unwrap();
    assert!(raw(&storage, "index/1/a").await.is_empty());
    assert_eq!(
        text(&barrier, "index/1/a").await.unwrap().as_deref(),
        Some("")
    );
    assert!(barrier.get("m/none").await.unwrap().is_none());
}

#[tokio::test]
async fn every_altered_byte_is_noticed() {
    let (storage, barrier) = barrier().await;
    barrier
        .apply(put("m/a", "one").put("m/b", Secret::new("two")))
        .await
        .unwrap();
    let (a, b) = (raw(&storage, "m/a").await, raw(&storage, "m/b").await);
    for position in 0..a.len() {
        let mut altered = a.to_vec();
        altered[position] ^= 1;
        overwrite(&storage, "m/a", altered).await;
        damaged(barrier.get("m/a").await);
    }
    for length in 1..a.len() {
        overwrite(&storage, "m/a", a.slice(..length)).await;
        damaged(barrier.get("m/a").await);
    }
    // Values that changed places.
    overwrite(&storage, "m/a", b).await;
    let error = damaged(barrier.get("m/a").await);
    assert_eq!(
        error,
        "m/a is damaged: it is not what was stored under this key"
    );
    assert!(damaged(barrier.entries("m/", None, 10).await).starts_with("m/a"));
    overwrite(&storage, "m/a", a).await;
    assert_eq!(text(&barrier, "m/a").await.unwrap().as_deref(), Some("one"));
}

#[tokio::test]
async fn a_sealed_barrier_answers_nothing_else() {
    let (_storage, barrier) = barrier().await;
    barrier.apply(put("m/a", "1")).await.unwrap();
    let view = barrier.view("m/");
    barrier.seal();
    assert!(barrier.is_sealed());
    let answers = [
        barrier.get("m/a").await.err(),
        barrier.keys("", None, 1).await.err(),
        barrier.entries("", None, 1).await.err(),
        barrier.list("", None, 1).await.err(),
        barrier.apply(put("m/a", "2")).await.err(),
        barrier.apply(Batch::new().delete("m/a")).await.err(),
        barrier.rotate().await.err(),
        barrier.key_status().err(),
        barrier.derive("audit").err(),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        assert!(matches!(answer, Some(StorageError::Sealed)), "{number}");
    }
    let Err(StoreError::Failed(source)) = view.get("a").await else {
        panic!("a view answered while sealed")
    };
    assert!(matches!(source.downcast_ref(), Some(StorageError::Sealed)));
    barrier.unseal(root(), CLUSTER).await.unwrap();
    assert_eq!(text(&barrier, "m/a").await.unwrap().as_deref(), Some("1"));
}

#[tokio::test]
async fn rotation_changes_the_key_and_keeps_what_older_keys_sealed() {
    let (storage, barrier) = barrier().await;
    barrier.apply(put("m/a", "1")).await.unwrap();
    let audit = barrier.derive("audit").unwrap();
    let status = barrier.rotate().await.unwrap();
    assert_eq!((status.term, status.installed_at), (2, StillClock.now()));
    barrier.apply(put("m/b", "2")).await.unwrap();
    assert_eq!(raw(&storage, "m/b").await[..5], [1, 0, 0, 0, 2]);
    // All of it again after a restart.
    let barrier = node(&storage).await;
    assert_eq!(barrier.key_status().unwrap().term, 2);
    assert_eq!(text(&barrier, "m/a").await.unwrap().as_deref(), Some("1"));
    assert_eq!(text(&barrier, "m/b").await.unwrap().as_deref(), Some("2"));
    assert_eq!(barrier.derive("audit").unwrap().expose(), audit.expose());
    assert_ne!(barrier.derive("token").unwrap().expose(), audit.expose());
}

#[tokio::test]
async fn a_rotation_that_cannot_be_stored_does_not_happen() {
    let (storage, barrier) = barrier().await;
    barrier.apply(put("m/a", "1")).await.unwrap();
    storage.fail_after(0);
    assert!(matches!(
        barrier.rotate().await,
        Err(StorageError::Unavailable(_))
    ));
    assert_eq!(barrier.key_status().unwrap().term, 1);
    storage.heal();
    barrier.apply(put("m/b", "2")).await.unwrap();
    assert_eq!(
        text(&*node(&storage).await, "m/b")
            .await
            .unwrap()
            .as_deref(),
        Some("2")
    );
}

#[tokio::test]
async fn nodes_over_one_store_follow_each_others_rotations() {
    let (storage, one) = barrier().await;
    let two = node(&storage).await;
    one.rotate().await.unwrap();
    one.apply(put("m/a", "1")).await.unwrap();
    assert_eq!(text(&two, "m/a").await.unwrap().as_deref(), Some("1"));
    // Both at once, each from its own idea of the keyring.
    two.rotate().await.unwrap();
    let status = one.rotate().await.unwrap();
    assert_eq!(status.term, 4);
    two.apply(put("m/b", "2")).await.unwrap();
    assert_eq!(text(&one, "m/b").await.unwrap().as_deref(), Some("2"));
}

#[tokio::test]
async fn encryptions_are_reserved_before_they_are_made() {
    let (storage, barrier) = barrier().await;
    for number in 0..3 {
        barrier
            .apply(put("m/a", &number.to_string()))
            .await
            .unwrap();
        // What a crash now would leave behind counts at least as many.
        let restarted = node(&storage).await.key_status().unwrap().encryptions;
        assert!(restarted > number);
    }
}

#[tokio::test]
async fn a_spent_key_is_replaced() {
    let (_storage, barrier) = barrier().await;
    barrier.apply(put("m/a", "1")).await.unwrap();
    // As if it had been used more than a thousand million times.
    assert!(!barrier.keyring().unwrap().take(1 << 30));
    barrier.apply(put("m/b", "2")).await.unwrap();
    let status = barrier.key_status().unwrap();
    assert_eq!((status.term, status.encryptions), (2, 1));
    assert_eq!(text(&barrier, "m/a").await.unwrap().as_deref(), Some("1"));
}

#[tokio::test]
async fn a_key_is_replaced_as_told() {
    use daypass_conformance::ManualClock;

    let storage = Arc::new(InMemory::new());
    let clock = Arc::new(ManualClock::default());
    let barrier = Barrier::new(
        Arc::clone(&storage) as Arc<dyn Storage>,
        Arc::clone(&clock) as Arc<dyn Clock>,
        Arc::new(Counting),
    );
    barrier
        .initialize(root(), CLUSTER, Bytes::from_static(b"seal"))
        .await
        .unwrap();
    barrier.unseal(root(), CLUSTER).await.unwrap();
    assert_eq!(barrier.auto_rotation().unwrap(), AutoRotation::default());
    let term = || barrier.key_status().unwrap().term;
    let write = async || barrier.apply(put("m/a", "v")).await.unwrap();
    let day = std::time::Duration::from_hours(24);
    let daily = AutoRotation {
        interval: Some(day),
        ..AutoRotation::default()
    };
    barrier.rotate_by_itself(daily).await.unwrap();
    write().await;
    assert_eq!(term(), 1);
    // Its age counts at the next write, and not before.
    clock.advance(day);
    assert_eq!(term(), 1);
    write().await;
    write().await;
    assert_eq!(term(), 2);
    // Switched off, only the number that is safe counts.
    let off = AutoRotation {
        enabled: false,
        max_operations: 1_000_000,
        ..daily
    };
    barrier.rotate_by_itself(off).await.unwrap();
    clock.advance(day * 2);
    barrier.keyring().unwrap().take(1_200_000);
    write().await;
    assert_eq!(term(), 2);
    // Switched on, a key that was used more often than wished is replaced at once.
    let often = AutoRotation {
        enabled: true,
        interval: None,
        ..off
    };
    barrier.rotate_by_itself(often).await.unwrap();
    write().await;
    assert_eq!(term(), 3);
    barrier.keyring().unwrap().take(999_998);
    write().await;
    assert_eq!(term(), 3);
    write().await;
    assert_eq!(term(), 4);
    assert!(barrier.key_status().unwrap().encryptions < 10);
}

#[tokio::test]
async fn each_way_the_keyring_can_be_wrong_is_told_apart() {
    let (storage, barrier) = barrier().await;
    barrier.apply(put("m/a", "1")).await.unwrap();
    let whole = raw(&storage, KEYRING).await;
    let mut altered = whole.to_vec();
    altered[40] ^= 1;
    let mut newer = whole.to_vec();
    newer[0] = 9;
    let mut foreign = whole.to_vec();
    foreign[1] ^= 1;
    let cases: [(&str, Vec<u8>); 5] = [
        ("was altered", altered),
        ("format is unknown", newer),
        ("belongs to another store", foreign),
        ("cut off", whole[..10].to_vec()),
        ("is empty", Vec::new()),
    ];
    for (reason, record) in cases {
        overwrite(&storage, KEYRING, record).await;
        let error = damaged(barrier.unseal(root(), CLUSTER).await);
        assert!(
            error.starts_with("core/keyring is damaged") && error.contains(reason),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_records_that_open_the_barrier_are_out_of_reach() {
    let (_storage, barrier) = barrier().await;
    barrier
        .apply(put("core/mounts", "1").put("core/zeal", Secret::new("2")))
        .await
        .unwrap();
    for key in RESERVED {
        assert!(matches!(
            barrier.get(key).await,
            Err(StorageError::InvalidKey(_))
        ));
        for batch in [
            put(key, "x"),
            Batch::new().delete(key),
            Batch::new().expect(key, None),
        ] {
            assert!(matches!(
                barrier.apply(batch).await,
                Err(StorageError::InvalidKey(_))
            ));
        }
    }
    assert_eq!(
        barrier.keys("core/", None, 2).await.unwrap(),
        ["core/mounts", "core/zeal"]
    );
    assert_eq!(
        barrier.keys("core/", Some("core/a"), 1).await.unwrap(),
        ["core/mounts"]
    );
    assert_eq!(
        barrier.list("core/", None, 2).await.unwrap(),
        ["mounts", "zeal"]
    );
    let entries = barrier.entries("core/", None, 2).await.unwrap();
    assert_eq!(entries.len(), 2);
}

#[tokio::test]
async fn a_view_cannot_leave_its_prefix() {
    let (_storage, barrier) = barrier().await;
    barrier
        .apply(put("mounts/1/a", "mine").put("mounts/12", Secret::new("other")))
        .await
        .unwrap();
    let view = barrier.view("mounts/1");
    assert_eq!(
        view.get("a").await.unwrap().unwrap().value.expose(),
        b"mine"
    );
    assert_eq!(view.list("", None, 10).await.unwrap(), ["a"]);
    let batch = Batch::new()
        .expect("b/c", None)
        .put("b/c", Secret::new("x"))
        .delete("a");
    view.apply(batch).await.unwrap();
    assert_eq!(
        barrier.keys("mounts/", None, 10).await.unwrap(),
        ["mounts/1/b/c", "mounts/12"]
    );
    assert_eq!(view.list("b/", None, 10).await.unwrap(), ["c"]);
    let hostile = [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        "..",
        "../12",
        "b/../../12",
        "b/..",
        "a\0b",
    ];
    for key in hostile {
        let answers = [
            view.get(key).await.err(),
            view.apply(Batch::new().put(key, Secret::new("x")))
                .await
                .err(),
            view.apply(Batch::new().delete(key)).await.err(),
            view.apply(Batch::new().expect(key, None)).await.err(),
        ];
        for answer in answers {
            let Some(StoreError::Failed(source)) = answer else {
                panic!("{key:?} was accepted")
            };
            assert!(
                matches!(source.downcast_ref(), Some(StorageError::InvalidKey(_))),
                "{key:?}"
            );
        }
    }
    for prefix in ["../", "b/../../", "/", "b//", "b"] {
        assert!(view.list(prefix, None, 10).await.is_err(), "{prefix:?}");
    }
    let long = "k".repeat(3000);
    assert!(view.get(&long).await.is_err());
}

#[tokio::test]
async fn conditions_reach_the_store() {
    let (_storage, barrier) = barrier().await;
    let at = barrier.apply(put("m/a", "1")).await.unwrap();
    barrier
        .apply(put("m/a", "2").expect("m/a", Some(at)))
        .await
        .unwrap();
    let late = barrier.apply(put("m/a", "3").expect("m/a", Some(at))).await;
    assert!(matches!(late, Err(StorageError::Conflict)));
    let view = barrier.view("m/");
    let late = view.apply(put("a", "3").expect("a", Some(at))).await;
    assert!(matches!(late, Err(StoreError::Conflict)));
    assert_eq!(text(&barrier, "m/a").await.unwrap().as_deref(), Some("2"));
}
