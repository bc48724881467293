//! `sys/rotate`, `sys/rotate/config` and `sys/key-status`: the data keys that seal what is stored, and the
//! root key of a store that needs no shares. Each path also has OpenBao's newer form.

use std::time::Duration;

use daypass_contract::{Access, NoFields, Operation, duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{go_duration, rfc3339};
use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};
use crate::storage::Barrier;

/// Vault's limit: a key that is used up faster would be stored more often than it is worth.
const FEWEST_OPERATIONS: u64 = 1_000_000;
/// Vault's limit.
const SHORTEST_INTERVAL: Duration = Duration::from_hours(24);

#[derive(Serialize, JsonSchema)]
struct KeyStatusView {
    term: u32,
    install_time: String,
    encryptions: u64,
}

#[derive(Deserialize, JsonSchema)]
struct ConfigRequest {
    /// Whether a data key is replaced without being told.
    enabled: Option<bool>,
    /// After how many encryptions: from 1000000 to 3865470566.
    max_operations: Option<u64>,
    /// And after what time: at least 24 h, or 0 for any time.
    #[serde(default, with = "duration::option")]
    #[schemars(with = "Option<String>")]
    interval: Option<Duration>,
}

#[derive(Serialize, JsonSchema)]
struct ConfigView {
    enabled: bool,
    max_operations: u64,
    /// 0 for none; otherwise text such as `48h0m0s`.
    interval: Interval,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Interval {
    None(u8),
    Text(String),
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Read, Write};
    for path in ["sys/rotate", "sys/rotate/keyring"] {
        routes
            .serve::<NoFields, (), _, _>(
                Write,
                path,
                "Adds a data key; what is written from now on uses it.",
                rotate,
            )
            .access = Access::Sudo;
    }
    routes
        .serve::<NoFields, (), _, _>(
            Write,
            "sys/rotate/root",
            "Makes a new root key where no shares are needed for that.",
            rotate_root,
        )
        .access = Access::Sudo;
    for path in ["sys/rotate/config", "sys/rotate/keyring/config"] {
        routes.serve::<NoFields, ConfigView, _, _>(
            Read,
            path,
            "Tells when the data key is replaced without being told.",
            config,
        );
        routes.serve::<ConfigRequest, (), _, _>(
            Write,
            path,
            "Changes when the data key is replaced without being told.",
            configure,
        );
    }
    routes.serve::<NoFields, KeyStatusView, _, _>(
        Read,
        "sys/key-status",
        "Describes the data key in use.",
        key_status,
    );
}

async fn rotate(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    call.plane.barrier.rotate().await?;
    Ok(Answer::nothing())
}

async fn rotate_root(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    call.plane.seal.rotate_root().await?;
    Ok(Answer::nothing())
}

async fn key_status(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let status = call.plane.barrier.key_status()?;
    Answer::flat(&KeyStatusView {
        term: status.term,
        install_time: rfc3339(status.installed_at),
        encryptions: status.encryptions,
    })
}

async fn config(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let rotation = call.plane.barrier.auto_rotation()?;
    Answer::data(&ConfigView {
        enabled: rotation.enabled,
        max_operations: rotation.max_operations,
        interval: match rotation.interval {
            None => Interval::None(0),
            Some(interval) => Interval::Text(go_duration(interval)),
        },
    })
}

async fn configure(call: SystemCall, request: ConfigRequest) -> Result<Answer, Failure> {
    let mut rotation = call.plane.barrier.auto_rotation()?;
    if let Some(operations) = request.max_operations {
        let most = Barrier::MOST_ENCRYPTIONS;
        if !(FEWEST_OPERATIONS..=most).contains(&operations) {
            return Err(Failure::Invalid(format!(
                "max_operations must be in the range [{FEWEST_OPERATIONS},{most}]"
            )));
        }
        rotation.max_operations = operations;
    }
    if let Some(interval) = request.interval {
        if !interval.is_zero() && interval < SHORTEST_INTERVAL {
            return Err(Failure::Invalid(
                "interval must be greater or equal to 24h0m0s".into(),
            ));
        }
        rotation.interval = Some(interval).filter(|interval| !interval.is_zero());
    }
    rotation.enabled = request.enabled.unwrap_or(rotation.enabled);
    call.plane.barrier.rotate_by_itself(rotation).await?;
    Ok(Answer::nothing())
}
