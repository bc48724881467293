//! PostgreSQL.
//!
//! An account is a role that can log in. One message makes it, in one transaction; ending it takes three:
//! no more logins, no more sessions, then nothing left of it in any database.
//!
//! Making and ending an account hold the same advisory lock. A revocation that follows a creation whose
//! answer was lost therefore waits until that creation is committed or not, and never mistakes
//! "not yet" for "not there".

mod scram;
mod session;
mod target;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use daypass_contract::{BackendError, Entropy, Host, Presence, Revocation, Secret, async_trait};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use self::session::Sessions;
use crate::connection::{Config, PasswordAuthentication};
use crate::engine::{self, Engine, Plugin};
use crate::statements::{Statements, Values, Variable, identifier, literal};

/// See [`engine::PLUGINS`].
pub(crate) const PLUGIN: Plugin = Plugin {
    name: "postgresql-database-plugin",
    username_template: "{{ printf \"v-%s-%s-%s-%s\" (.DisplayName | truncate 8) \
                        (.RoleName | truncate 8) (random 20) (unix_time) | truncate 63 }}",
    // Longer names would be cut without a word (NAMEDATALEN).
    max_username_bytes: 63,
    normalize: target::normalize,
    check,
    open: |config, host| Ok(Arc::new(Postgres::open(config, host)?)),
};

/// `hashtextextended`, which turns an account's name into the key of its lock, came with it.
const OLDEST_VERSION: u32 = 110_000;
const RENEW: &str = "ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}'";
/// The longest a login may take that is tried to be refused.
const TRIAL: Duration = Duration::from_secs(5);
const CHANGE_PASSWORD: &str = "ALTER ROLE \"{{name}}\" PASSWORD '{{password}}'";

struct Postgres {
    sessions: Sessions,
    authentication: PasswordAuthentication,
    entropy: Arc<dyn Entropy>,
}

fn check(statements: &engine::Statements) -> Result<(), BackendError> {
    use Variable::{Expiration, Name, Password};
    let all = [Name, Password, Expiration];
    let creation = Statements::parse("creation_statements", &statements.creation, &all)?;
    if !creation.use_variable(Name) {
        return Err(BackendError::field(
            "creation_statements",
            "must make the account \"{{name}}\", by which it is ended later",
        ));
    }
    Statements::parse("revocation_statements", &statements.revocation, &[Name])?;
    Statements::parse("renew_statements", &statements.renew, &[Name, Expiration])?;
    Ok(())
}

impl Postgres {
    fn open(config: &Config, host: &Host) -> Result<Self, BackendError> {
        rotation(&config.root_rotation_statements)?;
        Ok(Self {
            sessions: Sessions::new(config)?,
            authentication: config
                .password_authentication
                .unwrap_or(PasswordAuthentication::ScramSha256),
            entropy: Arc::clone(&host.entropy),
        })
    }

    /// What stands for the password in a statement.
    async fn password(&self, password: &Secret) -> Result<String, BackendError> {
        match self.authentication {
            PasswordAuthentication::ScramSha256 => scram::verifier(password, &*self.entropy).await,
            PasswordAuthentication::Password => password
                .expose_str()
                .map(str::to_owned)
                .ok_or_else(|| BackendError::Internal("password is not text".into())),
        }
    }

    /// Runs an account's statements while holding its lock.
    async fn run_locked(
        &self,
        username: &str,
        sql: &str,
        secrets: &[&str],
    ) -> Result<session::Rows, BackendError> {
        let key = literal(username);
        let sql = format!("SELECT pg_advisory_xact_lock(hashtextextended({key}, 0));\n{sql}");
        self.sessions.run(&sql, secrets).await
    }

    /// Ends the sessions of the role with that `oid`, and waits until they are gone. Answers the other
    /// databases in which it owns something or holds privileges.
    async fn end_sessions(&self, oid: u32) -> Result<Vec<String>, BackendError> {
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) AS daypass_sessions FROM pg_stat_activity
                WHERE usesysid = {oid};
            SELECT DISTINCT d.datname AS daypass_database FROM pg_shdepend s
                JOIN pg_database d ON d.oid = s.dbid
                WHERE s.refclassid = 'pg_authid'::regclass AND d.datname <> current_database()
                AND s.refobjid = {oid}"
        );
        let deadline = Instant::now() + self.sessions.timeout();
        let mut pause = Duration::from_millis(5);
        loop {
            let rows = self.sessions.run(&sql, &[]).await?;
            if rows.column("daypass_sessions").all(|count| count == "0") {
                return Ok(rows.column("daypass_database").map(str::to_owned).collect());
            }
            if Instant::now() >= deadline {
                return Err(BackendError::Refused {
                    reason: "the account's sessions were told to end and did not".into(),
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    /// Proves that an operator's own statements ended access, after they were committed: what they put
    /// off to their commit counts too. First by the catalog, which every login is checked against
    /// whatever `pg_hba.conf` says; then by a login.
    ///
    /// The password is known to nobody any more, so the login is tried with a random one. Where a
    /// password is asked for, its refusal says no more than that the server refuses; where none is
    /// (`trust`, a certificate, another host of the URL), a role that is let in is found out.
    async fn prove_ended(&self, username: &str, oid: u32) -> Result<(), BackendError> {
        let name = literal(username);
        let proof = format!(
            "SELECT rolcanlogin AS daypass_login FROM pg_roles WHERE rolname = {name} OR oid = {oid};
            {}",
            no_session(oid)
        );
        let rows = self.run_locked(username, &proof, &[]).await?;
        if rows.column("daypass_login").any(|login| login != "f") {
            return Err(BackendError::Refused {
                reason: "after revocation_statements the role can still log in".into(),
            });
        }
        let password = hex::encode(self.entropy.bytes::<16>());
        let limit = self.sessions.timeout().min(TRIAL);
        let trial = self
            .sessions
            .accepts(username, password.as_bytes(), limit)
            .await?;
        if trial {
            return Err(BackendError::Refused {
                reason: "after revocation_statements the server lets the account in, with any \
                         password: look for `trust` in pg_hba.conf"
                    .into(),
            });
        }
        Ok(())
    }
}

/// A statement that fails where the role with that `oid` has a session: one whose login was under way
/// when logins were forbidden is seen only later.
fn no_session(oid: u32) -> String {
    format!(
        "DO $daypass$ BEGIN
            IF EXISTS (SELECT FROM pg_stat_activity WHERE usesysid = {oid}) THEN
                RAISE EXCEPTION 'the account has a session that began late' USING ERRCODE = '55006';
            END IF;
        END $daypass$;"
    )
}

#[async_trait]
impl Engine for Postgres {
    async fn preflight(&self) -> Result<(), BackendError> {
        let facts = "SELECT current_user AS daypass_user,
                (rolsuper OR rolcreaterole) AS daypass_creates,
                current_setting('server_version_num') AS daypass_version,
                pg_is_in_recovery() AS daypass_replica
            FROM pg_roles WHERE rolname = current_user";
        let rows = self.sessions.run(facts, &[]).await?;
        let fact = |name| rows.column(name).next().unwrap_or_default();
        let refuse = |reason: String| Err(BackendError::InvalidRole(reason));
        let version = fact("daypass_version").parse().unwrap_or(0);
        if version < OLDEST_VERSION {
            return refuse(format!(
                "server version {version} is older than {OLDEST_VERSION}, the oldest that is supported"
            ));
        }
        if fact("daypass_replica") == "t" {
            return refuse(
                "the server is a replica, which cannot make accounts; name the primary".into(),
            );
        }
        if fact("daypass_creates") != "t" {
            return refuse(format!(
                "the connection's account may not make others; run: ALTER ROLE {} CREATEROLE",
                identifier(fact("daypass_user"))
            ));
        }
        // What a security label, an event trigger or a managed service forbids shows only when tried.
        let probe = format!(
            "daypass-preflight-{}",
            hex::encode(self.entropy.bytes::<8>())
        );
        let probe = identifier(&probe);
        let sql = format!("BEGIN; CREATE ROLE {probe} NOLOGIN; DROP ROLE {probe}; ROLLBACK");
        self.sessions.run(&sql, &[]).await.map(drop)
    }

    async fn create(
        &self,
        username: &str,
        password: &Secret,
        creation: &[String],
        ends_at: SystemTime,
    ) -> Result<(), BackendError> {
        let all = [Variable::Name, Variable::Password, Variable::Expiration];
        let statements = Statements::parse("creation_statements", creation, &all)?;
        let sent = self.password(password).await?;
        let sql = statements.render(&Values {
            name: username,
            password: &sent,
            expiration: &expiration(ends_at)?,
        })?;
        self.run_locked(username, &sql, &[&sent]).await.map(drop)
    }

    async fn renew(
        &self,
        username: &str,
        renew: &[String],
        ends_at: SystemTime,
    ) -> Result<(), BackendError> {
        let default = [RENEW.to_owned()];
        let renew = if renew.is_empty() { &default } else { renew };
        let allowed = [Variable::Name, Variable::Expiration];
        let sql = Statements::parse("renew_statements", renew, &allowed)?.render(&Values {
            name: username,
            password: "",
            expiration: &expiration(ends_at)?,
        })?;
        self.run_locked(username, &sql, &[]).await.map(drop)
    }

    async fn revoke(
        &self,
        username: &str,
        revocation: &[String],
    ) -> Result<Revocation, BackendError> {
        let (role, name) = (identifier(username), literal(username));

        // First nobody logs in any more. An account that is no superuser joins the role, which lets it
        // end the role's sessions and take over what it owns; a role that was made a member of the
        // account first has to leave it, as membership cannot go in a circle.
        let shut = format!(
            "DO $daypass$ BEGIN
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) THEN RETURN; END IF;
                ALTER ROLE {role} NOLOGIN;
                IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
                    IF pg_has_role({name}, current_user, 'MEMBER') THEN
                        EXECUTE format('REVOKE %I FROM %I', current_user, {name});
                    END IF;
                    GRANT {role} TO CURRENT_USER;
                END IF;
            END $daypass$;
            SELECT oid AS daypass_role FROM pg_roles WHERE rolname = {name}"
        );
        let rows = self.run_locked(username, &shut, &[]).await?;
        let Some(oid) = rows.column("daypass_role").next() else {
            // Nobody logs in as a role that is not there, and its sessions ended before it went.
            return Ok(Revocation::AlreadyGone);
        };
        let oid: u32 = oid
            .parse()
            .map_err(|_| BackendError::Internal("the oid of a role is no number".into()))?;

        let databases = self.end_sessions(oid).await?;

        let hand_over = format!("REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}");
        let none_left = no_session(oid);
        if revocation.is_empty() {
            for database in databases {
                self.sessions.run_in(&database, &hand_over).await?;
            }
            // That the role is dropped is the proof: it is committed with this or not at all.
            let drop = format!("{none_left}\n{hand_over}; DROP ROLE {role};");
            self.run_locked(username, &drop, &[]).await?;
        } else {
            let sql = Statements::parse("revocation_statements", revocation, &[Variable::Name])?
                .render(&Values {
                    name: username,
                    password: "",
                    expiration: "",
                })?;
            self.run_locked(username, &format!("{none_left}\n{sql}"), &[])
                .await?;
            self.prove_ended(username, oid).await?;
        }
        Ok(Revocation::Revoked)
    }

    async fn verify(&self, username: &str) -> Result<Presence, BackendError> {
        let name = literal(username);
        let sql =
            format!("SELECT rolcanlogin AS daypass_login FROM pg_roles WHERE rolname = {name}");
        let rows = self.run_locked(username, &sql, &[]).await?;
        Ok(match rows.column("daypass_login").next() {
            Some("t") => Presence::Present,
            _ => Presence::Absent,
        })
    }

    async fn change_password(
        &self,
        username: &str,
        password: &Secret,
        statements: &[String],
    ) -> Result<(), BackendError> {
        let sent = self.password(password).await?;
        let sql = rotation(statements)?.render(&Values {
            name: username,
            password: &sent,
            expiration: "",
        })?;
        self.run_locked(username, &sql, &[&sent]).await.map(drop)
    }

    async fn accepts(&self, username: &str, password: &Secret) -> Result<bool, BackendError> {
        let limit = self.sessions.timeout();
        self.sessions
            .accepts(username, password.expose(), limit)
            .await
    }

    fn close(&self) {
        self.sessions.close();
    }
}

fn rotation(statements: &[String]) -> Result<Statements, BackendError> {
    let default = [CHANGE_PASSWORD.to_owned()];
    let statements = if statements.is_empty() {
        &default
    } else {
        statements
    };
    let allowed = [Variable::Name, Variable::Password];
    Statements::parse("root_rotation_statements", statements, &allowed)
}

/// An instant as PostgreSQL reads it. Rounded up: the lease ends access, this only makes sure.
fn expiration(at: SystemTime) -> Result<String, BackendError> {
    let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since_epoch.as_secs() + u64::from(since_epoch.subsec_nanos() > 0);
    let at = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| {
            BackendError::InvalidRole("the lease would end after the year 9999".into())
        })?;
    let (date, time) = (at.date(), at.time());
    Ok(format!(
        "{date} {:02}:{:02}:{:02}+00:00",
        time.hour(),
        time.minute(),
        time.second()
    ))
}
