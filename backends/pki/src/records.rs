//! The record of each certificate: `certs/…`.
//!
//! Its key is the serial number in hexadecimal. Serial numbers made here begin with the time, so that new
//! records are appended to the store's index instead of being spread over it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_certs::{Certificate, Serial};
use daypass_contract::{BackendError, Batch, Call, Keys, ListRequest, Reply, Store, duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Pki;
use crate::error::internal;
use crate::list;
use crate::revocation::{self, RevokedRecord};
use crate::validity::{rfc3339, unix};

/// How many records one step of tidying reads and deletes.
const PAGE: usize = 500;

/// A certificate as it is stored.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredCertificate {
    /// PEM.
    pub(crate) certificate: String,
    /// The id of its issuer.
    pub(crate) issuer: String,
    /// The CA whose key signed it, see [`crate::state::ca_of`]; it outlives the issuer.
    pub(crate) ca: String,
}

impl StoredCertificate {
    /// The record of what the issuer with this id signed, by the key `ca`.
    pub(crate) fn of(certificate: &Certificate, issuer: &str, ca: &str) -> Self {
        Self {
            certificate: certificate.pem(),
            issuer: issuer.to_owned(),
            ca: ca.to_owned(),
        }
    }

    /// What was stored under this serial number.
    pub(crate) async fn load(
        store: &dyn Store,
        serial: &Serial,
    ) -> Result<Option<Self>, BackendError> {
        match store.get(&record_key(serial)).await? {
            Some(entry) => entry.decode().map(Some),
            None => Ok(None),
        }
    }

    /// The certificate, read.
    pub(crate) fn certificate(&self) -> Result<Certificate, BackendError> {
        Certificate::from_pem_or_der(self.certificate.as_bytes()).map_err(internal)
    }
}

/// Where the certificate with this serial number is stored.
pub(crate) fn record_key(serial: &Serial) -> String {
    format!("certs/{}", name_of(serial))
}

/// A serial number as part of a key.
pub(crate) fn name_of(serial: &Serial) -> String {
    hex::encode(serial.as_be_bytes())
}

/// A part of a key as a serial number with colons.
pub(crate) fn shown(name: &str) -> Result<String, BackendError> {
    let serial: Serial = name.parse().map_err(internal)?;
    Ok(serial.to_string())
}

/// A certificate by its serial number.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct BySerial {
    /// Hexadecimal octets, with colons, hyphens or nothing between them.
    pub(crate) serial: String,
}

/// A certificate, and whether it was revoked.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CertificateView {
    /// PEM.
    pub(crate) certificate: String,
    /// For `cert/ca_chain`: the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_chain: Option<String>,
    /// The id of its issuer, where it was issued here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) issuer_id: Option<String>,
    /// Unix time; 0: not revoked.
    pub(crate) revocation_time: u64,
    /// The same in RFC 3339; empty: not revoked.
    pub(crate) revocation_time_rfc3339: String,
}

impl CertificateView {
    /// Of something that is not revoked.
    pub(crate) fn of(certificate: String) -> Self {
        Self {
            certificate,
            ca_chain: None,
            issuer_id: None,
            revocation_time: 0,
            revocation_time_rfc3339: String::new(),
        }
    }
}

/// `GET cert/{serial}`.
pub(crate) async fn read(
    pki: Arc<Pki>,
    _: Call,
    request: BySerial,
) -> Result<Reply<CertificateView>, BackendError> {
    let Ok(serial) = request.serial.parse::<Serial>() else {
        return Err(BackendError::NotFound);
    };
    let stored = StoredCertificate::load(pki.store(), &serial).await?;
    let stored = stored.ok_or(BackendError::NotFound)?;
    let revoked = RevokedRecord::load(pki.store(), &stored.ca, &serial).await?;
    let mut view = CertificateView::of(stored.certificate);
    view.issuer_id = Some(stored.issuer);
    if let Some(revoked) = revoked {
        view.revocation_time = unix(revoked.at);
        view.revocation_time_rfc3339 = rfc3339(revoked.at);
    }
    Reply::data(&view)
}

/// `LIST certs`.
pub(crate) async fn list_serials(
    pki: Arc<Pki>,
    _: Call,
    request: ListRequest,
) -> Result<Reply<Keys>, BackendError> {
    let after = match request.after.as_deref() {
        Some(after) => Some(name_of(
            &after.parse().map_err(crate::error::in_field("after"))?,
        )),
        None => None,
    };
    let limit = request.limit.unwrap_or(list::MOST);
    let names = pki.store().list("certs/", after.as_deref(), limit).await?;
    let serials = names
        .iter()
        .map(|name| shown(name))
        .collect::<Result<_, _>>()?;
    list::reply(serials, request.limit)
}

/// What to tidy away.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TidyRequest {
    /// Whether records of expired certificates are deleted.
    tidy_cert_store: bool,
    /// Whether revocations of expired certificates are deleted, and so leave the CRL.
    tidy_revoked_certs: bool,
    /// How long after its end a certificate counts as expired.
    #[serde(with = "duration")]
    #[schemars(with = "u64")]
    safety_buffer: Duration,
}

impl Default for TidyRequest {
    fn default() -> Self {
        Self {
            tidy_cert_store: false,
            tidy_revoked_certs: false,
            safety_buffer: Duration::from_secs(72 * 3600),
        }
    }
}

/// What was tidied away.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Tidied {
    /// How many certificates.
    cert_store_deleted_count: usize,
    /// How many revocations.
    revoked_cert_deleted_count: usize,
}

/// `POST tidy`.
pub(crate) async fn tidy(
    pki: Arc<Pki>,
    call: Call,
    request: TidyRequest,
) -> Result<Reply<Tidied>, BackendError> {
    let before = call
        .now
        .checked_sub(request.safety_buffer)
        .ok_or_else(|| BackendError::field("safety_buffer", "is too long"))?;
    // Revocations first: a certificate without its record could not be shown as revoked.
    let revoked = if request.tidy_revoked_certs {
        revocation::tidy(pki.store(), before).await?
    } else {
        0
    };
    let certificates = if request.tidy_cert_store {
        tidy_certificates(pki.store(), before).await?
    } else {
        0
    };
    Reply::data(&Tidied {
        cert_store_deleted_count: certificates,
        revoked_cert_deleted_count: revoked,
    })
}

async fn tidy_certificates(store: &dyn Store, before: SystemTime) -> Result<usize, BackendError> {
    delete_where(store, "certs/", |stored: StoredCertificate| {
        let end = stored.certificate()?.validity().not_after();
        Ok(end < before)
    })
    .await
}

/// Deletes the records below `prefix` that `expired` chooses, and says how many they were.
pub(crate) async fn delete_where<T: serde::de::DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
    expired: impl Fn(T) -> Result<bool, BackendError>,
) -> Result<usize, BackendError> {
    let mut deleted = 0;
    let mut after: Option<String> = None;
    loop {
        let names = store.list(prefix, after.as_deref(), PAGE).await?;
        let mut batch = Batch::new();
        for name in &names {
            let key = format!("{prefix}{name}");
            let Some(entry) = store.get(&key).await? else {
                continue;
            };
            if expired(entry.decode()?)? {
                batch = batch.delete(key);
            }
        }
        deleted += batch.writes.len();
        if !batch.writes.is_empty() {
            store.apply(batch).await?;
        }
        match names.into_iter().next_back() {
            Some(last) => after = Some(last),
            None => return Ok(deleted),
        }
    }
}
