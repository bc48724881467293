//! What an operator does with a running server besides starting and stopping it: new key shares, root
//! tokens, key rotation, reload, and looking at it.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::http::{Answer, Client};
use crate::server::Server;
use crate::{PATIENCE, tools, wait_for};

/// Requests whose refusal is an answer.
trait Ask {
    fn get(&self, path: &str) -> Answer;
    fn post(&self, path: &str, body: &Value) -> Answer;
}

impl Ask for Client {
    fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None)
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, Some(body))
    }
}

/// Runs a line of `daypass` that must succeed, with this standard input and no token, and answers its JSON.
fn daypass(server: &Server, line: &str, input: &str) -> Value {
    use std::io::Write as _;
    let mut child = server
        .command(&[])
        .args(line.split_whitespace())
        .args(["--format", "json"])
        .env_remove("DAYPASS_TOKEN")
        .env("HOME", server.folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(&text).unwrap_or(Value::String(text.trim().to_owned()))
}

fn shares_of(made: &Value) -> Vec<String> {
    let shares = made["keys_base64"].as_array().unwrap().iter();
    shares
        .map(|share| share.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn share_holders_change_the_shares_and_lose_none_in_a_crash() {
    let mut server = Server::start("");
    server
        .root()
        .post("sys/mounts/secret", &json!({"type": "kv"}));
    server.root().post("secret/a", &json!({"k": "v"}));
    let old = server.shares.clone();
    let begun = daypass(
        &server,
        "operator rekey init --key-shares 4 --key-threshold 3",
        "",
    );
    assert_eq!(
        (&begun["n"], &begun["t"], &begun["required"]),
        (&json!(4), &json!(3), &json!(2))
    );
    assert_eq!(begun["verification_required"], true);
    let made = daypass(
        &server,
        "operator rekey share",
        &format!("{}\n{}\n", old[0], old[2]),
    );
    let new = shares_of(&made);
    assert_eq!(new.len(), 4);
    let nonce = made["verification_nonce"].as_str().unwrap().to_owned();
    let one = daypass(
        &server,
        &format!("operator rekey verify --nonce {nonce}"),
        &new[0],
    );
    assert_eq!(
        (&one["progress"], &one["started"]),
        (&json!(1), &json!(true))
    );

    // Before they are verified, a crash leaves the old ones, and the new ones are worthless.
    server.kill();
    server.start_again();
    assert_eq!(server.root().get("secret/a").text("/data/k"), "v");
    assert_eq!(server.anyone().get("sys/rekey/verify").status, 400);

    daypass(
        &server,
        "operator rekey init --key-shares 4 --key-threshold 3",
        "",
    );
    let made = daypass(
        &server,
        "operator rekey share",
        &format!("{}\n{}\n", old[1], old[2]),
    );
    let new = shares_of(&made);
    let done = daypass(&server, "operator rekey verify", &new[1..].join("\n"));
    assert_eq!(done["complete"], true);
    server.kill();
    server.launch();
    let give = |share: &String| server.anyone().post("sys/unseal", &json!({"key": share}));
    give(&new[0]);
    give(&new[1]);
    let open = give(&new[3]);
    assert_eq!(open.body["sealed"], false, "{open}");
    assert_eq!(server.root().get("secret/a").text("/data/k"), "v");
    let status = server.anyone().get("sys/seal-status");
    assert_eq!(
        (&status.body["t"], &status.body["n"]),
        (&json!(3), &json!(4))
    );

    // The old ones are worthless.
    server.root().post("sys/seal", &json!({}));
    for share in &old {
        give(share);
    }
    assert_eq!(server.anyone().get("sys/seal-status").body["sealed"], true);
    server.verify_audit();
}

#[test]
fn share_holders_make_a_root_token() {
    let server = Server::start("");
    let otp = daypass(&server, "operator generate-root otp", "");
    fs::write(server.path("otp"), otp.as_str().unwrap()).unwrap();
    let begun = daypass(&server, "operator generate-root init --otp otp", "");
    assert_eq!(
        (&begun["started"], &begun["required"]),
        (&json!(true), &json!(2))
    );
    let given = daypass(&server, "operator generate-root share", &server.shares[0]);
    assert_eq!(
        (&given["progress"], &given["complete"]),
        (&json!(1), &json!(false))
    );
    let done = daypass(&server, "operator generate-root share", &server.shares[1]);
    let both = format!(
        "{}\n{}\n",
        done["encoded_token"].as_str().unwrap(),
        otp.as_str().unwrap()
    );
    let token = daypass(&server, "operator generate-root decode", &both);
    let own = server
        .client(token.as_str().unwrap())
        .get("auth/token/lookup-self");
    assert_eq!(own.body["data"]["policies"], json!(["root"]), "{own}");
    assert_eq!(own.text("/data/path"), "auth/token/root");

    // Each refusal, with its words.
    let anyone = server.anyone();
    let attempt = "sys/generate-root/attempt";
    assert_eq!(
        anyone
            .post("sys/generate-root/update", &json!({"key": "x"}))
            .status,
        400
    );
    assert_eq!(anyone.post(attempt, &json!({"otp": "short"})).status, 400);
    assert_eq!(anyone.post(attempt, &json!({"pgp_key": "a"})).status, 501);
    let begun = anyone.post(attempt, &json!({}));
    assert_eq!(begun.text("/otp").len(), 58, "{begun}");
    let wrong = json!({"key": server.shares[0], "nonce": "other"});
    let refused = anyone.post("sys/generate-root/update", &wrong);
    assert!(
        refused.text("/errors/0").contains(&begun.text("/nonce")),
        "{refused}"
    );
    daypass(&server, "operator generate-root cancel", "");
    assert_eq!(anyone.get(attempt).body["started"], false);
    server.verify_audit();
}

/// A line of `bao` that must succeed, and what it says.
fn bao_text(server: &Server, line: &str) -> String {
    tools::succeed(
        tools::from_venv("bao")
            .args(line.split_whitespace())
            .env("BAO_ADDR", server.url())
            .env("BAO_CACERT", server.path("ca.pem"))
            .env("BAO_TOKEN", &server.root)
            .env("HOME", server.folder())
            .current_dir(server.folder()),
    )
}

/// The same in JSON; `-format=json` goes after the command's two words.
fn bao(server: &Server, line: &str) -> Value {
    let (words, rest) = line.split_at(
        line.match_indices(' ')
            .nth(1)
            .map_or(line.len(), |found| found.0),
    );
    let text = bao_text(server, &format!("{words} -format=json {rest}"));
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

#[test]
fn bao_operates_the_server() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let mut server = Server::start("");
    let begun = bao(&server, "operator generate-root -init");
    let (nonce, otp) = (
        begun["nonce"].as_str().unwrap(),
        begun["otp"].as_str().unwrap(),
    );
    let status = bao(&server, "operator generate-root -status");
    assert_eq!(status["nonce"], nonce);
    let share = |number: usize| server.shares[number].clone();
    bao(
        &server,
        &format!("operator generate-root -nonce={nonce} {}", share(0)),
    );
    let done = bao(
        &server,
        &format!("operator generate-root -nonce={nonce} {}", share(1)),
    );
    let encoded = done["encoded_token"].as_str().unwrap();
    let token = bao(
        &server,
        &format!("operator generate-root -decode={encoded} -otp={otp}"),
    );
    let token = token["token"]
        .as_str()
        .unwrap_or_else(|| token.as_str().unwrap());
    assert_eq!(
        server.client(token).get("auth/token/lookup-self").status,
        200
    );
    bao(&server, "operator generate-root -init");
    bao(&server, "operator generate-root -cancel");

    for form in ["rotate-keys", "rekey"] {
        let begun = bao(
            &server,
            &format!("operator {form} -init -key-shares=3 -key-threshold=2 -verify"),
        );
        let nonce = begun["nonce"].as_str().unwrap();
        let share = |number: usize| server.shares[number].clone();
        bao(
            &server,
            &format!("operator {form} -nonce={nonce} {}", share(0)),
        );
        let made = bao(
            &server,
            &format!("operator {form} -nonce={nonce} {}", share(2)),
        );
        let new = shares_of(&made);
        let nonce = made["verification_nonce"].as_str().unwrap();
        bao(
            &server,
            &format!("operator {form} -verify -nonce={nonce} {}", new[1]),
        );
        bao(
            &server,
            &format!("operator {form} -verify -nonce={nonce} {}", new[2]),
        );
        server.shares = new;
        server.kill();
        server.start_again();
    }
    bao(
        &server,
        "operator rotate-keys -init -key-shares=3 -key-threshold=2",
    );
    bao(&server, "operator rotate-keys -cancel");
    bao(&server, "operator rotate");
    let status = bao(&server, "operator key-status");
    assert!(status.to_string().contains('2'), "{status}");
    bao_text(&server, "operator step-down");
    let members = bao(&server, "operator members");
    assert_eq!(members["Nodes"][0]["active_node"], json!(true), "{members}");
    let plugins = bao(&server, "plugin list");
    assert!(plugins.to_string().contains("kv"), "{plugins}");
    bao(&server, "plugin info secret kv");
    let version = bao_text(&server, "version-history");
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}

#[test]
fn hvac_operates_the_server() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let server = Server::start("");
    let said = tools::succeed(
        tools::from_venv("python")
            .arg(tools::root("integration/hvac_operator.py"))
            .current_dir(server.folder())
            .env("ADDRESS", server.url())
            .env("CA", server.path("ca.pem"))
            .env("TOKEN", &server.root)
            .env("KEYS", server.shares.join(",")),
    );
    eprintln!("{said}");
}

#[test]
fn the_server_describes_itself() {
    let server = Server::start("");
    let root = server.root();
    let host = root.get("sys/host-info");
    assert!(
        host.body["data"]["cpu"]
            .as_array()
            .is_some_and(|cpus| !cpus.is_empty()),
        "{host}"
    );
    assert!(
        host.body["data"]["memory"]["total"]
            .as_u64()
            .is_some_and(|total| total > 1 << 20)
    );
    assert!(!host.text("/data/host/kernelVersion").is_empty());
    let flying = root.get("sys/in-flight-req");
    let requests: Vec<&Value> = flying.body.as_object().unwrap().values().collect();
    assert_eq!(requests.len(), 1, "{flying}");
    assert_eq!(requests[0]["request_path"], "/v1/sys/in-flight-req");
    let versions = root.get("sys/version-history?list=true");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        versions.body["data"]["keys"],
        json!([version]),
        "{versions}"
    );
    assert_eq!(
        versions.body["data"]["key_info"][version]["previous_version"],
        Value::Null
    );
    let shown = root.get("sys/config/state/sanitized");
    assert_eq!(shown.body["data"]["seals"][0]["type"], "shamir", "{shown}");
    let plugin = root.post(
        "sys/plugins/catalog/secret/other",
        &json!({"command": "x", "sha256": "00"}),
    );
    assert_eq!(plugin.status, 501, "{plugin}");

    let levels = root.get("sys/loggers");
    assert_eq!(levels.body["data"]["daypass"], "info", "{levels}");
    assert_eq!(
        root.post("sys/loggers", &json!({"level": "loud"})).status,
        400
    );
    assert_eq!(
        root.post("sys/loggers/daypass", &json!({"level": "debug"}))
            .status,
        204
    );
    wait_for("the log tells more", PATIENCE, || {
        assert_eq!(root.get("sys/seal-status").status, 200);
        server.log().contains("\"served\"").then_some(())
    });
    root.delete("sys/loggers");
    assert_eq!(
        root.get("sys/loggers/daypass").body["data"]["daypass"],
        "info"
    );

    let config = "sys/rotate/config";
    assert_eq!(root.get(config).body["data"]["interval"], 0);
    assert_eq!(root.post(config, &json!({"interval": "1h"})).status, 400);
    assert_eq!(
        root.post(
            config,
            &json!({"interval": "48h", "max_operations": 2_000_000})
        )
        .status,
        204
    );
    let read = root.get("sys/rotate/keyring/config");
    assert_eq!(read.text("/data/interval"), "48h0m0s");
    assert_eq!(root.post("sys/rotate/root", &json!({})).status, 501);
    let init = json!({"secret_shares": 1, "secret_threshold": 1, "recovery_shares": 1});
    assert_eq!(server.anyone().post("sys/init", &init).status, 400);
}

const DECLARED: &str = r#"
[log]
level = "info"

[[policies]]
name = "reader"
rules = 'path "secret/*" { capabilities = ["read"] }'

[[mounts]]
path = "secret"
type = "kv"
"#;

/// Replaces what follows the common part of the configuration.
fn declare(server: &Server, before: &str, after: &str) {
    let file = server.path("daypass.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(before));
    fs::write(file, text.replace(before, after)).unwrap();
}

#[test]
fn a_reload_applies_the_configuration_whole_or_not_at_all() {
    let server = Server::start(DECLARED);
    let root = server.root();
    let reader = server.client_of(&["reader"]);
    let reload = "sys/config/reload/config";
    assert_eq!(
        root.post(reload, &json!({})).body["data"]["changed"],
        json!([])
    );
    assert_eq!(reader.get("sys/mounts").status, 403);

    let more = r#"
[log]
level = "debug"

[limits]
max_body_bytes = 1000000

[[policies]]
name = "reader"
rules = 'path "sys/mounts" { capabilities = ["read"] }'

[[policies]]
name = "writer"
rules = 'path "secret/*" { capabilities = ["update"] }'

[[mounts]]
path = "secret"
type = "kv"
description = "kept"

[[mounts]]
path = "more"
type = "pki"
[mounts.set."roles/web"]
allowed_domains = "example.org"

[[quotas]]
name = "slow"
path = "sys/host-info"
rate_per_second = 0.01
burst = 1
"#;
    declare(&server, DECLARED, more);
    server.signal(Signal::HUP);
    wait_for("the configuration is reloaded", PATIENCE, || {
        server
            .log()
            .contains("the configuration is reloaded")
            .then_some(())
    });
    assert_eq!(reader.get("sys/mounts").status, 200);
    assert_eq!(root.get("sys/loggers").body["data"]["daypass"], "debug");
    assert_eq!(root.get("more/roles/web").status, 200);
    assert_eq!(root.get("sys/host-info").status, 200);
    assert_eq!(root.get("sys/host-info").status, 429);
    let mounts = root.get("sys/mounts");
    assert_eq!(
        mounts.body["data"]["secret/"]["description"], "kept",
        "{mounts}"
    );
    assert_eq!(
        root.post(
            "sys/policies/acl/writer",
            &json!({"policy": "path \"a\" {}"})
        )
        .status,
        400
    );
    let again = root.post(reload, &json!({}));
    assert_eq!(again.body["data"]["changed"], json!([]), "{again}");
    assert_eq!(again.body["data"]["needs_restart"], json!(["limits"]));
    assert!(again.text("/warnings/0").contains("next start"));

    // One thing that cannot be, and nothing is different: a mistake in the file, and a role that is refused
    // after a policy and two mounts were taken.
    let mistake = more
        .replace("level = \"debug\"", "level = \"loud\"")
        .replace("name = \"slow\"", "name = \"fast\"");
    declare(&server, more, &mistake);
    let refused = root.post(reload, &json!({}));
    assert_eq!(refused.status, 400);
    assert!(refused.text("/errors/0").contains("log.level"), "{refused}");
    let refused_role = more
        .replace("\"update\"", "\"delete\"")
        .replace("kept", "other")
        .replace(
            "allowed_domains = \"example.org\"",
            "key_type = \"ec\"\nallowed_domains = \"example.com\"",
        )
        + "\n[[mounts]]\npath = \"third\"\ntype = \"pki\"\n[mounts.set.\"roles/bad\"]\nkey_type = \"none-such\"\n";
    declare(&server, &mistake, &refused_role);
    let refused = root.post(reload, &json!({}));
    assert_eq!(refused.status, 400, "{refused}");
    assert!(refused.text("/errors/0").contains("roles/bad"), "{refused}");
    let mounts = root.get("sys/mounts");
    assert_eq!(
        mounts.body["data"]["secret/"]["description"], "kept",
        "{mounts}"
    );
    assert!(mounts.body["data"].get("third/").is_none(), "{mounts}");
    assert!(
        root.get("sys/policies/acl/writer")
            .text("/data/policy")
            .contains("update")
    );
    let written = root.get("secret/none");
    assert_eq!(written.status, 404);

    // What is no longer declared stays, and is the API's.
    declare(&server, &refused_role, "");
    assert_eq!(root.post(reload, &json!({})).status, 200);
    let role = root.get("more/roles/web");
    assert_eq!(
        role.body["data"]["allowed_domains"],
        json!(["example.org"]),
        "{role}"
    );
    assert_eq!(
        root.post(
            "sys/policies/acl/writer",
            &json!({"policy": "path \"a\" {}"})
        )
        .status,
        204
    );
    server.verify_audit();
}

#[test]
fn a_reload_serves_other_certificates_at_once() {
    let server = Server::start("");
    fs::create_dir(server.path("other")).unwrap();
    server.authority.issue_into(&server.path("other"));
    declare(
        &server,
        "cert_file = \"server.pem\"\nkey_file = \"server.key\"",
        "cert_file = \"other/server.pem\"\nkey_file = \"other/server.key\"",
    );
    let done = server.root().post("sys/config/reload/config", &json!({}));
    assert_eq!(
        done.body["data"]["changed"],
        json!(["listeners.tls"]),
        "{done}"
    );
    let shown = tools::succeed(Command::new("sh").arg("-c").arg(format!(
        "openssl s_client -connect {} </dev/null 2>/dev/null | openssl x509 -noout -serial",
        server.address()
    )));
    let wanted = tools::succeed(
        Command::new("openssl")
            .args(["x509", "-noout", "-serial", "-in"])
            .arg(server.path("other/server.pem")),
    );
    assert_eq!(shown, wanted);
}
