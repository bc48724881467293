//! Revoking: leases by their queues, tokens with all that hangs on them.
//!
//! **Invariant:** a lease is removed only after its backend said `Revoked` or `AlreadyGone`, or after an
//! operator forced it. A failure gives it a later place on the agenda, with the reason.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use daypass_contract::{BackendError, Revocation};

use super::answer::Failure;
use super::mounts::Mount;
use super::plane::Engine;
use crate::audit::{Event, Kind};
use crate::identity::{Removal, TokenError, TokenId};
use crate::lease::{LeaseError, LeaseId, LeaseRecord, Reaped, Reaper};
use crate::storage::StorageError;

/// Leases read from an index at a time.
const PAGE: usize = 500;
/// The longest between two tries while the upstream is away: it should not be noticed late.
const AWAY_RETRY: Duration = Duration::from_secs(15);
/// The longest between two tries of what the upstream refuses.
const REFUSED_RETRY: Duration = Duration::from_hours(1);

impl Engine {
    /// Tries once to revoke a lease that is on the agenda for now.
    async fn reap_lease(
        &self,
        mount: &Mount,
        id: &LeaseId,
        record: &LeaseRecord,
    ) -> Result<Reaped, LeaseError> {
        let revoking = tokio::time::timeout(
            self.settings.upstream_timeout,
            mount.backend.revoke(&record.handle),
        );
        let outcome = revoking.await.unwrap_or_else(|_| {
            Err(BackendError::Indeterminate(
                "upstream did not answer in time".into(),
            ))
        });
        let (now, made_by) = (self.clock.now(), self.made_by(id, record));
        match outcome {
            // It may be in the making: what is not there yet is not gone.
            Ok(Revocation::AlreadyGone) if now < made_by => {
                self.leases.postpone(id, made_by).await?;
                mount.queue.expect(made_by);
                Ok(Reaped::Settled)
            }
            Ok(revocation) => {
                let what = match revocation {
                    Revocation::Revoked => "revoked",
                    Revocation::AlreadyGone => "already gone",
                };
                self.record(&Event {
                    what: "lease.revoked",
                    lease_id: Some(id.as_str()),
                    details: &[("outcome", what)],
                    ..Event::default()
                })
                .await?;
                self.leases.remove(id).await?;
                metrics::counter!("daypass_leases_revoked_total", "mount" => mount.record().path.clone()).increment(1);
                Ok(Reaped::Settled)
            }
            Err(error) => {
                let away = matches!(
                    error,
                    BackendError::Unavailable { .. } | BackendError::Indeterminate(_)
                );
                let reason = error.to_string();
                metrics::counter!("daypass_revocation_failures_total", "mount" => mount.record().path.clone()).increment(1);
                let after = self.settings.irrevocable_after;
                let longest = if away { AWAY_RETRY } else { REFUSED_RETRY };
                let noted = self
                    .leases
                    .note_trouble(id, &reason, after, now, |attempts| {
                        now + retry_after(attempts, longest)
                    })
                    .await?;
                mount.queue.expect(noted.due_at());
                let attempts = noted.trouble.as_ref().map_or(1, |trouble| trouble.attempts);
                tracing::warn!(
                    lease = id.as_str(),
                    attempts,
                    reason,
                    "lease could not be revoked; it is retried"
                );
                if attempts == after {
                    self.record(&Event {
                        what: "lease.irrevocable",
                        lease_id: Some(id.as_str()),
                        error: Some(&reason),
                        ..Event::default()
                    })
                    .await?;
                }
                Ok(if away {
                    Reaped::UpstreamAway
                } else {
                    Reaped::Settled
                })
            }
        }
    }

    /// Revokes a lease now. `Ok(None)`: it is gone. `Ok(Some(reason))`: it could not be revoked yet, and is
    /// retried.
    pub async fn revoke_lease(&self, id: &LeaseId) -> Result<Option<String>, Failure> {
        let record = self.leases.mark_revoking(id, self.clock.now()).await?;
        let Some(mount) = self.mounts.by_id(&record.mount) else {
            return Ok(Some("its mount is not open".into()));
        };
        match self.reap_lease(&mount, id, &record).await {
            // The worker was faster.
            Ok(_) | Err(LeaseError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        let left = self.leases.get(id).await?;
        Ok(left.map(|record| {
            record.trouble.map_or_else(
                || "its credential may still be in the making".to_owned(),
                |trouble| trouble.reason,
            )
        }))
    }

    /// Puts a lease on the agenda for now whose credential nobody was given. Where that fails, it stays
    /// until its end.
    pub(super) async fn revoke_unseen(&self, id: &LeaseId) {
        if let Err(error) = self.leases.mark_revoking(id, self.clock.now()).await {
            tracing::error!(lease = id.as_str(), %error, "a lease that nobody was given stays until its end");
        }
        self.wake_queues();
    }

    /// Puts every lease whose id begins with `prefix` on the agenda for now. Returns how many.
    pub async fn revoke_prefix(&self, prefix: &str) -> Result<usize, Failure> {
        let mut count = 0;
        let mut after: Option<LeaseId> = None;
        loop {
            let ids = self.leases.under(prefix, after.as_ref(), PAGE).await?;
            let Some(last) = ids.last().cloned() else {
                return Ok(count);
            };
            count += self
                .leases
                .mark_all_revoking(&ids, self.clock.now())
                .await?;
            after = Some(last);
            self.wake_queues();
        }
    }

    /// Forgets every lease whose id begins with `prefix`, whether its credential can be revoked or not.
    /// What could not be revoked is in the audit log by name. Returns how many were forgotten.
    pub async fn revoke_force(&self, prefix: &str) -> Result<usize, Failure> {
        let mut count = 0;
        let mut after: Option<LeaseId> = None;
        loop {
            let ids = self.leases.under(prefix, after.as_ref(), PAGE).await?;
            let Some(last) = ids.last().cloned() else {
                return Ok(count);
            };
            after = Some(last);
            for id in ids {
                let outcome = match self.revoke_lease(&id).await {
                    Ok(None) | Err(Failure::Invalid(_)) => continue,
                    Ok(Some(reason)) => {
                        format!("forgotten by force, credential may still exist: {reason}")
                    }
                    Err(error) => {
                        format!("forgotten by force, credential may still exist: {error}")
                    }
                };
                self.record(&Event {
                    what: "lease.forgotten",
                    lease_id: Some(id.as_str()),
                    error: Some(&outcome),
                    ..Event::default()
                })
                .await?;
                self.leases.remove(&id).await?;
                count += 1;
            }
        }
    }

    /// Revokes a token and, by `removal`, all below it: first none of them opens anything any more, then
    /// their leases are put on the agenda, then they are forgotten.
    pub async fn revoke_token(&self, id: &TokenId, removal: Removal) -> Result<(), Failure> {
        let Some(removal) = self.tokens.mark_revoked(id, removal).await? else {
            return Ok(());
        };
        let mut tree = vec![id.clone()];
        let mut next = 0;
        while let Some(parent) = tree.get(next).cloned() {
            next += 1;
            let mut after: Option<TokenId> = None;
            loop {
                let children = self.tokens.children(&parent, after.as_ref(), PAGE).await?;
                let Some(last) = children.last().cloned() else {
                    break;
                };
                after = Some(last);
                for child in children {
                    match removal {
                        Removal::OrphanChildren => self.tokens.orphan(&parent, &child).await?,
                        Removal::WithChildren => {
                            let marked = self.tokens.mark_revoked(&child, removal).await?;
                            match marked {
                                // Whoever revokes it alone gives its children away.
                                Some(Removal::OrphanChildren) => {
                                    Box::pin(self.revoke_token(&child, removal)).await?;
                                }
                                Some(Removal::WithChildren) | None => tree.push(child),
                            }
                        }
                    }
                }
            }
        }
        // Children go before their parents, so that a crash leaves no child without one.
        for token in tree.iter().rev() {
            self.schedule_leases_of(token).await?;
            self.record(&Event {
                what: "token.revoked",
                details: &[("accessor", token.accessor().as_str())],
                ..Event::default()
            })
            .await?;
            self.tokens.remove(token).await?;
        }
        Ok(())
    }

    async fn schedule_leases_of(&self, token: &TokenId) -> Result<(), Failure> {
        let mut after: Option<LeaseId> = None;
        loop {
            let ids = self.leases.of_token(token, after.as_ref(), PAGE).await?;
            let Some(last) = ids.last().cloned() else {
                return Ok(());
            };
            after = Some(last);
            self.leases
                .mark_all_revoking(&ids, self.clock.now())
                .await?;
            self.wake_queues();
        }
    }

    /// Makes every worker look at what is due.
    pub fn wake_queues(&self) {
        self.token_queue.wake();
        for mount in self.mounts.all() {
            mount.queue.wake();
        }
    }

    /// Records, durably, what the engine did by itself. A lease or token is forgotten only after this.
    async fn record(&self, event: &Event<'_>) -> Result<(), StorageError> {
        let unrecorded = |error| StorageError::Unavailable(format!("audit log: {error}").into());
        let position = self.audit.append(Kind::Event, event).map_err(unrecorded)?;
        self.audit.durable(position).await.map_err(unrecorded)
    }
}

fn retry_after(attempts: u32, longest: Duration) -> Duration {
    Duration::from_secs(1)
        .saturating_mul(1 << attempts.saturating_sub(1).min(16))
        .min(longest)
}

/// Ends leases of one mount.
pub(super) struct LeaseReaper {
    engine: Weak<Engine>,
    mount: Weak<Mount>,
}

impl LeaseReaper {
    pub(super) fn new(engine: &Arc<Engine>, mount: &Arc<Mount>) -> Self {
        Self {
            engine: Arc::downgrade(engine),
            mount: Arc::downgrade(mount),
        }
    }
}

#[async_trait]
impl Reaper for LeaseReaper {
    async fn reap(&self, subject: &str) -> Result<Reaped, StorageError> {
        let (Some(engine), Some(mount)) = (self.engine.upgrade(), self.mount.upgrade()) else {
            return Err(StorageError::Sealed);
        };
        let id = LeaseId::from_text(subject);
        let result = match engine.leases.get(&id).await {
            Ok(Some(record)) if record.due_at() <= engine.clock.now() => {
                engine.reap_lease(&mount, &id, &record).await
            }
            // Renewed or removed since the agenda was read.
            Ok(_) => return Ok(Reaped::Settled),
            Err(error) => Err(error),
        };
        match result {
            Ok(reaped) => Ok(reaped),
            Err(LeaseError::NotFound) => Ok(Reaped::Settled),
            Err(LeaseError::Storage(error)) => Err(error),
            Err(error @ (LeaseError::Broken | LeaseError::NotRenewable)) => {
                Err(StorageError::Damaged {
                    what: subject.to_owned(),
                    reason: error.to_string(),
                })
            }
        }
    }
}

/// Ends tokens.
pub(super) struct TokenReaper {
    engine: Weak<Engine>,
}

impl TokenReaper {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        Self {
            engine: Arc::downgrade(engine),
        }
    }
}

#[async_trait]
impl Reaper for TokenReaper {
    async fn reap(&self, subject: &str) -> Result<Reaped, StorageError> {
        let Some(engine) = self.engine.upgrade() else {
            return Err(StorageError::Sealed);
        };
        let id = TokenId::from_key(subject);
        let due = match engine.tokens.get(&id).await {
            Ok(Some(record)) => record.ends_at.is_some_and(|end| end <= engine.clock.now()),
            Ok(None) => false,
            Err(TokenError::Storage(error)) => return Err(error),
            Err(error) => {
                return Err(StorageError::Damaged {
                    what: subject.to_owned(),
                    reason: error.to_string(),
                });
            }
        };
        if due && let Err(error) = engine.revoke_token(&id, Removal::WithChildren).await {
            return Err(StorageError::Unavailable(error.to_string().into()));
        }
        Ok(Reaped::Settled)
    }
}
