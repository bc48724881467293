//! The CAs of a mount: one record lists them, and one more for each holds its private key.
//!
//! **Invariant:** a key is written, listed and deleted in one batch each, on condition that the list is
//! what the request was decided upon; a key that is not listed signs nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use daypass_contract::{
    BackendError, Batch, Call, Entropy, NoFields, Reply, Revision, Secret, StoreError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssh_key::PublicKey;

use crate::key::{KeyPair, Kind};
use crate::names::flag;
use crate::{Ssh, import, internal};

const LIST: &str = "issuers";

/// The most CAs of one mount: their list is read with each request.
const MOST: usize = 100;

/// Keys that were parsed, by issuer. What an id names never changes.
#[derive(Default)]
pub(crate) struct Cache(Mutex<HashMap<String, Arc<KeyPair>>>);

/// The record of all CAs.
#[derive(Default, Serialize, Deserialize)]
struct Issuers {
    default: Option<String>,
    by_id: BTreeMap<String, Issuer>,
}

#[derive(Serialize, Deserialize)]
struct Issuer {
    name: String,
    /// One line in the form of `authorized_keys`.
    public_key: String,
}

impl Issuers {
    /// The id of what `reference` names: `default`, an id or a name.
    fn find(&self, reference: &str) -> Result<(&String, &Issuer), BackendError> {
        let id = match (reference, &self.default) {
            ("" | "default", None) => {
                return Err(BackendError::InvalidRequest(
                    "no default issuer currently configured: write config/ca".into(),
                ));
            }
            ("" | "default", Some(id)) => id,
            (other, _) => other,
        };
        self.by_id
            .get_key_value(id)
            .or_else(|| self.by_id.iter().find(|(_, issuer)| issuer.name == id))
            .ok_or_else(|| {
                BackendError::InvalidRequest("unable to find issuer for that reference".into())
            })
    }
}

fn key_of(id: &str) -> String {
    format!("keys/{id}")
}

fn view(id: &str, issuer: &Issuer) -> IssuerView {
    IssuerView {
        issuer_id: id.to_owned(),
        issuer_name: issuer.name.clone(),
        public_key: issuer.public_key.clone(),
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct IssuerView {
    issuer_id: String,
    issuer_name: String,
    public_key: String,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct IssuersView {
    keys: Vec<String>,
    key_info: BTreeMap<String, IssuerInfo>,
}

#[derive(Serialize, JsonSchema)]
struct IssuerInfo {
    is_default: bool,
    issuer_name: String,
    public_key: String,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct DefaultView {
    default: String,
}

/// A CA to make or to import.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CaRequest {
    /// From the path.
    issuer_name: String,
    /// As ssh-keygen writes it, or PKCS#8, SEC 1 or PKCS#1 in PEM; with `public_key`.
    private_key: Option<Secret>,
    /// One line in the form of `authorized_keys`; with `private_key`.
    public_key: String,
    /// Whether to make a key where none is given.
    generate_signing_key: bool,
    /// `rsa`, `ec` or `ed25519`.
    key_type: String,
    /// 0: 4096 for rsa, 256 for ec.
    key_bits: u32,
    /// Whether it becomes the default; `config/ca` always does that.
    #[serde(deserialize_with = "flag")]
    set_default: bool,
}

impl Default for CaRequest {
    fn default() -> Self {
        Self {
            issuer_name: String::new(),
            private_key: None,
            public_key: String::new(),
            generate_signing_key: true,
            key_type: "rsa".into(),
            key_bits: 0,
            set_default: false,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DefaultRequest {
    /// An issuer's id or name.
    #[serde(default)]
    default: String,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct ByReference {
    /// An issuer's id or name, or `default`.
    #[serde(default)]
    issuer_ref: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameRequest {
    issuer_ref: String,
    #[serde(default)]
    issuer_name: String,
}

impl Ssh {
    async fn issuers(&self) -> Result<(Issuers, Option<Revision>), BackendError> {
        Ok(match self.host.store.get(LIST).await? {
            Some(entry) => (entry.decode()?, Some(entry.revision)),
            None => (Issuers::default(), None),
        })
    }

    /// The id and the key of a CA that signs.
    pub(crate) async fn signer(
        &self,
        reference: &str,
    ) -> Result<(String, Arc<KeyPair>), BackendError> {
        let (issuers, _) = self.issuers().await?;
        let (id, _) = issuers.find(reference)?;
        let cache = || self.cache.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = cache().get(id).cloned();
        if let Some(key) = known {
            return Ok((id.clone(), key));
        }
        let entry = self.host.store.get(&key_of(id)).await?;
        // Listed and not there: another request deleted it meanwhile.
        let entry = entry.ok_or(StoreError::Conflict)?;
        let key = KeyPair::from_der(entry.value.expose())
            .ok_or_else(|| BackendError::Internal("stored key is damaged".into()))?;
        let key = Arc::new(key);
        let mut cache = cache();
        if cache.len() >= MOST {
            cache.clear();
        }
        cache.insert(id.clone(), Arc::clone(&key));
        Ok((id.clone(), key))
    }

    pub(crate) async fn write_ca(
        self: Arc<Self>,
        _: Call,
        mut request: CaRequest,
    ) -> Result<Reply<IssuerView>, BackendError> {
        request.set_default = true;
        self.add_issuer(request).await
    }

    pub(crate) async fn import_issuer(
        self: Arc<Self>,
        _: Call,
        request: CaRequest,
    ) -> Result<Reply<IssuerView>, BackendError> {
        self.add_issuer(request).await
    }

    async fn add_issuer(&self, request: CaRequest) -> Result<Reply<IssuerView>, BackendError> {
        check_name(&request.issuer_name)?;
        let (key, public) = self.requested_key(&request).await?;
        let public_key = public.to_openssh().map_err(internal)? + "\n";
        let (mut issuers, revision) = self.issuers().await?;
        let is_same = |issuer: &Issuer| {
            PublicKey::from_openssh(&issuer.public_key)
                .is_ok_and(|known| known.key_data() == public.key_data())
        };
        let known = issuers.by_id.iter().find(|(_, issuer)| is_same(issuer));
        let mut batch = Batch::new().expect(LIST, revision);
        let mut warning = None;
        let id = if let Some((id, _)) = known {
            warning = Some("that CA is here already: it was not added again");
            id.clone()
        } else {
            if issuers.by_id.len() >= MOST {
                return Err(BackendError::InvalidRequest(format!(
                    "this mount has {MOST} CAs, the most there may be: delete one"
                )));
            }
            unused_name(&issuers, &request.issuer_name, None)?;
            let id = new_id(&*self.host.entropy);
            batch = batch.put(key_of(&id), key.to_pkcs8()?);
            let name = request.issuer_name;
            issuers
                .by_id
                .insert(id.clone(), Issuer { name, public_key });
            id
        };
        if request.set_default || issuers.default.is_none() {
            issuers.default = Some(id.clone());
        }
        let batch = batch.put_json(LIST, &issuers)?;
        let (id, issuer) = issuers.find(&id)?;
        let reply = Reply::data(&view(id, issuer))?;
        self.host.store.apply(batch).await?;
        Ok(warning.into_iter().fold(reply, Reply::warn))
    }

    async fn requested_key(
        &self,
        request: &CaRequest,
    ) -> Result<(KeyPair, PublicKey), BackendError> {
        let private_key = request.private_key.as_ref().filter(|key| !key.is_empty());
        match (private_key, request.public_key.trim()) {
            (None, "") if request.generate_signing_key => {
                let kind = Kind::named(&request.key_type, request.key_bits, 4096)?;
                let key = self.keygen.generate(kind).await?;
                let public = PublicKey::new(key.public().clone(), "");
                Ok((key, public))
            }
            (None, "") => Err(BackendError::InvalidRequest(
                "missing public_key and private_key: give both, or set generate_signing_key".into(),
            )),
            (None, _) | (_, "") => Err(BackendError::InvalidRequest(
                "only one of public_key and private_key set; both must be set to use, or both must be \
                 blank to auto-generate"
                    .into(),
            )),
            (Some(private), public) => {
                let public = PublicKey::from_openssh(public).map_err(|_| {
                    BackendError::field("public_key", "must be one line as in authorized_keys")
                })?;
                let key = import::private_key(private)?;
                if key.public() != public.key_data() {
                    let problem = "must be the public half of private_key";
                    return Err(BackendError::field("public_key", problem));
                }
                Ok((key, public))
            }
        }
    }

    pub(crate) async fn read_ca(
        self: Arc<Self>,
        _: Call,
        _: NoFields,
    ) -> Result<Reply<IssuerView>, BackendError> {
        let (issuers, _) = self.issuers().await?;
        let (id, issuer) = issuers.find("default")?;
        Reply::data(&view(id, issuer))
    }

    pub(crate) async fn read_issuer(
        self: Arc<Self>,
        _: Call,
        request: ByReference,
    ) -> Result<Reply<IssuerView>, BackendError> {
        let (issuers, _) = self.issuers().await?;
        let (id, issuer) = issuers.find(&request.issuer_ref)?;
        Reply::data(&view(id, issuer))
    }

    pub(crate) async fn public_key(
        self: Arc<Self>,
        _: Call,
        request: ByReference,
    ) -> Result<Reply<NoFields>, BackendError> {
        let (issuers, _) = self.issuers().await?;
        let (_, issuer) = issuers.find(&request.issuer_ref)?;
        Ok(Reply::raw("text/plain", issuer.public_key.clone().into()))
    }

    pub(crate) async fn name_issuer(
        self: Arc<Self>,
        _: Call,
        request: NameRequest,
    ) -> Result<Reply<IssuerView>, BackendError> {
        check_name(&request.issuer_name)?;
        let (mut issuers, revision) = self.issuers().await?;
        let id = issuers.find(&request.issuer_ref)?.0.clone();
        unused_name(&issuers, &request.issuer_name, Some(&id))?;
        if let Some(issuer) = issuers.by_id.get_mut(&id) {
            issuer.name = request.issuer_name;
        }
        self.store(&issuers, revision).await?;
        let (id, issuer) = issuers.find(&id)?;
        Reply::data(&view(id, issuer))
    }

    pub(crate) async fn delete_issuer(
        self: Arc<Self>,
        _: Call,
        request: ByReference,
    ) -> Result<Reply<NoFields>, BackendError> {
        let (mut issuers, revision) = self.issuers().await?;
        // Twice succeeds.
        let Some(id) = issuers
            .find(&request.issuer_ref)
            .ok()
            .map(|(id, _)| id.clone())
        else {
            return Ok(Reply::nothing());
        };
        issuers.by_id.remove(&id);
        let was_default = issuers.default.as_ref() == Some(&id);
        if was_default {
            issuers.default = None;
        }
        let batch = Batch::new().expect(LIST, revision).delete(key_of(&id));
        self.host
            .store
            .apply(batch.put_json(LIST, &issuers)?)
            .await?;
        self.forget();
        let reply = Reply::nothing();
        Ok(if was_default {
            reply.warn("that was the default CA: roles without an issuer_ref sign nothing until config/issuers \
                        names another")
        } else {
            reply
        })
    }

    pub(crate) async fn delete_cas(
        self: Arc<Self>,
        _: Call,
        _: NoFields,
    ) -> Result<Reply<NoFields>, BackendError> {
        let (issuers, revision) = self.issuers().await?;
        if issuers.by_id.is_empty() {
            return Ok(Reply::nothing());
        }
        let batch = Batch::new().expect(LIST, revision).delete(LIST);
        let batch = issuers
            .by_id
            .keys()
            .fold(batch, |batch, id| batch.delete(key_of(id)));
        self.host.store.apply(batch).await?;
        self.forget();
        let count = issuers.by_id.len();
        Ok(Reply::nothing().warn(format!(
            "Deleted {count} issuers, including default issuer if configured."
        )))
    }

    /// Wipes the keys in memory; those that are still listed are read again.
    fn forget(&self) {
        self.cache
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(crate) async fn read_default(
        self: Arc<Self>,
        _: Call,
        _: NoFields,
    ) -> Result<Reply<DefaultView>, BackendError> {
        let (issuers, _) = self.issuers().await?;
        let default = issuers.find("default")?.0.clone();
        Reply::data(&DefaultView { default })
    }

    pub(crate) async fn write_default(
        self: Arc<Self>,
        _: Call,
        request: DefaultRequest,
    ) -> Result<Reply<DefaultView>, BackendError> {
        if matches!(request.default.as_str(), "" | "default") {
            let problem = "must be an issuer's id or name, and not \"default\"";
            return Err(BackendError::field("default", problem));
        }
        let (mut issuers, revision) = self.issuers().await?;
        let id = issuers.find(&request.default)?.0.clone();
        issuers.default = Some(id.clone());
        self.store(&issuers, revision).await?;
        Reply::data(&DefaultView { default: id })
    }

    pub(crate) async fn list_issuers(
        self: Arc<Self>,
        _: Call,
        _: NoFields,
    ) -> Result<Reply<IssuersView>, BackendError> {
        let (issuers, _) = self.issuers().await?;
        if issuers.by_id.is_empty() {
            return Err(BackendError::NotFound);
        }
        let key_info = issuers.by_id.into_iter().map(|(id, issuer)| {
            let info = IssuerInfo {
                is_default: issuers.default.as_ref() == Some(&id),
                issuer_name: issuer.name,
                public_key: issuer.public_key,
            };
            (id, info)
        });
        let key_info: BTreeMap<String, IssuerInfo> = key_info.collect();
        Reply::data(&IssuersView {
            keys: key_info.keys().cloned().collect(),
            key_info,
        })
    }

    async fn store(
        &self,
        issuers: &Issuers,
        revision: Option<Revision>,
    ) -> Result<(), BackendError> {
        let batch = Batch::new().expect(LIST, revision);
        Ok(self
            .host
            .store
            .apply(batch.put_json(LIST, issuers)?)
            .await?)
    }
}

fn check_name(name: &str) -> Result<(), BackendError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if name.len() > 128 || name == "default" || !name.bytes().all(allowed) {
        return Err(BackendError::field(
            "issuer_name",
            "must have at most 128 letters, digits, '_', '-' and '.', and not be \"default\"",
        ));
    }
    Ok(())
}

/// Refuses a name that would lead to another CA than `own`.
fn unused_name(issuers: &Issuers, name: &str, own: Option<&str>) -> Result<(), BackendError> {
    let mut others = issuers
        .by_id
        .iter()
        .filter(|(id, _)| Some(id.as_str()) != own);
    if !name.is_empty() && others.any(|(id, issuer)| issuer.name == name || id == name) {
        return Err(BackendError::field("issuer_name", "is in use already"));
    }
    Ok(())
}

fn new_id(entropy: &dyn Entropy) -> String {
    uuid::Builder::from_random_bytes(entropy.bytes())
        .into_uuid()
        .to_string()
}
