//! Known answers: what OpenBao's keys encrypted and signed, with the keys, as `record.py` wrote them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_conformance::SeededEntropy;
use daypass_contract::Secret;
use serde_json::Value;

use crate::hash::Hash;
use crate::kind::Kind;
use crate::material::{Export, Material};
use crate::text::Marshaling;
use crate::version::{Method, Padding, Salt, Version, asn1_signing};

const INPUT: &[u8] = b"the quick brown fox";
const CONTEXT: &[u8] = b"my context";
const AAD: &[u8] = b"my aad";

/// The stored form of what OpenBao exported.
fn import(kind: Kind, exported: &str) -> Secret {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    use aws_lc_rs::signature::{EcdsaKeyPair, RsaKeyPair};
    let lines = exported.lines().filter(|line| !line.starts_with("-----"));
    let bytes = STANDARD.decode(lines.collect::<String>()).unwrap();
    if let Some(algorithm) = asn1_signing(kind) {
        let pair = EcdsaKeyPair::from_private_key_der(algorithm, &bytes).unwrap();
        return Secret::new(pair.to_pkcs8v1().unwrap().as_ref());
    }
    match kind {
        Kind::Ed25519 => Secret::new(&bytes[..32]),
        Kind::Rsa2048 => {
            let pair = RsaKeyPair::from_der(&bytes).unwrap();
            let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
            Secret::new(der.as_ref())
        }
        _ => Secret::new(bytes),
    }
}

fn method(signature: &Value) -> Method {
    let text = |name: &str| signature[name].as_str();
    Method {
        hash: serde_json::from_value::<Hash>(signature["hash"].clone()).unwrap(),
        prehashed: false,
        padding: match (text("algorithm"), text("salt_length")) {
            (Some("pkcs1v15"), _) => Padding::Pkcs1,
            (_, Some("hash")) => Padding::Pss(Salt::Hash),
            _ => Padding::Pss(Salt::Auto),
        },
        marshaling: match text("marshaling") {
            Some("jws") => Marshaling::Jws,
            _ => Marshaling::Asn1,
        },
    }
}

#[test]
fn what_openbao_made_is_opened_and_verified_and_its_keys_leave_as_they_came() {
    let entropy = SeededEntropy::new(1);
    let mut seen = 0;
    for line in include_str!("../../testdata/openbao.jsonl").lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| record[name].as_str();
        let kind: Kind = serde_json::from_value(record["type"].clone()).unwrap();
        let key = import(kind, text("key").unwrap());
        let hmac_key = Secret::new(STANDARD.decode(text("hmac_key").unwrap()).unwrap());
        let material = Material::of(kind, key, hmac_key);
        let derived = record["derived"] == true;
        let convergent = record["convergent"] == true;
        let version = Version::new(&material, derived, convergent).unwrap();
        let context = if derived { CONTEXT } else { b"" };

        let use_of_it = if kind.signs() {
            Export::Signing
        } else {
            Export::Encryption
        };
        let exported = material.export(use_of_it).unwrap();
        assert!(
            exported.ct_eq(text("key").unwrap().as_bytes()),
            "export of {kind:?}"
        );

        if let Some(ciphertext) = text("ciphertext") {
            let aad = if kind.cipher().is_some() { AAD } else { b"" };
            let (_, sealed) = Marshaling::Asn1.read("c", ciphertext.as_bytes()).unwrap();
            let opened = version.decrypt(sealed.clone(), context, aad).unwrap();
            assert!(opened.ct_eq(INPUT), "{kind:?} {derived} {convergent}");
            let again = version
                .encrypt(&Secret::new(INPUT), context, aad, &entropy)
                .unwrap();
            // Convergent encryption gives the very same text, here and there; any other never does.
            assert_eq!(again == sealed, convergent, "{kind:?} {derived}");
            seen += 1;
        }
        if let Some(hmac) = text("hmac") {
            let (_, tag) = Marshaling::Asn1.read("h", hmac.as_bytes()).unwrap();
            assert!(version.hmac_verifies(INPUT, &tag, Hash::Sha256).unwrap());
            assert!(!version.hmac_verifies(b"other", &tag, Hash::Sha256).unwrap());
            assert_eq!(version.hmac(INPUT, Hash::Sha256).unwrap().as_ref(), tag);
            seen += 1;
        }
        for signature in record["signatures"].as_array().into_iter().flatten() {
            let method = method(signature);
            let text = signature["signature"].as_str().unwrap();
            let (_, bytes) = method.marshaling.read("s", text.as_bytes()).unwrap();
            let verify = |input: &[u8]| version.verify(input, &bytes, context, method).unwrap();
            assert!(verify(INPUT), "{kind:?} {method:?}");
            assert!(!verify(b"other"), "{kind:?} {method:?}");
            let (ours, _) = version.sign(INPUT, context, method).unwrap();
            assert!(
                version.verify(INPUT, &ours, context, method).unwrap(),
                "{method:?}"
            );
            if kind == Kind::Ed25519 || method.padding == Padding::Pkcs1 && kind.rsa().is_some() {
                assert_eq!(ours, bytes, "deterministic: {kind:?} {method:?}");
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 10 + 9 + 2 + 3 * 16 + 9, "every record was checked");
}
