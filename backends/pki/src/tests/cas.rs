//! CAs: generating, signing, importing, reading and deleting them.

use serde_json::{Value, json};

use super::bench::{
    Bench, EC, HOUR, YEAR, certificate, csr, described, extensions, openssl, text, texts, with,
};

#[tokio::test]
async fn a_root_of_every_key_type_verifies() {
    let cases = [
        (
            json!({"key_type": "ec"}),
            "ec",
            "EC PRIVATE KEY",
            "ecdsa-with-SHA256",
        ),
        (
            json!({"key_type": "ec", "key_bits": 384}),
            "ec",
            "EC PRIVATE KEY",
            "ecdsa-with-SHA384",
        ),
        (
            json!({"key_type": "ed25519"}),
            "ed25519",
            "PRIVATE KEY",
            "ED25519",
        ),
        (
            json!({}),
            "rsa",
            "RSA PRIVATE KEY",
            "sha256WithRSAEncryption",
        ),
    ];
    for (fields, key_type, label, signature) in cases {
        let bench = Bench::new().await;
        let request = with(
            json!({"common_name": "Root", "issuer_name": "r", "key_name": "k"}),
            fields,
        );
        let root = bench.ok("root/generate/exported", request.clone()).await;
        assert_eq!(root["private_key_type"], key_type);
        let key = text(&root["private_key"]);
        assert!(
            key.starts_with(&format!("-----BEGIN {label}-----")),
            "{key_type}"
        );
        let pem = text(&root["certificate"]);
        let public = openssl(&["x509", "-noout", "-pubkey"], pem.as_bytes());
        assert_eq!(openssl(&["pkey", "-pubout"], key.as_bytes()), public);

        bench.verify(pem, pem, &[]).unwrap();
        assert!(described(pem).contains(signature), "{signature}");
        let found = extensions(pem);
        assert_eq!(found["Key Usage"], "critical Certificate Sign, CRL Sign");
        assert_eq!(found["Basic Constraints"], "critical CA:TRUE");
        assert!(!found.contains_key("Subject Alternative Name"));

        let named = json!({"common_name": "Other", "issuer_name": "r2", "key_name": "k2", "key_type": "ec"});
        let internal = bench.ok("root/generate/internal", named).await;
        assert_eq!(internal["private_key"], Value::Null);
        // The first stays the default.
        assert_eq!(
            bench.read("config/issuers").await["default"],
            root["issuer_id"]
        );
        let refusal = bench.refused("root/generate/internal", request).await;
        assert!(refusal.contains("in use already"), "{refusal}");
        assert_eq!(bench.names("issuers").await.len(), 2);
    }
}

#[tokio::test]
async fn a_ca_that_cannot_be_as_asked_is_refused() {
    let bench = Bench::new().await;
    let cases = [
        (
            "root/generate/internal",
            json!({"common_name": ""}),
            "\"common_name\"",
        ),
        (
            "root/generate/internal",
            json!({"key_type": "rsa", "key_bits": 1024}),
            "2048",
        ),
        (
            "root/generate/internal",
            json!({"max_path_length": 256}),
            "\"max_path_length\"",
        ),
        (
            "root/generate/internal",
            json!({"excluded_dns_domains": "a.org"}),
            "\"excluded_dns_domains\"",
        ),
        (
            "root/generate/internal",
            json!({"use_pss": true}),
            "\"use_pss\"",
        ),
        (
            "root/generate/internal",
            json!({"ttl": "1h", "not_after": "2030-01-01T00:00:00Z"}),
            "\"not_after\"",
        ),
        (
            "root/generate/internal",
            json!({"not_after": "2020-01-01T00:00:00Z"}),
            "past",
        ),
        (
            "root/generate/internal",
            json!({"issuer_name": "default"}),
            "\"issuer_name\"",
        ),
        (
            "root/generate/internal",
            json!({"uri_sans": "no uri"}),
            "\"uri_sans\"",
        ),
        ("root/generate/kms", json!({}), "KMS"),
        (
            "root/generate/else",
            json!({}),
            "internal, exported or existing",
        ),
        (
            "root/generate/existing",
            json!({"key_ref": "nobody"}),
            "\"key_ref\"",
        ),
    ];
    for (path, fields, want) in cases {
        let base = json!({"common_name": "Root", "key_type": "ec"});
        let refusal = bench.refused(path, with(base, fields.clone())).await;
        assert!(refusal.contains(want), "{fields}: {refusal}");
    }
    assert_eq!(bench.names("issuers").await, [""; 0]);
    assert_eq!(bench.names("keys").await, [""; 0]);
}

#[tokio::test]
async fn a_root_lasts_no_longer_than_the_mount_allows() {
    let bench = Bench::new().await;
    let root = bench.root(json!({"ttl": "200000h"})).await;
    let validity = certificate(&root["certificate"]).validity();
    let start = validity.not_before();
    let lasts = validity.not_after().duration_since(start).unwrap();
    assert_eq!(lasts, 10 * YEAR + daypass_certs::BACKDATE);
    assert_eq!(root.warnings.len(), 1);
}

#[tokio::test]
async fn an_intermediate_is_requested_signed_and_set() {
    let above = Bench::new().await;
    let root = above.root(json!({"max_path_length": 1})).await;
    let root = text(&root["certificate"]);
    let below = Bench::new().await;
    let wanted = json!({"common_name": "Issuing", "key_type": "ec", "add_basic_constraints": true});
    let requested = below.ok("intermediate/generate/internal", wanted).await;
    assert_eq!(requested["private_key"], Value::Null);
    openssl(
        &["req", "-noout", "-verify"],
        text(&requested["csr"]).as_bytes(),
    );

    let request = json!({"csr": requested["csr"], "ttl": "1000h", "permitted_dns_domains": "example.org",
        "uri_sans": "spiffe://prod.example.org"});
    let signed = above.ok("root/sign-intermediate", request).await;
    assert_eq!(
        texts(&signed["ca_chain"]),
        [text(&signed["certificate"]), root]
    );
    let found = extensions(text(&signed["certificate"]));
    assert_eq!(found["Basic Constraints"], "critical CA:TRUE, pathlen:0");
    assert_eq!(
        found["Name Constraints"],
        "critical Permitted:DNS:example.org"
    );
    assert!(text(&signed["certificate"]).lines().count() > 5);

    let stranger = json!({"certificate": root});
    let refusal = below.refused("intermediate/set-signed", stranger).await;
    assert!(refusal.contains("no key of this mount"), "{refusal}");
    let chain = format!("{}\n{root}", text(&signed["certificate"]));
    let set = below
        .ok("intermediate/set-signed", json!({"certificate": chain}))
        .await;
    let issuers = texts(&set["imported_issuers"]);
    assert_eq!(issuers.len(), 2);
    assert_eq!(set["mapping"][&issuers[0]], requested["key_id"]);
    assert_eq!(set["mapping"][&issuers[1]], "");
    assert_eq!(below.read("config/issuers").await["default"], issuers[0]);

    below.role("any", json!({"allow_any_name": true})).await;
    let leaf = below
        .ok("issue/any", json!({"common_name": "a.example.org"}))
        .await;
    assert_eq!(
        texts(&leaf["ca_chain"]),
        [text(&signed["certificate"]), root]
    );
    let untrusted = [("-untrusted", text(&signed["certificate"]))];
    below
        .verify(root, text(&leaf["certificate"]), &untrusted)
        .unwrap();
    let outside = below
        .ok("issue/any", json!({"common_name": "a.example.com"}))
        .await;
    let verdict = below.verify(root, text(&outside["certificate"]), &untrusted);
    assert!(
        verdict.unwrap_err().contains("permitted subtree"),
        "name constraints hold"
    );

    let without = json!({"common_name": "a.example.org", "remove_roots_from_chain": true});
    let leaf = below.ok("issue/any", without).await;
    assert_eq!(texts(&leaf["ca_chain"]), [text(&signed["certificate"])]);

    // No CA may stand below a path length of 0.
    let third = json!({"csr": csr(EC, "/CN=third", &[])});
    let refusal = below.refused("root/sign-intermediate", third).await;
    assert!(refusal.contains("path length"), "{refusal}");
}

#[tokio::test]
async fn csr_values_are_taken_over_only_when_asked_for() {
    let bench = Bench::with_root().await;
    let csr = csr(EC, "/O=Theirs", &["subjectAltName=DNS:theirs.org"]);
    let taken = json!({"csr": csr, "use_csr_values": true});
    let signed = bench.ok("root/sign-intermediate", taken).await;
    assert!(described(text(&signed["certificate"])).contains("Subject: O = Theirs\n"));
    assert_eq!(
        extensions(text(&signed["certificate"]))["Subject Alternative Name"],
        "DNS:theirs.org"
    );
    let own = json!({"csr": csr, "common_name": "Ours"});
    let signed = bench.ok("root/sign-intermediate", own).await;
    assert!(described(text(&signed["certificate"])).contains("Subject: CN = Ours\n"));
    assert!(!extensions(text(&signed["certificate"])).contains_key("Subject Alternative Name"));
}

#[tokio::test]
async fn certificates_and_keys_are_imported_once_in_either_order() {
    let source = Bench::new().await;
    let exported = json!({"common_name": "Root", "key_type": "ec", "ttl": "8760h"});
    let root = source.ok("root/generate/exported", exported).await;
    let (pem, key) = (text(&root["certificate"]), text(&root["private_key"]));

    let bench = Bench::new().await;
    let refusal = bench
        .refused(
            "issuers/import/cert",
            json!({"pem_bundle": format!("{pem}\n{key}")}),
        )
        .await;
    assert!(
        refusal.contains("private key") && !refusal.contains(key),
        "{refusal}"
    );
    let first = bench
        .ok("issuers/import/cert", json!({"pem_bundle": pem}))
        .await;
    let issuer = texts(&first["imported_issuers"]).remove(0);
    assert_eq!(
        bench.read("config/issuers").await["default"],
        "",
        "it cannot sign"
    );
    let refusal = bench
        .refused("issue/none", json!({"common_name": "a"}))
        .await;
    assert!(refusal.contains("no role"), "{refusal}");

    let second = bench
        .ok("issuers/import/bundle", json!({"pem_bundle": key}))
        .await;
    assert_eq!(texts(&second["imported_keys"]).len(), 1);
    assert_eq!(bench.read("config/issuers").await["default"], issuer);
    bench.role("any", json!({"allow_any_name": true})).await;
    let leaf = bench.ok("issue/any", json!({"common_name": "a.org"})).await;
    bench.verify(pem, text(&leaf["certificate"]), &[]).unwrap();

    let again = bench
        .ok("config/ca", json!({"pem_bundle": format!("{key}\n{pem}")}))
        .await;
    assert_eq!(again["existing_issuers"], first["imported_issuers"]);
    assert_eq!(again["existing_keys"], second["imported_keys"]);
    assert_eq!(
        (
            texts(&again["imported_issuers"]),
            texts(&again["imported_keys"])
        ),
        (vec![], vec![])
    );

    let cases = [
        (text(&leaf["certificate"]), "not a CA's"),
        ("nonsense", "no certificate"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
            "X.509",
        ),
    ];
    for (bundle, want) in cases {
        let refusal = bench
            .refused("issuers/import/bundle", json!({"pem_bundle": bundle}))
            .await;
        assert!(refusal.contains(want), "{refusal}");
    }
}

#[tokio::test]
async fn an_issuer_is_read_renamed_and_deleted_and_its_key_after_it() {
    let bench = Bench::new().await;
    let root = bench
        .root(json!({"issuer_name": "old", "key_name": "key"}))
        .await;
    let id = text(&root["issuer_id"]);
    let issuer = bench.read("issuer/old").await;
    assert_eq!(issuer["issuer_id"], id);
    assert_eq!(issuer["leaf_not_after_behavior"], "err");
    assert_eq!(issuer["manual_chain"], Value::Null);
    bench
        .ok(
            "issuer/old",
            json!({"issuer_name": "new", "leaf_not_after_behavior": "truncate"}),
        )
        .await;
    assert!(bench.mounted.read("issuer/old").await.is_err());
    bench
        .mounted
        .patch("issuer/default", json!({"issuer_name": "newer"}))
        .await
        .unwrap();
    let issuer = bench.read("issuer/newer/json").await;
    assert_eq!(
        issuer["certificate"],
        format!("{}\n", text(&root["certificate"]))
    );
    assert_eq!(
        bench.read("issuer/newer").await["leaf_not_after_behavior"],
        "truncate"
    );
    bench
        .refused("issuer/newer", json!({"usage": "read-only"}))
        .await;

    let in_use = bench.mounted.delete("key/key").await.unwrap_err();
    assert!(
        in_use.to_string().contains("delete the issuer first"),
        "{in_use}"
    );
    let deleted = bench.mounted.delete("issuer/newer").await.unwrap();
    assert_eq!(deleted.warnings.len(), 1, "it was the default");
    assert!(
        bench
            .stored(&format!("keys/{}", text(&root["key_id"])))
            .await
            .is_some()
    );
    bench.mounted.delete("key/key").await.unwrap();
    assert!(
        bench
            .stored(&format!("keys/{}", text(&root["key_id"])))
            .await
            .is_none()
    );
    assert_eq!(bench.raw("ca").await, None);

    bench.root(json!({})).await;
    bench.root(json!({"common_name": "Second"})).await;
    bench.mounted.delete("root").await.unwrap();
    assert_eq!(
        (bench.names("issuers").await, bench.names("keys").await),
        (vec![], vec![])
    );
    let kept = bench.host.store.keys();
    assert!(
        !kept
            .iter()
            .any(|key| key.starts_with("keys/") || key.starts_with("crl")),
        "{kept:?}"
    );
}

#[tokio::test]
async fn the_default_can_be_set_and_can_follow() {
    let bench = Bench::new().await;
    bench.root(json!({"issuer_name": "a"})).await;
    let b = bench
        .root(json!({"common_name": "B", "issuer_name": "b"}))
        .await;
    bench
        .ok(
            "config/issuers",
            json!({"default": "b", "default_follows_latest_issuer": true}),
        )
        .await;
    assert_eq!(
        bench.read("config/issuers").await["default"],
        b["issuer_id"]
    );
    let c = bench.root(json!({"common_name": "C"})).await;
    assert_eq!(
        bench.read("config/issuers").await["default"],
        c["issuer_id"]
    );
    let refusal = bench
        .refused("config/issuers", json!({"default": "nobody"}))
        .await;
    assert!(refusal.contains("\"default\""), "{refusal}");
}

#[tokio::test]
async fn nothing_is_half_made_when_the_disk_fails() {
    let bench = Bench::new().await;
    bench.host.store.fail_after(0);
    let request = json!({"common_name": "Root", "key_type": "ec"});
    bench.refused("root/generate/internal", request).await;
    bench.host.store.heal();
    assert_eq!(bench.host.store.keys(), [""; 0]);

    bench.host.store.conflict(3);
    bench.root(json!({})).await;
    assert_eq!(
        bench.names("keys").await.len(),
        1,
        "a change that is decided again is made once"
    );
}

#[tokio::test]
async fn two_nodes_sign_by_the_same_state() {
    let one = Bench::with_root().await;
    let two = Bench::on(one.host.clone()).await;
    let url = json!({"crl_distribution_points": "http://crl.example.org/crl"});
    one.ok("config/urls", url).await;
    let leaf = two.ok("issue/any", json!({"common_name": "a.org"})).await;
    let points = &extensions(text(&leaf["certificate"]))["CRL Distribution Points"];
    assert!(points.contains("http://crl.example.org/crl"), "{points}");
    for key in ["issuer/default", "root"] {
        one.mounted.delete(key).await.unwrap();
    }
    let refusal = two
        .refused("issue/any", json!({"common_name": "a.org"}))
        .await;
    assert!(refusal.contains("no default issuer"), "{refusal}");
}

#[tokio::test]
async fn urls_are_checked() {
    let bench = Bench::new().await;
    for field in [
        "issuing_certificates",
        "crl_distribution_points",
        "ocsp_servers",
    ] {
        let refusal = bench
            .refused("config/urls", json!({field: "nonsense"}))
            .await;
        assert!(refusal.contains(field), "{refusal}");
    }
    bench
        .refused("config/urls", json!({"enable_templating": true}))
        .await;
    bench
        .ok(
            "config/urls",
            json!({"issuing_certificates": "http://a/ca,http://b/ca"}),
        )
        .await;
    let urls = bench
        .ok("config/urls", json!({"ocsp_servers": "http://a/ocsp"}))
        .await;
    assert_eq!(
        urls["issuing_certificates"],
        json!(["http://a/ca", "http://b/ca"])
    );
}

#[tokio::test]
async fn a_leaf_never_outlives_its_issuer() {
    let bench = Bench::new().await;
    let root = bench.root(json!({"ttl": "10h"})).await;
    let end = certificate(&root["certificate"]).validity().not_after();
    bench.role("any", json!({"allow_any_name": true})).await;
    bench
        .role(
            "leased",
            json!({"allow_any_name": true, "generate_lease": true}),
        )
        .await;
    let request = json!({"common_name": "a.org", "ttl": "11h"});
    for role in ["any", "leased"] {
        let refusal = bench
            .refused(&format!("issue/{role}"), request.clone())
            .await;
        assert!(refusal.contains("truncate"), "{refusal}");
    }
    bench
        .ok(
            "issuer/default",
            json!({"leaf_not_after_behavior": "truncate"}),
        )
        .await;
    let leaf = bench.ok("issue/any", request.clone()).await;
    assert_eq!(
        certificate(&leaf["certificate"]).validity().not_after(),
        end
    );
    let write = daypass_contract::Operation::Write;
    let leased = bench
        .mounted
        .issue(write, "issue/leased", request.clone())
        .await
        .unwrap();
    assert_eq!(
        certificate(&leased.data["certificate"])
            .validity()
            .not_after(),
        end
    );
    assert_eq!(
        leased.terms.ends_at, end,
        "the lease ends with the certificate"
    );

    bench.host.clock.advance(11 * HOUR);
    let refusal = bench.refused("issue/any", request).await;
    assert!(refusal.contains("expired"), "{refusal}");
}
