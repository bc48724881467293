//! `sys/metrics`: Prometheus text.

use std::sync::OnceLock;
use std::time::Duration;

use daypass_contract::Operation;
use daypass_contract::route::Form;
use http::{Method, StatusCode};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::engine::{Answer, Body, Failure, Serve, SystemCall, SystemRoutes};
use crate::lease::QueueHealth;

#[derive(Deserialize, JsonSchema)]
struct Request {
    /// `prometheus` or nothing.
    format: Option<String>,
}

static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Starts recording, once for the process.
pub(super) fn start() {
    RECORDER.get_or_init(|| {
        let buckets = [
            0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
        ];
        let builder = PrometheusBuilder::new().set_buckets(&buckets).ok()?;
        let handle = builder.install_recorder().ok()?;
        metrics::describe_counter!(
            "daypass_requests_total",
            "Requests answered, by method and status"
        );
        metrics::describe_counter!(
            "daypass_requests_unserved_total",
            "Requests turned away or given up without a record of their own, by why"
        );
        metrics::describe_gauge!(
            "daypass_policies_unreadable",
            "Stored policies that cannot be read; tokens that have one are denied nearly everything"
        );
        metrics::describe_histogram!(
            "daypass_request_seconds",
            "From the first byte to the answer"
        );
        metrics::describe_counter!("daypass_leases_issued_total", "Leases granted, by mount");
        metrics::describe_counter!(
            "daypass_leases_revoked_total",
            "Leases whose end was proved, by mount"
        );
        metrics::describe_counter!(
            "daypass_revocation_failures_total",
            "Revocations that failed and are retried, by mount"
        );
        metrics::describe_gauge!(
            "daypass_upstream_away",
            "1 while revocations of a mount wait for its upstream"
        );
        Some(handle)
    });
}

/// Counts a request that was answered.
pub(super) fn count_request(method: &Method, status: StatusCode, took: Duration) {
    // Methods are a client's text: only the known ones become labels.
    let method = match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "LIST" => "LIST",
        "HEAD" => "HEAD",
        _ => "other",
    };
    metrics::counter!("daypass_requests_total", "method" => method, "status" => status.as_str().to_owned()).increment(1);
    metrics::histogram!("daypass_request_seconds").record(took.as_secs_f64());
}

/// Prometheus text, version 0.0.4.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4";

pub(super) fn routes(routes: &mut SystemRoutes) {
    start();
    routes
        .serve::<Request, (), _, _>(
            Operation::Read,
            "sys/metrics",
            "Gives metrics in Prometheus text form.",
            render,
        )
        .written(Form::Bytes(MEDIA_TYPE));
}

async fn render(call: SystemCall, request: Request) -> Result<Answer, Failure> {
    if request
        .format
        .is_some_and(|format| !format.is_empty() && format != "prometheus")
    {
        return Err(Failure::Invalid(
            "field \"format\": only \"prometheus\" is available".into(),
        ));
    }
    let engine = call.engine()?;
    for mount in engine.mounts.all() {
        let record = mount.record();
        let away = if mount.queue.health() == QueueHealth::Well {
            0.0
        } else {
            1.0
        };
        metrics::gauge!("daypass_upstream_away", "mount" => record.path.clone()).set(away);
    }
    let text = RECORDER
        .get()
        .and_then(Option::as_ref)
        .map(PrometheusHandle::render)
        .unwrap_or_default();
    Ok(Answer::of(Body::Raw {
        content_type: MEDIA_TYPE,
        bytes: text.into_bytes(),
    }))
}
