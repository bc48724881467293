//! What a mount knows: its issuers, keys and settings, kept as one record, and that record loaded and ready
//! to sign.
//!
//! # Invariants
//!
//! * **One record, one revision.** Everything that decides how a certificate is signed is in the record
//!   `state`, so two nodes that see the same revision sign alike, and a change is all or nothing.
//! * **A private key is a record of its own** (`keys/{id}`), sealed at rest, and is in memory only inside an
//!   [`Issuer`] or while a request handles it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use daypass_certs::{Certificate, Issuer, KeyPair, Urls, chain_of};
use daypass_contract::{BackendError, Batch, Entropy, Host, Revision, Secret, StoreError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{CrlConfig, UrlsConfig};
use crate::error::internal;

const STATE: &str = "state";

/// Most issuers, and most keys, of one mount.
const MOST: usize = 100;

/// How often a change is decided again because another request was faster.
const ATTEMPTS: usize = 8;

/// The record.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    pub(crate) issuers: BTreeMap<String, IssuerRecord>,
    pub(crate) keys: BTreeMap<String, KeyRecord>,
    /// An issuer's id.
    pub(crate) default_issuer: Option<String>,
    pub(crate) default_follows_latest_issuer: bool,
    pub(crate) urls: UrlsConfig,
    pub(crate) crl: CrlConfig,
}

/// An issuer, with or without its key.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct IssuerRecord {
    /// Empty where it has none.
    pub(crate) name: String,
    /// PEM.
    pub(crate) certificate: String,
    /// The id of its key, where the mount holds it.
    pub(crate) key_id: Option<String>,
    pub(crate) leaf_not_after_behavior: LeafNotAfter,
}

/// What becomes of a certificate that would outlive its issuer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LeafNotAfter {
    /// It is refused.
    #[default]
    Err,
    /// It ends with the issuer.
    Truncate,
}

/// What is known of a key besides the key.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    /// Empty where it has none.
    pub(crate) name: String,
    /// `ec`, `rsa` or `ed25519`.
    pub(crate) key_type: String,
    /// Of the public key, in hexadecimal, to find the certificate that belongs to it.
    pub(crate) key_identifier: String,
}

impl State {
    /// The id that a reference (`default`, an id or a name) stands for.
    pub(crate) fn issuer_id(&self, reference: &str) -> Option<&str> {
        if reference == "default" {
            return self.default_issuer.as_deref();
        }
        self.issuers
            .iter()
            .find(|(id, issuer)| *id == reference || issuer.name == reference)
            .filter(|_| !reference.is_empty())
            .map(|(id, _)| id.as_str())
    }

    /// The id that a reference (`default`: that of the default issuer, an id or a name) stands for.
    pub(crate) fn key_id(&self, reference: &str) -> Option<&str> {
        if reference == "default" {
            let default = self.issuers.get(self.default_issuer.as_ref()?)?;
            return default.key_id.as_deref();
        }
        self.keys
            .iter()
            .find(|(id, key)| *id == reference || key.name == reference)
            .filter(|_| !reference.is_empty())
            .map(|(id, _)| id.as_str())
    }

    /// Adds a key, unless there is one like it; gives its id, and whether it is new.
    pub(crate) fn add_key(
        &mut self,
        key: &KeyPair,
        name: &str,
        entropy: &dyn Entropy,
    ) -> Result<(String, bool), BackendError> {
        let key_identifier = hex::encode(key.public().key_id());
        let known = self
            .keys
            .iter()
            .find(|(_, key)| key.key_identifier == key_identifier);
        if let Some((id, _)) = known {
            return Ok((id.clone(), false));
        }
        if self.keys.len() >= MOST {
            return Err(BackendError::InvalidRequest(format!(
                "a mount holds at most {MOST} keys: delete one, or enable another mount"
            )));
        }
        check_name("key_name", name, self.keys.values().map(|key| &key.name))?;
        let id = new_id(entropy);
        let record = KeyRecord {
            name: name.to_owned(),
            key_type: key.public().kind().key_type().to_owned(),
            key_identifier: key_identifier.clone(),
        };
        self.keys.insert(id.clone(), record);
        // A certificate that came before its key.
        for (issuer_id, issuer) in &mut self.issuers {
            if issuer.key_id.is_none() && certificate_of(issuer)?.public_key() == key.public() {
                issuer.key_id = Some(id.clone());
                self.default_issuer.get_or_insert_with(|| issuer_id.clone());
            }
        }
        Ok((id, true))
    }

    /// Adds an issuer, unless there is one with this certificate; gives its id, and whether it is new.
    pub(crate) fn add_issuer(
        &mut self,
        certificate: &Certificate,
        name: &str,
        entropy: &dyn Entropy,
    ) -> Result<(String, bool), BackendError> {
        let pem = certificate.pem();
        let known = self
            .issuers
            .iter()
            .find(|(_, issuer)| issuer.certificate == pem);
        if let Some((id, _)) = known {
            return Ok((id.clone(), false));
        }
        if self.issuers.len() >= MOST {
            return Err(BackendError::InvalidRequest(format!(
                "a mount holds at most {MOST} issuers: delete one, or enable another mount"
            )));
        }
        check_name(
            "issuer_name",
            name,
            self.issuers.values().map(|issuer| &issuer.name),
        )?;
        let key_identifier = ca_of(certificate);
        let key = self
            .keys
            .iter()
            .find(|(_, key)| key.key_identifier == key_identifier);
        let record = IssuerRecord {
            name: name.to_owned(),
            certificate: pem,
            key_id: key.map(|(id, _)| id.clone()),
            leaf_not_after_behavior: LeafNotAfter::default(),
        };
        let id = new_id(entropy);
        let follows = self.default_issuer.is_none() || self.default_follows_latest_issuer;
        if follows && record.key_id.is_some() {
            self.default_issuer = Some(id.clone());
        }
        self.issuers.insert(id.clone(), record);
        Ok((id, true))
    }
}

/// Refuses names that could be mistaken for something else, and names that are taken.
pub(crate) fn check_name<'a>(
    field: &str,
    name: &str,
    mut taken: impl Iterator<Item = &'a String>,
) -> Result<(), BackendError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if name.len() > 128 || name == "default" || !name.bytes().all(allowed) {
        return Err(BackendError::field(
            field,
            "must have at most 128 letters, digits, '_', '-' and '.', and not be \"default\"",
        ));
    }
    if !name.is_empty() && taken.any(|other| other == name) {
        return Err(BackendError::field(field, "is in use already"));
    }
    Ok(())
}

fn new_id(entropy: &dyn Entropy) -> String {
    uuid::Builder::from_random_bytes(entropy.bytes())
        .into_uuid()
        .to_string()
}

/// What revocations are kept by: the issuer's key, which a renewed CA may share with its predecessor.
pub(crate) fn ca_of(certificate: &Certificate) -> String {
    hex::encode(certificate.public_key().key_id())
}

fn certificate_of(record: &IssuerRecord) -> Result<Certificate, BackendError> {
    Certificate::from_pem_or_der(record.certificate.as_bytes()).map_err(internal)
}

/// An issuer of the record, read and, where the mount has its key, ready to sign.
pub(crate) struct LoadedIssuer {
    pub(crate) id: String,
    /// See [`ca_of`].
    pub(crate) ca: String,
    pub(crate) record: IssuerRecord,
    pub(crate) certificate: Certificate,
    /// Itself first, then its own issuers as far as they are known here.
    pub(crate) chain: Vec<Certificate>,
    signer: Option<Issuer>,
}

impl LoadedIssuer {
    /// The means to sign.
    pub(crate) fn signer(&self) -> Result<&Issuer, BackendError> {
        self.signer.as_ref().ok_or_else(|| {
            BackendError::InvalidRole(
                "the issuer's private key is not in this mount: import it, or set another default issuer"
                    .into(),
            )
        })
    }

    /// Whether it can sign.
    pub(crate) fn can_sign(&self) -> bool {
        self.signer.is_some()
    }
}

/// The record at one revision, with its issuers loaded.
pub(crate) struct Snapshot {
    revision: Option<Revision>,
    pub(crate) state: State,
    issuers: BTreeMap<String, Arc<LoadedIssuer>>,
    pub(crate) urls: Urls,
}

impl Snapshot {
    /// The issuer that a reference stands for.
    pub(crate) fn issuer(&self, reference: &str) -> Result<&Arc<LoadedIssuer>, BackendError> {
        self.find(reference).ok_or_else(|| {
            if reference == "default" {
                let problem = "no default issuer is configured: generate or import one";
                return BackendError::InvalidRequest(problem.into());
            }
            BackendError::field("issuer_ref", "there is no issuer with this id or name")
        })
    }

    /// The issuer that a reference stands for, where there is one.
    pub(crate) fn find(&self, reference: &str) -> Option<&Arc<LoadedIssuer>> {
        self.by_id(self.state.issuer_id(reference)?)
    }

    /// The issuer with this id.
    pub(crate) fn by_id(&self, id: &str) -> Option<&Arc<LoadedIssuer>> {
        self.issuers.get(id)
    }

    /// Every issuer.
    pub(crate) fn issuers(&self) -> impl Iterator<Item = &Arc<LoadedIssuer>> {
        self.issuers.values()
    }
}

/// The record, and the last revision of it that was loaded.
pub(crate) struct Mount {
    pub(crate) host: Host,
    loaded: RwLock<Option<Arc<Snapshot>>>,
}

impl Mount {
    pub(crate) fn new(host: Host) -> Self {
        Self {
            host,
            loaded: RwLock::new(None),
        }
    }

    /// What is stored now. Reads one record; keys and certificates are read only where it has changed.
    pub(crate) async fn snapshot(&self) -> Result<Arc<Snapshot>, BackendError> {
        let mut failed = None;
        for _ in 0..ATTEMPTS {
            let entry = self.host.store.get(STATE).await?;
            let revision = entry.as_ref().map(|entry| entry.revision);
            let loaded = self
                .loaded
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if let Some(loaded) = loaded.filter(|loaded| loaded.revision == revision) {
                return Ok(loaded);
            }
            // A key that was deleted while the record before was being loaded is no damage.
            if let Some((_, error)) = failed.take_if(|(of, _)| *of == revision) {
                return Err(error);
            }
            let state: State = match entry {
                Some(entry) => entry.decode()?,
                None => State::default(),
            };
            match self.load(revision, state).await {
                Ok(snapshot) => {
                    let snapshot = Arc::new(snapshot);
                    *self.loaded.write().unwrap_or_else(PoisonError::into_inner) =
                        Some(Arc::clone(&snapshot));
                    return Ok(snapshot);
                }
                Err(error) => failed = Some((revision, error)),
            }
        }
        Err(StoreError::Conflict.into())
    }

    async fn load(
        &self,
        revision: Option<Revision>,
        state: State,
    ) -> Result<Snapshot, BackendError> {
        let certificates: Vec<Certificate> = state
            .issuers
            .values()
            .map(certificate_of)
            .collect::<Result<_, _>>()?;
        let mut issuers = BTreeMap::new();
        for ((id, record), certificate) in state.issuers.iter().zip(&certificates) {
            let signer = match &record.key_id {
                Some(key_id) => {
                    let key = self.key(key_id).await?;
                    Some(Issuer::new(certificate.clone(), key).map_err(internal)?)
                }
                None => None,
            };
            let mut chain = vec![certificate.clone()];
            chain.extend(chain_of(certificate, &certificates));
            let issuer = LoadedIssuer {
                id: id.clone(),
                ca: ca_of(certificate),
                record: record.clone(),
                certificate: certificate.clone(),
                chain,
                signer,
            };
            issuers.insert(id.clone(), Arc::new(issuer));
        }
        Ok(Snapshot {
            revision,
            urls: state.urls.to_urls(),
            state,
            issuers,
        })
    }

    /// A private key of this mount.
    pub(crate) async fn key(&self, id: &str) -> Result<KeyPair, BackendError> {
        let entry = self.host.store.get(&key_record(id)).await?;
        let entry = entry.ok_or_else(|| BackendError::Internal("a key is missing".into()))?;
        KeyPair::from_pem_or_der(entry.value.expose()).map_err(internal)
    }

    /// Changes the record. `change` gets the record and the batch that will write it, to which it may add;
    /// it runs again where another request was faster.
    pub(crate) async fn update<T>(
        &self,
        mut change: impl FnMut(&mut State, Batch) -> Result<(T, Batch), BackendError>,
    ) -> Result<T, BackendError> {
        for _ in 0..ATTEMPTS {
            let entry = self.host.store.get(STATE).await?;
            let revision = entry.as_ref().map(|entry| entry.revision);
            let mut state: State = match entry {
                Some(entry) => entry.decode()?,
                None => State::default(),
            };
            let (result, batch) = change(&mut state, Batch::new().expect(STATE, revision))?;
            match self.host.store.apply(batch.put_json(STATE, &state)?).await {
                Ok(()) => return Ok(result),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Conflict.into())
    }
}

/// Where a private key is stored.
pub(crate) fn key_record(id: &str) -> String {
    format!("keys/{id}")
}

/// A private key as it is stored: PKCS#8.
pub(crate) fn stored_key(key: &KeyPair) -> Result<Secret, BackendError> {
    let der = key.to_pkcs8_der().map_err(internal)?;
    Ok(Secret::new(der.as_slice()))
}
