//! Revoking, and the CRLs that OpenSSL then checks against.

use std::time::Duration;

use daypass_contract::Clock as _;
use serde_json::{Value, json};

use super::bench::{Bench, HOUR, certificate, openssl, text};

/// What OpenSSL says of a CRL: its number, its end and the serial numbers in it.
struct Listed {
    number: u128,
    next_update: String,
    serials: Vec<String>,
}

fn listed(der: &[u8]) -> Listed {
    let text = openssl(&["crl", "-inform", "DER", "-noout", "-text"], der);
    let after = |title: &str| {
        text.split_once(title)
            .unwrap()
            .1
            .trim_start()
            .lines()
            .next()
            .unwrap()
    };
    let number = after("X509v3 CRL Number:").trim();
    let number = match number.strip_prefix("0x") {
        Some(hex) => u128::from_str_radix(hex, 16).unwrap(),
        None => number.parse().unwrap(),
    };
    let serials = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Serial Number: "));
    Listed {
        number,
        next_update: after("Next Update: ").to_owned(),
        serials: serials.map(str::to_lowercase).collect(),
    }
}

fn plain(serial: &Value) -> String {
    text(serial).replace(':', "")
}

async fn issue(bench: &Bench) -> Value {
    bench
        .ok("issue/any", json!({"common_name": "a.org"}))
        .await
        .data
}

async fn revoke(bench: &Bench, leaf: &Value) {
    bench
        .ok("revoke", json!({"serial_number": leaf["serial_number"]}))
        .await;
}

#[tokio::test]
async fn openssl_refuses_what_was_revoked_and_only_that() {
    let bench = Bench::with_root().await;
    let root = bench.read("cert/ca").await;
    let root = text(&root["certificate"]);
    let (gone, good) = (issue(&bench).await, issue(&bench).await);
    let check = async |leaf: &Value| {
        let crl = String::from_utf8(bench.raw("crl/pem").await.unwrap().1).unwrap();
        let extra = [("-crl_check", ""), ("-CRLfile", crl.as_str())];
        bench.verify(root, text(&leaf["certificate"]), &extra)
    };
    check(&gone).await.unwrap();
    bench.host.clock.advance(Duration::from_micros(1_500));
    let revoked = bench
        .ok("revoke", json!({"serial_number": gone["serial_number"]}))
        .await;
    assert_eq!(revoked["state"], "revoked");
    assert_eq!(
        revoked["revocation_time"],
        crate::validity::unix(bench.host.clock.now())
    );
    assert!(
        check(&gone)
            .await
            .unwrap_err()
            .contains("certificate revoked")
    );
    check(&good).await.unwrap();

    // Again, later: it stays revoked since the first time.
    bench.host.clock.advance(HOUR / 2);
    let again = bench
        .ok("revoke", json!({"serial_number": gone["serial_number"]}))
        .await;
    assert_eq!(again.data, revoked.data);
    let shown = bench
        .read(&format!("cert/{}", text(&gone["serial_number"])))
        .await;
    assert_eq!(shown["revocation_time"], revoked["revocation_time"]);
    assert_eq!(
        shown["revocation_time_rfc3339"],
        revoked["revocation_time_rfc3339"]
    );
    let shown = bench
        .read(&format!("cert/{}", text(&good["serial_number"])))
        .await;
    assert_eq!(shown["revocation_time"], 0);
    assert_eq!(
        bench.names("certs/revoked").await,
        [text(&gone["serial_number"])]
    );
}

#[tokio::test]
async fn a_certificate_that_was_not_stored_is_revoked_by_itself() {
    let bench = Bench::with_root().await;
    bench
        .role(
            "unstored",
            json!({"allow_any_name": true, "no_store": true}),
        )
        .await;
    let leaf = bench
        .ok("issue/unstored", json!({"common_name": "a.org"}))
        .await;
    let by_serial = json!({"serial_number": leaf["serial_number"]});
    let refusal = bench.refused("revoke", by_serial).await;
    assert!(refusal.contains("giving the certificate"), "{refusal}");
    bench
        .ok("revoke", json!({"certificate": leaf["certificate"]}))
        .await;
    assert_eq!(
        listed(&bench.crl().await).serials,
        [plain(&leaf["serial_number"])]
    );
    let shown = bench
        .read(&format!("cert/{}", text(&leaf["serial_number"])))
        .await;
    assert_ne!(shown["revocation_time"], 0);
}

#[tokio::test]
async fn what_cannot_be_revoked_is_refused() {
    let bench = Bench::with_root().await;
    let stranger = issue(&Bench::with_root().await).await;
    let root = bench.read("cert/ca").await;
    let cases = [
        (json!({}), "\"serial_number\""),
        (json!({"serial_number": "zz"}), "\"serial_number\""),
        (json!({"serial_number": "01:02"}), "no certificate"),
        (
            json!({"serial_number": "01:02", "certificate": "x"}),
            "together",
        ),
        (json!({"certificate": "x"}), "\"certificate\""),
        (
            json!({"certificate": stranger["certificate"]}),
            "not signed by any issuer",
        ),
        (
            json!({"certificate": root["certificate"]}),
            "delete it here",
        ),
    ];
    for (request, want) in cases {
        let refusal = bench.refused("revoke", request.clone()).await;
        assert!(refusal.contains(want), "{request}: {refusal}");
    }
    let leaf = issue(&bench).await;
    bench.host.clock.advance(2 * HOUR);
    let late = json!({"serial_number": leaf["serial_number"]});
    assert_eq!(bench.ok("revoke", late.clone()).await.warnings.len(), 1);
    assert_eq!(bench.names("certs/revoked").await, [""; 0]);
    bench
        .ok("config/crl", json!({"allow_expired_cert_revocation": true}))
        .await;
    bench.ok("revoke", late).await;
    assert_eq!(bench.names("certs/revoked").await.len(), 1);
}

#[tokio::test]
async fn thousands_of_revocations_sign_one_list() {
    const MANY: usize = 1_500;
    let bench = Bench::with_root().await;
    let mut leaves = Vec::new();
    for _ in 0..MANY {
        leaves.push(issue(&bench).await);
    }
    let first = listed(&bench.crl().await);
    let (batches, gets) = (bench.host.store.batches(), bench.host.store.gets());
    for leaf in &leaves {
        revoke(&bench, leaf).await;
    }
    assert_eq!(
        bench.host.store.batches() - batches,
        MANY,
        "a revocation is one write"
    );
    assert!(
        bench.host.store.gets() - gets <= 4 * MANY,
        "and a few reads"
    );

    let batches = bench.host.store.batches();
    let all = listed(&bench.crl().await);
    assert_eq!(
        bench.host.store.batches() - batches,
        1,
        "the reader builds one list"
    );
    assert!(all.number > first.number);
    let mut want: Vec<String> = leaves
        .iter()
        .map(|leaf| plain(&leaf["serial_number"]))
        .collect();
    want.sort_unstable();
    assert_eq!(all.serials, want);

    // A long list is built at most once a second, and then holds everything.
    let late = issue(&bench).await;
    revoke(&bench, &late).await;
    assert_eq!(listed(&bench.crl().await).serials.len(), MANY);
    bench.host.clock.advance(Duration::from_secs(1));
    let gets = bench.host.store.gets();
    assert_eq!(listed(&bench.crl().await).serials.len(), MANY + 1);
    assert!(
        bench.host.store.gets() - gets < 20,
        "revocations are read once"
    );
    let batches = bench.host.store.batches();
    bench.crl().await;
    assert_eq!(
        bench.host.store.batches(),
        batches,
        "nothing has changed: nothing is built"
    );
}

#[tokio::test]
async fn what_one_node_revokes_another_lists() {
    let one = Bench::with_root().await;
    let two = Bench::on(one.host.clone()).await;
    let mut last = listed(&two.crl().await).number;
    for count in 1..=3 {
        revoke(&one, &issue(&one).await).await;
        for node in [&two, &one] {
            let now = listed(&node.crl().await);
            assert_eq!(now.serials.len(), count);
            assert!(now.number >= last);
            last = now.number;
        }
    }
}

#[tokio::test]
async fn readers_at_once_build_one_list() {
    let bench = Bench::with_root().await;
    revoke(&bench, &issue(&bench).await).await;
    let batches = bench.host.store.batches();
    let lists = tokio::join!(bench.crl(), bench.crl(), bench.crl(), bench.crl());
    assert_eq!(bench.host.store.batches() - batches, 1);
    assert!(lists.0 == lists.1 && lists.1 == lists.2 && lists.2 == lists.3);
}

#[tokio::test]
async fn a_renewed_ca_goes_on_listing_what_its_predecessor_revoked() {
    let bench = Bench::new().await;
    bench
        .root(json!({"key_name": "k", "issuer_name": "first"}))
        .await;
    bench.role("any", json!({"allow_any_name": true})).await;
    let gone = issue(&bench).await;
    revoke(&bench, &gone).await;
    let before = listed(&bench.crl().await);

    bench.host.clock.advance(HOUR / 2);
    let renewal =
        json!({"common_name": "Root", "key_ref": "k", "ttl": "9000h", "issuer_name": "second"});
    let renewed = bench.ok("root/generate/existing", renewal).await;
    bench
        .ok("config/issuers", json!({"default": "second"}))
        .await;
    let after = listed(&bench.crl().await);
    assert_eq!(after.serials, before.serials);
    assert!(after.number > before.number);
    bench.mounted.delete("issuer/first").await.unwrap();
    revoke(&bench, &issue(&bench).await).await;
    assert_eq!(listed(&bench.crl().await).serials.len(), 2);
    let crl = String::from_utf8(bench.raw("crl/pem").await.unwrap().1).unwrap();
    let extra = [("-crl_check", ""), ("-CRLfile", crl.as_str())];
    let verdict = bench.verify(
        text(&renewed["certificate"]),
        text(&gone["certificate"]),
        &extra,
    );
    assert!(verdict.unwrap_err().contains("certificate revoked"));
}

#[tokio::test]
async fn maintenance_replaces_a_list_before_it_ends() {
    let bench = Bench::with_root().await;
    bench
        .ok(
            "config/crl",
            json!({"expiry": "24h", "auto_rebuild_grace_period": "4h"}),
        )
        .await;
    let backend = &bench.mounted.backend;
    let mut now = bench.host.clock.now();
    let next = backend.maintain(now).await.unwrap().unwrap();
    assert_eq!(
        next,
        now + HOUR,
        "an issuer that comes meanwhile is seen soon"
    );
    let first = listed(&bench.crl().await);
    bench.host.clock.advance(19 * HOUR);
    now = bench.host.clock.now();
    assert_eq!(backend.maintain(now).await.unwrap(), Some(now + HOUR));
    assert_eq!(listed(&bench.crl().await).number, first.number, "not yet");
    bench.host.clock.advance(HOUR);
    now = bench.host.clock.now();
    backend.maintain(now).await.unwrap();
    let second = listed(&bench.crl().await);
    assert!(second.number > first.number && second.next_update != first.next_update);

    // Without maintenance, the reader does it.
    bench.host.clock.advance(30 * HOUR);
    assert!(listed(&bench.crl().await).number > second.number);
}

#[tokio::test]
async fn the_settings_of_crls_are_honoured() {
    let bench = Bench::with_root().await;
    let leaf = issue(&bench).await;
    bench.crl().await;
    bench.ok("config/crl", json!({"auto_rebuild": true})).await;
    revoke(&bench, &leaf).await;
    assert_eq!(
        listed(&bench.crl().await).serials.len(),
        0,
        "it waits for its time"
    );
    bench.mounted.read("crl/rotate").await.unwrap();
    assert_eq!(listed(&bench.crl().await).serials.len(), 1);
    bench.ok("config/crl", json!({"disable": true})).await;
    assert_eq!(listed(&bench.crl().await).serials.len(), 0);
    bench
        .ok(
            "config/crl",
            json!({"disable": false, "auto_rebuild": false, "expiry": "48h"}),
        )
        .await;
    assert_eq!(listed(&bench.crl().await).serials.len(), 1);
    assert!(listed(&bench.crl().await).next_update.starts_with("Jan  3"));
    for fields in [
        json!({"expiry": "1s"}),
        json!({"expiry": "10h", "auto_rebuild_grace_period": "11h"}),
        json!({"enable_delta": true}),
        json!({"expire": "10h"}),
    ] {
        bench.refused("config/crl", fields).await;
    }
    assert_eq!(bench.read("config/crl").await["expiry"], "48h");
}

#[tokio::test]
async fn what_anyone_may_read_has_the_media_types_of_vault() {
    let bench = Bench::new().await;
    let paths = ["ca", "ca/pem", "ca_chain", "crl", "crl/pem"];
    for path in paths {
        assert_eq!(bench.raw(path).await, None, "{path}: nothing yet");
    }
    let root = bench.root(json!({"issuer_name": "r"})).await;
    let pem = format!("{}\n", text(&root["certificate"])).into_bytes();
    let der = certificate(&root["certificate"]).der().to_vec();
    let crl = bench.crl().await;
    let crl_pem = bench.raw("crl/pem").await.unwrap().1;
    assert_eq!(
        openssl(&["crl", "-inform", "DER"], &crl).into_bytes(),
        crl_pem
    );
    let cases = [
        ("ca", "application/pkix-cert", &der),
        ("issuer/r/der", "application/pkix-cert", &der),
        ("ca/pem", "application/pem-certificate-chain", &pem),
        ("issuer/r/pem", "application/pem-certificate-chain", &pem),
        ("ca_chain", "application/pem-certificate-chain", &pem),
        ("crl", "application/pkix-crl", &crl),
        ("issuer/r/crl/der", "application/pkix-crl", &crl),
        ("issuer/r/crl/pem", "application/x-pem-file", &crl_pem),
    ];
    for (path, content_type, bytes) in cases {
        assert_eq!(
            bench.raw(path).await,
            Some((content_type, bytes.clone())),
            "{path}"
        );
    }
    let crl_text = String::from_utf8(crl_pem).unwrap();
    assert_eq!(bench.read("issuer/r/crl").await["crl"], crl_text);
    assert_eq!(
        bench.read("cert/crl").await["certificate"],
        crl_text.trim_end()
    );
    let chain = bench.read("cert/ca_chain").await;
    assert_eq!(
        (&chain["ca_chain"], &chain["certificate"]),
        (&root["certificate"], &root["certificate"])
    );
    for path in [
        "issuer/nope/pem",
        "issuer/nope/crl/der",
        "issuer/nope/crl",
        "cert/01:02",
        "cert/x",
    ] {
        assert!(bench.mounted.read(path).await.is_err(), "{path}");
    }
}

#[tokio::test]
async fn tidying_removes_what_expired_long_ago() {
    let bench = Bench::with_root().await;
    let (old, gone) = (issue(&bench).await, issue(&bench).await);
    revoke(&bench, &gone).await;
    assert_eq!(listed(&bench.crl().await).serials.len(), 1);
    let both = json!({"tidy_cert_store": true, "tidy_revoked_certs": true, "safety_buffer": "2h"});
    bench.host.clock.advance(2 * HOUR);
    let tidied = bench.ok("tidy", both.clone()).await;
    assert_eq!(
        tidied.data,
        json!({"cert_store_deleted_count": 0, "revoked_cert_deleted_count": 0})
    );
    bench.host.clock.advance(2 * HOUR);
    let young = issue(&bench).await;
    let tidied = bench.ok("tidy", both).await;
    assert_eq!(
        tidied.data,
        json!({"cert_store_deleted_count": 2, "revoked_cert_deleted_count": 1})
    );
    assert_eq!(listed(&bench.crl().await).serials.len(), 0);
    assert_eq!(bench.names("certs/revoked").await, [""; 0]);
    let left = bench.names("certs").await;
    assert_eq!(left.len(), 2, "the root and the young one");
    assert!(left.contains(&text(&young["serial_number"]).to_owned()));
    assert!(!left.contains(&text(&old["serial_number"]).to_owned()));
    bench
        .refused("tidy", json!({"tidy_everything": true}))
        .await;
}
