//! The clients people have, doing the three jobs and what lies around them: hvac and the `bao` CLI.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};

use daypass_conformance::Postgres;
use serde_json::{Value, json};

use crate::server::Server;
use crate::{PATIENCE, database, tools, wait_for};

#[test]
fn hvac_does_the_three_jobs() {
    if tools::skipped(&["postgresql", "clients"]) {
        return;
    }
    let postgres = database::postgres();
    let server = Server::start("");
    let said = tools::succeed(
        tools::from_venv("python")
            .arg(tools::root("integration/hvac_jobs.py"))
            .current_dir(server.folder())
            .env("ADDRESS", server.url())
            .env("CA", server.path("ca.pem"))
            .env("TOKEN", &server.root)
            .env("KEYS", server.shares.join(","))
            .env("PGPORT", postgres.port().to_string())
            .env("PGUSER", Postgres::USER)
            .env("PGPASSWORD", Postgres::PASSWORD),
    );
    eprintln!("{said}");
    server.verify_audit();
}

/// The `bao` command line at a server, with a home of its own.
struct Bao<'a>(&'a Server, String);

impl Bao<'_> {
    fn command(&self, line: &str) -> Command {
        let mut command = tools::from_venv("bao");
        command
            .args(line.split_whitespace())
            .env("BAO_ADDR", self.0.url())
            .env("BAO_CACERT", self.0.path("ca.pem"))
            .env("HOME", self.0.folder())
            .current_dir(self.0.folder());
        if !self.1.is_empty() {
            command.env("BAO_TOKEN", &self.1);
        }
        command
    }

    fn run(&self, line: &str) -> Output {
        tools::run(&mut self.command(line))
    }

    /// Runs a line that must succeed, and answers what it printed.
    fn says(&self, line: &str) -> String {
        tools::succeed(&mut self.command(line))
    }

    /// The same in JSON; `-format=json` goes after the command's own words.
    fn json(&self, words: &str, rest: &str) -> Value {
        let text = self.says(&format!("{words} -format=json {rest}"));
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{words}: {text}"))
    }

    /// Runs a line that must fail, and answers what it said.
    fn refuses(&self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(2), "{line}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn exit_code(&self, line: &str) -> i32 {
        self.run(line).status.code().unwrap()
    }
}

#[test]
fn bao_initializes_unseals_and_seals() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let mut server = Server::prepare("");
    server.launch();
    let bao = Bao(&server, String::new());
    assert_eq!(bao.exit_code("operator init -status"), 2);
    assert_eq!(bao.exit_code("status"), 2);
    let made = bao.json("operator init", "-key-shares=2 -key-threshold=2");
    let share = |at: usize| made["unseal_keys_b64"][at].as_str().unwrap().to_owned();
    assert_eq!(made["unseal_shares"], 2, "{made}");
    assert_eq!(bao.exit_code("operator init -status"), 0);
    assert!(bao.refuses("operator init").contains("already initialized"));
    assert_eq!(bao.exit_code("status"), 2);
    let one = bao.json("operator unseal", &share(0));
    assert_eq!(
        (&one["sealed"], &one["progress"]),
        (&json!(true), &json!(1))
    );
    let two = bao.json("operator unseal", &share(1));
    assert_eq!(two["sealed"], json!(false));
    assert_eq!(bao.exit_code("status"), 0);
    let status = bao.json("status", "");
    assert_eq!((&status["t"], &status["n"]), (&json!(2), &json!(2)));

    let root = Bao(&server, made["root_token"].as_str().unwrap().to_owned());
    assert!(root.says("operator rotate").contains("Key Term"));
    assert!(root.says("operator seal").contains("Success"));
    assert_eq!(bao.exit_code("status"), 2);
    assert!(root.refuses("token lookup").contains("sealed"));
    let away = bao
        .command("status")
        .env("BAO_ADDR", "https://127.0.0.1:1")
        .output()
        .unwrap();
    assert_eq!(away.status.code(), Some(1));
}

#[test]
fn bao_keeps_secrets() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let server = Server::start("");
    let bao = Bao(&server, server.root.clone());
    bao.says("secrets enable -path=secret -version=2 -description=kept kv");
    bao.says("secrets enable -path=plain -version=1 kv");
    let listed = bao.json("secrets list", "-detailed");
    assert_eq!(listed["secret/"]["options"]["version"], "2");
    assert_eq!(listed["secret/"]["description"], "kept");
    assert!(bao.says("secrets list").contains("secret/"));

    for mount in ["secret", "plain"] {
        bao.says(&format!("kv put {mount}/app user=a password=one"));
        assert_eq!(
            bao.says(&format!("kv get -field=password {mount}/app")),
            "one"
        );
        assert_eq!(bao.json("kv list", mount), json!(["app"]));
    }
    assert_eq!(
        bao.json("kv put", "secret/app password=two")["data"]["version"],
        2
    );
    bao.says("kv patch secret/app extra=three");
    let read = bao.json("kv get", "-mount=secret app");
    assert_eq!(
        read["data"]["data"],
        json!({"password": "two", "extra": "three"})
    );
    assert_eq!(
        bao.says("kv get -version=1 -field=password secret/app"),
        "one"
    );
    bao.says("kv metadata put -max-versions=7 -custom-metadata=owner=ci secret/app");
    let metadata = bao.json("kv metadata get", "secret/app");
    assert_eq!(metadata["data"]["max_versions"], 7);
    assert_eq!(metadata["data"]["custom_metadata"]["owner"], "ci");
    bao.says("kv delete secret/app");
    // What is left of a deleted version is shown, as OpenBao does.
    assert!(bao.says("kv get secret/app").contains("deletion_time"));
    assert_eq!(bao.exit_code("kv get -version=9 secret/app"), 2);
    bao.says("kv undelete -versions=3 secret/app");
    bao.says("kv destroy -versions=1 secret/app");
    bao.says("kv rollback -version=2 secret/app");
    assert_eq!(bao.says("kv get -field=password secret/app"), "two");
    bao.says("kv metadata delete secret/app");
    assert_eq!(bao.exit_code("kv list secret"), 2);

    bao.says("write plain/b k=v");
    assert_eq!(bao.says("read -field=k plain/b"), "v");
    assert_eq!(bao.json("list", "plain"), json!(["app", "b"]));
    bao.says("delete plain/b");
    assert!(bao.refuses("read plain/b").contains("No value found"));
    bao.says("secrets tune -default-lease-ttl=1h plain");
    assert_eq!(
        bao.json("read", "sys/mounts/plain/tune")["data"]["default_lease_ttl"],
        3600
    );
    bao.says("secrets move plain moved");
    assert_eq!(bao.says("kv get -field=user moved/app"), "a");
    bao.says("secrets disable moved");
    assert!(!bao.says("secrets list").contains("moved/"));
}

#[test]
fn bao_manages_tokens_and_policies() {
    if tools::skipped(&["clients"]) {
        return;
    }
    let server = Server::start("");
    let bao = Bao(&server, server.root.clone());
    bao.says("secrets enable -path=secret -version=2 kv");
    bao.says("kv put secret/app k=v");
    fs::write(
        server.path("reader.hcl"),
        "path \"secret/data/*\" { capabilities = [\"read\"] }\n",
    )
    .unwrap();
    assert!(
        bao.says("policy write reader reader.hcl")
            .contains("Success")
    );
    assert!(bao.says("policy read reader").contains("secret/data/*"));
    let names = bao.json("policy list", "");
    assert_eq!(names, json!(["default", "reader", "root"]));

    let made = bao.json("token create", "-policy=reader -ttl=1h -display-name=ci");
    let text = made["auth"]["client_token"].as_str().unwrap().to_owned();
    let accessor = made["auth"]["accessor"].as_str().unwrap().to_owned();
    let reader = Bao(&server, text.clone());
    assert_eq!(reader.says("kv get -field=k secret/app"), "v");
    assert!(
        reader
            .refuses("kv put secret/app k=w")
            .contains("permission denied")
    );
    assert_eq!(
        reader.says("token capabilities secret/data/app").trim(),
        "read"
    );
    let own = reader.json("token lookup", "");
    assert_eq!(own["data"]["display_name"], "token-ci");
    assert_eq!(
        reader.json("token renew", "")["auth"]["lease_duration"],
        3600
    );
    assert_eq!(
        bao.json("token lookup", &text)["data"]["accessor"],
        json!(accessor)
    );
    let by_accessor = bao.json("token lookup", &format!("-accessor {accessor}"));
    assert_eq!(by_accessor["data"]["path"], "auth/token/create");
    assert!(bao.says("list auth/token/accessors").contains(&accessor));
    bao.says(&format!("token revoke -accessor {accessor}"));
    assert!(reader.refuses("token lookup").contains("permission denied"));

    let made = bao.json("token create", "-ttl=1h");
    let text = made["auth"]["client_token"].as_str().unwrap().to_owned();
    let other = Bao(&server, String::new());
    other.says(&format!("login -no-print {text}"));
    other.says("token lookup");
    other.says("token revoke -self");
    bao.says("policy delete reader");
    assert_eq!(bao.json("auth list", "")["token/"]["type"], "token");
    let audit = bao.run("audit list");
    assert!(
        audit
            .status
            .code()
            .is_some_and(|code| code == 0 || code == 2)
    );
}

#[test]
fn bao_issues_certificates_and_database_users() {
    if tools::skipped(&["postgresql", "clients"]) {
        return;
    }
    let postgres = database::postgres();
    let server = Server::start("");
    let bao = Bao(&server, server.root.clone());
    bao.says("secrets enable -max-lease-ttl=87600h pki");
    bao.says("write pki/root/generate/internal common_name=root key_type=ec ttl=87600h");
    bao.says("write pki/roles/web allowed_domains=example.org allow_subdomains=true key_type=ec");
    let issued = bao.json("write", "pki/issue/web common_name=a.example.org ttl=10m");
    for (name, field) in [("ca.crt", "issuing_ca"), ("web.crt", "certificate")] {
        fs::write(server.path(name), issued["data"][field].as_str().unwrap()).unwrap();
    }
    tools::succeed(
        Command::new("openssl")
            .args(["verify", "-x509_strict", "-CAfile", "ca.crt", "web.crt"])
            .current_dir(server.folder()),
    );
    assert!(
        bao.refuses("write pki/issue/web common_name=evil.org")
            .contains("400")
    );

    database::mount(&server.root(), &postgres, "1h");
    let made = bao.json("read", "database/creds/app");
    let lease = made["lease_id"].as_str().unwrap();
    let field = |name: &str| made["data"][name].as_str().unwrap().to_owned();
    let login = || {
        let (user, password) = (field("username"), field("password"));
        postgres.query_as(&user, &password, "postgres", "SELECT 1")
    };
    login().unwrap();
    assert_eq!(bao.json("lease lookup", lease)["data"]["id"], lease);
    let renewed = bao.json("lease renew", &format!("-increment=300 {lease}"));
    assert_eq!(renewed["lease_duration"], 300, "{renewed}");
    let listed = bao.json("list", "sys/leases/lookup/database/creds/app");
    assert_eq!(listed, json!([lease.rsplit('/').next().unwrap()]));
    bao.says(&format!("lease revoke -sync {lease}"));
    assert!(login().is_err());

    bao.says("read database/creds/app");
    bao.says("lease revoke -prefix database/creds/app");
    wait_for("users are gone", PATIENCE, || {
        database::issued(&postgres).is_empty().then_some(())
    });
    bao.says("secrets disable database");
    let counts: BTreeMap<String, Value> =
        serde_json::from_value(bao.json("read", "sys/leases/count")["data"]["counts"].clone())
            .unwrap();
    assert!(!counts.contains_key("database/"), "{counts:?}");
}
