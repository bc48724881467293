//! Revoking: leases by their queues, tokens with all that hangs on them.
//!
//! **Invariant:** a lease is removed only after its backend said `Revoked` or `AlreadyGone`, or after an
//! operator forced it. A failure gives it a later place on the agenda, with the reason.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use daypass_contract::{BackendError, Revocation};
use tokio::task::JoinSet;

use super::answer::Failure;
use super::mounts::Mount;
use super::plane::Engine;
use crate::audit::{AuditError, Event, Kind, Position};
use crate::identity::{Removal, TokenError, TokenId};
use crate::lease::{LeaseError, LeaseId, LeaseRecord, QueueHealth, Reaped, Reaper};
use crate::storage::StorageError;

/// Leases read from an index at a time.
const PAGE: usize = 500;
/// The longest between two tries while the upstream is away: it should not be noticed late.
const AWAY_RETRY: Duration = Duration::from_secs(15);
/// The longest between two tries of what the upstream refuses.
const REFUSED_RETRY: Duration = Duration::from_hours(1);

impl Engine {
    /// Asks the upstream once to end what a lease stands for.
    async fn end_upstream(
        &self,
        mount: &Mount,
        record: &LeaseRecord,
    ) -> Result<Revocation, BackendError> {
        let revoking = tokio::time::timeout(
            self.settings.upstream_timeout,
            mount.backend.revoke(&record.handle),
        );
        let outcome = revoking.await.unwrap_or_else(|_| {
            Err(BackendError::Indeterminate(
                "upstream did not answer in time".into(),
            ))
        });
        if !outcome.as_ref().is_err_and(is_away) {
            mount.queue.answered();
        }
        outcome
    }

    /// Tries once to revoke a lease, if it is on the agenda for now.
    async fn reap_lease(&self, mount: &Mount, id: &LeaseId) -> Result<Reaped, LeaseError> {
        let _turn = self.leases.turn(id).await;
        let record = match self.leases.get(id).await? {
            Some(record) if record.due_at() <= self.clock.now() => record,
            // Renewed or removed since the agenda was read.
            _ => return Ok(Reaped::Settled),
        };
        let outcome = self.end_upstream(mount, &record).await;
        let (now, made_by) = (self.clock.now(), self.made_by(id, &record));
        match outcome {
            // It may be in the making: what is not there yet is not gone.
            Ok(Revocation::AlreadyGone) if now < made_by => {
                self.leases.postpone(id, made_by).await?;
                mount.queue.expect(made_by);
                Ok(Reaped::Settled)
            }
            Ok(revocation) => {
                self.record(&ended(id, revocation)).await?;
                self.leases.remove(id).await?;
                metrics::counter!("daypass_leases_revoked_total", "mount" => mount.record().path.clone()).increment(1);
                Ok(Reaped::Settled)
            }
            Err(error) => {
                let away = is_away(&error);
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
        match self.reap_lease(&mount, id).await {
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

    /// Revokes every lease whose id begins with `prefix` now. `Ok(None)`: they are gone. `Ok(Some(reason))`: why one
    /// of those that are left could not be revoked yet; they are retried.
    pub async fn revoke_prefix_now(
        self: &Arc<Self>,
        prefix: &str,
    ) -> Result<Option<String>, Failure> {
        self.revoke_prefix(prefix).await?;
        let (mut left, mut after) = (None, None);
        loop {
            let ids = self.leases.under(prefix, after.as_ref(), PAGE).await?;
            let Some(last) = ids.last().cloned() else {
                return Ok(left);
            };
            after = Some(last);
            for some in ids.chunks(self.settings.revoke_concurrency.max(1)) {
                let mut running = JoinSet::new();
                for id in some {
                    let (engine, id) = (Arc::clone(self), id.clone());
                    running.spawn(async move {
                        match engine.revoke_lease(&id).await {
                            // The worker was faster.
                            Err(_) if matches!(engine.leases.get(&id).await, Ok(None)) => Ok(None),
                            outcome => outcome,
                        }
                    });
                }
                while let Some(done) = running.join_next().await {
                    // A panic is the backend's; its lease stays for the worker.
                    let reason = done.unwrap_or_else(|_| Ok(Some("its backend failed".into())))?;
                    left = left.or(reason);
                }
            }
        }
    }

    /// Forgets every lease whose id begins with `prefix`, whether its credential can be revoked or not.
    /// What could not be revoked is in the audit log by name. Returns how many were forgotten.
    pub async fn revoke_force(self: &Arc<Self>, prefix: &str) -> Result<usize, Failure> {
        let (mut count, mut after) = (0, None);
        // Where an upstream was found to be away, its other leases are forgotten without a try.
        let away = Arc::new(Mutex::new(HashMap::new()));
        loop {
            let ids = self.leases.under(prefix, after.as_ref(), PAGE).await?;
            let Some(last) = ids.last().cloned() else {
                break;
            };
            after = Some(last);
            self.leases
                .mark_all_revoking(&ids, self.clock.now())
                .await?;
            count += self.force_page(&ids, &away).await?;
        }
        for mount in self.mounts.all() {
            self.clear_away(&mount).await?;
        }
        Ok(count)
    }

    /// Ends or forgets a page of leases, with their records in the audit log made durable, and the leases
    /// removed, all at once.
    async fn force_page(
        self: &Arc<Self>,
        ids: &[LeaseId],
        away: &Arc<Mutex<HashMap<String, String>>>,
    ) -> Result<usize, Failure> {
        let mut forced = Vec::with_capacity(ids.len());
        for some in ids.chunks(self.settings.revoke_concurrency.max(1)) {
            let mut running = JoinSet::new();
            for id in some.iter().cloned() {
                let (engine, away) = (Arc::clone(self), Arc::clone(away));
                running.spawn(async move { (engine.force(&id, &away).await, id) });
            }
            while let Some(done) = running.join_next().await {
                // A panic is the backend's; its lease stays for the worker.
                if let Ok((Some(outcome), id)) = done {
                    forced.push((id, outcome));
                }
            }
        }
        let (mut position, mut count) = (None, 0);
        for (id, outcome) in &forced {
            position = Some(match outcome {
                Ok(revocation) => self.append(&ended(id, *revocation))?,
                Err(reason) => {
                    count += 1;
                    let error = format!("forgotten by force, credential may still exist: {reason}");
                    self.append(&Event {
                        what: "lease.forgotten",
                        lease_id: Some(id.as_str()),
                        error: Some(&error),
                        ..Event::default()
                    })?
                }
            });
        }
        if let Some(position) = position {
            self.durable(position).await?;
        }
        let ids: Vec<LeaseId> = forced.into_iter().map(|(id, _)| id).collect();
        self.leases.remove_all(&ids).await?;
        Ok(count)
    }

    /// Tries to end a lease that is to be forgotten. `Err` is why its credential may still exist; `None`:
    /// there is no such lease any more.
    async fn force(
        &self,
        id: &LeaseId,
        away: &Mutex<HashMap<String, String>>,
    ) -> Option<Result<Revocation, String>> {
        let _turn = self.leases.turn(id).await;
        let record = match self.leases.get(id).await {
            Ok(record) => record?,
            // Its keys cannot be told from a record that cannot be read: it stays.
            Err(_) => return None,
        };
        let known = || away.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = known().get(&record.mount) {
            return Some(Err(reason.clone()));
        }
        let Some(mount) = self.mounts.by_id(&record.mount) else {
            return Some(Err("its mount is not open".into()));
        };
        Some(match self.end_upstream(&mount, &record).await {
            Ok(Revocation::AlreadyGone) if self.clock.now() < self.made_by(id, &record) => {
                Err("it may still be in the making".into())
            }
            Ok(revocation) => {
                metrics::counter!("daypass_leases_revoked_total", "mount" => mount.record().path.clone()).increment(1);
                Ok(revocation)
            }
            Err(error) => {
                if is_away(&error) {
                    known().insert(record.mount, error.to_string());
                }
                Err(error.to_string())
            }
        })
    }

    /// Where leases were forgotten that an upstream was away for, nothing may wait for it any more.
    async fn clear_away(&self, mount: &Mount) -> Result<(), Failure> {
        if mount.queue.health() == QueueHealth::Well {
            return Ok(());
        }
        // Whatever waits for it is due soon, so it is among the first.
        let first = self.leases.of_mount(&mount.record().id, None, PAGE).await?;
        for (_, id) in first {
            if let Some(record) = self.leases.get(&id).await?
                && record.trouble.is_some()
            {
                return Ok(());
            }
        }
        mount.queue.answered();
        Ok(())
    }

    /// Revokes a token and, by `removal`, all below it: first none of them opens anything any more, then
    /// their leases are put on the agenda, then they are forgotten. A page of them shares each write.
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
                if removal == Removal::OrphanChildren {
                    self.tokens.orphan_all(&parent, &children).await?;
                    continue;
                }
                let marked = self.tokens.mark_all_revoked(&children, removal).await?;
                for (child, marked) in children.into_iter().zip(marked) {
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
        // Children go before their parents, so that a crash leaves no child without one.
        for page in tree.rchunks(PAGE) {
            self.schedule_leases_of(page).await?;
            let mut position = None;
            for token in page.iter().rev() {
                position = Some(self.append(&Event {
                    what: "token.revoked",
                    details: &[("accessor", token.accessor().as_str())],
                    ..Event::default()
                })?);
            }
            if let Some(position) = position {
                self.durable(position).await?;
            }
            let children_first: Vec<TokenId> = page.iter().rev().cloned().collect();
            self.tokens.remove_all(&children_first).await?;
        }
        Ok(())
    }

    async fn schedule_leases_of(&self, tokens: &[TokenId]) -> Result<(), Failure> {
        let mut ids = Vec::new();
        for token in tokens {
            let mut after: Option<LeaseId> = None;
            loop {
                let page = self.leases.of_token(token, after.as_ref(), PAGE).await?;
                let Some(last) = page.last().cloned() else {
                    break;
                };
                after = Some(last);
                ids.extend(page);
                if ids.len() >= PAGE {
                    self.schedule(&mut ids).await?;
                }
            }
        }
        self.schedule(&mut ids).await
    }

    pub(super) async fn schedule(&self, ids: &mut Vec<LeaseId>) -> Result<(), Failure> {
        if !ids.is_empty() {
            self.leases.mark_all_revoking(ids, self.clock.now()).await?;
            self.wake_queues();
            ids.clear();
        }
        Ok(())
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
        let position = self.append(event)?;
        self.durable(position).await
    }

    /// The record of what the engine did by itself; to be made durable with [`Engine::durable`].
    fn append(&self, event: &Event<'_>) -> Result<Position, StorageError> {
        self.audit.append(Kind::Event, event).map_err(unrecorded)
    }

    async fn durable(&self, position: Position) -> Result<(), StorageError> {
        self.audit.durable(position).await.map_err(unrecorded)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn unrecorded(error: AuditError) -> StorageError {
    StorageError::Unavailable(format!("audit log: {error}").into())
}

/// Whether an upstream did not get the question, or its answer was lost.
fn is_away(error: &BackendError) -> bool {
    matches!(
        error,
        BackendError::Unavailable { .. } | BackendError::Indeterminate(_)
    )
}

/// The record of a lease whose end was proved.
fn ended(id: &LeaseId, revocation: Revocation) -> Event<'_> {
    Event {
        what: "lease.revoked",
        lease_id: Some(id.as_str()),
        details: match revocation {
            Revocation::Revoked => &[("outcome", "revoked")],
            Revocation::AlreadyGone => &[("outcome", "already gone")],
        },
        ..Event::default()
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
        match engine.reap_lease(&mount, &id).await {
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
