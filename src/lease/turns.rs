//! One at a time for each lease: renewing it, and revoking it.
//!
//! A revocation that the end of a lease brings writes nothing before it reaches upstream (that would
//! double the writes of every expiry), so no revision tells a renewal that it has begun. They take turns
//! instead, and each looks at the record again when its turn comes: either the renewal is durable first,
//! and the revocation finds a later end; or the revocation has begun, and the renewal finds the end past
//! or the lease gone. Revocations that somebody asks for are marked in the record as well.
//!
//! Turns are of one process, like the queues' workers. A crash in one's turn leaves a record that is past
//! its end, which nothing renews.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::LeaseId;

/// The turns that are taken or waited for.
#[derive(Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<LeaseId, Arc<tokio::sync::Mutex<()>>>>>);

/// A lease's turn, until it is dropped.
#[must_use]
pub struct Turn {
    turns: Turns,
    id: LeaseId,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the turn of `id`.
    pub(super) async fn take(&self, id: &LeaseId) -> Turn {
        let turn = Arc::clone(self.lock().entry(id.clone()).or_default());
        // Made before the wait, so that giving up the wait cleans up too.
        let mut taken = Turn {
            turns: Self(Arc::clone(&self.0)),
            id: id.clone(),
            held: None,
        };
        taken.held = Some(turn.lock_owned().await);
        taken
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, Arc<tokio::sync::Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held = None;
        let mut turns = self.turns.lock();
        // Nobody else can join while the table is locked. Who waits holds a second reference.
        if turns
            .get(&self.id)
            .is_some_and(|turn| Arc::strong_count(turn) == 1)
        {
            turns.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(2);

    #[tokio::test]
    async fn turns_of_one_lease_exclude_each_other_and_leave_nothing() {
        let turns = Turns::default();
        let (a, b) = (LeaseId::from_text("m/a"), LeaseId::from_text("m/b"));
        let first = turns.take(&a).await;
        let other = turns.take(&b).await;
        let mut second = Box::pin(turns.take(&a));
        assert!(timeout(SOON, &mut second).await.is_err());
        assert!(timeout(SOON, turns.take(&a)).await.is_err(), "given up");
        drop(first);
        drop(second.await);
        assert_eq!(turns.lock().len(), 1);
        drop(other);
        assert!(turns.lock().is_empty());
    }
}
