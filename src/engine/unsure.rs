//! Leases whose process died before it noted that their credential was made.
//!
//! Such a lease is safe, as it would end in its time, but there may be nothing behind it. So its upstream
//! is asked: where it knows no such credential, the lease is revoked; where it does, the lease stays, for
//! its caller may have got it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use daypass_contract::{BackendError, Presence};

use super::issue::SLACK;
use super::plane::Engine;
use crate::lease::{LeaseError, LeaseId};

/// Between two looks at the clock until whatever a dead process sent has arrived or never will.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two questions to an upstream that gives no answer, at most.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What became of the question.
enum Settled {
    Yes,
    /// The upstream of that mount gives no answer now.
    NotYet(String),
}

impl Engine {
    /// Settles what was left unsure when the engine started, until all is or the engine stops.
    pub(super) async fn settle_unsure(self: Arc<Self>) {
        let mut left = match self.leases.unsure().await {
            Ok(left) => left,
            Err(error) => {
                tracing::error!(%error, "leases in doubt cannot be read; they stay until their end");
                return;
            }
        };
        let mut pause = LOOK_AGAIN;
        while !left.is_empty() {
            if self.clock.now() >= self.started_at + SLACK {
                left = tokio::select! {
                    () = self.stop.cancelled() => return,
                    left = self.ask_all(left) => left,
                };
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Asks for each lease once; gives those that stay unsure.
    async fn ask_all(&self, ids: Vec<LeaseId>) -> Vec<LeaseId> {
        let (mut silent, mut left) = (HashSet::new(), Vec::new());
        for id in ids {
            match self.ask_for(&id, &silent).await {
                Ok(Settled::Yes) => continue,
                Ok(Settled::NotYet(mount)) => drop(silent.insert(mount)),
                Err(error) => {
                    tracing::warn!(lease = id.as_str(), %error, "whether its credential was made stays open");
                }
            }
            left.push(id);
        }
        left
    }

    async fn ask_for(&self, id: &LeaseId, silent: &HashSet<String>) -> Result<Settled, LeaseError> {
        let _turn = self.leases.turn(id).await;
        let Some(record) = self.leases.get(id).await? else {
            self.leases.unmark(id).await?;
            return Ok(Settled::Yes);
        };
        if record.revoking || self.clock.now() >= record.ends_at {
            return Ok(Settled::Yes);
        }
        let not_yet = Settled::NotYet(record.mount.clone());
        let Some(mount) = self.mounts.by_id(&record.mount) else {
            return Ok(not_yet);
        };
        if silent.contains(&record.mount) {
            return Ok(not_yet);
        }
        let asked = tokio::time::timeout(
            self.settings.upstream_timeout,
            mount.backend.verify(&record.handle),
        );
        let silence = |_| Err(BackendError::Indeterminate("no answer in time".into()));
        match asked.await.unwrap_or_else(silence) {
            Ok(Presence::Present) => self.leases.made(id),
            Ok(Presence::Absent) => {
                tracing::info!(
                    lease = id.as_str(),
                    "its credential was never made; it is revoked"
                );
                self.leases.mark_revoking(id, self.clock.now()).await?;
                mount.queue.wake();
            }
            Err(error) => {
                tracing::warn!(lease = id.as_str(), %error, "upstream does not say whether the credential was made");
                return Ok(not_yet);
            }
        }
        Ok(Settled::Yes)
    }
}
