//! What the running program can do for an operator besides serving requests. The server provides it;
//! endpoints reach it through [`ControlPlane::process`].

use std::sync::Arc;

use daypass_contract::async_trait;
use serde_json::Value;

use super::answer::Failure;
use super::plane::ControlPlane;
use crate::config::LogLevel;

/// The running program.
#[async_trait]
pub trait Process: Send + Sync {
    /// Reads the configuration again and applies what can be applied while serving: all of that, or on a
    /// failure none of it.
    ///
    /// # Errors
    /// [`Failure::Invalid`] with every problem of the file; [`Failure::Unsupported`] where there is no file.
    async fn reload(&self) -> Result<Reloaded, Failure>;

    /// The configuration in use, without a secret or a reference to one.
    fn configuration(&self) -> Value;

    /// The loggers and their levels, in the order of their names.
    fn log_levels(&self) -> Vec<(&'static str, LogLevel)>;

    /// Sets the level of one logger, or of all; `None` as the level is the configured one.
    ///
    /// # Errors
    /// [`Failure::Invalid`] where there is no logger of that name, or levels are not for the API to change.
    fn set_log_level(&self, logger: Option<&str>, level: Option<LogLevel>) -> Result<(), Failure>;
}

/// What a reload did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// What is different now: `policies.ops`, `mounts.db`, `log.level`.
    pub changed: Vec<String>,
    /// Keys whose new value counts from the next start on.
    pub needs_restart: Vec<String>,
}

impl ControlPlane {
    /// Gives the endpoints the program that runs them; the first call counts.
    pub fn attach(&self, process: Arc<dyn Process>) {
        let _ = self.process.set(process);
    }

    /// The running program.
    pub fn process(&self) -> Result<&Arc<dyn Process>, Failure> {
        self.process.get().ok_or_else(|| {
            Failure::Unsupported("this server was not started as a program of its own".into())
        })
    }
}
