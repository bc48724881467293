//! The embedded store: one SQLite database in a directory of its own, for one process.
//!
//! Writes queue for one thread, which commits everything that waits in one transaction and one fsync.
//! Reads are answered from a cache of sealed rows that the writer keeps coherent; only a miss goes to
//! the database, on a pooled connection and a blocking thread.
//!
//! # Invariants
//!
//! * `apply` returns after the commit is on disk and in the cache.
//! * The cache never holds a row older than the newest acknowledged write of its key (see [`cache`]).
//! * One process at a time: a lock file is held from open to close.

mod cache;
mod database;
mod readers;
mod writer;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use daypass_contract::{Revision, async_trait};
use rusqlite::OptionalExtension as _;

use self::cache::RowCache;
use self::database::{Database, decode_key, decode_row};
use self::readers::{Reader, Readers};
use self::writer::Writer;
use super::{Range, Row, Storage, StorageError, WriteBatch, level_of};

pub(super) use self::database::sync_file_and_directory;
pub use self::writer::Statistics;

/// How an [`Embedded`] store uses the machine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Memory for sealed rows, in bytes.
    pub cache_bytes: u64,
    /// How large the database file may grow, in bytes; `None`: as large as the disk.
    pub max_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 64 * 1024 * 1024,
            max_bytes: None,
        }
    }
}

/// A [`Storage`] in a directory of this machine.
pub struct Embedded {
    cache: Arc<RowCache>,
    readers: Readers,
    writer: Writer,
}

impl Embedded {
    /// Opens the store in `directory`, which is made (readable to its owner alone) where it is absent.
    /// Blocks for as long as the disk needs.
    ///
    /// # Errors
    /// [`StorageError::InUse`] where another process has it open, [`StorageError::Damaged`] where the
    /// file is not a whole database of ours.
    pub fn open(directory: &Path, options: Options) -> Result<Self, StorageError> {
        let database = Database::open(directory, options.max_bytes)?;
        let cache = Arc::new(RowCache::new(options.cache_bytes));
        let readers = Readers::new(database.file.clone());
        let writer = Writer::start(database, Arc::clone(&cache))?;
        Ok(Self {
            cache,
            readers,
            writer,
        })
    }

    /// What the writer has done since the store was opened.
    pub fn statistics(&self) -> Statistics {
        self.writer.statistics()
    }

    /// Writes a consistent copy of the database to `target`, which must not exist, while the store
    /// stays in use. The copy is sealed like the original: it needs the same unseal shares.
    pub async fn backup(&self, target: &Path) -> Result<(), StorageError> {
        let target = target.to_owned();
        self.readers
            .read(move |reader| {
                database::create_private(&target)?;
                reader.run(|connection| {
                    let name = target.to_string_lossy();
                    connection.execute("VACUUM INTO ?1", [&name]).map(drop)
                })?;
                database::sync_file_and_directory(&target)
            })
            .await
    }
}

#[async_trait]
impl Storage for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Row>, StorageError> {
        let vacancy = match self.cache.look_up(key).await {
            Ok(row) => return Ok(row),
            Err(vacancy) => vacancy,
        };
        let row = if let Some(row) = self.readers.read_here(|reader| point(&reader, key)) {
            row?
        } else {
            let name = key.to_owned();
            self.readers
                .read(move |reader| point(&reader, &name))
                .await?
        };
        vacancy.fill(row.clone());
        Ok(row)
    }

    async fn rows(&self, range: Range) -> Result<Vec<(String, Row)>, StorageError> {
        const SELECT: &str = "SELECT key, value, revision FROM rows \
             WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3";
        self.readers
            .read(move |reader| {
                reader.run(|connection| {
                    connection
                        .prepare_cached(SELECT)?
                        .query_map(database::bounds(&range), |row| {
                            Ok((decode_key(row)?, decode_row(row, 1)?))
                        })?
                        .collect()
                })
            })
            .await
    }

    async fn keys(&self, range: Range) -> Result<Vec<String>, StorageError> {
        const SELECT: &str =
            "SELECT key FROM rows WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3";
        self.readers
            .read(move |reader| {
                reader.run(|connection| {
                    connection
                        .prepare_cached(SELECT)?
                        .query_map(database::bounds(&range), decode_key)?
                        .collect()
                })
            })
            .await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        const SEEK: &str = "SELECT key FROM rows WHERE key >= ?1 ORDER BY key LIMIT 1";
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.readers
            .read(move |reader| {
                level_of(&prefix, after.as_deref(), limit, |from| {
                    reader.run(|connection| {
                        connection
                            .prepare_cached(SEEK)?
                            .query_row([from.as_bytes()], decode_key)
                            .optional()
                    })
                })
            })
            .await
    }

    async fn apply(&self, batch: WriteBatch) -> Result<Revision, StorageError> {
        self.writer.apply(batch).await
    }

    async fn close(&self) -> Result<(), StorageError> {
        // Readers first: SQLite tidies its log away when the last connection closes.
        self.readers.close().await;
        let closed = self.writer.close().await;
        self.cache.clear();
        closed
    }
}

/// The row of one key.
fn point(reader: &Reader<'_>, key: &str) -> Result<Option<Row>, StorageError> {
    reader.run(|connection| {
        connection
            .prepare_cached("SELECT value, revision FROM rows WHERE key = ?1")?
            .query_row([key.as_bytes()], |row| decode_row(row, 0))
            .optional()
    })
}
