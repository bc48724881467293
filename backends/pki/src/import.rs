//! Importing CAs that were made elsewhere, and the certificate for a CSR that was made here.

use std::collections::BTreeMap;
use std::sync::Arc;

use daypass_certs::{Certificate, KeyPair, certificates_of};
use daypass_contract::{BackendError, Call, Reply, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Pki;
use crate::ca::put_key;
use crate::error::in_field;
use crate::state::stored_key;

/// What to import.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct ImportRequest {
    /// Certificates and, where they are allowed, private keys in PEM.
    #[schemars(with = "String")]
    pem_bundle: Option<Secret>,
    /// The same, as `intermediate/set-signed` calls it.
    certificate: String,
}

/// What an import found.
#[derive(Default, Serialize, JsonSchema)]
pub(crate) struct Imported {
    imported_issuers: Vec<String>,
    imported_keys: Vec<String>,
    existing_issuers: Vec<String>,
    existing_keys: Vec<String>,
    /// The key of each issuer; empty where it is not here.
    mapping: BTreeMap<String, String>,
}

/// `POST config/ca` and `POST issuers/import/bundle`: certificates and keys.
pub(crate) async fn import_bundle(
    pki: Arc<Pki>,
    _: Call,
    request: ImportRequest,
) -> Result<Reply<Imported>, BackendError> {
    let bundle = request.pem_bundle.unwrap_or_else(|| Secret::new(""));
    let keys = KeyPair::all_from_pem(bundle.expose()).map_err(in_field("pem_bundle"))?;
    let imported = import(&pki, "pem_bundle", bundle.expose(), keys).await?;
    Reply::data(&imported)
}

/// `POST issuers/import/cert`: certificates only.
pub(crate) async fn import_certificates(
    pki: Arc<Pki>,
    _: Call,
    request: ImportRequest,
) -> Result<Reply<Imported>, BackendError> {
    let bundle = request.pem_bundle.unwrap_or_else(|| Secret::new(""));
    let keys = KeyPair::all_from_pem(bundle.expose()).map_err(in_field("pem_bundle"))?;
    if !keys.is_empty() {
        let problem = "holds a private key: import it by issuers/import/bundle";
        return Err(BackendError::field("pem_bundle", problem));
    }
    Reply::data(&import(&pki, "pem_bundle", bundle.expose(), keys).await?)
}

/// `POST intermediate/set-signed`: the certificate for a key that was generated here, and its chain.
pub(crate) async fn set_signed(
    pki: Arc<Pki>,
    _: Call,
    request: ImportRequest,
) -> Result<Reply<Imported>, BackendError> {
    let text = request.certificate.as_bytes();
    let snapshot = pki.mount.snapshot().await?;
    let belongs = |certificate: &Certificate| {
        let id = hex::encode(certificate.public_key().key_id());
        snapshot
            .state
            .keys
            .values()
            .any(|key| key.key_identifier == id)
    };
    let certificates = certificates_of(text).map_err(in_field("certificate"))?;
    if !certificates.is_empty() && !certificates.iter().any(belongs) {
        let problem =
            "belongs to no key of this mount: generate the CSR here, or import the key as well";
        return Err(BackendError::field("certificate", problem));
    }
    Reply::data(&import(&pki, "certificate", text, Vec::new()).await?)
}

async fn import(
    pki: &Pki,
    field: &'static str,
    text: &[u8],
    keys: Vec<KeyPair>,
) -> Result<Imported, BackendError> {
    let certificates = certificates_of(text).map_err(in_field(field))?;
    if certificates.is_empty() && keys.is_empty() {
        return Err(BackendError::field(field, "holds no certificate in PEM"));
    }
    if certificates.iter().any(|certificate| !certificate.is_ca()) {
        return Err(BackendError::field(
            field,
            "holds a certificate that is not a CA's",
        ));
    }
    for certificate in &certificates {
        certificate
            .public_key()
            .check_strength()
            .map_err(in_field(field))?;
    }
    let entropy = &*pki.mount.host.entropy;
    let keys: Vec<(KeyPair, Secret)> = keys
        .into_iter()
        .map(|key| stored_key(&key).map(|stored| (key, stored)))
        .collect::<Result<_, _>>()?;
    let imported = pki
        .mount
        .update(|state, mut batch| {
            let mut imported = Imported::default();
            for (key, stored) in &keys {
                let (id, is_new) = state.add_key(key, "", entropy)?;
                batch = put_key(batch, &id, is_new.then(|| stored.duplicate()));
                let list = if is_new {
                    &mut imported.imported_keys
                } else {
                    &mut imported.existing_keys
                };
                list.push(id);
            }
            for certificate in &certificates {
                let (id, is_new) = state.add_issuer(certificate, "", entropy)?;
                let list = if is_new {
                    &mut imported.imported_issuers
                } else {
                    &mut imported.existing_issuers
                };
                let key = state
                    .issuers
                    .get(&id)
                    .and_then(|issuer| issuer.key_id.clone());
                imported.mapping.insert(id.clone(), key.unwrap_or_default());
                list.push(id);
            }
            Ok((imported, batch))
        })
        .await?;
    Ok(imported)
}
