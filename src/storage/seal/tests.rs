mod ceremonies;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use daypass_contract::Batch;

use super::*;
use crate::storage::barrier::SEAL;
use crate::storage::keyring::KEYRING;
use crate::storage::memory::InMemory;
use crate::storage::testing::{Counting, StillClock};
use crate::storage::{RowWrite, Storage, WriteBatch};

fn keeper(storage: &Arc<InMemory>, seal: Seal) -> (Arc<Barrier>, Keeper) {
    let storage: Arc<dyn Storage> = Arc::clone(storage) as _;
    let barrier = Arc::new(Barrier::new(
        storage,
        Arc::new(StillClock),
        Arc::new(Counting),
    ));
    (Arc::clone(&barrier), Keeper::new(barrier, seal))
}

/// An initialized store with `hello` in it, sealed, seen after a restart.
async fn initialized(shares: usize, threshold: usize) -> (Arc<InMemory>, Keeper, Vec<Secret>) {
    let storage = Arc::new(InMemory::new());
    let (barrier, first) = keeper(&storage, Seal::Shamir);
    let shares = first.init(shares, threshold).await.unwrap().shares;
    barrier
        .apply(Batch::new().put("m/a", Secret::new("hello")))
        .await
        .unwrap();
    let (_, keeper) = keeper(&storage, Seal::Shamir);
    (storage, keeper, shares)
}

async fn reads_hello(keeper: &Keeper) -> bool {
    let entry = keeper.barrier.get("m/a").await;
    entry.is_ok_and(|entry| entry.is_some_and(|entry| entry.value.expose() == b"hello"))
}

async fn overwrite(storage: &InMemory, key: &str, value: impl Into<Bytes>) {
    let batch = WriteBatch {
        expected: Vec::new(),
        writes: vec![RowWrite::Put(key.to_owned(), value.into())],
    };
    storage.apply(batch).await.unwrap();
}

#[tokio::test]
async fn a_store_is_initialized_once_and_opened_by_enough_shares() {
    let storage = Arc::new(InMemory::new());
    let (_, first) = keeper(&storage, Seal::Shamir);
    let status = first.status().await.unwrap();
    assert!(!status.initialized && status.sealed && status.cluster_id.is_none());
    assert!(matches!(
        first.offer(&Secret::new([1; 33])).await,
        Err(SealError::NotInitialized)
    ));
    let shares = first.init(5, 3).await.unwrap().shares;
    assert_eq!(shares.len(), 5);
    assert!(!first.status().await.unwrap().sealed);
    assert!(matches!(
        first.init(5, 3).await,
        Err(SealError::AlreadyInitialized)
    ));
    first
        .barrier
        .apply(Batch::new().put("m/a", Secret::new("hello")))
        .await
        .unwrap();
    first.seal().await;
    assert!(first.status().await.unwrap().sealed);

    let (_, keeper) = keeper(&storage, Seal::Shamir);
    assert!(matches!(
        keeper.init(5, 3).await,
        Err(SealError::AlreadyInitialized)
    ));
    let status = keeper.auto_unseal().await.unwrap();
    assert!(status.initialized && status.sealed);
    assert_eq!(
        (status.shares, status.threshold, status.progress),
        (5, 3, 0)
    );
    assert!(status.cluster_name.unwrap().starts_with("daypass-cluster-"));
    assert_eq!(status.nonce, "");
    let one = keeper.offer(&shares[4]).await.unwrap();
    assert_eq!((one.progress, one.sealed), (1, true));
    assert_eq!(one.nonce.len(), 36);
    let again = keeper.offer(&shares[4]).await.unwrap();
    assert_eq!((again.progress, &again.nonce), (1, &one.nonce));
    let two = keeper.offer(&shares[0]).await.unwrap();
    assert_eq!((two.progress, &two.nonce), (2, &one.nonce));
    assert!(!reads_hello(&keeper).await);
    let open = keeper.offer(&shares[2]).await.unwrap();
    assert_eq!(
        (open.progress, open.sealed, open.nonce.as_str()),
        (0, false, "")
    );
    assert!(reads_hello(&keeper).await);
    // A late share changes nothing.
    assert_eq!(keeper.offer(&shares[1]).await.unwrap(), open);
}

#[tokio::test]
async fn one_share_of_one_opens() {
    let (_, keeper, shares) = initialized(1, 1).await;
    assert_eq!(shares[0].len(), 32);
    assert!(!keeper.offer(&shares[0]).await.unwrap().sealed);
    assert!(reads_hello(&keeper).await);
}

#[tokio::test]
async fn a_wrong_share_is_said_and_the_attempt_starts_again() {
    let (_, keeper, shares) = initialized(3, 2).await;
    let (_, _, foreign) = initialized(3, 2).await;
    let mut flipped = shares[1].expose().to_vec();
    flipped[7] ^= 1;
    let mut renumbered = shares[1].expose().to_vec();
    renumbered[32] = shares[0].expose()[32];
    let mut numbered_zero = shares[1].expose().to_vec();
    numbered_zero[32] = 0;
    let cases = [
        ("altered", Secret::new(flipped)),
        ("of another store", foreign[1].duplicate()),
        ("the number of another share", Secret::new(renumbered)),
        ("number zero", Secret::new(numbered_zero)),
    ];
    for (name, wrong) in cases {
        keeper.offer(&shares[0]).await.unwrap();
        let answer = keeper.offer(&wrong).await;
        assert!(matches!(answer, Err(SealError::WrongShares)), "{name}");
        let status = keeper.status().await.unwrap();
        assert_eq!((status.progress, status.sealed), (0, true), "{name}");
    }
    for length in [0, 16, 32, 34] {
        let answer = keeper.offer(&Secret::new(vec![1; length])).await;
        assert!(matches!(answer, Err(SealError::Invalid(_))), "{length}");
    }
    keeper.offer(&shares[0]).await.unwrap();
    assert_eq!(keeper.reset().await.unwrap().progress, 0);
    keeper.offer(&shares[2]).await.unwrap();
    keeper.offer(&shares[1]).await.unwrap();
    assert!(reads_hello(&keeper).await);
}

#[tokio::test]
async fn the_numbers_have_vaults_limits_in_vaults_words() {
    let cases = [
        (0, 0, "shares must be at least one"),
        (5, 0, "threshold must be at least one"),
        (
            5,
            1,
            "threshold must be greater than one for multiple shares",
        ),
        (256, 3, "shares must be less than 256"),
        (255, 256, "threshold must be less than 256"),
        (3, 5, "threshold cannot be larger than shares"),
        (1, 2, "threshold cannot be larger than shares"),
    ];
    let (_, keeper) = keeper(&Arc::default(), Seal::Shamir);
    for (shares, threshold, problem) in cases {
        let error = keeper
            .init(shares, threshold)
            .await
            .err()
            .unwrap()
            .to_string();
        assert_eq!(error, format!("invalid seal configuration: {problem}"));
    }
    assert!(!keeper.status().await.unwrap().initialized);
    assert!(keeper.init(255, 2).await.is_ok());
}

#[tokio::test]
async fn a_failed_initialization_leaves_nothing() {
    let storage = Arc::new(InMemory::new());
    let (_, keeper) = keeper(&storage, Seal::Shamir);
    storage.fail_after(0);
    assert!(matches!(
        keeper.init(3, 2).await,
        Err(SealError::Storage(_))
    ));
    storage.heal();
    assert!(!keeper.status().await.unwrap().initialized);
    assert!(storage.get(KEYRING).await.unwrap().is_none());
    assert!(keeper.init(3, 2).await.is_ok());
}

#[tokio::test]
async fn a_damaged_store_is_not_blamed_on_the_shares() {
    let (storage, keeper, shares) = initialized(3, 2).await;
    let (other, _, _) = initialized(3, 2).await;
    let whole = storage.get(KEYRING).await.unwrap().unwrap().value;
    let mut altered = whole.to_vec();
    *altered.last_mut().unwrap() ^= 1;
    let foreign = other.get(KEYRING).await.unwrap().unwrap().value;
    let cases = [
        (KEYRING, Bytes::from(altered), "altered"),
        (KEYRING, foreign, "belongs to another store"),
        (SEAL, Bytes::from_static(b"{}"), "cannot be read"),
        (SEAL, Bytes::from_static(b"\xff"), "cannot be read"),
    ];
    for (key, value, reason) in cases {
        overwrite(&storage, key, value).await;
        let _ = keeper.offer(&shares[0]).await;
        let answer = keeper.offer(&shares[1]).await;
        let Err(SealError::Storage(error @ StorageError::Damaged { .. })) = answer else {
            panic!("{reason}: not damaged")
        };
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.to_string().starts_with(key), "{error}");
        assert!(keeper.barrier.is_sealed());
    }
}

#[test]
fn shares_are_read_as_hex_and_as_base64() {
    for length in [32, 33] {
        let bytes: Vec<u8> = (0..length).map(|number| number * 7).collect();
        for text in [
            hex::encode(&bytes),
            hex::encode_upper(&bytes),
            STANDARD.encode(&bytes),
        ] {
            assert_eq!(parse_share(&text).ok().unwrap().expose(), bytes, "{text}");
        }
    }
    // 44 hex digits are a base64 share.
    let both = "00112233445566778899aabbccddeeff001122334455";
    assert_eq!(parse_share(both).ok().unwrap().len(), 33);
    for text in ["hello!", "0g", "a"] {
        let error = parse_share(text).err().unwrap().to_string();
        assert_eq!(error, "'key' must be a valid hex or base64 string");
    }
}

#[tokio::test]
async fn a_key_file_opens_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let seal = |generate| Seal::KeyFile {
        path: path.clone(),
        generate,
    };
    let storage = Arc::new(InMemory::new());
    let (_, given) = keeper(&storage, seal(false));
    assert!(matches!(
        given.init(0, 0).await,
        Err(SealError::KeyFile { .. })
    ));
    let (_, generating) = keeper(&storage, seal(true));
    assert!(matches!(
        generating.init(5, 3).await,
        Err(SealError::Invalid(_))
    ));
    assert!(generating.init(0, 0).await.unwrap().shares.is_empty());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    generating
        .barrier
        .apply(Batch::new().put("m/a", Secret::new("hello")))
        .await
        .unwrap();

    let (_, restarted) = keeper(&storage, seal(false));
    assert!(restarted.status().await.unwrap().sealed);
    assert!(matches!(
        restarted.offer(&Secret::new([1; 33])).await,
        Err(SealError::Invalid(_))
    ));
    assert!(!restarted.auto_unseal().await.unwrap().sealed);
    assert!(reads_hello(&restarted).await);

    let refusal = async |text: &str, mode: u32| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let (_, keeper) = keeper(&storage, seal(false));
        match keeper.auto_unseal().await {
            Err(error @ SealError::KeyFile { .. }) => error.to_string(),
            _ => panic!("accepted"),
        }
    };
    assert!(
        refusal(&"ab".repeat(32), 0o600)
            .await
            .contains("does not hold the key")
    );
    assert!(refusal(&"ab".repeat(32), 0o640).await.contains("chmod 600"));
    assert!(refusal("hunter2", 0o600).await.contains("64 hex digits"));
    assert!(
        refusal(&"ab".repeat(1000), 0o600)
            .await
            .contains("64 hex digits")
    );
    fs::remove_file(&path).unwrap();
    let (_, keeper) = keeper(&storage, seal(false));
    let error = keeper.auto_unseal().await.err().unwrap().to_string();
    assert!(error.contains("No such file"), "{error}");
}

#[tokio::test]
async fn a_store_keeps_the_kind_of_seal_it_was_made_with() {
    let (storage, _, _) = initialized(3, 2).await;
    let (_, keeper) = keeper(
        &storage,
        Seal::KeyFile {
            path: "unused".into(),
            generate: true,
        },
    );
    let error = keeper.auto_unseal().await.err().unwrap().to_string();
    assert_eq!(
        error,
        "the configuration says seal type key_file, but this store was initialized with shamir"
    );
}
