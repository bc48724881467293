//! `approle` through its routes, as the engine calls it.

use std::sync::Arc;

use daypass_conformance::{Mounted, Subject, TestHost, run_unleased};
use daypass_contract::{Backend, BackendError, Login, Peer, async_trait};
use serde_json::{Value, json};

mod crashes;
mod fields;
mod logins;
mod roles;
mod secret_ids;

struct Case;

#[async_trait]
impl Subject for Case {
    async fn open(&self, host: &TestHost) -> Arc<dyn Backend> {
        super::open(host.host()).await.unwrap()
    }

    async fn configure(&self, mounted: &Mounted) {
        mounted.write("role/probe", json!({})).await.unwrap();
    }
}

#[tokio::test]
async fn it_keeps_the_rules_of_every_backend() {
    run_unleased(&Case).await;
}

/// A mount on a host of its own.
struct Trial {
    mounted: Mounted,
    host: TestHost,
}

impl Trial {
    async fn new() -> Self {
        let host = TestHost::new();
        let mounted = Mounted::new(Case.open(&host).await, &host);
        Self { mounted, host }
    }

    /// The same mount after a restart.
    async fn restarted(&self) -> Self {
        Self {
            mounted: Mounted::new(Case.open(&self.host).await, &self.host),
            host: self.host.clone(),
        }
    }

    /// A mount with the role `web`, and its role id.
    async fn with_role(role: Value) -> (Self, String) {
        let trial = Self::new().await;
        trial.mounted.write("role/web", role).await.unwrap();
        let role_id = trial.role_id("web").await;
        (trial, role_id)
    }

    async fn role_id(&self, role: &str) -> String {
        let path = format!("role/{role}/role-id");
        text(&self.mounted.read(&path).await.unwrap()["role_id"])
    }

    /// A secret id of the role `web`, and its accessor.
    async fn secret_id(&self, body: Value) -> (String, String) {
        let made = self.mounted.write("role/web/secret-id", body).await;
        let made = made.unwrap();
        (text(&made["secret_id"]), text(&made["secret_id_accessor"]))
    }

    async fn login(&self, role_id: &str, secret_id: &str) -> Result<Login, BackendError> {
        self.login_from(role_id, secret_id, "127.0.0.1").await
    }

    async fn login_from(
        &self,
        role_id: &str,
        secret_id: &str,
        address: &str,
    ) -> Result<Login, BackendError> {
        let body = json!({"role_id": role_id, "secret_id": secret_id});
        let peer = Peer {
            address: Some((address.parse::<std::net::IpAddr>().unwrap(), 1).into()),
            ..Peer::default()
        };
        self.mounted.login("login", body, peer).await
    }

    /// How many keys of the store begin so.
    fn keys(&self, prefix: &str) -> usize {
        let keys = self.host.store.keys();
        keys.iter().filter(|key| key.starts_with(prefix)).count()
    }

    /// What is kept of secret ids: records, accessors and ends.
    fn kept(&self) -> (usize, usize, usize) {
        (
            self.keys("secret/"),
            self.keys("accessor/"),
            self.keys("expiry/"),
        )
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Whether it was refused with the one text there is for that.
fn is_refused(login: Result<Login, BackendError>) -> bool {
    matches!(
        login,
        Err(BackendError::LoginFailed("invalid role or secret ID"))
    )
}
