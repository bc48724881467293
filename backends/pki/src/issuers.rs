//! The mount's issuers and keys: listing, reading, changing and deleting them.

use std::collections::BTreeMap;
use std::sync::Arc;

use daypass_contract::{BackendError, Call, NoFields, Reply};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Pki;
use crate::crl;
use crate::state::{LeafNotAfter, LoadedIssuer, State, check_name, key_record};

/// Names of issuers or keys, and what is known of each.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Listed<T> {
    keys: Vec<String>,
    key_info: BTreeMap<String, T>,
}

impl<T: Serialize> Listed<T> {
    fn reply(key_info: BTreeMap<String, T>) -> Result<Reply<Self>, BackendError> {
        if key_info.is_empty() {
            return Err(BackendError::NotFound);
        }
        Reply::data(&Self {
            keys: key_info.keys().cloned().collect(),
            key_info,
        })
    }
}

/// An issuer in a list.
#[derive(Serialize, JsonSchema)]
pub(crate) struct IssuerInfo {
    is_default: bool,
    issuer_name: String,
    key_id: String,
    serial_number: String,
}

/// `LIST issuers`.
pub(crate) async fn list_issuers(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<Listed<IssuerInfo>>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let default = snapshot.state.default_issuer.as_ref();
    let info = |issuer: &Arc<LoadedIssuer>| IssuerInfo {
        is_default: default == Some(&issuer.id),
        issuer_name: issuer.record.name.clone(),
        key_id: issuer.record.key_id.clone().unwrap_or_default(),
        serial_number: issuer.certificate.serial().to_string(),
    };
    Listed::reply(
        snapshot
            .issuers()
            .map(|issuer| (issuer.id.clone(), info(issuer)))
            .collect(),
    )
}

/// A key in a list.
#[derive(Serialize, JsonSchema)]
pub(crate) struct KeyInfo {
    is_default: bool,
    key_name: String,
    key_type: String,
}

/// `LIST keys`.
pub(crate) async fn list_keys(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<Listed<KeyInfo>>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let default = snapshot.state.key_id("default");
    let keys = snapshot.state.keys.iter();
    let infos = keys.map(|(id, key)| {
        let info = KeyInfo {
            is_default: default == Some(id),
            key_name: key.name.clone(),
            key_type: key.key_type.clone(),
        };
        (id.clone(), info)
    });
    Listed::reply(infos.collect())
}

/// An issuer by its reference.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ByIssuer {
    /// An id, a name or `default`.
    pub(crate) issuer_ref: String,
}

/// An issuer.
#[derive(Serialize, JsonSchema)]
pub(crate) struct IssuerView {
    issuer_id: String,
    issuer_name: String,
    key_id: String,
    certificate: String,
    ca_chain: Vec<String>,
    leaf_not_after_behavior: LeafNotAfter,
    usage: &'static str,
    /// Not supported: always null.
    manual_chain: Option<Vec<String>>,
    /// Not supported: the key decides.
    revocation_signature_algorithm: &'static str,
    /// Not known here: whoever signed it keeps that list.
    revoked: bool,
    /// Not supported for one issuer: see `config/urls`.
    issuing_certificates: [String; 0],
    /// Not supported for one issuer: see `config/urls`.
    crl_distribution_points: [String; 0],
    /// Not supported for one issuer: see `config/urls`.
    ocsp_servers: [String; 0],
}

/// Public parts of an issuer.
#[derive(Serialize, JsonSchema)]
pub(crate) struct IssuerCertificate {
    issuer_id: String,
    issuer_name: String,
    certificate: String,
    ca_chain: Vec<String>,
}

/// Its chain in PEM, each with a line break at its end.
pub(crate) fn chain(issuer: &LoadedIssuer) -> Vec<String> {
    issuer
        .chain
        .iter()
        .map(|link| format!("{}\n", link.pem()))
        .collect()
}

/// `GET issuer/{issuer_ref}`.
pub(crate) async fn read_issuer(
    pki: Arc<Pki>,
    _: Call,
    request: ByIssuer,
) -> Result<Reply<IssuerView>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    view(
        snapshot
            .find(&request.issuer_ref)
            .ok_or(BackendError::NotFound)?,
    )
}

fn view(issuer: &LoadedIssuer) -> Result<Reply<IssuerView>, BackendError> {
    Reply::data(&IssuerView {
        issuer_id: issuer.id.clone(),
        issuer_name: issuer.record.name.clone(),
        key_id: issuer.record.key_id.clone().unwrap_or_default(),
        certificate: format!("{}\n", issuer.certificate.pem()),
        ca_chain: chain(issuer),
        leaf_not_after_behavior: issuer.record.leaf_not_after_behavior,
        usage: if issuer.can_sign() {
            "crl-signing,issuing-certificates,read-only"
        } else {
            "read-only"
        },
        manual_chain: None,
        revocation_signature_algorithm: "",
        revoked: false,
        issuing_certificates: [],
        crl_distribution_points: [],
        ocsp_servers: [],
    })
}

/// `GET issuer/{issuer_ref}/json`.
pub(crate) async fn read_issuer_json(
    pki: Arc<Pki>,
    _: Call,
    request: ByIssuer,
) -> Result<Reply<IssuerCertificate>, BackendError> {
    let snapshot = pki.mount.snapshot().await?;
    let issuer = snapshot
        .find(&request.issuer_ref)
        .ok_or(BackendError::NotFound)?;
    Reply::data(&IssuerCertificate {
        issuer_id: issuer.id.clone(),
        issuer_name: issuer.record.name.clone(),
        certificate: format!("{}\n", issuer.certificate.pem()),
        ca_chain: chain(issuer),
    })
}

/// What may be changed of an issuer.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IssuerUpdate {
    /// An id, a name or `default`, from the path.
    issuer_ref: String,
    /// Its new name.
    #[serde(default)]
    issuer_name: Option<String>,
    /// `err` or `truncate`.
    #[serde(default)]
    leaf_not_after_behavior: Option<LeafNotAfter>,
}

/// `POST issuer/{issuer_ref}` and `PATCH`: fields that are not given stay.
pub(crate) async fn update_issuer(
    pki: Arc<Pki>,
    _: Call,
    request: IssuerUpdate,
) -> Result<Reply<IssuerView>, BackendError> {
    let id = pki
        .mount
        .update(|state, batch| {
            let id = issuer_id(state, &request.issuer_ref)?;
            if let Some(name) = &request.issuer_name {
                let others = state.issuers.iter().filter(|(other, _)| **other != id);
                check_name("issuer_name", name, others.map(|(_, issuer)| &issuer.name))?;
            }
            if let Some(issuer) = state.issuers.get_mut(&id) {
                if let Some(name) = &request.issuer_name {
                    issuer.name.clone_from(name);
                }
                if let Some(behavior) = request.leaf_not_after_behavior {
                    issuer.leaf_not_after_behavior = behavior;
                }
            }
            Ok((id, batch))
        })
        .await?;
    let snapshot = pki.mount.snapshot().await?;
    view(snapshot.by_id(&id).ok_or(BackendError::NotFound)?)
}

fn issuer_id(state: &State, reference: &str) -> Result<String, BackendError> {
    state
        .issuer_id(reference)
        .map(str::to_owned)
        .ok_or(BackendError::NotFound)
}

/// `DELETE issuer/{issuer_ref}`: its key stays.
pub(crate) async fn delete_issuer(
    pki: Arc<Pki>,
    _: Call,
    request: ByIssuer,
) -> Result<Reply<NoFields>, BackendError> {
    let was_default = pki
        .mount
        .update(|state, batch| {
            let Some(id) = state.issuer_id(&request.issuer_ref).map(str::to_owned) else {
                return Ok((false, batch));
            };
            state.issuers.remove(&id);
            let was_default = state.default_issuer.as_ref() == Some(&id);
            if was_default {
                state.default_issuer = None;
            }
            Ok((was_default, crl::forget(batch, &id)))
        })
        .await?;
    let reply = Reply::nothing();
    Ok(if was_default {
        reply.warn("this was the default issuer: set another by config/issuers")
    } else {
        reply
    })
}

/// A key by its reference.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ByKey {
    /// An id or a name.
    key_ref: String,
}

/// `DELETE key/{key_ref}`.
pub(crate) async fn delete_key(
    pki: Arc<Pki>,
    _: Call,
    request: ByKey,
) -> Result<Reply<NoFields>, BackendError> {
    pki.mount
        .update(|state, batch| {
            let Some(id) = state.key_id(&request.key_ref).map(str::to_owned) else {
                return Ok(((), batch));
            };
            if state
                .issuers
                .values()
                .any(|issuer| issuer.key_id.as_ref() == Some(&id))
            {
                return Err(BackendError::InvalidRequest(
                    "an issuer of this mount uses the key: delete the issuer first".into(),
                ));
            }
            state.keys.remove(&id);
            Ok(((), batch.delete(key_record(&id))))
        })
        .await?;
    Ok(Reply::nothing())
}

/// `DELETE root`: every issuer and every key.
pub(crate) async fn delete_root(
    pki: Arc<Pki>,
    _: Call,
    _: NoFields,
) -> Result<Reply<NoFields>, BackendError> {
    pki.mount
        .update(|state, mut batch| {
            for id in state.issuers.keys() {
                batch = crl::forget(batch, id);
            }
            for id in state.keys.keys() {
                batch = batch.delete(key_record(id));
            }
            state.issuers.clear();
            state.keys.clear();
            state.default_issuer = None;
            Ok(((), batch))
        })
        .await?;
    Ok(Reply::nothing().warn("every issuer and every key of this mount was deleted"))
}
