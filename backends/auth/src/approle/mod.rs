//! The auth method `approle`: a role id says which program, a secret id proves it.
//!
//! # Invariants
//!
//! * **A secret id is readable once.** The answer that delivers it is the only place it is in; the store
//!   keeps an HMAC of it under a random key of the mount.
//! * **n uses are n.** A use is counted, durably and on condition that nobody else counted it, before the
//!   login is answered. A crash can waste a use, never give one.
//! * **A role takes its secret ids along.** They are kept under a key that no other role ever has, so those
//!   of a deleted role are dead at once and removed soon.
//!
//! A login reads two records, and writes only where uses are counted.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::hmac;
use daypass_contract::route::Endpoint;
use daypass_contract::{
    Backend, BackendError, BackendRoutes, Batch, Effect, Handle, Handler, Host, Presence,
    Revocability, Revocation, Secret, StoreError, TokenParameters, async_trait,
};
use tokio::sync::Mutex;

mod bound;
mod fields;
mod login;
mod metadata;
mod role;
mod roles;
mod secret_id;
mod secret_ids;
mod store;
mod tidy;

#[cfg(test)]
mod tests;

/// Where the mount's key is kept.
const MOUNT_KEY: &str = "key";

/// More turns than logins at once that count uses of different secret ids, mostly.
const TURNS: usize = 64;

/// Opens a mount.
///
/// # Errors
/// [`BackendError::Store`] where its key can neither be read nor made.
pub async fn open(host: Host) -> Result<Arc<dyn Backend>, BackendError> {
    Ok(Arc::new(AppRole::open(host).await?))
}

struct AppRole {
    host: Host,
    /// Under which ids are hashed.
    key: hmac::Key,
    /// Logins that count uses of the same secret id wait for each other here instead of overtaking each
    /// other in the store; between servers, the store's revisions decide.
    turns: [Mutex<()>; TURNS],
}

impl AppRole {
    async fn open(host: Host) -> Result<Self, BackendError> {
        let key = loop {
            if let Some(entry) = host.store.get(MOUNT_KEY).await? {
                break hmac::Key::new(hmac::HMAC_SHA256, entry.value.expose());
            }
            let fresh = Secret::new(host.entropy.bytes::<32>());
            let batch = Batch::new().expect(MOUNT_KEY, None).put(MOUNT_KEY, fresh);
            match host.store.apply(batch).await {
                // Another server made it meanwhile, or this one just now.
                Ok(()) | Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Self {
            host,
            key,
            turns: [const { Mutex::const_new(()) }; TURNS],
        })
    }
}

#[async_trait]
impl Backend for AppRole {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        let mut routes = BackendRoutes::default();
        routes.login(
            &self,
            "login",
            "Logs in with a role id and a secret id.",
            // 128 random bits are not guessed, and a role id is not secret: locking it out would only let
            // anyone keep its owner out.
            |_| None,
            Self::login,
        );
        roles::declare(&self, &mut routes);
        fields::declare(&self, &mut routes);
        secret_ids::declare(&self, &mut routes);
        tidy::declare(&self, &mut routes);
        routes
    }

    fn revocability(&self) -> Revocability {
        crate::revocability()
    }

    async fn exists(&self, path: &str) -> Result<bool, BackendError> {
        match path.trim_end_matches('/').strip_prefix("role/") {
            Some(name) if !name.contains('/') => {
                Ok(self.role_named(&name.to_ascii_lowercase()).await?.is_some())
            }
            _ => Ok(true),
        }
    }

    async fn revoke(&self, _: &Handle) -> Result<Revocation, BackendError> {
        crate::not_leased()
    }

    async fn verify(&self, _: &Handle) -> Result<Presence, BackendError> {
        crate::not_leased()
    }

    async fn maintain(&self, now: SystemTime) -> Result<Option<SystemTime>, BackendError> {
        self.tidy(now).await.map(Some)
    }

    async fn renew_login(&self, renewal: &Handle) -> Result<TokenParameters, BackendError> {
        self.ask_again(renewal).await
    }
}

/// For a write, as the Vault API has it, that only looks something up.
fn only_looks(endpoint: &mut Endpoint<Handler>) {
    endpoint.effect = Effect::Observe;
}
