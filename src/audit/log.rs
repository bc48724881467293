//! [`AuditLog`]: what the server holds. Appends are ordered by one short mutex; one thread of its own
//! syncs the file for everyone who waits, rotates it when it is large, and signs it when it is quiet.
//!
//! Lines are encoded before the mutex is taken; under it a record is numbered, stamped, hashed and
//! given to the operating system with one write. Everybody who waits for the disk while an fsync runs
//! shares the next one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use daypass_contract::Clock;
use serde::Serialize;
use tokio::sync::watch;

use super::checkpoint::{AuditKeys, PublicKey, Signer};
use super::error::AuditError;
use super::hash::Hasher;
use super::line::{self, Head};
use super::record::Event;
use super::writer::{self, Mount, Writer};

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request, with its decision, before it is carried out.
    Request,
    /// What a request was answered.
    Response,
    /// What the server did on its own or to itself: an expiry, a rotation, a seal.
    Event,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
            Self::Event => "event",
        }
    }
}

/// How the log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// A file longer than this is followed by a new one.
    pub rotate_at_bytes: u64,
    /// At most this many records stand between two checkpoints, while the server is unsealed.
    pub checkpoint_every: u64,
    /// A record waits at most this long for a checkpoint, while the server is unsealed.
    pub checkpoint_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rotate_at_bytes: 256 << 20,
            checkpoint_every: 1000,
            checkpoint_after: Duration::from_secs(10),
        }
    }
}

/// Where a record stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

impl Position {
    /// The record's number; the first is 1.
    pub fn seq(self) -> u64 {
        self.0
    }
}

impl Position {
    /// Where the record with this number stands.
    pub(super) fn of(seq: u64) -> Self {
        Self(seq)
    }
}

/// The append-only audit log of one server.
pub struct AuditLog {
    dir: PathBuf,
    shared: Arc<Shared>,
    synced: watch::Receiver<Synced>,
    hasher: ArcSwap<Hasher>,
    thread: Mutex<Option<JoinHandle<()>>>,
    _lock: File,
}

/// How far the disk has the log, or why it never will.
#[derive(Clone)]
struct Synced {
    seq: u64,
    failure: Option<Arc<str>>,
}

struct Shared {
    options: Options,
    clock: Arc<dyn Clock>,
    synced: watch::Sender<Synced>,
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    writer: Writer,
    /// The last record somebody waits for.
    wanted: u64,
    /// The length at which the file is rotated; grows after a failed rotation.
    rotate_at: u64,
    /// Since when there are records that no checkpoint covers.
    unsigned_since: Option<Instant>,
    /// Appends are refused.
    closed: bool,
    /// The thread is to end.
    stop: bool,
}

enum Work {
    Sync,
    Rotate,
    Checkpoint,
}

impl AuditLog {
    /// Opens the log in `dir`, or begins one. The half line that a crash may have left is cut off,
    /// which an `audit.recovered` event records.
    ///
    /// # Errors
    /// [`AuditError::InUse`], [`AuditError::Damaged`], [`AuditError::Io`].
    pub fn open(
        dir: &Path,
        options: Options,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, AuditError> {
        Self::open_on(dir, options, clock, Box::new(|file| Arc::new(file)))
    }

    pub(super) fn open_on(
        dir: &Path,
        mut options: Options,
        clock: Arc<dyn Clock>,
        mount: Mount,
    ) -> Result<Arc<Self>, AuditError> {
        // An empty file is never rotated.
        options.rotate_at_bytes = options.rotate_at_bytes.max(1);
        let lock = writer::lock(dir)?;
        let writer::Opened { writer, dropped } = Writer::open(dir, mount)?;
        let (sender, receiver) = watch::channel(Synced {
            seq: writer.head().seq,
            failure: None,
        });
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                writer,
                wanted: 0,
                rotate_at: options.rotate_at_bytes,
                unsigned_since: None,
                closed: false,
                stop: false,
            }),
            work: Condvar::new(),
            synced: sender,
            options,
            clock,
        });
        let thread = thread::Builder::new()
            .name("audit".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run()
            })
            .map_err(AuditError::io("start the thread of", dir))?;
        let log = Self {
            dir: dir.into(),
            shared,
            synced: receiver,
            hasher: ArcSwap::from_pointee(Hasher::sealed()),
            thread: Mutex::new(Some(thread)),
            _lock: lock,
        };
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "audit log ended in half a record, which was cut off"
            );
            let dropped = dropped.to_string();
            log.append(
                Kind::Event,
                &Event {
                    what: "audit.recovered",
                    details: &[("dropped_bytes", &dropped)],
                    ..Event::default()
                },
            )?;
        }
        Ok(Arc::new(log))
    }

    /// Appends a record: its place in the chain is settled, and a crash of this process no longer
    /// loses it, when this returns. A crash of the machine may, until [`durable`](Self::durable) has
    /// returned. `body` is an object without the fields `seq`, `time`, `type` and `prev`.
    ///
    /// # Errors
    /// [`AuditError::Encoding`], [`AuditError::NotWritten`], [`AuditError::Broken`],
    /// [`AuditError::Closed`]: there is no such record, and the request must fail.
    pub fn append(&self, kind: Kind, body: &impl Serialize) -> Result<Position, AuditError> {
        let fields = line::fields(body).ok_or(AuditError::Encoding)?;
        let mut state = self.shared.lock()?;
        if state.closed {
            return Err(AuditError::Closed);
        }
        let now = self.shared.clock.now();
        let seq = state
            .writer
            .put(now, kind.as_str(), &fields)
            .map_err(|error| self.shared.tell(error))?;
        if state.writer.to_sign() >= self.shared.options.checkpoint_every {
            // The record stands either way; a checkpoint that fails is tried again with the next one.
            if let Err(error) = self.shared.checkpoint(&mut state) {
                tracing::error!(%error, "audit checkpoint failed");
            }
        } else if state.writer.to_sign() > 0 && state.unsigned_since.is_none() {
            state.unsigned_since = Some(Instant::now());
            self.shared.work.notify_one();
        }
        if state.writer.length() >= state.rotate_at {
            self.shared.work.notify_one();
        }
        Ok(Position(seq))
    }

    /// Returns once the disk has the record at `position` and all before it.
    ///
    /// # Errors
    /// [`AuditError::Broken`]: it may be lost.
    pub async fn durable(&self, position: Position) -> Result<(), AuditError> {
        let mut synced = self.synced.clone();
        if synced.borrow().seq >= position.0 {
            return Ok(());
        }
        self.shared.want(position)?;
        let reached = synced
            .wait_for(|synced| synced.seq >= position.0 || synced.failure.is_some())
            .await
            .map_err(|_| AuditError::Closed)?;
        match &reached.failure {
            Some(why) if reached.seq < position.0 => Err(AuditError::Broken(Arc::clone(why))),
            _ => Ok(()),
        }
    }

    /// The last record, to be kept elsewhere as proof against cutting off the log's end.
    ///
    /// # Errors
    /// [`AuditError::Broken`].
    pub fn head(&self) -> Result<Head, AuditError> {
        Ok(self.shared.lock()?.writer.head())
    }

    /// The folder of its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes keyed hashes of what must not be written in clear. After [`unlock`](Self::unlock) a new
    /// one must be asked for.
    pub fn hasher(&self) -> Arc<Hasher> {
        self.hasher.load_full()
    }

    /// Takes the keys after unseal. The records written until now are signed at once. Returns the key
    /// that `audit verify` will name.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn unlock(&self, keys: &AuditKeys) -> Result<PublicKey, AuditError> {
        let signer = Signer::new(keys).ok_or(AuditError::Encoding)?;
        let key = signer.public_key();
        let mut state = self.shared.lock()?;
        state.writer.set_signer(Some(signer));
        self.hasher.store(Arc::new(Hasher::new(&keys.hmac)));
        self.shared.checkpoint(&mut state)?;
        Ok(key)
    }

    /// Forgets the keys on seal, after a last checkpoint.
    ///
    /// # Errors
    /// As [`append`](Self::append); the keys are forgotten all the same.
    pub fn seal(&self) -> Result<(), AuditError> {
        self.hasher.store(Arc::new(Hasher::sealed()));
        // Also of a log that has failed: the writer itself refuses to write then.
        let mut state = self
            .shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let signed = self.shared.checkpoint(&mut state);
        state.writer.set_signer(None);
        signed
    }

    /// Signs what no checkpoint covers yet, without waiting for its time.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn checkpoint(&self) -> Result<(), AuditError> {
        let mut state = self.shared.lock()?;
        self.shared.checkpoint(&mut state)
    }

    /// Goes on in a new file. Old files are never deleted by the log. Blocks for an fsync.
    ///
    /// # Errors
    /// [`AuditError::Io`]: the log goes on in the old file. Otherwise as [`append`](Self::append).
    pub fn rotate(&self) -> Result<(), AuditError> {
        self.shared.rotate()
    }

    /// Signs and syncs what was written and accepts no more. Dropping the log does the same.
    ///
    /// # Errors
    /// [`AuditError::Broken`], [`AuditError::NotWritten`]: the end of the log is unsigned or may be lost.
    pub fn close(&self) -> Result<(), AuditError> {
        let outcome = self.finish();
        if let Ok(mut state) = self.shared.state.lock() {
            state.stop = true;
        }
        self.shared.work.notify_one();
        if let Ok(mut thread) = self.thread.lock()
            && let Some(thread) = thread.take()
        {
            // A thread that panicked has poisoned the mutex, which `finish` reported.
            let _ = thread.join();
        }
        outcome
    }

    fn finish(&self) -> Result<(), AuditError> {
        let mut state = self.shared.lock()?;
        if state.closed {
            return Ok(());
        }
        state.closed = true;
        let signed = self.shared.checkpoint(&mut state);
        drop(self.shared.sync(state)?);
        signed
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "audit log was not closed cleanly");
        }
    }
}

impl Shared {
    /// The state, of a log that has not failed.
    fn lock(&self) -> Result<MutexGuard<'_, State>, AuditError> {
        let state = self.state.lock().map_err(|_| panicked())?;
        match state.writer.failure() {
            Some(why) => Err(AuditError::Broken(Arc::clone(why))),
            None => Ok(state),
        }
    }

    /// Asks the thread to sync up to `position`.
    fn want(&self, position: Position) -> Result<(), AuditError> {
        let mut state = self.lock()?;
        if state.wanted < position.0 {
            state.wanted = position.0;
            self.work.notify_one();
        }
        Ok(())
    }

    /// Tells those who wait for the disk where `error` means that it will never have their records.
    fn tell(&self, error: AuditError) -> AuditError {
        if let AuditError::Broken(why) = &error {
            self.synced
                .send_modify(|synced| synced.failure = Some(Arc::clone(why)));
        }
        error
    }

    fn reached(&self, seq: u64) {
        self.synced
            .send_modify(|synced| synced.seq = synced.seq.max(seq));
    }

    fn checkpoint(&self, state: &mut State) -> Result<(), AuditError> {
        state.unsigned_since = None;
        let signed = state.writer.checkpoint(self.clock.now());
        if state.writer.to_sign() > 0 {
            state.unsigned_since = Some(Instant::now());
        }
        signed.map_err(|error| self.tell(error))
    }

    /// Syncs what is written by now, without holding the mutex meanwhile.
    fn sync<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>, AuditError> {
        let (medium, seq) = (state.writer.medium(), state.writer.head().seq);
        drop(state);
        let outcome = medium.sync();
        let mut state = self.lock()?;
        match outcome {
            Ok(()) => {
                self.reached(seq);
                Ok(state)
            }
            // The kernel may have dropped the pages it could not write: trying again proves nothing.
            Err(error) => {
                let error = state.writer.fail(format!("sync failed: {error}"));
                Err(self.tell(error))
            }
        }
    }

    fn rotate(&self) -> Result<(), AuditError> {
        // Most of the file goes to the disk before appends have to wait for the rest of it.
        let mut state = self.sync(self.lock()?)?;
        if state.closed {
            return Err(AuditError::Closed);
        }
        let outcome = state.writer.rotate(self.clock.now());
        if state.writer.to_sign() == 0 {
            state.unsigned_since = None;
        }
        match outcome {
            Ok(()) => {
                state.rotate_at = self.options.rotate_at_bytes;
                self.reached(state.writer.head().seq);
                Ok(())
            }
            Err(error) => {
                let length = state.writer.length();
                state.rotate_at = length.saturating_add(self.options.rotate_at_bytes / 8 + 1);
                Err(self.tell(error))
            }
        }
    }

    /// The thread: does what is due until the log is closed or has failed.
    fn run(&self) {
        let failure = loop {
            let done = match self.next_work() {
                Ok(None) => return,
                Err(error) => break error,
                Ok(Some(Work::Sync)) => self.lock().and_then(|state| self.sync(state)).map(drop),
                Ok(Some(Work::Rotate)) => self.rotate(),
                Ok(Some(Work::Checkpoint)) => self
                    .lock()
                    .and_then(|mut state| self.checkpoint(&mut state)),
            };
            if let Err(error) = done {
                tracing::error!(%error, "audit log upkeep failed");
            }
        };
        // Nobody syncs any more: whoever waits must know.
        self.tell(failure);
    }

    /// Waits until something is due; `None` once the log is closed.
    fn next_work(&self) -> Result<Option<Work>, AuditError> {
        let mut state = self.lock()?;
        loop {
            if state.stop {
                return Ok(None);
            }
            if state.wanted > self.synced.borrow().seq {
                return Ok(Some(Work::Sync));
            }
            if state.writer.length() >= state.rotate_at && !state.closed {
                return Ok(Some(Work::Rotate));
            }
            let quiet = state
                .unsigned_since
                .filter(|_| !state.closed)
                .map(|since| since.elapsed());
            let wait = match quiet {
                Some(quiet) if quiet >= self.options.checkpoint_after => {
                    return Ok(Some(Work::Checkpoint));
                }
                Some(quiet) => self.options.checkpoint_after.saturating_sub(quiet),
                // Nothing is due before somebody says so.
                None => Duration::from_secs(3600),
            };
            state = match self.work.wait_timeout(state, wait) {
                Ok((state, _)) => state,
                Err(_) => return Err(panicked()),
            };
            if let Some(why) = state.writer.failure() {
                return Err(AuditError::Broken(Arc::clone(why)));
            }
        }
    }
}

fn panicked() -> AuditError {
    AuditError::Broken("a thread panicked while it wrote".into())
}

#[cfg(test)]
mod tests;
