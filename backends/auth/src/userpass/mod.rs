//! The auth method `userpass`.

use std::sync::Arc;

use daypass_contract::{
    Backend, BackendError, BackendRoutes, Handle, Host, Presence, Revocability, Revocation,
    async_trait,
};

/// Opens a mount.
///
/// # Errors
/// [`BackendError::Store`] where its settings cannot be read.
pub async fn open(_host: Host) -> Result<Arc<dyn Backend>, BackendError> {
    Ok(Arc::new(UserPass))
}

struct UserPass;

#[async_trait]
impl Backend for UserPass {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        BackendRoutes::default()
    }

    fn revocability(&self) -> Revocability {
        crate::revocability()
    }

    async fn revoke(&self, _: &Handle) -> Result<Revocation, BackendError> {
        crate::not_leased()
    }

    async fn verify(&self, _: &Handle) -> Result<Presence, BackendError> {
        crate::not_leased()
    }
}
