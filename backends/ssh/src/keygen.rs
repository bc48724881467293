//! Generating keys without holding up others: an RSA key takes a core for up to a second.

use std::sync::Arc;
use std::time::Duration;

use daypass_contract::{BackendError, Entropy};
use tokio::sync::{Semaphore, TryAcquireError};

use crate::internal;
use crate::key::{KeyPair, Kind};

/// How many requests may wait for an RSA key. More are turned away: they would time out in the queue.
const SEATS: usize = 64;

/// A bounded pool for RSA keys; others are made where they are asked for.
pub(crate) struct Keygen {
    entropy: Arc<dyn Entropy>,
    seats: Semaphore,
    running: Arc<Semaphore>,
}

impl Keygen {
    pub(crate) fn new(entropy: Arc<dyn Entropy>) -> Self {
        // Half of the cores, so that signing goes on beside.
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            entropy,
            seats: Semaphore::new(SEATS),
            running: Arc::new(Semaphore::new((cores / 2).max(1))),
        }
    }

    /// A new key pair.
    pub(crate) async fn generate(&self, kind: Kind) -> Result<KeyPair, BackendError> {
        let Kind::Rsa(_) = kind else {
            return KeyPair::generate(kind, &*self.entropy);
        };
        let _seat = self.seats.try_acquire().map_err(|error| match error {
            TryAcquireError::NoPermits => BackendError::Unavailable {
                retry_after: Some(Duration::from_secs(5)),
                source: "too many RSA keys are being made; ask for key_type ed25519, or try again"
                    .into(),
            },
            TryAcquireError::Closed => internal(error),
        })?;
        let permit = Arc::clone(&self.running).acquire_owned().await;
        let permit = permit.map_err(internal)?;
        let entropy = Arc::clone(&self.entropy);
        let generated = tokio::task::spawn_blocking(move || {
            // Held by the thread: a caller who goes away does not free the core.
            let _permit = permit;
            KeyPair::generate(kind, &*entropy)
        });
        generated.await.map_err(internal)?
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::KeySize;
    use daypass_conformance::SeededEntropy;

    use super::*;

    #[tokio::test]
    async fn rsa_keys_wait_in_a_queue_with_an_end_and_others_do_not() {
        let keygen = Keygen::new(Arc::new(SeededEntropy::new(1)));
        let _taken = keygen
            .seats
            .try_acquire_many(u32::try_from(SEATS).unwrap())
            .unwrap();
        let refused = keygen.generate(Kind::Rsa(KeySize::Rsa2048)).await;
        assert!(matches!(
            refused.err(),
            Some(BackendError::Unavailable { .. })
        ));
        assert!(keygen.generate(Kind::Ed25519).await.is_ok());
    }
}
