//! `identity/entity*`: who there is.

use std::collections::BTreeMap;
use std::time::SystemTime;

use daypass_contract::{Keys, NoFields, Operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::identity_alias::{AliasView, BriefAlias};
use super::rfc3339;
use crate::engine::{Answer, Engine, Failure, Serve, SystemCall, SystemRoutes};
use crate::identity::{Entity, EntityPatch, Merge, Which};

/// Entries that a list gives at most.
pub(super) const MOST_LISTED: usize = 100_000;

#[derive(Deserialize, JsonSchema)]
pub(super) struct IdRequest {
    pub(super) id: String,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct NameRequest {
    pub(super) name: String,
}

/// Where a list goes on.
#[derive(Deserialize, JsonSchema)]
pub(super) struct PageRequest {
    /// Start after this id.
    after: Option<String>,
    /// At most this many.
    limit: Option<usize>,
    /// How `GET` asks for a list.
    #[serde(default, rename = "list")]
    _list: bool,
}

impl PageRequest {
    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref().filter(|after| !after.is_empty())
    }

    pub(super) fn limit(&self) -> usize {
        let asked = self.limit.filter(|limit| *limit > 0);
        asked.map_or(MOST_LISTED, |limit| limit.min(MOST_LISTED))
    }
}

#[derive(Deserialize, JsonSchema)]
struct WriteRequest {
    /// Which entity; otherwise the one of `name`.
    id: Option<String>,
    name: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    policies: Option<Vec<String>>,
    /// It may do nothing, and what it holds is revoked.
    disabled: Option<bool>,
    /// Who answers for it.
    owner: Option<String>,
    /// Where it belongs, such as `production`.
    environment: Option<String>,
    /// From then on it may do nothing (RFC 3339); empty for never.
    ends_at: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct BatchRequest {
    #[serde(default)]
    entity_ids: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
struct MergeRequest {
    #[serde(default)]
    to_entity_id: String,
    #[serde(default)]
    from_entity_ids: Vec<String>,
    /// Where two have an alias in one mount: which stays.
    #[serde(default)]
    conflicting_alias_ids_to_keep: Vec<String>,
    /// Part of the Vault API; about what Daypass does not keep.
    #[serde(default, rename = "force")]
    _force: bool,
}

#[derive(Serialize, JsonSchema)]
struct Made {
    aliases: Option<Vec<BriefAlias>>,
    id: String,
    name: String,
}

/// What is shown of an entity.
#[derive(Serialize, JsonSchema)]
pub(super) struct EntityView {
    aliases: Vec<AliasView>,
    creation_time: String,
    direct_group_ids: Vec<String>,
    disabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<String>,
    group_ids: Vec<String>,
    id: String,
    inherited_group_ids: Vec<String>,
    last_update_time: String,
    merged_entity_ids: Option<Vec<String>>,
    metadata: Option<BTreeMap<String, String>>,
    name: String,
    namespace_id: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    policies: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct BriefEntity {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<BriefAlias>,
    name: String,
}

/// Ids, and what they stand for.
#[derive(Serialize, JsonSchema)]
pub(super) struct Listed<T> {
    key_info: BTreeMap<String, T>,
    keys: Vec<String>,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, List, Read, Write};
    routes.serve::<WriteRequest, Made, _, _>(
        Write,
        "identity/entity",
        "Makes an entity, or changes the one of that name.",
        |call, request| async move {
            let name = request.name.clone().filter(|name| !name.is_empty());
            let id = request.id.clone().filter(|id| !id.is_empty());
            let which = match (&id, &name) {
                (Some(id), _) => Which::Id(id),
                (None, Some(name)) => Which::Named(name),
                (None, None) => Which::New,
            };
            write(call, which, request).await
        },
    );
    routes.serve::<PageRequest, Listed<BriefEntity>, _, _>(
        List,
        "identity/entity/id",
        "Lists entities by their ids.",
        list,
    );
    let pattern = "identity/entity/id/{id}";
    routes.serve::<IdRequest, EntityView, _, _>(
        Read,
        pattern,
        "Reads an entity.",
        |call, request| async move { read(call, Which::Id(&request.id)).await },
    );
    routes.serve::<WriteRequest, (), _, _>(
        Write,
        pattern,
        "Changes an entity; the path says which.",
        |call, request| async move {
            let id = request.id.clone().unwrap_or_default();
            write(call, Which::Id(&id), request).await
        },
    );
    routes.serve::<IdRequest, (), _, _>(
        Delete,
        pattern,
        "Deletes an entity and revokes what it holds.",
        |call, request| async move { delete(call, Which::Id(&request.id)).await },
    );
    routes.serve::<NoFields, Keys, _, _>(
        List,
        "identity/entity/name",
        "Lists the names of entities.",
        list_names,
    );
    let pattern = "identity/entity/name/{name*}";
    routes.serve::<NameRequest, EntityView, _, _>(
        Read,
        pattern,
        "Reads the entity of a name.",
        |call, request| async move { read(call, Which::Named(&request.name)).await },
    );
    routes.serve::<WriteRequest, Made, _, _>(
        Write,
        pattern,
        "Makes or changes the entity of a name.",
        |call, request| async move {
            let name = request.name.clone().unwrap_or_default();
            write(call, Which::Named(&name), request).await
        },
    );
    routes.serve::<NameRequest, (), _, _>(
        Delete,
        pattern,
        "Deletes the entity of a name and revokes what it holds.",
        |call, request| async move { delete(call, Which::Named(&request.name)).await },
    );
    routes.serve::<BatchRequest, (), _, _>(
        Write,
        "identity/entity/batch-delete",
        "Deletes entities and revokes what they hold.",
        batch_delete,
    );
    routes.serve::<MergeRequest, (), _, _>(
        Write,
        "identity/entity/merge",
        "Makes entities part of another, with their aliases, groups and tokens.",
        merge,
    );
}

async fn write(
    call: SystemCall,
    which: Which<'_>,
    request: WriteRequest,
) -> Result<Answer, Failure> {
    let ends_at = match request.ends_at.as_deref() {
        None => None,
        Some("") => Some(None),
        Some(text) => Some(Some(instant(text)?)),
    };
    let patch = EntityPatch {
        name: request.name,
        metadata: request.metadata,
        policies: request.policies,
        disabled: request.disabled,
        owner: request.owner,
        environment: request.environment,
        ends_at,
    };
    let engine = call.engine()?;
    let written = engine.identity.put_entity(which, patch).await?;
    engine.follow(&written).await?;
    if !written.created {
        return Ok(Answer::nothing());
    }
    Answer::data(&Made {
        aliases: None,
        id: written.record.id,
        name: written.record.name,
    })
}

fn instant(text: &str) -> Result<SystemTime, Failure> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map(Into::into)
        .map_err(|_| {
            Failure::Invalid(
                "field \"ends_at\": expected an instant such as 2030-01-31T12:00:00Z".into(),
            )
        })
}

async fn read(call: SystemCall, which: Which<'_>) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let entity = engine.identity.entity(which).await?;
    show(&engine, entity.ok_or(Failure::NotFound)?).await
}

/// An entity with its groups.
pub(super) async fn show(engine: &Engine, entity: Entity) -> Result<Answer, Failure> {
    let groups = engine.identity.entity_groups(&entity).await?;
    let ids = |wanted: Option<bool>| {
        groups
            .iter()
            .filter(|(_, direct)| wanted.is_none_or(|wanted| wanted == *direct))
            .map(|(group, _)| group.id.clone())
            .collect()
    };
    Answer::data(&EntityView {
        aliases: entity
            .aliases
            .iter()
            .map(|alias| AliasView::of(&entity.id, alias))
            .collect(),
        creation_time: rfc3339(entity.created_at),
        direct_group_ids: ids(Some(true)),
        disabled: entity.disabled,
        ends_at: entity.ends_at.map(rfc3339),
        environment: entity.environment,
        group_ids: ids(None),
        id: entity.id,
        inherited_group_ids: ids(Some(false)),
        last_update_time: rfc3339(entity.updated_at),
        merged_entity_ids: some(entity.merged_ids),
        metadata: some_pairs(entity.metadata),
        name: entity.name,
        namespace_id: "root",
        owner: entity.owner,
        policies: entity.policies,
    })
}

/// What is empty is null in the Vault API.
pub(super) fn some<T>(items: Vec<T>) -> Option<Vec<T>> {
    Some(items).filter(|items| !items.is_empty())
}

pub(super) fn some_pairs(pairs: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    Some(pairs).filter(|pairs| !pairs.is_empty())
}

/// The answer to a list with what its keys stand for; an empty one is not found.
pub(super) fn listed<T: Serialize>(
    entries: impl IntoIterator<Item = (String, T)>,
) -> Result<Answer, Failure> {
    let key_info: BTreeMap<String, T> = entries.into_iter().collect();
    if key_info.is_empty() {
        return Err(Failure::NotFound);
    }
    let keys = key_info.keys().cloned().collect();
    Answer::data(&Listed { key_info, keys })
}

async fn list(call: SystemCall, request: PageRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let entities = engine
        .identity
        .entities(request.after(), request.limit())
        .await?;
    listed(entities.into_iter().map(|entity| {
        let brief = BriefEntity {
            aliases: entity.aliases.iter().map(BriefAlias::of).collect(),
            name: entity.name,
        };
        (entity.id, brief)
    }))
}

async fn list_names(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    Answer::keys(&call.engine()?.identity.entity_names(MOST_LISTED).await?)
}

async fn delete(call: SystemCall, which: Which<'_>) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let withdrawn = engine.identity.delete_entity(which).await?;
    engine.withdraw(&withdrawn).await?;
    Ok(Answer::nothing())
}

async fn batch_delete(call: SystemCall, request: BatchRequest) -> Result<Answer, Failure> {
    if request.entity_ids.is_empty() {
        return Err(Failure::Invalid("missing entity ids to delete".into()));
    }
    let engine = call.engine()?;
    for id in &request.entity_ids {
        let withdrawn = engine.identity.delete_entity(Which::Id(id)).await?;
        engine.withdraw(&withdrawn).await?;
    }
    Ok(Answer::nothing())
}

async fn merge(call: SystemCall, request: MergeRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let merge = Merge {
        into: request.to_entity_id,
        from: request.from_entity_ids,
        keep_aliases: request.conflicting_alias_ids_to_keep,
    };
    let written = engine.identity.merge_entities(&merge).await?;
    engine.follow(&written).await?;
    Ok(Answer::nothing())
}
