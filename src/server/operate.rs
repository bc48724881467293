//! The running program as its operator changes it: reload, log levels.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use daypass_contract::async_trait;
use serde_json::Value;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use super::log::Levels;
use super::{load_config, tls_files};
use crate::api::{Identity, Loaded};
use crate::config::{self, Config, Fixed, ListenAddress, LogLevel};
use crate::engine::{ControlPlane, Declarations, Failure, Process, Reloaded};

/// The running program. The control plane holds it, so it does not hold the control plane.
pub(super) struct Operator {
    plane: Weak<ControlPlane>,
    /// Where the configuration came from; unset for a server that was started without a file.
    pub(super) file: OnceLock<PathBuf>,
    fixed: Fixed,
    shown: Mutex<Value>,
    levels: Levels,
    /// What TLS listeners show, by address.
    identities: Vec<(ListenAddress, Arc<Identity>)>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
}

impl Operator {
    pub(super) fn new(
        plane: &Arc<ControlPlane>,
        fixed: Fixed,
        shown: Value,
        level: LogLevel,
        identities: Vec<(ListenAddress, Arc<Identity>)>,
    ) -> Self {
        Self {
            plane: Arc::downgrade(plane),
            file: OnceLock::new(),
            fixed,
            shown: Mutex::new(shown),
            levels: Levels::new(level),
            identities,
            reloading: tokio::sync::Mutex::default(),
        }
    }

    /// Reloads at each SIGHUP until `stop`.
    pub(super) async fn reload_on(self: Arc<Self>, mut hangup: Signal, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                signal = hangup.recv() => if signal.is_none() { return },
            }
            match self.reload().await {
                Ok(Reloaded {
                    changed,
                    needs_restart,
                }) => {
                    tracing::info!(?changed, ?needs_restart, "the configuration is reloaded");
                }
                Err(failure) => {
                    tracing::error!(%failure, "the configuration is not reloaded; the former one stays");
                }
            }
        }
    }

    /// What the listeners will show, read and found to fit.
    fn certificates(&self, config: &Config) -> Result<Vec<(&Identity, Loaded)>, Failure> {
        let mut fresh = Vec::new();
        for (address, identity) in &self.identities {
            let listener = config
                .listeners
                .iter()
                .find(|listener| listener.address == *address);
            if let Some(tls) = listener.and_then(|listener| listener.tls.clone()) {
                let loaded = Loaded::read(tls_files(tls))
                    .map_err(|error| Failure::Invalid(error.to_string()))?;
                fresh.push((&**identity, loaded));
            }
        }
        Ok(fresh)
    }
}

#[async_trait]
impl Process for Operator {
    async fn reload(&self) -> Result<Reloaded, Failure> {
        let file = self.file.get().ok_or_else(|| {
            Failure::Unsupported("this server was started without a configuration file".into())
        })?;
        let plane = self.plane.upgrade().ok_or(Failure::Sealed)?;
        let _one = self.reloading.lock().await;
        let path = file.clone();
        let config = tokio::task::spawn_blocking(move || load_config(&path))
            .await
            .map_err(|error| Failure::Internal(format!("reload: {error}")))?
            .map_err(|errors| Failure::Invalid(errors.to_string()))?;
        let needs_restart = self.fixed.differences(&Fixed::of(&config));
        let certificates = self.certificates(&config)?;
        let shown = config.sanitized();
        // What can fail comes first; what follows it cannot.
        let mut changed = plane
            .redeclare(Declarations {
                policies: config.policies,
                mounts: config.mounts,
                audit_devices: config.audit_devices,
            })
            .await?;
        let quotas = plane.quotas.replace(config.quotas);
        changed.extend(quotas.iter().map(|name| format!("quotas.{name}")));
        for (identity, loaded) in certificates {
            if identity.adopt(loaded) {
                changed.push("listeners.tls".to_owned());
            }
        }
        if self.levels.configure(config.log.level) {
            changed.push("log.level".to_owned());
        }
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(Reloaded {
            changed,
            needs_restart,
        })
    }

    fn configuration(&self) -> Value {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.clone()
    }

    fn log_levels(&self) -> Vec<(&'static str, config::LogLevel)> {
        self.levels.all()
    }

    fn set_log_level(&self, logger: Option<&str>, level: Option<LogLevel>) -> Result<(), Failure> {
        self.levels.set(logger, level)
    }
}
