//! The rules about requests: whatever is sent, a route answers, and what was sent is not repeated in
//! an error, a warning or a log.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use daypass_contract::route::Endpoint;
use daypass_contract::{Body, Handler, Planned};
use serde_json::{Map, Value, json};

use crate::host::TestHost;
use crate::leak::{Logs, Needles, full_text};
use crate::mounted::Mounted;
use crate::suite::Subject;

/// A value no backend could come up with itself.
const CANARY: &str = "kEeNcAnArY-5e1f7a90";

/// Long enough for a slow upstream, short enough to be a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tries every route with every shape of body.
pub(crate) async fn run(subject: &impl Subject) {
    let logs = Logs::from_now();
    let mounted = mount(subject).await;
    for endpoint in mounted.routes.iter() {
        if subject.spared().contains(&endpoint.pattern.as_str()) {
            continue;
        }
        for body in bodies(endpoint) {
            for text in texts(&mounted, endpoint, body).await {
                assert!(
                    !Needles::of(CANARY).found_in(&text),
                    "no answer repeats a value: {endpoint:?} says {text}"
                );
            }
        }
    }
    for record in logs.records(subject.silenced_targets()) {
        assert!(
            !Needles::of(CANARY).found_in(&record),
            "no answer repeats a value: it is in the log: {record}"
        );
    }
}

/// Tries every route of a backend that says it never leases.
pub(crate) async fn never_leases(subject: &impl Subject) {
    let rule = "a backend without leases plans none";
    let mounted = mount(subject).await;
    for endpoint in mounted.routes.iter() {
        let planning = matches!(endpoint.handler, Handler::Plan(_));
        assert!(!planning, "{rule}: {endpoint:?} does");
    }
}

async fn mount(subject: &impl Subject) -> Mounted {
    let host = TestHost::new();
    let mounted = Mounted::new(subject.open(&host).await, &host);
    subject.configure(&mounted).await;
    mounted
}

/// What the answer to `body` shows besides its data.
async fn texts(
    mounted: &Mounted,
    endpoint: &Endpoint<Handler>,
    mut fields: Map<String, Value>,
) -> Vec<String> {
    for parameter in endpoint.pattern.parameters() {
        fields.insert(parameter.into(), "probe".into());
    }
    let call = mounted.call(endpoint.operation, Body::new(fields));
    let answered = async {
        match &endpoint.handler {
            Handler::Answer(run) => run(call).await.map(|reply| reply.warnings),
            Handler::Plan(run) => run(call).await.map(|planned| match planned {
                Planned::Leased(_) => Vec::new(),
                Planned::Unleased(reply) => reply.warnings,
            }),
            Handler::Login(login) => (login.run)(call).await.map(|login| login.warnings),
        }
    };
    match tokio::time::timeout(PATIENCE, unpanicked(answered)).await {
        Ok(Some(Ok(warnings))) => warnings,
        Ok(Some(Err(error))) => vec![full_text(&error)],
        Ok(None) => panic!("every route answers: {endpoint:?} panics"),
        Err(late) => panic!("every route answers: {endpoint:?} does not: {late}"),
    }
}

/// The future's result, or `None` where it panics.
async fn unpanicked<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(
        |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Some(value)),
            Err(_) => Poll::Ready(None),
        },
    )
    .await
}

/// No body; then for each field the canary in several shapes, alone and beside plausible others.
fn bodies(endpoint: &Endpoint<Handler>) -> Vec<Map<String, Value>> {
    let schema = (endpoint.request)();
    let mut paths = Vec::new();
    let plausible = plausible(schema.as_value(), &mut Vec::new(), &mut paths);
    // For requests that take any field.
    paths.push(vec!["anything".to_owned()]);

    let shapes = [
        json!(CANARY),
        json!([CANARY]),
        json!({"key": CANARY}),
        json!({"key": {"deeper": [CANARY]}}),
    ];
    let mut bodies = vec![json!({}), plausible.clone()];
    for path in &paths {
        for shape in &shapes {
            for mut body in [json!({}), plausible.clone()] {
                set(&mut body, path, shape);
                bodies.push(body);
            }
        }
    }
    bodies
        .into_iter()
        .filter_map(|body| match body {
            Value::Object(fields) => Some(fields),
            _ => None,
        })
        .collect()
}

/// A value that fits `schema`, and the paths of every field in it.
fn plausible(schema: &Value, path: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> Value {
    let alternatives = ["anyOf", "oneOf"]
        .into_iter()
        .find_map(|name| schema[name].as_array());
    if let Some(alternatives) = alternatives {
        return alternatives
            .first()
            .map_or(Value::Null, |first| plausible(first, path, paths));
    }
    let kind = match &schema["type"] {
        Value::String(kind) => kind.as_str(),
        Value::Array(kinds) => kinds.first().and_then(Value::as_str).unwrap_or_default(),
        _ => "",
    };
    match kind {
        "integer" | "number" => json!(1),
        "boolean" => json!(true),
        "array" => json!([]),
        "string" => schema["enum"]
            .get(0)
            .cloned()
            .unwrap_or_else(|| json!("probe")),
        _ => {
            let mut fields = Map::new();
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                path.push(name.clone());
                paths.push(path.clone());
                fields.insert(name.clone(), plausible(schema, path, paths));
                path.pop();
            }
            Value::Object(fields)
        }
    }
}

fn set(body: &mut Value, path: &[String], value: &Value) {
    let mut place = body;
    for name in path {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[name];
    }
    *place = value.clone();
}
