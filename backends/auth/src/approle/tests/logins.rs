//! Logins: who gets in, at what cost, and how often.

use std::collections::BTreeMap;

use daypass_contract::{BackendError, Peer};
use serde_json::json;

use super::{Trial, is_refused};

#[tokio::test]
async fn a_login_says_who_it_is_and_what_its_token_may_be_like() {
    let role = json!({"token_policies": "app", "token_ttl": "5m"});
    let (trial, role_id) = Trial::with_role(role).await;
    let body = json!({"metadata": "{\"team\":\"web\",\"role_name\":\"other\"}"});
    let (secret_id, _) = trial.secret_id(body).await;
    let login = trial.login(&role_id, &secret_id).await.unwrap();
    assert_eq!(
        (&login.alias.name, login.display_name.as_str()),
        (&role_id, "")
    );
    assert_eq!(
        json!(login.metadata),
        json!({"team": "web", "role_name": "web"})
    );
    assert_eq!(login.token.token_policies, ["app"]);
    assert!(!login.renewal.as_json().contains(&secret_id));
    // Nobody else can be kept out by failing in its name.
    let body = json!({"role_id": role_id, "secret_id": "x"});
    assert_eq!(trial.mounted.claimed("login", body), None);
}

#[tokio::test]
async fn whatever_is_wrong_the_answer_is_the_same() {
    let (trial, role_id) = Trial::with_role(json!({})).await;
    let (secret_id, _) = trial.secret_id(json!({})).await;
    trial.mounted.write("role/api", json!({})).await.unwrap();
    let other = trial.role_id("api").await;
    for (role_id, secret_id) in [
        ("none", secret_id.as_str()),
        (&role_id, "none"),
        (&other, &secret_id),
        ("none", "none"),
    ] {
        assert!(
            is_refused(trial.login(role_id, secret_id).await),
            "{role_id} {secret_id}"
        );
    }
    for role_id in [role_id.as_str(), "none", ""] {
        for secret_id in [json!(null), json!("")] {
            let body = json!({"role_id": role_id, "secret_id": secret_id});
            let login = trial.mounted.login("login", body, Peer::default()).await;
            let said = login.err().map(|error| error.to_string());
            assert_eq!(said.as_deref(), Some("missing secret_id"), "{role_id}");
        }
    }
    let login = trial
        .mounted
        .login("login", json!({}), Peer::default())
        .await;
    let said = login.err().map(|error| error.to_string());
    assert_eq!(said.as_deref(), Some("field \"role_id\": is required"));
}

#[tokio::test]
async fn a_login_reads_two_records_and_writes_only_where_uses_are_counted() {
    let (trial, role_id) = Trial::with_role(json!({})).await;
    let (free, _) = trial.secret_id(json!({"ttl": 60, "metadata": "a=b"})).await;
    let (counted, _) = trial.secret_id(json!({"num_uses": 9})).await;
    let store = &trial.host.store;
    let cost = async |secret_id: &str| {
        let (gets, batches) = (store.gets(), store.batches());
        let _ = trial.login(&role_id, secret_id).await;
        (store.gets() - gets, store.batches() - batches)
    };
    assert_eq!(cost(&free).await, (2, 0));
    assert_eq!(cost(&counted).await, (3, 1));
    assert_eq!(cost("none").await, (2, 0));
}

#[tokio::test]
async fn n_uses_are_n_under_concurrency() {
    let (trial, role_id) = Trial::with_role(json!({"secret_id_num_uses": 7})).await;
    let (secret_id, _) = trial.secret_id(json!({"ttl": 60})).await;
    // Two servers on one storage, where only its revisions keep the count.
    let other = trial.restarted().await;
    let mut attempts = tokio::task::JoinSet::new();
    let trials = [std::sync::Arc::new(trial), std::sync::Arc::new(other)];
    for n in 0..40 {
        let trial = std::sync::Arc::clone(&trials[n % 2]);
        let (role_id, secret_id) = (role_id.clone(), secret_id.clone());
        attempts.spawn(async move { trial.login(&role_id, &secret_id).await.map(drop) });
    }
    let mut outcomes = BTreeMap::new();
    while let Some(outcome) = attempts.join_next().await {
        let text = outcome.unwrap().map_err(|error| error.to_string());
        *outcomes.entry(text.err()).or_insert(0) += 1;
    }
    let refused = Some("invalid role or secret ID".to_owned());
    assert_eq!(outcomes, BTreeMap::from([(None, 7), (refused, 33)]));
    assert_eq!(trials[0].kept(), (0, 0, 0));
}

#[tokio::test]
async fn networks_are_checked_and_a_login_from_elsewhere_costs_no_use() {
    // role's networks, secret id's, then addresses that get in and that do not
    let any = "";
    let cases = [
        (any, any, vec!["127.0.0.1", "10.0.0.1", "::1"], vec![]),
        (
            "10.0.0.0/8",
            any,
            vec!["10.0.0.1", "::ffff:10.0.0.1"],
            vec!["127.0.0.1", "::1"],
        ),
        (any, "10.0.0.1/32", vec!["10.0.0.1"], vec!["10.0.0.2"]),
        (
            "10.0.0.0/8",
            "10.0.0.1",
            vec!["10.0.0.1"],
            vec!["10.0.0.2", "11.0.0.1"],
        ),
    ];
    for (role, own, inside, outside) in cases {
        for (of_role, of_secret_id) in [
            ("secret_id_bound_cidrs", "cidr_list"),
            ("token_bound_cidrs", "token_bound_cidrs"),
        ] {
            let (trial, role_id) = Trial::with_role(json!({of_role: role})).await;
            let body = json!({of_secret_id: own, "num_uses": 10});
            let (secret_id, _) = trial.secret_id(body).await;
            for address in &outside {
                let login = trial.login_from(&role_id, &secret_id, address).await;
                assert!(is_refused(login), "{of_role} {role} {own}: {address}");
            }
            let unknown = json!({"role_id": role_id, "secret_id": secret_id});
            let unknown = trial.mounted.login("login", unknown, Peer::default()).await;
            assert_eq!(
                unknown.is_ok(),
                role.is_empty() && own.is_empty(),
                "{of_role}"
            );
            for address in &inside {
                let login = trial.login_from(&role_id, &secret_id, address).await;
                assert!(login.is_ok(), "{of_role} {role} {own}: {address}");
            }
            let spent = inside.len() + usize::from(unknown.is_ok());
            let body = json!({"secret_id": secret_id});
            let left = trial
                .mounted
                .write("role/web/secret-id/lookup", body)
                .await
                .unwrap();
            assert_eq!(left["secret_id_num_uses"], 10 - spent);
        }
    }
}

#[tokio::test]
async fn a_token_is_bound_to_the_secret_ids_networks_within_the_roles_of_today() {
    let (trial, role_id) = Trial::with_role(json!({"token_bound_cidrs": "127.0.0.0/8"})).await;
    let body = json!({"token_bound_cidrs": "127.0.0.0/16,127.9.0.0/16"});
    let (secret_id, _) = trial.secret_id(body).await;
    let bound = async || {
        let login = trial.login(&role_id, &secret_id).await?;
        Ok::<_, BackendError>(json!(login.token.token_bound_cidrs))
    };
    assert_eq!(
        bound().await.unwrap(),
        json!(["127.0.0.0/16", "127.9.0.0/16"])
    );
    let narrow = async |cidrs: &str| {
        let body = json!({"token_bound_cidrs": cidrs});
        trial.mounted.write("role/web", body).await.unwrap();
    };
    narrow("127.0.0.0/9").await;
    assert_eq!(
        bound().await.unwrap(),
        json!(["127.0.0.0/16", "127.9.0.0/16"])
    );
    narrow("127.0.0.0/16,::1").await;
    assert_eq!(bound().await.unwrap(), json!(["127.0.0.0/16"]));
    narrow("10.0.0.0/8").await;
    assert!(bound().await.is_err());
    // The role's networks for logins, too, are those of today.
    trial
        .mounted
        .delete("role/web/token-bound-cidrs")
        .await
        .unwrap();
    assert!(bound().await.is_ok());
    let body = json!({"secret_id_bound_cidrs": "10.0.0.0/8"});
    trial.mounted.write("role/web", body).await.unwrap();
    assert!(bound().await.is_err());
}

#[tokio::test]
async fn a_role_without_secret_ids_asks_for_none() {
    let role = json!({"bind_secret_id": false, "secret_id_bound_cidrs": "127.0.0.1",
        "token_policies": "app"});
    let (trial, role_id) = Trial::with_role(role).await;
    for secret_id in ["", "whatever"] {
        let login = trial.login(&role_id, secret_id).await.unwrap();
        assert_eq!(json!(login.metadata), json!({"role_name": "web"}));
    }
    assert!(is_refused(trial.login_from(&role_id, "", "10.0.0.1").await));
}

#[tokio::test]
async fn a_renewal_asks_the_role_as_it_is_now() {
    let (trial, role_id) = Trial::with_role(json!({"token_ttl": 60})).await;
    let (secret_id, _) = trial.secret_id(json!({"num_uses": 1})).await;
    let made = trial.login(&role_id, &secret_id).await.unwrap();
    let body = json!({"token_ttl": 90, "role_id": "another"});
    trial.mounted.write("role/web", body).await.unwrap();
    let later = trial.restarted().await;
    let asked = later
        .mounted
        .backend
        .renew_login(&made.renewal)
        .await
        .unwrap();
    assert_eq!(asked.token_ttl.as_secs(), 90);
    later.mounted.delete("role/web").await.unwrap();
    let gone = later.mounted.backend.renew_login(&made.renewal).await;
    assert!(matches!(gone, Err(BackendError::LoginFailed(_))));
    later.mounted.write("role/web", json!({})).await.unwrap();
    let gone = later.mounted.backend.renew_login(&made.renewal).await;
    assert!(
        gone.is_err(),
        "another role of the same name is not the same role"
    );
}
