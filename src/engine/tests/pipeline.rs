//! What holds for every request, one test for each invariant of the design; each fails without it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use daypass_contract::route::Routes;
use daypass_contract::{Access, Operation};
use serde_json::{Map, Value, json};

use crate::engine::testing::{World, request};
use crate::engine::{Answer, Body, Declarations, Failure};

use Operation::{Delete, List, Patch, Read, Write};

const CANARY: &str = "canary7f3a9c";

/// A token with the rules given.
async fn with_policy(world: &World, rules: &str) -> String {
    world.engine().policies.put("test", rules).await.unwrap();
    let body = json!({ "policies": ["test"], "no_default_policy": true });
    world.token(&world.root, body).await.unwrap().0
}

/// Every endpoint there is: operation, a path that leads there, its access and the fields it takes.
fn endpoints(world: &World) -> Vec<(Operation, String, Access, Vec<String>)> {
    fn add<H>(
        found: &mut Vec<(Operation, String, Access, Vec<String>)>,
        prefix: &str,
        routes: &Routes<H>,
    ) {
        for endpoint in routes.iter() {
            let mut path = endpoint.pattern.as_str().to_owned();
            for name in endpoint.pattern.parameters() {
                path = path
                    .replace(&format!("{{{name}*}}"), "x/y")
                    .replace(&format!("{{{name}}}"), "x");
            }
            let schema = (endpoint.request)();
            let fields = schema.get("properties").and_then(Value::as_object);
            let fields = fields.map(|fields| fields.keys().cloned().collect());
            found.push((
                endpoint.operation,
                format!("{prefix}{path}"),
                endpoint.access,
                fields.unwrap_or_default(),
            ));
        }
    }
    let mut found = Vec::new();
    add(&mut found, "", world.plane.system_routes());
    for mount in world.engine().mounts.all() {
        add(
            &mut found,
            &format!("{}/", mount.record().path),
            &mount.routes,
        );
    }
    assert!(found.len() > 60, "{}", found.len());
    found
}

async fn mount_kv(world: &World) {
    for (path, kind) in [
        ("secret", "kv-v2"),
        ("old", "kv-v1"),
        ("ca", "pki"),
        ("db", "database"),
    ] {
        let body = json!({ "type": kind });
        let path = format!("sys/mounts/{path}");
        world.ask(Write, &path, body).await.unwrap();
    }
}

// Invariant 1: no credential without a decision.

#[tokio::test]
async fn no_handler_runs_without_a_decision() {
    let world = World::new().await;
    mount_kv(&world).await;
    let weak = with_policy(&world, r#"path "elsewhere/*" { capabilities = ["read"] }"#).await;
    let (revoked, _) = world
        .token(&world.root, json!({ "policies": "root" }))
        .await
        .unwrap();
    world
        .ask(Write, "auth/token/revoke", json!({ "token": revoked }))
        .await
        .unwrap();
    let (_, accessor) = world
        .token(&world.root, json!({ "policies": "root" }))
        .await
        .unwrap();
    let mistyped = world.root.replace(|c: char| c.is_ascii_digit(), "A");
    let callers = [
        None,
        Some(weak),
        Some(revoked),
        Some(accessor),
        Some(mistyped),
    ];
    let leases = world.leases().await.len();
    for (operation, path, access, _) in endpoints(&world) {
        for caller in &callers {
            if access == Access::Anyone {
                continue;
            }
            let answer = world
                .ask_as(caller.as_deref(), operation, &path, json!({}))
                .await;
            assert!(
                matches!(answer, Err(Failure::Denied)),
                "{operation:?} {path} by {caller:?}"
            );
        }
    }
    assert_eq!(world.upstream.handled.load(Ordering::SeqCst), 0);
    assert_eq!(world.leases().await.len(), leases);
}

// Invariant 2: no decision without a record.

#[tokio::test]
async fn every_request_leaves_a_record_before_its_answer() {
    let world = World::new().await;
    let weak = with_policy(&world, r#"path "fake/items/a" { capabilities = ["read"] }"#).await;
    let root = world.root.clone();
    let (root, weak) = (Some(root.as_str()), Some(weak.as_str()));
    let cases = [
        // name, token, operation, path, body, status, records
        ("read", root, Read, "fake/items/a", json!({}), 200, 1),
        ("list", root, List, "fake/items", json!({}), 200, 1),
        ("public", None, Read, "sys/leader", json!({}), 200, 1),
        (
            "write",
            root,
            Write,
            "fake/config",
            json!({ "password": "x" }),
            204,
            2,
        ),
        ("issue", root, Read, "fake/creds/role", json!({}), 200, 2),
        ("allowed", weak, Read, "fake/items/a", json!({}), 200, 1),
        ("denied", weak, Read, "fake/items/b", json!({}), 403, 1),
        (
            "denied change",
            weak,
            Write,
            "fake/config",
            json!({}),
            403,
            1,
        ),
        ("anonymous", None, Read, "fake/items/a", json!({}), 403, 1),
        (
            "unknown path",
            root,
            Read,
            "nowhere/at/all",
            json!({}),
            404,
            1,
        ),
        (
            "unknown path below a mount",
            root,
            Read,
            "fake/nowhere",
            json!({}),
            404,
            1,
        ),
        (
            "wrong operation",
            root,
            Delete,
            "fake/config",
            json!({}),
            405,
            1,
        ),
        (
            "bad body",
            root,
            Write,
            "fake/config",
            json!({ "password": 7, "size": "x" }),
            400,
            2,
        ),
        (
            "failing backend",
            root,
            Read,
            "fake/fail/away",
            json!({}),
            503,
            1,
        ),
        (
            "broken backend",
            root,
            Write,
            "fake/fail/broken",
            json!({}),
            500,
            2,
        ),
        (
            "refused upstream",
            root,
            Patch,
            "fake/fail/refused",
            json!({}),
            405,
            1,
        ),
    ];
    for (name, token, operation, path, body, status, count) in cases {
        let asked = request(token, operation, path, body);
        let id = asked.id.clone();
        let got = match world.plane.serve(asked).await {
            Ok(answer) => answer.status(),
            Err(failure) => failure.status(),
        };
        assert_eq!(got, status, "{name}");
        let records = world.records_of(&id);
        assert_eq!(records.len(), count, "{name}: {records:?}");
        let kinds: Vec<&str> = records
            .iter()
            .map(|r| r["type"].as_str().unwrap())
            .collect();
        let want: &[&str] = if count == 2 {
            &["request", "response"]
        } else {
            &["response"]
        };
        assert_eq!(kinds, want, "{name}");
        assert_eq!(records[count - 1]["response"]["status"], status, "{name}");
        assert_eq!(
            records[count - 1]["error"].is_null(),
            status < 400,
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_request_that_meets_a_failing_store_leaves_a_record() {
    let world = World::new().await;
    let weak = with_policy(&world, r#"path "fake/*" { capabilities = ["create"] }"#).await;
    let served = async |asked: crate::engine::Request| {
        let id = asked.id.clone();
        assert!(world.plane.serve(asked).await.is_err());
        assert_eq!(world.records_of(&id).len(), 1);
    };
    // Deciding fails: the backend cannot tell whether the target exists.
    served(request(Some(&weak), Write, "fake/fail/exists", json!({}))).await;
    // Counting a use fails.
    let (limited, _) = world
        .token(&world.root, json!({ "num_uses": 3 }))
        .await
        .unwrap();
    world.storage.crash_after(0, false);
    served(request(
        Some(&limited),
        Read,
        "auth/token/lookup-self",
        json!({}),
    ))
    .await;
    // Finding the token fails.
    world.storage.heal();
    world.storage.fail_reads();
    served(request(Some(&weak), Read, "fake/items/a", json!({}))).await;
}

#[tokio::test]
async fn a_change_is_recorded_before_it_happens() {
    let world = World::new().await;
    let gate = world.upstream.hold_issue();
    let asked = request(Some(&world.root), Read, "fake/creds/role", json!({}));
    let id = asked.id.clone();
    let watching = async {
        while world.upstream.waiting.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let records = world.records_of(&id);
        assert_eq!(records.len(), 1);
        assert_eq!(records[0]["type"], "request");
        assert_eq!(records[0]["decision"]["allowed"], true);
        gate.add_permits(1);
    };
    let (answer, ()) = tokio::join!(world.plane.serve(asked), watching);
    assert!(answer.is_ok());
    assert_eq!(world.records_of(&id).len(), 2);
}

#[tokio::test]
async fn a_log_that_fails_fails_the_request_and_nobody_is_called() {
    let world = World::new().await;
    world.audit.close().unwrap();
    let cases = [
        (Some(&world.root), Write, "fake/config"),
        (Some(&world.root), Read, "fake/creds/role"),
        (Some(&world.root), Write, "auth/token/create"),
        (Some(&world.root), Read, "fake/nowhere"),
        (None, Read, "sys/health"),
        (None, Read, "fake/items/a"),
    ];
    let before = world.storage.writes.load(Ordering::SeqCst);
    for (token, operation, path) in cases {
        let body = json!({ "password": "x" });
        let answer = world
            .ask_as(token.map(String::as_str), operation, path, body)
            .await;
        assert!(
            matches!(answer, Err(Failure::Internal(_))),
            "{operation:?} {path}"
        );
    }
    assert_eq!(world.upstream.handled.load(Ordering::SeqCst), 0);
    assert_eq!(world.storage.writes.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn a_credential_whose_outcome_cannot_be_recorded_is_not_kept() {
    let world = World::new().await;
    let gate = world.upstream.hold_issue();
    let failing = async {
        while world.upstream.waiting.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        world.audit.close().unwrap();
        gate.add_permits(1);
    };
    let (issued, ()) = tokio::join!(world.issue(Some(&world.root), "fake", 3600), failing);
    assert!(issued.is_err());
    let (_, record) = world.leases().await.into_values().next().unwrap();
    assert!(
        record.revoking,
        "nobody has it, and it would stay for an hour"
    );
}

// Invariant 3: lease first.

#[tokio::test]
async fn a_lease_is_durable_before_its_credential_is_made() {
    let world = World::new().await;
    for _ in 0..20 {
        world.issue(Some(&world.root), "fake", 60).await.unwrap();
    }
    assert_eq!(world.upstream.unleased(), Vec::<String>::new());
    // Where the lease cannot be kept, nothing is made.
    let made = world.upstream.ever().len();
    world.storage.crash_after(0, false);
    assert!(world.issue(Some(&world.root), "fake", 60).await.is_err());
    assert_eq!(world.upstream.ever().len(), made);
}

// Invariant 7: deny wins.

#[tokio::test]
async fn deny_wins_for_every_operation_and_form_of_the_path() {
    let world = World::new().await;
    mount_kv(&world).await;
    let rules = r#"
        path "fake/*" { capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"] }
        path "fake/items/a" { capabilities = ["deny"] }
        path "secret/*" { capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"] }
        path "secret/data/hidden" { capabilities = ["deny"] }
        path "secret/metadata/folder/*" { capabilities = ["deny"] }
    "#;
    let token = with_policy(&world, rules).await;
    let allowed = world
        .ask_as(Some(&token), Read, "fake/items/b", json!({}))
        .await;
    assert!(allowed.is_ok());
    let before = world.upstream.handled.load(Ordering::SeqCst);
    for operation in [Read, List, Write, Patch, Delete] {
        for path in [
            "fake/items/a",
            "fake/items/a/",
            "secret/data/hidden",
            "secret/data/hidden/",
        ] {
            let answer = world
                .ask_as(Some(&token), operation, path, json!({ "data": {} }))
                .await;
            assert!(
                matches!(answer, Err(Failure::Denied)),
                "{operation:?} {path}"
            );
        }
    }
    for path in ["secret/metadata/folder", "secret/metadata/folder/"] {
        let answer = world.ask_as(Some(&token), List, path, json!({})).await;
        assert!(matches!(answer, Err(Failure::Denied)), "{path}");
    }
    // Also beside the policy that grants everything, and from the next request on.
    let body = json!({ "policies": ["test", "root"] });
    let (both, _) = world.token(&world.root, body).await.unwrap();
    let answer = world
        .ask_as(Some(&both), Read, "fake/items/a", json!({}))
        .await;
    assert!(matches!(answer, Err(Failure::Denied)));
    assert_eq!(world.upstream.handled.load(Ordering::SeqCst), before);
    let open = r#"path "fake/items/a" { capabilities = ["read"] }"#;
    world.engine().policies.put("test", open).await.unwrap();
    assert!(
        world
            .ask_as(Some(&token), Read, "fake/items/a", json!({}))
            .await
            .is_ok()
    );
    world.engine().policies.delete("test").await.unwrap();
    let answer = world
        .ask_as(Some(&token), Read, "fake/items/a", json!({}))
        .await;
    assert!(matches!(answer, Err(Failure::Denied)));
}

#[tokio::test]
async fn a_write_needs_create_where_its_target_is_new_and_update_where_it_is_not() {
    let world = World::new().await;
    let cases = [
        (r#"["create"]"#, "fake/items/new", true),
        (r#"["create"]"#, "fake/items/there", false),
        (r#"["update"]"#, "fake/items/new", false),
        (r#"["update"]"#, "fake/items/there", true),
        (r#"["create", "update"]"#, "fake/items/new", true),
        (r#"["create", "update"]"#, "fake/items/there", true),
        (r#"["read"]"#, "fake/items/there", false),
    ];
    for (capabilities, path, allowed) in cases {
        let rules = format!(r#"path "fake/items/*" {{ capabilities = {capabilities} }}"#);
        let token = with_policy(&world, &rules).await;
        let answer = world.ask_as(Some(&token), Write, path, json!({})).await;
        assert_eq!(answer.is_ok(), allowed, "{capabilities} {path}");
    }
}

// Invariant 8: secrets have a type.

#[tokio::test]
async fn no_audit_line_and_no_error_quotes_what_a_body_holds() {
    let world = World::new().await;
    mount_kv(&world).await;
    let mut quoted = Vec::new();
    let shapes: [fn() -> Value; 3] = [
        || json!(CANARY),
        || json!([CANARY]),
        || json!({ "k": CANARY, "nested": { "k": [CANARY] } }),
    ];
    for (operation, path, _, mut fields) in endpoints(&world) {
        // Names of policies are no secrets: the record of a new token names them.
        if path.starts_with("auth/token/create") {
            fields.retain(|field| field != "policies");
        }
        // These would end the world.
        if ["sys/seal", "sys/init"].contains(&path.as_str()) {
            continue;
        }
        // Paths are no secrets: an answer about paths names them.
        if path.starts_with("sys/capabilities") {
            continue;
        }
        // Nor are the names of policies, which a record of who asks holds.
        let fields: Vec<String> = fields
            .into_iter()
            .filter(|field| field != "policies")
            .collect();
        let mut bodies: Vec<Value> = Vec::new();
        for shape in shapes {
            let all = fields.iter().map(|field| (field.clone(), shape()));
            bodies.push(Value::Object(all.collect()));
            for field in &fields {
                bodies.push(Value::Object(Map::from_iter([(field.clone(), shape())])));
            }
            bodies.push(json!({ "unknown": shape() }));
        }
        for body in bodies {
            // The one before may have revoked itself.
            let root = world
                .engine()
                .create_root_token("root", None)
                .await
                .unwrap()
                .0;
            let token = root.expose_str().unwrap();
            let served = world
                .ask_as(Some(token), operation, &path, body.clone())
                .await;
            let texts = match served {
                Ok(Answer { warnings, .. }) => warnings,
                Err(failure) => vec![failure.to_string()],
            };
            for text in texts {
                if text.contains(CANARY) {
                    quoted.push(format!("{operation:?} {path} {body}: {text}"));
                }
            }
        }
    }
    assert!(quoted.is_empty(), "{quoted:#?}");
    let log = world.log_text();
    let line = log.lines().find(|line| line.contains(CANARY));
    assert_eq!(line, None);
    assert!(!log.contains(&world.root), "a token in clear");
}

#[tokio::test]
async fn what_is_issued_is_in_the_log_only_as_a_hash() {
    let world = World::new().await;
    let (_, name) = world.issue(Some(&world.root), "fake", 60).await.unwrap();
    world.ask(Read, "fake/items/a", json!({})).await.unwrap();
    let (token, accessor) = world.token(&world.root, json!({})).await.unwrap();
    let log = world.log_text();
    for secret in [
        format!("canary-password-of-{name}"),
        "canary-item".to_owned(),
        token,
        accessor,
        world.root.clone(),
    ] {
        assert!(!log.contains(&secret), "{secret}");
    }
}

// DESIGN §4: work that changes the world is not abandoned.

#[tokio::test]
async fn a_caller_that_hangs_up_abandons_the_answer_and_not_the_work() {
    let world = World::new().await;
    let gate = world.upstream.hold_issue();
    let asked = request(Some(&world.root), Read, "fake/creds/role", json!({}));
    let id = asked.id.clone();
    let plane = Arc::clone(&world.plane);
    {
        let serving = plane.serve(asked);
        let reached = async {
            while world.upstream.waiting.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = serving => panic!("it cannot be done yet"),
            () = reached => {}
        }
        // `serving` is dropped here.
    }
    gate.add_permits(1);
    for _ in 0..1000 {
        if world.records_of(&id).len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.records_of(&id).len(), 2, "no outcome was recorded");
    assert_eq!(world.upstream.live().len(), 1);
    assert_eq!(world.leases().await.len(), 1);
}

#[tokio::test]
async fn fields_that_nobody_reads_are_named_in_a_warning() {
    let world = World::new().await;
    let body = json!({ "password": "x", "pasword": "y", "size": 1 });
    let answer = world.ask(Write, "fake/config", body).await.unwrap();
    assert_eq!(
        answer.warnings,
        ["Endpoint ignored these unrecognized parameters: [pasword]"]
    );
    let body = json!({ "polices": ["a"] });
    let answer = world.ask(Write, "auth/token/create", body).await.unwrap();
    assert!(
        answer.warnings[0].contains("[polices]"),
        "{:?}",
        answer.warnings
    );
}

// Invariant 11: an unimplemented thing is absent.

#[tokio::test]
async fn what_is_not_there_is_told_only_to_those_who_might_go_there() {
    let world = World::new().await;
    let weak = with_policy(&world, r#"path "fake/items/a" { capabilities = ["read"] }"#).await;
    for path in [
        "nowhere",
        "sys/nowhere",
        "fake/nowhere",
        "auth/nowhere/login",
    ] {
        let to_root = world.ask(Read, path, json!({})).await;
        assert!(matches!(to_root, Err(Failure::NoRoute(_))), "{path}");
        let to_weak = world.ask_as(Some(&weak), Read, path, json!({})).await;
        assert!(matches!(to_weak, Err(Failure::Denied)), "{path}");
        let to_nobody = world.ask_as(None, Read, path, json!({})).await;
        assert!(matches!(to_nobody, Err(Failure::Denied)), "{path}");
    }
    let other = world
        .ask_as(Some(&weak), Write, "fake/items/a", json!({}))
        .await;
    assert!(matches!(other, Err(Failure::Denied)));
    let other = world.ask(Delete, "fake/items/a", json!({})).await;
    assert!(matches!(&other, Err(Failure::WrongOperation(text)) if text == "read, update"));
}

#[tokio::test]
async fn the_last_use_of_a_token_issues_nothing_that_would_end_with_it() {
    let world = World::new().await;
    let body = json!({ "num_uses": 2, "policies": ["root"] });
    let (token, _) = world.token(&world.root, body).await.unwrap();
    assert!(world.issue(Some(&token), "fake", 60).await.is_ok());
    let second = world.issue(Some(&token), "fake", 60).await;
    assert!(matches!(second, Err(Failure::Invalid(_))));
    world.clock.advance(Duration::from_secs(61));
    world.settled().await;
    assert!(world.upstream.live().is_empty());
    assert!(world.principal(&token).await.is_none());
}

#[tokio::test]
async fn a_seal_that_opens_in_vain_leaves_nothing_running() {
    let world = World::new().await;
    world.plane.abandon().await;
    world.storage.fail_reads();
    for _ in 0..3 {
        assert!(world.plane.open().await.is_err());
    }
    world.storage.heal();
    assert!(world.plane.open().await.is_ok());
    let answer = world.ask(Read, "fake/items/a", json!({})).await.unwrap();
    assert!(matches!(answer.body, Body::Data(_)));
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_request_with_a_record() {
    let world = World::new().await;
    for operation in [Operation::Read, Operation::Write] {
        let request = request(Some(&world.root), operation, "fake/fail/panic", json!({}));
        let id = request.id.clone();
        let failure = world.plane.serve(request).await.map(drop).unwrap_err();
        assert!(matches!(failure, Failure::Internal(_)), "{failure}");
        let records = world.records_of(&id);
        let last = records.last().unwrap();
        assert_eq!(last["response"]["status"], 500, "{last}");
    }
    assert!(
        world
            .ask(Operation::Read, "fake/items/a", json!({}))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_denies() {
    let mut world = World::new().await;
    let text = r#"path "fake/*" { capabilities = ["read"] }"#;
    for name in ["wide", "narrow"] {
        let path = format!("sys/policies/acl/{name}");
        let body = json!({ "policy": text });
        world.ask(Operation::Write, &path, body).await.unwrap();
    }
    let token = async |policies: &[&str]| {
        let body = json!({ "policies": policies });
        world.token(&world.root, body).await.unwrap().0
    };
    let (both, one) = (token(&["wide", "narrow"]).await, token(&["wide"]).await);
    let rooted = token(&["root", "narrow"]).await;
    let damaged = daypass_contract::Batch::new().put(
        "policy/acl/narrow",
        daypass_contract::Secret::new(
            "path \"fake/items/*\" { capabilities = [\"deny\"], later = 1 }",
        ),
    );
    world.barrier.apply(damaged).await.unwrap();
    world.crash(Declarations::default()).await;

    let read = async |token: &str, path: &str| {
        let answer = world.ask_as(Some(token), Operation::Read, path, json!({}));
        answer.await.is_ok()
    };
    for token in [&both, &rooted] {
        assert!(!read(token, "fake/items/a").await);
        assert!(!read(token, "fake/creds/role").await);
        assert!(read(token, "auth/token/lookup-self").await);
    }
    assert!(read(&one, "fake/items/a").await);
    assert!(
        world
            .engine()
            .policies
            .names()
            .contains(&"narrow".to_owned())
    );
    let revoke = "auth/token/revoke-self";
    world
        .ask_as(Some(&rooted), Operation::Write, revoke, json!({}))
        .await
        .unwrap();
    // Written anew, it counts again.
    let body = json!({ "policy": text });
    let path = "sys/policies/acl/narrow";
    world.ask(Operation::Write, path, body).await.unwrap();
    assert!(read(&both, "fake/items/a").await);
}

#[tokio::test]
async fn a_default_policy_that_cannot_be_read_is_not_replaced() {
    let mut world = World::new().await;
    let damaged = daypass_contract::Batch::new().put(
        "policy/acl/default",
        daypass_contract::Secret::new("path {"),
    );
    world.barrier.apply(damaged).await.unwrap();
    world.crash(Declarations::default()).await;
    let body = json!({ "policies": ["default"] });
    let (token, _) = world.token(&world.root, body).await.unwrap();
    let capabilities = world
        .ask_as(
            Some(&token),
            Operation::Write,
            "sys/capabilities-self",
            json!({ "path": "fake" }),
        )
        .await;
    assert!(matches!(capabilities, Err(Failure::Denied)));
}
