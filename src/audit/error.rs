//! [`AuditError`]: why the log failed, by what the caller does next.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why the audit log failed. In each case the request that needed the record must fail.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuditError {
    /// Another process has the log open. Stop it, or configure another directory.
    #[error(
        "audit log {dir} is in use by another process; stop it, or set another audit directory"
    )]
    InUse {
        /// The log's directory.
        dir: PathBuf,
    },
    /// The end of the log is not what a crash leaves behind. An operator must look.
    #[error(
        "audit log file {file} is damaged: {what}; find out why with `daypass audit verify`, \
         then move the log's files elsewhere to start a new chain"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A file or directory could not be opened, made or read. The log goes on as it was before.
    #[error("audit log cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Of which file.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// This record has no JSON form or is too long: a bug, or an absurd request. The log is well.
    #[error("audit record cannot be encoded, or is longer than 4 MiB")]
    Encoding,
    /// This record was not written, as on a full disk. A later one may be.
    #[error("audit record could not be written: {0}")]
    NotWritten(Arc<io::Error>),
    /// The log can no longer be trusted to reach the disk. Mend the disk and restart the server.
    #[error("audit log accepts no more records: {0}; mend the disk and restart the server")]
    Broken(Arc<str>),
    /// The log was closed: the server is shutting down.
    #[error("audit log is closed")]
    Closed,
}

impl AuditError {
    pub(super) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            what,
            path,
            source: Arc::new(source),
        }
    }
}
