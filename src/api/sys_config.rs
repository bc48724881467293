//! `sys/config/reload`, `sys/config/state/sanitized` and `sys/loggers`: the running program, changed and shown.

use std::collections::BTreeMap;

use daypass_contract::{Access, NoFields, Operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::LogLevel;
use crate::engine::{Answer, Failure, Serve, SystemCall, SystemRoutes};

#[derive(Deserialize, JsonSchema)]
struct ReloadRequest {
    /// `config`: the whole file; it is applied whole or not at all.
    subsystem: String,
}

#[derive(Serialize, JsonSchema)]
struct ReloadView {
    /// What is different now.
    changed: Vec<String>,
    /// Keys whose new value counts from the next start on.
    needs_restart: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
struct LevelRequest {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    level: Option<String>,
    /// The logger; all of them where the path names none.
    name: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct LoggerRequest {
    name: Option<String>,
}

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, Read, Write};
    routes
        .serve::<ReloadRequest, ReloadView, _, _>(
            Write,
            "sys/config/reload/{subsystem}",
            "Reads the configuration file again and applies what needs no restart: all of that or nothing.",
            reload,
        )
        .access = Access::Sudo;
    routes
        .serve::<NoFields, Value, _, _>(
            Read,
            "sys/config/state/sanitized",
            "Shows the configuration in use, without a secret.",
            |call, _| async move { Answer::data(&call.plane.process()?.configuration()) },
        )
        .access = Access::Sudo;
    for path in ["sys/loggers", "sys/loggers/{name}"] {
        routes.serve::<LoggerRequest, BTreeMap<String, String>, _, _>(
            Read,
            path,
            "Shows the levels of loggers.",
            levels,
        );
        routes
            .serve::<LevelRequest, (), _, _>(
                Write,
                path,
                "Sets the level of loggers until the server restarts.",
                set_level,
            )
            .access = Access::Sudo;
        routes
            .serve::<LoggerRequest, (), _, _>(
                Delete,
                path,
                "Gives loggers the configured level again.",
                reset_level,
            )
            .access = Access::Sudo;
    }
}

async fn reload(call: SystemCall, request: ReloadRequest) -> Result<Answer, Failure> {
    if request.subsystem != "config" {
        return Err(Failure::Unsupported(
            "only the whole configuration is reloaded, because it is applied whole or not at all: write to \
             sys/config/reload/config"
                .into(),
        ));
    }
    let done = call.plane.process()?.reload().await?;
    let mut answer = Answer::data(&ReloadView {
        changed: done.changed,
        needs_restart: done.needs_restart.clone(),
    })?;
    for key in done.needs_restart {
        answer = answer.warn(format!("{key}: counts from the next start on"));
    }
    Ok(answer)
}

async fn levels(call: SystemCall, request: LoggerRequest) -> Result<Answer, Failure> {
    let levels: BTreeMap<&str, &str> = call
        .plane
        .process()?
        .log_levels()
        .into_iter()
        .filter(|(name, _)| request.name.as_ref().is_none_or(|wanted| wanted == name))
        .map(|(name, level)| (name, level.as_str()))
        .collect();
    Answer::data(&levels)
}

async fn set_level(call: SystemCall, request: LevelRequest) -> Result<Answer, Failure> {
    let level = request
        .level
        .filter(|level| !level.is_empty())
        .ok_or_else(|| Failure::Invalid("level is required".into()))?;
    let level = level_of(&level).ok_or_else(|| {
        Failure::Invalid(
            "invalid level provided: must be one of error, warn, info, debug and trace".into(),
        )
    })?;
    call.plane
        .process()?
        .set_log_level(request.name.as_deref(), Some(level))?;
    Ok(Answer::nothing())
}

/// A level by our name for it, or by one that Vault's clients also send.
fn level_of(name: &str) -> Option<LogLevel> {
    let name = name.to_ascii_lowercase();
    LogLevel::named(match name.as_str() {
        "warning" => "warn",
        "err" => "error",
        "notice" => "info",
        other => other,
    })
}

async fn reset_level(call: SystemCall, request: LoggerRequest) -> Result<Answer, Failure> {
    call.plane
        .process()?
        .set_log_level(request.name.as_deref(), None)?;
    Ok(Answer::nothing())
}
