//! A mount to test, and OpenSSL's command line as a second opinion.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use daypass_certs::Certificate;
use daypass_conformance::{Answer, Mounted, TestHost};
use daypass_contract::route::Found;
use daypass_contract::{
    Body, Call, Caller, Clock as _, Content, Entry, Handler, Operation, Store as _,
};
use serde_json::{Value, json};

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// A mount on a host of its own, whose maximum is ten years and whose default is an hour.
pub(super) struct Bench {
    pub(super) host: TestHost,
    pub(super) mounted: Mounted,
}

impl Bench {
    pub(super) async fn new() -> Self {
        let host = TestHost::new();
        host.system.set_ttls(HOUR, 10 * YEAR);
        Self::on(host).await
    }

    /// Another node on the same storage.
    pub(super) async fn on(host: TestHost) -> Self {
        let backend = crate::open(host.host()).await.ok().unwrap();
        let mounted = Mounted::new(backend, &host);
        Self { host, mounted }
    }

    /// A mount with an EC root that lasts a year, and the role `any`, which allows every name.
    pub(super) async fn with_root() -> Self {
        let bench = Self::new().await;
        bench.root(json!({})).await;
        bench.role("any", json!({"allow_any_name": true})).await;
        bench
    }

    /// Generates an EC root that lasts a year, unless `fields` say otherwise.
    pub(super) async fn root(&self, fields: Value) -> Answer {
        let request = with(
            json!({"common_name": "Root", "key_type": "ec", "ttl": "8760h"}),
            fields,
        );
        self.ok("root/generate/internal", request).await
    }

    /// Writes a role for EC keys.
    pub(super) async fn role(&self, name: &str, fields: Value) -> Answer {
        let request = with(json!({"key_type": "ec"}), fields);
        self.ok(&format!("roles/{name}"), request).await
    }

    pub(super) async fn ok(&self, path: &str, body: Value) -> Answer {
        match self.mounted.write(path, body).await {
            Ok(answer) => answer,
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// The error text of a request that is refused.
    pub(super) async fn refused(&self, path: &str, body: Value) -> String {
        match self.mounted.write(path, body).await {
            Ok(answer) => panic!("{path} answers {}", answer.data),
            Err(error) => error.to_string(),
        }
    }

    pub(super) async fn read(&self, path: &str) -> Value {
        match self.mounted.read(path).await {
            Ok(answer) => answer.data,
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// The names of a list; empty where there are none.
    pub(super) async fn names(&self, path: &str) -> Vec<String> {
        match self.mounted.list(path).await {
            Ok(answer) => texts(&answer["keys"]),
            Err(error) => {
                assert_eq!(error.to_string(), "not found", "{path}");
                Vec::new()
            }
        }
    }

    /// A body outside the envelope, with its media type; `None` for 204.
    pub(super) async fn raw(&self, path: &str) -> Option<(&'static str, Vec<u8>)> {
        let Found::Endpoint(endpoint, parameters) = self.mounted.routes.find(Operation::Read, path)
        else {
            panic!("no route for {path}");
        };
        let Handler::Answer(run) = &endpoint.handler else {
            panic!("{path} plans")
        };
        let mut body = Body::default();
        for (name, value) in parameters {
            body.set(name, value);
        }
        let call = Call {
            operation: Operation::Read,
            body,
            now: self.host.clock.now(),
            caller: Caller::default(),
            peer: daypass_contract::Peer::default(),
        };
        match run(call).await.ok().unwrap().content {
            Content::Raw {
                content_type,
                bytes,
            } => Some((content_type, bytes)),
            Content::Nothing => None,
            _ => panic!("{path} answers in the envelope"),
        }
    }

    /// The default issuer's CRL in DER.
    pub(super) async fn crl(&self) -> Vec<u8> {
        self.raw("crl").await.unwrap().1
    }

    pub(super) async fn stored(&self, key: &str) -> Option<Entry> {
        self.host.store.get(key).await.ok().unwrap()
    }

    /// The time of the bench, for OpenSSL.
    pub(super) fn at(&self) -> String {
        crate::validity::unix(self.host.clock.now()).to_string()
    }

    /// What `openssl verify` says of a leaf below `root`; `Ok` where it accepts. Options that take a file get
    /// its content, flags nothing.
    pub(super) fn verify(
        &self,
        root: &str,
        leaf: &str,
        extra: &[(&str, &str)],
    ) -> Result<(), String> {
        let root = File::holding(root.as_bytes());
        let leaf = File::holding(leaf.as_bytes());
        let files: Vec<(&str, File)> = extra
            .iter()
            .map(|(option, content)| (*option, File::holding(content.as_bytes())))
            .collect();
        let at = self.at();
        let mut arguments = vec!["verify", "-x509_strict", "-attime", &at, "-CAfile", &root.0];
        for ((option, content), (_, file)) in extra.iter().zip(&files) {
            arguments.push(option);
            if !content.is_empty() {
                arguments.push(&file.0);
            }
        }
        arguments.push(&leaf.0);
        run(&arguments, b"").map(drop)
    }
}

/// `base` with the fields of `over`.
pub(super) fn with(mut base: Value, over: Value) -> Value {
    let fields = base.as_object_mut().unwrap();
    fields.extend(over.as_object().unwrap().clone());
    base
}

pub(super) fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("text, not {value}"))
}

pub(super) fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().unwrap().iter();
    items.map(|item| text(item).to_owned()).collect()
}

pub(super) fn certificate(value: &Value) -> Certificate {
    Certificate::from_pem_or_der(text(value).as_bytes()).unwrap()
}

/// What OpenSSL writes of a certificate.
pub(super) fn described(pem: &str) -> String {
    openssl(&["x509", "-noout", "-text"], pem.as_bytes())
}

/// The extensions that OpenSSL sees: name to content, with `critical` before it where it is.
pub(super) fn extensions(pem: &str) -> BTreeMap<String, String> {
    let text = described(pem);
    let (_, below) = text.split_once("X509v3 extensions:\n").unwrap();
    let mut found = BTreeMap::new();
    let mut name = String::new();
    for line in below
        .lines()
        .take_while(|line| line.starts_with("            "))
    {
        let (_, line) = line.split_at(12);
        if line.starts_with(' ') {
            let content: &mut String = found.get_mut(&name).unwrap();
            content.push_str(line.trim());
        } else {
            let (title, rest) = line.split_once(':').unwrap();
            name = title.trim_start_matches("X509v3 ").to_owned();
            let rest = rest.trim();
            let gap = if rest.is_empty() { "" } else { " " };
            found.insert(name.clone(), format!("{rest}{gap}"));
        }
    }
    found
}

/// A CSR made by OpenSSL with a new key of this algorithm.
pub(super) fn csr(algorithm: &[&str], subject: &str, extensions: &[&str]) -> String {
    let mut arguments = vec![
        "req",
        "-new",
        "-nodes",
        "-keyout",
        "/dev/null",
        "-subj",
        subject,
    ];
    arguments.extend(algorithm);
    for extension in extensions {
        arguments.extend(["-addext", extension]);
    }
    openssl(&arguments, b"")
}

pub(super) const EC: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// What `openssl` writes; the test fails where it fails.
pub(super) fn openssl(arguments: &[&str], input: &[u8]) -> String {
    match run(arguments, input) {
        Ok(output) => output,
        Err(complaint) => panic!("openssl {arguments:?}: {complaint}"),
    }
}

fn run(arguments: &[&str], input: &[u8]) -> Result<String, String> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A file that is removed when dropped.
pub(super) struct File(pub(super) String);

impl File {
    pub(super) fn holding(content: &[u8]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("daypass-pki-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        Self(path.to_str().unwrap().to_owned())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
