//! Long sessions with the clients people have, each at a server that is fresh: not even initialized.
//!
//! A session is a script beside this file, so that it can be run by hand at any server. The same scripts hold at
//! OpenBao itself: with `DAYPASS_IT_PEER` set they are run at it, too, so that what they demand of Daypass is what
//! its peer does and not what we believe it does. Where the two differ on purpose, the script says so.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use daypass_conformance::Postgres;

use crate::server::Server;
use crate::tools::{self, Killed};
use crate::{PATIENCE, database, wait_for};

fn python(script: &str) -> Command {
    let mut command = tools::from_venv("python");
    command
        .arg(tools::root("integration").join(script))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    command
        .arg(tools::root("integration").join(script))
        .env("NODE_PATH", tools::node_modules());
    command
}

/// What a session is told: the server, and a PostgreSQL server of the test's own.
fn tell(session: &mut Command, kind: &str, url: &str, folder: &Path, postgres: &Postgres) {
    session
        .current_dir(folder)
        .env("SERVER", kind)
        .env("ADDRESS", url)
        .env("BAO", tools::from_venv("bao").get_program())
        .env("HOME", folder)
        // Where the configuration lets audit devices write.
        .env("DEVICES", folder.join("data/audit-devices"))
        .env("PGPORT", postgres.port().to_string())
        .env("PGUSER", Postgres::USER)
        .env("PGPASSWORD", Postgres::PASSWORD);
}

/// Runs a session at a fresh Daypass, whose audit log must be whole afterwards; and at OpenBao, if asked to.
fn run(session: impl Fn() -> Command) {
    if tools::skipped(&["postgresql", "clients"]) {
        return;
    }
    let mut server = Server::prepare("");
    server.launch();
    let postgres = database::postgres();
    let mut command = session();
    let url = server.url();
    tell(&mut command, "daypass", &url, server.folder(), &postgres);
    let authority = server.path("ca.pem");
    command
        .env("CA", &authority)
        .env("NODE_EXTRA_CA_CERTS", &authority);
    eprintln!("{}", tools::succeed(&mut command));
    server.verify_audit();
    if std::env::var_os("DAYPASS_IT_PEER").is_some() {
        at_peer(session());
    }
}

/// Runs a session at OpenBao, in the clear.
fn at_peer(mut session: Command) {
    let folder = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let config = format!(
        "storage \"inmem\" {{}}\napi_addr = \"http://{address}\"\n\
         unsafe_allow_api_audit_creation = true\n\
         listener \"tcp\" {{\n  address = \"{address}\"\n  tls_disable = true\n}}\n"
    );
    fs::write(folder.path().join("openbao.hcl"), config).unwrap();
    let _peer = Killed(
        tools::from_venv("bao")
            .args(["server", "-config=openbao.hcl"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    wait_for("OpenBao listens", PATIENCE, || {
        TcpStream::connect(address).ok()
    });
    let postgres = database::postgres();
    let url = format!("http://{address}");
    tell(&mut session, "openbao", &url, folder.path(), &postgres);
    eprintln!("{}", tools::succeed(session.env("CA", "")));
}

#[test]
fn bao_goes_from_init_to_seal() {
    run(|| python("bao_session.py"));
}

#[test]
fn agents_and_proxies_serve_machines() {
    run(|| python("agent_session.py"));
}

#[test]
fn hvac_goes_from_init_to_seal() {
    run(|| python("hvac_session.py"));
}

#[test]
fn node_vault_goes_from_init_to_seal() {
    run(|| node("node_session.js"));
}
