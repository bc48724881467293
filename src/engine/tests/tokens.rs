//! Tokens, through the API of the token auth method.

use std::time::Duration;

use daypass_contract::{Operation, Secret};
use serde_json::{Value, json};

use Operation::{Read, Write};

use crate::engine::testing::{LIMITS, World, request};
use crate::engine::{AuthView, Body, Declarations, Failure};
use crate::identity::{NewToken, Removal, TokenId, TokenKind, Validity};

async fn auth(
    world: &World,
    token: &str,
    path: &str,
    body: Value,
) -> Result<Box<AuthView>, Failure> {
    let answer = world.ask_as(Some(token), Write, path, body).await?;
    match answer.body {
        Body::Auth(auth) => Ok(auth),
        _ => panic!("{path} gives no token"),
    }
}

async fn created(world: &World, token: &str, body: Value) -> Result<Box<AuthView>, Failure> {
    auth(world, token, "auth/token/create", body).await
}

fn text(auth: &AuthView) -> String {
    auth.client_token.expose_str().unwrap().to_owned()
}

async fn id_of(world: &World, token: &str) -> TokenId {
    world.principal(token).await.unwrap().token.unwrap()
}

async fn lookup(world: &World, token: &str) -> Option<Value> {
    let answer = world
        .ask_as(Some(token), Read, "auth/token/lookup-self", json!({}))
        .await
        .ok()?;
    let Body::Data(data) = answer.body else {
        panic!("no data");
    };
    Some(serde_json::from_slice(data.expose()).unwrap())
}

fn invalid<T>(result: Result<T, Failure>) -> String {
    match result {
        Err(Failure::Invalid(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was allowed"),
    }
}

#[tokio::test]
async fn a_token_lasts_as_long_as_asked_for_and_allowed() {
    let (default, max) = (LIMITS.default.as_secs(), LIMITS.max.as_secs());
    let cases = [
        // name, body, ttl, renewable
        (
            "nothing asked",
            json!({ "policies": "default" }),
            default,
            true,
        ),
        (
            "a ttl",
            json!({ "policies": "default", "ttl": "10m" }),
            600,
            true,
        ),
        (
            "an old client's ttl",
            json!({ "policies": "default", "lease": "10m" }),
            600,
            true,
        ),
        (
            "not renewable",
            json!({ "policies": "default", "ttl": 60, "renewable": false }),
            60,
            false,
        ),
        (
            "too long",
            json!({ "policies": "default", "ttl": "9999h" }),
            max,
            true,
        ),
        (
            "longer than time",
            json!({ "policies": "default", "ttl": u64::MAX }),
            max,
            true,
        ),
        (
            "capped",
            json!({ "policies": "default", "ttl": "2h", "explicit_max_ttl": "1h" }),
            3600,
            true,
        ),
        (
            "only capped",
            json!({ "policies": "default", "explicit_max_ttl": "30m" }),
            1800,
            true,
        ),
        (
            "a period",
            json!({ "policies": "default", "period": "5m" }),
            300,
            true,
        ),
        (
            "a period and a cap without end",
            json!({ "policies": "default", "period": 300, "explicit_max_ttl": u64::MAX }),
            300,
            true,
        ),
        ("root", json!({}), 0, false),
        (
            "root with an end",
            json!({ "policies": "root", "ttl": 60 }),
            60,
            true,
        ),
    ];
    let world = World::new().await;
    for (name, body, ttl, renewable) in cases {
        let auth = created(&world, &world.root, body).await.unwrap();
        assert_eq!(auth.lease_duration, ttl, "{name}");
        assert_eq!(auth.renewable, renewable, "{name}");
        let token = text(&auth);
        let found = lookup(&world, &token).await.unwrap();
        assert_eq!(found["ttl"], ttl, "{name}");
        if ttl == 0 {
            assert!(found["expire_time"].is_null(), "{name}");
            continue;
        }
        let start = daypass_contract::Clock::now(&*world.clock);
        world.clock.advance(Duration::from_secs(ttl - 1));
        assert!(world.principal(&token).await.is_some(), "{name} ends early");
        world.clock.advance(Duration::from_secs(1));
        assert!(world.principal(&token).await.is_none(), "{name} ends late");
        world.settled().await;
        world.clock.set(start);
    }
}

#[tokio::test]
async fn renewing_gives_what_was_asked_for_and_never_more_than_the_cap() {
    let cases = [
        // name, created with, after seconds, increment, seconds then, refused
        (
            "the first ttl again",
            json!({ "ttl": 600 }),
            300,
            json!(0),
            600,
            false,
        ),
        (
            "an increment",
            json!({ "ttl": 600 }),
            300,
            json!(50),
            50,
            false,
        ),
        (
            "up to the maximum",
            json!({ "ttl": "24h" }),
            80_000,
            json!("24h"),
            6_400,
            false,
        ),
        (
            "beyond all time",
            json!({ "ttl": 600 }),
            1,
            json!(u64::MAX),
            86_399,
            false,
        ),
        (
            "up to its own cap",
            json!({ "ttl": 600, "explicit_max_ttl": 900 }),
            500,
            json!(600),
            400,
            false,
        ),
        (
            "a period, whatever is asked",
            json!({ "period": 300 }),
            299,
            json!(9_999),
            300,
            false,
        ),
        (
            "not renewable",
            json!({ "ttl": 600, "renewable": false }),
            1,
            json!(60),
            0,
            true,
        ),
        (
            "batch",
            json!({ "ttl": 600, "type": "batch" }),
            1,
            json!(60),
            0,
            true,
        ),
    ];
    let world = World::new().await;
    for (name, mut body, after, increment, then, refused) in cases {
        body["policies"] = json!("default");
        let token = text(&created(&world, &world.root, body).await.unwrap());
        world.clock.advance(Duration::from_secs(after));
        let ask = json!({ "increment": increment });
        let renewed = auth(&world, &token, "auth/token/renew-self", ask).await;
        if refused {
            invalid(renewed);
            continue;
        }
        let renewed = renewed.unwrap_or_else(|failure| panic!("{name}: {failure}"));
        assert_eq!(renewed.lease_duration, then, "{name}");
        world.clock.advance(Duration::from_secs(then - 1));
        world.settled().await;
        assert!(
            world.principal(&token).await.is_some(),
            "{name}: it ended early"
        );
        world.clock.advance(Duration::from_secs(1));
        assert!(
            world.principal(&token).await.is_none(),
            "{name}: it goes on"
        );
    }
}

#[tokio::test]
async fn a_periodic_token_lives_as_long_as_it_is_renewed() {
    let world = World::new().await;
    let body = json!({ "policies": "default", "period": "1h" });
    let token = text(&created(&world, &world.root, body).await.unwrap());
    for _ in 0..48 {
        world.clock.advance(Duration::from_secs(3599));
        world.settled().await;
        let renewed = auth(&world, &token, "auth/token/renew-self", json!({})).await;
        assert_eq!(renewed.unwrap().lease_duration, 3600);
    }
    world.clock.advance(Duration::from_secs(3600));
    assert!(
        auth(&world, &token, "auth/token/renew-self", json!({}))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_token_that_has_ended_is_not_brought_back() {
    let world = World::new().await;
    let body = json!({ "policies": "default", "ttl": 60 });
    let token = text(&created(&world, &world.root, body).await.unwrap());
    let id = id_of(&world, &token).await;
    world.clock.advance(Duration::from_secs(60));
    let later = daypass_contract::Clock::now(&*world.clock) + Duration::from_secs(600);
    assert!(world.engine().tokens.renew(&id, later).await.is_err());
}

#[tokio::test]
async fn uses_are_counted_exactly_whoever_comes_at_the_same_time() {
    let world = World::new().await;
    let body = json!({ "policies": "default", "num_uses": 25 });
    let token = text(&created(&world, &world.root, body).await.unwrap());
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let plane = std::sync::Arc::clone(&world.plane);
        let asked = request(Some(&token), Read, "auth/token/lookup-self", json!({}));
        asking.spawn(async move { plane.serve(asked).await.map(drop) });
    }
    let mut served = 0;
    while let Some(answer) = asking.join_next().await {
        match answer.unwrap() {
            Ok(()) => served += 1,
            Err(failure) => assert!(matches!(failure, Failure::Denied), "{failure:?}"),
        }
    }
    assert_eq!(served, 25);
    assert!(world.principal(&token).await.is_none());
}

#[tokio::test]
async fn a_parent_in_use_does_not_keep_a_child_from_being_made() {
    let world = World::new().await;
    let body = json!({ "policies": "root", "ttl": "1h" });
    let parent = text(&created(&world, &world.root, body).await.unwrap());
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..40 {
        let plane = std::sync::Arc::clone(&world.plane);
        let path = match number % 2 {
            0 => "auth/token/create",
            _ => "auth/token/renew-self",
        };
        let body = json!({ "policies": "default" });
        let asked = request(Some(&parent), Write, path, body);
        asking.spawn(async move { plane.serve(asked).await.map(drop) });
    }
    while let Some(answer) = asking.join_next().await {
        answer.unwrap().unwrap();
    }
}

/// A token of `parent`, made beside the API, so that trees of any form are cheap.
async fn child(world: &World, parent: Option<&TokenId>) -> (String, TokenId) {
    let new = NewToken {
        kind: TokenKind::Service,
        text: None,
        parent: parent.cloned(),
        policies: vec!["root".into()],
        path: "auth/token/create".into(),
        display_name: "token".into(),
        meta: std::collections::BTreeMap::new(),
        validity: Validity::default(),
        uses: None,
        entity_id: None,
        origin: None,
        role: None,
        bound_cidrs: Vec::new(),
    };
    let (text, principal) = world.engine().tokens.create(new).await.unwrap();
    (
        text.expose_str().unwrap().to_owned(),
        principal.token.unwrap(),
    )
}

/// A root with a chain of 70 below it and, halfway, 600 side by side. All have a lease of their own.
async fn tree(world: &World) -> (TokenId, Vec<String>) {
    let (text, root) = child(world, None).await;
    let (mut texts, mut last) = (vec![text], root.clone());
    for depth in 0..70 {
        if depth == 35 {
            for _ in 0..600 {
                texts.push(child(world, Some(&last)).await.0);
            }
        }
        let (text, id) = child(world, Some(&last)).await;
        world.issue(Some(&text), "fake", 3600).await.unwrap();
        texts.push(text);
        last = id;
    }
    (root, texts)
}

async fn gone(world: &World, texts: &[String]) {
    world.clock.advance(Duration::from_secs(60));
    world.settled().await;
    for text in texts {
        assert!(world.principal(text).await.is_none());
    }
    assert!(world.upstream.live().is_empty());
    assert!(world.leases().await.is_empty());
    let left = world.barrier.keys("token/", None, 10).await.unwrap();
    let mine: Vec<_> = left.iter().filter(|key| key.contains("/c/")).collect();
    assert!(mine.is_empty(), "{mine:?}");
    assert_eq!(left.len(), 1, "only the test's own root is left: {left:?}");
}

#[tokio::test]
async fn a_tree_goes_with_its_root_however_deep_and_wide() {
    let world = World::new().await;
    let (root, texts) = tree(&world).await;
    world
        .engine()
        .revoke_token(&root, Removal::WithChildren)
        .await
        .unwrap();
    gone(&world, &texts).await;
}

#[tokio::test]
async fn a_tree_goes_also_where_a_crash_comes_between() {
    for (writes, keep_last) in [
        (1, true),
        (1, false),
        (2, true),
        (4, false),
        (8, true),
        (11, false),
    ] {
        let mut world = World::new().await;
        let (root, texts) = tree(&world).await;
        world.storage.crash_after(writes, keep_last);
        let revoked = world
            .engine()
            .revoke_token(&root, Removal::WithChildren)
            .await;
        assert!(revoked.is_err(), "{writes}");
        world.crash(Declarations::default()).await;
        if writes == 1 && !keep_last {
            // Nothing was kept, and the caller was told so.
            assert_eq!(world.upstream.live().len(), 70);
            continue;
        }
        gone(&world, &texts).await;
    }
}

#[tokio::test]
async fn orphans_live_on_also_where_a_crash_comes_between() {
    for crash in [None, Some(1), Some(2), Some(3)] {
        let mut world = World::new().await;
        let (parent_text, parent) = child(&world, None).await;
        let mut children = Vec::new();
        for _ in 0..8 {
            children.push(child(&world, Some(&parent)).await);
        }
        if let Some(writes) = crash {
            world.storage.crash_after(writes, true);
        }
        let body = json!({ "token": parent_text });
        let revoked = world.ask(Write, "auth/token/revoke-orphan", body).await;
        if crash.is_some() {
            assert!(revoked.is_err());
            world.crash(Declarations::default()).await;
        } else {
            revoked.unwrap();
        }
        world.clock.advance(Duration::from_secs(60));
        world.settled().await;
        assert!(world.principal(&parent_text).await.is_none());
        for (text, _) in &children {
            let principal = world.principal(text).await;
            assert!(
                principal.is_some_and(|p| p.record.parent.is_none()),
                "crash {crash:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_child_goes_with_its_parent_and_an_orphan_does_not() {
    let world = World::new().await;
    let parent = text(&created(&world, &world.root, json!({})).await.unwrap());
    let mine = created(&world, &parent, json!({})).await.unwrap();
    let orphan = auth(&world, &parent, "auth/token/create-orphan", json!({}))
        .await
        .unwrap();
    let unparented = created(&world, &parent, json!({ "no_parent": true }))
        .await
        .unwrap();
    let batch = json!({ "type": "batch", "policies": "default" });
    let batch = created(&world, &parent, batch).await.unwrap();
    assert!(!mine.orphan && orphan.orphan && unparented.orphan && !batch.orphan);
    assert!(world.principal(&text(&batch)).await.is_some());
    world
        .ask_as(Some(&parent), Write, "auth/token/revoke-self", json!({}))
        .await
        .unwrap();
    for (name, auth, alive) in [
        ("child", mine, false),
        ("batch token", batch, false),
        ("orphan", orphan, true),
        ("without parent", unparented, true),
    ] {
        assert_eq!(
            world.principal(&text(&auth)).await.is_some(),
            alive,
            "{name}"
        );
    }
}

#[tokio::test]
async fn leases_of_a_batch_token_hang_on_its_parent() {
    let world = World::new().await;
    let rules = r#"path "fake/*" { capabilities = ["read"] }"#;
    world.engine().policies.put("app", rules).await.unwrap();
    let parent = text(&created(&world, &world.root, json!({})).await.unwrap());
    let body = json!({ "type": "batch", "policies": "app", "ttl": "1h" });
    let batch = text(&created(&world, &parent, body).await.unwrap());
    world.issue(Some(&batch), "fake", 600).await.unwrap();
    let body = json!({ "token": parent });
    world.ask(Write, "auth/token/revoke", body).await.unwrap();
    world.settled().await;
    assert!(world.upstream.live().is_empty());
}

#[tokio::test]
async fn nothing_but_the_whole_token_opens() {
    let world = World::new().await;
    let auth = created(&world, &world.root, json!({})).await.unwrap();
    let service = text(&auth);
    let batch = json!({ "type": "batch", "policies": "default" });
    let batch = text(&created(&world, &world.root, batch).await.unwrap());
    let other = World::new().await;
    // The same id with another secret, well-formed: only the hash tells.
    let id = id_of(&world, &service).await;
    let forged = crate::identity::TokenText::generate(&id, &*world.entropy);
    let forged = forged.expose_str().unwrap().to_owned();
    let mut flipped = batch.clone().into_bytes();
    let middle = flipped.len() / 2;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).unwrap();
    let mut shorter = service.clone();
    shorter.pop();
    let cases = [
        ("the token", service.clone(), true),
        ("a batch token", batch.clone(), true),
        ("its accessor", auth.accessor.clone(), false),
        ("its id", id.as_str().to_owned(), false),
        ("another secret under its id", forged, false),
        ("in capitals", service.to_uppercase(), false),
        ("with a letter more", format!("{service}A"), false),
        ("with a letter less", shorter, false),
        ("an altered batch token", flipped, false),
        ("a batch token of nothing", "dpb_".to_owned(), false),
        ("a service token of nothing", "dps_".to_owned(), false),
        ("the word root", "root".to_owned(), false),
    ];
    for (name, text, opens) in cases {
        assert_eq!(world.principal(&text).await.is_some(), opens, "{name}");
    }
    other.clock.advance(Duration::from_secs(1));
    let bytes = Secret::new([0xff, 0xfe]);
    let found = world.engine().tokens.authenticate(&bytes).await.unwrap();
    assert!(found.is_none());
}

#[tokio::test]
async fn who_may_create_what() {
    let world = World::new().await;
    let engine = world.engine();
    let create = r#"path "auth/token/create" { capabilities = ["update"] }"#;
    engine.policies.put("maker", create).await.unwrap();
    let sudo = r#"path "auth/token/create" { capabilities = ["update", "sudo"] }"#;
    engine.policies.put("sudoer", sudo).await.unwrap();
    let maker = json!({ "policies": ["maker", "app"] });
    let maker = text(&created(&world, &world.root, maker).await.unwrap());
    let sudoer = json!({ "policies": ["sudoer"] });
    let sudoer = text(&created(&world, &world.root, sudoer).await.unwrap());
    let ending = json!({ "policies": ["root"], "ttl": 600 });
    let ending = text(&created(&world, &world.root, ending).await.unwrap());
    let limited = json!({ "policies": ["root"], "num_uses": 9 });
    let limited = text(&created(&world, &world.root, limited).await.unwrap());
    let batch = json!({ "policies": ["maker"], "type": "batch" });
    let batch = text(&created(&world, &world.root, batch).await.unwrap());
    let root = &world.root;
    let cases = [
        // name, by, body, allowed
        ("its own policies", &maker, json!({}), true),
        (
            "one of its own",
            &maker,
            json!({ "policies": ["app"] }),
            true,
        ),
        ("default", &maker, json!({ "policies": ["default"] }), true),
        (
            "somebody else's",
            &maker,
            json!({ "policies": ["other"] }),
            false,
        ),
        ("root", &maker, json!({ "policies": ["root"] }), false),
        ("Root", &maker, json!({ "policies": [" Root "] }), false),
        ("no parent", &maker, json!({ "no_parent": true }), false),
        ("a period", &maker, json!({ "period": 60 }), false),
        ("its text", &maker, json!({ "id": "mine" }), false),
        (
            "anything with sudo",
            &sudoer,
            json!({ "policies": ["other"], "period": 60, "no_parent": true }),
            true,
        ),
        (
            "root with sudo",
            &sudoer,
            json!({ "policies": ["root"] }),
            false,
        ),
        (
            "its text with sudo",
            &sudoer,
            json!({ "id": "mine" }),
            false,
        ),
        ("root by root", root, json!({ "policies": ["root"] }), true),
        ("a text by root", root, json!({ "id": "chosen" }), true),
        (
            "the same text again",
            root,
            json!({ "id": "chosen" }),
            false,
        ),
        ("no text", root, json!({ "id": "" }), true),
        (
            "a text like a token of ours",
            root,
            json!({ "id": "dps_x" }),
            false,
        ),
        (
            "a text with a namespace",
            root,
            json!({ "id": "a.b" }),
            false,
        ),
        (
            "a root batch token",
            root,
            json!({ "type": "batch" }),
            false,
        ),
        (
            "a batch token with uses",
            root,
            json!({ "type": "batch", "policies": "app", "num_uses": 1 }),
            false,
        ),
        ("an unknown type", root, json!({ "type": "other" }), false),
        (
            "root without end by root with one",
            &ending,
            json!({ "policies": ["root"] }),
            false,
        ),
        (
            "root with an end by root with one",
            &ending,
            json!({ "policies": ["root"], "ttl": 60 }),
            true,
        ),
        (
            "anything by one with few uses",
            &limited,
            json!({ "policies": ["app"] }),
            false,
        ),
        ("anything by a batch token", &batch, json!({}), false),
    ];
    for (name, by, body, allowed) in cases {
        match created(&world, by, body).await {
            Ok(_) => assert!(allowed, "{name} was allowed"),
            Err(Failure::Invalid(text)) => {
                assert!(!allowed, "{name}: {text}");
                assert!(!text.contains("other"), "{name} quotes: {text}");
            }
            Err(other) => panic!("{name}: {other:?}"),
        }
    }
    assert!(world.principal("chosen").await.is_some());
}

#[tokio::test]
async fn accessors_look_up_renew_and_revoke() {
    let world = World::new().await;
    let body = json!({ "policies": "default", "ttl": 600 });
    let made = created(&world, &world.root, body).await.unwrap();
    let by = json!({ "accessor": made.accessor });
    let answer = world
        .ask(Write, "auth/token/lookup-accessor", by.clone())
        .await
        .unwrap();
    let Body::Data(data) = answer.body else {
        panic!("no data");
    };
    let found: Value = serde_json::from_slice(data.expose()).unwrap();
    assert_eq!(found["id"], "", "the token itself is not told");
    assert_eq!(found["accessor"], made.accessor);
    let renewed = auth(&world, &world.root, "auth/token/renew-accessor", by.clone())
        .await
        .unwrap();
    assert!(renewed.client_token.is_empty());
    world
        .ask(Write, "auth/token/revoke-accessor", by.clone())
        .await
        .unwrap();
    assert!(world.principal(&text(&made)).await.is_none());
    for path in ["lookup-accessor", "renew-accessor", "revoke-accessor"] {
        let path = format!("auth/token/{path}");
        assert!(matches!(
            world.ask(Write, &path, by.clone()).await,
            Err(Failure::Denied)
        ));
        assert!(matches!(
            world.ask(Write, &path, json!({})).await,
            Err(Failure::Invalid(_))
        ));
    }
}
