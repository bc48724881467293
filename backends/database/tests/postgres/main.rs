//! The backend against a real PostgreSQL server, one of its own for each test.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed expectation here is a failed test"
)]

mod accounts;
mod config;
mod conformance;
mod rotation;
mod tls;

use std::sync::Arc;
use std::time::SystemTime;

use daypass_conformance::{Issued, Mounted, Postgres, TestHost};
use daypass_contract::{Backend, BackendError, Handle, Operation, Revocation};
use serde_json::{Value, json};

const CREATION: &str = "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL \
                        '{{expiration}}'; GRANT CONNECT ON DATABASE postgres TO \"{{name}}\";";

const ROOT_PASSWORD: &str = "first-root-password";

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
        // An account of its own, so that rotating its password leaves the test's.
        let server = &fixture.server;
        server.query("CREATE ROLE root SUPERUSER LOGIN PASSWORD 'first-root-password'");
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
            "username": "root",
            "password": ROOT_PASSWORD,
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

    async fn rotate(&self) -> Result<(), BackendError> {
        let answer = self.mounted.write("rotate-root/pg", Value::Null).await;
        answer.map(drop)
    }

    /// A new process on the same storage.
    async fn restart(&mut self) {
        self.host.store.heal();
        self.mounted = Mounted::new(open(&self.host).await, &self.host);
    }

    async fn role(&self, changes: Value) {
        self.mounted.write("roles/app", changes).await.unwrap();
    }

    /// Whether the credential lets anybody in.
    fn works(&self, data: &Value) -> bool {
        self.query_as(data, "SELECT 1").is_ok()
    }

    /// Logs in with what was issued: `Err` is the SQLSTATE of the refusal.
    async fn login(&self, data: &Value) -> Result<(), String> {
        let text = |field: &str| data[field].as_str().unwrap();
        let url = self
            .server
            .url_of(text("username"), text("password"), "postgres");
        match tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.code().expect("the server answers").code().to_owned()),
        }
    }

    /// How many logins as `username` the server has refused.
    fn refused_logins(&self, username: &str) -> usize {
        let refusal = format!("FATAL:  password authentication failed for user \"{username}\"");
        self.server.log().matches(&refusal).count()
    }

    fn query_as(&self, data: &Value, sql: &str) -> Result<String, String> {
        let text = |field: &str| data[field].as_str().unwrap();
        self.server
            .query_as(text("username"), text("password"), "postgres", sql)
    }

    fn count(&self, sql: &str) -> u32 {
        self.server
            .query(&format!("SELECT count(*) FROM {sql}"))
            .parse()
            .unwrap()
    }
}

fn account(issued: &Issued) -> (String, String) {
    let text = |field: &str| issued.data[field].as_str().unwrap().to_owned();
    (text("username"), text("password"))
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
