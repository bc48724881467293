//! Placeholder.
use daypass_contract::*;
use std::sync::Arc;
/// Opens.
pub async fn open(_: Host) -> Result<Arc<dyn Backend>, BackendError> {
    Err(BackendError::Unsupported("later".into()))
}
