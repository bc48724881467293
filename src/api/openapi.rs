//! The OpenAPI 3.1 document, generated from what the control plane and the mounts declare.

use std::sync::Arc;

use daypass_contract::route::{Endpoint, Routes};
use daypass_contract::{Access, Operation};
use serde_json::{Map, Value, json};

use crate::engine::{Mount, SystemRoutes};

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
            },
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
        "responses": {
            "200": {
                "description": "Success.",
                "content": { "application/json": { "schema": {
                    "type": "object",
                    "properties": { "data": Value::from((endpoint.response)()) },
                } } },
            },
            "204": { "description": "Success, and nothing to say." },
            "default": {
                "description": "Failure.",
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Errors" } } },
            },
        },
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
