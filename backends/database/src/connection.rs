//! Connections: what an operator configures under `config/{name}`, the pool that follows from it, and the
//! rotation of its password.
//!
//! # Invariants
//!
//! * **A pool never outlives its configuration.** Each use reads the record's revision; a pool made
//!   from another revision is dropped, also when another node wrote the record.
//! * **The working password is always in the record.** A rotation first stores the next password beside the
//!   present one, then changes it in the database, then logs in with it, and only then forgets the
//!   present one. A crash between any two steps leaves a record from which [`Connections::open`]
//!   goes on: forward, so that a change still under way in the database changes to the same password.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use daypass_contract::{BackendError, Batch, Host, Revision, Secret, StoreError, duration, reveal};
use serde::{Deserialize, Serialize, Serializer};

use crate::engine::{Engine, Plugin, plugin};
use crate::password;
use crate::template::{Context, Template};

/// How a connection is stored.
#[derive(Deserialize, Serialize)]
pub(crate) struct Config {
    pub(crate) plugin_name: String,
    pub(crate) connection_url: String,
    pub(crate) username: String,
    #[serde(serialize_with = "reveal")]
    pub(crate) password: Secret,
    /// The next password, while a rotation is under way.
    #[serde(default, serialize_with = "reveal_option")]
    pub(crate) pending_password: Option<Secret>,
    pub(crate) allowed_roles: Vec<String>,
    pub(crate) username_template: Option<String>,
    pub(crate) password_policy: Option<String>,
    pub(crate) password_authentication: Option<PasswordAuthentication>,
    pub(crate) max_open_connections: usize,
    pub(crate) max_idle_connections: usize,
    #[serde(with = "duration")]
    pub(crate) max_connection_lifetime: Duration,
    #[serde(with = "duration")]
    pub(crate) request_timeout: Duration,
    pub(crate) verify_connection: bool,
    pub(crate) tls_ca: Option<String>,
    pub(crate) tls_certificate: Option<String>,
    #[serde(default, serialize_with = "reveal_option")]
    pub(crate) private_key: Option<Secret>,
    pub(crate) tls_server_name: Option<String>,
    pub(crate) root_rotation_statements: Vec<String>,
}

/// How a password travels in the statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) enum PasswordAuthentication {
    /// As it is: the server sees it, and may log it.
    #[serde(rename = "password")]
    Password,
    /// As its SCRAM-SHA-256 verifier.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
}

#[expect(clippy::ref_option, reason = "serde's shape")]
fn reveal_option<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => reveal(secret, serializer),
        None => serializer.serialize_none(),
    }
}

impl Config {
    /// Whether `role` may use this connection. `*` stands for anything.
    pub(crate) fn allows(&self, role: &str) -> bool {
        self.allowed_roles.iter().any(|allowed| {
            match (allowed.strip_prefix('*'), allowed.strip_suffix('*')) {
                (Some(inside), Some(_)) if allowed.len() > 1 => {
                    role.contains(inside.strip_suffix('*').unwrap_or(inside))
                }
                (Some(tail), _) => role.ends_with(tail),
                (None, Some(head)) => role.starts_with(head),
                (None, None) => role == allowed,
            }
        })
    }

    /// The product it is a connection to.
    pub(crate) fn plugin(&self) -> Result<&'static Plugin, BackendError> {
        plugin(&self.plugin_name)
    }

    /// How accounts are named.
    pub(crate) fn template(&self) -> Result<Template, BackendError> {
        let default = self.plugin()?.username_template;
        Template::parse(self.username_template.as_deref().unwrap_or(default))
    }

    /// Refuses what can never work.
    pub(crate) fn check(&mut self, host: &Host) -> Result<(), BackendError> {
        let plugin = self.plugin()?;
        self.template()?.must_be_unpredictable(&Context {
            display_name: "",
            role_name: "",
            now: host.clock.now(),
            entropy: &*host.entropy,
        })?;
        if !(1..=MAX_OPEN).contains(&self.max_open_connections) {
            let problem = format!("expected a number from 1 to {MAX_OPEN}");
            return Err(BackendError::field("max_open_connections", problem));
        }
        if !(MIN_TIMEOUT..=MAX_TIMEOUT).contains(&self.request_timeout) {
            let problem = "expected a duration from 1s to 10m";
            return Err(BackendError::field("request_timeout", problem));
        }
        (plugin.normalize)(self)?;
        // Building it parses certificates and keys.
        (plugin.open)(self, host).map(drop)
    }

    /// Asks the database whether it will do what will be asked of it.
    ///
    /// # Errors
    /// [`BackendError::InvalidRole`] with what the database says, even where it did not answer: it is the
    /// configuration that is on trial.
    pub(crate) async fn try_out(&self, host: &Host) -> Result<(), BackendError> {
        let engine = (self.plugin()?.open)(self, host)?;
        let result = engine.preflight().await;
        engine.close();
        result.map_err(|error| {
            BackendError::InvalidRole(format!(
                "the connection was tried and is not kept: {error} (verify_connection=false keeps it \
                 untried)"
            ))
        })
    }
}

const MAX_OPEN: usize = 1000;
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// A connection in use.
pub(crate) struct Connection {
    pub(crate) config: Config,
    pub(crate) template: Template,
    pub(crate) plugin: &'static Plugin,
    pub(crate) engine: Arc<dyn Engine>,
    revision: Revision,
}

/// Every connection of a mount.
pub(crate) struct Connections {
    host: Host,
    open: Mutex<HashMap<String, Slot>>,
}

#[derive(Default)]
struct Slot {
    connection: Option<Arc<Connection>>,
    /// Held by the one call that rotates or settles.
    rotation: Arc<tokio::sync::Mutex<()>>,
}

/// The storage key of a connection.
pub(crate) fn key(name: &str) -> String {
    format!("config/{name}")
}

impl Connections {
    pub(crate) fn new(host: Host) -> Self {
        Self {
            host,
            open: Mutex::default(),
        }
    }

    /// The connection called `name`, as its record is now. Settles a rotation that was interrupted.
    ///
    /// # Errors
    /// [`BackendError::InvalidRole`] where there is none.
    pub(crate) async fn open(&self, name: &str) -> Result<Arc<Connection>, BackendError> {
        let (config, revision) = match self.look_up(name).await? {
            Found::Open(connection) => return Ok(connection),
            Found::Stored(config, revision) => (config, revision),
        };
        if config.pending_password.is_none() {
            return self.connect(name, *config, revision);
        }
        let rotation = self.rotation(name);
        let _guard = wait_for(&rotation, config.request_timeout).await?;
        let (config, revision) = self.finish(name, Begun::Before).await?;
        self.connect(name, config, revision)
    }

    /// Replaces the password of the connection's own account by one that only Daypass knows.
    ///
    /// # Errors
    /// As of [`Engine::change_password`]; the record then still holds the password that works.
    pub(crate) async fn rotate(&self, name: &str) -> Result<(), BackendError> {
        let timeout = self.open(name).await?.config.request_timeout;
        let rotation = self.rotation(name);
        let _guard = wait_for(&rotation, timeout).await?;
        // A rotation that another call left unfinished comes first: its password may be in force.
        let (mut config, revision) = self.finish(name, Begun::Before).await?;
        if config.username.is_empty() {
            let reason = format!("connection \"{name}\" has no username whose password to rotate");
            return Err(BackendError::InvalidRole(reason));
        }
        let policy = config.password_policy.as_deref();
        config.pending_password = Some(password::generate(&self.host, policy).await?);
        self.store(name, &config, Some(revision)).await?;
        self.finish(name, Begun::Now).await?;
        Ok(())
    }

    /// Carries on a rotation that was interrupted, where there is one.
    ///
    /// # Errors
    /// As of [`Connections::rotate`].
    pub(crate) async fn resume(&self, name: &str) -> Result<(), BackendError> {
        let (config, _) = self.stored(name).await?;
        if config.pending_password.is_some() {
            self.open(name).await?;
        }
        Ok(())
    }

    /// Closes the connection's sessions; the next use opens new ones.
    pub(crate) fn reset(&self, name: &str) {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(name) else {
            return;
        };
        let closed = slot.connection.take();
        if Arc::strong_count(&slot.rotation) == 1 {
            slots.remove(name);
        }
        drop(slots);
        drop(closed);
    }

    pub(crate) fn close(&self) {
        let slots: Vec<Slot> = self.slots().drain().map(|(_, slot)| slot).collect();
        for connection in slots.into_iter().filter_map(|slot| slot.connection) {
            connection.engine.close();
        }
    }

    /// The record of `name`.
    ///
    /// # Errors
    /// [`BackendError::InvalidRole`] where there is none.
    pub(crate) async fn stored(&self, name: &str) -> Result<(Config, Revision), BackendError> {
        let entry = self.host.store.get(&key(name)).await?;
        let entry = entry.ok_or_else(missing)?;
        Ok((entry.decode()?, entry.revision))
    }

    /// Writes the record of `name`, which must still be at `expected`.
    pub(crate) async fn store(
        &self,
        name: &str,
        config: &Config,
        expected: Option<Revision>,
    ) -> Result<(), BackendError> {
        let batch = Batch::new()
            .expect(key(name), expected)
            .put_json(key(name), config)?;
        Ok(self.host.store.apply(batch).await?)
    }

    async fn look_up(&self, name: &str) -> Result<Found, BackendError> {
        let entry = self.host.store.get(&key(name)).await?;
        let Some(entry) = entry else {
            self.reset(name);
            return Err(missing());
        };
        let open = self
            .slots()
            .get(name)
            .and_then(|slot| slot.connection.clone())
            .filter(|connection| connection.revision == entry.revision);
        match open {
            Some(connection) => Ok(Found::Open(connection)),
            None => Ok(Found::Stored(Box::new(entry.decode()?), entry.revision)),
        }
    }

    fn connect(
        &self,
        name: &str,
        config: Config,
        revision: Revision,
    ) -> Result<Arc<Connection>, BackendError> {
        let plugin = config.plugin()?;
        let connection = Arc::new(Connection {
            template: config.template()?,
            engine: (plugin.open)(&config, &self.host)?,
            plugin,
            revision,
            config,
        });
        let mut slots = self.slots();
        let slot = slots.entry(name.to_owned()).or_default();
        // Another call may have been faster: one pool is enough.
        if let Some(faster) = slot.connection.as_ref().filter(|c| c.revision == revision) {
            return Ok(Arc::clone(faster));
        }
        let replaced = slot.connection.replace(Arc::clone(&connection));
        drop(slots);
        drop(replaced);
        Ok(connection)
    }

    /// Carries a rotation through, from a record that holds the next password. To be called with the
    /// rotation's lock held.
    async fn finish(&self, name: &str, begun: Begun) -> Result<(Config, Revision), BackendError> {
        let (config, revision) = self.stored(name).await?;
        let Some(next) = config.pending_password.as_ref().map(Secret::duplicate) else {
            return Ok((config, revision));
        };
        let username = config.username.as_str();
        let open = config.plugin()?.open;
        let engine = open(&config, &self.host)?;
        if begun == Begun::Before && engine.accepts(username, &next).await? {
            return self.settle(name, config, revision, Some(next)).await;
        }
        if !engine.accepts(username, &config.password).await? {
            return Err(BackendError::InvalidRole(format!(
                "the database accepts neither the stored password nor the one a \
                 rotation was about to set; write config/{name} with the password that works"
            )));
        }
        let statements = &config.root_rotation_statements;
        let changed = engine.change_password(username, &next, statements).await;
        match &changed {
            Ok(()) | Err(BackendError::Refused { .. } | BackendError::InvalidRole(_)) => {}
            // Whether it was changed is not known: both are kept.
            Err(_) => return changed.map(|()| (config, revision)),
        }
        // A refusal is no proof either: what an earlier call sent may have come into force meanwhile.
        if engine.accepts(username, &next).await? {
            return self.settle(name, config, revision, Some(next)).await;
        }
        if !engine.accepts(username, &config.password).await? {
            return Err(BackendError::Indeterminate(
                "the database accepts neither the old nor the new password; both are kept".into(),
            ));
        }
        self.settle(name, config, revision, None).await?;
        changed?;
        let reason = "root_rotation_statements did not change the password; it is as it was";
        Err(BackendError::InvalidRole(reason.into()))
    }

    /// Ends a rotation: with the next password in force, or without.
    async fn settle(
        &self,
        name: &str,
        mut config: Config,
        revision: Revision,
        next: Option<Secret>,
    ) -> Result<(Config, Revision), BackendError> {
        if let Some(next) = next {
            config.password = next;
        }
        config.pending_password = None;
        match self.store(name, &config, Some(revision)).await {
            // A conflict: another node may have settled the same rotation.
            Ok(()) | Err(BackendError::Store(StoreError::Conflict)) => {}
            Err(error) => return Err(error),
        }
        let (stored, revision) = self.stored(name).await?;
        let same = stored.password.ct_eq(config.password.expose());
        match stored.pending_password {
            None if same => Ok((stored, revision)),
            _ => Err(BackendError::Store(StoreError::Conflict)),
        }
    }

    fn rotation(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut slots = self.slots();
        Arc::clone(&slots.entry(name.to_owned()).or_default().rotation)
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        // Nothing that holds the lock can leave it half done.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for whoever rotates, but not for long: each of many waiters would try a database that hangs.
async fn wait_for(
    rotation: &tokio::sync::Mutex<()>,
    timeout: Duration,
) -> Result<tokio::sync::MutexGuard<'_, ()>, BackendError> {
    tokio::time::timeout(timeout, rotation.lock())
        .await
        .map_err(|_| BackendError::Unavailable {
            retry_after: None,
            source: "the connection's password is being rotated".into(),
        })
}

enum Found {
    Open(Arc<Connection>),
    Stored(Box<Config>, Revision),
}

/// When the next password was stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    /// By this call: the database cannot know it yet.
    Now,
    /// By a call that did not finish.
    Before,
}

/// Without the name: it may come from a role's body.
fn missing() -> BackendError {
    BackendError::InvalidRole("the connection is not configured; write config/{its name}".into())
}
