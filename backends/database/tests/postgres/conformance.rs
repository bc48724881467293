//! The suite that every backend runs.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use daypass_conformance::{Case, Mounted, Postgres, Subject, TestHost};
use daypass_contract::{Backend, Handle, Operation, async_trait};
use serde_json::{Value, json};

use crate::{CREATION, open, templated};

/// The backend in the suite that every backend runs.
struct Conforming {
    server: Mutex<Postgres>,
}

#[async_trait]
impl Subject for Conforming {
    async fn open(&self, host: &TestHost) -> Arc<dyn Backend> {
        open(host).await
    }

    async fn configure(&self, mounted: &Mounted) {
        let config = json!({
            "plugin_name": "postgresql-database-plugin",
            "connection_url": templated(&self.server.lock().unwrap()),
            "username": Postgres::USER, "password": Postgres::PASSWORD, "allowed_roles": ["app"],
        });
        mounted.write("config/pg", config).await.unwrap();
        let role = json!({"db_name": "pg", "creation_statements": CREATION});
        mounted.write("roles/app", role).await.unwrap();
    }
}

#[async_trait]
impl Case for Conforming {
    fn request(&self) -> (Operation, String, Value) {
        (Operation::Read, "creds/app".into(), Value::Null)
    }

    fn secrets(&self, data: &Value) -> Vec<String> {
        vec![data["password"].as_str().unwrap().to_owned()]
    }

    async fn take_upstream_down(&self) -> bool {
        self.server.lock().unwrap().stop();
        true
    }

    async fn bring_upstream_up(&self) {
        self.server.lock().unwrap().start_again();
    }

    async fn upstream_end(&self, handle: &Handle) -> Option<SystemTime> {
        let account: Value = serde_json::from_str(handle.as_json()).unwrap();
        let username = account["username"].as_str().unwrap();
        let sql = "SELECT extract(epoch FROM rolvaliduntil)::bigint FROM pg_roles WHERE rolname";
        let server = self.server.lock().unwrap();
        let end = server.query(&format!("{sql} = '{username}'"));
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(end.parse().unwrap()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_conforms() {
    let server = Mutex::new(Postgres::start());
    daypass_conformance::run(&Conforming { server }).await;
}
