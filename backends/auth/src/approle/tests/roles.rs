//! Roles as they are written and shown.

use daypass_conformance::Kind;
use daypass_contract::BackendError;
use serde_json::{Value, json};

use super::{Trial, is_refused};

#[tokio::test]
async fn a_role_is_written_shown_listed_and_deleted() {
    let trial = Trial::new().await;
    let mounted = &trial.mounted;
    assert!(matches!(
        mounted.list("role").await,
        Err(BackendError::NotFound)
    ));
    mounted.write("role/Web", json!({})).await.unwrap();
    let fresh = json!({
        "bind_secret_id": true, "local_secret_ids": false, "secret_id_bound_cidrs": null,
        "secret_id_num_uses": 0, "secret_id_ttl": 0, "token_bound_cidrs": [],
        "token_explicit_max_ttl": 0, "token_max_ttl": 0, "token_no_default_policy": false,
        "token_num_uses": 0, "token_period": 0, "token_policies": [], "token_ttl": 0,
        "token_type": "default",
    });
    assert_eq!(mounted.read("role/WEB").await.unwrap().data, fresh);
    let body = json!({"policies": "A,b,b", "period": "1h", "bound_cidr_list": "10.0.0.1/32",
        "secret_id_num_uses": "2", "secret_id_ttl": "10m", "token_policies": null});
    mounted.write("role/web", body).await.unwrap();
    let answer = mounted.read("role/web").await.unwrap();
    let cases = [
        ("policies", json!(["a", "b"])),
        ("token_policies", json!(["a", "b"])),
        ("period", json!(3600)),
        ("token_period", json!(3600)),
        // As it was written.
        ("bound_cidr_list", json!(["10.0.0.1/32"])),
        ("secret_id_bound_cidrs", json!(["10.0.0.1/32"])),
        ("secret_id_num_uses", json!(2)),
        ("secret_id_ttl", json!(600)),
    ];
    for (field, want) in cases {
        assert_eq!(answer[field], want, "{field}");
    }
    // What is not named stays, and a present name replaces an earlier one.
    mounted
        .write("role/web", json!({"token_policies": "c"}))
        .await
        .unwrap();
    let answer = mounted.read("role/web").await.unwrap();
    assert_eq!(
        (
            &answer["policies"],
            &answer["token_policies"],
            &answer["period"]
        ),
        (&Value::Null, &json!(["c"]), &json!(3600))
    );
    mounted.write("role/api", json!({})).await.unwrap();
    assert_eq!(
        mounted.list("role").await.unwrap()["keys"],
        json!(["api", "web"])
    );
    let body = json!({"limit": 1, "after": "api"});
    let page = mounted
        .request(daypass_contract::Operation::List, "role", body)
        .await;
    assert_eq!(page.unwrap()["keys"], json!(["web"]));
    assert!(mounted.backend.exists("role/Web").await.unwrap());
    assert!(!mounted.backend.exists("role/none").await.unwrap());
    assert!(mounted.backend.exists("role/none/secret-id").await.unwrap());
    for _ in 0..2 {
        assert_eq!(
            mounted.delete("role/web").await.unwrap().kind,
            Kind::Nothing
        );
    }
    assert!(matches!(
        mounted.read("role/web").await,
        Err(BackendError::NotFound)
    ));
    let long = json!({"token_max_ttl": "99999h"});
    let answer = mounted.write("role/api", long).await.unwrap();
    assert!(
        answer.warnings[0].contains("token_max_ttl"),
        "{:?}",
        answer.warnings
    );
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_changes_nothing() {
    let (trial, _) = Trial::with_role(json!({"local_secret_ids": true})).await;
    let before = trial.mounted.read("role/web").await.unwrap().data;
    let cases = [
        ("role/a+b", json!({}), "role_name"),
        (
            "role/new",
            json!({"bind_secret_id": false}),
            "bind_secret_id",
        ),
        (
            "role/web",
            json!({"bind_secret_id": false}),
            "bind_secret_id",
        ),
        (
            "role/web",
            json!({"token_ttl": "2h", "token_max_ttl": "1h"}),
            "token_ttl",
        ),
        (
            "role/web",
            json!({"secret_id_num_uses": -1}),
            "secret_id_num_uses",
        ),
        ("role/web", json!({"secret_id_ttl": -1}), "secret_id_ttl"),
        (
            "role/web",
            json!({"secret_id_bound_cidrs": "x"}),
            "secret_id_bound_cidrs",
        ),
        (
            "role/web",
            json!({"bound_cidr_list": "x"}),
            "bound_cidr_list",
        ),
        ("role/web", json!({"token_type": "x"}), "token_type"),
        (
            "role/web",
            json!({"token_type": "batch", "token_num_uses": 1}),
            "token_type",
        ),
        (
            "role/web",
            json!({"local_secret_ids": false}),
            "local_secret_ids",
        ),
        ("role/web", json!({"policies": "root"}), "token_policies"),
        (
            "role/web",
            json!({"token_bound_cidr": "10.0.0.0/8"}),
            "token_bound_cidr",
        ),
        (
            "role/web/secret-id",
            json!({"secret_id_num_uses": 1}),
            "secret_id_num_uses",
        ),
        (
            "role/web/custom-secret-id",
            json!({"secret_id": "x", "uses": 1}),
            "uses",
        ),
        ("role/web/role-id", json!({}), "role_id"),
        ("role/web/role-id", json!({"role_id": ""}), "role_id"),
    ];
    for (path, body, field) in cases {
        let error = trial.mounted.write(path, body.clone()).await.unwrap_err();
        let start = format!("field \"{field}\":");
        assert!(
            error.to_string().starts_with(&start),
            "{path} {body}: {error}"
        );
    }
    assert_eq!(trial.mounted.read("role/web").await.unwrap().data, before);
    // Without secret ids a role needs networks.
    let bodies = [
        json!({"bind_secret_id": false, "token_bound_cidrs": "127.0.0.1"}),
        json!({"bind_secret_id": false, "secret_id_bound_cidrs": "127.0.0.1"}),
    ];
    for body in bodies {
        trial.mounted.write("role/open", body).await.unwrap();
        trial.mounted.delete("role/open").await.unwrap();
    }
}

#[tokio::test]
async fn a_role_id_is_chosen_changed_and_never_shared() {
    let (trial, role_id) = Trial::with_role(json!({})).await;
    let mounted = &trial.mounted;
    assert_eq!(role_id.len(), 36);
    let (secret_id, _) = trial.secret_id(json!({})).await;
    mounted
        .write("role/api", json!({"role_id": "mine"}))
        .await
        .unwrap();
    assert_eq!(trial.role_id("api").await, "mine");
    for (path, body) in [
        ("role/web/role-id", json!({"role_id": "mine"})),
        ("role/web", json!({"role_id": "mine"})),
        ("role/new", json!({"role_id": "mine"})),
    ] {
        let error = mounted.write(path, body).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "field \"role_id\": already in use",
            "{path}"
        );
    }
    // Secret ids stay with the role.
    mounted
        .write("role/web/role-id", json!({"role_id": "Web"}))
        .await
        .unwrap();
    assert!(is_refused(trial.login(&role_id, &secret_id).await));
    assert!(is_refused(trial.login("web", &secret_id).await));
    assert!(trial.login("Web", &secret_id).await.is_ok());
    // A role id that is given up may be taken.
    mounted
        .write("role/api", json!({"role_id": role_id}))
        .await
        .unwrap();
    assert!(is_refused(trial.login(&role_id, &secret_id).await));
    for path in ["role/none/role-id", "role/none"] {
        assert!(
            matches!(mounted.read(path).await, Err(BackendError::NotFound)),
            "{path}"
        );
    }
    let body = json!({"role_id": "x"});
    assert!(matches!(
        mounted.write("role/none/role-id", body).await,
        Err(BackendError::NotFound)
    ));
    assert_eq!((trial.keys("role/"), trial.keys("name/")), (2, 2));
    assert!(
        trial
            .host
            .store
            .keys()
            .iter()
            .all(|key| !key.contains("mine"))
    );
}

#[tokio::test]
async fn changes_at_once_are_all_kept() {
    let (trial, _) = Trial::with_role(json!({})).await;
    let (ttl, policies, role_id, uses) = tokio::join!(
        trial.mounted.write("role/web", json!({"token_ttl": 60})),
        trial
            .mounted
            .write("role/web/policies", json!({"policies": "p"})),
        trial
            .mounted
            .write("role/web/role-id", json!({"role_id": "r"})),
        trial.mounted.write(
            "role/web/secret-id-num-uses",
            json!({"secret_id_num_uses": 3})
        ),
    );
    ttl.and(policies).and(role_id).and(uses).unwrap();
    let answer = trial.mounted.read("role/web").await.unwrap();
    assert_eq!(
        (
            &answer["token_ttl"],
            &answer["policies"],
            &answer["secret_id_num_uses"]
        ),
        (&json!(60), &json!(["p"]), &json!(3))
    );
    assert_eq!(trial.role_id("web").await, "r");
}

#[tokio::test]
async fn two_roles_at_once_do_not_get_one_role_id() {
    let trial = Trial::new().await;
    let body = json!({"role_id": "same"});
    let (one, other) = tokio::join!(
        trial.mounted.write("role/one", body.clone()),
        trial.mounted.write("role/other", body.clone()),
    );
    assert!(one.is_ok() != other.is_ok());
    assert_eq!((trial.keys("role/"), trial.keys("name/")), (1, 1));
}
