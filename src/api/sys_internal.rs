//! `sys/internal/*`: what clients ask to find their way, and the OpenAPI document.

use std::collections::BTreeMap;

use daypass_contract::route::Form;
use daypass_contract::{Access, NoFields, Operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sys_mounts::{MountView, auth_table, table, view};
use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};
use crate::policy::Acl;

#[derive(Deserialize, JsonSchema)]
struct PathRequest {
    path: String,
}

#[derive(Serialize, JsonSchema)]
struct Visible {
    secret: BTreeMap<String, MountView>,
    auth: BTreeMap<String, MountView>,
}

#[derive(Serialize, JsonSchema)]
struct MountAt {
    path: String,
    #[serde(flatten)]
    mount: MountView,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::Read;
    routes
        .serve::<NoFields, Visible, _, _>(
            Read,
            "sys/internal/ui/mounts",
            "Lists the mounts the caller may use.",
            visible,
        )
        .access = Access::Anyone;
    routes
        .serve::<PathRequest, MountAt, _, _>(
            Read,
            "sys/internal/ui/mounts/{path*}",
            "Describes the mount that a path lies in, to a caller that may use it.",
            mount_at,
        )
        .access = Access::Anyone;
    routes
        .serve::<NoFields, (), _, _>(
            Read,
            "sys/internal/specs/openapi",
            "Gives the OpenAPI 3.1 document of every endpoint the server has now.",
            openapi,
        )
        .written(Form::Bare)
        .access = Access::Anyone;
}

/// Whether a policy of the caller mentions anything at or below `prefix`.
fn may_use(acl: &Acl, prefix: &str) -> bool {
    acl.reaches(prefix)
}

async fn visible(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    // Without a token the answer is empty, as the Vault API has it: a login page may ask.
    let Some(principal) = &call.principal else {
        return Answer::data(&Visible {
            secret: BTreeMap::new(),
            auth: BTreeMap::new(),
        });
    };
    let acl = engine.policies.acl(principal.policies());
    let mut secret = table(&engine);
    secret.retain(|path, _| may_use(&acl, path));
    let mut auth = auth_table(&engine);
    auth.retain(|path, _| may_use(&acl, &format!("auth/{path}")));
    Answer::data(&Visible { secret, auth })
}

async fn mount_at(call: SystemCall, request: PathRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let denied = || Failure::Denied;
    let principal = call.principal.as_ref().ok_or_else(denied)?;
    let (mount, _) = engine
        .mounts
        .find(request.path.trim_matches('/'))
        .ok_or_else(denied)?;
    let path = format!("{}/", mount.record().path);
    let acl = engine.policies.acl(principal.policies());
    if !may_use(&acl, &path) {
        return Err(Failure::Denied);
    }
    Answer::data(&MountAt {
        path,
        mount: view(&mount),
    })
}

async fn openapi(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let document = super::openapi::document(call.plane.system_routes(), &engine.mounts.all());
    Answer::plain(200, &document)
}
