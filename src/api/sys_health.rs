//! `sys/health` and `sys/leader`: what load balancers and clients ask before anything else.

use daypass_contract::route::Form;
use daypass_contract::{Access, NoFields, Operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};

#[derive(Deserialize, JsonSchema)]
struct HealthRequest {
    activecode: Option<u16>,
    sealedcode: Option<u16>,
    uninitcode: Option<u16>,
    #[serde(rename = "standbyok", default)]
    _standbyok: Option<String>,
    #[serde(rename = "standbycode", default)]
    _standbycode: Option<u16>,
    #[serde(rename = "perfstandbyok", default)]
    _perfstandbyok: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Health {
    initialized: bool,
    sealed: bool,
    standby: bool,
    performance_standby: bool,
    replication_performance_mode: &'static str,
    replication_dr_mode: &'static str,
    server_time_utc: u64,
    version: &'static str,
    enterprise: bool,
    cluster_name: Option<String>,
    cluster_id: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Leader {
    ha_enabled: bool,
    is_self: bool,
    active_time: &'static str,
    leader_address: &'static str,
    leader_cluster_address: &'static str,
    performance_standby: bool,
    performance_standby_last_remote_wal: u64,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    routes
        .serve::<HealthRequest, Health, _, _>(
            Operation::Read,
            "sys/health",
            "Tells whether the server is initialized and unsealed, also by its status.",
            health,
        )
        .written(Form::Status)
        .access = Access::Anyone;
    routes
        .serve::<NoFields, Leader, _, _>(
            Operation::Read,
            "sys/leader",
            "Tells which node is active: always this one.",
            |_, _| async {
                Answer::plain(
                    200,
                    &Leader {
                        ha_enabled: false,
                        is_self: false,
                        active_time: "0001-01-01T00:00:00Z",
                        leader_address: "",
                        leader_cluster_address: "",
                        performance_standby: false,
                        performance_standby_last_remote_wal: 0,
                    },
                )
            },
        )
        .written(Form::Bare)
        .access = Access::Anyone;
}

async fn health(call: SystemCall, request: HealthRequest) -> Result<Answer, Failure> {
    let status = call.plane.seal.status().await?;
    let code = if !status.initialized {
        request.uninitcode.unwrap_or(501)
    } else if call.engine().is_err() {
        request.sealedcode.unwrap_or(503)
    } else {
        request.activecode.unwrap_or(200)
    };
    if !(100..=999).contains(&code) {
        return Err(Failure::Invalid(
            "status codes must lie between 100 and 999".into(),
        ));
    }
    Answer::plain(
        code,
        &Health {
            initialized: status.initialized,
            sealed: call.engine().is_err(),
            standby: false,
            performance_standby: false,
            replication_performance_mode: "disabled",
            replication_dr_mode: "disabled",
            server_time_utc: daypass_contract::millis::of(call.now) / 1000,
            version: crate::VERSION,
            enterprise: false,
            cluster_name: status.cluster_name,
            cluster_id: status.cluster_id.map(|id| id.to_string()),
        },
    )
}
