//! [`PasswordHash`]: a password as it is kept, by Argon2id.
//!
//! # Invariants
//!
//! * Hashing runs on a blocking thread, on a few of them at once, with few waiting: it takes memory and time
//!   by intention, and a flood of logins must not take all of either.
//! * Checking a password takes the same time whether there is a hash to compare with or not.

use std::fmt;
use std::time::Duration;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use daypass_contract::{BackendError, Entropy, Secret};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

/// Room for hashing passwords.
struct Room {
    /// Those being hashed, 19 MiB and some 20 ms of a core each.
    turns: Semaphore,
    /// Those being hashed or waiting for it. More are turned away at once: whoever waits too long gives up,
    /// and what was hashed for it was in vain.
    places: Semaphore,
}

/// That of the whole process.
static ROOM: Room = Room {
    turns: Semaphore::const_new(4),
    places: Semaphore::const_new(64),
};

const SALT: usize = 16;
const HASH: usize = 32;

/// What it costs to try a password (OWASP's first choice for Argon2id: 19 MiB, 2 passes, 1 lane).
const TODAY: Cost = Cost {
    memory_kib: 19 * 1024,
    passes: 2,
    lanes: 1,
};

/// What it costs to try a password. Kept with each hash, so that it can grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cost {
    pub(super) memory_kib: u32,
    pub(super) passes: u32,
    pub(super) lanes: u32,
}

/// A password's hash with what it takes to compute it again.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct PasswordHash {
    cost: Cost,
    salt: String,
    hash: String,
}

/// A hash can be attacked offline: it is shown to no one.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

impl PasswordHash {
    /// Hashes a new password.
    pub(super) async fn of(password: &Secret, entropy: &dyn Entropy) -> Result<Self, BackendError> {
        Self::at_cost(password, entropy.bytes::<SALT>(), TODAY).await
    }

    pub(super) async fn at_cost(
        password: &Secret,
        salt: [u8; SALT],
        cost: Cost,
    ) -> Result<Self, BackendError> {
        let hash = ROOM.compute(password, salt.to_vec(), cost).await?;
        Ok(Self {
            cost,
            salt: hex::encode(salt),
            hash: hex::encode(hash.expose()),
        })
    }

    /// Whether `password` is the one that was hashed; without a hash it never is, as late.
    pub(super) async fn admits(
        hash: Option<&Self>,
        password: &Secret,
    ) -> Result<bool, BackendError> {
        let damaged = |_| BackendError::Internal("password hash is not readable".into());
        let (salt, cost, want) = match hash {
            Some(hash) => (
                hex::decode(&hash.salt).map_err(damaged)?,
                hash.cost,
                hex::decode(&hash.hash).map_err(damaged)?,
            ),
            None => (vec![0; SALT], TODAY, vec![0; HASH]),
        };
        let got = ROOM.compute(password, salt, cost).await?;
        let same = verify_slices_are_equal(got.expose(), &want).is_ok();
        Ok(same && hash.is_some())
    }

    /// Whether a password hashed today would cost more to try.
    pub(super) fn is_outgrown(&self) -> bool {
        self.cost != TODAY
    }
}

impl Room {
    async fn compute(
        &'static self,
        password: &Secret,
        salt: Vec<u8>,
        cost: Cost,
    ) -> Result<Secret, BackendError> {
        let failed = || BackendError::Internal("password cannot be hashed".into());
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(HASH));
        let argon2 = Argon2::new(
            Algorithm::Argon2id,
            Version::V0x13,
            params.map_err(|_| failed())?,
        );
        let _place = self
            .places
            .try_acquire()
            .map_err(|_| BackendError::Unavailable {
                retry_after: Some(Duration::from_secs(1)),
                source: "too many passwords are being checked".into(),
            })?;
        let turn = self.turns.acquire().await.map_err(|_| failed())?;
        let password = password.duplicate();
        let hashing = tokio::task::spawn_blocking(move || {
            // Held until the work ends, even if nobody waits for it any more.
            let _turn = turn;
            let mut hash = vec![0; HASH];
            let done = argon2.hash_password_into(password.expose(), &salt, &mut hash);
            done.map(|()| Secret::new(hash))
        });
        match hashing.await {
            Ok(Ok(hash)) => Ok(hash),
            Ok(Err(_)) | Err(_) => Err(failed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use daypass_conformance::SeededEntropy;

    use super::*;

    #[tokio::test]
    async fn only_the_password_itself_is_admitted() {
        let entropy = SeededEntropy::new(1);
        let password = Secret::new("hunter2");
        let hash = PasswordHash::of(&password, &entropy).await.unwrap();
        let stored = serde_json::to_string(&hash).unwrap();
        assert!(!stored.contains("hunter2"), "{stored}");
        let hash: PasswordHash = serde_json::from_str(&stored).unwrap();
        assert!(!hash.is_outgrown());
        for (text, want) in [
            ("hunter2", true),
            ("hunter3", false),
            ("", false),
            ("hunter", false),
        ] {
            let password = Secret::new(text);
            let admitted = PasswordHash::admits(Some(&hash), &password).await.unwrap();
            assert_eq!(admitted, want, "{text}");
            assert!(
                !PasswordHash::admits(None, &password).await.unwrap(),
                "{text}"
            );
        }
        let other = PasswordHash::of(&password, &entropy).await.unwrap();
        assert_ne!((other.salt, other.hash), (hash.salt, hash.hash));
    }

    #[tokio::test]
    async fn an_outgrown_hash_is_known_as_such() {
        let cost = Cost {
            memory_kib: 64,
            passes: 1,
            lanes: 1,
        };
        let password = Secret::new("p");
        let hash = PasswordHash::at_cost(&password, [7; SALT], cost)
            .await
            .unwrap();
        assert!(hash.is_outgrown());
        assert!(PasswordHash::admits(Some(&hash), &password).await.unwrap());
    }

    #[tokio::test]
    async fn the_hash_is_argon2id() {
        // As argon2-cffi 25.1 computes them.
        let small = Cost {
            memory_kib: 64,
            passes: 1,
            lanes: 1,
        };
        let cases = [
            (
                "p",
                small,
                "4b4b2985d8adc0682208458b14c6383215059fb3f8b9599828822658d9e66ed8",
            ),
            (
                "hunter2",
                TODAY,
                "60ac909ce0b9575546054522cb7f9c620d40094c063e73fa54c460474bdd0560",
            ),
        ];
        for (password, cost, want) in cases {
            let secret = Secret::new(password);
            let hash = PasswordHash::at_cost(&secret, [7; SALT], cost).await;
            assert_eq!(hash.unwrap().hash, want, "{password}");
        }
    }

    #[tokio::test]
    async fn a_flood_is_turned_away_and_leaves_nothing_behind() {
        static ROOM: Room = Room {
            turns: Semaphore::const_new(1),
            places: Semaphore::const_new(3),
        };
        let small = Cost {
            memory_kib: 4096,
            passes: 1,
            lanes: 1,
        };
        let attempt = async || ROOM.compute(&Secret::new("p"), vec![0; SALT], small).await;
        // One after the other, each is polled before the next, and none is done by then.
        let (one, two, three, four) = tokio::join!(attempt(), attempt(), attempt(), attempt());
        assert!(one.is_ok() && two.is_ok() && three.is_ok());
        assert!(matches!(four, Err(BackendError::Unavailable { .. })));
        assert!(attempt().await.is_ok());
        assert_eq!(
            (
                ROOM.turns.available_permits(),
                ROOM.places.available_permits()
            ),
            (1, 3)
        );
    }
}
