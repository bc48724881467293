//! What the default profiles issue pleases a linter for private CAs (pkilint, RFC 5280): roots,
//! intermediates, servers of every key type, SVIDs and CRLs.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::http::Client;
use crate::server::Server;
use crate::tools;

/// A mount with a root and roles for what people issue.
fn authority(root: &Client) {
    let long = json!({"type": "pki", "config": {"max_lease_ttl": "87600h"}});
    root.write("sys/mounts/pki", &long);
    let ca = json!({"common_name": "Daypass test root", "key_type": "ec", "ttl": "43800h"});
    root.write("pki/root/generate/internal", &ca);
    for kind in ["ec", "ed25519", "rsa"] {
        let role = json!({
            "allowed_domains": "example.org",
            "allow_subdomains": true,
            "key_type": kind,
            "ttl": "1h",
        });
        root.write(&format!("pki/roles/{kind}"), &role);
    }
    let role = json!({
        "trust_domain": "example.org",
        "allowed_spiffe_paths": "/*",
        "key_type": "ec",
        "ttl": "1h",
    });
    root.write("pki/roles/svid", &role);
}

#[test]
fn what_is_issued_pleases_a_linter() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let server = Server::start("");
    let root = server.root();
    authority(&root);
    let mut certificates = vec![("root", root.read("pki/cert/ca").text("/data/certificate"))];
    for kind in ["ec", "ed25519", "rsa"] {
        let asked = json!({"common_name": "a.example.org", "ip_sans": ""});
        let issued = root.write(&format!("pki/issue/{kind}"), &asked);
        certificates.push((kind, issued.text("/data/certificate")));
    }
    let asked = json!({"uri_sans": "spiffe://example.org/web"});
    let svid = root.write("pki/issue/svid", &asked);
    certificates.push(("svid", svid.text("/data/certificate")));
    for (name, pem) in certificates {
        let file = server.path(&format!("{name}.pem"));
        fs::write(&file, pem).unwrap();
        let found = findings("lint_pkix_cert", &["lint"], &file);
        // The linter knows the schemes of web addresses and no other.
        let known: &[&str] = match name {
            "svid" => &["pkix.invalid_uri_syntax"],
            _ => &[],
        };
        assert_eq!(found, known, "{name}");
    }

    let serial = svid.text("/data/serial_number");
    root.write("pki/revoke", &json!({ "serial_number": serial }));
    let crl = root.read("pki/cert/crl").text("/data/certificate");
    let file = server.path("crl.pem");
    fs::write(&file, crl).unwrap();
    let found = findings("lint_crl", &["lint", "-t", "CRL", "-p", "PKIX"], &file);
    assert_eq!(found, [""; 0], "CRL");
}

/// The codes of what a linter finds wrong, warnings included.
fn findings(linter: &str, arguments: &[&str], file: &Path) -> Vec<String> {
    let output = tools::run(
        tools::from_venv(linter)
            .args(arguments)
            .args(["-s", "WARNING", "-f", "TEXT"])
            .arg(file),
    );
    let said = String::from_utf8(output.stdout).unwrap();
    let codes: Vec<String> = said
        .lines()
        .filter_map(|line| line.trim().split_once(" ("))
        .map(|(code, _)| code.to_owned())
        .collect();
    let clean = output.status.success();
    assert_eq!(clean, codes.is_empty(), "{linter} did not work: {said}");
    codes
}
