//! Programs encrypting and signing with keys they never see: hvac and the `bao` CLI.

use crate::server::Server;
use crate::tools;

#[test]
fn hvac_encrypts_and_signs() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let server = Server::start("");
    tools::succeed(
        tools::from_venv("python")
            .arg(tools::root("integration/hvac_transit.py"))
            .current_dir(server.folder())
            .env("ADDRESS", server.url())
            .env("CA", server.path("ca.pem"))
            .env("TOKEN", &server.root),
    );
    server.verify_audit();
}

#[test]
fn bao_encrypts_and_signs() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let server = Server::start("");
    let bao = |line: &str| {
        tools::succeed(
            tools::from_venv("bao")
                .args(line.split_whitespace())
                .env("BAO_ADDR", server.url())
                .env("BAO_CACERT", server.path("ca.pem"))
                .env("BAO_TOKEN", &server.root)
                .env("HOME", server.folder()),
        )
    };
    bao("secrets enable transit");
    bao("write -f transit/keys/app");
    let sealed = bao("write -field=ciphertext transit/encrypt/app plaintext=aGVsbG8=");
    assert!(sealed.starts_with("vault:v1:"), "{sealed}");
    bao("write -f transit/keys/app/rotate");
    let opened = format!("write -field=plaintext transit/decrypt/app ciphertext={sealed}");
    assert_eq!(bao(&opened), "aGVsbG8=");
    bao("write transit/keys/sign type=ecdsa-p256 auto_rotate_period=24h");
    let signature = bao("write -field=signature transit/sign/sign input=aGVsbG8=");
    let verify =
        format!("write -field=valid transit/verify/sign input=aGVsbG8= signature={signature}");
    assert_eq!(bao(&verify), "true");
    bao("write transit/keys/app/config deletion_allowed=true min_decryption_version=2");
    bao("delete transit/keys/app");
}
