//! Optimistic writes, decided again when another request was faster.

use daypass_contract::{BackendError, StoreError};

/// More conflicts in a row than this are answered as what they are.
const ATTEMPTS: usize = 16;

/// Runs `attempt` until it is not overtaken by another request: it reads, decides, and writes on condition
/// that what it read has not changed.
///
/// # Errors
/// Those of `attempt`; a conflict only after many.
pub(crate) async fn until_settled<T, F, Fut>(mut attempt: F) -> Result<T, BackendError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, BackendError>>,
{
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(BackendError::Store(StoreError::Conflict)) => {}
            other => return other,
        }
    }
    attempt().await
}
