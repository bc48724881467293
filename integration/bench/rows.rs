//! The rows of the table: what is asked, what must be set up for it, and the rounds.

use std::time::Duration;

use serde_json::json;

use crate::database::{self, Database};
use crate::load::{Ask, Measured};
use crate::logins::{self, Proof};
use crate::server::{Kind, Server, Site};
use crate::settings::Settings;

/// Time for connections, caches and (for OpenBao) the garbage collector to settle, unmeasured.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Health,
    KvRead,
    KvWrite,
    TokenLookup,
    TokenCreate,
    PkiIssue,
    PkiIssueUnstored,
    DatabaseCreds,
    DatabaseCredsPlain,
    LoginAppRole,
    LoginAppRoleBatch,
    LoginRs256,
    LoginRs256Batch,
    LoginEs256,
    LoginEs256Batch,
}

impl Row {
    pub(crate) const ALL: [Self; 15] = [
        Self::Health,
        Self::KvRead,
        Self::KvWrite,
        Self::TokenLookup,
        Self::TokenCreate,
        Self::PkiIssue,
        Self::PkiIssueUnstored,
        Self::DatabaseCreds,
        Self::DatabaseCredsPlain,
        Self::LoginAppRole,
        Self::LoginAppRoleBatch,
        Self::LoginRs256,
        Self::LoginRs256Batch,
        Self::LoginEs256,
        Self::LoginEs256Batch,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::KvRead => "kv-read",
            Self::KvWrite => "kv-write",
            Self::TokenLookup => "token-lookup",
            Self::TokenCreate => "token-create",
            Self::PkiIssue => "pki-issue",
            Self::PkiIssueUnstored => "pki-issue-unstored",
            Self::DatabaseCreds => "database-creds",
            Self::DatabaseCredsPlain => "database-creds-plain",
            Self::LoginAppRole => "login-approle",
            Self::LoginAppRoleBatch => "login-approle-batch",
            Self::LoginRs256 => "login-jwt-rs256",
            Self::LoginRs256Batch => "login-jwt-rs256-batch",
            Self::LoginEs256 => "login-jwt-es256",
            Self::LoginEs256Batch => "login-jwt-es256-batch",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Health => "`sys/health`",
            Self::KvRead => "kv v2 read",
            Self::KvWrite => "kv v2 write, new keys",
            Self::TokenLookup => "token lookup-self",
            Self::TokenCreate => "token create, ending after 3 s",
            Self::PkiIssue => "pki issue, EC P-256, stored",
            Self::PkiIssueUnstored => "pki issue, EC P-256, not stored",
            Self::DatabaseCreds => "database creds, PostgreSQL, SCRAM verifier sent",
            Self::DatabaseCredsPlain => "database creds, PostgreSQL, password sent",
            Self::LoginAppRole => "approle login, service token",
            Self::LoginAppRoleBatch => "approle login, batch token",
            Self::LoginRs256 => "jwt login, RS256, service token",
            Self::LoginRs256Batch => "jwt login, RS256, batch token",
            Self::LoginEs256 => "jwt login, ES256, service token",
            Self::LoginEs256Batch => "jwt login, ES256, batch token",
        }
    }

    /// How the password travels to PostgreSQL. The bare SQL sends it as it is.
    fn authentication(self) -> &'static str {
        match self {
            Self::DatabaseCredsPlain => "password",
            _ => "scram-sha-256",
        }
    }

    /// Prepares a server, and gives what it is asked then.
    async fn set_up(self, server: &Server, database: Option<&Database>) -> Ask {
        let login = async |proof, token_type| logins::set_up(server, proof, token_type).await;
        match self {
            Self::Health => Ask {
                token: false,
                ..Ask::get("sys/health")
            },
            Self::KvRead => Ask::get("secret/data/bench/read"),
            Self::KvWrite => Ask::post(
                "secret/data/bench/{n}",
                r#"{"data":{"username":"app","password":"not-so-secret-after-all"}}"#,
            ),
            Self::TokenLookup => Ask::get("auth/token/lookup-self"),
            Self::TokenCreate => Ask::post(
                "auth/token/create",
                r#"{"policies":["bench"],"ttl":"3s","renewable":false}"#,
            ),
            Self::PkiIssue => {
                set_up_pki(server).await;
                Ask::post("pki/issue/stored", CERTIFICATE)
            }
            Self::PkiIssueUnstored => {
                set_up_pki(server).await;
                Ask::post("pki/issue/unstored", CERTIFICATE)
            }
            Self::DatabaseCreds | Self::DatabaseCredsPlain => {
                let database = database.expect("started for this row");
                database.set_up(server, self.authentication()).await;
                Ask::get("database/creds/bench")
            }
            Self::LoginAppRole => login(Proof::AppRole, "service").await,
            Self::LoginAppRoleBatch => login(Proof::AppRole, "batch").await,
            Self::LoginRs256 => login(Proof::Jwt("RS256"), "service").await,
            Self::LoginRs256Batch => login(Proof::Jwt("RS256"), "batch").await,
            Self::LoginEs256 => login(Proof::Jwt("ES256"), "service").await,
            Self::LoginEs256Batch => login(Proof::Jwt("ES256"), "batch").await,
        }
    }
}

const CERTIFICATE: &str = r#"{"common_name":"web.bench.internal","ttl":"1h"}"#;

/// An authority with an EC key, and roles for leaves that are stored, not stored, and leased.
pub(crate) async fn set_up_pki(server: &Server) {
    let mount = json!({ "type": "pki", "config": { "max_lease_ttl": "87600h" } });
    server.write("sys/mounts/pki", mount).await;
    let root = json!({
        "common_name": "Bench Root", "key_type": "ec", "key_bits": 256, "ttl": "87600h",
    });
    server.write("pki/root/generate/internal", root).await;
    for (role, no_store, lease) in [
        ("stored", false, false),
        ("unstored", true, false),
        ("leased", false, true),
    ] {
        let role_fields = json!({
            "key_type": "ec", "key_bits": 256, "max_ttl": "72h",
            "allowed_domains": ["bench.internal"], "allow_subdomains": true,
            "no_store": no_store, "generate_lease": lease,
        });
        server
            .write(&format!("pki/roles/{role}"), role_fields)
            .await;
    }
}

/// One round on one server.
pub(crate) struct Round {
    pub(crate) load: Measured,
    /// Of the server's process, per request.
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
}

/// All rounds of a row.
pub(crate) struct Rounds {
    pub(crate) servers: Vec<(Kind, Vec<Round>)>,
    /// The same SQL without a server between, for the database.
    pub(crate) bare: Vec<Measured>,
}

pub(crate) async fn measure(row: Row, settings: &Settings, site: &Site) -> Rounds {
    let database =
        matches!(row, Row::DatabaseCreds | Row::DatabaseCredsPlain).then(Database::start);
    let mut servers = Vec::new();
    for kind in Kind::ALL {
        if settings.wants_server(kind.name()) {
            let server = Server::start(kind, site).await;
            let ask = row.set_up(&server, database.as_ref()).await;
            server.freeze(true);
            servers.push((server, ask, Vec::new()));
        }
    }
    let mut bare = Vec::new();
    let mut first = 0;
    for round in 1..=settings.rounds {
        for (server, ask, rounds) in &mut servers {
            server.freeze(false);
            ask.load(server, settings, WARM_UP, first);
            first += 10_000_000;
            let before = server.usage();
            let load = ask.load(server, settings, settings.round, first);
            let after = server.usage();
            first += 10_000_000;
            server.freeze(true);
            let cpu = (after.cpu - before.cpu).as_secs_f64() / load.requests.max(1) as f64;
            eprintln!(
                "{} {round}/{}: {} {:.0}/s p50 {:?} p99 {:?} cpu {:.3} ms errors {}",
                row.name(),
                settings.rounds,
                server.kind.name(),
                load.per_second(),
                load.p50,
                load.p99,
                cpu * 1e3,
                load.errors,
            );
            rounds.push(Round {
                load,
                cpu: Duration::from_secs_f64(cpu),
                resident_bytes: after.resident_bytes,
            });
        }
        if let Some(database) = &database {
            let load = database::bare(database, settings.round).await;
            eprintln!(
                "{} {round}: bare SQL {:.0}/s",
                row.name(),
                load.per_second()
            );
            bare.push(load);
        }
    }
    for (server, ..) in &servers {
        server.freeze(false);
    }
    Rounds {
        servers: servers
            .into_iter()
            .map(|(server, _, rounds)| (server.kind, rounds))
            .collect(),
        bare,
    }
}
