//! Tokens: create, look up, renew, revoke, and what they may do.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::context::Context;
use super::operator::write;
use super::output::{Format, show as cell};
use super::{Failure, output};
use crate::client::{Answer, Client};

/// `daypass token …`
#[derive(Subcommand)]
pub(super) enum Token {
    /// Create a token
    #[command(long_about = CREATE)]
    Create(Create),
    /// Show what a token is; the token itself only with --field id or --format json
    #[command(long_about = LOOKUP)]
    Lookup(Which),
    /// Let a token last longer
    #[command(long_about = RENEW)]
    Renew(Renew),
    /// Revoke a token with everything it created and leased
    #[command(long_about = REVOKE)]
    Revoke(Revoke),
    /// Show what a token may do at a path
    #[command(long_about = CAPABILITIES)]
    Capabilities(Capabilities),
}

const CREATE: &str = "\
Creates a token as a child of the one in use: when that ends, so does this.

    $ daypass token create --policy ci --ttl 1h --display-name build-42
    $ daypass token create --policy ci --period 24h --orphan --field client_token > token
    $ daypass token create --policy ci --type batch --ttl 10m
    $ daypass token create --role ci --wrap-ttl 5m --field token    # opened by `daypass unwrap`";

const LOOKUP: &str = "\
Shows what a token is: its policies, how long it lasts, where it came from.

    $ daypass token lookup                         # the one in use
    $ daypass token lookup --accessor 9fX2…
    $ daypass token lookup --stdin < token";

const RENEW: &str = "\
Lets a token last longer, within its maximum.

    $ daypass token renew --increment 1h";

const REVOKE: &str = "\
Revokes a token, with its children and every lease they hold. The token in use is revoked only with --self, which
also forgets the token file.

    $ daypass token revoke --accessor 9fX2…
    $ daypass token revoke --stdin < token
    $ daypass token revoke --self";

const CAPABILITIES: &str = "\
Shows what a token may do at paths: what its policies add up to there.

    $ daypass token capabilities db/creds/readonly secret/data/app
    $ daypass token capabilities --accessor 9fX2… sys/mounts";

/// `daypass token create`.
#[derive(Args)]
pub(super) struct Create {
    /// A policy of the token; may be repeated
    #[arg(long = "policy", value_name = "NAME")]
    policies: Vec<String>,
    /// How long it lasts at first, such as 1h
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,
    /// How long it lasts at most, renewals included
    #[arg(long, value_name = "DURATION")]
    explicit_max_ttl: Option<String>,
    /// How long each renewal gives; the token then has no end while it is renewed
    #[arg(long, value_name = "DURATION")]
    period: Option<String>,
    /// For how many requests it is good
    #[arg(long, value_name = "N", visible_alias = "use-limit")]
    num_uses: Option<u32>,
    /// Names it in the audit log
    #[arg(long, value_name = "NAME")]
    display_name: Option<String>,
    /// Something to say about it in the audit log; may be repeated
    #[arg(long, value_name = "K=V")]
    metadata: Vec<String>,
    /// service or batch
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The token role that decides the rest
    #[arg(long, value_name = "NAME", conflicts_with = "orphan")]
    role: Option<String>,
    /// Whose it is: an alias that the token role allows
    #[arg(long, value_name = "NAME", requires = "role")]
    entity_alias: Option<String>,
    /// No parent: it lives on when the token in use ends
    #[arg(long)]
    orphan: bool,
    /// Without the policy `default`
    #[arg(long)]
    no_default_policy: bool,
    /// Cannot be renewed
    #[arg(long)]
    not_renewable: bool,
}

/// Which token: the one in use, unless said otherwise.
#[derive(Args)]
pub(super) struct Which {
    /// The token with this accessor
    #[arg(long, value_name = "ACCESSOR")]
    accessor: Option<String>,
    /// The token that is typed or piped in
    #[arg(long, conflicts_with = "accessor")]
    stdin: bool,
}

/// `daypass token renew`.
#[derive(Args)]
pub(super) struct Renew {
    #[command(flatten)]
    which: Which,
    /// How long from now, such as 1h
    #[arg(long, value_name = "DURATION")]
    increment: Option<String>,
}

/// `daypass token revoke`.
#[derive(Args)]
pub(super) struct Revoke {
    #[command(flatten)]
    which: Which,
    /// The token in use
    #[arg(long = "self", conflicts_with_all = ["accessor", "stdin"])]
    own: bool,
    /// Keep its children alive as orphans
    #[arg(long, requires = "stdin")]
    keep_children: bool,
}

/// `daypass token capabilities`.
#[derive(Args)]
pub(super) struct Capabilities {
    #[command(flatten)]
    which: Which,
    /// Paths to ask about
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
}

impl Token {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(context).await,
            Self::Lookup(which) => {
                let client = context.client()?;
                let answer = if let (None, false) = (&which.accessor, which.stdin) {
                    client
                        .read("auth/token/lookup-self", &[])
                        .await
                        .map_err(|error| Failure::request("look up the token", error))?
                } else {
                    let call = Call::of(context, which, "lookup")?;
                    call.send(&client, "look up the token").await?
                };
                show(context, &answer)
            }
            Self::Renew(renew) => {
                let client = context.client()?;
                let mut call = Call::of(context, renew.which, "renew")?;
                if let Some(increment) = renew.increment {
                    call.fields.insert("increment".into(), increment.into());
                }
                let answer = call.send(&client, "renew the token").await?;
                show(context, &answer)
            }
            Self::Revoke(revoke) => revoke.run(context).await,
            Self::Capabilities(capabilities) => capabilities.run(context).await,
        }
    }
}

/// A request about one token.
struct Call {
    path: String,
    fields: Map<String, Value>,
}

impl Call {
    /// The request `verb` of the token API, for this token.
    fn of(context: &mut Context<'_, '_>, which: Which, verb: &str) -> Result<Self, Failure> {
        let mut fields = Map::new();
        let suffix = match (which.accessor, which.stdin) {
            (Some(accessor), _) => {
                fields.insert("accessor".into(), accessor.into());
                "-accessor"
            }
            (None, true) => {
                let token = context.read_secret("Token")?;
                let text = token
                    .expose_str()
                    .ok_or_else(|| Failure::usage("read the token", "it is not text"))?;
                fields.insert("token".into(), text.into());
                ""
            }
            (None, false) => "-self",
        };
        Ok(Self {
            path: format!("auth/token/{verb}{suffix}"),
            fields,
        })
    }

    async fn send(self, client: &Client, what: &str) -> Result<Answer, Failure> {
        write(client, what, &self.path, Value::Object(self.fields)).await
    }
}

impl Create {
    async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let metadata = context.fields(&self.metadata)?;
        let mut fields = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.into(), value);
            }
        };
        let given = |flag: bool, value: bool| flag.then_some(Value::Bool(value));
        set(
            "policies",
            (!self.policies.is_empty()).then(|| json!(self.policies)),
        );
        set("ttl", self.ttl.map(Value::from));
        set("explicit_max_ttl", self.explicit_max_ttl.map(Value::from));
        set("period", self.period.map(Value::from));
        set("num_uses", self.num_uses.map(Value::from));
        set("display_name", self.display_name.map(Value::from));
        set(
            "meta",
            (!metadata.is_empty()).then_some(Value::Object(metadata)),
        );
        set("type", self.kind.map(Value::from));
        set("entity_alias", self.entity_alias.map(Value::from));
        set("no_parent", given(self.orphan, true));
        set("no_default_policy", given(self.no_default_policy, true));
        set("renewable", given(self.not_renewable, false));
        let path = match (&self.role, self.orphan) {
            (Some(role), _) => format!("auth/token/create/{role}"),
            (None, true) => "auth/token/create-orphan".into(),
            (None, false) => "auth/token/create".into(),
        };
        let mut client = context.client()?;
        context.wrap(&mut client)?;
        let answer = write(&client, "create a token", &path, Value::Object(fields)).await?;
        context.answer(&answer, "")
    }
}

impl Revoke {
    async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let own = self.own;
        if !own && self.which.accessor.is_none() && !self.which.stdin {
            return Err(Failure::usage("revoke a token", "it is not said which")
                .hint("--accessor ACCESSOR, --stdin, or --self for the one in use"));
        }
        let client = context.client()?;
        let verb = if self.keep_children {
            "revoke-orphan"
        } else {
            "revoke"
        };
        let call = Call::of(context, self.which, verb)?;
        let answer = call.send(&client, "revoke the token").await?;
        if own && let Ok(file) = context.token_file() {
            file.remove()
                .map_err(|error| Failure::refused("forget the token file", error.to_string()))?;
        }
        context.answer(&answer, "The token is revoked.")
    }
}

impl Capabilities {
    async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let client = context.client()?;
        let verb = "capabilities";
        let mut call = Call::of(context, self.which, verb)?;
        call.path = call.path.replacen("auth/token/", "sys/", 1);
        call.fields.insert("paths".into(), json!(self.paths));
        let answer = call.send(&client, "ask for capabilities").await?;
        let body = output::fields(answer.json());
        let rows: Vec<Vec<String>> = self
            .paths
            .iter()
            .map(|path| {
                let found = body.get(path).unwrap_or(&Value::Null);
                vec![path.clone(), cell(found)]
            })
            .collect();
        context.rows(&["Path", "Capabilities"], &rows, answer.json())
    }
}

/// Shows what a token is, without the token.
pub(super) fn show(context: &mut Context<'_, '_>, answer: &Answer) -> Result<(), Failure> {
    let whole = answer.json();
    if context.format == Format::Json || context.field.is_some() {
        return context.answer(answer, "");
    }
    context.warnings(answer);
    let mut fields = output::fields(whole).clone();
    if let Some(map) = fields.as_object_mut() {
        map.retain(|name, _| !matches!(name.as_str(), "id" | "client_token"));
    }
    context.value(&fields, whole)
}
