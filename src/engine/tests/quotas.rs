//! Quotas as a caller meets them.

use daypass_contract::Operation::{Delete, Read, Write};
use daypass_contract::Peer;
use serde_json::json;

use crate::engine::Failure;
use crate::engine::testing::{World, request};

fn refused_by<T>(result: Result<T, Failure>) -> Option<String> {
    match result {
        Ok(_) => None,
        Err(Failure::TooMany { quota, .. }) => Some(quota),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_rate_limit_counts_requests_of_an_address_and_is_recorded() {
    let mut world = World::new().await;
    let limit = json!({ "path": "fake/items/", "rate": 2, "interval": "1h" });
    world
        .ask(Write, "sys/quotas/rate-limit/items", limit)
        .await
        .unwrap();
    // It is there after a restart, too.
    world.crash(crate::engine::Declarations::default()).await;
    let ask = async |address: &str, path: &str| {
        let mut asked = request(Some(&world.root), Read, path, json!({}));
        asked.peer = Peer {
            address: Some(address.parse().unwrap()),
            ..Peer::default()
        };
        let id = asked.id.clone();
        (refused_by(world.plane.serve(asked).await), id)
    };
    assert_eq!(ask("10.0.0.1:1", "fake/items/a").await.0, None);
    assert_eq!(ask("10.0.0.1:2", "fake/items/b").await.0, None);
    let (refused, id) = ask("10.0.0.1:3", "fake/items/a").await;
    assert_eq!(refused.as_deref(), Some("items"));
    let records = world.records_of(&id);
    assert_eq!(records[0]["response"]["status"], 429, "{records:?}");
    assert_eq!(ask("10.0.0.2:1", "fake/items/a").await.0, None);
    assert_eq!(ask("10.0.0.1:1", "sys/leader").await.0, None);
    world
        .ask(Delete, "sys/quotas/rate-limit/items", json!({}))
        .await
        .unwrap();
    assert_eq!(ask("10.0.0.1:4", "fake/items/a").await.0, None);
}

#[tokio::test]
async fn nobody_holds_more_leases_than_the_quota_allows() {
    let world = World::new().await;
    let limit = json!({ "path": "fake/", "max_leases": 2 });
    world
        .ask(Write, "sys/quotas/lease-count/few", limit)
        .await
        .unwrap();
    let issue = async || refused_by(world.issue(Some(&world.root), "fake", 60).await);
    assert_eq!(issue().await, None);
    assert_eq!(issue().await, None);
    assert_eq!(issue().await.as_deref(), Some("few"));
    // Nothing was made, and nothing is leased for it.
    assert_eq!(
        (world.upstream.live().len(), world.leases().await.len()),
        (2, 2)
    );
    let first = world.leases().await.into_values().next().unwrap().0;
    let revoke = json!({ "lease_id": first.as_str() });
    world.ask(Write, "sys/leases/revoke", revoke).await.unwrap();
    assert_eq!(issue().await, None);
}

#[tokio::test]
async fn a_quota_that_makes_no_sense_is_refused() {
    let world = World::new().await;
    let cases = [
        ("rate-limit", json!({ "rate": 0 }), "rate"),
        ("rate-limit", json!({ "rate": -1 }), "rate"),
        (
            "rate-limit",
            json!({ "rate": 1, "interval": "10ms" }),
            "interval",
        ),
        ("lease-count", json!({}), "max_leases"),
        ("lease-count", json!({ "max_leases": 10_001 }), "max_leases"),
    ];
    for (kind, body, field) in cases {
        let path = format!("sys/quotas/{kind}/q");
        let refused = world.ask(Write, &path, body.clone()).await;
        let Err(Failure::Invalid(text)) = refused else {
            panic!("{body} is taken");
        };
        assert!(text.contains(&format!("\"{field}\"")), "{text}");
    }
}
