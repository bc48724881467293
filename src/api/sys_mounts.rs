//! `sys/mounts`, `sys/remount`, and `sys/auth`, which is the same for what is mounted below `auth/`.

use std::collections::BTreeMap;
use std::time::Duration;

use daypass_contract::{Access, NoFields, Operation, Revocability, TokenType};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::engine::{
    Answer, Class, Engine, Failure, Mount, MountConfig, MountRecord, NewMount, Serve, SystemCall,
    SystemRoutes,
};

#[derive(Deserialize, JsonSchema)]
struct PathRequest {
    path: String,
}

/// Fields of `config` that change nothing here are accepted: clients send them always.
#[derive(Default, Deserialize, JsonSchema)]
struct ConfigRequest {
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    default_lease_ttl: Option<Duration>,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    max_lease_ttl: Option<Duration>,
    /// What kind of token logins make where the role says nothing.
    token_type: Option<TokenType>,
}

#[derive(Deserialize, JsonSchema)]
struct EnableRequest {
    path: String,
    /// The kind of backend: `kv`, `pki`, `database`.
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    description: String,
    #[serde(default, deserialize_with = "or_default")]
    config: ConfigRequest,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "local")]
    _local: bool,
    #[serde(default, rename = "seal_wrap")]
    _seal_wrap: bool,
    #[serde(default, rename = "external_entropy_access")]
    _external_entropy_access: bool,
    #[serde(default, rename = "plugin_name")]
    _plugin_name: Option<String>,
    #[serde(default, rename = "plugin_version")]
    _plugin_version: Option<String>,
}

/// Clients send `null` for what they leave out.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Deserialize, JsonSchema)]
struct TuneRequest {
    path: String,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    default_lease_ttl: Option<Duration>,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    max_lease_ttl: Option<Duration>,
    token_type: Option<TokenType>,
    description: Option<String>,
    options: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, JsonSchema)]
struct RemountRequest {
    from: String,
    to: String,
}

/// A move is done before it is answered; clients that expect to wait ask for its state by this id.
#[derive(Serialize, JsonSchema)]
struct Migration {
    /// The id of the mount.
    migration_id: String,
}

#[derive(Deserialize, JsonSchema)]
struct MigrationRequest {
    migration_id: String,
}

#[derive(Serialize, JsonSchema)]
struct MigrationView {
    migration_id: String,
    migration_info: MigrationInfo,
}

#[derive(Serialize, JsonSchema)]
struct MigrationInfo {
    target_mount: String,
    status: &'static str,
}

#[derive(Serialize, JsonSchema)]
struct ConfigView {
    default_lease_ttl: u64,
    max_lease_ttl: u64,
    force_no_cache: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<TokenType>,
}

/// A mount as the API shows it.
#[derive(Serialize, JsonSchema)]
pub(super) struct MountView {
    #[serde(rename = "type")]
    kind: String,
    description: String,
    accessor: String,
    uuid: String,
    config: ConfigView,
    options: Option<BTreeMap<String, String>>,
    local: bool,
    seal_wrap: bool,
    external_entropy_access: bool,
    plugin_version: &'static str,
    running_plugin_version: &'static str,
    running_sha256: &'static str,
    deprecation_status: &'static str,
    /// Declared in the configuration file.
    managed: bool,
    /// What revoking one of its leases achieves.
    #[serde(skip_serializing_if = "Option::is_none")]
    revocability: Option<Revocability>,
}

#[derive(Serialize, JsonSchema)]
struct TuneView {
    default_lease_ttl: u64,
    max_lease_ttl: u64,
    force_no_cache: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<TokenType>,
    description: String,
    options: Option<BTreeMap<String, String>>,
}

type Table = BTreeMap<String, MountView>;

pub(super) fn routes(routes: &mut SystemRoutes) {
    use Operation::{Delete, Read, Write};
    routes.serve::<NoFields, Table, _, _>(Read, "sys/mounts", "Lists the mounts.", list);
    routes.serve::<PathRequest, MountView, _, _>(
        Read,
        "sys/mounts/{path*}",
        "Describes a mount.",
        read,
    );
    routes.serve::<EnableRequest, (), _, _>(
        Write,
        "sys/mounts/{path*}",
        "Enables a backend at a path.",
        enable,
    );
    routes.serve::<PathRequest, (), _, _>(
        Delete,
        "sys/mounts/{path*}",
        "Disables a mount after revoking its leases, and deletes what it stored.",
        disable,
    );
    routes.serve::<PathRequest, TuneView, _, _>(
        Read,
        "sys/mounts/{path*}/tune",
        "Reads what can be tuned.",
        read_tune,
    );
    routes.serve::<TuneRequest, (), _, _>(Write, "sys/mounts/{path*}/tune", "Tunes a mount.", tune);
    routes
        .serve::<RemountRequest, Migration, _, _>(
            Write,
            "sys/remount",
            "Moves a mount; its leases stay.",
            remount,
        )
        .access = Access::Sudo;
    routes.serve::<MigrationRequest, MigrationView, _, _>(
        Read,
        "sys/remount/status/{migration_id}",
        "Tells how a move stands: it is done when it is answered.",
        remount_status,
    );
    routes
        .serve::<NoFields, Table, _, _>(Read, "sys/auth", "Lists the auth methods.", list_auth)
        .access = Access::Sudo;
    routes
        .serve::<PathRequest, MountView, _, _>(
            Read,
            "sys/auth/{path*}",
            "Describes an auth method.",
            read_auth,
        )
        .access = Access::Sudo;
    routes
        .serve::<EnableRequest, (), _, _>(
            Write,
            "sys/auth/{path*}",
            "Enables an auth method at a path.",
            enable_auth,
        )
        .access = Access::Sudo;
    routes
        .serve::<PathRequest, (), _, _>(
            Delete,
            "sys/auth/{path*}",
            "Disables an auth method after revoking the tokens it made, and deletes what it stored.",
            disable_auth,
        )
        .access = Access::Sudo;
    routes
        .serve::<PathRequest, TuneView, _, _>(
            Read,
            "sys/auth/{path*}/tune",
            "Reads what can be tuned.",
            read_auth_tune,
        )
        .access = Access::Sudo;
    routes
        .serve::<TuneRequest, (), _, _>(
            Write,
            "sys/auth/{path*}/tune",
            "Tunes an auth method.",
            tune_auth,
        )
        .access = Access::Sudo;
}

/// A mount as the API shows it.
pub(super) fn view(mount: &Mount) -> MountView {
    let record = mount.record();
    let set = |ttl: Option<Duration>| ttl.map_or(0, |ttl| ttl.as_secs());
    MountView {
        kind: record.kind.clone(),
        description: record.description.clone(),
        accessor: record.accessor.clone(),
        uuid: record.id.clone(),
        config: ConfigView {
            default_lease_ttl: set(record.config.default_lease_ttl),
            max_lease_ttl: set(record.config.max_lease_ttl),
            force_no_cache: false,
            token_type: token_type(&record),
        },
        options: (!record.options.is_empty()).then(|| record.options.clone()),
        local: false,
        seal_wrap: false,
        external_entropy_access: false,
        plugin_version: "",
        running_plugin_version: crate::VERSION,
        running_sha256: "",
        deprecation_status: "supported",
        managed: record.managed,
        revocability: Some(mount.backend.revocability()),
    }
}

/// `sys/` and the token method are always there.
fn built_in(kind: &str, description: &str) -> MountView {
    MountView {
        kind: kind.to_owned(),
        description: description.to_owned(),
        accessor: format!("{kind}_builtin"),
        uuid: kind.to_owned(),
        config: ConfigView {
            default_lease_ttl: 0,
            max_lease_ttl: 0,
            force_no_cache: false,
            token_type: (kind == "token").then_some(TokenType::DefaultService),
        },
        options: None,
        local: kind == "cubbyhole",
        seal_wrap: false,
        external_entropy_access: false,
        plugin_version: "",
        running_plugin_version: crate::VERSION,
        running_sha256: "",
        deprecation_status: "supported",
        managed: false,
        revocability: None,
    }
}

/// Mounts that are always there.
const BUILT_IN: [&str; 3] = ["sys", "cubbyhole", "identity"];

/// What is shown of how an auth method's tokens are.
fn token_type(record: &MountRecord) -> Option<TokenType> {
    match (Class::of(&record.path), record.config.token_type) {
        (Class::Secrets, _) => None,
        (Class::Auth, TokenType::Default) => Some(TokenType::DefaultService),
        (Class::Auth, other) => Some(other),
    }
}

/// The mounts of a class, by path; auth methods without the `auth/` before it.
fn mounts_of(engine: &Engine, class: Class) -> Table {
    let mounts = engine.mounts.all();
    let fitting = mounts.iter().filter_map(|mount| {
        let record = mount.record();
        let path = record.path.strip_prefix("auth/").unwrap_or(&record.path);
        (Class::of(&record.path) == class).then(|| (format!("{path}/"), view(mount)))
    });
    fitting.collect()
}

pub(super) fn table(engine: &Engine) -> Table {
    let mut table = mounts_of(engine, Class::Secrets);
    for (path, kind, description) in [
        (
            "sys/",
            "system",
            "system endpoints used for control, policy and debugging",
        ),
        (
            "cubbyhole/",
            "cubbyhole",
            "per-token private secret storage",
        ),
        ("identity/", "identity", "identity store"),
    ] {
        table.insert(path.into(), built_in(kind, description));
    }
    table
}

pub(super) fn auth_table(engine: &Engine) -> Table {
    let mut table = mounts_of(engine, Class::Auth);
    table.insert(
        "token/".into(),
        built_in("token", "token based credentials"),
    );
    table
}

async fn list(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    Answer::flat(&table(&*call.engine()?))
}

async fn list_auth(call: SystemCall, _: NoFields) -> Result<Answer, Failure> {
    Answer::flat(&auth_table(&*call.engine()?))
}

async fn read_auth(call: SystemCall, request: PathRequest) -> Result<Answer, Failure> {
    let path = format!("{}/", request.path.trim_matches('/'));
    match auth_table(&*call.engine()?).remove(&path) {
        Some(view) => Answer::flat(&view),
        None => Err(Failure::Invalid(format!("No auth engine at {path}"))),
    }
}

/// Where an auth method is in the table of mounts.
fn below_auth(path: &str) -> String {
    format!("auth/{}", path.trim_matches('/'))
}

async fn enable_auth(call: SystemCall, mut request: EnableRequest) -> Result<Answer, Failure> {
    request.path = below_auth(&request.path);
    enable_any(&call, request).await
}

async fn disable_auth(call: SystemCall, request: PathRequest) -> Result<Answer, Failure> {
    if request.path.trim_matches('/') == "token" {
        return Err(Failure::Invalid(
            "the token auth method cannot be disabled: the server needs it".into(),
        ));
    }
    disable_any(&call, &below_auth(&request.path)).await
}

async fn tune_auth(call: SystemCall, mut request: TuneRequest) -> Result<Answer, Failure> {
    request.path = below_auth(&request.path);
    tune(call, request).await
}

async fn read_auth_tune(call: SystemCall, request: PathRequest) -> Result<Answer, Failure> {
    if request.path.trim_matches('/') != "token" {
        let path = below_auth(&request.path);
        return read_tune(call, PathRequest { path }).await;
    }
    let ttl = call.plane.settings.ttl;
    Answer::flat(&TuneView {
        default_lease_ttl: ttl.default.as_secs(),
        max_lease_ttl: ttl.max.as_secs(),
        force_no_cache: false,
        token_type: Some(TokenType::DefaultService),
        description: "token based credentials".into(),
        options: None,
    })
}

/// `sys/mounts` does not do for auth methods what only `sys/auth` may.
fn only_secrets(path: &str) -> Result<(), Failure> {
    match Class::of(path.trim_matches('/')) {
        Class::Secrets => Ok(()),
        Class::Auth => Err(Failure::Invalid(
            "field \"path\": auth methods are enabled and disabled at sys/auth".into(),
        )),
    }
}

fn find(engine: &Engine, path: &str) -> Result<std::sync::Arc<Mount>, Failure> {
    engine.mounts.at(path).ok_or_else(|| {
        Failure::Invalid(format!(
            "No secret engine mount at {}/",
            path.trim_matches('/')
        ))
    })
}

async fn read(call: SystemCall, request: PathRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    let mount = find(&engine, &request.path)?;
    Answer::flat(&view(&mount))
}

async fn enable(call: SystemCall, request: EnableRequest) -> Result<Answer, Failure> {
    only_secrets(&request.path)?;
    enable_any(&call, request).await
}

async fn enable_any(call: &SystemCall, request: EnableRequest) -> Result<Answer, Failure> {
    call.engine()?
        .enable_mount(NewMount {
            path: request.path,
            kind: request.kind,
            description: request.description,
            options: request.options.unwrap_or_default(),
            config: MountConfig {
                default_lease_ttl: nonzero(request.config.default_lease_ttl),
                max_lease_ttl: nonzero(request.config.max_lease_ttl),
                token_type: request.config.token_type.unwrap_or_default(),
            },
            managed: false,
        })
        .await?;
    Ok(Answer::nothing())
}

fn nonzero(ttl: Option<Duration>) -> Option<Duration> {
    ttl.filter(|ttl| !ttl.is_zero())
}

async fn disable(call: SystemCall, request: PathRequest) -> Result<Answer, Failure> {
    only_secrets(&request.path)?;
    let path = request.path.trim_matches('/');
    if BUILT_IN.contains(&path) {
        return Err(Failure::Invalid(format!(
            "cannot unmount \"{path}/\": the server needs it"
        )));
    }
    disable_any(&call, path).await
}

async fn disable_any(call: &SystemCall, path: &str) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    refuse_managed(&engine, path)?;
    engine.disable_mount(path).await?;
    Ok(Answer::nothing())
}

fn refuse_managed(engine: &Engine, path: &str) -> Result<(), Failure> {
    match engine.mounts.at(path) {
        Some(mount) if mount.record().managed => Err(Failure::Invalid(format!(
            "mount {}/ is declared in the configuration file: change it there",
            mount.record().path
        ))),
        _ => Ok(()),
    }
}

async fn read_tune(call: SystemCall, request: PathRequest) -> Result<Answer, Failure> {
    let mount = find(&*call.engine()?, &request.path)?;
    let (record, limits) = (mount.record(), mount.limits(call.plane.settings.ttl));
    Answer::flat(&TuneView {
        default_lease_ttl: limits.default.as_secs(),
        max_lease_ttl: limits.max.as_secs(),
        force_no_cache: false,
        token_type: token_type(&record),
        description: record.description.clone(),
        options: (!record.options.is_empty()).then(|| record.options.clone()),
    })
}

async fn tune(call: SystemCall, request: TuneRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    refuse_managed(&engine, &request.path)?;
    let mount = find(&engine, &request.path)?;
    if request
        .options
        .as_ref()
        .is_some_and(|options| *options != mount.record().options)
    {
        return Err(Failure::Unsupported(
            "the options of a mount do not change: enable a new one and copy (kv v1 to v2 included)".into(),
        ));
    }
    engine
        .tune_mount(&request.path, |record| {
            if let Some(ttl) = request.default_lease_ttl {
                record.config.default_lease_ttl = nonzero(Some(ttl));
            }
            if let Some(ttl) = request.max_lease_ttl {
                record.config.max_lease_ttl = nonzero(Some(ttl));
            }
            if let Some(token_type) = request.token_type {
                record.config.token_type = token_type;
            }
            if let Some(description) = request.description {
                record.description = description;
            }
        })
        .await?;
    Ok(Answer::nothing())
}

async fn remount(call: SystemCall, request: RemountRequest) -> Result<Answer, Failure> {
    let engine = call.engine()?;
    refuse_managed(&engine, &request.from)?;
    let moved = engine.mounts.at(&request.from);
    engine.remount(&request.from, &request.to).await?;
    // It is not told what is at a path that is not a mount: `remount` has refused it.
    let migration_id = moved.ok_or(Failure::NotFound)?.record().id.clone();
    Answer::flat(&Migration { migration_id })
}

async fn remount_status(call: SystemCall, request: MigrationRequest) -> Result<Answer, Failure> {
    let mount = call.engine()?.mounts.by_id(&request.migration_id);
    let record = mount.ok_or(Failure::NotFound)?.record();
    Answer::flat(&MigrationView {
        migration_id: request.migration_id,
        migration_info: MigrationInfo {
            target_mount: format!("{}/", record.path),
            status: "success",
        },
    })
}
