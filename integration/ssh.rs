//! Certificates that Daypass signs, judged by OpenSSH: logins at a real `sshd`, and a host that `ssh` knows by
//! its CA alone.
//!
//! `sshd` serves one connection on its standard input and output, which `ssh` uses in place of a network: no
//! port is taken, and the host can have any name.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::server::Server;
use crate::tls::private;
use crate::{PATIENCE, tools, wait_for};

/// What certificates of hosts name in these tests.
const HOST: &str = "web.example.com";

/// Both ends of a connection: an sshd that trusts a CA, and somebody with a key.
struct Ends<'a> {
    server: &'a Server,
    folder: PathBuf,
    /// As whom the test runs; nobody else can be logged in.
    user: String,
}

impl<'a> Ends<'a> {
    /// A server with a CA at `ssh/`; nothing is signed.
    fn new(server: &'a Server) -> Self {
        let folder = server.path("openssh");
        fs::create_dir(&folder).unwrap();
        let ends = Self {
            server,
            folder,
            user: tools::succeed(Command::new("id").arg("-un"))
                .trim()
                .to_owned(),
        };
        let root = server.root();
        root.write("sys/mounts/ssh", &json!({"type": "ssh"}));
        root.write("ssh/config/ca", &json!({"key_type": "ed25519"}));
        // As a host that is set up fetches it: without a token.
        let ca = tools::succeed(
            Command::new("curl")
                .args(["--silent", "--show-error", "--fail", "--cacert"])
                .arg(server.path("ca.pem"))
                .arg(format!("{}/v1/ssh/public_key", server.url())),
        );
        assert!(ca.starts_with("ssh-ed25519 "), "{ca}");
        ends.write("ca.pub", &ca);
        ends.write(
            "known_hosts",
            &format!("@cert-authority *.example.com {ca}"),
        );
        for name in ["user", "host"] {
            tools::succeed(
                Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                    .arg(ends.path(name)),
            );
        }
        let path = |name: &str| ends.path(name).display().to_string();
        let config = [
            format!("HostKey {}", path("host")),
            format!("HostCertificate {}", path("host-cert.pub")),
            format!("TrustedUserCAKeys {}", path("ca.pub")),
            "AuthorizedKeysFile none".into(),
            "AuthenticationMethods publickey".into(),
            "PermitRootLogin prohibit-password".into(),
            "StrictModes no".into(),
            "UsePAM no".into(),
            "LogLevel VERBOSE".into(),
        ];
        ends.write("sshd_config", &config.join("\n"));
        if rustix::process::geteuid().is_root() {
            // Without it, sshd does not start as root; Debian makes it when the service starts.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        ends
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        private(&self.path(name), text);
    }

    /// Lets `role` sign the public key in `NAME.pub`.
    fn sign(&self, role: &str, name: &str, wish: Value) {
        let mut body = wish;
        body["public_key"] = json!(fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap());
        let signed = self.server.root().write(&format!("ssh/sign/{role}"), &body);
        self.write(
            &format!("{name}-cert.pub"),
            &signed.text("/data/signed_key"),
        );
    }

    /// A role for hosts below example.com, and a certificate of it for [`HOST`].
    fn certify_host(&self) {
        let role = json!({
            "key_type": "ca",
            "allow_host_certificates": true,
            "allowed_domains": "example.com",
            "allow_subdomains": true,
        });
        self.server.root().write("ssh/roles/host", &role);
        let wish = json!({"cert_type": "host", "valid_principals": HOST});
        self.sign("host", "host", wish);
    }

    /// Logs in at `host` with the key and certificate called `key`, and runs a command there.
    fn ssh(&self, key: &str, host: &str) -> Output {
        let sshd = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"];
        let sshd = sshd.iter().find(|path| fs::exists(path).unwrap());
        let sshd = sshd.expect("sshd is there: run scripts/install-test-tools.sh");
        let config = self.path("sshd_config");
        let set = |name: &str, value: String| format!("-o{name}={value}");
        let path = |name: &str| self.path(name).display().to_string();
        let mut command = Command::new("ssh");
        command
            .args(["-F", "none", "-T"])
            .arg(set(
                "ProxyCommand",
                format!("{sshd} -i -e -f {}", config.display()),
            ))
            .arg(set("IdentityFile", path(key)))
            .arg(set("CertificateFile", path(&format!("{key}-cert.pub"))))
            .arg(set("UserKnownHostsFile", path("known_hosts")))
            .arg(set("GlobalKnownHostsFile", "none".into()))
            .args(["-oIdentitiesOnly=yes", "-oIdentityAgent=none"])
            .args(["-oBatchMode=yes", "-oStrictHostKeyChecking=yes"])
            .arg(format!("{}@{host}", self.user))
            .arg("echo granted");
        tools::run(&mut command)
    }

    fn granted(&self, key: &str, host: &str) {
        let output = self.ssh(key, host);
        let said = String::from_utf8_lossy(&output.stdout);
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, "granted\n", "{log}");
    }

    /// What both ends said about a login that was refused.
    fn refused(&self, host: &str) -> String {
        let output = self.ssh("user", host);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "{log}"
        );
        log
    }
}

#[test]
fn a_certificate_logs_its_principal_in_and_nobody_else_and_not_for_long() {
    if tools::skipped(&["openssh"]) {
        return;
    }
    let server = Server::start("");
    let ends = Ends::new(&server);
    ends.certify_host();
    let role = json!({
        "key_type": "ca",
        "allow_user_certificates": true,
        "allowed_users": format!("{},somebody-else", ends.user),
        "default_extensions": {"permit-pty": ""},
        "ttl": "5m",
    });
    server.root().write("ssh/roles/user", &role);
    let own = json!({"valid_principals": ends.user});

    ends.sign("user", "user", own.clone());
    ends.granted("user", HOST);
    ends.sign("user", "user", json!({"valid_principals": "somebody-else"}));
    let log = ends.refused(HOST);
    assert!(log.contains("name is not a listed principal"), "{log}");

    // What the certificate forces is what runs.
    let forced = json!({
        "valid_principals": ends.user,
        "critical_options": {"force-command": "echo forced"},
    });
    ends.sign("user", "user", forced);
    assert_eq!(ends.ssh("user", HOST).stdout, b"forced\n");
    let elsewhere = json!({
        "valid_principals": ends.user,
        "critical_options": {"source-address": "192.0.2.1"},
    });
    ends.sign("user", "user", elsewhere);
    ends.refused(HOST);

    // A key that `issue` made is as good as one's own.
    let issued = json!({"valid_principals": ends.user, "key_type": "ec"});
    let issued = server.root().write("ssh/issue/user", &issued);
    ends.write("issued", &issued.text("/data/private_key"));
    ends.write("issued-cert.pub", &issued.text("/data/signed_key"));
    ends.granted("issued", HOST);

    let mut short = own.clone();
    short["ttl"] = json!("1s");
    ends.sign("user", "user", short);
    wait_for("the certificate ends", PATIENCE, || {
        let log = String::from_utf8_lossy(&ends.ssh("user", HOST).stderr).into_owned();
        log.contains("Certificate invalid: expired").then_some(())
    });
    // It was that and nothing else.
    ends.sign("user", "user", own.clone());
    ends.granted("user", HOST);

    // A host that trusts another CA lets nobody in.
    server
        .root()
        .write("ssh/config/ca", &json!({"key_type": "ec"}));
    ends.sign("user", "user", own);
    ends.refused(HOST);
    server.verify_audit();
}

#[test]
fn a_host_is_known_by_its_ca_and_only_under_its_name() {
    if tools::skipped(&["openssh"]) {
        return;
    }
    let server = Server::start("");
    let ends = Ends::new(&server);
    ends.certify_host();
    let role = json!({
        "key_type": "ca",
        "allow_user_certificates": true,
        "allowed_users": ends.user,
        "default_user": ends.user,
    });
    server.root().write("ssh/roles/user", &role);
    ends.sign("user", "user", json!({}));
    ends.granted("user", HOST);
    let log = ends.refused("db.example.com");
    assert!(log.contains("name is not a listed principal"), "{log}");
    // A certificate of a user is none of a host.
    ends.sign("user", "host", json!({}));
    ends.refused(HOST);
    ends.certify_host();
    ends.granted("user", HOST);
}

#[test]
fn hvac_configures_a_ca_and_signs() {
    if tools::skipped(&["clients", "openssh"]) {
        return;
    }
    let server = Server::start("");
    tools::succeed(
        Command::new("ssh-keygen")
            .args(["-q", "-t", "ecdsa", "-N", "", "-f"])
            .arg(server.path("user")),
    );
    tools::succeed(
        tools::from_venv("python")
            .arg(tools::root("integration/hvac_ssh.py"))
            .current_dir(server.folder())
            .env("ADDRESS", server.url())
            .env("CA", server.path("ca.pem"))
            .env("TOKEN", &server.root),
    );
    let shown = tools::succeed(
        Command::new("ssh-keygen")
            .args(["-L", "-f"])
            .arg(server.path("user-cert.pub")),
    );
    for part in ["user certificate", "deploy\n", "permit-pty"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    server.verify_audit();
}
