//! Wrapped answers, and what tokens keep for themselves.

use std::time::Duration;

use daypass_contract::{Operation, Secret};
use serde_json::{Value, json};

use Operation::{Delete, List, Read, Write};

use crate::engine::testing::{World, request};
use crate::engine::{Answer, Body, Failure, WrapView};

async fn wrapped(world: &World, operation: Operation, path: &str, body: Value) -> Box<WrapView> {
    let mut request = request(Some(&world.root), operation, path, body);
    request.wrap_ttl = Some(Duration::from_mins(1));
    match world.plane.serve(request).await.unwrap().body {
        Body::Wrapped(wrap) => wrap,
        _ => panic!("{path} is not wrapped"),
    }
}

/// What tokens keep, by key.
async fn keys(world: &World) -> Vec<String> {
    world.barrier.keys("token/p/", None, 100).await.unwrap()
}

fn text(secret: &Secret) -> &str {
    secret.expose_str().unwrap()
}

/// What `answer` holds, where it was kept.
fn kept(answer: Answer) -> Value {
    match answer.body {
        Body::Kept(json) | Body::Data(json) => serde_json::from_slice(json.expose()).unwrap(),
        _ => panic!("nothing kept"),
    }
}

async fn unwrap(world: &World, wrap: &WrapView) -> Result<Value, Failure> {
    let token = text(&wrap.token);
    let opened = world
        .ask_as(Some(token), Write, "sys/wrapping/unwrap", json!({}))
        .await;
    opened.map(kept)
}

fn spent<T>(result: Result<T, Failure>) -> bool {
    matches!(result, Err(Failure::Invalid(text)) if text == "wrapping token is not valid or does not exist")
}

#[tokio::test]
async fn an_answer_is_unwrapped_once_by_whoever_is_first() {
    let world = World::new().await;
    let wrap = wrapped(
        &world,
        Write,
        "auth/token/create",
        json!({ "policies": ["p"] }),
    )
    .await;
    assert_eq!(wrap.creation_path, "auth/token/create");
    assert!(wrap.wrapped_accessor.is_some());
    let looked_up = world
        .ask_as(
            None,
            Write,
            "sys/wrapping/lookup",
            json!({ "token": text(&wrap.token) }),
        )
        .await;
    assert_eq!(kept(looked_up.unwrap())["creation_ttl"], 60);

    let all = futures_all(&world, &wrap, 8).await;
    let opened: Vec<&Value> = all
        .iter()
        .filter_map(|result| result.as_ref().ok())
        .collect();
    assert_eq!(opened.len(), 1, "one of eight opens it");
    let made = opened[0]["auth"]["client_token"].as_str().unwrap();
    assert!(world.principal(made).await.is_some());
    assert!(spent(unwrap(&world, &wrap).await));
    assert!(spent(
        world
            .ask_as(
                Some(text(&wrap.token)),
                Read,
                "sys/wrapping/lookup",
                json!({})
            )
            .await
    ));
    assert!(!world.log_text().contains(text(&wrap.token)));
    assert!(!world.log_text().contains(made));
    assert!(keys(&world).await.is_empty(), "nothing stays behind");
}

async fn futures_all(world: &World, wrap: &WrapView, count: usize) -> Vec<Result<Value, Failure>> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let plane = std::sync::Arc::clone(&world.plane);
        let token = text(&wrap.token).to_owned();
        tasks.spawn(async move {
            let request = request(
                None,
                Write,
                "sys/wrapping/unwrap",
                json!({ "token": token }),
            );
            plane.serve(request).await.map(kept)
        });
    }
    tasks.join_all().await
}

#[tokio::test]
async fn a_wrapping_token_opens_nothing_else_and_ends() {
    let world = World::new().await;
    let fields = json!({ "a": 1, "token": "mine" });
    let wrap = wrapped(&world, Write, "sys/wrapping/wrap", fields.clone()).await;
    for (operation, path) in [
        (Read, "auth/token/lookup-self"),
        (Write, "auth/token/create"),
        (Read, "fake/items/a"),
    ] {
        let answer = world
            .ask_as(Some(text(&wrap.token)), operation, path, json!({}))
            .await;
        assert!(matches!(answer, Err(Failure::Denied)), "{path}");
    }
    // A token that is not a wrapping token is not opened, and not spent.
    let root = world.root.clone();
    assert!(spent(
        world
            .ask_as(Some(&root), Write, "sys/wrapping/unwrap", json!({}))
            .await
    ));
    let again = world
        .ask_as(
            Some(text(&wrap.token)),
            Write,
            "sys/wrapping/rewrap",
            json!({}),
        )
        .await
        .unwrap();
    let Body::Wrapped(again) = again.body else {
        panic!("not wrapped again");
    };
    assert_eq!(again.creation_path, "sys/wrapping/wrap");
    assert!(spent(unwrap(&world, &wrap).await));
    assert_eq!(unwrap(&world, &again).await.unwrap()["data"], fields);

    let late = wrapped(&world, Write, "sys/wrapping/wrap", fields).await;
    world.clock.advance(Duration::from_secs(61));
    assert!(spent(unwrap(&world, &late).await));
}

#[tokio::test]
async fn what_holds_nothing_is_not_wrapped() {
    let world = World::new().await;
    let mut asked = request(
        Some(&world.root),
        Write,
        "sys/policies/acl/p",
        json!({ "policy": "path \"a\" { capabilities = [\"read\"] }" }),
    );
    asked.wrap_ttl = Some(Duration::from_secs(60));
    let answer = world.plane.serve(asked).await.unwrap();
    assert!(matches!(answer.body, Body::Nothing));
    let refused = world
        .ask(Write, "sys/wrapping/wrap", json!({ "a": 1 }))
        .await;
    assert!(matches!(refused, Err(Failure::Invalid(text)) if text.contains("X-Vault-Wrap-TTL")));
}

#[tokio::test]
async fn nobody_fills_the_store_with_answers() {
    let world = World::new().await;
    for path in ["sys/internal/ui/mounts", "sys/leader"] {
        let mut asked = request(None, Read, path, json!({}));
        asked.wrap_ttl = Some(Duration::from_secs(60));
        let answer = world.plane.serve(asked).await.unwrap();
        assert!(!matches!(answer.body, Body::Wrapped(_)), "{path}");
    }
    assert!(keys(&world).await.is_empty());
}

#[tokio::test]
async fn a_read_whose_answer_is_kept_is_recorded_as_a_change() {
    let world = World::new().await;
    let mut asked = request(Some(&world.root), Read, "fake/items/a", json!({}));
    let id = asked.id.clone();
    asked.wrap_ttl = Some(Duration::from_secs(60));
    let answer = world.plane.serve(asked).await.unwrap();
    assert!(matches!(answer.body, Body::Wrapped(_)));
    let records = world.records_of(&id);
    let types: Vec<&Value> = records.iter().map(|record| &record["type"]).collect();
    assert_eq!(types, ["request", "response"]);
    assert_eq!(records[1]["response"]["wrap_info"]["ttl"], 60);
}

#[tokio::test]
async fn a_cubbyhole_is_its_tokens_own_and_goes_with_it() {
    let world = World::new().await;
    let made = world
        .ask(Write, "auth/token/create", json!({}))
        .await
        .unwrap();
    let Body::Auth(auth) = made.body else {
        panic!("no token");
    };
    let own = text(&auth.client_token).to_owned();
    let ask = async |token: &str, operation, path: &str, body| {
        world.ask_as(Some(token), operation, path, body).await
    };
    let value = json!({ "path": "x", "value": "quiet" });
    ask(&own, Write, "cubbyhole/a/b", value.clone())
        .await
        .unwrap();
    ask(&own, Write, "cubbyhole/c", value.clone())
        .await
        .unwrap();
    assert_eq!(
        kept(ask(&own, Read, "cubbyhole/a/b", json!({})).await.unwrap()),
        value
    );
    assert_eq!(
        kept(ask(&own, List, "cubbyhole/", json!({})).await.unwrap()),
        json!({ "keys": ["a/", "c"] })
    );
    assert_eq!(
        kept(ask(&own, List, "cubbyhole/a", json!({})).await.unwrap()),
        json!({ "keys": ["b"] })
    );
    // Not even root sees it.
    let root = world.root.clone();
    let foreign = ask(&root, Read, "cubbyhole/a/b", json!({})).await;
    assert!(matches!(foreign, Err(Failure::NotFound)));
    ask(&own, Delete, "cubbyhole/c", json!({})).await.unwrap();
    let gone = ask(&own, Read, "cubbyhole/c", json!({})).await;
    assert!(matches!(gone, Err(Failure::NotFound)));
    assert_eq!(keys(&world).await.len(), 1);
    ask(&own, Write, "auth/token/revoke-self", json!({}))
        .await
        .unwrap();
    assert!(keys(&world).await.is_empty());
}
