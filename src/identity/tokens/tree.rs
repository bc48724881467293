//! The steps of revoking a tree of tokens, for many at a time: a page of tokens shares one durable write.
//!
//! Each step does what its namesake for one token does, and falls back to it where a record of the page
//! was changed meanwhile.

use daypass_contract::Batch;

use super::{Removal, TokenError, TokenId, Tokens, child_prefix, forget, mark, put, record_key};
use crate::storage::StorageError;

/// Tokens written in one batch.
const TOGETHER: usize = 256;

impl Tokens {
    /// [`Tokens::mark_revoked`] for each of `ids`, in their order.
    pub async fn mark_all_revoked(
        &self,
        ids: &[TokenId],
        removal: Removal,
    ) -> Result<Vec<Option<Removal>>, TokenError> {
        let mut decided = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(TOGETHER) {
            let now = self.clock.now();
            let (mut batch, mut in_chunk) = (Batch::new(), Vec::new());
            for id in chunk {
                in_chunk.push(match self.load(id).await? {
                    None => None,
                    Some((record, _)) if record.revoked => Some(record.removal),
                    Some((mut record, revision)) => {
                        batch = mark(batch, id, &mut record, removal, now);
                        batch = put(batch.expect(record_key(id), Some(revision)), id, &record)?;
                        Some(removal)
                    }
                });
            }
            if !self.applied(batch).await? {
                in_chunk.clear();
                for id in chunk {
                    in_chunk.push(self.mark_revoked(id, removal).await?);
                }
            }
            decided.append(&mut in_chunk);
        }
        Ok(decided)
    }

    /// [`Tokens::orphan`] for each of `children`.
    pub async fn orphan_all(
        &self,
        parent: &TokenId,
        children: &[TokenId],
    ) -> Result<(), TokenError> {
        for chunk in children.chunks(TOGETHER) {
            let mut batch = Batch::new();
            for child in chunk {
                batch = batch.delete(format!("{}{}", child_prefix(parent), child.as_str()));
                if let Some((mut record, revision)) = self.load(child).await? {
                    record.parent = None;
                    let expected = batch.expect(record_key(child), Some(revision));
                    batch = put(expected, child, &record)?;
                }
            }
            if !self.applied(batch).await? {
                for child in chunk {
                    self.orphan(parent, child).await?;
                }
            }
        }
        Ok(())
    }

    /// [`Tokens::remove`] for each of `ids`.
    pub async fn remove_all(&self, ids: &[TokenId]) -> Result<(), TokenError> {
        for chunk in ids.chunks(TOGETHER) {
            let mut batch = Batch::new();
            for id in chunk {
                if let Some((record, _)) = self.load(id).await? {
                    self.discard_all(id).await?;
                    batch = forget(batch, id, &record);
                }
            }
            // Nothing is expected of the records, so nothing conflicts: a revoked token changes no more.
            self.applied(batch).await?;
        }
        Ok(())
    }

    /// Writes a batch, if there is anything in it. `false`: something it expects has changed.
    async fn applied(&self, batch: Batch) -> Result<bool, TokenError> {
        if batch.writes.is_empty() {
            return Ok(true);
        }
        match self.barrier.apply(batch).await {
            Ok(_) => Ok(true),
            Err(StorageError::Conflict) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
