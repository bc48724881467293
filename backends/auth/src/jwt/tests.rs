//! The method as a whole: what is written is read, who logs in is who the token says, and the issuer may
//! change its keys, fall silent or misbehave.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use daypass_conformance::{Https, HttpsReply, HttpsRequest, Mounted, Signer, TestHost, jwks};
use daypass_contract::{BackendError, Clock as _, Login, Peer};
use serde_json::{Value, json};

use super::open;

type Misbehave = fn(&HttpsRequest) -> HttpsReply;

/// An issuer with keys that can be exchanged.
struct Issuer {
    https: Https,
    keys: Arc<Mutex<Value>>,
}

impl Issuer {
    fn new(keys: &[&Signer]) -> Self {
        let keys = Arc::new(Mutex::new(jwks(keys)));
        let https = Https::start(|_| HttpsReply::Hang);
        let issuer = Self { https, keys };
        issuer.answer();
        issuer
    }

    /// Behaves as an issuer does.
    fn answer(&self) {
        let (keys, url) = (Arc::clone(&self.keys), self.https.url());
        self.https.behave(move |request: &HttpsRequest| {
            match request.path.as_str() {
                "/.well-known/openid-configuration" => HttpsReply::Json(
                    200,
                    json!({"issuer": url, "jwks_uri": format!("{url}/jwks"), "token_endpoint": "x"}),
                ),
                "/jwks" => HttpsReply::Json(200, keys.lock().unwrap().clone()),
                _ => HttpsReply::Text(404, "no".into()),
            }
        });
    }

    fn publish(&self, keys: &[&Signer]) {
        *self.keys.lock().unwrap() = jwks(keys);
    }

    /// How often its keys were asked for.
    fn asked(&self) -> usize {
        self.https.count("/jwks")
    }

    async fn configure(&self, mount: &Mounted) {
        let config = json!({"jwks_url": format!("{}/jwks", self.https.url()),
            "jwks_ca_pem": self.https.pem(), "bound_issuer": self.https.url()});
        mount.write("config", config).await.unwrap();
    }

    /// Claims that the role `app` lets in.
    fn claims(&self, host: &TestHost) -> Value {
        claims(&self.https.url(), host)
    }
}

fn claims(issuer: &str, host: &TestHost) -> Value {
    let now = host
        .clock
        .now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    json!({"iss": issuer, "sub": "octo/app", "aud": "daypass", "iat": now.as_secs(),
        "exp": now.as_secs() + 300, "repo": "octo/app", "deep": {"team": "web"}, "groups": ["a", "b"]})
}

async fn mount(host: &TestHost) -> Mounted {
    Mounted::new(open(host.host()).await.unwrap(), host)
}

async fn write_role(mount: &Mounted) {
    let role = json!({"role_type": "jwt", "bound_audiences": ["daypass"], "user_claim": "sub",
        "bound_claims": {"repo": ["octo/app", "octo/web"]}, "groups_claim": "groups",
        "claim_mappings": {"repo": "repository", "/deep/team": "team", "absent": "absent"},
        "token_policies": ["deploy"], "token_ttl": "10m"});
    mount.write("role/app", role).await.unwrap();
}

async fn login(mount: &Mounted, token: &str) -> Result<Login, BackendError> {
    let body = json!({"role": "app", "jwt": token});
    mount.login("login", body, Peer::default()).await
}

async fn said(mount: &Mounted, token: &str) -> String {
    match login(mount, token).await {
        Ok(_) => "good".into(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_token_of_the_issuer_logs_in_as_the_role_says() {
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let (host, signer) = (TestHost::new(), Signer::new("k1", algorithm));
        let issuer = Issuer::new(&[&signer]);
        let mount = mount(&host).await;
        issuer.configure(&mount).await;
        write_role(&mount).await;
        let made = login(&mount, &signer.sign(&issuer.claims(&host)))
            .await
            .unwrap();
        assert_eq!(made.alias.name, "octo/app");
        assert_eq!(made.display_name, "octo/app");
        let metadata = json!({"role": "app", "repository": "octo/app", "team": "web"});
        assert_eq!(json!(made.metadata), metadata);
        assert_eq!(json!(made.alias.metadata), metadata);
        assert_eq!(made.groups, ["a", "b"]);
        assert_eq!(made.token.token_policies, ["deploy"]);
        assert_eq!(made.token.token_ttl, Duration::from_secs(600));
        assert!(!made.renewal.as_json().contains("octo"));

        let renewed = mount.backend.renew_login(&made.renewal).await.unwrap();
        assert_eq!(renewed.token_policies, ["deploy"]);
        mount.delete("role/app").await.unwrap();
        let gone = mount.backend.renew_login(&made.renewal).await;
        assert!(matches!(gone, Err(BackendError::LoginFailed(_))));
        let body = json!({"role": "app", "jwt": "x"});
        assert_eq!(mount.claimed("login", body), None, "nothing is guessed");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_without_quoting_it() {
    let (host, signer, other) = (
        TestHost::new(),
        Signer::new("k1", "ES256"),
        Signer::new("k1", "ES256"),
    );
    let issuer = Issuer::new(&[&signer]);
    let mount = mount(&host).await;
    assert_eq!(said(&mount, "x").await, "could not load configuration");
    issuer.configure(&mount).await;
    assert_eq!(said(&mount, "x").await, "role could not be found");
    write_role(&mount).await;
    let good = issuer.claims(&host);
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signer.sign(&claims)
    };
    let unsigned = "no known key successfully validated";
    let cases = [
        (String::new(), "missing token"),
        ("hunter2".into(), unsigned),
        ("a".repeat(70_000), "missing token"),
        (other.sign(&good), unsigned),
        (with("iss", json!("https://evil.example")), "(iss)"),
        (with("aud", json!("vault")), "(aud)"),
        (with("exp", json!(5)), "token is expired"),
        (
            with("repo", json!("evil/app")),
            "claim \"repo\" does not match",
        ),
        (with("repo", Value::Null), "claim \"repo\" is missing"),
        (with("sub", json!("")), "\"sub\" could not be converted"),
        (with("sub", Value::Null), "\"sub\" not found"),
        (with("groups", Value::Null), "\"groups\" claim not found"),
        (with("groups", json!([1])), "list of strings"),
        (with("deep", json!({"team": 7})), "'/deep/team' to string"),
    ];
    for (token, want) in cases {
        let said = said(&mount, &token).await;
        assert!(said.contains(want), "{want}: {said}");
        assert!(
            !said.contains("evil") && !said.contains("hunter2"),
            "{said}"
        );
    }
    let missing = mount
        .login("login", json!({"jwt": "x"}), Peer::default())
        .await;
    assert_eq!(missing.err().unwrap().to_string(), "missing role");
}

#[tokio::test]
async fn the_default_role_is_used_where_none_is_named() {
    let (host, signer) = (TestHost::new(), Signer::new("k", "RS256"));
    let mount = mount(&host).await;
    let config = json!({"jwt_validation_pubkeys": signer.pem(), "bound_issuer": "me",
        "default_role": "app"});
    mount.write("config", config).await.unwrap();
    write_role(&mount).await;
    let body = json!({"jwt": signer.sign(&claims("me", &host))});
    let made = mount.login("login", body, Peer::default()).await.unwrap();
    assert_eq!(made.metadata["role"], "app");
}

#[tokio::test]
async fn configuration_and_roles_are_read_as_they_were_written() {
    let (host, signer) = (TestHost::new(), Signer::new("k", "RS256"));
    let mount = mount(&host).await;
    assert!(matches!(
        mount.read("config").await,
        Err(BackendError::NotFound)
    ));
    assert!(matches!(
        mount.list("role").await,
        Err(BackendError::NotFound)
    ));
    assert!(!mount.backend.exists("config").await.unwrap());
    let config = json!({"jwt_validation_pubkeys": [signer.pem()], "jwt_supported_algs": "RS256,ES256",
        "oidc_client_id": "", "namespace_in_state": true, "provider_config": {}});
    mount.write("config", config).await.unwrap();
    let read = mount.read("config").await.unwrap();
    assert_eq!(read["jwt_supported_algs"], json!(["RS256", "ES256"]));
    assert_eq!(read["jwt_validation_pubkeys"], json!([signer.pem()]));
    assert_eq!(read["bound_issuer"], "");
    assert!(mount.backend.exists("config").await.unwrap());

    write_role(&mount).await;
    // As the documents of Vault have it, and as hvac sends it.
    let old = json!({"bound_subject": "a", "user_claim": "sub", "policies": "x,y", "ttl": "1h",
        "allowed_redirect_uris": [], "verbose_oidc_logging": false});
    mount.write("role/old", old).await.unwrap();
    let read = mount.read("role/old").await.unwrap();
    assert_eq!(read["token_policies"], json!(["x", "y"]));
    assert_eq!(read["token_ttl"], 3600);
    assert_eq!(
        mount.list("role").await.unwrap()["keys"],
        json!(["app", "old"])
    );
    mount
        .write("role/app", json!({"token_ttl": "5m"}))
        .await
        .unwrap();
    let read = mount.read("role/app").await.unwrap();
    assert_eq!(read["token_ttl"], 300);
    assert_eq!(
        read["bound_claims"],
        json!({"repo": ["octo/app", "octo/web"]})
    );
    mount.delete("role/app").await.unwrap();
    assert!(matches!(
        mount.read("role/app").await,
        Err(BackendError::NotFound)
    ));

    let refused = [
        (
            "config",
            json!({"jwt_validation_pubkeys": signer.pem(), "oidc_client_secret": "s"}),
            "browser flow",
        ),
        (
            "config",
            json!({"jwt_validation_pubkeys": signer.pem(), "provider_config": {"a": 1}}),
            "browser flow",
        ),
        (
            "config",
            json!({"jwt_validation_pubkeys": signer.pem(), "bound_isuer": "a"}),
            "\"bound_issuer\"?",
        ),
        (
            "config",
            json!({"jwt_validation_pubkeys": signer.pem(), "jwt_supported_algs": "HS256"}),
            "expected one of",
        ),
        (
            "role/a",
            json!({"user_claim": "sub", "bound_subject": "a", "bound_claim": {}}),
            "\"bound_claims\"?",
        ),
        (
            "role/a",
            json!({"user_claim": "sub", "bound_subject": "a", "policies": "root"}),
            "never gives",
        ),
        ("role/a", json!({"user_claim": "sub"}), "at least one bound"),
    ];
    for (path, body, want) in refused {
        let said = mount.write(path, body).await.unwrap_err().to_string();
        assert!(said.contains(want), "{want}: {said}");
    }
    for (operation, path) in [
        (daypass_contract::Operation::Write, "oidc/auth_url"),
        (daypass_contract::Operation::Read, "oidc/callback"),
    ] {
        let answer = mount.request(operation, path, Value::Null).await;
        assert!(
            matches!(answer, Err(BackendError::Unsupported(_))),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_role_that_became_open_to_the_world_lets_nobody_in() {
    let (host, signer) = (TestHost::new(), Signer::new("k", "RS256"));
    let mount = mount(&host).await;
    mount
        .write("config", json!({"jwt_validation_pubkeys": signer.pem()}))
        .await
        .unwrap();
    let role = json!({"bound_audiences": "daypass", "user_claim": "sub"});
    mount.write("role/app", role).await.unwrap();
    let github = "https://token.actions.githubusercontent.com";
    let token = signer.sign(&claims(github, &host));
    assert_eq!(said(&mount, &token).await, "good");
    let config = json!({"jwt_validation_pubkeys": signer.pem(), "bound_issuer": github});
    mount.write("config", config).await.unwrap();
    assert!(said(&mount, &token).await.contains("anyone in the world"));
}

#[tokio::test]
async fn discovery_finds_the_keys_of_the_issuer_it_is_asked_for_and_no_other() {
    let (host, signer) = (TestHost::new(), Signer::new("k1", "ES256"));
    let issuer = Issuer::new(&[&signer]);
    let mount = mount(&host).await;
    let (url, pem) = (issuer.https.url(), issuer.https.pem().to_owned());
    let config = |url: &str| json!({"oidc_discovery_url": url, "oidc_discovery_ca_pem": pem});
    mount.write("config", config(&url)).await.unwrap();
    write_role(&mount).await;
    assert_eq!(
        said(&mount, &signer.sign(&issuer.claims(&host))).await,
        "good"
    );
    // Without bound_issuer the issuer is the one that was discovered.
    let foreign = claims("https://other.example", &host);
    assert!(said(&mount, &signer.sign(&foreign)).await.contains("(iss)"));

    let document =
        |document: Value| move |_: &HttpsRequest| HttpsReply::Json(200, document.clone());
    let said = |answer: Result<_, BackendError>| answer.err().unwrap().to_string();
    let cases = [
        (
            url.clone(),
            json!({"issuer": "https://other.example", "jwks_uri": "https://a"}),
            "letter by letter",
        ),
        (
            format!("{url}/"),
            json!({"issuer": url, "jwks_uri": "https://a"}),
            "letter by letter",
        ),
        (
            url.clone(),
            json!({"issuer": url, "jwks_uri": "http://other.example/jwks"}),
            "jwks_uri of https",
        ),
        (url.clone(), json!({"issuer": url}), "a discovery document"),
        (
            url.clone(),
            json!({"issuer": url, "jwks_uri": format!("{url}/jwks")}),
            "a key set",
        ),
    ];
    for (asked, answer, want) in cases {
        issuer.https.behave(document(answer));
        let said = said(mount.write("config", config(&asked)).await);
        assert!(
            said.starts_with("error checking oidc discovery URL"),
            "{said}"
        );
        assert!(said.contains(want), "{want}: {said}");
    }
    issuer.answer();
    // Without its authority it is not trusted.
    let said = said(
        mount
            .write("config", json!({"oidc_discovery_url": url}))
            .await,
    );
    assert!(said.contains("cannot be reached"), "{said}");
}

#[tokio::test]
async fn keys_that_change_are_followed_and_withdrawn_ones_refused() {
    let host = TestHost::new();
    let (one, two) = (Signer::new("1", "RS256"), Signer::new("2", "ES256"));
    let issuer = Issuer::new(&[&one]);
    let mount = mount(&host).await;
    issuer.configure(&mount).await;
    write_role(&mount).await;
    let token = |signer: &Signer| signer.sign(&issuer.claims(&host));
    let (of_one, of_two) = (token(&one), token(&two));
    assert_eq!(said(&mount, &of_one).await, "good");
    let asked = issuer.asked();
    for _ in 0..20 {
        assert_eq!(said(&mount, &of_one).await, "good");
        // An unknown key: the issuer was asked a moment ago.
        assert!(said(&mount, &of_two).await.contains("no known key"));
    }
    assert_eq!(
        issuer.asked(),
        asked,
        "no request follows from a caller's token"
    );

    issuer.publish(&[&one, &two]);
    host.clock.advance(Duration::from_secs(11));
    assert_eq!(said(&mount, &of_two).await, "good");
    assert_eq!(said(&mount, &of_one).await, "good");
    assert_eq!(issuer.asked(), asked + 1);

    // A key with a known id that is another one now.
    let changed = Signer::new("1", "RS256");
    issuer.publish(&[&changed, &two]);
    host.clock.advance(Duration::from_secs(11));
    assert_eq!(said(&mount, &token(&changed)).await, "good");
    assert!(said(&mount, &of_one).await.contains("no known key"));

    // A withdrawn key is refused once what is known grows old.
    issuer.publish(&[&two]);
    host.clock.advance(Duration::from_secs(30));
    assert_eq!(said(&mount, &token(&changed)).await, "good");
    host.clock.advance(Duration::from_secs(600));
    assert!(
        said(&mount, &token(&changed))
            .await
            .contains("no known key")
    );
    assert_eq!(said(&mount, &token(&two)).await, "good");
}

#[tokio::test]
async fn an_issuer_that_fails_stops_nobody_whose_key_is_known() {
    let failures: [Misbehave; 5] = [
        |_| HttpsReply::Text(500, "boom".into()),
        |_| HttpsReply::Text(200, "<html>".into()),
        |_| HttpsReply::Endless,
        |_| HttpsReply::Redirect("https://127.0.0.1:1/".into()),
        |_| HttpsReply::Json(200, json!({"error": "x"})),
    ];
    let (signer, new) = (Signer::new("1", "ES256"), Signer::new("2", "ES256"));
    for (at, failure) in failures.into_iter().enumerate() {
        let host = TestHost::new();
        let issuer = Issuer::new(&[&signer]);
        let mount = mount(&host).await;
        issuer.configure(&mount).await;
        write_role(&mount).await;
        assert_eq!(
            said(&mount, &signer.sign(&issuer.claims(&host))).await,
            "good"
        );
        issuer.https.behave(failure);
        host.clock.advance(Duration::from_secs(3600));
        let asked = issuer.asked();
        for _ in 0..5 {
            assert_eq!(
                said(&mount, &signer.sign(&issuer.claims(&host))).await,
                "good",
                "{at}"
            );
        }
        assert_eq!(issuer.asked(), asked + 1);
        // A key that may be new: come back later.
        let unknown = login(&mount, &new.sign(&issuer.claims(&host))).await;
        assert!(
            matches!(unknown, Err(BackendError::Unavailable { .. })),
            "{at}"
        );
        // Not for ever: whoever cuts the issuer off must not keep a withdrawn key alive.
        host.clock.advance(Duration::from_secs(24 * 3600));
        let late = login(&mount, &signer.sign(&issuer.claims(&host))).await;
        assert!(
            matches!(late, Err(BackendError::Unavailable { .. })),
            "{at}"
        );
        issuer.answer();
        host.clock.advance(Duration::from_secs(11));
        assert_eq!(
            said(&mount, &signer.sign(&issuer.claims(&host))).await,
            "good"
        );
    }
}

#[tokio::test]
async fn an_issuer_that_hangs_holds_up_one_login_and_is_left_alone_then() {
    let (host, signer) = (TestHost::new(), Signer::new("1", "ES256"));
    let issuer = Issuer::new(&[&signer]);
    let mount = mount(&host).await;
    issuer.configure(&mount).await;
    write_role(&mount).await;
    assert_eq!(
        said(&mount, &signer.sign(&issuer.claims(&host))).await,
        "good"
    );
    issuer.https.behave(|_| HttpsReply::Hang);
    host.clock.advance(Duration::from_secs(700));
    let token = signer.sign(&issuer.claims(&host));
    let (asked, began) = (issuer.asked(), Instant::now());
    // The first asks the issuer and waits for it; the others use what is known meanwhile.
    let (first, second, third) = tokio::join!(
        said(&mount, &token),
        said(&mount, &token),
        said(&mount, &token)
    );
    assert_eq!([first.as_str(), &second, &third], ["good"; 3]);
    assert!(began.elapsed() < Duration::from_secs(20));
    let began = Instant::now();
    assert_eq!(said(&mount, &token).await, "good");
    assert!(began.elapsed() < Duration::from_secs(4), "it is left alone");
    assert_eq!(issuer.asked(), asked + 1);
}

#[tokio::test]
async fn an_issuer_that_cannot_be_used_cannot_be_configured() {
    let host = TestHost::new();
    let issuer = Issuer::new(&[]);
    let mount = mount(&host).await;
    let config = json!({"jwks_url": format!("{}/jwks", issuer.https.url()),
        "jwks_ca_pem": issuer.https.pem()});
    let write = || async {
        let written = mount.write("config", config.clone()).await;
        written.err().unwrap().to_string()
    };
    assert!(write().await.contains("keys that can be used"));
    let cases: [(Misbehave, &str); 3] = [
        (|_| HttpsReply::Text(404, "no".into()), "status 404"),
        (|_| HttpsReply::Redirect("/jwks".into()), "status 302"),
        (|_| HttpsReply::Endless, "larger than"),
    ];
    for (behave, want) in cases {
        issuer.https.behave(behave);
        let said = write().await;
        assert!(
            said.starts_with("error checking jwks URL: ") && said.contains(want),
            "{said}"
        );
        assert!(!said.contains("127.0.0.1"), "{said}");
    }
    assert!(matches!(
        mount.read("config").await,
        Err(BackendError::NotFound)
    ));
}
