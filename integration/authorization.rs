//! Who may do what, endpoint by endpoint: every one that the OpenAPI document names is called without a
//! token and with one that has only `default`, and its statuses stand in `testdata/authorization.txt`.
//! The document stands in `testdata/openapi.json`. `DAYPASS_BLESS=1` writes both anew; a difference in
//! review shows what opened, or closed.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use crate::server::Server;
use crate::tools;

/// As the document and as HTTP write them.
const METHODS: [(&str, &str); 4] = [
    ("get", "GET"),
    ("post", "POST"),
    ("patch", "PATCH"),
    ("delete", "DELETE"),
];

/// A server with a mount of each kind.
pub(crate) fn server() -> Server {
    let server = Server::start("");
    let root = server.root();
    let kv = |version: &str| json!({"type": "kv", "options": {"version": version}});
    root.write("sys/mounts/secret", &kv("2"));
    root.write("sys/mounts/kv", &kv("1"));
    for kind in ["database", "pki", "ssh", "transit"] {
        root.write(&format!("sys/mounts/{kind}"), &json!({"type": kind}));
    }
    for kind in ["approle", "cert", "jwt", "kubernetes", "userpass"] {
        root.write(&format!("sys/auth/{kind}"), &json!({"type": kind}));
    }
    server
}

/// Compares `text` with a file of the repository, or writes it there.
pub(crate) fn compare(name: &str, text: &str) {
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
    // A line for each operation, so that a review sees what changed.
    let mut text = String::from("{\n");
    for (name, value) in document.as_object().unwrap() {
        if name != "paths" {
            writeln!(text, "{}: {value},", json!(name)).unwrap();
        }
    }
    let paths = document["paths"].as_object().unwrap().iter();
    let paths: Vec<String> = paths
        .map(|(path, methods)| {
            let methods = methods.as_object().unwrap().iter();
            let lines: Vec<String> = methods
                .map(|(method, described)| format!("  {}: {described}", json!(method)))
                .collect();
            format!(" {}: {{\n{}\n }}", json!(path), lines.join(",\n"))
        })
        .collect();
    writeln!(text, "\"paths\": {{\n{}\n}}\n}}", paths.join(",\n")).unwrap();
    let same: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(same, document);
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
        for call in Call::all(path, methods) {
            let nobody = call.status(&server, None);
            // The token is new every time: some endpoints revoke it.
            let default = server.root().write(
                "auth/token/create",
                &json!({"policies": ["default"], "ttl": "1h"}),
            );
            let default = call.status(&server, Some(&default.text("/auth/client_token")));
            let Call { method, access, .. } = &call;
            writeln!(table, "{method:<8}  {path:<55}  {nobody}     {default}").unwrap();
            if access != "anyone" && nobody != 403 {
                open.push(format!("{method} {path}: {nobody}"));
            }
            if access == "sudo" && default != 403 {
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
    access: String,
    body: Option<Value>,
}

impl Call {
    /// The operations of a path, in a fixed order.
    fn all(path: &str, methods: &Value) -> Vec<Self> {
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
        let call = |method, described: &Value| Self {
            method,
            path: filled.join("/"),
            access: described["x-daypass-access"].as_str().unwrap().to_owned(),
            body: described["requestBody"].is_object().then(|| json!({})),
        };
        let mut calls = Vec::new();
        for (name, method) in METHODS {
            let described = &methods[name];
            if described.is_null() {
                continue;
            }
            let parameters = described["parameters"].as_array().into_iter().flatten();
            let mut lists =
                parameters.filter(|one| one["name"] == "list" && one["required"] == true);
            if lists.next().is_some() {
                calls.push(call("LIST", described));
                continue;
            }
            calls.push(call(method, described));
            // Where one can read and list, the document describes the reading.
            if described["x-daypass-list"].is_string() {
                calls.push(call("LIST", described));
            }
        }
        calls
    }

    fn status(&self, server: &Server, token: Option<&str>) -> u16 {
        let client = server.anyone();
        let client = token.map_or(client.clone(), |token| client.with_token(token));
        client
            .call(self.method, &self.path, self.body.as_ref())
            .status
    }
}
