//! Datagrams, one a record: the machine's syslog, and UDP.
//!
//! A record too long for a datagram is replaced by a notice with its number, time, type, length and SHA-256, by
//! which it is found in the local log: a device that could never send it would send nothing any more.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::net::{UdpSocket, UnixDatagram, lookup_host};
use tokio::time::timeout;

use super::sink::{Sink, Trouble};
use crate::audit::line::{Hash, Line};

/// Where datagrams go.
pub(super) enum Endpoint {
    /// A Unix socket: what was sent is in the receiver's queue.
    Unix(PathBuf),
    /// `host:port`: nobody knows.
    Udp(String),
}

impl Endpoint {
    pub(super) fn syslog(path: &str) -> Self {
        Self::Unix(path.into())
    }
}

enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl Socket {
    async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.send(bytes).await,
            Self::Udp(socket) => socket.send(bytes).await,
        }
    }
}

/// What stands before the record in a syslog message: a number made of facility and severity, and a tag.
pub(super) struct Header {
    priority: u8,
    tag: String,
}

/// The header of syslog messages, of the severity `info`.
pub(super) fn syslog_header(facility: u8, tag: &str) -> Header {
    Header {
        priority: facility * 8 + 6,
        tag: format!("{tag}[{}]", std::process::id()),
    }
}

/// Sends one datagram for each record.
pub(super) struct Datagrams {
    endpoint: Endpoint,
    header: Option<Header>,
    prefix: String,
    timeout: Duration,
    socket: Option<Socket>,
}

impl Datagrams {
    pub(super) fn new(
        endpoint: Endpoint,
        header: Option<Header>,
        prefix: String,
        timeout: Duration,
    ) -> Self {
        Self {
            endpoint,
            header,
            prefix,
            timeout,
            socket: None,
        }
    }

    async fn connect(&self) -> io::Result<Socket> {
        match &self.endpoint {
            Endpoint::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Ok(Socket::Unix(socket))
            }
            Endpoint::Udp(address) => {
                let mut addresses = lookup_host(address.as_str()).await?;
                let to = addresses.next().ok_or(io::ErrorKind::NotFound)?;
                let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(from).await?;
                socket.connect(to).await?;
                Ok(Socket::Udp(socket))
            }
        }
    }

    async fn connected(&mut self) -> io::Result<&Socket> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => timeout(self.timeout, self.connect()).await??,
        };
        Ok(self.socket.insert(socket))
    }

    async fn send_one(&mut self, line: &str) -> io::Result<()> {
        let (message, limit) = (self.message(line), self.timeout);
        let short = self.message(&notice(line));
        let socket = self.connected().await?;
        let sent = match timeout(limit, socket.send(message.as_bytes())).await? {
            Err(error) if too_long(&error) => timeout(limit, socket.send(short.as_bytes())).await?,
            sent => sent,
        };
        if sent.is_err() {
            // A receiver that was started anew has another socket at the same path.
            self.socket = None;
        }
        sent.map(drop)
    }

    fn message(&self, record: &str) -> String {
        match &self.header {
            Some(Header { priority, tag }) => {
                let time = syslog_time(record);
                format!("<{priority}>{time} {tag}: {}{record}", self.prefix)
            }
            None => format!("{}{record}", self.prefix),
        }
    }

    fn trouble(&self, error: io::Error) -> Trouble {
        match self.endpoint {
            Endpoint::Unix(_) => Trouble::certain(error),
            // It may be the answer to an earlier datagram.
            Endpoint::Udp(_) => Trouble::uncertain(error),
        }
    }
}

fn too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error())
}

/// What stands for a record that is too long.
fn notice(line: &str) -> String {
    let (bytes, hash) = (line.len(), Hash::of(line.as_bytes()));
    let mut text = String::from("{");
    if let Some(Line {
        seq, time, kind, ..
    }) = Line::parse(line.as_bytes())
    {
        // Writing to a String does not fail.
        let _ = write!(text, r#""seq":{seq},"time":"{time}","type":"{kind}","#);
    }
    let _ = write!(
        text,
        r#""oversize":{{"bytes":{bytes},"sha256":"{hash}"}}}}"#
    );
    text
}

/// A record's time as syslog has it (RFC 3164, section 4.1.2), in UTC.
fn syslog_time(record: &str) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let parsed = Line::parse(record.as_bytes())
        .and_then(|line| {
            OffsetDateTime::parse(line.time, &time::format_description::well_known::Rfc3339).ok()
        })
        .unwrap_or(OffsetDateTime::from(SystemTime::UNIX_EPOCH));
    let month = MONTHS
        .get(usize::from(u8::from(parsed.month())) - 1)
        .unwrap_or(&"Jan");
    format!(
        "{month} {:>2} {:02}:{:02}:{:02}",
        parsed.day(),
        parsed.hour(),
        parsed.minute(),
        parsed.second()
    )
}

#[async_trait]
impl Sink for Datagrams {
    async fn open(&mut self) -> Result<(), Trouble> {
        let opened = self.connected().await.map(drop);
        opened.map_err(|error| self.trouble(error))
    }

    async fn send(&mut self, lines: &[&str]) -> Result<usize, Trouble> {
        for (sent, line) in lines.iter().enumerate() {
            match self.send_one(line).await {
                Ok(()) => {}
                // The next call meets the same trouble, with nothing sent.
                Err(_) if sent > 0 && matches!(self.endpoint, Endpoint::Unix(_)) => {
                    return Ok(sent);
                }
                Err(error) => return Err(self.trouble(error)),
            }
        }
        Ok(lines.len())
    }

    async fn confirm(&mut self) -> Result<(), Trouble> {
        Ok(())
    }

    fn settles_after(&self) -> Duration {
        match self.endpoint {
            Endpoint::Unix(_) => Duration::ZERO,
            // A host that is there and has nobody listening says so by then.
            Endpoint::Udp(_) => Duration::from_secs(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

    use super::*;
    use crate::audit::testing::{lines, open, put};

    const LIMIT: Duration = Duration::from_millis(300);

    fn record(what: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        put(&open(dir.path()), what);
        lines(dir.path()).remove(0)
    }

    #[tokio::test]
    async fn syslog_gets_one_message_a_record_and_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let endpoint = || Endpoint::Unix(path.clone());
        let header = Some(syslog_header(10, "vault"));
        let mut sink = Datagrams::new(endpoint(), header, "p: ".into(), LIMIT);
        let line = record("one");
        assert!(!sink.open().await.unwrap_err().uncertain);
        assert!(!sink.send(&[&line]).await.unwrap_err().uncertain);
        for _ in 0..2 {
            let receiver = UnixDatagram::bind(&path).unwrap();
            assert_eq!(sink.send(&[&line, &line]).await.unwrap(), 2);
            let mut buffer = vec![0; 4096];
            for _ in 0..2 {
                let count = receiver.recv(&mut buffer).await.unwrap();
                let text = std::str::from_utf8(&buffer[..count]).unwrap();
                let id = std::process::id();
                assert_eq!(text, format!("<86>Nov 23 21:30:00 vault[{id}]: p: {line}"));
            }
            drop(receiver);
            assert!(!sink.send(&[&line]).await.unwrap_err().uncertain);
            fs::remove_file(&path).unwrap();
        }
    }

    #[tokio::test]
    async fn a_queue_that_is_full_takes_the_rest_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let mut sink = Datagrams::new(Endpoint::Unix(path), None, String::new(), LIMIT);
        let texts: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
        let all: Vec<&str> = texts.iter().map(String::as_str).collect();
        let taken = sink.send(&all).await.unwrap();
        assert!((1..2000).contains(&taken), "{taken}");
        assert!(sink.send(&all[taken..]).await.is_err());
        let mut buffer = vec![0; 100];
        for text in &all[..taken] {
            let count = receiver.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..count], text.as_bytes());
        }
        assert!(sink.send(&all[taken..]).await.unwrap() > 0);
        let count = receiver.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], all[taken].as_bytes());
    }

    #[tokio::test]
    async fn a_record_too_long_for_a_datagram_is_replaced_by_a_notice() {
        let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = receiver.local_addr().unwrap().to_string();
        let mut sink = Datagrams::new(Endpoint::Udp(address), None, String::new(), LIMIT);
        let long = record(&"x".repeat(100_000));
        assert_eq!(sink.send(&[&long, &record("short")]).await.unwrap(), 2);
        let mut buffer = vec![0; 70_000];
        let count = receiver.recv(&mut buffer).await.unwrap();
        let told: Value = serde_json::from_slice(&buffer[..count]).unwrap();
        let parsed: Value = serde_json::from_str(&long).unwrap();
        for field in ["seq", "time", "type"] {
            assert_eq!(told[field], parsed[field]);
        }
        assert_eq!(told["oversize"]["bytes"], long.len());
        let hash = Hash::of(long.as_bytes()).to_string();
        assert_eq!(told["oversize"]["sha256"], hash);
        receiver.recv(&mut buffer).await.unwrap();
    }

    #[tokio::test]
    async fn a_udp_port_nobody_listens_on_makes_what_was_sent_uncertain() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        drop(socket);
        let mut sink = Datagrams::new(Endpoint::Udp(address), None, String::new(), LIMIT);
        let refused = async {
            loop {
                if let Err(trouble) = sink.send(&["a"]).await {
                    return trouble;
                }
            }
        };
        assert!(
            timeout(Duration::from_secs(20), refused)
                .await
                .unwrap()
                .uncertain
        );
    }
}
