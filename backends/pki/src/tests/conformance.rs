//! The suite that every backend runs.

use std::sync::Arc;

use daypass_conformance::{Case, Mounted, Subject, TestHost, run};
use daypass_contract::{Backend, Operation, async_trait};
use serde_json::{Value, json};

use super::bench::text;

/// A role whose certificates are leased.
struct Leased;

#[async_trait]
impl Subject for Leased {
    async fn open(&self, host: &TestHost) -> Arc<dyn Backend> {
        crate::open(host.host()).await.ok().unwrap()
    }

    async fn configure(&self, mounted: &Mounted) {
        let root = json!({"common_name": "Root", "key_type": "ec", "ttl": "20h"});
        mounted.write("root/generate/internal", root).await.unwrap();
        let role = json!({"allow_any_name": true, "key_type": "ec", "generate_lease": true});
        mounted.write("roles/leased", role).await.unwrap();
    }
}

#[async_trait]
impl Case for Leased {
    fn request(&self) -> (Operation, String, Value) {
        let body = json!({"common_name": "a.example.com", "format": "pem_bundle"});
        (Operation::Write, "issue/leased".into(), body)
    }

    fn secrets(&self, data: &Value) -> Vec<String> {
        let key = text(&data["private_key"]);
        // A PEM text is never found whole where its lines were joined or escaped: each line is a secret.
        let lines = key.lines().filter(|line| !line.starts_with('-'));
        lines.map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn leased_certificates_conform() {
    run(&Leased).await;
}
