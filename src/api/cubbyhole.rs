//! `cubbyhole/*`: what a token keeps for itself. Nobody else reads it, root included.

use std::collections::BTreeSet;

use daypass_contract::{Json, Keys, Operation, Secret};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::engine::{Answer, Body, Failure, Serve, SystemCall, SystemRoutes};
use crate::identity::{Shelf, TokenId};

/// Paths listed at most.
const MOST_PATHS: usize = 10_000;

/// Any field may be kept, so the path's own name is one that no field has.
const PATH: &str = "path_below_mount";

#[derive(Deserialize, JsonSchema)]
struct PathRequest {
    path_below_mount: String,
}

#[derive(Deserialize, JsonSchema)]
struct LevelRequest {
    #[serde(default)]
    path_below_mount: String,
    /// How `GET` asks for a list.
    #[serde(default, rename = "list")]
    _list: bool,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, List, Read, Write};
    routes.serve::<PathRequest, Map<String, Value>, _, _>(
        Read,
        "cubbyhole/{path_below_mount*}",
        "Reads what the token keeps under a path.",
        read,
    );
    routes.serve::<LevelRequest, Keys, _, _>(
        List,
        "cubbyhole/{path_below_mount*}",
        "Lists what the token keeps.",
        list,
    );
    routes.serve::<Map<String, Value>, (), _, _>(
        Write,
        "cubbyhole/{path_below_mount*}",
        "Keeps the fields of the request under a path, until the token ends.",
        write,
    );
    routes.serve::<PathRequest, (), _, _>(
        Delete,
        "cubbyhole/{path_below_mount*}",
        "Forgets what the token keeps under a path.",
        delete,
    );
}

fn owner(call: &SystemCall) -> Result<&TokenId, Failure> {
    call.principal()?.token.as_ref().ok_or_else(|| {
        Failure::Invalid(
            "cubbyhole operations are only supported by \"service\" type tokens".into(),
        )
    })
}

async fn read(call: SystemCall, request: PathRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let kept = engine
        .tokens
        .kept(owner(&call)?, Shelf::Cubbyhole, &request.path_below_mount)
        .await?;
    let kept = kept.ok_or(Failure::NotFound)?;
    Ok(Answer::of(Body::Data(Json::from_secret(kept))))
}

async fn list(call: SystemCall, request: LevelRequest) -> Result<Answer, Failure> {
    let level = match request.path_below_mount.trim_matches('/') {
        "" => String::new(),
        path => format!("{path}/"),
    };
    let engine = call.engine()?;
    let paths = engine
        .tokens
        .kept_below(owner(&call)?, Shelf::Cubbyhole, &level, MOST_PATHS)
        .await?;
    let names: BTreeSet<String> = paths
        .iter()
        .map(|path| match path.split_once('/') {
            Some((folder, _)) => format!("{folder}/"),
            None => path.clone(),
        })
        .collect();
    Answer::keys(&names.into_iter().collect::<Vec<_>>())
}

async fn write(call: SystemCall, mut fields: Map<String, Value>) -> Result<Answer, Failure> {
    let Some(Value::String(path)) = fields.remove(PATH) else {
        return Err(Failure::Invalid(
            "the path below cubbyhole/ is required".into(),
        ));
    };
    if fields.is_empty() {
        return Err(Failure::Invalid("missing data fields".into()));
    }
    let bytes = serde_json::to_vec(&fields)
        .map_err(|_| Failure::Internal("cubbyhole cannot be encoded".into()))?;
    let engine = call.engine()?;
    engine
        .tokens
        .keep(owner(&call)?, Shelf::Cubbyhole, &path, &Secret::new(bytes))
        .await?;
    Ok(Answer::nothing())
}

async fn delete(call: SystemCall, request: PathRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    engine
        .tokens
        .discard(owner(&call)?, Shelf::Cubbyhole, &request.path_below_mount)
        .await?;
    Ok(Answer::nothing())
}
