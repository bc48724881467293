//! The program's own log, on standard error.

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSettings};

/// Starts logging. `DAYPASS_LOG` overrides the level with a filter such as `daypass=debug,rustls=warn`.
///
/// What drivers log of their own is kept at warnings: a database driver may log the statements it runs.
pub fn init(settings: LogSettings) {
    let level = settings.level.as_str();
    let filter = EnvFilter::try_from_env("DAYPASS_LOG").unwrap_or_else(|_| {
        EnvFilter::new(format!(
            "warn,daypass={level},daypass_database={level},daypass_pki={level}"
        ))
    });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second call, as in tests that start several servers, keeps the first subscriber.
    let _ = match settings.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.try_init(),
    };
}
