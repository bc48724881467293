//! Sessions with a server: a bounded pool, a deadline for everything, and errors sorted by what can have
//! happened.
//!
//! # Invariants
//!
//! * **One message, one transaction.** Several statements in one simple query are one transaction for
//!   PostgreSQL, without a `BEGIN` and without a round trip for each; an error leaves nothing behind.
//! * **A session whose answer was not read to its end is closed**, never handed to another call.
//! * **What a server says is shown only where it quotes no secret.**

use std::fmt::Write as _;
use std::time::Duration;

use daypass_contract::BackendError;
use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod,
};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::{DbError, SqlState};

use super::target::Target;
use crate::connection::Config;

/// A session unused for longer is tried before it is used: the server may have gone meanwhile.
const TRIED_AFTER: Duration = Duration::from_secs(1);
/// How often a transaction that collided with another is run again.
const COLLISIONS: usize = 10;
/// A piece of a secret this long is a leak.
const TELLING: usize = 6;

/// The sessions of one connection.
pub(super) struct Sessions {
    target: Target,
    pool: Pool,
    max_idle: usize,
    timeout: Duration,
}

/// The rows a message answered. Columns are found by name, as several statements answer together.
pub(super) struct Rows(Vec<SimpleQueryMessage>);

impl Rows {
    /// The values of a column, from whichever statement has it.
    pub(super) fn column<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |message| match message {
            SimpleQueryMessage::Row(row) => row.try_get(name).ok().flatten(),
            _ => None,
        })
    }
}

impl Sessions {
    /// Prepares the pool; nothing is sent.
    pub(super) fn new(config: &Config) -> Result<Self, BackendError> {
        let target = Target::of(config)?;
        let manager = Manager::from_config(
            target.config.clone(),
            target.tls.clone(),
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let lifetime = config.max_connection_lifetime;
        let pool = Pool::builder(manager)
            .max_size(config.max_open_connections)
            .pre_recycle(Hook::async_fn(move |client, metrics| {
                Box::pin(async move {
                    if !lifetime.is_zero() && metrics.age() > lifetime {
                        return Err(HookError::message("older than max_connection_lifetime"));
                    }
                    if metrics.last_used() > TRIED_AFTER {
                        client
                            .check_connection()
                            .await
                            .map_err(HookError::Backend)?;
                    }
                    Ok(())
                })
            }))
            .build()
            .map_err(|error| BackendError::Internal(error.into()))?;
        Ok(Self {
            target,
            pool,
            max_idle: config.max_idle_connections,
            timeout: config.request_timeout,
        })
    }

    /// Runs statements as one transaction. `secrets` are what they hold that no error may show.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`]: nothing was sent. [`BackendError::Refused`]: nothing was done.
    /// [`BackendError::Indeterminate`]: nobody knows. [`BackendError::InvalidRole`]: the server does not
    /// accept the account.
    pub(super) async fn run(&self, sql: &str, secrets: &[&str]) -> Result<Rows, BackendError> {
        let deadline = Instant::now() + self.timeout;
        let mut collisions = 0;
        loop {
            let mut session = self.session(deadline).await?;
            match timeout_at(deadline, session.run(&bounded(sql, deadline))).await {
                Ok(Ok(rows)) => return Ok(rows),
                Ok(Err(error)) if collides(&error) && collisions < COLLISIONS => collisions += 1,
                Ok(Err(error)) => return Err(failed(&error, secrets)),
                Err(_) => return Err(BackendError::Indeterminate(self.late("no answer"))),
            }
        }
    }

    /// Runs statements in another database of the server, on a session of their own.
    ///
    /// # Errors
    /// As of [`Sessions::run`].
    pub(super) async fn run_in(&self, database: &str, sql: &str) -> Result<(), BackendError> {
        let deadline = Instant::now() + self.timeout;
        let target = self.target.clone().in_database(database);
        let connecting = target.config.connect(target.tls);
        let (client, connection) = match timeout_at(deadline, connecting).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(not_connected(&error)),
            Err(_) => return Err(self.unavailable("no session")),
        };
        let sql = bounded(sql, deadline);
        let work = async {
            tokio::select! {
                result = client.batch_execute(&sql) => result,
                // It ends only where the session does.
                Err(error) = connection => Err(error),
            }
        };
        match timeout_at(deadline, work).await {
            Ok(result) => result.map_err(|error| failed(&error, &[])),
            Err(_) => Err(BackendError::Indeterminate(self.late("no answer"))),
        }
    }

    /// Whether the server lets an account in: `false` is its refusal of the account, and nothing else.
    ///
    /// # Errors
    /// Where it gives no answer to that within `limit`.
    pub(super) async fn accepts(
        &self,
        username: &str,
        password: &[u8],
        limit: Duration,
    ) -> Result<bool, BackendError> {
        let target = self.target.clone().for_account(username, password);
        match timeout(limit, target.config.connect(target.tls)).await {
            Ok(Ok(_)) => Ok(true),
            // Of an absent role, a wrong password and a role that may not log in the server says 28P01 or
            // 28000, as `pg_hba.conf` has it. An absent database it finds after it let the account in.
            Ok(Err(error)) if error.code().is_some_and(|code| class(code) == "28") => Ok(false),
            Ok(Err(error)) => Err(not_connected(&error)),
            Err(_) => Err(self.unavailable("no session")),
        }
    }

    /// Closes the pool.
    pub(super) fn close(&self) {
        self.pool.close();
    }

    /// How long one request may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    async fn session(&self, deadline: Instant) -> Result<Session<'_>, BackendError> {
        match timeout_at(deadline, self.pool.get()).await {
            Ok(Ok(object)) => Ok(Session {
                object: Some(object),
                sessions: self,
                reusable: true,
            }),
            Ok(Err(PoolError::Backend(error))) => Err(not_connected(&error)),
            Ok(Err(error)) => Err(BackendError::Unavailable {
                retry_after: None,
                source: error.into(),
            }),
            Err(_) => Err(self.unavailable("no session")),
        }
    }

    fn unavailable(&self, what: &str) -> BackendError {
        BackendError::Unavailable {
            retry_after: None,
            source: self.late(what),
        }
    }

    fn late(&self, what: &str) -> daypass_contract::Source {
        format!("{what} within {:?} (request_timeout)", self.timeout).into()
    }
}

/// A session on loan from the pool.
struct Session<'a> {
    /// There until it is dropped.
    object: Option<Object>,
    sessions: &'a Sessions,
    /// Whether its last answer was read to the end.
    reusable: bool,
}

impl Session<'_> {
    async fn run(&mut self, sql: &str) -> Result<Rows, tokio_postgres::Error> {
        let Some(object) = &self.object else {
            return Ok(Rows(Vec::new()));
        };
        // Also where this future is dropped before it is done.
        self.reusable = false;
        let result = object.simple_query(sql).await;
        self.reusable = match &result {
            Ok(_) => true,
            Err(error) => error.as_db_error().is_some_and(|error| !lost(error.code())),
        };
        result.map(Rows)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else {
            return;
        };
        let Sessions { pool, max_idle, .. } = self.sessions;
        let too_many = *max_idle > 0 && pool.status().available >= *max_idle;
        if !self.reusable || too_many {
            drop(Object::take(object));
        }
    }
}

/// Bounds each statement on the server too, earlier than here: then the server says what became of it,
/// where we could only guess. Keeps notices, which may quote statements, out of the driver's log, and
/// lets a statement that waited for a lock see what the holder did.
fn bounded(sql: &str, deadline: Instant) -> String {
    let left = deadline.saturating_duration_since(Instant::now());
    // Zero would mean no bound.
    let server_left = (left * 3 / 4).as_millis().max(1);
    format!(
        "SET LOCAL transaction_isolation = 'read committed';\
         SET LOCAL client_min_messages = error;\
         SET LOCAL statement_timeout = {server_left};\n{sql}"
    )
}

/// Why there is no session. Nothing was sent.
fn not_connected(error: &tokio_postgres::Error) -> BackendError {
    match error.as_db_error() {
        // Invalid authorization, or no such database: trying again does not help.
        Some(refusal) if ["28", "3D"].contains(&class(refusal.code())) => {
            BackendError::InvalidRole(format!(
                "the database does not let the connection's account in ({})",
                describe(refusal, &[])
            ))
        }
        Some(refusal) => BackendError::Unavailable {
            retry_after: None,
            source: describe(refusal, &[]).into(),
        },
        None => BackendError::Unavailable {
            retry_after: None,
            source: causes(error).into(),
        },
    }
}

/// Why statements failed.
fn failed(error: &tokio_postgres::Error, secrets: &[&str]) -> BackendError {
    match error.as_db_error() {
        Some(refusal) if lost(refusal.code()) => {
            BackendError::Indeterminate(describe(refusal, secrets).into())
        }
        Some(refusal) => BackendError::Refused {
            reason: describe(refusal, secrets),
        },
        None => BackendError::Indeterminate(causes(error).into()),
    }
}

/// Codes of a session that ended: the transaction may have been committed.
fn lost(code: &SqlState) -> bool {
    class(code) == "08"
        || [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN,
        ]
        .contains(code)
}

/// Two transactions changed the same row of a catalog (`GRANT` on one table, to two accounts), or waited
/// for each other. The loser was rolled back and can try again. For "tuple concurrently updated" there
/// is no code but that of internal errors.
fn collides(error: &tokio_postgres::Error) -> bool {
    let colliding = [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::INTERNAL_ERROR,
    ];
    error.code().is_some_and(|code| colliding.contains(code))
}

fn class(code: &SqlState) -> &str {
    code.code().get(..2).unwrap_or_default()
}

/// The server's words, unless they quote a piece of a secret.
fn describe(refusal: &DbError, secrets: &[&str]) -> String {
    let code = refusal.code().code();
    let mut message = refusal.message().to_owned();
    if let Some(detail) = refusal.detail() {
        let _ = write!(message, " ({detail})");
    }
    if secrets.iter().any(|secret| quotes(&message, secret)) {
        return format!("SQLSTATE {code}; the message quotes the statement and is not shown");
    }
    format!("SQLSTATE {code}: {message}")
}

fn quotes(message: &str, secret: &str) -> bool {
    let message = message.as_bytes();
    let length = TELLING.min(secret.len());
    length > 0
        && secret
            .as_bytes()
            .windows(length)
            .any(|piece| message.windows(length).any(|window| window == piece))
}

/// An error with its causes, which the driver does not show by itself.
fn causes(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let _ = write!(text, ": {next}");
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_a_secret_in_a_message_is_found() {
        let secret = "kT4-9xPq-wYz2";
        let cases = [
            ("syntax error at or near \"kT4-9xPq-wYz2\"", true),
            ("syntax error at or near \"9xPq-w\"", true),
            ("syntax error at or near \"kT4\"", false),
            ("relation \"absent\" does not exist", false),
            ("", false),
        ];
        for (message, want) in cases {
            assert_eq!(quotes(message, secret), want, "{message}");
        }
        assert!(
            quotes("near \"abc\"", "abc"),
            "a short secret counts as a whole"
        );
        assert!(!quotes("anything", ""));
    }
}
