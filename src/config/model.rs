//! What a configuration says, after it was checked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use daypass_contract::Body;
use serde_json::{Map, Value};

use super::error::Origin;
use super::secret::{SecretError, SecretRef};

/// A configuration that passed every check.
pub struct Config {
    /// The SPIFFE trust domain, such as `prod.example.org`.
    pub trust_domain: Option<String>,
    /// Where the API is served; at least one.
    pub listeners: Vec<Listener>,
    /// Where everything is kept.
    pub storage: StorageSettings,
    /// What guards the root key.
    pub seal: SealSettings,
    /// The local audit log.
    pub audit: AuditSettings,
    /// The program's own log.
    pub log: LogSettings,
    /// Limits on what callers may ask of the server.
    pub limits: Limits,
    /// How long leases last and how fast they are revoked.
    pub leases: LeaseSettings,
    /// Declared audit devices, in the order of the files.
    pub audit_devices: Vec<AuditDevice>,
    /// Declared mounts, in the order of the files.
    pub mounts: Vec<Mount>,
    /// Declared policies, in the order of the files.
    pub policies: Vec<Policy>,
    /// Declared quotas, in the order of the files.
    pub quotas: Vec<Quota>,
}

/// One address the API is served on.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where it listens.
    pub address: ListenAddress,
    /// `None` only on loopback and Unix sockets.
    pub tls: Option<Tls>,
    /// Where it is declared.
    pub origin: Origin,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `host:port`.
    Tcp(String),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        let Self::Tcp(address) = self else {
            return true;
        };
        match address.parse::<std::net::SocketAddr>() {
            Ok(address) => address.ip().is_loopback(),
            Err(_) => address
                .rsplit_once(':')
                .is_some_and(|(host, _)| host == "localhost"),
        }
    }
}

/// The TLS identity of a listener.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate chain in PEM, the server's own first.
    pub cert_file: PathBuf,
    /// The private key in PEM; only its owner may read the file.
    pub key_file: PathBuf,
    /// The authorities of client certificates in PEM.
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients show a certificate.
    pub client_auth: ClientAuth,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    None,
    /// They are asked, and any is taken whose key they hold; auth methods judge it. The default.
    Request,
    /// They are asked; one that is shown must be valid.
    Optional,
    /// Without a valid one there is no connection.
    Required,
}

/// Where everything is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageSettings {
    /// The folder of the embedded store.
    pub path: PathBuf,
}

/// What guards the root key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealSettings {
    /// Key shares held by people.
    Shamir,
    /// A key in a file, for development and tests: whoever reads the disk can unseal.
    KeyFile {
        /// The file; made at initialisation where it does not exist.
        path: PathBuf,
    },
}

/// The local audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// The folder of the log's files.
    pub path: PathBuf,
    /// A new file is begun when one reaches so many bytes.
    pub rotate_bytes: u64,
    /// The folders below which the API may let an audit device write.
    pub device_dirs: Vec<PathBuf>,
    /// The addresses that the API may let an audit device send to.
    pub device_addresses: Vec<String>,
}

/// A declared audit device: what follows the local log.
#[derive(Clone, Debug)]
pub struct AuditDevice {
    /// Its name among the devices.
    pub path: String,
    /// `file`, `syslog` or `socket`.
    pub kind: String,
    /// For people.
    pub description: String,
    /// The options of its type.
    pub options: BTreeMap<String, String>,
    /// Where it is declared.
    pub origin: Origin,
}

/// The program's own log, on standard error.
#[derive(Clone, Copy, Debug)]
pub struct LogSettings {
    /// How a line looks.
    pub format: LogFormat,
    /// What is worth a line.
    pub level: LogLevel,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object.
    Json,
    /// For people.
    Text,
}

/// The least severe thing that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// And what may become one.
    Warn,
    /// And the course of events.
    Info,
    /// And the reasons for it.
    Debug,
    /// And every step.
    Trace,
}

impl LogLevel {
    /// The level of that name.
    pub fn named(name: &str) -> Option<Self> {
        let levels = [
            Self::Error,
            Self::Warn,
            Self::Info,
            Self::Debug,
            Self::Trace,
        ];
        levels.into_iter().find(|level| level.as_str() == name)
    }

    /// Its name in the configuration and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Limits on what callers may ask of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// The longest that a caller waits for an answer.
    pub request_timeout: Duration,
    /// Open connections, over all listeners.
    pub max_connections: usize,
    /// Requests at work at one time.
    pub max_concurrent_requests: usize,
    /// Headers of one request.
    pub max_headers: usize,
    /// Bytes of all headers of one request.
    pub max_header_bytes: usize,
    /// The longest that a client may take to send its headers.
    pub header_timeout: Duration,
    /// How long running requests may go on after the server was told to stop.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 << 20,
            request_timeout: Duration::from_secs(90),
            max_connections: 10_000,
            max_concurrent_requests: 1024,
            max_headers: 100,
            max_header_bytes: 64 << 10,
            header_timeout: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

/// How long leases last and how fast they are revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// A lease that nobody has an opinion about.
    pub default_ttl: Duration,
    /// The longest lease, renewals included.
    pub max_ttl: Duration,
    /// Revocations at work at one time in one mount.
    pub revoke_concurrency: usize,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self {
            default_ttl: Duration::from_secs(32 * 86_400),
            max_ttl: Duration::from_secs(32 * 86_400),
            revoke_concurrency: 64,
        }
    }
}

/// A declared mount.
pub struct Mount {
    /// Its path, with one `/` at the end and none at the start.
    pub path: String,
    /// The backend's name.
    pub backend: String,
    /// For people.
    pub description: String,
    /// The options the backend is made with (kv: `version`).
    pub options: BTreeMap<String, String>,
    /// The mount's own default lease.
    pub default_lease_ttl: Option<Duration>,
    /// The mount's own longest lease.
    pub max_lease_ttl: Option<Duration>,
    /// What is written below the mount, in the order of the file.
    pub resources: Vec<Resource>,
    /// Where it is declared.
    pub origin: Origin,
}

/// Something declared below a mount: the fields that are written to a path of its API.
pub struct Resource {
    /// The path below the mount, such as `roles/readonly`.
    pub path: String,
    /// The fields.
    pub fields: BTreeMap<String, Setting>,
    /// Where it is declared.
    pub origin: Origin,
}

impl Resource {
    /// The request body that writes this resource, with every reference read.
    ///
    /// # Errors
    /// [`SecretError`] where a reference cannot be read or is not text.
    pub fn body(&self) -> Result<Body, SecretError> {
        let mut fields = Map::new();
        for (name, setting) in &self.fields {
            fields.insert(name.clone(), setting.resolve()?);
        }
        Ok(Body::new(fields))
    }
}

/// A declared value. It has no `Debug`: a plain one may be more delicate than its name tells.
pub enum Setting {
    /// A value that is no secret.
    Plain(Value),
    /// A secret that stands elsewhere.
    Reference(SecretRef),
    /// Several.
    List(Vec<Setting>),
    /// Several with names.
    Table(BTreeMap<String, Setting>),
}

impl Setting {
    fn resolve(&self) -> Result<Value, SecretError> {
        Ok(match self {
            Self::Plain(value) => value.clone(),
            Self::Reference(reference) => {
                let secret = reference.resolve()?;
                // A JSON body holds text only; the copy is wiped by the allocator when it is freed.
                let text = secret.expose_str().ok_or_else(|| reference.not_text())?;
                Value::from(text)
            }
            Self::List(items) => items.iter().map(Self::resolve).collect::<Result<_, _>>()?,
            Self::Table(fields) => {
                let mut map = Map::new();
                for (name, setting) in fields {
                    map.insert(name.clone(), setting.resolve()?);
                }
                Value::Object(map)
            }
        })
    }
}

/// A declared policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name, in lower case.
    pub name: String,
    /// The text of its rules.
    pub rules: String,
    /// Where it is declared.
    pub origin: Origin,
}

/// A declared rate limit.
#[derive(Clone, Debug)]
pub struct Quota {
    /// Its name.
    pub name: String,
    /// The path prefix it counts; empty for everything.
    pub path: String,
    /// Requests per second that are let through for good.
    pub rate_per_second: f64,
    /// Requests that may come at once.
    pub burst: u64,
    /// Where it is declared.
    pub origin: Origin,
}
