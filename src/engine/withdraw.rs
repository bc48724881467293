//! What becomes of what an entity holds, once it may hold nothing: disabled, deleted, or past its end.
//!
//! **Invariant:** the write that takes its standing from an entity puts it on an agenda in the same batch.
//! It leaves the agenda only after what it held is revoked.

use std::sync::{Arc, Weak};

use async_trait::async_trait;

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
