//! What a login row needs: a role on both servers, alike, and the bodies of the logins, which are made
//! before anything is measured. Logins take turns through them, so no two in a row are of the same caller.

use daypass_conformance::Signer;
use serde_json::{Value, json};

use crate::leases::epoch_seconds;
use crate::load::Ask;
use crate::server::Server;

/// Secret ids of the one role, as many programs of one kind have.
const SECRET_IDS: usize = 200;
/// Different signed tokens, and the callers that they are about: each logs in by many tokens.
const SIGNED: usize = 1000;
const SUBJECTS: usize = 100;

const AUDIENCE: &str = "https://bench.internal";
const ISSUER: &str = "https://issuer.bench.internal";

/// How a caller proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    AppRole,
    /// A token signed by this algorithm of JOSE.
    Jwt(&'static str),
}

/// Mounts the method with the role `bench`, and gives the logins. `token_type` is `service` or `batch`.
pub(crate) async fn set_up(server: &Server, proof: Proof, token_type: &str) -> Ask {
    let (path, bodies) = match proof {
        Proof::AppRole => set_up_approle(server, token_type).await,
        Proof::Jwt(algorithm) => set_up_jwt(server, algorithm, token_type).await,
    };
    Ask {
        token: false,
        bodies,
        ..Ask::post(path, "")
    }
}

/// What every role gives its tokens. They do not end while they are counted.
fn token(token_type: &str) -> Value {
    json!({
        "token_policies": ["bench"],
        "token_type": token_type,
        "token_ttl": "20m",
        "token_max_ttl": "30m",
    })
}

fn with(mut fields: Value, more: &Value) -> Value {
    let more = more.as_object().expect("an object").clone();
    fields.as_object_mut().expect("an object").extend(more);
    fields
}

async fn set_up_approle(server: &Server, token_type: &str) -> (&'static str, Vec<String>) {
    server
        .write("sys/auth/approle", json!({ "type": "approle" }))
        .await;
    let role = json!({ "bind_secret_id": true, "secret_id_num_uses": 0, "secret_id_ttl": "0" });
    server
        .write("auth/approle/role/bench", with(role, &token(token_type)))
        .await;
    let role_id = server.read("auth/approle/role/bench/role-id").await;
    let mut bodies = Vec::new();
    for _ in 0..SECRET_IDS {
        let made = server
            .write("auth/approle/role/bench/secret-id", json!({}))
            .await;
        let body = json!({
            "role_id": role_id["data"]["role_id"],
            "secret_id": made["data"]["secret_id"],
        });
        bodies.push(body.to_string());
    }
    ("auth/approle/login", bodies)
}

async fn set_up_jwt(
    server: &Server,
    algorithm: &'static str,
    token_type: &str,
) -> (&'static str, Vec<String>) {
    let signer = Signer::new("bench", algorithm);
    server.write("sys/auth/jwt", json!({ "type": "jwt" })).await;
    let config = json!({
        "jwt_validation_pubkeys": [signer.pem()],
        "jwt_supported_algs": [algorithm],
        "bound_issuer": ISSUER,
    });
    server.write("auth/jwt/config", config).await;
    let role = json!({
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": [AUDIENCE],
        "bound_claims": { "environment": "bench" },
        "claim_mappings": { "repository": "repository" },
    });
    server
        .write("auth/jwt/role/bench", with(role, &token(token_type)))
        .await;
    let now = epoch_seconds();
    let bodies = (0..SIGNED).map(|number| {
        let subject = number % SUBJECTS;
        let claims = json!({
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": format!("repo:bench/{subject}:ref:refs/heads/main"),
            "jti": format!("{algorithm}-{number}"),
            "iat": now - 5,
            "nbf": now - 5,
            "exp": now + 24 * 3600,
            "environment": "bench",
            "repository": format!("bench/{subject}"),
            "run_id": number.to_string(),
        });
        json!({ "role": "bench", "jwt": signer.sign(&claims) }).to_string()
    });
    ("auth/jwt/login", bodies.collect())
}
