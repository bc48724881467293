//! What ends: secret ids whose time is over, and those of deleted roles.
//!
//! Both are dead already when this removes them. Work is bounded per call and follows indexes in order,
//! so a mount with a million secret ids costs what is due, not what is there.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_contract::{
    BackendError, BackendRoutes, Batch, Call, NoFields, Operation, Reply, millis,
};

use super::AppRole;
use super::store::{self, End};
use crate::again::until_settled;

/// Secret ids removed by one batch.
const PAGE: usize = 100;

/// Batches of one call.
const PAGES: usize = 100;

/// A secret id made since is seen by then; until it is removed it is dead all the same.
const LATEST: Duration = Duration::from_mins(10);

pub(super) fn declare(backend: &Arc<AppRole>, routes: &mut BackendRoutes) {
    routes.answer(
        backend,
        Operation::Write,
        "tidy/secret-id",
        "Removes secret ids that have ended.",
        AppRole::tidy_now,
    );
}

impl AppRole {
    async fn tidy_now(self: Arc<Self>, call: Call, _: NoFields) -> Result<Reply<()>, BackendError> {
        let next = self.tidy(call.now).await?;
        let reply = Reply::nothing();
        Ok(if next <= call.now {
            reply.warn("There is more to remove; the server goes on with it.")
        } else {
            reply
        })
    }

    /// Removes what has ended and says when to go on.
    pub(super) async fn tidy(&self, now: SystemTime) -> Result<SystemTime, BackendError> {
        for role in self.host.store.list(store::PURGE, None, PAGES).await? {
            self.purge_role(&role).await?;
        }
        for _ in 0..PAGES {
            let next = until_settled(|| self.tidy_page(now)).await?;
            if next > now {
                return Ok(next.min(now + LATEST));
            }
        }
        Ok(now)
    }

    /// Removes the first secret ids that have ended, and says when the next one does.
    async fn tidy_page(&self, now: SystemTime) -> Result<SystemTime, BackendError> {
        let store = &self.host.store;
        let names = store.list(store::EXPIRY, None, PAGE).await?;
        let is_last = names.len() < PAGE;
        let mut batch = Batch::new();
        let mut next = if is_last { now + LATEST } else { now };
        for name in names {
            let end = End::parse(&name)
                .ok_or_else(|| BackendError::Internal("an end is not readable".into()))?;
            if end.at > millis::of(now) {
                next = millis::at(end.at);
                break;
            }
            let found = self
                .secret_id_with_hash(&end.role, end.hash.clone())
                .await?;
            // One chosen by the caller may have been destroyed and registered again meanwhile.
            batch = match found.filter(|found| !found.record.lives(now)) {
                Some(found) => store::remove(batch, &end.role, &found),
                None => batch.delete(end.key()),
            };
        }
        if !batch.writes.is_empty() {
            store.apply(batch).await?;
        }
        Ok(next)
    }

    /// Removes the secret ids of a deleted role, and then the mark that it was deleted.
    pub(super) async fn purge_role(&self, role: &str) -> Result<(), BackendError> {
        let store = &self.host.store;
        let prefix = store::secret_ids(role);
        loop {
            let hashes = store.list(&prefix, None, PAGE).await?;
            if hashes.is_empty() {
                break;
            }
            until_settled(|| async {
                let mut batch = Batch::new();
                for hash in &hashes {
                    if let Some(found) = self.secret_id_with_hash(role, hash.clone()).await? {
                        batch = store::remove(batch, role, &found);
                    }
                }
                Ok(store.apply(batch).await?)
            })
            .await?;
        }
        let batch = Batch::new().delete(store::purge(role));
        Ok(store.apply(batch).await?)
    }
}
