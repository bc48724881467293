//! Mounts: enabling, tuning, moving and disabling them, and what a restart keeps.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use daypass_contract::Operation;
use serde_json::{Value, json};

use Operation::{Delete, Read, Write};

use crate::config;
use crate::engine::testing::{LIMITS, Mood, World};
use crate::engine::{Answer, Body, Declarations, Failure};

fn data(answer: Answer) -> Value {
    match answer.body {
        Body::Data(json) | Body::Flat(json) => serde_json::from_slice(json.expose()).unwrap(),
        _ => panic!("no data"),
    }
}

fn invalid(result: Result<Answer, Failure>) -> String {
    match result {
        Err(Failure::Invalid(text) | Failure::Unsupported(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was allowed"),
    }
}

#[tokio::test]
async fn a_mount_goes_where_nothing_is() {
    let world = World::new().await;
    world.mount("team/a").await.unwrap();
    let cases = [
        // path, part of the refusal
        ("fake", Some("already in use at fake/")),
        ("fake/", Some("already in use at fake/")),
        ("fake/below", Some("already in use at fake/")),
        ("team", Some("already in use at team/a/")),
        ("team/a/b", Some("already in use at team/a/")),
        ("team/ab", None),
        ("tea", None),
        ("sys", Some("reserved")),
        ("sys/x", Some("reserved")),
        ("auth/token", Some("reserved")),
        ("auth/x", Some("no such backend")),
        ("identity", Some("reserved")),
        ("cubbyhole", Some("reserved")),
        ("", Some("must be segments")),
        ("a//b", Some("must be segments")),
        ("a/../b", Some("must be segments")),
        ("a b", Some("must be segments")),
        ("a*", Some("must be segments")),
    ];
    for (path, refusal) in cases {
        match (world.mount(path).await, refusal) {
            (Ok(()), None) => {}
            (Err(Failure::Invalid(text)), Some(want)) => {
                assert!(text.contains(want), "{path}: {text}");
            }
            (other, _) => panic!("{path}: {other:?}"),
        }
    }
    let text = invalid(
        world
            .ask(Write, "sys/mounts/x", json!({ "type": "databse" }))
            .await,
    );
    assert_eq!(
        text,
        "field \"type\": no such backend; did you mean \"database\"?"
    );
}

#[tokio::test]
async fn lease_times_follow_the_mount_and_survive_a_restart() {
    let mut world = World::new().await;
    let ttl_of = async |world: &World| {
        let answer = world.ask(Read, "fake/creds/role", json!({})).await.unwrap();
        match answer.body {
            Body::Lease(_, lease) => lease.ttl,
            _ => panic!("no lease"),
        }
    };
    assert_eq!(ttl_of(&world).await, LIMITS.default);
    world.crash(Declarations::default()).await;
    assert_eq!(
        ttl_of(&world).await,
        LIMITS.default,
        "a mount without an opinion has one now"
    );
    let tuned =
        json!({ "default_lease_ttl": "10m", "max_lease_ttl": "20m", "description": "mine" });
    world
        .ask(Write, "sys/mounts/fake/tune", tuned)
        .await
        .unwrap();
    assert_eq!(ttl_of(&world).await, Duration::from_secs(600));
    world.crash(Declarations::default()).await;
    assert_eq!(ttl_of(&world).await, Duration::from_secs(600));
    let read = data(
        world
            .ask(Read, "sys/mounts/fake/tune", json!({}))
            .await
            .unwrap(),
    );
    assert_eq!(
        (&read["max_lease_ttl"], &read["description"]),
        (&json!(1200), &json!("mine"))
    );
    let text = invalid(
        world
            .ask(
                Write,
                "sys/mounts/fake/tune",
                json!({ "default_lease_ttl": "1h" }),
            )
            .await,
    );
    assert!(text.contains("longer than max_lease_ttl"), "{text}");
    // Leases from before the mount was opened anew end like any other.
    world.clock.advance(LIMITS.default);
    world.settled().await;
    assert!(world.upstream.live().is_empty());
}

#[tokio::test]
async fn a_mount_moves_with_its_leases_and_its_storage() {
    let mut world = World::new().await;
    let (id, name) = world.issue(Some(&world.root), "fake", 600).await.unwrap();
    world
        .ask(Write, "sys/mounts/kv", json!({ "type": "kv-v1" }))
        .await
        .unwrap();
    world
        .ask(Write, "kv/a", json!({ "value": "kept" }))
        .await
        .unwrap();
    for (from, to) in [("fake", "moved/fake"), ("kv/", "moved/kv/")] {
        let body = json!({ "from": from, "to": to });
        world.ask(Write, "sys/remount", body).await.unwrap();
    }
    assert!(matches!(
        world.ask(Read, "fake/items/a", json!({})).await,
        Err(Failure::NoRoute(_))
    ));
    world.crash(Declarations::default()).await;
    assert!(
        world
            .ask(Read, "moved/fake/items/a", json!({}))
            .await
            .is_ok()
    );
    let kept = data(world.ask(Read, "moved/kv/a", json!({})).await.unwrap());
    assert_eq!(kept["value"], "kept");
    let renewed = world
        .ask(
            Write,
            "sys/leases/renew",
            json!({ "lease_id": id.as_str(), "increment": 60 }),
        )
        .await;
    assert!(renewed.is_ok());
    assert!(world.upstream.live().contains(&name));
    world.clock.advance(Duration::from_secs(60));
    world.settled().await;
    assert!(world.upstream.live().is_empty());
    let refused = world
        .ask(
            Write,
            "sys/remount",
            json!({ "from": "moved/kv", "to": "moved/fake/x" }),
        )
        .await;
    assert!(invalid(refused).contains("already in use"));
    let refused = world
        .ask(
            Write,
            "sys/remount",
            json!({ "from": "nowhere", "to": "x" }),
        )
        .await;
    assert!(invalid(refused).contains("field \"from\""));
}

#[tokio::test]
async fn a_mount_is_gone_only_after_its_leases_are() {
    let mut world = World::new().await;
    world.mount("other").await.unwrap();
    for _ in 0..5 {
        world.issue(Some(&world.root), "fake", 3600).await.unwrap();
    }
    world.issue(Some(&world.root), "other", 3600).await.unwrap();
    world.upstream.set_mood(Mood::Away);
    let refused = world.ask(Delete, "sys/mounts/fake", json!({})).await;
    let Err(Failure::Unavailable(text)) = refused else {
        panic!("{:?}", refused.map(|answer| answer.status()));
    };
    assert!(text.contains("connection refused"), "{text}");
    assert!(text.contains("Disable it again"), "{text}");
    // It stays, answers nothing, and a restart does not change that.
    let listed = data(world.ask(Read, "sys/mounts", json!({})).await.unwrap());
    assert!(listed.get("fake/").is_some());
    assert!(world.ask(Read, "fake/items/a", json!({})).await.is_err());
    assert!(world.mount("fake").await.is_err(), "its place is not free");
    world.crash(Declarations::default()).await;
    assert!(world.ask(Read, "fake/items/a", json!({})).await.is_err());
    assert_eq!(world.leases().await.len(), 6);
    world.upstream.set_mood(Mood::Well);
    world.clock.advance(Duration::from_secs(60));
    world
        .ask(Delete, "sys/mounts/fake", json!({}))
        .await
        .unwrap();
    assert_eq!(
        world.upstream.live().len(),
        1,
        "the other mount's lease is not concerned"
    );
    assert_eq!(world.leases().await.len(), 1);
    let listed = data(world.ask(Read, "sys/mounts", json!({})).await.unwrap());
    assert!(listed.get("fake/").is_none());
    // Once more succeeds, as does its place.
    world
        .ask(Delete, "sys/mounts/fake", json!({}))
        .await
        .unwrap();
    world.mount("fake").await.unwrap();
}

#[tokio::test]
async fn a_disabled_mount_leaves_nothing_in_the_store() {
    let mut world = World::new().await;
    world
        .ask(Write, "sys/mounts/kv", json!({ "type": "kv-v2" }))
        .await
        .unwrap();
    for number in 0..30 {
        let path = format!("kv/data/{number}");
        world
            .ask(Write, &path, json!({ "data": { "a": 1 } }))
            .await
            .unwrap();
    }
    // A crash in the middle of it leaves a mount that can be disabled again.
    world.storage.crash_after(2, true);
    assert!(world.ask(Delete, "sys/mounts/kv", json!({})).await.is_err());
    world.crash(Declarations::default()).await;
    world.ask(Delete, "sys/mounts/kv", json!({})).await.unwrap();
    let kept = world.barrier.keys("mount/", None, 10).await.unwrap();
    assert!(kept.is_empty(), "{kept:?}");
}

#[tokio::test]
async fn a_mount_that_does_not_open_is_shown_with_its_leases_and_can_be_disabled() {
    let mut world = World::new().await;
    let (name, upstream) = world.other_upstream();
    world.mount_over("frail", &name).await.unwrap();
    world.issue(Some(&world.root), "frail", 600).await.unwrap();
    upstream.set_broken(true);
    world.crash(Declarations::default()).await;
    let listed = data(world.ask(Read, "sys/mounts", json!({})).await.unwrap());
    assert!(listed.get("frail/").is_some(), "it is hidden");
    let answer = world.ask(Read, "frail/items/a", json!({})).await;
    assert!(matches!(
        &answer,
        Err(Failure::NoRoute(_) | Failure::Unavailable(_))
    ));
    assert!(world.mount("frail").await.is_err(), "its place is not free");
    let refused = world.ask(Delete, "sys/mounts/frail", json!({})).await;
    let Err(Failure::Unavailable(text)) = refused else {
        panic!("its leases are forgotten");
    };
    assert!(text.contains("told not to open"), "{text}");
    assert_eq!(upstream.live().len(), 1);
    upstream.set_broken(false);
    world.crash(Declarations::default()).await;
    world
        .ask(Delete, "sys/mounts/frail", json!({}))
        .await
        .unwrap();
    assert!(upstream.live().is_empty());
}

fn declared(path: &str) -> config::Mount {
    let place = config::Place {
        file: "test".into(),
        line: 1,
        column: 1,
    };
    config::Mount {
        path: path.into(),
        backend: "kv".into(),
        description: "declared".into(),
        options: BTreeMap::from([("version".to_owned(), "1".to_owned())]),
        default_lease_ttl: None,
        max_lease_ttl: None,
        resources: Vec::new(),
        origin: config::Origin {
            place,
            key: path.into(),
        },
    }
}

#[tokio::test]
async fn what_the_file_declares_only_the_file_changes() {
    let mut world = World::new().await;
    let declarations = || Declarations {
        policies: Vec::new(),
        mounts: vec![declared("team")],
        ..Declarations::default()
    };
    for _ in 0..2 {
        world.crash(declarations()).await;
        let shown = data(world.ask(Read, "sys/mounts/team", json!({})).await.unwrap());
        assert_eq!(shown["managed"], true);
        assert_eq!(shown["description"], "declared");
    }
    let requests = [
        (Delete, "sys/mounts/team", json!({})),
        (
            Write,
            "sys/mounts/team/tune",
            json!({ "description": "mine" }),
        ),
        (
            Write,
            "sys/remount",
            json!({ "from": "team", "to": "mine" }),
        ),
    ];
    for (operation, path, body) in &requests {
        let text = invalid(world.ask(*operation, path, body.clone()).await);
        assert!(
            text.contains("declared in the configuration file"),
            "{text}"
        );
    }
    world
        .ask(Write, "team/a", json!({ "value": 1 }))
        .await
        .unwrap();
    // What the file no longer declares is the API's to change.
    world.crash(Declarations::default()).await;
    assert!(world.ask(Read, "team/a", json!({})).await.is_ok());
    for (operation, path, body) in requests.into_iter().rev() {
        if path != "sys/remount" {
            world.ask(operation, path, body).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_write_under_way_leaves_no_row_of_a_mount_that_is_disabled() {
    let world = World::new().await;
    let kv = json!({ "type": "kv-v1" });
    world.ask(Write, "sys/mounts/kv", kv).await.unwrap();
    let gate = world.storage.hold_write("mount/");
    let write = world.ask(Write, "kv/late", json!({ "value": "x" }));
    let disable = async {
        while world.storage.held.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // It does not wait for ever.
        let refused = world.engine().disable_mount("kv").await.unwrap_err();
        assert!(refused.to_string().contains("still worked on"), "{refused}");
        let read = world.ask(Read, "kv/late", json!({})).await;
        assert!(read.is_err(), "it answers nothing any more");
        let engine = world.engine();
        let disabled = engine.disable_mount("kv");
        let released = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            gate.add_permits(1);
        };
        let (disabled, ()) = tokio::join!(disabled, released);
        disabled.unwrap();
    };
    let (_, ()) = tokio::join!(write, disable);
    let left = world.barrier.keys("mount/", None, 9).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_crash_while_declarations_are_applied_leaves_no_lasting_token() {
    let mut found = 0;
    for writes in 1..12 {
        let mut world = World::new().await;
        let declarations = Declarations {
            policies: Vec::new(),
            mounts: vec![declared("team")],
            ..Declarations::default()
        };
        world.crash_while_opening(declarations, writes).await;
        world.crash(Declarations::default()).await;
        let engine = world.engine();
        for id in engine.tokens.ids(None, 99).await.unwrap() {
            let record = engine.tokens.get(&id).await.unwrap().unwrap();
            if record.display_name == "configuration" {
                found += 1;
                let left = record.ends_at.unwrap().duration_since(record.created_at);
                assert!(left.unwrap() <= Duration::from_secs(600));
            }
        }
        world.clock.advance(Duration::from_secs(600));
        world.settled().await;
        assert_eq!(engine.tokens.ids(None, 99).await.unwrap().len(), 1);
    }
    assert!(found > 0, "no crash came between");
}
