//! Pipelines and pods logging in with the tokens that their platforms give them: shaped exactly like those of
//! GitHub Actions, GitLab CI and Kubernetes, signed by a local issuer, because no real one can be had here.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use daypass_conformance::{Https, HttpsReply, HttpsRequest, Signer, jwks};
use serde_json::{Value, json};

use crate::server::Server;
use crate::tools;

const GITHUB: &str = "https://token.actions.githubusercontent.com";
const GITLAB: &str = "https://gitlab.com";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

#[expect(
    clippy::disallowed_methods,
    reason = "the server under test tells the time by the real clock"
)]
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// What `core.getIDToken("daypass")` gives in a workflow.
fn github(repository: &str) -> Value {
    let now = now();
    let owner = repository.split('/').next().unwrap();
    json!({
        "jti": "f5d1b1c0-6d5e-4a0b-9f52-5d0c3d4f5b1a",
        "sub": format!("repo:{repository}:ref:refs/heads/main"), "aud": "daypass",
        "ref": "refs/heads/main", "sha": "9f2c4b7d6e5a4c3b2a1908f7e6d5c4b3a2918070",
        "repository": repository, "repository_owner": owner, "repository_owner_id": "6",
        "run_id": "5012345678", "run_number": "42", "run_attempt": "1",
        "repository_visibility": "private", "repository_id": "74", "actor_id": "12",
        "actor": "octocat", "workflow": "deploy", "head_ref": "", "base_ref": "",
        "event_name": "push", "ref_protected": "true", "ref_type": "branch",
        "workflow_ref": format!("{repository}/.github/workflows/deploy.yml@refs/heads/main"),
        "workflow_sha": "9f2c4b7d6e5a4c3b2a1908f7e6d5c4b3a2918070",
        "job_workflow_ref": format!("{repository}/.github/workflows/deploy.yml@refs/heads/main"),
        "job_workflow_sha": "9f2c4b7d6e5a4c3b2a1908f7e6d5c4b3a2918070",
        "runner_environment": "github-hosted", "environment": "production",
        "iss": GITHUB, "nbf": now - 600, "exp": now + 900, "iat": now,
    })
}

/// What `id_tokens: {DAYPASS_TOKEN: {aud: daypass}}` gives in a job.
fn gitlab(project: &str) -> Value {
    let now = now();
    json!({
        "namespace_id": "72", "namespace_path": project.split('/').next().unwrap(),
        "project_id": "20", "project_path": project, "user_id": "1", "user_login": "sample-user",
        "user_email": "sample-user@example.com", "user_access_level": "developer",
        "user_identities": [{"provider": "github", "extern_uid": "2435223452345"}],
        "pipeline_id": "574", "pipeline_source": "push", "job_id": "302",
        "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true",
        "groups_direct": ["octo-group/admins"], "environment": "production",
        "environment_protected": "true", "deployment_tier": "production",
        "deployment_action": "start", "runner_id": 1, "runner_environment": "gitlab-hosted",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "project_visibility": "public",
        "ci_config_ref_uri": format!("gitlab.com/{project}//.gitlab-ci.yml@refs/heads/main"),
        "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b", "iss": GITLAB, "iat": now,
        "nbf": now - 5, "exp": now + 3600,
        "sub": format!("project_path:{project}:ref_type:branch:ref:main"), "aud": "daypass",
    })
}

/// What a kubelet projects into a pod.
fn projected(issuer: &str, namespace: &str, name: &str, audience: &str) -> Value {
    let now = now();
    json!({
        "aud": [audience], "exp": now + 3607, "iat": now, "iss": issuer,
        "jti": "aed34954-b33a-4142-b1ec-389d6bbb4936",
        "kubernetes.io": {
            "namespace": namespace,
            "node": {"name": "127.0.0.1", "uid": "58456cb0-dd00-45ed-b797-5578fdceaced"},
            "pod": {"name": "app-69cbfb9798-jv9gn", "uid": "778a530c-b3f4-47c0-9cd5-ab018fb64f33"},
            "serviceaccount": {"name": name, "uid": "a087d5a0-e1dd-43ec-93ac-f13d89cd13af"},
            "warnafter": now + 3600,
        },
        "nbf": now, "sub": format!("system:serviceaccount:{namespace}:{name}"),
    })
}

/// An issuer that publishes what `keys` holds.
fn issuer(keys: &Arc<Mutex<Value>>) -> Https {
    let https = Https::start(|_| HttpsReply::Hang);
    let (keys, url) = (Arc::clone(keys), https.url());
    https.behave(move |request: &HttpsRequest| match request.path.as_str() {
        "/.well-known/openid-configuration" => HttpsReply::Json(
            200,
            json!({"issuer": url, "jwks_uri": format!("{url}/jwks")}),
        ),
        "/jwks" => HttpsReply::Json(200, keys.lock().unwrap().clone()),
        _ => HttpsReply::Text(404, "no".into()),
    });
    https
}

/// An API server as documented: it believes tokens for the audience that is asked about, and answers no
/// one but the reviewer.
fn cluster() -> Https {
    Https::start(|request| {
        if request.path != REVIEWS || request.authorization != "Bearer reviewer" {
            return HttpsReply::Json(401, json!({"kind": "Status", "code": 401}));
        }
        let spec = &request.body["spec"];
        let token = spec["token"].as_str().unwrap();
        let claims = claims_of(token);
        let status = if spec["audiences"] == claims["aud"] {
            json!({"authenticated": true, "audiences": claims["aud"],
                "user": {"username": claims["sub"],
                    "uid": claims["kubernetes.io"]["serviceaccount"]["uid"],
                    "groups": ["system:serviceaccounts", "system:authenticated"]}})
        } else {
            json!({"user": {}, "error": "[invalid bearer token, token audiences is invalid]"})
        };
        let body = json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"creationTimestamp": null}, "spec": spec, "status": status});
        HttpsReply::Json(201, body)
    })
}

fn claims_of(token: &str) -> Value {
    use base64::Engine as _;
    let payload = token.split('.').nth(1).unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload);
    serde_json::from_slice(&bytes.unwrap()).unwrap()
}

#[test]
fn hvac_logs_in_by_token_and_by_service_account() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let server = Server::start("");
    let (signer, cluster) = (Signer::new("k1", "RS256"), cluster());
    let keys = Arc::new(Mutex::new(jwks(&[&signer])));
    let issuer = issuer(&keys);
    let pod = projected(&issuer.url(), "prod", "app", "daypass");
    tools::succeed(
        tools::from_venv("python")
            .arg(tools::root("integration/hvac_federated.py"))
            .current_dir(server.folder())
            .env("ADDRESS", server.url())
            .env("CA", server.path("ca.pem"))
            .env("TOKEN", &server.root)
            .env("ISSUER", issuer.url())
            .env("ISSUER_CA", issuer.pem())
            .env("CLUSTER", cluster.url())
            .env("CLUSTER_CA", cluster.pem())
            .env("GITHUB", signer.sign(&github("octo-org/app")))
            .env("FOREIGN", signer.sign(&github("evil-org/app")))
            .env("POD", signer.sign(&pod)),
    );
    server.verify_audit();
}

#[test]
fn bao_logs_in_with_a_token_of_the_pipeline() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let server = Server::start("");
    let bao = |words: &[&str]| -> Command {
        let mut command = tools::from_venv("bao");
        command
            .args(words)
            .env("BAO_ADDR", server.url())
            .env("BAO_CACERT", server.path("ca.pem"))
            .env("BAO_TOKEN", &server.root)
            .env("HOME", server.folder())
            .current_dir(server.folder());
        command
    };
    let signer = Signer::new("k1", "ES256");
    let keys = Arc::new(Mutex::new(jwks(&[&signer])));
    let issuer = issuer(&keys);
    std::fs::write(server.path("issuer.pem"), issuer.pem()).unwrap();
    let role = json!({"role_type": "jwt", "user_claim": "project_path", "policies": "default",
        "bound_audiences": "daypass", "bound_claims": {"project_path": "octo-group/app"}});
    std::fs::write(server.path("role.json"), role.to_string()).unwrap();
    let jwks_url = format!("jwks_url={}/jwks", issuer.url());
    let token = format!("jwt={}", signer.sign(&gitlab("octo-group/app")));
    for mount in ["jwt", "oidc"] {
        tools::succeed(&mut bao(&["auth", "enable", mount]));
        let config = format!("auth/{mount}/config");
        let issuer = format!("bound_issuer={GITLAB}");
        let words = [
            "write",
            &config,
            &jwks_url,
            "jwks_ca_pem=@issuer.pem",
            &issuer,
        ];
        tools::succeed(&mut bao(&words));
        let path = format!("auth/{mount}/role/deploy");
        tools::succeed(&mut bao(&["write", &path, "@role.json"]));
        let path = format!("auth/{mount}/login");
        let words = ["write", "-format=json", &path, "role=deploy", &token];
        let said = tools::succeed(&mut bao(&words));
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            said["auth"]["metadata"],
            json!({"role": "deploy"}),
            "{said}"
        );
        assert_eq!(said["auth"]["policies"], json!(["default"]));
    }
    let browser = tools::run(&mut bao(&[
        "write",
        "auth/oidc/oidc/auth_url",
        "role=deploy",
    ]));
    let said = String::from_utf8_lossy(&browser.stderr).into_owned();
    assert!(
        said.contains("501") && said.contains("browser flow"),
        "{said}"
    );
}

#[test]
fn a_pipeline_of_the_repository_gets_the_secret_and_nobody_else_does() {
    let server = Server::start("");
    let (root, anyone) = (server.root(), server.anyone());
    root.write("sys/mounts/secret", &json!({"type": "kv"}));
    root.write("secret/app", &json!({"password": "swordfish"}));
    let policy = json!({"policy": "path \"secret/app\" { capabilities = [\"read\"] }"});
    root.write("sys/policies/acl/deploy", &policy);
    let world = [
        (
            "github",
            GITHUB,
            "RS256",
            "repository",
            github as fn(&str) -> Value,
        ),
        ("gitlab", GITLAB, "ES256", "project_path", gitlab),
    ];
    for (mount, iss, algorithm, claim, shape) in world {
        let signer = Signer::new("k1", algorithm);
        let keys = Arc::new(Mutex::new(jwks(&[&signer])));
        let issuer = issuer(&keys);
        root.write(&format!("sys/auth/{mount}"), &json!({"type": "jwt"}));
        let config = json!({"jwks_url": format!("{}/jwks", issuer.url()),
            "jwks_ca_pem": issuer.pem(), "bound_issuer": iss});
        root.write(&format!("auth/{mount}/config"), &config);
        let path = format!("auth/{mount}/role/deploy");
        let open = json!({"user_claim": claim, "bound_audiences": "daypass"});
        let refused = root.call("POST", &path, Some(&open));
        assert_eq!(refused.status, 400, "{refused}");
        assert!(refused.text("/errors/0").contains(claim), "{refused}");
        let bound = json!({claim: "octo-org/*", "ref": ["main", "refs/heads/main"]});
        let role = json!({"user_claim": claim, "bound_audiences": "daypass",
            "bound_claims_type": "glob", "bound_claims": bound,
            "claim_mappings": {"ref": "ref"}, "token_policies": "deploy", "token_ttl": "10m"});
        root.write(&path, &role);

        let login = |token: &str| {
            let body = json!({"role": "deploy", "jwt": token});
            anyone.call("POST", &format!("auth/{mount}/login"), Some(&body))
        };
        let token = signer.sign(&shape("octo-org/app"));
        let made = login(&token);
        assert_eq!(made.status, 200, "{made}");
        assert_eq!(made.body["auth"]["metadata"]["role"], "deploy", "{made}");
        assert_eq!(made.body["auth"]["lease_duration"], 600);
        let client = server.client(&made.text("/auth/client_token"));
        assert_eq!(client.read("secret/app").data()["password"], "swordfish");
        let own = client.read("auth/token/lookup-self");
        assert_eq!(
            own.text("/data/display_name"),
            format!("{mount}-octo-org/app")
        );

        let forged = Signer::new("k1", algorithm);
        let mut late = shape("octo-org/app");
        late["exp"] = json!(now() - 120);
        for token in [
            signer.sign(&shape("octo-org-evil/app")),
            signer.sign(&shape("evil/octo-org")),
            signer.sign(&late),
            forged.sign(&shape("octo-org/app")),
            String::new(),
        ] {
            let refused = login(&token);
            assert_eq!(refused.status, 400, "{refused}");
            assert!(refused.body["auth"].is_null(), "{refused}");
        }
        // The issuer goes away: its key is known. The role goes away: so does the token's renewal.
        drop(issuer);
        assert_eq!(login(&token).status, 200);
        assert_eq!(
            client.call("POST", "auth/token/renew-self", None).status,
            200
        );
        root.delete(&path);
        let refused = client.call("POST", "auth/token/renew-self", None);
        assert_eq!(refused.status, 400, "{refused}");

        let audit = std::fs::read_dir(server.path("audit")).unwrap();
        for file in audit.map(|file| file.unwrap().path()) {
            if file.is_file() {
                let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
                assert!(!text.contains(&token), "a token is in {}", file.display());
            }
        }
        assert!(!server.log().contains(&token));
    }
    server.verify_audit();
}

#[test]
fn a_pod_logs_in_by_the_cluster_s_keys_or_by_its_word() {
    let server = Server::start("");
    let (root, anyone) = (server.root(), server.anyone());
    let (old, new) = (Signer::new("old", "RS256"), Signer::new("new", "ES256"));
    let keys = Arc::new(Mutex::new(jwks(&[&old])));
    let (issuer, cluster) = (issuer(&keys), cluster());
    let pod = |account: &str| projected(&issuer.url(), "prod", account, "daypass");
    let login = |mount: &str, token: &str| {
        let body = json!({"role": "app", "jwt": token});
        anyone.call("POST", &format!("auth/{mount}/login"), Some(&body))
    };

    // By discovery, as a cluster publishes its keys.
    root.write("sys/auth/jwt", &json!({"type": "jwt"}));
    let config = json!({"oidc_discovery_url": issuer.url(), "oidc_discovery_ca_pem": issuer.pem()});
    root.write("auth/jwt/config", &config);
    let role = json!({"user_claim": "/kubernetes.io/serviceaccount/uid",
        "user_claim_json_pointer": true, "bound_audiences": "daypass",
        "bound_subject": "system:serviceaccount:prod:app",
        "claim_mappings": {"/kubernetes.io/namespace": "namespace"}});
    root.write("auth/jwt/role/app", &role);
    let made = login("jwt", &old.sign(&pod("app")));
    assert_eq!(made.body["auth"]["metadata"]["namespace"], "prod", "{made}");
    assert_eq!(login("jwt", &old.sign(&pod("other"))).status, 400);
    assert_eq!(login("jwt", &new.sign(&pod("app"))).status, 400);
    let asked = issuer.count("/jwks");
    for _ in 0..10 {
        assert_eq!(login("jwt", &new.sign(&pod("app"))).status, 400);
    }
    assert_eq!(issuer.count("/jwks"), asked, "no amplification");

    // By asking the API server.
    root.write("sys/auth/kubernetes", &json!({"type": "kubernetes"}));
    let config = json!({"kubernetes_host": cluster.url(), "kubernetes_ca_cert": cluster.pem(),
        "token_reviewer_jwt": "reviewer"});
    root.write("auth/kubernetes/config", &config);
    let everyone = json!({"bound_service_account_names": "*",
        "bound_service_account_namespaces": "*"});
    assert_eq!(
        root.call("POST", "auth/kubernetes/role/app", Some(&everyone))
            .status,
        400
    );
    let role = json!({"bound_service_account_names": "app", "audience": "daypass",
        "bound_service_account_namespaces": "prod"});
    root.write("auth/kubernetes/role/app", &role);
    let made = login("kubernetes", &old.sign(&pod("app")));
    let metadata = &made.body["auth"]["metadata"];
    assert_eq!(metadata["service_account_name"], "app", "{made}");
    assert_eq!(
        metadata["service_account_uid"],
        "a087d5a0-e1dd-43ec-93ac-f13d89cd13af"
    );
    let foreign = projected(&issuer.url(), "prod", "app", "vault");
    assert_eq!(login("kubernetes", &old.sign(&foreign)).status, 400);
    cluster.behave(|_| HttpsReply::Json(500, json!({"kind": "Status"})));
    let down = login("kubernetes", &old.sign(&pod("app")));
    assert_eq!(down.status, 503, "{down}");
    let config = root.read("auth/kubernetes/config");
    assert!(
        config.data().get("token_reviewer_jwt").is_none(),
        "{config}"
    );
    server.verify_audit();
}
