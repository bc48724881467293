//! The backend against a real PostgreSQL server, one of its own for each test.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_conformance::{Case, Issued, Mounted, Postgres, PostgresOptions, Subject, TestHost};
use daypass_contract::{
    Backend, BackendError, Clock as _, Handle, Operation, Presence, Revocation, async_trait,
};
use serde_json::{Value, json};

const CREATION: &str = "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL \
                        '{{expiration}}'; GRANT CONNECT ON DATABASE postgres TO \"{{name}}\";";

/// A mount on a server of its own, with the connection `pg` and the role `app`.
struct Fixture {
    server: Postgres,
    host: TestHost,
    mounted: Mounted,
}

impl Fixture {
    async fn new() -> Self {
        Self::on(Postgres::start()).await
    }

    async fn on(server: Postgres) -> Self {
        let host = TestHost::new();
        // The server compares VALID UNTIL with the real time.
        host.clock.set(real_time());
        let mounted = Mounted::new(open(&host).await, &host);
        let fixture = Self {
            server,
            host,
            mounted,
        };
        let config = fixture.config();
        fixture.mounted.write("config/pg", config).await.unwrap();
        let role = json!({"db_name": "pg", "creation_statements": CREATION, "max_ttl": "24h"});
        fixture.mounted.write("roles/app", role).await.unwrap();
        fixture
    }

    fn config(&self) -> Value {
        json!({
            "plugin_name": "postgresql-database-plugin",
            "connection_url": templated(&self.server),
            "username": Postgres::USER,
            "password": Postgres::PASSWORD,
            "allowed_roles": "*",
        })
    }

    async fn issue(&self) -> Result<Issued, BackendError> {
        self.mounted
            .issue(Operation::Read, "creds/app", Value::Null)
            .await
    }

    async fn revoke(&self, handle: &Handle) -> Result<Revocation, BackendError> {
        self.mounted.backend.revoke(handle).await
    }

    /// Whether the credential lets anybody in.
    fn works(&self, data: &Value) -> bool {
        self.query_as(data, "SELECT 1").is_ok()
    }

    fn query_as(&self, data: &Value, sql: &str) -> Result<String, String> {
        let text = |field: &str| data[field].as_str().unwrap().to_owned();
        self.server
            .query_as(&text("username"), &text("password"), "postgres", sql)
    }

    fn count(&self, sql: &str) -> u32 {
        self.server
            .query(&format!("SELECT count(*) FROM {sql}"))
            .parse()
            .unwrap()
    }
}

async fn open(host: &TestHost) -> Arc<dyn Backend> {
    daypass_database::open(host.host()).await.unwrap()
}

fn templated(server: &Postgres) -> String {
    let port = server.port();
    format!(
        "postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{port}/postgres?sslmode=disable"
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "the server's clock is the real one"
)]
fn real_time() -> SystemTime {
    SystemTime::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_works_until_it_is_revoked() {
    let fixture = Fixture::new().await;
    let issued = fixture.issue().await.unwrap();
    let username = issued.data["username"].as_str().unwrap();
    assert!(username.starts_with("v-token-te-app-"), "{username}");
    assert!(issued.renewable && issued.data["password"].as_str().unwrap().len() >= 24);
    assert!(fixture.works(&issued.data));
    assert!(
        !issued
            .handle
            .as_json()
            .contains(issued.data["password"].as_str().unwrap())
    );

    assert_eq!(
        fixture.revoke(&issued.handle).await.unwrap(),
        Revocation::Revoked
    );
    assert!(!fixture.works(&issued.data));
    assert_eq!(
        fixture.revoke(&issued.handle).await.unwrap(),
        Revocation::AlreadyGone
    );
}
