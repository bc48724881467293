//! What requests to `config/{name}` hold and answer.
//!
//! **Invariant:** no answer holds a password or a private key; an update that does not send them keeps them.

use std::time::Duration;

use daypass_contract::{BackendError, Secret, duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::connection::{Config, PasswordAuthentication};
use crate::role::Sql;

/// As many sessions as Vault opens.
const DEFAULT_OPEN: usize = 4;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// What a connection is written with. A field that is not sent keeps its value.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ConfigRequest {
    pub(crate) name: String,
    /// `postgresql-database-plugin`.
    plugin_name: Option<String>,
    /// `postgresql://{{username}}:{{password}}@host:5432/database?sslmode=verify-full`.
    connection_url: Option<String>,
    /// The account that makes others.
    username: Option<String>,
    /// Its password.
    pub(crate) password: Option<Secret>,
    /// The roles that may use the connection; `*` stands for anything.
    allowed_roles: Option<Vec<String>>,
    /// How accounts are named.
    username_template: Option<String>,
    /// The password policy for new passwords.
    password_policy: Option<String>,
    /// `scram-sha-256` (the default): the server is sent a verifier. `password`: the password itself.
    password_authentication: Option<PasswordAuthentication>,
    /// The most sessions at a time; 4 by default.
    max_open_connections: Option<usize>,
    /// The most sessions kept while unused; 0 keeps all.
    max_idle_connections: Option<i64>,
    /// How long a session is used; 0 for ever.
    #[serde(default, with = "duration::option")]
    #[schemars(with = "Option<String>")]
    max_connection_lifetime: Option<Duration>,
    /// How long one request to the database may take; 30s by default.
    #[serde(default, with = "duration::option")]
    #[schemars(with = "Option<String>")]
    request_timeout: Option<Duration>,
    /// Whether the connection is tried before it is kept; true by default.
    verify_connection: Option<bool>,
    /// The certificates to trust for the server, in PEM.
    tls_ca: Option<String>,
    /// The client's certificate chain, in PEM.
    tls_certificate: Option<String>,
    /// The key of `tls_certificate`, in PEM.
    private_key: Option<Secret>,
    /// The name to expect in the server's certificate, where it is not the host of the URL.
    tls_server_name: Option<String>,
    /// SQL that changes the password of the account; `ALTER ROLE … PASSWORD` by default.
    root_rotation_statements: Option<Sql>,
}

/// What a connection reads as.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ConfigView {
    allowed_roles: Vec<String>,
    connection_details: Details,
    password_policy: String,
    plugin_name: String,
    plugin_version: String,
    root_credentials_rotate_statements: Vec<String>,
    verify_connection: bool,
}

#[derive(Serialize, JsonSchema)]
struct Details {
    connection_url: String,
    username: String,
    max_open_connections: usize,
    max_idle_connections: usize,
    /// In seconds, with their unit.
    max_connection_lifetime: String,
    /// In seconds, with their unit.
    request_timeout: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    username_template: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_authentication: Option<PasswordAuthentication>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_ca: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<String>,
}

impl Config {
    /// The connection that `request` makes of `present`, not yet checked.
    ///
    /// # Errors
    /// [`BackendError::InvalidRequest`], which names the field and the fix.
    pub(crate) fn update(
        present: Option<Self>,
        request: ConfigRequest,
    ) -> Result<Self, BackendError> {
        let required = |field| move || BackendError::field(field, "is required");
        let mut config = match present {
            Some(config) => config,
            None => Self {
                plugin_name: request
                    .plugin_name
                    .clone()
                    .ok_or_else(required("plugin_name"))?,
                connection_url: request
                    .connection_url
                    .clone()
                    .ok_or_else(required("connection_url"))?,
                username: String::new(),
                password: Secret::new(""),
                pending_password: None,
                allowed_roles: Vec::new(),
                username_template: None,
                password_policy: None,
                password_authentication: None,
                max_open_connections: DEFAULT_OPEN,
                max_idle_connections: 0,
                max_connection_lifetime: Duration::ZERO,
                request_timeout: DEFAULT_TIMEOUT,
                verify_connection: true,
                tls_ca: None,
                tls_certificate: None,
                private_key: None,
                tls_server_name: None,
                root_rotation_statements: Vec::new(),
            },
        };
        set(&mut config.plugin_name, request.plugin_name);
        set(&mut config.connection_url, request.connection_url);
        set(&mut config.username, request.username);
        if let Some(password) = request.password {
            config.password = password;
            // The operator knows better than a rotation that was interrupted.
            config.pending_password = None;
        }
        set(&mut config.allowed_roles, request.allowed_roles);
        set_text(&mut config.username_template, request.username_template);
        set_text(&mut config.password_policy, request.password_policy);
        set(
            &mut config.max_connection_lifetime,
            request.max_connection_lifetime,
        );
        set(&mut config.request_timeout, request.request_timeout);
        set(&mut config.verify_connection, request.verify_connection);
        set_text(&mut config.tls_ca, request.tls_ca);
        set_text(&mut config.tls_certificate, request.tls_certificate);
        set_text(&mut config.tls_server_name, request.tls_server_name);
        if let Some(how) = request.password_authentication {
            config.password_authentication = Some(how);
        }
        if let Some(key) = request.private_key {
            config.private_key = Some(key).filter(|key| !key.is_empty());
        }
        if let Some(open) = request.max_open_connections {
            config.max_open_connections = if open == 0 { DEFAULT_OPEN } else { open };
        }
        if let Some(idle) = request.max_idle_connections {
            config.max_idle_connections = usize::try_from(idle)
                .map_err(|_| BackendError::field("max_idle_connections", "expected 0 or more"))?;
        }
        if let Some(Sql(statements)) = request.root_rotation_statements {
            config.root_rotation_statements = statements;
        }
        Ok(config)
    }

    pub(crate) fn into_view(self) -> ConfigView {
        ConfigView {
            allowed_roles: self.allowed_roles,
            connection_details: Details {
                connection_url: self.connection_url,
                username: self.username,
                max_open_connections: self.max_open_connections,
                max_idle_connections: self.max_idle_connections,
                max_connection_lifetime: format!("{}s", self.max_connection_lifetime.as_secs()),
                request_timeout: format!("{}s", self.request_timeout.as_secs()),
                username_template: self.username_template,
                password_authentication: self.password_authentication,
                tls_ca: self.tls_ca,
                tls_certificate: self.tls_certificate,
                tls_server_name: self.tls_server_name,
            },
            password_policy: self.password_policy.unwrap_or_default(),
            plugin_name: self.plugin_name,
            plugin_version: String::new(),
            root_credentials_rotate_statements: self.root_rotation_statements,
            verify_connection: self.verify_connection,
        }
    }
}

fn set<T>(field: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *field = given;
    }
}

/// As [`set`]; empty text clears the field.
fn set_text(field: &mut Option<String>, given: Option<String>) {
    if let Some(given) = given {
        *field = Some(given).filter(|text| !text.is_empty());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use daypass_contract::Body;
    use serde_json::{Value, json};

    use super::*;

    fn request(body: Value) -> ConfigRequest {
        let mut body = Body::new(body.as_object().unwrap().clone());
        body.set("name", "c");
        body.decode().unwrap()
    }

    /// A connection with `url` and nothing else.
    pub(crate) fn config(url: &str) -> Config {
        let body = json!({"plugin_name": "postgresql-database-plugin", "connection_url": url});
        Config::update(None, request(body)).unwrap()
    }

    #[test]
    fn an_update_keeps_what_it_does_not_send_and_clears_what_it_sends_empty() {
        let first = json!({"username": "u", "password": "p", "tls_ca": "pem", "max_open_connections": 9,
            "password_authentication": "password", "request_timeout": "5s"});
        let config = Config::update(Some(config("postgres://h")), request(first)).unwrap();
        let second = json!({"tls_ca": "", "allowed_roles": "a,b", "max_open_connections": "0"});
        let config = Config::update(Some(config), request(second)).unwrap();
        assert!(config.password.ct_eq(b"p") && config.username == "u" && config.tls_ca.is_none());
        assert_eq!(config.allowed_roles, ["a", "b"]);
        assert_eq!(config.max_open_connections, DEFAULT_OPEN);
        assert_eq!(config.request_timeout, Duration::from_secs(5));

        let stored: Config = serde_json::from_slice(&serde_json::to_vec(&config).unwrap()).unwrap();
        assert!(stored.password.ct_eq(b"p") && stored.pending_password.is_none());
        let shown = serde_json::to_value(config.into_view()).unwrap();
        assert!(
            shown["connection_details"].get("password").is_none(),
            "{shown}"
        );
    }

    #[test]
    fn a_role_is_allowed_by_name_or_pattern() {
        let cases = [
            ("", "app", false),
            ("app", "app", true),
            ("app", "app2", false),
            ("*", "app", true),
            ("web-*", "web-1", true),
            ("web-*", "a-web-1", false),
            ("*-ro", "web-ro", true),
            ("*-ro", "web-row", false),
            ("*web*", "a-web-1", true),
            ("x,app", "app", true),
        ];
        for (allowed, role, want) in cases {
            let body = json!({"allowed_roles": allowed});
            let config = Config::update(Some(config("postgres://h")), request(body)).unwrap();
            assert_eq!(config.allows(role), want, "{allowed} {role}");
        }
    }
}
