//! The method as a whole, against a server that behaves as the documents say an API server does: there is
//! no cluster in these tests.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use daypass_conformance::{Https, HttpsReply, HttpsRequest, Kind, Mounted, Signer, TestHost};
use daypass_contract::{BackendError, Login, Peer};
use serde_json::{Value, json};

use super::{Kubernetes, Pod};

type Misbehave = fn(&HttpsRequest) -> HttpsReply;

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// A projected token, as a kubelet puts it into a pod.
fn projected(signer: &Signer, namespace: &str, name: &str, audience: &str) -> String {
    signer.sign(&json!({
        "aud": [audience], "exp": 1_767_229_200, "iat": 1_767_225_600, "nbf": 1_767_225_600,
        "iss": "https://kubernetes.default.svc.cluster.local", "jti": "0b1c",
        "kubernetes.io": {
            "namespace": namespace, "node": {"name": "n1", "uid": "nu"},
            "pod": {"name": "app-7d", "uid": "pu"},
            "serviceaccount": {"name": name, "uid": "u-1"},
        },
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
    }))
}

/// What an API server answers about such a token: it believes what the token says.
fn api_server(request: &HttpsRequest) -> HttpsReply {
    if request.path != REVIEWS || request.authorization != "Bearer reviewer" {
        return HttpsReply::Json(401, json!({"kind": "Status", "code": 401}));
    }
    let token = request.body["spec"]["token"].as_str().unwrap();
    let claims = crate::jwt::unverified_claims(token).unwrap();
    let own = json!(["https://kubernetes.default.svc.cluster.local"]);
    let asked = request.body["spec"]
        .get("audiences")
        .unwrap_or(&own)
        .clone();
    let status = if asked[0] == claims["aud"][0] {
        json!({"authenticated": true, "audiences": asked, "user": {"username": claims["sub"],
            "uid": "u-1", "groups": ["system:serviceaccounts", "system:authenticated"]}})
    } else {
        json!({"error": "[invalid bearer token, token audiences [..] is invalid]", "user": {}})
    };
    HttpsReply::Json(
        201,
        json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"creationTimestamp": null}, "spec": request.body["spec"], "status": status}),
    )
}

struct World {
    cluster: Https,
    mount: Mounted,
    signer: Signer,
}

impl World {
    async fn new() -> Self {
        let (host, cluster) = (TestHost::new(), Https::start(api_server));
        let pod = Pod("/nonexistent".into());
        let mount = Mounted::new(Arc::new(Kubernetes::new(host.host(), pod)), &host);
        let config = json!({"kubernetes_host": cluster.url(), "kubernetes_ca_cert": cluster.pem(),
            "token_reviewer_jwt": "reviewer", "disable_local_ca_jwt": true});
        mount.write("config", config).await.unwrap();
        let role = json!({"bound_service_account_names": "app,web-*",
            "bound_service_account_namespaces": "prod", "audience": "daypass",
            "token_policies": "deploy", "token_ttl": "10m"});
        mount.write("role/app", role).await.unwrap();
        Self {
            cluster,
            mount,
            signer: Signer::new("k", "RS256"),
        }
    }

    fn token(&self) -> String {
        projected(&self.signer, "prod", "app", "daypass")
    }

    async fn login(&self, token: &str) -> Result<Login, BackendError> {
        let body = json!({"role": "app", "jwt": token});
        self.mount.login("login", body, Peer::default()).await
    }

    async fn said(&self, token: &str) -> String {
        match self.login(token).await {
            Ok(_) => "good".into(),
            Err(error) => error.to_string(),
        }
    }
}

#[tokio::test]
async fn a_service_account_logs_in_as_the_role_says() {
    let world = World::new().await;
    let made = world.login(&world.token()).await.unwrap();
    assert_eq!(made.alias.name, "u-1");
    assert_eq!(made.display_name, "prod-app");
    let mut metadata = json!({"service_account_name": "app", "service_account_namespace": "prod",
        "service_account_secret_name": "", "service_account_uid": "u-1"});
    assert_eq!(json!(made.alias.metadata), metadata);
    metadata["role"] = json!("app");
    assert_eq!(json!(made.metadata), metadata);
    assert_eq!(made.token.token_policies, ["deploy"]);
    assert_eq!(made.token.token_ttl, Duration::from_secs(600));
    let asked = world.cluster.requests().pop().unwrap();
    assert_eq!(
        (asked.method.as_str(), asked.path.as_str()),
        ("POST", REVIEWS)
    );
    assert_eq!(
        asked.body,
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": world.token(), "audiences": ["daypass"]}})
    );
    let web = projected(&world.signer, "prod", "web-1", "daypass");
    assert_eq!(world.said(&web).await, "good");

    world
        .mount
        .write(
            "role/app",
            json!({"alias_name_source": "serviceaccount_name"}),
        )
        .await
        .unwrap();
    let made = world.login(&world.token()).await.unwrap();
    assert_eq!(made.alias.name, "prod/app");
    let renewed = world
        .mount
        .backend
        .renew_login(&made.renewal)
        .await
        .unwrap();
    assert_eq!(renewed.token_policies, ["deploy"]);
    world.mount.delete("role/app").await.unwrap();
    assert!(
        world
            .mount
            .backend
            .renew_login(&made.renewal)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn nobody_is_asked_about_a_token_that_would_not_do() {
    let world = World::new().await;
    let signer = &world.signer;
    let cases = [
        (String::new(), "missing jwt"),
        ("hunter2".into(), "permission denied"),
        ("a.b.c".into(), "permission denied"),
        (signer.sign(&json!({"sub": "alice"})), "permission denied"),
        (
            projected(signer, "prod", "other", "daypass"),
            "name not authorized",
        ),
        (
            projected(signer, "dev", "app", "daypass"),
            "namespace not authorized",
        ),
    ];
    for (token, want) in cases {
        let said = world.said(&token).await;
        assert!(said.contains(want), "{want}: {said}");
    }
    assert_eq!(world.cluster.requests().len(), 0);
    let login = |body| world.mount.login("login", body, Peer::default());
    let said = login(json!({"jwt": "x"})).await.err().unwrap().to_string();
    assert_eq!(said, "missing role");
    let body = json!({"role": "none", "jwt": world.token()});
    assert_eq!(
        login(body).await.err().unwrap().to_string(),
        "invalid role name"
    );
}

#[tokio::test]
async fn the_api_server_has_the_last_word() {
    let world = World::new().await;
    assert_eq!(world.said(&world.token()).await, "good");
    let other = projected(&world.signer, "prod", "app", "vault");
    assert_eq!(
        world.said(&other).await,
        "permission denied",
        "another audience"
    );

    let user = |name: &str, uid: &str| json!({"username": format!("system:serviceaccount:prod:{name}"), "uid": uid});
    let good = json!({"authenticated": true, "audiences": ["daypass"], "user": user("app", "u-1")});
    let with = |name: &str, value: Value| {
        let mut status = good.clone();
        status[name] = value;
        json!({ "status": status })
    };
    let denied = "permission denied";
    let cases = [
        (201, with("authenticated", json!(true)), "good"),
        (200, with("authenticated", json!(true)), "good"),
        (201, with("authenticated", json!(false)), denied),
        (201, json!({"status": {}}), denied),
        (201, with("error", json!("invalid")), denied),
        (201, with("audiences", json!([])), denied),
        (201, with("audiences", json!(["other"])), denied),
        (201, with("user", user("web-1", "u-1")), denied),
        (201, with("user", user("app", "")), denied),
        (
            201,
            with("user", json!({"username": "app", "uid": "1"})),
            denied,
        ),
        (201, with("user", json!({})), denied),
        (201, json!({}), "not a token review"),
        (
            201,
            json!({"status": {"authenticated": "true"}}),
            "not a token review",
        ),
        (202, with("authenticated", json!(true)), "status 202"),
        (
            401,
            json!({"kind": "Status", "message": "Unauthorized"}),
            "(401)",
        ),
        (
            403,
            json!({"kind": "Status", "message": "hunter2"}),
            "system:auth-delegator",
        ),
        (404, json!({}), "status 404"),
        (
            500,
            json!({"kind": "Status", "message": "hunter2"}),
            "status 500",
        ),
    ];
    for (status, body, want) in cases {
        let answer = body.clone();
        world
            .cluster
            .behave(move |_| HttpsReply::Json(status, answer.clone()));
        let said = world.said(&world.token()).await;
        assert!(said.contains(want), "{status} {body}: {said}");
        assert!(!said.contains("hunter2") && !said.contains("eyJ"), "{said}");
    }
    let cases: [(Misbehave, &str); 4] = [
        (
            |_| HttpsReply::Text(200, "<html>".into()),
            "not a token review",
        ),
        (
            |_| HttpsReply::Redirect("https://127.0.0.1:1/".into()),
            "status 302",
        ),
        (|_| HttpsReply::Endless, "larger than"),
        (|_| HttpsReply::Hang, "did not answer in time"),
    ];
    for (behave, want) in cases {
        world.cluster.behave(behave);
        let failed = world.login(&world.token()).await;
        let unavailable = matches!(failed, Err(BackendError::Unavailable { .. }));
        let said = failed.err().unwrap().to_string();
        assert!(unavailable && said.contains(want), "{want}: {said}");
    }
    let World {
        cluster,
        mount,
        signer,
    } = world;
    drop(cluster);
    let body = json!({"role": "app", "jwt": projected(&signer, "prod", "app", "daypass")});
    let down = mount.login("login", body, Peer::default()).await;
    assert!(matches!(down, Err(BackendError::Unavailable { .. })));
}

#[tokio::test]
async fn the_issuer_is_checked_where_that_is_asked_for() {
    let world = World::new().await;
    let config = |issuer: &str| {
        json!({"kubernetes_host": world.cluster.url(), "kubernetes_ca_cert": world.cluster.pem(),
            "token_reviewer_jwt": "reviewer", "disable_local_ca_jwt": true,
            "disable_iss_validation": false, "issuer": issuer})
    };
    let own = "https://kubernetes.default.svc.cluster.local";
    world.mount.write("config", config(own)).await.unwrap();
    assert_eq!(world.said(&world.token()).await, "good");
    let other = config("https://other");
    world.mount.write("config", other).await.unwrap();
    assert!(world.said(&world.token()).await.contains("(iss)"));
}

#[tokio::test]
async fn in_a_pod_its_own_service_account_asks() {
    let (host, cluster) = (TestHost::new(), Https::start(api_server));
    let folder = tempfile::tempdir().unwrap();
    let pod = Pod(folder.path().to_owned());
    let mount = Mounted::new(Arc::new(Kubernetes::new(host.host(), pod)), &host);
    mount
        .write("config", json!({"kubernetes_host": cluster.url()}))
        .await
        .unwrap();
    let role = json!({"bound_service_account_names": "app", "audience": "daypass",
        "bound_service_account_namespaces": "prod"});
    mount.write("role/app", role).await.unwrap();
    let token = projected(&Signer::new("k", "ES256"), "prod", "app", "daypass");
    let body = json!({"role": "app", "jwt": token});
    let login = || mount.login("login", body.clone(), Peer::default());
    // Neither file: the system's authorities do not know this cluster.
    assert!(matches!(
        login().await,
        Err(BackendError::Unavailable { .. })
    ));
    fs::write(folder.path().join("ca.crt"), cluster.pem()).unwrap();
    // No token of its own: the caller's is shown, which this cluster does not know.
    assert!(matches!(login().await, Err(BackendError::LoginFailed(_))));
    let shown = cluster.requests().pop().unwrap().authorization;
    assert_eq!(shown, format!("Bearer {token}"));
    fs::write(folder.path().join("token"), "reviewer\n").unwrap();
    login().await.unwrap();
}

#[tokio::test]
async fn configuration_and_roles_are_checked_and_read_as_they_were_written() {
    let world = World::new().await;
    let (mount, url, pem) = (&world.mount, world.cluster.url(), world.cluster.pem());
    let read = mount.read("config").await.unwrap();
    assert_eq!(
        read.data,
        json!({"kubernetes_host": url, "kubernetes_ca_cert": pem, "token_reviewer_jwt_set": true,
            "disable_local_ca_jwt": true, "issuer": "", "disable_iss_validation": true, "pem_keys": []})
    );
    let read = mount.read("role/app").await.unwrap();
    assert_eq!(read["bound_service_account_names"], json!(["app", "web-*"]));
    assert_eq!(read["alias_name_source"], "serviceaccount_uid");
    assert_eq!(read["audience"], "daypass");
    assert_eq!(read["token_ttl"], 600);
    assert_eq!(mount.list("role").await.unwrap()["keys"], json!(["app"]));
    // As hvac sends it.
    let old = json!({"bound_service_account_names": ["a"], "bound_service_account_namespaces": ["*"],
        "policies": ["x"], "ttl": "1h", "max_ttl": "2h"});
    let answer = mount.write("role/old", old).await.unwrap();
    assert_eq!(answer.kind, Kind::Nothing);
    assert!(answer.warnings[0].contains("audience"));
    let read = mount.read("role/old").await.unwrap();
    assert_eq!(
        (&read["token_policies"], &read["token_max_ttl"]),
        (&json!(["x"]), &json!(7200))
    );

    let both = |names: Value, namespaces: Value| json!({"bound_service_account_names": names, "bound_service_account_namespaces": namespaces});
    let refused = [
        ("config", json!({}), "no host provided"),
        (
            "config",
            json!({"kubernetes_host": "http://10.0.0.1"}),
            "https://",
        ),
        ("config", json!({"kubernetes_host": "foo"}), "must be a URL"),
        (
            "config",
            json!({"kubernetes_host": url, "kubernetes_ca_cert": "x"}),
            "in PEM",
        ),
        (
            "config",
            json!({"kubernetes_host": url, "disable_local_ca_jwt": true}),
            "must be given",
        ),
        (
            "config",
            json!({"kubernetes_host": url, "disable_iss_validation": false}),
            "\"issuer\"",
        ),
        (
            "config",
            json!({"kubernetes_host": url, "pem_keys": "x"}),
            "auth method jwt",
        ),
        (
            "config",
            json!({"kubernetes_host": url, "kubernetes_ca_crt": "x"}),
            "\"kubernetes_ca_cert\"?",
        ),
        ("role/x", both(json!("*"), json!("*")), "every pod"),
        ("role/x", both(json!("**"), json!("*")), "every pod"),
        ("role/x", both(json!("a,*"), json!("n")), "can not mix"),
        ("role/x", both(json!(""), json!("n")), "can not be empty"),
        (
            "role/x",
            json!({"bound_service_account_names": "a"}),
            "namespaces\": can not be empty",
        ),
        (
            "role/x",
            json!({"bound_service_account_namespace_selector": "a"}),
            "is not known here",
        ),
    ];
    for (path, body, want) in refused {
        let said = mount.write(path, body).await.unwrap_err().to_string();
        assert!(said.contains(want), "{want}: {said}");
    }
}
