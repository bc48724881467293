//! `daypass operator rekey`: a quorum of share holders makes new shares.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Failure;
use super::context::Context;
use super::operator::{give_shares, nonce_of, show_fields, write};
use super::output::{Format, show};
use crate::client::Answer;

const INIT_PATH: &str = "sys/rekey/init";
const VERIFY_PATH: &str = "sys/rekey/verify";

/// `daypass operator rekey …`
#[derive(Subcommand)]
pub(super) enum Rekey {
    /// Begin: says how many shares there will be, and prints a nonce for the holders of the old ones
    #[command(long_about = INIT)]
    Init(Init),
    /// Show where it stands
    #[command(after_long_help = "Example:\n\n    $ daypass operator rekey status")]
    Status,
    /// Give old key shares; the last one prints the new shares
    #[command(long_about = SHARE)]
    Share(Share),
    /// Show new key shares; the last one makes them valid, and the old ones worthless
    #[command(long_about = VERIFY)]
    Verify(Verify),
    /// Give up; the old shares stay valid, new ones that were not verified are worthless
    #[command(after_long_help = "Example:\n\n    $ daypass operator rekey cancel")]
    Cancel,
}

const INIT: &str = "\
Begins to replace the key shares. Enough holders of the old ones then run `daypass operator rekey share`; the last
one is shown the new shares. They become valid when enough of them were given to `daypass operator rekey verify`,
so that none can be lost on the way; until then the old ones unseal.

    $ daypass operator rekey init --key-shares 5 --key-threshold 3
    $ daypass operator rekey init --key-shares 1 --key-threshold 1 --no-verify";

const SHARE: &str = "\
Gives old key shares, typed at a prompt that does not show them, or one a line through a pipe. Never as arguments.

    $ daypass operator rekey share --nonce 2dbd10f1-8528-6246-09e7-82b25b8aba63
    $ age -d share.age | daypass operator rekey share";

const VERIFY: &str = "\
Gives new key shares, typed at a prompt that does not show them, or one a line through a pipe. Never as arguments.

    $ daypass operator rekey verify
    $ daypass operator rekey verify --restart    # forget those given so far";

/// `daypass operator rekey init`.
#[derive(Args)]
pub(super) struct Init {
    /// Into how many shares the new key is split
    #[arg(long, value_name = "N", default_value_t = 5)]
    key_shares: u8,
    /// How many of them unseal; more than half where not said
    #[arg(long, value_name = "N")]
    key_threshold: Option<u8>,
    /// Make the new shares valid at once: whoever loses the answer has lost the store
    #[arg(long)]
    no_verify: bool,
}

/// `daypass operator rekey share`.
#[derive(Args)]
pub(super) struct Share {
    /// The attempt you mean; left out, the one there is
    #[arg(long, value_name = "NONCE")]
    nonce: Option<String>,
    #[arg(hide = true)]
    key: Option<String>,
}

/// `daypass operator rekey verify`.
#[derive(Args)]
pub(super) struct Verify {
    /// The verification you mean; left out, the one there is
    #[arg(long, value_name = "NONCE")]
    nonce: Option<String>,
    /// Forget the new shares given so far
    #[arg(long)]
    restart: bool,
    #[arg(hide = true)]
    key: Option<String>,
}

impl Rekey {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let client = context.client()?;
        match self {
            Self::Init(init) => {
                let shares = init.key_shares;
                let fields = json!({
                    "secret_shares": shares,
                    "secret_threshold": init.key_threshold.unwrap_or(shares / 2 + 1),
                    "require_verification": !init.no_verify,
                });
                let answer = write(&client, "begin", INIT_PATH, fields).await?;
                show_rekey(context, &answer)
            }
            Self::Status => {
                let answer = client
                    .read(INIT_PATH, &[])
                    .await
                    .map_err(|error| Failure::request("read where it stands", error))?;
                show_rekey(context, &answer)
            }
            Self::Share(share) => {
                if share.key.is_some() {
                    return Err(super::operator::refuse_argument());
                }
                let nonce = nonce_of(&client, INIT_PATH, share.nonce).await?;
                let what = "give a key share";
                match give_shares(context, &client, what, "sys/rekey/update", &nonce).await? {
                    Some(answer) if answer.json().get("keys_base64").is_some() => {
                        show_shares(context, &answer)
                    }
                    Some(answer) => show_rekey(context, &answer),
                    None => Ok(()),
                }
            }
            Self::Verify(verify) => verify.run(context).await,
            Self::Cancel => {
                let answer = client
                    .delete(INIT_PATH)
                    .await
                    .map_err(|error| Failure::request("cancel", error))?;
                context.answer(&answer, "The key shares stay as they are.")
            }
        }
    }
}

impl Verify {
    async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        if self.key.is_some() {
            return Err(super::operator::refuse_argument());
        }
        let client = context.client()?;
        if self.restart {
            let answer = client
                .delete(VERIFY_PATH)
                .await
                .map_err(|error| Failure::request("restart", error))?;
            return show_rekey(context, &answer);
        }
        let nonce = nonce_of(&client, VERIFY_PATH, self.nonce).await?;
        let what = "give a new key share";
        match give_shares(context, &client, what, VERIFY_PATH, &nonce).await? {
            Some(answer) if answer.json().get("complete") == Some(&Value::Bool(true)) => context
                .answer(
                    &answer,
                    "The new key shares are valid, the old ones worthless.",
                ),
            Some(answer) => show_rekey(context, &answer),
            None => Ok(()),
        }
    }
}

fn show_rekey(context: &mut Context<'_, '_>, answer: &Answer) -> Result<(), Failure> {
    show_fields(
        context,
        answer,
        &[
            ("Nonce", "nonce"),
            ("Started", "started"),
            ("New shares", "n"),
            ("New threshold", "t"),
            ("Shares given", "progress"),
            ("Shares needed", "required"),
            ("Verified before they count", "verification_required"),
            ("Nonce to verify", "verification_nonce"),
        ],
    )
}

fn show_shares(context: &mut Context<'_, '_>, answer: &Answer) -> Result<(), Failure> {
    let body = answer.json();
    let shares = body.get("keys_base64").and_then(Value::as_array);
    let mut rows: Vec<Vec<String>> = shares
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(index, share)| vec![format!("Key share {}", index + 1), show(share)])
        .collect();
    let verify = body.get("verification_required") == Some(&Value::Bool(true));
    if verify && let Some(nonce) = body.get("verification_nonce") {
        rows.push(vec!["Nonce to verify".into(), show(nonce)]);
    }
    context.rows(&["Key", "Value"], &rows, body)?;
    if context.format == Format::Table && context.field.is_none() {
        context.note(if verify {
            "\nThese are shown once, and are NOT valid yet: keep the old shares. Give each of these to another \
             person; when enough of them have run `daypass operator rekey verify`, the old ones are worthless."
        } else {
            "\nThese are shown once and kept nowhere; the old shares are worthless. Give each to another person."
        });
    }
    Ok(())
}
