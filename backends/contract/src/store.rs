//! A mount's own storage: small, ordered, atomic, already sealed.
//!
//! The engine gives each mount a view under a prefix of its own; a mount cannot name a key outside
//! it. Keys are paths in clear text (they are listed and ordered); values are sealed at rest.

use std::fmt;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{BackendError, Source};
use crate::secret::Secret;

/// Which write of a key this is. It changes with every write and is never used twice for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision(pub u64);

/// What a key holds.
pub struct Entry {
    /// The value as it was put.
    pub value: Secret,
    /// For [`Batch::expect`], so that a read and the write that follows from it are one step.
    pub revision: Revision,
}

impl Entry {
    /// Reads the value as the JSON it was stored as.
    ///
    /// # Errors
    /// [`BackendError::Internal`] where the record does not have the shape of `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, BackendError> {
        // serde_json's message may quote the value: only the place is kept.
        serde_json::from_slice(self.value.expose()).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            BackendError::Internal(format!("stored record is not valid at {line}:{column}").into())
        })
    }
}

/// What one step of a [`Batch`] does to a key.
pub enum Write {
    /// Sets the value.
    Put(String, Secret),
    /// Removes the key; no error where it is absent.
    Delete(String),
}

/// Writes that happen together or not at all, under conditions.
#[derive(Default)]
pub struct Batch {
    /// Each key must be at this revision (`None`: absent) or nothing is written.
    pub expected: Vec<(String, Option<Revision>)>,
    /// In order; a later write to the same key wins.
    pub writes: Vec<Write>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition: `key` is still at `revision`, or still absent.
    #[must_use]
    pub fn expect(mut self, key: impl Into<String>, revision: Option<Revision>) -> Self {
        self.expected.push((key.into(), revision));
        self
    }

    /// Sets `key` to the bytes of `value`.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: Secret) -> Self {
        self.writes.push(Write::Put(key.into(), value));
        self
    }

    /// Sets `key` to `value` as JSON.
    ///
    /// # Errors
    /// [`BackendError::Internal`] where `value` has no JSON form.
    pub fn put_json<T: Serialize>(
        self,
        key: impl Into<String>,
        value: &T,
    ) -> Result<Self, BackendError> {
        let bytes = serde_json::to_vec(value)
            .map_err(|_| BackendError::Internal("record cannot be encoded".into()))?;
        Ok(self.put(key, Secret::new(bytes)))
    }

    /// Removes `key`.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.push(Write::Delete(key.into()));
        self
    }
}

/// Why storage failed.
#[derive(Debug)]
pub enum StoreError {
    /// A condition of the batch did not hold: read again and decide again.
    Conflict,
    /// Reading or writing failed; nothing of the batch was kept.
    Failed(Source),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict => f.write_str("the record was changed by another request; try again"),
            Self::Failed(source) => write!(f, "storage failed: {source}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// A mount's view of storage. Every method is durable, or has read what is durable, when it returns.
#[async_trait]
pub trait Store: Send + Sync {
    /// The value of `key`, or `None`.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// One level of names below `prefix` (which is empty or ends in `/`), in order: a key gives its
    /// name, a deeper level its name with a trailing `/`, once. Starts after the name `after`, gives
    /// at most `limit` names.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StoreError>;

    /// Applies a batch: all of it, or none of it and an error.
    async fn apply(&self, batch: Batch) -> Result<(), StoreError>;
}
