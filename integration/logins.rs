//! Programs and people logging in: hvac and the `bao` CLI, by secret id and by password.

use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::http::Client;
use crate::server::Server;
use crate::tools;

#[test]
fn hvac_logs_in_by_secret_id_and_by_password() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let server = Server::start("");
    tools::succeed(
        tools::from_venv("python")
            .arg(tools::root("integration/hvac_logins.py"))
            .current_dir(server.folder())
            .env("ADDRESS", server.url())
            .env("CA", server.path("ca.pem"))
            .env("TOKEN", &server.root),
    );
    server.verify_audit();
}

#[test]
fn bao_logs_in_by_secret_id_and_by_password() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let server = Server::start("");
    let bao = |token: &str, words: &[&str]| -> Command {
        let mut command = tools::from_venv("bao");
        command
            .args(words)
            .env("BAO_ADDR", server.url())
            .env("BAO_CACERT", server.path("ca.pem"))
            .env("HOME", server.folder())
            .current_dir(server.folder());
        if !token.is_empty() {
            command.env("BAO_TOKEN", token);
        }
        command
    };
    let root = |words: &[&str]| tools::succeed(&mut bao(&server.root, words));
    root(&["auth", "enable", "approle"]);
    root(&["auth", "enable", "userpass"]);
    root(&[
        "write",
        "auth/approle/role/web",
        "policies=default",
        "secret_id_ttl=1h",
        "token_ttl=10m",
    ]);
    let field = |field: &str, words: &[&str]| {
        let mut command = vec![words[0]];
        let field = format!("-field={field}");
        command.push(&field);
        command.extend(&words[1..]);
        root(&command)
    };
    let role_id = field("role_id", &["read", "auth/approle/role/web/role-id"]);
    let secret_id = field(
        "secret_id",
        &["write", "-f", "auth/approle/role/web/secret-id"],
    );
    let (role_id, secret_id) = (
        format!("role_id={role_id}"),
        format!("secret_id={secret_id}"),
    );
    let login = [
        "write",
        "-format=json",
        "auth/approle/login",
        &role_id,
        &secret_id,
    ];
    let made: Value = serde_json::from_str(&tools::succeed(&mut bao("", &login))).unwrap();
    assert_eq!(made["auth"]["lease_duration"], 600, "{made}");
    let token = made["auth"]["client_token"].as_str().unwrap();
    let looked_up = tools::succeed(&mut bao(token, &["token", "lookup"]));
    assert!(looked_up.contains("auth/approle/login"), "{looked_up}");
    root(&["write", "-f", "auth/approle/tidy/secret-id"]);
    root(&["delete", "auth/approle/role/web"]);
    let refused = tools::run(&mut bao("", &login));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("invalid role or secret ID"), "{said}");

    root(&["write", "auth/userpass/users/ann", "password=hunter2"]);
    let login = [
        "login",
        "-method=userpass",
        "username=ann",
        "password=hunter2",
    ];
    tools::succeed(&mut bao("", &login));
    // The CLI kept the token.
    let own = tools::succeed(&mut bao("", &["token", "lookup"]));
    assert!(own.contains("userpass-ann"), "{own}");
    // Disabling the method ends what it made.
    root(&["auth", "disable", "userpass"]);
    assert!(
        !tools::run(&mut bao("", &["token", "lookup"]))
            .status
            .success()
    );
    server.verify_audit();
}

#[test]
fn a_secret_id_for_three_uses_logs_in_three_times_and_survives_a_restart_as_such() {
    let mut server = Server::start("");
    let root = server.root();
    root.write("sys/auth/approle", &json!({"type": "approle"}));
    let role = "auth/approle/role/web";
    root.write(
        role,
        &json!({"secret_id_num_uses": 3, "token_type": "batch"}),
    );
    let role_id = root.read(&format!("{role}/role-id")).text("/data/role_id");
    let secret_id = root
        .write(&format!("{role}/secret-id"), &json!({}))
        .text("/data/secret_id");
    let body = json!({"role_id": role_id, "secret_id": secret_id});
    let anyone = server.anyone();
    let attempt = |client: &Client| client.call("POST", "auth/approle/login", Some(&body));
    assert_eq!(attempt(&anyone).status, 200);
    server.kill();
    server.start_again();
    let anyone = server.anyone();
    let mut statuses: Vec<u16> = thread::scope(|scope| {
        let attempts: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| attempt(&anyone).status))
            .collect();
        attempts
            .into_iter()
            .map(|attempt| attempt.join().unwrap())
            .collect()
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 400, 400, 400, 400, 400, 400]);
    server.verify_audit();
}
