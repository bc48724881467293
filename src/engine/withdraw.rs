//! What becomes of what an entity holds, once it may hold nothing: disabled, deleted, or past its end.
//!
//! **Invariant:** the write that takes its standing from an entity puts it on an agenda in the same batch.
//! It leaves the agenda only after what it held is revoked.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::answer::Failure;
use super::plane::Engine;
use crate::identity::{Entity, IdentityError, Written};
use crate::lease::{Reaped, Reaper};
use crate::storage::StorageError;

impl Engine {
    /// Revokes what these entities hold, after a write of identity said that they may hold nothing. Where
    /// that fails, the worker goes on with it.
    pub async fn withdraw(&self, entities: &[String]) -> Result<(), Failure> {
        self.identity_queue.wake();
        for entity in entities {
            self.revoke_all_of_entity(entity).await?;
        }
        Ok(())
    }

    /// The same for a written entity; and the worker learns when it ends.
    pub async fn follow(&self, written: &Written<Entity>) -> Result<(), Failure> {
        if let Some(end) = written.record.ends_at {
            self.identity_queue.expect(end);
        }
        if written.withdrawn.is_empty() {
            return Ok(());
        }
        self.withdraw(&written.withdrawn).await
    }
}

/// Takes from entities what they hold.
pub(super) struct EntityReaper {
    engine: Weak<Engine>,
}

impl EntityReaper {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        Self {
            engine: Arc::downgrade(engine),
        }
    }
}

#[async_trait]
impl Reaper for EntityReaper {
    async fn reap(&self, subject: &str) -> Result<Reaped, StorageError> {
        let Some(engine) = self.engine.upgrade() else {
            return Err(StorageError::Sealed);
        };
        let (entity, withdrawn) = engine.identity.due(subject).await.map_err(storage)?;
        if withdrawn {
            let revoked = engine.revoke_all_of_entity(entity).await;
            revoked.map_err(|failure| StorageError::Unavailable(failure.to_string().into()))?;
        }
        engine.identity.settle(subject).await.map_err(storage)?;
        Ok(Reaped::Settled)
    }
}

/// Between two looks at the keys of identity tokens, at most: one may have been made meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Rotates the keys of identity tokens when their time comes.
pub(super) async fn keep_signing_keys(engine: Weak<Engine>, stop: CancellationToken) {
    loop {
        let Some(engine) = engine.upgrade() else {
            return;
        };
        // A stop interrupts it as a crash would: a rotation is one write.
        let maintained = tokio::select! {
            () = stop.cancelled() => return,
            maintained = engine.oidc.maintain() => maintained,
        };
        let now = engine.clock.now();
        drop(engine);
        let pause = match maintained {
            Ok(next) => next
                .and_then(|next| next.duration_since(now).ok())
                .unwrap_or(LOOK_AGAIN)
                .clamp(Duration::from_secs(1), LOOK_AGAIN),
            Err(error) => {
                tracing::warn!(%error, "keys of identity tokens could not be rotated");
                LOOK_AGAIN
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn storage(error: IdentityError) -> StorageError {
    match error {
        IdentityError::Storage(error) => error,
        other => StorageError::Unavailable(other.to_string().into()),
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Storage(error) => error.into(),
            IdentityError::Invalid(text) => Self::Invalid(text),
            IdentityError::Disabled => Self::Denied,
            IdentityError::Broken(_) => Self::Internal(error.to_string()),
        }
    }
}
