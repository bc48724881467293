//! PostgreSQL for the database row, and the same SQL without a server between.

use std::time::{Duration, Instant};

use daypass_conformance::{Postgres, PostgresOptions};
use serde_json::json;

use crate::load::Measured;
use crate::server::Server;

/// Sessions that each of the three may have at a time.
const SESSIONS: usize = 8;

/// A private PostgreSQL that waits for its disk.
pub(crate) struct Database(Postgres);

impl Database {
    pub(crate) fn start() -> Self {
        let postgres = Postgres::start_with(&PostgresOptions {
            fsync: true,
            ..PostgresOptions::default()
        });
        // Users get their rights as members of a role: rights of their own would be rows of the table's
        // entry in the catalog, which only one transaction can change at a time.
        postgres.query("CREATE ROLE readonly");
        Self(postgres)
    }

    /// Mounts `database/` on it, with the role `bench`.
    pub(crate) async fn set_up(&self, server: &Server, authentication: &str) {
        server
            .write("sys/mounts/database", json!({ "type": "database" }))
            .await;
        let port = self.0.port();
        let url = format!(
            "postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{port}/postgres?sslmode=disable"
        );
        let config = json!({
            "plugin_name": "postgresql-database-plugin",
            "connection_url": url,
            "username": Postgres::USER,
            "password": Postgres::PASSWORD,
            "password_authentication": authentication,
            "allowed_roles": ["bench"],
            "max_open_connections": SESSIONS,
            "max_idle_connections": SESSIONS,
        });
        server.write("database/config/orders", config).await;
        let role = json!({
            "db_name": "orders",
            "creation_statements": [
                "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'",
                "GRANT readonly TO \"{{name}}\"",
            ],
            "default_ttl": "2h",
            "max_ttl": "24h",
        });
        server.write("database/roles/bench", role).await;
    }
}

/// Makes users by the role's statements alone.
pub(crate) async fn bare(database: &Database, duration: Duration) -> Measured {
    let begun = Instant::now();
    let mut sessions = tokio::task::JoinSet::new();
    for session in 0..SESSIONS {
        let url = database.0.url();
        sessions.spawn(async move {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
                .await
                .expect("our own PostgreSQL");
            #[expect(
                clippy::disallowed_methods,
                reason = "it ends with its client, and the benchmark with it"
            )]
            tokio::task::spawn(connection);
            let mut latencies = Vec::new();
            while begun.elapsed() < duration {
                let name = format!("bare-{begun:?}-{session}-{}", latencies.len());
                let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
                let sql = format!(
                    "CREATE ROLE \"{name}\" LOGIN PASSWORD 'aB3-{name:.16}' \
                     VALID UNTIL '2100-01-01 00:00:00+00';\n\
                     GRANT readonly TO \"{name}\""
                );
                let sent = Instant::now();
                client
                    .batch_execute(&sql)
                    .await
                    .expect("the role's statements");
                latencies.push(sent.elapsed());
            }
            latencies
        });
    }
    let mut latencies: Vec<Duration> = sessions.join_all().await.concat();
    latencies.sort_unstable();
    Measured {
        requests: latencies.len() as u64,
        errors: 0,
        duration: begun.elapsed(),
        p50: percentile(&latencies, 50),
        p99: percentile(&latencies, 99),
    }
}

/// Of sorted values.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}
