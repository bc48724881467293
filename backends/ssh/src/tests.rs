//! A mount as its clients see it. What it signs is judged by `ssh-keygen` (Debian package `openssh-client`).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use daypass_conformance::{Answer, Mounted, Subject, TestHost, run_unleased};
use daypass_contract::route::Found;
use daypass_contract::{Access, Backend, BackendError, Operation, async_trait};
use serde_json::{Value, json};
use ssh_key::Certificate;
use tempfile::TempDir;

async fn mount() -> (TestHost, Mounted) {
    let host = TestHost::new();
    let backend = crate::open(host.host()).await.ok().unwrap();
    let mounted = Mounted::new(backend, &host);
    (host, mounted)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn refusal(outcome: Result<Answer, BackendError>) -> String {
    match outcome {
        Err(BackendError::InvalidRequest(text) | BackendError::InvalidRole(text)) => text,
        Err(error) => panic!("{error:?}"),
        Ok(answer) => panic!("{answer:?}"),
    }
}

fn ssh_keygen(arguments: &[&str]) -> String {
    let output = Command::new("ssh-keygen")
        .args(arguments)
        .env("TZ", "UTC")
        .output()
        .expect("ssh-keygen is there: run scripts/install-test-tools.sh");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}{error}");
    said
}

/// A new key of ssh-keygen's: the path of its private half.
fn key(folder: &Path, name: &str, kind: &str, bits: &str) -> String {
    let path = folder.join(name).to_str().unwrap().to_owned();
    let mut arguments = vec!["-q", "-N", "", "-t", kind, "-f", &path];
    if !bits.is_empty() {
        arguments.extend(["-b", bits]);
    }
    ssh_keygen(&arguments);
    path
}

fn public(path: &str) -> String {
    fs::read_to_string(format!("{path}.pub")).unwrap()
}

/// What `ssh-keygen -L` says of a certificate; it also checks the signature.
fn shown(folder: &TempDir, certificate: &Value) -> String {
    let path = folder.path().join("shown-cert.pub");
    fs::write(&path, text(certificate)).unwrap();
    ssh_keygen(&["-L", "-f", path.to_str().unwrap()])
}

struct Subjected;

#[async_trait]
impl Subject for Subjected {
    async fn open(&self, host: &TestHost) -> Arc<dyn Backend> {
        crate::open(host.host()).await.ok().unwrap()
    }

    async fn configure(&self, mounted: &Mounted) {
        mounted
            .write("config/ca", json!({"key_type": "ed25519"}))
            .await
            .unwrap();
        let role = json!({
            "key_type": "ca",
            "allow_user_certificates": true,
            "allowed_users": "*",
            "default_user": "probe",
        });
        mounted.write("roles/probe", role).await.unwrap();
    }
}

#[tokio::test]
async fn it_conforms() {
    run_unleased(&Subjected).await;
}

#[tokio::test]
async fn ssh_keygen_accepts_what_every_kind_of_ca_signs_for_every_kind_of_key() {
    let folder = TempDir::new().unwrap();
    let keys = [
        ("ed25519", ""),
        ("ecdsa", "256"),
        ("ecdsa", "384"),
        ("ecdsa", "521"),
        ("rsa", "2048"),
    ]
    .map(|(kind, bits)| key(folder.path(), &format!("{kind}{bits}"), kind, bits));
    let cas = [
        (json!({"key_type": "ed25519"}), "default", "ssh-ed25519"),
        (json!({"key_type": "ec"}), "default", "ecdsa-sha2-nistp256"),
        (
            json!({"key_type": "ec", "key_bits": 384}),
            "default",
            "ecdsa-sha2-nistp384",
        ),
        (
            json!({"key_type": "ecdsa-sha2-nistp521"}),
            "default",
            "ecdsa-sha2-nistp521",
        ),
        (
            json!({"key_type": "ssh-rsa", "key_bits": 2048}),
            "default",
            "rsa-sha2-256",
        ),
        (
            json!({"key_type": "rsa", "key_bits": 3072}),
            "rsa-sha2-512",
            "rsa-sha2-512",
        ),
    ];
    for (ca, signer, algorithm) in cas {
        let (_, ssh) = mount().await;
        ssh.write("config/ca", ca).await.unwrap();
        let role = json!({
            "key_type": "ca",
            "allow_user_certificates": true,
            "allowed_users": "bob,eve",
            "algorithm_signer": signer,
            "default_extensions": {"permit-pty": ""},
            "ttl": "10m",
        });
        ssh.write("roles/r", role).await.unwrap();
        for key in &keys {
            let body = json!({
                "public_key": public(key),
                "valid_principals": "bob,eve",
                "critical_options": {"force-command": "id"},
            });
            let signed = ssh.write("sign/r", body).await.unwrap();
            let shown = shown(&folder, &signed["signed_key"]);
            for part in [
                "user certificate",
                &format!("(using {algorithm})"),
                "Valid: from 2025-12-31T23:59:30 to 2026-01-01T00:10:00",
                "force-command id",
                "permit-pty",
                "bob\n",
                "eve\n",
                "Key ID: \"vault-token-test-",
            ] {
                assert!(shown.contains(part), "{algorithm} {key}: {part}\n{shown}");
            }
            let parsed = Certificate::from_openssh(text(&signed["signed_key"])).unwrap();
            let serial = format!("{:x}", parsed.serial());
            assert_eq!(serial, text(&signed["serial_number"]));
            assert_eq!(parsed.valid_principals(), ["bob", "eve"]);
        }
    }
}

#[tokio::test]
async fn keys_of_ssh_keygen_and_openssl_are_imported() {
    let folder = TempDir::new().unwrap();
    let cases = [
        ("ed25519", "", "RFC4716"),
        ("ecdsa", "256", "RFC4716"),
        ("ecdsa", "384", "PKCS8"),
        ("ecdsa", "521", "PEM"),
        ("rsa", "2048", "RFC4716"),
        ("rsa", "3072", "PKCS8"),
        ("rsa", "2048", "PEM"),
    ];
    let (_, ssh) = mount().await;
    let user = key(folder.path(), "user", "ed25519", "");
    for (at, (kind, bits, form)) in cases.into_iter().enumerate() {
        let ca = key(folder.path(), &format!("ca{at}"), kind, bits);
        let open = ["-p", "-q", "-P", "", "-N", "", "-m", form, "-f", &ca];
        ssh_keygen(&open);
        let private = fs::read_to_string(&ca).unwrap();
        let body = json!({"private_key": private.trim_end(), "public_key": public(&ca)});
        let made = ssh.write("config/ca", body.clone()).await.unwrap();
        assert_eq!(text(&made["public_key"]), public(&ca), "{kind} {form}");
        assert!(made.warnings.is_empty());
        let again = ssh.write("config/ca", body).await.unwrap();
        assert_eq!(again["issuer_id"], made["issuer_id"]);
        assert_eq!(again.warnings.len(), 1);

        let role =
            json!({"key_type": "ca", "allow_user_certificates": true, "allowed_users": "bob"});
        ssh.write("roles/r", role).await.unwrap();
        let body = json!({"public_key": public(&user), "valid_principals": "bob"});
        let signed = ssh.write("sign/r", body).await.unwrap();
        assert_eq!(signed["issuer_id"], made["issuer_id"]);
        let fingerprint = ssh_keygen(&["-l", "-f", &format!("{ca}.pub")]);
        let fingerprint = fingerprint.split_whitespace().nth(1).unwrap();
        let shown = shown(&folder, &signed["signed_key"]);
        assert!(shown.contains(fingerprint), "{kind} {form}: {shown}");
    }
}

#[tokio::test]
async fn a_ca_that_is_not_whole_is_refused() {
    let folder = TempDir::new().unwrap();
    let one = key(folder.path(), "one", "ed25519", "");
    let two = key(folder.path(), "two", "ecdsa", "");
    let locked = folder.path().join("locked").to_str().unwrap().to_owned();
    ssh_keygen(&["-q", "-t", "ed25519", "-N", "secret", "-f", &locked]);
    let read = |path: &str| fs::read_to_string(path).unwrap();
    let (_, ssh) = mount().await;
    let cases = [
        (json!({"private_key": read(&one)}), "only one of"),
        (json!({"public_key": public(&one)}), "only one of"),
        (json!({"generate_signing_key": false}), "missing public_key"),
        (
            json!({"private_key": read(&one), "public_key": public(&two)}),
            "public half",
        ),
        (
            json!({"private_key": "x", "public_key": public(&two)}),
            "private_key",
        ),
        (
            json!({"private_key": read(&one), "public_key": "x"}),
            "public_key",
        ),
        (
            json!({"private_key": read(&locked), "public_key": public(&locked)}),
            "passphrase",
        ),
        (json!({"key_type": "dsa"}), "key_type"),
        (json!({"key_type": "rsa", "key_bits": 1024}), "key_bits"),
        (json!({"key_type": "ec", "key_bits": 255}), "key_bits"),
    ];
    for (body, want) in cases {
        let said = refusal(ssh.write("config/ca", body.clone()).await);
        assert!(said.contains(want), "{body}: {said}");
    }
    assert!(refusal(ssh.read("config/ca").await).contains("no default issuer"));
}

#[tokio::test]
async fn issuing_gives_a_key_that_ssh_reads_and_its_certificate() {
    let folder = TempDir::new().unwrap();
    let (_, ssh) = mount().await;
    ssh.write("config/ca", json!({"key_type": "ed25519"}))
        .await
        .unwrap();
    let role = json!({
        "key_type": "ca",
        "allow_user_certificates": true,
        "allowed_users": "bob",
        "default_user": "bob",
    });
    ssh.write("roles/r", role).await.unwrap();
    let cases = [
        (json!({}), "rsa"),
        (json!({"key_type": "ed25519"}), "ed25519"),
        (json!({"key_type": "ec", "key_bits": 521}), "ec"),
    ];
    for (body, kind) in cases {
        let made = ssh.write("issue/r", body).await.unwrap();
        assert_eq!(made["private_key_type"], kind);
        let path = folder.path().join(kind);
        fs::write(&path, text(&made["private_key"])).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let public = ssh_keygen(&["-y", "-f", path.to_str().unwrap()]);
        let public = ssh_key::PublicKey::from_openssh(public.trim()).unwrap();
        let certificate = Certificate::from_openssh(text(&made["signed_key"])).unwrap();
        assert_eq!(certificate.public_key(), public.key_data(), "{kind}");
    }
    assert!(refusal(ssh.write("issue/r", json!({"key_type": "dsa"})).await).contains("key_type"));
    let other = json!({"key_type": "ed25519", "valid_principals": "eve"});
    assert!(refusal(ssh.write("issue/r", other).await).contains("does not allow"));
}

#[tokio::test]
async fn cas_are_listed_named_chosen_and_deleted() {
    let (host, ssh) = mount().await;
    assert!(matches!(
        ssh.list("issuers").await,
        Err(BackendError::NotFound)
    ));
    let new = || json!({"key_type": "ed25519"});
    let one = ssh.write("issuers/import/one", new()).await.unwrap();
    let two = ssh.write("issuers/import", new()).await.unwrap();
    // The first is the default; a later one is where that is asked for.
    assert_eq!(ssh.read("config/ca").await.unwrap().data, one.data);
    assert!(refusal(ssh.write("issuers/import/one", new()).await).contains("in use"));
    assert!(refusal(ssh.write("issuers/import/default", new()).await).contains("issuer_name"));
    let id = |answer: &Answer| text(&answer["issuer_id"]).to_owned();
    ssh.write(
        &format!("issuer/{}", id(&two)),
        json!({"issuer_name": "two"}),
    )
    .await
    .unwrap();
    assert!(
        refusal(ssh.write("issuer/two", json!({"issuer_name": "one"})).await).contains("in use")
    );
    ssh.write("config/issuers", json!({"default": "two"}))
        .await
        .unwrap();
    assert_eq!(
        ssh.read("config/issuers").await.unwrap()["default"],
        id(&two)
    );
    let listed = ssh.list("issuers").await.unwrap();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2);
    assert_eq!(listed["key_info"][id(&two)]["is_default"], true);
    let raw = ssh.read("issuer/one/public_key").await.unwrap();
    assert_eq!(raw.bytes, text(&one["public_key"]).as_bytes());
    for path in ["public_key", "issuer/one/public_key"] {
        let Found::Endpoint(endpoint, _) = ssh.routes.find(Operation::Read, path) else {
            panic!("{path} is there");
        };
        assert_eq!(endpoint.access, Access::Anyone);
    }

    let role = |issuer: &str| {
        json!({
            "key_type": "ca", "allow_user_certificates": true, "allowed_users": "bob",
            "default_user": "bob", "issuer_ref": issuer,
        })
    };
    ssh.write("roles/one", role("one")).await.unwrap();
    ssh.write("roles/any", role("")).await.unwrap();
    let issued = |role: &'static str| {
        let ssh = &ssh;
        async move {
            ssh.write(&format!("issue/{role}"), json!({"key_type": "ed25519"}))
                .await
        }
    };
    assert_eq!(issued("one").await.unwrap()["issuer_id"], id(&one));
    assert_eq!(issued("any").await.unwrap()["issuer_id"], id(&two));

    // A restart finds all of it again.
    let backend = crate::open(host.host()).await.ok().unwrap();
    let again = Mounted::new(backend, &host);
    let made = again
        .write("issue/any", json!({"key_type": "ed25519"}))
        .await
        .unwrap();
    assert_eq!(made["issuer_id"], id(&two));

    // What one node deleted, another one that has the key in memory does not sign with.
    again.delete("issuer/one").await.unwrap();
    again.delete("issuer/one").await.unwrap();
    assert!(refusal(issued("one").await).contains("unable to find issuer"));
    assert_eq!(
        again.delete("issuer/default").await.unwrap().warnings.len(),
        1
    );
    assert!(refusal(issued("any").await).contains("no default issuer"));
    ssh.write("config/ca", new()).await.unwrap();
    let deleted = ssh.delete("config/ca").await.unwrap();
    assert!(deleted.warnings[0].contains("Deleted 1 issuers"));
    assert!(ssh.delete("config/ca").await.unwrap().warnings.is_empty());
    // No private key is left behind.
    assert!(
        host.host()
            .store
            .list("keys/", None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn roles_are_written_read_listed_and_deleted_as_the_vault_api_has_it() {
    let (_, ssh) = mount().await;
    assert!(matches!(
        ssh.list("roles").await,
        Err(BackendError::NotFound)
    ));
    assert!(matches!(
        ssh.read("roles/r").await,
        Err(BackendError::NotFound)
    ));
    // As hvac sends it: what is not said as "".
    let role = json!({
        "key_type": "ca", "allow_user_certificates": "true", "allowed_users_template": "",
        "allowed_users": "bob, eve", "allowed_user_key_lengths": {"rsa": 4096}, "ttl": "5m", "max_ttl": "",
        "key": "", "admin_user": "", "cidr_list": "", "port": 22, "key_bits": 1024, "install_script": "",
        "default_critical_options": null, "default_extensions": {"permit-pty": ""}, "algorithm_signer": "",
    });
    ssh.write("roles/r", role).await.unwrap();
    // Field by field what OpenBao 2.7.2 answers.
    let want = json!({
        "algorithm_signer": "default", "allow_bare_domains": false,
        "allow_commas_in_identity_templates": false, "allow_empty_principals": false,
        "allow_host_certificates": false, "allow_subdomains": false, "allow_user_certificates": true,
        "allow_user_key_ids": false, "allow_wildcards_in_identity_templates": false,
        "allowed_critical_options": "", "allowed_domains": "", "allowed_domains_template": false,
        "allowed_extensions": "", "allowed_user_key_lengths": {"rsa": [4096]},
        "allowed_users": "bob,eve", "allowed_users_template": false, "default_critical_options": {},
        "default_extensions": {"permit-pty": ""}, "default_extensions_template": false,
        "default_user": "", "default_user_template": false, "issuer_ref": "default",
        "key_id_format": "", "key_type": "ca", "max_ttl": 0, "not_before_duration": 30, "ttl": 300,
    });
    assert_eq!(ssh.read("roles/r").await.unwrap().data, want);
    let listed = ssh.list("roles").await.unwrap().data;
    let info = json!({"r": {"key_type": "ca", "issuer_ref": "default"}});
    assert_eq!(listed, json!({"keys": ["r"], "key_info": info}));
    assert!(ssh.backend.exists("roles/r").await.unwrap());
    assert!(!ssh.backend.exists("roles/s").await.unwrap());
    ssh.delete("roles/r").await.unwrap();
    ssh.delete("roles/r").await.unwrap();
    assert!(matches!(
        ssh.read("roles/r").await,
        Err(BackendError::NotFound)
    ));
}

#[tokio::test]
async fn a_role_that_cannot_be_honoured_is_refused() {
    let (_, ssh) = mount().await;
    let with = |fields: Value| {
        let mut role = json!({"key_type": "ca", "allow_user_certificates": true});
        let all = role.as_object_mut().unwrap();
        all.extend(fields.as_object().unwrap().clone());
        role
    };
    let cases = [
        (json!({"allow_user_certificates": true}), "missing key type"),
        (with(json!({"key_type": "dynamic"})), "no longer supported"),
        (with(json!({"key_type": "other"})), "invalid key type"),
        (json!({"key_type": "ca"}), "must be set to 'true'"),
        (with(json!({"ttl": 60, "max_ttl": 30})), "must be less than"),
        (with(json!({"algorithm_signer": "ssh-rsa"})), "SHA-1"),
        (
            with(json!({"key_id_format": "{{identity.name}}"})),
            "key_id_format",
        ),
        (
            with(json!({"key_id_format": "{{role_name"})),
            "key_id_format",
        ),
        (
            with(json!({"allowed_users_template": true})),
            "allowed_users_template",
        ),
        (
            with(json!({"default_user_template": "true"})),
            "default_user_template",
        ),
        (
            with(json!({"allowed_user_key_lengths": {"x": 1}})),
            "known are",
        ),
        (with(json!({"cidr_list": "10.0.0.0/8"})), "cidr_list"),
        (with(json!({"allowed_user": "bob"})), "allowed_users"),
    ];
    for (role, want) in cases {
        let said = refusal(ssh.write("roles/r", role.clone()).await);
        assert!(said.contains(want), "{role}: {said}");
    }
    let otp = ssh.write("roles/r", with(json!({"key_type": "otp"}))).await;
    assert!(matches!(otp, Err(BackendError::Unsupported(_))), "{otp:?}");
    let name = ssh.write("roles/a b", with(json!({}))).await;
    assert!(refusal(name).contains("name"));
}

#[tokio::test]
async fn a_key_that_cannot_be_signed_is_refused() {
    let (_, ssh) = mount().await;
    let role = json!({
        "key_type": "ca", "allow_user_certificates": true, "allowed_users": "bob", "default_user": "bob",
        "algorithm_signer": "rsa-sha2-512",
    });
    ssh.write("roles/r", role).await.unwrap();
    let folder = TempDir::new().unwrap();
    let public = public(&key(folder.path(), "user", "ed25519", ""));
    let sign = |key: &str| {
        let body = json!({"public_key": key});
        let ssh = &ssh;
        async move { refusal(ssh.write("sign/r", body).await) }
    };
    assert!(sign("").await.contains("missing public_key"));
    assert!(sign("ssh-ed25519 AAAA").await.contains("public_key"));
    assert!(sign(&public).await.contains("no default issuer"));
    ssh.write("config/ca", json!({"key_type": "ed25519"}))
        .await
        .unwrap();
    assert!(sign(&public).await.contains("algorithm_signer"));
    let role = json!({"key_type": "ca", "allow_user_certificates": true, "allowed_users": "bob", "default_user": "bob"});
    ssh.write("roles/r", role).await.unwrap();
    // A certificate is not a key.
    let signed = ssh
        .write("sign/r", json!({"public_key": public}))
        .await
        .unwrap();
    assert!(
        sign(text(&signed["signed_key"]))
            .await
            .contains("public_key")
    );
    let unknown = ssh.write("sign/other", json!({"public_key": public})).await;
    assert!(refusal(unknown).contains("unknown role"));
}
