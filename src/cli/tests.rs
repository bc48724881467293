//! Whole command lines: what they send to a server of canned answers, what they print, how they end.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;

use clap::CommandFactory as _;

use super::*;
use crate::client::testing::{Canned, Server};

/// Runs `with` in a context that has this standard input and nobody at a terminal.
pub(super) fn with_context<T>(input: &str, with: impl FnOnce(&mut Context<'_, '_>) -> T) -> T {
    let mut streams = Streams {
        out: &mut Vec::new(),
        err: &mut Vec::new(),
        input: &mut input.as_bytes(),
        out_is_terminal: false,
        input_is_terminal: false,
    };
    with(&mut Context {
        streams: &mut streams,
        environment: &|_| None,
        overrides: Overrides::default(),
        format: Format::Table,
        field: None,
        wrap_ttl: None,
    })
}

/// How a command line ended.
struct Ran {
    code: u8,
    out: String,
    err: String,
}

/// A person's machine: a home folder and a server.
struct Machine {
    home: tempfile::TempDir,
    server: Server,
    token: Option<&'static str>,
}

impl Machine {
    fn with(answers: &[(&str, Canned)]) -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            server: Server::with(answers),
            token: Some("s.environment"),
        }
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    fn run(&self, arguments: &[&str], input: &str) -> Ran {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let streams = Streams {
            out: &mut out,
            err: &mut err,
            input: &mut input.as_bytes(),
            out_is_terminal: false,
            input_is_terminal: false,
        };
        let arguments = ["daypass"].iter().chain(arguments).map(OsString::from);
        let home = self.home.path().display().to_string();
        let environment = |name: &str| match name {
            "DAYPASS_ADDR" => Some(self.server.address.clone()),
            "DAYPASS_TOKEN" => self.token.map(str::to_owned),
            "HOME" => Some(home.clone()),
            _ => None,
        };
        let code = execute(arguments, streams, &environment);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran {
            code,
            out: text(out),
            err: text(err),
        }
    }
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

/// Every command at the end of the tree, with its words.
fn leaves() -> Vec<(String, clap::Command)> {
    fn collect(path: &str, command: &clap::Command, leaves: &mut Vec<(String, clap::Command)>) {
        let before = leaves.len();
        for below in command
            .get_subcommands()
            .filter(|below| below.get_name() != "help")
        {
            collect(&format!("{path} {}", below.get_name()), below, leaves);
        }
        if leaves.len() == before {
            leaves.push((path.to_owned(), command.clone()));
        }
    }
    let mut leaves = Vec::new();
    let mut command = Cli::command();
    command.build();
    collect("daypass", &command, &mut leaves);
    leaves
}

/// The `daypass` invocations of the examples in a text: what stands behind `$` or `|`, up to the next
/// pipe, redirection or comment.
fn examples(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let joined = text.replace("\\\n", " ");
    for line in joined
        .lines()
        .filter_map(|line| line.trim().strip_prefix("$ "))
    {
        // Only our own examples: quotes never hold a blank, a pipe or a comment in them.
        let line = line.split(" #").next().unwrap_or_default();
        for part in line.split('|') {
            let words: Vec<String> = part
                .split_whitespace()
                .take_while(|word| !matches!(*word, ">" | "<" | "&"))
                .map(|word| word.trim_matches('\'').to_owned())
                .collect();
            if words.first().is_some_and(|word| word == "daypass") {
                found.push(words);
            }
        }
    }
    found
}

#[test]
fn every_command_teaches_by_examples_that_are_valid() {
    let mut checked = 0;
    for (path, mut command) in leaves() {
        if path == "daypass exit-codes" {
            continue;
        }
        assert!(command.get_about().is_some(), "{path} has no summary");
        let examples = examples(&command.render_long_help().to_string());
        assert!(!examples.is_empty(), "{path} shows no example");
        for example in examples {
            checked += 1;
            if let Err(error) = Cli::try_parse_from(&example) {
                panic!("{path}: {example:?}: {error}");
            }
        }
    }
    let pages = [
        include_str!("../../docs/cli.md"),
        include_str!("../../docs/configuration.md"),
        ABOUT,
    ];
    for example in pages.iter().flat_map(|page| examples(page)) {
        checked += 1;
        if let Err(error) = Cli::try_parse_from(&example) {
            assert!(!error.use_stderr(), "{example:?}: {error}");
        }
    }
    assert!(checked > 90, "only {checked} examples were found");
}

#[test]
fn the_manual_names_every_command() {
    let manual = include_str!("../../docs/cli.md");
    for (path, _) in leaves()
        .iter()
        .filter(|(path, _)| path != "daypass exit-codes")
    {
        let words = path.strip_prefix("daypass ").unwrap();
        assert!(
            manual.contains(&format!("`{words}")),
            "docs/cli.md does not name `{words}`"
        );
    }
}

const KV2: &str = r#"{"data":{"path":"secret/","type":"kv","options":{"version":"2"}}}"#;
const KV1: &str = r#"{"data":{"path":"old/kv/","type":"kv","options":null}}"#;
const DB: &str = r#"{"data":{"path":"db/","type":"database","options":null}}"#;
const SECRET: &str =
    r#"{"request_id":"r","data":{"data":{"user":"u","password":"p"},"metadata":{"version":2}}}"#;
const ISSUED: &str = r#"{"request_id":"r","lease_id":"db/creds/ro/x","lease_duration":60,"renewable":true,"data":{"username":"v","password":"p"}}"#;

#[test]
fn what_commands_send() {
    let cases: &[(&[&str], &str, &[&str])] = &[
        (&["read", "a/b", "v=1"], "", &["GET /v1/a/b?v=1"]),
        (
            &["write", "a/b", "x=1", "l=a", "l=b"],
            "",
            &[r#"PUT /v1/a/b {"l":["a","b"],"x":"1"}"#],
        ),
        (&["write", "-f", "a/b"], "", &["PUT /v1/a/b {}"]),
        (
            &["write", "a/b", "-"],
            r#"{"n":1}"#,
            &[r#"PUT /v1/a/b {"n":1}"#],
        ),
        (
            &["patch", "a/b", "x=1"],
            "",
            &[r#"PATCH /v1/a/b {"x":"1"}"#],
        ),
        (&["list", "a"], "", &["GET /v1/a?list=true"]),
        (&["delete", "a/b"], "", &["DELETE /v1/a/b"]),
        (
            &["audit", "enable", "file", "file_path=a.log", "mode=0640"],
            "",
            &[
                r#"PUT /v1/sys/audit/file {"description":"","options":{"file_path":"a.log","mode":"0640"},"type":"file"}"#,
            ],
        ),
        (
            &[
                "audit",
                "enable",
                "--path",
                "siem/",
                "--description",
                "d",
                "syslog",
            ],
            "",
            &[r#"PUT /v1/sys/audit/siem {"description":"d","options":{},"type":"syslog"}"#],
        ),
        (&["audit", "list"], "", &["GET /v1/sys/audit"]),
        (&["audit", "list", "siem"], "", &["GET /v1/sys/audit/siem"]),
        (
            &["audit", "disable", "siem/"],
            "",
            &["DELETE /v1/sys/audit/siem"],
        ),
        (
            &["audit", "hash", "siem"],
            "hunter2\n",
            &[r#"PUT /v1/sys/audit-hash/siem {"input":"hunter2"}"#],
        ),
        // Key-value secrets, with and without versions.
        (
            &["kv", "get", "--version", "2", "secret/app"],
            "",
            &[
                "GET /v1/sys/internal/ui/mounts/secret/app",
                "GET /v1/secret/data/app?version=2",
            ],
        ),
        (
            &["kv", "put", "--cas", "0", "secret/app", "a=-"],
            "x",
            &[
                "GET /v1/sys/internal/ui/mounts/secret/app",
                r#"PUT /v1/secret/data/app {"data":{"a":"x"},"options":{"cas":0}}"#,
            ],
        ),
        (
            &["kv", "patch", "secret/app", "a=1"],
            "",
            &[
                "GET /v1/sys/internal/ui/mounts/secret/app",
                r#"PATCH /v1/secret/data/app {"data":{"a":"1"},"options":{}}"#,
            ],
        ),
        (
            &["kv", "delete", "--versions", "1,2", "secret/app"],
            "",
            &[
                "GET /v1/sys/internal/ui/mounts/secret/app",
                r#"PUT /v1/secret/delete/app {"versions":[1,2]}"#,
            ],
        ),
        (
            &["kv", "delete", "secret/app"],
            "",
            &[
                "GET /v1/sys/internal/ui/mounts/secret/app",
                "DELETE /v1/secret/data/app",
            ],
        ),
        (
            &["kv", "undelete", "--versions", "1", "secret/app"],
            "",
            &[
                "GET /v1/sys/internal/ui/mounts/secret/app",
                r#"PUT /v1/secret/undelete/app {"versions":[1]}"#,
            ],
        ),
        (
            &["kv", "destroy", "--versions", "1", "secret/app"],
            "",
            &[
                "GET /v1/sys/internal/ui/mounts/secret/app",
                r#"PUT /v1/secret/destroy/app {"versions":[1]}"#,
            ],
        ),
        (
            &["kv", "list", "secret"],
            "",
            &[
                "GET /v1/sys/internal/ui/mounts/secret",
                "GET /v1/secret/metadata/?list=true",
            ],
        ),
        (
            &[
                "kv",
                "metadata",
                "put",
                "--max-versions",
                "5",
                "--custom-metadata",
                "o=x",
                "secret/app",
            ],
            "",
            &[
                "GET /v1/sys/internal/ui/mounts/secret/app",
                r#"PUT /v1/secret/metadata/app {"custom_metadata":{"o":"x"},"max_versions":5}"#,
            ],
        ),
        (
            &["kv", "rollback", "--version", "1", "secret/app"],
            "",
            &[
                "GET /v1/sys/internal/ui/mounts/secret/app",
                "GET /v1/secret/data/app?version=1",
                "GET /v1/secret/data/app",
                r#"PUT /v1/secret/data/app {"data":{"old":"1"},"options":{"cas":2}}"#,
            ],
        ),
        (
            &["kv", "get", "old/kv/a"],
            "",
            &[
                "GET /v1/sys/internal/ui/mounts/old/kv/a",
                "GET /v1/old/kv/a",
            ],
        ),
        (
            &["kv", "put", "old/kv/a", "x=1"],
            "",
            &[
                "GET /v1/sys/internal/ui/mounts/old/kv/a",
                r#"PUT /v1/old/kv/a {"x":"1"}"#,
            ],
        ),
        // Without versions there is nothing to roll back: the server is not asked to.
        (
            &["kv", "rollback", "--version", "1", "old/kv/a"],
            "",
            &["GET /v1/sys/internal/ui/mounts/old/kv/a"],
        ),
        (
            &["issue", "db/ro", "ttl=5m"],
            "",
            &[
                "GET /v1/sys/internal/ui/mounts/db/ro",
                "GET /v1/db/creds/ro?ttl=5m",
            ],
        ),
        // Tokens.
        (
            &["token", "lookup"],
            "",
            &["GET /v1/auth/token/lookup-self"],
        ),
        (
            &["token", "lookup", "--accessor", "A"],
            "",
            &[r#"PUT /v1/auth/token/lookup-accessor {"accessor":"A"}"#],
        ),
        (
            &["token", "lookup", "--stdin"],
            "s.x\n",
            &[r#"PUT /v1/auth/token/lookup {"token":"s.x"}"#],
        ),
        (
            &["token", "renew", "--increment", "1h"],
            "",
            &[r#"PUT /v1/auth/token/renew-self {"increment":"1h"}"#],
        ),
        (
            &["token", "revoke", "--stdin", "--keep-children"],
            "s.x",
            &[r#"PUT /v1/auth/token/revoke-orphan {"token":"s.x"}"#],
        ),
        (
            &["token", "revoke", "--self"],
            "",
            &["PUT /v1/auth/token/revoke-self {}"],
        ),
        (&["token", "revoke"], "", &[]),
        (
            &[
                "token",
                "create",
                "--policy",
                "a",
                "--policy",
                "b",
                "--ttl",
                "1h",
                "--metadata",
                "k=v",
                "--not-renewable",
                "--orphan",
            ],
            "",
            &[
                r#"PUT /v1/auth/token/create-orphan {"meta":{"k":"v"},"no_parent":true,"policies":["a","b"],"renewable":false,"ttl":"1h"}"#,
            ],
        ),
        (
            &["token", "create", "--role", "ci"],
            "",
            &["PUT /v1/auth/token/create/ci {}"],
        ),
        (
            &[
                "token",
                "create",
                "--role",
                "ci",
                "--entity-alias",
                "web",
                "--type",
                "batch",
                "--period",
                "1h",
                "--use-limit",
                "3",
            ],
            "",
            &[
                r#"PUT /v1/auth/token/create/ci {"entity_alias":"web","num_uses":3,"period":"1h","type":"batch"}"#,
            ],
        ),
        (
            &["token", "capabilities", "a", "b"],
            "",
            &[r#"PUT /v1/sys/capabilities-self {"paths":["a","b"]}"#],
        ),
        (
            &["token", "capabilities", "--stdin", "a"],
            "s.x",
            &[r#"PUT /v1/sys/capabilities {"paths":["a"],"token":"s.x"}"#],
        ),
        // Leases, policies, mounts.
        (
            &["lease", "list"],
            "",
            &["GET /v1/sys/leases/lookup/?list=true"],
        ),
        (
            &["lease", "list", "db/creds"],
            "",
            &["GET /v1/sys/leases/lookup/db/creds/?list=true"],
        ),
        (
            &["lease", "lookup", "L"],
            "",
            &[r#"PUT /v1/sys/leases/lookup {"lease_id":"L"}"#],
        ),
        (
            &["lease", "renew", "--increment", "60", "L"],
            "",
            &[r#"PUT /v1/sys/leases/renew {"increment":"60","lease_id":"L"}"#],
        ),
        (
            &["lease", "revoke", "L"],
            "",
            &[r#"PUT /v1/sys/leases/revoke {"lease_id":"L","sync":false}"#],
        ),
        (
            &["lease", "revoke", "--prefix", "--sync", "db/"],
            "",
            &[r#"PUT /v1/sys/leases/revoke-prefix/db {"sync":true}"#],
        ),
        (
            &["lease", "revoke", "--prefix", "--force", "db"],
            "",
            &["PUT /v1/sys/leases/revoke-force/db {}"],
        ),
        (&["lease", "revoke", "--force", "db"], "", &[]),
        (
            &["policy", "list"],
            "",
            &["GET /v1/sys/policies/acl?list=true"],
        ),
        (
            &["policy", "write", "ci", "-"],
            "rules",
            &[r#"PUT /v1/sys/policies/acl/ci {"policy":"rules"}"#],
        ),
        (
            &["policy", "delete", "ci"],
            "",
            &["DELETE /v1/sys/policies/acl/ci"],
        ),
        (
            &[
                "mount",
                "enable",
                "--option",
                "version=2",
                "--max-lease-ttl",
                "1h",
                "kv",
            ],
            "",
            &[
                r#"PUT /v1/sys/mounts/kv {"config":{"max_lease_ttl":"1h"},"options":{"version":"2"},"type":"kv"}"#,
            ],
        ),
        (
            &["secrets", "enable", "--path", "/a/b/", "kv"],
            "",
            &[r#"PUT /v1/sys/mounts/a/b {"config":{},"type":"kv"}"#],
        ),
        (
            &["mount", "tune", "--default-lease-ttl", "1h", "db/"],
            "",
            &[r#"PUT /v1/sys/mounts/db/tune {"default_lease_ttl":"1h"}"#],
        ),
        (&["mount", "tune", "db"], "", &[]),
        (
            &["mount", "move", "a", "b"],
            "",
            &[r#"PUT /v1/sys/remount {"from":"a","to":"b"}"#],
        ),
        (
            &["mount", "disable", "db"],
            "",
            &["DELETE /v1/sys/mounts/db"],
        ),
        // Auth methods. Their paths are below auth/, whether that is said or not.
        (&["auth", "list"], "", &["GET /v1/sys/auth"]),
        (
            &["auth", "enable", "--path", "ci", "approle"],
            "",
            &[r#"PUT /v1/sys/auth/ci {"config":{},"type":"approle"}"#],
        ),
        (
            &[
                "auth",
                "enable",
                "--description",
                "d",
                "--max-lease-ttl",
                "1h",
                "--token-type",
                "batch",
                "userpass",
            ],
            "",
            &[
                r#"PUT /v1/sys/auth/userpass {"config":{"max_lease_ttl":"1h","token_type":"batch"},"description":"d","type":"userpass"}"#,
            ],
        ),
        (
            &["auth", "disable", "auth/ci/"],
            "",
            &["DELETE /v1/sys/auth/ci"],
        ),
        (
            &["auth", "tune", "--default-lease-ttl", "5m", "ci/"],
            "",
            &[r#"PUT /v1/sys/auth/ci/tune {"default_lease_ttl":"5m"}"#],
        ),
        (&["auth", "tune", "ci"], "", &[]),
        (
            &["auth", "move", "approle", "auth/ci"],
            "",
            &[r#"PUT /v1/sys/remount {"from":"auth/approle","to":"auth/ci"}"#],
        ),
        // Logins: what is secret comes from where it is said, or from standard input.
        (
            &["login", "--method", "userpass", "username=ann"],
            " pass word \n",
            &[r#"PUT /v1/auth/userpass/login/ann {"password":" pass word "}"#],
        ),
        (
            &["login", "-m", "userpass", "username=a", "password=-"],
            "p\r\n",
            &[r#"PUT /v1/auth/userpass/login/a {"password":"p"}"#],
        ),
        (&["login", "-m", "userpass", "username=a/b"], "p", &[]),
        (&["login", "-m", "userpass"], "p", &[]),
        (&["login", "-m", "userpass", "username=a"], "", &[]),
        (&["login", "-m", "userpass", "username=a"], "p\nq\n", &[]),
        (
            &["login", "-m", "approle", "--path", "auth/ci", "role_id=r"],
            "s\n",
            &[r#"PUT /v1/auth/ci/login {"role_id":"r","secret_id":"s"}"#],
        ),
        (
            &["login", "-m", "approle", "role_id=r", "secret_id="],
            "",
            &[r#"PUT /v1/auth/approle/login {"role_id":"r"}"#],
        ),
        (&["login", "-m", "approle", "role_id="], "s", &[]),
        (
            &["login", "-m", "approle", "-"],
            r#"{"role_id":"r","secret_id":"s"}"#,
            &[r#"PUT /v1/auth/approle/login {"role_id":"r","secret_id":"s"}"#],
        ),
        (
            &["login", "-m", "jwt", "--path", "github"],
            "e30.e30.x",
            &[r#"PUT /v1/auth/github/login {"jwt":"e30.e30.x"}"#],
        ),
        (
            &["login", "-m", "kubernetes", "role=web", "jwt=-"],
            "e30",
            &[r#"PUT /v1/auth/kubernetes/login {"jwt":"e30","role":"web"}"#],
        ),
        (&["login", "-m", "kubernetes", "jwt=-"], "e30", &[]),
        (&["login", "-m", "cert"], "", &[]),
        (&["login", "--path", "ci"], "s.x", &[]),
        (
            &["login", "token=-"],
            "s.x",
            &["GET /v1/auth/token/lookup-self"],
        ),
        (&["login", "token=s.x"], "", &[]),
        // Wrapping.
        (
            &["unwrap"],
            "s.wrapping\n",
            &["PUT /v1/sys/wrapping/unwrap {}"],
        ),
        (
            &["unwrap", "s.wrapping"],
            "",
            &["PUT /v1/sys/wrapping/unwrap {}"],
        ),
        (
            &["wrap", "lookup"],
            "s.wrapping",
            &[r#"PUT /v1/sys/wrapping/lookup {"token":"s.wrapping"}"#],
        ),
        (
            &["wrap", "rewrap", "-"],
            "s.wrapping",
            &[r#"PUT /v1/sys/wrapping/rewrap {"token":"s.wrapping"}"#],
        ),
        (&["read", "--wrap-ttl", "soon", "a"], "", &[]),
        (&["read", "--wrap-ttl", "0", "a"], "", &[]),
        (&["list", "--wrap-ttl", "5m", "a"], "", &[]),
        (&["login", "--wrap-ttl", "5m"], "s.x", &[]),
        // Operators. A key share is a secret.
        (
            &["operator", "init"],
            "",
            &[r#"PUT /v1/sys/init {"secret_shares":5,"secret_threshold":3}"#],
        ),
        (
            &["operator", "init", "--key-shares", "1"],
            "",
            &[r#"PUT /v1/sys/init {"secret_shares":1,"secret_threshold":1}"#],
        ),
        (
            &["operator", "unseal"],
            "one\n\ntwo\nthree\n",
            &[
                r#"PUT /v1/sys/unseal {"key":"one"}"#,
                r#"PUT /v1/sys/unseal {"key":"two"}"#,
                r#"PUT /v1/sys/unseal {"key":"three"}"#,
            ],
        ),
        (&["operator", "unseal", "share"], "", &[]),
        (
            &["operator", "unseal", "--reset"],
            "",
            &[r#"PUT /v1/sys/unseal {"reset":true}"#],
        ),
        (&["operator", "seal"], "", &["PUT /v1/sys/seal {}"]),
        (&["operator", "rotate"], "", &["PUT /v1/sys/rotate {}"]),
    ];
    let machine = Machine::with(&[
        ("GET /v1/sys/internal/ui/mounts/secret", (200, KV2)),
        ("GET /v1/sys/internal/ui/mounts/secret/app", (200, KV2)),
        ("GET /v1/sys/internal/ui/mounts/old/kv/a", (200, KV1)),
        ("GET /v1/sys/internal/ui/mounts/db/ro", (200, DB)),
        ("GET /v1/secret/data/app", (200, SECRET)),
        (
            "GET /v1/secret/data/app?version=1",
            (
                200,
                r#"{"data":{"data":{"old":"1"},"metadata":{"version":1}}}"#,
            ),
        ),
        (
            "PUT /v1/sys/unseal",
            (200, r#"{"sealed":true,"t":3,"n":5,"progress":1}"#),
        ),
    ]);
    for (arguments, input, want) in cases {
        machine.run(arguments, input);
        assert_eq!(machine.server.lines(), *want, "{arguments:?}");
    }
}

#[test]
fn what_commands_print_and_how_they_end() {
    let machine = Machine::with(&[
        ("GET /v1/sys/internal/ui/mounts/secret/app", (200, KV2)),
        ("GET /v1/sys/internal/ui/mounts/secret/gone", (200, KV2)),
        ("GET /v1/sys/internal/ui/mounts/db/ro", (200, DB)),
        ("GET /v1/sys/internal/ui/mounts/db", (200, DB)),
        ("GET /v1/secret/data/app", (200, SECRET)),
        (
            "GET /v1/secret/data/gone",
            (
                404,
                r#"{"data":{"data":null,"metadata":{"destroyed":true,"version":1}}}"#,
            ),
        ),
        ("GET /v1/db/creds/ro", (200, ISSUED)),
        (
            "GET /v1/sys/seal-status",
            (200, r#"{"type":"shamir","sealed":true,"t":2,"n":3}"#),
        ),
        (
            "GET /v1/auth/token/lookup-self",
            (
                200,
                r#"{"request_id":"r","data":{"id":"s.CANARY","policies":["a","b"]}}"#,
            ),
        ),
        (
            "GET /v1/secret/metadata/?list=true",
            (200, r#"{"data":{"keys":["a","b/"]}}"#),
        ),
        ("GET /v1/pki/ca/pem", (200, "-----BEGIN")),
        (
            "GET /v1/sys/policies/acl/ci",
            (200, r#"{"data":{"name":"ci","policy":"path \"a\" {}"}}"#),
        ),
        (
            "GET /v1/denied",
            (403, r#"{"errors":["permission denied"]}"#),
        ),
        ("GET /v1/sealed", (503, r#"{"errors":["whatever"]}"#)),
        (
            "GET /v1/bad",
            (400, r#"{"errors":["field \"ttl\": is required"]}"#),
        ),
        ("GET /v1/broken", (500, r#"{"errors":["internal error"]}"#)),
        ("PUT /v1/quiet", (204, "")),
        (
            "GET /v1/warned",
            (
                200,
                r#"{"request_id":"r","data":{"a":1},"warnings":["mind the gap"]}"#,
            ),
        ),
    ]);
    let lease = "lease_id          db/creds/ro/x\nlease_duration    60\nrenewable         true\n";
    let issued = format!(
        "Key               Value\n---               -----\n{lease}password          p\nusername          v\n"
    );
    let cases: &[(&[&str], u8, &str, &str)] = &[
        (
            &["kv", "get", "secret/app"],
            0,
            "Metadata    Value\n--------    -----\nversion     2\n\nKey         Value\n---         -----\npassword    p\nuser        u\n",
            "",
        ),
        (
            &["kv", "get", "--field", "password", "secret/app"],
            0,
            "p",
            "",
        ),
        (
            &["kv", "get", "--field", "pasword", "secret/app"],
            2,
            "",
            "error: cannot print the field \"pasword\": the answer has no such field\n hint: did you mean \"password\"?\n",
        ),
        (
            &["kv", "get", "secret/gone"],
            2,
            "Key          Value\n---          -----\ndestroyed    true\nversion      1\n",
            "error: cannot read secret/gone: this version was destroyed\n hint: `daypass kv metadata get` shows which versions there are\n",
        ),
        (&["issue", "db/ro"], 0, &issued, ""),
        (
            &["issue", "--field", "lease_id", "db/ro"],
            0,
            "db/creds/ro/x",
            "",
        ),
        (
            &["issue", "db"],
            1,
            "",
            "error: cannot issue from db: db/ is a mount, not a role\n hint: write it as db/ROLE\n",
        ),
        (
            &["issue", "db/ro", "--out-key", "/nowhere"],
            1,
            "",
            "error: cannot issue from db/ro: db/ issues no certificates to write into files\n",
        ),
        // The token is in the answer, and is not shown unless asked for.
        (
            &["token", "lookup"],
            0,
            "Key         Value\n---         -----\npolicies    a, b\n",
            "",
        ),
        (&["token", "lookup", "--field", "id"], 0, "s.CANARY", ""),
        (&["list", "secret/metadata/"], 0, "Keys\n----\na\nb/\n", ""),
        (
            &["list", "--format", "json", "secret/metadata/"],
            0,
            "[\n  \"a\",\n  \"b/\"\n]\n",
            "",
        ),
        (&["read", "pki/ca/pem"], 0, "-----BEGIN", ""),
        (&["policy", "read", "ci"], 0, "path \"a\" {}\n", ""),
        (&["write", "quiet", "a=1"], 0, "Written: quiet\n", ""),
        (&["write", "--format", "json", "quiet", "a=1"], 0, "", ""),
        (
            &["read", "warned"],
            0,
            "Key    Value\n---    -----\na      1\n",
            "warning: mind the gap\n",
        ),
        (
            &["status"],
            2,
            "Key          Value\n---          -----\nSeal         shamir\nSealed       true\nShares       3\nThreshold    2\n",
            "",
        ),
        (
            &["read", "denied"],
            2,
            "",
            "error: cannot read denied: permission denied\n hint: `daypass token lookup` shows the token in use, \
             `daypass token capabilities PATH` what it may do; `daypass login` takes another\n",
        ),
        (
            &["read", "nothing"],
            2,
            "",
            "error: cannot read nothing: not found\n",
        ),
        (
            &["read", "bad"],
            2,
            "",
            "error: cannot read bad: the server refused (400): field \"ttl\": is required\n",
        ),
        (
            &["read", "broken"],
            2,
            "",
            "error: cannot read broken: the server failed (500): internal error\n hint: the server's log says more\n",
        ),
        (
            &["read", "sealed"],
            3,
            "",
            "error: cannot read sealed: ADDRESS is sealed\n hint: holders of key shares run `daypass operator unseal`\n",
        ),
        (
            &["read", "--address", "http://127.0.0.1:1", "x"],
            3,
            "",
            "error: cannot read x: http://127.0.0.1:1 does not answer: Connection refused (os error 111)\n hint: is the \
             server running there? Set the address with --address or DAYPASS_ADDR, and a private authority with \
             --ca-cert or DAYPASS_CACERT\n",
        ),
        (
            &["write", "a/b"],
            1,
            "",
            "error: cannot write a/b: there are no fields\n hint: give some as k=v, or say --force to write without any\n",
        ),
        (
            &["login", "s.CANARY"],
            1,
            "",
            "error: cannot take a token as an argument: every process of the machine could read it, and the shell's \
             history keeps it\n hint: run `daypass login` and type it, or pipe it in: `daypass login < FILE`\n",
        ),
        (
            &["version"],
            0,
            concat!("daypass ", env!("CARGO_PKG_VERSION"), "\n"),
            "",
        ),
    ];
    for (arguments, code, out, err) in cases {
        let ran = machine.run(arguments, "");
        let errors = ran.err.replace(&machine.server.address, "ADDRESS");
        assert_eq!(
            (ran.out.as_str(), errors.as_str()),
            (*out, *err),
            "{arguments:?}"
        );
        assert_eq!(ran.code, *code, "{arguments:?}");
    }
}

#[test]
fn misuse_ends_with_1_and_help_with_0() {
    let machine = Machine::with(&[]);
    let cases: &[(&[&str], u8)] = &[
        (&[], 1),
        (&["no-such-command"], 1),
        (&["read"], 1),
        (&["read", "--format", "xml", "a"], 1),
        (&["kv", "destroy", "secret/app"], 1),
        (&["--help"], 0),
        (&["help", "kv", "put"], 0),
        (&["--version"], 0),
        (&["completions", "zsh"], 0),
        (&["completions", "tcsh"], 1),
    ];
    for (arguments, code) in cases {
        assert_eq!(machine.run(arguments, "").code, *code, "{arguments:?}");
    }
    let topic = machine.run(&["help", "exit-codes"], "");
    assert_eq!((topic.code, topic.out.trim_end()), (0, EXIT_CODES));
    assert!(machine.server.lines().is_empty());
}

#[test]
fn login_keeps_a_token_that_works_and_shows_none() {
    let mut machine = Machine::with(&[
        (
            "GET /v1/auth/token/lookup-self",
            (200, r#"{"data":{"id":"s.CANARY","policies":["ci"]}}"#),
        ),
        ("GET /v1/x", (200, r#"{"data":{"a":1}}"#)),
        ("PUT /v1/auth/token/revoke-self", (204, "")),
    ]);
    machine.token = None;
    let ran = machine.run(&["login"], "s.CANARY\n");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!ran.out.contains("CANARY") && !ran.err.contains("CANARY"));
    assert_eq!(
        std::fs::read_to_string(machine.path(".daypass/token")).unwrap(),
        "s.CANARY"
    );
    machine.server.take();

    machine.run(&["read", "x"], "");
    assert_eq!(
        machine.server.take()[0].headers["x-vault-token"],
        "s.CANARY"
    );
    assert_eq!(machine.run(&["token", "revoke", "--self"], "").code, 0);
    assert!(!std::path::Path::new(&machine.path(".daypass/token")).exists());

    for (input, code) in [("", 1), ("a\nb\n", 1)] {
        assert_eq!(machine.run(&["login"], input).code, code, "{input:?}");
    }
    let refused = Machine::with(&[(
        "GET /v1/auth/token/lookup-self",
        (403, r#"{"errors":["bad token"]}"#),
    )]);
    let ran = refused.run(&["login"], "s.CANARY");
    assert!(ran.code == 2 && !ran.err.contains("CANARY"), "{}", ran.err);
    assert!(!std::path::Path::new(&refused.path(".daypass/token")).exists());
}

const LOGGED_IN: &str = r#"{"request_id":"r","data":null,"wrap_info":null,"warnings":["short"],"auth":{"client_token":"s.CANARY","policies":["ci"]}}"#;
const WRAPPED: &str =
    r#"{"request_id":"r","data":null,"auth":null,"wrap_info":{"token":"s.wrapping","ttl":300}}"#;

#[test]
fn a_login_by_a_method_goes_without_the_token_in_use_and_keeps_its_own() {
    let machine = Machine::with(&[("PUT /v1/auth/approle/login", (200, LOGGED_IN))]);
    let login = ["login", "-m", "approle", "role_id=r"];
    let kept = machine.path(".daypass/token");

    let ran = machine.run(&login, "s");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(
        ran.out,
        "Key         Value\n---         -----\npolicies    ci\n"
    );
    assert!(ran.err.contains("warning: short"), "{}", ran.err);
    assert!(ran.err.contains("DAYPASS_TOKEN is set"), "{}", ran.err);
    assert!(!ran.err.contains("read arguments"), "{}", ran.err);
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "s.CANARY");
    let mode = std::fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        !machine.server.take()[0]
            .headers
            .contains_key("x-vault-token")
    );

    std::fs::remove_file(&kept).unwrap();
    let told = machine.run(&[&login[..], &["--no-store"]].concat(), "s");
    assert!(told.out.contains("s.CANARY"), "{}", told.out);
    let field = [
        "--no-store",
        "--field",
        "client_token",
        "secret_id=CANARY-2",
    ];
    let told = machine.run(&[&login[..], &field].concat(), "");
    assert_eq!(told.out, "s.CANARY");
    assert!(
        told.err.contains("warning: every process") && !told.err.contains("CANARY"),
        "{}",
        told.err
    );
    assert!(!std::path::Path::new(&kept).exists());
}

#[test]
fn a_login_that_fails_leaves_the_token_file_as_it_was() {
    let machine = Machine::with(&[
        (
            "PUT /v1/auth/userpass/login/ann",
            (400, r#"{"errors":["invalid username or password"]}"#),
        ),
        (
            "PUT /v1/auth/away/login/ann",
            (403, r#"{"errors":["permission denied"]}"#),
        ),
        (
            "PUT /v1/auth/odd/login/ann",
            (200, r#"{"request_id":"r","data":{}}"#),
        ),
        ("PUT /v1/auth/approle/login", (200, LOGGED_IN)),
        ("PUT /v1/auth/token/revoke-self", (204, "")),
    ]);
    let kept = machine.path(".daypass/token");
    machine.run(&["login", "-m", "approle", "role_id=r"], "s");
    let login = ["login", "-m", "userpass", "username=ann", "--path"];
    let cases = [
        (
            "userpass",
            "error: cannot log in by userpass: the server refused (400): invalid username or password\n",
        ),
        (
            "away",
            "error: cannot log in by userpass: permission denied\n hint: is the method mounted there \
             (auth/away/login/ann)? --path says where; `daypass auth list` shows it to those who may\n",
        ),
        (
            "odd",
            "error: cannot log in by userpass: the answer holds no token\n",
        ),
    ];
    for (path, want) in cases {
        let ran = machine.run(&[&login[..], &[path]].concat(), "CANARY-2");
        assert_eq!((ran.code, ran.err.as_str()), (2, want), "{path}");
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "s.CANARY");
    }

    // A token that cannot be kept is of no use to anyone.
    machine.server.take();
    let nowhere = [
        "login",
        "-m",
        "approle",
        "role_id=r",
        "--token-file",
        "/proc/none/t",
    ];
    let ran = machine.run(&nowhere, "s");
    assert!(
        ran.code == 1 && ran.err.contains("cannot keep the token"),
        "{}",
        ran.err
    );
    let seen = machine.server.take();
    assert_eq!(seen[1].line, "PUT /v1/auth/token/revoke-self");
    assert_eq!(seen[1].headers["x-vault-token"], "s.CANARY");
}

#[test]
fn what_is_wrapped_is_asked_for_and_opened_in_its_own_name() {
    let machine = Machine::with(&[
        ("GET /v1/sys/internal/ui/mounts/secret/app", (200, KV2)),
        ("GET /v1/secret/data/app", (200, WRAPPED)),
        ("GET /v1/sys/internal/ui/mounts/db/ro", (200, DB)),
        ("GET /v1/db/creds/ro", (200, WRAPPED)),
        ("PUT /v1/auth/approle/login", (200, WRAPPED)),
        ("PUT /v1/auth/token/create", (200, WRAPPED)),
        ("PUT /v1/sys/wrapping/unwrap", (200, SECRET)),
        (
            "PUT /v1/sys/wrapping/lookup",
            (
                400,
                r#"{"errors":["wrapping token is not valid or does not exist"]}"#,
            ),
        ),
    ]);
    let asks: [&[&str]; 4] = [
        &["kv", "get", "secret/app"],
        &["issue", "db/ro"],
        &["login", "-m", "approle", "role_id=r", "secret_id="],
        &["token", "create"],
    ];
    for ask in asks {
        let ran = machine.run(&[ask, &["--wrap-ttl", "5m"]].concat(), "");
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (
                0,
                "Key      Value\n---      -----\ntoken    s.wrapping\nttl      300\n"
            ),
            "{ask:?}: {}",
            ran.err
        );
        let seen = machine.server.take();
        let (last, before) = seen.split_last().unwrap();
        assert_eq!(last.headers["x-vault-wrap-ttl"], "5m", "{ask:?}");
        for other in before {
            assert!(
                !other.headers.contains_key("x-vault-wrap-ttl"),
                "{}",
                other.line
            );
        }
    }
    assert!(!std::path::Path::new(&machine.path(".daypass/token")).exists());
    let ran = machine.run(
        &["issue", "db/ro", "--wrap-ttl", "5m", "--out-key", "k"],
        "",
    );
    assert_eq!(ran.code, 1);

    machine.server.take();
    let file = machine.path("wrapped");
    std::fs::write(&file, "s.wrapping\n").unwrap();
    let ran = machine.run(&["unwrap", &format!("@{file}"), "--format", "json"], "");
    assert!(ran.code == 0 && ran.err.is_empty(), "{}", ran.err);
    assert_eq!(
        machine.server.take()[0].headers["x-vault-token"],
        "s.wrapping"
    );
    let ran = machine.run(&["unwrap", "s.CANARY"], "");
    assert!(
        ran.code == 0 && ran.err.contains("warning: every process"),
        "{}",
        ran.err
    );
    let ran = machine.run(&["wrap", "lookup", "-"], "s.CANARY");
    assert!(
        ran.code == 2 && ran.err.contains("somebody else may have") && !ran.err.contains("CANARY"),
        "{}",
        ran.err
    );
}

#[test]
fn a_certificate_goes_into_files_and_its_key_nowhere_else() {
    let machine = Machine::with(&[
        (
            "GET /v1/sys/internal/ui/mounts/pki/web",
            (200, r#"{"data":{"path":"pki/","type":"pki"}}"#),
        ),
        (
            "PUT /v1/pki/issue/web",
            (
                200,
                r#"{"data":{"certificate":"LEAF","private_key":"KEY\n","issuing_ca":"MIDDLE","ca_chain":["MIDDLE","ROOT"],"serial_number":"01:02"}}"#,
            ),
        ),
    ]);
    let (cert, key, ca) = (machine.path("c"), machine.path("k"), machine.path("a"));
    let files = ["--out-cert", &cert, "--out-key", &key, "--out-ca", &ca];
    let arguments = [&["issue", "pki/web", "common_name=x"][..], &files].concat();
    for format in ["table", "json"] {
        let ran = machine.run(&[&arguments[..], &["--format", format]].concat(), "");
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(
            !ran.out.contains("KEY") && ran.out.contains("01:02"),
            "{}",
            ran.out
        );
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    assert_eq!(
        (read(&cert), read(&key), read(&ca)),
        ("LEAF\nMIDDLE\n".into(), "KEY\n".into(), "ROOT\n".into())
    );
    assert_eq!(
        std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );

    // The certificate exists by now: its serial is what it is revoked by.
    let ran = machine.run(
        &[
            "issue",
            "pki/web",
            "a=b",
            "--out-key",
            "/no/such/folder/key",
        ],
        "",
    );
    assert!(
        ran.code == 2 && ran.err.contains("01:02") && !ran.err.contains("KEY"),
        "{}",
        ran.err
    );
}

#[test]
fn configurations_and_policies_are_checked_without_a_server() {
    let machine = Machine::with(&[]);
    let file = |name: &str, text: &str| {
        let path = machine.path(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let least = "listeners = [{ address = 'unix:s' }]\nstorage.path = 'd'\nseal.type = 'shamir'\naudit.path = 'a'\n";
    let good = file("good.toml", least);
    let ran = machine.run(&["config", "check", &good], "");
    assert_eq!(
        (ran.code, ran.out),
        (
            0,
            format!("{good} is valid: 1 listeners, 0 mounts, 0 policies, 0 quotas\n")
        )
    );

    let bad = file("bad.toml", &format!("{least}lgo = 1\n"));
    let ran = machine.run(&["config", "check", &bad], "");
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.out,
        format!("{bad}:5:1: lgo: is not a known key; did you mean \"log\"?\n")
    );
    let ran = machine.run(&["config", "check", "--format", "json", &bad], "");
    let problems: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (ran.code, &problems[0]["line"], &problems[0]["nearest"]),
        (1, &5.into(), &"log".into())
    );

    let device =
        "[[audit_devices]]\npath = 'siem'\ntype = 'file'\noptions = { file_path = 'siem.log' }\n";
    for (text, want) in [
        (
            device.replace("siem.log", "a/siem.log"),
            "audit_devices[0].options: the folder of the audit log is its own",
        ),
        (
            device.replace("type = 'file'", "type = 'socket'"),
            "audit_devices[0]: option \"address\" is required",
        ),
        (
            device.replace("path = 'siem'", "path = 'local'"),
            "audit_devices[0].path: expected",
        ),
        (
            device.repeat(2),
            "audit_devices[1].path: \"siem\" is already declared",
        ),
        (
            device.to_owned() + &device.replace("'siem'", "'b'"),
            "audit_devices[1].options: another device",
        ),
    ] {
        let bad = file("device.toml", &format!("{least}{text}"));
        let ran = machine.run(&["config", "check", &bad], "");
        assert!(ran.code == 1 && ran.out.contains(want), "{}", ran.out);
    }

    let policy = file(
        "policy.toml",
        &format!("{least}[[policies]]\nname = 'ci'\nrules = 'path \"a\" {{ capabilites = [] }}'\n"),
    );
    let ran = machine.run(&["config", "check", &policy], "");
    assert!(
        ran.code == 1 && ran.out.contains("policies[0].rules: line 1"),
        "{}",
        ran.out
    );

    let hcl = file("ci.hcl", "path \"a\" {\ncapabilities = [\"read\"]\n}");
    let ran = machine.run(&["policy", "check", &hcl], "");
    assert_eq!(
        (ran.code, ran.out),
        (0, format!("{hcl} is valid: 1 rule\n"))
    );
    assert_eq!(machine.run(&["policy", "fmt", &hcl], "").code, 0);
    assert_eq!(
        std::fs::read_to_string(&hcl).unwrap(),
        "path \"a\" {\n  capabilities = [\"read\"]\n}\n"
    );
    let ran = machine.run(
        &["policy", "check", "-"],
        "path \"a\" { capabilities = [\"raed\"] }",
    );
    assert!(
        ran.code == 1 && ran.err.contains("line 1, column"),
        "{}",
        ran.err
    );
    assert!(machine.server.lines().is_empty());
}

/// A clock that stands still.
struct Noon;

impl daypass_contract::Clock for Noon {
    fn now(&self) -> std::time::SystemTime {
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000)
    }
}

#[test]
fn an_audit_log_is_verified_and_read() {
    use crate::audit::{AuditLog, Kind, Options};
    let machine = Machine::with(&[]);
    let folder = machine.home.path().join("audit");
    let log = AuditLog::open(&folder, Options::default(), std::sync::Arc::new(Noon)).unwrap();
    for what in ["first", "second"] {
        log.append(Kind::Event, &serde_json::json!({"event": {"what": what}}))
            .unwrap();
    }
    log.close().unwrap();
    let path = folder.display().to_string();

    let ran = machine.run(&["audit", "verify", &path], "");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let head = machine
        .run(&["audit", "verify", "--field", "head", &path], "")
        .out;
    assert_eq!(
        machine
            .run(&["audit", "verify", "--head", &head, &path], "")
            .code,
        0
    );
    let ran = machine.run(&["audit", "tail", "-n", "1", "--format", "json", &path], "");
    assert!(ran.code == 0 && ran.out.lines().count() == 1, "{}", ran.out);
    let ran = machine.run(&["audit", "tail", &path], "");
    assert!(ran.code == 0 && ran.out.lines().count() > 1, "{}", ran.out);

    let mut files = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let log = files
        .find(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("first")))
        .unwrap();
    let changed = std::fs::read_to_string(&log)
        .unwrap()
        .replace("first", "First");
    std::fs::write(&log, changed).unwrap();
    let ran = machine.run(&["audit", "verify", &path], "");
    assert!(
        ran.code == 2 && ran.err.contains("was changed"),
        "{}",
        ran.err
    );
    assert_eq!(
        machine
            .run(&["audit", "verify", "/no/such/folder"], "")
            .code,
        1
    );
}
