//! TLS, with a certificate authority of the test's own.

use daypass_conformance::{Postgres, PostgresOptions};
use serde_json::json;

use crate::Fixture;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_verified_as_sslmode_says() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("another"));
    let server = Postgres::start_with(&PostgresOptions {
        tls: Some(authority.sign("localhost")),
        settings: vec![("ssl_ca_file", "server.crt")],
        ..PostgresOptions::default()
    });
    let fixture = Fixture::on(server).await;
    let port = fixture.server.port();
    let ca = Some(&authority.pem);
    let other = Some(&stranger.pem);
    let cases = [
        // host, options, tls_ca, tls_server_name, what goes wrong
        ("localhost", "?sslmode=verify-full", ca, "", None),
        ("localhost", "", ca, "", None),
        (
            "127.0.0.1",
            "?sslmode=verify-full",
            ca,
            "",
            Some("not valid for name"),
        ),
        ("127.0.0.1", "", ca, "", Some("not valid for name")),
        ("127.0.0.1", "?sslmode=verify-full", ca, "localhost", None),
        ("127.0.0.1", "?sslmode=verify-ca", ca, "", None),
        ("127.0.0.1", "?sslmode=require", ca, "", None),
        ("127.0.0.1", "?sslmode=require", None, "", None),
        ("127.0.0.1", "?sslmode=prefer", None, "", None),
        (
            "localhost",
            "?sslmode=verify-full",
            other,
            "",
            Some("UnknownIssuer"),
        ),
        (
            "localhost",
            "?sslmode=verify-ca",
            other,
            "",
            Some("UnknownIssuer"),
        ),
        (
            "localhost",
            "?sslmode=require",
            other,
            "",
            Some("UnknownIssuer"),
        ),
        (
            "localhost",
            "?sslmode=verify-full",
            None,
            "",
            Some("UnknownIssuer"),
        ),
    ];
    for (host, options, ca, name, want) in cases {
        let case = format!("{host}{options} {} {name}", ca.is_some());
        let body = json!({
            "connection_url": format!("postgresql://{host}:{port}/postgres{options}"),
            "tls_ca": ca.cloned().unwrap_or_default(), "tls_server_name": name,
        });
        let result = fixture.mounted.write("config/pg", body).await;
        match (result, want) {
            (Ok(_), None) => {
                fixture.issue().await.unwrap();
                let sql = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                           WHERE application_name = 'daypass'";
                assert_eq!(fixture.server.query(sql), "t", "{case}");
            }
            (Err(error), Some(want)) => {
                assert!(error.to_string().contains(want), "{case}: {error}");
            }
            (Ok(_), Some(want)) => panic!("{case}: should fail with {want}"),
            (Err(error), None) => panic!("{case}: {error}"),
        }
    }

    // A certificate of our own.
    let (chain, key) = authority.sign("daypass-client");
    let body = json!({
        "connection_url": format!("postgresql://localhost:{port}/postgres"),
        "tls_ca": authority.pem, "tls_certificate": chain, "private_key": key,
    });
    fixture.mounted.write("config/pg", body).await.unwrap();
    fixture.issue().await.unwrap();
    let sql = "SELECT DISTINCT client_dn FROM pg_stat_ssl WHERE client_dn IS NOT NULL";
    assert_eq!(fixture.server.query(sql), "/CN=daypass-client");
    let shown = fixture.mounted.read("config/pg").await.unwrap();
    assert!(
        !String::from_utf8(shown.bytes)
            .unwrap()
            .contains("PRIVATE KEY")
    );
}

/// A certificate authority of a test.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = common_name(name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: rcgen::Issuer::new(params, key),
            pem,
        }
    }

    /// A chain that ends in the authority, and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name = common_name(name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem() + &self.pem, key.serialize_pem())
    }
}

fn common_name(name: &str) -> rcgen::DistinguishedName {
    let mut names = rcgen::DistinguishedName::new();
    names.push(rcgen::DnType::CommonName, name);
    names
}
