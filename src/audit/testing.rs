//! What the tests of this module share: a clock, keys, short logs, and a disk that can fail.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use daypass_contract::Clock;
use zeroize::Zeroizing;

use super::writer::Medium;
use super::{AuditKeys, AuditLog, Event, Kind, Options, Position, files};

/// Stands still at 2026-11-23T21:30:00.000001Z.
pub(super) struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(1_795_469_400_000_001)
    }
}

pub(super) fn keys(seed: u8) -> AuditKeys {
    AuditKeys {
        hmac: Zeroizing::new([seed; 32]),
        signing_seed: Zeroizing::new([seed; 32]),
    }
}

pub(super) fn open(dir: &Path) -> Arc<AuditLog> {
    AuditLog::open(dir, Options::default(), Arc::new(StillClock)).unwrap()
}

pub(super) fn put(log: &AuditLog, what: &str) -> Position {
    let event = Event {
        what,
        ..Event::default()
    };
    log.append(Kind::Event, &event).unwrap()
}

/// The files of a log, oldest first.
pub(super) fn paths(dir: &Path) -> Vec<PathBuf> {
    let files = files::list(dir).unwrap();
    files.into_iter().map(|(_, path)| path).collect()
}

/// All lines of a log.
pub(super) fn lines(dir: &Path) -> Vec<String> {
    let read = |path| fs::read_to_string(path).unwrap();
    let text: String = paths(dir).into_iter().map(read).collect();
    text.lines().map(str::to_owned).collect()
}

/// A disk whose calls fail or wait when a test says so.
#[derive(Default)]
pub(crate) struct Disk {
    /// How many bytes of the next write are taken, plus one; 0 for all.
    pub(crate) short_write: AtomicU64,
    pub(crate) full: AtomicBool,
    pub(crate) cut_fails: AtomicBool,
    pub(crate) sync_fails: AtomicBool,
    pub(crate) written: AtomicU64,
    pub(crate) synced: AtomicU64,
    pub(crate) syncs: AtomicU64,
    held: Mutex<bool>,
    released: Condvar,
}

impl Disk {
    pub(crate) fn open(self: &Arc<Self>, dir: &Path, options: Options) -> Arc<AuditLog> {
        let disk = Arc::clone(self);
        let mount = move |file| {
            Arc::new(OnDisk {
                file,
                disk: Arc::clone(&disk),
            }) as Arc<dyn Medium>
        };
        AuditLog::open_on(dir, options, Arc::new(StillClock), Box::new(mount)).unwrap()
    }

    /// Syncs wait from now on, or no longer.
    pub(crate) fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.released.notify_all();
    }
}

struct OnDisk {
    file: File,
    disk: Arc<Disk>,
}

impl Medium for OnDisk {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.disk.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let taken = match self.disk.short_write.swap(0, Ordering::SeqCst) {
            0 => bytes,
            count => &bytes[..usize::try_from(count - 1).unwrap()],
        };
        let count = Medium::append(&self.file, taken)?;
        self.disk.written.fetch_add(count as u64, Ordering::SeqCst);
        Ok(count)
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        if self.disk.cut_fails.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::Other.into());
        }
        let before = self.file.metadata()?.len();
        self.disk
            .written
            .fetch_sub(before - length, Ordering::SeqCst);
        self.file.cut(length)
    }

    fn sync(&self) -> io::Result<()> {
        let written = self.disk.written.load(Ordering::SeqCst);
        self.disk.syncs.fetch_add(1, Ordering::SeqCst);
        let held = self.disk.held.lock().unwrap();
        drop(self.disk.released.wait_while(held, |held| *held).unwrap());
        if self.disk.sync_fails.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::Other.into());
        }
        self.disk.synced.fetch_max(written, Ordering::SeqCst);
        Ok(())
    }
}
