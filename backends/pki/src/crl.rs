//! The CRLs of issuers: built when they are asked for and something has changed, kept until then.
//!
//! Revoking only leaves a mark, so that thousands of revocations in a row do not sign thousands of growing
//! lists.
//!
//! # Invariants
//!
//! * **A list that is served holds every revocation that was durable when it was asked for.** A long one may
//!   be a second behind, and with `auto_rebuild` any one until it is due.
//! * **CRL numbers only grow**, also from one issuer to another with the same key: they follow the clock.
//! * A list is written on condition that the one before it is still there, and the mark that it carries was
//!   read before the revocations were: what comes in between makes it due again.
//! * Revocations belong to a key, not to an issuer: a renewed CA goes on listing what its predecessor revoked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_certs::{Crl, KeyUsage, Reason, Revoked};
use daypass_contract::{
    BackendError, Batch, Call, NoFields, Reply, Revision, Secret, Store, StoreError, millis,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Pki;
use crate::config::CrlConfig;
use crate::error::internal;
use crate::revocation::{RevokedRecord, revoked_key};
use crate::state::{LoadedIssuer, Snapshot};

/// How often a CRL is built again because another node was faster.
const ATTEMPTS: usize = 8;

/// How many names are listed at a time.
const PAGE: usize = 10_000;

/// Up to this many entries a list is built whenever it is behind; a longer one at most once in [`PAUSE`].
const SHORT: usize = 1_000;

/// See [`SHORT`].
const PAUSE: Duration = Duration::from_secs(1);

/// How long [`maintain`] sleeps at most: a new issuer's CRL is not its to announce.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// What is known of the last CRL of an issuer: `crl/{issuer}`; the list itself is in `crl-der/{issuer}`.
#[derive(Serialize, Deserialize)]
struct CrlRecord {
    number: u64,
    #[serde(with = "millis")]
    this_update: SystemTime,
    #[serde(with = "millis")]
    next_update: SystemTime,
    entries: usize,
    /// The mark at which the revocations were read.
    changed: Option<u64>,
}

fn record_key(issuer: &str) -> String {
    format!("crl/{issuer}")
}

fn der_key(issuer: &str) -> String {
    format!("crl-der/{issuer}")
}

fn mark_key(ca: &str) -> String {
    format!("changed/{ca}")
}

/// Marks that the lists of this CA are behind.
pub(crate) fn mark(batch: Batch, ca: &str) -> Batch {
    // Its revision is what counts.
    batch.put(mark_key(ca), Secret::new("1"))
}

/// Deletes the CRL of an issuer that is deleted. What it revoked stays known.
pub(crate) fn forget(batch: Batch, issuer: &str) -> Batch {
    batch.delete(record_key(issuer)).delete(der_key(issuer))
}

/// The revocations that were read so far, by CA and name: a revocation never changes, so each is read once.
/// Whoever holds the lock builds; the others wait and find the work done.
pub(crate) type Known = tokio::sync::Mutex<BTreeMap<String, BTreeMap<String, SystemTime>>>;

/// The CRL of an issuer in DER as it has to be now, or `None` where this mount cannot sign one and never did.
pub(crate) async fn current(
    pki: &Pki,
    issuer: &LoadedIssuer,
    now: SystemTime,
) -> Result<Option<Vec<u8>>, BackendError> {
    build(pki, &issuer.id, now, false).await?;
    let der = pki.store().get(&der_key(&issuer.id)).await?;
    Ok(der.map(|entry| entry.value.expose().to_vec()))
}

/// Whether CRLs of this issuer are built: it has its key, may sign them, and has not ended.
fn signs_crls(issuer: &LoadedIssuer, now: SystemTime) -> bool {
    let usage = issuer.certificate.key_usage();
    let may_sign = usage.is_empty() || usage.contains(KeyUsage::CRL_SIGN);
    issuer.can_sign() && may_sign && issuer.certificate.validity().not_after() > now
}

/// How long before its end a list is replaced.
fn grace(config: &CrlConfig) -> Duration {
    config.auto_rebuild_grace_period.min(config.expiry / 2)
}

fn is_due(last: &CrlRecord, mark: Option<u64>, config: &CrlConfig, now: SystemTime) -> bool {
    if last.next_update <= now + grace(config) {
        return true;
    }
    let behind = last.changed != mark && !config.auto_rebuild;
    // A clock that was set back counts as a pause.
    let age = now.duration_since(last.this_update).unwrap_or(PAUSE);
    behind && (last.entries <= SHORT || age >= PAUSE)
}

/// The last list of an issuer, its revision, and the mark.
async fn look(
    store: &dyn Store,
    issuer: &LoadedIssuer,
) -> Result<(Option<CrlRecord>, Option<Revision>, Option<u64>), BackendError> {
    let last = store.get(&record_key(&issuer.id)).await?;
    let mark = store.get(&mark_key(&issuer.ca)).await?;
    let revision = last.as_ref().map(|entry| entry.revision);
    let record = last.map(|entry| entry.decode()).transpose()?;
    Ok((record, revision, mark.map(|entry| entry.revision.0)))
}

/// Builds and stores the CRL of an issuer, where it is due or `always`.
async fn build(pki: &Pki, id: &str, now: SystemTime, always: bool) -> Result<(), BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    if !always && !wants(pki.store(), &snapshot, id, now).await? {
        return Ok(());
    }
    let mut known = pki.known.lock().await;
    for _ in 0..ATTEMPTS {
        let snapshot = pki.mount.snapshot().await?;
        let Some(issuer) = snapshot.by_id(id).filter(|it| signs_crls(it, now)) else {
            return Ok(());
        };
        let config = &snapshot.state.crl;
        // Before the revocations are read: see the invariants.
        let (last, revision, mark) = look(pki.store(), issuer).await?;
        let due = last
            .as_ref()
            .is_none_or(|last| is_due(last, mark, config, now));
        if !always && !due {
            return Ok(());
        }
        let entries = if config.disable {
            Vec::new()
        } else {
            let known = known.entry(issuer.ca.clone()).or_default();
            refresh(pki.store(), known, &issuer.ca).await?;
            listed(known)?
        };
        let record = CrlRecord {
            number: millis::of(now).max(last.map_or(0, |last| last.number) + 1),
            this_update: now,
            next_update: now + config.expiry,
            entries: entries.len(),
            changed: mark,
        };
        let der = sign(Arc::clone(issuer), &record, entries).await?;
        let batch = Batch::new()
            .expect(record_key(id), revision)
            .put_json(record_key(id), &record)?
            .put(der_key(id), Secret::new(der));
        match pki.store().apply(batch).await {
            Ok(()) => return Ok(()),
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::Conflict.into())
}

/// Whether the issuer's list is due, without waiting for whoever builds one.
async fn wants(
    store: &dyn Store,
    snapshot: &Snapshot,
    id: &str,
    now: SystemTime,
) -> Result<bool, BackendError> {
    let Some(issuer) = snapshot.by_id(id).filter(|it| signs_crls(it, now)) else {
        return Ok(false);
    };
    let (last, _, mark) = look(store, issuer).await?;
    Ok(last.is_none_or(|last| is_due(&last, mark, &snapshot.state.crl, now)))
}

/// Signs on a thread of its own: encoding a long list takes longer than a request may hold up others.
async fn sign(
    issuer: Arc<LoadedIssuer>,
    record: &CrlRecord,
    entries: Vec<Revoked>,
) -> Result<Vec<u8>, BackendError> {
    let (number, from, until) = (record.number, record.this_update, record.next_update);
    let signing = tokio::task::spawn_blocking(move || {
        let crl = Crl::sign(issuer.signer()?, number, from, until, &entries).map_err(internal)?;
        Ok(crl.der().to_vec())
    });
    signing
        .await
        .map_err(|error| BackendError::Internal(error.into()))?
}

/// Brings what is known of a CA's revocations up to what is stored.
async fn refresh(
    store: &dyn Store,
    known: &mut BTreeMap<String, SystemTime>,
    ca: &str,
) -> Result<(), BackendError> {
    let prefix = format!("revoked/{ca}/");
    let mut before = std::mem::take(known);
    let mut after: Option<String> = None;
    loop {
        let names = store.list(&prefix, after.as_deref(), PAGE).await?;
        let is_last = names.len() < PAGE;
        after = names.last().cloned();
        for name in names {
            let at = match before.remove(&name) {
                Some(at) => Some(at),
                None => match store.get(&revoked_key(ca, &name)).await? {
                    Some(entry) => Some(entry.decode::<RevokedRecord>()?.at),
                    // Tidied away since.
                    None => None,
                },
            };
            known.extend(at.map(|at| (name, at)));
        }
        if is_last {
            return Ok(());
        }
    }
}

fn listed(known: &BTreeMap<String, SystemTime>) -> Result<Vec<Revoked>, BackendError> {
    let entries = known.iter().map(|(name, at)| {
        Ok(Revoked {
            serial: name.parse().map_err(internal)?,
            at: *at,
            reason: Reason::Unspecified,
        })
    });
    entries.collect()
}

/// Builds every CRL anew.
pub(crate) async fn rebuild(pki: &Pki, now: SystemTime) -> Result<(), BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    for issuer in snapshot.issuers() {
        build(pki, &issuer.id, now, true).await?;
    }
    Ok(())
}

/// Builds the CRLs that are due, and says when the next one will be by its age.
pub(crate) async fn maintain(pki: &Pki, now: SystemTime) -> Result<SystemTime, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let grace = grace(&snapshot.state.crl);
    let mut next = now + LONGEST_SLEEP;
    for issuer in snapshot.issuers().filter(|it| signs_crls(it, now)) {
        build(pki, &issuer.id, now, false).await?;
        if let (Some(last), ..) = look(pki.store(), issuer).await? {
            next = next.min(last.next_update - grace);
        }
    }
    Ok(next)
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
    rebuild(&pki, call.now).await?;
    Reply::data(&Done { success: true })
}
