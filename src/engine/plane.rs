//! The two lives of the server: the process, and the time it is unsealed.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use daypass_contract::{Clock, Entropy, Secret};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::answer::Failure;
use super::declare::Declarations;
use super::in_flight::InFlight;
use super::lockout::{Lockout, LockoutLimits};
use super::mounts::Mounts;
use super::passwords::Passwords;
use super::policies::Policies;
use super::process::Process;
use super::quota::{Quotas, RateLimit, StoredQuotas};
use super::revoke::TokenReaper;
use super::system::SystemRoutes;
use super::withdraw::{EntityReaper, keep_signing_keys};
use crate::audit::devices::{DeviceError, DeviceRules, Devices};
use crate::audit::{AuditKeys, AuditLog};
use crate::identity::{Identity, NewToken, Oidc, Principal, TokenKind, Tokens, Validity};
use crate::lease::{Leases, Limits, Queue};
use crate::storage::Barrier;
use crate::storage::seal::Keeper;

/// What the configuration decides about the engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Lease times where neither mount nor role says anything.
    pub ttl: Limits,
    /// Revocations at a time, per mount.
    pub revoke_concurrency: usize,
    /// The longest a backend may take to issue, renew or revoke.
    pub upstream_timeout: Duration,
    /// A lease whose revocation failed so often is shown as irrevocable. It is still retried.
    pub irrevocable_after: u32,
    /// How long disabling a mount waits for its leases before it says what holds it up.
    pub settle: Duration,
    /// When a name that is guessed at is locked out.
    pub lockout: LockoutLimits,
    /// What audit devices the API may make.
    pub audit_devices: DeviceRules,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl: Limits {
                default: Duration::from_hours(32 * 24),
                max: Duration::from_hours(32 * 24),
            },
            revoke_concurrency: 64,
            upstream_timeout: Duration::from_secs(30),
            irrevocable_after: 6,
            settle: Duration::from_secs(20),
            lockout: LockoutLimits::default(),
            audit_devices: DeviceRules::default(),
        }
    }
}

/// What a control plane is made of.
pub struct Parts {
    /// Unseals the barrier.
    pub seal: Keeper,
    /// Sealed storage.
    pub barrier: Arc<Barrier>,
    /// Where every request is recorded.
    pub audit: Arc<AuditLog>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// What the configuration decides.
    pub settings: Settings,
    /// The endpoints of the control plane itself.
    pub system: SystemRoutes,
    /// What the configuration declares.
    pub declarations: Declarations,
    /// The rate limits it declares.
    pub quotas: Quotas,
}

/// The process: what exists whether sealed or not.
pub struct ControlPlane {
    /// Unseals the barrier.
    pub seal: Keeper,
    /// Sealed storage.
    pub barrier: Arc<Barrier>,
    /// Where every request is recorded.
    pub audit: Arc<AuditLog>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// See [`Settings`].
    pub settings: Settings,
    pub(super) system: SystemRoutes,
    /// What the configuration declares; a reload replaces it.
    pub(super) declarations: ArcSwap<Declarations>,
    /// The rate limits it declares.
    pub quotas: Quotas,
    /// Requests at work.
    pub in_flight: InFlight,
    /// The running program, once it has said what it can do.
    pub(super) process: OnceLock<Arc<dyn Process>>,
    /// Work that must finish although its caller hung up.
    pub(super) tasks: TaskTracker,
    pub(super) open: ArcSwapOption<Engine>,
    /// One opening, closing or change of what is declared at a time.
    pub(super) turning: Mutex<()>,
}

impl ControlPlane {
    /// A sealed control plane made of these parts.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            seal,
            barrier,
            audit,
            clock,
            entropy,
            settings,
            system,
            declarations,
            quotas,
        } = parts;
        Arc::new(Self {
            seal,
            barrier,
            audit,
            clock,
            entropy,
            settings,
            system,
            declarations: ArcSwap::from_pointee(declarations),
            quotas,
            in_flight: InFlight::default(),
            process: OnceLock::new(),
            tasks: TaskTracker::new(),
            open: ArcSwapOption::empty(),
            turning: Mutex::new(()),
        })
    }

    /// The table of system endpoints.
    pub fn system_routes(&self) -> &SystemRoutes {
        &self.system
    }

    /// The rate limits that the configuration declares.
    pub fn declared_quotas(&self) -> Vec<RateLimit> {
        self.quotas.all()
    }

    /// What exists while unsealed.
    pub fn engine(&self) -> Result<Arc<Engine>, Failure> {
        self.open.load_full().ok_or(Failure::Sealed)
    }

    /// Starts the engine after the seal was opened. Nothing happens where it runs already.
    pub async fn open(self: &Arc<Self>) -> Result<Arc<Engine>, Failure> {
        let _turn = self.turning.lock().await;
        if let Some(engine) = self.open.load_full() {
            return Ok(engine);
        }
        let engine = Engine::start(self).await?;
        if let Err(failure) = engine.note_version(crate::VERSION).await {
            engine.stop().await;
            return Err(failure);
        }
        let failed = match self.apply_declarations(&engine).await {
            Ok(failed) => failed,
            Err(failure) => {
                engine.stop().await;
                return Err(failure);
            }
        };
        if failed > 0 {
            tracing::error!(
                failed,
                "some of what the configuration declares does not apply; the rest serves"
            );
        }
        self.open.store(Some(Arc::clone(&engine)));
        Ok(engine)
    }

    /// Stops the engine, finishes what runs, and wipes the keys.
    pub async fn close(&self) {
        let _turn = self.turning.lock().await;
        if let Some(engine) = self.open.swap(None) {
            engine.stop().await;
        }
        // The chain goes on without keys: what is recorded while sealed holds no values.
        if let Err(error) = self.audit.seal() {
            tracing::error!(%error, "the audit log could not be signed up to here");
        }
        self.seal.seal().await;
    }

    /// Stops what runs as a crash would, for tests: the keys stay, nothing is flushed or signed.
    #[cfg(test)]
    pub(crate) async fn abandon(&self) {
        if let Some(engine) = self.open.swap(None) {
            engine.stop().await;
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Waits for work whose callers may be gone, for as long as `grace`.
    pub async fn finish(&self, grace: Duration) {
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                "work was still running at the end of the grace period; leases will settle it"
            );
        }
        self.close().await;
    }
}

/// What exists while unsealed.
pub struct Engine {
    /// Tokens.
    pub tokens: Tokens,
    /// Entities, aliases and groups.
    pub identity: Identity,
    /// Identity tokens.
    pub oidc: Oidc,
    /// Policies by name, compiled.
    pub policies: Policies,
    /// Password policies.
    pub passwords: Passwords,
    /// Quotas written over the API.
    pub quotas: StoredQuotas,
    /// Leases.
    pub leases: Leases,
    /// Mounts by path.
    pub mounts: Mounts,
    /// What follows the audit log.
    pub audit_devices: Devices,
    /// See [`Settings`].
    pub settings: Settings,
    pub(super) barrier: Arc<Barrier>,
    pub(super) declared_policies: ArcSwap<HashSet<String>>,
    pub(super) audit: Arc<AuditLog>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) token_queue: Arc<Queue>,
    pub(super) lockout: Lockout,
    pub(super) identity_queue: Arc<Queue>,
    /// Since when it is unsealed.
    pub(super) started_at: SystemTime,
    pub(super) stop: CancellationToken,
    pub(super) workers: TaskTracker,
}

impl Engine {
    async fn start(plane: &ControlPlane) -> Result<Arc<Self>, Failure> {
        let barrier = Arc::clone(&plane.barrier);
        plane.audit.unlock(&AuditKeys {
            hmac: Zeroizing::new(*barrier.derive("audit hash")?.expose()),
            signing_seed: Zeroizing::new(*barrier.derive("audit checkpoint")?.expose()),
        })?;
        let queue = Queue::new(
            Tokens::QUEUE.to_owned(),
            Arc::clone(&barrier),
            Arc::clone(&plane.clock),
            plane.settings.revoke_concurrency,
        );
        let (stop, workers) = (CancellationToken::new(), TaskTracker::new());
        let withdrawals = Queue::new(
            Identity::QUEUE.to_owned(),
            Arc::clone(&barrier),
            Arc::clone(&plane.clock),
            plane.settings.revoke_concurrency,
        );
        let engine = Arc::new(Self {
            tokens: Tokens::open(
                Arc::clone(&barrier),
                Arc::clone(&plane.clock),
                Arc::clone(&plane.entropy),
            )?,
            identity: Identity::open(
                Arc::clone(&barrier),
                Arc::clone(&plane.clock),
                Arc::clone(&plane.entropy),
            ),
            oidc: Oidc::open(
                Arc::clone(&barrier),
                Arc::clone(&plane.clock),
                Arc::clone(&plane.entropy),
            ),
            policies: Policies::open(Arc::clone(&barrier)).await?,
            passwords: Passwords::open(Arc::clone(&barrier), Arc::clone(&plane.entropy)),
            quotas: StoredQuotas::open(Arc::clone(&barrier)).await?,
            leases: Leases::open(Arc::clone(&barrier), Arc::clone(&plane.entropy)),
            mounts: Mounts::default(),
            audit_devices: Devices::new(
                Arc::clone(&plane.audit),
                Arc::clone(&barrier),
                Arc::clone(&plane.clock),
                plane.settings.audit_devices.clone(),
                stop.clone(),
                workers.clone(),
            ),
            settings: plane.settings.clone(),
            declared_policies: ArcSwap::from_pointee(plane.declarations.load().policy_names()),
            audit: Arc::clone(&plane.audit),
            clock: Arc::clone(&plane.clock),
            entropy: Arc::clone(&plane.entropy),
            barrier,
            token_queue: queue,
            lockout: Lockout::new(plane.settings.lockout),
            identity_queue: withdrawals,
            started_at: plane.clock.now(),
            stop,
            workers,
        });
        let declared = plane.declarations.load_full();
        let started = engine.audit_devices.start(&declared.audit_devices).await;
        if let Err(error) = started {
            engine.stop().await;
            return Err(error.into());
        }
        if let Err(failure) = engine.open_mounts().await {
            engine.stop().await;
            return Err(failure);
        }
        engine.workers.spawn(Arc::clone(&engine).settle_unsure());
        let reaper = Arc::new(TokenReaper::new(&engine));
        engine
            .workers
            .spawn(Arc::clone(&engine.token_queue).run(reaper, engine.stop.clone()));
        let reaper = Arc::new(EntityReaper::new(&engine));
        engine
            .workers
            .spawn(Arc::clone(&engine.identity_queue).run(reaper, engine.stop.clone()));
        let (keeper, stop) = (Arc::downgrade(&engine), engine.stop.clone());
        engine.workers.spawn(keep_signing_keys(keeper, stop));
        Ok(engine)
    }

    /// A token that may do everything, with the text an operator chose or a generated one.
    pub async fn create_root_token(
        &self,
        display_name: &str,
        text: Option<Secret>,
    ) -> Result<(Secret, Principal), Failure> {
        self.create_root_token_for(display_name, text, Validity::default())
            .await
    }

    /// The same, for as long as `validity` says.
    pub(super) async fn create_root_token_for(
        &self,
        display_name: &str,
        text: Option<Secret>,
        validity: Validity,
    ) -> Result<(Secret, Principal), Failure> {
        Ok(self
            .tokens
            .create(NewToken {
                kind: TokenKind::Service,
                text,
                parent: None,
                policies: vec!["root".to_owned()],
                path: "auth/token/root".to_owned(),
                display_name: display_name.to_owned(),
                meta: std::collections::BTreeMap::new(),
                validity,
                uses: None,
                entity_id: None,
                origin: None,
                role: None,
                bound_cidrs: Vec::new(),
            })
            .await?)
    }

    /// Makes sure the worker that ends tokens looks in time for one that ends at `at`.
    pub fn expect_token_end(&self, at: SystemTime) {
        self.token_queue.expect(at);
    }

    async fn stop(&self) {
        self.stop.cancel();
        self.workers.close();
        self.workers.wait().await;
        for mount in self.mounts.all() {
            mount.backend.close().await;
        }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Refused(text) => Self::Invalid(text),
            DeviceError::Storage(error) => error.into(),
            DeviceError::Audit(error) => error.into(),
            DeviceError::Encoding(error) => error.into(),
        }
    }
}
