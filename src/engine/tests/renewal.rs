//! A renewal and the end of its lease: one of the two wins, and the caller is told which.

use std::sync::atomic::Ordering;
use std::time::Duration;

use daypass_contract::Operation;
use serde_json::json;

use crate::engine::testing::World;
use crate::engine::{Answer, Body, Failure};
use crate::lease::LeaseId;

async fn renew(world: &World, id: &LeaseId) -> Result<Answer, Failure> {
    let body = json!({ "lease_id": id.as_str(), "increment": 600 });
    world.ask(Operation::Write, "sys/leases/renew", body).await
}

/// Lets the worker do whatever it can do by now.
async fn let_it_work(world: &World) {
    for _ in 0..50 {
        world.engine().wake_queues();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_renewal_that_is_being_written_is_not_overtaken_by_the_end() {
    let world = World::new().await;
    let (id, name) = world.issue(Some(&world.root), "fake", 60).await.unwrap();
    world.clock.advance(Duration::from_secs(59));
    let gate = world.storage.hold_write("lease/r/");
    let revoking = world.upstream.hold_revoke();
    let ending = async {
        while world.storage.held.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        world.clock.advance(Duration::from_secs(1));
        let_it_work(&world).await;
        gate.add_permits(1);
    };
    let (renewed, ()) = tokio::join!(renew(&world, &id), ending);
    assert!(renewed.is_ok(), "it was asked for in time");
    revoking.add_permits(1);
    let_it_work(&world).await;
    world.settled().await;
    assert!(
        world.upstream.live().contains(&name),
        "what was acknowledged is revoked"
    );
    assert_eq!(world.upstream.revocations.load(Ordering::SeqCst), 0);
    assert!(world.leases().await.contains_key(&name));
}

/// The end comes at every point of a renewal at which something else can run.
#[tokio::test]
async fn a_renewal_and_the_end_agree_wherever_they_meet() {
    let (mut renewals, mut ends) = (0, 0);
    for meeting in 0..60 {
        let world = World::new().await;
        let (id, name) = world.issue(Some(&world.root), "fake", 60).await.unwrap();
        world.clock.advance(Duration::from_millis(59_999));
        let ending = async {
            for _ in 0..meeting {
                tokio::task::yield_now().await;
            }
            world.clock.advance(Duration::from_millis(1));
            world.engine().wake_queues();
        };
        let (renewed, ()) = tokio::join!(renew(&world, &id), ending);
        world.settled().await;
        let lives = world.upstream.live().contains(&name);
        assert_eq!(renewed.is_ok(), lives, "after {meeting} steps");
        assert_eq!(world.leases().await.contains_key(&name), lives);
        *(if lives { &mut renewals } else { &mut ends }) += 1;
    }
    assert!(renewals > 0 && ends > 0, "{renewals} renewals, {ends} ends");
}

#[tokio::test]
async fn a_renewal_that_says_nothing_gives_the_first_period_again() {
    let world = World::new().await;
    let (id, name) = world.issue(Some(&world.root), "fake", 60).await.unwrap();
    let renew = async |increment: Option<u64>| {
        let body = match increment {
            Some(increment) => json!({ "lease_id": id.as_str(), "increment": increment }),
            None => json!({ "lease_id": id.as_str() }),
        };
        let answer = world.ask(Operation::Write, "sys/leases/renew", body).await;
        match answer.unwrap().body {
            Body::Lease(_, lease) => lease.ttl.as_secs(),
            _ => panic!("no lease"),
        }
    };
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(renew(None).await, 60);
    assert_eq!(renew(Some(600)).await, 600);
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(renew(None).await, 60);

    // A record from before the first period was kept: its present period.
    let key = format!("lease/r/{}", id.as_str());
    let entry = world.barrier.get(&key).await.unwrap().unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(entry.value.expose()).unwrap();
    assert!(
        record
            .as_object_mut()
            .unwrap()
            .remove("first_ttl")
            .is_some()
    );
    let batch = daypass_contract::Batch::new()
        .put_json(key, &record)
        .unwrap();
    world.barrier.apply(batch).await.unwrap();
    assert_eq!(renew(Some(90)).await, 90);
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(renew(None).await, 90);
    assert!(world.upstream.live().contains(&name));
}
