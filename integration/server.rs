//! [`Server`]: the program as an operator runs it, in a temporary folder, on a free port, over TLS.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{Answer, Client};
use crate::tls::Authority;
use crate::{PATIENCE, wait_for};

/// What every configuration has; a test appends what it needs.
const CONFIG: &str = r#"
[[listeners]]
address = "127.0.0.1:0"
[listeners.tls]
cert_file = "server.pem"
key_file = "server.key"

[storage]
path = "data"

[seal]
type = "shamir"

[audit]
path = "audit"
"#;

/// A server and its folder. Dropping it kills the one and removes the other.
pub(crate) struct Server {
    pub(crate) authority: Authority,
    folder: TempDir,
    environment: Vec<(&'static str, &'static str)>,
    process: Option<Child>,
    log: Arc<Mutex<String>>,
    address: String,
    /// What unseals it, in base64.
    pub(crate) shares: Vec<String>,
    /// The root token.
    pub(crate) root: String,
}

impl Server {
    /// A folder with certificates and a configuration, to which `more` is appended. Nothing runs.
    pub(crate) fn prepare(more: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("daypass-it-")
            .tempdir()
            .unwrap();
        let authority = Authority::new();
        authority.issue_into(folder.path());
        fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        fs::write(
            folder.path().join("daypass.toml"),
            format!("{CONFIG}{more}"),
        )
        .unwrap();
        Self {
            authority,
            folder,
            environment: Vec::new(),
            process: None,
            log: Arc::default(),
            address: String::new(),
            shares: Vec::new(),
            root: String::new(),
        }
    }

    /// A server that is initialized and unsealed.
    pub(crate) fn start(more: &str) -> Self {
        Self::prepare(more).begin()
    }

    /// Starts, initializes and unseals a prepared server.
    pub(crate) fn begin(mut self) -> Self {
        self.launch();
        self.initialize();
        self.unseal();
        self
    }

    /// Sets a variable of the server's environment.
    pub(crate) fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Runs the program until it listens.
    pub(crate) fn launch(&mut self) {
        if let Err(said) = self.try_launch() {
            panic!("the server does not start:\n{said}");
        }
    }

    /// Runs the program until it listens, or answers what it said before it ended.
    pub(crate) fn try_launch(&mut self) -> Result<(), String> {
        let mut process = self
            .command(&["server", "--config"])
            .arg(self.path("daypass.toml"))
            .envs(self.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (log, from) = (Arc::clone(&self.log), self.log().len());
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = log.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let address = wait_for("the server listens", PATIENCE, || {
            let found = self.log()[from..].lines().find_map(listening);
            match found {
                Some(address) => Some(Some(address)),
                None => process.try_wait().unwrap().map(|_| None),
            }
        });
        self.process = Some(process);
        let Some(address) = address else {
            reader.join().unwrap();
            self.process = None;
            return Err(self.log()[from..].to_owned());
        };
        self.address = address;
        Ok(())
    }

    /// Three shares, two of which unseal.
    pub(crate) fn initialize(&mut self) {
        let made = self.anyone().write(
            "sys/init",
            &json!({"secret_shares": 3, "secret_threshold": 2}),
        );
        let shares = made.body["keys_base64"].as_array().unwrap().iter();
        self.shares = shares
            .map(|share| share.as_str().unwrap().to_owned())
            .collect();
        self.root = made.text("/root_token");
    }

    pub(crate) fn unseal(&self) {
        let client = self.anyone();
        let give = |share: &String| client.write("sys/unseal", &json!({ "key": share }));
        let answers: Vec<Answer> = self.shares.iter().take(2).map(give).collect();
        assert_eq!(
            answers[1].body["sealed"],
            Value::Bool(false),
            "{}",
            answers[1]
        );
    }

    /// What a crash does: SIGKILL, no more.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts and unseals it again, after [`Self::kill`] or [`Self::stop`].
    pub(crate) fn start_again(&mut self) {
        self.launch();
        self.unseal();
    }

    /// Asks it to end, without waiting.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap();
        wait_for("the server ends", PATIENCE, || process.try_wait().unwrap())
    }

    /// An orderly end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// `https://127.0.0.1:port`.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A client without a token.
    pub(crate) fn anyone(&self) -> Client {
        Client::new(&self.url(), self.authority.pem(), None)
    }

    /// A client with this token.
    pub(crate) fn client(&self, token: &str) -> Client {
        self.anyone().with_token(token)
    }

    /// A client with the root token.
    pub(crate) fn root(&self) -> Client {
        self.client(&self.root)
    }

    /// A client with a new token that has these policies.
    pub(crate) fn client_of(&self, policies: &[&str]) -> Client {
        let body = json!({"policies": policies, "no_parent": true});
        let made = self.root().write("auth/token/create", &body);
        self.client(&made.text("/auth/client_token"))
    }

    /// A file in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Everything it wrote to standard error, over all its starts.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The program with these arguments, set up to talk to this server as root.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_daypass"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("DAYPASS_ADDR", self.url())
            .env("DAYPASS_TOKEN", &self.root)
            .env("DAYPASS_CACERT", self.path("ca.pem"));
        command
    }

    /// Proves the audit log whole with `daypass audit verify`.
    pub(crate) fn verify_audit(&self) {
        let output = self
            .command(&["audit", "verify", "audit"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "audit verify: {said}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the server said:\n{}---", self.log());
        }
    }
}

/// The address in the line of the log that tells it.
fn listening(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let address = line["address"].as_str()?;
    (line["message"] == "listening").then(|| address.to_owned())
}
