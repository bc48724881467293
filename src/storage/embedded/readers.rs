//! A small pool of read connections, used on blocking threads.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::database;
use crate::storage::StorageError;

// More would only queue for the same disk.
const CONNECTIONS: usize = 8;

pub(super) struct Readers {
    file: Arc<Path>,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

/// One borrowed connection.
pub(super) struct Reader<'a> {
    file: &'a Path,
    connection: &'a Connection,
}

impl Reader<'_> {
    /// Runs SQL and puts failures into our words.
    pub(super) fn run<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StorageError> {
        work(self.connection).map_err(|error| database::failure(self.file, error))
    }
}

impl Readers {
    pub(super) fn new(file: Arc<Path>) -> Self {
        Self {
            file,
            idle: Arc::default(),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }

    /// Runs a short `work` right here where a connection is idle: one row by its key costs less than
    /// handing it to another thread. `None` where none is.
    pub(super) fn read_here<T>(
        &self,
        work: impl FnOnce(Reader<'_>) -> Result<T, StorageError>,
    ) -> Option<Result<T, StorageError>> {
        let _permit = self.permits.try_acquire().ok()?;
        let connection = lock(&self.idle).pop()?;
        let result = work(Reader {
            file: &self.file,
            connection: &connection,
        });
        lock(&self.idle).push(connection);
        Some(result)
    }

    /// Runs `work` with a connection on a thread that may block.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(Reader<'_>) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| StorageError::unavailable("the store is closed"))?;
        let (file, idle) = (Arc::clone(&self.file), Arc::clone(&self.idle));
        let task = tokio::task::spawn_blocking(move || {
            let connection = match lock(&idle).pop() {
                Some(connection) => connection,
                None => database::connect_reader(&file)?,
            };
            let result = work(Reader {
                file: &file,
                connection: &connection,
            });
            lock(&idle).push(connection);
            drop(permit);
            result
        });
        task.await
            .map_err(|error| StorageError::Unavailable(error.into()))?
    }

    /// Waits for reads in progress, then closes every connection.
    pub(super) async fn close(&self) {
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        let _all = self.permits.acquire_many(all).await;
        self.permits.close();
        lock(&self.idle).clear();
    }
}

fn lock(idle: &Mutex<Vec<Connection>>) -> std::sync::MutexGuard<'_, Vec<Connection>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
