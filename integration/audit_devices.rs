//! Audit devices of the real program: what the log has is in the file, at the listener and in the syslog, each
//! record in its place, whatever happens to the destination or to the server.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::Client;
use crate::server::Server;
use crate::{PATIENCE, tools, wait_for};

/// The folder that the API may let devices write in.
const DEVICES: &str = "data/audit-devices";

fn records(text: &str) -> Vec<Value> {
    let record =
        |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("half a line: {line}"));
    text.lines().map(record).collect()
}

fn seqs(text: &str) -> Vec<u64> {
    let seq = |record: &Value| record["seq"].as_u64().unwrap();
    records(text).iter().map(seq).collect()
}

/// All lines of the server's log.
fn log(server: &Server) -> String {
    let mut paths: Vec<_> = fs::read_dir(server.path("audit"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonl")
        })
        .collect();
    paths.sort();
    let read = |path| fs::read_to_string(path).unwrap();
    paths.into_iter().map(read).collect()
}

fn work(client: &Client, times: usize) {
    for number in 0..times {
        client.write(&format!("secret/{number}"), &json!({"value": "x"}));
    }
}

/// Waits until a device has everything that was recorded before.
fn caught_up(server: &Server, device: &str) {
    let root = server.root();
    let newest = seqs(&log(server)).pop().unwrap();
    wait_for("the device has everything", PATIENCE, || {
        let status = root.read(&format!("sys/audit/{device}"));
        (status.data()["delivered"].as_u64().unwrap() >= newest).then_some(())
    });
}

/// Every record from the first one of `text` to `newest` is there, after repetitions are taken out, and each
/// is byte for byte what stands in the log.
fn nothing_is_missing(text: &str, server: &Server, newest: u64) {
    let mut reached = seqs(text)[0] - 1;
    for seq in seqs(text) {
        assert!(seq <= reached + 1, "{seq} follows on {reached}");
        reached = reached.max(seq);
    }
    assert!(reached >= newest, "{reached} of {newest}");
    let log = log(server);
    let known: BTreeSet<&str> = log.lines().collect();
    for line in text.lines() {
        assert!(known.contains(line), "not in the log: {line}");
    }
}

#[test]
fn a_file_follows_the_log_through_logrotate_and_restarts() {
    let mut server = Server::start("");
    let root = server.root();
    root.write("sys/mounts/secret", &json!({"type": "kv"}));
    let file = server.path(DEVICES).join("audit.log");
    let options = json!({"file_path": file, "mode": "0640"});
    let body = json!({"type": "file", "description": "d", "options": options, "local": false});
    root.write("sys/audit/file", &body);
    let listed = root.read("sys/audit");
    let want = json!({"type": "file", "description": "d", "options": options, "path": "file/", "local": false});
    assert_eq!(listed.data()["file/"], want);
    assert_eq!(listed.body["file/"], want);

    // A known value is found in what the device wrote, by its hash alone.
    root.write("secret/found", &json!({"password": "hunter2-hunter2"}));
    work(&root, 5);
    caught_up(&server, "file");
    let hash = root.write("sys/audit-hash/file", &json!({"input": "hunter2-hunter2"}));
    let hash = hash.text("/data/hash");
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("hunter2-hunter2"));
    let found: Vec<Value> = records(&text)
        .into_iter()
        .filter(|record| record["request"]["data"]["password"] == json!(hash))
        .collect();
    assert_eq!(found[0]["type"], "request");
    assert_eq!(found[0]["request"]["path"], "secret/found");
    let token = root.write("sys/audit-hash/file", &json!({"input": server.root}));
    assert_eq!(
        found[0]["auth"]["client_token"],
        json!(token.text("/data/hash"))
    );

    // logrotate moves it away; nothing tells the server.
    let moved = server.path("audit.log.1");
    fs::rename(&file, &moved).unwrap();
    work(&root, 5);
    caught_up(&server, "file");
    assert!(seqs(&fs::read_to_string(&file).unwrap()).len() >= 10);
    assert!(server.stop().success());
    server.start_again();
    work(&server.root(), 5);
    caught_up(&server, "file");
    let text = fs::read_to_string(&moved).unwrap() + &fs::read_to_string(&file).unwrap();
    let all = seqs(&text);
    let want: Vec<u64> = (all[0]..).take(all.len()).collect();
    assert_eq!(all, want, "each once");
    nothing_is_missing(&text, &server, *all.last().unwrap());

    caught_up(&server, "file");
    let metrics = tools::succeed(&mut server.command(&["read", "sys/metrics"]));
    for name in ["lag_records", "lag_seconds", "alarm"] {
        let metric = format!("daypass_audit_device_{name}{{device=\"file\"}} 0\n");
        wait_for("the metrics say so", PATIENCE, || {
            let metrics = tools::succeed(&mut server.command(&["read", "sys/metrics"]));
            metrics.contains(&metric).then_some(())
        });
    }
    assert!(metrics.contains("# TYPE daypass_audit_device_records_total counter"));
    server.root().call("DELETE", "sys/audit/file", None);
    let before = fs::read_to_string(&file).unwrap();
    work(&server.root(), 3);
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    server.verify_audit();
}

/// Takes lines from connections until told to stop, and then from no more.
fn listen(listener: &TcpListener, into: &Path, lines: Option<usize>) {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream);
    let mut text = fs::read_to_string(into).unwrap_or_default();
    for _ in 0..lines.unwrap_or(usize::MAX) {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or_default() == 0 || !line.ends_with('\n') {
            break;
        }
        text.push_str(&line);
        fs::write(into, &text).unwrap();
    }
}

#[test]
fn a_listener_that_goes_away_gets_everything_when_it_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::prepare(&format!("device_addresses = [\"{address}\"]\n")).begin();
    let root = server.root();
    root.write("sys/mounts/secret", &json!({"type": "kv"}));
    let body = json!({"type": "socket", "options": {"address": address.to_string(), "write_timeout": "500ms"}});
    root.write("sys/audit/siem", &body);
    let got = server.path("got");
    thread::scope(|scope| {
        let taking = scope.spawn(|| listen(&listener, &got, Some(7)));
        work(&root, 5);
        taking.join().unwrap();
    });
    // The listener is gone in the middle of it. Requests go on as ever.
    drop(listener);
    work(&root, 40);
    wait_for("the device fails", PATIENCE, || {
        let status = root.read("sys/audit/siem");
        status.data()["failing_since"].as_str().map(drop)
    });
    let warned = root.read("sys/audit").body["warnings"].to_string();
    assert!(warned.contains("audit device siem/ is"), "{warned}");
    work(&root, 10);
    let newest = seqs(&log(&server)).pop().unwrap();
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn({
        let got = got.clone();
        move || loop {
            listen(&listener, &got, None);
        }
    });
    wait_for("everything has arrived", PATIENCE, || {
        let text = fs::read_to_string(&got).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        (seqs(whole).last() >= Some(&newest)).then_some(())
    });
    let text = fs::read_to_string(&got).unwrap();
    let whole = text.rsplit_once('\n').unwrap().0;
    nothing_is_missing(whole, &server, newest);
    wait_for("all is well again", PATIENCE, || {
        let status = root.read("sys/audit/siem");
        status.data()["failing_since"].is_null().then_some(())
    });
}

#[test]
fn a_declared_device_is_the_files_alone() {
    let server = Server::prepare(
        r#"
[[audit_devices]]
path = "collector"
type = "socket"
description = "declared"
options = { address = "COLLECTOR", socket_type = "unix" }
"#,
    );
    let socket = server.path("collector.sock");
    let config = fs::read_to_string(server.path("daypass.toml")).unwrap();
    let config = config.replace("COLLECTOR", &socket.display().to_string());
    fs::write(server.path("daypass.toml"), config).unwrap();
    let server = server.begin();
    let root = server.root();
    let shown = root.read("sys/audit/collector");
    assert_eq!(shown.data()["managed"], true, "{shown}");
    assert_eq!(root.call("DELETE", "sys/audit/collector", None).status, 400);
    let body = json!({"type": "syslog"});
    assert_eq!(
        root.call("POST", "sys/audit/collector", Some(&body)).status,
        400
    );
    // It was not there when the server started.
    let listener = UnixListener::bind(&socket).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    let first: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(first["event"]["what"], "audit.device.enabled");
}

#[test]
fn the_api_writes_and_connects_only_where_the_configuration_allows() {
    let server = Server::start("");
    let root = server.root();
    let outside = server.path("outside.log");
    let refused = |path: &str, body: Value| {
        let answer = root.call("PUT", &format!("sys/audit/{path}"), Some(&body));
        assert_eq!(answer.status, 400, "{answer}");
        answer.body["errors"][0].as_str().unwrap().to_owned()
    };
    for (kind, options, want) in [
        ("file", json!({"file_path": outside}), "audit.device_dirs"),
        ("file", json!({"file_path": "../outside.log"}), "\"..\""),
        (
            "file",
            json!({"file_path": server.path("audit").join("audit-00000000000000000001.jsonl")}),
            "audit.device_dirs",
        ),
        (
            "file",
            json!({"file_path": "a.log", "log_raw": true}),
            "sys/audit-hash",
        ),
        (
            "socket",
            json!({"address": "127.0.0.1:9"}),
            "audit.device_addresses",
        ),
        (
            "socket",
            json!({"address": "/run/docker.sock", "socket_type": "unix"}),
            "audit.device_addresses",
        ),
        ("webhook", json!({}), "no such audit device type"),
    ] {
        let said = refused("x", json!({"type": kind, "options": options}));
        assert!(said.contains(want), "{said}");
    }
    assert!(!outside.exists());
    assert!(
        refused(
            "local",
            json!({"type": "file", "options": {"file_path": "a"}})
        )
        .contains("in use")
    );
    // Sudo on the path, and nothing less.
    let rules =
        "path \"sys/audit/*\" { capabilities = [\"create\", \"update\", \"delete\", \"read\"] }";
    root.write("sys/policies/acl/some", &json!({"policy": rules}));
    let body = json!({"type": "file", "options": {"file_path": "a.log"}});
    let some = server.client_of(&["some"]);
    assert_eq!(some.call("PUT", "sys/audit/a", Some(&body)).status, 403);
    assert_eq!(root.call("DELETE", "sys/audit/nothing", None).status, 204);
    assert_eq!(root.call("GET", "sys/audit/nothing", None).status, 404);
}

/// `kill -9` at any moment: the file has every record of the log, each whole, in order.
#[test]
fn killed_at_any_moment_a_file_misses_no_record() {
    let mut server = Server::start("rotate_bytes = 20000\n");
    let root = server.root();
    root.write("sys/mounts/secret", &json!({"type": "kv"}));
    root.write(
        "sys/audit/file",
        &json!({"type": "file", "options": {"file_path": "audit.log"}}),
    );
    for round in 0..12_u64 {
        let client = server.root();
        let killed = AtomicBool::new(false);
        thread::scope(|scope| {
            for worker in 0..3 {
                let (client, killed) = (&client, &killed);
                scope.spawn(move || {
                    let body = json!({"value": "x"});
                    let path = format!("secret/{worker}");
                    while !killed.load(Ordering::Relaxed) {
                        if client.send("POST", &path, Some(&body)).is_err() {
                            break;
                        }
                    }
                });
            }
            thread::sleep(Duration::from_millis(50 + round * 217 % 1500));
            server.kill();
            killed.store(true, Ordering::Relaxed);
        });
        server.start_again();
    }
    caught_up(&server, "file");
    let newest = seqs(&log(&server)).pop().unwrap();
    assert!(newest > 200, "too little work: {newest}");
    wait_for("the device has everything", PATIENCE, || {
        let text = fs::read_to_string(server.path(DEVICES).join("audit.log")).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        (seqs(whole).last() >= Some(&newest)).then_some(())
    });
    server.stop();
    let text = fs::read_to_string(server.path(DEVICES).join("audit.log")).unwrap();
    nothing_is_missing(&text, &server, newest);
    server.verify_audit();
}

#[test]
fn hvac_and_bao_manage_devices() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let server = Server::start("");
    tools::succeed(
        tools::from_venv("python")
            .arg(tools::root("integration/hvac_audit.py"))
            .current_dir(server.folder())
            .env("ADDRESS", server.url())
            .env("CA", server.path("ca.pem"))
            .env("TOKEN", &server.root)
            .env("FILE", server.path(DEVICES).join("hvac.log")),
    );
    let bao = |line: &str| {
        let mut command = tools::from_venv("bao");
        command
            .args(line.split_whitespace())
            .env("BAO_ADDR", server.url())
            .env("BAO_CACERT", server.path("ca.pem"))
            .env("BAO_TOKEN", &server.root)
            .env("HOME", server.folder());
        command
    };
    let file = server.path(DEVICES).join("bao.log");
    let enable = format!("audit enable file file_path={}", file.display());
    assert!(tools::succeed(&mut bao(&enable)).contains("Enabled the file audit device at: file/"));
    let again = tools::run(&mut bao(&enable));
    assert!(String::from_utf8_lossy(&again.stderr).contains("path already in use"));
    let listed = tools::succeed(&mut bao("audit list -detailed"));
    assert!(listed.contains("file_path="), "{listed}");
    let listed: Value =
        serde_json::from_str(&tools::succeed(&mut bao("audit list -format=json"))).unwrap();
    assert_eq!(listed["file/"]["type"], "file", "{listed}");
    let hash = tools::succeed(&mut bao("write -field=hash sys/audit-hash/file input=x"));
    assert!(hash.starts_with("hmac-sha256:"));
    assert!(tools::succeed(&mut bao("audit disable file")).contains("Success"));
    tools::succeed(&mut bao("audit disable file"));

    // The same with our own command line.
    let own = |arguments: &[&str]| tools::succeed(&mut server.command(arguments));
    let enable = [
        "audit",
        "enable",
        "--path",
        "own",
        "file",
        "file_path=own.log",
    ];
    assert_eq!(own(&enable), "Enabled: own/\n");
    assert!(own(&["audit", "list"]).contains("own.log"));
    assert_eq!(
        own(&["audit", "list", "--field", "managed", "own"]),
        "false"
    );
    fs::write(server.path("value"), "x\n").unwrap();
    let mut command = server.command(&["audit", "hash", "--field", "hash", "own"]);
    command.stdin(fs::File::open(server.path("value")).unwrap());
    assert_eq!(tools::succeed(&mut command), hash.trim());
    assert_eq!(own(&["audit", "disable", "own"]), "Disabled: own/\n");
}
