//! Initialising, unsealing and looking after a server.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::Context;
use super::generate_root::GenerateRoot;
use super::output::{Format, show};
use super::rekey::Rekey;
use super::{Code, Failure};
use crate::client::{Answer, Client};

/// `daypass operator …`
#[derive(Subcommand)]
pub(super) enum Operator {
    /// Initialise a new server, once: makes its root key, the key shares and the first root token
    #[command(long_about = INIT)]
    Init(Init),
    /// Give key shares, until there are enough to unseal
    #[command(long_about = UNSEAL)]
    Unseal(Unseal),
    /// Seal the server: it forgets its keys and answers nothing until it is unsealed again
    #[command(after_long_help = "Example:\n\n    $ daypass operator seal")]
    Seal,
    /// Show whether the server is initialised and unsealed (exit code 2 when sealed)
    #[command(after_long_help = "Example:\n\n    $ daypass operator status")]
    Status,
    /// Add a new data key; what is written from now on is sealed with it
    #[command(after_long_help = "Example:\n\n    $ daypass operator rotate")]
    Rotate,
    /// Make new key shares, of other numbers or for other holders
    #[command(subcommand)]
    Rekey(Rekey),
    /// Make a root token with a quorum of key shares, where no other is left
    #[command(subcommand)]
    GenerateRoot(GenerateRoot),
    /// Read the configuration file again; what needs a restart is named
    #[command(after_long_help = "Example:\n\n    $ daypass operator reload")]
    Reload,
    /// Show the newest data key and how much it has sealed
    #[command(after_long_help = "Example:\n\n    $ daypass operator key-status")]
    KeyStatus,
}

const INIT: &str = "\
Initialises a new server, once. It prints the key shares and the first root token, which exist nowhere else: give
each share to another person, use the root token to set up policies and logins, then revoke it.

    $ daypass operator init --key-shares 5 --key-threshold 3
    $ daypass operator init --format json > init.json    # for one-person set-ups; guard that file";

const UNSEAL: &str = "\
Gives key shares, typed at a prompt that does not show them, or one a line through a pipe. Never as arguments.

    $ daypass operator unseal
    $ age -d share.age | daypass operator unseal";

/// `daypass operator init`.
#[derive(Args)]
pub(super) struct Init {
    /// Into how many shares the key is split; 5 where not said
    #[arg(long, value_name = "N")]
    key_shares: Option<u8>,
    /// How many shares unseal; more than half where not said
    #[arg(long, value_name = "N")]
    key_threshold: Option<u8>,
}

/// `daypass operator unseal`.
#[derive(Args)]
pub(super) struct Unseal {
    /// Forget the shares given so far
    #[arg(long)]
    reset: bool,
    #[arg(hide = true)]
    key: Option<String>,
}

impl Operator {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        match self {
            Self::Init(init) => init.run(context).await,
            Self::Unseal(unseal) => unseal.run(context).await,
            Self::Seal => {
                let client = context.client()?;
                let answer = write(&client, "seal the server", "sys/seal", json!({})).await?;
                context.answer(&answer, "The server is sealed.")
            }
            Self::Status => status(context).await,
            Self::Rotate => {
                let client = context.client()?;
                let answer = write(&client, "rotate the data key", "sys/rotate", json!({})).await?;
                context.answer(&answer, "A new data key is in use.")
            }
            Self::Rekey(rekey) => rekey.run(context).await,
            Self::GenerateRoot(generate) => generate.run(context).await,
            Self::Reload => {
                let client = context.client()?;
                let path = "sys/config/reload/config";
                let answer = write(&client, "reload the configuration", path, json!({})).await?;
                context.answer(&answer, "The configuration is reloaded.")
            }
            Self::KeyStatus => {
                let answer = context
                    .client()?
                    .read("sys/key-status", &[])
                    .await
                    .map_err(|error| Failure::request("read the key's status", error))?;
                context.answer(&answer, "")
            }
        }
    }
}

impl Init {
    async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let shares = self.key_shares.unwrap_or(5);
        let threshold = self.key_threshold.unwrap_or(shares / 2 + 1);
        let fields = json!({"secret_shares": shares, "secret_threshold": threshold});
        let client = context.client()?;
        let answer = write(&client, "initialise the server", "sys/init", fields).await?;
        let body = answer.json();
        let shares = body.get("keys_base64").and_then(Value::as_array);
        let mut rows: Vec<Vec<String>> = shares
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(index, share)| vec![format!("Key share {}", index + 1), show(share)])
            .collect();
        rows.push(vec![
            "Root token".into(),
            show(body.get("root_token").unwrap_or(&Value::Null)),
        ]);
        context.rows(&["Key", "Value"], &rows, body)?;
        if context.format == Format::Table && context.field.is_none() {
            context.note(
                "\nThese are shown once and kept nowhere. Give each share to another person; after a restart, \
                 enough of them run `daypass operator unseal`.",
            );
        }
        Ok(())
    }
}

impl Unseal {
    async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        if self.key.is_some() {
            return Err(refuse_argument());
        }
        let client = context.client()?;
        if self.reset {
            let answer = write(&client, "reset", "sys/unseal", json!({"reset": true})).await?;
            return show_status(context, &answer);
        }
        let mut last = None;
        for share in context.read_secrets("Key share")? {
            let Some(share) = share.expose_str() else {
                return Err(Failure::usage("read the key share", "it is not text"));
            };
            let answer = write(&client, "unseal", "sys/unseal", json!({"key": share})).await?;
            let sealed = answer.json().get("sealed") != Some(&Value::Bool(false));
            last = Some(answer);
            if !sealed {
                break;
            }
        }
        match last {
            Some(answer) => show_status(context, &answer),
            None => Ok(()),
        }
    }
}

/// What is said to a key share on the command line.
pub(super) fn refuse_argument() -> Failure {
    Failure::usage(
        "take a key share as an argument",
        "every process of the machine could read it, and the shell's history keeps it",
    )
    .hint("leave it out and type it at the prompt, or pipe it in")
}

/// `daypass status`: 0 unsealed, 2 sealed, so that a script can wait for it.
pub(super) async fn status(context: &mut Context<'_, '_>) -> Result<(), Failure> {
    let answer = context
        .client()?
        .read("sys/seal-status", &[])
        .await
        .map_err(|error| Failure::request("read the seal's status", error))?;
    let sealed = answer.json().get("sealed") != Some(&Value::Bool(false));
    show_status(context, &answer)?;
    if sealed {
        return Err(Failure::silent(Code::Refused));
    }
    Ok(())
}

fn show_status(context: &mut Context<'_, '_>, answer: &Answer) -> Result<(), Failure> {
    let names = [
        ("Seal", "type"),
        ("Initialised", "initialized"),
        ("Sealed", "sealed"),
        ("Shares", "n"),
        ("Threshold", "t"),
        ("Shares given", "progress"),
        ("Version", "version"),
        ("Storage", "storage_type"),
        ("Cluster", "cluster_name"),
    ];
    show_fields(context, answer, &names)
}

/// Gives key shares from the terminal or a pipe to `path`, until one completes what they are for or there
/// are no more. Answers the last answer.
pub(super) async fn give_shares(
    context: &mut Context<'_, '_>,
    client: &Client,
    what: &str,
    path: &str,
    nonce: &str,
) -> Result<Option<Answer>, Failure> {
    let mut last = None;
    for share in context.read_secrets("Key share")? {
        let Some(share) = share.expose_str() else {
            return Err(Failure::usage("read the key share", "it is not text"));
        };
        let answer = write(client, what, path, json!({"key": share, "nonce": nonce})).await?;
        let complete = answer.json().get("complete") == Some(&Value::Bool(true));
        last = Some(answer);
        if complete {
            break;
        }
    }
    Ok(last)
}

/// The nonce of what `path` says is under way: the one given, or else the one there is.
pub(super) async fn nonce_of(
    client: &Client,
    path: &str,
    given: Option<String>,
) -> Result<String, Failure> {
    if let Some(nonce) = given {
        return Ok(nonce);
    }
    let answer = client
        .read(path, &[])
        .await
        .map_err(|error| Failure::request("read what is under way", error))?;
    match answer.json().get("nonce").and_then(Value::as_str) {
        Some(nonce) if !nonce.is_empty() => Ok(nonce.to_owned()),
        _ => Err(
            Failure::refused("give a key share", "nothing that needs one is under way")
                .hint("begin it with `init`"),
        ),
    }
}

/// Shows the fields of an answer that it has, under these labels.
pub(super) fn show_fields(
    context: &mut Context<'_, '_>,
    answer: &Answer,
    names: &[(&str, &str)],
) -> Result<(), Failure> {
    let body = answer.json();
    let rows: Vec<Vec<String>> = names
        .iter()
        .filter_map(|(label, name)| {
            let value = body.get(*name).filter(|value| !value.is_null())?;
            let text = show(value);
            (!text.is_empty()).then(|| vec![(*label).to_owned(), text])
        })
        .collect();
    context.rows(&["Key", "Value"], &rows, body)
}

/// Writes the fields of a JSON object.
pub(super) async fn write(
    client: &Client,
    what: &str,
    path: &str,
    fields: Value,
) -> Result<Answer, Failure> {
    let Value::Object(fields) = fields else {
        return Err(Failure::usage(what, "the fields are not an object"));
    };
    client
        .write(path, &fields)
        .await
        .map_err(|error| Failure::request(what, error))
}
