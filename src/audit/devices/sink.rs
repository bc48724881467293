//! What takes records: [`Sink`], and why one could not.

use std::fmt::Display;
use std::time::Duration;

use async_trait::async_trait;

use super::datagram::{Datagrams, Endpoint, syslog_header};
use super::file::FileSink;
use super::stream::Stream;
use super::target::{Place, Target};

/// Why records did not get there. They are sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// In words.
    pub(super) reason: String,
    /// What was sent before and not yet confirmed may be lost too.
    pub(super) uncertain: bool,
}

impl Trouble {
    /// These records did not get there; what was sent before did.
    pub(super) fn certain(what: impl Display) -> Self {
        Self {
            reason: what.to_string(),
            uncertain: false,
        }
    }

    /// Nothing since the last confirmation is certain.
    pub(super) fn uncertain(what: impl Display) -> Self {
        Self {
            reason: what.to_string(),
            uncertain: true,
        }
    }
}

/// Takes records in their order. Every call ends within a time of the sink's own.
#[async_trait]
pub(super) trait Sink: Send + Sync {
    /// Makes sure that records could be sent.
    async fn open(&mut self) -> Result<(), Trouble>;

    /// Sends records, and says how many of them: at least one.
    async fn send(&mut self, lines: &[&str]) -> Result<usize, Trouble>;

    /// Returns where nothing says that what was sent did not get there; for a file, once it is on the disk.
    async fn confirm(&mut self) -> Result<(), Trouble>;

    /// How long a record must have been sent before a confirmation counts for it.
    fn settles_after(&self) -> Duration;
}

/// The sink of a target.
pub(super) fn of(target: &Target) -> Box<dyn Sink> {
    let prefix = target.prefix.clone();
    match &target.place {
        Place::File(_) | Place::Stdout | Place::Stderr => {
            Box::new(FileSink::new(target.place.clone(), prefix))
        }
        Place::Syslog { facility, tag } => Box::new(Datagrams::new(
            Endpoint::syslog("/dev/log"),
            Some(syslog_header(*facility, tag)),
            prefix,
            Duration::from_secs(2),
        )),
        Place::Udp { address, timeout } => Box::new(Datagrams::new(
            Endpoint::Udp(address.clone()),
            None,
            prefix,
            *timeout,
        )),
        Place::Tcp { .. } | Place::Unix { .. } => {
            Box::new(Stream::new(target.place.clone(), prefix))
        }
    }
}

/// A device that cannot run, and says why.
pub(super) struct Barred(pub(super) String);

#[async_trait]
impl Sink for Barred {
    async fn open(&mut self) -> Result<(), Trouble> {
        Err(Trouble::certain(&self.0))
    }

    async fn send(&mut self, _: &[&str]) -> Result<usize, Trouble> {
        Err(Trouble::certain(&self.0))
    }

    async fn confirm(&mut self) -> Result<(), Trouble> {
        Ok(())
    }

    fn settles_after(&self) -> Duration {
        Duration::ZERO
    }
}

/// Lines with their prefixes and newlines, as they go out.
pub(super) fn joined(prefix: &str, lines: &[&str]) -> Vec<u8> {
    let length = lines.iter().map(|line| line.len() + prefix.len() + 1).sum();
    let mut bytes = Vec::with_capacity(length);
    for line in lines {
        bytes.extend_from_slice(prefix.as_bytes());
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
    }
    bytes
}
