//! The client against a small server that answers what a Vault API answers.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use axum::Router;
use serde_json::json;

use super::testing::Server;
use super::*;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn each_verb_sends_what_the_vault_api_expects() {
    let server = Server::with(&[
        (
            "GET /v1/secret/data/a%20b?version=2",
            (200, r#"{"data":{"x":1}}"#),
        ),
        (
            "GET /v1/secret/metadata/?list=true",
            (200, r#"{"data":{"keys":["a"]}}"#),
        ),
        ("PUT /v1/sys/x", (204, "")),
        ("PATCH /v1/sys/x", (204, "")),
        ("DELETE /v1/sys/x", (204, "")),
        ("GET /v1/pki/ca/pem", (200, "-----BEGIN")),
    ]);
    let client = server.client();
    let fields = json!({"k": "v"}).as_object().cloned().unwrap();
    run(async {
        let answer = client
            .read("secret/data/a b", &[("version", "2")])
            .await
            .ok()
            .unwrap();
        assert_eq!((answer.status, answer.data()), (200, &json!({"x": 1})));
        let answer = client.list("/v1/secret/metadata/").await.ok().unwrap();
        assert_eq!(answer.data(), &json!({"keys": ["a"]}));
        let answer = client.write("sys/x", &fields).await.ok().unwrap();
        assert!(answer.status == 204 && matches!(answer.content, Content::Empty));
        client.patch("sys/x", &fields).await.ok().unwrap();
        client.delete("sys/x").await.ok().unwrap();
        let answer = client.read("pki/ca/pem", &[]).await.ok().unwrap();
        assert!(matches!(answer.content, Content::Raw(bytes) if bytes == b"-----BEGIN"));
    });
    let seen = server.take();
    assert_eq!(seen[2].body, r#"{"k":"v"}"#);
    assert_eq!(
        seen[3].headers["content-type"],
        "application/merge-patch+json"
    );
    for one in &seen {
        assert_eq!(one.headers["x-vault-token"], "s.token", "{}", one.line);
        assert_eq!(one.headers["x-vault-request"], "true", "{}", one.line);
    }
}

#[test]
fn errors_say_what_to_do_next_in_the_servers_words() {
    let unsealed = ("GET /v1/sys/seal-status", (200, r#"{"sealed":false}"#));
    let sealed = ("GET /v1/sys/seal-status", (200, r#"{"sealed":true}"#));
    let cases = [
        (
            403,
            r#"{"errors":["permission denied"]}"#,
            unsealed,
            "permission denied",
        ),
        (
            403,
            r#"{"errors":["token has ended"]}"#,
            unsealed,
            "permission denied: token has ended",
        ),
        (404, r#"{"errors":[]}"#, unsealed, "not found"),
        (
            400,
            r#"{"errors":["a","b"]}"#,
            unsealed,
            "the server refused (400): a; b",
        ),
        (
            405,
            r#"{"errors":[]}"#,
            unsealed,
            "the server refused (405)",
        ),
        (
            429,
            r#"{"errors":["slow down"]}"#,
            unsealed,
            "the server cannot answer now (429): slow down",
        ),
        (
            500,
            r#"{"errors":["broken"]}"#,
            unsealed,
            "the server failed (500): broken",
        ),
        (
            502,
            "<html>secret</html>",
            unsealed,
            "the server failed (502)",
        ),
        (
            200,
            "{broken",
            unsealed,
            "the server failed (200): the answer is not valid JSON",
        ),
        (
            503,
            r#"{"errors":["upstream"]}"#,
            unsealed,
            "the server cannot answer now (503): upstream",
        ),
        (
            503,
            r#"{"errors":["anything"]}"#,
            sealed,
            "ADDRESS is sealed",
        ),
        (
            307,
            "",
            unsealed,
            "the server refused (307): ADDRESS redirects; use the address it stands for",
        ),
    ];
    for (status, body, seal, want) in cases {
        let server = Server::with(&[("GET /v1/x", (status, body)), seal]);
        let error = run(server.client().read("x", &[]))
            .err()
            .unwrap()
            .to_string();
        assert_eq!(error.replace(&server.address, "ADDRESS"), want);
    }
}

#[test]
fn what_is_left_to_say_of_something_gone_is_an_answer() {
    let body = r#"{"data":{"data":null,"metadata":{"deletion_time":"now"}}}"#;
    let server = Server::with(&[("GET /v1/x", (404, body))]);
    let answer = run(server.client().read("x", &[])).ok().unwrap();
    assert_eq!(answer.status, 404);
    assert_eq!(answer.data()["metadata"]["deletion_time"], "now");
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    // Bound and dropped: nobody listens on it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let settings = Settings {
        address,
        ..Settings::default()
    };
    let client = Client::new(settings).ok().unwrap();
    let error = run(client.read("x", &[])).err().unwrap();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn bad_settings_and_paths_are_refused_before_anything_is_sent() {
    for address in ["", "127.0.0.1:8200", "ftp://x", "https://"] {
        let settings = Settings {
            address: address.into(),
            ..Settings::default()
        };
        let error = Client::new(settings).err().unwrap();
        assert!(matches!(error, ClientError::Settings(_)), "{address}");
    }
    let server = Server::with(&[]);
    for path in ["", "/", "a/../sys/seal", "./a", "v1/"] {
        let error = run(server.client().read(path, &[])).err().unwrap();
        assert!(matches!(error, ClientError::Settings(_)), "{path}");
    }
    assert!(server.client().set_token(&Secret::new("a\nb")).is_err());
    assert!(server.lines().is_empty());
}

#[test]
fn a_unix_socket_is_an_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        run(async {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            let app = Router::new().fallback(|| async { "hello" });
            axum::serve(listener, app).await.unwrap();
        });
    });
    let address = format!("unix://{}", path.display());
    let client = Client::new(Settings {
        address,
        ..Settings::default()
    })
    .ok()
    .unwrap();
    let answer = run(client.read("x", &[])).ok().unwrap();
    assert!(matches!(answer.content, Content::Raw(bytes) if bytes == b"hello"));
}

type Variables<'a> = &'a [(&'a str, &'a str)];

#[test]
fn flags_come_before_the_environment_and_daypass_before_vault() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        write_private(&path, text.as_bytes()).unwrap();
        path
    };
    let (home, flag) = (folder.path().to_str().unwrap(), file("flag", "s.flag\n"));
    std::fs::create_dir(folder.path().join(".daypass")).unwrap();
    file(".daypass/token", "s.home");
    let cases: [(&str, Variables<'_>, bool, &str, &str); 6] = [
        ("nothing", &[], false, "https://127.0.0.1:8200", ""),
        (
            "home",
            &[("HOME", home)],
            false,
            "https://127.0.0.1:8200",
            "s.home",
        ),
        (
            "vault",
            &[
                ("VAULT_ADDR", "http://v"),
                ("VAULT_TOKEN", "s.v"),
                ("HOME", home),
            ],
            false,
            "http://v",
            "s.v",
        ),
        (
            "daypass",
            &[
                ("VAULT_ADDR", "http://v"),
                ("DAYPASS_ADDR", "http://d"),
                ("VAULT_TOKEN", "s.v"),
                ("DAYPASS_TOKEN", "s.d"),
            ],
            false,
            "http://d",
            "s.d",
        ),
        (
            "empty is not set",
            &[("DAYPASS_ADDR", ""), ("VAULT_ADDR", "http://v")],
            false,
            "http://v",
            "",
        ),
        (
            "flags",
            &[("DAYPASS_ADDR", "http://d"), ("DAYPASS_TOKEN", "s.d")],
            true,
            "http://f",
            "s.flag",
        ),
    ];
    for (name, variables, flags, address, token) in cases {
        let environment = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let overrides = if flags {
            Overrides {
                address: Some("http://f".into()),
                token_file: Some(flag.clone()),
                ..Overrides::default()
            }
        } else {
            Overrides::default()
        };
        let settings = Settings::read(&overrides, &environment).ok().unwrap();
        let found = settings
            .token
            .as_ref()
            .map_or("", |token| token.expose_str().unwrap());
        assert_eq!(
            (settings.address.as_str(), found),
            (address, token),
            "{name}"
        );
    }
}

#[test]
fn the_token_file_is_its_owners_alone_and_replaced_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = TokenFile::at(&folder.path().join("new/token"));
    assert!(file.read().unwrap().is_none());
    file.write(&Secret::new("s.one")).unwrap();
    file.write(&Secret::new("s.two")).unwrap();
    assert_eq!(file.read().unwrap().unwrap().expose_str(), Some("s.two"));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(file.path()), 0o600);
    assert_eq!(mode(file.path().parent().unwrap()), 0o700);
    write_file(file.path(), b"s.two").unwrap();
    assert_eq!(mode(file.path()), 0o600, "what was private stays so");
    let left = std::fs::read_dir(file.path().parent().unwrap())
        .unwrap()
        .count();
    assert_eq!(left, 1, "a draft was left behind");

    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = file.read().err().unwrap().to_string();
    assert!(
        error.contains("chmod 600") && !error.contains("s.two"),
        "{error}"
    );
    file.remove().unwrap();
    file.remove().unwrap();
}
