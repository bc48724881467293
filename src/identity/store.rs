//! [`Identity`]: entities, aliases and groups on the barrier, and what is remembered of them in memory.
//!
//! # Invariants
//!
//! * Every change is one batch under conditions: whatever was read to decide on it is unchanged when it is
//!   written, or it is decided again. There are no locks.
//! * What is in memory is used only while nothing was written since that concerns it.
//! * A change that takes from an entity what it may do puts the entity on the agenda in the same batch, so
//!   that what it holds is revoked whatever happens.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use daypass_contract::{Batch, Clock, Entropy, Revision, Secret, Write, millis};
use quick_cache::sync::Cache;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::record::{Entity, Group, entity_key, group_key, is_id, merged_key};
use super::standing::Remembered;
use crate::storage::{Barrier, StorageError, agenda};

/// How often a write that raced with another is tried again.
pub(super) const RACES: usize = 32;
/// Standings that are kept in memory.
const REMEMBERED: usize = 20_000;
/// Counters that tell whether a remembered standing is still true.
const STRIPES: usize = 1024;
/// Merges of merges that are followed.
const MERGES: usize = 16;

/// The entities, aliases and groups of one server.
pub struct Identity {
    pub(super) barrier: Arc<Barrier>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) standings: Cache<String, Remembered>,
    hasher: RandomState,
    /// Counts the writes of entities, each in the stripe of its id.
    stripes: Box<[AtomicU64]>,
    /// Counts the writes of groups.
    groups: AtomicU64,
}

/// Why identity failed, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Storage failed; see there.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The request cannot be honoured as it stands. Answered 400; the text is shown.
    #[error("{0}")]
    Invalid(String),
    /// The entity may do nothing: disabled, or past its end. Answered 403.
    #[error("entity is disabled")]
    Disabled,
    /// A bug or a damaged record.
    #[error("{0} is broken")]
    Broken(&'static str),
}

impl IdentityError {
    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }
}

/// What a write did.
#[derive(Debug)]
pub struct Written<T> {
    /// The record as it is now.
    pub record: T,
    /// Whether it is new.
    pub created: bool,
    /// Entity ids that may hold nothing from now on: revoke what they hold. They are on the agenda of
    /// [`Identity::QUEUE`] too, so that a crash forgets nobody.
    pub withdrawn: Vec<String>,
}

/// A record and which write of it this is; `None` for one that is not stored yet.
pub(super) struct Loaded<T> {
    pub(super) record: T,
    pub(super) revision: Option<Revision>,
}

/// Which version of the world something was read in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    entity: u64,
    groups: u64,
}

/// A batch, and whom it concerns.
#[derive(Default)]
pub(super) struct Change {
    batch: Batch,
    entities: Vec<String>,
    groups: bool,
}

impl Change {
    pub(super) fn expect(&mut self, key: String, revision: Option<Revision>) {
        self.batch.expected.push((key, revision));
    }

    pub(super) fn put<T: Serialize>(
        &mut self,
        key: String,
        value: &T,
    ) -> Result<(), IdentityError> {
        let bytes =
            serde_json::to_vec(value).map_err(|_| IdentityError::Broken("identity record"))?;
        self.batch.writes.push(Write::Put(key, Secret::new(bytes)));
        Ok(())
    }

    pub(super) fn delete(&mut self, key: String) {
        self.batch.writes.push(Write::Delete(key));
    }

    /// Writes an entity that is unchanged since it was loaded.
    pub(super) fn entity(&mut self, entity: &Loaded<Entity>) -> Result<(), IdentityError> {
        let key = entity_key(&entity.record.id);
        self.expect(key.clone(), entity.revision);
        self.entities.push(entity.record.id.clone());
        self.put(key, &entity.record)
    }

    /// Deletes an entity's record if it is unchanged since it was loaded.
    pub(super) fn delete_entity(&mut self, entity: &Loaded<Entity>) {
        let key = entity_key(&entity.record.id);
        self.expect(key.clone(), entity.revision);
        self.entities.push(entity.record.id.clone());
        self.delete(key);
    }

    /// Writes a group that is unchanged since it was loaded.
    pub(super) fn group(&mut self, group: &Loaded<Group>) -> Result<(), IdentityError> {
        let key = group_key(&group.record.id);
        self.expect(key.clone(), group.revision);
        self.groups = true;
        self.put(key, &group.record)
    }

    /// Deletes a group's record if it is unchanged since it was loaded.
    pub(super) fn delete_group(&mut self, group: &Loaded<Group>) {
        let key = group_key(&group.record.id);
        self.expect(key.clone(), group.revision);
        self.groups = true;
        self.delete(key);
    }

    /// Puts on the agenda that these ids may hold nothing from `at` on.
    pub(super) fn withdraw<'a>(&mut self, ids: impl Iterator<Item = &'a str>, at: SystemTime) {
        for id in ids {
            let key = agenda::key(Identity::QUEUE, at, &subject(id, at));
            self.batch.writes.push(Write::Put(key, Secret::new([])));
        }
    }

    /// Takes that from the agenda again.
    pub(super) fn reprieve<'a>(&mut self, ids: impl Iterator<Item = &'a str>, at: SystemTime) {
        for id in ids {
            self.delete(agenda::key(Identity::QUEUE, at, &subject(id, at)));
        }
    }
}

/// An entry of the agenda carries its time, so that settling it needs no record.
fn subject(id: &str, at: SystemTime) -> String {
    format!("{id}.{:x}", millis::of(at))
}

impl Identity {
    /// The agenda queue on which entities lose what they hold.
    pub const QUEUE: &'static str = "identity";

    /// Opens the store; nothing is read before it is needed.
    pub fn open(barrier: Arc<Barrier>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            barrier,
            clock,
            entropy,
            standings: Cache::new(REMEMBERED),
            hasher: RandomState::new(),
            stripes: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(),
            groups: AtomicU64::new(0),
        }
    }

    /// What an entry of [`Identity::QUEUE`] is about: an entity id, and whether what it holds is to be
    /// revoked. One that was enabled again in time keeps it.
    pub async fn due<'a>(&self, subject: &'a str) -> Result<(&'a str, bool), IdentityError> {
        let id = subject.split_once('.').map_or(subject, |(id, _)| id);
        let entity = self.resolve(id).await?;
        let now = self.clock.now();
        Ok((
            id,
            entity.is_none_or(|entity| entity.record.is_withdrawn(now)),
        ))
    }

    /// Takes an entry from the agenda, once what the entity held is revoked.
    pub async fn settle(&self, subject: &str) -> Result<(), IdentityError> {
        let at = subject
            .split_once('.')
            .and_then(|(_, at)| u64::from_str_radix(at, 16).ok())
            .ok_or(IdentityError::Broken("agenda of identity"))?;
        let key = agenda::key(Self::QUEUE, millis::at(at), subject);
        self.barrier.apply(Batch::new().delete(key)).await?;
        Ok(())
    }

    /// A new id.
    pub(super) fn new_id(&self) -> String {
        let bytes = (*self.entropy).bytes::<16>();
        uuid::Builder::from_random_bytes(bytes)
            .into_uuid()
            .to_string()
    }

    /// A name for what was given none.
    pub(super) fn new_name(&self, kind: &str) -> String {
        let [a, b, c, d, ..] = *Uuid::from_bytes((*self.entropy).bytes()).as_bytes();
        format!("{kind}_{}", hex::encode([a, b, c, d]))
    }

    pub(super) fn stamp(&self, entity: &str) -> Stamp {
        Stamp {
            entity: self.stripe(entity).load(Ordering::SeqCst),
            groups: self.groups.load(Ordering::SeqCst),
        }
    }

    fn stripe(&self, entity: &str) -> &AtomicU64 {
        let hash = usize::try_from(self.hasher.hash_one(entity) % (STRIPES as u64)).unwrap_or(0);
        // `groups` stands in for a stripe that cannot be missing.
        self.stripes.get(hash).unwrap_or(&self.groups)
    }

    /// Writes a change. `false`: something it was decided on has changed, so decide again.
    pub(super) async fn commit(&self, change: Change) -> Result<bool, IdentityError> {
        let Change {
            batch,
            entities,
            groups,
        } = change;
        let written = self.barrier.apply(batch).await;
        // After the write, and whatever became of it: it may have been kept although it failed.
        for entity in &entities {
            self.stripe(entity).fetch_add(1, Ordering::SeqCst);
        }
        if groups {
            self.groups.fetch_add(1, Ordering::SeqCst);
        }
        match written {
            Ok(_) => Ok(true),
            Err(StorageError::Conflict) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<Loaded<T>>, IdentityError> {
        let Some(entry) = self.barrier.get(key).await? else {
            return Ok(None);
        };
        let record = serde_json::from_slice(entry.value.expose())
            .map_err(|_| IdentityError::Broken("identity record"))?;
        Ok(Some(Loaded {
            record,
            revision: Some(entry.revision),
        }))
    }

    pub(super) async fn delete_row(&self, key: String) -> Result<(), IdentityError> {
        self.barrier.apply(Batch::new().delete(key)).await?;
        Ok(())
    }

    pub(super) async fn load_entity(
        &self,
        id: &str,
    ) -> Result<Option<Loaded<Entity>>, IdentityError> {
        if !is_id(id) {
            return Ok(None);
        }
        self.read(&entity_key(id)).await
    }

    pub(super) async fn load_group(
        &self,
        id: &str,
    ) -> Result<Option<Loaded<Group>>, IdentityError> {
        if !is_id(id) {
            return Ok(None);
        }
        self.read(&group_key(id)).await
    }

    /// The entity of that id, or the one it was merged into.
    pub(super) async fn resolve(&self, id: &str) -> Result<Option<Loaded<Entity>>, IdentityError> {
        let mut id = id.to_owned();
        for _ in 0..MERGES {
            if let Some(entity) = self.load_entity(&id).await? {
                return Ok(Some(entity));
            }
            if !is_id(&id) {
                return Ok(None);
            }
            match self.read::<String>(&merged_key(&id)).await? {
                Some(into) => id = into.record,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Values below `prefix`, in order, from the one after `after`.
    pub(super) async fn page<T: DeserializeOwned>(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, T)>, IdentityError> {
        let after = after.map(|after| format!("{prefix}{after}"));
        let entries = self
            .barrier
            .entries(prefix, after.as_deref(), limit)
            .await?;
        entries
            .into_iter()
            .map(|(key, entry)| {
                let value = serde_json::from_slice(entry.value.expose())
                    .map_err(|_| IdentityError::Broken("identity record"))?;
                let name = key.strip_prefix(prefix).unwrap_or_default().to_owned();
                Ok((name, value))
            })
            .collect()
    }
}

/// A write that lost every race: the caller tries again later.
pub(super) fn raced() -> IdentityError {
    StorageError::Conflict.into()
}
