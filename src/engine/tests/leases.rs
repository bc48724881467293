//! Leases under races, crashes and upstreams that are away.

use std::sync::atomic::Ordering;
use std::time::Duration;

use daypass_contract::Operation;
use serde_json::json;

use crate::engine::testing::{Mood, World};
use crate::engine::{Body, Declarations};
use crate::identity::Removal;

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

#[tokio::test]
async fn a_lost_answer_is_revoked_also_where_the_upstream_is_late() {
    let world = World::new().await;
    world.upstream.set_mood(Mood::Mute);
    assert!(world.issue(Some(&world.root), "fake", 600).await.is_err());
    assert_eq!(world.upstream.ever().len(), 1);
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
