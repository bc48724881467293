//! What the configuration declares, brought about after each unseal and each reload: policies, mounts, and what is
//! written below them.
//!
//! Writes go through [`ControlPlane::serve`] like anybody's, with a token of their own that is revoked
//! when they are done; so they are decided upon and recorded. A resource is written again only when what
//! the file says of it has changed.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use daypass_contract::{Batch, Operation, Secret};

use super::answer::{Failure, Request};
use super::mounts::{MountConfig, MountRecord, NewMount};
use super::plane::{ControlPlane, Engine};
use crate::config;
use crate::identity::{Principal, Removal, Validity};
use crate::policy::{Policy, builtin};

/// Digests of what was written by declarations, by path.
const DIGESTS: &str = "core/declared/";
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

impl Declarations {
    pub(super) fn policy_names(&self) -> HashSet<String> {
        let policies = self.policies.iter();
        policies.map(|policy| policy.name.clone()).collect()
    }
}

impl Engine {
    /// Whether the configuration declares the policy of that name.
    pub fn declares_policy(&self, name: &str) -> bool {
        self.declared_policies.load().contains(name)
    }
}

/// What went wrong, and with what.
struct Refused {
    origin: config::Origin,
    failure: Failure,
}

impl Refused {
    fn at(origin: &config::Origin) -> impl FnOnce(Failure) -> Self {
        let origin = origin.clone();
        move |failure| Self { origin, failure }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let Refused { origin, failure } = refused;
        Self::Invalid(format!("{}: {}: {failure}", origin.place, origin.key))
    }
}

impl ControlPlane {
    /// Brings about what is declared. Each failure is logged with its place in the file and does not
    /// keep the others from being tried. Returns how many failed.
    pub(super) async fn apply_declarations(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
    ) -> Result<usize, Failure> {
        let declared = self.declarations.load_full();
        let mut failed = 0;
        let note = |refused: Refused| {
            let Refused { origin, failure } = refused;
            tracing::error!(place = %origin.place, key = origin.key, %failure, "declaration cannot be applied");
            failed += 1;
            Ok(())
        };
        self.declare(engine, &declared, &mut Vec::new(), note)
            .await?;
        Ok(failed)
    }

    /// Brings about what a changed configuration declares, or on a failure what the former one did. Gives
    /// what is different now. While sealed, it is brought about at the next unseal.
    ///
    /// What is declared no longer stays, and is the API's to change.
    pub async fn redeclare(
        self: &Arc<Self>,
        declared: Declarations,
    ) -> Result<Vec<String>, Failure> {
        let _turn = self.turning.lock().await;
        for policy in &declared.policies {
            check_policy(policy).map_err(Refused::at(&policy.origin))?;
        }
        let Some(engine) = self.open.load_full() else {
            self.declarations.store(Arc::new(declared));
            return Ok(Vec::new());
        };
        for mount in &declared.mounts {
            if let Some(there) = engine.mounts.at(&mount.path) {
                check_mount(&there.record(), mount).map_err(Refused::at(&mount.origin))?;
            }
        }
        let former = self.declarations.load_full();
        let mut changed = Vec::new();
        match self.declare(&engine, &declared, &mut changed, Err).await {
            Ok(()) => {
                engine
                    .declared_policies
                    .store(Arc::new(declared.policy_names()));
                self.declarations.store(Arc::new(declared));
                Ok(changed.iter().map(ToString::to_string).collect())
            }
            Err(failure) => {
                self.take_back(&engine, &former, changed).await;
                Err(failure)
            }
        }
    }

    /// Brings about `declared` in its order. `refused` is told each failure and decides whether to go on.
    async fn declare(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        declared: &Declarations,
        changed: &mut Vec<Change>,
        mut refused: impl FnMut(Refused) -> Result<(), Refused>,
    ) -> Result<(), Failure> {
        release_undeclared(engine, &declared.mounts).await?;
        for policy in &declared.policies {
            let before = engine.policies.get(&policy.name);
            let before = before.map(|policy| policy.text().to_owned());
            if before.as_ref() == Some(&policy.rules) {
                continue;
            }
            match engine.policies.put(&policy.name, &policy.rules).await {
                Ok(()) => changed.push(Change::Policy(policy.name.clone(), before)),
                Err(failure) => refused(Refused::at(&policy.origin)(failure))?,
            }
        }
        if declared.mounts.is_empty() {
            return Ok(());
        }
        let (token, principal) = token(engine).await?;
        let mut outcome = Ok(());
        'mounts: for mount in &declared.mounts {
            match declare_mount(engine, mount).await {
                Ok(None) => {}
                Ok(Some(change)) => changed.push(change),
                Err(failure) => match refused(Refused::at(&mount.origin)(failure)) {
                    Ok(()) => continue,
                    Err(last) => {
                        outcome = Err(last);
                        break;
                    }
                },
            }
            for resource in &mount.resources {
                match self.declare_resource(engine, &token, mount, resource).await {
                    Ok(None) => {}
                    Ok(Some(change)) => changed.push(change),
                    Err(failure) => {
                        if let Err(last) = refused(Refused::at(&resource.origin)(failure)) {
                            outcome = Err(last);
                            break 'mounts;
                        }
                    }
                }
            }
        }
        if let Some(id) = &principal.token {
            engine.revoke_token(id, Removal::WithChildren).await?;
        }
        Ok(outcome?)
    }

    /// Undoes what a failed change of the declarations had done, as far as it can be undone.
    async fn take_back(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        former: &Declarations,
        changed: Vec<Change>,
    ) {
        for change in changed.into_iter().rev() {
            let name = change.to_string();
            let undone = match change {
                Change::Policy(name, Some(text)) => engine.policies.put(&name, &text).await,
                Change::Policy(name, None) => engine.policies.delete(&name).await,
                Change::Mounted(path) => engine.disable_mount(&path).await,
                // Declaring the former ones writes these again.
                Change::Tuned(_) | Change::Resource(_, true) => Ok(()),
                Change::Resource(path, false) => self.undeclare_resource(engine, &path).await,
            };
            if let Err(failure) = undone {
                tracing::error!(name, %failure, "a change could not be taken back");
            }
        }
        let note = |refused: Refused| {
            let Refused { origin, failure } = refused;
            tracing::error!(place = %origin.place, key = origin.key, %failure, "declaration cannot be applied again");
            Ok(())
        };
        if let Err(failure) = self.declare(engine, former, &mut Vec::new(), note).await {
            tracing::error!(%failure, "what was declared before could not be brought about again");
        }
    }

    /// Deletes what a declaration wrote where nothing was declared before.
    async fn undeclare_resource(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        path: &str,
    ) -> Result<(), Failure> {
        let (token, principal) = token(engine).await?;
        let request = Request {
            id: uuid::Uuid::new_v4().to_string(),
            operation: Operation::Delete,
            status_only: false,
            path: path.to_owned(),
            token: Some(token),
            fields: serde_json::Map::new(),
            peer: daypass_contract::Peer::default(),
            wrap_ttl: None,
            own: true,
        };
        let deleted = Box::pin(self.serve_with(Some(Arc::clone(engine)), request)).await;
        let digest = Batch::new().delete(format!("{DIGESTS}{path}"));
        self.barrier.apply(digest).await?;
        if let Some(id) = &principal.token {
            engine.revoke_token(id, Removal::WithChildren).await?;
        }
        deleted.map(drop)
    }

    async fn declare_resource(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        token: &Secret,
        mount: &config::Mount,
        resource: &config::Resource,
    ) -> Result<Option<Change>, Failure> {
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
        let digest_key = format!("{DIGESTS}{path}");
        let applied = self.barrier.get(&digest_key).await?;
        let known = applied.is_some();
        if applied.is_some_and(|applied| applied.value.ct_eq(digest.as_ref())) {
            return Ok(None);
        }
        let change = Change::Resource(path.clone(), known);
        let request = Request {
            id: uuid::Uuid::new_v4().to_string(),
            operation: Operation::Write,
            status_only: false,
            path,
            token: Some(token.duplicate()),
            fields,
            peer: daypass_contract::Peer::default(),
            wrap_ttl: None,
            own: true,
        };
        // The engine is not published yet, so the request is served with it in hand.
        Box::pin(self.serve_with(Some(Arc::clone(engine)), request)).await?;
        self.barrier
            .apply(Batch::new().put(digest_key, Secret::new(digest.as_ref())))
            .await?;
        Ok(Some(change))
    }
}

/// The token that writes what is declared. It has an end, so that a crash before it is revoked leaves nothing
/// that opens anything for long.
async fn token(engine: &Engine) -> Result<(Secret, Principal), Failure> {
    let validity = Validity {
        ttl: Some(LONGEST),
        ..Validity::default()
    };
    engine
        .create_root_token_for("configuration", None, validity)
        .await
}

/// Something that a declaration changed.
enum Change {
    /// A policy, and what it said before.
    Policy(String, Option<String>),
    /// A mount that is new.
    Mounted(String),
    /// A mount with other settings.
    Tuned(String),
    /// What was written to a path, and whether a declaration had written it before.
    Resource(String, bool),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(name, _) => write!(f, "policies.{name}"),
            Self::Mounted(path) | Self::Tuned(path) => write!(f, "mounts.{path}"),
            Self::Resource(path, _) => write!(f, "mounts.set.{path}"),
        }
    }
}

fn check_policy(policy: &config::Policy) -> Result<(), Failure> {
    let invalid = |error: String| Failure::Invalid(error);
    builtin::writable_name(&policy.name).map_err(|error| invalid(error.to_string()))?;
    Policy::parse(&policy.name, &policy.rules).map_err(|error| invalid(error.to_string()))?;
    Ok(())
}

/// Refuses a declaration that a mount which exists cannot follow.
fn check_mount(record: &MountRecord, mount: &config::Mount) -> Result<(), Failure> {
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
    Ok(())
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

async fn declare_mount(
    engine: &Arc<Engine>,
    mount: &config::Mount,
) -> Result<Option<Change>, Failure> {
    let path = mount.path.trim_matches('/').to_owned();
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
        engine.enable_mount(new).await?;
        return Ok(Some(Change::Mounted(path)));
    };
    let record = there.record();
    check_mount(&record, mount)?;
    if record.managed && record.config == config && record.description == mount.description {
        return Ok(None);
    }
    engine
        .tune_mount(&mount.path, |record| {
            record.managed = true;
            record.config = config;
            record.description.clone_from(&mount.description);
        })
        .await?;
    Ok(Some(Change::Tuned(path)))
}
