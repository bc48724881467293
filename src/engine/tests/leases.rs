//! Leases under races, crashes and upstreams that are away.

use std::sync::atomic::Ordering;
use std::time::Duration;

use daypass_contract::Operation;
use serde_json::json;

use crate::engine::testing::{Mood, World};
use crate::engine::{Body, Declarations};
use crate::identity::Removal;
use crate::lease::QueueHealth;

/// Past the time in which a credential may still be in the making.
const MADE: Duration = Duration::from_secs(60);

/// Waits until a credential is being made, then does what `act` does, then lets it be made.
async fn while_it_is_made(world: &World, token: &str, act: impl AsyncFnOnce()) {
    let gate = world.upstream.hold_issue();
    let issuing = world.issue(Some(token), "fake", 600);
    let acting = async {
        while world.upstream.waiting.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        act().await;
        // The worker has seen it, and found nothing upstream.
        while world.due().await > 0 {
            world.engine().wake_queues();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(world.upstream.live().is_empty());
        gate.add_permits(1);
    };
    let (issued, ()) = tokio::join!(issuing, acting);
    assert!(
        issued.is_err(),
        "a credential that is revoked was handed out"
    );
    world.settled().await;
    assert!(world.upstream.live().is_empty(), "it waits for its end");
    world.clock.advance(MADE);
    world.settled().await;
    assert_eq!(world.upstream.ever().len(), 1);
    assert!(world.leases().await.is_empty());
}

#[tokio::test]
async fn a_credential_that_is_revoked_while_it_is_made_does_not_survive() {
    let world = World::new().await;
    while_it_is_made(&world, &world.root, async || {
        world.engine().revoke_prefix("fake/").await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_credential_whose_token_goes_while_it_is_made_does_not_survive() {
    let world = World::new().await;
    let (token, _) = world.token(&world.root, json!({})).await.unwrap();
    let id = world.principal(&token).await.unwrap().token.unwrap();
    while_it_is_made(&world, &token, async || {
        let engine = world.engine();
        engine
            .revoke_token(&id, Removal::WithChildren)
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_credential_that_ends_while_it_is_made_does_not_survive() {
    let world = World::new().await;
    let gate = world.upstream.hold_issue();
    let acting = async {
        while world.upstream.waiting.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        world.clock.advance(Duration::from_secs(2));
        assert!(world.settled_within(Duration::from_secs(5)).await);
        gate.add_permits(1);
    };
    let (_, ()) = tokio::join!(world.issue(Some(&world.root), "fake", 1), acting);
    world.clock.advance(MADE);
    world.settled().await;
    assert!(world.upstream.live().is_empty());
    assert!(world.leases().await.is_empty());
}

/// As certificates do: thousands of them must not wait for a time in which they might have been made.
#[tokio::test]
async fn a_credential_that_was_made_and_ended_by_itself_is_gone_at_once() {
    let world = World::new().await;
    world.issue(Some(&world.root), "fake", 1).await.unwrap();
    world.upstream.end_all();
    world.clock.advance(Duration::from_secs(2));
    world.settled().await;
    assert!(world.leases().await.is_empty());
}

#[tokio::test]
async fn a_lost_answer_is_revoked_also_where_the_upstream_is_late() {
    let world = World::new().await;
    world.upstream.set_mood(Mood::Mute);
    assert!(world.issue(Some(&world.root), "fake", 600).await.is_err());
    assert_eq!(world.upstream.ever().len(), 1);
    // The first try is over, its answer lost too; or else the worker could read the clock after it was
    // set on, and put the next try beyond it.
    world.settled().await;
    world.upstream.set_mood(Mood::Well);
    world.clock.advance(MADE);
    world.settled().await;
    assert!(world.upstream.live().is_empty());
    assert!(world.leases().await.is_empty());
}

#[tokio::test]
async fn what_a_mount_was_asked_for_while_it_is_disabled_is_not_issued() {
    let world = World::new().await;
    let mount = world.engine().mounts.at("fake").unwrap();
    // As a request that found the mount before it was disabled.
    let gate = world.upstream.hold_issue();
    let acting = async {
        while world.upstream.waiting.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // The lease is there, the credential is not: the mount stays until that is settled.
        let refused = world.engine().disable_mount("fake").await;
        assert!(
            refused.is_err(),
            "the mount is gone, its credential to come"
        );
        gate.add_permits(1);
    };
    let (issued, ()) = tokio::join!(world.issue(Some(&world.root), "fake", 600), acting);
    assert!(issued.is_err());
    world.clock.advance(MADE);
    world.engine().disable_mount("fake").await.unwrap();
    assert!(world.upstream.live().is_empty());
    assert!(mount.record().leaving);
}

#[tokio::test]
async fn an_explicit_revocation_answers_what_came_of_it() {
    let mut world = World::new().await;
    let (id, _) = world.issue(Some(&world.root), "fake", 600).await.unwrap();
    world.upstream.set_mood(Mood::Away);
    let body = json!({ "lease_id": id.as_str() });
    let revoke = async |world: &World| {
        world
            .ask(Operation::Write, "sys/leases/revoke", body.clone())
            .await
            .unwrap()
    };
    let answer = revoke(&world).await;
    assert!(matches!(answer.body, Body::Accepted));
    assert!(
        answer.warnings[0].contains("connection refused"),
        "{:?}",
        answer.warnings
    );
    world.crash(Declarations::default()).await;
    world.upstream.set_mood(Mood::Well);
    assert!(matches!(revoke(&world).await.body, Body::Nothing));
    // Twice, and of something never issued.
    assert!(matches!(revoke(&world).await.body, Body::Nothing));
    assert!(world.upstream.live().is_empty());
}

#[tokio::test]
async fn a_lease_that_cannot_be_revoked_is_irrevocable_in_sight_and_retried() {
    for mood in [Mood::Refusing, Mood::Away] {
        let mut world = World::new().await;
        let (id, name) = world.issue(Some(&world.root), "fake", 60).await.unwrap();
        world.upstream.set_mood(mood);
        world.clock.advance(Duration::from_secs(60));
        let body = json!({ "lease_id": id.as_str() });
        let lookup = async |world: &World| {
            let answer = world
                .ask(Operation::Write, "sys/leases/lookup", body.clone())
                .await
                .unwrap();
            let Body::Flat(json) = answer.body else {
                panic!("no data");
            };
            serde_json::from_slice::<serde_json::Value>(json.expose()).unwrap()
        };
        for attempts in 1..=6 {
            world.settled().await;
            let seen = lookup(&world).await;
            assert_eq!(seen["trouble"]["attempts"], attempts);
            let state = if attempts < 6 {
                "revoking"
            } else {
                "irrevocable"
            };
            assert_eq!(seen["state"], state, "{attempts}");
            assert!(seen["trouble"]["reason"].as_str().unwrap().contains("up"));
            world.clock.advance(Duration::from_secs(3600));
            if attempts == 3 {
                world.crash(Declarations::default()).await;
            }
        }
        assert!(world.log_text().contains("lease.irrevocable"));
        assert!(world.upstream.live().contains(&name));
        world.upstream.set_mood(Mood::Well);
        world.settled().await;
        assert!(world.upstream.live().is_empty());
        assert!(world.leases().await.is_empty());
    }
}

#[tokio::test]
async fn a_lease_of_another_looks_like_none() {
    let world = World::new().await;
    let policy = json!({ "policy": r#"
        path "sys/leases/+" { capabilities = ["update"] }
        path "sys/leases/revoke/fake/creds/mine/*" { capabilities = ["update"] }"# });
    let path = "sys/policies/acl/leases";
    world.ask(Operation::Write, path, policy).await.unwrap();
    let body = json!({ "policies": ["leases"] });
    let (token, _) = world.token(&world.root, body).await.unwrap();
    let (theirs, _) = world.issue(Some(&world.root), "fake", 60).await.unwrap();
    let nothing = "fake/creds/role/0000000000000000000000ff";
    for verb in ["revoke", "renew", "lookup"] {
        let ask = async |id: &str| {
            let (path, body) = (format!("sys/leases/{verb}"), json!({ "lease_id": id }));
            let answer = world.ask_as(Some(&token), Operation::Write, &path, body);
            answer.await.map(|_| ()).map_err(|error| error.to_string())
        };
        let refused = Err("lease not found, or not yours".to_owned());
        assert_eq!(ask(theirs.as_str()).await, refused, "{verb}");
        assert_eq!(ask(nothing).await, refused, "{verb}");
        // Who may revoke every lease there learns nothing by repeating it.
        let want = if verb == "revoke" { Ok(()) } else { refused };
        assert_eq!(ask("fake/creds/mine/000000").await, want, "{verb}");
    }
    assert_eq!(world.leases().await.len(), 1);
}

#[tokio::test]
async fn an_upstream_is_not_away_any_more_when_nothing_waits_for_it() {
    for forced in [false, true] {
        let world = World::new().await;
        let (id, _) = world.issue(Some(&world.root), "fake", 60).await.unwrap();
        let away = || world.engine().mounts.at("fake").unwrap().queue.health() != QueueHealth::Well;
        world.upstream.set_mood(Mood::Away);
        world.clock.advance(MADE);
        world.settled().await;
        assert!(away());
        let (path, body) = if forced {
            ("sys/leases/revoke-force/fake", json!({}))
        } else {
            world.upstream.set_mood(Mood::Well);
            ("sys/leases/revoke", json!({ "lease_id": id.as_str() }))
        };
        world.ask(Operation::Write, path, body).await.unwrap();
        assert!(world.leases().await.is_empty());
        assert!(!away(), "forced: {forced}");
    }
}

#[tokio::test]
async fn a_forgotten_lease_is_named_in_the_log() {
    let world = World::new().await;
    let (id, _) = world.issue(Some(&world.root), "fake", 60).await.unwrap();
    world.upstream.set_mood(Mood::Away);
    let path = "sys/leases/revoke-force/fake";
    let answer = world.ask(Operation::Write, path, json!({})).await.unwrap();
    assert!(answer.warnings[0].contains("1 leases were forgotten"));
    assert!(world.leases().await.is_empty());
    let forgotten = world
        .lines()
        .into_iter()
        .find(|line| line.to_string().contains("lease.forgotten"))
        .unwrap();
    assert!(forgotten.to_string().contains(id.as_str()));
}

#[tokio::test]
async fn a_damaged_lease_holds_up_no_other() {
    let world = World::new().await;
    let (damaged, _) = world.issue(Some(&world.root), "fake", 60).await.unwrap();
    let key = format!("lease/r/{}", damaged.as_str());
    let nonsense = daypass_contract::Batch::new().put(key, daypass_contract::Secret::new("?"));
    world.barrier.apply(nonsense).await.unwrap();
    let (_, panics) = world.issue(Some(&world.root), "fake", 61).await.unwrap();
    world.upstream.panics.lock().unwrap().insert(panics);
    for _ in 0..5 {
        world.issue(Some(&world.root), "fake", 62).await.unwrap();
    }
    world.clock.advance(Duration::from_secs(62));
    for _ in 0..5000 {
        if world.upstream.live().len() == 2 {
            return;
        }
        world.engine().wake_queues();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{} are left", world.upstream.live().len());
}

#[tokio::test]
async fn a_mount_whose_upstream_is_away_delays_no_other() {
    let world = World::new().await;
    let (name, other) = world.other_upstream();
    world.mount_over("other", &name).await.unwrap();
    for _ in 0..300 {
        world.issue(Some(&world.root), "fake", 60).await.unwrap();
        world.issue(Some(&world.root), "other", 60).await.unwrap();
    }
    world.upstream.set_mood(Mood::Away);
    world.clock.advance(Duration::from_secs(60));
    world.engine().wake_queues();
    for _ in 0..5000 {
        if other.live().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(other.live().is_empty());
    assert_eq!(world.upstream.live().len(), 300);
}

/// 50,000 leases that end in the same second: they are worked off in bounded parallel, and reads go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_leases_that_end_at_once_do_not_starve_reads() {
    const LEASES: usize = 50_000;
    let world = World::new().await;
    world
        .ask(
            Operation::Write,
            "sys/mounts/kv",
            json!({ "type": "kv-v1" }),
        )
        .await
        .unwrap();
    world
        .ask(Operation::Write, "kv/a", json!({ "value": "x" }))
        .await
        .unwrap();
    let now = daypass_contract::Clock::now(&*world.clock);
    let end = now + Duration::from_secs(600);
    let mount = world
        .engine()
        .mounts
        .at("fake")
        .unwrap()
        .record()
        .id
        .clone();
    for number in 0..LEASES {
        let handle = crate::engine::testing::FakeHandle {
            name: format!("v-{number}"),
        };
        let lease = crate::lease::NewLease {
            mount: &mount,
            path: "fake/creds/role",
            handle: daypass_contract::Handle::encode(&handle).unwrap(),
            token: None,
            entity_id: None,
            issued_at: now,
            ends_at: end,
            max_ends_at: end,
            renewable: true,
        };
        world.engine().leases.grant(lease).await.unwrap();
    }
    let started = std::time::Instant::now();
    world.clock.set(end);
    world.engine().wake_queues();
    let (mut reads, mut slowest) = (0, Duration::ZERO);
    while world.due().await > 0 {
        let asked = std::time::Instant::now();
        for _ in 0..50 {
            world.ask(Operation::Read, "kv/a", json!({})).await.unwrap();
            reads += 1;
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        slowest = slowest.max(asked.elapsed() / 50);
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "it takes too long"
        );
    }
    eprintln!(
        "{:?}, {reads} reads, slowest fifty {slowest:?} each",
        started.elapsed()
    );
    assert_eq!(world.upstream.revocations.load(Ordering::SeqCst), LEASES);
    assert!(
        world.upstream.most_running.load(Ordering::SeqCst) <= world.settings.revoke_concurrency
    );
    assert!(slowest < Duration::from_millis(250), "{slowest:?}");
}
