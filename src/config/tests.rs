//! Whole configurations: the documented example, and one table of what is refused and how.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn kinds() -> Kinds {
    Kinds {
        secrets: vec!["database", "kv", "pki"],
        auth: vec!["approle", "jwt"],
    }
}
const EXAMPLE: &str = include_str!("../../testdata/config/daypass.toml");
/// The least that is valid.
const LEAST: &str = r#"listeners = [{ address = "127.0.0.1:0", tls = false }]
storage = { path = "data" }
seal = { type = "shamir" }
audit = { path = "audit.log" }
"#;

/// A folder with configuration files in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            folder.write(name, text, 0o600);
        }
        folder
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> Result<Config, ConfigErrors> {
        load(&self.path("daypass.toml"), &kinds())
    }

    /// The errors, with the folder cut from every path.
    fn errors(&self) -> String {
        let errors = self
            .load()
            .err()
            .map_or(String::new(), |errors| errors.to_string());
        errors.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn example() -> Folder {
    Folder::with(&[
        ("daypass.toml", EXAMPLE),
        ("tls/server.pem", "certificate"),
        ("tls/server.key", "key"),
        ("tls/clients.pem", "certificates"),
        ("secrets/orders-password", "hunter2\n"),
        (
            "policies/operators.hcl",
            "path \"sys/*\" { capabilities = [\"read\"] }",
        ),
    ])
}

#[test]
fn the_documented_example_loads_and_means_what_it_says() {
    let folder = example();
    let config = folder.load().map_err(|errors| errors.to_string()).ok();
    let Some(config) = config else {
        panic!("{}", folder.errors())
    };
    assert_eq!(config.trust_domain.as_deref(), Some("prod.example.org"));
    let addresses: Vec<_> = config
        .listeners
        .iter()
        .map(|one| one.address.clone())
        .collect();
    assert_eq!(
        addresses,
        [
            ListenAddress::Tcp("0.0.0.0:8200".into()),
            ListenAddress::Tcp("127.0.0.1:8201".into()),
            ListenAddress::Unix(folder.path("run/daypass.sock")),
        ]
    );
    let tls = config.listeners[0].tls.as_ref().unwrap();
    assert_eq!(tls.key_file, folder.path("tls/server.key"));
    assert_eq!(tls.client_auth, ClientAuth::Optional);
    assert_eq!(config.storage.path, folder.path("data"));
    assert_eq!(config.seal, SealSettings::Shamir);
    let paths: Vec<_> = config
        .mounts
        .iter()
        .map(|mount| mount.path.as_str())
        .collect();
    assert_eq!(paths, ["secret/", "db/", "auth/ci/"]);
    assert_eq!(config.mounts[0].options["version"], "2");
    assert_eq!(
        config.mounts[1].max_lease_ttl,
        Some(Duration::from_secs(86_400))
    );
    let order: Vec<_> = config.mounts[1]
        .resources
        .iter()
        .map(|one| one.path.as_str())
        .collect();
    assert_eq!(order, ["config/orders", "roles/readonly"]);
    assert!(config.policies[1].rules.contains("sys/*"));
    assert!((config.quotas[0].rate_per_second - 20.0).abs() < f64::EPSILON);
}

#[test]
fn the_values_the_example_shows_as_defaults_are_the_defaults() {
    let folder = Folder::with(&[("daypass.toml", LEAST)]);
    let least = folder.load().ok().unwrap();
    let example = example().load().ok().unwrap();
    assert_eq!(
        format!("{:?}", least.limits),
        format!("{:?}", example.limits)
    );
    assert_eq!(
        format!("{:?}", least.leases),
        format!("{:?}", example.leases)
    );
    assert_eq!(format!("{:?}", least.log), format!("{:?}", example.log));
    assert_eq!(least.audit.rotate_bytes, example.audit.rotate_bytes);
}

/// The names an unknown key is told about are the names the model reads; the example shows them all.
#[test]
fn the_example_documents_every_key() {
    let sections = [
        "",
        "[[listeners]]",
        "[listeners.tls]",
        "[storage]",
        "[seal]",
        "[audit]",
        "[[audit_devices]]",
        "[log]",
        "[limits]",
        "[leases]",
        "[[mounts]]",
        "[[policies]]",
        "[[quotas]]",
    ];
    let mut seen = 0;
    for section in sections {
        let parent = if section == "[listeners.tls]" {
            "[[listeners]]\n"
        } else {
            ""
        };
        let text = format!("{parent}{section}\nqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq = 1\n");
        let errors = Folder::with(&[("daypass.toml", &text)]).errors();
        let known = errors
            .lines()
            .find_map(|line| line.split_once("is not a known key; known are "))
            .unwrap_or_else(|| panic!("{section}: {errors}"))
            .1;
        for name in known.split(", ") {
            seen += 1;
            let shown = [
                format!("{name} = "),
                format!("[{name}]"),
                format!(".{name}]"),
                format!(".{name}."),
            ];
            assert!(
                shown.iter().any(|form| EXAMPLE.contains(form)),
                "{section} {name}"
            );
        }
    }
    assert!(seen >= 49, "only {seen} keys were looked at");
}

#[test]
fn a_resource_becomes_a_request_body_with_its_references_read() {
    let folder = example();
    folder.write(
        "conf.d/10-more.toml",
        r#"
        [[mounts]]
        path = "pki/"
        type = "pki"
        [mounts.set.things]
        flag = true
        number = -3
        ratio = 0.5
        folder = "env:CARGO_MANIFEST_DIR"
        nested = { list = ["a", "file:../secrets/orders-password"] }
        "#,
        0o600,
    );
    let config = folder.load().ok().unwrap();
    let body = |mount: usize| config.mounts[mount].resources[0].body().unwrap();
    assert_eq!(body(1).fields()["password"], "hunter2");
    let want = json!({"flag": true, "number": -3, "ratio": 0.5, "folder": env!("CARGO_MANIFEST_DIR"),
        "nested": {"list": ["a", "hunter2"]}});
    assert_eq!(serde_json::Value::Object(body(2).fields().clone()), want);
}

#[test]
fn what_is_refused_and_how() {
    let secret =
        "a secret must not stand in this file: write \"env:NAME\" or \"file:/path\" instead";
    let cases = [
        // Names.
        (
            "[limits]\nmax_bodybytes = 1",
            "daypass.toml:6:1: limits.max_bodybytes: is not a known key; did you mean \"max_body_bytes\"?",
        ),
        (
            "[storag]\npath = 'x'",
            "daypass.toml:5:2: storag: is not a known key; did you mean \"storage\"?",
        ),
        (
            "[log]\nformat = 'jsn'",
            "daypass.toml:6:1: log.format: expected one of \"json\", \"text\"; did you mean \"json\"?",
        ),
        (
            "[[mounts]]\npath = 'db'\ntype = 'databse'",
            "daypass.toml:7:1: mounts[0].type: there is no such mount type; did you mean \"database\"?",
        ),
        (
            "[[mounts]]\npath = 'x'\ntype = 'wireguard'",
            "daypass.toml:7:1: mounts[0].type: there is no such mount type; known are database, kv, pki",
        ),
        // Types and ranges.
        (
            "[log]\nlevel = 3",
            "daypass.toml:6:1: log.level: expected one of \"error\", \"warn\", \"info\", \"debug\", \"trace\", found a whole number",
        ),
        (
            "[limits]\nmax_connections = 0",
            "daypass.toml:6:1: limits.max_connections: expected a whole number above zero",
        ),
        (
            "[limits]\nrequest_timeout = 'soon'",
            "daypass.toml:6:1: limits.request_timeout: expected a duration such as 3600, \"1h30m\" or \"7d\"",
        ),
        (
            "[limits]\nrequest_timeout = 0",
            "daypass.toml:6:1: limits.request_timeout: expected a duration above zero and of at most 100 years",
        ),
        (
            "limits = 1",
            "daypass.toml:5:1: limits: expected a table, found a whole number",
        ),
        (
            "mounts = 1",
            "daypass.toml:5:1: mounts: expected a list, found a whole number",
        ),
        (
            "trust_domain = 'Prod'",
            "daypass.toml:5:1: trust_domain: expected a name such as \"prod.example.org\": at most 255 of a-z, 0-9, \".\", \"-\", \"_\"",
        ),
        // Several at once, in the order of the lines.
        (
            "[[mounts]]\n[[quotas]]\nname = 'q'\nburst = -1",
            "daypass.toml:5:1: mounts[0].path: is required\n\
          daypass.toml:5:1: mounts[0].type: is required\n\
          daypass.toml:6:1: quotas[0].rate_per_second: is required\n\
          daypass.toml:8:1: quotas[0].burst: expected a whole number above zero",
        ),
        // Mounts.
        (
            "[[mounts]]\npath = 'a'\ntype = 'kv'\n[[mounts]]\npath = 'a/'\ntype = 'kv'",
            "daypass.toml:8:1: mounts[1].path: \"a/\" is already mounted at daypass.toml:5:1",
        ),
        (
            "[[mounts]]\npath = 'a/b'\ntype = 'kv'\n[[mounts]]\npath = 'a'\ntype = 'kv'",
            "daypass.toml:8:1: mounts[1].path: \"a/\" overlaps \"a/b/\" at daypass.toml:5:1",
        ),
        (
            "[[mounts]]\npath = 'auth/ci'\ntype = 'kv'",
            "daypass.toml:6:1: mounts[0].path: auth methods are declared as [[auth]], with a path below auth/",
        ),
        (
            "[[auth]]\npath = 'token'\ntype = 'approle'",
            "daypass.toml:5:1: auth[0].path: \"auth/token/\" is the server's own",
        ),
        (
            "[[auth]]\npath = 'ci'\ntype = 'kv'",
            "daypass.toml:7:1: auth[0].type: there is no such mount type; known are approle, jwt",
        ),
        (
            "[[mounts]]\npath = 'sys/x'\ntype = 'kv'",
            "daypass.toml:5:1: mounts[0].path: \"sys/\" is the server's own",
        ),
        (
            "[[mounts]]\npath = '/a'\ntype = 'kv'",
            "daypass.toml:6:1: mounts[0].path: expected a path such as \"team-a/db\", without a slash at the start",
        ),
        (
            "[[mounts]]\npath = 'a'\ntype = 'kv'\nset.'../b' = {}",
            "daypass.toml:8:5: mounts[0].set.\"../b\": expected a path below the mount, such as \"roles/readonly\"",
        ),
        (
            "[[mounts]]\npath = 'a'\ntype = 'kv'\ndefault_lease_ttl = '2h'\nmax_lease_ttl = '1h'",
            "daypass.toml:8:1: mounts[0].default_lease_ttl: is longer than max_lease_ttl allows",
        ),
        (
            "[[mounts]]\npath = 'a'\ntype = 'kv'\nmax_lease_ttl = '33d'",
            "daypass.toml:5:1: mounts[0].max_lease_ttl: is longer than leases.max_ttl allows",
        ),
        (
            "[leases]\ndefault_ttl = '2h'\nmax_ttl = '1h'",
            "daypass.toml:6:1: leases.default_ttl: is longer than max_ttl allows",
        ),
        // Listeners.
        (
            "[[mounts]]\npath = 'a'\ntype = 'kv'\nset.r.at = 1979-05-27",
            "daypass.toml:8:7: mounts[0].set.r.at: the API takes instants as text: put it in quotes",
        ),
        // Secrets.
        (
            "[[mounts]]\npath = 'a'\ntype = 'kv'\nset.r.password = 'CANARY'",
            &format!("daypass.toml:8:7: mounts[0].set.r.password: {secret}"),
        ),
        (
            "[[mounts]]\npath = 'a'\ntype = 'kv'\nset.r.deep.api_key = ['CANARY']",
            &format!("daypass.toml:8:23: mounts[0].set.r.deep.api_key[0]: {secret}"),
        ),
        (
            "[[mounts]]\npath = 'a'\ntype = 'kv'\nset.r.url = 'postgres://app:CANARY@db/x'",
            &format!("daypass.toml:8:7: mounts[0].set.r.url: {secret}"),
        ),
        (
            "[[mounts]]\npath = 'a'\ntype = 'kv'\nset.r.password = 'env:DAYPASS_NOT_THERE'",
            "daypass.toml:8:5: mounts[0].set.r.password: the environment variable DAYPASS_NOT_THERE is not set",
        ),
        (
            "[[mounts]]\npath = 'a'\ntype = 'kv'\nset.r.password = 'file:missing'",
            "daypass.toml:8:5: mounts[0].set.r.password: missing cannot be read: No such file or directory (os error 2)",
        ),
        (
            "[[mounts]]\npath = 'a'\ntype = 'kv'\nset.r.password = 'file:open'",
            "daypass.toml:8:5: mounts[0].set.r.password: open can be read by others than its owner (mode 0640): \
          run `chmod 600` on it, or in Kubernetes set `defaultMode: 0400`",
        ),
        (
            "[[mounts]]\npath = 'a'\ntype = 'kv'\nset.r.password = 'aws-sm:x'",
            "daypass.toml:8:7: mounts[0].set.r.password: AWS Secrets Manager references are not available yet; \
          use \"env:NAME\" or \"file:/path\"",
        ),
        (
            "[[mounts]]\npath = 'a'\ntype = 'kv'\nset.r.x = 'env:'",
            "daypass.toml:8:7: mounts[0].set.r.x: expected \"env:NAME\" with the name of an environment variable",
        ),
        // Policies and quotas.
        (
            "[[policies]]\nname = 'root'\nrules = 'x'",
            "daypass.toml:6:1: policies[0].name: \"root\" is built in and cannot be declared",
        ),
        (
            "[[policies]]\nname = 'a'",
            "daypass.toml:5:1: policies[0].rules: is required, or \"file\" in its place",
        ),
        (
            "[[policies]]\nname = 'a'\nfile = 'none.hcl'",
            "daypass.toml:7:1: policies[0].file: none.hcl cannot be read: No such file or directory (os error 2)",
        ),
        (
            "[[policies]]\nname = 'a'\nrules = 'x'\n[[policies]]\nname = 'a'\nrules = 'y'",
            "daypass.toml:8:1: policies[1].name: \"a\" is already declared at daypass.toml:5:1",
        ),
        // TOML itself.
        (
            "[limits]\nmax_headers = \n",
            "daypass.toml:6:15: string values must be quoted, expected literal string",
        ),
        (
            "[log]\nlevel = 'info'\nlevel = 'CANARY'",
            "daypass.toml:7:1: duplicate key",
        ),
    ];
    for (text, want) in cases {
        let folder = Folder::with(&[("daypass.toml", &format!("{LEAST}{text}"))]);
        folder.write("open", "CANARY", 0o640);
        let errors = folder.errors();
        assert_eq!(errors, want, "{text}");
        assert!(!errors.contains("CANARY"), "{text}");
    }
}

#[test]
fn listeners_seals_and_what_is_missing() {
    let rest = "storage = { path = 'd' }\naudit = { path = 'a' }\n";
    let clear = "is required: without TLS, tokens and secrets cross the network in clear text; add \
                 [listeners.tls] or listen on 127.0.0.1";
    let cases = [
        (
            "address = '0.0.0.0:8200'",
            "type = 'shamir'",
            &*format!("daypass.toml:3:1: listeners[0].tls: {clear}"),
        ),
        (
            "address = 'vault.example:8200'\ntls = false",
            "type = 'shamir'",
            &format!("daypass.toml:5:1: listeners[0].tls: {clear}"),
        ),
        (
            "address = '[::1]:8200'",
            "type = 'shamir'",
            "daypass.toml:3:1: listeners[0].tls: is required: add [listeners.tls], or say \"tls = false\" for this loopback address",
        ),
        ("address = 'unix:s'", "type = 'shamir'", ""),
        (
            "address = 'localhost:1'\ntls = false",
            "type = 'key-file'\npath = 'k'",
            "",
        ),
        (
            "address = '127.9.9.9:1'\ntls = true",
            "type = 'shamir'",
            "daypass.toml:5:1: listeners[0].tls: expected a table with cert_file and key_file, or false; found true or false",
        ),
        (
            "address = '8200'\ntls = false",
            "type = 'shamir'",
            "daypass.toml:4:1: listeners[0].address: expected \"host:port\" or \"unix:/path\"",
        ),
        (
            "address = 'h:1'\ntls = { cert_file = 'c', client_auth = 'request', client_ca_file = 'x' }",
            "type = 'shamir'",
            "daypass.toml:5:1: listeners[0].tls.key_file: is required\n\
          daypass.toml:5:51: listeners[0].tls.client_ca_file: has no effect: set client_auth to \"optional\" or \"required\"",
        ),
        (
            "address = 'h:1'\ntls = { cert_file = 'c', client_auth = 'required' }",
            "type = 'shamir'",
            "daypass.toml:5:1: listeners[0].tls.client_ca_file: is required where client_auth is \"optional\" or \"required\"\n\
          daypass.toml:5:1: listeners[0].tls.key_file: is required",
        ),
        (
            "address = 'h:1'\ntls = { cert_file = 'c', key_file = 'k' }",
            "type = 'shamir'",
            "daypass.toml:3:1: listeners[0].tls.cert_file: c cannot be read: No such file or directory (os error 2)\n\
          daypass.toml:3:1: listeners[0].tls.key_file: k cannot be read: No such file or directory (os error 2)",
        ),
        (
            "address = 'unix:s'",
            "type = 'key-file'",
            "daypass.toml:5:2: seal.path: is required for type \"key-file\"",
        ),
        (
            "address = 'unix:s'",
            "type = 'shamir'\npath = 'k'",
            "daypass.toml:7:1: seal.path: belongs to type \"key-file\"; \"shamir\" has none",
        ),
    ];
    for (listener, seal, want) in cases {
        let text = format!("{rest}[[listeners]]\n{listener}\n[seal]\n{seal}\n");
        assert_eq!(
            Folder::with(&[("daypass.toml", &text)]).errors(),
            want,
            "{listener} {seal}"
        );
    }
    assert_eq!(
        Folder::with(&[("daypass.toml", "")]).errors(),
        "daypass.toml: [audit] is required\n\
         daypass.toml: [seal] is required\n\
         daypass.toml: [storage] is required\n\
         daypass.toml: at least one [[listeners]] is required"
    );
    assert_eq!(
        Folder::with(&[]).errors(),
        "daypass.toml: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn files_in_conf_d_add_to_lists_and_never_override() {
    let mount = |path| format!("[[mounts]]\npath = '{path}'\ntype = 'kv'\n");
    let folder = Folder::with(&[
        ("daypass.toml", LEAST),
        ("conf.d/20.toml", &mount("b")),
        ("conf.d/10.toml", &mount("a")),
        ("conf.d/README", "not read"),
    ]);
    let config = folder.load().ok().unwrap();
    let paths: Vec<_> = config
        .mounts
        .iter()
        .map(|mount| mount.path.as_str())
        .collect();
    assert_eq!(paths, ["a/", "b/"]);

    folder.write("conf.d/30.toml", "storage = { path = 'other' }", 0o600);
    folder.write("conf.d/40.toml", &mount("a"), 0o600);
    assert_eq!(
        folder.errors(),
        "conf.d/30.toml:1:1: storage: is already given at daypass.toml:2:1\n\
         conf.d/40.toml:1:1: mounts[0].path: \"a/\" is already mounted at conf.d/10.toml:1:1"
    );
}

#[test]
fn a_secret_file_loses_one_newline_and_no_more() {
    let folder = Folder::with(&[
        ("lf", "a\n"),
        ("crlf", "a\r\n"),
        ("two", "a\n\n"),
        ("empty", "\n"),
    ]);
    for (name, want) in [("lf", "a"), ("crlf", "a"), ("two", "a\n")] {
        let secret = read_private(&folder.path(name)).unwrap();
        assert_eq!(secret.expose_str(), Some(want), "{name}");
    }
    assert!(matches!(
        read_private(&folder.path("empty")),
        Err(SecretError::Empty(_))
    ));
}

#[test]
fn a_field_is_a_secret_by_its_name() {
    for name in [
        "password",
        "bind_password",
        "SECRET_KEY",
        "token",
        "client-secret",
        "private_key",
    ] {
        assert!(secret::names_a_secret(name), "{name}");
    }
    for name in [
        "password_policy",
        "token_ttl",
        "secrets",
        "key_type",
        "tokens",
        "nosecret",
        "",
    ] {
        assert!(!secret::names_a_secret(name), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        Folder::with(&[("daypass.toml", &text)]).errors();
    }

    #[test]
    fn no_error_quotes_a_value(key in "[a-z_]{1,16}", section in prop::sample::select(vec![
        "", "[limits]", "[log]", "[seal]", "[leases]", "[[listeners]]", "[[mounts]]", "[[policies]]", "[[quotas]]"])) {
        let text = format!("{section}\n{key} = 'CANARY'\n");
        let errors = Folder::with(&[("daypass.toml", &text)]).errors();
        prop_assert!(!errors.contains("CANARY"), "{}", errors);
    }
}
