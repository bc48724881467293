//! `userpass` through its routes, as the engine calls it.

use std::sync::Arc;

use daypass_conformance::{Kind, Mounted, Subject, TestHost, run_unleased};
use daypass_contract::{Backend, BackendError, Peer, Secret, async_trait};
use serde_json::{Value, json};

use super::password::{Cost, PasswordHash};
use super::{UserRecord, key};

struct Case;

#[async_trait]
impl Subject for Case {
    async fn open(&self, host: &TestHost) -> Arc<dyn Backend> {
        super::open(host.host()).await.unwrap()
    }

    async fn configure(&self, mounted: &Mounted) {
        let user = json!({"password": "probe"});
        mounted.write("users/probe", user).await.unwrap();
    }
}

async fn mounted() -> (Mounted, TestHost) {
    let host = TestHost::new();
    (Mounted::new(Case.open(&host).await, &host), host)
}

fn login(error: BackendError) -> &'static str {
    match error {
        BackendError::LoginFailed(text) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn it_keeps_the_rules_of_every_backend() {
    run_unleased(&Case).await;
}

#[tokio::test]
async fn a_user_is_written_shown_listed_and_deleted() {
    let (mounted, host) = mounted().await;
    for body in [json!({}), json!({"password": ""}), json!({"token_ttl": 1})] {
        let error = mounted.write("users/ann", body).await.unwrap_err();
        assert!(error.to_string().contains("\"password\""), "{error}");
    }
    let body = json!({"password": "hunter2", "policies": "A,b", "ttl": "1m", "max_ttl": 120});
    mounted.write("users/Ann", body).await.unwrap();
    let shown = json!({
        "policies": ["a", "b"], "ttl": 60, "max_ttl": 120,
        "token_bound_cidrs": [], "token_explicit_max_ttl": 0, "token_max_ttl": 120,
        "token_no_default_policy": false, "token_num_uses": 0, "token_period": 0,
        "token_policies": ["a", "b"], "token_ttl": 60, "token_type": "default",
    });
    assert_eq!(mounted.read("users/ANN").await.unwrap().data, shown);
    // A password is kept that is not given again; an earlier name is forgotten with the present one.
    let body = json!({"token_ttl": "2m", "token_bound_cidrs": "10.0.0.0/8"});
    mounted.write("users/ann", body).await.unwrap();
    let answer = mounted.read("users/ann").await.unwrap();
    assert_eq!(
        (&answer["ttl"], &answer["token_ttl"]),
        (&Value::Null, &json!(120))
    );
    assert_eq!(answer["token_bound_cidrs"], json!(["10.0.0.0/8"]));
    let path = "users/ann/policies";
    assert!(mounted.write(path, json!({})).await.is_err());
    mounted.write(path, json!({"policies": "x"})).await.unwrap();
    assert_eq!(
        mounted.read("users/ann").await.unwrap()["policies"],
        json!(["x"])
    );
    let login = mounted
        .login("login/ANN", json!({"password": "hunter2"}), Peer::default())
        .await
        .unwrap();
    assert_eq!(login.token.token_policies, ["x"]);
    assert_eq!(
        (login.alias.name.as_str(), login.display_name.as_str()),
        ("ann", "ann")
    );
    assert_eq!(json!(login.metadata), json!({"username": "ann"}));

    mounted
        .write("users/bob", json!({"password": "x"}))
        .await
        .unwrap();
    assert_eq!(
        mounted.list("users").await.unwrap()["keys"],
        json!(["ann", "bob"])
    );
    assert!(mounted.backend.exists("users/Bob").await.unwrap());
    assert!(!mounted.backend.exists("users/carl").await.unwrap());
    assert_eq!(
        mounted.delete("users/BOB").await.unwrap().kind,
        Kind::Nothing
    );
    mounted.delete("users/bob").await.unwrap();
    assert!(matches!(
        mounted.read("users/bob").await,
        Err(BackendError::NotFound)
    ));
    assert!(!host.store.holds(b"hunter2"));
    let wrong = [
        ("users/a+b", json!({"password": "x"}), "username"),
        (
            "users/c",
            json!({"password_hash": "$2a$10$x"}),
            "password_hash",
        ),
        (
            "users/ann",
            json!({"password": "x", "password_hash": "y"}),
            "password_hash",
        ),
        (
            "users/ann/password",
            json!({"password_hash": "y"}),
            "password_hash",
        ),
        ("users/ann/password", json!({"password": ""}), "password"),
        (
            "users/ann",
            json!({"token_ttl": "2h", "token_max_ttl": "1h"}),
            "token_ttl",
        ),
        ("users/ann", json!({"bound_cidrs": "x"}), "bound_cidrs"),
        ("users/ann", json!({"policies": "root"}), "token_policies"),
        (
            "users/ann",
            json!({"token_bound_cidr": "::1"}),
            "token_bound_cidr",
        ),
    ];
    for (path, body, field) in wrong {
        let error = mounted.write(path, body.clone()).await.unwrap_err();
        let start = format!("field \"{field}\":");
        assert!(
            error.to_string().starts_with(&start),
            "{path} {body}: {error}"
        );
    }
    for path in ["users/nobody/password", "users/nobody/policies"] {
        let body = json!({"password": "x", "policies": "x"});
        let error = mounted.write(path, body).await.unwrap_err();
        assert!(matches!(error, BackendError::NotFound), "{error:?}");
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_name_are_the_same() {
    let (mounted, _) = mounted().await;
    mounted
        .write("users/ann", json!({"password": "one"}))
        .await
        .unwrap();
    let path = "users/ann/password";
    mounted
        .write(path, json!({"password": "two"}))
        .await
        .unwrap();
    let attempt = async |name: &str, password: &str| {
        let path = format!("login/{name}");
        let body = json!({"password": password});
        mounted.login(&path, body, Peer::default()).await
    };
    assert!(attempt("ann", "two").await.is_ok());
    for (name, password) in [("ann", "one"), ("ann", ""), ("bob", "two"), ("bob", "")] {
        let said = attempt(name, password).await.err().map(login);
        assert_eq!(
            said,
            Some("invalid username or password"),
            "{name} {password}"
        );
    }
    let none = mounted.login("login/ann", json!({}), Peer::default()).await;
    assert!(matches!(none, Err(BackendError::InvalidRequest(_))));
    // The name that is locked out is the one that is stored.
    let claimed = mounted.claimed("login/ANN", json!({"password": "x"}));
    assert_eq!(claimed.as_deref(), Some("ann"));
}

#[tokio::test]
async fn a_hash_grows_when_its_owner_logs_in() {
    let (mounted, host) = mounted().await;
    let body = json!({"password": "hunter2", "token_ttl": 60});
    mounted.write("users/ann", body).await.unwrap();
    let store = host.host().store;
    let stored = async || -> (UserRecord, _) {
        let entry = store.get(&key("ann")).await.unwrap().unwrap();
        (entry.decode().unwrap(), entry.revision)
    };
    let small = Cost {
        memory_kib: 64,
        passes: 1,
        lanes: 1,
    };
    let weak = PasswordHash::at_cost(&Secret::new("hunter2"), [7; 16], small)
        .await
        .unwrap();
    let (user, revision) = stored().await;
    let old = UserRecord {
        password: weak,
        ..user
    };
    let batch = daypass_contract::Batch::new().expect(key("ann"), Some(revision));
    store
        .apply(batch.put_json(key("ann"), &old).unwrap())
        .await
        .unwrap();

    let attempt = async |password: &str| {
        let body = json!({"password": password});
        mounted.login("login/ann", body, Peer::default()).await
    };
    assert!(attempt("hunter3").await.is_err());
    assert!(stored().await.0.password.is_outgrown());
    assert!(attempt("hunter2").await.is_ok());
    let (user, revision) = stored().await;
    assert!(!user.password.is_outgrown());
    assert_eq!(user.token.token_ttl.as_secs(), 60);
    // Once is enough.
    assert!(attempt("hunter2").await.is_ok());
    assert_eq!(stored().await.1, revision);
}

#[tokio::test]
async fn a_renewal_asks_for_the_user_it_was_made_for() {
    let (mounted, _) = mounted().await;
    let user = json!({"password": "x", "token_ttl": 60});
    mounted.write("users/ann", user.clone()).await.unwrap();
    let made = mounted
        .login("login/ann", json!({"password": "x"}), Peer::default())
        .await
        .unwrap();
    mounted
        .write("users/ann", json!({"token_ttl": 90}))
        .await
        .unwrap();
    let asked = mounted.backend.renew_login(&made.renewal).await.unwrap();
    assert_eq!(asked.token_ttl.as_secs(), 90);
    mounted.delete("users/ann").await.unwrap();
    mounted.write("users/ann", user).await.unwrap();
    let gone = mounted.backend.renew_login(&made.renewal).await;
    assert!(
        gone.is_err(),
        "another user of the same name is not the same user"
    );
}

#[tokio::test]
async fn changes_at_once_are_all_kept() {
    let (mounted, _) = mounted().await;
    mounted
        .write("users/ann", json!({"password": "x"}))
        .await
        .unwrap();
    let (ttl, policies, password) = tokio::join!(
        mounted.write("users/ann", json!({"token_ttl": 60})),
        mounted.write("users/ann/policies", json!({"policies": "p"})),
        mounted.write("users/ann/password", json!({"password": "y"})),
    );
    ttl.and(policies).and(password).unwrap();
    let answer = mounted.read("users/ann").await.unwrap();
    assert_eq!(
        (&answer["token_ttl"], &answer["policies"]),
        (&json!(60), &json!(["p"]))
    );
    let body = json!({"password": "y"});
    assert!(
        mounted
            .login("login/ann", body, Peer::default())
            .await
            .is_ok()
    );
}
