//! What share holders do with an open store: new shares and a root token; and what a crash leaves of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use daypass_contract::async_trait;

use super::*;
use crate::storage::{AutoRotation, Range, Row};

/// A store whose process dies at some write: from there on nothing is written, and where told, nothing is
/// read. The last write may have been kept although its caller was told otherwise.
struct Dying {
    inner: Arc<InMemory>,
    left: AtomicU64,
    keeps_last: bool,
    blind: bool,
    dead: AtomicBool,
}

impl Dying {
    fn alive(&self) -> Result<(), StorageError> {
        if self.blind && self.dead.load(Ordering::SeqCst) {
            return Err(StorageError::unavailable("the process is dead"));
        }
        Ok(())
    }
}

#[async_trait]
impl Storage for Dying {
    async fn get(&self, key: &str) -> Result<Option<Row>, StorageError> {
        self.alive()?;
        self.inner.get(key).await
    }

    async fn rows(&self, range: Range) -> Result<Vec<(String, Row)>, StorageError> {
        self.alive()?;
        self.inner.rows(range).await
    }

    async fn keys(&self, range: Range) -> Result<Vec<String>, StorageError> {
        self.alive()?;
        self.inner.keys(range).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        self.alive()?;
        self.inner.list(prefix, after, limit).await
    }

    async fn apply(&self, batch: WriteBatch) -> Result<Revision, StorageError> {
        let dead = || Err(StorageError::unavailable("the process is dead"));
        if self.dead.load(Ordering::SeqCst) {
            return dead();
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.dead.store(true, Ordering::SeqCst);
            if self.keeps_last {
                self.inner.apply(batch).await?;
            }
            return dead();
        }
        self.inner.apply(batch).await
    }

    async fn close(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

/// An open store over `storage`, seen after a restart.
async fn opened(storage: Arc<dyn Storage>, shares: &[Secret]) -> Keeper {
    let barrier = Barrier::new(storage, Arc::new(StillClock), Arc::new(Counting));
    let keeper = Keeper::new(Arc::new(barrier), Seal::Shamir);
    for share in shares {
        keeper.offer(share).await.unwrap();
    }
    assert!(!keeper.barrier.is_sealed());
    keeper
}

/// Whether these shares open the store after a restart, with what is in it.
async fn opens(storage: &Arc<InMemory>, shares: &[Secret]) -> bool {
    let (_, keeper) = keeper(storage, Seal::Shamir);
    for share in shares {
        if keeper.offer(share).await.is_err() {
            return false;
        }
    }
    reads_hello(&keeper).await
}

/// Gives old shares until there are new ones.
async fn remake(keeper: &Keeper, old: &[Secret]) -> (Vec<Secret>, Option<Uuid>) {
    let nonce = keeper.rekey_status().await.unwrap().nonce.unwrap();
    for share in old {
        let step = keeper.offer_for_rekey(&nonce.to_string(), share).await;
        if let RekeyStep::Made {
            shares,
            verification,
            ..
        } = step.unwrap()
        {
            return (shares, verification);
        }
    }
    panic!("there are no new shares")
}

/// Shows new shares; whether they are valid now.
async fn verify(keeper: &Keeper, new: &[Secret]) -> Result<bool, SealError> {
    for share in new {
        let status = keeper.verification_status().await?;
        let nonce = status.verification.unwrap().nonce.to_string();
        let step = keeper.offer_for_verification(&nonce, share).await?;
        if matches!(step, VerifyStep::Valid { .. }) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The text of a refusal.
fn why<T>(result: Result<T, SealError>) -> String {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn at_every_cut_either_the_old_shares_open_the_store_or_the_new_ones() {
    for verified in [true, false] {
        for keeps_last in [true, false] {
            for blind in [true, false] {
                for cut in 0..3 {
                    let name =
                        format!("verified {verified} kept {keeps_last} blind {blind} cut {cut}");
                    let (inner, _, old) = initialized(3, 2).await;
                    let storage = Arc::new(Dying {
                        inner: Arc::clone(&inner),
                        left: AtomicU64::new(cut),
                        keeps_last,
                        blind,
                        dead: AtomicBool::new(false),
                    });
                    let keeper = opened(storage, &old[..2]).await;
                    // Writes that lie before: of anybody, and of the keyring itself.
                    let write = Batch::new().put("m/b", Secret::new("other"));
                    let _ = keeper.barrier.apply(write).await;
                    let _ = keeper.barrier.rotate().await;
                    if keeper.begin_rekey(5, 3, verified).await.is_err() {
                        assert!(opens(&inner, &old[1..]).await, "{name}: old");
                        continue;
                    }
                    let (new, verification) = remake(&keeper, &old[1..]).await;
                    if verified {
                        assert!(
                            opens(&inner, &old[..2]).await,
                            "{name}: before it is verified"
                        );
                    }
                    let valid = match verification {
                        None => true,
                        Some(_) => verify(&keeper, &new[2..]).await.unwrap_or(false),
                    };
                    drop(keeper);
                    let (by_old, by_new) = (
                        opens(&inner, &old[..2]).await,
                        opens(&inner, &new[1..4]).await,
                    );
                    assert_ne!(by_old, by_new, "{name}: exactly one set opens");
                    assert!(!valid || by_new, "{name}: said to be valid");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_failed_write_is_tried_again_by_verifying() {
    for verified in [true, false] {
        let (storage, keeper, old) = initialized(3, 2).await;
        for share in &old[..2] {
            keeper.offer(share).await.unwrap();
        }
        keeper.begin_rekey(3, 2, verified).await.unwrap();
        storage.fail_after(0);
        let (new, verification) = remake(&keeper, &old).await;
        assert!(verification.is_some());
        assert!(matches!(
            verify(&keeper, &new).await,
            Err(SealError::Storage(_))
        ));
        storage.heal();
        assert!(opens(&storage, &old[..2]).await);
        assert!(verify(&keeper, &new).await.unwrap());
        assert!(!opens(&storage, &old[..2]).await);
        assert!(opens(&storage, &new[..2]).await);
        // This process goes on under the new root key.
        keeper.barrier.rotate().await.unwrap();
        assert!(opens(&storage, &new[1..]).await);
    }
}

#[tokio::test]
async fn new_shares_of_any_numbers_take_over() {
    let (storage, _, mut shares) = initialized(3, 2).await;
    let mut threshold = 2_usize;
    for (count, wanted) in [(5_u8, 3_u8), (1, 1), (4, 4), (2, 2)] {
        let keeper = opened(
            Arc::clone(&storage) as Arc<dyn Storage>,
            &shares[..threshold],
        )
        .await;
        let begun = keeper
            .begin_rekey(count.into(), wanted.into(), false)
            .await
            .unwrap();
        assert_eq!((begun.shares, begun.threshold), (count, wanted));
        assert_eq!(usize::from(begun.required), threshold);
        let (new, verification) = remake(&keeper, &shares).await;
        assert_eq!((new.len(), verification), (usize::from(count), None));
        let status = keeper.status().await.unwrap();
        assert_eq!((status.shares, status.threshold), (count, wanted));
        assert!(!opens(&storage, &shares[..threshold]).await, "{count} old");
        assert!(
            opens(&storage, &new[..usize::from(wanted)]).await,
            "{count} new"
        );
        (shares, threshold) = (new, wanted.into());
    }
}

#[tokio::test]
async fn a_change_of_shares_refuses_what_does_not_belong_to_it() {
    let (_, keeper, old) = initialized(3, 2).await;
    assert!(matches!(
        keeper.rekey_status().await,
        Err(SealError::Storage(StorageError::Sealed))
    ));
    for share in &old[..2] {
        keeper.offer(share).await.unwrap();
    }
    let share = &old[0];
    assert_eq!(
        why(keeper.offer_for_rekey("", share).await),
        "no barrier rekey in progress"
    );
    assert_eq!(
        why(keeper.offer_for_verification("", share).await),
        "no rekey verification in progress"
    );
    assert_eq!(
        why(keeper.restart_verification().await),
        "no rekey configuration found"
    );
    assert!(
        why(keeper.begin_rekey(3, 5, true).await)
            .ends_with("threshold cannot be larger than shares")
    );
    assert_eq!(keeper.rekey_status().await.unwrap().nonce, None);
    keeper.begin_rekey(3, 2, true).await.unwrap();
    assert_eq!(
        why(keeper.begin_rekey(3, 2, true).await),
        "rekey already in progress"
    );
    let nonce = keeper
        .rekey_status()
        .await
        .unwrap()
        .nonce
        .unwrap()
        .to_string();
    assert_eq!(
        why(keeper.offer_for_rekey("other", share).await),
        format!("incorrect nonce supplied; nonce for this rekey operation is \"{nonce}\"")
    );
    keeper.offer_for_rekey(&nonce, share).await.unwrap();
    assert_eq!(
        why(keeper.offer_for_rekey(&nonce, share).await),
        "given key has already been provided during this rekey operation"
    );
    assert!(why(keeper.offer_for_rekey(&nonce, &Secret::new([1; 32])).await).contains("33 bytes"));
    let mut wrong = old[1].expose().to_vec();
    wrong[3] ^= 1;
    let wrong = Secret::new(wrong);
    assert!(matches!(
        keeper.offer_for_rekey(&nonce, &wrong).await,
        Err(SealError::WrongShares)
    ));
    // The attempt goes on, from the start.
    let status = keeper.rekey_status().await.unwrap();
    assert_eq!(
        (status.progress, status.nonce.unwrap().to_string()),
        (0, nonce.clone())
    );
    let (new, _) = remake(&keeper, &old).await;
    assert!(
        why(keeper.offer_for_rekey(&nonce, share).await).contains("verification must be performed")
    );

    let first = keeper
        .verification_status()
        .await
        .unwrap()
        .verification
        .unwrap();
    let named = first.nonce.to_string();
    assert!(why(keeper.offer_for_verification(&nonce, &new[0]).await).contains(&named));
    keeper
        .offer_for_verification(&named, &new[0])
        .await
        .unwrap();
    assert!(
        why(keeper.offer_for_verification(&named, &new[0]).await).contains("already been provided")
    );
    // Old shares prove nothing of the new ones.
    assert_eq!(
        why(keeper.offer_for_verification(&named, &old[1]).await),
        "rekey verification failed; incorrect key shares supplied"
    );
    let again = keeper
        .verification_status()
        .await
        .unwrap()
        .verification
        .unwrap();
    assert!(again.nonce != first.nonce && again.progress == 0);
    let restarted = keeper
        .restart_verification()
        .await
        .unwrap()
        .verification
        .unwrap();
    assert_ne!(restarted.nonce, again.nonce);

    // Cancelled, the new shares are worthless.
    keeper.cancel_rekey().await.unwrap();
    assert_eq!(keeper.rekey_status().await.unwrap().nonce, None);
    keeper.seal().await;
    for share in &old[1..] {
        keeper.offer(share).await.unwrap();
    }
    assert!(reads_hello(&keeper).await);
}

#[tokio::test]
async fn a_quorum_allows_one_root_token() {
    let (_, keeper, shares) = initialized(3, 2).await;
    let otp = Secret::new("one-time");
    assert!(keeper.begin_root_token(otp.duplicate()).await.is_err());
    for share in &shares[..2] {
        keeper.offer(share).await.unwrap();
    }
    assert_eq!(
        why(keeper.offer_for_root_token("", &shares[0]).await),
        "no root generation in progress"
    );
    let begun = keeper.begin_root_token(otp.duplicate()).await.unwrap();
    assert_eq!((begun.progress, begun.required), (0, 2));
    assert!(why(keeper.begin_root_token(otp.duplicate()).await).contains("already in progress"));
    let nonce = begun.nonce.unwrap().to_string();
    assert!(why(keeper.offer_for_root_token("other", &shares[0]).await).contains(&nonce));
    keeper
        .offer_for_root_token(&nonce, &shares[0])
        .await
        .unwrap();
    assert!(
        why(keeper.offer_for_root_token(&nonce, &shares[0]).await)
            .contains("already been provided")
    );
    let (_, _, foreign) = initialized(3, 2).await;
    assert!(matches!(
        keeper.offer_for_root_token(&nonce, &foreign[1]).await,
        Err(SealError::WrongShares)
    ));
    assert_eq!(keeper.root_token_status().await.unwrap(), begun);
    keeper
        .offer_for_root_token(&nonce, &shares[2])
        .await
        .unwrap();
    match keeper
        .offer_for_root_token(&nonce, &shares[0])
        .await
        .unwrap()
    {
        RootTokenStep::Allowed { status, otp } => {
            assert_eq!((status.progress, otp.expose()), (2, &b"one-time"[..]));
        }
        RootTokenStep::More(_) => panic!("a quorum is not enough"),
    }
    // Once.
    assert_eq!(keeper.root_token_status().await.unwrap().nonce, None);
    assert!(
        keeper
            .offer_for_root_token(&nonce, &shares[0])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn sealing_forgets_what_was_under_way() {
    let (_, keeper, shares) = initialized(3, 2).await;
    let open = async || {
        for share in &shares[..2] {
            keeper.offer(share).await.unwrap();
        }
    };
    open().await;
    keeper
        .begin_root_token(Secret::new("one-time"))
        .await
        .unwrap();
    keeper.begin_rekey(3, 2, true).await.unwrap();
    let (_, verification) = remake(&keeper, &shares).await;
    assert!(verification.is_some());
    keeper.seal().await;
    open().await;
    assert_eq!(keeper.root_token_status().await.unwrap().nonce, None);
    assert_eq!(keeper.rekey_status().await.unwrap().nonce, None);
}

#[tokio::test]
async fn a_store_without_shares_says_so_and_rotates_its_root_key_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let seal = || Seal::KeyFile {
        path: path.clone(),
        generate: true,
    };
    let storage = Arc::new(InMemory::new());
    let (barrier, open) = keeper(&storage, seal());
    open.init(0, 0).await.unwrap();
    barrier
        .apply(Batch::new().put("m/a", Secret::new("hello")))
        .await
        .unwrap();
    assert!(matches!(
        open.rekey_status().await,
        Err(SealError::Unsupported(_))
    ));
    assert!(matches!(
        open.begin_root_token(Secret::new("otp")).await,
        Err(SealError::Unsupported(_))
    ));
    let before = storage.get(SEAL).await.unwrap().unwrap().value;
    open.rotate_root().await.unwrap();
    assert_ne!(storage.get(SEAL).await.unwrap().unwrap().value, before);
    let (_, restarted) = keeper(&storage, seal());
    restarted.auto_unseal().await.unwrap();
    assert!(reads_hello(&restarted).await);

    // With another file it would never open again.
    fs::write(&path, "ab".repeat(32)).unwrap();
    assert!(matches!(
        restarted.rotate_root().await,
        Err(SealError::KeyFile { .. })
    ));
    let (_, shamir, shares) = initialized(3, 2).await;
    for share in &shares[..2] {
        shamir.offer(share).await.unwrap();
    }
    assert!(matches!(
        shamir.rotate_root().await,
        Err(SealError::Unsupported(_))
    ));
}

#[tokio::test]
async fn the_wish_to_rotate_survives_new_shares() {
    let (storage, keeper, old) = initialized(3, 2).await;
    for share in &old[..2] {
        keeper.offer(share).await.unwrap();
    }
    let wish = AutoRotation {
        max_operations: 1_500_000,
        ..AutoRotation::default()
    };
    keeper.barrier.rotate_by_itself(wish).await.unwrap();
    keeper.begin_rekey(2, 2, false).await.unwrap();
    let (new, _) = remake(&keeper, &old).await;
    let restarted = opened(Arc::clone(&storage) as Arc<dyn Storage>, &new).await;
    assert_eq!(restarted.barrier.auto_rotation().unwrap(), wish);
}
