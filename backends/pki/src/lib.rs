//! X.509 certificates and SVIDs: the Vault `pki` API, with roles for SPIFFE besides.
//!
//! # Invariants
//!
//! * **Nothing is issued that its record does not survive**: a certificate is durable before it is answered,
//!   unless its role says `no_store`.
//! * **A caller's private key is in the answer only**; the private keys of issuers are in the sealed store
//!   and in the memory that signs with them.
//! * **A role that issues X.509-SVIDs issues nothing else.**
//! * **No node signs by what has changed**: each request compares the revision of the mount's state with that
//!   of the issuers it has loaded.

mod answer;
mod error;
mod issue;
mod issuers;
mod keygen;
mod list;
mod merge;
mod names;
mod records;
mod revocation;
mod role;
mod routes;
mod state;
mod subject;
mod validity;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use daypass_certs::Serial;
use daypass_contract::{
    Backend, BackendError, BackendRoutes, Handle, Host, Presence, Revocability, Revocation, Store,
    async_trait,
};

use crate::issue::LeasedCertificate;
use crate::keygen::Keygen;
use crate::records::StoredCertificate;
use crate::revocation::{Revocations, RevokedRecord};
use crate::state::Mount;

/// A mount that issues certificates.
pub struct Pki {
    mount: Mount,
    keygen: Keygen,
    revocations: Revocations,
}

/// Opens a mount, and reads its issuers so that damage shows at once.
///
/// # Errors
/// Where storage fails, or what is stored cannot be read.
pub async fn open(host: Host) -> Result<Arc<Pki>, BackendError> {
    let pki = Pki {
        mount: Mount::new(host),
        keygen: Keygen::new(),
        revocations: Revocations::default(),
    };
    pki.mount.snapshot().await?;
    Ok(Arc::new(pki))
}

impl Pki {
    fn store(&self) -> &dyn Store {
        &*self.mount.host.store
    }

    /// The stored certificate of a lease, unless it was revoked or has ended.
    async fn current(
        &self,
        leased: &LeasedCertificate,
    ) -> Result<Option<daypass_certs::Certificate>, BackendError> {
        let serial: Serial = leased.serial.parse().map_err(error::internal)?;
        let Some(stored) = StoredCertificate::load(self.store(), &serial).await? else {
            return Ok(None);
        };
        let certificate = stored.certificate()?;
        let ended = certificate.validity().not_after() < self.mount.host.clock.now();
        let revoked = RevokedRecord::load(self.store(), &leased.issuer, &serial).await?;
        Ok((!ended && revoked.is_none()).then_some(certificate))
    }
}

#[async_trait]
impl Backend for Pki {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        routes::routes(&self)
    }

    fn revocability(&self) -> Revocability {
        Revocability::BestEffort {
            reason: "a revoked certificate is refused by peers that fetch the CRL, once they have fetched the \
                     new one; others accept it until it expires"
                .into(),
        }
    }

    async fn exists(&self, path: &str) -> Result<bool, BackendError> {
        match path.strip_prefix("roles/") {
            Some(name) => Ok(role::load(self.store(), name).await?.is_some()),
            None => Ok(true),
        }
    }

    async fn revoke(&self, handle: &Handle) -> Result<Revocation, BackendError> {
        let leased: LeasedCertificate = handle.decode()?;
        let Some(certificate) = self.current(&leased).await? else {
            return Ok(Revocation::AlreadyGone);
        };
        let now = self.mount.host.clock.now();
        let (_, how) = revocation::revoke(self, &leased.issuer, &certificate, now).await?;
        Ok(how)
    }

    async fn verify(&self, handle: &Handle) -> Result<Presence, BackendError> {
        Ok(match self.current(&handle.decode()?).await? {
            Some(_) => Presence::Present,
            None => Presence::Absent,
        })
    }

    async fn maintain(&self, now: SystemTime) -> Result<Option<SystemTime>, BackendError> {
        revocation::maintain(self, now).await.map(Some)
    }
}
