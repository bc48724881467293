//! The routes, and what the engine asks of a lease.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_contract::{
    Backend, BackendError, BackendRoutes, Batch, Call, Credential, Handle, Host, Json, Keys,
    ListRequest, NoFields, Operation, Plan, Planned, Presence, Reply, Revocability, Revocation,
    Secret, Terms, async_trait, reveal,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::config::{ConfigRequest, ConfigView};
use crate::connection::{self, Config, Connections};
use crate::engine::Statements;
use crate::password;
use crate::role::{self, Role, RoleRequest, RoleView};
use crate::template::Context;

/// How soon an interrupted rotation is taken up again where the database did not answer.
const RETRY: Duration = Duration::from_secs(60);
/// The most names one list answers.
const MAX_LIST: usize = 10_000;

/// Opens a mount. Nothing is sent to any database until a route needs it.
///
/// # Errors
/// None today; storage is read when it is needed.
pub async fn open(host: Host) -> Result<Arc<dyn Backend>, BackendError> {
    Ok(Arc::new(Database {
        connections: Connections::new(host.clone()),
        host,
    }))
}

struct Database {
    host: Host,
    connections: Connections,
}

#[derive(Deserialize, JsonSchema)]
struct Named {
    /// The name of a connection or a role.
    name: String,
}

/// A credential.
#[derive(Serialize, JsonSchema)]
struct Credentials {
    username: String,
    #[serde(serialize_with = "reveal")]
    password: Secret,
}

/// Enough to end an account. The statements are the role's at the time: a later change of the role
/// concerns later accounts.
#[derive(Serialize, Deserialize)]
struct Account {
    connection: String,
    role: String,
    username: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    revocation: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    renew: Vec<String>,
}

#[async_trait]
impl Backend for Database {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        use Operation::{Delete, List, Read, Write};
        let mut routes = BackendRoutes::default();
        let r = &mut routes;
        r.answer(
            &self,
            List,
            "config",
            "Lists the connections.",
            list::<Config>,
        );
        r.answer(
            &self,
            Read,
            "config/{name}",
            "Reads a connection.",
            read_config,
        );
        r.answer(
            &self,
            Write,
            "config/{name}",
            "Configures a connection, or changes what is sent of it.",
            write_config,
        );
        r.answer(
            &self,
            Delete,
            "config/{name}",
            "Forgets a connection.",
            delete_config,
        );
        r.answer(
            &self,
            Write,
            "reset/{name}",
            "Opens a connection anew.",
            reset,
        );
        r.answer(
            &self,
            Write,
            "rotate-root/{name}",
            "Gives the connection's own account a password that only Daypass knows.",
            rotate_root,
        );
        r.answer(&self, List, "roles", "Lists the roles.", list::<Role>);
        r.answer(&self, Read, "roles/{name}", "Reads a role.", read_role);
        r.answer(
            &self,
            Write,
            "roles/{name}",
            "Configures a role, or changes what is sent of it.",
            write_role,
        );
        r.answer(
            &self,
            Delete,
            "roles/{name}",
            "Forgets a role.",
            delete_role,
        );
        r.plan(
            &self,
            Read,
            "creds/{name}",
            "Issues an account of the role.",
            creds,
        );
        routes
    }

    fn revocability(&self) -> Revocability {
        Revocability::Immediate
    }

    async fn exists(&self, path: &str) -> Result<bool, BackendError> {
        match path.split_once('/') {
            Some(("config" | "roles", _)) => Ok(self.host.store.get(path).await?.is_some()),
            _ => Ok(true),
        }
    }

    async fn renew(&self, handle: &Handle, terms: Terms) -> Result<(), BackendError> {
        let account: Account = handle.decode()?;
        let connection = self.connections.open(&account.connection).await?;
        let engine = &connection.engine;
        engine
            .renew(&account.username, &account.renew, terms.ends_at)
            .await
    }

    async fn revoke(&self, handle: &Handle) -> Result<Revocation, BackendError> {
        let account: Account = handle.decode()?;
        let connection = self.connections.open(&account.connection).await?;
        let engine = &connection.engine;
        engine.revoke(&account.username, &account.revocation).await
    }

    async fn verify(&self, handle: &Handle) -> Result<Presence, BackendError> {
        let account: Account = handle.decode()?;
        let connection = self.connections.open(&account.connection).await?;
        connection.engine.verify(&account.username).await
    }

    /// Takes up rotations that a crash interrupted.
    async fn maintain(&self, now: SystemTime) -> Result<Option<SystemTime>, BackendError> {
        let mut again = None;
        for name in self.host.store.list("config/", None, MAX_LIST).await? {
            if let Err(error) = self.connections.resume(&name).await {
                warn!(connection = name, %error, "the rotation of a password is not finished");
                again = Some(now + RETRY);
            }
        }
        Ok(again)
    }

    async fn close(&self) {
        self.connections.close();
    }
}

/// What is stored under names, for the one handler that lists both.
trait Stored {
    const PREFIX: &'static str;
}

impl Stored for Config {
    const PREFIX: &'static str = "config/";
}

impl Stored for Role {
    const PREFIX: &'static str = "roles/";
}

async fn list<T: Stored>(
    backend: Arc<Database>,
    _: Call,
    request: ListRequest,
) -> Result<Reply<Keys>, BackendError> {
    let limit = request.limit.unwrap_or(MAX_LIST).min(MAX_LIST);
    let store = &backend.host.store;
    Reply::keys(
        store
            .list(T::PREFIX, request.after.as_deref(), limit)
            .await?,
    )
}

async fn read_config(
    backend: Arc<Database>,
    _: Call,
    Named { name }: Named,
) -> Result<Reply<ConfigView>, BackendError> {
    let entry = backend.host.store.get(&connection::key(&name)).await?;
    let config: Config = entry.ok_or(BackendError::NotFound)?.decode()?;
    Reply::data(&config.into_view())
}

async fn write_config(
    backend: Arc<Database>,
    _: Call,
    request: ConfigRequest,
) -> Result<Reply<NoFields>, BackendError> {
    let name = request.name.clone();
    check_name(&name)?;
    let connections = &backend.connections;
    let key = connection::key(&name);
    let mut entry = backend.host.store.get(&key).await?;
    if entry.is_some() && request.password.is_none() {
        // Otherwise the password this update keeps could be the one a rotation has replaced.
        connections.resume(&name).await?;
        entry = backend.host.store.get(&key).await?;
    }
    let revision = entry.as_ref().map(|entry| entry.revision);
    let present = entry.map(|entry| entry.decode()).transpose()?;
    let mut config = Config::update(present, request)?;
    config.check(&backend.host)?;
    if config.verify_connection {
        config.try_out(&backend.host).await?;
    }
    connections.store(&name, &config, revision).await?;
    connections.reset(&name);
    Ok(Reply::nothing())
}

async fn delete_config(
    backend: Arc<Database>,
    _: Call,
    Named { name }: Named,
) -> Result<Reply<NoFields>, BackendError> {
    let batch = Batch::new().delete(connection::key(&name));
    backend.host.store.apply(batch).await?;
    backend.connections.reset(&name);
    Ok(Reply::nothing())
}

async fn reset(
    backend: Arc<Database>,
    _: Call,
    Named { name }: Named,
) -> Result<Reply<NoFields>, BackendError> {
    backend.connections.reset(&name);
    backend.connections.open(&name).await?;
    Ok(Reply::nothing())
}

async fn rotate_root(
    backend: Arc<Database>,
    _: Call,
    Named { name }: Named,
) -> Result<Reply<NoFields>, BackendError> {
    backend.connections.rotate(&name).await?;
    Ok(Reply::nothing())
}

async fn read_role(
    backend: Arc<Database>,
    _: Call,
    Named { name }: Named,
) -> Result<Reply<RoleView>, BackendError> {
    let entry = backend.host.store.get(&role::key(&name)).await?;
    let role: Role = entry.ok_or(BackendError::NotFound)?.decode()?;
    Reply::data(&role.into_view())
}

async fn write_role(
    backend: Arc<Database>,
    _: Call,
    request: RoleRequest,
) -> Result<Reply<NoFields>, BackendError> {
    let name = request.name.clone();
    check_name(&name)?;
    let key = role::key(&name);
    let entry = backend.host.store.get(&key).await?;
    let revision = entry.as_ref().map(|entry| entry.revision);
    let present: Option<Role> = entry.map(|entry| entry.decode()).transpose()?;
    let role = present.unwrap_or_default().update(request)?;

    let mut reply = Reply::nothing();
    let connection = backend
        .host
        .store
        .get(&connection::key(&role.db_name))
        .await?;
    match connection
        .map(|entry| entry.decode::<Config>())
        .transpose()?
    {
        Some(config) => {
            (config.plugin()?.check)(&role.statements)?;
            if !config.allows(&name) {
                reply = reply.warn("allowed_roles of the connection does not name this role");
            }
        }
        None => reply = reply.warn("db_name names no connection yet"),
    }
    if !role.statements.rollback.is_empty() {
        reply = reply.warn("rollback_statements never run: creation is one transaction");
    }
    let batch = Batch::new().expect(key.as_str(), revision);
    let store = &backend.host.store;
    store.apply(batch.put_json(key.as_str(), &role)?).await?;
    Ok(reply)
}

async fn delete_role(
    backend: Arc<Database>,
    _: Call,
    Named { name }: Named,
) -> Result<Reply<NoFields>, BackendError> {
    let batch = Batch::new().delete(role::key(&name));
    backend.host.store.apply(batch).await?;
    Ok(Reply::nothing())
}

/// Chooses a name and a password. Nothing outside knows of them yet.
async fn creds(
    backend: Arc<Database>,
    call: Call,
    Named { name }: Named,
) -> Result<Planned<Credentials>, BackendError> {
    let host = &backend.host;
    let entry = host.store.get(&role::key(&name)).await?;
    let unknown = || BackendError::InvalidRequest(format!("unknown role: {name}"));
    let role: Role = entry.ok_or_else(unknown)?.decode()?;
    let connection = backend.connections.open(&role.db_name).await?;
    let config = &connection.config;
    if !config.allows(&name) {
        return Err(BackendError::InvalidRole(format!(
            "\"{name}\" is not an allowed role; add it to allowed_roles of the connection"
        )));
    }
    let context = Context {
        display_name: &call.caller.display_name,
        role_name: &name,
        now: call.now,
        entropy: &*host.entropy,
    };
    let username = connection
        .template
        .render(&context, connection.plugin.max_username_bytes)?;
    let password = password::generate(host, config.password_policy.as_deref()).await?;
    let ttl = role.ttl();
    let Statements {
        creation,
        revocation,
        renew,
        ..
    } = role.statements;
    let handle = Handle::encode(&Account {
        connection: role.db_name,
        role: name,
        username: username.clone(),
        revocation,
        renew,
    })?;
    Ok(Planned::Leased(Plan::new(
        handle,
        ttl,
        async move |terms: Terms| {
            let engine = &connection.engine;
            engine
                .create(&username, &password, &creation, terms.ends_at)
                .await?;
            Ok(Credential {
                data: Json::of(&Credentials { username, password })?,
                warnings: Vec::new(),
            })
        },
    )))
}

/// A name is part of a storage key.
fn check_name(name: &str) -> Result<(), BackendError> {
    let safe = |c: char| c.is_ascii_alphanumeric() || "_-.@".contains(c);
    if name.is_empty() || name.len() > 128 || !name.chars().all(safe) {
        return Err(BackendError::field(
            "name",
            "expected 1 to 128 letters, digits, `_`, `-`, `.` or `@`",
        ));
    }
    Ok(())
}
