//! Machines and workloads logging in with certificates, over real mutual TLS: Daypass's own `pki` issues, hvac,
//! the `bao` CLI and plain HTTP log in.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::http::{Answer, Client};
use crate::server::Server;
use crate::tls::private;
use crate::{PATIENCE, tools, wait_for};

const WEB: &str = "spiffe://prod.example.org/ns/a/sa/web";

/// A certificate with its key, as `pki` issued it.
struct Issued {
    chain: String,
    key: String,
    serial: String,
}

impl Issued {
    fn client(&self, server: &Server) -> Client {
        let pem = format!("{}\n{}\n", self.chain, self.key);
        Client::showing(&server.url(), server.authority.pem(), &pem)
    }

    /// What a login with it answers.
    fn login(&self, server: &Server, body: &Value) -> Answer {
        self.client(server)
            .call("POST", "auth/cert/login", Some(body))
    }

    fn write_to(&self, server: &Server, name: &str) {
        fs::write(server.path(&format!("{name}.pem")), &self.chain).unwrap();
        private(&server.path(&format!("{name}.key")), &self.key);
    }
}

/// A CA at `path` with roles for machines and for workloads; its certificate.
fn authority(root: &Client, path: &str) -> String {
    root.write(&format!("sys/mounts/{path}"), &json!({"type": "pki"}));
    let ca = json!({"common_name": format!("{path} CA"), "key_type": "ec", "ttl": "24h"});
    let made = root.write(&format!("{path}/root/generate/internal"), &ca);
    let machines = json!({"allowed_domains": "example.org", "allow_subdomains": true,
        "key_type": "ec", "ttl": "1h"});
    root.write(&format!("{path}/roles/machine"), &machines);
    let workloads = json!({"trust_domain": "prod.example.org", "allowed_spiffe_paths": "/**",
        "key_type": "ec", "ttl": "1h"});
    root.write(&format!("{path}/roles/workload"), &workloads);
    made.text("/data/certificate")
}

fn issue(root: &Client, path: &str, body: &Value) -> Issued {
    let made = root.write(path, body);
    Issued {
        chain: made.text("/data/certificate"),
        key: made.text("/data/private_key"),
        serial: made.text("/data/serial_number"),
    }
}

fn machine(root: &Client, pki: &str, name: &str) -> Issued {
    let body = json!({"common_name": name});
    issue(root, &format!("{pki}/issue/machine"), &body)
}

fn workload(root: &Client, pki: &str, id: &str) -> Issued {
    let body = json!({"uri_sans": id});
    issue(root, &format!("{pki}/issue/workload"), &body)
}

fn refused(answer: &Answer, want: &str) {
    assert_eq!(answer.status, 400, "{answer}");
    assert!(answer.text("/errors/0").contains(want), "{answer}");
}

const UNTRUSTED: &str = "invalid certificate or no client certificate supplied";

#[test]
fn machines_and_workloads_log_in_with_what_pki_issued() {
    let server = Server::start("");
    let root = server.root();
    let ca = authority(&root, "pki");
    authority(&root, "other");
    root.write("sys/auth/cert", &json!({"type": "cert"}));
    let open = root.write("auth/cert/certs/web", &json!({"certificate": ca}));
    assert!(
        open.text("/warnings/0").contains("every certificate"),
        "{open}"
    );
    let role =
        json!({"allowed_common_names": "web.*", "token_policies": "web", "token_ttl": "10m"});
    root.write("auth/cert/certs/web", &role);
    let workloads = json!({"certificate": ca, "token_policies": "work",
        "allowed_uri_sans": "spiffe://prod.example.org/ns/*/sa/web"});
    root.write("auth/cert/certs/work", &workloads);

    let web = machine(&root, "pki", "web.example.org");
    let made = web.login(&server, &json!({}));
    assert_eq!(made.status, 200, "{made}");
    assert_eq!(made.body["auth"]["lease_duration"], 600, "{made}");
    assert_eq!(made.body["auth"]["policies"], json!(["default", "web"]));
    assert_eq!(made.text("/auth/metadata/common_name"), "web.example.org");
    let own = server.client(&made.text("/auth/client_token"));
    assert_eq!(
        own.read("auth/token/lookup-self")
            .text("/data/display_name"),
        "cert-web"
    );
    own.write("auth/token/renew-self", &json!({}));

    let svid = workload(&root, "pki", WEB).login(&server, &json!({"name": "work"}));
    assert_eq!(svid.status, 200, "{svid}");
    assert_eq!(svid.text("/auth/metadata/spiffe_id"), WEB);
    assert_eq!(svid.body["auth"]["policies"], json!(["default", "work"]));

    // What does not log in.
    let none = server
        .anyone()
        .call("POST", "auth/cert/login", Some(&json!({})));
    refused(&none, "no client certificate found");
    let db = machine(&root, "pki", "db.example.org");
    let constraints = "no chain matching all constraints";
    refused(&db.login(&server, &json!({})), constraints);
    refused(&web.login(&server, &json!({"name": "work"})), constraints);
    refused(&web.login(&server, &json!({"name": "nobody"})), UNTRUSTED);
    for (id, want) in [
        ("spiffe://prod.example.org/ns/a/sa/db", constraints),
        ("spiffe://prod.example.org/ns/a/b/sa/web", constraints),
    ] {
        refused(&workload(&root, "pki", id).login(&server, &json!({})), want);
    }
    let foreign = machine(&root, "other", "web.example.org");
    refused(&foreign.login(&server, &json!({})), UNTRUSTED);
    refused(
        &workload(&root, "other", WEB).login(&server, &json!({})),
        UNTRUSTED,
    );
    // A certificate shown opens nothing by itself.
    let denied = web
        .client(&server)
        .call("GET", "auth/token/lookup-self", None);
    assert_eq!(denied.status, 403, "{denied}");

    // One that ends.
    let body = json!({"common_name": "web.example.org", "ttl": "1s"});
    let short = issue(&root, "pki/issue/machine", &body);
    wait_for("the certificate ends", PATIENCE, || {
        let answer = short.login(&server, &json!({}));
        (answer.status == 400).then(|| refused(&answer, "has ended"))
    });

    // Revoked, and the list uploaded: neither a login nor a renewal.
    root.write("pki/revoke", &json!({"serial_number": web.serial}));
    let list = root.read("pki/cert/crl").text("/data/certificate");
    root.write("auth/cert/crls/pki", &json!({"crl": list}));
    let revoked = "is revoked";
    refused(&web.login(&server, &json!({})), revoked);
    refused(
        &own.call("POST", "auth/token/renew-self", Some(&json!({}))),
        revoked,
    );
    let again = machine(&root, "pki", "web.example.org");
    assert_eq!(again.login(&server, &json!({})).status, 200);
    server.verify_audit();
}

#[test]
fn who_has_only_the_certificate_does_not_get_in() {
    let server = Server::start("");
    let root = server.root();
    let ca = authority(&root, "pki");
    root.write("sys/auth/cert", &json!({"type": "cert"}));
    root.write("auth/cert/certs/web", &json!({"certificate": ca}));
    let web = machine(&root, "pki", "web.example.org");
    let thief = machine(&root, "pki", "thief.example.org");
    assert_eq!(web.login(&server, &json!({})).status, 200);
    assert!(
        said(&server, &web, &web.key)
            .unwrap()
            .contains("client_token")
    );
    let refused = said(&server, &web, &thief.key);
    assert!(refused.is_err(), "{refused:?}");
    // Nor does it count where it stands in the request.
    let body = json!({"certificate": web.chain, "name": "web"});
    let answer = server.anyone().call("POST", "auth/cert/login", Some(&body));
    assert_eq!(answer.status, 400, "{answer}");
    let request = server.anyone();
    let answer = request.call("POST", "auth/cert/login", Some(&json!({"name": "web"})));
    assert!(
        answer
            .text("/errors/0")
            .contains("no client certificate found")
    );
}

/// What a login answers to one who shows `issued` and signs with `key`.
fn said(server: &Server, issued: &Issued, key: &str) -> std::io::Result<String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(server.authority.pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let shown = CertifiedKey::new(chain.collect::<Result<_, _>>().unwrap(), key);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(
        b"POST /v1/auth/cert/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\
          Connection: close\r\n\r\n{}",
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn hvac_and_bao_log_in_by_certificate() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let server = Server::start("");
    let root = server.root();
    let ca = authority(&root, "pki");
    authority(&root, "other");
    machine(&root, "pki", "web.example.org").write_to(&server, "web");
    machine(&root, "other", "web.example.org").write_to(&server, "foreign");
    fs::write(server.path("clients-ca.pem"), ca).unwrap();
    tools::succeed(
        tools::from_venv("python")
            .arg(tools::root("integration/hvac_cert.py"))
            .current_dir(server.folder())
            .env("ADDRESS", server.url())
            .env("CA", server.path("ca.pem"))
            .env("TOKEN", &server.root),
    );
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
    let as_root = |words: &[&str]| tools::succeed(&mut bao(&server.root, words));
    as_root(&["auth", "enable", "-path=machines", "cert"]);
    as_root(&[
        "write",
        "auth/machines/certs/web",
        "certificate=@clients-ca.pem",
        "allowed_common_names=web.*",
        "token_policies=web",
    ]);
    let login = |name: &str| {
        let files = [
            format!("-client-cert={name}.pem"),
            format!("-client-key={name}.key"),
        ];
        let words = [
            "login",
            "-method=cert",
            "-path=machines",
            &files[0],
            &files[1],
            "name=web",
        ];
        tools::run(&mut bao("", &words))
    };
    let done = login("web");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let own = tools::succeed(&mut bao("", &["token", "lookup"]));
    assert!(own.contains("machines-web"), "{own}");
    let said = login("foreign");
    assert!(!said.status.success());
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains(UNTRUSTED), "{said}");
    server.verify_audit();
}
