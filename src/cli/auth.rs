//! Auth methods: list, enable, disable, tune, move. They are mounts below `auth/`.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Failure;
use super::context::Context;
use super::mount::{Path, Settings};
use super::operator::write;
use super::output::{fields, show};

/// `daypass auth …`
#[derive(Subcommand)]
pub(super) enum Auth {
    /// List the auth methods and where they are mounted
    #[command(after_long_help = "Example:\n\n    $ daypass auth list")]
    List,
    /// Mount an auth method
    #[command(long_about = ENABLE)]
    Enable(Enable),
    /// Remove an auth method and revoke every token it has made
    #[command(after_long_help = "Example:\n\n    $ daypass auth disable ci")]
    Disable(Path),
    /// Change an auth method's settings
    #[command(long_about = TUNE)]
    Tune(Tune),
    /// Move an auth method to another path
    #[command(long_about = MOVE)]
    Move(Move),
}

const ENABLE: &str = "\
Mounts an auth method below auth/, by default at one of the method's own name. Who may log in and what they get,
its roles or users say.

    $ daypass auth enable userpass
    $ daypass auth enable --path ci --max-lease-ttl 1h approle
    $ daypass write auth/ci/role/build token_policies=ci token_ttl=15m
    $ daypass auth enable --path github jwt";

const TUNE: &str = "\
Changes an auth method's settings; what is not given stays. Tokens that exist keep what they have.

    $ daypass auth tune --default-lease-ttl 15m --max-lease-ttl 1h ci
    $ daypass auth tune --token-type default-batch ci";

const MOVE: &str = "\
Moves an auth method to another path. Policies and clients name paths, so they have to follow.

    $ daypass auth move approle ci";

/// Settings of an auth method.
#[derive(Args)]
struct Tokens {
    #[command(flatten)]
    settings: Settings,
    /// What kind of token a login makes where the role says nothing: default-service, default-batch, service, batch
    #[arg(long, value_name = "TYPE")]
    token_type: Option<String>,
}

/// `daypass auth enable`.
#[derive(Args)]
pub(super) struct Enable {
    /// The method, such as approle, userpass, jwt
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Where; by default the method's name
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    #[command(flatten)]
    tokens: Tokens,
}

/// `daypass auth tune`.
#[derive(Args)]
pub(super) struct Tune {
    #[command(flatten)]
    path: Path,
    #[command(flatten)]
    tokens: Tokens,
}

/// `daypass auth move`.
#[derive(Args)]
pub(super) struct Move {
    /// Where it is
    from: String,
    /// Where it shall be
    to: String,
}

/// The path below `auth/`, which may be written or left out.
pub(super) fn below_auth(path: &str) -> &str {
    let path = path.trim_matches('/');
    path.strip_prefix("auth/").unwrap_or(path)
}

impl Auth {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        match self {
            Self::List => list(context).await,
            Self::Enable(enable) => {
                let path = enable.path.as_deref().unwrap_or(&enable.kind);
                let path = below_auth(path).to_owned();
                let config = enable.tokens.config();
                let mut body = enable.tokens.settings.description();
                body.insert("type".into(), enable.kind.into());
                body.insert("config".into(), Value::Object(config));
                let client = context.client()?;
                let (what, target) = (format!("enable auth/{path}/"), format!("sys/auth/{path}"));
                let answer = write(&client, &what, &target, Value::Object(body)).await?;
                context.answer(&answer, &format!("Enabled: auth/{path}/"))
            }
            Self::Disable(Path { path }) => {
                let path = below_auth(&path);
                let answer = context
                    .client()?
                    .delete(&format!("sys/auth/{path}"))
                    .await
                    .map_err(|error| Failure::request(format!("disable auth/{path}/"), error))?;
                context.answer(&answer, &format!("Disabled: auth/{path}/"))
            }
            Self::Tune(tune) => {
                let path = below_auth(&tune.path.path);
                let what = format!("tune auth/{path}/");
                let mut body = tune.tokens.config();
                body.extend(tune.tokens.settings.description());
                if body.is_empty() {
                    return Err(Failure::usage(what, "nothing is given to change"));
                }
                let (client, target) = (context.client()?, format!("sys/auth/{path}/tune"));
                let answer = write(&client, &what, &target, Value::Object(body)).await?;
                context.answer(&answer, &format!("Tuned: auth/{path}/"))
            }
            Self::Move(Move { from, to }) => {
                let place = |path: &str| format!("auth/{}", below_auth(path));
                let (from, to) = (place(&from), place(&to));
                let client = context.client()?;
                let body = json!({"from": from, "to": to});
                let what = format!("move {from} to {to}");
                let answer = write(&client, &what, "sys/remount", body).await?;
                context.answer(&answer, &format!("Moved: {from} to {to}"))
            }
        }
    }
}

impl Tokens {
    /// What enabling nests and tuning does not.
    fn config(&self) -> Map<String, Value> {
        let mut fields = self.settings.lease_times();
        if let Some(kind) = &self.token_type {
            fields.insert("token_type".into(), kind.as_str().into());
        }
        fields
    }
}

async fn list(context: &mut Context<'_, '_>) -> Result<(), Failure> {
    let answer = context
        .client()?
        .read("sys/auth", &[])
        .await
        .map_err(|error| Failure::request("list auth methods", error))?;
    let methods = fields(answer.json());
    let rows: Vec<Vec<String>> = methods
        .as_object()
        .into_iter()
        .flatten()
        .map(|(path, facts)| {
            let fact = |name: &str| facts.get(name).map(show).unwrap_or_default();
            vec![
                path.clone(),
                fact("type"),
                fact("accessor"),
                fact("description"),
            ]
        })
        .collect();
    context.rows(&["Path", "Type", "Accessor", "Description"], &rows, methods)
}
