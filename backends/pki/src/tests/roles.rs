//! Roles as OpenBao keeps them, and what ours refuses.

use serde_json::{Value, json};

use super::bench::Bench;

/// What OpenBao 2.7 answers for a role that is written with no fields.
const DEFAULTS: &str = r#"{"allow_any_name": false, "allow_bare_domains": false, "allow_glob_domains": false,
    "allow_globs_in_identity_templates": false, "allow_ip_sans": true, "allow_localhost": true,
    "allow_subdomains": false, "allow_token_displayname": false, "allow_wildcard_certificates": true,
    "allowed_domains": [], "allowed_domains_template": false, "allowed_ip_sans_cidr": [],
    "allowed_other_sans": [], "allowed_serial_numbers": [], "allowed_uri_sans": [],
    "allowed_uri_sans_template": false, "allowed_user_ids": [], "basic_constraints_valid_for_non_ca": false,
    "client_flag": true, "cn_validations": ["email", "hostname"], "code_signing_flag": false, "country": [],
    "email_protection_flag": false, "enforce_hostnames": true, "ext_key_usage": [], "ext_key_usage_oids": [],
    "generate_lease": false, "issuer_ref": "default", "key_bits": 2048, "key_type": "rsa",
    "key_usage": ["DigitalSignature", "KeyAgreement", "KeyEncipherment"], "locality": [], "max_ttl": 0,
    "no_store": false, "not_after": "", "not_after_bound": "permit", "not_before": "",
    "not_before_bound": "permit", "not_before_duration": 30, "organization": [], "ou": [],
    "policy_identifiers": [], "postal_code": [], "province": [], "require_cn": true, "server_flag": true,
    "signature_bits": 0, "street_address": [], "ttl": 0, "use_csr_common_name": true, "use_csr_sans": true,
    "use_pss": false}"#;

/// Fields that only Daypass has, or only Vault.
const OURS: [&str; 4] = [
    "trust_domain",
    "allowed_spiffe_paths",
    "no_store_metadata",
    "serial_number_source",
];

#[tokio::test]
async fn an_empty_role_has_the_fields_and_defaults_of_openbao() {
    let bench = Bench::new().await;
    let written = bench.ok("roles/d", json!({})).await;
    assert_eq!(written.data, bench.read("roles/d").await);
    let mut fields = written.data;
    for field in OURS {
        let value = fields.as_object_mut().unwrap().remove(field).unwrap();
        assert!(
            [json!(""), json!([]), json!(false)].contains(&value),
            "{field}"
        );
    }
    let want: Value = serde_json::from_str(DEFAULTS).unwrap();
    assert_eq!(fields, want);
}

#[tokio::test]
async fn roles_are_written_patched_listed_and_deleted() {
    let bench = Bench::new().await;
    let cli = json!({"allowed_domains": "a.org,b.org", "max_ttl": "72h", "key_type": "ec", "server_flag": "false"});
    let role = bench.ok("roles/b", cli).await;
    assert_eq!(role["allowed_domains"], json!(["a.org", "b.org"]));
    assert_eq!(
        (&role["max_ttl"], &role["key_bits"]),
        (&json!(259_200), &json!(256))
    );

    let patch = json!({"ttl": "1h", "max_ttl": null, "allow_ip_sans": false});
    let patched = bench.mounted.patch("roles/b", patch).await.unwrap();
    assert_eq!(
        (&patched["ttl"], &patched["max_ttl"]),
        (&json!(3600), &json!(0))
    );
    assert_eq!(patched["allowed_domains"], json!(["a.org", "b.org"]));
    assert_eq!(patched.data, bench.read("roles/b").await);
    let absent = bench.mounted.patch("roles/nobody", json!({})).await;
    assert_eq!(absent.unwrap_err().to_string(), "not found");

    // Written anew, a role keeps nothing of what it was.
    bench.ok("roles/b", json!({})).await;
    assert_eq!(bench.read("roles/b").await["allow_ip_sans"], json!(true));

    bench.ok("roles/a", json!({})).await;
    assert_eq!(bench.names("roles").await, ["a", "b"]);
    for _ in 0..2 {
        bench.mounted.delete("roles/a").await.unwrap();
    }
    assert_eq!(bench.names("roles").await, ["b"]);
    assert!(bench.mounted.read("roles/a").await.is_err());
}

#[tokio::test]
async fn what_a_role_cannot_honour_is_refused_when_it_is_written() {
    let bench = Bench::new().await;
    let svid = json!({"trust_domain": "a.org", "allowed_spiffe_paths": "/**"});
    bench.role("svid", svid.clone()).await;
    let cases = [
        (
            json!({"allow_any_nam": true}),
            "did you mean \"allow_any_name\"?",
        ),
        (
            json!({"not_after": "2030-01-01T00:00:00Z", "ttl": "1h"}),
            "\"not_after\"",
        ),
        (json!({"not_after": "tomorrow"}), "\"not_after\""),
        (json!({"ttl": "2h", "max_ttl": "1h"}), "\"ttl\""),
        (json!({"key_type": "dsa"}), "\"key_type\""),
        (json!({"key_type": "rsa", "key_bits": 1024}), "2048"),
        (json!({"key_type": "ec", "key_bits": 224}), "256 or 384"),
        (json!({"key_usage": "CertSing"}), "\"key_usage\""),
        (json!({"ext_key_usage": "Everything"}), "\"ext_key_usage\""),
        (
            json!({"ext_key_usage_oids": "1.x"}),
            "\"ext_key_usage_oids\"",
        ),
        (
            json!({"policy_identifiers": "abc"}),
            "\"policy_identifiers\"",
        ),
        (
            json!({"allowed_ip_sans_cidr": "10.0.0.0"}),
            "\"allowed_ip_sans_cidr\"",
        ),
        (
            json!({"allowed_ip_sans_cidr": "10.0.0.0/33"}),
            "\"allowed_ip_sans_cidr\"",
        ),
        (
            json!({"cn_validations": "disabled,email"}),
            "\"cn_validations\"",
        ),
        (
            json!({"not_before_duration": "8d"}),
            "\"not_before_duration\"",
        ),
        (json!({"country": "Atlantis"}), "country"),
        (
            json!({"allowed_domains_template": true}),
            "\"allowed_domains_template\"",
        ),
        (json!({"allowed_other_sans": "*"}), "\"allowed_other_sans\""),
        (json!({"use_pss": true}), "\"use_pss\""),
        (json!({"signature_bits": 512}), "\"signature_bits\""),
        (
            json!({"not_before_bound": "forbid"}),
            "\"not_before_bound\"",
        ),
        (json!({"allowed_spiffe_paths": "/a"}), "trust_domain"),
        (json!({"trust_domain": "a.org"}), "\"allowed_spiffe_paths\""),
        (
            json!({"trust_domain": "A.org", "allowed_spiffe_paths": "/a"}),
            "\"trust_domain\"",
        ),
        (
            json!({"trust_domain": "a.org", "allowed_spiffe_paths": "a"}),
            "\"allowed_spiffe_paths\"",
        ),
        (
            json!({"trust_domain": "a.org", "allowed_spiffe_paths": "/a", "client_flag": false}),
            "client_flag",
        ),
        (
            json!({"trust_domain": "a.org", "allowed_spiffe_paths": "/a", "key_usage": "KeyAgreement"}),
            "key_usage",
        ),
    ];
    for (fields, want) in cases {
        let text = bench.refused("roles/x", fields.clone()).await;
        assert!(text.contains(want), "{fields}: {text}");
        // The same by a patch, which must leave the role as it was.
        let before = bench.read("roles/svid").await;
        if fields.get("trust_domain").is_none() && fields.get("allowed_spiffe_paths").is_none() {
            assert!(
                bench
                    .mounted
                    .patch("roles/svid", fields.clone())
                    .await
                    .is_err(),
                "{fields}"
            );
        }
        assert_eq!(bench.read("roles/svid").await, before, "{fields}");
    }
    for name in ["ä", "a%2fb", &"n".repeat(129)] {
        let text = bench.refused(&format!("roles/{name}"), json!({})).await;
        assert!(text.contains("\"name\""), "{text}");
    }
    assert_eq!(bench.names("roles").await, ["svid"]);
}

#[tokio::test]
async fn a_role_that_is_not_stored_has_no_leases() {
    let bench = Bench::new().await;
    let role = bench
        .role("x", json!({"no_store": true, "generate_lease": true}))
        .await;
    assert_eq!(role["generate_lease"], json!(false));
    assert_eq!(role.warnings.len(), 1);
}
