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
mod ca;
mod config;
mod crl;
mod error;
mod import;
mod issue;
mod issuers;
mod keygen;
mod list;
mod merge;
mod names;
mod public;
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

use daypass_certs::{Certificate, Serial};
use daypass_contract::{
    Backend, BackendError, BackendRoutes, Handle, Host, Presence, Revocability, Revocation, Store,
    async_trait,
};

use crate::issue::LeasedCertificate;
use crate::keygen::Keygen;
use crate::records::StoredCertificate;
use crate::revocation::RevokedRecord;
use crate::state::Mount;

/// A mount that issues certificates.
pub struct Pki {
    mount: Mount,
    keygen: Keygen,
    /// See [`crl::Known`].
    known: crl::Known,
}

/// Opens a mount, and reads its issuers so that damage shows at once.
///
/// # Errors
/// Where storage fails, or what is stored cannot be read.
pub async fn open(host: Host) -> Result<Arc<Pki>, BackendError> {
    let pki = Pki {
        mount: Mount::new(host),
        keygen: Keygen::new(),
        known: crl::Known::default(),
    };
    pki.mount.snapshot().await?;
    Ok(Arc::new(pki))
}

impl Pki {
    fn store(&self) -> &dyn Store {
        &*self.mount.host.store
    }

    /// The stored certificate of a lease, unless it was never issued or has ended.
    async fn unexpired(
        &self,
        leased: &LeasedCertificate,
    ) -> Result<Option<Certificate>, BackendError> {
        let serial: Serial = leased.serial.parse().map_err(error::internal)?;
        let Some(stored) = StoredCertificate::load(self.store(), &serial).await? else {
            return Ok(None);
        };
        let certificate = stored.certificate()?;
        let ended = certificate.validity().not_after() < self.mount.host.clock.now();
        Ok((!ended).then_some(certificate))
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

    async fn revoke(&self, handle: &Handle) -> Result<Revocation, BackendError> {
        let leased: LeasedCertificate = handle.decode()?;
        let Some(certificate) = self.unexpired(&leased).await? else {
            return Ok(Revocation::AlreadyGone);
        };
        let now = self.mount.host.clock.now();
        let (_, how) = revocation::revoke(self.store(), &leased.ca, &certificate, now).await?;
        Ok(how)
    }

    async fn verify(&self, handle: &Handle) -> Result<Presence, BackendError> {
        let leased: LeasedCertificate = handle.decode()?;
        let Some(certificate) = self.unexpired(&leased).await? else {
            return Ok(Presence::Absent);
        };
        let revoked = RevokedRecord::load(self.store(), &leased.ca, certificate.serial()).await?;
        Ok(match revoked {
            Some(_) => Presence::Absent,
            None => Presence::Present,
        })
    }

    async fn maintain(&self, now: SystemTime) -> Result<Option<SystemTime>, BackendError> {
        crl::maintain(self, now).await.map(Some)
    }
}
