//! Secret ids: what may be asked of a new one, and what becomes of it.

use std::time::Duration;

use daypass_conformance::Kind;
use daypass_contract::{BackendError, Clock as _, Operation};
use serde_json::{Value, json};

use super::{Trial, is_refused, text};

#[tokio::test]
async fn a_secret_id_is_shown_once_and_looked_up_by_itself_or_its_accessor() {
    let (trial, role_id) = Trial::with_role(json!({})).await;
    let mounted = &trial.mounted;
    let body = json!({"metadata": "{\"team\":\"web\"}", "ttl": "1m", "num_uses": 3,
        "cidr_list": "127.0.0.1/32", "token_bound_cidrs": "127.0.0.0/8"});
    let made = mounted.write("role/web/secret-id", body).await.unwrap();
    let (secret_id, accessor) = (text(&made["secret_id"]), text(&made["secret_id_accessor"]));
    assert_eq!((secret_id.len(), accessor.len()), (36, 36));
    assert_ne!(secret_id, accessor);
    assert_eq!(
        (&made["secret_id_num_uses"], &made["secret_id_ttl"]),
        (&json!(3), &json!(60))
    );
    let shown = json!({
        "cidr_list": ["127.0.0.1/32"], "creation_time": "2026-01-01T00:00:00Z",
        "expiration_time": "2026-01-01T00:01:00Z", "last_updated_time": "2026-01-01T00:00:00Z",
        "metadata": {"team": "web"}, "secret_id_accessor": accessor, "secret_id_num_uses": 3,
        "secret_id_ttl": 60, "token_bound_cidrs": ["127.0.0.0/8"],
    });
    let by_itself = json!({"secret_id": secret_id});
    let by_accessor = json!({"secret_id_accessor": accessor});
    let looked_up = mounted
        .write("role/web/secret-id/lookup", by_itself.clone())
        .await;
    assert_eq!(looked_up.unwrap().data, shown);
    let looked_up = mounted
        .write("role/web/secret-id-accessor/lookup", by_accessor.clone())
        .await;
    assert_eq!(looked_up.unwrap().data, shown);
    assert!(!trial.host.store.holds(secret_id.as_bytes()));
    let (other, _) = trial.secret_id(json!({})).await;
    let listed = mounted.list("role/web/secret-id").await.unwrap();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2);
    assert!(
        listed["keys"]
            .as_array()
            .unwrap()
            .contains(&json!(accessor))
    );
    let body = json!({"limit": "1"});
    let page = mounted
        .request(Operation::List, "role/web/secret-id", body)
        .await;
    assert_eq!(page.unwrap()["keys"].as_array().unwrap().len(), 1);

    // Another role knows neither.
    mounted.write("role/api", json!({})).await.unwrap();
    let looked_up = mounted
        .write("role/api/secret-id/lookup", by_itself.clone())
        .await;
    assert_eq!(looked_up.unwrap().kind, Kind::Nothing);
    mounted
        .write("role/api/secret-id/destroy", by_itself.clone())
        .await
        .unwrap();
    for verb in ["lookup", "destroy"] {
        let path = format!("role/api/secret-id-accessor/{verb}");
        let error = mounted.write(&path, by_accessor.clone()).await.unwrap_err();
        assert!(matches!(error, BackendError::NotFound), "{path}: {error:?}");
    }
    assert!(trial.login(&role_id, &secret_id).await.is_ok());
    let looked_up = mounted
        .write("role/web/secret-id/lookup", by_itself.clone())
        .await;
    assert_eq!(looked_up.unwrap()["secret_id_num_uses"], 2);

    let path = "role/web/secret-id-accessor/destroy";
    mounted
        .request(Operation::Delete, path, by_accessor.clone())
        .await
        .unwrap();
    assert!(is_refused(trial.login(&role_id, &secret_id).await));
    assert!(mounted.write(path, by_accessor).await.is_err());
    let looked_up = mounted.write("role/web/secret-id/lookup", by_itself).await;
    assert_eq!(looked_up.unwrap().kind, Kind::Nothing);
    for _ in 0..2 {
        let body = json!({"secret_id": other});
        mounted
            .write("role/web/secret-id/destroy", body)
            .await
            .unwrap();
    }
    assert!(is_refused(trial.login(&role_id, &other).await));
    assert_eq!(trial.kept(), (0, 0, 0));
    assert!(matches!(
        mounted.list("role/web/secret-id").await,
        Err(BackendError::NotFound)
    ));
}

#[tokio::test]
async fn a_secret_id_is_never_more_than_its_role_gives() {
    let role = json!({"secret_id_num_uses": 5, "secret_id_ttl": 60,
        "secret_id_bound_cidrs": "127.0.0.0/8", "token_bound_cidrs": "127.0.0.0/8"});
    let (trial, _) = Trial::with_role(role).await;
    let cases = [
        (json!({}), Ok((5, 60))),
        (json!({"num_uses": 6}), Err("num_uses")),
        (json!({"num_uses": 0}), Err("num_uses")),
        (json!({"num_uses": 4}), Ok((4, 60))),
        (json!({"num_uses": -1}), Err("num_uses")),
        (json!({"ttl": 61}), Err("ttl")),
        (json!({"ttl": 0}), Err("ttl")),
        (json!({"ttl": "20s"}), Ok((5, 20))),
        (json!({"cidr_list": "10.0.0.0/8"}), Err("cidr_list")),
        (json!({"cidr_list": "0.0.0.0/0"}), Err("cidr_list")),
        (json!({"cidr_list": "127.0.0.1/32"}), Ok((5, 60))),
        (json!({"cidr_list": "x"}), Err("cidr_list")),
        (
            json!({"token_bound_cidrs": "10.0.0.0/8"}),
            Err("token_bound_cidrs"),
        ),
        (json!({"token_bound_cidrs": "127.0.0.2"}), Ok((5, 60))),
        (json!({"metadata": "x"}), Err("metadata")),
    ];
    for (body, want) in cases {
        let made = trial
            .mounted
            .write("role/web/secret-id", body.clone())
            .await;
        match (made, want) {
            (Ok(made), Ok((uses, ttl))) => {
                assert_eq!(made["secret_id_num_uses"], uses, "{body}");
                assert_eq!(made["secret_id_ttl"], ttl, "{body}");
            }
            (Err(error), Err(field)) => {
                let start = format!("field \"{field}\":");
                assert!(error.to_string().starts_with(&start), "{body}: {error}");
            }
            (made, _) => panic!("{body}: {made:?}"),
        }
    }
    let none = trial.mounted.write("role/none/secret-id", json!({})).await;
    assert!(matches!(none, Err(BackendError::NotFound)));
    let body = json!({"bind_secret_id": false});
    trial.mounted.write("role/web", body).await.unwrap();
    let error = trial
        .mounted
        .write("role/web/secret-id", json!({}))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "bind_secret_id is not set on the role");
}

#[tokio::test]
async fn a_secret_id_that_the_caller_chose_is_taken_once() {
    let (trial, role_id) = Trial::with_role(json!({})).await;
    let mounted = &trial.mounted;
    let path = "role/web/custom-secret-id";
    let long = json!({"secret_id": "a secret of one's own", "num_uses": "2"});
    let made = mounted.write(path, long.clone()).await.unwrap();
    assert_eq!(
        (&made["secret_id"], &made["secret_id_num_uses"]),
        (&long["secret_id"], &json!(2))
    );
    assert!(made.warnings.is_empty());
    assert!(mounted.write(path, long).await.is_err());
    let made = mounted
        .write(path, json!({"secret_id": "s"}))
        .await
        .unwrap();
    assert!(made.warnings[0].contains("guessed"));
    for body in [json!({}), json!({"secret_id": ""})] {
        let error = mounted.write(path, body).await.unwrap_err();
        assert!(
            error.to_string().starts_with("field \"secret_id\":"),
            "{error}"
        );
    }
    assert!(trial.login(&role_id, "s").await.is_ok());
    // The same text is another secret id at another role.
    mounted.write("role/api", json!({})).await.unwrap();
    let api = trial.role_id("api").await;
    assert!(is_refused(trial.login(&api, "s").await));
    let body = json!({"secret_id": "s"});
    mounted
        .write("role/api/custom-secret-id", body.clone())
        .await
        .unwrap();
    mounted
        .write("role/web/secret-id/destroy", body)
        .await
        .unwrap();
    assert!(is_refused(trial.login(&role_id, "s").await));
    assert!(trial.login(&api, "s").await.is_ok());
}

#[tokio::test]
async fn nothing_stored_tells_that_two_roles_have_the_same_secret_id() {
    let (trial, _) = Trial::with_role(json!({})).await;
    trial.mounted.write("role/api", json!({})).await.unwrap();
    for role in ["web", "api"] {
        let path = format!("role/{role}/custom-secret-id");
        let body = json!({"secret_id": "s"});
        trial.mounted.write(&path, body).await.unwrap();
    }
    let keys = trial.host.store.keys();
    let hashes: std::collections::BTreeSet<_> = keys
        .iter()
        .filter(|key| key.starts_with("secret/"))
        .filter_map(|key| key.rsplit('/').next())
        .collect();
    assert_eq!(hashes.len(), 2);
}

#[tokio::test]
async fn an_end_that_is_no_longer_true_ends_nothing() {
    let (trial, role_id) = Trial::with_role(json!({})).await;
    let (secret_id, _) = trial.secret_id(json!({"ttl": 60})).await;
    // As if it had been destroyed and registered again between the reading of the end and of the record.
    let keys = trial.host.store.keys();
    let end = keys.iter().find(|key| key.starts_with("expiry/")).unwrap();
    let (_, of) = end.split_once('.').unwrap();
    let old = format!("expiry/{:016}.{of}", 1);
    let batch = daypass_contract::Batch::new().put(old, daypass_contract::Secret::new("{}"));
    trial.host.host().store.apply(batch).await.unwrap();
    let now = trial.host.clock.now();
    trial.mounted.backend.maintain(now).await.unwrap();
    assert_eq!(trial.kept(), (1, 1, 1));
    assert!(trial.login(&role_id, &secret_id).await.is_ok());
}

#[tokio::test]
async fn secret_ids_end_in_order_and_at_the_cost_of_what_is_due() {
    let (trial, role_id) = Trial::with_role(json!({})).await;
    let seconds = |n| Duration::from_secs(n);
    let (first, _) = trial.secret_id(json!({"ttl": 60})).await;
    let (forever, _) = trial.secret_id(json!({})).await;
    for _ in 0..250 {
        trial.secret_id(json!({"ttl": 90})).await;
    }
    let (last, _) = trial.secret_id(json!({"ttl": 120})).await;
    let start = trial.host.clock.now();
    let maintain = async || trial.mounted.backend.maintain(trial.host.clock.now()).await;
    assert_eq!(maintain().await.unwrap(), Some(start + seconds(60)));
    assert_eq!(trial.kept(), (253, 253, 252));
    trial.host.clock.advance(seconds(60));
    assert!(
        is_refused(trial.login(&role_id, &first).await),
        "it ends without anyone's help"
    );
    let gets = trial.host.store.gets();
    assert_eq!(maintain().await.unwrap(), Some(start + seconds(90)));
    assert_eq!(trial.host.store.gets() - gets, 1);
    assert_eq!(trial.kept(), (252, 252, 251));
    trial.host.clock.advance(seconds(30));
    let batches = trial.host.store.batches();
    assert_eq!(maintain().await.unwrap(), Some(start + seconds(120)));
    assert_eq!(trial.host.store.batches() - batches, 3);
    assert!(trial.login(&role_id, &last).await.is_ok());
    trial.host.clock.advance(seconds(30));
    trial
        .mounted
        .write("tidy/secret-id", json!({}))
        .await
        .unwrap();
    assert_eq!(trial.kept(), (1, 1, 0));
    assert!(trial.login(&role_id, &forever).await.is_ok());
    // It comes back even where there is nothing to wait for.
    let next = maintain().await.unwrap().unwrap();
    assert!(next > trial.host.clock.now());
}

#[tokio::test]
async fn time_is_capped_by_the_mount() {
    let (trial, _) = Trial::with_role(json!({})).await;
    let made = trial
        .mounted
        .write("role/web/secret-id", json!({"ttl": "99999h"}))
        .await;
    let longest = daypass_contract::System::max_ttl(&*trial.host.system).as_secs();
    assert_eq!(made.unwrap()["secret_id_ttl"], longest);
}

#[tokio::test]
async fn a_deleted_role_takes_its_secret_ids_along() {
    let (trial, role_id) = Trial::with_role(json!({"role_id": "same"})).await;
    let (secret_id, accessor) = trial.secret_id(json!({"ttl": 60})).await;
    for _ in 0..120 {
        trial.secret_id(json!({})).await;
    }
    trial.mounted.write("role/api", json!({})).await.unwrap();
    trial
        .mounted
        .write("role/api/secret-id", json!({}))
        .await
        .unwrap();
    trial.mounted.delete("role/web").await.unwrap();
    assert_eq!((trial.kept(), trial.keys("purge/")), ((1, 1, 0), 0));
    trial
        .mounted
        .write("role/web", json!({"role_id": "same"}))
        .await
        .unwrap();
    assert!(is_refused(trial.login(&role_id, &secret_id).await));
    let body = json!({"secret_id_accessor": accessor});
    let found = trial
        .mounted
        .write("role/web/secret-id-accessor/lookup", body)
        .await;
    assert!(found.is_err());
    assert_eq!(
        trial.mounted.read("role/web").await.unwrap()["policies"],
        Value::Null
    );
}

#[tokio::test]
async fn a_secret_id_made_while_its_role_is_deleted_does_not_outlive_it() {
    for turns in 0..8 {
        let (trial, role_id) = Trial::with_role(json!({})).await;
        let delete = async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            trial.mounted.delete("role/web").await
        };
        let body = json!({"ttl": 60});
        let make = trial.mounted.write("role/web/secret-id", body);
        let (made, deleted) = tokio::join!(make, delete);
        deleted.unwrap();
        assert_eq!(trial.kept(), (0, 0, 0), "{turns}");
        if let Ok(made) = made {
            let secret_id = text(&made["secret_id"]);
            assert!(
                is_refused(trial.login(&role_id, &secret_id).await),
                "{turns}"
            );
        }
    }
}
