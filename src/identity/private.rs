//! What a token keeps for itself: its cubbyhole, and the answer that a wrapping token stands for.
//!
//! **Invariant:** it is stored only while the token lives and goes with it, in whatever way it ends.

use daypass_contract::{Batch, Secret};

use super::token::TokenId;
use super::tokens::{RACES, TokenError, Tokens, record_key};
use crate::storage::StorageError;

/// Rows deleted at a time when a token goes.
const PAGE: usize = 500;

/// A shelf of what a token keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    /// What its holder put there.
    Cubbyhole,
    /// The answer it stands for.
    Wrapped,
}

fn token_prefix(id: &TokenId) -> String {
    format!("token/p/{}/", id.as_str())
}

fn prefix(id: &TokenId, shelf: Shelf) -> String {
    let shelf = match shelf {
        Shelf::Cubbyhole => "c",
        Shelf::Wrapped => "w",
    };
    format!("{}{shelf}/", token_prefix(id))
}

impl Tokens {
    /// Keeps `value` under `path` for a token that lives.
    pub async fn keep(
        &self,
        id: &TokenId,
        shelf: Shelf,
        path: &str,
        value: &Secret,
    ) -> Result<(), TokenError> {
        for _ in 0..RACES {
            // Whoever revokes the token deletes what it keeps; nothing may come after that.
            let (record, revision) = self.load(id).await?.ok_or(TokenError::NotFound)?;
            if record.revoked {
                return Err(TokenError::NotFound);
            }
            let batch = Batch::new()
                .expect(record_key(id), Some(revision))
                .put(prefix(id, shelf) + path, value.duplicate());
            match self.barrier.apply(batch).await {
                Err(StorageError::Conflict) => {}
                other => return Ok(other.map(drop)?),
            }
        }
        Err(StorageError::Conflict.into())
    }

    /// What a token keeps under `path`.
    pub async fn kept(
        &self,
        id: &TokenId,
        shelf: Shelf,
        path: &str,
    ) -> Result<Option<Secret>, TokenError> {
        let entry = self.barrier.get(&(prefix(id, shelf) + path)).await?;
        Ok(entry.map(|entry| entry.value))
    }

    /// Forgets what a token keeps under `path`.
    pub async fn discard(&self, id: &TokenId, shelf: Shelf, path: &str) -> Result<(), TokenError> {
        let batch = Batch::new().delete(prefix(id, shelf) + path);
        Ok(self.barrier.apply(batch).await.map(drop)?)
    }

    /// Up to `limit` paths below `path` (which ends in a slash or is empty), relative to it.
    pub async fn kept_below(
        &self,
        id: &TokenId,
        shelf: Shelf,
        path: &str,
        limit: usize,
    ) -> Result<Vec<String>, TokenError> {
        let prefix = prefix(id, shelf) + path;
        let keys = self.barrier.keys(&prefix, None, limit).await?;
        Ok(keys
            .iter()
            .filter_map(|key| key.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect())
    }

    /// Forgets everything that a token keeps.
    pub(super) async fn discard_all(&self, id: &TokenId) -> Result<(), TokenError> {
        let prefix = token_prefix(id);
        loop {
            let keys = self.barrier.keys(&prefix, None, PAGE).await?;
            if keys.is_empty() {
                return Ok(());
            }
            let batch = keys.into_iter().fold(Batch::new(), Batch::delete);
            self.barrier.apply(batch).await?;
        }
    }
}
