//! What must be durable before a task writes anything.
//!
//! Whether a request changes what is stored may show only while it is carried out. Such work is given what
//! its writes have to wait for, and the barrier waits, whoever in that work makes the first of them; work
//! that writes nothing waits for nothing.
//!
//! **Invariant:** no write made in [`writing_after`] reaches the store before [`First::durable`] has
//! succeeded. A task that the work spawns is not part of it; only the engine's tracker may spawn one.

use std::sync::Arc;

use daypass_contract::{Source, async_trait};

use super::StorageError;

/// Something that writes wait for.
#[async_trait]
pub trait First: Send + Sync {
    /// Returns once it is durable, at once where it is already.
    ///
    /// # Errors
    /// It may be lost: nothing is written then.
    async fn durable(&self) -> Result<(), Source>;
}

tokio::task_local! {
    static FIRST: Arc<dyn First>;
}

/// Carries out `work`, whose writes wait for `first`.
pub async fn writing_after<Work: Future>(first: Arc<dyn First>, work: Work) -> Work::Output {
    FIRST.scope(first, work).await
}

/// Waits for what this task's writes wait for, where they do.
pub(super) async fn wait() -> Result<(), StorageError> {
    match FIRST.try_with(Arc::clone) {
        Ok(first) => first.durable().await.map_err(StorageError::Unavailable),
        Err(_) => Ok(()),
    }
}
