//! Revoking certificates, and the CRLs that say so.
//!
//! # Invariants
//!
//! * **A revocation and the CRL that lists it are one batch** (unless `auto_rebuild` defers the CRL), so
//!   that revoking has either happened for everyone or not at all.
//! * **CRL numbers only grow**: a CRL is written on condition that the one before it, which was read before
//!   the revocations were listed, is still there.
//! * A CRL holds every revocation of its issuer that has not been tidied away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_certs::{Certificate, Crl, KeyUsage, Reason, Revoked, Serial};
use daypass_contract::{
    BackendError, Batch, Call, Keys, ListRequest, NoFields, Reply, Revocation, Store, StoreError,
    millis,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Pki;
use crate::error::{in_field, internal};
use crate::list;
use crate::merge::merged;
use crate::records::{StoredCertificate, delete_where, name_of, shown};
use crate::state::{CrlConfig, LoadedIssuer, Snapshot};
use crate::validity::{rfc3339, unix};

/// How often a CRL is built again because another node was faster.
const ATTEMPTS: usize = 8;

/// How many names are listed at a time.
const PAGE: usize = 10_000;

/// How long `maintain` sleeps at most: a new issuer's CRL is not its to announce.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// That a certificate was revoked: `revoked/{issuer}/{serial}`.
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
        issuer: &str,
        serial: &Serial,
    ) -> Result<Option<Self>, BackendError> {
        match store.get(&revoked_key(issuer, &name_of(serial))).await? {
            Some(entry) => entry.decode().map(Some),
            None => Ok(None),
        }
    }
}

fn revoked_key(issuer: &str, name: &str) -> String {
    format!("revoked/{issuer}/{name}")
}

/// The last CRL of an issuer: `crl/{issuer}`.
#[derive(Serialize, Deserialize)]
struct CrlRecord {
    number: u64,
    /// DER in base64.
    der: String,
    #[serde(with = "millis")]
    next_update: SystemTime,
}

fn crl_key(issuer: &str) -> String {
    format!("crl/{issuer}")
}

/// A revocation that waits for its turn to be written, and the mark that it was.
type Waiting = (String, Serial, RevokedRecord, Arc<Mutex<bool>>);

/// What makes many revocations at once cheap: they share batches and CRLs.
#[derive(Default)]
pub(crate) struct Revocations {
    waiting: Mutex<Vec<Waiting>>,
    /// Revocations never change, so that each is read once: by issuer, then by name.
    known: tokio::sync::Mutex<BTreeMap<String, BTreeMap<String, RevokedRecord>>>,
}

type Known = BTreeMap<String, BTreeMap<String, RevokedRecord>>;

/// Revokes a certificate of this mount, and gives the time since when it is revoked.
pub(crate) async fn revoke(
    pki: &Pki,
    issuer: &str,
    certificate: &Certificate,
    now: SystemTime,
) -> Result<(SystemTime, Revocation), BackendError> {
    let serial = certificate.serial();
    if let Some(known) = RevokedRecord::load(pki.store(), issuer, serial).await? {
        return Ok((known.at, Revocation::AlreadyGone));
    }
    let record = RevokedRecord {
        at: now,
        not_after: certificate.validity().not_after(),
    };
    let done = Arc::new(Mutex::new(false));
    let mine: Waiting = (issuer.to_owned(), serial.clone(), record, Arc::clone(&done));
    lock(&pki.revocations.waiting).push(mine.clone());

    let mut known = pki.revocations.known.lock().await;
    // Whoever had the lock before may have written this one along with its own.
    if !*lock(&done) {
        let mut batch = std::mem::take(&mut *lock(&pki.revocations.waiting));
        // Whoever took it before and then failed or went away did not put it back.
        if !batch.iter().any(|(.., other)| Arc::ptr_eq(other, &done)) {
            batch.push(mine);
        }
        if let Err(error) = write(pki, &mut known, &batch, now).await {
            // The others try for themselves.
            let others = batch
                .into_iter()
                .filter(|(.., other)| !Arc::ptr_eq(other, &done));
            lock(&pki.revocations.waiting).extend(others);
            return Err(error);
        }
        for (.., written) in &batch {
            *lock(written) = true;
        }
    }
    Ok((now, Revocation::Revoked))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes revocations and the CRLs that they change.
async fn write(
    pki: &Pki,
    known: &mut Known,
    waiting: &[Waiting],
    now: SystemTime,
) -> Result<(), BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let issuers: BTreeSet<&String> = waiting.iter().map(|(issuer, ..)| issuer).collect();
    for issuer in issuers {
        let added: Vec<(String, RevokedRecord)> = waiting
            .iter()
            .filter(|(of, ..)| of == issuer)
            .map(|(_, serial, record, _)| (name_of(serial), record.clone()))
            .collect();
        let signer = snapshot.issuers().find(|loaded| loaded.id == *issuer);
        let signer = signer.filter(|loaded| signs_crls(loaded, now));
        match signer.filter(|_| !snapshot.state.crl.auto_rebuild) {
            Some(signer) => build(pki, known, &snapshot, signer, &added, now).await?,
            None => {
                let batch = put_revoked(Batch::new(), issuer, &added)?;
                pki.store().apply(batch).await?;
            }
        }
    }
    Ok(())
}

fn put_revoked(
    mut batch: Batch,
    issuer: &str,
    added: &[(String, RevokedRecord)],
) -> Result<Batch, BackendError> {
    for (name, record) in added {
        batch = batch.put_json(revoked_key(issuer, name), record)?;
    }
    Ok(batch)
}

/// Whether CRLs of this issuer are built: it has its key, may sign them, and has not ended.
fn signs_crls(issuer: &LoadedIssuer, now: SystemTime) -> bool {
    let usage = issuer.certificate.key_usage();
    let may_sign = usage.is_empty() || usage.contains(KeyUsage::CRL_SIGN);
    issuer.can_sign() && may_sign && issuer.certificate.validity().not_after() > now
}

/// Builds and stores the CRL of an issuer, together with further revocations.
async fn build(
    pki: &Pki,
    known: &mut Known,
    snapshot: &Snapshot,
    issuer: &LoadedIssuer,
    added: &[(String, RevokedRecord)],
    now: SystemTime,
) -> Result<(), BackendError> {
    let config = &snapshot.state.crl;
    let key = crl_key(&issuer.id);
    let next_update = now
        .checked_add(config.expiry)
        .ok_or_else(|| BackendError::Internal("CRL would never expire".into()))?;
    for _ in 0..ATTEMPTS {
        // Before the revocations are listed: see the invariants.
        let last = pki.store().get(&key).await?;
        let revision = last.as_ref().map(|entry| entry.revision);
        let number = match &last {
            Some(entry) => entry.decode::<CrlRecord>()?.number + 1,
            None => 1,
        };
        refresh(
            pki.store(),
            known.entry(issuer.id.clone()).or_default(),
            &issuer.id,
        )
        .await?;
        let entries = if config.disable {
            Vec::new()
        } else {
            entries(known.entry(issuer.id.clone()).or_default(), added)?
        };
        let crl =
            Crl::sign(issuer.signer()?, number, now, next_update, &entries).map_err(internal)?;
        let record = CrlRecord {
            number,
            der: STANDARD.encode(crl.der()),
            next_update,
        };
        let batch = Batch::new()
            .expect(&key, revision)
            .put_json(&key, &record)?;
        match pki
            .store()
            .apply(put_revoked(batch, &issuer.id, added)?)
            .await
        {
            Ok(()) => return Ok(()),
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::Conflict.into())
}

/// Brings what is known of an issuer's revocations up to what is stored.
async fn refresh(
    store: &dyn Store,
    known: &mut BTreeMap<String, RevokedRecord>,
    issuer: &str,
) -> Result<(), BackendError> {
    let prefix = format!("revoked/{issuer}/");
    let mut stored = BTreeSet::new();
    let mut after: Option<String> = None;
    loop {
        let names = store.list(&prefix, after.as_deref(), PAGE).await?;
        after = names.last().cloned();
        let is_last = names.len() < PAGE;
        for name in names {
            if !known.contains_key(&name)
                && let Some(entry) = store.get(&revoked_key(issuer, &name)).await?
            {
                known.insert(name.clone(), entry.decode()?);
            }
            stored.insert(name);
        }
        if is_last {
            break;
        }
    }
    known.retain(|name, _| stored.contains(name));
    Ok(())
}

fn entries(
    known: &BTreeMap<String, RevokedRecord>,
    added: &[(String, RevokedRecord)],
) -> Result<Vec<Revoked>, BackendError> {
    let new = added.iter().filter(|(name, _)| !known.contains_key(name));
    let all = known.iter().chain(new.map(|(name, record)| (name, record)));
    all.map(|(name, record)| {
        Ok(Revoked {
            serial: name.parse().map_err(internal)?,
            at: record.at,
            reason: Reason::Unspecified,
        })
    })
    .collect()
}

/// Builds the CRLs of `issuers` anew.
pub(crate) async fn rebuild(
    pki: &Pki,
    now: SystemTime,
    wanted: impl Fn(&LoadedIssuer) -> bool,
) -> Result<(), BackendError> {
    let mut known = pki.revocations.known.lock().await;
    let snapshot = pki.mount.snapshot().await?;
    for issuer in snapshot
        .issuers()
        .filter(|issuer| signs_crls(issuer, now) && wanted(issuer))
    {
        build(pki, &mut known, &snapshot, issuer, &[], now).await?;
    }
    Ok(())
}

/// Builds the CRLs that would end soon, and says when the next one would.
pub(crate) async fn maintain(pki: &Pki, now: SystemTime) -> Result<SystemTime, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let config = &snapshot.state.crl;
    let grace = config.auto_rebuild_grace_period.min(config.expiry / 2);
    let mut next = now.checked_add(LONGEST_SLEEP).unwrap_or(now);
    let mut due = BTreeSet::new();
    for issuer in snapshot.issuers().filter(|issuer| signs_crls(issuer, now)) {
        let last = pki.store().get(&crl_key(&issuer.id)).await?;
        let end = match last {
            Some(entry) => entry.decode::<CrlRecord>()?.next_update,
            None => now,
        };
        match end.checked_sub(grace).filter(|at| *at > now) {
            Some(at) => next = next.min(at),
            None => {
                due.insert(issuer.id.clone());
            }
        }
    }
    if !due.is_empty() {
        rebuild(pki, now, |issuer| due.contains(&issuer.id)).await?;
        next = next.min(
            now.checked_add(config.expiry.saturating_sub(grace))
                .unwrap_or(now),
        );
    }
    Ok(next)
}

/// Deletes the revocations of certificates that ended before `before`, and says how many they were.
pub(crate) async fn tidy(
    pki: &Pki,
    before: SystemTime,
    now: SystemTime,
) -> Result<usize, BackendError> {
    let mut deleted = 0;
    for issuer in pki.store().list("revoked/", None, PAGE).await? {
        let prefix = format!("revoked/{issuer}");
        let expired = |record: RevokedRecord| Ok(record.not_after < before);
        deleted += delete_where(pki.store(), &prefix, expired).await?;
    }
    if deleted > 0 {
        rebuild(pki, now, |_| true).await?;
    }
    Ok(deleted)
}

/// The last CRL of an issuer in DER, where there is one.
pub(crate) async fn stored_crl(
    store: &dyn Store,
    issuer: &str,
) -> Result<Option<Vec<u8>>, BackendError> {
    let Some(entry) = store.get(&crl_key(issuer)).await? else {
        return Ok(None);
    };
    let record: CrlRecord = entry.decode()?;
    let der = STANDARD.decode(record.der);
    der.map(Some)
        .map_err(|_| BackendError::Internal("stored CRL is damaged".into()))
}

/// Deletes the CRL of an issuer that is deleted.
pub(crate) fn forget(batch: Batch, issuer: &str) -> Batch {
    batch.delete(crl_key(issuer))
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
    let (issuer, certificate) = match (&*request.serial_number, &*request.certificate) {
        ("", "") => {
            let problem = "is required, or else the certificate";
            return Err(BackendError::field("serial_number", problem));
        }
        (serial, "") => by_serial(pki.store(), serial).await?,
        ("", certificate) => by_certificate(&snapshot, certificate)?,
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
    let (at, _) = revoke(&pki, &issuer, &certificate, call.now).await?;
    Reply::data(&RevokedView {
        revocation_time: unix(at),
        revocation_time_rfc3339: rfc3339(at),
        state: "revoked",
    })
}

async fn by_serial(store: &dyn Store, serial: &str) -> Result<(String, Certificate), BackendError> {
    let serial: Serial = serial.parse().map_err(in_field("serial_number"))?;
    let stored = StoredCertificate::load(store, &serial).await?.ok_or_else(|| {
        let problem = "there is no certificate with this serial number; one that was not stored can be \
                       revoked by giving the certificate";
        BackendError::field("serial_number", problem)
    })?;
    let certificate = stored.certificate()?;
    Ok((stored.issuer, certificate))
}

fn by_certificate(snapshot: &Snapshot, text: &str) -> Result<(String, Certificate), BackendError> {
    let certificate =
        Certificate::from_pem_or_der(text.as_bytes()).map_err(in_field("certificate"))?;
    let issuer = snapshot
        .issuers()
        .find(|issuer| certificate.is_signed_by(&issuer.certificate));
    let issuer = issuer.ok_or_else(|| {
        BackendError::field("certificate", "was not signed by any issuer of this mount")
    })?;
    Ok((issuer.id.clone(), certificate))
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
    for issuer in pki.store().list("revoked/", None, PAGE).await? {
        let prefix = format!("revoked/{issuer}");
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

/// Whether it was done.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Done {
    success: bool,
}

/// `GET crl/rotate`.
pub(crate) async fn rotate(
    pki: Arc<Pki>,
    call: Call,
    _: NoFields,
) -> Result<Reply<Done>, BackendError> {
    rebuild(&pki, call.now, |_| true).await?;
    Reply::data(&Done { success: true })
}

/// `GET config/crl`.
pub(crate) async fn read_config(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<CrlConfig>, BackendError> {
    Reply::data(&pki.mount.snapshot().await?.state.crl)
}

/// `POST config/crl`: fields that are not given stay.
pub(crate) async fn write_config(
    pki: Arc<Pki>,
    call: Call,
    request: CrlConfig,
) -> Result<Reply<CrlConfig>, BackendError> {
    drop(request);
    let config = pki
        .mount
        .update(|state, batch| {
            state.crl = merged(&state.crl, &call.body)?;
            state.crl.check()?;
            Ok((state.crl.clone(), batch))
        })
        .await?;
    rebuild(&pki, call.now, |_| true).await?;
    Reply::data(&config)
}
