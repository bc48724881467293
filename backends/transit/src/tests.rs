//! A mount as its clients see it: every type of key, every rule, against tampering, with a store that
//! fails, and at once.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use daypass_conformance::{Answer, Kind as Answered, Mounted, Subject, TestHost, run_unleased};
use daypass_contract::{
    Backend, BackendError, Clock as _, Effect, Operation, StoreError, async_trait,
};
use proptest::prelude::*;
use serde_json::{Value, json};

mod vectors;

async fn mount() -> (TestHost, Mounted) {
    let host = TestHost::new();
    let backend = crate::open(host.host()).await.ok().unwrap();
    let mounted = Mounted::new(backend, &host);
    (host, mounted)
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn refusal(outcome: Result<Answer, BackendError>) -> String {
    match outcome {
        Err(BackendError::InvalidRequest(text)) => text,
        Err(error) => panic!("{error:?}"),
        Ok(answer) => panic!("{answer:?}"),
    }
}

struct Subjected;

#[async_trait]
impl Subject for Subjected {
    async fn open(&self, host: &TestHost) -> Arc<dyn Backend> {
        crate::open(host.host()).await.ok().unwrap()
    }

    async fn configure(&self, mounted: &Mounted) {
        mounted
            .write("keys/probe", json!({"exportable": true}))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn it_conforms() {
    run_unleased(&Subjected).await;
}

const CIPHERS: [&str; 3] = ["aes128-gcm96", "aes256-gcm96", "chacha20-poly1305"];

#[tokio::test]
async fn every_cipher_opens_what_it_sealed_and_nothing_that_differs() {
    let (_, transit) = mount().await;
    for kind in CIPHERS {
        for (derived, convergent) in [(false, false), (true, false), (true, true)] {
            let name = format!("{kind}-{derived}-{convergent}");
            let settings =
                json!({"type": kind, "derived": derived, "convergent_encryption": convergent});
            let made = transit
                .write(&format!("keys/{name}"), settings)
                .await
                .unwrap();
            assert_eq!(
                (&made["type"], &made["derived"]),
                (&json!(kind), &json!(derived))
            );
            let aad = if convergent {
                String::new()
            } else {
                b64("aad")
            };
            let context = if derived {
                b64("context")
            } else {
                String::new()
            };
            let encrypt =
                json!({"plaintext": b64("text"), "context": context, "associated_data": aad});
            let sealed = transit
                .write(&format!("encrypt/{name}"), encrypt.clone())
                .await
                .unwrap();
            let again = transit
                .write(&format!("encrypt/{name}"), encrypt)
                .await
                .unwrap();
            assert_eq!(
                sealed["ciphertext"] == again["ciphertext"],
                convergent,
                "{name}"
            );
            let ciphertext = text(&sealed["ciphertext"]).to_owned();

            let path = format!("decrypt/{name}");
            let decrypt = |ciphertext: &str, context: &str, aad: &str| {
                transit.write(
                    &path,
                    json!({"ciphertext": ciphertext, "context": context, "associated_data": aad}),
                )
            };
            let opened = decrypt(&ciphertext, &context, &aad).await.unwrap();
            assert_eq!(opened.data, json!({"plaintext": b64("text")}));

            let wrong = refusal(decrypt(&ciphertext, &context, &b64("other")).await);
            assert!(wrong.contains("message authentication failed"), "{wrong}");
            if !convergent {
                assert_eq!(refusal(decrypt(&ciphertext, &context, "").await), wrong);
            }
            if derived {
                assert_eq!(
                    refusal(decrypt(&ciphertext, &b64("other"), &aad).await),
                    wrong
                );
                let missing = refusal(decrypt(&ciphertext, "", &aad).await);
                assert!(
                    missing.contains("missing 'context' for key derivation"),
                    "{missing}"
                );
            }
            let (prefix, encoded) = ciphertext.rsplit_once(':').unwrap();
            let bytes = STANDARD.decode(encoded).unwrap();
            for at in 0..bytes.len() {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1;
                let altered = format!("{prefix}:{}", b64(bytes));
                assert_eq!(
                    refusal(decrypt(&altered, &context, &aad).await),
                    wrong,
                    "{at}"
                );
            }
            for length in [0, 5, 12, 27] {
                let cut = format!("{prefix}:{}", b64(&bytes[..length]));
                refusal(decrypt(&cut, &context, &aad).await);
            }
        }
    }
}

/// Two tags under one nonce would give away the key that authenticates.
#[tokio::test]
async fn a_convergent_key_takes_no_associated_data() {
    let (_, transit) = mount().await;
    let settings = json!({"derived": true, "convergent_encryption": true});
    transit.write("keys/k", settings).await.unwrap();
    let body = json!({"plaintext": b64("t"), "context": b64("c"), "associated_data": b64("a")});
    let text = refusal(transit.write("encrypt/k", body).await);
    assert!(text.contains("bind by context instead"), "{text}");
}

#[tokio::test]
async fn another_key_does_not_open_it() {
    let (_, transit) = mount().await;
    let sealed = transit
        .write("encrypt/a", json!({"plaintext": b64("t")}))
        .await
        .unwrap();
    transit.write("keys/b", json!({})).await.unwrap();
    let body = json!({"ciphertext": sealed["ciphertext"]});
    let wrong = refusal(transit.write("decrypt/b", body).await);
    assert!(wrong.contains("message authentication failed"), "{wrong}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_with_any_context_comes_back(
        plaintext: Vec<u8>, context in prop::collection::vec(any::<u8>(), 1..40), aad: Vec<u8>,
        kind in prop::sample::select(&CIPHERS[..]), derived: bool, convergent: bool,
    ) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let (_, transit) = mount().await;
            let settings = json!({"type": kind, "derived": derived, "convergent_encryption": derived && convergent});
            transit.write("keys/k", settings).await.unwrap();
            let mut body = json!({"plaintext": b64(&plaintext), "context": b64(&context), "associated_data": if derived && convergent { String::new() } else { b64(&aad) }});
            let sealed = transit.write("encrypt/k", body.clone()).await.unwrap();
            body["ciphertext"] = sealed["ciphertext"].clone();
            let rewrapped = transit.write("rewrap/k", body.clone()).await.unwrap();
            body["ciphertext"] = rewrapped["ciphertext"].clone();
            let opened = transit.write("decrypt/k", body).await.unwrap();
            assert_eq!(opened["plaintext"], b64(&plaintext));
        });
    }
}

/// A public key as another program reads it: the bits of the `SubjectPublicKeyInfo`.
fn public_bits(pem: &str) -> Vec<u8> {
    let der: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    let der = STANDARD.decode(der).unwrap();
    let (info, _) = crate::text::der(&der, 0x30).unwrap();
    let (_, rest) = crate::text::der(info, 0x30).unwrap();
    crate::text::der(rest, 0x03).unwrap().0[1..].to_vec()
}

#[tokio::test]
async fn signatures_verify_here_and_with_nothing_but_the_public_key() {
    type Case = (&'static str, Value, &'static dyn VerificationAlgorithm);
    let (_, transit) = mount().await;
    let cases: [Case; 11] = [
        ("ed25519", json!({}), &signature::ED25519),
        ("ecdsa-p256", json!({}), &signature::ECDSA_P256_SHA256_ASN1),
        (
            "ecdsa-p256",
            json!({"hash_algorithm": "sha2-512"}),
            &signature::ECDSA_P256_SHA512_ASN1,
        ),
        (
            "ecdsa-p256",
            json!({"marshaling_algorithm": "jws"}),
            &signature::ECDSA_P256_SHA256_FIXED,
        ),
        (
            "ecdsa-p384",
            json!({"hash_algorithm": "sha2-256"}),
            &signature::ECDSA_P384_SHA256_ASN1,
        ),
        (
            "ecdsa-p384",
            json!({"hash_algorithm": "sha2-384", "marshaling_algorithm": "jws"}),
            &signature::ECDSA_P384_SHA384_FIXED,
        ),
        (
            "ecdsa-p521",
            json!({"hash_algorithm": "sha2-224"}),
            &signature::ECDSA_P521_SHA224_ASN1,
        ),
        (
            "ecdsa-p521",
            json!({"hash_algorithm": "sha2-512"}),
            &signature::ECDSA_P521_SHA512_ASN1,
        ),
        (
            "rsa-2048",
            json!({"salt_length": "hash"}),
            &signature::RSA_PSS_2048_8192_SHA256,
        ),
        (
            "rsa-2048",
            json!({"signature_algorithm": "pkcs1v15", "hash_algorithm": "sha2-512"}),
            &signature::RSA_PKCS1_2048_8192_SHA512,
        ),
        (
            "rsa-2048",
            json!({"signature_algorithm": "pkcs1v15", "hash_algorithm": "sha2-256"}),
            &signature::RSA_PKCS1_2048_8192_SHA256,
        ),
    ];
    for (kind, method, elsewhere) in cases {
        let name = format!("{kind} {method}");
        transit
            .write(&format!("keys/{kind}"), json!({"type": kind}))
            .await
            .unwrap();
        let with = |fields: Value| {
            let mut body = method.clone();
            body.as_object_mut()
                .unwrap()
                .extend(fields.as_object().unwrap().clone());
            body
        };
        let signed = transit
            .write(
                &format!("sign/{kind}"),
                with(json!({"input": b64("message")})),
            )
            .await
            .unwrap();
        let signature = text(&signed["signature"]).to_owned();

        let public = transit
            .read(&format!("export/public-key/{kind}"))
            .await
            .unwrap();
        let public = text(&public["keys"]["1"]).to_owned();
        let public = if kind == "ed25519" {
            STANDARD.decode(public).unwrap()
        } else {
            public_bits(&public)
        };
        let encoded = signature.rsplit(':').next().unwrap();
        let bytes = if method["marshaling_algorithm"] == "jws" {
            URL_SAFE_NO_PAD.decode(encoded).unwrap()
        } else {
            STANDARD.decode(encoded).unwrap()
        };
        UnparsedPublicKey::new(elsewhere, public)
            .verify(b"message", &bytes)
            .expect(&name);

        let verify = |input: &str, signature: &str| {
            let body = with(json!({"input": b64(input), "signature": signature}));
            let path = format!("verify/{kind}");
            let transit = &transit;
            async move { transit.write(&path, body).await.unwrap()["valid"] == true }
        };
        assert!(verify("message", &signature).await, "{name}");
        assert!(!verify("massage", &signature).await, "{name}");
        let mut altered = bytes.clone();
        *altered.last_mut().unwrap() ^= 1;
        let marshaling = if method["marshaling_algorithm"] == "jws" {
            crate::text::Marshaling::Jws
        } else {
            crate::text::Marshaling::Asn1
        };
        assert!(
            !verify("message", &marshaling.write(1, &altered)).await,
            "{name}"
        );
    }
    let rsa = transit
        .write(
            "sign/rsa-2048",
            json!({"input": b64("m"), "salt_length": "auto"}),
        )
        .await
        .unwrap();
    for (salt, want) in [("auto", true), ("hash", false)] {
        let body = json!({"input": b64("m"), "signature": rsa["signature"], "salt_length": salt});
        assert_eq!(
            transit.write("verify/rsa-2048", body).await.unwrap()["valid"],
            want,
            "{salt}"
        );
    }
}

#[tokio::test]
async fn a_prehashed_input_gives_the_signature_of_what_was_hashed() {
    let (_, transit) = mount().await;
    transit
        .write("keys/k", json!({"type": "ecdsa-p256"}))
        .await
        .unwrap();
    let sum = transit
        .write(
            "hash/sha2-384",
            json!({"input": b64("m"), "format": "base64"}),
        )
        .await
        .unwrap();
    let body = json!({"input": sum["sum"], "prehashed": true, "hash_algorithm": "sha2-384"});
    let signed = transit.write("sign/k", body.clone()).await.unwrap();
    let body = json!({"input": b64("m"), "signature": signed["signature"]});
    assert_eq!(
        transit.write("verify/k/sha2-384", body).await.unwrap()["valid"],
        true
    );
    let text = refusal(
        transit
            .write("sign/k", json!({"input": b64("m"), "prehashed": true}))
            .await,
    );
    assert_eq!(
        text,
        "field \"input\": a prehashed input has the 32 bytes of its hash algorithm"
    );
}

#[tokio::test]
async fn a_derived_ed25519_key_signs_with_a_key_per_context() {
    let (_, transit) = mount().await;
    let made = transit
        .write("keys/k", json!({"type": "ed25519", "derived": true}))
        .await
        .unwrap();
    assert_eq!(made["keys"]["1"]["public_key"], "");
    let signed = transit
        .write("sign/k", json!({"input": b64("m"), "context": b64("c")}))
        .await
        .unwrap();
    let public = STANDARD.decode(text(&signed["public_key"])).unwrap();
    let bytes = STANDARD
        .decode(text(&signed["signature"]).rsplit(':').next().unwrap())
        .unwrap();
    UnparsedPublicKey::new(&signature::ED25519, public)
        .verify(b"m", &bytes)
        .unwrap();
    for (context, want) in [("c", true), ("d", false)] {
        let body =
            json!({"input": b64("m"), "context": b64(context), "signature": signed["signature"]});
        assert_eq!(
            transit.write("verify/k", body).await.unwrap()["valid"],
            want
        );
    }
}

#[tokio::test]
async fn rsa_encrypts_what_fits() {
    let (_, transit) = mount().await;
    transit
        .write("keys/k", json!({"type": "rsa-2048"}))
        .await
        .unwrap();
    let sealed = transit
        .write("encrypt/k", json!({"plaintext": b64("t")}))
        .await
        .unwrap();
    let body = json!({"ciphertext": sealed["ciphertext"]});
    assert_eq!(
        transit.write("decrypt/k", body).await.unwrap()["plaintext"],
        b64("t")
    );
    let text = refusal(
        transit
            .write("encrypt/k", json!({"plaintext": b64([0; 191])}))
            .await,
    );
    assert!(text.contains("at most 190 bytes"), "{text}");
    let altered = refusal(
        transit
            .write("decrypt/k", json!({"ciphertext": "vault:v1:AAAA"}))
            .await,
    );
    assert!(
        altered.contains("message authentication failed"),
        "{altered}"
    );
    let text = refusal(
        transit
            .write(
                "encrypt/k",
                json!({"plaintext": "", "associated_data": b64("a")}),
            )
            .await,
    );
    assert!(text.contains("non-AEAD cipher suite rsa-2048"), "{text}");
}

#[tokio::test]
async fn hmacs_of_every_type_verify_and_are_bound_to_input_version_and_hash() {
    let (_, transit) = mount().await;
    for kind in ["aes256-gcm96", "ed25519", "ecdsa-p256", "hmac"] {
        let size = if kind == "hmac" { 64 } else { 0 };
        transit
            .write(
                &format!("keys/{kind}"),
                json!({"type": kind, "key_size": size}),
            )
            .await
            .unwrap();
        let tag = transit
            .write(&format!("hmac/{kind}/sha2-512"), json!({"input": b64("m")}))
            .await
            .unwrap();
        transit
            .write(&format!("keys/{kind}/rotate"), json!({}))
            .await
            .unwrap();
        let tag = text(&tag["hmac"]).to_owned();
        let newer = tag.replacen("v1", "v2", 1);
        for (input, tag, hash, want) in [
            ("m", &tag, "sha2-512", true),
            ("n", &tag, "sha2-512", false),
            ("m", &newer, "sha2-512", false),
            ("m", &tag, "sha2-256", false),
        ] {
            let body = json!({"input": b64(input), "hmac": tag, "algorithm": hash});
            let answer = transit
                .write(&format!("verify/{kind}"), body)
                .await
                .unwrap();
            assert_eq!(answer["valid"], want, "{kind} {input} {hash}");
        }
    }
}

#[tokio::test]
async fn rotating_and_configuring_decides_what_opens_and_trimming_removes_it() {
    let (host, transit) = mount().await;
    let first = transit
        .write("encrypt/k", json!({"plaintext": b64("t")}))
        .await
        .unwrap();
    let first = json!({"ciphertext": first["ciphertext"]});
    let rotated = transit.write("keys/k/rotate", json!({})).await.unwrap();
    assert_eq!(rotated["latest_version"], 2);
    assert_eq!(
        rotated["keys"],
        json!({"1": 1_767_225_600, "2": 1_767_225_600})
    );
    let second = transit.write("rewrap/k", first.clone()).await.unwrap();
    assert!(text(&second["ciphertext"]).starts_with("vault:v2:") && second["key_version"] == 2);
    let second = json!({"ciphertext": second["ciphertext"]});
    assert_eq!(
        transit.write("decrypt/k", first.clone()).await.unwrap()["plaintext"],
        b64("t")
    );

    transit
        .write(
            "keys/k/config",
            json!({"min_encryption_version": 2, "min_decryption_version": 2}),
        )
        .await
        .unwrap();
    let old = refusal(transit.write("decrypt/k", first.clone()).await);
    assert!(old.contains("disallowed by policy (too old)"), "{old}");
    let older = json!({"plaintext": b64("t"), "key_version": 1});
    assert!(
        refusal(transit.write("encrypt/k", older).await).contains("minimum encryption key version")
    );
    transit
        .write(
            "keys/k/config",
            json!({"min_decryption_version": 1, "min_encryption_version": 0}),
        )
        .await
        .unwrap();
    transit.write("decrypt/k", first.clone()).await.unwrap();

    transit
        .write(
            "keys/k/config",
            json!({"min_encryption_version": 2, "min_decryption_version": 2}),
        )
        .await
        .unwrap();
    let stored = || {
        host.store
            .keys()
            .iter()
            .filter(|key| key.starts_with("material/"))
            .count()
    };
    assert_eq!(stored(), 2);
    transit
        .write("keys/k/trim", json!({"min_available_version": 2}))
        .await
        .unwrap();
    assert_eq!(stored(), 1);
    refusal(
        transit
            .write("keys/k/config", json!({"min_decryption_version": 1}))
            .await,
    );
    refusal(transit.write("decrypt/k", first).await);
    transit.write("decrypt/k", second.clone()).await.unwrap();

    let text = refusal(transit.delete("keys/k").await);
    assert!(
        text.contains("deletion is not allowed for this key"),
        "{text}"
    );
    transit
        .write("keys/k/config", json!({"deletion_allowed": true}))
        .await
        .unwrap();
    transit.delete("keys/k").await.unwrap();
    assert_eq!(host.store.keys(), Vec::<String>::new());
    assert_eq!(
        refusal(transit.write("decrypt/k", second.clone()).await),
        "encryption key not found"
    );
    assert!(matches!(
        transit.read("keys/k").await,
        Err(BackendError::NotFound)
    ));
    // A key of the same name is another key, also to the cache.
    transit.write("keys/k", json!({})).await.unwrap();
    transit.write("keys/k/rotate", json!({})).await.unwrap();
    assert!(refusal(transit.write("decrypt/k", second).await).contains("authentication failed"));
}

#[tokio::test]
async fn of_rotations_at_once_none_is_lost() {
    let (host, transit) = mount().await;
    transit
        .write("keys/k", json!({"exportable": true}))
        .await
        .unwrap();
    let transit = Arc::new(transit);
    let mut set = tokio::task::JoinSet::new();
    for n in 0..48 {
        let transit = Arc::clone(&transit);
        set.spawn(async move {
            let path = if n % 3 == 0 {
                "encrypt/k"
            } else {
                "keys/k/rotate"
            };
            let body = if n % 3 == 0 {
                json!({"plaintext": b64([n])})
            } else {
                json!({})
            };
            (n, transit.write(path, body).await.unwrap())
        });
    }
    let answers = set.join_all().await;
    let rotated = answers.iter().filter(|(n, _)| n % 3 != 0);
    let mut latest: Vec<u64> = rotated
        .map(|(_, answer)| answer["latest_version"].as_u64().unwrap())
        .collect();
    latest.sort_unstable();
    assert_eq!(
        latest,
        (2..=33).collect::<Vec<u64>>(),
        "each made a version of its own"
    );
    // A second server on the same storage opens all that was encrypted meanwhile.
    let restarted = Mounted::new(crate::open(host.host()).await.ok().unwrap(), &host);
    for (n, answer) in answers.iter().filter(|(n, _)| n % 3 == 0) {
        let body = json!({"ciphertext": answer["ciphertext"]});
        assert_eq!(
            restarted.write("decrypt/k", body).await.unwrap()["plaintext"],
            b64([*n])
        );
    }
    let exported = transit.read("export/encryption-key/k").await.unwrap();
    let keys: std::collections::BTreeSet<&str> = exported["keys"]
        .as_object()
        .unwrap()
        .values()
        .map(text)
        .collect();
    assert_eq!(keys.len(), 33, "every version has a key of its own");
}

#[tokio::test]
async fn of_keys_made_at_once_one_stays() {
    let (_, transit) = mount().await;
    let transit = Arc::new(transit);
    let mut set = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let transit = Arc::clone(&transit);
        set.spawn(async move {
            transit
                .write("encrypt/k", json!({"plaintext": b64("t")}))
                .await
                .unwrap()
        });
    }
    for sealed in set.join_all().await {
        let body = json!({"ciphertext": sealed["ciphertext"]});
        assert_eq!(
            transit.write("decrypt/k", body).await.unwrap()["plaintext"],
            b64("t")
        );
    }
}

#[tokio::test]
async fn a_key_in_use_is_not_read_again_until_it_changes() {
    let (host, transit) = mount().await;
    let encrypt = || transit.write("encrypt/k", json!({"plaintext": b64("t")}));
    encrypt().await.unwrap();
    encrypt().await.unwrap();
    let gets = host.store.gets();
    for _ in 0..10 {
        encrypt().await.unwrap();
    }
    assert_eq!(host.store.gets(), gets);
    transit.write("keys/k/rotate", json!({})).await.unwrap();
    assert_eq!(encrypt().await.unwrap()["key_version"], 2);
    // Also where the write failed: it may have been done.
    host.store.fail_after(0);
    assert!(transit.write("keys/k/rotate", json!({})).await.is_err());
    host.store.heal();
    let gets = host.store.gets();
    encrypt().await.unwrap();
    assert!(host.store.gets() > gets);
}

#[tokio::test]
async fn a_change_decides_again_when_another_was_faster_but_not_for_ever() {
    let (host, transit) = mount().await;
    transit.write("keys/k", json!({})).await.unwrap();
    host.store.conflict(5);
    transit.write("keys/k/rotate", json!({})).await.unwrap();
    host.store.conflict(usize::MAX);
    let outcome = transit.write("keys/k/rotate", json!({})).await;
    assert!(matches!(
        outcome,
        Err(BackendError::Store(StoreError::Conflict))
    ));
    host.store.heal();
    assert_eq!(transit.read("keys/k").await.unwrap()["latest_version"], 2);
}

#[tokio::test]
async fn a_key_rotates_when_its_time_has_come() {
    let (host, transit) = mount().await;
    transit
        .write("keys/k", json!({"auto_rotate_period": "90m"}))
        .await
        .unwrap();
    transit.write("keys/other", json!({})).await.unwrap();
    let maintain = || transit.backend.maintain(host.clock.now());
    let start = host.clock.now();
    let after = |minutes: u64| Some(start + Duration::from_secs(60 * minutes));
    assert_eq!(maintain().await.unwrap(), after(60));
    host.clock.advance(Duration::from_secs(3600));
    assert_eq!(maintain().await.unwrap(), after(90));
    host.clock.advance(Duration::from_secs(1800));
    assert_eq!(maintain().await.unwrap(), after(150));
    assert_eq!(transit.read("keys/k").await.unwrap()["latest_version"], 2);
    assert_eq!(maintain().await.unwrap(), after(150), "once is enough");
    assert_eq!(transit.read("keys/k").await.unwrap()["latest_version"], 2);
    assert_eq!(
        transit.read("keys/other").await.unwrap()["latest_version"],
        1
    );
}

#[tokio::test]
async fn a_key_leaves_by_consent_and_a_backup_is_sealed() {
    let (host, transit) = mount().await;
    transit.write("keys/k", json!({})).await.unwrap();
    let text_of = refusal(transit.read("export/encryption-key/k").await);
    assert_eq!(text_of, "private key material is not exportable");
    assert!(refusal(transit.read("backup/k").await).contains("exporting is disallowed"));
    transit
        .write("keys/k/config", json!({"exportable": true}))
        .await
        .unwrap();
    assert!(refusal(transit.read("backup/k").await).contains("plaintext backup is disallowed"));
    transit
        .write(
            "keys/k/config",
            json!({"allow_plaintext_backup": true, "deletion_allowed": true}),
        )
        .await
        .unwrap();
    transit.write("keys/k/rotate", json!({})).await.unwrap();
    let exported = transit.read("export/encryption-key/k").await.unwrap();
    assert_eq!(exported["keys"].as_object().unwrap().len(), 2);
    let latest = transit
        .read("export/encryption-key/k/latest")
        .await
        .unwrap();
    assert_eq!(latest["keys"], json!({"2": exported["keys"]["2"]}));
    refusal(transit.read("export/encryption-key/k/3").await);
    refusal(transit.read("export/signing-key/k").await);
    refusal(transit.read("export/public-key/k").await);

    let sealed = transit
        .write("encrypt/k", json!({"plaintext": b64("t")}))
        .await
        .unwrap();
    let body = json!({"ciphertext": sealed["ciphertext"]});
    let backup = text(&transit.read("backup/k").await.unwrap()["backup"]).to_owned();
    let inside = STANDARD.decode(backup.rsplit(':').next().unwrap()).unwrap();
    assert!(
        !String::from_utf8_lossy(&inside).contains("versions"),
        "it is sealed"
    );
    assert!(
        refusal(transit.write("restore", json!({"backup": backup})).await)
            .contains("already exists")
    );
    transit.delete("keys/k").await.unwrap();
    transit
        .write("restore", json!({"backup": backup}))
        .await
        .unwrap();
    assert_eq!(
        transit.write("decrypt/k", body.clone()).await.unwrap()["plaintext"],
        b64("t")
    );
    transit
        .write("restore/copy", json!({"backup": backup}))
        .await
        .unwrap();
    transit.write("keys/copy/rotate", json!({})).await.unwrap();
    transit
        .write("restore/copy", json!({"backup": backup, "force": true}))
        .await
        .unwrap();
    transit.delete("keys/k").await.unwrap();
    assert_eq!(
        transit.write("decrypt/copy", body).await.unwrap()["plaintext"],
        b64("t")
    );
    let material = host
        .store
        .keys()
        .iter()
        .filter(|key| key.starts_with("material/"))
        .count();
    assert_eq!(material, 2, "what was replaced or deleted is gone");

    let mut altered = inside;
    altered[20] ^= 1;
    let altered = format!("vault:v1:{}", b64(altered));
    let refused = refusal(transit.write("restore/x", json!({"backup": altered})).await);
    assert_eq!(
        refused,
        "field \"backup\": was not made by this mount, or was altered"
    );
    let elsewhere = mount().await.1;
    // The test's entropy is the same on every host; a real one's is not.
    elsewhere
        .write("random", json!({"bytes": 7}))
        .await
        .unwrap();
    refusal(
        elsewhere
            .write("restore/x", json!({"backup": backup}))
            .await,
    );
}

#[tokio::test]
async fn a_batch_answers_each_element_or_fails_as_a_whole() {
    let (_, transit) = mount().await;
    let batch = json!([{"plaintext": b64("a"), "reference": "first"}, {"plaintext": "!", "reference": "second"}]);
    let text_of = refusal(
        transit
            .write("encrypt/k", json!({"batch_input": batch}))
            .await,
    );
    assert!(
        text_of.starts_with("batch_input[1]: field \"plaintext\": must be base64"),
        "{text_of}"
    );
    let body = json!({"batch_input": batch, "partial_failure_response_code": 200});
    let answer = transit.write("encrypt/k", body).await.unwrap();
    let results = answer["batch_results"].as_array().unwrap();
    assert_eq!(results[0]["reference"], "first");
    assert!(text(&results[0]["ciphertext"]).starts_with("vault:v1:"));
    assert_eq!(
        results[1],
        json!({"error": "field \"plaintext\": must be base64", "reference": "second"})
    );
    for path in ["decrypt/k", "rewrap/k"] {
        let body = json!({"batch_input": [{"ciphertext": results[0]["ciphertext"]}, {"ciphertext": "x"}], "partial_failure_response_code": 200});
        let answer = transit.write(path, body).await.unwrap();
        assert!(answer["batch_results"][0]["error"].is_null(), "{path}");
        assert!(
            text(&answer["batch_results"][1]["error"]).contains("no prefix"),
            "{path}"
        );
    }
    transit
        .write("keys/e", json!({"type": "ed25519"}))
        .await
        .unwrap();
    let batch = json!({"batch_input": [{"input": b64("a")}, {"input": "!"}]});
    for path in ["sign/e", "hmac/e"] {
        let answer = transit.write(path, batch.clone()).await.unwrap();
        assert!(
            answer["batch_results"][0]["error"].is_null()
                && !answer["batch_results"][1]["error"].is_null()
        );
    }
    for batch in [
        json!([]),
        json!([{"plaintext": b64("a"), "context": b64("c")}, {"plaintext": b64("a")}]),
        json!([{}]),
    ] {
        refusal(
            transit
                .write("encrypt/k", json!({"batch_input": batch}))
                .await,
        );
    }
    let many: Vec<Value> = (0..10_001).map(|_| json!({"plaintext": ""})).collect();
    assert!(
        refusal(
            transit
                .write("encrypt/k", json!({"batch_input": many}))
                .await
        )
        .contains("at most 10000")
    );
}

#[tokio::test]
async fn encrypting_makes_a_key_where_that_is_allowed() {
    let (host, transit) = mount().await;
    assert!(!transit.backend.exists("encrypt/k").await.unwrap());
    assert!(
        transit.backend.exists("keys/k").await.unwrap(),
        "as in the Vault API"
    );
    for body in [
        json!({}),
        json!({"plaintext": b64("t"), "type": "rsa-2048"}),
        json!({"plaintext": b64("t"), "convergent_encryption": true}),
    ] {
        refusal(transit.write("encrypt/k", body).await);
    }
    assert!(
        !transit.backend.exists("encrypt/k").await.unwrap(),
        "a refused request makes none"
    );
    transit
        .write(
            "encrypt/k",
            json!({"plaintext": b64("t"), "context": b64("c")}),
        )
        .await
        .unwrap();
    assert!(transit.backend.exists("encrypt/k").await.unwrap());
    assert_eq!(transit.read("keys/k").await.unwrap()["derived"], true);
    refusal(
        transit
            .write("encrypt/-k", json!({"plaintext": b64("t")}))
            .await,
    );

    let effect = |mounted: &Mounted| {
        let mut routes = mounted.routes.iter();
        routes
            .find(|route| route.pattern.as_str() == "encrypt/{name}")
            .unwrap()
            .effect
    };
    assert_eq!(effect(&transit), Effect::Change);
    let host = host.option("disable_upsert", "true");
    let strict = Mounted::new(crate::open(host.host()).await.ok().unwrap(), &host);
    assert_eq!(effect(&strict), Effect::Observe);
    let body = json!({"plaintext": b64("t")});
    assert_eq!(
        refusal(strict.write("encrypt/new", body).await),
        "encryption key not found"
    );
    let bad = host.option("disable_upsert", "maybe");
    assert!(matches!(
        crate::open(bad.host()).await,
        Err(BackendError::InvalidRole(_))
    ));
}

#[tokio::test]
async fn what_a_key_is_not_for_is_refused() {
    let (_, transit) = mount().await;
    for kind in ["aes256-gcm96", "ed25519", "ecdsa-p256", "hmac"] {
        let size = if kind == "hmac" { 32 } else { 0 };
        transit
            .write(
                &format!("keys/{kind}"),
                json!({"type": kind, "key_size": size}),
            )
            .await
            .unwrap();
    }
    let input = json!({"input": b64("m")});
    let signed = json!({"input": b64("m"), "signature": "vault:v1:AAAA"});
    let plain = json!({"plaintext": b64("m")});
    let sealed = json!({"ciphertext": "vault:v1:AAAA"});
    let cases = [
        (
            "sign/aes256-gcm96",
            &input,
            "key type aes256-gcm96 does not support signing",
        ),
        (
            "sign/hmac",
            &input,
            "key type hmac does not support signing",
        ),
        (
            "verify/hmac",
            &signed,
            "key type hmac does not support verification",
        ),
        (
            "encrypt/ed25519",
            &plain,
            "message encryption not supported for key type ed25519",
        ),
        (
            "encrypt/hmac",
            &plain,
            "message encryption not supported for key type hmac",
        ),
        (
            "decrypt/ecdsa-p256",
            &sealed,
            "message decryption not supported for key type ecdsa-p256",
        ),
        (
            "datakey/plaintext/ed25519",
            &plain,
            "message encryption not supported for key type ed25519",
        ),
        ("decrypt/none", &sealed, "encryption key not found"),
        ("sign/none", &input, "signing key not found"),
        (
            "verify/none",
            &signed,
            "signature verification key not found",
        ),
        ("keys/none/rotate", &input, "key not found"),
        (
            "verify/ed25519",
            &input,
            "neither a 'signature' nor an 'hmac' were given to verify",
        ),
    ];
    for (path, body, want) in cases {
        assert_eq!(
            refusal(transit.write(path, body.clone()).await),
            want,
            "{path}"
        );
    }
    let made = [
        (
            json!({"type": "xchacha20-poly1305"}),
            "field \"type\": expected one of aes128-gcm96",
        ),
        (
            json!({"convergent_encryption": true}),
            "requires derivation to be enabled",
        ),
        (
            json!({"type": "rsa-2048", "derived": true}),
            "key derivation not supported for keys of type rsa-2048",
        ),
        (json!({"type": "hmac"}), "between 32 and 512 bytes"),
        (
            json!({"key_size": 32}),
            "is not valid for algorithm aes256-gcm96",
        ),
        (json!({"auto_rotate_period": "1s"}), "at least an hour"),
        (json!({"exportible": true}), "did you mean \"exportable\"?"),
    ];
    for (body, want) in made {
        let text = refusal(transit.write("keys/new", body).await);
        assert!(text.contains(want), "{text}");
    }
}

#[tokio::test]
async fn data_keys_and_random_bytes_are_as_long_as_asked() {
    let (_, transit) = mount().await;
    transit.write("keys/k", json!({})).await.unwrap();
    for bits in [128, 256, 512] {
        let made = transit
            .write("datakey/plaintext/k", json!({"bits": bits}))
            .await
            .unwrap();
        assert_eq!(
            STANDARD.decode(text(&made["plaintext"])).unwrap().len(),
            bits / 8
        );
        let opened = transit
            .write("decrypt/k", json!({"ciphertext": made["ciphertext"]}))
            .await
            .unwrap();
        assert_eq!(opened["plaintext"], made["plaintext"]);
    }
    let wrapped = transit.write("datakey/wrapped/k", json!({})).await.unwrap();
    assert!(wrapped["plaintext"].is_null());
    refusal(
        transit
            .write("datakey/plaintext/k", json!({"bits": 1}))
            .await,
    );
    refusal(transit.write("datakey/both/k", json!({})).await);
    let cases = [
        ("random", json!({}), 64),
        ("random/4", json!({}), 8),
        ("random/platform", json!({"bytes": 5}), 10),
        ("random/all/6", json!({}), 12),
    ];
    for (path, mut body, want) in cases {
        body["format"] = json!("hex");
        let made = transit.write(path, body).await.unwrap();
        assert_eq!(text(&made["random_bytes"]).len(), want, "{path}");
    }
    for path in [
        "random/0",
        "random/131073",
        "random/moon",
        "random/moon/4",
        "random/platform/x",
    ] {
        refusal(transit.write(path, json!({})).await);
    }
    let sum = transit
        .write("hash", json!({"input": b64("hello")}))
        .await
        .unwrap();
    assert_eq!(
        sum["sum"],
        "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    );
}

/// What OpenBao 2.7 answers to the same request, but for the numbers that differ by run.
#[tokio::test]
async fn a_key_reads_as_in_openbao() {
    let (_, transit) = mount().await;
    let derived = transit
        .write(
            "keys/d",
            json!({"derived": true, "convergent_encryption": true, "exportable": true}),
        )
        .await
        .unwrap();
    let want = json!({"allow_plaintext_backup":false,"auto_rotate_period":0,"convergent_encryption":true,
        "convergent_encryption_version":-1,"deletion_allowed":false,"derived":true,"exportable":true,
        "imported_key":false,"kdf":"hkdf_sha256","keys":{"1":1_767_225_600},"latest_version":1,
        "min_available_version":0,"min_decryption_version":1,"min_encryption_version":0,"name":"d",
        "soft_deleted":false,"supports_decryption":true,"supports_derivation":true,
        "supports_encryption":true,"supports_signing":false,"type":"aes256-gcm96"});
    assert_eq!(derived.data, want);
    let hmac = transit
        .write("keys/h", json!({"type": "hmac", "key_size": 32}))
        .await
        .unwrap();
    let want = json!({"allow_plaintext_backup":false,"auto_rotate_period":0,"deletion_allowed":false,
        "derived":false,"exportable":false,"imported_key":false,"key_size":32,"latest_version":1,
        "min_available_version":0,"min_decryption_version":1,"min_encryption_version":0,"name":"h",
        "soft_deleted":false,"supports_decryption":false,"supports_derivation":false,
        "supports_encryption":false,"supports_signing":false,"type":"hmac"});
    assert_eq!(hmac.data, want);
    let ec = transit
        .write("keys/p", json!({"type": "ecdsa-p256"}))
        .await
        .unwrap();
    let version = &ec["keys"]["1"];
    assert_eq!(
        (&version["name"], &version["creation_time"]),
        (&json!("P-256"), &json!("2026-01-01T00:00:00Z"))
    );
    assert!(text(&version["public_key"]).ends_with("-----END PUBLIC KEY-----\n"));
    let again = transit
        .write("keys/d", json!({"type": "ed25519"}))
        .await
        .unwrap();
    assert_eq!(again["type"], "aes256-gcm96", "what is there stays");
    assert_eq!(again.warnings.len(), 1);
    let listed = transit
        .request(Operation::List, "keys", json!({}))
        .await
        .unwrap();
    assert_eq!(
        (listed.kind, &listed["keys"]),
        (Answered::Data, &json!(["d", "h", "p"]))
    );
}
