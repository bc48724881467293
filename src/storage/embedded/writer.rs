//! The one writer: a thread that turns all waiting batches into one transaction and one fsync.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use daypass_contract::Revision;
use rusqlite::{OptionalExtension as _, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::cache::RowCache;
use super::database::{self, Database};
use crate::storage::{Row, RowWrite, StorageError, WriteBatch};

/// Batches that may wait; more wait for a place in the queue.
const QUEUE: usize = 1024;
/// How many batches, and about how many bytes, share one transaction.
const GROUP_BATCHES: usize = 512;
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// How long the queue must be empty before the log is moved into the file.
const IDLE: Duration = Duration::from_millis(200);

/// What the writer has done since the store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Batches written.
    pub batches: u64,
    /// Transactions committed, each with one fsync; fewer than `batches` under load.
    pub commits: u64,
    /// Batches refused because a condition did not hold.
    pub conflicts: u64,
}

/// The handle of the writer thread.
pub(super) struct Writer {
    jobs: SyncSender<Job>,
    // A place in the queue, so that waiting for one is asynchronous and `jobs` never blocks.
    places: Arc<Semaphore>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    batches: AtomicU64,
    commits: AtomicU64,
    conflicts: AtomicU64,
}

enum Job {
    Apply(Apply),
    Close(oneshot::Sender<Result<(), StorageError>>),
}

struct Apply {
    batch: WriteBatch,
    reply: oneshot::Sender<Result<Revision, StorageError>>,
    _place: OwnedSemaphorePermit,
}

impl Writer {
    pub(super) fn start(database: Database, cache: Arc<RowCache>) -> Result<Self, StorageError> {
        // One more than there are places, for `Close`.
        let (jobs, queue) = sync_channel(QUEUE + 1);
        let counters = Arc::<Counters>::default();
        let mut committer = Committer {
            database,
            cache,
            counters: Arc::clone(&counters),
        };
        thread::Builder::new()
            .name("storage-writer".to_owned())
            .spawn(move || {
                let asked = committer.run(&queue);
                let closed = committer.finish();
                if let Some(reply) = asked {
                    let _ = reply.send(closed);
                }
            })
            .map_err(|error| StorageError::Unavailable(error.into()))?;
        Ok(Self {
            jobs,
            places: Arc::new(Semaphore::new(QUEUE)),
            counters,
        })
    }

    pub(super) async fn apply(&self, batch: WriteBatch) -> Result<Revision, StorageError> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let (reply, answer) = oneshot::channel();
        let apply = Apply {
            batch,
            reply,
            _place: place.map_err(|_| closed())?,
        };
        self.jobs.send(Job::Apply(apply)).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    pub(super) async fn close(&self) -> Result<(), StorageError> {
        // Batches that already have a place are written first.
        self.places.close();
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Close(reply)).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    pub(super) fn statistics(&self) -> Statistics {
        let Counters {
            batches,
            commits,
            conflicts,
        } = &*self.counters;
        Statistics {
            batches: batches.load(Ordering::Relaxed),
            commits: commits.load(Ordering::Relaxed),
            conflicts: conflicts.load(Ordering::Relaxed),
        }
    }
}

fn closed() -> StorageError {
    StorageError::unavailable("the store is closed")
}

/// The writer thread's side.
struct Committer {
    database: Database,
    cache: Arc<RowCache>,
    counters: Arc<Counters>,
}

impl Committer {
    /// Works until told to close, or until nobody can send any more.
    fn run(&mut self, queue: &Receiver<Job>) -> Option<oneshot::Sender<Result<(), StorageError>>> {
        let mut log_has_commits = false;
        loop {
            let job = if log_has_commits {
                match queue.recv_timeout(IDLE) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        self.checkpoint("PASSIVE");
                        log_has_commits = false;
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            } else {
                queue.recv().ok()?
            };
            let mut close = None;
            let mut group = Vec::new();
            let mut bytes = 0;
            let mut next = Some(job);
            while let Some(job) = next {
                match job {
                    Job::Apply(apply) => {
                        bytes += size(&apply.batch);
                        group.push(apply);
                    }
                    Job::Close(reply) => {
                        close = Some(reply);
                        break;
                    }
                }
                let full = group.len() >= GROUP_BATCHES || bytes >= GROUP_BYTES;
                next = if full { None } else { queue.try_recv().ok() };
            }
            if !group.is_empty() {
                self.commit(group);
                log_has_commits = true;
            }
            if close.is_some() {
                return close;
            }
        }
    }

    /// Commits a group and answers everyone in it.
    fn commit(&mut self, group: Vec<Apply>) {
        match self.try_commit(&group) {
            Ok(outcomes) => {
                // Only the newest row of a key: a reader may have seen it in the database already, and
                // must not find an older one in the cache afterwards.
                let mut newest = HashMap::new();
                let mut answers = Vec::with_capacity(group.len());
                for (apply, outcome) in group.into_iter().zip(outcomes) {
                    if let Some(revision) = outcome {
                        let rows = apply.batch.writes.into_iter();
                        newest.extend(rows.map(|write| row(write, revision)));
                    }
                    answers.push((apply.reply, outcome.ok_or(StorageError::Conflict)));
                }
                for (key, row) in newest {
                    self.cache.publish(key, row);
                }
                for (reply, answer) in answers {
                    // Nobody listens where the caller hung up; the write stands.
                    let _ = reply.send(answer);
                }
            }
            // One batch that cannot be written must not fail its neighbours.
            Err(_) if group.len() > 1 => {
                for apply in group {
                    self.commit(vec![apply]);
                }
            }
            Err(error) => {
                let mut error = Some(failure(&self.database, error));
                for apply in group {
                    let error = error.take().unwrap_or_else(closed);
                    let _ = apply.reply.send(Err(error));
                }
            }
        }
    }

    /// One transaction. For each batch its revision, or `None` where a condition did not hold.
    fn try_commit(&mut self, group: &[Apply]) -> rusqlite::Result<Vec<Option<Revision>>> {
        let transaction = self
            .database
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = self.database.revision;
        let mut outcomes = Vec::with_capacity(group.len());
        for apply in group {
            if !holds(&transaction, &apply.batch)? {
                outcomes.push(None);
                continue;
            }
            // Counts on even if this transaction fails: a number is never used twice.
            self.database.revision += 1;
            write(&transaction, &apply.batch, self.database.revision)?;
            outcomes.push(Some(database::revision(self.database.revision)));
        }
        let written = self.database.revision - before;
        if written > 0 {
            transaction
                .prepare_cached("UPDATE counter SET revision = ?1 WHERE id = 1")?
                .execute([self.database.revision])?;
            transaction.commit()?;
            self.counters.commits.fetch_add(1, Ordering::Relaxed);
        }
        let written = written.unsigned_abs();
        self.counters.batches.fetch_add(written, Ordering::Relaxed);
        let refused = (group.len() as u64).saturating_sub(written);
        self.counters
            .conflicts
            .fetch_add(refused, Ordering::Relaxed);
        Ok(outcomes)
    }

    fn checkpoint(&self, mode: &str) {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        let done = self.database.connection.query_row(&sql, [], |_| Ok(()));
        if let Err(error) = done {
            // Nothing is lost: the log stays and the next checkpoint tries again.
            tracing::warn!(error = %failure(&self.database, error), "checkpoint failed");
        }
    }

    fn finish(self) -> Result<(), StorageError> {
        self.checkpoint("TRUNCATE");
        self.database.close()
    }
}

/// A key and what it holds after `write`.
fn row(write: RowWrite, revision: Revision) -> (String, Option<Row>) {
    match write {
        RowWrite::Put(key, value) => (key, Some(Row { value, revision })),
        RowWrite::Delete(key) => (key, None),
    }
}

fn holds(transaction: &Transaction<'_>, batch: &WriteBatch) -> rusqlite::Result<bool> {
    for (key, expected) in &batch.expected {
        let found: Option<i64> = transaction
            .prepare_cached("SELECT revision FROM rows WHERE key = ?1")?
            .query_row([key.as_bytes()], |row| row.get(0))
            .optional()?;
        if found.map(database::revision) != *expected {
            return Ok(false);
        }
    }
    Ok(true)
}

fn write(transaction: &Transaction<'_>, batch: &WriteBatch, revision: i64) -> rusqlite::Result<()> {
    for write in &batch.writes {
        match write {
            RowWrite::Put(key, value) => transaction
                .prepare_cached("REPLACE INTO rows (key, value, revision) VALUES (?1, ?2, ?3)")?
                .execute((key.as_bytes(), value.as_ref(), revision))?,
            RowWrite::Delete(key) => transaction
                .prepare_cached("DELETE FROM rows WHERE key = ?1")?
                .execute([key.as_bytes()])?,
        };
    }
    Ok(())
}

fn size(batch: &WriteBatch) -> usize {
    let bytes = |write: &RowWrite| match write {
        RowWrite::Put(key, value) => key.len() + value.len(),
        RowWrite::Delete(key) => key.len(),
    };
    batch.writes.iter().map(bytes).sum()
}

fn failure(database: &Database, error: rusqlite::Error) -> StorageError {
    database::failure(&database.file, error)
}
