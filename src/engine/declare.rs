//! What the configuration declares, brought about after each unseal: policies, mounts, and what is
//! written below them.
//!
//! Writes go through [`ControlPlane::serve`] like anybody's, with a token of their own that is revoked
//! when they are done; so they are decided upon and recorded. A resource is written again only when what
//! the file says of it has changed.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use daypass_contract::{Batch, Operation, Secret};

use super::answer::{Failure, Request};
use super::mounts::{MountConfig, NewMount};
use super::plane::{ControlPlane, Engine};
use crate::config;
use crate::identity::{Removal, Validity};

/// How long bringing about what is declared may take.
const LONGEST: Duration = Duration::from_mins(10);

/// What is declared in configuration files.
#[derive(Default)]
pub struct Declarations {
    /// Policies.
    pub policies: Vec<config::Policy>,
    /// Mounts with their resources.
    pub mounts: Vec<config::Mount>,
    /// Audit devices.
    pub audit_devices: Vec<config::AuditDevice>,
}

impl Engine {
    /// Whether the configuration declares the policy of that name.
    pub fn declares_policy(&self, name: &str) -> bool {
        self.declared_policies.contains(name)
    }
}

impl ControlPlane {
    /// Brings about what is declared. Each failure is logged with its place in the file and does not
    /// keep the others from being tried. Returns how many failed.
    pub(super) async fn apply_declarations(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
    ) -> Result<usize, Failure> {
        let declared = &self.declarations;
        release_undeclared(engine, &declared.mounts).await?;
        if declared.policies.is_empty() && declared.mounts.is_empty() {
            return Ok(0);
        }
        let mut failed = 0;
        let mut note = |origin: &config::Origin, failure: &Failure| {
            failed += 1;
            tracing::error!(place = %origin.place, key = origin.key, %failure, "declaration cannot be applied");
        };
        for policy in &declared.policies {
            if let Err(failure) = engine.policies.put(&policy.name, &policy.rules).await {
                note(&policy.origin, &failure);
            }
        }
        // It has an end, so that a crash before it is revoked leaves nothing that opens anything for long.
        let validity = Validity {
            ttl: Some(LONGEST),
            ..Validity::default()
        };
        let (token, principal) = engine
            .create_root_token_for("configuration", None, validity)
            .await?;
        for mount in &declared.mounts {
            if let Err(failure) = declare_mount(engine, mount).await {
                note(&mount.origin, &failure);
                continue;
            }
            for resource in &mount.resources {
                if let Err(failure) = self.declare_resource(engine, &token, mount, resource).await {
                    note(&resource.origin, &failure);
                }
            }
        }
        if let Some(id) = &principal.token {
            engine.revoke_token(id, Removal::WithChildren).await?;
        }
        Ok(failed)
    }

    async fn declare_resource(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        token: &Secret,
        mount: &config::Mount,
        resource: &config::Resource,
    ) -> Result<(), Failure> {
        let body = resource
            .body()
            .map_err(|error| Failure::Invalid(error.to_string()))?;
        let path = format!("{}/{}", mount.path.trim_matches('/'), resource.path);
        let fields = body.fields().clone();
        let text = serde_json::to_vec(&fields)
            .map_err(|_| Failure::Internal("declared resource".into()))?;
        let key = hmac::Key::new(
            hmac::HMAC_SHA256,
            self.barrier.derive("declared resources")?.expose(),
        );
        let digest = hmac::sign(&key, &text);
        let digest_key = format!("core/declared/{path}");
        let applied = self.barrier.get(&digest_key).await?;
        if applied.is_some_and(|applied| applied.value.ct_eq(digest.as_ref())) {
            return Ok(());
        }
        let request = Request {
            id: uuid::Uuid::new_v4().to_string(),
            operation: Operation::Write,
            status_only: false,
            path,
            token: Some(token.duplicate()),
            fields,
            peer: daypass_contract::Peer::default(),
            wrap_ttl: None,
        };
        // The engine is not published yet, so the request is served with it in hand.
        self.serve_with(Some(Arc::clone(engine)), request).await?;
        self.barrier
            .apply(Batch::new().put(digest_key, Secret::new(digest.as_ref())))
            .await?;
        Ok(())
    }
}

/// Lets the API change what the file declared once and does no longer.
async fn release_undeclared(
    engine: &Arc<Engine>,
    declared: &[config::Mount],
) -> Result<(), Failure> {
    for mount in engine.mounts.all() {
        let record = mount.record();
        let still = |mount: &config::Mount| mount.path.trim_matches('/') == record.path;
        if record.managed && !declared.iter().any(still) {
            engine
                .tune_mount(&record.path, |record| record.managed = false)
                .await?;
        }
    }
    Ok(())
}

async fn declare_mount(engine: &Arc<Engine>, mount: &config::Mount) -> Result<(), Failure> {
    let config = MountConfig {
        default_lease_ttl: mount.default_lease_ttl,
        max_lease_ttl: mount.max_lease_ttl,
        token_type: daypass_contract::TokenType::default(),
    };
    let Some(there) = engine.mounts.at(&mount.path) else {
        let new = NewMount {
            path: mount.path.clone(),
            kind: mount.backend.clone(),
            description: mount.description.clone(),
            options: mount.options.clone(),
            config,
            managed: true,
        };
        return engine.enable_mount(new).await.map(drop);
    };
    let record = there.record();
    if record.kind != mount.backend {
        return Err(Failure::Invalid(format!(
            "{}/ exists with type {}: disable it first or declare that type",
            record.path, record.kind
        )));
    }
    if record.options != mount.options && !mount.options.is_empty() {
        return Err(Failure::Invalid(format!(
            "{}/ exists with other options; they do not change",
            record.path
        )));
    }
    if record.managed && record.config == config && record.description == mount.description {
        return Ok(());
    }
    engine
        .tune_mount(&mount.path, |record| {
            record.managed = true;
            record.config = config;
            record.description.clone_from(&mount.description);
        })
        .await
}
