//! A file, or one of the standard streams.
//!
//! The file is opened anew when its path leads elsewhere, so `logrotate` may move it away at any time; it may
//! also be cut to nothing (`copytruncate`). A write that failed is taken back, and half a line that a crash left
//! is cut off, so that the file holds whole records only.
//!
//! Work is done by a thread of the device's own: a disk or a pipe that hangs holds up nothing else, not even the
//! end of the process.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use rustix::fs::OFlags;
use tokio::sync::oneshot;

use super::sink::{Sink, Trouble, joined};
use super::target::{FilePlace, Place};
use crate::audit::files;

/// How long the disk may take.
const PATIENCE: Duration = Duration::from_secs(30);

enum Job {
    Open,
    Write(Vec<u8>),
    Sync,
}

type Order = (Job, oneshot::Sender<io::Result<()>>);

/// The handle of the thread that writes.
pub(super) struct FileSink {
    place: Place,
    prefix: String,
    worker: Option<SyncSender<Order>>,
}

impl FileSink {
    pub(super) fn new(place: Place, prefix: String) -> Self {
        Self {
            place,
            prefix,
            worker: None,
        }
    }

    async fn have(&mut self, job: Job) -> io::Result<()> {
        let worker = match &self.worker {
            Some(worker) => worker,
            None => self.worker.insert(start(&self.place)?),
        };
        let (reply, answer) = oneshot::channel();
        // It is full only where an earlier write still hangs.
        worker
            .try_send((job, reply))
            .map_err(|_| io::ErrorKind::ResourceBusy)?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => {
                self.worker = None;
                Err(io::Error::other("the thread that writes has ended"))
            }
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn open(&mut self) -> Result<(), Trouble> {
        self.have(Job::Open).await.map_err(trouble)
    }

    async fn send(&mut self, lines: &[&str]) -> Result<usize, Trouble> {
        let bytes = joined(&self.prefix, lines);
        self.have(Job::Write(bytes)).await.map_err(trouble)?;
        Ok(lines.len())
    }

    async fn confirm(&mut self) -> Result<(), Trouble> {
        self.have(Job::Sync).await.map_err(Trouble::uncertain)
    }

    fn settles_after(&self) -> Duration {
        Duration::ZERO
    }
}

/// The disk may not have what was written before: the kernel may have dropped what it could not write.
#[derive(Debug, thiserror::Error)]
#[error("what was written may not be on the disk: {0}")]
struct NotSynced(io::Error);

fn trouble(error: io::Error) -> Trouble {
    if matches!(error.get_ref(), Some(inner) if inner.is::<NotSynced>()) {
        Trouble::uncertain(error)
    } else {
        Trouble::certain(error)
    }
}

fn start(place: &Place) -> io::Result<SyncSender<Order>> {
    let (sender, receiver) = sync_channel(1);
    let place = place.clone();
    thread::Builder::new()
        .name("audit-device".into())
        .spawn(move || work(&place, &receiver))?;
    Ok(sender)
}

fn work(place: &Place, orders: &Receiver<Order>) {
    let mut open = None;
    while let Ok((job, reply)) = orders.recv() {
        let done = match (place, job) {
            (Place::File(place), Job::Open) => LogFile::current(place, &mut open).map(drop),
            (Place::File(place), Job::Write(bytes)) => {
                LogFile::current(place, &mut open).and_then(|file| file.append(&bytes))
            }
            (_, Job::Sync) => open.as_ref().map_or(Ok(()), LogFile::sync),
            (_, Job::Open) => Ok(()),
            (Place::Stderr, Job::Write(bytes)) => io::stderr().lock().write_all(&bytes),
            (_, Job::Write(bytes)) => {
                let mut out = io::stdout().lock();
                out.write_all(&bytes).and_then(|()| out.flush())
            }
        };
        // Whoever asked may have given up.
        let _ = reply.send(done);
    }
}

/// A file that is open.
struct LogFile {
    file: File,
    device: u64,
    inode: u64,
}

impl LogFile {
    /// The file that the path leads to now.
    fn current<'a>(place: &FilePlace, open: &'a mut Option<Self>) -> io::Result<&'a Self> {
        let same = |file: &Self| {
            fs::symlink_metadata(&place.path)
                .is_ok_and(|there| (there.dev(), there.ino()) == (file.device, file.inode))
        };
        let kept = match open.take() {
            Some(file) if same(&file) => file,
            moved => {
                // What was written to the file that was moved away is part of what is confirmed later.
                if let Some(moved) = moved {
                    moved.sync()?;
                }
                Self::open(place)?
            }
        };
        Ok(open.insert(kept))
    }

    fn open(place: &FilePlace) -> io::Result<Self> {
        let folder = place.path.parent().unwrap_or(Path::new("/"));
        // Below a folder of the configuration only the folder itself is made: nobody's links are followed.
        make_folder(place.below.as_deref().unwrap_or(folder))?;
        if let Some(below) = &place.below
            && !fs::canonicalize(folder)?.starts_with(fs::canonicalize(below)?)
        {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{} leads out of {}", folder.display(), below.display()),
            ));
        }
        // A link is not followed, and a pipe that nobody reads does not hang.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(place.mode.unwrap_or(0o600))
            .custom_flags(flags.bits().cast_signed())
            .open(&place.path)?;
        let there = file.metadata()?;
        if !there.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a regular file",
            ));
        }
        if let Some(mode) = place.mode
            && there.permissions().mode() & 0o7777 != mode
        {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        let end = files::end_of(&file, 1)?;
        if end.complete < end.length {
            file.set_len(end.complete)?;
        }
        File::open(folder)?.sync_all()?;
        Ok(Self {
            device: there.dev(),
            inode: there.ino(),
            file,
        })
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        (&self.file).write_all(bytes).inspect_err(|_| {
            // Where this fails too, the half line is cut off when the file is opened next.
            let _ = self.file.set_len(before);
        })
    }

    fn sync(&self) -> io::Result<()> {
        let synced = self.file.sync_data();
        synced.map_err(|error| io::Error::other(NotSynced(error)))
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    fn place(dir: &Path) -> FilePlace {
        FilePlace {
            path: dir.join("devices/audit.log"),
            mode: Some(0o640),
            below: Some(dir.join("devices")),
        }
    }

    fn sink(place: FilePlace) -> FileSink {
        FileSink::new(Place::File(place), "p: ".into())
    }

    fn text(path: impl AsRef<Path>) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[tokio::test]
    async fn lines_are_appended_with_prefix_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let path = place.path.clone();
        let mut one = sink(place.clone());
        one.open().await.unwrap();
        assert_eq!(text(&path), "");
        assert_eq!(one.send(&["a", "b"]).await.unwrap(), 2);
        one.confirm().await.unwrap();
        assert_eq!(sink(place).send(&["c"]).await.unwrap(), 1);
        assert_eq!(text(&path), "p: a\np: b\np: c\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o640);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
    }

    #[tokio::test]
    async fn a_file_that_is_moved_away_removed_or_cut_is_followed_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let (path, moved) = (place.path.clone(), dir.path().join("moved"));
        let mut sink = sink(place);
        sink.send(&["a"]).await.unwrap();
        fs::rename(&path, &moved).unwrap();
        sink.send(&["b"]).await.unwrap();
        sink.confirm().await.unwrap();
        assert_eq!(
            (text(&moved), text(&path)),
            ("p: a\n".into(), "p: b\n".into())
        );
        fs::remove_file(&path).unwrap();
        sink.send(&["c"]).await.unwrap();
        assert_eq!(text(&path), "p: c\n");
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        sink.send(&["d"]).await.unwrap();
        assert_eq!(text(&path), "p: d\n");
    }

    #[tokio::test]
    async fn half_a_line_that_a_crash_left_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let path = place.path.clone();
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, "p: a\np: {\"seq\":2,").unwrap();
        sink(place).send(&["b"]).await.unwrap();
        assert_eq!(text(&path), "p: a\np: b\n");
    }

    #[tokio::test]
    async fn no_link_leads_out_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let devices = dir.path().join("devices");
        fs::create_dir(&devices).unwrap();
        symlink(&outside, devices.join("folder")).unwrap();
        symlink(outside.join("file"), devices.join("link")).unwrap();
        fs::create_dir(devices.join("deeper")).unwrap();
        let at = |name: &str| FilePlace {
            path: devices.join(name),
            ..place(dir.path())
        };
        for name in ["folder/file", "link", "missing/file", "deeper"] {
            let trouble = sink(at(name)).send(&["a"]).await.unwrap_err();
            assert!(!trouble.uncertain, "{name}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        sink(at("deeper/file")).send(&["a"]).await.unwrap();
        assert_eq!(text(devices.join("deeper/file")), "p: a\n");
    }

    #[tokio::test]
    async fn what_is_no_file_is_refused_at_once() {
        for path in ["/dev/null", "/dev/tty", "/proc/self/mem"] {
            let place = FilePlace {
                path: PathBuf::from(path),
                mode: None,
                below: None,
            };
            assert!(sink(place).open().await.is_err(), "{path}");
        }
        let place = FilePlace {
            path: "/dev/full".into(),
            mode: None,
            below: None,
        };
        assert!(sink(place).send(&["a"]).await.is_err());
    }
}
