//! The writing end of the log: one file, one chain, every failure either undone or final.
//!
//! A [`Writer`] is used under the log's mutex and holds no lock of its own.
//!
//! **Invariant:** the file ends in a complete line whose hash is `head`, or the writer has failed and
//! writes no more.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::checkpoint::{self, Signer};
use super::error::AuditError;
use super::files::{self, End};
use super::line::{self, Hash, Head, Line, MAX_LINE};

/// What the log needs of a file, so that tests can have a disk that fails.
pub(super) trait Medium: Send + Sync {
    /// Appends with one write; says how many bytes were taken.
    fn append(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Cuts the file to `length`.
    fn cut(&self, length: u64) -> io::Result<()>;
    /// Returns once everything appended is on the disk.
    fn sync(&self) -> io::Result<()>;
}

impl Medium for File {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self;
        loop {
            match file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Makes a medium of an opened file.
pub(super) type Mount = Box<dyn Fn(File) -> Arc<dyn Medium> + Send + Sync>;

/// What [`Writer::open`] found.
pub(super) struct Opened {
    pub(super) writer: Writer,
    /// Bytes of a half-written line that were cut off.
    pub(super) dropped: u64,
}

/// Appends records to the newest file.
pub(super) struct Writer {
    dir: PathBuf,
    mount: Mount,
    medium: Arc<dyn Medium>,
    length: u64,
    head: Head,
    signer: Option<Signer>,
    unsigned: u64,
    failure: Option<Arc<str>>,
    line: Vec<u8>,
}

impl Writer {
    /// Goes on where the log in `dir` ends. What is found there is on the disk when this returns.
    pub(super) fn open(dir: &Path, mount: Mount) -> Result<Opened, AuditError> {
        let Tail { head, kind, newest } = find_tail(dir)?;
        let mut dropped = 0;
        let (file, length) = match newest {
            Some((path, end)) => {
                let file = OpenOptions::new()
                    .append(true)
                    .open(&path)
                    .map_err(AuditError::io("open", &path))?;
                dropped = end.length - end.complete;
                if dropped > 0 {
                    file.set_len(end.complete)
                        .map_err(AuditError::io("repair", &path))?;
                }
                file.sync_all().map_err(AuditError::io("sync", &path))?;
                (file, end.complete)
            }
            None => (create(dir, head.seq + 1)?, 0),
        };
        sync_dir(dir)?;
        let writer = Self {
            dir: dir.into(),
            medium: mount(file),
            mount,
            length,
            head,
            signer: None,
            unsigned: u64::from(head.seq > 0 && kind != checkpoint::KIND),
            failure: None,
            line: Vec::new(),
        };
        Ok(Opened { writer, dropped })
    }

    /// The last record.
    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// The length of the file being written, in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// How many records no checkpoint covers, where checkpoints can be made.
    pub(super) fn to_sign(&self) -> u64 {
        match self.signer {
            Some(_) => self.unsigned,
            None => 0,
        }
    }

    /// The file being written.
    pub(super) fn medium(&self) -> Arc<dyn Medium> {
        Arc::clone(&self.medium)
    }

    /// Why nothing more is written, where that is so.
    pub(super) fn failure(&self) -> Option<&Arc<str>> {
        self.failure.as_ref()
    }

    /// Gives or takes the key of checkpoints.
    pub(super) fn set_signer(&mut self, signer: Option<Signer>) {
        self.signer = signer;
    }

    /// Writes no more, because of `why`.
    pub(super) fn fail(&mut self, why: String) -> AuditError {
        let why = self.failure.get_or_insert_with(|| why.into());
        AuditError::Broken(Arc::clone(why))
    }

    /// Appends one record and says its number.
    pub(super) fn put(
        &mut self,
        now: SystemTime,
        kind: &str,
        fields: &[u8],
    ) -> Result<u64, AuditError> {
        self.put_stamped(&line::stamp(now), kind, fields)?;
        self.unsigned += 1;
        Ok(self.head.seq)
    }

    /// Signs the chain, where there is a key and something that no checkpoint covers yet.
    pub(super) fn checkpoint(&mut self, now: SystemTime) -> Result<(), AuditError> {
        let Some(signer) = self.signer.as_ref().filter(|_| self.unsigned > 0) else {
            return Ok(());
        };
        let time = line::stamp(now);
        let fields = signer.fields(self.head.seq + 1, &time, &self.head.hash);
        self.put_stamped(&time, checkpoint::KIND, &fields)?;
        self.unsigned = 0;
        Ok(())
    }

    /// Goes on in a new file. Everything before it is on the disk when this returns: a new file that
    /// outlived the end of the old one would be a gap in the chain.
    pub(super) fn rotate(&mut self, now: SystemTime) -> Result<(), AuditError> {
        if self.length == 0 {
            return Ok(());
        }
        self.checkpoint(now)?;
        if let Err(error) = self.medium.sync() {
            return Err(self.fail(format!("sync failed: {error}")));
        }
        let file = create(&self.dir, self.head.seq + 1)?;
        if let Err(error) = sync_dir(&self.dir) {
            return Err(self.fail(error.to_string()));
        }
        self.medium = (self.mount)(file);
        self.length = 0;
        Ok(())
    }

    fn put_stamped(&mut self, time: &str, kind: &str, fields: &[u8]) -> Result<(), AuditError> {
        if let Some(why) = &self.failure {
            return Err(AuditError::Broken(Arc::clone(why)));
        }
        let seq = self.head.seq + 1;
        self.line.clear();
        line::write(&mut self.line, seq, time, kind, fields, &self.head.hash);
        let hash = Hash::of(&self.line);
        self.line.push(b'\n');
        let written = self.medium.append(&self.line);
        let wanted = self.line.len();
        // One long record must not hold its memory for ever.
        self.line.shrink_to(64 * 1024);
        match written {
            Ok(count) if count == wanted => {
                self.length += wanted as u64;
                self.head = Head { seq, hash };
                Ok(())
            }
            Ok(_) => Err(self.take_back(io::ErrorKind::StorageFull.into())),
            Err(error) => Err(self.take_back(error)),
        }
    }

    fn take_back(&mut self, error: io::Error) -> AuditError {
        match self.medium.cut(self.length) {
            Ok(()) => AuditError::NotWritten(Arc::new(error)),
            Err(cut) => self.fail(format!(
                "write failed ({error}) and could not be undone ({cut})"
            )),
        }
    }
}

/// Makes the log's directory, readable by its owner alone, and the lock file in it; takes the lock,
/// which lasts as long as the file returned.
pub(super) fn lock(dir: &Path) -> Result<File, AuditError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(AuditError::io("make directory", dir))?;
    let path = dir.join("audit.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(AuditError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(AuditError::InUse { dir: dir.into() }),
        Err(fs::TryLockError::Error(error)) => Err(AuditError::io("lock", path)(error)),
    }
}

struct Tail {
    head: Head,
    kind: String,
    newest: Option<(PathBuf, End)>,
}

/// Finds the last complete line of the log in `dir`.
fn find_tail(dir: &Path) -> Result<Tail, AuditError> {
    let mut tail = Tail {
        head: Head::default(),
        kind: String::new(),
        newest: None,
    };
    let mut next_first = None;
    let files = files::list(dir).map_err(AuditError::io("list", dir))?;
    for (first, path) in files.into_iter().rev() {
        let file = path.clone();
        let damaged = move |what| AuditError::Damaged {
            file: file.clone(),
            what,
        };
        let file = File::open(&path).map_err(AuditError::io("open", &path))?;
        let end = files::end_of(&file, 1).map_err(AuditError::io("read", &path))?;
        if tail.newest.is_some() && end.complete < end.length {
            return Err(damaged(
                "it ends in half a line, though a newer file follows",
            ));
        }
        if end.lines == 0 {
            // A crash may leave the newest file without its first line, but only that one.
            if tail.newest.is_some() {
                return Err(damaged("it is empty, though a newer file follows"));
            }
            next_first = Some(first);
            tail.newest = Some((path, end));
            continue;
        }
        let length = usize::try_from(end.complete - end.start - 1).unwrap_or(usize::MAX);
        if length > MAX_LINE {
            return Err(damaged("its last line is too long"));
        }
        let mut text = vec![0; length];
        file.read_exact_at(&mut text, end.start)
            .map_err(AuditError::io("read", &path))?;
        let last = Line::parse(&text).ok_or_else(|| damaged("its last line is not a record"))?;
        if next_first.is_some_and(|first| first != last.seq + 1) {
            return Err(damaged(
                "its last record is not the one before the newer file",
            ));
        }
        tail.head = Head {
            seq: last.seq,
            hash: Hash::of(&text),
        };
        tail.kind = last.kind.into();
        if tail.newest.is_none() {
            tail.newest = Some((path, end));
        }
        return Ok(tail);
    }
    match (next_first, &tail.newest) {
        (Some(first), Some((path, _))) if first != 1 => Err(AuditError::Damaged {
            file: path.clone(),
            what: "it is empty, and the files before it are missing",
        }),
        _ => Ok(tail),
    }
}

fn create(dir: &Path, first: u64) -> Result<File, AuditError> {
    let path = files::path(dir, first);
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(AuditError::io("make", path))
}

/// Makes the names of new files durable.
fn sync_dir(dir: &Path) -> Result<(), AuditError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(AuditError::io("sync", dir))
}
