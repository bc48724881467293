//! A database mount on a PostgreSQL server of the test's own.

use std::collections::BTreeSet;

use daypass_conformance::{Postgres, PostgresOptions};
use serde_json::json;

use crate::http::Client;

/// Makes the users that [`issued`] finds.
const CREATION: &str = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL \
                        '{{expiration}}'; GRANT pg_read_all_data TO \"{{name}}\";";

/// A server with a short lock time-out: no test waits for a deadlock.
pub(crate) fn postgres() -> Postgres {
    Postgres::start_with(&PostgresOptions {
        settings: vec![("max_connections", "50")],
        ..PostgresOptions::default()
    })
}

/// Mounts `database/` with the role `app`, whose users live `ttl`.
pub(crate) fn mount(client: &Client, server: &Postgres, ttl: &str) {
    client.write("sys/mounts/database", &json!({"type": "database"}));
    configure(client, server);
    role(client, "app", ttl);
}

/// Writes a role whose users live `ttl`.
pub(crate) fn role(client: &Client, name: &str, ttl: &str) {
    let role = json!({
        "db_name": "pg",
        "creation_statements": CREATION,
        "default_ttl": ttl,
        "max_ttl": "1h",
    });
    client.write(&format!("database/roles/{name}"), &role);
}

/// Writes `database/config/pg`.
pub(crate) fn configure(client: &Client, server: &Postgres) {
    let url = server.url_of("{{username}}", "{{password}}", "postgres");
    let config = json!({
        "plugin_name": "postgresql-database-plugin",
        "connection_url": url,
        "username": Postgres::USER,
        "password": Postgres::PASSWORD,
        "allowed_roles": "*",
    });
    client.write("database/config/pg", &config);
}

/// The users that exist besides the superuser.
pub(crate) fn issued(server: &Postgres) -> BTreeSet<String> {
    let rows = server.query(
        "SELECT rolname FROM pg_roles WHERE rolname <> 'postgres' AND rolname !~ '^pg_' ORDER BY 1",
    );
    rows.lines().map(str::to_owned).collect()
}
