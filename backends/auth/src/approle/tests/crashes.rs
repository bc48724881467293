//! What is left when the disk goes away at the worst moment.

use std::time::Duration;

use daypass_contract::Clock as _;
use serde_json::json;

use super::Trial;

/// Nothing that leads to a secret id is without it, nor it without them.
fn is_whole(trial: &Trial, ends: usize) -> bool {
    let (secret_ids, accessors, expiry) = trial.kept();
    secret_ids == accessors
        && expiry == secret_ids.min(ends)
        && trial.keys("name/") == trial.keys("role/")
}

/// Lets `n` writes succeed, runs `act`, and gives the mount as it is after a restart.
async fn crash_after<F: AsyncFnOnce(&Trial)>(n: usize, trial: &Trial, act: F) -> Trial {
    trial.host.store.fail_after(n);
    act(trial).await;
    trial.host.store.heal();
    trial.restarted().await
}

#[tokio::test]
async fn a_crash_while_a_role_is_deleted_leaves_nothing_usable_and_is_finished_later() {
    for n in 0..6 {
        let (trial, role_id) = Trial::with_role(json!({})).await;
        let (secret_id, _) = trial.secret_id(json!({"ttl": 3600})).await;
        for _ in 0..250 {
            trial.secret_id(json!({"ttl": 3600})).await;
        }
        let mut deleted = false;
        let after = crash_after(n, &trial, async |trial| {
            deleted = trial.mounted.delete("role/web").await.is_ok();
        })
        .await;
        // One batch for the role, three for its secret ids, one for the mark.
        assert_eq!(deleted, n >= 5, "{n}");
        assert!(is_whole(&after, usize::MAX), "{n}");
        assert_eq!(
            after.login(&role_id, &secret_id).await.is_ok(),
            n == 0,
            "{n}"
        );
        let now = after.host.clock.now();
        after.mounted.backend.maintain(now).await.unwrap();
        let left = if n == 0 { 251 } else { 0 };
        assert_eq!(after.kept(), (left, left, left), "{n}");
        assert_eq!(after.keys("purge/"), 0, "{n}");
    }
}

#[tokio::test]
async fn a_crash_anywhere_else_leaves_all_or_nothing() {
    for n in 0..2 {
        let (trial, role_id) = Trial::with_role(json!({"secret_id_num_uses": 1})).await;
        // A use is never given back.
        let (secret_id, _) = trial.secret_id(json!({"ttl": 60})).await;
        let mut entered = false;
        let after = crash_after(n, &trial, async |trial| {
            entered = trial.login(&role_id, &secret_id).await.is_ok();
        })
        .await;
        assert_eq!((entered, after.keys("secret/")), (n == 1, 1 - n));
        assert!(is_whole(&after, usize::MAX), "{n}");

        let after = crash_after(n, &after, async |trial| {
            let body = json!({"ttl": 60});
            let _ = trial.mounted.write("role/web/secret-id", body).await;
        })
        .await;
        assert!(is_whole(&after, usize::MAX), "{n}");

        let after = crash_after(n, &after, async |trial| {
            let _ = trial
                .mounted
                .write("role/web/role-id", json!({"role_id": "x"}))
                .await;
        })
        .await;
        assert!(is_whole(&after, usize::MAX), "{n}");
        assert_eq!(after.role_id("web").await == "x", n == 1);

        let after = crash_after(n, &after, async |trial| {
            trial.host.clock.advance(Duration::from_secs(60));
            let _ = trial.mounted.backend.maintain(trial.host.clock.now()).await;
        })
        .await;
        assert!(is_whole(&after, usize::MAX), "{n}");
        assert_eq!(after.keys("secret/"), 1 - n);
    }
}

#[tokio::test]
async fn the_mounts_key_is_made_once() {
    let host = daypass_conformance::TestHost::new();
    host.store.fail_after(0);
    assert!(super::super::open(host.host()).await.is_err());
    host.store.heal();
    let (one, other) = tokio::join!(
        super::super::open(host.host()),
        super::super::open(host.host())
    );
    let one = daypass_conformance::Mounted::new(one.unwrap(), &host);
    let other = daypass_conformance::Mounted::new(other.unwrap(), &host);
    one.write("role/web", json!({"role_id": "r"}))
        .await
        .unwrap();
    let body = json!({"secret_id": "s"});
    one.write("role/web/custom-secret-id", body).await.unwrap();
    let body = json!({"role_id": "r", "secret_id": "s"});
    let login = other
        .login("login", body, daypass_contract::Peer::default())
        .await;
    assert!(login.is_ok());
}
