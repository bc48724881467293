//! Mounts: list, enable, disable, tune, move. Auth methods, which are mounted too, build on this.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Failure;
use super::context::Context;
use super::operator::write;
use super::output::{fields, show};

/// `daypass mount …`
#[derive(Subcommand)]
pub(super) enum Mount {
    /// List what is mounted where
    #[command(after_long_help = "Example:\n\n    $ daypass mount list")]
    List,
    /// Mount a backend at a path
    #[command(long_about = ENABLE)]
    Enable(Enable),
    /// Revoke everything a mount has issued and remove it with all it keeps
    #[command(after_long_help = "Example:\n\n    $ daypass mount disable db")]
    Disable(Path),
    /// Change a mount's settings
    #[command(long_about = TUNE)]
    Tune(Tune),
    /// Move a mount to another path; its leases are revoked
    #[command(long_about = MOVE)]
    Move(Move),
}

const ENABLE: &str = "\
Mounts a backend at a path, by default at one of the backend's own name.

    $ daypass mount enable database
    $ daypass mount enable --path secret --option version=2 kv
    $ daypass mount enable --path pki-internal --max-lease-ttl 87600h pki";

const TUNE: &str = "\
Changes a mount's settings; what is not given stays.

    $ daypass mount tune --default-lease-ttl 1h --max-lease-ttl 24h db";

const MOVE: &str = "\
Moves a mount to another path. Policies name paths, so they have to follow; leases of the old path are revoked.

    $ daypass mount move db database/orders";

/// A mount.
#[derive(Args)]
pub(super) struct Path {
    /// Where it is mounted
    pub(super) path: String,
}

/// Settings of any mount.
#[derive(Args)]
pub(super) struct Settings {
    /// For people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The lease where caller and role say nothing
    #[arg(long, value_name = "DURATION")]
    default_lease_ttl: Option<String>,
    /// The longest lease, renewals included
    #[arg(long, value_name = "DURATION")]
    max_lease_ttl: Option<String>,
}

/// Options of a mount's backend.
#[derive(Args)]
struct Options {
    /// An option of the backend, such as version=2 for kv; may be repeated
    #[arg(long = "option", value_name = "K=V")]
    options: Vec<String>,
}

/// `daypass mount enable`.
#[derive(Args)]
pub(super) struct Enable {
    /// The backend, such as kv, pki, database
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Where; by default the type's name
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    options: Options,
}

/// `daypass mount tune`.
#[derive(Args)]
pub(super) struct Tune {
    #[command(flatten)]
    path: Path,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    options: Options,
}

/// `daypass mount move`.
#[derive(Args)]
pub(super) struct Move {
    /// Where it is
    from: String,
    /// Where it shall be
    to: String,
}

impl Mount {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        match self {
            Self::List => list(context).await,
            Self::Enable(enable) => {
                let path = enable.path.unwrap_or_else(|| enable.kind.clone());
                let path = path.trim_matches('/');
                let config = enable.settings.lease_times();
                let mut body = enable.settings.description();
                body.extend(enable.options.read(context)?);
                body.insert("type".into(), enable.kind.into());
                body.insert("config".into(), Value::Object(config));
                let (client, what) = (context.client()?, format!("mount {path}/"));
                let target = format!("sys/mounts/{path}");
                let answer = write(&client, &what, &target, Value::Object(body)).await?;
                context.answer(&answer, &format!("Mounted: {path}/"))
            }
            Self::Disable(Path { path }) => {
                let path = path.trim_matches('/');
                let answer = context
                    .client()?
                    .delete(&format!("sys/mounts/{path}"))
                    .await
                    .map_err(|error| {
                        Failure::request(format!("remove the mount {path}/"), error)
                    })?;
                context.answer(&answer, &format!("Removed: {path}/"))
            }
            Self::Tune(tune) => {
                let path = tune.path.path.trim_matches('/');
                let what = format!("tune {path}/");
                let mut body = tune.settings.lease_times();
                body.extend(tune.settings.description());
                body.extend(tune.options.read(context)?);
                if body.is_empty() {
                    return Err(Failure::usage(what, "nothing is given to change"));
                }
                let (client, target) = (context.client()?, format!("sys/mounts/{path}/tune"));
                let answer = write(&client, &what, &target, Value::Object(body)).await?;
                context.answer(&answer, &format!("Tuned: {path}/"))
            }
            Self::Move(Move { from, to }) => {
                let client = context.client()?;
                let body = json!({"from": from, "to": to});
                let what = format!("move {from} to {to}");
                let answer = write(&client, &what, "sys/remount", body).await?;
                context.answer(&answer, &format!("Moved: {from} to {to}"))
            }
        }
    }
}

impl Settings {
    /// The lease times, which enabling nests and tuning does not.
    pub(super) fn lease_times(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        for (name, ttl) in [
            ("default_lease_ttl", &self.default_lease_ttl),
            ("max_lease_ttl", &self.max_lease_ttl),
        ] {
            if let Some(ttl) = ttl {
                fields.insert(name.into(), ttl.as_str().into());
            }
        }
        fields
    }

    /// The description, which stands beside them.
    pub(super) fn description(self) -> Map<String, Value> {
        let mut fields = Map::new();
        if let Some(description) = self.description {
            fields.insert("description".into(), description.into());
        }
        fields
    }
}

impl Options {
    fn read(&self, context: &mut Context<'_, '_>) -> Result<Map<String, Value>, Failure> {
        let mut fields = Map::new();
        let options = context.fields(&self.options)?;
        if !options.is_empty() {
            fields.insert("options".into(), Value::Object(options));
        }
        Ok(fields)
    }
}

async fn list(context: &mut Context<'_, '_>) -> Result<(), Failure> {
    let answer = context
        .client()?
        .read("sys/mounts", &[])
        .await
        .map_err(|error| Failure::request("list mounts", error))?;
    let mounts = fields(answer.json());
    let rows: Vec<Vec<String>> = mounts
        .as_object()
        .into_iter()
        .flatten()
        .map(|(path, facts)| {
            let fact = |name: &str| facts.pointer(name).map(show).unwrap_or_default();
            vec![
                path.clone(),
                fact("/type"),
                fact("/options/version"),
                fact("/description"),
            ]
        })
        .collect();
    context.rows(&["Path", "Type", "Version", "Description"], &rows, mounts)
}
