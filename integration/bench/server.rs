//! The two servers: started from nothing in a folder of their own, initialised, unsealed and set up by
//! the same calls of the Vault API, and gone with the value.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use daypass::client::{Client, ClientError, Settings as Connection};
use daypass_contract::Secret;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::settings::Settings;

/// How long a server may take to get ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the measured requests may do, beside a few rules that every request is compared with too.
const POLICY: &str = r#"
path "secret/data/bench/*"      { capabilities = ["create", "read", "update"] }
path "secret/metadata/bench/*"  { capabilities = ["read", "list"] }
path "auth/token/lookup-self"   { capabilities = ["read"] }
path "auth/token/create"        { capabilities = ["update"] }
path "pki/issue/+"              { capabilities = ["update"] }
path "pki/sign/+"               { capabilities = ["update"] }
path "database/creds/bench"     { capabilities = ["read"] }
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Daypass,
    OpenBao,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Daypass, Self::OpenBao];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Daypass => "Daypass",
            Self::OpenBao => "OpenBao",
        }
    }
}

/// What all servers share: the programs, the certificate and the folder.
pub(crate) struct Site {
    folder: TempDir,
    daypass: PathBuf,
    bao: PathBuf,
}

impl Site {
    pub(crate) fn new(settings: &Settings) -> Self {
        // Beside the build, not in /tmp, which may be memory.
        let folder = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a folder for the servers");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        fs::write(folder.path().join("cert.pem"), made.cert.pem()).expect("a file");
        write_private(
            &folder.path().join("key.pem"),
            &made.signing_key.serialize_pem(),
        );
        Self {
            folder,
            daypass: settings.daypass.clone(),
            bao: settings.bao.clone(),
        }
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// A folder that no other caller gets.
    pub(crate) fn fresh(&self, prefix: &str) -> PathBuf {
        tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(self.folder.path())
            .expect("a folder")
            .keep()
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: String,
    /// The token of the measured requests.
    pub(crate) token: String,
    /// As root.
    pub(crate) root: Client,
    process: Child,
    folder: PathBuf,
    command: Vec<String>,
    certificate: PathBuf,
    unseal_key: String,
}

/// What a process has used.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
}

impl Server {
    /// Starts a server, initialises it and mounts kv v2 at `secret/` with one secret in it.
    pub(crate) async fn start(kind: Kind, site: &Site) -> Self {
        let folder = site.fresh(kind.name());
        let port = free_port();
        let address = format!("https://127.0.0.1:{port}");
        let config = match kind {
            Kind::Daypass => daypass_config(&folder, port, site.folder.path()),
            Kind::OpenBao => openbao_config(&folder, port, site.folder.path()),
        };
        let (program, file) = match kind {
            Kind::Daypass => (&site.daypass, folder.join("daypass.toml")),
            Kind::OpenBao => (&site.bao, folder.join("openbao.hcl")),
        };
        fs::write(&file, config).expect("a configuration");
        let flag = match kind {
            Kind::Daypass => "--config",
            Kind::OpenBao => "-config",
        };
        let [program, file] = [program, &file].map(|path| path.display().to_string());
        let command = vec![program, "server".to_owned(), flag.to_owned(), file];
        let certificate = site.certificate();
        let process = launch(&command, &folder);
        let root = connect(&address, &certificate, None);
        let mut server = Self {
            kind,
            address,
            token: String::new(),
            root,
            process,
            folder,
            command,
            certificate,
            unseal_key: String::new(),
        };
        server.initialise().await;
        server
    }

    async fn initialise(&mut self) {
        let fields = fields(json!({ "secret_shares": 1, "secret_threshold": 1 }));
        let init = async |client: &Client| client.write("sys/init", &fields).await;
        let made = self.until_ready("sys/init", init).await;
        let text = |value: &Value| value.as_str().expect("init answers it").to_owned();
        self.unseal_key = text(&made["keys_base64"][0]);
        let root = text(&made["root_token"]);
        self.root = connect(&self.address, &self.certificate, Some(&root));
        self.unseal().await;
        let kv = json!({ "type": "kv", "options": { "version": "2" } });
        self.write("sys/mounts/secret", kv).await;
        let secret =
            json!({ "data": { "username": "app", "password": "not-so-secret-after-all" } });
        self.write("secret/data/bench/read", secret).await;
        self.write("sys/policies/acl/bench", json!({ "policy": POLICY }))
            .await;
        let token = json!({ "policies": ["bench"], "ttl": "24h", "no_parent": true });
        let token = self.write("auth/token/create", token).await;
        self.token = text(&token["auth"]["client_token"]);
    }

    async fn unseal(&self) {
        let key = fields(json!({ "key": self.unseal_key }));
        let unseal = async |client: &Client| client.write("sys/unseal", &key).await;
        self.until_ready("sys/unseal", unseal).await;
        let read = async |client: &Client| client.read("sys/mounts", &[]).await;
        self.until_ready("sys/mounts", read).await;
    }

    /// Kills the server, starts it again and returns how long it took, from the start of the process
    /// to the first secret read.
    pub(crate) async fn restart(&mut self) -> Duration {
        self.process.kill().expect("our own process");
        self.process.wait().expect("our own process");
        let begun = Instant::now();
        self.process = launch(&self.command, &self.folder);
        let key = fields(json!({ "key": self.unseal_key }));
        let unseal = async |client: &Client| client.write("sys/unseal", &key).await;
        self.until_ready("sys/unseal", unseal).await;
        let read = async |client: &Client| client.read("secret/data/bench/read", &[]).await;
        self.until_ready("secret/data/bench/read", read).await;
        begun.elapsed()
    }

    /// A client with the token of the measured requests.
    pub(crate) fn client(&self) -> Client {
        connect(&self.address, &self.certificate, Some(&self.token))
    }

    /// Writes as root.
    pub(crate) async fn write(&self, path: &str, body: Value) -> Value {
        // OpenBao answers that an upgrade of a new mount is under way.
        let fields = fields(body);
        let write = async |client: &Client| client.write(path, &fields).await;
        self.until_ready(path, write).await
    }

    /// Reads as root.
    pub(crate) async fn read(&self, path: &str) -> Value {
        let read = async |client: &Client| client.read(path, &[]).await;
        self.until_ready(path, read).await
    }

    async fn until_ready<F>(&self, path: &str, ask: F) -> Value
    where
        F: AsyncFn(&Client) -> Result<daypass::client::Answer, ClientError>,
    {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask(&self.root).await {
                Ok(answer) => return answer.json().clone(),
                Err(error) if Instant::now() > deadline || final_answer(&error) => panic!(
                    "{} {path}: {error}\n{}",
                    self.kind.name(),
                    fs::read_to_string(self.folder.join("log")).unwrap_or_default()
                ),
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        let process = format!("/proc/{}", self.process.id());
        let stat = fs::read_to_string(format!("{process}/stat")).expect("a running process");
        // After the name, which may hold anything: state is field 3, user and system time 14 and 15.
        let after_name = stat.rsplit_once(") ").expect("a stat line").1;
        let ticks: u64 = after_name
            .split(' ')
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().expect("a number"))
            .sum();
        let status = fs::read_to_string(format!("{process}/status")).expect("a running process");
        let kib: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|value| value.trim().strip_suffix(" kB")?.trim().parse().ok())
            .expect("VmRSS");
        Usage {
            // A tick is 10 ms wherever Linux tells it to programs.
            cpu: Duration::from_millis(ticks * 10),
            resident_bytes: kib * 1024,
        }
    }

    /// Stops the process where it stands, or lets it go on.
    pub(crate) fn freeze(&self, freeze: bool) {
        let signal = if freeze { "-STOP" } else { "-CONT" };
        let status = Command::new("kill")
            .arg(signal)
            .arg(self.process.id().to_string())
            .status()
            .expect("kill runs");
        assert!(status.success(), "kill {signal}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn launch(command: &[String], folder: &Path) -> Child {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .expect("a log");
    Command::new(&command[0])
        .args(&command[1..])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "{}: {error}; run scripts/install-bench-tools.sh",
                command[0]
            )
        })
}

/// Whether asking again would not help.
fn final_answer(error: &ClientError) -> bool {
    matches!(error, ClientError::Denied { .. })
        || matches!(error, ClientError::Invalid { errors, .. }
            if !errors.iter().any(|error| error.contains("pgrad") || error.contains("not initialized")))
}

fn connect(address: &str, certificate: &Path, token: Option<&str>) -> Client {
    Client::new(Connection {
        address: address.to_owned(),
        token: token.map(Secret::new),
        ca_cert: Some(certificate.to_owned()),
        ..Connection::default()
    })
    .expect("a client")
}

pub(crate) fn fields(body: Value) -> Map<String, Value> {
    match body {
        Value::Object(fields) => fields,
        _ => panic!("a body is an object"),
    }
}

fn daypass_config(folder: &Path, port: u16, shared: &Path) -> String {
    let (folder, shared) = (folder.display(), shared.display());
    format!(
        r#"storage = {{ path = "{folder}/data" }}
seal = {{ type = "shamir" }}
audit = {{ path = "{folder}/audit" }}

[[listeners]]
address = "127.0.0.1:{port}"
[listeners.tls]
cert_file = "{shared}/cert.pem"
key_file = "{shared}/key.pem"
"#
    )
}

fn openbao_config(folder: &Path, port: u16, shared: &Path) -> String {
    let data = folder.join("raft");
    fs::create_dir_all(&data).expect("a folder");
    let (folder, shared, cluster) = (folder.display(), shared.display(), free_port());
    format!(
        r#"listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster}"
  tls_cert_file = "{shared}/cert.pem"
  tls_key_file = "{shared}/key.pem"
}}
storage "raft" {{
  path = "{folder}/raft"
  node_id = "bench"
}}
audit "file" "file" {{
  options = {{ file_path = "{folder}/audit.log" }}
}}
telemetry {{
  prometheus_retention_time = "10m"
  disable_hostname = true
}}
api_addr = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster}"
"#
    )
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("our own file");
}
