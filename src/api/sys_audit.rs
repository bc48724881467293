//! `sys/audit`: the log, as clients that expect audit devices ask for it, and `sys/audit-hash`.

use std::collections::BTreeMap;

use daypass_contract::{Access, NoFields, Operation, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};

/// The name of the one log there is.
const LOCAL: &str = "local";

#[derive(Serialize, JsonSchema)]
struct DeviceView {
    #[serde(rename = "type")]
    kind: &'static str,
    description: &'static str,
    path: String,
    local: bool,
    options: BTreeMap<&'static str, String>,
}

#[derive(Deserialize, JsonSchema)]
struct PathRequest {
    #[serde(rename = "path")]
    _path: String,
}

#[derive(Deserialize, JsonSchema)]
struct HashRequest {
    path: String,
    /// What to hash.
    input: Secret,
}

#[derive(Serialize, JsonSchema)]
struct HashView {
    hash: String,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, Read, Write};
    routes
        .serve::<NoFields, BTreeMap<String, DeviceView>, _, _>(
            Read,
            "sys/audit",
            "Describes the audit log.",
            list,
        )
        .access = Access::Sudo;
    for (operation, summary) in [
        (
            Write,
            "Refuses: the local log is always on, others follow it.",
        ),
        (Delete, "Refuses: the local log is always on."),
    ] {
        routes
            .serve::<PathRequest, (), _, _>(operation, "sys/audit/{path}", summary, refuse)
            .access = Access::Sudo;
    }
    routes
        .serve::<HashRequest, HashView, _, _>(
            Write,
            "sys/audit-hash/{path}",
            "Hashes a value as the audit log does, to search the log for it.",
            hash,
        )
        .effect = daypass_contract::Effect::Observe;
}

async fn list(_: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let device = DeviceView {
        kind: "file",
        description: "the chained local log; always on",
        path: format!("{LOCAL}/"),
        local: true,
        options: BTreeMap::new(),
    };
    Answer::flat(&BTreeMap::from([(format!("{LOCAL}/"), device)]))
}

async fn refuse(_: SystemCall, _: PathRequest) -> Result<Answer, Failure> {
    Err(Failure::Unsupported(
        "audit devices are not available yet: the local log (\"local/\") is always on and cannot be turned off".into(),
    ))
}

async fn hash(call: SystemCall, request: HashRequest) -> Result<Answer, Failure> {
    if request.path.trim_matches('/') != LOCAL {
        return Err(Failure::Invalid(format!(
            "no audit log \"{}\"; there is \"{LOCAL}\"",
            request.path
        )));
    }
    let hash = call.plane.audit.hasher().hash(request.input.expose());
    Answer::flat(&HashView {
        hash: hash.as_str().to_owned(),
    })
}
