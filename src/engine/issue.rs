//! Issuing and renewing: lease first.

use std::sync::Arc;

use daypass_contract::{BackendError, Plan, Terms};

use super::answer::{Answer, Body, Failure, LeaseView};
use super::mounts::Mount;
use super::plane::Engine;
use crate::identity::Principal;
use crate::lease::{LeaseId, LeaseRecord, NewLease, clamp, renewed_end};
use crate::policy::Grant;

impl Engine {
    /// Carries out a plan for the principal that `grant` was made for: makes the lease durable, then the
    /// credential real. Whatever fails after the lease is durable, the lease is there to settle it.
    pub(super) async fn issue(
        &self,
        grant: &Grant,
        principal: Option<&Principal>,
        mount: &Arc<Mount>,
        plan: Plan,
    ) -> Result<Answer, Failure> {
        let now = self.clock.now();
        let (ttl, max_ttl) = clamp(plan.ttl, mount.limits(self.settings.ttl));
        let ends_at = now + ttl;
        let renewable = plan.renewable;
        let token = principal.and_then(Principal::anchor).cloned();
        let (id, _) = self
            .leases
            .grant(NewLease {
                mount: &mount.record().id,
                path: grant.path(),
                handle: plan.handle.clone(),
                token: token.clone(),
                entity_id: principal.and_then(|principal| principal.record.entity_id.clone()),
                issued_at: now,
                ends_at,
                max_ends_at: now + max_ttl,
                renewable,
            })
            .await?;
        // A token revoked since it was authenticated has already scheduled its leases; this one came
        // too late for that and must not outlive it.
        if let Some(token) = &token
            && self
                .tokens
                .get(token)
                .await?
                .is_none_or(|record| record.revoked)
        {
            self.leases.remove(&id).await?;
            return Err(Failure::Denied);
        }
        let issued = tokio::time::timeout(
            self.settings.upstream_timeout,
            plan.issue(Terms { ttl, ends_at }),
        );
        match issued.await {
            Ok(Ok(credential)) => {
                mount.queue.expect(ends_at);
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
                self.settle_unknown(mount, &id).await?;
                Err(error.into())
            }
            Err(_) => {
                self.settle_unknown(mount, &id).await?;
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

    async fn settle_unknown(&self, mount: &Mount, id: &LeaseId) -> Result<(), Failure> {
        self.leases.mark_revoking(id, self.clock.now()).await?;
        mount.queue.wake();
        Ok(())
    }

    /// Renews a lease by `increment` (its first period if none). The record follows the upstream when
    /// the end moves later, and precedes it when the end moves earlier, so that the lease never ends
    /// after what it stands for was promised.
    pub async fn renew_lease(
        &self,
        id: &LeaseId,
        increment: Option<std::time::Duration>,
    ) -> Result<(LeaseRecord, LeaseView), Failure> {
        let now = self.clock.now();
        let record = self
            .leases
            .get(id)
            .await?
            .ok_or(crate::lease::LeaseError::NotFound)?;
        if !record.renewable {
            return Err(crate::lease::LeaseError::NotRenewable.into());
        }
        if record.revoking || now >= record.ends_at {
            return Err(crate::lease::LeaseError::NotFound.into());
        }
        let mount = self
            .mounts
            .by_id(&record.mount)
            .ok_or_else(|| Failure::Unavailable("the mount of this lease is not open".into()))?;
        let increment = increment
            .filter(|increment| !increment.is_zero())
            .unwrap_or_else(|| {
                let first = record
                    .ends_at
                    .duration_since(record.renewed_at.unwrap_or(record.issued_at));
                first.unwrap_or_default()
            });
        let ends_at = renewed_end(now, increment, Some(record.max_ends_at));
        let terms = Terms {
            ttl: ends_at.duration_since(now).unwrap_or_default(),
            ends_at,
        };
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
        let record = self.leases.set_end(id, ends_at, now).await?;
        mount.queue.expect(ends_at);
        let view = LeaseView {
            id: id.as_str().to_owned(),
            ttl: terms.ttl,
            renewable: record.renewable,
        };
        Ok((record, view))
    }
}
