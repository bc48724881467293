//! Where secrets do not stay: they are written, read over TLS, used, and what they were issued with ends;
//! then neither the process's memory (dumped by a debugger, as root), nor the data folder, nor the audit
//! log, nor standard error holds them in plain, base64 or hexadecimal.
//!
//! A control shows that the search would find them: a text that does live in memory is found there.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::json;

use crate::server::Server;
use crate::{PATIENCE, database, tools, wait_for};

/// How soon a server without work has let go of everything.
const IDLE: Duration = Duration::from_secs(30);

/// Something to look for, in every form it may have.
struct Canary {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Canary {
    fn new(name: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        assert!(bytes.len() >= 12, "{name} is too short to look for");
        Self { name, bytes }
    }

    /// The form and its bytes.
    fn forms(&self) -> Vec<(String, Vec<u8>)> {
        let hex = hex::encode(&self.bytes);
        let mut forms = vec![
            ("plain".to_owned(), self.bytes.clone()),
            ("HEX".to_owned(), hex.to_uppercase().into_bytes()),
            ("hex".to_owned(), hex.into_bytes()),
        ];
        for skip in 0..3 {
            // Within longer base64 it may begin at any of three places; whole groups are the same.
            let whole = &self.bytes[skip..];
            let whole = &whole[..whole.len() / 3 * 3];
            let text = STANDARD_NO_PAD.encode(whole);
            forms.push((format!("base64+{skip}"), text.into_bytes()));
        }
        forms
    }
}

/// The canaries that are in the files, by name, form and file.
fn found(canaries: &[Canary], files: &[PathBuf]) -> Vec<String> {
    let forms: Vec<(String, Vec<u8>)> = canaries
        .iter()
        .flat_map(|canary| {
            let named = |(form, bytes)| (format!("{} in {form}", canary.name), bytes);
            canary.forms().into_iter().map(named)
        })
        .collect();
    let mut search = Command::new("python3")
        .arg(tools::root("integration/search.py"))
        .args(files)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let needles: String = forms
        .iter()
        .map(|(_, bytes)| hex::encode(bytes) + "\n")
        .collect();
    let mut input = search.stdin.take().unwrap();
    input.write_all(needles.as_bytes()).unwrap();
    drop(input);
    let output = search.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let (file, number) = (words.next().unwrap(), words.next().unwrap());
            let (what, _) = &forms[number.parse::<usize>().unwrap()];
            format!("{what}: {} times in {file}", words.next().unwrap())
        })
        .collect()
}

/// Every file below a folder.
fn files_below(folder: PathBuf) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_below(entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

/// The process's memory, in a file.
fn dump(server: &Server) -> PathBuf {
    let id = server.id().to_string();
    let prefix = server.path("memory");
    tools::succeed(
        Command::new("gcore")
            .arg("-a")
            .arg("-o")
            .arg(&prefix)
            .arg(&id),
    );
    server.path(&format!("memory.{id}"))
}

/// Waits until no connection to the server is open.
fn wait_for_no_connections(server: &Server) {
    let port: u16 = server
        .address()
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let (local, established) = (format!(":{port:04X}"), "01");
    wait_for("connections are closed", PATIENCE, || {
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let open = table.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields[1].ends_with(&local) && fields[3] == established
        });
        (!open).then_some(())
    });
}

fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

#[test]
fn a_secret_leaves_no_trace_when_its_time_is_over() {
    if tools::skipped(&["postgresql", "gdb"]) {
        return;
    }
    let postgres = database::postgres();
    // Everything the program can log is on.
    let server = Server::prepare("[log]\nlevel = \"trace\"\n")
        .env("DAYPASS_ALLOW_DUMP", "1")
        .begin();
    let written = format!("canary {}", random());
    let control = format!("control {}", random());
    let mut canaries = vec![
        Canary::new("the secret", written.as_bytes()),
        Canary::new("the root token", server.root.as_bytes()),
        Canary::new("a share in base64", server.shares[0].as_bytes()),
        Canary::new("a share", STANDARD.decode(&server.shares[0]).unwrap()),
    ];
    {
        let root = server.root();
        for version in ["1", "2"] {
            let mount = json!({"type": "kv", "options": {"version": version}});
            root.write(&format!("sys/mounts/kv{version}"), &mount);
        }
        let policy = format!("# {control}\npath \"kv2/*\" {{ capabilities = [\"read\"] }}\n");
        root.write("sys/policies/acl/reader", &json!({ "policy": policy }));
        root.write("kv1/app", &json!({ "password": written }));
        root.write("kv2/data/app", &json!({"data": { "password": written }}));
        let reader = server.client_of(&["reader"]);
        for _ in 0..20 {
            assert_eq!(root.read("kv1/app").text("/data/password"), written);
            let read = reader.read("kv2/data/app");
            assert_eq!(read.text("/data/data/password"), written);
        }
        // Refused requests, and those that make no sense, hold it as well.
        let body = json!({ "data": written, "options": [written] });
        assert_eq!(root.call("POST", "kv2/data/app", Some(&body)).status, 400);
        let denied = reader.call(
            "POST",
            "kv2/data/app",
            Some(&json!({"data": {"a": written}})),
        );
        assert_eq!(denied.status, 403);

        database::mount(&root, &postgres, "1h");
        let issued = root.read("database/creds/app");
        let password = issued.text("/data/password");
        canaries.push(Canary::new("the database password", password.as_bytes()));
        let user = issued.text("/data/username");
        postgres
            .query_as(&user, &password, "postgres", "SELECT 1")
            .unwrap();
        root.write(
            "sys/leases/revoke",
            &json!({"lease_id": issued.text("/lease_id")}),
        );

        root.write("sys/mounts/pki", &json!({"type": "pki"}));
        let ca = json!({"common_name": "root", "key_type": "ec"});
        root.write("pki/root/generate/internal", &ca);
        let role = json!({"allow_any_name": true, "key_type": "ec", "ttl": "1h"});
        root.write("pki/roles/any", &role);
        let issued = root.write("pki/issue/any", &json!({"common_name": "a.example.org"}));
        let pem = issued.text("/data/private_key");
        let line = pem.lines().nth(1).unwrap();
        canaries.push(Canary::new("the certificate's key in PEM", line.as_bytes()));
        canaries.push(Canary::new(
            "the certificate's key",
            STANDARD.decode(line).unwrap(),
        ));
        root.delete("kv1/app");
        root.delete("kv2/metadata/app");
    }
    wait_for_no_connections(&server);

    let memory = dump(&server);
    let control = [Canary::new("the control", control.as_bytes())];
    let live = found(&control, std::slice::from_ref(&memory));
    assert!(!live.is_empty(), "the search does not find what is there");

    // A client of a closed connection may still be on its way out.
    let mut left = found(&canaries, &[memory]);
    let deadline = std::time::Instant::now() + IDLE;
    while !left.is_empty() && std::time::Instant::now() < deadline {
        left = found(&canaries, &[dump(&server)]);
    }
    assert!(left.is_empty(), "in memory: {left:#?}");

    let log = server.path("standard-error.txt");
    fs::write(&log, server.log()).unwrap();
    let mut files = files_below(server.path("data"));
    files.extend(files_below(server.path("audit")));
    files.push(log);
    assert!(files.len() >= 4, "{files:?}");
    let left = found(&canaries, &files);
    assert!(left.is_empty(), "on disk: {left:#?}");
}

#[test]
fn a_server_leaves_no_core_file() {
    let server = Server::start("");
    let status = fs::read_to_string(format!("/proc/{}/limits", server.id())).unwrap();
    let core = status
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<_> = core.unwrap().split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "core dumps are off");
}
