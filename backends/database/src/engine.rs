//! [`Engine`]: what differs from one database product to the next.
//!
//! A product is one file that implements [`Engine`] and one line in [`PLUGINS`]. Everything else (roles,
//! names, passwords, storage, rotation) is shared.

use std::sync::Arc;
use std::time::SystemTime;

use daypass_contract::{BackendError, Host, Presence, Revocation, Secret, async_trait};
use serde::{Deserialize, Serialize};

use crate::connection::Config;
use crate::postgres;

/// The products, by the names that Vault's plugins have.
pub(crate) const PLUGINS: &[&Plugin] = &[&postgres::PLUGIN];

/// A product.
pub(crate) struct Plugin {
    /// `plugin_name` of a connection.
    pub(crate) name: &'static str,
    /// The username template of a connection that says nothing. What it gives begins with `v-`, so that
    /// reconciliation can tell our accounts from others.
    pub(crate) username_template: &'static str,
    /// The longest account name the product keeps whole.
    pub(crate) max_username_bytes: usize,
    /// Refuses a connection that can never work, and takes apart what it holds (an inline password).
    pub(crate) normalize: fn(&mut Config) -> Result<(), BackendError>,
    /// Refuses statements that can never work.
    pub(crate) check: fn(&Statements) -> Result<(), BackendError>,
    /// Prepares a connection; nothing is sent yet.
    #[expect(
        clippy::type_complexity,
        reason = "an alias would only hide a signature"
    )]
    pub(crate) open: fn(&Config, &Host) -> Result<Arc<dyn Engine>, BackendError>,
}

/// The statements of a role.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Statements {
    #[serde(default)]
    pub(crate) creation: Vec<String>,
    #[serde(default)]
    pub(crate) revocation: Vec<String>,
    #[serde(default)]
    pub(crate) rollback: Vec<String>,
    #[serde(default)]
    pub(crate) renew: Vec<String>,
}

/// One database, as the account that may create others. Every call ends within the connection's
/// `request_timeout`, or a small multiple of it.
#[async_trait]
pub(crate) trait Engine: Send + Sync {
    /// Whether the account can do what will be asked of it. The error names what it lacks, and the fix.
    async fn preflight(&self) -> Result<(), BackendError>;

    /// Makes an account, whole or not at all, that the database itself ends at `ends_at`.
    async fn create(
        &self,
        username: &str,
        password: &Secret,
        creation: &[String],
        ends_at: SystemTime,
    ) -> Result<(), BackendError>;

    /// Moves the account's end in the database.
    async fn renew(
        &self,
        username: &str,
        renew: &[String],
        ends_at: SystemTime,
    ) -> Result<(), BackendError>;

    /// Ends the account's access and sessions, and proves it. Waits for a creation still under way.
    async fn revoke(
        &self,
        username: &str,
        revocation: &[String],
    ) -> Result<Revocation, BackendError>;

    /// Whether anybody can log in as `username`.
    async fn verify(&self, username: &str) -> Result<Presence, BackendError>;

    /// Gives an existing account another password. Repeating it does no harm.
    async fn change_password(
        &self,
        username: &str,
        password: &Secret,
        statements: &[String],
    ) -> Result<(), BackendError>;

    /// Tries to log in; `false` where name and password are refused.
    async fn accepts(&self, username: &str, password: &Secret) -> Result<bool, BackendError>;

    /// Closes every session. Later calls fail.
    fn close(&self);
}

/// The product called `name`.
///
/// # Errors
/// [`BackendError::InvalidRequest`] where there is none.
pub(crate) fn plugin(name: &str) -> Result<&'static Plugin, BackendError> {
    PLUGINS
        .iter()
        .find(|plugin| plugin.name == name)
        .copied()
        .ok_or_else(|| {
            let known: Vec<&str> = PLUGINS.iter().map(|plugin| plugin.name).collect();
            BackendError::field("plugin_name", format!("known are {}", known.join(", ")))
        })
}
