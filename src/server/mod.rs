//! From a configuration to a running server, and to its orderly end.

mod dev;
mod log;
mod operate;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_contract::{Clock, Entropy};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::operate::Operator;
use crate::api::{
    self, ClientCertificates, HttpLimits, Listener, ListenerError, Service, TlsFiles,
};
use crate::audit::devices::{self, DeviceRules};
use crate::audit::{AuditError, AuditLog};
use crate::config::{self, ClientAuth, Config, ConfigErrors, Fixed, SealSettings};
use crate::engine::{self, ControlPlane, Declarations, Failure, Parts, Quotas, Settings};
use crate::lease;
use crate::storage::seal::{Keeper, Seal, SealError};
use crate::storage::{Barrier, Embedded, Options, Storage, StorageError};

pub use dev::{Dev, DevOptions, TRUST_DOMAIN, start as start_dev};
pub use log::init as init_log;

/// Why a server does not start, by what its operator does next.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Correct the configuration.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Look at the store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Look at the audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Look at the seal.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Look at an address or a certificate.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// Something to be set up at start was refused.
    #[error("{what}: {failure}")]
    Setup {
        /// What was being set up.
        what: String,
        /// Why not.
        failure: Failure,
    },
    /// The operating system refused.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// The system's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that everything else asks"
    )]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// The cryptographic generator of aws-lc.
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, target: &mut [u8]) {
        // aws-lc's generator does not fail once it is seeded, and aborts the process if it cannot be.
        if aws_lc_rs::rand::fill(target).is_err() {
            std::process::abort();
        }
    }
}

/// A server with its addresses bound, ready to run.
pub struct Server {
    /// What it serves.
    pub plane: Arc<ControlPlane>,
    listeners: Vec<Listener>,
    service: Service,
    storage: Arc<dyn Storage>,
    grace: Duration,
    operator: Arc<Operator>,
    /// Reloads the configuration, where there is a file to reload.
    hangup: Option<Signal>,
}

impl Server {
    /// Opens storage and audit log, unseals where the seal opens by itself, and binds the addresses.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
            (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let (fixed, shown) = (Fixed::of(&config), config.sanitized());
        let options = crate::audit::Options {
            rotate_at_bytes: config.audit.rotate_bytes,
            ..Default::default()
        };
        let audit = AuditLog::open(&config.audit.path, options, Arc::clone(&clock))?;
        let storage: Arc<dyn Storage> =
            Arc::new(Embedded::open(&config.storage.path, Options::default())?);
        let barrier = Arc::new(Barrier::new(
            Arc::clone(&storage),
            Arc::clone(&clock),
            Arc::clone(&entropy),
        ));
        let seal = match config.seal {
            SealSettings::Shamir => Seal::Shamir,
            SealSettings::KeyFile { path } => Seal::KeyFile {
                path,
                generate: true,
            },
        };
        let keeper = Keeper::new(Arc::clone(&barrier), seal);
        let settings = Settings {
            ttl: lease::Limits {
                default: config.leases.default_ttl,
                max: config.leases.max_ttl,
            },
            revoke_concurrency: config.leases.revoke_concurrency,
            audit_devices: DeviceRules {
                dirs: absolute(&config.audit.device_dirs),
                addresses: config.audit.device_addresses,
                private: absolute(&[config.audit.path, config.storage.path]),
            },
            ..Settings::default()
        };
        let declarations = Declarations {
            policies: config.policies,
            mounts: config.mounts,
            audit_devices: config.audit_devices,
        };
        let plane = ControlPlane::new(Parts {
            seal: keeper,
            barrier,
            audit,
            clock,
            entropy,
            settings,
            system: api::system_routes(),
            declarations,
            quotas: Quotas::new(config.quotas),
        });
        let limits = HttpLimits::from(&config.limits);
        lift_descriptor_limit(limits.max_connections);
        let service = Service::new(Arc::clone(&plane), limits);
        let (mut listeners, mut identities) = (Vec::new(), Vec::new());
        for listener in config.listeners {
            let tls = listener.tls.map(tls_files);
            let bound = Listener::bind(&listener.address, tls).await?;
            identities.extend(bound.identity().map(|shown| (listener.address, shown)));
            listeners.push(bound);
        }
        let operator = Operator::new(&plane, fixed, shown, config.log.level, identities);
        let operator = Arc::new(operator);
        plane.attach(Arc::clone(&operator) as _);
        let server = Self {
            plane,
            listeners,
            service,
            storage,
            grace: config.limits.shutdown_grace,
            operator,
            hangup: None,
        };
        server.unseal_by_itself().await?;
        Ok(server)
    }

    /// Opens the seal if it has no shares and was initialized before.
    async fn unseal_by_itself(&self) -> Result<(), StartError> {
        let keeper = &self.plane.seal;
        if keeper.opens_by_itself() && keeper.status().await?.initialized {
            keeper.auto_unseal().await?;
            self.plane
                .open()
                .await
                .map_err(|failure| StartError::Setup {
                    what: "unseal".into(),
                    failure,
                })?;
        }
        Ok(())
    }

    /// Names the file that the configuration came from, to be read again at SIGHUP and when the API is asked to.
    ///
    /// # Errors
    /// [`StartError::System`] where signals cannot be caught.
    pub fn reload_from(&mut self, file: PathBuf) -> Result<(), StartError> {
        let hangup = signal(SignalKind::hangup()).map_err(|source| StartError::System {
            what: "signal handler",
            source,
        })?;
        self.hangup = Some(hangup);
        let _ = self.operator.file.set(file);
        Ok(())
    }

    /// The TCP addresses that were bound, with the ports that were chosen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(Listener::address)
            .collect()
    }

    /// Serves until `stop`, then finishes what runs within the grace period and seals.
    pub async fn run(self, stop: CancellationToken) {
        let mut serving = JoinSet::new();
        for listener in self.listeners {
            serving.spawn(listener.serve(self.service.clone(), stop.clone(), self.grace));
        }
        if let Some(hangup) = self.hangup {
            serving.spawn(self.operator.reload_on(hangup, stop.clone()));
        }
        while serving.join_next().await.is_some() {}
        self.plane.finish(self.grace).await;
        if let Err(error) = self.storage.close().await {
            tracing::error!(%error, "storage could not be closed");
        }
        if let Err(error) = self.plane.audit.close() {
            tracing::error!(%error, "the audit log could not be closed");
        }
    }
}

/// Allows as many descriptors as the system lets this process have. The usual soft limit (1024) is for
/// programs that call `select`; it would turn connections away long before `max_connections`.
fn lift_descriptor_limit(max_connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit on open files stays");
            return;
        }
    }
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    if allowed < max_connections as u64 {
        tracing::warn!(
            allowed,
            max_connections,
            "the system allows fewer open files than limits.max_connections"
        );
    }
}

fn tls_files(tls: config::Tls) -> TlsFiles {
    TlsFiles {
        certificate: tls.cert_file,
        key: tls.key_file,
        clients: match tls.client_auth {
            ClientAuth::None => ClientCertificates::Unasked,
            ClientAuth::Request => ClientCertificates::Any,
            ClientAuth::Optional | ClientAuth::Required => ClientCertificates::Of {
                ca: tls.client_ca_file.unwrap_or_default(),
                required: tls.client_auth == ClientAuth::Required,
            },
        },
    }
}

/// Reads and checks a configuration file.
///
/// # Errors
/// Every problem found in it.
pub fn load_config(path: &std::path::Path) -> Result<Config, ConfigErrors> {
    let config = config::load(path, &engine::declarable())?;
    match devices::check(&config) {
        problems if problems.is_empty() => Ok(config),
        problems => Err(ConfigErrors(problems)),
    }
}

/// A token that is cancelled by SIGTERM or SIGINT.
///
/// # Errors
/// [`StartError::System`] where signals cannot be caught.
pub fn stop_on_signals() -> Result<CancellationToken, StartError> {
    let system = |source| StartError::System {
        what: "signal handler",
        source,
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "it lives as long as the process, and ends with it"
    )]
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stopping.cancel();
    });
    Ok(stop)
}

/// The same folders, wherever the process was started.
fn absolute(folders: &[PathBuf]) -> Vec<PathBuf> {
    let absolute = |folder| std::path::absolute(folder).unwrap_or_else(|_| PathBuf::from(folder));
    folders.iter().map(absolute).collect()
}

/// A folder that only its owner may enter.
fn private_folder(path: &PathBuf) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).map_err(|source| StartError::System {
        what: "data folder",
        source,
    })
}
