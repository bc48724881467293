//! Logins from end to end: by password, because that is an auth method with nothing outside.

use std::time::Duration;

use daypass_contract::Operation::{self, Delete, Read, Write};
use serde_json::{Value, json};

use crate::engine::testing::World;
use crate::engine::{AuthView, Body, Failure, LockoutLimits, Settings};

const PASSWORD: &str = "correct horse";

/// A world with an auth method and a user `ann` in it.
async fn world(user: Value) -> World {
    let settings = Settings {
        lockout: LockoutLimits {
            threshold: 3,
            ..LockoutLimits::default()
        },
        ..Settings::default()
    };
    let world = World::with(settings).await;
    let enable = json!({ "type": "userpass" });
    world.ask(Write, "sys/auth/people", enable).await.unwrap();
    let mut body = json!({ "password": PASSWORD });
    for (name, value) in user.as_object().unwrap() {
        body[name] = value.clone();
    }
    world
        .ask(Write, "auth/people/users/ann", body)
        .await
        .unwrap();
    world
}

async fn login(world: &World, password: &str) -> Result<AuthView, Failure> {
    let body = json!({ "password": password });
    let answer = world
        .ask_as(None, Write, "auth/people/login/ann", body)
        .await?;
    match answer.body {
        Body::Auth(auth) => Ok(*auth),
        _ => panic!("a login gives a token"),
    }
}

fn text(auth: &AuthView) -> &str {
    auth.client_token.expose_str().unwrap()
}

async fn lives(world: &World, auth: &AuthView) -> bool {
    let me = world.ask_as(Some(text(auth)), Read, "auth/token/lookup-self", json!({}));
    me.await.is_ok()
}

async fn data(world: &World, operation: Operation, path: &str, body: Value) -> Value {
    match world.ask(operation, path, body).await.unwrap().body {
        Body::Data(data) => serde_json::from_slice(data.expose()).unwrap(),
        _ => panic!("{path} has no data"),
    }
}

async fn grant(world: &World, name: &str, path: &str) {
    let policy = format!("path \"{path}\" {{ capabilities = [\"read\"] }}");
    let path = format!("sys/policies/acl/{name}");
    world
        .ask(Write, &path, json!({ "policy": policy }))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_login_is_an_entity_with_all_that_its_entity_and_groups_give() {
    let world = world(json!({ "token_policies": "own", "token_ttl": "10m" })).await;
    for (name, path) in [
        ("own", "fake/items/a"),
        ("entity", "fake/items/b"),
        ("group", "fake/items/c"),
    ] {
        grant(&world, name, path).await;
    }
    let auth = login(&world, PASSWORD).await.unwrap();
    assert_eq!(auth.policies, ["default", "own"]);
    assert_eq!(
        (auth.lease_duration, auth.orphan, auth.renewable),
        (600, true, true)
    );
    let again = login(&world, PASSWORD).await.unwrap();
    assert_eq!(auth.entity_id, again.entity_id);
    assert!(!auth.entity_id.is_empty());

    let may = async |auth: &AuthView, path: &str| {
        world
            .ask_as(Some(text(auth)), Read, path, json!({}))
            .await
            .is_ok()
    };
    assert!(may(&auth, "fake/items/a").await && !may(&auth, "fake/items/b").await);
    // What the entity gets later counts for the token it has.
    let path = format!("identity/entity/id/{}", auth.entity_id);
    world
        .ask(Write, &path, json!({ "policies": ["entity"] }))
        .await
        .unwrap();
    let group =
        json!({ "name": "g", "policies": ["group"], "member_entity_ids": [auth.entity_id] });
    world.ask(Write, "identity/group", group).await.unwrap();
    for path in ["fake/items/a", "fake/items/b", "fake/items/c"] {
        assert!(may(&auth, path).await, "{path}");
    }
    let later = login(&world, PASSWORD).await.unwrap();
    assert_eq!(later.identity_policies, ["entity", "group"]);
    assert_eq!(later.policies, ["default", "entity", "group", "own"]);
    assert_eq!(later.token_policies, ["default", "own"]);
    world
        .ask(Delete, "identity/group/name/g", json!({}))
        .await
        .unwrap();
    assert!(!may(&auth, "fake/items/c").await);
}

#[tokio::test]
async fn what_a_disabled_entity_holds_is_revoked_and_it_does_not_come_back() {
    for kind in ["service", "batch"] {
        let world = world(json!({ "token_policies": "issue", "token_type": kind })).await;
        grant(&world, "issue", "fake/creds/role").await;
        let auth = login(&world, PASSWORD).await.unwrap();
        let lease = world.issue(Some(text(&auth)), "fake", 600).await.unwrap();
        assert!(world.upstream.live().contains(&lease.1));
        let path = format!("identity/entity/id/{}", auth.entity_id);
        world
            .ask(Write, &path, json!({ "disabled": true }))
            .await
            .unwrap();
        assert!(!lives(&world, &auth).await, "{kind}");
        world.settled().await;
        assert!(world.upstream.live().is_empty(), "{kind}");
        assert!(matches!(
            login(&world, PASSWORD).await,
            Err(Failure::Denied)
        ));
        world
            .ask(Write, &path, json!({ "disabled": false }))
            .await
            .unwrap();
        assert!(login(&world, PASSWORD).await.is_ok());
    }
}

#[tokio::test]
async fn the_tokens_of_an_auth_method_end_with_it() {
    for kind in ["service", "batch"] {
        let world = world(json!({ "token_type": kind })).await;
        let auth = login(&world, PASSWORD).await.unwrap();
        assert!(lives(&world, &auth).await);
        world
            .ask(Delete, "sys/auth/people", json!({}))
            .await
            .unwrap();
        assert!(!lives(&world, &auth).await, "{kind}");
        let entity = format!("identity/entity/id/{}", auth.entity_id);
        let entity = data(&world, Read, &entity, json!({})).await;
        assert_eq!(entity["aliases"], json!([]), "{kind}");
    }
}

#[tokio::test]
async fn a_name_that_is_guessed_at_is_locked_out_for_a_while() {
    let world = world(json!({})).await;
    for _ in 0..3 {
        let wrong = login(&world, "wrong").await;
        assert!(matches!(wrong, Err(Failure::Invalid(_))));
    }
    assert!(matches!(
        login(&world, PASSWORD).await,
        Err(Failure::Denied)
    ));
    let locked = data(&world, Read, "sys/locked-users", json!({})).await;
    assert_eq!(locked["total"], 1);
    let accessor = &locked["by_namespace"][0]["mount_accessors"][0]["mount_accessor"];
    let unlock = format!("sys/locked-users/{}/unlock/ann", accessor.as_str().unwrap());
    world.ask(Write, &unlock, json!({})).await.unwrap();
    assert!(login(&world, PASSWORD).await.is_ok());
    for _ in 0..3 {
        let _ = login(&world, "wrong").await;
    }
    assert!(login(&world, PASSWORD).await.is_err());
    world.clock.advance(Duration::from_mins(15));
    assert!(login(&world, PASSWORD).await.is_ok());
}

#[tokio::test]
async fn a_renewal_asks_the_auth_method_again() {
    let world = world(json!({ "token_ttl": 60, "token_max_ttl": 100 })).await;
    let auth = login(&world, PASSWORD).await.unwrap();
    let renew = async || {
        let answer = world
            .ask_as(Some(text(&auth)), Write, "auth/token/renew-self", json!({}))
            .await?;
        match answer.body {
            Body::Auth(auth) => Ok(auth.lease_duration),
            _ => panic!("no token"),
        }
    };
    assert_eq!(renew().await.unwrap(), 60);
    world.clock.advance(Duration::from_secs(50));
    assert_eq!(renew().await.unwrap(), 50, "the role's maximum counts");
    world
        .ask(
            Write,
            "auth/people/users/ann",
            json!({ "token_max_ttl": 70 }),
        )
        .await
        .unwrap();
    assert_eq!(renew().await.unwrap(), 20, "and so does a new one");
    world
        .ask(Delete, "auth/people/users/ann", json!({}))
        .await
        .unwrap();
    assert!(matches!(renew().await, Err(Failure::Invalid(_))));
}

#[tokio::test]
async fn a_token_stands_for_an_alias_where_its_role_allows_it() {
    let world = world(json!({})).await;
    let role = json!({ "allowed_entity_aliases": "ci-*", "allowed_policies": "a" });
    world.ask(Write, "auth/token/roles/ci", role).await.unwrap();
    let create = async |alias: &str| {
        let answer = world
            .ask(
                Write,
                "auth/token/create/ci",
                json!({ "entity_alias": alias }),
            )
            .await?;
        match answer.body {
            Body::Auth(auth) => Ok::<_, Failure>(auth.entity_id),
            _ => panic!("no token"),
        }
    };
    let first = create("CI-web").await.unwrap();
    assert!(!first.is_empty());
    assert_eq!(create("ci-web").await.unwrap(), first);
    assert_ne!(create("ci-db").await.unwrap(), first);
    assert!(create("root").await.is_err());
    let without = world
        .ask(
            Write,
            "auth/token/create",
            json!({ "entity_alias": "ci-web" }),
        )
        .await;
    assert!(matches!(without, Err(Failure::Invalid(text)) if text.contains("token role")));
}
