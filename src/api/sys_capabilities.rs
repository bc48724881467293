//! `sys/capabilities`, `sys/capabilities-self`, `sys/capabilities-accessor`: what a token may do.

use std::collections::BTreeMap;

use daypass_contract::{Effect, Operation, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};
use crate::identity::Accessor;
use crate::policy::capabilities;

#[derive(Deserialize, JsonSchema)]
struct Request {
    /// The token asked about; the caller's own on `-self`.
    token: Option<Secret>,
    /// Names the token instead.
    accessor: Option<String>,
    paths: Option<Vec<String>>,
    /// What older clients call `paths`.
    path: Option<Vec<String>>,
}

/// Capabilities by path; of a single path also under `capabilities`.
#[derive(Serialize, JsonSchema)]
struct View {
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Vec<&'static str>>,
    #[serde(flatten)]
    by_path: BTreeMap<String, Vec<&'static str>>,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::Write;
    routes
        .serve::<Request, View, _, _>(
            Write,
            "sys/capabilities",
            "Tells what a token may do on paths.",
            of_token,
        )
        .effect = Effect::Observe;
    routes
        .serve::<Request, View, _, _>(
            Write,
            "sys/capabilities-self",
            "Tells what the caller may do on paths.",
            of_self,
        )
        .effect = Effect::Observe;
    routes
        .serve::<Request, View, _, _>(
            Write,
            "sys/capabilities-accessor",
            "Tells what the token of an accessor may do on paths.",
            of_accessor,
        )
        .effect = Effect::Observe;
}

async fn of_token(call: SystemCall, request: Request) -> Result<Answer, Failure> {
    let token = request
        .token
        .as_ref()
        .ok_or_else(|| Failure::Invalid("field \"token\": is required".into()))?;
    let engine = call.engine()?;
    let principal = engine.authenticate(token).await?;
    let principal = principal.ok_or_else(|| Failure::Invalid("invalid token".into()))?;
    answer(&call, principal.policies(), request)
}

async fn of_self(call: SystemCall, request: Request) -> Result<Answer, Failure> {
    let policies = call.principal()?.policies().to_vec();
    answer(&call, &policies, request)
}

async fn of_accessor(call: SystemCall, request: Request) -> Result<Answer, Failure> {
    let accessor: Accessor = request
        .accessor
        .as_deref()
        .and_then(|accessor| accessor.parse().ok())
        .ok_or_else(|| Failure::Invalid("field \"accessor\": is not an accessor".into()))?;
    let record = call.engine()?.tokens.get(&accessor.id()).await?;
    let record = record.ok_or_else(|| Failure::Invalid("invalid accessor".into()))?;
    answer(&call, &record.policies, request)
}

fn answer(call: &SystemCall, policies: &[String], request: Request) -> Result<Answer, Failure> {
    let paths = request
        .paths
        .or(request.path)
        .filter(|paths| !paths.is_empty());
    let paths = paths.ok_or_else(|| Failure::Invalid("field \"paths\": is required".into()))?;
    let acl = call.engine()?.policies.acl(policies);
    let by_path: BTreeMap<_, _> = paths
        .into_iter()
        .map(|path| {
            let list = capabilities(&acl, path.trim_start_matches('/'));
            (path, list)
        })
        .collect();
    let capabilities =
        (by_path.len() == 1).then(|| by_path.values().next().cloned().unwrap_or_default());
    Answer::flat(&View {
        capabilities,
        by_path,
    })
}
