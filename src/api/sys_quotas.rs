//! `sys/quotas/*`: rate limits per path and address, and counts of leases per entity.

use std::time::Duration;

use daypass_contract::{Keys, NoFields, Operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{
    Answer, Failure, LeaseCount, MOST_LEASES, RateLimit, Serve, SystemCall, SystemRoutes,
};

#[derive(Deserialize, JsonSchema)]
struct NameRequest {
    name: String,
}

#[derive(Deserialize, JsonSchema)]
struct RateRequest {
    name: String,
    /// Requests below this path count; all if it is empty.
    path: Option<String>,
    /// Requests of one client address in an interval; above zero.
    rate: Option<f64>,
    /// A second if not given.
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    interval: Option<Duration>,
    /// How long an address that was refused is kept out.
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    block_interval: Option<Duration>,
    /// Part of the Vault API; a limit per login role is not available.
    #[serde(default)]
    role: String,
    /// Part of the Vault API; there are no namespaces to inherit it.
    #[serde(default, rename = "inheritable")]
    _inheritable: Option<bool>,
}

#[derive(Serialize, JsonSchema)]
struct RateView {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    path: String,
    rate: f64,
    interval: u64,
    block_interval: u64,
    role: &'static str,
    inheritable: bool,
    /// Declared in the configuration file.
    managed: bool,
}

#[derive(Deserialize, JsonSchema)]
struct CountRequest {
    name: String,
    /// Leases below this path count; all if it is empty.
    path: Option<String>,
    /// Leases that an entity may hold at most, or a token that stands for none.
    max_leases: Option<usize>,
}

#[derive(Serialize, JsonSchema)]
struct CountView {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    path: String,
    max_leases: usize,
}

#[derive(Serialize, JsonSchema)]
struct ConfigView {
    enable_rate_limit_audit_logging: bool,
    enable_rate_limit_response_headers: bool,
    rate_limit_exempt_paths: &'static [&'static str],
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, List, Read, Write};
    routes.serve::<NoFields, ConfigView, _, _>(
        Read,
        "sys/quotas/config",
        "Tells what holds for all rate limits.",
        |_, _| async {
            Answer::data(&ConfigView {
                // Every request is recorded, whatever comes of it.
                enable_rate_limit_audit_logging: true,
                enable_rate_limit_response_headers: true,
                rate_limit_exempt_paths: &crate::engine::EXEMPT,
            })
        },
    );
    let rates = "sys/quotas/rate-limit";
    routes.serve::<NoFields, Keys, _, _>(List, rates, "Lists the rate limits.", list_rates);
    let rate = "sys/quotas/rate-limit/{name}";
    routes.serve::<NameRequest, RateView, _, _>(Read, rate, "Reads a rate limit.", read_rate);
    routes.serve::<RateRequest, (), _, _>(Write, rate, "Writes a rate limit.", write_rate);
    routes.serve::<NameRequest, (), _, _>(Delete, rate, "Deletes a rate limit.", delete_rate);
    let counts = "sys/quotas/lease-count";
    routes.serve::<NoFields, Keys, _, _>(
        List,
        counts,
        "Lists the lease counts.",
        |call, _| async move {
            let names: Vec<String> = call.engine()?.quotas.counts().into_keys().collect();
            Answer::keys(&names)
        },
    );
    let count = "sys/quotas/lease-count/{name}";
    routes.serve::<NameRequest, CountView, _, _>(Read, count, "Reads a lease count.", read_count);
    routes.serve::<CountRequest, (), _, _>(Write, count, "Writes a lease count.", write_count);
    routes.serve::<NameRequest, (), _, _>(
        Delete,
        count,
        "Deletes a lease count.",
        |call, request| async move {
            call.engine()?.quotas.delete_count(&request.name).await?;
            Ok(Answer::nothing())
        },
    );
}

async fn list_rates(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    let mut names: Vec<String> = call.engine()?.quotas.rates().into_keys().collect();
    names.extend(
        call.plane
            .declared_quotas()
            .into_iter()
            .map(|limit| limit.name),
    );
    names.sort_unstable();
    names.dedup();
    Answer::keys(&names)
}

/// The declared limit of that name.
fn declared(call: &SystemCall, name: &str) -> Option<RateLimit> {
    let all = call.plane.declared_quotas();
    all.into_iter().find(|limit| limit.name == name)
}

fn refuse_declared(call: &SystemCall, name: &str) -> Result<(), Failure> {
    match declared(call, name) {
        None => Ok(()),
        Some(_) => Err(Failure::Invalid(
            "this quota is declared in the configuration file: change it there".into(),
        )),
    }
}

async fn read_rate(call: SystemCall, request: NameRequest) -> Result<Answer, Failure> {
    let stored = call.engine()?.quotas.rates().remove(&request.name);
    let declared = declared(&call, &request.name);
    let managed = declared.is_some();
    let limit = declared.or(stored).ok_or(Failure::NotFound)?;
    Answer::data(&RateView {
        name: limit.name,
        kind: "rate-limit",
        path: limit.path,
        rate: limit.rate,
        interval: limit.interval.as_secs(),
        block_interval: limit.block_interval.as_secs(),
        role: "",
        inheritable: false,
        managed,
    })
}

async fn write_rate(call: SystemCall, request: RateRequest) -> Result<Answer, Failure> {
    refuse_declared(&call, &request.name)?;
    if !request.role.is_empty() {
        return Err(Failure::Unsupported(
            "field \"role\": rate limits are per path and address, not per login role".into(),
        ));
    }
    let engine = call.engine()?;
    let earlier = engine.quotas.rates().remove(&request.name);
    let mut limit = earlier.unwrap_or(RateLimit {
        name: request.name,
        path: String::new(),
        rate: 0.0,
        interval: Duration::from_secs(1),
        block_interval: Duration::ZERO,
    });
    if let Some(path) = request.path {
        path.trim_start_matches('/').clone_into(&mut limit.path);
    }
    if let Some(rate) = request.rate {
        limit.rate = rate;
    }
    if let Some(interval) = request.interval.filter(|interval| !interval.is_zero()) {
        limit.interval = interval;
    }
    if let Some(block) = request.block_interval {
        limit.block_interval = block;
    }
    if !(limit.rate > 0.0 && limit.rate <= f64::from(u32::MAX)) {
        return Err(Failure::Invalid(
            "field \"rate\": must be a number above zero".into(),
        ));
    }
    if limit.interval < Duration::from_secs(1) {
        return Err(Failure::Invalid(
            "field \"interval\": must be a second or more".into(),
        ));
    }
    engine.quotas.put_rate(&limit).await?;
    Ok(Answer::nothing())
}

async fn delete_rate(call: SystemCall, request: NameRequest) -> Result<Answer, Failure> {
    refuse_declared(&call, &request.name)?;
    call.engine()?.quotas.delete_rate(&request.name).await?;
    Ok(Answer::nothing())
}

async fn read_count(call: SystemCall, request: NameRequest) -> Result<Answer, Failure> {
    let limit = call.engine()?.quotas.counts().remove(&request.name);
    let limit = limit.ok_or(Failure::NotFound)?;
    Answer::data(&CountView {
        name: limit.name,
        kind: "lease-count",
        path: limit.path,
        max_leases: limit.max_leases,
    })
}

async fn write_count(call: SystemCall, request: CountRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let earlier = engine.quotas.counts().remove(&request.name);
    let mut limit = earlier.unwrap_or(LeaseCount {
        name: request.name,
        path: String::new(),
        max_leases: 0,
    });
    if let Some(path) = request.path {
        path.trim_start_matches('/').clone_into(&mut limit.path);
    }
    if let Some(most) = request.max_leases {
        limit.max_leases = most;
    }
    if !(1..=MOST_LEASES).contains(&limit.max_leases) {
        return Err(Failure::Invalid(format!(
            "field \"max_leases\": must be from 1 to {MOST_LEASES}"
        )));
    }
    engine.quotas.put_count(&limit).await?;
    Ok(Answer::nothing())
}
