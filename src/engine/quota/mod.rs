//! Quotas: how often a path may be called from an address, and how many leases anybody may hold.
//!
//! What the configuration declares holds always; what the API writes holds while unsealed. A request
//! must be within both.

mod rate;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use daypass_contract::Batch;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

pub(crate) use rate::EXEMPT;
pub use rate::RateLimit;
use rate::RateLimits;

use super::answer::Failure;
use crate::config;
use crate::identity::Principal;
use crate::lease::Leases;
use crate::storage::Barrier;

const RATES: &str = "core/quota/rate/";
const COUNTS: &str = "core/quota/leases/";
/// Quotas of a kind at most.
const MOST: usize = 1000;
/// When to come back where too many leases are held: some end by then, or the caller revokes some.
const COME_BACK: Duration = Duration::from_secs(5);

/// The rate limits that the configuration declares.
#[derive(Default)]
pub struct Quotas {
    declared: ArcSwap<RateLimits>,
}

impl Quotas {
    /// Full buckets for the declared quotas. The configuration has checked that rates are above zero.
    pub fn new(declared: Vec<config::Quota>) -> Self {
        let quotas = Self::default();
        quotas.replace(declared);
        quotas
    }

    /// Declares others instead. A limit that stays as it was keeps its buckets. Gives the names of those
    /// that are new, other than before, or gone.
    pub fn replace(&self, declared: Vec<config::Quota>) -> Vec<String> {
        let before = self.declared.load_full();
        let after = before.replaced_by(declared.into_iter().map(RateLimit::from));
        let (old, new) = (before.all(), after.all());
        let gone = old
            .iter()
            .filter(|limit| new.iter().all(|other| other.name != limit.name));
        let changed = new.iter().filter(|limit| !old.contains(limit));
        let names = gone
            .chain(changed)
            .map(|limit| limit.name.clone())
            .collect();
        self.declared.store(Arc::new(after));
        names
    }

    /// The declared limits, in the order of their names.
    pub fn all(&self) -> Vec<RateLimit> {
        self.declared.load().all()
    }

    /// Counts a request for `path` from `address`.
    ///
    /// # Errors
    /// [`Failure::TooMany`] where it comes too soon.
    pub fn check(&self, path: &str, address: Option<IpAddr>) -> Result<(), Failure> {
        self.declared.load().check(path, address)
    }
}

/// How many leases an entity may hold; a token, where it stands for no entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseCount {
    /// Names it.
    pub name: String,
    /// Leases below this path count; all if it is empty.
    pub path: String,
    /// At most so many.
    pub max_leases: usize,
}

/// The most that a [`LeaseCount`] may allow: counting reads that many names.
pub const MOST_LEASES: usize = 10_000;

/// The quotas written over the API.
pub struct StoredQuotas {
    barrier: Arc<Barrier>,
    rates: ArcSwap<RateLimits>,
    /// Longest path first.
    counts: ArcSwap<Vec<LeaseCount>>,
    /// One change at a time, so that memory and storage agree.
    changing: Mutex<()>,
}

impl StoredQuotas {
    /// Loads what is stored.
    pub(super) async fn open(barrier: Arc<Barrier>) -> Result<Self, Failure> {
        let quotas = Self {
            barrier,
            rates: ArcSwap::default(),
            counts: ArcSwap::default(),
            changing: Mutex::default(),
        };
        quotas.load_rates().await?;
        quotas.load_counts().await?;
        Ok(quotas)
    }

    /// Counts a request for `path` from `address`.
    pub(super) fn check(&self, path: &str, address: Option<IpAddr>) -> Result<(), Failure> {
        self.rates.load().check(path, address)
    }

    /// Whether `principal` may get one more lease below `path`. Requests at the same time may each be the
    /// last one: the count is exceeded by as many at most.
    pub(super) async fn check_leases(
        &self,
        leases: &Leases,
        path: &str,
        principal: &Principal,
    ) -> Result<(), Failure> {
        let counts = self.counts.load_full();
        let Some(limit) = counts.iter().find(|limit| path.starts_with(&limit.path)) else {
            return Ok(());
        };
        let held = match (&principal.record.entity_id, principal.anchor()) {
            (Some(entity), _) => {
                leases
                    .held_by_entity(entity, &limit.path, limit.max_leases)
                    .await?
            }
            (None, Some(token)) => {
                leases
                    .held_by_token(token, &limit.path, limit.max_leases)
                    .await?
            }
            // A batch token without a parent holds leases that hang on nothing; its end is theirs.
            (None, None) => 0,
        };
        if held < limit.max_leases {
            return Ok(());
        }
        Err(Failure::TooMany {
            quota: limit.name.clone(),
            retry_after: COME_BACK,
        })
    }

    /// The rate limits, by name.
    pub fn rates(&self) -> BTreeMap<String, RateLimit> {
        let all = self.rates.load().all();
        all.into_iter()
            .map(|limit| (limit.name.clone(), limit))
            .collect()
    }

    /// The lease counts, by name.
    pub fn counts(&self) -> BTreeMap<String, LeaseCount> {
        let all = self.counts.load();
        all.iter()
            .map(|limit| (limit.name.clone(), limit.clone()))
            .collect()
    }

    /// Writes a rate limit. Its buckets are full again.
    pub async fn put_rate(&self, limit: &RateLimit) -> Result<(), Failure> {
        let _change = self.changing.lock().await;
        self.put(RATES, &limit.name, limit).await?;
        self.load_rates().await
    }

    /// Deletes a rate limit; no error where there is none.
    pub async fn delete_rate(&self, name: &str) -> Result<(), Failure> {
        let _change = self.changing.lock().await;
        let batch = Batch::new().delete(format!("{RATES}{name}"));
        self.barrier.apply(batch).await?;
        self.load_rates().await
    }

    /// Writes a lease count.
    pub async fn put_count(&self, limit: &LeaseCount) -> Result<(), Failure> {
        let _change = self.changing.lock().await;
        self.put(COUNTS, &limit.name, limit).await?;
        self.load_counts().await
    }

    /// Deletes a lease count; no error where there is none.
    pub async fn delete_count(&self, name: &str) -> Result<(), Failure> {
        let _change = self.changing.lock().await;
        let batch = Batch::new().delete(format!("{COUNTS}{name}"));
        self.barrier.apply(batch).await?;
        self.load_counts().await
    }

    async fn put<T: Serialize>(&self, prefix: &str, name: &str, quota: &T) -> Result<(), Failure> {
        let batch = Batch::new()
            .put_json(format!("{prefix}{name}"), quota)
            .map_err(|_| Failure::Internal("quota cannot be encoded".into()))?;
        self.barrier.apply(batch).await?;
        Ok(())
    }

    async fn load_rates(&self) -> Result<(), Failure> {
        let stored: Vec<RateLimit> = self.stored(RATES).await?;
        let rates = self.rates.load().replaced_by(stored);
        self.rates.store(Arc::new(rates));
        Ok(())
    }

    async fn load_counts(&self) -> Result<(), Failure> {
        let mut stored: Vec<LeaseCount> = self.stored(COUNTS).await?;
        stored.sort_by_key(|limit| std::cmp::Reverse(limit.path.len()));
        self.counts.store(Arc::new(stored));
        Ok(())
    }

    async fn stored<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<T>, Failure> {
        let entries = self.barrier.entries(prefix, None, MOST).await?;
        entries
            .iter()
            .map(|(key, entry)| {
                serde_json::from_slice(entry.value.expose())
                    .map_err(|_| Failure::Internal(format!("quota record {key} is not valid")))
            })
            .collect()
    }
}
