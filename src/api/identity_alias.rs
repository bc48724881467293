//! `identity/entity-alias*`: the names of entities in auth methods.

use std::collections::BTreeMap;

use daypass_contract::Operation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::identity_entity::{IdRequest, Listed, PageRequest, listed, some, some_pairs};
use super::rfc3339;
use crate::engine::{
    Answer, Engine, Failure, Serve, SystemCall, SystemRoutes, TOKEN_ACCESSOR, token_method,
};
use crate::identity::{Alias, AliasPatch, GroupAlias, LoginMount};

#[derive(Deserialize, JsonSchema)]
struct WriteRequest {
    /// Which alias; otherwise the one of `name` and `mount_accessor`.
    id: Option<String>,
    name: Option<String>,
    /// The entity it shall be a name of.
    canonical_id: Option<String>,
    /// What older clients call `canonical_id`.
    entity_id: Option<String>,
    mount_accessor: Option<String>,
    custom_metadata: Option<BTreeMap<String, String>>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct MadeAlias {
    pub(super) canonical_id: String,
    pub(super) id: String,
}

/// What is shown of an alias within its entity.
#[derive(Serialize, JsonSchema)]
pub(super) struct AliasView {
    canonical_id: String,
    creation_time: String,
    custom_metadata: Option<BTreeMap<String, String>>,
    id: String,
    last_update_time: String,
    local: bool,
    merged_from_canonical_ids: Option<Vec<String>>,
    metadata: Option<BTreeMap<String, String>>,
    mount_accessor: String,
    mount_path: String,
    mount_type: String,
    name: String,
}

impl AliasView {
    pub(super) fn of(entity: &str, alias: &Alias) -> Self {
        Self {
            canonical_id: entity.to_owned(),
            creation_time: rfc3339(alias.created_at),
            custom_metadata: some_pairs(alias.custom_metadata.clone()),
            id: alias.id.clone(),
            last_update_time: rfc3339(alias.updated_at),
            local: false,
            merged_from_canonical_ids: some(alias.merged_from.clone()),
            metadata: some_pairs(alias.metadata.clone()),
            mount_accessor: alias.mount_accessor.clone(),
            mount_path: alias.mount_path.clone(),
            mount_type: alias.mount_type.clone(),
            name: alias.name.clone(),
        }
    }
}

/// The same by itself.
#[derive(Serialize, JsonSchema)]
struct WholeAlias {
    #[serde(flatten)]
    alias: AliasView,
    namespace_id: &'static str,
}

/// What a list of entities or groups says of an alias.
#[derive(Serialize, JsonSchema)]
pub(super) struct BriefAlias {
    id: String,
    mount_accessor: String,
    mount_path: String,
    mount_type: String,
    name: String,
}

impl BriefAlias {
    pub(super) fn of(alias: &Alias) -> Self {
        Self {
            id: alias.id.clone(),
            mount_accessor: alias.mount_accessor.clone(),
            mount_path: alias.mount_path.clone(),
            mount_type: alias.mount_type.clone(),
            name: alias.name.clone(),
        }
    }

    pub(super) fn of_group(alias: &GroupAlias) -> Self {
        Self {
            id: alias.id.clone(),
            mount_accessor: alias.mount_accessor.clone(),
            mount_path: alias.mount_path.clone(),
            mount_type: alias.mount_type.clone(),
            name: alias.name.clone(),
        }
    }
}

/// What a list of aliases says of one.
#[derive(Serialize, JsonSchema)]
pub(super) struct ListedAlias {
    pub(super) canonical_id: String,
    pub(super) custom_metadata: Option<BTreeMap<String, String>>,
    pub(super) local: bool,
    pub(super) metadata: Option<BTreeMap<String, String>>,
    pub(super) mount_accessor: String,
    pub(super) mount_path: String,
    pub(super) mount_type: String,
    pub(super) name: String,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, List, Read, Write};
    routes.serve::<WriteRequest, MadeAlias, _, _>(
        Write,
        "identity/entity-alias",
        "Makes an alias, or changes the one of that name in that mount.",
        write,
    );
    routes.serve::<PageRequest, Listed<ListedAlias>, _, _>(
        List,
        "identity/entity-alias/id",
        "Lists aliases by their ids.",
        list,
    );
    let pattern = "identity/entity-alias/id/{id}";
    routes.serve::<IdRequest, WholeAlias, _, _>(Read, pattern, "Reads an alias.", read);
    routes.serve::<WriteRequest, MadeAlias, _, _>(
        Write,
        pattern,
        "Changes an alias, or moves it to another entity.",
        write,
    );
    routes.serve::<IdRequest, (), _, _>(
        Delete,
        pattern,
        "Deletes an alias; its entity stays.",
        delete,
    );
}

/// The mount of an accessor.
pub(super) fn mount(engine: &Engine, accessor: &str) -> Result<LoginMount, Failure> {
    // The token method has no mount of its own.
    if accessor == TOKEN_ACCESSOR {
        return Ok(token_method());
    }
    let record = engine
        .mounts
        .all()
        .iter()
        .map(|mount| mount.record())
        .find(|record| record.accessor == accessor)
        .ok_or_else(|| {
            Failure::Invalid("field \"mount_accessor\": invalid mount accessor".into())
        })?;
    Ok(LoginMount {
        accessor: record.accessor.clone(),
        path: format!("{}/", record.path),
        kind: record.kind.clone(),
    })
}

async fn write(call: SystemCall, request: WriteRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let mount = given(request.mount_accessor)
        .map(|accessor| mount(&engine, &accessor))
        .transpose()?;
    let patch = AliasPatch {
        id: request.id,
        name: request.name,
        mount,
        entity_id: given(request.canonical_id).or(request.entity_id),
        custom_metadata: request.custom_metadata,
    };
    let (entity, alias) = engine.identity.put_alias(patch).await?.record;
    Answer::data(&MadeAlias {
        canonical_id: entity,
        id: alias.id,
    })
}

async fn read(call: SystemCall, request: IdRequest) -> Result<Answer, Failure> {
    let found = call.engine()?.identity.alias(&request.id).await?;
    let (entity, alias) = found.ok_or(Failure::NotFound)?;
    Answer::data(&WholeAlias {
        alias: AliasView::of(&entity.id, &alias),
        namespace_id: "root",
    })
}

async fn list(call: SystemCall, request: PageRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let aliases = engine
        .identity
        .aliases(request.after(), request.limit())
        .await?;
    listed(aliases.into_iter().map(|(entity, alias)| {
        let view = ListedAlias {
            canonical_id: entity,
            custom_metadata: some_pairs(alias.custom_metadata),
            local: false,
            metadata: some_pairs(alias.metadata),
            mount_accessor: alias.mount_accessor,
            mount_path: alias.mount_path,
            mount_type: alias.mount_type,
            name: alias.name,
        };
        (alias.id, view)
    }))
}

async fn delete(call: SystemCall, request: IdRequest) -> Result<Answer, Failure> {
    call.engine()?.identity.delete_alias(&request.id).await?;
    Ok(Answer::nothing())
}
