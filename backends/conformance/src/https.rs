//! [`Https`]: an HTTPS server under a test's control, to stand for an issuer of tokens or an API server
//! that cannot be had in a test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

/// How long the server waits for a client; a test that needs longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client asked.
#[derive(Clone, Debug)]
pub struct HttpsRequest {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The value of `Authorization`; empty where there is none.
    pub authorization: String,
    /// The JSON of the body; `null` where there is none.
    pub body: Value,
}

/// How the server behaves towards one request.
#[derive(Clone, Debug)]
pub enum HttpsReply {
    /// Answers with this status and JSON.
    Json(u16, Value),
    /// Answers with this status and text.
    Text(u16, String),
    /// Sends the client elsewhere.
    Redirect(String),
    /// Never answers.
    Hang,
    /// Answers, and never stops.
    Endless,
}

type Respond = Box<dyn Fn(&HttpsRequest) -> HttpsReply + Send>;

struct Shared {
    respond: Mutex<Respond>,
    seen: Mutex<Vec<HttpsRequest>>,
    ending: AtomicBool,
}

/// A server on a free port of loopback, with a certificate of its own, that lives as long as this value.
pub struct Https {
    address: SocketAddr,
    pem: String,
    shared: Arc<Shared>,
}

impl Https {
    /// Starts one that behaves as `respond` says.
    pub fn start(respond: impl Fn(&HttpsRequest) -> HttpsReply + Send + 'static) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            respond: Mutex::new(Box::new(respond)),
            seen: Mutex::default(),
            ending: AtomicBool::new(false),
        });
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if server.ending.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    let (config, shared) = (Arc::clone(&config), Arc::clone(&server));
                    // A client that breaks off is the client's affair.
                    thread::spawn(move || serve(stream, config, &shared).ok());
                }
            }
        });
        Self {
            address,
            pem: certificate.pem(),
            shared,
        }
    }

    /// `https://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate that clients must trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Behaves as `respond` says from now on.
    pub fn behave(&self, respond: impl Fn(&HttpsRequest) -> HttpsReply + Send + 'static) {
        *self.shared.respond.lock().unwrap() = Box::new(respond);
    }

    /// What was asked until now.
    pub fn requests(&self) -> Vec<HttpsRequest> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How often a path was asked for.
    pub fn count(&self, path: &str) -> usize {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter().filter(|request| request.path == path).count()
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let request = read(&mut stream)?;
    shared.seen.lock().unwrap().push(request.clone());
    let reply = (shared.respond.lock().unwrap())(&request);
    let (status, media_type, body) = match reply {
        HttpsReply::Json(status, value) => (status, "application/json", value.to_string()),
        HttpsReply::Text(status, text) => (status, "text/plain", text),
        HttpsReply::Redirect(to) => {
            write!(
                stream,
                "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )?;
            return close(&mut stream);
        }
        HttpsReply::Hang => {
            // Until the client hangs up.
            let _ = stream.read(&mut [0; 1]);
            return Ok(());
        }
        HttpsReply::Endless => {
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b' '; 16_384])?;
            }
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status} .\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    close(&mut stream)
}

fn close(stream: &mut StreamOwned<ServerConnection, TcpStream>) -> std::io::Result<()> {
    stream.conn.send_close_notify();
    stream.flush()
}

fn read(stream: &mut impl Read) -> std::io::Result<HttpsRequest> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        more(stream, &mut bytes)?;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let mut next = || first.next().unwrap_or_default().to_owned();
    let (method, path) = (next(), next());
    let header = |name: &str| {
        let found = lines.clone().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        });
        found.unwrap_or_default()
    };
    let length: usize = header("content-length").parse().unwrap_or_default();
    let authorization = header("authorization");
    while bytes.len() < end + length {
        more(stream, &mut bytes)?;
    }
    let body = serde_json::from_slice(&bytes[end..end + length]).unwrap_or_default();
    Ok(HttpsRequest {
        method,
        path,
        authorization,
        body,
    })
}

fn more(stream: &mut impl Read, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let mut chunk = [0; 4096];
    let read = stream.read(&mut chunk)?;
    if read == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    bytes.extend_from_slice(&chunk[..read]);
    Ok(())
}
