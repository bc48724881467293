//! The rules, as tables.

use std::time::Duration;

use daypass_contract::{BackendError, Body};
use proptest::prelude::*;
use serde_json::{Value, json};
use ssh_key::PublicKey;

use super::*;

fn role(fields: Value) -> Role {
    let Value::Object(fields) = fields else {
        panic!("a role is an object");
    };
    Body::new(fields).decode().unwrap()
}

fn names(text: &str) -> Names {
    Names::of([text])
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn asking(
    role: &Role,
    kind: CertType,
    critical: BTreeMap<String, String>,
    extensions: BTreeMap<String, String>,
) -> Result<Options, BackendError> {
    let asked = Options {
        critical,
        extensions,
    };
    options(role, kind, asked)
}

/// What was decided, or the text of the refusal.
fn said<T>(outcome: Result<T, BackendError>) -> Result<T, String> {
    outcome.map_err(|error| error.to_string())
}

fn judge(outcome: Result<Vec<String>, BackendError>) -> String {
    match said(outcome) {
        Ok(names) => names.join(","),
        Err(text) if text.contains("globally-valid") => "nobody".into(),
        Err(text) if text.contains("any principals") => "none allowed".into(),
        Err(text) if text.contains("does not allow") => "not allowed".into(),
        Err(text) => text,
    }
}

#[test]
fn users_are_those_that_the_role_lists() {
    let cases = [
        // allowed    default  asked        want
        ("", "", "", "nobody"),
        ("", "", "bob", "none allowed"),
        ("", "bob", "", "none allowed"),
        ("bob", "", "", "nobody"),
        ("bob", "", "bob", "bob"),
        ("bob", "bob", "", "bob"),
        ("eve", "bob", "", "not allowed"),
        ("bob", "", "eve", "not allowed"),
        ("bob", "", "bob,eve", "not allowed"),
        ("bob,eve", "", "eve,bob,eve", "eve,bob"),
        ("bob", "", "Bob", "not allowed"),
        ("bo*", "", "bob", "not allowed"),
        ("*", "", "anyone", "anyone"),
        ("*", "", "", "nobody"),
        ("*", "", ",,", "nobody"),
        ("*", "bob", "", "bob"),
    ];
    for (allowed, default, asked, want) in cases {
        let role = role(json!({"allowed_users": allowed, "default_user": default}));
        let case = format!("{allowed} {default} {asked}");
        assert_eq!(judge(users(&role, names(asked))), want, "{case}");
    }
    let open = role(json!({"allow_empty_principals": true}));
    assert_eq!(judge(users(&open, names(""))), "");
    assert_eq!(judge(users(&open, names("bob"))), "none allowed");
    let any = role(json!({"allowed_users": "*"}));
    let refused = judge(users(&any, names("bob\neve")));
    assert!(refused.contains("control characters"), "{refused}");
    let many: Vec<String> = (0..300).map(|at| format!("u{at}")).collect();
    let refused = judge(users(&any, names(&many.join(","))));
    assert!(refused.contains("at most 256"), "{refused}");
}

#[test]
fn hosts_are_the_domains_and_what_is_below_them_as_the_flags_say() {
    let cases = [
        // domains          bare   below  asked                  want
        ("", true, true, "a.example.com", "none allowed"),
        ("example.com", false, false, "example.com", "not allowed"),
        ("example.com", true, false, "example.com", "example.com"),
        ("example.com", true, false, "a.example.com", "not allowed"),
        ("example.com", false, true, "a.example.com", "a.example.com"),
        (
            "example.com",
            false,
            true,
            "b.a.example.com",
            "b.a.example.com",
        ),
        ("example.com", false, true, "example.com", "not allowed"),
        ("example.com", false, true, "aexample.com", "not allowed"),
        ("example.com", false, true, ".example.com", "not allowed"),
        ("example.com", false, true, "a..example.com", "not allowed"),
        ("example.com", false, true, "a.*.example.com", "not allowed"),
        ("example.com", false, true, "a?.example.com", "not allowed"),
        ("example.com", false, true, "*.example.com", "*.example.com"),
        (
            "example.com",
            false,
            true,
            "evil.org/.example.com",
            "not allowed",
        ),
        (
            "a.org,b.org",
            false,
            true,
            "x.a.org,x.b.org",
            "x.a.org,x.b.org",
        ),
        ("a.org,b.org", false, true, "x.a.org,x.c.org", "not allowed"),
        ("*", false, false, "anything", "anything"),
        ("*", false, false, "", "nobody"),
    ];
    for (domains, bare, below, asked, want) in cases {
        let role = role(json!({
            "allowed_domains": domains,
            "allow_bare_domains": bare,
            "allow_subdomains": below,
            // Users are of no concern to a host.
            "allowed_users": "*",
            "default_user": "bob",
        }));
        let case = format!("{domains} {bare} {below} {asked}");
        assert_eq!(judge(hosts(&role, names(asked))), want, "{case}");
    }
}

#[test]
fn the_type_of_a_certificate_is_what_the_role_allows() {
    let cases = [
        (true, false, "", Ok(CertType::User)),
        (true, false, "user", Ok(CertType::User)),
        (
            true,
            false,
            "host",
            Err("cert_type 'host' is not allowed by role"),
        ),
        (
            false,
            true,
            "",
            Err("cert_type 'user' is not allowed by role"),
        ),
        (false, true, "host", Ok(CertType::Host)),
        (
            true,
            true,
            "dog",
            Err("cert_type must be either 'user' or 'host'"),
        ),
    ];
    for (user, host, asked, want) in cases {
        let role = role(json!({"allow_user_certificates": user, "allow_host_certificates": host}));
        let want = want.map_err(str::to_owned);
        assert_eq!(said(cert_type(&role, asked)), want, "{user} {host} {asked}");
    }
}

#[test]
fn extensions_are_those_on_the_list_and_defaults_where_none_is_asked_for() {
    let pty = ("permit-pty", "");
    let x11 = ("permit-X11-forwarding", "");
    let cases: [(&str, &[_], Option<&[_]>); 7] = [
        ("", &[], Some(&[pty])),
        ("", &[pty], None),
        ("permit-pty", &[pty], Some(&[pty])),
        ("permit-pty", &[pty, x11], None),
        ("permit-X11-forwarding", &[x11], Some(&[x11])),
        ("*", &[pty, x11], Some(&[pty, x11])),
        ("permit-*", &[pty], None),
    ];
    for (allowed, asked, want) in cases {
        let role = role(json!({
            "allowed_extensions": allowed,
            "default_extensions": {"permit-pty": ""},
        }));
        let got = asking(&role, CertType::User, map(&[]), map(asked));
        assert_eq!(
            got.ok().map(|got| got.extensions),
            want.map(map),
            "{allowed} {asked:?}"
        );
    }
}

#[test]
fn critical_options_are_added_and_never_taken_away() {
    let forced = ("force-command", "backup");
    let other = ("force-command", "sh");
    let source = ("source-address", "10.0.0.0/8");
    let cases: [(&str, &[_], Option<&[_]>); 8] = [
        ("", &[], Some(&[forced])),
        ("", &[source], Some(&[forced, source])),
        ("", &[forced], Some(&[forced])),
        ("", &[other], None),
        ("*", &[other], None),
        ("force-command", &[other], Some(&[other])),
        ("force-command", &[source], None),
        ("source-address", &[source], Some(&[forced, source])),
    ];
    for (allowed, asked, want) in cases {
        let role = role(json!({
            "allowed_critical_options": allowed,
            "default_critical_options": {"force-command": "backup"},
        }));
        let got = asking(&role, CertType::User, map(asked), map(&[]));
        assert_eq!(
            got.ok().map(|got| got.critical),
            want.map(map),
            "{allowed} {asked:?}"
        );
    }
}

#[test]
fn certificates_of_hosts_have_no_options() {
    let role = role(json!({
        "allowed_extensions": "*",
        "default_extensions": {"permit-pty": ""},
        "default_critical_options": {"force-command": "x"},
    }));
    let none = Options::default();
    assert_eq!(
        said(asking(&role, CertType::Host, map(&[]), map(&[]))),
        Ok(none)
    );
    assert!(asking(&role, CertType::Host, map(&[("a", "")]), map(&[])).is_err());
    assert!(asking(&role, CertType::Host, map(&[]), map(&[("a", "")])).is_err());
}

#[test]
fn a_certificate_lasts_as_long_as_asked_for_and_no_longer_than_allowed() {
    let s = |seconds| Some(Duration::from_secs(seconds));
    let cases = [
        // name                              asked    role     role's max  want
        ("nobody has an opinion", None, None, None, Ok(3600)),
        ("the role gives less", None, s(60), None, Ok(60)),
        ("the caller asks for less", s(10), s(60), None, Ok(10)),
        ("the caller asks for more", s(90), s(60), None, Ok(90)),
        (
            "the role's end is kept",
            s(91),
            s(60),
            s(90),
            Err("ttl is larger than maximum allowed 90"),
        ),
        (
            "the mount's end too",
            s(86_401),
            None,
            None,
            Err("ttl is larger than maximum allowed 86400"),
        ),
        (
            "the role cannot exceed it",
            s(90_000),
            None,
            s(100_000),
            Err("ttl is larger than maximum allowed 86400"),
        ),
        ("a default is cut", None, s(90_000), None, Ok(86_400)),
        ("the mount's default is cut", None, None, s(60), Ok(60)),
        ("zero says nothing", s(0), s(60), None, Ok(60)),
        (
            "there is no shorter than a second",
            Some(Duration::from_millis(500)),
            None,
            None,
            Err("field \"ttl\": must be at least a second"),
        ),
    ];
    for (name, asked, ttl, max_ttl, want) in cases {
        let role = Role {
            ttl,
            max_ttl,
            ..Role::default()
        };
        let (default, max) = (Duration::from_secs(3600), Duration::from_secs(86_400));
        let got = said(lifetime(&role, asked, default, max)).map(|ttl| ttl.as_secs());
        assert_eq!(got, want.map_err(str::to_owned), "{name}");
    }
}

const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEOxxuOGvZib8zjq1mTUURki2TuRFzITHfpGMg4HquRk someone@somewhere";
/// What `ssh-keygen -l -E sha256` calls it, in base 16.
const ED25519_HASH: &str = "d8fc8208da2590471cb4ab89fa8ceb5657a69cefb680ff1ca71c1c945facdd5a";

fn ed25519() -> KeyData {
    PublicKey::from_openssh(ED25519).unwrap().key_data().clone()
}

fn rsa(bytes: usize) -> KeyData {
    let n = ssh_key::Mpint::from_positive_bytes(&vec![0xff; bytes]);
    let e = ssh_key::Mpint::from_positive_bytes(&[1, 0, 1]);
    KeyData::Rsa(ssh_key::public::RsaPublicKey::new(e, n).unwrap())
}

#[test]
fn keys_are_of_the_kinds_and_sizes_that_the_role_lists() {
    let cases = [
        (json!({}), ed25519(), true),
        (json!({}), rsa(256), true),
        (json!({}), rsa(128), false),
        (json!({"rsa": 1024}), rsa(128), false),
        (json!({"rsa": 4096}), ed25519(), false),
        (json!({"rsa": 4096}), rsa(256), false),
        (json!({"rsa": [2048, 4096]}), rsa(256), true),
        (json!({"ssh-rsa": "2048,4096"}), rsa(256), true),
        (json!({"rsa": 4096, "ssh-rsa": 2048}), rsa(256), true),
        (json!({"ed25519": 0}), ed25519(), true),
        (json!({"ssh-ed25519": []}), ed25519(), true),
        (json!({"rsa": []}), rsa(256), false),
    ];
    for (lengths, key, want) in cases {
        let role = role(json!({"allowed_user_key_lengths": lengths}));
        assert_eq!(check_key(&role, &key).is_ok(), want, "{lengths}");
    }
}

#[test]
fn the_key_id_says_who_asked_with_which_key() {
    let id = |fields, display: &str, asked: &str| {
        let asked = Some(asked.to_owned());
        said(key_id(&role(fields), "deploy", display, &ed25519(), asked))
    };
    let hash = ED25519_HASH;
    assert_eq!(
        id(json!({}), "token-ci", ""),
        Ok(format!("vault-token-ci-{hash}"))
    );
    let format =
        json!({"key_id_format": "{{role_name}}/{{token_display_name}}:{{public_key_hash}}"});
    assert_eq!(
        id(format.clone(), "token-ci", ""),
        Ok(format!("deploy/token-ci:{hash}"))
    );
    // What a caller is called is no template.
    let sly = id(format, "{{role_name}}", "");
    assert_eq!(sly, Ok(format!("deploy/{{{{role_name}}}}:{hash}")));
    assert!(id(json!({}), "token-ci", "mine").is_err());
    let allowed = json!({"allow_user_key_ids": true});
    assert_eq!(id(allowed.clone(), "token-ci", "mine"), Ok("mine".into()));
    assert!(id(allowed, "token-ci", "mi\nne").is_err());
}

proptest! {
    /// Whatever is asked for, nobody gets in whom the role does not list, and no certificate is for all.
    #[test]
    fn nobody_is_signed_for_who_is_not_listed(
        allowed in proptest::collection::vec("[a-c]{1,2}", 0..4),
        default in proptest::collection::vec("[a-c]{1,2}", 0..2),
        asked in proptest::collection::vec("[a-c*,]{0,3}", 0..4),
    ) {
        let role = Role {
            allowed_users: Names::of(allowed.iter().map(String::as_str)),
            default_user: Names::of(default.iter().map(String::as_str)),
            ..Role::default()
        };
        let asked = Names::of(asked.iter().map(String::as_str));
        if let Ok(users) = users(&role, asked.clone()) {
            prop_assert!(!users.is_empty());
            for user in users {
                prop_assert!(allowed.contains(&user));
                prop_assert!(asked.contains(&user) || default.contains(&user));
            }
        }
    }

    #[test]
    fn what_is_below_a_domain_ends_in_it(name in "[a-z.*?-]{0,16}", domain in "[a-z]{1,3}\\.[a-z]{1,2}") {
        if is_below(&name, &domain) {
            let suffix = format!(".{domain}");
            prop_assert!(name.ends_with(&suffix) && name.len() > suffix.len());
        }
    }
}
