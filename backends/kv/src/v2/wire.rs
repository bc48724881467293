//! What kv v2 is asked and answers, named and ordered as the Vault API has it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use daypass_contract::{BackendError, Call};
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::instant::Instant;
use crate::metadata::{Metadata, Version};
use crate::request::{Seconds, sent};
use crate::settings::{Change, Settings};

#[derive(Deserialize, JsonSchema)]
pub(super) struct PathRequest {
    /// The path of the secret.
    pub(super) path: String,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct ListRequest {
    /// The level to list; empty for the top.
    #[serde(default)]
    pub(super) path: String,
    /// Start after this name.
    pub(super) after: Option<String>,
    /// At most this many names.
    pub(super) limit: Option<i64>,
    /// How `GET` asks for a list.
    #[serde(default, rename = "list")]
    _list: bool,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct ReadRequest {
    /// The path of the secret.
    pub(super) path: String,
    /// Which version; the latest where it is 0.
    #[serde(default)]
    pub(super) version: i64,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct OutlineRequest {
    /// The path of the secret.
    pub(super) path: String,
    /// Which version; the latest where it is 0.
    #[serde(default)]
    pub(super) version: i64,
    /// How many levels of names; all where it is 0.
    #[serde(default)]
    pub(super) depth: i64,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct DataRequest {
    /// The path of the secret.
    pub(super) path: String,
    /// The secret's fields, or with a patch their changes. Taken from the body itself, so that no
    /// second tree is made of it.
    #[serde(default, rename = "data")]
    #[schemars(with = "Option<Map<String, Value>>")]
    _data: Option<IgnoredAny>,
    options: Option<DataOptions>,
}

/// An option that is not known is refused: one that was meant to be `cas` would not be checked.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DataOptions {
    /// The version that the write replaces; 0 for none.
    #[serde(default, deserialize_with = "sent")]
    cas: Option<i64>,
}

impl DataRequest {
    /// The fields of the secret: an object or `null`.
    pub(super) fn data(call: &Call) -> Result<&Value, BackendError> {
        static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
        match call.body.fields().get("data") {
            None => Err(BackendError::InvalidRequest("no data provided".into())),
            Some(data @ (Value::Object(_) | Value::Null)) => Ok(data),
            // How PHP writes an object without fields.
            Some(Value::Array(items)) if items.is_empty() => Ok(&EMPTY),
            Some(_) => Err(BackendError::field("data", "expected an object")),
        }
    }

    pub(super) fn cas(&self) -> Option<i64> {
        self.options.as_ref().and_then(|options| options.cas)
    }
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct VersionsRequest {
    /// The path of the secret.
    pub(super) path: String,
    /// Numbers of versions.
    #[serde(default)]
    versions: Vec<i64>,
}

impl VersionsRequest {
    /// The versions, of which there must be one; `problem` says so.
    pub(super) fn versions(&self, problem: &str) -> Result<&[i64], BackendError> {
        if self.versions.is_empty() {
            return Err(BackendError::InvalidRequest(problem.into()));
        }
        Ok(&self.versions)
    }
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct ConfigRequest {
    /// How many versions of each secret to keep; 0 for 10.
    #[serde(default, deserialize_with = "sent")]
    max_versions: Option<u32>,
    /// Whether each write of data must name the version it replaces.
    #[serde(default, deserialize_with = "sent")]
    cas_required: Option<bool>,
    /// Whether each write of metadata must name the metadata version it replaces.
    #[serde(default, deserialize_with = "sent")]
    metadata_cas_required: Option<bool>,
    /// How long until a version is deleted; 0 for no opinion, negative for never.
    #[serde(default, deserialize_with = "sent")]
    delete_version_after: Option<Seconds>,
}

impl ConfigRequest {
    pub(super) fn change(&self) -> Change {
        Change {
            max_versions: self.max_versions,
            cas_required: self.cas_required,
            metadata_cas_required: self.metadata_cas_required,
            delete_version_after: self.delete_version_after,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct MetadataRequest {
    /// The path of the secret.
    pub(super) path: String,
    /// How many versions to keep; the mount's number holds where it is larger.
    #[serde(default, deserialize_with = "sent")]
    max_versions: Option<u32>,
    /// Whether each write of data must name the version it replaces.
    #[serde(default, deserialize_with = "sent")]
    cas_required: Option<bool>,
    /// Whether each write of metadata must name the metadata version it replaces.
    #[serde(default, deserialize_with = "sent")]
    metadata_cas_required: Option<bool>,
    /// The metadata version that the write replaces; 0 for none.
    #[serde(default, deserialize_with = "sent")]
    pub(super) metadata_cas: Option<i64>,
    /// How long until a version is deleted; the mount's duration holds where it is shorter.
    #[serde(default, deserialize_with = "sent")]
    delete_version_after: Option<Seconds>,
    /// Names and texts that describe the secret; a patch removes those that are `null`.
    #[serde(default, deserialize_with = "sent")]
    custom_metadata: Option<BTreeMap<String, Option<String>>>,
}

impl MetadataRequest {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.settings().is_empty() && self.custom_metadata.is_none()
    }

    /// The settings to change.
    pub(super) fn change(&self) -> Result<Change, BackendError> {
        let change = self.settings();
        match change.delete_version_after {
            Some(Seconds(seconds)) if seconds < 0 => Err(BackendError::field(
                "delete_version_after",
                "must not be negative; only the mount's may be, for never",
            )),
            _ => Ok(change),
        }
    }

    /// Replaces custom metadata where the request has any.
    pub(super) fn set_custom(&self, custom: &mut BTreeMap<String, String>) {
        if let Some(given) = &self.custom_metadata {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            *custom = given
                .iter()
                .map(|(key, value)| (key.clone(), text(value)))
                .collect();
        }
    }

    /// Merges the request's custom metadata into what is there.
    pub(super) fn patch_custom(&self, custom: &mut BTreeMap<String, String>) {
        for (key, value) in self.custom_metadata.iter().flatten() {
            match value {
                Some(value) => {
                    custom.insert(key.clone(), value.clone());
                }
                None => {
                    custom.remove(key);
                }
            }
        }
    }

    fn settings(&self) -> Change {
        Change {
            max_versions: self.max_versions,
            cas_required: self.cas_required,
            metadata_cas_required: self.metadata_cas_required,
            delete_version_after: self.delete_version_after,
        }
    }
}

#[derive(Serialize, JsonSchema)]
pub(super) struct ConfigView {
    cas_required: bool,
    delete_version_after: String,
    max_versions: u32,
    metadata_cas_required: bool,
}

impl ConfigView {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            cas_required: settings.cas_required,
            delete_version_after: settings.delete_version_after(),
            max_versions: settings.max_versions,
            metadata_cas_required: settings.metadata_cas_required,
        }
    }
}

/// A secret and its version's metadata.
#[derive(Serialize, JsonSchema)]
pub(super) struct DataView {
    /// The fields as they were written; `null` where the version is deleted or destroyed.
    #[schemars(with = "Option<Map<String, Value>>")]
    pub(super) data: Option<Box<RawValue>>,
    pub(super) metadata: VersionView,
}

/// The names within a secret.
#[derive(Serialize, JsonSchema)]
pub(super) struct OutlineView {
    pub(super) metadata: VersionView,
    /// Names, with `null` for each value; `null` where the version is deleted or destroyed.
    pub(super) subkeys: Value,
}

/// A version's metadata.
#[derive(Serialize, JsonSchema)]
pub(super) struct VersionView {
    created_time: String,
    custom_metadata: Option<BTreeMap<String, String>>,
    /// Empty where the version stays.
    deletion_time: String,
    destroyed: bool,
    version: u64,
}

impl VersionView {
    pub(super) fn of(metadata: &Metadata, number: u64, version: &Version) -> Self {
        Self {
            created_time: Instant::text(Some(version.created_at)),
            custom_metadata: custom(metadata),
            deletion_time: Instant::text(version.deleted_at),
            destroyed: version.destroyed,
            version: number,
        }
    }
}

/// A secret's metadata.
#[derive(Serialize, JsonSchema)]
pub(super) struct MetadataView {
    cas_required: bool,
    created_time: String,
    current_metadata_version: u64,
    current_version: u64,
    custom_metadata: Option<BTreeMap<String, String>>,
    delete_version_after: String,
    max_versions: u32,
    metadata_cas_required: bool,
    oldest_version: u64,
    updated_time: String,
    /// By number, as text and in its order.
    versions: BTreeMap<String, VersionSummary>,
}

/// One of the versions in a secret's metadata.
#[derive(Serialize, JsonSchema)]
struct VersionSummary {
    created_time: String,
    deletion_time: String,
    destroyed: bool,
}

impl MetadataView {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let summary = |version: &Version| VersionSummary {
            created_time: Instant::text(Some(version.created_at)),
            deletion_time: Instant::text(version.deleted_at),
            destroyed: version.destroyed,
        };
        let versions = metadata.versions.iter();
        Self {
            cas_required: metadata.settings.cas_required,
            created_time: Instant::text(Some(metadata.created_at)),
            current_metadata_version: metadata.writes,
            current_version: metadata.current_version,
            custom_metadata: custom(metadata),
            delete_version_after: metadata.settings.delete_version_after(),
            max_versions: metadata.settings.max_versions,
            metadata_cas_required: metadata.settings.metadata_cas_required,
            oldest_version: metadata.oldest_version,
            updated_time: Instant::text(Some(metadata.updated_at)),
            versions: versions
                .map(|(number, version)| (number.to_string(), summary(version)))
                .collect(),
        }
    }
}

/// None is `null`, not an empty object.
fn custom(metadata: &Metadata) -> Option<BTreeMap<String, String>> {
    Some(metadata.custom.clone()).filter(|custom| !custom.is_empty())
}
