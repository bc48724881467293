//! The wire: statuses, envelopes, verbs, headers and bodies, through [`Service::handle`].

use std::time::Duration;

use axum::body::Body as HttpBody;
use daypass_contract::Peer;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::{HttpLimits, Service};
use crate::engine::testing::{Mood, World};

struct Http {
    world: World,
    service: Service,
}

struct Answered {
    status: u16,
    headers: http::HeaderMap,
    bytes: Vec<u8>,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// The one error text.
    fn error(&self) -> String {
        let json = self.json();
        assert_eq!(json.as_object().unwrap().len(), 1, "{json}");
        let errors = json["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 1, "{json}");
        errors[0].as_str().unwrap().to_owned()
    }
}

const MAX_BODY: usize = 10_000;

impl Http {
    async fn new() -> Self {
        let world = World::new().await;
        let limits = HttpLimits {
            max_body: MAX_BODY,
            request_timeout: Duration::from_secs(10),
            max_concurrent_requests: 8,
            max_connections: 8,
            max_headers: 50,
            max_header_bytes: 10_000,
            header_timeout: Duration::from_secs(10),
        };
        let service = Service::new(std::sync::Arc::clone(&world.plane), limits);
        let http = Self { world, service };
        for (path, kind) in [("secret", "kv-v2"), ("old", "kv-v1")] {
            let body = json!({ "type": kind });
            let answer = http
                .ask("POST", &format!("/v1/sys/mounts/{path}"), body)
                .await;
            assert_eq!(answer.status, 204);
        }
        http
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<HttpBody>,
    ) -> Answered {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let (parts, body) = self
            .service
            .handle(request, Peer::default())
            .await
            .into_parts();
        Answered {
            status: parts.status.as_u16(),
            headers: parts.headers,
            bytes: body.collect().await.unwrap().to_bytes().to_vec(),
        }
    }

    /// With the root token.
    async fn ask(&self, method: &str, path: &str, body: Value) -> Answered {
        let body = match body {
            Value::Null => Vec::new(),
            body => serde_json::to_vec(&body).unwrap(),
        };
        let root = self.world.root.clone();
        self.send(method, path, &[("x-vault-token", &root)], body)
            .await
    }

    async fn text(&self, method: &str, path: &str, body: &'static str) -> Answered {
        let root = self.world.root.clone();
        self.send(method, path, &[("x-vault-token", &root)], body)
            .await
    }
}

const ENVELOPE: [&str; 8] = [
    "auth",
    "data",
    "lease_duration",
    "lease_id",
    "renewable",
    "request_id",
    "warnings",
    "wrap_info",
];

fn keys(json: &Value) -> Vec<&str> {
    json.as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[tokio::test]
async fn answers_have_the_statuses_and_shapes_of_the_vault_api() {
    let http = Http::new().await;
    let cases = [
        // method, path, body, status
        (
            "POST",
            "/v1/secret/data/a",
            json!({ "data": { "k": "v" } }),
            200,
        ),
        (
            "PUT",
            "/v1/secret/data/a",
            json!({ "data": { "k": "w" } }),
            200,
        ),
        ("GET", "/v1/secret/data/a", Value::Null, 200),
        ("GET", "/v1/secret/data/a?version=1", Value::Null, 200),
        ("GET", "/v1/secret/data/none", Value::Null, 404),
        ("DELETE", "/v1/secret/data/a", Value::Null, 204),
        ("GET", "/v1/secret/data/a", Value::Null, 404),
        ("LIST", "/v1/secret/metadata", Value::Null, 200),
        ("LIST", "/v1/secret/metadata/", Value::Null, 200),
        ("GET", "/v1/secret/metadata?list=true", Value::Null, 200),
        ("GET", "/v1/secret/metadata/?list=1", Value::Null, 200),
        ("LIST", "/v1/secret/metadata/none", Value::Null, 404),
        ("POST", "/v1/old/b", json!({ "k": "v" }), 204),
        ("GET", "/v1/old/b", Value::Null, 200),
        ("GET", "/v1/old/none", Value::Null, 404),
        (
            "POST",
            "/v1/fake/config",
            json!({ "password": "x", "more": 1 }),
            200,
        ),
        ("POST", "/v1/fake/config", json!({}), 400),
        ("GET", "/v1/fake/creds/role", Value::Null, 200),
        ("GET", "/v1/fake/fail/missing", Value::Null, 404),
        ("GET", "/v1/fake/fail/role", Value::Null, 400),
        ("GET", "/v1/fake/fail/refused", Value::Null, 502),
        ("GET", "/v1/fake/fail/away", Value::Null, 503),
        ("GET", "/v1/fake/fail/unsupported", Value::Null, 501),
        ("GET", "/v1/fake/fail/broken", Value::Null, 500),
        ("GET", "/v1/fake/nowhere", Value::Null, 404),
        ("DELETE", "/v1/fake/config", Value::Null, 405),
        ("GET", "/v1/nowhere/at/all", Value::Null, 404),
        ("POST", "/v1/auth/token/create", json!({}), 200),
        ("GET", "/v1/auth/token/lookup-self", Value::Null, 200),
        ("POST", "/v1/sys/audit/file", json!({ "type": "file" }), 400),
        ("GET", "/v1/sys/mounts", Value::Null, 200),
        ("GET", "/v1/sys/policies/acl/none", Value::Null, 404),
        ("DELETE", "/v1/sys/policies/acl/none", Value::Null, 204),
        ("GET", "/v1/sys/leader", Value::Null, 200),
        ("OPTIONS", "/v1/sys/leader", Value::Null, 405),
        ("GET", "/", Value::Null, 404),
        ("GET", "/v2/sys/leader", Value::Null, 404),
    ];
    for (method, path, body, status) in cases {
        let answer = http.ask(method, path, body).await;
        let what = format!("{method} {path}");
        assert_eq!(answer.status, status, "{what}: {}", answer.json());
        assert_eq!(answer.headers["cache-control"], "no-store", "{what}");
        // Also without a body, as the peer has it: the cache of `bao agent` looks for it.
        assert_eq!(answer.headers["content-type"], "application/json", "{what}");
        if status == 204 {
            assert!(answer.bytes.is_empty(), "{what}");
            continue;
        }
        let json = answer.json();
        if status < 300 && !path.contains("leader") {
            for key in ENVELOPE {
                assert!(json.get(key).is_some(), "{what} lacks {key}: {json}");
            }
        } else if json.get("data").is_none() && status >= 400 {
            assert_eq!(keys(&json), ["errors"], "{what}");
            assert!(json["errors"].is_array(), "{what}");
        }
    }
}

#[tokio::test]
async fn envelopes_say_what_was_made() {
    let http = Http::new().await;
    let lease = http
        .ask("GET", "/v1/fake/creds/role?ttl=90", Value::Null)
        .await
        .json();
    assert!(
        lease["lease_id"]
            .as_str()
            .unwrap()
            .starts_with("fake/creds/role/")
    );
    assert_eq!(
        (&lease["lease_duration"], &lease["renewable"]),
        (&json!(90), &json!(true))
    );
    assert!(lease["auth"].is_null() && lease["wrap_info"].is_null() && lease["warnings"].is_null());
    let auth = http
        .ask(
            "POST",
            "/v1/auth/token/create",
            json!({ "policies": "a,b", "ttl": "90s", "meta": { "k": "v" } }),
        )
        .await
        .json();
    assert!(auth["data"].is_null());
    let auth = &auth["auth"];
    assert_eq!(auth["policies"], json!(["a", "b", "default"]));
    assert_eq!(auth["token_policies"], auth["policies"]);
    assert_eq!(
        (&auth["lease_duration"], &auth["token_type"]),
        (&json!(90), &json!("service"))
    );
    assert_eq!(
        (&auth["metadata"], &auth["entity_id"]),
        (&json!({ "k": "v" }), &json!(""))
    );
    assert_eq!(
        (&auth["orphan"], &auth["num_uses"]),
        (&json!(false), &json!(0))
    );
    assert!(auth["mfa_requirement"].is_null() && auth.get("mfa_requirement").is_some());
    let missing = http.ask("GET", "/v1/secret/data/none", Value::Null).await;
    assert_eq!(missing.json(), json!({ "errors": [] }));
}

#[tokio::test]
async fn bodies_are_read_as_clis_and_programs_send_them() {
    let http = Http::new().await;
    let cases = [
        // body, policies and ttl of the token made, or a refusal
        (
            r#"{"policies":["a"],"ttl":60}"#,
            Ok((json!(["a", "default"]), 60)),
        ),
        (
            r#"{"policies":"a","ttl":"60"}"#,
            Ok((json!(["a", "default"]), 60)),
        ),
        (
            r#"{"policies":"a,b","ttl":"1m"}"#,
            Ok((json!(["a", "b", "default"]), 60)),
        ),
        (
            r#"{"policies":"a","ttl":"","num_uses":"0","renewable":"false"}"#,
            Ok((json!(["a", "default"]), 3600)),
        ),
        (
            r#"{"policies":"a","ttl":null,"meta":null}"#,
            Ok((json!(["a", "default"]), 3600)),
        ),
        (
            r#"{"policies":"a","ttl":"soon"}"#,
            Err("field \"ttl\": expected a duration such as 3600, \"1h30m\" or \"7d\""),
        ),
        (
            r#"{"policies":"a","num_uses":"many"}"#,
            Err("field \"num_uses\": expected u64"),
        ),
        (
            r#"{"policies":{"a":1}}"#,
            Err("field \"policies\": expected a sequence, found an object"),
        ),
    ];
    for (body, want) in cases {
        let answer = http.text("POST", "/v1/auth/token/create", body).await;
        match want {
            Ok((policies, ttl)) => {
                let json = answer.json();
                assert_eq!(json["auth"]["policies"], policies, "{body}: {json}");
                assert_eq!(json["auth"]["lease_duration"], ttl, "{body}");
            }
            Err(text) => {
                assert_eq!(answer.status, 400, "{body}");
                let error = answer.error();
                assert!(
                    error.starts_with(text.split(',').next().unwrap()),
                    "{body}: {error}"
                );
                assert!(
                    !error.contains("soon") && !error.contains("many"),
                    "{body}: {error}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused_without_its_words() {
    let http = Http::new().await;
    let cases = [
        (
            r#"{"password": hunter2}"#,
            "body is not valid JSON at line 1, column",
        ),
        (
            "{\n\"password\": \"hunter2",
            "body is not valid JSON at line 2, column",
        ),
        (
            r#"{"password":"hunter2"} hunter2"#,
            "body is not valid JSON at line 1, column",
        ),
        (r#"["hunter2"]"#, "body must be a JSON object"),
        (r#""hunter2""#, "body must be a JSON object"),
        ("\u{1}hunter2", "body is not valid JSON at line 1, column"),
    ];
    for (body, want) in cases {
        let answer = http.text("POST", "/v1/fake/config", body).await;
        assert_eq!(answer.status, 400, "{body}");
        let error = answer.error();
        assert!(error.starts_with(want), "{body}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let before = http.world.log_text().lines().count();
    assert_eq!(http.text("POST", "/v1/fake/config", "?").await.status, 400);
    let after = http.world.log_text();
    assert_eq!(after.lines().count(), before + 1, "it left no record");
    assert!(after.lines().last().unwrap().contains("fake/config"));
}

#[tokio::test]
async fn a_large_body_is_refused_and_one_at_the_limit_is_not() {
    let http = Http::new().await;
    let body = |length: usize| {
        let frame = json!({ "password": "" }).to_string().len();
        json!({ "password": "x".repeat(length - frame) })
    };
    assert_eq!(
        http.ask("POST", "/v1/fake/config", body(MAX_BODY))
            .await
            .status,
        204
    );
    let answer = http
        .ask("POST", "/v1/fake/config", body(MAX_BODY + 1))
        .await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.error(), "request body is larger than 10000 bytes");
    let line = http.world.log_text().lines().last().unwrap().to_owned();
    assert!(line.contains("413"), "{line}");
}

#[tokio::test]
async fn paths_mean_one_thing_or_are_refused() {
    let http = Http::new().await;
    http.ask(
        "POST",
        "/v1/secret/data/a/b",
        json!({ "data": { "k": "v" } }),
    )
    .await;
    let cases = [
        ("/v1/secret/data/a/b", 200),
        ("/v1/secret/data/a/b/", 200),
        ("/v1/secret/data/a%2Fb", 200),
        ("/v1/secret%2Fdata/a/b", 200),
        ("/v1/secret/data/%61/b", 200),
        ("/v1/secret/data/x/../a/b", 400),
        ("/v1/secret/data/x/%2e%2e/a/b", 400),
        ("/v1/secret/data/./a/b", 400),
        ("/v1/secret/data/..%2Fa", 400),
        ("/v1/secret/data/a%00b", 400),
        ("/v1/secret/data/a%0Ab", 400),
        ("/v1/secret/data/%ff", 400),
        ("/v1/secret/data/a//b", 400),
        ("/v1//secret/data/a/b", 400),
        ("/v1/secret/data/%252e%252e", 404),
        ("/v1/fake/creds/role/", 200),
    ];
    for (path, status) in cases {
        let answer = http.ask("GET", path, Value::Null).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.json());
    }
    let twice = http
        .ask("GET", "/v1/secret/data/a?version=1&version=2", Value::Null)
        .await;
    assert_eq!(twice.status, 400);
}

#[tokio::test]
async fn tokens_come_in_either_header() {
    let http = Http::new().await;
    let root = http.world.root.clone();
    let bearer = format!("Bearer {root}");
    let lower = format!("bearer  {root} ");
    let basic = format!("Basic {root}");
    let cases: [(&[(&str, &str)], u16); 7] = [
        (&[("x-vault-token", &root)], 200),
        (&[("authorization", &bearer)], 200),
        (&[("authorization", &lower)], 200),
        (&[("authorization", &basic)], 403),
        (
            &[("x-vault-token", "wrong"), ("authorization", &bearer)],
            403,
        ),
        (&[("x-vault-token", "")], 403),
        (&[], 403),
    ];
    for (headers, status) in cases {
        let answer = http
            .send("GET", "/v1/auth/token/lookup-self", headers, "")
            .await;
        assert_eq!(answer.status, status, "{headers:?}");
        if status == 403 {
            assert_eq!(answer.error(), "permission denied");
        }
    }
}

#[tokio::test]
async fn headers_that_would_change_the_meaning_are_refused() {
    let http = Http::new().await;
    let cases = [
        ("x-vault-namespace", "", 200),
        ("x-vault-namespace", "root", 200),
        ("x-vault-namespace", "/", 200),
        ("x-vault-namespace", "team", 400),
        ("x-vault-wrap-ttl", "", 200),
        ("x-vault-wrap-ttl", "0", 200),
        ("x-vault-wrap-ttl", "60s", 200),
        ("x-vault-wrap-ttl", "soon", 400),
        ("x-vault-request", "true", 200),
    ];
    for (name, value, status) in cases {
        let headers = [("x-vault-token", http.world.root.as_str()), (name, value)];
        let answer = http.send("GET", "/v1/fake/items/a", &headers, "").await;
        assert_eq!(answer.status, status, "{name}: {value}");
    }
}

#[tokio::test]
async fn head_answers_as_get_without_a_body() {
    let http = Http::new().await;
    for (path, status) in [
        ("/v1/sys/leader", 200),
        ("/v1/fake/items/a", 200),
        ("/v1/nowhere", 404),
    ] {
        let answer = http.ask("HEAD", path, Value::Null).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.bytes.is_empty(), "{path}");
    }
}

#[tokio::test]
async fn failures_tell_who_may_know_and_nothing_of_the_inside() {
    let http = Http::new().await;
    let error = async |path: &str| http.ask("GET", path, Value::Null).await.error();
    assert_eq!(
        error("/v1/nowhere").await,
        "no handler for route \"nowhere\""
    );
    assert_eq!(
        http.ask("DELETE", "/v1/fake/items/a", Value::Null)
            .await
            .error(),
        "unsupported operation: this path has read, update"
    );
    assert_eq!(
        error("/v1/fake/fail/broken").await,
        "internal error; see the server's log"
    );
    assert_eq!(error("/v1/fake/fail/refused").await, "upstream refused: no");
    assert_eq!(
        http.send("GET", "/v1/nowhere", &[], "").await.error(),
        "permission denied",
        "who may not go there is not told that it does not exist"
    );
    http.world.upstream.set_mood(Mood::Mute);
    let answer = http.ask("GET", "/v1/fake/creds/role", Value::Null).await;
    assert_eq!(answer.status, 502);
    assert!(answer.error().contains("outcome is unknown"));
}

#[tokio::test]
async fn more_requests_than_there_is_room_for_are_sent_away() {
    let http = Http::new().await;
    let gate = http.world.upstream.hold_issue();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (service, root) = (http.service.clone(), http.world.root.clone());
        waiting.spawn(async move {
            let request = Request::get("/v1/fake/creds/role")
                .header("x-vault-token", root)
                .body(HttpBody::empty())
                .unwrap();
            service
                .handle(request, Peer::default())
                .await
                .status()
                .as_u16()
        });
    }
    while http
        .world
        .upstream
        .waiting
        .load(std::sync::atomic::Ordering::SeqCst)
        < 8
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let answer = http.ask("GET", "/v1/sys/leader", Value::Null).await;
    assert_eq!(answer.status, 503);
    gate.add_permits(8);
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(
        http.ask("GET", "/v1/sys/leader", Value::Null).await.status,
        200
    );
}

#[tokio::test]
async fn work_whose_caller_hung_up_keeps_its_room_until_it_is_done() {
    let http = Http::new().await;
    let gate = http.world.upstream.hold_issue();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (service, root) = (http.service.clone(), http.world.root.clone());
        waiting.spawn(async move {
            let request = Request::get("/v1/fake/creds/role")
                .header("x-vault-token", root)
                .body(HttpBody::empty())
                .unwrap();
            service
                .handle(request, Peer::default())
                .await
                .status()
                .as_u16()
        });
    }
    let reached = &http.world.upstream.waiting;
    while reached.load(std::sync::atomic::Ordering::SeqCst) < 8 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    waiting.shutdown().await;
    let leader = async || http.ask("GET", "/v1/sys/leader", Value::Null).await.status;
    for _ in 0..3 {
        assert_eq!(leader().await, 503, "the work still runs");
    }
    gate.add_permits(8);
    while leader().await == 503 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(http.world.leases().await.len(), 8);
    // Refusals share an event: a flood of them does not fill the log.
    let log = http.world.log_text();
    assert_eq!(log.matches("requests.unserved").count(), 1);
    assert!(log.contains("\"too_many\":\"1\""), "{log}");
}

#[tokio::test]
async fn names_that_cannot_be_stored_are_the_callers_fault() {
    let http = Http::new().await;
    let long = "n".repeat(3000);
    for path in [format!("/v1/old/{long}"), format!("/v1/secret/data/{long}")] {
        for (method, body) in [("GET", Value::Null), ("POST", json!({"data": {"k": "v"}}))] {
            let answer = http.ask(method, &path, body).await;
            assert_eq!(answer.status, 400, "{method}: {}", answer.json());
        }
    }
}

#[tokio::test]
async fn a_list_that_is_asked_for_by_query_knows_the_word() {
    let http = Http::new().await;
    let answer = http
        .ask(
            "GET",
            "/v1/sys/plugins/catalog/secret?list=true",
            Value::Null,
        )
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["warnings"], Value::Null);
}

#[tokio::test]
async fn the_openapi_document_names_what_is_answered() {
    let http = Http::new().await;
    let document = http
        .ask("GET", "/v1/sys/internal/specs/openapi", Value::Null)
        .await
        .json();
    let answers = |path: &str, method: &str| document["paths"][path][method]["responses"].clone();
    let metrics = answers("/sys/metrics", "get");
    assert!(metrics["200"]["content"]["text/plain; version=0.0.4"].is_object());
    // The caller chooses its status.
    assert!(answers("/sys/health", "get")["default"].is_object());
    let read = answers("/secret/data/{path}", "get");
    assert!(read["default"].is_null() && read["500"].is_null() && read["403"].is_object());
    // A field that is left out where it is empty is not required.
    let token = answers("/auth/token/lookup-self", "get")["200"].to_string();
    assert!(token.contains("\"bound_cidrs\"") && !token.contains("\"policies\",\"bound_cidrs\""));
}
