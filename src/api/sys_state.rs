//! `sys/in-flight-req`, `sys/version-history`, `sys/ha-status` and `sys/step-down`: what the server says of
//! itself and its past. There is one node, always active.

use std::collections::BTreeMap;

use daypass_contract::route::Form;
use daypass_contract::{Access, NoFields, Operation};
use schemars::JsonSchema;
use serde::Serialize;

use super::rfc3339;
use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};

#[derive(Serialize, JsonSchema)]
struct InFlightView {
    start_time: String,
    client_remote_address: String,
    request_path: String,
    request_method: String,
}

#[derive(Serialize, JsonSchema)]
struct Versions {
    keys: Vec<String>,
    key_info: BTreeMap<String, VersionView>,
}

#[derive(Serialize, JsonSchema)]
struct VersionView {
    timestamp_installed: String,
    previous_version: Option<String>,
    /// Not recorded; clients expect the key.
    build_date: &'static str,
    /// The same in OpenBao's words.
    commit_date: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct Nodes {
    nodes: [NodeView; 1],
}

#[derive(Serialize, JsonSchema)]
struct NodeView {
    hostname: String,
    api_address: &'static str,
    cluster_address: &'static str,
    active_node: bool,
    last_echo: Option<String>,
    version: &'static str,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{List, Read, Write};
    routes
        .serve::<NoFields, BTreeMap<String, InFlightView>, _, _>(
            Read,
            "sys/in-flight-req",
            "Shows the requests being served at this moment, itself among them.",
            in_flight,
        )
        .written(Form::Bare);
    routes.serve::<NoFields, Versions, _, _>(
        List,
        "sys/version-history",
        "Lists the releases that have served this store, oldest first.",
        versions,
    );
    routes.serve::<NoFields, Nodes, _, _>(
        Read,
        "sys/ha-status",
        "Describes the nodes: this one.",
        |_, _| async {
            Answer::flat(&Nodes {
                nodes: [NodeView {
                    hostname: super::sys_host_info::hostname(),
                    api_address: "",
                    cluster_address: "",
                    active_node: true,
                    last_echo: None,
                    version: crate::VERSION,
                }],
            })
        },
    );
    routes
        .serve::<NoFields, (), _, _>(
            Write,
            "sys/step-down",
            "Does nothing, as on any server without standby nodes: nobody could take over.",
            |_, _| async { Ok(Answer::nothing()) },
        )
        .access = Access::Sudo;
}

async fn in_flight(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let view: BTreeMap<String, InFlightView> = call
        .plane
        .in_flight
        .all()
        .into_iter()
        .map(|(id, request)| {
            let view = InFlightView {
                start_time: rfc3339(request.started_at),
                client_remote_address: request
                    .remote
                    .map_or_else(String::new, |remote| remote.to_string()),
                request_path: request.path,
                request_method: request.method,
            };
            (id, view)
        })
        .collect();
    Answer::plain(200, &view)
}

async fn versions(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let releases = call.engine()?.versions().await?;
    let mut previous = None;
    let (mut keys, mut key_info) = (Vec::new(), BTreeMap::new());
    for release in releases {
        keys.push(release.version.clone());
        let view = VersionView {
            timestamp_installed: rfc3339(release.installed_at),
            previous_version: previous.replace(release.version.clone()),
            build_date: "",
            commit_date: "",
        };
        key_info.insert(release.version, view);
    }
    Answer::data(&Versions { keys, key_info })
}
