//! Leaves: issued, signed from CSRs, signed verbatim.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_certs::San;
use daypass_contract::{Clock as _, Operation, Presence, Revocation};
use serde_json::{Value, json};

use super::bench::{
    Bench, EC, HOUR, certificate, csr, described, extensions, openssl, text, texts,
};

const RSA: &[&str] = &["-newkey", "rsa:2048"];

#[tokio::test]
async fn a_leaf_of_every_key_type_has_its_own_key() {
    let bench = Bench::with_root().await;
    let root = bench.read("cert/ca").await;
    let cases = [
        (
            json!({"key_type": "ec"}),
            "EC PRIVATE KEY",
            "Digital Signature, Key Agreement",
        ),
        (
            json!({"key_type": "ec", "key_bits": 384}),
            "EC PRIVATE KEY",
            "Digital Signature, Key Agreement",
        ),
        (
            json!({"key_type": "ed25519"}),
            "PRIVATE KEY",
            "Digital Signature",
        ),
        (
            json!({"key_type": "rsa"}),
            "RSA PRIVATE KEY",
            "Digital Signature, Key Encipherment",
        ),
    ];
    for (fields, label, usage) in cases {
        let role = super::bench::with(json!({"allow_any_name": true}), fields);
        bench.ok("roles/r", role).await;
        let request = json!({"common_name": "a.org", "alt_names": "b.org,c@d.org", "ip_sans": "10.0.0.1,::1"});
        let leaf = bench.ok("issue/r", request).await;
        let (pem, key) = (text(&leaf["certificate"]), text(&leaf["private_key"]));
        assert!(
            key.starts_with(&format!("-----BEGIN {label}-----")),
            "{label}"
        );
        let public = openssl(&["x509", "-noout", "-pubkey"], pem.as_bytes());
        assert_eq!(openssl(&["pkey", "-pubout"], key.as_bytes()), public);
        bench.verify(text(&root["certificate"]), pem, &[]).unwrap();
        let found = extensions(pem);
        assert_eq!(found["Key Usage"], format!("critical {usage}"));
        let names =
            "DNS:b.org, email:c@d.org, IP Address:10.0.0.1, IP Address:0:0:0:0:0:0:0:1, DNS:a.org";
        assert_eq!(found["Subject Alternative Name"], names);
        assert!(!found.contains_key("Basic Constraints"));
    }
}

#[tokio::test]
async fn an_answer_has_the_fields_of_openbao() {
    let bench = Bench::with_root().await;
    let leaf = bench.ok("issue/any", json!({"common_name": "a.org"})).await;
    let fields: Vec<&String> = leaf.data.as_object().unwrap().keys().collect();
    let want = [
        "ca_chain",
        "certificate",
        "expiration",
        "issuing_ca",
        "not_before",
        "private_key",
        "private_key_type",
        "serial_number",
    ];
    assert_eq!(fields, want);
    let read = certificate(&leaf["certificate"]);
    let unix = crate::validity::unix;
    assert_eq!(leaf["expiration"], unix(read.validity().not_after()));
    assert_eq!(leaf["not_before"], unix(read.validity().not_before()));
    assert_eq!(leaf["not_before"], unix(bench.host.clock.now()) - 30);
    assert_eq!(leaf["serial_number"], read.serial().to_string());
    assert_eq!(leaf["private_key_type"], "ec");
    let root = bench.read("cert/ca").await;
    assert_eq!(leaf["issuing_ca"], root["certificate"]);
    assert_eq!(texts(&leaf["ca_chain"]), [text(&root["certificate"])]);

    let signed = bench
        .ok("sign/any", json!({"csr": csr(EC, "/CN=a.org", &[])}))
        .await;
    assert_eq!(
        (&signed["private_key"], &signed["private_key_type"]),
        (&Value::Null, &Value::Null)
    );
}

#[tokio::test]
async fn answers_come_in_the_form_that_is_asked_for() {
    let bench = Bench::with_root().await;
    let ask = |format: &str, key_format: &str| json!({"common_name": "a.org", "format": format, "private_key_format": key_format});
    let der = bench.ok("issue/any", ask("der", "der")).await;
    for field in ["certificate", "issuing_ca", "private_key"] {
        assert!(
            text(&der[field]).starts_with("MI") || text(&der[field]).starts_with("MH"),
            "{field}"
        );
    }
    let pkcs8 = bench.ok("issue/any", ask("pem", "pkcs8")).await;
    assert!(text(&pkcs8["private_key"]).starts_with("-----BEGIN PRIVATE KEY-----"));
    let bundle = bench.ok("issue/any", ask("pem_bundle", "pkcs8")).await;
    let labels: Vec<&str> = text(&bundle["certificate"])
        .lines()
        .filter(|line| line.starts_with("-----BEGIN"))
        .collect();
    // As OpenBao has it: the key in the bundle keeps its older form.
    let want = [
        "-----BEGIN EC PRIVATE KEY-----",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----",
    ];
    assert_eq!(labels, want);
    let refusal = bench.refused("issue/any", ask("p12", "")).await;
    assert!(
        refusal.contains("\"format\"") && !refusal.contains("p12"),
        "{refusal}"
    );
}

#[tokio::test]
async fn names_are_checked_against_the_role() {
    let bench = Bench::with_root().await;
    let role = json!({"allowed_domains": "example.org", "allow_subdomains": true, "allow_localhost": false,
        "allowed_ip_sans_cidr": "10.0.0.0/8,2001:db8::/32", "allowed_uri_sans": "https://*.example.org/*",
        "allowed_serial_numbers": "host-*"});
    bench.role("r", role).await;
    let good = json!({"common_name": "a.example.org", "ip_sans": "10.1.2.3,2001:db8::1", "serial_number": "host-7",
        "uri_sans": "https://a.example.org/x"});
    let leaf = bench.ok("issue/r", good).await;
    assert!(described(text(&leaf["certificate"])).contains("serialNumber = host-7"));
    let name = "a.example.org";
    let cases = [
        (json!({}), "\"common_name\""),
        (json!({"common_name": "example.org"}), "\"common_name\""),
        (json!({"common_name": "localhost"}), "\"common_name\""),
        (
            json!({"common_name": name, "alt_names": "b.example.com"}),
            "\"alt_names\"",
        ),
        (
            json!({"common_name": name, "ip_sans": "11.0.0.1"}),
            "allowed_ip_sans_cidr",
        ),
        (
            json!({"common_name": name, "ip_sans": "2001:db9::1"}),
            "allowed_ip_sans_cidr",
        ),
        (
            json!({"common_name": name, "ip_sans": "ten"}),
            "\"ip_sans\"",
        ),
        (
            json!({"common_name": name, "uri_sans": "http://a.example.org/x"}),
            "allowed_uri_sans",
        ),
        (
            json!({"common_name": name, "uri_sans": "spiffe://a/b"}),
            "allowed_uri_sans",
        ),
        (
            json!({"common_name": name, "serial_number": "7"}),
            "allowed_serial_numbers",
        ),
        (
            json!({"common_name": name, "other_sans": "1.2.3;UTF8:x"}),
            "\"other_sans\"",
        ),
        (
            json!({"common_name": name, "issuer_ref": "default"}),
            "\"issuer_ref\"",
        ),
    ];
    for (fields, want) in cases {
        let refusal = bench.refused("issue/r", fields.clone()).await;
        assert!(refusal.contains(want), "{fields}: {refusal}");
    }
    let patch = json!({"allow_ip_sans": false, "require_cn": false});
    bench.mounted.patch("roles/r", patch).await.unwrap();
    bench
        .refused(
            "issue/r",
            json!({"common_name": name, "ip_sans": "10.1.2.3"}),
        )
        .await;
    let nameless = bench.ok("issue/r", json!({"alt_names": name})).await;
    assert_eq!(
        extensions(text(&nameless["certificate"]))["Subject Alternative Name"],
        "critical DNS:a.example.org"
    );
    let excluded = json!({"common_name": name, "exclude_cn_from_sans": true});
    let leaf = bench.ok("issue/r", excluded).await;
    assert_eq!(certificate(&leaf["certificate"]).sans(), []);
}

#[tokio::test]
async fn what_a_role_says_is_in_the_certificate() {
    let bench = Bench::with_root().await;
    let role = json!({"allow_any_name": true, "organization": "Example", "ou": "a,b", "country": "DE",
        "server_flag": false, "code_signing_flag": true, "ext_key_usage": "ClientAuth",
        "ext_key_usage_oids": "1.3.6.1.5.5.7.3.17", "key_usage": "DigitalSignature",
        "policy_identifiers": "1.3.6.1.4.1.99999.1", "basic_constraints_valid_for_non_ca": true,
        "not_before_duration": "5m"});
    bench.role("r", role).await;
    let leaf = bench.ok("issue/r", json!({"common_name": "a.org"})).await;
    let found = extensions(text(&leaf["certificate"]));
    assert_eq!(found["Key Usage"], "critical Digital Signature");
    assert_eq!(
        found["Extended Key Usage"],
        "TLS Web Client Authentication, Code Signing, ipsec Internet Key Exchange"
    );
    assert_eq!(found["Basic Constraints"], "critical CA:FALSE");
    assert_eq!(found["Certificate Policies"], "Policy: 1.3.6.1.4.1.99999.1");
    let described = described(text(&leaf["certificate"]));
    assert!(
        described.contains("Subject: C = DE, O = Example, OU = a, OU = b, CN = a.org"),
        "{described}"
    );
    assert_eq!(
        leaf["not_before"],
        crate::validity::unix(bench.host.clock.now()) - 300
    );
}

#[tokio::test]
async fn a_csr_is_signed_with_the_names_that_the_role_lets_it_choose() {
    let bench = Bench::with_root().await;
    bench
        .role(
            "r",
            json!({"allowed_domains": "example.org", "allow_subdomains": true}),
        )
        .await;
    let theirs = csr(
        EC,
        "/CN=a.example.org/O=Theirs",
        &["subjectAltName=DNS:b.example.org"],
    );
    let sans = |names: &[&str]| -> Vec<San> {
        names.iter().map(|name| San::Dns((*name).into())).collect()
    };
    let request =
        json!({"csr": theirs, "common_name": "c.example.org", "alt_names": "d.example.org"});
    let signed = bench.ok("sign/r", request.clone()).await;
    let read = certificate(&signed["certificate"]);
    assert_eq!(read.sans(), sans(&["b.example.org", "a.example.org"]));
    assert!(described(text(&signed["certificate"])).contains("Subject: CN = a.example.org\n"));

    let patch = json!({"use_csr_sans": false, "use_csr_common_name": false});
    bench.mounted.patch("roles/r", patch).await.unwrap();
    let signed = bench.ok("sign/r", request).await;
    let read = certificate(&signed["certificate"]);
    assert_eq!(read.sans(), sans(&["d.example.org", "c.example.org"]));
    assert_eq!(
        read.subject().common_name().as_deref(),
        Some("c.example.org")
    );

    bench
        .role(
            "r",
            json!({"allowed_domains": "example.org", "allow_subdomains": true}),
        )
        .await;
    let cases = [
        (csr(EC, "/CN=evil.com", &[]), "\"common_name\""),
        (
            csr(EC, "/CN=a.example.org", &["subjectAltName=DNS:evil.com"]),
            "\"alt_names\"",
        ),
        (
            csr(
                EC,
                "/CN=a.example.org",
                &["subjectAltName=otherName:1.2.3.4;UTF8:x"],
            ),
            "\"csr\"",
        ),
        (csr(RSA, "/CN=a.example.org", &[]), "key of type ec"),
        (String::new(), "\"csr\": is required"),
        ("nonsense".into(), "PKCS#10"),
    ];
    for (csr, want) in cases {
        let refusal = bench.refused("sign/r", json!({"csr": csr})).await;
        assert!(refusal.contains(want), "{want}: {refusal}");
    }
    let patch = json!({"key_type": "any"});
    bench.mounted.patch("roles/r", patch).await.unwrap();
    bench
        .ok("sign/r", json!({"csr": csr(RSA, "/CN=a.example.org", &[])}))
        .await;
    let refusal = bench
        .refused("issue/r", json!({"common_name": "a.example.org"}))
        .await;
    assert!(refusal.contains("sign endpoint"), "{refusal}");
}

#[tokio::test]
async fn a_csr_is_signed_verbatim_but_never_as_a_ca() {
    let bench = Bench::with_root().await;
    bench.role("short", json!({"max_ttl": "1h"})).await;
    let extensions_asked = [
        "subjectAltName=DNS:b.org,URI:https://b.org/",
        "extendedKeyUsage=codeSigning",
    ];
    let theirs = csr(EC, "/CN=a.org/O=Theirs", &extensions_asked);
    let request = json!({"csr": theirs, "ttl": "5h", "key_usage": "DigitalSignature"});
    for (path, hours) in [("sign-verbatim", 5), ("sign-verbatim/short", 1)] {
        let signed = bench.ok(path, request.clone()).await;
        let pem = text(&signed["certificate"]);
        assert!(described(pem).contains("Subject: CN = a.org, O = Theirs\n"));
        let found = extensions(pem);
        assert_eq!(
            found["Subject Alternative Name"],
            "DNS:b.org, URI:https://b.org/"
        );
        assert_eq!(found["Extended Key Usage"], "Code Signing");
        assert_eq!(found["Key Usage"], "critical Digital Signature");
        let end = certificate(&signed["certificate"]).validity().not_after();
        assert_eq!(end, bench.host.clock.now() + hours * HOUR, "{path}");
    }
    let ca = csr(EC, "/CN=ca", &["basicConstraints=critical,CA:TRUE"]);
    let signed = bench.ok("sign-verbatim", json!({"csr": ca})).await;
    assert!(!certificate(&signed["certificate"]).is_ca());
    let ca = csr(EC, "/CN=ca", &["keyUsage=critical,keyCertSign"]);
    let refusal = bench.refused("sign-verbatim", json!({"csr": ca})).await;
    assert!(refusal.contains("CertSign"), "{refusal}");
    let other = json!({"csr": theirs, "issuer_ref": "nobody"});
    let refusal = bench.refused("sign-verbatim", other).await;
    assert!(refusal.contains("\"issuer_ref\""), "{refusal}");
}

#[tokio::test]
async fn a_certificate_lasts_as_role_mount_and_request_agree() {
    let bench = Bench::with_root().await;
    let cases = [
        // role                                     asked                      hours  warned
        (json!({}), json!({}), 1, false),
        (json!({"ttl": 0, "max_ttl": "0"}), json!({}), 1, false),
        (json!({"ttl": "2h"}), json!({}), 2, false),
        (json!({"ttl": "2h"}), json!({"ttl": "3h"}), 3, false),
        (json!({"max_ttl": "2h"}), json!({"ttl": "3h"}), 2, true),
        (json!({"max_ttl": "2h"}), json!({"ttl": "0"}), 1, false),
        (json!({"max_ttl": "30m"}), json!({}), 0, true),
        (
            json!({"not_after": "2026-01-01T04:00:00Z"}),
            json!({}),
            4,
            false,
        ),
        (
            json!({"not_after": "2026-01-01T04:00:00Z"}),
            json!({"ttl": "3h"}),
            3,
            false,
        ),
        (
            json!({"not_after": "2026-01-01T04:00:00Z"}),
            json!({"ttl": "5h"}),
            4,
            true,
        ),
        (
            json!({"max_ttl": "6h"}),
            json!({"not_after": "2026-01-01T05:00:00Z"}),
            5,
            false,
        ),
        (
            json!({"max_ttl": "3h"}),
            json!({"not_after": "2026-01-01T05:00:00Z"}),
            3,
            true,
        ),
    ];
    for (role, asked, hours, warned) in cases {
        let fields = super::bench::with(json!({"allow_any_name": true}), role.clone());
        bench.role("r", fields).await;
        let request = super::bench::with(json!({"common_name": "a.org"}), asked.clone());
        let leaf = bench.ok("issue/r", request).await;
        let end = certificate(&leaf["certificate"]).validity().not_after();
        let lasts = end.duration_since(bench.host.clock.now()).unwrap();
        let want = if hours == 0 { HOUR / 2 } else { hours * HOUR };
        assert_eq!(lasts, want, "{role} {asked}");
        assert_eq!(
            !leaf.warnings.is_empty(),
            warned,
            "{role} {asked}: {:?}",
            leaf.warnings
        );
    }
    bench
        .role(
            "r",
            json!({"allow_any_name": true, "not_after": "2025-01-01T00:00:00Z"}),
        )
        .await;
    let refusal = bench
        .refused("issue/r", json!({"common_name": "a.org", "ttl": "1h"}))
        .await;
    assert!(refusal.contains("not_after"), "{refusal}");
}

#[tokio::test]
async fn nothing_is_answered_that_is_not_stored_and_no_key_is_stored() {
    let bench = Bench::with_root().await;
    let request = json!({"common_name": "a.org", "format": "der"});
    let leaf = bench.ok("issue/any", request.clone()).await;
    assert_eq!(bench.names("certs").await.len(), 2, "the root and the leaf");
    let shown = bench
        .read(&format!("cert/{}", text(&leaf["serial_number"])))
        .await;
    assert_eq!(
        certificate(&shown["certificate"]).serial().to_string(),
        text(&leaf["serial_number"])
    );
    let hyphens = text(&leaf["serial_number"]).replace(':', "-");
    assert_eq!(bench.read(&format!("cert/{hyphens}")).await, shown);

    let key = STANDARD.decode(text(&leaf["private_key"])).unwrap();
    // SEC 1: 7 octets of header, then the private scalar.
    let scalar = &key[7..39];
    assert!(!bench.host.store.holds(scalar));
    let encoded = STANDARD.encode(scalar);
    assert!(!bench.host.store.holds(&encoded.as_bytes()[..40]));

    bench.host.store.fail_after(0);
    bench.refused("issue/any", request.clone()).await;
    bench.role_unstored().await;
    let unstored = bench.ok("issue/unstored", request).await;
    assert!(
        bench
            .mounted
            .read(&format!("cert/{}", text(&unstored["serial_number"])))
            .await
            .is_err()
    );
}

impl Bench {
    /// A role that stores nothing, and a disk that would take nothing.
    async fn role_unstored(&self) {
        self.host.store.heal();
        self.role(
            "unstored",
            json!({"allow_any_name": true, "no_store": true}),
        )
        .await;
        self.host.store.fail_after(0);
    }
}

#[tokio::test]
async fn a_lease_ends_its_certificate() {
    let bench = Bench::with_root().await;
    bench
        .role(
            "r",
            json!({"allow_any_name": true, "generate_lease": true, "ttl": "2h"}),
        )
        .await;
    let request = json!({"common_name": "a.org"});
    let issue = || {
        bench
            .mounted
            .issue(Operation::Write, "issue/r", request.clone())
    };
    let (one, other) = (issue().await.unwrap(), issue().await.unwrap());
    assert!(!one.renewable);
    let read = certificate(&one.data["certificate"]);
    assert_eq!(read.validity().not_after(), one.terms.ends_at);
    assert_eq!(one.terms.ttl, 2 * HOUR);
    // The handle: which certificate, and nothing else.
    let handle: Value = serde_json::from_str(one.handle.as_json()).unwrap();
    assert_eq!(handle["serial"], one.data["serial_number"]);
    assert_eq!(handle.as_object().unwrap().len(), 2);

    let backend = &bench.mounted.backend;
    assert_eq!(
        backend.revoke(&one.handle).await.unwrap(),
        Revocation::Revoked
    );
    assert_eq!(
        backend.revoke(&one.handle).await.unwrap(),
        Revocation::AlreadyGone
    );
    assert_eq!(backend.verify(&one.handle).await.unwrap(), Presence::Absent);
    assert_eq!(
        bench.names("certs/revoked").await,
        [text(&one.data["serial_number"])]
    );

    // What ends by itself needs no entry in a CRL.
    assert_eq!(
        backend.verify(&other.handle).await.unwrap(),
        Presence::Present
    );
    bench.host.clock.advance(2 * HOUR + Duration::from_secs(1));
    assert_eq!(
        backend.revoke(&other.handle).await.unwrap(),
        Revocation::AlreadyGone
    );
    assert_eq!(bench.names("certs/revoked").await.len(), 1);
}

#[tokio::test]
async fn a_list_of_certificates_goes_on_where_it_stopped() {
    let bench = Bench::with_root().await;
    for _ in 0..4 {
        bench.ok("issue/any", json!({"common_name": "a.org"})).await;
    }
    let all = bench.names("certs").await;
    assert_eq!(all.len(), 5);
    let page = json!({"after": all[1], "limit": 2});
    let page = bench
        .mounted
        .request(Operation::List, "certs", page)
        .await
        .unwrap();
    assert_eq!(texts(&page["keys"]), all[2..4]);
}
