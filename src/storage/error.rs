//! Why storage failed, sorted by what the caller does next.

use std::path::PathBuf;

use daypass_contract::{Source, StoreError};

/// Why storage failed, by what the caller must do next. No text quotes a stored value.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Keys are not in memory: wait for an unseal. Answered 503.
    #[error("Daypass is sealed")]
    Sealed,
    /// A condition of the batch did not hold: read again and decide again.
    #[error("the record was changed by another request; try again")]
    Conflict,
    /// The key cannot be stored. A bug in the caller, or a hostile path.
    #[error("storage key is not valid: {0}")]
    InvalidKey(&'static str),
    /// The disk is full or read-only. Nothing was written and what was there is readable: make room.
    #[error("storage cannot be written: {0}; nothing was changed")]
    Full(String),
    /// What is stored was altered, cut off, or belongs to another store: restore it from a backup.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// The key or the file concerned.
        what: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// Another process has this store open: stop it first.
    #[error("{} is in use by {}; stop it first", path.display(), match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    })]
    InUse {
        /// The directory of the store.
        path: PathBuf,
        /// The process that holds it, where it could be told.
        pid: Option<u32>,
    },
    /// Reading or writing failed. A batch may be taken as not written.
    #[error("storage is unavailable: {0}")]
    Unavailable(#[source] Source),
}

impl StorageError {
    /// A [`StorageError::Damaged`].
    pub(super) fn damaged(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Damaged {
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// A [`StorageError::Unavailable`] with a reason of our own.
    pub(super) fn unavailable(reason: &'static str) -> Self {
        Self::Unavailable(reason.into())
    }
}

/// A mount learns whether to try again, and no more. The cause stays downcastable to [`StorageError`].
impl From<StorageError> for StoreError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Conflict => Self::Conflict,
            other => Self::Failed(Box::new(other)),
        }
    }
}
