//! `identity/group*` and `identity/group-alias*`.

use std::collections::BTreeMap;

use daypass_contract::{Keys, NoFields, Operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::identity_alias::{BriefAlias, ListedAlias, MadeAlias, mount};
use super::identity_entity::{
    IdRequest, Listed, MOST_LISTED, NameRequest, PageRequest, listed, some, some_pairs,
};
use super::rfc3339;
use crate::engine::{Answer, Engine, Failure, Serve, SystemCall, SystemRoutes};
use crate::identity::{Group, GroupAlias, GroupAliasPatch, GroupKind, GroupPatch, Which};

#[derive(Deserialize, JsonSchema)]
struct WriteRequest {
    /// Which group; otherwise the one of `name`.
    id: Option<String>,
    name: Option<String>,
    /// `internal` or `external`; cannot change.
    #[serde(rename = "type")]
    kind: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    policies: Option<Vec<String>>,
    /// All direct members; of an internal group.
    member_entity_ids: Option<Vec<String>>,
    /// All groups whose members are its members; of an internal group.
    member_group_ids: Option<Vec<String>>,
}

#[derive(Deserialize, JsonSchema)]
struct WriteAliasRequest {
    /// Which alias; a new one if not given.
    id: Option<String>,
    name: Option<String>,
    mount_accessor: Option<String>,
    /// The group; a new one if not given.
    canonical_id: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct MadeGroup {
    id: String,
    name: String,
}

/// What is shown of a group.
#[derive(Serialize, JsonSchema)]
pub(super) struct GroupView {
    alias: GroupAliasView,
    creation_time: String,
    id: String,
    last_update_time: String,
    member_entity_ids: Option<Vec<String>>,
    member_group_ids: Option<Vec<String>>,
    metadata: Option<BTreeMap<String, String>>,
    modify_index: u64,
    name: String,
    namespace_id: &'static str,
    parent_group_ids: Option<Vec<String>>,
    policies: Option<Vec<String>>,
    #[serde(rename = "type")]
    kind: &'static str,
}

/// A group's alias within the group; no field where it has none.
#[derive(Serialize, JsonSchema)]
struct GroupAliasView {
    #[serde(flatten)]
    alias: Option<GroupAliasFields>,
}

#[derive(Serialize, JsonSchema)]
struct GroupAliasFields {
    canonical_id: String,
    creation_time: String,
    id: String,
    last_update_time: String,
    merged_from_canonical_ids: Option<Vec<String>>,
    metadata: Option<BTreeMap<String, String>>,
    mount_accessor: String,
    mount_path: String,
    mount_type: String,
    name: String,
}

impl GroupAliasFields {
    fn of(group: &str, alias: &GroupAlias) -> Self {
        Self {
            canonical_id: group.to_owned(),
            creation_time: rfc3339(alias.created_at),
            id: alias.id.clone(),
            last_update_time: rfc3339(alias.updated_at),
            merged_from_canonical_ids: None,
            metadata: None,
            mount_accessor: alias.mount_accessor.clone(),
            mount_path: alias.mount_path.clone(),
            mount_type: alias.mount_type.clone(),
            name: alias.name.clone(),
        }
    }
}

/// A group's alias by itself.
#[derive(Serialize, JsonSchema)]
struct WholeGroupAlias {
    #[serde(flatten)]
    alias: GroupAliasFields,
    custom_metadata: Option<BTreeMap<String, String>>,
    local: bool,
    namespace_id: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct BriefGroup {
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<BriefAlias>,
    name: String,
    num_member_entities: usize,
    num_parent_groups: usize,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, List, Read, Write};
    routes.serve::<WriteRequest, MadeGroup, _, _>(
        Write,
        "identity/group",
        "Makes a group, or changes the one of that name.",
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
    routes.serve::<PageRequest, Listed<BriefGroup>, _, _>(
        List,
        "identity/group/id",
        "Lists groups by their ids.",
        list,
    );
    let pattern = "identity/group/id/{id}";
    routes.serve::<IdRequest, GroupView, _, _>(
        Read,
        pattern,
        "Reads a group.",
        |call, request| async move { read(call, Which::Id(&request.id)).await },
    );
    routes.serve::<WriteRequest, (), _, _>(
        Write,
        pattern,
        "Changes a group; the path says which.",
        |call, request| async move {
            let id = request.id.clone().unwrap_or_default();
            write(call, Which::Id(&id), request).await
        },
    );
    routes.serve::<IdRequest, (), _, _>(
        Delete,
        pattern,
        "Deletes a group; its members stay.",
        |call, request| async move { delete(call, Which::Id(&request.id)).await },
    );
    routes.serve::<NoFields, Keys, _, _>(
        List,
        "identity/group/name",
        "Lists the names of groups.",
        list_names,
    );
    let pattern = "identity/group/name/{name*}";
    routes.serve::<NameRequest, GroupView, _, _>(
        Read,
        pattern,
        "Reads the group of a name.",
        |call, request| async move { read(call, Which::Named(&request.name)).await },
    );
    routes.serve::<WriteRequest, MadeGroup, _, _>(
        Write,
        pattern,
        "Makes or changes the group of a name.",
        |call, request| async move {
            let name = request.name.clone().unwrap_or_default();
            write(call, Which::Named(&name), request).await
        },
    );
    routes.serve::<NameRequest, (), _, _>(
        Delete,
        pattern,
        "Deletes the group of a name; its members stay.",
        |call, request| async move { delete(call, Which::Named(&request.name)).await },
    );
    routes.serve::<WriteAliasRequest, MadeAlias, _, _>(
        Write,
        "identity/group-alias",
        "Gives an external group its name in an auth method.",
        write_alias,
    );
    routes.serve::<PageRequest, Listed<ListedAlias>, _, _>(
        List,
        "identity/group-alias/id",
        "Lists the aliases of groups by their ids.",
        list_aliases,
    );
    let pattern = "identity/group-alias/id/{id}";
    routes.serve::<IdRequest, WholeGroupAlias, _, _>(
        Read,
        pattern,
        "Reads a group's alias.",
        read_alias,
    );
    routes.serve::<WriteAliasRequest, MadeAlias, _, _>(
        Write,
        pattern,
        "Changes a group's alias; memberships by the old one end.",
        write_alias,
    );
    routes.serve::<IdRequest, (), _, _>(
        Delete,
        pattern,
        "Deletes a group's alias, and with it every membership.",
        delete_alias,
    );
}

async fn write(
    call: SystemCall,
    which: Which<'_>,
    request: WriteRequest,
) -> Result<Answer, Failure> {
    let kind = match request.kind.as_deref() {
        None | Some("") => None,
        Some("internal") => Some(GroupKind::Internal),
        Some("external") => Some(GroupKind::External),
        Some(_) => {
            return Err(Failure::Invalid(
                "invalid group type: field \"type\" must be internal or external".into(),
            ));
        }
    };
    let patch = GroupPatch {
        name: request.name,
        kind,
        policies: request.policies,
        metadata: request.metadata,
        member_entities: request.member_entity_ids,
        member_groups: request.member_group_ids,
    };
    let written = call.engine()?.identity.put_group(which, patch).await?;
    if !written.created {
        return Ok(Answer::nothing());
    }
    Answer::data(&MadeGroup {
        id: written.record.id,
        name: written.record.name,
    })
}

async fn read(call: SystemCall, which: Which<'_>) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let group = engine.identity.group(which).await?;
    show(&engine, group.ok_or(Failure::NotFound)?).await
}

/// A group with its members.
pub(super) async fn show(engine: &Engine, group: Group) -> Result<Answer, Failure> {
    let members = engine.identity.members(&group, MOST_LISTED).await?;
    let alias = group.alias.as_ref();
    Answer::data(&GroupView {
        alias: GroupAliasView {
            alias: alias.map(|alias| GroupAliasFields::of(&group.id, alias)),
        },
        creation_time: rfc3339(group.created_at),
        id: group.id,
        last_update_time: rfc3339(group.updated_at),
        member_entity_ids: some(members),
        member_group_ids: some(group.member_groups),
        metadata: some_pairs(group.metadata),
        modify_index: group.modify_index,
        name: group.name,
        namespace_id: "root",
        parent_group_ids: some(group.parents),
        policies: some(group.policies),
        kind: group.kind.as_str(),
    })
}

async fn list(call: SystemCall, request: PageRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let groups = engine
        .identity
        .groups(request.after(), request.limit())
        .await?;
    let mut entries = Vec::with_capacity(groups.len());
    for group in groups {
        let members = engine.identity.members(&group, MOST_LISTED).await?;
        let brief = BriefGroup {
            alias: group.alias.as_ref().map(BriefAlias::of_group),
            num_member_entities: members.len(),
            num_parent_groups: group.parents.len(),
            name: group.name,
        };
        entries.push((group.id, brief));
    }
    listed(entries)
}

async fn list_names(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    Answer::keys(&call.engine()?.identity.group_names(MOST_LISTED).await?)
}

async fn delete(call: SystemCall, which: Which<'_>) -> Result<Answer, Failure> {
    call.engine()?.identity.delete_group(which).await?;
    Ok(Answer::nothing())
}

async fn write_alias(call: SystemCall, request: WriteAliasRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let refuse = |text: &str| Failure::Invalid(text.into());
    if given(request.id.clone()).is_none() && given(request.name.clone()).is_none() {
        return Err(refuse("missing alias name"));
    }
    let accessor = given(request.mount_accessor).ok_or_else(|| refuse("missing mount_accessor"))?;
    let patch = GroupAliasPatch {
        id: request.id,
        name: request.name,
        mount: mount(&engine, &accessor)?,
        group_id: request.canonical_id,
    };
    let group = engine.identity.put_group_alias(patch).await?;
    Answer::data(&MadeAlias {
        id: group.alias.map(|alias| alias.id).unwrap_or_default(),
        canonical_id: group.id,
    })
}

async fn read_alias(call: SystemCall, request: IdRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let group = engine.identity.group_by_alias_id(&request.id).await?;
    let group = group.ok_or(Failure::NotFound)?;
    let alias = group.alias.as_ref().ok_or(Failure::NotFound)?;
    Answer::data(&WholeGroupAlias {
        alias: GroupAliasFields::of(&group.id, alias),
        custom_metadata: None,
        local: false,
        namespace_id: "root",
    })
}

async fn list_aliases(call: SystemCall, request: PageRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let groups = engine
        .identity
        .aliased_groups(request.after(), request.limit())
        .await?;
    listed(groups.into_iter().filter_map(|group| {
        let alias = group.alias?;
        let view = ListedAlias {
            canonical_id: group.id,
            custom_metadata: None,
            local: false,
            metadata: None,
            mount_accessor: alias.mount_accessor,
            mount_path: alias.mount_path,
            mount_type: alias.mount_type,
            name: alias.name,
        };
        Some((alias.id, view))
    }))
}

async fn delete_alias(call: SystemCall, request: IdRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    engine.identity.delete_group_alias(&request.id).await?;
    Ok(Answer::nothing())
}
