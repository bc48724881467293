//! kv v1: a path holds the fields that were last written to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use daypass_contract::{
    Backend, BackendError, BackendRoutes, Batch, Call, Handle, Host, Keys, Operation, Presence,
    Reply, Revocability, Revocation, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::request;

/// Every field of the body is part of the secret, so the path's own name must be one that no secret
/// has for a field: a path parameter replaces the field of its name.
const PATH: &str = "path_below_mount";

/// Keys of the store: the path of a secret.
const SECRETS: &str = "secret/";

pub(crate) struct V1 {
    host: Host,
}

#[derive(Deserialize, JsonSchema)]
struct PathRequest {
    path_below_mount: String,
}

/// The fields of the secret, whatever they are; they are taken from the body itself.
#[derive(Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
struct WriteRequest {
    path_below_mount: String,
}

#[derive(Deserialize, JsonSchema)]
struct ListRequest {
    #[serde(default)]
    path_below_mount: String,
    /// Start after this name.
    after: Option<String>,
    /// At most this many names.
    limit: Option<i64>,
    /// How `GET` asks for a list.
    #[serde(default, rename = "list")]
    _list: bool,
}

/// The fields as they were written.
#[derive(Serialize, JsonSchema)]
#[serde(transparent)]
struct Fields(#[schemars(with = "Map<String, Value>")] Box<RawValue>);

impl V1 {
    pub(crate) fn new(host: Host) -> Self {
        Self { host }
    }

    async fn read(
        self: Arc<Self>,
        _: Call,
        request: PathRequest,
    ) -> Result<Reply<Fields>, BackendError> {
        let key = key(&request.path_below_mount);
        let entry = self.host.store.get(&key).await?;
        Reply::data(&Fields(entry.ok_or(BackendError::NotFound)?.decode()?))
    }

    async fn write(
        self: Arc<Self>,
        call: Call,
        request: WriteRequest,
    ) -> Result<Reply<()>, BackendError> {
        request::check_path(&request.path_below_mount)?;
        let fields: BTreeMap<&String, &Value> = call
            .body
            .fields()
            .iter()
            .filter(|(name, _)| *name != PATH)
            .collect();
        if fields.is_empty() {
            return Err(BackendError::InvalidRequest("missing data fields".into()));
        }
        let batch = Batch::new().put_json(key(&request.path_below_mount), &fields)?;
        self.host.store.apply(batch).await?;
        Ok(Reply::nothing())
    }

    async fn delete(
        self: Arc<Self>,
        _: Call,
        request: PathRequest,
    ) -> Result<Reply<()>, BackendError> {
        let batch = Batch::new().delete(key(&request.path_below_mount));
        self.host.store.apply(batch).await?;
        Ok(Reply::nothing())
    }

    async fn list(
        self: Arc<Self>,
        _: Call,
        request: ListRequest,
    ) -> Result<Reply<Keys>, BackendError> {
        let prefix = request::prefix(SECRETS, &request.path_below_mount);
        let limit = request::limit(request.limit);
        let after = request.after.as_deref();
        Reply::keys(self.host.store.list(&prefix, after, limit).await?)
    }
}

fn key(path: &str) -> String {
    format!("{SECRETS}{path}")
}

#[async_trait]
impl Backend for V1 {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        let mut routes = BackendRoutes::default();
        let pattern = "{path_below_mount*}";
        routes.answer(
            &self,
            Operation::Read,
            pattern,
            "Reads a secret.",
            Self::read,
        );
        routes.answer(
            &self,
            Operation::List,
            pattern,
            "Lists secrets.",
            Self::list,
        );
        routes.answer(
            &self,
            Operation::Write,
            pattern,
            "Writes a secret.",
            Self::write,
        );
        routes.answer(
            &self,
            Operation::Delete,
            pattern,
            "Deletes a secret.",
            Self::delete,
        );
        routes
    }

    fn revocability(&self) -> Revocability {
        crate::revocability()
    }

    async fn exists(&self, path: &str) -> Result<bool, BackendError> {
        let entry = self
            .host
            .store
            .get(&key(path.trim_end_matches('/')))
            .await?;
        Ok(entry.is_some())
    }

    async fn revoke(&self, _: &Handle) -> Result<Revocation, BackendError> {
        crate::not_leased()
    }

    async fn verify(&self, _: &Handle) -> Result<Presence, BackendError> {
        crate::not_leased()
    }
}
