//! What stands in for a backend that does not open: its mount keeps its place and its leases, and both say
//! why nothing works.

use std::sync::Arc;

use daypass_contract::{
    Backend, BackendError, BackendRoutes, Handle, Presence, Revocability, Revocation, async_trait,
};

/// Answers to nothing; its revocations wait, with the reason.
pub(super) struct Unopened {
    reason: String,
}

impl Unopened {
    pub(super) fn new(reason: String) -> Self {
        Self { reason }
    }

    fn away<T>(&self) -> Result<T, BackendError> {
        Err(BackendError::Unavailable {
            retry_after: None,
            source: format!("the mount does not open: {}", self.reason).into(),
        })
    }
}

#[async_trait]
impl Backend for Unopened {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        BackendRoutes::default()
    }

    fn revocability(&self) -> Revocability {
        Revocability::BestEffort {
            reason: format!("the mount does not open: {}", self.reason),
        }
    }

    async fn revoke(&self, _: &Handle) -> Result<Revocation, BackendError> {
        self.away()
    }

    async fn verify(&self, _: &Handle) -> Result<Presence, BackendError> {
        self.away()
    }
}
