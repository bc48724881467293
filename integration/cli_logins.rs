//! People and programs logging in with `daypass login`: by password, by a secret id that came wrapped, at a
//! prompt on a terminal; and what is left when a login fails or is interrupted.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::server::Server;
use crate::{PATIENCE, tools, wait_for};

/// What a command printed and how it ended.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(mut command: Command, input: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// A server with a user `ann` and an operator's session at it.
struct Site(Server);

impl Site {
    fn start() -> Self {
        let site = Self(Server::start(""));
        site.admin(&["auth", "enable", "userpass"], "");
        site.admin(
            &["write", "auth/userpass/users/ann", "password=-"],
            "hunter2",
        );
        site
    }

    /// What the operator's command prints; it must succeed.
    fn admin(&self, arguments: &[&str], input: &str) -> String {
        let ran = run(self.0.command(arguments), input);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.err);
        ran.out
    }

    /// A command of somebody with a home and no token in the environment.
    fn person(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.0.command(arguments);
        command.env_remove("DAYPASS_TOKEN").env("HOME", self.home());
        run(command, input)
    }

    fn home(&self) -> PathBuf {
        self.0.path("home")
    }

    fn token_file(&self) -> PathBuf {
        self.home().join(".daypass/token")
    }
}

#[test]
fn a_password_logs_in_and_a_wrong_one_changes_nothing() {
    let site = Site::start();
    let login = ["login", "--method", "userpass", "username=ann"];
    let refused = |ran: &Ran| {
        assert_eq!(
            (ran.code, ran.out.as_str(), ran.err.as_str()),
            (
                Some(2),
                "",
                "error: cannot log in by userpass: the server refused (400): invalid username or password\n"
            )
        );
    };
    refused(&site.person(&login, "hunter3\n"));
    assert!(!site.home().exists());

    let ran = site.person(&login, "hunter2\n");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let token = fs::read_to_string(site.token_file()).unwrap();
    assert!(!ran.out.contains(&token) && !ran.err.contains(&token));
    let mode = fs::metadata(site.token_file())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let own = site.person(&["token", "lookup", "--field", "display_name"], "");
    assert_eq!(own.out, "userpass-ann");

    refused(&site.person(&login, "hunter3\n"));
    assert_eq!(fs::read_to_string(site.token_file()).unwrap(), token);

    // In an argument it works, and is warned of.
    let argument = [&login[..], &["password=hunter2", "--no-store"]].concat();
    let ran = site.person(&argument, "");
    assert_eq!(ran.code, Some(0));
    assert!(ran.err.starts_with("warning: every process"), "{}", ran.err);
    assert!(ran.out.contains("client_token"), "{}", ran.out);
    assert_eq!(fs::read_to_string(site.token_file()).unwrap(), token);

    let nowhere = site.person(&[&login[..], &["--path", "nowhere"]].concat(), "hunter2");
    assert_eq!(nowhere.code, Some(2));
    assert!(nowhere.err.contains("--path says where"), "{}", nowhere.err);

    // The method's end is the end of what it made.
    site.admin(&["auth", "disable", "userpass"], "");
    assert_eq!(site.person(&["token", "lookup"], "").code, Some(2));
    site.0.verify_audit();
}

#[test]
fn a_wrapped_secret_id_is_opened_once_and_logs_in() {
    let site = Site::start();
    site.admin(&["auth", "enable", "--path", "ci", "approle"], "");
    site.admin(&["auth", "tune", "--max-lease-ttl", "1h", "ci"], "");
    let role = "auth/ci/role/build";
    site.admin(
        &["write", role, "token_policies=default", "token_ttl=10m"],
        "",
    );
    let role_id = site.admin(
        &["read", "--field", "role_id", &format!("{role}/role-id")],
        "",
    );
    let role_id = format!("role_id={role_id}");
    let secret_id = format!("{role}/secret-id");
    let wrapped = site.0.path("wrapped");
    let hand_over = || {
        let wrap = [
            "write",
            "--wrap-ttl",
            "5m",
            "--field",
            "token",
            "-f",
            &secret_id,
        ];
        fs::write(&wrapped, site.admin(&wrap, "")).unwrap();
    };
    hand_over();
    let from_file = format!("@{}", wrapped.display());

    let looked = site.person(
        &["wrap", "lookup", "--field", "creation_path", &from_file],
        "",
    );
    assert_eq!(looked.out, secret_id, "{}", looked.err);
    let again = site.person(&["wrap", "rewrap", "--field", "token", &from_file], "");
    assert_eq!(again.code, Some(0), "{}", again.err);
    let spent = site.person(&["unwrap", &from_file], "");
    assert_eq!(spent.code, Some(2));
    assert!(
        spent.err.contains("somebody else may have"),
        "{}",
        spent.err
    );
    let opened = site.person(&["unwrap", "--field", "secret_id"], &again.out);
    assert_eq!(opened.code, Some(0), "{}", opened.err);

    let login = ["login", "--method", "approle", "--path", "ci", &role_id];
    let token = [&login[..], &["--no-store", "--field", "client_token"]].concat();
    let ran = site.person(&token, &opened.out);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(!site.token_file().exists());
    let told = run(
        {
            let mut command = site.0.command(&["token", "lookup", "--field", "path"]);
            command.env("DAYPASS_TOKEN", &ran.out);
            command
        },
        "",
    );
    assert_eq!(told.out, "auth/ci/login", "{}", told.err);

    // The login itself wrapped: whoever opens it has the token.
    let login_wrapped = [&login[..], &["--wrap-ttl", "1m", "--field", "token"]].concat();
    let ran = site.person(&login_wrapped, &opened.out);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(!site.token_file().exists());
    let token = site.person(&["unwrap", "--field", "client_token"], &ran.out);
    assert_eq!(site.person(&["login"], &token.out).code, Some(0));

    let made = site.admin(
        &["token", "create", "--wrap-ttl", "1m", "--field", "token"],
        "",
    );
    assert_eq!(site.person(&["unwrap"], &made).code, Some(0));

    let listed = site.admin(&["auth", "list"], "");
    assert!(
        listed.contains("ci/ ") && listed.contains("approle"),
        "{listed}"
    );
    site.admin(&["auth", "move", "ci", "build"], "");
    let login = ["login", "-m", "approle", "--path", "build", &role_id];
    assert_eq!(site.person(&login, &opened.out).code, Some(0));
    site.0.verify_audit();
}

/// A shell on a terminal of its own, made by script(1).
struct Terminal {
    _script: tools::Killed,
    keyboard: ChildStdin,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Runs `line` in a shell that outlives Ctrl-C and Ctrl-\\.
    fn run(site: &Site, line: &str) -> Self {
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--command"])
            .arg(format!(
                "trap : INT QUIT; {line}; echo \"ended $?\"; stty -a"
            ))
            .arg("/dev/null")
            .env("SHELL", "/bin/sh")
            .env("DAYPASS_ADDR", site.0.url())
            .env("DAYPASS_CACERT", site.0.path("ca.pem"))
            .env("HOME", site.home())
            .env_remove("DAYPASS_TOKEN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut script = tools::Killed(command.spawn().expect("script(1), of util-linux, runs"));
        let keyboard = script.0.stdin.take().unwrap();
        let mut output = script.0.stdout.take().unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&screen);
        thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                shown.lock().unwrap().push_str(&text);
            }
        });
        Self {
            _script: script,
            keyboard,
            screen,
        }
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` is on the screen, and answers the screen.
    fn shows(&self, text: &str) -> String {
        wait_for(text, PATIENCE, || {
            let screen = self.screen.lock().unwrap();
            screen.contains(text).then(|| screen.clone())
        })
    }
}

#[test]
fn a_prompt_shows_no_secret_and_leaves_the_terminal_as_it_was() {
    let site = Site::start();
    let daypass = env!("CARGO_BIN_EXE_daypass");
    let login = format!("{daypass} login --method userpass username=ann");
    // What is typed, and how the command ends.
    let cases = [("hunter2\n", 0), ("hunter\x7f\x7f\x03", 130), ("\x1c", 131)];
    for (keys, code) in cases {
        let mut terminal = Terminal::run(&site, &login);
        terminal.shows("Password (not shown): ");
        terminal.types(keys);
        terminal.shows(&format!("ended {code}"));
        let screen = terminal.shows("echonl");
        let modes: Vec<&str> = screen.split_whitespace().collect();
        for want in ["echo", "icanon", "isig", "-echonl"] {
            assert!(modes.contains(&want), "{keys:?}: {want}\n{screen}");
        }
        assert!(screen.contains("intr = ^C"), "{keys:?}: {screen}");
        assert!(!screen.contains("hunter"), "{keys:?}: {screen}");
        assert_eq!(site.token_file().exists(), code == 0, "{screen}");
        let _ = fs::remove_file(site.token_file());
    }
}
