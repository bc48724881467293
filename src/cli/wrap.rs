//! `daypass unwrap` and `daypass wrap`: answers that a token opens once. `--wrap-ttl` makes them.

use clap::{Args, Subcommand};
use daypass_contract::Secret;
use serde_json::Map;

use super::Failure;
use super::context::Context;
use crate::client::ClientError;

pub(super) const UNWRAP: &str = "\
Opens a wrapped answer and shows it. That can be done once: whoever gets a token that does not open knows that
somebody else was first, and that what it held must be replaced.

The wrapping token is typed at a prompt that does not show it, piped in, or read from a file. It needs no other token.

    $ daypass write --wrap-ttl 5m --field token -f auth/ci/role/build/secret-id > wrapped
    $ daypass unwrap --field secret_id @wrapped | daypass login --method approle --path ci role_id=…
    $ daypass unwrap < wrapped";

/// `daypass unwrap`.
#[derive(Args)]
pub(super) struct Unwrap {
    #[command(flatten)]
    token: WrappingToken,
}

/// `daypass wrap …`
#[derive(Subcommand)]
pub(super) enum Wrap {
    /// Show what a wrapping token is for, without opening it
    #[command(long_about = LOOKUP)]
    Lookup(WrappingToken),
    /// Move a wrapped answer to another token, unopened; the one given opens nothing any more
    #[command(long_about = REWRAP)]
    Rewrap(WrappingToken),
}

const LOOKUP: &str = "\
Shows which path's answer a wrapping token opens, since when, and how long the answer is kept. A token that was made for
another path than the one you expect is not the one you were meant to get.

    $ daypass wrap lookup @wrapped
    $ daypass wrap lookup < wrapped";

const REWRAP: &str = "\
Moves a wrapped answer to another token, for as long again as the first was good for. The one given opens nothing
any more, and nobody has seen what it held.

    $ daypass wrap rewrap --field token @wrapped > rewrapped";

/// Which wrapped answer.
#[derive(Args)]
pub(super) struct WrappingToken {
    /// The wrapping token: @FILE, or - for standard input, as when it is left out
    #[arg(value_name = "TOKEN")]
    token: Option<String>,
}

impl WrappingToken {
    fn read(self, context: &mut Context<'_, '_>) -> Result<Secret, Failure> {
        let Some(given) = self.token.filter(|given| given != "-") else {
            return context.read_secret("Wrapping token");
        };
        if let Some(file) = given.strip_prefix('@') {
            return Ok(Secret::new(context.read_text(file)?.trim()));
        }
        context.note(
            "warning: every process of the machine can read arguments; pipe the wrapping token in, or write @FILE",
        );
        Ok(Secret::new(given.trim()))
    }
}

impl Unwrap {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let token = self.token.read(context)?;
        // As the token in use it needs no policy of another.
        let mut client = context.client_without_token()?;
        client
            .set_token(&token)
            .map_err(|error| Failure::request("use this wrapping token", error))?;
        let answer = client
            .write("sys/wrapping/unwrap", &Map::new())
            .await
            .map_err(|error| spent("unwrap", error))?;
        context.answer(&answer, "Nothing was wrapped.")
    }
}

impl Wrap {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        let (token, what, path) = match self {
            Self::Lookup(token) => (token, "look up the wrapping token", "sys/wrapping/lookup"),
            Self::Rewrap(token) => (token, "rewrap", "sys/wrapping/rewrap"),
        };
        let token = token.read(context)?;
        let text = token
            .expose_str()
            .ok_or_else(|| Failure::usage(what, "the wrapping token is not text"))?;
        let fields = Map::from_iter([("token".to_owned(), text.into())]);
        let answer = context
            .client()?
            .write(path, &fields)
            .await
            .map_err(|error| spent(what, error))?;
        context.answer(&answer, "")
    }
}

/// A token that opens nothing may have been opened by somebody else.
fn spent(what: &str, error: ClientError) -> Failure {
    let refused = matches!(
        error,
        ClientError::Invalid { .. } | ClientError::Denied { .. } | ClientError::NotFound { .. }
    );
    let failure = Failure::request(what, error);
    if refused {
        failure.hint(
            "it opens once, and ends with its time. If you did not open it, somebody else may have: replace what \
             it held",
        )
    } else {
        failure
    }
}
