//! Leases whose process died while their credential was made: no more and no less of them stays than there
//! is upstream.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::engine::Declarations;
use crate::engine::testing::{Mood, World};

/// Past the time in which the upstream may still be at what a dead process sent.
const SLACK: Duration = Duration::from_secs(6);

/// Waits for what a restarted server does by itself.
async fn until(done: impl AsyncFn() -> bool) {
    for _ in 0..2000 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not come about");
}

/// A lease that is durable, and a process that died before it made the credential.
async fn phantom() -> World {
    let mut world = World::new().await;
    world.storage.crash_after(1, true);
    assert!(world.issue(Some(&world.root), "fake", 3600).await.is_err());
    world.clock.advance(Duration::from_secs(1));
    world.crash(Declarations::default()).await;
    assert_eq!(
        (world.leases().await.len(), world.upstream.ever().len()),
        (1, 0)
    );
    world
}

#[tokio::test]
async fn a_lease_without_a_credential_does_not_wait_for_its_end() {
    let world = phantom().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        world.leases().await.len(),
        1,
        "its credential may still come"
    );
    world.clock.advance(SLACK);
    until(async || world.leases().await.is_empty()).await;
    assert!(
        world
            .barrier
            .keys("lease/", None, 9)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(world.log_text().contains("already gone"));
}

#[tokio::test]
async fn an_upstream_that_is_away_is_asked_again() {
    let world = phantom().await;
    world.upstream.set_mood(Mood::Away);
    world.clock.advance(SLACK);
    until(async || world.upstream.verifications.load(Ordering::SeqCst) > 0).await;
    assert_eq!(world.leases().await.len(), 1);
    world.upstream.set_mood(Mood::Well);
    until(async || world.leases().await.is_empty()).await;
}

#[tokio::test]
async fn a_lease_that_was_answered_survives_the_crash_that_follows() {
    let mut world = World::new().await;
    let (_, name) = world.issue(Some(&world.root), "fake", 3600).await.unwrap();
    world.crash(Declarations::default()).await;
    world.clock.advance(SLACK);
    until(async || world.upstream.verifications.load(Ordering::SeqCst) > 0).await;
    world.settled().await;
    assert!(world.leases().await.contains_key(&name));
    // It is asked about once: the mark goes with the next lease that is written.
    let (next, _) = world.issue(Some(&world.root), "fake", 3600).await.unwrap();
    let marks = world.barrier.keys("lease/n/", None, 9).await.unwrap();
    assert_eq!(marks, [format!("lease/n/{}", next.as_str())]);
}

#[tokio::test]
async fn noting_that_a_credential_was_made_costs_no_write() {
    let world = World::new().await;
    let before = world.storage.writes.load(Ordering::SeqCst);
    let mut last = None;
    for _ in 0..20 {
        last = Some(world.issue(Some(&world.root), "fake", 60).await.unwrap().0);
    }
    assert_eq!(world.storage.writes.load(Ordering::SeqCst) - before, 20);
    let marks = async || world.barrier.keys("lease/n/", None, 99).await.unwrap();
    assert_eq!(
        marks().await,
        [format!("lease/n/{}", last.unwrap().as_str())]
    );
    world.clock.advance(Duration::from_secs(60));
    world.settled().await;
    assert!(marks().await.is_empty());
}
