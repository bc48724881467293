//! Issuing and renewing: lease first.
//!
//! **Invariant:** while a credential may still be in the making, that its upstream does not know it proves
//! nothing: until [`Engine::made_by`] its lease is kept.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_contract::{BackendError, Plan, Terms};

use super::answer::{Answer, Body, Failure, LeaseView};
use super::mounts::Mount;
use super::panics::{Panicked, caught};
use super::plane::Engine;
use crate::identity::{Principal, TokenId};
use crate::lease::{LeaseError, LeaseId, LeaseRecord, NewLease, clamp, renewed_end};
use crate::policy::Grant;

/// How long a lease may take to become durable before its credential is made, and how long an upstream
/// may go on with what it was sent before its caller gave up or died.
pub(super) const SLACK: Duration = Duration::from_secs(5);

impl Engine {
    /// When the credential of a lease exists or never will.
    pub(super) fn made_by(&self, id: &LeaseId, record: &LeaseRecord) -> SystemTime {
        if record.issued_at < self.started_at {
            // Whoever was issuing it is no more.
            self.started_at + SLACK
        } else if self.leases.is_in_the_making(id) {
            record.issued_at + SLACK + self.settings.upstream_timeout + SLACK
        } else {
            record.issued_at
        }
    }

    /// Carries out a plan for the principal that `grant` was made for: makes the lease durable, then the
    /// credential real. Whatever fails after the lease is durable, the lease is there to settle it.
    pub(super) async fn issue(
        &self,
        grant: &Grant,
        principal: Option<&Principal>,
        mount: &Arc<Mount>,
        plan: Plan,
    ) -> Result<Answer, Failure> {
        if let Some(principal) = principal {
            let path = grant.path();
            self.quotas
                .check_leases(&self.leases, path, principal)
                .await?;
        }
        let now = self.clock.now();
        let (ttl, max_ttl) = clamp(plan.ttl, mount.limits(self.settings.ttl));
        let ends_at = now + ttl;
        let renewable = plan.renewable;
        let token = principal.and_then(Principal::anchor).cloned();
        let mount_id = mount.record().id.clone();
        let (id, _) = self
            .leases
            .grant(NewLease {
                mount: &mount_id,
                path: grant.path().trim_end_matches('/'),
                handle: plan.handle.clone(),
                token: token.clone(),
                entity_id: principal.and_then(|principal| principal.record.entity_id.clone()),
                issued_at: now,
                ends_at,
                max_ends_at: now + max_ttl,
                renewable,
            })
            .await?;
        // A token revoked or a mount disabled since the decision has already scheduled its leases; this
        // one came too late for that and must not outlive it.
        if let Err(failure) = self.still_allowed(token.as_ref(), &mount_id, now).await {
            self.leases.remove(&id).await?;
            return Err(failure);
        }
        let handle = plan.handle.clone();
        let issued = tokio::time::timeout(
            self.settings.upstream_timeout,
            caught(plan.issue(Terms { ttl, ends_at })),
        );
        let issued = issued.await.map(|result| {
            let panicked =
                |Panicked| Err(BackendError::Indeterminate("the backend panicked".into()));
            result.unwrap_or_else(panicked)
        });
        match issued {
            Ok(Ok(credential)) => {
                self.leases.made(&id);
                match self.leases.get(&id).await? {
                    Some(record) if !record.revoking => {}
                    Some(_) => {
                        // Revoked while it was made: it does not wait for its turn any longer.
                        self.settle_unknown(&mount_id, &id).await?;
                        return Err(Failure::Denied);
                    }
                    None => {
                        // Forgotten by force meanwhile: nobody else would revoke it.
                        mount.backend.revoke(&handle).await?;
                        return Err(Failure::Denied);
                    }
                }
                // The mount may have been opened anew since the request came.
                if let Some(mount) = self.mounts.by_id(&mount_id) {
                    mount.queue.expect(ends_at);
                }
                metrics::counter!("daypass_leases_issued_total", "mount" => mount.record().path.clone()).increment(1);
                let lease = LeaseView {
                    id: id.as_str().to_owned(),
                    ttl,
                    renewable,
                };
                Ok(Answer {
                    body: Body::Lease(credential.data, lease),
                    warnings: credential.warnings,
                })
            }
            Ok(Err(error @ BackendError::Indeterminate(_))) => {
                self.settle_unknown(&mount_id, &id).await?;
                Err(error.into())
            }
            Err(_) => {
                self.settle_unknown(&mount_id, &id).await?;
                Err(Failure::Upstream(format!(
                    "upstream did not answer within {} s; what it may have made is being revoked",
                    self.settings.upstream_timeout.as_secs()
                )))
            }
            // The backend says that nothing was made.
            Ok(Err(error)) => {
                self.leases.remove(&id).await?;
                Err(error.into())
            }
        }
    }

    /// Whether what the decision rested on is still there, now that the lease is durable and whoever
    /// takes it away finds the lease.
    async fn still_allowed(
        &self,
        token: Option<&TokenId>,
        mount: &str,
        decided_at: SystemTime,
    ) -> Result<(), Failure> {
        if let Some(token) = token
            && self
                .tokens
                .get(token)
                .await?
                .is_none_or(|record| record.revoked)
        {
            return Err(Failure::Denied);
        }
        if self
            .mounts
            .by_id(mount)
            .is_none_or(|mount| mount.record().leaving)
        {
            return Err(Failure::Unavailable("the mount is being disabled".into()));
        }
        if self.clock.now() > decided_at + SLACK {
            return Err(Failure::Unavailable(
                "storage took too long to keep the lease; nothing was issued".into(),
            ));
        }
        Ok(())
    }

    async fn settle_unknown(&self, mount: &str, id: &LeaseId) -> Result<(), Failure> {
        match self.leases.mark_revoking(id, self.clock.now()).await {
            // Settled already.
            Ok(_) | Err(LeaseError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(mount) = self.mounts.by_id(mount) {
            mount.queue.wake();
        }
        Ok(())
    }

    /// Renews a lease by `increment` (its first period if none). The record follows the upstream when
    /// the end moves later, and precedes it when the end moves earlier, so that the lease never ends
    /// after what it stands for was promised.
    pub async fn renew_lease(
        &self,
        id: &LeaseId,
        increment: Option<Duration>,
    ) -> Result<(LeaseRecord, LeaseView), Failure> {
        // One that is about to be revoked need not wait for its turn to hear so.
        self.renewable(id).await?;
        let _turn = self.leases.turn(id).await;
        let (record, now) = self.renewable(id).await?;
        let mount = self
            .mounts
            .by_id(&record.mount)
            .ok_or_else(|| Failure::Unavailable("the mount of this lease is not open".into()))?;
        let increment = increment
            .filter(|increment| !increment.is_zero())
            .unwrap_or_else(|| record.first_ttl());
        let ends_at = renewed_end(now, increment, Some(record.max_ends_at));
        let terms = Terms {
            ttl: ends_at.duration_since(now).unwrap_or_default(),
            ends_at,
        };
        let shorter = ends_at < record.ends_at;
        if shorter {
            self.leases.set_end(id, ends_at, now).await?;
        }
        let renewed = tokio::time::timeout(
            self.settings.upstream_timeout,
            mount.backend.renew(&record.handle, terms),
        );
        match renewed.await {
            Ok(result) => result?,
            Err(_) => {
                return Err(Failure::Upstream(
                    "upstream did not answer; the lease keeps its end".into(),
                ));
            }
        }
        // The upstream may have taken until the old end, when revoking began.
        let now = self.clock.now();
        let record = if shorter {
            self.leases.get(id).await?.ok_or(LeaseError::NotFound)?
        } else {
            self.leases.set_end(id, ends_at, now).await?
        };
        mount.queue.expect(ends_at);
        let view = LeaseView {
            id: id.as_str().to_owned(),
            ttl: terms.ttl,
            renewable: record.renewable,
        };
        Ok((record, view))
    }
    /// The record of a lease that can be renewed, and when that was so.
    async fn renewable(&self, id: &LeaseId) -> Result<(LeaseRecord, SystemTime), Failure> {
        let now = self.clock.now();
        let record = self.leases.get(id).await?.ok_or(LeaseError::NotFound)?;
        if !record.renewable {
            return Err(LeaseError::NotRenewable.into());
        }
        if record.revoking || now >= record.ends_at {
            return Err(LeaseError::NotFound.into());
        }
        Ok((record, now))
    }
}
