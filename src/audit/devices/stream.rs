//! A TCP or Unix stream, one record a line.
//!
//! A stream has no acknowledgement that a sender could see, and a write succeeds although nobody will ever read
//! it. So a record counts only once its connection was still alive for longer than the kernel lets data go
//! unacknowledged (`TCP_USER_TIMEOUT`); whatever was sent on a connection that ended before is sent again on the
//! next one. The other side gets records twice then, and misses none.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::sink::{Sink, Trouble, joined};
use super::target::Place;

/// A connection.
enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Where to connect to.
enum Address {
    Tcp(String),
    Unix(PathBuf),
}

/// Sends records over one connection at a time.
pub(super) struct Stream {
    address: Address,
    timeout: Duration,
    prefix: String,
    connection: Option<Connection>,
}

impl Stream {
    /// For a place that is a stream; no other has one.
    pub(super) fn new(place: Place, prefix: String) -> Self {
        let (address, timeout) = match place {
            Place::Unix { path, timeout } => (Address::Unix(path), timeout),
            Place::Tcp { address, timeout } => (Address::Tcp(address), timeout),
            _ => (Address::Tcp(String::new()), Duration::ZERO),
        };
        Self {
            address,
            timeout,
            prefix,
            connection: None,
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let connecting = async {
            Ok(match &self.address {
                Address::Unix(path) => Connection::Unix(UnixStream::connect(path).await?),
                Address::Tcp(address) => {
                    let stream = TcpStream::connect(address.as_str()).await?;
                    let limit = u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX);
                    set_tcp_user_timeout(&stream, limit)?;
                    Connection::Tcp(stream)
                }
            })
        };
        timeout(self.timeout, connecting).await?
    }

    /// The connection, alive as far as is known.
    async fn connected(&mut self) -> Result<&mut Connection, Trouble> {
        self.confirm().await?;
        let connection = match self.connection.take() {
            Some(connection) => connection,
            // What was sent on an earlier connection was settled when that ended.
            None => self.connect().await.map_err(Trouble::certain)?,
        };
        Ok(self.connection.insert(connection))
    }
}

impl Connection {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
        }
    }

    /// Whether the other side is still there. What it says is passed over.
    fn probe(&self) -> io::Result<()> {
        let mut ignored = [0; 1024];
        // A side that never stops talking is there.
        for _ in 0..64 {
            match self.try_read(&mut ignored) {
                Ok(0) => return Err(io::Error::other("the other side closed the connection")),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8], limit: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => write_all(stream, bytes, limit).await,
            Self::Unix(stream) => write_all(stream, bytes, limit).await,
        }
    }
}

/// Writes everything, as long as something gets on within `limit`.
async fn write_all(
    stream: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    limit: Duration,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = timeout(limit, stream.write(bytes)).await??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

#[async_trait]
impl Sink for Stream {
    async fn open(&mut self) -> Result<(), Trouble> {
        self.connected().await.map(drop)
    }

    async fn send(&mut self, lines: &[&str]) -> Result<usize, Trouble> {
        let (bytes, limit) = (joined(&self.prefix, lines), self.timeout);
        let sent = self.connected().await?.write(&bytes, limit).await;
        if let Err(error) = sent {
            self.connection = None;
            return Err(Trouble::uncertain(error));
        }
        Ok(lines.len())
    }

    async fn confirm(&mut self) -> Result<(), Trouble> {
        // Lets the runtime see what has come in.
        tokio::task::yield_now().await;
        match self.connection.as_ref().map(Connection::probe) {
            Some(Err(error)) => {
                self.connection = None;
                Err(Trouble::uncertain(error))
            }
            _ => Ok(()),
        }
    }

    fn settles_after(&self) -> Duration {
        self.timeout + Duration::from_secs(1)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    fn tcp(address: String) -> Stream {
        let timeout = Duration::from_millis(500);
        Stream::new(Place::Tcp { address, timeout }, "p: ".into())
    }

    /// Confirms until there is trouble.
    async fn trouble(sink: &mut Stream) -> Trouble {
        loop {
            if let Err(trouble) = sink.confirm().await {
                return trouble;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_listener_that_goes_away_is_noticed_and_found_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut sink = tcp(address.to_string());
        assert_eq!(sink.send(&["a", "b"]).await.unwrap(), 2);
        let (peer, _) = listener.accept().await.unwrap();
        let mut lines = BufReader::new(peer).lines();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "p: a");
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "p: b");
        sink.confirm().await.unwrap();
        drop((lines, listener));
        assert!(trouble(&mut sink).await.uncertain);
        // Nothing was sent on a connection that was never made.
        assert!(!sink.send(&["c"]).await.unwrap_err().uncertain);
        let listener = TcpListener::bind(address).await.unwrap();
        assert_eq!(sink.send(&["d"]).await.unwrap(), 1);
        let (peer, _) = listener.accept().await.unwrap();
        let line = BufReader::new(peer).lines().next_line().await.unwrap();
        assert_eq!(line.unwrap(), "p: d");
    }

    #[tokio::test]
    async fn a_side_that_reads_nothing_does_not_hang_the_device() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sink = tcp(listener.local_addr().unwrap().to_string());
        sink.open().await.unwrap();
        let (_peer, _) = listener.accept().await.unwrap();
        let line = "x".repeat(4 << 20);
        let stuck = async {
            loop {
                if let Err(trouble) = sink.send(&[&line]).await {
                    return trouble;
                }
            }
        };
        let stuck = timeout(Duration::from_secs(20), stuck).await.unwrap();
        assert!(stuck.uncertain);
    }

    #[tokio::test]
    async fn a_unix_socket_takes_lines_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let place = Place::Unix {
            path: path.clone(),
            timeout: Duration::from_secs(2),
        };
        let mut sink = Stream::new(place, String::new());
        assert!(!sink.open().await.unwrap_err().uncertain);
        let listener = UnixListener::bind(&path).unwrap();
        sink.send(&["a"]).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        let mut lines = BufReader::new(peer).lines();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "a");
        sink.confirm().await.unwrap();
        drop((lines, listener));
        assert!(trouble(&mut sink).await.uncertain);
    }
}
