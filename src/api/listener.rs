//! Accepting connections: TCP, TLS 1.3 with certificates that can be replaced while serving, limits on
//! how many there are and how slowly they may speak, and an orderly end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body as HttpBody;
use daypass_contract::Peer;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::key_holder::KeyHolder;
use super::service::Service;
use crate::config::ListenAddress;

/// How long a client may take to finish the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long an HTTP/2 connection may be quiet before it is asked whether it is there.
const QUIET: Duration = Duration::from_secs(30);
/// hyper buffers at least this much.
const MIN_BUFFER: usize = 8192;
/// How often certificate files are looked at.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(10);

/// Certificate files of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain in PEM, leaf first.
    pub certificate: PathBuf,
    /// The private key in PEM.
    pub key: PathBuf,
    /// Which certificates clients show.
    pub clients: ClientCertificates,
}

/// Which certificates clients show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// None: they are not asked.
    Unasked,
    /// Any whose key they hold; who vouches for it is for an auth method to judge.
    Any,
    /// Those that an authority vouches for.
    Of {
        /// The authorities in PEM.
        ca: PathBuf,
        /// Clients without one are refused.
        required: bool,
    },
}

/// Why a listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// As configured.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A certificate or key does not load.
    #[error("{file}: {reason}", file = file.display())]
    Certificate {
        /// The file concerned.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// One address, bound and ready to serve.
pub struct Listener {
    socket: Socket,
    tls: Option<Arc<Identity>>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Socket {
    async fn accept(&self) -> std::io::Result<(Box<dyn Stream>, Option<SocketAddr>)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, remote) = socket.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Box::new(stream), Some(remote)))
            }
            Self::Unix(socket, _) => {
                let (stream, _) = socket.accept().await?;
                Ok((Box::new(stream), None))
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Listener {
    /// Binds `address`; without `tls`, speaks plain HTTP.
    ///
    /// # Errors
    /// [`ListenerError`].
    pub async fn bind(
        address: &ListenAddress,
        tls: Option<TlsFiles>,
    ) -> Result<Self, ListenerError> {
        let fault = |address: String| move |source| ListenerError::Bind { address, source };
        let socket = match address {
            ListenAddress::Tcp(address) => Socket::Tcp(
                TcpListener::bind(address)
                    .await
                    .map_err(fault(address.clone()))?,
            ),
            ListenAddress::Unix(path) => {
                // What a server that was killed left behind; one that lives answers.
                if path.exists() && UnixStream::connect(path).await.is_err() {
                    let _ = std::fs::remove_file(path);
                }
                let bound = UnixListener::bind(path).map_err(fault(path.display().to_string()))?;
                Socket::Unix(bound, path.clone())
            }
        };
        let tls = tls.map(Loaded::read).transpose()?;
        let tls = tls.map(|loaded| Arc::new(Identity(ArcSwap::from_pointee(loaded))));
        Ok(Self { socket, tls })
    }

    /// The TCP address it listens on, with the port that was chosen.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What it shows of itself in TLS, to exchange while it serves.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.tls.clone()
    }

    /// Serves until `stop`, then lets requests finish for as long as `grace`.
    pub async fn serve(self, service: Service, stop: CancellationToken, grace: Duration) {
        let limits = service.limits();
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_headers(limits.max_headers)
            .max_buf_size(limits.max_header_bytes.max(MIN_BUFFER));
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(QUIET)
            .max_concurrent_streams(256)
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX));
        let builder = Arc::new(builder);
        let room = Arc::clone(service.connections());
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        if let Some(identity) = &self.tls {
            connections.spawn(Arc::clone(identity).watch(stop.clone()));
        }
        loop {
            // Waiting for room before accepting leaves the excess in the kernel's queue.
            let permit = tokio::select! {
                () = stop.cancelled() => break,
                permit = Arc::clone(&room).acquire_owned() => permit,
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.socket.accept() => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            let (stream, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: a pause lets connections end.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let tls = self.tls.as_ref().map(|identity| identity.acceptor());
            let patience = limits.header_timeout;
            let (service, builder, watcher) =
                (service.clone(), Arc::clone(&builder), graceful.watcher());
            connections.spawn(async move {
                let _permit = permit;
                let served = async {
                    match tls {
                        None => {
                            let peer = Peer {
                                address: remote,
                                ..Peer::default()
                            };
                            converse(stream, peer, service, &builder, watcher, patience).await
                        }
                        Some(acceptor) => match handshake(acceptor, stream).await {
                            Some(stream) => {
                                let peer = Peer {
                                    address: remote,
                                    certificates: presented(&stream),
                                };
                                converse(stream, peer, service, &builder, watcher, patience).await
                            }
                            None => Ok(()),
                        },
                    }
                };
                if let Err(error) = served.await {
                    tracing::debug!(?remote, error, "connection ended early");
                }
            });
        }
        drop(self.socket);
        if tokio::time::timeout(grace, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("connections were still busy at the end of the grace period");
        }
        connections.abort_all();
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: Box<dyn Stream>,
) -> Option<tokio_rustls::server::TlsStream<Box<dyn Stream>>> {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// The certificates that the client presented, its own first.
fn presented(stream: &tokio_rustls::server::TlsStream<Box<dyn Stream>>) -> Arc<[Vec<u8>]> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    certificates
        .iter()
        .map(|certificate| certificate.to_vec())
        .collect()
}

async fn converse<S>(
    stream: S,
    peer: Peer,
    service: Service,
    builder: &auto::Builder<TokioExecutor>,
    watcher: hyper_util::server::graceful::Watcher,
    patience: Duration,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asked = Arc::new(AtomicBool::new(false));
    let silent = Arc::clone(&asked);
    let answer = service_fn(move |request: http::Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        let (service, peer) = (service.clone(), peer.clone());
        async move {
            let request = request.map(HttpBody::new);
            Ok::<_, Infallible>(service.handle(request, peer).await)
        }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(watcher.watch(connection));
    // The limit on headers counts from when hyper knows the protocol, which takes some bytes.
    match tokio::time::timeout(patience, &mut connection).await {
        Ok(ended) => ended,
        Err(_) if silent.load(Ordering::Relaxed) => connection.await,
        Err(_) => return Err("the client asked nothing in time".to_owned()),
    }
    .map_err(|error| error.to_string())
}

/// What a listener shows of itself in TLS, and whom it trusts; it follows its files.
pub struct Identity(ArcSwap<Loaded>);

/// Certificate files, read and found to fit together.
pub struct Loaded {
    files: TlsFiles,
    chain: Vec<CertificateDer<'static>>,
    clients: Vec<CertificateDer<'static>>,
    config: Arc<ServerConfig>,
}

impl Loaded {
    /// Reads `files`.
    ///
    /// # Errors
    /// [`ListenerError::Certificate`], naming the file.
    pub fn read(files: TlsFiles) -> Result<Self, ListenerError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let fault = |file: &PathBuf, reason: String| ListenerError::Certificate {
            file: file.clone(),
            reason,
        };
        let key = read_key(&files)?;
        let chain = key.cert.clone();
        let mut clients = Vec::new();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| fault(&files.certificate, error.to_string()))?;
        let builder = match &files.clients {
            ClientCertificates::Unasked => builder.with_no_client_auth(),
            ClientCertificates::Any => {
                let algorithms = provider.signature_verification_algorithms;
                builder.with_client_cert_verifier(Arc::new(KeyHolder::new(algorithms)))
            }
            ClientCertificates::Of { ca: file, required } => {
                let mut roots = RootCertStore::empty();
                clients = CertificateDer::pem_file_iter(file)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|error| fault(file, error.to_string()))?;
                for certificate in &clients {
                    roots
                        .add(certificate.clone())
                        .map_err(|error| fault(file, error.to_string()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = if *required {
                    verifier
                } else {
                    verifier.allow_unauthenticated()
                };
                builder.with_client_cert_verifier(
                    verifier
                        .build()
                        .map_err(|error| fault(file, error.to_string()))?,
                )
            }
        };
        let resolver = SingleCertAndKey::from(key);
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            files,
            chain,
            clients,
            config: Arc::new(config),
        })
    }
}

impl Identity {
    fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.load().config))
    }

    /// Shows `fresh` to connections from now on. Gives whether anything is different.
    pub fn adopt(&self, fresh: Loaded) -> bool {
        let current = self.0.load();
        let same = fresh.files == current.files
            && fresh.chain == current.chain
            && fresh.clients == current.clients;
        // What is the same stays, with the sessions that clients may resume.
        if !same {
            tracing::info!(file = %fresh.files.certificate.display(), "serving a new certificate");
            self.0.store(Arc::new(fresh));
        }
        !same
    }

    /// Looks at the files from time to time. Files that do not fit together (one was replaced, the
    /// other not yet) are tried again; until then the old certificate serves.
    async fn watch(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(CERTIFICATE_CHECK) => {}
            }
            let files = self.0.load().files.clone();
            match tokio::task::spawn_blocking(move || Loaded::read(files)).await {
                Ok(Ok(fresh)) => drop(self.adopt(fresh)),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "certificate does not load; the old one serves");
                }
                Err(_) => {}
            }
        }
    }
}

fn read_key(files: &TlsFiles) -> Result<CertifiedKey, ListenerError> {
    let fault = |file: &PathBuf, reason: String| ListenerError::Certificate {
        file: file.clone(),
        reason,
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| fault(&files.certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(fault(
            &files.certificate,
            "holds no certificate in PEM".into(),
        ));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| fault(&files.key, error.to_string()))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())
        .map_err(|error| fault(&files.key, error.to_string()))
}
