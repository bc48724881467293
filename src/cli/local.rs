//! Commands that need no server: check a configuration, complete, version.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _, Subcommand};
use clap_complete::Shell;
use serde_json::json;

use super::context::Context;
use super::output::Format;
use super::{Cli, Code, Failure};
use crate::audit::devices;
use crate::config::{self, ConfigError, ConfigErrors};
use crate::engine;
use crate::policy::Policy;

pub(super) const COMPLETIONS: &str = "\
Prints a script that completes commands, flags and values in a shell.

    $ daypass completions bash > /etc/bash_completion.d/daypass
    $ daypass completions zsh > \"${fpath[1]}/_daypass\"
    $ daypass completions fish > ~/.config/fish/completions/daypass.fish";

const CHECK: &str = "\
Reads a configuration and the conf.d/*.toml beside it as the server would, and reports everything that is wrong with
it: file, line, column, key, and what to write instead. Files and secrets it refers to must be readable here.

    $ daypass config check /etc/daypass/daypass.toml
    $ daypass config check --format json daypass.toml     # for editors and pipelines";

/// Reads a configuration with all checks that this program can make without running a server: mount types
/// are those of the registry, policies are policies, and audit devices have the options of their type.
///
/// # Errors
/// All problems found.
pub(super) fn load(file: &Path) -> Result<config::Config, ConfigErrors> {
    let config = config::load(file, &engine::declarable())?;
    let policies = config.policies.iter().filter_map(|policy| {
        let error = Policy::parse(&policy.name, &policy.rules).err()?;
        Some(policy.origin.error("rules", error.to_string()))
    });
    let mut problems: Vec<ConfigError> = policies.collect();
    problems.extend(devices::check(&config));
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigErrors(problems))
    }
}

/// `daypass config …`
#[derive(Subcommand)]
pub(super) enum Config {
    /// Report everything that is wrong with a configuration (exit code 1 where something is)
    #[command(long_about = CHECK)]
    Check(Check),
}

/// `daypass config check`.
#[derive(Args)]
pub(super) struct Check {
    /// The configuration
    #[arg(default_value = "/etc/daypass/daypass.toml")]
    file: PathBuf,
}

impl Config {
    pub(super) fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let Self::Check(Check { file }) = self;
        let shown = file.display();
        match load(&file) {
            Ok(config) => {
                if context.format == Format::Json {
                    return context.json(&json!([]));
                }
                context.done(&format!(
                    "{shown} is valid: {} listeners, {} mounts, {} policies, {} quotas",
                    config.listeners.len(),
                    config.mounts.len(),
                    config.policies.len(),
                    config.quotas.len()
                ))
            }
            Err(errors) if context.format == Format::Json => {
                context.json(&errors.0.iter().map(problem).collect())?;
                Err(Failure::silent(Code::Usage))
            }
            Err(errors) => {
                context.print(&format!("{errors}\n"))?;
                let count = errors.0.len();
                let problems = if count == 1 { "problem" } else { "problems" };
                Err(Failure::usage(
                    format!("use {shown}"),
                    format!("it has {count} {problems}"),
                ))
            }
        }
    }
}

fn problem(error: &ConfigError) -> serde_json::Value {
    json!({
        "file": error.place.file.display().to_string(),
        "line": error.place.line,
        "column": error.place.column,
        "key": error.key,
        "problem": error.problem,
        "nearest": error.nearest,
    })
}

/// `daypass completions`.
#[derive(Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "daypass", &mut script);
        context.print(&String::from_utf8_lossy(&script))
    }
}

/// `daypass version`.
pub(super) fn version(context: &mut Context<'_, '_>) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if context.format == Format::Json {
        return context.json(&json!({"version": version}));
    }
    context.print(&format!("daypass {version}\n"))
}
