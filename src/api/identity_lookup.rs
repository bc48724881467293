//! `identity/lookup/*`: entities and groups by any of their names.

use daypass_contract::{Effect, Operation};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{identity_entity, identity_group};
use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};
use crate::identity::Which;

/// Exactly one of `id`, `name`, `alias_id`, or `alias_name` with `alias_mount_accessor`.
#[derive(Deserialize, JsonSchema)]
struct LookupRequest {
    id: Option<String>,
    name: Option<String>,
    alias_id: Option<String>,
    alias_name: Option<String>,
    alias_mount_accessor: Option<String>,
}

enum Query {
    Id(String),
    Name(String),
    AliasId(String),
    Alias { accessor: String, name: String },
}

impl LookupRequest {
    fn query(self) -> Result<Query, Failure> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let alias = match (given(self.alias_name), given(self.alias_mount_accessor)) {
            (Some(name), Some(accessor)) => Some(Query::Alias { accessor, name }),
            (None, None) => None,
            _ => {
                return Err(Failure::Invalid(
                    "both 'alias_name' and 'alias_mount_accessor' needs to be set".into(),
                ));
            }
        };
        let mut queries = [
            given(self.id).map(Query::Id),
            given(self.name).map(Query::Name),
            given(self.alias_id).map(Query::AliasId),
            alias,
        ]
        .into_iter()
        .flatten();
        match (queries.next(), queries.next()) {
            (Some(query), None) => Ok(query),
            (None, _) => Err(Failure::Invalid("query parameter not supplied".into())),
            (Some(_), Some(_)) => Err(Failure::Invalid(
                "query parameter conflict; please supply distinct set of query parameters".into(),
            )),
        }
    }
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    routes
        .serve::<LookupRequest, identity_entity::EntityView, _, _>(
            Operation::Write,
            "identity/lookup/entity",
            "Finds an entity by a name, an id or an alias.",
            entity,
        )
        .effect = Effect::Observe;
    routes
        .serve::<LookupRequest, identity_group::GroupView, _, _>(
            Operation::Write,
            "identity/lookup/group",
            "Finds a group by a name, an id or an alias.",
            group,
        )
        .effect = Effect::Observe;
}

async fn entity(call: SystemCall, request: LookupRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let identity = &engine.identity;
    let found = match request.query()? {
        Query::Id(id) => identity.entity(Which::Id(&id)).await?,
        Query::Name(name) => identity.entity(Which::Named(&name)).await?,
        Query::AliasId(id) => identity.alias(&id).await?.map(|(entity, _)| entity),
        Query::Alias { accessor, name } => identity.entity_by_alias(&accessor, &name).await?,
    };
    match found {
        Some(entity) => identity_entity::show(&engine, entity).await,
        None => Ok(Answer::nothing()),
    }
}

async fn group(call: SystemCall, request: LookupRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let identity = &engine.identity;
    let found = match request.query()? {
        Query::Id(id) => identity.group(Which::Id(&id)).await?,
        Query::Name(name) => identity.group(Which::Named(&name)).await?,
        Query::AliasId(id) => identity.group_by_alias_id(&id).await?,
        Query::Alias { accessor, name } => identity.group_by_alias(&accessor, &name).await?,
    };
    match found {
        Some(group) => identity_group::show(&engine, group).await,
        None => Ok(Answer::nothing()),
    }
}
