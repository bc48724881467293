//! The OpenAPI 3.1 document, generated from what the control plane and the mounts declare.

use std::sync::Arc;

use daypass_contract::route::{Endpoint, Form, Routes};
use daypass_contract::{Access, Effect, Operation};
use serde_json::{Map, Value, json};

use crate::engine::{Mount, SystemRoutes};

/// Statuses of failures that any endpoint may answer. A 500 is not among them: it is a fault of the
/// server, which nobody may count on.
const FAILURES: [(&str, &str); 9] = [
    ("400", "The request is not valid; the text names the field."),
    (
        "403",
        "The token is missing, opens nothing or may not do this.",
    ),
    ("404", "Nothing is there."),
    ("405", "The path exists for other operations."),
    ("413", "The body is too large."),
    (
        "429",
        "A rate limit was exceeded; `Retry-After` says when to come back.",
    ),
    ("501", "Daypass does not do this; the text says why."),
    ("502", "An upstream said no, or its answer was lost."),
    ("503", "Sealed, or something needed is away: try again."),
];

/// The document for these system endpoints and mounts.
pub fn document(system: &SystemRoutes, mounts: &[Arc<Mount>]) -> Value {
    let mut paths = Map::new();
    describe(&mut paths, "", "system", system);
    for mount in mounts {
        let record = mount.record();
        describe(
            &mut paths,
            &format!("{}/", record.path),
            &record.kind,
            &mount.routes,
        );
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Daypass",
            "version": crate::VERSION,
            "description": "Issues, rotates and revokes short-lived credentials. Speaks the Vault HTTP API.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/v1" }],
        "security": [{ "token": [] }, { "bearer": [] }],
        "components": {
            "securitySchemes": {
                "token": { "type": "apiKey", "in": "header", "name": "X-Vault-Token" },
                "bearer": { "type": "http", "scheme": "bearer" },
            },
            "schemas": {
                "Errors": {
                    "type": "object",
                    "required": ["errors"],
                    "properties": { "errors": { "type": "array", "items": { "type": "string" } } },
                },
                "Envelope": envelope(),
            },
            "responses": responses(),
        },
        "paths": paths,
    })
}

fn describe<H>(paths: &mut Map<String, Value>, prefix: &str, tag: &str, routes: &Routes<H>) {
    for endpoint in routes.iter() {
        let path = format!("/{prefix}{}", endpoint.pattern.as_str().replace("*}", "}"));
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        let (method, listing) = match endpoint.operation {
            Operation::Read => ("get", false),
            Operation::List => ("get", true),
            Operation::Write => ("post", false),
            Operation::Patch => ("patch", false),
            Operation::Delete => ("delete", false),
        };
        let Some(entry) = entry.as_object_mut() else {
            continue;
        };
        // A path that can be both read and listed is one `get` with an optional `list=true`.
        if listing && let Some(read) = entry.get_mut(method).and_then(Value::as_object_mut) {
            read.insert("x-daypass-list".into(), endpoint.summary.into());
            continue;
        }
        let mut described = operation(endpoint, tag, listing);
        // The same where the list was declared first.
        let list = entry.get(method).map(|list| list["summary"].clone());
        if let (Some(list), Some(described)) = (list, described.as_object_mut()) {
            described.insert("x-daypass-list".into(), list);
        }
        entry.insert(method.to_owned(), described);
    }
}

fn operation<H>(endpoint: &Endpoint<H>, tag: &str, listing: bool) -> Value {
    let request = (endpoint.request)();
    let properties = request
        .get("properties")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let in_path: Vec<&str> = endpoint.pattern.parameters().collect();
    let mut parameters: Vec<Value> = in_path
        .iter()
        .map(|name| {
            let schema = json!({ "type": "string" });
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    let takes_body = matches!(endpoint.operation, Operation::Write | Operation::Patch);
    let others = || {
        properties
            .iter()
            .filter(|(name, _)| !in_path.contains(&name.as_str()))
    };
    if listing {
        parameters.push(json!({ "name": "list", "in": "query", "required": true, "schema": { "enum": ["true"] } }));
    }
    if !takes_body {
        parameters.extend(others().filter(|(name, _)| *name != "list").map(|(name, schema)| {
            json!({ "name": name, "in": "query", "required": false, "schema": schema })
        }));
    }
    let mut described = json!({
        "summary": endpoint.summary,
        "tags": [tag],
        "parameters": parameters,
        "responses": answers(endpoint),
        "x-daypass-access": match endpoint.access {
            Access::Policy => "policy",
            Access::Sudo => "sudo",
            Access::Anyone => "anyone",
        },
    });
    if let Some(described) = described.as_object_mut() {
        if takes_body {
            let body: Map<String, Value> = others()
                .map(|(name, schema)| (name.clone(), schema.clone()))
                .collect();
            let required: Vec<Value> = request
                .get("required")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter(|name| name.as_str().is_some_and(|name| !in_path.contains(&name)))
                .cloned()
                .collect();
            let schema = json!({ "type": "object", "properties": body, "required": required });
            described.insert(
                "requestBody".into(),
                json!({ "content": { "application/json": { "schema": schema } } }),
            );
        }
        if endpoint.access == Access::Anyone {
            described.insert("security".into(), json!([]));
        }
    }
    described
}

/// What is around the `data` of an answer.
fn envelope() -> Value {
    json!({
        "type": "object",
        "required": [
            "request_id", "lease_id", "renewable", "lease_duration", "data", "wrap_info", "warnings", "auth",
        ],
        "properties": {
            "request_id": { "type": "string" },
            "lease_id": { "type": "string", "description": "Empty where nothing is leased." },
            "renewable": { "type": "boolean" },
            "lease_duration": { "type": "integer", "minimum": 0, "description": "Seconds." },
            "wrap_info": { "type": ["object", "null"], "description": "The token that opens a wrapped answer." },
            "warnings": { "type": ["array", "null"], "items": { "type": "string" } },
            "auth": { "type": ["object", "null"], "description": "A login or a new token." },
        },
    })
}

fn responses() -> Value {
    let errors = json!({ "$ref": "#/components/schemas/Errors" });
    FAILURES
        .iter()
        .map(|(status, description)| {
            let content = json!({ "application/json": { "schema": errors } });
            let response = json!({ "description": description, "content": content });
            ((*status).to_owned(), response)
        })
        .collect::<Map<_, _>>()
        .into()
}

/// Every status that `endpoint` may answer, with what is in the answer.
fn answers<H>(endpoint: &Endpoint<H>) -> Value {
    let data = Value::from((endpoint.response)());
    let enveloped = |data: &Value| {
        // Where there are only warnings to tell, the envelope comes without data.
        let data = json!({ "anyOf": [data, { "type": "null" }] });
        json!({
            "allOf": [{ "$ref": "#/components/schemas/Envelope" }],
            "properties": { "data": data },
        })
    };
    let (media_type, schema) = match endpoint.form {
        Form::Envelope => ("application/json", enveloped(&data)),
        // Not described further: a document of another standard.
        Form::Bare if data.get("type").is_some_and(|kind| kind == "null") => {
            ("application/json", json!({ "type": "object" }))
        }
        Form::Bare | Form::Status => ("application/json", data.clone()),
        Form::Bytes(media_type) => (media_type, json!({})),
    };
    let success = json!({ media_type: { "schema": schema } });
    let mut answers: Map<String, Value> = FAILURES
        .iter()
        .map(|(status, _)| {
            let failure = json!({ "$ref": format!("#/components/responses/{status}") });
            ((*status).to_owned(), failure)
        })
        .collect();
    answers.insert(
        "200".into(),
        json!({ "description": "Success.", "content": success }),
    );
    answers.insert(
        "204".into(),
        json!({ "description": "Success, and nothing to say." }),
    );
    if endpoint.effect == Effect::Change {
        let content = json!({ "application/json": { "schema": enveloped(&json!({})) } });
        answers.insert(
            "202".into(),
            json!({ "description": "It will happen, but has not yet.", "content": content }),
        );
    }
    if endpoint.operation == Operation::Read && endpoint.form == Form::Envelope {
        let errors = json!({ "$ref": "#/components/schemas/Errors" });
        let content =
            json!({ "application/json": { "schema": { "anyOf": [errors, enveloped(&data)] } } });
        let description =
            "Nothing is there. Of a version that was deleted, what is left to tell is in `data`.";
        answers.insert(
            "404".into(),
            json!({ "description": description, "content": content }),
        );
    }
    if endpoint.form == Form::Status {
        answers.insert(
            "default".into(),
            json!({ "description": "The same; the status tells as well.", "content": success }),
        );
        answers.retain(|status, _| {
            matches!(status.as_str(), "200" | "400" | "405" | "413" | "default")
        });
    }
    answers.into()
}
