//! Who may do what, endpoint by endpoint: every one that the OpenAPI document names is called without a
//! token and with one that has only `default`, and its statuses stand in `testdata/authorization.txt`.
//! The document stands in `testdata/openapi.json`. `DAYPASS_BLESS=1` writes both anew; a difference in
//! review shows what opened, or closed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use serde_json::{Map, Value, json};

use crate::server::Server;
use crate::tools;

const METHODS: [&str; 4] = ["get", "post", "patch", "delete"];

/// A server with a mount of each kind.
fn server() -> Server {
    let server = Server::start("");
    let root = server.root();
    let kv = |version: &str| json!({"type": "kv", "options": {"version": version}});
    root.write("sys/mounts/secret", &kv("2"));
    root.write("sys/mounts/plain", &kv("1"));
    root.write("sys/mounts/pki", &json!({"type": "pki"}));
    root.write("sys/mounts/database", &json!({"type": "database"}));
    server
}

/// Compares `text` with a file of the repository, or writes it there.
fn compare(name: &str, text: &str) {
    let path = tools::root(name);
    if std::env::var_os("DAYPASS_BLESS").is_some() {
        return fs::write(path, text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    for (number, (kept, now)) in kept.lines().zip(text.lines()).enumerate() {
        assert_eq!(
            kept,
            now,
            "{name}:{}: DAYPASS_BLESS=1 accepts it",
            number + 1
        );
    }
    let lines = (kept.lines().count(), text.lines().count());
    assert_eq!(lines.0, lines.1, "{name}: DAYPASS_BLESS=1 accepts it");
}

#[test]
fn the_api_is_the_one_that_was_reviewed() {
    let server = server();
    let document = server.anyone().read("sys/internal/specs/openapi").body;
    let mut text = serde_json::to_string_pretty(&document).unwrap();
    text.push('\n');
    compare("testdata/openapi.json", &text);
}

#[test]
fn every_endpoint_asks_who_calls() {
    let server = server();
    let document = server.anyone().read("sys/internal/specs/openapi").body;
    let mut table = String::from(
        "# method  path                                                  nobody  default\n",
    );
    let mut open = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, described) in methods_of(methods) {
            let call = Call::new(path, &method, described);
            let nobody = call.status(&server, None);
            // The token is new every time: some endpoints revoke it.
            let default = server.root().write(
                "auth/token/create",
                &json!({"policies": ["default"], "ttl": "1h"}),
            );
            let default = call.status(&server, Some(&default.text("/auth/client_token")));
            writeln!(
                table,
                "{:<8}  {path:<55}  {nobody}     {default}",
                call.method
            )
            .unwrap();
            if described["x-daypass-access"] != "anyone" && nobody != 403 {
                open.push(format!("{method} {path}: {nobody}"));
            }
            if described["x-daypass-access"] == "sudo" && default != 403 {
                open.push(format!("{method} {path} with default: {default}"));
            }
        }
    }
    assert!(open.is_empty(), "answered to whom it should not: {open:#?}");
    compare("testdata/authorization.txt", &table);
}

/// An endpoint with something in each place of its path.
struct Call {
    method: &'static str,
    path: String,
    body: Option<Value>,
}

impl Call {
    fn new(path: &str, method: &str, described: &Value) -> Self {
        let filled: Vec<&str> = path
            .trim_start_matches('/')
            .split('/')
            .map(|segment| {
                if segment.starts_with('{') {
                    "x"
                } else {
                    segment
                }
            })
            .collect();
        let listing = described["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|parameter| parameter["name"] == "list" && parameter["required"] == true);
        let method = match method {
            "get" if listing => "LIST",
            "get" => "GET",
            "post" => "POST",
            "patch" => "PATCH",
            _ => "DELETE",
        };
        let body = described["requestBody"].is_object().then(|| json!({}));
        Self {
            method,
            path: filled.join("/"),
            body,
        }
    }

    fn status(&self, server: &Server, token: Option<&str>) -> u16 {
        let client = server.anyone();
        let client = token.map_or(client.clone(), |token| client.with_token(token));
        client
            .call(self.method, &self.path, self.body.as_ref())
            .status
    }
}

/// The operations of a path; where it can be both read and listed, the list as well.
fn methods_of(methods: &Value) -> Vec<(String, &Value)> {
    let methods: &Map<String, Value> = methods.as_object().unwrap();
    let known: BTreeMap<_, _> = METHODS
        .iter()
        .enumerate()
        .map(|(at, name)| (*name, at))
        .collect();
    let mut sorted: Vec<_> = methods
        .iter()
        .map(|(name, value)| (name.clone(), value))
        .collect();
    sorted.sort_by_key(|(name, _)| known[name.as_str()]);
    sorted
}
