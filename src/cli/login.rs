//! `daypass login`: checks a token and keeps it for later commands.

use clap::Args;

use super::Failure;
use super::context::Context;

pub(super) const ABOUT: &str = "\
Checks a token and keeps it in ~/.daypass/token (mode 0600) for later commands. The token is typed at a prompt
that does not show it, or piped in; as an argument it would be readable by every process of the machine.

    $ daypass login
    $ daypass write --field client_token auth/approle/login @login.json | daypass login";

/// `daypass login`.
#[derive(Args)]
pub(super) struct Login {
    #[arg(hide = true)]
    token: Option<String>,
}

impl Login {
    pub(super) async fn run(self, context: &mut Context<'_, '_>) -> Result<(), Failure> {
        if self.token.is_some() {
            return Err(Failure::usage(
                "take a token as an argument",
                "every process of the machine could read it, and the shell's history keeps it",
            )
            .hint("run `daypass login` and type it, or pipe it in: `daypass login < FILE`"));
        }
        let file = context.token_file()?;
        // A token file that cannot be used is what a login is about to replace.
        context.overrides.token_file = None;
        let environment = context.environment;
        let without_token = |name: &str| match name {
            "DAYPASS_TOKEN" | "VAULT_TOKEN" | "DAYPASS_TOKEN_FILE" | "HOME" => None,
            name => environment(name),
        };
        let mut client = crate::client::Client::from_env(&context.overrides, &without_token)
            .map_err(|error| Failure::request("use these settings", error))?;
        let token = context.read_secret("Token")?;
        client
            .set_token(&token)
            .map_err(|error| Failure::request("use this token", error))?;
        let answer = client
            .read("auth/token/lookup-self", &[])
            .await
            .map_err(|error| Failure::request("check the token", error))?;
        file.write(&token)
            .map_err(|error| Failure::usage("keep the token", error.to_string()))?;
        for name in ["DAYPASS_TOKEN", "VAULT_TOKEN"] {
            if environment(name).is_some_and(|value| !value.is_empty()) {
                context.note(&format!(
                    "warning: {name} is set and comes before the token file"
                ));
            }
        }
        context.note(&format!("The token is kept in {}.", file.path().display()));
        super::token::show(context, &answer)
    }
}
