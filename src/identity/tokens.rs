//! The token store: create, authenticate, renew, and the steps of revoking a tree.
//!
//! Keys: `token/r/<id>` is the record; `token/c/<parent>/<child>` says whose child a token is,
//! `token/m/<mount>/<id>` which logins made it, `token/e/<entity>/<id>` whom it stands for. When a token
//! ends is on the agenda queue [`Tokens::QUEUE`].
//!
//! **Invariant:** revoking starts by marking the record and moving its place on the agenda to soon, in
//! one durable step. From there on the token opens nothing, and whatever the crash, the expiry worker
//! finds it and finishes.

mod tree;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use daypass_contract::{Batch, Cidr, Clock, Entropy, Handle, Revision, Secret, millis};
use serde::{Deserialize, Serialize};

use super::batch::BatchKey;
use super::principal::Principal;
use super::token::{TokenId, TokenKind, TokenText};
use crate::storage::agenda;
use crate::storage::{Barrier, StorageError};

/// How often a write that raced with another is tried again.
pub(super) const RACES: usize = 16;
/// The worker takes up a token whose revocation has begun only after this long: whoever began goes on
/// with it, unless the process died.
const IN_HAND: Duration = Duration::from_secs(30);

/// What is known of a token. The token's own text is not.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Keyed hash of the token's text, in hex; empty in a batch token.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    hash: String,
    /// The token it was created with; none for an orphan.
    pub parent: Option<TokenId>,
    /// Names of its policies, sorted, each once.
    pub policies: Vec<String>,
    /// The path that made it: `auth/token/create`, `auth/approle/login`.
    pub path: String,
    /// For people and logs.
    pub display_name: String,
    /// Free key-value pairs.
    pub meta: BTreeMap<String, String>,
    /// When it was made.
    #[serde(with = "millis")]
    pub created_at: SystemTime,
    /// The lease it was made with.
    #[serde(with = "daypass_contract::duration")]
    pub creation_ttl: Duration,
    /// When it ends; never for a root token.
    #[serde(with = "millis::option")]
    pub ends_at: Option<SystemTime>,
    /// No renewal goes beyond this; `None` with `period` or for a root token.
    #[serde(with = "millis::option")]
    pub max_ends_at: Option<SystemTime>,
    /// The cap its creator asked for.
    #[serde(
        with = "daypass_contract::duration::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub explicit_max_ttl: Option<Duration>,
    /// Each renewal gives this much, without end.
    #[serde(
        with = "daypass_contract::duration::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub period: Option<Duration>,
    /// Requests left; unlimited if none.
    pub uses_left: Option<u64>,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// When it was last renewed.
    #[serde(with = "millis::option", default)]
    pub renewed_at: Option<SystemTime>,
    /// The entity it stands for.
    pub entity_id: Option<String>,
    /// The login that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The token role that it was created by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// It opens something only from these networks; from everywhere if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bound_cidrs: Vec<Cidr>,
    /// Revocation has begun: it opens nothing any more.
    #[serde(default)]
    pub revoked: bool,
    /// What becomes of its children, once revocation has begun.
    #[serde(default)]
    pub removal: Removal,
}

/// The login that made a token.
#[derive(Clone, Serialize, Deserialize)]
pub struct Origin {
    /// The id of the auth method's mount: the token ends with it.
    pub mount: String,
    /// What the auth method needs to be asked again on renewal; none where the token is not renewable.
    pub renewal: Option<Handle>,
}

/// What a new token shall be. Instants are final: the caller has applied every limit.
pub struct NewToken {
    /// Service or batch.
    pub kind: TokenKind,
    /// The text, where an operator chose it (`--root-token`, `id` by root); generated otherwise.
    pub text: Option<Secret>,
    /// See [`TokenRecord::parent`].
    pub parent: Option<TokenId>,
    /// See [`TokenRecord::policies`].
    pub policies: Vec<String>,
    /// See [`TokenRecord::path`].
    pub path: String,
    /// See [`TokenRecord::display_name`].
    pub display_name: String,
    /// See [`TokenRecord::meta`].
    pub meta: BTreeMap<String, String>,
    /// Until when, and until when at most.
    pub validity: Validity,
    /// See [`TokenRecord::uses_left`].
    pub uses: Option<u64>,
    /// See [`TokenRecord::entity_id`].
    pub entity_id: Option<String>,
    /// See [`TokenRecord::origin`].
    pub origin: Option<Origin>,
    /// See [`TokenRecord::role`].
    pub role: Option<String>,
    /// See [`TokenRecord::bound_cidrs`].
    pub bound_cidrs: Vec<Cidr>,
}

/// How long a token lasts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Validity {
    /// From now; never ends if none.
    pub ttl: Option<Duration>,
    /// From now, renewals included.
    pub max_ttl: Option<Duration>,
    /// The cap its creator asked for.
    pub explicit_max_ttl: Option<Duration>,
    /// Each renewal gives this much.
    pub period: Option<Duration>,
    /// Whether it can be renewed.
    pub renewable: bool,
}

/// Why the token store failed, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Storage failed; see there.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no such token (any more).
    #[error("token not found")]
    NotFound,
    /// A token of that text exists already.
    #[error("a token with this id exists already")]
    Exists,
    /// A bug or a damaged record.
    #[error("{0} is broken")]
    Broken(&'static str),
}

/// What is to be done about the children when a token goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Removal {
    /// They go too.
    #[default]
    WithChildren,
    /// They become orphans.
    OrphanChildren,
}

/// The tokens of one server.
pub struct Tokens {
    pub(super) barrier: Arc<Barrier>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    hash_key: hmac::Key,
    batch_key: BatchKey,
}

pub(super) fn record_key(id: &TokenId) -> String {
    format!("token/r/{}", id.as_str())
}

fn child_prefix(parent: &TokenId) -> String {
    format!("token/c/{}/", parent.as_str())
}

fn mount_prefix(mount: &str) -> String {
    format!("token/m/{mount}/")
}

fn entity_prefix(entity: &str) -> String {
    format!("token/e/{entity}/")
}

/// Where a token is listed besides its place in the tree.
fn indexes(id: &TokenId, record: &TokenRecord) -> impl Iterator<Item = String> {
    let mount = record
        .origin
        .as_ref()
        .map(|origin| mount_prefix(&origin.mount));
    let entity = record.entity_id.as_deref().map(entity_prefix);
    let id = id.as_str().to_owned();
    mount
        .into_iter()
        .chain(entity)
        .map(move |prefix| prefix + &id)
}

impl TokenRecord {
    /// Seconds until it ends; 0 for one without end.
    pub fn seconds_left(&self, now: SystemTime) -> u64 {
        // Rounded, not cut: a token of an hour does not answer 3599 at once.
        self.ends_at
            .and_then(|end| end.duration_since(now).ok())
            .map_or(0, |left| {
                u64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
            })
    }
}

impl Tokens {
    /// The agenda queue on which tokens end.
    pub const QUEUE: &'static str = "token";

    /// Opens the store. Keys for hashing and sealing are derived from the barrier's.
    pub fn open(
        barrier: Arc<Barrier>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, TokenError> {
        let hash_key = hmac::Key::new(hmac::HMAC_SHA256, barrier.derive("token hash")?.expose());
        let batch_key = BatchKey::new(barrier.derive("batch token")?.expose())?;
        Ok(Self {
            barrier,
            clock,
            entropy,
            hash_key,
            batch_key,
        })
    }

    /// Makes a token. Returns its text, which is not kept, and what is known of it.
    pub async fn create(&self, new: NewToken) -> Result<(Secret, Principal), TokenError> {
        let now = self.clock.now();
        let Validity {
            ttl,
            max_ttl,
            explicit_max_ttl,
            period,
            renewable,
        } = new.validity;
        let mut record = TokenRecord {
            hash: String::new(),
            parent: new.parent,
            policies: new.policies,
            path: new.path,
            display_name: new.display_name,
            meta: new.meta,
            created_at: now,
            creation_ttl: ttl.unwrap_or_default(),
            ends_at: ttl.map(|ttl| now + ttl),
            max_ends_at: max_ttl.map(|ttl| now + ttl),
            explicit_max_ttl,
            period,
            uses_left: new.uses,
            renewable,
            renewed_at: None,
            entity_id: new.entity_id,
            origin: new.origin,
            role: new.role,
            bound_cidrs: new.bound_cidrs,
            revoked: false,
            removal: Removal::default(),
        };
        if new.kind == TokenKind::Batch {
            let text = self.batch_key.seal(&record, &*self.entropy)?;
            return Ok((text, Principal::new(None, Arc::new(record))));
        }
        let (id, text) = if let Some(text) = new.text {
            (TokenId::of_hash(self.hash(text.expose()).as_ref()), text)
        } else {
            let id = TokenId::new(now, &*self.entropy);
            let text = TokenText::generate(&id, &*self.entropy);
            (id, text)
        };
        record.hash = hex::encode(self.hash(text.expose()));
        self.insert(&id, &record).await?;
        Ok((text, Principal::new(Some(id), Arc::new(record))))
    }

    /// Writes a new record with its place in the tree and on the agenda, while its parent is alive.
    async fn insert(&self, id: &TokenId, record: &TokenRecord) -> Result<(), TokenError> {
        for _ in 0..RACES {
            let mut batch = put(Batch::new().expect(record_key(id), None), id, record)?;
            if let Some(parent) = &record.parent {
                // The parent may be revoked between the caller's check and this write: tie both together.
                let (parent_record, revision) =
                    self.load(parent).await?.ok_or(TokenError::NotFound)?;
                if parent_record.revoked {
                    return Err(TokenError::NotFound);
                }
                batch = batch.expect(record_key(parent), Some(revision)).put(
                    format!("{}{}", child_prefix(parent), id.as_str()),
                    Secret::new([]),
                );
            }
            if let Some(at) = record.ends_at {
                batch = batch.put(agenda::key(Self::QUEUE, at, id.as_str()), Secret::new([]));
            }
            for index in indexes(id, record) {
                batch = batch.put(index, Secret::new([]));
            }
            match self.barrier.apply(batch).await {
                Err(StorageError::Conflict) if self.load(id).await?.is_some() => {
                    return Err(TokenError::Exists);
                }
                // The parent was renewed, or one of its uses counted.
                Err(StorageError::Conflict) => {}
                other => return Ok(other.map(drop)?),
            }
        }
        Err(StorageError::Conflict.into())
    }

    /// The principal that a presented token stands for, or `None` where it is unknown, wrong, ended
    /// or revoked; which of these is nobody's business.
    pub async fn authenticate(&self, text: &Secret) -> Result<Option<Principal>, TokenError> {
        let Some(form) = text.expose_str() else {
            return Ok(None);
        };
        let now = self.clock.now();
        let (id, record) = match TokenText::parse(form) {
            TokenText::Batch(sealed) => {
                let Some(record) = self.batch_key.open(sealed) else {
                    return Ok(None);
                };
                if let Some(parent) = &record.parent {
                    match self.load(parent).await? {
                        Some((parent, _)) if alive(&parent, now) => {}
                        _ => return Ok(None),
                    }
                }
                (None, record)
            }
            form => {
                let hash = self.hash(text.expose());
                let id = match form {
                    TokenText::Service(id) => id,
                    _ => TokenId::of_hash(hash.as_ref()),
                };
                let Some((record, _)) = self.load(&id).await? else {
                    return Ok(None);
                };
                let expected = Secret::new(hex::decode(&record.hash).unwrap_or_default());
                if !expected.ct_eq(hash.as_ref()) {
                    return Ok(None);
                }
                (Some(id), record)
            }
        };
        Ok(alive(&record, now).then(|| Principal::new(id, Arc::new(record))))
    }

    /// Counts one use of a token that has a number of them. Returns whether the token may make this
    /// request, and whether it was its last.
    pub async fn spend(&self, principal: &Principal) -> Result<Spent, TokenError> {
        let (Some(id), Some(_)) = (&principal.token, principal.record.uses_left) else {
            return Ok(Spent::Unlimited);
        };
        // Each race that is lost is a use that another request counted, or a renewal.
        loop {
            let Some((mut record, revision)) = self.load(id).await? else {
                return Ok(Spent::Refused);
            };
            let left = record.uses_left.unwrap_or_default();
            if left == 0 || record.revoked {
                return Ok(Spent::Refused);
            }
            record.uses_left = Some(left - 1);
            if self.replace(id, &record, revision, Batch::new()).await? {
                return Ok(if left == 1 {
                    Spent::Last
                } else {
                    Spent::Counted
                });
            }
        }
    }

    /// The record of a token that has one.
    pub async fn get(&self, id: &TokenId) -> Result<Option<TokenRecord>, TokenError> {
        Ok(self.load(id).await?.map(|(record, _)| record))
    }

    /// Lets a token last until `ends_at`.
    pub async fn renew(
        &self,
        id: &TokenId,
        ends_at: SystemTime,
    ) -> Result<TokenRecord, TokenError> {
        for _ in 0..RACES {
            let (mut record, revision) = self.load(id).await?.ok_or(TokenError::NotFound)?;
            // One that has ended is not brought back: the worker may be revoking it.
            if !alive(&record, self.clock.now()) {
                return Err(TokenError::NotFound);
            }
            let mut batch = Batch::new();
            if let Some(old) = record.ends_at {
                batch = batch.delete(agenda::key(Self::QUEUE, old, id.as_str()));
            }
            record.ends_at = Some(ends_at);
            record.renewed_at = Some(self.clock.now());
            batch = batch.put(
                agenda::key(Self::QUEUE, ends_at, id.as_str()),
                Secret::new([]),
            );
            if self.replace(id, &record, revision, batch).await? {
                return Ok(record);
            }
        }
        Err(StorageError::Conflict.into())
    }

    /// The first, durable step of revoking: from here on the token opens nothing. Gives what becomes of
    /// its children, which the first to revoke decides; `None` where there is no such token.
    pub async fn mark_revoked(
        &self,
        id: &TokenId,
        removal: Removal,
    ) -> Result<Option<Removal>, TokenError> {
        for _ in 0..RACES {
            let Some((mut record, revision)) = self.load(id).await? else {
                return Ok(None);
            };
            if record.revoked {
                return Ok(Some(record.removal));
            }
            let batch = mark(Batch::new(), id, &mut record, removal, self.clock.now());
            if self.replace(id, &record, revision, batch).await? {
                return Ok(Some(removal));
            }
        }
        Err(StorageError::Conflict.into())
    }

    /// Up to `limit` children of a token, in order, from the one after `after`.
    pub async fn children(
        &self,
        id: &TokenId,
        after: Option<&TokenId>,
        limit: usize,
    ) -> Result<Vec<TokenId>, TokenError> {
        self.listed(&child_prefix(id), after, limit).await
    }

    /// Cuts a child from its parent.
    pub async fn orphan(&self, parent: &TokenId, child: &TokenId) -> Result<(), TokenError> {
        let link = format!("{}{}", child_prefix(parent), child.as_str());
        for _ in 0..RACES {
            let Some((mut record, revision)) = self.load(child).await? else {
                self.barrier.apply(Batch::new().delete(link)).await?;
                return Ok(());
            };
            record.parent = None;
            if self
                .replace(child, &record, revision, Batch::new().delete(link.clone()))
                .await?
            {
                return Ok(());
            }
        }
        Err(StorageError::Conflict.into())
    }

    /// The last step of revoking: forgets the token, once nothing hangs on it any more.
    pub async fn remove(&self, id: &TokenId) -> Result<(), TokenError> {
        let Some((record, _)) = self.load(id).await? else {
            return Ok(());
        };
        self.discard_all(id).await?;
        self.barrier
            .apply(forget(Batch::new(), id, &record))
            .await?;
        Ok(())
    }

    /// Up to `limit` tokens that logins at a mount made, in order, from the one after `after`.
    pub async fn of_mount(
        &self,
        mount: &str,
        after: Option<&TokenId>,
        limit: usize,
    ) -> Result<Vec<TokenId>, TokenError> {
        self.listed(&mount_prefix(mount), after, limit).await
    }

    /// Up to `limit` tokens that stand for an entity, in order, from the one after `after`.
    pub async fn of_entity(
        &self,
        entity: &str,
        after: Option<&TokenId>,
        limit: usize,
    ) -> Result<Vec<TokenId>, TokenError> {
        self.listed(&entity_prefix(entity), after, limit).await
    }

    async fn listed(
        &self,
        prefix: &str,
        after: Option<&TokenId>,
        limit: usize,
    ) -> Result<Vec<TokenId>, TokenError> {
        let after = after.map(|id| format!("{prefix}{}", id.as_str()));
        let keys = self.barrier.keys(prefix, after.as_deref(), limit).await?;
        Ok(keys
            .iter()
            .filter_map(|key| key.strip_prefix(prefix))
            .map(TokenId::from_key)
            .collect())
    }

    /// Ids in order, for listing accessors.
    pub async fn ids(
        &self,
        after: Option<&TokenId>,
        limit: usize,
    ) -> Result<Vec<TokenId>, TokenError> {
        self.listed("token/r/", after, limit).await
    }

    /// Whether `ancestor` is `id` itself or somewhere above it.
    pub async fn descends(&self, id: &TokenId, ancestor: &TokenId) -> Result<bool, TokenError> {
        let mut current = id.clone();
        // Deeper trees than this do not come from honest use.
        for _ in 0..64 {
            if current == *ancestor {
                return Ok(true);
            }
            match self.get(&current).await?.and_then(|record| record.parent) {
                Some(parent) => current = parent,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    fn hash(&self, text: &[u8]) -> hmac::Tag {
        hmac::sign(&self.hash_key, text)
    }

    pub(super) async fn load(
        &self,
        id: &TokenId,
    ) -> Result<Option<(TokenRecord, Revision)>, TokenError> {
        let Some(entry) = self.barrier.get(&record_key(id)).await? else {
            return Ok(None);
        };
        let record = serde_json::from_slice(entry.value.expose())
            .map_err(|_| TokenError::Broken("token record"))?;
        Ok(Some((record, entry.revision)))
    }

    /// Writes a record that has not changed since it was loaded, with what goes along. `false`: it has.
    async fn replace(
        &self,
        id: &TokenId,
        record: &TokenRecord,
        revision: Revision,
        along: Batch,
    ) -> Result<bool, TokenError> {
        let batch = put(along.expect(record_key(id), Some(revision)), id, record)?;
        match self.barrier.apply(batch).await {
            Ok(_) => Ok(true),
            Err(StorageError::Conflict) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// How a request counted against a token's uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// The token has no number of uses.
    Unlimited,
    /// One fewer is left.
    Counted,
    /// This is the last: the token is to be revoked after the request.
    Last,
    /// None was left.
    Refused,
}

fn put(batch: Batch, id: &TokenId, record: &TokenRecord) -> Result<Batch, TokenError> {
    batch
        .put_json(record_key(id), record)
        .map_err(|_| TokenError::Broken("token record"))
}

/// Marks a record as revoked.
fn mark(
    mut batch: Batch,
    id: &TokenId,
    record: &mut TokenRecord,
    removal: Removal,
    now: SystemTime,
) -> Batch {
    let due = match record.ends_at {
        // The worker has it in hand already.
        Some(end) if end <= now => end,
        _ => now + IN_HAND,
    };
    if let Some(old) = record.ends_at {
        batch = batch.delete(agenda::key(Tokens::QUEUE, old, id.as_str()));
    }
    record.revoked = true;
    record.removal = removal;
    record.ends_at = Some(due);
    batch.put(
        agenda::key(Tokens::QUEUE, due, id.as_str()),
        Secret::new([]),
    )
}

/// Deletes a record and every key that names it.
fn forget(batch: Batch, id: &TokenId, record: &TokenRecord) -> Batch {
    let mut batch = batch.delete(record_key(id));
    if let Some(parent) = &record.parent {
        batch = batch.delete(format!("{}{}", child_prefix(parent), id.as_str()));
    }
    if let Some(at) = record.ends_at {
        batch = batch.delete(agenda::key(Tokens::QUEUE, at, id.as_str()));
    }
    indexes(id, record).fold(batch, Batch::delete)
}

fn alive(record: &TokenRecord, now: SystemTime) -> bool {
    !record.revoked && record.ends_at.is_none_or(|end| now < end)
}
