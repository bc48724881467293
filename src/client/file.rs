//! The token file, and files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use daypass_contract::Secret;

use super::settings::Environment;
use crate::config::{SecretError, read_private};

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written: {source}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

/// The file that `daypass login` leaves the token in.
pub struct TokenFile(PathBuf);

impl TokenFile {
    /// The file at `path`.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// `$DAYPASS_TOKEN_FILE`, or `~/.daypass/token`; `None` where there is no home.
    pub fn usual(environment: &Environment<'_>) -> Option<Self> {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        set("DAYPASS_TOKEN_FILE")
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(&set("HOME")?).join(".daypass/token")))
            .map(Self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The token; `None` where there is no file.
    ///
    /// # Errors
    /// [`SecretError`]; a file that others may read is refused.
    pub fn read(&self) -> Result<Option<Secret>, SecretError> {
        match read_private(&self.0) {
            Ok(token) => Ok(Some(token)),
            Err(SecretError::Unreadable { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Leaves the token for later commands. A folder that does not exist is made, for its owner alone.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn write(&self, token: &Secret) -> Result<(), FileError> {
        if let Some(folder) = self.0.parent().filter(|folder| !folder.exists()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|source| FileError {
                    path: folder.to_owned(),
                    source,
                })?;
        }
        write_private(&self.0, token.expose())
    }

    /// Forgets the token; no error where there is none.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn remove(&self) -> Result<(), FileError> {
        match fs::remove_file(&self.0) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FileError {
                path: self.0.clone(),
                source,
            }),
            _ => Ok(()),
        }
    }
}

/// Writes a file that only its owner may read: a reader sees the old content or the new, never a part,
/// and at no time with wider permissions.
///
/// # Errors
/// [`FileError`].
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, 0o600)
}

/// Writes a file that everybody may read, in the same way. One that exists keeps its permissions.
///
/// # Errors
/// [`FileError`].
pub fn write_file(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let mode = fs::metadata(path).map_or(0o644, |file| file.mode() & 0o777);
    replace(path, content, mode)
}

fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError {
        path: path.to_owned(),
        source,
    };
    let name = path.file_name().ok_or_else(|| {
        failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it names no file",
        ))
    })?;
    let mut draft_name = std::ffi::OsString::from(".");
    draft_name.push(name);
    draft_name.push(format!(".{}", uuid::Uuid::new_v4().simple()));
    let draft = path.with_file_name(draft_name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&draft, path));
    if let Err(source) = written {
        // The draft may hold a key; the first error is the one worth telling.
        let _ = fs::remove_file(&draft);
        return Err(failed(source));
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}
