//! Revoking certificates. The CRLs that say so are in [`crate::crl`].
//!
//! **Invariant:** a revocation and the mark that makes the CRL due are one batch; the first revocation of a
//! certificate stands, and its time is the one that is shown and listed.

use std::sync::Arc;
use std::time::SystemTime;

use daypass_certs::{Certificate, Serial};
use daypass_contract::{
    BackendError, Batch, Call, Keys, ListRequest, Reply, Revocation, Store, StoreError, millis,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Pki;
use crate::crl;
use crate::error::in_field;
use crate::list;
use crate::records::{StoredCertificate, delete_where, name_of, record_key, shown};
use crate::state::Snapshot;
use crate::validity::{rfc3339, unix};

/// Most CAs whose revocations one request looks through: far more than a mount has issuers.
const CAS: usize = 10_000;

/// That a certificate was revoked: `revoked/{ca}/{serial}`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct RevokedRecord {
    #[serde(with = "millis")]
    pub(crate) at: SystemTime,
    /// When the certificate ends.
    #[serde(with = "millis")]
    pub(crate) not_after: SystemTime,
}

impl RevokedRecord {
    pub(crate) async fn load(
        store: &dyn Store,
        ca: &str,
        serial: &Serial,
    ) -> Result<Option<Self>, BackendError> {
        match store.get(&revoked_key(ca, &name_of(serial))).await? {
            Some(entry) => entry.decode().map(Some),
            None => Ok(None),
        }
    }
}

pub(crate) fn revoked_key(ca: &str, name: &str) -> String {
    format!("revoked/{ca}/{name}")
}

/// Revokes a certificate that the key of `ca` signed, and gives the time since when it is revoked.
pub(crate) async fn revoke(
    store: &dyn Store,
    ca: &str,
    certificate: &Certificate,
    now: SystemTime,
) -> Result<(SystemTime, Revocation), BackendError> {
    let serial = certificate.serial();
    let key = revoked_key(ca, &name_of(serial));
    // As it will be read back.
    let now = millis::at(millis::of(now));
    let record = RevokedRecord {
        at: now,
        not_after: certificate.validity().not_after(),
    };
    let batch = Batch::new().expect(&key, None).put_json(&key, &record)?;
    match store.apply(crl::mark(batch, ca)).await {
        Ok(()) => Ok((now, Revocation::Revoked)),
        Err(StoreError::Conflict) => match RevokedRecord::load(store, ca, serial).await? {
            Some(known) => Ok((known.at, Revocation::AlreadyGone)),
            None => Err(StoreError::Conflict.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Deletes the revocations of certificates that ended before `before`, and says how many they were.
pub(crate) async fn tidy(store: &dyn Store, before: SystemTime) -> Result<usize, BackendError> {
    let mut deleted = 0;
    for folder in store.list("revoked/", None, CAS).await? {
        let prefix = format!("revoked/{folder}");
        let expired = |record: RevokedRecord| Ok(record.not_after < before);
        let of_ca = delete_where(store, &prefix, expired).await?;
        if of_ca > 0 {
            let ca = folder.trim_end_matches('/');
            store.apply(crl::mark(Batch::new(), ca)).await?;
        }
        deleted += of_ca;
    }
    Ok(deleted)
}

/// Which certificate to revoke.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct RevokeRequest {
    /// Hexadecimal octets, with colons, hyphens or nothing between them.
    serial_number: String,
    /// The certificate itself in PEM, which may be one that was not stored.
    certificate: String,
}

/// Since when a certificate is revoked.
#[derive(Serialize, JsonSchema)]
pub(crate) struct RevokedView {
    revocation_time: u64,
    revocation_time_rfc3339: String,
    state: &'static str,
}

/// `POST revoke`.
pub(crate) async fn revoke_request(
    pki: Arc<Pki>,
    call: Call,
    request: RevokeRequest,
) -> Result<Reply<RevokedView>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let (stored, certificate) = match (&*request.serial_number, &*request.certificate) {
        ("", "") => {
            let problem = "is required, or else the certificate";
            return Err(BackendError::field("serial_number", problem));
        }
        (serial, "") => by_serial(pki.store(), serial).await?,
        ("", certificate) => by_certificate(pki.store(), &snapshot, certificate).await?,
        _ => {
            let problem = "cannot be given together with the certificate";
            return Err(BackendError::field("serial_number", problem));
        }
    };
    if snapshot.issuers().any(|own| own.certificate == certificate) {
        return Err(BackendError::InvalidRequest(
            "this is an issuer of this mount, which its own issuer revokes: delete it here instead"
                .into(),
        ));
    }
    let expired = certificate.validity().not_after() < call.now;
    if expired && !snapshot.state.crl.allow_expired_cert_revocation {
        let text = "the certificate has expired already: there is nothing to revoke";
        return Ok(Reply::nothing().warn(text));
    }
    let (at, _) = revoke(pki.store(), &stored.ca, &certificate, call.now).await?;
    Reply::data(&RevokedView {
        revocation_time: unix(at),
        revocation_time_rfc3339: rfc3339(at),
        state: "revoked",
    })
}

async fn by_serial(
    store: &dyn Store,
    serial: &str,
) -> Result<(StoredCertificate, Certificate), BackendError> {
    let serial: Serial = serial.parse().map_err(in_field("serial_number"))?;
    let stored = StoredCertificate::load(store, &serial).await?.ok_or_else(|| {
        let problem = "there is no certificate with this serial number; one that was not stored can be \
                       revoked by giving the certificate";
        BackendError::field("serial_number", problem)
    })?;
    let certificate = stored.certificate()?;
    Ok((stored, certificate))
}

/// A certificate from outside is kept, so that it can be shown as revoked.
async fn by_certificate(
    store: &dyn Store,
    snapshot: &Snapshot,
    text: &str,
) -> Result<(StoredCertificate, Certificate), BackendError> {
    let certificate =
        Certificate::from_pem_or_der(text.as_bytes()).map_err(in_field("certificate"))?;
    let issuer = snapshot
        .issuers()
        .find(|issuer| certificate.is_signed_by(&issuer.certificate));
    let issuer = issuer.ok_or_else(|| {
        BackendError::field("certificate", "was not signed by any issuer of this mount")
    })?;
    let stored = StoredCertificate::of(&certificate, &issuer.id, &issuer.ca);
    let batch = Batch::new().put_json(record_key(certificate.serial()), &stored)?;
    store.apply(batch).await?;
    Ok((stored, certificate))
}

/// `LIST certs/revoked`.
pub(crate) async fn list_revoked(
    pki: Arc<Pki>,
    _: Call,
    request: ListRequest,
) -> Result<Reply<Keys>, BackendError> {
    let limit = request.limit.unwrap_or(list::MOST);
    let after = match request.after.as_deref() {
        Some(after) => Some(name_of(&after.parse().map_err(in_field("after"))?)),
        None => None,
    };
    let mut names = Vec::new();
    for ca in pki.store().list("revoked/", None, CAS).await? {
        let prefix = format!("revoked/{ca}");
        names.extend(pki.store().list(&prefix, after.as_deref(), limit).await?);
    }
    names.sort_unstable();
    names.truncate(limit);
    let serials = names
        .iter()
        .map(|name| shown(name))
        .collect::<Result<_, _>>()?;
    list::reply(serials, request.limit)
}
