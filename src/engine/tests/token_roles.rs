//! Token roles: what they allow beyond the caller's own policies, and what they never do.

use std::time::Duration;

use daypass_contract::Operation::{Delete, Read, Write};
use daypass_contract::Peer;
use serde_json::{Value, json};

use crate::engine::testing::{World, request};
use crate::engine::{AuthView, Body, Failure};

async fn created(world: &World, token: &str, role: &str, body: Value) -> Result<AuthView, String> {
    let path = format!("auth/token/create/{role}");
    let answer = world.ask_as(Some(token), Write, &path, body).await;
    match answer.map_err(|failure| failure.to_string())?.body {
        Body::Auth(auth) => Ok(*auth),
        _ => panic!("no token"),
    }
}

/// A world with a caller who may do nothing but create tokens by the role `ci`.
async fn world(role: Value) -> (World, String) {
    let world = World::new().await;
    world.ask(Write, "auth/token/roles/ci", role).await.unwrap();
    let policy = r#"path "auth/token/create/ci" { capabilities = ["update"] }"#;
    world
        .ask(Write, "sys/policies/acl/maker", json!({ "policy": policy }))
        .await
        .unwrap();
    let caller = world
        .ask(Write, "auth/token/create", json!({ "policies": ["maker"] }))
        .await
        .unwrap();
    let Body::Auth(caller) = caller.body else {
        panic!("no token");
    };
    let caller = caller.client_token.expose_str().unwrap().to_owned();
    (world, caller)
}

#[tokio::test]
async fn a_role_gives_what_its_caller_does_not_have_and_nothing_else() {
    let role = json!({
        "allowed_policies": "deploy,read", "disallowed_policies": "root", "orphan": true,
        "token_explicit_max_ttl": "10m", "token_num_uses": 5, "path_suffix": "ci1",
    });
    let (world, caller) = world(role).await;
    let made = created(&world, &caller, "ci", json!({})).await.unwrap();
    assert_eq!(made.policies, ["default", "deploy", "read"]);
    assert_eq!(
        (made.orphan, made.num_uses, made.lease_duration),
        (true, 5, 600)
    );
    let token = made.client_token.expose_str().unwrap();
    let principal = world.principal(token).await.unwrap();
    assert_eq!(principal.record.path, "auth/token/create/ci/ci1");

    let fewer = json!({ "policies": ["read"], "num_uses": 2, "no_default_policy": true });
    let fewer = created(&world, &caller, "ci", fewer).await.unwrap();
    assert_eq!(
        (fewer.policies, fewer.num_uses),
        (vec!["read".to_owned()], 2)
    );
    for body in [
        json!({ "policies": ["maker"] }),
        json!({ "policies": ["root"] }),
        json!({ "policies": ["response-wrapping"] }),
        json!({ "id": "mine" }),
        json!({ "period": 60 }),
        json!({ "no_parent": true }),
    ] {
        assert!(
            created(&world, &caller, "ci", body.clone()).await.is_err(),
            "{body}"
        );
    }
    // A role that is named beside the path is not one the caller's policies allow.
    let maker = r#"path "auth/token/create" { capabilities = ["update"] }"#;
    world
        .ask(Write, "sys/policies/acl/maker", json!({ "policy": maker }))
        .await
        .unwrap();
    let beside = world
        .ask_as(
            Some(&caller),
            Write,
            "auth/token/create",
            json!({ "role_name": "ci" }),
        )
        .await;
    assert!(matches!(beside, Err(Failure::Invalid(text)) if text.contains("role_name")));
    assert!(created(&world, &caller, "ci", json!({})).await.is_err());
}

#[tokio::test]
async fn a_roles_tokens_are_not_renewed_without_it() {
    let (world, caller) = world(json!({ "token_period": 60, "allowed_policies": "a" })).await;
    let made = created(&world, &caller, "ci", json!({})).await.unwrap();
    let token = made.client_token.expose_str().unwrap().to_owned();
    let renew = async || {
        world
            .ask_as(Some(&token), Write, "auth/token/renew-self", json!({}))
            .await
    };
    world.clock.advance(Duration::from_secs(50));
    renew().await.unwrap();
    world.clock.advance(Duration::from_secs(50));
    assert!(world.principal(&token).await.is_some());
    let read = world
        .ask(Read, "auth/token/roles/ci", json!({}))
        .await
        .unwrap();
    let Body::Data(data) = read.body else {
        panic!("no data");
    };
    let view: Value = serde_json::from_slice(data.expose()).unwrap();
    assert_eq!(
        (&view["token_period"], &view["period"]),
        (&json!(60), &json!(60))
    );
    world
        .ask(Delete, "auth/token/roles/ci", json!({}))
        .await
        .unwrap();
    assert!(matches!(renew().await, Err(Failure::Invalid(text)) if text.contains("role")));
}

#[tokio::test]
async fn a_bound_token_opens_nothing_from_elsewhere() {
    let role = json!({ "token_bound_cidrs": "10.0.0.0/8", "allowed_policies": "a" });
    let (world, caller) = world(role).await;
    let made = created(&world, &caller, "ci", json!({})).await.unwrap();
    let token = made.client_token.expose_str().unwrap();
    let cases = [
        (Some("10.1.2.3:99"), true),
        (Some("[::ffff:10.1.2.3]:99"), true),
        (Some("11.1.2.3:99"), false),
        (None, false),
    ];
    for (address, allowed) in cases {
        let mut asked = request(Some(token), Read, "auth/token/lookup-self", json!({}));
        asked.peer = Peer {
            address: address.map(|address| address.parse().unwrap()),
            ..Peer::default()
        };
        let answer = world.plane.serve(asked).await;
        assert_eq!(answer.is_ok(), allowed, "{address:?}");
    }
}
