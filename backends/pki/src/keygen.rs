//! Generating keys without holding up others: an RSA key takes a core for up to a second.

use std::sync::Arc;
use std::time::Duration;

use daypass_certs::{KeyAlgorithm, KeyPair};
use daypass_contract::BackendError;
use tokio::sync::{Semaphore, TryAcquireError};

use crate::error::internal;

/// How many requests may wait for a slow key. More are turned away: they would time out in the queue.
const SEATS: usize = 64;

/// A bounded pool for slow keys; others are generated where they are asked for.
pub(crate) struct Keygen {
    seats: Semaphore,
    running: Arc<Semaphore>,
}

impl Keygen {
    pub(crate) fn new() -> Self {
        // Half of the cores, so that signing goes on beside.
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            seats: Semaphore::new(SEATS),
            running: Arc::new(Semaphore::new((cores / 2).max(1))),
        }
    }

    /// A new key.
    pub(crate) async fn generate(&self, algorithm: KeyAlgorithm) -> Result<KeyPair, BackendError> {
        if !algorithm.is_slow_to_generate() {
            return KeyPair::generate(algorithm).map_err(internal);
        }
        let _seat = self.seats.try_acquire().map_err(|error| match error {
            TryAcquireError::NoPermits => BackendError::Unavailable {
                retry_after: Some(Duration::from_secs(5)),
                source: "too many RSA keys are being generated; ask for key_type ec, or try again"
                    .into(),
            },
            TryAcquireError::Closed => closed(),
        })?;
        let permit = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|_| closed())?;
        let generated = tokio::task::spawn_blocking(move || {
            // Held by the thread: a caller who goes away does not free the core.
            let _permit = permit;
            KeyPair::generate(algorithm)
        });
        let generated = generated
            .await
            .map_err(|error| BackendError::Internal(error.into()))?;
        generated.map_err(internal)
    }
}

fn closed() -> BackendError {
    BackendError::Internal("key generation is closed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slow_keys_wait_in_a_queue_with_an_end_and_fast_ones_do_not() {
        let keygen = Keygen::new();
        let _taken = keygen
            .seats
            .try_acquire_many(u32::try_from(SEATS).unwrap())
            .unwrap();
        let refused = keygen.generate(KeyAlgorithm::Rsa2048).await.err().unwrap();
        assert!(
            matches!(refused, BackendError::Unavailable { .. }),
            "{refused}"
        );
        assert!(keygen.generate(KeyAlgorithm::EcP256).await.is_ok());
    }
}
