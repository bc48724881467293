//! References to secrets, and the reading of files that hold one.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use daypass_contract::Secret;

/// Far above any key or password; keeps a wrong path from filling memory.
const MAX_SECRET_BYTES: u64 = 1 << 20;

/// Where a secret is to be found. It names the place and never holds the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `env:NAME`: a variable of the server's environment.
    Env(String),
    /// `file:/path`: a file that only its owner may read. One newline at its end does not count.
    File(PathBuf),
}

/// Why a secret could not be had. Names the reference, never what is behind it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not there.
    #[error("the environment variable {0} is not set")]
    NotSet(String),
    /// The variable or the file holds nothing.
    #[error("{0} is empty")]
    Empty(String),
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A binary secret where text is needed.
    #[error("{0} does not hold UTF-8 text")]
    NotText(String),
    /// The file is larger than a secret is.
    #[error("{} is larger than {MAX_SECRET_BYTES} bytes, which no secret is", .0.display())]
    TooLarge(PathBuf),
    /// Others than the owner may read the file.
    #[error(
        "{} can be read by others than its owner (mode {mode:04o}): run `chmod 600` on it, or in Kubernetes set `defaultMode: 0400`",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl SecretRef {
    /// Reads a reference, with relative paths meant from `folder`. `None`: the text is no reference.
    /// `Some(Err)`: it is one that cannot be used, and why.
    pub fn parse(text: &str, folder: &Path) -> Option<Result<Self, &'static str>> {
        let (scheme, rest) = text.split_once(':')?;
        let reference = match scheme {
            "env" if is_variable(rest) => Ok(Self::Env(rest.to_owned())),
            "env" => Err("expected \"env:NAME\" with the name of an environment variable"),
            "file" if !rest.is_empty() => Ok(Self::File(folder.join(rest))),
            "file" => Err("expected \"file:/path\""),
            "aws-sm" => Err(
                "AWS Secrets Manager references are not available yet; use \"env:NAME\" or \"file:/path\"",
            ),
            _ => return None,
        };
        Some(reference)
    }

    /// Reads the secret.
    ///
    /// # Errors
    /// [`SecretError`], which says what to change.
    pub fn resolve(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Env(name) => {
                use std::os::unix::ffi::OsStringExt as _;
                let value =
                    std::env::var_os(name).ok_or_else(|| SecretError::NotSet(name.clone()))?;
                let secret = Secret::new(value.into_vec());
                if secret.is_empty() {
                    return Err(SecretError::Empty(format!(
                        "the environment variable {name}"
                    )));
                }
                Ok(secret)
            }
            Self::File(path) => read_private(path),
        }
    }

    /// The secret was read, but a place that takes only text refers to it.
    pub(super) fn not_text(&self) -> SecretError {
        SecretError::NotText(match self {
            Self::Env(name) => format!("the environment variable {name}"),
            Self::File(path) => path.display().to_string(),
        })
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Reads a file that holds a secret, without one newline at its end. Refuses a file that others than
/// its owner may read, as ssh does: by then the secret is theirs too.
///
/// # Errors
/// [`SecretError`], which says what to change.
pub fn read_private(path: &Path) -> Result<Secret, SecretError> {
    let unreadable = |source| SecretError::Unreadable {
        path: path.to_owned(),
        source,
    };
    // Asked of the open file, not of the path, which may have changed in between.
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    file.take(MAX_SECRET_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(SecretError::TooLarge(path.to_owned()));
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.is_empty() {
        return Err(SecretError::Empty(path.display().to_string()));
    }
    Ok(Secret::new(bytes))
}

/// Whether a field holds a secret, judged by its name alone (`password`, `secret_key`, `bind_token`).
pub(super) fn names_a_secret(field: &str) -> bool {
    const ENDINGS: [&str; 9] = [
        "password",
        "passwd",
        "passphrase",
        "secret",
        "secret_key",
        "secret_id",
        "token",
        "private_key",
        "api_key",
    ];
    let field = field.to_ascii_lowercase().replace('-', "_");
    ENDINGS.iter().any(|ending| {
        field
            .strip_suffix(ending)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
    })
}

/// Whether a text is a URL with a password in it (`postgres://app:hunter2@db/`). A template such as
/// `{{password}}` is none.
pub(super) fn holds_a_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let Some((login, _)) = authority.rsplit_once('@') else {
        return false;
    };
    login
        .split_once(':')
        .is_some_and(|(_, password)| !password.is_empty() && !password.starts_with("{{"))
}
