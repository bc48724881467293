//! The directory and the file: created private, locked against a second process, checked at open, and
//! every SQLite failure put into our words.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use daypass_contract::Revision;
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row as SqlRow, TransactionBehavior};

use crate::storage::{Range, Row, StorageError};

const FILE_NAME: &str = "daypass.db";
const LOCK_NAME: &str = "daypass.lock";

/// "DayP": tells our databases from any other's.
const APPLICATION_ID: i64 = 0x4461_7950;
/// Raised when the tables change shape.
const FORMAT: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE rows (key BLOB PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL)
        WITHOUT ROWID;
    CREATE TABLE counter (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL);
    INSERT INTO counter VALUES (1, 0);
";

const RESTORE: &str = "restore the directory from a backup, or move it away to start empty";

/// An open database: the writer's connection and the lock that keeps other processes out.
pub(super) struct Database {
    pub(super) connection: Connection,
    pub(super) file: Arc<Path>,
    /// The revision of the last commit.
    pub(super) revision: i64,
    // Released when dropped, so declared after the connection.
    _lock: File,
}

impl Database {
    pub(super) fn open(directory: &Path, max_bytes: Option<u64>) -> Result<Self, StorageError> {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        made.map_err(|error| io_failure(directory, error))?;
        let metadata = directory
            .metadata()
            .map_err(|error| io_failure(directory, error))?;
        if metadata.mode() & 0o077 != 0 {
            tracing::warn!(
                directory = %directory.display(),
                "other users of this machine can enter the storage directory: chmod 700 it"
            );
        }
        let lock = lock(directory)?;
        let file: Arc<Path> = directory.join(FILE_NAME).into();
        if file.exists() {
            check_header(&file)?;
        } else {
            create(&file)?;
        }
        let connection = connect_writer(&file).map_err(|error| failure(&file, error))?;
        let revision = prepare(&connection, &file, max_bytes)?;
        Ok(Self {
            connection,
            file,
            revision,
            _lock: lock,
        })
    }

    pub(super) fn close(self) -> Result<(), StorageError> {
        let closed = self.connection.close();
        closed.map_err(|(_, error)| failure(&self.file, error))
    }
}

fn lock(directory: &Path) -> Result<File, StorageError> {
    let path = directory.join(LOCK_NAME);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| io_failure(&path, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let read = file.read_to_string(&mut text);
            return Err(StorageError::InUse {
                path: directory.to_owned(),
                pid: read.ok().and_then(|_| text.trim().parse().ok()),
            });
        }
        Err(TryLockError::Error(error)) => return Err(io_failure(&path, error)),
    }
    // Only for the message above, so a stale number, or none on a full disk, harms nobody: the lock is
    // the file lock.
    let _ = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Creates an empty file that only its owner can read; fails where the path exists.
pub(super) fn create_private(path: &Path) -> Result<(), StorageError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|error| io_failure(path, error))
}

/// Makes a finished file and its name durable.
pub(in crate::storage) fn sync_file_and_directory(path: &Path) -> Result<(), StorageError> {
    let sync = |path: &Path| {
        File::open(path)
            .and_then(|file| file.sync_all())
            .map_err(|error| io_failure(path, error))
    };
    sync(path)?;
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync(Path::new(".")),
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

/// Refuses a file that is not a database before SQLite sees it.
fn check_header(file: &Path) -> Result<(), StorageError> {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let mut header = Vec::new();
    File::open(file)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut header))
        .map_err(|error| io_failure(file, error))?;
    if header == MAGIC {
        return Ok(());
    }
    Err(damaged(
        file,
        "it is not a database, or its start was overwritten",
    ))
}

/// Makes an empty database. It gets its name when it is whole, so that an empty file under that name
/// is never a new store, but one that lost everything.
fn create(file: &Path) -> Result<(), StorageError> {
    if file.with_extension("db-wal").exists() {
        return Err(damaged(file, "it is missing, but its log is there"));
    }
    let draft = file.with_extension("new");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_failure(&draft, error));
        }
        _ => {}
    }
    create_private(&draft)?;
    (|| {
        let mut connection = connect_writer(&draft)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
        transaction.commit()?;
        // Moves the log into the file and removes it.
        connection.close().map_err(|(_, error)| error)
    })()
    .map_err(|error| failure(&draft, error))?;
    std::fs::rename(&draft, file).map_err(|error| io_failure(file, error))?;
    sync_file_and_directory(file)
}

fn connect_writer(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA cache_size = -65536;
         PRAGMA wal_autocheckpoint = 8000;
         PRAGMA journal_size_limit = 67108864;
         PRAGMA temp_store = MEMORY;
         PRAGMA cell_size_check = ON;
         PRAGMA trusted_schema = OFF;",
    )?;
    Ok(connection)
}

/// A connection that can only read.
pub(super) fn connect_reader(file: &Path) -> Result<Connection, StorageError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connect = || {
        let connection = Connection::open_with_flags(file, flags)?;
        connection.execute_batch(
            "PRAGMA cache_size = -16384;
             PRAGMA temp_store = MEMORY;
             PRAGMA cell_size_check = ON;
             PRAGMA trusted_schema = OFF;",
        )?;
        Ok(connection)
    };
    connect().map_err(|error| failure(file, error))
}

/// Checks that the database is ours and whole; gives its last revision.
fn prepare(
    connection: &Connection,
    file: &Path,
    max_bytes: Option<u64>,
) -> Result<i64, StorageError> {
    let (id, format, page_bytes) = (|| {
        Ok((
            pragma(connection, "application_id")?,
            pragma(connection, "user_version")?,
            pragma(connection, "page_size")?,
        ))
    })()
    .map_err(|error| failure(file, error))?;
    if id != APPLICATION_ID {
        return Err(damaged(file, "it is the database of another program"));
    }
    if format != FORMAT {
        return Err(StorageError::damaged(
            file.display().to_string(),
            format!(
                "it has format {format} and this program reads {FORMAT}; run the release that wrote it"
            ),
        ));
    }

    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    let whole_log = match connection.query_row(checkpoint, [], |_| Ok(())) {
        Ok(()) => true,
        // On a full disk the log stays, and everything in it is readable.
        Err(error) => match failure(file, error) {
            full @ StorageError::Full(_) => {
                tracing::warn!(error = %full, "opening the store as it is");
                false
            }
            error => return Err(error),
        },
    };
    let (pages, revision) = (|| {
        if let Some(bytes) = max_bytes {
            let pages = i64::try_from(bytes).unwrap_or(i64::MAX) / page_bytes.max(1);
            connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
        }
        let sql = "SELECT revision FROM counter WHERE id = 1";
        let revision = connection.query_row(sql, [], |row| row.get(0))?;
        Ok((pragma(connection, "page_count")?, revision))
    })()
    .map_err(|error| failure(file, error))?;
    // With the log moved into it, the file must be as long as it says it is. Reading all of it would
    // find more, but takes minutes on a large store; values carry their own seal.
    let metadata = file.metadata().map_err(|error| io_failure(file, error))?;
    let length = i64::try_from(metadata.len()).unwrap_or(i64::MAX);
    if whole_log && length < pages.saturating_mul(page_bytes) {
        return Err(damaged(file, "its end is missing"));
    }
    Ok(revision)
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

/// The parameters of a range query.
pub(super) fn bounds(range: &Range) -> (&[u8], &[u8], i64) {
    // No UTF-8 text holds this byte, so every key is below it.
    const PAST_EVERY_KEY: &[u8] = &[0xff];
    (
        range.start.as_bytes(),
        range.end.as_deref().map_or(PAST_EVERY_KEY, str::as_bytes),
        i64::try_from(range.limit).unwrap_or(i64::MAX),
    )
}

/// The key in the first column.
pub(super) fn decode_key(row: &SqlRow<'_>) -> rusqlite::Result<String> {
    String::from_utf8(row.get(0)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, error.into()))
}

/// The value and the revision, from column `first` on.
pub(super) fn decode_row(row: &SqlRow<'_>, first: usize) -> rusqlite::Result<Row> {
    Ok(Row {
        value: Bytes::from(row.get::<_, Vec<u8>>(first)?),
        revision: revision(row.get(first + 1)?),
    })
}

/// SQLite counts in signed integers, and ours never reach the sign.
pub(super) fn revision(number: i64) -> Revision {
    Revision(number.unsigned_abs())
}

/// Puts a SQLite failure into words that say what to do next.
pub(super) fn failure(file: &Path, error: rusqlite::Error) -> StorageError {
    match &error {
        rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) => {
            return damaged(file, "a row does not have the shape it was written with");
        }
        rusqlite::Error::QueryReturnedNoRows => {
            return damaged(file, "its revision counter is missing");
        }
        _ => {}
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StorageError::Full(format!("no room for {}", file.display())),
        Some(ErrorCode::ReadOnly) => StorageError::Full(format!("{} is read-only", file.display())),
        Some(ErrorCode::DatabaseCorrupt) => damaged(file, "its pages contradict each other"),
        Some(ErrorCode::NotADatabase) => damaged(file, "it is not a database"),
        // SQLITE_ERROR. Our SQL is fixed, so it is the schema or the header that changed.
        Some(ErrorCode::Unknown) if error.sqlite_error().is_some_and(|e| e.extended_code == 1) => {
            damaged(file, "its tables are not the ones it was made with")
        }
        _ => StorageError::Unavailable(format!("{}: {error}", file.display()).into()),
    }
}

fn io_failure(path: &Path, error: io::Error) -> StorageError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StorageError::Full(format!("no room for {}", path.display()))
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            StorageError::Full(format!("{} is on a read-only disk", path.display()))
        }
        _ => StorageError::Unavailable(format!("{}: {error}", path.display()).into()),
    }
}

fn damaged(file: &Path, reason: &str) -> StorageError {
    StorageError::damaged(file.display().to_string(), format!("{reason}; {RESTORE}"))
}
