//! Connections and roles: what is kept, what is shown, what is refused and why.

use daypass_contract::{BackendError, Operation};
use serde_json::{Value, json};

use crate::{CREATION, Fixture, ROOT_PASSWORD, templated};

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_never_shows_its_password_and_keeps_what_is_not_sent() {
    let fixture = Fixture::new().await;
    let mounted = &fixture.mounted;
    // An account within the URL is taken out of it.
    let url = fixture.server.url_of("root", ROOT_PASSWORD, "postgres");
    let body = json!({"plugin_name": "postgresql-database-plugin", "connection_url": url});
    mounted.write("config/inline", body).await.unwrap();
    for name in ["pg", "inline"] {
        let answer = mounted.read(&format!("config/{name}")).await.unwrap();
        let text = String::from_utf8(answer.bytes.clone()).unwrap();
        assert!(!text.contains(ROOT_PASSWORD), "{text}");
        let details = &answer["connection_details"];
        assert_eq!(details["connection_url"], templated(&fixture.server));
        assert_eq!(details["username"], "root");
        assert_eq!(details["max_open_connections"], 4);
    }
    // With the connection being verified, an update without the password shows that it is kept.
    let update = json!({"allowed_roles": "app,web-*", "max_open_connections": "7"});
    mounted.write("config/pg", update).await.unwrap();
    let answer = mounted.read("config/pg").await.unwrap();
    assert_eq!(answer["allowed_roles"], json!(["app", "web-*"]));
    assert_eq!(answer["connection_details"]["max_open_connections"], 7);
    assert_eq!(
        mounted.list("config").await.unwrap()["keys"],
        json!(["inline", "pg"])
    );

    fixture.issue().await.unwrap();
    mounted
        .write("config/pg", json!({"allowed_roles": "web-*"}))
        .await
        .unwrap();
    let error = fixture.issue().await.unwrap_err().to_string();
    assert!(error.contains("\"app\" is not an allowed role"), "{error}");

    mounted.write("reset/pg", Value::Null).await.unwrap();
    mounted.delete("config/inline").await.unwrap();
    assert!(matches!(
        mounted.read("config/inline").await,
        Err(BackendError::NotFound)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_work_is_refused_with_the_fix() {
    let fixture = Fixture::new().await;
    let server = &fixture.server;
    server.query("CREATE ROLE reader LOGIN PASSWORD 'reader-password'");
    let port = server.port();
    let at =
        |rest: &str| json!({"connection_url": format!("postgresql://127.0.0.1:{port}/{rest}")});
    let cases = [
        (
            json!({"password": "wrong-password"}),
            "SQLSTATE 28P01: password authentication failed",
        ),
        (
            json!({"username": "reader", "password": "reader-password"}),
            "run: ALTER ROLE \"reader\" CREATEROLE",
        ),
        (
            at("absent?sslmode=disable"),
            "SQLSTATE 3D000: database \"absent\" does not exist",
        ),
        (at("postgres"), "server does not support TLS"),
        (at("postgres?sslmode=allow"), "sslmode other than"),
        (at("postgres?sslrootcert=ca.pem"), "use the tls_ fields"),
        (
            json!({"connection_url": "host=h password=hidden"}),
            "put it into the field `password`",
        ),
        (
            json!({"connection_url": "postgresql://127.0.0.1:1/postgres?sslmode=disable"}),
            "Connection refused",
        ),
        (
            json!({"plugin_name": "oracle-database-plugin"}),
            "known are postgresql-database-plugin",
        ),
        (
            json!({"username_template": "{{.RoleName}}"}),
            "two credentials the same name",
        ),
        (
            json!({"username_template": "{{.RoleName | trunkate 8}}"}),
            "did you mean truncate?",
        ),
        (json!({"max_open_connections": 5000}), "from 1 to 1000"),
        (
            json!({"tls_ca": "any"}),
            "is not looked at with sslmode=disable",
        ),
        (
            json!({"connection_url": "postgresql://127.0.0.1/postgres", "tls_ca": "any"}),
            "expected certificates in PEM",
        ),
        (
            json!({"tls_certificate": "any"}),
            "\"private_key\": is required",
        ),
        (
            json!({"root_rotation_statements": "ALTER ROLE {{nam}}"}),
            "did you mean {{name}}?",
        ),
    ];
    for (body, want) in cases {
        let result = fixture.mounted.write("config/pg", body.clone()).await;
        let text = result.map_or_else(|error| error.to_string(), |_| "it was kept".into());
        assert!(text.contains(want), "{body}: {text}");
        assert!(
            !text.contains("wrong-password") && !text.contains("hidden"),
            "{text}"
        );
    }
    // Nothing of it was kept.
    fixture.issue().await.unwrap();

    // Kept untried, it fails where it is used, and says why.
    let body = json!({"password": "wrong-password", "verify_connection": false});
    fixture.mounted.write("config/pg", body).await.unwrap();
    let error = fixture.issue().await.unwrap_err();
    assert!(matches!(error, BackendError::InvalidRole(_)), "{error:?}");
    assert!(error.to_string().contains("28P01"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_keeps_what_is_not_sent_and_says_what_is_wrong() {
    let fixture = Fixture::new().await;
    let mounted = &fixture.mounted;
    fixture
        .role(json!({"default_ttl": "1h", "renew_statements": []}))
        .await;
    let want = json!({
        "db_name": "pg", "creation_statements": [CREATION], "revocation_statements": [],
        "rollback_statements": [], "renew_statements": [], "default_ttl": 3600, "max_ttl": 86400,
        "credential_type": "password",
    });
    assert_eq!(mounted.read("roles/app").await.unwrap().data, want);
    assert_eq!(mounted.list("roles").await.unwrap()["keys"], json!(["app"]));

    let cases = [
        (
            json!({"creation_statements": "CREATE ROLE x"}),
            "must make the account \"{{name}}\"",
        ),
        (
            json!({"creation_statements": "BEGIN; CREATE ROLE \"{{name}}\""}),
            "one transaction",
        ),
        (
            json!({"creation_statements": "CREATE ROLE \"{{name}}"}),
            "is not closed",
        ),
        (
            json!({"creation_statements": "CREATE ROLE \"{{user}}\""}),
            "known are {{name}}",
        ),
        (
            json!({"revocation_statements": "SELECT '{{password}}'"}),
            "not known here",
        ),
        (json!({"default_ttl": "25h"}), "is above max_ttl"),
        (
            json!({"credential_type": "rsa_private_key"}),
            "expected password",
        ),
        (json!({"db_name": ""}), "is required"),
    ];
    for (body, want) in cases {
        let error = mounted.write("roles/app", body.clone()).await.unwrap_err();
        assert!(error.to_string().contains(want), "{body}: {error}");
    }
    let warned = mounted.write(
        "roles/early",
        json!({"db_name": "later", "creation_statements": CREATION}),
    );
    assert_eq!(
        warned.await.unwrap().warnings,
        ["db_name names no connection yet"]
    );
    mounted.delete("roles/app").await.unwrap();
    let error = fixture.issue().await.unwrap_err();
    assert_eq!(error.to_string(), "unknown role: app");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_database_delays_nobody_but_its_own_callers() {
    let fixture = Fixture::new().await;
    // Accepts connections and never answers.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "postgresql://127.0.0.1:{}/x?sslmode=disable",
        hung.local_addr().unwrap().port()
    );
    let mut body = fixture.config();
    body["connection_url"] = json!(url);
    body["request_timeout"] = json!("1s");
    body["verify_connection"] = json!(false);
    fixture.mounted.write("config/hung", body).await.unwrap();
    let role = json!({"db_name": "hung", "creation_statements": CREATION});
    fixture.mounted.write("roles/hung", role).await.unwrap();

    let waiting = fixture
        .mounted
        .issue(Operation::Read, "creds/hung", Value::Null);
    let (hung_result, ()) = tokio::join!(waiting, async {
        for _ in 0..3 {
            fixture.issue().await.unwrap();
        }
    });
    let error = hung_result.unwrap_err();
    assert!(
        matches!(error, BackendError::Unavailable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("request_timeout"), "{error}");
}
