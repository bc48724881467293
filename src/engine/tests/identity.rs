//! Identity through the API: what an entity gives its tokens, and what it takes from them.

use std::time::Duration;

use daypass_contract::{Clock as _, Operation, Secret};
use serde_json::{Value, json};

use crate::engine::testing::World;
use crate::engine::{Answer, Body, Failure};
use crate::identity::{KeyPatch, NewToken, RolePatch, TokenKind, Validity};

use Operation::{List, Read, Write};

fn data(answer: &Answer) -> Value {
    match &answer.body {
        Body::Data(json) | Body::Plain { json, .. } => {
            serde_json::from_slice(json.expose()).unwrap()
        }
        Body::Raw { bytes, .. } => serde_json::from_slice(bytes).unwrap(),
        _ => Value::Null,
    }
}

async fn ask(world: &World, operation: Operation, path: &str, body: Value) -> Value {
    let answer = world.ask(operation, path, body).await;
    data(&answer.unwrap_or_else(|failure| panic!("{path}: {failure}")))
}

/// A token that stands for an entity, as a login makes it.
async fn token_of(world: &World, entity: &str, policies: &[&str]) -> String {
    let (text, _) = world
        .engine()
        .tokens
        .create(NewToken {
            kind: TokenKind::Service,
            text: None,
            parent: None,
            policies: policies.iter().map(|policy| (*policy).to_owned()).collect(),
            path: "auth/test/login".into(),
            display_name: "test".into(),
            meta: std::collections::BTreeMap::new(),
            validity: Validity {
                ttl: Some(Duration::from_secs(3600)),
                ..Validity::default()
            },
            uses: None,
            entity_id: Some(entity.to_owned()),
            origin: None,
            role: None,
            bound_cidrs: Vec::new(),
        })
        .await
        .unwrap();
    text.expose_str().unwrap().to_owned()
}

async fn entity(world: &World, name: &str) -> String {
    let made = ask(world, Write, "identity/entity", json!({ "name": name })).await;
    made["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn tokens_end_with_the_standing_of_their_entity() {
    let world = World::new().await;
    let cases = [
        ("disabled", json!({ "disabled": true })),
        ("ended", json!({ "ends_at": "1970-01-02T00:00:00Z" })),
        ("deleted", Value::Null),
    ];
    for (name, change) in cases {
        let id = entity(&world, name).await;
        let token = token_of(&world, &id, &["root"]).await;
        let (_, credential) = world.issue(Some(&token), "fake", 600).await.unwrap();
        assert!(world.upstream.live().contains(&credential));
        let path = format!("identity/entity/id/{id}");
        let operation = match change {
            Value::Null => Operation::Delete,
            _ => Write,
        };
        ask(&world, operation, &path, change).await;
        let answer = world
            .ask_as(Some(&token), Read, "auth/token/lookup-self", Value::Null)
            .await;
        assert!(matches!(answer, Err(Failure::Denied)), "{name}");
        world.settled().await;
        assert!(!world.upstream.live().contains(&credential), "{name}");
        assert!(
            world.principal(&token).await.is_none(),
            "{name}: the record itself is gone"
        );
    }
}

#[tokio::test]
async fn a_crash_between_disabling_and_revoking_forgets_nothing() {
    let mut world = World::new().await;
    let id = entity(&world, "a").await;
    let token = token_of(&world, &id, &["root"]).await;
    let (_, credential) = world.issue(Some(&token), "fake", 600).await.unwrap();
    // As the store would, were the process to die right after the write.
    let patch = crate::identity::EntityPatch {
        disabled: Some(true),
        ..crate::identity::EntityPatch::default()
    };
    let engine = world.engine();
    let which = crate::identity::Which::Id(&id);
    engine.identity.put_entity(which, patch).await.unwrap();
    drop(engine);
    world.crash(crate::engine::Declarations::default()).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while world.upstream.live().contains(&credential) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "it still opens something"
        );
        world.settled().await;
    }
}

#[tokio::test]
async fn an_entity_ends_by_itself() {
    let world = World::new().await;
    let end = time::OffsetDateTime::from(world.clock.now() + Duration::from_secs(60));
    let end = end
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap();
    let body = json!({ "name": "guest", "ends_at": end, "owner": "ann", "environment": "ci" });
    ask(&world, Write, "identity/entity", body).await;
    let shown = ask(&world, Read, "identity/entity/name/guest", Value::Null).await;
    assert_eq!(
        (&shown["owner"], &shown["environment"]),
        (&json!("ann"), &json!("ci"))
    );
    let token = token_of(&world, shown["id"].as_str().unwrap(), &["default"]).await;
    let look = || world.ask_as(Some(&token), Read, "auth/token/lookup-self", Value::Null);
    assert!(look().await.is_ok());
    world.clock.advance(Duration::from_secs(60));
    assert!(matches!(look().await, Err(Failure::Denied)));
}

#[tokio::test]
async fn groups_add_policies_to_a_token_while_it_lives() {
    let world = World::new().await;
    let id = entity(&world, "a").await;
    let rules = r#"path "fake/items/*" { capabilities = ["read"] }"#;
    ask(
        &world,
        Write,
        "sys/policies/acl/items",
        json!({ "policy": rules }),
    )
    .await;
    let token = token_of(&world, &id, &["default"]).await;
    let read = || world.ask_as(Some(&token), Read, "fake/items/a", Value::Null);
    assert!(matches!(read().await, Err(Failure::Denied)));
    let body = json!({ "name": "readers", "policies": "items", "member_entity_ids": [id] });
    ask(&world, Write, "identity/group", body).await;
    assert!(read().await.is_ok());
    ask(
        &world,
        Operation::Delete,
        "identity/group/name/readers",
        Value::Null,
    )
    .await;
    assert!(matches!(read().await, Err(Failure::Denied)));
}

#[tokio::test]
async fn signing_keys_are_published_before_they_sign_and_for_long_enough_after() {
    let world = World::new().await;
    let engine = world.engine();
    let id = entity(&world, "a").await;
    let standing = engine.identity.standing(&id).await.unwrap().unwrap();
    engine
        .oidc
        .set_base("https://daypass.example:8200")
        .await
        .unwrap();
    let hour = Duration::from_secs(3600);
    let key = KeyPatch {
        algorithm: Some("ES256".into()),
        rotation_period: Some(hour),
        verification_ttl: Some(2 * hour),
        allowed_client_ids: Some(vec!["*".into()]),
    };
    engine.oidc.put_key("k", key).await.unwrap();
    let role = RolePatch {
        key: Some("k".into()),
        ttl: Some(2 * hour),
        ..RolePatch::default()
    };
    engine.oidc.put_role("r", role).await.unwrap();
    let kids = async || -> Vec<String> {
        let set = engine.oidc.key_set().await.unwrap();
        let keys = set["keys"].as_array().unwrap();
        keys.iter()
            .map(|key| key["kid"].as_str().unwrap().to_owned())
            .collect()
    };
    let mut published = kids().await;
    for round in 0..4 {
        let signed = engine.oidc.token("r", &standing).await.unwrap().token;
        let header = signed.split('.').next().unwrap();
        let header =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, header);
        let header: Value = serde_json::from_slice(&header.unwrap()).unwrap();
        let kid = header["kid"].as_str().unwrap().to_owned();
        assert!(
            published.contains(&kid),
            "round {round}: known one rotation before"
        );
        published = kids().await;
        let active = async || {
            let found = engine
                .oidc
                .introspect(&signed, None, &engine.identity)
                .await
                .unwrap();
            found.is_ok()
        };
        assert!(active().await);
        world.clock.advance(hour);
        let next = engine.oidc.maintain().await.unwrap().unwrap();
        assert!(next >= world.clock.now());
        assert!(active().await, "round {round}: after one rotation");
        assert!(kids().await.contains(&kid));
        assert!(kids().await.len() <= 2 + 2, "old ones are forgotten");
    }
    let last = engine.oidc.token("r", &standing).await.unwrap().token;
    world.clock.advance(2 * hour);
    let found = engine
        .oidc
        .introspect(&last, None, &engine.identity)
        .await
        .unwrap();
    assert!(found.unwrap_err().contains("expired"));
}

#[tokio::test]
async fn whoever_has_no_standing_gets_no_identity_token() {
    let world = World::new().await;
    let id = entity(&world, "a").await;
    let token = token_of(&world, &id, &["root"]).await;
    let path = "identity/oidc/token/r";
    let key = json!({ "algorithm": "EdDSA", "allowed_client_ids": "other" });
    ask(&world, Write, "identity/oidc/key/k", key).await;
    ask(&world, Write, "identity/oidc/role/r", json!({ "key": "k" })).await;
    let refusal = async |token: &str| {
        let answer = world.ask_as(Some(token), Read, path, Value::Null).await;
        match answer {
            Err(Failure::Invalid(text)) => text,
            _ => panic!("not refused"),
        }
    };
    assert!(refusal(&world.root).await.contains("no entity"));
    assert!(
        refusal(&token)
            .await
            .contains("does not list the client ID")
    );
    ask(
        &world,
        Write,
        "identity/oidc/key/k",
        json!({ "allowed_client_ids": "*" }),
    )
    .await;
    assert!(refusal(&token).await.contains("no issuer is set"));
    ask(
        &world,
        Write,
        "identity/oidc/config",
        json!({ "issuer": "https://a.example" }),
    )
    .await;
    let signed = data(
        &world
            .ask_as(Some(&token), Read, path, Value::Null)
            .await
            .unwrap(),
    );
    let body = json!({ "token": signed["token"] });
    let said = ask(&world, Write, "identity/oidc/introspect", body).await;
    assert_eq!(said, json!({ "active": true }));
    let public = world
        .ask_as(None, Read, "identity/oidc/.well-known/keys", Value::Null)
        .await;
    assert_eq!(data(&public.unwrap())["keys"].as_array().unwrap().len(), 2);
    let secret = Secret::new(signed["token"].as_str().unwrap());
    assert!(
        !world.log_text().contains(secret.expose_str().unwrap()),
        "logged in clear"
    );
    let listed = ask(&world, List, "identity/entity/id", Value::Null).await;
    assert_eq!(listed["key_info"][&id], json!({ "name": "a" }));
}
