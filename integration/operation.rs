//! What an operator does: start, reload, stop; and what the program says when it cannot.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::process::Signal;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

use crate::server::Server;
use crate::{PATIENCE, tools, wait_for};

/// A TLS connection made by hand.
fn connect(server: &Server) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(server.authority.pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    stream.conn.complete_io(&mut stream.sock).unwrap();
    stream
}

/// The certificate a new connection is shown.
fn certificate(server: &Server) -> Vec<u8> {
    connect(server).conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn a_new_certificate_is_served_without_a_restart() {
    let server = Server::start("");
    let (old, process) = (certificate(&server), server.id());
    server.authority.issue_into(server.folder());
    wait_for("the new certificate is served", PATIENCE, || {
        (certificate(&server) != old).then_some(())
    });
    assert_eq!(server.id(), process);
    assert_eq!(server.anyone().read("sys/health").status, 200);

    // One that does not load changes nothing but the log.
    let now = certificate(&server);
    fs::write(server.path("server.pem"), "no certificate").unwrap();
    wait_for("the log tells", PATIENCE, || {
        server
            .log()
            .contains("certificate does not load")
            .then_some(())
    });
    assert_eq!(certificate(&server), now);
}

#[test]
fn stopping_lets_a_request_in_flight_finish() {
    let mut server = Server::start("");
    let root = server.root();
    root.write("sys/mounts/secret", &json!({"type": "kv"}));
    let body = json!({"value": "in flight"}).to_string();
    let mut stream = connect(&server);
    let (first, rest) = body.split_at(5);
    write!(
        stream,
        "POST /v1/secret/late HTTP/1.1\r\nHost: localhost\r\nX-Vault-Token: {}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{first}",
        server.root,
        body.len()
    )
    .unwrap();
    stream.flush().unwrap();
    // The server is at work on it as soon as it has answered another that came later.
    assert_eq!(server.anyone().read("sys/health").status, 200);
    server.signal(Signal::TERM);
    wait_for("no new connection is accepted", PATIENCE, || {
        TcpStream::connect(server.address()).is_err().then_some(())
    });
    stream.write_all(rest.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert!(server.wait().success());

    server.start_again();
    assert_eq!(
        server.root().read("secret/late").text("/data/value"),
        "in flight"
    );
    server.verify_audit();
}

#[test]
fn a_configuration_that_is_wrong_is_refused_with_its_places() {
    let server = Server::prepare("[limits]\nmax_bodybytes = 1\n");
    let output = tools::run(
        server
            .command(&["config", "check"])
            .arg(server.path("daypass.toml")),
    );
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    let line = fs::read_to_string(server.path("daypass.toml")).unwrap();
    let line = line
        .lines()
        .position(|line| line.contains("max_bodybytes"))
        .unwrap()
        + 1;
    for part in [
        format!("daypass.toml:{line}:"),
        "limits.max_bodybytes".into(),
        "did you mean \"max_body_bytes\"?".into(),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }

    let mut server = Server::prepare("[[mounts]]\npath = \"a\"\ntype = \"kw\"\n");
    let said = server.try_launch().unwrap_err();
    assert!(said.contains("kw") || said.contains("kv"), "{said}");
    let good = Server::prepare("");
    tools::succeed(
        good.command(&["config", "check"])
            .arg(good.path("daypass.toml")),
    );
}

#[test]
fn a_second_server_on_the_same_folder_is_refused() {
    let server = Server::start("");
    let output = tools::run(
        server
            .command(&["server", "--config"])
            .arg(server.path("daypass.toml")),
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("another process"), "{said}");
    assert_eq!(server.anyone().read("sys/health").status, 200);
}

#[test]
fn a_store_that_was_cut_is_refused() {
    let mut server = Server::start("");
    server
        .root()
        .write("sys/mounts/secret", &json!({"type": "kv"}));
    for number in 0..50 {
        let value = json!({"value": "x".repeat(1000)});
        server.root().write(&format!("secret/{number}"), &value);
    }
    assert!(server.stop().success());
    let file = fs::read_dir(server.path("data"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let length = fs::metadata(&file).unwrap().len();
    let whole = fs::read(&file).unwrap();
    let store = fs::OpenOptions::new().write(true).open(&file).unwrap();
    store.set_len(length / 2).unwrap();
    let said = server.try_launch().unwrap_err();
    assert!(said.contains("start the server"), "{said}");
    assert!(said.contains("data"), "names the store: {said}");

    // Nothing was made of the remains: with the rest back, everything is there.
    store.write_all_at(&whole, 0).unwrap();
    drop(store);
    server.start_again();
    assert_eq!(server.root().list("secret/").len(), 50);
}
