//! `daypass dev`: a server without configuration, unsealed, with something to try for each main job.

use std::path::{Path, PathBuf};

use daypass_contract::{Operation, Secret};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Server, StartError, private_folder};
use crate::config::{
    AuditSettings, ClientAuth, Config, LeaseSettings, Limits, ListenAddress, Listener, LogFormat,
    LogLevel, LogSettings, Origin, Place, SealSettings, StorageSettings, Tls,
};
use crate::engine::{Failure, Request};

/// The trust domain of a development server's SVIDs.
pub const TRUST_DOMAIN: &str = "dev.daypass.internal";

/// What a development server shall be.
pub struct DevOptions {
    /// Where to keep everything; a temporary folder if none.
    pub data: Option<PathBuf>,
    /// The address to listen on.
    pub listen: String,
    /// The root token's text; generated if none.
    pub root_token: Option<Secret>,
    /// Whether to speak TLS, with certificates made for the occasion.
    pub tls: bool,
    /// A PostgreSQL server to issue users on.
    pub postgres: Option<Secret>,
}

/// A development server, ready to run.
pub struct Dev {
    /// The server.
    pub server: Server,
    /// Its URL.
    pub address: String,
    /// The root token.
    pub token: Secret,
    /// The CA certificate, with TLS.
    pub ca: Option<PathBuf>,
    /// Where everything is.
    pub data: PathBuf,
    /// Whether `database/` is there.
    pub database: bool,
    /// Whether the folder stays.
    pub keeps_data: bool,
    /// Removed when this value is dropped.
    _temporary: Option<tempfile::TempDir>,
}

impl Dev {
    /// Serves until `stop`; then a temporary folder is removed.
    pub async fn run(self, stop: CancellationToken) {
        self.server.run(stop).await;
    }
}

/// Starts a development server and sets up what there is to try.
///
/// # Errors
/// [`StartError`].
pub async fn start(options: DevOptions) -> Result<Dev, StartError> {
    // Its key lies beside its data and its root token on a terminal: nobody else is to reach it.
    if !ListenAddress::Tcp(options.listen.clone()).is_local() {
        return Err(StartError::Setup {
            what: "--listen".into(),
            failure: Failure::Invalid("must be an address of this machine's loopback".into()),
        });
    }
    let temporary = match &options.data {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("daypass-dev-")
                .tempdir()
                .map_err(|source| StartError::System {
                    what: "temporary folder",
                    source,
                })?,
        ),
    };
    let data = match (&options.data, &temporary) {
        (Some(data), _) => data.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => PathBuf::new(),
    };
    private_folder(&data)?;
    let tls = if options.tls {
        Some(certificates(&data.join("tls"))?)
    } else {
        None
    };
    let server = Server::start(config(&data, &options.listen, tls.as_ref())).await?;
    let plane = &server.plane;
    if !plane.seal.status().await?.initialized {
        plane.seal.init(0, 0).await?;
    }
    let setup = |what: &str| {
        let what = what.to_owned();
        move |failure| StartError::Setup { what, failure }
    };
    let engine = plane.open().await.map_err(setup("unseal"))?;
    let known = match &options.root_token {
        Some(text) => engine
            .tokens
            .authenticate(text)
            .await
            .map_err(|error| setup("root token")(error.into()))?,
        None => None,
    };
    let token = match (known, options.root_token) {
        (Some(_), Some(text)) => text,
        (_, text) => {
            engine
                .create_root_token("root", text)
                .await
                .map_err(setup("root token"))?
                .0
        }
    };
    let calls = Calls {
        server: &server,
        token: &token,
    };
    calls.secrets().await.map_err(setup("secret/"))?;
    calls.certificates().await.map_err(setup("pki/"))?;
    if let Some(url) = &options.postgres {
        calls.database(url).await.map_err(setup("database/"))?;
    }
    let address = server
        .addresses()
        .first()
        .map_or_else(String::new, |address| {
            format!("{}://{address}", if options.tls { "https" } else { "http" })
        });
    Ok(Dev {
        address,
        token,
        ca: tls.map(|_| data.join("tls/ca.pem")),
        data,
        database: options.postgres.is_some(),
        keeps_data: temporary.is_none(),
        server,
        _temporary: temporary,
    })
}

fn config(data: &Path, listen: &str, tls: Option<&Tls>) -> Config {
    let origin = Origin {
        place: Place {
            file: PathBuf::from("daypass dev"),
            line: 0,
            column: 0,
        },
        key: "listen".into(),
    };
    Config {
        trust_domain: Some(TRUST_DOMAIN.to_owned()),
        listeners: vec![Listener {
            address: ListenAddress::Tcp(listen.to_owned()),
            tls: tls.cloned(),
            origin,
        }],
        storage: StorageSettings {
            path: data.join("store"),
        },
        seal: SealSettings::KeyFile {
            path: data.join("seal.key"),
        },
        audit: AuditSettings {
            path: data.join("audit"),
            rotate_bytes: 256 << 20,
            device_dirs: vec![data.join("audit-devices")],
            device_addresses: Vec::new(),
        },
        log: LogSettings {
            format: LogFormat::Text,
            level: LogLevel::Info,
        },
        limits: Limits::default(),
        leases: LeaseSettings::default(),
        audit_devices: Vec::new(),
        mounts: Vec::new(),
        policies: Vec::new(),
        quotas: Vec::new(),
    }
}

/// Requests to the server in this process, through the same pipeline as any other.
struct Calls<'a> {
    server: &'a Server,
    token: &'a Secret,
}

impl Calls<'_> {
    async fn write(&self, path: &str, body: Value) -> Result<(), Failure> {
        let Value::Object(fields) = body else {
            return Err(Failure::Internal("body is no object".into()));
        };
        let request = Request {
            id: uuid::Uuid::new_v4().to_string(),
            operation: Operation::Write,
            status_only: false,
            path: path.to_owned(),
            token: Some(self.token.duplicate()),
            fields,
            peer: daypass_contract::Peer::default(),
            wrap_ttl: None,
            own: true,
        };
        self.server.plane.serve(request).await.map(drop)
    }

    /// Enables a mount unless an earlier run left it.
    async fn enable(&self, path: &str, body: Value) -> Result<bool, Failure> {
        if self.server.plane.engine()?.mounts.at(path).is_some() {
            return Ok(false);
        }
        self.write(&format!("sys/mounts/{path}"), body).await?;
        Ok(true)
    }

    async fn secrets(&self) -> Result<(), Failure> {
        let body = json!({ "type": "kv", "options": { "version": "2" }, "description": "versioned secrets" });
        if self.enable("secret", body).await? {
            let data = json!({ "data": { "username": "app", "password": "change-me" } });
            self.write("secret/data/hello", data).await?;
        }
        Ok(())
    }

    async fn certificates(&self) -> Result<(), Failure> {
        let body = json!({
            "type": "pki",
            "description": "certificates and SVIDs",
            "config": { "max_lease_ttl": "3650d" },
        });
        if self.enable("pki", body).await? {
            let root = json!({
                "common_name": "Daypass development root",
                "uri_sans": format!("spiffe://{TRUST_DOMAIN}"),
                "key_type": "ec",
                "ttl": "3650d",
            });
            self.write("pki/root/generate/internal", root).await?;
            let role = json!({
                "trust_domain": TRUST_DOMAIN,
                "allowed_spiffe_paths": "/**",
                "key_type": "ec",
                "ttl": "1h",
                "max_ttl": "24h",
            });
            self.write("pki/roles/workload", role).await?;
        }
        Ok(())
    }

    async fn database(&self, url: &Secret) -> Result<(), Failure> {
        self.enable(
            "database",
            json!({ "type": "database", "description": "database users" }),
        )
        .await?;
        let config = json!({
            "plugin_name": "postgresql-database-plugin",
            "connection_url": with_sslmode(url.expose_str().unwrap_or_default()),
            "allowed_roles": "readonly",
        });
        self.write("database/config/postgres", config).await?;
        let role = json!({
            "db_name": "postgres",
            "creation_statements": [
                "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'",
                "GRANT pg_read_all_data TO \"{{name}}\"",
            ],
            "default_ttl": "1h",
            "max_ttl": "24h",
        });
        self.write("database/roles/readonly", role).await
    }
}

/// The URL, with TLS off where it says nothing of it and the server is on this machine: that is where a
/// developer's PostgreSQL is, and it seldom has a certificate. Elsewhere the backend's own default holds.
fn with_sslmode(given: &str) -> String {
    let Ok(mut url) = reqwest::Url::parse(given) else {
        return given.to_owned();
    };
    let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if local && !url.query_pairs().any(|(name, _)| name == "sslmode") {
        url.query_pairs_mut().append_pair("sslmode", "disable");
    }
    url.into()
}

/// A CA and a server certificate for loopback, made once per data folder.
fn certificates(folder: &PathBuf) -> Result<Tls, StartError> {
    private_folder(folder)?;
    let tls = Tls {
        cert_file: folder.join("server.pem"),
        key_file: folder.join("server.key"),
        client_ca_file: None,
        client_auth: ClientAuth::Request,
    };
    if tls.cert_file.exists() && tls.key_file.exists() {
        return Ok(tls);
    }
    let failed = |error: rcgen::Error| StartError::System {
        what: "development certificate",
        source: std::io::Error::other(error),
    };
    let names = |common_name: &str| {
        let mut name = rcgen::DistinguishedName::new();
        name.push(rcgen::DnType::CommonName, common_name);
        name
    };
    let ca_key = rcgen::KeyPair::generate().map_err(failed)?;
    let mut ca = rcgen::CertificateParams::default();
    ca.distinguished_name = names("Daypass development TLS");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    ca.key_usages = vec![
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::CrlSign,
    ];
    let ca_certificate = ca.self_signed(&ca_key).map_err(failed)?;
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let sans = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut server = rcgen::CertificateParams::new(sans).map_err(failed)?;
    server.distinguished_name = names("localhost");
    server.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let certificate = server.signed_by(&key, &issuer).map_err(failed)?;
    write_private(&folder.join("ca.pem"), &ca_certificate.pem())?;
    write_private(&tls.key_file, &key.serialize_pem())?;
    write_private(&tls.cert_file, &certificate.pem())?;
    Ok(tls)
}

fn write_private(path: &Path, text: &str) -> Result<(), StartError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| StartError::System {
            what: "development certificate",
            source,
        })
}
