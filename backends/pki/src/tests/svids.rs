//! X.509-SVIDs: what they look like, and what a role for them refuses.

use daypass_certs::San;
use serde_json::json;

use super::bench::{Bench, EC, certificate, csr, described, extensions, text};

async fn bench() -> Bench {
    let bench = Bench::with_root().await;
    let role = json!({"trust_domain": "prod.example.org", "allowed_spiffe_paths": ["/ns/*/sa/web", "/ci/**"],
        "allowed_domains": "example.org", "allow_subdomains": true, "organization": "Example"});
    bench.role("svid", role).await;
    bench
}

#[tokio::test]
async fn an_svid_is_what_the_standard_says() {
    let bench = bench().await;
    let bare = json!({"trust_domain": "prod.example.org", "allowed_spiffe_paths": "/**"});
    bench.role("bare", bare).await;
    let id = "spiffe://prod.example.org/ns/blue/sa/web";
    let issued = bench.ok("issue/bare", json!({"uri_sans": id})).await;
    let pem = text(&issued["certificate"]);
    assert_eq!(
        certificate(&issued["certificate"]).sans(),
        [San::Uri(id.into())]
    );

    let found = extensions(pem);
    let want = [
        ("Key Usage", "critical Digital Signature, Key Agreement"),
        (
            "Extended Key Usage",
            "TLS Web Server Authentication, TLS Web Client Authentication",
        ),
        ("Subject Alternative Name", &format!("critical URI:{id}")),
    ];
    for (name, content) in want {
        assert_eq!(found[name], content, "{name}");
    }
    for name in ["Subject Key Identifier", "Authority Key Identifier"] {
        assert!(found.contains_key(name), "{name}");
    }
    assert!(!found.contains_key("Basic Constraints"));
    assert!(
        described(pem).contains("Subject: \n"),
        "no subject: {}",
        described(pem)
    );
    let root = bench.read("cert/ca").await;
    bench.verify(text(&root["certificate"]), pem, &[]).unwrap();
}

#[tokio::test]
async fn key_usage_is_what_the_key_can_do() {
    let bench = bench().await;
    let id = json!({"uri_sans": "spiffe://prod.example.org/ci/1"});
    let cases = [
        ("ec", "critical Digital Signature, Key Agreement"),
        ("ed25519", "critical Digital Signature"),
        ("rsa", "critical Digital Signature, Key Encipherment"),
    ];
    for (key_type, want) in cases {
        let patch = json!({"key_type": key_type, "key_bits": 0});
        bench.mounted.patch("roles/svid", patch).await.unwrap();
        let issued = bench.ok("issue/svid", id.clone()).await;
        assert_eq!(
            extensions(text(&issued["certificate"]))["Key Usage"],
            want,
            "{key_type}"
        );
    }
}

#[tokio::test]
async fn a_role_for_svids_refuses_everything_else() {
    let bench = bench().await;
    let good = "spiffe://prod.example.org/ci/1";
    bench
        .ok(
            "issue/svid",
            json!({"uri_sans": good, "alt_names": "a.example.org"}),
        )
        .await;
    let cases = [
        (json!({}), "exactly one SPIFFE ID"),
        (
            json!({"alt_names": "a.example.org"}),
            "exactly one SPIFFE ID",
        ),
        (
            json!({"uri_sans": [good, "spiffe://prod.example.org/ci/2"]}),
            "exactly one SPIFFE ID",
        ),
        (
            json!({"uri_sans": [good, "https://prod.example.org/ci/2"]}),
            "exactly one SPIFFE ID",
        ),
        (
            json!({"uri_sans": "https://prod.example.org/ci/1"}),
            "\"uri_sans\"",
        ),
        (
            json!({"uri_sans": "spiffe://dev.example.org/ci/1"}),
            "trust_domain",
        ),
        (
            json!({"uri_sans": "spiffe://prod.example.org.evil.org/ci/1"}),
            "trust_domain",
        ),
        (
            json!({"uri_sans": "spiffe://prod.example.org"}),
            "allowed_spiffe_paths",
        ),
        (
            json!({"uri_sans": "spiffe://prod.example.org/"}),
            "\"uri_sans\"",
        ),
        (
            json!({"uri_sans": "spiffe://prod.example.org/ci"}),
            "allowed_spiffe_paths",
        ),
        (
            json!({"uri_sans": "spiffe://prod.example.org/ci/../admin"}),
            "\"uri_sans\"",
        ),
        (
            json!({"uri_sans": "spiffe://prod.example.org/ci/%61"}),
            "\"uri_sans\"",
        ),
        (
            json!({"uri_sans": "spiffe://prod.example.org/ns/a/b/sa/web"}),
            "allowed_spiffe_paths",
        ),
        (
            json!({"uri_sans": good, "common_name": "a.example.org"}),
            "\"common_name\"",
        ),
        (
            json!({"uri_sans": good, "ip_sans": "10.0.0.1"}),
            "\"ip_sans\"",
        ),
        (
            json!({"uri_sans": good, "alt_names": "me@a.example.org"}),
            "\"alt_names\"",
        ),
        (
            json!({"uri_sans": good, "alt_names": "a.example.com"}),
            "\"alt_names\"",
        ),
    ];
    for (fields, want) in cases {
        let refusal = bench.refused("issue/svid", fields.clone()).await;
        assert!(refusal.contains(want), "{fields}: {refusal}");
    }
    let csr = csr(EC, "/CN=x", &[&format!("subjectAltName=URI:{good}")]);
    let refusal = bench
        .refused("sign-verbatim/svid", json!({"csr": csr}))
        .await;
    assert!(refusal.contains("X.509-SVIDs only"), "{refusal}");
}

#[tokio::test]
async fn a_csr_gives_the_id_but_no_common_name() {
    let bench = bench().await;
    let good = "subjectAltName=URI:spiffe://prod.example.org/ci/1";
    let signed = bench
        .ok(
            "sign/svid",
            json!({"csr": csr(EC, "/CN=admin/O=Evil", &[good])}),
        )
        .await;
    let certificate = certificate(&signed["certificate"]);
    assert_eq!(certificate.subject().common_name(), None);
    assert!(described(text(&signed["certificate"])).contains("Subject: O = Example\n"));
    assert_eq!(
        certificate.sans(),
        [San::Uri("spiffe://prod.example.org/ci/1".into())]
    );

    let cases = [
        "subjectAltName=URI:spiffe://prod.example.org/admin",
        "subjectAltName=URI:spiffe://dev.example.org/ci/1",
        "subjectAltName=URI:spiffe://prod.example.org/ci/1,URI:spiffe://prod.example.org/ci/2",
        "subjectAltName=URI:spiffe://prod.example.org/ci/1,IP:10.0.0.1",
        "subjectAltName=DNS:a.example.org",
    ];
    for extension in cases {
        let request = json!({"csr": csr(EC, "/", &[extension])});
        bench.refused("sign/svid", request).await;
    }
}
