//! `sys/audit`: the devices that follow the local log, and `sys/audit-hash`.
//!
//! The log itself is shown among them as `local/`: it is always on, and nothing here can change it.

use std::collections::BTreeMap;

use daypass_contract::{Access, Effect, NoFields, Operation, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rfc3339;
use crate::audit::devices::{Device, DeviceView as Running, LOCAL};
use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};

#[derive(Serialize, JsonSchema)]
struct DeviceView {
    #[serde(rename = "type")]
    kind: String,
    description: String,
    path: String,
    local: bool,
    options: BTreeMap<String, String>,
}

#[derive(Serialize, JsonSchema)]
struct StatusView {
    #[serde(flatten)]
    device: DeviceView,
    /// Whether the configuration declares it.
    managed: bool,
    /// The last record that was sent.
    delivered: u64,
    /// The last record that need not be sent again: the log's files before it may be moved away.
    confirmed: u64,
    /// Records that were not sent yet.
    lag_records: u64,
    /// The age of the oldest of them, in seconds.
    lag_seconds: u64,
    /// Since when nothing gets through; null where all is well.
    failing_since: Option<String>,
    /// Why not.
    error: Option<String>,
    /// Whether it is so far behind that an operator must look.
    alarm: bool,
}

#[derive(Deserialize, JsonSchema)]
struct PathRequest {
    path: String,
}

#[derive(Deserialize, JsonSchema)]
struct EnableRequest {
    path: String,
    /// `file`, `syslog` or `socket`.
    #[serde(rename = "type", default)]
    kind: String,
    /// For people.
    #[serde(default)]
    description: Option<String>,
    /// Where it writes to, and how; see the page on audit.
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
    /// Part of the Vault API; every device is local to its server.
    #[serde(default)]
    local: Option<bool>,
}

#[derive(Deserialize, JsonSchema)]
struct HashRequest {
    path: String,
    /// What to hash.
    #[serde(default)]
    input: Option<Secret>,
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
            "Lists the audit devices.",
            list,
        )
        .access = Access::Sudo;
    routes
        .serve::<PathRequest, StatusView, _, _>(
            Read,
            "sys/audit/{path*}",
            "Shows an audit device and how far behind it is.",
            status,
        )
        .access = Access::Sudo;
    routes
        .serve::<EnableRequest, (), _, _>(
            Write,
            "sys/audit/{path*}",
            "Enables an audit device, which gets what is recorded from now on.",
            enable,
        )
        .access = Access::Sudo;
    routes
        .serve::<PathRequest, (), _, _>(
            Delete,
            "sys/audit/{path*}",
            "Disables an audit device.",
            disable,
        )
        .access = Access::Sudo;
    routes
        .serve::<HashRequest, HashView, _, _>(
            Write,
            "sys/audit-hash/{path*}",
            "Hashes a value as the audit log does, to search for it in the log or in what a device wrote.",
            hash,
        )
        .effect = Effect::Observe;
}

/// The local log, as a device.
fn local() -> DeviceView {
    DeviceView {
        kind: "file".into(),
        description: "the chained local log; always on".into(),
        path: format!("{LOCAL}/"),
        local: true,
        options: BTreeMap::new(),
    }
}

fn view(device: Device) -> DeviceView {
    DeviceView {
        kind: device.kind,
        description: device.description,
        path: format!("{}/", device.path),
        local: device.local,
        options: device.options,
    }
}

fn behind(running: &Running) -> Option<String> {
    let status = &running.status;
    if status.error.is_none() && !status.alarm {
        return None;
    }
    Some(format!(
        "audit device {}/ is {} records ({} s) behind: {}",
        running.device.path,
        status.lag_records,
        status.lag.as_secs(),
        status
            .error
            .as_deref()
            .unwrap_or("it is slower than the log"),
    ))
}

async fn list(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let devices = call.engine()?.audit_devices.list().await;
    let warnings: Vec<String> = devices.iter().filter_map(behind).collect();
    let views = devices.into_iter().map(|running| view(running.device));
    let views: BTreeMap<String, DeviceView> = std::iter::once(local())
        .chain(views)
        .map(|view| (view.path.clone(), view))
        .collect();
    let answer = Answer::flat(&views)?;
    Ok(warnings.into_iter().fold(answer, Answer::warn))
}

async fn status(call: SystemCall, request: PathRequest) -> Result<Answer, Failure> {
    let path = request.path.trim_matches('/');
    if path == LOCAL {
        let last = call.plane.audit.head()?.seq;
        return Answer::data(&StatusView {
            device: local(),
            managed: true,
            delivered: last,
            confirmed: last,
            lag_records: 0,
            lag_seconds: 0,
            failing_since: None,
            error: None,
            alarm: false,
        });
    }
    let devices = call.engine()?.audit_devices.list().await;
    let found = devices
        .into_iter()
        .find(|running| running.device.path == path);
    let Running {
        device,
        managed,
        status,
    } = found.ok_or(Failure::NotFound)?;
    Answer::data(&StatusView {
        device: view(device),
        managed,
        delivered: status.delivered,
        confirmed: status.confirmed,
        lag_records: status.lag_records,
        lag_seconds: status.lag.as_secs(),
        failing_since: status.failing_since.map(rfc3339),
        error: status.error,
        alarm: status.alarm,
    })
}

async fn enable(call: SystemCall, request: EnableRequest) -> Result<Answer, Failure> {
    let device = Device {
        path: request.path,
        kind: request.kind,
        description: request.description.unwrap_or_default(),
        options: request.options.unwrap_or_default(),
        local: request.local.unwrap_or_default(),
    };
    call.engine()?.audit_devices.enable(device).await?;
    Ok(Answer::nothing())
}

async fn disable(call: SystemCall, request: PathRequest) -> Result<Answer, Failure> {
    call.engine()?.audit_devices.disable(&request.path).await?;
    Ok(Answer::nothing())
}

async fn hash(call: SystemCall, request: HashRequest) -> Result<Answer, Failure> {
    let path = request.path.trim_matches('/');
    let devices = call.engine()?.audit_devices.list().await;
    // One key hashes for all of them.
    if path != LOCAL && devices.iter().all(|running| running.device.path != path) {
        return Err(Failure::Invalid(format!(
            "unknown audit device \"{path}/\""
        )));
    }
    let input = request.input.filter(|input| !input.expose().is_empty());
    let input = input.ok_or_else(|| Failure::Invalid("field \"input\": is required".into()))?;
    let hash = call.plane.audit.hasher().hash(input.expose());
    Answer::flat(&HashView {
        hash: hash.as_str().to_owned(),
    })
}
