//! kv v2: a path holds versions of a secret and metadata about them.
//!
//! A read is two gets and parses no tree; a write is two gets and one batch, on condition that the
//! metadata has not changed in between.

use std::sync::Arc;

use daypass_contract::{
    Backend, BackendError, BackendRoutes, Call, Handle, Host, Keys, NoFields, Operation, Presence,
    Reply, Revocability, Revocation, Secret, StoreError, async_trait,
};
use serde_json::{Map, Value};

use crate::instant::Instant;
use crate::json;
use crate::metadata::{Metadata, check_custom};
use crate::request::{check_path, limit};
use crate::settings::Settings;

mod records;
mod wire;

use records::{Key, Records, deciding};
use wire::{
    ConfigRequest, ConfigView, DataRequest, DataView, ListRequest, MetadataRequest, MetadataView,
    OutlineRequest, OutlineView, PathRequest, ReadRequest, VersionView, VersionsRequest,
};

pub(crate) struct V2 {
    records: Records,
}

/// A version that exists.
struct Found {
    view: VersionView,
    /// `None` where it is deleted or destroyed.
    value: Option<Secret>,
}

impl V2 {
    pub(crate) fn new(host: Host) -> Self {
        Self {
            records: Records::new(host.store),
        }
    }

    async fn read_config(
        self: Arc<Self>,
        _: Call,
        _: NoFields,
    ) -> Result<Reply<ConfigView>, BackendError> {
        Reply::data(&ConfigView::of(&self.records.config().await?))
    }

    async fn write_config(
        self: Arc<Self>,
        _: Call,
        request: ConfigRequest,
    ) -> Result<Reply<()>, BackendError> {
        let change = request.change();
        if !change.is_empty() {
            let act = |settings: &mut Settings| settings.apply(&change);
            self.records.change_config(act).await?;
        }
        Ok(Reply::nothing())
    }

    async fn read(
        self: Arc<Self>,
        call: Call,
        request: ReadRequest,
    ) -> Result<Reply<DataView>, BackendError> {
        let found = self.find(&call, &request.path, request.version).await?;
        let metadata = found.view;
        match found.value {
            Some(value) => Reply::data(&DataView {
                data: Some(decode(&value)?),
                metadata,
            }),
            None => Reply::absent(&DataView {
                data: None,
                metadata,
            }),
        }
    }

    async fn read_outline(
        self: Arc<Self>,
        call: Call,
        request: OutlineRequest,
    ) -> Result<Reply<OutlineView>, BackendError> {
        let found = self.find(&call, &request.path, request.version).await?;
        let metadata = found.view;
        let Some(value) = found.value else {
            let subkeys = Value::Null;
            return Reply::absent(&OutlineView { metadata, subkeys });
        };
        let mut subkeys = decode(&value)?;
        json::outline(&mut subkeys, request.depth);
        Reply::data(&OutlineView { metadata, subkeys })
    }

    async fn write(
        self: Arc<Self>,
        call: Call,
        request: DataRequest,
    ) -> Result<Reply<VersionView>, BackendError> {
        check_path(&request.path)?;
        let now = Instant::of(call.now)?;
        let value = encode(DataRequest::data(&call)?)?;
        let mount = self.records.config().await?;
        deciding(|| async {
            let mut key = self.records.load(&request.path).await?;
            let metadata = key.metadata.take().unwrap_or_else(|| Metadata::new(now));
            metadata.check(&mount, request.cas())?;
            self.add(&key, metadata, &mount, value.duplicate(), now)
                .await
        })
        .await
    }

    async fn patch(
        self: Arc<Self>,
        call: Call,
        request: DataRequest,
    ) -> Result<Reply<VersionView>, BackendError> {
        let now = Instant::of(call.now)?;
        let nothing = Value::Object(Map::new());
        let patch = match DataRequest::data(&call)? {
            Value::Null => &nothing,
            patch => patch,
        };
        let mount = self.records.config().await?;
        deciding(|| async {
            let mut key = self.records.load(&request.path).await?;
            let metadata = key.metadata.take().ok_or(BackendError::NotFound)?;
            metadata.check(&mount, request.cas())?;
            let (number, version) = metadata.version(0).ok_or(BackendError::NotFound)?;
            if !version.is_readable(now) {
                return Reply::absent(&VersionView::of(&metadata, number, version));
            }
            let mut tree = decode(&self.records.value(&request.path, number).await?)?;
            json::merge(&mut tree, patch.clone());
            self.add(&key, metadata, &mount, encode(&tree)?, now).await
        })
        .await
    }

    async fn delete_latest(
        self: Arc<Self>,
        call: Call,
        request: PathRequest,
    ) -> Result<Reply<()>, BackendError> {
        let now = Instant::of(call.now)?;
        self.change(&request.path, |metadata| {
            metadata.delete_latest(now);
            Vec::new()
        })
        .await
    }

    async fn delete(
        self: Arc<Self>,
        call: Call,
        request: VersionsRequest,
    ) -> Result<Reply<()>, BackendError> {
        let now = Instant::of(call.now)?;
        let versions = request.versions("No version number provided")?;
        self.change(&request.path, |metadata| {
            metadata.delete(versions, now);
            Vec::new()
        })
        .await
    }

    async fn undelete(
        self: Arc<Self>,
        call: Call,
        request: VersionsRequest,
    ) -> Result<Reply<()>, BackendError> {
        let now = Instant::of(call.now)?;
        let versions = request.versions("No version number provided")?;
        let mount = self.records.config().await?;
        self.change(&request.path, |metadata| {
            metadata.undelete(versions, &mount, now);
            Vec::new()
        })
        .await
    }

    async fn destroy(
        self: Arc<Self>,
        _: Call,
        request: VersionsRequest,
    ) -> Result<Reply<()>, BackendError> {
        let versions = request.versions("no version number provided")?;
        self.change(&request.path, |metadata| metadata.destroy(versions))
            .await
    }

    async fn read_metadata(
        self: Arc<Self>,
        _: Call,
        request: PathRequest,
    ) -> Result<Reply<MetadataView>, BackendError> {
        let key = self.records.load(&request.path).await?;
        Reply::data(&MetadataView::of(
            &key.metadata.ok_or(BackendError::NotFound)?,
        ))
    }

    async fn write_metadata(
        self: Arc<Self>,
        call: Call,
        request: MetadataRequest,
    ) -> Result<Reply<()>, BackendError> {
        check_path(&request.path)?;
        let new = Metadata::new(Instant::of(call.now)?);
        self.set_metadata(&call, &request, Some(new), |metadata| {
            request.set_custom(&mut metadata.custom);
        })
        .await
    }

    async fn patch_metadata(
        self: Arc<Self>,
        call: Call,
        request: MetadataRequest,
    ) -> Result<Reply<()>, BackendError> {
        let clear = call.body.fields().get("custom_metadata") == Some(&Value::Null);
        self.set_metadata(&call, &request, None, |metadata| {
            if clear {
                metadata.custom.clear();
            }
            request.patch_custom(&mut metadata.custom);
        })
        .await
    }

    async fn delete_metadata(
        self: Arc<Self>,
        _: Call,
        request: PathRequest,
    ) -> Result<Reply<()>, BackendError> {
        deciding(|| async {
            let key = self.records.load(&request.path).await?;
            self.records.remove(&key).await
        })
        .await?;
        Ok(Reply::nothing())
    }

    async fn list(
        self: Arc<Self>,
        _: Call,
        request: ListRequest,
    ) -> Result<Reply<Keys>, BackendError> {
        let (after, limit) = (request.after.as_deref(), limit(request.limit));
        Reply::keys(self.records.list(&request.path, after, limit).await?)
    }

    /// The version of `path` that `asked` means.
    async fn find(&self, call: &Call, path: &str, asked: i64) -> Result<Found, BackendError> {
        let now = Instant::of(call.now)?;
        let found = deciding(|| async {
            let key = self.records.load(path).await?;
            let metadata = key.metadata.ok_or(BackendError::NotFound)?;
            let (number, version) = metadata.version(asked).ok_or(BackendError::NotFound)?;
            let view = VersionView::of(&metadata, number, version);
            let value = if version.is_readable(now) {
                Some(self.records.value(path, number).await?)
            } else {
                None
            };
            Ok(Found { view, value })
        });
        match found.await {
            // Nobody destroys versions that fast.
            Err(BackendError::Store(StoreError::Conflict)) => Err(BackendError::Internal(
                "a version's value is not stored".into(),
            )),
            found => found,
        }
    }

    /// Stores `value` as the next version, and in the same batch removes the versions it pushes out.
    async fn add(
        &self,
        key: &Key<'_>,
        mut metadata: Metadata,
        mount: &Settings,
        value: Secret,
        now: Instant,
    ) -> Result<Reply<VersionView>, BackendError> {
        let gone = metadata.add(mount, now);
        self.records.save(key, &metadata, Some(value), gone).await?;
        let (number, version) = metadata.version(0).ok_or(BackendError::NotFound)?;
        Reply::data(&VersionView::of(&metadata, number, version))
    }

    /// Changes the versions of a key where there is one; `act` answers those whose value must go.
    async fn change(
        &self,
        path: &str,
        act: impl Fn(&mut Metadata) -> Vec<u64> + Send + Sync,
    ) -> Result<Reply<()>, BackendError> {
        deciding(|| async {
            let mut key = self.records.load(path).await?;
            let Some(before) = key.metadata.take() else {
                return Ok(());
            };
            let mut metadata = before.clone();
            let gone = act(&mut metadata);
            if metadata == before {
                return Ok(());
            }
            self.records.save(&key, &metadata, None, gone).await
        })
        .await?;
        Ok(Reply::nothing())
    }

    /// Sets what the request names, and custom metadata by `custom`. Where there is no such key, it
    /// starts from `new`.
    async fn set_metadata(
        &self,
        call: &Call,
        request: &MetadataRequest,
        new: Option<Metadata>,
        custom: impl Fn(&mut Metadata) + Send + Sync,
    ) -> Result<Reply<()>, BackendError> {
        if request.is_empty() {
            return Ok(Reply::nothing());
        }
        let now = Instant::of(call.now)?;
        let mount = self.records.config().await?;
        let change = request.change()?;
        deciding(|| async {
            let mut key = self.records.load(&request.path).await?;
            let found = key.metadata.take();
            let mut metadata = found
                .or_else(|| new.clone())
                .ok_or(BackendError::NotFound)?;
            metadata.check_metadata(&mount, request.metadata_cas)?;
            metadata.writes += 1;
            metadata.updated_at = now;
            metadata.settings.apply(&change);
            custom(&mut metadata);
            check_custom(&metadata.custom)?;
            self.records.save(&key, &metadata, None, Vec::new()).await
        })
        .await?;
        let warnings = change.warnings(&mount).into_iter();
        Ok(warnings.fold(Reply::nothing(), Reply::warn))
    }
}

fn encode(value: &Value) -> Result<Secret, BackendError> {
    serde_json::to_vec(value)
        .map(Secret::new)
        .map_err(|_| BackendError::Internal("secret cannot be encoded".into()))
}

fn decode<T: serde::de::DeserializeOwned>(value: &Secret) -> Result<T, BackendError> {
    // serde_json's message may quote the value.
    serde_json::from_slice(value.expose())
        .map_err(|_| BackendError::Internal("stored secret is not JSON".into()))
}

#[async_trait]
impl Backend for V2 {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        use Operation::{Delete, List, Patch, Read, Write};
        let mut routes = BackendRoutes::default();
        let r = &mut routes;
        r.answer(
            &self,
            Read,
            "config",
            "Reads the mount's settings.",
            Self::read_config,
        );
        r.answer(
            &self,
            Write,
            "config",
            "Sets the mount's settings.",
            Self::write_config,
        );
        let data = "data/{path*}";
        r.answer(
            &self,
            Read,
            data,
            "Reads a version of a secret.",
            Self::read,
        );
        r.answer(
            &self,
            Write,
            data,
            "Writes a new version of a secret.",
            Self::write,
        );
        r.answer(
            &self,
            Patch,
            data,
            "Merges changes into a new version.",
            Self::patch,
        );
        r.answer(
            &self,
            Delete,
            data,
            "Deletes the latest version, until undeleted.",
            Self::delete_latest,
        );
        let metadata = "metadata/{path*}";
        r.answer(
            &self,
            Read,
            metadata,
            "Reads a secret's metadata.",
            Self::read_metadata,
        );
        r.answer(&self, List, metadata, "Lists secrets.", Self::list);
        r.answer(
            &self,
            Write,
            metadata,
            "Sets a secret's metadata.",
            Self::write_metadata,
        );
        r.answer(
            &self,
            Patch,
            metadata,
            "Merges changes into metadata.",
            Self::patch_metadata,
        );
        r.answer(
            &self,
            Delete,
            metadata,
            "Removes a secret with all versions.",
            Self::delete_metadata,
        );
        r.answer(
            &self,
            Write,
            "delete/{path*}",
            "Deletes versions, until undeleted.",
            Self::delete,
        );
        r.answer(
            &self,
            Write,
            "undelete/{path*}",
            "Restores deleted versions.",
            Self::undelete,
        );
        r.answer(
            &self,
            Write,
            "destroy/{path*}",
            "Removes versions for good.",
            Self::destroy,
        );
        r.answer(
            &self,
            Read,
            "subkeys/{path*}",
            "Reads the names within a secret.",
            Self::read_outline,
        );
        routes
    }

    fn revocability(&self) -> Revocability {
        crate::revocability()
    }

    /// Only a secret can be created; all other targets of a write exist.
    async fn exists(&self, path: &str) -> Result<bool, BackendError> {
        let secret = ["data/", "metadata/"]
            .into_iter()
            .find_map(|prefix| path.strip_prefix(prefix));
        match secret {
            Some(path) => self.records.exists(path.trim_end_matches('/')).await,
            None => Ok(true),
        }
    }

    async fn revoke(&self, _: &Handle) -> Result<Revocation, BackendError> {
        crate::not_leased()
    }

    async fn verify(&self, _: &Handle) -> Result<Presence, BackendError> {
        crate::not_leased()
    }
}
