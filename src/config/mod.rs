//! The TOML configuration: parse, validate, and say what is wrong where.
//!
//! [`load`] reads one file and the `conf.d/*.toml` beside it into a [`Config`], or reports *every*
//! problem it finds, each with its file, line, column and key, and the nearest name that would be
//! valid. A [`Config`] that exists has passed every check that needs no running server.
//!
//! # Invariants
//!
//! * **Secrets are references.** A secret stands in the file as `env:NAME` or `file:/path`
//!   ([`SecretRef`]); a plain value for a field that is a secret by its name is refused.
//! * **No error quotes a value.** Keys, paths and addresses are named, other values never are: a
//!   secret that was put in the wrong place must not reach a terminal or a log.
//! * **What is not understood is refused.** An unknown key never passes in silence.

mod check;
mod diff;
mod error;
mod model;
mod parse;
mod read;
mod secret;
mod shown;

use std::path::{Path, PathBuf};

pub use self::diff::Fixed;
pub use self::error::{ConfigError, ConfigErrors, Origin, Place};
pub use self::model::{
    AuditDevice, AuditSettings, ClientAuth, Config, LeaseSettings, Limits, ListenAddress, Listener,
    LogFormat, LogLevel, LogSettings, Mount, Policy, Quota, Resource, SealSettings, Setting,
    StorageSettings, Tls,
};
use self::read::{Problems, Source};
pub use self::secret::{SecretError, SecretRef, read_private};

/// More than any configuration needs; keeps a wrong path (a device, a log) from filling memory.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The types of mounts that exist. The engine's registry knows them, and this module lies below it.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    /// For `[[mounts]]`.
    pub secrets: Vec<&'static str>,
    /// For `[[auth]]`.
    pub auth: Vec<&'static str>,
}

/// Reads `path` and the `conf.d/*.toml` beside it.
///
/// # Errors
/// All problems found, in the order of the files.
pub fn load(path: &Path, kinds: &Kinds) -> Result<Config, ConfigErrors> {
    let problems = Problems::default();
    let sources: Vec<Source> = files(path, &problems)
        .into_iter()
        .filter_map(|file| source(file, &problems))
        .collect();
    let config = parse::config(&sources, path, kinds, &problems);
    match (config, problems.into_errors()) {
        (Some(config), errors) if errors.is_empty() => Ok(config),
        (_, errors) => Err(ConfigErrors(errors)),
    }
}

/// The file itself, then `conf.d/*.toml` in the order of their names.
fn files(path: &Path, problems: &Problems) -> Vec<PathBuf> {
    let mut files = vec![path.to_owned()];
    let folder = path.parent().unwrap_or(Path::new("")).join("conf.d");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return files,
        Err(error) => {
            problems.file(&folder, format!("cannot be listed: {error}"));
            return files;
        }
    };
    let mut more: Vec<PathBuf> = entries
        .filter_map(|entry| match entry {
            Ok(entry) => Some(entry.path()),
            Err(error) => {
                problems.file(&folder, format!("cannot be listed: {error}"));
                None
            }
        })
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    more.sort();
    files.append(&mut more);
    files
}

fn source(file: PathBuf, problems: &Problems) -> Option<Source> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(&file)
        .and_then(|opened| opened.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length as u64 > MAX_FILE_BYTES => {
            problems.file(&file, format!("is larger than {MAX_FILE_BYTES} bytes"));
            None
        }
        Ok(_) => Some(Source::new(file, text)),
        Err(error) => {
            problems.file(&file, format!("cannot be read: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests;
