//! Storage: ordered rows that outlive the process, and the barrier that seals what they hold.
//!
//! [`Storage`] is the physical store: what it sees is already sealed. [`Barrier`] seals and opens values
//! and is the only way for the rest of Daypass to reach a `Storage`; [`seal`] decides when the barrier
//! opens.
//!
//! # Invariants
//!
//! * A batch is written whole or not at all, and is durable when [`Storage::apply`] returns.
//! * A read sees every batch whose `apply` returned before the read began.
//! * Keys are clear text, ordered by their bytes. Values are sealed; nothing here can read one.

pub mod agenda;
mod barrier;
mod embedded;
mod error;
mod first;
mod keyring;
pub mod memory;
pub mod seal;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod view;

use bytes::Bytes;
use daypass_contract::{Revision, async_trait};

pub use self::barrier::{Barrier, KeyStatus};
pub use self::embedded::{Embedded, Options, Statistics};
pub use self::error::StorageError;
pub use self::first::{First, writing_after};
pub use self::keyring::AutoRotation;

/// A stored value, sealed, and which write put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sealed value. Shared, so that a row handed out from memory is not copied.
    pub value: Bytes,
    /// The commit that wrote it: store-wide, increasing, never used twice, kept across restarts.
    pub revision: Revision,
}

/// Which keys to read, in order: from `start` (inclusive) to `end` (exclusive), at most `limit`.
#[derive(Clone, Debug)]
pub struct Range {
    /// The first key that may be given.
    pub start: String,
    /// The first key that may not; `None` reads to the last key.
    pub end: Option<String>,
    /// How many keys at most.
    pub limit: usize,
}

impl Range {
    /// The keys that begin with `prefix` and, where `after` is given, come after that key.
    pub fn prefix(prefix: &str, after: Option<&str>, limit: usize) -> Self {
        let start = match after {
            Some(after) if after >= prefix => just_after(after),
            _ => prefix.to_owned(),
        };
        Self {
            start,
            end: end_of_prefix(prefix),
            limit,
        }
    }
}

/// The least string greater than `key`.
fn just_after(key: &str) -> String {
    format!("{key}\0")
}

/// The least string greater than every string that begins with `prefix`; `None` where there is none.
fn end_of_prefix(prefix: &str) -> Option<String> {
    // UTF-8 orders by bytes as by characters, so the next character gives the next string.
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// One step of a [`WriteBatch`].
#[derive(Clone, Debug)]
pub enum RowWrite {
    /// Sets the sealed value of a key.
    Put(String, Bytes),
    /// Removes a key; no error where it is absent.
    Delete(String),
}

impl RowWrite {
    /// The key it writes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// Writes that happen together or not at all, under conditions.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    /// Each key must be at this revision (`None`: absent) or nothing is written.
    pub expected: Vec<(String, Option<Revision>)>,
    /// In order; a later write to the same key wins.
    pub writes: Vec<RowWrite>,
}

/// A physical store of sealed rows.
#[async_trait]
pub trait Storage: Send + Sync {
    /// The row at `key`. Answers from memory where it can.
    async fn get(&self, key: &str) -> Result<Option<Row>, StorageError>;

    /// The rows of a range, in order.
    async fn rows(&self, range: Range) -> Result<Vec<(String, Row)>, StorageError>;

    /// The keys of a range, in order, without reading values.
    async fn keys(&self, range: Range) -> Result<Vec<String>, StorageError>;

    /// One level of names below `prefix` (empty, or ending in `/`), in order, at most `limit`, starting
    /// after the name `after`: a key gives its name, a deeper level its name with a trailing `/`, once.
    /// Takes time in proportion to the names given, however many keys lie below them.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StorageError>;

    /// Applies a batch and gives the revision that its rows now have.
    async fn apply(&self, batch: WriteBatch) -> Result<Revision, StorageError>;

    /// Finishes what was accepted and gives the store up; everything later is answered
    /// [`StorageError::Unavailable`].
    async fn close(&self) -> Result<(), StorageError>;
}

/// Collects one level of names by jumping from name to name: `seek` gives the first key at or after
/// where it is told to look.
fn level_of(
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    mut seek: impl FnMut(&str) -> Result<Option<String>, StorageError>,
) -> Result<Vec<String>, StorageError> {
    let past = |name: &str| match name.strip_suffix('/') {
        // '0' follows '/': the first string past everything below this name.
        Some(folder) => format!("{prefix}{folder}0"),
        None => just_after(&format!("{prefix}{name}")),
    };
    let mut from = after.map_or_else(|| prefix.to_owned(), past);
    let mut names = Vec::new();
    while names.len() < limit {
        let Some(key) = seek(&from)? else { break };
        let Some(rest) = key.strip_prefix(prefix) else {
            break;
        };
        let name = match rest.split_once('/') {
            Some((folder, _)) => format!("{folder}/"),
            None => rest.to_owned(),
        };
        from = past(&name);
        names.push(name);
    }
    Ok(names)
}
