//! Lease records and the indexes that find them by path, token, entity and end.
//!
//! Keys: `lease/r/<lease id>` is the record, and since an id begins with the path that issued it, also
//! the index by path; `lease/t/<token>/<lease id>` and `lease/e/<entity>/<lease id>` find the leases of
//! a token and an entity; the agenda finds them by mount and end. All of a lease's keys are written
//! and removed in one batch.
//!
//! `lease/n/<lease id>` marks a lease whose credential may not have been made: it is written with the
//! record, and goes with some later write once the credential is there, so that it costs no write of its
//! own. What a crash leaves of these marks, [`Leases::unsure`] gives.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use daypass_contract::{Batch, Entropy, Handle, Revision, Secret, millis};
use serde::{Deserialize, Serialize};

use super::turns::{Turn, Turns};
use crate::identity::TokenId;
use crate::storage::{Barrier, StorageError, agenda};

/// How often a write that raced with another is tried again.
const RACES: usize = 16;
/// Leases written in one batch.
const TOGETHER: usize = 256;
/// Marks of credentials that were made, which one write takes along.
const MARKS_ALONG: usize = 16;
const MARKS: &str = "lease/n/";

/// Names a lease: the path that issued it, then 24 hexadecimal digits that sort by time. It is a name
/// and no authority: whoever uses it is checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(String);

impl LeaseId {
    /// A new id for a lease that `path` issues.
    pub fn new(path: &str, now: SystemTime, entropy: &dyn Entropy) -> Self {
        let random = hex::encode(entropy.bytes::<6>());
        Self(format!("{path}/{:012x}{random}", millis::of(now)))
    }

    /// An id as a caller or an index gives it.
    pub fn from_text(text: &str) -> Self {
        Self(text.trim_matches('/').to_owned())
    }

    /// As the API writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn key(&self) -> String {
        format!("lease/r/{}", self.0)
    }

    fn mark(&self) -> String {
        format!("{MARKS}{}", self.0)
    }
}

/// What is known of a lease. It holds a handle and never a secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// The mount that issued it, by id: a mount may move.
    pub mount: String,
    /// Enough to revoke.
    pub handle: Handle,
    /// The token it hangs on.
    pub token: Option<TokenId>,
    /// The entity it hangs on.
    pub entity_id: Option<String>,
    /// When it was granted.
    #[serde(with = "millis")]
    pub issued_at: SystemTime,
    /// When it ends.
    #[serde(with = "millis")]
    pub ends_at: SystemTime,
    /// No renewal goes beyond this.
    #[serde(with = "millis")]
    pub max_ends_at: SystemTime,
    /// How long it was granted for, which a renewal that says nothing gives again. Older records have
    /// none.
    #[serde(
        with = "daypass_contract::duration::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    first_ttl: Option<Duration>,
    /// When it was last renewed.
    #[serde(with = "millis::option", default)]
    pub renewed_at: Option<SystemTime>,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// Where it stands on the agenda: its end, now, or the next try to revoke it.
    #[serde(with = "millis")]
    due_at: SystemTime,
    /// Revocation was asked for before its end.
    #[serde(default)]
    pub revoking: bool,
    /// What went wrong when it was to be revoked.
    #[serde(default)]
    pub trouble: Option<Trouble>,
}

/// Why a lease that should be gone is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// How often revoking it failed.
    pub attempts: u32,
    /// The last failure.
    pub reason: String,
    /// When it first failed.
    #[serde(with = "millis")]
    pub since: SystemTime,
    /// It failed so often that somebody should look; it is still retried.
    pub irrevocable: bool,
}

impl LeaseRecord {
    /// `active`, `revoking` or `irrevocable`.
    pub fn state(&self, now: SystemTime) -> &'static str {
        match &self.trouble {
            Some(trouble) if trouble.irrevocable => "irrevocable",
            _ if self.revoking || now >= self.ends_at => "revoking",
            _ => "active",
        }
    }

    /// How long it was granted for; in records from before that was kept, its present period.
    pub fn first_ttl(&self) -> Duration {
        self.first_ttl.unwrap_or_else(|| {
            let begin = self.renewed_at.unwrap_or(self.issued_at);
            self.ends_at.duration_since(begin).unwrap_or_default()
        })
    }

    /// When revoking it is tried next, if it is due.
    pub fn due_at(&self) -> SystemTime {
        self.due_at
    }
}

/// A lease about to be granted.
pub struct NewLease<'a> {
    /// The mount's id; also the agenda's queue.
    pub mount: &'a str,
    /// The request's path, mount included.
    pub path: &'a str,
    /// See [`LeaseRecord::handle`].
    pub handle: Handle,
    /// See [`LeaseRecord::token`].
    pub token: Option<TokenId>,
    /// See [`LeaseRecord::entity_id`].
    pub entity_id: Option<String>,
    /// Now.
    pub issued_at: SystemTime,
    /// See [`LeaseRecord::ends_at`].
    pub ends_at: SystemTime,
    /// See [`LeaseRecord::max_ends_at`].
    pub max_ends_at: SystemTime,
    /// See [`LeaseRecord::renewable`].
    pub renewable: bool,
}

/// Why the lease store failed, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Storage failed; see there.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no such lease (any more).
    #[error("lease not found")]
    NotFound,
    /// The lease cannot be renewed.
    #[error("lease is not renewable")]
    NotRenewable,
    /// A bug or a damaged record.
    #[error("lease record is broken")]
    Broken,
}

/// The leases of one server.
pub struct Leases {
    barrier: Arc<Barrier>,
    entropy: Arc<dyn Entropy>,
    turns: Turns,
    marks: Mutex<Marks>,
}

/// What this process knows of the credentials of its leases.
#[derive(Default)]
struct Marks {
    /// Granted here, and nobody has said since what became of their credentials.
    making: HashSet<LeaseId>,
    /// Whose mark is in storage.
    stored: HashSet<LeaseId>,
    /// Of those, the ones whose credential was made.
    made: Vec<LeaseId>,
}

impl Leases {
    /// Opens the store.
    pub fn open(barrier: Arc<Barrier>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            barrier,
            entropy,
            turns: Turns::default(),
            marks: Mutex::default(),
        }
    }

    /// Waits for the turn of a lease: who renews or revokes it takes it first, and then reads the record.
    pub async fn turn(&self, id: &LeaseId) -> Turn {
        self.turns.take(id).await
    }

    /// Makes a lease durable. The credential it is for must not exist yet; it counts as in the making
    /// until [`Leases::made`] or [`Leases::remove`].
    pub async fn grant(&self, new: NewLease<'_>) -> Result<(LeaseId, LeaseRecord), LeaseError> {
        let id = LeaseId::new(new.path, new.issued_at, &*self.entropy);
        let record = LeaseRecord {
            mount: new.mount.to_owned(),
            handle: new.handle,
            token: new.token,
            entity_id: new.entity_id,
            issued_at: new.issued_at,
            ends_at: new.ends_at,
            max_ends_at: new.max_ends_at,
            first_ttl: new.ends_at.duration_since(new.issued_at).ok(),
            renewed_at: None,
            renewable: new.renewable,
            due_at: new.ends_at,
            revoking: false,
            trouble: None,
        };
        let mut batch = put(Batch::new().expect(id.key(), None), &id, &record)?;
        for key in index_keys(&id, &record).chain([id.mark()]) {
            batch = batch.put(key, Secret::new([]));
        }
        let along = {
            let mut marks = self.marks();
            // Before it is stored: a mark too many here costs a deletion, one too few would stay.
            marks.stored.insert(id.clone());
            marks.making.insert(id.clone());
            let keep = marks.made.len().saturating_sub(MARKS_ALONG);
            marks.made.split_off(keep)
        };
        for made in &along {
            batch = batch.delete(made.mark());
        }
        let written = self.barrier.apply(batch).await;
        let mut marks = self.marks();
        if let Err(error) = written {
            // Nobody will make it.
            marks.stored.remove(&id);
            marks.making.remove(&id);
            marks.made.extend(along);
            return Err(error.into());
        }
        for made in along {
            marks.stored.remove(&made);
        }
        Ok((id, record))
    }

    /// Notes that a lease's credential exists: if its upstream does not know it from here on, it is gone.
    /// Its mark goes with a later write; if the process dies before that, the upstream is asked.
    pub fn made(&self, id: &LeaseId) {
        let mut marks = self.marks();
        marks.making.remove(id);
        if marks.stored.contains(id) {
            marks.made.push(id.clone());
        }
    }

    /// Whether a lease was granted by this store, since it was opened, for a credential of which nothing
    /// is known yet.
    pub fn is_in_the_making(&self, id: &LeaseId) -> bool {
        self.marks().making.contains(id)
    }

    /// Leases of which an earlier process did not note that their credential was made: the marks that lie
    /// in storage when a process begins.
    pub async fn unsure(&self) -> Result<Vec<LeaseId>, LeaseError> {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let keys = self.barrier.keys(MARKS, after.as_deref(), TOGETHER).await?;
            let Some(last) = keys.last().cloned() else {
                break;
            };
            after = Some(last);
            let ids = keys.iter().filter_map(|key| key.strip_prefix(MARKS));
            found.extend(ids.map(LeaseId::from_text));
        }
        let mut marks = self.marks();
        // Not what was granted here meanwhile.
        found.retain(|id| !marks.stored.contains(id));
        marks.stored.extend(found.iter().cloned());
        drop(marks);
        Ok(found)
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record of a lease.
    pub async fn get(&self, id: &LeaseId) -> Result<Option<LeaseRecord>, LeaseError> {
        Ok(self.load(id).await?.map(|(record, _)| record))
    }

    /// Lets a lease end at `ends_at` (later or earlier). Refused once its revocation has begun.
    pub async fn set_end(
        &self,
        id: &LeaseId,
        ends_at: SystemTime,
        now: SystemTime,
    ) -> Result<LeaseRecord, LeaseError> {
        self.update(id, |record| {
            if record.revoking || now >= record.ends_at {
                return Err(LeaseError::NotFound);
            }
            if !record.renewable {
                return Err(LeaseError::NotRenewable);
            }
            record.ends_at = ends_at;
            record.due_at = ends_at;
            record.renewed_at = Some(now);
            Ok(())
        })
        .await
    }

    /// Puts a lease on the agenda for now. From here on it can only end.
    pub async fn mark_revoking(
        &self,
        id: &LeaseId,
        now: SystemTime,
    ) -> Result<LeaseRecord, LeaseError> {
        self.update(id, |record| {
            record.revoking = true;
            record.due_at = now;
            Ok(())
        })
        .await
    }

    /// Puts many leases on the agenda for now, in batches that share a write. Leases that are gone are
    /// no error. Returns how many were marked.
    pub async fn mark_all_revoking(
        &self,
        ids: &[LeaseId],
        now: SystemTime,
    ) -> Result<usize, LeaseError> {
        let mut marked = 0;
        for chunk in ids.chunks(TOGETHER) {
            let mut batch = Batch::new();
            let mut in_chunk = 0;
            for id in chunk {
                let (mut record, revision) = match self.load(id).await {
                    Ok(Some(found)) => found,
                    Ok(None) => continue,
                    // The worker says so too, again and again; it must not keep the others alive.
                    Err(LeaseError::Broken) => {
                        tracing::error!(lease = id.as_str(), "lease record is broken");
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                in_chunk += 1;
                if record.revoking && record.due_at <= now {
                    continue;
                }
                let old = agenda::key(&record.mount, record.due_at, id.as_str());
                record.revoking = true;
                record.due_at = now;
                batch = batch.expect(id.key(), Some(revision)).delete(old).put(
                    agenda::key(&record.mount, now, id.as_str()),
                    Secret::new([]),
                );
                batch = put(batch, id, &record)?;
            }
            if batch.writes.is_empty() {
                marked += in_chunk;
                continue;
            }
            match self.barrier.apply(batch).await {
                Ok(_) => marked += in_chunk,
                // One of them changed meanwhile: take them one by one.
                Err(StorageError::Conflict) => {
                    for id in chunk {
                        match self.mark_revoking(id, now).await {
                            Ok(_) => marked += 1,
                            Err(LeaseError::NotFound | LeaseError::Broken) => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(marked)
    }

    /// Notes a failed revocation and when to try again.
    pub async fn note_trouble(
        &self,
        id: &LeaseId,
        reason: &str,
        irrevocable_after: u32,
        now: SystemTime,
        retry_at: impl Fn(u32) -> SystemTime,
    ) -> Result<LeaseRecord, LeaseError> {
        self.update(id, |record| {
            let earlier = record.trouble.take();
            let attempts = earlier
                .as_ref()
                .map_or(0, |trouble| trouble.attempts)
                .saturating_add(1);
            record.trouble = Some(Trouble {
                attempts,
                reason: reason.to_owned(),
                since: earlier.map_or(now, |trouble| trouble.since),
                irrevocable: attempts >= irrevocable_after,
            });
            record.due_at = retry_at(attempts);
            Ok(())
        })
        .await
    }

    /// Gives a lease that is to end a later place on the agenda, without a reproach.
    pub async fn postpone(
        &self,
        id: &LeaseId,
        until: SystemTime,
    ) -> Result<LeaseRecord, LeaseError> {
        self.update(id, |record| {
            record.due_at = until;
            Ok(())
        })
        .await
    }

    /// Forgets a lease whose credential is proved gone.
    pub async fn remove(&self, id: &LeaseId) -> Result<(), LeaseError> {
        for _ in 0..RACES {
            let Some((record, revision)) = self.load(id).await? else {
                self.forgotten(id);
                return Ok(());
            };
            match self
                .barrier
                .apply(self.forget(Batch::new(), id, &record, revision))
                .await
            {
                Err(StorageError::Conflict) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {
                    self.forgotten(id);
                    return Ok(());
                }
            }
        }
        Err(StorageError::Conflict.into())
    }

    /// Forgets many leases, in batches that share a write. Those that are gone are no error.
    pub async fn remove_all(&self, ids: &[LeaseId]) -> Result<(), LeaseError> {
        for chunk in ids.chunks(TOGETHER) {
            let mut batch = Batch::new();
            for id in chunk {
                if let Some((record, revision)) = self.load(id).await? {
                    batch = self.forget(batch, id, &record, revision);
                }
            }
            if batch.writes.is_empty() {
                continue;
            }
            match self.barrier.apply(batch).await {
                Ok(_) => {
                    for id in chunk {
                        self.forgotten(id);
                    }
                }
                // One of them changed meanwhile: take them one by one.
                Err(StorageError::Conflict) => {
                    for id in chunk {
                        self.remove(id).await?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Removes the mark of a lease that is gone.
    pub async fn unmark(&self, id: &LeaseId) -> Result<(), LeaseError> {
        self.barrier.apply(Batch::new().delete(id.mark())).await?;
        self.forgotten(id);
        Ok(())
    }

    fn forget(
        &self,
        batch: Batch,
        id: &LeaseId,
        record: &LeaseRecord,
        revision: Revision,
    ) -> Batch {
        let mark = self.marks().stored.contains(id).then(|| id.mark());
        index_keys(id, record).chain(mark).fold(
            batch.expect(id.key(), Some(revision)).delete(id.key()),
            Batch::delete,
        )
    }

    fn forgotten(&self, id: &LeaseId) {
        let mut marks = self.marks();
        marks.making.remove(id);
        if marks.stored.remove(id) {
            marks.made.retain(|made| made != id);
        }
    }

    /// Ids of the leases whose id begins with `prefix`, in order.
    pub async fn under(
        &self,
        prefix: &str,
        after: Option<&LeaseId>,
        limit: usize,
    ) -> Result<Vec<LeaseId>, LeaseError> {
        let after = after.map(LeaseId::key);
        let keys = self
            .barrier
            .keys(&format!("lease/r/{prefix}"), after.as_deref(), limit)
            .await?;
        Ok(keys
            .iter()
            .filter_map(|key| key.strip_prefix("lease/r/"))
            .map(LeaseId::from_text)
            .collect())
    }

    /// One level of names below `prefix`.
    pub async fn list(&self, prefix: &str, limit: usize) -> Result<Vec<String>, LeaseError> {
        Ok(self
            .barrier
            .list(&format!("lease/r/{prefix}"), None, limit)
            .await?)
    }

    /// How many leases below `path` hang on an entity; counting ends at `most`.
    pub async fn held_by_entity(
        &self,
        entity: &str,
        path: &str,
        most: usize,
    ) -> Result<usize, LeaseError> {
        let prefix = format!("lease/e/{entity}/{path}");
        Ok(self.barrier.keys(&prefix, None, most).await?.len())
    }

    /// How many leases below `path` hang on a token; counting ends at `most`.
    pub async fn held_by_token(
        &self,
        token: &TokenId,
        path: &str,
        most: usize,
    ) -> Result<usize, LeaseError> {
        let prefix = format!("lease/t/{}/{path}", token.as_str());
        Ok(self.barrier.keys(&prefix, None, most).await?.len())
    }

    /// Ids of the leases that hang on a token.
    pub async fn of_token(
        &self,
        token: &TokenId,
        after: Option<&LeaseId>,
        limit: usize,
    ) -> Result<Vec<LeaseId>, LeaseError> {
        let prefix = format!("lease/t/{}/", token.as_str());
        self.indexed(&prefix, after, limit).await
    }

    /// Ids of the leases that hang on an entity.
    pub async fn of_entity(
        &self,
        entity: &str,
        after: Option<&LeaseId>,
        limit: usize,
    ) -> Result<Vec<LeaseId>, LeaseError> {
        let prefix = format!("lease/e/{entity}/");
        self.indexed(&prefix, after, limit).await
    }

    async fn indexed(
        &self,
        prefix: &str,
        after: Option<&LeaseId>,
        limit: usize,
    ) -> Result<Vec<LeaseId>, LeaseError> {
        let after = after.map(|id| format!("{prefix}{}", id.as_str()));
        let keys = self.barrier.keys(prefix, after.as_deref(), limit).await?;
        Ok(keys
            .iter()
            .filter_map(|key| key.strip_prefix(prefix))
            .map(LeaseId::from_text)
            .collect())
    }

    /// The leases of a mount in the order in which they are due, from the one after `after`.
    pub async fn of_mount(
        &self,
        mount: &str,
        after: Option<&(SystemTime, LeaseId)>,
        limit: usize,
    ) -> Result<Vec<(SystemTime, LeaseId)>, LeaseError> {
        let after = after.map(|(at, id)| agenda::key(mount, *at, id.as_str()));
        let keys = self
            .barrier
            .keys(&agenda::prefix(mount), after.as_deref(), limit)
            .await?;
        Ok(keys
            .iter()
            .filter_map(|key| agenda::parse(mount, key))
            .map(|(at, id)| (at, LeaseId::from_text(id)))
            .collect())
    }

    /// How many leases a mount has, counted up to `limit`. Walks its queue: the time it takes grows with
    /// the answer.
    pub async fn count(&self, mount: &str, limit: usize) -> Result<usize, LeaseError> {
        const PAGE: usize = 10_000;
        let (prefix, mut count, mut after) = (agenda::prefix(mount), 0, None);
        while count < limit {
            let page = PAGE.min(limit - count);
            let keys = self.barrier.keys(&prefix, after.as_deref(), page).await?;
            count += keys.len();
            after = match keys.into_iter().next_back() {
                Some(last) => Some(last),
                None => break,
            };
        }
        Ok(count)
    }

    async fn load(&self, id: &LeaseId) -> Result<Option<(LeaseRecord, Revision)>, LeaseError> {
        let Some(entry) = self.barrier.get(&id.key()).await? else {
            return Ok(None);
        };
        let record =
            serde_json::from_slice(entry.value.expose()).map_err(|_| LeaseError::Broken)?;
        Ok(Some((record, entry.revision)))
    }

    /// Changes a record and, where its time changes, its place on the agenda, in one step.
    async fn update(
        &self,
        id: &LeaseId,
        change: impl Fn(&mut LeaseRecord) -> Result<(), LeaseError>,
    ) -> Result<LeaseRecord, LeaseError> {
        for _ in 0..RACES {
            let (mut record, revision) = self.load(id).await?.ok_or(LeaseError::NotFound)?;
            let old = agenda::key(&record.mount, record.due_at, id.as_str());
            change(&mut record)?;
            let new = agenda::key(&record.mount, record.due_at, id.as_str());
            let batch = Batch::new()
                .expect(id.key(), Some(revision))
                .delete(old)
                .put(new, Secret::new([]));
            match self.barrier.apply(put(batch, id, &record)?).await {
                Err(StorageError::Conflict) => {}
                other => return Ok(other.map(|_| record)?),
            }
        }
        Err(StorageError::Conflict.into())
    }
}

fn put(batch: Batch, id: &LeaseId, record: &LeaseRecord) -> Result<Batch, LeaseError> {
    batch
        .put_json(id.key(), record)
        .map_err(|_| LeaseError::Broken)
}

fn index_keys(id: &LeaseId, record: &LeaseRecord) -> impl Iterator<Item = String> {
    let id = id.as_str();
    [
        Some(agenda::key(&record.mount, record.due_at, id)),
        record
            .token
            .as_ref()
            .map(|token| format!("lease/t/{}/{id}", token.as_str())),
        record
            .entity_id
            .as_ref()
            .map(|entity| format!("lease/e/{entity}/{id}")),
    ]
    .into_iter()
    .flatten()
}
