//! The program's own log, on standard error, and its levels, which may change while it runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogLevel, LogSettings};
use crate::engine::Failure;

/// Whose lines have a level of their own: the server, and the backends that say something.
///
/// What drivers log of their own is kept at warnings: a database driver may log the statements it runs.
const LOGGERS: [&str; 3] = ["daypass", "daypass_database", "daypass_pki"];
/// Overrides the levels with a filter such as `daypass=debug,rustls=warn`.
const VARIABLE: &str = "DAYPASS_LOG";

/// Sets the filter of the log that runs.
type Apply = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

static APPLY: OnceLock<Apply> = OnceLock::new();

/// Starts logging, at the levels of the configuration or of `DAYPASS_LOG`.
pub fn init(settings: LogSettings) {
    let filter = EnvFilter::try_from_env(VARIABLE)
        .unwrap_or_else(|_| filter(&levels(settings.level, &BTreeMap::new())));
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr);
    // A second call, as in tests that start several servers, keeps the first subscriber.
    let apply: Apply = match settings.format {
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true);
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_err() {
                return;
            }
            Box::new(move |filter| handle.reload(filter).is_ok())
        }
        LogFormat::Text => {
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_err() {
                return;
            }
            Box::new(move |filter| handle.reload(filter).is_ok())
        }
    };
    let _ = APPLY.set(apply);
}

/// The levels in use: the configured one, and what the API set besides.
pub(super) struct Levels(Mutex<Wanted>);

struct Wanted {
    configured: LogLevel,
    set: BTreeMap<&'static str, LogLevel>,
}

impl Levels {
    pub(super) fn new(configured: LogLevel) -> Self {
        Self(Mutex::new(Wanted {
            configured,
            set: BTreeMap::new(),
        }))
    }

    /// Each logger with its level, in the order of their names.
    pub(super) fn all(&self) -> Vec<(&'static str, LogLevel)> {
        let wanted = self.wanted();
        levels(wanted.configured, &wanted.set)
    }

    /// Takes the level of a changed configuration. Gives whether it is another one.
    pub(super) fn configure(&self, level: LogLevel) -> bool {
        let mut wanted = self.wanted();
        let other = wanted.configured != level;
        wanted.configured = level;
        apply(&wanted);
        other
    }

    /// Sets the level of one logger, or of all; `None` as the level is the configured one.
    pub(super) fn set(&self, logger: Option<&str>, level: Option<LogLevel>) -> Result<(), Failure> {
        if std::env::var_os(VARIABLE).is_some() {
            return Err(Failure::Invalid(format!(
                "the variable {VARIABLE} of the server's environment sets the levels: start it without"
            )));
        }
        let mut wanted = self.wanted();
        let chosen: Vec<&'static str> = LOGGERS
            .into_iter()
            .filter(|name| logger.is_none_or(|logger| logger == *name))
            .collect();
        if let (Some(logger), []) = (logger, &chosen[..]) {
            return Err(Failure::Invalid(format!("logger \"{logger}\" not found")));
        }
        for name in chosen {
            match level {
                Some(level) => drop(wanted.set.insert(name, level)),
                None => drop(wanted.set.remove(name)),
            }
        }
        apply(&wanted);
        Ok(())
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        // No code between lock and unlock leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(wanted: &Wanted) {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    if let Some(apply) = APPLY.get() {
        apply(filter(&levels(wanted.configured, &wanted.set)));
    }
}

fn levels(
    configured: LogLevel,
    set: &BTreeMap<&'static str, LogLevel>,
) -> Vec<(&'static str, LogLevel)> {
    let level = |name| set.get(name).copied().unwrap_or(configured);
    LOGGERS
        .into_iter()
        .map(|name| (name, level(name)))
        .collect()
}

fn filter(levels: &[(&'static str, LogLevel)]) -> EnvFilter {
    let levels = levels
        .iter()
        .map(|(name, level)| format!("{name}={}", level.as_str()));
    let directives: Vec<String> = std::iter::once("warn".to_owned()).chain(levels).collect();
    EnvFilter::new(directives.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logger_has_the_level_that_was_set_or_else_the_configured_one() {
        let levels = Levels::new(LogLevel::Info);
        let level = |name: &str| {
            let all = levels.all();
            all.iter().find(|(there, _)| *there == name).unwrap().1
        };
        assert_eq!(level("daypass"), LogLevel::Info);
        levels.set(Some("daypass"), Some(LogLevel::Debug)).unwrap();
        assert!(!levels.configure(LogLevel::Info));
        assert!(levels.configure(LogLevel::Warn));
        assert_eq!(level("daypass"), LogLevel::Debug);
        assert_eq!(level("daypass_pki"), LogLevel::Warn);
        let error = levels.set(Some("nope"), None).err().unwrap().to_string();
        assert_eq!(error, "logger \"nope\" not found");
        levels.set(None, Some(LogLevel::Error)).unwrap();
        assert_eq!(level("daypass_pki"), LogLevel::Error);
        levels.set(None, None).unwrap();
        assert!(
            levels
                .all()
                .iter()
                .all(|(_, level)| *level == LogLevel::Warn)
        );
        assert_eq!(
            filter(&levels.all()).to_string().split(',').count(),
            LOGGERS.len() + 1
        );
    }
}
